"""API keys in the catalog table.

pk       sk    what
KEY      id    a key, with the hashes of its secrets
KEY#id   RATE  how many requests it made in the present window, if it has a rate limit; made and deleted with the key
"""

from datetime import UTC, datetime
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError
from pynamodb.attributes import ListAttribute, NumberAttribute, UnicodeAttribute, UTCDateTimeAttribute
from pynamodb.exceptions import DeleteError, UpdateError
from pynamodb.expressions.update import Action

from tollgate.catalog.keyring import Held
from tollgate.catalog.keys import ApiKey, KeyLimit
from tollgate.kernel.dynamodb import CatalogTable, connect, is_lost_race, list_items, write_all
from tollgate.kernel.errors import Unavailable

__all__ = ["DynamoKeys"]

_REFUSED: Final = "ConditionalCheckFailedException"
_TIME: Final = "%Y-%m-%dT%H:%M:%S.%f+0000"
"""As PynamoDB writes them; such times are in order as strings."""


class KeyItem(CatalogTable, discriminator="key"):
    """An API key; the secret itself is nowhere."""

    name = UnicodeAttribute()
    scopes: ListAttribute[str] = ListAttribute()
    secret_hash = UnicodeAttribute()
    created_at = UTCDateTimeAttribute()
    expires_at = UTCDateTimeAttribute(null=True)
    rate_limit = NumberAttribute(null=True)
    rate_seconds = NumberAttribute(null=True)
    last_used_at = UTCDateTimeAttribute(null=True)
    previous_hash = UnicodeAttribute(null=True)
    previous_until = UTCDateTimeAttribute(null=True)
    rotations: ListAttribute[str] = ListAttribute(null=True)


class RateItem(CatalogTable, discriminator="key_rate"):
    """The present window of a key's rate limit, and the requests in it."""

    rate_window = NumberAttribute()
    rate_used = NumberAttribute()


class DynamoKeys:
    """The `KeyStore`, `KeyReader` and `KeyWindows` of the deployment."""

    def key(self, key_id: str) -> ApiKey | None:
        """The key, if there is one.

        Raises:
            Unavailable: the database cannot be read now.
        """
        held = self.held(key_id)
        return held.key() if held else None

    def held(self, key_id: str) -> Held | None:
        """What there is for an id, if there is anything.

        Raises:
            Unavailable: the database cannot be read now.
        """
        try:
            answer = _client().get_item(
                TableName=CatalogTable.Meta.table_name,
                Key={"pk": {"S": "KEY"}, "sk": {"S": key_id}},
                ConsistentRead=True,
            )
        except (BotoCoreError, ClientError) as error:
            raise Unavailable("The database cannot be read now; send the request again.") from error
        item = answer.get("Item")
        if item is None:
            return None
        previous = item["previous_hash"]["S"] if "previous_hash" in item else None
        return Held(item["secret_hash"]["S"], previous, lambda: _key(KeyItem.from_raw_data(item)))

    def add_key(self, key: ApiKey) -> bool:
        """Write a new key, if its id is free; with the count of its requests, if it has a limit."""
        item = KeyItem(
            "KEY",
            key.id,
            name=key.name,
            scopes=list(key.scopes),
            secret_hash=key.secret_hash,
            created_at=key.created_at,
            expires_at=key.expires_at,
            rate_limit=key.rate_limit.limit if key.rate_limit else None,
            rate_seconds=key.rate_limit.window_seconds if key.rate_limit else None,
        )
        rate = [(RateItem(f"KEY#{key.id}", "RATE", rate_window=-1, rate_used=0), None)] if key.rate_limit else []
        return write_all([(item, KeyItem.pk.does_not_exist()), *rate])

    def rotate_key(self, before: ApiKey, after: ApiKey) -> bool:
        """Write the secrets and rotations of a key, if its secret is still the one before."""
        connect(CatalogTable)
        actions: list[Action] = [KeyItem.secret_hash.set(after.secret_hash)]
        actions += [KeyItem.rotations.set(list(after.rotations))] if after.rotations else []
        if after.previous_hash and after.previous_until:
            actions += [
                KeyItem.previous_hash.set(after.previous_hash),
                KeyItem.previous_until.set(after.previous_until),
            ]
        else:
            actions += [KeyItem.previous_hash.remove(), KeyItem.previous_until.remove()]
        try:
            KeyItem("KEY", after.id).update(actions, condition=KeyItem.secret_hash == before.secret_hash)
        except UpdateError as error:
            if is_lost_race(error):
                return False
            raise
        return True

    def delete_key(self, key_id: str) -> bool:
        """Delete a key and the count of its requests; False when there is none.

        The count goes first: should the rest fail the key is refused, and can be deleted again.
        """
        connect(CatalogTable)
        try:
            RateItem(f"KEY#{key_id}", "RATE").delete()
            KeyItem("KEY", key_id).delete(condition=KeyItem.pk.exists())
        except DeleteError as error:
            if is_lost_race(error):
                return False
            raise
        return True

    def list_keys(self, after: str | None, limit: int) -> tuple[list[ApiKey], str | None]:
        """Keys by id, and the last id when there are more."""
        items, last = list_items(KeyItem, "KEY", after, limit)
        return [_key(item) for item in items], last

    def mark_used(self, key_id: str, *, at: datetime, unless_after: datetime) -> None:
        """Write when a key was used, unless it says so of an instant after `unless_after`, or is gone.

        Raises:
            Unavailable: it cannot be written now.
        """
        _update(
            {"pk": {"S": "KEY"}, "sk": {"S": key_id}},
            "SET last_used_at = :at",
            "attribute_exists(pk) AND (attribute_not_exists(last_used_at) OR last_used_at <= :since)",
            {":at": {"S": at.strftime(_TIME)}, ":since": {"S": unless_after.strftime(_TIME)}},
        )

    def open_window(self, key_id: str, window: int) -> bool:
        """Begin a key's window with one request counted; False where it has begun, or a later one has.

        Raises:
            Unavailable: it cannot be written now.
        """
        return _update(
            {"pk": {"S": f"KEY#{key_id}"}, "sk": {"S": "RATE"}},
            "SET rate_window = :window, rate_used = :one",
            "rate_window < :window",
            {":window": {"N": str(window)}, ":one": {"N": "1"}},
        )

    def count_in_window(self, key_id: str, window: int, limit: int) -> bool:
        """Count a request in a key's window, or in a later one that has begun; False where it is full.

        Raises:
            Unavailable: it cannot be written now.
        """
        return _update(
            {"pk": {"S": f"KEY#{key_id}"}, "sk": {"S": "RATE"}},
            "SET rate_used = rate_used + :one",
            "rate_window >= :window AND rate_used < :limit",
            {":window": {"N": str(window)}, ":limit": {"N": str(limit)}, ":one": {"N": "1"}},
        )


def _client() -> Any:
    return connect(CatalogTable).client


def _update(key: dict[str, Any], change: str, condition: str, values: dict[str, Any]) -> bool:
    """One conditional update, which gives nothing back: the authorizer may read no more than keys."""
    try:
        _client().update_item(
            TableName=CatalogTable.Meta.table_name,
            Key=key,
            UpdateExpression=change,
            ConditionExpression=condition,
            ExpressionAttributeValues=values,
        )
    except ClientError as error:
        if error.response["Error"]["Code"] == _REFUSED:
            return False
        raise Unavailable("The database cannot be written now; send the request again.") from error
    except BotoCoreError as error:
        raise Unavailable("The database cannot be written now; send the request again.") from error
    return True


def _key(item: KeyItem) -> ApiKey:
    limit = KeyLimit(int(item.rate_limit), int(item.rate_seconds)) if item.rate_limit and item.rate_seconds else None
    return ApiKey(
        item.sk,
        item.name,
        tuple(item.scopes),
        item.secret_hash,
        item.created_at.astimezone(UTC),
        _utc(item.expires_at),
        limit,
        _utc(item.last_used_at),
        item.previous_hash,
        _utc(item.previous_until),
        tuple(item.rotations or ()),
    )


def _utc(at: datetime | None) -> datetime | None:
    return at.astimezone(UTC) if at else None

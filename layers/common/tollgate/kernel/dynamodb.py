"""The four tables as PynamoDB base models, and what their items share.

A context's store.py derives one model per kind of item from the base of its table. PynamoDB makes a
botocore client (some 100 ms) per model class that has no connection to inherit, so `connect` makes the
base's first. The private parts of PynamoDB that we lean on are named in this file only, those of botocore in calls.py.
"""

import os
import random
import time
from collections.abc import Sequence
from decimal import Decimal
from enum import Enum, auto
from typing import Final, TypeVar, cast

from botocore.config import Config
from botocore.credentials import CredentialResolver, EnvProvider
from botocore.exceptions import BotoCoreError, ClientError
from pynamodb.attributes import Attribute, DiscriminatorAttribute, UnicodeAttribute
from pynamodb.connection import Connection
from pynamodb.constants import NUMBER
from pynamodb.exceptions import GetError, PynamoDBException, TransactWriteError
from pynamodb.expressions.condition import Condition
from pynamodb.models import Model
from pynamodb.transactions import TransactWrite

from tollgate.kernel.calls import make_lean
from tollgate.kernel.errors import Unavailable
from tollgate.kernel.money import format_decimal
from tollgate.kernel.settings import table_name

__all__ = [
    "LONGEST_CALL_SECONDS",
    "BillingTable",
    "CatalogTable",
    "DecimalAttribute",
    "Failure",
    "RecoveryTable",
    "UsageTable",
    "Write",
    "connect",
    "failure_of",
    "is_lost_race",
    "list_items",
    "read_item",
    "write_all",
]

Write = tuple[Model, Condition | None]
"""An item to put, and the condition on which."""

_Item = TypeVar("_Item", bound=Model)

_WRITE_TRIES: Final = 5
_PAUSE_SECONDS: Final = 0.05

_LOST: Final = frozenset(
    {
        "ConditionalCheckFailed",
        "ConditionalCheckFailedException",
        "TransactionConflict",
        "TransactionConflictException",
        "TransactionInProgressException",
    }
)
_THROTTLED: Final = frozenset(
    {
        "ProvisionedThroughputExceeded",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ThrottlingError",
        "ThrottlingException",
    }
)


_BROKEN: Final = frozenset({"InternalServerError", "InternalFailure", "ServiceUnavailable"})
LONGEST_CALL_SECONDS: Final = 9
"""Two attempts of at most 4 seconds, and the pause between them."""


_LEAN: Final = Config(
    user_agent="tollgate",
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
    account_id_endpoint_mode="disabled",
)
"""Without what botocore does anew for each call: a third of its CPU. DynamoDB's own checksum is still compared."""


class _Meta:
    """Time-outs and retries, in place of botocore's 60 seconds: a call ends after `LONGEST_CALL_SECONDS`."""

    connect_timeout_seconds: Final = 1
    read_timeout_seconds: Final = 3
    max_retry_attempts: Final = 1
    max_pool_connections: Final = 64


class CatalogTable(Model):
    """Features, plans, customers, API keys: `pk` is the kind, `sk` the code or id."""

    class Meta(_Meta):
        """Named by the deployment."""

        table_name = table_name("catalog")

    pk = UnicodeAttribute(hash_key=True)
    sk = UnicodeAttribute(range_key=True)
    kind = DiscriminatorAttribute()


class UsageTable(Model):
    """Subscription snapshots, counters, dedupe pages and markers."""

    class Meta(_Meta):
        """Named by the deployment."""

        table_name = table_name("usage")

    pk = UnicodeAttribute(hash_key=True)
    sk = UnicodeAttribute(range_key=True)
    kind = DiscriminatorAttribute()


class BillingTable(Model):
    """Wallets and their ledgers, invoices, payments, refunds: nothing in it ever expires."""

    class Meta(_Meta):
        """Named by the deployment."""

        table_name = table_name("billing")

    pk = UnicodeAttribute(hash_key=True)
    sk = UnicodeAttribute(range_key=True)
    kind = DiscriminatorAttribute()


class RecoveryTable(Model):
    """Error records, their tries and their history."""

    class Meta(_Meta):
        """Named by the deployment."""

        table_name = table_name("recovery")

    pk = UnicodeAttribute(hash_key=True)
    sk = UnicodeAttribute(range_key=True)
    kind = DiscriminatorAttribute()


class DecimalAttribute(Attribute[Decimal]):
    """An exact number; PynamoDB's own NumberAttribute makes floats of fractions."""

    attr_type = NUMBER

    def serialize(self, value: Decimal) -> str:
        """Write all digits, with no exponent; and no zeros at the end, which DynamoDB drops."""
        return format_decimal(value)

    def deserialize(self, value: str) -> Decimal:
        """Read all digits."""
        return Decimal(value)


def connect(table: type[Model]) -> Connection:
    """The connection that a table's models share, whichever is named: each client takes 50 ms or more and 10 MB."""
    base: type[Model] = next(each for each in table.__mro__ if Model in each.__bases__)
    connection = base._get_connection().connection  # noqa: SLF001  there is no public way to it
    if connection._client is None:  # noqa: SLF001
        connection.session.set_default_client_config(_LEAN)
        if "AWS_ACCESS_KEY_ID" in os.environ:
            # As on Lambda. They come first anyway, but all other providers would be made beside them.
            connection.session.register_component("credential_provider", CredentialResolver([EnvProvider()]))
        make_lean(connection.client)
    return connection


class Failure(Enum):
    """What a failed call means for whoever made it."""

    REFUSED = auto()  # nothing was changed: others were first, or it was too much at once
    UNKNOWN = auto()  # it may have been done
    FINAL = auto()  # it will never succeed


def failure_of(error: Exception) -> Failure:
    """What a failed read or write means; an error that is none of the database's is raised again."""
    cause = error.cause if isinstance(error, PynamoDBException) else error
    if isinstance(cause, ClientError):
        codes = _codes(error)
        if codes and codes <= _LOST | _THROTTLED:
            return Failure.REFUSED
        return Failure.UNKNOWN if codes & _BROKEN else Failure.FINAL
    if isinstance(cause, BotoCoreError):  # time-outs, broken connections
        return Failure.UNKNOWN
    if isinstance(error, PynamoDBException):
        return Failure.FINAL
    raise error


def is_lost_race(error: PynamoDBException) -> bool:
    """Whether a failed write lost against another writer: a false condition, or a conflict.

    Of a transaction, all of its items that failed must have failed so.
    """
    codes = _codes(error)
    return bool(codes) and codes <= _LOST


def _codes(error: Exception) -> set[str]:
    reasons = {reason.code for reason in getattr(error, "cancellation_reasons", ()) if reason}
    # Not PynamoDB's error.cause_response_code, which fails where there was no response, as after a time-out.
    cause = error.cause if isinstance(error, PynamoDBException) else error
    response = getattr(cause, "response", None) or {}
    reasons |= {reason["Code"] for reason in response.get("CancellationReasons", ())} - {"None"}
    return reasons or ({response["Error"]["Code"]} if "Error" in response else set())


def read_item(model: type[_Item], pk: str, sk: str) -> _Item | None:
    """An item as the last write left it.

    Raises:
        Unavailable: the database cannot be read now.
    """
    connect(model)
    try:
        return model.get(pk, sk, consistent_read=True)
    except model.DoesNotExist:
        return None
    except GetError as error:
        raise Unavailable("The database cannot be read now; send the request again.") from error


def list_items(model: type[_Item], pk: str, after: str | None, limit: int) -> tuple[list[_Item], str | None]:
    """A page of a partition of the catalog table in the order of `sk`, and the last `sk` when there are more."""
    connect(CatalogTable)
    start = {"pk": {"S": pk}, "sk": {"S": after}} if after else None
    items = list(model.query(pk, consistent_read=True, limit=limit + 1, last_evaluated_key=start))
    last = cast(CatalogTable, items[limit - 1]).sk if len(items) > limit else None
    return items[:limit], last


def write_all(writes: Sequence[Write]) -> bool:
    """Put items of one table or several, all or none; False where a condition is false.

    A conflict with another transaction says nothing about the conditions, so it is tried again.

    Raises:
        Unavailable: it may or may not have been written; whoever reads again finds out which.
    """
    connection = [connect(type(item)) for item, _ in writes][-1]  # each has one by then, and any will do
    for attempt in range(_WRITE_TRIES):
        try:
            with TransactWrite(connection=connection) as transaction:
                for item, condition in writes:
                    transaction.save(item, condition=condition)
        except TransactWriteError as error:
            if any(reason and reason.code == "ConditionalCheckFailed" for reason in error.cancellation_reasons):
                return False
            failure = failure_of(error)
            if failure is Failure.FINAL:
                raise
            if failure is Failure.UNKNOWN or attempt == _WRITE_TRIES - 1:
                raise Unavailable("The database cannot be written now; send the request again.") from error
            time.sleep(random.uniform(0, _PAUSE_SECONDS))  # noqa: S311  spreads writers, guards nothing
        else:
            return True
    raise AssertionError("the last try returns or raises")

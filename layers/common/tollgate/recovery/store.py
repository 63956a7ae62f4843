"""The error ledger in DynamoDB: the recovery table.

    pk         sk                                what
    record id  R                                 the record as it stands
    record id  H#2026-01-31T09:30:00.000000Z#n   a history entry; n is the record's revision
    record id  T#n                               a try

Only a record in pending or retrying has `due_shard` and `due_at`, and only an unresolved one has
`unresolved_type`: the indexes `due` and `unresolved` hold what is to be done and nothing else. Four shards
carry some 4,000 changes a second. Index reads lag; `change` is what decides.
"""

import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from heapq import merge
from typing import Any, Final

from pynamodb.attributes import Attribute, JSONAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.constants import STRING
from pynamodb.exceptions import TransactWriteError
from pynamodb.expressions.update import Action
from pynamodb.transactions import TransactWrite

from tollgate.kernel.dynamodb import RecoveryTable, connect, is_lost_race
from tollgate.kernel.errors import Conflict, Unavailable
from tollgate.recovery.model import (
    UNRESOLVED,
    ErrorRecord,
    ErrorType,
    HistoryEntry,
    Lease,
    Outcome,
    Policy,
    Status,
    Strategy,
    Try,
)
from tollgate.recovery.service import Unresolved

__all__ = ["DynamoRecovery"]

SHARDS: Final = 4


def _sortable(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class TimeAttribute(Attribute[datetime]):
    """An instant in a fixed width, so that texts sort as times do."""

    attr_type = STRING

    def serialize(self, value: datetime) -> str:
        """UTC, microseconds, Z."""
        return _sortable(value)

    def deserialize(self, value: str) -> datetime:
        """An aware instant in UTC."""
        return datetime.fromisoformat(value)


class RecordItem(RecoveryTable, discriminator="record"):
    """A record; `revision` changes with every write and is what each write is conditioned on."""

    type = UnicodeAttribute()
    operation = UnicodeAttribute()
    arguments = JSONAttribute()
    customer = UnicodeAttribute(null=True)
    subscription = UnicodeAttribute(null=True)
    context = JSONAttribute()
    strategy = UnicodeAttribute()
    max_attempts = NumberAttribute()
    base_seconds = NumberAttribute()
    cap_seconds = NumberAttribute()
    created_at = TimeAttribute()
    status = UnicodeAttribute()
    outcome = UnicodeAttribute()
    error = UnicodeAttribute()
    attempts = NumberAttribute()
    next_retry_at = TimeAttribute(null=True)
    lease_owner = UnicodeAttribute(null=True)
    lease_since = TimeAttribute(null=True)
    lease_until = TimeAttribute(null=True)
    revision = NumberAttribute()
    due_shard = UnicodeAttribute(null=True)
    due_at = TimeAttribute(null=True)
    unresolved_type = UnicodeAttribute(null=True)


class HistoryItem(RecoveryTable, discriminator="history"):
    """A change of status."""

    at = TimeAttribute()
    from_status = UnicodeAttribute(null=True)
    to_status = UnicodeAttribute()
    actor = UnicodeAttribute()
    note = UnicodeAttribute()


class TryItem(RecoveryTable, discriminator="try"):
    """One try."""

    number = NumberAttribute()
    at = TimeAttribute()
    outcome = UnicodeAttribute()
    error = UnicodeAttribute(null=True)
    duration_ms = NumberAttribute()


class DynamoRecovery:
    """The `Recovery` store of the deployment."""

    def put(self, record: ErrorRecord) -> bool:
        """Write a new record with its first history entry; False, and no change, when the id is taken."""
        item = RecordItem(
            record.id,
            "R",
            type=record.type.value,
            operation=record.operation,
            arguments=record.arguments,
            customer=record.customer,
            subscription=record.subscription,
            context=record.context,
            strategy=record.policy.strategy.value,
            base_seconds=record.policy.base,
            cap_seconds=record.policy.cap,
            created_at=record.created_at,
            **_state(record),
        )
        history = _history_item(record)

        def fill(transaction: TransactWrite) -> None:
            transaction.save(item, RecordItem.pk.does_not_exist())
            transaction.save(history)

        return _commit(fill)

    def get(self, record_id: str) -> ErrorRecord | None:
        """The record with its history and its tries, read consistently."""
        connect(RecoveryTable)
        items = list(RecoveryTable.query(record_id, consistent_read=True))
        head = next((item for item in items if isinstance(item, RecordItem)), None)
        if head is None:
            return None
        history = tuple(_history_entry(item) for item in items if isinstance(item, HistoryItem))
        tries = tuple(_try(item) for item in items if isinstance(item, TryItem))
        return _record(head, history, tries)

    def change(self, before: ErrorRecord, after: ErrorRecord) -> None:
        """Write one change: the new state, its history entry and its try if it has one, all or nothing.

        Raises:
            Conflict: the record is no longer as it was `before`: in its status, its lease or its revision.
        """
        item = RecordItem(before.id, "R")
        owner = before.lease.owner if before.lease else None
        unchanged = (RecordItem.status == before.status.value) & (RecordItem.revision == before.revision)
        unchanged &= RecordItem.lease_owner == owner if owner else RecordItem.lease_owner.does_not_exist()

        def fill(transaction: TransactWrite) -> None:
            transaction.update(item, _actions(after), unchanged)
            transaction.save(_history_item(after))
            if len(after.tries) > len(before.tries):
                transaction.save(_try_item(after), TryItem.pk.does_not_exist())

        if not _commit(fill):
            raise Conflict(f"another writer changed record {before.id} first")

    def due(self, now: datetime) -> Iterator[str]:
        """Ids of the records that are due by `now` (inclusive), the longest due first, page by page."""
        shards = (_query_index("due", "due_shard", str(n), "due_at", _sortable(now)) for n in range(SHARDS))
        for item in merge(*shards, key=lambda item: item["due_at"]["S"]):
            yield item["pk"]["S"]

    def unresolved(self, error_type: ErrorType) -> Iterator[Unresolved]:
        """The unresolved records of a type, the oldest first, page by page."""
        for item in _query_index("unresolved", "unresolved_type", error_type.value):
            yield Unresolved(
                type=error_type,
                status=Status(item["status"]["S"]),
                attempts=int(item["attempts"]["N"]),
                created_at=datetime.fromisoformat(item["created_at"]["S"]),
            )


def _commit(fill: Callable[[TransactWrite], None]) -> bool:
    """Write a transaction; False when one of its conditions is false.

    A conflict with a transaction under way says nothing about the conditions, so it is tried again: a run
    that holds the lease must not lose the outcome of its try to one that only knocked.
    """
    for _ in range(4):
        try:
            with TransactWrite(connection=connect(RecoveryTable)) as transaction:
                fill(transaction)
        except TransactWriteError as error:
            if any(reason and reason.code == "ConditionalCheckFailed" for reason in error.cancellation_reasons):
                return False
            if not is_lost_race(error):
                raise
        else:
            return True
    raise Unavailable("other writers are at the same record")


def _query_index(
    index: str, partition: str, value: str, sort: str | None = None, until: str | None = None
) -> Iterator[dict[str, Any]]:
    """The items of an index, through the table's one client.

    PynamoDB's own index query filters by the discriminator, which the indexes do not hold, and wants a
    client of its own for a model without one.
    """
    connection = connect(RecoveryTable)
    request: dict[str, Any] = {
        "TableName": RecoveryTable.Meta.table_name,
        "IndexName": index,
        "KeyConditionExpression": "#partition = :value",
        "ExpressionAttributeNames": {"#partition": partition},
        "ExpressionAttributeValues": {":value": {"S": value}},
    }
    if sort:
        request["KeyConditionExpression"] += " AND #sort <= :until"
        request["ExpressionAttributeNames"]["#sort"] = sort
        request["ExpressionAttributeValues"][":until"] = {"S": until}
    for page in connection.client.get_paginator("query").paginate(**request):
        yield from page["Items"]


def _state(record: ErrorRecord) -> dict[str, Any]:
    """The attributes that a change may change; None for those that do not apply, which are then absent."""
    lease, due_at = record.lease, record.due_at
    return {
        "status": record.status.value,
        "outcome": record.outcome.value,
        "error": record.error,
        "attempts": record.attempts,
        "max_attempts": record.policy.max_attempts,
        "next_retry_at": record.next_retry_at,
        "lease_owner": lease.owner if lease else None,
        "lease_since": lease.since if lease else None,
        "lease_until": lease.until if lease else None,
        "revision": record.revision,
        "due_shard": str(zlib.crc32(record.id.encode()) % SHARDS) if due_at else None,
        "due_at": due_at,
        "unresolved_type": record.type.value if record.status in UNRESOLVED else None,
    }


def _actions(record: ErrorRecord) -> list[Action]:
    attributes = RecordItem.get_attributes()
    return [
        attributes[name].remove() if value is None else attributes[name].set(value)
        for name, value in _state(record).items()
    ]


def _history_item(record: ErrorRecord) -> HistoryItem:
    entry = record.history[-1]
    return HistoryItem(
        record.id,
        f"H#{_sortable(entry.at)}#{record.revision:06}",
        at=entry.at,
        from_status=entry.from_status.value if entry.from_status else None,
        to_status=entry.to_status.value,
        actor=entry.actor,
        note=entry.note,
    )


def _try_item(record: ErrorRecord) -> TryItem:
    attempt = record.tries[-1]
    return TryItem(
        record.id,
        f"T#{attempt.number:06}",
        number=attempt.number,
        at=attempt.at,
        outcome=attempt.outcome.value,
        error=attempt.error,
        duration_ms=attempt.duration_ms,
    )


def _record(item: RecordItem, history: tuple[HistoryEntry, ...], tries: tuple[Try, ...]) -> ErrorRecord:
    lease = None
    if item.lease_owner and item.lease_since and item.lease_until:
        lease = Lease(item.lease_owner, item.lease_since, item.lease_until)
    return ErrorRecord(
        id=item.pk,
        type=ErrorType(item.type),
        operation=item.operation,
        arguments=item.arguments,
        customer=item.customer,
        subscription=item.subscription,
        context=item.context,
        policy=Policy(Strategy(item.strategy), int(item.max_attempts), int(item.base_seconds), int(item.cap_seconds)),
        status=Status(item.status),
        outcome=Outcome(item.outcome),
        error=item.error,
        created_at=item.created_at,
        attempts=int(item.attempts),
        next_retry_at=item.next_retry_at,
        lease=lease,
        revision=int(item.revision),
        history=history,
        tries=tries,
    )


def _history_entry(item: HistoryItem) -> HistoryEntry:
    before = Status(item.from_status) if item.from_status else None
    return HistoryEntry(item.at, before, Status(item.to_status), item.actor, item.note)


def _try(item: TryItem) -> Try:
    return Try(int(item.number), item.at, Outcome(item.outcome), item.error, int(item.duration_ms))

"""The error ledger in DynamoDB: the recovery table.

    pk         sk                                what
    record id  R                                 the record as it stands
    record id  H#2026-01-31T09:30:00.000000Z#n   a history entry; n is the record's revision
    record id  T#n                               a try
    CIRCUIT    provider                          the circuit of a provider that did not answer

The index `due` holds the records in pending or retrying and nothing else, so a sweep costs what is due. The others list
errors, newest first: `status` and `type` in four shards each, since a bad hour may bring thousands of one kind, and
`customer` and `subscription`. What is being tried for the first time is in none of them. Index reads lag: a list reads
each record itself, and `change` is what decides.
"""

import uuid
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from heapq import merge
from itertools import islice
from typing import Any, Final

from pynamodb.attributes import Attribute, JSONAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.constants import STRING
from pynamodb.exceptions import DoesNotExist, PutError, TransactWriteError
from pynamodb.expressions.update import Action
from pynamodb.transactions import TransactWrite

from tollgate.kernel.dynamodb import RecoveryTable, connect, is_lost_race
from tollgate.kernel.errors import Conflict, Unavailable
from tollgate.recovery.circuits import Circuit
from tollgate.recovery.ledger import Filter, Unresolved
from tollgate.recovery.model import (
    UNRESOLVED,
    ErrorRecord,
    ErrorType,
    HistoryEntry,
    Lease,
    Outcome,
    Status,
    Try,
)
from tollgate.recovery.strategies import Policy, Strategy

__all__ = ["DynamoRecovery"]

SHARDS: Final = 4

_CIRCUITS: Final = "CIRCUIT"
_SCANNED: Final = 1_000
"""Index entries that one page of a list looks at, at most."""
_COUNTED: Final = (Status.PENDING, Status.RETRYING, Status.MANUAL, Status.PENDING)
"""In this order a record that changes its status meanwhile is met before or after."""
_AHEAD: Final = 50
_READERS: Final = 8


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
    outcome = UnicodeAttribute(null=True)
    error = UnicodeAttribute()
    attempts = NumberAttribute()
    next_retry_at = TimeAttribute(null=True)
    lease_owner = UnicodeAttribute(null=True)
    lease_since = TimeAttribute(null=True)
    lease_until = TimeAttribute(null=True)
    revision = NumberAttribute()
    due_shard = UnicodeAttribute(null=True)
    due_at = TimeAttribute(null=True)
    listed_at = UnicodeAttribute()
    listed_status = UnicodeAttribute(null=True)
    listed_type = UnicodeAttribute(null=True)
    listed_customer = UnicodeAttribute(null=True)
    listed_subscription = UnicodeAttribute(null=True)


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


class CircuitItem(RecoveryTable, discriminator="circuit"):
    """The circuit of a provider."""

    failures = NumberAttribute()
    open_until = TimeAttribute(null=True)
    revision = NumberAttribute()


class DynamoRecovery:
    """The `Recovery` store of the deployment."""

    def put(self, record: ErrorRecord) -> bool:
        """Write a new record with its first history entry; False, and no change, when the id is taken."""
        item = RecordItem(
            record.id,
            "R",
            operation=record.operation,
            customer=record.customer,
            subscription=record.subscription,
            created_at=record.created_at,
            listed_at=f"{_sortable(record.created_at)}#{record.id}",
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
        entries = (item for item in items if isinstance(item, HistoryItem))
        history = tuple(_history_entry(item) for item in sorted(entries, key=_revision))
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

    def forget(self, record: ErrorRecord) -> None:
        """Remove an operation that succeeded at its first try; an error is never removed.

        Raises:
            Conflict: it is no longer as it was before its first try.
        """
        item = RecordItem(record.id, "R")
        unchanged = (RecordItem.revision == record.revision) & RecordItem.outcome.does_not_exist()

        def fill(transaction: TransactWrite) -> None:
            transaction.delete(item, unchanged)
            transaction.delete(_history_item(record))

        if not _commit(fill):
            raise Conflict(f"another run has taken over {record.id}")

    def due(self, now: datetime) -> Iterator[str]:
        """Ids of the records that are due by `now` (inclusive), the longest due first, page by page."""
        shards = (_query("due", "due_shard", str(n), ("due_at", "<=", _sortable(now))) for n in range(SHARDS))
        for item in merge(*shards, key=lambda item: item["due_at"]["S"]):
            yield item["pk"]["S"]

    def unresolved(self) -> Iterator[Unresolved]:
        """The unresolved records, each once, page by page."""
        seen = set[str]()
        for status in _COUNTED:
            for shard in range(SHARDS):
                for item in _query("status", "listed_status", f"{status}#{shard}"):
                    if item["pk"]["S"] in seen:
                        continue
                    seen.add(item["pk"]["S"])
                    yield Unresolved(
                        type=ErrorType(item["type"]["S"]),
                        status=status,
                        attempts=int(item["attempts"]["N"]),
                        created_at=datetime.fromisoformat(item["listed_at"]["S"].partition("#")[0]),
                    )

    def find(self, wanted: Filter, *, after: str | None, limit: int) -> tuple[list[ErrorRecord], str | None]:
        """Records as they are now, the newest first; looks at no more than a thousand index entries a page."""
        entries, found, scanned = _entries(wanted, after), list[ErrorRecord](), 0
        with ThreadPoolExecutor(_READERS) as readers:
            while len(found) < limit and scanned < _SCANNED:
                ahead = list(islice(entries, limit - len(found)))
                if not ahead:
                    return found, None
                ids = [item["pk"]["S"] for item in ahead if _may_be(wanted, item)]
                found += [record for record in readers.map(self.get, ids) if record and wanted.takes(record)]
                after, scanned = ahead[-1]["listed_at"]["S"], scanned + len(ahead)
        return found, after if next(entries, None) else None

    def circuit(self, provider: str) -> Circuit:
        """What is known of a provider, read consistently."""
        connect(RecoveryTable)
        try:
            item = CircuitItem.get(_CIRCUITS, provider, consistent_read=True)
        except DoesNotExist:
            return Circuit(provider)
        return Circuit(provider, int(item.failures), item.open_until, int(item.revision))

    def change_circuit(self, before: Circuit, after: Circuit) -> bool:
        """Write a change; False, and no change, when the circuit is no longer as it was before."""
        connect(RecoveryTable)
        item = CircuitItem(
            _CIRCUITS,
            after.provider,
            failures=after.failures,
            open_until=after.open_until,
            revision=after.revision,
        )
        unchanged = CircuitItem.revision == before.revision if before.revision else CircuitItem.pk.does_not_exist()
        try:
            item.save(unchanged)
        except PutError as error:
            if is_lost_race(error):
                return False
            raise
        return True


def _entries(wanted: Filter, after: str | None) -> Iterator[dict[str, Any]]:
    """Index entries of the narrowest index, the newest first."""
    if wanted.subscription:
        partitions = [("subscription", "listed_subscription", wanted.subscription)]
    elif wanted.customer:
        partitions = [("customer", "listed_customer", wanted.customer)]
    elif wanted.status and (wanted.status in UNRESOLVED or not wanted.type):
        partitions = [("status", "listed_status", f"{wanted.status}#{shard}") for shard in range(SHARDS)]
    else:  # not by status, in which a record moves while it is looked for
        types = [wanted.type] if wanted.type else list(ErrorType)
        partitions = [("type", "listed_type", f"{each}#{shard}") for each in types for shard in range(SHARDS)]
    before = ("listed_at", "<", after) if after else None
    parts = (_query(*partition, before, forward=False, page_size=_AHEAD) for partition in partitions)
    return merge(*parts, key=lambda item: str(item["listed_at"]["S"]), reverse=True)


def _may_be(wanted: Filter, item: dict[str, Any]) -> bool:
    """Whether what an index tells of a record leaves it possible that it is meant."""
    return wanted.strategy is None or item["strategy"]["S"] == wanted.strategy


def _commit(fill: Callable[[TransactWrite], None]) -> bool:
    """Write a transaction; False when one of its conditions is false.

    A conflict with a transaction under way says nothing about the conditions, so it is tried again: a run
    that holds the lease must not lose the outcome of its try to one that only knocked. The token is the same each
    time: what was written although its answer was lost is not taken for another's.
    """
    token = uuid.uuid4().hex
    for _ in range(4):
        try:
            with TransactWrite(token, connection=connect(RecoveryTable)) as transaction:
                fill(transaction)
        except TransactWriteError as error:
            if any(reason and reason.code == "ConditionalCheckFailed" for reason in error.cancellation_reasons):
                return False
            if not is_lost_race(error):
                raise
        else:
            return True
    raise Unavailable("other writers are at the same record")


def _query(
    index: str,
    partition: str,
    value: str,
    condition: tuple[str, str, str] | None = None,
    *,
    forward: bool = True,
    page_size: int = 1_000,
) -> Iterator[dict[str, Any]]:
    """The entries of an index in the order of its sort key, through the table's one client.

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
        "ScanIndexForward": forward,
    }
    if condition:
        name, comparison, bound = condition
        request["KeyConditionExpression"] += f" AND #sort {comparison} :bound"
        request["ExpressionAttributeNames"]["#sort"] = name
        request["ExpressionAttributeValues"][":bound"] = {"S": bound}
    for page in connection.client.get_paginator("query").paginate(**request, PaginationConfig={"PageSize": page_size}):
        yield from page["Items"]


def _state(record: ErrorRecord) -> dict[str, Any]:
    """The attributes that a change may change; None for those that do not apply, which are then absent."""
    lease, due_at, shard = record.lease, record.due_at, zlib.crc32(record.id.encode()) % SHARDS
    listed = record.outcome is not None
    return {
        "type": record.type.value,
        "arguments": record.arguments,
        "context": record.context,
        "strategy": record.policy.strategy.value,
        "base_seconds": record.policy.base,
        "cap_seconds": record.policy.cap,
        "status": record.status.value,
        "outcome": record.outcome.value if record.outcome else None,
        "error": record.error,
        "attempts": record.attempts,
        "max_attempts": record.policy.max_attempts,
        "next_retry_at": record.next_retry_at,
        "lease_owner": lease.owner if lease else None,
        "lease_since": lease.since if lease else None,
        "lease_until": lease.until if lease else None,
        "revision": record.revision,
        "due_shard": str(shard) if due_at else None,
        "due_at": due_at,
        "listed_status": f"{record.status}#{shard}" if listed else None,
        "listed_type": f"{record.type}#{shard}" if listed else None,
        "listed_customer": record.customer if listed else None,
        "listed_subscription": record.subscription if listed else None,
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
        outcome=Outcome(item.outcome) if item.outcome else None,
        error=item.error,
        created_at=item.created_at,
        attempts=int(item.attempts),
        next_retry_at=item.next_retry_at,
        lease=lease,
        revision=int(item.revision),
        history=history,
        tries=tries,
    )


def _revision(item: HistoryItem) -> int:
    """The place of a history entry, which the clocks of those who wrote them do not tell."""
    return int(item.sk.rpartition("#")[2])


def _history_entry(item: HistoryItem) -> HistoryEntry:
    before = Status(item.from_status) if item.from_status else None
    return HistoryEntry(item.at, before, Status(item.to_status), item.actor, item.note)


def _try(item: TryItem) -> Try:
    return Try(int(item.number), item.at, Outcome(item.outcome), item.error, int(item.duration_ms))

"""A ledger with thousands of records, written fast."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from tests.faults.office import NOW
from tollgate.kernel.dynamodb import RecoveryTable
from tollgate.recovery.model import ErrorRecord, ErrorType, HistoryEntry, Outcome, Status
from tollgate.recovery.store import SHARDS, DynamoRecovery
from tollgate.recovery.strategies import Policy, Strategy
from tools.engine import Call, Engine

__all__ = ["POLICY", "fill", "record"]

POLICY: Final = Policy(Strategy.FIXED_INTERVAL, 3, base=3600)
_HOUR: Final = timedelta(hours=1)


def record(number: int, status: Status, due_in: timedelta | None) -> ErrorRecord:
    """A failure as it is stored."""
    return ErrorRecord(
        id=f"err_{number:05}",
        type=ErrorType.PAYMENT_FAILED,
        operation="collect",
        arguments={"invoice": f"inv_{number}"},
        customer=f"customer_{number % 20}",
        subscription=None,
        context={},
        policy=POLICY,
        status=status,
        outcome=Outcome.FAILED,
        error="declined",
        created_at=NOW,
        next_retry_at=NOW + due_in if due_in is not None else None,
        history=(HistoryEntry(NOW, None, status, "system", "failed"),),
    )


def fill(database: Engine, stored: int, due: int) -> None:
    """Store so many records, of which so many are due; the others wait, are a person's or are resolved.

    The store writes the due ones, and one of each other kind, which the engine then has copied to the others.
    """
    database.clear()
    store, copies = DynamoRecovery(), dict[Status, list[dict[str, Any]]]()
    for number in range(due):
        store.put(record(number, Status.PENDING, -timedelta(seconds=number)))
    kinds = [(Status.PENDING, _HOUR), (Status.MANUAL, None), (Status.RESOLVED, None)]
    for number in range(due, stored):
        status, due_in = kinds[number % len(kinds)]
        if number < due + len(kinds):
            calls: list[Call] = []
            with database.hooked(before=calls.append):
                store.put(record(number, status, due_in))
            copies[status] = [entry["Put"]["Item"] for entry in calls[0].request["TransactItems"]]
        else:
            for item in copies[status]:
                database.ask("PutItem", {"TableName": RecoveryTable.Meta.table_name, "Item": _named(item, number)})
    database.units.clear()


def _named(item: Mapping[str, Any], number: int) -> dict[str, Any]:
    name, shard = f"err_{number:05}", number % SHARDS
    copied = {**item, "pk": {"S": name}}
    if "listed_at" in item:
        copied["listed_at"] = {"S": f"{item['created_at']['S']}#{name}"}
        for index in ("status", "type"):
            copied[f"listed_{index}"] = {"S": f"{item[index]['S']}#{shard}"}
    if "due_shard" in item:
        copied["due_shard"] = {"S": str(shard)}
    return copied

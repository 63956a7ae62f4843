"""A ledger in memory, held to the same contract as the one in DynamoDB, and a clock one can turn."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from tollgate.kernel.errors import Conflict
from tollgate.recovery.model import UNRESOLVED, ErrorRecord, ErrorType
from tollgate.recovery.service import Unresolved

NOW = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


class Clock:
    """Stands still until it is moved."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        """The present instant."""
        return self.now

    def forward(self, by: timedelta) -> None:
        """Let time pass."""
        self.now += by


class MemoryRecovery:
    """The `Recovery` store as a dictionary."""

    def __init__(self) -> None:
        self.records: dict[str, ErrorRecord] = {}

    def put(self, record: ErrorRecord) -> bool:
        """Write a new record."""
        return self.records.setdefault(record.id, record) is record

    def get(self, record_id: str) -> ErrorRecord | None:
        """The record."""
        return self.records.get(record_id)

    def change(self, before: ErrorRecord, after: ErrorRecord) -> None:
        """Write one change, unless another was first."""
        if self.records.get(before.id) != before:
            raise Conflict(f"another writer changed record {before.id} first")
        self.records[before.id] = after

    def due(self, now: datetime) -> Iterator[str]:
        """Ids of the records that are due."""
        due = [(record.due_at, record.id) for record in self.records.values() if record.due_at]
        yield from (record_id for due_at, record_id in sorted(due) if due_at <= now)

    def unresolved(self, error_type: ErrorType) -> Iterator[Unresolved]:
        """The unresolved records of a type."""
        for record in sorted(self.records.values(), key=lambda record: record.created_at):
            if record.type is error_type and record.status in UNRESOLVED:
                yield Unresolved(record.type, record.status, record.attempts, record.created_at)

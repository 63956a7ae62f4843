"""A ledger in memory, held to the same contract as the one in DynamoDB, a queue, and a clock one can turn."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from tollgate.kernel.errors import Conflict
from tollgate.recovery.circuits import Circuit
from tollgate.recovery.ledger import Filter, Unresolved
from tollgate.recovery.model import UNRESOLVED, ErrorRecord

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
        self.circuits: dict[str, Circuit] = {}

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

    def forget(self, record: ErrorRecord) -> None:
        """Remove what succeeded at once, unless another was first."""
        if self.records.get(record.id) != record or record.outcome is not None:
            raise Conflict(f"another run has taken over {record.id}")
        del self.records[record.id]

    def unresolved(self) -> Iterator[Unresolved]:
        """The unresolved records."""
        for record in list(self.records.values()):
            if record.outcome is not None and record.status in UNRESOLVED:
                yield Unresolved(record.type, record.status, record.attempts, record.created_at)

    def find(self, wanted: Filter, *, after: str | None, limit: int) -> tuple[list[ErrorRecord], str | None]:
        """Records, the newest first."""
        places = {f"{record.created_at.isoformat()}#{record.id}": record for record in self.records.values()}
        left = [place for place in sorted(places, reverse=True) if after is None or place < after]
        meant = [place for place in left if wanted.takes(places[place])]
        page = meant[:limit]
        return [places[place] for place in page], page[-1] if len(meant) > limit else None

    def circuit(self, provider: str) -> Circuit:
        """What is known of a provider."""
        return self.circuits.get(provider, Circuit(provider))

    def change_circuit(self, before: Circuit, after: Circuit) -> bool:
        """Write a change, unless another was first."""
        if self.circuit(before.provider) != before:
            return False
        self.circuits[before.provider] = after
        return True


class Retries:
    """The queue as a list."""

    def __init__(self) -> None:
        self.announced: list[tuple[str, timedelta]] = []
        self.handed_on = 0

    def announce(self, record_id: str, delay: timedelta) -> None:
        """Have a record tried."""
        self.announced.append((record_id, delay))

    def hand_on(self) -> None:
        """Have a sweep go on."""
        self.handed_on += 1

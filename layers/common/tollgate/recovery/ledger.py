"""What the use cases need from outside: the ledger itself, and the queue of what is tried at once."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Protocol

from tollgate.kernel.dataclasses import dataclass
from tollgate.recovery.circuits import Circuit
from tollgate.recovery.model import ErrorRecord, ErrorType, Status
from tollgate.recovery.strategies import Strategy

__all__ = ["Filter", "Recovery", "Retries", "Unresolved"]


@dataclass(frozen=True, slots=True)
class Unresolved:
    """What the report knows of an unresolved record."""

    type: ErrorType
    status: Status
    attempts: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records are meant; None is any."""

    status: Status | None = None
    type: ErrorType | None = None
    customer: str | None = None
    subscription: str | None = None
    strategy: Strategy | None = None

    def takes(self, record: ErrorRecord) -> bool:
        """Whether a record is meant; one that is being tried for the first time is no error."""
        return record.outcome is not None and all(
            wanted is None or wanted == found
            for wanted, found in (
                (self.status, record.status),
                (self.type, record.type),
                (self.customer, record.customer),
                (self.subscription, record.subscription),
                (self.strategy, record.policy.strategy),
            )
        )


class Recovery(Protocol):
    """The error ledger; every write is one atomic change of one record."""

    def put(self, record: ErrorRecord) -> bool:
        """Write a new record; False, and no change, when the id is taken."""

    def get(self, record_id: str) -> ErrorRecord | None:
        """The record with its history and its tries."""

    def change(self, before: ErrorRecord, after: ErrorRecord) -> None:
        """Write one change; raises Conflict when the record is no longer as it was before."""

    def forget(self, record: ErrorRecord) -> None:
        """Remove an operation that was written down before its first try, and succeeded.

        Raises:
            Conflict: another has changed it, or it is an error by now, which is kept for ever.
        """

    def due(self, now: datetime) -> Iterator[str]:
        """Ids of the records that are due, the longest due first; may lag behind the truth."""

    def unresolved(self) -> Iterator[Unresolved]:
        """The unresolved records; may lag behind the truth."""

    def find(self, wanted: Filter, *, after: str | None, limit: int) -> tuple[list[ErrorRecord], str | None]:
        """Records as they are now, the newest first, after a place; and the place after which there are more.

        There may be fewer than `limit`, or none, and more all the same.
        """

    def circuit(self, provider: str) -> Circuit:
        """What is known of a provider."""

    def change_circuit(self, before: Circuit, after: Circuit) -> bool:
        """Write a change; False, and no change, when the circuit is no longer as it was before."""


class Retries(Protocol):
    """The queue whose messages the retry processor takes at once. What it loses, the next sweep finds."""

    def announce(self, record_id: str, delay: timedelta) -> None:
        """Have a record tried when so much time has passed; never raises."""

    def hand_on(self) -> None:
        """Have a sweep go on where this one ends; never raises."""

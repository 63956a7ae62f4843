"""Error records: what failed, what has been tried, what happens next.

    pending  -> retrying   a run has leased it
             -> pending    it waits for another time: a person wants it now, or its provider is down
             -> manual, resolved, discarded   a person says so
    retrying -> resolved   it happened
             -> pending    it did not, and is tried again later
             -> manual     it did not, and no try is left
             -> retrying   the lease of a run that died is taken over
    manual   -> pending    a person wants one try more
             -> resolved, discarded   a person says so

A run claims a record with a lease before it tries its operation, so two runs never work on one record.
The lease of a run that died ends, and the next run takes the record over; what the dead run had begun
then has an unknown outcome, and counts as a try, so that a record that kills its run is not tried for ever.

An operation that is written down before its first try is a record in retrying whose outcome nobody knows yet. It is
forgotten when it succeeds; it is an error, and is shown as one, only when it fails or its run dies.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import Conflict
from tollgate.recovery.strategies import Policy

__all__ = [
    "TRANSITIONS",
    "UNRESOLVED",
    "ErrorRecord",
    "ErrorType",
    "HistoryEntry",
    "Lease",
    "Outcome",
    "Status",
    "Try",
    "claim",
    "move",
    "require_transition",
]


class ErrorType(StrEnum):
    """What kind of failure it was; it chooses the policy."""

    PAYMENT_FAILED = "payment_failed"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    VALIDATION_ERROR = "validation_error"
    REFUND_ERROR = "refund_error"
    STATE_TRANSITION_ERROR = "state_transition_error"
    DELIVERY_FAILED = "delivery_failed"
    SYSTEM_ERROR = "system_error"


class Status(StrEnum):
    """Where a record stands."""

    PENDING = "pending"
    RETRYING = "retrying"
    MANUAL = "manual"
    RESOLVED = "resolved"
    DISCARDED = "discarded"


class Outcome(StrEnum):
    """How a try ended; unknown, when it may have happened all the same (a timeout, a run that died)."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "unknown"


TRANSITIONS: Final[Mapping[Status, frozenset[Status]]] = {
    Status.PENDING: frozenset({Status.RETRYING, Status.PENDING, Status.MANUAL, Status.RESOLVED, Status.DISCARDED}),
    Status.RETRYING: frozenset({Status.RESOLVED, Status.PENDING, Status.MANUAL, Status.RETRYING}),
    Status.MANUAL: frozenset({Status.PENDING, Status.RESOLVED, Status.DISCARDED}),
    Status.RESOLVED: frozenset(),
    Status.DISCARDED: frozenset(),
}

UNRESOLVED: Final = frozenset({Status.PENDING, Status.RETRYING, Status.MANUAL})


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """A change of status: `from_status` is None for the first; `actor` is a run, a person or "system"."""

    at: datetime
    from_status: Status | None
    to_status: Status
    actor: str
    note: str


@dataclass(frozen=True, slots=True)
class Try:
    """One try of the operation, numbered from 1; `at` is its beginning."""

    number: int
    at: datetime
    outcome: Outcome
    error: str | None
    duration_ms: int


@dataclass(frozen=True, slots=True)
class Lease:
    """Who alone may settle a record in retrying, and from when until when (exclusive)."""

    owner: str
    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """A failed operation.

    `outcome` and `error` are those of the last call, the one that led to the record included; no outcome is that of
    an operation which is being tried for the first time.
    `revision` counts the changes of the record, and is the number of its last history entry.
    """

    id: str
    type: ErrorType
    operation: str
    arguments: Mapping[str, Any]
    customer: str | None
    subscription: str | None
    context: Mapping[str, Any]
    policy: Policy
    status: Status
    outcome: Outcome | None
    error: str
    created_at: datetime
    attempts: int = 0
    next_retry_at: datetime | None = None
    lease: Lease | None = None
    revision: int = 1
    history: tuple[HistoryEntry, ...] = ()
    tries: tuple[Try, ...] = ()

    def __post_init__(self) -> None:
        if self.outcome is None and self.status is not Status.RETRYING:
            raise ValueError(f"record {self.id} in {self.status} has no outcome")
        waits = self.status is Status.PENDING
        if waits != (self.next_retry_at is not None) or (self.status is Status.RETRYING) != bool(self.lease):
            raise ValueError(f"record {self.id} in {self.status} would be forgotten or never let go")

    @property
    def due_at(self) -> datetime | None:
        """When a run should look at it: its next try, or the end of a lease that nobody gave back."""
        if self.status is Status.PENDING:
            return self.next_retry_at
        return self.lease.until if self.lease else None

    @property
    def exhausted(self) -> bool:
        """Whether the last try is spent."""
        return self.attempts >= self.policy.max_attempts


def require_transition(current: Status, to: Status) -> None:
    """Refuse a change of status that the state machine does not have.

    Raises:
        Conflict: names the possible ones.
    """
    if to not in TRANSITIONS[current]:
        possible = ", ".join(sorted(TRANSITIONS[current])) or "none, it is final"
        raise Conflict(f"a record in {current} cannot become {to}; possible: {possible}")


def move(
    record: ErrorRecord,
    to: Status,
    *,
    at: datetime,
    actor: str,
    note: str,
    attempt: Try | None = None,
    next_retry_at: datetime | None = None,
) -> ErrorRecord:
    """The record in another status, with its history entry, and with the try that led there, if one did.

    A record that becomes pending is due at `next_retry_at`, at once when that is None.

    Raises:
        Conflict: the state machine has no such transition.
    """
    require_transition(record.status, to)
    due = (next_retry_at or at) if to is Status.PENDING else None
    entry = HistoryEntry(at, record.status, to, actor, note)
    return _change(record, entry, attempt, lease=None, next_retry_at=due)


def claim(record: ErrorRecord, *, lease: Lease) -> ErrorRecord | None:
    """The record leased by a run from `lease.since`; None when it is not due or another run's lease holds.

    Taking over an ended lease adds the try that the run before never reported, with an unknown outcome.
    """
    now = lease.since
    if record.due_at is None or record.due_at > now:
        return None
    lost = record.lease
    if lost is None:
        note, attempt = "claimed", None
    else:
        note = f"taken over from {lost.owner}, which never reported"
        duration = int((lost.until - lost.since).total_seconds() * 1000)
        attempt = Try(record.attempts + 1, lost.since, Outcome.UNKNOWN, "the run ended early", duration)
    entry = HistoryEntry(now, record.status, Status.RETRYING, lease.owner, note)
    return _change(record, entry, attempt, lease=lease, next_retry_at=None)


def _change(
    record: ErrorRecord,
    entry: HistoryEntry,
    attempt: Try | None,
    *,
    lease: Lease | None,
    next_retry_at: datetime | None,
) -> ErrorRecord:
    if attempt is not None:
        record = replace(
            record,
            attempts=attempt.number,
            outcome=attempt.outcome,
            error=attempt.error or record.error,
            tries=(*record.tries, attempt),
        )
    return replace(
        record,
        status=entry.to_status,
        lease=lease,
        next_retry_at=next_retry_at,
        revision=record.revision + 1,
        history=(*record.history, entry),
    )

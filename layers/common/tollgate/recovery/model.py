"""Error records: what failed, what has been tried, what happens next.

    pending  -> retrying, manual, resolved, discarded
    retrying -> resolved, pending, manual
    manual   -> pending, resolved, discarded

A run claims a record with a lease before it tries its operation, so two runs never work on one record.
The lease of a run that died ends, and the next run takes the record over; what the dead run had begun
then has an unknown outcome, and counts as a try, so that a record that kills its run is not tried for ever.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import Conflict

__all__ = [
    "POLICIES",
    "TRANSITIONS",
    "UNRESOLVED",
    "ErrorRecord",
    "ErrorType",
    "HistoryEntry",
    "Lease",
    "Outcome",
    "Policy",
    "Status",
    "Strategy",
    "Try",
    "claim",
    "move",
    "next_delay",
    "require_transition",
]


class ErrorType(StrEnum):
    """What kind of failure it was; it chooses the policy."""

    PAYMENT_FAILED = "payment_failed"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    VALIDATION_ERROR = "validation_error"
    REFUND_ERROR = "refund_error"
    STATE_TRANSITION_ERROR = "state_transition_error"
    SYSTEM_ERROR = "system_error"


class Status(StrEnum):
    """Where a record stands."""

    PENDING = "pending"
    RETRYING = "retrying"
    MANUAL = "manual"
    RESOLVED = "resolved"
    DISCARDED = "discarded"


class Strategy(StrEnum):
    """When the operation is tried again."""

    EXPONENTIAL_BACKOFF = "exponential_backoff"
    IMMEDIATE = "immediate"
    FIXED_INTERVAL = "fixed_interval"
    MANUAL = "manual"


class Outcome(StrEnum):
    """How a try ended; unknown, when it may have happened all the same (a timeout, a run that died)."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "unknown"


TRANSITIONS: Final[Mapping[Status, frozenset[Status]]] = {
    Status.PENDING: frozenset({Status.RETRYING, Status.MANUAL, Status.RESOLVED, Status.DISCARDED}),
    Status.RETRYING: frozenset({Status.RESOLVED, Status.PENDING, Status.MANUAL}),
    Status.MANUAL: frozenset({Status.PENDING, Status.RESOLVED, Status.DISCARDED}),
    Status.RESOLVED: frozenset(),
    Status.DISCARDED: frozenset(),
}

UNRESOLVED: Final = frozenset({Status.PENDING, Status.RETRYING, Status.MANUAL})


@dataclass(frozen=True, slots=True)
class Policy:
    """How often and when to try again: at most `max_attempts` tries, `base` and `cap` in seconds."""

    strategy: Strategy
    max_attempts: int
    base: int = 0
    cap: int = 0


_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR

POLICIES: Final[Mapping[ErrorType, Policy]] = {
    ErrorType.PAYMENT_FAILED: Policy(Strategy.EXPONENTIAL_BACKOFF, 6, base=15 * _MINUTE, cap=_DAY),
    # Money arrives when the customer pays it in, which no sooner try hastens.
    ErrorType.INSUFFICIENT_FUNDS: Policy(Strategy.FIXED_INTERVAL, 7, base=_DAY),
    # The same input fails the same way: a person corrects it.
    ErrorType.VALIDATION_ERROR: Policy(Strategy.MANUAL, 0),
    ErrorType.REFUND_ERROR: Policy(Strategy.EXPONENTIAL_BACKOFF, 5, base=5 * _MINUTE, cap=6 * _HOUR),
    # Another writer was first; by now it is done.
    ErrorType.STATE_TRANSITION_ERROR: Policy(Strategy.IMMEDIATE, 3),
    ErrorType.SYSTEM_ERROR: Policy(Strategy.EXPONENTIAL_BACKOFF, 8, base=_MINUTE, cap=_HOUR),
}
"""What applies when nothing else is said; a record keeps the policy it was made with."""


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

    `outcome` and `error` are those of the last call, the one that led to the record included.
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
    outcome: Outcome
    error: str
    created_at: datetime
    attempts: int = 0
    next_retry_at: datetime | None = None
    lease: Lease | None = None
    revision: int = 1
    history: tuple[HistoryEntry, ...] = ()
    tries: tuple[Try, ...] = ()

    def __post_init__(self) -> None:
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


def next_delay(policy: Policy, attempt: int, random: Callable[[], float]) -> timedelta | None:
    """How long to wait after `attempt` tries, or None when a person has to decide.

    exponential_backoff  random(0, 1) x min(cap, base x 2^attempt)
    fixed_interval       base
    immediate            0

    The first is "full jitter" of Marc Brooker's "Exponential Backoff And Jitter" (AWS Architecture Blog,
    2015): many that failed together do not come back together. `random` gives a number in [0, 1).
    """
    if policy.strategy is Strategy.MANUAL or attempt >= policy.max_attempts:
        return None
    if policy.strategy is Strategy.EXPONENTIAL_BACKOFF:
        return random() * timedelta(seconds=min(policy.cap, policy.base * 2**attempt))
    return timedelta(seconds=policy.base if policy.strategy is Strategy.FIXED_INTERVAL else 0)


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

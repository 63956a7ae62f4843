"""Writing failures down, trying them again, and reporting what is unresolved."""

import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from datetime import datetime, timedelta
from json import dumps
from typing import Any, Final, Protocol

from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import Conflict
from tollgate.kernel.ids import new_id
from tollgate.kernel.time import Clock, format_time
from tollgate.recovery.model import (
    POLICIES,
    UNRESOLVED,
    ErrorRecord,
    ErrorType,
    HistoryEntry,
    Lease,
    Outcome,
    Policy,
    Status,
    Try,
    claim,
    move,
    next_delay,
)
from tollgate.recovery.redaction import describe, plain, redact

__all__ = [
    "Group",
    "Operation",
    "OutcomeUnknown",
    "Recovery",
    "Report",
    "SweepResult",
    "Unresolved",
    "record_error",
    "report",
    "report_text",
    "report_to_dict",
    "resolve",
    "sweep",
]

_RANDOM: Final = secrets.SystemRandom().random

MAX_ARGUMENTS: Final = 100_000
"""Characters of an operation's arguments as JSON; an item holds 400 KB in all."""

MARGIN: Final = timedelta(seconds=60)
"""How long a lease outlives its run, for clocks that differ."""


@dataclass(frozen=True, slots=True)
class Unresolved:
    """What the report knows of an unresolved record."""

    type: ErrorType
    status: Status
    attempts: int
    created_at: datetime


class Recovery(Protocol):
    """The error ledger; every write is one atomic change of one record."""

    def put(self, record: ErrorRecord) -> bool:
        """Write a new record; False, and no change, when the id is taken."""

    def get(self, record_id: str) -> ErrorRecord | None:
        """The record with its history and its tries."""

    def change(self, before: ErrorRecord, after: ErrorRecord) -> None:
        """Write one change; raises Conflict when the record is no longer as it was before."""

    def due(self, now: datetime) -> Iterator[str]:
        """Ids of the records that are due, the longest due first; may lag behind the truth."""

    def unresolved(self, error_type: ErrorType) -> Iterator[Unresolved]:
        """The unresolved records of a type, the oldest first."""


class OutcomeUnknown(Exception):
    """Raised by an operation that cannot tell whether it happened; a TimeoutError says the same."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What a context registers, so that recovery can try it again.

    `run` gets the arguments and a key that is the same at each try, and raises when it fails.
    `idempotency_key` gives that key from the arguments, as the first call had it; without one it is the id
    of the record, and the operation may not be repeated blindly after an unknown outcome.
    `happened` is asked after an unknown outcome, before anything is tried; None when it cannot tell.
    """

    name: str
    run: Callable[[Mapping[str, Any], str], object]
    idempotency_key: Callable[[Mapping[str, Any]], str] | None = None
    happened: Callable[[Mapping[str, Any], str], bool | None] | None = None


def record_error(
    store: Recovery,
    *,
    error_type: ErrorType,
    operation: str,
    arguments: Mapping[str, Any],
    customer: str | None,
    subscription: str | None,
    context: Mapping[str, Any],
    error: BaseException | str,
    clock: Clock,
    id: str | None = None,  # noqa: A002 - the API's name for it
    policy: Policy | None = None,
    random: Callable[[], float] = _RANDOM,
) -> ErrorRecord:
    """Write down that an operation failed, and when it is tried again; answers the record as stored.

    `arguments` are what the operation is called with again: JSON values, ids rather than data, no secrets.
    `context` is for people: secrets are replaced, its size is bounded. `id` names this failure (not the
    operation): the same id again changes nothing. `policy` is that of the type unless another is given.
    """
    now, policy, note = clock(), policy or POLICIES[error_type], "failed"
    kept = plain(arguments)
    delay = next_delay(policy, 0, random)
    if len(dumps(kept)) > MAX_ARGUMENTS:
        kept, delay, note = (
            {},
            None,
            "failed; the arguments are too large to keep, so it cannot be tried again",
        )
    status = Status.MANUAL if delay is None else Status.PENDING
    unknown = isinstance(error, (OutcomeUnknown, TimeoutError))
    record = ErrorRecord(
        id=id or new_id("err"),
        type=error_type,
        operation=operation,
        arguments=kept,
        customer=customer,
        subscription=subscription,
        context=redact(context),
        policy=policy,
        status=status,
        outcome=Outcome.UNKNOWN if unknown else Outcome.FAILED,
        error=describe(error),
        created_at=now,
        next_retry_at=None if delay is None else now + delay,
        history=(HistoryEntry(now, None, status, "system", note),),
    )
    if store.put(record):
        return record
    return store.get(record.id) or record


def resolve(store: Recovery, record_id: str, *, actor: str, note: str, clock: Clock) -> bool:
    """Say of a record that what it tells of has been put right in another way; False where nothing was unresolved.

    Raises:
        Conflict: a run is trying it, or another writer was first; the same call may be made again.
    """
    record = store.get(record_id)
    if record is None or record.status not in UNRESOLVED:
        return False
    if record.lease:
        raise Conflict(f"a run is trying record {record.id}")
    store.change(record, move(record, Status.RESOLVED, at=clock(), actor=actor, note=note))
    return True


@dataclass(slots=True)
class SweepResult:
    """What a run did; `faults` are records it could not deal with, which the next run sees again."""

    claimed: int = 0
    resolved: int = 0
    rescheduled: int = 0
    escalated: int = 0
    lost: int = 0
    stopped_early: bool = False
    faults: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """The result as numbers, for a log line or an answer."""
        numbers = ("claimed", "resolved", "rescheduled", "escalated", "lost", "stopped_early")
        return {name: int(getattr(self, name)) for name in numbers} | {"faults": len(self.faults)}


def sweep(
    store: Recovery,
    operations: Mapping[str, Operation],
    clock: Clock,
    time_left: Callable[[], timedelta],
    *,
    reserve: timedelta = timedelta(seconds=60),
    random: Callable[[], float] = _RANDOM,
) -> SweepResult:
    """Try again what is due, one record after the other, and begin no other with less than `reserve` left.

    A record ends resolved, pending again, or, after its last try, with a person. One whose operation is
    not registered goes to a person with no try spent. A failure on one record never stops the others.
    """
    run, result, seen = new_id("run"), SweepResult(), set[str]()
    for record_id in store.due(clock()):
        if time_left() < reserve:
            result.stopped_early = True
            break
        if record_id in seen:  # the index may show what this run has rescheduled
            continue
        seen.add(record_id)
        try:
            now = clock()
            lease = Lease(run, now, now + time_left() + MARGIN)
            _process(store, operations, clock, record_id, lease, random, result)
        except Conflict:
            result.lost += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, the other records have their turn
            result.faults.append(f"{record_id}: {describe(error)}")
    return result


def _process(
    store: Recovery,
    operations: Mapping[str, Operation],
    clock: Clock,
    record_id: str,
    lease: Lease,
    random: Callable[[], float],
    result: SweepResult,
) -> None:
    found = store.get(record_id)
    claimed = claim(found, lease=lease) if found else None
    if found is None or claimed is None:
        result.lost += 1  # the index lagged
        return
    store.change(found, claimed)
    result.claimed += 1
    settled = _try_again(claimed, operations.get(claimed.operation), clock, lease.owner, random)
    store.change(claimed, settled)
    result.resolved += settled.status is Status.RESOLVED
    result.rescheduled += settled.status is Status.PENDING
    result.escalated += settled.status is Status.MANUAL


def _try_again(
    record: ErrorRecord, operation: Operation | None, clock: Clock, run: str, random: Callable[[], float]
) -> ErrorRecord:
    """The claimed record after its operation was tried, or with the reason why it was not."""
    if operation is None:
        note = f"the operation {record.operation} is not registered; it was not tried"
        return move(record, Status.MANUAL, at=clock(), actor=run, note=note)
    started = clock()
    happened, error = _ask(record, operation)
    if happened:
        note = "the call before turned out to have happened"
        return move(record, Status.RESOLVED, at=clock(), actor=run, note=note)
    if record.exhausted:
        note = "no try is left" + (f"; {error}" if error else "")
        return move(record, Status.MANUAL, at=clock(), actor=run, note=note)
    outcome = Outcome.UNKNOWN
    if happened is False:
        outcome, error = _run(record, operation)
    elif operation.happened is None:
        return move(record, Status.MANUAL, at=clock(), actor=run, note=str(error))
    ended = clock()
    duration = int((ended - started).total_seconds() * 1000)
    attempt = Try(record.attempts + 1, started, outcome, error, duration)
    return _settle(record, attempt, at=ended, run=run, random=random)


def _ask(record: ErrorRecord, operation: Operation) -> tuple[bool | None, str | None]:
    """Whether the call before happened after all; None, and why, when that stays unknown.

    Only an unknown outcome is asked about. With an idempotency key it need not be: the call may be repeated.
    """
    if record.outcome is not Outcome.UNKNOWN:
        return False, None
    if operation.happened is None:
        if operation.idempotency_key is not None:
            return False, None
        return None, "it is not known whether the call before happened, and the operation cannot be asked"
    try:
        happened = operation.happened(record.arguments, _key(record, operation))
    except Exception as error:  # noqa: BLE001 - whatever it is, we do not know, and so must not run
        return None, describe(error)
    return happened, "it is still not known whether the call before happened" if happened is None else None


def _run(record: ErrorRecord, operation: Operation) -> tuple[Outcome, str | None]:
    try:
        operation.run(record.arguments, _key(record, operation))
    except (OutcomeUnknown, TimeoutError) as error:
        return Outcome.UNKNOWN, describe(error)
    except Exception as error:  # noqa: BLE001 - an operation may fail in any way; that is what is recorded
        return Outcome.FAILED, describe(error)
    return Outcome.SUCCEEDED, None


def _key(record: ErrorRecord, operation: Operation) -> str:
    return operation.idempotency_key(record.arguments) if operation.idempotency_key else record.id


_NOTES: Final = {
    Outcome.SUCCEEDED: "succeeded",
    Outcome.FAILED: "failed",
    Outcome.UNKNOWN: "it may have happened",
}


def _settle(record: ErrorRecord, attempt: Try, *, at: datetime, run: str, random: Callable[[], float]) -> ErrorRecord:
    note = _NOTES[attempt.outcome]
    if attempt.outcome is Outcome.SUCCEEDED:
        return move(record, Status.RESOLVED, at=at, actor=run, note=note, attempt=attempt)
    delay = next_delay(record.policy, attempt.number, random)
    if delay is None:
        note = f"{note}; no try is left"
        return move(record, Status.MANUAL, at=at, actor=run, note=note, attempt=attempt)
    return move(record, Status.PENDING, at=at, actor=run, note=note, attempt=attempt, next_retry_at=at + delay)


@dataclass(frozen=True, slots=True)
class Group:
    """The unresolved records of a type."""

    type: ErrorType
    count: int
    oldest: datetime
    average_attempts: float
    by_status: Mapping[Status, int]


@dataclass(frozen=True, slots=True)
class Report:
    """What is unresolved, the largest group first; a type with nothing unresolved has no group."""

    generated_at: datetime
    total: int
    groups: tuple[Group, ...]


def report(store: Recovery, clock: Clock) -> Report:
    """Count what is unresolved."""
    groups = [group for error_type in ErrorType if (group := _group(error_type, store))]
    groups.sort(key=lambda group: -group.count)
    return Report(clock(), sum(group.count for group in groups), tuple(groups))


def _group(error_type: ErrorType, store: Recovery) -> Group | None:
    by_status: Counter[Status] = Counter()
    attempts, oldest = 0, None
    for record in store.unresolved(error_type):
        by_status[record.status] += 1
        attempts += record.attempts
        oldest = min(oldest or record.created_at, record.created_at)
    if oldest is None:
        return None
    count = by_status.total()
    statuses = {status: by_status[status] for status in Status if status in UNRESOLVED}
    return Group(error_type, count, oldest, round(attempts / count, 2), statuses)


def report_to_dict(report: Report) -> dict[str, Any]:
    """The report as the API shows it."""
    return {
        "generated_at": format_time(report.generated_at),
        "total": report.total,
        "groups": [
            {
                "type": group.type.value,
                "count": group.count,
                "oldest": format_time(group.oldest),
                "average_attempts": group.average_attempts,
                "by_status": {status.value: count for status, count in group.by_status.items()},
            }
            for group in report.groups
        ],
    }


def report_text(report: Report) -> str:
    """The report for a person: the total, a line per type, and what to do next."""
    if not report.total:
        return "No failed billing operation is unresolved. There is nothing to do."
    manual = sum(group.by_status[Status.MANUAL] for group in report.groups)
    lines = [f"Failed billing operations that are unresolved: {report.total}", ""]
    lines += [_line(group, report.generated_at) for group in report.groups]
    lines += ["", "What to do next"]
    if manual:
        lines += [
            f"- Waiting for a person: {manual}. Each is a record of the recovery table,",
            "  which says what failed, with what, and what was tried.",
        ]
    if manual < report.total:
        lines += [f"- Tried again automatically: {report.total - manual}. Nothing to do."]
    return "\n".join(lines)


def _line(group: Group, now: datetime) -> str:
    statuses = ", ".join(f"{count} {status}" for status, count in group.by_status.items() if count)
    age, tries = _age(now - group.oldest), f"{group.average_attempts:g} tries each"
    return f"  {group.type:<22} {group.count:>5}   {statuses}; oldest {age}, {tries}"


def _age(age: timedelta) -> str:
    minutes = int(age.total_seconds() // 60)
    for unit, size in (("days", 60 * 24), ("hours", 60)):
        if minutes >= 2 * size:
            return f"{minutes // size} {unit}"
    return f"{max(minutes, 0)} minutes"

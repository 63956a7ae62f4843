"""Writing failures down, and what people do about them."""

import logging
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import timedelta
from json import dumps
from typing import Any, Final

from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import BadRequest, Conflict, FieldError, InvalidInput, NotFound, Unavailable
from tollgate.kernel.ids import new_id
from tollgate.kernel.time import Clock
from tollgate.recovery.ledger import Filter, Recovery, Retries
from tollgate.recovery.model import (
    TRANSITIONS,
    UNRESOLVED,
    ErrorRecord,
    ErrorType,
    HistoryEntry,
    Lease,
    Outcome,
    Status,
    move,
    require_transition,
)
from tollgate.recovery.operations import Operation, OperationFailed, may_have_happened
from tollgate.recovery.policies import policy_of
from tollgate.recovery.redaction import describe, exception_of, plain, redact
from tollgate.recovery.strategies import Policy, Strategy, next_delay

__all__ = [
    "LEASE_MARGIN",
    "Selected",
    "announce",
    "change_all",
    "intervene",
    "perform",
    "record_error",
    "resolve",
    "retry",
    "tell",
    "with_type_of",
]

MAX_ARGUMENTS: Final = 100_000
"""Characters of an operation's arguments as JSON; an item holds 400 KB in all."""

LEASE_MARGIN: Final = timedelta(seconds=60)
"""How long a lease outlives its run, for clocks that differ."""

SOON: Final = timedelta(minutes=5)
"""What is due later than this waits for the schedule's sweep."""

logger = logging.getLogger(__name__)


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
    retries: Retries | None = None,
    randbelow: Callable[[int], int] = secrets.randbelow,
) -> ErrorRecord:
    """Write down that an operation failed, and when it is tried again; answers the record as stored.

    `arguments` are what the operation is called with again: JSON values, ids rather than data, no secrets.
    `context` is for people: secrets are replaced, its size is bounded; the class and message of the error are added.
    `id` names this failure (not the operation): the same id again changes nothing. `policy` is that of the deployment
    for the type and operation unless another is given; an OperationFailed that is `final` is a person's in any case.
    Without `retries` even an immediate try waits for a sweep.
    """
    now, policy, note = clock(), policy or policy_of(error_type, operation), "failed"
    kept = plain(arguments)
    if len(dumps(kept)) > MAX_ARGUMENTS:
        kept, policy = {}, Policy(Strategy.MANUAL, 0)
        note = "failed; the arguments are too large to keep, so it cannot be tried again"
    delay = None if _is_final(error) else next_delay(policy, 0, randbelow)
    status = Status.MANUAL if delay is None else Status.PENDING
    record = ErrorRecord(
        id=id or new_id("err"),
        type=error_type,
        operation=operation,
        arguments=kept,
        customer=customer or None,
        subscription=subscription or None,
        context=redact({**exception_of(error), **context}),
        policy=policy,
        status=status,
        outcome=Outcome.UNKNOWN if may_have_happened(error) else Outcome.FAILED,
        error=describe(error),
        created_at=now,
        next_retry_at=None if delay is None else now + delay,
        history=(HistoryEntry(now, None, status, "system", note),),
    )
    if not store.put(record):
        return store.get(record.id) or record
    announce(record, retries, clock)
    return record


def perform(
    store: Recovery,
    operation: Operation,
    arguments: Mapping[str, Any],
    *,
    id: str,  # noqa: A002 - the API's name for it
    error_type: ErrorType,
    customer: str | None,
    subscription: str | None,
    context: Mapping[str, Any],
    clock: Clock,
    time_left: Callable[[], timedelta],
    actor: str = "system",
    retries: Retries | None = None,
    randbelow: Callable[[int], int] = secrets.randbelow,
) -> ErrorRecord | None:
    """Write an operation down, run it, and forget it if it succeeded; None then, else the record of its failure.

    Whoever is killed while it runs leaves a record whose lease ends: the retry processor then asks whether the
    operation happened. An `id` that is taken is being performed, or has failed: it is not run, and its record is
    answered. `error_type` is that of a failure that says nothing else.

    Raises:
        ValueError: the arguments are too large to keep.
        Unavailable: it failed for good, and whoever depends on it could not be told; the retry processor takes it over.
        Exception: of the store: the ledger could not be written. What is written down is taken over in the same way,
            and the same call with the same `id` may be made again.
    """
    now, kept = clock(), plain(arguments)
    if len(dumps(kept)) > MAX_ARGUMENTS:
        raise ValueError(f"the arguments of {operation.name} have more than {MAX_ARGUMENTS} characters")
    begun = ErrorRecord(
        id=id,
        type=error_type,
        operation=operation.name,
        arguments=kept,
        customer=customer or None,
        subscription=subscription or None,
        context=redact(context),
        policy=policy_of(error_type, operation.name),
        status=Status.RETRYING,
        outcome=None,
        error="",
        created_at=now,
        lease=Lease(actor, now, now + time_left() + LEASE_MARGIN),
        history=(HistoryEntry(now, None, Status.RETRYING, actor, "begun"),),
    )
    if not store.put(begun):
        return store.get(id)  # None: another has performed it meanwhile, and it succeeded
    try:
        operation.run(kept, operation.key(kept, id))
    except Exception as error:  # noqa: BLE001 - an operation may fail in any way; that is what is recorded
        failed = _failed_first(begun, operation, error, clock, actor, randbelow)
        try:
            store.change(begun, failed)
        except Conflict:
            return store.get(id)  # its lease had ended, and another has taken it over
        announce(failed, retries, clock)
        return failed
    try:
        store.forget(begun)
    except Exception as error:  # noqa: BLE001 - it has succeeded, and that is what the caller must hear
        logger.warning("%s succeeded, and is asked for when its lease ends: %s", id, describe(error))
    return None


def _failed_first(
    begun: ErrorRecord,
    operation: Operation,
    error: Exception,
    clock: Clock,
    actor: str,
    randbelow: Callable[[int], int],
) -> ErrorRecord:
    now = clock()
    failed = replace(
        begun,
        outcome=Outcome.UNKNOWN if may_have_happened(error) else Outcome.FAILED,
        error=describe(error),
        context=redact({**exception_of(error), **begun.context}),
    )
    failed = with_type_of(error, failed)
    delay = None if _is_final(error) else next_delay(failed.policy, 0, randbelow)
    if delay is None:
        tell(operation, failed)
        return move(failed, Status.MANUAL, at=now, actor=actor, note="failed; a person decides")
    return move(failed, Status.PENDING, at=now, actor=actor, note="failed", next_retry_at=now + delay)


def tell(operation: Operation, record: ErrorRecord) -> None:
    """Tell whoever depends on a record that no automatic try follows.

    Raises:
        Unavailable: they could not be told.
    """
    if operation.exhausted is None:
        return
    try:
        operation.exhausted(record.arguments, operation.key(record.arguments, record.id))
    except Exception as error:
        raise Unavailable(f"whoever depends on it could not be told: {describe(error)}") from error


def _is_final(error: BaseException | str) -> bool:
    return isinstance(error, OperationFailed) and error.final


def with_type_of(error: Exception, record: ErrorRecord) -> ErrorRecord:
    """The record with the type of its newest failure, and the policy of that type."""
    found = error.type if isinstance(error, OperationFailed) else None
    if isinstance(error, (BadRequest, InvalidInput)):
        found = ErrorType.VALIDATION_ERROR
    if found is None or found is record.type:
        return record
    return replace(record, type=found, policy=policy_of(found, record.operation))


def announce(record: ErrorRecord, retries: Retries | None, clock: Clock) -> None:
    """Queue a record that is tried at once, instead of leaving it to the next sweep."""
    if retries is None or record.next_retry_at is None or record.policy.strategy is not Strategy.IMMEDIATE:
        return
    delay = max(record.next_retry_at - clock(), timedelta(0))
    if delay < SOON:
        retries.announce(record.id, delay)


def resolve(store: Recovery, record_id: str, *, actor: str, note: str, clock: Clock) -> bool:
    """Say of a record that what it tells of has been put right in another way; False where nothing was unresolved.

    Raises:
        Conflict: a run is trying it, or another writer was first; the same call may be made again.
    """
    record = store.get(record_id)
    if record is None or record.status not in UNRESOLVED:
        return False
    _require_free(record)
    store.change(record, move(record, Status.RESOLVED, at=clock(), actor=actor, note=note))
    return True


# What people do


def intervene(
    store: Recovery, record_id: str, to: Status, *, actor: str, note: str, clock: Clock, revision: int | None = None
) -> ErrorRecord:
    """Resolve, discard or escalate a record (to manual), as a person says; answers it as it is then.

    `revision` is that of the record which the person means, where it was found by a filter and may be another by now.

    Raises:
        NotFound: there is no such record.
        Conflict: the state machine has no such transition, a run is trying it, or another writer was first.
    """
    record = _existing(store, record_id, revision)
    require_transition(record.status, to)
    _require_free(record)
    moved = move(record, to, at=clock(), actor=actor, note=note)
    store.change(record, moved)
    return moved


def retry(
    store: Recovery,
    record_id: str,
    *,
    actor: str,
    note: str,
    clock: Clock,
    retries: Retries | None,
    arguments: Mapping[str, Any] | None = None,
    changeable: Collection[str] = (),
    revision: int | None = None,
) -> ErrorRecord:
    """Have a record tried now, as a person says; answers it, due at once.

    One that waits for a person gets one try more, after which it is theirs again. `arguments` replace those of the
    same names; `changeable` are the names that the operation lets people change; `revision` as for `intervene`.

    Raises:
        NotFound: there is no such record.
        Conflict: it is final, or a run is trying it; or it may have happened with the arguments it had.
        InvalidInput: an argument may not be changed.
    """
    record = _existing(store, record_id, revision)
    require_transition(record.status, Status.PENDING)
    _require_free(record)
    changed = _with_arguments(record, arguments or {}, changeable)
    if changed.exhausted or record.status is Status.MANUAL:
        changed = replace(changed, policy=replace(changed.policy, max_attempts=changed.attempts + 1))
    if changed.arguments != record.arguments:
        told = ", ".join(f"{name} (was {describe(dumps(record.arguments.get(name)))})" for name in arguments or {})
        note = f"{note}; arguments changed: {told}" if note else f"arguments changed: {told}"
    moved = move(changed, Status.PENDING, at=clock(), actor=actor, note=note or "tried again by hand")
    store.change(record, moved)
    if retries is not None:
        retries.announce(record.id, timedelta(0))
    return moved


def _with_arguments(record: ErrorRecord, wanted: Mapping[str, Any], changeable: Collection[str]) -> ErrorRecord:
    if not wanted:
        return record
    faults = [
        FieldError(f"/arguments/{name}", f"cannot be changed; can: {', '.join(sorted(changeable)) or 'none'}")
        for name in wanted
        if name not in changeable
    ]
    changed = {**record.arguments, **plain(wanted)}
    if len(dumps(changed)) > MAX_ARGUMENTS:
        faults.append(FieldError("/arguments", f"must be of at most {MAX_ARGUMENTS} characters in all"))
    if faults:
        raise InvalidInput(faults)
    if record.outcome is Outcome.UNKNOWN:
        raise Conflict("it may have happened with the arguments it had; retry it with those, or resolve it")
    return replace(record, arguments=changed)


@dataclass(frozen=True, slots=True)
class Selected:
    """What a bulk change did: `changed` of `matched` records; why the `skipped` ones were not, by id.

    `next_cursor` is where to go on, if there may be more.
    """

    matched: int
    changed: int
    skipped: Mapping[str, str]
    next_cursor: str | None


def change_all(
    store: Recovery,
    wanted: Filter,
    change: Callable[[ErrorRecord], object],
    to: Status,
    *,
    dry_run: bool,
    after: str | None,
    limit: int,
    time_left: Callable[[], bool],
) -> Selected:
    """Change the records that a filter takes and that can become `to`, page by page; a dry run only counts them.

    `change` is told each one; what it refuses, or cannot do now, is skipped. Ends early when no time is left.
    """
    matched, changed, skipped = 0, 0, dict[str, str]()
    while True:
        records, after = store.find(wanted, after=after, limit=min(limit - matched, _PAGE))
        for record in records:
            if to not in TRANSITIONS[record.status]:
                continue
            matched += 1
            try:
                _require_free(record)
                if not dry_run:
                    change(record)
            except (Conflict, NotFound, Unavailable) as error:
                skipped[record.id] = error.detail
            else:
                changed += not dry_run
        if after is None or matched >= limit or not time_left():
            return Selected(matched, changed, skipped, after)


_PAGE: Final = 100


def _existing(store: Recovery, record_id: str, revision: int | None) -> ErrorRecord:
    record = store.get(record_id)
    if record is None or record.outcome is None:
        raise NotFound(f"There is no error {record_id}.")
    if revision is not None and record.revision != revision:
        raise Conflict(f"record {record_id} has changed since it was found")
    return record


def _require_free(record: ErrorRecord) -> None:
    if record.lease:
        raise Conflict(f"a run is trying record {record.id}; ask again when it has ended")

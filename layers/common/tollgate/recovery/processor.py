"""The retry processor: what the schedule and the queue both run.

    find   the due index, longest due first; or the ids that a queue message names
    claim  a conditional write leases the record: of several runs one has it
    ask    after an unknown outcome, whether the operation happened; only a certain no is tried again
    run    the operation, once
    settle a conditional write: the try, its outcome and what happens next

A run that dies between any two of these leaves a lease that ends; the next run takes the record over at `ask`.
"""

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field, replace
from datetime import datetime, timedelta
from typing import Final

from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import Conflict, Unavailable
from tollgate.kernel.ids import new_id
from tollgate.kernel.time import Clock
from tollgate.recovery.circuits import Circuit, after_answer, after_outage, is_half_open, is_open, probing
from tollgate.recovery.ledger import Recovery, Retries
from tollgate.recovery.model import ErrorRecord, Lease, Outcome, Status, Try, claim, move
from tollgate.recovery.operations import Operation, OperationFailed, OutcomeUnknown, may_have_happened
from tollgate.recovery.redaction import describe
from tollgate.recovery.service import LEASE_MARGIN, announce, tell, with_type_of
from tollgate.recovery.strategies import next_delay

__all__ = ["Processor", "Run"]

_CIRCUIT_TRIES: Final = 3
_TELLINGS: Final = 4
"""How often whoever depends on a record is told again, when telling them has failed."""


@dataclass(slots=True)
class Run:
    """What a run did; `faults` are records it could not deal with, which a later run sees again.

    `lost` records were another run's, or not due after all; `postponed` ones wait for their provider.
    """

    claimed: int = 0
    resolved: int = 0
    rescheduled: int = 0
    escalated: int = 0
    postponed: int = 0
    lost: int = 0
    stopped_early: bool = False
    faults: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """The result as numbers, for a log line or an answer."""
        numbers = ("claimed", "resolved", "rescheduled", "escalated", "postponed", "lost", "stopped_early")
        return {name: int(getattr(self, name)) for name in numbers} | {"faults": len(self.faults)}


@dataclass(frozen=True, slots=True)
class Processor:
    """Tries again what is due.

    `time_left` is asked before each record, and none is begun with less than `reserve` left: the longest that an
    operation and the writes around it may take.
    """

    store: Recovery
    operations: Mapping[str, Operation]
    clock: Clock
    time_left: Callable[[], timedelta]
    retries: Retries
    reserve: timedelta = timedelta(seconds=60)
    randbelow: Callable[[int], int] = secrets.randbelow

    def sweep(self) -> Run:
        """Try all that is due, one record after the other; hand on what there is no time for."""
        run = self.take(self.store.due(self.clock()))
        if run.stopped_early:
            self.retries.hand_on()
        return run

    def take(self, record_ids: Iterable[str]) -> Run:
        """Try these records, if they are due.

        A record ends resolved, pending again, or, after its last try, with a person. One whose operation is not
        registered, or cannot make anything of its arguments, goes to a person with no try spent. A failure on one
        record never stops the others.
        """
        name, run, seen = new_id("run"), Run(), set[str]()
        for record_id in record_ids:
            if record_id in seen:  # the index may show what this run has rescheduled
                continue
            if self.time_left() < self.reserve:
                run.stopped_early = True
                break
            seen.add(record_id)
            try:
                self._process(record_id, name, run)
            except Conflict:
                run.lost += 1
            except Exception as error:  # noqa: BLE001 - whatever it is, the other records have their turn
                run.faults.append(f"{record_id}: {describe(error)}")
        return run

    def _process(self, record_id: str, name: str, run: Run) -> None:
        found, now = self.store.get(record_id), self.clock()
        lease = Lease(name, now, now + self.time_left() + LEASE_MARGIN)
        claimed = claim(found, lease=lease) if found else None
        if found is None or claimed is None:
            run.lost += 1  # the index lagged, or a message came twice
            return
        task = self._task(claimed)
        provider = task.provider if isinstance(task, _Task) and task.calls else None
        circuit = self.store.circuit(provider) if provider else None
        if circuit and is_open(circuit, now) and found.status is Status.PENDING:
            self.store.change(found, _postponed(found, circuit, now, name))
            run.postponed += 1
            return
        self.store.change(found, claimed)
        run.claimed += 1
        # Whoever looks whether a provider is back has claimed a record first, and so makes a call.
        barred = self._barred(circuit, lease) if circuit else None
        met_outage = None
        if barred:  # a run died with the record: it is known to be unknown now, and waits like the others
            settled = _postponed(claimed, barred, now, name)
            run.postponed += 1
        elif isinstance(task, str):
            settled = self._move(claimed, Status.MANUAL, task)
        else:
            settled, met_outage = self._settled(task)
            run.rescheduled += settled.status is Status.PENDING
        self.store.change(claimed, settled)
        announce(settled, self.retries, self.clock)
        run.resolved += settled.status is Status.RESOLVED
        run.escalated += settled.status is Status.MANUAL
        if circuit and met_outage is not None:
            self._note_call(circuit.provider, met_outage, looked=is_half_open(circuit, now))

    def _task(self, record: ErrorRecord) -> "_Task | str":
        """What is to be done with a claimed record; or why nothing can be."""
        operation = self.operations.get(record.operation)
        if operation is None:
            return f"the operation {record.operation} is not registered; it was not tried"
        try:
            key = operation.key(record.arguments, record.id)
            provider = operation.provider(record.arguments) if operation.provider else None
        except Exception as error:  # noqa: BLE001 - whatever it is, it will be the same at the next try
            return f"its arguments do not say what to do, so it was not tried: {describe(error)}"
        return _Task(record, operation, key, provider)

    def _settled(self, task: "_Task") -> tuple[ErrorRecord, bool | None]:
        """The record after its operation was tried; and whether the call met no provider, None if there was no call."""
        record, operation, started = task.record, task.operation, self.clock()
        happened, error = self._ask(task)
        outage = error is not None and operation.is_outage(error)
        if happened:
            return self._move(record, Status.RESOLVED, "the call before turned out to have happened"), False
        if record.exhausted:
            note = "no try is left" + (f"; {describe(error)}" if error else "")
            return self._give_up(task, note), outage if task.calls else None
        if happened is None and operation.happened is None:
            note = "it is not known whether the call before happened, and the operation cannot be asked"
            return self._give_up(task, note), None
        if happened is False:
            error = self._run(task)
            outage = error is not None and operation.is_outage(error)
        elif error is None:
            error = OutcomeUnknown("it is still not known whether the call before happened")
        ended = self.clock()
        duration = (ended - started) // timedelta(milliseconds=1)
        outcome, number = _outcome(task, happened, error), record.attempts + 1
        attempt = Try(number, started, outcome, describe(error) if error else None, duration)
        if error is None:
            return self._move(record, Status.RESOLVED, "succeeded", attempt), outage
        return self._failed(replace(task, record=with_type_of(error, record)), error, attempt), outage

    def _ask(self, task: "_Task") -> tuple[bool | None, Exception | None]:
        """Whether the call before happened after all; None, and why, when that stays unknown.

        Only an unknown outcome is asked about, and not where whoever gets it twice knows it again.
        """
        if not task.is_open_question:
            return False, None
        if task.operation.happened is None:
            return None, None
        try:
            happened = task.operation.happened(task.record.arguments, task.key)
        except Exception as error:  # noqa: BLE001 - whatever it is, we do not know, and so must not run
            return None, error
        return happened, None

    def _run(self, task: "_Task") -> Exception | None:
        try:
            task.operation.run(task.record.arguments, task.key)
        except Exception as error:  # noqa: BLE001 - an operation may fail in any way; that is what is recorded
            return error
        return None

    def _failed(self, task: "_Task", error: Exception, attempt: Try) -> ErrorRecord:
        record, note = task.record, "it may have happened" if attempt.outcome is Outcome.UNKNOWN else "failed"
        if isinstance(error, OperationFailed) and error.final:
            return self._give_up(task, f"{note}; no try will change that", attempt)
        delay = next_delay(record.policy, attempt.number, self.randbelow)
        if delay is None:
            return self._give_up(task, f"{note}; no try is left", attempt)
        now = self.clock()
        return move(
            record, Status.PENDING, at=now, actor=_owner(record), note=note, attempt=attempt, next_retry_at=now + delay
        )

    def _give_up(self, task: "_Task", note: str, attempt: Try | None = None) -> ErrorRecord:
        """The record as a person's. Told before it is written: a run that dies in between is taken over, and tells.

        Raises:
            Unavailable: it could not be told; the run that takes over tries that again, but not for ever.
        """
        record = task.record
        try:
            tell(task.operation, record)
        except Unavailable as error:
            if record.attempts < record.policy.max_attempts + _TELLINGS:
                raise
            note = f"{note}; {error.detail}"
        return self._move(record, Status.MANUAL, note, attempt)

    def _move(self, record: ErrorRecord, to: Status, note: str, attempt: Try | None = None) -> ErrorRecord:
        return move(record, to, at=self.clock(), actor=_owner(record), note=note, attempt=attempt)

    def _barred(self, circuit: Circuit, lease: Lease) -> Circuit | None:
        """The circuit if its provider must not be called; None if this run may call it."""
        if is_half_open(circuit, lease.since) and not self.store.change_circuit(circuit, probing(circuit, lease.until)):
            circuit = self.store.circuit(circuit.provider)  # another run is the one that looks
        return circuit if is_open(circuit, lease.since) else None

    def _note_call(self, provider: str, is_outage: bool, *, looked: bool) -> None:
        """Write down how a call went; given up after some lost races, since others then write the same.

        An outage that others have met already is none more, unless this run was the one that looked.
        """
        for _ in range(_CIRCUIT_TRIES):
            circuit, now = self.store.circuit(provider), self.clock()
            if is_outage and not looked and is_open(circuit, now):
                return
            changed = after_outage(circuit, now) if is_outage else after_answer(circuit)
            if changed == circuit or self.store.change_circuit(circuit, changed):
                return


@dataclass(frozen=True, slots=True)
class _Task:
    """A claimed record and what its operation says of it."""

    record: ErrorRecord
    operation: Operation
    key: str
    provider: str | None

    @property
    def is_open_question(self) -> bool:
        """Whether the call before may have happened, and a second one would be one too many."""
        return self.record.outcome is Outcome.UNKNOWN and not self.operation.repeatable

    @property
    def calls(self) -> bool:
        """Whether the provider is called, be it only to ask."""
        return self.operation.happened is not None if self.is_open_question else not self.record.exhausted


def _outcome(task: _Task, happened: bool | None, error: Exception | None) -> Outcome:
    """How a try ended. A call that met nobody says nothing of an unknown one before, which nobody was asked about."""
    if error is None:
        return Outcome.SUCCEEDED
    before = task.record.outcome is Outcome.UNKNOWN and task.operation.repeatable
    if happened is None or may_have_happened(error) or (before and not isinstance(error, OperationFailed)):
        return Outcome.UNKNOWN
    return Outcome.FAILED


def _owner(record: ErrorRecord) -> str:
    return record.lease.owner if record.lease else "system"


def _postponed(record: ErrorRecord, circuit: Circuit, now: datetime, name: str) -> ErrorRecord:
    note = f"{circuit.provider} does not answer; no try was spent"
    return move(record, Status.PENDING, at=now, actor=name, note=note, next_retry_at=circuit.open_until)

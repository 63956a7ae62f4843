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
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from tollgate.kernel.errors import Conflict
from tollgate.kernel.ids import new_id
from tollgate.kernel.time import Clock
from tollgate.recovery.circuits import after_answer, after_outage, is_half_open, is_open, probing
from tollgate.recovery.ledger import Recovery, Retries
from tollgate.recovery.model import ErrorRecord, Lease, Outcome, Status, Try, claim, move
from tollgate.recovery.operations import Operation, OperationFailed, OutcomeUnknown
from tollgate.recovery.redaction import describe
from tollgate.recovery.service import LEASE_MARGIN, announce, with_type_of
from tollgate.recovery.strategies import next_delay

__all__ = ["Processor", "Run"]

_CIRCUIT_TRIES: Final = 3


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
        registered goes to a person with no try spent. A failure on one record never stops the others.
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
        if found is None or found.due_at is None or found.due_at > now:
            run.lost += 1  # the index lagged, or a message came twice
            return
        lease = Lease(name, now, now + self.time_left() + LEASE_MARGIN)
        operation = self.operations.get(found.operation)
        provider = operation.provider(found.arguments) if operation and operation.provider else None
        wait = self._closed_until(provider, lease) if provider else None
        if wait and found.status is Status.PENDING:
            self.store.change(found, _postponed(found, provider, wait, now, name))
            run.postponed += 1
            return
        claimed = claim(found, lease=lease)
        if claimed is None:
            run.lost += 1
            return
        self.store.change(found, claimed)
        run.claimed += 1
        if wait:  # a run died with it: it is known to be unknown now, and waits like the others
            settled = _postponed(claimed, provider, wait, now, name)
            run.postponed += 1
        else:
            settled = self._settled(claimed, operation, provider)
            run.rescheduled += settled.status is Status.PENDING
        self.store.change(claimed, settled)
        announce(settled, self.retries, self.clock)
        run.resolved += settled.status is Status.RESOLVED
        run.escalated += settled.status is Status.MANUAL

    def _settled(self, record: ErrorRecord, operation: Operation | None, provider: str | None) -> ErrorRecord:
        """The claimed record after its operation was tried, or with the reason why it was not."""
        if operation is None:
            note = f"the operation {record.operation} is not registered; it was not tried"
            return self._move(record, Status.MANUAL, note)
        started, key = self.clock(), operation.key(record.arguments, record.id)
        happened, error = self._ask(record, operation, key)
        if happened:
            return self._move(record, Status.RESOLVED, "the call before turned out to have happened")
        if record.exhausted:
            return self._give_up(record, operation, "no try is left" + (f"; {describe(error)}" if error else ""))
        if happened is None and operation.happened is None:
            note = "it is not known whether the call before happened, and the operation cannot be asked"
            return self._give_up(record, operation, note)
        if happened is False:
            error = self._run(record, operation, key)
        if provider:
            self._note_call(provider, error is not None and operation.is_outage(error))
        if happened is None and error is None:
            error = OutcomeUnknown("it is still not known whether the call before happened")
        outcome = Outcome.SUCCEEDED if error is None else Outcome.FAILED
        if happened is None or isinstance(error, (OutcomeUnknown, TimeoutError)):
            outcome = Outcome.UNKNOWN
        ended = self.clock()
        duration = (ended - started) // timedelta(milliseconds=1)
        attempt = Try(record.attempts + 1, started, outcome, describe(error) if error else None, duration)
        if error is None:
            return self._move(record, Status.RESOLVED, "succeeded", attempt)
        return self._failed(with_type_of(error, record), operation, error, attempt)

    def _ask(self, record: ErrorRecord, operation: Operation, key: str) -> tuple[bool | None, Exception | None]:
        """Whether the call before happened after all; None, and why, when that stays unknown.

        Only an unknown outcome is asked about, and not where whoever gets it twice knows it again.
        """
        if record.outcome is not Outcome.UNKNOWN or operation.repeatable:
            return False, None
        if operation.happened is None:
            return None, None
        try:
            happened = operation.happened(record.arguments, key)
        except Exception as error:  # noqa: BLE001 - whatever it is, we do not know, and so must not run
            return None, error
        return happened, None

    def _run(self, record: ErrorRecord, operation: Operation, key: str) -> Exception | None:
        try:
            operation.run(record.arguments, key)
        except Exception as error:  # noqa: BLE001 - an operation may fail in any way; that is what is recorded
            return error
        return None

    def _failed(self, record: ErrorRecord, operation: Operation, error: Exception, attempt: Try) -> ErrorRecord:
        note = "it may have happened" if attempt.outcome is Outcome.UNKNOWN else "failed"
        if isinstance(error, OperationFailed) and error.final:
            return self._give_up(record, operation, f"{note}; no try will change that", attempt)
        delay = next_delay(record.policy, attempt.number, self.randbelow)
        if delay is None:
            return self._give_up(record, operation, f"{note}; no try is left", attempt)
        now = self.clock()
        return move(
            record, Status.PENDING, at=now, actor=_owner(record), note=note, attempt=attempt, next_retry_at=now + delay
        )

    def _give_up(self, record: ErrorRecord, operation: Operation, note: str, attempt: Try | None = None) -> ErrorRecord:
        """The record as a person's. Told before it is written: a run that dies in between is taken over, and tells."""
        if operation.exhausted:
            operation.exhausted(record.arguments, operation.key(record.arguments, record.id))
        return self._move(record, Status.MANUAL, note, attempt)

    def _move(self, record: ErrorRecord, to: Status, note: str, attempt: Try | None = None) -> ErrorRecord:
        return move(record, to, at=self.clock(), actor=_owner(record), note=note, attempt=attempt)

    def _closed_until(self, provider: str, lease: Lease) -> datetime | None:
        """Until when the provider must not be called; None if this run may call it."""
        circuit = self.store.circuit(provider)
        if is_half_open(circuit, lease.since) and not self.store.change_circuit(circuit, probing(circuit, lease.until)):
            circuit = self.store.circuit(provider)  # another run is the one that looks
        return circuit.open_until if is_open(circuit, lease.since) else None

    def _note_call(self, provider: str, is_outage: bool) -> None:
        """Write down how a call went; given up after some lost races, since others then write the same."""
        for _ in range(_CIRCUIT_TRIES):
            circuit = self.store.circuit(provider)
            changed = after_outage(circuit, self.clock()) if is_outage else after_answer(circuit)
            if changed == circuit or self.store.change_circuit(circuit, changed):
                return


def _owner(record: ErrorRecord) -> str:
    return record.lease.owner if record.lease else "system"


def _postponed(record: ErrorRecord, provider: str | None, until: datetime, now: datetime, name: str) -> ErrorRecord:
    note = f"{provider} does not answer; no try was spent"
    return move(record, Status.PENDING, at=now, actor=name, note=note, next_retry_at=until)

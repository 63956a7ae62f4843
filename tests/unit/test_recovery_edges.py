"""The recovery ledger where something of its own goes wrong: callbacks, the ledger's writes, circuits, clocks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from tests.unit.fakes_recovery import NOW, Clock, MemoryRecovery, Retries
from tollgate.kernel.errors import Conflict, Unavailable
from tollgate.recovery.circuits import COOLDOWN, THRESHOLD, Circuit, after_outage, is_open
from tollgate.recovery.model import ErrorRecord, ErrorType, Lease, Outcome, Status, claim
from tollgate.recovery.operations import Operation, OperationFailed, OutcomeUnknown
from tollgate.recovery.processor import Processor, Run
from tollgate.recovery.service import intervene, perform, record_error, retry
from tollgate.recovery.strategies import Policy, Strategy

LEFT = timedelta(minutes=4)
LEASE = LEFT + timedelta(minutes=1)
TRIES = Policy(Strategy.FIXED_INTERVAL, 3, base=60)
Call = Callable[[Mapping[str, Any], str], object]


@dataclass
class World:
    """A ledger in memory, a clock and what is registered."""

    store: MemoryRecovery = field(default_factory=MemoryRecovery)
    clock: Clock = field(default_factory=Clock)
    operations: dict[str, Operation] = field(default_factory=dict)

    def fail(self, record_id: str = "err_1", **over: Any) -> ErrorRecord:
        """Write a failure down that is due in a minute."""
        given: dict[str, Any] = {
            "error_type": ErrorType.PAYMENT_FAILED,
            "operation": "collect",
            "arguments": {"card": "c1"},
            "customer": "acme",
            "subscription": None,
            "context": {},
            "error": "declined",
            "policy": TRIES,
        }
        return record_error(self.store, id=record_id, clock=self.clock, **(given | over))

    def perform(self, operation: Operation) -> ErrorRecord | None:
        """Perform an operation."""
        return perform(
            self.store, operation, {}, id="op_1", error_type=ErrorType.PAYMENT_FAILED, customer=None,
            subscription=None, context={}, clock=self.clock, time_left=lambda: LEFT,
        )  # fmt: skip

    def sweep(self, operation: Operation, after: timedelta = LEASE) -> Run:
        """Let time pass, and try what is due."""
        self.clock.forward(after)
        return Processor(self.store, {"collect": operation}, self.clock, lambda: LEFT, Retries()).sweep()


@pytest.fixture
def world() -> World:
    """An empty one."""
    return World()


def nothing(_arguments: Mapping[str, Any], _key: str) -> None:
    """Succeed."""


def raises(error: Exception) -> Call:
    """Fail."""

    def call(_arguments: Mapping[str, Any], _key: str) -> None:
        raise error

    return call


# What an operation registers may itself fail


def missing(arguments: Mapping[str, Any]) -> str:
    """Look for what is not there."""
    return str(arguments["no such argument"])


@pytest.mark.parametrize("what", ["provider", "idempotency_key"])
def test_a_record_whose_key_or_provider_cannot_be_told_is_a_persons(world: World, what: str) -> None:
    """Its arguments are wrong: it is not tried, nor looked at for ever; the note says why, and no try is spent."""
    world.fail()
    over: Any = {what: missing}
    run = world.sweep(Operation("collect", raises(AssertionError("run")), **over))
    record = world.store.records["err_1"]
    assert (record.status, record.attempts, run.escalated, run.faults) == (Status.MANUAL, 0, 1, [])
    assert "KeyError" in record.history[-1].note


def test_who_could_not_be_told_is_told_again_a_few_times_and_then_a_person_is(world: World) -> None:
    """The record does not go round for ever, and its last note says that somebody was not told."""
    told: list[str] = []

    def exhausted(_arguments: Mapping[str, Any], key: str) -> None:
        told.append(key)
        raise Conflict("the subscription is busy")

    world.fail(policy=Policy(Strategy.FIXED_INTERVAL, 1, base=60))
    operation = Operation("collect", raises(ValueError("no")), happened=lambda *_: False, exhausted=exhausted)
    runs = [world.sweep(operation) for _ in range(12)]
    record = world.store.records["err_1"]
    assert record.status is Status.MANUAL
    assert 3 <= len(told) <= 8
    assert runs[0].faults, "a failure to tell is no lost race"
    assert "Conflict" in record.history[-1].note
    assert sum(run.escalated for run in runs) == 1


def test_who_performs_is_told_that_somebody_could_not_be_told(world: World) -> None:
    """The operation failed for good; the record is not let go before it is told, by whoever takes it over."""
    told: list[str] = []

    def exhausted(_arguments: Mapping[str, Any], key: str) -> None:
        told.append(key)
        if len(told) == 1:
            raise ValueError("busy")

    failed = raises(OperationFailed("stolen", final=True))
    operation = Operation("collect", failed, happened=lambda *_: False, exhausted=exhausted)
    with pytest.raises(Unavailable, match="could not be told: ValueError"):
        world.perform(operation)
    world.sweep(operation)
    assert (world.store.records["op_1"].status, len(told)) == (Status.MANUAL, 2)


def test_who_could_be_told_at_the_second_time_is_told(world: World) -> None:
    """By the run that takes over; the operation is not run again once its tries are spent."""
    ran: list[str] = []
    faults = [Unavailable("busy")]

    def run(_arguments: Mapping[str, Any], key: str) -> None:
        ran.append(key)
        raise ValueError("no")

    def exhausted(_arguments: Mapping[str, Any], _key: str) -> None:
        if faults:
            raise faults.pop()

    world.fail(policy=Policy(Strategy.FIXED_INTERVAL, 1, base=60))
    operation = Operation("collect", run, happened=lambda *_: False, exhausted=exhausted)
    world.sweep(operation)
    assert world.store.records["err_1"].status is Status.RETRYING
    world.sweep(operation)
    assert (world.store.records["err_1"].status, len(ran)) == (Status.MANUAL, 1)


# The ledger's own writes may fail after the operation was tried


class Stubborn(MemoryRecovery):
    """Refuses some of its writes."""

    def __init__(self, *refused: str, error: Exception) -> None:
        super().__init__()
        self.refused = refused
        self.error = error

    def forget(self, record: ErrorRecord) -> None:
        """Remove it, or not."""
        if "forget" in self.refused:
            raise self.error
        super().forget(record)

    def change_circuit(self, before: Circuit, after: Circuit) -> bool:
        """Write it, or not."""
        if "change_circuit" in self.refused:
            raise self.error
        return super().change_circuit(before, after)


@pytest.mark.parametrize("error", [Conflict("taken over"), Unavailable("throttled")])
def test_a_success_is_told_even_if_it_cannot_be_forgotten(error: Exception) -> None:
    """It happened: whoever takes the record over asks, and resolves it; it is not run again."""
    world = World(Stubborn("forget", error=error))
    ran: list[str] = []
    operation = Operation("collect", lambda _arguments, key: ran.append(key), happened=lambda *_: True)
    assert world.perform(operation) is None
    world.sweep(operation)
    assert (world.store.records["op_1"].status, ran) == (Status.RESOLVED, ["op_1"])


def test_a_failure_that_another_run_has_taken_over_is_answered_as_that_one_knows_it(world: World) -> None:
    """Whoever performs it was too slow; the ledger is right."""

    def run(_arguments: Mapping[str, Any], _key: str) -> None:
        world.sweep(Operation("collect", nothing, happened=lambda *_: False))
        raise ValueError("late")

    found = world.perform(Operation("collect", run))
    assert found == world.store.records["op_1"]
    assert found is not None
    assert found.status is Status.RESOLVED


def test_what_another_performed_and_forgot_meanwhile_has_succeeded() -> None:
    """The id was taken a moment ago and is free now: there is no failure to tell of."""

    class Gone(MemoryRecovery):
        def put(self, record: ErrorRecord) -> bool:
            """Find it taken."""
            del record
            return False

    assert World(Gone()).perform(Operation("collect", raises(AssertionError("run")))) is None


@pytest.mark.parametrize("fails", [False, True])
def test_an_outcome_is_kept_even_if_the_circuit_cannot_be_written(fails: bool) -> None:
    """What is known of a provider is less than what is known of a payment."""
    world = World(Stubborn("change_circuit", error=Unavailable("throttled")))
    world.store.circuits["stripe"] = Circuit("stripe", failures=2, revision=2)
    world.fail()
    run = raises(ConnectionRefusedError()) if fails else nothing
    world.sweep(Operation("collect", run, provider=lambda _: "stripe"))
    record = world.store.records["err_1"]
    assert [one.outcome for one in record.tries] == [Outcome.FAILED if fails else Outcome.SUCCEEDED]
    assert record.status is (Status.PENDING if fails else Status.RESOLVED)


# Circuits


def outage(world: World) -> None:
    """Have the circuit opened, and be half open now."""
    circuit = Circuit("stripe")
    for _ in range(THRESHOLD):
        circuit = after_outage(circuit, world.clock())
    world.store.circuits["stripe"] = circuit
    world.clock.forward(COOLDOWN)


def test_a_provider_that_answers_whether_it_happened_is_back(world: World) -> None:
    """After an outage of time-outs all of them happened: one sweep learns it of all, not of one."""
    outage(world)
    for number in range(20):
        world.fail(f"err_{number}", error=TimeoutError())
    operation = Operation("collect", raises(AssertionError()), happened=lambda *_: True, provider=lambda _: "stripe")
    assert world.sweep(operation).resolved == 20
    assert world.store.circuits["stripe"].failures == 0


def test_what_does_not_call_the_provider_does_not_wait_for_it(world: World) -> None:
    """Nor does it use up the one call that shows whether the provider is back."""
    outage(world)
    for number in range(5):
        world.fail(f"err_{number}", error=TimeoutError())
    world.clock.forward(timedelta(seconds=1))
    world.fail("err_last")
    operation = Operation("collect", nothing, provider=lambda _: "stripe")  # it cannot be asked
    run = world.sweep(operation)
    assert (run.escalated, run.resolved, run.postponed) == (5, 1, 0)


def test_outages_of_calls_that_were_under_way_do_not_prolong_the_wait(world: World) -> None:
    """Twenty workers that meet the same outage at once open the circuit for five minutes, not for an hour."""
    for number in range(20):
        world.fail(f"err_{number}")
    circuits: list[Circuit] = []

    def call(_arguments: Mapping[str, Any], _key: str) -> None:
        rest = [name for name, record in world.store.records.items() if record.status is Status.PENDING]
        if rest:  # the others begin before the first has ended
            worker = Processor(world.store, {"collect": operation}, world.clock, lambda: LEFT, Retries())
            worker.take(rest[:1])
        circuits.append(world.store.circuit("stripe"))
        raise ConnectionRefusedError

    operation = Operation("collect", call, provider=lambda _: "stripe")
    world.clock.forward(timedelta(minutes=1))
    Processor(world.store, {"collect": operation}, world.clock, lambda: LEFT, Retries()).take(["err_0"])
    assert len(circuits) == 20
    assert world.store.circuit("stripe").open_until == world.clock() + COOLDOWN
    assert not is_open(world.store.circuit("stripe"), world.clock() + COOLDOWN)


# What may have happened


@pytest.mark.parametrize("error", [ConnectionResetError(), ConnectionAbortedError(), BrokenPipeError()])
def test_a_connection_that_broke_says_nothing_of_what_was_sent(world: World, error: Exception) -> None:
    """Only one that was refused does; it is asked for before it is tried again."""
    assert world.fail(error=error).outcome is Outcome.UNKNOWN
    asked: list[str] = []

    def happened(_arguments: Mapping[str, Any], key: str) -> bool:
        asked.append(key)
        return False

    world.sweep(Operation("collect", raises(error), happened=happened))
    assert world.store.records["err_1"].tries[-1].outcome is Outcome.UNKNOWN
    assert asked == ["err_1"]
    assert world.fail("err_2", error=ConnectionRefusedError()).outcome is Outcome.FAILED


def test_what_may_have_happened_is_not_settled_by_a_later_call_that_met_nobody(world: World) -> None:
    """The first call timed out, the second was refused: with another card both might be charged."""
    world.fail()
    errors: list[Exception] = [ConnectionRefusedError(), OutcomeUnknown()]

    def call(_arguments: Mapping[str, Any], _key: str) -> None:
        raise errors.pop()

    operation = Operation("collect", call, repeatable=True)
    world.sweep(operation)
    world.sweep(operation)
    assert not errors
    with pytest.raises(Conflict, match="may have happened"):
        retry(
            world.store, "err_1", actor="ann", note="", clock=world.clock, retries=None,
            arguments={"card": "c2"}, changeable={"card"},
        )  # fmt: skip


def test_a_receiver_that_knows_a_call_again_and_declines_it_has_settled_it(world: World) -> None:
    """OperationFailed is a certain no."""
    world.fail()
    errors: list[Exception] = [OperationFailed("declined"), OutcomeUnknown()]

    def call(_arguments: Mapping[str, Any], _key: str) -> None:
        raise errors.pop()

    operation = Operation("collect", call, repeatable=True)
    world.sweep(operation)
    world.sweep(operation)
    assert world.store.records["err_1"].outcome is Outcome.FAILED


# What people and callers are promised


@pytest.mark.parametrize("way", ["final", "escalated"])
def test_what_waited_for_a_person_gets_one_try_more_and_is_theirs_again(world: World, way: str) -> None:
    """Even if not all automatic tries had been spent."""
    world.fail()
    if way == "final":
        world.sweep(Operation("collect", raises(OperationFailed("stolen", final=True))))
    else:
        intervene(world.store, "err_1", Status.MANUAL, actor="ann", note="mine", clock=world.clock)
    retry(world.store, "err_1", actor="ann", note="", clock=world.clock, retries=None)
    world.sweep(Operation("collect", raises(ValueError("no"))))
    assert world.store.records["err_1"].status is Status.MANUAL


def test_a_failure_that_no_try_will_change_is_written_down_for_a_person(world: World) -> None:
    """Whatever the policy of its type."""
    assert world.fail(error=OperationFailed("stolen card", final=True)).status is Status.MANUAL


def test_nobody_is_no_customer(world: World) -> None:
    """An empty text cannot be the key of an index, and the failure must be written down all the same."""
    record = world.fail(customer="", subscription="")
    assert (record.customer, record.subscription) == (None, None)


def test_a_takeover_counts_the_tries_of_runs_that_died_and_then_stops(world: World) -> None:
    """A record that kills its run is not tried for ever."""
    world.fail()
    for _ in range(TRIES.max_attempts):
        record = world.store.records["err_1"]
        world.clock.now = max(world.clock.now, record.due_at or NOW)
        leased = claim(record, lease=Lease("run_dead", world.clock(), world.clock() + LEASE))
        assert leased is not None
        world.store.change(record, leased)
    world.sweep(Operation("collect", raises(AssertionError("run")), happened=lambda *_: False))
    record = world.store.records["err_1"]
    assert (record.status, [one.number for one in record.tries]) == (Status.MANUAL, [1, 2, 3])

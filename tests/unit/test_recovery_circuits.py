"""A provider that is down costs no record its tries."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from tests.unit.fakes_recovery import NOW, Clock, MemoryRecovery, Retries
from tollgate.recovery.circuits import (
    COOLDOWN,
    LONGEST,
    THRESHOLD,
    Circuit,
    after_answer,
    after_outage,
    is_half_open,
    is_open,
)
from tollgate.recovery.model import ErrorType, Lease, Outcome, Status, claim
from tollgate.recovery.operations import Operation, OperationFailed, OutcomeUnknown
from tollgate.recovery.processor import Processor, Run
from tollgate.recovery.service import record_error

RECORDS = 20


def outages(count: int) -> Circuit:
    """A circuit after so many outages in a row, all at one moment."""
    circuit = Circuit("stripe")
    for _ in range(count):
        circuit = after_outage(circuit, NOW)
    return circuit


def test_a_circuit_opens_after_outages_in_a_row() -> None:
    """Five of them; an answer in between begins anew."""
    assert not is_open(outages(THRESHOLD - 1), NOW)
    assert is_open(outages(THRESHOLD), NOW)
    circuit = after_answer(outages(THRESHOLD - 1))
    assert (circuit.failures, circuit.open_until) == (0, None)
    assert after_answer(circuit) is circuit


def test_an_open_circuit_is_half_open_when_its_time_is_over() -> None:
    """To the instant."""
    circuit = outages(THRESHOLD)
    end = NOW + COOLDOWN
    assert is_open(circuit, end - timedelta(microseconds=1))
    assert (is_open(circuit, end), is_half_open(circuit, end)) == (False, True)
    assert not is_half_open(Circuit("stripe"), end)


def test_it_opens_for_twice_as_long_each_time_up_to_an_hour() -> None:
    """5, 10, 20 and 40 minutes, and then an hour, for days on end."""
    ends = [outages(count).open_until for count in (*range(THRESHOLD, THRESHOLD + 6), 500)]
    minutes = [(end - NOW) // timedelta(minutes=1) for end in ends if end]
    assert minutes == [5, 10, 20, 40, 60, 60, 60]
    assert timedelta(minutes=60) == LONGEST


@pytest.fixture
def store() -> MemoryRecovery:
    """Many records that depend on one provider, all due."""
    store = MemoryRecovery()
    for number in range(RECORDS):
        record_error(
            store,
            id=f"err_{number:02}",
            error_type=ErrorType.STATE_TRANSITION_ERROR,
            operation="collect",
            arguments={"via": "stripe"},
            customer=None,
            subscription=None,
            context={},
            error="failed",
            clock=lambda: NOW,
        )
    return store


class Provider:
    """Is there or not; counts the calls."""

    def __init__(self) -> None:
        self.error: Exception | None = ConnectionError("down")
        self.calls = 0

    def call(self, _arguments: Mapping[str, Any], _key: str) -> None:
        """Do it."""
        self.calls += 1
        if self.error:
            raise self.error

    def operation(self, **over: Any) -> Operation:
        """What depends on it."""
        given: dict[str, Any] = {"provider": lambda arguments: arguments["via"], "repeatable": True}
        return Operation("collect", self.call, **(given | over))


def sweep(store: MemoryRecovery, operation: Operation, clock: Clock) -> Run:
    """One run."""
    left = timedelta(minutes=4)
    return Processor(store, {"collect": operation}, clock, lambda: left, Retries(), randbelow=lambda _: 0).sweep()


def test_an_outage_spends_the_tries_of_five_records_and_no_others(store: MemoryRecovery) -> None:
    """The others wait until the circuit may close, with all their tries, and their history says why."""
    provider = Provider()
    run = sweep(store, provider.operation(), Clock())
    assert (provider.calls, run.rescheduled, run.postponed) == (THRESHOLD, THRESHOLD, RECORDS - THRESHOLD)
    waiting = store.records["err_19"]
    assert (waiting.status, waiting.attempts, waiting.next_retry_at) == (Status.PENDING, 0, NOW + COOLDOWN)
    assert waiting.history[-1].note == "stripe does not answer; no try was spent"


def test_while_it_is_open_nobody_calls_and_then_one_does(store: MemoryRecovery) -> None:
    """If the provider is still down all wait twice as long; if it answers all are tried."""
    provider, clock = Provider(), Clock()
    sweep(store, provider.operation(), clock)
    clock.forward(COOLDOWN)
    run = sweep(store, provider.operation(), clock)
    assert (provider.calls, run.postponed) == (THRESHOLD + 1, RECORDS - 1)
    clock.forward(2 * COOLDOWN)
    provider.error = None
    assert sweep(store, provider.operation(), clock).resolved == RECORDS
    assert store.circuits["stripe"].failures == 0


def test_of_two_runs_only_one_looks_whether_the_provider_is_back(store: MemoryRecovery) -> None:
    """The other finds the circuit open until the first has to be done."""
    provider, clock = Provider(), Clock()
    sweep(store, provider.operation(), clock)
    clock.forward(COOLDOWN)
    others: list[Run] = []

    def call(_arguments: Mapping[str, Any], _key: str) -> None:
        if not others:
            others.append(sweep(store, provider.operation(), clock))

    sweep(store, Operation("collect", call, provider=lambda _: "stripe"), clock)
    assert provider.calls == THRESHOLD
    assert (others[0].claimed, others[0].postponed) == (0, RECORDS - 1)


@pytest.mark.parametrize(
    ("error", "is_outage"),
    [
        (ConnectionError(), True),
        (TimeoutError(), True),
        (OutcomeUnknown(), True),
        (KeyError("own"), True),
        (OperationFailed("declined"), False),
        (ValueError(), False),
    ],
    ids=repr,
)
def test_a_declined_payment_is_an_answer(store: MemoryRecovery, error: Exception, is_outage: bool) -> None:
    """Only what says that nobody was there opens the circuit."""
    provider = Provider()
    provider.error = error
    run = sweep(store, provider.operation(outages=(ConnectionError, KeyError)), Clock())
    assert (run.postponed > 0) == is_outage


def test_a_circuit_is_of_one_provider(store: MemoryRecovery) -> None:
    """Others go on, and so does what depends on none."""
    provider, clock = Provider(), Clock()
    sweep(store, provider.operation(), clock)
    for number, via in enumerate(("wallet", "stripe")):
        record_error(
            store,
            id=f"new_{number}",
            error_type=ErrorType.STATE_TRANSITION_ERROR,
            operation="collect",
            arguments={"via": via},
            customer=None,
            subscription=None,
            context={},
            error="failed",
            clock=clock,
        )
    provider.error = None
    run = sweep(store, provider.operation(), clock)
    assert store.records["new_0"].status is Status.RESOLVED
    assert store.records["new_1"].next_retry_at == NOW + COOLDOWN
    assert run.resolved == 1


def test_what_a_dead_run_left_behind_waits_too_and_is_known_to_be_unknown(store: MemoryRecovery) -> None:
    """Its lease has ended while the provider is down."""
    provider, clock = Provider(), Clock()
    record = store.records["err_19"]
    leased = claim(record, lease=Lease("run_dead", NOW, NOW + timedelta(minutes=5)))
    assert leased is not None
    store.change(record, leased)
    clock.forward(timedelta(minutes=5))
    sweep(store, provider.operation(), clock)
    waiting = store.records["err_19"]
    assert (waiting.status, waiting.outcome, waiting.attempts) == (Status.PENDING, Outcome.UNKNOWN, 1)
    assert provider.calls == THRESHOLD

"""Lost requests, lost answers, throttles and conflicts: nothing is lost, done twice, or taken for what it is not."""

import random
from collections.abc import Callable
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from botocore.exceptions import ConnectionClosedError

from tests.faults.chaos import Chaos, Clock, Weather
from tests.faults.conftest import SHARES, seeds
from tests.faults.office import AWS_ERRORS, KINDS, NOW, POLICIES, SECOND, Office
from tollgate.recovery.ledger import Filter
from tollgate.recovery.model import ErrorRecord, ErrorType, Lease, Outcome, Status, claim, move
from tollgate.recovery.report import report
from tollgate.recovery.service import intervene, resolve, retry
from tools.engine import Call, Engine, Refused

WEATHERS = (
    Weather(lost_requests=0.02, lost_answers=0.05, throttles=0.05, conflicts=0.1),
    Weather(lost_answers=0.3, lost_requests=0.1),
    Weather(throttles=0.8),
    Weather(conflicts=0.7, lost_answers=0.1),
    Weather(),
)
RECORDS = 6


@pytest.fixture
def ledger(database: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The engine, empty; the deployment's policies are short."""
    monkeypatch.setenv("RETRY_POLICIES", POLICIES)
    monkeypatch.setattr("tollgate.recovery.store._READERS", 1)
    return database


class Storm:
    """One seed's run: records of all kinds, swept in bad weather until it is calm."""

    def __init__(self, seed: int, database: Engine) -> None:
        self.dice = Random(seed)  # noqa: S311  it must repeat
        random.seed(seed)  # botocore's jitter
        database.clear()
        self.office = Office(database, self.dice)
        self.chaos = Chaos(self.dice, Clock(), WEATHERS)
        self.kinds = {f"op_{number}": self.dice.choice(KINDS) for number in range(RECORDS)}
        for name, kind in self.kinds.items():
            words = ["declined", "lost", "late", "refused", "unknown", "ok"]
            self.office.bank(kind).script[name] = [self.dice.choice(words) for _ in range(self.dice.randint(0, 4))]

    def begin(self, name: str, kind: str) -> None:
        """Fail, as often as it takes for that to be written down."""
        office = self.office
        while office.work(lambda: office.fail(name, kind)) is None:
            pass

    def play(self) -> None:
        """Sweep through the storm, settle once it is calm, and prove it."""
        office = self.office
        with office.database.hooked(self.chaos.before, self.chaos.after):
            for name, kind in self.kinds.items():
                self.begin(name, kind)
            for _ in range(12):
                office.work(office.sweep, self.dice.uniform(-1, 1) * SECOND)
                office.deliver_due()
                office.observe()
                office.now += self.dice.choice([1, 60, 300, 4_000]) * SECOND
        office.settle(200)
        office.check_effects()
        for name, kind in self.kinds.items():
            record = office.known[name]
            assert record.status in {Status.RESOLVED, Status.MANUAL}
            if record.status is Status.MANUAL and kind != "letter":
                office.bank(kind).script[name].clear()
                retry(office.store, name, actor="ann", note="", clock=office.clock, retries=None)
        office.settle()
        office.check_effects()
        for name, kind in self.kinds.items():
            if kind != "letter":
                assert (office.known[name].status, office.bank(kind).effects[name]) == (Status.RESOLVED, 1)


@pytest.mark.parametrize("share", range(SHARES))
def test_in_bad_weather_nothing_is_lost_and_nothing_happens_twice(ledger: Engine, share: int) -> None:
    """Once it is calm all are settled, each with one effect."""
    struck, chosen = 0, seeds(share, 100)
    for seed in chosen:
        try:
            storm = Storm(seed, ledger)
            storm.play()
        except BaseException as error:
            error.add_note(f"to see it again: SEED={seed} make faults")
            raise
        struck += storm.chaos.struck
    assert struck or len(chosen) < 3  # a few may be spared


# A read that failed is no answer


def refuse(code: str, *operations: str) -> Callable[[Call], None]:
    """Have DynamoDB refuse some operations, as often as they are tried."""

    def before(call: Call) -> None:
        if call.operation in operations:
            raise Refused(code)

    return before


def lose(*operations: str) -> Callable[[Call], None]:
    """Lose the answers of some operations."""

    def before(call: Call) -> None:
        if call.operation in operations:
            raise ConnectionClosedError(endpoint_url="https://dynamodb.test")

    return before


READS: dict[str, Callable[[Office], object]] = {
    "get": lambda office: office.store.get("op"),
    "put the same again": lambda office: office.fail("op", "wire"),
    "perform what has failed": lambda office: office.perform("op", "wire"),
    "due": lambda office: list(office.store.due(office.now + timedelta(days=9))),
    "unresolved": lambda office: list(office.store.unresolved()),
    "report": lambda office: report(office.store, office.clock),
    "find": lambda office: office.store.find(Filter(), after=None, limit=10),
    "find by customer": lambda office: office.store.find(Filter(customer="acme"), after=None, limit=10),
    "circuit": lambda office: office.store.circuit("bank"),
    "resolve": lambda office: resolve(office.store, "op", actor="ann", note="so", clock=office.clock),
    "discard": lambda office: intervene(
        office.store, "op", Status.DISCARDED, actor="ann", note="so", clock=office.clock
    ),
    "retry": lambda office: retry(office.store, "op", actor="ann", note="", clock=office.clock, retries=None),
    "sweep": lambda office: office.processor().sweep(),
}


@pytest.mark.parametrize(
    "fault",
    [
        refuse("ThrottlingException", "Query", "GetItem"),
        refuse("ProvisionedThroughputExceededException", "Query", "GetItem"),
        refuse("InternalServerError", "Query", "GetItem"),
        lose("Query", "GetItem"),
    ],
    ids=["throttled", "too much", "broken", "lost"],
)
@pytest.mark.parametrize("read", READS)
def test_a_read_that_failed_is_not_taken_for_no_such_record(
    ledger: Engine, read: str, fault: Callable[[Call], None]
) -> None:
    """It raises; nothing was run, and nothing has changed."""
    office = Office(ledger)
    office.work(lambda: office.fail("op", "wire"))
    office.now += timedelta(days=1)
    before = office.scan()
    raised: list[Exception] = []

    def act() -> Any:
        try:
            return READS[read](office)
        except AWS_ERRORS as error:
            raised.append(error)

    with ledger.hooked(fault):
        office.work(act)
    assert raised
    assert "NotFound" not in repr(raised)
    assert office.scan() == before
    assert not office.wire.calls


@pytest.mark.parametrize("fault", [refuse("ThrottlingException", "Query"), refuse("ThrottlingException", "GetItem")])
def test_a_record_that_cannot_be_read_waits_and_its_message_comes_again(
    ledger: Engine, fault: Callable[[Call], None]
) -> None:
    """Whether it is the record or the circuit of its provider: it is neither lost nor tried, and a fault says so."""
    office = Office(ledger)
    office.work(lambda: office.fail("op", "wire"))
    office.now += timedelta(days=1)
    with ledger.hooked(fault):
        run = office.work(lambda: office.take(["op"]))
    assert (run.claimed, run.lost, len(run.faults)) == (0, 0, 1)
    assert not office.wire.calls
    office.settle()
    assert (office.known["op"].status, office.wire.effects["op"]) == (Status.RESOLVED, 1)


# Lists while records move


def change(office: Office, to: Status) -> None:
    """Have a record become something else."""
    record = office.store.get("op")
    assert record is not None
    lease = Lease("run_1", office.now, office.now + timedelta(minutes=5))
    changed = claim(record, lease=lease) if to is Status.RETRYING else None
    office.store.change(record, changed or move(record, to, at=office.now, actor="ann", note="so"))


MOVES = [
    ([], Status.RETRYING),
    ([], Status.MANUAL),
    ([Status.RETRYING], Status.PENDING),
    ([Status.RETRYING], Status.MANUAL),
    ([Status.MANUAL], Status.PENDING),
]


@pytest.mark.parametrize("place", range(1, 40, 3))
@pytest.mark.parametrize(("before", "to"), MOVES)
@pytest.mark.parametrize("what", ["unresolved", "find"])
def test_a_record_that_moves_while_it_is_looked_for_is_found_once(
    ledger: Engine, what: str, before: list[Status], to: Status, place: int
) -> None:
    """Whichever part of an index is read just then; the alarm must not clear because the last error was being tried."""
    office = Office(ledger)
    office.work(lambda: office.fail("op", "wire"))
    office.now += timedelta(days=1)
    for status in before:
        change(office, status)
    queries: list[Call] = []

    def at_a_query(call: Call) -> None:
        if "IndexName" in call.request:
            queries.append(call)
            if len(queries) == place:
                change(office, to)

    with ledger.hooked(at_a_query):
        found = list(office.store.unresolved() if what == "unresolved" else everything(office))
    assert len(found) == 1


def everything(office: Office) -> list[ErrorRecord]:
    """All that a list without a filter has."""
    found, last = office.store.find(Filter(), after=None, limit=100)
    assert last is None
    return found


# What the ledger's writes hold


def test_a_write_whose_answer_was_lost_is_known_again_though_a_conflict_follows(ledger: Engine) -> None:
    """A claim is the run's own even then: it goes on, instead of leaving the record until the lease ends."""
    office = Office(ledger)
    office.work(lambda: office.fail("op", "wire"))
    office.now += timedelta(days=1)
    script = ["written, answer lost", "conflict"]

    def before(call: Call) -> None:
        if call.operation == "TransactWriteItems" and script == ["conflict"]:
            script.clear()
            raise Refused("TransactionCanceledException", ["TransactionConflict", "None"])

    def after(call: Call) -> None:
        if call.operation == "TransactWriteItems" and len(script) == 2:
            script.pop(0)
            raise ConnectionClosedError(endpoint_url="https://dynamodb.test")

    with ledger.hooked(before, after):
        run = office.work(lambda: office.take(["op"]))
    assert not script
    assert (run.resolved, run.lost, run.faults) == (1, 0, [])
    office.observe()
    assert [one.outcome for one in office.known["op"].tries] == [Outcome.SUCCEEDED]


def test_the_history_is_in_the_order_of_the_changes_whatever_the_clocks_say(ledger: Engine) -> None:
    """A run whose clock is ten seconds ahead wrote before a person whose clock is right."""
    office = Office(ledger)
    office.work(lambda: office.fail("op", "wire", error_type=ErrorType.REFUND_ERROR))
    office.wire.script["op"] = ["final"]
    office.now += 30 * SECOND
    office.work(office.sweep, skew=10 * SECOND)
    retry(office.store, "op", actor="ann", note="", clock=office.clock, retries=None)
    found = office.store.get("op")
    assert found is not None
    assert [entry.to_status for entry in found.history] == ["pending", "retrying", "manual", "pending"]
    assert found.history[-1].at < found.history[-2].at
    assert found.history[-1].at > NOW

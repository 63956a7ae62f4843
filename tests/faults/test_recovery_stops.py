"""A process that stops at any call to AWS: no record is lost, and no effect happens twice or never."""

import random
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import pytest

from tests.faults.conftest import SHARES, seeds
from tests.faults.office import KINDS, POLICIES, SECOND, Office
from tollgate.kernel.errors import Conflict
from tollgate.recovery.model import ErrorType, Status
from tollgate.recovery.service import intervene, retry
from tools.engine import Engine

MOST_CALLS = 200


@pytest.fixture
def ledger(database: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The engine, empty; the deployment's policies are short."""
    monkeypatch.setenv("RETRY_POLICIES", POLICIES)
    monkeypatch.setattr("tollgate.recovery.store._READERS", 1)
    return database


# Any k-th call of one record's life

LIVES = {
    "it succeeds": [],
    "it was done and nobody heard": ["late"],
    "it was lost, and then done and nobody heard": ["lost", "broken"],
    "it is declined, and then nobody is there": ["declined", "refused", "unknown"],
    "it changes its kind": ["funds", "lost", "late"],
    "it is declined until no try is left": ["declined"] * 5,
    "no try will change it": ["final"],
    "it kills its process": ["killed before", "killed after"],
    "it takes long": ["slow"],
}
SHORT = [
    "it takes long",
    "it was done and nobody heard",
    "it kills its process",
    "it succeeds",
    "no try will change it",
]


def live(office: Office, kind: str, way: str) -> bool:
    """One record from failure to its end, by processes each of which may be stopped; whether it was begun at all."""
    if way == "perform":
        office.work(lambda: office.perform("op", kind))
        begun = ("op", "R") in office.scan() or office.bank(kind).calls["op"] > 0
    else:
        error_type = ErrorType.REFUND_ERROR if way == "queue" else ErrorType.PAYMENT_FAILED
        while not office.work(lambda: office.fail("op", kind, error_type=error_type)):
            office.observe()  # the message that the failing function was at comes again
        begun = True
    office.observe()
    office.now += SECOND
    office.deliver_due()
    office.settle()
    return begun


@pytest.mark.parametrize(
    ("life", "kind", "way"),
    [
        *((life, "wire", "queue") for life in LIVES),
        *((life, kind, "perform") for life in SHORT for kind in ("wire", "charge")),
        *((life, "letter", "record_error") for life in SHORT[:2]),
    ],
)
def test_any_call_may_be_the_last_of_its_process(ledger: Engine, kind: str, way: str, life: str) -> None:
    """Before it and after it, each in turn: one effect where it can be told, never two, and a legal history."""
    for number in range(1, MOST_CALLS):
        for stopped_after in (False, True):
            ledger.clear()
            office = Office(ledger)
            stopped: list[int] = []

            def stop(
                count: int, after: bool, number: int = number, when: bool = stopped_after, done: list[int] = stopped
            ) -> bool:
                hit = count == number and after == when and not done
                done += [count] * hit
                return hit

            office.stop = stop
            office.bank(kind).script["op"] = list(LIVES[life])
            with ledger.hooked(office.before, office.after):
                begun = live(office, kind, way)
            office.check_effects()
            check_end(office, kind, begun=begun)
        if not stopped:
            return
    raise AssertionError("the life has no end")


def check_end(office: Office, kind: str, *, begun: bool) -> None:
    """The record is resolved or a person's; whoever can be asked then has it once, when a person tries it again."""
    effects = office.bank(kind).effects["op"]
    record = office.known.get("op") if ("op", "R") in office.scan() else None
    if record is None:
        assert effects == begun  # it succeeded at once, or was never begun
        return
    assert record.status in {Status.RESOLVED, Status.MANUAL}
    if record.status is Status.MANUAL and kind != "letter":
        again(office, "op")
        office.settle()
        assert office.known["op"].status is Status.RESOLVED
    if kind != "letter":
        assert office.bank(kind).effects["op"] == 1


def again(office: Office, name: str) -> None:
    """A person tries a record again, now that everything works."""
    for kind in KINDS:
        office.bank(kind).script[name].clear()
        office.bank(kind).silence[name].clear()
    retry(office.store, name, actor="ann", note="", clock=office.clock, retries=None)


# Many records, any order, any call


class Chance:
    """One seed's run: several records of all kinds, several processes whose clocks differ, people."""

    def __init__(self, seed: int, database: Engine) -> None:
        self.dice = Random(seed)  # noqa: S311  it must repeat
        random.seed(seed)  # botocore's jitter
        self.office = Office(database, self.dice)
        self.share = self.dice.choice([0.0, 0.01, 0.05, 0.15])
        self.names = [f"op_{number}" for number in range(self.dice.randint(1, 5))]
        self.kinds = {name: self.dice.choice(KINDS) for name in self.names}
        self.people = self.dice.random() < 0.5
        self.untold = self.dice.choice([0, 0, 1, 8])
        self.begun: set[str] = set()
        words = ["declined", "declined", "final", "funds", "bug", "refused", "lost", "late", "broken", "unknown"]
        words += ["killed before", "killed after", "slow", "slow", "ok"]
        for name, kind in self.kinds.items():
            bank = self.office.bank(kind)
            bank.script[name] = [self.dice.choice(words) for _ in range(self.dice.randint(0, 8))]
            bank.silence[name] = [self.dice.choice(["none", "error", "truth"]) for _ in range(self.dice.randint(0, 3))]

    def stop(self, _number: int, _after: bool) -> bool:
        """Stop a process at some of its calls."""
        return self.dice.random() < self.share

    def meanwhile(self) -> None:
        """Have another process go first, up to two deep."""
        if len(self.office.processes) < 3 and self.dice.random() < 0.06:
            self.act()

    def act(self) -> None:
        """Have some process do something."""
        office, dice = self.office, self.dice
        skew, life = dice.uniform(-2, 2) * SECOND, dice.choice([240, 240, 240, 70, 62]) * SECOND
        name = dice.choice(self.names)
        acts: list[Callable[[], Any]] = [office.sweep, office.sweep, lambda: office.take([name]), office.deliver_due]
        if name not in self.begun:
            self.begun.add(name)
            acts = [lambda: self.begin(name)]
        elif self.people and dice.random() < 0.2:
            acts = [lambda: self.decide(name)]
        act = dice.choice(acts)
        if act == office.deliver_due:
            if len(office.processes) < 2:
                office.deliver_due()
        else:
            office.work(act, skew, life)

    def begin(self, name: str) -> None:
        """Fail, and write that down until it is written; or perform."""
        office, kind = self.office, self.kinds[name]
        error_type = self.dice.choice([ErrorType.PAYMENT_FAILED, ErrorType.REFUND_ERROR])
        if self.dice.random() < 0.5:
            office.perform(name, kind, error_type)
        else:
            try:
                office.fail(name, kind, error_type=error_type)
            except BaseException:
                self.begun.discard(name)  # the message that the failing function was at comes again
                raise

    def decide(self, name: str) -> None:
        """A person says so; what a run is trying, and what is final, is refused."""
        office = self.office
        try:
            if self.dice.random() < 0.7:
                retry(office.store, name, actor="ann", note="", clock=office.clock, retries=office.queue)
            else:
                intervene(office.store, name, Status.MANUAL, actor="ann", note="mine", clock=office.clock)
        except Conflict:
            return

    def play(self) -> None:
        """Act at random; then let it end, and have people see to the rest."""
        office = self.office
        office.database.clear()
        office.stop, office.meanwhile, office.untold = self.stop, self.meanwhile, self.untold
        with office.database.hooked(office.before, office.after):
            for _ in range(self.dice.randint(5, 40)):
                self.act()
                office.observe()
                office.now += self.dice.choice([0, 1, 30, 200, 400]) * SECOND
            for name in self.names:
                while name not in self.begun:
                    self.begun.add(name)
                    office.work(partial(self.begin, name))
            office.stop, office.meanwhile = (lambda _number, _after: False), None
            office.settle(200)
        office.check_effects()
        self.check()

    def check(self) -> None:
        """All records are resolved or a person's; tried again where everything works, each has had its effect once."""
        office = self.office
        here = {name for name, place in office.scan() if place == "R"}
        for name in here & set(self.names):
            assert office.known[name].status in {Status.RESOLVED, Status.MANUAL}, office.known[name]
            if office.known[name].status is Status.MANUAL and self.kinds[name] != "letter":
                office.untold = 0
                again(office, name)
        office.settle()
        office.check_effects()
        for name, kind in self.kinds.items():
            effects = office.bank(kind).effects[name]
            if name in here and kind != "letter":
                assert (office.known[name].status, effects) == (Status.RESOLVED, 1), office.known[name]
            assert effects <= 1
            if name not in here:
                assert effects == (office.bank(kind).calls[name] > 0), "begun, and neither done nor written down"


@pytest.mark.parametrize("share", range(SHARES))
def test_whenever_processes_stop_each_effect_happens_once(ledger: Engine, share: int) -> None:
    """Several records, outcomes, processes and clocks: tolerance 0."""
    for seed in seeds(share, 500):
        try:
            Chance(seed, ledger).play()
        except BaseException as error:
            error.add_note(f"to see it again: SEED={seed} make faults")
            raise

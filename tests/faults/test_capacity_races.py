"""Many callers at one moment: the limit is reached and never passed, and nothing is refused while there is room."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import count
from random import Random

import pytest

from tests.faults.shop import NOW, Shop, identity
from tollgate.catalog.model import Override, Rate, RateAlgorithm
from tollgate.catalog.snapshots import set_override
from tollgate.entitlements.model import decision_headers
from tollgate.entitlements.service import Status
from tools.engine import Engine

CALLERS = 64
PROCESSES = 8
D = Decimal


def at_once(work: Callable[[int], None], callers: int = CALLERS) -> None:
    """Run callers side by side; what one raises is raised."""
    with ThreadPoolExecutor(callers) as pool:
        for done in [pool.submit(work, caller) for caller in range(callers)]:
            done.result()


class Names:
    """Ids that no two callers get."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._lock = threading.Lock()

    def next(self) -> str:
        """The next one."""
        with self._lock:
            return identity(next(self._numbers))


def jitter(seconds: float) -> None:
    """A pause of the product, shortened: what it is for is that others go on meanwhile."""
    time.sleep(seconds / 50)


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.usefixtures("database")
def test_a_quota_is_used_up_to_its_last_unit(*, archive: bool) -> None:
    """64 callers, each asking for some until refused, and then for less."""
    shop, names, granted = Shop(processes=PROCESSES, archive=archive, pause=jitter), Names(), Counter[int]()

    def caller(number: int) -> None:
        for quantity in range(1 + number % 7, 0, -1):
            while shop.consume(names.next(), ("tokens", quantity), process=number % PROCESSES).status is not (
                Status.DENIED
            ):
                granted[number] += quantity

    at_once(caller)
    assert sum(granted.values()) == shop.used() == 1_000
    assert shop.check().remaining == 0
    if archive:
        shop.recount(["tokens"])


@pytest.mark.parametrize("algorithm", list(RateAlgorithm))
@pytest.mark.usefixtures("database")
def test_a_rate_is_used_up_to_its_last_unit(algorithm: RateAlgorithm) -> None:
    """In each of some instants, as much as an independent reckoning lets pass."""
    rate = Rate(D(120), 60, algorithm)
    shop, names = Shop(rate=rate, processes=PROCESSES, archive=False, pause=jitter), Names()
    granted: Counter[int] = Counter()

    def caller(number: int) -> None:
        for quantity in range(1 + number % 3, 0, -1):
            while shop.consume(names.next(), ("bursts", quantity), process=number % PROCESSES).status is not (
                Status.DENIED
            ):
                granted[number] += quantity

    # From half past: a third of a window on, another, into the next one, and to its end.
    free = {
        RateAlgorithm.FIXED: [120, 0, 120, 0],
        RateAlgorithm.TOKEN_BUCKET: [120, 40, 40, 30],
        RateAlgorithm.SLIDING: [120, 0, 20, 30],
    }[algorithm]
    found = []
    for step in (0, 20, 20, 15):
        shop.pass_by(step)
        granted.clear()
        at_once(caller)
        found.append(sum(granted.values()))
    assert found == free
    assert shop.used("bursts") == sum(free)


class Worker:
    """Reserves, consumes and settles at random, and keeps what was counted."""

    def __init__(self, shop: Shop, names: Names, number: int) -> None:
        self.counted = 0
        self._shop = shop
        self._names = names
        self._dice = Random(number)  # noqa: S311  it must repeat
        self._process = number % PROCESSES

    def work(self) -> None:
        """Do one thing."""
        name, quantity = self._names.next(), self._dice.randint(1, 12)
        if self._dice.random() < 0.3:
            if self._shop.consume(name, ("tokens", quantity), process=self._process).status is Status.CONSUMED:
                self.counted += quantity
        elif self._shop.reserve(name, quantity, process=self._process).status is Status.RESERVED:
            self._settle(name, quantity)

    def _settle(self, name: str, quantity: int) -> None:
        end = self._dice.choice(["commit", "less", "more", "release", "leave"])
        if end == "release":
            assert self._shop.release(name, process=self._process).status is Status.RELEASED
        elif end != "leave":
            took = {"commit": quantity, "less": self._dice.randint(0, quantity), "more": quantity + 3}[end]
            answer = self._shop.commit(name, took, process=self._process)
            assert answer.status is Status.COMMITTED or end == "more"
            self.counted += took if answer.status is Status.COMMITTED else 0


@pytest.mark.usefixtures("database")
def test_reservations_never_hold_or_count_more_than_there_is() -> None:
    """Committed with less and with more, released, left to expire: with consumptions in between."""
    shop, names = Shop(limit="500", processes=PROCESSES, pause=jitter), Names()
    workers = [Worker(shop, names, number) for number in range(CALLERS)]
    for _ in range(12):
        at_once(lambda number: workers[number].work())
        if shop.now == NOW:
            decision = shop.check()
            parts = (decision.used, decision.reserved, decision.remaining)
            assert sum(part for part in parts if part is not None) == 500
            shop.pass_by(70)  # what was left has expired
            assert shop.check().reserved == 0
        assert shop.used() == sum(worker.counted for worker in workers) <= 500
    shop.pass_by(70)
    rest = 0
    while shop.consume(names.next(), ("tokens", 1)).status is Status.CONSUMED:
        rest += 1
    assert shop.used() == sum(worker.counted for worker in workers) + rest == 500
    shop.recount(["tokens"])


@pytest.mark.usefixtures("database")
def test_features_are_consumed_in_lockstep() -> None:
    """Three tokens, a burst and a call each: when the bursts are used up nothing is counted of the others."""
    shop, names = Shop(processes=PROCESSES, pause=jitter), Names()
    granted: Counter[int] = Counter()

    def caller(number: int) -> None:
        items = (("tokens", 3), ("bursts", 1), ("calls", 1), ("export", 1))
        while shop.consume(names.next(), *items, process=number % PROCESSES).status is Status.CONSUMED:
            granted[number] += 1

    at_once(caller)
    assert sum(granted.values()) == 60
    assert [shop.used(feature) for feature in ("tokens", "bursts", "calls")] == [180, 60, 60]
    shop.recount()


@pytest.mark.usefixtures("database")
def test_a_limit_that_changes_while_callers_ask_is_the_limit_at_last() -> None:
    """Raised twice and switched off: what was granted is what was counted, and never beyond the highest."""
    shop, names = Shop(limit="100", processes=PROCESSES, pause=jitter), Names()
    granted: Counter[int] = Counter()
    raised = threading.Event()

    def caller(number: int) -> None:
        if number == 0:
            shop.override("150")
            shop.override("200")
            raised.set()
            return
        while True:
            last = raised.is_set()
            if shop.consume(names.next(), ("tokens", 1), process=number % PROCESSES).status is Status.CONSUMED:
                granted[number] += 1
            elif last:
                return

    at_once(caller)
    assert sum(granted.values()) == shop.used() == 200
    shop.override("300", enabled=False)
    assert all(
        shop.consume(names.next(), ("tokens", 1), process=process).status is Status.DENIED
        for process in range(PROCESSES)
    )


def test_one_id_from_all_callers_counts_once(database: Engine) -> None:
    """Whoever is first consumed it, for the others it is a duplicate; with a rate and with a reservation as well."""
    shop = Shop(processes=PROCESSES, pause=jitter)
    for place, items in enumerate([(("tokens", 5),), (("bursts", 5),), (("tokens", 5), ("bursts", 5), ("export", 1))]):
        found: list[Status] = []

        def caller(
            number: int,
            name: str = identity(place + 1),
            items: tuple[tuple[str, int], ...] = items,
            found: list[Status] = found,
        ) -> None:
            found.append(shop.consume(name, *items, process=number % PROCESSES).status)

        at_once(caller)
        assert Counter(found) == {Status.CONSUMED: 1, Status.DUPLICATE: CALLERS - 1}
    assert [shop.used(), shop.used("bursts")] == [10, 10]
    ends: list[Status] = []
    shop.reserve("r", 7)
    at_once(lambda number: ends.append(shop.commit("r", 6, process=number % PROCESSES).status), 16)
    assert Counter(ends) == {Status.COMMITTED: 1, Status.DUPLICATE: 15}
    assert [shop.used(), shop.check().reserved] == [16, 0]
    assert database.total().calls > 0


@pytest.mark.usefixtures("database")
def test_the_window_of_a_rate_is_never_passed_by_a_clock_that_is_off() -> None:
    """A function whose clock is ahead opens the next window; one behind goes on in the last."""
    shop, names = Shop(processes=2, archive=False), Names()
    granted: Counter[int] = Counter()
    for turn in range(200):
        shop.now = NOW.replace(second=59) if turn % 2 else NOW.replace(minute=1, second=1)
        granted[turn % 2] += shop.consume(names.next(), ("bursts", 1), process=turn % 2).status is Status.CONSUMED
    assert granted == {0: 60, 1: 60}


@pytest.mark.parametrize("algorithm", list(RateAlgorithm))
@pytest.mark.usefixtures("database")
def test_a_request_that_took_long_to_decide_finds_no_second_window(algorithm: RateAlgorithm) -> None:
    """By its own time several windows have ended since, whose counts are forgotten: it is counted in the newest."""
    shop, names = Shop(rate=Rate(D(20), 1, algorithm), processes=2, archive=False), Names()
    granted = Counter[int]()
    for _ in range(50):
        granted[0] += shop.consume(names.next(), ("bursts", 1)).status is Status.CONSUMED
        shop.pass_by(-3)
        granted[3] += shop.consume(names.next(), ("bursts", 1), process=1).status is Status.CONSUMED
        shop.pass_by(3)
    assert granted[0] + granted[3] == shop.used("bursts") == 20
    assert shop.check("bursts").remaining == 0


def test_a_refusal_is_remembered_until_there_is_room_again(database: Engine) -> None:
    """Without a call to the database; an id that may have been counted is asked for all the same."""
    shop = Shop(archive=False)
    ids = [identity(number, shop.now) for number in range(60)]
    assert {shop.consume(name, ("bursts", 1), local=True).status for name in ids} == {Status.CONSUMED}
    shop.pass_by(1)
    denied = shop.consume(identity(100, shop.now), ("bursts", 1), local=True)
    assert denied.status is Status.DENIED
    shop.pass_by(3)
    before = database.total().calls
    again = [shop.consume(identity(200 + n, shop.now), ("bursts", 1), local=True) for n in range(5)]
    assert {answer.status for answer in again} == {Status.DENIED}
    assert database.total().calls == before
    assert shop.consume(ids[7], ("bursts", 1), local=True).status is Status.DUPLICATE
    seconds = Fraction((replace(denied.decisions[0]).retry_at or shop.now).timestamp()) - Fraction(shop.now.timestamp())
    shop.pass_by(float(seconds))
    assert shop.consume(identity(300, shop.now), ("bursts", 1), local=True).status is Status.CONSUMED


@pytest.mark.parametrize("algorithm", list(RateAlgorithm))
def test_what_is_refused_from_memory_is_told_as_the_database_would_tell_it(
    database: Engine, algorithm: RateAlgorithm
) -> None:
    """What is left by now, and when as much as this request asks for fits: to the second, whatever was denied first."""
    shop = Shop(rate=Rate(D(60), 60, algorithm), archive=False)
    shop.consume(identity(1), ("bursts", 59), local=True)
    shop.pass_by(3)
    assert shop.consume(identity(2, shop.now), ("bursts", 12), local=True).status is Status.DENIED
    shop.pass_by(2.5)
    for number, quantity in enumerate((12, 40, 60, 61, 10)):
        before = database.total().calls
        answer = shop.consume(identity(10 + number, shop.now), ("bursts", quantity), local=True)
        assert (answer.status, database.total().calls) == (Status.DENIED, before)
        (told,), asked = answer.decisions, shop.check("bursts", quantity)
        assert told == asked
        assert decision_headers(told, shop.now) == decision_headers(asked, shop.now)


def test_terms_that_end_by_themselves_are_not_refused_from_memory(database: Engine) -> None:
    """An override that expires gives the plan's rate back at that instant, without a word to a warm function."""
    shop = Shop(archive=False)
    made = Override(rate=Rate(D(1), 60), expires_at=shop.now + timedelta(seconds=5))
    set_override(shop.catalog, "ada", "bursts", made, gates=shop.start(), clock=lambda: shop.now)
    found: list[Status] = []
    for step in (0, 4.5, 0.499999, 0.000001):
        shop.pass_by(step)
        name = identity(len(found), shop.now + timedelta(seconds=3))
        found.append(shop.consume(name, ("bursts", 1), local=True).status)
    assert found == [Status.CONSUMED, Status.DENIED, Status.DENIED, Status.CONSUMED]
    assert database.total().calls > 0

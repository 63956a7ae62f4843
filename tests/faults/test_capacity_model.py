"""Any sequence of requests, clock moves, period ends, changed terms and restarts, against a model of a few lines.

Processes remember what they learnt, denials by a rate included: nothing of that shows in an answer.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.faults.shop import PERIOD, Shop, identity
from tollgate.catalog.periods import Period
from tollgate.entitlements.service import Answer, Status
from tollgate.kernel.errors import Conflict, InvalidInput
from tools.engine import Engine

LIMIT = 40
BURSTS = 60  # a minute
PROCESSES = 2
Items = tuple[tuple[str, int], ...]

quantities = st.integers(0, 25)
processes = st.integers(0, PROCESSES - 1)
sets_of_items = st.lists(
    st.sampled_from([("tokens",), ("bursts",), ("calls",), ("export",), ("tokens", "bursts", "calls", "export")]),
    min_size=1,
    max_size=1,
).flatmap(lambda names: st.tuples(*(st.tuples(st.just(name), quantities) for name in names[0])))


@dataclass
class Model:
    """What is true: all there is to entitlements, with no database, no memory and no concurrency."""

    limit: int = LIMIT
    enabled: bool = True
    used: Counter[tuple[str, datetime]] = field(default_factory=Counter)
    bursts: Counter[int] = field(default_factory=Counter)
    held: dict[str, tuple[int, float]] = field(default_factory=dict)

    def reserved(self, now: datetime) -> int:
        """What is held and has not expired."""
        return sum(quantity for quantity, expires in self.held.values() if expires > now.timestamp())

    def rest(self, month: datetime, now: datetime) -> int:
        """The tokens that nobody has."""
        return self.limit - self.used["tokens", month] - self.reserved(now)

    def room(self, month: datetime, now: datetime) -> int:
        """Those that may be had."""
        return self.rest(month, now) if self.enabled else -1

    def consume(self, items: Items, month: datetime, now: datetime) -> bool:
        """All or nothing."""
        wanted, minute = dict(items), int(now.timestamp()) // 60
        if "tokens" in wanted and wanted["tokens"] > self.room(month, now):
            return False
        if self.bursts[minute] + wanted.get("bursts", 0) > BURSTS:
            return False
        self.bursts[minute] += wanted.get("bursts", 0)
        self.used.update({(feature, month): quantity for feature, quantity in items})
        return True


def month_of(at: datetime) -> datetime:
    """The start of the billing period."""
    return at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


class Capacity(RuleBasedStateMachine):
    """Each answer is the model's, and so is what a check says."""

    database: Engine

    def __init__(self) -> None:
        super().__init__()
        self.database.clear()
        self.shop = Shop(limit=str(LIMIT), processes=PROCESSES)
        self.model = Model()
        self.consumed: dict[str, tuple[Items, datetime]] = {}
        self.settled: dict[str, int | None] = {}
        self.names = 0

    @property
    def now(self) -> datetime:
        """The shop's clock."""
        return self.shop.now

    @rule(
        items=sets_of_items,
        process=processes,
        old=st.sampled_from([0, 0, 0, 5, 7_200, 86_400 * 20]),
        told=st.booleans(),
    )
    def consume(self, items: Items, process: int, old: int, *, told: bool) -> None:
        """Something new, that perhaps happened a while ago, before the period began or by an id that does not say."""
        self.names += 1
        at = self.now - timedelta(seconds=old) if told else self.now
        name = identity(self.names, at) if told else f"id-{self.names}"
        if at < PERIOD.start and {"tokens", "bursts", "calls"} & dict(items).keys():
            with pytest.raises(InvalidInput):  # nobody subscribed then
                self.shop.consume(name, *items, process=process, local=True)
            return
        answer = self.shop.consume(name, *items, process=process, local=True)
        granted = self.model.consume(items, month_of(at), self.now)
        assert answer.status is (Status.CONSUMED if granted else Status.DENIED)
        if granted and any(feature != "export" for feature, _ in items):
            self.consumed[name] = items, self.now

    @precondition(lambda self: self.consumed)
    @rule(data=st.data(), process=processes)
    def consume_again(self, data: Any, process: int) -> None:
        """A duplicate, whatever has changed; with another quantity, a conflict: of an id that is still remembered."""
        name = data.draw(st.sampled_from(sorted(self.consumed)))
        items, since = self.consumed[name]
        if self.now - since > timedelta(days=1 if name.startswith("id-") else 10):
            return
        assert self.shop.consume(name, *items, process=process, local=True).status is Status.DUPLICATE
        other = tuple((feature, quantity + (feature != "export")) for feature, quantity in items)
        try:
            self.shop.consume(name, *other, process=process, local=True)
        except Conflict:
            return
        raise AssertionError(name)

    @rule(quantity=quantities, seconds=st.sampled_from([1, 30, 600, 86_400]), process=processes)
    def reserve(self, quantity: int, seconds: int, process: int) -> None:
        """Hold some tokens."""
        self.names += 1
        name = f"r-{self.names}"
        answer = self.shop.reserve(name, quantity, seconds, process=process)
        fits = quantity <= self.model.room(month_of(self.now), self.now)
        assert answer.status is (Status.RESERVED if fits else Status.DENIED)
        if fits:
            assert answer.reservation is not None
            expires = answer.reservation.expires
            assert seconds <= expires - self.now.timestamp() <= seconds * 17 / 16 + 1
            self.model.held[name] = quantity, expires

    def _open(self, data: Any) -> tuple[str, int, bool]:
        name = data.draw(st.sampled_from(sorted(self.model.held)))
        quantity, expires = self.model.held[name]
        return name, quantity, expires > self.now.timestamp()

    @precondition(lambda self: self.model.held)
    @rule(data=st.data(), took=quantities, process=processes)
    def commit(self, data: Any, took: int, process: int) -> None:
        """What the work took fits if it was held; else it must fit as a consumption must."""
        name, quantity, holds = self._open(data)
        if holds:
            fits = took <= max(quantity, quantity + self.model.rest(month_of(self.now), self.now))
        else:
            fits = took <= self.model.room(month_of(self.now), self.now)
        answer = self.shop.commit(name, took, process=process)
        assert answer.status is (Status.COMMITTED if fits else Status.DENIED)
        if fits:
            del self.model.held[name]
            self.model.used["tokens", month_of(self.now)] += took
            self.settled[name] = took

    @precondition(lambda self: self.model.held)
    @rule(data=st.data(), process=processes)
    def release(self, data: Any, process: int) -> None:
        """It is free, though it may have been before."""
        name, _, _ = self._open(data)
        assert self.shop.release(name, process=process).status is Status.RELEASED
        del self.model.held[name]
        self.settled[name] = None

    @precondition(lambda self: self.settled)
    @rule(data=st.data(), process=processes)
    def settle_again(self, data: Any, process: int) -> None:
        """A duplicate; settled in another way, a conflict."""
        name = data.draw(st.sampled_from(sorted(self.settled)))
        took = self.settled[name]
        self._ends(took is None, partial(self.shop.release, name, process=process))
        for each in (took or 0, 99):
            self._ends(took == each, partial(self.shop.commit, name, each, process=process))

    def _ends(self, same: bool, end: Callable[[], Answer]) -> None:
        try:
            answer = end()
        except Conflict:
            assert not same
        else:
            assert same
            assert answer.status is Status.DUPLICATE

    @rule(seconds=st.sampled_from([1, 29, 30, 60, 3_600, 86_400 * 5]))
    def pass_by(self, seconds: int) -> None:
        """Time passes."""
        self.shop.pass_by(seconds)

    @rule(before=st.sampled_from([0, 1]))
    def end_period(self, before: int) -> None:
        """The next period begins, or will in a second."""
        begins = month_of(month_of(self.now) + timedelta(days=32))
        self.shop.now = max(begins - timedelta(seconds=before), self.now)

    @rule(limit=st.sampled_from([0, 10, LIMIT, 90]), enabled=st.sampled_from([True, True, False]))
    def override(self, limit: int, *, enabled: bool) -> None:
        """Other terms for tokens."""
        self.shop.override(str(limit), enabled=enabled)
        self.model.limit, self.model.enabled = limit, enabled

    @rule(process=processes)
    def restart(self, process: int) -> None:
        """A process forgets what it knew."""
        self.shop.restart(process)

    @invariant()
    def a_check_says_what_is_true(self) -> None:
        """Used, reserved and remaining, to the unit; one more is allowed where it is."""
        month = month_of(self.now)
        found = self.shop.check()
        if self.model.enabled:
            assert found.used == self.model.used["tokens", month]
            assert found.reserved == self.model.reserved(self.now)
            assert found.remaining == max(self.model.room(month, self.now), 0)
        assert found.allowed == (self.model.room(month, self.now) >= 1)
        minute = int(self.now.timestamp()) // 60
        assert self.shop.check("bursts").remaining == BURSTS - self.model.bursts[minute]

    def teardown(self) -> None:
        """The counter of each period is what was granted, and the archive's."""
        for feature, month in {(feature, month) for feature, month in self.model.used if feature != "export"}:
            period = Period(month, month_of(month + timedelta(days=32)))
            assert self.shop.used(feature, period) == self.model.used[feature, month]
            self.shop.recount([feature], period)


def test_any_sequence_is_answered_as_the_model_answers(database: Engine) -> None:
    """Whoever serves it, and whatever that one remembers."""
    Capacity.database = database
    run_state_machine_as_test(
        Capacity,
        settings=settings(
            max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )

"""Ingest finds the thresholds that usage has reached, whatever became of it before."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.unit.fakes_catalog import MemoryCatalog
from tests.unit.fakes_metering import FakeCounters
from tests.unit.fakes_recovery import NOW
from tollgate.catalog.model import (
    BillingPeriod,
    Customer,
    Feature,
    FeatureType,
    Overage,
    Plan,
    PlanFeature,
    Quota,
    Sharding,
    Snapshot,
    Subscription,
    SubscriptionStatus,
    Threshold,
)
from tollgate.catalog.periods import Interval
from tollgate.kernel.errors import Unavailable
from tollgate.metering.alerts import Reached
from tollgate.metering.model import Event
from tollgate.metering.service import Result, ingest

D = Decimal
QUOTA, USAGE = Feature("seats", "Seats", FeatureType.QUOTA), Feature("calls", "Calls", FeatureType.USAGE)
EIGHTY, THOUSAND = Threshold(percent=D(80)), Threshold(quantity=D(1000))


class Told:
    """An announcer that remembers all it was told, or fails."""

    def __init__(self) -> None:
        self.reached: list[Reached] = []
        self.is_down = False

    def announce(self, reached: Sequence[Reached]) -> None:
        """Remember what was reached."""
        if self.is_down:
            raise Unavailable("no queue")
        self.reached += reached

    def take(self) -> list[tuple[str, Threshold, Decimal]]:
        """Feature, threshold and usage of all that was told since this was last asked."""
        reached, self.reached = self.reached, []
        return [(one.counter.feature, one.threshold, one.used) for one in reached]


class World:
    """acme, with a quota of 10 seats and unlimited calls."""

    def __init__(self) -> None:
        self.catalog, self.counters, self.told = MemoryCatalog(), FakeCounters(), Told()
        month = BillingPeriod(Interval.MONTH, 1)
        granted = (PlanFeature(QUOTA, quota=Quota(D(10), Overage.ALLOW)), PlanFeature(USAGE))
        self.catalog.add_plan_version(Plan("pro", 1, "Pro", "EUR", month, D(0), 0, 0, granted))
        self.catalog.save_customer(Customer("acme"))
        start = NOW - timedelta(days=60)
        self.catalog.add_subscription(
            Subscription(
                "sub-1", "acme", "pro", 1, start, start, "UTC", month, SubscriptionStatus.ACTIVE, start, "digest"
            )
        )

    def watch(self, **alerts: Sequence[Threshold]) -> None:
        """Set the thresholds of acme."""
        kept = {feature: tuple(thresholds) for feature, thresholds in alerts.items()}
        self.catalog.update_snapshot("acme", lambda before: replace(before, alerts=kept))

    def use(self, *used: tuple[str, str, str], **change: Any) -> list[Result]:
        """Count events: id, feature and quantity of each."""
        events = [
            Event(event_id, "test", "acme", feature, D(quantity), change.get("time", NOW))
            for event_id, feature, quantity in used
        ]
        return ingest(
            events,
            directory=self.catalog,
            counters=self.counters,
            now=NOW,
            time_left=lambda: 29.0,
            announcer=self.told,
        )


@pytest.fixture
def world() -> World:
    """A customer with no thresholds yet."""
    return World()


def test_a_threshold_is_found_when_the_usage_reaches_it(world: World) -> None:
    """With what the counter holds then; of each feature its own."""
    world.watch(seats=[EIGHTY], calls=[THOUSAND])
    world.use(("a", "seats", "7"), ("b", "calls", "999"))
    assert world.told.take() == []
    world.use(("c", "seats", "1"), ("d", "calls", "2"))
    assert sorted(world.told.take(), key=str) == [("calls", THOUSAND, D(1001)), ("seats", EIGHTY, D(8))]


def test_a_resend_finds_the_threshold_that_was_reached(world: World) -> None:
    """As after a crash between the count and the alert: the event is a duplicate, the threshold is told."""
    world.watch(seats=[EIGHTY])
    world.told.is_down = True
    with pytest.raises(Unavailable):
        world.use(("a", "seats", "9"))
    world.told.is_down = False
    assert [result.status for result in world.use(("a", "seats", "9"))] == ["duplicate"]
    assert world.told.take() == [("seats", EIGHTY, D(9))]


def test_a_late_event_is_about_the_period_it_counts_in(world: World) -> None:
    """Not about the present one."""
    world.watch(seats=[EIGHTY])
    world.use(("a", "seats", "9"), time=NOW - timedelta(days=34))
    [one] = world.told.reached
    assert one.counter.period_start <= NOW - timedelta(days=34) < one.period_end <= NOW
    world.told.take()
    world.use(("b", "seats", "1"))
    assert world.told.take() == []


def test_the_shards_of_a_counter_are_looked_at_together(world: World) -> None:
    """None of them reaches the threshold by itself."""
    world.watch(calls=[THOUSAND])
    schedule = {"calls": (Sharding(NOW - timedelta(days=1), 8),)}
    world.catalog.update_snapshot("acme", lambda before: replace(before, shards=schedule))
    world.use(*((f"e{number}", "calls", "125") for number in range(8)))
    assert world.told.take() == [("calls", THOUSAND, D(1000))]


def test_a_customer_with_no_thresholds_costs_no_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a feature with none, or an event that counts nowhere."""
    monkeypatch.setattr(world.counters, "tallies", lambda *_, **__: 1 / 0)
    assert world.use(("a", "seats", "9"))[0].status == "accepted"
    world.watch(calls=[THOUSAND])
    assert world.use(("b", "seats", "9"), ("c", "unknown", "9"))[0].status == "accepted"
    assert world.catalog.snapshot("acme") != Snapshot()
    assert world.told.take() == []

"""The recount that proves a counter, and the price that usage would have had."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.unit.fakes_archive import FakeArchive
from tests.unit.fakes_metering import FakeCounters, FakeDirectory, make_count
from tollgate.catalog.model import (
    Aggregation,
    BillingPeriod,
    Customer,
    Feature,
    FeatureType,
    Plan,
    PlanFeature,
    Subscription,
    SubscriptionStatus,
)
from tollgate.catalog.periods import Interval, Period
from tollgate.kernel.errors import InvalidInput, NotFound
from tollgate.metering.audit import Recount, Target, recount, rerate, target_at
from tollgate.metering.model import Batch, Count, CounterId, Outcome, Series, Tally
from tollgate.pricing.model import Flat

START = datetime(2026, 1, 1, tzinfo=UTC)
END = datetime(2026, 2, 1, tzinfo=UTC)
NOW = datetime(2026, 1, 20, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
REQUESTS = Feature("requests", "Requests", FeatureType.USAGE)
COUNTER = CounterId("ada", "requests", "sub", START)


def plan(version: int, unit_price: str | None, currency: str = "EUR", feature: Feature = REQUESTS) -> Plan:
    """A version of the plan that prices a unit so."""
    return Plan(
        code="web",
        version=version,
        name="Web",
        currency=currency,
        billing_period=BillingPeriod(Interval.MONTH),
        base_price=Decimal(0),
        trial_days=0,
        grace_days=0,
        features=(PlanFeature(feature, price=Flat(Decimal(unit_price)) if unit_price else None),),
    )


def subscription(subscription_id: str, starts_at: datetime) -> Subscription:
    """A subscription to the plan."""
    return Subscription(
        id=subscription_id,
        customer="ada",
        plan="web",
        plan_version=1,
        starts_at=starts_at,
        anchor=starts_at,
        timezone="UTC",
        billing_period=BillingPeriod(Interval.MONTH),
        state=SubscriptionStatus.ACTIVE,
        created_at=starts_at,
        request_digest="",
    )


class World:
    """Counters and an archive of one counter."""

    def __init__(self, aggregation: Aggregation = Aggregation.SUM, shards: int = 1) -> None:
        self.counters = FakeCounters()
        self.archive = FakeArchive()
        self.target = Target(COUNTER, Period(START, END), plan(1, "1"), aggregation, shards)

    def count(self, *counts: Count, archived: bool = True, counted: bool = True, shard: int = 0) -> None:
        """Archive and count events, or only one of both."""
        batch = Batch(Series("ada", "requests", shard), self.target.aggregation, counts)
        if archived:
            self.archive.put(batch)
        if counted:
            (outcomes,) = self.counters.count([batch], NOW, lambda: 25.0)
            assert Outcome.UNAVAILABLE not in outcomes

    def recount(self) -> Recount:
        """What the archive says."""
        return recount(self.target, counters=self.counters, archive=self.archive)


def event(number: int, quantity: str = "1", *, counter: CounterId = COUNTER) -> Count:
    """The event of that number, as many half hours after the start of the day."""
    return make_count(number, quantity, at=NOW - 12 * HOUR + number * HOUR / 2, counter=counter)


@pytest.mark.parametrize(
    ("aggregation", "quantity"),
    [(Aggregation.SUM, "18.5"), (Aggregation.COUNT, "4"), (Aggregation.MAX, "9"), (Aggregation.LATEST, "2.5")],
)
def test_a_counter_agrees_with_its_archive(aggregation: Aggregation, quantity: str) -> None:
    """Whatever was sent again or archived twice, of each aggregation."""
    world = World(aggregation)
    sent = [event(1, "3"), event(2, "9"), event(3, "4"), event(4, "2.5")]
    world.count(*sent[:3])
    world.count(*sent[1:])
    world.count(*sent)
    found = world.recount()
    assert found.agrees
    assert found.recounted.quantity == found.stored.quantity == Decimal(quantity)
    assert (found.recounted.events, found.archived) == (4, 4)


def test_what_was_archived_and_not_counted_is_left_out() -> None:
    """A batch whose count never happened, and a conflict."""
    world = World()
    world.count(event(1, "3"))
    world.count(event(2, "5"), counted=False)
    world.count(event(1, "4"))
    found = world.recount()
    assert found.agrees
    assert (found.recounted, found.archived) == (Tally(Decimal(3), 1), 3)


def test_a_counter_is_added_up_over_its_shards() -> None:
    """An event archived in a shard that did not count it is not counted there."""
    world = World(shards=3)
    for shard in range(3):
        world.count(event(shard, "2"), shard=shard)
        world.count(event(2 - shard, "2"), shard=shard, counted=False)
    found = world.recount()
    assert found.agrees
    assert found.recounted == Tally(Decimal(6), 3)


def test_events_of_other_counters_are_left_out() -> None:
    """Those that another subscription rules, in the same time."""
    world = World()
    world.count(event(1, "3"))
    world.count(event(2, "5", counter=replace(COUNTER, subscription="other")))
    found = world.recount()
    assert found.agrees
    assert found.recounted == Tally(Decimal(3), 1)


def test_an_event_that_the_archive_lacks_is_told_with_its_hour() -> None:
    """What the counter holds, and what it should by the archive."""
    world = World()
    world.count(event(0, "3"), event(1, "4"), event(6, "1"))
    world.count(event(4, "10"), event(8, "10"), archived=False)
    found = world.recount()
    assert not found.agrees
    assert (found.stored, found.recounted) == (Tally(Decimal(28), 5), Tally(Decimal(8), 3))
    start = NOW - 12 * HOUR
    assert found.hours == (
        (start + 2 * HOUR, Tally(Decimal(10), 1), Tally()),
        (start + 4 * HOUR, Tally(Decimal(10), 1), Tally()),
    )


def test_a_period_that_begins_amid_an_hour_has_that_hour() -> None:
    """As that of a subscription made at any time."""
    world = World()
    start = START + timedelta(minutes=20)
    counter = replace(COUNTER, period_start=start)
    world.target = replace(world.target, counter=counter, period=Period(start, END))
    world.count(make_count(1, "3", at=START + timedelta(minutes=30), counter=counter))
    found = world.recount()
    assert found.agrees
    assert found.recounted == Tally(Decimal(3), 1)


def test_a_counter_that_holds_nothing_agrees_with_an_empty_archive() -> None:
    """As before the first event."""
    found = World().recount()
    assert found.agrees
    assert found.stored == Tally()


def test_a_recount_that_events_came_into_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a counter under load would never agree."""
    world = World()
    world.count(event(1))
    read, busy = world.archive.read, iter([True])

    def interrupted(*arguments: Any, **fields: Any) -> Any:
        page = read(*arguments, **fields)
        if next(busy, False):
            world.count(event(0))
        return page

    monkeypatch.setattr(world.archive, "read", interrupted)
    found = world.recount()
    assert found.agrees
    assert found.recounted == Tally(Decimal(2), 2)


def test_the_counter_of_an_instant_is_that_of_its_subscription_and_period() -> None:
    """The newest that had begun then."""
    directory = FakeDirectory(
        customers=[Customer("ada")],
        features=[REQUESTS],
        plans=[plan(1, "1")],
        subscriptions=[subscription("old", START), subscription("new", NOW)],
    )
    assert target_at("ada", "requests", NOW - HOUR, directory) == Target(
        CounterId("ada", "requests", "old", START), Period(START, END), plan(1, "1"), Aggregation.SUM, 1
    )
    assert target_at("ada", "requests", NOW, directory).counter == CounterId("ada", "requests", "new", NOW)
    with pytest.raises(NotFound, match="no subscription with requests at 2025"):
        target_at("ada", "requests", START - HOUR, directory)
    with pytest.raises(NotFound, match="no subscription"):
        target_at("ada", "unheard-of", NOW, directory)


@pytest.mark.parametrize(
    ("old", "new", "amounts"),
    [("0.10", "0.08", ("25.00", "20.00", "-5.00")), (None, "0.08", ("0.00", "20.00", "20.00"))],
)
def test_usage_is_priced_by_another_version(old: str | None, new: str | None, amounts: tuple[str, ...]) -> None:
    """Both amounts with their lines, and the difference; no price costs nothing."""
    found = rerate("requests", Decimal(250), plan(1, old), plan(2, new))
    assert tuple(f"{one}" for one in (found.old.amount, found.new.amount, found.difference)) == amounts
    assert [line.quantity for line in found.new.lines] == [250]
    assert len(found.old.lines) == (1 if old else 0)


def test_a_version_without_the_feature_or_in_another_currency_prices_nothing() -> None:
    """No rate of exchange is guessed."""
    tokens = Feature("tokens", "Tokens", FeatureType.USAGE)
    with pytest.raises(InvalidInput, match="version 2 of web does not have requests"):
        rerate("requests", Decimal(1), plan(1, "1"), plan(2, "1", feature=tokens))
    with pytest.raises(InvalidInput, match="in USD"):
        rerate("requests", Decimal(1), plan(1, "1"), plan(2, "1", currency="USD"))

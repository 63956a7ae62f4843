"""Where an event counts, and why it does not."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from msgspec import structs

from tests.unit.fakes_metering import FakeCounters, FakeDirectory
from tollgate.catalog.model import (
    Aggregation,
    BillingPeriod,
    Customer,
    Dedupe,
    Feature,
    FeatureType,
    Plan,
    PlanFeature,
    Sharding,
    Subscription,
    SubscriptionStatus,
)
from tollgate.catalog.periods import Interval
from tollgate.kernel.errors import InvalidInput, NotFound
from tollgate.metering.model import Event, Rejection, Tally, time_of_id
from tollgate.metering.service import Result, ingest, results_to_json
from tollgate.metering.usage import Granularity, Usage, read_usage

NOW = datetime(2026, 3, 20, 12, 7, tzinfo=UTC)
REQUESTS = Feature("requests", "Requests", FeatureType.USAGE)
ORDERS = Feature("orders", "Orders", FeatureType.USAGE, dedupe=Dedupe.ID)
SEATS = Feature("seats", "Seats", FeatureType.USAGE, aggregation=Aggregation.LATEST)
SSO = Feature("sso", "Single sign-on", FeatureType.BOOLEAN)
OTHER = Feature("other", "Of no plan", FeatureType.USAGE)
PLAN = Plan(
    "pro", 1, "Pro", "EUR", BillingPeriod(Interval.MONTH), Decimal(0), 0, 0,
    tuple(PlanFeature(feature) for feature in (REQUESTS, ORDERS, SEATS, SSO)),
)  # fmt: skip
SUBSCRIPTION = Subscription(
    id="sub",
    customer="ada",
    plan="pro",
    plan_version=1,
    starts_at=datetime(2026, 2, 28, 23, 30, tzinfo=UTC),
    anchor=datetime(2026, 2, 28, 23, 30, tzinfo=UTC),
    timezone="Europe/Berlin",
    billing_period=BillingPeriod(Interval.MONTH),
    state=SubscriptionStatus.ACTIVE,
    created_at=NOW,
    request_digest="",
)


class Desk:
    """A directory and counters, and a clock that the test moves."""

    def __init__(self, *subscriptions: Subscription) -> None:
        self.now = NOW
        self.counters = FakeCounters()
        self.directory = FakeDirectory(
            customers=[Customer("ada"), Customer("eve")],
            features=[REQUESTS, ORDERS, SEATS, SSO, OTHER],
            plans=[PLAN],
            subscriptions=subscriptions or (SUBSCRIPTION,),
        )

    def send(self, *events: Event | Rejection) -> list[Result]:
        """Ingest events now."""
        return ingest(events, directory=self.directory, counters=self.counters, now=self.now, time_left=lambda: 20.0)

    def usage(self, feature: str = "requests", **arguments: Any) -> Usage:
        """The usage of ada."""
        return read_usage("ada", feature, directory=self.directory, counters=self.counters, now=self.now, **arguments)


def event(event_id: str = "e1", feature: str = "requests", customer: str = "ada", **fields: Any) -> Event:
    """An event of ada at noon, unless told otherwise."""
    known: dict[str, Any] = {"quantity": Decimal(1), "time": NOW - timedelta(minutes=7), "properties": {}} | fields
    return Event(event_id, "", customer, feature, **known)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (event(customer="bob"), "customer_not_found"),
        (event(customer="eve"), "no_subscription"),
        (event(feature="nope"), "feature_not_found"),
        (event(feature="other"), "feature_not_in_plan"),
        (event(feature="sso"), "not_metered"),
        (event(time=NOW - timedelta(days=35, seconds=1)), "too_old"),
        (event(time=NOW + timedelta(minutes=5, seconds=1)), "in_the_future"),
        (event(time=SUBSCRIPTION.starts_at - timedelta(seconds=1)), "no_subscription"),
        (Rejection("e1", "invalid", "must not be negative", "/quantity"), "invalid"),
    ],
)
def test_an_event_that_cannot_count_is_rejected_with_its_reason_and_its_neighbours_count(
    sent: Event | Rejection, reason: str
) -> None:
    """Its place in the answer is its place in the request."""
    desk = Desk()
    answer = json.loads(results_to_json(desk.send(event("before"), sent, event("after"))))
    assert [result["status"] for result in answer["results"]] == ["accepted", "rejected", "accepted"]
    assert answer["results"][1]["reason"] == reason
    assert answer["results"][1]["detail"]
    assert (answer["accepted"], answer["rejected"], answer["duplicate"], answer["conflict"]) == (2, 1, 0, 0)
    assert desk.usage().total.events == 2


def test_the_bounds_of_the_age_limit_belong_to_it() -> None:
    """35 days back and 5 minutes ahead are accepted to the second."""
    old = replace(SUBSCRIPTION, starts_at=NOW - timedelta(days=90), anchor=NOW - timedelta(days=90))
    results = Desk(old).send(event("e1", time=NOW - timedelta(days=35)), event("e2", time=NOW + timedelta(minutes=5)))
    assert [result.status for result in results] == ["accepted", "accepted"]


def test_a_late_event_counts_in_the_period_of_its_own_time() -> None:
    """Periods are half-open, in the time zone of the subscription: 1 March in Berlin begins at 23:30 UTC."""
    april = datetime(2026, 3, 31, 22, 30, tzinfo=UTC)
    desk = Desk()
    desk.now = april + timedelta(minutes=1)
    desk.send(event("e1", time=april - timedelta(seconds=1), quantity=Decimal(7)), event("e2", time=april))
    usage = desk.usage()
    assert (usage.period.start, usage.total.quantity) == (april, Decimal(1))
    both = desk.usage(start=SUBSCRIPTION.starts_at, end=desk.now)
    assert [(start, tally.quantity) for start, tally in both.buckets] == [
        (SUBSCRIPTION.starts_at, Decimal(7)),
        (april, Decimal(1)),
    ]
    assert both.total.quantity == 8


def test_an_event_with_no_time_is_deduplicated_by_its_id_for_at_least_a_day() -> None:
    """The receipt time is taken, and (source, id) alone must not come again."""
    desk = Desk()
    assert desk.send(event(time=None))[0].status == "accepted"
    desk.now += timedelta(hours=25)
    assert desk.send(event(time=None))[0].status == "duplicate"
    assert desk.send(event(time=None, quantity=Decimal(2)))[0].status == "conflict"
    desk.now += timedelta(days=3)
    assert desk.send(event(time=None))[0].status == "accepted"


def test_an_event_whose_id_carries_its_time_may_leave_the_time_out() -> None:
    """It is a resend however much later it comes, as long as it is not too old."""
    desk = Desk()
    sent = event("019CF5E2-79B0-7CC3-98C4-DC0C0C07398F", time=None)
    assert desk.send(sent)[0].status == "accepted"
    desk.now += timedelta(days=20)
    assert desk.send(sent)[0].status == "duplicate"
    desk.now += timedelta(days=20)
    assert desk.send(sent)[0].reason == "too_old"


def test_an_event_sent_with_the_time_that_its_id_carries_is_the_same_as_without() -> None:
    """The time is the same, told twice."""
    desk = Desk()
    sent = event("019CF5E2-79B0-7CC3-98C4-DC0C0C07398F", time=None)
    desk.send(sent)
    assert desk.send(structs.replace(sent, time=time_of_id(sent.id)))[0].status == "duplicate"


def test_of_two_events_with_one_id_the_first_of_the_request_counts() -> None:
    """Also where the second is older, and the id alone tells them apart."""
    desk = Desk()
    first, second = event(feature="orders"), event(feature="orders", time=NOW - timedelta(hours=3), quantity=Decimal(2))
    assert [result.status for result in desk.send(first, second)] == ["accepted", "conflict"]


def test_a_feature_deduplicated_by_id_takes_an_id_once_whatever_the_time_says() -> None:
    """Over the whole age limit; another body is still a conflict."""
    desk = Desk()
    sent = event(feature="orders")
    assert desk.send(sent)[0].status == "accepted"
    desk.now += timedelta(days=34)
    resent = structs.replace(sent, time=desk.now)
    assert desk.send(resent, structs.replace(resent, quantity=Decimal(2)))[0].status == "duplicate"
    assert desk.send(structs.replace(resent, quantity=Decimal(2)))[0].status == "conflict"


def test_the_same_event_with_its_numbers_written_otherwise_is_a_duplicate() -> None:
    """1 is 1.0, and the order of properties means nothing; another property is another body."""
    desk = Desk()
    desk.send(event(quantity=Decimal("1.0"), properties={"a": 1, "b": 2}))
    again = desk.send(
        event(quantity=Decimal(1), properties={"b": 2, "a": 1}), event(quantity=Decimal(1), properties={"a": 1})
    )
    assert [result.status for result in again] == ["duplicate", "conflict"]


def test_quantities_that_differ_in_their_last_digit_are_two_bodies() -> None:
    """38 digits tell them apart."""
    desk = Desk()
    desk.send(event(quantity=Decimal("12345678901234567890.123456789012345678")))
    (again,) = desk.send(event(quantity=Decimal("12345678901234567890.123456789012345679")))
    assert again.status == "conflict"


def test_customers_and_features_do_not_share_ids() -> None:
    """The same id for another feature is another event."""
    results = Desk().send(event("e1"), event("e1", feature="orders"), event("e1", feature="seats"))
    assert [result.status for result in results] == ["accepted"] * 3


def test_a_change_of_the_number_of_shards_loses_and_doubles_nothing() -> None:
    """An event is looked for in the shard of its own time, whenever it comes; what is read is the sum of all."""
    shards = tuple(
        Sharding(NOW - timedelta(hours=hours), number) for hours, number in ((6, 4), (4, 3), (2, 1), (1, 16))
    )
    desk = Desk()
    sent = [event(f"e{n}", time=NOW - timedelta(minutes=4 * n)) for n in range(120)]
    sent += [event("timeless", time=None)]
    for number in range(len(shards) + 1):
        desk.directory.shards = {"requests": shards[:number]}
        in_time = [one for one in sent if number == len(shards) or (one.time or NOW) < shards[number].since]
        desk.send(*in_time)
        assert {result.status for result in desk.send(*in_time)} <= {"duplicate"}
    usage = desk.usage()
    assert usage.total == Tally(Decimal(121), 121)
    assert sum(tally.events for _, tally in desk.usage(granularity=Granularity.HOUR).buckets) == 121


def test_the_newest_subscription_that_has_begun_rules_an_event() -> None:
    """An event before its start still belongs to the older one."""
    newer = replace(SUBSCRIPTION, id="newer", starts_at=NOW - timedelta(days=1), anchor=NOW - timedelta(days=1))
    desk = Desk(SUBSCRIPTION, newer)
    desk.send(event("e1"), event("e2", time=NOW - timedelta(days=2)))
    hours = desk.counters.hours("ada", "requests", NOW - timedelta(days=3), NOW)
    owners = {counter.subscription: tally.events for _, counter, tally in hours}
    assert owners == {"newer": 1, "sub": 1}


def test_usage_by_day_follows_the_time_zone_of_the_subscription() -> None:
    """23:00 UTC is the next day in Berlin."""
    desk = Desk()
    desk.send(
        event("e1", time=datetime(2026, 3, 19, 22, 59, tzinfo=UTC)),
        event("e2", time=datetime(2026, 3, 19, 23, 0, tzinfo=UTC)),
    )
    days = desk.usage(granularity=Granularity.DAY).buckets
    assert [(start.isoformat(), tally.events) for start, tally in days] == [
        ("2026-03-18T23:00:00+00:00", 1),
        ("2026-03-19T23:00:00+00:00", 1),
    ]


def test_usage_by_hour_of_a_range_is_widened_to_whole_hours() -> None:
    """The answer says what it covers, and its total is that of its buckets."""
    desk = Desk()
    desk.send(event("e1", time=NOW.replace(hour=9, minute=1)), event("e2", time=NOW.replace(hour=10, minute=59)))
    usage = desk.usage(
        granularity=Granularity.HOUR, start=NOW.replace(hour=9, minute=30), end=NOW.replace(hour=10, minute=1)
    )
    assert (usage.period.start.hour, usage.period.end.hour) == (9, 11)
    assert [(start.hour, tally.events) for start, tally in usage.buckets] == [(9, 1), (10, 1)]
    assert usage.total.events == 2


def test_usage_by_period_holds_the_periods_that_touch_the_range_and_no_others() -> None:
    """Asked for a time before the newest subscription, only the older one's periods of that time answer."""
    newest = datetime(2026, 3, 15, 12, tzinfo=UTC)
    first = newest - timedelta(weeks=3)
    weekly = BillingPeriod(Interval.WEEK)
    older = replace(SUBSCRIPTION, timezone="UTC", starts_at=first, anchor=first, billing_period=weekly)
    newer = replace(SUBSCRIPTION, id="newer", starts_at=newest, anchor=newest)
    desk = Desk(older, newer)
    desk.send(
        event("e1", time=first + timedelta(days=1)),
        event("e2", time=first + timedelta(days=9)),
        event("e3", time=newest + timedelta(days=1)),
    )
    usage = desk.usage(start=first + timedelta(days=1), end=first + timedelta(days=2))
    assert [start for start, _ in usage.buckets] == [first]
    assert (usage.period.start, usage.period.end) == (first, first + timedelta(weeks=1))
    assert usage.total.events == 1


def test_usage_of_what_does_not_exist_is_not_found() -> None:
    """Customer, feature, or a subscription with it; the message says which."""
    desk = Desk()
    with pytest.raises(NotFound, match="no feature nope"):
        desk.usage("nope")
    with pytest.raises(NotFound, match="no subscription with other"):
        desk.usage("other")
    with pytest.raises(NotFound, match="no customer bob"):
        read_usage("bob", "requests", directory=desk.directory, counters=desk.counters, now=NOW)


@pytest.mark.parametrize(
    "arguments",
    [
        {"start": NOW, "end": NOW},
        {"start": NOW + timedelta(hours=1)},
        {"start": NOW - timedelta(days=32), "granularity": Granularity.HOUR},
        {"start": NOW - timedelta(days=367), "granularity": Granularity.DAY},
        {"start": datetime(1, 1, 1, tzinfo=UTC)},
        {"start": datetime(9999, 12, 31, tzinfo=UTC), "end": datetime(9999, 12, 31, 23, tzinfo=UTC)},
    ],
)
def test_an_empty_or_boundless_range_is_refused(arguments: dict[str, Any]) -> None:
    """What is read has a bound."""
    with pytest.raises(InvalidInput):
        Desk().usage(**arguments)

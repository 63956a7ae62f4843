"""Why an event did or did not count, and which events did."""

from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from msgspec import structs

from tests.unit.fakes_archive import FakeArchive, archived_count
from tests.unit.fakes_metering import FakeCounters, FakeDirectory
from tollgate.catalog.model import (
    Aggregation,
    BillingPeriod,
    Customer,
    Feature,
    FeatureType,
    Plan,
    PlanFeature,
    Sharding,
    Snapshot,
    Subscription,
    SubscriptionStatus,
)
from tollgate.catalog.periods import Interval, Period
from tollgate.kernel.errors import InvalidInput, NotFound, Unavailable
from tollgate.metering.history import explain, explanation_to_dict, list_events
from tollgate.metering.model import MAX_AGE, MAX_AHEAD, Batch, Count, CounterId, Outcome, Scope, Series

NOW = datetime(2026, 1, 20, 12, tzinfo=UTC)
START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
JANUARY = Period(START, datetime(2026, 2, 1, tzinfo=UTC))
FEATURES = [
    Feature("requests", "Requests", FeatureType.USAGE),
    Feature("tokens", "Tokens", FeatureType.USAGE),
    Feature("support", "Support", FeatureType.BOOLEAN),
    Feature("other", "Other", FeatureType.USAGE),
]
PLAN = Plan(
    code="web",
    version=1,
    name="Web",
    currency="EUR",
    billing_period=BillingPeriod(Interval.MONTH),
    base_price=Decimal(0),
    trial_days=0,
    grace_days=0,
    features=tuple(PlanFeature(feature) for feature in FEATURES[:3]),
)
SUBSCRIPTION = Subscription(
    id="sub",
    customer="ada",
    plan="web",
    plan_version=1,
    starts_at=START,
    anchor=START,
    timezone="UTC",
    billing_period=PLAN.billing_period,
    state=SubscriptionStatus.ACTIVE,
    created_at=START,
    request_digest="",
)


class ShardedDirectory(FakeDirectory):
    """Where the counters of requests are kept in three parts."""

    def snapshots_of(self, customer_ids: Any) -> dict[str, Snapshot]:
        """The subscriptions, and in how many parts."""
        shards = {"requests": (Sharding(START, 3), Sharding(NOW, 2))}
        return {one: replace(found, shards=shards) for one, found in super().snapshots_of(customer_ids).items()}


class VagueCounters(FakeCounters):
    """What they find lies somewhere in 35 days: more is not needed."""

    def find(
        self,
        series: Series,
        hashes: Collection[bytes],
        start: datetime,
        end: datetime,
        spend: Callable[[int], None] = lambda _: None,
    ) -> Period | None:
        """All of them."""
        return Period(NOW - MAX_AGE, NOW + MAX_AHEAD) if super().find(series, hashes, start, end, spend) else None


class World:
    """A catalog, counters and an archive."""

    def __init__(self, directory: type[FakeDirectory] = FakeDirectory) -> None:
        self.directory = directory(
            customers=[Customer("ada"), Customer("bob")],
            features=FEATURES,
            plans=[PLAN],
            subscriptions=[SUBSCRIPTION],
        )
        self.counters: FakeCounters = VagueCounters()
        self.archive = FakeArchive()

    def count(self, *counts: Count, archived: bool = True, counted: bool = True, shard: int = 0) -> None:
        """Archive and count events, or only one of both."""
        counter = counts[0].counter
        batch = Batch(Series(counter.customer, counter.feature, shard), Aggregation.SUM, counts)
        if archived:
            self.archive.put(batch)
        if counted:
            (outcomes,) = self.counters.count([batch], NOW, lambda: 25.0)
            assert set(outcomes) == {Outcome.ACCEPTED}

    def explain(self, event_id: str, customer: str = "ada", *, source: str = "/app", **fields: Any) -> dict[str, Any]:
        """The answer about an event."""
        known: dict[str, Any] = {"archive": self.archive, "time_left": lambda: 29.0} | fields
        explanation = explain(
            event_id, source, customer, directory=self.directory, counters=self.counters, now=NOW, **known
        )
        return explanation_to_dict(explanation)

    def events(self, limit: int = 100, **fields: Any) -> list[dict[str, Any]]:
        """All pages of a listing."""
        found, after = [], None
        while True:
            page, after = list_events(
                "ada",
                "requests",
                directory=self.directory,
                counters=self.counters,
                archive=self.archive,
                now=NOW,
                after=after,
                limit=limit,
                **{"time_left": lambda: 29.0} | fields,
            )
            found += page
            assert len(page) <= limit
            if after is None:
                return found


@pytest.fixture
def world() -> World:
    """Nothing was counted yet."""
    return World()


def event(event_id: str = "e1", quantity: str = "1", *, feature: str = "requests", **fields: Any) -> Count:
    """An event of the day, ready to be counted."""
    known: dict[str, Any] = {"at": NOW - HOUR, "counter": CounterId("ada", feature, "sub", START)} | fields
    return archived_count(event_id, quantity, **known)


def test_a_counted_event_is_shown_as_it_was_counted(world: World) -> None:
    """With its time, quantity and period, whatever feature it was for."""
    world.count(event("e0", feature="tokens"), event("e1", "2.50", feature="tokens", properties={"region": "eu"}))
    shown = world.explain("e1")
    assert shown == {
        "id": "e1",
        "source": "/app",
        "customer": "ada",
        "feature": "tokens",
        "outcome": "counted",
        "time": "2026-01-20T11:00:00Z",
        "period": {"start": "2026-01-01T00:00:00Z", "end": "2026-02-01T00:00:00Z"},
        "subscription": "sub",
        "quantity": "2.5",
        "properties": {"region": "eu"},
        "reason": None,
        "detail": "It was counted at 2026-01-20T11:00:00Z.",
    }


@pytest.mark.parametrize("scope", Scope)
def test_an_event_is_found_whatever_it_is_deduplicated_by(world: World, scope: Scope) -> None:
    """With no time of its own, by that of its receipt."""
    told = scope is not Scope.RECEIPT
    until = NOW + timedelta(days=35) if scope is Scope.ID else None
    world.count(structs.replace(event(scope=scope, told=told), until=until))
    shown = world.explain("e1")
    assert (shown["outcome"], shown["time"]) == ("counted", "2026-01-20T11:00:00Z")


def test_another_source_feature_or_customer_is_another_event(world: World) -> None:
    """Each alone makes it unknown."""
    world.count(event())
    assert world.explain("e1", source="/other")["outcome"] == "unknown"
    assert world.explain("e1", feature="tokens")["outcome"] == "unknown"
    assert world.explain("e1", "bob")["outcome"] == "unknown"
    assert world.explain("e2")["outcome"] == "unknown"
    assert world.explain("e1", feature="requests")["outcome"] == "counted"


def test_an_event_that_was_archived_and_never_counted_is_unknown(world: World) -> None:
    """The archive is written first."""
    world.count(event("e0"))
    world.count(event("e1"), counted=False)
    shown = world.explain("e1")
    assert (shown["outcome"], shown["reason"], shown["quantity"]) == ("unknown", None, None)


def test_of_two_bodies_of_one_event_the_counted_one_is_shown(world: World) -> None:
    """The other was a conflict."""
    world.count(event("e1", "1"))
    world.count(event("e1", "9"), counted=False)
    assert world.explain("e1")["quantity"] == "1"


def test_without_an_archive_the_time_is_that_of_the_id(world: World) -> None:
    """Or the one that was asked with; else it is not known."""
    uuid7 = f"{int((NOW - HOUR).timestamp() * 1000):012x}"
    uuid7 = f"{uuid7[:8]}-{uuid7[8:]}-7000-8000-000000000000"
    world.count(event(uuid7), event("e1"))
    expected = ("counted", "2026-01-20T11:00:00Z", "sub", None)
    for shown in (world.explain(uuid7, archive=None), world.explain("e1", archive=None, time=NOW - HOUR)):
        assert (shown["outcome"], shown["time"], shown["subscription"], shown["quantity"]) == expected
        assert shown["period"] == {"start": "2026-01-01T00:00:00Z", "end": "2026-02-01T00:00:00Z"}
    shown = world.explain("e1", archive=None)
    assert (shown["outcome"], shown["time"], shown["period"]) == ("counted", None, None)
    assert "the archive lacks it" in shown["detail"]


def test_an_event_whose_id_tells_another_time_than_it_tells_itself_is_found(world: World) -> None:
    """It counts at its own time."""
    uuid7 = f"{int((NOW - 300 * HOUR).timestamp() * 1000):012x}"
    uuid7 = f"{uuid7[:8]}-{uuid7[8:]}-7000-8000-000000000000"
    world.count(event(uuid7))
    assert world.explain(uuid7)["time"] == "2026-01-20T11:00:00Z"


def test_an_event_of_a_sharded_counter_is_found_in_its_shard() -> None:
    """Also in one that the present schedule no longer has."""
    world = World(ShardedDirectory)
    world.count(event("e0"))
    world.count(event("e2", "3"), shard=2)
    assert world.explain("e2")["quantity"] == "3"


@pytest.mark.parametrize(
    ("customer", "fields", "reason"),
    [
        ("eve", {}, "customer_not_found"),
        ("ada", {"feature": "unheard-of"}, "feature_not_found"),
        ("ada", {"time": NOW - timedelta(days=36)}, "too_old"),
        ("ada", {"time": NOW + timedelta(minutes=6)}, "in_the_future"),
        ("ada", {"event_id": "ffffffff-ffff-7000-8000-000000000000"}, "in_the_future"),
        ("ada", {"event_id": "00000000-0000-7000-8000-000000000000"}, "too_old"),
        ("bob", {}, "no_subscription"),
        ("ada", {"time": START - HOUR}, "no_subscription"),
        ("ada", {"feature": "other"}, "feature_not_in_plan"),
        ("ada", {"feature": "support"}, "not_metered"),
        ("ada", {"feature": "requests"}, None),
        ("ada", {}, None),
    ],
)
def test_an_unknown_event_is_told_what_would_keep_it_from_counting(
    world: World, customer: str, fields: dict[str, Any], reason: str | None
) -> None:
    """By the same words as ingest."""
    shown = world.explain(**{"event_id": "e1", "customer": customer} | fields)
    assert (shown["outcome"], shown["reason"]) == ("unknown", reason)
    assert ("would be rejected" in shown["detail"]) == (reason is not None)
    assert shown["feature"] == fields.get("feature")


def test_a_listing_has_the_counted_events_alone_by_time(world: World) -> None:
    """Each once, of that customer and feature, of [from, to)."""
    sent = [event(f"e{n}", str(n), at=NOW - n * HOUR) for n in range(1, 8)]
    world.count(*sent)
    world.count(*sent[2:5], counted=False, shard=0)
    world.count(event("lost"), counted=False)
    world.count(event("e2", "99", at=NOW - 2 * HOUR), counted=False)
    world.count(event("e1", feature="tokens"))
    assert [one["id"] for one in world.events()] == [f"e{n}" for n in range(7, 0, -1)]
    assert [one["id"] for one in world.events(start=NOW - 4 * HOUR, end=NOW - HOUR)] == ["e4", "e3", "e2"]
    assert world.events()[-1] == {
        "id": "e1",
        "source": "/app",
        "time": "2026-01-20T11:00:00Z",
        "quantity": "1",
        "properties": None,
        "subscription": "sub",
        "period": {"start": "2026-01-01T00:00:00Z", "end": "2026-02-01T00:00:00Z"},
    }


@pytest.mark.parametrize("limit", [1, 3, 50])
def test_pages_of_a_listing_follow_each_other(limit: int) -> None:
    """Whatever was archived and not counted, in whatever shard."""
    world = World(ShardedDirectory)
    sent = [event(f"e{n:02d}", at=NOW - (60 - n) * HOUR / 4) for n in range(30)]
    for shard in range(3):
        world.count(*sent, counted=False, shard=shard)
        world.count(*sent[shard::3], shard=shard)
    assert [one["id"] for one in world.events(limit)] == [count.event.id for count in sent]


def test_a_page_is_no_larger_than_a_function_can_answer_with(world: World) -> None:
    """However much the events hold, each comes once; one that is larger than a page comes by itself."""
    sizes = [400_000, 400_000, 600_000, 1_100_000, 10, 10]
    for number, size in enumerate(sizes):
        world.count(event(f"e{number}", at=NOW - HOUR + timedelta(minutes=number), properties={"text": "x" * size}))
    pages: list[list[str]] = []
    after = None
    while not pages or after is not None:
        known: dict[str, Any] = {"archive": world.archive, "time_left": lambda: 29.0, "limit": 100, "after": after}
        page, after = list_events(
            "ada", "requests", directory=world.directory, counters=world.counters, now=NOW, **known
        )
        pages.append([one["id"] for one in page])
    assert pages == [["e0", "e1", "e2"], ["e3"], ["e4", "e5"]]


def test_a_listing_goes_on_where_nothing_of_a_page_was_counted(world: World) -> None:
    """Its cost stays bounded: pages may be empty, and the last is known by having none after it."""
    world.count(*(event(f"lost{n:03d}", at=NOW - HOUR + timedelta(seconds=n)) for n in range(100)), counted=False)
    world.count(event("found", at=NOW - timedelta(minutes=1)))
    assert [one["id"] for one in world.events(limit=1)] == ["found"]


def test_a_listing_of_what_does_not_exist_is_not_found(world: World) -> None:
    """A customer, a feature; and an empty range is refused."""
    arguments: dict[str, Any] = {
        "directory": world.directory,
        "counters": world.counters,
        "archive": world.archive,
        "now": NOW,
        "time_left": lambda: 29.0,
        "limit": 1,
    }
    with pytest.raises(NotFound, match="no customer eve"):
        list_events("eve", "requests", **arguments)
    with pytest.raises(NotFound, match="no feature unheard-of"):
        list_events("ada", "unheard-of", **arguments)
    with pytest.raises(InvalidInput, match="before `to`"):
        list_events("ada", "requests", start=NOW, end=NOW, **arguments)


class ManyIds(FakeCounters):
    """With a million and one ids to look through, page by page; how many have been is `read`."""

    read = 0

    def find(
        self,
        series: Series,
        hashes: Collection[bytes],
        start: datetime,
        end: datetime,
        spend: Callable[[int], None] = lambda _: None,
    ) -> Period | None:
        """None of them."""
        for size in (1_000,) * 1_001:
            self.read += size
            spend(size)
        return super().find(series, hashes, start, end)


def test_no_more_is_looked_through_for_an_event_than_a_million_ids(world: World) -> None:
    """However many the customer has: the question is too wide then, and says what would narrow it."""
    world.counters = many = ManyIds()
    with pytest.raises(InvalidInput) as refused:
        world.explain("e1")
    assert [error.pointer for error in refused.value.errors] == ["/time"]
    assert many.read == 1_001_000


def test_an_event_is_looked_for_as_long_as_there_is_time(world: World) -> None:
    """Then the answer is that it may be asked for again, not that it is unknown."""
    world.counters = many = ManyIds()
    left = iter(range(29, 0, -1))
    with pytest.raises(Unavailable):
        world.explain("e1", time_left=lambda: next(left))
    assert many.read == 22_000


def test_a_page_ends_where_time_does_and_the_next_goes_on(world: World) -> None:
    """Where most of what was archived was not counted, a page would else be looked for too long."""
    for number in range(60):
        count = archived_count(f"e{number}", at=NOW - HOUR + timedelta(minutes=number))
        world.count(count, counted=number % 10 == 0)
    found: list[str] = []
    after, pages = None, 0
    while pages == 0 or after is not None:
        left = iter([29.0, 14.0])
        page, after = list_events(
            "ada",
            "requests",
            directory=world.directory,
            counters=world.counters,
            archive=world.archive,
            now=NOW,
            time_left=lambda left=left: next(left),  # type: ignore[misc]
            after=after,
            limit=5,
        )
        found += [one["id"] for one in page]
        pages += 1
    assert found == [f"e{number}" for number in range(0, 60, 10)]
    assert pages == 12, "one reading of the archive for each"

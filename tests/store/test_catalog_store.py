"""What the use cases rely on, of the catalog in DynamoDB and of its fake alike."""

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import boto3
import pytest

from tests.unit.fakes_catalog import MemoryCatalog
from tests.unit.fakes_recovery import NOW
from tollgate.catalog.deliveries import Lease
from tollgate.catalog.keys import ApiKey, KeyLimit
from tollgate.catalog.life import Standing, When, Who, cancel, created, pause
from tollgate.catalog.model import (
    Aggregation,
    BillingPeriod,
    Customer,
    Dedupe,
    Feature,
    FeatureType,
    Overage,
    Plan,
    PlanFeature,
    Quota,
    Rate,
    RateAlgorithm,
    Sharding,
    Snapshot,
    Subscription,
    SubscriptionStatus,
    Threshold,
    subscription_to_dict,
)
from tollgate.catalog.periods import Interval
from tollgate.catalog.service import put_plan
from tollgate.catalog.store import DynamoCatalog, DynamoOnce, SubscriptionsItem, cursor_secret, standing_write
from tollgate.catalog.webhooks import Webhook
from tollgate.kernel.dynamodb import UsageTable, connect, write_all
from tollgate.kernel.errors import Conflict, Unavailable
from tollgate.pricing.model import Flat, Package, PartialPackage, Price, Tier, Tiered, Volume, ZeroUsage

D = Decimal
Store = MemoryCatalog | DynamoCatalog

API_CALLS = Feature("api-calls", "API calls \N{SNOWMAN}", FeatureType.USAGE, "call", Aggregation.COUNT, Dedupe.ID)
SEATS = Feature("seats", "Seats", FeatureType.QUOTA)


@pytest.fixture(params=["memory", "dynamodb"])
def store(request: pytest.FixtureRequest) -> Store:
    """An empty catalog, of either kind."""
    if request.param == "memory":
        return MemoryCatalog()
    request.getfixturevalue("tables")
    return DynamoCatalog()


def plan(version: int = 1, code: str = "pro", **change: Any) -> Plan:
    """A version of a plan."""
    quota = PlanFeature(SEATS, quota=Quota(D(500), Overage.ALLOW))
    made = Plan(code, version, "Pro", "EUR", BillingPeriod(Interval.MONTH, 3), D("20.00"), 14, 7, (quota,))
    return replace(made, **change)


def subscription(subscription_id: str = "sub-1", customer: str = "acme", **change: Any) -> Subscription:
    """A subscription."""
    made = Subscription(
        id=subscription_id,
        customer=customer,
        plan="pro",
        plan_version=1,
        starts_at=NOW,
        anchor=NOW + timedelta(days=14, microseconds=1),
        timezone="Europe/Berlin",
        billing_period=BillingPeriod(Interval.YEAR, 2),
        state=SubscriptionStatus.PAST_DUE,
        created_at=NOW,
        request_digest="d1",
    )
    return replace(made, **change)


def key(key_id: str = "k1", **change: Any) -> ApiKey:
    """A key."""
    return replace(ApiKey(key_id, "ci", ("usage:read", "admin"), "ab" * 32, NOW), **change)


# Features


def test_a_feature_comes_back_as_it_was_written(store: Store) -> None:
    """With all that never changes; what is not there is None."""
    assert store.feature("api-calls") is None
    for feature in (API_CALLS, SEATS):
        assert store.save_feature(feature)
        assert store.feature(feature.code) == feature


def test_a_feature_may_change_its_name_and_unit_alone(store: Store) -> None:
    """A write that would change its type, aggregation or dedupe is refused as a whole."""
    renamed = replace(API_CALLS, name="Calls", unit=None)
    assert store.save_feature(API_CALLS)
    assert store.save_feature(renamed)
    for change in ({"type": FeatureType.QUOTA}, {"aggregation": Aggregation.SUM}, {"dedupe": Dedupe.TIME}):
        assert not store.save_feature(replace(API_CALLS, name="Other", **change))
    assert store.feature("api-calls") == renamed


def test_features_are_read_many_at_once(store: Store) -> None:
    """Those that exist, however many and however often they are asked for."""
    features = {f"f{number}": Feature(f"f{number}", "F", FeatureType.USAGE) for number in range(120)}
    for feature in features.values():
        store.save_feature(feature)
    assert store.features([*features, "unknown", "f0", "f0"]) == features
    assert store.features([]) == {}


# Plans


def test_a_plan_version_comes_back_as_it_was_written(store: Store) -> None:
    """With every kind of price, quota and rate, to the last digit."""
    tiers = (Tier(D("0.000000000000000001"), D("9" * 20), D("0.5")), Tier(None, D(0)))
    prices: tuple[Price, ...] = (
        *(Flat(D("0.05"), D(10)), Tiered(tiers, zero_usage=ZeroUsage.FLAT), Volume(tiers, minimum_amount=D("1.10"))),
        Package(D(500), D(20), D(1), PartialPackage.ROUND_DOWN, maximum_amount=D(100)),
    )
    rates = [Rate(D("0.5"), 60 + number, algorithm) for number, algorithm in enumerate(RateAlgorithm)]
    granted = (
        *(PlanFeature(replace(API_CALLS, code=f"p{n}"), price=price) for n, price in enumerate(prices)),
        *(PlanFeature(Feature(f"r{n}", "R", FeatureType.RATE), rate=rate) for n, rate in enumerate(rates)),
        *(PlanFeature(SEATS, quota=Quota(D("1.5"), Overage.BLOCK)),),
        PlanFeature(Feature("sso", "SSO", FeatureType.BOOLEAN), enabled=False),
    )
    full = plan(features=granted)
    assert store.add_plan_version(full)
    assert store.plan("pro", 1) == store.plan("pro") == full
    assert str(getattr(store.plan("pro"), "base_price", None)) == "20.00"


def test_the_latest_version_is_the_one_written_last(store: Store) -> None:
    """Those before it stay as they were."""
    assert store.plan("pro") is None
    versions = [plan(number, base_price=D(number)) for number in (1, 2, 3)]
    for version in versions:
        assert store.add_plan_version(version)
        assert store.plan("pro") == version
    assert [store.plan("pro", number) for number in (1, 2, 3)] == versions
    assert store.plan("pro", 4) is None
    assert store.plan("other", 1) is None


@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_version_is_written_only_after_the_one_before_it_and_only_once(store: Store, number: int) -> None:
    """Of two writers that read the same latest version, one loses and changes nothing."""
    first, second = plan(1), plan(2, base_price=D(30))
    assert store.add_plan_version(first)
    assert store.add_plan_version(second)
    assert not store.add_plan_version(plan(number, name="Rival"))
    assert store.plan("pro") == second
    assert [store.plan("pro", one) for one in (1, 2, 4)] == [first, second, None]


def test_a_first_version_needs_no_other(store: Store) -> None:
    """And nothing comes before it."""
    assert not store.add_plan_version(plan(2))
    assert store.plan("pro") is None
    assert store.plan("pro", 2) is None


def test_a_version_that_was_not_there_is_looked_for_again(store: Store) -> None:
    """Only what exists is remembered for ever."""
    assert store.plan("pro", 1) is None
    assert store.add_plan_version(plan())
    assert store.plan("pro", 1) == plan()


def test_a_plan_keeps_its_features_as_they_were_when_it_was_made(store: Store) -> None:
    """A feature renamed since is the same feature; the plan says what it said."""
    store.save_feature(SEATS)
    put_plan(store, plan(0))
    store.save_feature(replace(SEATS, name="Places"))
    granted = store.plan("pro", 1)
    assert granted is not None
    assert granted.features[0].feature == SEATS


# Customers


def test_a_customer_comes_back_as_it_was_written_last(store: Store) -> None:
    """A write replaces all of it."""
    full = Customer("acme", "ACME", "a@acme.example", "Europe/Berlin", {"crm": "7", "": "\N{SNOWMAN}"})
    assert store.customer("acme") is None
    for customer in (full, Customer("acme")):
        store.save_customer(customer)
        assert store.customer("acme") == customer


def test_customers_are_read_many_at_once(store: Store) -> None:
    """Those that exist, over a hundred too."""
    customers = {f"c{number}": Customer(f"c{number}") for number in range(120)}
    for customer in customers.values():
        store.save_customer(customer)
    assert store.customers([*customers, "nobody", "c0"]) == customers


# Subscriptions


def test_a_subscription_comes_back_as_it_was_written(store: Store) -> None:
    """By its id and among those of its customer."""
    assert store.subscription("sub-1") is None
    assert store.subscriptions("acme") == ()
    assert store.add_subscription(subscription())
    assert store.subscription("sub-1") == subscription()
    assert store.subscriptions("acme") == (subscription(),)


def test_a_subscription_id_is_taken_once(store: Store) -> None:
    """By another customer neither; the refusal changes nothing."""
    assert store.add_subscription(subscription())
    assert not store.add_subscription(subscription(request_digest="d2"))
    assert not store.add_subscription(subscription(customer="other"))
    assert store.subscription("sub-1") == subscription()
    assert store.subscriptions("acme") == (subscription(),)
    assert store.subscriptions("other") == ()


def test_a_customer_has_many_subscriptions_in_the_order_they_were_made(store: Store) -> None:
    """Those of others stay theirs."""
    mine = tuple(subscription(f"sub-{number}") for number in (3, 1, 2))
    others = subscription("sub-4", "other")
    for one in (*mine[:2], others, mine[2]):
        assert store.add_subscription(one)
    assert store.subscriptions("acme") == mine
    assert store.snapshots_of(["acme", "other", "nobody"]) == {"acme": Snapshot(mine), "other": Snapshot((others,))}
    assert [store.subscription(f"sub-{number}") for number in (1, 2, 3)] == [mine[1], mine[2], mine[0]]


def test_names_that_look_like_keys_are_told_apart(store: Store) -> None:
    """A colon, a dot or a customer called like a kind of item mixes nothing up."""
    for customer in ("a", "a:b", "a.b", "CUSTOMER", "SUBSCRIPTIONS"):
        assert store.add_subscription(subscription(f"{customer}:1", customer))
    for customer in ("a", "a:b", "a.b", "CUSTOMER", "SUBSCRIPTIONS"):
        assert [one.id for one in store.subscriptions(customer)] == [f"{customer}:1"]


def test_many_customers_are_written_with_their_first_subscription(store: Store) -> None:
    """More than a request holds; afterwards they are customers like all others."""
    newcomers = [
        (Customer(f"c{number:03d}", timezone="Asia/Tokyo"), subscription(f"s{number:03d}", f"c{number:03d}"))
        for number in range(120)
    ]
    assert store.add_customers(newcomers) == 120
    for customer, first in (newcomers[0], newcomers[-1]):
        assert store.customer(customer.id) == customer
        assert store.subscription(first.id) == first
        second = subscription(f"{first.id}-2", customer.id)
        assert store.add_subscription(second)
        assert store.subscriptions(customer.id) == (first, second)
    assert set(store.snapshots_of(customer.id for customer, _ in newcomers)) == {one.id for one, _ in newcomers}


def test_a_customer_that_has_a_subscription_is_left_as_it_is(store: Store) -> None:
    """A load that broke off can be run again."""
    old = Customer("acme", "ACME")
    store.save_customer(old)
    assert store.add_subscription(subscription())
    again = [(Customer("acme", "New"), subscription("sub-2")), (Customer("b"), subscription("sub-3", "b"))]
    assert store.add_customers(again) == 1
    assert store.add_customers(again) == 0
    assert store.customer("acme") == old
    assert store.subscriptions("acme") == (subscription(),)
    assert store.subscription("sub-2") is None
    assert store.subscription("sub-3") == subscription("sub-3", "b")


# Lives

WHO = Who("key_1", "why not", ("key", "digest"))


def test_a_life_comes_back_as_it_was_written(store: Store) -> None:
    """The subscription with its history and how far it is billed; the rest of the snapshot is left alone."""
    assert store.life("sub-1") is None
    store.update_snapshot("acme", lambda _: Snapshot(shards={"api-calls": (FOUR,)}))
    assert store.add_subscription(subscription(), Who("key_0", "subscribed"))
    assert store.add_subscription(subscription("sub-2"))
    life = store.life("sub-1")
    assert life is not None
    assert life.history == (created(subscription(), Who("key_0", "subscribed")),)
    assert life.standing == Standing("acme", entries=1)
    made = pause(life, WHO, at=NOW + timedelta(days=1))
    assert store.change_life(life, *made)
    after = store.life("sub-1")
    assert after is not None
    assert (after.subscription, after.history[1:]) == (made[0], (made[1],))
    assert after.standing == Standing("acme", revision=1, entries=2)
    assert store.snapshot("acme") == Snapshot((made[0], subscription("sub-2")), {"api-calls": (FOUR,)})


def test_of_two_changes_of_one_life_the_second_is_refused(store: Store) -> None:
    """And writes nothing."""
    assert store.add_subscription(subscription())
    life = store.life("sub-1")
    assert life is not None
    assert store.change_life(life, *pause(life, WHO, at=NOW + timedelta(days=1)))
    after = store.life("sub-1")
    ended = cancel(life, When.NOW, WHO, at=NOW + timedelta(days=2))
    assert ended is not None
    assert not store.change_life(life, *ended)
    assert store.life("sub-1") == after


def test_what_billing_must_look_at_is_found_by_when(tables: None) -> None:
    """The longest due first; what is not due yet is not found."""
    assert tables is None
    store = DynamoCatalog()
    for name, days in (("late", 3), ("early", 1), ("far", 30)):
        start = NOW + timedelta(days=days)
        assert store.add_subscription(subscription(name, starts_at=start, anchor=start))
    assert list(store.due(NOW)) == []
    found = list(store.due(NOW + timedelta(days=3)))
    assert found == [("early", NOW + timedelta(days=1)), ("late", NOW + timedelta(days=3))]
    life = store.life("early")
    assert life is not None
    standing = replace(life.standing, revision=1, billed_until=NOW + timedelta(days=1))
    assert write_all([standing_write(replace(life, standing=standing))])
    assert not write_all([standing_write(replace(life, standing=standing))])
    assert [name for name, _ in store.due(NOW + timedelta(days=3))] == ["late"]


# Snapshots

FOUR = Sharding(NOW + timedelta(minutes=15), 4)
ALERTS = (Threshold(percent=D("80.5")), Threshold(quantity=D("12345678901234567890.000000000000000001")))


def test_a_snapshot_comes_back_as_it_was_written(store: Store) -> None:
    """Whatever is in it; a customer of whom nothing is kept is left out."""
    for made in (
        Snapshot(shards={"api-calls": (FOUR, Sharding(NOW + timedelta(days=1), 1)), "other": (FOUR,)}),
        Snapshot(alerts={"seats": ALERTS}),
        Snapshot((subscription(),), {"api-calls": (FOUR,)}, {"seats": ALERTS}),
    ):
        assert store.update_snapshot("acme", lambda _, made=made: made)  # type: ignore[misc]
        assert store.snapshot("acme") == made
        assert store.snapshots_of(["acme", "nobody"]) == {"acme": made}
    assert store.update_snapshot("acme", lambda _: Snapshot())
    assert store.snapshot("acme") == store.snapshot("nobody") == Snapshot()
    assert store.snapshots_of(["acme", "nobody"]) == {}


def test_a_subscription_leaves_the_rest_of_the_snapshot_alone(store: Store) -> None:
    """So does a load of many."""
    rest = Snapshot(shards={"api-calls": (FOUR,)}, alerts={"seats": ALERTS})
    for customer in ("acme", "b"):
        store.update_snapshot(customer, lambda _: rest)
    assert store.add_subscription(subscription())
    assert store.snapshot("acme") == replace(rest, subscriptions=(subscription(),))
    newcomers = [(Customer(name), subscription(f"sub-{name}", name)) for name in ("acme", "b")]
    assert store.add_customers(newcomers) == 1
    assert store.snapshot("acme") == replace(rest, subscriptions=(subscription(),))
    assert store.snapshot("b") == replace(rest, subscriptions=(subscription("sub-b", "b"),))
    assert store.add_subscription(subscription("sub-b2", "b"))


def test_a_change_that_fails_writes_nothing(store: Store) -> None:
    """Of a snapshot or of the webhooks."""

    def fail(_: Any) -> Any:
        raise Conflict("no")

    with pytest.raises(Conflict):
        store.update_snapshot("acme", fail)
    with pytest.raises(Conflict):
        store.update_webhooks(fail)
    assert store.snapshot("acme") == Snapshot()
    assert store.webhooks() == ()


@pytest.mark.usefixtures("tables")
def test_a_snapshot_or_webhooks_that_another_changes_meanwhile_are_not_written() -> None:
    """The other's change stays."""
    store, mine = DynamoCatalog(), Snapshot(shards={"api-calls": (FOUR,)})
    others = Snapshot(alerts={"seats": ALERTS})

    def late(_: Snapshot) -> Snapshot:
        assert store.update_snapshot("acme", lambda _: others)
        return mine

    assert not store.update_snapshot("acme", late)
    assert store.snapshot("acme") == others

    def late_too(_: tuple[Webhook, ...]) -> tuple[Webhook, ...]:
        assert store.update_webhooks(lambda _: (webhook("w2"),))
        return (webhook("w1"),)

    assert not store.update_webhooks(late_too)
    assert store.webhooks() == (webhook("w2"),)


@pytest.mark.usefixtures("tables")
def test_a_snapshot_that_was_written_before_there_were_shards_and_alerts_is_read() -> None:
    """It has subscriptions alone."""
    item = SubscriptionsItem("CUSTOMER#acme", "SUBSCRIPTIONS", subscriptions=[subscription_to_dict(subscription())])
    connect(UsageTable)
    item.save()
    assert set(item.serialize()) == {"pk", "sk", "kind", "version", "subscriptions"}
    assert DynamoCatalog().snapshot("acme") == Snapshot((subscription(),))


# Webhooks


def webhook(webhook_id: str = "w1", **change: Any) -> Webhook:
    """A webhook."""
    made = Webhook(webhook_id, "https://receiver.example/", ("usage.threshold_reached",), "whsec_AAAA", NOW)
    return replace(made, **change)


def test_webhooks_come_back_as_they_were_written(store: Store) -> None:
    """In their order; none at first."""
    assert store.webhooks() == ()
    made = (webhook("b"), webhook("a", disabled_at=NOW + timedelta(microseconds=1), events=("x", "y")))
    assert store.update_webhooks(lambda _: made)
    assert store.webhooks() == made
    assert store.update_webhooks(lambda before: before[1:])
    assert store.webhooks() == made[1:]


# Events that leave


@pytest.mark.usefixtures("tables")
def test_an_event_is_sent_by_one_at_a_time_and_never_again() -> None:
    """A lease that nobody gave back ends after a minute."""
    once, later = DynamoOnce(), NOW + timedelta(days=90)

    def claim(at: datetime, sk: str = "percent#80") -> Lease | None:
        return once.claim("ALERT#acme", sk, now=at, kept_until=later)

    first = claim(NOW)
    assert first == Lease("ALERT#acme", "percent#80", NOW + timedelta(minutes=1), later)
    assert claim(NOW, "percent#100") is not None
    with pytest.raises(Unavailable):
        claim(NOW + timedelta(minutes=1))
    second = claim(NOW + timedelta(minutes=1, microseconds=1))
    assert first is not None
    assert second is not None
    once.done(first)  # too late
    with pytest.raises(Unavailable):
        claim(NOW + timedelta(minutes=2))
    once.done(second)
    assert claim(NOW + timedelta(minutes=2)) is None
    assert claim(NOW + timedelta(days=80)) is None


@pytest.mark.usefixtures("tables")
def test_what_was_sent_is_forgotten_by_the_table_in_its_time() -> None:
    """Its ttl is in seconds."""
    later = NOW + timedelta(days=90)
    DynamoOnce().claim("ALERT#acme", "percent#80", now=NOW, kept_until=later)
    [item] = boto3.client("dynamodb").scan(TableName=os.environ["USAGE_TABLE"])["Items"]
    assert item["ttl"] == {"N": str(int(later.timestamp()))}


# Keys


def test_a_key_comes_back_as_it_was_written_until_it_is_deleted(store: Store) -> None:
    """Its scopes in order, its time in UTC to the microsecond."""
    exact = key(created_at=datetime(2026, 1, 31, 9, 30, 0, 1, tzinfo=UTC))
    assert store.key("k1") is None
    assert store.add_key(exact)
    assert store.key("k1") == exact
    assert store.delete_key("k1")
    assert store.key("k1") is None
    assert not store.delete_key("k1")


def test_the_id_of_a_key_is_taken_once(store: Store) -> None:
    """Nobody replaces a key, its hash above all."""
    assert store.add_key(key())
    assert not store.add_key(key(secret_hash="cd" * 32))
    assert store.key("k1") == key()


def test_a_key_comes_back_with_all_it_has(store: Store) -> None:
    """When it ends, its rate limit, when it was used, and the secret before."""
    made = key(expires_at=NOW + timedelta(days=1, microseconds=1), rate_limit=KeyLimit(5, 60))
    assert store.add_key(made)
    assert store.key("k1") == made
    until = NOW + timedelta(hours=3)
    rotated = replace(made, secret_hash="cd" * 32, previous_hash="ab" * 32, previous_until=until, rotations=("r:1",))
    assert store.rotate_key(made, rotated)
    assert store.key("k1") == rotated
    ended = replace(rotated, secret_hash="ef" * 32, previous_hash=None, previous_until=None)
    assert store.rotate_key(rotated, ended)
    assert store.key("k1") == ended
    assert store.list_keys(None, 10) == ([ended], None)


def test_of_two_rotations_of_one_secret_one_is_written(store: Store) -> None:
    """And none of a key that is gone."""
    store.add_key(key())
    assert store.rotate_key(key(), key(secret_hash="cd" * 32))
    assert not store.rotate_key(key(), key(secret_hash="ef" * 32))
    assert store.key("k1") == key(secret_hash="cd" * 32)
    store.delete_key("k1")
    assert not store.rotate_key(key(secret_hash="cd" * 32), key())
    assert store.key("k1") is None


def test_when_a_key_was_used_is_written_once_in_a_time_and_for_no_key_that_is_gone(store: Store) -> None:
    """A rotation leaves it as it is."""
    store.add_key(key())
    store.mark_used("k1", at=NOW, unless_after=NOW - timedelta(hours=1))
    assert store.key("k1") == key(last_used_at=NOW)
    store.mark_used("k1", at=NOW + timedelta(hours=1), unless_after=NOW - timedelta(microseconds=1))
    assert store.key("k1") == key(last_used_at=NOW)
    assert store.rotate_key(key(), key(secret_hash="cd" * 32))
    later = NOW + timedelta(hours=1)
    store.mark_used("k1", at=later, unless_after=NOW)
    assert store.key("k1") == key(secret_hash="cd" * 32, last_used_at=later)
    store.delete_key("k1")
    store.mark_used("k1", at=later, unless_after=later)
    assert store.key("k1") is None


def test_the_requests_of_a_key_are_counted_by_window(store: Store) -> None:
    """A window begins once; who is late counts in the one that has begun; none is counted of a key without a limit."""
    store.add_key(key(rate_limit=KeyLimit(2, 60)))
    assert not store.count_in_window("k1", 7, 2)
    assert store.open_window("k1", 7)
    assert not store.open_window("k1", 7)
    assert not store.open_window("k1", 6)
    assert store.count_in_window("k1", 6, 2)
    assert not store.count_in_window("k1", 7, 2)
    assert not store.count_in_window("k1", 8, 2)
    assert store.open_window("k1", 8)
    store.add_key(key("k2"))
    assert not store.open_window("k2", 8)
    assert not store.count_in_window("k2", 8, 2)


def test_nothing_is_left_of_a_key_that_is_deleted(store: Store) -> None:
    """Nor do authorizers that still know it write anything."""
    store.add_key(key(rate_limit=KeyLimit(2, 60)))
    assert store.open_window("k1", 7)
    assert store.delete_key("k1")
    assert not store.open_window("k1", 8)
    assert not store.count_in_window("k1", 7, 2)
    if isinstance(store, DynamoCatalog):
        assert boto3.client("dynamodb").scan(TableName=os.environ["CATALOG_TABLE"])["Items"] == []


# Lists


def pages(store: Store, listing: str, limit: int) -> Iterator[list[str]]:
    """The names on each page of a list, from the first to the last."""
    last: str | None = None
    while True:
        items, last = getattr(store, f"list_{listing}")(last, limit)
        yield [getattr(item, "code", "") or item.id for item in items]
        if last is None:
            return


@pytest.fixture
def filled(store: Store) -> Store:
    """Five of each, written in no order; plans in two versions."""
    for name in ("c", "e", "a", "d", "b"):
        store.save_feature(Feature(name, name, FeatureType.USAGE))
        store.add_plan_version(plan(1, name))
        store.add_plan_version(plan(2, name, name="Pro 2"))
        store.save_customer(Customer(name))
        store.add_subscription(subscription(f"sub-{name}", name))
        store.add_key(key(name))
    return store


@pytest.mark.parametrize("listing", ["features", "plans", "customers", "keys"])
@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (1, ["a", "b", "c", "d", "e"]),
        (2, ["ab", "cd", "e"]),
        (4, ["abcd", "e"]),
        (5, ["abcde"]),
        (100, ["abcde"]),
    ],
)
def test_a_list_goes_through_all_in_order_and_no_page_is_empty(
    filled: Store, listing: str, limit: int, expected: list[str]
) -> None:
    """A last page that is just full says that nothing follows."""
    assert ["".join(names) for names in pages(filled, listing, limit)] == expected


@pytest.mark.parametrize("listing", ["features", "plans", "customers", "keys"])
def test_a_list_of_nothing_is_one_empty_page(store: Store, listing: str) -> None:
    """With nothing behind it."""
    assert list(pages(store, listing, 10)) == [[]]


def test_a_list_goes_on_after_an_item_that_is_gone(filled: Store) -> None:
    """A cursor names a place and no item."""
    _, last = filled.list_keys(None, 2)
    assert last == "b"
    assert filled.delete_key("b")
    assert [one.id for one in filled.list_keys(last, 2)[0]] == ["c", "d"]


def test_plans_are_listed_in_their_latest_version(filled: Store) -> None:
    """Once each."""
    plans, _ = filled.list_plans(None, 100)
    assert [(one.code, one.version, one.name) for one in plans] == [(code, 2, "Pro 2") for code in "abcde"]


# What only the deployment has


@pytest.mark.usefixtures("tables")
def test_a_version_read_once_is_not_read_again() -> None:
    """It never changes, so a warm function keeps it."""
    store = DynamoCatalog()
    store.add_plan_version(plan())
    assert store.plan("pro", 1) is store.plan("pro", 1)
    assert store.plan("pro") is not store.plan("pro")


@pytest.fixture
def _cold() -> Iterator[None]:
    """Nothing is remembered, before and after."""
    cursor_secret.cache_clear()
    yield
    cursor_secret.cache_clear()


@pytest.mark.usefixtures("tables", "_cold")
def test_all_functions_sign_cursors_with_one_secret() -> None:
    """The first makes it, the others find it; it has 256 bits."""
    first = cursor_secret()
    cursor_secret.cache_clear()
    assert cursor_secret() == first
    assert len(first) == 32

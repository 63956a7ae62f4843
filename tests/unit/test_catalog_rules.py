"""What may be written to the catalog, and what a subscription is at any instant."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.unit.fakes_catalog import MemoryCatalog
from tests.unit.fakes_metering import FakeCounters
from tests.unit.fakes_recovery import NOW, Clock
from tollgate.api.problems import invalid_fields
from tollgate.catalog import service
from tollgate.catalog.life import SUBSCRIBED, Who
from tollgate.catalog.model import (
    Aggregation,
    BillingPeriod,
    Customer,
    Dedupe,
    Feature,
    FeatureType,
    Plan,
    PlanFeature,
    Subscription,
    SubscriptionStatus,
    plan_from_dict,
    plan_to_dict,
    subscription_from_dict,
    subscription_to_dict,
)
from tollgate.catalog.periods import Interval, Period
from tollgate.catalog.schema import PlanBody, SubscriptionView, subscription_view, to_plan
from tollgate.kernel.errors import Conflict, InvalidInput, NotFound
from tollgate.kernel.time import format_time, parse_time
from tollgate.pricing.model import Tier, Tiered

FEATURES = {
    kind.value: Feature(kind.value, kind.value.capitalize(), kind, unit="one" if kind is FeatureType.USAGE else None)
    for kind in FeatureType
}
FLAT = {"model": "flat", "unit_price": "0.05"}
TIERED = {"model": "tiered", "tiers": [{"up_to": "100", "unit_price": "10"}, {"up_to": None, "unit_price": "8"}]}
SOUND: dict[str, Any] = {
    "name": "Pro",
    "currency": "EUR",
    "billing_period": {"interval": "month"},
    "base_price": "20.00",
    "features": [
        {"feature": "usage", "price": TIERED},
        {"feature": "quota", "quota": {"limit": "500", "overage": "allow"}, "price": FLAT},
        {"feature": "rate", "rate": {"limit": "100", "window_seconds": 3600, "algorithm": "sliding"}},
        {"feature": "boolean", "enabled": False},
    ],
}


@pytest.fixture
def catalog() -> MemoryCatalog:
    """A feature of each type, a plan with a trial of none, and a customer."""
    catalog = MemoryCatalog()
    for feature in FEATURES.values():
        assert catalog.save_feature(feature)
    put(catalog, SOUND)
    catalog.save_customer(Customer("acme"))
    return catalog


def put(catalog: MemoryCatalog, body: dict[str, Any], code: str = "pro") -> Plan:
    """What PUT /v1/plans/{code} does with a body."""
    read = PlanBody.model_validate(body)
    plan, faults = to_plan(code, read, catalog.features(granted.feature for granted in read.features))
    return service.put_plan(catalog, plan, faults)


def faults(body: dict[str, Any]) -> list[str]:
    """Where a plan is at fault, in the order told; that nothing is written then holds too."""
    catalog = MemoryCatalog()
    for feature in FEATURES.values():
        catalog.save_feature(feature)
    try:
        put(catalog, body)
    except ValidationError as refusal:
        errors = [{**error, "loc": ("body", *error["loc"])} for error in refusal.errors()]
        found = invalid_fields(errors, body)
    except InvalidInput as refusal:
        found = refusal
    else:
        return []
    assert catalog.plan("pro") is None
    assert all(fault.detail for fault in found.errors)
    return [fault.pointer for fault in found.errors]


def with_feature(**terms: Any) -> dict[str, Any]:
    """A plan with one feature."""
    return SOUND | {"features": [terms]}


def with_price(**price: Any) -> dict[str, Any]:
    """A plan with one price."""
    return with_feature(feature="usage", price=price)


def tiers(*bounds: str | int | None, model: str = "tiered") -> dict[str, Any]:
    """A plan with tiers up to those bounds."""
    return with_price(model=model, tiers=[{"up_to": bound, "unit_price": "1"} for bound in bounds])


# What a plan must keep


@pytest.mark.parametrize("body", [SOUND, SOUND | {"features": []}, tiers("0.5", "1", None), tiers(None)])
def test_a_sound_plan_is_written(body: dict[str, Any]) -> None:
    """The rules below refuse nothing else."""
    assert faults(body) == []


@pytest.mark.parametrize("model", ["tiered", "volume"])
@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ((), ["/tiers"]),
        (("100",), ["/tiers/0/up_to"]),
        (("100", "200"), ["/tiers/1/up_to"]),
        ((None, None), ["/tiers/0/up_to"]),
        ((None, "100"), ["/tiers/0/up_to", "/tiers/1/up_to"]),
        (("100", "100", None), ["/tiers/1/up_to"]),
        (("100", "100.00", None), ["/tiers/1/up_to"]),
        (("200", "100", None), ["/tiers/1/up_to"]),
        (("0", None), ["/tiers/0/up_to"]),
        (("-1", None), ["/tiers/0/up_to"]),
        (("NaN", None), ["/tiers/0/up_to"]),
        (("Infinity", None), ["/tiers/0/up_to"]),
    ],
)
def test_tiers_rise_from_above_zero_to_one_open_end(
    model: str, bounds: tuple[str | None, ...], expected: list[str]
) -> None:
    """None, or two open tiers, an empty list, bounds equal, descending or not above zero are refused."""
    assert faults(tiers(*bounds, model=model)) == [f"/features/0/price{pointer}" for pointer in expected]


@pytest.mark.parametrize(
    ("price", "pointer"),
    [
        ({"model": "flat", "unit_price": "-0.01"}, "/unit_price"),
        ({"model": "flat", "unit_price": "1", "included": "-1"}, "/included"),
        ({"model": "flat", "unit_price": "NaN"}, "/unit_price"),
        ({"model": "flat", "unit_price": "Infinity"}, "/unit_price"),
        ({"model": "flat", "unit_price": 0.05}, "/unit_price"),
        ({"model": "flat"}, "/unit_price"),
        ({"model": "flat", "unit_price": "1", "minimum_amount": "-1"}, "/minimum_amount"),
        ({"model": "flat", "unit_price": "1", "maximum_amount": "-1"}, "/maximum_amount"),
        ({"model": "flat", "unit_price": "1", "minimum_amount": "2", "maximum_amount": "1"}, "/minimum_amount"),
        ({"model": "flat", "unit_price": "1", "zero_usage": "always"}, "/zero_usage"),
        ({"model": "tiered", "tiers": [{"up_to": None, "unit_price": "-1"}]}, "/tiers/0/unit_price"),
        ({"model": "volume", "tiers": [{"up_to": None, "unit_price": "1", "flat_fee": "-1"}]}, "/tiers/0/flat_fee"),
        ({"model": "package", "package_size": "0", "package_price": "1"}, "/package_size"),
        ({"model": "package", "package_size": "-5", "package_price": "1"}, "/package_size"),
        ({"model": "package", "package_size": "5", "package_price": "-1"}, "/package_price"),
        ({"model": "package", "package_size": "5", "package_price": "1", "included": "-1"}, "/included"),
        ({"model": "per_seat", "unit_price": "1"}, "/model"),
        ({"unit_price": "1"}, "/model"),
    ],
)
def test_a_price_that_could_not_be_charged_is_refused(price: dict[str, Any], pointer: str) -> None:
    """Negatives, what is no number, packages of nothing, unknown models; each by its place in the plan."""
    assert faults(with_price(**price)) == [f"/features/0/price{pointer}"]


@pytest.mark.parametrize(
    ("terms", "pointer"),
    [
        ({"feature": "boolean", "price": FLAT}, "/price"),
        ({"feature": "boolean", "quota": {"limit": "1"}}, "/quota"),
        ({"feature": "boolean", "rate": {"limit": "1", "window_seconds": 60}}, "/rate"),
        ({"feature": "quota"}, "/quota"),
        ({"feature": "quota", "quota": None}, "/quota"),
        ({"feature": "quota", "quota": {"limit": "-1"}}, "/quota/limit"),
        ({"feature": "quota", "quota": {"limit": "NaN"}}, "/quota/limit"),
        ({"feature": "quota", "quota": {}}, "/quota/limit"),
        ({"feature": "quota", "quota": {"limit": "1", "overage": "maybe"}}, "/quota/overage"),
        ({"feature": "rate"}, "/rate"),
        ({"feature": "rate", "rate": {"limit": "0", "window_seconds": 60}}, "/rate/limit"),
        ({"feature": "rate", "rate": {"limit": "-1", "window_seconds": 60}}, "/rate/limit"),
        ({"feature": "rate", "rate": {"limit": "1", "window_seconds": 0}}, "/rate/window_seconds"),
        ({"feature": "rate", "rate": {"limit": "1", "window_seconds": 86_401}}, "/rate/window_seconds"),
        ({"feature": "rate", "rate": {"limit": "1", "window_seconds": "60"}}, "/rate/window_seconds"),
        ({"feature": "rate", "rate": {"limit": "1", "window_seconds": 1.5}}, "/rate/window_seconds"),
        ({"feature": "rate", "rate": {"limit": "1", "window_seconds": 60, "algorithm": "leaky"}}, "/rate/algorithm"),
        ({"feature": "usage", "quota": {"limit": "1"}}, "/quota"),
        ({"feature": "usage", "rate": {"limit": "1", "window_seconds": 60}}, "/rate"),
        ({"feature": "unknown"}, "/feature"),
        ({"feature": "not a code"}, "/feature"),
        ({}, "/feature"),
        ({"feature": "usage", "enabled": "yes"}, "/enabled"),
        ({"feature": "usage", "prices": FLAT}, "/prices"),
    ],
)
def test_the_terms_of_a_feature_fit_its_type(terms: dict[str, Any], pointer: str) -> None:
    """A quota feature has a quota, a rate feature a rate, a boolean feature no price; and no other has theirs."""
    assert faults(with_feature(**terms)) == [f"/features/0{pointer}"]


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"currency": "ZZZ"}, "/currency"),
        ({"currency": "XAU"}, "/currency"),
        ({"currency": "eur"}, "/currency"),
        ({"base_price": "-1"}, "/base_price"),
        ({"base_price": "NaN"}, "/base_price"),
        ({"base_price": 20.0}, "/base_price"),
        ({"billing_period": {"interval": "fortnight"}}, "/billing_period/interval"),
        ({"billing_period": {"interval": "month", "count": 0}}, "/billing_period/count"),
        ({"billing_period": {"interval": "month", "count": 121}}, "/billing_period/count"),
        ({"billing_period": {"interval": "month", "count": True}}, "/billing_period/count"),
        ({"trial_days": -1}, "/trial_days"),
        ({"trial_days": 3651}, "/trial_days"),
        ({"grace_days": "7"}, "/grace_days"),
        ({"name": ""}, "/name"),
        ({"discount": "1"}, "/discount"),
    ],
)
def test_the_plan_itself_is_held_to_its_bounds(change: dict[str, Any], pointer: str) -> None:
    """An unknown currency, negatives, floats, unknown keys."""
    assert faults(SOUND | change) == [pointer]


@pytest.mark.parametrize("missing", ["name", "currency", "billing_period"])
def test_what_a_plan_cannot_do_without_is_asked_for(missing: str) -> None:
    """The rest has a default."""
    assert faults({key: value for key, value in SOUND.items() if key != missing}) == [f"/{missing}"]


def test_a_feature_stands_once_in_a_plan() -> None:
    """Or which terms would count?"""
    assert faults(SOUND | {"features": [{"feature": "usage"}, {"feature": "usage"}]}) == ["/features/1/feature"]


def test_all_faults_of_a_plan_are_told_at_once_each_in_its_own_place() -> None:
    """An unknown feature moves no pointer of the features behind it."""
    terms = [
        {"feature": "unknown"},
        {"feature": "boolean", "price": FLAT},
        {"feature": "missing"},
        {"feature": "quota"},
        {"feature": "boolean"},
    ]
    assert sorted(faults(SOUND | {"base_price": "-1", "features": terms})) == [
        *("/base_price", "/features/0/feature", "/features/1/price"),
        *("/features/2/feature", "/features/3/quota", "/features/4/feature"),
    ]


def test_a_plan_that_one_item_could_not_hold_is_refused() -> None:
    """DynamoDB keeps 400 KB; what is over is a fault of the plan and no error of ours."""
    steps = tuple(Tier(Decimal(bound), Decimal("0.000000000000000001")) for bound in range(1, 100))
    price = Tiered((*steps, Tier(None, Decimal(1))))
    granted = [PlanFeature(replace(FEATURES["usage"], code=f"f{number}"), price=price) for number in range(200)]
    with pytest.raises(InvalidInput, match="bytes"):
        service.put_plan(MemoryCatalog(), plain_plan(features=tuple(granted)))
    assert service.put_plan(MemoryCatalog(), plain_plan(features=tuple(granted[:20]))).version == 1


# Versions


def test_the_same_body_makes_no_new_version(catalog: MemoryCatalog) -> None:
    """However its decimals are spelt."""
    assert put(catalog, SOUND).version == 1
    assert put(catalog, SOUND | {"base_price": "20.0"}).version == 1
    assert catalog.plan("pro", 2) is None


@pytest.mark.parametrize(
    "change",
    [
        *({"name": "Pro+"}, {"currency": "USD"}, {"billing_period": {"interval": "month", "count": 3}}),
        *({"base_price": "20.01"}, {"trial_days": 14}, {"grace_days": 7}, {"features": SOUND["features"][:3]}),
        {"features": [*SOUND["features"][:3], {"feature": "boolean", "enabled": True}]},
        {"features": [{"feature": "usage", "price": FLAT}, *SOUND["features"][1:]]},
        {"features": SOUND["features"][::-1]},
    ],
)
def test_a_changed_body_makes_a_new_version_and_leaves_the_old_as_it_was(
    catalog: MemoryCatalog, change: dict[str, Any]
) -> None:
    """Whatever changed; and going back to the first body is a change too."""
    first = catalog.plan("pro", 1)
    assert put(catalog, SOUND | change).version == 2
    assert catalog.plan("pro", 1) == first
    assert put(catalog, SOUND).version == 3


def test_a_plan_with_a_renamed_feature_is_the_same(catalog: MemoryCatalog) -> None:
    """The name and the unit of a feature are no terms of a plan."""
    service.put_feature(catalog, replace(FEATURES["usage"], name="Calls", unit="call"))
    assert put(catalog, SOUND).version == 1


def test_each_plan_counts_its_own_versions(catalog: MemoryCatalog) -> None:
    """Another code begins at 1."""
    assert put(catalog, SOUND, code="basic").version == 1


def test_a_version_survives_being_written_and_read() -> None:
    """A base price comes out as it was sent."""
    body = PlanBody.model_validate(SOUND)
    plan, _ = to_plan("pro", body, FEATURES)
    shown = plan_to_dict(plan)
    assert shown["base_price"] == "20.00"
    assert plan_from_dict(shown, FEATURES) == plan


class Contended(MemoryCatalog):
    """Another writer comes between each read and write, so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def add_plan_version(self, plan: Plan) -> bool:
        """Lose the race as long as there are rivals."""
        if self.times:
            self.times -= 1
            super().add_plan_version(replace(plan, name=f"Rival {plan.version}"))
        return super().add_plan_version(plan)

    def add_subscription(self, subscription: Subscription, who: Who = SUBSCRIBED) -> bool:
        """Lose the race as long as there are rivals."""
        if self.times:
            self.times -= 1
            return False
        return super().add_subscription(subscription, who)


def plain_plan(**change: Any) -> Plan:
    """A monthly plan without features."""
    plan = Plan("pro", 0, "Pro", "EUR", BillingPeriod(Interval.MONTH), Decimal(20), 0, 0, ())
    return replace(plan, **change)


def test_a_lost_race_is_run_again_on_what_the_winner_left() -> None:
    """Both versions are kept, one after the other."""
    catalog = Contended(times=2)
    assert service.put_plan(catalog, plain_plan()).version == 3
    names = [service.plan(catalog, "pro", version).name for version in (1, 2, 3)]
    assert names == ["Rival 1", "Rival 2", "Pro"]


def test_a_race_that_does_not_end_is_a_conflict() -> None:
    """The caller may send the request again."""
    with pytest.raises(Conflict):
        service.put_plan(Contended(times=100), plain_plan())


def test_what_is_not_there_is_not_found(catalog: MemoryCatalog) -> None:
    """And is called by its name."""
    for find in (service.feature, service.plan, service.customer, service.subscription):
        with pytest.raises(NotFound, match="nothing"):
            find(catalog, "nothing")
    with pytest.raises(NotFound, match="pro version 7"):
        service.plan(catalog, "pro", 7)
    assert service.plan(catalog, "pro", 1) == service.plan(catalog, "pro")


# Features and customers


def test_a_feature_may_change_its_name_and_unit(catalog: MemoryCatalog) -> None:
    """No count rests on them."""
    renamed = replace(FEATURES["usage"], name="Calls", unit=None)
    assert service.put_feature(catalog, renamed) == renamed == service.feature(catalog, "usage")


@pytest.mark.parametrize(
    "change", [{"type": FeatureType.QUOTA}, {"aggregation": Aggregation.MAX}, {"dedupe": Dedupe.ID}]
)
def test_a_feature_never_changes_what_its_counts_rest_on(catalog: MemoryCatalog, change: dict[str, Any]) -> None:
    """Type, aggregation and dedupe; the refusal changes nothing, the name neither."""
    with pytest.raises(Conflict):
        service.put_feature(catalog, replace(FEATURES["usage"], name="Calls", **change))
    assert service.feature(catalog, "usage") == FEATURES["usage"]


@pytest.mark.parametrize("timezone", ["Mars/Olympus", "", "utc ", "localtime", "+01:00", "../UTC"])
def test_a_customer_lives_in_a_time_zone_of_the_iana_database(catalog: MemoryCatalog, timezone: str) -> None:
    """Its periods follow it."""
    with pytest.raises(InvalidInput) as refusal:
        service.put_customer(catalog, Customer("new", timezone=timezone))
    assert [fault.pointer for fault in refusal.value.errors] == ["/timezone"]
    assert catalog.customer("new") is None


# Subscribing


def subscribe(catalog: MemoryCatalog, **request: Any) -> Subscription:
    """What POST /v1/subscriptions does."""
    asked: dict[str, Any] = {"customer": "acme", "plan": "pro", "clock": Clock()} | request
    return service.subscribe(catalog, gates=FakeCounters(), **asked)


def refused(catalog: MemoryCatalog, **request: Any) -> list[str]:
    """Where a request for a subscription is at fault; nothing is written then."""
    before = catalog.subscriptions("acme")
    with pytest.raises(InvalidInput) as refusal:
        subscribe(catalog, **request)
    assert catalog.subscriptions("acme") == before
    return [fault.pointer for fault in refusal.value.errors]


def test_a_subscription_takes_the_latest_version_and_keeps_it(catalog: MemoryCatalog) -> None:
    """A version made later is for those who come later."""
    first = subscribe(catalog)
    put(catalog, SOUND | {"base_price": "30"})
    assert (first.plan_version, subscribe(catalog).plan_version) == (1, 2)
    assert service.subscription(catalog, first.id) == first


def test_a_subscription_begins_now_in_the_time_zone_of_its_customer(catalog: MemoryCatalog) -> None:
    """A customer that moves keeps the periods it has."""
    service.put_customer(catalog, Customer("acme", timezone="Europe/Berlin"))
    made = subscribe(catalog)
    assert (made.starts_at, made.anchor, made.created_at, made.timezone) == (NOW, NOW, NOW, "Europe/Berlin")
    service.put_customer(catalog, Customer("acme", timezone="Asia/Tokyo"))
    assert service.subscription(catalog, made.id).timezone == "Europe/Berlin"


def test_an_unknown_customer_and_plan_are_both_pointed_at(catalog: MemoryCatalog) -> None:
    """As they stand in the body."""
    assert refused(catalog, customer="nobody", plan="none") == ["/customer", "/plan"]


def test_a_start_may_lie_in_the_past_but_not_in_the_future(catalog: MemoryCatalog) -> None:
    """Five minutes ahead are forgiven to clocks."""
    past = NOW - timedelta(days=400)
    assert subscribe(catalog, starts_at=past).starts_at == past
    ahead = NOW + timedelta(minutes=5)
    assert subscribe(catalog, starts_at=ahead).starts_at == ahead
    assert refused(catalog, starts_at=ahead + timedelta(microseconds=1)) == ["/starts_at"]


@pytest.mark.parametrize("timezone", ["UTC", "America/New_York"])
def test_a_start_is_taken_only_if_its_periods_can_be_told(catalog: MemoryCatalog, timezone: str) -> None:
    """What could be written and never read again is refused: in New York the year 1 has not begun."""
    put(catalog, SOUND | {"billing_period": {"interval": "year", "count": 120}})
    service.put_customer(catalog, Customer("acme", timezone=timezone))
    first_day = datetime(1, 1, 1, tzinfo=UTC)
    if timezone == "UTC":
        assert subscribe(catalog, starts_at=first_day).period(NOW).start == datetime(1921, 1, 1, tzinfo=UTC)
    else:
        assert refused(catalog, starts_at=first_day) == ["/starts_at"]


@pytest.mark.parametrize(
    ("period", "days"),
    [
        ({"interval": "day", "count": 1}, 10_000),
        ({"interval": "week", "count": 2}, 140_000),
        ({"interval": "month", "count": 1}, 280_000),
    ],
)
def test_a_start_has_no_more_than_ten_thousand_periods_behind_it(
    catalog: MemoryCatalog, period: dict[str, Any], days: int
) -> None:
    """Each of them would be billed, one after the other: one bad date must not be a million invoices."""
    put(catalog, SOUND | {"billing_period": period})
    earliest = NOW - timedelta(days=days)
    assert subscribe(catalog, starts_at=earliest).starts_at == earliest
    assert refused(catalog, starts_at=earliest - timedelta(microseconds=1)) == ["/starts_at"]


def test_a_trial_is_as_long_as_the_plan_says_unless_the_request_does(catalog: MemoryCatalog) -> None:
    """Zero days are a request too."""
    put(catalog, SOUND | {"trial_days": 14})
    lengths = [subscribe(catalog, trial_days=days).anchor - NOW for days in (None, 30, 0)]
    assert lengths == [timedelta(days=14), timedelta(days=30), timedelta(0)]


def test_a_trial_ends_at_the_same_time_of_the_local_day(catalog: MemoryCatalog) -> None:
    """Over the change of clocks it is an hour shorter."""
    service.put_customer(catalog, Customer("acme", timezone="Europe/Berlin"))
    made = subscribe(catalog, starts_at=datetime(2025, 3, 29, 12, tzinfo=UTC), trial_days=1)
    assert made.anchor == datetime(2025, 3, 30, 11, tzinfo=UTC)


@pytest.mark.parametrize("name", [{"subscription_id": "sub-1"}, {"idempotency_key": "order 1"}])
def test_the_same_request_again_gives_the_same_subscription(catalog: MemoryCatalog, name: dict[str, str]) -> None:
    """By an id of the client's or an idempotency key; later, and when the plan has changed, too."""
    first = subscribe(catalog, **name)
    put(catalog, SOUND | {"base_price": "30"})
    later = Clock(NOW + timedelta(days=1))
    assert subscribe(catalog, clock=later, **name) == first
    assert catalog.subscriptions("acme") == (first,)


def test_a_start_written_in_another_offset_is_the_same_request(catalog: MemoryCatalog) -> None:
    """An instant is an instant."""
    first = subscribe(catalog, subscription_id="sub-1", starts_at=parse_time("2026-01-01T00:00:00Z"))
    assert subscribe(catalog, subscription_id="sub-1", starts_at=parse_time("2026-01-01T01:00:00+01:00")) == first


@pytest.mark.parametrize("name", [{"subscription_id": "sub-1"}, {"idempotency_key": "order 1"}])
@pytest.mark.parametrize(
    "change", [{"customer": "other"}, {"plan": "basic"}, {"starts_at": NOW}, {"trial_days": 0}, {"trial_days": 7}]
)
def test_another_request_with_the_same_name_is_a_conflict(
    catalog: MemoryCatalog, name: dict[str, str], change: dict[str, Any]
) -> None:
    """And changes nothing, of another customer either."""
    catalog.save_customer(Customer("other"))
    put(catalog, SOUND, code="basic")
    first = subscribe(catalog, **name)
    with pytest.raises(Conflict):
        subscribe(catalog, **name, **change)
    assert catalog.subscriptions("acme") == (first,)
    assert catalog.subscriptions("other") == ()


def test_a_name_used_for_a_request_that_was_refused_is_free(catalog: MemoryCatalog) -> None:
    """A fault can be mended and the request sent again under its key."""
    assert refused(catalog, idempotency_key="order 1", plan="none") == ["/plan"]
    assert subscribe(catalog, idempotency_key="order 1").plan == "pro"


def test_an_id_of_the_clients_is_kept_and_an_idempotency_key_always_leads_to_one_id(catalog: MemoryCatalog) -> None:
    """So that a repeated request finds its first answer."""
    assert subscribe(catalog, subscription_id="sub-1").id == "sub-1"
    by_key = subscribe(catalog, idempotency_key="order 1")
    elsewhere = MemoryCatalog()
    service.put_plan(elsewhere, plain_plan())
    elsewhere.save_customer(Customer("acme"))
    assert subscribe(elsewhere, idempotency_key="order 1").id == by_key.id
    assert subscribe(catalog, idempotency_key="order 2").id != by_key.id


def test_a_request_with_no_name_makes_a_subscription_each_time(catalog: MemoryCatalog) -> None:
    """A customer may have several of one plan."""
    assert len({subscribe(catalog).id for _ in range(3)}) == len(catalog.subscriptions("acme")) == 3


def test_a_customer_has_at_most_a_hundred_subscriptions(catalog: MemoryCatalog) -> None:
    """They are one item; those it has can still be asked for again."""
    first = subscribe(catalog, subscription_id="sub-1")
    for _ in range(99):
        subscribe(catalog)
    assert refused(catalog) == ["/customer"]
    assert subscribe(catalog, subscription_id="sub-1") == first


@pytest.mark.parametrize(("rivals", "wins"), [(2, True), (100, False)])
def test_a_subscription_that_loses_a_race_tries_again(rivals: int, wins: bool) -> None:
    """Until it wins, or there are too many rivals."""
    catalog = Contended(times=0)
    service.put_plan(catalog, plain_plan())
    catalog.save_customer(Customer("acme"))
    catalog.times = rivals
    if wins:
        made = subscribe(catalog)
        assert catalog.subscriptions("acme") == (made,)
    else:
        with pytest.raises(Conflict):
            subscribe(catalog)


def test_many_customers_are_subscribed_alike(catalog: MemoryCatalog) -> None:
    """A subscription each, named after its customer, in its own time zone; nothing is written."""
    customers = [Customer("a", timezone="Asia/Tokyo"), Customer("b")]
    start = NOW - timedelta(days=7)
    made = service.subscribe_many(catalog, customers, plan="pro", starts_at=start, clock=Clock())
    assert [(customer.id, one.id, one.timezone, one.starts_at) for customer, one in made] == [
        ("a", "sub-a", "Asia/Tokyo", start),
        ("b", "sub-b", "UTC", start),
    ]
    assert catalog.subscription("sub-a") is None
    with pytest.raises(NotFound):
        service.subscribe_many(catalog, customers, plan="none", starts_at=start, clock=Clock())


# Where a subscription stands


def subscription(**change: Any) -> Subscription:
    """Monthly since 31 January, noon in Berlin."""
    start = datetime(2025, 1, 31, 11, tzinfo=UTC)
    made = Subscription(
        id="sub-1",
        customer="acme",
        plan="pro",
        plan_version=1,
        starts_at=start,
        anchor=start,
        timezone="Europe/Berlin",
        billing_period=BillingPeriod(Interval.MONTH),
        state=SubscriptionStatus.ACTIVE,
        created_at=start,
        request_digest="",
    )
    return replace(made, **change)


TRIAL_END = datetime(2025, 2, 14, 11, tzinfo=UTC)
TRIAL = subscription(anchor=TRIAL_END, trial_ends_at=TRIAL_END)
INSTANT = timedelta(microseconds=1)


def test_an_active_subscription_is_trialing_until_its_anchor() -> None:
    """From the instant of the anchor on it is active."""
    assert TRIAL.status(TRIAL.starts_at) is SubscriptionStatus.TRIALING
    assert TRIAL.status(TRIAL.anchor - INSTANT) is SubscriptionStatus.TRIALING
    assert TRIAL.status(TRIAL.anchor) is SubscriptionStatus.ACTIVE


def test_a_subscription_without_a_trial_is_never_trialing() -> None:
    """Not even in the minutes before a start that a fast clock put ahead."""
    plain = subscription()
    assert plain.status(plain.starts_at - timedelta(minutes=5)) is SubscriptionStatus.ACTIVE
    assert plain.status(plain.starts_at) is SubscriptionStatus.ACTIVE


@pytest.mark.parametrize("state", [state for state in SubscriptionStatus if state is not SubscriptionStatus.ACTIVE])
def test_any_other_state_stands_in_a_trial_too(state: SubscriptionStatus) -> None:
    """Who cancels during the trial is cancelled."""
    assert replace(TRIAL, state=state).status(TRIAL.starts_at) is state


def test_a_trial_is_a_period_of_its_own() -> None:
    """Half open: the billing periods follow from its end, and an instant before the start counts as the start."""
    trial = Period(TRIAL.starts_at, TRIAL.anchor)
    assert TRIAL.period(TRIAL.starts_at) == TRIAL.period(TRIAL.anchor - INSTANT) == trial
    assert TRIAL.period(TRIAL.starts_at - timedelta(days=90)) == trial
    assert TRIAL.period(TRIAL.anchor) == Period(TRIAL.anchor, datetime(2025, 3, 14, 11, tzinfo=UTC))


def test_periods_are_counted_from_the_anchor_in_the_time_zone() -> None:
    """31 January leads to 28 February, to 31 March (an hour earlier in summer time), to 30 April."""
    plain = subscription()
    ends, at = [], plain.starts_at
    for _ in range(3):
        at = plain.period(at).end
        ends.append(format_time(at))
    assert ends == ["2025-02-28T11:00:00Z", "2025-03-31T10:00:00Z", "2025-04-30T10:00:00Z"]


@given(
    st.datetimes(datetime(2024, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001  hypothesis adds it
    st.integers(0, 60),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Pacific/Apia"]),
    st.sampled_from(list(Interval)),
)
def test_every_instant_lies_in_one_period(at: datetime, trial: int, timezone: str, interval: Interval) -> None:
    """The end of one is the start of the next, whatever the trial, the time zone and the interval."""
    start = datetime(2024, 1, 31, 11, tzinfo=UTC)
    one = subscription(
        starts_at=start,
        anchor=start + timedelta(days=trial),
        timezone=timezone,
        billing_period=BillingPeriod(interval),
    )
    period = one.period(at)
    assert period.start <= max(at, start) < period.end
    assert one.period(period.start) == one.period(period.end - INSTANT) == period
    assert one.period(period.end).start == period.end


def test_a_subscription_survives_being_written_and_read() -> None:
    """All of it, to the microsecond."""
    one = replace(TRIAL, starts_at=TRIAL.starts_at + INSTANT, state=SubscriptionStatus.PAST_DUE, request_digest="d")
    assert subscription_from_dict(subscription_to_dict(one)) == one


@pytest.mark.parametrize(("one", "trial_ends_at"), [(subscription(), None), (TRIAL, "2025-02-14T11:00:00Z")])
def test_a_subscription_is_shown_with_its_status_and_period(one: Subscription, trial_ends_at: str | None) -> None:
    """As they are at that instant, and as the document says."""
    shown = subscription_view(one, one.starts_at)
    SubscriptionView.model_validate(shown)
    assert shown["trial_ends_at"] == trial_ends_at
    assert shown["status"] == ("trialing" if trial_ends_at else "active")
    assert shown["plan"] == {"code": "pro", "version": 1}
    assert shown["current_period"] == {
        "start": "2025-01-31T11:00:00Z",
        "end": trial_ends_at or "2025-02-28T11:00:00Z",
    }

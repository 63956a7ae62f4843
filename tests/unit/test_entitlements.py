"""May this customer do this now: the decision, its headers, and which subscription answers."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fakes_catalog import MemoryCatalog
from tests.unit.fakes_metering import FakeCounters
from tollgate.catalog.model import (
    Aggregation,
    BillingPeriod,
    Customer,
    Feature,
    FeatureType,
    Overage,
    Plan,
    PlanFeature,
    Quota,
    Rate,
    RateAlgorithm,
    Snapshot,
    Subscription,
    SubscriptionStatus,
)
from tollgate.catalog.periods import Interval
from tollgate.entitlements.model import Decision, Reason, decide, decision_headers, decision_to_dict
from tollgate.entitlements.schema import DECISION_SCHEMA
from tollgate.entitlements.service import check, check_all
from tollgate.metering.model import Event
from tollgate.metering.rates import RateState, record
from tollgate.metering.service import ingest
from tollgate.pricing.model import Flat

D = Decimal
NOW = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
PERIOD_END = datetime(2026, 2, 1, tzinfo=UTC)
WINDOW_END = NOW + timedelta(seconds=60)
FEATURES = {kind: Feature(kind.value, kind.value, kind) for kind in FeatureType}
RATE = Rate(D(10), 60)
TERMS = {
    FeatureType.USAGE: PlanFeature(FEATURES[FeatureType.USAGE], price=Flat(D("0.05"))),
    FeatureType.QUOTA: PlanFeature(FEATURES[FeatureType.QUOTA], quota=Quota(D(500), Overage.BLOCK)),
    FeatureType.RATE: PlanFeature(FEATURES[FeatureType.RATE], rate=RATE),
    FeatureType.BOOLEAN: PlanFeature(FEATURES[FeatureType.BOOLEAN]),
}
INACTIVE = (SubscriptionStatus.PAUSED, SubscriptionStatus.CANCELLED, SubscriptionStatus.EXPIRED)


def subscription(subscription_id: str = "sub-1", **change: Any) -> Subscription:
    """A calendar month on the plan pro."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    made = Subscription(
        id=subscription_id,
        customer="acme",
        plan="pro",
        plan_version=1,
        starts_at=start,
        anchor=start,
        timezone="UTC",
        billing_period=BillingPeriod(Interval.MONTH),
        state=SubscriptionStatus.ACTIVE,
        created_at=start,
        request_digest="",
    )
    return replace(made, **change)


def decided(
    kind: FeatureType,
    quantity: str = "1",
    *,
    used: str = "0",
    state: SubscriptionStatus = SubscriptionStatus.ACTIVE,
    **terms: Any,
) -> Decision:
    """The decision on a feature of that type, with so much used of its period or window."""
    return decide(
        subscription(state=state),
        replace(TERMS[kind], **terms),
        D(quantity),
        now=NOW,
        used=D(used) if kind is not FeatureType.RATE else D(0),
        state=record(RateState(), RATE, NOW, D(used)),
    )


def quota(limit: str = "500", overage: Overage = Overage.BLOCK) -> Quota:
    """At most so much a month."""
    return Quota(D(limit), overage)


# Types


def test_usage_is_always_allowed() -> None:
    """It is charged, not limited; the answer says how much there was and when it begins anew."""
    assert decided(FeatureType.USAGE, "1000000", used="7.5") == Decision(
        *("acme", "usage", FeatureType.USAGE, True, Reason.ALLOWED),
        used=D("7.5"),
        reserved=D(0),
        resets_at=PERIOD_END,
        plan="pro",
        subscription="sub-1",
    )


def test_a_boolean_feature_is_on_or_off() -> None:
    """It has no numbers."""
    on = Decision("acme", "boolean", FeatureType.BOOLEAN, True, Reason.ALLOWED, plan="pro", subscription="sub-1")
    assert decided(FeatureType.BOOLEAN) == on
    off = replace(on, allowed=False, reason=Reason.FEATURE_DISABLED)
    assert decided(FeatureType.BOOLEAN, enabled=False) == off


def test_a_quota_is_told_with_all_its_numbers() -> None:
    """Of the period that now lies in."""
    assert decided(FeatureType.QUOTA, used="120") == Decision(
        *("acme", "quota", FeatureType.QUOTA, True, Reason.ALLOWED),
        limit=D(500),
        used=D(120),
        reserved=D(0),
        remaining=D(380),
        overage=D(0),
        resets_at=PERIOD_END,
        plan="pro",
        subscription="sub-1",
    )


def test_a_rate_is_told_with_all_its_numbers() -> None:
    """Of its window."""
    assert decided(FeatureType.RATE, used="4") == Decision(
        *("acme", "rate", FeatureType.RATE, True, Reason.ALLOWED),
        limit=D(10),
        used=D(4),
        remaining=D(6),
        resets_at=WINDOW_END,
        plan="pro",
        subscription="sub-1",
        window_seconds=60,
    )


@pytest.mark.parametrize("kind", list(FeatureType))
def test_a_feature_switched_off_is_refused_whatever_its_type(kind: FeatureType) -> None:
    """Its numbers would mislead, so there are none."""
    decision = decided(kind, enabled=False)
    assert (decision.allowed, decision.reason) == (False, Reason.FEATURE_DISABLED)
    assert (decision.limit, decision.used, decision.remaining, decision.resets_at) == (None, None, None, None)
    assert (decision.type, decision.plan, decision.subscription) == (kind, "pro", "sub-1")


# Quotas


@pytest.mark.parametrize(
    ("used", "quantity", "allowed"),
    [
        ("499", "1", True),
        ("499", "1.000000000000000001", False),
        ("499.999999999999999999", "0.000000000000000001", True),
        ("0", "500", True),
        ("0", "501", False),
        ("500", "1", False),
        ("500", "0", True),
        ("501", "0", False),
        ("500", "0.000000000000000001", False),
    ],
)
def test_a_blocking_quota_gives_what_fits_to_the_last_digit(used: str, quantity: str, allowed: bool) -> None:
    """Up to the limit and including it; asking for nothing is allowed until it is passed."""
    decision = decided(FeatureType.QUOTA, quantity, used=used)
    assert decision.allowed is allowed
    assert decision.reason is (Reason.ALLOWED if allowed else Reason.QUOTA_EXCEEDED)


@pytest.mark.parametrize(
    ("used", "quantity", "reason"),
    [
        ("499", "1", Reason.ALLOWED),
        ("499", "2", Reason.OVERAGE_ALLOWED),
        ("500", "0", Reason.ALLOWED),
        ("500", "1", Reason.OVERAGE_ALLOWED),
        ("9999", "1", Reason.OVERAGE_ALLOWED),
    ],
)
def test_a_quota_with_overage_gives_more_and_says_so(used: str, quantity: str, reason: Reason) -> None:
    """The reason changes where the quantity asked for passes the limit."""
    decision = decided(FeatureType.QUOTA, quantity, used=used, quota=quota(overage=Overage.ALLOW))
    assert (decision.allowed, decision.reason) == (True, reason)


@pytest.mark.parametrize("overage", list(Overage))
@pytest.mark.parametrize(
    ("used", "remaining", "beyond"),
    [("0", "500", "0"), ("499.5", "0.5", "0"), ("500", "0", "0"), ("500.25", "0", "0.25"), ("900", "0", "400")],
)
def test_remaining_and_overage_are_what_is_used_and_not_what_is_asked_for(
    overage: Overage, used: str, remaining: str, beyond: str
) -> None:
    """Neither is ever negative; a question counts nothing. Events count whether a quota blocks or not."""
    decision = decided(FeatureType.QUOTA, "100", used=used, quota=quota(overage=overage))
    assert (decision.remaining, decision.overage, decision.used) == (D(remaining), D(beyond), D(used))


def test_a_quota_of_nothing_gives_nothing() -> None:
    """Zero is a limit like any other."""
    assert decided(FeatureType.QUOTA, "1", quota=quota("0")).reason is Reason.QUOTA_EXCEEDED
    assert decided(FeatureType.QUOTA, "0", quota=quota("0")).reason is Reason.ALLOWED


@given(
    *(st.decimals(0, 10**20 - 1, places=18) for _ in range(3)),
    st.sampled_from(Overage),
)
def test_a_quota_is_decided_exactly(limit: Decimal, used: Decimal, quantity: Decimal, overage: Overage) -> None:
    """With all the digits that the wire allows."""
    decision = decided(FeatureType.QUOTA, str(quantity), used=str(used), quota=Quota(limit, overage))
    fits = Fraction(used) + Fraction(quantity) <= Fraction(limit)
    assert decision.allowed is (fits or overage is Overage.ALLOW)
    assert (decision.reason is Reason.ALLOWED) is fits
    assert decision.remaining is not None
    assert decision.overage is not None
    assert Fraction(decision.remaining) - Fraction(decision.overage) == Fraction(limit) - Fraction(used)
    assert min(decision.remaining, decision.overage) == 0


# Rates


@pytest.mark.parametrize(
    ("used", "quantity", "allowed"),
    [
        ("9", "1", True),
        ("9", "1.1", False),
        ("10", "0", True),
        ("10", "1", False),
        ("0", "11", False),
        ("12", "0", False),
    ],
)
def test_a_rate_gives_what_fits_its_window(used: str, quantity: str, allowed: bool) -> None:
    """As a blocking quota does; more than the limit at once never fits."""
    decision = decided(FeatureType.RATE, quantity, used=used)
    assert decision.allowed is allowed
    assert decision.reason is (Reason.ALLOWED if allowed else Reason.RATE_LIMITED)
    assert decision.remaining == max(D(10) - D(used), D(0))


@pytest.mark.parametrize(
    ("algorithm", "after", "left"),
    [
        (RateAlgorithm.FIXED, 0, "0"),
        (RateAlgorithm.FIXED, 29, "0"),
        (RateAlgorithm.FIXED, 30, "10"),
        (RateAlgorithm.SLIDING, 29, "0"),
        (RateAlgorithm.SLIDING, 30, "0"),
        (RateAlgorithm.SLIDING, 60, "5"),
        (RateAlgorithm.SLIDING, 90, "10"),
        (RateAlgorithm.TOKEN_BUCKET, 0, "0"),
        (RateAlgorithm.TOKEN_BUCKET, 6, "1"),
        (RateAlgorithm.TOKEN_BUCKET, 60, "10"),
    ],
)
def test_each_algorithm_gives_the_limit_back_in_its_own_way(algorithm: RateAlgorithm, after: int, left: str) -> None:
    """All ten of a minute are used at half past: at once at the full minute, evenly after it, or bit by bit."""
    rate = replace(RATE, algorithm=algorithm)
    half_past = NOW + timedelta(seconds=30)
    now = half_past + timedelta(seconds=after)
    state = record(RateState(), rate, half_past, D(10))

    def ask(quantity: Decimal) -> Decision:
        terms = replace(TERMS[FeatureType.RATE], rate=rate)
        return decide(subscription(), terms, quantity, now=now, state=state)

    assert ask(D(1)).remaining == D(left)
    assert ask(D(left)).reason is Reason.ALLOWED
    assert ask(D(left) + D("0.001")).reason is Reason.RATE_LIMITED


def test_a_full_bucket_has_nothing_to_wait_for() -> None:
    """So that its answer stays the same as long as it is not used: whoever asks for flags again is told so."""
    rate = replace(RATE, algorithm=RateAlgorithm.TOKEN_BUCKET)
    state = record(RateState(), rate, NOW, D(10))
    terms = replace(TERMS[FeatureType.RATE], rate=rate)
    told = [
        decide(subscription(), terms, D(1), now=NOW + timedelta(seconds=after), state=state) for after in (59, 60, 61.5)
    ]
    assert [one.resets_at for one in told] == [NOW + timedelta(seconds=60), None, None]
    assert told[1] == told[2]
    assert decision_headers(told[2], NOW + timedelta(seconds=61.5))["RateLimit"] == '"rate";r=10;t=0'


# Subscriptions


@pytest.mark.parametrize("kind", list(FeatureType))
@pytest.mark.parametrize("state", INACTIVE)
def test_an_inactive_subscription_grants_nothing(state: SubscriptionStatus, kind: FeatureType) -> None:
    """Before anything else is asked: a feature switched off too is answered so."""
    for enabled in (True, False):
        decision = decided(kind, state=state, enabled=enabled)
        assert (decision.allowed, decision.reason) == (False, Reason.SUBSCRIPTION_INACTIVE)
        assert (decision.type, decision.plan, decision.subscription) == (kind, "pro", "sub-1")
        assert decision.limit is None


@pytest.mark.parametrize("kind", list(FeatureType))
@pytest.mark.parametrize("state", [state for state in SubscriptionStatus if state not in INACTIVE])
def test_any_other_subscription_grants_its_plan(state: SubscriptionStatus, kind: FeatureType) -> None:
    """Also one that is trialing, and one past due for as long as its grace."""
    assert decided(kind, state=state).allowed


def test_a_quota_in_a_trial_ends_with_it() -> None:
    """The trial is a period of its own."""
    trial = subscription(anchor=NOW + timedelta(days=3))
    terms = TERMS[FeatureType.QUOTA]
    decision = decide(trial, terms, D(1), now=NOW)
    assert decision.resets_at == NOW + timedelta(days=3)


# Headers


def test_a_quota_speaks_in_rate_limit_headers() -> None:
    """As in draft-ietf-httpapi-ratelimit-headers-10: units left, and the seconds until there are more."""
    seconds = int((PERIOD_END - NOW).total_seconds())
    assert decision_headers(decided(FeatureType.QUOTA, used="120"), NOW) == {
        "RateLimit-Policy": '"quota";q=500',
        "RateLimit": f'"quota";r=380;t={seconds}',
    }


def test_a_rate_tells_its_window_too() -> None:
    """The policy says for how many seconds the limit is."""
    assert decision_headers(decided(FeatureType.RATE, used="4"), NOW) == {
        "RateLimit-Policy": '"rate";q=10;w=60',
        "RateLimit": '"rate";r=6;t=60',
    }


@pytest.mark.parametrize(
    ("before", "seconds"), [(timedelta(0), "60"), (timedelta(microseconds=1), "60"), (timedelta(seconds=59.5), "1")]
)
def test_whoever_is_limited_is_told_when_to_come_back(before: timedelta, seconds: str) -> None:
    """In whole seconds, rounded up: never too early."""
    now = NOW + before
    headers = decision_headers(decided(FeatureType.RATE, used="10"), now)
    assert headers["Retry-After"] == seconds
    assert headers["RateLimit"] == f'"rate";r=0;t={seconds}'


def test_what_never_fits_gives_no_time_to_come_back() -> None:
    """Waiting does not make room for more than the limit."""
    headers = decision_headers(decided(FeatureType.RATE, "11"), WINDOW_END + timedelta(seconds=1))
    assert ("Retry-After" in headers, headers["RateLimit"]) == (False, '"rate";r=10;t=0')


def test_to_come_back_at_once_is_to_come_back_in_a_second() -> None:
    """By a clock that has moved on since the decision."""
    headers = decision_headers(decided(FeatureType.RATE, "10", used="1"), WINDOW_END + timedelta(seconds=1))
    assert (headers["Retry-After"], headers["RateLimit"]) == ("1", '"rate";r=9;t=0')


def test_an_exceeded_quota_says_when_the_period_ends() -> None:
    """It blocks until then."""
    headers = decision_headers(decided(FeatureType.QUOTA, used="500"), PERIOD_END - timedelta(seconds=90))
    assert headers["Retry-After"] == "90"


def test_counts_in_headers_are_whole_and_rounded_down() -> None:
    """Half a unit left is none."""
    decision = decided(FeatureType.QUOTA, used="499.5", quota=quota("500.9"))
    headers = decision_headers(decision, NOW)
    assert headers["RateLimit-Policy"] == '"quota";q=500'
    assert headers["RateLimit"].startswith('"quota";r=1;')


@pytest.mark.parametrize(
    "decision",
    [
        decided(FeatureType.USAGE),
        decided(FeatureType.BOOLEAN),
        decided(FeatureType.QUOTA, enabled=False),
        decided(FeatureType.RATE, state=SubscriptionStatus.PAUSED),
        decided(FeatureType.QUOTA, used="500", quota=quota(overage=Overage.ALLOW)),
    ],
)
def test_where_no_limit_holds_anyone_back_there_are_no_headers(decision: Decision) -> None:
    """Beyond a quota with overage too: a client that reads r=0 would wait for a month without need."""
    assert decision_headers(decision, NOW) == {}


def test_an_answer_is_decimal_strings_and_times_in_utc() -> None:
    """All members stand in it, those that do not apply as null, as the document says."""
    shown = decision_to_dict(decided(FeatureType.QUOTA, used="120.50"))
    assert set(shown) == set(DECISION_SCHEMA["required"]) == set(DECISION_SCHEMA["properties"])
    assert shown == {
        "customer": "acme",
        "feature": "quota",
        "type": "quota",
        "allowed": True,
        "reason": "allowed",
        "limit": "500",
        "used": "120.5",
        "reserved": "0",
        "remaining": "379.5",
        "overage": "0",
        "resets_at": "2026-02-01T00:00:00Z",
        "plan": "pro",
        "subscription": "sub-1",
    }
    boolean = decision_to_dict(decided(FeatureType.BOOLEAN))
    assert {key for key, value in boolean.items() if value is None} == {
        *("limit", "used", "reserved", "remaining", "overage", "resets_at")
    }


# Which subscription answers


@pytest.fixture
def catalog() -> MemoryCatalog:
    """The plan pro with a feature of each type, basic with the quota alone, and a customer on nothing."""
    catalog = MemoryCatalog()
    for feature in FEATURES.values():
        catalog.save_feature(feature)
    catalog.save_feature(Feature("unsold", "Unsold", FeatureType.USAGE))
    month = BillingPeriod(Interval.MONTH)
    small = replace(TERMS[FeatureType.QUOTA], quota=quota("5"))
    catalog.add_plan_version(Plan("pro", 1, "Pro", "EUR", month, D(0), 0, 0, tuple(TERMS.values())))
    catalog.add_plan_version(Plan("basic", 1, "Basic", "EUR", month, D(0), 0, 0, (small,)))
    catalog.save_customer(Customer("acme"))
    return catalog


@pytest.fixture
def counters() -> FakeCounters:
    """Nothing counted yet."""
    return FakeCounters()


def count(catalog: MemoryCatalog, counters: FakeCounters, feature: str, quantity: str, at: datetime = NOW) -> None:
    """An event is counted."""
    event = Event(f"{feature}-{quantity}-{at}", "", "acme", feature, D(quantity), at)
    (result,) = ingest([event], directory=catalog, counters=counters, now=NOW, time_left=lambda: 20.0)
    assert result.status == "accepted"


def asked(
    catalog: MemoryCatalog, counters: FakeCounters, feature: str, quantity: str = "1", *, customer: str = "acme"
) -> Decision:
    """The answer to a check."""
    return check(customer, feature, D(quantity), directory=catalog, counters=counters, now=NOW)


def test_a_customer_or_a_feature_that_does_not_exist_is_not_found(
    catalog: MemoryCatalog, counters: FakeCounters
) -> None:
    """The customer is looked for first; a name that could be none is never looked up."""
    assert asked(catalog, counters, "unknown", customer="nobody").reason is Reason.CUSTOMER_NOT_FOUND
    assert asked(catalog, counters, "unknown").reason is Reason.FEATURE_NOT_FOUND
    for name in ("x" * 4000, "a#b", "-", ""):
        assert asked(catalog, counters, "quota", customer=name).reason is Reason.CUSTOMER_NOT_FOUND
        assert asked(catalog, counters, name).reason is Reason.FEATURE_NOT_FOUND


def test_no_name_that_could_be_none_reaches_the_store(counters: FakeCounters) -> None:
    """DynamoDB refuses a key of more than 2048 bytes, and the question is answered all the same."""

    class Guarded(MemoryCatalog):
        def features(self, codes: Any) -> dict[str, Feature]:
            assert not list(codes)
            return {}

        def snapshots_of(self, customer_ids: Any) -> dict[str, Snapshot]:
            assert list(customer_ids) == ["acme"]
            return {"acme": Snapshot((subscription(),))}

    for feature, customer in (("quota", "x" * 4000), ("x" * 4000, "acme")):
        assert not asked(Guarded(), counters, feature, customer=customer).allowed
    assert check_all("x" * 4000, directory=Guarded(), counters=counters, now=NOW) is None


def test_a_customer_with_no_subscription_has_nothing(catalog: MemoryCatalog, counters: FakeCounters) -> None:
    """Nor has one whose only subscription has not begun."""
    decision = asked(catalog, counters, "quota")
    assert decision == Decision("acme", "quota", None, False, Reason.NO_SUBSCRIPTION)
    ahead = NOW + timedelta(minutes=5)
    catalog.add_subscription(subscription(starts_at=ahead, anchor=ahead))
    assert asked(catalog, counters, "quota").reason is Reason.NO_SUBSCRIPTION


def test_a_feature_that_no_plan_of_the_customer_has_is_not_in_plan(
    catalog: MemoryCatalog, counters: FakeCounters
) -> None:
    """It exists, and is sold to others perhaps."""
    catalog.add_subscription(subscription())
    assert asked(catalog, counters, "unsold").reason is Reason.FEATURE_NOT_IN_PLAN


def test_a_check_sees_what_was_counted_and_counts_nothing(catalog: MemoryCatalog, counters: FakeCounters) -> None:
    """The same question gives the same answer."""
    catalog.add_subscription(subscription())
    for feature, quantity in (("usage", "7"), ("quota", "120"), ("rate", "4")):
        count(catalog, counters, feature, quantity)
    for _ in range(2):
        decisions = [asked(catalog, counters, kind.value, "5") for kind in FeatureType]
        assert [one.used for one in decisions] == [D(7), D(120), D(4), None]
        assert all(one.allowed for one in decisions)
    assert asked(catalog, counters, "quota", "381").reason is Reason.QUOTA_EXCEEDED
    assert asked(catalog, counters, "rate", "7").reason is Reason.RATE_LIMITED


def test_only_the_present_period_is_used(catalog: MemoryCatalog, counters: FakeCounters) -> None:
    """What was used last month does not block this one."""
    start = datetime(2025, 12, 1, tzinfo=UTC)
    catalog.add_subscription(subscription(starts_at=start, anchor=start))
    count(catalog, counters, "quota", "500", datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC))
    count(catalog, counters, "quota", "1", datetime(2026, 1, 1, tzinfo=UTC))
    assert asked(catalog, counters, "quota").used == 1


def test_a_feature_counted_by_its_greatest_event_is_checked_by_it(counters: FakeCounters) -> None:
    """The quota limits what the aggregation makes of the events."""
    catalog = MemoryCatalog()
    seats = Feature("seats", "Seats", FeatureType.QUOTA, aggregation=Aggregation.MAX)
    catalog.save_feature(seats)
    granted = (PlanFeature(seats, quota=quota("10")),)
    catalog.add_plan_version(Plan("pro", 1, "Pro", "EUR", BillingPeriod(Interval.MONTH), D(0), 0, 0, granted))
    catalog.add_subscription(subscription())
    for quantity in ("3", "8", "5"):
        count(catalog, counters, "seats", quantity)
    assert asked(catalog, counters, "seats").used == 8


def test_of_several_subscriptions_the_newest_answers(catalog: MemoryCatalog, counters: FakeCounters) -> None:
    """Whichever was written first; for what its plan does not have, the older one does."""
    later = datetime(2026, 1, 10, tzinfo=UTC)
    catalog.add_subscription(subscription("new", plan="basic", starts_at=later, anchor=later))
    catalog.add_subscription(subscription("old"))
    quota_of, rate_of = (asked(catalog, counters, feature) for feature in ("quota", "rate"))
    assert (quota_of.subscription, quota_of.plan, quota_of.limit) == ("new", "basic", D(5))
    assert (rate_of.subscription, rate_of.plan) == ("old", "pro")


def test_of_two_that_began_together_the_greater_id_answers(catalog: MemoryCatalog, counters: FakeCounters) -> None:
    """Always the same one."""
    for name in ("b", "c", "a"):
        catalog.add_subscription(subscription(name))
    assert asked(catalog, counters, "quota").subscription == "c"


@pytest.mark.parametrize("state", INACTIVE)
def test_an_inactive_subscription_gives_way_to_an_active_one(
    catalog: MemoryCatalog, counters: FakeCounters, state: SubscriptionStatus
) -> None:
    """However much newer it is."""
    later = datetime(2026, 1, 10, tzinfo=UTC)
    catalog.add_subscription(subscription("new", plan="basic", starts_at=later, anchor=later, state=state))
    catalog.add_subscription(subscription("old"))
    decision = asked(catalog, counters, "quota")
    assert (decision.subscription, decision.reason) == ("old", Reason.ALLOWED)


@pytest.mark.parametrize("state", INACTIVE)
def test_a_customer_with_inactive_subscriptions_only_is_told_so(
    catalog: MemoryCatalog, counters: FakeCounters, state: SubscriptionStatus
) -> None:
    """Of the newest that has the feature."""
    catalog.add_subscription(subscription("old", state=state))
    later = datetime(2026, 1, 10, tzinfo=UTC)
    catalog.add_subscription(subscription("new", plan="basic", starts_at=later, anchor=later, state=state))
    quota_of, rate_of = (asked(catalog, counters, feature) for feature in ("quota", "rate"))
    assert (quota_of.subscription, quota_of.reason) == ("new", Reason.SUBSCRIPTION_INACTIVE)
    assert (rate_of.subscription, rate_of.reason) == ("old", Reason.SUBSCRIPTION_INACTIVE)


def test_a_subscription_keeps_the_version_it_was_made_with(catalog: MemoryCatalog, counters: FakeCounters) -> None:
    """A plan changed since changes nothing for it."""
    catalog.add_subscription(subscription())
    before = catalog.plan("pro")
    assert before is not None
    catalog.add_plan_version(replace(before, version=2, features=()))
    assert asked(catalog, counters, "quota").allowed


# All at once


def test_all_features_of_all_plans_are_answered_by_code(catalog: MemoryCatalog, counters: FakeCounters) -> None:
    """Each as the check of one unit of it alone would be."""
    later = datetime(2026, 1, 10, tzinfo=UTC)
    catalog.add_subscription(subscription("old"))
    catalog.add_subscription(subscription("new", plan="basic", starts_at=later, anchor=later))
    for feature, quantity in (("usage", "7"), ("quota", "5"), ("rate", "4")):
        count(catalog, counters, feature, quantity)
    decisions = check_all("acme", directory=catalog, counters=counters, now=NOW)
    assert decisions is not None
    assert [one.feature for one in decisions] == ["boolean", "quota", "rate", "usage"]
    assert list(decisions) == [asked(catalog, counters, one.feature) for one in decisions]
    assert [one.reason for one in decisions][1] is Reason.QUOTA_EXCEEDED


def test_a_customer_with_no_subscription_has_an_empty_list(catalog: MemoryCatalog, counters: FakeCounters) -> None:
    """One that does not exist has none at all."""
    assert check_all("acme", directory=catalog, counters=counters, now=NOW) == ()
    assert check_all("nobody", directory=catalog, counters=counters, now=NOW) is None

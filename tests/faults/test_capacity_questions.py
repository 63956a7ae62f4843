"""A check and a consumption are one rule: by whatever terms, what the one says the other does."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults.shop import PERIOD, Shop, identity
from tollgate.catalog.model import (
    Aggregation,
    BillingPeriod,
    Feature,
    FeatureType,
    Overage,
    Plan,
    PlanFeature,
    Quota,
    Rate,
    RateAlgorithm,
)
from tollgate.catalog.periods import Interval
from tollgate.catalog.service import subscribe
from tollgate.entitlements.model import Reason
from tollgate.entitlements.service import Status
from tools.engine import Engine

MICROSECOND: Final = timedelta(microseconds=1)
LIMIT: Final = Decimal("7.5")
GRANTED: Final = [
    *(
        PlanFeature(
            Feature(f"quota-{aggregation}-{overage}", "Q", FeatureType.QUOTA, aggregation=aggregation),
            quota=Quota(LIMIT, overage),
        )
        for aggregation in Aggregation
        for overage in Overage
    ),
    *(
        PlanFeature(
            Feature(f"rate-{aggregation}-{algorithm}-{window}", "R", FeatureType.RATE, aggregation=aggregation),
            rate=Rate(LIMIT, window, algorithm),
        )
        for aggregation in (Aggregation.SUM, Aggregation.COUNT)
        for algorithm in RateAlgorithm
        for window in (1, 60)
    ),
]
Step = tuple[Decimal, int]
steps = st.lists(
    st.tuples(
        st.decimals(min_value=0, max_value=9, places=2),
        st.sampled_from([0, 1, 130_000, 1_000_000, 7_000_001, 30_000_000, 60_000_000]),
    ),
    min_size=1,
    max_size=12,
)


def next_month(now: datetime) -> datetime:
    """The middle of the next billing period: nothing is used."""
    return (now.replace(day=1) + timedelta(days=32)).replace(day=15, hour=12, minute=0, second=30, microsecond=0)


def open_shop() -> Shop:
    """Ada on a plan with all of them."""
    here = Shop(processes=1, archive=False)
    for granted in GRANTED:
        assert here.catalog.save_feature(granted.feature)
    month = BillingPeriod(Interval.MONTH)
    assert here.catalog.add_plan_version(Plan("all", 1, "All", "EUR", month, Decimal(0), 0, 0, tuple(GRANTED)))
    subscribe(
        here.catalog,
        customer="ada",
        plan="all",
        gates=here.start(),
        clock=lambda: here.now,
        subscription_id="more",
        starts_at=PERIOD.start,
    )
    return here


def test_what_a_check_says_a_consumption_does(database: Engine) -> None:
    """Of the same quantity at the same instant; refused, it is told when it fits, and then it does."""
    here = open_shop()
    names = iter(range(10**9))

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(GRANTED), steps)
    def ask(granted: PlanFeature, some: list[Step]) -> None:
        here.now = next_month(here.now)
        feature = granted.feature
        for quantity, later in some:
            here.now += later * MICROSECOND
            told = Decimal(1) if feature.aggregation is Aggregation.COUNT else quantity
            before = here.check(feature.code, str(told))
            name = identity(next(names), here.now)
            answer = here.consume(name, (feature.code, str(quantity)), local=True)
            assert (answer.status is Status.CONSUMED) == before.allowed
            (after,) = answer.decisions
            if not before.allowed:
                assert after == before
                continue
            still = after.used if feature.aggregation is Aggregation.LATEST else 0
            assert after == here.check(feature.code, str(still))
            if before.reason is Reason.OVERAGE_ALLOWED:
                assert after.reason is Reason.OVERAGE_ALLOWED or feature.aggregation is Aggregation.LATEST
        if (again := before.retry_at) is not None and again < here.now + timedelta(minutes=3):
            here.now = again - MICROSECOND
            early = here.check(feature.code, str(told))
            assert not early.allowed or granted.rate is None or granted.rate.algorithm is not RateAlgorithm.FIXED
            here.now = again
            assert here.check(feature.code, str(told)).allowed
            found = here.consume(identity(next(names), here.now), (feature.code, str(quantity)), local=True)
            assert found.status is Status.CONSUMED

    ask()
    assert database.total().calls > 0


def test_what_checks_say_a_consumption_of_several_does(database: Engine) -> None:
    """All or nothing: denied, each feature is told as it was, and nothing has changed."""
    here = open_shop()
    names = iter(range(10**9))
    several = st.lists(st.sampled_from(GRANTED), min_size=2, max_size=4, unique_by=lambda one: one.feature.code)

    @settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
    @given(several, steps)
    def ask(granted: list[PlanFeature], some: list[Step]) -> None:
        here.now = next_month(here.now)
        for quantity, later in some:
            here.now += later * MICROSECOND
            asked = [
                (one.feature.code, "1" if one.feature.aggregation is Aggregation.COUNT else str(quantity))
                for one in granted
            ]
            before = [here.check(*one) for one in asked]
            items = [(code, str(quantity)) for code, _ in asked]
            answer = here.consume(identity(next(names), here.now), *items)
            assert (answer.status is Status.CONSUMED) == all(one.allowed for one in before)
            if answer.status is Status.DENIED:
                assert [*answer.decisions] == before == [here.check(*one) for one in asked]
            else:
                assert [one.used for one in answer.decisions] == [here.check(*one).used for one in asked]

    ask()
    assert database.total().calls > 0

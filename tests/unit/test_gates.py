"""Gates: what decides about a feature, as text; and how a customer's snapshot comes to them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fakes_catalog import MemoryCatalog
from tests.unit.fakes_metering import FakeCounters
from tests.unit.test_entitlements import FEATURES, TERMS, catalog, subscription
from tollgate.catalog.gates import Gate, gate_of, read_gate, write_gate
from tollgate.catalog.model import (
    BillingPeriod,
    Feature,
    FeatureType,
    Overage,
    Override,
    Plan,
    PlanFeature,
    Quota,
    Rate,
    RateAlgorithm,
    Snapshot,
    SubscriptionStatus,
    Threshold,
)
from tollgate.catalog.periods import Interval
from tollgate.catalog.snapshots import override, remove_override, set_alerts, set_override
from tollgate.kernel.errors import InvalidInput, NotFound
from tollgate.metering.model import Series

__all__ = ["catalog"]

D = Decimal
NOW = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
amounts = st.decimals(min_value=0, max_value=10**15, places=4)
instants = st.integers(0, 2 * 366 * 86_400).map(lambda seconds: NOW + timedelta(seconds=seconds - 366 * 86_400))
quotas = st.builds(Quota, amounts, st.sampled_from(Overage))
rates = st.builds(Rate, amounts.filter(bool), st.sampled_from([1, 60, 86_400]), st.sampled_from(RateAlgorithm))
overrides = st.builds(Override, st.none() | st.booleans(), st.none() | quotas, st.none() | rates, st.none() | instants)


@st.composite
def granted(draw: Any, feature: Feature) -> PlanFeature:
    """What some plan grants of a feature."""
    quota = draw(quotas) if feature.type is FeatureType.QUOTA else None
    rate = draw(rates) if feature.type is FeatureType.RATE else None
    return PlanFeature(feature, draw(st.booleans()), None, quota, rate)


@st.composite
def worlds(draw: Any) -> tuple[Feature, Snapshot, list[Plan]]:
    """A feature, and a customer with subscriptions to plans that grant it, or do not."""
    feature = Feature("f", "F", draw(st.sampled_from(FeatureType)))
    plans, subscriptions = [], []
    for number in range(draw(st.integers(0, 4))):
        features = (draw(granted(feature)),) if draw(st.booleans()) else ()
        period = BillingPeriod(draw(st.sampled_from(Interval)), draw(st.integers(1, 3)))
        plans.append(Plan(f"p{number}", 1, "P", "EUR", period, D(0), 0, 0, features))
        starts_at = draw(instants)
        trial = timedelta(days=draw(st.integers(0, 30)))
        subscriptions.append(
            subscription(
                f"sub-{number}",
                plan=f"p{number}",
                starts_at=starts_at,
                anchor=starts_at + trial,
                billing_period=period,
                timezone=draw(st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"])),
                state=draw(st.sampled_from(SubscriptionStatus)),
            )
        )
    alerts = draw(st.lists(st.builds(Threshold, amounts) | st.builds(Threshold, st.none(), amounts), max_size=3))
    snapshot = Snapshot(
        tuple(subscriptions),
        alerts={"f": tuple(alerts)} if alerts else {},
        overrides={"f": draw(overrides)} if draw(st.booleans()) else {},
    )
    return feature, snapshot, plans


def ruled(gate: Gate | None, at: datetime) -> Any:
    """What a gate says of an instant, as far as it decides anything."""
    term = gate.ruling(at) if gate else None
    if term is None:
        return None
    one, terms = term
    period = one.period(at)
    return one.id, one.plan, one.plan_version, one.status(at), period, terms.enabled, terms.quota, terms.rate


@given(worlds(), instants, st.integers(0, 400))
def test_a_gate_says_what_the_snapshot_says_from_when_it_was_made(
    world: tuple[Feature, Snapshot, list[Plan]], made: datetime, days: int
) -> None:
    """Read back, and at any later instant, though subscriptions that are over are not in it."""
    feature, snapshot, plans = world
    by_code = {plan.code: plan for plan in plans}
    gate = gate_of(snapshot, "f", lambda code, _: by_code.get(code), made)
    if gate is None:
        assert not any(plan.feature("f") for plan in plans)
        return
    back = read_gate("acme", "f", write_gate(gate))
    at = made + timedelta(days=days)
    whole = Gate(
        feature,
        tuple((one, terms) for one in snapshot.subscriptions if (terms := by_code[one.plan].feature("f")) is not None),
        snapshot.overrides.get("f"),
    )
    assert ruled(back, at) == ruled(gate, at) == ruled(whole, at)
    assert (back.feature.type, back.alerts) == (feature.type, snapshot.alerts.get("f", ()))
    assert write_gate(back) == write_gate(gate)


def test_a_gate_is_short() -> None:
    """It is written with each event of the feature."""
    terms = ((subscription("01a0c5f2-7d1b-7c3e-9a51-3f2b8c6d7e90"), TERMS[FeatureType.QUOTA]),)
    assert len(write_gate(Gate(FEATURES[FeatureType.QUOTA], terms))) < 200


# How they are published


@pytest.fixture
def gates() -> FakeCounters:
    """Where gates stand."""
    return FakeCounters()


@pytest.fixture
def customer(catalog: MemoryCatalog) -> str:
    """A customer on the plan pro."""
    catalog.update_snapshot("acme", lambda _: Snapshot((subscription(),)))
    return "acme"


def standing(gates: FakeCounters, feature: str) -> tuple[Gate, int]:
    """The gate of a feature, and its revision."""
    head = gates.heads([Series("acme", feature)])[Series("acme", feature)]
    return read_gate("acme", feature, head.gate), head.revision


def test_an_override_is_set_read_replaced_and_removed(
    catalog: MemoryCatalog, gates: FakeCounters, customer: str
) -> None:
    """Each time the gates say so before it is answered."""
    made = Override(enabled=None, quota=Quota(D(7), Overage.ALLOW), expires_at=NOW + timedelta(days=1))
    assert set_override(catalog, customer, "quota", made, gates=gates, clock=lambda: NOW) == made
    assert override(catalog, customer, "quota") == made
    gate, first = standing(gates, "quota")
    assert ruled(gate, NOW)[-2] == made.quota
    assert ruled(gate, NOW + timedelta(days=1))[-2] == TERMS[FeatureType.QUOTA].quota
    set_override(catalog, customer, "quota", Override(enabled=False), gates=gates, clock=lambda: NOW)
    gate, second = standing(gates, "quota")
    assert (ruled(gate, NOW)[-3:-1], second > first) == ((False, TERMS[FeatureType.QUOTA].quota), True)
    remove_override(catalog, customer, "quota", gates=gates, clock=lambda: NOW)
    assert standing(gates, "quota")[0].override is None
    for call in (override, lambda *args: remove_override(*args, gates=gates, clock=lambda: NOW)):
        with pytest.raises(NotFound):
            call(catalog, customer, "quota")


@pytest.mark.parametrize(
    ("feature", "made", "pointer"),
    [
        ("quota", Override(), ""),
        ("quota", Override(rate=Rate(D(1), 60)), "/rate"),
        ("rate", Override(quota=Quota(D(1), Overage.BLOCK)), "/quota"),
        ("boolean", Override(quota=Quota(D(1), Overage.BLOCK)), "/quota"),
        ("quota", Override(enabled=True, expires_at=NOW), "/expires_at"),
    ],
)
def test_an_override_that_changes_nothing_or_does_not_fit_is_refused(
    catalog: MemoryCatalog, gates: FakeCounters, customer: str, feature: str, made: Override, pointer: str
) -> None:
    """And nothing is kept of it."""
    with pytest.raises(InvalidInput) as refused:
        set_override(catalog, customer, feature, made, gates=gates, clock=lambda: NOW)
    assert [fault.pointer for fault in refused.value.errors] == [pointer]
    assert catalog.snapshot(customer).overrides == {}


@pytest.mark.parametrize(("customer", "feature"), [("nobody", "quota"), ("acme", "nothing")])
def test_there_is_no_override_of_what_does_not_exist(
    catalog: MemoryCatalog, gates: FakeCounters, customer: str, feature: str
) -> None:
    """A customer, or a feature."""
    with pytest.raises(NotFound):
        set_override(catalog, customer, feature, Override(enabled=True), gates=gates, clock=lambda: NOW)


def test_what_is_published_goes_to_every_gate_and_a_repetition_heals(
    catalog: MemoryCatalog, gates: FakeCounters, customer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each feature of the customer's plans; one that broke off is completed by the same request."""
    thresholds = [Threshold(percent=D(80))]

    def refuse(*_: Any) -> None:
        raise ConnectionError

    with monkeypatch.context() as broken:
        broken.setattr(gates, "publish_gate", refuse)
        with pytest.raises(ConnectionError):
            set_alerts(catalog, customer, "quota", thresholds, gates=gates, clock=lambda: NOW)
    set_alerts(catalog, customer, "quota", thresholds, gates=gates, clock=lambda: NOW)
    assert standing(gates, "quota")[0].alerts == tuple(thresholds)
    revision = catalog.snapshot(customer).revision
    assert {standing(gates, kind.value)[1] for kind in FeatureType} == {revision}


def test_a_gate_of_a_higher_revision_stays(gates: FakeCounters) -> None:
    """Whoever comes later with an older one is late."""
    series, terms = Series("acme", "quota"), TERMS[FeatureType.QUOTA]
    new, old = (
        write_gate(Gate(terms.feature, ((subscription(), replace(terms, enabled=enabled)),)))
        for enabled in (True, False)
    )
    gates.publish(series, new, 3)
    gates.publish(series, old, 2)
    head = gates.heads([series])[series]
    assert (head.gate, head.revision) == (new, 3)

"""What may be kept of a customer: in how many shards counters are, and which usage is worth an alert."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fakes_catalog import MemoryCatalog
from tests.unit.fakes_metering import FakeCounters
from tests.unit.fakes_recovery import NOW, Clock
from tollgate.catalog.model import Aggregation, Customer, Dedupe, Feature, FeatureType, Sharding, Snapshot, Threshold
from tollgate.catalog.snapshots import alerts, remove_alerts, set_alerts, set_shards, shards
from tollgate.kernel.errors import Conflict, InvalidInput, NotFound

D = Decimal
MINUTE = timedelta(minutes=1)
AHEAD = timedelta(minutes=7)
"""How far ahead of this clock the time of an event may be: 5 minutes, and 2 by which clocks differ."""


@pytest.fixture
def catalog() -> MemoryCatalog:
    """A feature of each type, one that is deduplicated by id alone, and a customer."""
    catalog = MemoryCatalog()
    for kind in FeatureType:
        catalog.save_feature(Feature(kind.value, kind.value, kind))
    catalog.save_feature(Feature("by-id", "By id", FeatureType.USAGE, dedupe=Dedupe.ID))
    catalog.save_feature(Feature("gauge", "Gauge", FeatureType.USAGE, aggregation=Aggregation.LATEST))
    catalog.save_customer(Customer("acme"))
    return catalog


@pytest.fixture
def clock() -> Clock:
    """Stands at NOW."""
    return Clock()


def pointers(error: InvalidInput) -> list[str]:
    """Where the input is at fault."""
    return [fault.pointer for fault in error.errors]


# Shards


def test_a_change_takes_effect_at_a_full_minute_a_quarter_of_an_hour_ahead(catalog: MemoryCatalog) -> None:
    """Rounded up, never down."""
    for second, minutes in ((0, 15), (1, 16), (59, 16)):
        catalog.save_customer(Customer(f"c{second}"))
        at = NOW.replace(second=second, microsecond=0)
        [entry] = set_shards(catalog, f"c{second}", "usage", 4, gates=FakeCounters(), clock=lambda at=at: at)  # type: ignore[misc]
        assert entry == Sharding(NOW.replace(second=0, microsecond=0) + minutes * MINUTE, 4)


def test_the_schedule_grows_at_its_end(catalog: MemoryCatalog, clock: Clock) -> None:
    """What is in force stays as it is."""
    first = set_shards(catalog, "acme", "usage", 4, gates=FakeCounters(), clock=clock)
    clock.now += timedelta(hours=1)
    second = set_shards(catalog, "acme", "usage", 2, gates=FakeCounters(), clock=clock)
    assert second[0] == first[0]
    assert [entry.shards for entry in second] == [4, 2]
    assert shards(catalog, "acme", "usage") == second


def test_the_number_there_is_already_changes_nothing(catalog: MemoryCatalog, clock: Clock) -> None:
    """One shard at first; the same request again gives the same answer."""
    assert (
        set_shards(catalog, "acme", "usage", 1, gates=FakeCounters(), clock=clock)
        == shards(catalog, "acme", "usage")
        == ()
    )
    assert catalog.snapshots_of(["acme"]) == {}
    made = set_shards(catalog, "acme", "usage", 64, gates=FakeCounters(), clock=clock)
    clock.now += timedelta(minutes=14)
    assert set_shards(catalog, "acme", "usage", 64, gates=FakeCounters(), clock=clock) == made


def test_a_change_that_is_far_enough_ahead_is_replaced(catalog: MemoryCatalog, clock: Clock) -> None:
    """By one that takes effect later; nearer than 10 minutes it is a conflict until it is in force."""
    [first] = set_shards(catalog, "acme", "usage", 4, gates=FakeCounters(), clock=clock)
    clock.now = first.since - timedelta(minutes=10)
    [replaced] = set_shards(catalog, "acme", "usage", 8, gates=FakeCounters(), clock=clock)
    assert (replaced.shards, replaced.since) == (8, clock.now + timedelta(minutes=15))
    clock.now = replaced.since - timedelta(minutes=10) + timedelta(microseconds=1)
    with pytest.raises(Conflict):
        set_shards(catalog, "acme", "usage", 4, gates=FakeCounters(), clock=clock)
    clock.now = replaced.since
    assert [one.shards for one in set_shards(catalog, "acme", "usage", 4, gates=FakeCounters(), clock=clock)] == [8, 4]


@given(st.lists(st.tuples(st.integers(1, 64), st.integers(0, 40 * 60)), max_size=30))
def test_an_event_finds_its_shard_whatever_changes_come_later(changes: list[tuple[int, int]]) -> None:
    """Whatever number of shards was read for any time an event could have, is the number ever after."""
    catalog, clock = MemoryCatalog(), Clock()
    catalog.save_customer(Customer("acme"))
    catalog.save_feature(Feature("usage", "Usage", FeatureType.USAGE))
    read: dict[object, int] = {}

    def at(schedule: tuple[Sharding, ...], instant: object) -> int:
        return next((one.shards for one in reversed(schedule) if one.since <= instant), 1)  # type: ignore[operator]

    for number, seconds in changes:
        clock.now += timedelta(seconds=seconds)
        before = shards(catalog, "acme", "usage")
        for minutes in range(-40, 8):
            instant = min(clock.now + minutes * MINUTE, clock.now + AHEAD)
            read.setdefault(instant, at(before, instant))
        try:
            set_shards(catalog, "acme", "usage", number, gates=FakeCounters(), clock=clock)
        except Conflict:
            continue
        after = shards(catalog, "acme", "usage")
        assert [one.since for one in after] == sorted({one.since for one in after})
        assert {instant: at(after, instant) for instant in read} == read


@pytest.mark.parametrize("feature", ["quota", "rate", "boolean", "by-id", "gauge"])
def test_a_feature_whose_parts_would_not_add_up_has_one_counter(catalog: MemoryCatalog, feature: str) -> None:
    """They could oversell a hard limit, see an id twice, or not know the latest."""
    with pytest.raises(InvalidInput) as caught:
        set_shards(catalog, "acme", feature, 2, gates=FakeCounters(), clock=Clock())
    assert pointers(caught.value) == ["/shards"]


@pytest.mark.parametrize("number", [0, -1, 65])
def test_there_are_1_to_64_shards(catalog: MemoryCatalog, number: int) -> None:
    """Each is one read more."""
    with pytest.raises(InvalidInput):
        set_shards(catalog, "acme", "usage", number, gates=FakeCounters(), clock=Clock())


def test_a_schedule_has_at_most_50_entries(catalog: MemoryCatalog, clock: Clock) -> None:
    """The 51st is refused, for none may be forgotten."""
    for number in range(50):
        clock.now += timedelta(hours=1)
        schedule = set_shards(catalog, "acme", "usage", 2 + number % 2, gates=FakeCounters(), clock=clock)
    clock.now += timedelta(hours=1)
    with pytest.raises(Conflict):
        set_shards(catalog, "acme", "usage", 64, gates=FakeCounters(), clock=clock)
    assert shards(catalog, "acme", "usage") == schedule
    assert len(schedule) == 50


# Alerts


def test_the_thresholds_are_those_that_were_last_set(catalog: MemoryCatalog) -> None:
    """In their order; removed, there are none."""
    first = (Threshold(percent=D(80)), Threshold(percent=D("100.5")), Threshold(quantity=D(80)))
    assert (
        set_alerts(catalog, "acme", "quota", first, gates=FakeCounters(), clock=Clock())
        == alerts(catalog, "acme", "quota")
        == first
    )
    second = (Threshold(quantity=D("0.5")),)
    assert (
        set_alerts(catalog, "acme", "quota", second, gates=FakeCounters(), clock=Clock())
        == alerts(catalog, "acme", "quota")
        == second
    )
    remove_alerts(catalog, "acme", "quota", gates=FakeCounters(), clock=Clock())
    assert catalog.snapshots_of(["acme"]) == {}
    with pytest.raises(NotFound):
        alerts(catalog, "acme", "quota")
    with pytest.raises(NotFound):
        remove_alerts(catalog, "acme", "quota", gates=FakeCounters(), clock=Clock())


@pytest.mark.parametrize(
    ("feature", "thresholds", "expected"),
    [
        ("quota", [], ["/thresholds"]),
        ("quota", [Threshold(quantity=D(number)) for number in range(1, 12)], ["/thresholds"]),
        ("quota", [Threshold(), Threshold(D(1), D(1))], ["/thresholds/0", "/thresholds/1"]),
        ("quota", [Threshold(percent=D(0))], ["/thresholds/0/percent"]),
        ("quota", [Threshold(percent=D(1)), Threshold(quantity=D(-1))], ["/thresholds/1/quantity"]),
        ("quota", [Threshold(percent=D(80)), Threshold(percent=D("80.0"))], ["/thresholds/1"]),
        ("usage", [Threshold(quantity=D(1)), Threshold(percent=D(80))], ["/thresholds/1/percent"]),
        ("rate", [Threshold(quantity=D(1))], ["/thresholds"]),
        ("boolean", [Threshold(quantity=D(1))], ["/thresholds"]),
    ],
)  # fmt: skip
def test_thresholds_that_make_no_sense_are_refused(
    catalog: MemoryCatalog, feature: str, thresholds: list[Threshold], expected: list[str]
) -> None:
    """Each with where it stands; nothing is written."""
    with pytest.raises(InvalidInput) as caught:
        set_alerts(catalog, "acme", feature, thresholds, gates=FakeCounters(), clock=Clock())
    assert pointers(caught.value) == expected
    assert catalog.snapshot("acme") == Snapshot()


def test_a_snapshot_has_room_for_50_features(catalog: MemoryCatalog) -> None:
    """It is read whole with each event; those it has can still be changed."""
    for number in range(51):
        catalog.save_feature(Feature(f"f{number}", "F", FeatureType.USAGE))
    for number in range(50):
        set_alerts(catalog, "acme", f"f{number}", [Threshold(quantity=D(1))], gates=FakeCounters(), clock=Clock())
    with pytest.raises(InvalidInput):
        set_alerts(catalog, "acme", "f50", [Threshold(quantity=D(1))], gates=FakeCounters(), clock=Clock())
    set_alerts(catalog, "acme", "f49", [Threshold(quantity=D(2))], gates=FakeCounters(), clock=Clock())


# Both


@pytest.mark.parametrize(("customer", "feature"), [("nobody", "usage"), ("acme", "unknown")])
def test_a_customer_or_feature_that_does_not_exist_is_not_found(
    catalog: MemoryCatalog, customer: str, feature: str
) -> None:
    """By whatever is asked."""
    for ask in (
        lambda: set_shards(catalog, customer, feature, 2, gates=FakeCounters(), clock=Clock()),
        lambda: shards(catalog, customer, feature),
        lambda: set_alerts(catalog, customer, feature, [Threshold(quantity=D(1))], gates=FakeCounters(), clock=Clock()),
        lambda: alerts(catalog, customer, feature),
    ):
        with pytest.raises(NotFound):
            ask()


def test_shards_alerts_and_subscriptions_leave_each_other_alone(catalog: MemoryCatalog, clock: Clock) -> None:
    """They are one item."""
    set_alerts(catalog, "acme", "usage", [Threshold(quantity=D(1))], gates=FakeCounters(), clock=Clock())
    set_shards(catalog, "acme", "usage", 4, gates=FakeCounters(), clock=clock)
    set_alerts(catalog, "acme", "quota", [Threshold(percent=D(1))], gates=FakeCounters(), clock=Clock())
    kept = catalog.snapshot("acme")
    assert set(kept.alerts) == {"usage", "quota"}
    remove_alerts(catalog, "acme", "quota", gates=FakeCounters(), clock=Clock())
    assert catalog.snapshot("acme") == replace(kept, alerts={"usage": (Threshold(quantity=D(1)),)})


def test_who_always_loses_the_race_is_told(catalog: MemoryCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than keep asking."""
    monkeypatch.setattr(catalog, "update_snapshot", lambda _customer, _change: False)
    with pytest.raises(Conflict):
        set_alerts(catalog, "acme", "usage", [Threshold(quantity=D(1))], gates=FakeCounters(), clock=Clock())

"""The counting rule: an event counts once or not at all, however it comes."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fakes_metering import FakeCounters, make_count
from tollgate.catalog.model import Aggregation, Rate
from tollgate.metering.model import Batch, Count, CounterId, Outcome, Scope, Series, Tally
from tollgate.metering.rates import use

START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 1, 10, tzinfo=UTC)
UNTIL = NOW + timedelta(days=2)
COUNTER = CounterId("ada", "requests", "sub", START)
NEXT = CounterId("ada", "requests", "sub", START + timedelta(days=3))
ACCEPTED, DUPLICATE, CONFLICT = Outcome.ACCEPTED, Outcome.DUPLICATE, Outcome.CONFLICT


def count(number: int, quantity: str = "1", *, minutes: float = 0, **fields: Any) -> Count:
    """The event of that number."""
    known: dict[str, Any] = {"at": START + timedelta(minutes=minutes), "counter": COUNTER} | fields
    return make_count(number, quantity, **known)


def by_id(number: int, quantity: str = "1", *, minutes: float = 0, until: datetime = UNTIL, **fields: Any) -> Count:
    """The event of that number, which is known by its id alone."""
    return count(number, quantity, minutes=minutes, scope=Scope.ID, until=until, **fields)


def batch(counts: Sequence[Count], aggregation: Aggregation = Aggregation.SUM) -> Batch:
    """A batch of one customer and feature."""
    return Batch(Series("ada", "requests"), aggregation, tuple(counts))


def send(counters: FakeCounters, counts: Sequence[Count], aggregation: Aggregation = Aggregation.SUM) -> list[Outcome]:
    """Count a batch and give its outcomes."""
    (outcomes,) = counters.count([batch(counts, aggregation)], NOW, lambda: 20.0)
    return outcomes


def total(counters: FakeCounters) -> Tally:
    """What both periods hold together."""
    tallies = counters.tallies([COUNTER, NEXT])
    return tallies.get(COUNTER, Tally()).merge(tallies.get(NEXT, Tally()), Aggregation.SUM)


def all_together(counters: FakeCounters, aggregation: Aggregation) -> Tally:
    """What all periods hold together."""
    merged = Tally()
    for tally in counters.tallies([COUNTER, NEXT]).values():
        merged = merged.merge(tally, aggregation)
    return merged


def made(number: int, quantity: Decimal, minutes: int, scope: Scope) -> Count:
    """An event in its period."""
    at = START + timedelta(minutes=minutes)
    counter = COUNTER if at < NEXT.period_start else NEXT
    until = UNTIL if scope is Scope.ID else None
    return make_count(number, str(quantity), at=at, counter=counter, scope=scope, until=until)


events = st.builds(
    made,
    st.integers(0, 2**64),
    st.decimals(0, 10**6, places=6, allow_nan=False),
    st.one_of(st.integers(0, 30), st.integers(0, 10_000)),
    st.sampled_from(Scope),
)


@given(st.lists(events, max_size=40, unique_by=lambda one: one.hash), st.data())
def test_resends_in_any_order_and_in_any_batches_change_nothing(sent: list[Count], data: st.DataObject) -> None:
    """The usage is that of the distinct events, and each is accepted once."""
    resent = data.draw(st.permutations(sent * 2))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(resent)), max_size=6)))
    counters = FakeCounters()
    outcomes: list[Outcome] = []
    for start, end in zip([0, *cuts], [*cuts, len(resent)], strict=True):
        outcomes += send(counters, resent[start:end])
    assert outcomes.count(ACCEPTED) == len(sent)
    assert outcomes.count(DUPLICATE) == len(sent)
    assert total(counters).quantity == sum((one.quantity for one in sent), Decimal(0))
    assert total(counters).events == len(sent)


@given(
    st.sampled_from(Aggregation),
    st.lists(events, min_size=1, max_size=20, unique_by=lambda one: one.hash),
    st.data(),
)
def test_each_aggregation_is_the_same_in_whatever_order_events_come(
    aggregation: Aggregation, sent: list[Count], data: st.DataObject
) -> None:
    """Sum, count, max and latest against their definitions; the counter equals what the buckets add up to."""
    counters = FakeCounters()
    for one in data.draw(st.permutations(sent)):
        send(counters, [one], aggregation)
    expected = {
        Aggregation.SUM: sum((one.quantity for one in sent), Decimal(0)),
        Aggregation.COUNT: Decimal(len(sent)),
        Aggregation.MAX: max(one.quantity for one in sent),
        Aggregation.LATEST: max(sent, key=lambda one: (one.at, one.hash)).quantity,
    }[aggregation]
    assert all_together(counters, aggregation).quantity == expected
    merged = Tally()
    for _, _, tally in counters.hours("ada", "requests", START, NOW):
        merged = merged.merge(tally, aggregation)
    assert merged == all_together(counters, aggregation)


def test_the_same_id_with_another_body_is_a_conflict_and_does_not_count() -> None:
    """The first one stands."""
    counters = FakeCounters()
    assert send(counters, [count(1, "5"), count(1, "6", body="other")]) == [ACCEPTED, CONFLICT]
    assert send(counters, [count(1, "6", body="other"), count(1, "5")]) == [CONFLICT, DUPLICATE]
    assert total(counters).quantity == 5


def test_the_same_id_at_another_time_is_a_conflict_in_its_bucket_and_another_event_beyond() -> None:
    """An event is identified by (source, id) and its time; near by, that is most likely a mistake."""
    counters = FakeCounters()
    assert send(counters, [count(1), count(1, minutes=0.5)]) == [ACCEPTED, CONFLICT]
    for n in range(2, 102):
        send(counters, [count(n, minutes=n)])
    assert send(counters, [count(1, minutes=102), count(1, minutes=102), count(1)]) == [ACCEPTED, DUPLICATE, DUPLICATE]


def test_an_id_deduplicated_alone_is_a_duplicate_at_any_time_until_its_window_ends() -> None:
    """Whatever the time says; and no longer than promised, although the database may keep the marker."""
    counters = FakeCounters()
    assert send(counters, [by_id(1), by_id(1, minutes=600)]) == [ACCEPTED, DUPLICATE]
    late = batch([by_id(1, until=UNTIL + timedelta(days=2))])
    assert counters.count([late], UNTIL, lambda: 20.0) == [[ACCEPTED]]


def test_events_of_one_bucket_may_fall_into_two_periods() -> None:
    """A period may begin in the middle of a bucket: each event counts in its own, once, in whatever order."""
    later = CounterId("ada", "requests", "sub", START + timedelta(minutes=7))
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        counters = FakeCounters()
        sent = [count(1, "2", minutes=1), count(2, "3", minutes=8, counter=later), count(3, "4", minutes=2)]
        for place in order:
            assert send(counters, [sent[place]]) == [ACCEPTED]
        assert send(counters, sent) == [DUPLICATE] * 3
        assert {one: tally.quantity for one, tally in counters.tallies([COUNTER, later]).items()} == {
            COUNTER: 6,
            later: 3,
        }


def test_a_sum_of_more_digits_than_the_database_keeps_is_refused_and_changes_nothing() -> None:
    """38 digits are exact; the 39th would be rounded away."""
    counters = FakeCounters()
    send(counters, [count(1, "99999999999999999999"), count(2, "0.000000000000000001")])
    assert send(counters, [count(3, "1")]) == [Outcome.OUT_OF_RANGE]
    assert total(counters).quantity == Decimal("99999999999999999999.000000000000000001")
    assert send(counters, [count(4, "0.000000000000000001")]) == [ACCEPTED]


def test_a_batch_that_takes_several_writes_keeps_the_order_of_events_with_one_id() -> None:
    """The first of the request comes first, although it is the latest."""
    counters = FakeCounters()
    send(counters, [count(0, minutes=9_500)])
    sent = [by_id(1, minutes=9_000), *(count(n, minutes=60 * n) for n in range(2, 150))]
    assert send(counters, [*sent, by_id(1, "2")]) == [ACCEPTED] * 149 + [CONFLICT]


def test_a_rate_window_of_more_digits_than_the_database_keeps_is_refused() -> None:
    """Also where the usage itself does not grow, as that of a gauge."""
    rate = Rate(Decimal(10), 60)
    counters = FakeCounters()
    quantities = ["9" * 20, "0.000000000000000001", "1"]
    sent = [count(n, quantity, rate=rate) for n, quantity in enumerate(quantities)]
    assert send(counters, sent, Aggregation.LATEST) == [ACCEPTED, ACCEPTED, Outcome.OUT_OF_RANGE]


def test_an_event_ahead_of_the_clock_uses_up_the_present_window() -> None:
    """Were it counted in the next one, those of the present would be forgotten."""
    rate = Rate(Decimal(10), 60)
    ahead = count(1, at=NOW + timedelta(minutes=4), rate=rate)
    counters = FakeCounters()
    send(counters, [ahead, *(count(n, at=NOW, rate=rate) for n in range(2, 12))])
    assert use(counters.heads([Series("ada", "requests")])[Series("ada", "requests")].rate, rate, NOW).used == 11


def test_a_late_event_under_an_older_rate_does_not_open_the_present_window() -> None:
    """The plan's window was an hour then and is a minute now."""
    now, then = Rate(Decimal(10), 60), Rate(Decimal(10), 3_600)
    counters = FakeCounters()
    send(counters, [count(1, "10", minutes=5_000, rate=now)])
    used = counters.heads([Series("ada", "requests")])[Series("ada", "requests")].rate
    send(counters, [count(2, "1", minutes=10, rate=then)])
    assert counters.heads([Series("ada", "requests")])[Series("ada", "requests")].rate == used

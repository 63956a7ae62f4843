"""The counting rule: an event counts once or not at all, however it comes."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fakes_metering import FakeCounters
from tollgate.catalog.model import Aggregation, Rate
from tollgate.metering.counting import MAX_ITEMS, split
from tollgate.metering.model import Batch, Count, CounterId, Outcome, Tally, bucket_of
from tollgate.metering.rates import use

START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 1, 10, tzinfo=UTC)
COUNTER = CounterId("ada", "requests", "sub", START)


def count(
    number: int,
    quantity: str = "1",
    *,
    minutes: int = 0,
    digest: bytes = b"same",
    until: datetime | None = None,
    counter: CounterId = COUNTER,
) -> Count:
    """The event of that number."""
    at = START + timedelta(minutes=minutes)
    return Count(counter, at, Decimal(quantity), number.to_bytes(12, "big"), digest, until)


def batch(counts: Sequence[Count], aggregation: Aggregation = Aggregation.SUM) -> Batch:
    """A batch of one customer and feature."""
    return Batch("ada", "requests", aggregation, tuple(counts))


def send(counters: FakeCounters, counts: Sequence[Count], aggregation: Aggregation = Aggregation.SUM) -> list[Outcome]:
    """Count a batch and give its outcomes."""
    (outcomes,) = counters.count([batch(counts, aggregation)], NOW, lambda: 20.0)
    return outcomes


def total(counters: FakeCounters) -> Tally:
    """What the counter holds."""
    return counters.tallies([COUNTER]).get(COUNTER, Tally())


events = st.builds(
    lambda number, quantity, minutes, timeless: count(
        number, str(quantity), minutes=minutes, until=NOW + timedelta(days=2) if timeless else None
    ),
    st.integers(0, 2**64),
    st.decimals(0, 10**6, places=6, allow_nan=False),
    st.integers(0, 10_000),
    st.booleans(),
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
    assert outcomes.count(Outcome.ACCEPTED) == len(sent)
    assert outcomes.count(Outcome.DUPLICATE) == len(sent)
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
    assert total(counters).quantity == expected
    merged = Tally()
    for _, _, tally in counters.buckets("ada", "requests", START, NOW):
        merged = merged.merge(tally, aggregation)
    assert merged == total(counters)


def test_the_same_id_with_another_body_is_a_conflict_and_does_not_count() -> None:
    """The first one stands."""
    counters = FakeCounters()
    assert send(counters, [count(1, "5"), count(1, "6", digest=b"othr")]) == [Outcome.ACCEPTED, Outcome.CONFLICT]
    assert send(counters, [count(1, "6", digest=b"othr"), count(1, "5")]) == [Outcome.CONFLICT, Outcome.DUPLICATE]
    assert total(counters).quantity == 5


def test_the_same_id_at_another_time_is_another_event() -> None:
    """An event is identified by (source, id) and its time, to the quarter of an hour."""
    counters = FakeCounters()
    assert send(counters, [count(1), count(1, minutes=15)]) == [Outcome.ACCEPTED, Outcome.ACCEPTED]


def test_an_id_deduplicated_alone_is_a_duplicate_at_any_time_until_its_window_ends() -> None:
    """Whatever the time says; and no longer than promised, although the database may keep the marker."""
    counters = FakeCounters()
    until = NOW + timedelta(days=2)
    assert send(counters, [count(1, until=until), count(1, minutes=600, until=until)]) == [
        Outcome.ACCEPTED,
        Outcome.DUPLICATE,
    ]
    late = batch([count(1, until=until + timedelta(days=2))])
    assert counters.count([late], until, lambda: 20.0) == [[Outcome.ACCEPTED]]


def test_events_of_one_quarter_of_an_hour_may_fall_into_two_periods() -> None:
    """A period may begin in the middle of a bucket: each event counts in its own, once."""
    later = CounterId("ada", "requests", "sub", START + timedelta(minutes=7))
    counters = FakeCounters()
    sent = [count(1, "2", minutes=1), count(2, "3", minutes=8, counter=later)]
    send(counters, sent)
    assert send(counters, sent) == [Outcome.DUPLICATE, Outcome.DUPLICATE]
    assert {counter: tally.quantity for counter, tally in counters.periods("ada", "requests").items()} == {
        COUNTER: 2,
        later: 3,
    }


def test_a_sum_of_more_digits_than_the_database_keeps_is_refused_and_changes_nothing() -> None:
    """38 digits are exact; the 39th would be rounded away."""
    counters = FakeCounters()
    send(counters, [count(1, "99999999999999999999"), count(2, "0.000000000000000001")])
    assert send(counters, [count(3, "1")]) == [Outcome.OUT_OF_RANGE]
    assert total(counters).quantity == Decimal("99999999999999999999.000000000000000001")
    assert send(counters, [count(4, "0.000000000000000001")]) == [Outcome.ACCEPTED]


@given(st.lists(events, min_size=1, max_size=120, unique_by=lambda one: one.hash))
def test_a_large_batch_is_split_into_parts_that_one_transaction_holds(sent: list[Count]) -> None:
    """No event is left out or sent twice, and no part touches more items than a transaction takes."""
    parts = list(split(batch(sent)))
    assert sorted(place for places, _ in parts for place in places) == list(range(len(sent)))
    for places, part in parts:
        assert [sent[place] for place in places] == list(part.counts)
        pages = {bucket_of(one.at) for one in part.counts}
        markers = {one.hash for one in part.counts if one.until}
        counters = {one.counter for one in part.counts}
        assert 2 * len(pages) + len(markers) + len(counters) + 1 <= MAX_ITEMS < 100


@pytest.mark.parametrize("minutes", [0, 14, 15, 29, 61])
def test_buckets_are_the_quarters_of_the_hour(minutes: int) -> None:
    """A bucket begins at a multiple of 15 minutes and holds the instant."""
    at = START + timedelta(minutes=minutes, seconds=59)
    bucket = bucket_of(at)
    assert bucket.minute % 15 == 0
    assert timedelta(0) <= at - bucket < timedelta(minutes=15)


def test_a_batch_that_must_be_split_keeps_the_order_of_events_with_one_id() -> None:
    """The first of the request comes first, although it is the latest."""
    until = NOW + timedelta(days=2)
    sent = [count(1, minutes=9_000, until=until), *(count(n, minutes=15 * n) for n in range(2, 200))]
    sent += [count(1, "2", minutes=0, until=until, digest=b"othr")]
    places = [place for part, _ in split(batch(sent)) for place in part]
    assert places.index(0) < places.index(len(sent) - 1)


def test_a_rate_window_of_more_digits_than_the_database_keeps_is_refused() -> None:
    """Also where the usage itself does not grow, as that of a gauge."""
    rate = Rate(Decimal(10), 60)
    counters = FakeCounters()
    quantities = ["9" * 20, "0.000000000000000001", "1"]
    sent = [replace(count(n, quantity), rate=rate) for n, quantity in enumerate(quantities)]
    assert send(counters, sent, Aggregation.LATEST) == [Outcome.ACCEPTED, Outcome.ACCEPTED, Outcome.OUT_OF_RANGE]


def test_an_event_ahead_of_the_clock_uses_up_the_present_window() -> None:
    """Were it counted in the next one, those of the present would be forgotten."""
    rate = Rate(Decimal(10), 60)
    ahead = replace(count(1), at=NOW + timedelta(minutes=4), rate=rate)
    counters = FakeCounters()
    send(counters, [ahead, *(replace(count(n), at=NOW, rate=rate) for n in range(2, 12))])
    assert use(counters.rate("ada", "requests"), rate, NOW).used == 11


def test_a_late_event_under_an_older_rate_does_not_open_the_present_window() -> None:
    """The plan's window was an hour then and is a minute now."""
    now, then = Rate(Decimal(10), 60), Rate(Decimal(10), 3_600)
    counters = FakeCounters()
    send(counters, [replace(count(1, "10", minutes=5_000), rate=now)])
    used = counters.rate("ada", "requests")
    send(counters, [replace(count(2, "1", minutes=10), rate=then)])
    assert counters.rate("ada", "requests") == used

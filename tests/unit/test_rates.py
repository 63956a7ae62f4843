"""Rate limits against references that keep every event and count by brute force, in exact fractions."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollgate.catalog.model import Rate, RateAlgorithm
from tollgate.metering.rates import RateState, RateUse, record, use

D = Decimal
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START = datetime(2026, 1, 31, 9, tzinfo=UTC)  # a window of any divisor of an hour begins here
SECOND, MILLISECOND, MICROSECOND = timedelta(seconds=1), timedelta(milliseconds=1), timedelta(microseconds=1)
GRAIN = Fraction(1, 10**9)
FIXED, SLIDING, BUCKET = RateAlgorithm.FIXED, RateAlgorithm.SLIDING, RateAlgorithm.TOKEN_BUCKET

Used = tuple[datetime, Decimal]

quantities = st.decimals(min_value=0, max_value=50, places=3)
limits = st.decimals(min_value=D("0.001"), max_value=1000, places=3)
windows = st.sampled_from([1, 7, 20, 3600])
moments = st.integers(0, 60_000).map(lambda milliseconds: START + milliseconds * MILLISECOND)
events = st.lists(st.tuples(moments, quantities), max_size=12)
in_order = events.map(lambda some: sorted(some, key=lambda one: one[0]))


def recorded(some: Iterable[Used], rate: Rate, state: RateState | None = None) -> RateState:
    """The state after events, in the order given."""
    state = state or RateState()
    for at, quantity in some:
        state = record(state, rate, at, quantity)
    return state


def used(some: Iterable[Used], rate: Rate, now: datetime) -> Decimal:
    """What is used after events."""
    return use(recorded(some, rate), rate, now).used


def seconds(at: datetime) -> Fraction:
    """Since 1970, exactly."""
    return Fraction((at - EPOCH) // MICROSECOND, 10**6)


def window_of(at: datetime, rate: Rate) -> int:
    """How many windows before it, since 1970."""
    return seconds(at) // rate.window_seconds


def total(some: Iterable[Used], rate: Rate, window: int) -> Decimal:
    """The sum of the events of one window, found by looking at them all."""
    return sum((quantity for at, quantity in some if window_of(at, rate) == window), D(0))


def newest(some: Iterable[Used], now: datetime) -> datetime:
    """The newest instant of all."""
    return max([now, *(at for at, _ in some)])


# Fixed windows


@given(events, windows, st.integers(0, 10**8))
def test_a_fixed_window_holds_the_sum_of_its_events(some: list[Used], window_seconds: int, later: int) -> None:
    """In whatever order they come, and nothing of those before it."""
    rate = Rate(D(10), window_seconds, FIXED)
    now = newest(some, START) + later * MICROSECOND
    answer = use(recorded(some, rate), rate, now)
    window = window_of(now, rate)
    assert answer.used == total(some, rate, window)
    assert answer.resets_at == EPOCH + (window + 1) * window_seconds * SECOND


@given(st.data(), events, windows, st.sampled_from([FIXED, SLIDING]))
def test_the_order_of_events_means_nothing_to_windows(
    data: st.DataObject, some: list[Used], window_seconds: int, algorithm: RateAlgorithm
) -> None:
    """Late ones count where they belong, or nowhere if that is over."""
    rate = Rate(D(10), window_seconds, algorithm)
    now = newest(some, START)
    shuffled = data.draw(st.permutations(some))
    assert used(shuffled, rate, now) == used(some, rate, now)


def test_a_window_ends_just_before_the_next_begins() -> None:
    """Half open, as periods are."""
    rate = Rate(D(10), 60, FIXED)
    some = [(START, D(3))]
    last = START + 60 * SECOND - MICROSECOND
    assert use(recorded(some, rate), rate, last) == RateUse(D(3), START + 60 * SECOND)
    assert use(recorded(some, rate), rate, START + 60 * SECOND) == RateUse(D(0), START + 120 * SECOND)


def test_a_late_event_counts_in_the_window_it_belongs_to() -> None:
    """The one before the newest is remembered, for the weight it still has; what came before that is over."""
    now = START + 75 * SECOND
    for late, expected in ((0, D(2) + 3), (59, D(2) + 3), (-1, D(2))):
        some = [(START + 60 * SECOND, D(2)), (START + late * SECOND, D(4))]
        assert used(some, Rate(D(10), 60, SLIDING), now) == expected
        assert used(some, Rate(D(10), 60, FIXED), now) == 2


def test_an_event_a_little_ahead_of_the_clock_hides_nothing() -> None:
    """What stands in the present window counts there still when a sender with a fast clock has begun the next."""
    some = [(START + 59 * SECOND, D(7)), (START + 60 * SECOND, D(2))]
    for algorithm in (FIXED, SLIDING):
        assert used(some, Rate(D(10), 60, algorithm), START + 59 * SECOND) == 7


@pytest.mark.parametrize("algorithm", list(RateAlgorithm))
def test_nothing_is_used_before_the_first_event(algorithm: RateAlgorithm) -> None:
    """A customer begins with the whole limit."""
    assert use(RateState(), Rate(D(10), 60, algorithm), START).used == 0


# Sliding windows


@given(in_order, windows, limits, st.integers(0, 10**8))
def test_a_sliding_window_weighs_the_one_before_by_what_still_overlaps(
    some: list[Used], window_seconds: int, limit: Decimal, later: int
) -> None:
    """It uses this + before x (1 - elapsed / window), rounded down to a billionth."""
    rate = Rate(limit, window_seconds, SLIDING)
    now = newest(some, START) + later * MICROSECOND
    window = window_of(now, rate)
    overlap = 1 - (seconds(now) - window * window_seconds) / window_seconds
    this, before = (Fraction(total(some, rate, one)) for one in (window, window - 1))
    exact = this + before * overlap
    assert exact - GRAIN <= Fraction(used(some, rate, now)) <= exact


@pytest.mark.parametrize(
    ("at", "expected"), [(0, "0"), (59, "6"), (60, "6"), (75, "4.5"), (90, "3"), (119, "0.1"), (120, "0"), (200, "0")]
)
def test_a_sliding_window_lets_go_evenly(at: int, expected: str) -> None:
    """Six used in a window are half as many in the middle of the next, and none after it."""
    some = [(START + 30 * SECOND, D(6))] if at else []
    assert used(some, Rate(D(10), 60, SLIDING), START + at * SECOND) == D(expected)


# Token buckets


def leaked(some: Iterable[Used], rate: Rate, now: datetime) -> Fraction:
    """A leaking bucket: drained at limit / window, filled by each event, never more than full."""
    per_second = Fraction(rate.limit) / rate.window_seconds
    level, before = Fraction(0), seconds(START)
    for at, quantity in some:
        level = max(level - (seconds(at) - before) * per_second, Fraction(0))
        level = min(level + Fraction(quantity), Fraction(rate.limit))
        before = seconds(at)
    return max(level - (seconds(now) - before) * per_second, Fraction(0))


@given(in_order, windows, limits, st.integers(0, 10**8))
def test_a_token_bucket_is_a_leaking_bucket(some: list[Used], window_seconds: int, limit: Decimal, later: int) -> None:
    """GCRA keeps one number where the reference drains and fills: the same to a billionth of a unit."""
    rate = Rate(limit, window_seconds, BUCKET)
    now = newest(some, START) + later * MICROSECOND
    answer = use(recorded(some, rate), rate, now)
    exact = leaked(some, rate, now)
    assert abs(Fraction(answer.used) - exact) <= GRAIN
    assert 0 <= answer.used <= limit


@given(in_order, windows, limits)
def test_a_token_bucket_is_full_again_when_it_says(some: list[Used], window_seconds: int, limit: Decimal) -> None:
    """At that microsecond, and not at the one before."""
    rate = Rate(limit, window_seconds, BUCKET)
    state = recorded(some, rate)
    now = newest(some, START)
    resets_at = use(state, rate, now).resets_at
    assert now <= resets_at <= now + window_seconds * SECOND
    assert use(state, rate, resets_at) == RateUse(D(0), resets_at)
    if resets_at > now:
        assert use(state, rate, resets_at - MICROSECOND).resets_at == resets_at


@given(st.integers(1, 200), st.sampled_from([1, 7, 60, 86_400]))
def test_a_token_bucket_gives_its_whole_limit_at_once(limit: int, window_seconds: int) -> None:
    """Also where a unit takes a third of a second: no rounding denies the last one."""
    rate = Rate(D(limit), window_seconds, BUCKET)
    states = accumulate(range(limit), lambda state, _: record(state, rate, START, D(1)), initial=RateState())
    assert [use(state, rate, START).used for state in states] == list(range(limit + 1))


@given(in_order, windows, limits, moments, quantities)
def test_an_event_out_of_order_takes_no_more_than_it_asks_and_gives_nothing_back(
    some: list[Used], window_seconds: int, limit: Decimal, at: datetime, quantity: Decimal
) -> None:
    """However late it comes, a bucket is at most empty afterwards."""
    rate = Rate(limit, window_seconds, BUCKET)
    state = recorded(some, rate)
    now = max(newest(some, START), at)
    before, after = (use(one, rate, now).used for one in (state, record(state, rate, at, quantity)))
    assert before <= after <= min(before + quantity, limit) + D("1e-9")


def test_an_event_that_is_over_takes_nothing_from_a_token_bucket() -> None:
    """What a window refills is back a window later."""
    rate = Rate(D(10), 60, BUCKET)
    some = [(START + 120 * SECOND, D(4)), (START + 59 * SECOND, D(9)), (START, D(9))]
    assert used(some, rate, START + 120 * SECOND) == 4


# All of them


@given(in_order, st.sampled_from(RateAlgorithm), windows, limits)
def test_waiting_never_uses_more(
    some: list[Used], algorithm: RateAlgorithm, window_seconds: int, limit: Decimal
) -> None:
    """After two windows all of the limit is there again."""
    rate = Rate(limit, window_seconds, algorithm)
    state, now = recorded(some, rate), newest(some, START)
    uses = [use(state, rate, now + step * window_seconds * SECOND / 4).used for step in range(9)]
    assert uses == sorted(uses, reverse=True)
    assert uses[-1] == 0


@pytest.mark.parametrize("algorithm", list(RateAlgorithm))
def test_quantities_of_any_size_are_recorded(algorithm: RateAlgorithm) -> None:
    """The largest and the finest decimals of the wire, together with the largest and the finest limits."""
    largest, finest = D("9" * 20 + "." + "9" * 18), D("1e-18")
    for limit in (largest, finest, D(3)):
        for quantity in (largest, finest):
            rate = Rate(limit, 86_400, algorithm)
            exact = Fraction(min(quantity, limit) if algorithm is BUCKET else quantity)
            assert exact - GRAIN <= Fraction(used([(START, quantity)], rate, START)) <= exact


@pytest.mark.parametrize("algorithm", [FIXED, SLIDING])
def test_a_count_that_the_database_could_not_keep_is_refused(algorithm: RateAlgorithm) -> None:
    """It would be rounded there, in the newest window and in the one before."""
    rate = Rate(D(10), 60, algorithm)
    largest, finest = (START, D("9" * 20)), (START, D("1e-18"))
    later = (START + 60 * SECOND, D(1))
    recorded([largest, finest, later], rate)
    for some in ([largest, finest, largest], [largest, finest, later, largest]):
        with pytest.raises(OverflowError):
            recorded(some, rate)


@pytest.mark.parametrize("algorithm", list(RateAlgorithm))
def test_a_state_fits_the_digits_the_database_keeps(algorithm: RateAlgorithm) -> None:
    """38 of them; a third of a second has no end."""
    state = recorded([(START + MICROSECOND, D("0.7"))] * 7, Rate(D(3), 1, algorithm))
    assert all(len(number.as_tuple().digits) <= 38 for number in (state.count, state.previous, state.tat))


@given(events, st.sampled_from(RateAlgorithm), st.sampled_from(RateAlgorithm))
def test_a_limit_keeps_its_count_when_its_algorithm_changes(
    some: list[Used], before: RateAlgorithm, after: RateAlgorithm
) -> None:
    """A plan changed in the middle of a window gives nobody a second one."""
    one, other = (Rate(D(10), 60, algorithm) for algorithm in (before, after))
    now = newest(some, START)
    found = use(recorded(some, one), other, now)
    if (before is BUCKET) == (after is BUCKET):
        assert found == use(recorded(some, other), other, now)
    else:
        assert found.used >= min(use(recorded(some, one), one, now).used, D(10)) - D("2e-9")


@given(events, st.sampled_from(RateAlgorithm))
def test_a_changed_limit_keeps_the_count_of_the_window(some: list[Used], algorithm: RateAlgorithm) -> None:
    """What was used was used; for a bucket, the same part of it."""
    old, new = Rate(D(10), 60, algorithm), Rate(D(20), 60, algorithm)
    state, now = recorded(some, old), newest(some, START)
    factor = 2 if algorithm is BUCKET else 1
    assert abs(use(state, new, now).used - factor * use(state, old, now).used) <= D("2e-9")


@pytest.mark.parametrize("algorithm", list(RateAlgorithm))
def test_a_changed_window_begins_anew(algorithm: RateAlgorithm) -> None:
    """Counts of minutes say nothing of hours; what comes afterwards counts there alone."""
    minute, hour = (Rate(D(10), window_seconds, algorithm) for window_seconds in (60, 3600))
    state = recorded([(START, D(7))], minute)
    assert use(state, hour, START).used == 0
    state = record(state, hour, START + 3600 * SECOND, D(2))
    assert use(state, hour, START + 3600 * SECOND).used == 2
    assert record(state, minute, START, D(5)) == state  # late, of the plan before

"""What a rate lets pass, whatever the sequence: never more than its rule says, and nothing refused that fits."""

from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_rates import BUCKET, FIXED, GRAIN, MICROSECOND, MILLISECOND, SECOND, SLIDING, START, seconds
from tollgate.catalog.model import Rate, RateAlgorithm
from tollgate.metering.rates import RateState, admit, ceiling, retry_at, seconds_of, use

D = Decimal
steps = st.lists(
    st.tuples(st.integers(0, 30_000_000), st.decimals(min_value=0, max_value=12, places=2)), min_size=1, max_size=40
)
rates = st.builds(
    Rate,
    st.decimals(min_value=1, max_value=20, places=1),
    st.sampled_from([1, 7, 60]),
    st.sampled_from(RateAlgorithm),
)
Passed = list[tuple[Fraction, Fraction]]


def replayed(rate: Rate, some: list[tuple[int, Decimal]]) -> tuple[Passed, RateState]:
    """Each asks so many microseconds after the one before; what is let pass, and the state then."""
    now, state, passed = START, RateState(), []
    for later, quantity in some:
        now += later * MICROSECOND
        after = admit(state, rate, now, quantity)
        if after is not None:
            passed.append((seconds(now), Fraction(quantity)))
            state = after
    return passed, state


def at_most_in_any_window(passed: Passed, length: int) -> Fraction:
    """The most that was let pass in any half-open stretch of that length: one that begins with an event."""
    sums = [sum((q for at, q in passed if begin <= at < begin + length), Fraction()) for begin, _ in passed]
    return max(sums, default=Fraction())


@given(rates, steps)
def test_no_stretch_as_long_as_the_window_sees_more_than_the_rule_says(
    rate: Rate, some: list[tuple[int, Decimal]]
) -> None:
    """Fixed and token bucket: twice the limit at their edges; sliding: less than that."""
    passed, _ = replayed(rate, some)
    most = at_most_in_any_window(passed, rate.window_seconds)
    assert most <= 2 * Fraction(rate.limit) + len(passed) * GRAIN
    if rate.algorithm is SLIDING and most:
        assert most < 2 * Fraction(rate.limit)
    if rate.algorithm is not BUCKET:
        in_windows: dict[int, Fraction] = {}
        for at, quantity in passed:
            window = at // rate.window_seconds
            in_windows[window] = in_windows.get(window, Fraction()) + quantity
        assert max(in_windows.values(), default=0) <= rate.limit


@given(
    rates,
    st.lists(st.tuples(st.integers(-8_000, 8_000), st.decimals(min_value=0, max_value=12, places=2)), max_size=60),
)
def test_clocks_that_disagree_pass_no_more_than_their_windows_hold(rate: Rate, some: list[tuple[int, Decimal]]) -> None:
    """Each asks by a clock of its own, thousandths of a window from the others': what is forgotten is never given."""
    state, passed, clocks = RateState(), D(0), [START]
    for later, quantity in some:
        clocks.append(START + later * rate.window_seconds * MILLISECOND)
        after = admit(state, rate, clocks[-1], quantity)
        if after is not None:
            assert not quantity or after != state
            passed, state = passed + quantity, after
    if rate.algorithm is BUCKET:
        windows = 1 + (seconds(max(clocks)) - seconds(min(clocks))) / rate.window_seconds
    else:
        windows = Fraction(len({seconds(clock) // rate.window_seconds for clock in clocks}))
    assert Fraction(passed) <= Fraction(rate.limit) * windows + len(some) * GRAIN


@pytest.mark.parametrize("before", [Rate(D(5), 60, algorithm) for algorithm in RateAlgorithm])
@pytest.mark.parametrize("after", [Rate(D(5), 3_600, algorithm) for algorithm in RateAlgorithm])
def test_a_window_of_another_length_is_begun_by_whoever_comes_first(before: Rate, after: Rate) -> None:
    """Though its clock is behind what the figures of the old window tell of."""
    state = admit(RateState(), before, START, D(5))
    assert state is not None
    found = []
    for behind in (59, 0, 0, 0, 0, 0, 0):
        next_state = admit(state, after, START - behind * SECOND, D(1))
        found.append(next_state is not None)
        state = next_state or state
    assert found == [True] * 5 + [False] * 2


@pytest.mark.parametrize("algorithm", [FIXED, SLIDING])
def test_a_clock_that_is_far_behind_is_told_of_the_newest_window(algorithm: RateAlgorithm) -> None:
    """What is used, and when to come back: the window it believes in is forgotten."""
    rate = Rate(D(5), 60, algorithm)
    state = admit(RateState(), rate, START, D(5))
    assert state is not None
    behind = START - 61 * SECOND
    assert (use(state, rate, behind).used, use(state, rate, behind).resets_at) == (D(5), START + 60 * SECOND)
    assert admit(state, rate, behind, D(1)) is None
    assert retry_at(state, rate, behind, D(1)) == retry_at(state, rate, START, D(1))


@given(rates, steps)
def test_a_token_bucket_passes_what_a_leaking_bucket_holds(rate: Rate, some: list[tuple[int, Decimal]]) -> None:
    """Against a level that leaks, in exact fractions; within the grain that is rounded to."""
    rate = Rate(rate.limit, rate.window_seconds, BUCKET)
    level, now, state = Fraction(), START, RateState()
    for later, quantity in some:
        now += later * MICROSECOND
        level = max(level - Fraction(later, 10**6) * Fraction(rate.limit) / rate.window_seconds, Fraction())
        room = Fraction(rate.limit) - level
        after = admit(state, rate, now, quantity)
        if abs(room - Fraction(quantity)) > len(some) * GRAIN:
            assert (after is not None) == (quantity < room)
        if after is not None:
            level, state = level + Fraction(quantity), after


@pytest.mark.parametrize("window_seconds", [1, 60, 86_400])
def test_a_sliding_window_passes_at_most_the_limit_of_even_use(window_seconds: int) -> None:
    """Asked for at twice the limit, evenly, through ten windows."""
    rate = Rate(D(50), window_seconds, SLIDING)
    passed, _ = replayed(rate, [(window_seconds * 10_000, D(1))] * 1_000)
    settled = [(at, quantity) for at, quantity in passed if at >= seconds(START) + 2 * window_seconds]
    assert 45 <= at_most_in_any_window(settled, window_seconds) <= 51


@given(rates, steps, st.decimals(min_value=0, max_value=25, places=2), st.integers(0, 200_000_000))
def test_what_is_refused_fits_at_the_instant_it_is_told_and_not_before(
    rate: Rate, some: list[tuple[int, Decimal]], quantity: Decimal, later: int
) -> None:
    """If nothing else is used until then; never, if it is more than the limit."""
    _, state = replayed(rate, some)
    now = START + timedelta(microseconds=sum(step for step, _ in some) + later)
    again = retry_at(state, rate, now, quantity)
    if quantity > rate.limit:
        assert again is None
        return
    assert again is not None
    fits = admit(state, rate, now, quantity) is not None
    # What is rounded down by the grain may fit a microsecond earlier than exact reckoning says.
    assert fits or again > now
    assert admit(state, rate, again + MICROSECOND, quantity) is not None
    if again > now + MICROSECOND:
        early = use(state, rate, again - MICROSECOND).used + quantity - rate.limit
        assert early > -D("0.001") if rate.algorithm is not FIXED else early > 0


@given(rates, steps, st.decimals(min_value=0, max_value=20, places=2))
def test_the_ceiling_is_what_admission_goes_by(rate: Rate, some: list[tuple[int, Decimal]], quantity: Decimal) -> None:
    """As the database compares it with the figure that grows, which others may have added to."""
    _, state = replayed(rate, some)
    now = START + timedelta(microseconds=sum(step for step, _ in some))
    if quantity > rate.limit or state.window_seconds != rate.window_seconds:
        return
    most = ceiling(state, rate, now, quantity)
    if rate.algorithm is BUCKET:
        fits = max(state.tat, seconds_of(now)) < most
    else:
        open_window = int(seconds_of(now) // rate.window_seconds)
        fits = (state.count if state.window == open_window else D(0)) <= most
    assert fits == (admit(state, rate, now, quantity) is not None)

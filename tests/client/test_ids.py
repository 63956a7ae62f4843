"""UUIDs of version 7, in order."""

import uuid

from hypothesis import given
from hypothesis import strategies as st

from tollgate_client.ids import Uuid7

SECOND = 1_000_000_000


@given(st.lists(st.integers(0, 10 * SECOND - 1), min_size=2, max_size=50))
def test_ids_grow_even_while_the_clock_does_not(steps: list[int]) -> None:
    """Whatever the clock says within ten seconds."""
    times = iter([1_700_000_000 * SECOND + step for step in steps])
    make = Uuid7(clock=lambda: next(times))
    made = [make() for _ in steps]
    assert made == sorted(set(made))
    assert {(uuid.UUID(each).version, uuid.UUID(each).variant) for each in made} == {(7, uuid.RFC_4122)}


def test_a_millisecond_with_more_ids_than_it_counts_borrows_from_the_next() -> None:
    """They stay in order, and within some milliseconds."""
    make = Uuid7(clock=lambda: 1_700_000_000 * SECOND)
    made = [make() for _ in range(10_000)]
    assert made == sorted(set(made))
    assert (uuid.UUID(made[-1]).int >> 80) - 1_700_000_000_000 < 10


def test_an_id_carries_the_time_of_a_clock_that_was_set_right() -> None:
    """One that was an hour ahead does not keep ids an hour ahead, where Tollgate refuses them."""
    times = iter([1_700_003_600 * SECOND, 1_700_000_000 * SECOND])
    make = Uuid7(clock=lambda: next(times))
    make()
    assert uuid.UUID(make()).int >> 80 == 1_700_000_000_000

"""Billing periods divide time without gap or overlap, in every zone and through every change of its clock."""

import calendar
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from dateutil.relativedelta import relativedelta
from hypothesis import example, given
from hypothesis import strategies as st

from tollgate.catalog import periods
from tollgate.catalog.periods import (
    Interval,
    Period,
    local_days_later,
    period_at,
    periods_between,
    time_zone,
)
from tollgate.kernel.errors import InvalidInput

ORDINARY_ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",  # changed its clock at 00:01
    "America/Sao_Paulo",  # no midnight when summer time began
    "America/Havana",  # two midnights when it ends
    "Asia/Beirut",
    "Africa/Cairo",
    "Asia/Kathmandu",  # 5 hours 45 minutes
    "Australia/Lord_Howe",  # a summer time of half an hour
    "Antarctica/Troll",  # a summer time of two hours
    "Pacific/Auckland",
]
SKIPPED_A_DAY = ["Pacific/Apia", "Pacific/Kwajalein", "Pacific/Kiritimati"]

ZONES = st.sampled_from(ORDINARY_ZONES + SKIPPED_A_DAY)
INTERVALS = st.sampled_from(Interval)
COUNTS = st.integers(1, 14)
INSTANTS = st.datetimes(datetime(1990, 1, 1), datetime(2037, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001  bounds of a strategy
MOMENT = timedelta(microseconds=1)


def at(text: str) -> datetime:
    """An instant from its ISO 8601 text."""
    return datetime.fromisoformat(text).astimezone(UTC)


@given(INSTANTS, ZONES, INTERVALS, COUNTS, INSTANTS)
def test_an_instant_lies_in_its_period(
    anchor: datetime, zone: str, interval: Interval, count: int, instant: datetime
) -> None:
    """No period is empty, and all are given in UTC."""
    period = period_at(anchor, zone, interval, count, instant)
    assert period.start <= instant < period.end
    assert period.start.tzinfo is period.end.tzinfo is UTC


@given(INSTANTS, ZONES, INTERVALS, COUNTS, INSTANTS)
def test_periods_meet_without_gap_or_overlap(
    anchor: datetime, zone: str, interval: Interval, count: int, instant: datetime
) -> None:
    """The end of a period is the start of the next, and the last moment before it is still its own."""
    period = period_at(anchor, zone, interval, count, instant)
    assert period_at(anchor, zone, interval, count, period.start) == period
    assert period_at(anchor, zone, interval, count, period.end - MOMENT) == period
    assert period_at(anchor, zone, interval, count, period.end).start == period.end
    assert period_at(anchor, zone, interval, count, period.start - MOMENT).end == period.start


@given(INSTANTS, ZONES, INTERVALS, COUNTS)
def test_a_period_starts_at_the_anchor(anchor: datetime, zone: str, interval: Interval, count: int) -> None:
    """Whatever the clock did there, a subscription starts when it starts."""
    assert period_at(anchor, zone, interval, count, anchor).start == anchor
    assert period_at(anchor, zone, interval, count, anchor - MOMENT).end == anchor


@given(INSTANTS, ZONES, INTERVALS, COUNTS, INSTANTS)
def test_a_period_starts_at_the_wall_clock_time_of_the_anchor(
    anchor: datetime, zone: str, interval: Interval, count: int, instant: datetime
) -> None:
    """Except where that time was skipped, and then it starts later by what was skipped."""
    period = period_at(anchor, zone, interval, count, instant)
    wall = period.start.astimezone(ZoneInfo(zone))
    meant = anchor.astimezone(ZoneInfo(zone)).time()
    if wall.time() != meant:
        earlier = datetime.combine(wall.date(), meant, ZoneInfo(zone))
        assert earlier.astimezone(UTC).astimezone(ZoneInfo(zone)).time() != meant


@given(
    st.dates(datetime(1990, 1, 1).date(), datetime(2037, 12, 31).date()),  # noqa: DTZ001  bounds of a strategy
    st.sampled_from(ORDINARY_ZONES),
    COUNTS,
    INSTANTS,
)
def test_the_day_of_the_anchor_is_restored(day: datetime, zone: str, count: int, instant: datetime) -> None:
    """A month that is too short ends on its last day, and the next long one starts on the anchor's again."""
    anchor = datetime(day.year, day.month, day.day, 12, tzinfo=ZoneInfo(zone))
    start = period_at(anchor, zone, Interval.MONTH, count, instant).start.astimezone(ZoneInfo(zone))
    assert start.day == min(day.day, calendar.monthrange(start.year, start.month)[1])
    months = (start.year - day.year) * 12 + start.month - day.month
    assert months % count == 0


@given(INSTANTS, ZONES, INTERVALS, COUNTS, INSTANTS, st.integers(0, 400))
def test_periods_between_are_all_that_touch_the_span(
    anchor: datetime, zone: str, interval: Interval, count: int, start: datetime, days: int
) -> None:
    """The first holds the start, the last reaches the end, and each is the one that its start lies in."""
    end = start + timedelta(days=days)
    found = list(periods_between(anchor, zone, interval, count, start, end))
    if not days:
        assert found == []
        return
    assert found[0].start <= start < found[0].end
    assert found[-1].start < end <= found[-1].end
    assert all(one.end == other.start for one, other in pairwise(found))
    assert all(period_at(anchor, zone, interval, count, one.start) == one for one in found)


@given(INSTANTS, ZONES, st.integers(0, 1000))
@example(datetime(2011, 7, 1, tzinfo=UTC), "Pacific/Apia", 200)
def test_a_trial_of_days_is_that_many_daily_periods(start: datetime, zone: str, days: int) -> None:
    """Both read the wall clock by the same rules."""
    end = local_days_later(start, zone, days)
    assert period_at(start, zone, Interval.DAY, 1, end).start == end
    # A zone that has skipped a day may have changed to or from summer time as well.
    assert abs(end - start - timedelta(days=days)) <= timedelta(days=1, hours=1)


@pytest.mark.parametrize(
    ("zone", "anchor", "instant", "start", "end"),
    [
        pytest.param(
            "Europe/Berlin",
            "2025-03-01T02:30+01:00",
            "2025-03-30T12:00Z",
            "2025-03-30T03:30+02:00",
            "2025-03-31T02:30+02:00",
            id="02:30 is skipped, so the day starts at 03:30",
        ),
        pytest.param(
            "Europe/Berlin",
            "2025-10-01T02:30+02:00",
            "2025-10-26T12:00Z",
            "2025-10-26T02:30+02:00",
            "2025-10-27T02:30+01:00",
            id="02:30 comes twice, and the day starts at the first",
        ),
        pytest.param(
            "America/Sao_Paulo",
            "2018-11-01T00:00-03:00",
            "2018-11-04T12:00Z",
            "2018-11-04T01:00-02:00",
            "2018-11-05T00:00-02:00",
            id="midnight is skipped, so the day starts at 01:00",
        ),
        pytest.param(
            "America/Havana",
            "2025-11-01T00:00-04:00",
            "2025-11-02T12:00Z",
            "2025-11-02T00:00-04:00",
            "2025-11-03T00:00-05:00",
            id="midnight comes twice, and the day starts at the first",
        ),
        pytest.param(
            "America/Havana",
            "2025-11-02T00:30-05:00",
            "2025-11-02T12:00Z",
            "2025-11-02T00:30-05:00",
            "2025-11-03T00:30-05:00",
            id="an anchor in the second pass of an hour stays there",
        ),
        pytest.param(
            "Pacific/Apia",
            "2011-12-01T00:00-10:00",
            "2011-12-30T09:00Z",
            "2011-12-29T00:00-10:00",
            "2011-12-31T00:00+14:00",
            id="a skipped day has no period",
        ),
        pytest.param(
            "Pacific/Apia",
            "2011-12-01T00:00-10:00",
            "2011-12-30T10:00Z",
            "2011-12-31T00:00+14:00",
            "2012-01-01T00:00+14:00",
            id="the period after a skipped day is whole",
        ),
    ],
)
def test_a_day_follows_the_wall_clock(zone: str, anchor: str, instant: str, start: str, end: str) -> None:
    """Folds take the first occurrence, gaps move forward."""
    period = period_at(at(anchor), zone, Interval.DAY, 1, at(instant))
    assert period == Period(at(start), at(end))


def test_a_skipped_day_is_left_out_of_a_list_of_days() -> None:
    """Three local days, two periods."""
    found = periods_between(
        at("2011-12-01T00:00-10:00"),
        "Pacific/Apia",
        Interval.DAY,
        1,
        at("2011-12-29T12:00-10:00"),
        at("2011-12-31T12:00+14:00"),
    )
    assert [period.start for period in found] == [at("2011-12-29T10:00Z"), at("2011-12-30T10:00Z")]


def test_the_last_day_of_january_leads_to_february_and_back_to_the_31st() -> None:
    """Each start is counted from the anchor, not from the start before."""
    anchor = at("2025-01-31T00:00Z")
    found = periods_between(anchor, "UTC", Interval.MONTH, 1, anchor, at("2025-06-01T00:00Z"))
    assert [(period.start.month, period.start.day) for period in found] == [
        (1, 31),
        (2, 28),
        (3, 31),
        (4, 30),
        (5, 31),
    ]


def test_a_leap_day_comes_back_every_leap_year() -> None:
    """In other years the year starts on 28 February."""
    anchor = at("2024-02-29T00:00Z")
    found = periods_between(anchor, "UTC", Interval.YEAR, 1, anchor, at("2029-01-01T00:00Z"))
    assert [period.start.day for period in found] == [29, 28, 28, 28, 29]


def test_a_period_may_lie_before_the_anchor() -> None:
    """The same calendar runs backwards."""
    period = period_at(at("2024-03-31T00:00Z"), "UTC", Interval.MONTH, 1, at("2024-03-01T00:00Z"))
    assert period == Period(at("2024-02-29T00:00Z"), at("2024-03-31T00:00Z"))


def test_an_anchor_in_any_zone_is_the_same_instant() -> None:
    """The offset that a time came with has no say; the customer's zone has."""
    here, there = at("2025-01-31T23:30Z"), datetime.fromisoformat("2025-02-01T08:30+09:00")
    instant = at("2025-03-15T00:00Z")
    assert period_at(here, "Asia/Tokyo", Interval.MONTH, 1, instant) == period_at(
        there, "Asia/Tokyo", Interval.MONTH, 1, instant
    )


def test_periods_are_made_as_they_are_asked_for() -> None:
    """A span of thousands of years costs nothing until it is walked."""
    anchor = at("2025-01-01T00:00Z")
    found = periods_between(anchor, "UTC", Interval.DAY, 1, anchor, at("9999-01-01T00:00Z"))
    assert [period.start.day for period in islice(found, 3)] == [1, 2, 3]


@pytest.mark.parametrize("interval", Interval)
def test_a_far_period_is_estimated_and_not_walked_to(interval: Interval, monkeypatch: pytest.MonkeyPatch) -> None:
    """Millennia after the anchor a handful of calendar additions find the period."""
    additions = 0

    def counted(**units: int) -> relativedelta:
        nonlocal additions
        additions += 1
        return relativedelta(**units)  # type: ignore[arg-type]  # a dict of any of its units

    monkeypatch.setattr(periods, "relativedelta", counted)
    period_at(at("1970-01-31T00:00Z"), "Europe/Berlin", interval, 1, at("9000-02-28T22:59:59Z"))
    assert additions <= 4


@pytest.mark.parametrize("interval", Interval)
@pytest.mark.parametrize("count", [1, 10**6, 10**30, 10**400])
@pytest.mark.parametrize("instant", ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"])
@pytest.mark.parametrize("zone", ["Pacific/Auckland", "America/New_York"])
def test_the_calendar_ends_with_year_9999_and_begins_with_year_1(
    interval: Interval, count: int, instant: str, zone: str
) -> None:
    """A period that would leave it is an error of the input."""
    with pytest.raises(InvalidInput, match="years 1 to 9999"):
        period_at(at("2025-01-01T00:00Z"), zone, interval, count, at(instant))


@pytest.mark.parametrize("days", [10**7, 10**30, -(10**7)])
def test_a_trial_ends_within_the_calendar(days: int) -> None:
    """A trial that would leave it is an error of the input."""
    with pytest.raises(InvalidInput, match="years 1 to 9999"):
        local_days_later(at("2025-01-01T00:00Z"), "UTC", days)


def test_a_trial_ends_at_the_local_time_it_began() -> None:
    """A day with a change of the clock has 23 or 25 hours."""
    began = at("2025-03-29T12:00+01:00")
    assert local_days_later(began, "Europe/Berlin", 1) == at("2025-03-30T12:00+02:00")
    assert local_days_later(began, "Europe/Berlin", 0) == began


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "localtime", "right/UTC", "../UTC", "America", "utc "])
def test_only_zones_of_the_iana_database_are_known(name: str) -> None:
    """What else the machine has lying about is no zone."""
    with pytest.raises(ValueError, match="unknown time zone"):
        time_zone(name)


@pytest.mark.parametrize("count", [0, -1])
def test_a_period_has_at_least_one_unit(count: int) -> None:
    """A count of 0 would never get anywhere."""
    now = at("2025-01-01T00:00Z")
    with pytest.raises(ValueError, match="at least 1"):
        period_at(now, "UTC", Interval.MONTH, count, now)

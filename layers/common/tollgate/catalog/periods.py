"""Billing periods: half-open spans of time, counted in a time zone from one anchor.

The k-th period starts at the anchor's wall-clock time plus k intervals, each counted from the anchor
itself and never from the period before, so 31 January leads to 28 February and on to 31 March. A wall
time becomes an instant by these rules:

- one that a clock shows twice (a fold, when summer time ends) is its first occurrence;
- one that a clock never shows (a gap, when summer time begins) moves forward by the gap: 02:30 is 03:30;
- the anchor itself is never moved, even if it lies in the second pass of a fold;
- a local day that a zone skipped whole (Apia, 30 December 2011) has no period of its own.

So periods follow each other with no gap, no overlap and none of them empty.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

import tzdata
from dateutil.relativedelta import relativedelta

from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import FieldError, InvalidInput

__all__ = ["Interval", "Period", "local_days_later", "local_hour", "period_at", "periods_between", "time_zone"]


class Interval(StrEnum):
    """The calendar unit that a billing period counts in."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"


@dataclass(frozen=True, slots=True)
class Period:
    """The instants from `start` up to but not including `end`, both aware and in UTC."""

    start: datetime
    end: datetime


def period_at(anchor: datetime, timezone: str, interval: Interval, count: int, at: datetime) -> Period:
    """The period that contains an instant, which may lie before the anchor.

    Args:
        anchor: where a period starts, an aware datetime.
        timezone: an IANA name; whose wall clock the periods follow.
        interval: the calendar unit.
        count: units in a period, at least 1.
        at: the instant, an aware datetime.

    Raises:
        ValueError: an unknown time zone, or a count below 1.
        InvalidInput: the period would leave the calendar, years 1 to 9999.
    """
    _, period = _Calendar(anchor, timezone, interval, count).find(at)
    return period


def periods_between(
    anchor: datetime, timezone: str, interval: Interval, count: int, start: datetime, end: datetime
) -> Iterator[Period]:
    """Every period that shares an instant with [start, end), in order, one at a time as asked for.

    Raises:
        ValueError: an unknown time zone, or a count below 1.
        InvalidInput: a period would leave the calendar, years 1 to 9999.
    """
    if start >= end:
        return
    calendar = _Calendar(anchor, timezone, interval, count)
    index, period = calendar.find(start)
    yield period
    while (opens := period.end) < end:
        index += 1
        period = Period(opens, calendar.start(index + 1))
        if opens < period.end:
            yield period


def local_days_later(at: datetime, timezone: str, days: int) -> datetime:
    """The instant at which a zone's wall clock shows the same time that many days later, as trials end.

    Folds and gaps are resolved as for periods; 0 days later is the instant itself.

    Raises:
        ValueError: an unknown time zone.
        InvalidInput: the result would leave the calendar, years 1 to 9999.
    """
    return _Calendar(at, timezone, Interval.DAY, 1).start(days)


def local_hour(at: datetime, timezone: str) -> datetime:
    """The start of the hour that an instant lies in, by a time zone's clock; an hour that comes twice is two."""
    local = at.astimezone(time_zone(timezone))
    return at - timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)


@cache
def time_zone(name: str) -> ZoneInfo:
    """A time zone of the IANA database; not the machine's own extras, such as "localtime" and "right/UTC".

    Raises:
        ValueError: no such zone.
    """
    if name not in _zone_names():
        raise ValueError(f"unknown time zone {name!r}: use an IANA name such as Europe/Berlin")
    return ZoneInfo(name)


@cache
def _zone_names() -> frozenset[str]:
    return frozenset(Path(tzdata.__file__).with_name("zones").read_text(encoding="ascii").split())


class _Calendar:
    """The starts of all periods of one anchor, by index; index 0 starts at the anchor."""

    __slots__ = ("anchor", "count", "interval", "wall", "zone")

    def __init__(self, anchor: datetime, timezone: str, interval: Interval, count: int) -> None:
        if count < 1:
            raise ValueError("the count of a billing period must be at least 1")
        self.anchor = anchor.astimezone(UTC)
        self.zone = time_zone(timezone)
        self.interval = interval
        self.count = count
        self.wall = self._wall_clock(anchor)

    def start(self, index: int) -> datetime:
        """The instant at which the period of this index starts."""
        if index == 0:
            return self.anchor
        try:
            wall = self.wall + _intervals(self.interval, index * self.count)
            # fold=0 is both rules at once: the first pass of a fold, and in a gap the offset before it.
            return wall.replace(tzinfo=self.zone, fold=0).astimezone(UTC)
        except (ValueError, OverflowError):
            raise _beyond_the_calendar() from None

    def find(self, at: datetime) -> tuple[int, Period]:
        """The period that contains an instant, and its index: the highest whose period starts by then."""
        index = self._estimate(self._wall_clock(at))
        opens = self.start(index)
        while opens > at:
            index -= 1
            opens = self.start(index)
        while (closes := self.start(index + 1)) <= at:
            index, opens = index + 1, closes
        return index, Period(opens, closes)

    def _estimate(self, wall: datetime) -> int:
        """An index at most two off: the difference of two wall clocks, in intervals."""
        months = (wall.year - self.wall.year) * 12 + wall.month - self.wall.month
        match self.interval:
            case Interval.DAY:
                return (wall - self.wall) // timedelta(days=1) // self.count
            case Interval.WEEK:
                return (wall - self.wall) // timedelta(weeks=1) // self.count
            case Interval.MONTH:
                return months // self.count
            case Interval.YEAR:
                return months // 12 // self.count

    def _wall_clock(self, at: datetime) -> datetime:
        try:
            return at.astimezone(self.zone).replace(tzinfo=None, fold=0)
        except OverflowError:
            raise _beyond_the_calendar() from None


def _intervals(interval: Interval, number: int) -> relativedelta:
    match interval:
        case Interval.DAY:
            return relativedelta(days=number)
        case Interval.WEEK:
            return relativedelta(weeks=number)
        case Interval.MONTH:
            return relativedelta(months=number)
        case Interval.YEAR:
            return relativedelta(years=number)


def _beyond_the_calendar() -> InvalidInput:
    return InvalidInput([FieldError("", "a billing period would lie outside the years 1 to 9999")])

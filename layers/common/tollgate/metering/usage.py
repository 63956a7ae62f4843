"""Usage read back: by period from the counters, by day and hour from the sums of their hours."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from tollgate.catalog.model import Aggregation, Snapshot, Subscription
from tollgate.catalog.periods import Period, local_hour, time_zone
from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import FieldError, InvalidInput, NotFound
from tollgate.kernel.money import format_decimal
from tollgate.kernel.time import format_time
from tollgate.metering.model import CounterId, Tally
from tollgate.metering.service import Counters, Directory, governing

__all__ = ["Granularity", "Usage", "read_usage", "usage_to_dict"]

_EARLIEST: Final = datetime(1970, 1, 2, tzinfo=UTC)
_LATEST: Final = datetime(9990, 1, 1, tzinfo=UTC)
_MOST_PERIODS: Final = 1_000
_LONGEST: Final = {"day": timedelta(days=366), "hour": timedelta(days=31)}


class Granularity(StrEnum):
    """How finely usage is shown."""

    PERIOD = "period"
    DAY = "day"
    HOUR = "hour"


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used in a stretch of time, and its parts that saw an event."""

    customer: str
    feature: str
    period: Period
    total: Tally
    buckets: tuple[tuple[datetime, Tally], ...]


def read_usage(
    customer: str,
    feature: str,
    *,
    directory: Directory,
    counters: Counters,
    now: datetime,
    start: datetime | None = None,
    end: datetime | None = None,
    granularity: Granularity = Granularity.PERIOD,
) -> Usage:
    """The usage of the current billing period, or of all periods, days or hours that touch [start, end).

    Days and hours are those of the subscription's time zone.

    Raises:
        NotFound: no such customer or feature, or the customer has no subscription with it.
        InvalidInput: a range that is empty, or too long for its granularity.
    """
    snapshot = directory.snapshots_of([customer]).get(customer, Snapshot())
    found = governing(snapshot.subscriptions, feature, now, directory)
    found = found or governing(snapshot.subscriptions, feature, now, directory, ended=True)
    if found is None:
        raise _not_found(customer, feature, directory)
    subscription, granted = found
    aggregation, shards = granted.feature.aggregation, snapshot.most_shards(feature)
    if start is None and end is None:
        period = subscription.period(now)
        current = CounterId(customer, feature, subscription.id, period.start)
        total = counters.tallies([current], {feature: shards}).get(current, Tally())
        if granularity is Granularity.PERIOD:
            return Usage(customer, feature, period, total, ((period.start, total),))
        _limit(period, granularity)
        first = local_hour(period.start, subscription.timezone)
        rows = counters.hours(customer, feature, first, period.end, shards)
        buckets = _rolled_up([row for row in rows if row[1] == current], subscription, granularity, aggregation)
        return Usage(customer, feature, period, total, buckets)
    asked = _range(start, end, subscription, now)
    if granularity is Granularity.PERIOD:
        return _periods(customer, feature, asked, snapshot, directory, counters, aggregation)
    _limit(asked, granularity)
    whole = Period(
        _floor(asked.start, subscription, granularity),
        _floor(asked.end - timedelta(microseconds=1), subscription, granularity, after=1),
    )
    rows = counters.hours(customer, feature, whole.start, whole.end, shards)
    buckets = _rolled_up(rows, subscription, granularity, aggregation)
    return Usage(customer, feature, whole, _merged([tally for _, tally in buckets], aggregation), buckets)


def _range(start: datetime | None, end: datetime | None, subscription: Subscription, now: datetime) -> Period:
    start = start or subscription.starts_at
    end = end or now
    if start >= end:
        raise InvalidInput([FieldError("/from", "must lie before `to`")])
    if start < _EARLIEST:
        raise InvalidInput([FieldError("/from", "must lie in 1970 or later")])
    if end > _LATEST:
        raise InvalidInput([FieldError("/to", "must lie before the year 9990")])
    return Period(start, end)


def _limit(period: Period, granularity: Granularity) -> None:
    longest = _LONGEST[granularity.value]
    if period.end - period.start > longest + timedelta(hours=2):  # a month may have an hour more, by the clock
        raise InvalidInput([FieldError("/from", f"at most {longest.days} days by {granularity}: name `from` and `to`")])


def _periods(
    customer: str,
    feature: str,
    asked: Period,
    snapshot: Snapshot,
    directory: Directory,
    counters: Counters,
    aggregation: Aggregation,
) -> Usage:
    periods = {
        CounterId(customer, feature, subscription.id, period.start): period
        for subscription in snapshot.subscriptions
        for period in _touched(subscription, asked)
    }
    if len(periods) > _MOST_PERIODS:
        raise InvalidInput([FieldError("/from", f"at most {_MOST_PERIODS} billing periods: name `from` and `to`")])
    tallies = counters.tallies(periods, {feature: snapshot.most_shards(feature)})
    used = sorted(((periods[counter], tally) for counter, tally in tallies.items()), key=lambda row: row[0].start)
    # The range widens to the periods that its bounds lie in, whether or not they saw an event.
    ends = (asked.start, asked.end - timedelta(microseconds=1))
    ruling = [(governing(snapshot.subscriptions, feature, at, directory), at) for at in ends]
    bounds = [asked, *(found[0].period(at) for found, at in ruling if found), *(period for period, _ in used)]
    whole = Period(min(period.start for period in bounds), max(period.end for period in bounds))
    total = _merged([tally for _, tally in used], aggregation)
    return Usage(customer, feature, whole, total, tuple((period.start, tally) for period, tally in used))


def _touched(subscription: Subscription, asked: Period) -> Iterator[Period]:
    """The periods of a subscription that touch a range; no more than one beyond what may be asked for."""
    at = max(asked.start, subscription.starts_at)
    for _ in range(_MOST_PERIODS + 1):
        if at >= asked.end:
            return
        period = subscription.period(at)
        yield period
        at = period.end


def _rolled_up(
    rows: Iterable[tuple[datetime, CounterId, Tally]],
    subscription: Subscription,
    granularity: Granularity,
    aggregation: Aggregation,
) -> tuple[tuple[datetime, Tally], ...]:
    buckets: dict[datetime, Tally] = {}
    for at, _, tally in rows:
        start = _floor(at, subscription, granularity)
        buckets[start] = buckets.get(start, Tally()).merge(tally, aggregation)
    return tuple(sorted(buckets.items(), key=lambda bucket: bucket[0]))


def _floor(at: datetime, subscription: Subscription, granularity: Granularity, after: int = 0) -> datetime:
    """The start of the local day or hour of an instant, or of the one `after` it."""
    if granularity is Granularity.HOUR:
        return local_hour(at, subscription.timezone) + after * timedelta(hours=1)
    local = at.astimezone(time_zone(subscription.timezone))
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0) + after * timedelta(days=1)
    return midnight.astimezone(UTC)


def _merged(tallies: Iterable[Tally], aggregation: Aggregation) -> Tally:
    total = Tally()
    for tally in tallies:
        total = total.merge(tally, aggregation)
    return total


def _not_found(customer: str, feature: str, directory: Directory) -> NotFound:
    if customer not in directory.customers([customer]):
        return NotFound(f"There is no customer {customer}.")
    if feature not in directory.features([feature]):
        return NotFound(f"There is no feature {feature}.")
    return NotFound(f"{customer} has no subscription with {feature}.")


def usage_to_dict(usage: Usage) -> dict[str, Any]:
    """The answer to `GET /v1/customers/{id}/usage`."""
    return {
        "customer": usage.customer,
        "feature": usage.feature,
        "period": {"start": format_time(usage.period.start), "end": format_time(usage.period.end)},
        "quantity": format_decimal(usage.total.quantity),
        "events": usage.total.events,
        "buckets": [
            {"start": format_time(start), "quantity": format_decimal(tally.quantity), "events": tally.events}
            for start, tally in usage.buckets
        ],
    }

"""Use cases over the archive: why did an event (not) count, and which events did."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby, islice
from typing import Any, Final, Protocol

from tollgate.catalog.model import FeatureType, Snapshot, Subscription
from tollgate.catalog.periods import Period
from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.dynamodb import LONGEST_CALL_SECONDS
from tollgate.kernel.errors import FieldError, InvalidInput, NotFound, Unavailable
from tollgate.kernel.money import ZERO, format_decimal
from tollgate.kernel.time import format_time
from tollgate.metering.archive import Archived
from tollgate.metering.model import (
    MAX_AGE,
    MAX_AHEAD,
    Count,
    CounterId,
    Event,
    Scope,
    Series,
    event_hash,
    time_of_id,
)
from tollgate.metering.service import Counters, Directory, governing

__all__ = [
    "Explanation",
    "Reader",
    "archived_events",
    "explain",
    "explanation_to_dict",
    "list_events",
    "only_counted",
]

_PAGE: Final = 1_000
_MOST_PAGES: Final = 20
_MOST_EVENTS: Final = 20_000
"""Events looked through for one: the day of a receipt may have any number of them."""
_MOST_IDS: Final = 1_000_000
"""Ids looked through for an event: some 20 MB."""
_INSTANT: Final = timedelta(microseconds=1)
_EARLIEST: Final = datetime(1970, 1, 2, tzinfo=UTC)
_LATEST: Final = datetime(9990, 1, 1, tzinfo=UTC)


class Reader(Protocol):
    """The archive, to be read."""

    def read(
        self,
        customer: str,
        feature: str,
        start: datetime,
        end: datetime,
        *,
        after: str | None = None,
        limit: int,
        shards: int = 1,
    ) -> tuple[list[Archived], str | None]:
        """At most `limit` events of [start, end) by time, counted or not, and where to go on if there are more.

        Fewer where they hold more than PAGE_BYTES (archive.py).
        """


@dataclass(frozen=True, slots=True)
class Explanation:
    """What became of an event: where it was counted, or why it may not have been.

    Attributes:
        id: of the event.
        source: of the event.
        customer: whose it is.
        feature: that it counted for, or that was asked about.
        found: the stretch of time it was counted in; None: it was not counted.
        count: as it was counted, where the archive has it.
        time: when it counted, or would; None where nothing says.
        subscription: that ruled the feature then, and its period.
        reason: what it would be rejected for if it came now.
        detail: a sentence for people.
    """

    id: str
    source: str
    customer: str
    feature: str | None
    found: Period | None
    count: Count | None
    time: datetime | None
    subscription: str | None
    period: Period | None
    reason: str | None
    detail: str


def explain(
    event_id: str,
    source: str,
    customer: str,
    *,
    directory: Directory,
    counters: Counters,
    archive: Reader | None,
    now: datetime,
    time_left: Callable[[], float],
    feature: str | None = None,
    time: datetime | None = None,
) -> Explanation:
    """Find an event among those that were counted, or say what keeps it from counting.

    Args:
        event_id: its id.
        source: its source.
        customer: whose it is.
        directory: the catalog.
        counters: the counters.
        archive: the archive; without it, only the time that the event itself tells is known.
        now: the present instant.
        time_left: the seconds in which to answer.
        feature: looks among this feature's events only, else among those of all features the customer has.
        time: looks at this time only, else at the time in the id, else at the whole age limit.

    Raises:
        InvalidInput: a time that no event can have; or more events to look through than one question may.
        Unavailable: time ran out.
    """
    _check_time("/time", time)
    patience = _Patience(time_left)
    snapshot = directory.snapshots_of([customer]).get(customer, Snapshot())
    features = [feature] if feature else _features(snapshot.subscriptions, directory)
    told = time or time_of_id(event_id)
    spans = [Period(told, told)] if told else []
    if time is None:
        spans.append(Period(now - MAX_AGE, now + MAX_AHEAD))
    for span in spans:
        for name in features:
            event = Event(event_id, source, customer, name, ZERO, told)
            found = _find(event, span, snapshot, counters, patience)
            if found is not None:
                count = _archived(event, found, snapshot, counters, archive, patience) if archive else None
                return _counted(event, found, count, snapshot, directory)
    return _unknown(Event(event_id, source, customer, feature or "", ZERO, told), spans[-1], snapshot, directory, now)


def _check_time(pointer: str, time: datetime | None) -> None:
    if time is not None and not _EARLIEST <= time <= _LATEST:
        raise InvalidInput([FieldError(pointer, "must lie between the years 1970 and 9990")])


def _features(subscriptions: Sequence[Subscription], directory: Directory) -> list[str]:
    plans = (directory.plan(one.plan, one.plan_version) for one in subscriptions)
    granted = (granted for plan in plans if plan for granted in plan.features)
    return list(dict.fromkeys(one.feature.code for one in granted if one.feature.type is not FeatureType.BOOLEAN))


class _Patience:
    """How much is looked through for one event, and how long."""

    def __init__(self, time_left: Callable[[], float]) -> None:
        self._ids = _MOST_IDS
        self._time_left = time_left

    def spend(self, ids: int) -> None:
        """Look through so many ids.

        Raises:
            InvalidInput: they are too many.
            Unavailable: there is no time for more.
        """
        self._ids -= ids
        if self._ids < 0:
            detail = f"name the event's time, and its feature: there are more than {_MOST_IDS:,} others to look through"
            raise InvalidInput([FieldError("/time", detail)])
        if self._time_left() < LONGEST_CALL_SECONDS:
            raise Unavailable("The event could not be looked for in time; name its time and its feature.")


def _find(event: Event, span: Period, snapshot: Snapshot, counters: Counters, patience: _Patience) -> Period | None:
    hashes = {event_hash(event, scope) for scope in Scope}
    all_series = [Series(event.customer, event.feature, shard) for shard in range(snapshot.most_shards(event.feature))]
    found = [counters.find(series, hashes, span.start, span.end, patience.spend) for series in all_series]
    return max((one for one in found if one), key=lambda one: one.start, default=None)


def _archived(
    event: Event, found: Period, snapshot: Snapshot, counters: Counters, archive: Reader, patience: _Patience
) -> Count | None:
    """The counted event with that source and id: at the time it tells, else the newest in a stretch of time."""
    spans = [Period(event.time, event.time + _INSTANT), found] if event.time else [found]
    for span in spans:
        events = archived_events(archive, event.customer, event.feature, span, snapshot.most_shards(event.feature))
        same = []
        for place, one in enumerate(islice(events, _MOST_EVENTS)):
            if place % _PAGE == 0:
                patience.spend(0)
            if (one.count.event.source, one.count.event.id) == (event.source, event.id):
                same.append(one)
        if counted := only_counted(same, counters):
            return counted[-1].count
    return None


def archived_events(archive: Reader, customer: str, feature: str, span: Period, shards: int) -> Iterator[Archived]:
    """All events of the archive in a stretch of time, page by page."""
    after = None
    while True:
        page, after = archive.read(customer, feature, span.start, span.end, after=after, limit=_PAGE, shards=shards)
        yield from page
        if after is None:
            return


def only_counted(archived: Sequence[Archived], counters: Counters) -> list[Archived]:
    """Those that were counted, in their order."""
    kept: set[int] = set()
    numbered = sorted(enumerate(archived), key=lambda pair: pair[1].series.shard)
    for series, group in groupby(numbered, key=lambda pair: pair[1].series):
        places, ones = zip(*group, strict=True)
        flags = counters.counted(series, [one.count for one in ones])
        kept |= {place for place, flag in zip(places, flags, strict=True) if flag}
    return [one for place, one in enumerate(archived) if place in kept]


def _counted(event: Event, found: Period, count: Count | None, snapshot: Snapshot, directory: Directory) -> Explanation:
    time = count.at if count else event.time
    if count is not None:
        detail = f"It was counted at {format_time(count.at)}."
    else:
        detail = f"It was counted from {format_time(found.start)} to {format_time(found.end)}; the archive lacks it."
    subscription, period = _where(event, time, count, snapshot, directory)
    return Explanation(
        id=event.id,
        source=event.source,
        customer=event.customer,
        feature=event.feature,
        found=found,
        count=count,
        time=time,
        subscription=subscription,
        period=period,
        reason=None,
        detail=detail,
    )


def _where(
    event: Event, time: datetime | None, count: Count | None, snapshot: Snapshot, directory: Directory
) -> tuple[str | None, Period | None]:
    if count is not None:
        return count.counter.subscription, _period(count.counter, snapshot.subscriptions)
    ruling = governing(snapshot.subscriptions, event.feature, time, directory) if time else None
    return (ruling[0].id, ruling[0].period(time)) if ruling and time else (None, None)


def _period(counter: CounterId, subscriptions: Sequence[Subscription]) -> Period | None:
    mine = next((one for one in subscriptions if one.id == counter.subscription), None)
    return mine.period(counter.period_start) if mine else None


def _unknown(event: Event, span: Period, snapshot: Snapshot, directory: Directory, now: datetime) -> Explanation:
    fault = _fault(event, snapshot, directory, now)
    among = f"the events of {event.feature}" if event.feature else "the events of all features the customer has"
    when = (
        f"at {format_time(span.start)}"
        if span.start == span.end
        else f"from {format_time(span.start)} to {format_time(span.end)}"
    )
    detail = f"It was not counted: looked for among {among} {when}."
    if fault:
        detail += f" Sent now it would be rejected: {fault[1]}."
    is_ahead = fault is not None and fault[0] == "in_the_future"  # there may be no period so late
    subscription, period = (None, None) if is_ahead else _where(event, event.time, None, snapshot, directory)
    return Explanation(
        id=event.id,
        source=event.source,
        customer=event.customer,
        feature=event.feature or None,
        found=None,
        count=None,
        time=event.time,
        subscription=subscription,
        period=period,
        reason=fault[0] if fault else None,
        detail=detail,
    )


def _fault(event: Event, snapshot: Snapshot, directory: Directory, now: datetime) -> tuple[str, str] | None:
    """The reason for which the event would be rejected now, as far as it is known, and a sentence."""
    at = event.time or now
    if event.customer not in directory.customers([event.customer]):
        return "customer_not_found", f"there is no customer {event.customer}"
    if event.feature and event.feature not in directory.features([event.feature]):
        return "feature_not_found", f"there is no feature {event.feature}"
    if at < now - MAX_AGE:
        return "too_old", f"its time lies more than {MAX_AGE.days} days back"
    if at > now + MAX_AHEAD:
        return "in_the_future", "its time lies more than 5 minutes ahead"
    return _terms_fault(event, at, snapshot, directory)


def _terms_fault(event: Event, at: datetime, snapshot: Snapshot, directory: Directory) -> tuple[str, str] | None:
    if not any(one.starts_at <= at and (one.ends_at is None or at < one.ends_at) for one in snapshot.subscriptions):
        return "no_subscription", f"{event.customer} has no subscription at its time"
    if not event.feature:
        return None
    ruling = governing(snapshot.subscriptions, event.feature, at, directory)
    if ruling is None:
        return "feature_not_in_plan", f"no plan of {event.customer} has {event.feature}"
    if ruling[1].feature.type is FeatureType.BOOLEAN:
        return "not_metered", f"{event.feature} is a boolean feature: it is not counted"
    return None


def explanation_to_dict(explanation: Explanation) -> dict[str, Any]:
    """The answer to `GET /v1/events`."""
    count, period = explanation.count, explanation.period
    return {
        "id": explanation.id,
        "source": explanation.source,
        "customer": explanation.customer,
        "feature": explanation.feature,
        "outcome": "counted" if explanation.found else "unknown",
        "time": format_time(explanation.time) if explanation.time else None,
        "period": _period_to_dict(period),
        "subscription": explanation.subscription,
        "quantity": format_decimal(count.quantity) if count else None,
        "properties": count.event.properties if count else None,
        "reason": explanation.reason,
        "detail": explanation.detail,
    }


def _period_to_dict(period: Period | None) -> dict[str, str] | None:
    return {"start": format_time(period.start), "end": format_time(period.end)} if period else None


def list_events(
    customer: str,
    feature: str,
    *,
    directory: Directory,
    counters: Counters,
    archive: Reader,
    now: datetime,
    time_left: Callable[[], float],
    start: datetime | None = None,
    end: datetime | None = None,
    after: str | None = None,
    limit: int,
) -> tuple[list[dict[str, Any]], str | None]:
    """The events that were counted in [start, end), by time, as the API shows them; and where the next page begins.

    Without bounds: those of the age limit. A page may hold fewer than `limit` and yet not be the last, as where many
    were archived and not counted, or half of the seconds left have gone.

    Raises:
        NotFound: no such customer or feature.
        InvalidInput: a range that is empty, or that no event can lie in.
    """
    _check_time("/from", start)
    _check_time("/to", end)
    start = now - MAX_AGE if start is None else start
    end = now + MAX_AHEAD if end is None else end
    if start >= end:
        raise InvalidInput([FieldError("/from", "must lie before `to`")])
    if customer not in directory.customers([customer]):
        raise NotFound(f"There is no customer {customer}.")
    if feature not in directory.features([feature]):
        raise NotFound(f"There is no feature {feature}.")
    snapshot = directory.snapshots_of([customer]).get(customer, Snapshot())
    shards = snapshot.most_shards(feature)
    found: list[Archived] = []
    half = time_left() / 2
    for _ in range(_MOST_PAGES):
        asked = limit - len(found)
        page, after = archive.read(customer, feature, start, end, after=after, limit=asked, shards=shards)
        found += only_counted(page, counters)
        if after is None or len(page) < asked or len(found) == limit or time_left() < half:
            break
    return [_counted_to_dict(one.count, snapshot.subscriptions) for one in found], after


def _counted_to_dict(count: Count, subscriptions: Sequence[Subscription]) -> dict[str, Any]:
    return {
        "id": count.event.id,
        "source": count.event.source,
        "time": format_time(count.at),
        "quantity": format_decimal(count.quantity),
        "properties": count.event.properties,
        "subscription": count.counter.subscription,
        "period": _period_to_dict(_period(count.counter, subscriptions)),
    }

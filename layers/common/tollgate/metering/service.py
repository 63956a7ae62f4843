"""Use cases of metering: events in, usage out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from tollgate.catalog.model import Customer, Dedupe, Feature, FeatureType, Plan, PlanFeature, Subscription
from tollgate.catalog.periods import Period
from tollgate.metering.model import (
    MAX_AGE,
    MAX_AHEAD,
    Batch,
    Count,
    CounterId,
    Event,
    Outcome,
    Rejection,
    Tally,
    event_digest,
    event_hash,
    time_of_id,
)
from tollgate.metering.rates import RateState

__all__ = ["Counters", "Directory", "Result", "governing", "ingest", "results_to_dict"]

_TIMELESS_WINDOW: Final = timedelta(hours=48)
"""How long (source, id) of an event with no time is remembered; API.md promises at least 24 hours."""


class Directory(Protocol):
    """What metering asks the catalog."""

    def subscriptions_of(self, customer_ids: Iterable[str]) -> dict[str, tuple[Subscription, ...]]:
        """The subscriptions of customers; those with none are left out."""

    def plan(self, code: str, version: int | None = None) -> Plan | None:
        """A plan version."""

    def features(self, codes: Iterable[str]) -> dict[str, Feature]:
        """Those of the features that exist."""

    def customers(self, customer_ids: Iterable[str]) -> dict[str, Customer]:
        """Those of the customers that exist."""


class Counters(Protocol):
    """The store of counters. Whatever its form, it counts an event once or not at all."""

    def count(self, batches: Sequence[Batch], now: datetime, time_left: Callable[[], float]) -> list[list[Outcome]]:
        """Count batches, no two of which share a customer and feature: an outcome per event, in order.

        An event answered UNAVAILABLE may or may not have been counted: the same event sent again is
        then a duplicate or is counted. `time_left` gives the seconds in which to answer.
        """

    def tallies(self, counters: Iterable[CounterId]) -> dict[CounterId, Tally]:
        """What counters hold now; those that hold nothing are left out."""

    def periods(self, customer: str, feature: str) -> dict[CounterId, Tally]:
        """All counters of a customer and feature: one per period that has seen an event."""

    def buckets(
        self, customer: str, feature: str, start: datetime, end: datetime
    ) -> list[tuple[datetime, CounterId, Tally]]:
        """What the quarters of an hour in [start, end) hold, in the order of time."""

    def rate(self, customer: str, feature: str) -> RateState:
        """Where a customer stands in a rate limit."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one event of a request."""

    id: str | None
    status: str
    reason: str | None = None
    detail: str | None = None
    pointer: str | None = None
    retryable: bool = False


def governing(
    subscriptions: Iterable[Subscription], feature: str, at: datetime, directory: Directory
) -> tuple[Subscription, PlanFeature] | None:
    """The subscription that rules a feature at an instant: the newest begun whose plan has it."""
    begun = sorted(
        (one for one in subscriptions if one.starts_at <= at),
        key=lambda one: (one.starts_at, one.id),
        reverse=True,
    )
    for subscription in begun:
        plan = directory.plan(subscription.plan, subscription.plan_version)
        granted = plan.feature(feature) if plan else None
        if granted is not None:
            return subscription, granted
    return None


def ingest(
    events: Sequence[Event | Rejection],
    *,
    directory: Directory,
    counters: Counters,
    now: datetime,
    time_left: Callable[[], float],
) -> list[Result]:
    """Count events: a result per event, in order. Safe to repeat: what was counted is a duplicate then."""
    subscriptions = directory.subscriptions_of({event.customer for event in events if isinstance(event, Event)})
    placed = _Placement(subscriptions, directory, now)
    counts: dict[tuple[str, str], list[tuple[int, Count]]] = {}
    results: list[Result | None] = [None] * len(events)
    for place, event in enumerate(events):
        count = event if isinstance(event, Rejection) else placed.count(event)
        if isinstance(count, Rejection):
            results[place] = Result(count.id, "rejected", count.reason, count.detail, count.pointer)
        else:
            counts.setdefault((count.counter.customer, count.counter.feature), []).append((place, count))
    batches = [
        Batch(customer, feature, placed.features[feature].aggregation, tuple(count for _, count in group))
        for (customer, feature), group in counts.items()
    ]
    for group, outcomes in zip(counts.values(), counters.count(batches, now, time_left), strict=True):
        for (place, _), outcome in zip(group, outcomes, strict=True):
            results[place] = _result(events[place].id, outcome)
    settled = [result for result in results if result is not None]
    return _explain_unknown(settled, events, directory)


class _Placement:
    """Finds where each event of a request counts; remembers what it found."""

    def __init__(self, subscriptions: dict[str, tuple[Subscription, ...]], directory: Directory, now: datetime) -> None:
        self.features: dict[str, Feature] = {}
        self._subscriptions = subscriptions
        self._directory = directory
        self._now = now
        self._periods: dict[str, Period] = {}

    def count(self, event: Event) -> Count | Rejection:
        told = event.time or time_of_id(event.id)
        at = told or self._now
        where = "/time" if event.time else "/id"
        if at < self._now - MAX_AGE:
            return Rejection(event.id, "too_old", f"its time lies more than {MAX_AGE.days} days back", where)
        if at > self._now + MAX_AHEAD:
            return Rejection(event.id, "in_the_future", "its time lies more than 5 minutes ahead", where)
        found = governing(self._subscriptions.get(event.customer, ()), event.feature, at, self._directory)
        if found is None:
            return self._unplaced(event, at)
        subscription, granted = found
        if granted.feature.type is FeatureType.BOOLEAN:
            return Rejection(event.id, "not_metered", f"{event.feature} is a boolean feature: it is not counted")
        self.features[event.feature] = granted.feature
        until = self._remember_until(granted.feature, told)
        return Count(
            counter=CounterId(event.customer, event.feature, subscription.id, self._period(subscription, at).start),
            at=at,
            quantity=event.quantity,
            hash=event_hash(event),
            digest=event_digest(event, told if until is None else None),
            until=until,
            rate=granted.rate,
        )

    def _remember_until(self, feature: Feature, told: datetime | None) -> datetime | None:
        if feature.dedupe is Dedupe.ID:
            return self._now + MAX_AGE + MAX_AHEAD
        return self._now + _TIMELESS_WINDOW if told is None else None

    def _period(self, subscription: Subscription, at: datetime) -> Period:
        known = self._periods.get(subscription.id)
        if known is None or not known.start <= at < known.end:
            known = self._periods[subscription.id] = subscription.period(at)
        return known

    def _unplaced(self, event: Event, at: datetime) -> Rejection:
        subscriptions = self._subscriptions.get(event.customer, ())
        if any(one.starts_at <= at for one in subscriptions):
            return Rejection(event.id, "feature_not_in_plan", f"no plan of {event.customer} has {event.feature}")
        when = " at the time of the event" if subscriptions else ""
        return Rejection(event.id, "no_subscription", f"{event.customer} has no subscription{when}")


def _result(event_id: str | None, outcome: Outcome) -> Result:
    if outcome is Outcome.OUT_OF_RANGE:
        return Result(event_id, "rejected", outcome.value, "the usage would have more than 38 digits", "/quantity")
    if outcome is Outcome.UNAVAILABLE:
        return Result(
            event_id, "rejected", outcome.value, "could not be counted in time: send it again", retryable=True
        )
    return Result(event_id, outcome.value)


def _explain_unknown(results: list[Result], events: Sequence[Event | Rejection], directory: Directory) -> list[Result]:
    """Tell a customer with no subscription from one that does not exist, and likewise a feature."""
    suspects = {
        place: event
        for place, (result, event) in enumerate(zip(results, events, strict=True))
        if isinstance(event, Event) and result.reason in {"no_subscription", "feature_not_in_plan"}
    }
    if not suspects:
        return results
    customers = directory.customers({event.customer for event in suspects.values()})
    features = directory.features({event.feature for event in suspects.values()})
    for place, event in suspects.items():
        if event.customer not in customers:
            detail = f"there is no customer {event.customer}"
            results[place] = Result(event.id, "rejected", "customer_not_found", detail)
        elif event.feature not in features:
            detail = f"there is no feature {event.feature}"
            results[place] = Result(event.id, "rejected", "feature_not_found", detail)
    return results


def results_to_dict(results: Sequence[Result]) -> dict[str, Any]:
    """The answer to `POST /v1/events`."""
    shown = [_result_to_dict(result) for result in results]
    counts = {
        status: sum(result.status == status for result in results)
        for status in ("accepted", "duplicate", "conflict", "rejected")
    }
    return {"results": shown, **counts}


def _result_to_dict(result: Result) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": result.id, "status": result.status}
    if result.reason:
        shown |= {"reason": result.reason, "detail": result.detail}
    if result.pointer:
        shown["pointer"] = result.pointer
    return shown | ({"retryable": True} if result.retryable else {})

"""Use cases of metering: events in, usage out."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from math import inf
from typing import Final, Protocol

import msgspec

from tollgate.catalog.gates import gate_of, write_gate
from tollgate.catalog.model import (
    Aggregation,
    Customer,
    Dedupe,
    Feature,
    FeatureType,
    Plan,
    PlanFeature,
    Rate,
    Sharding,
    Snapshot,
    Subscription,
    Threshold,
)
from tollgate.catalog.periods import Period, local_hour
from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.json import write_json
from tollgate.metering.alerts import Announcer, Reached, reached
from tollgate.metering.model import (
    MAX_AGE,
    MAX_AHEAD,
    Adjustment,
    Batch,
    Count,
    CounterId,
    Event,
    Outcome,
    Rejection,
    Reservation,
    Scope,
    Series,
    Tally,
    identify,
    shard_of,
    time_of_id,
)
from tollgate.metering.series import Answer, Head, Rule

__all__ = ["Archive", "Counters", "Directory", "Memory", "Result", "governing", "ingest", "results_to_json"]

_HOUR: Final = timedelta(hours=1)
_REMEMBERED: Final = 10_000
_LONGEST_MEMORY: Final = timedelta(minutes=5)
_PLACINGS: Final = 5
"""How often an event is placed: once, and again when what ruled it is found to have changed."""
_CHANGEABLE: Final = frozenset({"no_subscription", "feature_not_in_plan"})
# Python 3.11 takes four times as long for a member of an enumeration that is looked up in its class.
_ID, _RECEIPT, _TIME, _OUTDATED = Scope.ID, Scope.RECEIPT, Scope.TIME, Outcome.OUTDATED
_TOLD: Final = {outcome: outcome.value for outcome in (Outcome.ACCEPTED, Outcome.DUPLICATE, Outcome.CONFLICT)}


class Directory(Protocol):
    """What metering asks the catalog."""

    def snapshots_of(self, customer_ids: Iterable[str]) -> dict[str, Snapshot]:
        """What is kept of customers; those of whom nothing is are left out."""

    def plan(self, code: str, version: int | None = None) -> Plan | None:
        """A plan version."""

    def features(self, codes: Iterable[str]) -> dict[str, Feature]:
        """Those of the features that exist."""

    def customers(self, customer_ids: Iterable[str]) -> dict[str, Customer]:
        """Those of the customers that exist."""


class Counters(Protocol):
    """The store of counters. Whatever its form, it counts an event once or not at all."""

    def count(self, batches: Sequence[Batch], now: datetime, time_left: Callable[[], float]) -> list[list[Outcome]]:
        """Count batches, no two of which are of one series: an outcome per event, in order.

        An event answered UNAVAILABLE may or may not have been counted: the same event sent again is
        then a duplicate or is counted. One answered OUTDATED was placed by a revision of the customer's snapshot
        that is no longer the newest, and was not counted. `time_left` gives the seconds in which to answer.
        """

    def tallies(self, counters: Iterable[CounterId], shards: Mapping[str, int] | None = None) -> dict[CounterId, Tally]:
        """What counters hold now, all shards together; those that hold nothing are left out.

        `shards` says in how many a feature's counters are kept, where that is not one.
        """

    def hours(
        self, customer: str, feature: str, start: datetime, end: datetime, shards: int = 1
    ) -> list[tuple[datetime, CounterId, Tally]]:
        """What the hours that begin in [start, end) hold, in the order of time; an hour may come in several parts."""

    def heads(self, wanted: Sequence[Series]) -> dict[Series, Head]:
        """Those of the heads that exist, as they are now."""

    def heads_of(self, customer: str) -> tuple[frozenset[str], dict[Series, Head]]:
        """All heads of a customer, and which features have gates; one read."""

    def decide(
        self, wanted: Sequence[Series], rule: Rule[Answer], time_left: Callable[[], float]
    ) -> tuple[Answer, dict[Series, Head]]:
        """The verdict of a rule on some series, written as it says; and their heads as they are then."""

    def publish(self, series: Series, gate: str, revision: int) -> None:
        """Set the gate of a series, unless one of that revision or a higher one is there."""

    def reservation(self, reservation_id: str) -> Reservation | None:
        """The reservation, if there is one."""

    def counted(self, series: Series, counts: Sequence[Count]) -> list[bool]:
        """Whether each event is among those that were counted, in that very form: id, body and time."""

    def find(
        self,
        series: Series,
        hashes: Collection[bytes],
        start: datetime,
        end: datetime,
        spend: Callable[[int], None] = lambda _: None,
    ) -> Period | None:
        """The newest stretch of time that touches [start, end] and that one of these events was counted in.

        `spend` is told how many ids are looked through; it raises when that is enough.
        """

    def close(self, counter: CounterId, aggregation: Aggregation, shards: int = 1) -> Tally:
        """Close the counter of a billing period that is over; what it holds now is what is billed.

        Events that come later still count, and become adjustments. Closed again, it gives the same.
        """

    def adjustments(self, subscription: str) -> list[Adjustment]:
        """The closed counters of a subscription that have had events since they were billed."""

    def settle(self, adjustment: Adjustment) -> None:
        """Say that an adjustment was billed; events that came since it was read stay to be billed."""


def _ample() -> float:
    return inf


class Archive(Protocol):
    """Where the events of a batch are kept."""

    def put(self, batch: Batch, time_left: Callable[[], float] = _ample) -> None:
        """Keep the events of a batch before they are counted, or fail; the same batch again changes nothing.

        `time_left` gives the seconds in which to do it.
        """


class Result(msgspec.Struct, omit_defaults=True):
    """What became of one event of a request, as it stands in the answer."""

    id: str | None
    status: str
    reason: str | None = None
    detail: str | None = None
    pointer: str | None = None
    retryable: bool = False


def governing(
    subscriptions: Iterable[Subscription], feature: str, at: datetime, directory: Directory, *, ended: bool = False
) -> tuple[Subscription, PlanFeature] | None:
    """The subscription that rules a feature at an instant: the newest begun whose plan had it then.

    One that has ended rules no more, unless those that have `ended` are looked at too.
    """
    begun = sorted(
        (one for one in subscriptions if one.starts_at <= at and (ended or one.ends_at is None or at < one.ends_at)),
        key=lambda one: (one.starts_at, one.id),
        reverse=True,
    )
    for subscription in begun:
        plan = directory.plan(*subscription.version_at(at))
        granted = plan.feature(feature) if plan else None
        if granted is not None:
            return subscription, granted
    return None


class Memory:
    """The snapshots that a warm function remembers.

    They may be outdated: then no event is counted by them, for a head's gate that is newer refuses it, and none is
    rejected before its customer's snapshot has been read again. They are remembered for less long than a number of
    shards is known ahead: a function that no gate has told of it must know it when it takes effect.
    """

    def __init__(self) -> None:
        self._snapshots: OrderedDict[str, tuple[Snapshot, datetime]] = OrderedDict()

    def recall(
        self, customers: Iterable[str], directory: Directory, now: datetime
    ) -> tuple[dict[str, Snapshot], set[str]]:
        """The snapshots of customers; and of which of them it was read just now."""
        wanted = set(customers)
        known = {one: self._snapshots[one] for one in wanted if one in self._snapshots}
        found = {one: snapshot for one, (snapshot, since) in known.items() if abs(now - since) < _LONGEST_MEMORY}
        for one in found:
            self._snapshots.move_to_end(one)
        unknown = wanted - found.keys()
        read = directory.snapshots_of(unknown) if unknown else {}
        self._snapshots.update({one: (snapshot, now) for one, snapshot in read.items()})
        while len(self._snapshots) > _REMEMBERED:
            self._snapshots.popitem(last=False)
        return found | read, unknown

    def forget(self, customers: Iterable[str]) -> None:
        """Have snapshots read again."""
        for one in customers:
            self._snapshots.pop(one, None)


def ingest(
    events: Sequence[Event | Rejection],
    *,
    directory: Directory,
    counters: Counters,
    now: datetime,
    time_left: Callable[[], float],
    announcer: Announcer | None = None,
    memory: Memory | None = None,
) -> list[Result]:
    """Count events: a result per event, in order. Safe to repeat: what was counted is a duplicate then.

    Thresholds that the usage has reached by then are told through the announcer.

    Raises:
        Unavailable: a threshold could not be told; the events were counted, and may be sent again.
    """
    memory = memory or Memory()
    results: list[Result | None] = [None] * len(events)
    watched: dict[CounterId, _Terms] = {}
    waiting: Sequence[int] = range(len(events))
    for _ in range(_PLACINGS):
        customers = {event.customer for place in waiting if isinstance(event := events[place], Event)}
        snapshots, read = memory.recall(customers, directory, now)
        placed = _Placement(snapshots, read, directory, now)
        waiting = _count(waiting, events, placed, counters, time_left, results)
        watched |= placed.watched
        if not waiting:
            break
        memory.forget(event.customer for place in waiting if isinstance(event := events[place], Event))
    if announcer is not None and watched:
        announcer.announce(_reached(watched, counters, now))
    settled = [result or _result(event.id, Outcome.UNAVAILABLE) for result, event in zip(results, events, strict=True)]
    return _explain_unknown(settled, events, directory)


def _count(
    waiting: Sequence[int],
    events: Sequence[Event | Rejection],
    placed: "_Placement",
    counters: Counters,
    time_left: Callable[[], float],
    results: list[Result | None],
) -> list[int]:
    """Place and count some of the events; gives those that must be placed again by what is true now."""
    again: list[int] = []
    counts: dict[Series, tuple[list[int], list[Count]]] = {}
    series: Series | None = None
    for place in waiting:
        event = events[place]
        found = event if isinstance(event, Rejection) else placed.find(event)
        if not isinstance(found, Rejection):
            if found[0] is not series:  # events of one series mostly come together: to find its group takes longer
                series = found[0]
                places, group = counts.get(series) or counts.setdefault(series, ([], []))
            places.append(place)
            group.append(found[1])
        elif isinstance(event, Event) and found.reason in _CHANGEABLE and event.customer not in placed.read:
            again.append(place)
        else:
            results[place] = Result(found.id, "rejected", found.reason, found.detail, found.pointer or None)
    batches = [placed.batch(series, group) for series, (_, group) in counts.items()]
    for (places, _), outcomes in zip(counts.values(), counters.count(batches, placed.now, time_left), strict=True):
        for place, outcome in zip(places, outcomes, strict=True):
            if outcome is _OUTDATED:
                again.append(place)
            else:
                results[place] = _result(events[place].id, outcome)
    return again


@dataclass(slots=True)
class _Terms:
    """What rules a customer's events of a feature in [start, end); `hour` is the one used last."""

    start: datetime
    end: datetime
    counter: CounterId
    period_end: datetime
    timezone: str
    granted: PlanFeature
    hour: datetime
    hour_end: datetime
    series: Series
    shards: tuple[Sharding, ...]
    thresholds: tuple[Threshold, ...]
    most_shards: int
    by_id: bool
    rate: Rate | None


class _Placement:
    """Finds where each event of a request counts; remembers what it found."""

    def __init__(self, snapshots: dict[str, Snapshot], read: set[str], directory: Directory, now: datetime) -> None:
        self.watched: dict[CounterId, _Terms] = {}
        self.read = read
        self.now = now
        self._features: dict[str, Feature] = {}
        self._snapshots = snapshots
        self._directory = directory
        self._oldest = now - MAX_AGE
        self._newest = now + MAX_AHEAD
        self._terms: dict[tuple[str, str], _Terms] = {}

    def find(self, event: Event) -> tuple[Series, Count] | Rejection:
        """The series that an event counts in, and the event ready to be counted."""
        told = event.time or time_of_id(event.id)
        at = told or self.now
        if not self._oldest <= at <= self._newest:
            where = "/time" if event.time else "/id"
            if at > self._newest:
                return Rejection(event.id, "in_the_future", "its time lies more than 5 minutes ahead", where)
            return Rejection(event.id, "too_old", f"its time lies more than {MAX_AGE.days} days back", where)
        terms = self._terms.get((event.customer, event.feature))
        if terms is None or not terms.start <= at < terms.end:
            found = self._find(event, at)
            if isinstance(found, Rejection):
                return found
            terms = self._terms[event.customer, event.feature] = found
        if not terms.hour <= at < terms.hour_end:
            terms.hour = local_hour(at, terms.timezone)
            terms.hour_end = terms.hour + _HOUR
        scope = _ID if terms.by_id else _RECEIPT if told is None else _TIME
        known, digest = identify(event, scope, told)
        count = Count(
            event,
            terms.counter,
            at,
            terms.hour,
            event.quantity,
            scope,
            known,
            digest,
            self._newest + MAX_AGE if terms.by_id else None,
            terms.rate,
        )
        # Events not known by their time could not be found again after a change of the number of shards: shard 0.
        return (_shard(count, terms) if terms.shards and scope is _TIME else terms.series), count

    def batch(self, series: Series, counts: Sequence[Count]) -> Batch:
        """Counts of a series, with the revision that they were placed by."""
        snapshot, feature = self._snapshots[series.customer], series.feature

        def gate() -> str:
            found = gate_of(snapshot, feature, self._directory.plan, self.now)
            return write_gate(found) if found else ""

        return Batch(series, self._features[feature].aggregation, tuple(counts), snapshot.revision, gate)

    def _find(self, event: Event, at: datetime) -> _Terms | Rejection:
        snapshot = self._snapshots.get(event.customer, Snapshot())
        found = governing(snapshot.subscriptions, event.feature, at, self._directory)
        if found is None:
            return self._unplaced(event, at)
        subscription, granted = found
        if granted.feature.type is FeatureType.BOOLEAN:
            return Rejection(event.id, "not_metered", f"{event.feature} is a boolean feature: it is not counted")
        granted = snapshot.terms(granted, at)
        self._features[event.feature] = granted.feature
        period, hour = subscription.period(at), local_hour(at, subscription.timezone)
        edges = [one.starts_at for one in snapshot.subscriptions]
        edges += [one.ends_at for one in snapshot.subscriptions if one.ends_at]
        edges += [stretch.until for one in snapshot.subscriptions for stretch in one.earlier]
        override = snapshot.overrides.get(event.feature)
        edges += [override.expires_at] if override and override.expires_at else []
        terms = _Terms(
            max([period.start, *(edge for edge in edges if edge <= at)]),
            min([period.end, *(edge for edge in edges if edge > at)]),
            CounterId(event.customer, event.feature, subscription.id, period.start),
            period.end,
            subscription.timezone,
            granted,
            hour,
            hour + _HOUR,
            Series(event.customer, event.feature),
            snapshot.shards.get(event.feature, ()),
            snapshot.alerts.get(event.feature, ()),
            snapshot.most_shards(event.feature),
            granted.feature.dedupe is Dedupe.ID,
            granted.rate,
        )
        if terms.thresholds:
            self.watched[terms.counter] = terms
        return terms

    def _unplaced(self, event: Event, at: datetime) -> Rejection:
        subscriptions = self._snapshots.get(event.customer, Snapshot()).subscriptions
        if any(one.starts_at <= at and (one.ends_at is None or at < one.ends_at) for one in subscriptions):
            return Rejection(event.id, "feature_not_in_plan", f"no plan of {event.customer} has {event.feature}")
        when = " at the time of the event" if subscriptions else ""
        return Rejection(event.id, "no_subscription", f"{event.customer} has no subscription{when}")


def _reached(watched: dict[CounterId, _Terms], counters: Counters, now: datetime) -> list[Reached]:
    """The thresholds that counters have reached, whether or not by these events."""
    shards: dict[str, int] = {}
    for counter, terms in watched.items():
        shards[counter.feature] = max(shards.get(counter.feature, 1), terms.most_shards)
    found: list[Reached] = []
    for counter, tally in counters.tallies(watched, shards).items():
        terms = watched[counter]
        limit = terms.granted.quota.limit if terms.granted.quota else None
        found += reached(counter, terms.period_end, terms.thresholds, limit=limit, used=tally.quantity, at=now)
    return found


def _shard(count: Count, terms: _Terms) -> Series:
    """The series of an event where the counter is, or was, kept in several."""
    shards = 1
    for entry in terms.shards:
        if entry.since <= count.at:
            shards = entry.shards
    return Series(terms.series.customer, terms.series.feature, shard_of(count.hash, shards))


def _result(event_id: str | None, outcome: Outcome) -> Result:
    told = _TOLD.get(outcome)
    if told is not None:
        return Result(event_id, told)
    if outcome is Outcome.OUT_OF_RANGE:
        detail = "the usage would have more than 20 digits before the point"
        return Result(event_id, "rejected", outcome.value, detail, "/quantity")
    return Result(event_id, "rejected", outcome.value, "could not be counted in time: send it again", retryable=True)


def _explain_unknown(results: list[Result], events: Sequence[Event | Rejection], directory: Directory) -> list[Result]:
    """Tell a customer with no subscription from one that does not exist, and likewise a feature."""
    suspects = {
        place: event
        for place, (result, event) in enumerate(zip(results, events, strict=True))
        if result.reason in {"no_subscription", "feature_not_in_plan"} and isinstance(event, Event)
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


def results_to_json(results: Sequence[Result]) -> str:
    """The answer to `POST /v1/events`."""
    found = Counter([result.status for result in results])
    counts = {status: found[status] for status in ("accepted", "duplicate", "conflict", "rejected")}
    return write_json({"results": results, **counts}).decode()

"""Use cases that change a customer's snapshot: shards of counters, and thresholds of usage alerts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, Protocol, TypeVar

from tollgate.catalog.model import Aggregation, Customer, Dedupe, Feature, FeatureType, Sharding, Snapshot, Threshold
from tollgate.kernel.errors import Conflict, FieldError, InvalidInput, NotFound
from tollgate.kernel.time import Clock

__all__ = ["MAX_SHARDS", "MAX_THRESHOLDS", "Snapshots", "alerts", "remove_alerts", "set_alerts", "set_shards", "shards"]

Entry = TypeVar("Entry")

MAX_SHARDS: Final = 64
MAX_THRESHOLDS: Final = 10

_LEAD: Final = timedelta(minutes=15)
"""How far ahead a number of shards takes effect: events may lie 5 minutes ahead, and clocks be off by 2."""

_SETTLED: Final = timedelta(minutes=10)
"""How far ahead an entry must lie to be replaced: no event of its time can have been counted then."""

_TRIES: Final = 20
_MAX_ENTRIES: Final = 50
_MAX_FEATURES: Final = 50


class Snapshots(Protocol):
    """What the use cases need of a store."""

    def customer(self, customer_id: str) -> Customer | None:
        """The customer, if there is one."""

    def feature(self, code: str) -> Feature | None:
        """The feature, if there is one."""

    def snapshot(self, customer_id: str) -> Snapshot:
        """What is kept of a customer, as the last write left it."""

    def update_snapshot(self, customer_id: str, change: Callable[[Snapshot], Snapshot]) -> bool:
        """Write a snapshot as `change` makes it of the one there is; False when another writer was first."""


def set_shards(snapshots: Snapshots, customer: str, feature: str, shards: int, *, clock: Clock) -> tuple[Sharding, ...]:
    """Keep a customer's counter of a feature in so many parts from a full minute 15 minutes ahead on; the schedule.

    The schedule grows at its end: what has taken effect never changes, so that an event finds the part it was
    counted in whenever it comes again. The number that is the last already changes nothing.

    Raises:
        NotFound: no such customer or feature.
        InvalidInput: not 1 to 64, or a feature that needs one counter: it has a hard limit, another dedupe, or an
            aggregation that does not add up.
        Conflict: the last change is about to take effect, or the schedule is full.
    """
    found = _terms(snapshots, customer, feature)
    if not 1 <= shards <= MAX_SHARDS:
        raise InvalidInput([FieldError("/shards", f"must be from 1 to {MAX_SHARDS}")])
    adds_up = found.aggregation in {Aggregation.SUM, Aggregation.COUNT}
    if found.type is not FeatureType.USAGE or found.dedupe is not Dedupe.TIME or not adds_up:
        detail = f'{feature} needs one counter: only usage features that sum or count by "dedupe": "time" have shards'
        raise InvalidInput([FieldError("/shards", detail)])

    def change(snapshot: Snapshot) -> Snapshot:
        schedule = _scheduled(snapshot.shards.get(feature, ()), shards, clock())
        return replace(snapshot, shards=_with(snapshot.shards, feature, schedule, "/shards"))

    return _changed(snapshots, customer, change).shards.get(feature, ())


def _scheduled(schedule: tuple[Sharding, ...], shards: int, now: datetime) -> tuple[Sharding, ...]:
    """The schedule with another number of shards at its end."""
    if shards == (schedule[-1].shards if schedule else 1):
        return schedule
    kept = schedule
    if schedule and schedule[-1].since > now:
        if schedule[-1].since < now + _SETTLED:
            raise Conflict("The last change is about to take effect; send the request again when it has.")
        kept = schedule[:-1]
    if len(kept) >= _MAX_ENTRIES:
        raise Conflict(f"The number of shards has changed {_MAX_ENTRIES} times, and can do so no more.")
    since = (now + _LEAD).replace(second=0, microsecond=0)
    return (*kept, Sharding(since if since >= now + _LEAD else since + timedelta(minutes=1), shards))


def shards(snapshots: Snapshots, customer: str, feature: str) -> tuple[Sharding, ...]:
    """The schedule of a counter's shards, empty where there has always been one; or NotFound."""
    _terms(snapshots, customer, feature)
    return snapshots.snapshot(customer).shards.get(feature, ())


def set_alerts(
    snapshots: Snapshots, customer: str, feature: str, thresholds: Sequence[Threshold]
) -> tuple[Threshold, ...]:
    """Tell when a customer's usage of a feature reaches one of these thresholds, in place of those before.

    Raises:
        NotFound: no such customer or feature.
        InvalidInput: what `_threshold_faults` names.
    """
    found = _terms(snapshots, customer, feature)
    if faults := _threshold_faults(found, thresholds):
        raise InvalidInput(faults)

    def change(snapshot: Snapshot) -> Snapshot:
        return replace(snapshot, alerts=_with(snapshot.alerts, feature, tuple(thresholds), "/thresholds"))

    return _changed(snapshots, customer, change).alerts[feature]


def _threshold_faults(feature: Feature, thresholds: Sequence[Threshold]) -> list[FieldError]:
    if feature.type not in {FeatureType.USAGE, FeatureType.QUOTA}:
        return [FieldError("/thresholds", f"a {feature.type} feature has no usage per period")]
    if not 1 <= len(thresholds) <= MAX_THRESHOLDS:
        return [FieldError("/thresholds", f"must be 1 to {MAX_THRESHOLDS}")]
    faults = []
    for index, threshold in enumerate(thresholds):
        here = f"/thresholds/{index}"
        value = threshold.quantity if threshold.percent is None else threshold.percent
        name = "quantity" if threshold.percent is None else "percent"
        if value is None or None not in (threshold.percent, threshold.quantity):
            faults.append(FieldError(here, "must have a percent or a quantity, and not both"))
        elif value <= 0:
            faults.append(FieldError(f"{here}/{name}", "must be greater than 0"))
        elif name == "percent" and feature.type is not FeatureType.QUOTA:
            faults.append(FieldError(f"{here}/percent", f"a {feature.type} feature has no quota"))
        elif threshold in thresholds[:index]:
            faults.append(FieldError(here, "stands twice"))
    return faults


def alerts(snapshots: Snapshots, customer: str, feature: str) -> tuple[Threshold, ...]:
    """The thresholds of a customer and feature, or NotFound."""
    _terms(snapshots, customer, feature)
    found = snapshots.snapshot(customer).alerts.get(feature)
    if not found:
        raise NotFound(f"{customer} has no alerts on {feature}.")
    return found


def remove_alerts(snapshots: Snapshots, customer: str, feature: str) -> None:
    """Tell no more of a customer's usage of a feature.

    Raises:
        NotFound: there are no alerts.
    """

    def change(snapshot: Snapshot) -> Snapshot:
        if feature not in snapshot.alerts:
            raise NotFound(f"{customer} has no alerts on {feature}.")
        return replace(snapshot, alerts={one: snapshot.alerts[one] for one in snapshot.alerts if one != feature})

    _changed(snapshots, customer, change)


def _terms(snapshots: Snapshots, customer: str, feature: str) -> Feature:
    if snapshots.customer(customer) is None:
        raise NotFound(f"There is no customer {customer}.")
    found = snapshots.feature(feature)
    if found is None:
        raise NotFound(f"There is no feature {feature}.")
    return found


def _with(
    entries: Mapping[str, tuple[Entry, ...]], feature: str, new: tuple[Entry, ...], pointer: str
) -> dict[str, tuple[Entry, ...]]:
    """The entries with those of a feature replaced; so many features at most, for a snapshot is read whole."""
    after = {**entries, feature: new} if new else dict(entries)
    if len(after) > max(_MAX_FEATURES, len(entries)):
        raise InvalidInput([FieldError(pointer, f"a customer has them on at most {_MAX_FEATURES} features")])
    return after


def _changed(snapshots: Snapshots, customer: str, change: Callable[[Snapshot], Snapshot]) -> Snapshot:
    made = Snapshot()

    def remember(before: Snapshot) -> Snapshot:
        nonlocal made
        made = change(before)
        return made

    for _ in range(_TRIES):
        if snapshots.update_snapshot(customer, remember):
            return made
    raise Conflict(f"Others are changing what is kept of {customer} now; send the request again.")

"""Use cases that change a customer's snapshot: shards of counters, thresholds of usage alerts, overrides of terms.

Each ends by publishing: what the snapshot says of a feature goes to the feature's gates, which is where a check and
a count read it. A publication that broke off is completed by the same request again, or by the next change; until
then a feature whose gate was not reached keeps the terms it had.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import field, replace
from datetime import datetime, timedelta
from typing import Final, Protocol, TypeVar

from tollgate.catalog.gates import gate_of, write_gate
from tollgate.catalog.model import (
    Aggregation,
    Customer,
    Dedupe,
    Feature,
    FeatureType,
    Override,
    Plan,
    Sharding,
    Snapshot,
    Threshold,
    override_faults,
)
from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import Conflict, FieldError, InvalidInput, NotFound
from tollgate.kernel.time import Clock

__all__ = [
    "MAX_SHARDS",
    "MAX_THRESHOLDS",
    "Gates",
    "Published",
    "Snapshots",
    "alerts",
    "override",
    "publish",
    "remove_alerts",
    "remove_override",
    "set_alerts",
    "set_override",
    "set_shards",
    "shards",
]

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
_WORKERS: Final = 16


class Snapshots(Protocol):
    """What the use cases need of a store."""

    def customer(self, customer_id: str) -> Customer | None:
        """The customer, if there is one."""

    def feature(self, code: str) -> Feature | None:
        """The feature, if there is one."""

    def snapshot(self, customer_id: str) -> Snapshot:
        """What is kept of a customer, as the last write left it."""

    def plan(self, code: str, version: int | None = None) -> Plan | None:
        """A version of a plan; None is the latest."""

    def update_snapshot(self, customer_id: str, change: Callable[[Snapshot], Snapshot]) -> bool:
        """Write a snapshot as `change` makes it of the one there is; False when another writer was first."""


@dataclass(frozen=True, slots=True)
class Published:
    """The gates of a customer: each one's revision by feature and shard, and the features there are."""

    gates: Mapping[tuple[str, int], int] = field(default_factory=dict)
    features: frozenset[str] = frozenset()


class Gates(Protocol):
    """Where gates stand."""

    def published(self, customer: str) -> Published:
        """All gates of a customer."""

    def publish_gate(self, customer: str, feature: str, shard: int, text: str, revision: int) -> None:
        """Set a gate, unless one of that revision or a higher one is there."""

    def publish_features(self, customer: str, features: frozenset[str], revision: int) -> None:
        """Say which features have gates, unless that was said at that revision or a higher one."""


def publish(customer: str, *, snapshots: Snapshots, gates: Gates, clock: Clock) -> None:
    """Bring the gates of a customer up to the snapshot; those of its revision or a higher one are left alone.

    Raises:
        Unavailable: some gates were not reached.
    """
    snapshot, now = snapshots.snapshot(customer), clock()
    before = gates.published(customer)
    plans = [snapshots.plan(one.plan, one.plan_version) for one in snapshot.subscriptions]
    features = frozenset(granted.feature.code for plan in plans if plan for granted in plan.features)
    if features != before.features:
        gates.publish_features(customer, features, snapshot.revision)
    waiting: list[tuple[str, int, str]] = []
    for feature in sorted(features | {feature for feature, _ in before.gates}):
        gate = gate_of(snapshot, feature, snapshots.plan, now)
        text = write_gate(gate) if gate else ""
        # One that says the same is written too, for another request may be about to write what was true before.
        waiting += [
            (feature, shard, text)
            for shard in range(gate.shards if gate else 1)
            if before.gates.get((feature, shard), -1) < snapshot.revision
        ]
    with ThreadPoolExecutor(_WORKERS) as pool:
        done = [
            pool.submit(gates.publish_gate, customer, feature, shard, text, snapshot.revision)
            for feature, shard, text in waiting
        ]
    for each in done:
        each.result()


def set_override(
    snapshots: Snapshots, customer: str, feature: str, override: Override, *, gates: Gates, clock: Clock
) -> Override:
    """Give a customer other terms for a feature than its plan's; in place of those set before.

    Raises:
        NotFound: no such customer or feature.
        InvalidInput: what `override_faults` names.
    """
    found = _terms(snapshots, customer, feature)
    if faults := list(override_faults(override, found.type, clock())):
        raise InvalidInput(faults)

    def change(snapshot: Snapshot) -> Snapshot:
        after = {**snapshot.overrides, feature: override}
        if len(after) > max(_MAX_FEATURES, len(snapshot.overrides)):
            raise InvalidInput([FieldError("", f"a customer has overrides of at most {_MAX_FEATURES} features")])
        return replace(snapshot, overrides=after)

    return _changed(snapshots, customer, change, gates=gates, clock=clock).overrides[feature]


def override(snapshots: Snapshots, customer: str, feature: str) -> Override:
    """The override of a customer and feature, or NotFound."""
    _terms(snapshots, customer, feature)
    found = snapshots.snapshot(customer).overrides.get(feature)
    if found is None:
        raise NotFound(f"{customer} has no override of {feature}.")
    return found


def remove_override(snapshots: Snapshots, customer: str, feature: str, *, gates: Gates, clock: Clock) -> None:
    """Have the plan's terms hold again.

    Raises:
        NotFound: there is no override.
    """

    def change(snapshot: Snapshot) -> Snapshot:
        if feature not in snapshot.overrides:
            raise NotFound(f"{customer} has no override of {feature}.")
        kept = {one: snapshot.overrides[one] for one in snapshot.overrides if one != feature}
        return replace(snapshot, overrides=kept)

    _changed(snapshots, customer, change, gates=gates, clock=clock)


def set_shards(
    snapshots: Snapshots, customer: str, feature: str, shards: int, *, gates: Gates, clock: Clock
) -> tuple[Sharding, ...]:
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

    return _changed(snapshots, customer, change, gates=gates, clock=clock).shards.get(feature, ())


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
    snapshots: Snapshots, customer: str, feature: str, thresholds: Sequence[Threshold], *, gates: Gates, clock: Clock
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

    return _changed(snapshots, customer, change, gates=gates, clock=clock).alerts[feature]


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


def remove_alerts(snapshots: Snapshots, customer: str, feature: str, *, gates: Gates, clock: Clock) -> None:
    """Tell no more of a customer's usage of a feature.

    Raises:
        NotFound: there are no alerts.
    """

    def change(snapshot: Snapshot) -> Snapshot:
        if feature not in snapshot.alerts:
            raise NotFound(f"{customer} has no alerts on {feature}.")
        return replace(snapshot, alerts={one: snapshot.alerts[one] for one in snapshot.alerts if one != feature})

    _changed(snapshots, customer, change, gates=gates, clock=clock)


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


def _changed(
    snapshots: Snapshots, customer: str, change: Callable[[Snapshot], Snapshot], *, gates: Gates, clock: Clock
) -> Snapshot:
    made = Snapshot()

    def remember(before: Snapshot) -> Snapshot:
        nonlocal made
        made = change(before)
        return made

    for _ in range(_TRIES):
        if snapshots.update_snapshot(customer, remember):
            publish(customer, snapshots=snapshots, gates=gates, clock=clock)
            return made
    raise Conflict(f"Others are changing what is kept of {customer} now; send the request again.")

"""A gate: all that decides about one feature of one customer, in a line of text. Pure.

It stands in the very item that counts the feature (metering/series.py), so that a question is answered by one read and
an answer can be a condition of the write that counts. It is made of the customer's snapshot, whose revision goes
with it: of two gates the one with the higher revision is the truth.
"""

import json
import zlib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

from tollgate.catalog.model import (
    INACTIVE,
    Aggregation,
    BillingPeriod,
    Dedupe,
    Feature,
    FeatureType,
    Overage,
    Override,
    Plan,
    PlanFeature,
    Quota,
    Rate,
    RateAlgorithm,
    Snapshot,
    Subscription,
    SubscriptionStatus,
    Threshold,
    sharding_to_dict,
    stretch_from_list,
    stretch_to_list,
    threshold_to_dict,
)
from tollgate.catalog.periods import Interval
from tollgate.kernel.dataclasses import dataclass

__all__ = ["Gate", "Term", "gate_of", "read_gate", "ruling", "write_gate"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

Term = tuple[Subscription, PlanFeature]
"""A subscription, and what its plan grants of the feature."""
Plans = Callable[[str, int], Plan | None]
"""A plan version by code and number."""


@dataclass(frozen=True, slots=True)
class Gate:
    """What decides about a feature.

    Attributes:
        terms: the subscription that rules now, and those that are yet to begin.
        shards: in how many parts the counter is or was kept.
        schedule: a checksum of when it was kept in how many.
        alerts: the thresholds of usage that are told.
    """

    feature: Feature
    terms: tuple[Term, ...] = ()
    override: Override | None = None
    shards: int = 1
    schedule: str = ""
    alerts: tuple[Threshold, ...] = ()

    def ruling(self, at: datetime) -> Term | None:
        """The subscription and the terms that rule at an instant, the override included."""
        found = ruling(self.terms, at)
        if found is None or self.override is None:
            return found
        return found[0], self.override.over(found[1], at)


def ruling(terms: Iterable[Term], at: datetime) -> Term | None:
    """Of several subscriptions that have begun the newest that is active rules; if none is, the newest."""
    begun = [term for term in terms if term[0].starts_at <= at]
    return max(begun, key=lambda term: _rank(term[0], at), default=None)


def _rank(subscription: Subscription, at: datetime) -> tuple[bool, datetime, str]:
    return subscription.status(at) not in INACTIVE, subscription.starts_at, subscription.id


def gate_of(snapshot: Snapshot, feature: str, plans: Plans, now: datetime) -> Gate | None:
    """The gate of a feature as a snapshot has it; None for one that no plan of the customer has."""
    terms: list[Term] = []
    for subscription in snapshot.subscriptions:
        plan = plans(subscription.plan, subscription.plan_version)
        granted = plan.feature(feature) if plan else None
        if granted is not None:
            terms.append((subscription, granted))
    if not terms:
        return None
    present = ruling(terms, now)
    kept = (*((present,) if present else ()), *(term for term in terms if term[0].starts_at > now))
    return Gate(
        kept[-1][1].feature,
        kept,
        snapshot.overrides.get(feature),
        snapshot.most_shards(feature),
        _checksum(snapshot, feature),
        snapshot.alerts.get(feature, ()),
    )


def _checksum(snapshot: Snapshot, feature: str) -> str:
    shards = [sharding_to_dict(entry) for entry in snapshot.shards.get(feature, ())]
    return f"{zlib.crc32(json.dumps(shards).encode()):x}" if shards else ""


def write_gate(gate: Gate) -> str:
    """A gate as text: some 150 bytes, for they count in every write of the item it stands in."""
    feature, override = gate.feature, gate.override
    other = override and [
        override.enabled,
        _quota(override.quota),
        _rate(override.rate),
        override.expires_at and _microseconds(override.expires_at),
    ]
    body: list[Any] = [
        feature.type.value,
        feature.aggregation.value,
        feature.dedupe.value,
        gate.shards,
        gate.schedule,
        [list(*threshold_to_dict(one).items()) for one in gate.alerts],
        other,
        *(_term(term) for term in gate.terms),
    ]
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False)


def _term(term: Term) -> list[Any]:
    subscription, granted = term
    start, anchor = _microseconds(subscription.starts_at), _microseconds(subscription.anchor)
    changes = _changes(subscription)
    return [
        subscription.id,
        subscription.plan,
        subscription.plan_version,
        start,
        anchor - start,
        subscription.timezone,
        subscription.billing_period.interval.value,
        subscription.billing_period.count,
        subscription.state.value,
        int(granted.enabled),
        _quota(granted.quota),
        _rate(granted.rate),
        *([changes] if any(changes) else []),
    ]


def _changes(subscription: Subscription) -> list[Any]:
    """What few subscriptions have: when the trial ends and the subscription, as what; and other calendars before."""
    trial, end, earlier = subscription.trial_ends_at, subscription.ends_at, subscription.earlier
    anchors = [*(one.anchor for one in earlier[1:]), subscription.anchor]
    calendars = [one for one, anchor in zip(earlier, anchors, strict=False) if one.anchor != anchor]
    return [
        trial and _microseconds(trial),
        end and [_microseconds(end), subscription.ends_as.value],
        [stretch_to_list(one) for one in calendars],
    ]


def _quota(quota: Quota | None) -> list[Any] | int:
    return [f"{quota.limit:f}", quota.overage.value] if quota else 0


def _rate(rate: Rate | None) -> list[Any] | int:
    return [f"{rate.limit:f}", rate.window_seconds, rate.algorithm.value] if rate else 0


def _microseconds(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


@lru_cache(maxsize=2_048)
def read_gate(customer: str, feature: str, text: str) -> Gate:
    """Read back what `write_gate` wrote; names, prices and what only the administration asks for are left out."""
    kind, aggregation, dedupe, shards, schedule, alerts, other, *terms = json.loads(text)
    known = Feature(feature, "", FeatureType(kind), None, Aggregation(aggregation), Dedupe(dedupe))
    override = None
    if other:
        enabled, quota, rate, expires = other
        override = Override(enabled, _to_quota(quota), _to_rate(rate), _to_time(expires) if expires else None)
    thresholds = tuple(Threshold(**{kind: Decimal(value)}) for kind, value in alerts)
    return Gate(known, tuple(_to_term(customer, known, term) for term in terms), override, shards, schedule, thresholds)


def _to_term(customer: str, feature: Feature, body: list[Any]) -> Term:
    name, plan, version, start, anchor, timezone, interval, count, state, enabled, quota, rate, *changes = body
    trial_end, end, earlier = changes[0] if changes else (None, None, [])
    starts_at = _to_time(start)
    subscription = Subscription(
        id=name,
        customer=customer,
        plan=plan,
        plan_version=version,
        starts_at=starts_at,
        anchor=_to_time(start + anchor),
        timezone=timezone,
        billing_period=BillingPeriod(Interval(interval), count),
        state=SubscriptionStatus(state),
        created_at=starts_at,
        request_digest="",
        trial_ends_at=_to_time(trial_end) if trial_end else None,
        earlier=tuple(stretch_from_list(one) for one in earlier),
        ends_at=_to_time(end[0]) if end else None,
        ends_as=SubscriptionStatus(end[1]) if end else SubscriptionStatus.CANCELLED,
    )
    return subscription, PlanFeature(feature, bool(enabled), None, _to_quota(quota), _to_rate(rate))


def _to_quota(body: list[Any] | int) -> Quota | None:
    return Quota(Decimal(body[0]), Overage(body[1])) if isinstance(body, list) else None


def _to_rate(body: list[Any] | int) -> Rate | None:
    return Rate(Decimal(body[0]), body[1], RateAlgorithm(body[2])) if isinstance(body, list) else None


def _to_time(microseconds: int) -> datetime:
    return _EPOCH + microseconds * _MICROSECOND

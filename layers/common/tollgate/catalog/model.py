"""Features, plan versions, customers and subscriptions: values and the rules they keep. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from tollgate.catalog.periods import Interval, Period, period_at
from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import FieldError
from tollgate.kernel.money import format_decimal
from tollgate.kernel.time import format_time, parse_time
from tollgate.pricing.model import Price, price_from_dict, price_to_dict
from tollgate.pricing.model import faults as price_faults

__all__ = [
    "ENDED",
    "INACTIVE",
    "MAX_WINDOW_SECONDS",
    "AfterGrace",
    "Aggregation",
    "BillingPeriod",
    "Customer",
    "Dedupe",
    "Feature",
    "FeatureType",
    "Overage",
    "Override",
    "Plan",
    "PlanFeature",
    "PlannedChange",
    "Quota",
    "Rate",
    "RateAlgorithm",
    "Sharding",
    "Snapshot",
    "Stretch",
    "Subscription",
    "SubscriptionStatus",
    "Threshold",
    "feature_from_dict",
    "feature_to_dict",
    "override_faults",
    "override_from_dict",
    "override_to_dict",
    "plan_faults",
    "plan_from_dict",
    "plan_to_dict",
    "sharding_from_dict",
    "sharding_to_dict",
    "stretch_from_list",
    "stretch_to_list",
    "subscription_from_dict",
    "subscription_to_dict",
    "threshold_from_dict",
    "threshold_to_dict",
]


class FeatureType(StrEnum):
    """How a feature is gated."""

    USAGE = "usage"  # always allowed, charged
    QUOTA = "quota"  # a limit per billing period
    RATE = "rate"  # a limit per time window
    BOOLEAN = "boolean"  # on or off


class Aggregation(StrEnum):
    """How the quantities of a period's events become its usage."""

    SUM = "sum"
    COUNT = "count"
    MAX = "max"
    LATEST = "latest"


class Dedupe(StrEnum):
    """What makes two events the same: (source, id) with their time, or (source, id) alone."""

    TIME = "time"
    ID = "id"


class Overage(StrEnum):
    """What happens beyond a quota."""

    BLOCK = "block"
    ALLOW = "allow"


class RateAlgorithm(StrEnum):
    """How a rate limit measures its window."""

    FIXED = "fixed"
    TOKEN_BUCKET = "token_bucket"  # noqa: S105  the name of an algorithm
    SLIDING = "sliding"


class SubscriptionStatus(StrEnum):
    """Where a subscription stands in its life."""

    TRIALING = "trialing"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


ENDED: Final = frozenset({SubscriptionStatus.CANCELLED, SubscriptionStatus.EXPIRED})
"""Nothing follows these."""

INACTIVE: Final = ENDED | {SubscriptionStatus.PAUSED}
"""A subscription in these grants nothing; one that is past due still does, for its grace."""


class AfterGrace(StrEnum):
    """What becomes of a subscription that is still past due when its grace is over."""

    CANCEL = "cancel"
    PAUSE = "pause"


@dataclass(frozen=True, slots=True)
class Feature:
    """Something a customer may use. Its type, aggregation and dedupe never change: counts rest on them."""

    code: str
    name: str
    type: FeatureType
    unit: str | None = None
    aggregation: Aggregation = Aggregation.SUM
    dedupe: Dedupe = Dedupe.TIME


@dataclass(frozen=True, slots=True)
class Quota:
    """At most `limit` per billing period; beyond it blocked or counted as overage."""

    limit: Decimal
    overage: Overage


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `limit` per window of so many seconds."""

    limit: Decimal
    window_seconds: int
    algorithm: RateAlgorithm = RateAlgorithm.FIXED


@dataclass(frozen=True, slots=True)
class PlanFeature:
    """A feature as one plan version grants and prices it; carries the feature, so that it is read once."""

    feature: Feature
    enabled: bool = True
    price: Price | None = None
    quota: Quota | None = None
    rate: Rate | None = None


@dataclass(frozen=True, slots=True)
class BillingPeriod:
    """`count` intervals, for example 3 months."""

    interval: Interval
    count: int = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """One immutable version of a plan; prices are in `currency`'s major unit."""

    code: str
    version: int
    name: str
    currency: str
    billing_period: BillingPeriod
    base_price: Decimal
    trial_days: int
    grace_days: int
    features: tuple[PlanFeature, ...]
    after_grace: AfterGrace = AfterGrace.CANCEL

    def feature(self, code: str) -> PlanFeature | None:
        """The plan's terms for a feature, if it has the feature."""
        return next((granted for granted in self.features if granted.feature.code == code), None)


@dataclass(frozen=True, slots=True)
class Customer:
    """Whom the seller sells to; `timezone` is an IANA name and rules the periods of new subscriptions."""

    id: str
    name: str | None = None
    email: str | None = None
    timezone: str = "UTC"
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stretch:
    """What a subscription was until it was changed: events of that time still count by it."""

    until: datetime
    plan: str
    plan_version: int
    anchor: datetime
    billing_period: BillingPeriod


@dataclass(frozen=True, slots=True)
class PlannedChange:
    """A plan version that takes the place of the present one at an instant, the end of a period."""

    at: datetime
    plan: str
    plan_version: int


@dataclass(frozen=True, slots=True)
class Subscription:
    """A customer on a plan version.

    A trial is a period of its own, [starts_at, trial_ends_at), after which `anchor` lies; the billing periods follow
    from the anchor. It stays where it is unless the plan changes to one of another billing period within a period,
    which then ends there.

    Attributes:
        state: what it was last said to be; `status` says what it is at an instant.
        earlier: what it was before its last changes, the oldest first, as far back as events may count.
        planned: the change that the end of the period brings.
        ends_at: when it ends or has ended, as `ends_as`.
        term: when it expires if nothing ends it before; None where it was made for no fixed term.
        grace_until: while it is past due, when its grace is over; of one that is paused, that an invoice is past due.
    """

    id: str
    customer: str
    plan: str
    plan_version: int
    starts_at: datetime
    anchor: datetime
    timezone: str
    billing_period: BillingPeriod
    state: SubscriptionStatus
    created_at: datetime
    request_digest: str
    trial_ends_at: datetime | None = None
    earlier: tuple[Stretch, ...] = ()
    planned: PlannedChange | None = None
    ends_at: datetime | None = None
    ends_as: SubscriptionStatus = SubscriptionStatus.CANCELLED
    term: datetime | None = None
    grace_until: datetime | None = None

    def status(self, at: datetime) -> SubscriptionStatus:
        """The status at an instant of the present or the future: trials and subscriptions end by themselves."""
        if self.ends_at is not None and self.ends_at <= at:
            return self.ends_as
        if self.state is SubscriptionStatus.ACTIVE and self.trial_ends_at is not None and at < self.trial_ends_at:
            return SubscriptionStatus.TRIALING
        return self.state

    def version_at(self, at: datetime) -> tuple[str, int]:
        """The plan and its version that events of an instant are counted by."""
        stretch = self._stretch(at)
        return stretch.plan, stretch.plan_version

    def period(self, at: datetime) -> Period:
        """The period that an instant lies in, which a change may have ended early; before the start, the first one.

        It goes on where the subscription ends within it.
        """
        whole = self.whole_period(at)
        anchors = [*(one.anchor for one in self.earlier[1:]), self.anchor]
        changes = zip(self.earlier, anchors, strict=False)  # no change where nothing was before
        cuts = (old.until for old, anchor in changes if old.until > max(at, self.starts_at) and old.anchor != anchor)
        return Period(whole.start, min([whole.end, *cuts]))

    def whole_period(self, at: datetime) -> Period:
        """The period that an instant lies in as it was meant to be, whatever ended it early."""
        at = max(at, self.starts_at)
        if self.trial_ends_at is not None and at < self.trial_ends_at:
            return Period(self.starts_at, self.trial_ends_at)
        stretch = self._stretch(at)
        unit = stretch.billing_period
        return period_at(stretch.anchor, self.timezone, unit.interval, unit.count, at)

    def _stretch(self, at: datetime) -> "Stretch | Subscription":
        return next((one for one in self.earlier if at < one.until), self)


@dataclass(frozen=True, slots=True)
class Sharding:
    """In how many parts a counter is kept for the events of `since` and later."""

    since: datetime
    shards: int


@dataclass(frozen=True, slots=True)
class Threshold:
    """Usage worth an alert: a percentage of the quota, or a quantity; exactly one of them."""

    percent: Decimal | None = None
    quantity: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Override:
    """What a customer gets in place of a plan's terms for a feature, until it expires; None leaves a term as it is."""

    enabled: bool | None = None
    quota: Quota | None = None
    rate: Rate | None = None
    expires_at: datetime | None = None

    def over(self, granted: PlanFeature, at: datetime) -> PlanFeature:
        """The terms at an instant."""
        if self.expires_at is not None and self.expires_at <= at:
            return granted
        return replace(
            granted,
            enabled=granted.enabled if self.enabled is None else self.enabled,
            quota=self.quota or granted.quota,
            rate=self.rate or granted.rate,
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What there is to know of a customer before an event can be counted or a question answered: one item.

    `shards` has the schedule of each feature whose counters have been sharded, in ascending order of `since`;
    before its first entry there is one shard. `alerts` has the thresholds of each feature that has any, and
    `overrides` the terms of each feature for which this customer has other ones. `revision` grows with every change.
    """

    subscriptions: tuple[Subscription, ...] = ()
    shards: Mapping[str, tuple[Sharding, ...]] = field(default_factory=dict)
    alerts: Mapping[str, tuple[Threshold, ...]] = field(default_factory=dict)
    overrides: Mapping[str, Override] = field(default_factory=dict)
    revision: int = field(default=0, compare=False)

    def most_shards(self, feature: str) -> int:
        """In how many parts the counters of a feature may be kept: what is read is their sum."""
        return max((entry.shards for entry in self.shards.get(feature, ())), default=1)

    def terms(self, granted: PlanFeature, at: datetime) -> PlanFeature:
        """What a plan grants this customer at an instant."""
        override = self.overrides.get(granted.feature.code)
        return granted if override is None else override.over(granted, at)


MAX_WINDOW_SECONDS: Final = 86_400


def plan_faults(plan: Plan, places: Sequence[int] | None = None) -> Iterator[FieldError]:
    """What keeps a plan from being sold (API.md, Catalog), each with a pointer into its body.

    `places` says where in the body the plan's features stand, if some of the body's are not in the plan.
    """
    if plan.base_price < 0:
        yield FieldError("/base_price", "must not be negative")
    seen: set[str] = set()
    for index, granted in zip(places or range(len(plan.features)), plan.features, strict=True):
        here = f"/features/{index}"
        if granted.feature.code in seen:
            yield FieldError(f"{here}/feature", f"{granted.feature.code} stands twice in this plan")
        seen.add(granted.feature.code)
        for fault in _terms_faults(granted):
            yield FieldError(here + fault.pointer, fault.detail)


def _terms_faults(granted: PlanFeature) -> Iterator[FieldError]:
    kind = granted.feature.type
    if granted.price is not None:
        if kind is FeatureType.BOOLEAN:
            yield FieldError("/price", "a boolean feature has no quantity to price")
        yield from price_faults(granted.price, "/price")
    if kind is FeatureType.QUOTA and granted.quota is None:
        yield FieldError("/quota", "a quota feature needs a quota")
    if kind is not FeatureType.QUOTA and granted.quota is not None:
        yield FieldError("/quota", f"a {kind} feature has no quota")
    if kind is FeatureType.RATE and granted.rate is None:
        yield FieldError("/rate", "a rate feature needs a rate")
    if kind is not FeatureType.RATE and granted.rate is not None:
        yield FieldError("/rate", f"a {kind} feature has no rate")
    yield from _limit_faults(granted)


def override_faults(override: Override, kind: FeatureType, now: datetime) -> Iterator[FieldError]:
    """What keeps an override from being set on a feature of this type, each with a pointer into its body."""
    if override.enabled is None and override.quota is None and override.rate is None:
        yield FieldError("", "says nothing: give enabled, quota or rate")
    if kind is not FeatureType.QUOTA and override.quota is not None:
        yield FieldError("/quota", f"a {kind} feature has no quota")
    if kind is not FeatureType.RATE and override.rate is not None:
        yield FieldError("/rate", f"a {kind} feature has no rate")
    if override.expires_at is not None and override.expires_at <= now:
        yield FieldError("/expires_at", "must lie in the future")
    yield from _limit_faults(override)


def _limit_faults(granted: PlanFeature | Override) -> Iterator[FieldError]:
    if granted.quota is not None and granted.quota.limit < 0:
        yield FieldError("/quota/limit", "must not be negative")
    if granted.rate is not None:
        if granted.rate.limit <= 0:
            yield FieldError("/rate/limit", "must be greater than 0; to switch a feature off, use enabled")
        if not 1 <= granted.rate.window_seconds <= MAX_WINDOW_SECONDS:
            yield FieldError("/rate/window_seconds", f"must be from 1 to {MAX_WINDOW_SECONDS}")


def feature_to_dict(feature: Feature) -> dict[str, Any]:
    """A feature as the API shows it, and as a plan version keeps it."""
    return {
        "code": feature.code,
        "name": feature.name,
        "type": feature.type.value,
        "unit": feature.unit,
        "aggregation": feature.aggregation.value,
        "dedupe": feature.dedupe.value,
    }


def feature_from_dict(body: dict[str, Any]) -> Feature:
    """Read back what `feature_to_dict` wrote."""
    return Feature(
        code=body["code"],
        name=body["name"],
        type=FeatureType(body["type"]),
        unit=body["unit"],
        aggregation=Aggregation(body["aggregation"]),
        dedupe=Dedupe(body["dedupe"]),
    )


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """A plan version as the API shows it."""
    return {
        "code": plan.code,
        "version": plan.version,
        "name": plan.name,
        "currency": plan.currency,
        "billing_period": {
            "interval": plan.billing_period.interval.value,
            "count": plan.billing_period.count,
        },
        "base_price": f"{plan.base_price:f}",  # keeps the digits it was sent with,
        "trial_days": plan.trial_days,
        "grace_days": plan.grace_days,
        "after_grace": plan.after_grace.value,
        "features": [_granted_to_dict(granted) for granted in plan.features],
    }


def _granted_to_dict(granted: PlanFeature) -> dict[str, Any]:
    return {
        "feature": granted.feature.code,
        "enabled": granted.enabled,
        "price": price_to_dict(granted.price) if granted.price else None,
        "quota": _quota_to_dict(granted.quota),
        "rate": _rate_to_dict(granted.rate),
    }


def _quota_to_dict(quota: Quota | None) -> dict[str, Any] | None:
    return {"limit": format_decimal(quota.limit), "overage": quota.overage.value} if quota else None


def _rate_to_dict(rate: Rate | None) -> dict[str, Any] | None:
    if rate is None:
        return None
    return {
        "limit": format_decimal(rate.limit),
        "window_seconds": rate.window_seconds,
        "algorithm": rate.algorithm.value,
    }


def _quota_from_dict(body: dict[str, Any] | None) -> Quota | None:
    return Quota(Decimal(body["limit"]), Overage(body["overage"])) if body else None


def _rate_from_dict(body: dict[str, Any] | None) -> Rate | None:
    return Rate(Decimal(body["limit"]), body["window_seconds"], RateAlgorithm(body["algorithm"])) if body else None


def plan_from_dict(body: dict[str, Any], features: dict[str, Feature]) -> Plan:
    """Read back what `plan_to_dict` wrote; `features` are those the version was made with."""
    period = body["billing_period"]
    return Plan(
        code=body["code"],
        version=body["version"],
        name=body["name"],
        currency=body["currency"],
        billing_period=BillingPeriod(Interval(period["interval"]), period["count"]),
        base_price=Decimal(body["base_price"]),
        trial_days=body["trial_days"],
        grace_days=body["grace_days"],
        features=tuple(_granted_from_dict(granted, features) for granted in body["features"]),
        after_grace=AfterGrace(body.get("after_grace", AfterGrace.CANCEL)),
    )


def _granted_from_dict(body: dict[str, Any], features: dict[str, Feature]) -> PlanFeature:
    price = body["price"]
    return PlanFeature(
        feature=features[body["feature"]],
        enabled=body["enabled"],
        price=price_from_dict(price) if price else None,
        quota=_quota_from_dict(body["quota"]),
        rate=_rate_from_dict(body["rate"]),
    )


def subscription_to_dict(subscription: Subscription) -> dict[str, Any]:
    """A subscription as the customer's snapshot keeps it."""
    return {
        "id": subscription.id,
        "customer": subscription.customer,
        "plan": subscription.plan,
        "plan_version": subscription.plan_version,
        "starts_at": format_time(subscription.starts_at),
        "anchor": format_time(subscription.anchor),
        "timezone": subscription.timezone,
        "interval": subscription.billing_period.interval.value,
        "count": subscription.billing_period.count,
        "state": subscription.state.value,
        "created_at": format_time(subscription.created_at),
        "request_digest": subscription.request_digest,
        **_changes_to_dict(subscription),
    }


def _changes_to_dict(subscription: Subscription) -> dict[str, Any]:
    """What most subscriptions do not have, and the snapshot is read with every check."""
    changes: dict[str, Any] = {}
    for name in ("trial_ends_at", "ends_at", "term", "grace_until"):
        if at := getattr(subscription, name):
            changes[name] = format_time(at)
    if subscription.ends_at:
        changes["ends_as"] = subscription.ends_as.value
    if planned := subscription.planned:
        changes["planned"] = [format_time(planned.at), planned.plan, planned.plan_version]
    if subscription.earlier:
        changes["earlier"] = [stretch_to_list(one) for one in subscription.earlier]
    return changes


def stretch_to_list(stretch: Stretch) -> list[Any]:
    """A stretch as the customer's snapshot keeps it."""
    unit = stretch.billing_period
    plan, version = stretch.plan, stretch.plan_version
    return [format_time(stretch.until), plan, version, format_time(stretch.anchor), unit.interval.value, unit.count]


def stretch_from_list(body: list[Any]) -> Stretch:
    """Read back what `stretch_to_list` wrote."""
    until, plan, version, anchor, interval, count = body
    unit = BillingPeriod(Interval(interval), count)
    return Stretch(parse_time(until), plan, version, parse_time(anchor), unit)


def _time(body: dict[str, Any], name: str) -> datetime | None:
    return parse_time(body[name]) if body.get(name) else None


def subscription_from_dict(body: dict[str, Any]) -> Subscription:
    """Read back what `subscription_to_dict` wrote."""
    planned = body.get("planned")
    return Subscription(
        id=body["id"],
        customer=body["customer"],
        plan=body["plan"],
        plan_version=body["plan_version"],
        starts_at=parse_time(body["starts_at"]),
        anchor=parse_time(body["anchor"]),
        timezone=body["timezone"],
        billing_period=BillingPeriod(Interval(body["interval"]), body["count"]),
        state=SubscriptionStatus(body["state"]),
        created_at=parse_time(body["created_at"]),
        request_digest=body["request_digest"],
        trial_ends_at=_time(body, "trial_ends_at"),
        earlier=tuple(stretch_from_list(one) for one in body.get("earlier", ())),
        planned=PlannedChange(parse_time(planned[0]), planned[1], planned[2]) if planned else None,
        ends_at=_time(body, "ends_at"),
        ends_as=SubscriptionStatus(body.get("ends_as", SubscriptionStatus.CANCELLED)),
        term=_time(body, "term"),
        grace_until=_time(body, "grace_until"),
    )


def sharding_to_dict(sharding: Sharding) -> dict[str, Any]:
    """An entry of a schedule, as the API shows it and the customer's snapshot keeps it."""
    return {"since": format_time(sharding.since), "shards": sharding.shards}


def sharding_from_dict(body: dict[str, Any]) -> Sharding:
    """Read back what `sharding_to_dict` wrote."""
    return Sharding(parse_time(body["since"]), body["shards"])


def threshold_to_dict(threshold: Threshold) -> dict[str, str]:
    """A threshold, as the API shows it and the customer's snapshot keeps it: the one of both that it has."""
    values = {"percent": threshold.percent, "quantity": threshold.quantity}
    return {name: format_decimal(value) for name, value in values.items() if value is not None}


def threshold_from_dict(body: dict[str, str]) -> Threshold:
    """Read back what `threshold_to_dict` wrote."""
    return Threshold(**{name: Decimal(value) for name, value in body.items()})


def override_to_dict(override: Override) -> dict[str, Any]:
    """An override, as the API shows it and the customer's snapshot keeps it."""
    return {
        "enabled": override.enabled,
        "quota": _quota_to_dict(override.quota),
        "rate": _rate_to_dict(override.rate),
        "expires_at": format_time(override.expires_at) if override.expires_at else None,
    }


def override_from_dict(body: dict[str, Any]) -> Override:
    """Read back what `override_to_dict` wrote."""
    return Override(
        body["enabled"],
        _quota_from_dict(body["quota"]),
        _rate_from_dict(body["rate"]),
        parse_time(body["expires_at"]) if body["expires_at"] else None,
    )

"""The decision: from what a plan grants and what is used to yes or no, and why. Pure."""

from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

from tollgate.catalog.model import (
    INACTIVE,
    Aggregation,
    FeatureType,
    Overage,
    PlanFeature,
    Quota,
    Rate,
    Subscription,
)
from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.money import EXACT, ZERO, format_decimal
from tollgate.kernel.time import format_time
from tollgate.metering.rates import RateState, retry_at, use

__all__ = ["Decision", "Reason", "decide", "decision_headers", "decision_to_dict", "refuse"]


class Reason(StrEnum):
    """Why a customer may or may not."""

    ALLOWED = "allowed"
    OVERAGE_ALLOWED = "overage_allowed"
    QUOTA_EXCEEDED = "quota_exceeded"
    RATE_LIMITED = "rate_limited"
    FEATURE_DISABLED = "feature_disabled"
    FEATURE_NOT_IN_PLAN = "feature_not_in_plan"
    FEATURE_NOT_FOUND = "feature_not_found"
    CUSTOMER_NOT_FOUND = "customer_not_found"
    NO_SUBSCRIPTION = "no_subscription"
    SUBSCRIPTION_INACTIVE = "subscription_inactive"


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to a check; what does not apply is None.

    `retry_at` is when a denied quantity fits in, if nothing else is used until then.
    """

    customer: str
    feature: str
    type: FeatureType | None
    allowed: bool
    reason: Reason
    limit: Decimal | None = None
    used: Decimal | None = None
    reserved: Decimal | None = None
    remaining: Decimal | None = None
    overage: Decimal | None = None
    resets_at: datetime | None = None
    retry_at: datetime | None = None
    plan: str | None = None
    subscription: str | None = None
    window_seconds: int | None = None


def refuse(
    customer: str,
    feature: str,
    reason: Reason,
    *,
    kind: FeatureType | None = None,
    subscription: Subscription | None = None,
) -> Decision:
    """No, for a reason that no usage changes."""
    plan, name = (subscription.plan, subscription.id) if subscription else (None, None)
    return Decision(customer, feature, kind, allowed=False, reason=reason, plan=plan, subscription=name)


def decide(
    subscription: Subscription,
    granted: PlanFeature,
    quantity: Decimal,
    *,
    now: datetime,
    used: Decimal = ZERO,
    reserved: Decimal = ZERO,
    state: RateState | None = None,
    at: datetime | None = None,
) -> Decision:
    """Whether `quantity` more is allowed, given what is used and reserved in the period, and the rate's figures.

    The period is that of `at`, or else the present one.
    """
    feature = granted.feature
    if subscription.status(now) in INACTIVE:
        reason = Reason.SUBSCRIPTION_INACTIVE
        return refuse(subscription.customer, feature.code, reason, kind=feature.type, subscription=subscription)
    if not granted.enabled:
        reason = Reason.FEATURE_DISABLED
        return refuse(subscription.customer, feature.code, reason, kind=feature.type, subscription=subscription)
    values: dict[str, Any] = {}
    reason = Reason.ALLOWED
    if feature.type is FeatureType.USAGE:
        values = {"used": used, "reserved": reserved, "resets_at": subscription.period(at or now).end}
    elif granted.quota is not None:
        after = _after(feature.aggregation, used, quantity)
        reason, values = _within_quota(granted.quota, used, reserved, after)
        end = values["resets_at"] = subscription.period(at or now).end
        alone = _after(feature.aggregation, ZERO, quantity)
        if reason is Reason.QUOTA_EXCEEDED and end > now and alone <= granted.quota.limit:
            values["retry_at"] = end
    elif granted.rate is not None:
        reason, values = _within_rate(granted.rate, state or RateState(), quantity, now)
    return Decision(
        subscription.customer,
        feature.code,
        feature.type,
        allowed=reason in {Reason.ALLOWED, Reason.OVERAGE_ALLOWED},
        reason=reason,
        plan=subscription.plan,
        subscription=subscription.id,
        **values,
    )


def _after(aggregation: Aggregation, used: Decimal, quantity: Decimal) -> Decimal:
    """What is used with `quantity` more."""
    match aggregation:
        case Aggregation.MAX:
            return max(used, quantity)
        case Aggregation.LATEST:
            return quantity
    return EXACT.add(used, quantity)


def _within_quota(quota: Quota, used: Decimal, reserved: Decimal, after: Decimal) -> tuple[Reason, dict[str, Any]]:
    taken = EXACT.add(used, reserved)
    values = {
        "limit": quota.limit,
        "used": used,
        "reserved": reserved,
        "remaining": max(EXACT.subtract(quota.limit, taken), ZERO),
        "overage": max(EXACT.subtract(used, quota.limit), ZERO),
    }
    if EXACT.add(after, reserved) <= quota.limit:
        return Reason.ALLOWED, values
    return (Reason.OVERAGE_ALLOWED if quota.overage is Overage.ALLOW else Reason.QUOTA_EXCEEDED), values


def _within_rate(rate: Rate, state: RateState, quantity: Decimal, now: datetime) -> tuple[Reason, dict[str, Any]]:
    found = use(state, rate, now)
    values = {
        "limit": rate.limit,
        "used": found.used,
        "remaining": max(EXACT.subtract(rate.limit, found.used), ZERO),
        "resets_at": found.resets_at,
        "window_seconds": rate.window_seconds,
    }
    if EXACT.add(found.used, quantity) <= rate.limit:
        return Reason.ALLOWED, values
    return Reason.RATE_LIMITED, values | {"retry_at": retry_at(state, rate, now, quantity)}


def decision_to_dict(decision: Decision) -> dict[str, Any]:
    """The answer of the API."""
    return {
        "customer": decision.customer,
        "feature": decision.feature,
        "type": decision.type.value if decision.type else None,
        "allowed": decision.allowed,
        "reason": decision.reason.value,
        "limit": _shown(decision.limit),
        "used": _shown(decision.used),
        "reserved": _shown(decision.reserved),
        "remaining": _shown(decision.remaining),
        "overage": _shown(decision.overage),
        "resets_at": format_time(decision.resets_at) if decision.resets_at else None,
        "plan": decision.plan,
        "subscription": decision.subscription,
    }


def decision_headers(decision: Decision, now: datetime) -> dict[str, str]:
    """RateLimit and RateLimit-Policy (IETF draft-ietf-httpapi-ratelimit-headers-10), and Retry-After.

    They speak of limits that hold a client back, and so not of overage; counts are whole numbers, rounded down.
    """
    held = decision.reason is not Reason.OVERAGE_ALLOWED
    if not held or decision.limit is None or decision.resets_at is None or decision.remaining is None:
        return {}
    seconds = _seconds_until(decision.resets_at, now)
    name = f'"{decision.feature}"'
    window = f";w={decision.window_seconds}" if decision.window_seconds else ""
    headers = {
        "RateLimit-Policy": f"{name};q={int(decision.limit)}{window}",
        "RateLimit": f"{name};r={int(decision.remaining)};t={seconds}",
    }
    if decision.allowed or decision.retry_at is None:
        return headers
    return headers | {"Retry-After": str(max(_seconds_until(decision.retry_at, now), 1))}


def _seconds_until(at: datetime, now: datetime) -> int:
    """Whole seconds, rounded up: a caller that waits them out is not early."""
    return max(-((now - at) // timedelta(seconds=1)), 0)


def _shown(value: Decimal | None) -> str | None:
    return None if value is None else format_decimal(value)

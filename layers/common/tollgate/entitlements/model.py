"""The decision: from what a plan grants and what is used to yes or no, and why. Pure."""

from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_CEILING, Decimal
from enum import StrEnum
from typing import Any, Final

from tollgate.catalog.model import (
    FeatureType,
    Overage,
    PlanFeature,
    Quota,
    Rate,
    Subscription,
    SubscriptionStatus,
)
from tollgate.kernel.money import EXACT, ZERO, format_decimal
from tollgate.kernel.time import format_time
from tollgate.metering.rates import RateUse

__all__ = ["INACTIVE", "Decision", "Reason", "decide", "decision_headers", "decision_to_dict", "refuse"]

INACTIVE: Final = frozenset({SubscriptionStatus.PAUSED, SubscriptionStatus.CANCELLED, SubscriptionStatus.EXPIRED})
"""A subscription in these grants nothing; one that is past due still does, for its grace."""


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
    """The answer to a check; what does not apply is None."""

    customer: str
    feature: str
    type: FeatureType | None
    allowed: bool
    reason: Reason
    limit: Decimal | None = None
    used: Decimal | None = None
    remaining: Decimal | None = None
    overage: Decimal | None = None
    resets_at: datetime | None = None
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
    used: Decimal,
    rate_use: RateUse | None,
) -> Decision:
    """Whether `quantity` more is allowed, given what is used in the period and in the rate's window."""
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
        values = {"used": used, "resets_at": subscription.period(now).end}
    elif granted.quota is not None:
        reason, values = _within_quota(granted.quota, used, quantity)
        values["resets_at"] = subscription.period(now).end
    elif granted.rate is not None and rate_use is not None:
        reason, values = _within_rate(granted.rate, rate_use, quantity)
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


def _within_quota(quota: Quota, used: Decimal, quantity: Decimal) -> tuple[Reason, dict[str, Any]]:
    values = {
        "limit": quota.limit,
        "used": used,
        "remaining": max(EXACT.subtract(quota.limit, used), ZERO),
        "overage": max(EXACT.subtract(used, quota.limit), ZERO),
    }
    if EXACT.add(used, quantity) <= quota.limit:
        return Reason.ALLOWED, values
    return (Reason.OVERAGE_ALLOWED if quota.overage is Overage.ALLOW else Reason.QUOTA_EXCEEDED), values


def _within_rate(rate: Rate, rate_use: RateUse, quantity: Decimal) -> tuple[Reason, dict[str, Any]]:
    values = {
        "limit": rate.limit,
        "used": rate_use.used,
        "remaining": max(EXACT.subtract(rate.limit, rate_use.used), ZERO),
        "resets_at": rate_use.resets_at,
        "window_seconds": rate.window_seconds,
    }
    fits = EXACT.add(rate_use.used, quantity) <= rate.limit
    return (Reason.ALLOWED if fits else Reason.RATE_LIMITED), values


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
    until = Decimal(str((decision.resets_at - now).total_seconds()))
    seconds = max(int(until.to_integral_value(ROUND_CEILING)), 0)
    name = f'"{decision.feature}"'
    window = f";w={decision.window_seconds}" if decision.window_seconds else ""
    headers = {
        "RateLimit-Policy": f"{name};q={int(decision.limit)}{window}",
        "RateLimit": f"{name};r={int(decision.remaining)};t={seconds}",
    }
    return headers if decision.allowed else headers | {"Retry-After": str(max(seconds, 1))}


def _shown(value: Decimal | None) -> str | None:
    return None if value is None else format_decimal(value)

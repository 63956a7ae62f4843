"""The decision: from what a plan grants and what is used to yes or no, and why. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

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
from tollgate.kernel.time import format_time, from_epoch_ms
from tollgate.metering.rates import RateState, retry_at, use

__all__ = ["Decision", "Reason", "decide", "decision_headers", "decision_to_dict", "headers_of_several", "refuse"]

_NOTHING_HELD: Final[Mapping[int, Decimal]] = MappingProxyType({})
_LIMITS: Final = ("RateLimit-Policy", "RateLimit")
_MOST: Final = 999_999_999_999_999
"""What an integer of a structured field is at most (RFC 9651, 3.3.1)."""


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

    `resets_at` is when all of the limit is there again: None for a bucket that is full. `retry_at` is when a denied
    quantity fits in, if nothing else is used until then.
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
    quantity: Decimal | None,
    *,
    now: datetime,
    used: Decimal = ZERO,
    holds: Mapping[int, Decimal] = _NOTHING_HELD,
    state: RateState | None = None,
    at: datetime | None = None,
) -> Decision:
    """Whether `quantity` more is allowed, given what is used in the period, what is held, and the rate's figures.

    With None, whether what there is already is allowed. The period is that of `at`, or else the present one. What is
    held is given by the second at which it expires.
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
    open_holds = {expires: held for expires, held in holds.items() if expires > now.timestamp()}
    reserved = _sum(open_holds.values())
    if feature.type is FeatureType.USAGE:
        values = {"used": used, "reserved": reserved, "resets_at": subscription.period(at or now).end}
    elif granted.quota is not None:
        after = used if quantity is None else _after(feature.aggregation, used, quantity)
        reason, values = _within_quota(granted.quota, used, reserved, after)
        end = values["resets_at"] = subscription.period(at or now).end
        if reason is Reason.QUOTA_EXCEEDED and end > now:
            alone = _after(feature.aggregation, ZERO, quantity or ZERO)
            values["retry_at"] = _room_at(granted.quota.limit, open_holds, end, after, alone)
    elif granted.rate is not None:
        reason, values = _within_rate(granted.rate, state or RateState(), quantity or ZERO, now)
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


def _room_at(
    limit: Decimal, holds: Mapping[int, Decimal], end: datetime, after: Decimal, alone: Decimal
) -> datetime | None:
    """When there is room: enough of what is held has expired, or the period has ended, and only `alone` is used."""
    rest = _sum(holds.values())
    frees = [(from_epoch_ms(expires * 1_000), held) for expires, held in holds.items()]
    for at, held in sorted([*frees, (end, ZERO)]):
        rest = EXACT.subtract(rest, held)
        if EXACT.add(after if at < end else alone, rest) <= limit:
            return at
    return None


def _sum(quantities: Iterable[Decimal]) -> Decimal:
    total = ZERO
    for quantity in quantities:
        total = EXACT.add(total, quantity)
    return total


def _within_rate(rate: Rate, state: RateState, quantity: Decimal, now: datetime) -> tuple[Reason, dict[str, Any]]:
    found = use(state, rate, now)
    values = {
        "limit": rate.limit,
        "used": found.used,
        "remaining": max(EXACT.subtract(rate.limit, found.used), ZERO),
        "resets_at": found.resets_at if found.resets_at > now else None,
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
    if not held or decision.limit is None or decision.remaining is None:
        return {}
    seconds = _seconds_until(decision.resets_at or now, now)
    name = f'"{decision.feature}"'
    window = f";w={decision.window_seconds}" if decision.window_seconds else ""
    headers = {
        "RateLimit-Policy": f"{name};q={_whole(decision.limit)}{window}",
        "RateLimit": f"{name};r={_whole(decision.remaining)};t={seconds}",
    }
    if decision.allowed or decision.retry_at is None:
        return headers
    return headers | {"Retry-After": str(max(_seconds_until(decision.retry_at, now), 1))}


def headers_of_several(decisions: Sequence[Decision], now: datetime) -> dict[str, str]:
    """The same of several features: lists of limits, and when all that was denied fits."""
    each = [decision_headers(decision, now) for decision in decisions]
    listed = {name: ", ".join(headers[name] for headers in each if name in headers) for name in _LIMITS}
    waits = [headers.get("Retry-After") for one, headers in zip(decisions, each, strict=True) if not one.allowed]
    known = [int(wait) for wait in waits if wait is not None]
    again = {"Retry-After": str(max(known))} if known and len(known) == len(waits) else {}
    return {name: value for name, value in listed.items() if value} | again


def _whole(value: Decimal) -> int:
    return min(int(value), _MOST)


def _seconds_until(at: datetime, now: datetime) -> int:
    """Whole seconds, rounded up: a caller that waits them out is not early."""
    return max(-((now - at) // timedelta(seconds=1)), 0)


def _shown(value: Decimal | None) -> str | None:
    return None if value is None else format_decimal(value)

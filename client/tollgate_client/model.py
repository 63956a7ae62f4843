"""Decisions, events and figures: values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Self

__all__ = [
    "UNREACHABLE",
    "Decision",
    "Decisions",
    "Event",
    "Quantity",
    "Rejected",
    "Stats",
    "limits_of",
    "quantity_text",
    "time_text",
]

UNREACHABLE: Final = "tollgate_unreachable"
"""The reason of a decision that the client made because Tollgate could not be reached."""

Quantity = int | Decimal | str
"""How much: exact, so never a float. A string is a decimal as the API has it, such as "0.05"."""

_AMOUNTS: Final = ("limit", "used", "reserved", "remaining", "overage")
_LIMIT_HEADERS: Final = ("RateLimit-Policy", "RateLimit", "Retry-After")


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a customer may, and why; true in a condition when allowed. What does not apply is None.

    Attributes:
        type: usage, quota, rate or boolean; None where the feature is not known.
        reason: allowed, overage_allowed, quota_exceeded, rate_limited, feature_disabled, feature_not_in_plan,
            feature_not_found, customer_not_found, no_subscription, subscription_inactive; or tollgate_unreachable,
            when `on_error` answered.
        limit: of the quota or the rate.
        used: in the billing period, or in the rate's window.
        reserved: what open reservations hold.
        remaining: what of the limit is neither used nor reserved.
        overage: what is used beyond a quota.
        resets_at: the end of the period or the window, which it does not belong to; in UTC.
        plan: code of the plan that rules.
        subscription: id of the subscription that rules.
        status: consumed, reserved, committed, released, duplicate or denied; None for a check, and when `on_error`
            answered.
        id: of the consumption or the reservation: sent again with it, it is a duplicate.
        headers: RateLimit, RateLimit-Policy and Retry-After, as far as the API has sent them.
    """

    customer: str
    feature: str
    allowed: bool
    reason: str
    type: str | None = None
    limit: Decimal | None = None
    used: Decimal | None = None
    reserved: Decimal | None = None
    remaining: Decimal | None = None
    overage: Decimal | None = None
    resets_at: datetime | None = None
    plan: str | None = None
    subscription: str | None = None
    status: str | None = None
    id: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __bool__(self) -> bool:
        return self.allowed

    @property
    def retry_after(self) -> int | None:
        """Seconds after which the denied quantity fits, if nothing else is used; None when it never does, or fits."""
        return _retry_after(self.headers)

    @classmethod
    def of(cls, data: Mapping[str, Any], headers: Mapping[str, str], id: str | None = None) -> Self:
        """The decision of an answer of the API.

        Raises:
            KeyError, TypeError, ValueError, ArithmeticError: it is no such answer.
        """
        known = {name: data.get(name) for name in ("type", "plan", "subscription", "status")}
        known |= {name: Decimal(data[name]) for name in _AMOUNTS if data.get(name) is not None}
        return cls(
            customer=data["customer"],
            feature=data["feature"],
            allowed=data["allowed"] is True and known["status"] != "denied",
            reason=data["reason"],
            resets_at=datetime.fromisoformat(data["resets_at"]) if data.get("resets_at") else None,
            id=id,
            headers=limits_of(headers),
            **known,
        )


@dataclass(frozen=True, slots=True)
class Decisions:
    """The answer to a consumption of several features, all or nothing; true when it was granted.

    Attributes:
        id: of the consumption.
        status: consumed, duplicate or denied; None when `on_error` answered.
        allowed: whether all of it was granted.
        items: a decision for each feature; where one says no, those that say yes were not counted either.
        headers: RateLimit and RateLimit-Policy, as lists, and Retry-After, as far as the API has sent them.
    """

    id: str
    status: str | None
    allowed: bool
    items: tuple[Decision, ...]
    headers: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __bool__(self) -> bool:
        return self.allowed

    def __getitem__(self, feature: str) -> Decision:
        for decision in self.items:
            if decision.feature == feature:
                return decision
        raise KeyError(feature)

    @property
    def retry_after(self) -> int | None:
        """Seconds after which all that was denied fits, if nothing else is used; None when it never does, or fits."""
        return _retry_after(self.headers)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a customer did.

    Attributes:
        quantity: a decimal string.
        time: aware; None: that of the id, or of its receipt.
        properties: JSON values to keep with it.
    """

    customer: str
    feature: str
    quantity: str
    id: str
    time: datetime | None = None
    source: str = ""
    properties: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The simple event of `POST /v1/events`."""
        body = {"id": self.id, "customer": self.customer, "feature": self.feature, "quantity": self.quantity}
        time = None if self.time is None else time_text(self.time)
        more = {"time": time, "source": self.source, "properties": self.properties}
        return body | {name: value for name, value in more.items() if value}


@dataclass(frozen=True, slots=True)
class Rejected:
    """An event that was not counted and never will be; `reason` is the API's, or `not_sent` when closing gave it up."""

    event: Event
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures since the client was made.

    Attributes:
        pending: events in the buffer, those on their way included.
        accepted: events that were counted.
        duplicate: events that had been counted before.
        rejected: events that were not counted and never will be, conflicts included; each was reported.
        allowed_in_error: how often `on_error` said yes, by feature.
        denied_in_error: how often it said no.
    """

    pending: int
    accepted: int
    duplicate: int
    rejected: int
    allowed_in_error: Mapping[str, int]
    denied_in_error: Mapping[str, int]


def limits_of(headers: Mapping[str, str]) -> dict[str, str]:
    """What the headers of an answer say of limits."""
    return {name: headers[name] for name in _LIMIT_HEADERS if name in headers}


def _retry_after(headers: Mapping[str, str]) -> int | None:
    value = headers.get("Retry-After", "")
    return int(value) if value.isdecimal() else None


def quantity_text(value: Quantity) -> str:
    """A quantity as the API takes it: a plain decimal string. Strings pass as they are.

    Raises:
        TypeError: a float, or anything else that is not exact.
        ValueError: NaN or infinity.
    """
    if isinstance(value, bool) or not isinstance(value, (int, Decimal, str)):
        raise TypeError(f"a quantity is an int, a Decimal or a decimal string, not {value!r}")
    if isinstance(value, Decimal) and not value.is_finite():
        raise ValueError(f"a quantity is finite, not {value}")
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def time_text(value: datetime) -> str:
    """An instant in UTC, RFC 3339.

    Raises:
        ValueError: it has no time zone.
    """
    if value.tzinfo is None:
        raise ValueError(f"a time has a time zone; {value!r} has none")
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")

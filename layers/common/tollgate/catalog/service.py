"""Use cases of the catalog over a `Catalog` store."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol, TypeVar

from tollgate.catalog.life import SUBSCRIBED, SYSTEM, Who
from tollgate.catalog.model import (
    BillingPeriod,
    Customer,
    Feature,
    Plan,
    PlanFeature,
    Subscription,
    SubscriptionStatus,
    plan_faults,
    plan_to_dict,
)
from tollgate.catalog.periods import Interval, local_days_later, time_zone
from tollgate.catalog.snapshots import Gates, Snapshots, publish
from tollgate.kernel.errors import Conflict, FieldError, InvalidInput, NotFound
from tollgate.kernel.ids import derived_id, new_id
from tollgate.kernel.time import Clock

__all__ = [
    "MAX_PAST_PERIODS",
    "MAX_PLAN_BYTES",
    "Catalog",
    "customer",
    "feature",
    "plan",
    "put_customer",
    "put_feature",
    "put_plan",
    "subscribe",
    "subscribe_many",
    "subscription",
]

Thing = TypeVar("Thing")

_TRIES: Final = 20
_MAX_SUBSCRIPTIONS: Final = 100
MAX_PAST_PERIODS: Final = 10_000
"""Billing periods that a new subscription may have behind it: each of them is billed, one by one."""
_SHORTEST_DAYS: Final = {Interval.DAY: 1, Interval.WEEK: 7, Interval.MONTH: 28, Interval.YEAR: 365}
MAX_PLAN_BYTES: Final = 300_000  # of the 400 KB of an item
_CLOCK_SKEW: Final = timedelta(minutes=5)


class Catalog(Snapshots, Protocol):
    """What the use cases need of a store; a method returns False when another writer was first."""

    def save_feature(self, feature: Feature) -> bool:
        """Write a feature, unless one with another type, aggregation or dedupe is there."""

    def add_plan_version(self, plan: Plan) -> bool:
        """Write a version and make it the latest, if the version before it is the latest now."""

    def save_customer(self, customer: Customer) -> None:
        """Write a customer."""

    def subscriptions(self, customer_id: str) -> tuple[Subscription, ...]:
        """All subscriptions of a customer, as the last write left them."""

    def subscription(self, subscription_id: str) -> Subscription | None:
        """The subscription, if there is one."""

    def add_subscription(self, subscription: Subscription, who: Who = SUBSCRIBED) -> bool:
        """Write a new subscription, if its id is free and the customer's others are as last read."""


def put_feature(catalog: Catalog, feature: Feature) -> Feature:
    """Create a feature, or change its name or unit.

    Raises:
        Conflict: it exists with another type, aggregation or dedupe, on which counts rest.
    """
    if not catalog.save_feature(feature):
        raise Conflict(
            f"The feature {feature.code} exists with another type, aggregation or dedupe, "
            "which never change: make a feature with another code."
        )
    return feature


def feature(catalog: Catalog, code: str) -> Feature:
    """A feature, or NotFound."""
    return _found(catalog.feature(code), "feature", code)


def put_plan(catalog: Catalog, plan: Plan, faults: tuple[FieldError, ...] = ()) -> Plan:
    """Make a new version of a plan, or give back the latest when nothing in it differs.

    Raises:
        InvalidInput: the rules of `plan_faults` are broken; `faults` are all faults, if some were found before.
        Conflict: others kept writing versions of this plan.
    """
    if found := faults or tuple(plan_faults(plan)):
        raise InvalidInput(found)
    if (size := len(json.dumps(plan_to_dict(plan)))) > MAX_PLAN_BYTES:
        raise InvalidInput([FieldError("", f"the plan has {size} bytes; at most {MAX_PLAN_BYTES} are kept")])
    for _ in range(_TRIES):
        latest = catalog.plan(plan.code)
        if latest is not None and _same(plan, latest):
            return latest
        candidate = replace(plan, version=latest.version + 1 if latest else 1)
        if catalog.add_plan_version(candidate):
            return candidate
    raise Conflict(f"Others are changing the plan {plan.code} now; send the request again.")


def _same(plan: Plan, other: Plan) -> bool:
    """Whether two versions grant the same; the names of features may have changed since."""

    def terms(version: Plan) -> list[PlanFeature]:
        return [replace(granted, feature=replace(granted.feature, name="", unit=None)) for granted in version.features]

    return replace(plan, version=0, features=()) == replace(other, version=0, features=()) and terms(plan) == terms(
        other
    )


def plan(catalog: Catalog, code: str, version: int | None = None) -> Plan:
    """A version of a plan (None: the latest), or NotFound."""
    return _found(catalog.plan(code, version), "plan", code if version is None else f"{code} version {version}")


def put_customer(catalog: Catalog, customer: Customer) -> Customer:
    """Create or replace a customer; the periods of running subscriptions keep their time zone.

    Raises:
        InvalidInput: the time zone is not one of the IANA database.
    """
    try:
        time_zone(customer.timezone)
    except ValueError as error:
        raise InvalidInput([FieldError("/timezone", str(error))]) from None
    catalog.save_customer(customer)
    return customer


def customer(catalog: Catalog, customer_id: str) -> Customer:
    """A customer, or NotFound."""
    return _found(catalog.customer(customer_id), "customer", customer_id)


def subscribe_many(
    catalog: Catalog, customers: Sequence[Customer], *, plan: str, starts_at: datetime, clock: Clock
) -> list[tuple[Customer, Subscription]]:
    """Each customer with a first subscription to a plan's latest version, `sub-` and its id; writes nothing.

    Raises:
        NotFound: there is no such plan.
    """
    chosen = _found(catalog.plan(plan), "plan", plan)
    return [(one, _subscription(one, f"sub-{one.id}", "", chosen, clock(), starts_at, None)) for one in customers]


def subscribe(
    catalog: Catalog,
    *,
    customer: str,
    plan: str,
    gates: Gates,
    clock: Clock,
    subscription_id: str | None = None,
    idempotency_key: str | None = None,
    starts_at: datetime | None = None,
    trial_days: int | None = None,
    ends_at: datetime | None = None,
    actor: str = SYSTEM,
) -> Subscription:
    """Put a customer on the latest version of a plan, until `ends_at` or until it is cancelled.

    The same request with the same id or idempotency key gives the subscription it made the first time.

    Raises:
        InvalidInput: no such customer or plan, or a start in the future.
        Conflict: the id or key belongs to another request.
    """
    request = [customer, plan, starts_at.isoformat() if starts_at else None, trial_days]
    request += [ends_at.isoformat()] if ends_at else []
    digest = hashlib.sha256(json.dumps(request).encode()).hexdigest()
    if subscription_id is not None and idempotency_key is not None:
        raise InvalidInput([FieldError("/id", "give an id or an Idempotency-Key, not both: either names the request")])
    if subscription_id is None:
        subscription_id = derived_id("sub", idempotency_key) if idempotency_key else new_id("sub")
    for _ in range(_TRIES):
        existing = catalog.subscription(subscription_id)
        if existing is not None:
            if existing.request_digest != digest:
                raise Conflict(f"The subscription {subscription_id} was made by another request.")
            publish(customer, snapshots=catalog, gates=gates, clock=clock)  # it may have broken off
            return existing
        made = _new_subscription(
            catalog, subscription_id, digest, customer, plan, clock(), starts_at, trial_days, ends_at
        )
        if catalog.add_subscription(made, Who(actor, SUBSCRIBED.reason)):
            publish(customer, snapshots=catalog, gates=gates, clock=clock)
            return made
    raise Conflict(f"Others are changing the subscriptions of {customer} now; send the request again.")


def _new_subscription(
    catalog: Catalog,
    subscription_id: str,
    digest: str,
    customer_id: str,
    plan_code: str,
    now: datetime,
    starts_at: datetime | None,
    trial_days: int | None,
    ends_at: datetime | None,
) -> Subscription:
    owner, chosen = catalog.customer(customer_id), catalog.plan(plan_code)
    faults = [
        *([] if owner else [FieldError("/customer", f"there is no customer {customer_id}")]),
        *([] if chosen else [FieldError("/plan", f"there is no plan {plan_code}")]),
    ]
    if starts_at is not None and starts_at > now + _CLOCK_SKEW:
        faults.append(FieldError("/starts_at", "must not lie in the future"))
    if starts_at is not None and chosen and starts_at < _earliest_start(chosen.billing_period, now):
        faults.append(FieldError("/starts_at", f"must lie at most {MAX_PAST_PERIODS:,} billing periods back"))
    if ends_at is not None and ends_at <= (starts_at or now):
        faults.append(FieldError("/ends_at", "must lie after the start"))
    if owner and len(catalog.subscriptions(customer_id)) >= _MAX_SUBSCRIPTIONS:
        faults.append(FieldError("/customer", f"has {_MAX_SUBSCRIPTIONS} subscriptions, and no room for more"))
    if faults or owner is None or chosen is None:
        raise InvalidInput(faults)
    made = _subscription(owner, subscription_id, digest, chosen, now, starts_at, trial_days)
    if ends_at is not None:
        made = replace(made, ends_at=ends_at, ends_as=SubscriptionStatus.EXPIRED, term=ends_at)
    try:
        made.period(now)
    except InvalidInput:
        raise InvalidInput([FieldError("/starts_at", "lies too near the end of the calendar")]) from None
    return made


def _earliest_start(period: BillingPeriod, now: datetime) -> datetime:
    """So many of the shortest such periods ago; a period of years reaches back beyond the calendar."""
    try:
        return now - timedelta(days=_SHORTEST_DAYS[period.interval] * period.count * MAX_PAST_PERIODS)
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)


def _subscription(
    owner: Customer,
    subscription_id: str,
    digest: str,
    chosen: Plan,
    now: datetime,
    starts_at: datetime | None,
    trial_days: int | None,
) -> Subscription:
    start = starts_at or now.replace(microsecond=0)  # events tell their time to the second
    days = chosen.trial_days if trial_days is None else trial_days
    trial_ends_at = local_days_later(start, owner.timezone, days) if days else None
    return Subscription(
        id=subscription_id,
        customer=owner.id,
        plan=chosen.code,
        plan_version=chosen.version,
        starts_at=start,
        anchor=trial_ends_at or start,
        timezone=owner.timezone,
        billing_period=chosen.billing_period,
        state=SubscriptionStatus.ACTIVE,
        created_at=now,
        request_digest=digest,
        trial_ends_at=trial_ends_at,
    )


def subscription(catalog: Catalog, subscription_id: str) -> Subscription:
    """A subscription, or NotFound."""
    return _found(catalog.subscription(subscription_id), "subscription", subscription_id)


def _found(thing: Thing | None, kind: str, name: str) -> Thing:
    if thing is None:
        raise NotFound(f"There is no {kind} {name}.")
    return thing

"""Use cases that change a subscription: another plan, a pause, its end.

Each is one conditional write of the subscription, an entry of its history and the instant at which billing must look
at it; then its customer's gates are published, which is where a check and a count read it. What happened by itself
meanwhile (a trial or a term that ended, a planned change, a grace that is over) is written down before.
"""

from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, Protocol

from tollgate.catalog.life import (
    Entry,
    Life,
    Made,
    When,
    Who,
    as_it_stands,
    cancel,
    change,
    overdue,
    pause,
    recover,
    resume,
    unpaid,
)
from tollgate.catalog.model import Plan, Subscription, SubscriptionStatus
from tollgate.catalog.periods import Period
from tollgate.catalog.snapshots import Gates, Snapshots, publish
from tollgate.kernel.errors import Conflict, FieldError, InvalidInput, NotFound
from tollgate.kernel.time import Clock

__all__ = [
    "Lives",
    "Readings",
    "cancel_subscription",
    "catch_up",
    "change_plan",
    "find_life",
    "mark_past_due",
    "mark_recovered",
    "pause_subscription",
    "resume_subscription",
]

_TRIES: Final = 20

Readings = Callable[[Subscription, Period, Collection[str]], Mapping[str, Decimal]]
"""The usage of some features in a period, as it is now."""


class Lives(Snapshots, Protocol):
    """What the use cases need of a store."""

    def life(self, subscription_id: str) -> Life | None:
        """A subscription with its history and standing, if there is one."""

    def change_life(self, before: Life, after: Subscription, entry: Entry) -> bool:
        """Write a change of a subscription with its entry, if nothing of it has changed since it was read."""


def find_life(lives: Lives, subscription_id: str) -> Life:
    """A subscription with its history and standing, or NotFound."""
    found = lives.life(subscription_id)
    if found is None:
        raise NotFound(f"There is no subscription {subscription_id}.")
    return found


def change_plan(
    lives: Lives,
    subscription_id: str,
    *,
    plan: str,
    when: When,
    who: Who,
    readings: Readings,
    gates: Gates,
    clock: Clock,
) -> Subscription:
    """Put a subscription on the latest version of a plan, at once or when the period ends.

    At once, what is left of the base price is given back and that of the new plan charged for the rest of the period,
    which stays as it is; usage until then is charged by the plan it was used under. A plan of another billing period
    ends the period and begins its own.

    Raises:
        NotFound: there is no such subscription.
        InvalidInput: there is no such plan, or it has another currency.
        Conflict: the subscription has ended, or ends before it would change.
    """
    chosen = lives.plan(plan)
    if chosen is None:
        raise InvalidInput([FieldError("/plan", f"there is no plan {plan}")])

    def make(life: Life, at: datetime) -> Made | None:
        present = _plan(lives, life.subscription)
        if present.currency != chosen.currency:
            detail = (
                f"{plan} is in {chosen.currency}, the subscription in {present.currency}: make another subscription"
            )
            raise InvalidInput([FieldError("/plan", detail)])
        read: Mapping[str, Decimal] = {}
        if when is When.NOW and present.billing_period == chosen.billing_period:
            read = readings(life.subscription, life.subscription.period(at), _repriced(present, chosen))
        return change(life, chosen, when, who, at=at, readings=read)

    return _changed(lives, subscription_id, make, who, gates=gates, clock=clock)


def _repriced(before: Plan, after: Plan) -> list[str]:
    """The features that cost something else by another plan version."""
    codes = {granted.feature.code: None for plan in (before, after) for granted in plan.features if granted.price}

    def price(plan: Plan, code: str) -> object:
        granted = plan.feature(code)
        return granted.price if granted else None

    return [code for code in codes if price(before, code) != price(after, code)]


def cancel_subscription(
    lives: Lives, subscription_id: str, *, when: When, who: Who, gates: Gates, clock: Clock
) -> Subscription:
    """End a subscription, at once or with its period.

    Raises:
        NotFound: there is no such subscription.
        Conflict: it has ended.
    """
    return _changed(
        lives, subscription_id, lambda life, at: cancel(life, when, who, at=at), who, gates=gates, clock=clock
    )


def pause_subscription(lives: Lives, subscription_id: str, *, who: Who, gates: Gates, clock: Clock) -> Subscription:
    """Grant nothing and charge no base price from now on.

    Raises:
        NotFound: there is no such subscription.
        Conflict: it is paused, or has ended.
    """
    return _changed(lives, subscription_id, lambda life, at: pause(life, who, at=at), who, gates=gates, clock=clock)


def resume_subscription(lives: Lives, subscription_id: str, *, who: Who, gates: Gates, clock: Clock) -> Subscription:
    """End a pause; or withdraw the cancellation that was planned.

    Raises:
        NotFound: there is no such subscription.
        Conflict: it is neither paused nor to be cancelled, has ended, or is paused and an invoice is past due.
    """
    return _changed(lives, subscription_id, lambda life, at: resume(life, who, at=at), who, gates=gates, clock=clock)


def mark_past_due(lives: Lives, subscription_id: str, *, who: Who, gates: Gates, clock: Clock) -> Subscription:
    """Say that an invoice could not be collected: the grace of the plan begins, unless it is paused or has ended."""

    def make(life: Life, at: datetime) -> Made | None:
        return unpaid(life, _plan(lives, life.subscription).grace_days, who, at=at)

    return _changed(lives, subscription_id, make, who, gates=gates, clock=clock)


def mark_recovered(lives: Lives, subscription_id: str, *, who: Who, gates: Gates, clock: Clock) -> Subscription:
    """Say that nothing is past due any more: active again, also where it was paused for that and not by a person.

    A grace that is over and has not been acted upon ends nothing then: it was active again by the last of it, and
    what was to come after that comes.
    """

    def make(life: Life, at: datetime) -> Made | None:
        return recover(life, who, at=max(at, life.history[-1].at), now=clock())

    return _changed(lives, subscription_id, make, who, gates=gates, clock=clock, within=_within_grace)


def _within_grace(life: Life, now: datetime) -> datetime:
    one = life.subscription
    if one.state is not SubscriptionStatus.PAST_DUE or one.grace_until is None:
        return now
    return min(now, one.grace_until - timedelta(microseconds=1))


def catch_up(lives: Lives, life: Life, by: datetime, *, gates: Gates, clock: Clock) -> bool:
    """Write down the first of what happened by itself up to an instant; False where there was nothing."""
    if overdue(life, by) is None:
        return False
    planned = life.subscription.planned
    plan = lives.plan(planned.plan, planned.plan_version) if planned else None
    made = as_it_stands(life, _plan(lives, life.subscription).after_grace, by, now=clock(), plan=plan)
    if made is not None:
        lives.change_life(life, *made)
        # Also where it says that another was first: that is what is said to one whose answer was lost.
        publish(life.subscription.customer, snapshots=lives, gates=gates, clock=clock)
    return True


def _changed(
    lives: Lives,
    subscription_id: str,
    make: Callable[[Life, datetime], Made | None],
    who: Who,
    *,
    gates: Gates,
    clock: Clock,
    within: Callable[[Life, datetime], datetime] = lambda _, now: now,
) -> Subscription:
    for _ in range(_TRIES):
        life, now = find_life(lives, subscription_id), clock()
        by = within(life, now)
        if _is_answered(life, who) or not catch_up(lives, life, by, gates=gates, clock=clock):
            made = None if _is_answered(life, who) else make(life, life.earliest(by))
            if made is None or lives.change_life(life, *made):
                # Where there was nothing to change, the publication of the first time may have broken off.
                publish(life.subscription.customer, snapshots=lives, gates=gates, clock=clock)
                return made[0] if made else life.subscription
    raise Conflict(f"Others are changing the subscription {subscription_id} now; send the request again.")


def _is_answered(life: Life, who: Who) -> bool:
    """Whether this very request has been carried out before.

    Raises:
        Conflict: another request had the same Idempotency-Key.
    """
    if who.request is None:
        return False
    key, digest = who.request
    known = next((entry.request for entry in life.history if entry.request and entry.request[0] == key), None)
    if known is not None and known[1] != digest:
        raise Conflict("Another request was sent with this Idempotency-Key.")
    return known is not None


def _plan(lives: Lives, subscription: Subscription) -> Plan:
    plan = lives.plan(subscription.plan, subscription.plan_version)
    if plan is None:
        raise NotFound(f"There is no plan {subscription.plan} version {subscription.plan_version}.")
    return plan

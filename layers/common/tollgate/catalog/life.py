"""The life of a subscription: its states, its history, and when billing must look at it. Pure.

                     the trial ends
         trialing ------------------> active <---------> past_due
            |  ^                        |  ^    paid        |
            |  | resumed                |  | resumed        |
            v  |                        v  |                |
            +--+------- paused <--------+--+----------------+
                          |
    any of them ----------+----------> cancelled, expired

Each change is an entry of the history, which says what is in force from its instant on. The history is what billing
computes from: which plan held when, what was charged in advance, and what part of it was not used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from tollgate.catalog.model import (
    ENDED,
    AfterGrace,
    BillingPeriod,
    Plan,
    PlannedChange,
    Stretch,
    Subscription,
    SubscriptionStatus,
)
from tollgate.catalog.periods import Period, local_days_later
from tollgate.kernel.errors import Conflict
from tollgate.kernel.money import format_decimal
from tollgate.kernel.time import format_time, parse_time

__all__ = [
    "LATEST_EVENT",
    "SUBSCRIBED",
    "SYSTEM",
    "TRANSITIONS",
    "Action",
    "Entry",
    "Life",
    "Made",
    "Standing",
    "When",
    "Who",
    "as_it_stands",
    "boundary",
    "cancel",
    "change",
    "created",
    "due_at",
    "entry_from_dict",
    "entry_to_dict",
    "overdue",
    "pause",
    "recover",
    "resume",
    "unpaid",
]

_Status = SubscriptionStatus

TRANSITIONS: Final[Mapping[_Status, frozenset[_Status]]] = {
    _Status.TRIALING: frozenset({_Status.ACTIVE, _Status.PAUSED, *ENDED}),
    _Status.ACTIVE: frozenset({_Status.PAST_DUE, _Status.PAUSED, *ENDED}),
    _Status.PAST_DUE: frozenset({_Status.ACTIVE, _Status.PAUSED, *ENDED}),
    _Status.PAUSED: frozenset({_Status.TRIALING, _Status.ACTIVE, *ENDED}),
    _Status.CANCELLED: frozenset(),
    _Status.EXPIRED: frozenset(),
}

LATEST_EVENT: Final = timedelta(days=35, hours=1)
"""After an instant has passed so long ago, no event of it can be counted any more."""

MAX_CHANGES: Final = 100
"""Of plan, in twice the time that events may be late: the snapshot of a customer has them all, and is one item."""

_INSTANT: Final = timedelta(microseconds=1)


class When(StrEnum):
    """When a change takes effect."""

    NOW = "now"
    PERIOD_END = "period_end"


class Action(StrEnum):
    """What an entry of the history tells of."""

    CREATED = "created"
    TRIAL_ENDED = "trial_ended"
    CHANGE_PLANNED = "change_planned"
    CHANGED = "changed"
    PAUSED = "paused"
    RESUMED = "resumed"
    CANCEL_PLANNED = "cancel_planned"
    CANCEL_WITHDRAWN = "cancel_withdrawn"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    PAST_DUE = "past_due"
    RECOVERED = "recovered"


@dataclass(frozen=True, slots=True)
class Entry:
    """A change, and what is in force from `at` on.

    Attributes:
        recorded_at: when it was written; of what happens by itself, later than `at`.
        before: the status until then; None of the first entry.
        actor: an API key, or "system".
        readings: of a change of plan within a period: the usage of the period until then, by feature.
        request: the Idempotency-Key and a digest of the request, if there was a key.
    """

    number: int
    at: datetime
    recorded_at: datetime
    action: Action
    before: SubscriptionStatus | None
    after: SubscriptionStatus
    actor: str
    reason: str
    plan: str
    plan_version: int
    readings: Mapping[str, Decimal] = field(default_factory=dict)
    request: tuple[str, str] | None = None

    @property
    def is_charged(self) -> bool:
        """Whether the base price is charged for the time that follows."""
        return self.after in {SubscriptionStatus.ACTIVE, SubscriptionStatus.PAST_DUE}


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a subscription has been billed; written on condition of its revision, as every change is.

    Attributes:
        entries: how many entries the history has.
        billed_until: all before is invoiced; None before the first look.
        invoice: one that has been drafted and not yet been dealt with to its end.
        is_settled: it has ended, and no usage of it can come any more.
    """

    customer: str
    revision: int = 0
    entries: int = 0
    billed_until: datetime | None = None
    invoice: str | None = None
    is_settled: bool = False


@dataclass(frozen=True, slots=True)
class Life:
    """A subscription with its history and how far it has been billed."""

    subscription: Subscription
    standing: Standing
    history: tuple[Entry, ...]

    def earliest(self, now: datetime) -> datetime:
        """The instant that a change takes effect at now: what is billed is never changed."""
        billed = self.standing.billed_until or self.subscription.starts_at
        return max(now, billed + _INSTANT)


@dataclass(frozen=True, slots=True)
class Who:
    """Who asks for a change and why; `request` is the Idempotency-Key and a digest of the request."""

    actor: str
    reason: str
    request: tuple[str, str] | None = None


SYSTEM: Final = "system"
SUBSCRIBED: Final = Who(SYSTEM, "subscribed")

Made = tuple[Subscription, Entry]
"""A subscription as a change leaves it, and the change's entry."""


def created(subscription: Subscription, who: Who) -> Entry:
    """The first entry."""
    status = _Status.TRIALING if subscription.trial_ends_at else _Status.ACTIVE
    return Entry(
        1,
        subscription.starts_at,
        subscription.created_at,
        Action.CREATED,
        None,
        status,
        who.actor,
        who.reason,
        subscription.plan,
        subscription.plan_version,
    )


def change(
    life: Life, chosen: Plan, when: When, who: Who, *, at: datetime, readings: Mapping[str, Decimal] | None = None
) -> Made | None:
    """Another plan version, at once or at the end of the period; None where that is what there is or is planned.

    Raises:
        Conflict: it has ended, ends before the change would take effect, or was changed too often.
    """
    before = life.subscription
    _require(before, at, _Status.ACTIVE, f"be changed to {chosen.code}", to_itself=True)
    same = (before.plan, before.plan_version) == (chosen.code, chosen.version)
    if when is When.NOW:
        if same and before.planned is None:
            return None
        after = _on_plan(life, chosen.code, chosen.version, chosen.billing_period, at)
        return after, _entry(life, after, Action.CHANGED, who, at=at, readings=readings)
    end = before.period(at).end
    if before.ends_at is not None and before.ends_at <= end:
        raise Conflict(f"The subscription {before.id} ends at {format_time(before.ends_at)}, before it would change.")
    planned = None if same else PlannedChange(end, chosen.code, chosen.version)
    if planned == before.planned:
        return None
    if planned is not None:
        _on_plan(life, chosen.code, chosen.version, chosen.billing_period, end)  # there must be room for it then
    after = replace(before, planned=planned)
    return after, _entry(life, after, Action.CHANGE_PLANNED, who, at=at)


def cancel(life: Life, when: When, who: Who, *, at: datetime) -> Made | None:
    """The end, at once or with the period; None where it ends then already.

    Raises:
        Conflict: it has ended.
    """
    before = life.subscription
    _require(before, at, _Status.CANCELLED, "be cancelled")
    if when is When.NOW:
        after = replace(
            before, state=_Status.CANCELLED, ends_at=at, ends_as=_Status.CANCELLED, planned=None, grace_until=None
        )
        return after, _entry(life, after, Action.CANCELLED, who, at=at)
    end = before.period(at).end
    if before.ends_at is not None and before.ends_at <= end:
        return None
    after = replace(before, ends_at=end, ends_as=_Status.CANCELLED, planned=None)
    return after, _entry(life, after, Action.CANCEL_PLANNED, who, at=at)


def pause(life: Life, who: Who, *, at: datetime) -> Made:
    """No access and no base price from now on; usage that comes all the same is charged.

    Raises:
        Conflict: it is paused, or has ended.
    """
    before = life.subscription
    _require(before, at, _Status.PAUSED, "be paused")
    after = replace(before, state=_Status.PAUSED)
    return after, _entry(life, after, Action.PAUSED, who, at=at)


def resume(life: Life, who: Who, *, at: datetime) -> Made:
    """Out of a pause; or, where it is not paused, the withdrawal of its cancellation: a fixed term holds again.

    Raises:
        Conflict: there is nothing to resume, or an invoice is past due: that is paid first.
    """
    before = life.subscription
    if before.status(at) not in ENDED | {_Status.PAUSED} and before.ends_at != before.term:
        ends_as = _Status.EXPIRED if before.term else _Status.CANCELLED
        after = replace(before, ends_at=before.term, ends_as=ends_as)
        return after, _entry(life, after, Action.CANCEL_WITHDRAWN, who, at=at)
    if before.status(at) is not _Status.PAUSED:
        _refuse(before, at, "be resumed")
    if before.grace_until is not None:
        detail = "is paused and cannot be resumed while an invoice is past due; possible: cancelled"
        raise Conflict(f"The subscription {before.id} {detail}.")
    after = replace(before, state=_Status.ACTIVE)
    return after, _entry(life, after, Action.RESUMED, who, at=at)


def unpaid(life: Life, grace_days: int, who: Who, *, at: datetime) -> Made | None:
    """An invoice could not be collected: its grace begins; None where that is known of it, or it has ended.

    One that is paused stays so, and is not resumed before the invoice is paid.
    """
    before, status = life.subscription, life.subscription.status(at)
    if status not in {_Status.ACTIVE, _Status.PAUSED} or before.grace_until is not None:
        return None
    state = _Status.PAST_DUE if status is _Status.ACTIVE else _Status.PAUSED
    after = replace(before, state=state, grace_until=local_days_later(at, before.timezone, grace_days))
    return after, _entry(life, after, Action.PAST_DUE, who, at=at)


def recover(life: Life, who: Who, *, at: datetime, now: datetime | None = None) -> Made | None:
    """All that was past due is paid, as is written down at now; None where nothing was.

    What a person has paused stays paused; it can be resumed again.
    """
    before = life.subscription
    status = before.status(at)
    if status not in {_Status.PAST_DUE, _Status.PAUSED} or before.grace_until is None:
        return None
    pauses = (entry for entry in reversed(life.history) if entry.action is Action.PAUSED)
    stays = status is _Status.PAUSED and next(pauses).actor != SYSTEM
    after = replace(before, state=_Status.PAUSED if stays else _Status.ACTIVE, grace_until=None)
    return after, _entry(life, after, Action.RECOVERED, who, at=at, now=now)


def overdue(life: Life, by: datetime) -> datetime | None:
    """The first instant up to `by` at which something happened by itself that the history lacks."""
    instants = [at for at, _ in _by_itself(life) if at <= by]
    return min(instants, default=None)


def as_it_stands(life: Life, after_grace: AfterGrace, by: datetime, *, now: datetime, plan: Plan | None) -> Made | None:
    """The first of what happened by itself up to `by`; None where there is nothing.

    Args:
        life: the subscription.
        after_grace: what becomes of it when its grace is over.
        by: as far as is looked.
        now: when it is written down.
        plan: the version that is planned, if one is.
    """
    happened = [(at, action) for at, action in _by_itself(life) if at <= by]
    if not happened:
        return None
    at, action = min(happened, key=lambda one: one[0])
    before = life.subscription
    match action:
        case Action.TRIAL_ENDED:
            return before, _entry(life, before, action, Who(SYSTEM, "the trial has ended"), at=at, now=now)
        case Action.CHANGED:
            assert plan is not None, "a plan version is never deleted"
            after = _on_plan(life, plan.code, plan.version, plan.billing_period, at)
            return after, _entry(life, after, action, Who(SYSTEM, "as planned"), at=at, now=now)
        case Action.PAST_DUE:
            who = Who(SYSTEM, "an invoice is past due, and its grace is over")
            if after_grace is AfterGrace.PAUSE:
                after = replace(before, state=_Status.PAUSED)
                return after, _entry(life, after, Action.PAUSED, who, at=at, now=now)
            after = replace(before, state=_Status.CANCELLED, ends_at=at, ends_as=_Status.CANCELLED, planned=None)
            return after, _entry(life, after, Action.CANCELLED, who, at=at, now=now)
    after = replace(before, state=before.ends_as, planned=None)
    done = Action.EXPIRED if before.ends_as is _Status.EXPIRED else Action.CANCELLED
    reason = "its term is over" if done is Action.EXPIRED else "as planned"
    return after, _entry(life, after, done, Who(SYSTEM, reason), at=at, now=now)


def _by_itself(life: Life) -> list[tuple[datetime, Action]]:
    """What happens with no request, and when."""
    one = life.subscription
    if one.state in ENDED:
        return []
    is_trialing = one.state is _Status.ACTIVE and life.history[-1].after is _Status.TRIALING
    instants = [
        (one.trial_ends_at if is_trialing else None, Action.TRIAL_ENDED),
        (one.planned.at if one.planned else None, Action.CHANGED),
        (one.grace_until if one.state is _Status.PAST_DUE else None, Action.PAST_DUE),
        (one.ends_at, Action.CANCELLED),
    ]
    return [(at, action) for at, action in instants if at is not None]


def boundary(life: Life) -> Period | None:
    """What is to be closed next: the period or what there was of it; None when all is billed.

    The first look is at the instant of the start, [start, start). After the end follows the time in which usage may
    still come.
    """
    one, standing = life.subscription, life.standing
    if standing.is_settled:
        return None
    if standing.billed_until is None:
        return Period(one.starts_at, one.starts_at)
    whole = one.period(standing.billed_until)
    if one.state in ENDED and one.ends_at is not None:
        if standing.billed_until >= one.ends_at:
            return Period(one.ends_at, one.ends_at + LATEST_EVENT)
        return Period(whole.start, min(whole.end, one.ends_at))
    return whole


def due_at(life: Life) -> datetime | None:
    """When billing must look at it next."""
    if life.standing.invoice is not None:
        return life.standing.billed_until
    next_one = boundary(life)
    if next_one is None:
        return None
    if life.standing.billed_until is None and life.subscription.trial_ends_at is not None:
        next_one = life.subscription.period(life.subscription.starts_at)  # nothing is billed when a trial begins
    return min([next_one.end, *(at for at, _ in _by_itself(life))])


def _on_plan(life: Life, plan: str, version: int, unit: BillingPeriod, at: datetime) -> Subscription:
    """Another plan version from an instant on; another billing period begins there, unless there is a trial."""
    before = life.subscription
    until = Stretch(at, before.plan, before.plan_version, before.anchor, before.billing_period)
    needed = min(at, life.standing.billed_until or before.starts_at) - 2 * LATEST_EVENT
    kept = tuple(one for one in before.earlier if one.until > needed)
    if len(kept) >= MAX_CHANGES:
        raise Conflict(f"The plan of {before.id} was changed {MAX_CHANGES} times of late: no more for now.")
    restarts = unit != before.billing_period and at >= before.anchor
    return replace(
        before,
        plan=plan,
        plan_version=version,
        billing_period=unit,
        anchor=at if restarts else before.anchor,
        earlier=(*kept, until),
        planned=None,
    )


def _entry(
    life: Life,
    after: Subscription,
    action: Action,
    who: Who,
    *,
    at: datetime,
    now: datetime | None = None,
    readings: Mapping[str, Decimal] | None = None,
) -> Entry:
    before, status = life.history[-1].after, after.status(at)
    if status is not before and status not in TRANSITIONS[before]:
        raise Conflict(f"The subscription {after.id} is {before} and cannot become {status}.")
    return Entry(
        life.standing.entries + 1,
        at,
        now or at,
        action,
        before,
        status,
        who.actor,
        who.reason,
        after.plan,
        after.plan_version,
        readings or {},
        who.request,
    )


def _require(
    subscription: Subscription, at: datetime, status: SubscriptionStatus, what: str, *, to_itself: bool = False
) -> None:
    present = subscription.status(at)
    if status not in TRANSITIONS[present] and not (to_itself and present not in ENDED):
        _refuse(subscription, at, what)


def _refuse(subscription: Subscription, at: datetime, what: str) -> None:
    present = subscription.status(at)
    possible = ", ".join(sorted(TRANSITIONS[present])) or "none"
    raise Conflict(f"The subscription {subscription.id} is {present} and cannot {what}; possible: {possible}.")


def entry_to_dict(entry: Entry) -> dict[str, Any]:
    """An entry as the API shows it."""
    return {
        "number": entry.number,
        "at": format_time(entry.at),
        "recorded_at": format_time(entry.recorded_at),
        "action": entry.action.value,
        "from": entry.before.value if entry.before else None,
        "to": entry.after.value,
        "actor": entry.actor,
        "reason": entry.reason,
        "plan": {"code": entry.plan, "version": entry.plan_version},
        "readings": {feature: format_decimal(quantity) for feature, quantity in entry.readings.items()},
    }


def entry_from_dict(body: Mapping[str, Any], request: Sequence[str] | None = None) -> Entry:
    """Read back what `entry_to_dict` wrote, with what it does not show."""
    return Entry(
        number=body["number"],
        at=parse_time(body["at"]),
        recorded_at=parse_time(body["recorded_at"]),
        action=Action(body["action"]),
        before=SubscriptionStatus(body["from"]) if body["from"] else None,
        after=SubscriptionStatus(body["to"]),
        actor=body["actor"],
        reason=body["reason"],
        plan=body["plan"]["code"],
        plan_version=body["plan"]["version"],
        readings={feature: Decimal(quantity) for feature, quantity in body["readings"].items()},
        request=(request[0], request[1]) if request else None,
    )

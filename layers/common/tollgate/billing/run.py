"""Billing a subscription: what has ended is closed, invoiced and collected, one period after the other.

Each step is one conditional write, and what is to be done next follows from what is stored: whoever begins again after
a death, a lost answer or a race goes on where it stands.

1. *Close*: the counters of the period, which are then final; the same however often.
2. *Draft*: the invoice with its lines, and the subscription's standing with it: a period is drafted once.
3. *Settle*: late usage that is on the invoice is told to metering as billed; the same however often.
4. *Open*: the invoice gets its number.
5. *Collect*, once more if that broke off: a payment is made once whatever happens (billing/payments).
6. The standing says that the invoice has been dealt with; then the next period.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Protocol

from tollgate.billing.invoices import (
    COLLECTIBLE,
    Invoice,
    InvoiceLine,
    InvoiceStatus,
    Late,
    Transition,
    invoice_id,
    move,
    paid,
)
from tollgate.billing.lines import (
    LateUsage,
    closing_lines,
    in_force,
    is_charged_in,
    late_lines,
    opening_lines,
    priced_features,
    total_of,
)
from tollgate.catalog.life import SYSTEM, Life, Who, as_it_stands, boundary, due_at, overdue
from tollgate.catalog.model import ENDED, Plan, SubscriptionStatus
from tollgate.catalog.periods import Period
from tollgate.catalog.snapshots import Gates
from tollgate.catalog.subscriptions import Lives, catch_up, find_life, mark_past_due, mark_recovered
from tollgate.kernel.errors import Conflict, NotFound
from tollgate.kernel.money import ZERO
from tollgate.kernel.time import Clock
from tollgate.metering.model import Adjustment, CounterId, Series, Tally
from tollgate.metering.service import Counters

__all__ = ["Billed", "Billing", "Collect", "Invoices", "StandingWrite", "bill", "fall_due", "recovered", "upcoming"]

_TRIES: Final = 50
"""Steps that come to nothing because others are at work, before that is told."""

Collect = Callable[[Invoice], None]
"""Has an open invoice paid, or the customer credited where its total is below zero; or writes down that it failed.

The same invoice again is paid once. What it raises leaves the invoice to be collected again.
"""

StandingWrite = Callable[[Life], Any]
"""The write of a life's standing, which goes into one transaction with that of an invoice."""


class Invoices(Protocol):
    """What billing needs of the store of invoices."""

    def get(self, invoice_id: str) -> Invoice | None:
        """The invoice, as the last write left it."""

    def write(self, after: Invoice, also: Sequence[Any] = ()) -> bool:
        """Write an invoice in its next revision, and other items with it; False when another writer was first."""

    def open(self, after: Invoice) -> Invoice | None:
        """Write an invoice in its next revision with the next number; None when another writer was first."""

    def list(
        self,
        *,
        customer: str | None = None,
        subscription: str | None = None,
        status: InvoiceStatus | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> tuple[Sequence[Invoice], str | None]:
        """Invoices, the newest first, and where the next page begins."""


@dataclass(frozen=True, slots=True)
class Billing:
    """What billing works with."""

    lives: Lives
    invoices: Invoices
    counters: Counters
    gates: Gates
    standing_write: StandingWrite
    write_all: Callable[[Sequence[Any]], bool]
    collect: Collect
    clock: Clock

    def plan(self, code: str, version: int) -> Plan:
        """A plan version of a history: it exists."""
        found = self.lives.plan(code, version)
        if found is None:
            raise NotFound(f"There is no plan {code} version {version}.")
        return found


@dataclass(slots=True)
class Billed:
    """What came of billing a subscription: its new invoices; and whether nothing is due any more."""

    invoices: list[str]
    is_done: bool = True


def bill(
    billing: Billing, subscription_id: str, as_of: datetime, time_left: Callable[[], float] = lambda: 60.0
) -> Billed:
    """Close, invoice and collect all that ended by an instant, which is not in the future.

    Args:
        billing: the stores.
        subscription_id: which.
        as_of: up to and including.
        time_left: the seconds in which to end; periods that are left are told by `is_done`.

    Raises:
        NotFound: there is no such subscription.
        Conflict: others kept changing it.
        Unavailable: the database is busy; the same call may be made again.
    """
    done, seen, without_progress = Billed([]), -1, 0
    while without_progress < _TRIES:
        life = find_life(billing.lives, subscription_id)
        without_progress = without_progress + 1 if life.standing.revision == seen else 0
        seen = life.standing.revision
        due = due_at(life)
        if life.standing.invoice is None and (due is None or due > as_of):
            return done
        if time_left() < _SECONDS_A_PERIOD:
            done.is_done = False
            return done
        if life.standing.invoice is not None:
            _finish(billing, life, life.standing.invoice)
        elif due is not None and not _catch_up(billing, life, due):
            drafted = _close(billing, life)
            done.invoices += [drafted.id] if drafted is not None else []
    raise Conflict(f"Others are changing the subscription {subscription_id} now; send the request again.")


_SECONDS_A_PERIOD: Final = 5.0


def _catch_up(billing: Billing, life: Life, by: datetime) -> bool:
    """Write down what happened by itself; whoever has paid is not ended for a grace that is over."""
    if overdue(life, by) is None:
        return False
    is_late = (
        life.subscription.state is SubscriptionStatus.PAST_DUE and overdue(life, by) == life.subscription.grace_until
    )
    if is_late and not _past_due(billing, life.subscription.id):
        recovered(billing, life.subscription.id)
        return True
    return catch_up(billing.lives, life, by, gates=billing.gates, clock=billing.clock)


# Closing and drafting


def _close(billing: Billing, life: Life) -> Invoice | None:
    """Draft the invoice of what ends next and move the standing; None where nothing is asked for, or another did it."""
    period = boundary(life)
    assert period is not None, "a subscription that is due has something to close"
    one, standing = life.subscription, life.standing
    is_opening = standing.billed_until is None
    is_tail = one.ends_at is not None and one.state in ENDED and period.start >= one.ends_at
    late = () if is_opening else _late(billing, life)
    lines: tuple[InvoiceLine, ...]
    if is_opening:
        lines = opening_lines(life, billing.plan)
    elif is_tail:
        lines = tuple(line for usage in late for line in late_lines(life, billing.plan, usage))
    else:
        used = _close_counters(billing, life, period)
        lines = closing_lines(life, period, billing.plan, used, late)
    parts = tuple(part for usage in late for part in usage.parts)
    is_asked_for = bool(lines) or (not is_opening and not is_tail and is_charged_in(life, period))
    after = replace(
        standing,
        revision=standing.revision + 1,
        billed_until=period.end,
        is_settled=is_tail,
        invoice=invoice_id(one.id, period) if is_asked_for else None,
    )
    moved = replace(life, standing=after)
    if not is_asked_for:
        _settle(billing, life, parts)
        billing.write_all([billing.standing_write(moved)])
        return None
    draft = _draft(billing, life, period, lines, parts)
    return draft if billing.invoices.write(draft, [billing.standing_write(moved)]) else None


def _draft(
    billing: Billing, life: Life, period: Period, lines: tuple[InvoiceLine, ...], late: tuple[Late, ...]
) -> Invoice:
    one, now = life.subscription, billing.clock()
    entry = in_force(life.history, period.start)
    plan = billing.plan(entry.plan, entry.plan_version)
    return Invoice(
        id=invoice_id(one.id, period),
        customer=one.customer,
        subscription=one.id,
        plan=plan.code,
        plan_version=plan.version,
        period=period,
        currency=plan.currency,
        lines=lines,
        total=total_of(lines, plan.currency),
        created_at=now,
        late=late,
        history=(Transition(now, None, InvoiceStatus.DRAFT, SYSTEM, "the period has ended"),),
    )


def _close_counters(billing: Billing, life: Life, period: Period) -> dict[str, Decimal]:
    """The usage of a period, which is final from now on; what comes later is late usage. A trial is not closed."""
    one = life.subscription
    if one.trial_ends_at is not None and period.start < one.trial_ends_at:
        return _usage_now(billing, life, period)
    snapshot = billing.lives.snapshot(one.customer)
    used: dict[str, Decimal] = {}
    for code, plan in priced_features(life, period, billing.plan).items():
        granted = plan.feature(code)
        if granted is not None:
            counter = CounterId(one.customer, code, one.id, period.start)
            shards = snapshot.most_shards(code)
            used[code] = billing.counters.close(counter, granted.feature.aggregation, shards).quantity
    return used


def _usage_now(billing: Billing, life: Life, period: Period) -> dict[str, Decimal]:
    one, snapshot = life.subscription, billing.lives.snapshot(life.subscription.customer)
    features = priced_features(life, period, billing.plan)
    counters = [CounterId(one.customer, code, one.id, period.start) for code in features]
    tallies = billing.counters.tallies(counters, {code: snapshot.most_shards(code) for code in features})
    return {counter.feature: tally.quantity for counter, tally in tallies.items()}


def _late(billing: Billing, life: Life) -> tuple[LateUsage, ...]:
    """Usage that came after its period had been closed, by counter; the shards of a counter are one."""
    one = life.subscription
    found: dict[CounterId, list[Adjustment]] = {}
    for adjustment in billing.counters.adjustments(one.id):
        if adjustment.now.events > adjustment.closed.events:
            found.setdefault(adjustment.counter, []).append(adjustment)
    snapshot = billing.lives.snapshot(one.customer)
    usages = []
    for counter, parts in sorted(found.items(), key=lambda item: (item[0].period_start, item[0].feature)):
        period = one.period(counter.period_start)
        plan = priced_features(life, period, billing.plan).get(counter.feature)
        granted = plan.feature(counter.feature) if plan else None
        if granted is None:
            continue
        shards = snapshot.most_shards(counter.feature)
        closed = billing.counters.close(counter, granted.feature.aggregation, shards).quantity
        # What is kept in shards adds up.
        now = parts[0].now.quantity if shards == 1 else closed + sum(map(_grown, parts), ZERO)
        late = tuple(_part(part) for part in parts)
        usages.append(LateUsage(counter.feature, counter.period_start, closed, now, late))
    return tuple(usages)


def _grown(adjustment: Adjustment) -> Decimal:
    return adjustment.now.quantity - adjustment.closed.quantity


def _part(adjustment: Adjustment) -> Late:
    now = adjustment.now
    return Late(
        adjustment.counter.feature,
        adjustment.series.shard,
        adjustment.counter.period_start,
        adjustment.closed.quantity,
        now.quantity,
        (f"{now.quantity:f}", now.events, now.latest),
    )


def _settle(billing: Billing, life: Life, parts: Iterable[Late]) -> None:
    """Tell metering what has been billed."""
    one = life.subscription
    for part in parts:
        quantity, events, latest = part.tally
        series = Series(one.customer, part.feature, part.shard)
        counter = CounterId(one.customer, part.feature, one.id, part.period_start)
        now = Tally(Decimal(quantity), events, latest)
        billing.counters.settle(Adjustment(series, counter, Tally(part.closed), now))


# Opening and collecting


def _finish(billing: Billing, life: Life, name: str) -> None:
    """Do with an invoice what is left to do, up to its collection."""
    invoice = billing.invoices.get(name)
    assert invoice is not None, "it was written with the standing that names it"
    if invoice.status is InvoiceStatus.DRAFT:
        _settle(billing, life, invoice.late)
        now = billing.clock()
        if invoice.total:
            after = move(invoice, InvoiceStatus.OPEN, at=now, actor=SYSTEM, reason="billed")
        else:
            after = paid(invoice, at=now, actor=SYSTEM, reason="nothing is asked for")
        opened = billing.invoices.open(replace(after, opened_at=now))
        if opened is None:  # another run was first: it is seen at the next look
            return
        invoice = opened
    if invoice.status is InvoiceStatus.OPEN:
        billing.collect(invoice)
    standing = replace(life.standing, revision=life.standing.revision + 1, invoice=None)
    billing.write_all([billing.standing_write(replace(life, standing=standing))])


# What is to come


def upcoming(billing: Billing, subscription_id: str) -> Invoice:
    """The invoice of the period that runs, as it would be if nothing changed until its end; written nowhere.

    Raises:
        NotFound: there is no such subscription, or none of its periods is to come.
    """
    now = billing.clock()
    life = _foreseen(billing, find_life(billing.lives, subscription_id), now, now)
    one = life.subscription
    period = boundary(life) if one.state in ENDED else one.period(now)
    if period is None or (one.ends_at is not None and period.start >= one.ends_at):
        raise NotFound(f"The subscription {subscription_id} has ended: no invoice is to come.")
    if one.ends_at is not None:
        period = Period(period.start, min(period.end, one.ends_at))
    seen = _foreseen(billing, life, period.end, now)
    lines = closing_lines(seen, period, billing.plan, _usage_now(billing, seen, period), _late(billing, life))
    draft = _draft(billing, seen, period, lines, ())
    return replace(draft, history=())


def _foreseen(billing: Billing, life: Life, by: datetime, now: datetime) -> Life:
    """A life with all that will happen by itself until an instant."""
    while overdue(life, by) is not None:
        planned = life.subscription.planned
        plan = billing.plan(planned.plan, planned.plan_version) if planned else None
        present = billing.plan(life.subscription.plan, life.subscription.plan_version)
        made = as_it_stands(life, present.after_grace, by, now=now, plan=plan)
        if made is None:
            break
        after, entry = made
        standing = replace(life.standing, entries=entry.number)
        life = Life(after, standing, (*life.history, entry))
    return life


# Who does not pay


def fall_due(billing: Billing, invoice_id: str, *, reason: str) -> None:
    """Say that the last try to collect an invoice has failed: it is past due, and so is its subscription.

    Nothing where it is not open any more. The same call again completes one that broke off.
    """
    for _ in range(_TRIES):
        invoice = billing.invoices.get(invoice_id)
        if invoice is None or invoice.status not in COLLECTIBLE:
            return
        if invoice.status is InvoiceStatus.OPEN:
            after = move(invoice, InvoiceStatus.PAST_DUE, at=billing.clock(), actor=SYSTEM, reason=reason)
            if not billing.invoices.write(after):
                continue
        who = Who(SYSTEM, f"the invoice {invoice.number} is past due")
        mark_past_due(billing.lives, invoice.subscription, who=who, gates=billing.gates, clock=billing.clock)
        return
    raise Conflict(f"Others are changing the invoice {invoice_id} now; send the request again.")


def recovered(billing: Billing, subscription_id: str) -> None:
    """Have a subscription be active again whose invoices are past due no more; else nothing."""
    if not _past_due(billing, subscription_id):
        who = Who(SYSTEM, "no invoice is past due any more")
        mark_recovered(billing.lives, subscription_id, who=who, gates=billing.gates, clock=billing.clock)


def _past_due(billing: Billing, subscription_id: str) -> bool:
    """Whether an invoice is past due, or has been given up."""
    return any(
        _has_one(billing, subscription_id, status) for status in (InvoiceStatus.PAST_DUE, InvoiceStatus.UNCOLLECTIBLE)
    )


def _has_one(billing: Billing, subscription_id: str, status: InvoiceStatus) -> bool:
    after: str | None = None
    while True:  # a page may be empty: the index lags behind an invoice that has just been paid
        found, after = billing.invoices.list(subscription=subscription_id, status=status, after=after, limit=1)
        if found or after is None:
            return bool(found)

"""The lines of an invoice, computed from the history of a subscription and its usage. Pure.

An invoice closes a period and looks both ways from its end:

- *base*: the base price of the period that begins there, in advance, whole;
- *usage*: what was used in the period that ends there, in arrears, by the plan it was used under;
- *proration*: where the subscription changed within the period, the part of a base price that was charged in
  advance and not needed, as a credit, and the part that became due;
- *adjustment*: usage of earlier periods that came after they had been invoiced.

Each line is rounded once, half up, at the currency's exponent, from an exact figure; the total is their sum.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Context, Decimal, localcontext
from typing import Final

from tollgate.billing.invoices import InvoiceLine, Late, LineKind, Part
from tollgate.catalog.life import Action, Entry, Life
from tollgate.catalog.model import Plan, SubscriptionStatus
from tollgate.catalog.periods import Period
from tollgate.kernel.money import EXACT, ZERO, exponent, format_decimal, round_amount
from tollgate.pricing.model import Price
from tollgate.pricing.quotes import Quote, quote, quote_to_dict

__all__ = [
    "LateUsage",
    "Plans",
    "closing_lines",
    "in_force",
    "is_charged_in",
    "late_lines",
    "opening_lines",
    "priced_features",
    "total_of",
]

Plans = Callable[[str, int], Plan]
"""A plan version by code and number, which is known to exist."""

_INSTANT: Final = timedelta(microseconds=1)
_WIDE: Final = Context(prec=100)


@dataclass(frozen=True, slots=True)
class LateUsage:
    """A closed counter that grew from `closed` to `counted`; `parts` are what metering is told when that is billed."""

    feature: str
    period_start: datetime
    closed: Decimal
    counted: Decimal
    parts: tuple[Late, ...]


def in_force(history: Sequence[Entry], at: datetime) -> Entry:
    """The entry that holds at an instant; the first before the start."""
    return next((entry for entry in reversed(history) if entry.at <= at), history[0])


def is_charged_in(life: Life, period: Period) -> bool:
    """Whether the base price is charged for any part of a period."""
    within = (entry for entry in life.history if period.start < entry.at < period.end)
    return in_force(life.history, period.start).is_charged or any(entry.is_charged for entry in within)


def priced_features(life: Life, period: Period, plans: Plans) -> dict[str, Plan]:
    """The features that have a price in a period, each with the last plan version of the period that prices it."""
    found: dict[str, Plan] = {}
    for plan in _plans_in(life, period, plans):
        found |= {granted.feature.code: plan for granted in plan.features if granted.price is not None}
    return found


def opening_lines(life: Life, plans: Plans) -> tuple[InvoiceLine, ...]:
    """What is charged when a subscription begins: the base price of its first period, unless that is a trial."""
    return _base_lines(life, life.subscription.starts_at, plans)


def closing_lines(
    life: Life, period: Period, plans: Plans, used: Mapping[str, Decimal], late: Sequence[LateUsage] = ()
) -> tuple[InvoiceLine, ...]:
    """What is charged when a period ends.

    Args:
        life: with all entries of its history up to the period's end.
        period: what is closed; it may have ended before it was meant to.
        plans: the plan versions of the history.
        used: the usage of the period by feature; what is not in it is 0.
        late: usage of earlier periods.
    """
    usage = (
        line for feature in priced_features(life, period, plans) for line in _usage(life, period, plans, feature, used)
    )
    adjustments = (line for one in late for line in late_lines(life, plans, one))
    return (*_base_lines(life, period.end, plans), *usage, *_prorations(life, period, plans), *adjustments)


def total_of(lines: Sequence[InvoiceLine], currency: str) -> Decimal:
    """The sum of the lines, with the currency's decimals."""
    total = ZERO
    for line in lines:
        total = EXACT.add(total, line.amount)
    return round_amount(total, currency)


def _plans_in(life: Life, period: Period, plans: Plans) -> Iterator[Plan]:
    first = in_force(life.history, period.start)
    yield plans(first.plan, first.plan_version)
    for entry in life.history:
        if entry.action is Action.CHANGED and period.start < entry.at < period.end:
            yield plans(entry.plan, entry.plan_version)


def _base_lines(life: Life, at: datetime, plans: Plans) -> tuple[InvoiceLine, ...]:
    """The base price of the period that begins at an instant."""
    entry = in_force(life.history, at)
    plan = plans(entry.plan, entry.plan_version)
    if not entry.is_charged or not plan.base_price:
        return ()
    amount, price = round_amount(plan.base_price, plan.currency), format_decimal(plan.base_price)
    detail = {"kind": "base", "from": "0", "to": None, "quantity": "1", "unit_price": price, "flat_fee": "0"}
    whole = life.subscription.whole_period(at)
    return (InvoiceLine(LineKind.BASE, amount, plan.name, whole, details=(detail | {"amount": price},)),)


# Usage


def _usage(
    life: Life, period: Period, plans: Plans, feature: str, used: Mapping[str, Decimal]
) -> Iterator[InvoiceLine]:
    """The usage of a feature; a line for each price that it had, for the units used under it.

    The units under a price follow on those before it: tiers, packages and included units go on, they do not begin
    anew. A trial is free, and a minimum is not asked for in a period that is paused from end to end.
    """
    total, priced_before = used.get(feature, ZERO), False
    if not total and not is_charged_in(life, period):
        return
    trial_end = life.subscription.trial_ends_at
    is_trial = trial_end is not None and period.start < trial_end
    for plan, price, start, end in _stretches(life, period, plans, feature, total):
        if price is None:
            continue
        granted = plan.feature(feature)
        name = granted.feature.name if granted else feature
        quantity = EXACT.subtract(end, start)
        if is_trial:
            if quantity:
                free = round_amount(ZERO, plan.currency)
                yield InvoiceLine(LineKind.USAGE, free, f"{name}, free during the trial", period, feature, quantity)
            continue
        begins = not priced_before and not start
        found = quote(price, quantity, plan.currency, None if begins else start)
        priced_before = True
        if quantity or found.amount:
            yield _quoted(LineKind.USAGE, found, name, period, feature, quantity)


def _stretches(
    life: Life, period: Period, plans: Plans, feature: str, total: Decimal
) -> Iterator[tuple[Plan, Price | None, Decimal, Decimal]]:
    """The prices that a feature had in a period, and from which usage up to which each held."""
    first = in_force(life.history, period.start)
    plan = plans(first.plan, first.plan_version)
    price, start, read = _price(plan, feature), ZERO, ZERO
    for entry in life.history:
        if entry.action is not Action.CHANGED or not period.start < entry.at < period.end:
            continue
        after = plans(entry.plan, entry.plan_version)
        read = entry.readings.get(feature, read)  # nothing was used since where it was not read again
        if after.feature(feature) is None:
            continue  # what is counted from here on was used before
        if _price(after, feature) != price:
            yield plan, price, start, read
            price, start = _price(after, feature), read
        plan = after
    yield plan, price, start, total


def _price(plan: Plan, feature: str) -> Price | None:
    granted = plan.feature(feature)
    return granted.price if granted else None


def late_lines(life: Life, plans: Plans, late: LateUsage) -> tuple[InvoiceLine, ...]:
    """What usage costs that came after its period had been invoiced: the price of all less the price of what was."""
    period = life.subscription.period(late.period_start)
    plan = priced_features(life, period, plans).get(late.feature)
    granted = plan.feature(late.feature) if plan else None
    quantity = EXACT.subtract(late.counted, late.closed)
    if plan is None or granted is None or granted.price is None:
        return ()
    was_invoiced = bool(late.closed) or is_charged_in(life, period)
    found = quote(granted.price, quantity, plan.currency, late.closed if was_invoiced else None)
    if not quantity and not found.amount:
        return ()
    return (
        _quoted(LineKind.ADJUSTMENT, found, f"{granted.feature.name}, counted late", period, late.feature, quantity),
    )


def _quoted(
    kind: LineKind, found: Quote, description: str, period: Period, feature: str, quantity: Decimal
) -> InvoiceLine:
    details = tuple(quote_to_dict(found)["lines"])
    return InvoiceLine(kind, found.amount, description, period, feature, quantity, details)


# Proration


def _prorations(life: Life, period: Period, plans: Plans) -> Iterator[InvoiceLine]:
    """Credits and charges for the rests of the period that began when the subscription changed.

    What was charged in advance is credited only to those who are not in arrears: a subscription that ends or pauses
    because it was not paid gets nothing back, and pays nothing twice when it goes on within the same period.
    """
    whole = life.subscription.whole_period(period.start)
    before = in_force(life.history, period.start)
    covered = _covered_by(before)
    for entry in life.history:
        if not period.start < entry.at <= period.end:
            continue
        rest, is_cut = Period(entry.at, whole.end), entry.at == period.end
        wanted = _covered_by(entry)
        changes = wanted != covered and entry.at < whole.end
        if changes and covered and wanted and not is_cut and _base(plans, covered) == _base(plans, wanted):
            covered = wanted
        elif changes:
            if covered is not None and (wanted or before.after is SubscriptionStatus.ACTIVE):
                yield from _proration(plans(*covered), rest, whole, sign=-1)
                covered = None
            if covered is None and wanted is not None and not is_cut:
                yield from _proration(plans(*wanted), rest, whole, sign=1)
                covered = wanted
        before = entry


def _covered_by(entry: Entry) -> tuple[str, int] | None:
    """The plan version whose base price the time from an entry on is charged."""
    return (entry.plan, entry.plan_version) if entry.is_charged else None


def _base(plans: Plans, version: tuple[str, int]) -> Decimal:
    return plans(*version).base_price


def _proration(plan: Plan, rest: Period, whole: Period, sign: int) -> Iterator[InvoiceLine]:
    """The base price of a rest of a period: price x its length / the period's, exact to the microsecond."""
    left, length = (rest.end - rest.start) // _INSTANT, (whole.end - whole.start) // _INSTANT
    amount = _share(plan.base_price, left, length, plan.currency)
    if not amount:
        return
    what = "unused time" if sign < 0 else "remaining time"
    seconds = EXACT.scaleb(Decimal(left), -6), EXACT.scaleb(Decimal(length), -6)
    price = plan.base_price.copy_sign(sign)
    yield InvoiceLine(
        LineKind.PRORATION, amount.copy_sign(sign), f"{plan.name}, {what}", rest, part=Part(price, *seconds)
    )


def _share(price: Decimal, part: int, whole: int, currency: str) -> Decimal:
    """Price x part / whole, rounded once half up at the currency's exponent, however long its expansion is."""
    unit = Decimal(1).scaleb(-exponent(currency))
    with localcontext(_WIDE):
        units, rest = divmod(price * part, whole * unit)
        return (units + (2 * rest >= whole * unit)) * unit

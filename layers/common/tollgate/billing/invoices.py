"""Invoices: what a customer is asked to pay for one period of one subscription, and where that stands. Pure.

              +--------------------------> paid
              |                             ^
    draft -> open ---> past_due ------------+
              |           |                 |
              +-----------+--> uncollectible
              |           |          |
              +-----------+----------+--> void

An invoice is drafted with its lines, which never change; opening gives it its number. One that asks for nothing is
paid when it opens. `total` may be below zero: then the seller owes it, and settling it means to credit it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from tollgate.catalog.periods import Period
from tollgate.kernel.errors import Conflict
from tollgate.kernel.ids import derived_id
from tollgate.kernel.money import EXACT, ZERO, format_decimal
from tollgate.kernel.time import format_time, parse_time

__all__ = [
    "COLLECTIBLE",
    "TRANSITIONS",
    "Invoice",
    "InvoiceLine",
    "InvoiceStatus",
    "Late",
    "LineKind",
    "Part",
    "Transition",
    "invoice_from_dict",
    "invoice_id",
    "invoice_number",
    "invoice_to_dict",
    "line_to_dict",
    "move",
    "paid",
    "payment_id",
    "require_transition",
]


class InvoiceStatus(StrEnum):
    """Where an invoice stands."""

    DRAFT = "draft"  # written, with no number; nothing is asked for yet
    OPEN = "open"  # to be paid
    PAID = "paid"
    PAST_DUE = "past_due"  # the last try to collect it has failed
    VOID = "void"  # withdrawn: nothing is owed
    UNCOLLECTIBLE = "uncollectible"  # owed, and given up


TRANSITIONS: Final[Mapping[InvoiceStatus, frozenset[InvoiceStatus]]] = {
    InvoiceStatus.DRAFT: frozenset({InvoiceStatus.OPEN, InvoiceStatus.PAID}),
    InvoiceStatus.OPEN: frozenset(
        {InvoiceStatus.PAID, InvoiceStatus.PAST_DUE, InvoiceStatus.VOID, InvoiceStatus.UNCOLLECTIBLE}
    ),
    InvoiceStatus.PAST_DUE: frozenset({InvoiceStatus.PAID, InvoiceStatus.VOID, InvoiceStatus.UNCOLLECTIBLE}),
    InvoiceStatus.UNCOLLECTIBLE: frozenset({InvoiceStatus.PAID, InvoiceStatus.VOID}),
    InvoiceStatus.PAID: frozenset(),
    InvoiceStatus.VOID: frozenset(),
}

COLLECTIBLE: Final = frozenset({InvoiceStatus.OPEN, InvoiceStatus.PAST_DUE, InvoiceStatus.UNCOLLECTIBLE})
"""An invoice in these can be paid."""


class LineKind(StrEnum):
    """What a line is for, in the order in which lines stand."""

    BASE = "base"  # the plan's base price of the period to come, in advance
    USAGE = "usage"  # what was used in the period that has ended, in arrears
    PRORATION = "proration"  # a part of a base price, because the subscription changed within the period
    ADJUSTMENT = "adjustment"  # usage of an earlier period that came after it had been invoiced


@dataclass(frozen=True, slots=True)
class Part:
    """Of a proration: so many of the period's seconds at this base price; below zero it is given back."""

    price: Decimal
    seconds: Decimal
    of_seconds: Decimal


@dataclass(frozen=True, slots=True)
class InvoiceLine:
    """One line; `amount` is rounded once, half up, at the exponent of the invoice's currency.

    Attributes:
        period: the stretch of time that the line is about, which is not always the invoice's own.
        feature: of usage and adjustments.
        quantity: how much more was used, in the feature's unit; an adjustment's may be negative.
        details: the lines of the quote behind the amount, as `pricing.quotes.quote_to_dict` writes them.
        part: of a proration.
    """

    kind: LineKind
    amount: Decimal
    description: str
    period: Period
    feature: str | None = None
    quantity: Decimal | None = None
    details: tuple[Mapping[str, Any], ...] = ()
    part: Part | None = None


@dataclass(frozen=True, slots=True)
class Late:
    """Usage of a closed counter that an invoice bills: it was billed at `closed`, a quantity, and is `now`.

    `tally` is the tally at `now` as metering must be told it when it is settled: quantity, events, latest.
    """

    feature: str
    shard: int
    period_start: datetime
    closed: Decimal
    now: Decimal
    tally: tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of status; `before` is None for the first. The actor is a key, an operation or "system"."""

    at: datetime
    before: InvoiceStatus | None
    after: InvoiceStatus
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Invoice:
    """What a subscription's period costs.

    Attributes:
        period: the period that it closes; of the first invoice of a subscription, which bills in advance only,
            the instant of its start: [start, start).
        number: such as INV-000042, given when it opens; all numbers from 1 on are given.
        total: the sum of the lines.
        amount_paid: what of it has been paid; what was refunded later is told by the payments.
        late: what metering must be told is billed, before the invoice opens.
        payment: the payment of it that is under way, if one is.
        attempts: how many payments of it there have been; their ids are `payment_id` of each number.
        revision: grows with every write; a write is made on condition of the revision that was read.
    """

    id: str
    customer: str
    subscription: str
    plan: str
    plan_version: int
    period: Period
    currency: str
    lines: tuple[InvoiceLine, ...]
    total: Decimal
    created_at: datetime
    status: InvoiceStatus = InvoiceStatus.DRAFT
    number: str | None = None
    opened_at: datetime | None = None
    paid_at: datetime | None = None
    amount_paid: Decimal = ZERO
    late: tuple[Late, ...] = ()
    history: tuple[Transition, ...] = ()
    payment: str | None = None
    attempts: int = 0
    revision: int = field(default=0)

    @property
    def amount_due(self) -> Decimal:
        """What is still asked for; below zero, what is owed to the customer; nothing once paid or void."""
        if self.status in {InvoiceStatus.PAID, InvoiceStatus.VOID}:
            return ZERO.quantize(self.total)
        return EXACT.subtract(self.total, self.amount_paid)


def invoice_id(subscription: str, period: Period) -> str:
    """The one id that the invoice of a period can have: a second one finds it taken."""
    return derived_id("inv", f"{subscription}#{format_time(period.start)}#{format_time(period.end)}")


def invoice_number(number: int) -> str:
    """The name of the n-th invoice of the deployment, from 1."""
    return f"INV-{number:06d}"


def require_transition(invoice: Invoice, status: InvoiceStatus) -> None:
    """Refuse a change of status that the drawing above does not have.

    Raises:
        Conflict: names those that are possible.
    """
    possible = TRANSITIONS[invoice.status]
    if status not in possible:
        names = ", ".join(sorted(possible)) or "none"
        raise Conflict(f"The invoice {invoice.id} is {invoice.status} and cannot become {status}; possible: {names}.")


def payment_id(invoice: str, number: int) -> str:
    """The one id that the n-th try to pay an invoice can have, from 1."""
    return derived_id("pay", f"{invoice}#{number}")


def move(invoice: Invoice, status: InvoiceStatus, *, at: datetime, actor: str, reason: str) -> Invoice:
    """The invoice in another status, with the change in its history.

    Raises:
        Conflict: the status cannot follow; or it is being paid, and so can be neither void nor given up.
    """
    require_transition(invoice, status)
    if status in {InvoiceStatus.VOID, InvoiceStatus.UNCOLLECTIBLE} and invoice.payment is not None:
        raise Conflict(f"The payment {invoice.payment} of the invoice {invoice.id} is under way.")
    entry = Transition(at, invoice.status, status, actor, reason)
    return replace(invoice, status=status, history=(*invoice.history, entry), revision=invoice.revision + 1)


def paid(invoice: Invoice, *, at: datetime, actor: str, reason: str) -> Invoice:
    """The invoice with all that was due paid, or credited where the total is below zero.

    Raises:
        Conflict: it cannot be paid: it is paid already, void, or has no number yet.
    """
    moved = move(invoice, InvoiceStatus.PAID, at=at, actor=actor, reason=reason)
    return replace(moved, paid_at=at, amount_paid=invoice.total, payment=None)


def line_to_dict(line: InvoiceLine) -> dict[str, Any]:
    """A line as the API shows it and the table keeps it."""
    shown: dict[str, Any] = {
        "kind": line.kind.value,
        "description": line.description,
        "period": _period_to_dict(line.period),
        "amount": f"{line.amount:f}",
        "details": [dict(one) for one in line.details],
    }
    if line.feature is not None:
        shown["feature"] = line.feature
    if line.quantity is not None:
        shown["quantity"] = format_decimal(line.quantity)
    if line.part is not None:
        shown["proration"] = {
            "price": format_decimal(line.part.price),
            "seconds": format_decimal(line.part.seconds),
            "of_seconds": format_decimal(line.part.of_seconds),
        }
    return shown


def _line_from_dict(body: Mapping[str, Any]) -> InvoiceLine:
    part = body.get("proration")
    return InvoiceLine(
        kind=LineKind(body["kind"]),
        amount=Decimal(body["amount"]),
        description=body["description"],
        period=_period_from_dict(body["period"]),
        feature=body.get("feature"),
        quantity=Decimal(body["quantity"]) if "quantity" in body else None,
        details=tuple(body["details"]),
        part=Part(*(Decimal(part[name]) for name in ("price", "seconds", "of_seconds"))) if part else None,
    )


def invoice_to_dict(invoice: Invoice) -> dict[str, Any]:
    """An invoice as the API shows it; its payments are added by whoever has them."""
    return {
        "id": invoice.id,
        "number": invoice.number,
        "status": invoice.status.value,
        "customer": invoice.customer,
        "subscription": invoice.subscription,
        "plan": {"code": invoice.plan, "version": invoice.plan_version},
        "period": _period_to_dict(invoice.period),
        "currency": invoice.currency,
        "lines": [line_to_dict(line) for line in invoice.lines],
        "total": f"{invoice.total:f}",
        "amount_paid": f"{invoice.amount_paid:f}",
        "amount_due": f"{invoice.amount_due:f}",
        "created_at": format_time(invoice.created_at),
        "opened_at": _optional_time(invoice.opened_at),
        "paid_at": _optional_time(invoice.paid_at),
        "history": [
            {
                "at": format_time(entry.at),
                "from": entry.before.value if entry.before else None,
                "to": entry.after.value,
                "actor": entry.actor,
                "reason": entry.reason,
            }
            for entry in invoice.history
        ],
    }


def invoice_from_dict(body: Mapping[str, Any], late: tuple[Late, ...] = (), revision: int = 0) -> Invoice:
    """Read back what `invoice_to_dict` wrote, with what it does not show."""
    return Invoice(
        id=body["id"],
        customer=body["customer"],
        subscription=body["subscription"],
        plan=body["plan"]["code"],
        plan_version=body["plan"]["version"],
        period=_period_from_dict(body["period"]),
        currency=body["currency"],
        lines=tuple(_line_from_dict(line) for line in body["lines"]),
        total=Decimal(body["total"]),
        created_at=parse_time(body["created_at"]),
        status=InvoiceStatus(body["status"]),
        number=body["number"],
        opened_at=parse_time(body["opened_at"]) if body["opened_at"] else None,
        paid_at=parse_time(body["paid_at"]) if body["paid_at"] else None,
        amount_paid=Decimal(body["amount_paid"]),
        late=late,
        history=tuple(_transition_from_dict(entry) for entry in body["history"]),
        revision=revision,
    )


def _transition_from_dict(body: Mapping[str, Any]) -> Transition:
    before = InvoiceStatus(body["from"]) if body["from"] else None
    return Transition(parse_time(body["at"]), before, InvoiceStatus(body["to"]), body["actor"], body["reason"])


def _period_to_dict(period: Period) -> dict[str, str]:
    return {"start": format_time(period.start), "end": format_time(period.end)}


def _period_from_dict(body: Mapping[str, str]) -> Period:
    return Period(parse_time(body["start"]), parse_time(body["end"]))


def _optional_time(at: datetime | None) -> str | None:
    return format_time(at) if at else None

"""Invoices and billing runs on the wire."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tollgate.billing.invoices import Invoice, InvoiceStatus, LineKind, invoice_to_dict
from tollgate.billing.payments import Payment, payment_to_dict
from tollgate.catalog.schema import PeriodView, PlanReference
from tollgate.kernel.schema import Code, CurrencyCode, DecimalString, Timestamp

__all__ = ["BillingRunBody", "BillingRunView", "InvoiceList", "InvoiceView", "invoice_view"]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class _View(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class InvoicePartView(_View):
    """Of a proration: so many of the period's seconds at this base price; below zero it is given back."""

    price: DecimalString
    seconds: DecimalString
    of_seconds: DecimalString


class InvoiceLineView(_View):
    """A line of an invoice, rounded once."""

    kind: LineKind
    description: str
    period: PeriodView
    """What it is about, which is not always the invoice's own."""
    feature: Code | None = None
    quantity: DecimalString | None = None
    amount: DecimalString
    details: list[dict[str, Any]]
    """The lines of the quote behind the amount."""
    proration: InvoicePartView | None = None


class InvoiceTransitionView(_View):
    """A change of an invoice's status."""

    at: Timestamp
    before: InvoiceStatus | None = Field(alias="from")
    to: InvoiceStatus
    actor: str
    reason: str


class InvoiceView(_View):
    """An invoice."""

    id: str
    number: str | None
    """Given when it opens, with no gap."""
    status: InvoiceStatus
    customer: Code
    subscription: Code
    plan: PlanReference
    period: PeriodView
    """The period that it closes; [start, start) of the first, which bills in advance only."""
    currency: CurrencyCode
    lines: list[InvoiceLineView]
    total: DecimalString
    amount_paid: DecimalString
    amount_due: DecimalString
    payments: list[dict[str, Any]]
    created_at: Timestamp
    opened_at: Timestamp | None
    paid_at: Timestamp | None
    history: list[InvoiceTransitionView]


class InvoiceList(_View):
    """A page of invoices."""

    items: list[InvoiceView]
    next_cursor: str | None


def invoice_view(invoice: Invoice, payments: Sequence[Payment]) -> dict[str, Any]:
    """An invoice as the API shows it."""
    return {**invoice_to_dict(invoice), "payments": [payment_to_dict(payment) for payment in payments]}


class BillingRunBody(_Body):
    """A billing run to begin."""

    as_of: Timestamp | None = None
    """Periods that ended by then are closed; now, if it is left out or later."""


class RunFailureView(_View):
    """A subscription that could not be billed."""

    subscription: Code
    error: str


class BillingRunView(_View):
    """A billing run and what has come of it so far."""

    id: Code
    status: Literal["running", "done"]
    as_of: Timestamp
    started_at: Timestamp
    actor: str
    subscriptions: int | None
    """How many were due; null while they are looked for."""
    billed: int
    invoices: int
    failed: int
    failures: list[RunFailureView]
    """The first hundred; each is an error record too."""

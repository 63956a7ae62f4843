"""Invoices, billing runs, wallets, payments and refunds on the wire."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from tollgate.billing.invoices import Invoice, InvoiceStatus, LineKind, invoice_to_dict
from tollgate.billing.payments import (
    DeclineKind,
    Payer,
    Payment,
    PaymentStatus,
    Refund,
    payment_to_dict,
    refund_to_dict,
)
from tollgate.billing.wallet import Entry, EntryType, TopUp, Wallet
from tollgate.catalog.schema import PeriodView, PlanReference
from tollgate.kernel.money import ZERO, format_amount
from tollgate.kernel.schema import MAX_REASON, Code, CurrencyCode, DecimalString, Timestamp
from tollgate.kernel.time import format_time

__all__ = [
    "BillingRunBody",
    "BillingRunView",
    "InvoiceList",
    "InvoiceView",
    "PayerBody",
    "PayerView",
    "PaymentView",
    "PaymentWithRefundsView",
    "RefundBody",
    "RefundView",
    "StripeEventView",
    "TopUpBody",
    "TransactionBody",
    "TransactionList",
    "TransactionView",
    "VoidBody",
    "WalletView",
    "entry_view",
    "invoice_view",
    "payer_view",
    "payment_view",
    "refund_view",
    "wallet_view",
]


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


class FailureView(_View):
    """Why a payment or refund did not happen."""

    kind: DeclineKind
    """hard: no try will help until a person does something; funds: when there is money; transient: soon."""
    code: str
    """The provider's."""
    message: str


class PaymentView(_View):
    """A try to charge an amount."""

    id: Code
    customer: Code
    subscription: Code | None
    invoice: Code | None
    purpose: Literal["invoice", "top_up"]
    status: PaymentStatus
    amount: DecimalString
    refunded: DecimalString
    """The sum of its refunds that have not failed."""
    currency: CurrencyCode
    provider: str
    provider_reference: str | None
    failure: FailureView | None
    created_at: Timestamp
    settled_at: Timestamp | None


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
    payments: list[PaymentView]
    """In the order they were tried."""
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


# Wallets

Note = Annotated[str, StringConstraints(max_length=MAX_REASON)]


class WalletView(_View):
    """A customer's prepaid balance."""

    customer: Code
    balance: DecimalString
    currency: CurrencyCode | None
    """That of its first transaction; before, that of the customer's first plan, or null."""
    top_up: dict[Literal["threshold", "amount"], DecimalString] | None
    """What is brought in whenever the balance is below the threshold."""


class TransactionBody(_Body):
    """Money that comes in, or a correction either way."""

    id: Code | None = None
    type: Literal[EntryType.DEPOSIT, EntryType.ADJUSTMENT]
    amount: DecimalString
    """In the currency's major unit; a deposit's is above 0, an adjustment's may be below."""
    currency: CurrencyCode
    description: Note = ""


class TransactionView(_View):
    """A line of the ledger."""

    id: str
    """The one it was given; of a charge or refund, that of the payment or refund."""
    number: int
    """From 1, with no gap."""
    type: EntryType
    amount: DecimalString
    balance_after: DecimalString
    currency: CurrencyCode
    description: str
    at: Timestamp


class TransactionList(_View):
    """A page of the ledger."""

    items: list[TransactionView]
    next_cursor: str | None


class TopUpBody(_Body):
    """Have the customer's payment method bring in an amount whenever the balance is below a threshold."""

    threshold: DecimalString
    amount: DecimalString
    currency: CurrencyCode

    def to_top_up(self) -> TopUp:
        """The rule."""
        return TopUp(self.threshold, self.amount)


def wallet_view(customer: str, wallet: Wallet | None, currency: str | None = None) -> dict[str, Any]:
    """A wallet as the API shows it; one that was never used holds nothing, in the currency that is billed."""
    if wallet is None:
        balance = format_amount(ZERO, currency) if currency else "0"
        return {"customer": customer, "balance": balance, "currency": currency, "top_up": None}
    rule = wallet.top_up
    return {
        "customer": customer,
        "balance": format_amount(wallet.balance, wallet.currency),
        "currency": wallet.currency,
        "top_up": {
            "threshold": format_amount(rule.threshold, wallet.currency),
            "amount": format_amount(rule.amount, wallet.currency),
        }
        if rule
        else None,
    }


def entry_view(entry: Entry) -> dict[str, Any]:
    """A line of the ledger as the API shows it."""
    return {
        "id": entry.id,
        "number": entry.number,
        "type": entry.type.value,
        "amount": format_amount(entry.amount, entry.currency),
        "balance_after": format_amount(entry.balance_after, entry.currency),
        "currency": entry.currency,
        "description": entry.description,
        "at": format_time(entry.at),
    }


# Payments and refunds

ProviderId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]{1,255}$")]


class PayerBody(_Body):
    """How a customer's invoices are paid."""

    provider: Literal["wallet", "stripe"]
    """The wallet, which the account then tops up; or the account itself."""
    account: ProviderId | None = None
    """The customer's id at Stripe, cus_..."""
    payment_method: ProviderId | None = None
    """Which of its payment methods, pm_...; the customer's default, if it is left out."""

    def to_payer(self, customer: str) -> Payer:
        """Of that customer."""
        return Payer(customer, self.provider, self.account, self.payment_method)


class PayerView(PayerBody):
    """How a customer's invoices are paid now."""

    customer: Code


class VoidBody(_Body):
    """Why an invoice is withdrawn."""

    reason: Note = "withdrawn"


class RefundBody(_Body):
    """Some of a payment to give back, or all that is left of it."""

    id: Code | None = None
    amount: DecimalString | None = None
    reason: Note = ""


class RefundView(_View):
    """Some of a payment given back."""

    id: Code
    payment: Code
    status: PaymentStatus
    """Pending while it is tried again."""
    amount: DecimalString
    currency: CurrencyCode
    reason: str
    provider_reference: str | None
    failure: FailureView | None
    created_at: Timestamp
    settled_at: Timestamp | None


class PaymentWithRefundsView(PaymentView):
    """A payment and its refunds."""

    refunds: list[RefundView]


class StripeEventView(_View):
    """What became of an event of Stripe's."""

    status: Literal["settled", "ignored", "duplicate"]


def payer_view(payer: Payer) -> dict[str, Any]:
    """How a customer pays, as the API shows it."""
    return {
        "customer": payer.customer,
        "provider": payer.provider,
        "account": payer.account,
        "payment_method": payer.method,
    }


def payment_view(payment: Payment, refunds: Sequence[Refund]) -> dict[str, Any]:
    """A payment with its refunds as the API shows it."""
    return {**payment_to_dict(payment), "refunds": [refund_to_dict(refund) for refund in refunds]}


def refund_view(refund: Refund) -> dict[str, Any]:
    """A refund as the API shows it."""
    return refund_to_dict(refund)

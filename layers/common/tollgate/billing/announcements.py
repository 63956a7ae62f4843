"""What the world is told of subscriptions, invoices, payments, refunds and wallets. Pure.

An event tells of one change that has been written. Its id follows from what changed and in which revision, so that it
is the same however often it is told. An invoice is told without its lines: it may have more than an event can hold.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from tollgate.billing.invoices import Invoice, InvoiceStatus, invoice_to_dict
from tollgate.billing.payments import Payment, PaymentStatus, Refund, payment_to_dict, refund_to_dict
from tollgate.billing.wallet import Entry
from tollgate.catalog.life import Entry as Happening
from tollgate.catalog.life import entry_to_dict
from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.ids import derived_id
from tollgate.kernel.money import format_amount
from tollgate.kernel.time import format_time

__all__ = ["Announcement", "invoice_event", "payment_event", "refund_event", "subscription_event", "wallet_event"]

_INVOICE: Final[Mapping[InvoiceStatus, str]] = {
    InvoiceStatus.OPEN: "invoice.opened",
    InvoiceStatus.PAID: "invoice.paid",
    InvoiceStatus.PAST_DUE: "invoice.past_due",
    InvoiceStatus.VOID: "invoice.voided",
    InvoiceStatus.UNCOLLECTIBLE: "invoice.uncollectible",
}
_LONG: Final = ("lines", "history")


@dataclass(frozen=True, slots=True)
class Announcement:
    """An event: its id, what is sent, and whom it is about, for the record of a delivery that fails."""

    id: str
    event: Mapping[str, Any]
    customer: str
    subscription: str | None


def invoice_event(before: Invoice | None, after: Invoice) -> Announcement | None:
    """What a written invoice tells, if its status has changed."""
    if (before is not None and before.status is after.status) or after.status not in _INVOICE:
        return None
    data = {name: value for name, value in invoice_to_dict(after).items() if name not in _LONG}
    at = after.history[-1].at if after.history else after.created_at
    key = f"invoice#{after.id}#{after.revision}"
    return _announcement(key, _INVOICE[after.status], at, data, after.customer, after.subscription)


def payment_event(before: Payment | None, after: Payment) -> Announcement | None:
    """What a written payment tells, if it has come to its end."""
    kinds = {PaymentStatus.SUCCEEDED: "payment.succeeded", PaymentStatus.FAILED: "payment.failed"}
    if (before is not None and before.status is after.status) or after.status not in kinds:
        return None
    key = f"payment#{after.id}#{after.status}"
    at = after.settled_at or after.created_at
    return _announcement(key, kinds[after.status], at, payment_to_dict(after), after.customer, after.subscription)


def refund_event(before: Refund | None, after: Refund, payment: Payment) -> Announcement | None:
    """What a written refund tells, if it has come to its end."""
    kinds = {PaymentStatus.SUCCEEDED: "refund.succeeded", PaymentStatus.FAILED: "refund.failed"}
    if (before is not None and before.status is after.status) or after.status not in kinds:
        return None
    data = {**refund_to_dict(after), "customer": payment.customer, "invoice": payment.invoice}
    key = f"refund#{after.id}#{after.status}"
    at = after.settled_at or after.created_at
    return _announcement(key, kinds[after.status], at, data, payment.customer, payment.subscription)


def wallet_event(customer: str, entry: Entry) -> Announcement:
    """What an entry of a wallet's ledger tells."""
    data = {
        "customer": customer,
        "id": entry.id,
        "number": entry.number,
        "type": entry.type.value,
        "amount": format_amount(entry.amount, entry.currency),
        "balance_after": format_amount(entry.balance_after, entry.currency),
        "currency": entry.currency,
        "description": entry.description,
    }
    return _announcement(f"wallet#{customer}#{entry.number}", "wallet.transaction", entry.at, data, customer, None)


def subscription_event(subscription: str, customer: str, happening: Happening) -> Announcement:
    """What an entry of a subscription's history tells."""
    data = {"subscription": subscription, "customer": customer, **entry_to_dict(happening)}
    key = f"subscription#{subscription}#{happening.number}"
    kind = f"subscription.{happening.action}"
    return _announcement(key, kind, happening.recorded_at, data, customer, subscription)


def _announcement(
    key: str, kind: str, at: datetime, data: Mapping[str, Any], customer: str, subscription: str | None
) -> Announcement:
    event = {"type": kind, "timestamp": format_time(at), "data": dict(data)}
    return Announcement(derived_id("evt", key), event, customer, subscription)

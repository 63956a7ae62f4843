"""Payments, refunds and payers in DynamoDB, and whatever changes together with them: the billing table.

pk             sk              what
PAYMENT#id     PAYMENT         a payment
PAYMENT#id     REFUND#id       a refund of it
REFUND#id      PAYMENT         whose payment's refund an id is
PAYER#id       PAYER           how a customer pays
STRIPE#id      EVENT           an event of Stripe's that has been dealt with
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from pynamodb.attributes import BooleanAttribute, JSONAttribute, NumberAttribute, UnicodeAttribute, UTCDateTimeAttribute

from tollgate.billing.invoice_store import invoice_write
from tollgate.billing.invoices import Invoice
from tollgate.billing.payments import Decline, DeclineKind, Payer, Payment, PaymentStatus, Refund
from tollgate.billing.wallet import Posting, Wallet
from tollgate.billing.wallet_store import posting_writes, wallet_write
from tollgate.kernel.dynamodb import BillingTable, DecimalAttribute, Write, connect, read_item, write_all

__all__ = ["DynamoPayments", "PaymentItem", "RefundItem", "payment_of", "refund_of_item"]

_PAYMENT: Final = "PAYMENT"
_REFUND: Final = "REFUND#"


class PaymentItem(BillingTable, discriminator="payment"):
    """A payment; every write of it is conditioned on `revision`."""

    customer = UnicodeAttribute()
    subscription = UnicodeAttribute(null=True)
    invoice = UnicodeAttribute(null=True)
    amount = DecimalAttribute()
    currency = UnicodeAttribute()
    provider = UnicodeAttribute()
    account = UnicodeAttribute(null=True)
    method = UnicodeAttribute(null=True)
    key = UnicodeAttribute()
    created_at = UTCDateTimeAttribute()
    status = UnicodeAttribute()
    claimed_until = UTCDateTimeAttribute(null=True)
    reference = UnicodeAttribute(null=True)
    decline = JSONAttribute(null=True)
    settled_at = UTCDateTimeAttribute(null=True)
    refunded = DecimalAttribute()
    revision = NumberAttribute()


class RefundItem(BillingTable, discriminator="refund"):
    """A refund; every write of it is conditioned on `revision`."""

    amount = DecimalAttribute()
    currency = UnicodeAttribute()
    reason = UnicodeAttribute()
    is_rest = BooleanAttribute()
    key = UnicodeAttribute()
    created_at = UTCDateTimeAttribute()
    status = UnicodeAttribute()
    claimed_until = UTCDateTimeAttribute(null=True)
    reference = UnicodeAttribute(null=True)
    decline = JSONAttribute(null=True)
    settled_at = UTCDateTimeAttribute(null=True)
    revision = NumberAttribute()


class RefundOwnerItem(BillingTable, discriminator="refund_owner"):
    """Whose payment's refund an id is."""

    payment = UnicodeAttribute()


class PayerItem(BillingTable, discriminator="payer"):
    """How a customer pays."""

    provider = UnicodeAttribute()
    account = UnicodeAttribute(null=True)
    method = UnicodeAttribute(null=True)


class ProviderEventItem(BillingTable, discriminator="provider_event"):
    """An event that has been dealt with."""

    type = UnicodeAttribute()
    at = UTCDateTimeAttribute()


class DynamoPayments:
    """The `Payments` of the deployment."""

    def payment(self, payment_id: str) -> Payment | None:
        """The payment, as the last write left it."""
        item = read_item(PaymentItem, _pk(payment_id), _PAYMENT)
        return payment_of(item) if item else None

    def payments(self, payment_ids: Sequence[str]) -> list[Payment]:
        """Those of the payments that there are, in the same order."""
        connect(BillingTable)
        keys = [(_pk(payment_id), _PAYMENT) for payment_id in payment_ids]
        found = (
            {item.pk: payment_of(item) for item in PaymentItem.batch_get(keys, consistent_read=True)} if keys else {}
        )
        return [found[pk] for pk, _ in keys if pk in found]

    def refund(self, refund_id: str) -> Refund | None:
        """The refund, as the last write left it."""
        owner = read_item(RefundOwnerItem, f"REFUND#{refund_id}", _PAYMENT)
        item = read_item(RefundItem, _pk(owner.payment), f"{_REFUND}{refund_id}") if owner else None
        return refund_of_item(item) if item else None

    def refunds(self, payment_id: str) -> list[Refund]:
        """All refunds of a payment, the oldest first."""
        connect(BillingTable)
        found = RefundItem.query(_pk(payment_id), RefundItem.sk.startswith(_REFUND), consistent_read=True)
        return sorted((refund_of_item(item) for item in found), key=lambda refund: (refund.created_at, refund.id))

    def write(self, *changes: Payment | Refund | Invoice | Wallet | Posting) -> bool:
        """Write things in their next revisions, all or none; False when another writer was first with one of them."""
        return write_all([write for change in changes for write in _writes(change)])

    def payer(self, customer: str) -> Payer | None:
        """How a customer pays, if that was ever said."""
        item = read_item(PayerItem, f"PAYER#{customer}", "PAYER")
        return Payer(customer, item.provider, item.account, item.method) if item else None

    def save_payer(self, payer: Payer) -> None:
        """Say how a customer pays from now on."""
        connect(BillingTable)
        PayerItem(
            f"PAYER#{payer.customer}", "PAYER", provider=payer.provider, account=payer.account, method=payer.method
        ).save()

    def has_seen(self, event_id: str) -> bool:
        """Whether an event of the provider's has been dealt with."""
        return read_item(ProviderEventItem, f"STRIPE#{event_id}", "EVENT") is not None

    def saw(self, event_id: str, event_type: str, at: datetime) -> None:
        """Say that an event of the provider's has been dealt with."""
        connect(BillingTable)
        ProviderEventItem(f"STRIPE#{event_id}", "EVENT", type=event_type, at=at).save()


def _writes(change: Payment | Refund | Invoice | Wallet | Posting) -> list[Write]:
    """The writes of a change, each on condition that the revision before it is there."""
    match change:
        case Invoice():
            return [invoice_write(change)]
        case Wallet():
            return [wallet_write(change)]
        case Posting():
            return posting_writes(change)
        case Payment():
            new = PaymentItem.pk.does_not_exist()
            return [
                (_payment_item(change), new if change.revision == 1 else PaymentItem.revision == change.revision - 1)
            ]
        case Refund():
            return _refund_writes(change)


def _refund_writes(refund: Refund) -> list[Write]:
    item = _refund_item(refund)
    if refund.revision > 1:
        return [(item, RefundItem.revision == refund.revision - 1)]
    owner = RefundOwnerItem(f"REFUND#{refund.id}", _PAYMENT, payment=refund.payment)
    return [(item, RefundItem.pk.does_not_exist()), (owner, RefundOwnerItem.pk.does_not_exist())]


def _pk(payment_id: str) -> str:
    return f"PAYMENT#{payment_id}"


def _payment_item(payment: Payment) -> PaymentItem:
    return PaymentItem(
        _pk(payment.id),
        _PAYMENT,
        customer=payment.customer,
        subscription=payment.subscription,
        invoice=payment.invoice,
        amount=payment.amount,
        currency=payment.currency,
        provider=payment.provider,
        account=payment.account,
        method=payment.method,
        key=payment.key,
        created_at=payment.created_at,
        status=payment.status.value,
        claimed_until=payment.claimed_until,
        reference=payment.reference,
        decline=_decline_to_list(payment.decline),
        settled_at=payment.settled_at,
        refunded=payment.refunded,
        revision=payment.revision,
    )


def payment_of(item: PaymentItem) -> Payment:
    """The payment that an item holds."""
    return Payment(
        id=item.pk.removeprefix("PAYMENT#"),
        customer=item.customer,
        subscription=item.subscription,
        invoice=item.invoice,
        amount=item.amount,
        currency=item.currency,
        provider=item.provider,
        account=item.account,
        method=item.method,
        key=item.key,
        created_at=item.created_at,
        status=PaymentStatus(item.status),
        claimed_until=item.claimed_until,
        reference=item.reference,
        decline=_decline(item.decline),
        settled_at=item.settled_at,
        refunded=item.refunded,
        revision=int(item.revision),
    )


def _refund_item(refund: Refund) -> RefundItem:
    return RefundItem(
        _pk(refund.payment),
        f"{_REFUND}{refund.id}",
        amount=refund.amount,
        currency=refund.currency,
        reason=refund.reason,
        is_rest=refund.is_rest,
        key=refund.key,
        created_at=refund.created_at,
        status=refund.status.value,
        claimed_until=refund.claimed_until,
        reference=refund.reference,
        decline=_decline_to_list(refund.decline),
        settled_at=refund.settled_at,
        revision=refund.revision,
    )


def refund_of_item(item: RefundItem) -> Refund:
    """The refund that an item holds."""
    return Refund(
        id=item.sk.removeprefix(_REFUND),
        payment=item.pk.removeprefix("PAYMENT#"),
        amount=item.amount,
        currency=item.currency,
        reason=item.reason,
        key=item.key,
        created_at=item.created_at,
        status=PaymentStatus(item.status),
        claimed_until=item.claimed_until,
        reference=item.reference,
        decline=_decline(item.decline),
        settled_at=item.settled_at,
        is_rest=item.is_rest,
        revision=int(item.revision),
    )


def _decline_to_list(decline: Decline | None) -> list[str] | None:
    return [decline.kind.value, decline.code, decline.message] if decline else None


def _decline(body: list[str] | None) -> Decline | None:
    return Decline(DeclineKind(body[0]), body[1], body[2]) if body else None

"""Payments and refunds: what was asked of a provider, and what became of it. Pure.

    pending -> succeeded
            -> failed

A payment is one try to charge an amount, for an invoice or to top up a wallet; a try after one that has failed is a
payment of its own. It is stored before the provider is called, with the key that the provider knows it by, and stays
pending until it is certain what became of it: whoever finds it so asks the provider first. Who works on it holds a
claim for a while, so that no two do.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import Conflict, FieldError, InvalidInput
from tollgate.kernel.money import EXACT, ZERO, format_amount, round_amount
from tollgate.kernel.time import format_time

__all__ = [
    "CLAIM",
    "Decline",
    "DeclineKind",
    "Payer",
    "Payment",
    "PaymentStatus",
    "Refund",
    "claim",
    "claim_refund",
    "payment_to_dict",
    "refund_failed",
    "refund_of",
    "refund_succeeded",
    "refund_to_dict",
    "released",
    "settle_failed",
    "settle_succeeded",
]

CLAIM: Final = timedelta(minutes=1)
"""Longer than the calls to a provider take; the claim of a process that ended is over by then."""


class PaymentStatus(StrEnum):
    """Where a payment or a refund stands."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class DeclineKind(StrEnum):
    """What a refusal means for another try."""

    HARD = "hard"  # no try will help until a person does something
    FUNDS = "funds"  # when there is money
    TRANSIENT = "transient"  # soon


@dataclass(frozen=True, slots=True)
class Decline:
    """A refusal: nothing was charged or given back. `code` is the provider's, `message` for people."""

    kind: DeclineKind
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Payer:
    """How a customer's invoices are paid: by the provider of that name.

    `account` is the customer's id at an outside provider, and `method` which of its payment methods is charged; None
    is the account's default. With the provider `wallet`, the account pays for top-ups.
    """

    customer: str
    provider: str
    account: str | None = None
    method: str | None = None


@dataclass(frozen=True, slots=True)
class Payment:
    """A try to charge an amount.

    Attributes:
        invoice: what it pays; None for a top-up of the customer's wallet.
        key: what the provider knows it by, for ever.
        reference: what the provider calls it, once that is known.
        refunded: the sum of its refunds that have not failed.
        claimed_until: who works on it does so until then.
        revision: grows with every write.
    """

    id: str
    customer: str
    subscription: str | None
    invoice: str | None
    amount: Decimal
    currency: str
    provider: str
    account: str | None
    method: str | None
    key: str
    created_at: datetime
    status: PaymentStatus = PaymentStatus.PENDING
    claimed_until: datetime | None = None
    reference: str | None = None
    decline: Decline | None = None
    settled_at: datetime | None = None
    refunded: Decimal = ZERO
    revision: int = 1


@dataclass(frozen=True, slots=True)
class Refund:
    """Some of a payment given back; its fields mean what a payment's do.

    `is_rest` says that no amount was asked for, but all that was left.
    """

    id: str
    payment: str
    amount: Decimal
    currency: str
    reason: str
    key: str
    created_at: datetime
    status: PaymentStatus = PaymentStatus.PENDING
    claimed_until: datetime | None = None
    reference: str | None = None
    decline: Decline | None = None
    settled_at: datetime | None = None
    is_rest: bool = False
    revision: int = 1


def claim(payment: Payment, at: datetime) -> Payment:
    """The payment in the hands of one who works on it from now on.

    Raises:
        Conflict: another does.
    """
    _require_free(payment.claimed_until, at, f"payment {payment.id}")
    return replace(payment, claimed_until=at + CLAIM, revision=payment.revision + 1)


def released(payment: Payment) -> Payment:
    """The payment when it is still not known what became of it, and nobody works on it."""
    return replace(payment, claimed_until=None, revision=payment.revision + 1)


def settle_succeeded(payment: Payment, reference: str, at: datetime) -> Payment:
    """The payment when the provider has charged it."""
    return replace(
        payment,
        status=PaymentStatus.SUCCEEDED,
        reference=reference,
        claimed_until=None,
        settled_at=at,
        revision=payment.revision + 1,
    )


def settle_failed(payment: Payment, decline: Decline, at: datetime) -> Payment:
    """The payment when it is certain that it was not charged."""
    return replace(
        payment,
        status=PaymentStatus.FAILED,
        decline=decline,
        claimed_until=None,
        settled_at=at,
        revision=payment.revision + 1,
    )


def refund_of(
    payment: Payment, *, refund_id: str, amount: Decimal | None, reason: str, key: str, at: datetime
) -> tuple[Payment, Refund]:
    """A new refund, of all that is left unless an amount is given, and the payment that it is counted in.

    Raises:
        Conflict: the payment has not succeeded, or less is left of it.
        InvalidInput: the amount is no amount of money.
    """
    if payment.status is not PaymentStatus.SUCCEEDED:
        raise Conflict(f"The payment {payment.id} is {payment.status}; only one that succeeded can be refunded.")
    left = EXACT.subtract(payment.amount, payment.refunded)
    wanted = left if amount is None else amount
    if amount is not None and (amount <= 0 or round_amount(amount, payment.currency) != amount):
        raise InvalidInput([FieldError("/amount", f"must be an amount of {payment.currency} greater than 0")])
    if wanted <= 0 or wanted > left:
        there_is = f"{format_amount(left, payment.currency)} {payment.currency}"
        raise Conflict(f"Of the payment {payment.id}, {there_is} are left to be refunded.")
    refund = Refund(refund_id, payment.id, wanted, payment.currency, reason, key, at, is_rest=amount is None)
    counted = replace(payment, refunded=EXACT.add(payment.refunded, wanted), revision=payment.revision + 1)
    return counted, refund


def claim_refund(refund: Refund, at: datetime) -> Refund:
    """The refund in the hands of one who works on it from now on.

    Raises:
        Conflict: another does.
    """
    _require_free(refund.claimed_until, at, f"refund {refund.id}")
    return replace(refund, claimed_until=at + CLAIM, revision=refund.revision + 1)


def refund_succeeded(refund: Refund, reference: str, at: datetime) -> Refund:
    """The refund when the provider has given the money back."""
    return replace(
        refund,
        status=PaymentStatus.SUCCEEDED,
        reference=reference,
        decline=None,
        claimed_until=None,
        settled_at=at,
        revision=refund.revision + 1,
    )


def refund_failed(payment: Payment, refund: Refund, decline: Decline, at: datetime) -> tuple[Payment, Refund]:
    """The refund when it is certain that it will not be given, and the payment, of which so much is left again."""
    failed = replace(
        refund,
        status=PaymentStatus.FAILED,
        decline=decline,
        claimed_until=None,
        settled_at=at,
        revision=refund.revision + 1,
    )
    left = EXACT.subtract(payment.refunded, refund.amount)
    return replace(payment, refunded=left, revision=payment.revision + 1), failed


def _require_free(claimed_until: datetime | None, at: datetime, what: str) -> None:
    if claimed_until is not None and at < claimed_until:
        raise Conflict(f"Another is working on {what} now; send the request again in a few minutes.")


def payment_to_dict(payment: Payment) -> dict[str, Any]:
    """A payment as the API shows it; its refunds are added by whoever has them."""
    return {
        "id": payment.id,
        "customer": payment.customer,
        "subscription": payment.subscription,
        "invoice": payment.invoice,
        "purpose": "invoice" if payment.invoice else "top_up",
        "status": payment.status.value,
        "amount": format_amount(payment.amount, payment.currency),
        "refunded": format_amount(payment.refunded, payment.currency),
        "currency": payment.currency,
        "provider": payment.provider,
        "provider_reference": payment.reference,
        "failure": _decline_to_dict(payment.decline),
        "created_at": format_time(payment.created_at),
        "settled_at": format_time(payment.settled_at) if payment.settled_at else None,
    }


def refund_to_dict(refund: Refund) -> dict[str, Any]:
    """A refund as the API shows it."""
    return {
        "id": refund.id,
        "payment": refund.payment,
        "status": refund.status.value,
        "amount": format_amount(refund.amount, refund.currency),
        "currency": refund.currency,
        "reason": refund.reason,
        "provider_reference": refund.reference,
        "failure": _decline_to_dict(refund.decline),
        "created_at": format_time(refund.created_at),
        "settled_at": format_time(refund.settled_at) if refund.settled_at else None,
    }


def _decline_to_dict(decline: Decline | None) -> dict[str, str] | None:
    if decline is None:
        return None
    return {"kind": decline.kind.value, "code": decline.code, "message": decline.message}

"""What collecting and refunding stand on: stores, providers, and whom they tell."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from tollgate.billing.invoices import Invoice
from tollgate.billing.ledger import Wallets
from tollgate.billing.payments import Decline, DeclineKind, Payer, Payment, Refund
from tollgate.billing.providers import WALLET, Outcome, PaymentProvider
from tollgate.billing.wallet import Posting, Wallet
from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import NotFound
from tollgate.kernel.ids import new_id
from tollgate.kernel.money import ZERO
from tollgate.kernel.time import Clock

__all__ = ["Change", "Invoices", "Payments", "Till", "existing_invoice", "existing_payment"]

Change = Payment | Refund | Invoice | Wallet | Posting
"""Something in its next revision."""


class Invoices(Protocol):
    """Where invoices are kept."""

    def get(self, invoice_id: str) -> Invoice | None:
        """The invoice, as the last write left it."""


class Payments(Protocol):
    """Where payments are kept, and whatever changes together with them."""

    def payment(self, payment_id: str) -> Payment | None:
        """The payment, as the last write left it."""

    def payments(self, payment_ids: Sequence[str]) -> list[Payment]:
        """Those of the payments that there are, in the same order."""

    def refund(self, refund_id: str) -> Refund | None:
        """The refund, as the last write left it."""

    def refunds(self, payment_id: str) -> list[Refund]:
        """All refunds of a payment, the oldest first."""

    def write(self, *changes: Change) -> bool:
        """Write things in their next revisions, all or none; False when another writer was first with one of them."""

    def payer(self, customer: str) -> Payer | None:
        """How a customer pays, if that was ever said."""

    def save_payer(self, payer: Payer) -> None:
        """Say how a customer pays from now on."""

    def has_seen(self, event_id: str) -> bool:
        """Whether an event of the provider's has been dealt with."""

    def saw(self, event_id: str, event_type: str, at: datetime) -> None:
        """Say that an event of the provider's has been dealt with."""


def _nothing(_: Invoice) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Till:
    """All that moving money stands on.

    Attributes:
        providers: by name; the wallet is always one.
        overdraft: how far below 0 a wallet may go.
        new_key: makes the key that a provider knows a payment or refund by, for ever.
        on_settled: is told of each invoice that is found paid or void; more than once does no harm.
        on_past_due: makes an open invoice past due, with all that follows; more than once does no harm.
    """

    invoices: Invoices
    payments: Payments
    wallets: Wallets
    providers: Mapping[str, PaymentProvider]
    clock: Clock
    overdraft: Decimal = ZERO
    new_key: Callable[[], str] = lambda: new_id("key")
    on_settled: Callable[[Invoice], None] = _nothing
    on_past_due: Callable[[Invoice], None] = _nothing

    def payer(self, customer: str) -> Payer:
        """How a customer pays: by the wallet, unless another way was ever said."""
        return self.payments.payer(customer) or Payer(customer, WALLET)

    def provider(self, payment: Payment) -> PaymentProvider:
        """Who charges a payment; one that this deployment has no more declines it."""
        return self.providers.get(payment.provider) or _Gone(payment.provider)


class _Gone:
    """A provider that is not configured any more."""

    def __init__(self, name: str) -> None:
        self._decline = Decline(DeclineKind.HARD, "no_provider", f"The provider {name} is not configured.")

    def charge(self, payment: Payment) -> Outcome:  # noqa: ARG002  nothing is charged
        return self._decline

    def refund(self, payment: Payment, refund: Refund) -> Outcome:  # noqa: ARG002  the same
        return self._decline

    def find_charge(self, payment: Payment) -> Outcome | None:
        raise TimeoutError(f"{self._decline.message} What became of {payment.id} cannot be asked.")

    def find_refund(self, payment: Payment, refund: Refund) -> Outcome | None:
        raise TimeoutError(f"{self._decline.message} What became of {refund.id} of {payment.id} cannot be asked.")


def existing_invoice(till: Till, invoice_id: str) -> Invoice:
    """An invoice, or NotFound."""
    found = till.invoices.get(invoice_id)
    if found is None:
        raise NotFound(f"There is no invoice {invoice_id}.")
    return found


def existing_payment(till: Till, payment_id: str) -> Payment:
    """A payment, or NotFound."""
    found = till.payments.payment(payment_id)
    if found is None:
        raise NotFound(f"There is no payment {payment_id}.")
    return found

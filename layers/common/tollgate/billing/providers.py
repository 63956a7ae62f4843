"""Who moves the money: what a payment provider must do, and the wallet as one.

A call ends in one of five ways: it succeeded, it was declined, the provider is still at work on it (a bank debit takes
days), as a ConnectionError the provider was not there, or as a TimeoutError it is not known what became of it. After
that the provider is asked by `find_charge` or `find_refund` before anything is tried again, and whatever is tried
again carries the same key.
"""

from decimal import Decimal
from typing import Final, Protocol

from tollgate.billing.ledger import Wallets
from tollgate.billing.payments import Decline, DeclineKind, Payment, Refund
from tollgate.billing.wallet import EntryType, InsufficientFunds, Posting, post
from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import InvalidInput
from tollgate.kernel.time import Clock

__all__ = ["WALLET", "Outcome", "PaymentProvider", "Processing", "Succeeded", "WalletProvider"]

WALLET: Final = "wallet"


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The money has moved; `posting` is what is written together with the news of it, where the wallet moved it."""

    reference: str
    posting: Posting | None = None


@dataclass(frozen=True, slots=True)
class Processing:
    """The provider has taken it and does not know yet."""

    reference: str


Outcome = Succeeded | Processing | Decline


class PaymentProvider(Protocol):
    """Charges and gives back. None of the four raises anything but a TimeoutError or a ConnectionError."""

    def charge(self, payment: Payment) -> Outcome:
        """Charge a payment, once for its key."""

    def find_charge(self, payment: Payment) -> Outcome | None:
        """What became of a charge that was tried before; None when the provider knows nothing of it."""

    def refund(self, payment: Payment, refund: Refund) -> Outcome:
        """Give back some of a payment, once for the refund's key."""

    def find_refund(self, payment: Payment, refund: Refund) -> Outcome | None:
        """What became of a refund that was tried before; None when the provider knows nothing of it."""


class WalletProvider:
    """The customer's prepaid balance.

    The entry is not written here but with the payment and the invoice, in one transaction: what has no news in the
    payment has not happened.
    """

    def __init__(self, wallets: Wallets, *, overdraft: Decimal, clock: Clock) -> None:
        self._wallets = wallets
        self._overdraft = overdraft
        self._clock = clock

    def charge(self, payment: Payment) -> Outcome:
        """Take a payment from the balance."""
        return self._post(payment, payment.id, EntryType.CHARGE, -payment.amount, payment.invoice or "")

    def find_charge(self, payment: Payment) -> Outcome | None:  # noqa: ARG002  the payment would not be pending
        """Nothing: a charge that was made is told by the payment."""
        return None

    def refund(self, payment: Payment, refund: Refund) -> Outcome:
        """Put some of a payment back into the balance."""
        return self._post(payment, refund.id, EntryType.REFUND, refund.amount, refund.reason)

    def find_refund(self, payment: Payment, refund: Refund) -> Outcome | None:  # noqa: ARG002  the same
        """Nothing: a refund that was made is told by itself."""
        return None

    def _post(
        self, payment: Payment, entry_id: str, entry_type: EntryType, amount: Decimal, description: str
    ) -> Outcome:
        try:
            posting = post(
                self._wallets.wallet(payment.customer),
                customer=payment.customer,
                entry_id=entry_id,
                entry_type=entry_type,
                amount=amount,
                currency=payment.currency,
                description=description,
                overdraft=self._overdraft,
                at=self._clock(),
            )
        except InsufficientFunds as error:
            return Decline(DeclineKind.FUNDS, "insufficient_funds", error.detail)
        except InvalidInput as error:
            return Decline(DeclineKind.HARD, "currency_mismatch", error.detail)
        return Succeeded(f"{posting.entry.number}", posting)

"""A customer's prepaid balance and its append-only ledger. Pure.

A wallet has one currency, that of its first entry. Each entry moves the balance by its amount, in the currency's
major unit: a deposit and a refund above 0, a charge below 0, an adjustment either way. The balance is the sum of the
entries at every moment, and never below minus the overdraft that the deployment allows.
"""

from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final

from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import Conflict, FieldError, InvalidInput
from tollgate.kernel.money import EXACT, ZERO, format_amount, round_amount

__all__ = [
    "MAX_AMOUNT",
    "Entry",
    "EntryType",
    "InsufficientFunds",
    "Posting",
    "TopUp",
    "Wallet",
    "amount_faults",
    "post",
    "repeated",
    "same_currency",
    "top_up_due",
    "with_top_up",
]

MAX_AMOUNT: Final = Decimal(10) ** 15
"""What a single amount stays below, so that no sum of them outgrows what the database keeps exactly."""


class EntryType(StrEnum):
    """Why the balance moved."""

    DEPOSIT = "deposit"
    ADJUSTMENT = "adjustment"
    CHARGE = "charge"
    REFUND = "refund"


class InsufficientFunds(Conflict):
    """The balance, with the overdraft, does not cover what is taken; nothing was taken."""

    slug, title = "insufficient-funds", "Insufficient funds"


@dataclass(frozen=True, slots=True)
class TopUp:
    """Bring in `amount` from the customer's payment method whenever the balance is below `threshold`."""

    threshold: Decimal
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Wallet:
    """A balance; `entries` is the number of its last ledger entry, 0 before the first.

    `payment` is the top-up that is under way, if one is. `revision` grows with every change.
    """

    customer: str
    currency: str
    balance: Decimal = ZERO
    entries: int = 0
    top_up: TopUp | None = None
    payment: str | None = None
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger, numbered from 1.

    `id` is the one a client chose for a deposit or adjustment; of what billing itself enters, it is the id of the
    payment or refund behind it.
    """

    number: int
    id: str
    type: EntryType
    amount: Decimal
    balance_after: Decimal
    currency: str
    description: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Posting:
    """A wallet in its next revision and the entry that led there: written whole or not at all."""

    after: Wallet
    entry: Entry


def post(
    wallet: Wallet | None,
    *,
    customer: str,
    entry_id: str,
    entry_type: EntryType,
    amount: Decimal,
    currency: str,
    description: str = "",
    overdraft: Decimal,
    at: datetime,
) -> Posting:
    """The wallet after one more entry.

    Args:
        wallet: as it is; None, if the customer has none yet.
        customer: whose it is.
        entry_id: names the entry for ever.
        entry_type: what `amount` is.
        amount: moves the balance; not 0, and of the sign of its type.
        currency: of the amount.
        description: for people.
        overdraft: how far below 0 the balance may go.
        at: when.

    Raises:
        InvalidInput: another currency than the wallet's.
        InsufficientFunds: it would take more than there is.
    """
    before = wallet or Wallet(customer, currency)
    same_currency(before, currency)
    balance = EXACT.add(before.balance, amount)
    if amount < 0 and balance < -overdraft:
        raise InsufficientFunds(
            f"The wallet of {customer} holds {format_amount(before.balance, currency)} {currency};"
            f" this would take {format_amount(-amount, currency)}."
        )
    number = before.entries + 1
    entry = Entry(number, entry_id, entry_type, amount, balance, currency, description, at)
    after = replace(before, balance=balance, entries=number, revision=before.revision + 1)
    return Posting(after, entry)


def same_currency(wallet: Wallet, currency: str) -> None:
    """Hold a wallet to its one currency.

    Raises:
        InvalidInput: this is another.
    """
    if wallet.currency != currency:
        raise InvalidInput([FieldError("/currency", f"the wallet of {wallet.customer} is in {wallet.currency}")])


def amount_faults(amount: Decimal, currency: str, entry_type: EntryType, pointer: str = "/amount") -> list[FieldError]:
    """What keeps an amount from being entered, with a pointer into the body it came in."""
    faults = []
    if amount == 0:
        faults.append(FieldError(pointer, "must not be 0"))
    if amount < 0 and entry_type is EntryType.DEPOSIT:
        faults.append(FieldError(pointer, "must be greater than 0; to take money out, make an adjustment"))
    if abs(amount) >= MAX_AMOUNT:
        faults.append(FieldError(pointer, "must have at most 15 digits before the point"))
    elif round_amount(amount, currency) != amount:
        faults.append(FieldError(pointer, f"has more digits after the point than {currency} has"))
    return faults


def repeated(entry: Entry, *, entry_type: EntryType, amount: Decimal, currency: str, description: str) -> Entry:
    """The entry that an id stands for already, if it was asked for in the same words.

    Raises:
        Conflict: the id belongs to another.
    """
    known = (entry.type, entry.amount, entry.currency, entry.description)
    if known != (entry_type, amount, currency, description):
        raise Conflict(f"The transaction {entry.id} was made by another request.")
    return entry


def top_up_due(wallet: Wallet) -> bool:
    """Whether money is to be brought in: the balance is below the threshold, or a top-up never came to its end."""
    return wallet.payment is not None or (wallet.top_up is not None and wallet.balance < wallet.top_up.threshold)


def with_top_up(wallet: Wallet, top_up: TopUp | None) -> Wallet:
    """The wallet with another rule for its top-up, or none; one that is under way goes on."""
    return replace(wallet, top_up=top_up, revision=wallet.revision + 1)

"""What a wallet is asked to do: an entry a client names, its rule for topping up, and what it holds."""

from collections.abc import Callable
from decimal import Decimal
from typing import Final, Protocol

from tollgate.billing.wallet import (
    Entry,
    EntryType,
    Posting,
    TopUp,
    Wallet,
    amount_faults,
    post,
    repeated,
    same_currency,
    with_top_up,
)
from tollgate.kernel.errors import Conflict, FieldError, InvalidInput
from tollgate.kernel.time import Clock

__all__ = ["Wallets", "enter", "set_top_up"]

TRIES: Final = 20


class Wallets(Protocol):
    """What the use cases need of a store; every write is whole or not at all."""

    def wallet(self, customer: str) -> Wallet | None:
        """The wallet, as the last write left it."""

    def entry(self, customer: str, entry_id: str) -> Entry | None:
        """The entry that a client gave this id."""

    def add(self, posting: Posting) -> bool:
        """Write an entry that a client named; False, and nothing is changed, when another writer was first."""

    def change(self, after: Wallet) -> bool:
        """Write a wallet whose ledger stays as it is in its next revision; False when another writer was first."""

    def entries(self, customer: str, after: int, limit: int) -> tuple[list[Entry], int | None]:
        """The ledger in its order after an entry's number, and the last number when there is more."""


def enter(
    wallets: Wallets,
    *,
    customer: str,
    entry_id: str,
    entry_type: EntryType,
    amount: Decimal,
    currency: str,
    description: str,
    overdraft: Decimal,
    clock: Clock,
) -> Entry:
    """Deposit money, or adjust the balance either way; the same request again gives the entry it made.

    Raises:
        InvalidInput: the amount has the wrong sign or too many digits, or the currency is not the wallet's.
        InsufficientFunds: an adjustment would take more than there is.
        Conflict: the id belongs to another request, or others changed the wallet all the time.
    """
    faults = amount_faults(amount, currency, entry_type)
    if faults:
        raise InvalidInput(faults)
    for _ in range(TRIES):
        known = wallets.entry(customer, entry_id)
        if known is not None:
            return repeated(known, entry_type=entry_type, amount=amount, currency=currency, description=description)
        posting = post(
            wallets.wallet(customer),
            customer=customer,
            entry_id=entry_id,
            entry_type=entry_type,
            amount=amount,
            currency=currency,
            description=description,
            overdraft=overdraft,
            at=clock(),
        )
        if wallets.add(posting):
            return posting.entry
    raise _busy(customer)


def set_top_up(wallets: Wallets, customer: str, top_up: TopUp | None, currency: str | None) -> Wallet | None:
    """Have a wallet topped up by this rule from now on, or no more; the wallet, if there is one.

    Raises:
        InvalidInput: an amount that cannot be charged, or another currency than the wallet's.
        Conflict: others changed the wallet all the time.
    """

    def changed(before: Wallet | None) -> Wallet | None:
        if top_up is None:
            return with_top_up(before, None) if before and before.top_up else before
        if currency is None:
            raise InvalidInput([FieldError("/currency", "is needed")])
        wallet = before or Wallet(customer, currency)
        same_currency(wallet, currency)
        faults = amount_faults(top_up.amount, currency, EntryType.DEPOSIT)
        if top_up.threshold:
            faults += amount_faults(top_up.threshold, currency, EntryType.ADJUSTMENT, "/threshold")
        if top_up.threshold < 0:
            faults.append(FieldError("/threshold", "must not be negative"))
        if faults:
            raise InvalidInput(faults)
        return wallet if wallet.top_up == top_up else with_top_up(wallet, top_up)

    return _changed(wallets, customer, changed)


def _changed(wallets: Wallets, customer: str, change: Callable[[Wallet | None], Wallet | None]) -> Wallet | None:
    for _ in range(TRIES):
        before = wallets.wallet(customer)
        after = change(before)
        if after is None or after == before or wallets.change(after):
            return after
    raise _busy(customer)


def _busy(customer: str) -> Conflict:
    return Conflict(f"Others are changing the wallet of {customer} now; send the request again.")

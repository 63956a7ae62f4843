"""Wallets in DynamoDB: the billing table.

pk                 sk                      what
WALLET#customer    WALLET                  the balance, the number of the last entry, the rule of the top-up
WALLET#customer    ENTRY#0000000000042     one line of the ledger, never changed
WALLET#customer    ID#id                   the number of the entry that a client gave this id

An entry, the balance after it and its id are written in one transaction, on condition that the wallet is as it was
read: two writers at once give one entry after the other, and a lost answer no second entry.
"""

from decimal import Decimal
from typing import Any, Final

from pynamodb.attributes import JSONAttribute, NumberAttribute, UnicodeAttribute, UTCDateTimeAttribute

from tollgate.billing.wallet import Entry, EntryType, Posting, TopUp, Wallet
from tollgate.kernel.dynamodb import BillingTable, DecimalAttribute, Write, connect, read_item, write_all

__all__ = ["DynamoWallets", "EntryItem", "entry_of", "posting_writes", "wallet_write"]

_WALLET: Final = "WALLET"
_ENTRY: Final = "ENTRY#"
_LAST: Final = 10**13 - 1


class WalletItem(BillingTable, discriminator="wallet"):
    """A wallet; every write of it is conditioned on `revision`."""

    currency = UnicodeAttribute()
    balance = DecimalAttribute()
    entries = NumberAttribute()
    top_up = JSONAttribute(null=True)
    payment = UnicodeAttribute(null=True)
    revision = NumberAttribute()


class EntryItem(BillingTable, discriminator="entry"):
    """A line of the ledger."""

    id = UnicodeAttribute()
    type = UnicodeAttribute()
    amount = DecimalAttribute()
    balance_after = DecimalAttribute()
    currency = UnicodeAttribute()
    description = UnicodeAttribute()
    at = UTCDateTimeAttribute()


class EntryIdItem(BillingTable, discriminator="entry_id"):
    """Which entry a client's id stands for."""

    number = NumberAttribute()


class DynamoWallets:
    """The `Wallets` of the deployment."""

    def wallet(self, customer: str) -> Wallet | None:
        """The wallet, as the last write left it."""
        item = read_item(WalletItem, _pk(customer), _WALLET)
        return _wallet(item) if item else None

    def entry(self, customer: str, entry_id: str) -> Entry | None:
        """The entry that a client gave this id."""
        marker = read_item(EntryIdItem, _pk(customer), f"ID#{entry_id}")
        item = read_item(EntryItem, _pk(customer), _entry_key(int(marker.number))) if marker else None
        return entry_of(item) if item else None

    def add(self, posting: Posting) -> bool:
        """Write an entry that a client named; False, and nothing is changed, when another writer was first."""
        marker = EntryIdItem(_pk(posting.after.customer), f"ID#{posting.entry.id}", number=posting.entry.number)
        return write_all([*posting_writes(posting), (marker, EntryIdItem.pk.does_not_exist())])

    def change(self, after: Wallet) -> bool:
        """Write a wallet whose ledger stays as it is in its next revision; False when another writer was first."""
        return write_all([wallet_write(after)])

    def entries(self, customer: str, after: int, limit: int) -> tuple[list[Entry], int | None]:
        """The ledger in its order after an entry's number, and the last number when there is more."""
        connect(BillingTable)
        within = EntryItem.sk.between(_entry_key(after + 1), _entry_key(_LAST))
        found = EntryItem.query(_pk(customer), within, consistent_read=True, limit=limit + 1)
        entries = [entry_of(item) for item in found]
        return entries[:limit], entries[limit - 1].number if len(entries) > limit else None


def posting_writes(posting: Posting) -> list[Write]:
    """The writes of an entry and the balance after it, as part of a transaction."""
    entry = _entry_item(posting.after.customer, posting.entry)
    return [wallet_write(posting.after), (entry, EntryItem.pk.does_not_exist())]


def wallet_write(after: Wallet) -> Write:
    """The write of a wallet in its next revision, on condition that the one before it is there."""
    if after.revision == 1:
        return _wallet_item(after), WalletItem.pk.does_not_exist()
    return _wallet_item(after), WalletItem.revision == after.revision - 1


def _pk(customer: str) -> str:
    return f"WALLET#{customer}"


def _entry_key(number: int) -> str:
    return f"{_ENTRY}{number:013d}"


def _wallet_item(wallet: Wallet) -> WalletItem:
    return WalletItem(
        _pk(wallet.customer),
        _WALLET,
        currency=wallet.currency,
        balance=wallet.balance,
        entries=wallet.entries,
        top_up=_top_up_to_dict(wallet.top_up) if wallet.top_up else None,
        payment=wallet.payment,
        revision=wallet.revision,
    )


def _wallet(item: WalletItem) -> Wallet:
    return Wallet(
        customer=item.pk.removeprefix("WALLET#"),
        currency=item.currency,
        balance=item.balance,
        entries=int(item.entries),
        top_up=_top_up_from_dict(item.top_up) if item.top_up else None,
        payment=item.payment,
        revision=int(item.revision),
    )


def _top_up_to_dict(top_up: TopUp) -> dict[str, str]:
    return {"threshold": f"{top_up.threshold:f}", "amount": f"{top_up.amount:f}"}


def _top_up_from_dict(body: dict[str, Any]) -> TopUp:
    return TopUp(Decimal(body["threshold"]), Decimal(body["amount"]))


def _entry_item(customer: str, entry: Entry) -> EntryItem:
    return EntryItem(
        _pk(customer),
        _entry_key(entry.number),
        id=entry.id,
        type=entry.type.value,
        amount=entry.amount,
        balance_after=entry.balance_after,
        currency=entry.currency,
        description=entry.description,
        at=entry.at,
    )


def entry_of(item: EntryItem) -> Entry:
    """The ledger entry that an item holds."""
    return Entry(
        number=int(item.sk.removeprefix(_ENTRY)),
        id=item.id,
        type=EntryType(item.type),
        amount=item.amount,
        balance_after=item.balance_after,
        currency=item.currency,
        description=item.description,
        at=item.at,
    )

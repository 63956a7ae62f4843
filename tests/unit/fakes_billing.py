"""A small wallet store in memory, and the terms tests use."""

from datetime import UTC, datetime
from typing import Final

from tollgate.billing.wallet import Entry, Posting, Wallet

__all__ = ["NOW", "MemoryWallets"]

NOW: Final = datetime(2026, 3, 15, 12, tzinfo=UTC)


class MemoryWallets:
    """The `Wallets` of a test."""

    def __init__(self) -> None:
        self.kept: dict[str, Wallet] = {}
        self.ledger: dict[str, list[Entry]] = {}
        self.named: dict[tuple[str, str], Entry] = {}

    def wallet(self, customer: str) -> Wallet | None:
        """The wallet."""
        return self.kept.get(customer)

    def entry(self, customer: str, entry_id: str) -> Entry | None:
        """The entry of that id."""
        return self.named.get((customer, entry_id))

    def add(self, posting: Posting) -> bool:
        """Write an entry, if its id is free and the wallet as it was."""
        key = (posting.after.customer, posting.entry.id)
        if key in self.named or not self.change(posting.after):
            return False
        self.named[key] = posting.entry
        self.ledger.setdefault(key[0], []).append(posting.entry)
        return True

    def change(self, after: Wallet) -> bool:
        """Write a wallet, if it is in the revision before."""
        kept = self.kept.get(after.customer)
        if (kept.revision if kept else 0) != after.revision - 1:
            return False
        self.kept[after.customer] = after
        return True

    def entries(self, customer: str, after: int, limit: int) -> tuple[list[Entry], int | None]:
        """The ledger after an entry."""
        found = [entry for entry in self.ledger.get(customer, []) if entry.number > after]
        return found[:limit], found[limit - 1].number if len(found) > limit else None

"""The streams of the billing and usage tables, read: which events the change of an item tells.

The billing table's stream has the items before and after each change. That of the usage table has keys only, for most
of what is written there is no news: the entry of a subscription's history is read.
"""

import base64
from collections.abc import Mapping
from typing import Any, Final, Protocol

from tollgate.billing.announcements import (
    Announcement,
    invoice_event,
    payment_event,
    refund_event,
    subscription_event,
    wallet_event,
)
from tollgate.billing.invoice_store import InvoiceItem, invoice_of
from tollgate.billing.payment_store import PaymentItem, RefundItem, payment_of, refund_of_item
from tollgate.billing.payments import Payment
from tollgate.billing.wallet_store import EntryItem, entry_of
from tollgate.catalog.life import Entry

__all__ = ["announcement_of"]

_HISTORY: Final = "HISTORY#"
Image = Mapping[str, Any]


class Histories(Protocol):
    """Where the histories of subscriptions are kept."""

    def history_entry(self, subscription_id: str, number: int) -> tuple[str, Entry] | None:
        """The customer of a subscription, and an entry of its history."""


class Payments(Protocol):
    """Where payments are kept."""

    def payment(self, payment_id: str) -> Payment | None:
        """The payment, as the last write left it."""


def announcement_of(change: Mapping[str, Any], histories: Histories, payments: Payments) -> Announcement | None:
    """The event of one record of a stream, its part `dynamodb`; None where there is nothing to tell.

    Raises:
        Unavailable: the database cannot be read now.
    """
    keys = change["Keys"]
    pk, sk = keys["pk"]["S"], keys["sk"]["S"]
    if pk.startswith("SUBSCRIPTION#") and sk.startswith(_HISTORY):
        subscription = pk.removeprefix("SUBSCRIPTION#")
        found = histories.history_entry(subscription, int(sk.removeprefix(_HISTORY)))
        return subscription_event(subscription, *found) if found else None
    after, before = _plain(change.get("NewImage")), _plain(change.get("OldImage"))
    return _billing(after, before, payments) if after else None


def _billing(after: Image, before: Image | None, payments: Payments) -> Announcement | None:
    def read(model: Any, value_of: Any) -> tuple[Any, Any]:
        return (value_of(model.from_raw_data(before)) if before else None), value_of(model.from_raw_data(after))

    match after["kind"]["S"]:
        case "invoice":
            return invoice_event(*read(InvoiceItem, invoice_of))
        case "payment":
            return payment_event(*read(PaymentItem, payment_of))
        case "refund":
            old, new = read(RefundItem, refund_of_item)
            payment = payments.payment(new.payment)
            return refund_event(old, new, payment) if payment else None
        case "entry":
            item = EntryItem.from_raw_data(dict(after))
            return wallet_event(item.pk.removeprefix("WALLET#"), entry_of(item))
    return None


def _plain(image: Image | None) -> dict[str, Any] | None:
    """An image of the stream as a read would give it: Lambda writes bytes in base64."""
    if not image:
        return None
    return {name: _bytes(value) for name, value in image.items()}


def _bytes(value: Mapping[str, Any]) -> Mapping[str, Any]:
    content = value.get("B")
    return {"B": base64.b64decode(content)} if isinstance(content, str) else value

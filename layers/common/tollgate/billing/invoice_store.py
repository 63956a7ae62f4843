"""Invoices in DynamoDB: the billing table.

pk               sk                what
INVOICE#id       INVOICE           an invoice; its lines and history are compressed in `body`
NUMBERS          INVOICE           how many invoices have been given a number

An invoice is listed in the indexes `invoice_customer`, `invoice_subscription` and `invoice_status`, whose reads lag:
what is listed is read again.
"""

import json
import random
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from pynamodb.attributes import BinaryAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.expressions.condition import Condition

from tollgate.billing.invoices import (
    Invoice,
    InvoiceStatus,
    Late,
    invoice_from_dict,
    invoice_number,
    invoice_to_dict,
)
from tollgate.kernel.dynamodb import BillingTable, DecimalAttribute, Write, connect, read_item, write_all
from tollgate.kernel.errors import BadRequest, Unavailable
from tollgate.kernel.time import format_time, parse_time

__all__ = ["DynamoInvoices", "InvoiceItem", "invoice_of", "invoice_write"]

_TRIES: Final = 30
_PAUSE_SECONDS: Final = 0.05


class InvoiceItem(BillingTable, discriminator="invoice"):
    """An invoice; `revision` grows with every write and is what each write is conditioned on."""

    revision = NumberAttribute()
    status = UnicodeAttribute()
    number = UnicodeAttribute(null=True)
    customer = UnicodeAttribute()
    subscription = UnicodeAttribute()
    currency = UnicodeAttribute()
    total = DecimalAttribute()
    amount_paid = DecimalAttribute()
    payment = UnicodeAttribute(null=True)
    attempts = NumberAttribute(default=0)
    body = BinaryAttribute(legacy_encoding=False)
    invoice_customer = UnicodeAttribute()
    invoice_subscription = UnicodeAttribute()
    invoice_status = UnicodeAttribute()
    invoice_at = UnicodeAttribute()


class NumbersItem(BillingTable, discriminator="numbers"):
    """How many numbers have been given."""

    given = NumberAttribute()


def invoice_write(after: Invoice) -> Write:
    """The write of an invoice in its next revision, on condition that the one before it is there.

    It is part of a transaction with whatever must happen together with it (`tollgate.kernel.dynamodb.write_all`).
    """
    if after.revision == 0:
        return _item(after), InvoiceItem.pk.does_not_exist()
    return _item(after), InvoiceItem.revision == after.revision - 1


class DynamoInvoices:
    """The `Invoices` of the deployment."""

    def get(self, invoice_id: str) -> Invoice | None:
        """The invoice, if there is one, as the last write left it."""
        item = read_item(InvoiceItem, f"INVOICE#{invoice_id}", "INVOICE")
        return invoice_of(item) if item else None

    def write(self, after: Invoice, also: Sequence[Write] = ()) -> bool:
        """Write an invoice in its next revision, and other items with it; False when another writer was first."""
        return write_all([invoice_write(after), *also])

    def open(self, after: Invoice) -> Invoice | None:
        """Write an invoice in its next revision with the next number; None when another writer was first.

        The number is counted in the same transaction: one that is given is that of an invoice, and none is left out.

        Raises:
            Unavailable: others kept taking the next number.
        """
        for attempt in range(_TRIES):
            given = _given()
            same: Condition = NumbersItem.given == given if given else NumbersItem.pk.does_not_exist()
            numbered = replace(after, number=invoice_number(given + 1))
            counter = NumbersItem("NUMBERS", "INVOICE", given=given + 1)
            try:
                is_written = write_all([invoice_write(numbered), (counter, same)])
            except Unavailable:  # it may have been written all the same
                if attempt == _TRIES - 1:
                    raise
                is_written = self.get(after.id) == numbered
            if is_written:
                return numbered
            found = self.get(after.id)
            if found is None or found.revision != after.revision - 1:
                return None
            time.sleep(random.uniform(0, _PAUSE_SECONDS))  # noqa: S311  spreads writers, guards nothing
        raise Unavailable("Many invoices are being opened now; send the request again.")

    def list(
        self,
        *,
        customer: str | None = None,
        subscription: str | None = None,
        status: InvoiceStatus | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> tuple[list[Invoice], str | None]:
        """Invoices, the newest first, and where the next page begins when there are more; with no filter, by status.

        Raises:
            BadRequest: `after` is not what a page ended with.
        """
        name, parts = _partitions(customer, subscription, status)
        place, key = _place(after, len(parts))
        found: list[dict[str, Any]] = []
        last: str | None = None
        while place < len(parts):
            filters = {"invoice_customer": customer, "invoice_subscription": subscription}
            filters["invoice_status"] = status.value if status else None
            del filters[name]
            for item in _query(name, parts[place], {one: text for one, text in filters.items() if text}, key):
                if len(found) == limit:
                    return _read(found, status), last
                found.append(item)
                last = f"{place}|{item['pk']['S']}|{item['invoice_at']['S']}"
            place, key = place + 1, None
        return _read(found, status), None

    def owed(self, subscription: str) -> Sequence[Invoice]:
        """The invoices of a subscription that are neither paid nor void, as the last write left them.

        Those two states are final, so that an index that lags shows some too many and leaves none out.
        """
        final = (InvoiceStatus.PAID, InvoiceStatus.VOID)
        found = _read(list(_query("invoice_subscription", subscription, {}, None, without=final)), None)
        return [invoice for invoice in found if invoice.status not in final]


def _given() -> int:
    item = read_item(NumbersItem, "NUMBERS", "INVOICE")
    return int(item.given) if item else 0


def _partitions(customer: str | None, subscription: str | None, status: InvoiceStatus | None) -> tuple[str, list[str]]:
    """The index that answers with the fewest items to leave out, and its partitions."""
    if subscription:
        return "invoice_subscription", [subscription]
    if customer:
        return "invoice_customer", [customer]
    return "invoice_status", [status.value] if status else [one.value for one in InvoiceStatus]


def _place(after: str | None, parts: int) -> tuple[int, tuple[str, str] | None]:
    if after is None:
        return 0, None
    place, _, rest = after.partition("|")
    pk, _, at = rest.partition("|")
    if not place.isdigit() or int(place) >= parts or not at:
        raise BadRequest("The cursor is of another list.")
    return int(place), (pk, at)


def _query(
    index: str,
    value: str,
    filters: Mapping[str, str],
    after: tuple[str, str] | None,
    without: Sequence[InvoiceStatus] = (),
) -> Iterable[dict[str, Any]]:
    """The keys in a partition of an index, the newest first, through the table's one client."""
    names = {"#partition": index}
    values: dict[str, Any] = {":partition": {"S": value}}
    request: dict[str, Any] = {
        "TableName": BillingTable.Meta.table_name,
        "IndexName": index,
        "KeyConditionExpression": "#partition = :partition",
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
        "ScanIndexForward": False,
    }
    conditions: list[str] = []
    for name, text in filters.items():
        names[f"#{name}"], values[f":{name}"] = name, {"S": text}
        conditions.append(f"#{name} = :{name}")
    for status in without:
        names["#invoice_status"], values[f":{status}"] = "invoice_status", {"S": status.value}
        conditions.append(f"#invoice_status <> :{status}")
    if conditions:
        request["FilterExpression"] = " AND ".join(conditions)
    if after:
        pk, at = after
        start = {"pk": pk, "sk": "INVOICE", "invoice_at": at, index: value}
        request["ExclusiveStartKey"] = {name: {"S": text} for name, text in start.items()}
    for page in connect(BillingTable).client.get_paginator("query").paginate(**request):
        yield from page["Items"]


def _read(keys: Sequence[Mapping[str, Any]], status: InvoiceStatus | None) -> list[Invoice]:
    """The invoices themselves, in the same order; one whose status has changed since it was listed is left out."""
    connect(BillingTable)
    wanted = [(key["pk"]["S"], "INVOICE") for key in keys]
    found = {item.pk: invoice_of(item) for item in InvoiceItem.batch_get(wanted, consistent_read=True)}
    invoices = (found[pk] for pk, _ in wanted if pk in found)
    return [invoice for invoice in invoices if status in (None, invoice.status)]


def _item(invoice: Invoice) -> InvoiceItem:
    body = invoice_to_dict(invoice) | {"late": [_late_to_list(late) for late in invoice.late]}
    return InvoiceItem(
        f"INVOICE#{invoice.id}",
        "INVOICE",
        revision=invoice.revision,
        status=invoice.status.value,
        number=invoice.number,
        customer=invoice.customer,
        subscription=invoice.subscription,
        currency=invoice.currency,
        total=invoice.total,
        amount_paid=invoice.amount_paid,
        payment=invoice.payment,
        attempts=invoice.attempts,
        body=zlib.compress(json.dumps(body, separators=(",", ":")).encode(), 6),
        invoice_customer=invoice.customer,
        invoice_subscription=invoice.subscription,
        invoice_status=invoice.status.value,
        invoice_at="#".join([_sortable(invoice.period.end), _sortable(invoice.created_at), invoice.id]),
    )


def invoice_of(item: InvoiceItem) -> Invoice:
    """The invoice that an item holds."""
    body = json.loads(zlib.decompress(item.body))
    invoice = invoice_from_dict(body, tuple(_late_from_list(late) for late in body["late"]), int(item.revision))
    return replace(invoice, payment=item.payment, attempts=int(item.attempts))


def _late_to_list(late: Late) -> list[Any]:
    return [
        late.feature,
        late.shard,
        format_time(late.period_start),
        f"{late.closed:f}",
        f"{late.now:f}",
        list(late.tally),
    ]


def _late_from_list(body: list[Any]) -> Late:
    feature, shard, start, closed, now, (quantity, events, latest) = body
    return Late(feature, shard, parse_time(start), Decimal(closed), Decimal(now), (quantity, events, latest))


def _sortable(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")

"""Invoices in DynamoDB."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from tollgate.billing.invoice_store import DynamoInvoices
from tollgate.billing.invoices import Invoice, InvoiceLine, InvoiceStatus, Late, LineKind, move, paid
from tollgate.catalog.periods import Period
from tollgate.kernel.errors import BadRequest

pytestmark = pytest.mark.usefixtures("tables")

START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 2, 1, 0, 5, tzinfo=UTC)


def draft(name: str, day: int = 31, customer: str = "acme", subscription: str = "sub") -> Invoice:
    """A draft whose period ends so many days after the start of the year."""
    period = Period(START, START + timedelta(days=day))
    lines = (InvoiceLine(LineKind.BASE, Decimal("20.00"), "Starter", period),)
    late = (Late("calls", 0, START, Decimal(1), Decimal("2.5"), ("2.5", 3, "")),)
    return Invoice(name, customer, subscription, "starter", 1, period, "EUR", lines, Decimal("20.00"), NOW, late=late)


def opened(invoices: DynamoInvoices, one: Invoice) -> Invoice:
    """Write a draft and open it."""
    assert invoices.write(one)
    found = invoices.open(move(one, InvoiceStatus.OPEN, at=NOW, actor="system", reason="billed"))
    assert found is not None
    return found


def test_an_invoice_is_read_back_as_it_was_written() -> None:
    """With what the API does not show."""
    invoices = DynamoInvoices()
    assert invoices.get("inv_1") is None
    assert invoices.write(draft("inv_1"))
    assert invoices.get("inv_1") == draft("inv_1")


def test_an_id_is_taken_once() -> None:
    """By the first."""
    invoices = DynamoInvoices()
    assert invoices.write(draft("inv_1"))
    assert not invoices.write(draft("inv_1", customer="other"))
    assert invoices.get("inv_1") == draft("inv_1")


def test_numbers_have_no_gap() -> None:
    """One that could not be opened takes none."""
    invoices = DynamoInvoices()
    first = opened(invoices, draft("inv_1"))
    assert invoices.open(replace(first, revision=1)) is None
    assert [first.number, opened(invoices, draft("inv_2")).number] == ["INV-000001", "INV-000002"]


def test_of_two_changes_of_one_revision_the_second_is_refused() -> None:
    """Pay and void at once: one of them."""
    invoices = DynamoInvoices()
    before = opened(invoices, draft("inv_1"))
    assert invoices.write(paid(before, at=NOW, actor="system", reason="paid"))
    assert not invoices.write(move(before, InvoiceStatus.VOID, at=NOW, actor="key", reason="a mistake"))
    after = invoices.get("inv_1")
    assert after is not None
    assert after.status is InvoiceStatus.PAID


def test_invoices_are_listed_the_newest_first() -> None:
    """By customer, by subscription, by status, by several of them, and all."""
    invoices = DynamoInvoices()
    opened(invoices, draft("inv_1", 31))
    opened(invoices, draft("inv_2", 59))
    invoices.write(draft("inv_3", 90))
    opened(invoices, draft("inv_4", 90, subscription="sub-2"))
    opened(invoices, draft("inv_5", 31, customer="other", subscription="sub-3"))

    def ids(
        *, customer: str | None = None, subscription: str | None = None, status: InvoiceStatus | None = None
    ) -> list[str]:
        found, after = invoices.list(customer=customer, subscription=subscription, status=status)
        assert after is None
        return [one.id for one in found]

    assert ids(subscription="sub") == ["inv_3", "inv_2", "inv_1"]
    assert sorted(ids(customer="acme")) == ["inv_1", "inv_2", "inv_3", "inv_4"]
    assert ids(subscription="sub", status=InvoiceStatus.OPEN) == ["inv_2", "inv_1"]
    assert ids(customer="acme", subscription="sub-2") == ["inv_4"]
    assert ids(status=InvoiceStatus.DRAFT) == ["inv_3"]
    assert len(ids()) == 5


def test_a_list_goes_on_where_its_page_ended() -> None:
    """Over the statuses, where no filter is given; and a foreign cursor is refused."""
    invoices = DynamoInvoices()
    for number in range(5):
        opened(invoices, draft(f"inv_{number}", 31 + number))
    invoices.write(draft("inv_5", 31))
    found: list[str] = []
    after: str | None = None
    while True:
        page, after = invoices.list(after=after, limit=2)
        assert len(page) <= 2
        found += [one.id for one in page]
        if after is None:
            break
    assert sorted(found) == [f"inv_{number}" for number in range(6)]
    with pytest.raises(BadRequest):
        invoices.list(after="9|x|y")

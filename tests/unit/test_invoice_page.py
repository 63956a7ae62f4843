"""The page of an invoice: what it says, and that it is nothing but text."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from html.parser import HTMLParser

import pytest

from tests.unit.test_invoices import JANUARY, NOW, invoice
from tollgate.billing.invoices import InvoiceLine, InvoiceStatus, LineKind, Part, paid
from tollgate.billing.page import HEADERS, invoice_page
from tollgate.catalog.model import Customer
from tollgate.catalog.periods import Period
from tollgate.pricing.model import Tier, Tiered
from tollgate.pricing.quotes import quote, quote_to_dict

D = Decimal
ADA = Customer("ada", "Ada", "ada@example.com", "America/New_York")
PRICE = Tiered((Tier(D(100), D("0.10"), D(2)), Tier(None, D("0.08"))), minimum_amount=D(30))
VOID_TAGS = {"meta", "br", "link", "img"}


class Outline(HTMLParser):
    """Which elements are open, and all text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open one."""
        self.names.add(tag)
        assert not {name for name, _ in attrs} & {"src", "href", "onload", "style"}
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close the one that is open."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Text, but for the style."""
        self.text += f" {data}" if self.open and self.open[-1] != "style" else ""


def read(page: str) -> str:
    """All text of a page whose elements are closed and load nothing."""
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert not outline.names & {"script", "img", "link", "iframe", "form"}
    return re.sub(r"\s+", " ", outline.text)


def test_it_says_who_asks_whom_for_what() -> None:
    """With the seller's lines, the number, and the days of the period by the customer's clock."""
    made = replace(invoice(InvoiceStatus.OPEN), number="INV-000042", opened_at=NOW)
    text = read(invoice_page(made, ADA, seller="Example Ltd|1 Street|VAT 1"))
    for said in ("Invoice INV-000042", "Example Ltd", "1 Street", "Ada", "ada@example.com", "EUR 38.90", "To be paid"):
        assert said in text
    assert "31 December 2025 to 31 January 2026" in text  # UTC's midnight is an evening in New York
    assert "Amount due EUR 38.90" in text


def test_it_explains_usage_and_prorations() -> None:
    """Tier by tier, with fees and the minimum; and which part of which price."""
    details = tuple(quote_to_dict(quote(PRICE, D(150), "EUR"))["lines"])
    usage = InvoiceLine(LineKind.USAGE, D("30.00"), "Calls", JANUARY, "calls", D(150), details)
    part = InvoiceLine(LineKind.PRORATION, D("-5.00"), "Pro, unused time", JANUARY, part=Part(D(-10), D(1), D(2)))
    text = read(invoice_page(replace(invoice(), lines=(usage, part), total=D("25.00")), ADA))
    for said in ("from 0 to 100", "0.1 + 2", "from 100 and more", "to the minimum amount", "1 of 2 s", "-5.00"):
        assert said in text
    assert "Draft of an invoice" in text


def test_what_is_owed_to_the_customer_says_so() -> None:
    """And one with no lines says that nothing was charged."""
    owed = replace(invoice(InvoiceStatus.OPEN), total=D("-5.00"))
    assert "Owed to you EUR 5.00" in read(invoice_page(owed, ADA))
    assert "Nothing was charged" in read(invoice_page(replace(invoice(), lines=()), ADA))


def test_a_paid_one_shows_its_payments() -> None:
    """With what is still due: nothing."""
    settled = paid(invoice(InvoiceStatus.OPEN), at=NOW, actor="system", reason="paid")
    payment = {"created_at": "2026-02-01T12:00:00Z", "provider": "wallet", "status": "succeeded", "amount": "38.90"}
    text = read(invoice_page(settled, ADA, payments=[payment]))
    assert "Payment of 1 February 2026, wallet, succeeded 38.90" in text
    assert "Amount due EUR 0.00" in text


@pytest.mark.parametrize("evil", ["<script>alert(1)</script>", '"><img src=x>', "&lt;b&gt;"])
def test_what_others_have_written_is_text(evil: str) -> None:
    """Names, descriptions and the seller alike."""
    line = InvoiceLine(LineKind.BASE, D("1.00"), evil, Period(JANUARY.start, JANUARY.end))
    made = replace(invoice(), lines=(line,), subscription=evil)
    page = invoice_page(made, Customer("ada", evil, evil), seller=evil)
    assert read(page).count(evil) >= 4
    assert HEADERS["Content-Security-Policy"].startswith("default-src 'none'")


def test_an_instant_is_a_day() -> None:
    """The first invoice closes no period."""
    start = datetime(2026, 4, 1, 12, tzinfo=UTC)
    assert "Period 1 April 2026 Subscription" in read(
        invoice_page(replace(invoice(), period=Period(start, start)), ADA)
    )

"""Invoices: their states and their written form."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import product

import pytest

from tollgate.billing.invoices import (
    TRANSITIONS,
    Invoice,
    InvoiceLine,
    InvoiceStatus,
    LineKind,
    Part,
    invoice_from_dict,
    invoice_id,
    invoice_to_dict,
    move,
    paid,
)
from tollgate.catalog.periods import Period
from tollgate.kernel.errors import Conflict

JANUARY = Period(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))
FEBRUARY = Period(JANUARY.end, datetime(2026, 3, 1, tzinfo=UTC))
NOW = datetime(2026, 2, 1, 0, 5, tzinfo=UTC)
DETAIL = {"kind": "usage", "from": "0", "to": None, "quantity": "250", "unit_price": "0.088"}
DETAIL |= {"flat_fee": "0", "amount": "22"}
LINES = (
    InvoiceLine(LineKind.BASE, Decimal("20.00"), "Starter", FEBRUARY),
    InvoiceLine(
        LineKind.USAGE,
        Decimal("22.00"),
        "API calls",
        JANUARY,
        "api-calls",
        Decimal(250),
        (DETAIL,),
    ),
    InvoiceLine(
        LineKind.PRORATION,
        Decimal("-3.10"),
        "Starter",
        JANUARY,
        part=Part(Decimal("-20.00"), Decimal(1), Decimal(2)),
    ),
)


def invoice(status: InvoiceStatus = InvoiceStatus.DRAFT) -> Invoice:
    """An invoice of January."""
    made = Invoice("inv_1", "acme", "sub", "starter", 3, JANUARY, "EUR", LINES, Decimal("38.90"), NOW)
    return replace(made, status=status)


@pytest.mark.parametrize(("before", "after"), [*product(InvoiceStatus, InvoiceStatus)])
def test_only_the_transitions_of_the_drawing_are_possible(before: InvoiceStatus, after: InvoiceStatus) -> None:
    """A refusal names those that are, and a change is told in the history."""
    if after in TRANSITIONS[before]:
        moved = move(invoice(before), after, at=NOW, actor="key_1", reason="asked for")
        [entry] = moved.history
        assert (entry.before, entry.after, entry.actor, entry.reason) == (before, after, "key_1", "asked for")
        assert (moved.status, moved.revision) == (after, 1)
    else:
        with pytest.raises(Conflict) as refusal:
            move(invoice(before), after, at=NOW, actor="key_1", reason="asked for")
        assert all(status in refusal.value.detail for status in TRANSITIONS[before])


def test_what_is_paid_is_due_no_more() -> None:
    """And what is void was never due; what is given up still is."""
    opened = invoice(InvoiceStatus.OPEN)
    assert opened.amount_due == Decimal("38.90")
    settled = paid(opened, at=NOW, actor="system", reason="paid from the wallet")
    assert (settled.amount_due, settled.amount_paid, settled.paid_at) == (Decimal(0), Decimal("38.90"), NOW)
    assert invoice(InvoiceStatus.VOID).amount_due == 0
    assert invoice(InvoiceStatus.UNCOLLECTIBLE).amount_due == Decimal("38.90")


def test_an_invoice_is_read_back_as_it_was_written() -> None:
    """With all digits, lines and history."""
    written = paid(invoice(InvoiceStatus.OPEN), at=NOW, actor="system", reason="paid")
    assert invoice_from_dict(invoice_to_dict(written), revision=1) == written


def test_a_period_has_one_id() -> None:
    """By which a second invoice of it is refused."""
    assert invoice_id("sub", JANUARY) == invoice_id("sub", JANUARY)
    others = {invoice_id("sub", FEBRUARY), invoice_id("sub-2", JANUARY)}
    others.add(invoice_id("sub", Period(JANUARY.start, JANUARY.start)))
    assert len(others | {invoice_id("sub", JANUARY)}) == 4

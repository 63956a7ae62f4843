"""An invoice as a page to read, print or keep: HTML with no script and nothing from elsewhere. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from html import escape
from typing import Any, Final

from tollgate.billing.invoices import Invoice, InvoiceLine, InvoiceStatus, LineKind
from tollgate.catalog.model import Customer
from tollgate.catalog.periods import Period, time_zone
from tollgate.kernel.money import format_decimal

__all__ = ["HEADERS", "invoice_page"]

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "Cache-Control": "private, no-store",
}
"""What a browser is told of the page: it loads and runs nothing."""

_STATES: Final = {
    InvoiceStatus.DRAFT: "Draft, not yet issued",
    InvoiceStatus.OPEN: "To be paid",
    InvoiceStatus.PAID: "Paid",
    InvoiceStatus.PAST_DUE: "Past due",
    InvoiceStatus.VOID: "Void",
    InvoiceStatus.UNCOLLECTIBLE: "Uncollectible",
}

_KINDS: Final = {
    "included": "included in the price",
    "usage": "",
    "package": "packages",
    "minimum": "to the minimum amount",
    "maximum": "to the maximum amount",
    "base": "",
}

_STYLE: Final = """
@page { size: A4; margin: 20mm }
body { font: 14px/1.5 system-ui, sans-serif; color: #111; background: #fff; max-width: 48rem; margin: 2rem auto;
  padding: 0 1rem }
header { display: flex; justify-content: space-between; gap: 2rem; margin-bottom: 2rem }
h1 { font-size: 1.6rem; margin: 0 } address { font-style: normal } dl { display: grid;
  grid-template-columns: max-content auto; gap: 0 1rem; margin: 0 0 2rem } dt { color: #555 } dd { margin: 0 }
table { border-collapse: collapse; width: 100% } th { text-align: left; border-bottom: 2px solid #111 }
td, th { padding: .4rem .5rem; vertical-align: top } .n { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap } tbody { break-inside: avoid } tbody tr:first-child td { border-top: 1px solid #ccc }
.d td { color: #555; font-size: .9em; padding-top: 0 } .p { color: #555; font-size: .9em; display: block }
tfoot td { border-top: 2px solid #111; font-weight: bold } tfoot tr + tr td { border-top: 0; font-weight: normal }
@media print { body { margin: 0; max-width: none } }
"""


def invoice_page(
    invoice: Invoice, customer: Customer, *, seller: str = "", payments: Sequence[Mapping[str, Any]] = ()
) -> str:
    """The page of an invoice, with its dates by the customer's clock.

    Args:
        invoice: what is shown.
        customer: whom it is for.
        seller: who asks for it, lines divided by "|", such as "Example Ltd|1 Example Street|VAT GB000".
        payments: how it was paid, as the API shows that.
    """
    zone = customer.timezone
    title = f"Invoice {invoice.number}" if invoice.number else "Draft of an invoice"
    issued = _date(invoice.opened_at, zone) if invoice.opened_at else "not yet"
    facts = [
        ("Issued", issued),
        ("Period", _period(invoice.period, zone)),
        ("Subscription", invoice.subscription),
        ("Status", _STATES[invoice.status]),
    ]
    if invoice.paid_at:
        facts.append(("Paid on", _date(invoice.paid_at, zone)))
    rows = "".join(_line(line, zone) for line in invoice.lines) or (
        '<tbody><tr><td colspan="4">Nothing was charged in this period.</td></tr></tbody>'
    )
    due = "Owed to you" if invoice.amount_due < 0 else "Amount due"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        f"<header><div><h1>{escape(title)}</h1>{_address(_buyer(customer))}</div>"
        f"{_address(seller.split('|') if seller else [])}</header><dl>"
        + "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts)
        + '</dl><table><thead><tr><th>For</th><th class="n">Quantity</th><th class="n">Price</th>'
        f'<th class="n">Amount ({escape(invoice.currency)})</th></tr></thead>{rows}<tfoot>'
        + _sum("Total", f"{invoice.total:f}", invoice.currency)
        + "".join(_payment(payment, zone) for payment in payments)
        + _sum(due, f"{abs(invoice.amount_due):f}", invoice.currency)
        + "</tfoot></table></body></html>\n"
    )


def _buyer(customer: Customer) -> list[str]:
    return [customer.name or customer.id, *([customer.email] if customer.email else []), f"Customer {customer.id}"]


def _address(lines: Iterable[str]) -> str:
    return f"<address>{'<br>'.join(escape(line.strip()) for line in lines)}</address>"


def _line(line: InvoiceLine, zone: str) -> str:
    what = escape(line.description) + f'<span class="p">{escape(_period(line.period, zone))}</span>'
    quantity = format_decimal(line.quantity) if line.quantity is not None else ""
    price = ""
    if line.part is not None:
        seconds, of_seconds = format_decimal(line.part.seconds), format_decimal(line.part.of_seconds)
        quantity = f"{seconds} of {of_seconds} s"
        price = f"{line.part.price:f}"
    details = line.details if line.kind is not LineKind.BASE else ()
    rows = "".join(_detail(one) for one in details)
    first = f'<tr><td>{what}</td><td class="n">{quantity}</td><td class="n">{price}</td>'
    return f'<tbody>{first}<td class="n">{line.amount:f}</td></tr>{rows}</tbody>'


def _detail(detail: Mapping[str, Any]) -> str:
    """A line of the quote: the range of the price, so many units at so much, and its exact amount."""
    end = f"to {detail['to']}" if detail["to"] is not None else "and more"
    kind = _KINDS[detail["kind"]]
    fee = f" + {detail['flat_fee']}" if detail["flat_fee"] != "0" else ""
    name = kind or f"from {detail['from']} {end}"
    cells = [detail["quantity"], f"{detail['unit_price']}{fee}", f"({detail['amount']})"]
    shown = "".join(f'<td class="n">{escape(cell)}</td>' for cell in cells)
    return f'<tr class="d"><td>{escape(name)}</td>{shown}</tr>'


def _sum(name: str, amount: str, currency: str) -> str:
    return f'<tr><td colspan="3">{name}</td><td class="n">{escape(currency)} {amount}</td></tr>'


def _payment(payment: Mapping[str, Any], zone: str) -> str:
    at = payment.get("created_at")
    when = f" of {_date(datetime.fromisoformat(at), zone)}" if at else ""
    name = f"Payment{when}, {payment.get('provider', '')}, {payment.get('status', '')}"
    return f'<tr><td colspan="3">{escape(name)}</td><td class="n">{escape(str(payment.get("amount", "")))}</td></tr>'


def _period(period: Period, zone: str) -> str:
    """First and last day; a period with no length is a day."""
    last = max(period.start, period.end - timedelta(microseconds=1))
    first_day, last_day = _date(period.start, zone), _date(last, zone)
    return first_day if first_day == last_day else f"{first_day} to {last_day}"


def _date(at: datetime, zone: str) -> str:
    local = at.astimezone(time_zone(zone))
    return f"{local.day} {local:%B %Y}"

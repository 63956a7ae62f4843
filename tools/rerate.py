"""Prices a period's usage by another plan version: `python -m tools.rerate --customer acme --feature f --plan web`.

The usage is recounted from the archive; nothing is written. The exit code is 1 if the counter does not agree with it.
"""

import sys
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError
from rich.console import Console
from rich.table import Table

from tools import ROOT, ToolError
from tools.recount import audited, parser_of, show_recount
from tools.stores import Stores, open_stores

sys.path.insert(0, str(ROOT / "layers/common"))

from tollgate.catalog.model import Plan
from tollgate.kernel.errors import TollgateError
from tollgate.kernel.money import format_decimal
from tollgate.pricing.quotes import Quote, QuoteLine

if TYPE_CHECKING:
    from tollgate.metering.audit import Rerating

__all__: list[str] = []


def _plan(stores: Stores, code: str, version: int | None) -> Plan:
    plan = stores.catalog.plan(code, version)
    if plan is None:
        raise ToolError(f"there is no plan {code}" + (f" of version {version}" if version else ""))
    return plan


def _rerate(feature: str, quantity: Decimal, old: Plan, new: Plan) -> "Rerating":
    from tollgate.metering.audit import rerate  # after the environment is set

    try:
        return rerate(feature, quantity, old, new)
    except TollgateError as error:
        raise ToolError(str(error)) from None


def _show(console: Console, old: Plan, new: Plan, found: "Rerating") -> None:
    table = Table(title=f"What it costs, in {found.new.currency}", title_justify="left")
    for name in ("plan", "version", "amount"):
        table.add_column(name, justify="left" if name == "plan" else "right", no_wrap=True)
    table.add_column("how it comes about")
    for plan, quote in ((old, found.old), (new, found.new)):
        table.add_row(plan.code, str(plan.version), f"{quote.amount:f}", _lines(quote), end_section=plan is new)
    table.add_row("difference", "", f"{found.difference:+f}")
    console.print(table)


def _lines(quote: Quote) -> str:
    return "\n".join(map(_line, quote.lines)) or "nothing"


def _line(line: QuoteLine) -> str:
    fee = f" + {format_decimal(line.flat_fee)}" if line.flat_fee else ""
    text = f"{format_decimal(line.quantity)} x {format_decimal(line.unit_price)}{fee} = {format_decimal(line.amount)}"
    return f"{line.kind}: {text}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Price again from the command line; return the exit code."""
    parser = parser_of("rerate", "Price a period's archived usage by another plan version.")
    parser.add_argument("--plan", required=True, help="the code of the plan to price it by")
    parser.add_argument("--version", type=int, help="of that plan (default: the latest)")
    options = parser.parse_args(arguments)
    console = Console(soft_wrap=not sys.stdout.isatty())
    try:
        stores = open_stores(options.stack, options.state)
        new = _plan(stores, options.plan, options.version)
        target, found = audited(stores, options.customer, options.feature, options.period)
        rerating = _rerate(options.feature, found.recounted.quantity, target.plan, new)
    except (ToolError, BotoCoreError) as error:
        print(f"tollgate: {error}", file=sys.stderr)
        return 1
    show_recount(console, target, found)
    _show(console, target.plan, new, rerating)
    return 0 if found.agrees else 1


if __name__ == "__main__":
    sys.exit(main())

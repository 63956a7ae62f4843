"""Adds up a counter from the archive: `python -m tools.recount --customer acme --feature api-calls`.

Says whether the counter agrees, and names the first hour that differs; the exit code is 1 if it does not.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError
from rich.console import Console
from rich.table import Table

from tools import LOCAL, ROOT, ToolError
from tools.stores import Stores, open_stores

sys.path.insert(0, str(ROOT / "layers/common"))

from tollgate.kernel.errors import TollgateError
from tollgate.kernel.money import format_decimal
from tollgate.kernel.time import parse_time, system_clock

if TYPE_CHECKING:
    from tollgate.metering.audit import Recount, Target

__all__ = ["audited", "parser_of", "show_recount"]


def parser_of(command: str, description: str) -> argparse.ArgumentParser:
    """The arguments that name a counter."""
    parser = argparse.ArgumentParser(prog=f"python -m tools.{command}", description=description)
    parser.add_argument("--customer", required=True, help="whose usage")
    parser.add_argument("--feature", required=True, help="of what")
    parser.add_argument("--period", help="a time in the billing period, such as 2026-11-01T00:00:00Z (default: now)")
    parser.add_argument("--stack", help="a CloudFormation stack's name (default: the stack that `make run` started)")
    parser.add_argument("--state", type=Path, default=LOCAL, help="folder of the local stack's stack.json (.local)")
    return parser


def audited(stores: Stores, customer: str, feature: str, period: str | None) -> tuple["Target", "Recount"]:
    """A counter, and what the archive says of it.

    Raises:
        ToolError: it is no time, or there is no such counter.
    """
    from tollgate.metering.audit import recount, target_at  # after the environment is set

    try:
        at = parse_time(period) if period else system_clock()
        target = target_at(customer, feature, at, stores.catalog)
        return target, recount(target, counters=stores.counters, archive=stores.archive)
    except (ValueError, TollgateError) as error:
        raise ToolError(str(error)) from None


def show_recount(console: Console, target: "Target", found: "Recount") -> None:
    """The counter and the archive beside each other, and the verdict."""
    title = f"{target.counter.feature} of {target.counter.customer}, {_text(target.period.start)} to "
    title += f"{_text(target.period.end)} ({target.counter.subscription}, {target.aggregation})"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in ("quantity", "events"):
        table.add_column(name, justify="right")
    for name, tally in (("the counter", found.stored), ("recounted from the archive", found.recounted)):
        table.add_row(name, format_decimal(tally.quantity), f"{tally.events:,}")
    console.print(table)
    console.print(f"{found.archived:,} archived events were looked at", highlight=False)
    if found.agrees:
        console.print("[green]they agree[/], in each hour")
        return
    console.print("[red]they do NOT agree[/]")
    if found.hours:
        hour, stored, recounted = found.hours[0]
        console.print(
            f"of {len(found.hours)} hours that differ the first is {_text(hour)}: the counter has "
            f"{format_decimal(stored.quantity)} in {stored.events} events, "
            f"the archive {format_decimal(recounted.quantity)} in {recounted.events}",
            highlight=False,
        )


def _text(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M}Z"


def main(arguments: Sequence[str] | None = None) -> int:
    """Recount from the command line; return the exit code."""
    options = parser_of("recount", "Add up a counter from the archive.").parse_args(arguments)
    console = Console(soft_wrap=not sys.stdout.isatty())
    try:
        stores = open_stores(options.stack, options.state)
        target, found = audited(stores, options.customer, options.feature, options.period)
    except (ToolError, BotoCoreError) as error:
        print(f"tollgate: {error}", file=sys.stderr)
        return 1
    show_recount(console, target, found)
    return 0 if found.agrees else 1


if __name__ == "__main__":
    sys.exit(main())

"""What a month costs on AWS: `make cost ARGS="--events 10000000 --batch 100 --checks 5000000"`, or three sizes.

`--write` puts the three sizes into docs/operations.md.

Units and runs are those that were measured (docs/benchmarks.md, docs/billing.md, docs/archive.md), prices are lists'.
"""

import argparse
import io
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench.prices import AUTHORIZER_SECONDS, ENVELOPE_SECONDS, PRICES, ROUND_SECONDS
from tools import ROOT

__all__ = ["ALARMS", "METRICS", "MONTHLY", "SIZES", "Month", "cost_of", "events_together", "main", "printed"]

GUIDE: Final = ROOT / "docs" / "operations.md"

MONTHLY: Final = {
    "CloudWatch, a custom metric": 0.30,
    "CloudWatch, an alarm": 0.10,
    "CloudWatch, a dashboard": 3.00,
    "CloudWatch, a thousand requests of PutMetricData": 0.01,
    "CloudWatch, a GB of logs taken in": 0.50,
    "DynamoDB, a GB stored": 0.25,
    "DynamoDB, a GB that can be restored to any second": 0.20,
}
"""USD in us-east-1, without the free tier: aws.amazon.com/cloudwatch/pricing, aws.amazon.com/dynamodb/pricing."""

METRICS: Final = 29
"""16 that the retry processor puts (two, in all and for 7 types of failure), and 13 that functions count in logs."""

ALARMS: Final = 7
SWEEPS: Final = 30 * 24 * 12
RUNS: Final = 30 * 24 * 4
SWEEP_READ_UNITS: Final = 10
"""2 of a sweep that finds nothing, 8 of the report (docs/benchmarks.md, Recovery)."""

RUN_READ_UNITS: Final = 4
"""8 empty shards at half a unit."""

POLLS: Final = 4 * 5 * 3 * 60 * 24 * 30
"""Lambda asks each of four queues with five pollers, each waiting 20 seconds."""

SMALL_GB: Final = 0.5
"""The memory of all functions but `usage`."""

SLOWER: Final = 1769 / 512
"""Lambda gives 512 MB this part of a core."""

CHECK_CPU: Final = 0.000249
CONSUME_CPU: Final = 0.0006
"""Seconds: of a check as measured; of a consumption about what counting one event takes."""

CONSUME_WRITE_UNITS: Final = 2.08
INVOICE_WRITE_UNITS: Final = 55 + 20
INVOICE_READ_UNITS: Final = 33
INVOICE_MORE: Final = 1.2
"""SQS and Lambda add a fifth (docs/billing.md)."""

FAILURE_WRITE_UNITS: Final = 26
FAILURE_READ_UNITS: Final = 1
"""From a failure to resolved by the first try (docs/benchmarks.md, Recovery)."""

BATCHES: Final = (1, 10, 100, 500)
STORED_BYTES: Final = {1: 250, 10: 47, 100: 20, 500: 17}
"""Of an event in the archive (docs/archive.md), with its share of the 100 bytes that DynamoDB adds to an item."""

ID_BYTES: Final = 16
ARCHIVE_MONTHS: Final = 400 / 30
LOG_BYTES: Final = 160 + 2 * (140 + 240) + 210
"""A request's line of the API's log, Lambda's `platform.start` and `platform.report` in JSON of each of two functions,
and a line of counts, which checks do not have."""


@dataclass(frozen=True)
class Month:
    """What a deployment does in a month; `batch` is events per request: 1, 10, 100 or 500."""

    events: int = 0
    batch: int = 100
    checks: int = 0
    consumptions: int = 0
    invoices: int = 0
    failures: int = 0


SIZES: Final = {
    "small": Month(events=300_000, batch=1, checks=300_000, consumptions=30_000, invoices=100, failures=10),
    "middle": Month(
        events=30_000_000, batch=10, checks=10_000_000, consumptions=1_000_000, invoices=5_000, failures=500
    ),
    "large": Month(
        events=3_000_000_000, batch=100, checks=300_000_000, consumptions=30_000_000, invoices=200_000, failures=20_000
    ),
}
"""A product in its first year, a company, and a thousand events a second day and night."""


def cost_of(month: Month, together: Mapping[int, float]) -> dict[str, float]:
    """USD by line; `together` is the cost of a million events by batch."""
    write, read = (
        PRICES["DynamoDB on demand, a million write units"],
        PRICES["DynamoDB on demand, a million read units"],
    )
    request = PRICES["HTTP API, a million requests"] + _run(AUTHORIZER_SECONDS, 1)
    check = request + _run(CHECK_CPU * SLOWER + ROUND_SECONDS + ENVELOPE_SECONDS, 1) + read
    consume = (
        request + _run(CONSUME_CPU * SLOWER + 2 * ROUND_SECONDS + ENVELOPE_SECONDS, 1) + CONSUME_WRITE_UNITS * write
    )
    invoice = (INVOICE_WRITE_UNITS * write + INVOICE_READ_UNITS * read) * INVOICE_MORE
    failure = FAILURE_WRITE_UNITS * write + FAILURE_READ_UNITS * read
    stored = month.events * (STORED_BYTES[month.batch] + ID_BYTES) * ARCHIVE_MONTHS / 1e9
    per_gb = MONTHLY["DynamoDB, a GB stored"] + MONTHLY["DynamoDB, a GB that can be restored to any second"]
    requests = month.events / month.batch + month.checks + month.consumptions
    idle = SWEEPS * SWEEP_READ_UNITS * read + RUNS * RUN_READ_UNITS * read
    idle += _run(0.1, SWEEPS + RUNS) + POLLS * PRICES["SQS, a million requests"]
    return {
        "events": month.events * together[month.batch] / 1e6,
        "checks": month.checks * check / 1e6,
        "consumptions": month.consumptions * consume / 1e6,
        "invoices, closed and paid by wallet": month.invoices * invoice / 1e6,
        "failures that are tried again": month.failures * failure / 1e6,
        "storage of 400 days, restorable": stored * per_gb,
        "logs": requests * LOG_BYTES / 1e9 * MONTHLY["CloudWatch, a GB of logs taken in"],
        "schedules and empty queues": idle / 1e6,
        "metrics, alarms, the dashboard": METRICS * MONTHLY["CloudWatch, a custom metric"]
        + ALARMS * MONTHLY["CloudWatch, an alarm"]
        + MONTHLY["CloudWatch, a dashboard"]
        + SWEEPS * MONTHLY["CloudWatch, a thousand requests of PutMetricData"] / 1000,
    }


def events_together() -> dict[int, float]:
    """What a million events cost by batch, as docs/benchmarks.md has it."""
    text = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    [numbers] = re.findall(r"^  together +([\d. ]+)$", text, re.MULTILINE)
    return dict(zip(BATCHES, map(float, numbers.split()), strict=False))


def _run(seconds: float, times: int) -> float:
    """So many million runs of a small function."""
    gigabyte_seconds = seconds * SMALL_GB * PRICES["Lambda on arm64, a GB-second"] * 1e6
    return times * (PRICES["Lambda, a million requests"] + gigabyte_seconds)


def show(console: Console, months: Mapping[str, Month]) -> None:
    """A table with a column per month."""
    costs = {name: cost_of(month, events_together()) for name, month in months.items()}
    table = Table(box=SIMPLE_HEAD, show_footer=False)
    table.add_column("USD a month", no_wrap=True)
    for name in months:
        table.add_column(name, justify="right", no_wrap=True)
    for field in ("events", "batch", "checks", "consumptions", "invoices", "failures"):
        shown = "events a request" if field == "batch" else f"number of {field}"
        table.add_row(shown, *(f"{getattr(month, field):,}" for month in months.values()))
    table.add_row()
    for line in next(iter(costs.values())):
        table.add_row(line, *(f"{cost[line]:,.2f}" for cost in costs.values()))
    table.add_row("together", *(f"{sum(cost.values()):,.2f}" for cost in costs.values()))
    console.print(table)


def guide_with(text: str, table: str) -> str:
    """The guide with another table in its block."""
    head, mark, rest = text.partition("<!-- bench.cost -->\n```text\n")
    return f"{head}{mark}{table}\n```{rest.partition('```')[2]}"


def printed(months: Mapping[str, Month]) -> str:
    """The table as text, with nothing at the ends of its lines."""
    console = Console(file=io.StringIO(), width=100)
    with console.capture() as captured:
        show(console, months)
    return "\n".join(line.rstrip() for line in captured.get().strip("\n").splitlines())


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what a month costs; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.cost", description="What a month costs on AWS, in USD.")
    for name in ("events", "checks", "consumptions", "invoices", "failures"):
        parser.add_argument(f"--{name}", type=int, default=0, help=f"{name} in the month")
    parser.add_argument("--batch", type=int, default=100, choices=BATCHES, help="events a request (default: 100)")
    parser.add_argument("--write", action="store_true", help="put the three sizes into docs/operations.md")
    options = vars(parser.parse_args(arguments))
    is_written, month = options.pop("write"), Month(**options)
    table = printed(SIZES if month == Month() else {"": month})
    print(table)
    if is_written:
        GUIDE.write_text(guide_with(GUIDE.read_text(encoding="utf-8"), printed(SIZES)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

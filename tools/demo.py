"""The demonstration: 10,000 real web requests metered, priced and gated over the API.

`load` puts a plan and a customer per client into a running stack and replays the requests as CloudEvents,
their times shifted so that the last one lies at the time of loading. `python -m tools.demo` replays them
again into the stack that `make run` has started: the same events, so all of them are duplicates.
"""

import argparse
import csv
import itertools
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tools import LOCAL, ROOT, ToolError
from tools.local import Stack, running_stack
from tools.ministack import aws_environment

__all__ = [
    "FEATURES",
    "PLAN",
    "Request",
    "add_customers",
    "client",
    "cloud_events",
    "create_catalog",
    "load",
    "read_requests",
    "send",
]

DATA = Path(__file__).with_name("data") / "web_requests_2015.csv"
BATCH = 500
SENDERS = 2
GIGABYTE = Decimal(1_000_000_000)
ERROR = 400
NOT_MODIFIED = 304

FEATURES: dict[str, dict[str, str]] = {
    "requests": {"name": "Requests", "type": "usage", "unit": "request"},
    "transfer": {"name": "Data transfer", "type": "usage", "unit": "GB"},
    "cached": {"name": "Answers from the cache", "type": "quota", "unit": "answer"},
    "failures": {"name": "Failed requests", "type": "rate", "unit": "request"},
    "support": {"name": "Support by telephone", "type": "boolean"},
}

PLAN: dict[str, Any] = {
    "name": "Web, by use",
    "currency": "EUR",
    "billing_period": {"interval": "month", "count": 1},
    "base_price": "5.00",
    "features": [
        {
            "feature": "requests",
            "price": {
                "model": "tiered",
                "tiers": [
                    {"up_to": "100", "unit_price": "0.01", "flat_fee": "0"},
                    {"up_to": "300", "unit_price": "0.008", "flat_fee": "0"},
                    {"up_to": None, "unit_price": "0.005", "flat_fee": "0"},
                ],
            },
        },
        {
            "feature": "transfer",
            "price": {"model": "package", "package_size": "0.01", "package_price": "0.25"},
        },
        {
            "feature": "cached",
            "quota": {"limit": "50", "overage": "block"},
            "price": {
                "model": "volume",
                "tiers": [
                    {"up_to": "20", "unit_price": "0.004", "flat_fee": "0"},
                    {"up_to": None, "unit_price": "0.003", "flat_fee": "0"},
                ],
            },
        },
        {
            "feature": "failures",
            "rate": {"limit": "5", "window_seconds": 86400},
            "price": {"model": "flat", "unit_price": "0.02", "included": "5"},
        },
        {"feature": "support", "enabled": True},
    ],
}


@dataclass(frozen=True, slots=True)
class Request:
    """A web request of the log."""

    id: str
    time: datetime
    customer: str
    status: int
    bytes: int


def read_requests() -> list[Request]:
    """The requests in the order of the log."""
    with DATA.open(newline="") as lines:
        return [
            Request(
                row["id"], datetime.fromisoformat(row["time"]), row["customer"], int(row["status"]), int(row["bytes"])
            )
            for row in csv.DictReader(lines)
        ]


def cloud_events(requests: Sequence[Request], shift: timedelta) -> Iterator[dict[str, Any]]:
    """What each request counts as: a request and its gigabytes, and a cached answer or a failure if it was one."""
    for request in requests:
        counted = {"requests": "1", "transfer": f"{Decimal(request.bytes) / GIGABYTE:f}"}
        if request.status == NOT_MODIFIED:
            counted["cached"] = "1"
        if request.status >= ERROR:
            counted["failures"] = "1"
        for feature, quantity in counted.items():
            yield {
                "specversion": "1.0",
                "id": request.id,
                "source": "/web/log",
                "type": feature,
                "subject": request.customer,
                "time": (request.time + shift).isoformat(),
                "data": {"quantity": quantity},
            }


def client(stack: Stack) -> httpx.Client:
    """Speaks to the stack's API as its administrator."""
    headers = {"Authorization": f"Bearer {stack.api_key}"}
    return httpx.Client(base_url=stack.api_url, headers=headers, timeout=60)


def create_catalog(api: httpx.Client) -> None:
    """Features and plan; the same again changes nothing."""
    for code, feature in FEATURES.items():
        api.put(f"/v1/features/{code}", json=feature).raise_for_status()
    api.put("/v1/plans/web", json=PLAN).raise_for_status()


def add_customers(stack: Stack, customers: Sequence[str], starts_at: datetime) -> None:
    """Put customers on the plan in bulk (tools/customers.py); those that are on it stay as they are."""
    tables = {f"{name.upper()}_TABLE": stack.resources[f"{name.capitalize()}Table"] for name in ("catalog", "usage")}
    subprocess.run(
        [sys.executable, "-m", "tools.customers", "--plan", "web", "--starts-at", starts_at.isoformat()],
        input="\n".join(customers),
        env=aws_environment(stack.endpoint_url) | tables,
        cwd=ROOT,
        text=True,
        check=True,
        stdout=subprocess.PIPE,
    )


def send(api: httpx.Client, events: Sequence[dict[str, Any]]) -> Counter[str]:
    """Send a batch; how many events were accepted, duplicate, conflict, rejected."""
    headers = {"Content-Type": "application/cloudevents-batch+json"}
    answer = api.post("/v1/events", content=json.dumps(events), headers=headers).raise_for_status().json()
    return Counter({status: answer[status] for status in ("accepted", "duplicate", "conflict", "rejected")})


def load(stack: Stack, console: Console | None = None) -> None:
    """Load the demonstration into a stack and show what came of it; again, and nothing changes."""
    console = console or Console(soft_wrap=not sys.stdout.isatty())
    requests = read_requests()
    first = min(request.time for request in requests)
    with client(stack) as api:
        starts_at = _starts_at(api, requests)
        with _progress(console) as progress:
            create_catalog(api)
            customers = sorted({request.customer for request in requests})
            task = progress.add_task("customers", total=len(customers))
            add_customers(stack, customers, starts_at)
            progress.update(task, completed=len(customers))
            started = time.monotonic()
            outcome = _replay(api, requests, starts_at - first, progress)
        _show_outcome(console, requests, outcome, time.monotonic() - started)
        top = [customer for customer, _ in Counter(request.customer for request in requests).most_common(5)]
        _show_bills(console, api, top)
        _show_answers(console, api, top[1:4])


def _starts_at(api: httpx.Client, requests: Sequence[Request]) -> datetime:
    """When the subscriptions begin: as the stack has it from an earlier load, or so that the data ends now."""
    known = api.get(f"/v1/subscriptions/sub-{requests[0].customer}")
    if known.status_code == httpx.codes.OK:
        return datetime.fromisoformat(known.json()["starts_at"])
    length = max(request.time for request in requests) - min(request.time for request in requests)
    return datetime.now(UTC).replace(microsecond=0) - length


def _replay(api: httpx.Client, requests: Sequence[Request], shift: timedelta, progress: Progress) -> Counter[str]:
    events = cloud_events(requests, shift)
    batches = list(iter(lambda: list(itertools.islice(events, BATCH)), []))
    task = progress.add_task("events", total=sum(map(len, batches)))
    outcome: Counter[str] = Counter()
    with ThreadPoolExecutor(SENDERS) as pool:
        for batch, answer in zip(batches, pool.map(lambda batch: send(api, batch), batches), strict=True):
            outcome += answer
            progress.advance(task, len(batch))
    return outcome


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


def _show_outcome(console: Console, requests: Sequence[Request], outcome: Counter[str], seconds: float) -> None:
    table = Table(title=f"{len(requests):,} web requests as usage events", title_justify="left")
    for name in ("accepted", "duplicate", "conflict", "rejected", "events a second"):
        table.add_column(name, justify="right")
    counts = [f"{outcome[name]:,}" for name in ("accepted", "duplicate", "conflict", "rejected")]
    table.add_row(*counts, f"{outcome.total() / seconds:,.0f}")
    console.print(table)


def _show_bills(console: Console, api: httpx.Client, customers: Sequence[str]) -> None:
    table = Table(title="What the busiest customers have used, and what it costs", title_justify="left")
    for name in ("customer", "feature", "model"):
        table.add_column(name, no_wrap=True)
    for name in ("quantity", "EUR"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("how it comes about")
    priced = [(granted["feature"], granted["price"]) for granted in PLAN["features"] if granted.get("price")]
    for customer in customers:
        for place, (feature, price) in enumerate(priced):
            usage = api.get(f"/v1/customers/{customer}/usage", params={"feature": feature}).raise_for_status().json()
            body = {"currency": PLAN["currency"], "price": price, "quantity": usage["quantity"]}
            quote = api.post("/v1/prices/quote", json=body).raise_for_status().json()
            how = " + ".join(_line(line) for line in quote["lines"]) or "nothing used"
            name = "" if place else customer
            table.add_row(
                name,
                feature,
                price["model"],
                usage["quantity"],
                quote["amount"],
                how,
                end_section=feature == priced[-1][0],
            )
    console.print(table)


def _line(line: dict[str, str]) -> str:
    if line["kind"] == "included":
        return f"{line['quantity']} included"
    packages = {"1": " package"}.get(line["quantity"], " packages") if line["kind"] == "package" else ""
    return f"{line['quantity']}{packages} x {line['unit_price']}"


def _show_answers(console: Console, api: httpx.Client, customers: Sequence[str]) -> None:
    table = Table(title="May they go on? (times in UTC)", title_justify="left", padding=(0, 0))
    for name in ("customer", "feature", "type", "answer", "reason", "used", "limit", "resets"):
        table.add_column(name, justify="right" if name in {"used", "limit"} else "left", no_wrap=True)
    for customer in customers:
        answers = api.get(f"/v1/customers/{customer}/entitlements").raise_for_status().json()["items"]
        for place, answer in enumerate(answers):
            table.add_row(
                "" if place else customer,
                answer["feature"],
                answer["type"],
                "[green]yes[/]" if answer["allowed"] else "[red]no[/]",
                answer["reason"],
                answer["used"] or "",
                answer["limit"] or "",
                (answer["resets_at"] or "")[5:16].replace("T", " "),
                end_section=answer is answers[-1],
            )
    console.print(table)


def main() -> int:
    """Replay into the running stack."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo", description="Replay into the running stack.")
    parser.add_argument("--state", type=Path, default=LOCAL, help="folder of its stack.json (.local)")
    try:
        load(running_stack(parser.parse_args().state))
    except (ToolError, httpx.HTTPError) as error:
        print(f"tollgate: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

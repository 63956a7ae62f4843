"""What deciding costs: `make bench-entitlements`, or `make bench-entitlements ARGS="requests cpu"` for parts of it.

Requests and units are those that DynamoDB bills, by MiniStack's engine in this process; CPU is this machine's, in
ratios. The last table says which limits are held; the exit code is 1 where one is not. `ARGS=--write` puts it all
into docs/benchmarks.md.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Final

from bench.cold import cold_starts, layer_of
from bench.gate import DEAR, FEATURES, Gatekeeper, counted, last_call, shop
from bench.handlers import bare_handler, cpu_of, event
from bench.report import Report, run

__all__ = ["main"]

CHECK_CPU: Final = 1.5
COLD_START: Final = 0.8
LAYER_BYTES: Final = 12 << 20
CONSUMPTIONS: Final = 400
QUIET, BUSY = 20, 500
"""Events in the last minute: all in the head still, or most of them in pages."""
COLUMNS: Final = ("", "requests", "read units", "write units")


def show_checks(report: Report) -> None:
    """One read, whatever the plan, the history and the item's size."""
    rows = []
    for features in FEATURES:
        for events in (0, 2_000):
            with shop(features, archive=False) as here:
                here.consume_many("tokens", events)
                cost = counted(here, lambda here: here.check("tokens"))
                everything = counted(here, Gatekeeper.check_all)
            name = f"{features} features, {events:,} events"
            report.hold("requests of a check", cost.calls, 1)
            report.hold("read units of a check", cost.read_units, 1)
            rows.append([f"one of {name}", *cost.cells()])
            if features == DEAR:
                report.hold(f"requests of a check of all {features} features", everything.calls, 1)
            rows.append([f"all of {name}", *everything.cells()])
    report.table("Checks", COLUMNS, rows)


def show_consumptions(report: Report) -> None:
    """One write where nobody else is at it; every so many, ids leave the head in a transaction."""
    rows = []
    for archive in (False, True):
        for name, act in _acts():
            with shop(DEAR, archive=archive) as here:
                act(here)  # warm
                costs = [counted(here, act) for _ in range(CONSUMPTIONS)]
            usual = sorted(costs, key=lambda cost: (cost.calls, cost.write_units))[len(costs) // 2]
            mean = sum(cost.write_units for cost in costs) / len(costs)
            title = f"{name}, with the archive" if archive else name
            if not archive and name.startswith("consume"):
                report.hold(f"requests to {name}, warm", usual.calls, 1)
            if not archive and name.startswith("consume one"):
                report.hold(f"write units to {name}, warm", usual.write_units, 1)
            rows.append([title, *usual.cells(), f"{mean:.2f}"])
    rows.append([])
    for told, most in ((True, 2), (False, 3)):
        name = "an id with its time" if told else "an id with no time"
        for events in (QUIET, BUSY):
            with shop(DEAR, archive=False) as here:
                here.consume_many("tokens", events, told=told)
                here.restart()
                cost = counted(here, partial(_consume_one, told=told))
            if events == QUIET:
                report.hold(f"requests to consume after a cold start, {name}", cost.calls, most)
            rows.append([f"after a cold start, {name}, {events} in the last minute", *cost.cells(), ""])
    report.table(
        "What changes capacity: the usual request, and the mean of write units",
        (*COLUMNS, "mean"),
        rows,
        [f"{CONSUMPTIONS} requests each, by one warm function; several features are a quota, a rate and a usage"],
    )


def _consume_one(here: Gatekeeper, *, told: bool) -> None:
    here.consume("tokens", told=told)


def _acts() -> list[tuple[str, Callable[[Gatekeeper], object]]]:
    return [
        ("consume one of a quota", lambda here: here.consume("tokens")),
        ("consume one of a rate", lambda here: here.consume("bursts")),
        ("consume one of usage", lambda here: here.consume("calls")),
        ("consume several features", lambda here: here.consume("tokens", "bursts", "calls")),
        ("reserve", lambda here: here.reserve()),
        ("reserve and commit", lambda here: here.commit(here.reserve())),
        ("reserve and release", lambda here: here.release(here.reserve())),
    ]


def show_cpu(report: Report) -> None:
    """A check beside a bare Powertools handler that gets the same item through boto3."""
    with shop(DEAR, archive=False) as here:
        here.consume_many("tokens", 20)
        call = last_call(here, lambda here: here.check("tokens"))
    cpu = cpu_of(
        call,
        {"bare": partial(bare_handler, call.request["Key"]), "ours": lambda _: here.function.handler},
        event("GET", "/v1/customers/ada/entitlements/tokens"),
    )
    ours, bare = cpu["ours"], cpu["bare"]
    ratio = report.hold("CPU of a check in that of a bare handler", ours / bare, CHECK_CPU)
    report.table(
        "CPU of a check, the database's answer played back: microseconds, the best of 7",
        ("", "us", "times"),
        [["bare handler, one GetItem", f"{bare * 1e6:.0f}", ""], ["check", f"{ours * 1e6:.0f}", ratio]],
    )


def show_cold(report: Report) -> None:
    """Import and client of the function from the built layer, beside boto3 as it comes."""
    layer = layer_of()
    size, uncompiled = layer.zipped, len(layer.uncompiled)
    report.hold("MB of the layer, zipped", size / (1 << 20), LAYER_BYTES >> 20)
    report.hold("modules of the layer with no .pyc", uncompiled, 0)
    times = cold_starts(layer)
    base = times["import boto3; boto3.client"]
    report.hold("cold start in that of boto3's client", times["the entitlements function"] / base, COLD_START)
    report.table(
        "Cold start: CPU of import and client, milliseconds, the best of 15",
        ("", "ms", "times"),
        [[name, f"{seconds * 1e3:.0f}", f"{seconds / base:.2f}"] for name, seconds in times.items()],
        [f"the layer is {size / (1 << 20):.1f} MB zipped; {uncompiled} of its modules are not compiled"],
    )


SECTIONS: Final[dict[str, Callable[[Report], None]]] = {
    "checks": show_checks,
    "requests": show_consumptions,
    "cpu": show_cpu,
    "cold": show_cold,
}


def main() -> int:
    """Print the tables; 1 where a limit is not held."""
    return run("bench.entitlements", "What deciding costs.", SECTIONS)


if __name__ == "__main__":
    sys.exit(main())

"""What counting an event costs: `make bench-ingest`, or `make bench-ingest ARGS="units cpu"` for parts of it.

Units are those that DynamoDB bills, by MiniStack's engine in this process; CPU is this machine's. The last table
says which limits are held; the exit code is 1 where one is not. `ARGS=--write` puts it all into docs/benchmarks.md,
`ARGS=--profile` shows where the CPU goes instead.
"""

import sys
from collections.abc import Callable, Sequence
from statistics import median
from typing import Final

from bench.cpu import Cpu, measure, profile, requests_of
from bench.designs import DESIGNS
from bench.growth import DIMENSIONS, EVENTS_MEASURED, GROWTH
from bench.payload import HEADERS, Sender
from bench.prices import ASSUMPTIONS, PRICES, Shape, cost_of_a_million
from bench.report import Report, run
from bench.traffic import START, Traffic, consumed_by, consumed_by_design, rounds_taken_by
from bench.world import Consumed
from tollgate.metering.queue import messages
from tollgate.metering.schema import read_events

__all__ = ["main"]

RATES: Final = (0.1, 10.0, 1000.0)
RATE: Final = 10.0
EVENTS: Final = {1: 2_000, 10: 2_000, 100: 4_000, 500: 10_000}
DESIGN_EVENTS: Final = 1_000
ROUNDS_REQUESTS: Final = 7
SHAPES: Final = {
    **{f"{size:,}": Traffic(("customer",), size, RATE) for size in EVENTS},
    "500 over 50 customers": Traffic(tuple(f"customer-{number}" for number in range(50)), 500, RATE * 50),
}
MANY: Final = SHAPES["500 over 50 customers"]

WITHOUT_ARCHIVE: Final = {1: 1.15, 10: 0.25, 100: 0.08, 500: 0.05}
WITH_ARCHIVE: Final = {1: 2.2, 10: 0.35, 100: 0.13, 500: 0.09}
MANY_LIMIT: Final = 0.35
CPU_LIMIT: Final = 12.0
GROWTH_LIMIT: Final = 1.10

PARTITION_UNITS: Final = 1_000
BATCHES: Final = ("batches of", *(f"{size:,}" for size in EVENTS))
NAMES: Final = {False: "without the archive", True: "with the archive"}


def show_units(report: Report) -> None:
    """Units per event of one customer and feature, in order, at three rates, beside the usual designs."""
    usual = []
    for name, design in DESIGNS.items():
        sizes = [consumed_by_design(design, _one(size, RATE), DESIGN_EVENTS // size) for size in EVENTS]
        usual.append([name, *(f"{each.write_units / DESIGN_EVENTS:.3f}" for each in sizes)])
    for a_second in RATES:
        rows, others = list(usual), []
        for archive, limits in ((False, WITHOUT_ARCHIVE), (True, WITH_ARCHIVE)):
            name = NAMES[archive]
            ours = {
                size: consumed_by(_one(size, a_second), events // size, archive=archive)
                for size, events in EVENTS.items()
            }
            writes = [
                report.hold(
                    f"write units per event, {name}, batches of {size}, at the worst rate",
                    each.write_units / EVENTS[size],
                    limits[size],
                )
                for size, each in ours.items()
            ]
            rows += [[f"ours, {name}", *writes], ["  at most", *(f"{limit:.3f}" for limit in limits.values())]]
            others += _others(name, ours)
        report.table(f"Write units per event, {a_second:g} events a second", BATCHES, rows)
        others.append(["events measured", *(f"{events:,}" for events in EVENTS.values())])
        report.table(f"What else an event takes, {a_second:g} events a second", BATCHES, others)
        title = f"Where it goes, with the archive, {a_second:g} events a second: calls / write units per 1,000 events"
        report.table(title, BATCHES, _kinds(list(ours.values()), [events / 1000 for events in EVENTS.values()]))
    report.table("What one series can take, with the archive: a partition writes 1,000 units a second", *_ceiling(ours))


def _ceiling(ours: dict[int, Consumed]) -> tuple[tuple[str, ...], list[list[str]]]:
    """The write units of each partition that a series is written to, and the events a second that they allow."""
    units = [each.by_partition() for each in ours.values()]
    rows = [
        [f"{name}: units per 1,000 events"]
        + [f"{each[name] / events * 1000:.0f}" for each, events in zip(units, EVENTS.values(), strict=True)]
        for name in units[0]
    ]
    most = [
        f"{PARTITION_UNITS * events / max(each.values()):,.0f}"
        for each, events in zip(units, EVENTS.values(), strict=True)
    ]
    return BATCHES, [*rows, ["events a second, at most", *most]]


def _one(size: int, a_second: float) -> Traffic:
    return Traffic(("customer",), size, a_second)


def _others(name: str, ours: dict[int, Consumed]) -> list[list[str]]:
    return [
        [f"read units, {name}", *(f"{each.read_units / EVENTS[size]:.3f}" for size, each in ours.items())],
        [f"calls, {name}", *(f"{each.calls / EVENTS[size]:.3f}" for size, each in ours.items())],
    ]


def _kinds(consumed: Sequence[Consumed], per: Sequence[float]) -> list[list[str]]:
    return [
        [name]
        + [
            f"{each.kinds[name] / one:.1f} / {each.kind_units[name] / one:.1f}"
            for each, one in zip(consumed, per, strict=True)
        ]
        for name in sorted({name for each in consumed for name in each.kinds})
    ]


def show_requests(report: Report) -> None:
    """500 events over 50 customers, and the sequential rounds of requests."""
    requests = 20
    consumed = consumed_by(MANY, requests, archive=True)
    events = requests * MANY.size
    writes = report.hold(
        "write units per event, 500 events over 50 customers", consumed.write_units / events, MANY_LIMIT
    )
    report.table(
        f"500 events over 50 customers, with the archive: per event, of {events:,} events",
        ["", "write units", "at most", "read units", "calls"],
        [["", writes, f"{MANY_LIMIT}", f"{consumed.read_units / events:.3f}", f"{consumed.calls / events:.3f}"]],
    )
    report.table("Where it goes: calls / write units per request", ["", ""], _kinds([consumed], [requests]))
    rounds = {name: rounds_taken_by(traffic, ROUNDS_REQUESTS, archive=True) for name, traffic in SHAPES.items()}
    report.table(
        "Sequential rounds of calls a request, with the archive: calls under way together are one round",
        ["requests of", *rounds],
        [
            ["usual", *(f"{median(each):g}" for each in rounds.values())],
            ["most", *(f"{max(each)}" for each in rounds.values())],
        ],
        [f"{ROUNDS_REQUESTS} requests each"],
    )


def show_cpu(report: Report) -> None:
    """CPU per event beside `json.loads` of the same text."""
    rows = []
    for archive, name in NAMES.items():
        for size in EVENTS:
            cpu = _cpu(_one(size, RATE), archive=archive)
            ratio = f"{cpu.ratio:.1f}"
            if size in {100, 500}:
                ratio = report.hold(f"CPU in json.loads, {name}, batches of {size}", cpu.ratio, CPU_LIMIT)
            rows.append([f"{size}, {name}", f"{cpu.path * 1e6:.1f}", f"{cpu.loads * 1e6:.2f}", ratio])
    body, _ = Sender(START).request(["customer"], 100, RATE)
    report.table(
        "CPU per event, the database taken out: microseconds, the best of 15",
        ["batches of", "body to answer", "json.loads", "times"],
        rows,
        [f"{len(body) / 100:.0f} bytes an event; from the text of the body to the text of the answer"],
    )


def _cpu(traffic: Traffic, *, archive: bool) -> Cpu:
    requests = requests_of(traffic.customers, traffic.size, traffic.a_second, START)
    return measure(requests, traffic.customers, archive=archive)


def show_cost(report: Report) -> None:
    """USD per million events on AWS."""
    shapes = {name: _shape(traffic) for name, traffic in SHAPES.items()}
    waited = [cost_of_a_million(shape) for shape in shapes.values()]
    queued = [cost_of_a_million(shape, queued=True) for shape in shapes.values()]
    rows = [[line, *(f"{cost[line]:.4f}" for cost in waited)] for line in waited[0] if line != "SQS"]
    rows += [
        ["together", *(f"[bold]{sum(cost.values()):.4f}[/]" for cost in waited)],
        [],
        ["with respond-async: SQS", *(f"{cost['SQS']:.4f}" for cost in queued)],
        ["with respond-async: together", *(f"[bold]{sum(cost.values()):.4f}[/]" for cost in queued)],
        [],
        ["the usage function runs, ms", *(f"{shape.seconds * 1000:.1f}" for shape in shapes.values())],
        ["  CPU here, ms", *(f"{shape.cpu_seconds * 1000:.1f}" for shape in shapes.values())],
        ["  sequential rounds", *(f"{shape.rounds:g}" for shape in shapes.values())],
    ]
    report.table("USD per million events on AWS, with the archive", ["requests of", *shapes], rows)
    prices = [[name, f"{usd:.10f}".rstrip("0").rstrip(".")] for name, usd in PRICES.items()]
    notes = (*ASSUMPTIONS, "storage, logs and data transfer are not in it")
    report.table("Prices in us-east-1, and what is assumed", ["", "USD"], prices, notes)


def _shape(traffic: Traffic) -> Shape:
    requests = max(EVENTS[traffic.size] // traffic.size // 2, 10)
    consumed = consumed_by(traffic, requests, archive=True)
    body, now = Sender(START).request(traffic.customers, traffic.size, traffic.a_second)
    return Shape(
        events=traffic.size,
        write_units=consumed.write_units / requests,
        read_units=consumed.read_units / requests,
        rounds=median(rounds_taken_by(traffic, 3, archive=True)),
        cpu_seconds=_cpu(traffic, archive=True).path * traffic.size,
        message_bytes=tuple(len(message) for message in messages(read_events(body, HEADERS), now)),
    )


def show_growth(report: Report) -> None:
    """The same traffic after more and more."""
    rows = []
    for name, grown in DIMENSIONS.items():
        costs = [grown(times) for times in GROWTH]
        for title, values in (
            ("write units", [cost.write_units for cost in costs]),
            ("read units", [cost.read_units for cost in costs]),
            ("calls", [float(cost.calls) for cost in costs]),
        ):
            ratios = [
                report.hold(f"growth with {name}, the worst ratio", value / values[0], GROWTH_LIMIT)
                for value in values[1:]
            ]
            rows.append([f"{name}: {title}", *(f"{value / EVENTS_MEASURED:.4f}" for value in values), *ratios])
    columns = ["what grows", *(f"x {times}" for times in GROWTH), *(f"ratio x {times}" for times in GROWTH[1:])]
    notes = [f"{EVENTS_MEASURED:,} events in batches of 100 each; a ratio is at most {GROWTH_LIMIT:g}"]
    report.table("Growth: per event, with the archive", columns, rows, notes)


SECTIONS: Final[dict[str, Callable[[Report], None]]] = {
    "units": show_units,
    "requests": show_requests,
    "cpu": show_cpu,
    "cost": show_cost,
    "growth": show_growth,
}


def main() -> int:
    """Print the tables; 1 where a limit is not held."""
    return run("bench.ingest", "What counting an event costs.", SECTIONS, _profile)


def _profile() -> None:
    for size in (100, 500):
        print(f"batches of {size}, with the archive")
        traffic = _one(size, RATE)
        profile(requests_of(traffic.customers, size, RATE, START), traffic.customers, archive=True)


if __name__ == "__main__":
    sys.exit(main())

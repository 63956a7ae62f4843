"""What a failed operation costs: `make bench-recovery`.

Requests and units are those that DynamoDB bills, indexes included, by MiniStack's engine in this process. The last
table says which limits are held; the exit code is 1 where one is not. `ARGS=--write` puts it all into
docs/benchmarks.md.
"""

import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, Final

from bench.report import Report, run
from bench.world import Consumed, consumption
from tests.conftest import create_tables
from tests.faults.office import NOW
from tests.faults.stored import POLICY, fill, record
from tests.unit.fakes_recovery import Retries
from tollgate.recovery.ledger import Filter
from tollgate.recovery.model import ErrorType, Status
from tollgate.recovery.operations import Operation
from tollgate.recovery.processor import Processor
from tollgate.recovery.report import report as unresolved
from tollgate.recovery.service import perform, record_error
from tollgate.recovery.store import DynamoRecovery
from tools.engine import Engine, engine

__all__ = ["main"]

STORED: Final = 10_000
DUE: Final = 100
LISTED: Final = 50
UNRESOLVED: Final = 1_000
COLUMNS: Final = ("", "requests", "read units", "write units")
LEFT: Final = timedelta(minutes=4)
ARGUMENTS: Final = {"invoice": "inv_0"}


def _succeed(_arguments: Mapping[str, Any], _key: str) -> None:
    """Do it."""


def _fail(_arguments: Mapping[str, Any], _key: str) -> None:
    raise ValueError("declined")


def _sweep(run: Callable[[Mapping[str, Any], str], object]) -> None:
    operations = {"collect": Operation("collect", run)}
    done = Processor(DynamoRecovery(), operations, lambda: NOW, lambda: LEFT, Retries()).sweep()
    if done.faults or done.lost:
        raise RuntimeError(done)


def _record() -> None:
    record_error(
        DynamoRecovery(), id="err_00000", error_type=ErrorType.PAYMENT_FAILED, operation="collect",
        arguments=ARGUMENTS, customer="customer_0", subscription="sub_0", context={"request_id": "r"}, error="declined",
        clock=lambda: NOW, policy=POLICY,
    )  # fmt: skip


def _perform(call: Callable[[Mapping[str, Any], str], object]) -> None:
    perform(
        DynamoRecovery(), Operation("collect", call), ARGUMENTS, id="op_0", error_type=ErrorType.PAYMENT_FAILED,
        customer="customer_0", subscription="sub_0", context={}, clock=lambda: NOW, time_left=lambda: LEFT,
    )  # fmt: skip


def _counted(database: Engine, act: Callable[[], object]) -> Consumed:
    with consumption(database) as consumed:
        act()
    return consumed


def _together(one: Consumed, other: Consumed) -> Consumed:
    return Consumed(one.calls + other.calls, one.write_units + other.write_units, one.read_units + other.read_units)


def show_one(report: Report) -> None:
    """One record from its failure to its end."""
    rows = []
    with engine(create_tables) as database:
        written = _counted(database, _record)
        rows.append(["record_error", *written.cells()])
        for name, call in (("a try that succeeds, as found by a sweep", _succeed), ("a try that fails", _fail)):
            fill(database, 1, 1)
            swept = _counted(database, partial(_sweep, call))
            fill(database, 0, 0)
            swept.calls -= (idle := _counted(database, partial(_sweep, call))).calls
            swept.read_units -= idle.read_units
            rows.append([name, *swept.cells()])
            report.hold(f"requests of {name}", swept.calls, 3)
            if call is _succeed:
                rows.append(["  both: from the failure to resolved", *_together(written, swept).cells()])
        database.clear()
        for name, call in (("perform, which succeeds", _succeed), ("perform, which fails", _fail)):
            performed = _counted(database, partial(_perform, call))
            rows.append([name, *performed.cells()])
            report.hold(f"requests of {name}", performed.calls, 2)
    report.table(
        "One failed operation",
        COLUMNS,
        rows,
        ["a record within 1 KB, of a customer; a try is a read, a claim and a result; a request that fails adds none"],
    )


def show_sweeps(report: Report) -> None:
    """A sweep, by what is due and what is stored."""
    rows = []
    with engine(create_tables) as database:
        for stored, due in ((0, 0), (STORED, 0), (DUE, DUE), (STORED, DUE)):
            fill(database, stored, due)
            swept = _counted(database, partial(_sweep, _succeed))
            rows.append([f"{due} due of {stored:,}", *swept.cells()])
            if due:
                report.hold(f"requests of a sweep for each of {due} due", swept.calls / due, 3.04)
            else:
                report.hold("requests of a sweep with nothing due", swept.calls, 4)
    report.table("A sweep, all of whose tries succeed", COLUMNS, rows)


def show_reads(report: Report) -> None:
    """What people read."""
    rows = []
    with engine(create_tables) as database:
        for count in (0, UNRESOLVED):
            database.clear()
            store = DynamoRecovery()
            for number in range(count):
                store.put(record(number, Status.MANUAL, None))
            counted = _counted(database, partial(unresolved, store, lambda: NOW))
            rows.append([f"the report, {count:,} unresolved", *counted.cells()])
            report.hold("requests of a report of up to 1,000", counted.calls, 16)
        for name, wanted in (
            ("in manual", Filter(status=Status.MANUAL)),
            ("of a customer", Filter(customer="customer_0")),
            ("of any kind", Filter()),
        ):
            listed = _counted(database, partial(store.find, wanted, after=None, limit=LISTED))
            rows.append([f"a list of {LISTED} {name}", *listed.cells()])
    report.table("What people read", COLUMNS, rows, ["a list reads each of its records, with its history"])


SECTIONS: Final[dict[str, Callable[[Report], None]]] = {
    "one": show_one,
    "sweeps": show_sweeps,
    "reads": show_reads,
}


def main() -> int:
    """Print the tables; 1 where a limit is not held."""
    return run("bench.recovery", "What a failed operation costs.", SECTIONS)


if __name__ == "__main__":
    sys.exit(main())

"""What a sweep reads is in proportion to what is due, not to what is stored; racing runs try each record once."""

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from tests.conftest import create_tables
from tests.faults.office import NOW
from tests.faults.stored import fill
from tests.unit.fakes_recovery import Retries
from tollgate.recovery.operations import Operation
from tollgate.recovery.processor import Processor, Run
from tollgate.recovery.store import SHARDS, DynamoRecovery
from tools.engine import Engine, engine

STORED, DUE, PROCESSORS = 10_000, 100, 8


@pytest.fixture(scope="module")
def measured() -> Iterator[Engine]:
    """An engine that counts units."""
    with engine(create_tables) as it:
        yield it


@dataclass
class Collected:
    """An operation that counts its calls."""

    calls: Counter[str]
    lock: threading.Lock

    def run(self, _arguments: Mapping[str, Any], key: str) -> None:
        """Do it."""
        with self.lock:
            self.calls[key] += 1


def processor(collected: Collected) -> Processor:
    """One with time enough."""
    operations = {"collect": Operation("collect", collected.run)}
    return Processor(DynamoRecovery(), operations, lambda: NOW, lambda: timedelta(minutes=4), Retries())


def costs(database: Engine) -> dict[str, tuple[int, float, float]]:
    """Calls, read units and write units, by operation."""
    return {name: (one.calls, one.read_units, one.write_units) for name, one in sorted(database.units.items())}


@pytest.mark.parametrize("stored", [DUE, STORED])
def test_a_sweep_costs_what_is_due_whatever_is_stored(measured: Engine, stored: int) -> None:
    """A query of each shard; for each record one read, and two writes. With nothing due, four queries and no more.

    A claim writes the state and a history entry (4 units) and moves in two indexes (4); a success writes a try as well
    (6), leaves one index and moves in another (3).
    """
    fill(measured, stored, DUE)
    collected = Collected(Counter(), threading.Lock())
    run = processor(collected).sweep()
    assert (run.resolved, run.faults) == (DUE, [])
    assert collected.calls == {f"err_{number:05}": 1 for number in range(DUE)}
    assert costs(measured) == {
        "Query": (SHARDS + DUE, 0.5 * SHARDS + DUE, 0.0),
        "TransactWriteItems": (2 * DUE, 0.0, (4 + 4 + 6 + 3) * DUE),
    }
    measured.units.clear()
    assert processor(collected).sweep().counts() == Run().counts()
    assert costs(measured) == {"Query": (SHARDS, 0.5 * SHARDS, 0.0)}


def test_eight_runs_at_once_try_each_record_once(measured: Engine) -> None:
    """Of 10,000 stored 100 are due; no run reads more than it would alone; losers' writes change nothing."""
    fill(measured, STORED, DUE)
    collected = Collected(Counter(), threading.Lock())
    start = threading.Barrier(PROCESSORS)

    def sweep(_: int) -> Run:
        start.wait()
        return processor(collected).sweep()

    with ThreadPoolExecutor(PROCESSORS) as pool:
        runs = list(pool.map(sweep, range(PROCESSORS)))
    assert collected.calls == {f"err_{number:05}": 1 for number in range(DUE)}
    assert (sum(run.resolved for run in runs), [fault for run in runs for fault in run.faults]) == (DUE, [])
    assert all(run.claimed + run.lost <= DUE for run in runs)
    spent = costs(measured)
    assert spent["Query"][0] <= PROCESSORS * (SHARDS + DUE)
    assert spent["Query"][1] <= PROCESSORS * (0.5 * SHARDS + DUE)
    assert spent["TransactWriteItems"][0] <= (PROCESSORS + 1) * DUE
    store = DynamoRecovery()
    for number in range(DUE):
        found = store.get(f"err_{number:05}")
        assert found is not None
        assert [entry.to_status for entry in found.history] == ["pending", "retrying", "resolved"]
        assert [(one.number, one.outcome) for one in found.tries] == [(1, "succeeded")]

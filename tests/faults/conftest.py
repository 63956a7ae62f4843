"""The engine that the fault tests run on, and the seeds."""

import os
from collections.abc import Iterator

import pytest

from tests.conftest import create_tables
from tools.engine import Engine, engine

SHARES = 10


def all_seeds(usual: int = 300) -> range:
    """SEEDS seeds (as many as are `usual`) from FIRST (1) on, or SEED alone."""
    if "SEED" in os.environ:
        only = int(os.environ["SEED"])
        return range(only, only + 1)
    first = int(os.environ.get("FIRST", "1"))
    return range(first, first + int(os.environ.get("SEEDS", usual)))


def seeds(share: int, usual: int = 300) -> range:
    """One of `SHARES` shares of the seeds."""
    return all_seeds(usual)[share::SHARES]


def pytest_report_header() -> str:
    """Say which seeds are run."""
    if "SEED" in os.environ:
        return f"seed {os.environ['SEED']}"
    first, many = int(os.environ.get("FIRST", "1")), os.environ.get("SEEDS", "300, 500 or 100")
    return f"{many} seeds from {first} on; SEED=n make faults repeats one, SEEDS=10000 makes a night, FIRST=n another"


@pytest.fixture(scope="module")
def _engine() -> Iterator[Engine]:
    with engine(create_tables, bare=True) as it:
        yield it


@pytest.fixture
def database(_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The engine, empty; the stores' calls come one after the other, so that a seed fixes their order."""
    monkeypatch.setattr("tollgate.metering.counters._WORKERS", 1)
    monkeypatch.setattr("tollgate.kernel.dynamodb._PAUSE_SECONDS", 0)
    _engine.clear()
    return _engine

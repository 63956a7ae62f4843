"""The engine that the fault tests run on, and the seeds."""

import os
from collections.abc import Iterator

import pytest

from tests.conftest import create_tables
from tools.engine import Engine, engine

SHARES = 10


def seeds(share: int, usual: int = 300) -> range:
    """One of `SHARES` shares of the seeds: 1 to SEEDS (as many as are `usual`), or SEED alone."""
    if "SEED" in os.environ:
        only = int(os.environ["SEED"])
        return range(only, only + (share == 0))
    return range(1 + share, 1 + int(os.environ.get("SEEDS", usual)), SHARES)


def pytest_report_header() -> str:
    """Say which seeds are run."""
    if "SEED" in os.environ:
        return f"seed {os.environ['SEED']}"
    most = os.environ.get("SEEDS", "300, 500 or 100")
    return f"seeds 1 to {most}; SEED=n make faults repeats one, SEEDS=10000 makes a night of it"


@pytest.fixture(scope="module")
def _engine() -> Iterator[Engine]:
    with engine(create_tables, bare=True) as it:
        yield it


@pytest.fixture
def database(_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The engine, empty; the stores' calls come one after the other, so that a seed fixes their order."""
    monkeypatch.setattr("tollgate.metering.counters._WORKERS", 1)
    _engine.clear()
    return _engine

"""The four tables on the engine that the environment names, empty for each test."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.store import engines

engines.name_tables()


@pytest.fixture(scope="session")
def _tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    log: Path = tmp_path_factory.mktemp("engine") / "ministack.log"
    with engines.tables_for_all(log):
        yield


@pytest.fixture
def tables(_tables: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All tables exist and are empty when the test starts."""
    if engines.ON_MOTO:  # which is not thread-safe
        monkeypatch.setattr("tollgate.metering.counters._WORKERS", 1)
        monkeypatch.setattr("tollgate.recovery.store._READERS", 1)
    with engines.tables_for_one():
        yield


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what the engine does of what we lean on, where it was asked for by name."""
    if engines.ENDPOINT:
        told = [dict(report.user_properties).get("behaviour") for report in terminalreporter.stats.get("passed", [])]
        for line in filter(None, told):
            terminalreporter.write_line(line)

"""The four tables on moto, new for each test."""

from collections.abc import Iterator

import boto3
import pytest
from moto import mock_aws

from tests.conftest import create_tables


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All tables exist and are empty while the test runs."""
    monkeypatch.setattr("tollgate.metering.counters._WORKERS", 1)  # moto is not thread-safe
    monkeypatch.setattr("tollgate.recovery.store._READERS", 1)
    with mock_aws():
        create_tables(boto3.client("dynamodb"))
        yield

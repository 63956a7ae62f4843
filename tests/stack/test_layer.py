"""The layer as it is built for this machine, which the stack runs on."""

import importlib.util
from pathlib import Path

import pytest

from bench.cold import Layer, cold_starts, layer_of
from tools import LOCAL
from tools.deploy import LAYER_LIMIT


@pytest.fixture(scope="module")
def layer(stack: object) -> Layer:
    """As it was built for the stack."""
    assert stack
    return layer_of(LOCAL / "build" / "test")


def test_every_module_is_compiled_and_the_layer_is_small(layer: Layer) -> None:
    """By this Python: what has no .pyc is compiled at every cold start, for /opt cannot be written."""
    modules = list((layer.folder / "python").rglob("*.py"))
    assert len(modules) > 500
    assert layer.uncompiled == []
    assert layer.zipped < LAYER_LIMIT
    cached = importlib.util.cache_from_source(str(layer.folder / "python/tollgate/metering/store.py"))
    flags = int.from_bytes(Path(cached).read_bytes()[4:8], "little")
    assert flags == 0b01, "not compiled with unchecked hashes: zip files change times"


def test_a_cold_start_is_that_of_its_libraries(layer: Layer) -> None:
    """As a ratio within the run, with a margin: docs/benchmarks.md has the measurement."""
    times = cold_starts(layer, times=5)
    assert times["the entitlements function"] < 2 * times["import boto3; boto3.client"]

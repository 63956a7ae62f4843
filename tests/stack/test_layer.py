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


def test_a_cold_start_costs_less_than_a_client_of_boto3(layer: Layer) -> None:
    """As a ratio within the run: 0.8 is the limit of docs/benchmarks.md, and the rest a margin for a busy machine."""
    times = cold_starts(layer, times=7)
    assert times["the entitlements function"] < 0.9 * times["import boto3; boto3.client"]

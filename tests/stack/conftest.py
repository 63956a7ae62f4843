"""The whole stack on MiniStack, deployed once for all tests that drive it over HTTP."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tools.demo import client
from tools.local import Stack, local_stack


def pytest_itemcollected(item: pytest.Item) -> None:
    """Every test of this folder needs the stack."""
    if "/stack/" in item.nodeid:
        item.add_marker(pytest.mark.stack)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The stack, up while tests run."""
    with local_stack() as running:
        yield running


@pytest.fixture(scope="session")
def api(stack: Stack) -> Iterator[httpx.Client]:
    """Speaks to the API as the administrator."""
    with client(stack) as speaking:
        yield speaking


@pytest.fixture(scope="session")
def openapi(api: httpx.Client) -> dict[str, Any]:
    """The document as the stack serves it."""
    document: dict[str, Any] = api.get("/v1/openapi.json").raise_for_status().json()
    return document

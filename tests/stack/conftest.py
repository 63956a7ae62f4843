"""The whole stack on MiniStack, deployed once for all tests that drive it over HTTP."""

import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tools.demo import client
from tools.local import Stack, local_stack

_FEATURES = {"gate-calls": "usage", "gate-tokens": "quota", "gate-bursts": "rate", "gate-export": "boolean"}
_PLAN = {
    "name": "Gates",
    "currency": "EUR",
    "billing_period": {"interval": "month"},
    "features": [
        {"feature": "gate-calls", "price": {"model": "flat", "unit_price": "0.01"}},
        {"feature": "gate-tokens", "quota": {"limit": "100", "overage": "block"}},
        {"feature": "gate-bursts", "rate": {"limit": "3", "window_seconds": 86400}},
        {"feature": "gate-export"},
    ],
}
NewCustomer = Callable[[], str]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Every test of this folder needs the stack."""
    if "/stack/" in item.nodeid:
        item.add_marker(pytest.mark.stack)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What the roles have used is known when all tests have run, and is not asked when only some do."""
    last = next((item for item in items if item.name == "test_no_role_may_do_what_nobody_does"), None)
    if last is not None:
        items.remove(last)
        if {item.path for item in items} >= set(Path(__file__).parent.glob("test_*.py")):
            items.append(last)
        else:
            config.hook.pytest_deselected(items=[last])


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The stack, up while tests run; its functions may do what their roles say."""
    with local_stack(holds_roles=True) as running:
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


@pytest.fixture(scope="session")
def customer(api: httpx.Client) -> NewCustomer:
    """Makes a customer on a plan with a feature of each type."""
    for code, kind in _FEATURES.items():
        api.put(f"/v1/features/{code}", json={"name": code, "type": kind}).raise_for_status()
    api.put("/v1/plans/gates", json=_PLAN).raise_for_status()

    def make() -> str:
        name = f"gate-{uuid.uuid4().hex[:8]}"
        api.put(f"/v1/customers/{name}", json={}).raise_for_status()
        body = {"customer": name, "plan": "gates", "starts_at": (datetime.now(UTC) - timedelta(days=1)).isoformat()}
        api.post("/v1/subscriptions", json=body, headers={"idempotency-key": name}).raise_for_status()
        return name

    return make


def consume(api: httpx.Client, customer: str, feature: str, **body: str) -> httpx.Response:
    """Consume some of a feature."""
    asked = {"id": str(uuid.uuid4())} | body
    return api.post(f"/v1/customers/{customer}/entitlements/{feature}/consume", json=asked)


def bill(api: httpx.Client) -> dict[str, Any]:
    """Bill what is due, whoever's it is, and give the run when it is done: what a request has no time for is queued."""
    run: dict[str, Any] = api.post("/v1/billing/run", timeout=60).raise_for_status().json()
    for _ in range(5_000):
        if run["status"] == "done":
            break
        run = api.get(f"/v1/billing/runs/{run['id']}").raise_for_status().json()
    assert run["status"] == "done", run
    return run

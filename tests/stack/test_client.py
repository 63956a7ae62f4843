"""The Python client against the whole stack."""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from tests.client.fakes_api import Clock
from tollgate_client import (
    UNREACHABLE,
    AsyncTollgate,
    Conflict,
    Denied,
    InvalidInput,
    NotFound,
    Rejected,
    Tollgate,
    TollgateMiddleware,
    Unauthenticated,
)
from tools.local import Stack

pytestmark = pytest.mark.stack

FEATURES = {"lib-calls": "usage", "lib-tokens": "quota", "lib-bursts": "rate", "lib-export": "boolean"}
PLAN = {
    "name": "Library",
    "currency": "EUR",
    "billing_period": {"interval": "month"},
    "features": [
        {"feature": "lib-calls", "price": {"model": "flat", "unit_price": "0.01"}},
        {"feature": "lib-tokens", "quota": {"limit": "100", "overage": "block"}},
        {"feature": "lib-bursts", "rate": {"limit": "3", "window_seconds": 86400}},
        {"feature": "lib-export"},
    ],
}
Customer = Callable[[], str]


@pytest.fixture(scope="module")
def customer(api: httpx.Client) -> Customer:
    """Makes a customer on the plan."""
    for code, kind in FEATURES.items():
        api.put(f"/v1/features/{code}", json={"name": code, "type": kind}).raise_for_status()
    api.put("/v1/plans/library", json=PLAN).raise_for_status()

    def make() -> str:
        name = f"lib-{uuid.uuid4().hex[:8]}"
        api.put(f"/v1/customers/{name}", json={}).raise_for_status()
        body = {"customer": name, "plan": "library", "starts_at": (datetime.now(UTC) - timedelta(days=1)).isoformat()}
        api.post("/v1/subscriptions", json=body, headers={"idempotency-key": name}).raise_for_status()
        return name

    return make


@pytest.fixture
def tollgate(stack: Stack) -> Iterator[Tollgate]:
    """The client, which sends what it records when a test says so."""
    with Tollgate(stack.api_url, stack.api_key, timeout=30, deadline=60, flush_interval=3_600) as speaking:
        yield speaking


def used(api: httpx.Client, customer: str, feature: str) -> Decimal:
    """What of a feature is used."""
    answer = api.get(f"/v1/customers/{customer}/usage", params={"feature": feature}).raise_for_status()
    return Decimal(answer.json()["quantity"])


def test_it_checks_and_consumes(api: httpx.Client, customer: Customer, tollgate: Tollgate) -> None:
    """Every field of the answers is read; the same id is a duplicate, or a conflict."""
    ada = customer()
    before = tollgate.check(ada, "lib-tokens", 100)
    assert before
    assert (before.customer, before.type, before.limit, before.used) == (ada, "quota", Decimal(100), Decimal(0))
    assert before.resets_at is not None
    assert before.resets_at > datetime.now(UTC)
    assert before.headers["RateLimit"].startswith('"lib-tokens";r=100;t=')
    first = tollgate.consume(ada, "lib-tokens", "60.5")
    assert (first.status, first.used, first.remaining) == ("consumed", Decimal("60.5"), Decimal("39.5"))
    assert tollgate.consume(ada, "lib-tokens", "60.5", id=first.id).status == "duplicate"
    with pytest.raises(Conflict):
        tollgate.consume(ada, "lib-tokens", 61, id=first.id)
    refused = tollgate.consume(ada, "lib-tokens", 40)
    assert (refused.allowed, refused.status, refused.reason) == (False, "denied", "quota_exceeded")
    assert refused.retry_after is not None
    assert used(api, ada, "lib-tokens") == Decimal("60.5")
    found = {each.feature: (each.type, each.allowed) for each in tollgate.check_all(ada)}
    assert found == {feature: (kind, True) for feature, kind in FEATURES.items()}


def test_it_consumes_several_features_together(api: httpx.Client, customer: Customer, tollgate: Tollgate) -> None:
    """The fourth burst is one too many: its tokens are not taken either."""
    ada = customer()
    answers = [tollgate.consume_many(ada, {"lib-tokens": 10, "lib-bursts": 1, "lib-export": 1}) for _ in range(4)]
    assert [answer.status for answer in answers] == ["consumed", "consumed", "consumed", "denied"]
    assert answers[3]["lib-bursts"].reason == "rate_limited"
    assert (used(api, ada, "lib-tokens"), used(api, ada, "lib-bursts")) == (Decimal(30), Decimal(3))


def test_it_reserves(customer: Customer, tollgate: Tollgate) -> None:
    """Committed with less, released by leaving, and denied."""
    ada = customer()
    with tollgate.reserve(ada, "lib-tokens", 70, expires_in=60) as held:
        assert tollgate.check(ada, "lib-tokens").reserved == 70
        with pytest.raises(Denied), tollgate.reserve(ada, "lib-tokens", 31):
            pytest.fail("entered")
        assert held.commit("55.5").status == "committed"
        assert held.commit("55.5").status == "duplicate"
    with pytest.raises(ZeroDivisionError), tollgate.reserve(ada, "lib-tokens", 44):
        _ = 1 / 0
    after = tollgate.check(ada, "lib-tokens")
    assert (after.used, after.reserved) == (Decimal("55.5"), Decimal(0))
    with pytest.raises(InvalidInput), tollgate.reserve(ada, "lib-bursts", 1):
        pytest.fail("entered")


def test_it_records_events_once_and_reports_those_that_never_count(
    api: httpx.Client, customer: Customer, stack: Stack
) -> None:
    """Sent again they are duplicates; more than a request holds go in several."""
    ada = customer()
    told: list[Rejected] = []
    at = datetime.now(UTC)
    for status in ("accepted", "duplicate"):
        with Tollgate(stack.api_url, stack.api_key, flush_interval=3_600, on_rejected=told.append) as tollgate:
            for number in range(600):
                tollgate.record(ada, "lib-calls", "0.5", id=f"call-{number}", time=at, properties={"path": "/"})
            tollgate.record(ada, "lib-nothing")
            stats = tollgate.flush(timeout=60)
        assert (getattr(stats, status), stats.rejected, stats.pending) == (600, 1, 0)
    assert used(api, ada, "lib-calls") == 300
    assert [(one.event.feature, one.reason) for one in told] == [("lib-nothing", "feature_not_found")] * 2


def test_it_sends_events_by_itself(api: httpx.Client, customer: Customer, stack: Stack) -> None:
    """Some time after they were recorded."""
    ada = customer()
    with Tollgate(stack.api_url, stack.api_key, flush_interval=0.05) as tollgate:
        tollgate.record(ada, "lib-calls", 3)
        give_up = time.monotonic() + 60
        while tollgate.stats.pending and time.monotonic() < give_up:
            time.sleep(0.05)
        assert tollgate.stats.accepted == 1
    assert used(api, ada, "lib-calls") == 3


def hasty() -> dict[str, Any]:
    """A client that waits for answers as long as they take, and passes the pauses between its tries at once."""
    clock = Clock()
    return {"timeout": 30, "deadline": 40, "flush_interval": 3_600, "clock": clock, "sleep": clock.sleep}


class Lossy(httpx.HTTPTransport):
    """A network that goes down once a request to a path has been counted: its answer is lost, and what follows."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.is_up = True
        self._paths = {path}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send, or lose the answer, or the request."""
        if not self.is_up:
            raise httpx.ConnectError("lost")
        response = super().handle_request(request)
        name = request.url.path.rpartition("/")[2]
        if name in self._paths:
            self._paths.remove(name)
            response.read()
            self.is_up = False
            raise httpx.ReadTimeout("lost")
        return response


def test_what_is_allowed_in_an_outage_is_counted_once_though_its_answer_was_lost(
    api: httpx.Client, customer: Customer, stack: Stack
) -> None:
    """The first consumption is counted and its answer lost; the second does not arrive. Both are counted, once."""
    ada, network = customer(), Lossy("consume")
    with Tollgate(stack.api_url, stack.api_key, transport=network, on_error="allow", **hasty()) as tollgate:
        answers = [tollgate.consume(ada, "lib-tokens", 10) for _ in range(2)]
        assert [(answer.allowed, answer.reason) for answer in answers] == [(True, UNREACHABLE)] * 2
        network.is_up = True
        stats = tollgate.flush(timeout=60)
    assert (stats.duplicate, stats.accepted, stats.allowed_in_error) == (1, 1, {"lib-tokens": 2})
    assert used(api, ada, "lib-tokens") == 20


def test_a_commit_whose_answer_was_lost_is_made_later(api: httpx.Client, customer: Customer, stack: Stack) -> None:
    """It is a duplicate then; the work is counted once."""
    ada, network = customer(), Lossy("commit")
    with Tollgate(stack.api_url, stack.api_key, transport=network, **hasty()) as tollgate:
        with tollgate.reserve(ada, "lib-tokens", 90) as held:
            assert held.commit(80).reason == UNREACHABLE
        network.is_up = True
        assert tollgate.flush(timeout=60).duplicate == 1
    assert used(api, ada, "lib-tokens") == 80


def test_tasks_at_one_moment_get_exactly_the_quota(customer: Customer, stack: Stack) -> None:
    """Through the client for asyncio."""
    ada = customer()

    async def consume() -> Counter[tuple[str | None, str]]:
        async with AsyncTollgate(stack.api_url, stack.api_key, timeout=60, deadline=120) as tollgate:
            answers = await asyncio.gather(*(tollgate.consume(ada, "lib-tokens", 15) for _ in range(8)))
            async with tollgate.reserve(ada, "lib-tokens", 2) as held:
                assert (await held.commit(1)).status == "committed"
            return Counter((answer.status, answer.reason) for answer in answers)

    assert asyncio.run(consume()) == {("consumed", "allowed"): 6, ("denied", "quota_exceeded"): 2}


def test_an_application_is_gated(customer: Customer, stack: Stack) -> None:
    """Three requests a day, and a feature that is not there."""
    ada = customer()

    def customer_of(_: MutableMapping[str, Any]) -> str:
        return ada

    async def ask() -> list[httpx.Response]:
        async with AsyncTollgate(stack.api_url, stack.api_key, timeout=30, deadline=60) as tollgate:
            app = FastAPI()
            app.add_middleware(TollgateMiddleware, tollgate=tollgate, feature="lib-bursts", customer=customer_of)

            @app.get("/export")
            @tollgate.requires("lib-export")
            async def export() -> str:
                return "done"

            @app.get("/other")
            @tollgate.requires("lib-nothing")
            async def other() -> None:
                pytest.fail("reached")

            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as browser:
                return [await browser.get(path) for path in ("/export", "/other", "/export", "/export")]

    done, missing, again, limited = asyncio.run(ask())
    assert (done.json(), done.headers["RateLimit"].split(";")[1]) == ("done", "r=2")
    assert (missing.status_code, missing.json()["reason"]) == (403, "feature_not_found")
    assert again.headers["RateLimit-Policy"] == '"lib-bursts";q=3;w=86400'
    assert (limited.status_code, limited.json()["reason"]) == (429, "rate_limited")
    assert int(limited.headers["Retry-After"]) > 0


def test_what_the_api_refuses_is_an_error(customer: Customer, tollgate: Tollgate, stack: Stack) -> None:
    """With the words of the API, or of the gateway before it."""
    ada = customer()
    with pytest.raises(InvalidInput) as caught:
        tollgate.consume(ada, "lib-tokens", "-1")
    assert [(fault.pointer, fault.detail) for fault in caught.value.errors] == [("/quantity", "must not be negative")]
    with pytest.raises(NotFound, match="404 Not found: There is no customer lib-nobody"):
        tollgate.check_all("lib-nobody")
    assert tollgate.check("lib nobody", "lib-calls").reason == "customer_not_found"
    with Tollgate(stack.api_url, "tg_wrong", on_error="allow") as other, pytest.raises(Unauthenticated):
        other.check(ada, "lib-calls")

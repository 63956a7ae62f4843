"""docs/limits.md, row by row: at the limit a request is taken, one beyond it is refused and stores nothing."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.conftest import ROOT
from tests.fuzz.gateway import deployed
from tests.fuzz.world import settle
from tollgate.api.app import MAX_BODY_BYTES
from tollgate.catalog import schema as catalog
from tollgate.catalog.keys import MAX_KEY_WINDOW_SECONDS, MAX_LIFETIME, MAX_OVERLAP_SECONDS, MAX_RATE
from tollgate.catalog.model import MAX_WINDOW_SECONDS
from tollgate.catalog.service import MAX_PAST_PERIODS
from tollgate.catalog.snapshots import MAX_SHARDS, MAX_THRESHOLDS
from tollgate.entitlements.service import MAX_ITEMS, MAX_RESERVED_SECONDS
from tollgate.kernel.ids import MAX_CURSOR, MAX_KEY
from tollgate.kernel.json import MAX_DEPTH
from tollgate.kernel.schema import MAX_PAGE, MAX_REASON
from tollgate.kernel.webhooks import MAX_URL
from tollgate.metering.fields import MAX_SOURCE
from tollgate.metering.model import MAX_AGE, MAX_AHEAD, MAX_EVENTS
from tollgate.metering.schema import MAX_PROPERTIES_DEPTH
from tollgate.pricing.model import MAX_TIERS
from tollgate.recovery import schema as recovery

LIMITS = (ROOT / "docs/limits.md").read_text()
PLAN: dict[str, Any] = {"name": "Limits", "currency": "EUR", "billing_period": {"interval": "month"}}
NOW = datetime.now(UTC)
"""When the tests were collected; they may run half an hour later."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A request; where it stores something, where that could be read."""

    method: str
    path: str
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    stored: str = ""


@dataclass(frozen=True, slots=True)
class Limit:
    """A row: what it is called there, how large it is, a request of a size, and what one beyond is refused with."""

    row: str
    most: int
    request: Callable[[int], Sent]
    pointer: str
    status: int = 422
    at: bool = True
    """Whether there is a request at the limit that is taken."""


def feature(size: int, **change: Any) -> Sent:
    """A feature of a code of its own."""
    code = f"limit-{len(json.dumps(change))}-{size}"
    body = {"name": "Limit", "type": "usage"} | change
    return Sent("PUT", f"/v1/features/{code}", body, stored=f"/v1/features/{code}")


def plan(size: int, **change: Any) -> Sent:
    """A plan of a code of its own."""
    code = f"limit-{min(change).replace('_', '-')}-{size}"
    return Sent("PUT", f"/v1/plans/{code}", PLAN | change, stored=f"/v1/plans/{code}")


def customer(size: int, **change: Any) -> Sent:
    """A customer of an id of its own."""
    name = f"limit-{min(change)}-{len(json.dumps(change))}-{size}"
    return Sent("PUT", f"/v1/customers/{name}", change, stored=f"/v1/customers/{name}")


def tiers(size: int) -> Sent:
    """A plan whose price has so many tiers."""
    bounds = [{"up_to": str(bound), "unit_price": "1"} for bound in range(1, size)]
    price = {"model": "tiered", "tiers": [*bounds, {"up_to": None, "unit_price": "1"}]}
    return plan(size, features=[{"feature": "tokens", "price": price}])


def note(size: int, **change: Any) -> Sent:
    """A bulk change that is only tried."""
    body = {"filter": {"customer": "nobody"}, "note": "n", "dry_run": True} | change
    return Sent("POST", "/v1/errors/discard", body | {"note": "n" * size} if not change else body)


def event(**change: Any) -> dict[str, Any]:
    """An event that counts."""
    return {"id": "limit-1", "customer": "acme", "feature": "tokens"} | change


def events(count: int) -> Sent:
    """So many of them."""
    return Sent("POST", "/v1/events", [event(id=f"limit-{number}") for number in range(count)])


def key(**change: Any) -> dict[str, Any]:
    """A key to make."""
    return {"name": "Limit", "scopes": ["catalog:read"]} | change


def held(seconds: int) -> Sent:
    """A reservation for so long."""
    body = {"customer": "acme", "feature": "api-calls", "quantity": "1", "expires_in_seconds": seconds}
    return Sent("POST", "/v1/reservations", body | {"id": f"limit-{seconds}"})


def subscription(days: int) -> Sent:
    """A subscription that began so long ago, with 28 days in its shortest period."""
    start = (datetime.now(UTC) - timedelta(days=28 * days, seconds=-60)).isoformat()
    body = {"id": f"limit-{days}", "customer": "globex", "plan": "starter", "starts_at": start}
    return Sent("POST", "/v1/subscriptions", body, stored=f"/v1/subscriptions/limit-{days}")


def usage(granularity: str, days: int) -> Sent:
    """A question about so many days."""
    query = f"feature=tokens&granularity={granularity}&from={stamp(days)}&to={stamp(0)}"
    return Sent("GET", f"/v1/customers/acme/usage?{query}")


def stamp(days: int) -> str:
    """The time so many days ago; the 2 hours that a range may have more by the clock are used up."""
    return f"{NOW - timedelta(days=days, hours=2 if days else 0):%Y-%m-%dT%H:%M:%SZ}"


def deposit(amount: str, name: str) -> Sent:
    """Money."""
    body = {"id": name, "type": "deposit", "amount": amount, "currency": "EUR"}
    return Sent("POST", "/v1/customers/globex/wallet/transactions", body)


def nested(depth: int) -> Any:
    """Objects in objects."""
    return {"a": nested(depth - 1)} if depth else 1


LIMITED = [
    Limit(
        "an id or a code",
        128,
        lambda n: Sent("PUT", f"/v1/features/{'c' * n}", {"name": "C", "type": "usage"}),
        "/code",
    ),
    Limit("a name", catalog.MAX_NAME, lambda n: feature(n, name="n" * n), "/name"),
    Limit("a unit", catalog.MAX_UNIT, lambda n: feature(n, unit="u" * n), "/unit"),
    Limit("an email address", catalog.MAX_EMAIL, lambda n: customer(n, email="a@" + "b" * (n - 2)), "/email"),
    Limit("a time zone", catalog.MAX_TIMEZONE, lambda n: customer(n, timezone="z" * n), "/timezone", at=False),
    Limit(
        "a customer's `metadata`",
        catalog.MAX_METADATA,
        lambda n: customer(n, metadata={str(number): "v" for number in range(n)}),
        "/metadata",
    ),
    Limit(
        "a customer's `metadata`",
        catalog.MAX_METADATA_KEY,
        lambda n: customer(n, metadata={"k" * n: "v"}),
        "/metadata/" + "k" * 65,
    ),
    Limit(
        "a customer's `metadata`",
        catalog.MAX_METADATA_VALUE,
        lambda n: customer(n, metadata={"k": "v" * n}),
        "/metadata/k",
    ),
    Limit(
        "the `count` of a billing period",
        catalog.MAX_PERIOD_COUNT,
        lambda n: plan(n, billing_period={"interval": "day", "count": n}),
        "/billing_period/count",
    ),
    Limit("trial and grace days", catalog.MAX_DAYS, lambda n: plan(n, trial_days=n), "/trial_days"),
    Limit("trial and grace days", catalog.MAX_DAYS, lambda n: plan(n, grace_days=n), "/grace_days"),
    Limit(
        "features of a plan",
        catalog.MAX_FEATURES,
        lambda n: plan(n, features=[{"feature": f"many-{number}"} for number in range(n)]),
        "/features",
    ),
    Limit("tiers of a price", MAX_TIERS, tiers, "/features/0/price/tiers"),
    Limit("a decimal", 20, lambda n: plan(n, base_price="9" * n), "/base_price"),
    Limit("a decimal", 18, lambda n: plan(n, base_price="0." + "1" * n), "/base_price"),
    Limit(
        "a decimal",
        20,
        lambda n: Sent(
            "POST",
            "/v1/prices/quote",
            {"currency": "EUR", "quantity": 10**n - 1, "price": {"model": "flat", "unit_price": "1"}},
        ),
        "/quantity",
    ),
    Limit("an amount that is paid", 15, lambda n: deposit("9" * n, f"limit-{n}"), "/amount"),
    Limit("an amount that is paid", 2, lambda n: deposit("0." + "1" * n, f"limit-cents-{n}"), "/amount"),
    Limit(
        "a rate's window",
        MAX_WINDOW_SECONDS,
        lambda n: plan(n, features=[{"feature": "bursts", "rate": {"limit": "1", "window_seconds": n}}]),
        "/features/0/rate/window_seconds",
    ),
    Limit("a reservation", MAX_RESERVED_SECONDS, held, "/expires_in_seconds"),
    Limit(
        "shards of a counter",
        MAX_SHARDS,
        lambda n: Sent("PUT", "/v1/customers/acme/counters/tokens", {"shards": n}),
        "/shards",
    ),
    Limit(
        "thresholds of a feature",
        MAX_THRESHOLDS,
        lambda n: Sent(
            "PUT",
            "/v1/customers/globex/alerts/tokens",
            {"thresholds": [{"quantity": str(number + 1)} for number in range(n)]},
        ),
        "/thresholds",
    ),
    Limit(
        "a reason, or the description",
        MAX_REASON,
        lambda n: Sent(
            "POST", "/v1/subscriptions/sub-globex/change", {"plan": "starter", "when": "period_end", "reason": "r" * n}
        ),
        "/reason",
        at=False,
    ),
    Limit("the note of an error", recovery.MAX_NOTE, note, "/note"),
    Limit("who acts on it", recovery.MAX_PERSON, lambda n: note(1, actor="p" * n), "/actor"),
    Limit("errors of a bulk change", recovery.MAX_BULK, lambda n: note(1, limit=n), "/limit"),
    Limit(
        "changed arguments of an error",
        recovery.MAX_ARGUMENT_NAMES,
        lambda n: Sent("POST", "/v1/errors/none/retry", {"arguments": {str(number): 1 for number in range(n)}}),
        "/arguments",
        at=False,
    ),
    Limit(
        "a webhook's URL",
        MAX_URL,
        lambda n: Sent(
            "PUT",
            f"/v1/webhooks/limit-{n}",
            {"url": "https://127.0.0.1/".ljust(n, "x"), "events": ["invoice.paid"]},
            stored=f"/v1/webhooks/limit-{n}",
        ),
        "/url",
    ),
    Limit(
        "types of events of a webhook",
        catalog.MAX_EVENT_TYPES,
        lambda n: Sent(
            "PUT",
            f"/v1/webhooks/limit-{n}",
            {"url": "https://127.0.0.1/", "events": ["invoice.paid"] * n},
            stored=f"/v1/webhooks/limit-{n}",
        ),
        "/events",
    ),
    Limit(
        "scopes of a key",
        catalog.MAX_SCOPES,
        lambda n: Sent("POST", "/v1/api-keys", {"name": "limit", "scopes": ["catalog:read"] * n}),
        "/scopes",
    ),
    Limit(
        "items of a `consume`",
        MAX_ITEMS,
        lambda n: Sent(
            "POST",
            "/v1/customers/acme/entitlements/consume",
            {"id": f"limit-{n}", "items": [{"feature": f"f-{number}"} for number in range(n)]},
        ),
        "/items",
    ),
    Limit("events of a request", MAX_EVENTS, events, ""),
    Limit("a page (`limit`)", MAX_PAGE, lambda n: Sent("GET", f"/v1/features?limit={n}"), "/limit"),
    Limit(
        "the overlap of a rotated key",
        MAX_OVERLAP_SECONDS,
        lambda n: Sent("POST", "/v1/api-keys/none/rotate", {"overlap_seconds": n}),
        "/overlap_seconds",
        at=False,
    ),
    Limit(
        "the limit of a key",
        MAX_RATE,
        lambda n: Sent("POST", "/v1/api-keys", key(rate_limit={"limit": n, "window_seconds": 60})),
        "/rate_limit/limit",
    ),
    Limit(
        "the window of a key's limit",
        MAX_KEY_WINDOW_SECONDS,
        lambda n: Sent("POST", "/v1/api-keys", key(rate_limit={"limit": 1, "window_seconds": n})),
        "/rate_limit/window_seconds",
    ),
    Limit(
        "the end of a key",
        MAX_LIFETIME.days,
        lambda n: Sent("POST", "/v1/api-keys", key(expires_at=(NOW + timedelta(days=n)).isoformat())),
        "/expires_at",
    ),
    Limit(
        "a page (`limit`)",
        MAX_EVENTS,
        lambda n: Sent("GET", f"/v1/customers/acme/events?feature=tokens&limit={n}"),
        "/limit",
    ),
    Limit("a cursor", MAX_CURSOR, lambda n: Sent("GET", f"/v1/features?cursor={'A' * n}"), "/cursor", at=False),
    Limit(
        "`Idempotency-Key`",
        MAX_KEY,
        lambda n: Sent("POST", "/v1/billing/run", headers={"Idempotency-Key": "k" * n}),
        "/idempotency-key",
    ),
    Limit("`starts_at` of a subscription", MAX_PAST_PERIODS, subscription, "/starts_at"),
    Limit("usage by day", 366, lambda n: usage("day", n), "/from"),
    Limit("usage by hour", 31, lambda n: usage("hour", n), "/from"),
]


@pytest.fixture(scope="module")
def api() -> Iterator[httpx.Client]:
    """The functions in this process, with a seller and as many features as a plan may have."""
    with deployed() as running, httpx.Client(base_url=running.api_url) as client:
        client.headers["Authorization"] = f"Bearer {running.api_key}"
        settle(client)
        for number in range(catalog.MAX_FEATURES):
            client.put(f"/v1/features/many-{number}", json={"name": "Many", "type": "usage"}).raise_for_status()
        yield client


def send(api: httpx.Client, request: Sent) -> httpx.Response:
    """The answer to it."""
    return api.request(request.method, request.path, json=request.body, headers=request.headers)


@pytest.mark.parametrize("limit", LIMITED, ids=[f"{limit.row} {limit.most}" for limit in LIMITED])
def test_at_the_limit_it_is_taken_and_beyond_it_refused(api: httpx.Client, limit: Limit) -> None:
    """With a pointer to what is too much; and the document says how much that is."""
    [row] = [line for line in LIMITS.splitlines() if line.startswith(f"| {limit.row}")]
    assert f"{limit.most:,}" in row or limit.row == "an amount that is paid"
    if limit.at:
        taken = send(api, limit.request(limit.most))
        assert taken.is_success, taken.text
    beyond = limit.request(limit.most + 1)
    refused = send(api, beyond)
    assert refused.status_code == limit.status, refused.text
    assert limit.pointer in [error["pointer"] for error in refused.json()["errors"]]
    if beyond.stored:
        assert api.get(beyond.stored).status_code == 404


def test_a_body_has_so_many_bytes_and_no_more(api: httpx.Client) -> None:
    """It is not read at all then."""
    for size, status in ((MAX_BODY_BYTES, 200), (MAX_BODY_BYTES + 1, 413)):
        body = json.dumps({"name": "Body", "metadata": {}}).encode().ljust(size)
        json_type = {"Content-Type": "application/json"}
        assert api.put(f"/v1/customers/limit-{status}", content=body, headers=json_type).status_code == status
    assert api.get("/v1/customers/limit-413").status_code == 404
    assert f"{MAX_BODY_BYTES:,} bytes" in LIMITS


def test_json_is_so_deep_and_its_integers_so_long_and_no_more(api: httpx.Client) -> None:
    """Beyond that it is no JSON of ours: 400, and at the limit it is only bad input."""
    for content, status in (
        (json.dumps(nested(MAX_DEPTH)), 422),
        (json.dumps(nested(MAX_DEPTH + 1)), 400),
        ('{"name": ' + "1" * 4_300 + "}", 422),
        ('{"name": ' + "1" * 4_301 + "}", 400),
        ('{"name": 1e308}', 422),
        ('{"name": 1e309}', 400),
        ('{"name": 1e999999}', 400),
    ):
        answer = api.put("/v1/customers/limit-json", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == status, content[:40]
    assert api.get("/v1/customers/limit-json").status_code == 404
    assert f"{MAX_DEPTH} deep" in LIMITS


@pytest.mark.parametrize(
    ("row", "good", "bad", "pointer"),
    [
        (f"{MAX_SOURCE} characters", event(source="s" * MAX_SOURCE), event(source="s" * (MAX_SOURCE + 1)), "/source"),
        (
            f"{MAX_PROPERTIES_DEPTH} deep",
            event(properties=nested(MAX_PROPERTIES_DEPTH)),
            event(properties=nested(MAX_PROPERTIES_DEPTH + 1)),
            "/properties",
        ),
        (
            f"{MAX_AGE.days} days back",
            event(time=(NOW - MAX_AGE + timedelta(hours=1)).isoformat()),
            event(time=(NOW - MAX_AGE).isoformat()),
            "/time",
        ),
        (
            "5 minutes ahead",
            event(time=(NOW + MAX_AHEAD).isoformat()),
            event(time=(NOW + MAX_AHEAD + timedelta(hours=1)).isoformat()),
            "/time",
        ),
        ("20 digits", event(quantity="1"), event(quantity="1" + "0" * 20), "/quantity"),
    ],
)
def test_an_event_beyond_a_limit_is_rejected_by_itself(
    api: httpx.Client, row: str, good: dict[str, Any], bad: dict[str, Any], pointer: str
) -> None:
    """Its neighbours count."""
    assert row in LIMITS
    body = [good | {"id": f"ok-{row.replace(' ', '-')}"}, bad | {"id": f"bad-{row.replace(' ', '-')}"}]
    first, second = api.post("/v1/events", json=body).raise_for_status().json()["results"]
    assert (first["status"], second["status"]) == ("accepted", "rejected")
    assert second.get("pointer", "/time") == pointer


def test_usage_by_period_is_of_so_many_periods_and_no_more(api: httpx.Client) -> None:
    """Of all subscriptions with the feature together: two of 600 days each are 1,200."""
    daily = PLAN | {"billing_period": {"interval": "day"}, "features": [{"feature": "tokens"}]}
    api.put("/v1/plans/daily", json=daily).raise_for_status()
    api.put("/v1/customers/daily", json={}).raise_for_status()
    for number in (1, 2):
        body = {"id": f"daily-{number}", "customer": "daily", "plan": "daily", "starts_at": stamp(600)}
        api.post("/v1/subscriptions", json=body).raise_for_status()
    for days, status in ((499, 200), (501, 422)):
        answer = api.get(f"/v1/customers/daily/usage?feature=tokens&from={stamp(days)}&to={stamp(0)}")
        assert answer.status_code == status, answer.text
    assert "1,000 billing periods" in LIMITS


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("usage?feature=tokens&from=1970-01-01T00:00:00Z", "/from"),
        ("usage?feature=tokens&to=9990-01-01T00:00:01Z", "/to"),
        ("events?feature=tokens&from=1970-01-01T00:00:00Z", "/from"),
        ("events?feature=tokens&to=9990-01-01T00:00:01Z", "/to"),
    ],
)
def test_a_question_is_of_years_that_events_may_lie_in(api: httpx.Client, query: str, pointer: str) -> None:
    """Beyond them times cannot be told."""
    refused = api.get(f"/v1/customers/acme/{query}")
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, pointer)
    assert "the years 1970 to 9990" in LIMITS

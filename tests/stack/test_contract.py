"""The contract over HTTP: the first session of a new user, idempotency, lists, and what is refused."""

import copy
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import jsonschema
import pytest

from tests.stack.conftest import bill

NOW = datetime.now(UTC)
PLAN: dict[str, Any] = {
    "name": "Pro",
    "currency": "EUR",
    "billing_period": {"interval": "month", "count": 1},
    "base_price": "20.00",
    "trial_days": 0,
    "grace_days": 3,
    "features": [
        {
            "feature": "contract-calls",
            "price": {
                "model": "tiered",
                "tiers": [
                    {"up_to": "100", "unit_price": "10", "flat_fee": "0"},
                    {"up_to": None, "unit_price": "8", "flat_fee": "0"},
                ],
            },
        },
        {"feature": "contract-seats", "quota": {"limit": "5", "overage": "block"}},
        {"feature": "contract-bursts", "rate": {"limit": "2", "window_seconds": 86400}},
        {"feature": "contract-sso", "enabled": False},
    ],
}
FEATURES = {"contract-calls": "usage", "contract-seats": "quota", "contract-bursts": "rate", "contract-sso": "boolean"}


@pytest.fixture(scope="module", autouse=True)
def seller(api: httpx.Client) -> None:
    """Features, a plan, and ada on it since yesterday."""
    for code, kind in FEATURES.items():
        api.put(f"/v1/features/{code}", json={"name": code, "type": kind}).raise_for_status()
    api.put("/v1/plans/contract", json=PLAN).raise_for_status()
    api.put("/v1/customers/ada", json={"name": "Ada", "timezone": "Europe/Berlin"}).raise_for_status()
    body = {"id": "sub-ada", "customer": "ada", "plan": "contract", "starts_at": (NOW - timedelta(days=1)).isoformat()}
    api.post("/v1/subscriptions", json=body).raise_for_status()


def pointers(answer: httpx.Response) -> list[str]:
    """The pointers of a 422."""
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    return [error["pointer"] for error in answer.json()["errors"]]


def check(api: httpx.Client, feature: str, quantity: str = "1") -> httpx.Response:
    """May ada?"""
    return api.get(f"/v1/customers/ada/entitlements/{feature}", params={"quantity": quantity}).raise_for_status()


def test_an_event_counts_is_seen_at_once_and_gates(api: httpx.Client) -> None:
    """Count three of five seats, ask for two more and for three more."""
    event = {"id": "seat-1", "customer": "ada", "feature": "contract-seats", "quantity": "3", "time": NOW.isoformat()}
    assert api.post("/v1/events", json=event).json()["results"] == [{"id": "seat-1", "status": "accepted"}]
    assert api.post("/v1/events", json=event).json()["duplicate"] == 1
    usage = api.get("/v1/customers/ada/usage", params={"feature": "contract-seats"}).json()
    assert (usage["quantity"], usage["events"], usage["customer"]) == ("3", 1, "ada")
    answer = check(api, "contract-seats", "2").json()
    assert answer["allowed"] is True
    assert answer["reason"] == "allowed"
    assert (answer["limit"], answer["used"], answer["remaining"], answer["overage"]) == ("5", "3", "2", "0")
    assert (answer["plan"], answer["subscription"], answer["type"]) == ("contract", "sub-ada", "quota")
    assert answer["resets_at"] == usage["period"]["end"]
    refused = check(api, "contract-seats", "2.000001")
    assert (refused.json()["allowed"], refused.json()["reason"]) == (False, "quota_exceeded")
    assert refused.headers["ratelimit-policy"] == '"contract-seats";q=5'
    assert refused.headers["ratelimit"].startswith('"contract-seats";r=2;t=')
    assert int(refused.headers["retry-after"]) > 0


def test_a_rate_limit_and_a_boolean_answer_for_themselves(api: httpx.Client) -> None:
    """Two bursts a day; single sign-on is off."""
    now = datetime.now(UTC).isoformat()
    events = [
        {"id": f"burst-{number}", "customer": "ada", "feature": "contract-bursts", "time": now} for number in (1, 2)
    ]
    assert api.post("/v1/events", json={"events": events}).json()["accepted"] == 2
    answer = check(api, "contract-bursts")
    assert (answer.json()["reason"], answer.json()["used"], answer.json()["remaining"]) == ("rate_limited", "2", "0")
    assert answer.headers["ratelimit-policy"] == '"contract-bursts";q=2;w=86400'
    assert 0 < int(answer.headers["retry-after"]) <= 86400
    assert check(api, "contract-sso").json()["reason"] == "feature_disabled"
    assert check(api, "contract-calls", "1000000").json()["reason"] == "allowed"


@pytest.mark.parametrize(
    ("customer", "feature", "reason"),
    [
        ("nobody", "contract-calls", "customer_not_found"),
        ("ada", "contract-nothing", "feature_not_found"),
        ("contract-newcomer", "contract-calls", "no_subscription"),
        ("ada", "contract-elsewhere", "feature_not_in_plan"),
    ],
)
def test_a_well_formed_question_is_always_answered(api: httpx.Client, customer: str, feature: str, reason: str) -> None:
    """With 200, no, and the reason."""
    api.put("/v1/customers/contract-newcomer", json={}).raise_for_status()
    api.put("/v1/features/contract-elsewhere", json={"name": "Elsewhere", "type": "usage"}).raise_for_status()
    answer = api.get(f"/v1/customers/{customer}/entitlements/{feature}")
    assert answer.status_code == 200
    assert (answer.json()["allowed"], answer.json()["reason"]) == (False, reason)


def test_answers_are_what_the_document_says(api: httpx.Client, openapi: dict[str, Any]) -> None:
    """Every GET route of ada's world against its schema."""
    body = {"thresholds": [{"quantity": "1000000"}, {"quantity": "2000000"}]}
    api.put("/v1/customers/ada/alerts/contract-calls", json=body).raise_for_status()
    api.put("/v1/customers/ada/overrides/contract-seats", json={"enabled": True}).raise_for_status()
    webhook = {"url": "http://127.0.0.1:9/", "events": ["usage.threshold_reached"]}
    api.put("/v1/webhooks/contract", json=webhook).raise_for_status()
    invoice, payment, error, run = billed(api)
    routes = {
        "/v1/invoices": "/v1/invoices?customer=ada",
        "/v1/invoices/{invoice}": f"/v1/invoices/{invoice}",
        "/v1/payments/{payment}": f"/v1/payments/{payment}",
        "/v1/billing/runs/{run}": f"/v1/billing/runs/{run}",
        "/v1/subscriptions/{subscription}/history": "/v1/subscriptions/sub-ada/history",
        "/v1/subscriptions/{subscription}/invoices/upcoming": "/v1/subscriptions/sub-ada/invoices/upcoming",
        "/v1/customers/{customer}/wallet": "/v1/customers/ada/wallet",
        "/v1/customers/{customer}/wallet/transactions": "/v1/customers/ada/wallet/transactions",
        "/v1/customers/{customer}/payment-method": "/v1/customers/ada/payment-method",
        "/v1/errors": "/v1/errors?customer=poor",
        "/v1/errors/report": "/v1/errors/report",
        "/v1/errors/{error}": f"/v1/errors/{error}",
        "/v1/features": "/v1/features?limit=2",
        "/v1/features/{code}": "/v1/features/contract-calls",
        "/v1/plans": "/v1/plans",
        "/v1/plans/{code}": "/v1/plans/contract",
        "/v1/customers": "/v1/customers?limit=1",
        "/v1/customers/{customer}": "/v1/customers/ada",
        "/v1/customers/{customer}/counters/{feature}": "/v1/customers/ada/counters/contract-calls",
        "/v1/customers/{customer}/alerts/{feature}": "/v1/customers/ada/alerts/contract-calls",
        "/v1/customers/{customer}/overrides/{feature}": "/v1/customers/ada/overrides/contract-seats",
        "/v1/customers/{customer}/events": "/v1/customers/ada/events?feature=contract-seats",
        "/v1/events": "/v1/events?customer=ada&source=&id=seat-1",
        "/v1/webhooks": "/v1/webhooks",
        "/v1/webhooks/{webhook}": "/v1/webhooks/contract",
        "/v1/subscriptions": "/v1/subscriptions?customer=ada",
        "/v1/subscriptions/{subscription}": "/v1/subscriptions/sub-ada",
        "/v1/customers/{customer}/usage": "/v1/customers/ada/usage?feature=contract-calls&granularity=day",
        "/v1/customers/{customer}/entitlements": "/v1/customers/ada/entitlements",
        "/v1/customers/{customer}/entitlements/{feature}": "/v1/customers/ada/entitlements/contract-calls",
        "/v1/api-keys": "/v1/api-keys",
        "/v1/api-keys/{key}": f"/v1/api-keys/{api.get('/v1/api-keys').json()['items'][0]['id']}",
        "/healthz": "/healthz",
    }
    for path, url in routes.items():
        content = openapi["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        schema = content | {"components": openapi["components"]}
        jsonschema.validate(api.get(url).raise_for_status().json(), schema)
    json_gets = {
        path
        for path, methods in openapi["paths"].items()
        if "application/json"
        in methods.get("get", {"responses": {"200": {"content": {}}}})["responses"]["200"]["content"]
    }
    assert json_gets == {*routes, "/v1/openapi.json"}
    api.delete("/v1/webhooks/contract").raise_for_status()
    api.delete("/v1/customers/ada/alerts/contract-calls").raise_for_status()


def billed(api: httpx.Client) -> tuple[str, str, str, str]:
    """An invoice of ada's that is paid, its payment, an error record of a customer who could not pay, and the run."""
    money = {"id": "contract-1", "type": "deposit", "amount": "100.00", "currency": "EUR"}
    api.post("/v1/customers/ada/wallet/transactions", json=money).raise_for_status()
    api.put("/v1/customers/poor", json={}).raise_for_status()
    poor = {"id": "sub-poor", "customer": "poor", "plan": "contract"}
    api.post("/v1/subscriptions", json=poor).raise_for_status()
    run = bill(api)
    assert run["failed"] == 0
    [invoice] = api.get("/v1/invoices?customer=ada").json()["items"]
    [payment] = invoice["payments"]
    [error] = api.get("/v1/errors?customer=poor").json()["items"]
    api.post(f"/v1/errors/{error['id']}/discard", json={"note": "they are but an example"}).raise_for_status()
    return invoice["id"], payment["id"], error["id"], run["id"]


def test_a_counter_is_kept_in_shards_from_a_quarter_of_an_hour_ahead_on(api: httpx.Client) -> None:
    """A feature with a hard limit has one counter."""
    url = "/v1/customers/ada/counters/contract-calls"
    made = api.put(url, json={"shards": 4}).raise_for_status().json()
    assert (made["customer"], made["feature"], made["shards"][-1]["shards"]) == ("ada", "contract-calls", 4)
    ahead = datetime.fromisoformat(made["shards"][-1]["since"]) - datetime.now(UTC)
    assert timedelta(minutes=14) < ahead <= timedelta(minutes=16)
    assert api.get(url).json() == api.put(url, json={"shards": 4}).json() == made
    assert pointers(api.put(url, json={"shards": 65})) == ["/shards"]
    assert pointers(api.put("/v1/customers/ada/counters/contract-seats", json={"shards": 2})) == ["/shards"]


def test_an_alert_or_a_webhook_that_makes_no_sense_is_refused(api: httpx.Client) -> None:
    """Each fault with a pointer; what is not there is 404."""
    url = "/v1/customers/ada/alerts/contract-seats"
    faults = [{"percent": "0"}, {"percent": "80", "quantity": "1"}, {}]
    assert pointers(api.put(url, json={"thresholds": faults})) == [
        "/thresholds/0/percent",
        "/thresholds/1",
        "/thresholds/2",
    ]
    assert pointers(api.put(url, json={"thresholds": []})) == ["/thresholds"]
    assert pointers(api.put(url, json={"thresholds": [{"percent": 80.5}]})) == ["/thresholds/0/percent"]
    assert [api.get(url).status_code, api.delete(url).status_code] == [404, 404]
    webhook = {"url": "ftp://receiver.example/", "events": ["usage.threshold_reached"]}
    assert pointers(api.put("/v1/webhooks/none", json=webhook)) == ["/url"]
    assert pointers(api.put("/v1/webhooks/none", json=webhook | {"events": ["other"]})) == ["/events/0"]
    assert [api.get("/v1/webhooks/none").status_code, api.delete("/v1/webhooks/none").status_code] == [404, 404]


def test_lists_are_paged_by_cursors_that_cannot_be_forged(api: httpx.Client) -> None:
    """Page by page the same as at once; a changed cursor is 422."""
    whole = [item["code"] for item in api.get("/v1/features?limit=100").json()["items"]]
    paged, cursor = [], ""
    while cursor is not None:
        answer = api.get("/v1/features", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        paged += [item["code"] for item in answer["items"]]
        cursor = answer["next_cursor"]
    assert paged == whole
    cursor = api.get("/v1/features?limit=1").json()["next_cursor"]
    forged = cursor[:-2] + ("AA" if cursor[-2:] != "AA" else "BB")
    assert pointers(api.get("/v1/features", params={"cursor": forged})) == ["/cursor"]
    assert pointers(api.get("/v1/plans", params={"cursor": cursor})) == ["/cursor"]
    assert pointers(api.get("/v1/features?limit=0")) == ["/limit"]


def test_the_same_plan_makes_no_new_version_and_running_subscriptions_keep_theirs(api: httpx.Client) -> None:
    """A changed body does; old versions stay readable."""
    first = api.put("/v1/plans/contract-versions", json=PLAN).json()
    assert api.put("/v1/plans/contract-versions", json=PLAN).json() == first
    api.put("/v1/customers/versions", json={}).raise_for_status()
    body = {"customer": "versions", "plan": "contract-versions"}
    subscription = api.post("/v1/subscriptions", json=body, headers={"Idempotency-Key": "versions"}).json()
    second = api.put("/v1/plans/contract-versions", json=PLAN | {"base_price": "25.00"}).json()
    assert (first["version"], second["version"], second["base_price"]) == (1, 2, "25.00")
    assert api.get("/v1/plans/contract-versions?version=1").json() == first
    assert api.get("/v1/plans/contract-versions").json() == second
    kept = api.get(f"/v1/subscriptions/{subscription['id']}").json()
    assert kept["plan"] == {"code": "contract-versions", "version": 1}
    assert api.post("/v1/subscriptions", json=body, headers={"Idempotency-Key": "versions"}).json() == kept
    other = api.post("/v1/subscriptions", json=body | {"trial_days": 7}, headers={"Idempotency-Key": "versions"})
    assert other.status_code == 409


@pytest.mark.parametrize(
    ("billing_period", "starts_at", "timezone"),
    [
        ({"interval": "day", "count": 1}, "2026-03-28T23:00:00Z", "Europe/Berlin"),
        ({"interval": "week", "count": 2}, "2026-01-03T14:30:00Z", "UTC"),
        ({"interval": "month", "count": 1}, "2026-01-31T10:37:00Z", "America/New_York"),
        ({"interval": "year", "count": 1}, "2024-02-29T00:00:00Z", "Pacific/Auckland"),
    ],
)
def test_periods_of_every_interval_are_anchored_at_the_start(
    api: httpx.Client, billing_period: dict[str, Any], starts_at: str, timezone: str
) -> None:
    """The present lies in the current period, whose start is the anchor's time of day in the customer's zone."""
    from tollgate.catalog.periods import Interval, period_at

    code = f"contract-{billing_period['interval']}"
    api.put(f"/v1/plans/{code}", json=PLAN | {"billing_period": billing_period}).raise_for_status()
    api.put(f"/v1/customers/{code}", json={"timezone": timezone}).raise_for_status()
    body = {"id": code, "customer": code, "plan": code, "starts_at": starts_at}
    made = api.post("/v1/subscriptions", json=body).raise_for_status().json()
    start = datetime.fromisoformat(made["current_period"]["start"])
    end = datetime.fromisoformat(made["current_period"]["end"])
    assert start <= datetime.now(UTC) < end
    interval, count = Interval(billing_period["interval"]), billing_period["count"]
    period = period_at(datetime.fromisoformat(starts_at), timezone, interval, count, datetime.now(UTC))
    assert (start, end) == (period.start, period.end)
    assert made["status"] == "active"


def test_a_trial_is_a_period_of_its_own(api: httpx.Client) -> None:
    """The billing periods begin where it ends."""
    api.put("/v1/customers/trial", json={}).raise_for_status()
    body = {"id": "trial", "customer": "trial", "plan": "contract", "trial_days": 14}
    made = api.post("/v1/subscriptions", json=body).raise_for_status().json()
    assert made["status"] == "trialing"
    assert made["current_period"]["end"] == made["trial_ends_at"]
    answer = api.get("/v1/customers/trial/entitlements/contract-calls").json()
    assert (answer["allowed"], answer["resets_at"]) == (True, made["trial_ends_at"])


def test_an_event_of_this_second_counts_in_a_subscription_of_this_second(api: httpx.Client) -> None:
    """Times written to the second lie at the start, not before it."""
    api.put("/v1/customers/fresh", json={}).raise_for_status()
    body = {"id": "fresh", "customer": "fresh", "plan": "contract"}
    made = api.post("/v1/subscriptions", json=body).raise_for_status().json()
    event = {"id": "fresh-1", "customer": "fresh", "feature": "contract-calls", "time": made["starts_at"]}
    assert api.post("/v1/events", json=event).json()["accepted"] == 1
    assert "." not in made["starts_at"]


def test_the_current_period_can_be_asked_for_by_its_own_bounds(api: httpx.Client) -> None:
    """By period the same as without bounds."""
    period = api.get("/v1/subscriptions/sub-ada").json()["current_period"]
    bounds = {"feature": "contract-calls", "from": period["start"], "to": period["end"]}
    answer = api.get("/v1/customers/ada/usage", params=bounds).raise_for_status().json()
    assert answer["period"] == period
    for granularity in ("day", "hour"):
        finer = api.get("/v1/customers/ada/usage", params=bounds | {"granularity": granularity}).raise_for_status()
        assert finer.json()["quantity"] == answer["quantity"]


def test_an_id_and_an_idempotency_key_are_not_given_both(api: httpx.Client) -> None:
    """Either names the request; with both, one of them would be ignored."""
    body = {"id": "both", "customer": "ada", "plan": "contract"}
    assert pointers(api.post("/v1/subscriptions", json=body, headers={"Idempotency-Key": "both"})) == ["/id"]
    assert api.get("/v1/subscriptions/both").status_code == 404


def change(path: str, value: Any) -> dict[str, Any]:
    """The plan with one thing changed."""
    plan = copy.deepcopy(PLAN)
    *way, last = path.strip("/").split("/")
    target: Any = plan
    for step in way:
        target = target[int(step) if isinstance(target, list) else step]
    target[int(last) if isinstance(target, list) else last] = value
    return plan


PRICE = "/features/0/price"
TIERS = f"{PRICE}/tiers"


@pytest.mark.parametrize(
    ("path", "value", "pointer"),
    [
        (TIERS, [], TIERS),
        (f"{TIERS}/1/up_to", "200", f"{TIERS}/1/up_to"),
        (f"{TIERS}/0/up_to", None, f"{TIERS}/0/up_to"),
        (f"{TIERS}/0/up_to", "0", f"{TIERS}/0/up_to"),
        (f"{TIERS}/0/up_to", "-5", f"{TIERS}/0/up_to"),
        (
            TIERS,
            [{"up_to": "5", "unit_price": "1"}, {"up_to": "5", "unit_price": "1"}, {"up_to": None, "unit_price": "1"}],
            f"{TIERS}/1/up_to",
        ),
        (
            TIERS,
            [{"up_to": "5", "unit_price": "1"}, {"up_to": "4", "unit_price": "1"}, {"up_to": None, "unit_price": "1"}],
            f"{TIERS}/1/up_to",
        ),
        (f"{TIERS}/0/unit_price", "-1", f"{TIERS}/0/unit_price"),
        (f"{TIERS}/0/unit_price", 0.5, f"{TIERS}/0/unit_price"),
        (f"{TIERS}/0/unit_price", "NaN", f"{TIERS}/0/unit_price"),
        (f"{TIERS}/0/unit_price", "Infinity", f"{TIERS}/0/unit_price"),
        (PRICE, {"model": "package", "package_size": "0", "package_price": "1"}, f"{PRICE}/package_size"),
        (PRICE, {"model": "flat", "unit_price": "1", "included": "-1"}, f"{PRICE}/included"),
        (PRICE, {"model": "sale", "unit_price": "1"}, f"{PRICE}/model"),
        ("/currency", "ZZZ", "/currency"),
        ("/currency", "eur", "/currency"),
        ("/base_price", "-1", "/base_price"),
        ("/base_price", 20.0, "/base_price"),
        ("/billing_period/interval", "decade", "/billing_period/interval"),
        ("/billing_period/count", 0, "/billing_period/count"),
        ("/features/0/feature", "contract-unknown", "/features/0/feature"),
        ("/features/3/price", {"model": "flat", "unit_price": "1"}, "/features/3/price"),
        ("/features/1/quota", None, "/features/1/quota"),
        ("/features/1/quota/limit", "-1", "/features/1/quota/limit"),
        ("/features/2/rate", None, "/features/2/rate"),
        ("/features/2/rate/window_seconds", 0, "/features/2/rate/window_seconds"),
        ("/features/2/rate/algorithm", "magic", "/features/2/rate/algorithm"),
        ("/colour", "red", "/colour"),
    ],
)
def test_a_bad_plan_is_refused_with_a_pointer_and_nothing_is_stored(
    api: httpx.Client, path: str, value: Any, pointer: str
) -> None:
    """Each write-time rejection of the contract."""
    assert pointer in pointers(api.put("/v1/plans/contract-bad", json=change(path, value)))
    assert api.get("/v1/plans/contract-bad").status_code == 404


@pytest.mark.parametrize(
    ("url", "body", "pointer"),
    [
        ("/v1/features/contract-bad", {"type": "usage"}, "/name"),
        ("/v1/features/contract-bad", {"name": "Bad", "type": "flag"}, "/type"),
        ("/v1/features/contract-bad", {"name": "Bad", "type": "usage", "aggregation": "median"}, "/aggregation"),
        ("/v1/features/-bad", {"name": "Bad", "type": "usage"}, "/code"),
        ("/v1/customers/contract-bad", {"timezone": "Mars/Olympus"}, "/timezone"),
        ("/v1/customers/contract-bad", {"email": "nobody"}, "/email"),
        ("/v1/customers/contract-bad", {"metadata": {"n": 7}}, "/metadata/n"),
    ],
)
def test_a_bad_feature_or_customer_is_refused_with_a_pointer_and_nothing_is_stored(
    api: httpx.Client, url: str, body: dict[str, Any], pointer: str
) -> None:
    """The same for what else is written by PUT."""
    assert pointers(api.put(url, json=body)) == [pointer]
    assert api.get(url).status_code == (422 if pointer == "/code" else 404)


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"customer": "nobody"}, "/customer"),
        ({"plan": "nothing"}, "/plan"),
        ({"starts_at": "2199-01-01T00:00:00Z"}, "/starts_at"),
        ({"starts_at": "2026-01-01"}, "/starts_at"),
        ({"trial_days": -1}, "/trial_days"),
        ({"id": "a b"}, "/id"),
    ],
)
def test_a_bad_subscription_is_refused_with_a_pointer_and_nothing_is_stored(
    api: httpx.Client, change: dict[str, Any], pointer: str
) -> None:
    """The customer's subscriptions stay as they are."""
    before = api.get("/v1/subscriptions?customer=ada").json()
    body = {"id": "contract-bad", "customer": "ada", "plan": "contract"} | change
    assert pointers(api.post("/v1/subscriptions", json=body)) == [pointer]
    assert api.get("/v1/subscriptions?customer=ada").json() == before
    assert api.get("/v1/subscriptions/contract-bad").status_code == 404


@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        (b"{", "application/json", 400),
        (b'{"id": "a", "id": "b"}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"[]", "application/json", 422),
        (b"id=1", "application/x-www-form-urlencoded", 415),
        (b"[1," * 10 + b"1" * 1_100_000, "application/json", 413),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_as_a_whole(
    api: httpx.Client, content: bytes, media_type: str, status: int
) -> None:
    """Malformed, ambiguous, bottomless, empty, of another kind, or too large."""
    answer = api.post("/v1/events", content=content, headers={"Content-Type": media_type})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_every_form_of_an_event_is_read(api: httpx.Client) -> None:
    """Simple, structured, batched and binary: four events, four counts."""
    time = datetime.now(UTC).isoformat()
    cloud = {"specversion": "1.0", "source": "/forms", "type": "contract-calls", "subject": "ada", "time": time}
    binary = {f"ce-{name}": value for name, value in (cloud | {"id": "form-4"}).items()}
    before = int(api.get("/v1/customers/ada/usage?feature=contract-calls").json()["events"])
    answers = [
        api.post("/v1/events", json={"id": "form-1", "customer": "ada", "feature": "contract-calls", "time": time}),
        api.post(
            "/v1/events",
            content=json.dumps(cloud | {"id": "form-2", "data": {"quantity": "1"}}),
            headers={"Content-Type": "application/cloudevents+json"},
        ),
        api.post(
            "/v1/events",
            content=json.dumps([cloud | {"id": "form-3"}]),
            headers={"Content-Type": "application/cloudevents-batch+json"},
        ),
        api.post("/v1/events", json={"quantity": "1"}, headers=binary),
    ]
    assert [answer.json()["accepted"] for answer in answers] == [1, 1, 1, 1]
    assert int(api.get("/v1/customers/ada/usage?feature=contract-calls").json()["events"]) == before + 4


def test_one_bad_event_never_fails_its_neighbours(api: httpx.Client) -> None:
    """A result per event, in request order."""
    time = datetime.now(UTC).isoformat()
    good = {"customer": "ada", "feature": "contract-calls", "time": time}
    before = api.get("/v1/customers/ada/usage?feature=contract-calls").json()
    answer = api.post(
        "/v1/events",
        json=[
            good | {"id": "neighbour-1"},
            good | {"id": "neighbour-2", "quantity": 0.5},
            good | {"id": "neighbour-3", "customer": "nobody"},
            good | {"id": "neighbour-4", "feature": "contract-sso"},
            good | {"id": "neighbour-5"},
            good | {"id": "neighbour-5"},
            good | {"id": "neighbour-5", "quantity": "2"},
        ],
    )
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [(result["status"], result.get("reason")) for result in results] == [
        ("accepted", None),
        ("rejected", "invalid"),
        ("rejected", "customer_not_found"),
        ("rejected", "not_metered"),
        ("accepted", None),
        ("duplicate", None),
        ("conflict", None),
    ]
    assert {name: answer.json()[name] for name in ("accepted", "duplicate", "conflict", "rejected")} == {
        "accepted": 2,
        "duplicate": 1,
        "conflict": 1,
        "rejected": 3,
    }
    after = api.get("/v1/customers/ada/usage?feature=contract-calls").json()
    assert after["events"] == before["events"] + 2
    assert Decimal(after["quantity"]) == Decimal(before["quantity"]) + 2

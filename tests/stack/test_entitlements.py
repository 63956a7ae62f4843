"""Consume, reserve and override over HTTP, against the whole stack."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import jsonschema
import pytest

from tests.stack.conftest import NewCustomer, consume

pytestmark = pytest.mark.stack


def used(api: httpx.Client, customer: str, feature: str) -> str:
    """What of a feature is used."""
    return str(api.get(f"/v1/customers/{customer}/usage", params={"feature": feature}).json()["quantity"])


def test_a_consumption_counts_once_and_never_beyond_the_quota(
    api: httpx.Client, customer: NewCustomer, openapi: dict[str, Any]
) -> None:
    """The same id is a duplicate; what does not fit counts nothing."""
    ada = customer()
    first = consume(api, ada, "gate-tokens", id="one", quantity="60")
    path = "/v1/customers/{customer}/entitlements/{feature}/consume"
    content = openapi["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(first.json(), content | {"components": openapi["components"]})
    assert (first.json()["status"], first.json()["used"], first.json()["remaining"]) == ("consumed", "60", "40")
    assert consume(api, ada, "gate-tokens", id="one", quantity="60").json()["status"] == "duplicate"
    assert consume(api, ada, "gate-tokens", id="one", quantity="61").status_code == 409
    denied = consume(api, ada, "gate-tokens", quantity="41")
    assert denied.status_code == 200
    assert (denied.json()["status"], denied.json()["allowed"]) == ("denied", False)
    assert (denied.json()["reason"], denied.json()["used"]) == ("quota_exceeded", "60")
    assert int(denied.headers["retry-after"]) > 0
    assert consume(api, ada, "gate-tokens", quantity="40").json()["remaining"] == "0"
    assert used(api, ada, "gate-tokens") == "100"
    listed = api.get(f"/v1/customers/{ada}/events", params={"feature": "gate-tokens"}).json()["items"]
    assert sorted(event["quantity"] for event in listed) == ["40", "60"]
    again = {"id": "one", "customer": ada, "feature": "gate-tokens", "quantity": "60"}
    assert api.post("/v1/events", json=again).json()["results"][0]["status"] == "duplicate"


def test_callers_at_one_moment_get_exactly_the_quota(api: httpx.Client, customer: NewCustomer) -> None:
    """Sixteen at once ask for 7 each until nobody gets any."""
    ada = customer()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: consume(api, ada, "gate-tokens", quantity="7").json(), range(40)))
    found = Counter(answer["status"] for answer in answers)
    assert found == {"consumed": 14, "denied": 26}
    assert used(api, ada, "gate-tokens") == "98"


def test_a_rate_and_a_boolean_are_consumed_by_their_own_rules(api: httpx.Client, customer: NewCustomer) -> None:
    """Three bursts a day; an export that is on."""
    ada = customer()
    statuses = [consume(api, ada, "gate-bursts").json()["status"] for _ in range(4)]
    assert statuses == ["consumed", "consumed", "consumed", "denied"]
    refused = consume(api, ada, "gate-bursts")
    assert (refused.json()["reason"], refused.headers["ratelimit"].split(";")[1]) == ("rate_limited", "r=0")
    assert consume(api, ada, "gate-export").json()["status"] == "consumed"
    assert consume(api, ada, "gate-calls", quantity="1000000").json()["reason"] == "allowed"
    reasons = {
        consume(api, ada, "gate-nothing").json()["reason"],
        consume(api, "gate-nobody", "gate-calls").json()["reason"],
    }
    assert reasons == {"feature_not_found", "customer_not_found"}


def test_several_features_are_consumed_together_or_not_at_all(api: httpx.Client, customer: NewCustomer) -> None:
    """The fourth burst is one too many: its tokens are not taken either."""
    ada = customer()
    url = f"/v1/customers/{ada}/entitlements/consume"
    items = [{"feature": "gate-tokens", "quantity": "10"}, {"feature": "gate-bursts"}, {"feature": "gate-export"}]
    answers = [api.post(url, json={"id": f"all-{n}", "items": items}).json() for n in (1, 2, 3, 4, 1)]
    assert [answer["status"] for answer in answers] == ["consumed", "consumed", "consumed", "denied", "duplicate"]
    assert [item["reason"] for item in answers[3]["items"]] == ["allowed", "rate_limited", "allowed"]
    assert (used(api, ada, "gate-tokens"), used(api, ada, "gate-bursts")) == ("30", "3")
    assert api.post(url, json={"id": "x", "items": []}).status_code == 422
    twice = api.post(url, json={"id": "x", "items": [items[0], items[0]]})
    assert [error["pointer"] for error in twice.json()["errors"]] == ["/items/1/feature"]


def test_what_is_reserved_is_nobody_elses_until_it_is_settled(api: httpx.Client, customer: NewCustomer) -> None:
    """Committed with less, released, and committed with more than there is room for."""
    ada = customer()
    asked = {"customer": ada, "feature": "gate-tokens", "quantity": "70", "expires_in_seconds": 60}
    name = f"{ada}-r1"
    made = api.post("/v1/reservations", json={"id": name, **asked}).json()
    assert (made["status"], made["reserved"], made["remaining"], made["used"]) == ("reserved", "70", "30", "0")
    assert api.post("/v1/reservations", json={"id": name, **asked}).json()["status"] == "duplicate"
    assert api.post("/v1/reservations", json={"id": name, **asked, "quantity": "71"}).status_code == 409
    other = api.post("/v1/reservations", json={"id": f"{ada}-r2", **asked, "quantity": "31"}).json()
    assert (other["status"], other["reason"]) == ("denied", "quota_exceeded")
    assert consume(api, ada, "gate-tokens", quantity="31").json()["status"] == "denied"
    too_much = api.post(f"/v1/reservations/{name}/commit", json={"quantity": "101"}).json()
    assert too_much["status"] == "denied"
    done = api.post(f"/v1/reservations/{name}/commit", json={"quantity": "55"}).json()
    assert (done["status"], done["used"], done["reserved"], done["remaining"]) == ("committed", "55", "0", "45")
    assert api.post(f"/v1/reservations/{name}/commit", json={"quantity": "55"}).json()["status"] == "duplicate"
    assert api.post(f"/v1/reservations/{name}/release").status_code == 409
    second = {"id": f"{ada}-r3", **asked, "quantity": "45"}
    assert api.post("/v1/reservations", json=second).json()["status"] == "reserved"
    assert api.post(f"/v1/reservations/{ada}-r3/release").json()["status"] == "released"
    assert api.post(f"/v1/reservations/{ada}-r3/release").json()["status"] == "duplicate"
    assert used(api, ada, "gate-tokens") == "55"
    assert api.post("/v1/reservations/gate-none/release").status_code == 404
    rate = api.post("/v1/reservations", json={"id": f"{ada}-r4", **asked, "feature": "gate-bursts"})
    assert rate.status_code == 422


def test_an_override_rules_from_the_next_question_on(api: httpx.Client, customer: NewCustomer) -> None:
    """More quota for one customer, a feature switched off, and the plan's terms again."""
    ada = customer()
    assert consume(api, ada, "gate-tokens", quantity="100").json()["status"] == "consumed"
    tokens, export = (f"/v1/customers/{ada}/overrides/{feature}" for feature in ("gate-tokens", "gate-export"))
    body = {"quota": {"limit": "150", "overage": "block"}}
    assert api.put(tokens, json=body).raise_for_status().json()["quota"] == body["quota"]
    assert consume(api, ada, "gate-tokens", quantity="50").json()["remaining"] == "0"
    api.put(export, json={"enabled": False}).raise_for_status()
    assert consume(api, ada, "gate-export").json()["reason"] == "feature_disabled"
    everything = api.get(f"/v1/customers/{ada}/entitlements").json()["items"]
    shown = {item["feature"]: (item["allowed"], item["limit"]) for item in everything}
    assert shown["gate-tokens"] == (False, "150")
    assert shown["gate-export"] == (False, None)
    assert api.delete(export).status_code == api.delete(tokens).status_code == 204
    assert api.get(tokens).status_code == api.delete(tokens).status_code == 404
    assert consume(api, ada, "gate-export").json()["allowed"]
    assert consume(api, ada, "gate-tokens").json()["limit"] == "100"
    bad = api.put(tokens, json={"rate": {"limit": "1", "window_seconds": 60}, "expires_at": "2020-01-01T00:00:00Z"})
    assert [error["pointer"] for error in bad.json()["errors"]] == ["/rate", "/expires_at"]

"""No key, an unknown key, the wrong scope: 401, 401 and 403 on every route but the open ones."""

from typing import Any

import httpx
import pytest

from tollgate.catalog.keys import SCOPES

OPEN = {"/docs", "/healthz", "/v1/openapi.json"}
SIGNED = {"/v1/webhooks/stripe"}
"""What others send is known by its signature instead of a key (tests/store/test_payment_routes.py)."""


def operations(openapi: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Method, path with its parameters filled in, and scope of every route that is not open."""
    found = []
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            if path not in OPEN | SIGNED:
                (scope,) = operation["security"][0]["ApiKey"]
                filled = "/".join("x" if part.startswith("{") else part for part in path.split("/"))
                found.append((method.upper(), filled, scope))
    return found


def problem(answer: httpx.Response) -> dict[str, Any]:
    """The problem document of an error."""
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == answer.status_code
    assert body["type"]
    assert body["title"]
    assert body["detail"]
    assert body["instance"]
    return body


def test_every_route_but_the_open_ones_wants_a_known_key_with_its_scope(
    api: httpx.Client, openapi: dict[str, Any]
) -> None:
    """Walked from the OpenAPI document; the wrong scope is every other one that a key can have."""
    walked = operations(openapi)
    assert len(walked) >= 17
    keys = {}
    for scope in SCOPES:
        others = [other for other in SCOPES if other not in {scope, "admin"}]
        made = api.post("/v1/api-keys", json={"name": f"all but {scope}", "scopes": others}).raise_for_status()
        keys[scope] = made.json()["secret"]
    known = api.headers["authorization"]
    for method, path, scope in walked:
        with_no_key = httpx.request(method, f"{api.base_url}{path.removeprefix('/')}")
        assert (with_no_key.status_code, path) == (401, path)
        assert problem(with_no_key)["title"] == "Unauthenticated"
        for unknown in ("Bearer nonsense", known[:-1] + ("0" if known[-1] != "0" else "1"), "Basic dTpw"):
            answer = api.request(method, path, headers={"Authorization": unknown})
            assert (answer.status_code, path) == (401, path)
            problem(answer)
        answer = api.request(method, path, headers={"Authorization": f"Bearer {keys[scope]}"})
        assert (answer.status_code, path) == (403, path)
        assert scope in problem(answer)["detail"]


def test_the_open_routes_need_no_key(api: httpx.Client) -> None:
    """Health, the document and its page, which loads nothing from elsewhere."""
    for path in OPEN:
        answer = httpx.get(f"{api.base_url}{path.removeprefix('/')}")
        assert answer.status_code == 200
    page = httpx.get(f"{api.base_url}docs").text
    assert "Tollgate API" in page
    assert "<script src" not in page
    document = httpx.get(f"{api.base_url}docs?format=json")
    assert document.json() == httpx.get(f"{api.base_url}v1/openapi.json").json()


def test_a_revoked_key_is_known_no_longer_than_the_authorizer_remembers(api: httpx.Client) -> None:
    """Revoked before it was used: nothing remembers it."""
    made = api.post("/v1/api-keys", json={"name": "short-lived", "scopes": ["catalog:read"]}).json()
    assert "secret" not in api.get(f"/v1/api-keys/{made['id']}").json()
    assert api.delete(f"/v1/api-keys/{made['id']}").status_code == 204
    assert api.delete(f"/v1/api-keys/{made['id']}").status_code == 404
    answer = api.get("/v1/features", headers={"Authorization": f"Bearer {made['secret']}"})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/", 404),
        ("GET", "/v1/features/unknown", 404),
        ("GET", "/v1/plans/unknown", 404),
        ("GET", "/v1/customers/unknown", 404),
        ("GET", "/v1/subscriptions/unknown", 404),
        ("GET", "/v1/customers/unknown/usage?feature=requests", 404),
        ("GET", "/v1/customers/unknown/entitlements", 404),
        ("DELETE", "/v1/features", 405),
        ("GET", "/v1/events/", 404),
        ("PUT", "/v1/events", 405),
        ("DELETE", "/v1/prices/quote", 405),
        ("POST", "/v1/customers/x/usage", 405),
        ("POST", "/healthz", 405),
    ],
)
def test_what_is_not_there_is_a_problem_document_too(api: httpx.Client, method: str, path: str, status: int) -> None:
    """405 names the methods that are there."""
    answer = api.request(method, path)
    assert answer.status_code == status
    problem(answer)
    assert ("allow" in answer.headers) == (status == 405)

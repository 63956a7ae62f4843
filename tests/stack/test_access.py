"""No key, an unknown key, the wrong scope: 401, 401 and 403 on every route but the open ones."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import httpx
import pytest

from tests.conftest import ROOT
from tollgate.catalog.keys import SCOPES, read_token
from tools.local import Stack
from tools.ministack import aws_environment

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


@pytest.fixture(scope="module")
def foreign(stack: Stack) -> str:
    """An admin key of another deployment, which is good there."""
    database = boto3.client("dynamodb", **stack.aws)
    attributes = [{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")]
    schema = [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}]
    database.create_table(
        TableName="another-catalog",
        AttributeDefinitions=attributes,
        KeySchema=schema,
        BillingMode="PAY_PER_REQUEST",
    )
    made = subprocess.run(
        [sys.executable, "-m", "tools.keys", "--table", "another-catalog"],
        env=aws_environment(stack.endpoint_url),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    secret = made.stdout.strip()
    token = read_token(secret)
    assert token is not None
    kept = database.get_item(TableName="another-catalog", Key={"pk": {"S": "KEY"}, "sk": {"S": token.key_id}})
    assert kept["Item"]["scopes"] == {"L": [{"S": "admin"}]}
    return secret


def test_every_route_but_the_open_ones_wants_a_known_key_with_its_scope(
    api: httpx.Client, openapi: dict[str, Any], foreign: str
) -> None:
    """Walked from the OpenAPI document: no key, one of another deployment, a wrong secret, each wrong scope alone."""
    walked = operations(openapi)
    assert len(walked) >= 60
    keys = {
        scope: api.post("/v1/api-keys", json={"name": scope, "scopes": [scope]}).raise_for_status().json()["secret"]
        for scope in SCOPES
        if scope != "admin"
    }
    known = read_token(api.headers["authorization"].removeprefix("Bearer "))
    assert known is not None
    unknown = {"no key": None, "another deployment's": foreign, "a wrong secret": f"tg_{known.key_id}_{'0' * 64}"}
    asked = [
        *(
            (method, path, name, token, 401, "Unauthenticated")
            for method, path, _ in walked
            for name, token in unknown.items()
        ),
        *(
            (method, path, wrong, token, 403, "Forbidden")
            for method, path, scope in walked
            for wrong, token in keys.items()
            if wrong != scope
        ),
    ]

    def ask(each: tuple[str, str, str, str | None, int, str]) -> None:
        method, path, name, token, status, title = each
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        answer = anonymous.request(method, path, headers=headers)
        assert (answer.status_code, method, path, name) == (status, method, path, name)
        assert problem(answer)["title"] == title

    with httpx.Client(base_url=api.base_url, timeout=60) as anonymous, ThreadPoolExecutor(2) as askers:
        assert len(list(askers.map(ask, asked))) == len(asked) > 700


def test_a_missing_scope_is_named(api: httpx.Client) -> None:
    """So that one need not guess."""
    made = api.post("/v1/api-keys", json={"name": "reader", "scopes": ["usage:read"]}).raise_for_status().json()
    answer = api.get("/v1/api-keys", headers={"Authorization": f"Bearer {made['secret']}"})
    assert "admin" in problem(answer)["detail"]


def test_a_key_is_rotated_with_an_overlap_and_held_to_its_limit(api: httpx.Client) -> None:
    """Both secrets open; together they make as many requests as the limit says."""
    body = {
        "name": "shop",
        "scopes": ["catalog:read"],
        "expires_at": (datetime.now(UTC) + timedelta(days=1)).isoformat(),
        "rate_limit": {"limit": 4, "window_seconds": 86_400},
    }
    made = api.post("/v1/api-keys", json=body).raise_for_status().json()
    assert made["secret"].startswith(f"{made['prefix']}_")
    place = f"/v1/api-keys/{made['id']}"
    night = {"Idempotency-Key": "night-1"}
    second = api.post(f"{place}/rotate", json={"overlap_seconds": 60}, headers=night).raise_for_status().json()
    assert second["secret"] not in {None, made["secret"]}
    assert second["old_secret_until"]
    assert api.post(f"{place}/rotate", json={"overlap_seconds": 60}, headers=night).json() == second | {"secret": None}
    assert api.post(f"{place}/rotate", json={"overlap_seconds": 0}, headers=night).status_code == 409
    tokens = [made["secret"], second["secret"]] * 3
    answers = [api.get("/v1/features", headers={"Authorization": f"Bearer {token}"}) for token in tokens]
    assert [answer.status_code for answer in answers] == [200] * 4 + [429] * 2
    assert problem(answers[-1])["title"] == "Too many requests"
    assert int(answers[-1].headers["retry-after"]) > 0
    assert answers[-1].headers["ratelimit-policy"] == '"key";q=4;w=86400'
    shown = api.get(place).raise_for_status().json()
    assert shown["last_used_at"]
    assert shown["rate_limit"] == body["rate_limit"]
    assert not {made["secret"], second["secret"]} & {str(value) for value in shown.values()}
    assert shown in api.get("/v1/api-keys?limit=100").json()["items"]
    pointers = [
        fault["pointer"] for fault in api.post(f"{place}/rotate", json={"overlap_seconds": -1}).json()["errors"]
    ]
    assert pointers == ["/overlap_seconds"]
    assert api.delete(place).status_code == 204
    assert api.post(f"{place}/rotate").status_code == 404


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

"""The authorizer as a function: what it says of each request, and what tollgate.api.auth makes of it."""

import importlib.util
import io
import logging
import re
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ReadTimeoutError

from tests.conftest import ROOT, template
from tollgate.api.auth import caller_of
from tollgate.catalog.key_store import DynamoKeys
from tollgate.catalog.keys import ApiKey, KeyLimit, create_key, hash_of, rotate_key
from tollgate.kernel.errors import TooManyRequests, Unauthenticated, Unavailable
from tollgate.kernel.time import system_clock

pytestmark = pytest.mark.usefixtures("tables")

HOUR = 3_600
HEADER_NAMES = ("authorization", "Authorization")


def authorizer() -> ModuleType:
    """The function, loaded anew."""
    spec = importlib.util.spec_from_file_location("authorizer_app", ROOT / "functions/authorizer/app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def said(function: ModuleType, secret: str | None) -> dict[str, Any]:
    """The event of a function behind the authorizer, for a request with that key."""
    answer = function.handler({"headers": {"authorization": f"Bearer {secret}"}}, None)
    assert answer["isAuthorized"] is True
    return {"requestContext": {"authorizer": {"lambda": answer["context"]}}}


def made(**asked: Any) -> tuple[ApiKey, str]:
    """A new key and its secret."""
    key, secret = create_key(DynamoKeys(), name="ci", scopes=("usage:read",), clock=system_clock, **asked)
    assert secret is not None
    return key, secret


def recorded(monkeypatch: pytest.MonkeyPatch, fails: str | None = None) -> list[tuple[str, dict[str, Any]]]:
    """The calls of the database from now on; those of one operation fail, "" is all."""
    calls: list[tuple[str, dict[str, Any]]] = []
    original = BaseClient._make_api_call  # type: ignore[attr-defined]  # noqa: SLF001 - all calls pass here

    def call(client: Any, operation: str, request: dict[str, Any]) -> Any:
        calls.append((operation, request))
        if fails is not None and operation.startswith(fails):
            raise ReadTimeoutError(endpoint_url="http://nowhere")
        return original(client, operation, request)

    monkeypatch.setattr(BaseClient, "_make_api_call", call)
    return calls


def test_the_key_and_its_scopes_are_said_and_its_use_is_shown() -> None:
    """By the present secret and, within the overlap, by the one before."""
    key, secret = made()
    assert key.last_used_at is None
    _, second = rotate_key(DynamoKeys(), key.id, clock=system_clock)
    function = authorizer()
    for token in (secret, second):
        caller = caller_of(said(function, token))
        assert (caller.key_id, caller.scopes) == (key.id, frozenset({"usage:read"}))
    kept = DynamoKeys().key(key.id)
    assert kept is not None
    assert kept.last_used_at is not None


def test_a_key_of_before_the_checksums_goes_on_working() -> None:
    """As the version before wrote it: with five attributes."""
    secret = "0123456789abcdef" * 4
    DynamoKeys().add_key(
        ApiKey("0123456789abcdef", "old", ("admin",), hash_of(secret), datetime(2026, 1, 1, tzinfo=UTC))
    )
    assert caller_of(said(authorizer(), f"tg_0123456789abcdef_{secret}")).key_id == "0123456789abcdef"


@pytest.mark.parametrize("token", ["", "nonsense", "tg_0123456789abcdef_" + "0" * 49, "eyJhbGciOiJIUzI1NiJ9.e30.x"])
def test_what_cannot_be_a_key_costs_no_call_of_the_database(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's, told without a read."""
    calls = recorded(monkeypatch)
    with pytest.raises(Unauthenticated):
        caller_of(said(authorizer(), token))
    assert calls == []


def test_an_unknown_key_and_a_wrong_secret_cost_the_same_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """One read each, of one item, and no write."""
    key, _ = made()
    _, other = made()
    DynamoKeys().delete_key(other.split("_")[1])
    hexadecimal = f"tg_{key.id}_{'0' * 64}"
    function, calls = authorizer(), recorded(monkeypatch)
    for token in (other, hexadecimal):
        with pytest.raises(Unauthenticated):
            caller_of(said(function, token))
    assert [operation for operation, _ in calls] == ["GetItem", "GetItem"]
    assert calls[0][1] | {"Key": None} == calls[1][1] | {"Key": None}


def test_a_key_that_cannot_be_read_is_answered_503_and_not_401(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller may send the request again with the same key."""
    _, secret = made()
    recorded(monkeypatch, fails="")
    with pytest.raises(Unavailable):
        caller_of(said(authorizer(), secret))


@pytest.mark.parametrize("fails", ["", "UpdateItem"])
def test_no_secret_is_logged(monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    """Whatever fails."""
    _, secret = made(rate_limit=KeyLimit(3, HOUR))
    recorded(monkeypatch, fails=fails)
    function, written = authorizer(), io.StringIO()
    handler = logging.StreamHandler(written)
    function.logger.addHandler(handler)
    try:
        said(function, secret)
    finally:
        function.logger.removeHandler(handler)
    assert "Traceback" in written.getvalue()
    assert secret.split("_")[2] not in written.getvalue()
    assert hash_of(secret.split("_")[2]) not in written.getvalue()


def test_a_use_that_cannot_be_written_down_fails_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key was read."""
    key, secret = made()
    calls = recorded(monkeypatch, fails="UpdateItem")
    assert caller_of(said(authorizer(), secret)).key_id == key.id
    assert [operation for operation, _ in calls] == ["GetItem", "UpdateItem"]


def test_a_key_over_its_rate_limit_is_answered_429_by_every_authorizer() -> None:
    """With the headers of the draft, and how long to wait."""
    _, secret = made(rate_limit=KeyLimit(3, 24 * HOUR))
    _, free = made()
    functions = [authorizer(), authorizer()]
    for number in range(3):
        assert caller_of(said(functions[number % 2], secret))
    for function in functions:
        with pytest.raises(TooManyRequests) as refusal:
            caller_of(said(function, secret))
        headers = refusal.value.headers
        wait = int(headers["Retry-After"])
        assert 1 <= wait <= 24 * HOUR
        assert headers["RateLimit-Policy"] == '"key";q=3;w=86400'
        assert headers["RateLimit"] == f'"key";r=0;t={wait}'
        assert caller_of(said(function, free))


def test_a_limit_that_cannot_be_counted_lets_nothing_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """503: the same request may be sent again."""
    _, secret = made(rate_limit=KeyLimit(3, HOUR))
    recorded(monkeypatch, fails="UpdateItem")
    with pytest.raises(Unavailable):
        caller_of(said(authorizer(), secret))


def test_the_authorizer_writes_the_attributes_that_its_role_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """And asks for none: of every update that it makes."""
    policies = template()["Resources"]["AuthorizerRole"]["Properties"]["Policies"]
    [allowed] = [
        statement["Condition"]["ForAllValues:StringEquals"]["dynamodb:Attributes"]
        for policy in policies
        for statement in policy["PolicyDocument"]["Statement"]
        if statement.get("Action") == ["dynamodb:UpdateItem"]
    ]
    _, secret = made(rate_limit=KeyLimit(2, HOUR))
    calls = recorded(monkeypatch)
    function = authorizer()
    for _ in range(2):
        caller_of(said(function, secret))
    updates = [request for operation, request in calls if operation == "UpdateItem"]
    assert len(updates) == 3
    words = {"SET", "AND", "OR", "attribute_exists", "attribute_not_exists"}
    for update in updates:
        expressions = update["UpdateExpression"] + " " + update["ConditionExpression"]
        named = set(re.findall(r"(?<![:\w])[a-z_A-Z]+", expressions)) - words
        assert named | set(update["Key"]) <= set(allowed)
        assert "ReturnValues" not in update
        assert "ReturnValuesOnConditionCheckFailure" not in update


def test_the_name_of_the_header_may_have_capitals() -> None:
    """API Gateway writes it in lower case; sam's local API does not."""
    _, secret = made()
    answers = [authorizer().handler({"headers": {name: f"Bearer {secret}"}}, None) for name in HEADER_NAMES]
    assert [answer["context"].get("scopes") for answer in answers] == ["usage:read", "usage:read"]

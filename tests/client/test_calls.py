"""Check and consume: what is asked, and what the answers say."""

import inspect
import json
import uuid
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client.fakes_api import URL, Api, Connect, decision, denied, problem
from tollgate_client import (
    ApiError,
    AsyncTollgate,
    Conflict,
    FieldError,
    Forbidden,
    InvalidInput,
    NotFound,
    Tollgate,
    TollgateError,
    Unauthenticated,
)

CONSUMED = decision(status="consumed")


def test_a_check_asks_for_a_quantity_and_gives_exact_amounts(connect: Connect) -> None:
    """Decimals, an aware time, and what the headers say."""
    limits = {"RateLimit": '"tokens";r=40;t=60', "RateLimit-Policy": '"tokens";q=100', "Retry-After": "7"}
    api = Api(httpx.Response(200, json=decision(), headers=limits))
    answer = connect(api).check("ada", "tokens", Decimal("2.5"))
    assert api.paths == ["GET /v1/customers/ada/entitlements/tokens?quantity=2.5"]
    assert api.requests[0].headers["Authorization"] == "Bearer key"
    assert (answer.allowed, answer.reason, answer.type, answer.status) == (True, "allowed", "quota", None)
    assert (answer.limit, answer.remaining) == (Decimal("100.5"), Decimal("40.5"))
    assert answer.resets_at == datetime(2026, 12, 1, tzinfo=UTC)
    assert dict(answer.headers) == limits
    assert answer.retry_after == 7


def test_a_decision_is_true_when_it_allows(connect: Connect) -> None:
    """So that `if tollgate.check(...)` means what it says."""
    tollgate = connect(Api(decision(), decision(allowed=False, reason="feature_disabled", limit=None)))
    assert tollgate.check("ada", "export")
    refused = tollgate.check("ada", "export")
    assert not refused
    assert (refused.reason, refused.limit, refused.retry_after) == ("feature_disabled", None, None)


def test_all_features_are_checked_at_once(connect: Connect) -> None:
    """By code."""
    api = Api({"items": [decision(feature="a"), decision(feature="b", allowed=False)], "next_cursor": None})
    found = connect(api).check_all("ada")
    assert api.paths == ["GET /v1/customers/ada/entitlements"]
    assert {each.feature: each.allowed for each in found} == {"a": True, "b": False}


def test_a_consumption_has_an_id_that_carries_its_time(connect: Connect) -> None:
    """A UUIDv7, another for each call."""
    api = Api(CONSUMED)
    tollgate = connect(api)
    first, second = tollgate.consume("ada", "tokens", 60), tollgate.consume("ada", "tokens")
    assert api.paths == ["POST /v1/customers/ada/entitlements/tokens/consume"] * 2
    assert api.bodies == [{"id": first.id, "quantity": "60"}, {"id": second.id, "quantity": "1"}]
    assert uuid.UUID(first.id).version == uuid.UUID(second.id).version == 7
    assert first.id < second.id
    assert first.status == "consumed"


def test_an_id_and_a_time_of_ones_own_are_sent_as_they_are(connect: Connect) -> None:
    """The time in UTC; without one none is made up, for it would be another one when the call is made again."""
    api = Api(CONSUMED)
    tollgate = connect(api)
    at = datetime(2026, 11, 23, 10, 30, tzinfo=timezone(timedelta(hours=2)))
    assert tollgate.consume("ada", "tokens", "0.5", id="order-17", time=at).id == "order-17"
    tollgate.consume("ada", "tokens", id="order-18")
    assert api.bodies == [
        {"id": "order-17", "quantity": "0.5", "time": "2026-11-23T08:30:00Z"},
        {"id": "order-18", "quantity": "1"},
    ]


def test_what_is_denied_is_no_error(connect: Connect) -> None:
    """Even where the answer's figures would allow it by now."""
    api = Api(denied(), decision(status="denied"))
    tollgate = connect(api)
    assert [tollgate.consume("ada", "tokens").allowed for _ in range(2)] == [False, False]


def test_several_features_are_consumed_together(connect: Connect) -> None:
    """One id, all or nothing."""
    items = [decision(feature="tokens"), decision(feature="bursts", allowed=False, reason="rate_limited")]
    body = {"id": "x", "status": "denied", "allowed": False, "items": items}
    limits = {"RateLimit": '"tokens";r=40;t=60, "bursts";r=0;t=7', "Retry-After": "7"}
    api = Api(httpx.Response(200, json=body, headers=limits))
    answer = connect(api).consume_many("ada", {"tokens": Decimal("10.5"), "bursts": 1}, id="x")
    assert api.paths == ["POST /v1/customers/ada/entitlements/consume"]
    asked = [{"feature": "tokens", "quantity": "10.5"}, {"feature": "bursts", "quantity": "1"}]
    assert api.bodies == [{"id": "x", "items": asked}]
    assert not answer
    assert (answer.id, answer.status) == ("x", "denied")
    assert (answer["tokens"].allowed, answer["bursts"].reason) == (True, "rate_limited")
    assert (dict(answer.headers), answer.retry_after) == (limits, 7)
    with pytest.raises(KeyError):
        answer["exports"]


@pytest.mark.parametrize("quantity", [0.1, True, None, float("nan")])
def test_a_quantity_that_is_not_exact_is_refused(connect: Connect, quantity: object) -> None:
    """Before anything is sent."""
    api = Api(CONSUMED)
    with pytest.raises(TypeError, match="an int, a Decimal or a decimal string"):
        connect(api).consume("ada", "tokens", quantity)
    assert not api.requests


def test_infinity_and_a_time_without_a_zone_are_refused(connect: Connect) -> None:
    """They are no quantity and no instant."""
    tollgate = connect(Api(CONSUMED))
    with pytest.raises(ValueError, match="finite"):
        tollgate.consume("ada", "tokens", Decimal("Infinity"))
    with pytest.raises(ValueError, match="time zone"):
        tollgate.consume("ada", "tokens", time=datetime(2026, 11, 23))  # noqa: DTZ001  the point


@given(st.decimals(min_value=0, allow_nan=False, allow_infinity=False))
def test_a_decimal_is_sent_with_all_its_digits_and_no_exponent(quantity: Decimal) -> None:
    """Whatever its form."""
    api = Api(CONSUMED)
    with Tollgate(URL, "key", transport=httpx.MockTransport(api)) as tollgate:
        tollgate.consume("ada", "tokens", quantity)
    (body,) = api.bodies
    assert Decimal(body["quantity"]) == quantity
    assert set(body["quantity"]) <= set("-0123456789.")


@given(st.text(min_size=1).filter(lambda text: text not in {".", ".."}))
def test_an_id_stays_one_segment_of_the_path(name: str) -> None:
    """Slashes, spaces, percent signs and question marks too."""
    api = Api(decision())
    try:
        name.encode()
    except UnicodeEncodeError:
        return
    with Tollgate(URL, "key", transport=httpx.MockTransport(api)) as tollgate:
        tollgate.check(name, "tokens")
    path = api.paths[0].removeprefix("GET ")
    assert path.count("/") == 5
    assert httpx.URL(f"{URL}{path}").path == f"/prod/v1/customers/{name}/entitlements/tokens"


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_what_would_lead_to_another_path_is_refused(connect: Connect, name: str) -> None:
    """Nothing is asked."""
    api = Api(decision())
    with pytest.raises(ValueError, match="is no id"):
        connect(api).check(name, "tokens")
    assert not api.requests


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidInput),
        (401, Unauthenticated),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (410, ApiError),
        (422, InvalidInput),
    ],
)
def test_a_problem_is_an_error_at_once(connect: Connect, status: int, kind: type[ApiError]) -> None:
    """It is not sent again, and `on_error` says nothing of it."""
    faults = [{"pointer": "/quantity", "detail": "must not be negative"}]
    api = Api(problem(status, errors=faults))
    with pytest.raises(kind, match=f"{status} A problem: it is broken") as caught:
        connect(api, on_error="allow").consume("ada", "tokens")
    error = caught.value
    assert type(error) is kind
    assert isinstance(error, TollgateError)
    assert (error.status, error.title, error.detail, error.instance) == (status, "A problem", "it is broken", "req-1")
    assert error.errors == (FieldError("/quantity", "must not be negative"),)
    assert len(api.requests) == 1


@pytest.mark.parametrize("body", ["<html>", "[]", '{"message": "Unauthorized"}', '{"errors": 1}', ""])
def test_an_error_that_is_no_problem_document_is_told_too(connect: Connect, body: str) -> None:
    """A gateway before the API has words of its own."""
    with pytest.raises(Unauthenticated, match="401 Unauthorized"):
        connect(Api(httpx.Response(401, content=body))).check("ada", "tokens")


@pytest.mark.parametrize("body", ["<html>", "[]", "{}", json.dumps(decision(used="many"))])
def test_an_answer_that_is_not_tollgates_is_an_error(connect: Connect, body: str) -> None:
    """Never a yes."""
    with pytest.raises(ApiError, match="is the url right"):
        connect(Api(httpx.Response(200, content=body)), on_error="allow").check("ada", "tokens")


@pytest.mark.parametrize(
    "options",
    [
        {"url": "tollgate.example"},
        {"on_error": "alow"},
        {"on_error": {"tokens": True}},
        {"when_full": "drop"},
    ],
)
def test_a_slip_in_the_settings_is_found_at_once(options: dict[str, str]) -> None:
    """Not in the first outage."""
    with pytest.raises(ValueError, match=r"url|on_error|when_full"):
        Tollgate(**({"url": URL, "key": "key"} | options))  # type: ignore[arg-type]  # the point


def test_a_method_shows_its_arguments_and_its_result() -> None:
    """In `help`, and to whoever inspects it."""
    shown = str(inspect.signature(AsyncTollgate.check))
    assert shown.startswith("(self, customer: str, feature: str, quantity: ")
    assert shown.endswith("-> tollgate_client.model.Decision")
    assert inspect.iscoroutinefunction(AsyncTollgate.check)
    assert inspect.getdoc(Tollgate.check) == inspect.getdoc(AsyncTollgate.check)

"""The middleware, before a FastAPI application."""

import asyncio
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, Literal

import httpx
import pytest
from fastapi import FastAPI, WebSocket

from tests.client.fakes_api import URL, Answer, Api, decision, denied
from tollgate_client import AsyncTollgate, Decision, Denied, Tollgate, TollgateMiddleware, current_customer

LIMITS = {"RateLimit": '"calls";r=1;t=60', "RateLimit-Policy": '"calls";q=100;w=60'}
CONSUMED = httpx.Response(200, json=decision(feature="calls", status="consumed"), headers=LIMITS)


def customer_of(scope: MutableMapping[str, Any]) -> str | None:
    """Whom a request is for."""
    value: bytes | None = dict(scope["headers"]).get(b"x-customer")
    return value.decode() if value else None


Make = Callable[..., FastAPI]


@pytest.fixture
def application() -> Iterator[Make]:
    """Makes applications that say who the customer is, export, and speak to WebSockets; closes their clients."""
    clients: list[AsyncTollgate] = []

    def make(api: Api, on_error: Literal["allow", "deny"] = "deny", **options: Any) -> FastAPI:
        tollgate = AsyncTollgate(URL, "key", transport=httpx.MockTransport(api), on_error=on_error)
        clients.append(tollgate)
        app = FastAPI()
        arguments: dict[str, Any] = {"feature": "calls", "customer": customer_of} | options
        app.add_middleware(TollgateMiddleware, tollgate=tollgate, **arguments)

        @app.get("/who")
        def who() -> str | None:
            return current_customer.get()

        @app.get("/health/deep")
        async def health() -> str:
            return "up"

        @app.get("/export")
        @tollgate.requires("export")
        async def export(rows: int = 3) -> int:
            return rows

        @app.websocket("/talk")
        async def talk(websocket: WebSocket) -> None:
            await websocket.accept()
            await websocket.send_text(str(current_customer.get()))
            await websocket.close()

        return app

    yield make
    for tollgate in clients:
        asyncio.run(tollgate.close(timeout=0.0))


def get(app: FastAPI, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    """Ask the application."""

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
            return await client.get(path, headers={"X-Customer": "ada"} if headers is None else headers)

    return asyncio.run(ask())


def test_a_request_is_consumed_and_its_limits_are_passed_on(application: Make) -> None:
    """The application knows whom it is for, in a thread too."""
    api = Api(CONSUMED)
    answer = get(application(api), "/who")
    assert (answer.status_code, answer.json()) == (200, "ada")
    assert {name: answer.headers[name] for name in LIMITS} == LIMITS
    assert api.paths == ["POST /v1/customers/ada/entitlements/calls/consume"]
    assert current_customer.get() is None


def test_a_request_may_be_checked_only(application: Make) -> None:
    """And by another quantity."""
    api = Api(decision())
    assert get(application(api, consume=False, quantity=2), "/who").status_code == 200
    assert api.paths == ["GET /v1/customers/ada/entitlements/calls?quantity=2"]


@pytest.mark.parametrize(
    ("reason", "status"),
    [("quota_exceeded", 429), ("rate_limited", 429), ("feature_disabled", 403), ("subscription_inactive", 403)],
)
def test_a_denial_is_a_problem_document(application: Make, reason: str, status: int) -> None:
    """With when to come again; the application is not reached."""
    headers = LIMITS | {"Retry-After": "30"}
    api = Api(httpx.Response(200, json=denied(feature="calls", reason=reason), headers=headers))
    answer = get(application(api), "/who")
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert {name: answer.headers[name] for name in headers} == headers
    words = reason.replace("_", " ")
    assert answer.json() == {
        "type": f"urn:tollgate:problem:{reason.replace('_', '-')}",
        "title": words.capitalize(),
        "status": status,
        "detail": f"calls is denied: {reason}.",
        "reason": reason,
        "feature": "calls",
    }


@pytest.mark.parametrize(("on_error", "status"), [("deny", 503), ("allow", 200)])
def test_an_outage_is_told_from_a_denial(application: Make, on_error: str, status: int) -> None:
    """503, or what `on_error` says."""
    api = Api(httpx.Response(503, headers={"Retry-After": "60"}))
    answer = get(application(api, on_error=on_error), "/who")
    assert answer.status_code == status
    assert status == 200 or answer.json()["reason"] == "tollgate_unreachable"


def test_a_request_of_nobody_is_forbidden(application: Make) -> None:
    """Nothing is asked."""
    api = Api(CONSUMED)
    answer = get(application(api), "/who", headers={})
    assert (answer.status_code, answer.json()["reason"]) == (403, "no_customer")
    assert not api.requests


def test_excluded_paths_and_those_below_them_are_let_through(application: Make) -> None:
    """But not those that only begin alike."""
    api = Api(CONSUMED)
    app = application(api, exclude=["/health", "/docs/"])
    assert get(app, "/health/deep", headers={}).json() == "up"
    assert get(app, "/docs", headers={}).status_code == 200
    assert get(app, "/healthy", headers={}).status_code == 403
    assert not api.requests


@pytest.mark.parametrize("exclude", ["/health", "/", [""]])
def test_what_is_excluded_by_a_slip_is_not_everything(application: Make, exclude: str | list[str]) -> None:
    """One path is one path, and the root is not all that is below it."""
    app = application(Api(CONSUMED), exclude=exclude)
    assert get(app, "/who", headers={}).status_code == 403


def test_a_function_that_is_denied_within_is_answered_too(application: Make) -> None:
    """`requires` needs no handler of its own, and asks for the customer of the request."""
    refused = httpx.Response(200, json=denied(feature="export", reason="feature_not_in_plan"))
    api = Api(CONSUMED, refused, CONSUMED, decision())
    app = application(api)
    answer = get(app, "/export?rows=5")
    assert (answer.status_code, answer.json()["feature"]) == (403, "export")
    assert api.paths[1] == "GET /v1/customers/ada/entitlements/export?quantity=1"
    assert get(app, "/export?rows=5").json() == 5


def test_without_a_feature_only_the_customer_is_known(application: Make) -> None:
    """For applications whose functions ask by themselves."""
    api = Api(CONSUMED)
    assert get(application(api, feature=None), "/who").json() == "ada"
    assert not api.requests


def open_websocket(app: FastAPI, headers: dict[str, str]) -> list[dict[str, Any]]:
    """What the application sends to a WebSocket that only listens."""
    scope = {"type": "websocket", "path": "/talk", "raw_path": b"/talk", "query_string": b"", "subprotocols": []}
    names = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    received: Iterator[dict[str, Any]] = iter(
        [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}]
    )
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return next(received)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app({**scope, "headers": names}, receive, send))  # type: ignore[arg-type]  # of a server's types
    return sent


def test_a_websocket_is_consumed_when_it_is_opened(application: Make) -> None:
    """Once, whatever is said on it."""
    api = Api(CONSUMED)
    sent = open_websocket(application(api), {"X-Customer": "ada"})
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert sent[1]["text"] == "ada"
    assert len(api.requests) == 1


@pytest.mark.parametrize(
    ("answer", "headers", "reason"),
    [(denied(), {"X-Customer": "ada"}, "quota_exceeded"), (decision(), {}, "no_customer")],
)
def test_a_websocket_that_is_denied_is_not_accepted(
    application: Make, answer: Answer, headers: dict[str, str], reason: str
) -> None:
    """It is closed before the application sees it."""
    sent = open_websocket(application(Api(answer)), headers)
    assert sent == [{"type": "websocket.close", "code": 1008, "reason": reason}]


def test_the_lifespan_of_the_application_is_left_alone(application: Make) -> None:
    """Whoever it is for."""
    sent = []
    messages: Iterator[dict[str, Any]] = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    api = Api(CONSUMED)

    async def receive() -> dict[str, Any]:
        return next(messages)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message["type"])

    asyncio.run(application(api)({"type": "lifespan"}, receive, send))  # type: ignore[arg-type]  # of a server's types
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert not api.requests


def test_a_denial_after_the_answer_has_begun_is_an_error() -> None:
    """There is no second answer to a request."""

    async def app(_: Any, __: Any, send: Callable[..., Any]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise Denied(Decision("ada", "export", allowed=False, reason="feature_disabled"))

    tollgate = AsyncTollgate(URL, "key", transport=httpx.MockTransport(Api(CONSUMED)))
    middleware = TollgateMiddleware(app, tollgate=tollgate, customer=customer_of)
    with pytest.raises(Denied):
        get(middleware, "/who")  # type: ignore[arg-type]  # an application too


def test_a_client_that_blocks_is_refused_where_it_is_added() -> None:
    """Not with the first request."""
    with (
        Tollgate(URL, "key", transport=httpx.MockTransport(Api(CONSUMED))) as tollgate,
        pytest.raises(TypeError, match="AsyncTollgate"),
    ):
        TollgateMiddleware(FastAPI(), tollgate=tollgate, customer=customer_of)  # type: ignore[arg-type]  # the point

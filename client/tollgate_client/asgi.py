"""Middleware for FastAPI, Starlette and whatever else speaks ASGI: asks before a request reaches the application."""

import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

from tollgate_client.aio import AsyncTollgate
from tollgate_client.errors import Denied
from tollgate_client.guard import current_customer
from tollgate_client.model import UNREACHABLE, Decision, Quantity

__all__ = ["TollgateMiddleware"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_LIMITED: Final = frozenset({"quota_exceeded", "rate_limited"})
_FORBIDDEN, _TOO_MANY_REQUESTS, _UNAVAILABLE = 403, 429, 503
_POLICY_VIOLATION: Final = 1008


class TollgateMiddleware:
    """Consumes some of a feature with each HTTP request and each WebSocket that is opened.

    A denial is answered in the application's place, as application/problem+json: 429 where a quota or a rate is used
    up, 503 where Tollgate could not be reached, else 403; so is `Denied`, when the application lets it through. A
    WebSocket that is denied is closed before it is accepted, which its client sees as a 403. The limits stand in the
    headers RateLimit and RateLimit-Policy of the answer, and in Retry-After of a denial. Within the request
    `current_customer` is set.

    Args:
        app: the application.
        tollgate: asks; the application closes it.
        customer: whom a request is for, by its ASGI scope; None is answered with 403.
        feature: what a request takes; None: nothing, only `current_customer` is set.
        quantity: how much of it.
        consume: False to check without counting.
        exclude: paths that are let through as they are, with all that is below them ("/" is the root alone).

    Raises:
        TypeError: the client is one that would block the application.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        tollgate: AsyncTollgate,
        customer: Callable[[Scope], str | None],
        feature: str | None = None,
        quantity: Quantity = 1,
        consume: bool = True,
        exclude: Iterable[str] = (),
    ) -> None:
        if not isinstance(tollgate, AsyncTollgate):
            raise TypeError(f"the middleware asks through an AsyncTollgate, not {tollgate!r}")
        self._app = app
        self._ask = tollgate.consume if consume else tollgate.check
        self._customer = customer
        self._feature = feature
        self._quantity = quantity
        paths = [exclude] if isinstance(exclude, str) else exclude
        self._exclude = tuple(path.rstrip("/") or "/" for path in paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] not in {"http", "websocket"} or self._excludes(scope["path"]):
            await self._app(scope, receive, send)
            return
        customer = self._customer(scope)
        if customer is None:
            await _refuse(scope, receive, send, _problem("no_customer", "Nobody says whom this request is for."))
            return
        decision = await self._ask(customer, self._feature, self._quantity) if self._feature else None
        if decision is not None and not decision:
            await _refuse(scope, receive, send, _denial(decision))
            return
        await self._serve(scope, receive, send, customer, _headers(decision))

    def _excludes(self, path: str) -> bool:
        return any(path == each or path.startswith(f"{each}/") for each in self._exclude)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, customer: str, limits: Headers) -> None:
        started = False

        async def send_with_limits(message: Message) -> None:
            nonlocal started
            started = True
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *limits]}
            await send(message)

        token = current_customer.set(customer)
        try:
            await self._app(scope, receive, send_with_limits)
        except Denied as denied:
            if started:
                raise
            await _refuse(scope, receive, send, _denial(denied.decision))
        finally:
            current_customer.reset(token)


def _headers(decision: Decision | None) -> Headers:
    known = {} if decision is None else decision.headers
    return [(name.lower().encode(), value.encode()) for name, value in known.items()]


def _denial(decision: Decision) -> tuple[dict[str, Any], Headers]:
    body, headers = _problem(decision.reason, f"{decision.feature} is denied: {decision.reason}.")
    return {**body, "feature": decision.feature}, headers + _headers(decision)


def _problem(reason: str, detail: str) -> tuple[dict[str, Any], Headers]:
    status = _TOO_MANY_REQUESTS if reason in _LIMITED else _UNAVAILABLE if reason == UNREACHABLE else _FORBIDDEN
    words = reason.split("_")
    body = {
        "type": f"urn:tollgate:problem:{'-'.join(words)}",
        "title": " ".join(words).capitalize(),
        "status": status,
        "detail": detail,
        "reason": reason,
    }
    return body, [(b"content-type", b"application/problem+json")]


async def _refuse(scope: Scope, receive: Receive, send: Send, problem: tuple[dict[str, Any], Headers]) -> None:
    body, headers = problem
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": body["reason"]})
        return
    content = json.dumps(body).encode()
    headers = [*headers, (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": body["status"], "headers": headers})
    await send({"type": "http.response.body", "body": content})

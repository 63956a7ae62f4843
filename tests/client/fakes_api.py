"""The other end of the client: an API that answers what a test says, and time that passes only when slept."""

import asyncio
import contextlib
import inspect
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from tollgate_client import AsyncTollgate, Tollgate

URL = "https://tollgate.example/prod"


def decision(**changes: Any) -> dict[str, Any]:
    """An answer to a check, as docs/openapi.json has it."""
    return {
        "customer": "ada",
        "feature": "tokens",
        "type": "quota",
        "allowed": True,
        "reason": "allowed",
        "limit": "100.5",
        "used": "60",
        "reserved": "0",
        "remaining": "40.5",
        "overage": "0",
        "resets_at": "2026-12-01T00:00:00Z",
        "plan": "starter",
        "subscription": "sub-ada",
    } | changes


def denied(**changes: Any) -> dict[str, Any]:
    """A no, to whatever was asked."""
    return decision(allowed=False, reason="quota_exceeded", status="denied") | changes


def problem(status: int, **more: Any) -> httpx.Response:
    """A problem document."""
    slug = {"type": "urn:tollgate:problem:test", "title": "A problem", "status": status, "detail": "it is broken"}
    headers = {"Content-Type": "application/problem+json"} | more.pop("headers", {})
    return httpx.Response(status, content=json.dumps(slug | {"instance": "req-1"} | more), headers=headers)


def accepted(request: httpx.Request, **told: dict[str, Any]) -> httpx.Response:
    """The answer to events: all are accepted, but for those of which something else is told by their ids."""
    ids = [event["id"] for event in json.loads(request.content)]
    found = [{"id": name, "status": "accepted"} | told.get(name, {}) for name in ids]
    return httpx.Response(200, json={"results": found})


Answer = httpx.Response | Exception | dict[str, Any] | Callable[[httpx.Request], httpx.Response]


class Api:
    """Gives the answers in their order, and the last one for ever; remembers what was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer, or fail to."""
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, dict):
            return httpx.Response(200, json=answer)
        if callable(answer):
            return answer(request)
        return httpx.Response(answer.status_code, content=answer.content, headers=answer.headers)

    @property
    def bodies(self) -> list[Any]:
        """What was sent, read."""
        return [json.loads(request.content) for request in self.requests]

    @property
    def paths(self) -> list[str]:
        """Methods and paths, after the URL's own."""
        prefix = httpx.URL(URL).path
        return [f"{one.method} {one.url.raw_path.decode().removeprefix(prefix)}" for one in self.requests]


class Clock:
    """Stands still but for who sleeps; remembers the pauses."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        """Seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.pauses.append(seconds)
        self.now += seconds

    async def sleep_async(self, seconds: float) -> None:
        """The same for coroutines."""
        self.sleep(seconds)


class Awaiting:
    """An AsyncTollgate, or what it gave, with methods that block: so that one test speaks to both clients."""

    def __init__(self, wrapped: Any, runner: asyncio.Runner) -> None:
        self._wrapped = wrapped
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._wrapped, name)
        if not inspect.iscoroutinefunction(member):
            return member
        return lambda *args, **kwargs: self._runner.run(member(*args, **kwargs))

    @contextlib.contextmanager
    def reserve(self, *args: Any, **kwargs: Any) -> Iterator["Awaiting"]:
        """What `async with` does."""
        stack = contextlib.AsyncExitStack()
        held = self._runner.run(stack.enter_async_context(self._wrapped.reserve(*args, **kwargs)))
        try:
            yield Awaiting(held, self._runner)
        except BaseException as error:
            self._runner.run(stack.__aexit__(type(error), error, error.__traceback__))
            raise
        self._runner.run(stack.aclose())


class Connect:
    """Makes clients of one kind; closes them."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.clock = Clock()
        self._exits = contextlib.ExitStack()
        self._runner = asyncio.Runner()

    def __call__(self, api: Callable[[httpx.Request], httpx.Response], **options: Any) -> Any:
        """A client of an API; what it buffers is sent only when a test says so."""
        transport, runner = httpx.MockTransport(api), self._runner
        defaults = {"flush_interval": 3_600.0, "chance": lambda: 0.5, "clock": self.clock, "transport": transport}
        arguments: dict[str, Any] = defaults | options
        if self.kind == "sync":
            return self._exits.enter_context(Tollgate(URL, "key", **{"sleep": self.clock.sleep} | arguments))
        made = AsyncTollgate(URL, "key", **{"sleep": self.clock.sleep_async} | arguments)
        self._exits.callback(lambda: runner.run(made.close()))
        return Awaiting(made, runner)

    def close(self) -> None:
        """Close what was made."""
        self._exits.close()
        self._runner.close()

"""Requests, and when to send them again. Does no I/O: a `Flow` says what to do, and a client does it."""

import json
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import quote

import httpx

from tollgate_client.model import time_text

__all__ = ["Flow", "Request", "backoff", "is_retryable", "path_of", "post", "retry_after"]

_TOO_MANY_REQUESTS: Final = 429
_SERVER_ERROR: Final = 500
_MOST_DOUBLINGS: Final = 16

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Request:
    """A request, without where to and by whom; `timeout` in seconds, of each step of it (connect, write, read)."""

    method: str
    path: str
    content: bytes | None = None
    timeout: float = 0.0


Flow = Generator[Request | float, httpx.Response, Result]
"""What leads to a result, step by step: a request, which is sent and whose answer is handed in (or an
httpx.RequestError thrown in), or a number of seconds to pause."""


def path_of(*segments: str) -> str:
    """A path of the API, whatever characters ids have.

    Raises:
        ValueError: an id that would make it another path.
    """
    for segment in segments:
        if segment in {"", ".", ".."}:
            raise ValueError(f"{segment!r} is no id")
    return "/v1/" + "/".join(quote(segment, safe="") for segment in segments)


def post(path: str, **body: Any) -> Request:
    """A POST of a JSON object, without members that are None."""
    known = {name: value for name, value in body.items() if value is not None}
    return Request("POST", path, json.dumps(known, default=time_text).encode())


def is_retryable(response: httpx.Response) -> bool:
    """Whether the same request may be answered when it is sent again: throttled, unavailable, or failed."""
    return response.status_code == _TOO_MANY_REQUESTS or response.status_code >= _SERVER_ERROR


def retry_after(response: httpx.Response | None) -> float:
    """The seconds that an answer asks to wait; 0 if it asks for none, or names a date."""
    value = "" if response is None else response.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else 0.0


def backoff(tries: int, asked: float, chance: float, *, base: float, most: float) -> float:
    """Seconds to wait after `tries` tries: asked + chance * min(most, base * 2 ** (tries - 1)).

    Full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter"), on top of what `Retry-After` asked for;
    `chance` lies in [0, 1).
    """
    doublings = min(tries - 1, _MOST_DOUBLINGS)
    return float(asked + chance * min(most, base * 2**doublings))

"""What the client raises.

TollgateError
+-- Denied                 the answer is no; `decision` says why
+-- Unreachable            no answer within the deadline, and no `on_error` that answers in its place
+-- BufferFull             an event finds no room in the buffer
+-- ApiError               the API refuses the request itself; sent again it would be refused again
    +-- InvalidInput       400, 413, 415, 422; `errors` names each fault
    +-- Unauthenticated    401  no key, or one that is not known
    +-- Forbidden          403  the key lacks the scope
    +-- NotFound           404
    +-- Conflict           409  the same id came with another body
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from tollgate_client.model import Decision

__all__ = [
    "ApiError",
    "BufferFull",
    "Conflict",
    "Denied",
    "FieldError",
    "Forbidden",
    "InvalidInput",
    "NotFound",
    "TollgateError",
    "Unauthenticated",
    "Unreachable",
    "error_of",
]


class TollgateError(Exception):
    """Base of all errors of this package."""


class Denied(TollgateError):
    """The customer may not."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(f"{decision.customer} may not use {decision.feature}: {decision.reason}")
        self.decision = decision


class Unreachable(TollgateError):
    """Tollgate gave no answer within the deadline: no connection, or nothing but 429 and 5xx."""


class BufferFull(TollgateError):
    """Events are recorded faster than they are sent, or cannot be sent; this one was not taken."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One fault of the input: where (RFC 6901 JSON pointer, "" is the whole body) and what."""

    pointer: str
    detail: str


class ApiError(TollgateError):
    """The API's problem document (RFC 9457).

    Attributes:
        status: of HTTP.
        title: what kind of problem it is.
        detail: what is wrong this time.
        instance: the request's id, by which it is found in the logs; "" if the answer has none.
        errors: the faults of the input.
    """

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        told = problem.get("errors")
        faults = [fault for fault in told if isinstance(fault, dict)] if isinstance(told, list) else []
        self.status = status
        self.title = str(problem.get("title", "Unexpected answer"))
        self.detail = str(problem.get("detail", problem.get("message", "")))
        self.instance = str(problem.get("instance", ""))
        self.errors = tuple(FieldError(str(fault.get("pointer")), str(fault.get("detail"))) for fault in faults)
        super().__init__(f"{status} {self.title}" + (f": {self.detail}" if self.detail else ""))


class InvalidInput(ApiError):
    """The request cannot be read, or is not acceptable."""


class Unauthenticated(ApiError):
    """There is no key, or one that is not known."""


class Forbidden(ApiError):
    """The key lacks the scope of the route."""


class NotFound(ApiError):
    """No such customer, reservation or route."""


class Conflict(ApiError):
    """The same id came with another body before, or the reservation is settled otherwise."""


_BY_STATUS: Final[dict[int, type[ApiError]]] = {
    400: InvalidInput,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: InvalidInput,
    415: InvalidInput,
    422: InvalidInput,
}


def error_of(response: httpx.Response) -> ApiError:
    """The error that an answer tells of; what comes from a gateway before the API need not be a problem document."""
    try:
        body = response.json()
    except ValueError:
        body = None
    problem = {"title": response.reason_phrase} | (body if isinstance(body, dict) else {})
    return _BY_STATUS.get(response.status_code, ApiError)(response.status_code, problem)

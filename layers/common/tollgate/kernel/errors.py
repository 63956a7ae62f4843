"""The one error tree; each class knows its HTTP status, slug and title.

TollgateError
+-- BadRequest            400  the request cannot be read at all
+-- Unauthenticated       401  no key, or one that is not known
+-- PaymentFailed         402  the payment was declined
+-- Forbidden             403  the key lacks the scope
+-- NotFound              404
+-- MethodNotAllowed      405
+-- Conflict              409  the same id or key with another body, or a lost race
+-- PayloadTooLarge       413
+-- UnsupportedMediaType  415
+-- InvalidInput          422  read, but not acceptable; names each fault with a JSON pointer
+-- TooManyRequests       429  the key's rate limit is reached
+-- Unavailable           503  safe to send again
"""

from collections.abc import Sequence
from typing import ClassVar

from tollgate.kernel.dataclasses import dataclass

__all__ = [
    "BadRequest",
    "Conflict",
    "FieldError",
    "Forbidden",
    "InvalidInput",
    "MethodNotAllowed",
    "NotFound",
    "PayloadTooLarge",
    "PaymentFailed",
    "TollgateError",
    "TooManyRequests",
    "Unauthenticated",
    "Unavailable",
    "UnsupportedMediaType",
]


@dataclass(frozen=True, slots=True)
class FieldError:
    """One fault of the input: where (RFC 6901 JSON pointer, "" is the whole body) and what."""

    pointer: str
    detail: str


class TollgateError(Exception):
    """Base of all errors a caller is told about; `detail` is safe to show."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = headers or {}


class BadRequest(TollgateError):
    """The request cannot be read at all, for example malformed JSON."""

    status, slug, title = 400, "bad-request", "Bad request"


class Unauthenticated(TollgateError):
    """There is no key, or one that is not known."""

    status, slug, title = 401, "unauthenticated", "Unauthenticated"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"})


class PaymentFailed(TollgateError):
    """The payment was declined; nothing was charged."""

    status, slug, title = 402, "payment-failed", "Payment failed"


class Forbidden(TollgateError):
    """The key is known and lacks the scope of the route."""

    status, slug, title = 403, "forbidden", "Forbidden"


class NotFound(TollgateError):
    """No such thing."""

    status, slug, title = 404, "not-found", "Not found"


class MethodNotAllowed(TollgateError):
    """The path exists, the method does not."""

    status, slug, title = 405, "method-not-allowed", "Method not allowed"

    def __init__(self, detail: str, *, allow: Sequence[str]) -> None:
        super().__init__(detail, headers={"Allow": ", ".join(sorted(allow))})


class Conflict(TollgateError):
    """The same id or key came with another body, or another writer was first."""

    status, slug, title = 409, "conflict", "Conflict"


class PayloadTooLarge(TollgateError):
    """The body is over the limit."""

    status, slug, title = 413, "payload-too-large", "Payload too large"


class UnsupportedMediaType(TollgateError):
    """The Content-Type is not one the route reads."""

    status, slug, title = 415, "unsupported-media-type", "Unsupported media type"


class InvalidInput(TollgateError):
    """The body was read and is not acceptable; `errors` names each fault."""

    status, slug, title = 422, "invalid-input", "Invalid input"

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__("; ".join(f"{e.pointer or 'body'}: {e.detail}" for e in errors[:3]))
        self.errors = tuple(errors)


class TooManyRequests(TollgateError):
    """The key has made all the requests of its present window; the next begins in `retry_after` seconds.

    With the headers RateLimit and RateLimit-Policy (IETF draft-ietf-httpapi-ratelimit-headers-10).
    """

    status, slug, title = 429, "too-many-requests", "Too many requests"

    def __init__(self, detail: str, *, policy: str, limit: int, window_seconds: int, retry_after: int) -> None:
        headers = {
            "RateLimit-Policy": f'"{policy}";q={limit};w={window_seconds}',
            "RateLimit": f'"{policy}";r=0;t={retry_after}',
            "Retry-After": str(retry_after),
        }
        super().__init__(detail, headers=headers)


class Unavailable(TollgateError):
    """Nothing was changed; the same request may be sent again after `retry_after` seconds."""

    status, slug, title = 503, "unavailable", "Temporarily unavailable"

    def __init__(self, detail: str, *, retry_after: int = 1) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})

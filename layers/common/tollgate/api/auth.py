"""Who asks, and what they may do.

The Lambda authorizer lets every request through and says whose key it carries, if any (see
functions/authorizer); the scope of each route is held here, so that 401 and 403 are problem
documents like all others. A route with no scope must be named open, and nothing else is.

Callers inside AWS may come by a second API whose routes IAM holds (template.yaml). API Gateway alone writes the
context of a request: what a Lambda authorizer says stands under `lambda`, and only IAM's own verdict under `iam`.
Who may invoke a function by themselves could write it too, but needs no API then.
"""

from typing import Any, Final

from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import Forbidden, TooManyRequests, Unauthenticated, Unavailable

__all__ = ["IAM_SCOPES", "SECURITY_SCHEME", "Caller", "caller_of", "require"]

SECURITY_SCHEME: Final = "ApiKey"
"""The name of the security scheme in openapi.json."""


IAM_SCOPES: Final = frozenset({"events:write", "usage:read", "entitlements:read", "entitlements:write"})
"""What IAM may let a caller do: what services inside AWS need, and never the keys, the catalog or money."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The key behind a request, or the issuer's subject, or the ARN of who signed it; and the scopes."""

    key_id: str
    scopes: frozenset[str]


def caller_of(event: dict[str, Any]) -> Caller:
    """The caller that the authorizer, or IAM, vouches for.

    Raises:
        Unauthenticated: it vouches for none.
        TooManyRequests: the key's rate limit is reached.
        Unavailable: it could not find out.
    """
    vouched = event.get("requestContext", {}).get("authorizer", {})
    if vouched.get("iam"):
        return Caller(vouched["iam"]["userArn"], IAM_SCOPES)
    context = vouched.get("lambda") or {}
    if context.get("unavailable"):
        raise Unavailable("Who asks cannot be found out now; send the request again.")
    if context.get("retry_after"):
        limit, window, wait = (int(context[name]) for name in ("limit", "window_seconds", "retry_after"))
        detail = f"The key may make {limit} requests in {window} seconds; its next window begins in {wait}."
        raise TooManyRequests(detail, policy="key", limit=limit, window_seconds=window, retry_after=wait)
    key_id = context.get("key_id")
    if not key_id:
        raise Unauthenticated("Send a known API key as `Authorization: Bearer <api key>`.")
    return Caller(key_id, frozenset(str(context.get("scopes", "")).split()))


def require(scope: str, caller: Caller) -> None:
    """Hold a route's scope; the scope admin stands for all.

    Raises:
        Forbidden: the key has neither.
    """
    if not caller.scopes & {scope, "admin"}:
        raise Forbidden(f"The key lacks the scope {scope}.")

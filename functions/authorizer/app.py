"""Whose key does a request carry, or whose token?

Every request passes, with the id and scopes of who sent it beside it, or with nothing: the functions hold the
scopes and answer 401, 403 and 429 as problem documents, which API Gateway itself cannot (docs/decisions.md).
"""

from tollgate.kernel.startup import started

import os
from functools import cache
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.logging import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from tollgate.catalog.key_store import DynamoKeys
from tollgate.catalog.keyring import KeyLimits, KeyRing, bearer
from tollgate.kernel.errors import Unavailable
from tollgate.kernel.time import system_clock

if TYPE_CHECKING:
    from tollgate.catalog.tokens import Issuer

OIDC_ISSUER = os.environ.get("OIDC_ISSUER")
OIDC_AUDIENCE = os.environ.get("OIDC_AUDIENCE")

logger = Logger()
store = DynamoKeys()
keys = KeyRing(store, system_clock)
limits = KeyLimits(store, system_clock)


def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Entry point of the Lambda function: a simple response of payload format 2.0."""
    headers = event.get("headers", {})
    try:
        # API Gateway writes the names of headers in lower case, `sam local start-api` as it pleases.
        context = caller(headers.get("authorization") or headers.get("Authorization"))
    except Unavailable:
        logger.exception("who sent the request could not be found out")
        context = {"unavailable": "true"}
    return {"isAuthorized": True, "context": context}


def caller(authorization: str | None) -> dict[str, str]:
    """What tollgate.api.auth reads: who asks, and whether they must wait."""
    key = keys.find(authorization)
    if key is None:
        return bearer_of_token(bearer(authorization))
    known = {"key_id": key.id, "scopes": " ".join(key.scopes)}
    wait = limits.wait(key)
    if not wait or not key.rate_limit:
        return known
    held = {"limit": key.rate_limit.limit, "window_seconds": key.rate_limit.window_seconds, "retry_after": wait}
    return known | {name: str(value) for name, value in held.items()}


def bearer_of_token(token: str) -> dict[str, str]:
    """Who sent a token of the issuer, if the deployment has one and it looks like a JWT."""
    if not (OIDC_ISSUER and OIDC_AUDIENCE and token.startswith("eyJ") and token.count(".") == 2):  # noqa: PLR2004
        return {}
    found = issuer().bearer(token)
    return {"key_id": found.id, "scopes": " ".join(found.scopes)} if found else {}


@cache
def issuer() -> "Issuer":
    """The issuer, with what it has published; its libraries lie in a layer of their own."""
    from tollgate.catalog.tokens import Issuer  # late, for keys do not need it

    return Issuer(str(OIDC_ISSUER), str(OIDC_AUDIENCE), system_clock)


started()

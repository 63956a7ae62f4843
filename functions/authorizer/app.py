"""Whose key does a request carry?

Every request passes, with the key's id and scopes beside it, or with nothing: the functions hold the
scopes and answer 401, 403 and 429 as problem documents, which API Gateway itself cannot (docs/decisions.md).
"""

from tollgate.kernel.startup import started

from typing import Any

from aws_lambda_powertools.logging import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from tollgate.catalog.key_store import DynamoKeys
from tollgate.catalog.keyring import KeyLimits, KeyRing
from tollgate.kernel.errors import Unavailable
from tollgate.kernel.time import system_clock

logger = Logger()
store = DynamoKeys()
keys = KeyRing(store, system_clock)
limits = KeyLimits(store, system_clock)


def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Entry point of the Lambda function: a simple response of payload format 2.0."""
    try:
        context = caller(event.get("headers", {}).get("authorization"))
    except Unavailable:
        logger.exception("the key could not be read")
        context = {"unavailable": "true"}
    return {"isAuthorized": True, "context": context}


def caller(authorization: str | None) -> dict[str, str]:
    """What tollgate.api.auth reads: who asks, and whether they must wait."""
    key = keys.find(authorization)
    if key is None:
        return {}
    known = {"key_id": key.id, "scopes": " ".join(key.scopes)}
    wait = limits.wait(key)
    if not wait or not key.rate_limit:
        return known
    held = {"limit": key.rate_limit.limit, "window_seconds": key.rate_limit.window_seconds, "retry_after": wait}
    return known | {name: str(value) for name, value in held.items()}


started()

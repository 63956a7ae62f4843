"""Whose key does a request carry?

Every request passes, with the key's id and scopes beside it, or with nothing: the functions hold the
scopes and answer 401 and 403 as problem documents, which API Gateway itself cannot (docs/decisions.md).
"""

from tollgate.kernel.startup import started

from typing import Any

from aws_lambda_powertools.logging import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from tollgate.catalog.keys import KeyRing
from tollgate.catalog.store import DynamoCatalog
from tollgate.kernel.errors import Unavailable
from tollgate.kernel.time import system_clock

logger = Logger()
keys = KeyRing(DynamoCatalog(), system_clock)


def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Entry point of the Lambda function: a simple response of payload format 2.0."""
    headers = event.get("headers", {})
    try:
        # API Gateway writes the names of headers in lower case, `sam local start-api` as it pleases.
        key = keys.find(headers.get("authorization") or headers.get("Authorization"))
    except Unavailable:
        logger.exception("the key could not be read")
        return {"isAuthorized": True, "context": {"unavailable": "true"}}
    context = {"key_id": key.id, "scopes": " ".join(key.scopes)} if key else {}
    return {"isAuthorized": True, "context": context}


started()

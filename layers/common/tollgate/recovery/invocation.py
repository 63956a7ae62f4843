"""What an error record's context says of the invocation in which something failed."""

import os
import re
from typing import Any, Final

__all__ = ["invocation"]

_ROOT: Final = re.compile(r"Root=([0-9a-zA-Z-]{1,64})")


def invocation(lambda_context: Any) -> dict[str, str]:
    """Its function, its request id, and the id that X-Ray gives to all that one request sets off (correlation_id)."""
    said = {"function": lambda_context.function_name, "request_id": lambda_context.aws_request_id}
    trace = _ROOT.search(os.environ.get("_X_AMZN_TRACE_ID", ""))
    return said | ({"correlation_id": trace[1]} if trace else {})

"""Errors as RFC 9457 problem documents, the same for every route of every function."""

import json
from typing import Any, Final

from aws_lambda_powertools.event_handler import Response

from tollgate.kernel.errors import FieldError, InvalidInput, TollgateError

__all__ = ["PROBLEM_JSON", "internal_error", "invalid_fields", "problem"]

PROBLEM_JSON: Final = "application/problem+json"


def problem(error: TollgateError, request_id: str) -> Response[str]:
    """The answer that tells a caller of an error; `request_id` finds it in the logs."""
    body: dict[str, Any] = {
        "type": f"urn:tollgate:problem:{error.slug}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "instance": request_id,
    }
    if isinstance(error, InvalidInput):
        body["errors"] = [{"pointer": e.pointer, "detail": e.detail} for e in error.errors]
    return Response(error.status, PROBLEM_JSON, json.dumps(body), headers=dict(error.headers))


def internal_error(request_id: str) -> Response[str]:
    """The answer to an error of ours: says nothing of it but where to look."""
    return problem(TollgateError("An error of ours; it is logged under this request id."), request_id)


def invalid_fields(errors: list[dict[str, Any]], body: Any) -> InvalidInput:
    """Pydantic's errors as JSON pointers into the body, or as the name of a path or query parameter."""
    return InvalidInput([FieldError(_pointer(error, body), _detail(error)) for error in errors])


def _pointer(error: dict[str, Any], body: Any) -> str:
    place, *path = error["loc"]
    if place != "body":
        return "/" + "/".join(str(part) for part in path)
    parts, value = [], body
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            if error["type"] != "missing" or part != path[-1]:
                continue  # the tag of a union, which stands in no document
        parts.append(str(part).replace("~", "~0").replace("/", "~1"))
    if error["type"] in {"union_tag_invalid", "union_tag_not_found"}:
        parts.append(str(error["ctx"]["discriminator"]).strip("'"))
    return "".join(f"/{part}" for part in parts)


def _detail(error: dict[str, Any]) -> str:
    return str(error["msg"]).removeprefix("Value error, ")

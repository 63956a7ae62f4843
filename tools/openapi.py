"""openapi.json, made from the routes of all functions: `python -m tools.openapi` writes it, `--check` compares."""

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OPENAPI = ROOT / "functions/catalog/openapi.json"
EXAMPLES = ROOT / "docs/examples.json"
FUNCTIONS = ("catalog", "usage", "pricing", "entitlements", "billing", "recovery")

PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "An error (RFC 9457); `instance` is the request id",
    "required": ["type", "title", "status", "detail", "instance"],
    "additionalProperties": False,
    "properties": {
        "type": {"type": "string", "pattern": "^urn:tollgate:problem:[a-z-]+$"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}

PROBLEM_CONTENT = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
REFUSALS: dict[int, tuple[str, str, dict[str, Any]]] = {
    400: ("BadRequest", "It cannot be read at all", {}),
    401: ("Unauthenticated", "No key, or an unknown one", {"WWW-Authenticate": {"const": "Bearer"}}),
    402: ("PaymentFailed", "The payment was declined, or there is not enough money", {}),
    403: ("Forbidden", "The key lacks the scope", {}),
    404: ("NotFound", "There is no such thing", {}),
    409: ("Conflict", "It does not fit what is there; or others changed it all the time", {}),
    413: ("PayloadTooLarge", "The body has more than 1,000,000 bytes", {}),
    415: ("UnsupportedMediaType", "The Content-Type is not one that is read here", {}),
    422: ("InvalidInput", "It was read, and is not acceptable; `errors` says what, and where", {}),
    429: (
        "TooManyRequests",
        "The key has made all the requests of its window",
        {
            "RateLimit-Policy": {"type": "string", "pattern": '^"key";q=[0-9]+;w=[0-9]+$'},
            "RateLimit": {"type": "string", "pattern": '^"key";r=0;t=[0-9]+$'},
            "Retry-After": {"type": "integer", "minimum": 1},
        },
    ),
    503: ("Unavailable", "Send it again, after the seconds said", {"Retry-After": {"type": "integer", "minimum": 1}}),
}
"""The problem documents by status: a name, when, and the headers that come with each."""


def build() -> dict[str, Any]:
    """The OpenAPI document of all functions.

    Raises:
        RuntimeError: two functions declare one path, or different models under one name.
    """
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Tollgate",
            "version": "1",
            "description": "Metering, pricing, entitlements and recovery. Quantities and amounts are decimal strings.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": {},
        "components": {
            "schemas": {"Problem": PROBLEM},
            "responses": {
                "Problem": {"description": "Any other error", "content": PROBLEM_CONTENT},
                **{name: _refusal(description, headers) for name, description, headers in REFUSALS.values()},
            },
            "securitySchemes": {"ApiKey": {"type": "http", "scheme": "bearer"}},
        },
    }
    for function in FUNCTIONS:
        part = _schema_of(function)
        for path in part["paths"].values():
            for operation in path.values():
                operation["tags"] = [function]
        _join(document["paths"], part["paths"], function)
        _join(document["components"]["schemas"], part["components"]["schemas"], function)
    examples = json.loads(EXAMPLES.read_text())
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            _finish(operation)
            _exemplify(operation, examples.get(f"{method.upper()} {path}", {}))
    _exemplify({"responses": document["components"]["responses"]}, _refused_examples(examples["problem"]))
    document["paths"] = dict(sorted(document["paths"].items()))
    document["components"]["schemas"] = dict(sorted(document["components"]["schemas"].items()))
    return document


def _refusal(description: str, headers: dict[str, Any]) -> dict[str, Any]:
    told = {name: {"required": True, "schema": schema} for name, schema in headers.items()}
    return {"description": description, **({"headers": told} if told else {}), "content": PROBLEM_CONTENT}


def _schema_of(function: str) -> dict[str, Any]:
    """What Powertools says of one function's routes, with the definitions of its own error answers left out."""
    spec = importlib.util.spec_from_file_location(f"{function}_app", ROOT / "functions" / function / "app.py")
    if spec is None or spec.loader is None:
        raise RuntimeError(f"functions/{function}/app.py cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    from aws_lambda_powertools.event_handler.openapi.models import HTTPBearer  # pydantic: after the functions

    text = module.app.get_openapi_json_schema(title="Tollgate", version="1", security_schemes={"ApiKey": HTTPBearer()})
    schema: dict[str, Any] = json.loads(text)
    for name in ("HTTPValidationError", "ValidationError", "ResponseValidationError"):
        schema["components"]["schemas"].pop(name, None)
    return schema


def _join(into: dict[str, Any], part: dict[str, Any], function: str) -> None:
    for name, value in part.items():
        if into.setdefault(name, value) != value:
            raise RuntimeError(f"functions/{function} declares another {name}: give it a name of its own")


def _finish(operation: dict[str, Any]) -> None:
    """What the routes do not say themselves: parameters that are read by hand, and what may be refused."""
    operation["parameters"] = [*operation.get("parameters", []), *operation.pop("x-parameters", [])]
    if "x-request-body" in operation:  # Powertools would refuse a `type` of two
        operation["requestBody"] = operation.pop("x-request-body")
    refused = set(operation.pop("x-refuses"))
    if operation.get("security"):
        refused |= {401, 403, 429, 503}
    if "requestBody" in operation:
        refused |= {400, 413, 415, 422}
    if operation["parameters"]:
        refused.add(422)
    responses = operation["responses"]
    responses.pop("422", None)  # Powertools' own, which is not what we answer
    for status in sorted(refused):
        own = responses.get(str(status))
        if own is None:
            responses[str(status)] = {"$ref": f"#/components/responses/{REFUSALS[status][0]}"}
        else:  # of a protocol that has another form of errors; what is refused before it is reached has ours
            own["content"] |= PROBLEM_CONTENT
    responses["default"] = {"$ref": "#/components/responses/Problem"}
    operation["responses"] = dict(sorted(responses.items()))


def _exemplify(operation: dict[str, Any], told: dict[str, Any]) -> None:
    """Put what the story tells of an operation beside the schemas."""
    for media_type, example in told.get("requests", {}).items():
        operation["requestBody"]["content"][media_type]["example"] = example
    for status, example in told.get("responses", {}).items():
        [content, *_] = operation["responses"][status]["content"].values()
        content["example"] = example


def _refused_examples(problem: dict[str, Any]) -> dict[str, Any]:
    """A problem document of each kind; that of the story is of bad input."""
    from tollgate.kernel.errors import TollgateError  # main says where it is

    bad_input = problem["responses"]["default"]
    kinds = {kind.status: kind for kind in TollgateError.__subclasses__()}
    told = {
        name: {
            "type": f"urn:tollgate:problem:{kinds[status].slug}",
            "title": kinds[status].title,
            "status": status,
            "detail": f"{description}.",
            "instance": bad_input["instance"],
        }
        for status, (name, description, _) in REFUSALS.items()
    }
    return {"responses": told | {"InvalidInput": bad_input, "Problem": told["NotFound"]}}


def main() -> int:
    """Write or check the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail when the document is stale, and write nothing")
    arguments = parser.parse_args()
    tables, queues = ("CATALOG", "USAGE", "BILLING", "RECOVERY"), ("EVENTS", "ALERTS", "BILLING", "RETRIES")
    for variable in (*(f"{table}_TABLE" for table in tables), *(f"{queue}_QUEUE_URL" for queue in queues)):
        os.environ.setdefault(variable, "unused")
    os.environ.setdefault("AWS_DEFAULT_REGION", "eu-central-1")
    sys.path.insert(0, str(ROOT / "layers/common"))
    text = json.dumps(build(), indent=1) + "\n"
    if not arguments.check:
        OPENAPI.write_text(text)
        print(f"wrote {OPENAPI.relative_to(ROOT)}")
    elif OPENAPI.read_text() != text:
        print(f"{OPENAPI.relative_to(ROOT)} is stale: run `make openapi`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

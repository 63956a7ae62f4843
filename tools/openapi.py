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
FUNCTIONS = ("catalog", "usage", "pricing", "entitlements", "billing", "recovery")

PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "An error (RFC 9457); `instance` is the request id",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
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
    for path in document["paths"].values():
        for operation in path.values():
            _finish(operation)
    document["paths"] = dict(sorted(document["paths"].items()))
    document["components"]["schemas"] = dict(sorted(document["components"]["schemas"].items()))
    return document


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
    """Query parameters of routes that read them by hand, and the problem documents that any route may answer."""
    operation["parameters"] = [*operation.get("parameters", []), *operation.pop("x-parameters", [])]
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    expected = (
        {"401": "No key, or an unknown one", "403": "The key lacks the scope"} if operation.get("security") else {}
    )
    operation["responses"].pop("422", None)
    operation["responses"] |= {status: {"description": text, "content": problem} for status, text in expected.items()}
    operation["responses"]["default"] = {"description": "Any other error", "content": problem}


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

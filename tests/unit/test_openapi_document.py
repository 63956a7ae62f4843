"""functions/catalog/openapi.json, which GET /v1/openapi.json and GET /docs serve."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from openapi_spec_validator import validate

from tests.conftest import ROOT
from tollgate.api.auth import SECURITY_SCHEME
from tollgate.catalog.keys import SCOPES
from tools.openapi import OPENAPI, build

OPEN = {"/docs", "/healthz", "/v1/openapi.json", "/v1/webhooks/stripe"}


def document() -> dict[str, Any]:
    """The document as it is committed."""
    parsed: dict[str, Any] = json.loads(OPENAPI.read_text())
    return parsed


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each operation with its path."""
    for path, methods in document()["paths"].items():
        for operation in methods.values():
            yield path, operation


def test_the_document_says_what_the_functions_declare() -> None:
    """`make openapi` brings it up to date."""
    assert document() == build()


def test_the_document_in_docs_is_the_same_file() -> None:
    """One document, in two places."""
    assert (ROOT / "docs/openapi.json").resolve() == OPENAPI


def test_the_document_is_valid_openapi() -> None:
    """Version 3.1."""
    validate(document())


def test_operation_ids_are_unique() -> None:
    """Generated clients name their methods by them."""
    ids = Counter(operation["operationId"] for _, operation in operations())
    assert [name for name, times in ids.items() if times > 1] == []


def test_every_operation_needs_one_known_scope_but_the_open_ones() -> None:
    """A route that forgot its scope would be open to all."""
    for path, operation in operations():
        scopes = [scope for each in operation.get("security", []) for scope in each[SECURITY_SCHEME]]
        assert len(scopes) == (0 if path in OPEN else 1), path
        assert set(scopes) <= set(SCOPES), path


def test_the_security_scheme_of_the_operations_is_declared() -> None:
    """A bearer key."""
    schemes = document()["components"]["securitySchemes"]
    assert schemes == {SECURITY_SCHEME: {"type": "http", "scheme": "bearer"}}


def test_every_operation_tells_its_errors_as_problem_documents() -> None:
    """RFC 9457; with a scope, 401 and 403 too."""
    for path, operation in operations():
        told = {status for status, answer in operation["responses"].items() if is_problem(answer)}
        assert told == ({"default"} if path in OPEN else {"default", "401", "403"}), path


def is_problem(answer: dict[str, Any]) -> bool:
    """Whether an answer is a problem document."""
    return "application/problem+json" in answer.get("content", {})

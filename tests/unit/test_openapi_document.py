"""functions/catalog/openapi.json, which GET /v1/openapi.json and GET /docs serve."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jsonschema
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


def bodies() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each body that is sent or answered, with where it stands."""
    shown = document()
    for path, methods in shown["paths"].items():
        for method, operation in methods.items():
            where = f"{method.upper()} {path}"
            for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
                yield f"{where} {media_type}", content
            for status, answer in operation["responses"].items():
                yield from ((f"{where} {status}", content) for content in answer.get("content", {}).values())
    for name, answer in shown["components"]["responses"].items():
        yield from ((name, content) for content in answer["content"].values())


def test_every_body_has_an_example_that_fits_its_schema() -> None:
    """All that is sent, and all that is answered: `make examples` tells them anew."""
    components = document()["components"]
    for where, content in bodies():
        if content["schema"] == {"$ref": "#/components/schemas/Problem"} and "example" not in content:
            assert "ofrep" in where  # where a problem document stands beside the protocol's own errors
            continue
        assert "example" in content, where
        schema = content["schema"] | {"components": components}
        validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
        assert [error.message for error in validator.iter_errors(content["example"])] == [], where


def test_the_examples_are_of_one_story() -> None:
    """Of acme, on the plan starter, with api-calls."""
    shown = document()["paths"]
    plan = shown["/v1/plans/{code}"]["get"]["responses"]["200"]["content"]["application/json"]["example"]
    answered = shown["/v1/customers/{customer}/entitlements/{feature}"]["get"]["responses"]["200"]
    decision = answered["content"]["application/json"]["example"]
    assert (plan["code"], plan["features"][0]["feature"]) == ("starter", "api-calls")
    assert (decision["customer"], decision["plan"], decision["feature"]) == ("acme", "starter", "api-calls")
    invoice = shown["/v1/invoices/{invoice}"]["get"]["responses"]["200"]["content"]["application/json"]["example"]
    assert (invoice["customer"], invoice["total"], invoice["status"]) == ("acme", plan["base_price"], "paid")


def test_every_operation_tells_its_errors_as_problem_documents() -> None:
    """RFC 9457; with a scope, what any key may meet; with a body, what any body may be refused for."""
    for path, operation in operations():
        refused = {status for status, answer in operation["responses"].items() if is_problem(answer)}
        expected = {"default"} | (set() if path in OPEN else {"401", "403", "429", "503"})
        expected |= {"400", "413", "415", "422"} if "requestBody" in operation else set()
        expected |= {"422"} if operation["parameters"] else set()
        assert refused >= expected, path
        assert refused - expected <= {"402", "404", "409", "503"}, path


def is_problem(answer: dict[str, Any]) -> bool:
    """Whether an answer is, or may be, a problem document."""
    name = answer.get("$ref", "").rpartition("/")[2]
    shown = document()["components"]["responses"][name] if name else answer
    return "application/problem+json" in shown.get("content", {})

"""tools/breaking.py: what would break a client of the published API, kind by kind; and that the present does not."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tools.breaking import EXACT, LOWER, PUBLISHED, UPPER, breaks, publish
from tools.openapi import OPENAPI

THING: dict[str, Any] = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "maxLength": 64, "minLength": 1},
        "kind": {"enum": ["a", "b"]},
        "way": {"$ref": "#/components/schemas/Way", "default": "out"},
        "made_at": {"type": "string", "format": "date-time", "pattern": "Z$"},
        "size": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": 1},
        "bag": {"type": "object"},
        "row": {"type": "array"},
        "count": {"type": "integer", "minimum": 1, "maximum": 10},
        "price": {"anyOf": [{"type": "string", "pattern": "^[0-9]+$"}, {"type": "null"}]},
        "parts": {"type": "array", "maxItems": 5, "items": {"$ref": "#/components/schemas/Thing"}},
        "labels": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 9}},
    },
}
LIMIT = {"type": "integer", "maximum": 100, "default": 50}
ANSWER = json.loads(json.dumps(THING).replace("/Thing", "/Shown"))
DOCUMENT: dict[str, Any] = {
    "info": {"version": "1"},
    "servers": [{"url": "/"}],
    "paths": {
        "/things": {
            "post": {
                "operationId": "make_thing",
                "security": [{"ApiKey": ["things:write"]}],
                "parameters": [{"name": "limit", "in": "query", "schema": LIMIT}],
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}},
                "responses": {
                    "200": {
                        "headers": {"ETag": {"required": True, "schema": {"type": "string"}}},
                        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Shown"}}},
                    },
                    "404": {"$ref": "#/components/responses/NotFound"},
                },
            }
        }
    },
    "components": {
        "schemas": {"Thing": THING, "Shown": ANSWER, "Way": {"type": "string", "enum": ["in", "out"]}},
        "securitySchemes": {"ApiKey": {"type": "http", "scheme": "bearer"}},
        "responses": {"NotFound": {"content": {"application/problem+json": {"schema": {"type": "object"}}}}},
    },
}
POST = "/paths/~things/post"
SENT, SHOWN = "/components/schemas/Thing", "/components/schemas/Shown"
GONE = object()


def changed(*changes: tuple[str, Any]) -> dict[str, Any]:
    """The document with some of it changed, added or gone."""
    document = copy.deepcopy(DOCUMENT)
    for path, value in changes:
        *way, last = (step.replace("~", "/").replace("|", "/") for step in path.strip("/").split("/"))
        target: Any = document
        for step in way:
            target = target[int(step) if isinstance(target, list) else step]
        if value is GONE:
            del target[int(last) if isinstance(target, list) else last]
        else:
            target[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        ("/paths/~things", GONE, "is gone"),
        (POST, GONE, "is gone"),
        (f"{POST}/security", [{"ApiKey": ["admin"]}], "the scope was things:write, and is admin"),
        (f"{POST}/parameters/0", GONE, "query parameter limit is gone"),
        (f"{POST}/parameters/0/required", True, "query parameter limit is required now"),
        (f"{POST}/parameters/0/schema/maximum", 50, "query parameter limit has maximum 50, which was 100"),
        (f"{POST}/parameters/0/schema/type", "string", "query parameter limit was of type integer, and is of type"),
        (f"{POST}/parameters/0/name", "Limit", "query parameter limit is gone"),
        (f"{POST}/parameters/0/schema/default", 20, "query parameter limit is 20 by default, and was 50"),
        (f"{POST}/parameters/0/schema/default", GONE, "query parameter limit is None by default, and was 50"),
        (f"{POST}/operationId", "make", "its operationId was make_thing, and is make"),
        (f"{POST}/requestBody", GONE, "a body is read no more"),
        (f"{POST}/requestBody/required", True, "a body is required now"),
        (f"{POST}/requestBody/content/application|json", GONE, "application/json is read no more"),
        (f"{SENT}/required", ["name", "kind"], "the body/kind is required now"),
        (f"{SENT}/properties/kind", GONE, "the body/kind is gone"),
        (f"{SENT}/properties/kind/enum", ["a"], "the body/kind takes ['b'] no more"),
        (f"{SENT}/properties/name/enum", ["x"], "the body/name is one of ['x'] now"),
        (f"{SENT}/properties/name/maxLength", 63, "the body/name has maxLength 63, which was 64"),
        (f"{SENT}/properties/name/minLength", 2, "the body/name has minLength 2, which was 1"),
        (f"{SENT}/properties/name/pattern", "^x", "the body/name has pattern ^x, which was none"),
        (f"{SENT}/properties/name/format", "email", "the body/name has format email, which was none"),
        (f"{SENT}/properties/count/minimum", 2, "the body/count has minimum 2, which was 1"),
        (f"{SENT}/properties/count/maximum", 9, "the body/count has maximum 9, which was 10"),
        (f"{SENT}/properties/count/type", "string", "the body/count was of type integer, and is of type string"),
        (f"{SENT}/properties/price", {"type": "string"}, "the body/price was of type null, and is of type string"),
        (f"{SENT}/properties/price/anyOf/0/pattern", "^x", "the body/price has pattern ^x, which was ^[0-9]+$"),
        (f"{SENT}/properties/parts/maxItems", 4, "the body/parts has maxItems 4, which was 5"),
        (f"{SENT}/properties/parts/items", {"type": "string"}, "the body/parts/* was of type object, and is of type"),
        (f"{SENT}/properties/labels/additionalProperties/maxLength", 8, "the body/labels/* has maxLength 8"),
        (f"{SENT}/properties/way/default", "in", "the body/way is in by default, and was out"),
        (f"{SENT}/properties/size/default", 2, "the body/size is 2 by default, and was 1"),
        (
            f"{SENT}/properties/bag/additionalProperties",
            {"type": "string"},
            "the body/bag/* was of type any, and is of",
        ),
        (f"{SENT}/properties/row/items", {"type": "string"}, "the body/row/* was of type any, and is of type string"),
        (f"{SENT}/additionalProperties", False, "the body takes no other members any more"),
        (f"{POST}/responses/200", GONE, "status 200 is declared no more"),
        (f"{POST}/responses/404", GONE, "status 404 is declared no more"),
        (f"{POST}/responses/200/headers", {}, "200: the header ETag may be missing now"),
        (f"{POST}/responses/200/content", {}, "200: application/json is answered no more"),
        (
            f"{POST}/responses/200/headers/ETag/schema/type",
            "integer",
            "200: the header ETag was of type string, and is",
        ),
        (f"{SHOWN}/properties/parts/items", GONE, "200/parts/* was of type object, and is of type any"),
        (
            f"{SHOWN}/properties/labels/additionalProperties",
            GONE,
            "200/labels/* was of type string, and is of type any",
        ),
        (f"{SHOWN}/properties/kind/enum", ["a", "b", None], "200/kind may be [None] now"),
        (f"{SHOWN}/properties/made_at/format", GONE, "200/made_at has format none, which was date-time"),
        (f"{SHOWN}/properties/made_at/pattern", ".", "200/made_at has pattern ., which was Z$"),
        (f"{SHOWN}/required", [], "200/name may be missing now"),
        (f"{SHOWN}/properties/count", GONE, "200/count is gone"),
        (f"{SHOWN}/properties/kind/enum", ["a", "b", "c"], "200/kind may be ['c'] now"),
        (f"{SHOWN}/properties/kind", {"type": "string"}, "200/kind is no longer one of ['a', 'b'] only"),
        (f"{SHOWN}/properties/name/type", ["string", "null"], "200/name was of type string, and is of type null"),
        (f"{SHOWN}/properties/count/type", "number", "200/count was of type integer, and is of type number"),
    ],
)
def test_each_kind_of_break_is_found(path: str, value: Any, fault: str) -> None:
    """One change, one fault; of nested things too, but named once."""
    found = breaks(DOCUMENT, changed((path, value)))
    assert found
    assert all(one.startswith("POST /things: ") for one in found)
    assert found[0].removeprefix("POST /things: ").startswith(fault), found


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/paths/~more", {"get": {"responses": {}}}),
        (f"{POST}/responses/409", {"$ref": "#/components/responses/NotFound"}),
        (f"{POST}/parameters/0/schema/maximum", 200),
        (f"{SENT}/properties/more", {"type": "string"}),
        (f"{SENT}/properties/kind/enum", ["a", "b", "c"]),
        (f"{SENT}/properties/name/maxLength", 65),
        (f"{SENT}/required", []),
        (f"{SENT}/properties/count/type", "number"),
        (f"{SENT}/properties/price/anyOf", [{"type": "null"}, {"type": "string"}, {"type": "integer"}]),
        (f"{SENT}/properties/kind/default", "a"),
        (f"{SENT}/properties/bag/additionalProperties", True),
        (f"{SENT}/properties/labels/additionalProperties", True),
        (f"{SHOWN}/properties/size/default", 2),
        (f"{SHOWN}/properties/bag/additionalProperties", {"type": "string"}),
        (f"{SHOWN}/properties/row/items", {"type": "string"}),
        (f"{SHOWN}/properties/more", {"type": "string"}),
        (f"{SHOWN}/required", ["name", "kind"]),
        (f"{SHOWN}/properties/kind/enum", ["a"]),
        (f"{SHOWN}/properties/name/maxLength", 1_000),
    ],
)
def test_what_is_added_or_made_easier_is_no_break(path: str, value: Any) -> None:
    """A new route, member, status, or word that may be sent; a limit that is wider; a member that is always there."""
    assert breaks(DOCUMENT, changed((path, value))) == []


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        ("/servers", [{"url": "|v2"}], "the servers"),
        ("/components/securitySchemes/ApiKey/scheme", "basic", "the security schemes"),
    ],
)
def test_where_and_as_whom_the_api_is_asked_may_not_change(path: str, value: Any, fault: str) -> None:
    """It is a break of every operation, and told once."""
    assert [one.partition(" were ")[0] for one in breaks(DOCUMENT, changed((path, value)))] == [fault]


def test_a_new_parameter_breaks_only_if_it_is_required() -> None:
    """A client that does not know it sends none."""
    new = {"name": "more", "in": "query", "schema": {"type": "string"}}
    parameters = DOCUMENT["paths"]["/things"]["post"]["parameters"]
    assert breaks(DOCUMENT, changed((f"{POST}/parameters", [*parameters, new]))) == []
    found = breaks(DOCUMENT, changed((f"{POST}/parameters", [*parameters, new | {"required": True}])))
    assert found == ["POST /things: query parameter more is new, and required"]


def schemas(part: Any) -> Iterator[dict[str, Any]]:
    """All that stands under `schema` or `schemas` in a part of a document."""
    if isinstance(part, dict):
        for name, value in part.items():
            if name == "schema":
                yield value
            elif name == "schemas":
                yield from value.values()
            elif name != "example":
                yield from schemas(value)
    elif isinstance(part, list):
        yield from (each for one in part for each in schemas(one))


def words(schema: Any) -> Iterator[str]:
    """The words of JSON Schema in a schema; the names of members are none."""
    if isinstance(schema, list):
        yield from (word for one in schema for word in words(one))
    elif isinstance(schema, dict):
        yield from schema
        for word, value in schema.items():
            if word not in {"default", "examples", "enum", "const", "discriminator"}:
                yield from words([*value.values()] if word == "properties" else value)


def test_the_document_uses_no_word_that_is_not_compared() -> None:
    """A new one, such as allOf, would hide what stands in it."""
    compared = {"$ref", "type", "enum", "const", "default", "properties", "required", "items", "propertyNames"}
    compared |= {"additionalProperties", "anyOf", "oneOf", *UPPER, *LOWER, *EXACT}
    prose = {"title", "description", "examples", "discriminator"}
    assert set(words([*schemas(json.loads(OPENAPI.read_text()))])) - prose <= compared


def test_the_present_document_does_not_break_the_published_one() -> None:
    """Rename nothing, narrow nothing: a new major version may (`make publish-openapi`)."""
    assert breaks(json.loads(PUBLISHED.read_text()), json.loads(OPENAPI.read_text())) == []


def test_a_break_is_published_with_a_new_major_version_only(tmp_path: Path) -> None:
    """Else the published document stays as it is."""
    published, present = tmp_path / "published.json", tmp_path / "present.json"
    present.write_text(json.dumps(DOCUMENT))
    assert publish(published, present) == []
    broken = changed((POST, GONE))
    present.write_text(json.dumps(broken))
    assert publish(published, present) == ["POST /things: is gone"]
    assert json.loads(published.read_text()) == DOCUMENT
    present.write_text(json.dumps(broken | {"info": {"version": "2"}}))
    assert publish(published, present) == []
    assert json.loads(published.read_text())["info"]["version"] == "2"

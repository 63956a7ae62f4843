"""What of a published API would break: `python -m tools.breaking` compares openapi.json with the published one.

`--publish` takes the present document for the published one, which is done with each release. It refuses a document
that breaks the published one, unless the major number of its version is another.

A request must not be refused that was taken before: no operation, media type, parameter or member of a body goes, none
becomes required, no type, enumeration, pattern or limit becomes narrower, no default or scope becomes another. An
answer must not surprise: no status, header or member goes or becomes optional, no type or enumeration becomes wider,
no pattern or format another. Nor change the server, the way to show a key, or an operationId, by which generated
clients name their methods. What is added is no break, which clients must be ready for (docs/limits.md).
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tools import ROOT
from tools.openapi import OPENAPI

__all__ = ["EXACT", "LOWER", "PUBLISHED", "UPPER", "breaks", "publish"]

PUBLISHED: Final = ROOT / "docs/openapi-published.json"

_Document = dict[str, Any]
UPPER: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
LOWER: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
EXACT: Final = ("pattern", "format", "multipleOf", "uniqueItems")


def breaks(published: _Document, present: _Document) -> list[str]:
    """What a client of the published document would stumble over, each as where and what."""
    return list(_Comparison(published, present).all())


class _Comparison:
    """Of two documents; `old` and `new` are parts of the published and the present one."""

    def __init__(self, published: _Document, present: _Document) -> None:
        self._published = published
        self._present = present
        self._under_way: set[tuple[int, int, bool]] = set()

    def all(self) -> Iterator[str]:
        for what, before, now in (
            ("servers", *(one.get("servers") for one in (self._published, self._present))),
            (
                "security schemes",
                *(one["components"].get("securitySchemes") for one in (self._published, self._present)),
            ),
        ):
            if before != now:
                yield f"the {what} were {before}, and are {now}"
        for path, methods in self._published["paths"].items():
            for method, old in methods.items():
                where = f"{method.upper()} {path}"
                new = self._present["paths"].get(path, {}).get(method)
                if new is None:
                    yield f"{where}: is gone"
                else:
                    yield from (f"{where}: {fault}" for fault in self._operation(old, new))

    def _operation(self, old: _Document, new: _Document) -> Iterator[str]:
        if old.get("security", []) != new.get("security", []):
            yield f"the scope was {_scopes(old)}, and is {_scopes(new)}"
        if old.get("operationId") != new.get("operationId"):
            yield f"its operationId was {old.get('operationId')}, and is {new.get('operationId')}"
        yield from self._parameters(old, new)
        yield from self._request(old.get("requestBody"), new.get("requestBody"))
        for status, answer in old["responses"].items():
            if status not in new["responses"]:
                yield f"status {status} is declared no more"
                continue
            yield from self._answer(
                status, _resolved(self._published, answer), _resolved(self._present, new["responses"][status])
            )

    def _parameters(self, old: _Document, new: _Document) -> Iterator[str]:
        before, now = (
            {
                (one["in"], one["name"].lower() if one["in"] == "header" else one["name"]): one
                for one in operation.get("parameters", [])
            }
            for operation in (old, new)
        )
        for (place, name), parameter in before.items():
            where = f"{place} parameter {name}"
            if (place, name) not in now:
                yield f"{where} is gone"
                continue
            other = now[place, name]
            if other.get("required") and not parameter.get("required"):
                yield f"{where} is required now"
            yield from (f"{where}{fault}" for fault in self._default(parameter["schema"], other["schema"]))
            yield from (f"{where}{fault}" for fault in self._narrower(parameter["schema"], other["schema"]))
        for place, name in sorted(now.keys() - before.keys()):
            if now[place, name].get("required"):
                yield f"{place} parameter {name} is new, and required"

    def _request(self, old: _Document | None, new: _Document | None) -> Iterator[str]:
        if old is None:
            if new is not None and new.get("required"):
                yield "a body is required now"
            return
        if new is None:
            yield "a body is read no more"
            return
        if new.get("required") and not old.get("required"):
            yield "a body is required now"
        for media_type, content in old["content"].items():
            if media_type not in new["content"]:
                yield f"{media_type} is read no more"
            else:
                faults = self._narrower(content["schema"], new["content"][media_type]["schema"])
                yield from (f"the body{fault}" for fault in faults)

    def _answer(self, status: str, old: _Document, new: _Document) -> Iterator[str]:
        for name, header in old.get("headers", {}).items():
            other = new.get("headers", {}).get(name)
            if other is None or (header.get("required") and not other.get("required")):
                yield f"{status}: the header {name} may be missing now"
            else:
                faults = self._wider(header["schema"], other["schema"])
                yield from (f"{status}: the header {name}{fault}" for fault in faults)
        for media_type, content in old.get("content", {}).items():
            if media_type not in new.get("content", {}):
                yield f"{status}: {media_type} is answered no more"
            else:
                faults = self._wider(content["schema"], new["content"][media_type]["schema"])
                yield from (f"{status}{fault}" for fault in faults)

    def _default(self, old: _Document, new: _Document) -> Iterator[str]:
        """Whether leaving it out means something else; a default may stand beside a `$ref`."""
        before = old.get("default", _resolved(self._published, old).get("default"))
        now = new.get("default", _resolved(self._present, new).get("default"))
        if before is not None and before != now:
            yield f" is {now} by default, and was {before}"

    def _narrower(self, old: _Document, new: _Document) -> list[str]:
        """Why something that is sent, and fits the old schema, may not fit the new one."""
        return self._compared(self._published, old, self._present, new, is_request=True)

    def _wider(self, old: _Document, new: _Document) -> list[str]:
        """Why something that is answered, and fits the new schema, may not fit the old one."""
        return self._compared(self._present, new, self._published, old, is_request=False)

    def _compared(self, source: _Document, given: Any, target: _Document, taken: Any, *, is_request: bool) -> list[str]:
        """Why what fits the schema `given` of one document may not fit `taken` of the other."""
        given, taken = _resolved(source, given), _resolved(target, taken)
        pair = (id(given), id(taken), is_request)
        if pair in self._under_way or given == taken == {}:
            return []
        self._under_way.add(pair)
        try:
            return list(self._one(source, given, target, taken, is_request=is_request))
        finally:
            self._under_way.discard(pair)

    def _one(
        self, source: _Document, given: _Document, target: _Document, taken: _Document, *, is_request: bool
    ) -> Iterator[str]:
        choices, allowed = _alternatives(source, given), _alternatives(target, taken)
        if len(choices) > 1 or len(allowed) > 1:
            for choice in choices:
                tries = [
                    self._compared(source, choice, target, other, is_request=is_request)
                    for other in sorted(allowed, key=lambda one: _kind(one) != _kind(choice))
                ]
                if all(tries):
                    yield from min(tries, key=len)
            return
        if faults := list(_types(given, taken, is_request=is_request)):
            yield from faults
            return
        yield from _enumerations(given, taken, is_request=is_request)
        if is_request:
            yield from _limits(given, taken)
        yield from _exact(given, taken, is_request=is_request)
        yield from self._members(source, given, target, taken, is_request=is_request)
        extra, other = given.get("additionalProperties", {}), taken.get("additionalProperties", {})
        if is_request and other is False and extra is not False and "properties" in given:
            yield " takes no other members any more"
        parts = [(given.get(word, {}), taken.get(word, {})) for word in ("items", "propertyNames")]
        parts += [(extra, other)] if extra is not False and other is not False else []
        for part, counterpart in parts:
            faults = self._compared(source, part, target, counterpart, is_request=is_request)
            yield from (f"/*{fault}" for fault in faults)

    def _members(
        self, source: _Document, given: _Document, target: _Document, taken: _Document, *, is_request: bool
    ) -> Iterator[str]:
        mine, others = given.get("properties", {}), taken.get("properties", {})
        for name in sorted(set(taken.get("required", [])) - set(given.get("required", []))):
            yield f"/{name} is required now" if is_request else f"/{name} may be missing now"
        for name in sorted(mine.keys() - others.keys() if is_request else others.keys() - mine.keys()):
            yield f"/{name} is gone"
        for name in sorted(mine.keys() & others.keys()):
            faults = self._compared(source, mine[name], target, others[name], is_request=is_request)
            faults += self._default(mine[name], others[name]) if is_request else ()
            yield from (f"/{name}{fault}" for fault in faults)


def _resolved(document: _Document, part: Any) -> Any:
    while isinstance(part, dict) and "$ref" in part:
        found: Any = document
        for step in part["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        part = found
    return {} if part is True else part


def _alternatives(document: _Document, schema: _Document) -> list[_Document]:
    """What a schema leaves the choice of; several types are several alternatives."""
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return [each for one in schema[word] for each in _alternatives(document, _resolved(document, one))]
    if isinstance(schema.get("type"), list):
        return [schema | {"type": one} for one in schema["type"]]
    return [schema]


def _kind(schema: _Document) -> str:
    """What an alternative is told from others by."""
    model = schema.get("properties", {}).get("model", {})
    return f"{schema.get('type')} {model.get('const')} {schema.get('title')}"


def _types(given: _Document, taken: _Document, *, is_request: bool) -> Iterator[str]:
    mine, other = given.get("type"), taken.get("type")
    if other is not None and mine != other and not (mine == "integer" and other == "number"):
        before, now = (mine, other) if is_request else (other, mine)
        yield f" was of type {before or 'any'}, and is of type {now or 'any'}"


def _enumerations(given: _Document, taken: _Document, *, is_request: bool) -> Iterator[str]:
    mine, other = (schema.get("enum", [schema["const"]] if "const" in schema else None) for schema in (given, taken))
    if other is None:
        return
    if mine is None:
        yield f" is one of {other} now" if is_request else f" is no longer one of {other} only"
        return
    is_one_of_several = given.get("type", "null") != "null"  # null is then another alternative
    if lacking := [value for value in mine if value not in other and not (value is None and is_one_of_several)]:
        yield f" takes {lacking} no more" if is_request else f" may be {lacking} now"


def _limits(given: _Document, taken: _Document) -> Iterator[str]:
    for word in UPPER:
        if word in taken and (word not in given or taken[word] < given[word]):
            yield f" has {word} {taken[word]}, which was {given.get(word, 'none')}"
    for word in LOWER:
        if word in taken and taken[word] > given.get(
            word, 0 if word.startswith("min") and word != "minimum" else -1e99
        ):
            yield f" has {word} {taken[word]}, which was {given.get(word, 'none')}"


def _exact(given: _Document, taken: _Document, *, is_request: bool) -> Iterator[str]:
    for word in EXACT:
        if taken.get(word) and taken[word] != given.get(word):
            before, now = (given, taken) if is_request else (taken, given)
            yield f" has {word} {now.get(word, 'none')}, which was {before.get(word, 'none')}"


def _scopes(operation: _Document) -> str:
    return (
        ", ".join(scope for one in operation.get("security", []) for names in one.values() for scope in names) or "none"
    )


def publish(published: Path = PUBLISHED, present: Path = OPENAPI) -> list[str]:
    """Take the present document for the published one; what it breaks, in which case it is not taken."""
    document = json.loads(present.read_text())
    if published.exists():
        before = json.loads(published.read_text())
        if _major(before) == _major(document) and (found := breaks(before, document)):
            return found
    published.write_text(json.dumps(document, indent=1) + "\n")
    return []


def _major(document: _Document) -> str:
    return str(document["info"]["version"]).partition(".")[0]


def main() -> int:
    """Compare, or publish."""
    parser = argparse.ArgumentParser(description="Does openapi.json break the published one?")
    parser.add_argument("--publish", action="store_true", help="take the present document for the published one")
    arguments = parser.parse_args()
    found = (
        publish() if arguments.publish else breaks(json.loads(PUBLISHED.read_text()), json.loads(OPENAPI.read_text()))
    )
    for fault in found:
        print(f"breaks the published API: {fault}", file=sys.stderr)
    if arguments.publish and not found:
        print(
            f"{PUBLISHED.name} is {OPENAPI.name} now; once the release is made, name it in tests/stack/test_upgrade.py"
        )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

"""Requests that no schema would make: broken bodies, odd paths, queries, headers; and what is asked of any answer."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final
from urllib.parse import quote

import jsonschema
from hypothesis import strategies as st

from tests.fuzz.leaks import CANARY, in_answer
from tools.openapi import OPENAPI

__all__ = ["Answer", "Request", "faults_of", "is_of_no_route", "requests"]


@dataclass(frozen=True, slots=True)
class Request:
    """As it goes over the wire; `label` is the operation that it is like."""

    label: str
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """As it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@cache
def _document() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(OPENAPI.read_text())
    return document


_DEPTHS: Final = (31, 32, 33, 100, 5_000)
_NUMBERS: Final = (
    "1" * 5_000,
    "-" + "9" * 4_300,
    "1e400",
    "-1E+999999",
    "0.1e-999999",
    "1" + "0" * 400 + ".5",
    "NaN",
    "Infinity",
    "0x10",
    "01",
    "1.0",
    "100000000000000000000",
    "-0",
)
_ODD_VALUES: Final[tuple[Any, ...]] = (
    None,
    True,
    0,
    -1,
    1.5,
    "",
    " ",
    "\0",
    "a\0b",
    "\u202e",
    "\U0001f600" * 200,
    "x" * 300,
    "y" * 20_000,
    "1e999999",
    "NaN",
    "-0.000",
    "9" * 21,
    "0." + "1" * 19,
    "2026-13-01T00:00:00Z",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59Z",
    "../../etc/passwd",
    "' OR 1=1 --",
    "${jndi:ldap://x}",
    "<script>",
    CANARY,
    [],
    {},
    [[]],
    {"a": {"b": []}},
    [None] * 600,
)
_MEDIA_TYPES: Final = (
    "application/json",
    "application/json; charset=utf-16",
    "APPLICATION/JSON",
    "application/cloudevents+json",
    "application/cloudevents-batch+json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "multipart/form-data",
    "text/plain",
    "application/octet-stream",
    "application/json, text/plain",
    ";",
    "",
)
_HEADERS: Final = (
    ("idempotency-key", "k" * 255),
    ("idempotency-key", "k" * 256),
    ("idempotency-key", " "),
    ("prefer", "respond-async"),
    ("prefer", "respond-async, wait=5"),
    ("prefer", "=" * 500),
    ("if-none-match", "*"),
    ("if-none-match", '"x"'),
    ("ce-specversion", "1.0"),
    ("ce-specversion", "0.3"),
    ("ce-id", "ce-1"),
    ("ce-id", "%00%ff%zz"),
    ("ce-type", "tokens"),
    ("ce-subject", "acme"),
    ("ce-source", "/raw"),
    ("ce-source", "%F0%9F%98%80" * 200),
    ("ce-time", "2026-02-30T00:00:00Z"),
    ("stripe-signature", "t=1,v1=" + "0" * 64),
    ("x-forwarded-for", "127.0.0.1"),
    ("accept", "text/html"),
    ("content-encoding", "gzip"),
)


def requests(world: Mapping[str, Sequence[str]]) -> st.SearchStrategy[Request]:
    """Requests to any operation, most with something odd; `world` is what exists, by the names of path parameters."""
    operations = [(path, method) for path, methods in _document()["paths"].items() for method in methods]
    return st.sampled_from(operations).flatmap(lambda one: _request(*one, world=world))


def _request(path: str, method: str, *, world: Mapping[str, Sequence[str]]) -> st.SearchStrategy[Request]:
    operation = _document()["paths"][path][method]
    contents = operation.get("requestBody", {}).get("content", {})
    examples = [content["example"] for content in contents.values()] or [{}]
    media_types = st.one_of(st.sampled_from([*contents] or ["application/json"]), st.sampled_from(_MEDIA_TYPES))
    # Not OPTIONS, which API Gateway answers by itself.
    other_method = st.sampled_from([method] * 9 + ["get", "put", "post", "delete", "patch"])
    return st.builds(
        lambda verb, target, query, media_type, headers, body: Request(
            f"{verb.upper()} {path}",
            verb.upper(),
            target + query,
            (("content-type", media_type), *headers),
            body,
        ),
        other_method,
        _target(path, world),
        _query(operation),
        media_types,
        st.lists(st.sampled_from(_HEADERS), max_size=6, unique_by=lambda one: one[0]),
        st.sampled_from(examples).flatmap(_body) if method in {"put", "post"} else st.sampled_from([b"", b"{}", b"["]),
    )


def _target(path: str, world: Mapping[str, Sequence[str]]) -> st.SearchStrategy[str]:
    parts = []
    for part in path.strip("/").split("/"):
        if not part.startswith("{"):
            parts.append(st.just(part))
            continue
        known = world.get(part.strip("{}"), ["unknown"])
        odd = st.one_of(st.text(max_size=20), st.sampled_from(["x" * 129, "..", "%", "a/b", "\0", "a\r\nb: c", "é"]))
        parts.append(st.one_of(st.sampled_from(known), st.sampled_from(known), odd.map(_quoted)))
    return st.tuples(*parts).map(lambda filled: "/" + "/".join(filled))


def _quoted(text: str) -> str:
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


def _query(operation: dict[str, Any]) -> st.SearchStrategy[str]:
    names = [one["name"] for one in operation["parameters"] if one["in"] == "query"] + ["x", "limit", "cursor"]
    good = ("acme", "tokens", "10", "day", "hour", "2026-01-01T00:00:00Z", "pending", "e-1", "sub-acme")
    texts = [quote(str(value)[:3_000], safe="") for value in _ODD_VALUES if not isinstance(value, list | dict)]
    values = st.one_of(st.sampled_from(good), st.sampled_from(texts), st.text(max_size=30).map(_quoted))
    pairs = st.lists(st.tuples(st.sampled_from(names), values), max_size=5)
    return pairs.map(lambda chosen: "?" + "&".join(f"{name}={value}" for name, value in chosen) if chosen else "")


def _body(example: Any) -> st.SearchStrategy[bytes]:
    text = json.dumps(example)
    mutated = st.tuples(st.integers(0, 40), st.sampled_from(_ODD_VALUES)).map(lambda one: _mutated(example, *one))
    number = st.tuples(st.integers(0, 40), st.sampled_from(_NUMBERS)).map(
        lambda one: json.dumps(_mutated(example, one[0], "@@")).replace('"@@"', one[1]).encode()
    )
    return st.one_of(
        st.just(text.encode()),
        mutated.map(lambda value: json.dumps(value).encode()),
        mutated.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")),
        number,
        st.integers(0, len(text)).map(lambda end: text[:end].encode()),
        st.sampled_from(_DEPTHS).map(lambda depth: b"[" * depth + b"]" * depth),
        st.sampled_from(_DEPTHS).map(lambda depth: b'{"a":' * depth + b"1" + b"}" * depth),
        st.sampled_from(_DEPTHS).map(lambda depth: _mutated_bytes(example, b"[" * depth + b"]" * depth)),
        st.sampled_from(["\\ud800", "\\udfff\\ud800", "\\u0000", "\\ud83d\\ude00"]).map(
            lambda escape: _mutated_bytes(example, f'"{escape}"'.encode())
        ),
        st.just(_twice(text).encode()),
        st.binary(max_size=60),
        st.binary(max_size=8).map(lambda junk: text.encode()[:-1] + junk),
        st.text(max_size=60).map(lambda words: words.encode("utf-8", "surrogatepass")),
        st.sampled_from([b"", b" ", b"null", b"[]", b"{}", b'""', b"0", b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0"]),
    )


def _mutated_bytes(example: Any, value: bytes) -> bytes:
    return json.dumps(_mutated(example, 1, "@@")).encode().replace(b'"@@"', value)


def _mutated(value: Any, place: int, odd: Any) -> Any:
    """A value with the part of that number, counted in order, replaced; or with a member more."""
    count = 0

    def walk(part: Any) -> Any:
        nonlocal count
        count += 1
        if count - 1 == place:
            return odd
        if isinstance(part, dict):
            return {name: walk(each) for name, each in part.items()}
        return [walk(each) for each in part] if isinstance(part, list) else part

    changed = walk(value)
    return {**changed, "more": odd} if place >= count and isinstance(changed, dict) else changed


def _twice(text: str) -> str:
    """The first member of an object, twice."""
    value = json.loads(text)
    if not isinstance(value, dict) or not value:
        return '{"a": 1, "a": 2}'
    name = next(iter(value))
    return f'{{"{name}": 1, {text[1:]}'


def faults_of(request: Request, answer: Answer, secrets: Iterable[str]) -> list[str]:
    """What is wrong with an answer, whatever was asked."""
    text = answer.body.decode(errors="replace")
    path = request.target.partition("?")[0]
    faults = [f"shows {found}" for found in in_answer(request.method, path, text + str(dict(answer.headers)), secrets)]
    if answer.status >= 500:
        return [*faults, f"{answer.status}: {text[:500]}"]
    media_type = answer.headers.get("content-type", "").partition(";")[0]
    operation = _document()["paths"].get(request.label.partition(" ")[2], {}).get(request.method.lower())
    declared: dict[str, Any] = {}
    if operation is not None and not is_of_no_route(answer.status, text):  # else another path may take it
        needless = {400, 413, 415} if request.body and "requestBody" not in operation else set()  # nobody reads it
        if str(answer.status) not in operation["responses"] and answer.status not in needless:
            return [*faults, f"{answer.status} is not declared"]
        declared = operation["responses"].get(str(answer.status), {})
    if answer.status >= 400 and not path.startswith("/ofrep/"):
        if media_type != "application/problem+json":
            return [*faults, f"{answer.status} as {media_type}"]
        return [*faults, *_misfits(_document()["components"]["schemas"]["Problem"], json.loads(text))]
    contents = declared.get("content", {})
    if contents and media_type not in contents:
        return [*faults, f"{answer.status} as {media_type}"]
    if contents and media_type.endswith("json"):
        faults += _misfits(contents[media_type]["schema"], json.loads(text))
    return faults


def is_of_no_route(status: int, text: str) -> bool:
    """Whether an answer comes before a route is reached: there is no such path, or method of it."""
    return status == 405 or (status == 404 and "There is no /" in text)


def _misfits(schema: dict[str, Any], value: Any) -> list[str]:
    whole = schema | {"components": _document()["components"]}
    return [str(error.message)[:500] for error in jsonschema.Draft202012Validator(whole).iter_errors(value)]

"""What an error record keeps of its surroundings: no secrets, and never too much."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

__all__ = ["REDACTED", "describe", "exception_of", "plain", "redact"]

REDACTED: Final = "[redacted]"
MAX_DEPTH: Final = 6
MAX_MEMBERS: Final = 50
MAX_VALUES: Final = 500
MAX_TEXT: Final = 1_000
MAX_CONTEXT: Final = 8_000
"""Characters of the context as JSON; an item holds 400 KB and is written whole at each try."""

_NAMES: Final = (
    r"authorization|api[-_ ]?key|private[-_ ]?key|secret|token|passw|passphrase|cookie|credential"
    r"|(?<!dis)card|cvc|cvv|iban"
)
_SECRET_KEY: Final = re.compile(_NAMES, re.IGNORECASE)
_SECRET_TEXT: Final = (
    # A name and its value, as in query strings, headers and JSON within a text.
    (
        re.compile(
            rf"((?:{_NAMES})\w{{0,30}}[\"']?\s{{0,3}}[:=]\s{{0,3}}[\"']?)(?:(?:Bearer|Basic)\s+)?[^\s\"',;&}}]+",
            re.IGNORECASE,
        ),
        rf"\1{REDACTED}",
    ),
    (re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]+", re.IGNORECASE), rf"\1 {REDACTED}"),
    (re.compile(r"\b[rs]k_(live|test)_\w+"), REDACTED),
    # A card's number, with or without its spaces.
    (re.compile(r"\b[3-6](?:[ -]?\d){13,18}\b"), REDACTED),
)


def redact(context: Mapping[str, Any]) -> dict[str, Any]:
    """The context as JSON values: the values of secret keys replaced, long texts and the whole bounded."""
    kept: dict[str, Any] = _redacted(context, MAX_DEPTH, iter(range(MAX_VALUES)))
    text = json.dumps(kept)
    return kept if len(text) <= MAX_CONTEXT else {"truncated": text[:MAX_CONTEXT]}


def describe(error: BaseException | str) -> str:
    """An error as a short text without secrets: its class and message, never its traceback."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}".removesuffix(": ")
    return _text(text)


def exception_of(error: BaseException | str) -> dict[str, Any]:
    """The class and message of an error, for a record's context; nothing of one that is only a text."""
    if isinstance(error, str):
        return {}
    return {"exception": {"class": f"{type(error).__module__}.{type(error).__qualname__}", "message": str(error)}}


def plain(value: Any) -> Any:
    """A value as JSON has it; what JSON does not have (a Decimal, a datetime) becomes its text."""
    if isinstance(value, Mapping):
        return {str(key): plain(child) for key, child in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(child) for child in value]
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _redacted(value: Any, depth: int, budget: Iterator[int]) -> Any:
    if next(budget, None) is None:
        return "[cut]"
    if isinstance(value, (Mapping, list, tuple, set, frozenset)) and depth == 0:
        return "[nested deeper]"
    if isinstance(value, Mapping):
        members = [(str(key)[:MAX_TEXT], child) for key, child in list(value.items())[:MAX_MEMBERS]]
        return {
            key: REDACTED if _SECRET_KEY.search(key) else _redacted(child, depth - 1, budget) for key, child in members
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_redacted(child, depth - 1, budget) for child in list(value)[:MAX_MEMBERS]]
    return value if value is None or isinstance(value, (bool, int)) else _text(str(value))


def _text(text: str) -> str:
    # Cut first: the patterns then never run over megabytes. What is cut in half is still matched.
    text = text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "..."
    for pattern, replacement in _SECRET_TEXT:
        text = pattern.sub(replacement, text)
    return text.encode(errors="replace").decode()  # half a surrogate pair cannot be stored

"""Strict JSON: what two parsers could read differently is refused."""

import json
from typing import Any, Final

from tollgate.kernel.errors import BadRequest

__all__ = ["MAX_DEPTH", "read_json"]

MAX_DEPTH: Final = 32


def read_json(text: str) -> Any:
    """Parse JSON that has no duplicate keys, no NaN or Infinity, and is nested at most 32 deep.

    Raises:
        BadRequest: it is not such JSON; says where.
    """
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except json.JSONDecodeError as error:
        raise BadRequest(f"malformed JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (RecursionError, ValueError) as error:
        # ValueError: an integer of more than 4,300 digits, which Python refuses to read.
        raise BadRequest(f"unacceptable JSON: {error}") from None
    if _deeper_than(value, MAX_DEPTH):
        raise BadRequest(f"JSON nested more than {MAX_DEPTH} deep")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadRequest(f"malformed JSON: the key {twice[:64]!r} stands twice in one object")
    return members


def _constant(name: str) -> None:
    raise BadRequest(f"malformed JSON: {name} is not a JSON value")


def _deeper_than(value: Any, limit: int) -> bool:
    level: list[Any] = [value]
    for _ in range(limit):
        level = [
            child
            for parent in level
            if isinstance(parent, (dict, list))
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not level:
            return False
    return any(isinstance(child, (dict, list)) for child in level)

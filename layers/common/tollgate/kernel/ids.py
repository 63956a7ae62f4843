"""Codes and ids: what clients may choose and what we make."""

import hashlib
import re
import uuid
from typing import Any, Final, TypeGuard

__all__ = ["ID_PATTERN", "ID_SCHEMA", "MAX_CURSOR", "MAX_KEY", "derived_id", "is_id", "new_id"]

ID_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"
ID_SCHEMA: Final[dict[str, Any]] = {"type": "string", "pattern": ID_PATTERN}
"""One in openapi.json."""
MAX_CURSOR: Final = 1_024
"""Characters of a cursor."""
MAX_KEY: Final = 255
"""Characters of an Idempotency-Key."""
_ID: Final = re.compile(ID_PATTERN.replace("$", r"\Z"))


def is_id(value: object) -> TypeGuard[str]:
    """Whether a value may be a code or an id."""
    return isinstance(value, str) and _ID.match(value) is not None


def new_id(prefix: str) -> str:
    """A fresh opaque id, such as sub_9f86d081884c7d659a2feaa0c55ad015."""
    return f"{prefix}_{uuid.uuid4().hex}"


def derived_id(prefix: str, key: str) -> str:
    """The id that an Idempotency-Key always leads to, so that a repeated request finds its first answer."""
    return f"{prefix}_{hashlib.sha256(key.encode()).hexdigest()[:32]}"

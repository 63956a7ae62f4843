"""Codes and ids: what clients may choose and what we make."""

import hashlib
import re
import uuid
from typing import Final, TypeGuard

__all__ = ["ID_PATTERN", "derived_id", "is_id", "new_id"]

ID_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"
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

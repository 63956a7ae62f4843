"""API keys: made once, shown once, kept as hashes.

A key is `tg_<key id>_<secret>`: the id finds the record, the secret is compared in constant time with
the SHA-256 the record keeps. A secret of 256 random bits needs no slow hash.
"""

import hashlib
import hmac
import secrets
from dataclasses import field
from datetime import datetime, timedelta
from typing import Final, Literal, Protocol, get_args

from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import Conflict, FieldError, InvalidInput
from tollgate.kernel.ids import derived_id
from tollgate.kernel.time import Clock

__all__ = ["CACHE_SECONDS", "SCOPES", "ApiKey", "KeyRing", "KeyStore", "Scope", "create_key"]

Scope = Literal[
    "events:write",
    "entitlements:read",
    "entitlements:write",
    "usage:read",
    "catalog:read",
    "catalog:write",
    "billing:read",
    "billing:write",
    "errors:read",
    "errors:write",
    "admin",
]
"""What a key may do; admin is everything."""

SCOPES: Final[tuple[str, ...]] = get_args(Scope)
CACHE_SECONDS: Final = 5
"""How long a warm authorizer trusts what it read: the longest that a deleted key goes on working."""

_MAX_CACHED: Final = 1_000
_NO_KEY: Final = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret."""

    id: str
    name: str
    scopes: tuple[str, ...]
    secret_hash: str = field(repr=False)
    created_at: datetime


class KeyStore(Protocol):
    """What keys need of a store."""

    def key(self, key_id: str) -> ApiKey | None:
        """The key, if there is one."""

    def add_key(self, key: ApiKey) -> bool:
        """Write a new key, if its id is free."""


def create_key(
    store: KeyStore, *, name: str, scopes: tuple[str, ...], clock: Clock, idempotency_key: str | None = None
) -> tuple[ApiKey, str | None]:
    """Make a key: the record, and the secret, which nobody can read again.

    A repeated request (same idempotency key) finds the key of the first, whose secret is gone: None.

    Raises:
        InvalidInput: an unknown scope, or none.
        Conflict: the idempotency key belongs to another request.
    """
    faults = [
        FieldError(f"/scopes/{index}", f"unknown scope; the scopes are {', '.join(SCOPES)}")
        for index, scope in enumerate(scopes)
        if scope not in SCOPES
    ]
    if faults or not scopes:
        raise InvalidInput(faults or [FieldError("/scopes", "must name at least one scope")])
    key_id = secrets.token_hex(8)
    if idempotency_key:
        key_id = derived_id("", idempotency_key).strip("_")
    secret = secrets.token_hex(32)
    key = ApiKey(key_id, name, tuple(dict.fromkeys(scopes)), _hash(secret), clock())
    if store.add_key(key):
        return key, f"tg_{key_id}_{secret}"
    existing = store.key(key_id)
    if existing is None or (existing.name, existing.scopes) != (key.name, key.scopes):
        raise Conflict("This Idempotency-Key was used for another request.")
    return existing, None


class KeyRing:
    """Finds the key a request carries; remembers what it found for `CACHE_SECONDS`."""

    def __init__(self, store: KeyStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._known: dict[str, tuple[datetime, ApiKey | None]] = {}

    def find(self, authorization: str | None) -> ApiKey | None:
        """The key of an Authorization header, or None; an unknown id takes the path of a wrong secret."""
        scheme, _, token = (authorization or "").partition(" ")
        parts = token.strip().split("_")
        if scheme.lower() != "bearer" or len(parts) != 3 or parts[0] != "tg":  # noqa: PLR2004  tg, id, secret
            return None
        key = self._read(parts[1])
        kept = key.secret_hash if key else _NO_KEY
        return key if hmac.compare_digest(_hash(parts[2]), kept) else None

    def _read(self, key_id: str) -> ApiKey | None:
        if not (key_id.isascii() and key_id.isalnum()):
            return None
        now = self._clock()
        read_at, key = self._known.get(key_id, (None, None))
        if read_at is None or now - read_at > timedelta(seconds=CACHE_SECONDS):
            key = self._store.key(key_id)
            if len(self._known) >= _MAX_CACHED:
                self._known.clear()
            self._known[key_id] = (now, key)
        return key


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()

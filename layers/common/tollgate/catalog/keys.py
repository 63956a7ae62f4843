"""API keys: made once, shown once, kept as hashes.

A key is `tg_<key id>_<secret><checksum>`: the id finds the record, the secret is compared in constant time with the
SHA-256 the record keeps. A secret of 256 random bits needs no slow hash. The checksum, the CRC-32 of all before it in
six digits of base 62 as in GitHub's tokens, tells a key from noise with nothing read. Keys made before there were
checksums have a secret of 64 hexadecimal digits and go on working.
"""

import hashlib
import re
import secrets
import string
from dataclasses import field, replace
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple, Protocol, get_args
from zlib import crc32

from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import Conflict, FieldError, InvalidInput, NotFound
from tollgate.kernel.ids import derived_id
from tollgate.kernel.time import Clock

__all__ = [
    "CACHE_SECONDS",
    "DEFAULT_OVERLAP_SECONDS",
    "KEY_PATTERN",
    "MAX_KEY_WINDOW_SECONDS",
    "MAX_LIFETIME",
    "MAX_OVERLAP_SECONDS",
    "MAX_RATE",
    "SCOPES",
    "ApiKey",
    "KeyLimit",
    "KeyStore",
    "Scope",
    "Token",
    "create_key",
    "hash_of",
    "read_token",
    "rotate_key",
]

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
"""How long a warm authorizer trusts what it read: the longest that a deleted key or an ended secret goes on working."""

KEY_PATTERN: Final = r"\btg_[0-9a-f]{16}(?:[0-9a-f]{16})?_(?:[0-9A-Za-z]{49}|[0-9a-f]{64})\b"
"""What a secret scanner looks for: the present form, or the one without a checksum."""

MAX_LIFETIME: Final = timedelta(days=3653)
DEFAULT_OVERLAP_SECONDS: Final = 86_400
MAX_OVERLAP_SECONDS: Final = 30 * 86_400
MAX_RATE: Final = 1_000_000_000
MAX_KEY_WINDOW_SECONDS: Final = 86_400

_DIGITS: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET_DIGITS: Final = 43
"""In base 62: a little more than 256 bits."""
_CHECKSUM_DIGITS: Final = 6
_ID: Final = r"(?P<id>[0-9a-f]{16}(?:[0-9a-f]{16})?)"
_TOKEN: Final = re.compile(rf"tg_{_ID}_(?P<secret>[0-9A-Za-z]{{49}}|[0-9a-f]{{64}})\Z")
_WITH_CHECKSUM: Final = _SECRET_DIGITS + _CHECKSUM_DIGITS
_MAX_ROTATIONS: Final = 10


@dataclass(frozen=True, slots=True)
class KeyLimit:
    """At most `limit` requests in each window of `window_seconds`; the windows are counted from 1970."""

    limit: int
    window_seconds: int


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secrets.

    `previous_hash` is of the secret before the last rotation, which is good until `previous_until`. `last_used_at` is
    written at most once an hour. `rotations` are the last requests that rotated the key, so that they can be repeated.
    """

    id: str
    name: str
    scopes: tuple[str, ...]
    secret_hash: str = field(repr=False)
    created_at: datetime
    expires_at: datetime | None = None
    rate_limit: KeyLimit | None = None
    last_used_at: datetime | None = None
    previous_hash: str | None = field(default=None, repr=False)
    previous_until: datetime | None = None
    rotations: tuple[str, ...] = field(default=(), repr=False)

    @property
    def prefix(self) -> str:
        """How its secrets begin; it opens nothing."""
        return f"tg_{self.id}"


class KeyStore(Protocol):
    """What making and rotating keys needs of a store."""

    def key(self, key_id: str) -> ApiKey | None:
        """The key, if there is one."""

    def add_key(self, key: ApiKey) -> bool:
        """Write a new key, if its id is free."""

    def rotate_key(self, before: ApiKey, after: ApiKey) -> bool:
        """Write the secrets and rotations of a key, if its secret is still the one before."""


class Token(NamedTuple):
    """A key as a request carries it: the id, and the secret with its checksum."""

    key_id: str
    secret: str


def read_token(token: str) -> Token | None:
    """The parts of a key; None for what cannot be one, by its form or its checksum."""
    match = _TOKEN.match(token)
    if match is None:
        return None
    if len(match["secret"]) == _WITH_CHECKSUM and token[-_CHECKSUM_DIGITS:] != _checksum(token[:-_CHECKSUM_DIGITS]):
        return None
    return Token(match["id"], match["secret"])


def hash_of(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def create_key(
    store: KeyStore,
    *,
    name: str,
    scopes: tuple[str, ...],
    clock: Clock,
    expires_at: datetime | None = None,
    rate_limit: KeyLimit | None = None,
    idempotency_key: str | None = None,
) -> tuple[ApiKey, str | None]:
    """Make a key: the record, and the secret, which nobody can read again.

    A repeated request (same idempotency key) finds the key of the first, whose secret is gone: None.

    Raises:
        InvalidInput: an unknown scope, or none; an end that is past or more than ten years ahead; a limit out of range.
        Conflict: the idempotency key belongs to another request.
    """
    key_id = derived_id("", idempotency_key).strip("_") if idempotency_key else secrets.token_hex(8)
    existing = store.key(key_id) if idempotency_key else None
    now = clock()
    if existing is None:
        _check(scopes, expires_at, rate_limit, now)
        secret = _new_secret(key_id)
        key = ApiKey(key_id, name, tuple(dict.fromkeys(scopes)), hash_of(secret), now, expires_at, rate_limit)
        if store.add_key(key):
            return key, f"{key.prefix}_{secret}"
        existing = store.key(key_id)
    asked = (name, tuple(dict.fromkeys(scopes)), expires_at, rate_limit)
    if existing is None or (existing.name, existing.scopes, existing.expires_at, existing.rate_limit) != asked:
        raise Conflict("This Idempotency-Key was used for another request.")
    return existing, None


def rotate_key(
    store: KeyStore,
    key_id: str,
    *,
    clock: Clock,
    overlap_seconds: int = DEFAULT_OVERLAP_SECONDS,
    idempotency_key: str | None = None,
) -> tuple[ApiKey, str | None]:
    """Give a key another secret, which nobody can read again; the one before is good for `overlap_seconds` more.

    At most two are good at once: where the one before that still is, it ends now. Of two rotations at the same time one
    is refused. A repeated request (the idempotency key of one of the last ten) changes nothing, and its secret is gone:
    None.

    Raises:
        NotFound: there is no such key.
        Conflict: the key has expired, another rotation was first, or the idempotency key belongs to another request.
        InvalidInput: the overlap is negative or longer than 30 days.
    """
    if not 0 <= overlap_seconds <= MAX_OVERLAP_SECONDS:
        raise InvalidInput([FieldError("/overlap_seconds", f"must be from 0 to {MAX_OVERLAP_SECONDS}")])
    before = store.key(key_id)
    if before is None:
        raise NotFound(f"There is no API key {key_id}.")
    request = f"{derived_id('', idempotency_key)}:{overlap_seconds}" if idempotency_key else ""
    for earlier in before.rotations if request else ():
        if earlier == request:
            return before, None
        if earlier.partition(":")[0] == request.partition(":")[0]:
            raise Conflict("This Idempotency-Key was used for another request.")
    now = clock()
    if before.expires_at is not None and before.expires_at <= now:
        raise Conflict("The key has expired; make another.")
    secret = _new_secret(key_id)
    rotations = (*before.rotations, request)[-_MAX_ROTATIONS:] if request else before.rotations
    after = replace(
        before,
        secret_hash=hash_of(secret),
        previous_hash=before.secret_hash if overlap_seconds else None,
        previous_until=now + timedelta(seconds=overlap_seconds) if overlap_seconds else None,
        rotations=rotations,
    )
    if not store.rotate_key(before, after) and not _is_there(store, after):
        raise Conflict("The key was rotated or deleted at the same time; read it, and rotate it again if need be.")
    return after, f"{after.prefix}_{secret}"


def _check(scopes: tuple[str, ...], expires_at: datetime | None, rate_limit: KeyLimit | None, now: datetime) -> None:
    faults = [
        FieldError(f"/scopes/{index}", f"unknown scope; the scopes are {', '.join(SCOPES)}")
        for index, scope in enumerate(scopes)
        if scope not in SCOPES
    ]
    if not scopes:
        faults.append(FieldError("/scopes", "must name at least one scope"))
    if expires_at is not None and not now < expires_at <= now + MAX_LIFETIME:
        faults.append(FieldError("/expires_at", f"must be in the future, and at most {MAX_LIFETIME.days} days ahead"))
    if rate_limit is not None and not 1 <= rate_limit.limit <= MAX_RATE:
        faults.append(FieldError("/rate_limit/limit", f"must be from 1 to {MAX_RATE}"))
    if rate_limit is not None and not 1 <= rate_limit.window_seconds <= MAX_KEY_WINDOW_SECONDS:
        faults.append(FieldError("/rate_limit/window_seconds", f"must be from 1 to {MAX_KEY_WINDOW_SECONDS}"))
    if faults:
        raise InvalidInput(faults)


def _is_there(store: KeyStore, key: ApiKey) -> bool:
    """Whether a key has this secret: a write that is sent again, its answer lost, finds itself and is refused."""
    kept = store.key(key.id)
    return kept is not None and kept.secret_hash == key.secret_hash


def _new_secret(key_id: str) -> str:
    secret = "".join(secrets.choice(_DIGITS) for _ in range(_SECRET_DIGITS))
    return secret + _checksum(f"tg_{key_id}_{secret}")


def _checksum(text: str) -> str:
    rest, digits = crc32(text.encode()), ""
    for _ in range(_CHECKSUM_DIGITS):
        rest, digit = divmod(rest, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits

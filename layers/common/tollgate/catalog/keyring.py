"""Whose key is it, and may it ask again so soon? What the authorizer does with each request.

A known and an unknown id take one path: the same reads, one hash, two comparisons in constant time; what is kept of a
key is looked at when its secret is right. What was found is remembered by id and secret together, so that neither a
guess at a key that is in use nor one at nothing is answered from memory the first time, and both are the second time.
"""

import hashlib
import hmac
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from math import ceil
from typing import Final, NamedTuple, Protocol

from aws_lambda_powertools.logging import Logger

from tollgate.catalog.keys import CACHE_SECONDS, ApiKey, hash_of, read_token
from tollgate.kernel.time import Clock

__all__ = ["USED_RESOLUTION", "Held", "KeyLimits", "KeyReader", "KeyRing", "KeyWindows", "bearer"]

USED_RESOLUTION: Final = timedelta(hours=1)
"""How old `last_used_at` may be while a key is in use."""

_MAX_KNOWN: Final = 1_000
_PATIENCE_SECONDS: Final = 0.5
_NO_SECRET: Final = hashlib.sha256(b"").hexdigest()
"""Stands for the hash of what is not there; no secret that `read_token` reads has it."""

logger = Logger(child=True)


class Held(NamedTuple):
    """What there is for an id: the hashes that a secret may have, and the key, which is read for those who have one."""

    secret_hash: str
    previous_hash: str | None
    key: Callable[[], ApiKey]


class KeyReader(Protocol):
    """What finding keys needs of a store."""

    def held(self, key_id: str) -> Held | None:
        """What there is for an id, if there is anything."""

    def mark_used(self, key_id: str, *, at: datetime, unless_after: datetime) -> None:
        """Write when a key was used, unless it says so of an instant after `unless_after`, or is gone."""


class KeyWindows(Protocol):
    """What the rate limits of keys need of a store; each is one conditional write."""

    def open_window(self, key_id: str, window: int) -> bool:
        """Begin a key's window with one request counted; False where it has begun, or a later one has."""

    def count_in_window(self, key_id: str, window: int, limit: int) -> bool:
        """Count a request in a key's window, or in a later one that has begun; False where it is full."""


class _Found(NamedTuple):
    """What was read for an id and secret: the key, and when the secret ends, or no key."""

    read_at: datetime
    key: ApiKey | None
    until: datetime | None


class KeyRing:
    """Finds the key a request carries; remembers what it found for `CACHE_SECONDS`."""

    def __init__(self, store: KeyReader, clock: Clock, *, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        self._store = store
        self._clock = clock
        self._patience = patience_seconds
        self._known: dict[tuple[str, str], _Found] = {}

    def find(self, authorization: str | None) -> ApiKey | None:
        """The key of an Authorization header, or None: no key, an unknown id, a wrong secret, or one that has ended.

        Raises:
            Unavailable: the key cannot be read now.
        """
        token = read_token(bearer(authorization))
        if token is None:
            return None
        now = self._clock()
        place = token.key_id, hash_of(token.secret)
        found = self._known.get(place)
        if found is None or now - found.read_at > timedelta(seconds=CACHE_SECONDS):
            found = self._read(*place, now)
            if len(self._known) >= _MAX_KNOWN:  # those who are nobody's go first: made-up keys cost owners no reads
                owned = {place: one for place, one in self._known.items() if one.key is not None}
                self._known = owned if len(owned) < _MAX_KNOWN else {}
            self._known[place] = found
        if found.until is not None and found.until <= now:
            return None
        return found.key

    def _read(self, key_id: str, secret_hash: str, now: datetime) -> _Found:
        held = self._store.held(key_id)
        is_present = hmac.compare_digest(secret_hash, held.secret_hash if held else _NO_SECRET)
        is_previous = hmac.compare_digest(secret_hash, (held and held.previous_hash) or _NO_SECRET)
        if held is None or not (is_present or is_previous):
            return _Found(now, None, None)
        record = held.key()
        ends = [end for end in (record.expires_at, None if is_present else record.previous_until) if end is not None]
        found = _Found(now, record, min(ends, default=None))
        if found.until is None or now < found.until:
            self._mark_used(record, now)
        return found

    def _mark_used(self, key: ApiKey, now: datetime) -> None:
        """Have it written down that the key is used, and wait no longer than our patience: nothing hangs on it."""
        if key.last_used_at is not None and now - key.last_used_at < USED_RESOLUTION:
            return

        def mark() -> None:
            try:
                self._store.mark_used(key.id, at=now, unless_after=now - USED_RESOLUTION)
            except Exception:
                logger.exception("when a key was used could not be written")

        _wait(mark, self._patience)


class KeyLimits:
    """Holds the rate limits of keys, for all authorizers together: none lets more through than the store counts.

    A request of a key with a limit costs one conditional write, the first one that an authorizer sees in a window one
    more, and one that is refused while the authorizer knows the window to be full none.
    """

    def __init__(self, store: KeyWindows, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._begun: dict[str, int] = {}
        self._full: dict[str, int] = {}

    def wait(self, key: ApiKey) -> int:
        """The seconds until the key may ask again; 0 when this request is counted, or the key has no limit.

        Raises:
            Unavailable: the count cannot be kept now.
        """
        if key.rate_limit is None:
            return 0
        seconds = self._clock().timestamp()
        width = key.rate_limit.window_seconds
        window = int(seconds // width)
        if self._full.get(key.id, -1) < window:
            if self._counts(key.id, window, key.rate_limit.limit):
                return 0
            _remember(self._full, key.id, window)
        return max(ceil((window + 1) * width - seconds), 1)

    def _counts(self, key_id: str, window: int, limit: int) -> bool:
        if self._begun.get(key_id, -1) < window:
            is_first = self._store.open_window(key_id, window)
            _remember(self._begun, key_id, window)
            if is_first:
                return True
        return self._store.count_in_window(key_id, window, limit)


def bearer(authorization: str | None) -> str:
    """The token of an Authorization header with the scheme Bearer (in any case, RFC 9110), or ""."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _remember(windows: dict[str, int], key_id: str, window: int) -> None:
    if len(windows) >= _MAX_KNOWN:
        windows.clear()
    windows[key_id] = window


def _wait(work: Callable[[], None], seconds: float) -> None:
    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(seconds)

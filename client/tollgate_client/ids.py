"""Ids that carry their time: UUIDs of version 7."""

import secrets
import threading
import time
import uuid
from collections.abc import Callable
from typing import Final

__all__ = ["Uuid7", "new_id"]

_SET_BACK_MS: Final = 10_000
_MOST: Final = 0xFFF


class Uuid7:
    """Makes UUIDs of version 7 (RFC 9562, 5.7), each greater than the one before.

    Those of one millisecond count up from a random number (6.2, method 1). A clock that goes back by less than
    10 seconds is waited for; one that goes back further was set right, and is believed: Tollgate refuses ids that lie
    more than 5 minutes ahead.

    Args:
        clock: nanoseconds since 1970.
        random_bits: so many random bits.
    """

    def __init__(
        self, clock: Callable[[], int] = time.time_ns, random_bits: Callable[[int], int] = secrets.randbits
    ) -> None:
        self._clock = clock
        self._random_bits = random_bits
        self._lock = threading.Lock()
        self._last = self._count = 0

    def __call__(self) -> str:
        """The next id, in canonical form."""
        with self._lock:
            now = self._clock() // 1_000_000
            if now > self._last or now < self._last - _SET_BACK_MS:
                self._last, self._count = now, self._random_bits(11)
            elif self._count < _MOST:
                self._count += 1
            else:
                self._last, self._count = self._last + 1, self._random_bits(11)
            head = (self._last << 16 | 0x7000 | self._count) << 64
        return str(uuid.UUID(int=head | 0b10 << 62 | self._random_bits(62)))


new_id: Final = Uuid7()
"""The ids of this process."""

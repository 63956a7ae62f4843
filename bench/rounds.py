"""How often a request waits for the database: calls that are under way together are one round."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from tools.engine import Call, Engine

__all__ = ["rounds_of"]

_QUIET_SECONDS: Final = 0.04


def rounds_of(engine: Engine, work: Callable[[], None]) -> int:
    """The sequential rounds of calls that the work takes.

    Each call is held until no other one has come for 40 ms and none is being answered; then all that are held go
    on, as one round. So all calls of a round were under way together, and the rounds are at most too many.
    """
    gate = _Gate()
    with gate.open(), engine.hooked(gate.enter, gate.leave):
        work()
    return gate.rounds


class _Gate:
    def __init__(self) -> None:
        self.rounds = 0
        self._changed = threading.Condition()
        self._held = 0
        self._running = 0
        self._last = time.monotonic()
        self._closing = False

    @contextmanager
    def open(self) -> Iterator[None]:
        """Let calls through in rounds while the context lasts."""
        keeper = threading.Thread(target=self._keep, daemon=True)
        keeper.start()
        try:
            yield
        finally:
            self._closing = True
            keeper.join()

    def enter(self, _: Call) -> None:
        with self._changed:
            mine = self.rounds
            self._held += 1
            self._last = time.monotonic()
            self._changed.wait_for(lambda: self.rounds > mine)

    def leave(self, _: Call) -> None:
        with self._changed:
            self._running -= 1
            self._last = time.monotonic()

    def _keep(self) -> None:
        while not self._closing:
            with self._changed:
                quiet = time.monotonic() - self._last > _QUIET_SECONDS
                if self._held and not self._running and quiet:
                    self.rounds += 1
                    self._running, self._held = self._held, 0
                    self._changed.notify_all()
            time.sleep(_QUIET_SECONDS / 8)

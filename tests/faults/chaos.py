"""Faults between the product and the database, by dice that a seed loads.

    request lost     nothing was written, no answer comes
    answer lost      it was written, no answer comes (or a 500)
    throttled        nothing was written; in a batch, a part of it
    conflict         another transaction is at work on the item: nothing was written
    killed           the process ends, before or after the write

botocore's own retries stay as the product sets them; they and the product's pauses take time of the `Clock` only.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from botocore.exceptions import ConnectionClosedError, ConnectTimeoutError, EndpointConnectionError, ReadTimeoutError

from tools.engine import Call, Refused

__all__ = ["CALM", "Chaos", "Clock", "KillAt", "Killed", "Weather"]

_CALL_SECONDS: Final = 0.01
_TIMEOUT_SECONDS: Final = 3.0
_URL: Final = "https://dynamodb.test"
_SINGLE_WRITES: Final = frozenset({"PutItem", "UpdateItem", "DeleteItem"})
_BATCHES: Final = {"BatchGetItem": "UnprocessedKeys", "BatchWriteItem": "UnprocessedItems"}


class Killed(BaseException):
    """The process ended here: nothing of the product's may catch it."""


class Clock:
    """Seconds that pass when somebody says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def pass_by(self, seconds: float) -> None:
        """Let time pass."""
        self.seconds += seconds

    def time_left(self, seconds: float) -> Callable[[], float]:
        """The seconds left of so many from now on."""
        end = self.seconds + seconds
        return lambda: end - self.seconds


@dataclass(frozen=True, slots=True)
class Weather:
    """The share of calls that each fault strikes."""

    lost_requests: float = 0.0
    lost_answers: float = 0.0
    throttles: float = 0.0
    conflicts: float = 0.0
    parts: float = 0.0
    kills: float = 0.0


CALM: Final = Weather()


class Chaos:
    """Hooks that strike calls; the weather changes every few calls."""

    def __init__(self, dice: Random, clock: Clock, weathers: Sequence[Weather]) -> None:
        self.struck = 0
        self._dice = dice
        self._clock = clock
        self._weathers = weathers
        self._weather = weathers[0]
        self._until = 0
        self._parts: dict[int, Any] = {}
        self._lock = threading.Lock()

    def before(self, call: Call) -> None:
        """Strike before anything is written."""
        with self._lock:
            self._clock.pass_by(_CALL_SECONDS)
            if call.number >= self._until:
                self._weather = self._dice.choice(self._weathers)
                self._until = call.number + self._dice.randint(5, 40)
            weather = self._weather
            if self._strikes(weather.kills):
                raise Killed
            if self._strikes(weather.lost_requests):
                self._lose(ConnectTimeoutError, EndpointConnectionError, ReadTimeoutError)
            if self._strikes(weather.throttles):
                raise _throttled(call, self._dice)
            if _is_write(call) and self._strikes(weather.conflicts):
                raise _conflict(call, self._dice)
            if call.operation in _BATCHES and self._strikes(weather.parts):
                self._parts[call.number] = _leave_out(call, self._dice)

    def after(self, call: Call) -> None:
        """Strike when it has been written."""
        with self._lock:
            if self._strikes(self._weather.kills):
                raise Killed
            if self._strikes(self._weather.lost_answers):
                if self._dice.random() < 0.2:
                    raise Refused("InternalServerError", status=500)
                self._lose(ConnectionClosedError, ReadTimeoutError)
            part = self._parts.pop(call.number, None)
            if part is not None and not call.failed:
                call.answer[_BATCHES[call.operation]] = part

    def _strikes(self, share: float) -> bool:
        struck = self._dice.random() < share
        self.struck += struck
        return struck

    def _lose(self, *errors: Any) -> None:
        error = self._dice.choice(errors)
        if error in {ReadTimeoutError, ConnectTimeoutError}:
            self._clock.pass_by(_TIMEOUT_SECONDS)
        raise error(endpoint_url=_URL, error="lost by the test")


class KillAt:
    """Hooks that end the process before or after the k-th call, and at every one that it still tries."""

    def __init__(self, number: int, *, after: bool) -> None:
        self._number = number
        self._after = after

    def before(self, call: Call) -> None:
        """Strike before anything is written."""
        if call.number > self._number or (call.number == self._number and not self._after):
            raise Killed

    def after(self, call: Call) -> None:
        """Strike when it has been written."""
        if call.number == self._number and self._after:
            raise Killed


def _is_write(call: Call) -> bool:
    return call.operation in _SINGLE_WRITES or call.operation == "TransactWriteItems"


def _throttled(call: Call, dice: Random) -> Refused:
    if call.operation == "TransactWriteItems" and dice.random() < 0.5:
        reason = dice.choice(["ThrottlingError", "ProvisionedThroughputExceeded"])
        return Refused("TransactionCanceledException", _one_of(call, reason, dice))
    return Refused(
        dice.choice(["ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded"])
    )


def _conflict(call: Call, dice: Random) -> Refused:
    if call.operation in _SINGLE_WRITES:
        return Refused("TransactionConflictException")
    if dice.random() < 0.1:
        return Refused("TransactionInProgressException")
    return Refused("TransactionCanceledException", _one_of(call, "TransactionConflict", dice))


def _one_of(call: Call, reason: str, dice: Random) -> list[str]:
    actions = len(call.request["TransactItems"])
    struck = dice.randrange(actions)
    return [reason if place == struck else "None" for place in range(actions)]


def _leave_out(call: Call, dice: Random) -> dict[str, Any]:
    """Take some of a batch out of the request; give what is left out, as the answer will name it."""
    left: dict[str, Any] = {}
    for table, asked in call.request["RequestItems"].items():
        entries = asked["Keys"] if isinstance(asked, dict) else asked
        kept = [entry for entry in entries if dice.random() < 0.5] or entries[:1]
        out = [entry for entry in entries if entry not in kept]
        entries[:] = kept
        if out:
            left[table] = {**asked, "Keys": out} if isinstance(asked, dict) else out
    return left

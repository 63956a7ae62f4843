"""Rate limits as arithmetic on one small state per customer and feature. Pure; quantities and seconds exact.

fixed         windows of `window_seconds` since 1970; the count starts at 0 in each.
sliding       the count of this window plus that of the one before, weighed by how much of it still
              overlaps the last `window_seconds`: an approximation that supposes the window before was even.
token_bucket  GCRA (ITU-T I.371): each unit takes T = window / limit seconds; the theoretical arrival time
              `tat` may lie at most a window ahead of now.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Final

from tollgate.catalog.model import Rate, RateAlgorithm
from tollgate.kernel.money import ZERO

__all__ = ["RateState", "RateUse", "record", "use"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NANOSECOND: Final = Decimal("0.000000001")


@dataclass(frozen=True, slots=True)
class RateState:
    """What is remembered: the newest window and its count, the count of the one before, and GCRA's tat.

    `window` counts windows since 1970; `tat` is in seconds since 1970.
    """

    window_seconds: int = 0
    window: int = 0
    count: Decimal = ZERO
    previous: Decimal = ZERO
    tat: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class RateUse:
    """Where a customer stands in the window: what is used, when it is free again in full."""

    used: Decimal
    resets_at: datetime


def record(state: RateState, rate: Rate, at: datetime, quantity: Decimal) -> RateState:
    """The state after `quantity` was used at an instant; what left the windows remembered changes nothing."""
    if state.window_seconds != rate.window_seconds:
        state = RateState(rate.window_seconds)
    seconds = _seconds(at)
    window = int(seconds // rate.window_seconds)
    if window < state.window - 1:
        return state
    took = (quantity * rate.window_seconds / rate.limit).quantize(_NANOSECOND, ROUND_CEILING)
    # What happened has happened, but a bucket is never more than empty.
    tat = max(state.tat, min(max(state.tat, seconds) + took, seconds + rate.window_seconds))
    if window == state.window:
        return replace(state, count=state.count + quantity, tat=tat)
    if window > state.window:
        previous = state.count if window == state.window + 1 else ZERO
        return RateState(rate.window_seconds, window, quantity, previous, tat)
    return replace(state, previous=state.previous + quantity, tat=tat)


def use(state: RateState, rate: Rate, now: datetime) -> RateUse:
    """What of the limit is used at an instant."""
    if state.window_seconds != rate.window_seconds:
        state = RateState(rate.window_seconds)
    seconds = _seconds(now)
    if rate.algorithm is RateAlgorithm.TOKEN_BUCKET:
        ahead = max(state.tat - seconds, ZERO)
        used = (ahead * rate.limit / rate.window_seconds).quantize(_NANOSECOND, ROUND_CEILING)
        return RateUse(used, now + timedelta(microseconds=int((ahead * 1_000_000).to_integral(ROUND_CEILING))))
    window = int(seconds // rate.window_seconds)
    count = state.count if window == state.window else ZERO
    end = _EPOCH + timedelta(seconds=(window + 1) * rate.window_seconds)
    if rate.algorithm is RateAlgorithm.FIXED:
        return RateUse(count, end)
    before = {state.window: state.previous, state.window + 1: state.count}.get(window, ZERO)
    share = 1 - (seconds - window * rate.window_seconds) / rate.window_seconds
    return RateUse(count + (before * share).quantize(_NANOSECOND, ROUND_FLOOR), end)


def _seconds(at: datetime) -> Decimal:
    since = at - _EPOCH
    return Decimal(since.days * 86_400 + since.seconds) + Decimal(since.microseconds).scaleb(-6)

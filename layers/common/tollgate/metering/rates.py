"""Rate limits as arithmetic on one small state per customer and feature. Pure; quantities and seconds exact.

fixed         windows of `window_seconds` since 1970; the count starts at 0 in each.
sliding       the count of this window plus that of the one before, weighed by how much of it still
              overlaps the last `window_seconds`: an approximation that supposes the window before was even.
token_bucket  GCRA (ITU-T I.371): each unit takes T = window / limit seconds; the theoretical arrival time
              `tat` may lie at most a window ahead of now.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal, localcontext
from typing import Final

from tollgate.catalog.model import Rate, RateAlgorithm
from tollgate.kernel.money import ZERO, storable

__all__ = ["RateState", "RateUse", "record", "use"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_WIDE: Final = Context(prec=100)
"""The default's 28 digits would round quantities, or refuse them."""
_TAT_GRAIN: Final = Decimal("1e-27")
"""What `tat` is rounded up to: with ten digits before the point it fills DynamoDB's 38."""
_USED_GRAIN: Final = Decimal("1e-9")
"""What use is rounded down to, so that what `tat` was rounded up by never denies the last unit."""


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
    """The state after `quantity` was used at an instant; what left the windows remembered changes nothing.

    Raises:
        OverflowError: a count has more digits than the database keeps.
    """
    with localcontext(_WIDE):
        return _record(state, rate, at, quantity)


def _record(state: RateState, rate: Rate, at: datetime, quantity: Decimal) -> RateState:
    seconds = _seconds(at)
    if state.window_seconds != rate.window_seconds:
        if seconds < state.window * state.window_seconds:
            return state  # of a plan before the present one, whose windows were others
        state = RateState(rate.window_seconds)
    window = int(seconds // rate.window_seconds)
    if window < state.window - 1:
        return state
    took = (quantity * rate.window_seconds / rate.limit).quantize(_TAT_GRAIN, ROUND_CEILING)
    # What happened has happened, but a bucket is never more than empty.
    tat = max(state.tat, min(max(state.tat, seconds) + took, seconds + rate.window_seconds))
    if window == state.window:
        return replace(state, count=storable(state.count + quantity), tat=tat)
    if window > state.window:
        previous = state.count if window == state.window + 1 else ZERO
        return RateState(rate.window_seconds, window, quantity, previous, tat)
    return replace(state, previous=storable(state.previous + quantity), tat=tat)


def use(state: RateState, rate: Rate, now: datetime) -> RateUse:
    """What of the limit is used at an instant; an event may have been ahead of it by a window."""
    with localcontext(_WIDE):
        return _use(state, rate, now)


def _use(state: RateState, rate: Rate, now: datetime) -> RateUse:
    if state.window_seconds != rate.window_seconds:
        state = RateState(rate.window_seconds)
    seconds = _seconds(now)
    if rate.algorithm is RateAlgorithm.TOKEN_BUCKET:
        ahead = max(state.tat - seconds, ZERO)
        used = (ahead * rate.limit / rate.window_seconds).quantize(_USED_GRAIN, ROUND_FLOOR)
        return RateUse(used, now + timedelta(microseconds=int((ahead * 1_000_000).to_integral(ROUND_CEILING))))
    window = int(seconds // rate.window_seconds)
    count = {state.window: state.count, state.window - 1: state.previous}.get(window, ZERO)
    end = _EPOCH + timedelta(seconds=(window + 1) * rate.window_seconds)
    if rate.algorithm is RateAlgorithm.FIXED:
        return RateUse(count, end)
    before = {state.window: state.previous, state.window + 1: state.count}.get(window, ZERO)
    share = 1 - (seconds - window * rate.window_seconds) / rate.window_seconds
    return RateUse(count + (before * share).quantize(_USED_GRAIN, ROUND_FLOOR), end)


def _seconds(at: datetime) -> Decimal:
    since = at - _EPOCH
    return Decimal(since.days * 86_400 + since.seconds) + Decimal(since.microseconds).scaleb(-6)

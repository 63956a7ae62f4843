"""Rate limits as arithmetic on one small state per customer and feature. Pure; quantities and seconds exact.

fixed         windows of `window_seconds` since 1970; the count starts at 0 in each.
sliding       the count of this window plus that of the one before, weighed by how much of it still
              overlaps the last `window_seconds`: an approximation that supposes the window before was even. In any
              `window_seconds` on end it lets pass less than twice the limit, and no more than the limit where use is
              even.
token_bucket  GCRA (ITU-T I.371): each unit takes T = window / limit seconds; the theoretical arrival time
              `tat` may lie at most a window ahead of now.

A limit with another window starts anew. One with another limit or algorithm goes on from what is used, so that a
plan changed in the middle of a window gives nobody a second one.

Of windows the newest is remembered and the one before. Whoever decides by a clock that is further behind, or took so
long over it, decides in the newest: what is forgotten cannot be given a second time.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal, localcontext
from typing import Final

from tollgate.catalog.model import Rate, RateAlgorithm
from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.money import ZERO, storable

__all__ = ["RateState", "RateUse", "admit", "ceiling", "is_of", "record", "retry_at", "seconds_of", "use"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_WIDE: Final = Context(prec=100)
"""The default's 28 digits would round quantities, or refuse them."""
_TAT_GRAIN: Final = Decimal("1e-27")
"""What `tat` is rounded up to: with ten digits before the point it fills DynamoDB's 38."""
_USED_GRAIN: Final = Decimal("1e-9")
"""What use is rounded down to, so that what `tat` was rounded up by never denies the last unit."""


@dataclass(frozen=True, slots=True)
class RateState:
    """What is remembered of a limit: its newest window and that one's count, the count before; or GCRA's tat.

    `window` counts windows since 1970; `tat` is in seconds since 1970.
    """

    window_seconds: int = 0
    algorithm: RateAlgorithm = RateAlgorithm.FIXED
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
        return _record(state, rate, seconds_of(at), quantity)


def _record(state: RateState, rate: Rate, seconds: Decimal, quantity: Decimal) -> RateState:
    if state.window_seconds != rate.window_seconds and seconds < _newest(state):
        return state  # of a plan before the present one, whose windows were others
    state = _seen_as(state, rate, seconds)
    if rate.algorithm is RateAlgorithm.TOKEN_BUCKET:
        took = (quantity * rate.window_seconds / rate.limit).quantize(_TAT_GRAIN, ROUND_CEILING)
        # What happened has happened, but a bucket is never more than empty.
        tat = max(state.tat, min(max(state.tat, seconds) + took, seconds + rate.window_seconds))
        return replace(state, tat=tat)
    window = int(seconds // rate.window_seconds)
    if window < state.window - 1:
        return state
    if window == state.window:
        return replace(state, count=storable(state.count + quantity))
    if window > state.window:
        previous = state.count if window == state.window + 1 else ZERO
        return replace(state, window=window, count=quantity, previous=previous)
    return replace(state, previous=storable(state.previous + quantity))


def ceiling(state: RateState, rate: Rate, now: datetime, quantity: Decimal) -> Decimal:
    """What the figure that grows may be at most for `quantity` more to fit in: the count, or below what the tat.

    The count must be at most this, the tat less.
    """
    with localcontext(_WIDE):
        return _ceiling(state, rate, _decided_at(state, rate, now), quantity)


def _ceiling(state: RateState, rate: Rate, seconds: Decimal, quantity: Decimal) -> Decimal:
    left = rate.limit - quantity
    if rate.algorithm is RateAlgorithm.TOKEN_BUCKET:
        ahead = (left.quantize(_USED_GRAIN, ROUND_FLOOR) + _USED_GRAIN) * rate.window_seconds / rate.limit
        return (seconds + ahead).quantize(_TAT_GRAIN, ROUND_CEILING)
    return left - _overlap(_seen_as(state, rate, seconds), seconds)


def admit(state: RateState, rate: Rate, now: datetime, quantity: Decimal) -> RateState | None:
    """The state after `quantity` more was used now, if the limit allows that; None if it does not."""
    if quantity > rate.limit:
        return None
    with localcontext(_WIDE):
        seconds = _decided_at(state, rate, now)
        most = _ceiling(state, rate, seconds, quantity)
        known = _seen_as(state, rate, seconds)
        if rate.algorithm is RateAlgorithm.TOKEN_BUCKET:
            fits = max(known.tat, seconds) < most
        else:
            fits = _count(known, int(seconds // rate.window_seconds)) <= most
        return _record(state, rate, seconds, quantity) if fits else None


def retry_at(state: RateState, rate: Rate, now: datetime, quantity: Decimal) -> datetime | None:
    """When `quantity` fits in if nothing else is used until then; None where it never does."""
    if quantity > rate.limit:
        return None
    with localcontext(_WIDE):
        seconds, length = _decided_at(state, rate, now), rate.window_seconds
        state = _seen_as(state, rate, seconds)
        if rate.algorithm is RateAlgorithm.TOKEN_BUCKET:
            return _instant(max(state.tat - (rate.limit - quantity) * length / rate.limit, seconds))
        window = int(seconds // length)
        end, left = (window + 1) * length, rate.limit - quantity
        count = _count(state, window)
        if rate.algorithm is RateAlgorithm.FIXED:
            return now if count <= left else _instant(Decimal(end))
        # The window before counts for a share that falls from 1 to 0 while this one lasts.
        before = _count(state, window - 1)
        if count <= left:
            share = min((left - count) / before, Decimal(1)) if before else Decimal(1)
            return _instant(max(end - share * length, seconds))
        return _instant(end + length - left / count * length)


def use(state: RateState, rate: Rate, now: datetime) -> RateUse:
    """What of the limit is used at an instant; an event may have been ahead of it by a window."""
    with localcontext(_WIDE):
        return _use(state, rate, now)


def _use(state: RateState, rate: Rate, now: datetime) -> RateUse:
    seconds = _decided_at(state, rate, now)
    state = _seen_as(state, rate, seconds)
    if rate.algorithm is RateAlgorithm.TOKEN_BUCKET:
        ahead = max(state.tat - seconds, ZERO)
        used = (ahead * rate.limit / rate.window_seconds).quantize(_USED_GRAIN, ROUND_FLOOR)
        return RateUse(used, now + timedelta(microseconds=int((ahead * 1_000_000).to_integral(ROUND_CEILING))))
    window = int(seconds // rate.window_seconds)
    end = _EPOCH + timedelta(seconds=(window + 1) * rate.window_seconds)
    return RateUse(_count(state, window) + _overlap(state, seconds), end)


def is_of(state: RateState, rate: Rate) -> bool:
    """Whether the figures of a state are those that a limit goes by: windows and buckets keep different ones."""
    bucket = RateAlgorithm.TOKEN_BUCKET
    return state.window_seconds == rate.window_seconds and (state.algorithm is bucket) == (rate.algorithm is bucket)


def _decided_at(state: RateState, rate: Rate, now: datetime) -> Decimal:
    """The instant that a decision made now is for: a later one, where the state has forgotten what there was now."""
    seconds = seconds_of(now)
    if state.window_seconds != rate.window_seconds:
        return max(seconds, _newest(state))
    if state.algorithm is RateAlgorithm.TOKEN_BUCKET or int(seconds // rate.window_seconds) >= state.window - 1:
        return seconds
    return _newest(state)


def _newest(state: RateState) -> Decimal:
    """An instant from which on nothing of a state is forgotten."""
    return max(Decimal(state.window * state.window_seconds), state.tat - state.window_seconds)


def _seen_as(state: RateState, rate: Rate, seconds: Decimal) -> RateState:
    """The state in the figures that a limit goes by; of another window nothing is left."""
    if is_of(state, rate):
        return state if state.algorithm is rate.algorithm else replace(state, algorithm=rate.algorithm)
    fresh = RateState(rate.window_seconds, rate.algorithm)
    if state.window_seconds != rate.window_seconds:
        return fresh
    window = int(seconds // rate.window_seconds)
    if rate.algorithm is RateAlgorithm.TOKEN_BUCKET:
        used = _count(state, window) + _overlap(state, seconds)
        ahead = (used * rate.window_seconds / rate.limit).quantize(_TAT_GRAIN, ROUND_CEILING)
        return replace(fresh, tat=seconds + min(ahead, Decimal(rate.window_seconds))) if ahead else fresh
    ahead = max(state.tat - seconds, ZERO)
    count = (ahead * rate.limit / rate.window_seconds).quantize(_USED_GRAIN, ROUND_CEILING)
    return replace(fresh, window=window, count=count)


def _count(state: RateState, window: int) -> Decimal:
    return {state.window: state.count, state.window - 1: state.previous}.get(window, ZERO)


def _overlap(state: RateState, seconds: Decimal) -> Decimal:
    """What of the window before still counts in a sliding one."""
    if state.algorithm is not RateAlgorithm.SLIDING:
        return ZERO
    window = int(seconds // state.window_seconds)
    share = 1 - (seconds - window * state.window_seconds) / state.window_seconds
    return (_count(state, window - 1) * share).quantize(_USED_GRAIN, ROUND_FLOOR)


def _instant(seconds: Decimal) -> datetime:
    return _EPOCH + timedelta(microseconds=int((seconds * 1_000_000).to_integral(ROUND_CEILING)))


def seconds_of(at: datetime) -> Decimal:
    """An instant in seconds since 1970, to the microsecond."""
    since = at - _EPOCH
    return Decimal(since.days * 86_400 + since.seconds) + Decimal(since.microseconds).scaleb(-6)

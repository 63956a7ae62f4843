"""When a failed operation is tried again: pure functions of the policy, of how often it was tried, and of chance.

All is counted in whole milliseconds, so that no delay drifts by the rounding of floats.
"""

from collections.abc import Callable
from datetime import timedelta
from enum import StrEnum

from tollgate.kernel.dataclasses import dataclass

__all__ = ["Policy", "Strategy", "ceiling", "next_delay"]


class Strategy(StrEnum):
    """When the operation is tried again."""

    EXPONENTIAL_BACKOFF = "exponential_backoff"
    IMMEDIATE = "immediate"
    FIXED_INTERVAL = "fixed_interval"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True)
class Policy:
    """How often and when to try again: at most `max_attempts` tries, `base` and `cap` in seconds."""

    strategy: Strategy
    max_attempts: int
    base: int = 0
    cap: int = 0


def ceiling(policy: Policy, attempt: int) -> timedelta | None:
    """The longest wait after `attempt` tries, or None when a person has to decide.

    exponential_backoff  min(cap, base x 2^attempt)
    immediate            0, and after the first try as exponential_backoff with one try less
    fixed_interval       base
    manual               None; and so is every other after `max_attempts` tries
    """
    if policy.strategy is Strategy.MANUAL or attempt >= policy.max_attempts:
        return None
    if policy.strategy is Strategy.FIXED_INTERVAL:
        return timedelta(seconds=policy.base)
    doublings = attempt - (policy.strategy is Strategy.IMMEDIATE)
    if doublings < 0:
        return timedelta(0)
    # No cap is reached by more than 40 doublings of a second, and a shift by 4,000 would be a number of as many bits.
    return timedelta(seconds=min(policy.cap, policy.base << min(doublings, 40)))


def next_delay(policy: Policy, attempt: int, randbelow: Callable[[int], int]) -> timedelta | None:
    """How long to wait after `attempt` tries, or None when a person has to decide.

    exponential_backoff  any whole number of milliseconds from 0 to the ceiling, each as likely as the others
    immediate            0 after no try, then the same
    fixed_interval       the ceiling

    The first is "full jitter" of Marc Brooker's "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015):
    many that failed together do not come back together. `randbelow(n)` gives a whole number in [0, n), as
    `secrets.randbelow` does.
    """
    longest = ceiling(policy, attempt)
    if longest is None or policy.strategy is Strategy.FIXED_INTERVAL:
        return longest
    return timedelta(milliseconds=randbelow(longest // timedelta(milliseconds=1) + 1))

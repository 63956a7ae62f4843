"""When a failed operation is tried again, and what a deployment may say of it."""

import json
from datetime import timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollgate.recovery.model import ErrorType
from tollgate.recovery.policies import DEFAULTS, LONGEST, deployed, policy_of, read_policies
from tollgate.recovery.strategies import Policy, Strategy, ceiling, next_delay

BACKOFF = Policy(Strategy.EXPONENTIAL_BACKOFF, 5, base=60, cap=300)
IMMEDIATE = Policy(Strategy.IMMEDIATE, 5, base=30, cap=100)
MILLISECOND = timedelta(milliseconds=1)

seconds = st.integers(1, LONGEST)
policies = st.builds(
    lambda strategy, base, more, attempts: Policy(strategy, attempts, base, min(base + more, LONGEST)),
    st.sampled_from([Strategy.EXPONENTIAL_BACKOFF, Strategy.IMMEDIATE, Strategy.FIXED_INTERVAL]),
    seconds,
    st.integers(0, LONGEST),
    st.integers(1, 100),
)


def lowest(_below: int) -> int:
    """Chance at its least."""
    return 0


def highest(below: int) -> int:
    """Chance at its most."""
    return below - 1


@given(policies)
def test_the_ceiling_never_falls_and_never_passes_the_cap(policy: Policy) -> None:
    """However many tries there were."""
    ceilings = [ceiling(policy, attempt) for attempt in range(policy.max_attempts)]
    known = [one for one in ceilings if one is not None]
    most = policy.base if policy.strategy is Strategy.FIXED_INTERVAL else policy.cap
    assert len(known) == policy.max_attempts
    assert known == sorted(known)
    assert all(timedelta(0) <= one <= timedelta(seconds=most) for one in known)


@given(policies, st.integers(0, 99), st.integers(0))
def test_a_delay_lies_between_zero_and_its_ceiling(policy: Policy, attempt: int, chance: int) -> None:
    """The ends included; a fixed interval knows no chance."""
    longest = ceiling(policy, attempt)
    delay = next_delay(policy, attempt, lambda below: chance % below)
    if longest is None:
        assert delay is None
        return
    assert delay is not None
    assert timedelta(0) <= delay <= longest
    assert next_delay(policy, attempt, highest) == longest
    least = longest if policy.strategy is Strategy.FIXED_INTERVAL else timedelta(0)
    assert next_delay(policy, attempt, lowest) == least


@given(policies, st.integers(0, 99))
def test_a_ceiling_is_the_formula_in_exact_numbers(policy: Policy, attempt: int) -> None:
    """min(cap, base x 2^n), as fractions have it: no float has had its hand in it."""
    longest = ceiling(policy, attempt)
    doublings = attempt - (policy.strategy is Strategy.IMMEDIATE)
    if longest is None:
        assert attempt >= policy.max_attempts
    elif policy.strategy is Strategy.FIXED_INTERVAL:
        assert longest == timedelta(seconds=policy.base)
    else:
        exact = min(Fraction(policy.cap), policy.base * Fraction(2) ** doublings) if doublings >= 0 else Fraction(0)
        assert Fraction(longest // MILLISECOND, 1000) == exact


@given(st.integers(2, 5), st.data())
def test_every_millisecond_up_to_the_ceiling_can_come(attempts: int, data: st.DataObject) -> None:
    """Full jitter is even: chance is asked for one of so many milliseconds, and that many it is."""
    asked: list[int] = []

    def chance(below: int) -> int:
        asked.append(below)
        return data.draw(st.integers(0, below - 1))

    delay = next_delay(BACKOFF, attempts - 2, chance)
    longest = ceiling(BACKOFF, attempts - 2)
    assert longest is not None
    assert asked == [longest // MILLISECOND + 1]
    assert delay is not None
    assert delay % MILLISECOND == timedelta(0)


def test_a_backoff_doubles_until_the_cap() -> None:
    """60, 120, 240, then 300 seconds at most; then a person decides."""
    assert [ceiling(BACKOFF, attempt) for attempt in range(6)] == [
        *(timedelta(seconds=one) for one in (60, 120, 240, 300, 300)),
        None,
    ]


def test_an_immediate_try_is_at_once_and_the_next_ones_are_soon() -> None:
    """What fails at once again is not hammered."""
    assert [ceiling(IMMEDIATE, attempt) for attempt in range(6)] == [
        *(timedelta(seconds=one) for one in (0, 30, 60, 100, 100)),
        None,
    ]


def test_manual_is_never_tried() -> None:
    """Not even the first time."""
    assert next_delay(Policy(Strategy.MANUAL, 3, base=1, cap=1), 0, lowest) is None


def test_thousands_of_tries_are_computed_at_once() -> None:
    """The ceiling makes no number of thousands of bits."""
    policy = Policy(Strategy.EXPONENTIAL_BACKOFF, 10**9, base=LONGEST, cap=LONGEST)
    assert ceiling(policy, 10**9 - 1) == timedelta(seconds=LONGEST)


# The table


def test_every_type_has_a_policy_that_fits_it() -> None:
    """What passes is tried with growing pauses, a refund at once, missing funds daily, wrong input never."""
    assert set(DEFAULTS) == set(ErrorType)
    strategies = {error_type.value: policy.strategy.value for error_type, policy in DEFAULTS.items()}
    assert strategies == {
        "payment_failed": "exponential_backoff",
        "insufficient_funds": "fixed_interval",
        "validation_error": "manual",
        "refund_error": "immediate",
        "state_transition_error": "immediate",
        "delivery_failed": "exponential_backoff",
        "system_error": "exponential_backoff",
    }


def test_a_deployment_changes_a_type_or_one_operation_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The narrower one holds; what it does not name stays as it is."""
    fixed = {"strategy": "fixed_interval", "max_attempts": 3, "base_seconds": 5}
    immediate = {"strategy": "immediate", "max_attempts": 2, "base_seconds": 0, "cap_seconds": 0}
    table = {"system_error": fixed, "publish_event/system_error": immediate, "refund_error": {"strategy": "manual"}}
    monkeypatch.setenv("RETRY_POLICIES", json.dumps(table))
    assert policy_of(ErrorType.SYSTEM_ERROR, "collect") == Policy(Strategy.FIXED_INTERVAL, 3, base=5)
    assert policy_of(ErrorType.SYSTEM_ERROR, "publish_event") == Policy(Strategy.IMMEDIATE, 2)
    assert policy_of(ErrorType.REFUND_ERROR, "refund") == Policy(Strategy.MANUAL, 0)
    assert policy_of(ErrorType.PAYMENT_FAILED, "publish_event") == DEFAULTS[ErrorType.PAYMENT_FAILED]
    monkeypatch.setenv("RETRY_POLICIES", "")
    assert policy_of(ErrorType.SYSTEM_ERROR, "collect") == DEFAULTS[ErrorType.SYSTEM_ERROR]


BACKED_OFF = {"strategy": "exponential_backoff", "max_attempts": 3, "base_seconds": 60, "cap_seconds": 600}


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ([], "must be an object"),
        ({"nonsense": BACKED_OFF}, "neither a type"),
        ({"Collect!/system_error": BACKED_OFF}, "neither a type"),
        ({"collect/nonsense": BACKED_OFF}, "neither a type"),
        ({"system_error": "manual"}, "must be an object of strategy"),
        ({"system_error": {"strategy": "often"}}, "must be an object of strategy"),
        ({"system_error": BACKED_OFF | {"jitter": 1}}, "must be an object of strategy"),
        ({"system_error": BACKED_OFF | {"max_attempts": 0}}, "max_attempts must be a whole number from 1 to 100"),
        ({"system_error": BACKED_OFF | {"max_attempts": True}}, "max_attempts must be a whole number"),
        ({"system_error": BACKED_OFF | {"base_seconds": 0}}, "base_seconds must be a whole number from 1"),
        ({"system_error": BACKED_OFF | {"base_seconds": "60"}}, "base_seconds must be a whole number"),
        ({"system_error": BACKED_OFF | {"cap_seconds": 59}}, "cap_seconds must be a whole number from 60"),
        ({"system_error": {"strategy": "fixed_interval", "max_attempts": 3}}, "base_seconds must be a whole number"),
    ],
    ids=repr,
)
def test_a_table_that_cannot_be_used_says_what_is_wrong(table: object, told: str) -> None:
    """It is refused as a whole, so that no half of it holds."""
    with pytest.raises(ValueError, match=told):
        read_policies(json.dumps(table))


def test_a_table_that_cannot_be_used_loses_no_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The defaults hold for what is written down, and the log says why; the retry processor asks, and is told."""
    monkeypatch.setenv("RETRY_POLICIES", "{")
    assert policy_of(ErrorType.SYSTEM_ERROR, "collect") == DEFAULTS[ErrorType.SYSTEM_ERROR]
    assert "RetryPolicies cannot be used" in caplog.text
    with pytest.raises(RuntimeError, match="RetryPolicies"):
        deployed()

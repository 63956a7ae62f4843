"""Which failure is tried again how often and when: one table, which a deployment may change.

The template's parameter RetryPolicies is JSON: a policy by the type of the error, or by operation and type.

    {"payment_failed": {"strategy": "fixed_interval", "max_attempts": 4, "base_seconds": 86400},
     "deliver_webhook/delivery_failed": {"strategy": "exponential_backoff", "max_attempts": 12,
                                         "base_seconds": 60, "cap_seconds": 3600}}

A record keeps the policy it was made with, until it fails in another way.
"""

import json
import logging
import os
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from tollgate.recovery.model import ErrorType
from tollgate.recovery.strategies import Policy, Strategy

__all__ = ["DEFAULTS", "deployed", "policy_of", "read_policies"]

logger = logging.getLogger(__name__)

_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR

DEFAULTS: Final[Mapping[ErrorType, Policy]] = {
    ErrorType.PAYMENT_FAILED: Policy(Strategy.EXPONENTIAL_BACKOFF, 6, base=15 * _MINUTE, cap=_DAY),
    # Money arrives when the customer pays it in, which no sooner try hastens.
    ErrorType.INSUFFICIENT_FUNDS: Policy(Strategy.FIXED_INTERVAL, 7, base=_DAY),
    # The same input fails the same way: a person corrects it.
    ErrorType.VALIDATION_ERROR: Policy(Strategy.MANUAL, 0),
    # Somebody waits for their money: at once, and then soon.
    ErrorType.REFUND_ERROR: Policy(Strategy.IMMEDIATE, 8, base=30, cap=6 * _HOUR),
    # Another writer was first; by now it is done.
    ErrorType.STATE_TRANSITION_ERROR: Policy(Strategy.IMMEDIATE, 5, base=2, cap=_MINUTE),
    # A receiver that is down may be so for a day.
    ErrorType.DELIVERY_FAILED: Policy(Strategy.EXPONENTIAL_BACKOFF, 10, base=2 * _MINUTE, cap=12 * _HOUR),
    ErrorType.SYSTEM_ERROR: Policy(Strategy.EXPONENTIAL_BACKOFF, 8, base=_MINUTE, cap=_HOUR),
}
"""What applies where the deployment says nothing."""

MOST_ATTEMPTS: Final = 100
LONGEST: Final = 30 * _DAY

_KEYS: Final = ("strategy", "max_attempts", "base_seconds", "cap_seconds")
_OPERATION: Final = re.compile("[a-z][a-z0-9_]{0,63}")


def policy_of(error_type: ErrorType, operation: str) -> Policy:
    """The policy of this deployment for a failure of an operation.

    With a table that cannot be used it is the default, for a failure must be written down whatever else is wrong; the
    retry processor does not start with such a table, which `deployed` has told it.
    """
    try:
        table = deployed()
    except RuntimeError as error:
        logger.error("%s; the defaults hold", error)  # noqa: TRY400 - the message says it all
        table = {}
    return table.get(f"{operation}/{error_type}") or table.get(error_type) or DEFAULTS[error_type]


def read_policies(text: str) -> dict[str, Policy]:
    """The policies of the parameter RetryPolicies, by type or operation/type; none where it is empty.

    Raises:
        ValueError: says what is wrong with it, and where.
    """
    if not text.strip():
        return {}
    body = json.loads(text)
    if not isinstance(body, dict):
        raise ValueError("must be an object: a policy by type, or by operation/type")
    return {name: _policy(name, value) for name, value in body.items()}


def deployed() -> dict[str, Policy]:
    """The policies of this deployment.

    Raises:
        RuntimeError: they cannot be used, and why.
    """
    return _read(os.environ.get("RETRY_POLICIES", ""))


@cache
def _read(text: str) -> dict[str, Policy]:
    try:
        return read_policies(text)
    except ValueError as error:
        raise RuntimeError(f"the parameter RetryPolicies cannot be used: {error}") from None


def _policy(name: str, value: Any) -> Policy:
    operation, slash, error_type = name.rpartition("/")
    if error_type not in set(ErrorType) or (slash and not _OPERATION.fullmatch(operation)):
        raise ValueError(f"{name} is neither a type ({', '.join(ErrorType)}) nor operation/type")
    if not isinstance(value, dict) or not value.keys() <= set(_KEYS) or value.get("strategy") not in set(Strategy):
        raise ValueError(f"{name} must be an object of {', '.join(_KEYS)}; a strategy is {', '.join(Strategy)}")
    strategy = Strategy(value["strategy"])
    if strategy is Strategy.MANUAL:
        return Policy(strategy, 0)
    attempts = _whole(name, value, "max_attempts", 1, MOST_ATTEMPTS)
    base = _whole(name, value, "base_seconds", 0 if strategy is Strategy.IMMEDIATE else 1, LONGEST)
    if strategy is Strategy.FIXED_INTERVAL:
        return Policy(strategy, attempts, base)
    return Policy(strategy, attempts, base, _whole(name, value, "cap_seconds", base, LONGEST))


def _whole(name: str, value: Mapping[str, Any], key: str, least: int, most: int) -> int:
    number = value.get(key)
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
        raise ValueError(f"{name}: {key} must be a whole number from {least} to {most}")
    return number

"""Features as flags: OFREP 0.2, OpenFeature's remote evaluation protocol, which every language's stock provider speaks.

The flag is the feature and the `targetingKey` the customer. A boolean feature is a boolean flag; any other is an
object flag, whose value is the answer to a check of one unit.
"""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final

from tollgate.catalog.model import FeatureType
from tollgate.entitlements import service
from tollgate.entitlements.model import Decision, Reason, decision_to_dict
from tollgate.kernel.errors import BadRequest
from tollgate.kernel.ids import is_id
from tollgate.kernel.json import read_json
from tollgate.metering.service import Counters, Directory

__all__ = [
    "FAILURE_SCHEMA",
    "FLAGS_SCHEMA",
    "FLAG_FAILURE_SCHEMA",
    "FLAG_SCHEMA",
    "REQUEST",
    "evaluate",
    "evaluate_all",
]

Answer = tuple[HTTPStatus, dict[str, Any]]


class _Code(StrEnum):
    """The protocol's error codes that there is reason to give."""

    PARSE_ERROR = "PARSE_ERROR"
    INVALID_CONTEXT = "INVALID_CONTEXT"
    TARGETING_KEY_MISSING = "TARGETING_KEY_MISSING"
    FLAG_NOT_FOUND = "FLAG_NOT_FOUND"


class _NoCustomer(Exception):
    """A request that no customer can be read from."""

    def __init__(self, code: _Code, detail: str) -> None:
        super().__init__(detail)
        self.body = {"errorCode": code.value, "errorDetails": detail}


# Without a subscription that has the feature the flag has its default; else what it is was meant for this customer.
_DEFAULTS: Final = frozenset({Reason.CUSTOMER_NOT_FOUND, Reason.NO_SUBSCRIPTION, Reason.FEATURE_NOT_IN_PLAN})


def evaluate(key: str, text: str, *, directory: Directory, counters: Counters, now: datetime) -> Answer:
    """The HTTP status and body that answer a request for one flag."""
    try:
        customer = _read_customer(text)
    except _NoCustomer as error:
        return HTTPStatus.BAD_REQUEST, {"key": key} | error.body
    decision = service.check(customer, key, Decimal(1), directory=directory, counters=counters, now=now)
    kind = decision.type or _kind(key, directory)
    if kind is None:
        body = {"key": key, "errorCode": _Code.FLAG_NOT_FOUND.value, "errorDetails": f"There is no feature {key}."}
        return HTTPStatus.NOT_FOUND, body
    return HTTPStatus.OK, _flag(decision, kind)


def evaluate_all(text: str, *, directory: Directory, counters: Counters, now: datetime) -> Answer:
    """The HTTP status and body that answer a request for all flags: of the features in the customer's plans."""
    try:
        customer = _read_customer(text)
    except _NoCustomer as error:
        return HTTPStatus.BAD_REQUEST, error.body
    decisions = service.check_all(customer, directory=directory, counters=counters, now=now) or ()
    return HTTPStatus.OK, {"flags": [_flag(decision, decision.type) for decision in decisions if decision.type]}


def _read_customer(text: str) -> str:
    try:
        body = read_json(text)
    except BadRequest as error:
        raise _NoCustomer(_Code.PARSE_ERROR, error.detail) from None
    context = body.get("context", {}) if isinstance(body, dict) else None
    if not isinstance(context, dict):
        raise _NoCustomer(_Code.INVALID_CONTEXT, 'must be an object {"context": {"targetingKey": "..."}}')
    customer = context.get("targetingKey")
    if customer is None or customer == "":
        raise _NoCustomer(_Code.TARGETING_KEY_MISSING, "targetingKey must be the id of a customer")
    if not isinstance(customer, str):
        raise _NoCustomer(_Code.INVALID_CONTEXT, "targetingKey must be a string")
    return customer


def _kind(feature: str, directory: Directory) -> FeatureType | None:
    found = directory.features([feature]).get(feature) if is_id(feature) else None
    return found.type if found else None


def _flag(decision: Decision, kind: FeatureType) -> dict[str, Any]:
    is_boolean = kind is FeatureType.BOOLEAN
    metadata = {"reason": decision.reason.value, "type": kind.value, "plan": decision.plan}
    return {
        "key": decision.feature,
        "value": decision.allowed if is_boolean else decision_to_dict(decision),
        "variant": ("on" if decision.allowed else "off") if is_boolean else decision.reason.value,
        "reason": _reason(decision.reason),
        "metadata": {name: value for name, value in metadata.items() if value is not None},
    }


def _reason(reason: Reason) -> str:
    if reason is Reason.FEATURE_DISABLED:
        return "DISABLED"
    return "DEFAULT" if reason in _DEFAULTS else "TARGETING_MATCH"


REQUEST: Final[dict[str, Any]] = {
    "x-request-body": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["context"],
                    "properties": {
                        "context": {
                            "type": "object",
                            "required": ["targetingKey"],
                            "properties": {
                                "targetingKey": {"type": "string", "minLength": 1, "description": "The customer"}
                            },
                        }
                    },
                }
            }
        },
    }
}

FLAG_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["key", "value", "variant", "reason", "metadata"],
    "properties": {
        "key": {"type": "string"},
        "value": {"type": ["boolean", "object"]},
        "variant": {"type": "string"},
        "reason": {"enum": ["TARGETING_MATCH", "DEFAULT", "DISABLED"]},
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}

FLAGS_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["flags"],
    "properties": {"flags": {"type": "array", "items": FLAG_SCHEMA}},
}

FAILURE_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["errorCode", "errorDetails"],
    "properties": {"errorCode": {"enum": [code.value for code in _Code]}, "errorDetails": {"type": "string"}},
}
"""The protocol's own errors."""

FLAG_FAILURE_SCHEMA: Final[dict[str, Any]] = {
    **FAILURE_SCHEMA,
    "required": ["key", *FAILURE_SCHEMA["required"]],
    "properties": {"key": {"type": "string"}, **FAILURE_SCHEMA["properties"]},
}

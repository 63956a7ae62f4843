"""Requests and answers of entitlements: read by hand, for the hot path imports no pydantic; and their JSON schemas."""

from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, TypeVar

from tollgate.catalog.model import FeatureType
from tollgate.entitlements.model import Reason
from tollgate.entitlements.rules import Item
from tollgate.entitlements.service import MAX_ITEMS, MAX_RESERVED_SECONDS, Status
from tollgate.kernel.errors import FieldError, InvalidInput
from tollgate.kernel.ids import ID_PATTERN, ID_SCHEMA, is_id
from tollgate.kernel.json import read_json
from tollgate.kernel.money import QUANTITY_SCHEMA, UNSIGNED_SCHEMA, parse_decimal
from tollgate.kernel.time import TIME_SCHEMA, parse_time

__all__ = [
    "COMMIT_REQUEST",
    "CONSUMED_SCHEMA",
    "CONSUME_REQUEST",
    "DECISIONS_SCHEMA",
    "DECISION_SCHEMA",
    "LIMIT_HEADERS",
    "QUANTITY_PARAMETER",
    "RESERVATION_SCHEMA",
    "RESERVE_REQUEST",
    "SEVERAL_CONSUMED_SCHEMA",
    "SEVERAL_REQUEST",
    "Fields",
    "read_items",
    "read_quantity",
]

Value = TypeVar("Value")


class Fields:
    """The members of a JSON object, read one after the other; what is wrong with them is told together."""

    def __init__(self, body: Any, names: set[str], pointer: str = "") -> None:
        self.faults: list[FieldError] = []
        self._pointer = pointer
        self._body: Mapping[str, Any] = body if isinstance(body, dict) else {}
        if not isinstance(body, dict):
            self._fault("", "must be a JSON object")
        for name in sorted(self._body.keys() - names):
            self._fault(f"/{name[:64]}", "is no key of this object")

    @classmethod
    def of_body(cls, text: str, names: set[str]) -> "Fields":
        """Those of a request's body."""
        return cls(read_json(text) if text.strip() else {}, names)

    def _fault(self, where: str, detail: str) -> None:
        self.faults.append(FieldError(self._pointer + where, detail))

    def _read(self, name: str, read: Callable[[Any], Value], default: Value) -> Value:
        try:
            return read(self._body[name])
        except ValueError as error:
            self._fault(f"/{name}", str(error))
        return default

    def id(self, name: str) -> str:
        """An id or a code."""
        value = self._body.get(name)
        if not is_id(value):
            self._fault(f"/{name}", f"must match {ID_PATTERN}")
            return ""
        return value

    def quantity(self, name: str = "quantity", default: str | None = "1") -> Decimal:
        """A decimal string, not negative."""
        if name not in self._body and default is not None:
            return Decimal(default)
        if name not in self._body:
            self._fault(f"/{name}", "must be given")
            return Decimal(0)
        value = self._read(name, parse_decimal, Decimal(0))
        if value < 0:
            self._fault(f"/{name}", "must not be negative")
        return value

    def time(self, name: str) -> datetime | None:
        """An RFC 3339 time, or None where there is none."""
        return None if self._body.get(name) is None else self._read(name, parse_time, None)

    def seconds(self, name: str, most: int) -> int:
        """A whole number of seconds from 1 on."""
        value = self._body.get(name)
        if type(value) is not int or not 1 <= value <= most:
            self._fault(f"/{name}", f"must be a whole number from 1 to {most}")
            return 1
        return value

    def raw(self, name: str) -> Any:
        """A member as it is."""
        return self._body.get(name)

    def check(self) -> None:
        """Say what is wrong, if anything is.

        Raises:
            InvalidInput: with all of it.
        """
        if self.faults:
            raise InvalidInput(self.faults)


def read_quantity(query: Mapping[str, str]) -> Decimal:
    """The quantity that a check asks for: 1 where it names none.

    Raises:
        InvalidInput: it is not a decimal, or negative.
    """
    fields = Fields(dict(query), set(query))
    quantity = fields.quantity()
    fields.check()
    return quantity


def read_items(fields: Fields) -> list[Item]:
    """The features of a consumption, each named once."""
    raw = fields.raw("items")
    if not isinstance(raw, list) or not 1 <= len(raw) <= MAX_ITEMS:
        fields.faults.append(FieldError("/items", f"must be an array of 1 to {MAX_ITEMS} items"))
        return []
    items: list[Item] = []
    for place, body in enumerate(raw):
        each = Fields(body, {"feature", "quantity"}, f"/items/{place}")
        item = Item(each.id("feature"), each.quantity())
        if not each.faults and item.feature in {other.feature for other in items}:
            each.faults.append(FieldError(f"/items/{place}/feature", f"{item.feature} stands twice"))
        fields.faults += each.faults
        items.append(item)
    return items


_AMOUNT: Final[dict[str, Any]] = UNSIGNED_SCHEMA | {"type": ["string", "null"]}
_MAYBE_ID: Final[dict[str, Any]] = ID_SCHEMA | {"type": ["string", "null"]}
_MAYBE_TIME: Final[dict[str, Any]] = TIME_SCHEMA | {"type": ["string", "null"]}

_LIMIT: Final = r'"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}";'
LIMIT_HEADERS: Final[dict[str, Any]] = {
    "RateLimit-Policy": {
        "description": "The limit of each feature that has one, and its window in seconds (an IETF draft)",
        "schema": {"type": "string", "pattern": f"^({_LIMIT}q=[0-9]+(;w=[0-9]+)?(, )?)+$"},
    },
    "RateLimit": {
        "description": "What remains of it, and the seconds until it is whole again (an IETF draft)",
        "schema": {"type": "string", "pattern": f"^({_LIMIT}r=[0-9]+;t=[0-9]+(, )?)+$"},
    },
    "Retry-After": {
        "description": "After a no: the seconds until the same would be a yes, where that is known",
        "schema": {"type": "integer", "minimum": 1},
    },
}
"""Of the answers to checks and consumptions."""

DECISION_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": [
        "customer",
        "feature",
        "type",
        "allowed",
        "reason",
        "limit",
        "used",
        "reserved",
        "remaining",
        "overage",
        "resets_at",
        "plan",
        "subscription",
    ],
    "properties": {
        "customer": {"type": "string"},
        "feature": {"type": "string"},
        "type": {"enum": [*(kind.value for kind in FeatureType), None]},
        "allowed": {"type": "boolean"},
        "reason": {"enum": [reason.value for reason in Reason]},
        "limit": _AMOUNT,
        "used": _AMOUNT,
        "reserved": _AMOUNT,
        "remaining": _AMOUNT,
        "overage": _AMOUNT,
        "resets_at": _MAYBE_TIME,
        "plan": _MAYBE_ID,
        "subscription": _MAYBE_ID,
    },
}

DECISIONS_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["items", "next_cursor"],
    "properties": {
        "items": {"type": "array", "items": DECISION_SCHEMA},
        "next_cursor": {"type": "null"},
    },
}

QUANTITY_PARAMETER: Final[dict[str, Any]] = {
    "x-parameters": [
        {
            "name": "quantity",
            "in": "query",
            "schema": UNSIGNED_SCHEMA | {"default": "1"},
        }
    ]
}

_QUANTITY_SCHEMA: Final[dict[str, Any]] = QUANTITY_SCHEMA | {"default": "1"}
_STATUSES: Final[dict[str, Any]] = {"enum": [status.value for status in Status]}


def _request(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    schema = {"type": "object", "required": required, "additionalProperties": False, "properties": properties}
    return {"x-request-body": {"required": True, "content": {"application/json": {"schema": schema}}}}


CONSUME_REQUEST: Final = _request({"id": ID_SCHEMA, "quantity": _QUANTITY_SCHEMA, "time": _MAYBE_TIME}, ["id"])
SEVERAL_REQUEST: Final = _request(
    {
        "id": ID_SCHEMA,
        "items": {
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_ITEMS,
            "items": {
                "type": "object",
                "required": ["feature"],
                "additionalProperties": False,
                "properties": {"feature": ID_SCHEMA, "quantity": _QUANTITY_SCHEMA},
            },
        },
        "time": _MAYBE_TIME,
    },
    ["id", "items"],
)
RESERVE_REQUEST: Final = _request(
    {
        "id": ID_SCHEMA,
        "customer": ID_SCHEMA,
        "feature": ID_SCHEMA,
        "quantity": QUANTITY_SCHEMA,
        "expires_in_seconds": {"type": "integer", "minimum": 1, "maximum": MAX_RESERVED_SECONDS},
    },
    ["id", "customer", "feature", "quantity", "expires_in_seconds"],
)
COMMIT_REQUEST: Final = _request({"quantity": QUANTITY_SCHEMA}, ["quantity"])

CONSUMED_SCHEMA: Final[dict[str, Any]] = {
    **DECISION_SCHEMA,
    "required": [*DECISION_SCHEMA["required"], "status"],
    "properties": {**DECISION_SCHEMA["properties"], "status": _STATUSES},
}
SEVERAL_CONSUMED_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["id", "status", "allowed", "items"],
    "properties": {
        "id": ID_SCHEMA,
        "status": _STATUSES,
        "allowed": {"type": "boolean"},
        "items": {"type": "array", "items": DECISION_SCHEMA},
    },
}
RESERVATION_SCHEMA: Final[dict[str, Any]] = {
    **CONSUMED_SCHEMA,
    "required": [*CONSUMED_SCHEMA["required"], "id", "quantity", "expires_at"],
    "properties": {
        **CONSUMED_SCHEMA["properties"],
        "id": ID_SCHEMA,
        "quantity": UNSIGNED_SCHEMA,
        "expires_at": TIME_SCHEMA,
    },
}

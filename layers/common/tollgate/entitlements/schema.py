"""Entitlement answers in openapi.json; plain JSON schemas, so that the hot path imports no pydantic."""

from typing import Any, Final

from tollgate.catalog.model import FeatureType
from tollgate.entitlements.model import Reason

__all__ = ["DECISIONS_SCHEMA", "DECISION_SCHEMA", "QUANTITY_PARAMETER"]

_AMOUNT: Final[dict[str, Any]] = {"type": ["string", "null"], "description": "A decimal string"}

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
        "remaining": _AMOUNT,
        "overage": _AMOUNT,
        "resets_at": {"type": ["string", "null"], "format": "date-time"},
        "plan": {"type": ["string", "null"]},
        "subscription": {"type": ["string", "null"]},
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
            "schema": {"type": "string", "default": "1"},
            "description": "A decimal string, not negative",
        }
    ]
}

"""Events on the wire: CloudEvents 1.0 (HTTP binding: batched, structured, binary) and the simple form.

Read by hand, without pydantic: ingest is the hottest path there is, and one bad event must not fail its
neighbours, so that each fault becomes a `Rejection` in its event's place. Batches in which nothing is unusual are
read in one go (usual.py).
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from urllib.parse import unquote

from tollgate.kernel.errors import FieldError, InvalidInput, UnsupportedMediaType
from tollgate.kernel.ids import ID_PATTERN, ID_SCHEMA, MAX_CURSOR, is_id
from tollgate.kernel.json import deeper_than, read_json
from tollgate.kernel.money import QUANTITY_SCHEMA, UNSIGNED_SCHEMA, format_decimal
from tollgate.kernel.time import TIME_SCHEMA, format_time, parse_time
from tollgate.metering.fields import MAX_SOURCE, read_quantity, read_source
from tollgate.metering.model import MAX_EVENTS, Event, Rejection
from tollgate.metering.usual import read_usual_cloud_events, read_usual_events

__all__ = [
    "COUNTED_EVENTS_PARAMETERS",
    "COUNTED_EVENTS_SCHEMA",
    "EVENTS_SCHEMA",
    "EXPLANATION_PARAMETERS",
    "EXPLANATION_SCHEMA",
    "MAX_PROPERTIES_DEPTH",
    "MAX_SOURCE",
    "PREFERENCE_APPLIED",
    "QUEUED_SCHEMA",
    "RESULTS_SCHEMA",
    "USAGE_PARAMETERS",
    "USAGE_SCHEMA",
    "event_items",
    "event_to_dict",
    "read_event",
    "read_events",
    "read_simple_events",
]

MAX_PROPERTIES_DEPTH: Final = 16
_SIMPLE_KEYS: Final = frozenset({"id", "source", "customer", "feature", "quantity", "time", "properties"})


def read_events(body: str, headers: Mapping[str, str]) -> list[Event | Rejection]:
    """The events of a request, each read or rejected, in the order they stand in it.

    Args:
        body: the text of the body.
        headers: the request's headers, their names in lower case.

    Raises:
        UnsupportedMediaType: the content type is none that events come in.
        BadRequest: the body is not JSON.
        InvalidInput: the body as a whole is not what its content type says, or holds too many events.
    """
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/cloudevents-batch+json":
        if usual := read_usual_cloud_events(body):
            return [*usual]
        return [_read(_cloud_event, item) for item in _limited(_array(read_json(body)))]
    if media_type == "application/cloudevents+json":
        return [_read(_cloud_event, read_json(body))]
    if "ce-specversion" in headers:
        return [_read(_cloud_event, _binary_mode(body, media_type, headers))]
    if media_type == "application/json":
        if usual := read_usual_events(body):
            return [*usual]
        return read_simple_events(read_json(body))
    raise UnsupportedMediaType(
        "Send application/json, application/cloudevents+json, application/cloudevents-batch+json, "
        "or a CloudEvent in binary mode with its ce- headers."
    )


def read_simple_events(body: Any) -> list[Event | Rejection]:
    """One simple event, an array of them, or `{"events": [...]}`, each read or rejected."""
    return [_read(_simple, item) for item in event_items(body)]


def event_items(body: Any) -> list[Any]:
    """The events of a body that is one, an array of them, or `{"events": [...]}`: as they are, from 1 to 500.

    Raises:
        InvalidInput: it is none of these, or holds too many.
    """
    if isinstance(body, list):
        return _limited(body)
    if isinstance(body, dict) and "events" in body:
        if set(body) != {"events"} or not isinstance(body["events"], list):
            raise InvalidInput([FieldError("/events", "must be an array, and the only key of the body")])
        return _limited(body["events"], "/events")
    if isinstance(body, dict):
        return [body]
    raise InvalidInput([FieldError("", 'must be an event, an array of events, or {"events": [...]}')])


def read_event(item: Any) -> Event | Rejection:
    """An event of either form, where no content type tells which: a CloudEvent has a `specversion`."""
    is_cloud_event = isinstance(item, dict) and "specversion" in item
    return _read(_cloud_event if is_cloud_event else _simple, item)


def _array(body: Any) -> list[Any]:
    if not isinstance(body, list):
        raise InvalidInput([FieldError("", "a batch is an array of CloudEvents")])
    return body


def _limited(items: list[Any], pointer: str = "") -> list[Any]:
    if not 1 <= len(items) <= MAX_EVENTS:
        raise InvalidInput([FieldError(pointer, f"holds {len(items)} events; send from 1 to {MAX_EVENTS}")])
    return items


def _binary_mode(body: str, media_type: str, headers: Mapping[str, str]) -> dict[str, Any]:
    event: dict[str, Any] = {
        name.removeprefix("ce-"): unquote(value.strip('"')) for name, value in headers.items() if name.startswith("ce-")
    }
    if body:
        if media_type != "application/json":
            raise UnsupportedMediaType("The data of a usage event is application/json.")
        event["data"] = read_json(body)
    return event


class _Fault(ValueError):
    """What keeps an event from being read: a pointer into it, and why."""

    def __init__(self, pointer: str, detail: str) -> None:
        super().__init__(detail)
        self.pointer = pointer


def _read(form: Callable[[dict[str, Any]], Event], item: Any) -> Event | Rejection:
    if not isinstance(item, dict):
        return Rejection(None, "invalid", "must be an event: a JSON object")
    try:
        return form(item)
    except _Fault as fault:
        event_id = item.get("id")
        return Rejection(event_id[:128] if isinstance(event_id, str) else None, "invalid", str(fault), fault.pointer)


def _simple(item: dict[str, Any]) -> Event:
    if unknown := sorted(set(item) - _SIMPLE_KEYS):
        raise _Fault(f"/{unknown[0][:64]}", "is no key of an event; what else you know goes into properties")
    return Event(
        id=_id(item, "id"),
        source=_source(item.get("source", "")),
        customer=_id(item, "customer"),
        feature=_id(item, "feature"),
        quantity=_quantity(item.get("quantity", "1"), "/quantity"),
        time=_time(item.get("time")),
        properties=_object(item.get("properties"), "/properties"),
    )


def _cloud_event(item: dict[str, Any]) -> Event:
    if item.get("specversion") != "1.0":
        raise _Fault("/specversion", 'must be "1.0"')
    if "data_base64" in item:
        raise _Fault("/data_base64", "is not read: send data as a JSON object")
    if not item.get("source"):
        raise _Fault("/source", "must say where the event comes from")
    data = _object(item.get("data"), "/data")
    return Event(
        id=_id(item, "id"),
        source=_source(item["source"]),
        customer=_id(item, "subject"),
        feature=_id(item, "type"),
        quantity=_quantity(data.pop("quantity", "1"), "/data/quantity"),
        time=_time(item.get("time")),
        properties=data,
    )


def _id(item: dict[str, Any], key: str) -> str:
    value = item.get(key)
    if not is_id(value):
        raise _Fault(f"/{key}", f"must match {ID_PATTERN}")
    return value


def _source(value: Any) -> str:
    try:
        return read_source(value)
    except ValueError as error:
        raise _Fault("/source", str(error)) from None


def _object(value: Any, pointer: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _Fault(pointer, "must be a JSON object")
    if deeper_than(value, MAX_PROPERTIES_DEPTH):
        raise _Fault(pointer, f"must not be nested more than {MAX_PROPERTIES_DEPTH} deep")
    return dict(value)


def _quantity(value: Any, pointer: str) -> Decimal:
    try:
        return read_quantity(value)
    except ValueError as error:
        raise _Fault(pointer, str(error)) from None


def _time(value: Any) -> datetime | None:
    try:
        return None if value is None else parse_time(value)
    except ValueError as error:
        raise _Fault("/time", str(error)) from None


def event_to_dict(event: Event) -> dict[str, Any]:
    """The simple form of an event, as it waits in the queue."""
    body: dict[str, Any] = {
        "id": event.id,
        "source": event.source,
        "customer": event.customer,
        "feature": event.feature,
        "quantity": format_decimal(event.quantity),
        "properties": event.properties,
    }
    return body | ({"time": format_time(event.time)} if event.time else {})


_MAYBE_TIME: Final[dict[str, Any]] = TIME_SCHEMA | {"type": ["string", "null"]}
_MAYBE_ID: Final[dict[str, Any]] = ID_SCHEMA | {"type": ["string", "null"]}
_NUMBER: Final[dict[str, Any]] = {"type": "integer", "minimum": 0}
_QUANTITY: Final[dict[str, Any]] = QUANTITY_SCHEMA | {"default": "1", "description": "Not negative"}
_PROPERTIES: Final[dict[str, Any]] = {
    "type": ["object", "null"],
    "description": f"Nested at most {MAX_PROPERTIES_DEPTH} deep",
}
_EVENT_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "title": "UsageEvent",
    "required": ["id", "customer", "feature"],
    "additionalProperties": False,
    "properties": {
        "id": ID_SCHEMA,
        "source": {"type": "string", "maxLength": MAX_SOURCE},
        "customer": ID_SCHEMA,
        "feature": ID_SCHEMA,
        "quantity": _QUANTITY,
        "time": _MAYBE_TIME,
        "properties": _PROPERTIES,
    },
}
_CLOUD_EVENT_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "title": "UsageCloudEvent",
    "required": ["specversion", "id", "source", "type", "subject"],
    "properties": {
        "specversion": {"const": "1.0"},
        "id": ID_SCHEMA,
        "source": {"type": "string", "minLength": 1, "maxLength": MAX_SOURCE},
        "type": {**ID_SCHEMA, "description": "The feature"},
        "subject": {**ID_SCHEMA, "description": "The customer"},
        "time": _MAYBE_TIME,
        "data": _PROPERTIES | {"properties": {"quantity": _QUANTITY}},
    },
}


def _several(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": schema, "minItems": 1, "maxItems": MAX_EVENTS}


EVENTS_SCHEMA: Final[dict[str, Any]] = {
    "x-request-body": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "oneOf": [
                        _EVENT_SCHEMA,
                        _several(_EVENT_SCHEMA),
                        {
                            "type": "object",
                            "required": ["events"],
                            "additionalProperties": False,
                            "properties": {"events": _several(_EVENT_SCHEMA)},
                        },
                    ]
                }
            },
            "application/cloudevents+json": {"schema": _CLOUD_EVENT_SCHEMA},
            "application/cloudevents-batch+json": {"schema": _several(_CLOUD_EVENT_SCHEMA)},
        },
    },
    "x-parameters": [
        {
            "name": "Prefer",
            "in": "header",
            "schema": {"type": "string"},
            "description": "respond-async: queue the events and answer 202 at once (RFC 7240)",
        }
    ],
}
"""The request in openapi.json."""

RESULTS_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["results", "accepted", "duplicate", "conflict", "rejected"],
    "properties": {
        "results": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["id", "status"],
                "properties": {
                    "id": {"type": ["string", "null"], "maxLength": 128},
                    "status": {"enum": ["accepted", "duplicate", "conflict", "rejected"]},
                    "reason": {"type": "string"},
                    "detail": {"type": "string"},
                    "pointer": {"type": "string"},
                    "retryable": {"type": "boolean"},
                },
            },
        },
        **dict.fromkeys(("accepted", "duplicate", "conflict", "rejected"), _NUMBER),
    },
}
"""The answer in openapi.json."""

QUEUED_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["queued"],
    "properties": {"queued": {"type": "integer", "minimum": 1, "maximum": MAX_EVENTS}},
}
"""The answer where `Prefer: respond-async` was asked for."""

PREFERENCE_APPLIED: Final[dict[str, Any]] = {
    "Preference-Applied": {"required": True, "schema": {"const": "respond-async"}},
}
"""Its header."""

_PERIOD_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["start", "end"],
    "properties": {"start": TIME_SCHEMA, "end": TIME_SCHEMA},
}
_MAYBE_PERIOD: Final[dict[str, Any]] = _PERIOD_SCHEMA | {"type": ["object", "null"]}

USAGE_PARAMETERS: Final[dict[str, Any]] = {
    "x-parameters": [
        {"name": "feature", "in": "query", "required": True, "schema": ID_SCHEMA},
        {"name": "from", "in": "query", "schema": TIME_SCHEMA, "description": "Inclusive"},
        {"name": "to", "in": "query", "schema": TIME_SCHEMA, "description": "Exclusive"},
        {
            "name": "granularity",
            "in": "query",
            "schema": {"enum": ["period", "day", "hour"], "default": "period"},
        },
    ]
}
"""The query of `GET /v1/customers/{id}/usage` in openapi.json."""

USAGE_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["customer", "feature", "period", "quantity", "events", "buckets"],
    "properties": {
        "customer": ID_SCHEMA,
        "feature": ID_SCHEMA,
        "period": _PERIOD_SCHEMA,
        "quantity": UNSIGNED_SCHEMA,
        "events": _NUMBER,
        "buckets": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["start", "quantity", "events"],
                "properties": {
                    "start": TIME_SCHEMA,
                    "quantity": UNSIGNED_SCHEMA,
                    "events": _NUMBER,
                },
            },
        },
    },
}
"""The answer to it."""

EXPLANATION_PARAMETERS: Final[dict[str, Any]] = {
    "x-parameters": [
        {"name": "customer", "in": "query", "required": True, "schema": ID_SCHEMA},
        {"name": "id", "in": "query", "required": True, "schema": ID_SCHEMA},
        {
            "name": "source",
            "in": "query",
            "schema": {"type": "string", "maxLength": MAX_SOURCE, "default": ""},
        },
        {
            "name": "feature",
            "in": "query",
            "schema": ID_SCHEMA,
            "description": "Look among the events of this feature only",
        },
        {
            "name": "time",
            "in": "query",
            "schema": TIME_SCHEMA,
            "description": "Look at this time only; without it, at that of the id, then at the last 35 days",
        },
    ]
}
"""The query of `GET /v1/events` in openapi.json."""

EXPLANATION_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["id", "source", "customer", "feature", "outcome", "time", "period", "detail"],
    "properties": {
        **dict.fromkeys(("id", "customer"), ID_SCHEMA),
        **{name: {"type": "string"} for name in ("source", "detail")},
        "feature": _MAYBE_ID,
        "outcome": {"enum": ["counted", "unknown"]},
        "time": _MAYBE_TIME,
        "period": _MAYBE_PERIOD,
        "subscription": _MAYBE_ID,
        "quantity": UNSIGNED_SCHEMA | {"type": ["string", "null"]},
        "properties": {"type": ["object", "null"]},
        "reason": {"type": ["string", "null"], "description": "What it would be rejected for if it came now"},
    },
}
"""The answer to it."""

COUNTED_EVENTS_PARAMETERS: Final[dict[str, Any]] = {
    "x-parameters": [
        {"name": "feature", "in": "query", "required": True, "schema": ID_SCHEMA},
        {"name": "from", "in": "query", "schema": TIME_SCHEMA, "description": "Inclusive; 35 days ago without it"},
        {"name": "to", "in": "query", "schema": TIME_SCHEMA, "description": "Exclusive; now without it"},
        {
            "name": "limit",
            "in": "query",
            "schema": {"type": "integer", "minimum": 1, "maximum": MAX_EVENTS, "default": 100},
            "description": "A page may hold fewer and yet not be the last: go by next_cursor",
        },
        {"name": "cursor", "in": "query", "schema": {"type": "string", "maxLength": MAX_CURSOR}},
    ]
}
"""The query of `GET /v1/customers/{id}/events` in openapi.json."""

COUNTED_EVENTS_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["items", "next_cursor"],
    "properties": {
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["id", "source", "time", "quantity", "properties", "period", "subscription"],
                "properties": {
                    **dict.fromkeys(("id", "subscription"), ID_SCHEMA),
                    "source": {"type": "string"},
                    "quantity": UNSIGNED_SCHEMA,
                    "time": TIME_SCHEMA,
                    "properties": {"type": ["object", "null"]},
                    "period": _MAYBE_PERIOD,
                },
            },
        },
        "next_cursor": {"type": ["string", "null"]},
    },
}
"""The answer to it."""

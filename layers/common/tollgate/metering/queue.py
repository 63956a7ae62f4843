"""Events that wait in a queue to be counted.

A message holds the events of `POST /v1/events`: one, an array of them or `{"events": [...]}`, each in the simple form
or a CloudEvent. Two envelopes may be around them:

    {"received_at": "...", "events": [...]}          what `Prefer: respond-async` has sent to wait
    {"detail-type": ..., "time": ..., "detail": ...} what came over the EventBridge bus, `detail` being the events

An event that has no time counts when it was received: at `received_at`, at the envelope's `time`, else when the message
reached the queue. That never changes, however often the message comes and wherever it has been moved meanwhile, so that
the event is known again.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import FieldError, InvalidInput
from tollgate.kernel.json import read_json
from tollgate.kernel.time import format_time, parse_time
from tollgate.metering.model import MAX_AGE, MAX_AHEAD, Event, Rejection
from tollgate.metering.schema import event_items, event_to_dict, read_event

__all__ = ["ORIGINAL_ID", "RECEIVED_AT", "Message", "messages", "packed", "read_message"]

ORIGINAL_ID: Final = "tollgate-original-id"
"""The message attribute with the id that a message had before it was redriven."""

RECEIVED_AT: Final = "tollgate-received-at"
"""The message attribute with the time at which a message that was redriven first reached the queue."""

_MAX_MESSAGE_BYTES: Final = 240_000
"""SQS takes at least 256 KB, with what it adds."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Message:
    """What a message holds: its events as they were sent and, in the same order, as they are read."""

    received_at: datetime
    items: Sequence[Any]
    events: Sequence[Event | Rejection]


def messages(events: Sequence[Event | Rejection], received_at: datetime) -> Iterator[str]:
    """The events in as few messages as hold them.

    Raises:
        InvalidInput: an event could not be read, or is too large to queue; nothing should be sent then.
    """
    faults = [
        FieldError(f"/{place}{event.pointer}", event.detail)
        for place, event in enumerate(events)
        if isinstance(event, Rejection)
    ]
    if faults:
        raise InvalidInput(faults)
    texts = [json.dumps(event_to_dict(event)) for event in events if isinstance(event, Event)]
    too_large = [place for place, text in enumerate(texts) if len(text) > _MAX_MESSAGE_BYTES]
    if too_large:
        raise InvalidInput([FieldError(f"/{place}", "is too large to wait in a queue") for place in too_large])
    return (_message(part, received_at) for part in packed(texts, len, _MAX_MESSAGE_BYTES))


def packed(things: Sequence[_T], size: Callable[[_T], int], limit: int) -> Iterator[list[_T]]:
    """The things, in their order, in parts whose sizes, with a separator between, add up to at most the limit each.

    What alone is larger is a part by itself.
    """
    part: list[_T] = []
    used = 0
    for thing in things:
        if part and used + 1 + size(thing) > limit:
            yield part
            part, used = [], 0
        used += size(thing) + bool(part)
        part.append(thing)
    if part:
        yield part


def _message(texts: Sequence[str], received_at: datetime) -> str:
    return f'{{"received_at":"{format_time(received_at)}","events":[{",".join(texts)}]}}'


def read_message(body: str, sent_at: datetime, received_at: str | None = None) -> Message:
    """The events of a message that reached the queue at `sent_at`.

    Args:
        body: the message's text.
        sent_at: by the queue's clock.
        received_at: the attribute RECEIVED_AT of a message that was redriven.

    Raises:
        BadRequest, InvalidInput: it is no such message, or says that it was received at a time that cannot be.
    """
    content, told, pointer = read_json(body), received_at, f"/messageAttributes/{RECEIVED_AT}"
    if isinstance(content, dict) and {"received_at", "events"} <= content.keys():
        told, pointer = content.pop("received_at"), "/received_at"
    elif isinstance(content, dict) and {"detail", "detail-type"} <= content.keys():
        told, pointer, content = content.get("time"), "/time", content["detail"]
    items = event_items(content)
    at = sent_at if told is None else _received_at(told, pointer, sent_at)
    return Message(at, items, [read_event(item) for item in items])


def _received_at(told: object, pointer: str, sent_at: datetime) -> datetime:
    try:
        received_at = parse_time(told)
    except ValueError as error:
        raise InvalidInput([FieldError(pointer, str(error))]) from None
    if not sent_at - MAX_AGE <= received_at <= sent_at + MAX_AHEAD:
        detail = f"must be at most {MAX_AGE.days} days before and 5 minutes after the message reached the queue"
        raise InvalidInput([FieldError(pointer, detail)])
    return received_at

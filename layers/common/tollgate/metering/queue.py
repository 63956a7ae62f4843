"""Events that wait in a queue to be counted: `Prefer: respond-async` puts them there.

A message is `{"received_at": "...", "events": [...]}`, the events in the simple form of `POST /v1/events`. The time
of receipt stays what it was when the message is moved to a dead-letter queue and back; a message that does not
name it was received when it reached the queue.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from tollgate.kernel.errors import FieldError, InvalidInput
from tollgate.kernel.json import read_json
from tollgate.kernel.time import format_time, parse_time
from tollgate.metering.model import Event, Rejection
from tollgate.metering.schema import event_to_dict, read_simple_events

__all__ = ["messages", "read_message"]

_MAX_MESSAGE_BYTES: Final = 240_000
"""SQS takes at least 256 KB, with what it adds."""


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
    return (_message(part, received_at) for part in _packed(texts))


def _packed(texts: Sequence[str]) -> Iterator[list[str]]:
    part: list[str] = []
    for text in texts:
        if part and sum(map(len, part)) + len(part) + len(text) > _MAX_MESSAGE_BYTES:
            yield part
            part = []
        part.append(text)
    yield part


def _message(texts: Sequence[str], received_at: datetime) -> str:
    return f'{{"received_at":"{format_time(received_at)}","events":[{",".join(texts)}]}}'


def read_message(body: str, sent_at: datetime) -> tuple[datetime, list[Event | Rejection]]:
    """When the events of a message, which reached the queue at `sent_at`, were received, and the events.

    Raises:
        BadRequest, InvalidInput: it is not such a message.
    """
    message = read_json(body)
    if not isinstance(message, dict) or not {"events"} <= set(message) <= {"received_at", "events"}:
        raise InvalidInput([FieldError("", 'must be {"received_at": ..., "events": [...]}')])
    try:
        received_at = parse_time(message.pop("received_at")) if "received_at" in message else sent_at
    except ValueError as error:
        raise InvalidInput([FieldError("/received_at", str(error))]) from None
    return received_at, read_simple_events(message)

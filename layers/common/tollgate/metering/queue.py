"""Events that wait in a queue to be counted: `Prefer: respond-async` puts them there.

A message is `{"events": [...]}` in the simple form of `POST /v1/events`.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Final

from tollgate.kernel.errors import FieldError, InvalidInput
from tollgate.metering.model import Event, Rejection
from tollgate.metering.schema import event_to_dict, read_events

__all__ = ["messages", "read_message"]

_MAX_MESSAGE_BYTES: Final = 240_000
"""SQS takes at least 256 KB, with what it adds."""


def messages(events: Sequence[Event | Rejection]) -> Iterator[str]:
    """The events in as few messages as hold them.

    Raises:
        InvalidInput: an event could not be read, or is too large to queue; nothing should be sent then.
    """
    faults = [
        FieldError(f"/{place}{event.detail.partition(': ')[0]}", event.detail.partition(": ")[2])
        for place, event in enumerate(events)
        if isinstance(event, Rejection)
    ]
    if faults:
        raise InvalidInput(faults)
    texts = [json.dumps(event_to_dict(event)) for event in events if isinstance(event, Event)]
    too_large = [place for place, text in enumerate(texts) if len(text) > _MAX_MESSAGE_BYTES]
    if too_large:
        raise InvalidInput([FieldError(f"/{place}", "is too large to wait in a queue") for place in too_large])
    return _packed(texts)


def _packed(texts: Sequence[str]) -> Iterator[str]:
    part: list[str] = []
    for text in texts:
        if part and sum(map(len, part)) + len(part) + len(text) > _MAX_MESSAGE_BYTES:
            yield _message(part)
            part = []
        part.append(text)
    yield _message(part)


def _message(texts: Sequence[str]) -> str:
    return '{"events":[' + ",".join(texts) + "]}"


def read_message(body: str) -> list[Event | Rejection]:
    """The events of a message.

    Raises:
        BadRequest, InvalidInput: it is not such a message.
    """
    return read_events(body, {"content-type": "application/json"})

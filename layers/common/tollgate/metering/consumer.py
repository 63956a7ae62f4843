"""The consumer of the events queue: every event of a message is counted, or what became of it is written down.

    the message                                    is then        and an error record says
    all its events count or are duplicates         done           -
    some can never count                           done           which, as they were sent, and why
    some could not be counted in time              here again     -
    cannot be read                                 here again     where and why, from the first time on
    comes for the last time, and is not counted    dead           that it is, even if the function is killed

What is here again too often, the queue moves to its dead-letter queue. A message is always safe to consume again: what
was counted is a duplicate, and what was written down is not written twice.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import BadRequest, FieldError, InvalidInput, Unavailable
from tollgate.kernel.time import format_time, from_epoch_ms
from tollgate.metering.model import Event, Rejection
from tollgate.metering.queue import ORIGINAL_ID, RECEIVED_AT, Message, packed, read_message
from tollgate.metering.service import Result

__all__ = ["Delivery", "Failure", "consume", "delivery_of"]

RESERVE: Final = 20.0
"""Seconds: a message is not begun with less, which is two calls that time out and a record to write."""

MAX_RECORD: Final = 60_000
"""Characters of events in one error record, which takes 100,000 and writes numbers as texts, two characters longer."""

EXCERPT: Final = 500
"""Characters of a message that cannot be read, shown in its error record."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as the queue hands it over, for the `receives`-th time.

    A redrive tells which id the message had before (`original`) and when it was received then (`received_at`).
    """

    id: str
    body: str
    sent_at: datetime
    receives: int = 1
    original: str | None = None
    received_at: str | None = None

    @property
    def key(self) -> str:
        """What the message keeps when it is redriven."""
        return self.original or self.id


def delivery_of(record: Mapping[str, Any]) -> Delivery:
    """A message from the record of it that Lambda hands over."""
    told = record.get("messageAttributes", {})
    original, received_at = (told.get(name, {}).get("stringValue") for name in (ORIGINAL_ID, RECEIVED_AT))
    return Delivery(
        id=record["messageId"],
        body=record["body"],
        sent_at=from_epoch_ms(int(record["attributes"]["SentTimestamp"])),
        receives=int(record["attributes"]["ApproximateReceiveCount"]),
        original=original,
        received_at=received_at,
    )


@dataclass(frozen=True, slots=True)
class Failure:
    """What an error record is to say; the same `key` again is the same failure.

    `is_final` tells input that fails in the same way each time from a failure that passes.
    """

    key: str
    is_final: bool
    arguments: Mapping[str, Any]
    context: Mapping[str, Any]
    error: Exception | str


def consume(
    delivery: Delivery,
    *,
    count: Callable[[Sequence[Event | Rejection], datetime], Sequence[Result]],
    write_down: Callable[[Failure], None],
    resolve: Callable[[str], None],
    time_left: Callable[[], float],
    max_receives: int,
) -> None:
    """Count the events of a message.

    Args:
        delivery: the message.
        count: counts events that were received at a time: a result per event, in order.
        write_down: makes an error record, once per key.
        resolve: resolves the error record of a key, if there is one.
        time_left: the seconds until the function ends.
        max_receives: after so many the queue moves the message to its dead-letter queue.

    Raises:
        Unavailable: not all could be counted in time; the message should come again.
        BadRequest, InvalidInput: it can never be dealt with; it should come again until it is moved away.
    """
    is_last = delivery.receives >= max_receives
    if time_left() < RESERVE:
        if is_last:
            write_down(_unfinished(delivery))
        raise Unavailable("There is no time left to begin with the message.")
    message = _read(delivery, write_down)
    if is_last:  # before it is tried: a function that is killed writes nothing
        write_down(_unfinished(delivery))
    results = count(message.events, message.received_at)
    if any(result.retryable for result in results):
        raise Unavailable("Some events could not be counted in time.")
    for failure in _lost(delivery, message, results):
        write_down(failure)
    if is_last or delivery.original:
        resolve(delivery.key)


def _read(delivery: Delivery, write_down: Callable[[Failure], None]) -> Message:
    try:
        return read_message(delivery.body, delivery.sent_at, delivery.received_at)
    except (BadRequest, InvalidInput) as error:
        faults = error.errors if isinstance(error, InvalidInput) else (FieldError("", error.detail),)
        arguments = {
            "reason": "unreadable",
            "errors": [{"pointer": fault.pointer, "detail": fault.detail} for fault in faults],
        }
        context = _context(delivery) | {"excerpt": delivery.body[:EXCERPT]}
        write_down(Failure(delivery.key, is_final=True, arguments=arguments, context=context, error=error))
        raise


def _unfinished(delivery: Delivery) -> Failure:
    return Failure(
        delivery.key,
        is_final=False,
        arguments={"reason": "unfinished"},
        context=_context(delivery),
        error=f"was not counted in {delivery.receives} receives: time ran out or the function ended; its log says more",
    )


def _lost(delivery: Delivery, message: Message, results: Sequence[Result]) -> Iterator[Failure]:
    """The events that will never count, in as many records as hold them.

    Raises:
        InvalidInput: one is too large for a record; the message, which then ends in the dead-letter queue, keeps it.
    """
    lost = [
        {
            "id": result.id,
            "reason": result.reason or result.status,
            "detail": result.detail,
            "pointer": result.pointer,
            "event": item,
        }
        for item, result in zip(message.items, results, strict=True)
        if result.status in {"rejected", "conflict"}
    ]
    for number, part in enumerate(packed(lost, _size, MAX_RECORD)):
        error: Exception | str = f"{len(lost)} of {len(results)} events of the message do not count"
        if _size(part[0]) > MAX_RECORD:
            error = InvalidInput([FieldError("", "an event that does not count is too large for an error record")])
            part = [one | {"event": None} for one in part]  # noqa: PLW2901 - the message keeps it
        yield Failure(
            f"{delivery.key}/{number}",
            is_final=True,
            arguments={"reason": "not_counted", "received_at": format_time(message.received_at), "events": part},
            context=_context(delivery),
            error=error,
        )
        if isinstance(error, Exception):
            raise error


def _size(lost: Mapping[str, Any]) -> int:
    return len(json.dumps(lost))


def _context(delivery: Delivery) -> dict[str, Any]:
    return {"message_id": delivery.id, "receives": delivery.receives} | (
        {"original_message_id": delivery.original} if delivery.original else {}
    )

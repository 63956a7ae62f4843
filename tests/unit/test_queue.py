"""What a message of the events queue may hold, and when its events were received."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollgate.kernel.errors import BadRequest, InvalidInput
from tollgate.metering.model import Event, Rejection
from tollgate.metering.queue import Message, messages, packed, read_message

NOW = datetime(2026, 2, 1, tzinfo=UTC)
LATER = timedelta(days=20)
MINUTE = timedelta(minutes=1)
SIMPLE: dict[str, Any] = {
    "id": "e1",
    "source": "/web",
    "customer": "ada",
    "feature": "requests",
    "quantity": "2.5",
    "time": "2026-01-31T08:30:00Z",
    "properties": {"region": "eu"},
}
CLOUD: dict[str, Any] = {
    "specversion": "1.0",
    "id": "e1",
    "source": "/web",
    "type": "requests",
    "subject": "ada",
    "time": "2026-01-31T08:30:00Z",
    "data": {"quantity": "2.5", "region": "eu"},
}
EVENT = Event(
    "e1", "/web", "ada", "requests", Decimal("2.5"), datetime(2026, 1, 31, 8, 30, tzinfo=UTC), {"region": "eu"}
)
TIMELESS = Event("e2", "", "ada", "requests", Decimal(1), None, {})


def read(body: Any, sent_at: datetime = NOW, **more: str) -> Message:
    """Read a message."""
    return read_message(body if isinstance(body, str) else json.dumps(body), sent_at, **more)


def over_the_bus(detail: Any, time: Any = "2026-01-31T23:59:59Z") -> dict[str, Any]:
    """What EventBridge makes of an entry that was put on the bus."""
    return {
        "version": "0",
        "id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718",
        "detail-type": "usage",
        "source": "shop",
        "account": "123456789012",
        "time": time,
        "region": "eu-central-1",
        "resources": [],
        "detail": detail,
    }


@pytest.mark.parametrize("event", [SIMPLE, CLOUD])
@pytest.mark.parametrize("shape", [lambda event: event, lambda event: [event], lambda event: {"events": [event]}])
def test_an_event_of_either_form_comes_alone_in_an_array_or_under_events(event: Any, shape: Any) -> None:
    """It was received when the message reached the queue; what it is read from stands beside it."""
    assert read(shape(event)) == Message(NOW, [event], [EVENT])


@pytest.mark.parametrize("detail", [SIMPLE, CLOUD, {"events": [SIMPLE]}, {"events": [CLOUD]}])
def test_what_came_over_the_bus_was_received_when_it_was_put_there(detail: Any) -> None:
    """However late it is delivered, and twice if it comes twice."""
    assert read(over_the_bus(detail)).events == [EVENT]
    assert read(over_the_bus(detail), NOW + LATER).received_at == datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)


def test_simple_events_and_cloudevents_may_stand_side_by_side() -> None:
    """Each says itself what it is."""
    assert read([SIMPLE, CLOUD, SIMPLE]).events == [EVENT] * 3


def test_queued_events_come_out_as_they_went_in() -> None:
    """A time that was not told is not made up on the way."""
    (message,) = messages([EVENT, TIMELESS], NOW)
    found = read(message, NOW + LATER)
    assert (found.received_at, found.events) == (NOW, [EVENT, TIMELESS])


def test_many_events_are_queued_in_messages_that_a_queue_takes() -> None:
    """No message is larger than 256 KB, and none is lost."""
    events = [
        Event(f"e{number}", "", "ada", "requests", Decimal(1), None, {"note": "x" * 1_900}) for number in range(500)
    ]
    texts = list(messages(events, NOW))
    assert max(len(text.encode()) for text in texts) < 256_000
    assert [event for text in texts for event in read(text).events] == events


def test_nothing_is_queued_when_an_event_cannot_be_read() -> None:
    """Nobody would hear of it later, so the whole request is refused, with a pointer to the event."""
    with pytest.raises(InvalidInput) as refused:
        messages([EVENT, Rejection("e2", "invalid", "must not be negative", "/quantity")], NOW)
    assert [(error.pointer, error.detail) for error in refused.value.errors] == [
        ("/1/quantity", "must not be negative")
    ]


def test_whatever_can_be_sent_to_wait_can_be_read_when_its_turn_comes() -> None:
    """Properties as deep as they may be, in a batch; and over the bus."""
    deep: dict[str, Any] = {}
    for _ in range(15):
        deep = {"deeper": deep}
    (event,) = read(SIMPLE | {"properties": deep}).events
    assert isinstance(event, Event)
    (message,) = messages([event] * 2, NOW)
    assert read(message, NOW + LATER).events == [event] * 2
    assert read(over_the_bus({"events": [SIMPLE | {"properties": deep}]})).events == [event]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("", "malformed JSON at line 1"),
        ("usage", "malformed JSON"),
        ('{"id": "e1", "id": "e2"}', "the key 'id' stands twice"),
        ('[{"quantity": NaN}]', "NaN is not a JSON value"),
        ('[{"quantity": 1e400}]', "out of range"),
        ("[" * 40 + "]" * 40, "nested more than 32 deep"),
        ('"\\ud800"', "half a surrogate pair"),
    ],
)
def test_what_is_no_json_is_no_message(body: str, why: str) -> None:
    """It says where, for the error record."""
    with pytest.raises(BadRequest, match=why):
        read(body)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ("7", ""),
        ("null", ""),
        ([], ""),
        ([SIMPLE] * 501, ""),
        ({"events": [SIMPLE] * 501}, "/events"),
        ({"events": {}}, "/events"),
        ({"events": [SIMPLE], "more": 1}, "/events"),
        ({"events": [], "received_at": "2026-02-01T00:00:00Z"}, "/events"),
        ({"events": [SIMPLE], "received_at": "now"}, "/received_at"),
        ({"events": [SIMPLE], "received_at": 1700000000}, "/received_at"),
        (over_the_bus(SIMPLE, "yesterday"), "/time"),
        (over_the_bus("text"), ""),
        (over_the_bus({"events": []}), "/events"),
    ],
)
def test_what_has_another_shape_or_size_is_no_message(body: Any, pointer: str) -> None:
    """A pointer says what is wrong with it."""
    with pytest.raises(InvalidInput) as refused:
        read(body)
    assert [error.pointer for error in refused.value.errors] == [pointer]


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"quantity": 0.5}, "/quantity"),
        ({"quantity": "1" * 40}, "/quantity"),
        ({"customer": None}, "/customer"),
        ({"received_at": "2026-02-01T00:00:00Z"}, "/received_at"),
        ({"detail": {}}, "/detail"),
    ],
)
def test_a_bad_event_is_rejected_in_its_place_and_its_neighbours_are_read(change: Any, pointer: str) -> None:
    """As over the API; what was sent is kept for the error record."""
    found = read([SIMPLE | change, CLOUD])
    bad, good = found.events
    assert isinstance(bad, Rejection)
    assert (bad.reason, bad.pointer) == ("invalid", pointer)
    assert good == EVENT
    assert found.items == [SIMPLE | change, CLOUD]


def test_a_message_that_was_redriven_was_received_when_it_first_reached_the_queue() -> None:
    """The queue gives it a new time; the attribute of the redrive has the old one."""
    assert read(SIMPLE, NOW + LATER, received_at="2026-02-01T00:00:00Z").received_at == NOW


def test_what_a_message_says_itself_goes_before_the_attribute() -> None:
    """Both are the same, unless someone has moved the message about."""
    queued = {"events": [SIMPLE], "received_at": "2026-02-01T00:00:00Z"}
    for body, expected in ((queued, NOW), (over_the_bus(SIMPLE), NOW - timedelta(seconds=1))):
        assert read(body, NOW + LATER, received_at="2026-02-03T00:00:00Z").received_at == expected


@pytest.mark.parametrize(
    ("sent_at", "fits"),
    [
        (NOW - 5 * MINUTE, True),
        (NOW - 5 * MINUTE - timedelta(microseconds=1), False),
        (NOW + timedelta(days=35), True),
        (NOW + timedelta(days=35, microseconds=1), False),
    ],
)
@pytest.mark.parametrize("how", ["body", "attribute", "envelope"])
def test_a_message_cannot_have_been_received_long_before_or_after_it_was_sent(
    sent_at: datetime, fits: bool, how: str
) -> None:
    """35 days and 5 minutes, as for events: by another clock an old event could be counted again."""
    told = "2026-02-01T00:00:00Z"
    body: Any = {"body": {"events": [SIMPLE], "received_at": told}, "envelope": over_the_bus(SIMPLE, told)}
    attribute = {"received_at": told} if how == "attribute" else {}
    if fits:
        assert read(body.get(how, SIMPLE), sent_at, **attribute).received_at == NOW
    else:
        with pytest.raises(InvalidInput, match="35 days before and 5 minutes after"):
            read(body.get(how, SIMPLE), sent_at, **attribute)


@given(st.lists(st.integers(0, 40)), st.integers(1, 60))
def test_what_is_packed_keeps_its_order_and_the_limit(sizes: list[int], limit: int) -> None:
    """A part over the limit is one thing alone, and no two neighbours would have fitted together."""
    parts = list(packed(sizes, lambda size: size, limit))
    assert [size for part in parts for size in part] == sizes
    assert all(parts)
    assert all(sum(part) + len(part) - 1 <= limit or len(part) == 1 for part in parts)
    assert all(sum(one) + len(one) + other[0] > limit for one, other in pairwise(parts))

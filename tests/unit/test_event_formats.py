"""Every form in which events come in, and how bad ones are told from good."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from tollgate.kernel.errors import BadRequest, InvalidInput, UnsupportedMediaType
from tollgate.metering.model import Event, Rejection, time_of_id
from tollgate.metering.schema import read_events

SIMPLE: dict[str, Any] = {
    "id": "e1",
    "source": "/web",
    "customer": "ada",
    "feature": "requests",
    "quantity": "2.5",
    "time": "2026-01-31T09:30:00+01:00",
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


def read(body: Any, media_type: str = "application/json", **headers: str) -> list[Event | Rejection]:
    """Read a body as JSON of a media type."""
    text = body if isinstance(body, str) else json.dumps(body)
    return read_events(text, {"content-type": media_type} | {name.replace("_", "-"): headers[name] for name in headers})


@pytest.mark.parametrize("body", [SIMPLE, [SIMPLE], {"events": [SIMPLE]}])
def test_a_simple_event_comes_alone_in_an_array_or_under_events(body: Any) -> None:
    """The three shapes of application/json say the same."""
    assert read(body) == [EVENT]


def test_a_structured_cloudevent_is_the_same_event() -> None:
    """Subject is the customer, type the feature, data.quantity the quantity, the rest of data the properties."""
    assert read(CLOUD, "application/cloudevents+json; charset=utf-8") == [EVENT]


def test_a_batch_of_cloudevents_keeps_its_order() -> None:
    """One result per event, in the order of the batch."""
    second = CLOUD | {"id": "e2"}
    assert [event.id for event in read([CLOUD, second], "application/cloudevents-batch+json")] == ["e1", "e2"]


def test_a_binary_cloudevent_has_its_attributes_in_headers() -> None:
    """Percent-encoded and quoted header values are decoded (CloudEvents HTTP binding, 3.1.3.2)."""
    headers = {
        "ce_specversion": "1.0",
        "ce_id": "e1",
        "ce_source": '"%2Fweb"',
        "ce_type": "requests",
        "ce_subject": "ada",
        "ce_time": "2026-01-31T08:30:00Z",
    }
    assert read({"quantity": "2.5", "region": "eu"}, **headers) == [EVENT]


def test_a_quantity_left_out_is_one() -> None:
    """In both forms."""
    simple = {key: value for key, value in SIMPLE.items() if key != "quantity"}
    cloud = CLOUD | {"data": None}
    for (event,) in (read(simple), read(cloud, "application/cloudevents+json")):
        assert isinstance(event, Event)
        assert event.quantity == 1


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"id": ""}, "/id"),
        ({"id": 7}, "/id"),
        ({"id": "a b"}, "/id"),
        ({"id": "x" * 129}, "/id"),
        ({"id": "a#b"}, "/id"),
        ({"customer": None}, "/customer"),
        ({"feature": ["requests"]}, "/feature"),
        ({"source": 1}, "/source"),
        ({"source": "s" * 513}, "/source"),
        ({"quantity": 0.5}, "/quantity"),
        ({"quantity": True}, "/quantity"),
        ({"quantity": None}, "/quantity"),
        ({"quantity": "NaN"}, "/quantity"),
        ({"quantity": "1e400"}, "/quantity"),
        ({"quantity": "-1"}, "/quantity"),
        ({"quantity": "1" * 40}, "/quantity"),
        ({"time": "yesterday"}, "/time"),
        ({"time": "2026-01-31T09:30:00"}, "/time"),
        ({"time": "2026-02-30T09:30:00Z"}, "/time"),
        ({"time": 1700000000}, "/time"),
        ({"properties": []}, "/properties"),
        ({"properties": {"a": [[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]}}, "/properties"),
        ({"quantitty": "1"}, "/quantitty"),
    ],
)
def test_a_bad_event_is_rejected_with_a_pointer_and_its_neighbours_are_read(
    change: dict[str, Any], pointer: str
) -> None:
    """One bad event never fails the others."""
    bad, good = read([SIMPLE | change, SIMPLE])
    assert isinstance(bad, Rejection)
    assert (bad.reason, bad.pointer) == ("invalid", pointer)
    assert bad.detail
    assert good == EVENT


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"specversion": "0.3"}, "/specversion"),
        ({"source": ""}, "/source"),
        ({"subject": None}, "/subject"),
        ({"type": "a/b"}, "/type"),
        ({"data": "text"}, "/data"),
        ({"data": {"quantity": 1.5}}, "/data/quantity"),
        ({"data_base64": "AA=="}, "/data_base64"),
    ],
)
def test_a_bad_cloudevent_is_rejected_with_a_pointer(change: dict[str, Any], pointer: str) -> None:
    """Pointers are into the CloudEvent as it was sent."""
    (bad,) = read(CLOUD | change, "application/cloudevents+json")
    assert isinstance(bad, Rejection)
    assert bad.pointer == pointer


@pytest.mark.parametrize("item", ["text", 7, None, ["nested"]])
def test_what_is_no_object_is_rejected_in_its_place(item: Any) -> None:
    """It has no id to name."""
    bad, good = read([item, SIMPLE])
    assert bad == Rejection(None, "invalid", "must be an event: a JSON object")
    assert good == EVENT


@pytest.mark.parametrize("body", ["", "{", '{"id": 1, "id": 2}', "[NaN]", "[" * 10_000])
def test_what_is_no_json_fails_the_request(body: str) -> None:
    """Malformed, ambiguous or bottomless JSON is refused as a whole."""
    with pytest.raises(BadRequest):
        read(body)


@pytest.mark.parametrize("body", [[], [SIMPLE] * 501, {"events": {}}, {"events": [SIMPLE], "more": 1}, "7"])
def test_a_body_of_the_wrong_shape_or_size_fails_the_request(body: Any) -> None:
    """From 1 to 500 events, in one of the three shapes."""
    with pytest.raises(InvalidInput):
        read(body)


@pytest.mark.parametrize("media_type", ["text/plain", "", "application/xml"])
def test_another_media_type_is_refused(media_type: str) -> None:
    """The answer names those that are read."""
    with pytest.raises(UnsupportedMediaType, match="cloudevents-batch"):
        read([SIMPLE], media_type)


def test_ids_that_carry_their_time_tell_it() -> None:
    """UUIDv7 (RFC 9562, its own example) and ULID (its specification's example); others carry none."""
    assert time_of_id("017F22E2-79B0-7CC3-98C4-DC0C0C07398F") == datetime(2022, 2, 22, 19, 22, 22, tzinfo=UTC)
    assert time_of_id("01ARYZ6S41TSV4RRFFQ69G5FAV") == datetime(2016, 7, 30, 22, 36, 16, 385000, tzinfo=UTC)
    assert time_of_id("017f22e2-79b0-4cc3-98c4-dc0c0c07398f") is None
    assert time_of_id("req-00001") is None
    assert time_of_id("01234567890123456789012345") is None, "26 digits are a number"
    assert time_of_id("7ZZZZZZZZZZZZZZZZZZZZZZZZZ") == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)

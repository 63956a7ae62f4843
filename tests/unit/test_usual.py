"""Batches that are read in one go are read as care reads them, and what is unusual is left to care."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.payload import HEADERS, Sender
from tollgate.kernel.errors import BadRequest, InvalidInput
from tollgate.metering.model import Event
from tollgate.metering.schema import read_events
from tollgate.metering.usual import read_usual_cloud_events, read_usual_events

TIME = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
CLOUD: dict[str, Any] = {
    "specversion": "1.0",
    "id": "e1",
    "source": "/gateway",
    "type": "calls",
    "subject": "ada",
    "time": "2026-11-23T12:30:00Z",
    "datacontenttype": "application/json",
    "data": {"quantity": "2.50", "region": "eu", "count": 3, "share": 0.1, "cached": True, "note": None},
}
SIMPLE: dict[str, Any] = {
    "id": "e1",
    "source": "/gateway",
    "customer": "ada",
    "feature": "calls",
    "quantity": "2.50",
    "time": "2026-11-23T12:30:00Z",
    "properties": CLOUD["data"] | {"quantity": "of another kind"},
}
FORMS = {
    "cloud": (CLOUD, HEADERS, read_usual_cloud_events),
    "simple": (SIMPLE, {"content-type": "application/json"}, read_usual_events),
}
Reader = Callable[[str], list[Event] | None]


def read(body: str, headers: dict[str, str]) -> Any:
    """The events of a body, or how it is refused."""
    try:
        return read_events(body, headers)
    except BadRequest as error:
        return "bad request", error.detail
    except InvalidInput as error:
        return error.errors


def read_with_care(body: str, headers: dict[str, str]) -> Any:
    """The same, by the careful reading alone."""
    with (
        mock.patch("tollgate.metering.schema.read_usual_cloud_events", return_value=None),
        mock.patch("tollgate.metering.schema.read_usual_events", return_value=None),
    ):
        return read(body, headers)


def exact(found: Any) -> str:
    """So that 1, 1.0 and true, or 1 and 1.00, are told apart."""
    return repr(found)


ODD = st.sampled_from(
    [
        *("", "x", "-1", "1e400", "0.05", "1", "01", 1, 0, -1, 1.0, 1.5, True, None, 10**19, 10**20, 10**40, "9" * 40),
        *("2026-11-23T12:30:00Z", "2026-11-23t12:30:00.1234567z", "2026-W48-1T12:30:00Z", "2026-11-23T14:30:00+02:00"),
        *(" ", "a b", "a:b", '"', '":', '" :', "\\", "é", "\U0001f600", "\0", "a" * 128, "a" * 129, "a" * 600),
        *("urn:tollgate:reservation", "0.3", [], {}, {"a": {"b": [1]}}, ["deep", ["er"]]),
    ]
)
"""Values for any key: right for one, wrong for another."""
KEYS = st.sampled_from([*CLOUD, *SIMPLE, "traceparent", "data_base64", "dataschema", "ключ", "a b"])


@st.composite
def bodies(draw: st.DrawFn, form: str) -> str:
    """A body that is mostly right, written in one of the ways in which JSON may be written."""
    usual = FORMS[form][0]
    sent: list[Any] = []
    for number in range(draw(st.integers(0, 4))):
        event = (
            usual | {"id": f"e{number}"} | draw(st.dictionaries(KEYS, ODD, max_size=draw(st.sampled_from([0, 0, 2]))))
        )
        inner = "data" if form == "cloud" else "properties"
        if isinstance(event.get(inner), dict):
            event[inner] = event[inner] | draw(st.dictionaries(KEYS, ODD, max_size=draw(st.sampled_from([0, 0, 2]))))
        for key in draw(st.sets(st.sampled_from([*usual]), max_size=draw(st.sampled_from([0, 0, 1])))):
            event.pop(key)
        sent.append(event)
    value: Any = draw(st.sampled_from([sent, sent, {"events": sent}, sent and sent[0]]))
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:\r"), (",", " : ")]))
    text = json.dumps(
        value, separators=separators, indent=draw(st.sampled_from([None, None, 1])), ensure_ascii=draw(st.booleans())
    )
    if draw(st.sampled_from([False, False, True])):
        old, new = draw(st.sampled_from(DAMAGES))
        text = text.replace(old, new, draw(st.integers(1, 3)))
    return text


DAMAGES = [
    ('"id"', '"id":"x","id"'),
    ('"region"', '"region":"x","region"'),
    ('"region"', '"region" :"x","region"'),
    ('"quantity"', '"quantity":"1","quantity"'),
    ('"quantity"', '"qu\\u0061ntity":"1","quantity"'),
    ('"events"', '"events":[],"events"'),
    ('"data"', '"data":null,"data"'),
    ("true", "NaN"),
    ("0.1", "1e400"),
    ("0.1", "-0"),
    ("0.1", "01"),
    ("0.1", "123456789012345678901234567890123456789012345678901234567890"),
    ("0.1", "0.1000000000000000055511151231257827021181583404541015625"),
    ("eu", "\\ud800"),
    ("eu", "\x07"),
    ("eu", '\\":'),
    ("}", ",}"),
    ("]", ""),
    ("[", "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["),
]


@pytest.mark.parametrize("form", FORMS)
@given(data=st.data())
def test_both_readings_say_the_same(form: str, data: st.DataObject) -> None:
    """Of any body: the same events to the last digit and type, the same faults, the same refusals."""
    body, headers = data.draw(bodies(form)), FORMS[form][1]
    assert exact(read(body, headers)) == exact(read_with_care(body, headers))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("drop", ["", "time", "source", "quantity", "properties", "datacontenttype"])
def test_what_is_usual_is_read_in_one_go(form: str, separators: tuple[str, str], drop: str) -> None:
    """With or without what may be left out, and in the way in which Python writes JSON by default."""
    usual, headers, in_one_go = FORMS[form]
    event = {key: value for key, value in usual.items() if key != drop or (form, key) == ("cloud", "source")}
    body = json.dumps([event, event | {"id": "e2"}], separators=separators)
    events = in_one_go(body)
    assert events is not None
    assert exact(events) == exact(read_with_care(body, headers))
    assert [each.id for each in events] == ["e1", "e2"]


def test_the_traffic_of_the_benchmark_is_read_in_one_go() -> None:
    """Or it would measure something else."""
    body, _ = Sender(TIME).request(["ada", "bob"], 500, 10.0)
    events = read_usual_cloud_events(body)
    assert events is not None
    assert exact(events) == exact(read_with_care(body, HEADERS))


def test_a_quantity_may_be_an_integer_but_nothing_that_python_takes_for_one() -> None:
    """1.0 and true are equal to 1, and are no quantities."""
    quantities = {
        written: read_usual_events(f'[{{"id":"e","customer":"c","feature":"f","quantity":{written}}}]')
        for written in ("1", "1.0", "true", "1")
    }
    assert quantities["1"] is not None
    assert quantities["1"][0].quantity == Decimal(1)
    assert (quantities["1.0"], quantities["true"]) == (None, None)
    data = {
        written: read_usual_cloud_events(json.dumps([CLOUD]).replace('"2.50"', written))
        for written in ("7", "7.0", "true")
    }
    assert data["7"] is not None
    assert (data["7.0"], data["true"]) == (None, None)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", ["id", "region"])
@pytest.mark.parametrize("colon", [":", " :", "\n:"])
def test_a_key_that_stands_twice_is_seen(form: str, place: str, colon: str) -> None:
    """Also where a space that stands before another colon hides that from who counts."""
    usual, headers, in_one_go = FORMS[form]
    body = json.dumps([usual], separators=(",", ":")).replace('"source":', f'"source"{colon}')
    twice = body.replace(f'"{place}":', f'"{place}":"x","{place}":')
    assert in_one_go(twice) is None
    assert read(twice, headers) == ("bad request", f"malformed JSON: the key '{place}' stands twice in one object")
    assert len(read(body, headers)) == 1


@pytest.mark.parametrize("form", FORMS)
def test_one_fault_leaves_the_batch_to_care_and_its_neighbours_count(form: str) -> None:
    """Each event for itself."""
    usual, headers, in_one_go = FORMS[form]
    body = json.dumps([usual, usual | {"time": "yesterday"}, usual | {"id": "e3"}])
    assert in_one_go(body) is None
    first, second, third = read(body, headers)
    assert (first.id, second.reason, second.pointer, third.id) == ("e1", "invalid", "/time", "e3")


@pytest.mark.parametrize(("events", "taken"), [(0, False), (1, True), (500, True), (501, False)])
def test_as_many_events_are_read_as_a_request_may_hold(events: int, *, taken: bool) -> None:
    """From 1 to 500."""
    body = json.dumps([SIMPLE] * events)
    assert (read_usual_events(body) is not None) is taken

"""What the benchmarks rest on: the payload and the arithmetic of prices."""

import json
from datetime import UTC, datetime

import pytest

from bench.payload import FEATURE, HEADERS, Sender
from bench.prices import PRICES, Shape, cost_of_a_million
from tollgate.metering.model import Event, time_of_id
from tollgate.metering.schema import read_events

START = datetime(2026, 3, 10, 9, 30, tzinfo=UTC)
SHAPE = Shape(events=100, write_units=8.0, read_units=1.0, rounds=3, cpu_seconds=0.004, message_bytes=(30_000,))


def test_a_request_holds_events_of_the_customers_in_turn_at_the_rate_asked_for() -> None:
    """All of them can be read, and their ids carry their times."""
    body, now = Sender(START).request(["ada", "bob"], 4, 10.0)
    events = [event for event in read_events(body, HEADERS) if isinstance(event, Event)]
    assert [event.customer for event in events] == ["ada", "bob", "ada", "bob"]
    assert {event.feature for event in events} == {FEATURE}
    assert [(event.time - START).total_seconds() for event in events if event.time] == [0.0, 0.1, 0.2, 0.3]
    assert [time_of_id(event.id) for event in events] == [event.time for event in events]
    assert all(event.time and event.time < now for event in events)


def test_events_have_some_three_hundred_bytes_and_the_same_seed_gives_the_same() -> None:
    """So that runs can be compared; requests of one sender are all different."""
    sender = Sender(START)
    bodies = [sender.request(["ada"], 100, 10.0)[0] for _ in range(2)]
    assert all(250 < len(body) / 100 < 330 for body in bodies)
    assert Sender(START).request(["ada"], 100, 10.0)[0] == bodies[0]
    assert len({event["id"] for body in bodies for event in json.loads(body)}) == 200


def test_a_million_events_cost_what_their_requests_cost() -> None:
    """10,000 requests of 100 events, by line."""
    cost = cost_of_a_million(SHAPE)
    assert cost["HTTP API"] == pytest.approx(0.01)
    assert cost["DynamoDB, write units"] == pytest.approx(10_000 * 8 * 0.625e-6)
    assert cost["DynamoDB, read units"] == pytest.approx(10_000 * 0.125e-6)
    seconds = 0.004 * 1769 / 1024 + 3 * 0.005 + 0.002
    assert cost["Lambda, usage"] == pytest.approx(10_000 * (0.2e-6 + seconds * 0.0000133334))
    assert cost["SQS"] == 0


def test_events_that_wait_in_a_queue_cost_their_messages_and_a_second_invocation() -> None:
    """Three requests of SQS per started 64 KB."""
    large = Shape(SHAPE.events, 8.0, 1.0, 3, 0.004, message_bytes=(30_000, 65_537))
    cost, waited = cost_of_a_million(large, queued=True), cost_of_a_million(large)
    assert cost["SQS"] == pytest.approx(10_000 * 9 * PRICES["SQS, a million requests"] / 1e6)
    assert cost["Lambda, usage"] > waited["Lambda, usage"] + 10_000 * 0.2e-6
    assert cost["HTTP API"] == waited["HTTP API"]

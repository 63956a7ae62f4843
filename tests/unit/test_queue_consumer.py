"""What becomes of a message: counted, here again, or written down; over functions that count and write in memory."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tollgate.kernel.errors import BadRequest, InvalidInput, Unavailable
from tollgate.metering.consumer import MAX_RECORD, RESERVE, Delivery, Failure, consume
from tollgate.metering.model import Event, Rejection
from tollgate.metering.service import Result

NOW = datetime(2026, 2, 1, tzinfo=UTC)
GOOD = {"id": "e1", "customer": "ada", "feature": "requests"}
Count = Callable[[Sequence[Event | Rejection], datetime], Sequence[Result]]


def message(*events: Any, **more: Any) -> Delivery:
    """A message with these events, received for the first time."""
    return replace(Delivery("m1", json.dumps(events), NOW), **more)


class Consumer:
    """Consumes messages, and remembers what it counted and wrote down."""

    def __init__(self, outcomes: dict[str, Result] | None = None) -> None:
        self.outcomes = outcomes or {}
        self.counted: list[tuple[str | None, datetime]] = []
        self.failures: dict[str, Failure] = {}
        self.resolved: list[str] = []
        self.left = 29.0

    def __call__(self, delivery: Delivery, count: Count | None = None) -> None:
        """Consume a message."""
        consume(
            delivery,
            count=count or self.count,
            write_down=self.write_down,
            resolve=self.resolved.append,
            time_left=lambda: self.left,
            max_receives=5,
        )

    def write_down(self, failure: Failure) -> None:
        """Keep the first failure of a key."""
        self.failures.setdefault(failure.key, failure)

    def count(self, events: Sequence[Event | Rejection], now: datetime) -> Sequence[Result]:
        """Accept what is not to end in another way."""
        self.counted += [(event.id, now) for event in events]
        return [
            Result(event.id, "rejected", event.reason, event.detail, event.pointer)
            if isinstance(event, Rejection)
            else self.outcomes.get(event.id, Result(event.id, "accepted"))
            for event in events
        ]


def test_the_events_of_a_message_are_counted_at_the_time_of_its_receipt() -> None:
    """And that is all: no record is written or looked for."""
    consumer = Consumer()
    consumer(message(GOOD))
    assert consumer.counted == [("e1", NOW)]
    assert (consumer.failures, consumer.resolved) == ({}, [])


def test_what_cannot_be_read_comes_again_and_one_record_names_why() -> None:
    """From the first receive to the last."""
    consumer = Consumer()
    for receives in range(1, 6):
        with pytest.raises(BadRequest):
            consumer(message(body='{"id": "e1", "id": "e1"}', receives=receives))
    [failure] = consumer.failures.values()
    [fault] = failure.arguments["errors"]
    assert failure.is_final
    assert failure.arguments["reason"] == "unreadable"
    assert fault == {"pointer": "", "detail": "malformed JSON: the key 'id' stands twice in one object"}
    assert failure.context == {"message_id": "m1", "receives": 1, "excerpt": '{"id": "e1", "id": "e1"}'}
    assert consumer.counted == []


def test_the_record_of_what_cannot_be_read_has_a_pointer_and_a_bounded_excerpt() -> None:
    """A message may have a megabyte."""
    consumer = Consumer()
    with pytest.raises(InvalidInput):
        consumer(message(body=json.dumps({"events": [GOOD] * 501})))
    [failure] = consumer.failures.values()
    assert [fault["pointer"] for fault in failure.arguments["errors"]] == ["/events"]
    assert len(failure.context["excerpt"]) == 500


def test_events_that_never_count_are_written_down_as_they_were_sent_and_the_message_is_done() -> None:
    """Unreadable, rejected and conflicting ones alike; the others are counted."""
    bad = {"id": "e2", "quantity": "lots", "customer": "ada", "feature": "requests"}
    outcomes = {
        "e3": Result("e3", "rejected", "customer_not_found", "there is no customer eve"),
        "e4": Result("e4", "conflict"),
        "e5": Result("e5", "duplicate"),
    }
    consumer = Consumer(outcomes)
    consumer(message(GOOD, bad, *(GOOD | {"id": event} for event in outcomes)))
    [failure] = consumer.failures.values()
    lost = failure.arguments["events"]
    assert [(one["id"], one["reason"], one["pointer"]) for one in lost] == [
        ("e2", "invalid", "/quantity"), ("e3", "customer_not_found", None), ("e4", "conflict", None),
    ]  # fmt: skip
    assert [one["event"] for one in lost] == [bad, GOOD | {"id": "e3"}, GOOD | {"id": "e4"}]
    assert failure.error == "3 of 5 events of the message do not count"


def test_many_lost_events_take_several_records_and_none_is_cut_off() -> None:
    """A record holds a bounded number of characters."""
    note = {"note": "x" * 10_000}
    events = [GOOD | {"id": f"e{number}", "properties": note} for number in range(30)]
    consumer = Consumer({f"e{number}": Result(f"e{number}", "conflict") for number in range(30)})
    for _ in range(2):
        consumer(message(*events))
    records = [failure.arguments["events"] for failure in consumer.failures.values()]
    assert [one["event"] for lost in records for one in lost] == events
    assert max(len(json.dumps(lost)) for lost in records) <= MAX_RECORD + 2
    assert len(records) == 6


def test_an_event_too_large_for_a_record_stays_in_its_message_which_goes_to_the_dead_letter_queue() -> None:
    """Nothing that was sent is thrown away."""
    large = GOOD | {"id": "e2", "properties": {"note": "x" * MAX_RECORD}}
    consumer = Consumer({"e2": Result("e2", "conflict")})
    with pytest.raises(InvalidInput):
        consumer(message(GOOD, large))
    [failure] = consumer.failures.values()
    [lost] = failure.arguments["events"]
    assert (lost["id"], lost["reason"], lost["event"]) == ("e2", "conflict", None)


def test_what_could_not_be_counted_in_time_comes_again_and_nothing_is_written_down() -> None:
    """Not even of its neighbours that are rejected: they are, when it comes again."""
    outcomes = {
        "e2": Result("e2", "rejected", "unavailable", retryable=True),
        "e3": Result("e3", "rejected", "too_old"),
    }
    consumer = Consumer(outcomes)
    delivery = message(GOOD, *(GOOD | {"id": event} for event in outcomes))
    with pytest.raises(Unavailable):
        consumer(delivery)
    assert consumer.failures == {}
    del outcomes["e2"]
    consumer.outcomes = outcomes
    consumer(delivery)
    assert [failure.arguments["events"][0]["id"] for failure in consumer.failures.values()] == ["e3"]


def test_a_message_is_not_begun_with_too_little_time() -> None:
    """A function that is ended in the middle would bring back the messages it has counted."""
    consumer = Consumer()
    consumer.left = RESERVE - 0.001
    with pytest.raises(Unavailable):
        consumer(message(GOOD))
    assert consumer.counted == []


def test_a_message_that_is_never_begun_has_a_record_when_it_dies() -> None:
    """Those handed over with it took all the time, in an outage say: it goes to the dead-letter queue unseen."""
    consumer = Consumer()
    consumer.left = RESERVE - 0.001
    for receives in range(1, 6):
        assert consumer.failures == {}
        with pytest.raises(Unavailable):
            consumer(message(GOOD, receives=receives))
    [failure] = consumer.failures.values()
    assert (failure.key, failure.arguments, consumer.counted) == ("m1", {"reason": "unfinished"}, [])


def test_a_message_whose_last_receive_kills_the_function_has_a_record() -> None:
    """It is written before the message is tried."""
    consumer = Consumer()

    def killed(*_: Any) -> Sequence[Result]:
        raise SystemExit

    for receives in range(1, 6):
        with pytest.raises(SystemExit):
            consumer(message(GOOD, receives=receives), killed)
    [failure] = consumer.failures.values()
    assert (failure.key, failure.is_final, failure.arguments) == ("m1", False, {"reason": "unfinished"})
    assert "5 receives" in str(failure.error)
    assert consumer.resolved == []


def test_a_message_that_counts_at_its_last_receive_is_no_failure() -> None:
    """The record that was written before is resolved."""
    consumer = Consumer()
    consumer(message(GOOD, receives=5))
    assert list(consumer.failures) == consumer.resolved == ["m1"]


def test_a_message_that_was_redriven_keeps_its_record_and_its_time_and_resolves_it() -> None:
    """The queue gives it another id and another time."""
    consumer = Consumer()
    first = message(GOOD, receives=5)
    with pytest.raises(ZeroDivisionError):
        consumer(first, lambda *_: 1 / 0)  # type: ignore[arg-type]
    again = replace(
        first, id="m2", sent_at=NOW + timedelta(days=3), receives=1, original="m1", received_at="2026-02-01T00:00:00Z"
    )
    consumer(again)
    assert consumer.counted == [("e1", NOW)]
    assert consumer.resolved == ["m1"]
    assert list(consumer.failures) == ["m1"]


def test_a_redriven_message_that_fails_again_has_no_second_record() -> None:
    """One record per message, however often it is redriven."""
    consumer = Consumer()
    for number, original in ((1, None), (2, "m1"), (3, "m1")):
        with pytest.raises(BadRequest):
            consumer(message(id=f"m{number}", body="{", original=original))
    assert list(consumer.failures) == ["m1"]

"""Billing runs: what is due is billed here or by the queue, and what came of it is told."""

import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.conftest import ROOT
from tollgate.billing.run_store import DynamoRuns
from tollgate.billing.runs import (
    BILL_SUBSCRIPTION,
    Message,
    Result,
    Run,
    carry_out,
    message_text,
    progress,
    progress_to_dict,
    read_message,
    requeue,
)
from tollgate.catalog.model import BillingPeriod, Customer, Plan
from tollgate.catalog.periods import Interval
from tollgate.catalog.service import subscribe
from tollgate.catalog.store import DynamoCatalog
from tollgate.kernel.errors import BadRequest, Conflict, InvalidInput, Unavailable
from tollgate.kernel.time import system_clock
from tollgate.metering.store import DynamoCounters
from tollgate.recovery.model import Status
from tollgate.recovery.store import DynamoRecovery

pytestmark = pytest.mark.usefixtures("tables")

NOW = datetime(2026, 5, 1, tzinfo=UTC)
RUN = Run("run_1", NOW, NOW, "key")


class Queue:
    """What was sent."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def send(self, messages: Sequence[Message]) -> None:
        """Keep them."""
        self.messages += messages


def carried_out(
    runs: DynamoRuns,
    queue: Queue,
    bill: Callable[[str], Result | None],
    *,
    run: Run = RUN,
    time: Callable[[], bool] = lambda: True,
) -> dict[str, Any]:
    """A run over three subscriptions, as the API shows it."""
    due = ["a", "b", "c"]
    return progress_to_dict(carry_out(run, runs=runs, due=due, bill=bill, send=queue.send, has_time=time))


def billed(name: str) -> Result:
    """One invoice."""
    return Result(name, (f"inv_{name}",))


def test_a_run_bills_what_it_has_time_for_and_leaves_the_rest_to_the_queue() -> None:
    """It is done when they are billed too."""
    runs, queue = DynamoRuns(), Queue()
    time = iter([True, True, False])
    shown = carried_out(runs, queue, billed, time=lambda: next(time))
    assert (shown["status"], shown["subscriptions"], shown["billed"], shown["invoices"]) == ("running", 3, 2, 2)
    assert queue.messages == [Message("c", NOW, "run_1")]
    runs.record("run_1", billed("c"))
    found = runs.run("run_1")
    assert found is not None
    assert progress_to_dict(progress(found, runs))["status"] == "done"


def test_messages_are_sent_while_more_is_looked_for() -> None:
    """A run that dies has sent what it had found."""
    queue = Queue()

    def due() -> Iterator[str]:
        yield from (f"sub-{number}" for number in range(250))
        assert len(queue.messages) == 200
        raise Unavailable("the index cannot be read")

    with pytest.raises(Unavailable):
        carry_out(RUN, runs=DynamoRuns(), due=due(), bill=billed, send=queue.send, has_time=lambda: False)
    assert [message.subscription for message in queue.messages] == [f"sub-{number}" for number in range(200)]


def test_what_is_billed_in_parts_is_counted_as_one() -> None:
    """Its invoices add up, however often a part is told."""
    runs, queue = DynamoRuns(), Queue()
    shown = carried_out(runs, queue, lambda name: Result(name, (f"{name}1", f"{name}2"), is_done=name != "b"))
    assert (shown["status"], shown["billed"], shown["invoices"]) == ("running", 2, 6)
    assert [message.subscription for message in queue.messages] == ["b"]
    for _ in range(2):
        runs.record("run_1", Result("b", ("b3",)))
    found = runs.run("run_1")
    assert found is not None
    so_far = progress(found, runs)
    assert (so_far.is_done, so_far.billed, so_far.invoices) == (True, 3, 7)


def test_what_fails_is_named_and_no_longer_when_it_is_billed_after_all() -> None:
    """The last word counts."""
    runs, queue = DynamoRuns(), Queue()
    shown = carried_out(runs, queue, lambda name: Result(name, error="broken") if name == "b" else billed(name))
    assert (shown["status"], shown["failed"]) == ("done", 1)
    assert shown["failures"] == [{"subscription": "b", "error": "broken"}]
    runs.record("run_1", billed("b"))
    assert progress(RUN, runs).failures == ()


def test_the_same_run_again_is_only_looked_at() -> None:
    """By the same Idempotency-Key; another request by it is refused."""
    runs, queue = DynamoRuns(), Queue()
    first = carried_out(runs, queue, billed)
    assert carried_out(runs, queue, lambda _: pytest.fail("it is billed")) == first
    with pytest.raises(Conflict):
        carried_out(runs, queue, billed, run=Run("run_1", NOW, NOW, "key", asked_for=NOW))


def test_a_run_that_broke_off_goes_on_when_it_is_asked_for_again() -> None:
    """What it had billed is due no more, and counts all the same."""
    runs, queue = DynamoRuns(), Queue()
    time = iter([True, False, False])

    def lose(_: Sequence[Message]) -> None:
        raise Unavailable("the queue cannot be reached")

    with pytest.raises(Unavailable):
        carry_out(RUN, runs=runs, due="abc", bill=billed, send=lose, has_time=lambda: next(time))
    found = runs.run("run_1")
    assert found is not None
    assert not progress(found, runs).is_done
    so_far = carry_out(RUN, runs=runs, due="bc", bill=billed, send=queue.send, has_time=lambda: False)
    assert (so_far.run.found, so_far.billed, so_far.is_done) == (3, 1, False)
    assert [message.subscription for message in queue.messages] == ["b", "c"]


def test_a_message_is_read_back_as_it_was_written() -> None:
    """Anything else is refused, and so goes to the dead-letter queue."""
    message = Message("sub-1", NOW, "run_1")
    assert read_message(message_text(message)) == message
    sent: list[str] = []
    requeue(json.loads(message_text(message)), sent.append)
    assert [read_message(one) for one in sent] == [message]
    for text in ("{", "[]", "{}", '{"subscription": "#", "as_of": "2026-05-01T00:00:00Z", "run": "r"}'):
        with pytest.raises((BadRequest, InvalidInput)):
            read_message(text)


# The function


@pytest.fixture
def function(tables: None) -> ModuleType:
    """The billing function, with a subscription that is due."""
    assert tables is None
    catalog = DynamoCatalog()
    month = BillingPeriod(Interval.MONTH)
    assert catalog.add_plan_version(Plan("plan", 1, "Plan", "EUR", month, Decimal(0), 0, 0, ()))
    catalog.save_customer(Customer("ada"))
    subscribe(
        catalog,
        customer="ada",
        plan="plan",
        gates=DynamoCounters(),
        clock=system_clock,
        subscription_id="sub",
        starts_at=system_clock() - timedelta(days=40),
    )
    spec = importlib.util.spec_from_file_location("billing", ROOT / "functions/billing/app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.runs.begin(Run("run_1", system_clock(), system_clock(), "schedule"))
    return module


def received(function: ModuleType, times: int, *, run: str = "run_1", name: str = "m-1") -> dict[str, Any]:
    """What the function answers to a message that it receives for the n-th time."""
    record = {
        "messageId": name,
        "receiptHandle": "r",
        "body": message_text(Message("sub", system_clock(), run)),
        "attributes": {"ApproximateReceiveCount": str(times), "SentTimestamp": "1793611800417"},
        "messageAttributes": {},
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:eu-central-1:123456789012:billing",
        "awsRegion": "eu-central-1",
    }
    context = SimpleNamespace(get_remaining_time_in_millis=lambda: 60_000)
    answer: dict[str, Any] = function.handler({"Records": [record]}, context)
    return answer


def test_a_message_bills_its_subscription(function: ModuleType) -> None:
    """And again: nothing more."""
    for _ in range(2):
        assert received(function, 1) == {"batchItemFailures": []}
    so_far = progress(RUN, function.runs)
    assert (so_far.billed, so_far.invoices) == (1, 1)


def test_a_message_that_fails_comes_again_and_leaves_a_record_before_its_last_receive(
    function: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is resolved when it is billed after all; the run names the failure."""

    def fail(*_: object) -> None:
        raise Unavailable("busy")

    errors = DynamoRecovery()
    with monkeypatch.context() as broken:
        broken.setattr(function, "bill", fail)
        assert received(function, 4) == {"batchItemFailures": [{"itemIdentifier": "m-1"}]}
        assert not list(errors.due(datetime(2100, 1, 1, tzinfo=UTC)))
        assert received(function, 5) == {"batchItemFailures": [{"itemIdentifier": "m-1"}]}
    [name] = errors.due(datetime(2100, 1, 1, tzinfo=UTC))
    record = errors.get(name)
    assert record is not None
    assert (record.operation, record.customer, record.subscription) == (BILL_SUBSCRIPTION, "ada", "sub")
    [failure] = progress(RUN, function.runs).failures
    assert failure.error == f"Unavailable: see {name}"
    assert received(function, 5) == {"batchItemFailures": []}
    resolved = errors.get(name)
    assert resolved is not None
    assert resolved.status is Status.RESOLVED
    assert progress(RUN, function.runs).failures == ()


def test_a_subscription_that_cannot_be_billed_leaves_one_record_a_run(
    function: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often its message is sent again for the record: one that never can be does not leave more and more."""

    def fail(*_: object) -> None:
        raise Unavailable("busy")

    errors = DynamoRecovery()
    monkeypatch.setattr(function, "bill", fail)
    for run, name in (("run_1", "m-1"), ("run_1", "m-2"), ("run_2", "m-3")):
        assert received(function, 5, run=run, name=name) == {"batchItemFailures": [{"itemIdentifier": name}]}
    found = [errors.get(name) for name in errors.due(datetime(2100, 1, 1, tzinfo=UTC))]
    assert sorted(record.arguments["run"] for record in found if record) == ["run_1", "run_2"]


def test_a_subscription_with_too_many_periods_for_one_receive_goes_on_with_the_next(
    function: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is sent once more."""
    queue = Queue()
    monkeypatch.setattr(function, "queue", queue)
    monkeypatch.setattr(function, "time_left", lambda _: lambda: 1.0)
    assert received(function, 1) == {"batchItemFailures": []}
    assert [message.subscription for message in queue.messages] == ["sub"]
    assert progress(RUN, function.runs).billed == 0

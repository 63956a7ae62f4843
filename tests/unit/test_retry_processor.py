"""The function that runs every 5 minutes, on moto."""

import importlib.util
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import ModuleType, SimpleNamespace
from typing import Any

import boto3
import pytest
from moto import mock_aws

from tests.conftest import ROOT, create_tables
from tollgate.catalog import deliveries
from tollgate.catalog.store import DynamoCatalog
from tollgate.catalog.webhooks import Webhook
from tollgate.recovery.model import ErrorType, Status
from tollgate.recovery.operations import Operation
from tollgate.recovery.service import record_error

LONG_AGO = datetime.now(UTC) - timedelta(days=2)
CONTEXT = SimpleNamespace(
    function_name="retry_processor",
    memory_limit_in_mb=512,
    invoked_function_arn="arn:aws:lambda:eu-central-1:123456789012:function:retry_processor",
    aws_request_id="request-1",
    get_remaining_time_in_millis=lambda: 240_000,
)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The function's module, loaded as Lambda loads it, with its tables empty."""
    with mock_aws():
        create_tables(boto3.client("dynamodb"))
        for variable in ("RETRIES_QUEUE_URL", "EVENTS_QUEUE_URL"):
            monkeypatch.setenv(variable, boto3.client("sqs").create_queue(QueueName=variable)["QueueUrl"])
        spec = importlib.util.spec_from_file_location("retry_processor", ROOT / "functions/retry_processor/app.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


def fail(
    app: ModuleType,
    record_id: str,
    error_type: ErrorType,
    operation: str = "collect",
    arguments: dict[str, Any] | None = None,
) -> None:
    """Write down a failure of two days ago."""
    record_error(
        app.store, error_type=error_type, operation=operation, arguments=arguments or {}, customer=None,
        subscription=None, context={}, error="failed", clock=lambda: LONG_AGO, id=record_id,
    )  # fmt: skip


def metrics() -> dict[tuple[str, ...], float]:
    """All metrics published, by name and dimension values."""
    cloudwatch = boto3.client("cloudwatch")
    found = {}
    for metric in cloudwatch.list_metrics(Namespace="Tollgate")["Metrics"]:
        data: Any = cloudwatch.get_metric_statistics(
            Namespace="Tollgate", MetricName=metric["MetricName"], Dimensions=metric["Dimensions"],
            StartTime=datetime.now(UTC) - timedelta(hours=1), EndTime=datetime.now(UTC) + timedelta(hours=1),
            Period=7200, Statistics=["Maximum"],
        )  # fmt: skip
        dimensions = {each["Name"]: each["Value"] for each in metric["Dimensions"]}
        key = (metric["MetricName"], *(dimensions[name] for name in sorted(dimensions)))
        found[key] = data["Datapoints"][0]["Maximum"]
    return found


def test_with_nothing_to_do_zeros_are_published(app: ModuleType) -> None:
    """An alarm clears only when a value comes."""
    assert app.handler({}, CONTEXT)["unresolved"] == 0
    expected = {
        (name, "test", *kind): 0
        for name in ("UnresolvedErrors", "OldestUnresolvedErrorAge")
        for kind in ((), *((each.value,) for each in ErrorType))
    }
    assert metrics() == expected


def test_what_is_due_is_tried_and_the_rest_is_counted(app: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record resolved in this run is not in its metrics any more."""
    calls: list[str] = []
    collect = Operation("collect", lambda _arguments, key: calls.append(key))
    monkeypatch.setitem(app.OPERATIONS, "collect", collect)
    fail(app, "err_1", ErrorType.STATE_TRANSITION_ERROR)
    fail(app, "err_2", ErrorType.VALIDATION_ERROR)
    summary = app.handler({}, CONTEXT)
    assert calls == ["err_1"]
    assert (summary["resolved"], summary["unresolved"]) == (1, 1)
    values = metrics()
    assert values["UnresolvedErrors", "test"] == values["UnresolvedErrors", "test", "validation_error"] == 1
    assert values["UnresolvedErrors", "test", "state_transition_error"] == 0
    assert values["OldestUnresolvedErrorAge", "test"] == pytest.approx(2 * 86_400, abs=600)
    assert values["OldestUnresolvedErrorAge", "test", "validation_error"] == values["OldestUnresolvedErrorAge", "test"]


def test_an_event_that_could_not_be_delivered_is_delivered_later(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the id it had, by which a receiver knows whether it has it already."""
    calls: list[Any] = []
    monkeypatch.setattr(app.bus, "put", lambda event_id, event: calls.append((event_id, event)))
    monkeypatch.setattr(deliveries, "send", lambda url, **more: calls.append((url, more["message_id"])))
    webhook = Webhook("w1", "https://receiver.example/", ("usage.threshold_reached",), "whsec_AAAA", LONG_AGO)
    DynamoCatalog().update_webhooks(lambda _: (webhook,))
    event = {"type": "usage.threshold_reached"}
    for operation, more in (("publish_event", {}), ("deliver_webhook", {"webhook": "w1"})):
        fail(app, operation, ErrorType.DELIVERY_FAILED, operation, {"id": "alert_1", "event": event} | more)
    assert app.handler({}, CONTEXT)["resolved"] == 2
    assert sorted(calls, key=str) == [("alert_1", event), (webhook.url, "alert_1")]


def message(number: int, body: str) -> dict[str, Any]:
    """A message of the retries queue."""
    return {
        "messageId": f"m{number}",
        "body": body,
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:::retries",
    }


def queued(variable: str) -> list[Any]:
    """What lies in a queue."""
    url = os.environ[variable]
    found = boto3.client("sqs").receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
    return [json.loads(one["Body"]) for one in found]


def test_a_message_of_the_retries_queue_is_tried_at_once(app: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record it names and no other; one that asks for a sweep has all that is due tried."""
    calls: list[str] = []
    monkeypatch.setitem(app.OPERATIONS, "collect", Operation("collect", lambda _arguments, key: calls.append(key)))
    for number in range(3):
        fail(app, f"err_{number}", ErrorType.STATE_TRANSITION_ERROR)
    answer = app.handler({"Records": [message(1, '{"record": "err_1"}')]}, CONTEXT)
    assert (answer, calls) == ({"batchItemFailures": []}, ["err_1"])
    app.handler({"Records": [message(2, '{"sweep": true}')]}, CONTEXT)
    assert sorted(calls) == ["err_0", "err_1", "err_2"]
    assert metrics() == {}


def test_a_message_that_could_not_be_dealt_with_comes_again(app: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is none of ours ends in the dead-letter queue; its neighbours are dealt with."""
    monkeypatch.setitem(app.OPERATIONS, "collect", Operation("collect", lambda *_: None))
    fail(app, "err_1", ErrorType.STATE_TRANSITION_ERROR)
    bodies = ["nonsense", '{"record": "err_1"}', '{"record": 1}', '{"record": "err_2", "sweep": true}', "[]"]
    records = [message(number, body) for number, body in enumerate(bodies)]
    failures = app.handler({"Records": records}, CONTEXT)["batchItemFailures"]
    assert [one["itemIdentifier"] for one in failures] == ["m0", "m2", "m3", "m4"]
    assert app.store.get("err_1").status is Status.RESOLVED
    fail(app, "err_2", ErrorType.STATE_TRANSITION_ERROR)
    late = SimpleNamespace(**(vars(CONTEXT) | {"get_remaining_time_in_millis": lambda: 50_000}))
    [failure] = app.handler({"Records": [message(1, '{"record": "err_2"}')]}, late)["batchItemFailures"]
    assert failure == {"itemIdentifier": "m1"}


def test_a_sweep_that_runs_out_of_time_has_another_go_on(app: ModuleType) -> None:
    """At once, and not in five minutes."""
    fail(app, "err_1", ErrorType.STATE_TRANSITION_ERROR)
    late = SimpleNamespace(**(vars(CONTEXT) | {"get_remaining_time_in_millis": lambda: 50_000}))
    assert app.handler({}, late)["stopped_early"] == 1
    assert queued("RETRIES_QUEUE_URL") == [{"sweep": True}]


def test_events_that_did_not_count_go_back_to_the_queue(app: ModuleType) -> None:
    """With the time at which they were received, so that one without a time is the same event."""
    events = [{"id": "e1", "reason": "unknown_customer", "event": {"id": "e1", "customer": "ada", "feature": "calls"}}]
    arguments = {"reason": "not_counted", "received_at": "2026-01-31T09:30:00Z", "events": events}
    fail(app, "err_1", ErrorType.STATE_TRANSITION_ERROR, "count_events", arguments)
    assert app.handler({}, CONTEXT)["resolved"] == 1
    assert queued("EVENTS_QUEUE_URL") == [{"received_at": "2026-01-31T09:30:00Z", "events": [events[0]["event"]]}]


@pytest.mark.parametrize("arguments", [{"reason": "unreadable"}, {"reason": "not_counted", "events": [{"id": "e1"}]}])
def test_what_has_no_events_to_send_back_is_a_persons(app: ModuleType, arguments: dict[str, Any]) -> None:
    """Its message waits in the dead-letter queue; no second try would find more."""
    fail(app, "err_1", ErrorType.STATE_TRANSITION_ERROR, "count_events", arguments)
    assert app.handler({}, CONTEXT)["escalated"] == 1
    record = app.store.get("err_1")
    assert (record.type, record.attempts) == (ErrorType.VALIDATION_ERROR, 1)
    assert queued("EVENTS_QUEUE_URL") == []


def test_an_operation_that_no_context_has_registered_waits_for_a_person(app: ModuleType) -> None:
    """It is not tried."""
    assert "collect" not in app.OPERATIONS
    fail(app, "err_1", ErrorType.STATE_TRANSITION_ERROR)
    assert app.handler({}, CONTEXT)["escalated"] == 1
    assert app.store.get("err_1").status is Status.MANUAL


def test_it_does_not_start_with_policies_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records wait, and the alarm on a processor that fails tells; better than retries that nobody asked for."""
    monkeypatch.setenv("RETRY_POLICIES", '{"system_error": {"strategy": "often"}}')
    spec = importlib.util.spec_from_file_location("refused", ROOT / "functions/retry_processor/app.py")
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(RuntimeError, match="system_error must be an object"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))

"""The function that runs every 5 minutes, on moto."""

import importlib.util
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
from tollgate.recovery.service import Operation, record_error

LONG_AGO = datetime.now(UTC) - timedelta(days=2)
CONTEXT = SimpleNamespace(
    function_name="retry_processor",
    memory_limit_in_mb=512,
    invoked_function_arn="arn:aws:lambda:eu-central-1:123456789012:function:retry_processor",
    aws_request_id="request-1",
    get_remaining_time_in_millis=lambda: 240_000,
)


@pytest.fixture
def app() -> Iterator[ModuleType]:
    """The function's module, loaded as Lambda loads it, with its tables empty."""
    with mock_aws():
        create_tables(boto3.client("dynamodb"))
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
    expected = {("UnresolvedErrors", "test"): 0, ("OldestUnresolvedErrorAge", "test"): 0}
    assert metrics() == expected | {("UnresolvedErrors", "test", each.value): 0 for each in ErrorType}


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
        fail(app, operation, ErrorType.SYSTEM_ERROR, operation, {"id": "alert_1", "event": event} | more)
    assert app.handler({}, CONTEXT)["resolved"] == 2
    assert sorted(calls, key=str) == [("alert_1", event), (webhook.url, "alert_1")]


def test_an_operation_that_no_context_has_registered_waits_for_a_person(app: ModuleType) -> None:
    """It is not tried."""
    assert "collect" not in app.OPERATIONS
    fail(app, "err_1", ErrorType.STATE_TRANSITION_ERROR)
    assert app.handler({}, CONTEXT)["escalated"] == 1
    assert app.store.get("err_1").status is Status.MANUAL

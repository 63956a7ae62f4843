"""The function that sends the report to operations, on moto."""

import importlib.util
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import ModuleType, SimpleNamespace
from typing import Any

import boto3
import pytest
from moto import mock_aws

from tests.conftest import ROOT, create_tables
from tollgate.recovery.model import ErrorType
from tollgate.recovery.service import record_error

CONTEXT = SimpleNamespace(
    function_name="error_report",
    memory_limit_in_mb=512,
    invoked_function_arn="arn:aws:lambda:eu-central-1:123456789012:function:error_report",
    aws_request_id="request-1",
)
Send = Callable[[Any], dict[str, Any]]


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The function's module, loaded as Lambda loads it, with its table empty and its topic there."""
    with mock_aws():
        create_tables(boto3.client("dynamodb"))
        monkeypatch.setenv("OPERATIONS_TOPIC_ARN", boto3.client("sns").create_topic(Name="operations")["TopicArn"])
        spec = importlib.util.spec_from_file_location("error_report", ROOT / "functions/error_report/app.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def send(app: ModuleType) -> Send:
    """Invoke the function and read what the operations topic delivers."""
    sqs = boto3.client("sqs")
    queue = sqs.create_queue(QueueName="operations")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    boto3.client("sns").subscribe(TopicArn=app.TOPIC, Protocol="sqs", Endpoint=arn)

    def invoke(event: Any) -> dict[str, Any]:
        app.handler(event, CONTEXT)
        [message] = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
        delivered: dict[str, Any] = json.loads(message["Body"])
        return delivered

    return invoke


def alarm(state: str) -> dict[str, Any]:
    """What SNS hands over when the alarm changes its state."""
    message = json.dumps({"AlarmName": "unresolved", "NewStateValue": state, "OldStateValue": "OK"})
    return {"Records": [{"EventSource": "aws:sns", "Sns": {"Subject": "alarm", "Message": message}}]}


def fail(app: ModuleType) -> None:
    """Write down a failure."""
    record_error(
        app.store, error_type=ErrorType.VALIDATION_ERROR, operation="import", arguments={}, customer=None,
        subscription=None, context={}, error="failed", clock=lambda: datetime.now(UTC), id="err_1",
    )  # fmt: skip


def document(delivered: dict[str, Any]) -> dict[str, Any]:
    """The JSON at the end of the message."""
    text: str = delivered["Message"]
    parsed: dict[str, Any] = json.loads(text[text.index("\n{") :])
    return parsed


def test_when_the_alarm_rises_the_report_is_sent(app: ModuleType, send: Send) -> None:
    """The subject says how many; the text is for a person, the JSON and the attribute for a program."""
    fail(app)
    delivered = send(alarm("ALARM"))
    assert delivered["Subject"] == "Tollgate test: 1 unresolved"
    assert delivered["Message"].startswith("Tollgate test. The alarm has risen.\n\nFailed billing operations")
    assert "  validation_error           1   1 manual" in delivered["Message"]
    assert document(delivered)["groups"][0]["by_status"] == {"pending": 0, "retrying": 0, "manual": 1}
    assert delivered["MessageAttributes"]["total"] == {"Type": "Number", "Value": "1"}


def test_when_the_alarm_clears_the_message_says_that_all_is_resolved(send: Send) -> None:
    """The end of an incident is news too."""
    delivered = send(alarm("OK"))
    assert delivered["Subject"] == "Tollgate test: all errors are resolved"
    assert "The alarm has cleared. All is resolved." in delivered["Message"]
    assert document(delivered)["total"] == 0


def test_a_cleared_alarm_does_not_claim_that_all_is_resolved_when_it_is_not(app: ModuleType, send: Send) -> None:
    """A failure may have come since, or the threshold may be above one."""
    fail(app)
    delivered = send(alarm("OK"))
    assert delivered["Subject"] == "Tollgate test: 1 unresolved"
    assert "All is resolved" not in delivered["Message"]


def test_the_daily_schedule_sends_the_report(send: Send) -> None:
    """Its event has no records."""
    assert send({"source": "aws.scheduler"})["Message"].startswith("Tollgate test. The daily report.")


@pytest.mark.parametrize(
    "event",
    [
        {"Records": []},
        {"Records": None},
        {"Records": [{"Sns": {"Message": "not JSON"}}]},
        {"Records": [{"Sns": {"Message": "[]"}}]},
        {"Records": [{"Sns": {"Message": None}}]},
        alarm("INSUFFICIENT_DATA"),
        alarm("\r\nBcc: everyone"),
        {"Records": [{"Sns": {"Message": '{"NewStateValue": ["OK"]}'}}]},
    ],
)
def test_a_malformed_alarm_does_not_lose_the_report(send: Send, event: Any) -> None:
    """Whatever comes, the report goes out, and nothing of the message is echoed."""
    delivered = send(event)
    assert "could not be read" in delivered["Message"]
    assert document(delivered)["total"] == 0
    assert "everyone" not in delivered["Message"]


def test_the_subject_is_short_ascii(app: ModuleType, send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    """SNS refuses more than 100 characters."""
    monkeypatch.setattr(app, "STAGE", "x" * 200)
    assert len(send({})["Subject"]) == 100

"""What happens with nobody asking: the queue, the schedule, the alarm and its report."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import httpx
import pytest

from tools.local import Stack

EVENTS = 250


def invoke(stack: Stack, function: str, event: dict[str, Any] | None = None) -> Any:
    """Invoke a function as its trigger does, and give what it returns."""
    answer = boto3.client("lambda", **stack.aws).invoke(
        FunctionName=stack.resources[function], Payload=json.dumps(event or {})
    )
    assert "FunctionError" not in answer, answer["Payload"].read()
    return json.loads(answer["Payload"].read())


def received(stack: Stack, queue: str) -> Iterator[dict[str, Any]]:
    """The messages of a queue as they arrive, for at most a minute in all; each is deleted."""
    sqs = boto3.client("sqs", **stack.aws)
    for _ in range(6):
        for message in sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=10).get("Messages", []):
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
            yield json.loads(message["Body"])


def document(notice: dict[str, Any]) -> dict[str, Any]:
    """The JSON that follows the text of a report."""
    report: dict[str, Any] = json.loads("{" + notice["Message"].partition("\n{\n")[2])
    return report


@pytest.fixture
def operations(stack: Stack) -> str:
    """A queue that hears what operations hear; its URL."""
    sqs = boto3.client("sqs", **stack.aws)
    queue: str = sqs.create_queue(QueueName="operations")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    topic = stack.resources["OperationsTopic"]
    boto3.client("sns", **stack.aws).subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    return queue


@pytest.fixture(scope="module", autouse=True)
def seller(api: httpx.Client) -> None:
    """A feature, a plan, and grace on it."""
    api.put("/v1/features/flow-calls", json={"name": "Calls", "type": "usage"}).raise_for_status()
    plan = {
        "name": "Flow",
        "currency": "EUR",
        "billing_period": {"interval": "month"},
        "features": [{"feature": "flow-calls"}],
    }
    api.put("/v1/plans/flow", json=plan).raise_for_status()
    api.put("/v1/customers/grace", json={}).raise_for_status()
    start = (datetime.now(UTC) - timedelta(days=2)).isoformat()
    body = {"id": "sub-grace", "customer": "grace", "plan": "flow", "starts_at": start}
    api.post("/v1/subscriptions", json=body).raise_for_status()


def counted(api: httpx.Client, at_least: int) -> int:
    """The events of grace, once there are so many; asks at most 500 times."""
    for _ in range(500):
        events: int = api.get("/v1/customers/grace/usage?feature=flow-calls").raise_for_status().json()["events"]
        if events >= at_least:
            break
    return events


def test_events_sent_to_wait_are_counted_once_although_sent_twice(api: httpx.Client) -> None:
    """202 at once, and then the queue's consumer counts; the same events sent again to be counted are duplicates."""
    time = datetime.now(UTC).isoformat()
    events = [{"id": f"wait-{n}", "customer": "grace", "feature": "flow-calls", "time": time} for n in range(EVENTS)]
    for _ in range(2):
        answer = api.post("/v1/events", json=events, headers={"Prefer": "respond-async"})
        assert (answer.status_code, answer.json()) == (202, {"queued": EVENTS})
    assert counted(api, EVENTS) == EVENTS
    assert api.post("/v1/events", json=events).json()["duplicate"] == EVENTS
    refused = api.post("/v1/events", json=[*events, {"id": "bad"}], headers={"Prefer": "respond-async"})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, f"/{EVENTS}/customer")


def test_the_retry_processor_is_scheduled_every_five_minutes_and_sweeps_the_empty_table(stack: Stack) -> None:
    """The schedule that the deployment made names the function, which answers and publishes zero."""
    scheduler = boto3.client("scheduler", **stack.aws)
    schedules = [
        scheduler.get_schedule(Name=found["Name"], GroupName=found["GroupName"])
        for found in scheduler.list_schedules()["Schedules"]
    ]
    rates = {schedule["Target"]["Arn"].rpartition(":")[2]: schedule["ScheduleExpression"] for schedule in schedules}
    assert rates[stack.resources["RetryProcessorFunction"]] == "rate(5 minutes)"
    assert rates[stack.resources["ErrorReportFunction"]] == "cron(0 7 * * ? *)"
    assert invoke(stack, "RetryProcessorFunction")["unresolved"] == 0


def test_an_event_of_the_queue_that_cannot_count_becomes_an_error_that_raises_the_alarm(
    stack: Stack, api: httpx.Client, operations: str
) -> None:
    """From the queue to the ledger, from the ledger to the alarm, from the alarm to operations: by the real wiring."""
    event = {"id": "lost-1", "customer": "nobody", "feature": "flow-calls", "time": datetime.now(UTC).isoformat()}
    assert api.post("/v1/events", json=event, headers={"Prefer": "respond-async"}).status_code == 202
    for _ in range(100):
        swept = invoke(stack, "RetryProcessorFunction")
        if swept["unresolved"]:
            break
    assert swept["unresolved"] == 1
    notice = next(received(stack, operations))
    assert notice["Subject"] == "Tollgate dev: 1 unresolved"
    assert "validation_error" in notice["Message"]
    report = document(notice)
    assert report["total"] == 1
    assert report["groups"][0]["type"] == "validation_error"
    assert report["groups"][0]["by_status"] == {"pending": 0, "retrying": 0, "manual": 1}


def test_the_daily_report_is_sent_even_when_nothing_is_wrong(stack: Stack, operations: str) -> None:
    """Silence would not tell a quiet day from a broken report."""
    invoke(stack, "ErrorReportFunction", {"source": "daily"})
    notice = next(one for one in received(stack, operations) if "daily" in one["Message"])
    assert notice["Message"].startswith("Tollgate dev. The daily report.")
    assert document(notice)["generated_at"]

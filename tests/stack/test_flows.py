"""What happens with nobody asking: the queue, the schedule, the alarm and its report."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import httpx
import pytest

from tests.conftest import ROOT
from tollgate.kernel.ids import derived_id
from tools.local import Stack
from tools.redrive import Queues, redrive

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
    return subscribed(stack, "operations")


def subscribed(stack: Stack, name: str) -> str:
    """A queue of this name that the operations topic may send to, and sends to; its URL."""
    sqs, topic = boto3.client("sqs", **stack.aws), stack.resources["OperationsTopic"]
    queue: str = sqs.create_queue(QueueName=name)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": arn,
        "Condition": {"ArnEquals": {"aws:SourceArn": topic}},
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": policy})
    boto3.client("sns", **stack.aws).subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    return queue


@pytest.fixture(scope="module", autouse=True)
def seller(api: httpx.Client) -> None:
    """A feature, a plan, and customers on it."""
    api.put("/v1/features/flow-calls", json={"name": "Calls", "type": "usage"}).raise_for_status()
    plan = {
        "name": "Flow",
        "currency": "EUR",
        "billing_period": {"interval": "month"},
        "features": [{"feature": "flow-calls"}],
    }
    api.put("/v1/plans/flow", json=plan).raise_for_status()
    start = (datetime.now(UTC) - timedelta(days=2)).isoformat()
    for customer in ("grace", "hedy", "joan", "mary", "ruth"):
        api.put(f"/v1/customers/{customer}", json={}).raise_for_status()
        body = {"id": f"sub-{customer}", "customer": customer, "plan": "flow", "starts_at": start}
        api.post("/v1/subscriptions", json=body).raise_for_status()


def counted(api: httpx.Client, at_least: int, customer: str = "grace") -> int:
    """The events of a customer, once there are so many; asks at most 500 times."""
    for _ in range(500):
        usage = api.get(f"/v1/customers/{customer}/usage?feature=flow-calls").raise_for_status().json()
        events: int = usage["events"]
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
    notice = next(one for one in received(stack, operations) if "risen" in one["Message"])
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


# Producers inside AWS, and messages that fail


@pytest.fixture
def queues(stack: Stack) -> Iterator[Queues]:
    """The events queue and its dead-letter queue; what fails comes again after two seconds, not three minutes."""
    sqs = boto3.client("sqs", **stack.aws)
    events, dead = (stack.resources[name] for name in ("EventsQueue", "EventsDeadLetterQueue"))
    sqs.set_queue_attributes(QueueUrl=events, Attributes={"VisibilityTimeout": "2"})
    yield Queues(sqs, dead, events)
    sqs.set_queue_attributes(QueueUrl=events, Attributes={"VisibilityTimeout": "180"})
    sqs.purge_queue(QueueUrl=dead)


def dead(queues: Queues) -> dict[str, Any]:
    """The first message of the dead-letter queue, once there is one, for at most a minute; it stays there."""
    for _ in range(6):
        answer = queues.sqs.receive_message(QueueUrl=queues.dead_letters, WaitTimeSeconds=10, VisibilityTimeout=0)
        for message in answer.get("Messages", []):
            found: dict[str, Any] = message
            return found
    raise AssertionError("no message came to the dead-letter queue")


def error_record(stack: Stack, message_id: str) -> dict[str, Any]:
    """The error record of a message, its attributes as DynamoDB has them."""
    key = {"pk": {"S": derived_id("err", message_id)}, "sk": {"S": "R"}}
    dynamodb = boto3.client("dynamodb", **stack.aws)
    item: dict[str, Any] = dynamodb.get_item(TableName=stack.resources["RecoveryTable"], Key=key)["Item"]
    return item


def test_producers_put_events_on_the_bus_and_into_the_queue(stack: Stack, api: httpx.Client) -> None:
    """One event, several, CloudEvents; what is put there twice counts once."""
    time = datetime.now(UTC).isoformat()
    simple = [{"id": f"s{n}", "customer": "hedy", "feature": "flow-calls", "time": time} for n in range(5)]
    cloud = [
        {"specversion": "1.0", "id": f"c{n}", "source": "/shop", "type": "flow-calls", "subject": "hedy", "time": time}
        for n in range(3)
    ]
    timeless = {"id": "t1", "customer": "hedy", "feature": "flow-calls"}
    bus = boto3.client("events", **stack.aws)
    details = [simple[0], cloud[0], {"events": [*simple[1:3], cloud[1]]}, timeless]
    entries = [
        {
            "EventBusName": stack.resources["UsageBus"],
            "Source": "shop",
            "DetailType": "whatever",
            "Detail": json.dumps(detail),
        }
        for detail in details
    ]
    sqs = boto3.client("sqs", **stack.aws)
    for _ in range(2):
        assert bus.put_events(Entries=entries)["FailedEntryCount"] == 0
        for body in (simple[3], [simple[4], cloud[2]]):
            sqs.send_message(QueueUrl=stack.resources["EventsQueue"], MessageBody=json.dumps(body))
    assert counted(api, 9, "hedy") == 9
    assert api.post("/v1/events", json=[*simple, timeless]).json()["duplicate"] == 6


def credentials_of(stack: Stack) -> dict[str, Any]:
    """Those of the account, for what takes its own from around it."""
    return {name: value for name, value in stack.aws.items() if name != "endpoint_url"}


def test_the_examples_for_producers_work_as_they_are_printed(
    stack: Stack, api: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of docs/ingest.md, for a customer and a feature that are there."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", boto3.Session(**credentials_of(stack)))
    monkeypatch.setenv("AWS_ENDPOINT_URL", stack.endpoint_url)
    names = {"EVENTS_QUEUE_URL": stack.resources["EventsQueue"], "USAGE_BUS": stack.resources["UsageBus"]}
    text = (ROOT / "docs/ingest.md").read_text().replace("acme", "ruth").replace("api-calls", "flow-calls")
    examples = re.findall(r"```python\n(.+?)```", text, re.DOTALL)
    for example in examples:
        exec(example, dict(names))  # noqa: S102 - our own
    assert len(examples) == 2
    assert counted(api, 3, "ruth") == 3


def test_a_poisoned_message_ends_in_the_dead_letter_queue_and_its_neighbours_are_counted(
    stack: Stack, api: httpx.Client, queues: Queues
) -> None:
    """One record names why; sent back, the message ends there again, with no second record."""
    event = {"customer": "joan", "feature": "flow-calls", "time": datetime.now(UTC).isoformat()}
    bodies = [json.dumps(event | {"id": "j1"}), '{"id": "j2", "id": "j2"}', json.dumps(event | {"id": "j3"})]
    entries = [{"Id": str(n), "MessageBody": body} for n, body in enumerate(bodies)]
    sent = queues.sqs.send_message_batch(QueueUrl=queues.home, Entries=entries)["Successful"]
    poison = next(one["MessageId"] for one in sent if one["Id"] == "1")
    assert counted(api, 2, "joan") == 2
    assert (dead(queues)["MessageId"], dead(queues)["Body"]) == (poison, bodies[1])
    record = error_record(stack, poison)
    assert "the key 'id' stands twice" in record["error"]["S"]
    assert json.loads(record["context"]["S"])["queue"].endswith(queues.home.rpartition("/")[2])
    before = invoke(stack, "RetryProcessorFunction")["unresolved"]
    assert redrive(queues).sent == 1
    assert dead(queues)["Body"] == bodies[1]
    assert invoke(stack, "RetryProcessorFunction")["unresolved"] == before


def test_what_failed_while_the_system_was_broken_comes_home_by_a_redrive(
    stack: Stack, api: httpx.Client, queues: Queues
) -> None:
    """The function cannot reach its table; it is mended, and the message counts and its record is resolved."""
    function, aws = stack.resources["UsageFunction"], boto3.client("lambda", **stack.aws)
    environment = aws.get_function_configuration(FunctionName=function)["Environment"]
    broken = {"Variables": environment["Variables"] | {"USAGE_TABLE": "gone"}}
    aws.update_function_configuration(FunctionName=function, Environment=broken)
    try:
        body = json.dumps({"id": "m1", "customer": "mary", "feature": "flow-calls"})
        message = queues.sqs.send_message(QueueUrl=queues.home, MessageBody=body)["MessageId"]
        assert dead(queues)["MessageId"] == message
    finally:
        aws.update_function_configuration(FunctionName=function, Environment=environment)
    assert error_record(stack, message)["status"]["S"] == "manual"
    assert redrive(queues).sent == 1
    assert counted(api, 1, "mary") == 1
    for _ in range(500):
        if error_record(stack, message)["status"]["S"] == "resolved":
            break
    assert error_record(stack, message)["status"]["S"] == "resolved"

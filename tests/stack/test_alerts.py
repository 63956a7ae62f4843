"""Usage alerts by the real wiring: a webhook on this machine, the event bus, and recovery when a delivery fails."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import boto3
import httpx
import pytest

from tests.stack.test_flows import invoke, received
from tests.unit.fakes_webhooks import Received, Receiver, receiver
from tollgate.catalog.model import Threshold
from tollgate.kernel.ids import derived_id
from tollgate.kernel.time import parse_time
from tollgate.kernel.webhooks import sign
from tollgate.metering.alerts import Reached, reached_from_json, reached_to_dict
from tollgate.metering.model import CounterId
from tools.local import Stack

FEATURE = "alert-calls"


@pytest.fixture(scope="module", autouse=True)
def seller(api: httpx.Client) -> None:
    """A quota of ten, and vera on it."""
    api.put(f"/v1/features/{FEATURE}", json={"name": "Calls", "type": "quota"}).raise_for_status()
    plan = {
        "name": "Alert",
        "currency": "EUR",
        "billing_period": {"interval": "month"},
        "features": [{"feature": FEATURE, "quota": {"limit": "10"}}],
    }
    api.put("/v1/plans/alert", json=plan).raise_for_status()
    api.put("/v1/customers/vera", json={}).raise_for_status()
    start = (datetime.now(UTC) - timedelta(days=2)).isoformat()
    body = {"id": "sub-vera", "customer": "vera", "plan": "alert", "starts_at": start}
    api.post("/v1/subscriptions", json=body).raise_for_status()


@pytest.fixture
def hook(api: httpx.Client) -> Iterator[tuple[Receiver, str]]:
    """A receiver whose webhook is known to the stack, and its secret."""
    with receiver() as there:
        body = {"url": f"{there.url}/hook", "events": ["usage.threshold_reached"]}
        made = api.put("/v1/webhooks/local", json=body).raise_for_status().json()
        yield there, made["secret"]
        api.delete("/v1/webhooks/local").raise_for_status()


@pytest.fixture
def bus(stack: Stack) -> str:
    """A queue with all events of the bus; its URL."""
    sqs, events = boto3.client("sqs", **stack.aws), boto3.client("events", **stack.aws)
    queue: str = sqs.create_queue(QueueName="alerts-heard")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    name = stack.resources["EventsBus"]
    pattern = json.dumps({"detail-type": ["usage.threshold_reached"]})
    events.put_rule(Name="alerts-heard", EventBusName=name, EventPattern=pattern)
    events.put_targets(Rule="alerts-heard", EventBusName=name, Targets=[{"Id": "queue", "Arn": arn}])
    return queue


def take(there: Receiver, secret: str) -> tuple[str, dict[str, Any]]:
    """The next event that a receiver is sent, for which it waits a minute, and its id; its signature is right."""
    request: Received = there.received.get(timeout=60)
    message_id, seconds = request.headers["webhook-id"], int(request.headers["webhook-timestamp"])
    expected = sign(secret, message_id, datetime.fromtimestamp(seconds, UTC), request.body)
    assert request.headers["webhook-signature"] == expected
    event: dict[str, Any] = json.loads(request.body)
    assert reached_from_json(request.body.decode()).id == message_id
    return message_id, event


def use(api: httpx.Client, event_id: str, quantity: str) -> dict[str, Any]:
    """Count an event of vera's; the answer."""
    event = {"id": event_id, "customer": "vera", "feature": FEATURE, "quantity": quantity, "time": use_at}
    answer: dict[str, Any] = api.post("/v1/events", json=event).raise_for_status().json()
    return answer


use_at = datetime.now(UTC).isoformat()


def test_usage_that_reaches_a_threshold_is_told_once_to_the_webhook_and_on_the_bus(
    stack: Stack, api: httpx.Client, hook: tuple[Receiver, str], bus: str
) -> None:
    """Of one event that reaches two, both are told; sent again, it is a duplicate and nothing is told."""
    there, secret = hook
    thresholds = [{"percent": "80"}, {"quantity": "9"}, {"percent": "100"}]
    api.put(f"/v1/customers/vera/alerts/{FEATURE}", json={"thresholds": thresholds}).raise_for_status()
    assert use(api, "use-1", "7.9")["accepted"] == 1
    assert use(api, "use-2", "1.1")["accepted"] == 1
    told = dict(take(there, secret) for _ in range(2))
    assert use(api, "use-2", "1.1")["duplicate"] == 1
    assert use(api, "use-3", "1")["accepted"] == 1
    told |= dict([take(there, secret)])
    assert len(told) == 3
    assert sorted(map(str, (event["data"]["threshold"] for event in told.values()))) == sorted(map(str, thresholds))
    usage = api.get("/v1/customers/vera/usage", params={"feature": FEATURE}).json()
    for event in told.values():
        data = event["data"]
        assert (data["customer"], data["feature"], data["subscription"]) == ("vera", FEATURE, "sub-vera")
        assert (data["period"], data["limit"]) == (usage["period"], "10")
    assert {event["data"]["used"] for event in told.values()} == {"9", "10"}
    heard = {}
    for envelope in received(stack, bus):
        heard[envelope["detail"]["id"]] = envelope["detail"]
        if len(heard) == 3:
            break
    assert heard == {alert: {"id": alert, **event} for alert, event in told.items()}
    assert there.received.empty()


def test_a_delivery_that_fails_is_made_by_recovery(stack: Stack, hook: tuple[Receiver, str]) -> None:
    """The receiver answers 503 at first: an error record, and then the retry processor delivers."""
    there, secret = hook
    start = parse_time("2026-01-01T00:00:00Z")
    counter = CounterId("vera", FEATURE, "sub-vera", start)
    one = Reached(counter, start + timedelta(days=31), Threshold(Decimal(80)), Decimal(10), Decimal(8), start)
    there.status = 503
    sqs = boto3.client("sqs", **stack.aws)
    for _ in range(2):
        sqs.send_message(QueueUrl=stack.resources["AlertsQueue"], MessageBody=json.dumps(reached_to_dict(one)))
    assert take(there, secret) == (one.id, reached_to_dict(one))
    there.status = 204
    record_id = derived_id("err", f"deliver_webhook#{one.id}#local")
    bring_forward(stack, record_id)
    for _ in range(100):
        invoke(stack, "RetryProcessorFunction")
        status = record(stack, record_id)["status"]
        if status == {"S": "resolved"}:
            break
    assert status == {"S": "resolved"}
    assert take(there, secret) == (one.id, reached_to_dict(one))
    assert there.received.empty()


def record(stack: Stack, record_id: str) -> dict[str, Any]:
    """An error record as its item, once there is one; asks at most 500 times."""
    dynamodb = boto3.client("dynamodb", **stack.aws)
    key = {"pk": {"S": record_id}, "sk": {"S": "R"}}
    for _ in range(500):
        found = dynamodb.get_item(TableName=stack.resources["RecoveryTable"], Key=key, ConsistentRead=True)
        if "Item" in found:
            break
    item: dict[str, Any] = found["Item"]
    return item


def bring_forward(stack: Stack, record_id: str) -> None:
    """Make a record due now, which waits up to a minute by itself."""
    assert record(stack, record_id)["operation"] == {"S": "deliver_webhook"}
    boto3.client("dynamodb", **stack.aws).update_item(
        TableName=stack.resources["RecoveryTable"],
        Key={"pk": {"S": record_id}, "sk": {"S": "R"}},
        UpdateExpression="SET due_at = :past, next_retry_at = :past",
        ExpressionAttributeValues={":past": {"S": "2026-01-01T00:00:00.000000Z"}},
    )


def test_a_receiver_that_is_gone_is_disabled_until_it_is_put_again(
    stack: Stack, api: httpx.Client, hook: tuple[Receiver, str]
) -> None:
    """It answers 410, and hears nothing more."""
    there, secret = hook
    start = parse_time("2025-12-01T00:00:00Z")
    one = Reached(
        CounterId("vera", FEATURE, "sub-vera", start), start, Threshold(Decimal(80)), Decimal(10), Decimal(8), start
    )
    there.status = 410
    queue = stack.resources["AlertsQueue"]
    boto3.client("sqs", **stack.aws).send_message(QueueUrl=queue, MessageBody=json.dumps(reached_to_dict(one)))
    take(there, secret)
    for _ in range(500):
        shown = api.get("/v1/webhooks/local").raise_for_status().json()
        if shown["disabled_at"]:
            break
    assert shown["disabled_at"]
    assert "secret" not in shown
    again = {"url": shown["url"], "events": shown["events"]}
    assert api.put("/v1/webhooks/local", json=again).json() == shown | {"disabled_at": None, "secret": None}

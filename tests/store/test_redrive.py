"""`make redrive`: dead messages go back to the events queue; on moto."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from tollgate.kernel.time import format_time, from_epoch_ms
from tools import redrive as tool
from tools.redrive import Queues, redrive

ATTRIBUTES = ["tollgate-original-id", "tollgate-received-at"]


@pytest.fixture
def queues(monkeypatch: pytest.MonkeyPatch) -> Iterator[Queues]:
    """Two empty queues, for whose messages nobody waits."""
    monkeypatch.setattr(tool, "WAIT_SECONDS", 0)
    with mock_aws():
        sqs = boto3.client("sqs")
        yield Queues(sqs, *(sqs.create_queue(QueueName=name)["QueueUrl"] for name in ("dead", "events")))


def send(queues: Queues, body: Any, **attributes: str) -> str:
    """Put a message into the dead-letter queue; its id."""
    told = {name.replace("_", "-"): {"DataType": "String", "StringValue": attributes[name]} for name in attributes}
    sent = queues.sqs.send_message(QueueUrl=queues.dead_letters, MessageBody=json.dumps(body), MessageAttributes=told)
    message_id: str = sent["MessageId"]
    return message_id


def waiting(queues: Queues) -> list[tuple[Any, dict[str, str]]]:
    """What the events queue holds now: each message with its attributes."""
    answer = queues.sqs.receive_message(
        QueueUrl=queues.home, MaxNumberOfMessages=10, MessageAttributeNames=["All"], VisibilityTimeout=0
    )
    return [
        (json.loads(one["Body"]), {name: told["StringValue"] for name, told in one["MessageAttributes"].items()})
        for one in answer.get("Messages", [])
    ]


def test_every_dead_message_goes_back_as_it_was_with_its_first_id_and_time(queues: Queues) -> None:
    """More than one receive brings; the progress tells each."""
    before = datetime.now(UTC)
    ids = [send(queues, {"id": f"e{number}"}) for number in range(23)]
    told: list[int] = []
    result = redrive(queues, told.append)
    assert (result.sent, result.failed, result.returned) == (23, {}, set())
    assert told == list(range(1, 24))
    assert queues.waiting() == 0
    body, attributes = waiting(queues)[0]
    assert attributes["tollgate-original-id"] == ids[int(body["id"][1:])]
    received_at = datetime.fromisoformat(attributes["tollgate-received-at"])
    assert from_epoch_ms(int(before.timestamp() * 1000)) <= received_at <= datetime.now(UTC)


def test_a_message_that_is_redriven_again_keeps_what_it_was_at_first(queues: Queues) -> None:
    """Not what it was at the last redrive; attributes of others are not carried along."""
    first = {"tollgate_original_id": "m1", "tollgate_received_at": format_time(datetime(2026, 2, 1, tzinfo=UTC))}
    send(queues, "{", **first, ERROR_CODE="SDK_CLIENT_ERROR")
    redrive(queues)
    [(body, attributes)] = waiting(queues)
    expected = {"tollgate-original-id": "m1", "tollgate-received-at": "2026-02-01T00:00:00Z"}
    assert (body, attributes) == ("{", expected)


def test_a_message_that_comes_back_meanwhile_is_left(queues: Queues) -> None:
    """So one that can never be read does not go round in circles."""
    send(queues, "{", tollgate_original_id="m1")

    def comes_back(_: int) -> None:
        send(queues, "{", tollgate_original_id="m1")

    result = redrive(queues, comes_back)
    assert (result.sent, result.returned) == (1, {"m1"})
    assert len(waiting(queues)) == 1


def test_a_message_that_cannot_be_sent_stays_in_the_dead_letter_queue(queues: Queues) -> None:
    """And is told, with the reason."""
    message_id = send(queues, {"id": "e1"})
    gone = Queues(queues.sqs, queues.dead_letters, queues.home + "-gone")
    result = redrive(gone)
    assert (result.sent, list(result.failed)) == (0, [message_id])
    assert "NonExistentQueue" in result.failed[message_id]
    held = queues.sqs.get_queue_attributes(QueueUrl=queues.dead_letters, AttributeNames=["All"])["Attributes"]
    assert held["ApproximateNumberOfMessagesNotVisible"] == "1"


def test_the_command_finds_the_queues_of_a_deployment_by_its_outputs(
    queues: Queues, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of events and those of alerts; and says how many messages of each went back."""
    alerts = Queues(queues.sqs, *(queues.sqs.create_queue(QueueName=name)["QueueUrl"] for name in ("gone", "alerts")))
    told = {kind: {"DeadLetterQueueUrl": one.dead_letters, "QueueUrl": one.home} for kind, one in (
        ("Events", queues), ("Alerts", alerts),
    )}  # fmt: skip
    outputs = {kind + name: {"Value": url} for kind, urls in told.items() for name, url in urls.items()}
    template = {"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}, "Outputs": outputs}
    boto3.client("cloudformation").create_stack(StackName="tollgate-prod", TemplateBody=json.dumps(template))
    send(queues, {"id": "e1"})
    for number in range(2):
        send(alerts, {"id": f"alert-{number}"})
    assert tool.main(["--stack", "tollgate-prod"]) == 0
    shown = capsys.readouterr().out
    assert "1 message of events sent back" in shown
    assert "2 messages of alerts sent back" in shown
    assert [len(waiting(one)) for one in (queues, alerts)] == [1, 2]


@pytest.mark.usefixtures("queues")
def test_without_a_stack_it_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No local stack is running; there is no stack of that name on AWS."""
    assert tool.main(["--state", str(tmp_path)]) == 1
    assert "make run" in capsys.readouterr().err
    assert tool.main(["--stack", "tollgate-none"]) == 1
    assert "tollgate-none cannot be read" in capsys.readouterr().err

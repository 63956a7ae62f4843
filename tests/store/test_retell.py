"""`make retell`: what the outbox could not tell is read from the stream again; on moto."""

import io
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from moto import mock_aws

from tools.retell import Retold, retell


@dataclass
class Outbox:
    """The function: what it was handed, and what it answers."""

    handed: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)

    def invoke(self, *, FunctionName: str, Payload: str) -> dict[str, Any]:  # noqa: N803 - as boto3 names them
        """Take records."""
        assert FunctionName == "outbox"
        self.handed += json.loads(Payload)["Records"]
        return {"Payload": io.BytesIO(json.dumps({"batchItemFailures": self.failures}).encode())}


class Stream:
    """The stream of a table, which gives a few records at a time, and now and then none; early numbers are shorter."""

    def __init__(self, changes: int) -> None:
        """So many changes, each a new item."""
        self.numbers = [str(number) for number in range(90, 90 + changes)]
        self.asked = 0

    def get_shard_iterator(self, **asked: str) -> dict[str, str]:
        """Where one begins."""
        assert (asked["StreamArn"], asked["ShardId"]) == ("arn:stream", "shard-1")
        assert asked["ShardIteratorType"] == "AT_SEQUENCE_NUMBER"
        return {"ShardIterator": str(self.numbers.index(asked["SequenceNumber"]))}

    def get_records(self, *, ShardIterator: str) -> dict[str, Any]:  # noqa: N803 - as boto3 names them
        """At most seven."""
        start = int(ShardIterator)
        self.asked += 1
        if self.asked % 2:
            return {"Records": [], "NextShardIterator": ShardIterator}
        records = [
            {
                "eventName": "INSERT",
                "dynamodb": {
                    "Keys": {"pk": {"S": f"p{place}"}},
                    "NewImage": {"pk": {"S": f"p{place}"}, "blob": {"B": b"\x00\xff"}},
                    "SequenceNumber": self.numbers[place],
                    "ApproximateCreationDateTime": datetime(2026, 11, 26, tzinfo=UTC),
                },
            }
            for place in range(start, min(start + 7, len(self.numbers)))
        ]
        return {"Records": records, "NextShardIterator": str(start + len(records))}


class World:
    """A stream of 25 changes, the queue, and the function."""

    def __init__(self) -> None:
        """Make them."""
        self.outbox, self.streams, self.sqs = Outbox(), Stream(25), boto3.client("sqs")
        self.queue = self.sqs.create_queue(QueueName="invocations")["QueueUrl"]
        self.numbers = self.streams.numbers

    def fail(self, first: str, last: str) -> None:
        """Say that some records were not told, as Lambda does."""
        place = {"shardId": "shard-1", "startSequenceNumber": first, "endSequenceNumber": last}
        body = {"requestContext": {"condition": "RetryAttemptsExhausted"}}
        self.send(json.dumps(body | {"DDBStreamBatchInfo": place | {"streamArn": "arn:stream", "batchSize": 1}}))

    def send(self, body: str) -> None:
        """A message of the queue."""
        self.sqs.send_message(QueueUrl=self.queue, MessageBody=body)

    def retell(self) -> Retold:
        """Do it."""
        return retell(self.sqs, self.streams, self.outbox, queue=self.queue, outbox="outbox")

    def left(self) -> int:
        """How many messages are there still."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=names)["Attributes"]
        return sum(map(int, found.values()))


@pytest.fixture
def world() -> Any:
    """All of it on moto."""
    with mock_aws():
        yield World()


def test_the_records_that_a_message_names_are_told_and_no_others(world: World) -> None:
    """As Lambda hands them over: bytes in base64, times in seconds; in batches."""
    world.fail(world.numbers[3], world.numbers[17])
    assert world.retell() == Retold(records=15, told=1)
    assert [one["dynamodb"]["Keys"]["pk"]["S"] for one in world.outbox.handed] == [f"p{n}" for n in range(3, 18)]
    first = world.outbox.handed[0]
    assert (first["eventName"], first["eventSourceARN"]) == ("INSERT", "arn:stream")
    assert first["dynamodb"]["NewImage"]["blob"] == {"B": "AP8="}
    assert isinstance(first["dynamodb"]["ApproximateCreationDateTime"], float)
    assert world.left() == 0


def test_what_cannot_be_told_yet_stays(world: World) -> None:
    """The message is there for the next time."""
    world.fail(world.numbers[0], world.numbers[0])
    world.outbox.failures = [{"itemIdentifier": world.numbers[0]}]
    found = world.retell()
    assert (found.told, found.records) == (0, 0)
    assert "see its log" in next(iter(found.failed.values()))
    assert world.left() == 1


def test_what_the_stream_has_forgotten_is_said(world: World) -> None:
    """A day is over: the last record does not come."""
    world.fail(world.numbers[20], str(int(world.numbers[-1]) + 1))
    assert "does not hold all" in next(iter(world.retell().failed.values()))
    assert (world.outbox.handed, world.left()) == ([], 1)


def test_runs_that_failed_are_counted_and_left(world: World) -> None:
    """Of a schedule, of a topic, and what can be anything."""
    for body in ('{"requestPayload": {}, "requestContext": {}}', "[]", "no json"):
        world.send(body)
    assert world.retell() == Retold(runs=3)
    assert world.left() == 3


def test_the_queue_is_empty_only_when_all_of_its_servers_say_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that does not wait is answered by some of them, and these may have nothing."""
    world.fail(world.numbers[0], world.numbers[0])
    receive = world.sqs.receive_message

    def receive_of_some(**asked: Any) -> Any:
        return receive(**asked) if asked.get("WaitTimeSeconds") else {}

    monkeypatch.setattr(world.sqs, "receive_message", receive_of_some)
    assert world.retell() == Retold(records=1, told=1)

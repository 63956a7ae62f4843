"""Has the outbox tell what it could not: `python -m tools.retell [--stack NAME]`.

When outbox fails for good on records of a stream, Lambda sends their place to InvocationsDeadLetterQueue, not the
records. Within a day they are in the stream still: they are read there and handed to the function, and the message is
deleted when all were told. Receivers know an event that they have seen by its id. Runs of schedules that failed are in
the same queue; the next run does the same work, so their messages are counted and left.

Without a name the stack is the one that `make run` has started; with one, a CloudFormation stack, with the AWS
credentials and region of the environment.
"""

import argparse
import base64
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from tools import LOCAL, ToolError
from tools.restore import site_of

__all__ = ["Retold", "retell"]

HIDDEN_SECONDS = 300
"""A message is hidden from others while its records are told."""

WAIT_SECONDS = 2
"""The queue is empty when none of its servers has a message for so long."""

EMPTY_ANSWERS = 20
"""A stream may answer with no records before those that are asked for; after so many in a row they are not there."""

TELLING_SECONDS = 120
"""The function's own limit: before it, a lack of an answer means nothing."""

BATCH = 10
"""Records that are handed over at once, as the stream's mapping does."""


@dataclass
class Retold:
    """Records that were told, messages whose records are told or not and why, and messages of failed runs."""

    records: int = 0
    told: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    runs: int = 0


def retell(sqs: Any, streams: Any, functions: Any, *, queue: str, outbox: str) -> Retold:
    """Tell the records whose places a queue holds.

    Args:
        sqs: the client of SQS.
        streams: the client of DynamoDB's streams.
        functions: the client of Lambda.
        queue: the URL of InvocationsDeadLetterQueue.
        outbox: the name of the function.
    """
    result = Retold()
    while messages := _receive(sqs, queue):
        for message in messages:
            place = _place(message["Body"])
            if place is None:
                result.runs += 1
                continue
            try:
                result.records += _tell(functions, outbox, place["streamArn"], _records(streams, place))
            except (ToolError, ClientError) as error:
                result.failed[message["MessageId"]] = str(error)
            else:
                sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
                result.told += 1
    return result


def _receive(sqs: Any, queue: str) -> list[dict[str, Any]]:
    answer = sqs.receive_message(
        QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=WAIT_SECONDS, VisibilityTimeout=HIDDEN_SECONDS
    )
    messages: list[dict[str, Any]] = answer.get("Messages", [])
    return messages


def _place(body: str) -> dict[str, str] | None:
    """Where in a stream the records of a message are, if it is about records."""
    try:
        found: dict[str, str] | None = json.loads(body).get("DDBStreamBatchInfo")
    except (ValueError, AttributeError):
        return None
    return found


def _records(streams: Any, place: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The records from the first that a message names to the last."""
    last = int(place["endSequenceNumber"])
    iterator = streams.get_shard_iterator(
        StreamArn=place["streamArn"],
        ShardId=place["shardId"],
        ShardIteratorType="AT_SEQUENCE_NUMBER",
        SequenceNumber=place["startSequenceNumber"],
    )["ShardIterator"]
    empty = 0
    while iterator and empty < EMPTY_ANSWERS:
        answer = streams.get_records(ShardIterator=iterator)
        for record in answer["Records"]:
            number = int(record["dynamodb"]["SequenceNumber"])
            if number <= last:
                yield record
            if number >= last:
                return
        empty = 0 if answer["Records"] else empty + 1
        iterator = answer.get("NextShardIterator")
    raise ToolError("the stream does not hold all of its records any more")


def _tell(functions: Any, outbox: str, stream: str, records: Iterator[dict[str, Any]]) -> int:
    """Hand records to the function as Lambda does, a few at a time; how many.

    Raises:
        ToolError: it could not tell one.
    """
    found = list(records)
    for start in range(0, len(found), BATCH):
        batch = [one | {"eventSourceARN": stream} for one in found[start : start + BATCH]]
        answer = functions.invoke(FunctionName=outbox, Payload=json.dumps({"Records": batch}, default=_plain))
        said = json.loads(answer["Payload"].read())
        if "FunctionError" in answer or said["batchItemFailures"]:
            raise ToolError(f"outbox cannot tell it still, see its log: {said}")
    return len(found)


def _plain(value: object) -> object:
    """Bytes and times as Lambda writes them."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return value.timestamp()
    raise TypeError(type(value).__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Retell from the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.retell", description="Tell what outbox could not tell.")
    parser.add_argument("--stack", help="a CloudFormation stack's name (default: the stack that `make run` started)")
    parser.add_argument("--state", type=Path, default=LOCAL, help="folder of the local stack's stack.json (.local)")
    options = parser.parse_args(arguments)
    try:
        site = site_of(options.stack, options.state)
        patient = Config(read_timeout=TELLING_SECONDS + 10)
        clients = [boto3.client(name, config=patient, **site.aws) for name in ("sqs", "dynamodbstreams", "lambda")]
        queue, outbox = site.resources["InvocationsDeadLetterQueue"], site.resources["OutboxFunction"]
        result = retell(*clients, queue=queue, outbox=outbox)
    except (ToolError, BotoCoreError, ClientError) as error:
        print(f"tollgate: {error}", file=sys.stderr)
        return 1
    console = Console(soft_wrap=not sys.stdout.isatty())
    console.print(f"{result.records} changes of {result.told} messages were told")
    if result.runs:
        console.print(
            f"{result.runs} messages are of runs that failed, which the next ones have made good: see the guide"
        )
    for message, why in result.failed.items():
        print(f"tollgate: {message} stays in the dead-letter queue: {why}", file=sys.stderr)
    return 1 if result.failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Sends back what waits in the dead-letter queues of events and of alerts: `python -m tools.redrive [--stack NAME]`.

Without a name the queues are those of the stack that `make run` has started; with one, those of that CloudFormation
stack, with the AWS credentials and region of the environment. A message is first sent to its queue and then deleted, so
that none is lost; one that is sent twice is counted, or told, once. It keeps, as message attributes, the id it had and
the time at which it was first received: SQS gives it new ones, and its own redrive (StartMessageMoveTask) would have an
event with no time count as if it had happened now.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from tools import LOCAL, ROOT, ToolError
from tools.local import running_stack

sys.path.insert(0, str(ROOT / "layers/common"))

from tollgate.kernel.time import format_time, from_epoch_ms
from tollgate.metering.queue import ORIGINAL_ID, RECEIVED_AT

__all__ = ["Queues", "Redriven", "redrive"]

HIDDEN_SECONDS = 60
"""A message is hidden from others while it is sent back; what could not be sent is seen again after that."""

NAMES = {
    "events": ("EventsDeadLetterQueue", "EventsQueue"),
    "alerts": ("AlertsDeadLetterQueue", "AlertsQueue"),
}
"""What the messages are, and the names of their queues in the template."""

WAIT_SECONDS = 2
"""The queue is empty when none of its servers has a message for so long."""


@dataclass(frozen=True)
class Queues:
    """A dead-letter queue and the one that its messages came from, by their URLs, and the client that reaches them."""

    sqs: Any
    dead_letters: str
    home: str

    def waiting(self) -> int:
        """About how many messages the dead-letter queue holds."""
        name = "ApproximateNumberOfMessages"
        answer = self.sqs.get_queue_attributes(QueueUrl=self.dead_letters, AttributeNames=[name])
        return int(answer["Attributes"][name])


@dataclass
class Redriven:
    """How many messages were sent back, which ones were not and why, and which were back already."""

    sent: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    returned: set[str] = field(default_factory=set)


def redrive(queues: Queues, progress: Callable[[int], None] = lambda _: None) -> Redriven:
    """Send back all that the dead-letter queue holds, each message once.

    A message that cannot be sent stays where it is, and so does one that comes back while this goes on.
    """
    result, seen = Redriven(), set[str]()
    while messages := _receive(queues):
        for message in messages:
            attributes = _attributes(message)
            original = attributes[ORIGINAL_ID]["StringValue"]
            if original in seen:
                result.returned.add(original)
                continue
            seen.add(original)
            try:
                queues.sqs.send_message(QueueUrl=queues.home, MessageBody=message["Body"], MessageAttributes=attributes)
                queues.sqs.delete_message(QueueUrl=queues.dead_letters, ReceiptHandle=message["ReceiptHandle"])
            except ClientError as error:
                result.failed[message["MessageId"]] = str(error)
            else:
                result.sent += 1
            progress(result.sent + len(result.failed))
    return result


def _receive(queues: Queues) -> list[dict[str, Any]]:
    answer = queues.sqs.receive_message(
        QueueUrl=queues.dead_letters,
        MaxNumberOfMessages=10,
        WaitTimeSeconds=WAIT_SECONDS,
        VisibilityTimeout=HIDDEN_SECONDS,
        MessageSystemAttributeNames=["SentTimestamp"],
        MessageAttributeNames=[ORIGINAL_ID, RECEIVED_AT],
    )
    messages: list[dict[str, Any]] = answer.get("Messages", [])
    return messages


def _attributes(message: dict[str, Any]) -> dict[str, dict[str, str]]:
    """What the message was at first: as it says itself, if it has been redriven before."""
    sent_at = from_epoch_ms(int(message["Attributes"]["SentTimestamp"]))
    first = {ORIGINAL_ID: message["MessageId"], RECEIVED_AT: format_time(sent_at)}
    told = {name: one["StringValue"] for name, one in message.get("MessageAttributes", {}).items()}
    return {name: {"DataType": "String", "StringValue": value} for name, value in (first | told).items()}


def queues_of(stack: str | None, state: Path) -> dict[str, Queues]:
    """The queues of a CloudFormation stack, or of the local stack, by what their messages are.

    Raises:
        ToolError: there is no such stack.
    """
    if stack is None:
        local = running_stack(state)
        sqs, urls = boto3.client("sqs", **local.aws), local.resources
        return {kind: Queues(sqs, *(urls[name] for name in names)) for kind, names in NAMES.items()}
    try:
        [found] = boto3.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
    except (BotoCoreError, ClientError) as error:
        raise ToolError(f"the stack {stack} cannot be read: {error}") from None
    outputs = {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])}
    wanted = {kind: [f"{name}Url" for name in names] for kind, names in NAMES.items()}
    if missing := {name for names in wanted.values() for name in names} - outputs.keys():
        raise ToolError(f"the stack {stack} has no output {', '.join(sorted(missing))}: deploy it anew")
    sqs = boto3.client("sqs")
    return {kind: Queues(sqs, *(outputs[name] for name in names)) for kind, names in wanted.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Redrive from the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.redrive", description="Send dead messages back: events to be counted, alerts to be told."
    )
    parser.add_argument("--stack", help="a CloudFormation stack's name (default: the stack that `make run` started)")
    parser.add_argument("--state", type=Path, default=LOCAL, help="folder of the local stack's stack.json (.local)")
    options = parser.parse_args(arguments)
    console = Console(soft_wrap=not sys.stdout.isatty())
    failed = False
    try:
        for kind, queues in queues_of(options.stack, options.state).items():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            with Progress(*columns, console=console) as progress:
                task = progress.add_task(f"{kind} sent back", total=queues.waiting())
                result = redrive(queues, lambda done, task=task, bar=progress: bar.update(task, completed=done))  # type: ignore[misc]
            _show(kind, result, console)
            failed = failed or bool(result.failed)
    except (ToolError, BotoCoreError, ClientError) as error:
        print(f"tollgate: {error}", file=sys.stderr)
        return 1
    return 1 if failed else 0


def _show(kind: str, result: Redriven, console: Console) -> None:
    noun = "message" if result.sent == 1 else "messages"
    what = "counted; error records of those that count are resolved" if kind == "events" else "told"
    console.print(f"{result.sent} {noun} of {kind} sent back to be {what}")
    if result.returned:
        why = "their error records say why" if kind == "events" else "the log of the alerts function says why"
        console.print(f"{len(result.returned)} came back meanwhile and were left: {why}")
    for message, why in result.failed.items():
        print(f"tollgate: {message} stays in the dead-letter queue: {why}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

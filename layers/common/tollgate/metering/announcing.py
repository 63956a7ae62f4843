"""Thresholds that were reached, put into a queue to be told: ingest waits for no receiver."""

import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Final

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tollgate.kernel.errors import Unavailable
from tollgate.metering.alerts import Reached, reached_to_dict

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

__all__ = ["QueueAnnouncer", "connect_sqs"]

_MAX_MESSAGES: Final = 10  # of a request to SQS
_MAX_KNOWN: Final = 10_000


@cache
def connect_sqs() -> "SQSClient":
    """The queue's client, which only a function needs that a threshold is reached in."""
    import boto3  # after the cold start

    client: SQSClient = boto3.client("sqs", config=Config(connect_timeout=1, read_timeout=3))
    return client


class QueueAnnouncer:
    """An `Announcer` over SQS, a message per threshold; a warm one knows what it has sent, and sends that once.

    `connect` gives the client, which many a function never needs.
    """

    def __init__(self, connect: Callable[[], "SQSClient"], queue_url: str) -> None:
        self._connect = connect
        self._queue_url = queue_url
        self._known: set[str] = set()

    def announce(self, reached: Sequence[Reached]) -> None:
        """Send those that this instance has not sent.

        Raises:
            Unavailable: not all could be sent; those that were are known.
        """
        new = list({one.id: one for one in reached if one.id not in self._known}.values())
        for start in range(0, len(new), _MAX_MESSAGES):
            self._send(new[start : start + _MAX_MESSAGES])

    def _send(self, part: list[Reached]) -> None:
        try:
            answer = self._connect().send_message_batch(
                QueueUrl=self._queue_url,
                Entries=[
                    {"Id": str(place), "MessageBody": json.dumps(reached_to_dict(one))}
                    for place, one in enumerate(part)
                ],
            )
        except (BotoCoreError, ClientError) as error:
            raise Unavailable("An alert could not be queued; send the request again.") from error
        failed = {entry["Id"] for entry in answer.get("Failed", ())}
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        self._known |= {one.id for place, one in enumerate(part) if str(place) not in failed}
        if failed:
            raise Unavailable("An alert could not be queued; send the request again.")

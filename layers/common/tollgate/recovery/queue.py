"""The retries queue: records that are tried at once, and sweeps that go on where one had no time left.

{"record": "err_..."}   try this record, if it is due
{"sweep": true}         try all that is due
"""

import json
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from tollgate.kernel.errors import BadRequest
from tollgate.kernel.ids import is_id

__all__ = ["RetriesQueue", "record_of"]

LONGEST_DELAY: Final = timedelta(minutes=15)
"""SQS's own."""

logger = logging.getLogger(__name__)


class RetriesQueue:
    """The `Retries` of the deployment; `client` is asked for when there is something to send."""

    def __init__(self, client: Callable[[], Any], url: str) -> None:
        self._client = client
        self._url = url

    def announce(self, record_id: str, delay: timedelta) -> None:
        """Have a record tried when so much time has passed, rounded up to seconds, so that it is due then."""
        seconds = -(-min(delay, LONGEST_DELAY) // timedelta(seconds=1))
        self._send({"record": record_id}, seconds)

    def hand_on(self) -> None:
        """Have a sweep go on."""
        self._send({"sweep": True}, 0)

    def _send(self, message: dict[str, Any], delay: int) -> None:
        try:
            self._client().send_message(QueueUrl=self._url, MessageBody=json.dumps(message), DelaySeconds=delay)
        except (BotoCoreError, ClientError) as error:
            logger.warning("a retry could not be queued and waits for the next sweep: %s", type(error).__name__)


def record_of(body: str) -> str | None:
    """The record that a message names; None for a sweep.

    Raises:
        BadRequest: it is no such message.
    """
    try:
        message = json.loads(body)
    except ValueError:
        message = None
    if message == {"sweep": True}:
        return None
    if isinstance(message, dict) and message.keys() == {"record"} and is_id(message["record"]):
        return str(message["record"])
    raise BadRequest('A message of the retries queue is {"record": id} or {"sweep": true}.')

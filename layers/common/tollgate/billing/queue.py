"""The billing queue: a message per subscription that is due."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from tollgate.billing.runs import Message, message_text
from tollgate.kernel.errors import Unavailable

__all__ = ["BillingQueue"]

_MAX_BATCH: Final = 10  # of a request to SQS


class BillingQueue:
    """The billing queue of the deployment; `client` is asked for when there is something to send."""

    def __init__(self, client: Callable[[], Any], url: str) -> None:
        self._client = client
        self._url = url

    def send(self, messages: Sequence[Message]) -> None:
        """Have messages wait.

        Raises:
            Unavailable: not all could be sent; what is due stays due.
        """
        for start in range(0, len(messages), _MAX_BATCH):
            part = messages[start : start + _MAX_BATCH]
            entries = [{"Id": str(place), "MessageBody": message_text(one)} for place, one in enumerate(part)]
            try:
                answer = self._client().send_message_batch(QueueUrl=self._url, Entries=entries)
            except (BotoCoreError, ClientError) as error:
                raise Unavailable("Not all subscriptions could be queued; they are due still.") from error
            if answer.get("Failed"):
                raise Unavailable("Not all subscriptions could be queued; they are due still.")

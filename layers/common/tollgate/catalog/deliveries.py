"""Events that leave Tollgate: once over the EventBridge bus, and to each webhook that wants them.

    publish_event    {"id", "event"}               puts it on the bus
    deliver_webhook  {"id", "event", "webhook"}    sends it to a webhook

Both may be repeated: a receiver knows an event by its id. What fails is for the caller to write down; the same
arguments given again to `publish` or `deliver` try it again.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Final, Protocol

from botocore.exceptions import BotoCoreError, ClientError

from tollgate.catalog.webhooks import MAX_WEBHOOKS, Webhook, Webhooks, disable_webhook
from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.time import Clock
from tollgate.kernel.webhooks import DeliveryFailed, Gone, send

__all__ = ["CHANGEABLE", "DELIVER", "PUBLISH", "Bus", "Deliveries", "EventBus", "Failure", "Lease", "Once"]

PUBLISH: Final = "publish_event"
DELIVER: Final = "deliver_webhook"
CHANGEABLE: Final[Mapping[str, frozenset[str]]] = {DELIVER: frozenset({"webhook"})}
"""What people may change of an operation that failed: the receiver, if another has taken its place."""

_SOURCE: Final = "tollgate"


@dataclass(frozen=True, slots=True)
class Lease:
    """Who alone may send an event until the lease ends; nobody needs to be told after `kept_until`."""

    pk: str
    sk: str
    until: datetime
    kept_until: datetime


class Once(Protocol):
    """What keeps an event from being sent again."""

    def claim(self, pk: str, sk: str, *, now: datetime, kept_until: datetime) -> Lease | None:
        """Lease the sending of an event for a minute; None when it has been sent.

        Raises:
            Unavailable: another's lease holds.
        """

    def done(self, lease: Lease) -> None:
        """Say that the event has been sent; nothing where the lease has passed to another."""


class Bus(Protocol):
    """Where whoever is in this AWS account hears of events."""

    def put(self, event_id: str, event: Mapping[str, Any]) -> None:
        """Put an event on it, or raise DeliveryFailed."""


class EventBus:
    """An EventBridge bus: source `tollgate`, the event's type as `detail-type`, and with its id as `detail`."""

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self._name = name

    def put(self, event_id: str, event: Mapping[str, Any]) -> None:
        """Put an event on the bus.

        Raises:
            DeliveryFailed: it is not known to be on the bus.
        """
        entry = {
            "EventBusName": self._name,
            "Source": _SOURCE,
            "DetailType": event["type"],
            "Detail": json.dumps({"id": event_id, **event}),
        }
        try:
            answer = self._client.put_events(Entries=[entry])
        except (BotoCoreError, ClientError) as error:
            raise DeliveryFailed(f"the event bus cannot be reached: {type(error).__name__}") from error
        if answer["FailedEntryCount"]:
            [result] = answer["Entries"]
            raise DeliveryFailed(f"the event bus refused the event: {result.get('ErrorCode')}")


@dataclass(frozen=True, slots=True)
class Failure:
    """What could not be done, to be tried again by the operation of that name with these arguments."""

    operation: str
    arguments: Mapping[str, Any]
    error: Exception


class Deliveries:
    """Sends events to the bus and to the webhooks."""

    def __init__(self, webhooks: Webhooks, bus: Bus, clock: Clock, *, allow_private: bool) -> None:
        self._webhooks = webhooks
        self._bus = bus
        self._clock = clock
        self._allow_private = allow_private

    def send(self, event_id: str, event: Mapping[str, Any]) -> list[Failure]:
        """Send an event to all who want it, the webhooks side by side; what failed."""
        failures = []
        wanting = [one for one in self._webhooks.webhooks() if _wants(one, event)]
        try:
            self._bus.put(event_id, event)
        except DeliveryFailed as error:
            failures.append(Failure(PUBLISH, {"id": event_id, "event": event}, error))
        for receiver, failed in self._post(wanting, event_id, event):
            if isinstance(failed, Gone):
                disable_webhook(self._webhooks, receiver, at=self._clock())
            elif failed is not None:
                failures.append(Failure(DELIVER, {"id": event_id, "event": event, "webhook": receiver.id}, failed))
        return failures

    def _post(
        self, receivers: Sequence[Webhook], event_id: str, event: Mapping[str, Any]
    ) -> list[tuple[Webhook, Exception | None]]:
        def post(receiver: Webhook) -> tuple[Webhook, Exception | None]:
            try:
                self._post_one(receiver, event_id, event)
            except (DeliveryFailed, TimeoutError) as error:
                return receiver, error
            return receiver, None

        if not receivers:
            return []
        with ThreadPoolExecutor(MAX_WEBHOOKS) as workers:
            return list(workers.map(post, receivers))

    def _post_one(self, receiver: Webhook, event_id: str, event: Mapping[str, Any]) -> None:
        now = self._clock()
        secret, *retired = receiver.secrets(now)
        send(
            receiver.url,
            secret=secret,
            retired=retired,
            message_id=event_id,
            at=now,
            body=json.dumps(event, separators=(",", ":")).encode(),
            allow_private=self._allow_private,
        )

    def publish(self, arguments: Mapping[str, Any], _key: str) -> None:
        """The operation publish_event.

        Raises:
            DeliveryFailed: it failed again.
        """
        self._bus.put(arguments["id"], arguments["event"])

    def deliver(self, arguments: Mapping[str, Any], _key: str) -> None:
        """The operation deliver_webhook; a webhook that has been removed or disabled meanwhile needs nothing more.

        Raises:
            DeliveryFailed, TimeoutError: it failed again.
        """
        event = arguments["event"]
        for receiver in self._webhooks.webhooks():
            if receiver.id == arguments["webhook"] and _wants(receiver, event):
                try:
                    self._post_one(receiver, arguments["id"], event)
                except Gone:
                    disable_webhook(self._webhooks, receiver, at=self._clock())


def _wants(receiver: Webhook, event: Mapping[str, Any]) -> bool:
    return receiver.disabled_at is None and event["type"] in receiver.events

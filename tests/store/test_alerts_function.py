"""The function that tells of thresholds, as it is deployed: on moto, with the permissions of its role."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import ModuleType
from typing import Any

import pytest
from botocore.client import BaseClient

from tests.store.test_sample_events import CONTEXT, actions, allows, load, statements
from tests.unit.fakes_recovery import Clock
from tollgate.catalog import deliveries
from tollgate.catalog.model import Threshold
from tollgate.catalog.store import DynamoCatalog
from tollgate.catalog.webhooks import Webhook
from tollgate.kernel.webhooks import DeliveryFailed, Gone
from tollgate.metering.alerts import Reached, reached_to_dict
from tollgate.metering.model import CounterId
from tollgate.recovery.model import ErrorRecord, ErrorType, Status
from tollgate.recovery.store import DynamoRecovery

START = datetime(2026, 1, 1, tzinfo=UTC)
COUNTER = CounterId("acme", "requests", "sub-acme", START)
REACHED = Reached(
    COUNTER, datetime(2026, 2, 1, tzinfo=UTC), Threshold(percent=Decimal(80)), Decimal(500), Decimal(400), START
)


class World:
    """The function, and what the bus and the receivers were sent; each fails while `errors` has something for it."""

    def __init__(self, app: ModuleType, clock: Clock) -> None:
        self.app = app
        self.clock = clock
        self.sent: list[tuple[str, str]] = []
        self.errors: dict[str, Exception] = {}

    def put(self, event_id: str, event: Mapping[str, Any]) -> None:
        """The bus."""
        assert event == reached_to_dict(REACHED)
        self._take("bus", event_id)

    def post(self, url: str, **more: Any) -> None:
        """The receivers."""
        assert json.loads(more["body"]) == reached_to_dict(REACHED)
        assert (more["secret"], more["at"]) == ("whsec_AAAA", self.clock.now)
        self._take(url, more["message_id"])

    def _take(self, receiver: str, event_id: str) -> None:
        self.sent.append((receiver, event_id))
        if error := self.errors.get(receiver):
            raise error

    def told(self) -> list[str]:
        """Who was sent the event since this was last asked, by name."""
        assert {event_id for _, event_id in self.sent} <= {REACHED.id}
        receivers, self.sent = sorted(receiver for receiver, _ in self.sent), []
        return receivers

    def deliver(self, body: str | None = None) -> bool:
        """Hand a message over; whether it is done."""
        record = {
            "messageId": "m1",
            "receiptHandle": "handle",
            "body": json.dumps(reached_to_dict(REACHED)) if body is None else body,
            "attributes": {},
            "messageAttributes": {},
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:eu-central-1:123456789012:alerts",
        }
        answer = self.app.handler({"Records": [record]}, CONTEXT)
        assert answer["batchItemFailures"] in ([], [{"itemIdentifier": "m1"}])
        return not answer["batchItemFailures"]


@pytest.fixture
def world(tables: None, monkeypatch: pytest.MonkeyPatch) -> World:  # noqa: ARG001 - the tables are there
    """The function with two webhooks."""
    app, clock = load("alerts"), Clock(START)
    made = World(app, clock)
    monkeypatch.setattr(app, "system_clock", clock)
    monkeypatch.setattr(app.deliveries, "_clock", clock)
    monkeypatch.setattr(app.bus, "put", made.put)
    monkeypatch.setattr(deliveries, "send", made.post)
    webhooks = tuple(Webhook(name, name, ("usage.threshold_reached",), "whsec_AAAA", START) for name in ("w1", "w2"))
    DynamoCatalog().update_webhooks(lambda _: webhooks)
    return made


def written_down() -> list[ErrorRecord]:
    """The error records, by operation."""
    store = DynamoRecovery()
    found = [store.get(record_id) for record_id in store.due(START + timedelta(days=2))]
    return sorted((record for record in found if record), key=lambda record: record.operation)


def test_a_threshold_is_told_once_however_often_it_is_announced(world: World) -> None:
    """On the bus and to each webhook."""
    assert world.deliver()
    assert world.told() == ["bus", "w1", "w2"]
    world.clock.forward(timedelta(days=30))
    assert world.deliver()
    assert world.told() == []


def test_what_cannot_be_delivered_is_written_down_and_the_alert_is_told(world: World) -> None:
    """Recovery has all it needs to try again, and nothing secret."""
    world.errors = {"bus": DeliveryFailed("down"), "w2": TimeoutError("slow")}
    assert world.deliver()
    assert world.told() == ["bus", "w1", "w2"]
    deliver, publish = written_down()
    event = {"id": REACHED.id, "event": reached_to_dict(REACHED)}
    assert (deliver.operation, deliver.arguments) == ("deliver_webhook", event | {"webhook": "w2"})
    assert (publish.operation, publish.arguments) == ("publish_event", event)
    for record in (deliver, publish):
        assert (record.type, record.status, record.customer) == (ErrorType.DELIVERY_FAILED, Status.PENDING, "acme")
        assert "whsec" not in str(record)
    assert world.deliver()
    assert world.told() == []


def test_a_run_that_dies_is_made_up_for_when_its_lease_has_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver may hear of it twice then, by the same id; a failure is written down once."""
    world.errors = {"w1": DeliveryFailed("no")}
    with monkeypatch.context() as patch:
        patch.setattr(world.app.once, "done", lambda _: 1 / 0)
        assert not world.deliver()
    assert world.told() == ["bus", "w1", "w2"]
    assert not world.deliver()
    assert world.told() == []
    world.clock.forward(timedelta(seconds=61))
    assert world.deliver()
    assert world.told() == ["bus", "w1", "w2"]
    assert len(written_down()) == 1


def test_nothing_is_told_as_long_as_its_failures_could_not_be_written_down(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told again instead."""
    world.errors = {"w1": DeliveryFailed("no")}
    with monkeypatch.context() as patch:
        patch.setattr(world.app, "record_error", lambda *_, **__: 1 / 0)
        assert not world.deliver()
    world.clock.forward(timedelta(seconds=61))
    assert world.deliver()
    assert len(written_down()) == 1


@pytest.mark.parametrize("body", ["", "{", "{}", "[]", '{"type": "usage.threshold_reached"}'])
def test_a_message_that_is_no_alert_is_not_done(world: World, body: str) -> None:
    """It ends in the dead-letter queue, which has an alarm."""
    assert not world.deliver(body)
    assert world.told() == []


def test_a_receiver_that_is_gone_hears_nothing_more(world: World) -> None:
    """Nor is there anything to try again."""
    world.errors = {"w1": Gone("410")}
    assert world.deliver()
    assert [(one.id, one.disabled_at) for one in DynamoCatalog().webhooks()] == [("w1", START), ("w2", None)]
    assert written_down() == []


def test_failures_and_receivers_that_are_gone_need_no_more_than_the_role_allows(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call to AWS is an action of the role's on that very resource."""
    calls: list[tuple[str, str, str | None]] = []
    original = BaseClient._make_api_call  # type: ignore[attr-defined]  # noqa: SLF001 - all calls pass here

    def record(client: Any, operation: str, request: dict[str, Any]) -> Any:
        calls.extend(actions(client.meta.service_model.service_name, operation, request))
        return original(client, operation, request)

    monkeypatch.setattr(BaseClient, "_make_api_call", record)
    world.errors = {"bus": DeliveryFailed("down"), "w1": Gone("410"), "w2": DeliveryFailed("no")}
    assert world.deliver()
    assert world.deliver()
    assert not [call for call in calls if not any(allows(each, *call) for each in statements("alerts-sqs"))]
    assert {action for action, _, _ in calls} == {"dynamodb:GetItem", "dynamodb:PutItem"}

"""The function that tells what has happened, as it is deployed: on moto, with the permissions of its role."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import pytest

from tests.samples import sample
from tests.store.test_sample_events import CONTEXT, load, recorded, refused
from tollgate.catalog import deliveries
from tollgate.catalog.store import DynamoCatalog
from tollgate.catalog.webhooks import Webhook
from tollgate.kernel.webhooks import DeliveryFailed, Gone
from tollgate.recovery.ledger import Filter
from tollgate.recovery.model import ErrorRecord
from tollgate.recovery.store import DynamoRecovery

START = datetime(2026, 1, 1, tzinfo=UTC)


class World:
    """The function, and what the bus and the receivers were sent; each fails while `errors` has something for it."""

    def __init__(self, app: ModuleType) -> None:
        self.app = app
        self.sent: list[tuple[str, str]] = []
        self.errors: dict[str, Exception] = {}

    def put(self, event_id: str, event: Mapping[str, Any]) -> None:
        """The bus."""
        self._take("bus", event_id, event["type"])

    def post(self, url: str, **more: Any) -> None:
        """The receivers."""
        assert (more["secret"], more["retired"]) == ("whsec_AAAA", [])
        self._take(url, more["message_id"], json.loads(more["body"])["type"])

    def _take(self, receiver: str, event_id: str, kind: str) -> None:
        assert event_id.startswith("evt_")
        self.sent.append((receiver, kind))
        if error := self.errors.get(receiver):
            raise error

    def hear(self) -> dict[str, Any]:
        """Hand the payment of the sample over."""
        event = sample("outbox-dynamodb")
        answer: dict[str, Any] = self.app.handler({"Records": event["Records"][:1]}, CONTEXT)
        return answer


@pytest.fixture
def world(tables: None, monkeypatch: pytest.MonkeyPatch) -> World:
    """The function with two webhooks, of which one wants payments."""
    assert tables is None
    made = World(load("outbox"))
    monkeypatch.setattr(made.app.bus, "put", made.put)
    monkeypatch.setattr(deliveries, "send", made.post)
    wanted = {"payments": ("payment.succeeded",), "invoices": ("invoice.paid",)}
    webhooks = tuple(Webhook(name, name, events, "whsec_AAAA", START) for name, events in wanted.items())
    DynamoCatalog().update_webhooks(lambda _: webhooks)
    return made


def records() -> list[ErrorRecord]:
    """The error records."""
    found, _ = DynamoRecovery().find(Filter(customer="acme"), after=None, limit=10)
    return found


def test_what_was_written_goes_to_the_bus_and_to_who_wants_it(world: World) -> None:
    """No other webhook hears of it."""
    assert world.hear() == {"batchItemFailures": []}
    assert sorted(world.sent) == [("bus", "payment.succeeded"), ("payments", "payment.succeeded")]
    assert records() == []


def test_what_cannot_be_delivered_is_written_down_once_and_holds_nobody_up(world: World) -> None:
    """Recovery has all it needs to try again, and nothing secret."""
    world.errors = {"bus": DeliveryFailed("no bus"), "payments": TimeoutError("slow")}
    assert world.hear() == world.hear() == {"batchItemFailures": []}
    found = sorted(records(), key=lambda record: record.operation)
    assert [record.operation for record in found] == ["deliver_webhook", "publish_event"]
    for record in found:
        assert (record.type.value, record.subscription) == ("delivery_failed", "sub-acme")
        assert record.arguments["event"]["type"] == record.context["type"] == "payment.succeeded"
        assert "whsec" not in repr(record)


def test_a_receiver_that_is_gone_is_disabled(world: World) -> None:
    """And is no failure."""
    world.errors = {"payments": Gone("410")}
    world.hear()
    world.hear()
    assert [receiver for receiver, _ in world.sent].count("payments") == 1
    assert records() == []


def test_a_record_that_cannot_be_told_now_comes_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """From it on: what is told of one thing keeps its order."""

    def broken(*_: Any) -> None:
        raise RuntimeError("the ledger is not there")

    world.errors = {"bus": DeliveryFailed("no bus")}
    monkeypatch.setattr(world.app, "record_error", broken)
    number = sample("outbox-dynamodb")["Records"][0]["dynamodb"]["SequenceNumber"]
    assert world.hear() == {"batchItemFailures": [{"itemIdentifier": number}]}


def test_a_failure_is_written_down_with_the_permissions_of_the_role(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As is a webhook that is gone."""
    calls = recorded(monkeypatch)
    world.errors = {"bus": DeliveryFailed("no bus"), "payments": Gone("410")}
    world.hear()
    assert {action for action, _, _ in calls} >= {"dynamodb:PutItem", "dynamodb:GetItem"}
    assert not refused(calls, "outbox-dynamodb")

"""The events queue's consumer as it is deployed: functions/usage on moto, with the permissions of its role."""

import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from botocore.client import BaseClient

from tests.store.test_sample_events import CONTEXT, actions, allows, load, statements
from tollgate.catalog import service
from tollgate.catalog.model import BillingPeriod, Customer, Feature, FeatureType, Plan, PlanFeature
from tollgate.catalog.periods import Interval
from tollgate.catalog.store import DynamoCatalog
from tollgate.kernel.ids import derived_id
from tollgate.kernel.time import format_time, system_clock
from tollgate.metering.store import DynamoCounters
from tollgate.recovery.model import ErrorRecord, ErrorType, Status
from tollgate.recovery.store import DynamoRecovery

QUEUE = "arn:aws:sqs:eu-central-1:123456789012:tollgate-dev-EventsQueue-1A2B3C4D5E6F"
NOW = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
GOOD = {"id": "e1", "customer": "ada", "feature": "calls", "time": format_time(NOW)}
Deliver = Callable[..., list[str]]


def record(message_id: str, body: Any, **more: Any) -> dict[str, Any]:
    """A message as Lambda hands it over."""
    attributes = more.get("attributes", {})
    return {
        "messageId": message_id,
        "receiptHandle": "handle",
        "body": body if isinstance(body, str) else json.dumps(body),
        "attributes": {
            "ApproximateReceiveCount": str(more.get("receives", 1)),
            "SentTimestamp": str(int(more.get("sent_at", NOW).timestamp() * 1000)),
        },
        "messageAttributes": {name: {"dataType": "String", "stringValue": value} for name, value in attributes.items()},
        "eventSource": "aws:sqs",
        "eventSourceARN": QUEUE,
        "awsRegion": "eu-central-1",
    }


@pytest.fixture
def usage(tables: None) -> ModuleType:  # noqa: ARG001 - the tables are there
    """The function, and a customer whose calls it counts."""
    catalog = DynamoCatalog()
    calls = service.put_feature(catalog, Feature("calls", "Calls", FeatureType.USAGE, "call"))
    month = BillingPeriod(Interval.MONTH, 1)
    service.put_plan(catalog, Plan("web", 0, "Web", "EUR", month, Decimal(0), 0, 0, (PlanFeature(calls),)))
    service.put_customer(catalog, Customer("ada"))
    service.subscribe(
        catalog,
        customer="ada",
        plan="web",
        gates=DynamoCounters(),
        clock=system_clock,
        starts_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    return load("usage")


@pytest.fixture
def deliver(usage: ModuleType) -> Deliver:
    """Hands messages over in one batch; gives the ids of those that are to come again."""

    def call(*records: dict[str, Any], context: Any = CONTEXT) -> list[str]:
        answer = usage.handler({"Records": list(records)}, context)
        return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]

    return call


def used() -> int:
    """What ada has used of calls."""
    hours = DynamoCounters().hours(
        "ada", "calls", system_clock() - timedelta(days=40), system_clock() + timedelta(days=1)
    )
    return int(sum(tally.quantity for _, _, tally in hours))


def error(key: str) -> ErrorRecord:
    """The error record of a message, or of events in it."""
    found = DynamoRecovery().get(derived_id("err", key))
    assert found is not None
    return found


def unresolved() -> int:
    """How many error records are not resolved."""
    return sum(1 for _ in DynamoRecovery().unresolved())


def test_a_poisoned_message_comes_again_and_its_neighbours_are_counted(deliver: Deliver) -> None:
    """One record names why, the queue, the message, and shows its beginning without secrets."""
    poison = record("m2", '{"id": "e2", "api_key": "sk_live_12345", "quantity": NaN}')
    other = record("m3", [GOOD | {"id": "e3"}])
    assert deliver(record("m1", GOOD), poison, other) == ["m2"]
    for receives in range(2, 6):
        assert deliver(poison | {"attributes": poison["attributes"] | {"ApproximateReceiveCount": str(receives)}})
    assert (used(), unresolved()) == (2, 1)
    found = error("m2")
    assert (found.status, found.type, found.operation) == (Status.MANUAL, ErrorType.VALIDATION_ERROR, "count_events")
    assert found.arguments["reason"] == "unreadable"
    assert "NaN is not a JSON value" in found.error
    assert (found.context["queue"], found.context["message_id"]) == (QUEUE, "m2")
    assert (found.context["function"], found.context["request_id"]) == ("sample", CONTEXT.aws_request_id)
    assert found.context["excerpt"].startswith('{"id": "e2"')
    assert "sk_live" not in found.context["excerpt"]


def test_events_that_do_not_count_are_written_down_and_their_message_is_done(deliver: Deliver) -> None:
    """A conflict too: the id of another event was taken."""
    assert deliver(record("m1", GOOD)) == []
    events = [GOOD | {"quantity": "2"}, GOOD | {"id": "e2", "customer": "eve"}, GOOD | {"id": "e3", "quantity": 0.5}]
    for _ in range(2):
        assert deliver(record("m2", events)) == []
    assert error("m2/0").arguments["received_at"]
    lost = error("m2/0").arguments["events"]
    assert [one["reason"] for one in lost] == ["conflict", "customer_not_found", "invalid"]
    assert [one["event"]["id"] for one in lost] == ["e1", "e2", "e3"]
    assert (used(), unresolved()) == (1, 1)


def test_a_message_that_time_did_not_reach_comes_again_and_counts_then(deliver: Deliver) -> None:
    """Nothing has happened to it."""
    hurried = SimpleNamespace(**vars(CONTEXT) | {"get_remaining_time_in_millis": lambda: 5_000})
    assert deliver(record("m1", GOOD), record("m2", GOOD | {"id": "e2"}), context=hurried) == ["m1", "m2"]
    assert (used(), unresolved()) == (0, 0)
    assert deliver(record("m1", GOOD, receives=2), record("m2", GOOD | {"id": "e2"}, receives=2)) == []
    assert (used(), unresolved()) == (2, 0)


def test_a_message_that_killed_the_function_comes_home_by_a_redrive(
    deliver: Deliver, usage: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a record, which the redriven message resolves; what it had counted, at the time of its receipt, stays."""
    timeless = {"id": "e2", "customer": "ada", "feature": "calls", "quantity": "5"}
    with monkeypatch.context() as patched:
        patched.setattr(usage, "ingest", dies_after(usage.ingest))
        for receives in range(1, 6):
            with pytest.raises(SystemExit):
                deliver(record("m1", [timeless], receives=receives))
    assert (used(), unresolved(), error("m1").arguments["reason"]) == (5, 1, "unfinished")
    redriven = {"tollgate-original-id": "m1", "tollgate-received-at": format_time(NOW)}
    assert deliver(record("m9", [timeless], sent_at=NOW + timedelta(days=10), attributes=redriven)) == []
    assert (used(), unresolved()) == (5, 0)
    found = error("m1")
    assert (found.status, found.history[-1].note) == (Status.RESOLVED, "the message was counted")
    assert found.type is ErrorType.SYSTEM_ERROR


def dies_after(ingest: Callable[..., Any]) -> Callable[..., Any]:
    """Counts, and then ends as a function does that is killed."""

    def dying(*args: Any, **named: Any) -> Any:
        ingest(*args, **named)
        raise SystemExit

    return dying


def test_an_attribute_that_is_none_of_ours_does_no_harm(deliver: Deliver) -> None:
    """Producers and EventBridge have attributes of their own, binary ones among them."""
    foreign = {"trace": {"dataType": "Binary", "binaryValue": "AA=="}}
    wrong = {"tollgate-received-at": {"dataType": "Binary", "binaryValue": "AA=="}}
    assert deliver(record("m1", GOOD) | {"messageAttributes": foreign | wrong}) == []
    assert used() == 1


def test_what_the_consumer_does_about_failures_is_within_its_role(
    deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither moto nor MiniStack asks IAM."""
    calls: list[tuple[str, str, str | None]] = []
    original = BaseClient._make_api_call  # type: ignore[attr-defined]  # noqa: SLF001 - all calls pass here

    def asked(client: Any, operation: str, request: dict[str, Any]) -> Any:
        calls.extend(actions(client.meta.service_model.service_name, operation, request))
        return original(client, operation, request)

    monkeypatch.setattr(BaseClient, "_make_api_call", asked)
    poison, lost, last = record("m1", "{"), record("m2", GOOD | {"customer": "eve"}), record("m3", GOOD, receives=5)
    assert deliver(poison, lost, last) == ["m1"]
    assert {action for action, resource, _ in calls if resource == "RecoveryTable"} == {
        "dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:Query",
    }  # fmt: skip
    assert not [call for call in calls if not any(allows(one, *call) for one in statements("usage-sqs"))]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_function_that_is_killed_around_any_call_loses_nothing_and_counts_nothing_twice(
    deliver: Deliver, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """At the last receive of a message, one of whose events never counts; then it comes home by a redrive."""
    killed = 0
    while True:
        killed += 1
        first, again = f"m{killed}", f"again{killed}"
        events = [GOOD | {"id": f"e{killed}"}, GOOD | {"id": f"lost{killed}", "customer": "eve"}]
        with monkeypatch.context() as patched:
            patched.setattr(BaseClient, "_make_api_call", kills(killed, moment))
            try:
                assert deliver(record(first, events, receives=5)) == []
            except SystemExit:
                redriven = {"tollgate-original-id": first, "tollgate-received-at": format_time(NOW)}
            else:
                break
        assert deliver(record(again, events, attributes=redriven)) == []
        assert used() == killed
        assert unresolved() == killed, "the lost events, a record each; the message has none, or a resolved one"
        assert [one["id"] for one in error(f"{first}/0").arguments["events"]] == [f"lost{killed}"]
    assert killed > 5, "it makes more calls than that"


def kills(number: int, moment: str) -> Callable[..., Any]:
    """A call to AWS that ends the function before or after the call of that number."""
    original = BaseClient._make_api_call  # type: ignore[attr-defined]  # noqa: SLF001 - all calls pass here
    made = itertools.count(1)

    def call(client: Any, operation: str, request: dict[str, Any]) -> Any:
        strikes = next(made) == number
        if strikes and moment == "before":
            raise SystemExit
        answer = original(client, operation, request)
        if strikes:
            raise SystemExit
        return answer

    return call

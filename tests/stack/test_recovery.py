"""The ledger of failed operations by the real wiring: a webhook that fails, the queue, the alarm, the report."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import boto3
import httpx
import pytest

from tests.stack.test_flows import document, invoke, received, subscribed
from tests.unit.fakes_webhooks import Receiver, receiver
from tollgate.catalog.model import Threshold
from tollgate.kernel.ids import derived_id
from tollgate.kernel.time import parse_time
from tollgate.metering.alerts import Reached, reached_to_dict
from tollgate.metering.model import CounterId
from tools.local import Stack

AT_ONCE = {"strategy": "immediate", "max_attempts": 1, "base_seconds": 0, "cap_seconds": 0}
START = parse_time("2025-11-01T00:00:00Z")


@pytest.fixture(scope="module", autouse=True)
def swift(stack: Stack) -> Iterator[None]:
    """A deployment that tries deliveries again once and at once, as its parameter RetryPolicies would say."""
    aws = boto3.client("lambda", **stack.aws)
    functions = [stack.resources[name] for name in ("AlertsFunction", "RetryProcessorFunction")]
    before = {name: aws.get_function_configuration(FunctionName=name)["Environment"] for name in functions}
    for name, environment in before.items():
        table = {"RETRY_POLICIES": json.dumps({"delivery_failed": AT_ONCE})}
        changed = {"Variables": environment["Variables"] | table}
        aws.update_function_configuration(FunctionName=name, Environment=changed)
    yield
    for name, environment in before.items():
        aws.update_function_configuration(FunctionName=name, Environment=environment)


@pytest.fixture
def name() -> str:
    """A webhook's name; each test has its own, since one that is down for long is left alone for a while."""
    return f"hook-{uuid4().hex}"


@pytest.fixture
def hook(api: httpx.Client, name: str) -> Iterator[Receiver]:
    """A receiver of webhooks that is known to the stack."""
    with receiver() as there:
        body = {"url": f"{there.url}/hook", "events": ["usage.threshold_reached"]}
        api.put(f"/v1/webhooks/{name}", json=body).raise_for_status()
        yield there
        api.delete(f"/v1/webhooks/{name}").raise_for_status()


@pytest.fixture
def operations(stack: Stack) -> str:
    """A queue that hears what operations hear; its URL."""
    return subscribed(stack, "recovery-operations")


@pytest.fixture
def tell(stack: Stack, name: str) -> Callable[[str], str]:
    """Has the webhook told of a threshold of a customer; gives the id of the record that there will be if it fails."""

    def tell(customer: str) -> str:
        counter = CounterId(customer, "calls", f"sub-{customer}", START)
        one = Reached(counter, START + timedelta(days=30), Threshold(Decimal(80)), Decimal(10), Decimal(8), START)
        queue = stack.resources["AlertsQueue"]
        boto3.client("sqs", **stack.aws).send_message(QueueUrl=queue, MessageBody=json.dumps(reached_to_dict(one)))
        return derived_id("err", f"deliver_webhook#{one.id}#{name}")

    return tell


def error(api: httpx.Client, record_id: str, status: str) -> dict[str, Any]:
    """A record, once it is in a status; asks at most 1,000 times."""
    for _ in range(1_000):
        answer = api.get(f"/v1/errors/{record_id}")
        if answer.status_code == httpx.codes.OK and answer.json()["status"] == status:
            break
    found: dict[str, Any] = answer.raise_for_status().json()
    assert found["status"] == status, found
    return found


def alarm(stack: Stack) -> str:
    """The state of the alarm on unresolved errors."""
    name = stack.resources["UnresolvedErrorsAlarm"]
    [found] = boto3.client("cloudwatch", **stack.aws).describe_alarms(AlarmNames=[name])["MetricAlarms"]
    state: str = found["StateValue"]
    return state


def settle(stack: Stack, state: str) -> int:
    """Run the schedule's sweep until the alarm is in a state, which takes it a minute; how much is unresolved."""
    for _ in range(2_000):
        swept = invoke(stack, "RetryProcessorFunction")
        if alarm(stack) == state:
            break
    assert alarm(stack) == state
    unresolved: int = swept["unresolved"]
    return unresolved


def resolve_all(api: httpx.Client) -> None:
    """What other tests have left behind is none of this one's business."""
    for status in ("pending", "manual"):
        body = {"filter": {"status": status}, "note": "left behind by another test"}
        api.post("/v1/errors/discard", json=body).raise_for_status()


def test_what_fails_is_tried_at_once_and_by_a_person_until_it_is_resolved(
    stack: Stack, api: httpx.Client, hook: Receiver, operations: str, tell: Callable[[str], str]
) -> None:
    """One delivery by the queue, another that exhausts its tries, the alarm, the report, a retry, the all-clear."""
    resolve_all(api)
    settle(stack, "OK")
    list(zip(range(10), received(stack, operations), strict=False))  # the news of that
    # The first: the receiver is down for one call, and the retries queue delivers at once.
    hook.status = 503
    first = tell("rosa")
    hook.received.get(timeout=60)
    hook.status = 204
    found = error(api, first, "resolved")
    assert hook.received.get(timeout=60).headers["webhook-id"] == found["arguments"]["id"]
    assert (found["type"], found["strategy"], found["customer"]) == ("delivery_failed", "immediate", "rosa")
    assert [entry["to"] for entry in found["history"]] == ["pending", "retrying", "resolved"]
    assert [one["outcome"] for one in found["tries"]] == ["succeeded"]
    assert found["context"]["exception"]["class"].endswith("DeliveryFailed")
    assert found["context"]["request_id"]
    # The second: it stays down, its try is spent, and a person is told.
    hook.status = 503
    second = tell("sara")
    found = error(api, second, "manual")
    assert ([one["outcome"] for one in found["tries"]], found["attempts"]) == (["failed"], 1)
    assert [entry["to"] for entry in found["history"]] == ["pending", "retrying", "manual"]
    settle(stack, "ALARM")
    notice = next(one for one in received(stack, operations) if "risen" in one["Message"])
    assert "delivery_failed" in notice["Message"]
    assert document(notice)["groups"][0]["by_status"] == {"pending": 0, "retrying": 0, "manual": 1}
    report = api.get("/v1/errors/report").raise_for_status().json()
    assert (report["total"], report["groups"][0]["type"]) == (1, "delivery_failed")
    # The receiver is back: a person has it tried again, and the alarm clears.
    hook.status = 204
    again = api.post(f"/v1/errors/{second}/retry", json={"note": "it is back", "actor": "ann"})
    assert (again.status_code, again.json()["status"]) == (200, "pending")
    found = error(api, second, "resolved")
    by_hand = next(entry for entry in found["history"] if entry["note"] == "it is back")
    assert (by_hand["from"], by_hand["to"], by_hand["actor"].partition(" ")[0]) == ("manual", "pending", "ann")
    assert settle(stack, "OK") == 0
    notice = next(one for one in received(stack, operations) if "cleared" in one["Message"])
    assert "All is resolved." in notice["Message"]
    assert document(notice)["total"] == 0


def test_the_ledger_is_found_by_what_one_knows(api: httpx.Client, hook: Receiver, tell: Callable[[str], str]) -> None:
    """By status, type, customer, subscription and strategy, in pages."""
    hook.status = 503
    ids = [tell(customer) for customer in ("tina", "tina2", "tina3")]
    for record_id in ids:
        error(api, record_id, "manual")
    known = {"customer": "tina2", "subscription": "sub-tina2", "type": "delivery_failed", "strategy": "immediate"}
    for names in (["customer"], ["subscription"], ["customer", "type"], list(known)):
        params = {name: known[name] for name in names}
        found = api.get("/v1/errors", params=params | {"status": "manual"}).raise_for_status().json()
        assert [one["id"] for one in found["items"]] == [ids[1]], names
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(50):
        params = {"status": "manual", "type": "delivery_failed", "limit": "1"} | ({"cursor": cursor} if cursor else {})
        page = api.get("/v1/errors", params=params).raise_for_status().json()
        seen += [one["id"] for one in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen))
    assert set(ids) <= set(seen)
    other = api.get("/v1/errors", params={"status": "resolved", "cursor": cursor or "abc"})
    assert (other.status_code, other.json()["errors"][0]["pointer"]) == (422, "/cursor")


def test_people_decide_and_impossible_decisions_say_what_is_possible(
    api: httpx.Client, hook: Receiver, name: str, tell: Callable[[str], str]
) -> None:
    """Resolve, discard and escalate with a note; then many at once, after a dry run."""
    hook.status = 503
    resolved, discarded, *others = [tell(customer) for customer in ("uma", "ursa", "uta", "uschi")]
    for record_id in (resolved, discarded, *others):
        error(api, record_id, "manual")
    assert api.post(f"/v1/errors/{resolved}/resolve", json={}).status_code == 422
    answer = api.post(f"/v1/errors/{resolved}/resolve", json={"note": "told by telephone"})
    assert (answer.status_code, answer.json()["status"]) == (200, "resolved")
    assert api.post(f"/v1/errors/{discarded}/discard", json={"note": "of no use"}).json()["status"] == "discarded"
    for action, body in (("resolve", {"note": "x"}), ("retry", {}), ("escalate", {"note": "x"})):
        refused = api.post(f"/v1/errors/{discarded}/{action}", json=body)
        assert (refused.status_code, refused.headers["content-type"]) == (409, "application/problem+json")
        assert "possible: none, it is final" in refused.json()["detail"]
    assert (
        "discarded, pending, resolved"
        in api.post(f"/v1/errors/{others[0]}/escalate", json={"note": "x"}).json()["detail"]
    )
    changed = {"arguments": {"webhook": name, "event": {}}}
    refused = api.post(f"/v1/errors/{others[0]}/retry", json=changed)
    assert refused.json()["errors"] == [{"pointer": "/arguments/event", "detail": "cannot be changed; can: webhook"}]
    for record_id in others:
        wanted = {"filter": {"customer": "uta" if record_id == others[0] else "uschi"}, "note": "no longer a customer"}
        dry = api.post("/v1/errors/discard", json=wanted | {"dry_run": True}).raise_for_status().json()
        assert (dry["matched"], dry["changed"], dry["dry_run"]) == (1, 0, True)
        assert api.get(f"/v1/errors/{record_id}").json()["status"] == "manual"
        done = api.post("/v1/errors/discard", json=wanted).raise_for_status().json()
        assert (done["matched"], done["changed"], done["skipped"]) == (1, 1, [])
        assert api.get(f"/v1/errors/{record_id}").json()["status"] == "discarded"
    assert api.post("/v1/errors/discard", json={"filter": {}, "note": "all"}).status_code == 422
    assert api.get("/v1/errors/err_unknown").status_code == 404


def test_a_receiver_that_was_replaced_gets_what_the_old_one_missed(
    api: httpx.Client, hook: Receiver, name: str, tell: Callable[[str], str]
) -> None:
    """A person has it tried again with another webhook among its arguments; many at once are tried as they are."""
    hook.status = 503
    first, second = tell("vita"), tell("viola")
    for record_id in (first, second):
        error(api, record_id, "manual")
    with receiver() as there:
        body = {"url": f"{there.url}/new", "events": ["usage.threshold_reached"]}
        api.put("/v1/webhooks/recovery-new", json=body).raise_for_status()
        answer = api.post(f"/v1/errors/{first}/retry", json={"arguments": {"webhook": "recovery-new"}})
        assert answer.status_code == 200
        assert there.received.get(timeout=60).path == "/new"
        found = error(api, first, "resolved")
        api.delete("/v1/webhooks/recovery-new").raise_for_status()
    assert f'arguments changed: webhook (was "{name}")' in [entry["note"] for entry in found["history"]]
    hook.status = 204
    bulk = {"filter": {"customer": "viola", "status": "manual"}, "note": "it is back"}
    assert api.post("/v1/errors/retry", json=bulk).raise_for_status().json()["changed"] == 1
    error(api, second, "resolved")


def test_events_that_did_not_count_are_corrected_and_counted(api: httpx.Client) -> None:
    """Sent to wait for a customer who is not there; a person corrects the customer, and the event counts."""
    api.put("/v1/features/recovery-calls", json={"name": "Calls", "type": "usage"}).raise_for_status()
    plan: dict[str, Any] = {"name": "R", "currency": "EUR", "billing_period": {"interval": "month"}}
    api.put("/v1/plans/recovery", json=plan | {"features": [{"feature": "recovery-calls"}]}).raise_for_status()
    api.put("/v1/customers/wilma", json={}).raise_for_status()
    start = {"starts_at": "2026-01-01T00:00:00Z"}
    api.post("/v1/subscriptions", json={"customer": "wilma", "plan": "recovery", **start}).raise_for_status()
    event: dict[str, Any] = {"id": "mistyped", "customer": "wilmaa", "feature": "recovery-calls"}
    api.post("/v1/events", json=event, headers={"Prefer": "respond-async"}).raise_for_status()
    for _ in range(500):
        listed = api.get("/v1/errors", params={"status": "manual", "type": "validation_error"}).json()["items"]
        found = [one for one in listed if one["arguments"].get("events", [{}])[0].get("id") == "mistyped"]
        if found:
            break
    [record] = found
    assert record["operation"] == "count_events"
    corrected = [{"event": event | {"customer": "wilma"}}]
    answer = api.post(f"/v1/errors/{record['id']}/retry", json={"arguments": {"events": corrected}, "note": "a typo"})
    answer.raise_for_status()
    error(api, record["id"], "resolved")
    for _ in range(500):
        usage = api.get("/v1/customers/wilma/usage", params={"feature": "recovery-calls"}).raise_for_status().json()
        if usage["events"]:
            break
    assert usage["events"] == 1

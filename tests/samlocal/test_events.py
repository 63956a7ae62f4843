"""Each event of events/ by `sam local invoke`: the function answers as it should, from the layer as it is built."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.samples import SAMPLES, body, sample, used
from tollgate.billing.invoice_store import DynamoInvoices
from tollgate.recovery.model import ErrorType, Status
from tollgate.recovery.service import record_error
from tollgate.recovery.store import DynamoRecovery

Invoke = Callable[..., Any]
Queued = Callable[[str], list[Any]]


def test_no_sample_is_left_out() -> None:
    """Each is named in a test of this file."""
    here = Path(__file__).read_text()
    assert [name for name in SAMPLES if f'"{name}"' not in here] == []


def test_the_authorizer_says_yes_to_a_real_key_and_nothing_of_an_unknown_one(invoke: Invoke) -> None:
    """Simple responses of payload format 2.0."""
    known = {"key_id": "0123456789abcdef", "scopes": "usage:read entitlements:read"}
    assert invoke("authorizer-api") == {"isAuthorized": True, "context": known}
    headers = sample("authorizer-api")["headers"]
    wrong = headers["authorization"][:-1] + ("0" if headers["authorization"][-1] != "0" else "1")
    unknown = invoke("authorizer-api", headers=headers | {"authorization": wrong})
    assert unknown == {"isAuthorized": True, "context": {}}


def test_catalog_puts_the_feature(invoke: Invoke) -> None:
    """The answer is the feature as it is now."""
    answer = body(invoke("catalog-api"))
    assert (answer["code"], answer["type"], answer["aggregation"]) == ("requests", "quota", "sum")


def test_usage_counts_once_and_entitlements_see_it(invoke: Invoke) -> None:
    """Sent again the events are duplicates, also by a caller that IAM vouches for."""
    assert body(invoke("usage-api"))["accepted"] == 2
    assert body(invoke("usage-api"))["duplicate"] == 2
    assert body(invoke("usage-iam"))["duplicate"] == 2
    assert used() == 3
    for answer in (body(invoke("entitlements-api")), body(invoke("entitlements-iam"))):
        assert (answer["allowed"], answer["limit"], answer["used"], answer["remaining"]) == (True, "500", "3", "497")


def test_usage_counts_the_events_of_queue_messages(invoke: Invoke) -> None:
    """Of each form that they come in: 5, 7 + 1 and 11."""
    assert invoke("usage-sqs") == {"batchItemFailures": []}
    assert used() == 24


def test_alerts_tells_of_a_threshold(invoke: Invoke, queued: Queued) -> None:
    """On the bus."""
    assert invoke("alerts-sqs") == {"batchItemFailures": []}
    [told] = queued("TOLD")
    assert told["detail"].items() > json.loads(sample("alerts-sqs")["Records"][0]["body"]).items()


def test_the_outbox_tells_of_what_was_written(invoke: Invoke, queued: Queued) -> None:
    """A payment that succeeded, and a subscription that was made."""
    assert invoke("outbox-dynamodb") == {"batchItemFailures": []}
    assert {told["detail-type"] for told in queued("TOLD")} == {"payment.succeeded", "subscription.created"}


def test_billing_finds_what_is_due_and_closes_the_periods_that_have_ended(invoke: Invoke, queued: Queued) -> None:
    """The schedule sends a message for the subscription, a request bills it, and a message finds it billed."""
    assert invoke("billing-schedule")["subscriptions"] == 1
    assert [message["subscription"] for message in queued("BILLING_QUEUE_URL")] == ["sub-acme"]
    answer = body(invoke("billing-api"))
    assert (answer["status"], answer["subscriptions"], answer["invoices"]) == ("done", 1, 10)
    assert invoke("billing-sqs") == {"batchItemFailures": []}
    assert len(DynamoInvoices().list(subscription="sub-acme")[0]) == 10


def test_pricing_quotes_tier_by_tier(invoke: Invoke) -> None:
    """The first 100 at 10, the other 150 at 8."""
    answer = body(invoke("pricing-api"))
    assert (answer["amount"], [line["amount"] for line in answer["lines"]]) == ("2200.00", ["1000", "1200"])


def test_errors_are_listed_tried_and_left_to_a_person(invoke: Invoke) -> None:
    """By a message, and by the schedule what else is due; no operation has their name."""
    ledger = DynamoRecovery()
    [item] = body(invoke("recovery-api"))["items"]
    assert (item["id"], item["operation"], item["history"][0]["to"]) == ("err_1", "collect", "pending")
    assert invoke("retry_processor-sqs") == {"batchItemFailures": []}
    record_error(
        ledger, error_type=ErrorType.STATE_TRANSITION_ERROR, operation="collect", arguments={}, customer="acme",
        subscription=None, context={}, error="failed", clock=lambda: datetime(2026, 1, 1, tzinfo=UTC), id="err_2",
    )  # fmt: skip
    assert invoke("retry_processor-schedule")["escalated"] == 1
    records = [ledger.get("err_1"), ledger.get("err_2")]
    assert [record and record.status for record in records] == [Status.MANUAL, Status.MANUAL]


def test_the_report_goes_out_on_the_alarm_and_every_day(invoke: Invoke, queued: Queued) -> None:
    """It knows why it is sent."""
    assert invoke("error_report-sns") == {"reason": "ALARM", "total": 1}
    assert invoke("error_report-schedule") == {"reason": "schedule", "total": 1}
    assert ["state_transition_error" in told["Message"] for told in queued("TOLD")] == [True, True]

"""Subscriptions, invoices and runs over HTTP, with a clock of our own."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.faults.functions import Api
from tollgate.billing.schema import BillingRunView, InvoiceView
from tollgate.catalog.schema import EntryView, SubscriptionView
from tools.engine import Engine

START = datetime(2026, 4, 1, tzinfo=UTC)
MAY = datetime(2026, 5, 1, tzinfo=UTC)
PRICE = {"model": "tiered", "tiers": [{"up_to": "100", "unit_price": "0.10"}, {"up_to": None, "unit_price": "0.08"}]}


@pytest.fixture
def api(database: Engine) -> Api:
    """With ada on a plan since 1 April."""
    assert database
    made = Api(START)
    made("PUT", "/v1/features/calls", {"name": "API calls <b>", "type": "usage"})
    for code, base in (("basic", "20.00"), ("pro", "50.00")):
        made("PUT", f"/v1/plans/{code}", plan(base))
    made("PUT", "/v1/customers/ada", {"name": "Ada & Co <script>", "timezone": "Europe/Berlin"})
    made("POST", "/v1/subscriptions", {"id": "sub", "customer": "ada", "plan": "basic"})
    return made


def plan(base: str) -> dict[str, Any]:
    """A monthly plan with a price for calls."""
    return {
        "name": f"Plan of {base}",
        "currency": "EUR",
        "base_price": base,
        "grace_days": 7,
        "after_grace": "pause",
        "billing_period": {"interval": "month"},
        "features": [{"feature": "calls", "price": PRICE}],
    }


def test_a_subscription_is_changed_paused_resumed_and_cancelled(api: Api) -> None:
    """Each shows in the subscription and, with its reason and the key that asked for it, in the history."""
    api.now += timedelta(days=1)
    body = {"plan": "pro", "when": "now", "reason": "they grow"}
    assert api("POST", "/v1/subscriptions/sub/change", body)["plan"] == {"code": "pro", "version": 1}
    shown = api("POST", "/v1/subscriptions/sub/change", {"plan": "basic", "when": "period_end"})
    assert shown["planned_change"]["plan"]["code"] == "basic"
    assert api("POST", "/v1/subscriptions/sub/pause")["status"] == "paused"
    assert api("POST", "/v1/subscriptions/sub/resume", {"reason": "back"})["status"] == "active"
    shown = api("POST", "/v1/subscriptions/sub/cancel", {"when": "period_end"})
    SubscriptionView.model_validate(shown)
    assert (shown["status"], shown["ends_at"]) == ("active", shown["current_period"]["end"])
    history = api("GET", "/v1/subscriptions/sub/history")["items"]
    for entry in history:
        EntryView.model_validate(entry)
    told = [(entry["action"], entry["from"], entry["to"], entry["actor"]) for entry in history]
    assert told == [
        ("created", None, "active", "key"),
        ("changed", "active", "active", "key"),
        ("change_planned", "active", "active", "key"),
        ("paused", "active", "paused", "key"),
        ("resumed", "paused", "active", "key"),
        ("cancel_planned", "active", "active", "key"),
    ]
    assert [entry["reason"] for entry in history][1] == "they grow"


def test_a_transition_that_there_is_not_is_refused_and_says_what_is_possible(api: Api) -> None:
    """And changes nothing."""
    problem = api.refused("POST", "/v1/subscriptions/sub/resume")
    assert (problem["status"], problem["detail"].partition("; ")[2]) == (
        409,
        "possible: cancelled, expired, past_due, paused.",
    )
    api.now += timedelta(days=1)
    api("POST", "/v1/subscriptions/sub/cancel", {"when": "now"})
    for action, body in (("change", {"plan": "pro", "when": "now"}), ("pause", None), ("cancel", {"when": "now"})):
        problem = api.refused("POST", f"/v1/subscriptions/sub/{action}", body)
        assert (problem["status"], problem["detail"].partition("; ")[2]) == (409, "possible: none.")
    assert len(api("GET", "/v1/subscriptions/sub/history")["items"]) == 2


def test_a_run_tells_what_it_did_and_the_same_run_does_nothing_more(api: Api) -> None:
    """Until a moment that is never later than now."""
    future = {"as_of": "2030-01-01T00:00:00Z"}
    run = api("POST", "/v1/billing/run", future)
    BillingRunView.model_validate(run)
    assert (run["status"], run["subscriptions"], run["billed"], run["invoices"]) == ("done", 1, 1, 1)
    assert run["as_of"] == run["started_at"] == "2026-04-01T00:00:00Z"
    assert api("GET", f"/v1/billing/runs/{run['id']}") == run
    assert api("POST", "/v1/billing/run")["subscriptions"] == 0


def test_a_run_bills_up_to_the_moment_that_is_asked_for(api: Api) -> None:
    """Periods that ended later wait for the next run."""
    api.now = datetime(2026, 7, 15, tzinfo=UTC)
    assert api("POST", "/v1/billing/run", {"as_of": "2026-05-31T00:00:00Z"})["invoices"] == 2
    assert api("POST", "/v1/billing/run")["invoices"] == 2


def test_an_invoice_is_read_listed_foreseen_and_printed(api: Api) -> None:
    """As the document says; what customers call themselves is text on the page, and no markup."""
    upcoming = api("GET", "/v1/subscriptions/sub/invoices/upcoming")
    InvoiceView.model_validate(upcoming)
    assert (upcoming["number"], upcoming["total"]) == (None, "20.00")
    api.now = MAY
    api("POST", "/v1/billing/run")
    listed = api("GET", "/v1/invoices", customer="ada", status="open")["items"]
    assert [one["total"] for one in listed] == ["20.00", "20.00"]
    invoice = api("GET", f"/v1/invoices/{listed[0]['id']}")
    InvoiceView.model_validate(invoice)
    assert invoice == listed[0]
    first = api("GET", "/v1/invoices", subscription="sub", limit="1")
    rest = api("GET", "/v1/invoices", subscription="sub", limit="1", cursor=first["next_cursor"])
    assert [*first["items"], *rest["items"]] == listed
    assert rest["next_cursor"] is None
    page = api("GET", f"/v1/invoices/{invoice['id']}.html")
    assert f"Invoice {invoice['number']}" in page
    assert "Ada &amp; Co &lt;script&gt;" in page
    assert "<script" not in page
    assert "1 April 2026 to 30 April 2026" not in page  # by the clock of Berlin it is 02:00 on the first
    assert "1 April 2026 to 1 May 2026" in page
    assert "EUR 20.00" in page

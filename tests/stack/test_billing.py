"""From a subscription to a paid invoice on the whole stack: by request, by the schedule and its queue."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.stack.conftest import bill
from tests.stack.test_flows import invoke
from tools.local import Stack

DAILY = {
    "name": "Daily",
    "currency": "EUR",
    "base_price": "2.00",
    "billing_period": {"interval": "day"},
    "features": [{"feature": "bill-calls", "price": {"model": "flat", "unit_price": "0.05"}}],
}


@pytest.fixture
def subscription(api: httpx.Client) -> str:
    """One that began three and a half days ago, with usage on its second day, and money in its customer's wallet."""
    name = f"bill-{uuid4().hex[:8]}"
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(days=3, hours=12)
    api.put("/v1/features/bill-calls", json={"name": "Calls", "type": "usage"}).raise_for_status()
    api.put("/v1/plans/bill-daily", json=DAILY).raise_for_status()
    api.put(f"/v1/customers/{name}", json={}).raise_for_status()
    deposit = {"id": "d-1", "type": "deposit", "amount": "50.00", "currency": "EUR"}
    api.post(f"/v1/customers/{name}/wallet/transactions", json=deposit).raise_for_status()
    body = {"id": f"sub-{name}", "customer": name, "plan": "bill-daily", "starts_at": start.isoformat()}
    api.post("/v1/subscriptions", json=body).raise_for_status()
    at = (start + timedelta(days=1, hours=1)).isoformat()
    event = {"id": "e-1", "customer": name, "feature": "bill-calls", "quantity": "30", "time": at}
    assert api.post("/v1/events", json=event).json()["accepted"] == 1
    return f"sub-{name}"


def invoices(api: httpx.Client, subscription: str) -> list[dict[str, Any]]:
    """All of a subscription, the oldest first."""
    items: list[dict[str, Any]] = api.get("/v1/invoices", params={"subscription": subscription}).json()["items"]
    return items[::-1]


def are_billed(api: httpx.Client, subscription: str) -> None:
    """Its three days and what comes before them, each once, and paid from the wallet."""
    found = invoices(api, subscription)
    assert [one["total"] for one in found] == ["2.00", "2.00", "3.50", "2.00"]
    assert {one["status"] for one in found} == {"paid"}
    ends = [one["period"]["end"] for one in found]
    assert [one["period"]["start"] for one in found] == [ends[0], *ends[:-1]]
    wallet = api.get(f"/v1/customers/{subscription.removeprefix('sub-')}/wallet").json()
    assert wallet["balance"] == "40.50"


def test_a_request_bills_the_days_that_were_missed(api: httpx.Client, subscription: str) -> None:
    """Twice, and nothing more; the page of an invoice can be printed."""
    assert bill(api)["failed"] == 0
    are_billed(api, subscription)
    bill(api)
    are_billed(api, subscription)
    number = invoices(api, subscription)[2]
    page = api.get(f"/v1/invoices/{number['id']}.html")
    assert page.headers["content-type"].startswith("text/html")
    assert f"Invoice {number['number']}" in page.text


def test_the_schedule_bills_by_the_queue(api: httpx.Client, stack: Stack, subscription: str) -> None:
    """A message per subscription that is due."""
    begun = invoke(stack, "BillingFunction", {"source": "aws.scheduler"})
    assert begun["subscriptions"] >= 1
    for _ in range(5_000):  # the queue is read by the stack itself
        if api.get(f"/v1/billing/runs/{begun['run']}").json()["status"] == "done":
            break
    are_billed(api, subscription)
    assert "run" not in invoke(stack, "BillingFunction", {"source": "aws.scheduler"})


def test_a_plan_changes_and_ends_with_what_was_not_used(api: httpx.Client, subscription: str) -> None:
    """The next invoice says so; a check sees it at once."""
    bill(api)
    changed = api.post(f"/v1/subscriptions/{subscription}/cancel", json={"when": "now", "reason": "they left"}).json()
    assert changed["status"] == "cancelled"
    customer = subscription.removeprefix("sub-")
    check = api.get(f"/v1/customers/{customer}/entitlements/bill-calls").json()
    assert (check["allowed"], check["reason"]) == (False, "subscription_inactive")
    bill(api)
    last = invoices(api, subscription)[-1]
    assert [line["kind"] for line in last["lines"]] == ["proration"]
    assert (last["status"], last["amount_due"]) == ("paid", "0.00")
    assert api.get(f"/v1/subscriptions/{subscription}/history").json()["items"][-1]["reason"] == "they left"

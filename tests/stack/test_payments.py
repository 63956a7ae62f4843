"""Money by the real wiring: a wallet pays, a refund goes back, and a webhook on this machine hears of all of it."""

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from tests.stack.conftest import bill
from tests.unit.fakes_webhooks import Receiver, receiver
from tollgate.kernel.webhooks import sign

EVENTS = [
    "subscription.created",
    "invoice.opened",
    "invoice.paid",
    "payment.failed",
    "payment.succeeded",
    "refund.succeeded",
    "wallet.transaction",
]


@pytest.fixture
def hook(api: httpx.Client) -> Iterator[tuple[Receiver, str]]:
    """A receiver whose webhook is known to the stack, and its secret."""
    with receiver() as there:
        body = {"url": f"{there.url}/money", "events": EVENTS}
        made = api.put("/v1/webhooks/money", json=body).raise_for_status().json()
        yield there, made["secret"]
        api.delete("/v1/webhooks/money").raise_for_status()


@pytest.fixture
def payer(api: httpx.Client) -> str:
    """A new customer; a plan of 20.00 a month is there."""
    plan = {"name": "Pro", "currency": "EUR", "billing_period": {"interval": "month"}, "base_price": "20.00"}
    api.put("/v1/plans/money-pro", json=plan | {"features": []}).raise_for_status()
    name = f"payer-{uuid.uuid4().hex[:8]}"
    api.put(f"/v1/customers/{name}", json={}).raise_for_status()
    return name


def heard(there: Receiver, customer: str, secrets: list[str], kinds: list[str]) -> dict[str, dict[str, Any]]:
    """The events of a customer by their types, each waited for up to a minute; each is signed with all secrets.

    Those of others, and of other types, may have been sent before a secret was replaced.
    """
    found: dict[str, dict[str, Any]] = {}
    while not set(kinds) <= set(found):
        request = there.received.get(timeout=60)
        event = json.loads(request.body)
        if event["data"]["customer"] != customer or event["type"] not in kinds:
            continue
        at = datetime.fromtimestamp(int(request.headers["webhook-timestamp"]), UTC)
        signed = [sign(one, request.headers["webhook-id"], at, request.body) for one in secrets]
        assert request.headers["webhook-signature"].split(" ") == signed
        found[event["type"]] = event["data"]
    return found


def pay(api: httpx.Client, invoice: str) -> dict[str, Any]:
    """Pay an invoice by hand; the deposit before has it collected too, and whoever comes between is told to wait."""
    for _ in range(500):
        answer = api.post(f"/v1/invoices/{invoice}/pay")
        if answer.status_code != httpx.codes.CONFLICT:
            break
    paid: dict[str, Any] = answer.raise_for_status().json()
    return paid


def resolved(api: httpx.Client, error: str) -> bool:
    """Whether an error record is resolved in the end; a run that has leased it says so itself."""
    return any(api.get(f"/v1/errors/{error}").raise_for_status().json()["status"] == "resolved" for _ in range(500))


def test_an_invoice_is_declined_paid_and_refunded_and_a_webhook_hears_of_it(
    api: httpx.Client, payer: str, hook: tuple[Receiver, str]
) -> None:
    """Each event once it has been written; after the secret is replaced, signed with both."""
    there, secret = hook
    start = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()
    subscription = {"id": f"sub-{payer}", "customer": payer, "plan": "money-pro", "starts_at": start}
    api.post("/v1/subscriptions", json=subscription).raise_for_status()
    bill(api)
    [invoice] = api.get("/v1/invoices", params={"customer": payer}).raise_for_status().json()["items"]
    assert (invoice["status"], invoice["amount_due"]) == ("open", "20.00")
    [error] = api.get("/v1/errors", params={"customer": payer}).raise_for_status().json()["items"]
    assert (error["type"], error["operation"]) == ("insufficient_funds", "collect_invoice")
    told = heard(there, payer, [secret], ["subscription.created", "invoice.opened", "payment.failed"])
    assert told["payment.failed"]["invoice"] == invoice["id"]

    rotated = api.post("/v1/webhooks/money/secret").raise_for_status().json()["secret"]
    deposit = {"id": "d-1", "type": "deposit", "amount": "50.00", "currency": "EUR"}
    wallet = f"/v1/customers/{payer}/wallet"
    assert api.post(f"{wallet}/transactions", json=deposit).raise_for_status().json()["balance_after"] == "50.00"
    paid = pay(api, invoice["id"])
    assert (paid["status"], paid["amount_due"]) == ("paid", "0.00")
    assert [one["status"] for one in paid["payments"]] == ["failed", "succeeded"]
    assert resolved(api, error["id"])
    refund = api.post(f"/v1/payments/{paid['payments'][-1]['id']}/refunds", json={"id": f"r-{payer}", "amount": "5"})
    assert refund.raise_for_status().json()["status"] == "succeeded"

    entries = api.get(f"{wallet}/transactions").raise_for_status().json()["items"]
    assert [one["amount"] for one in entries] == ["50.00", "-20.00", "5.00"]
    total = sum(Decimal(one["amount"]) for one in entries)
    assert Decimal(api.get(wallet).raise_for_status().json()["balance"]) == total
    heard(
        there, payer, [rotated, secret], ["invoice.paid", "payment.succeeded", "refund.succeeded", "wallet.transaction"]
    )


def test_payments_and_refunds_have_scopes(api: httpx.Client, payer: str) -> None:
    """Reading is not writing, and neither is anything else."""
    made = api.post(
        "/v1/api-keys", json={"name": "reader", "scopes": ["billing:read"]}, headers={"idempotency-key": payer}
    )
    headers = {"authorization": f"Bearer {made.raise_for_status().json()['secret']}"}
    assert api.get(f"/v1/customers/{payer}/wallet", headers=headers).status_code == 200
    body = {"id": "d-1", "type": "deposit", "amount": "1", "currency": "EUR"}
    assert api.post(f"/v1/customers/{payer}/wallet/transactions", json=body, headers=headers).status_code == 403
    assert api.post("/v1/webhooks/stripe", json={}).status_code == 404, "this stack has no secret of Stripe's"

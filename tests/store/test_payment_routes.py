"""Wallets, payments and refunds over the functions that serve them, on moto: from a deposit to a refund."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from types import ModuleType
from typing import Any

import pytest
import stripe
from jsonschema import Draft202012Validator

from tests.conftest import ROOT
from tests.samples import sample
from tests.store.test_sample_events import CONTEXT, load, recorded, refused
from tollgate.billing.payments import Decline, DeclineKind, Payment, Refund
from tollgate.billing.providers import Outcome, Processing, Succeeded
from tollgate.catalog import service
from tollgate.catalog.model import BillingPeriod, Customer, Plan
from tollgate.catalog.periods import Interval
from tollgate.catalog.store import DynamoCatalog
from tollgate.kernel.time import system_clock
from tollgate.metering.store import DynamoCounters
from tollgate.recovery.ledger import Filter
from tollgate.recovery.model import ErrorRecord
from tollgate.recovery.store import DynamoRecovery

D = Decimal
WEBHOOK_SECRET = "whsec_test"
DOCUMENT = json.loads((ROOT / "functions/catalog/openapi.json").read_text())
Call = Callable[..., tuple[int, dict[str, Any]]]


class Bank:
    """A provider by the name of Stripe."""

    def __init__(self) -> None:
        self.outcome: Callable[[], Outcome] = lambda: Succeeded("pi_1")
        self.calls = 0

    def charge(self, payment: Payment) -> Outcome:
        """Charge."""
        assert payment.account == "cus_1"
        self.calls += 1
        return self.outcome()

    def find_charge(self, payment: Payment) -> Outcome | None:
        """Say what became of a charge."""
        assert payment.account == "cus_1"
        return self.outcome()

    def refund(self, payment: Payment, refund: Refund) -> Outcome:
        """Give back."""
        assert payment.reference == "pi_1"
        assert refund.payment == payment.id
        return self.outcome()

    def find_refund(self, payment: Payment, refund: Refund) -> Outcome | None:
        """Say that nothing is known."""
        assert refund.payment == payment.id
        return None


@pytest.fixture
def bank() -> Bank:
    """Charges whatever it is told."""
    return Bank()


@pytest.fixture
def function(tables: None, bank: Bank, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The billing function, with a customer on a plan of 20.00 a month since half an hour ago."""
    assert tables is None
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", WEBHOOK_SECRET)
    catalog = DynamoCatalog()
    month = BillingPeriod(Interval.MONTH, 1)
    service.put_plan(catalog, Plan("pro", 0, "Pro", "EUR", month, D("20.00"), 0, 3, ()))
    service.put_customer(catalog, Customer("acme"))
    service.subscribe(
        catalog,
        customer="acme",
        plan="pro",
        gates=DynamoCounters(),
        clock=system_clock,
        subscription_id="sub-acme",
        starts_at=datetime.now(UTC) - timedelta(minutes=30),
    )
    made = warm("billing")
    made.providers["stripe"] = bank
    return made


@cache
def warm(name: str) -> ModuleType:
    """A function that has served before: its routes are compiled once."""
    return load(name)


@pytest.fixture
def call(function: ModuleType) -> Call:
    """Sends a request; the status and the body, which is what openapi.json says of the route."""

    def send(
        method: str, path: str, content: Any = None, *, headers: dict[str, str] | None = None, body: str | None = None
    ) -> tuple[int, dict[str, Any]]:
        request = sample("billing-api")
        path, _, query = path.partition("?")
        request["requestContext"]["http"] |= {"method": method, "path": path}
        parameters = dict(one.split("=") for one in query.split("&")) if query else {}
        request |= {"rawPath": path, "isBase64Encoded": False, "queryStringParameters": parameters}
        request["body"] = body if body is not None else json.dumps(content) if content is not None else None
        request["headers"] = {**request["headers"], "content-type": "application/json", **(headers or {})}
        answer = function.handler(request, CONTEXT)
        parsed: dict[str, Any] = json.loads(answer["body"])
        if answer["statusCode"] < 300:
            hold(method, path, answer["statusCode"], parsed)
        else:
            assert parsed["status"] == answer["statusCode"]
        return answer["statusCode"], parsed

    return send


def hold(method: str, path: str, status: int, body: dict[str, Any]) -> None:
    """Check an answer against openapi.json."""
    parts = path.split("/")
    for template, operations in DOCUMENT["paths"].items():
        wanted = template.split("/")
        fits = len(wanted) == len(parts) and all(w == p or w[:1] == "{" for w, p in zip(wanted, parts, strict=True))
        if fits and method.lower() in operations and not template.endswith(".html"):
            content = operations[method.lower()]["responses"][str(status)]["content"]
            schema = {**content["application/json"]["schema"], "components": DOCUMENT["components"]}
            Draft202012Validator(schema).validate(body)
            return
    raise AssertionError(f"openapi.json has no {method} {path}")


def billed(call: Call) -> str:
    """The id of acme's first invoice."""
    call("POST", "/v1/billing/run", {})
    _, page = call("GET", "/v1/invoices?customer=acme")
    [invoice] = page["items"]
    return str(invoice["id"])


def deposit(call: Call, amount: str, name: str = "d-1") -> tuple[int, dict[str, Any]]:
    """Put money into acme's wallet."""
    body = {"id": name, "type": "deposit", "amount": amount, "currency": "EUR"}
    return call("POST", "/v1/customers/acme/wallet/transactions", body)


def by_card(call: Call) -> None:
    """Have acme pay through Stripe."""
    assert call("PUT", "/v1/customers/acme/payment-method", {"provider": "stripe", "account": "cus_1"})[0] == 200


def records() -> list[ErrorRecord]:
    """All error records."""
    found, _ = DynamoRecovery().find(Filter(customer="acme"), after=None, limit=100)
    return found


def test_a_wallet_says_what_it_holds_and_lists_what_came_and_went(call: Call) -> None:
    """With all digits of the currency."""
    nothing = {"customer": "acme", "balance": "0.00", "currency": "EUR", "top_up": None}
    assert call("GET", "/v1/customers/acme/wallet") == (200, nothing), "in the currency of the plan"
    service.put_customer(DynamoCatalog(), Customer("new"))
    assert call("GET", "/v1/customers/new/wallet")[1]["currency"] is None
    status, made = deposit(call, "50")
    assert (status, made["amount"], made["balance_after"], made["type"]) == (201, "50.00", "50.00", "deposit")
    assert deposit(call, "50") == (201, made), "the same request again"
    assert deposit(call, "51")[0] == 409
    correction = {"type": "adjustment", "amount": "-0.50", "currency": "EUR", "description": "a gift"}
    transactions = "/v1/customers/acme/wallet/transactions"
    key = {"idempotency-key": "k-1"}
    first = call("POST", transactions, correction, headers=key)
    assert first == call("POST", transactions, correction, headers=key)
    assert first[1]["balance_after"] == "49.50"
    assert call("GET", "/v1/customers/acme/wallet")[1]["balance"] == "49.50"
    _, page = call("GET", f"{transactions}?limit=1")
    _, rest = call("GET", f"{transactions}?limit=1&cursor={page['next_cursor']}")
    assert [one["number"] for one in (*page["items"], *rest["items"])] == [1, 2]
    assert rest["next_cursor"] is None


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        ({"id": "d-1", "type": "deposit", "amount": "-1", "currency": "EUR"}, 422, "/amount"),
        ({"id": "d-1", "type": "deposit", "amount": "1.001", "currency": "EUR"}, 422, "/amount"),
        ({"id": "d-1", "type": "deposit", "amount": 1.5, "currency": "EUR"}, 422, "/amount"),
        ({"id": "d-1", "type": "charge", "amount": "1", "currency": "EUR"}, 422, "/type"),
        ({"id": "d-1", "type": "deposit", "amount": "1", "currency": "XXX"}, 422, "/currency"),
        ({"type": "deposit", "amount": "1", "currency": "EUR"}, 422, "/id"),
        ({"id": "a-1", "type": "adjustment", "amount": "-1", "currency": "EUR"}, 409, None),
    ],
)
def test_what_cannot_be_entered_is_refused(call: Call, body: dict[str, Any], status: int, pointer: str | None) -> None:
    """With a pointer to what is wrong, and nothing is changed."""
    found, problem = call("POST", "/v1/customers/acme/wallet/transactions", body)
    assert found == status
    assert [error["pointer"] for error in problem.get("errors", [])] == ([pointer] if pointer else [])
    assert call("GET", "/v1/customers/acme/wallet/transactions")[1]["items"] == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/customers/nobody/wallet"),
        ("GET", "/v1/customers/nobody/wallet/transactions"),
        ("GET", "/v1/customers/nobody/payment-method"),
        ("DELETE", "/v1/customers/nobody/wallet/top-up"),
        ("GET", "/v1/payments/nothing"),
        ("POST", "/v1/invoices/nothing/pay"),
        ("POST", "/v1/invoices/nothing/void"),
    ],
)
def test_what_is_not_there_is_404(call: Call, method: str, path: str) -> None:
    """Neither is the wallet of nobody."""
    assert call(method, path)[0] == 404


def test_an_invoice_that_the_wallet_cannot_pay_is_paid_by_hand_when_it_can(call: Call) -> None:
    """And its payments say what was tried."""
    name = billed(call)
    [record] = records()
    assert (record.type.value, record.operation) == ("insufficient_funds", "collect_invoice")
    status, problem = call("POST", f"/v1/invoices/{name}/pay")
    assert (status, problem["type"]) == (402, "urn:tollgate:problem:payment-failed")
    assert record.id in problem["detail"]
    deposit(call, "50")
    for _ in range(2):
        status, invoice = call("POST", f"/v1/invoices/{name}/pay")
        assert (status, invoice["status"], invoice["amount_due"]) == (200, "paid", "0.00")
    assert [one["status"] for one in invoice["payments"]] == ["failed", "failed", "succeeded"]
    assert call("GET", "/v1/customers/acme/wallet")[1]["balance"] == "30.00"
    [record] = records()
    assert record.status.value == "resolved"


def test_money_that_is_paid_in_pays_what_is_open(call: Call) -> None:
    """The retry processor is told at once."""
    name = billed(call)
    deposit(call, "50")
    [record] = records()
    assert (record.history[-1].note, record.status.value) == ("money was paid in", "pending")
    retried(record)
    assert call("GET", f"/v1/invoices/{name}")[1]["status"] == "paid"


def test_the_billing_run_collects_by_the_wallet(call: Call) -> None:
    """Where there is money, no error is left."""
    deposit(call, "50")
    _, invoice = call("GET", f"/v1/invoices/{billed(call)}")
    assert (invoice["status"], invoice["payments"][0]["provider"], records()) == ("paid", "wallet", [])


def test_a_payment_is_refunded_into_the_wallet_it_came_from(call: Call) -> None:
    """In parts, never more than was paid, and once for each id."""
    deposit(call, "50")
    _, invoice = call("GET", f"/v1/invoices/{billed(call)}")
    paid = invoice["payments"][0]["id"]
    refunds = f"/v1/payments/{paid}/refunds"
    status, made = call("POST", refunds, {"id": "r-1", "amount": "5", "reason": "a fault"})
    assert (status, made["status"], made["amount"], made["payment"]) == (201, "succeeded", "5.00", paid)
    assert call("POST", refunds, {"id": "r-1", "amount": "5", "reason": "a fault"}) == (201, made)
    assert call("POST", refunds, {"id": "r-1", "amount": "6"})[0] == 409
    assert call("POST", refunds, {"id": "r-2", "amount": "15.01"})[0] == 409
    assert call("POST", refunds, {"amount": "1"})[0] == 422
    assert call("POST", refunds, {}, headers={"idempotency-key": "k-1"})[1]["amount"] == "15.00"
    _, payment = call("GET", f"/v1/payments/{paid}")
    assert (payment["refunded"], len(payment["refunds"])) == ("20.00", 2)
    assert call("GET", "/v1/customers/acme/wallet")[1]["balance"] == "50.00"


def test_an_invoice_is_withdrawn_with_a_reason(call: Call) -> None:
    """And then not paid."""
    name = billed(call)
    status, invoice = call("POST", f"/v1/invoices/{name}/void", {"reason": "by mistake"})
    assert (status, invoice["status"], invoice["history"][-1]["reason"]) == (200, "void", "by mistake")
    assert call("POST", f"/v1/invoices/{name}/void")[0] == 200
    assert call("POST", f"/v1/invoices/{name}/pay")[0] == 409


def test_a_paid_invoice_is_not_withdrawn(call: Call) -> None:
    """It is refunded."""
    deposit(call, "50")
    assert call("POST", f"/v1/invoices/{billed(call)}/void")[0] == 409


# By card


def test_a_customer_pays_through_stripe_once_that_is_said(call: Call, bank: Bank) -> None:
    """By the account that was put."""
    assert call("GET", "/v1/customers/acme/payment-method")[1]["provider"] == "wallet"
    by_card(call)
    assert call("GET", "/v1/customers/acme/payment-method")[1]["account"] == "cus_1"
    _, invoice = call("GET", f"/v1/invoices/{billed(call)}")
    assert (invoice["status"], invoice["payments"][0]["provider_reference"], bank.calls) == ("paid", "pi_1", 1)


@pytest.mark.parametrize("body", [{"provider": "stripe"}, {"provider": "bank"}, {"provider": "stripe", "account": "!"}])
def test_a_payment_method_that_cannot_be_is_refused(call: Call, body: dict[str, str]) -> None:
    """Before it is ever charged."""
    assert call("PUT", "/v1/customers/acme/payment-method", body)[0] == 422


def test_without_a_key_of_stripes_nobody_pays_through_it(call: Call, function: ModuleType) -> None:
    """The deployment has to have one."""
    function.providers.clear()
    assert call("PUT", "/v1/customers/acme/payment-method", {"provider": "stripe", "account": "cus_1"})[0] == 422


def test_a_hard_decline_makes_invoice_and_subscription_past_due(call: Call, bank: Bank) -> None:
    """And the record a person's; the subscription is active again when it is paid."""
    by_card(call)
    bank.outcome = lambda: Decline(DeclineKind.HARD, "stolen_card", "Declined.")
    name = billed(call)
    [record] = records()
    assert (record.status.value, record.type.value) == ("manual", "payment_failed")
    assert call("GET", f"/v1/invoices/{name}")[1]["status"] == "past_due"
    assert subscription() == "past_due"
    bank.outcome = lambda: Succeeded("pi_1")
    assert call("POST", f"/v1/invoices/{name}/pay")[1]["status"] == "paid"
    assert subscription() == "active"


def subscription() -> str:
    """The status of acme's subscription."""
    found = DynamoCatalog().subscription("sub-acme")
    assert found is not None
    return found.status(system_clock()).value


def test_a_charge_that_is_not_known_to_have_happened_says_so(call: Call, bank: Bank) -> None:
    """503: the same request again asks, and charges nobody twice."""
    by_card(call)

    def lost() -> Outcome:
        raise TimeoutError

    bank.outcome = lost
    name = billed(call)
    assert call("POST", f"/v1/invoices/{name}/pay")[0] == 503
    bank.outcome = lambda: Succeeded("pi_1")
    assert call("POST", f"/v1/invoices/{name}/pay")[1]["status"] == "paid"
    assert bank.calls == 1


def test_a_wallet_is_topped_up_by_the_card(call: Call, bank: Bank) -> None:
    """At once, if it is low when the rule is put, and whenever a payment leaves it so."""
    rule = {"threshold": "10.00", "amount": "25.00", "currency": "EUR"}
    assert call("PUT", "/v1/customers/acme/wallet/top-up", rule)[0] == 422, "no account is known"
    call("PUT", "/v1/customers/acme/payment-method", {"provider": "wallet", "account": "cus_1"})
    status, wallet = call("PUT", "/v1/customers/acme/wallet/top-up", rule)
    assert (status, wallet["balance"]) == (200, "25.00")
    assert wallet["top_up"] == {"threshold": "10.00", "amount": "25.00"}
    billed(call)
    assert (call("GET", "/v1/customers/acme/wallet")[1]["balance"], bank.calls) == ("30.00", 2)
    _, wallet = call("DELETE", "/v1/customers/acme/wallet/top-up")
    assert wallet["top_up"] is None


def test_a_refund_that_fails_is_pending_and_tried_again_at_once(call: Call, bank: Bank) -> None:
    """Through the queue of retries."""
    by_card(call)
    _, invoice = call("GET", f"/v1/invoices/{billed(call)}")
    bank.outcome = lambda: Decline(DeclineKind.TRANSIENT, "busy", "Try again.")
    paid = invoice["payments"][0]["id"]
    status, refund = call("POST", f"/v1/payments/{paid}/refunds", {"id": "r-1", "amount": "5"})
    assert (status, refund["status"], refund["failure"]["code"]) == (201, "pending", "busy")
    [record] = records()
    assert (record.type.value, record.policy.strategy.value) == ("refund_error", "immediate")
    bank.outcome = lambda: Succeeded("re_1")
    retried(record)
    _, payment = call("GET", f"/v1/payments/{paid}")
    assert [one["status"] for one in payment["refunds"]] == ["succeeded"]


def retried(record: ErrorRecord) -> None:
    """Have the retry processor take a record."""
    processor = warm("retry_processor")
    processor.PROVIDERS["stripe"] = Bank()
    event = sample("retry_processor-sqs")
    event["Records"][0]["body"] = json.dumps({"record": record.id})
    assert processor.handler(event, CONTEXT) == {"batchItemFailures": []}


# What Stripe tells


def tell(call: Call, event: dict[str, Any], secret: str = WEBHOOK_SECRET, age: int = 0) -> tuple[int, dict[str, Any]]:
    """Send an event as Stripe does."""
    body = json.dumps(event)
    at = int(system_clock().timestamp()) - age
    signature = stripe.WebhookSignature.generate_signature_header(body, secret, at)
    return call("POST", "/v1/webhooks/stripe", body=body, headers={"stripe-signature": signature})


def an_event(payment: str | None, name: str = "evt_1") -> dict[str, Any]:
    """That a payment intent has succeeded."""
    metadata = {"tollgate_payment": payment} if payment else {}
    subject = {"id": "pi_1", "object": "payment_intent", "metadata": metadata}
    return {"id": name, "object": "event", "type": "payment_intent.succeeded", "data": {"object": subject}}


def test_a_bank_debit_is_paid_when_stripe_says_so(call: Call, bank: Bank) -> None:
    """Once for each event; what it says is asked for at Stripe."""
    by_card(call)
    bank.outcome = lambda: Processing("pi_1")
    name = billed(call)
    assert call("POST", f"/v1/invoices/{name}/pay")[1]["status"] == "open"
    [payment] = call("GET", f"/v1/invoices/{name}")[1]["payments"]
    assert tell(call, an_event(payment["id"], "evt_0")) == (200, {"status": "settled"})
    assert call("GET", f"/v1/invoices/{name}")[1]["status"] == "open", "Stripe's API does not say so"
    bank.outcome = lambda: Succeeded("pi_1")
    assert tell(call, an_event(payment["id"])) == (200, {"status": "settled"})
    assert tell(call, an_event(payment["id"])) == (200, {"status": "duplicate"})
    assert call("GET", f"/v1/invoices/{name}")[1]["status"] == "paid"
    assert (bank.calls, [record.status.value for record in records()]) == (1, ["resolved"])


def test_what_stripe_tells_of_others_is_ignored(call: Call) -> None:
    """An account may serve more than one seller."""
    assert tell(call, an_event("pay-of-another")) == (200, {"status": "ignored"})
    assert tell(call, an_event(None, "evt_2")) == (200, {"status": "ignored"})


@pytest.mark.parametrize(("secret", "age"), [("whsec_other", 0), (WEBHOOK_SECRET, 301)])
def test_what_is_not_signed_by_stripe_just_now_is_refused(call: Call, secret: str, age: int) -> None:
    """Nobody needs a key of ours for this route, but a signature."""
    assert tell(call, an_event("pay-1"), secret, age)[0] == 403


def test_what_stripe_tells_while_it_cannot_be_asked_is_told_again(call: Call, bank: Bank) -> None:
    """503, and nothing is noted of the event."""
    by_card(call)
    bank.outcome = lambda: Processing("pi_1")
    name = billed(call)
    [payment] = call("GET", f"/v1/invoices/{name}")[1]["payments"]

    def lost() -> Outcome:
        raise TimeoutError

    bank.outcome = lost
    assert tell(call, an_event(payment["id"]))[0] == 503
    bank.outcome = lambda: Succeeded("pi_1")
    assert tell(call, an_event(payment["id"])) == (200, {"status": "settled"})


def test_without_a_secret_nothing_is_heard(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """The route is not there."""
    monkeypatch.delenv("STRIPE_WEBHOOK_SECRET")
    assert tell(call, an_event("pay-1"))[0] == 404


# Permissions


def test_each_kind_of_movement_is_made_with_the_permissions_of_the_role(
    call: Call, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deposits, payments, refunds, top-ups and Stripe's news by billing; the tries after a failure by the processor."""
    calls = recorded(monkeypatch)
    name = billed(call)
    deposit(call, "50")
    _, invoice = call("POST", f"/v1/invoices/{name}/pay")
    call("POST", f"/v1/payments/{invoice['payments'][-1]['id']}/refunds", {"id": "r-1"})
    call("PUT", "/v1/customers/acme/payment-method", {"provider": "wallet", "account": "cus_1"})
    call("PUT", "/v1/customers/acme/wallet/top-up", {"threshold": "90", "amount": "50", "currency": "EUR"})
    tell(call, an_event(invoice["payments"][0]["id"]))
    assert not refused(calls, "billing-api")
    assert bank.calls == 1


def test_the_retry_processor_collects_with_the_permissions_of_its_role(
    call: Call, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it pays makes the subscription active again; what it fails to, past due."""
    by_card(call)
    bank.outcome = lambda: Decline(DeclineKind.TRANSIENT, "busy", "Try again.")
    name = billed(call)
    store = DynamoRecovery()
    for outcome, status, standing in (
        (Decline(DeclineKind.HARD, "stolen_card", "No."), "past_due", "past_due"),
        (Succeeded("pi_1"), "paid", "active"),
    ):
        [record] = records()
        due = replace(
            record,
            status=record.status.__class__("pending"),
            next_retry_at=system_clock() - timedelta(minutes=1),
            revision=record.revision + 1,
        )
        store.change(record, due)
        processor = warm("retry_processor")
        processor.PROVIDERS["stripe"] = bank
        bank.outcome = lambda outcome=outcome: outcome  # type: ignore[misc]  # a default binds it
        calls = recorded(monkeypatch)
        processor.handler(sample("retry_processor-schedule"), CONTEXT)
        assert not refused(calls, "retry_processor-schedule")
        assert (call("GET", f"/v1/invoices/{name}")[1]["status"], subscription()) == (status, standing)


def test_the_retry_processor_tops_up_with_the_permissions_of_its_role(
    call: Call, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a payment that leaves too little; what succeeds at once leaves no record."""
    name = billed(call)
    deposit(call, "50")
    store = DynamoRecovery()
    [record] = records()
    call("PUT", "/v1/customers/acme/payment-method", {"provider": "wallet", "account": "cus_1"})
    rule = {"threshold": "40", "amount": "50", "currency": "EUR"}
    assert call("PUT", "/v1/customers/acme/wallet/top-up", rule)[0] == 200
    assert bank.calls == 0
    due = store.get(record.id)
    assert due is not None
    store.change(due, replace(due, next_retry_at=system_clock() - timedelta(minutes=1), revision=due.revision + 1))
    processor = warm("retry_processor")
    processor.PROVIDERS["stripe"] = bank
    calls = recorded(monkeypatch)
    processor.handler(sample("retry_processor-schedule"), CONTEXT)
    assert not refused(calls, "retry_processor-schedule")
    assert call("GET", f"/v1/invoices/{name}")[1]["status"] == "paid"
    assert (bank.calls, call("GET", "/v1/customers/acme/wallet")[1]["balance"]) == (1, "80.00")
    assert [one.status.value for one in records()] == ["resolved"]

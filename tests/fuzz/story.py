"""The examples of openapi.json: `make examples` plays one story through the API and writes down what is answered.

It is the README's first session, told to its end: acme is sold a plan, uses it, and pays; globex cannot pay, and its
failed operation is dealt with. What differs from one telling to the next is replaced: times of day, made ids, secrets.
"""

import json
import re
import sys
from collections.abc import Iterator
from typing import Any, Final

import httpx

import tests.conftest  # noqa: F401  the environment of the functions
from tests.fuzz.gateway import deployed
from tools.openapi import EXAMPLES, OPENAPI

__all__ = ["Teller", "label_of", "operations", "told"]

_PRICE: Final = {
    "model": "tiered",
    "tiers": [{"up_to": "100", "unit_price": "0.10"}, {"up_to": None, "unit_price": "0.08"}],
}
_PLAN: Final = {
    "name": "Starter",
    "currency": "EUR",
    "base_price": "20.00",
    "billing_period": {"interval": "month", "count": 1},
    "features": [{"feature": "api-calls", "quota": {"limit": "500", "overage": "block"}, "price": _PRICE}],
}
_CALLS: Final = "/v1/customers/acme/entitlements/api-calls"
_NOTE: Final = {"note": "globex has paid by bank transfer", "actor": "mia"}
_MANY: Final = {"filter": {"customer": "globex"}, "note": "the bank was down", "dry_run": True}


class Teller:
    """Sends the requests of the story, and keeps the first that succeeds of each operation with its answer."""

    def __init__(self, api: httpx.Client) -> None:
        self._api = api
        self.examples: dict[str, dict[str, Any]] = {}

    def tell(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """Send a request, and keep it with its answer."""
        answer = self._api.request(method, path, json=body, headers=headers).raise_for_status()
        told = self.examples.setdefault(label_of(method, path), {})
        media_type = (headers or {}).get("Content-Type", "application/json")
        if body is not None:
            told.setdefault("requests", {}).setdefault(media_type, body)
        kind = answer.headers.get("content-type", "").partition(";")[0]
        if answer.content and kind in {"application/json", "text/html"} and not path.startswith(("/docs", "/v1/open")):
            is_json = kind == "application/json"
            content = answer.json() if is_json else "<!doctype html><title>Invoice</title>..."
            told.setdefault("responses", {}).setdefault(str(answer.status_code), content)
            return content
        return None

    def refused(self, method: str, path: str, body: Any) -> None:
        """Send a bad request, and keep the answer: of its operation, or as the problem document of all."""
        answer = self._api.request(method, path, json=body)
        is_problem = answer.headers["content-type"] == "application/problem+json"
        told = self.examples.setdefault("problem" if is_problem else label_of(method, path), {})
        told.setdefault("responses", {})["default" if is_problem else str(answer.status_code)] = answer.json()


def story(tell: Any, refused: Any) -> None:  # noqa: PLR0915  it is a list
    """From the first feature to the last page."""
    tell("PUT", "/v1/features/api-calls", {"name": "API calls", "type": "quota", "unit": "call"})
    tell("PUT", "/v1/features/exports", {"name": "Exports", "type": "usage"})
    tell("GET", "/v1/features/api-calls")
    tell("GET", "/v1/features?limit=1")
    tell("PUT", "/v1/plans/starter", _PLAN)
    growing = _PLAN | {"name": "Growing", "base_price": "50.00"}
    growing |= {"features": [*_PLAN["features"], {"feature": "exports"}]}
    tell("PUT", "/v1/plans/growing", growing)
    tell("GET", "/v1/plans/starter")
    tell("GET", "/v1/plans?limit=1")
    acme = {"name": "Acme", "email": "billing@acme.example", "timezone": "Europe/Berlin", "metadata": {"crm": "4711"}}
    tell("PUT", "/v1/customers/acme", acme)
    tell("GET", "/v1/customers/acme")
    tell("GET", "/v1/customers")
    refused("PUT", "/v1/plans/starter", _PLAN | {"base_price": "-1"})
    tell("POST", "/v1/subscriptions", {"id": "sub-acme", "customer": "acme", "plan": "starter"})
    tell("GET", "/v1/subscriptions/sub-acme")
    tell("GET", "/v1/subscriptions?customer=acme")
    event = {"id": "call-1", "customer": "acme", "feature": "api-calls", "quantity": "250"}
    tell("POST", "/v1/events", event)
    cloud = {"specversion": "1.0", "id": "call-2", "source": "/gateway", "type": "api-calls", "subject": "acme"}
    cloud_event = cloud | {"data": {"quantity": "1", "path": "/search"}}
    tell("POST", "/v1/events", cloud_event, {"Content-Type": "application/cloudevents+json"})
    batch = [cloud_event | {"id": "call-3"}]
    tell("POST", "/v1/events", batch, {"Content-Type": "application/cloudevents-batch+json"})
    tell("POST", "/v1/events", event | {"id": "call-4"}, {"Prefer": "respond-async"})
    tell("GET", "/v1/events?customer=acme&id=call-1")
    tell("GET", "/v1/customers/acme/usage?feature=api-calls")
    tell("GET", "/v1/customers/acme/events?feature=api-calls")
    tell("GET", f"{_CALLS}?quantity=249")
    tell("GET", "/v1/customers/acme/entitlements")
    tell("POST", f"{_CALLS}/consume", {"id": "call-5", "quantity": "2"})
    items = [{"feature": "api-calls", "quantity": "3"}]
    tell("POST", "/v1/customers/acme/entitlements/consume", {"id": "call-6", "items": items})
    held = {"id": "job-1", "customer": "acme", "feature": "api-calls", "quantity": "10", "expires_in_seconds": 600}
    tell("POST", "/v1/reservations", held)
    tell("POST", "/v1/reservations/job-1/commit", {"quantity": "7"})
    tell("POST", "/v1/reservations", held | {"id": "job-2"})
    tell("POST", "/v1/reservations/job-2/release")
    context = {"context": {"targetingKey": "acme"}}
    tell("POST", "/ofrep/v1/evaluate/flags/api-calls", context)
    tell("POST", "/ofrep/v1/evaluate/flags", context)
    refused("POST", "/ofrep/v1/evaluate/flags", {"context": {}})
    refused("POST", "/ofrep/v1/evaluate/flags/api-calls", {"context": {}})
    refused("POST", "/ofrep/v1/evaluate/flags/unknown", context)
    tell("POST", "/v1/prices/quote", {"currency": "EUR", "quantity": "250", "price": _PRICE})
    extra = {"quota": {"limit": "1000", "overage": "block"}}
    tell("PUT", "/v1/customers/acme/overrides/api-calls", extra)
    tell("GET", "/v1/customers/acme/overrides/api-calls")
    tell("DELETE", "/v1/customers/acme/overrides/api-calls")
    tell("PUT", "/v1/customers/acme/alerts/api-calls", {"thresholds": [{"percent": "80"}]})
    tell("GET", "/v1/customers/acme/alerts/api-calls")
    tell("DELETE", "/v1/customers/acme/alerts/api-calls")
    tell("PUT", "/v1/customers/acme/counters/exports", {"shards": 4})
    tell("GET", "/v1/customers/acme/counters/exports")
    _money(tell)
    _failures(tell)
    tell("POST", "/v1/subscriptions/sub-acme/pause", {"reason": "on holiday"})
    tell("POST", "/v1/subscriptions/sub-acme/resume", {"reason": "back"})
    tell("POST", "/v1/subscriptions/sub-acme/change", {"plan": "growing", "when": "period_end", "reason": "grows"})
    tell("POST", "/v1/subscriptions/sub-acme/cancel", {"when": "period_end", "reason": "moves on"})
    tell("GET", "/v1/subscriptions/sub-acme/history")
    limited = {"rate_limit": {"limit": 100, "window_seconds": 60}}
    job = {"name": "billing job", "scopes": ["billing:read", "billing:write"]}
    key = tell("POST", "/v1/api-keys", job | limited)
    tell("POST", f"/v1/api-keys/{key['id']}/rotate", {"overlap_seconds": 3600})
    tell("GET", f"/v1/api-keys/{key['id']}")
    tell("POST", f"/v1/api-keys/{key['id']}/rotate", {"overlap_seconds": 3600})
    tell("GET", "/v1/api-keys?limit=1")
    tell("DELETE", f"/v1/api-keys/{key['id']}")
    hook = {"url": "https://127.0.0.1:9/tollgate", "events": ["invoice.paid", "usage.threshold_reached"]}
    tell("PUT", "/v1/webhooks/crm", hook)
    tell("GET", "/v1/webhooks/crm")
    tell("GET", "/v1/webhooks")
    tell("POST", "/v1/webhooks/crm/secret")
    tell("DELETE", "/v1/webhooks/crm")
    tell("GET", "/healthz")


def _money(tell: Any) -> None:
    deposit = {"id": "deposit-1", "type": "deposit", "amount": "100.00", "currency": "EUR", "description": "by bank"}
    tell("POST", "/v1/customers/acme/wallet/transactions", deposit)
    run = tell("POST", "/v1/billing/run", {"as_of": None})
    tell("GET", f"/v1/billing/runs/{run['id']}")
    [invoice] = tell("GET", "/v1/invoices?customer=acme")["items"]
    tell("GET", f"/v1/invoices/{invoice['id']}")
    tell("GET", f"/v1/invoices/{invoice['id']}.html")
    tell("GET", "/v1/subscriptions/sub-acme/invoices/upcoming")
    tell("POST", f"/v1/invoices/{invoice['id']}/pay")
    [payment] = invoice["payments"]
    tell("POST", f"/v1/payments/{payment['id']}/refunds", {"id": "refund-1", "amount": "5.00", "reason": "an outage"})
    tell("GET", f"/v1/payments/{payment['id']}")
    tell("GET", "/v1/customers/acme/wallet")
    tell("GET", "/v1/customers/acme/wallet/transactions")
    tell("PUT", "/v1/customers/acme/payment-method", {"provider": "wallet"})
    tell("GET", "/v1/customers/acme/payment-method")
    tell("DELETE", "/v1/customers/acme/wallet/top-up")


def _failures(tell: Any) -> None:
    for name in ("globex", "initech"):
        tell("PUT", f"/v1/customers/{name}", {})
        tell("POST", "/v1/subscriptions", {"id": f"sub-{name}", "customer": name, "plan": "starter"})
    tell("POST", "/v1/billing/run")
    [error] = tell("GET", "/v1/errors?customer=globex")["items"]
    [other] = tell("GET", "/v1/errors?customer=initech")["items"]
    tell("GET", f"/v1/errors/{error['id']}")
    tell("GET", "/v1/errors/report")
    tell("POST", "/v1/errors/retry", _MANY)
    tell("POST", "/v1/errors/discard", _MANY)
    tell("POST", f"/v1/errors/{error['id']}/escalate", {"note": "mia looks into it"})
    tell("POST", f"/v1/errors/{error['id']}/retry", {"note": "there is money now"})
    tell("POST", f"/v1/errors/{error['id']}/resolve", _NOTE)
    tell("POST", f"/v1/errors/{other['id']}/discard", {"note": "they were a test"})
    for name, act in (("globex", "void"), ("initech", "uncollectible")):
        [invoice] = tell("GET", f"/v1/invoices?customer={name}")["items"]
        tell("POST", f"/v1/invoices/{invoice['id']}/{act}", {"reason": "agreed by telephone"})


def _add_what_needs_stripe(examples: dict[str, dict[str, Any]]) -> None:
    """The answers that this process cannot give: there is no Stripe in it, nor more to bill than there is time for."""
    wallet = examples["GET /v1/customers/{customer}/wallet"]["responses"]["200"]
    rule = {"threshold": "20.00", "amount": "100.00"}
    examples["PUT /v1/customers/{customer}/wallet/top-up"] = {
        "requests": {"application/json": rule | {"currency": "EUR"}},
        "responses": {"200": wallet | {"top_up": rule}},
    }
    examples["POST /v1/webhooks/stripe"] = {"responses": {"200": {"status": "settled"}}}
    billed = examples["POST /v1/billing/run"]["responses"]
    billed["202"] = billed["200"] | {"status": "running", "billed": 0, "invoices": 0}
    examples["GET /docs"] = {"responses": {"200": "<!doctype html><title>Tollgate API</title>..."}}
    opening = {"openapi": "3.1.0", "info": {"title": "Tollgate", "version": "1"}}
    examples["GET /v1/openapi.json"] = {"responses": {"200": opening}}


def label_of(method: str, path: str) -> str:
    """The operation that a request is of, as `GET /v1/customers/{customer}`."""
    wanted = path.partition("?")[0]
    for template in sorted(json.loads(OPENAPI.read_text())["paths"], key=lambda one: (one.count("{"), -len(one))):
        if re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template)), wanted):
            return f"{method} {template}"
    raise LookupError(f"{method} {path} is no operation")


def _same_each_time(text: str) -> str:
    """What is told with the same times, made ids and secrets, whenever it is told."""
    text = re.sub(r"(\d{4}-\d\d-\d\dT)\d\d:\d\d:\d\d(\.\d+)?Z", r"\g<1>09:30:00Z", text)
    text = re.sub(r"whsec_[A-Za-z0-9+/=]+", "whsec_EXAMPLE+only+EXAMPLE+only+EXAMPLE+only=", text)
    text = re.sub(r"tg_[0-9A-Za-z]{8,}_\w{32,}", "tg_0123456789abcdef_EXAMPLE_ONLY", text)
    text = re.sub(r'"(request-1)"', '"b7c3e0a2-EXAMPLE"', text)
    text = re.sub(r'("next_cursor": )"[^"]+"', r'\1"q0PzjZ3kEXAMPLE"', text)
    text = text.replace("https://127.0.0.1:9/", "https://crm.acme.example/")
    made: dict[str, str] = {}

    def named(found: re.Match[str]) -> str:
        known = made.setdefault(found[0], f"{len(made) + 1:04x}" * (len(found[2]) // 4))
        return f"{found[1]}{known}"

    return re.sub(r"\b((?:[a-z]+_)?)([0-9a-f]{32}|[0-9a-f]{16})\b", named, text)


def operations(document: dict[str, Any]) -> Iterator[str]:
    """All operations by method and path."""
    for path, methods in document["paths"].items():
        yield from (f"{method.upper()} {path}" for method in methods)


def told(api: httpx.Client) -> str:
    """The examples, told anew, as they are written down."""
    teller = Teller(api)
    story(teller.tell, teller.refused)
    _add_what_needs_stripe(teller.examples)
    return _same_each_time(json.dumps(dict(sorted(teller.examples.items())), indent=1)) + "\n"


def main() -> int:
    """Tell the story, and write it down."""
    shown = sys.stdout
    with deployed() as it, httpx.Client(base_url=it.api_url) as api:
        api.headers["Authorization"] = f"Bearer {it.api_key}"
        text = told(api)
    EXAMPLES.write_text(text)
    untold = set(operations(json.loads(OPENAPI.read_text()))) - json.loads(text).keys()
    print(f"wrote {EXAMPLES.name}; not told: {sorted(untold) or 'none'}", file=shown)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Things that exist before an API is fuzzed: one of each kind that a path can name, and what stands behind them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from tests.fuzz.leaks import CANARY

__all__ = ["settle"]


def settle(api: httpx.Client) -> Mapping[str, Sequence[str]]:
    """Make a seller with two customers, one of whom cannot pay; what there is by the names of path parameters."""

    def put(path: str, body: Any) -> Any:
        return api.put(path, json=body).raise_for_status().json()

    def post(path: str, body: Any = None) -> Any:
        return api.post(path, json=body).raise_for_status().json()

    features = {"api-calls": "quota", "tokens": "usage", "bursts": "rate", "export": "boolean"}
    for code, kind in features.items():
        put(f"/v1/features/{code}", {"name": f"{code} {CANARY}", "type": kind})
    put(
        "/v1/plans/starter",
        {
            "name": f"Starter {CANARY}",
            "currency": "EUR",
            "base_price": "20.00",
            "billing_period": {"interval": "month"},
            "features": [
                {"feature": "api-calls", "quota": {"limit": "1000000", "overage": "block"}},
                {"feature": "tokens", "price": {"model": "flat", "unit_price": "0.01"}},
                {"feature": "bursts", "rate": {"limit": "100000", "window_seconds": 60}},
                {"feature": "export"},
            ],
        },
    )
    start = (datetime.now(UTC) - timedelta(days=40)).isoformat()
    for customer in ("acme", "globex"):
        put(f"/v1/customers/{customer}", {"name": CANARY, "email": "a@b", "metadata": {"note": CANARY}})
        post(
            "/v1/subscriptions",
            {"id": f"sub-{customer}", "customer": customer, "plan": "starter", "starts_at": start},
        )
    money = {"id": "deposit-1", "type": "deposit", "amount": "1000.00", "currency": "EUR", "description": CANARY}
    post("/v1/customers/acme/wallet/transactions", money)
    post("/v1/events", {"id": "e-1", "customer": "acme", "feature": "tokens", "properties": {"note": CANARY}})
    post(
        "/v1/reservations",
        {"id": "res-1", "customer": "acme", "feature": "api-calls", "quantity": "1", "expires_in_seconds": 86400},
    )
    put("/v1/customers/acme/alerts/tokens", {"thresholds": [{"quantity": "1000000"}]})
    put("/v1/customers/acme/overrides/api-calls", {"enabled": True})
    run = api.post("/v1/billing/run").raise_for_status().json()
    for _ in range(5_000):
        if run["status"] == "done":
            break
        run = api.get(f"/v1/billing/runs/{run['id']}").raise_for_status().json()
    invoices = api.get("/v1/invoices?customer=acme").json()["items"]
    errors = api.get("/v1/errors?customer=globex").json()["items"]
    key = post("/v1/api-keys", {"name": CANARY, "scopes": ["catalog:read"]})
    return {
        "customer": ["acme", "globex", "nobody"],
        "feature": [*features, "unknown"],
        "code": [*features, "starter", "new-code"],
        "subscription": ["sub-acme", "sub-globex"],
        "reservation": ["res-1"],
        "invoice": [one["id"] for one in invoices] or ["none"],
        "payment": [payment["id"] for one in invoices for payment in one["payments"]] or ["none"],
        "error": [one["id"] for one in errors] or ["none"],
        "run": [run["id"]],
        "key": [key["id"]],
        "webhook": ["hook-1", "hook-2"],
    }

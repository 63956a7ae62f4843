"""The HTTP contract that clients rely on: its routes, the names in bodies and answers, and the words of their lists."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tools.openapi import OPENAPI

DOCUMENT: dict[str, Any] = json.loads(OPENAPI.read_text())

DECISION = "customer feature type allowed reason limit used remaining overage resets_at plan subscription"
INVOICE = "id number status period currency lines total amount_due payments"
ERROR = "id type operation status strategy attempts max_attempts next_retry_at context history tries"
SUBSCRIPTION = "id customer plan status current_period"
CONTRACT = [
    ("PUT /v1/features/{code}", "name type unit aggregation dedupe", "code name type unit aggregation dedupe"),
    ("GET /v1/features", "?limit ?cursor", "items next_cursor"),
    ("GET /v1/features/{code}", "", "code name type"),
    (
        "PUT /v1/plans/{code}",
        "name currency billing_period base_price trial_days grace_days features",
        "code version name currency billing_period base_price trial_days grace_days features",
    ),
    ("GET /v1/plans", "?limit ?cursor", "items next_cursor"),
    ("GET /v1/plans/{code}", "?version", "code version"),
    ("POST /v1/prices/quote", "currency price quantity previous_quantity", "amount currency exact_amount lines"),
    ("PUT /v1/customers/{customer}", "name email timezone metadata", "id name email timezone metadata"),
    ("GET /v1/customers", "?limit ?cursor", "items next_cursor"),
    ("GET /v1/customers/{customer}", "", "id"),
    ("POST /v1/subscriptions", "id customer plan starts_at trial_days", SUBSCRIPTION),
    ("GET /v1/subscriptions", "?customer", "items next_cursor"),
    ("GET /v1/subscriptions/{subscription}", "", SUBSCRIPTION),
    ("POST /v1/subscriptions/{subscription}/change", "plan when", SUBSCRIPTION),
    ("POST /v1/subscriptions/{subscription}/cancel", "when", SUBSCRIPTION),
    ("POST /v1/subscriptions/{subscription}/pause", "", SUBSCRIPTION),
    ("POST /v1/subscriptions/{subscription}/resume", "", SUBSCRIPTION),
    (
        "POST /v1/events",
        "id source customer feature quantity time properties",
        "results accepted duplicate conflict rejected",
    ),
    ("GET /v1/events", "?customer ?source ?id", "id source customer feature outcome time period"),
    (
        "GET /v1/customers/{customer}/usage",
        "?feature ?from ?to ?granularity",
        "customer feature period quantity events buckets",
    ),
    ("GET /v1/customers/{customer}/entitlements/{feature}", "?quantity", DECISION),
    ("GET /v1/customers/{customer}/entitlements", "", "items"),
    ("PUT /v1/customers/{customer}/overrides/{feature}", "enabled quota rate expires_at", "customer feature"),
    ("DELETE /v1/customers/{customer}/overrides/{feature}", "", ""),
    ("POST /v1/customers/{customer}/entitlements/{feature}/consume", "id quantity time", f"{DECISION} status"),
    ("POST /v1/customers/{customer}/entitlements/consume", "id items", "status items"),
    ("POST /v1/reservations", "id customer feature quantity expires_in_seconds", "id status"),
    ("POST /v1/reservations/{reservation}/commit", "quantity", "id status"),
    ("POST /v1/reservations/{reservation}/release", "", "id status"),
    ("POST /ofrep/v1/evaluate/flags/{key}", "context", "key value variant reason"),
    ("POST /ofrep/v1/evaluate/flags", "context", "flags"),
    ("GET /v1/customers/{customer}/wallet", "", "customer balance currency"),
    (
        "POST /v1/customers/{customer}/wallet/transactions",
        "id type amount currency description",
        "id type amount currency balance_after",
    ),
    ("GET /v1/customers/{customer}/wallet/transactions", "", "items next_cursor"),
    ("GET /v1/subscriptions/{subscription}/invoices/upcoming", "", INVOICE),
    ("GET /v1/invoices", "?customer ?subscription ?status", "items next_cursor"),
    ("GET /v1/invoices/{invoice}", "", INVOICE),
    ("POST /v1/invoices/{invoice}/pay", "", INVOICE),
    ("POST /v1/invoices/{invoice}/void", "", INVOICE),
    ("POST /v1/payments/{payment}/refunds", "id amount reason", "id status amount"),
    ("POST /v1/billing/run", "as_of", "id status"),
    ("GET /v1/errors", "?status ?type ?customer ?subscription ?strategy", "items next_cursor"),
    ("GET /v1/errors/{error}", "", ERROR),
    ("POST /v1/errors/{error}/retry", "", ERROR),
    ("POST /v1/errors/{error}/resolve", "note", ERROR),
    ("POST /v1/errors/{error}/discard", "note", ERROR),
    ("POST /v1/errors/{error}/escalate", "note", ERROR),
    ("GET /v1/errors/report", "", "generated_at total groups"),
    ("POST /v1/api-keys", "name scopes", "id secret"),
    ("GET /v1/api-keys/{key}", "", "id name scopes"),
    ("DELETE /v1/api-keys/{key}", "", ""),
    ("GET /v1/openapi.json", "", ""),
    ("GET /docs", "", ""),
    ("GET /healthz", "", ""),
]
"""Each route, what it reads (`?` in the query), and what is in its answer."""

WORDS = [
    ("FeatureType", "usage quota rate boolean"),
    ("Aggregation", "sum count max latest"),
    ("Dedupe", "time id"),
    ("Interval", "day week month year"),
    ("Overage", "block allow"),
    ("RateAlgorithm", "fixed token_bucket sliding"),
    ("SubscriptionStatus", "trialing active past_due paused cancelled expired"),
    ("When", "now period_end"),
    ("InvoiceStatus", "draft open paid past_due void uncollectible"),
    ("LineKind", "base usage adjustment proration"),
    ("Status", "pending retrying manual resolved discarded"),
    ("Strategy", "exponential_backoff immediate fixed_interval manual"),
]
"""Lists of words by the name of their schema."""


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with its references followed."""
    while "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def members(schema: dict[str, Any]) -> Iterator[str]:
    """The names in a body or answer, whichever of several it is."""
    schema = resolved(schema)
    yield from schema.get("properties", {})
    for other in (*schema.get("oneOf", []), *schema.get("anyOf", [])):
        yield from members(other)


@pytest.mark.parametrize(("route", "reads", "answers"), CONTRACT, ids=[route for route, _, _ in CONTRACT])
def test_a_route_of_the_contract_is_in_the_document(route: str, reads: str, answers: str) -> None:
    """With all that it reads and answers, by these names."""
    method, path = route.split()
    operation = DOCUMENT["paths"][path][method.lower()]
    query = {f"?{one['name']}" for one in operation["parameters"] if one["in"] == "query"}
    sent = {
        name
        for content in operation.get("requestBody", {}).get("content", {}).values()
        for name in members(content["schema"])
    }
    assert set(reads.split()) <= query | sent
    status = min(status for status in operation["responses"] if status.startswith("2"))
    content = operation["responses"][status].get("content", {}).get("application/json", {"schema": {}})
    answered = resolved(content["schema"])
    assert set(answers.split()) <= answered.get("properties", {}).keys()
    assert set(answers.split()) <= {*answered.get("required", [])}


@pytest.mark.parametrize(("name", "words"), WORDS)
def test_the_words_of_the_contract_are_in_the_document(name: str, words: str) -> None:
    """All of them."""
    assert set(words.split()) <= {*DOCUMENT["components"]["schemas"][name]["enum"]}

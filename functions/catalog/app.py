"""Features, plans, customers, subscriptions and API keys; the documents; what no other function answers."""

import hashlib
import os
from collections.abc import Collection
from decimal import Decimal
from pathlib import Path as File
from typing import Annotated, Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Header, Path, Query
from aws_lambda_powertools.utilities.typing import LambdaContext

from tollgate.api.app import App, created, json_response
from tollgate.api.cursors import read_cursor, write_cursor
from tollgate.api.documents import answers, docs_page
from tollgate.catalog import schema, service, snapshots, subscriptions, webhooks
from tollgate.catalog.keys import create_key, rotate_key
from tollgate.catalog.life import Who, entry_to_dict
from tollgate.catalog.model import Subscription, feature_to_dict, plan_to_dict
from tollgate.catalog.periods import Period
from tollgate.catalog.store import DynamoCatalog, cursor_secret
from tollgate.kernel.errors import NotFound
from tollgate.kernel.ids import MAX_CURSOR, MAX_KEY
from tollgate.kernel.schema import MAX_PAGE, Code
from tollgate.kernel.time import system_clock
from tollgate.metering.model import CounterId
from tollgate.metering.store import DynamoCounters

ALLOW_PRIVATE_WEBHOOKS = os.environ.get("ALLOW_PRIVATE_WEBHOOKS") == "true"
OPENAPI = File(__file__).with_name("openapi.json")

Name = Annotated[Code, Path()]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]
Cursor = Annotated[str | None, Query(max_length=MAX_CURSOR)]
IdempotencyKey = Annotated[str | None, Header(alias="idempotency-key", min_length=1, max_length=MAX_KEY)]

app = App(validate=True)
catalog = DynamoCatalog()
gates = DynamoCounters()


def page(listing: str, items: list[dict[str, Any]], last: str | None) -> Response[str]:
    """A page of a list."""
    return json_response({"items": items, "next_cursor": write_cursor(cursor_secret(), listing, last)})


def after(listing: str, cursor: str | None) -> str | None:
    """Where a page begins."""
    return read_cursor(cursor_secret(), listing, cursor) if cursor else None


def who(action: str, body: schema.ReasonBody, idempotency_key: str | None) -> Who:
    """Who asks for a change of a subscription, and why."""
    digest = hashlib.sha256(f"{action} {body.model_dump_json()}".encode()).hexdigest()
    return Who(app.caller().key_id, body.reason, (idempotency_key, digest) if idempotency_key else None)


def readings(subscription: Subscription, period: Period, features: Collection[str]) -> dict[str, Decimal]:
    """The usage of some features in a period, as it is now."""
    snapshot = catalog.snapshot(subscription.customer)
    counters = [CounterId(subscription.customer, code, subscription.id, period.start) for code in features]
    tallies = gates.tallies(counters, {code: snapshot.most_shards(code) for code in features})
    return {counter.feature: tally.quantity for counter, tally in tallies.items()}


@app.endpoint(
    "PUT",
    "/v1/features/<code>",
    scope="catalog:write",
    summary="Create a feature, or change its name or unit",
    responses=answers(schema.FeatureView, "The feature as it is now"),
    refuses=(409,),
)
def put_feature(code: Name, body: schema.FeatureBody) -> Response[str]:
    """Its type, aggregation and dedupe never change."""
    return json_response(feature_to_dict(service.put_feature(catalog, body.to_feature(code))))


@app.endpoint(
    "GET",
    "/v1/features",
    scope="catalog:read",
    summary="List features",
    responses=answers(schema.FeatureList, "Features by code"),
)
def list_features(limit: Limit = 50, cursor: Cursor = None) -> Response[str]:
    """Features by code."""
    features, last = catalog.list_features(after("features", cursor), limit)
    return page("features", [feature_to_dict(feature) for feature in features], last)


@app.endpoint(
    "GET",
    "/v1/features/<code>",
    scope="catalog:read",
    summary="Read a feature",
    responses=answers(schema.FeatureView, "The feature"),
    refuses=(404,),
)
def get_feature(code: Name) -> Response[str]:
    """One feature."""
    return json_response(feature_to_dict(service.feature(catalog, code)))


@app.endpoint(
    "PUT",
    "/v1/plans/<code>",
    scope="catalog:write",
    summary="Create a plan, or a new version of it",
    responses=answers(schema.PlanView, "The version that holds this body"),
    refuses=(409,),
)
def put_plan(code: Name, body: schema.PlanBody) -> Response[str]:
    """The same body makes no new version; running subscriptions keep theirs."""
    features = catalog.features(granted.feature for granted in body.features)
    plan, faults = schema.to_plan(code, body, features)
    return json_response(plan_to_dict(service.put_plan(catalog, plan, faults)))


@app.endpoint(
    "GET",
    "/v1/plans",
    scope="catalog:read",
    summary="List plans",
    responses=answers(schema.PlanList, "Plans by code, each in its latest version"),
)
def list_plans(limit: Limit = 50, cursor: Cursor = None) -> Response[str]:
    """Plans by code, each in its latest version."""
    plans, last = catalog.list_plans(after("plans", cursor), limit)
    return page("plans", [plan_to_dict(plan) for plan in plans], last)


@app.endpoint(
    "GET",
    "/v1/plans/<code>",
    scope="catalog:read",
    summary="Read a plan",
    responses=answers(schema.PlanView, "The latest version, or the one asked for"),
    refuses=(404,),
)
def get_plan(code: Name, version: Annotated[int | None, Query(ge=1, le=9_999_999_999)] = None) -> Response[str]:
    """The latest version, or the one asked for."""
    return json_response(plan_to_dict(service.plan(catalog, code, version)))


@app.endpoint(
    "PUT",
    "/v1/customers/<customer>",
    scope="catalog:write",
    summary="Create or replace a customer",
    responses=answers(schema.CustomerView, "The customer as it is now"),
)
def put_customer(customer: Name, body: schema.CustomerBody) -> Response[str]:
    """Running subscriptions keep the time zone they were made in."""
    return json_response(schema.customer_view(service.put_customer(catalog, body.to_customer(customer))))


@app.endpoint(
    "GET",
    "/v1/customers",
    scope="catalog:read",
    summary="List customers",
    responses=answers(schema.CustomerList, "Customers by id"),
)
def list_customers(limit: Limit = 50, cursor: Cursor = None) -> Response[str]:
    """Customers by id."""
    customers, last = catalog.list_customers(after("customers", cursor), limit)
    return page("customers", [schema.customer_view(customer) for customer in customers], last)


@app.endpoint(
    "GET",
    "/v1/customers/<customer>",
    scope="catalog:read",
    summary="Read a customer",
    responses=answers(schema.CustomerView, "The customer"),
    refuses=(404,),
)
def get_customer(customer: Name) -> Response[str]:
    """One customer."""
    return json_response(schema.customer_view(service.customer(catalog, customer)))


@app.endpoint(
    "POST",
    "/v1/subscriptions",
    scope="catalog:write",
    summary="Put a customer on a plan",
    responses=answers(schema.SubscriptionView, "The subscription; a repeated request gets the same", 201),
    refuses=(409,),
)
def create_subscription(body: schema.SubscriptionBody, idempotency_key: IdempotencyKey = None) -> Response[str]:
    """Takes an `id` of yours or an Idempotency-Key, not both, so that it is safe to send again."""
    made = service.subscribe(
        catalog,
        customer=body.customer,
        plan=body.plan,
        gates=gates,
        clock=system_clock,
        subscription_id=body.id,
        idempotency_key=idempotency_key,
        starts_at=body.starts_at,
        trial_days=body.trial_days,
        ends_at=body.ends_at,
        actor=app.caller().key_id,
    )
    return created(schema.subscription_view(made, system_clock()))


@app.endpoint(
    "GET",
    "/v1/subscriptions",
    scope="catalog:read",
    summary="List a customer's subscriptions",
    responses=answers(schema.SubscriptionList, "All subscriptions of the customer, oldest first"),
)
def list_subscriptions(customer: Annotated[Code, Query()], limit: Limit = 100, cursor: Cursor = None) -> Response[str]:
    """All subscriptions of the customer, in the order they were made."""
    listing = f"subscriptions:{customer}"
    start = int(after(listing, cursor) or 0)
    found = catalog.subscriptions(customer)
    items = [schema.subscription_view(one, system_clock()) for one in found[start : start + limit]]
    return page(listing, items, str(start + limit) if len(found) > start + limit else None)


@app.endpoint(
    "GET",
    "/v1/subscriptions/<subscription>",
    scope="catalog:read",
    summary="Read a subscription",
    responses=answers(schema.SubscriptionView, "The subscription as it stands now"),
    refuses=(404,),
)
def get_subscription(subscription: Name) -> Response[str]:
    """One subscription."""
    return json_response(schema.subscription_view(service.subscription(catalog, subscription), system_clock()))


@app.endpoint(
    "GET",
    "/v1/subscriptions/<subscription>/history",
    scope="catalog:read",
    summary="What became of a subscription, by whom and why?",
    responses=answers(schema.EntryList, "All changes, the oldest first"),
    refuses=(404,),
)
def get_history(subscription: Name) -> Response[str]:
    """All changes of its status, plan and end."""
    found = subscriptions.find_life(catalog, subscription)
    return page("history", [entry_to_dict(entry) for entry in found.history], None)


@app.endpoint(
    "POST",
    "/v1/subscriptions/<subscription>/change",
    scope="catalog:write",
    summary="Put a subscription on another plan, or on a newer version of its own",
    responses=answers(schema.SubscriptionView, "The subscription as it is now"),
    refuses=(404, 409),
)
def change_subscription(
    subscription: Name, body: schema.ChangeBody, idempotency_key: IdempotencyKey = None
) -> Response[str]:
    """At once, with the rest of the period prorated on the next invoice; or when the period ends."""
    made = subscriptions.change_plan(
        catalog,
        subscription,
        plan=body.plan,
        when=body.when,
        who=who("change", body, idempotency_key),
        readings=readings,
        gates=gates,
        clock=system_clock,
    )
    return json_response(schema.subscription_view(made, system_clock()))


@app.endpoint(
    "POST",
    "/v1/subscriptions/<subscription>/cancel",
    scope="catalog:write",
    summary="End a subscription",
    responses=answers(schema.SubscriptionView, "The subscription as it is now"),
    refuses=(404, 409),
)
def cancel_subscription(
    subscription: Name, body: schema.CancelBody, idempotency_key: IdempotencyKey = None
) -> Response[str]:
    """At once, with a credit for the rest of the period; or when the period ends."""
    made = subscriptions.cancel_subscription(
        catalog,
        subscription,
        when=body.when,
        who=who("cancel", body, idempotency_key),
        gates=gates,
        clock=system_clock,
    )
    return json_response(schema.subscription_view(made, system_clock()))


@app.endpoint(
    "POST",
    "/v1/subscriptions/<subscription>/pause",
    scope="catalog:write",
    summary="Pause a subscription",
    responses=answers(schema.SubscriptionView, "The subscription as it is now"),
    refuses=(404, 409),
)
def pause_subscription(
    subscription: Name, body: schema.ReasonBody | None = None, idempotency_key: IdempotencyKey = None
) -> Response[str]:
    """It grants nothing, and the base price of the time is given back."""
    asked = who("pause", body or schema.ReasonBody(), idempotency_key)
    made = subscriptions.pause_subscription(catalog, subscription, who=asked, gates=gates, clock=system_clock)
    return json_response(schema.subscription_view(made, system_clock()))


@app.endpoint(
    "POST",
    "/v1/subscriptions/<subscription>/resume",
    scope="catalog:write",
    summary="Resume a subscription that is paused, or withdraw its cancellation",
    responses=answers(schema.SubscriptionView, "The subscription as it is now"),
    refuses=(404, 409),
)
def resume_subscription(
    subscription: Name, body: schema.ReasonBody | None = None, idempotency_key: IdempotencyKey = None
) -> Response[str]:
    """The base price of the rest of the period is charged."""
    asked = who("resume", body or schema.ReasonBody(), idempotency_key)
    made = subscriptions.resume_subscription(catalog, subscription, who=asked, gates=gates, clock=system_clock)
    return json_response(schema.subscription_view(made, system_clock()))


@app.endpoint(
    "PUT",
    "/v1/customers/<customer>/counters/<feature>",
    scope="catalog:write",
    summary="Keep a customer's counter of a feature in more or fewer shards",
    responses=answers(schema.CounterView, "The schedule as it is now"),
    refuses=(404, 409),
)
def put_counter(customer: Name, feature: Name, body: schema.CounterBody) -> Response[str]:
    """From a quarter of an hour ahead on; for usage features with `"dedupe": "time"`."""
    schedule = snapshots.set_shards(catalog, customer, feature, body.shards, gates=gates, clock=system_clock)
    return json_response(schema.counter_view(customer, feature, schedule))


@app.endpoint(
    "GET",
    "/v1/customers/<customer>/counters/<feature>",
    scope="catalog:read",
    summary="In how many shards is a counter kept?",
    responses=answers(schema.CounterView, "The schedule"),
    refuses=(404,),
)
def get_counter(customer: Name, feature: Name) -> Response[str]:
    """The schedule, empty where there has always been one shard."""
    return json_response(schema.counter_view(customer, feature, snapshots.shards(catalog, customer, feature)))


@app.endpoint(
    "PUT",
    "/v1/customers/<customer>/alerts/<feature>",
    scope="catalog:write",
    summary="Tell when a customer's usage reaches a threshold",
    responses=answers(schema.AlertsView, "The thresholds as they are now"),
    refuses=(404, 409),
)
def put_alerts(customer: Name, feature: Name, body: schema.AlertsBody) -> Response[str]:
    """In place of those before; each is told once per period, on the event bus and to the webhooks."""
    thresholds = [threshold.to_threshold() for threshold in body.thresholds]
    made = snapshots.set_alerts(catalog, customer, feature, thresholds, gates=gates, clock=system_clock)
    return json_response(schema.alerts_view(customer, feature, made))


@app.endpoint(
    "GET",
    "/v1/customers/<customer>/alerts/<feature>",
    scope="catalog:read",
    summary="Read the thresholds of a customer and feature",
    responses=answers(schema.AlertsView, "The thresholds"),
    refuses=(404,),
)
def get_alerts(customer: Name, feature: Name) -> Response[str]:
    """The thresholds of a customer and feature."""
    found = snapshots.alerts(catalog, customer, feature)
    return json_response(schema.alerts_view(customer, feature, found))


@app.endpoint(
    "DELETE",
    "/v1/customers/<customer>/alerts/<feature>",
    scope="catalog:write",
    summary="Tell no more of a customer's usage of a feature",
    responses=answers(None, "Removed", 204),
    refuses=(404, 409),
)
def delete_alerts(customer: Name, feature: Name) -> Response[str]:
    """An alert that is on its way is delivered all the same."""
    snapshots.remove_alerts(catalog, customer, feature, gates=gates, clock=system_clock)
    return Response(204, body="")


@app.endpoint(
    "PUT",
    "/v1/customers/<customer>/overrides/<feature>",
    scope="catalog:write",
    summary="Give a customer other terms for a feature than its plan's",
    responses=answers(schema.OverrideView, "The override as it is now"),
    refuses=(404, 409),
)
def put_override(customer: Name, feature: Name, body: schema.OverrideBody) -> Response[str]:
    """In place of the one before; what it does not name stays as the plan has it."""
    made = snapshots.set_override(catalog, customer, feature, body.to_override(), gates=gates, clock=system_clock)
    return json_response(schema.override_view(customer, feature, made))


@app.endpoint(
    "GET",
    "/v1/customers/<customer>/overrides/<feature>",
    scope="catalog:read",
    summary="Read the override of a customer and feature",
    responses=answers(schema.OverrideView, "The override"),
    refuses=(404,),
)
def get_override(customer: Name, feature: Name) -> Response[str]:
    """The override, expired or not."""
    return json_response(schema.override_view(customer, feature, snapshots.override(catalog, customer, feature)))


@app.endpoint(
    "DELETE",
    "/v1/customers/<customer>/overrides/<feature>",
    scope="catalog:write",
    summary="Have the plan's terms hold again",
    responses=answers(None, "Removed", 204),
    refuses=(404, 409),
)
def delete_override(customer: Name, feature: Name) -> Response[str]:
    """At once, for all that asks from now on."""
    snapshots.remove_override(catalog, customer, feature, gates=gates, clock=system_clock)
    return Response(204, body="")


@app.endpoint(
    "POST",
    "/v1/api-keys",
    scope="admin",
    summary="Make an API key",
    responses=answers(schema.ApiKeyCreated, "The key; its secret is shown this once", 201),
    refuses=(409,),
)
def create_api_key(body: schema.ApiKeyBody, idempotency_key: IdempotencyKey = None) -> Response[str]:
    """A repeated request (same Idempotency-Key) finds the key of the first, with `secret` null."""
    key, secret = create_key(
        catalog,
        name=body.name,
        scopes=tuple(body.scopes),
        clock=system_clock,
        expires_at=body.expires_at,
        rate_limit=body.limit(),
        idempotency_key=idempotency_key,
    )
    return created({**schema.key_view(key, system_clock()), "secret": secret})


@app.endpoint(
    "POST",
    "/v1/api-keys/<key>/rotate",
    scope="admin",
    summary="Give an API key another secret",
    responses=answers(schema.ApiKeyCreated, "The key; its new secret is shown this once"),
    refuses=(404, 409),
)
def rotate_api_key(
    key: Name, body: schema.RotateKeyBody | None = None, idempotency_key: IdempotencyKey = None
) -> Response[str]:
    """The secret before stays good for the overlap; at most two are, so one that is older still ends now."""
    overlap = (body or schema.RotateKeyBody()).overlap_seconds
    rotated, secret = rotate_key(
        catalog, key, overlap_seconds=overlap, clock=system_clock, idempotency_key=idempotency_key
    )
    return json_response({**schema.key_view(rotated, system_clock()), "secret": secret})


@app.endpoint(
    "GET",
    "/v1/api-keys",
    scope="admin",
    summary="List API keys",
    responses=answers(schema.ApiKeyList, "Keys by id, without their secrets"),
)
def list_api_keys(limit: Limit = 50, cursor: Cursor = None) -> Response[str]:
    """Keys by id, without their secrets."""
    now = system_clock()
    keys, last = catalog.list_keys(after("api-keys", cursor), limit)
    return page("api-keys", [schema.key_view(key, now) for key in keys], last)


@app.endpoint(
    "GET",
    "/v1/api-keys/<key>",
    scope="admin",
    summary="Read an API key",
    responses=answers(schema.ApiKeyView, "The key, without its secret"),
    refuses=(404,),
)
def get_api_key(key: Name) -> Response[str]:
    """One key, without its secret."""
    found = catalog.key(key)
    if found is None:
        raise NotFound(f"There is no API key {key}.")
    return json_response(schema.key_view(found, system_clock()))


@app.endpoint(
    "DELETE",
    "/v1/api-keys/<key>",
    scope="admin",
    summary="Revoke an API key",
    responses=answers(None, "Revoked; a warm authorizer may know it for 5 seconds more", 204),
    refuses=(404,),
)
def delete_api_key(key: Name) -> Response[str]:
    """In force at once, or after the 5 seconds for which a warm authorizer may know it."""
    if not catalog.delete_key(key):
        raise NotFound(f"There is no API key {key}.")
    return Response(204, body="")


@app.endpoint(
    "PUT",
    "/v1/webhooks/<webhook>",
    scope="admin",
    summary="Send events to an address, or change it",
    responses=answers(schema.WebhookCreated, "The webhook; the secret of a new one is shown this once"),
    refuses=(409,),
)
def put_webhook(webhook: Name, body: schema.WebhookBody) -> Response[str]:
    """Signed as Standard Webhooks say; a changed one keeps its secret, and is enabled again."""
    made, secret = webhooks.put_webhook(
        catalog,
        webhook,
        url=body.url,
        events=tuple(body.events),
        clock=system_clock,
        allow_private=ALLOW_PRIVATE_WEBHOOKS,
    )
    return json_response({**schema.webhook_view(made), "secret": secret})


@app.endpoint(
    "POST",
    "/v1/webhooks/<webhook>/secret",
    scope="admin",
    summary="Give a webhook another secret",
    responses=answers(schema.WebhookCreated, "The webhook with its new secret, which is shown this once"),
    refuses=(404, 409),
)
def rotate_webhook_secret(webhook: Name) -> Response[str]:
    """For a day what it is sent is signed with the secret before too; a request that is repeated makes another."""
    made = webhooks.rotate_secret(catalog, webhook, clock=system_clock)
    return json_response({**schema.webhook_view(made), "secret": made.secret})


@app.endpoint(
    "GET",
    "/v1/webhooks",
    scope="admin",
    summary="List webhooks",
    responses=answers(schema.WebhookList, "All webhooks in the order they were made, without their secrets"),
)
def list_webhooks() -> Response[str]:
    """All of them: there are few."""
    return page("webhooks", [schema.webhook_view(one) for one in catalog.webhooks()], None)


@app.endpoint(
    "GET",
    "/v1/webhooks/<webhook>",
    scope="admin",
    summary="Read a webhook",
    responses=answers(schema.WebhookView, "The webhook, without its secret"),
    refuses=(404,),
)
def get_webhook(webhook: Name) -> Response[str]:
    """One webhook, without its secret."""
    return json_response(schema.webhook_view(webhooks.webhook(catalog, webhook)))


@app.endpoint(
    "DELETE",
    "/v1/webhooks/<webhook>",
    scope="admin",
    summary="Remove a webhook",
    responses=answers(None, "Removed; what could not be delivered to it yet is dropped", 204),
    refuses=(404, 409),
)
def delete_webhook(webhook: Name) -> Response[str]:
    """Its secret is forgotten; put again, it has another."""
    webhooks.remove_webhook(catalog, webhook)
    return Response(204, body="")


@app.endpoint(
    "GET", "/v1/openapi.json", scope=None, summary="This document", responses=answers({"type": "object"}, "OpenAPI 3.1")
)
def get_openapi() -> Response[str]:
    """The OpenAPI document of all routes."""
    return Response(200, "application/json", OPENAPI.read_text())


@app.endpoint(
    "GET",
    "/docs",
    scope=None,
    summary="The reference page of this document",
    responses=answers({"type": "string"}, "A page", media_type="text/html"),
)
def get_docs() -> Response[str]:
    """The reference page; its link to the document is `?format=json`."""
    if app.current_event.query_string_parameters.get("format") == "json":
        return get_openapi()
    return Response(200, "text/html; charset=utf-8", docs_page(OPENAPI))


@app.endpoint(
    "GET",
    "/healthz",
    scope=None,
    summary="Is the API up?",
    responses=answers({"type": "object", "properties": {"status": {"const": "ok"}}}, "Up"),
)
def get_health() -> Response[str]:
    """Answers with no data touched."""
    return json_response({"status": "ok"})


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Entry point of the Lambda function."""
    return app.handle(event, context)

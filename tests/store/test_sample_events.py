"""events/: one sample per trigger, each handled by its function, on moto, with the permissions of its role."""

import fnmatch
import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.client import BaseClient

from tests.conftest import ROOT, TABLES, template
from tests.samples import SAMPLES, body, folder, sample, seed, used
from tollgate.billing.invoice_store import DynamoInvoices
from tollgate.catalog.deliveries import EventBus
from tollgate.recovery.model import Status
from tollgate.recovery.store import DynamoRecovery

KINDS = {"DynamoDB": "dynamodb", "HttpApi": "api", "SQS": "sqs", "SNS": "sns", "ScheduleV2": "schedule"}
CONTEXT = SimpleNamespace(
    function_name="sample",
    memory_limit_in_mb=512,
    invoked_function_arn="arn:aws:lambda:eu-central-1:123456789012:function:sample",
    aws_request_id="request-1",
    get_remaining_time_in_millis=lambda: 240_000,
)
Invoke = Callable[[str], dict[str, Any]]


@pytest.fixture
def seeded(tables: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001 - the tables are there
    """What the samples speak of, and where functions send things."""
    seed()
    boto3.client("sqs").create_queue(QueueName="billing")
    boto3.client("events").create_event_bus(Name=os.environ["EVENTS_BUS_NAME"])
    monkeypatch.setenv("OPERATIONS_TOPIC_ARN", boto3.client("sns").create_topic(Name="operations")["TopicArn"])


QUOTA = {"quota": {"limit": "9", "overage": "block"}}
RESERVE = {"customer": "acme", "feature": "requests", "quantity": "1", "expires_in_seconds": 60}
WRITES: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "entitlements-api": [
        ("POST", "/v1/customers/acme/entitlements/requests/consume", {"id": "c-1"}),
        ("POST", "/v1/customers/acme/entitlements/requests/consume", {"id": "c-1"}),
        (
            "POST",
            "/v1/customers/acme/entitlements/consume",
            {"id": "c-2", "items": [{"feature": "requests"}, {"feature": "export"}]},
        ),
        ("POST", "/v1/reservations", {"id": "r-1", **RESERVE}),
        ("POST", "/v1/reservations/r-1/commit", {"quantity": "1"}),
        ("POST", "/v1/reservations", {"id": "r-2", **RESERVE}),
        ("POST", "/v1/reservations/r-2/release", {}),
        ("GET", "/v1/customers/acme/entitlements", {}),
    ],
    "recovery-api": [
        ("GET", "/v1/errors/err_1", {}),
        ("GET", "/v1/errors/report", {}),
        ("POST", "/v1/errors/err_1/escalate", {"note": "mine"}),
        ("POST", "/v1/errors/err_1/retry", {}),
        ("POST", "/v1/errors/retry", {"filter": {"type": "state_transition_error"}, "note": "again"}),
        ("POST", "/v1/errors/discard", {"filter": {"customer": "acme"}, "note": "of no use"}),
    ],
    "billing-api": [
        ("POST", "/v1/billing/run", {}),
        ("GET", "/v1/invoices", {}),
        ("GET", "/v1/subscriptions/sub-acme/invoices/upcoming", {}),
    ],
    "catalog-api": [
        ("POST", "/v1/subscriptions", {"id": "sub-2", "customer": "acme", "plan": "web"}),
        ("PUT", "/v1/customers/acme/overrides/requests", QUOTA),
        ("PUT", "/v1/customers/acme/alerts/requests", {"thresholds": [{"percent": "80"}]}),
        ("POST", "/v1/subscriptions/sub-2/change", {"plan": "web", "when": "now"}),
        ("POST", "/v1/subscriptions/sub-2/pause", {}),
        ("POST", "/v1/subscriptions/sub-2/resume", {"reason": "they came back"}),
        ("GET", "/v1/subscriptions/sub-2/history", {}),
        ("POST", "/v1/subscriptions/sub-2/cancel", {"when": "now"}),
        (
            "POST",
            "/v1/api-keys",
            {"name": "new", "scopes": ["admin"], "rate_limit": {"limit": 9, "window_seconds": 60}},
        ),
        ("POST", "/v1/api-keys/0123456789abcdef/rotate", {"overlap_seconds": 60}),
        ("GET", "/v1/api-keys", {}),
        ("DELETE", "/v1/api-keys/0123456789abcdef", {}),
    ],
}
"""Requests of the API, by the sample whose envelope they come in."""


@pytest.fixture
def invoke(seeded: None) -> Invoke:  # noqa: ARG001 - there is something to work on
    """Gives a sample to its function, newly loaded as Lambda loads it."""

    def call(name: str) -> dict[str, Any]:
        answer: dict[str, Any] = load(name.partition("-")[0]).handler(sample(name), CONTEXT)
        return answer

    return call


def load(function: str) -> ModuleType:
    """A function's module."""
    spec = importlib.util.spec_from_file_location(function, ROOT / "functions" / function / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def triggers() -> Iterator[str]:
    """Each function of the template with each kind of event that it is called with."""
    for name, resource in template()["Resources"].items():
        if resource["Type"] == "AWS::Serverless::Function":
            for event in resource["Properties"].get("Events", {}).values():
                yield f"{folder(name)}-{KINDS[event['Type']]}"
        if resource["Type"] == "AWS::ApiGatewayV2::Integration":
            yield f"{folder(resource['Properties']['IntegrationUri']['Fn::GetAtt'][0])}-iam"
        for authorizer in resource.get("Properties", {}).get("Auth", {}).get("Authorizers", {}).values():
            yield f"{folder(authorizer['FunctionArn']['Fn::GetAtt'][0])}-api"


def test_each_trigger_of_the_template_has_a_sample_and_no_sample_is_without_a_trigger() -> None:
    """So each function has at least one."""
    assert set(SAMPLES) == set(triggers())
    functions = {path.parent.name for path in ROOT.glob("functions/*/app.py")}
    assert {name.partition("-")[0] for name in SAMPLES} == functions


def test_the_authorizer_names_the_key_and_its_scopes(invoke: Invoke) -> None:
    """A simple response of payload format 2.0."""
    expected = {"key_id": "0123456789abcdef", "scopes": "usage:read entitlements:read"}
    assert invoke("authorizer-api") == {"isAuthorized": True, "context": expected}


def test_catalog_puts_the_feature(invoke: Invoke) -> None:
    """The answer is the feature as it is now."""
    answer = body(invoke("catalog-api"))
    assert (answer["code"], answer["type"], answer["aggregation"]) == ("requests", "quota", "sum")


def test_usage_counts_a_batch_of_cloud_events(invoke: Invoke) -> None:
    """API Gateway hands their media type over in base64; sent again, they are duplicates."""
    assert body(invoke("usage-api"))["accepted"] == 2
    assert body(invoke("usage-api"))["duplicate"] == 2
    assert used() == 3


def test_who_iam_vouches_for_is_served_like_a_key(invoke: Invoke) -> None:
    """By the same functions, with the same answers."""
    assert body(invoke("usage-iam"))["accepted"] == 2
    assert body(invoke("usage-api"))["duplicate"] == 2
    assert body(invoke("entitlements-iam")) == body(invoke("entitlements-api"))


def test_usage_counts_the_events_of_queue_messages(invoke: Invoke) -> None:
    """Sent to wait, sent by a producer, and come over the bus (5, 7 + 1 and 11); however often they come."""
    assert invoke("usage-sqs") == invoke("usage-sqs") == {"batchItemFailures": []}
    assert used() == 24


def test_alerts_tells_of_a_threshold_once(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the bus, where no webhook wants it; the message may come twice."""
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(EventBus, "put", lambda _bus, _id, event: told.append(event))
    assert invoke("alerts-sqs") == invoke("alerts-sqs") == {"batchItemFailures": []}
    assert told == [json.loads(sample("alerts-sqs")["Records"][0]["body"])]


def test_the_outbox_tells_of_what_was_written(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """A payment that succeeded, and a subscription that was made; a count is no news."""
    told: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(EventBus, "put", lambda _bus, name, event: told.append((name, event)))
    assert invoke("outbox-dynamodb") == {"batchItemFailures": []}
    once = list(told)
    assert [event["type"] for _, event in once] == ["payment.succeeded", "subscription.created"]
    assert once[0][1]["data"]["amount"] == "20.00"
    invoke("outbox-dynamodb")
    assert told == once * 2, "the same again has the same ids"


def test_billing_closes_the_periods_that_have_ended(invoke: Invoke) -> None:
    """January to October, each once, whatever bills: a request or a message."""
    answer = body(invoke("billing-api"))
    assert (answer["status"], answer["subscriptions"], answer["invoices"]) == ("done", 1, 10)
    assert invoke("billing-sqs") == {"batchItemFailures": []}
    invoices, _ = DynamoInvoices().list(subscription="sub-acme")
    assert len(invoices) == 10


def test_the_schedule_sends_a_message_for_each_subscription_that_is_due(invoke: Invoke) -> None:
    """Which bills it."""
    assert invoke("billing-schedule")["subscriptions"] == 1
    sqs = boto3.client("sqs")
    [message] = sqs.receive_message(QueueUrl=os.environ["BILLING_QUEUE_URL"])["Messages"]
    assert json.loads(message["Body"])["subscription"] == "sub-acme"


def test_pricing_quotes_tier_by_tier(invoke: Invoke) -> None:
    """The first 100 at 10, the other 150 at 8."""
    answer = body(invoke("pricing-api"))
    assert (answer["amount"], [line["amount"] for line in answer["lines"]]) == ("2200.00", ["1000", "1200"])


def test_entitlements_allow_what_the_quota_holds(invoke: Invoke) -> None:
    """What the sample before counted is used."""
    invoke("usage-api")
    answer = body(invoke("entitlements-api"))
    assert (answer["allowed"], answer["reason"]) == (True, "allowed")
    assert (answer["limit"], answer["used"], answer["remaining"]) == ("500", "3", "497")


def test_the_retry_processor_deals_with_what_is_due(invoke: Invoke) -> None:
    """No operation is registered under that name, so a person has to look."""
    assert invoke("retry_processor-schedule")["escalated"] == 1
    record = DynamoRecovery().get("err_1")
    assert record is not None
    assert record.status is Status.MANUAL


def test_the_retry_processor_tries_what_a_message_names(invoke: Invoke) -> None:
    """At once."""
    assert invoke("retry_processor-sqs") == {"batchItemFailures": []}
    record = DynamoRecovery().get("err_1")
    assert record is not None
    assert record.status is Status.MANUAL


def test_recovery_lists_what_is_pending_of_a_customer(invoke: Invoke) -> None:
    """With all that is known of it."""
    [item] = body(invoke("recovery-api"))["items"]
    assert (item["id"], item["operation"], item["history"][0]["to"]) == ("err_1", "collect", "pending")


@pytest.mark.parametrize(("name", "why"), [("error_report-sns", "ALARM"), ("error_report-schedule", "schedule")])
def test_the_report_goes_out_on_the_alarm_and_every_day(invoke: Invoke, name: str, why: str) -> None:
    """It knows why it is sent."""
    assert invoke(name) == {"reason": why, "total": 1}


# What IAM would say: neither moto nor MiniStack asks it.


@pytest.mark.parametrize("name", SAMPLES)
def test_each_sample_is_handled_with_the_permissions_of_the_functions_role(
    invoke: Invoke, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call to AWS is an action of the role's on that very resource, under its conditions."""
    calls = recorded(monkeypatch)
    invoke(name)
    assert not refused(calls, name)
    assert calls or name == "pricing-api"


@pytest.mark.parametrize("name", list(WRITES))
def test_each_kind_of_write_is_made_with_the_permissions_of_the_functions_role(
    seeded: None, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that the samples do not make."""
    assert seeded is None
    function, calls = load(name.partition("-")[0]), recorded(monkeypatch)
    for method, path, content in WRITES[name]:
        request = sample(name)
        request["requestContext"]["http"] |= {"method": method, "path": path}
        request |= {"rawPath": path, "isBase64Encoded": False, "body": json.dumps(content)}
        answer = function.handler(request, CONTEXT)
        assert answer["statusCode"] < 300, answer
    assert {action for action, _, _ in calls} > {"dynamodb:UpdateItem", "dynamodb:PutItem"}
    assert not refused(calls, name)


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str | None]]:
    """All actions from now on."""
    calls: list[tuple[str, str, str | None]] = []
    original = BaseClient._make_api_call  # type: ignore[attr-defined]  # noqa: SLF001 - all calls pass here

    def record(client: Any, operation: str, request: dict[str, Any]) -> Any:
        calls.extend(actions(client.meta.service_model.service_name, operation, request))
        return original(client, operation, request)

    monkeypatch.setattr(BaseClient, "_make_api_call", record)
    return calls


def refused(calls: list[tuple[str, str, str | None]], name: str) -> list[tuple[str, str, str | None]]:
    """The actions that the role of a sample's function does not allow."""
    return [call for call in calls if not any(allows(statement, *call) for statement in statements(name))]


def actions(api: str, operation: str, request: dict[str, Any]) -> Iterator[tuple[str, str, str | None]]:
    """The actions of a call to AWS: the action, its resource, and the partition key where it has one."""
    if operation == "TransactWriteItems":
        for item in request["TransactItems"]:
            for kind, write in item.items():
                yield f"dynamodb:{kind}Item", table(write), partition_key(write)
    elif operation == "BatchGetItem":
        for name, wanted in request["RequestItems"].items():
            for key in wanted["Keys"]:
                yield "dynamodb:BatchGetItem", table({"TableName": name}), key["pk"]["S"]
    elif api == "dynamodb":
        yield f"dynamodb:{operation}", table(request), partition_key(request)
    else:
        resources = {"PutMetricData": "*", "Publish": "OperationsTopic", "PutEvents": "EventsBus"}
        queue = request.get("QueueUrl", "").rpartition("/")[2]
        yield (
            f"{api}:{operation.removesuffix('Batch')}",
            f"{queue.capitalize()}Queue" if queue else resources[operation],
            None,
        )


def table(request: dict[str, Any]) -> str:
    """The logical id of the table, or its index, that a request names."""
    tables = {os.environ[f"{one.upper()}_TABLE"]: f"{one.capitalize()}Table" for one in TABLES}
    index = request.get("IndexName")
    return tables[request["TableName"]] + (f"/index/{index}" if index else "")


def partition_key(request: dict[str, Any]) -> str | None:
    """The partition key of the item that a request names."""
    values = request.get("ExpressionAttributeValues", {})
    named = request.get("Key") or request.get("Item") or {"pk": values.get(":pk") or values.get(":0")}
    return (named["pk"] or {}).get("S")


def statements(name: str) -> list[dict[str, Any]]:
    """What the role of a sample's function allows."""
    resources = template()["Resources"]
    function = next(one for one in resources if resources[one]["Type"].endswith("Function") and is_of(one, name))
    role = resources[function]["Properties"]["Role"]["Fn::GetAtt"][0]
    policies = resources[role]["Properties"]["Policies"]
    every = [statement for policy in policies for statement in policy["PolicyDocument"]["Statement"]]
    return [statement for statement in every if "Fn::If" not in statement]  # those are about a key, which no call names


def is_of(function: str, name: str) -> bool:
    """Whether a sample is of a function of the template."""
    return folder(function) == name.partition("-")[0]


def allows(statement: dict[str, Any], action: str, resource: str, key: str | None) -> bool:
    """Whether a statement of a role allows an action."""
    named = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
    leading = statement.get("Condition", {}).get("ForAllValues:StringLike", {}).get("dynamodb:LeadingKeys")
    return (
        action in statement["Action"]
        and resource in [logical(one) for one in named]
        and (leading is None or any(fnmatch.fnmatchcase(key or "", pattern) for pattern in leading))
    )


def logical(resource: Any) -> str:
    """A role's resource by its logical id: "X" of `!GetAtt X.Arn`, `!Ref X` and `!Sub "${X.Arn}/index/i"`."""
    match resource:
        case {"Fn::GetAtt": [str(name), "Arn"]} | {"Ref": str(name)} | str(name):
            return name
        case {"Fn::Sub": str(text)}:
            return text.replace("${", "").replace(".Arn}", "")
    raise AssertionError(f"{resource} is named in a way this test does not know")

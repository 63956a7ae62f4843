"""The local stack holds functions to their roles, as AWS does: all tests of this folder show that these suffice."""

import io
import json
import zipfile
from collections.abc import Callable

import boto3
import pytest

from tests.template.test_security import promised
from tools import LOCAL
from tools.local import Stack
from tools.ministack import USED

CODE = """
import botocore.session

def handler(event, context):
    client = botocore.session.get_session().create_client("dynamodb")
    try:
        client.get_item(TableName=event["table"], Key={"pk": {"S": event["pk"]}, "sk": {"S": "any"}})
    except client.exceptions.ClientError as error:
        return error.response["Error"]["Code"]
    return "allowed"
"""
Read = Callable[[str, str, str], str]


@pytest.fixture(scope="module")
def read(stack: Stack) -> Read:
    """Reads an item of a partition of a table with the role of a function: "allowed", or the error."""
    client = boto3.client("lambda", **stack.aws)
    like = client.get_function_configuration(FunctionName=stack.resources["PricingFunction"])
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("app.py", CODE)

    def call(function: str, table: str, pk: str) -> str:
        arn = client.get_function_configuration(FunctionName=stack.resources[function])["Role"]
        name = f"intruder-{function}-{table}-{pk}"
        client.create_function(
            FunctionName=name,
            Runtime=like["Runtime"],
            Role=arn,
            Handler="app.handler",
            Code={"ZipFile": archive.getvalue()},
            Layers=[layer["Arn"] for layer in like["Layers"]],
        )
        asked = json.dumps({"table": stack.resources[table], "pk": pk})
        answer = client.invoke(FunctionName=name, Payload=asked)["Payload"].read()
        client.delete_function(FunctionName=name)
        told: str = json.loads(answer)
        return told

    return call


@pytest.mark.parametrize(
    ("function", "table", "pk", "outcome"),
    [
        ("AuthorizerFunction", "CatalogTable", "KEY", "allowed"),
        ("AuthorizerFunction", "CatalogTable", "CUSTOMER", "AccessDeniedException"),
        ("AuthorizerFunction", "BillingTable", "KEY", "AccessDeniedException"),
        ("PricingFunction", "CatalogTable", "KEY", "AccessDeniedException"),
    ],
)
def test_code_that_runs_in_a_function_reaches_what_its_role_names(
    read: Read, function: str, table: str, pk: str, outcome: str
) -> None:
    """Down to the partition."""
    assert read(function, table, pk) == outcome


BY_LAMBDA = {
    *("logs:CreateLogStream", "logs:PutLogEvents", "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"),
    *("dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator", "dynamodb:ListStreams"),
}
"""What Lambda does with a role before and after the function runs; the local stack does it with none."""

RARE: dict[str, set[tuple[str, str, str]]] = {
    "a webhook that answers 410 is switched off": {
        ("OutboxRole", "dynamodb:PutItem", "CatalogTable"),
        ("RetryProcessorRole", "dynamodb:PutItem", "CatalogTable"),
    },
    "what could not be told becomes an error record, once, and is tried at once": {
        ("AlertsRole", "dynamodb:Query", "RecoveryTable"),
        ("OutboxRole", "dynamodb:PutItem", "RecoveryTable"),
        ("OutboxRole", "dynamodb:Query", "RecoveryTable"),
        ("OutboxRole", "sqs:SendMessage", "RetriesQueue"),
    },
    "the event bus may have refused an event": {("RetryProcessorRole", "events:PutEvents", "EventsBus")},
    "whichever function signs the first cursor makes the secret for it": {
        ("BillingRole", "dynamodb:PutItem", "CatalogTable"),
        ("RecoveryRole", "dynamodb:PutItem", "CatalogTable"),
        ("UsageRole", "dynamodb:PutItem", "CatalogTable"),
    },
    "errors and invoices are listed by these indexes": {
        ("BillingRole", "dynamodb:Query", "BillingTable/index/invoice_status"),
        ("RecoveryRole", "dynamodb:Query", "RecoveryTable/index/type"),
    },
    "a change of plan keeps what was used before it": {("CatalogRole", "dynamodb:BatchGetItem", "UsageTable")},
    "what is consumed may reach a threshold": {("EntitlementsRole", "sqs:SendMessage", "AlertsQueue")},
    "late events are gone when they are invoiced": {("BillingRole", "dynamodb:DeleteItem", "UsageTable")},
    "a subscription that ends or comes back with a payment changes what its customer may": {
        ("BillingRole", "dynamodb:UpdateItem", "UsageTable"),
        ("RetryProcessorRole", "dynamodb:Query", "BillingTable/index/invoice_subscription"),
        ("RetryProcessorRole", "dynamodb:BatchGetItem", "BillingTable"),
        ("RetryProcessorRole", "dynamodb:GetItem", "UsageTable"),
        ("RetryProcessorRole", "dynamodb:Query", "UsageTable"),
        ("RetryProcessorRole", "dynamodb:PutItem", "UsageTable"),
        ("RetryProcessorRole", "dynamodb:UpdateItem", "UsageTable"),
    },
    "a top-up that follows a payment may succeed at once": {
        ("RetryProcessorRole", "dynamodb:DeleteItem", "RecoveryTable")
    },
    "a bill that failed is sent again": {("RetryProcessorRole", "sqs:SendMessage", "BillingQueue")},
    "a sweep with no time left hands on": {("RetryProcessorRole", "sqs:SendMessage", "RetriesQueue")},
}
"""What is used where a stack with nothing broken does not get: why it is allowed all the same."""


def test_no_role_may_do_what_nobody_does(stack: Stack) -> None:
    """Seen over all tests of this folder, after which this one runs; what is seldom used has its reason above."""
    names = {physical.rpartition("/")[2].rpartition(":")[2]: name for name, physical in stack.resources.items()}

    def logical(arn: str) -> str:
        name, *inside = arn.rpartition(":")[2].removeprefix("table/").removeprefix("event-bus/").split("/")
        return "/".join([names.get(name, name), *inside])

    lines = (LOCAL / "build" / "test" / USED).read_text().splitlines()
    used = {(names[role.split("/")[1]], action, logical(resource)) for role, action, resource in map(json.loads, lines)}
    may = {(one.role, one.action, one.resource) for one in promised()}
    own = {one for one in may if one[1] not in BY_LAMBDA and one[2] != "InvocationsDeadLetterQueue"}
    unused = {one for one in own if one[0] != "SchedulerRole"} - used
    rare = {one for together in RARE.values() for one in together}
    assert sorted(unused - rare) == []
    assert sorted(rare - own) == [], "a reason for what is not allowed"

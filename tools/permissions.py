"""Holds the functions of the local stack to their roles, and keeps what each role has used.

With AUTH=true MiniStack runs a function with credentials of its role, and asks that role's policies about each call.
What it does not tell them is completed here: a batch of messages is sent under sqs:SendMessage, metrics have a
namespace, and an item has a partition key. This runs in MiniStack's own process, on its private parts: its version
is pinned.
"""

import importlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["complete", "partitions"]

SAME = {"sqs:SendMessageBatch": "sqs:SendMessage", "sqs:DeleteMessageBatch": "sqs:DeleteMessage"}
"""Batches, which are no actions of their own."""
NAMESPACE = "Tollgate"
"""Of all metrics: the tests of the template look whether it is."""
_EQUALS = re.compile(r"([#\w]+)\s*=\s*(:\w+)")
_REACHED = "tollgate:reached"


def complete(used: Path) -> None:
    """From now on tell IAM all of a call; each role, action and resource that was allowed is a line of `used`."""
    evaluator: Any = importlib.import_module("ministack.core.iam_evaluator")
    naming: Any = importlib.import_module("ministack.core.iam_actions")
    account_id: Any = importlib.import_module("ministack.core.responses").get_account_id
    enforce, context = evaluator.enforce, naming.dynamodb_service_context
    lines = used.open("w", encoding="utf-8", buffering=1)
    written: set[tuple[str, ...]] = set()

    def of_request(body: bytes) -> dict[str, Any]:
        return {**context(body), _REACHED: list(partitions(json.loads(body or b"{}")))}

    def completed(
        access_key_id: str, iam_action: str, service: str, region: str, resource_arn: str = "*",
        service_context: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        known = dict(service_context or {})
        action = SAME.get(iam_action, iam_action)
        table = resource_arn.rpartition(":table/")[2]
        if keys := [key for kind, name, key in known.pop(_REACHED, ()) if name == table and kind in {"", action}]:
            known["dynamodb:LeadingKeys"] = keys
        if action == "cloudwatch:PutMetricData":
            known["cloudwatch:namespace"] = NAMESPACE
        denied = enforce(access_key_id, action, service, region, resource_arn, known)
        use = (access_key_id, action, resource_arn)
        if not denied and use not in written and access_key_id.startswith("ASIA"):
            written.add(use)
            role = evaluator.resolve_principal(access_key_id, account_id()).arn
            lines.write(json.dumps([role, action, resource_arn]) + "\n")
        return denied

    naming.dynamodb_service_context = of_request
    evaluator.enforce = completed


def partitions(request: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What a request of DynamoDB reaches: the action where it is of a transaction, the table, the partition key."""
    if "TransactItems" in request:
        for item in request["TransactItems"]:
            for kind, one in item.items():
                action = f"dynamodb:{kind.removesuffix('Check')}{'CheckItem' if kind.endswith('Check') else 'Item'}"
                yield from ((action, one["TableName"], key) for key in _keys(one))
    elif "RequestItems" in request:
        for table, wanted in request["RequestItems"].items():
            reads = [{"Key": key} for key in wanted["Keys"]] if "Keys" in wanted else []
            writes = [one for each in wanted for one in each.values()] if not reads else []
            yield from (("", table, key) for one in (*reads, *writes) for key in _keys(one))
    else:
        yield from (("", request.get("TableName", ""), key) for key in _keys(request))


def _keys(request: Mapping[str, Any]) -> Iterator[str]:
    """The partition key of an item, or that of a query."""
    named = request.get("Key") or request.get("Item")
    if named:
        yield named["pk"]["S"]
    names, values = request.get("ExpressionAttributeNames", {}), request.get("ExpressionAttributeValues", {})
    for name, value in _EQUALS.findall(request.get("KeyConditionExpression", "")):
        if names.get(name, name) == "pk":
            yield values[value]["S"]

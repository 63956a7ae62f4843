"""Every 5 minutes: tries again the failed operations that are due, and publishes how much is unresolved."""

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import boto3
from aws_lambda_powertools.logging import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.config import Config

from tollgate.catalog.deliveries import DELIVER, PUBLISH, Deliveries, EventBus
from tollgate.catalog.store import DynamoCatalog
from tollgate.kernel.settings import required
from tollgate.kernel.time import system_clock
from tollgate.recovery.model import ErrorType
from tollgate.recovery.service import Operation, Report, report, sweep
from tollgate.recovery.store import DynamoRecovery

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch.literals import StandardUnitType

NAMESPACE: Final = required("METRICS_NAMESPACE")
STAGE: Final = required("STAGE")

logger = Logger()
store = DynamoRecovery()
cloudwatch = boto3.client(
    "cloudwatch",
    config=Config(connect_timeout=1, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 3}),
)
bus = EventBus(
    boto3.client("events", config=Config(connect_timeout=1, read_timeout=3, retries={"total_max_attempts": 2})),
    required("EVENTS_BUS_NAME"),
)
deliveries = Deliveries(
    DynamoCatalog(), bus, system_clock, allow_private=os.environ.get("ALLOW_PRIVATE_WEBHOOKS") == "true"
)


def event_id(arguments: Mapping[str, Any]) -> str:
    """What a receiver knows an event by: it may be sent again."""
    return str(arguments["id"])


OPERATIONS: Final[dict[str, Operation]] = {  # contexts register theirs here
    operation.name: operation
    for operation in (
        Operation(PUBLISH, deliveries.publish, event_id),
        Operation(DELIVER, deliveries.deliver, event_id),
    )
}


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, int]:  # noqa: ARG001 - a schedule's
    """Sweep, publish, and say in short what was done."""
    left = context.get_remaining_time_in_millis
    swept = sweep(store, OPERATIONS, system_clock, lambda: timedelta(milliseconds=left()))
    unresolved = report(store, system_clock)
    publish(unresolved)
    for fault in swept.faults:
        logger.error("a record could not be dealt with", extra={"fault": fault})
    summary = swept.counts() | {"unresolved": unresolved.total}
    logger.info("swept", extra=summary)
    return summary


def publish(unresolved: Report) -> None:
    """Put the metrics; zeros too, for an alarm clears only on a value."""
    counts = {group.type: group.count for group in unresolved.groups}
    ages = [(unresolved.generated_at - group.oldest).total_seconds() for group in unresolved.groups]
    values: list[tuple[str, StandardUnitType, int, dict[str, str]]]
    values = [("UnresolvedErrors", "Count", unresolved.total, {})]
    values += [("UnresolvedErrors", "Count", counts.get(each, 0), {"Type": each.value}) for each in ErrorType]
    values += [("OldestUnresolvedErrorAge", "Seconds", int(max(ages, default=0)), {})]
    cloudwatch.put_metric_data(
        Namespace=NAMESPACE,
        MetricData=[
            {
                "MetricName": name,
                "Unit": unit,
                "Value": value,
                "Timestamp": unresolved.generated_at,
                "Dimensions": [{"Name": key, "Value": text} for key, text in ({"Stage": STAGE} | more).items()],
            }
            for name, unit, value, more in values
        ],
    )

"""Every 5 minutes: tries again the failed operations that are due, and publishes how much is unresolved."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import boto3
from aws_lambda_powertools.logging import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.config import Config

from tollgate.kernel.settings import required
from tollgate.kernel.time import system_clock
from tollgate.recovery.model import ErrorType
from tollgate.recovery.service import Operation, Report, report, sweep
from tollgate.recovery.store import DynamoRecovery

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch.literals import StandardUnitType

OPERATIONS: Final[dict[str, Operation]] = {}  # contexts register theirs here
NAMESPACE: Final = required("METRICS_NAMESPACE")
STAGE: Final = required("STAGE")

logger = Logger()
store = DynamoRecovery()
cloudwatch = boto3.client(
    "cloudwatch",
    config=Config(connect_timeout=1, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 3}),
)


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

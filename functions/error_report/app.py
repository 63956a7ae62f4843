"""On the alarm (rising and clearing) and once a day: sends the report of unresolved errors to operations."""

import json
from typing import Any, Final

import boto3
from aws_lambda_powertools.logging import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.config import Config

from tollgate.kernel.settings import required
from tollgate.kernel.time import system_clock
from tollgate.recovery.report import report, report_text, report_to_dict
from tollgate.recovery.store import DynamoRecovery

TOPIC: Final = required("OPERATIONS_TOPIC_ARN")
STAGE: Final = required("STAGE")
REASONS: Final = {
    "schedule": "The daily report.",
    "ALARM": "The alarm has risen.",
    "OK": "The alarm has cleared.",
    "unreadable": "An alarm message came that could not be read; the report below is right all the same.",
}

logger = Logger()
store = DynamoRecovery()
sns = boto3.client(
    "sns",
    config=Config(connect_timeout=1, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 3}),
)


@logger.inject_lambda_context(clear_state=True)
def handler(event: Any, context: LambdaContext) -> dict[str, Any]:  # noqa: ARG001 - Lambda passes it
    """Build the report and publish it."""
    why = reason(event)
    unresolved = report(store, system_clock)
    found = f"{unresolved.total} unresolved" if unresolved.total else "all errors are resolved"
    opening = REASONS[why] + (" All is resolved." if why == "OK" and not unresolved.total else "")
    document = json.dumps(report_to_dict(unresolved), indent=2)
    sns.publish(
        TopicArn=TOPIC,
        Subject=f"Tollgate {STAGE}: {found}"[:100],
        Message=f"Tollgate {STAGE}. {opening}\n\n{report_text(unresolved)}\n\n{document}\n",
        MessageAttributes={"total": {"DataType": "Number", "StringValue": str(unresolved.total)}},
    )
    summary = {"reason": why, "total": unresolved.total}
    logger.info("reported", extra=summary)
    return summary


def reason(event: Any) -> str:
    """Why the report is sent: "schedule", the alarm's new state, or "unreadable"; never an error."""
    if not isinstance(event, dict) or "Records" not in event:
        return "schedule"
    try:
        state = json.loads(event["Records"][0]["Sns"]["Message"])["NewStateValue"]
    except (ValueError, LookupError, TypeError):
        return "unreadable"
    return state if state in ("ALARM", "OK") else "unreadable"

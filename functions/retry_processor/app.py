"""Tries again what is due: all of it every 5 minutes, and what cannot wait through the retries queue.

The schedule's run also publishes how much is unresolved.
"""

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import boto3
from aws_lambda_powertools.logging import Logger
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.config import Config

from tollgate.billing.assembly import assemble, deployed_overdraft, deployed_providers
from tollgate.billing.runs import BILL_SUBSCRIPTION
from tollgate.billing.runs import requeue as bill_by_message
from tollgate.catalog.deliveries import DELIVER, PUBLISH, Deliveries, EventBus
from tollgate.catalog.store import DynamoCatalog
from tollgate.kernel.errors import Unavailable
from tollgate.kernel.metrics import count
from tollgate.kernel.settings import required
from tollgate.kernel.time import system_clock
from tollgate.kernel.webhooks import DeliveryFailed
from tollgate.metering.requeue import COUNT_EVENTS, requeue
from tollgate.metering.store import DynamoCounters
from tollgate.recovery.model import ErrorType
from tollgate.recovery.operations import Operation
from tollgate.recovery.policies import deployed
from tollgate.recovery.processor import Processor, Run
from tollgate.recovery.queue import RetriesQueue, record_of
from tollgate.recovery.report import Report, report
from tollgate.recovery.store import DynamoRecovery

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch.literals import StandardUnitType

NAMESPACE: Final = required("METRICS_NAMESPACE")
STAGE: Final = required("STAGE")
SWIFT: Final = Config(connect_timeout=1, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 3})

deployed()  # refuses to start with policies that nobody can have meant: records wait, and an alarm tells

logger = Logger()
messages = BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)
store = DynamoRecovery()
cloudwatch = boto3.client("cloudwatch", config=SWIFT)
sqs = boto3.client("sqs", config=SWIFT)
retries = RetriesQueue(lambda: sqs, required("RETRIES_QUEUE_URL"))
bus = EventBus(boto3.client("events", config=SWIFT), required("EVENTS_BUS_NAME"))
catalog = DynamoCatalog()
counters = DynamoCounters()
deliveries = Deliveries(catalog, bus, system_clock, allow_private=os.environ.get("ALLOW_PRIVATE_WEBHOOKS") == "true")


def event_id(arguments: Mapping[str, Any]) -> str:
    """What a receiver knows an event by: it may be sent again."""
    return str(arguments["id"])


def count_again(arguments: Mapping[str, Any], _key: str) -> None:
    """The operation count_events."""
    requeue(arguments, lambda body: sqs.send_message(QueueUrl=required("EVENTS_QUEUE_URL"), MessageBody=body))


def bill_again(arguments: Mapping[str, Any], _key: str) -> None:
    """The operation bill_subscription."""
    bill_by_message(arguments, lambda body: sqs.send_message(QueueUrl=required("BILLING_QUEUE_URL"), MessageBody=body))


PROVIDERS: Final = deployed_providers()
OVERDRAFT: Final = deployed_overdraft()

OPERATIONS: Final[dict[str, Operation]] = {  # contexts register theirs here
    operation.name: operation
    for operation in (
        Operation(
            PUBLISH,
            deliveries.publish,
            event_id,
            repeatable=True,
            provider=lambda _: "event bus",
            outages=(DeliveryFailed,),
        ),
        Operation(
            DELIVER,
            deliveries.deliver,
            event_id,
            repeatable=True,
            provider=lambda arguments: f"webhook {arguments['webhook']}",
            outages=(DeliveryFailed,),
        ),
        Operation(COUNT_EVENTS, count_again, repeatable=True),
        Operation(BILL_SUBSCRIPTION, bill_again, repeatable=True),
    )
}


def processor(context: LambdaContext) -> Processor:
    """What tries records as long as the invocation has time."""
    left = context.get_remaining_time_in_millis

    def time_left() -> timedelta:
        return timedelta(milliseconds=left())

    cashier = assemble(
        catalog=catalog,
        counters=counters,
        errors=store,
        time_left=time_left,
        retries=retries,
        providers=PROVIDERS,
        overdraft=OVERDRAFT,
    ).cashier
    operations = OPERATIONS | {operation.name: operation for operation in cashier.operations()}
    return Processor(store, operations, system_clock, time_left, retries)


def try_at_once(record: SQSRecord, lambda_context: LambdaContext) -> None:
    """Try what a message of the retries queue names.

    Raises:
        BadRequest: it is no such message; it ends in the dead-letter queue.
        Unavailable: it could not be dealt with now; it comes again.
    """
    named, worker = record_of(record.body), processor(lambda_context)
    run = worker.sweep() if named is None else worker.take([named])
    tell(run)
    if run.faults or (named and run.stopped_early):
        raise Unavailable("The record could not be dealt with now.")


def tell(run: Run) -> None:
    """Log and count what a run did."""
    for fault in run.faults:
        logger.error("a record could not be dealt with", extra={"fault": fault})
    logger.info("swept", extra=run.counts())
    count(
        RetriesResolved=run.resolved,
        RetriesRescheduled=run.rescheduled,
        RetriesEscalated=run.escalated,
        RetriesPostponed=run.postponed,
        RetryFaults=len(run.faults),
    )


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Entry point of the Lambda function: the schedule, or messages of the retries queue."""
    if "Records" in event:
        return dict(process_partial_response(event, try_at_once, messages, context))
    run = processor(context).sweep()
    tell(run)
    unresolved = report(store, system_clock)
    publish(unresolved)
    return run.counts() | {"unresolved": unresolved.total}


def publish(unresolved: Report) -> None:
    """Put the metrics; zeros too, for an alarm clears only on a value."""
    counts = {group.type: group.count for group in unresolved.groups}
    ages = {group.type: int((unresolved.generated_at - group.oldest).total_seconds()) for group in unresolved.groups}
    values: list[tuple[str, StandardUnitType, int, dict[str, str]]]
    values = [("UnresolvedErrors", "Count", unresolved.total, {})]
    values += [("OldestUnresolvedErrorAge", "Seconds", max(ages.values(), default=0), {})]
    for each in ErrorType:
        values += [("UnresolvedErrors", "Count", counts.get(each, 0), {"Type": each.value})]
        values += [("OldestUnresolvedErrorAge", "Seconds", ages.get(each, 0), {"Type": each.value})]
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

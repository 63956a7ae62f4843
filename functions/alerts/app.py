"""Thresholds that usage has reached, told once each: on the event bus and to the webhooks."""

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import boto3
from aws_lambda_powertools.logging import Logger
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.config import Config

from tollgate.catalog.deliveries import Deliveries, EventBus, Failure
from tollgate.catalog.store import DynamoCatalog, DynamoOnce
from tollgate.kernel.ids import derived_id
from tollgate.kernel.settings import required
from tollgate.kernel.time import system_clock
from tollgate.metering.alerts import Reached, reached_from_json, reached_to_dict
from tollgate.metering.announcing import connect_sqs
from tollgate.recovery.invocation import invocation
from tollgate.recovery.model import ErrorType
from tollgate.recovery.queue import RetriesQueue
from tollgate.recovery.service import record_error
from tollgate.recovery.store import DynamoRecovery

KEPT: Final = timedelta(days=90)
"""How long after its period it is known that an alert was told: no event counts in a period as late as that."""

logger = Logger()
messages = BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)
once = DynamoOnce()
errors = DynamoRecovery()
retries = RetriesQueue(connect_sqs, required("RETRIES_QUEUE_URL"))
bus = EventBus(
    boto3.client("events", config=Config(connect_timeout=1, read_timeout=3, retries={"total_max_attempts": 2})),
    required("EVENTS_BUS_NAME"),
)
deliveries = Deliveries(
    DynamoCatalog(), bus, system_clock, allow_private=os.environ.get("ALLOW_PRIVATE_WEBHOOKS") == "true"
)


def tell(record: SQSRecord, lambda_context: LambdaContext) -> None:
    """Tell of one threshold, unless that has been done; what fails is written down, to be tried again.

    Raises:
        Unavailable: another is telling it now; the message comes again.
        BadRequest, InvalidInput: it is no such message; it ends in the dead-letter queue.
    """
    reached = reached_from_json(record.body)
    lease = once.claim(
        f"ALERT#{reached.counter_key}",
        reached.threshold_key,
        now=system_clock(),
        kept_until=reached.period_end + KEPT,
    )
    if lease is None:
        return
    failures = deliveries.send(reached.id, reached_to_dict(reached))
    for failure in failures:
        write_down(reached, failure, invocation(lambda_context))
    once.done(lease)  # after the failures: what is neither told nor written down is told again
    logger.info("told", extra={"alert": reached.id, "failures": len(failures)})


def write_down(reached: Reached, failure: Failure, context: Mapping[str, str]) -> None:
    """Record a delivery that failed; the same again makes no second record."""
    receiver = failure.arguments.get("webhook", "")
    record_error(
        errors,
        id=derived_id("err", f"{failure.operation}#{reached.id}#{receiver}"),
        error_type=ErrorType.DELIVERY_FAILED,
        operation=failure.operation,
        arguments=failure.arguments,
        customer=reached.counter.customer,
        subscription=reached.counter.subscription,
        context={"feature": reached.counter.feature, "alert": reached.id, **context},
        error=failure.error,
        clock=system_clock,
        retries=retries,
    )


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Entry point of the Lambda function: messages of the alerts queue."""
    return dict(process_partial_response(event, tell, messages, context))

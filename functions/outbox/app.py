"""Tells of what has happened to subscriptions, invoices, payments and wallets: on the event bus and to the webhooks.

It reads the streams of the tables, so that what was written is told, and nothing else; each record again until it is.
"""

import os
from collections.abc import Mapping
from typing import Any, Final

import boto3
from aws_lambda_powertools.logging import Logger
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.dynamo_db_stream_event import DynamoDBRecord
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.config import Config

from tollgate.billing.announcements import Announcement
from tollgate.billing.payment_store import DynamoPayments
from tollgate.billing.stream_store import announcement_of
from tollgate.catalog.deliveries import Deliveries, EventBus, Failure
from tollgate.catalog.store import DynamoCatalog
from tollgate.kernel.ids import derived_id
from tollgate.kernel.settings import required
from tollgate.kernel.time import system_clock
from tollgate.metering.announcing import connect_sqs
from tollgate.recovery.invocation import invocation
from tollgate.recovery.model import ErrorType
from tollgate.recovery.queue import RetriesQueue
from tollgate.recovery.service import record_error
from tollgate.recovery.store import DynamoRecovery

SWIFT: Final = Config(connect_timeout=1, read_timeout=3, retries={"total_max_attempts": 2})

logger = Logger()
records = BatchProcessor(EventType.DynamoDBStreams, raise_on_entire_batch_failure=False)
catalog = DynamoCatalog()
payments = DynamoPayments()
errors = DynamoRecovery()
retries = RetriesQueue(connect_sqs, required("RETRIES_QUEUE_URL"))
bus = EventBus(boto3.client("events", config=SWIFT), required("EVENTS_BUS_NAME"))
deliveries = Deliveries(catalog, bus, system_clock, allow_private=os.environ.get("ALLOW_PRIVATE_WEBHOOKS") == "true")


def tell(record: DynamoDBRecord, lambda_context: LambdaContext) -> None:
    """Tell of one change, if it is news; what fails is written down, to be tried again."""
    told = announcement_of(record.raw_event["dynamodb"], catalog, payments)
    if told is None:
        return
    failures = deliveries.send(told.id, told.event)
    for failure in failures:
        write_down(told, failure, invocation(lambda_context))
    logger.info("told", extra={"event": told.id, "type": told.event["type"], "failures": len(failures)})


def write_down(told: Announcement, failure: Failure, context: Mapping[str, str]) -> None:
    """Record a delivery that failed; the same again makes no second record."""
    receiver = failure.arguments.get("webhook", "")
    record_error(
        errors,
        id=derived_id("err", f"{failure.operation}#{told.id}#{receiver}"),
        error_type=ErrorType.DELIVERY_FAILED,
        operation=failure.operation,
        arguments=failure.arguments,
        customer=told.customer,
        subscription=told.subscription,
        context={"event": told.id, "type": told.event["type"], **context},
        error=failure.error,
        clock=system_clock,
        retries=retries,
    )


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Entry point of the Lambda function: records of a table's stream."""
    return dict(process_partial_response(event, tell, records, context))

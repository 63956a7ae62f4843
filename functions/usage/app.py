"""Events in, counted exactly once; usage out."""

import os
from datetime import datetime
from typing import Any

import boto3
from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.logging import Logger
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tollgate.api.app import App, json_response
from tollgate.api.documents import answers
from tollgate.catalog.store import DynamoCatalog
from tollgate.kernel.errors import BadRequest, FieldError, InvalidInput, NotFound, Unavailable
from tollgate.kernel.ids import derived_id, is_id
from tollgate.kernel.time import from_epoch_ms, parse_time, system_clock
from tollgate.metering.model import Event
from tollgate.metering.queue import messages, read_message
from tollgate.metering.schema import (
    EVENTS_SCHEMA,
    RESULTS_SCHEMA,
    USAGE_PARAMETERS,
    USAGE_SCHEMA,
    event_to_dict,
    read_events,
)
from tollgate.metering.service import ingest, results_to_dict
from tollgate.metering.store import DynamoCounters
from tollgate.metering.usage import Granularity, read_usage, usage_to_dict
from tollgate.recovery.model import ErrorType
from tollgate.recovery.service import record_error
from tollgate.recovery.store import DynamoRecovery

logger = Logger()
app = App(validate=False)
batches = BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)
catalog = DynamoCatalog()
counters = DynamoCounters()
errors = DynamoRecovery()
sqs = boto3.client("sqs", config=Config(connect_timeout=1, read_timeout=3))


@app.endpoint(
    "POST",
    "/v1/events",
    scope="events:write",
    summary="Count usage events, each exactly once",
    responses={
        **answers(RESULTS_SCHEMA, "A result per event, in request order; the counts are visible to the next read"),
        202: {"description": "Queued, as `Prefer: respond-async` asked"},
    },
    openapi_extensions=EVENTS_SCHEMA,
)
def post_events() -> Response[str]:
    """One bad event never fails its neighbours, and the whole request is always safe to send again.

    An event is known by its source and id together with its time, to the quarter of an hour: the same again is a
    duplicate, the same id with another quantity, time or properties in that quarter a conflict.
    """
    headers = app.current_event.headers
    events = read_events(app.body(), headers)
    preferences = {preference.strip().lower() for preference in headers.get("prefer", "").split(",")}
    if "respond-async" in preferences:
        for message in messages(events, system_clock()):
            enqueue(message)
        return json_response({"queued": len(events)}, 202, {"Preference-Applied": "respond-async"})
    results = ingest(
        events,
        directory=catalog,
        counters=counters,
        now=system_clock(),
        time_left=time_left(app.lambda_context),
    )
    return json_response(results_to_dict(results))


@app.endpoint(
    "GET",
    "/v1/customers/<customer>/usage",
    scope="usage:read",
    summary="What has this customer used?",
    responses=answers(USAGE_SCHEMA, "The usage, and its parts that saw an event"),
    openapi_extensions=USAGE_PARAMETERS,
)
def get_usage(customer: str) -> Response[str]:
    """The current period, or the whole periods, days or hours that touch [from, to)."""
    query = app.current_event.query_string_parameters
    if not is_id(query.get("feature")):
        raise InvalidInput([FieldError("/feature", "name the feature: ?feature=")])
    if not is_id(customer):
        raise NotFound("There is no such customer.")
    granularity = query.get("granularity", "period")
    if granularity not in set(Granularity):
        raise InvalidInput([FieldError("/granularity", "must be period, day or hour")])
    usage = read_usage(
        customer,
        query["feature"],
        directory=catalog,
        counters=counters,
        now=system_clock(),
        start=instant(query, "from"),
        end=instant(query, "to"),
        granularity=Granularity(granularity),
    )
    return json_response(usage_to_dict(usage))


def enqueue(message: str) -> None:
    """Put a message into the events queue; should a later one fail, the whole request may be sent again."""
    try:
        sqs.send_message(QueueUrl=os.environ["EVENTS_QUEUE_URL"], MessageBody=message)
    except (BotoCoreError, ClientError):
        logger.exception("a message could not be queued")
        raise Unavailable("The events could not be queued; send the request again.") from None


def instant(query: dict[str, str], name: str) -> datetime | None:
    """A time among the query's parameters."""
    try:
        return parse_time(query[name]) if name in query else None
    except ValueError as error:
        raise InvalidInput([FieldError(f"/{name}", str(error))]) from None


def time_left(context: LambdaContext) -> Any:
    """The seconds until Lambda ends the function."""
    return lambda: context.get_remaining_time_in_millis() / 1000


def count_message(record: SQSRecord, lambda_context: LambdaContext) -> None:
    """Count the events of a queue message; what nobody waits to hear was not counted is written down as an error.

    Raises:
        Unavailable: not all could be counted in time; the message comes again, and what was counted is
            a duplicate then.
        BadRequest, InvalidInput: it is no such message; it ends in the dead-letter queue.
    """
    left = time_left(lambda_context)
    try:
        sent_at = from_epoch_ms(int(record.attributes.sent_timestamp or 0))
        received_at, events = read_message(record.body, sent_at)
    except (BadRequest, InvalidInput) as error:
        write_down(record, {"reason": "unreadable"}, error)
        raise
    results = ingest(events, directory=catalog, counters=counters, now=received_at, time_left=left)
    if any(result.retryable for result in results):
        raise Unavailable("Some events could not be counted in time.")
    lost = [
        {"event": event_to_dict(event) if isinstance(event, Event) else event.id, "reason": result.reason}
        for event, result in zip(events, results, strict=True)
        if result.status in {"rejected", "conflict"}
    ]
    if lost:
        write_down(record, {"events": lost}, f"{len(lost)} of {len(events)} events do not count")


def write_down(record: SQSRecord, arguments: dict[str, Any], error: Exception | str) -> None:
    """Record what became of a message; the same message again makes no second record."""
    record_error(
        errors,
        id=derived_id("err", record.message_id),
        error_type=ErrorType.VALIDATION_ERROR,
        operation="count_events",
        arguments=arguments,
        customer=None,
        subscription=None,
        context={"message_id": record.message_id, "queue": record.event_source_arn},
        error=error,
        clock=system_clock,
    )


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Entry point of the Lambda function: a request of the API, or messages of the events queue."""
    if "Records" in event:
        return dict(process_partial_response(event, count_message, batches, context))
    return app.handle(event, context)

"""Events in, counted exactly once; usage out."""

from tollgate.kernel.startup import started

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.logging import Logger
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tollgate.api.app import App, json_response, time_left
from tollgate.api.cursors import read_cursor, write_cursor
from tollgate.api.documents import answers
from tollgate.catalog.store import DynamoCatalog, cursor_secret
from tollgate.kernel.errors import Unavailable
from tollgate.kernel.ids import derived_id
from tollgate.kernel.metrics import count
from tollgate.kernel.settings import required
from tollgate.kernel.time import system_clock
from tollgate.metering.announcing import QueueAnnouncer
from tollgate.metering.archive_store import DynamoArchive
from tollgate.metering.consumer import Failure, consume, delivery_of
from tollgate.metering.history import explain, explanation_to_dict, list_events
from tollgate.metering.model import Event, Rejection
from tollgate.metering.questions import event_question, listing_question, usage_question
from tollgate.metering.queue import messages
from tollgate.metering.requeue import COUNT_EVENTS
from tollgate.metering.schema import (
    COUNTED_EVENTS_PARAMETERS,
    COUNTED_EVENTS_SCHEMA,
    EVENTS_SCHEMA,
    EXPLANATION_PARAMETERS,
    EXPLANATION_SCHEMA,
    PREFERENCE_APPLIED,
    QUEUED_SCHEMA,
    RESULTS_SCHEMA,
    USAGE_PARAMETERS,
    USAGE_SCHEMA,
    read_events,
)
from tollgate.metering.service import Memory, Result, ingest, results_to_json
from tollgate.metering.store import DynamoCounters
from tollgate.metering.usage import read_usage, usage_to_dict
from tollgate.recovery.invocation import invocation
from tollgate.recovery.model import ErrorType
from tollgate.recovery.service import record_error, resolve
from tollgate.recovery.store import DynamoRecovery
from tollgate.recovery.strategies import Policy, Strategy

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

logger = Logger()
app = App(validate=False, json_only=False)
batches = BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)
catalog = DynamoCatalog()
archive = DynamoArchive()
counters = DynamoCounters(archive)
memory = Memory()
errors = DynamoRecovery()


@cache
def sqs() -> "SQSClient":
    """The queues' client, which only a request needs that is to be queued, or that reaches a threshold."""
    import boto3  # after the cold start

    client: SQSClient = boto3.client("sqs", config=Config(connect_timeout=1, read_timeout=3))
    return client


announcer = QueueAnnouncer(sqs, required("ALERTS_QUEUE_URL"))


@app.endpoint(
    "POST",
    "/v1/events",
    scope="events:write",
    summary="Count usage events, each exactly once",
    responses={
        **answers(RESULTS_SCHEMA, "A result per event, in request order; the counts are visible to the next read"),
        **answers(QUEUED_SCHEMA, "Queued, as `Prefer: respond-async` asked", 202, headers=PREFERENCE_APPLIED),
    },
    openapi_extensions=EVENTS_SCHEMA,
)
def post_events() -> Response[str]:
    """One bad event never fails its neighbours, and the whole request is always safe to send again.

    An event is known by its source and id together with its time: the same again is a duplicate, the same id with
    another quantity or other properties a conflict. Neither counts.
    """
    headers = app.current_event.headers
    events = read_events(app.body(), headers)
    preferences = {preference.strip().lower() for preference in headers.get("prefer", "").split(",")}
    if "respond-async" in preferences:
        for message in messages(events, system_clock()):
            enqueue(message)
        return json_response({"queued": len(events)}, 202, {"Preference-Applied": "respond-async"})
    results = counted(events, system_clock(), time_left(app.lambda_context))
    return Response(200, "application/json", results_to_json(results))


@app.endpoint(
    "GET",
    "/v1/customers/<customer>/usage",
    scope="usage:read",
    summary="What has this customer used?",
    responses=answers(USAGE_SCHEMA, "The usage, and its parts that saw an event"),
    openapi_extensions=USAGE_PARAMETERS,
    refuses=(404,),
)
def get_usage(customer: str) -> Response[str]:
    """The current period, or the whole periods, days or hours that touch [from, to)."""
    asked = usage_question(customer, app.current_event.query_string_parameters)
    usage = read_usage(
        customer,
        asked.feature,
        directory=catalog,
        counters=counters,
        now=system_clock(),
        start=asked.start,
        end=asked.end,
        granularity=asked.granularity,
    )
    return json_response(usage_to_dict(usage))


@app.endpoint(
    "GET",
    "/v1/events",
    scope="usage:read",
    summary="Why did an event (not) count?",
    responses=answers(EXPLANATION_SCHEMA, "Where it was counted, or that it was not, and what would keep it from it"),
    openapi_extensions=EXPLANATION_PARAMETERS,
    refuses=(404,),
)
def get_event() -> Response[str]:
    """The outcome of the event of a customer with this source and id; the newest, if there are several."""
    asked = event_question(app.current_event.query_string_parameters)
    explanation = explain(
        asked.id,
        asked.source,
        asked.customer,
        directory=catalog,
        counters=counters,
        archive=archive,
        now=system_clock(),
        time_left=time_left(app.lambda_context),
        feature=asked.feature,
        time=asked.time,
    )
    return json_response(explanation_to_dict(explanation))


@app.endpoint(
    "GET",
    "/v1/customers/<customer>/events",
    scope="usage:read",
    summary="Which events were counted?",
    responses=answers(COUNTED_EVENTS_SCHEMA, "Events by time, each once"),
    openapi_extensions=COUNTED_EVENTS_PARAMETERS,
    refuses=(404,),
)
def get_events(customer: str) -> Response[str]:
    """The events of a feature that were counted in [from, to), out of the archive."""
    query = app.current_event.query_string_parameters
    asked = listing_question(customer, query)
    items, last = list_events(
        customer,
        asked.feature,
        directory=catalog,
        counters=counters,
        archive=archive,
        now=system_clock(),
        time_left=time_left(app.lambda_context),
        start=asked.start,
        end=asked.end,
        after=read_cursor(cursor_secret(), asked.name, query["cursor"]) if query.get("cursor") else None,
        limit=asked.limit,
    )
    return json_response({"items": items, "next_cursor": write_cursor(cursor_secret(), asked.name, last)})


def enqueue(message: str) -> None:
    """Put a message into the events queue; should a later one fail, the whole request may be sent again."""
    try:
        sqs().send_message(QueueUrl=os.environ["EVENTS_QUEUE_URL"], MessageBody=message)
    except (BotoCoreError, ClientError):
        logger.exception("a message could not be queued")
        raise Unavailable("The events could not be queued; send the request again.") from None


def counted(events: Sequence[Event | Rejection], now: datetime, left: Callable[[], float]) -> Sequence[Result]:
    """Count events that were received at a time, and their outcomes."""
    results = ingest(
        events,
        directory=catalog,
        counters=counters,
        now=now,
        time_left=left,
        announcer=announcer,
        memory=memory,
    )
    outcomes = Counter(result.status for result in results)
    count(
        EventsAccepted=outcomes["accepted"],
        EventsDuplicate=outcomes["duplicate"],
        EventsConflict=outcomes["conflict"],
        EventsRejected=outcomes["rejected"],
    )
    return results


def count_message(record: SQSRecord, lambda_context: LambdaContext) -> None:
    """Count the events of a queue message; when this raises, the message comes again."""
    left = time_left(lambda_context)
    try:
        consume(
            delivery_of(record.raw_event),
            count=lambda events, now: counted(events, now, left),
            write_down=partial(write_down, {"queue": record.event_source_arn, **invocation(lambda_context)}),
            resolve=resolve_error,
            time_left=left,
            max_receives=int(os.environ["EVENTS_MAX_RECEIVES"]),
        )
    except Exception:
        logger.exception("a message was not counted", message_id=record.message_id)
        raise


def write_down(context: Mapping[str, str], failure: Failure) -> None:
    """Make an error record for a person to look at; the same failure again makes no second one."""
    record_error(
        errors,
        id=derived_id("err", failure.key),
        error_type=ErrorType.VALIDATION_ERROR if failure.is_final else ErrorType.SYSTEM_ERROR,
        operation=COUNT_EVENTS,
        arguments=failure.arguments,
        customer=None,
        subscription=None,
        context={**context, **failure.context},
        error=failure.error,
        policy=Policy(Strategy.MANUAL, 0),  # the queue has tried it often enough
        clock=system_clock,
    )


def resolve_error(key: str) -> None:
    """A message that failed before has been counted."""
    resolve(errors, derived_id("err", key), actor="system", note="the message was counted", clock=system_clock)


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Entry point of the Lambda function: a request of the API, or messages of the events queue."""
    if "Records" in event:
        return dict(process_partial_response(event, count_message, batches, context))
    return app.handle(event, context)


started()

"""The ledger of failed operations: what is in it, and what people do about it."""

import os
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import boto3
from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Path, Query
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.config import Config

from tollgate.api.app import App, json_response, time_left
from tollgate.api.cursors import read_cursor, write_cursor
from tollgate.api.documents import answers
from tollgate.catalog import deliveries
from tollgate.catalog.store import cursor_secret
from tollgate.kernel.errors import NotFound
from tollgate.kernel.ids import MAX_CURSOR
from tollgate.kernel.schema import MAX_PAGE, Code
from tollgate.kernel.time import system_clock
from tollgate.metering import requeue
from tollgate.recovery import schema, service
from tollgate.recovery.ledger import Filter
from tollgate.recovery.model import ErrorRecord, ErrorType, Status
from tollgate.recovery.queue import RetriesQueue
from tollgate.recovery.report import report, report_to_dict
from tollgate.recovery.store import DynamoRecovery
from tollgate.recovery.strategies import Strategy

CHANGEABLE = {**deliveries.CHANGEABLE, **requeue.CHANGEABLE}
RESERVE = 3.0
"""Seconds: a page of a bulk change is not begun with less."""

Name = Annotated[Code, Path()]
Wanted = Annotated[Code | None, Query()]

app = App(validate=True)
store = DynamoRecovery()
sqs = boto3.client("sqs", config=Config(connect_timeout=1, read_timeout=3, retries={"total_max_attempts": 2}))
retries = RetriesQueue(lambda: sqs, os.environ["RETRIES_QUEUE_URL"])


@app.endpoint(
    "GET",
    "/v1/errors",
    scope="errors:read",
    summary="List failed operations",
    responses=answers(schema.ErrorList, "The newest first; a page may be short, and more follow all the same"),
)
def list_errors(
    status: Annotated[Status | None, Query()] = None,
    type: Annotated[ErrorType | None, Query()] = None,  # noqa: A002 - the contract's name for it
    customer: Wanted = None,
    subscription: Wanted = None,
    strategy: Annotated[Strategy | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    cursor: Annotated[str | None, Query(max_length=MAX_CURSOR)] = None,
) -> Response[str]:
    """Those for which all that is asked holds."""
    wanted = Filter(status, type, customer, subscription, strategy)
    found, last = store.find(wanted, after=read_cursor(cursor_secret(), listing(wanted), cursor), limit=limit)
    items = [schema.error_view(record) for record in found]
    return json_response({"items": items, "next_cursor": write_cursor(cursor_secret(), listing(wanted), last)})


@app.endpoint(
    "GET",
    "/v1/errors/report",
    scope="errors:read",
    summary="What is unresolved?",
    responses=answers(schema.ReportView, "Unresolved errors by type, the most frequent first"),
)
def get_report() -> Response[str]:
    """The report that operations get, as it is now."""
    return json_response(report_to_dict(report(store, system_clock)))


@app.endpoint(
    "POST",
    "/v1/errors/retry",
    scope="errors:write",
    summary="Try many failed operations again, now",
    responses=answers(schema.ErrorsChanged, "How many; where to go on if there may be more"),
)
def retry_errors(body: schema.ErrorsBody) -> Response[str]:
    """Those that wait for a person get one try more."""
    again = partial(service.retry, store, actor=actor(body.actor), note=body.note, clock=system_clock, retries=retries)
    return change_all(body, lambda record: again(record.id, revision=record.revision), Status.PENDING)


@app.endpoint(
    "POST",
    "/v1/errors/discard",
    scope="errors:write",
    summary="Discard many failed operations",
    responses=answers(schema.ErrorsChanged, "How many; where to go on if there may be more"),
)
def discard_errors(body: schema.ErrorsBody) -> Response[str]:
    """They stay in the ledger, and are never tried again."""
    discard = partial(intervene, to=Status.DISCARDED, body=body)
    return change_all(body, lambda record: discard(record.id, revision=record.revision), Status.DISCARDED)


@app.endpoint(
    "GET",
    "/v1/errors/<error>",
    scope="errors:read",
    summary="Read a failed operation",
    responses=answers(schema.ErrorView, "What failed, what has been tried, what happens next"),
    refuses=(404,),
)
def get_error(error: Name) -> Response[str]:
    """One record with its whole history."""
    found = store.get(error)
    if found is None or found.outcome is None:
        raise NotFound(f"There is no error {error}.")
    return json_response(schema.error_view(found))


@app.endpoint(
    "POST",
    "/v1/errors/<error>/retry",
    scope="errors:write",
    summary="Try a failed operation again, now",
    responses=answers(schema.ErrorView, "The record, pending and due; the try follows within seconds"),
    refuses=(404, 409),
)
def retry_error(error: Name, body: schema.RetryBody | None = None) -> Response[str]:
    """One that waits for a person gets one try more; an impossible transition is 409 and says which are possible."""
    body = body or schema.RetryBody()
    known = store.get(error)
    changed = service.retry(
        store,
        error,
        actor=actor(body.actor),
        note=body.note or "",
        clock=system_clock,
        retries=retries,
        arguments=body.arguments,
        changeable=CHANGEABLE.get(known.operation, frozenset()) if known else frozenset(),
    )
    return json_response(schema.error_view(changed))


@app.endpoint(
    "POST",
    "/v1/errors/<error>/resolve",
    scope="errors:write",
    summary="Say that a failed operation has been put right",
    responses=answers(schema.ErrorView, "The record, resolved"),
    refuses=(404, 409),
)
def resolve_error(error: Name, body: schema.NoteBody) -> Response[str]:
    """In another way than by trying it again."""
    return json_response(schema.error_view(intervene(error, to=Status.RESOLVED, body=body)))


@app.endpoint(
    "POST",
    "/v1/errors/<error>/discard",
    scope="errors:write",
    summary="Discard a failed operation",
    responses=answers(schema.ErrorView, "The record, discarded"),
    refuses=(404, 409),
)
def discard_error(error: Name, body: schema.NoteBody) -> Response[str]:
    """It stays in the ledger, and is never tried again."""
    return json_response(schema.error_view(intervene(error, to=Status.DISCARDED, body=body)))


@app.endpoint(
    "POST",
    "/v1/errors/<error>/escalate",
    scope="errors:write",
    summary="Leave a failed operation to a person",
    responses=answers(schema.ErrorView, "The record, in manual"),
    refuses=(404, 409),
)
def escalate_error(error: Name, body: schema.NoteBody) -> Response[str]:
    """No automatic try follows."""
    return json_response(schema.error_view(intervene(error, to=Status.MANUAL, body=body)))


def intervene(
    error: str, *, to: Status, body: schema.NoteBody | schema.ErrorsBody, revision: int | None = None
) -> ErrorRecord:
    """Change one record as a person says."""
    by = actor(body.actor)
    return service.intervene(store, error, to, actor=by, note=body.note, clock=system_clock, revision=revision)


def change_all(body: schema.ErrorsBody, change: Callable[[ErrorRecord], object], to: Status) -> Response[str]:
    """Change the records that a body's filter takes, as far as the time reaches."""
    wanted, left = body.to_filter(), time_left(app.lambda_context)
    selected = service.change_all(
        store,
        wanted,
        change,
        to,
        dry_run=body.dry_run,
        after=read_cursor(cursor_secret(), listing(wanted), body.cursor),
        limit=body.limit,
        time_left=lambda: left() > RESERVE,
    )
    cursor = write_cursor(cursor_secret(), listing(wanted), selected.next_cursor)
    return json_response(schema.selected_view(selected, dry_run=body.dry_run, next_cursor=cursor))


def actor(person: str | None) -> str:
    """Who changes a record: the key of the request, and the person it speaks for."""
    key = app.caller().key_id
    return f"{person} ({key})" if person else key


def listing(wanted: Filter) -> str:
    """What a cursor of a list belongs to."""
    parts = (wanted.status, wanted.type, wanted.customer, wanted.subscription, wanted.strategy)
    return "#".join(["errors", *(part or "" for part in parts)])


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Entry point of the Lambda function."""
    return app.handle(event, context)

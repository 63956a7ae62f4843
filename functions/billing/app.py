"""Invoices and billing runs: over HTTP, by the schedule, and a subscription at a time from the billing queue."""

import os
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Annotated, Any, Final

import boto3
from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Header, Path, Query
from aws_lambda_powertools.logging import Logger
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.config import Config

from tollgate.api.app import App, json_response, time_left
from tollgate.api.cursors import read_cursor, write_cursor
from tollgate.api.documents import answers
from tollgate.billing import schema
from tollgate.billing.assembly import Desk, assemble
from tollgate.billing.collecting import invoice_payments
from tollgate.billing.invoices import Invoice, InvoiceStatus
from tollgate.billing.page import HEADERS, invoice_page
from tollgate.billing.payments import payment_to_dict
from tollgate.billing.queue import BillingQueue
from tollgate.billing.run import bill, upcoming
from tollgate.billing.run_store import DynamoRuns
from tollgate.billing.runs import (
    BILL_SUBSCRIPTION,
    Message,
    Result,
    Run,
    carry_out,
    message_to_dict,
    progress,
    progress_to_dict,
    read_message,
)
from tollgate.catalog.model import Customer
from tollgate.catalog.store import DynamoCatalog, cursor_secret
from tollgate.kernel.errors import NotFound
from tollgate.kernel.ids import derived_id, new_id
from tollgate.kernel.metrics import count
from tollgate.kernel.schema import Code
from tollgate.kernel.settings import required
from tollgate.kernel.time import system_clock
from tollgate.metering.store import DynamoCounters
from tollgate.recovery.model import ErrorType
from tollgate.recovery.queue import RetriesQueue
from tollgate.recovery.service import record_error, resolve
from tollgate.recovery.store import DynamoRecovery

INLINE_SECONDS: Final = 20.0
"""So long a request bills by itself, of the 30 seconds that API Gateway waits; what is left goes to the queue."""

Name = Annotated[Code, Path()]
Wanted = Annotated[Code | None, Query()]
IdempotencyKey = Annotated[str | None, Header(alias="idempotency-key", min_length=1, max_length=255)]

logger = Logger()
app = App(validate=True)
batches = BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)
catalog = DynamoCatalog()
counters = DynamoCounters()
errors = DynamoRecovery()
runs = DynamoRuns()
sqs = boto3.client("sqs", config=Config(connect_timeout=1, read_timeout=3, retries={"total_max_attempts": 2}))
queue = BillingQueue(lambda: sqs, required("BILLING_QUEUE_URL"))
retries = RetriesQueue(lambda: sqs, required("RETRIES_QUEUE_URL"))


def desk(context: LambdaContext) -> Desk:
    """Billing, for as long as the present invocation lasts."""
    left = time_left(context)
    return assemble(
        catalog=catalog,
        counters=counters,
        errors=errors,
        time_left=lambda: timedelta(seconds=left()),
        retries=retries,
    )


@app.endpoint(
    "GET",
    "/v1/invoices",
    scope="billing:read",
    summary="List invoices",
    responses=answers(schema.InvoiceList, "The newest first; by status where nothing is asked for"),
)
def list_invoices(
    customer: Wanted = None,
    subscription: Wanted = None,
    status: Annotated[InvoiceStatus | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: Annotated[str | None, Query(max_length=1024)] = None,
) -> Response[str]:
    """The newest first."""
    listing = f"invoices:{customer}:{subscription}:{status}"
    after = read_cursor(cursor_secret(), listing, cursor) if cursor else None
    here = desk(app.lambda_context)
    found, last = here.invoices.list(
        customer=customer, subscription=subscription, status=status, after=after, limit=limit
    )
    items = [shown(here, invoice) for invoice in found]
    return json_response({"items": items, "next_cursor": write_cursor(cursor_secret(), listing, last)})


@app.endpoint(
    "GET",
    "/v1/invoices/<invoice>.html",
    scope="billing:read",
    summary="An invoice as a page, to read or print",
    responses={200: {"description": "HTML with no script", "content": {"text/html": {"schema": {"type": "string"}}}}},
)
def get_invoice_page(invoice: Name) -> Response[str]:
    """With its dates by the customer's clock."""
    here = desk(app.lambda_context)
    found = existing(here, invoice)
    customer = catalog.customer(found.customer) or Customer(found.customer)
    payments = [payment_to_dict(payment) for payment in invoice_payments(here.till, found)]
    page = invoice_page(found, customer, seller=os.environ.get("SELLER", ""), payments=payments)
    return Response(200, "text/html; charset=utf-8", page, headers=dict(HEADERS))


@app.endpoint(
    "GET",
    "/v1/invoices/<invoice>",
    scope="billing:read",
    summary="Read an invoice",
    responses=answers(schema.InvoiceView, "The invoice with its lines, payments and history"),
)
def get_invoice(invoice: Name) -> Response[str]:
    """One invoice."""
    here = desk(app.lambda_context)
    return json_response(shown(here, existing(here, invoice)))


@app.endpoint(
    "GET",
    "/v1/subscriptions/<subscription>/invoices/upcoming",
    scope="billing:read",
    summary="What would this period cost now?",
    responses=answers(schema.InvoiceView, "The invoice that the end of the period brings, as it stands now"),
)
def get_upcoming(subscription: Name) -> Response[str]:
    """Usage so far, prorations, late usage, and the base price of the next period; it is written nowhere."""
    return json_response(schema.invoice_view(upcoming(desk(app.lambda_context).billing, subscription), ()))


@app.endpoint(
    "POST",
    "/v1/billing/run",
    scope="billing:write",
    summary="Bill now all that is due",
    responses={
        **answers(schema.BillingRunView, "All that was due is billed"),
        202: {"description": "What there was no time for is in the queue; the same document"},
    },
)
def run_billing(body: schema.BillingRunBody | None = None, idempotency_key: IdempotencyKey = None) -> Response[str]:
    """Closes each period that ended by `as_of`, one by one, invoices and collects; as the schedule does."""
    now, left = system_clock(), time_left(app.lambda_context)
    as_of = min(body.as_of, now) if body and body.as_of else now
    end = left() - INLINE_SECONDS
    made = Run(
        derived_id("run", idempotency_key) if idempotency_key else new_id("run"),
        as_of,
        now,
        app.caller().key_id,
        asked_for=body.as_of if body else None,
    )
    so_far = carry_out(
        made,
        runs=runs,
        due=(name for name, _ in catalog.due(as_of)),
        bill=partial(bill_inline, desk(app.lambda_context), made, lambda: left() - end),
        send=queue.send,
        has_time=lambda: left() > end,
    )
    return json_response(progress_to_dict(so_far), 200 if so_far.is_done else 202)


def bill_inline(here: Desk, made: Run, left: Callable[[], float], subscription: str) -> Result | None:
    """Bill a subscription within a request; what fails is left to the queue, which tries it again."""
    try:
        done = bill(here.billing, subscription, made.as_of, left)
    except Exception:
        logger.exception("a subscription is left to the queue", subscription=subscription)
        return None
    return Result(subscription, tuple(done.invoices), is_done=done.is_done)


@app.endpoint(
    "GET",
    "/v1/billing/runs/<run>",
    scope="billing:read",
    summary="How far is a billing run?",
    responses=answers(schema.BillingRunView, "The run so far"),
)
def get_run(run: Name) -> Response[str]:
    """What has come of it."""
    found = runs.run(run)
    if found is None:
        raise NotFound(f"There is no billing run {run}.")
    return json_response(progress_to_dict(progress(found, runs)))


def existing(here: Desk, invoice_id: str) -> Invoice:
    """An invoice, or NotFound."""
    found = here.invoices.get(invoice_id)
    if found is None:
        raise NotFound(f"There is no invoice {invoice_id}.")
    return found


def shown(here: Desk, invoice: Invoice) -> dict[str, Any]:
    """An invoice with its payments."""
    return schema.invoice_view(invoice, invoice_payments(here.till, invoice))


# The schedule and the queue


def scheduled() -> dict[str, Any]:
    """Send all that is due to the queue."""
    now = system_clock()
    due = [name for name, _ in catalog.due(now)]
    if not due:
        return {"subscriptions": 0}
    made = Run(new_id("run"), now, now, "schedule")
    carry_out(made, runs=runs, due=due, bill=lambda _: None, send=queue.send, has_time=lambda: False)
    logger.info("begun", run=made.id, subscriptions=len(due))
    return {"run": made.id, "subscriptions": len(due)}


def bill_message(record: SQSRecord, lambda_context: LambdaContext) -> None:
    """Bill the subscription of a message.

    The last receive writes its error record first: a function that is killed writes nothing.

    Raises:
        Exception: it could not be billed; the message comes again, and at last ends in the dead-letter queue.
    """
    message = read_message(record.body)
    is_last = int(record.attributes.approximate_receive_count) >= int(required("BILLING_MAX_RECEIVES"))
    error_id = derived_id("err", f"{BILL_SUBSCRIPTION}#{record.message_id}")
    if is_last:
        write_down(message, error_id, "it was not billed in several receives")
    try:
        done = bill(desk(lambda_context).billing, message.subscription, message.as_of, time_left(lambda_context))
    except Exception as error:
        logger.exception("a subscription was not billed", subscription=message.subscription)
        if is_last:
            runs.record(message.run, Result(message.subscription, error=f"{type(error).__name__}: see {error_id}"))
        raise
    runs.record(message.run, Result(message.subscription, tuple(done.invoices), is_done=done.is_done))
    if not done.is_done:
        queue.send([message])
    if is_last:
        resolve(errors, error_id, actor="system", note="the subscription was billed", clock=system_clock)
    count(SubscriptionsBilled=int(done.is_done), InvoicesMade=len(done.invoices))


def write_down(message: Message, error_id: str, error: str) -> None:
    """Make an error record of a subscription that is not billed; the same again makes no second one."""
    life = catalog.life(message.subscription)
    record_error(
        errors,
        id=error_id,
        error_type=ErrorType.SYSTEM_ERROR,
        operation=BILL_SUBSCRIPTION,
        arguments=message_to_dict(message),
        customer=life.standing.customer if life else None,
        subscription=message.subscription,
        context={"run": message.run},
        error=error,
        clock=system_clock,
    )


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Entry point of the Lambda function: a request of the API, messages of the billing queue, or the schedule."""
    if "Records" in event:
        return dict(process_partial_response(event, bill_message, batches, context))
    if "requestContext" in event:
        return app.handle(event, context)
    return scheduled()

"""Invoices, billing runs, wallets, payments: over HTTP, by the schedule, a subscription at a time from the queue."""

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

from tollgate.api.app import App, created, json_response, time_left
from tollgate.api.cursors import read_cursor, write_cursor
from tollgate.api.documents import answers
from tollgate.billing import schema
from tollgate.billing.assembly import Desk, assemble, deployed_overdraft, deployed_providers
from tollgate.billing.collecting import invoice_payments
from tollgate.billing.invoices import Invoice, InvoiceStatus
from tollgate.billing.ledger import enter, set_top_up
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
from tollgate.billing.stripe_provider import STRIPE, News, read_news
from tollgate.billing.till import existing_payment
from tollgate.catalog import service
from tollgate.catalog.model import Customer
from tollgate.catalog.store import DynamoCatalog, cursor_secret
from tollgate.kernel.errors import FieldError, InvalidInput, NotFound, Unavailable
from tollgate.kernel.ids import MAX_CURSOR, MAX_KEY, derived_id, new_id
from tollgate.kernel.metrics import count
from tollgate.kernel.schema import MAX_PAGE, Code
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
IdempotencyKey = Annotated[str | None, Header(alias="idempotency-key", min_length=1, max_length=MAX_KEY)]

logger = Logger()
app = App(validate=True)
batches = BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)
catalog = DynamoCatalog()
counters = DynamoCounters()
errors = DynamoRecovery()
runs = DynamoRuns()
providers = deployed_providers()
overdraft = deployed_overdraft()
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
        providers=providers,
        overdraft=overdraft,
        clock=system_clock,
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
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    cursor: Annotated[str | None, Query(max_length=MAX_CURSOR)] = None,
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
    responses=answers({"type": "string"}, "HTML with no script", media_type="text/html"),
    refuses=(404,),
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
    refuses=(404,),
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
    refuses=(404, 409),
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
        **answers(schema.BillingRunView, "What there was no time for is in the queue; the same document", 202),
    },
    refuses=(409,),
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
    refuses=(404,),
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


# Wallets


@app.endpoint(
    "GET",
    "/v1/customers/<customer>/wallet",
    scope="billing:read",
    summary="What does a customer's wallet hold?",
    responses=answers(schema.WalletView, "The balance, which is the sum of the transactions"),
    refuses=(404,),
)
def get_wallet(customer: Name) -> Response[str]:
    """One that was never used holds nothing."""
    service.customer(catalog, customer)
    wallet = desk(app.lambda_context).till.wallets.wallet(customer)
    return json_response(schema.wallet_view(customer, wallet, None if wallet else billed_in(customer)))


def billed_in(customer: str) -> str | None:
    """The currency of a customer's first plan, if there is one."""
    plans = (catalog.plan(one.plan, one.plan_version) for one in catalog.subscriptions(customer))
    return next((plan.currency for plan in plans if plan is not None), None)


@app.endpoint(
    "POST",
    "/v1/customers/<customer>/wallet/transactions",
    scope="billing:write",
    summary="Put money into a wallet, or correct its balance",
    responses=answers(schema.TransactionView, "The transaction; a repeated request gets the same", 201),
    refuses=(402, 404, 409),
)
def create_transaction(
    customer: Name, body: schema.TransactionBody, idempotency_key: IdempotencyKey = None
) -> Response[str]:
    """Takes an `id` of yours or an Idempotency-Key, not both, so that it is safe to send again."""
    service.customer(catalog, customer)
    here = desk(app.lambda_context)
    entry = enter(
        here.till.wallets,
        customer=customer,
        entry_id=named("txn", body.id, idempotency_key),
        entry_type=body.type,
        amount=body.amount,
        currency=body.currency,
        description=body.description,
        overdraft=overdraft,
        clock=system_clock,
    )
    here.cashier.balance_changed(customer, actor=app.caller().key_id)
    if entry.amount > 0:
        here.cashier.deposited(customer, actor=app.caller().key_id)
    return created(schema.entry_view(entry))


@app.endpoint(
    "GET",
    "/v1/customers/<customer>/wallet/transactions",
    scope="billing:read",
    summary="List the transactions of a wallet",
    responses=answers(schema.TransactionList, "The ledger, the oldest first"),
    refuses=(404,),
)
def list_transactions(
    customer: Name,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    cursor: Annotated[str | None, Query(max_length=MAX_CURSOR)] = None,
) -> Response[str]:
    """Each with the balance after it."""
    service.customer(catalog, customer)
    listing = f"transactions:{customer}"
    after = int(read_cursor(cursor_secret(), listing, cursor) or 0)
    entries, last = desk(app.lambda_context).till.wallets.entries(customer, after, limit)
    items = [schema.entry_view(entry) for entry in entries]
    following = write_cursor(cursor_secret(), listing, str(last) if last else None)
    return json_response({"items": items, "next_cursor": following})


@app.endpoint(
    "PUT",
    "/v1/customers/<customer>/wallet/top-up",
    scope="billing:write",
    summary="Have a wallet topped up whenever its balance is low",
    responses=answers(schema.WalletView, "The wallet as it is now"),
    refuses=(404, 409),
)
def put_top_up(customer: Name, body: schema.TopUpBody) -> Response[str]:
    """By the customer's account at a payment provider; at once, if the balance is low now."""
    service.customer(catalog, customer)
    here = desk(app.lambda_context)
    if here.till.payer(customer).account is None:
        raise InvalidInput([FieldError("", f"put the payment method of {customer} first, with its account")])
    set_top_up(here.till.wallets, customer, body.to_top_up(), body.currency)
    here.cashier.balance_changed(customer, actor=app.caller().key_id)
    return json_response(schema.wallet_view(customer, here.till.wallets.wallet(customer)))


@app.endpoint(
    "DELETE",
    "/v1/customers/<customer>/wallet/top-up",
    scope="billing:write",
    summary="Have a wallet topped up no more",
    responses=answers(schema.WalletView, "The wallet as it is now"),
    refuses=(404, 409),
)
def delete_top_up(customer: Name) -> Response[str]:
    """One that is under way goes on."""
    service.customer(catalog, customer)
    wallet = set_top_up(desk(app.lambda_context).till.wallets, customer, None, None)
    return json_response(schema.wallet_view(customer, wallet))


# Payments


@app.endpoint(
    "PUT",
    "/v1/customers/<customer>/payment-method",
    scope="billing:write",
    summary="Say how a customer's invoices are paid",
    responses=answers(schema.PayerView, "How they are paid from now on"),
    refuses=(404, 409),
)
def put_payment_method(customer: Name, body: schema.PayerBody) -> Response[str]:
    """By the wallet, unless another way is said; a payment that is under way is not changed."""
    service.customer(catalog, customer)
    if body.provider == STRIPE and body.account is None:
        raise InvalidInput([FieldError("/account", "is needed: the customer's id at Stripe")])
    if body.account is not None and STRIPE not in providers:
        raise InvalidInput([FieldError("/account", "this deployment has no key of Stripe's: see StripeSecretKey")])
    payer = body.to_payer(customer)
    desk(app.lambda_context).till.payments.save_payer(payer)
    return json_response(schema.payer_view(payer))


@app.endpoint(
    "GET",
    "/v1/customers/<customer>/payment-method",
    scope="billing:read",
    summary="How are a customer's invoices paid?",
    responses=answers(schema.PayerView, "By the wallet, unless another way was said"),
    refuses=(404,),
)
def get_payment_method(customer: Name) -> Response[str]:
    """As it was last put."""
    service.customer(catalog, customer)
    return json_response(schema.payer_view(desk(app.lambda_context).till.payer(customer)))


@app.endpoint(
    "POST",
    "/v1/invoices/<invoice>/pay",
    scope="billing:write",
    summary="Have an invoice paid now",
    responses=answers(schema.InvoiceView, "The invoice: paid, or with a payment that the provider is at work on"),
    refuses=(402, 404, 409),
)
def pay_invoice(invoice: Name) -> Response[str]:
    """402 where it is declined; one that is paid already is answered as it is."""
    here = desk(app.lambda_context)
    return json_response(shown(here, here.cashier.pay(invoice, actor=app.caller().key_id)))


@app.endpoint(
    "POST",
    "/v1/invoices/<invoice>/void",
    scope="billing:write",
    summary="Withdraw an invoice",
    responses=answers(schema.InvoiceView, "The invoice, of which nothing is owed any more"),
    refuses=(404, 409),
)
def void_invoice(invoice: Name, body: schema.VoidBody | None = None) -> Response[str]:
    """409 where it is paid, or being paid."""
    here = desk(app.lambda_context)
    reason = (body or schema.VoidBody()).reason
    return json_response(shown(here, here.cashier.void(invoice, actor=app.caller().key_id, reason=reason)))


@app.endpoint(
    "POST",
    "/v1/invoices/<invoice>/uncollectible",
    scope="billing:write",
    summary="Give an invoice up",
    responses=answers(schema.InvoiceView, "The invoice, which is owed and tried no more; it can still be paid"),
    refuses=(404, 409),
)
def give_invoice_up(invoice: Name, body: schema.VoidBody | None = None) -> Response[str]:
    """409 where it is paid, or being paid."""
    here = desk(app.lambda_context)
    reason = (body or schema.VoidBody()).reason
    return json_response(shown(here, here.cashier.write_off(invoice, actor=app.caller().key_id, reason=reason)))


@app.endpoint(
    "GET",
    "/v1/payments/<payment>",
    scope="billing:read",
    summary="Read a payment",
    responses=answers(schema.PaymentWithRefundsView, "The payment with its refunds"),
    refuses=(404,),
)
def get_payment(payment: Name) -> Response[str]:
    """One try to charge an amount."""
    till = desk(app.lambda_context).till
    return json_response(schema.payment_view(existing_payment(till, payment), till.payments.refunds(payment)))


@app.endpoint(
    "POST",
    "/v1/payments/<payment>/refunds",
    scope="billing:write",
    summary="Give some of a payment back",
    responses=answers(schema.RefundView, "The refund; a repeated request gets the same", 201),
    refuses=(404, 409),
)
def create_refund(payment: Name, body: schema.RefundBody, idempotency_key: IdempotencyKey = None) -> Response[str]:
    """All that is left of it, unless an amount is given; pending, where it is tried again."""
    made = desk(app.lambda_context).cashier.refund(
        payment,
        refund_id=named("ref", body.id, idempotency_key),
        amount=body.amount,
        reason=body.reason,
        actor=app.caller().key_id,
    )
    return created(schema.refund_view(made))


@app.endpoint(
    "POST",
    "/v1/webhooks/stripe",
    scope=None,
    summary="What Stripe has to tell",
    responses=answers(schema.StripeEventView, "It has been dealt with"),
    refuses=(404, 503),
)
def hear_stripe() -> Response[str]:
    """For Stripe alone: signed with the secret of the endpoint, no older than 5 minutes, each event once.

    What it tells is asked for at Stripe's API: an event that comes late or out of order changes nothing.
    """
    secret = os.environ.get("STRIPE_WEBHOOK_SECRET")
    if not secret:
        raise NotFound("This deployment hears nothing of Stripe's: see StripeWebhookSecret.")
    news = read_news(app.body(), app.current_event.headers.get("stripe-signature"), secret)
    here = desk(app.lambda_context)
    if here.till.payments.has_seen(news.id):
        return json_response({"status": "duplicate"})
    status = settled_by(here, news)
    here.till.payments.saw(news.id, news.type, system_clock())
    return json_response({"status": status})


def settled_by(here: Desk, news: News) -> str:
    """Settle what an event is of; one of another seller's, or of nothing of ours, is ignored."""
    try:
        if news.payment is not None:
            here.cashier.settle(news.payment)
        elif news.refund is not None:
            here.cashier.settle_refund(news.refund)
        else:
            return "ignored"
    except NotFound:
        return "ignored"
    except (TimeoutError, ConnectionError) as error:
        raise Unavailable("Stripe cannot be asked now; send the event again.") from error
    return "settled"


def named(prefix: str, chosen: str | None, idempotency_key: str | None) -> str:
    """The id of what a request makes: its own, or the one that its key leads to.

    Raises:
        InvalidInput: it has both, or neither.
    """
    if (chosen is None) == (idempotency_key is None):
        raise InvalidInput([FieldError("/id", "give an id or an Idempotency-Key, not both: either names the request")])
    return chosen or derived_id(prefix, str(idempotency_key))


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
    error_id = derived_id("err", f"{BILL_SUBSCRIPTION}#{message.run}#{message.subscription}")
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
    """Make an error record of a subscription that is not billed, one a run: while it is due each run finds it."""
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

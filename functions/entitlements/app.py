"""May this customer do this now? Check, consume, reserve."""

from tollgate.kernel.startup import started

from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.config import Config

from tollgate.api.app import App, json_response, time_left
from tollgate.api.documents import answers
from tollgate.catalog.store import DynamoCatalog
from tollgate.entitlements import ofrep, schema, service
from tollgate.entitlements.model import decision_headers, decision_to_dict
from tollgate.entitlements.rules import Item
from tollgate.kernel.errors import FieldError, InvalidInput, NotFound
from tollgate.kernel.money import parse_decimal
from tollgate.kernel.settings import required
from tollgate.kernel.time import system_clock
from tollgate.metering.announcing import QueueAnnouncer
from tollgate.metering.archive_store import DynamoArchive
from tollgate.metering.store import DynamoCounters

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

app = App(validate=False)
catalog = DynamoCatalog()
counters = DynamoCounters(DynamoArchive())
refusals = service.Refusals()


@cache
def sqs() -> "SQSClient":
    """The queue's client, which only a function needs that a threshold is reached in."""
    import boto3  # after the cold start

    client: SQSClient = boto3.client("sqs", config=Config(connect_timeout=1, read_timeout=3))
    return client


announcer = QueueAnnouncer(sqs, required("ALERTS_QUEUE_URL"))


@app.endpoint(
    "GET",
    "/v1/customers/<customer>/entitlements/<feature>",
    scope="entitlements:read",
    summary="May this customer use this feature now?",
    responses=answers(schema.DECISION_SCHEMA, "Yes or no, and why"),
    openapi_extensions=schema.QUANTITY_PARAMETER,
)
def check(customer: str, feature: str) -> Response[str]:
    """A question, which changes nothing; always answered with 200."""
    now = system_clock()
    try:
        quantity = parse_decimal(app.current_event.query_string_parameters.get("quantity", "1"))
    except ValueError as error:
        raise InvalidInput([FieldError("/quantity", str(error))]) from None
    if quantity < 0:
        raise InvalidInput([FieldError("/quantity", "must not be negative")])
    decision = service.check(customer, feature, quantity, directory=catalog, counters=counters, now=now)
    return json_response(decision_to_dict(decision), headers=decision_headers(decision, now))


@app.endpoint(
    "GET",
    "/v1/customers/<customer>/entitlements",
    scope="entitlements:read",
    summary="What may this customer use now?",
    responses=answers(schema.DECISIONS_SCHEMA, "An answer for every feature of the customer's plans"),
)
def check_all(customer: str) -> Response[str]:
    """An answer for one unit of every feature of the customer's plans, by code."""
    decisions = service.check_all(customer, directory=catalog, counters=counters, now=system_clock())
    if decisions is None:
        raise NotFound(f"There is no customer {customer}.")
    return json_response({"items": [decision_to_dict(decision) for decision in decisions], "next_cursor": None})


@app.endpoint(
    "POST",
    "/v1/customers/<customer>/entitlements/<feature>/consume",
    scope="entitlements:write",
    summary="Check and count in one step",
    responses=answers(schema.CONSUMED_SCHEMA, "What was done, and why"),
    openapi_extensions=schema.CONSUME_REQUEST,
)
def consume(customer: str, feature: str) -> Response[str]:
    """Counts if there is room for it, whoever else consumes at once; the same id again counts nothing more."""
    fields = schema.Fields.of_body(app.body(), {"id", "quantity", "time"})
    name, quantity, told = fields.id("id"), fields.quantity(), fields.time("time")
    fields.check()
    now = system_clock()
    answer = service.consume(
        customer,
        name,
        [Item(feature, quantity)],
        told=told,
        directory=catalog,
        counters=counters,
        now=now,
        time_left=time_left(app.lambda_context),
        refusals=refusals,
        announcer=announcer,
    )
    return json_response(service.answer_to_dict(answer), headers=decision_headers(answer.decisions[0], now))


@app.endpoint(
    "POST",
    "/v1/customers/<customer>/entitlements/consume",
    scope="entitlements:write",
    summary="Check and count several features, all or nothing",
    responses=answers(schema.SEVERAL_CONSUMED_SCHEMA, "What was done, and why"),
    openapi_extensions=schema.SEVERAL_REQUEST,
)
def consume_several(customer: str) -> Response[str]:
    """If one feature has no room, nothing is counted of the others either."""
    fields = schema.Fields.of_body(app.body(), {"id", "items", "time"})
    name, items, told = fields.id("id"), schema.read_items(fields), fields.time("time")
    fields.check()
    answer = service.consume(
        customer,
        name,
        items,
        told=told,
        directory=catalog,
        counters=counters,
        now=system_clock(),
        time_left=time_left(app.lambda_context),
        announcer=announcer,
    )
    return json_response(service.answers_to_dict(name, answer))


@app.endpoint(
    "POST",
    "/v1/reservations",
    scope="entitlements:write",
    summary="Hold some of a feature for work whose size is known at its end",
    responses=answers(schema.RESERVATION_SCHEMA, "What was done, and why"),
    openapi_extensions=schema.RESERVE_REQUEST,
)
def reserve() -> Response[str]:
    """What is held cannot be consumed by others; commit or release it, or it expires."""
    names = {"id", "customer", "feature", "quantity", "expires_in_seconds"}
    fields = schema.Fields.of_body(app.body(), names)
    name, customer = fields.id("id"), fields.id("customer")
    item = Item(fields.id("feature"), fields.quantity(default=None))
    seconds = fields.seconds("expires_in_seconds", service.MAX_RESERVED_SECONDS)
    fields.check()
    now = system_clock()
    answer = service.reserve(
        name,
        customer,
        item,
        seconds,
        directory=catalog,
        counters=counters,
        now=now,
        time_left=time_left(app.lambda_context),
    )
    return json_response(service.answer_to_dict(answer), headers=decision_headers(answer.decisions[0], now))


@app.endpoint(
    "POST",
    "/v1/reservations/<reservation>/commit",
    scope="entitlements:write",
    summary="Count what reserved work took",
    responses=answers(schema.RESERVATION_SCHEMA, "What was done, and why"),
    openapi_extensions=schema.COMMIT_REQUEST,
)
def commit(reservation: str) -> Response[str]:
    """Up to what was reserved it always fits; more only as far as the limit allows."""
    fields = schema.Fields.of_body(app.body(), {"quantity"})
    quantity = fields.quantity(default=None)
    fields.check()
    now = system_clock()
    answer = service.commit(
        reservation,
        quantity,
        directory=catalog,
        counters=counters,
        now=now,
        time_left=time_left(app.lambda_context),
        announcer=announcer,
    )
    return json_response(service.answer_to_dict(answer), headers=decision_headers(answer.decisions[0], now))


@app.endpoint(
    "POST",
    "/v1/reservations/<reservation>/release",
    scope="entitlements:write",
    summary="Give back what a reservation holds",
    responses=answers(schema.RESERVATION_SCHEMA, "What was done"),
)
def release(reservation: str) -> Response[str]:
    """It holds nothing then, and counts nothing."""
    now = system_clock()
    answer = service.release(
        reservation, directory=catalog, counters=counters, now=now, time_left=time_left(app.lambda_context)
    )
    return json_response(service.answer_to_dict(answer), headers=decision_headers(answer.decisions[0], now))


@app.endpoint(
    "POST",
    "/ofrep/v1/evaluate/flags/<key>",
    scope="entitlements:read",
    summary="A feature as an OpenFeature flag",
    responses=answers(ofrep.FLAG_SCHEMA, "The flag, evaluated for the customer that is the targetingKey"),
    openapi_extensions=ofrep.REQUEST,
)
def evaluate(key: str) -> Response[str]:
    """OFREP 0.2: a boolean feature is a boolean flag, any other an object flag whose value is the answer to a check."""
    status, flag = ofrep.evaluate(key, app.body(), directory=catalog, counters=counters, now=system_clock())
    return json_response(flag, status)


@app.endpoint(
    "POST",
    "/ofrep/v1/evaluate/flags",
    scope="entitlements:read",
    summary="All features of a customer as OpenFeature flags",
    responses=answers(ofrep.FLAGS_SCHEMA, "The flags, evaluated for the customer that is the targetingKey"),
    openapi_extensions=ofrep.REQUEST,
)
def evaluate_all() -> Response[str]:
    """OFREP 0.2: the features of the customer's plans; with `If-None-Match`, 304 while nothing has changed."""
    status, flags = ofrep.evaluate_all(app.body(), directory=catalog, counters=counters, now=system_clock())
    response = json_response(flags, status)
    return app.unless_known(response) if status is HTTPStatus.OK else response


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Entry point of the Lambda function."""
    return app.handle(event, context)


started()

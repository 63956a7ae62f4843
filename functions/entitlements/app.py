"""May this customer do this now? Check, consume, reserve."""

from tollgate.kernel.startup import started

from http import HTTPStatus
from typing import Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.utilities.typing import LambdaContext

from tollgate.api.app import App, json_response, time_left
from tollgate.api.documents import answers
from tollgate.catalog.store import DynamoCatalog
from tollgate.entitlements import ofrep, schema
from tollgate.entitlements.desk import Desk
from tollgate.entitlements.service import Refusals
from tollgate.kernel.settings import required
from tollgate.kernel.time import system_clock
from tollgate.metering.announcing import QueueAnnouncer, connect_sqs
from tollgate.metering.archive_store import DynamoArchive
from tollgate.metering.store import DynamoCounters

app = App(validate=False)
desk = Desk(
    DynamoCatalog(),
    DynamoCounters(DynamoArchive()),
    Refusals(),
    QueueAnnouncer(connect_sqs, required("ALERTS_QUEUE_URL")),
    system_clock,
)


@app.endpoint(
    "GET",
    "/v1/customers/<customer>/entitlements/<feature>",
    scope="entitlements:read",
    summary="May this customer use this feature now?",
    responses=answers(schema.DECISION_SCHEMA, "Yes or no, and why", headers=schema.LIMIT_HEADERS),
    openapi_extensions=schema.QUANTITY_PARAMETER,
)
def check(customer: str, feature: str) -> Response[str]:
    """A question, which changes nothing; always answered with 200."""
    return json_response(*desk.check(customer, feature, app.current_event.query_string_parameters))


@app.endpoint(
    "GET",
    "/v1/customers/<customer>/entitlements",
    scope="entitlements:read",
    summary="What may this customer use now?",
    responses=answers(schema.DECISIONS_SCHEMA, "An answer for every feature of the customer's plans"),
    refuses=(404,),
)
def check_all(customer: str) -> Response[str]:
    """An answer for one unit of every feature of the customer's plans, by code."""
    return json_response(*desk.check_all(customer))


@app.endpoint(
    "POST",
    "/v1/customers/<customer>/entitlements/<feature>/consume",
    scope="entitlements:write",
    summary="Check and count in one step",
    responses=answers(schema.CONSUMED_SCHEMA, "What was done, and why", headers=schema.LIMIT_HEADERS),
    openapi_extensions=schema.CONSUME_REQUEST,
    refuses=(409,),
)
def consume(customer: str, feature: str) -> Response[str]:
    """Counts if there is room for it, whoever else consumes at once; the same id again counts nothing more."""
    return json_response(*desk.consume(customer, feature, app.body(), time_left(app.lambda_context)))


@app.endpoint(
    "POST",
    "/v1/customers/<customer>/entitlements/consume",
    scope="entitlements:write",
    summary="Check and count several features, all or nothing",
    responses=answers(schema.SEVERAL_CONSUMED_SCHEMA, "What was done, and why", headers=schema.LIMIT_HEADERS),
    openapi_extensions=schema.SEVERAL_REQUEST,
    refuses=(409,),
)
def consume_several(customer: str) -> Response[str]:
    """If one feature has no room, nothing is counted of the others either."""
    return json_response(*desk.consume_several(customer, app.body(), time_left(app.lambda_context)))


@app.endpoint(
    "POST",
    "/v1/reservations",
    scope="entitlements:write",
    summary="Hold some of a feature for work whose size is known at its end",
    responses=answers(schema.RESERVATION_SCHEMA, "What was done, and why", headers=schema.LIMIT_HEADERS),
    openapi_extensions=schema.RESERVE_REQUEST,
    refuses=(409,),
)
def reserve() -> Response[str]:
    """What is held cannot be consumed by others; commit or release it, or it expires."""
    return json_response(*desk.reserve(app.body(), time_left(app.lambda_context)))


@app.endpoint(
    "POST",
    "/v1/reservations/<reservation>/commit",
    scope="entitlements:write",
    summary="Count what reserved work took",
    responses=answers(schema.RESERVATION_SCHEMA, "What was done, and why", headers=schema.LIMIT_HEADERS),
    openapi_extensions=schema.COMMIT_REQUEST,
    refuses=(404, 409),
)
def commit(reservation: str) -> Response[str]:
    """Up to what was reserved it always fits; more only as far as the limit allows."""
    return json_response(*desk.commit(reservation, app.body(), time_left(app.lambda_context)))


@app.endpoint(
    "POST",
    "/v1/reservations/<reservation>/release",
    scope="entitlements:write",
    summary="Give back what a reservation holds",
    responses=answers(schema.RESERVATION_SCHEMA, "What was done", headers=schema.LIMIT_HEADERS),
    refuses=(404, 409),
)
def release(reservation: str) -> Response[str]:
    """It holds nothing then, and counts nothing."""
    return json_response(*desk.release(reservation, time_left(app.lambda_context)))


@app.endpoint(
    "POST",
    "/ofrep/v1/evaluate/flags/<key>",
    scope="entitlements:read",
    summary="A feature as an OpenFeature flag",
    responses={
        **answers(ofrep.FLAG_SCHEMA, "The flag, evaluated for the customer that is the targetingKey"),
        **answers(ofrep.FLAG_FAILURE_SCHEMA, "The request names no customer", 400),
        **answers(ofrep.FLAG_FAILURE_SCHEMA, "There is no such flag", 404),
    },
    openapi_extensions=ofrep.REQUEST,
)
def evaluate(key: str) -> Response[str]:
    """OFREP 0.2: a boolean feature is a boolean flag, any other an object flag whose value is the answer to a check."""
    return json_response(*desk.flag(key, app.body()))


@app.endpoint(
    "POST",
    "/ofrep/v1/evaluate/flags",
    scope="entitlements:read",
    summary="All features of a customer as OpenFeature flags",
    responses={
        **answers(
            ofrep.FLAGS_SCHEMA,
            "The flags, evaluated for the customer that is the targetingKey",
            headers={"ETag": {"required": True, "schema": {"type": "string"}}},
        ),
        **answers(None, "Nothing has changed since the answer with this tag", 304),
        **answers(ofrep.FAILURE_SCHEMA, "The request names no customer", 400),
    },
    openapi_extensions=ofrep.REQUEST,
)
def evaluate_all() -> Response[str]:
    """OFREP 0.2: the features of the customer's plans; with `If-None-Match`, 304 while nothing has changed."""
    response = json_response(*desk.flags(app.body()))
    return app.unless_known(response) if response.status_code == HTTPStatus.OK else response


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Entry point of the Lambda function."""
    return app.handle(event, context)


started()

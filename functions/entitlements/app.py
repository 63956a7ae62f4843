"""May this customer do this now?"""

from decimal import Decimal
from typing import Any, Final

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.utilities.typing import LambdaContext

from tollgate.api.app import App, json_response
from tollgate.api.documents import answers
from tollgate.catalog.store import DynamoCatalog
from tollgate.entitlements import service
from tollgate.entitlements.model import decision_headers, decision_to_dict
from tollgate.entitlements.schema import DECISION_SCHEMA, DECISIONS_SCHEMA, QUANTITY_PARAMETER
from tollgate.kernel.errors import FieldError, InvalidInput, NotFound
from tollgate.kernel.money import parse_decimal
from tollgate.kernel.time import system_clock
from tollgate.metering.store import DynamoCounters

ONE: Final = Decimal(1)

app = App(validate=False)
catalog = DynamoCatalog()
counters = DynamoCounters()


@app.endpoint(
    "GET",
    "/v1/customers/<customer>/entitlements/<feature>",
    scope="entitlements:read",
    summary="May this customer use this feature now?",
    responses=answers(DECISION_SCHEMA, "Yes or no, and why"),
    openapi_extensions=QUANTITY_PARAMETER,
)
def check(customer: str, feature: str) -> Response[str]:
    """A question, which changes nothing; always answered with 200."""
    now = system_clock()
    decision = service.check(customer, feature, asked_quantity(), directory=catalog, counters=counters, now=now)
    return json_response(decision_to_dict(decision), headers=decision_headers(decision, now))


@app.endpoint(
    "GET",
    "/v1/customers/<customer>/entitlements",
    scope="entitlements:read",
    summary="What may this customer use now?",
    responses=answers(DECISIONS_SCHEMA, "An answer for every feature of the customer's plans"),
)
def check_all(customer: str) -> Response[str]:
    """An answer for one unit of every feature of the customer's plans, by code."""
    decisions = service.check_all(customer, directory=catalog, counters=counters, now=system_clock())
    if decisions is None:
        raise NotFound(f"There is no customer {customer}.")
    return json_response({"items": [decision_to_dict(decision) for decision in decisions], "next_cursor": None})


def asked_quantity() -> Decimal:
    """The quantity asked for; 1 where the question names none."""
    try:
        quantity = parse_decimal(app.current_event.query_string_parameters.get("quantity", "1"))
    except ValueError as error:
        raise InvalidInput([FieldError("/quantity", str(error))]) from None
    if quantity < 0:
        raise InvalidInput([FieldError("/quantity", "must not be negative")])
    return quantity


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Entry point of the Lambda function."""
    return app.handle(event, context)

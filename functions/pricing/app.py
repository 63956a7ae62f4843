"""Quotes: what would this quantity cost at this price? Pure; touches no data."""

from typing import Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.utilities.typing import LambdaContext

from tollgate.api.app import App, json_response
from tollgate.api.documents import answers
from tollgate.kernel.errors import InvalidInput
from tollgate.pricing.model import faults
from tollgate.pricing.quotes import quote, quote_to_dict
from tollgate.pricing.schema import QuoteRequest, QuoteResponse, to_price

app = App(validate=True)


@app.endpoint(
    "POST",
    "/v1/prices/quote",
    scope="catalog:read",
    summary="Quote a price",
    responses=answers(QuoteResponse, "The amount, and line by line how it comes about"),
)
def post_quote(body: QuoteRequest) -> Response[str]:
    """With `previous_quantity`, what is to be paid on top of it."""
    price = to_price(body.price)
    if found := faults(price, "/price"):
        raise InvalidInput(found)
    return json_response(quote_to_dict(quote(price, body.quantity, body.currency, body.previous_quantity)))


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Entry point of the Lambda function."""
    return app.handle(event, context)

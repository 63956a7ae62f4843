"""Pydantic types that every boundary shares: decimals, currencies, codes and times of the wire.

Pydantic is imported here and in the contexts' schema.py only.
"""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import AfterValidator, PlainSerializer, PlainValidator, StringConstraints, WithJsonSchema

from tollgate.kernel.ids import ID_PATTERN
from tollgate.kernel.money import (
    CURRENCY_PATTERN,
    DECIMAL_PATTERN,
    LEAST_TOO_LARGE,
    UNSIGNED_PATTERN,
    exponent,
    format_decimal,
    parse_decimal,
)
from tollgate.kernel.time import TIME_SCHEMA, format_time, parse_time

__all__ = ["MAX_PAGE", "MAX_REASON", "Code", "CurrencyCode", "DecimalString", "Timestamp", "UnsignedDecimal"]


MAX_PAGE: Final = 100
"""Items of a page."""
MAX_REASON: Final = 500
"""Characters of a reason or description."""


def _currency(code: str) -> str:
    exponent(code)
    return code


def _decimal(pattern: str, least: dict[str, int]) -> tuple[Any, ...]:
    """What makes a `Decimal` of the wire: it is read from a string or a whole number, and written as a string."""
    text = {"type": "string", "pattern": pattern}
    whole = {"type": "integer", "exclusiveMaximum": LEAST_TOO_LARGE} | least
    return (
        PlainValidator(parse_decimal),
        PlainSerializer(format_decimal, return_type=str),
        WithJsonSchema({"anyOf": [text, whole]}, mode="validation"),
        WithJsonSchema(text, mode="serialization"),
    )


DecimalString = Annotated[Decimal, *_decimal(DECIMAL_PATTERN, {"exclusiveMinimum": -LEAST_TOO_LARGE})]
"""A `Decimal` from a decimal string or a JSON integer; a JSON float is refused."""

UnsignedDecimal = Annotated[Decimal, *_decimal(UNSIGNED_PATTERN, {"minimum": 0})]
"""The same of what is never negative: so says openapi.json; the rules of the model refuse it, with a reason."""

CurrencyCode = Annotated[str, StringConstraints(strict=True, pattern=CURRENCY_PATTERN), AfterValidator(_currency)]
"""An ISO 4217 code of a currency that has a minor unit."""

Code = Annotated[str, StringConstraints(strict=True, pattern=ID_PATTERN)]
"""A code or an id that a client chooses."""

Timestamp = Annotated[
    datetime,
    PlainValidator(parse_time),
    PlainSerializer(format_time, return_type=str),
    WithJsonSchema(TIME_SCHEMA),
]
"""An aware `datetime` in UTC from an RFC 3339 time with an offset."""

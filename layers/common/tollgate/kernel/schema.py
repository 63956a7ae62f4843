"""Pydantic types that every boundary shares: decimals, currencies, codes and times of the wire.

Pydantic is imported here and in the contexts' schema.py only.
"""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Final

from pydantic import AfterValidator, PlainSerializer, PlainValidator, StringConstraints, WithJsonSchema

from tollgate.kernel.ids import ID_PATTERN
from tollgate.kernel.money import CURRENCY_PATTERN, DECIMAL_PATTERN, exponent, format_decimal, parse_decimal
from tollgate.kernel.time import format_time, parse_time

__all__ = ["Code", "CurrencyCode", "DecimalString", "Timestamp"]


def _currency(code: str) -> str:
    exponent(code)
    return code


DecimalString = Annotated[
    Decimal,
    PlainValidator(parse_decimal),
    PlainSerializer(format_decimal, return_type=str),
    WithJsonSchema({"type": "string", "pattern": DECIMAL_PATTERN}),
]
"""A `Decimal` from a decimal string or a JSON integer; a JSON float is refused."""

CurrencyCode = Annotated[str, StringConstraints(strict=True, pattern=CURRENCY_PATTERN), AfterValidator(_currency)]
"""An ISO 4217 code of a currency that has a minor unit."""

Code = Annotated[str, StringConstraints(strict=True, pattern=ID_PATTERN)]
"""A code or an id that a client chooses."""

_DATE_TIME: Final = {"type": "string", "format": "date-time"}

Timestamp = Annotated[
    datetime,
    PlainValidator(parse_time),
    PlainSerializer(format_time, return_type=str),
    WithJsonSchema(_DATE_TIME),
]
"""An aware `datetime` in UTC from an RFC 3339 time with an offset."""

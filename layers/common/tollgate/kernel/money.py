"""Exact decimals: amounts, prices and quantities. A float never comes near them.

A decimal on the wire is a string of at most 20 digits before and 18 after the point, so that each
value, and a sum of many, fits DynamoDB's 38 digits.
"""

import re
from decimal import ROUND_HALF_UP, Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow
from functools import cache
from typing import Any, Final

__all__ = [
    "CURRENCY_PATTERN",
    "DECIMAL_PATTERN",
    "EXACT",
    "LEAST_TOO_LARGE",
    "QUANTITY_SCHEMA",
    "SIGNED_SCHEMA",
    "UNSIGNED_PATTERN",
    "UNSIGNED_SCHEMA",
    "ZERO",
    "exponent",
    "format_amount",
    "format_decimal",
    "parse_decimal",
    "round_amount",
    "storable",
]

ZERO: Final = Decimal(0)
UNSIGNED_PATTERN: Final = r"^(0|[1-9][0-9]{0,19})(\.[0-9]{1,18})?$"
DECIMAL_PATTERN: Final = UNSIGNED_PATTERN.replace("^", "^-?")
LEAST_TOO_LARGE: Final = 10**20
"""The least whole number that is too large for the wire."""
SIGNED_SCHEMA: Final[dict[str, Any]] = {"type": "string", "pattern": DECIMAL_PATTERN}
"""A decimal in openapi.json, as it is answered."""
UNSIGNED_SCHEMA: Final[dict[str, Any]] = {"type": "string", "pattern": UNSIGNED_PATTERN}
"""The same of one that is not negative."""
QUANTITY_SCHEMA: Final[dict[str, Any]] = {
    "anyOf": [UNSIGNED_SCHEMA, {"type": "integer", "minimum": 0, "exclusiveMaximum": LEAST_TOO_LARGE}]
}
"""The same of one that is sent: a whole number will do."""
CURRENCY_PATTERN: Final = r"^[A-Z]{3}$"
_MAX_DIGITS: Final = 38
_DECIMAL: Final = re.compile(DECIMAL_PATTERN.replace("$", r"\Z"))

EXACT: Final = Context(prec=100, traps=[Inexact, InvalidOperation, DivisionByZero, Overflow])
"""Arithmetic that raises rather than lose a digit: 100 digits hold any product of two wire decimals."""


def parse_decimal(value: object) -> Decimal:
    """Read a decimal string (or a JSON integer) of the wire; zero has no sign.

    Raises:
        ValueError: a float, a boolean, NaN, an exponent, or too many digits.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError('must be a decimal string such as "0.05", not a JSON ' + _json_name(value))
    if not _DECIMAL.match(value):
        raise ValueError(
            'must be a decimal string such as "0.05": digits with an optional point, at most 20 before and 18 after it'
        )
    number = Decimal(value)
    return number or number.copy_abs()


def _json_name(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, float):
        return "number with a fraction or exponent"
    return "array" if isinstance(value, list) else "object"


def format_decimal(value: Decimal) -> str:
    """Write a decimal plainly: no exponent, no trailing zeros after the point, no minus zero."""
    if value == 0:
        return "0"
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def storable(value: Decimal) -> Decimal:
    """The value itself, if DynamoDB keeps all its digits.

    Raises:
        OverflowError: it has more than 38, zeros at its ends not counted.
    """
    if len(EXACT.normalize(value).as_tuple().digits) > _MAX_DIGITS:
        raise OverflowError(f"a number of more than {_MAX_DIGITS} digits")
    return value


@cache
def exponent(currency: str) -> int:
    """Digits after the point of an ISO 4217 currency's minor unit: 2 for EUR, 0 for JPY, 3 for BHD.

    Raises:
        ValueError: not a currency code of ISO 4217, or one with no minor unit (gold, test codes).
    """
    from iso4217 import Currency  # reads an XML table: only pricing pays for it

    try:
        minor_unit = Currency(currency).exponent
    except ValueError:
        raise ValueError(f"unknown currency {currency!r}: use an ISO 4217 code such as EUR") from None
    if minor_unit is None:
        raise ValueError(f"{currency} has no minor unit: amounts in it cannot be charged")
    return int(minor_unit)


def round_amount(amount: Decimal, currency: str) -> Decimal:
    """Round half up (away from zero on a tie) at the currency's exponent; done once per line."""
    rounding = Context(prec=100, rounding=ROUND_HALF_UP)
    return amount.quantize(Decimal(1).scaleb(-exponent(currency)), context=rounding)


def format_amount(amount: Decimal, currency: str) -> str:
    """Write an amount with all digits of the currency's minor unit: "15.00" EUR, "15" JPY."""
    return f"{round_amount(amount, currency):f}"

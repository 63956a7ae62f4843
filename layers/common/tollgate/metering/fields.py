"""What the fields of an event may hold, whatever its form; ids and times are as everywhere (kernel/ids.py, time.py)."""

from decimal import Decimal
from typing import Final

from tollgate.kernel.money import parse_decimal
from tollgate.metering.model import RESERVATION_SOURCE

__all__ = ["MAX_SOURCE", "read_quantity", "read_source"]

MAX_SOURCE: Final = 512


def read_source(value: object) -> str:
    """Where an event comes from.

    Raises:
        ValueError: no string, too long, or one that nobody may send.
    """
    if not isinstance(value, str) or len(value) > MAX_SOURCE:
        raise ValueError(f"must be a string of at most {MAX_SOURCE} characters")
    if value == RESERVATION_SOURCE:
        raise ValueError(f"{RESERVATION_SOURCE} is the source of what commits of reservations count")
    return value


def read_quantity(value: object) -> Decimal:
    """How much was used.

    Raises:
        ValueError: no decimal of the wire, or a negative one.
    """
    quantity = parse_decimal(value)
    if quantity < 0:
        raise ValueError("must not be negative")
    return quantity

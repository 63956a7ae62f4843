"""Instants: aware datetimes in UTC, RFC 3339 on the wire."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

__all__ = ["TIME_SCHEMA", "Clock", "format_time", "from_epoch_ms", "parse_time", "system_clock"]

Clock = Callable[[], datetime]
"""Gives the present instant; passed in, so that a test or a simulation owns time."""

TIME_SCHEMA: Final[dict[str, Any]] = {"type": "string", "format": "date-time"}
"""An instant in openapi.json."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339: Final = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)


def system_clock() -> datetime:
    """The machine's clock."""
    return datetime.now(UTC)


def parse_time(value: object) -> datetime:
    """Read an RFC 3339 time with its offset; digits beyond the microsecond are cut off.

    Raises:
        ValueError: not such a time.
    """
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise ValueError('must be an RFC 3339 time with an offset, such as "2026-01-31T09:30:00Z"')
    try:
        parsed = datetime.fromisoformat(value.upper())
        return parsed if parsed.tzinfo is UTC else parsed.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{value} is not a time of the calendar") from None


def format_time(value: datetime) -> str:
    """Write an instant in UTC with Z; a fraction only where there is one."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def from_epoch_ms(value: int) -> datetime:
    """The instant of that many milliseconds since 1970."""
    return _EPOCH + timedelta(milliseconds=value)

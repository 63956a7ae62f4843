"""Python client of Tollgate: may this customer do this now, and what did they use?

Tollgate            the client
AsyncTollgate       the same for asyncio
TollgateMiddleware  asks before a request reaches an ASGI application
"""

from tollgate_client.aio import AsyncReservation, AsyncTollgate
from tollgate_client.asgi import TollgateMiddleware
from tollgate_client.errors import (
    ApiError,
    BufferFull,
    Conflict,
    Denied,
    FieldError,
    Forbidden,
    InvalidInput,
    NotFound,
    TollgateError,
    Unauthenticated,
    Unreachable,
)
from tollgate_client.guard import current_customer
from tollgate_client.ids import new_id
from tollgate_client.model import UNREACHABLE, Decision, Decisions, Event, Quantity, Rejected, Stats
from tollgate_client.sync import Reservation, Tollgate
from tollgate_client.version import __version__

__all__ = [
    "UNREACHABLE",
    "ApiError",
    "AsyncReservation",
    "AsyncTollgate",
    "BufferFull",
    "Conflict",
    "Decision",
    "Decisions",
    "Denied",
    "Event",
    "FieldError",
    "Forbidden",
    "InvalidInput",
    "NotFound",
    "Quantity",
    "Rejected",
    "Reservation",
    "Stats",
    "Tollgate",
    "TollgateError",
    "TollgateMiddleware",
    "Unauthenticated",
    "Unreachable",
    "__version__",
    "current_customer",
    "new_id",
]

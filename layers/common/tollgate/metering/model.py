"""Events, counters and tallies: values and the rules they keep. Pure."""

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from tollgate.catalog.model import Aggregation, Rate
from tollgate.kernel.money import EXACT, ZERO, storable
from tollgate.kernel.time import from_epoch_ms

__all__ = [
    "BUCKET",
    "MAX_AGE",
    "MAX_AHEAD",
    "MAX_EVENTS",
    "Batch",
    "Count",
    "CounterId",
    "Event",
    "Outcome",
    "Rejection",
    "Tally",
    "bucket_of",
    "event_digest",
    "event_hash",
    "time_of_id",
]

MAX_EVENTS: Final = 500
MAX_AGE: Final = timedelta(days=35)
MAX_AHEAD: Final = timedelta(minutes=5)
BUCKET: Final = timedelta(minutes=15)
"""Dedupe ids and sums are kept per quarter of an hour: every time zone's hours and days begin at one."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MILLISECOND: Final = 253_402_300_799_000  # of the year 9999
_UUID7: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.IGNORECASE)
_ULID: Final = re.compile(r"(?=.*[A-Z])[0-7][0-9A-HJKMNP-TV-Z]{25}")  # 26 digits are a number
_CROCKFORD: Final = {digit: value for value, digit in enumerate("0123456789ABCDEFGHJKMNPQRSTVWXYZ")}


class Outcome(StrEnum):
    """What became of an event."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    OUT_OF_RANGE = "out_of_range"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Event:
    """Something a customer did, as its sender tells it; `time` None where neither it nor its id says when."""

    id: str
    source: str
    customer: str
    feature: str
    quantity: Decimal
    time: datetime | None
    properties: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why an event is not counted: a code for programs, a sentence for people, a JSON pointer into the event."""

    id: str | None
    reason: str
    detail: str
    pointer: str = ""


@dataclass(frozen=True, slots=True)
class CounterId:
    """One number that grows: a customer's use of a feature in one period of one subscription."""

    customer: str
    feature: str
    subscription: str
    period_start: datetime


@dataclass(frozen=True, slots=True)
class Count:
    """An event ready to be counted: when it counts, where, and what tells it from others.

    `until` is None where (source, id) is deduplicated together with the time; otherwise (source, id)
    alone is, until that instant.
    """

    counter: CounterId
    at: datetime
    quantity: Decimal
    hash: bytes
    digest: bytes
    until: datetime | None = None
    rate: Rate | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """The counts of one request for one customer and feature; they share an aggregation."""

    customer: str
    feature: str
    aggregation: Aggregation
    counts: tuple[Count, ...]


@dataclass(frozen=True, slots=True)
class Tally:
    """The usage that some events add up to; `latest` orders them where only the last one counts."""

    quantity: Decimal = ZERO
    events: int = 0
    latest: str = ""

    def add(self, count: Count, aggregation: Aggregation) -> "Tally":
        """The tally with one event more, the same in whatever order events are added.

        Raises:
            OverflowError: the sum has more digits than the database keeps.
        """
        moment = ""
        if aggregation is Aggregation.LATEST:  # of two events of one instant, the one with the greater hash
            moment = f"{(count.at - _EPOCH) // timedelta(microseconds=1):017d}#{count.hash.hex()}"
        quantity = Decimal(1) if aggregation is Aggregation.COUNT else count.quantity
        return self.merge(Tally(quantity, 1, moment), aggregation)

    def merge(self, other: "Tally", aggregation: Aggregation) -> "Tally":
        """The tally of both sets of events."""
        if not self.events or not other.events:
            return other if other.events else self
        events = self.events + other.events
        latest = max(self.latest, other.latest)
        match aggregation:
            case Aggregation.SUM:
                quantity = EXACT.add(self.quantity, other.quantity)
            case Aggregation.COUNT:
                quantity = Decimal(events)
            case Aggregation.MAX:
                quantity = max(self.quantity, other.quantity)
            case Aggregation.LATEST:
                quantity = self.quantity if latest == self.latest else other.quantity
        return Tally(storable(quantity), events, latest)


def bucket_of(at: datetime) -> datetime:
    """The start of the quarter of an hour that an instant lies in."""
    return at - (at - _EPOCH) % BUCKET


def event_hash(event: Event) -> bytes:
    """12 bytes that stand for (source, id) among the events of one customer and feature."""
    key = hashlib.blake2b(f"{event.customer}#{event.feature}".encode(), digest_size=32).digest()
    return hashlib.blake2b(f"{event.source}\0{event.id}".encode(), digest_size=12, key=key).digest()


def event_digest(event: Event, time: datetime | None) -> bytes:
    """4 bytes that tell an event from another one with the same id: over quantity, properties and time."""
    body = repr((EXACT.normalize(event.quantity), time, _canonical(event.properties)))
    return hashlib.blake2b(body.encode("utf-8", "surrogatepass"), digest_size=4).digest()


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return sorted((key, _canonical(member)) for key, member in value.items())
    return [_canonical(member) for member in value] if isinstance(value, list) else value


def time_of_id(event_id: str) -> datetime | None:
    """The time that a UUIDv7 (RFC 9562) or a ULID in its canonical upper case carries in its first 48 bits."""
    if _UUID7.fullmatch(event_id):
        return from_epoch_ms(min(int(event_id.replace("-", "")[:12], 16), _LAST_MILLISECOND))
    if _ULID.fullmatch(event_id):
        milliseconds = 0
        for digit in event_id[:10]:
            milliseconds = milliseconds * 32 + _CROCKFORD[digit]
        return from_epoch_ms(min(milliseconds, _LAST_MILLISECOND))
    return None

"""Events, counters and tallies: values and the rules they keep. Pure."""

import hashlib
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

import msgspec

from tollgate.catalog.model import Aggregation, Rate
from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.json import canonical_json
from tollgate.kernel.money import EXACT, ZERO, format_decimal
from tollgate.kernel.time import from_epoch_ms

__all__ = [
    "EPOCH",
    "MAX_AGE",
    "MAX_AHEAD",
    "MAX_EVENTS",
    "MAX_QUANTITY",
    "RESERVATION_SOURCE",
    "Adjustment",
    "Batch",
    "Count",
    "CounterId",
    "Event",
    "Limit",
    "Outcome",
    "Rejection",
    "Reservation",
    "ReservationState",
    "Scope",
    "Series",
    "Tally",
    "event_hash",
    "fold",
    "identify",
    "microseconds",
    "receipt_tag",
    "shard_of",
    "time_of_id",
]

MAX_EVENTS: Final = 500
MAX_AGE: Final = timedelta(days=35)
MAX_AHEAD: Final = timedelta(minutes=5)
RESERVATION_SOURCE: Final = "urn:tollgate:reservation"
"""The source of the events that commits of reservations count; nobody else may send such."""
MAX_QUANTITY: Final = Decimal(10) ** 20
"""What a counter stays below: with 18 digits after the point, DynamoDB's 38."""
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_LAST_MILLISECOND: Final = 253_402_300_799_000  # of the year 9999
_PURPOSE: Final = b"tollgate event id"
_UUID7: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.IGNORECASE)
_ULID: Final = re.compile(r"(?=.*[A-Z])[0-7][0-9A-HJKMNP-TV-Z]{25}")  # 26 digits are a number
_CROCKFORD: Final = {digit: value for value, digit in enumerate("0123456789ABCDEFGHJKMNPQRSTVWXYZ")}


class Outcome(StrEnum):
    """What became of an event."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    OUT_OF_RANGE = "out_of_range"  # the counter would reach MAX_QUANTITY
    DENIED = "denied"  # it would exceed its limit
    OUTDATED = "outdated"  # what rules the feature has changed: the event is to be placed anew
    UNAVAILABLE = "unavailable"


class Scope(StrEnum):
    """What an event is deduplicated by."""

    TIME = "time"  # (source, id) together with the time, which the sender or the id tells
    RECEIPT = "receipt"  # (source, id) alone, on the day of its receipt and the next: there is no time
    ID = "id"  # (source, id) alone, over the whole age limit


# Python 3.11 takes four times as long for a member of an enumeration that is looked up in its class.
_TIME, _RECEIPT = Scope.TIME, Scope.RECEIPT


class Event(msgspec.Struct, gc=False):  # a dataclass takes three times as long to make, and a frozen one ten times
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
class Series:
    """What one head counts: a customer's events of a feature, or a share of them where the counter is sharded."""

    customer: str
    feature: str
    shard: int = 0


class Count(msgspec.Struct, gc=False):
    """An event ready to be counted: when it counts, where, and what tells it from others.

    Attributes:
        at: the time told, that of its id, or that of its receipt; `second` and `micros` are the same in
            seconds and in microseconds since 1970.
        hour: the start of the hour that `at` lies in, by the clock of the subscription's time zone.
        until: when an event known by its id alone (`Scope.ID`) is forgotten.
        rate: the limit whose windows it also counts in.
    """

    event: Event
    counter: CounterId
    at: datetime
    hour: datetime
    quantity: Decimal
    scope: Scope
    hash: bytes
    digest: bytes
    until: datetime | None = None
    rate: Rate | None = None
    second: int = 0
    micros: int = 0

    def __post_init__(self) -> None:
        """Tell the time in numbers, which are compared faster."""
        since = self.at - EPOCH
        self.second = since.days * 86_400 + since.seconds
        self.micros = self.second * 1_000_000 + since.microseconds


@dataclass(frozen=True, slots=True)
class Batch:
    """The counts of one request for one series, placed by a revision of the customer's snapshot.

    `gate` makes the text that the gate has at that revision (catalog/gates.py).
    """

    series: Series
    aggregation: Aggregation
    counts: tuple[Count, ...]
    revision: int = 0
    gate: Callable[[], str] | None = None


@dataclass(frozen=True, slots=True)
class Limit:
    """What an event must fit in if it is to be counted, beside the limit of its rate.

    Attributes:
        quantity: the most that the counter may hold, with all that is reserved; None where nothing limits it.
        settles: the hold that the event takes the place of: when it expires, and its quantity.
    """

    quantity: Decimal | None = None
    settles: tuple[int, Decimal] | None = None


class ReservationState(StrEnum):
    """Where a reservation stands; an open one that has expired holds nothing."""

    OPEN = "open"
    COMMITTED = "committed"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class Reservation:
    """Capacity of a feature that is held for work whose size is known only at its end.

    `expires` is in seconds since 1970; `committed` is what the work took.
    """

    id: str
    customer: str
    feature: str
    quantity: Decimal
    seconds: int
    expires: int
    state: ReservationState = ReservationState.OPEN
    committed: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Adjustment:
    """Usage that came after its billing period had been closed: `closed` was billed, `now` is what it is."""

    series: Series
    counter: CounterId
    closed: "Tally"
    now: "Tally"


@dataclass(frozen=True, slots=True)
class Tally:
    """The usage that some events add up to; `latest` orders them where only the last one counts."""

    quantity: Decimal = ZERO
    events: int = 0
    latest: str = ""

    def add(self, count: Count, aggregation: Aggregation) -> "Tally":
        """The tally with one event more, the same in whatever order events are added."""
        moment = ""
        if aggregation is Aggregation.LATEST:  # of two events of one instant, the one with the greater hash
            moment = f"{count.micros:017d}#{count.hash.hex()}"
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
        return Tally(quantity, events, latest)


def fold(counts: Sequence[Count], aggregation: Aggregation) -> Tally:
    """The tally of events."""
    match aggregation:
        case Aggregation.SUM:
            total = ZERO
            for count in counts:
                total = EXACT.add(total, count.quantity)
            return Tally(total, len(counts))
        case Aggregation.COUNT:
            return Tally(Decimal(len(counts)), len(counts))
    tally = Tally()
    for count in counts:
        tally = tally.add(count, aggregation)
    return tally


def microseconds(at: datetime) -> int:
    """An instant in microseconds since 1970: the division of a timedelta would take four times as long."""
    since = at - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def event_hash(event: Event, scope: Scope) -> bytes:
    """12 bytes that stand for (source, id) among the events of one customer and feature.

    The last bit says whether the event is known by its receipt, so that a set of hashes can be parted again.
    """
    return identify(event, scope, None)[0]


def identify(event: Event, scope: Scope, told: datetime | None) -> tuple[bytes, bytes]:
    """The hash of an event, and 4 bytes that tell it from another one with the same id.

    Those are over its quantity, its properties and, where it is part of what the event is known by, its time. Of
    another id, the same body has other ones.
    """
    hasher = _hasher(event.customer, event.feature, event.source).copy()
    hasher.update(event.id.encode())
    known = hasher.digest()
    if (known[-1] & 1 == 1) is not (scope is _RECEIPT):
        known = known[:-1] + bytes((known[-1] ^ 1,))
    time = microseconds(told) if told is not None and scope is _TIME else ""
    quantity = str(event.quantity)
    if not quantity.isdecimal():  # 1 and 1.0 are the same; digits alone have one form only
        quantity = format_decimal(event.quantity)
    body = f"|{quantity}|{time}|".encode()
    hasher.update(body + canonical_json(event.properties) if event.properties else body)
    return known, hasher.digest()[:4]


@lru_cache(maxsize=1_024)
def _hasher(customer: str, feature: str, source: str) -> "hashlib.blake2b":
    # A source may have any character, an id has neither \0 nor |.
    text = f"{customer}\0{feature}\0{source}\0"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12, key=_PURPOSE)


def receipt_tag(event_hash: bytes, at: datetime) -> bytes:
    """4 bytes that say at which receipt an event with no time was counted."""
    return hashlib.blake2b(at.isoformat().encode(), digest_size=4, key=event_hash).digest()


def shard_of(event_hash: bytes, shards: int) -> int:
    """The shard that an event belongs to; the hash's last byte is left out for its bit."""
    return int.from_bytes(event_hash[:4], "big") % shards


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

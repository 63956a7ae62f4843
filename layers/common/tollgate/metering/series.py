"""A series as it is stored, and what a writer knows of it. Pure.

A series (a customer and feature) has one *head*: the gate that decides about the feature, the counter of the open
billing period with what is held of it, the ids counted last, and the sums of the last hours. All that it holds
besides is written together with the head, in one transaction, and bumps its `structure`; so whoever knows the head of
that structure knows that nothing else has changed:

pages     the ids that left the head, by *bucket*: a stretch of time, or a receipt day and lane
periods   the counters of other billing periods
days      the sums of the hours that left the head
markers   the ids that are known alone (`Scope.ID`); each has a condition of its own

The buckets of time follow each other without a gap. Only the newest, the open one, can grow, and only to times
beyond all that was counted; so the bucket of a counted event never changes, however the rate of events does.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import field
from datetime import date, datetime
from decimal import Decimal
from typing import Final, Generic, TypeVar

from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.money import EXACT, ZERO
from tollgate.metering.model import Batch, Count, CounterId, Reservation, Scope, Series, Tally, receipt_tag
from tollgate.metering.rates import RateState

__all__ = [
    "DAY_SECONDS",
    "LANES",
    "Answer",
    "Change",
    "DayId",
    "Head",
    "Known",
    "Marker",
    "Missing",
    "NewPage",
    "Page",
    "PastCounter",
    "RateChange",
    "Rule",
    "Verdict",
    "essence",
    "floor_of",
    "held",
    "is_fresh",
    "is_known",
    "is_of_head",
    "is_receipt",
    "lane_key",
    "lane_keys",
    "learn",
    "look_for",
    "missing_for",
    "page_keys",
    "refreshed",
    "room_of",
    "time_bucket",
    "time_key",
]

HEAD_BYTES: Final = 1_010
"""A write is billed per started KB of the head."""
ID_BYTES: Final = 16
LEAST_ROOM: Final = 16
"""Ids that the head holds at least: fewer would cost more in transactions than another KB of it does."""
LANES: Final = (1, 4, 16, 64, 256, 1_024, 4_096)
"""In how many lanes the ids of a receipt day are kept, the more the more there are."""
DAY_SECONDS: Final = 86_400
HOUR_SECONDS: Final = 3_600

DayId = tuple[CounterId, date]
Answer = TypeVar("Answer")


@dataclass(slots=True)
class Head:
    """The head of a series, as it is stored.

    Attributes:
        structure: grows with every write that changes more than sums and ids.
        counter: the counter of the open billing period, and its `tally`.
        origin: where the first bucket of time began; before it lie hours, each a bucket of its own.
        start, end: the open bucket, in seconds since 1970; `spilled` ids of it are in pages.
        day: the newest receipt day, in days since 1970; `received` ids of it are in pages, in as many lanes
            as `lanes` says for this day and the one before: (day, number of lanes), in order of use.
        ids, digests: 12 bytes of each event counted last, and 4 that say with which body.
        hours: the sums of the open counter's hours that are in no day item yet.
        holds: what is reserved and not yet counted, by the second at which it expires.
        gate, revision: what decides about the feature, and the revision of the customer's snapshot it was made of.
    """

    structure: int = 0
    counter: CounterId | None = None
    tally: Tally = field(default_factory=Tally)
    origin: int | None = None
    start: int = 0
    end: int = 0
    spilled: int = 0
    day: int | None = None
    received: int = 0
    lanes: tuple[tuple[int, int], ...] = ()
    ids: frozenset[bytes] = frozenset()
    digests: frozenset[bytes] = frozenset()
    hours: dict[datetime, Tally] = field(default_factory=dict)
    rate: RateState = field(default_factory=RateState)
    holds: dict[int, Decimal] = field(default_factory=dict)
    gate: str = ""
    revision: int = 0


@dataclass(slots=True)
class Page:
    """The ids known to be in the pages of a bucket, when the head had the structure `as_of`.

    `tail` is the newest page of a closed bucket while it has room: its structure, ids and digests.
    """

    as_of: int
    ids: set[bytes] = field(default_factory=set)
    digests: set[bytes] = field(default_factory=set)
    tail: tuple[int, frozenset[bytes], frozenset[bytes]] | None = None


@dataclass(frozen=True, slots=True)
class PastCounter:
    """A counter that is not in the head; `closed` is what it was when its period was closed."""

    tally: Tally
    closed: Tally | None = None


@dataclass(frozen=True, slots=True)
class Marker:
    """An event known by its id alone must not come again until `until`; it was counted `at` these times."""

    digest: bytes
    until: datetime
    at: tuple[datetime, ...]


@dataclass(frozen=True, slots=True)
class NewPage:
    """Ids for a bucket: a page of its own, or in place of the one of the structure `replaces`."""

    key: str
    ids: frozenset[bytes]
    digests: frozenset[bytes]
    replaces: int | None = None


@dataclass(slots=True)
class Known:
    """What a writer has read of a series; `floors` gives the latest time known to lie in a closed bucket."""

    head: Head | None
    pages: dict[str, Page] = field(default_factory=dict)
    floors: dict[int, int] = field(default_factory=dict)
    periods: dict[CounterId, PastCounter | None] = field(default_factory=dict)
    days: dict[DayId, dict[datetime, Tally]] = field(default_factory=dict)
    markers: dict[bytes, Marker | None] = field(default_factory=dict)


@dataclass(slots=True)
class Missing:
    """What must be read before a batch can be counted; `floors` are times whose bucket is not known."""

    pages: set[str] = field(default_factory=set)
    floors: set[int] = field(default_factory=set)
    periods: set[CounterId] = field(default_factory=set)
    days: set[DayId] = field(default_factory=set)
    markers: set[bytes] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.pages or self.floors or self.periods or self.days or self.markers)

    def parts(self) -> Iterator["Missing"]:
        """The same in parts that take a call each, or few; the latest bucket first, which may be that of others too."""
        for at in sorted(self.floors, reverse=True):
            yield Missing(floors={at})
        for key in self.pages:
            yield Missing(pages={key})
        if self.periods or self.days or self.markers:
            yield Missing(periods=self.periods, days=self.days, markers=self.markers)


@dataclass(frozen=True, slots=True)
class RateChange:
    """How a rate's figures change; `most` is what the one that grows may be for this to be within the limit."""

    old: RateState
    new: RateState
    now: Decimal
    most: Decimal | None = None


@dataclass(slots=True)
class Change:
    """A write: the head as it becomes, and the items that go with it.

    `adds` tells how the head is written. True: sums, holds and ids are added to whatever they are by then, on
    condition of the head's structure, of no gate newer than the head's, of room for the new `ids`, and of each of
    them being new. False: the head is replaced, on condition that it is exactly the one known.

    Attributes:
        held: what is held more, or less, by the second at which it expires.
        freed: holds that have expired, which leave the head.
        unheld: what must not be held until a second, or the head is not as it was known.
        most: what is used and held, before the write, may be at most.
        reservation: it is written too, on condition that it still is as `reserved`; with None, that there is none.
    """

    head: Head
    adds: bool
    added: Tally = field(default_factory=Tally)
    ids: frozenset[bytes] = frozenset()
    digests: frozenset[bytes] = frozenset()
    hours: dict[datetime, Tally] = field(default_factory=dict)
    room: int = 0
    pages: list[NewPage] = field(default_factory=list)
    periods: dict[CounterId, PastCounter] = field(default_factory=dict)
    days: dict[DayId, dict[datetime, Tally]] = field(default_factory=dict)
    markers: dict[bytes, Marker] = field(default_factory=dict)
    adjusted: list[CounterId] = field(default_factory=list)
    settled: list[CounterId] = field(default_factory=list)
    held: dict[int, Decimal] = field(default_factory=dict)
    freed: dict[int, Decimal] = field(default_factory=dict)
    unheld: dict[int, Decimal] = field(default_factory=dict)
    most: Decimal | None = None
    rate: RateChange | None = None
    reservation: Reservation | None = None
    reserved: Reservation | None = None


@dataclass(frozen=True, slots=True)
class Verdict(Generic[Answer]):
    """What a rule says of several series at once, and what is to be written, all or nothing, before it is true.

    Attributes:
        answer: what it says.
        changes: a change of each series that has one.
        guards: the revisions that the gates of other series must have.
        batches: what is archived before.
        is_lasting: whether it holds though what is known may be outdated.
        unsure: it holds if these series, read once more from now on, still say so.
    """

    answer: Answer
    changes: Mapping[Series, Change] = field(default_factory=dict)
    guards: Mapping[Series, int] = field(default_factory=dict)
    batches: Sequence[Batch] = ()
    is_lasting: bool = False
    unsure: AbstractSet[Series] = frozenset()


Rule = Callable[[Mapping[Series, Known]], Verdict[Answer] | Mapping[Series, Missing]]
"""A verdict on what is known of some series, or what must be read before."""


def held(head: Head, now: float) -> Decimal:
    """What is held and has not expired, at a time in seconds since 1970."""
    total = ZERO
    for expires, quantity in head.holds.items():
        if expires > now:
            total = EXACT.add(total, quantity)
    return total


def room_of(head: Head, series: Series) -> int:
    """How many ids the head holds within a KB, from the sizes that DynamoDB bills for; or within more, to hold some."""
    counter = len(head.counter.subscription) + 24 if head.counter else 0
    rate = 120 if head.rate.window_seconds else 0
    fixed = len(series.customer) + len(series.feature) + counter + rate + len(head.tally.latest) + 12 * len(head.lanes)
    hours = sum(34 + len(tally.latest) for tally in head.hours.values())
    taken = 165 + fixed + hours + len(head.gate.encode()) + 20 * len(head.holds)
    units = max(-(-(taken + LEAST_ROOM * ID_BYTES - HEAD_BYTES) // 1_024), 0)
    return (HEAD_BYTES + units * 1_024 - taken) // ID_BYTES


def is_receipt(event_hash: bytes) -> bool:
    """Whether an id is that of an event known by its receipt."""
    return event_hash[-1] & 1 == 1


# Where an id is looked for


def page_keys(count: Count, known: Known) -> list[str] | None:
    """The keys of the pages that an event's id may be in; None where the bucket must be found first."""
    head = known.head
    if head is None or count.scope is Scope.ID:
        return []
    if count.scope is Scope.RECEIPT:
        return lane_keys(count, head)
    if head.origin is None:
        return []
    at = count.second
    if at >= head.start:
        return [time_key(head.start)] if head.spilled and at < head.end else []
    if at < head.origin:
        return [_early_key(at)]
    start = floor_of(at, known)
    return None if start is None else [time_key(start)]


def floor_of(at: int, known: Known) -> int | None:
    """Where the closed bucket begins that a time lies in; None where that is not known."""
    return next((start for start, latest in known.floors.items() if start <= at <= latest), None)


def lane_keys(count: Count, head: Head) -> list[str]:
    """The buckets that the id of an event with no time may be in."""
    # The day after as well: clocks may differ about midnight.
    day = count.second // DAY_SECONDS
    return [lane_key(each, lanes, count.hash) for each in (day - 1, day, day + 1) for lanes in _lanes_of(head, each)]


def _lanes_of(head: Head, day: int) -> tuple[int, ...]:
    if head.day is None or day > head.day:
        return ()
    if day < head.day - 1:
        return LANES  # how many there were then is not remembered
    return tuple(lanes for each, lanes in head.lanes if each == day)


def lane_key(day: int, lanes: int, event_hash: bytes) -> str:
    """The bucket of an id that is known by its receipt."""
    return f"L#{day:06d}#{lanes:04d}#{int.from_bytes(event_hash[4:8], 'big') % lanes:04d}"


def time_key(start: int) -> str:
    """The key of the bucket of time that begins there."""
    return f"T#{start:010d}"


def time_bucket(key: str) -> int | None:
    """Where a bucket of time begins, from its key; None for other buckets."""
    return int(key[2:]) if key.startswith("T") else None


def _early_key(at: int) -> str:
    return f"E#{at - at % HOUR_SECONDS:010d}"


def is_fresh(key: str, known: Known) -> bool:
    """Whether all ids in the pages of a bucket are known, as of the head that is known."""
    head, page = known.head, known.pages.get(key)
    if page is None or head is None:
        return False
    if key == time_key(head.start) and head.origin is not None:
        return len(page.ids) >= head.spilled
    return page.as_of == head.structure


def is_known(count: Count, known: Known, *, exactly: bool = False) -> bool | None:
    """Whether an event's id is among those counted; `exactly`, also its body and time. None where reads are missing."""
    if count.scope is Scope.ID:
        if count.hash not in known.markers:
            return None
        marker = known.markers[count.hash]
        return marker is not None and (not exactly or (marker.digest == count.digest and count.at in marker.at))
    keys = page_keys(count, known)
    if keys is None or any(key not in known.pages for key in keys):
        return None
    places: list[Page | Head] = [known.pages[key] for key in keys]
    if known.head is not None and is_of_head(count, known.head):
        places.append(known.head)
    tag = receipt_tag(count.hash, count.at) if count.scope is Scope.RECEIPT else count.digest
    return any(
        count.hash in place.ids and (not exactly or (count.digest in place.digests and tag in place.digests))
        for place in places
    )


def is_of_head(count: Count, head: Head) -> bool:
    """Whether an event's id may be among those of the head."""
    if count.scope is Scope.TIME:
        return head.origin is not None and head.start <= count.second < head.end
    return count.scope is Scope.RECEIPT and head.day is not None and abs(count.second // DAY_SECONDS - head.day) <= 1


def missing_for(counts: Iterable[Count], known: Known) -> Missing:
    """What must be read before `is_known` can tell of each event, in what was just read."""
    missing = Missing()
    for count in counts:
        look_for(count, known, missing)
    return missing


def look_for(count: Count, known: Known, missing: Missing) -> list[Page]:
    """The pages that an event's id may be in; what of its pages, or its marker, is not known goes to `missing`."""
    if count.scope is Scope.ID:
        if count.hash not in known.markers:
            missing.markers.add(count.hash)
        return []
    keys = page_keys(count, known)
    if keys is None:
        missing.floors.add(count.second)
        return []
    missing.pages.update(key for key in keys if not is_fresh(key, known))
    return [known.pages[key] for key in keys if key in known.pages]


# What a writer learns


def learn(known: Known, change: Change, head: Head) -> None:
    """Have `known` say what is stored once a change is written.

    `head` is the head as it was read afterwards: another may have written by then, of which nothing else is known.
    """
    before, written = known.head.structure if known.head else 0, change.head.structure
    known.head = head
    if head.structure != written:
        known.periods, known.days, known.markers = {}, {}, {}
    else:
        known.periods.update(change.periods)
        known.days.update(change.days)
        known.markers.update(change.markers)
    for page in known.pages.values():
        if page.as_of == before:
            page.as_of = written
    for new in change.pages:
        grown = known.pages.get(new.key)
        if grown is not None:
            grown.ids |= new.ids
            grown.digests |= new.digests
            if grown.tail is not None:
                structure = written if new.replaces is None else new.replaces
                grown.tail = (structure, new.ids, new.digests)
        elif new.key == time_key(head.start) and len(new.ids) == head.spilled:
            known.pages[new.key] = Page(written, set(new.ids), set(new.digests))


def essence(known: Known) -> Known:
    """What of it is worth remembering: the head, and the pages that the next events' ids are looked for in."""
    head = known.head
    if head is None:
        return Known(None)
    days = tuple(f"L#{day:06d}#" for day in (head.day - 1, head.day)) if head.day is not None else ()
    pages = {key: page for key, page in known.pages.items() if key == time_key(head.start) or key.startswith(days)}
    return Known(head, pages)


def refreshed(known: Known | None, head: Head | None) -> Known | None:
    """What is still known when another writer has left this head; None where it is not known either."""
    if known is None or known.head is None or head is None:
        return None
    if known.head.structure == head.structure:
        known.head = head
        known.markers.clear()
        return known
    kept = {key: page for key, page in known.pages.items() if key == time_key(head.start) or key.startswith("L")}
    return Known(head, kept)

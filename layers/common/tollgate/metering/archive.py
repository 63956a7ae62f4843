"""The archive of events: which of them share an item, what it is called, and how it is packed. Pure.

A `Chunk` holds events of one counter that lie less than an hour apart, in the order of time and hash. Its key
says whether they lie less than a minute apart, when the first of them counts, and what is in it: the same batch
again makes the same chunks under the same keys. A reading from some instant on begins a minute before it among
the short chunks, which are all there are where events come fast, and an hour before it among the long ones.

A packed chunk is a byte of version, and then, compressed by zlib, one line of JSON with the columns, of
which one value may stand for all. Ids that are all UUIDs come after it, 16 bytes each, turned so that the first
bytes of all come first: of these 6 are compressed too, which may be times, and the others, which are random, follow as
they are. That is 15 to 25 bytes an event in batches of 100 and more.
"""

import hashlib
import json
import operator
import zlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import accumulate
from typing import Any, Final, TypeVar

from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.json import write_json
from tollgate.kernel.time import format_time, parse_time
from tollgate.metering.model import EPOCH, Batch, Count, CounterId, Event, Scope, Series, identify, microseconds

__all__ = [
    "PAGE_BYTES",
    "SPANS",
    "Archived",
    "Chunk",
    "chunks",
    "counter_from_name",
    "counter_name",
    "instant_from_text",
    "instant_text",
    "page_of",
    "position",
    "unpack",
]

SPANS: Final = {"M": timedelta(minutes=1), "H": timedelta(hours=1)}
"""The events of a chunk lie less than this apart, by what its key begins with: the shortest that holds."""

PAGE_BYTES: Final = 900_000
"""Of JSON in a page of events, before its last one, which has 3.5 MB at most as an answer (api/app.py)."""
_LONGEST: Final = max(SPANS.values())
_MICROSECOND: Final = timedelta(microseconds=1)
_MINUTE: Final = timedelta(minutes=1)
_VERSION: Final = b"\x01"
_LEVEL: Final = 3
"""Of zlib: from here on a few bytes less take several times as long."""
_KEY_BYTES: Final = 12
_INSTANT_DIGITS: Final = 17
_UUID_LENGTH: Final = 36
_UUID_BYTES: Final = 16
_TIME_BYTES: Final = 6
"""Of a UUIDv7: the milliseconds that it begins with."""
_HYPHENS: Final = (8, 13, 18, 23)
"""Where a UUID has them."""
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Events of one counter, packed.

    Attributes:
        counter: what all of them count in.
        revision: that of the snapshot which says so.
        key: sorts chunks of one span by their first events, and names what they hold.
        last: when the last of them counts.
        events: how many they are.
        blob: what `unpack` reads.
    """

    counter: CounterId
    revision: int
    key: str
    last: datetime
    events: int
    blob: bytes


def chunks(batch: Batch) -> Iterator[Chunk]:
    """A batch as chunks: one, unless its events are of several counters or an hour and more apart."""
    counts = _in_order(batch.counts)
    first = counts[0].counter
    # Told by identity where it can be, which is most of the time: to hash counters costs more than all the rest here.
    alone = all(count.counter is first for count in counts)
    counters = {first: None} if alone else dict.fromkeys(count.counter for count in counts)
    for counter in counters:
        mine = counts if len(counters) == 1 else [count for count in counts if count.counter == counter]
        while mine:
            end = mine[0].at + _LONGEST
            size = len(mine) if mine[-1].at < end else next(n for n, count in enumerate(mine) if count.at >= end)
            yield _chunk(counter, batch.revision, mine[:size])
            mine = mine[size:]


def _in_order(counts: Sequence[Count]) -> Sequence[Count]:
    times = [count.micros for count in counts]
    if all(map(operator.lt, times, times[1:])):  # as they mostly come, and no two at once
        return counts
    return sorted(counts, key=lambda count: (count.at, count.hash, count.digest, *_spelling(count)))


def _spelling(count: Count) -> tuple[str, ...]:
    """How an event is written, which may be in several ways for one that is sent twice at once."""
    event = count.event
    return str(event.quantity), repr(event.time), repr(event.properties)


def _chunk(counter: CounterId, revision: int, counts: Sequence[Count]) -> Chunk:
    columns, uuids = _columns(counts)
    # Not of what zlib makes of it, which another release of zlib may make otherwise.
    placed = f"{counter_name(counter)}#{revision}"
    name = hashlib.blake2b(columns + uuids + placed.encode(), digest_size=_KEY_BYTES).hexdigest()
    kind = next(kind for kind, span in SPANS.items() if counts[-1].at - counts[0].at < span)
    key = f"{kind}#{instant_text(counts[0].at)}#{name}"
    times = len(uuids) // _UUID_BYTES * _TIME_BYTES
    blob = _VERSION + zlib.compress(columns + uuids[:times], _LEVEL) + uuids[times:]
    return Chunk(counter, revision, key, counts[-1].at, len(counts), blob)


def instant_text(at: datetime) -> str:
    """An instant as text that sorts like it: microseconds since 1970, in 17 digits."""
    return f"{microseconds(at):0{_INSTANT_DIGITS}d}"


def instant_from_text(text: str) -> datetime:
    """The instant that a position or its own text begins with."""
    return EPOCH + int(text[:_INSTANT_DIGITS]) * _MICROSECOND


def counter_name(counter: CounterId) -> str:
    """A counter among those of its customer and feature: `subscription#start of the period`."""
    return f"{counter.subscription}#{format_time(counter.period_start)}"


def counter_from_name(customer: str, feature: str, name: str) -> CounterId:
    """Read back what `counter_name` wrote."""
    subscription, start = name.split("#")
    return CounterId(customer, feature, subscription, parse_time(start))


@dataclass(frozen=True, slots=True)
class Archived:
    """An event of the archive, and where it is kept: it may have been archived in one shard and counted in another.

    It may also have been archived for one counter, not counted, and then for another one, which a newer snapshot
    named. Nothing is archived by a revision before the head's gate has it, and then nothing is counted any more by an
    older one: so it is the highest `revision` that says where it counts.
    """

    series: Series
    count: Count
    revision: int = 0


def position(archived: Archived) -> str:
    """Where an event stands among all of a customer and feature: by time, hash, digest and shard."""
    count = archived.count
    return f"{instant_text(count.at)}{count.hash.hex()}{count.digest.hex()}{archived.series.shard:04d}"


def page_of(events: Iterable[Archived], limit: int) -> tuple[list[Archived], str | None]:
    """The first `limit` events, or fewer where they hold much, and the position of the last if there are more.

    Packed they may be a thousandth of their size, so that `limit` alone would let a page outgrow the memory.
    """
    page: list[Archived] = []
    room = PAGE_BYTES
    for one in events:
        if page and (len(page) == limit or room < 0):
            return page, position(page[-1])
        page.append(one)
        room -= len(json.dumps([one.count.event.source, one.count.event.properties]))
    return page, None


def _columns(counts: Sequence[Count]) -> tuple[bytes, bytes]:
    """A line of JSON, and the ids where they are not in it."""
    events = [count.event for count in counts]
    times = [count.micros for count in counts]
    ids = [event.id for event in events]
    uuids = _uuids(ids)
    columns = [
        times[0],
        list(map(operator.sub, times[1:], times)),
        [(hour - EPOCH) // _MINUTE for hour in _folded([count.hour for count in counts])],
        _folded([count.scope for count in counts]),
        _folded([event.time is not None for event in events]),  # the time it tells is that at which it counts
        [] if uuids else ids,
        _folded([event.source for event in events]),
        _folded([str(event.quantity) for event in events]),
        *_properties([event.properties for event in events]),
    ]
    return write_json(columns) + b"\n", uuids  # it has no line break of its own


def unpack(blob: bytes, counter: CounterId) -> list[Count]:
    """The events of a chunk by time and hash, as they were to be counted; `until` and `rate` are not kept.

    Raises:
        ValueError: a later version wrote it, or it is damaged.
    """
    if blob[:1] != _VERSION:
        raise ValueError(f"an archive item of version {blob[:1].hex()}, which this release does not read")
    try:
        packed = zlib.decompressobj()
        text, _, uuids = packed.decompress(blob[1:]).partition(b"\n")
    except zlib.error as error:
        raise ValueError(f"a damaged archive item: {error}") from None
    if not packed.eof:
        raise ValueError("a damaged archive item: it ends too early")
    uuids += packed.unused_data
    first, steps, *columns, keys, properties = json.loads(text)
    times = list(accumulate(steps, initial=first))
    size = len(times)
    if len(uuids) not in {0, size * _UUID_BYTES}:
        raise ValueError("a damaged archive item: it has other ids than events")
    hours, scopes, told, ids, sources, quantities = (_unfolded(column, size) for column in columns)
    rows = zip(
        (EPOCH + time * _MICROSECOND for time in times),
        (EPOCH + hour * _MINUTE for hour in hours),
        map(Scope, scopes),
        told,
        _texts(uuids) if uuids else ids,
        sources,
        map(Decimal, quantities),
        _rows(keys, properties, size),
        strict=True,
    )
    return [_count(counter, *row) for row in rows]


def _count(
    counter: CounterId,
    at: datetime,
    hour: datetime,
    scope: Scope,
    told: bool,
    event_id: str,
    source: str,
    quantity: Decimal,
    properties: dict[str, Any] | None,
) -> Count:
    time = at if told else None
    event = Event(event_id, source, counter.customer, counter.feature, quantity, time, properties)
    name, digest = identify(event, scope, at)
    return Count(
        event=event,
        counter=counter,
        at=at,
        hour=hour,
        quantity=quantity,
        scope=scope,
        hash=name,
        digest=digest,
    )


def _folded(column: list[_Value]) -> list[_Value]:
    return column[:1] if column.count(column[0]) == len(column) else column


def _unfolded(column: list[_Value], length: int) -> list[_Value]:
    return column * length if len(column) == 1 else column


def _uuids(ids: list[str]) -> bytes:
    """Ids as bytes, if all of them are UUIDs in lower case; else none."""
    if set(map(len, ids)) != {_UUID_LENGTH}:
        return b""
    joined = "".join(ids)
    digits = joined.replace("-", "")
    hyphens = "-" * len(ids)
    if any(joined[place::_UUID_LENGTH] != hyphens for place in _HYPHENS) or len(digits) != 2 * _UUID_BYTES * len(ids):
        return b""
    try:
        raw = bytes.fromhex(digits)
    except ValueError:
        return b""
    if raw.hex() != digits:  # in capitals
        return b""
    return b"".join([raw[place::_UUID_BYTES] for place in range(_UUID_BYTES)])


def _texts(uuids: bytes) -> list[str]:
    size = len(uuids) // _UUID_BYTES
    texts = [uuids[place::size].hex() for place in range(size)]
    return [f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}" for text in texts]


def _properties(rows: list[dict[str, Any] | None]) -> tuple[list[str] | None, list[Any]]:
    """Where all have the same keys, these and a column for each; else no keys, and the properties as they are."""
    first = rows[0]
    if first is None:
        return None, rows
    keys = first.keys()
    known = [row for row in rows if row is not None and row.keys() == keys]
    if len(known) < len(rows):
        return None, rows
    return list(first), [[row[key] for row in known] for key in first]


def _rows(keys: list[str] | None, properties: list[Any], size: int) -> Iterable[dict[str, Any] | None]:
    if keys is None:
        return properties
    columns = zip(*properties, strict=True) if keys else ((),) * size
    return (dict(zip(keys, column, strict=True)) for column in columns)

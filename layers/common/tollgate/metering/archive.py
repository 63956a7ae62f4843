"""The archive of events: which of them share an item, what it is called, and how it is packed. Pure.

A `Chunk` holds events of one counter that lie less than an hour apart, in the order of time and hash. Its key
says whether they lie less than a minute apart, when the first of them counts, and what is in it: the same batch
again makes the same chunks under the same keys. A reading from some instant on begins a minute before it among
the short chunks, which are all there are where events come fast, and an hour before it among the long ones.

A packed chunk is a byte of version, and then, compressed by zlib, one line of JSON with the columns, of
which one value may stand for all, and the ids after it, where all of them are UUIDs: 16 bytes each, turned
so that the first bytes of all come first. That is 15 to 25 bytes an event in batches of 100 and more.
"""

import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import accumulate, pairwise
from typing import Any, Final, TypeVar

from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.time import format_time, parse_time
from tollgate.metering.model import EPOCH, Batch, Count, CounterId, Event, Scope, Series, identify

__all__ = [
    "SPANS",
    "Archived",
    "Chunk",
    "chunks",
    "counter_from_name",
    "counter_name",
    "instant_from_text",
    "instant_text",
    "position",
    "unpack",
]

SPANS: Final = {"M": timedelta(minutes=1), "H": timedelta(hours=1)}
"""The events of a chunk lie less than this apart, by what its key begins with: the shortest that holds."""

_LONGEST: Final = max(SPANS.values())
_MICROSECOND: Final = timedelta(microseconds=1)
_MINUTE: Final = timedelta(minutes=1)
_VERSION: Final = b"\x01"
_LEVEL: Final = 6
_KEY_BYTES: Final = 12
_INSTANT_DIGITS: Final = 17
_UUID_LENGTH: Final = 36
_UUID_BYTES: Final = 16
_UUIDS: Final = re.compile(r"(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})+")
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
    counts = sorted(batch.counts, key=_order)
    counters = dict.fromkeys(count.counter for count in counts)
    for counter in counters:
        mine = counts if len(counters) == 1 else [count for count in counts if count.counter == counter]
        while mine:
            end = mine[0].at + _LONGEST
            size = len(mine) if mine[-1].at < end else next(n for n, count in enumerate(mine) if count.at >= end)
            yield _chunk(counter, batch.revision, mine[:size])
            mine = mine[size:]


def _order(count: Count) -> tuple[datetime, bytes, bytes]:
    return count.at, count.hash, count.digest


def _chunk(counter: CounterId, revision: int, counts: Sequence[Count]) -> Chunk:
    content = _columns(counts)
    # Not of what zlib makes of it, which another release of zlib may make otherwise.
    placed = f"{counter_name(counter)}#{revision}"
    name = hashlib.blake2b(content + placed.encode(), digest_size=_KEY_BYTES).hexdigest()
    kind = next(kind for kind, span in SPANS.items() if counts[-1].at - counts[0].at < span)
    key = f"{kind}#{instant_text(counts[0].at)}#{name}"
    return Chunk(counter, revision, key, counts[-1].at, len(counts), _VERSION + zlib.compress(content, _LEVEL))


def instant_text(at: datetime) -> str:
    """An instant as text that sorts like it: microseconds since 1970, in 17 digits."""
    return f"{(at - EPOCH) // _MICROSECOND:0{_INSTANT_DIGITS}d}"


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


def _columns(counts: Sequence[Count]) -> bytes:
    events = [count.event for count in counts]
    times = [(count.at - EPOCH) // _MICROSECOND for count in counts]
    ids = [event.id for event in events]
    uuids = _uuids(ids)
    columns = [
        times[0],
        [after - before for before, after in pairwise(times)],
        [(hour - EPOCH) // _MINUTE for hour in _folded([count.hour for count in counts])],
        _folded([count.scope for count in counts]),
        _folded([event.time is not None for event in events]),  # the time it tells is that at which it counts
        [] if uuids else ids,
        _folded([event.source for event in events]),
        _folded([str(event.quantity) for event in events]),
        *_properties([event.properties for event in events]),
    ]
    text = json.dumps(columns, ensure_ascii=False, separators=(",", ":"))  # has no line break of its own
    return text.encode("utf-8", "surrogatepass") + b"\n" + uuids


def unpack(blob: bytes, counter: CounterId) -> list[Count]:
    """The events of a chunk by time and hash, as they were to be counted; `until` and `rate` are not kept.

    Raises:
        ValueError: a later version wrote it, or it is damaged.
    """
    if blob[:1] != _VERSION:
        raise ValueError(f"an archive item of version {blob[:1].hex()}, which this release does not read")
    try:
        text, _, uuids = zlib.decompress(blob[1:]).partition(b"\n")
    except zlib.error as error:
        raise ValueError(f"a damaged archive item: {error}") from None
    first, steps, *columns, keys, properties = json.loads(text.decode("utf-8", "surrogatepass"))
    times = list(accumulate(steps, initial=first))
    size = len(times)
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
    joined = "".join(ids)
    if set(map(len, ids)) != {_UUID_LENGTH} or not _UUIDS.fullmatch(joined):
        return b""
    raw = bytes.fromhex(joined.replace("-", ""))
    return b"".join(raw[place::_UUID_BYTES] for place in range(_UUID_BYTES))


def _texts(uuids: bytes) -> list[str]:
    size = len(uuids) // _UUID_BYTES
    texts = [uuids[place::size].hex() for place in range(size)]
    return [f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}" for text in texts]


def _properties(rows: list[dict[str, Any] | None]) -> tuple[list[str] | None, list[Any]]:
    """Where all have the same keys, these and a column for each; else no keys, and the properties as they are."""
    first = rows[0]
    known = [row for row in rows if row is not None and first is not None and row.keys() == first.keys()]
    if first is None or len(known) < len(rows):
        return None, rows
    return list(first), [[row[key] for row in known] for key in first]


def _rows(keys: list[str] | None, properties: list[Any], size: int) -> Iterable[dict[str, Any] | None]:
    if keys is None:
        return properties
    columns = zip(*properties, strict=True) if keys else ((),) * size
    return (dict(zip(keys, column, strict=True)) for column in columns)

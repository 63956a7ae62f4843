"""The archive of events in the usage table.

    pk                               sk                             what
    ARCHIVE#customer#feature#shard   span#first time#content        a chunk of events (archive.py)
    ARCHIVE#customer#feature#shard   span#first time#content#0001   more of it, where it is too large for an item

What is in it has been sent, not necessarily counted: a chunk is written before its events are counted.
"""

import heapq
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from math import inf
from typing import Any, Final

from pynamodb.attributes import BinaryAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.exceptions import PutError, PynamoDBException

from tollgate.kernel.dynamodb import LONGEST_CALL_SECONDS, UsageTable, connect
from tollgate.kernel.errors import Unavailable
from tollgate.kernel.time import Clock, system_clock
from tollgate.metering.archive import (
    SPANS,
    Archived,
    Chunk,
    chunks,
    counter_from_name,
    counter_name,
    instant_from_text,
    instant_text,
    page_of,
    position,
    unpack,
)
from tollgate.metering.model import Batch, Series

__all__ = ["DynamoArchive"]

_MAX_BLOB: Final = 300_000
_REQUEST_ITEMS: Final = 25
_ATTEMPTS: Final = 8
_PAUSE_SECONDS: Final = 0.02
_LONGEST_PAUSE_SECONDS: Final = 1.0
_DAY: Final = 86_400


class ArchiveItem(UsageTable, discriminator="archive"):
    """A chunk, or more of it, which then has only `blob` and `ttl`."""

    counter = UnicodeAttribute(null=True)
    revision = NumberAttribute(null=True)
    last = UnicodeAttribute(null=True)
    events = NumberAttribute(null=True)
    parts = NumberAttribute(null=True)
    blob = BinaryAttribute(legacy_encoding=False)
    ttl = NumberAttribute()


class DynamoArchive:
    """The `Archive` of the deployment; it keeps events for ARCHIVE_DAYS (400) from their receipt."""

    def __init__(self, *, clock: Clock = system_clock, pause: Callable[[float], None] = time.sleep) -> None:
        self._clock = clock
        self._pause = pause
        self._keep = timedelta(days=int(os.environ.get("ARCHIVE_DAYS", "400")))

    def put(self, batch: Batch, time_left: Callable[[], float] = lambda: inf) -> None:
        """Keep the events of a batch before they are counted; the same batch again changes nothing.

        Raises:
            PynamoDBException, ClientError, BotoCoreError: they are not kept, or some are not, within the seconds left.
        """
        connect(UsageTable)
        # A whole number of days, so that a retry writes the very same item.
        ttl = -(-(self._clock() + self._keep).timestamp() // _DAY) * _DAY
        items = [item for chunk in chunks(batch) for item in _items(_pk(batch.series), chunk, int(ttl))]
        if len(items) == 1:
            client: Any = connect(UsageTable).client  # half the time of a save
            client.put_item(TableName=UsageTable.Meta.table_name, Item=items[0])
            return
        for start in range(0, len(items), _REQUEST_ITEMS):
            self._write(items[start : start + _REQUEST_ITEMS], time_left)

    def _write(self, items: Sequence[dict[str, Any]], time_left: Callable[[], float]) -> None:
        table = UsageTable.Meta.table_name
        left = items
        for attempt in range(_ATTEMPTS):
            if time_left() <= LONGEST_CALL_SECONDS:
                break
            answer = connect(UsageTable).batch_write_item(table, put_items=left)
            left = [request["PutRequest"]["Item"] for request in answer.get("UnprocessedItems", {}).get(table, ())]
            if not left:
                return
            longest = min(_PAUSE_SECONDS * 2**attempt, _LONGEST_PAUSE_SECONDS)
            self._pause(random.uniform(0, longest))  # noqa: S311  spreads writers, guards nothing
        raise PutError(f"{len(left)} archive items were not written in {_ATTEMPTS} attempts, or in time")

    def read(
        self,
        customer: str,
        feature: str,
        start: datetime,
        end: datetime,
        *,
        after: str | None = None,
        limit: int,
        shards: int = 1,
    ) -> tuple[list[Archived], str | None]:
        """Archived events of [start, end) in the order of their positions; one archived twice is there once.

        Args:
            customer: whose events.
            feature: of what.
            start: the first instant.
            end: the instant after the last.
            after: the position that an earlier page ended at.
            limit: how many events at most; fewer where they hold more than PAGE_BYTES.
            shards: in how many parts the counter is or was kept.

        Returns:
            The events, and the position to go on after if there may be more.

        Raises:
            Unavailable: the database cannot be read now.
        """
        connect(UsageTable)
        start = max(start, instant_from_text(after)) if after else start
        all_series = [Series(customer, feature, shard) for shard in range(shards)]
        page_size = max(limit // 10, 10)  # items, of which each has from 1 to 500 events
        streams = [_read(series, kind, start, end, page_size) for series in all_series for kind in SPANS]
        merged = _distinct(heapq.merge(*streams, key=position))
        try:
            return page_of((one for one in merged if not after or position(one) > after), limit)
        except PynamoDBException as error:
            raise Unavailable("The archive cannot be read now; send the request again.") from error


def _items(pk: str, chunk: Chunk, ttl: int) -> Iterator[dict[str, Any]]:
    """The items of a chunk as an `ArchiveItem` is stored: PynamoDB would take five times as long to make them."""
    first, *more = (chunk.blob[start : start + _MAX_BLOB] for start in range(0, len(chunk.blob), _MAX_BLOB))
    item = _item(pk, chunk.key, first, ttl) | {
        "counter": {"S": counter_name(chunk.counter)},
        "revision": {"N": str(chunk.revision)},
        "last": {"S": instant_text(chunk.last)},
        "events": {"N": str(chunk.events)},
    }
    yield item | {"parts": {"N": str(len(more))}} if more else item
    for number, part in enumerate(more, 1):
        yield _item(pk, f"{chunk.key}#{number:04d}", part, ttl)


def _item(pk: str, sk: str, blob: bytes, ttl: int) -> dict[str, Any]:
    kind = {"S": "archive"}
    return {"pk": {"S": pk}, "sk": {"S": sk}, "kind": kind, "blob": {"B": blob}, "ttl": {"N": str(ttl)}}


def _read(series: Series, kind: str, start: datetime, end: datetime, page_size: int) -> Iterator[Archived]:
    """The events of a shard's chunks of one span in the order of their positions; chunks may overlap by less."""
    keys = ArchiveItem.sk.between(f"{kind}#{instant_text(start - SPANS[kind])}", f"{kind}#{instant_text(end)}")
    items = ArchiveItem.query(_pk(series), keys, consistent_read=True, page_size=page_size)
    waiting: dict[str, Archived] = {}
    places: list[str] = []  # of those, as a heap
    for item, blob in _whole(items):
        begins = item.sk.removeprefix(f"{kind}#")
        while places and places[0] < begins:
            yield waiting.pop(heapq.heappop(places))
        if item.last < instant_text(start):
            continue
        for count in unpack(blob, counter_from_name(series.customer, series.feature, item.counter)):
            archived = Archived(series, count, int(item.revision or 0))
            place = position(archived)
            if not start <= count.at < end:
                continue
            if place not in waiting:
                heapq.heappush(places, place)
            waiting[place] = max(archived, waiting.get(place, archived), key=_revision)
    while places:
        yield waiting.pop(heapq.heappop(places))


def _distinct(events: Iterator[Archived]) -> Iterator[Archived]:
    """Of the events that share a position the one of the highest revision."""
    for _, same in groupby(events, key=position):
        yield max(same, key=_revision)


def _revision(archived: Archived) -> int:
    return archived.revision


def _whole(items: Iterator[ArchiveItem]) -> Iterator[tuple[ArchiveItem, bytes]]:
    """Chunks and their blobs; one of which a part is missing was not written to its end, so never counted."""
    first: ArchiveItem | None = None
    blobs: list[bytes] = []
    for item in items:
        if item.counter is not None:
            first, blobs = item, [item.blob]
        elif first is not None and item.sk == f"{first.sk}#{len(blobs):04d}":
            blobs.append(item.blob)
        if first is not None and len(blobs) == 1 + int(first.parts or 0):
            yield first, b"".join(blobs)
            first = None


def _pk(series: Series) -> str:
    return f"ARCHIVE#{series.customer}#{series.feature}#{series.shard}"

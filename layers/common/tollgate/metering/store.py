"""Counters in the usage table.

    pk                        sk                              what
    COUNTER#customer#feature  HEAD#subscription#period start  the counter of a period
    COUNTER#customer#feature  PAGE#quarter of an hour         the events seen in it, and their sums
    COUNTER#customer#feature  FULL#quarter of an hour#0001    event ids of that page, full and never changed
    COUNTER#customer#feature  RATE                            where the customer stands in a rate limit
    EVENT#hash                MARKER                          an event whose time says nothing was seen

A batch is counted by reading what it touches and writing the difference in one transaction, each item on
condition that it still has the version read. A writer that loses reads again and tries again, after a
random pause, while there is time.
"""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from aws_lambda_powertools.logging import Logger
from pynamodb.attributes import (
    BinaryAttribute,
    JSONAttribute,
    NumberAttribute,
    UnicodeAttribute,
    UTCDateTimeAttribute,
    VersionAttribute,
)
from pynamodb.exceptions import PynamoDBException
from pynamodb.models import Model
from pynamodb.transactions import TransactWrite

from tollgate.kernel.dynamodb import LONGEST_CALL_SECONDS, DecimalAttribute, UsageTable, connect, is_worth_retrying
from tollgate.kernel.time import format_time, parse_time, system_clock
from tollgate.metering.counting import Marker, Page, State, count_batch, split
from tollgate.metering.model import Batch, CounterId, Outcome, Tally, bucket_of
from tollgate.metering.rates import RateState

__all__ = ["DynamoCounters"]

_HASH_BYTES: Final = 12
_RECORD_BYTES: Final = 16
_FULL_PAGE: Final = 2_000
_WORKERS: Final = 8
_PAUSE_SECONDS: Final = 0.02
_LONGEST_PAUSE_SECONDS: Final = 1.0
_KEEP_PAGES: Final = timedelta(days=400)
_KEEP_MARKERS: Final = timedelta(days=30)  # longer than two queues may hold a message, one after the other

logger = Logger(child=True)


class HeadItem(UsageTable, discriminator="head"):
    """The counter of a period."""

    version = VersionAttribute()
    quantity = DecimalAttribute()
    events = NumberAttribute()
    latest = UnicodeAttribute()


class PageItem(UsageTable, discriminator="page"):
    """The events seen in a quarter of an hour: 12 bytes of id and 4 of digest each, and their sums."""

    version = VersionAttribute()
    ids = BinaryAttribute(legacy_encoding=False)
    full_pages = NumberAttribute(default=0)
    tallies = JSONAttribute(default=dict)
    ttl = NumberAttribute()


class FullPageItem(UsageTable, discriminator="full_page"):
    """Ids that no longer fit the page."""

    ids = BinaryAttribute(legacy_encoding=False)
    ttl = NumberAttribute()


class MarkerItem(UsageTable, discriminator="marker"):
    """An event was seen."""

    digest = BinaryAttribute(legacy_encoding=False)
    until = UTCDateTimeAttribute()
    ttl = NumberAttribute()


class RateItem(UsageTable, discriminator="rate"):
    """The state of a rate limit."""

    version = VersionAttribute()
    window_seconds = NumberAttribute()
    window = NumberAttribute()
    used = DecimalAttribute()
    previous = DecimalAttribute()
    tat = DecimalAttribute()


@dataclass(slots=True)
class _Loaded:
    """The items a batch touches, those that exist, by their sort key or hash."""

    heads: dict[CounterId, HeadItem]
    pages: dict[datetime, PageItem]
    older_ids: dict[datetime, dict[bytes, bytes]]
    markers: dict[bytes, MarkerItem]
    rate: RateItem | None


class DynamoCounters:
    """The `Counters` of the deployment."""

    def __init__(self, *, pause: Callable[[float], None] = time.sleep) -> None:
        self._pause = pause

    def count(self, batches: Sequence[Batch], now: datetime, time_left: Callable[[], float]) -> list[list[Outcome]]:
        """Count batches side by side, each as often as it takes within the time left."""
        connect(UsageTable)
        with ThreadPoolExecutor(_WORKERS) as pool:
            return list(pool.map(lambda batch: self._count_batch(batch, now, time_left), batches))

    def _count_batch(self, batch: Batch, now: datetime, time_left: Callable[[], float]) -> list[Outcome]:
        outcomes = [Outcome.UNAVAILABLE] * len(batch.counts)
        # The parts of a batch share a counter: one after the other, or they would race each other.
        for places, part in split(batch):
            for place, outcome in zip(places, self._count(part, now, time_left), strict=True):
                outcomes[place] = outcome
        return outcomes

    def _count(self, batch: Batch, now: datetime, time_left: Callable[[], float]) -> list[Outcome]:
        attempt = 0
        while time_left() > LONGEST_CALL_SECONDS + 1:
            try:
                loaded = _load(batch)
                state = _state(loaded, batch)
                outcomes = count_batch(batch, state, now)
                if Outcome.ACCEPTED in outcomes:
                    _write(batch, loaded, state, now)
            except PynamoDBException as error:
                if not is_worth_retrying(error):
                    logger.exception("a batch could not be counted")
                    break
            else:
                return outcomes
            attempt += 1
            # Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
            longest = min(_PAUSE_SECONDS * 2**attempt, _LONGEST_PAUSE_SECONDS, max(time_left(), 0))
            self._pause(random.uniform(0, longest))  # noqa: S311  spreads writers, guards nothing
        return [Outcome.UNAVAILABLE] * len(batch.counts)

    def tallies(self, counters: Iterable[CounterId]) -> dict[CounterId, Tally]:
        """What counters hold now; those that hold nothing are left out."""
        connect(UsageTable)
        items = HeadItem.batch_get([_head_key(counter) for counter in counters], consistent_read=True)
        return {_counter_of(item): _tally(item) for item in items}

    def periods(self, customer: str, feature: str) -> dict[CounterId, Tally]:
        """All counters of a customer and feature: one per period that has seen an event."""
        connect(UsageTable)
        condition = HeadItem.sk.startswith("HEAD#")
        items = HeadItem.query(_pk(customer, feature), condition, consistent_read=True)
        return {_counter_of(item): _tally(item) for item in items}

    def buckets(
        self, customer: str, feature: str, start: datetime, end: datetime
    ) -> list[tuple[datetime, CounterId, Tally]]:
        """What the quarters of an hour in [start, end) hold, in the order of time."""
        connect(UsageTable)
        first, last = _page_sk(bucket_of(start)), _page_sk(end - timedelta(microseconds=1))
        items = PageItem.query(_pk(customer, feature), PageItem.sk.between(first, last), consistent_read=True)
        return [
            (parse_time(item.sk.removeprefix("PAGE#")), counter, tally)
            for item in items
            for counter, tally in _page_tallies(item, customer, feature).items()
        ]

    def rate(self, customer: str, feature: str) -> RateState:
        """Where a customer stands in a rate limit."""
        connect(UsageTable)
        try:
            return _rate_state(RateItem.get(_pk(customer, feature), "RATE", consistent_read=True))
        except RateItem.DoesNotExist:
            return RateState()


def _load(batch: Batch) -> _Loaded:
    pk = _pk(batch.customer, batch.feature)
    buckets = {_page_sk(bucket_of(count.at)): bucket_of(count.at) for count in batch.counts}
    keys = [
        *{_head_key(count.counter) for count in batch.counts},
        *((pk, sk) for sk in buckets),
        *{(_marker_pk(count.hash), "MARKER") for count in batch.counts if count.until},
        *([(pk, "RATE")] if any(count.rate for count in batch.counts) else []),
    ]
    loaded = _Loaded({}, {}, {}, {}, None)
    for item in UsageTable.batch_get(keys, consistent_read=True):
        match item:
            case HeadItem():
                loaded.heads[_counter_of(item)] = item
            case PageItem():
                loaded.pages[buckets[item.sk]] = item
                loaded.older_ids[buckets[item.sk]] = _full_pages(item) if item.full_pages else {}
            case MarkerItem():
                loaded.markers[bytes.fromhex(item.pk.removeprefix("EVENT#"))] = item
            case RateItem():
                loaded.rate = item
    return loaded


def _full_pages(page: PageItem) -> dict[bytes, bytes]:
    items = FullPageItem.query(page.pk, FullPageItem.sk.startswith(_full_sk(page.sk)), consistent_read=True)
    return {event: digest for item in items for event, digest in _ids(item.ids).items()}


def _state(loaded: _Loaded, batch: Batch) -> State:
    pages = {
        bucket: Page(_ids(item.ids), loaded.older_ids[bucket], _page_tallies(item, batch.customer, batch.feature))
        for bucket, item in loaded.pages.items()
    }
    return State(
        tallies={counter: _tally(item) for counter, item in loaded.heads.items()},
        pages=pages,
        markers={event: Marker(item.digest, item.until) for event, item in loaded.markers.items()},
        rate=_rate_state(loaded.rate) if loaded.rate else RateState(),
    )


def _write(batch: Batch, loaded: _Loaded, state: State, now: datetime) -> None:
    """Write what differs between what was loaded and the state, or nothing at all."""
    pk = _pk(batch.customer, batch.feature)
    with TransactWrite(connection=connect(UsageTable)) as transaction:
        for counter, tally in state.tallies.items():
            head = loaded.heads.get(counter) or HeadItem(*_head_key(counter), events=0)
            if tally.events != head.events:
                head.quantity, head.events, head.latest = tally.quantity, tally.events, tally.latest
                transaction.save(head)
        for bucket, page in state.pages.items():
            if page.changed:
                for item, new in _page_items(pk, bucket, page, loaded.pages.get(bucket), now):
                    transaction.save(item, condition=FullPageItem.pk.does_not_exist() if new else None)
        for event, marker in state.markers.items():
            if event not in loaded.markers or loaded.markers[event].until <= now:
                made = MarkerItem(
                    _marker_pk(event),
                    "MARKER",
                    digest=marker.digest,
                    until=marker.until,
                    ttl=_ttl(max(marker.until, system_clock()) + _KEEP_MARKERS),
                )
                free = MarkerItem.pk.does_not_exist() | (MarkerItem.until <= now)
                transaction.save(made, condition=free)
        if state.rate != (_rate_state(loaded.rate) if loaded.rate else RateState()):
            rate = loaded.rate or RateItem(pk, "RATE")
            rate.window_seconds, rate.window = state.rate.window_seconds, state.rate.window
            rate.used, rate.previous, rate.tat = state.rate.count, state.rate.previous, state.rate.tat
            transaction.save(rate)


def _page_items(
    pk: str, bucket: datetime, page: Page, stored: PageItem | None, now: datetime
) -> list[tuple[Model, bool]]:
    """The page as items, each with whether it must be new; ids of a full page move to one of their own."""
    item = stored or PageItem(pk, _page_sk(bucket), full_pages=0)
    item.ttl = _ttl(max(bucket, now) + _KEEP_PAGES)
    item.tallies = {
        _head_sk(counter): [str(tally.quantity), tally.events, tally.latest] for counter, tally in page.tallies.items()
    }
    ids = b"".join(event + digest for event, digest in page.ids.items())
    if len(page.ids) < _FULL_PAGE:
        item.ids = ids
        return [(item, False)]
    item.ids = b""
    item.full_pages += 1
    full = FullPageItem(pk, f"{_full_sk(item.sk)}{item.full_pages:04d}", ids=ids, ttl=item.ttl)
    return [(item, False), (full, True)]


def _ids(blob: bytes) -> dict[bytes, bytes]:
    records = (blob[start : start + _RECORD_BYTES] for start in range(0, len(blob), _RECORD_BYTES))
    return {record[:_HASH_BYTES]: record[_HASH_BYTES:] for record in records}


def _page_tallies(page: PageItem, customer: str, feature: str) -> dict[CounterId, Tally]:
    return {
        _counter(customer, feature, sk): Tally(Decimal(quantity), events, latest)
        for sk, (quantity, events, latest) in page.tallies.items()
    }


def _tally(head: HeadItem) -> Tally:
    return Tally(head.quantity, int(head.events), head.latest)


def _rate_state(item: RateItem) -> RateState:
    return RateState(int(item.window_seconds), int(item.window), item.used, item.previous, item.tat)


def _pk(customer: str, feature: str) -> str:
    return f"COUNTER#{customer}#{feature}"


def _head_sk(counter: CounterId) -> str:
    return f"HEAD#{counter.subscription}#{format_time(counter.period_start)}"


def _head_key(counter: CounterId) -> tuple[str, str]:
    return _pk(counter.customer, counter.feature), _head_sk(counter)


def _counter(customer: str, feature: str, sk: str) -> CounterId:
    _, subscription, start = sk.split("#")
    return CounterId(customer, feature, subscription, parse_time(start))


def _counter_of(head: HeadItem) -> CounterId:
    _, customer, feature = head.pk.split("#")
    return _counter(customer, feature, head.sk)


def _page_sk(bucket: datetime) -> str:
    return f"PAGE#{format_time(bucket)}"


def _full_sk(page_sk: str) -> str:
    return f"FULL#{page_sk.removeprefix('PAGE#')}#"


def _marker_pk(event: bytes) -> str:
    return f"EVENT#{event.hex()}"


def _ttl(at: datetime) -> int:
    return int(at.timestamp())

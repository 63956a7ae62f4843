"""The counting rule: what a batch changes in what is stored, or that it changes nothing. Pure.

The store reads a `State`, this module says what it becomes, and the store writes the difference in one
transaction that fails if anything read has changed meanwhile. So the record that an event was seen and
the counter it went into change together or not at all.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Final

from tollgate.catalog.model import Aggregation
from tollgate.metering.model import Batch, Count, CounterId, Outcome, Tally, bucket_of
from tollgate.metering.rates import RateState, record

__all__ = ["MAX_ITEMS", "Marker", "Page", "State", "count_batch", "split"]

MAX_ITEMS: Final = 90
"""Items that a part of a batch may touch: a transaction takes 100."""


@dataclass(slots=True)
class Page:
    """A quarter of an hour of one customer and feature: the events seen in it, and what they add up to."""

    ids: dict[bytes, bytes] = field(default_factory=dict)  # hash -> digest
    older_ids: dict[bytes, bytes] = field(default_factory=dict)  # those in pages that are full
    tallies: dict[CounterId, Tally] = field(default_factory=dict)
    changed: bool = False


@dataclass(frozen=True, slots=True)
class Marker:
    """An event seen whose time says nothing: (source, id) alone must not come again until `until`."""

    digest: bytes
    until: datetime


@dataclass(slots=True)
class State:
    """What is stored of all that a batch touches."""

    tallies: dict[CounterId, Tally]
    pages: dict[datetime, Page]
    markers: dict[bytes, Marker]
    rate: RateState


def split(batch: Batch) -> Iterator[tuple[list[int], Batch]]:
    """The batch in parts that one transaction each can hold, with the places their counts had in it.

    Events of one bucket, and those with one id, stay together and in the order of the request.
    """
    first: dict[bytes, datetime] = {}
    for count in batch.counts:
        first.setdefault(count.hash, count.at)
    order = sorted(
        range(len(batch.counts)),
        key=lambda place: first[batch.counts[place].hash] if batch.counts[place].until else batch.counts[place].at,
    )
    places: list[int] = []
    items: set[object] = set()
    for place in order:
        touched = _items(batch.counts[place])
        if len(items | touched) > MAX_ITEMS:
            yield places, _part(batch, places)
            places, items = [], set()
        places.append(place)
        items |= touched
    yield places, _part(batch, places)


def _items(count: Count) -> set[object]:
    # A page may overflow into a second item.
    bucket = bucket_of(count.at)
    items: set[object] = {"rate", count.counter, bucket, (bucket, "full")}
    return items | {count.hash} if count.until else items


def _part(batch: Batch, places: list[int]) -> Batch:
    return Batch(batch.customer, batch.feature, batch.aggregation, tuple(batch.counts[place] for place in places))


def count_batch(batch: Batch, state: State, now: datetime) -> list[Outcome]:
    """Count a batch into the state: an outcome per event, in order; the state holds what is to be written."""
    return [_count(count, batch, state, now) for count in batch.counts]


def _count(count: Count, batch: Batch, state: State, now: datetime) -> Outcome:
    page = state.pages.setdefault(bucket_of(count.at), Page())
    seen = _seen(count, page, state, now)
    if seen is not None:
        return Outcome.DUPLICATE if seen == count.digest else Outcome.CONFLICT
    used = Decimal(1) if batch.aggregation is Aggregation.COUNT else count.quantity
    try:
        total = state.tallies.get(count.counter, Tally()).add(count, batch.aggregation)
        in_page = page.tallies.get(count.counter, Tally()).add(count, batch.aggregation)
        rate = record(state.rate, count.rate, min(count.at, now), used) if count.rate else state.rate
    except OverflowError:
        return Outcome.OUT_OF_RANGE
    state.rate = rate
    state.tallies[count.counter] = total
    page.tallies[count.counter] = in_page
    page.changed = True
    if count.until is None:
        page.ids[count.hash] = count.digest
    else:
        state.markers[count.hash] = Marker(count.digest, count.until)
    return Outcome.ACCEPTED


def _seen(count: Count, page: Page, state: State, now: datetime) -> bytes | None:
    if count.until is None:
        return page.ids.get(count.hash) or page.older_ids.get(count.hash)
    marker = state.markers.get(count.hash)
    # DynamoDB deletes late: a marker whose time is over does not count.
    return marker.digest if marker is not None and marker.until > now else None

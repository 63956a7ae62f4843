"""An archive in memory, and events for it."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from tollgate.metering.archive import Archived, page_of, position
from tollgate.metering.model import Batch, Count, CounterId, Event, Scope, identify

__all__ = ["COUNTER", "PERIOD", "FakeArchive", "archived_count"]

PERIOD = datetime(2026, 1, 1, tzinfo=UTC)
COUNTER = CounterId("ada", "requests", "sub", PERIOD)


class FakeArchive:
    """An archive whose pages are cut from one list."""

    def __init__(self) -> None:
        self._kept: dict[str, Archived] = {}

    def put(self, batch: Batch) -> None:
        """Keep the events of a batch."""
        for count in batch.counts:
            archived = Archived(batch.series, count, batch.revision)
            place = position(archived)
            self._kept[place] = max(archived, self._kept.get(place, archived), key=lambda one: one.revision)

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
        """A page of the events of [start, end)."""
        places = [
            place
            for place, one in sorted(self._kept.items())
            if (one.series.customer, one.series.feature) == (customer, feature)
            and one.series.shard < shards
            and start <= one.count.at < end
            and place > (after or "")
        ]
        return page_of((self._kept[place] for place in places), limit)


def archived_count(
    event_id: str,
    quantity: Decimal | str = "1",
    *,
    at: datetime = PERIOD,
    told: bool = True,
    source: str = "/app",
    scope: Scope = Scope.TIME,
    properties: dict[str, Any] | None = None,
    counter: CounterId = COUNTER,
) -> Count:
    """An event as it would be counted, in UTC."""
    number = Decimal(quantity)
    event = Event(event_id, source, counter.customer, counter.feature, number, at if told else None, properties)
    name, digest = identify(event, scope, at)
    return Count(
        event=event,
        counter=counter,
        at=at,
        hour=at.replace(minute=0, second=0, microsecond=0),
        quantity=number,
        scope=scope,
        hash=name,
        digest=digest,
    )

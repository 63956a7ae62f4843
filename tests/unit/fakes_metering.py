"""Counters and a directory in memory: the rules of metering with no database under them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal

from tollgate.catalog.model import Aggregation, Customer, Feature, Plan, Rate, Sharding, Snapshot, Subscription
from tollgate.catalog.periods import Period
from tollgate.metering.counters import LostRace, SeriesCounters
from tollgate.metering.model import (
    EPOCH,
    Adjustment,
    Count,
    CounterId,
    Event,
    Scope,
    Series,
    Tally,
    identify,
)
from tollgate.metering.rates import RateState
from tollgate.metering.series import (
    Change,
    DayId,
    Head,
    Known,
    Marker,
    Missing,
    Page,
    PastCounter,
    is_known,
    missing_for,
    time_bucket,
)


@dataclass
class Stored:
    """What is stored of a series."""

    head: Head | None = None
    pages: dict[str, dict[int, tuple[frozenset[bytes], frozenset[bytes]]]] = field(default_factory=dict)
    periods: dict[CounterId, PastCounter] = field(default_factory=dict)
    days: dict[DayId, dict[datetime, Tally]] = field(default_factory=dict)


class FakeCounters(SeriesCounters):
    """A `Counters` that keeps all in memory; a write fails on the same conditions as in the database."""

    def __init__(self) -> None:
        super().__init__(pause=lambda _: None)
        self._stored: dict[Series, Stored] = {}
        self._markers: dict[bytes, Marker] = {}
        self._adjusted: set[tuple[Series, CounterId]] = set()

    def _of(self, series: Series) -> Stored:
        return self._stored.setdefault(series, Stored())

    def _read_heads(self, wanted: Sequence[Series]) -> dict[Series, Head]:
        heads = {series: self._of(series).head for series in wanted}
        return {series: deepcopy(head) for series, head in heads.items() if head is not None}

    def _load(self, series: Series, known: Known, missing: Missing) -> None:
        stored, structure = self._of(series), known.head.structure if known.head else 0
        for at in missing.floors:
            start = max(begin for key in stored.pages if (begin := time_bucket(key)) is not None and begin <= at)
            known.floors[start] = max(at, known.floors.get(start, start))
        for key in missing.pages:
            page = Page(structure)
            for ids, digests in stored.pages.get(key, {}).values():
                page.ids |= ids
                page.digests |= digests
            known.pages[key] = page
        known.periods |= {counter: stored.periods.get(counter) for counter in missing.periods}
        known.days |= {day: dict(stored.days.get(day, {})) for day in missing.days}
        known.markers |= {event: self._markers.get(event) for event in missing.markers}

    def _write(self, series: Series, change: Change, known: Known) -> Head:
        stored, old = self._of(series), known.head
        head = stored.head
        if (head is None) != (old is None) or (head and old and head.structure != old.structure):
            raise LostRace(deepcopy(head))
        if head is None or not change.adds:
            assert head is None or old is None or head.tally.events == old.tally.events
            head = deepcopy(change.head)
        else:
            assert not head.ids & change.ids
            assert not change.ids or len(head.ids) + len(change.ids) <= change.room
            head = replace(
                head,
                structure=change.head.structure,
                end=change.head.end,
                tally=head.tally.merge(change.added, Aggregation.SUM),
                ids=head.ids | change.ids,
                digests=head.digests | change.digests,
                hours=dict(head.hours),
            )
            for hour, tally in change.hours.items():
                head.hours[hour] = head.hours.get(hour, Tally()).merge(tally, Aggregation.SUM)
        stored.head = head
        for page in change.pages:
            structure = head.structure if page.replaces is None else page.replaces
            stored.pages.setdefault(page.key, {})[structure] = (page.ids, page.digests)
        stored.periods |= change.periods
        stored.days |= deepcopy(change.days)
        self._markers |= change.markers
        self._adjusted |= {(series, counter) for counter in change.adjusted}
        self._adjusted -= {(series, counter) for counter in change.settled}
        return deepcopy(head)

    def tallies(self, counters: Iterable[CounterId], shards: Mapping[str, int] | None = None) -> dict[CounterId, Tally]:
        """What counters hold."""
        found = {}
        for counter in counters:
            total = Tally()
            for number in range((shards or {}).get(counter.feature, 1)):
                periods = self._all(Series(counter.customer, counter.feature, number))
                total = total.merge(periods.get(counter, Tally()), Aggregation.SUM)
            if total.events:
                found[counter] = total
        return found

    def _all(self, series: Series) -> dict[CounterId, Tally]:
        stored = self._of(series)
        counters = {counter: past.tally for counter, past in stored.periods.items()}
        if stored.head is not None and stored.head.counter is not None:
            counters[stored.head.counter] = stored.head.tally
        return counters

    def hours(
        self, customer: str, feature: str, start: datetime, end: datetime, shards: int = 1
    ) -> list[tuple[datetime, CounterId, Tally]]:
        """What the hours that begin in [start, end) hold."""
        rows = []
        for number in range(shards):
            stored = self._of(Series(customer, feature, number))
            rows += [(hour, day[0], tally) for day, hours in stored.days.items() for hour, tally in hours.items()]
            if stored.head is not None and stored.head.counter is not None:
                counter = stored.head.counter
                rows += [(hour, counter, tally) for hour, tally in stored.head.hours.items()]
        return sorted((row for row in rows if start <= row[0] < end), key=lambda row: row[0])

    def rate(self, customer: str, feature: str) -> RateState:
        """Where a customer stands in a rate limit."""
        head = self._of(Series(customer, feature)).head
        return head.rate if head else RateState()

    def counted(self, series: Series, counts: Sequence[Count]) -> list[bool]:
        """Whether each event is among those that were counted."""
        known = Known(self._of(series).head)
        while missing := missing_for(counts, known):
            self._load(series, known, missing)
        return [bool(is_known(count, known, exactly=True)) for count in counts]

    def find(self, series: Series, hashes: Collection[bytes], start: datetime, end: datetime) -> Period | None:
        """The newest stretch of time that touches [start, end] and has one of the ids."""
        wanted, stored = set(hashes), self._of(series)
        times = [at for event in wanted & self._markers.keys() for at in self._markers[event].at]
        found = [Period(at, at + timedelta(microseconds=1)) for at in times]
        buckets = [(key, ids) for key, pages in stored.pages.items() for ids, _ in pages.values()]
        if stored.head is not None:
            day = stored.head.day or 0
            found += [_days(day)] if any(each[-1] & 1 for each in stored.head.ids & wanted) else []
            buckets.append((f"T#{stored.head.start}", frozenset(e for e in stored.head.ids if not e[-1] & 1)))
        for key, ids in buckets:
            if ids & wanted:
                number = int(key.split("#")[1])
                since = EPOCH + timedelta(seconds=number)
                until = stored.head.end - number if key.startswith("T") and stored.head else 3_600
                found.append(_days(number) if key.startswith("L") else Period(since, since + timedelta(seconds=until)))
        touching = [period for period in found if period.start <= end and start < period.end]
        return max(touching, key=lambda period: period.end, default=None)

    def adjustments(self, subscription: str) -> list[Adjustment]:
        """The closed counters of a subscription that have had events since."""
        found = []
        for series, counter in sorted(self._adjusted, key=repr):
            past = self._of(series).periods[counter]
            if counter.subscription == subscription and past.closed is not None:
                found.append(Adjustment(series, counter, past.closed, past.tally))
        return found


def _days(day: int) -> Period:
    return Period(EPOCH + timedelta(days=day), EPOCH + timedelta(days=day + 1))


def make_count(
    number: int,
    quantity: str = "1",
    *,
    at: datetime,
    counter: CounterId,
    scope: Scope = Scope.TIME,
    body: str = "",
    until: datetime | None = None,
    rate: Rate | None = None,
) -> Count:
    """The event of that number, ready to be counted; another `body` is another event with the same id."""
    told = None if scope is Scope.RECEIPT else at
    properties = {"body": body} if body else {}
    event = Event(f"e{number}", "", counter.customer, counter.feature, Decimal(quantity), told, properties)
    known, digest = identify(event, scope, told)
    hour = at.replace(minute=0, second=0, microsecond=0)
    return Count(event, counter, at, hour, event.quantity, scope, known, digest, until, rate)


class FakeDirectory:
    """A `Directory` of what the test has put into it."""

    def __init__(
        self,
        *,
        customers: Iterable[Customer] = (),
        features: Iterable[Feature] = (),
        plans: Iterable[Plan] = (),
        subscriptions: Iterable[Subscription] = (),
    ) -> None:
        self._customers = {one.id: one for one in customers}
        self._features = {one.code: one for one in features}
        self._plans = {(one.code, one.version): one for one in plans}
        self._subscriptions = tuple(subscriptions)
        self.shards: Mapping[str, tuple[Sharding, ...]] = {}

    def snapshots_of(self, customer_ids: Iterable[str]) -> dict[str, Snapshot]:
        """The subscriptions of customers; those with none are left out."""
        found = {
            customer: tuple(one for one in self._subscriptions if one.customer == customer) for customer in customer_ids
        }
        return {customer: Snapshot(mine, self.shards) for customer, mine in found.items() if mine}

    def plan(self, code: str, version: int | None = None) -> Plan | None:
        """A plan version."""
        return self._plans.get((code, version or 1))

    def features(self, codes: Iterable[str]) -> dict[str, Feature]:
        """Those of the features that exist."""
        return {code: self._features[code] for code in codes if code in self._features}

    def customers(self, customer_ids: Iterable[str]) -> dict[str, Customer]:
        """Those of the customers that exist."""
        return {one: self._customers[one] for one in customer_ids if one in self._customers}

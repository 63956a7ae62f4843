"""Counters and a directory in memory: the rules of metering with no database under them."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal

from tollgate.catalog.model import Aggregation, Customer, Feature, Plan, Rate, Sharding, Snapshot, Subscription
from tollgate.catalog.periods import Period
from tollgate.catalog.snapshots import Published
from tollgate.metering.counters import LostRace, ReservationChanged, SeriesCounters
from tollgate.metering.model import (
    EPOCH,
    Adjustment,
    Count,
    CounterId,
    Event,
    Reservation,
    Scope,
    Series,
    Tally,
    identify,
)
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
        self._reservations: dict[str, Reservation] = {}
        self._features: dict[str, frozenset[str]] = {}

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
        return self._write_together({series: change}, {}, {series: known})[series]

    def _write_together(
        self, changes: Mapping[Series, Change], guards: Mapping[Series, int], known: Mapping[Series, Known]
    ) -> dict[Series, Head]:
        lost = {series: head for series, change in changes.items() if (head := self._lost(series, change, known))}
        lost |= {one: head for one, rev in guards.items() if (head := self._of(one).head) and head.revision != rev}
        if lost:
            raise LostRace(deepcopy(lost))
        for change in changes.values():
            if (new := change.reservation) and self._reservations.get(new.id) != change.reserved:
                raise ReservationChanged
        return {series: self._put(series, change) for series, change in changes.items()}

    def _lost(self, series: Series, change: Change, known: Mapping[Series, Known]) -> Head | None:
        """The head, where it is not what a change was made for."""
        head, old = self._of(series).head, known[series].head
        if head is None or old is None:
            return head
        if head.structure != old.structure or head.revision > old.revision:
            return head
        if not change.adds:
            return head if (head.tally.events, head.holds) != (old.tally.events, old.holds) else None
        taken = sum(head.holds.values(), head.tally.quantity)
        fails = (
            change.most is not None and taken > change.most,
            any(head.holds.get(each, 0) >= quantity for each, quantity in change.unheld.items()),
            any(head.holds.get(each, 0) < -quantity for each, quantity in change.held.items()),
            any(head.holds.get(each) != quantity for each, quantity in change.freed.items()),
            change.ids and (head.ids & change.ids or len(head.ids) + len(change.ids) > change.room),
            change.rate and head.rate != change.rate.old,
        )
        return head if any(fails) else None

    def _put(self, series: Series, change: Change) -> Head:
        stored = self._of(series)
        head = stored.head
        if head is None or not change.adds:
            head = deepcopy(change.head)
        else:
            head = replace(
                head,
                structure=change.head.structure,
                end=change.head.end,
                tally=head.tally.merge(change.added, Aggregation.SUM),
                ids=head.ids | change.ids,
                digests=head.digests | change.digests,
                hours=dict(head.hours),
                rate=change.rate.new if change.rate else head.rate,
                holds={each: held for each, held in head.holds.items() if each not in change.freed},
            )
            for hour, tally in change.hours.items():
                head.hours[hour] = head.hours.get(hour, Tally()).merge(tally, Aggregation.SUM)
            for expires, quantity in change.held.items():
                head.holds[expires] = head.holds.get(expires, Decimal(0)) + quantity
        stored.head = head
        for page in change.pages:
            structure = head.structure if page.replaces is None else page.replaces
            stored.pages.setdefault(page.key, {})[structure] = (page.ids, page.digests)
        stored.periods |= change.periods
        stored.days |= deepcopy(change.days)
        self._markers |= change.markers
        self._adjusted |= {(series, counter) for counter in change.adjusted}
        self._adjusted -= {(series, counter) for counter in change.settled}
        if change.reservation is not None:
            self._reservations[change.reservation.id] = change.reservation
        return deepcopy(head)

    def _publish(self, series: Series, gate: str, revision: int) -> Head:
        stored = self._of(series)
        if stored.head is not None and stored.head.revision >= revision:
            raise LostRace({series: deepcopy(stored.head)})
        stored.head = replace(stored.head or Head(), gate=gate, revision=revision)
        return deepcopy(stored.head)

    def published(self, customer: str) -> Published:
        """All gates of a customer."""
        heads = self.heads_of(customer)[1]
        gates = {(one.feature, one.shard): head.revision for one, head in heads.items() if head.gate}
        return Published(gates, self._features.get(customer, frozenset()))

    def publish_gate(self, customer: str, feature: str, shard: int, text: str, revision: int) -> None:
        """Set a gate."""
        self.publish(Series(customer, feature, shard), text, revision)

    def publish_features(self, customer: str, features: frozenset[str], revision: int) -> None:
        """Say which features have gates."""
        assert revision
        self._features[customer] = features

    def heads_of(self, customer: str) -> tuple[frozenset[str], dict[Series, Head]]:
        """All heads of a customer, and which features have gates."""
        mine = {series: stored.head for series, stored in self._stored.items() if series.customer == customer}
        heads = {series: deepcopy(head) for series, head in mine.items() if head is not None}
        return self._features.get(customer, frozenset()), heads

    def reservation(self, reservation_id: str) -> Reservation | None:
        """The reservation, if there is one."""
        return self._reservations.get(reservation_id)

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

    def counted(self, series: Series, counts: Sequence[Count]) -> list[bool]:
        """Whether each event is among those that were counted."""
        known = Known(self._of(series).head)
        while missing := missing_for(counts, known):
            self._load(series, known, missing)
        return [bool(is_known(count, known, exactly=True)) for count in counts]

    def find(
        self,
        series: Series,
        hashes: Collection[bytes],
        start: datetime,
        end: datetime,
        spend: Callable[[int], None] = lambda _: None,
    ) -> Period | None:
        """The newest stretch of time that touches [start, end] and has one of the ids."""
        wanted, stored = set(hashes), self._of(series)
        spend(sum(len(ids) for pages in stored.pages.values() for ids, _ in pages.values()))
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

"""What is sent, what must come of it, and the proof that it did.

Tests say what happens in terms of `Sent`; only this module knows how the product's batches are made.
"""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from typing import Final

from tests.faults.chaos import Clock
from tollgate.catalog.model import Aggregation, BillingPeriod, Plan, Rate
from tollgate.catalog.periods import Interval, Period, local_hour
from tollgate.metering.archive_store import DynamoArchive
from tollgate.metering.audit import Target, recount
from tollgate.metering.model import (
    MAX_AGE,
    MAX_AHEAD,
    Batch,
    Count,
    CounterId,
    Event,
    Outcome,
    Scope,
    Series,
    Tally,
    identify,
    shard_of,
)
from tollgate.metering.store import DynamoCounters

__all__ = ["BOUNDARY", "FEATURE", "MOST", "NOW", "PROCESSES", "RATE", "Ledger", "Sent", "chunks"]

NOW: Final = datetime(2026, 3, 15, 0, 1, tzinfo=UTC)
"""Just after midnight: receipts straddle it where clocks are skewed."""
BOUNDARY: Final = NOW - timedelta(hours=2)
"""Where one billing period ends and the next begins."""
FEATURE: Final = "requests"
RATE: Final = Rate(Decimal(1000), 7 * 86_400)
"""A limit whose present window holds all that tests send."""
MOST: Final = 500
"""Events of one request."""
PROCESSES: Final = 3
"""Each remembers what it has seen of the counters, until it ends."""
_SECONDS: Final = 25.0
_FIRST_PERIOD: Final = datetime(2026, 2, 1, tzinfo=UTC)
_EXACT: Final = 80
_PLAN: Final = Plan("plan", 1, "Plan", "EUR", BillingPeriod(Interval.MONTH), Decimal(0), 0, 0, ())

ACCEPTED, DUPLICATE, CONFLICT = Outcome.ACCEPTED, Outcome.DUPLICATE, Outcome.CONFLICT
Key = tuple[str, str, str]
Form = tuple[Key, Decimal]


@dataclass(frozen=True, slots=True)
class Sent:
    """An event as its sender knows it; `time` None where it is deduplicated by its receipt."""

    id: str
    quantity: Decimal = Decimal(1)
    time: datetime | None = None
    customer: str = "ada"
    by_id: bool = False

    @property
    def key(self) -> Key:
        """What is counted once."""
        return self.customer, self.id, "" if self.by_id or self.time is None else self.time.isoformat()

    @property
    def form(self) -> Form:
        """What makes a resend a duplicate, and anything else of that key a conflict."""
        return self.key, self.quantity


@dataclass(slots=True)
class Ledger:
    """Delivers events to the counters and keeps what they answered.

    Events since `sharded` count in as many `shards`, those before in one; `rate` limits all of them. The
    product's pauses only pass on the clock, unless `pause` says otherwise.
    """

    clock: Clock = field(default_factory=Clock)
    aggregation: Aggregation = Aggregation.SUM
    shards: int = 1
    sharded: datetime = _FIRST_PERIOD
    rate: Rate | None = None
    archive: DynamoArchive | None = None
    pause: Callable[[float], None] | None = None
    sent: dict[Sent, None] = field(default_factory=dict)
    accepted: Counter[Key] = field(default_factory=Counter)
    answers: dict[Sent, set[Outcome]] = field(default_factory=lambda: defaultdict(set))
    _forms: dict[Form, set[tuple[Sent, datetime]]] = field(default_factory=lambda: defaultdict(set))
    _processes: list[DynamoCounters] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._processes = [self.start() for _ in range(PROCESSES)]

    def start(self) -> DynamoCounters:
        """A process that has seen nothing yet."""
        return DynamoCounters(self.archive, pause=self.pause or self.clock.pass_by)

    def restart(self, process: int = 0) -> None:
        """Put a new process in the place of one that has ended."""
        self._processes[process] = self.start()

    def deliver(
        self,
        events: Sequence[Sent],
        now: datetime = NOW,
        time_left: Callable[[], float] | None = None,
        process: int = 0,
    ) -> list[Outcome]:
        """Count events in one request: an outcome each, in order."""
        counts = [self._count(event, now) for event in events]
        places: dict[Series, list[int]] = {}
        for place, one in enumerate(counts):
            places.setdefault(self._series(one), []).append(place)
        with self._lock:
            self.sent.update(dict.fromkeys(events))
            for event in events:
                self._forms[event.form].add((event, event.time or now))
        batches = [
            Batch(series, self.aggregation, tuple(counts[place] for place in group)) for series, group in places.items()
        ]
        answered = self._processes[process].count(batches, now, time_left or self.clock.time_left(_SECONDS))
        outcomes = dict(
            pair
            for group, answers in zip(places.values(), answered, strict=True)
            for pair in zip(group, answers, strict=True)
        )
        with self._lock:
            for place, event in enumerate(events):
                self.answers[event].add(outcomes[place])
                self.accepted[event.key] += outcomes[place] is ACCEPTED
        return [outcomes[place] for place in range(len(events))]

    def settle(self, shapes: Iterable[Sequence[Sent]] | None = None) -> None:
        """Deliver all once more, undisturbed, and prove that each event is counted once and to the last digit.

        `shapes` are the requests in which they come.
        """
        self.restart()
        before = self.tallies()
        known: dict[Form, Sent] = {}  # counted before
        added: dict[Form, Sent] = {}  # counted only now
        for request in shapes if shapes is not None else list(chunks(list(self.sent), MOST)):
            for event, outcome in zip(request, self.deliver(request), strict=True):
                assert outcome in {ACCEPTED, DUPLICATE, CONFLICT}, (event, outcome)
                if outcome is ACCEPTED:
                    added[event.form] = event
                elif outcome is DUPLICATE and event.form not in added:
                    known[event.form] = event
        assert before == self.fold(known.values()), "what was counted is not what the duplicates add up to"
        counted = known | added
        assert self.tallies() == self.fold(counted.values()), "the totals are not those of the events counted"
        self._check_answers(set(counted))
        for request in list(chunks(list(self.sent), MOST)):
            again = self.deliver(request)
            assert [event.form in counted for event in request] == [outcome is DUPLICATE for outcome in again]
        assert self.tallies() == self.fold(counted.values()), "duplicates changed the totals"
        self._check_hours(list(counted.values()))
        self._check_counted(set(counted))
        self._check_archive()

    def tallies(self) -> dict[CounterId, Tally]:
        """What the counters hold."""
        customers = sorted({event.customer for event in self.sent})
        ids = [CounterId(one, FEATURE, "sub", start) for one in customers for start in (_FIRST_PERIOD, BOUNDARY)]
        found = self.start().tallies(ids, {FEATURE: self.shards})
        return {counter: replace(tally, latest="") for counter, tally in found.items()}

    def fold(self, counted: Iterable[Sent]) -> dict[CounterId, Tally]:
        """What the counters must hold of these events, reckoned without the product."""
        groups: dict[CounterId, list[Sent]] = {}
        for event in {event.form: event for event in counted}.values():
            groups.setdefault(self.counter(event), []).append(event)
        return {counter: Tally(self._total(events), len(events)) for counter, events in groups.items()}

    def counter(self, event: Sent, now: datetime = NOW) -> CounterId:
        """Where an event counts."""
        start = BOUNDARY if (event.time or now) >= BOUNDARY else _FIRST_PERIOD
        return CounterId(event.customer, FEATURE, "sub", start)

    def _total(self, events: Sequence[Sent]) -> Decimal:
        match self.aggregation:
            case Aggregation.SUM:
                with localcontext(prec=_EXACT):
                    return sum((event.quantity for event in events), Decimal(0))
            case Aggregation.COUNT:
                return Decimal(len(events))
            case Aggregation.MAX:
                return max(event.quantity for event in events)
            case Aggregation.LATEST:
                return max(events, key=lambda event: (event.time, self._count(event, NOW).hash)).quantity

    def _check_answers(self, counted: set[Form]) -> None:
        keys = [key for key, _ in counted]
        assert len(set(keys)) == len(keys), "two forms of one event are counted"
        assert set(keys) == {event.key for event in self.sent}, "an event is lost"
        assert set(self.accepted.values()) <= {0, 1}, "an event was accepted twice"
        for event, answers in self.answers.items():
            if event.form in counted:
                assert CONFLICT not in answers, f"{event} is counted, and was called a conflict"
            else:
                assert not answers & {ACCEPTED, DUPLICATE}, f"{event} is not counted, and was called so"

    def _check_hours(self, counted: Sequence[Sent]) -> None:
        """The hours add up to the periods, and so does the window of the rate."""
        if self.aggregation not in {Aggregation.SUM, Aggregation.COUNT}:
            return
        counters = self.start()
        start, end = NOW - timedelta(days=40), NOW + timedelta(days=3)
        by_counter = self.fold(counted)
        with localcontext(prec=_EXACT):
            for customer in {counter.customer for counter in by_counter}:
                held: dict[CounterId, Tally] = {}
                for _, counter, tally in counters.hours(customer, FEATURE, start, end, self.shards):
                    before = held.get(counter, Tally())
                    held[counter] = Tally(before.quantity + tally.quantity, before.events + tally.events)
                used = {counter: tally for counter, tally in by_counter.items() if counter.customer == customer}
                assert held == used, "the hours do not add up to the periods"
                if self.rate:
                    assert counters.heads([Series(customer, FEATURE)])[Series(customer, FEATURE)].rate.count == sum(
                        tally.quantity for tally in used.values()
                    )

    def _check_counted(self, counted: set[Form]) -> None:
        """Of all the ways in which an event was sent, exactly the one that counted is among those counted."""
        ways: dict[Series, list[tuple[Form, Count]]] = defaultdict(list)
        for form, sent in self._forms.items():
            for event, at in sent:
                count = self._count(event, at)
                ways[self._series(count)].append((form, count))
        found: Counter[Form] = Counter()
        for series, pairs in ways.items():
            verdicts = self.start().counted(series, [count for _, count in pairs])
            found.update(form for (form, _), verdict in zip(pairs, verdicts, strict=True) if verdict)
        assert found == Counter(counted), "what is said to have been counted is not what was"

    def _check_archive(self) -> None:
        """What was counted can be added up again from the archive, hour by hour."""
        if self.archive is None:
            return
        spans = [Period(_FIRST_PERIOD, BOUNDARY), Period(BOUNDARY, NOW + timedelta(days=30))]
        for span in spans:
            for customer in {event.customer for event in self.sent}:
                counter = CounterId(customer, FEATURE, "sub", span.start)
                target = Target(counter, span, _PLAN, self.aggregation, self.shards)
                again = recount(target, counters=self.start(), archive=self.archive)
                assert again.agrees, again

    def _series(self, count: Count) -> Series:
        event = count.event
        shards = self.shards if count.scope is Scope.TIME and count.at >= self.sharded else 1
        return Series(event.customer, event.feature, shard_of(count.hash, shards))

    def _count(self, sent: Sent, now: datetime) -> Count:
        at = sent.time or now
        event = Event(sent.id, "test", sent.customer, FEATURE, sent.quantity, sent.time)
        scope = Scope.ID if sent.by_id else Scope.TIME if sent.time else Scope.RECEIPT
        known, digest = identify(event, scope, sent.time)
        return Count(
            event=event,
            counter=self.counter(sent, now),
            at=at,
            hour=local_hour(at, "UTC"),
            quantity=sent.quantity,
            scope=scope,
            hash=known,
            digest=digest,
            until=now + MAX_AGE + MAX_AHEAD if scope is Scope.ID else None,
            rate=self.rate,
        )


def chunks(events: Sequence[Sent], size: int) -> Iterator[Sequence[Sent]]:
    """The events in requests of a size."""
    for start in range(0, len(events), size):
        yield events[start : start + size]

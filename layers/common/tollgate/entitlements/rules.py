"""Rules for what changes a customer's capacity: consume, reserve, commit, release. Pure.

A rule is asked with what is known of the heads that it is about (metering/series.py) and says what to write, all or
nothing. What it decided on are conditions of that write: a gate that is newer, a limit that others have reached
meanwhile, or an id that was counted before make it fail, and the rule is asked again with what is true then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final

from tollgate.catalog.gates import Gate, Term, read_gate
from tollgate.catalog.model import INACTIVE, Aggregation, Dedupe, FeatureType, Overage, PlanFeature
from tollgate.catalog.periods import local_hour
from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import FieldError, InvalidInput, Unavailable
from tollgate.kernel.money import EXACT, ZERO
from tollgate.metering.counting import (
    Step,
    change_hold,
    count_events,
    free_holds,
    most_before,
    open_counter,
    spills_for,
)
from tollgate.metering.model import (
    MAX_AGE,
    MAX_AHEAD,
    MAX_QUANTITY,
    RESERVATION_SOURCE,
    Batch,
    Count,
    CounterId,
    Event,
    Limit,
    Outcome,
    Reservation,
    ReservationState,
    Scope,
    Series,
    identify,
)
from tollgate.metering.series import Change, Head, Known, Missing, Verdict, held

__all__ = [
    "COUNTED",
    "Commit",
    "Consume",
    "Item",
    "Release",
    "Reserve",
    "Ruling",
    "gate_in",
    "ruling_term",
    "series_of",
]

_TOO_MUCH: Final = "the usage would have more than 20 digits before the point"
COUNTED: Final = frozenset({FeatureType.USAGE, FeatureType.QUOTA, FeatureType.RATE})


class Ruling(StrEnum):
    """What a rule says."""

    DONE = "done"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    DENIED = "denied"
    UNGATED = "ungated"  # a head has no gate, which is to be published before anything can be said
    AGAIN = "again"  # one step is written, and the rule is to be asked once more


Said = Verdict[Ruling] | Mapping[Series, Missing]


@dataclass(frozen=True, slots=True)
class Item:
    """So much of a feature."""

    feature: str
    quantity: Decimal


def series_of(customer: str, feature: str) -> Series:
    """Where a feature that has a gate counts, unless it has shards."""
    return Series(customer, feature)


def gate_in(head: Head | None, series: Series) -> Gate | None:
    """The gate of a head."""
    if head is None or not head.gate:
        return None
    return read_gate(series.customer, series.feature, head.gate)


def ruling_term(gate: Gate, now: datetime) -> Term | None:
    """The subscription and the terms that rule, if they allow anything at all."""
    term = gate.ruling(now)
    return term if term is not None and _grants(term, now) else None


def _grants(term: Term, now: datetime) -> bool:
    subscription, granted = term
    return subscription.status(now) not in INACTIVE and granted.enabled


def _limit(granted: PlanFeature) -> Decimal | None:
    quota = granted.quota
    return quota.limit if quota is not None and quota.overage is Overage.BLOCK else None


def _refuse_shards(gate: Gate) -> None:
    if gate.shards > 1:
        code = gate.feature.code
        raise InvalidInput([FieldError("/feature", f"{code} counts in {gate.shards} shards: send events instead")])


@dataclass(slots=True)
class _Tried:
    """What came of trying to count some of each feature.

    It is `refused` if the terms of one grant nothing at all, and `early` if it happened before they began.
    """

    missing: dict[Series, Missing] = field(default_factory=dict)
    outcomes: dict[Series, Outcome] = field(default_factory=dict)
    changes: dict[Series, Change] = field(default_factory=dict)
    guards: dict[Series, int] = field(default_factory=dict)
    batches: list[Batch] = field(default_factory=list)
    refused: bool = False
    early: bool = False

    def add(self, series: Series, step: Step | Missing, batch: Batch) -> None:
        """Add a feature that counts."""
        if isinstance(step, Missing):
            self.missing[series] = step
            return
        (self.outcomes[series],) = step.outcomes
        if step.change is not None:
            self.changes[series] = step.change
            self.batches.append(batch)

    def verdict(self, known: Mapping[Series, Known]) -> Verdict[Ruling]:
        """All or nothing."""
        found = set(self.outcomes.values())
        if Outcome.CONFLICT in found:
            return Verdict(Ruling.CONFLICT, is_lasting=True)
        if Outcome.DUPLICATE in found:
            return self._repeated()
        if Outcome.OUT_OF_RANGE in found:
            raise InvalidInput([FieldError("/quantity", _TOO_MUCH)])
        if self.early:
            detail = "lies before the subscription that rules the feature now began"
            raise InvalidInput([FieldError("/time", f"the time, or that of the id, {detail}")])
        if self.refused or Outcome.DENIED in found:
            return Verdict(Ruling.DENIED)
        if spills := spills_for(self.changes, known, len(self.guards)):
            return Verdict(Ruling.AGAIN, spills)
        return Verdict(Ruling.DONE, self.changes, self.guards if self.changes else {}, self.batches)

    def _repeated(self) -> Verdict[Ruling]:
        # All were counted in one write: what was not is of another request, unless it was read before that write.
        if new := frozenset(series for series, outcome in self.outcomes.items() if outcome is not Outcome.DUPLICATE):
            return Verdict(Ruling.CONFLICT, unsure=new)
        # What was granted stays granted, whatever the limits say by now.
        return Verdict(Ruling.DUPLICATE, is_lasting=True)


@dataclass(frozen=True, slots=True)
class Consume:
    """Count some of each feature, if all of them have room for it.

    `told` is when it happened, as the caller or the id says: what the id is known by, together with it. It counts in
    the period of that time, as an event does, and in the rate's present window.
    """

    customer: str
    id: str
    items: Sequence[Item]
    told: datetime | None
    now: datetime

    def __call__(self, known: Mapping[Series, Known]) -> Said:
        """Decide."""
        tried = _Tried()
        for item in self.items:
            series = series_of(self.customer, item.feature)
            head = known[series].head
            gate = gate_in(head, series)
            if gate is None or head is None:
                return Verdict(Ruling.UNGATED)
            term = gate.ruling(self.now)
            if term is None or not _grants(term, self.now):
                tried.refused = True
            if gate.feature.type not in COUNTED:
                tried.guards[series] = head.revision
            elif term is not None:
                _refuse_shards(gate)
                tried.early = tried.early or (self.told or self.now) < term[0].starts_at
                tried.add(series, *self._count(item, series, gate, term, known[series], head))
        return tried.missing or tried.verdict(known)

    def _count(
        self, item: Item, series: Series, gate: Gate, term: Term, known: Known, head: Head
    ) -> tuple[Step | Missing, Batch]:
        count = _event(self, item, gate, term)
        aggregation = gate.feature.aggregation
        limit = Limit(_limit(term[1]))
        step = count_events(series, aggregation, [count], known, self.now, limit=limit)
        return step, Batch(series, aggregation, (count,), head.revision)


def _event(request: Consume, item: Item, gate: Gate, term: Term) -> Count:
    """The event that a consumption counts, as ingest would make it (metering/service.py)."""
    feature, (subscription, granted) = gate.feature, term
    at = request.told or request.now
    scope = Scope.ID if feature.dedupe is Dedupe.ID else Scope.TIME if request.told else Scope.RECEIPT
    event = Event(request.id, "", request.customer, item.feature, item.quantity, request.told, {})
    known, digest = identify(event, scope, request.told)
    return Count(
        event=event,
        counter=CounterId(request.customer, item.feature, subscription.id, subscription.period(at).start),
        at=at,
        hour=local_hour(at, subscription.timezone),
        quantity=item.quantity,
        scope=scope,
        hash=known,
        digest=digest,
        until=request.now + MAX_AHEAD + MAX_AGE if scope is Scope.ID else None,
        rate=granted.rate,
    )


@dataclass(frozen=True, slots=True)
class Reserve:
    """Hold some of a feature until it is settled, or expires."""

    reservation: Reservation
    now: datetime

    def __call__(self, known: Mapping[Series, Known]) -> Said:
        """Decide."""
        asked = self.reservation
        series = series_of(asked.customer, asked.feature)
        head = known[series].head
        gate = gate_in(head, series)
        if gate is None or head is None:
            return Verdict(Ruling.UNGATED)
        _refuse_unless_it_sums(gate)
        term = ruling_term(gate, self.now)
        if term is None:
            return Verdict(Ruling.DENIED)
        subscription, granted = term
        counter = CounterId(asked.customer, asked.feature, subscription.id, subscription.period(self.now).start)
        if not _is_open(head, counter):
            opened = open_counter(series, gate.feature.aggregation, counter, known[series])
            if isinstance(opened, Missing):
                return {series: opened}
            return Verdict(Ruling.AGAIN, {series: opened})
        limit = _limit(granted)
        change = Change(replace(head, holds=dict(head.holds)), adds=True)
        free_holds(change, self.now)
        taken = EXACT.add(head.tally.quantity, held(head, self.now.timestamp()))
        after = EXACT.add(taken, asked.quantity)
        if after >= MAX_QUANTITY:
            raise InvalidInput([FieldError("/quantity", _TOO_MUCH)])
        if limit is not None and after > limit:
            return Verdict(Ruling.DENIED)
        change_hold(change, asked.expires, asked.quantity)
        change.most = None if limit is None else most_before(change, limit)
        change.reservation = asked
        return Verdict(Ruling.DONE, {series: change})


def _is_over(period_start: datetime, subscription: str, present: CounterId) -> bool:
    """Whether a later period of the subscription has its counter in the head."""
    return present.subscription == subscription and present.period_start > period_start


def _is_open(head: Head, counter: CounterId) -> bool:
    """Whether the head holds a period's counter; or the next one's, as another clock has it already."""
    present = head.counter
    return (
        present is not None
        and present.subscription == counter.subscription
        and present.period_start >= counter.period_start
    )


def _refuse_unless_it_sums(gate: Gate) -> None:
    _refuse_shards(gate)
    sums = gate.feature.aggregation is Aggregation.SUM
    if gate.feature.type not in {FeatureType.USAGE, FeatureType.QUOTA} or not sums:
        detail = "reservations are of usage and quota features that sum their quantities"
        raise InvalidInput([FieldError("/feature", detail)])


def _holds(made: Reservation, head: Head, now: datetime) -> bool:
    """Whether a head holds what was reserved."""
    return made.expires > now.timestamp() and head.holds.get(made.expires, ZERO) >= made.quantity


def _settle(change: Change, made: Reservation, now: datetime, *, holds: bool) -> None:
    """Have a change end a reservation, on condition that it is open, and of what was seen of its hold."""
    change.reserved = made
    if not holds and made.expires > now.timestamp():
        change.unheld[made.expires] = made.quantity


@dataclass(frozen=True, slots=True)
class Commit:
    """Count what reserved work took, in place of what was held for it.

    Up to what was reserved it always fits; what it took more, or took after the reservation had expired, must fit in
    the limit as a consumption must. By a clock that is behind, where the next period has begun already, so must all:
    what is held may be held of that one.
    """

    reservation: Reservation
    quantity: Decimal
    now: datetime

    def __call__(self, known: Mapping[Series, Known]) -> Said:
        """Decide.

        Raises:
            InvalidInput: a quantity beyond all bounds.
            Unavailable: by this clock the period is not over, and it is full.
        """
        made = self.reservation
        series = series_of(made.customer, made.feature)
        head = known[series].head
        gate = gate_in(head, series)
        term = gate.ruling(self.now) if gate else None
        if gate is None or head is None or term is None:
            return Verdict(Ruling.UNGATED)
        holds = _holds(made, head, self.now)
        if not holds and ruling_term(gate, self.now) is None:
            return Verdict(Ruling.DENIED)
        settles = (made.expires, made.quantity) if holds else None
        is_behind = head.counter is not None and _is_over(term[0].period(self.now).start, term[0].id, head.counter)
        surely = holds and self.quantity <= made.quantity and not is_behind
        limit = Limit(None if surely else _limit(term[1]), settles)
        step, batch = self._count(series, gate, term, limit, known[series], head)
        if isinstance(step, Missing):
            return {series: step}
        if Outcome.OUT_OF_RANGE in step.outcomes:
            raise InvalidInput([FieldError("/quantity", _TOO_MUCH)])
        if step.change is None and is_behind:
            raise Unavailable("The billing period is ending; send the request again.")
        if step.change is None:
            return Verdict(Ruling.DENIED)
        _settle(step.change, made, self.now, holds=holds)
        step.change.reservation = replace(made, state=ReservationState.COMMITTED, committed=self.quantity)
        return Verdict(Ruling.DONE, {series: step.change}, batches=(batch,))

    def _count(
        self, series: Series, gate: Gate, term: Term, limit: Limit, known: Known, head: Head
    ) -> tuple[Step | Missing, Batch]:
        made, (subscription, _) = self.reservation, term
        # The state of the reservation tells a repeated commit; the event is new.
        event = Event(made.id, RESERVATION_SOURCE, made.customer, made.feature, self.quantity, self.now, {})
        hash_, digest = identify(event, Scope.TIME, self.now)
        count = Count(
            event=event,
            counter=CounterId(made.customer, made.feature, subscription.id, subscription.period(self.now).start),
            at=self.now,
            hour=local_hour(self.now, subscription.timezone),
            quantity=self.quantity,
            scope=Scope.TIME,
            hash=hash_,
            digest=digest,
        )
        aggregation = gate.feature.aggregation
        step = count_events(series, aggregation, [count], known, self.now, limit=limit)
        return step, Batch(series, aggregation, (count,), head.revision)


@dataclass(frozen=True, slots=True)
class Release:
    """Give back what a reservation holds."""

    reservation: Reservation
    now: datetime

    def __call__(self, known: Mapping[Series, Known]) -> Said:
        """Decide."""
        made = self.reservation
        series = series_of(made.customer, made.feature)
        head = known[series].head
        if head is None:
            return Verdict(Ruling.UNGATED)
        change = Change(replace(head, holds=dict(head.holds)), adds=True)
        free_holds(change, self.now)
        holds = _holds(made, head, self.now)
        if holds:
            change_hold(change, made.expires, -made.quantity)
        _settle(change, made, self.now, holds=holds)
        change.reservation = replace(made, state=ReservationState.RELEASED)
        return Verdict(Ruling.DONE, {series: change})

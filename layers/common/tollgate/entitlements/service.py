"""Use cases of entitlements: check one feature or all, consume, reserve, commit, release.

What decides stands in the head of the series that counts the feature: its gate, what is used, what is reserved, and
the figures of its rate (metering/series.py). So a check is one read of it and a consumption one conditional write.
A head that has no gate yet gets it from the customer's snapshot, once.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from tollgate.catalog.gates import Gate, gate_of, write_gate
from tollgate.catalog.model import Aggregation, FeatureType, Snapshot
from tollgate.entitlements.model import Decision, Reason, decide, decision_to_dict, refuse
from tollgate.entitlements.rules import (
    Commit,
    Consume,
    Item,
    Release,
    Reserve,
    Ruling,
    gate_in,
    series_of,
)
from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import Conflict, FieldError, InvalidInput, NotFound, Unavailable
from tollgate.kernel.ids import is_id
from tollgate.kernel.money import ZERO, format_decimal
from tollgate.kernel.time import format_time, from_epoch_ms
from tollgate.metering.alerts import Announcer, Reached, reached
from tollgate.metering.counters import ReservationChanged
from tollgate.metering.model import (
    MAX_AGE,
    MAX_AHEAD,
    CounterId,
    Reservation,
    ReservationState,
    Series,
    Tally,
    time_of_id,
)
from tollgate.metering.series import Head, Rule
from tollgate.metering.service import Counters, Directory

__all__ = [
    "MAX_ITEMS",
    "MAX_RESERVED_SECONDS",
    "Answer",
    "Refusals",
    "Status",
    "answer_to_dict",
    "answers_to_dict",
    "check",
    "check_all",
    "commit",
    "consume",
    "release",
    "reserve",
]

MAX_ITEMS: Final = 20
"""Features that one consumption may name."""
MAX_RESERVED_SECONDS: Final = 86_400

_TRIES: Final = 4
_STEPS: Final = 10
"""Writes that a rule may ask for before its own."""
_LONGEST_REFUSAL: Final = timedelta(seconds=60)
_SKEW: Final = timedelta(seconds=2)
"""How far ahead the clocks of callers that make ids may be, for a repeated request never to be refused unasked."""
_REMEMBERED: Final = 10_000
_FINE: Final = 16


class Status(StrEnum):
    """What became of a request."""

    CONSUMED = "consumed"
    RESERVED = "reserved"
    COMMITTED = "committed"
    RELEASED = "released"
    DUPLICATE = "duplicate"
    DENIED = "denied"


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request, and the decision on each feature that it named."""

    status: Status
    decisions: tuple[Decision, ...]
    reservation: Reservation | None = None


class Refusals:
    """The heads of rates that a warm function knows to be used up: until then it refuses without asking.

    What is used only grows, so what does not fit by them does not fit. It asks again after a minute, for the limit may
    have been raised; and for an id that is not newer than what it knows by 2 seconds, for that may have been counted.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[Series, tuple[Head, datetime, datetime]] = OrderedDict()

    def note(self, series: Series, decision: Decision, head: Head, now: datetime) -> None:
        """Remember the head that a rate was denied by."""
        if decision.reason is Reason.RATE_LIMITED and decision.retry_at is not None:
            small = Head(rate=head.rate, gate=head.gate, revision=head.revision)
            self._known[series] = small, now, min(decision.retry_at, now + _LONGEST_REFUSAL)
            self._known.move_to_end(series)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)

    def find(self, series: Series, told: datetime | None, now: datetime) -> Head | None:
        """The head to refuse by, if there is one and the request is surely new."""
        head, since, until = self._known.get(series, (None, now, now))
        if head is not None and now >= until:
            del self._known[series]
            return None
        return head if told is not None and told > since + _SKEW else None


# Questions


def check(
    customer: str, feature: str, quantity: Decimal, *, directory: Directory, counters: Counters, now: datetime
) -> Decision:
    """May the customer use so much more of the feature now? A question, that changes nothing.

    Of several subscriptions that have the feature, the newest that is active answers.
    """
    if not is_id(customer):
        return refuse(customer, feature, Reason.CUSTOMER_NOT_FOUND)
    if not is_id(feature):
        return _refuse_unknown(customer, feature, directory)
    series = series_of(customer, feature)
    head = counters.heads([series]).get(series)
    gate = gate_in(head, series)
    if gate is None:
        gate = _gate(customer, feature, directory, now)
    if gate is None:
        return _refuse_unknown(customer, feature, directory)
    return _decide(gate, head, customer, quantity, counters, now)


def check_all(customer: str, *, directory: Directory, counters: Counters, now: datetime) -> tuple[Decision, ...] | None:
    """A check of one unit for every feature of the customer's plans, by code; None for no such customer."""
    if not is_id(customer):
        return None
    features, heads = counters.heads_of(customer)
    first = {series.feature: (series, head) for series, head in heads.items() if not series.shard}
    gates = {feature: gate_in(head, series) for feature, (series, head) in first.items()}
    if not features or not all(gates.get(feature) for feature in features):
        snapshot = directory.snapshots_of([customer]).get(customer, Snapshot())
        if not snapshot.subscriptions and customer not in directory.customers([customer]):
            return None
        plans = [directory.plan(one.plan, one.plan_version) for one in snapshot.subscriptions]
        features = frozenset(granted.feature.code for plan in plans if plan for granted in plan.features)
        gates = {feature: gate_of(snapshot, feature, directory.plan, now) for feature in features}
    found = {feature: gate for feature in sorted(features) if (gate := gates.get(feature)) and gate.ruling(now)}
    return tuple(
        _decide(gate, first[feature][1] if feature in first else None, customer, Decimal(1), counters, now)
        for feature, gate in found.items()
    )


def _decide(
    gate: Gate,
    head: Head | None,
    customer: str,
    quantity: Decimal | None,
    counters: Counters,
    now: datetime,
    at: datetime | None = None,
) -> Decision:
    """The decision on a feature with what its head says; what the head does not hold is asked of the counters.

    `at` is when that happened that the decision is on.
    """
    feature = gate.feature
    term = gate.ruling(now)
    if term is None:
        return refuse(customer, feature.code, Reason.NO_SUBSCRIPTION, kind=feature.type)
    subscription, granted = term
    head = head or Head()
    period = subscription.period(at or now)
    counter = CounterId(customer, feature.code, subscription.id, period.start)
    tally = head.tally if head.counter == counter else Tally()
    counted = feature.type in {FeatureType.USAGE, FeatureType.QUOTA}
    # Of a series that was written, another counter may be open: that of another subscription, or of the next period;
    # and none, once a period has been closed.
    is_over = head.structure > 0 and period.end <= now
    is_before = not is_over if head.counter is None else _is_before(head.counter, counter)
    is_elsewhere = head.counter != counter and not is_before
    if counted and (gate.shards > 1 or is_elsewhere):
        tally = counters.tallies([counter], {feature.code: gate.shards}).get(counter, Tally())
    return decide(
        subscription,
        granted,
        quantity,
        now=now,
        used=tally.quantity if tally.events else ZERO,
        holds=head.holds,
        state=head.rate,
        at=at,
    )


def _is_before(open_counter: CounterId, counter: CounterId) -> bool:
    """Whether a counter is that of an earlier period of the same subscription: then nothing is in the later one."""
    is_same = open_counter.subscription == counter.subscription
    return is_same and open_counter.period_start < counter.period_start


def _gate(customer: str, feature: str, directory: Directory, now: datetime) -> Gate | None:
    """The gate as the customer's snapshot has it."""
    snapshot = directory.snapshots_of([customer]).get(customer)
    return gate_of(snapshot, feature, directory.plan, now) if snapshot else None


def _refuse_unknown(customer: str, feature: str, directory: Directory) -> Decision:
    """Why a feature has no gate."""
    snapshot = directory.snapshots_of([customer]).get(customer, Snapshot())
    if not snapshot.subscriptions and customer not in directory.customers([customer]):
        return refuse(customer, feature, Reason.CUSTOMER_NOT_FOUND)
    if not is_id(feature) or feature not in directory.features([feature]):
        return refuse(customer, feature, Reason.FEATURE_NOT_FOUND)
    reason = Reason.FEATURE_NOT_IN_PLAN if snapshot.subscriptions else Reason.NO_SUBSCRIPTION
    return refuse(customer, feature, reason)


# Capacity


def consume(
    customer: str,
    request_id: str,
    items: Sequence[Item],
    *,
    told: datetime | None,
    directory: Directory,
    counters: Counters,
    now: datetime,
    time_left: Callable[[], float],
    refusals: Refusals | None = None,
    announcer: Announcer | None = None,
) -> Answer:
    """Count some of each feature if all of them have room for it; if one has not, nothing is counted.

    The same again is a duplicate, which was granted before and is not counted twice.

    Raises:
        InvalidInput: no time to count at, a feature in shards, or a quantity beyond all bounds.
        Conflict: the id was counted with other quantities.
        Unavailable: it could not be decided in time, or a threshold not be told; the same request may be sent again.
    """
    told = told or time_of_id(request_id)
    if told is not None and not now - MAX_AGE <= told <= now + MAX_AHEAD:
        where = f"lies more than {MAX_AGE.days} days back or 5 minutes ahead"
        raise InvalidInput([FieldError("/time", f"the time, or that of the id, {where}")])
    only = series_of(customer, items[0].feature) if len(items) == 1 else None
    if refusals is not None and only is not None and (used_up := refusals.find(only, told, now)) is not None:
        refused = _told(customer, items[0], Status.DENIED, {only: used_up}, directory, counters, now, told)
        if refused.reason is Reason.RATE_LIMITED:
            return Answer(Status.DENIED, (refused,))
    rule = Consume(customer, request_id, items, told, now)
    features = [item.feature for item in items]
    said, heads = _ask(customer, features, rule, directory, counters, now, time_left)
    if said is Ruling.CONFLICT:
        raise Conflict(f"The id {request_id} was counted with another quantity, or for other features.")
    status = {Ruling.DONE: Status.CONSUMED, Ruling.DUPLICATE: Status.DUPLICATE}.get(said, Status.DENIED)
    decisions = tuple(_told(customer, item, status, heads, directory, counters, now, told) for item in items)
    if status is Status.DENIED and all(decision.allowed for decision in decisions):
        decisions = tuple(_denied(decision) for decision in decisions)
    if announcer is not None and status is not Status.DENIED:
        _announce(customer, [item.feature for item in items], told or now, heads, counters, now, announcer)
    if refusals is not None and only is not None and status is Status.DENIED and only in heads:
        refusals.note(only, decisions[0], heads[only], now)
    return Answer(status, decisions)


def reserve(
    reservation_id: str,
    customer: str,
    item: Item,
    seconds: int,
    *,
    directory: Directory,
    counters: Counters,
    now: datetime,
    time_left: Callable[[], float],
) -> Answer:
    """Hold some of a feature for so many seconds, and up to a sixteenth more.

    Raises:
        InvalidInput: a feature that nothing can be held of.
        Conflict: the id is that of another reservation.
        Unavailable: it could not be decided in time; the same request may be sent again.
    """
    asked = Reservation(reservation_id, customer, item.feature, item.quantity, seconds, _expiry(now, seconds))
    try:
        said, heads = _ask(customer, [item.feature], Reserve(asked, now), directory, counters, now, time_left)
    except ReservationChanged:
        return _reserved_before(asked, counters.reservation(reservation_id), directory, counters, now)
    if said is not Ruling.DONE and (before := counters.reservation(reservation_id)) is not None:
        return _reserved_before(asked, before, directory, counters, now)
    status = Status.RESERVED if said is Ruling.DONE else Status.DENIED
    decision = _told(customer, item, status, heads, directory, counters, now)
    return Answer(status, (decision if status is Status.RESERVED else _denied(decision),), asked)


def _expiry(now: datetime, seconds: int) -> int:
    """When a reservation expires: at a round second, so that those of a time share one."""
    grain = 1 << max((seconds // _FINE).bit_length() - 1, 0)
    end = -int(-(now.timestamp() + seconds) // 1)
    return -(-end // grain) * grain


def _reserved_before(
    asked: Reservation, before: Reservation | None, directory: Directory, counters: Counters, now: datetime
) -> Answer:
    if before is None:
        raise Unavailable("The reservation could not be read; send the request again.")
    if replace(before, expires=0, state=ReservationState.OPEN, committed=None) != replace(asked, expires=0):
        raise Conflict(f"The reservation {asked.id} was made by another request.")
    if before.state is ReservationState.OPEN and before.expires > now.timestamp():
        return _repeated(before, directory, counters, now)
    decision = check(asked.customer, asked.feature, asked.quantity, directory=directory, counters=counters, now=now)
    return Answer(Status.DUPLICATE, (decision,), before)


def commit(
    reservation_id: str,
    quantity: Decimal,
    *,
    directory: Directory,
    counters: Counters,
    now: datetime,
    time_left: Callable[[], float],
    announcer: Announcer | None = None,
) -> Answer:
    """Count what reserved work took. If that is more than there is room for, nothing is, and it may be tried for less.

    Raises:
        NotFound: no such reservation.
        Conflict: it was released, or committed with another quantity.
        InvalidInput: a quantity beyond all bounds.
        Unavailable: it could not be decided in time, or a threshold not be told; the same request may be sent again.
    """

    def settled(made: Reservation) -> Answer:
        if made.state is ReservationState.RELEASED or made.committed != quantity:
            raise Conflict(f"The reservation {made.id} was {_past(made)}.")
        return _repeated(made, directory, counters, now, announcer)

    return _settle(
        reservation_id,
        lambda made: Commit(made, quantity, now),
        settled,
        (Status.COMMITTED, quantity),
        directory,
        counters,
        now,
        time_left,
        announcer,
    )


def release(
    reservation_id: str,
    *,
    directory: Directory,
    counters: Counters,
    now: datetime,
    time_left: Callable[[], float],
) -> Answer:
    """Give back what a reservation holds.

    Raises:
        NotFound: no such reservation.
        Conflict: it was committed.
        Unavailable: it could not be decided in time; the same request may be sent again.
    """

    def settled(made: Reservation) -> Answer:
        if made.state is ReservationState.COMMITTED:
            raise Conflict(f"The reservation {made.id} was {_past(made)}.")
        return _repeated(made, directory, counters, now)

    return _settle(
        reservation_id,
        lambda made: Release(made, now),
        settled,
        (Status.RELEASED, ZERO),
        directory,
        counters,
        now,
        time_left,
    )


def _past(made: Reservation) -> str:
    return "released" if made.committed is None else f"committed with a quantity of {made.committed:f}"


def _settle(
    reservation_id: str,
    rule: Callable[[Reservation], Rule[Ruling]],
    settled: Callable[[Reservation], Answer],
    done: tuple[Status, Decimal],
    directory: Directory,
    counters: Counters,
    now: datetime,
    time_left: Callable[[], float],
    announcer: Announcer | None = None,
) -> Answer:
    for _ in range(_TRIES):
        made = counters.reservation(reservation_id) if is_id(reservation_id) else None
        if made is None:
            raise NotFound(f"There is no reservation {reservation_id}.")
        if made.state is not ReservationState.OPEN:
            return settled(made)
        try:
            said, heads = _ask(made.customer, [made.feature], rule(made), directory, counters, now, time_left)
        except ReservationChanged:
            continue
        if said is not Ruling.DONE:
            # It may have been settled by this very request, whose answer was lost, or by another one just now.
            found = counters.reservation(reservation_id)
            if found is not None and found.state is not ReservationState.OPEN:
                return settled(found)
        elif announcer is not None:
            _announce(made.customer, [made.feature], now, heads, counters, now, announcer)
        status, quantity = done
        status = status if said is Ruling.DONE else Status.DENIED
        decision = _told(made.customer, Item(made.feature, quantity), status, heads, directory, counters, now)
        return Answer(status, (_denied(decision) if status is Status.DENIED else decision,), made)
    raise Unavailable("Others are settling this reservation now; send the request again.")


def _repeated(
    made: Reservation, directory: Directory, counters: Counters, now: datetime, announcer: Announcer | None = None
) -> Answer:
    series = series_of(made.customer, made.feature)
    heads = counters.heads([series])
    if announcer is not None:
        _announce(made.customer, [made.feature], now, heads, counters, now, announcer)
    item = Item(made.feature, ZERO)
    decision = _told(made.customer, item, Status.DUPLICATE, heads, directory, counters, now)
    return Answer(Status.DUPLICATE, (decision,), made)


def _ask(
    customer: str,
    features: Sequence[str],
    rule: Rule[Ruling],
    directory: Directory,
    counters: Counters,
    now: datetime,
    time_left: Callable[[], float],
) -> tuple[Ruling, dict[Series, Head]]:
    """What a rule says, once all features have gates that have any, and each step of it is done."""
    wanted = [series_of(customer, feature) for feature in features]
    if not (is_id(customer) and all(is_id(feature) for feature in features)):
        return Ruling.UNGATED, {}
    said, heads = counters.decide(wanted, rule, time_left)
    for _ in range(_STEPS):
        if said is Ruling.UNGATED and not _publish(wanted, heads, directory, counters, now):
            return said, heads
        if said not in {Ruling.UNGATED, Ruling.AGAIN}:
            return said, heads
        said, heads = counters.decide(wanted, rule, time_left)
    raise Unavailable("This could not be decided; send the request again.")


def _publish(
    wanted: Sequence[Series],
    heads: Mapping[Series, Head],
    directory: Directory,
    counters: Counters,
    now: datetime,
) -> bool:
    """Publish the gates that heads lack; whether they all have one then."""
    customer = wanted[0].customer
    snapshot = directory.snapshots_of([customer]).get(customer)
    gates = {one: gate_of(snapshot, one.feature, directory.plan, now) for one in wanted} if snapshot else {}
    if snapshot is None or not all(gates.values()):
        return False
    for series, gate in gates.items():
        if gate is not None and not (series in heads and heads[series].gate):
            counters.publish(series, write_gate(gate), snapshot.revision)
    return True


def _told(
    customer: str,
    item: Item,
    status: Status,
    heads: Mapping[Series, Head],
    directory: Directory,
    counters: Counters,
    now: datetime,
    at: datetime | None = None,
) -> Decision:
    """The decision as it is after what was done; what was granted stays so, whatever the limits say by now."""
    series = series_of(customer, item.feature)
    head = heads.get(series)
    gate = gate_in(head, series)
    if gate is None and is_id(customer) and is_id(item.feature):
        gate = _gate(customer, item.feature, directory, now)
    if gate is None:
        return _refuse_unknown(customer, item.feature, directory)
    if status is Status.DENIED:
        counts = gate.feature.aggregation is Aggregation.COUNT
        quantity = Decimal(1) if counts else item.quantity
        return _decide(gate, head, customer, quantity, counters, now, at)
    decision = _decide(gate, head, customer, None, counters, now, at)
    if decision.allowed:
        return decision
    return replace(decision, allowed=True, reason=Reason.ALLOWED, retry_at=None)


def _denied(decision: Decision) -> Decision:
    """A denial stays one, though by now there may be room."""
    if not decision.allowed:
        return decision
    reason = Reason.RATE_LIMITED if decision.type is FeatureType.RATE else Reason.QUOTA_EXCEEDED
    return replace(decision, allowed=False, reason=reason)


def _announce(
    customer: str,
    features: Iterable[str],
    at: datetime,
    heads: Mapping[Series, Head],
    counters: Counters,
    now: datetime,
    announcer: Announcer,
) -> None:
    """Have the thresholds told that features have reached with what happened at an instant."""
    wanted = [series_of(customer, feature) for feature in features]
    watched = [one for one in wanted if (gate := gate_in(heads.get(one), one)) is not None and gate.alerts]
    if len(wanted) > 1 and watched:
        heads = counters.heads(watched)  # of several heads it is not known what others have added meanwhile
    found: list[Reached] = []
    for series in watched:
        head = heads.get(series)
        gate = gate_in(head, series)
        term = gate.ruling(now) if gate is not None and gate.alerts else None
        if gate is None or head is None or term is None:
            continue
        subscription, granted = term
        period = subscription.period(at)
        counter = CounterId(customer, series.feature, subscription.id, period.start)
        tally = head.tally if head.counter == counter else counters.tallies([counter]).get(counter, Tally())
        limit = granted.quota.limit if granted.quota else None
        found += reached(counter, period.end, gate.alerts, limit=limit, used=tally.quantity, at=now)
    if found:
        announcer.announce(found)


def answer_to_dict(answer: Answer) -> dict[str, Any]:
    """The answer of the API to a consumption of one feature, or about a reservation: the check's, and what was done."""
    (decision,) = answer.decisions
    shown = decision_to_dict(decision) | {"status": answer.status.value}
    made = answer.reservation
    if made is None:
        return shown
    return shown | {
        "id": made.id,
        "quantity": format_decimal(made.quantity),
        "expires_at": format_time(from_epoch_ms(made.expires * 1_000)),
    }


def answers_to_dict(request_id: str, answer: Answer) -> dict[str, Any]:
    """The answer of the API to a consumption of several features."""
    return {
        "id": request_id,
        "status": answer.status.value,
        "allowed": answer.status is not Status.DENIED,
        "items": [decision_to_dict(decision) for decision in answer.decisions],
    }

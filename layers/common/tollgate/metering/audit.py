"""Does a counter agree with the archive, and what would its usage have cost under another plan version?"""

from datetime import datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import Final

from tollgate.catalog.model import Aggregation, Plan, Snapshot
from tollgate.catalog.periods import Period
from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import FieldError, InvalidInput, NotFound
from tollgate.kernel.money import EXACT, ZERO, round_amount
from tollgate.kernel.time import format_time
from tollgate.metering.history import Reader, archived_events, only_counted
from tollgate.metering.model import CounterId, Tally
from tollgate.metering.service import Counters, Directory, governing
from tollgate.pricing.quotes import Quote, quote

__all__ = ["Recount", "Rerating", "Target", "recount", "rerate", "target_at"]

_PAGE: Final = 1_000
_MOST_RECOUNTS: Final = 3
_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Target:
    """A counter to be audited: its billing period, the plan version that rules it, and in how many parts it is kept."""

    counter: CounterId
    period: Period
    plan: Plan
    aggregation: Aggregation
    shards: int


def target_at(customer: str, feature: str, at: datetime, directory: Directory) -> Target:
    """The counter that an event of an instant counts in.

    Raises:
        NotFound: no such customer or feature, or none of the customer's plans had it then.
    """
    snapshot = directory.snapshots_of([customer]).get(customer, Snapshot())
    ruling = governing(snapshot.subscriptions, feature, at, directory)
    plan = directory.plan(ruling[0].plan, ruling[0].plan_version) if ruling else None
    if ruling is None or plan is None:
        raise NotFound(f"{customer} has no subscription with {feature} at {format_time(at)}.")
    subscription, granted = ruling
    period = subscription.period(at)
    counter = CounterId(customer, feature, subscription.id, period.start)
    return Target(counter, period, plan, granted.feature.aggregation, snapshot.most_shards(feature))


@dataclass(frozen=True, slots=True)
class Recount:
    """A counter, and what the archive says that it must be.

    Attributes:
        counter: which.
        stored: what it holds.
        recounted: what its counted events of the archive add up to.
        archived: how many events of the archive were looked at; those that were not counted are among them.
        hours: what the counter's hours hold and must hold, those that differ.
    """

    counter: CounterId
    stored: Tally
    recounted: Tally
    archived: int
    hours: tuple[tuple[datetime, Tally, Tally], ...]

    @property
    def agrees(self) -> bool:
        """Whether the counter and each of its hours is what the archive says."""
        return _same(self.stored, self.recounted) and not self.hours


def recount(target: Target, *, counters: Counters, archive: Reader) -> Recount:
    """Add up a counter from the archive: each event that was counted, once.

    What is counted meanwhile makes it begin again, three times at most.

    Args:
        target: which counter.
        counters: the counters.
        archive: the archive.
    """
    stored = _stored(target, counters)
    for _ in range(_MOST_RECOUNTS):
        found = _recount(target, stored, counters, archive)
        now = _stored(target, counters)
        if now == stored:
            break
        stored = now
    return found


def _stored(target: Target, counters: Counters) -> Tally:
    counter = target.counter
    return counters.tallies([counter], {counter.feature: target.shards}).get(counter, Tally())


def _recount(target: Target, stored: Tally, counters: Counters, archive: Reader) -> Recount:
    counter, aggregation, shards = target.counter, target.aggregation, target.shards
    looked_at = 0
    hours: dict[datetime, Tally] = {}
    total = Tally()
    events = archived_events(archive, counter.customer, counter.feature, target.period, shards)
    while page := list(islice(events, _PAGE)):
        mine = [one for one in page if one.count.counter == counter]
        looked_at += len(mine)
        for one in only_counted(mine, counters):
            total = total.add(one.count, aggregation)
            hours[one.count.hour] = hours.get(one.count.hour, Tally()).add(one.count, aggregation)
    kept: dict[datetime, Tally] = {}
    first = target.period.start - _HOUR  # the period may begin amid an hour
    for hour, of, tally in counters.hours(counter.customer, counter.feature, first, target.period.end, shards):
        if of == counter:
            kept[hour] = kept.get(hour, Tally()).merge(tally, aggregation)
    both = [(hour, kept.get(hour, Tally()), hours.get(hour, Tally())) for hour in sorted(kept.keys() | hours.keys())]
    differing = [(hour, one, other) for hour, one, other in both if not _same(one, other)]
    return Recount(counter, stored, total, looked_at, tuple(differing))


def _same(one: Tally, other: Tally) -> bool:
    return (one.quantity, one.events) == (other.quantity, other.events)


@dataclass(frozen=True, slots=True)
class Rerating:
    """What a quantity costs under two plan versions."""

    quantity: Decimal
    old: Quote
    new: Quote

    @property
    def difference(self) -> Decimal:
        """What the new version adds to the amount of the old one, in the major unit of their currency."""
        return EXACT.subtract(self.new.amount, self.old.amount)


def rerate(feature: str, quantity: Decimal, old: Plan, new: Plan) -> Rerating:
    """Price the usage of a period once as it was and once by another plan version.

    Raises:
        InvalidInput: the new version does not have the feature, or is in another currency.
    """
    if new.feature(feature) is None:
        raise InvalidInput([FieldError("/plan", f"version {new.version} of {new.code} does not have {feature}")])
    if old.currency != new.currency:
        raise InvalidInput([FieldError("/plan", f"{new.code} is in {new.currency}, {old.code} in {old.currency}")])
    return Rerating(quantity, _quote(feature, quantity, old), _quote(feature, quantity, new))


def _quote(feature: str, quantity: Decimal, plan: Plan) -> Quote:
    granted = plan.feature(feature)
    if granted is None or granted.price is None:
        return Quote(round_amount(ZERO, plan.currency), ZERO, plan.currency, ())
    return quote(granted.price, quantity, plan.currency)

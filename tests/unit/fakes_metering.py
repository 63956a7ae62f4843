"""Counters and a directory in memory: the rules of metering with no database under them."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from tollgate.catalog.model import Customer, Feature, Plan, Subscription
from tollgate.metering.counting import Page, State, count_batch
from tollgate.metering.model import Batch, CounterId, Outcome, Tally
from tollgate.metering.rates import RateState


class FakeCounters:
    """A `Counters` that keeps one state per customer and feature."""

    def __init__(self) -> None:
        self._states: dict[tuple[str, str], State] = {}

    def count(self, batches: Sequence[Batch], now: datetime, time_left: Callable[[], float]) -> list[list[Outcome]]:
        """Count batches one after the other."""
        assert time_left() > 0
        return [count_batch(batch, self._state(batch.customer, batch.feature), now) for batch in batches]

    def tallies(self, counters: Iterable[CounterId]) -> dict[CounterId, Tally]:
        """What counters hold."""
        found = {one: self._state(one.customer, one.feature).tallies.get(one) for one in counters}
        return {counter: tally for counter, tally in found.items() if tally is not None}

    def periods(self, customer: str, feature: str) -> dict[CounterId, Tally]:
        """All counters of a customer and feature."""
        return dict(self._state(customer, feature).tallies)

    def buckets(
        self, customer: str, feature: str, start: datetime, end: datetime
    ) -> list[tuple[datetime, CounterId, Tally]]:
        """What the quarters of an hour in [start, end) hold."""
        pages: Iterable[tuple[datetime, Page]] = sorted(self._state(customer, feature).pages.items())
        return [
            (bucket, counter, tally)
            for bucket, page in pages
            if start <= bucket < end
            for counter, tally in page.tallies.items()
        ]

    def rate(self, customer: str, feature: str) -> RateState:
        """Where a customer stands in a rate limit."""
        return self._state(customer, feature).rate

    def _state(self, customer: str, feature: str) -> State:
        return self._states.setdefault((customer, feature), State({}, {}, {}, RateState()))


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

    def subscriptions_of(self, customer_ids: Iterable[str]) -> dict[str, tuple[Subscription, ...]]:
        """The subscriptions of customers; those with none are left out."""
        found = {
            customer: tuple(one for one in self._subscriptions if one.customer == customer) for customer in customer_ids
        }
        return {customer: subscriptions for customer, subscriptions in found.items() if subscriptions}

    def plan(self, code: str, version: int | None = None) -> Plan | None:
        """A plan version."""
        return self._plans.get((code, version or 1))

    def features(self, codes: Iterable[str]) -> dict[str, Feature]:
        """Those of the features that exist."""
        return {code: self._features[code] for code in codes if code in self._features}

    def customers(self, customer_ids: Iterable[str]) -> dict[str, Customer]:
        """Those of the customers that exist."""
        return {one: self._customers[one] for one in customer_ids if one in self._customers}

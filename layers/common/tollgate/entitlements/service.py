"""Use cases of entitlements: check one feature, or all that a customer has."""

from datetime import datetime
from decimal import Decimal

from tollgate.catalog.model import FeatureType, PlanFeature, Snapshot, Subscription
from tollgate.entitlements.model import INACTIVE, Decision, Reason, decide, refuse
from tollgate.kernel.ids import is_id
from tollgate.kernel.money import ZERO
from tollgate.metering.model import CounterId, Tally
from tollgate.metering.rates import use
from tollgate.metering.service import Counters, Directory

__all__ = ["check", "check_all"]

_Term = tuple[Subscription, PlanFeature]


def check(
    customer: str, feature: str, quantity: Decimal, *, directory: Directory, counters: Counters, now: datetime
) -> Decision:
    """May the customer use so much more of the feature now? A question, that changes nothing.

    Of several subscriptions that have the feature, the newest that is active answers.
    """
    if not is_id(customer):
        return refuse(customer, feature, Reason.CUSTOMER_NOT_FOUND)
    snapshot = directory.snapshots_of([customer]).get(customer, Snapshot())
    term = _terms(snapshot.subscriptions, now, directory).get(feature)
    if term is None:
        return refuse(customer, feature, _why_not(customer, feature, snapshot.subscriptions, directory, now))
    return _decide(term, quantity, _used([term], snapshot, counters, now), counters, now)


def check_all(customer: str, *, directory: Directory, counters: Counters, now: datetime) -> tuple[Decision, ...] | None:
    """A check of one unit for every feature of the customer's plans, by code; None for no such customer."""
    if not is_id(customer):
        return None
    snapshot = directory.snapshots_of([customer]).get(customer, Snapshot())
    if not snapshot.subscriptions and customer not in directory.customers([customer]):
        return None
    terms = _terms(snapshot.subscriptions, now, directory)
    used = _used(list(terms.values()), snapshot, counters, now)
    return tuple(_decide(term, Decimal(1), used, counters, now) for _, term in sorted(terms.items()))


def _terms(subscriptions: tuple[Subscription, ...], now: datetime, directory: Directory) -> dict[str, _Term]:
    """The subscription and the terms that rule each feature now: the newest active one's."""
    begun = [one for one in subscriptions if one.starts_at <= now]
    ordered = sorted(begun, key=lambda one: (one.status(now) not in INACTIVE, one.starts_at, one.id))
    terms: dict[str, _Term] = {}
    for subscription in ordered:
        plan = directory.plan(subscription.plan, subscription.plan_version)
        terms |= {granted.feature.code: (subscription, granted) for granted in (plan.features if plan else ())}
    return terms


def _used(terms: list[_Term], snapshot: Snapshot, counters: Counters, now: datetime) -> dict[CounterId, Tally]:
    metered = {FeatureType.USAGE, FeatureType.QUOTA}
    wanted = [
        _counter(subscription, granted, now) for subscription, granted in terms if granted.feature.type in metered
    ]
    return counters.tallies(wanted, {counter.feature: snapshot.most_shards(counter.feature) for counter in wanted})


def _counter(subscription: Subscription, granted: PlanFeature, now: datetime) -> CounterId:
    start = subscription.period(now).start
    return CounterId(subscription.customer, granted.feature.code, subscription.id, start)


def _decide(
    term: _Term, quantity: Decimal, used: dict[CounterId, Tally], counters: Counters, now: datetime
) -> Decision:
    subscription, granted = term
    rate = granted.rate
    tally = used.get(_counter(subscription, granted, now), Tally())
    state = counters.rate(subscription.customer, granted.feature.code) if rate else None
    return decide(
        subscription,
        granted,
        quantity,
        now=now,
        used=tally.quantity if tally.events else ZERO,
        rate_use=use(state, rate, now) if state and rate else None,
    )


def _why_not(
    customer: str, feature: str, subscriptions: tuple[Subscription, ...], directory: Directory, now: datetime
) -> Reason:
    if not subscriptions and customer not in directory.customers([customer]):
        return Reason.CUSTOMER_NOT_FOUND
    if not is_id(feature) or feature not in directory.features([feature]):
        return Reason.FEATURE_NOT_FOUND
    begun = any(one.starts_at <= now for one in subscriptions)
    return Reason.FEATURE_NOT_IN_PLAN if begun else Reason.NO_SUBSCRIPTION

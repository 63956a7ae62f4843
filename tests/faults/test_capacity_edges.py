"""Edges of consumptions and reservations: answers that were lost, ends of periods, limits of the database."""

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.faults.shop import PERIOD, Shop, identity
from tollgate.catalog import snapshots
from tollgate.catalog.model import (
    Aggregation,
    BillingPeriod,
    Dedupe,
    Feature,
    FeatureType,
    Overage,
    Override,
    Plan,
    PlanFeature,
    Quota,
    Rate,
    RateAlgorithm,
    Snapshot,
    SubscriptionStatus,
    Threshold,
)
from tollgate.catalog.periods import Interval, Period
from tollgate.catalog.service import subscribe
from tollgate.entitlements import service
from tollgate.entitlements.model import Reason
from tollgate.entitlements.rules import Item
from tollgate.entitlements.service import Status, answer_to_dict
from tollgate.kernel.errors import Conflict, InvalidInput, NotFound, Unavailable
from tollgate.metering.alerts import Reached
from tollgate.metering.model import CounterId, Event
from tollgate.metering.service import Memory, ingest
from tollgate.metering.store import DynamoCounters
from tollgate.metering.usage import Granularity, read_usage
from tools.engine import Call, Engine, Refused

D = Decimal
COUNTER = CounterId("ada", "tokens", "sub", PERIOD.start)


class Lost:
    """Takes the answers of the first transactions, all of botocore's attempts of one request."""

    def __init__(self, attempts: int = 2) -> None:
        self.left = attempts

    def after(self, call: Call) -> None:
        """It was written, and nobody is told."""
        if call.operation == "TransactWriteItems" and self.left:
            self.left -= 1
            raise Refused("InternalServerError", status=500)


def shop(database: Engine, **fields: Any) -> Shop:
    """A shop whose pauses take no time."""
    made = Shop(**fields)
    database.wait = made.clock.pass_by
    return made


# Answers


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_a_commit_whose_answer_was_lost_is_no_denial(database: Engine, attempts: int) -> None:
    """The limit is full by what it counted itself."""
    here, lost = shop(database, limit="10"), Lost(attempts)
    here.reserve("r", 10)
    with database.hooked(after=lost.after):
        answer = here.commit("r", 10)
    assert answer.status in {Status.COMMITTED, Status.DUPLICATE}
    assert answer_to_dict(answer)["allowed"] is True
    assert here.used() == 10
    assert here.commit("r", 10, process=1).status is Status.DUPLICATE


def test_a_denial_is_told_of_the_period_that_is_full(database: Engine) -> None:
    """An id made before the end of a period, that comes after it."""
    here = shop(database, limit="5")
    here.now = PERIOD.end - timedelta(seconds=1)
    assert here.consume(identity(1, here.now), ("tokens", 5)).status is Status.CONSUMED
    late = identity(2, here.now)
    here.now = PERIOD.end + timedelta(seconds=1)
    answer = here.consume(late, ("tokens", 1))
    decision = answer.decisions[0]
    assert (answer.status, decision.allowed, decision.reason) == (Status.DENIED, False, Reason.QUOTA_EXCEEDED)
    assert [decision.used, decision.remaining] == [5, 0]
    assert (decision.resets_at, decision.retry_at) == (PERIOD.end, None)
    assert here.consume(identity(3, here.now), ("tokens", 1)).decisions[0].used == 1


def test_figures_are_those_of_the_subscription_that_rules(database: Engine) -> None:
    """Though the head holds the counter of another, that was paused."""
    here = shop(database, limit="5")
    begins = datetime(2026, 3, 10, tzinfo=UTC)
    subscribe(
        here.catalog,
        customer="ada",
        plan="plan",
        gates=here.start(),
        clock=lambda: here.now,
        subscription_id="newer",
        starts_at=begins,
    )
    assert here.consume(identity(1), ("tokens", 3)).decisions[0].subscription == "newer"

    def pause(snapshot: Snapshot) -> Snapshot:
        paused = (
            replace(one, state=SubscriptionStatus.PAUSED) if one.id == "newer" else one
            for one in snapshot.subscriptions
        )
        return replace(snapshot, subscriptions=tuple(paused))

    assert here.catalog.update_snapshot("ada", pause)
    snapshots.publish("ada", snapshots=here.catalog, gates=here.start(), clock=lambda: here.now)
    for number in range(2, 7):
        answer = here.consume(identity(number), ("tokens", 1))
        assert answer.status is Status.CONSUMED
        assert answer.decisions[0].used == number - 1
    answer = here.consume(identity(7), ("tokens", 1))
    assert (answer.status, answer.decisions[0].allowed) == (Status.DENIED, False)
    assert answer.decisions[0].used == 5


def test_an_id_from_before_the_subscription_is_refused(database: Engine) -> None:
    """As an event is; what is asked for once more still is a duplicate when another subscription rules."""
    here = shop(database)
    here.now = PERIOD.start + timedelta(seconds=2)
    with pytest.raises(InvalidInput, match="time"):
        here.consume(identity(5, PERIOD.start - timedelta(seconds=3)), ("tokens", 1))
    assert here.used() == 0
    name = identity(6, here.now)
    assert here.consume(name, ("tokens", 1)).status is Status.CONSUMED
    subscribe(
        here.catalog,
        customer="ada",
        plan="plan",
        gates=here.start(),
        clock=lambda: here.now,
        subscription_id="newer",
        starts_at=here.now + timedelta(seconds=5),
    )
    here.pass_by(10)
    assert here.consume(name, ("tokens", 1)).status is Status.DUPLICATE
    here.recount(["tokens"])


def test_a_repeated_reservation_says_whether_it_still_holds(database: Engine) -> None:
    """Expired, it is a question as any other."""
    here = shop(database, limit="10")
    here.reserve("r", 6, 30)
    again = here.reserve("r", 6, 30)
    assert (again.status, again.decisions[0].allowed) == (Status.DUPLICATE, True)
    here.pass_by(60)
    here.consume(identity(1, here.now), ("tokens", 5))
    again = here.reserve("r", 6, 30)
    assert (again.status, again.decisions[0].allowed) == (Status.DUPLICATE, False)


def test_a_refusal_in_memory_bears_with_a_clock_that_is_ahead(database: Engine) -> None:
    """An id that says it is newer than a denial, and was granted before it."""
    here = shop(database, archive=False)
    for number in range(59):
        here.consume(identity(number), ("bursts", 1), local=True)
    ahead = identity(99, here.now + timedelta(seconds=2))
    assert here.consume(ahead, ("bursts", 1), local=True).status is Status.CONSUMED
    assert here.consume(identity(100), ("bursts", 1), local=True).status is Status.DENIED
    assert here.consume(ahead, ("bursts", 1), local=True).status is Status.DUPLICATE


def test_who_asks_for_more_than_the_whole_quota_is_not_told_to_come_back(database: Engine) -> None:
    """It will never fit."""
    here = shop(database, limit="10")
    assert here.check(quantity=11).retry_at is None
    here.consume(identity(1), ("tokens", 5))
    assert here.check(quantity=10).retry_at == PERIOD.end


def test_who_is_denied_for_what_is_held_is_told_when_enough_of_it_expires(database: Engine) -> None:
    """Not to wait for the end of the period; and then it fits."""
    here = shop(database, limit="10")
    here.consume(identity(1), ("tokens", 2))
    ends = {
        name: answer.reservation.expires - here.now.timestamp()
        for name, quantity, seconds in (("long", 4, 600), ("short", 1, 20), ("middle", 3, 60))
        if (answer := here.reserve(name, quantity, seconds)).reservation is not None
    }
    assert ends["short"] < ends["middle"] < ends["long"]
    for quantity, end in ((1, "short"), (2, "middle"), (4, "middle"), (5, "long"), (8, "long")):
        again = here.check(quantity=quantity).retry_at
        assert again == here.now + timedelta(seconds=ends[end])
    assert here.check(quantity=9).retry_at == PERIOD.end
    assert here.check(quantity=11).retry_at is None
    denied = here.reserve("more", 4)
    assert denied.status is Status.DENIED
    again = denied.decisions[0].retry_at
    assert again is not None
    here.now = again - timedelta(microseconds=1)
    assert here.consume(identity(2, here.now), ("tokens", 4)).status is Status.DENIED
    here.now = again
    assert here.consume(identity(2, here.now), ("tokens", 4)).status is Status.CONSUMED


def test_a_gauge_is_consumed_by_what_it_is_to_show(database: Engine) -> None:
    """Whatever it shows now, and though a later event has changed it since: as a check says."""
    here = shop(database)
    gauge = Feature("seats", "Seats", FeatureType.QUOTA, aggregation=Aggregation.LATEST)
    assert here.catalog.save_feature(gauge)
    granted = (PlanFeature(gauge, quota=Quota(D(10), Overage.BLOCK)),)
    month = BillingPeriod(Interval.MONTH)
    assert here.catalog.add_plan_version(Plan("seats", 1, "Seats", "EUR", month, D(0), 0, 0, granted))
    common: dict[str, Any] = {"gates": here.start(), "clock": lambda: here.now}
    subscribe(here.catalog, customer="ada", plan="seats", subscription_id="more", starts_at=PERIOD.start, **common)
    assert here.consume(identity(1), ("seats", 9)).status is Status.CONSUMED
    snapshots.set_override(here.catalog, "ada", "seats", Override(None, Quota(D(5), Overage.BLOCK)), **common)
    here.pass_by(7_200)
    for number, (quantity, hours) in enumerate([(6, 0), (6, 1), (5, 1), (9, 1), (4, 0)]):
        fits = here.check("seats", quantity).allowed
        answer = here.consume(identity(10 + number, here.now - timedelta(hours=hours)), ("seats", quantity))
        assert (answer.status is Status.CONSUMED) == fits == (quantity <= 5)
    assert here.check("seats").used == 4


def test_what_is_held_beyond_the_end_of_the_period_is_not_free_with_it(database: Engine) -> None:
    """Who waits for the next period is told when it has room for as much."""
    here = shop(database, limit="10")
    here.now = PERIOD.end - timedelta(seconds=60)
    here.consume(identity(1, here.now), ("tokens", 2))
    made = here.reserve("r", 8, 3_600).reservation
    assert made is not None
    expires = datetime.fromtimestamp(made.expires, UTC)
    for quantity, at in ((1, PERIOD.end), (2, PERIOD.end), (3, expires), (10, expires), (11, None)):
        assert here.check(quantity=quantity).retry_at == at
    here.now = PERIOD.end
    assert [here.check(quantity=2).allowed, here.check(quantity=3).allowed] == [True, False]
    here.now = expires
    assert here.check(quantity=10).allowed


@pytest.mark.parametrize("aggregation", list(Aggregation))
def test_a_feature_known_by_ids_alone_is_consumed_once_whatever_the_time(
    database: Engine, aggregation: Aggregation
) -> None:
    """Weeks later too; and by each aggregation a quota is what it makes of the events."""
    here = shop(database)
    jobs = Feature("jobs", "Jobs", FeatureType.QUOTA, aggregation=aggregation, dedupe=Dedupe.ID)
    assert here.catalog.save_feature(jobs)
    granted = (PlanFeature(jobs, quota=Quota(D(7), Overage.BLOCK)),)
    month = BillingPeriod(Interval.MONTH)
    assert here.catalog.add_plan_version(Plan("jobs", 1, "Jobs", "EUR", month, D(0), 0, 0, granted))
    common: dict[str, Any] = {"gates": here.start(), "clock": lambda: here.now}
    subscribe(here.catalog, customer="ada", plan="jobs", subscription_id="more", starts_at=PERIOD.start, **common)
    found = [here.consume(f"job-{number}", ("jobs", 3), process=number % 2).status for number in range(9)]
    most = {Aggregation.SUM: 2, Aggregation.COUNT: 7}.get(aggregation, 9)
    assert Counter(found) == Counter({Status.CONSUMED: most, Status.DENIED: 9 - most})
    assert here.consume("bigger", ("jobs", 8)).status is Status.DENIED
    here.pass_by(86_400 * 14)
    for process in range(3):
        assert here.consume("job-0", ("jobs", 3), process=process).status is Status.DUPLICATE
        with pytest.raises(Conflict):
            here.consume("job-0", ("jobs", 4), process=process)
    used = {Aggregation.SUM: 6, Aggregation.COUNT: 7}.get(aggregation, 3)
    assert here.check("jobs").used == used


# Other writers


class Between:
    """The gates of the deployment; something happens before the first is written."""

    def __init__(self, gates: DynamoCounters, happens: Any) -> None:
        self._gates = gates
        self._happens = happens

    def published(self, customer: str) -> snapshots.Published:
        """As they are."""
        return self._gates.published(customer)

    def publish_features(self, customer: str, features: frozenset[str], revision: int) -> None:
        """As asked."""
        self._gates.publish_features(customer, features, revision)

    def publish_gate(self, customer: str, feature: str, shard: int, text: str, revision: int) -> None:
        """As asked, afterwards."""
        happens, self._happens = self._happens, lambda: None
        happens()
        self._gates.publish_gate(customer, feature, shard, text, revision)


def test_the_last_of_two_changes_at_once_is_what_holds(database: Engine) -> None:
    """An override is removed while it is being published."""
    here = shop(database)

    def remove() -> None:
        snapshots.remove_override(here.catalog, "ada", "tokens", gates=here.start(), clock=lambda: here.now)

    made = Override(None, Quota(D(5), Overage.BLOCK))
    gates = Between(here.start(), remove)
    snapshots.set_override(here.catalog, "ada", "tokens", made, gates=gates, clock=lambda: here.now)
    assert here.catalog.snapshot("ada").overrides == {}
    assert here.check(quantity=6).limit == 1_000
    assert here.consume(identity(1), ("tokens", 6)).status is Status.CONSUMED


def test_more_shards_double_nothing_though_no_gate_was_reached(database: Engine) -> None:
    """A function that has run all the while, and one that is new, get the same events."""
    here = shop(database)
    warm, memory = here.start(), Memory()

    def send(name: str, at: datetime, counters: DynamoCounters, known: Memory) -> str:
        event = Event(name, "", "ada", "calls", D(1), at, {})
        (result,) = ingest(
            [event], directory=here.catalog, counters=counters, now=here.now, time_left=lambda: 60.0, memory=known
        )
        return result.status

    assert send("first", here.now, warm, memory) == "accepted"

    def die() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        snapshots.set_shards(here.catalog, "ada", "calls", 8, gates=Between(here.start(), die), clock=lambda: here.now)
    here.pass_by(1_800)
    for number in range(8):
        found = {
            send(f"e-{number}", here.now, counters, known)
            for counters, known in [(warm, memory), (here.start(), Memory())]
        }
        assert found == {"accepted", "duplicate"}
    counter = replace(COUNTER, feature="calls")
    assert here.start().tallies([counter], {"calls": 8})[counter].quantity == 9


def test_hours_are_read_as_they_are_at_one_time(database: Engine) -> None:
    """Though they move to their day between the reading of head and days."""
    here = shop(database)
    here.consume(identity(1), ("calls", 1))
    here.pass_by(3_600)
    here.consume(identity(2, here.now), ("calls", 1))
    waiting = iter(range(60))

    def before(call: Call) -> None:
        if call.operation == "Query" and "COUNTER#" in json.dumps(call.request):
            for number in waiting:
                here.consume(identity(100 + number, here.now), ("calls", 1))

    with database.hooked(before):
        usage = read_usage(
            "ada",
            "calls",
            directory=here.catalog,
            counters=here.start(),
            now=here.now,
            granularity=Granularity.HOUR,
        )
    assert [tally.events for _, tally in usage.buckets] == [1, 61]


# Other terms


def move(here: Shop, name: str, tokens: str, rate: Rate, **change: Any) -> None:
    """Put ada's subscription on another plan, with other terms for tokens and bursts."""
    before = here.catalog.plan("plan", 1)
    assert before is not None
    terms: dict[str, dict[str, Any]] = {"tokens": {"quota": Quota(D(tokens), Overage.BLOCK)}, "bursts": {"rate": rate}}
    granted = tuple(replace(one, **terms.get(one.feature.code, {})) for one in before.features)
    assert here.catalog.add_plan_version(replace(before, code=name, version=1, features=granted))

    def moved(snapshot: Snapshot) -> Snapshot:
        return replace(snapshot, subscriptions=(replace(snapshot.subscriptions[0], plan=name, **change),))

    assert here.catalog.update_snapshot("ada", moved)
    snapshots.publish("ada", snapshots=here.catalog, gates=here.start(), clock=lambda: here.now)


@pytest.mark.parametrize("algorithm", list(RateAlgorithm))
def test_another_plan_keeps_what_is_used_and_reserved(database: Engine, algorithm: RateAlgorithm) -> None:
    """Of the period and of the window, for functions that know the plan before as for others; and so an override."""
    here = shop(database, limit="100", rate=Rate(D(60), 60))
    for process in range(2):
        here.consume(identity(process), ("tokens", 20), ("bursts", 15), process=process)
    here.reserve("r", 30)
    move(here, "larger", "120", Rate(D(40), 60, algorithm))
    check = here.check()
    assert [check.plan, check.limit, check.used, check.reserved, check.remaining] == ["larger", 120, 40, 30, 50]
    assert [here.consume(identity(10 + n), ("bursts", 5), process=n).status for n in range(3)] == [
        Status.CONSUMED,
        Status.CONSUMED,
        Status.DENIED,
    ]
    assert here.consume(identity(20), ("tokens", 51)).status is Status.DENIED
    assert here.consume(identity(21), ("tokens", 50), process=1).status is Status.CONSUMED
    here.override("130")
    assert [here.check().limit, here.check().used, here.check().remaining] == [130, 90, 10]
    assert here.commit("r", 40).status is Status.COMMITTED
    move(here, "smaller", "50", Rate(D(40), 60, algorithm))
    assert [here.check().limit, here.check().used] == [130, 130]  # the override rules on
    snapshots.remove_override(here.catalog, "ada", "tokens", gates=here.start(), clock=lambda: here.now)
    check = here.check()
    assert [check.limit, check.used, check.remaining, check.overage] == [50, 130, 0, 80]
    here.recount()


def test_another_window_or_subscription_begins_anew_and_what_is_reserved_stays(database: Engine) -> None:
    """The other reset: minutes say nothing of hours, and another subscription has periods of its own."""
    here = shop(database, limit="100")
    here.consume(identity(1), ("tokens", 80), ("bursts", 60))
    here.reserve("r", 15)
    move(here, "hourly", "100", Rate(D(60), 3_600))
    assert here.check("bursts").remaining == 60
    assert here.check().used == 80
    assert here.consume(identity(2), ("bursts", 60), process=1).status is Status.CONSUMED
    move(here, "anew", "100", Rate(D(60), 3_600), id="second", starts_at=here.now, anchor=here.now)
    check = here.check()
    assert [check.subscription, check.used, check.reserved, check.remaining] == ["second", 0, 15, 85]
    assert here.check("bursts").remaining == 0  # a rate is the customer's
    later = identity(3, here.now)
    assert here.consume(later, ("tokens", 86)).status is Status.DENIED
    assert here.consume(later, ("tokens", 85), process=1).status is Status.CONSUMED
    assert here.used() == 80  # of the first


def test_a_period_and_a_trial_end_at_their_last_instant_with_no_job(database: Engine) -> None:
    """A microsecond before it is the old one's limit, at it the new one's; whatever functions remember."""
    here = shop(database, limit="10")
    ends = here.now + timedelta(days=3)
    move(here, "trial", "10", Rate(D(60), 60), anchor=ends)
    months = [datetime(2026, month, ends.day, 12, 0, 30, tzinfo=UTC) for month in (4, 5)]
    for place, end in enumerate([ends, *months]):
        here.now = end - timedelta(microseconds=1)
        rest = here.check().remaining
        assert here.consume(f"rest-{place}", ("tokens", str(rest))).status is Status.CONSUMED
        assert here.consume(f"over-{place}", ("tokens", 1), process=1).status is Status.DENIED
        assert [here.check().remaining, here.check().resets_at] == [0, end]
        here.now = end
        assert [here.check().used, here.check().remaining] == [0, 10]
        assert here.consume(f"next-{place}", ("tokens", 1 + place), process=1).status is Status.CONSUMED


# Closed periods


def test_a_reservation_does_not_open_a_closed_period(database: Engine) -> None:
    """By a clock that is behind; what is counted late stays an adjustment."""
    here = shop(database)
    here.now = PERIOD.end - timedelta(seconds=1)
    here.consume(identity(1, here.now), ("tokens", 5))
    assert here.start().close(COUNTER, Aggregation.SUM).quantity == 5
    with pytest.raises(Unavailable):
        here.reserve("r", 1)
    assert here.consume(identity(2, here.now), ("tokens", 3)).status is Status.CONSUMED
    (adjustment,) = here.start().adjustments("sub")
    assert [adjustment.closed.quantity, adjustment.now.quantity] == [5, 8]
    assert here.start().close(COUNTER, Aggregation.SUM).quantity == 5
    here.now = PERIOD.end + timedelta(seconds=1)
    assert here.reserve("r", 1).status is Status.RESERVED


def test_what_is_held_of_the_next_period_is_not_committed_in_the_last(database: Engine) -> None:
    """By a clock that is behind: the last is full. A second later, or by another function, it is committed."""
    here = shop(database, limit="10")
    here.now = PERIOD.end - timedelta(seconds=1)
    here.consume(identity(1, here.now), ("tokens", 10))
    here.now = PERIOD.end
    here.consume(identity(2, here.now), ("tokens", 1))
    here.now = PERIOD.end - timedelta(milliseconds=1)
    assert here.reserve("r", 9).status is Status.RESERVED
    for quantity in (9, 1):
        with pytest.raises(Unavailable, match="is ending"):
            here.commit("r", quantity, process=1)
    assert here.commit("r", 0).status is Status.COMMITTED  # for which there is room
    assert here.reserve("s", 9).status is Status.RESERVED
    here.now = PERIOD.end
    assert here.commit("s", 9, process=1).status is Status.COMMITTED
    following = Period(PERIOD.end, datetime(2026, 5, 1, tzinfo=UTC))
    assert [here.used(), here.used(period=following)] == [10, 10]
    here.recount(["tokens"])
    here.recount(["tokens"], following)


def test_figures_of_a_closed_period_are_told_as_they_are(database: Engine) -> None:
    """Of an id from before the end that comes after it; a check of the new period still is one read."""
    here = shop(database, limit="10")
    here.now = PERIOD.end - timedelta(seconds=1)
    here.consume(identity(1, here.now), ("tokens", 5))
    assert here.start().close(COUNTER, Aggregation.SUM).quantity == 5
    late = [identity(number, here.now) for number in (2, 3)]
    here.now = PERIOD.end + timedelta(seconds=1)
    before = database.total().calls
    assert here.check().used == 0
    assert database.total().calls == before + 1
    first, second = (here.consume(name, ("tokens", 3)) for name in late)
    assert [first.status, first.decisions[0].used, first.decisions[0].remaining] == [Status.CONSUMED, 8, 2]
    decision = second.decisions[0]
    assert [second.status, decision.reason, decision.used] == [Status.DENIED, Reason.QUOTA_EXCEEDED, 8]


# Limits of the database


def test_holds_of_a_day_that_all_expired_are_freed(database: Engine) -> None:
    """In as many different seconds as there may be."""
    here = shop(database, archive=False)
    for number in range(150):
        assert here.reserve(f"r-{number}", 1, 1 + number).status is Status.RESERVED
    assert here.check().reserved == 150
    here.pass_by(10_000)
    assert here.consume(identity(1, here.now), ("tokens", 1_000)).status is Status.CONSUMED
    assert [here.check().used, here.check().reserved] == [1_000, 0]
    for number in range(150):
        assert here.release(f"r-{number}").status is Status.RELEASED


@pytest.fixture
def _narrow_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tollgate.metering.counting.FULL_LANE", 40)


@pytest.mark.usefixtures("_narrow_lanes")
def test_features_that_are_always_consumed_together_may_all_be_full(database: Engine) -> None:
    """Each with a page for many lanes: more items than one transaction takes."""
    here = shop(database, archive=False)
    features = [Feature(f"f{number:02}", "F", FeatureType.USAGE) for number in range(20)]
    for feature in features:
        assert here.catalog.save_feature(feature)
    month = BillingPeriod(Interval.MONTH)
    granted = tuple(PlanFeature(feature) for feature in features)
    assert here.catalog.add_plan_version(Plan("big", 1, "Big", "EUR", month, D(0), 0, 0, granted))
    subscribe(
        here.catalog,
        customer="ada",
        plan="big",
        gates=here.start(),
        clock=lambda: here.now,
        subscription_id="sub-2",
        starts_at=PERIOD.start,
    )
    largest = 0

    def before(call: Call) -> None:
        nonlocal largest
        largest = max(largest, len(call.request.get("TransactItems", ())))

    items = [(feature.code, 1) for feature in features]
    with database.hooked(before):
        for number in range(300):
            assert here.consume(f"job-{number}", *items).status is Status.CONSUMED
    assert 80 < largest <= 100
    assert here.consume("job-7", *items, process=1).status is Status.DUPLICATE
    counter = CounterId("ada", "f07", "sub-2", PERIOD.start)
    assert here.start().tallies([counter])[counter].quantity == 300


def test_as_much_may_be_held_as_may_be_counted(database: Engine) -> None:
    """Where there is no limit, a number that the database can keep."""
    here = shop(database)

    def reserve(name: str) -> Status:
        return service.reserve(
            name,
            "ada",
            Item("calls", D("99999999999999999999.999999999999999999")),
            60,
            directory=here.catalog,
            counters=here.start(),
            now=here.now,
            time_left=lambda: 60.0,
        ).status

    assert reserve("r-1") is Status.RESERVED
    with pytest.raises(InvalidInput):
        reserve("r-2")
    with pytest.raises(InvalidInput):
        here.consume(identity(1), ("calls", "0.5"))
    here.pass_by(120)
    assert here.consume(identity(2, here.now), ("calls", "0.5")).status is Status.CONSUMED


@pytest.mark.parametrize("name", ["", "a#b", "x" * 3_000])
def test_a_name_that_can_be_no_reservations_is_not_looked_for(database: Engine, name: str) -> None:
    """It is not found."""
    here = shop(database)
    before = database.total().calls
    with pytest.raises(NotFound):
        here.commit(name, 1)
    with pytest.raises(NotFound):
        here.release(name)
    assert database.total().calls == before


# Shards and alerts


def test_what_was_reserved_before_there_were_shards_can_be_committed(database: Engine) -> None:
    """The work was done."""
    here = shop(database)
    common: dict[str, Any] = {"directory": here.catalog, "now": here.now, "time_left": lambda: 60.0}
    assert service.reserve("r", "ada", Item("calls", D(5)), 3_600, counters=here.start(), **common).status is (
        Status.RESERVED
    )
    snapshots.set_shards(here.catalog, "ada", "calls", 8, gates=here.start(), clock=lambda: here.now)
    assert here.commit("r", 4).status is Status.COMMITTED
    counter = replace(COUNTER, feature="calls")
    assert here.start().tallies([counter], {"calls": 8})[counter].quantity == 4
    with pytest.raises(InvalidInput, match="shards"):
        here.consume(identity(1), ("calls", 1))


class Told:
    """An announcer that keeps what it is told, and fails at first."""

    def __init__(self) -> None:
        self.reached: list[Reached] = []
        self.fails = True

    def announce(self, reached: Any) -> None:
        """Take them over, the second time."""
        self.fails, failed = False, self.fails
        if failed:
            raise Unavailable("not now")
        self.reached += reached


def test_thresholds_are_told_of_what_is_consumed_and_committed(database: Engine) -> None:
    """By whoever sends the same again, if it could not be told at first."""
    here, told = shop(database, limit="100"), Told()
    thresholds = [Threshold(percent=D(80)), Threshold(quantity=D(50))]
    snapshots.set_alerts(here.catalog, "ada", "tokens", thresholds, gates=here.start(), clock=lambda: here.now)
    common: dict[str, Any] = {
        "directory": here.catalog,
        "counters": here.start(),
        "now": here.now,
        "time_left": lambda: 60.0,
        "announcer": told,
    }

    def consume(name: str, quantity: int) -> Status:
        return service.consume("ada", name, [Item("tokens", D(quantity))], told=None, **common).status

    assert consume(identity(1), 49) is Status.CONSUMED
    assert told.fails
    with pytest.raises(Unavailable):
        consume(identity(2), 1)
    assert consume(identity(2), 1) is Status.DUPLICATE
    assert [one.threshold for one in told.reached] == [thresholds[1]]
    assert [told.reached[0].used, told.reached[0].limit] == [50, 100]
    told.reached.clear()
    here.reserve("r", 40)
    assert service.commit("r", D(30), **common).status is Status.COMMITTED
    assert [one.threshold for one in told.reached] == thresholds
    assert {one.used for one in told.reached} == {80}
    assert {one.period_end for one in told.reached} == {PERIOD.end}
    told.reached.clear()
    assert service.commit("r", D(30), **common).status is Status.DUPLICATE
    assert len(told.reached) == 2

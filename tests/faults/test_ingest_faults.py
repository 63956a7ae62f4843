"""Ingest with its catalog, counters, archive and queue consumer together, under faults: nothing lost, nothing twice."""

import json
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import count

import pytest

from tests.faults.chaos import KillAt, Killed
from tests.faults.shop import NOW, PERIOD, Shop, identity
from tests.faults.test_counter_faults import only_at
from tollgate.catalog.model import (
    Aggregation,
    BillingPeriod,
    Dedupe,
    Feature,
    FeatureType,
    Plan,
    PlanFeature,
    Threshold,
)
from tollgate.catalog.periods import Interval
from tollgate.catalog.service import subscribe
from tollgate.catalog.snapshots import set_alerts
from tollgate.kernel.errors import BadRequest
from tollgate.kernel.time import format_time
from tollgate.metering.alerts import Reached
from tollgate.metering.audit import recount, target_at
from tollgate.metering.consumer import Delivery, Failure, consume
from tollgate.metering.history import explain, list_events
from tollgate.metering.model import MAX_AGE, MAX_AHEAD, Event, Rejection
from tollgate.metering.service import Memory, Result, ingest
from tollgate.metering.usage import Granularity, read_usage
from tools.engine import Call, Engine

PROCESSES = 2


class Desk(Shop):
    """A shop whose customer also has `jobs`, deduplicated by id; what its functions do about events.

    Attributes:
        told: the thresholds that were told.
        failures: the error records, by key.
    """

    def __init__(self, database: Engine) -> None:
        database.clear()
        random.seed(1)  # botocore's and the product's jitter
        super().__init__(processes=PROCESSES)
        database.wait = self.clock.pass_by
        self.memories = [Memory() for _ in range(PROCESSES)]
        self.told: set[str] = set()
        self.failures: dict[str, Failure] = {}
        jobs = Feature("jobs", "Jobs", FeatureType.USAGE, dedupe=Dedupe.ID)
        assert self.catalog.save_feature(jobs)
        month = BillingPeriod(Interval.MONTH)
        assert self.catalog.add_plan_version(
            Plan("more", 1, "More", "EUR", month, Decimal(0), 0, 0, (PlanFeature(jobs),))
        )
        begins = PERIOD.start - timedelta(days=90)
        subscribe(
            self.catalog,
            customer="ada",
            plan="more",
            gates=self.start(),
            clock=lambda: self.now,
            subscription_id="more",
            starts_at=begins,
        )

    def announce(self, reached: Sequence[Reached]) -> None:
        """Tell of thresholds."""
        self.told |= {one.threshold_key for one in reached}

    def send(self, *events: Event | Rejection, process: int = 0, now: datetime | None = None) -> list[Result]:
        """What `POST /v1/events` answers."""
        return ingest(
            events,
            directory=self.catalog,
            counters=self.processes[process],
            now=now or self.now,
            time_left=self.clock.time_left(29.0),
            announcer=self,
            memory=self.memories[process],
        )

    def statuses(self, *events: Event, now: datetime | None = None) -> list[str]:
        """The statuses of the answer; the reason where it is a rejection."""
        return [one.reason or one.status for one in self.send(*events, now=now)]

    def take(self, delivery: Delivery, *, process: int = 0) -> None:
        """What the consumer of the events queue does with a message."""
        consume(
            delivery,
            count=lambda events, now: self.send(*events, process=process, now=now),
            write_down=self.write_down,
            resolve=self.resolve,
            time_left=self.clock.time_left(60.0),
            max_receives=5,
        )

    def write_down(self, failure: Failure) -> None:
        """Make an error record, once."""
        self.failures.setdefault(failure.key, failure)

    def resolve(self, key: str) -> None:
        """Resolve it, if there is one."""
        self.failures.pop(key, None)

    def begin_anew(self) -> None:
        """All processes have ended, and new ones begun."""
        for process in range(PROCESSES):
            self.restart(process)
            self.memories[process] = Memory()

    def agree(self, *features: str) -> None:
        """Prove the counters from the archive."""
        for feature in features:
            target = target_at("ada", feature, NOW, self.catalog)
            found = recount(target, counters=self.start(), archive=self.archive)
            assert found.agrees, found


def event(name: str, feature: str = "calls", quantity: str = "1", **fields: datetime | None) -> Event:
    """An event of ada, of a minute ago unless told otherwise."""
    return Event(name, "test", "ada", feature, Decimal(quantity), fields.get("time", NOW - timedelta(minutes=1)))


def of_all_kinds() -> list[list[Event]]:
    """Requests with events of each kind and way of deduplication."""
    late = [event(f"late-{n}", time=NOW - timedelta(hours=3, minutes=n)) for n in range(3)]
    return [
        [event("e1"), event("t1", "tokens", "5"), event("j1", "jobs", "2"), event("r1", time=None)],
        [*late, event("b1", "bursts"), event("e2", time=NOW), event(identity(7), time=None)],
        [
            event("t2", "tokens", "6"),
            event("j1", "jobs", "2", time=NOW),
            event("r1", time=None),
            event("r2", time=None),
        ],
    ]


TOTALS = {"calls": (8, 8), "tokens": (11, 2), "jobs": (2, 1), "bursts": (1, 1)}
"""The quantity and the number of events of each feature after `of_all_kinds`, whatever happened."""


def totals(desk: Desk) -> dict[str, tuple[int, int]]:
    """What the counters hold."""
    found = {
        feature: read_usage("ada", feature, directory=desk.catalog, counters=desk.start(), now=desk.now).total
        for feature in TOTALS
    }
    return {feature: (int(tally.quantity), tally.events) for feature, tally in found.items()}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_end_at_any_call_leaves_the_totals_the_archive_and_the_alerts_right(
    database: Engine, *, after: bool
) -> None:
    """The function is stopped at the k-th call, for every k, and all is delivered again."""
    for k in count(1):
        desk = Desk(database)
        set_alerts(
            desk.catalog, "ada", "tokens", (Threshold(quantity=Decimal(10)),), gates=desk.start(), clock=lambda: NOW
        )
        fault = KillAt(database.total().calls + k, after=after)
        try:
            with database.hooked(fault.before, fault.after):
                for request in of_all_kinds():
                    desk.send(*request)
        except Killed:
            desk.begin_anew()
        else:
            break
        for request in of_all_kinds():
            assert {one.status for one in desk.send(*request)} <= {"accepted", "duplicate"}
        assert totals(desk) == TOTALS, f"call {k}"
        assert desk.told == {"quantity#10"}
        desk.agree(*TOTALS)
        for request in of_all_kinds():
            assert {one.status for one in desk.send(*request)} == {"duplicate"}
        assert totals(desk) == TOTALS
    assert k > 20


@pytest.mark.parametrize("process", [0, 1], ids=["same worker", "another worker"])
def test_two_workers_with_one_message_count_it_once(database: Engine, process: int) -> None:
    """The second gets it between any two calls of the first, as when the queue's patience has ended."""
    requests = [json.dumps({"events": [_body(one) for one in request]}) for request in of_all_kinds()]
    for k in count(1):
        desk = Desk(database)
        deliveries = [Delivery(f"m{place}", body, NOW) for place, body in enumerate(requests)]
        overtaken = False
        current = deliveries[0]

        def overtake(_: Call, desk: Desk = desk) -> None:
            nonlocal overtaken
            overtaken = True
            desk.take(current, process=process)  # noqa: B023  whatever it is by then

        with database.hooked(before=only_at([database.total().calls + k], overtake)):
            for current in deliveries:
                desk.take(current)
        if not overtaken:
            break
        assert totals(desk) == TOTALS, f"call {k}"
        desk.agree(*TOTALS)
        assert desk.failures == {}
    assert k > 20


def _body(one: Event) -> dict[str, str]:
    body = {"id": one.id, "source": one.source, "customer": one.customer, "feature": one.feature}
    told = {"time": format_time(one.time)} if one.time else {}
    return body | told | {"quantity": str(one.quantity)}


def test_a_poison_among_a_hundred_messages_is_alone(database: Engine) -> None:
    """The others count; it has one record, however often it comes."""
    desk = Desk(database)
    bodies = [json.dumps(_body(event(f"e{n}"))) for n in range(100)]
    bodies[42] = bodies[42].replace('"quantity": "1"', '"quantity": NaN')
    for receives in range(1, 6):
        for place, body in enumerate(bodies):
            delivery = Delivery(f"m{place}", body, NOW, receives)
            if place == 42:
                with pytest.raises(BadRequest):
                    desk.take(delivery, process=receives % PROCESSES)
            elif receives <= 2:
                desk.take(delivery, process=receives % PROCESSES)
    assert totals(desk)["calls"] == (99, 99)
    assert list(desk.failures) == ["m42"]


FAR = NOW - timedelta(hours=5)  # before all that was counted, so in another bucket


@pytest.mark.parametrize(
    ("first", "again", "status"),
    [
        (event("e"), event("e"), "duplicate"),
        (event("e"), event("e", quantity="2"), "conflict"),
        (event("e"), event("e", time=NOW - timedelta(seconds=30)), "conflict"),
        (event("e"), event("e", time=NOW + timedelta(minutes=2)), "conflict"),
        (event("e"), event("e", time=FAR), "accepted"),
        (event("e"), event("e", time=None), "accepted"),
        (event("e", time=None), event("e", time=None), "duplicate"),
        (event("e", time=None), event("e", quantity="2", time=None), "conflict"),
        (event("e", time=None), event("e"), "accepted"),
        (event(identity(1), time=None), event(identity(1), time=None), "duplicate"),
        (event(identity(1), time=None), event(identity(1), time=NOW.replace(microsecond=0)), "duplicate"),
        (event(identity(1), time=None), event(identity(1), time=FAR), "accepted"),
        (event("e", "jobs"), event("e", "jobs"), "duplicate"),
        (event("e", "jobs"), event("e", "jobs", time=FAR), "duplicate"),
        (event("e", "jobs"), event("e", "jobs", time=None), "duplicate"),
        (event("e", "jobs", time=None), event("e", "jobs", time=FAR), "duplicate"),
        (event("e", "jobs"), event("e", "jobs", quantity="2"), "conflict"),
    ],
)
def test_a_resend_is_what_the_table_of_the_documents_says(
    database: Engine, first: Event, again: Event, status: str
) -> None:
    """With the time, without and with another, in each way of deduplication; and so each time it comes, and is read."""
    desk = Desk(database)
    assert desk.statuses(event("other", again.feature, time=NOW - timedelta(minutes=2))) == ["accepted"]
    assert desk.statuses(first) == ["accepted"]
    assert desk.statuses(again) == [status]
    desk.begin_anew()
    later = NOW + timedelta(minutes=2)  # another clock
    assert desk.statuses(again, first, now=later) == ["duplicate" if status == "accepted" else status, "duplicate"]
    used = read_usage("ada", first.feature, directory=desk.catalog, counters=desk.start(), now=desk.now)
    assert used.total.events == 2 + (status == "accepted")
    desk.agree(first.feature)


def test_an_event_just_inside_the_age_limit_counts_once_and_one_just_outside_is_refused(database: Engine) -> None:
    """By each clock, which may differ by two minutes: what was counted is never counted again."""
    desk = Desk(database)
    inside = [NOW - MAX_AGE, NOW + MAX_AHEAD]
    outside = [NOW - MAX_AGE - timedelta(microseconds=1), NOW + MAX_AHEAD + timedelta(microseconds=1)]
    for feature in ("jobs", "calls"):
        edges = [event(f"in-{n}", feature, time=time) for n, time in enumerate(inside)]
        beyond = [event(f"out-{n}", feature, time=time) for n, time in enumerate(outside)]
        counted = ["accepted"] * 2 if feature == "jobs" else ["feature_not_in_plan", "accepted"]
        assert desk.statuses(*edges, *beyond) == [*counted, "too_old", "in_the_future"]
        again = ["duplicate" if status == "accepted" else status for status in counted]
        assert desk.statuses(*edges) == again
        for skew in (-120, 120):
            said = desk.statuses(*edges, now=NOW + timedelta(seconds=skew))
            assert "accepted" not in said
    held = read_usage(
        "ada", "jobs", directory=desk.catalog, counters=desk.start(), now=NOW, start=NOW - MAX_AGE, end=NOW
    )
    assert held.total.events == 2
    assert totals(desk)["calls"] == (1, 1)


def test_metering_reads_no_index_and_scans_nothing(database: Engine) -> None:
    """An index may be seconds behind; and all reads, but for those of the catalog, are consistent."""
    desk = Desk(database)
    set_alerts(desk.catalog, "ada", "tokens", (Threshold(quantity=Decimal(10)),), gates=desk.start(), clock=lambda: NOW)
    seen: set[str] = set()

    def look(call: Call) -> None:
        seen.add(call.operation)
        assert "IndexName" not in call.request
        assert call.operation != "Scan"
        for asked in _reads(call):
            assert asked.get("ConsistentRead"), call.request

    with database.hooked(before=look):
        for request in of_all_kinds():
            desk.send(*request)
        for granularity in Granularity:
            read_usage("ada", "calls", directory=desk.catalog, counters=desk.start(), now=NOW, granularity=granularity)
        for name in ("e1", "late-1", "r1", "nothing"):
            explain(
                name,
                "test",
                "ada",
                directory=desk.catalog,
                counters=desk.start(),
                archive=desk.archive,
                now=NOW,
                time_left=lambda: 29.0,
            )
        list_events(
            "ada",
            "calls",
            directory=desk.catalog,
            counters=desk.start(),
            archive=desk.archive,
            now=NOW,
            time_left=lambda: 29.0,
            limit=100,
        )
        desk.agree(*TOTALS)
        target = target_at("ada", "calls", NOW, desk.catalog)
        desk.start().close(target.counter, Aggregation.SUM)
        desk.send(event("later"))
        for adjustment in desk.start().adjustments("sub"):
            desk.start().settle(adjustment)
    assert seen >= {"GetItem", "BatchGetItem", "Query", "PutItem", "UpdateItem", "TransactWriteItems"}


def _reads(call: Call) -> list[dict[str, object]]:
    """The reads of the usage table in a call."""
    if call.operation in {"GetItem", "Query"}:
        return [call.request] if "usage" in call.request["TableName"] else []
    if call.operation == "BatchGetItem":
        return [asked for table, asked in call.request["RequestItems"].items() if "usage" in table]
    return []

"""The contract of the counters, held by the fake and by DynamoDB alike."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import boto3
import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError, ReadTimeoutError

from tests.unit.fakes_metering import FakeCounters, make_count
from tollgate.catalog.model import Aggregation, Rate
from tollgate.kernel.dynamodb import UsageTable
from tollgate.metering.model import Batch, Count, CounterId, Outcome, Scope, Series, Tally
from tollgate.metering.rates import RateState, record
from tollgate.metering.service import Counters
from tollgate.metering.store import DynamoCounters

START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 1, 20, tzinfo=UTC)
UNTIL = NOW + timedelta(days=2)
SERIES = Series("ada", "requests")
WRITES = {"PutItem", "UpdateItem", "TransactWriteItems"}
ACCEPTED, DUPLICATE, CONFLICT = Outcome.ACCEPTED, Outcome.DUPLICATE, Outcome.CONFLICT


@pytest.fixture(params=["fake", "dynamodb"])
def counters(request: pytest.FixtureRequest) -> Iterator[Counters]:
    """Both stores, empty."""
    if request.param == "fake":
        yield FakeCounters()
    else:
        request.getfixturevalue("tables")
        yield DynamoCounters()


def counter(customer: str = "ada", feature: str = "requests", start: datetime = START) -> CounterId:
    """A counter."""
    return CounterId(customer, feature, "sub", start)


def count(number: int, quantity: str = "1", *, minutes: float = 0, **fields: Any) -> Count:
    """The event of that number."""
    known: dict[str, Any] = {"at": START + timedelta(minutes=minutes), "counter": counter()} | fields
    return make_count(number, quantity, **known)


def by_id(number: int, quantity: str = "1", *, minutes: float = 0, until: datetime = UNTIL) -> Count:
    """The event of that number, which is known by its id alone."""
    return count(number, quantity, minutes=minutes, scope=Scope.ID, until=until)


def batch(*counts: Count, aggregation: Aggregation = Aggregation.SUM, customer: str = "ada", shard: int = 0) -> Batch:
    """A batch of one series."""
    return Batch(Series(customer, "requests", shard), aggregation, counts)


def send(store: Counters, *counts: Count, aggregation: Aggregation = Aggregation.SUM) -> list[Outcome]:
    """Count one batch."""
    (outcomes,) = store.count([batch(*counts, aggregation=aggregation)], NOW, lambda: 20.0)
    return outcomes


def test_what_is_accepted_is_in_the_next_read(counters: Counters) -> None:
    """The counter and its hours show it."""
    assert send(counters, count(1, "2.5"), count(2, "0.5", minutes=80)) == [ACCEPTED, ACCEPTED]
    assert counters.tallies([counter()]) == {counter(): Tally(Decimal(3), 2)}
    assert counters.hours("ada", "requests", START, NOW) == [
        (START, counter(), Tally(Decimal("2.5"), 1)),
        (START + timedelta(hours=1), counter(), Tally(Decimal("0.5"), 1)),
    ]


def test_a_resend_is_a_duplicate_and_another_body_a_conflict(counters: Counters) -> None:
    """In the same request and in a later one."""
    assert send(counters, count(1), count(1), count(1, body="other")) == [ACCEPTED, DUPLICATE, CONFLICT]
    assert send(counters, count(1), count(2), count(1, body="other")) == [DUPLICATE, ACCEPTED, CONFLICT]
    assert counters.tallies([counter()])[counter()].events == 2


def test_nothing_is_read_of_what_was_never_counted(counters: Counters) -> None:
    """No counter, no hours, no rate."""
    assert counters.tallies([counter()]) == {}
    assert counters.hours("ada", "requests", START, NOW) == []
    assert not counters.heads([Series("ada", "requests")])


def test_batches_of_many_customers_are_answered_each_in_its_place(counters: Counters) -> None:
    """No batch hears of another's outcome."""
    batches = [batch(count(1, str(n + 1), counter=counter(f"c{n}")), customer=f"c{n}") for n in range(30)]
    assert counters.count(batches, NOW, lambda: 20.0) == [[ACCEPTED]] * 30
    ids = [counter(f"c{n}") for n in range(30)]
    assert {one.customer: tally.quantity for one, tally in counters.tallies(ids).items()} == {
        f"c{n}": n + 1 for n in range(30)
    }


def test_an_event_known_by_its_id_alone_is_forgotten_when_its_window_ends(counters: Counters) -> None:
    """The database may keep the marker longer: it does not count."""
    assert send(counters, by_id(1), by_id(1, minutes=90)) == [ACCEPTED, DUPLICATE]
    later = batch(by_id(1, minutes=200, until=UNTIL + timedelta(days=2)))
    assert counters.count([later], UNTIL - timedelta(seconds=1), lambda: 20.0) == [[DUPLICATE]]
    assert counters.count([later], UNTIL, lambda: 20.0) == [[ACCEPTED]]
    assert counters.count([later], UNTIL, lambda: 20.0) == [[DUPLICATE]]


@pytest.mark.parametrize("aggregation", Aggregation)
def test_every_aggregation_survives_the_way_to_the_database_and_back(
    counters: Counters, aggregation: Aggregation
) -> None:
    """The last of each is read back exactly, whatever came in between."""
    for one in (count(1, "5", minutes=30), count(2, "9.25", minutes=10), count(3, "7", minutes=20)):
        send(counters, one, aggregation=aggregation)
    expected = {"sum": "21.25", "count": "3", "max": "9.25", "latest": "5"}[aggregation.value]
    assert counters.tallies([counter()])[counter()].quantity == Decimal(expected)


def test_a_rate_limit_is_recorded_with_the_count(counters: Counters) -> None:
    """The state is that of the rule, and a duplicate does not change it."""
    rate = Rate(Decimal(10), 60)
    one, two = count(1, "3", rate=rate), count(2, "4", rate=rate)
    send(counters, one)
    send(counters, one, two)
    assert counters.heads([Series("ada", "requests")])[Series("ada", "requests")].rate == record(
        record(RateState(), rate, one.at, one.quantity), rate, two.at, two.quantity
    )


def test_thirty_eight_digits_are_kept(counters: Counters) -> None:
    """Nothing is rounded on the way."""
    send(counters, count(1, "12345678901234567890"), count(2, "0.123456789012345678"))
    assert counters.tallies([counter()])[counter()].quantity == Decimal("12345678901234567890.123456789012345678")


def test_a_bucket_of_thousands_of_ids_spills_and_still_knows_them_all(counters: Counters) -> None:
    """2,000 ids fill a page; older pages are asked as well."""
    batches = [[count(number) for number in range(start, start + 500)] for start in range(0, 4_500, 500)]
    for batch in batches:
        assert set(send(counters, *batch)) == {ACCEPTED}
    for batch in (batches[0], batches[4], batches[-1]):
        assert set(send(counters, *batch)) == {DUPLICATE}
    assert counters.tallies([counter()])[counter()].events == 4_500


def test_a_batch_over_weeks_is_counted_in_as_many_transactions_as_it_takes(counters: Counters) -> None:
    """300 hours before all that was counted, and 100 ids known alone, in one request."""
    send(counters, count(0, minutes=60 * 400))
    sent = [count(n, minutes=60 * n) for n in range(1, 301)] + [by_id(1_000 + n) for n in range(100)]
    assert set(send(counters, *sent)) == {ACCEPTED}
    assert set(send(counters, *sent)) == {DUPLICATE}
    assert sum(tally.events for _, _, tally in counters.hours("ada", "requests", START, NOW)) == 401


def test_what_was_counted_is_known_in_that_very_form_and_no_other(counters: Counters) -> None:
    """In the head and in pages, of each scope: another body, another time and another id were not counted."""
    sent = [count(1), by_id(2, minutes=1), count(3, scope=Scope.RECEIPT, minutes=2), *(count(n) for n in range(4, 204))]
    others = [count(1, body="other"), by_id(2, minutes=3), count(3, scope=Scope.RECEIPT, minutes=4), count(999)]
    assert counters.counted(SERIES, [*sent, *others]) == [False] * (len(sent) + len(others))
    for one in sent:
        send(counters, one)
    assert counters.counted(SERIES, [*sent, *others]) == [True] * len(sent) + [False] * len(others)


@pytest.mark.parametrize("scope", Scope)
def test_an_event_is_found_by_its_id_alone_within_the_stretch_that_is_looked_through(
    counters: Counters, scope: Scope
) -> None:
    """The newest, where it was counted twice; in a stretch without it there is nothing."""
    until = UNTIL if scope is Scope.ID else None
    wanted = count(1, minutes=60 * 24 * 5, scope=scope, until=until)
    send(counters, *(count(n, minutes=n) for n in range(2, 100)))
    send(counters, wanted)
    send(counters, *(count(n, minutes=60 * 24 * 9) for n in range(100, 200)))
    found = counters.find(SERIES, [wanted.hash], START, NOW)
    assert found is not None
    assert found.start <= wanted.at < found.end
    assert counters.find(SERIES, [wanted.hash], START, START + timedelta(minutes=30)) is None
    assert counters.find(SERIES, [count(999).hash], START, NOW) is None


def test_an_event_of_a_closed_period_counts_and_is_an_adjustment_until_it_is_billed(counters: Counters) -> None:
    """What was billed stays as it was told; what came since is the difference."""
    newer = counter(start=START + timedelta(days=5))
    in_newer = count(9, "7", minutes=6 * 24 * 60, counter=newer)
    send(counters, count(1, "5"), in_newer)
    assert counters.close(counter(), Aggregation.SUM) == Tally(Decimal(5), 1)
    assert counters.adjustments("sub") == []
    assert send(counters, count(2, "3", minutes=5), count(1, "5")) == [ACCEPTED, DUPLICATE]
    assert counters.close(counter(), Aggregation.SUM) == Tally(Decimal(5), 1)
    (adjustment,) = counters.adjustments("sub")
    assert adjustment.counter == counter()
    assert [adjustment.closed, adjustment.now] == [Tally(Decimal(5), 1), Tally(Decimal(8), 2)]
    send(counters, count(3, "4", minutes=6))
    counters.settle(adjustment)
    (rest,) = counters.adjustments("sub")
    assert [rest.closed, rest.now] == [Tally(Decimal(8), 2), Tally(Decimal(12), 3)]
    counters.settle(rest)
    counters.settle(adjustment)
    assert counters.adjustments("sub") == []
    assert counters.tallies([counter(), newer]) == {counter(): Tally(Decimal(12), 3), newer: Tally(Decimal(7), 1)}


def test_the_counter_that_is_counted_in_now_can_be_closed_too(counters: Counters) -> None:
    """Its period has just ended, and no event of the next has come: late ones are adjustments, and none is lost."""
    send(counters, count(1, "5"), count(2, "1", minutes=90))
    assert counters.close(counter(), Aggregation.SUM) == Tally(Decimal(6), 2)
    assert send(counters, count(1, "5"), count(3, "2", minutes=100)) == [DUPLICATE, ACCEPTED]
    (adjustment,) = counters.adjustments("sub")
    assert (adjustment.closed.events, adjustment.now.events) == (2, 3)
    assert sum(tally.events for _, _, tally in counters.hours("ada", "requests", START, NOW)) == 3
    newer = counter(start=START + timedelta(days=5))
    assert send(counters, count(4, minutes=6 * 24 * 60, counter=newer)) == [ACCEPTED]
    assert counters.tallies([counter(), newer]) == {counter(): Tally(Decimal(8), 3), newer: Tally(Decimal(1), 1)}


def test_a_period_that_saw_no_event_is_closed_at_nothing(counters: Counters) -> None:
    """And what comes then is an adjustment."""
    assert counters.close(counter(), Aggregation.SUM) == Tally()
    assert send(counters, count(1, "5")) == [ACCEPTED]
    (adjustment,) = counters.adjustments("sub")
    assert [adjustment.closed, adjustment.now] == [Tally(), Tally(Decimal(5), 1)]


@pytest.mark.usefixtures("tables")
def test_a_series_that_was_idle_for_so_long_that_its_pages_are_gone_counts_on() -> None:
    """100 events within a minute, more than the head holds; their pages have expired when the next ones come."""
    send(DynamoCounters(), *(count(n) for n in range(60)))
    send(DynamoCounters(), *(count(n, minutes=1) for n in range(60, 100)))
    client = boto3.client("dynamodb")
    table = str(UsageTable.Meta.table_name)
    for item in client.scan(TableName=table)["Items"]:
        if "ttl" in item:
            client.delete_item(TableName=table, Key={name: item[name] for name in ("pk", "sk")})
    later = [count(n, minutes=401 * 24 * 60 + n / 60) for n in range(100, 104)]
    outcomes = [send(DynamoCounters(pause=lambda _: None), one) for one in (*later, *later)]
    assert outcomes == [[ACCEPTED]] * 4 + [[DUPLICATE]] * 4
    assert DynamoCounters().tallies([counter()])[counter()].events == 104


@pytest.mark.usefixtures("tables")
def test_a_writer_that_lost_its_race_reads_again_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another writer comes between the read and the write: both count, and the pause is a random part of it."""
    pauses: list[float] = []
    store = DynamoCounters(pause=pauses.append)
    call = getattr(BaseClient, "_make_api_call")  # noqa: B009  boto3's own stubs do not name it
    rivals = iter([True])

    def interrupted(self: BaseClient, operation: str, arguments: dict[str, Any]) -> Any:
        if operation in WRITES and next(rivals, False):
            assert send(DynamoCounters(), count(2)) == [ACCEPTED]
        return call(self, operation, arguments)

    monkeypatch.setattr(BaseClient, "_make_api_call", interrupted)
    assert send(store, count(1)) == [ACCEPTED]
    assert store.tallies([counter()])[counter()].events == 2
    assert len(pauses) == 1
    assert 0 <= pauses[0] <= 0.04


@pytest.mark.usefixtures("tables")
def test_an_event_with_no_time_counts_once_though_two_clocks_differ_about_midnight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One writer takes it for an event of today, another one for one of yesterday, at the same moment."""
    midnight = START + timedelta(days=10)
    today, yesterday = (
        count(2, scope=Scope.RECEIPT, at=midnight + timedelta(seconds=seconds)) for seconds in (20, -20)
    )
    store = DynamoCounters(pause=lambda _: None)
    send(store, count(1, scope=Scope.RECEIPT, at=midnight + timedelta(seconds=10)))
    call = getattr(BaseClient, "_make_api_call")  # noqa: B009  boto3's own stubs do not name it
    rivals = iter([True])

    def interrupted(self: BaseClient, operation: str, arguments: dict[str, Any]) -> Any:
        if operation in WRITES and next(rivals, False):
            assert send(DynamoCounters(), today) == [ACCEPTED]
        return call(self, operation, arguments)

    monkeypatch.setattr(BaseClient, "_make_api_call", interrupted)
    assert send(store, yesterday) == [DUPLICATE]
    assert store.tallies([counter()])[counter()].events == 2


@pytest.mark.usefixtures("tables")
def test_a_read_that_failed_is_made_again_and_not_taken_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were it, the counter of the older period would begin again at 0."""
    store = DynamoCounters(pause=lambda _: None)
    newer = counter(start=START + timedelta(days=5))
    send(store, count(1, "5"), count(2, minutes=6 * 24 * 60, counter=newer))
    failing(monkeypatch, ClientError({"Error": {"Code": "ThrottlingException", "Message": ""}}, "BatchGetItem"))
    monkeypatch.setattr("tests.store.test_counters_store.WRITES", {"BatchGetItem"})
    assert send(DynamoCounters(pause=lambda _: None), count(3, "2", minutes=1)) == [ACCEPTED]
    assert store.tallies([counter()])[counter()].quantity == 7


@pytest.mark.usefixtures("tables")
def test_with_no_time_left_nothing_is_counted_and_the_caller_is_told() -> None:
    """Safe to send again: it counts then."""
    assert DynamoCounters().count([batch(count(1), count(2))], NOW, lambda: 1.0) == [
        [Outcome.UNAVAILABLE, Outcome.UNAVAILABLE]
    ]
    assert DynamoCounters().tallies([counter()]) == {}
    assert send(DynamoCounters(), count(1), count(2)) == [ACCEPTED, ACCEPTED]


def failing(monkeypatch: pytest.MonkeyPatch, *failures: Exception) -> None:
    """Have the next writes fail so, one after the other."""
    write = getattr(BaseClient, "_make_api_call")  # noqa: B009  boto3's own stubs do not name it
    left = iter(failures)

    def call(self: BaseClient, operation: str, arguments: dict[str, Any]) -> Any:
        if operation in WRITES and (failure := next(left, None)):
            raise failure
        return write(self, operation, arguments)

    monkeypatch.setattr(BaseClient, "_make_api_call", call)


def cancelled(*codes: str) -> ClientError:
    """A transaction that was cancelled for these reasons."""
    reasons = [{"Code": code, "Message": ""} for code in codes]
    error: Any = {"Error": {"Code": "TransactionCanceledException", "Message": ""}, "CancellationReasons": reasons}
    return ClientError(error, "TransactWriteItems")


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize(
    "failure",
    [
        cancelled("TransactionConflict", "None"),
        cancelled("ThrottlingError", "ConditionalCheckFailed"),
        cancelled("ProvisionedThroughputExceeded"),
        ClientError({"Error": {"Code": "ThrottlingException", "Message": ""}}, "TransactWriteItems"),
    ],
)
def test_a_conflict_or_a_throttle_is_tried_again(monkeypatch: pytest.MonkeyPatch, failure: ClientError) -> None:
    """boto3 does not try a cancelled transaction again: we do, after a pause."""
    pauses: list[float] = []
    failing(monkeypatch, failure, failure)
    (outcomes,) = DynamoCounters(pause=pauses.append).count([batch(count(1))], NOW, lambda: 20.0)
    assert (outcomes, len(pauses)) == ([ACCEPTED], 2)


@pytest.mark.usefixtures("tables")
def test_an_answer_that_never_came_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows whether the first write was done: what is stored by then decides."""
    failing(monkeypatch, ReadTimeoutError(endpoint_url="http://nowhere"))
    store = DynamoCounters(pause=lambda _: None)
    assert send(store, count(1)) == [ACCEPTED]
    assert send(store, count(1)) == [DUPLICATE]


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("failure", [cancelled("ValidationError"), cancelled("Other")])
def test_a_write_that_can_never_succeed_leaves_its_batch_and_no_other_to_be_sent_again(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """The caller is told, and it may be sent again."""
    failing(monkeypatch, failure)
    assert DynamoCounters().count([batch(count(1))], NOW, lambda: 20.0) == [[Outcome.UNAVAILABLE]]
    assert DynamoCounters().count([batch(count(1))], NOW, lambda: 20.0) == [[ACCEPTED]]

"""What is rare and must be right all the same: stragglers, what others write meanwhile, limits of the database."""

import os
from datetime import timedelta

import pytest

from tests.faults import scenario
from tests.faults.chaos import Chaos, Weather
from tests.faults.scenario import MOST, NOW, Ledger, Sent, chunks
from tests.faults.test_counter_faults import dice, ledger, only_at, told
from tollgate.catalog.model import Aggregation
from tollgate.metering.model import CounterId, Event, Outcome, Scope, Series, identify
from tools.engine import Call, Engine

ACCEPTED, DUPLICATE, CONFLICT = Outcome.ACCEPTED, Outcome.DUPLICATE, Outcome.CONFLICT


def seconds_ago(name: str, seconds: float) -> Sent:
    """An event of so many seconds ago."""
    return Sent(name, time=NOW - timedelta(seconds=seconds))


def between_a_transaction_and_what_follows(
    database: Engine, book: Ledger, events: list[Sent], *others: list[Sent]
) -> None:
    """Deliver events; after their first transaction, before the next call, another process delivers the others."""
    stage = ["before"]

    def before(_: Call) -> None:
        if stage[0] == "now":
            stage[0] = "over"
            for request in others:
                book.deliver(request, process=1)

    def after(call: Call) -> None:
        if stage[0] == "before" and call.operation == "TransactWriteItems":
            stage[0] = "now"

    with database.hooked(before, after):
        book.deliver(events)
    assert stage[0] == "over", "nothing came between"


def test_what_another_writes_after_a_transaction_is_not_taken_for_known(database: Engine) -> None:
    """An event with no time that went to a page then, and comes again, is a duplicate for whoever was overtaken."""
    book = ledger(database)
    for request in ([seconds_ago("first", 0), Sent("receipt-1")], told("spill", 60), [Sent("receipt-2")]):
        book.deliver(request)
    late = [seconds_ago("late", 10_800), Sent("receipt-3")]
    between_a_transaction_and_what_follows(database, book, late, [Sent("receipt-4")], told("more", 60))
    assert book.deliver([Sent("receipt-4")]) == [DUPLICATE]
    book.settle()


def test_what_another_adds_to_an_older_period_between_two_steps_of_a_batch_is_kept(database: Engine) -> None:
    """A batch that takes several transactions goes on from what is stored by then."""
    book = ledger(database)
    book.deliver([seconds_ago("now", 0)])
    late = [seconds_ago(f"late-{n}", 10_800 + 3_660 * n) for n in range(90)]
    between_a_transaction_and_what_follows(database, book, late, [seconds_ago("other", 20_000)])
    assert book.tallies() == book.fold(book.sent)
    book.settle()


@pytest.mark.parametrize("others", [0, 60], ids=["in the head", "in a page"])
@pytest.mark.parametrize("company", [[], [Sent("receipt")]], ids=["alone", "beside another"])
def test_an_id_with_a_later_time_near_by_is_a_conflict_at_once(
    database: Engine, others: int, company: list[Sent]
) -> None:
    """Beyond the end that the bucket has by then, for the event itself would extend it."""
    book = ledger(database)
    book.deliver([seconds_ago("one", 280)])
    for request in chunks(told("other", others, 280 / 60, 0.01), 10):
        book.deliver(request)
    again = seconds_ago("one", 100)
    assert book.deliver([again, *company])[0] is CONFLICT
    assert book.deliver([seconds_ago("last", 40)]) == [ACCEPTED]
    assert book.deliver([again]) == [CONFLICT]
    for request in chunks(told("next", 100, 1, 0.1), 10):
        assert set(book.deliver(request)) == {ACCEPTED}
    del book.sent[again]
    assert book.tallies() == book.fold(book.sent)
    assert set(book.deliver(list(book.sent))) == {DUPLICATE}


def test_a_batch_spread_over_the_whole_age_limit_is_counted(database: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each event in a bucket and nearly each in a day of its own, all in one billing period: within 100 actions."""
    monkeypatch.setattr(scenario, "BOUNDARY", NOW - timedelta(days=60))
    book = ledger(database)
    book.deliver([seconds_ago("now", 0)])
    assert set(book.deliver([seconds_ago(f"spread-{n}", 3_600 + 32_400 * n) for n in range(92)])) == {ACCEPTED}
    book.settle()


@pytest.mark.parametrize(
    "weather",
    [Weather(conflicts=1.0), Weather(throttles=1.0), Weather(lost_answers=1.0), Weather(lost_requests=1.0)],
    ids=["conflict", "throttled", "answers lost", "requests lost"],
)
def test_closing_a_period_and_settling_what_came_late_outlast_a_fault_at_any_call(
    database: Engine, weather: Weather
) -> None:
    """As counting does; what is billed is what was used, once."""
    for k in range(1, 1_000):
        book = ledger(database)
        early = told("early", 12, 150, 60)
        book.deliver([*early, *told("current", 3)])
        counter = book.counter(early[0])
        storm = Chaos(dice(k), book.clock, [weather])
        struck = range(database.total().calls + k, database.total().calls + k + 2)  # botocore asks twice
        strikes = only_at(struck, storm.before), only_at(struck, storm.after)
        with database.hooked(*strikes):
            closed = book.start().close(counter, Aggregation.SUM)
        assert closed.events == 12
        book.deliver(told("late", 1, 140), process=1)
        [adjustment] = book.start().adjustments("sub")
        assert adjustment.now.events - adjustment.closed.events == 1
        with database.hooked(*strikes):
            book.start().settle(adjustment)
        assert book.start().adjustments("sub") == []
        if database.total().calls < struck[0]:
            break
    assert k > 8


def test_thousands_of_counters_are_read_at_once(database: Engine) -> None:
    """A customer's usage of many periods, in several shards."""
    book = ledger(database)
    book.deliver(told("event", 3))
    start = book.counter(Sent("-")).period_start
    asked = [CounterId("ada", scenario.FEATURE, "sub", start - timedelta(days=n)) for n in range(1_000)]
    assert list(book.start().tallies(asked, {scenario.FEATURE: 4}).values()) == list(book.tallies().values())


def test_a_series_that_rested_longer_than_its_pages_are_kept_goes_on(database: Engine) -> None:
    """What the time to live has deleted is never waited for."""
    # A page was made just before the rest, with fewer ids than the head has room for later, by one of these.
    just_full = [[*told("slow", 19, 700, 2_200), *told("fast", fast, 0.5, 0.01)] for fast in range(20, 32)]
    for before in (told("event", MOST), *just_full):
        book = ledger(database)
        for request in chunks(before, MOST if len(before) == MOST else 1):
            book.deliver(request)
        later = NOW + timedelta(days=500)
        database.expire(os.environ["USAGE_TABLE"], later.timestamp())
        events = [Sent(f"later-{n}", time=later) for n in range(60)]
        for outcome in (ACCEPTED, DUPLICATE):
            for request in chunks(events, 7):
                assert set(book.deliver(request, later)) == {outcome}
        assert sum(tally.events for tally in book.tallies().values()) == len(before) + 60


@pytest.mark.parametrize("events", [told("event", 20), told("late", 60, 200, 5)], ids=["usual", "late"])
def test_counting_answers_in_its_time_however_slow_the_calls_are(database: Engine, events: list[Sent]) -> None:
    """Each call takes almost as long as it may: the first attempt is lost, the second answers late."""
    book = ledger(database)
    book.deliver(told("before", 30, 300, 60))

    def slowly(_: Call) -> None:
        book.clock.pass_by(8.5)

    for seconds in (12, 16, 25, 29):
        end = book.clock.seconds + seconds
        with database.hooked(before=slowly):
            book.deliver(events, time_left=lambda end=end: end - book.clock.seconds)  # type: ignore[misc]
        assert book.clock.seconds <= end
    book.settle()


def test_an_event_is_looked_for_from_the_newest_on_and_no_further_than_it_is(database: Engine) -> None:
    """What is told of the ids looked through is what was read."""
    book = ledger(database)
    events = told("event", 2_000, 220, 6)
    for request in chunks(events, 50):
        book.deliver(request)
    series = Series("ada", scenario.FEATURE)
    looked: dict[str, int] = {}
    for event in (events[-200], events[0], Sent("unheard-of", time=NOW)):
        spent: list[int] = []
        name = identify(Event(event.id, "test", "ada", scenario.FEATURE, event.quantity, event.time), Scope.TIME, None)
        found = book.start().find(series, [name[0]], NOW - timedelta(days=35), NOW, spent.append)
        assert (found is None) is (event.id == "unheard-of")
        assert event.time is not None
        assert found is None or found.start <= event.time < found.end
        looked[event.id] = sum(spent)
    assert looked["event-1800"] < 400
    assert looked["unheard-of"] > 1_900


def test_a_counter_that_leaves_its_head_while_both_are_read_is_not_read_as_empty(database: Engine) -> None:
    """A batch of reads is not one instant: the head is read when its period is closed, the period's item before."""
    book = ledger(database)
    book.deliver(told("event", 3))
    expected = book.tallies()
    [counter] = expected
    torn = False

    def close(_: Call) -> None:
        nonlocal torn
        if not torn:
            torn = True
            book.start().close(counter, Aggregation.SUM)

    def tear(call: Call) -> None:
        if (
            call.operation == "BatchGetItem"
            and len(call.request["RequestItems"][os.environ["USAGE_TABLE"]]["Keys"]) > 1
        ):
            [items] = call.answer["Responses"].values()
            items[:] = [item for item in items if not item["sk"]["S"].startswith("PERIOD#")]

    with database.hooked(only_at([database.total().calls + 1], close), tear):
        assert book.start().tallies([counter]) == {counter: expected[counter]}
    assert torn

"""One fault at a time, at every place it can strike; and the extremes."""

import os
import random
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from itertools import count
from random import Random

import pytest

from tests.faults.chaos import Chaos, Clock, KillAt, Killed, Weather
from tests.faults.scenario import BOUNDARY, MOST, NOW, PROCESSES, Ledger, Sent, chunks
from tollgate.catalog.model import Aggregation
from tollgate.kernel.dynamodb import LONGEST_CALL_SECONDS
from tollgate.metering.model import CounterId, Outcome
from tools.engine import Call, Engine, Hook

ACCEPTED, DUPLICATE, CONFLICT = Outcome.ACCEPTED, Outcome.DUPLICATE, Outcome.CONFLICT
UNAVAILABLE, OUT_OF_RANGE = Outcome.UNAVAILABLE, Outcome.OUT_OF_RANGE
Requests = list[list[Sent]]


def ledger(database: Engine, aggregation: Aggregation = Aggregation.SUM) -> Ledger:
    """An empty database and a ledger whose time is only told."""
    database.clear()
    clock = Clock()
    database.wait = clock.pass_by
    random.seed(1)  # botocore's and the product's jitter
    return Ledger(clock, aggregation)


def dice(seed: int = 1) -> Random:
    """Dice that fall the same each time."""
    return Random(seed)  # noqa: S311  it must repeat


def told(name: str, number: int, minutes: float = 0, step: float = 0) -> list[Sent]:
    """Events that say when they were, so many minutes ago and `step` seconds apart."""
    return [
        Sent(f"{name}-{n}", Decimal(n + 1), NOW - timedelta(minutes=minutes, seconds=-step * n)) for n in range(number)
    ]


def small_requests() -> Requests:
    """Each way through the counter, in batches of 1 and 10."""
    singles = told("single", 6, 10, 20)
    return [
        *([one] for one in singles[:3]),
        told("ten", 10, 8, 5),
        [Sent("receipt-1")],
        [Sent("by-id-1", time=NOW - timedelta(minutes=5), by_id=True)],
        told("late", 3, 200, 1),
        [*told("boundary", 4, 122, 60), Sent("bob-1", customer="bob"), Sent("receipt-2")],
        [*singles[2:4], *told("ten", 2, 8, 5)],
        [Sent("by-id-1", time=NOW, by_id=True), *told("next", 3)],
        *([one] for one in singles[4:]),
    ]


def large_requests() -> Requests:
    """Batches of 100 and 500: in one moment, over four hours, and of all kinds."""
    mixed = [Sent(f"receipt-{n}") for n in range(20)]
    mixed += [Sent(f"by-id-{n}", time=NOW - timedelta(minutes=n), by_id=True) for n in range(30)]
    return [told("moment", 100, 3), [*told("spread", 50, 240, 280), *mixed], told("moment", MOST, 3), told("next", 30)]


def deliver_all(book: Ledger, requests: Iterable[Sequence[Sent]]) -> None:
    """Deliver requests in turn, each by another process than the one before."""
    for place, request in enumerate(requests):
        book.deliver(request, process=place % PROCESSES)


def only_at(numbers: Collection[int], hook: Hook) -> Hook:
    """The hook, for some calls only."""

    def at(call: Call) -> None:
        if call.number in numbers:
            hook(call)

    return at


def reshaped(events: Sequence[Sent], shape: int) -> list[Sequence[Sent]]:
    """The events in other requests than before."""
    mixed = list(events)
    dice(shape).shuffle(mixed)
    return [list(part) for part in chunks(mixed, (MOST, 64, 11)[shape % 3])]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("requests", [small_requests, large_requests])
def test_an_end_at_any_call_loses_nothing_and_doubles_nothing(
    database: Engine, requests: Callable[[], Requests], *, after: bool
) -> None:
    """The k-th call is the last, for every k; then all is sent again, in requests as before or of another shape."""
    for k in count(1):
        book = ledger(database)
        fault = KillAt(k, after=after)
        left = iter(requests())
        try:
            with database.hooked(fault.before, fault.after):
                deliver_all(book, left)
        except Killed:
            deliver_all(book, left)
            events = [event for request in requests() for event in request]
            book.settle(requests() if k % 2 else reshaped(events, k))
        else:
            break
    assert k > len(requests()), "there was nothing to strike"


@pytest.mark.parametrize("requests", [small_requests, large_requests])
@pytest.mark.parametrize(
    ("weather", "strikes"),
    [
        (Weather(lost_answers=1.0), 1),
        (Weather(lost_answers=1.0), 2),
        (Weather(lost_requests=1.0), 2),
        (Weather(throttles=1.0), 2),
        (Weather(conflicts=1.0), 2),
        (Weather(parts=1.0), 1),
    ],
    ids=["answer lost", "answers lost", "requests lost", "throttled", "conflict", "half a batch"],
)
def test_a_fault_at_any_call_changes_nothing(
    database: Engine, requests: Callable[[], Requests], weather: Weather, strikes: int
) -> None:
    """Botocore asks again, and the product where botocore has met it twice; events sent once count once."""
    clean = ledger(database)
    deliver_all(clean, requests())
    expected, calls = clean.tallies(), database.total().calls
    for k in range(1, calls + 1):
        book = ledger(database)
        storm = Chaos(dice(k), book.clock, [weather])
        struck = range(k, k + strikes)
        with database.hooked(only_at(struck, storm.before), only_at(struck, storm.after)):
            deliver_all(book, requests())
        assert book.tallies() == expected, f"call {k}"
        assert not {CONFLICT, UNAVAILABLE} & {one for answers in book.answers.values() for one in answers}
        for request in chunks(list(book.sent), MOST):
            assert set(book.deliver(request)) == {DUPLICATE}
        assert book.tallies() == expected, f"call {k}"


@pytest.mark.parametrize("requests", [small_requests, large_requests])
@pytest.mark.parametrize("process", [0, 1], ids=["same process", "another process"])
def test_the_same_request_at_once_counts_once(database: Engine, requests: Callable[[], Requests], process: int) -> None:
    """It is delivered whole between any two calls of the first delivery."""
    for k in count(1):
        book = ledger(database)
        overtaken = False
        current: list[Sent] = []

        def overtake(_: Call, book: Ledger = book) -> None:
            nonlocal overtaken
            overtaken = True
            book.deliver(current, process=process)  # noqa: B023  whatever it is by then

        with database.hooked(before=only_at([k], overtake)):
            for current in requests():
                book.deliver(current)
        if not overtaken:
            break
        book.settle()
    assert k > len(requests())


@pytest.mark.parametrize("requests", [small_requests, large_requests])
def test_a_time_out_at_any_step_leaves_events_that_may_be_sent_again(
    database: Engine, requests: Callable[[], Requests]
) -> None:
    """Time is looked at again and again: at each of these looks it may be over."""
    for steps in count():
        book = ledger(database)
        looks = iter([100.0] * steps)
        outcomes = set()
        for request in requests():
            outcomes |= set(book.deliver(request, time_left=lambda looks=looks: next(looks, 0.0)))  # type: ignore[misc]
        assert UNAVAILABLE in outcomes or steps >= len(requests())
        book.settle()
        if UNAVAILABLE not in outcomes:
            break


def test_a_time_out_at_every_10_milliseconds_leaves_events_that_may_be_sent_again(database: Engine) -> None:
    """While half of the writes meet a conflict."""
    whole = 0
    for hundredths in range(100 * LONGEST_CALL_SECONDS, 2_000):
        book = ledger(database)
        storm = Chaos(dice(hundredths), book.clock, [Weather(conflicts=0.5)])
        with database.hooked(storm.before, storm.after):
            outcomes = book.deliver(told("event", 20, 60, 200), time_left=book.clock.time_left(hundredths / 100))
        assert set(outcomes) <= {ACCEPTED, UNAVAILABLE}
        book.settle()
        whole = whole + 1 if UNAVAILABLE not in outcomes else 0
        if whole == 20:
            break
    assert whole, "it was never counted whole"


@pytest.mark.parametrize(
    "weather",
    [Weather(throttles=1.0), Weather(conflicts=1.0), Weather(lost_requests=1.0)],
    ids=["throttled", "conflicts", "no network"],
)
def test_a_database_that_refuses_all_the_time_loses_nothing(database: Engine, weather: Weather) -> None:
    """Every event is answered as unavailable, within the time given; later it counts."""
    book = ledger(database)
    storm = Chaos(dice(), book.clock, [weather])
    with database.hooked(storm.before, storm.after):
        for request in small_requests():
            started = book.clock.seconds
            assert set(book.deliver(request)) == {UNAVAILABLE}
            assert book.clock.seconds - started <= 30
    assert book.tallies() == {}
    book.settle()
    assert set(book.accepted.values()) == {1}


def test_answers_that_are_always_lost_lose_nothing(database: Engine) -> None:
    """Nobody knows what was counted; sent again, all is exact."""
    book = ledger(database)
    storm = Chaos(dice(), book.clock, [Weather(lost_answers=1.0)])
    with database.hooked(storm.before, storm.after):
        for request in small_requests():
            book.deliver(request)
    book.settle(reshaped(list(book.sent), 2))


@pytest.mark.parametrize(
    ("aggregation", "number"),
    [
        (Aggregation.SUM, 20_000),
        (Aggregation.COUNT, 2_000),
        (Aggregation.MAX, 2_000),
        (Aggregation.LATEST, 2_000),
    ],
)
def test_random_events_from_16_threads_count_once(database: Engine, aggregation: Aggregation, number: int) -> None:
    """30% are duplicates, sent by whoever comes first."""
    roll = dice()
    timed = 1.0 if aggregation is Aggregation.LATEST else 0.97
    fresh = [
        Sent(
            f"event-{n}",
            Decimal(roll.randrange(10**12)) / 1000,
            NOW - timedelta(seconds=roll.uniform(0, 600)) if roll.random() < timed else None,
            roll.choice(["ada", "bob", "cyd", "dot"]),
            by_id=roll.random() < 0.02,
        )
        for n in range(number * 7 // 10)
    ]
    events = fresh + roll.choices(fresh, k=number - len(fresh))
    roll.shuffle(events)
    requests: Requests = []
    while events:
        size = roll.choice([100, 200, MOST])
        requests.append(events[:size])
        events = events[size:]
    database.clear()
    book = Ledger(aggregation=aggregation, pause=time.sleep)

    def deliver(place: int) -> list[Outcome]:
        return book.deliver(requests[place], time_left=lambda: 100.0, process=place % PROCESSES)

    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(deliver, range(len(requests))))
    flat = [outcome for answers in outcomes for outcome in answers]
    assert (flat.count(ACCEPTED), flat.count(DUPLICATE)) == (len(fresh), number - len(fresh))
    assert book.tallies() == book.fold(fresh)
    book.settle()


def test_a_period_that_ends_under_load_gets_its_own_events(database: Engine) -> None:
    """Each event counts in the period of its time, in whatever order and whoever's turn it is."""
    events = [Sent(f"event-{n}", Decimal(n), BOUNDARY + timedelta(milliseconds=n - 500)) for n in range(1_000)]
    dice().shuffle(events)
    book = ledger(database)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda request: book.deliver(request, time_left=lambda: 100.0), list(chunks(events, 25))))
    ended, current = (book.tallies()[book.counter(one)] for one in (Sent("-", time=BOUNDARY - timedelta(1)), Sent("-")))
    assert (ended.events, ended.quantity) == (500, Decimal(sum(range(500))))
    assert (current.events, current.quantity) == (500, Decimal(sum(range(500, 1_000))))
    book.settle()


def test_40_000_events_of_one_instant_count_once(database: Engine) -> None:
    """However many ids one moment has."""
    book = ledger(database)
    for outcome in (ACCEPTED, DUPLICATE):
        for request in chunks(told("event", 40_000), MOST):
            assert set(book.deliver(request)) == {outcome}
        assert book.tallies() == book.fold(book.sent)
        book.restart()


def test_38_digits_are_kept_to_the_last(database: Engine) -> None:
    """What would be one more is refused alone."""
    book = ledger(database)
    most = "99999999999999999999.999999999999999997"
    assert book.deliver([Sent("most", Decimal(most), NOW)]) == [ACCEPTED]
    assert book.deliver([Sent("least", Decimal("1E-18"), NOW)]) == [ACCEPTED]
    assert [tally.quantity for tally in book.tallies().values()] == [Decimal("99999999999999999999.999999999999999998")]
    over = Sent("over", Decimal("0.000000000000000002"), NOW)
    assert book.deliver([Sent("zero", Decimal(0), NOW), over, Sent("last", Decimal("1E-18"), NOW)]) == [
        ACCEPTED,
        OUT_OF_RANGE,
        ACCEPTED,
    ]
    del book.sent[over]
    book.settle()


def test_what_the_time_to_live_deletes_is_not_missed(database: Engine) -> None:
    """Inside the 35 days that an event may be late, a resend is a duplicate whether DynamoDB has deleted or not."""
    for days, deleted in [(0, False), (1, True), (34, False), (34, True)]:
        book = ledger(database)
        events = [*told("event", 40, 100, 10), Sent("by-id", time=NOW, by_id=True)]
        book.deliver(events)
        later = NOW + timedelta(days=days)
        if deleted:
            database.expire(os.environ["USAGE_TABLE"], later.timestamp())
        assert book.tallies() == book.fold(events)
        told_only = [event for event in events if not event.by_id] if days else events
        assert set(book.deliver(told_only, later)) == {DUPLICATE}
        assert book.tallies() == book.fold(events)


def test_another_number_of_shards_loses_and_doubles_nothing(database: Engine) -> None:
    """Events from then on count in more of them, resends of those before where they did."""
    book = ledger(database)
    before, after = told("before", 60, 40, 20), told("after", 200, 20, 5)
    book.deliver(before)
    book.shards, book.sharded = 4, NOW - timedelta(minutes=20)
    assert set(book.deliver([*after, Sent("receipt"), *before])) == {ACCEPTED, DUPLICATE}
    assert book.tallies() == book.fold([*before, *after, Sent("receipt")])
    book.shards = 16
    assert book.tallies() == book.fold(book.sent)
    book.shards = 4
    book.settle()


def test_a_resend_with_another_time_is_a_conflict_or_another_event_and_the_totals_are_those_of_the_accepted(
    database: Engine,
) -> None:
    """In the bucket of the first it is a conflict; either way it is answered at once, and alike when it comes again."""
    roll = dice()
    book = ledger(database)
    accepted = []
    for n in range(120):
        event = Sent(f"event-{n % 30}", Decimal(n + 1), NOW - timedelta(seconds=roll.uniform(0, 14_400)))
        [outcome] = book.deliver([event], process=n % PROCESSES)
        assert outcome in {ACCEPTED, CONFLICT}
        if outcome is ACCEPTED:
            accepted.append(event)
        else:
            assert book.deliver([event]) == [CONFLICT]
    assert book.tallies() == book.fold(accepted)
    for n, event in enumerate(accepted):
        assert book.deliver([event], process=n % PROCESSES) == [DUPLICATE]
    assert book.tallies() == book.fold(accepted)


def test_a_receipt_is_known_the_next_day(database: Engine) -> None:
    """With no time, an event is the same on the day of its receipt and the next, whichever process gets it."""
    book = ledger(database)
    midnight = NOW.replace(minute=0)
    events = [Sent(f"receipt-{n}") for n in range(100)]
    assert set(book.deliver(events, midnight - timedelta(minutes=1))) == {ACCEPTED}
    for process, later in enumerate([timedelta(minutes=-3), timedelta(minutes=1), timedelta(hours=23, minutes=59)]):
        assert set(book.deliver(events, midnight + later, process=process)) == {DUPLICATE}


@pytest.mark.parametrize("minutes", [(-1, 1), (1, -1)], ids=["today overtakes", "yesterday overtakes"])
def test_a_receipt_on_both_sides_of_midnight_counts_once(database: Engine, minutes: tuple[int, int]) -> None:
    """Two processes whose clocks differ get it at once; one overtakes between any two calls of the other."""
    late, early = (NOW.replace(minute=0) + timedelta(minutes=each) for each in minutes)
    for k in count(1):
        book = ledger(database)
        book.deliver([Sent("before")], NOW.replace(minute=0) - timedelta(minutes=2))
        book.deliver([Sent("after")], NOW.replace(minute=0) + timedelta(minutes=2), process=1)
        events = [Sent("one"), Sent("two")]
        overtaken = False

        def overtake(_: Call, book: Ledger = book, events: list[Sent] = events) -> None:
            nonlocal overtaken
            overtaken = True
            book.deliver(events, early, process=2)

        with database.hooked(before=only_at([database.total().calls + k], overtake)):
            book.deliver(events, late)
        if not overtaken:
            break
        book.settle()
    assert k > 2


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_end_at_any_call_of_closing_a_period_bills_each_event_once(database: Engine, *, after: bool) -> None:
    """What was closed, and the adjustments since, are all that was used."""
    early, late = told("early", 12, 150, 60), told("late", 5, 140, 30)
    for k in count(1):
        book = ledger(database)
        book.deliver([*early, *told("current", 3)])
        counter = book.counter(early[0])
        fault = KillAt(database.total().calls + k, after=after)
        try:
            with database.hooked(fault.before, fault.after):
                book.start().close(counter, Aggregation.SUM)
                book.deliver(late[:3], process=1)
                for adjustment in book.start().adjustments("sub"):
                    book.start().settle(adjustment)
        except Killed:
            book.restart(1)
        else:
            break
        billed = book.start().close(counter, Aggregation.SUM)
        book.deliver(late)
        adjustments = book.start().adjustments("sub")
        more = sum((one.now.quantity - one.closed.quantity for one in adjustments), Decimal(0))
        used = book.tallies()[counter]
        assert billed.quantity + more == used.quantity
        for adjustment in adjustments:
            book.start().settle(adjustment)
        assert book.start().adjustments("sub") == []
        assert book.start().close(counter, Aggregation.SUM) == used
        book.settle()
    assert k > 8


def test_a_period_closed_between_any_two_calls_of_a_delivery_bills_each_event_once(database: Engine) -> None:
    """An event is billed with its period or as an adjustment, never both and never not."""
    for k in count(1):
        book = ledger(database)
        events = [told("early", 3, 150), told("late", 2, 140), told("current", 2), told("later", 2, 135)]
        counter = book.counter(events[0][0])
        closed = False

        def close(_: Call, book: Ledger = book, counter: CounterId = counter) -> None:
            nonlocal closed
            closed = True
            book.start().close(counter, Aggregation.SUM)

        with database.hooked(before=only_at([k], close)):
            for request in events:
                book.deliver(request)
        if not closed:
            break
        billed = book.start().close(counter, Aggregation.SUM)
        more = [one.now.quantity - one.closed.quantity for one in book.start().adjustments("sub")]
        assert billed.quantity + sum(more) == book.tallies()[counter].quantity
        book.settle()
    assert k > len(events)

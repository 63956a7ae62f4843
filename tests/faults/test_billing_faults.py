"""Billing that is interrupted, raced and resumed: a period is invoiced once, and an invoice is charged once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from itertools import count
from random import Random

import pytest

from tests.faults.books import Books, plan
from tests.faults.chaos import Chaos, Killed, Weather
from tollgate.billing.invoices import Invoice, InvoiceStatus, move
from tollgate.billing.run import bill, fall_due
from tollgate.catalog.gates import read_gate
from tollgate.catalog.life import When, Who
from tollgate.catalog.model import INACTIVE, AfterGrace, SubscriptionStatus
from tollgate.kernel.errors import Conflict, Unavailable
from tollgate.metering.model import Series
from tools.engine import Call, Engine

D = Decimal
FEBRUARY, MARCH = datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
STORM = Weather(lost_requests=0.05, lost_answers=0.05, throttles=0.05, conflicts=0.05, parts=0.05, kills=0.02)


class Nth:
    """A hook that does something at the n-th call from now on, before it or after it; once."""

    def __init__(self, number: int, act: Callable[[], object]) -> None:
        self._left = number
        self._act = act
        self.is_done = False

    def __call__(self, _: Call) -> None:
        """Count."""
        self._left -= 1
        if self._left == 0:
            self.is_done = True
            self._act()


def kill() -> None:
    """End the process."""
    raise Killed


def at_the_end_of_january(database: Engine, customers: tuple[str, ...] = ("ada",)) -> Books:
    """Customers that have used something, whose first period has just ended; late usage of it will come."""
    database.clear()
    books = Books()
    books.open()
    for name in customers:
        books.subscribe(name)
        books.deposit(name, "100")
    books.run()
    books.pass_by(days=10)
    for name in customers:
        books.use(name, 250)
    books.now = FEBRUARY
    return books


def told(books: Books) -> list[tuple[object, ...]]:
    """All that the invoices say, and what is in the wallets."""
    invoices = books.all_invoices()
    names = sorted({one.customer for one in invoices})
    said: list[tuple[object, ...]] = [
        (one.subscription, one.period, one.status, one.lines, one.total, one.attempts) for one in invoices
    ]
    return said + [(name, books.balance(name)) for name in names]


def finish(books: Books) -> None:
    """Bill as a new process does, once what held a payment has let go of it."""
    books.pass_by(minutes=5)
    books.desk = books.process()
    books.run()
    books.sweep()


def test_a_bill_that_ends_at_any_call_is_completed_by_the_next(database: Engine) -> None:
    """Before the call or after it: one invoice, one charge, the same lines."""
    books = at_the_end_of_january(database)
    books.run()
    expected = told(books)
    killed = 0
    for number in count(1):
        for after in (False, True):
            books = at_the_end_of_january(database)
            nth = Nth(number, kill)
            try:
                with database.hooked(None if after else nth, nth if after else None):
                    books.bill("ada")
            except Killed:
                killed += 1
            finish(books)
            assert told(books) == expected, f"call {number}, {'after' if after else 'before'} it"
            books.check()
        if not nth.is_done:
            break
    assert killed > 30


@pytest.mark.parametrize("seed", range(1, 17))
def test_a_bill_in_bad_weather_says_in_the_end_what_it_says_in_good(database: Engine, seed: int) -> None:
    """Lost requests and answers, throttling, conflicts and deaths: one invoice, one charge, the same lines."""
    books = at_the_end_of_january(database)
    books.run()
    expected = money(books)
    books = at_the_end_of_january(database)
    chaos = Chaos(Random(seed), books.pauses, [STORM])  # noqa: S311  dice
    for _ in range(12):
        try:
            with database.hooked(chaos.before, chaos.after):
                books.bill("ada")
        except (Exception, Killed):  # noqa: BLE001  the message comes again, whatever it was
            books.desk = books.process()
            books.pass_by(seconds=20)
    assert chaos.struck
    books.pass_by(days=1)
    finish(books)
    assert money(books) == expected
    books.check()


def money(books: Books) -> list[object]:
    """What was invoiced, and what that did to the wallet."""
    said = [(one.period, one.status, one.lines, one.total) for one in books.all_invoices()]
    return [*said, books.balance("ada")]


def test_late_usage_is_billed_once_wherever_the_process_ends(database: Engine) -> None:
    """It is settled before the invoice opens, and the invoice knows what it settles."""
    for number in count(1, 2):
        books = at_the_end_of_january(database)
        books.run()
        books.pass_by(days=1)
        assert books.use("ada", 20, at=FEBRUARY - DAY) == "accepted"
        books.now = MARCH
        nth = Nth(number, kill)
        try:
            with database.hooked(nth):
                books.bill("ada")
        except Killed:
            pass
        finish(books)
        books.now = MARCH + 31 * DAY
        books.run()
        adjustments = [
            line.amount for one in books.all_invoices() for line in one.lines if line.kind.value == "adjustment"
        ]
        assert adjustments == [D("1.60")], f"call {number}"
        if not nth.is_done:
            break


def test_a_change_of_plan_at_any_call_of_the_close_is_in_the_next_period(database: Engine) -> None:
    """Whichever is first: the period that has ended is invoiced as it was, and the change is prorated once."""
    books = at_the_end_of_january(database)
    books.pass_by(minutes=1)
    books.bill("ada")
    books.change("ada", "pro")
    books.now = MARCH
    books.run()
    expected = [one.lines for one in books.all_invoices()]
    for number in count(1):
        books = at_the_end_of_january(database)
        books.pass_by(minutes=1)
        nth = Nth(number, partial(books.change, "ada", "pro"))
        with database.hooked(nth):
            books.bill("ada")
        books.now = MARCH
        books.run()
        if not nth.is_done:
            break
        assert [one.lines for one in books.all_invoices()] == expected, f"call {number}"
        books.check()
    assert number > 15


def test_an_end_at_any_call_of_the_close_is_credited_once(database: Engine) -> None:
    """What was charged in advance is given back; nothing is charged after it."""
    for number in count(1, 3):
        books = at_the_end_of_january(database)
        nth = Nth(number, partial(books.cancel, "ada", When.NOW))
        with database.hooked(nth):
            books.bill("ada")
        books.run()
        books.now = MARCH
        books.run()
        if not nth.is_done:
            break
        # 20.00 for January and 22.00 for its usage; of 20.00 for February all is given back, but for an instant
        assert books.balance("ada") == D("58.00"), f"call {number}"
        books.check()


def test_several_runs_at_once_invoice_each_period_once(database: Engine) -> None:
    """And charge each invoice once."""
    names = tuple(f"c{number}" for number in range(6))
    books = at_the_end_of_january(database, names)
    desks = [books.process() for _ in range(4)]

    def run(worker: int) -> list[str]:
        made: list[str] = []
        for name in names:
            for _ in range(50):
                try:
                    made += bill(desks[worker].billing, f"sub-{name}", books.now).invoices
                    break
                except (Conflict, Unavailable):
                    continue
        return made

    with ThreadPoolExecutor(len(desks)) as pool:
        made = [name for names_made in pool.map(run, range(len(desks))) for name in names_made]
    assert len(made) == len(set(made)) == len(names)
    finish(books)
    books.check()
    for name in names:
        assert books.balance(name) == D("38.00")
        assert [one.status for one in books.all_invoices(name)] == [InvoiceStatus.PAID] * 2


def test_a_change_that_ends_at_any_call_is_made_once_by_the_same_request(database: Engine) -> None:
    """And is seen by a check in the end."""
    for number in count(1):
        books = at_the_end_of_january(database)
        books.bill("ada")
        books.pass_by(days=1)
        who = Who("key", "asked for", ("key-1", "digest"))
        nth = Nth(number, kill)
        with suppress(Killed), database.hooked(after=nth):
            books.change("ada", "free", who=who)
        books.change("ada", "free", who=who)
        assert [entry.action.value for entry in books.life("ada").history] == ["created", "changed"], f"call {number}"
        heads = books.start().heads([Series("ada", "calls")])
        term = read_gate("ada", "calls", heads[Series("ada", "calls")].gate).ruling(books.now)
        assert term is not None
        assert term[0].plan == "free"
        if not nth.is_done:
            break
    assert number > 5


def test_numbers_have_no_gap_whatever_is_struck(database: Engine) -> None:
    """Conflicts at the counter are waited out, and a lost answer gives no second number."""
    books = at_the_end_of_january(database)
    books.bill("ada")
    drafts = [
        replace(books.all_invoices()[0], id=f"inv_{number}", number=None, status=InvoiceStatus.DRAFT, revision=0)
        for number in range(24)
    ]
    for one in drafts:
        assert books.invoices.write(one)
    weather = Weather(lost_answers=0.1, conflicts=0.2, throttles=0.1)
    chaos = Chaos(Random(5), books.pauses, [weather])  # noqa: S311  dice

    def opened(draft: Invoice) -> str | None:
        after = move(draft, InvoiceStatus.OPEN, at=books.now, actor="system", reason="billed")
        for _ in range(50):
            with suppress(Unavailable):
                found = books.invoices.open(after)
                return found.number if found else None
        return pytest.fail("it never opened")

    with database.hooked(chaos.before, chaos.after), ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(opened, drafts))
    assert chaos.struck > 10
    stored = [books.invoices.get(one.id) for one in drafts]
    assert sorted(one.number for one in stored if one and one.number) == [f"INV-{n:06d}" for n in range(3, 27)]
    assert all(number in {None, one.number} for number, one in zip(numbers, stored, strict=True) if one)


def test_two_changes_at_once_are_one_after_the_other(database: Engine) -> None:
    """Or one is refused; the history tells of each that was made."""
    books = at_the_end_of_january(database)
    books.bill("ada")
    books.pass_by(days=1)
    others = [books.process() for _ in range(3)]

    def change(place: int) -> bool:
        try:
            if place % 2:
                books.change("ada", "pro")
            else:
                books.pause("ada")
        except (Conflict, Unavailable):
            return False
        return True

    with ThreadPoolExecutor(len(others)) as pool:
        done = list(pool.map(change, range(len(others))))
    history = books.life("ada").history
    assert [entry.number for entry in history] == list(range(1, len(history) + 1))
    assert 1 <= sum(done) <= 2
    assert len(history) == 1 + sum(done)


def test_an_invoice_is_not_read_without_its_number_once_it_is_open(database: Engine) -> None:
    """The number is given in the write that opens it."""
    books = at_the_end_of_january(database)
    seen: list[Invoice] = []

    def look(_: Call) -> None:
        if not looking:
            looking.append(True)
            seen.extend(books.all_invoices())
            looking.pop()

    looking: list[bool] = []
    with database.hooked(after=look):
        books.bill("ada")
    assert len(seen) > 10
    assert all((one.number is None) == (one.status is InvoiceStatus.DRAFT) for one in seen)


@pytest.mark.parametrize("after_grace", AfterGrace)
def test_a_grace_that_is_over_is_seen_by_checks_wherever_the_process_ends(
    database: Engine, after_grace: AfterGrace
) -> None:
    """The message comes again, and then a gate that was not reached is."""
    killed = 0
    for number in count(1):
        database.clear()
        books = Books()
        books.open([plan("strict", "30.00", after_grace=after_grace)])
        books.subscribe("ada", "strict")
        books.run()
        fall_due(books.desk.billing, books.all_invoices()[0].id, reason="no try is left")
        books.pass_by(days=8)
        nth = Nth(number, kill)
        try:
            with database.hooked(after=nth):
                books.bill("ada")
        except Killed:
            killed += 1
        books.bill("ada", books.process())
        assert seen_by_checks(books) in INACTIVE, f"call {number}"
        if not nth.is_done:
            break
    assert killed > 5


def seen_by_checks(books: Books) -> SubscriptionStatus:
    """The status of ada's subscription as her gate has it."""
    series = Series("ada", "calls")
    term = read_gate("ada", "calls", books.start().heads([series])[series].gate).ruling(books.now)
    assert term is not None
    return term[0].status(books.now)


def test_an_end_that_was_asked_for_once_is_seen_by_checks_wherever_the_process_ends(database: Engine) -> None:
    """If it was written down at all: the next billing run completes what the request does not."""
    ended = 0
    for number in count(1):
        books = at_the_end_of_january(database)
        books.run()
        books.pass_by(days=1)
        nth = Nth(number, kill)
        with suppress(Killed), database.hooked(after=nth):
            books.cancel("ada")
        books.run()
        assert seen_by_checks(books) is books.status("ada"), f"call {number}"
        ended += books.status("ada") is SubscriptionStatus.CANCELLED
        if not nth.is_done:
            break
    assert 1 < ended < number

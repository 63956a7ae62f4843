"""Wallets under races and faults: the balance is the sum of the ledger, nothing is entered twice or lost."""

import random
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from itertools import count
from random import Random

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from pynamodb.exceptions import PynamoDBException

from tests.faults.chaos import Chaos, Clock, KillAt, Killed, Weather
from tests.faults.conftest import SHARES, seeds
from tests.unit.fakes_billing import NOW
from tollgate.billing.ledger import enter
from tollgate.billing.wallet import Entry, EntryType, InsufficientFunds
from tollgate.billing.wallet_store import DynamoWallets
from tollgate.kernel.errors import Conflict, Unavailable
from tools.engine import Call, Engine

D = Decimal
CALLERS = 16
MOST_TRIES = 300
PASSES = (Conflict, Unavailable, PynamoDBException, BotoCoreError, ClientError)
WEATHERS = (
    Weather(lost_requests=0.02, lost_answers=0.05, throttles=0.02, conflicts=0.05, kills=0.02),
    Weather(lost_answers=0.3, conflicts=0.3),
    Weather(throttles=0.7, lost_answers=0.05),
    Weather(lost_answers=0.5, lost_requests=0.2, kills=0.05),
)


def put_in(name: str, amount: Decimal, kind: EntryType | None = None) -> Entry:
    """An entry in ada's wallet, by a process that knows nothing."""
    return enter(
        DynamoWallets(),
        customer="ada",
        entry_id=name,
        entry_type=kind or (EntryType.DEPOSIT if amount > 0 else EntryType.ADJUSTMENT),
        amount=amount,
        currency="EUR",
        description="",
        overdraft=D(0),
        clock=lambda: NOW,
    )


def insist(name: str, amount: Decimal) -> Entry | None:
    """Send a request until it is answered; None when the funds do not suffice."""
    for _ in range(MOST_TRIES):
        try:
            return put_in(name, amount)
        except InsufficientFunds:
            return None
        except PASSES:
            continue
    raise AssertionError(f"{name} is never answered")


def books() -> list[Entry]:
    """The whole ledger, each balance in it checked against the sum, and the wallet against both."""
    store, total = DynamoWallets(), D(0)
    entries, _ = store.entries("ada", 0, 10_000)
    for number, entry in enumerate(entries, 1):
        total += entry.amount
        assert (entry.number, entry.balance_after) == (number, total)
        assert total >= 0
    wallet = store.wallet("ada")
    assert (wallet.balance, wallet.entries) == (total, len(entries)) if wallet else not entries
    return entries


@pytest.mark.usefixtures("database")
def test_entries_at_one_moment_stand_one_after_the_other() -> None:
    """Each sent twice at once, by 16 callers."""

    def caller(number: int) -> None:
        for turn in range(10):
            name = f"{number // 2}-{turn}"  # two callers to each
            assert insist(name, D("1.25")) is not None

    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(caller, range(CALLERS)))
    entries = books()
    assert len(entries) == len({entry.id for entry in entries}) == CALLERS // 2 * 10


@pytest.mark.usefixtures("database")
def test_a_balance_is_taken_up_to_its_last_cent_by_all_at_once() -> None:
    """And not a cent more."""
    put_in("start", D(100))
    taken: list[Entry] = []

    def caller(number: int) -> None:
        for turn in range(12):
            entry = insist(f"{number}-{turn}", D("-0.75") * (1 + number % 3))
            if entry is not None:
                taken.append(entry)

    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(caller, range(CALLERS)))
    entries = books()
    assert sorted(entry.number for entry in taken) == [entry.number for entry in entries[1:]]
    assert entries[-1].balance_after < D("2.25")


STEPS = (("d-1", D(10)), ("a-1", D("-3.50")), ("d-2", D(1)), ("a-2", D("-7.50")))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_end_at_any_call_repeated_enters_each_once(database: Engine, *, after: bool) -> None:
    """The k-th call is the last, for every k; then all is asked once more, by a process that knows nothing of it."""
    for k in count(1):
        database.clear()
        fault = KillAt(k, after=after)
        done = False
        try:
            with database.hooked(fault.before, fault.after):
                for name, amount in STEPS:
                    put_in(name, amount)
            done = True
        except Killed:
            pass
        for name, amount in STEPS:
            put_in(name, amount)
        assert [(entry.id, entry.amount) for entry in books()] == list(STEPS)
        if done:
            assert k > len(STEPS) * 3
            return


@pytest.mark.parametrize("share", range(SHARES))
def test_whatever_the_dice_do_each_request_is_entered_once(database: Engine, share: int) -> None:
    """Lost requests and answers, throttling, conflicts, processes that end; every request sent until it is answered."""
    for seed in seeds(share):
        dice = Random(seed)  # noqa: S311  it must repeat
        random.seed(seed)  # botocore's jitter
        database.clear()
        clock = Clock()
        database.wait = clock.pass_by
        chaos = Chaos(dice, clock, WEATHERS)
        asked = {f"e-{n}": D(dice.randrange(-400, 900) or 1) / 100 for n in range(dice.choice([4, 12]))}
        names = [name for name in asked for _ in range(dice.choice([1, 1, 2, 3]))]
        dice.shuffle(names)
        answers: dict[str, Entry] = {}
        for name in names:
            entry = _insist_in(database, chaos, name, asked[name])
            if entry is not None:
                assert answers.setdefault(name, entry) == entry
        entries = books()
        assert {entry.id: entry for entry in entries} == answers, f"seed {seed}"
        assert all(entry.amount == asked[entry.id] for entry in entries), f"seed {seed}"


def _insist_in(database: Engine, chaos: Chaos, name: str, amount: Decimal) -> Entry | None:
    while True:
        try:
            with database.hooked(chaos.before, chaos.after):
                return insist(name, amount)
        except Killed:
            continue


def without_condition(call: Call) -> None:
    """A store that writes a wallet whatever another has written meanwhile, and an id whether it is taken or not."""
    for action in call.request.get("TransactItems", ()):
        action["Put"].pop("ConditionExpression", None)
        names, values = action["Put"].get("ExpressionAttributeNames"), action["Put"].get("ExpressionAttributeValues")
        for place in (names, values):
            if place is not None:
                place.clear()
        action["Put"] = {key: value for key, value in action["Put"].items() if value}


def without_entry(call: Call) -> None:
    """A store that moves the balance and forgets the ledger."""
    actions = call.request.get("TransactItems", [])
    actions[:] = [one for one in actions if not re.match("ENTRY#", one["Put"]["Item"]["sk"]["S"])]


@pytest.mark.parametrize("broken", [without_condition, without_entry])
def test_these_tests_see_a_store_that_is_broken(database: Engine, broken: Callable[[Call], None]) -> None:
    """Were the conditions or the entry missing, entries would be lost or the books not balance."""
    others = [f"other-{n}" for n in range(3)]

    def come_between(call: Call) -> None:
        if call.operation == "TransactWriteItems" and others:
            put_in(others.pop(), D("1.25"))

    with database.hooked(broken), database.hooked(come_between):
        put_in("first", D("1.25"))
    with pytest.raises(AssertionError):
        assert len(books()) == 4


def test_a_writer_that_another_comes_before_goes_on_from_there(database: Engine) -> None:
    """As often as that happens."""
    others = [f"other-{n}" for n in range(3)]

    def come_between(call: Call) -> None:
        if call.operation == "TransactWriteItems" and others:
            put_in(others.pop(), D("1.25"))

    with database.hooked(come_between):
        put_in("first", D("1.25"))
    assert [entry.id for entry in books()] == ["other-0", "other-1", "other-2", "first"]

"""Three months of 200 customers: whatever they do, the books balance; and the archive leads to the same invoices."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from random import Random
from typing import Final

import pytest

from tests.faults.books import PLANS, START, Books
from tests.faults.shop import identity
from tests.faults.till import DECLINED, LACKING
from tollgate.billing.invoices import Invoice, InvoiceStatus, LineKind
from tollgate.billing.payments import PaymentStatus
from tollgate.billing.wallet import EntryType
from tollgate.catalog.life import When
from tollgate.catalog.periods import Interval, Period
from tollgate.kernel.errors import Conflict, PaymentFailed
from tollgate.kernel.money import round_amount
from tollgate.metering.audit import recount, target_at
from tollgate.metering.history import archived_events
from tollgate.metering.model import CounterId, Event
from tools.engine import Engine

D = Decimal
CUSTOMERS: Final = 200
DAYS: Final = 92
ZONES: Final = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Apia")
FEATURES: Final = ("calls", "seats")


@dataclass(frozen=True, slots=True)
class Deed:
    """What somebody does on a day, at a second of it."""

    second: int
    customer: str
    what: str
    value: str = ""


@dataclass(slots=True)
class Script:
    """What happens on each day, and the events that are sent on it."""

    deeds: list[list[Deed]] = field(default_factory=list)
    events: list[list[Event]] = field(default_factory=list)


CHANCES: Final = (
    (0.030, "deposit"),
    (0.020, "change"),
    (0.006, "pause"),
    (0.012, "resume"),
    (0.003, "cancel"),
    (0.005, "refund"),
    (0.010, "pay"),
)
"""How likely each deed is on a day of a customer's."""

USES: Final = 0.12
LAGS: Final = (0, 0, 0, 1, 3, 20)
"""Days by which an event comes late."""


def scripted(dice: Random) -> Script:
    """Three months by the dice."""
    script = Script([[] for _ in range(DAYS)], [[] for _ in range(DAYS)])
    names = [f"c{number:03d}" for number in range(CUSTOMERS)]
    number = 0
    for day in range(DAYS):
        for place, name in enumerate(names):
            if day == place % 30:
                script.deeds[day].append(subscribed(dice, name))
            if dice.random() < USES:
                for _ in range(dice.randrange(1, 4)):
                    number += 1
                    script.events[day].append(used(dice, name, day, number))
            for chance, what in CHANCES:
                if dice.random() < chance:
                    script.deeds[day].append(Deed(dice.randrange(1, 86_399), name, what, value(dice, what)))
        script.deeds[day].sort(key=lambda deed: (deed.second, deed.customer))
    return script


def subscribed(dice: Random, name: str) -> Deed:
    """A first subscription: now and then with a trial, mostly with money in the wallet."""
    trial, money = dice.choice(["0", "0", "0", "7"]), dice.choice(["0", "200", "200", "500"])
    return Deed(dice.randrange(1, 86_399), name, "subscribe", f"{code(dice)} {dice.choice(ZONES)} {trial} {money}")


def used(dice: Random, name: str, day: int, number: int) -> Event:
    """Some usage, which may come late."""
    lag = dice.choice(LAGS) * 86_400 + dice.randrange(86_400)
    at = START + timedelta(days=day, seconds=86_399 - lag)
    quantity = D(dice.randrange(1, 4_000)) / dice.choice([1, 10, 100])
    return Event(identity(number), "", name, dice.choice(FEATURES), quantity, at, {})


def code(dice: Random) -> str:
    """A plan: weekly ones make many invoices, and are fewer."""
    return dice.choice([*[one.code for one in PLANS if one.code != "weekly"] * 4, "weekly"])


def value(dice: Random, what: str) -> str:
    """What goes with a deed."""
    if what in {"deposit", "refund"}:
        return str(dice.randrange(1, 100))
    if what == "change":
        return f"{code(dice)} {dice.choice([*When])}"
    return dice.choice([*When]) if what == "cancel" else ""


class World(Books):
    """Books that a script is played in; a third of the customers pay by card."""

    def __init__(self) -> None:
        super().__init__(archive=True)
        self.open()
        self.refunds: Counter[str] = Counter()

    def play(self, script: Script, events: Sequence[Sequence[Event]], dice: Random) -> None:
        """Live through the script, sending these events on its days."""
        for day, deeds in enumerate(script.deeds):
            midnight = START + timedelta(days=day)
            self.bank.answer = dice.choice([*[None] * 10, LACKING, DECLINED])
            for deed in deeds:
                self.now = midnight + timedelta(seconds=deed.second)
                self.do(deed)
            self.now = midnight + timedelta(seconds=86_399)
            for start in range(0, len(events[day]), 500):
                self.ingest(events[day][start : start + 500])
            self.now = midnight + timedelta(days=1, minutes=5)
            self.run()
            self.sweep()

    def do(self, deed: Deed) -> None:
        """Do it, if it can be done now."""
        name = deed.customer
        if deed.what == "subscribe":
            self.arrive(name, *deed.value.split())
        elif self.catalog.subscription(f"sub-{name}") is not None:
            with suppress(Conflict):  # it cannot be done in the present state, which is told
                self._do(name, deed.what, *deed.value.split())

    def arrive(self, name: str, code: str, zone: str, trial: str, money: str) -> None:
        """A new customer."""
        if int(name[1:]) % 3 == 0:
            self.pay_by_card(name)
        if money != "0":
            self.deposit(name, money)
        self.subscribe(name, code, timezone=zone, trial_days=int(trial))

    def _do(self, name: str, what: str, *values: str) -> None:
        deeds: dict[str, Callable[..., object]] = {
            "deposit": lambda amount: self.deposit(name, amount),
            "change": lambda code, when: self.change(name, code, When(when)),
            "pause": lambda: self.pause(name),
            "resume": lambda: self.resume(name),
            "cancel": lambda when: self.cancel(name, When(when)),
            "refund": lambda share: self.refund(name, D(share) / 100),
            "pay": lambda: self.pay_what_is_due(name),
        }
        deeds[what](*values)

    def pay_what_is_due(self, name: str) -> None:
        """By hand."""
        for invoice in self.all_invoices(name):
            if invoice.status in {InvoiceStatus.OPEN, InvoiceStatus.PAST_DUE} and invoice.total > 0:
                try:
                    self.pay(invoice)
                except PaymentFailed:
                    return

    def refund(self, name: str, share: Decimal) -> None:
        """A part of the last payment, which may be refused or declined."""
        for invoice in reversed(self.all_invoices(name)):
            payments = self.payments_of(invoice)
            paid = [payment for payment in payments if payment.status is PaymentStatus.SUCCEEDED]
            if paid:
                self.refunds[name] += 1
                amount = round_amount(paid[0].amount * share, "EUR")
                if amount:
                    self.desk.cashier.refund(
                        paid[0].id, refund_id=f"{name}-{self.refunds[name]}", amount=amount, reason="", actor="key"
                    )
                return

    def sent(self, customers: Iterable[str]) -> Iterator[Event]:
        """All events of some customers that the archive has, each as it was sent."""
        whole = Period(START - timedelta(days=60), self.now + timedelta(days=60))
        for name in customers:
            for feature in FEATURES:
                assert self.archive is not None
                for one in archived_events(self.archive, name, feature, whole, 1):
                    yield one.count.event


@pytest.fixture
def script() -> Script:
    """One that is the same each time."""
    return scripted(Random(2026))  # noqa: S311  dice


def test_the_books_of_three_months_balance_and_the_archive_leads_to_the_same_invoices(
    database: Engine, script: Script
) -> None:
    """Charges less refunds less credits are what was paid, to the cent; and a period is invoiced once.

    Every tenth customer is replayed; with REPLAY_EVERY=1 all are.
    """
    world = World()
    world.play(script, script.events, Random(7))  # noqa: S311  dice
    world.check()
    invoices = world.all_invoices()
    assert len(invoices) > 500
    assert {one.status for one in invoices} >= {InvoiceStatus.PAID, InvoiceStatus.PAST_DUE, InvoiceStatus.OPEN}
    assert {line.kind for one in invoices for line in one.lines} == set(LineKind)
    for number in range(CUSTOMERS):
        balances(world, f"c{number:03d}")
    for invoice in invoices:
        adds_up(invoice)
    sample = {f"c{number:03d}" for number in range(0, CUSTOMERS, int(os.environ.get("REPLAY_EVERY", "10")))}
    for name in sorted(sample):
        is_billed_as_counted(world, name)

    archived = {event.id: event for event in world.sent(sample)}
    database.clear()
    again = World()
    theirs = Script([[deed for deed in day if deed.customer in sample] for day in script.deeds])
    from_archive = [[archived[one.id] for one in day if one.id in archived] for day in script.events]
    again.play(theirs, from_archive, Random(7))  # noqa: S311  dice
    before = {one.id: told(one) for one in invoices if one.customer in sample}
    assert {one.id: told(one) for one in again.all_invoices()} == before


def told(invoice: Invoice) -> object:
    """What an invoice says, but for its number, which follows on those of all others."""
    return invoice.status, invoice.period, invoice.lines, invoice.total


def balances(world: World, name: str) -> None:
    """The invoices of a customer, the payments and the wallet agree."""
    world.balance(name)
    invoices = world.all_invoices(name)
    payments = [payment for invoice in invoices for payment in world.payments_of(invoice)]
    succeeded = [payment for payment in payments if payment.status is PaymentStatus.SUCCEEDED]
    paid = [invoice for invoice in invoices if invoice.status is InvoiceStatus.PAID]
    charged = sum((invoice.total for invoice in paid if invoice.total > 0), D(0))
    credited = sum((-invoice.total for invoice in paid if invoice.total < 0), D(0))
    assert sum((payment.amount for payment in succeeded), D(0)) == charged
    entries, _ = world.wallets.entries(name, 0, 10_000)
    moved: Counter[EntryType] = Counter()
    for entry in entries:
        moved[entry.type] += entry.amount  # type: ignore[assignment]  # a Counter of decimals
    by_wallet = [payment for payment in succeeded if payment.provider == "wallet"]
    assert -moved[EntryType.CHARGE] == sum((payment.amount for payment in by_wallet), D(0))
    assert moved[EntryType.REFUND] == sum((payment.refunded for payment in by_wallet), D(0))
    assert moved[EntryType.ADJUSTMENT] == credited
    for payment in succeeded:
        assert D(0) <= payment.refunded <= payment.amount
        if payment.provider == "card":
            assert world.bank.charged[payment.key] == [payment.amount]


def adds_up(invoice: Invoice) -> None:
    """Each line is its exact details, rounded once; a period is that of no other invoice of the subscription."""
    for line in invoice.lines:
        exact = sum((D(detail["amount"]) for detail in line.details), D(0))
        if line.part is not None:
            cents = line.part.price * line.part.seconds * 100
            assert abs(line.amount * 100 * line.part.of_seconds - cents) * 2 <= line.part.of_seconds
        elif "trial" not in line.description:
            assert line.amount == round_amount(exact, invoice.currency)


def is_billed_as_counted(world: World, name: str) -> None:
    """What was billed of each period that is closed is what its counter holds, but for what came since."""
    billed: Counter[CounterId] = Counter()
    trial: set[CounterId] = set()
    life = world.catalog.life(f"sub-{name}")
    if life is None:
        return
    for invoice in world.all_invoices(name):
        for line in invoice.lines:
            if line.feature is not None and line.quantity is not None:
                counter = CounterId(name, line.feature, invoice.subscription, line.period.start)
                billed[counter] += line.quantity  # type: ignore[assignment]  # a Counter of decimals
                trial |= {counter} if "trial" in line.description else set()
    counters = world.start()
    waiting = {one.counter: one.now.quantity - one.closed.quantity for one in counters.adjustments(f"sub-{name}")}
    for counter, quantity in billed.items():
        target = target_at(name, counter.feature, counter.period_start, world.catalog)
        assert world.archive is not None
        found = recount(target, counters=counters, archive=world.archive)
        assert found.agrees
        if counter not in trial:
            assert found.stored.quantity == quantity + waiting.get(counter, D(0))


def test_a_script_has_all_that_may_happen(script: Script) -> None:
    """So that the balance above says something."""
    deeds = Counter(deed.what for day in script.deeds for deed in day)
    assert deeds["subscribe"] == CUSTOMERS
    assert set(deeds) == {"subscribe", "deposit", "change", "pause", "resume", "cancel", "refund", "pay"}
    assert min(deeds.values()) > 30
    assert {one.billing_period.interval for one in PLANS} == {Interval.WEEK, Interval.MONTH}
    assert sum(map(len, script.events)) > 2_000

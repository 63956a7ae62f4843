"""A seller's books: customers who use, pay and do not pay, whom several processes serve."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from tests.faults.chaos import Clock
from tests.faults.shop import identity
from tests.faults.till import Bank
from tests.unit.fakes_recovery import Retries
from tollgate.billing.assembly import Desk, assemble
from tollgate.billing.collecting import invoice_payments
from tollgate.billing.invoice_store import DynamoInvoices
from tollgate.billing.invoices import Invoice, InvoiceStatus
from tollgate.billing.payment_store import DynamoPayments
from tollgate.billing.payments import Payer, Payment
from tollgate.billing.run import Billed, bill, upcoming
from tollgate.billing.wallet import EntryType, post
from tollgate.billing.wallet_store import DynamoWallets
from tollgate.catalog.life import Life, When, Who
from tollgate.catalog.model import (
    BillingPeriod,
    Customer,
    Feature,
    FeatureType,
    Plan,
    PlanFeature,
    Subscription,
    SubscriptionStatus,
)
from tollgate.catalog.periods import Interval, Period
from tollgate.catalog.service import subscribe
from tollgate.catalog.store import DynamoCatalog
from tollgate.catalog.subscriptions import (
    cancel_subscription,
    change_plan,
    find_life,
    pause_subscription,
    resume_subscription,
)
from tollgate.metering.archive_store import DynamoArchive
from tollgate.metering.model import CounterId, Event
from tollgate.metering.service import ingest
from tollgate.metering.store import DynamoCounters
from tollgate.pricing.model import Flat, Tier, Tiered
from tollgate.recovery.processor import Processor
from tollgate.recovery.store import DynamoRecovery

__all__ = ["PLANS", "START", "Books", "plan"]

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
WHO: Final = Who("key", "asked for")
D = Decimal
CALLS: Final = Feature("calls", "API calls", FeatureType.USAGE)
SEATS: Final = Feature("seats", "Seats", FeatureType.USAGE)
TIERS: Final = Tiered((Tier(D(100), D("0.10")), Tier(None, D("0.08"))))


def plan(code: str, base: str, interval: Interval = Interval.MONTH, **terms: Any) -> Plan:
    """A plan that charges calls by tiers and seats at a price of their own."""
    granted = (PlanFeature(CALLS, price=TIERS), PlanFeature(SEATS, price=Flat(D(base) / 10, included=D(1))))
    made = Plan(code, 1, code.title(), "EUR", BillingPeriod(interval), D(base), 0, 7, granted)
    return replace(made, **terms)


PLANS: Final = (
    plan("basic", "20.00"),
    plan("pro", "49.99"),
    plan("weekly", "7.00", Interval.WEEK),
    plan("free", "0"),
)


class Books:
    """The stores of the deployment; `now` is what every clock says."""

    def __init__(self, *, archive: bool = False) -> None:
        self.now = START
        self.pauses = Clock()
        self.archive = DynamoArchive(clock=self.clock, pause=self.pauses.pass_by) if archive else None
        self.bank = Bank()
        self.catalog, self.invoices, self.wallets = DynamoCatalog(), DynamoInvoices(), DynamoWallets()
        self.payments, self.errors = DynamoPayments(), DynamoRecovery()
        self.counters = self.start()
        self.desk = self.process()
        self._events = 0

    def open(self, plans: Sequence[Plan] = PLANS) -> None:
        """Have features and plans."""
        for feature in (CALLS, SEATS):
            assert self.catalog.save_feature(feature)
        for one in plans:
            assert self.catalog.add_plan_version(one)

    def clock(self) -> datetime:
        """The present."""
        return self.now

    def start(self) -> DynamoCounters:
        """The counters as a process sees them that has seen nothing yet."""
        return DynamoCounters(self.archive, pause=self.pauses.pass_by)

    def process(self) -> Desk:
        """What a process bills and collects with."""
        return assemble(
            catalog=self.catalog,
            counters=self.start(),
            errors=self.errors,
            time_left=lambda: timedelta(minutes=1),
            providers={"card": self.bank},
            clock=self.clock,
        )

    # What customers do

    def subscribe(self, customer: str, code: str = "basic", *, timezone: str = "UTC", **more: Any) -> Subscription:
        """A customer with a subscription named after it."""
        self.catalog.save_customer(Customer(customer, timezone=timezone))
        made = subscribe(
            self.catalog,
            customer=customer,
            plan=code,
            gates=self.counters,
            clock=self.clock,
            subscription_id=f"sub-{customer}",
            **more,
        )
        assert made.customer == customer
        return made

    def use(self, customer: str, quantity: int | str, feature: str = "calls", at: datetime | None = None) -> str:
        """Some usage; what became of the event."""
        self._events += 1
        event = Event(identity(self._events), "", customer, feature, D(quantity), at or self.now, {})
        [result] = ingest(
            [event],
            directory=self.catalog,
            counters=self.start(),
            now=self.now,
            time_left=self.pauses.time_left(60.0),
        )
        return result.status

    def ingest(self, events: Sequence[Event]) -> list[str]:
        """Many events at once; what became of each."""
        results = ingest(
            events,
            directory=self.catalog,
            counters=self.start(),
            now=self.now,
            time_left=self.pauses.time_left(600.0),
        )
        return [result.status for result in results]

    def deposit(self, customer: str, amount: str) -> None:
        """Money into the wallet."""
        self._events += 1
        posting = post(
            self.wallets.wallet(customer),
            customer=customer,
            entry_id=f"deposit-{self._events}",
            entry_type=EntryType.DEPOSIT,
            amount=D(amount),
            currency="EUR",
            overdraft=D(0),
            at=self.now,
        )
        assert self.wallets.add(posting)

    def change(self, customer: str, code: str, when: When = When.NOW, who: Who = WHO) -> Subscription:
        """Another plan."""
        return change_plan(
            self.catalog,
            f"sub-{customer}",
            plan=code,
            when=when,
            who=who,
            readings=self.readings,
            gates=self.counters,
            clock=self.clock,
        )

    def readings(self, one: Subscription, period: Period, features: Collection[str]) -> dict[str, Decimal]:
        """The usage of features in a period, now."""
        counters = [CounterId(one.customer, code, one.id, period.start) for code in features]
        return {counter.feature: tally.quantity for counter, tally in self.start().tallies(counters).items()}

    def pause(self, customer: str) -> Subscription:
        """Pause it."""
        return pause_subscription(self.catalog, f"sub-{customer}", who=WHO, gates=self.counters, clock=self.clock)

    def resume(self, customer: str) -> Subscription:
        """Resume it."""
        return resume_subscription(self.catalog, f"sub-{customer}", who=WHO, gates=self.counters, clock=self.clock)

    def cancel(self, customer: str, when: When = When.NOW) -> Subscription:
        """End it."""
        return cancel_subscription(
            self.catalog, f"sub-{customer}", when=when, who=WHO, gates=self.counters, clock=self.clock
        )

    # What the seller does

    def pay_by_card(self, customer: str) -> None:
        """From now on the bank is asked, and not the wallet."""
        self.payments.save_payer(Payer(customer, "card", "account", "card"))

    def pay(self, invoice: Invoice) -> Invoice:
        """An invoice is paid by hand."""
        return self.desk.cashier.pay(invoice.id, actor="key")

    def sweep(self) -> int:
        """What the retry processor does: all that is due; how many operations succeeded."""
        operations = {operation.name: operation for operation in self.desk.cashier.operations()}
        processor = Processor(
            self.errors, operations, self.clock, lambda: timedelta(minutes=5), Retries(), randbelow=lambda _: 0
        )
        done = processor.sweep()
        assert not done.faults
        return done.resolved

    def bill(self, customer: str, desk: Desk | None = None) -> Billed:
        """What a message of the billing queue does."""
        return bill((desk or self.desk).billing, f"sub-{customer}", self.now)

    def run(self) -> int:
        """What a billing run does: all that is due; how many subscriptions were."""
        due = [name for name, _ in self.catalog.due(self.now)]
        for name in due:
            bill(self.desk.billing, name, self.now)
        return len(due)

    def upcoming(self, customer: str) -> Invoice:
        """The invoice that is to come."""
        return upcoming(self.desk.billing, f"sub-{customer}")

    def pass_by(self, **time: float) -> None:
        """Let time pass."""
        self.now += timedelta(**time)

    # What is true

    def life(self, customer: str) -> Life:
        """The subscription of a customer."""
        return find_life(self.catalog, f"sub-{customer}")

    def status(self, customer: str) -> SubscriptionStatus:
        """What it is now."""
        return self.life(customer).subscription.status(self.now)

    def all_invoices(self, customer: str | None = None) -> list[Invoice]:
        """All invoices, the oldest first."""
        found: list[Invoice] = []
        after: str | None = None
        while True:
            page, after = self.invoices.list(customer=customer, after=after, limit=100)
            found += page
            if after is None:
                return sorted(found, key=lambda one: (one.period.end, one.period.start))

    def payments_of(self, invoice: Invoice) -> list[Payment]:
        """All payments that were tried for an invoice."""
        return invoice_payments(self.desk.till, invoice)

    def balance(self, customer: str) -> Decimal:
        """The wallet's balance, which is the sum of its ledger."""
        wallet = self.wallets.wallet(customer)
        entries, after = self.wallets.entries(customer, 0, 10_000)
        assert after is None
        total = sum((entry.amount for entry in entries), D(0))
        assert total == (wallet.balance if wallet else D(0))
        return total

    def check(self) -> None:
        """What must hold of all books."""
        invoices = self.all_invoices()
        numbers = sorted(one.number for one in invoices if one.number)
        assert numbers == [f"INV-{number:06d}" for number in range(1, len(numbers) + 1)]
        periods = [(one.subscription, one.period) for one in invoices]
        assert len(set(periods)) == len(periods)
        for one in invoices:
            assert one.total == sum((line.amount for line in one.lines), D(0))
            assert (one.status is InvoiceStatus.DRAFT) == (one.number is None)
            if one.status is InvoiceStatus.PAID:
                assert one.amount_paid == one.total

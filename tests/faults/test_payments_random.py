"""Random runs of money: whatever the dice do to the calls to AWS and to the bank, the books balance to the cent."""

import random
from collections import defaultdict
from collections.abc import Callable
from decimal import Decimal
from itertools import chain
from random import Random
from typing import Any

import pytest

from tests.faults.chaos import CALM, Chaos, Clock, Killed, Weather
from tests.faults.conftest import SHARES, seeds
from tests.faults.till import DECLINED, LACKING, Seller
from tollgate.billing.collecting import collect, invoice_payments, top_up, void
from tollgate.billing.invoices import COLLECTIBLE, InvoiceStatus
from tollgate.billing.ledger import set_top_up
from tollgate.billing.payments import Payer, PaymentStatus
from tollgate.billing.refunding import begin_refund, give
from tollgate.billing.wallet import TopUp
from tollgate.kernel.errors import Conflict, InvalidInput, TollgateError
from tools.engine import Engine

D = Decimal
WEATHERS = (
    Weather(lost_requests=0.01, lost_answers=0.03, throttles=0.02, conflicts=0.03, kills=0.02),
    Weather(lost_answers=0.15, conflicts=0.2, kills=0.01),
    Weather(throttles=0.4, lost_answers=0.05),
    CALM,
)
CUSTOMERS = ("ada", "bob", "eve")
MOST_SEEDS = 50
_ROUNDS = 40
_Sums = defaultdict[str, Decimal]


class Run:
    """One seed's run: three customers, one by the wallet, one by card, one whose card tops the wallet up."""

    def __init__(self, seed: int, database: Engine) -> None:
        self.dice = Random(seed)  # noqa: S311  it must repeat
        random.seed(seed)  # botocore's and the product's jitter
        database.clear()
        self.database = database
        self.seller = Seller()
        clock = Clock()
        database.wait = clock.pass_by
        self.chaos = Chaos(self.dice, clock, WEATHERS)
        self.invoices: dict[str, str] = {}
        self.refunds: dict[str, tuple[str, str]] = {}
        for customer in CUSTOMERS:
            provider = "bank" if customer == "bob" else "wallet"
            self.seller.till.payments.save_payer(Payer(customer, provider, f"account-{customer}"))
        set_top_up(self.seller.till.wallets, "eve", TopUp(D(10), D(30)), "EUR")

    def go(self) -> None:
        """Do things at random under faults, then bring all to its end in calm."""
        self.seller.bank.before, self.seller.bank.after = self._bank(0.05), self._bank(0.1)
        for number in range(_ROUNDS):
            self.seller.bank.answer = self.dice.choice([None, None, None, LACKING, DECLINED])
            work = self.dice.choice([self._deposit, self._invoice, self._invoice, self._collect, self._collect,
                                     self._refund, self._refund_again, self._void, self._top_up])  # fmt: skip
            self._try(work, number)
            self.seller.wait() if self.dice.random() < 0.5 else None
        self.seller.bank.before = self.seller.bank.after = lambda: None
        self.seller.bank.answer = None
        self.seller.wait()
        for name in self.refunds:
            self._finish_refund(name)
        for name, customer in self.invoices.items():
            if self._status(name) in COLLECTIBLE:
                if customer == "ada":
                    self.seller.deposit(f"last-{name}", "200.00", customer)
                collect(self.seller.till, name)
                collect(self.seller.till, name)  # after a decline that was found
        top_up(self.seller.till, "eve")

    def _try(self, work: Callable[[int], object], number: int) -> None:
        try:
            with self.database.hooked(self.chaos.before, self.chaos.after):
                work(number)
        except (Killed, TimeoutError, TollgateError):
            return
        except Exception as error:
            if type(error).__module__.startswith(("botocore", "pynamodb")):
                return  # the database was not there
            raise

    def _bank(self, share: float) -> Callable[[], None]:
        def strike() -> None:
            way = self.dice.random()
            if way < share:
                raise TimeoutError
            if way < share * 1.3:
                raise Killed

        return strike

    # What is done

    def _deposit(self, number: int) -> None:
        amount = self.dice.choice(["20.00", "7.50", "-3.00"])
        self.seller.deposit(f"d-{number}", amount, self.dice.choice(["ada", "eve"]))

    def _invoice(self, number: int) -> None:
        name, customer = f"inv-{number}", self.dice.choice(CUSTOMERS)
        total = self.dice.choice(["12.34", "20.00", "0.01", "0.00", "-4.00"])
        self.seller.invoice(name, total, customer)
        self.invoices[name] = customer

    def _collect(self, _: int) -> None:
        if self.invoices:
            collect(self.seller.till, self.dice.choice(list(self.invoices)))

    def _void(self, _: int) -> None:
        if self.invoices and self.dice.random() < 0.4:
            void(self.seller.till, self.dice.choice(list(self.invoices)), actor="dice", reason="")

    def _top_up(self, _: int) -> None:
        top_up(self.seller.till, "eve")

    def _refund(self, number: int) -> None:
        paid = [one.id for name in self.invoices for one in self._payments(name)]
        if paid:
            name = f"r-{number}"
            self.refunds[name] = (self.dice.choice(paid), self.dice.choice(["1.00", "5.00", "11.00"]))
            self._give(name)

    def _refund_again(self, _: int) -> None:
        if self.refunds:
            self._give(self.dice.choice(list(self.refunds)))

    def _give(self, name: str) -> None:
        payment, amount = self.refunds[name]
        begin_refund(self.seller.till, payment, refund_id=name, amount=D(amount), reason="")
        give(self.seller.till, name)

    def _finish_refund(self, name: str) -> None:
        for _ in range(3):
            try:
                self._give(name)
            except (Conflict, InvalidInput):
                return

    # What must be true

    def _status(self, name: str) -> InvoiceStatus:
        found = self.seller.till.invoices.get(name)
        return found.status if found else InvoiceStatus.VOID

    def _payments(self, name: str) -> list[Any]:
        found = self.seller.till.invoices.get(name)
        return invoice_payments(self.seller.till, found) if found else []

    def check(self) -> None:
        """The books, of each invoice, each customer and the bank."""
        bank = self.seller.bank
        assert all(len(done) == 1 for done in chain(bank.charged.values(), bank.refunded.values())), "done twice"
        taken, given = _Sums(Decimal), _Sums(Decimal)
        for name, customer in self.invoices.items():
            found = self.seller.till.invoices.get(name)
            if found is None:
                continue
            assert found.status in {InvoiceStatus.PAID, InvoiceStatus.VOID}
            assert found.payment is None
            self._check_invoice(found, customer, taken, given)
        entered, topped = _Sums(Decimal), D(0)
        for customer in CUSTOMERS:
            self.seller.balance(customer)
            entries, _ = self.seller.till.wallets.entries(customer, 0, 1_000)
            for entry in entries:
                entered[f"{customer} {entry.type}"] += entry.amount
                topped += entry.amount if entry.description == "automatic top-up" else 0
        for customer in ("ada", "eve"):
            assert -entered[f"{customer} charge"] == taken[customer]
            assert entered[f"{customer} refund"] == given[customer]
        assert bank.total == taken["bob"] - given["bob"] + topped

    def _check_invoice(self, invoice: Any, customer: str, taken: _Sums, given: _Sums) -> None:
        succeeded = [one for one in self._payments(invoice.id) if one.status is PaymentStatus.SUCCEEDED]
        assert len(succeeded) == (invoice.status is InvoiceStatus.PAID and invoice.total > 0)
        assert not [one for one in self._payments(invoice.id) if one.status is PaymentStatus.PENDING]
        for payment in succeeded:
            refunds = self.seller.till.payments.refunds(payment.id)
            back = sum((one.amount for one in refunds if one.status is PaymentStatus.SUCCEEDED), D(0))
            assert not [one for one in refunds if one.status is PaymentStatus.PENDING]
            assert back == payment.refunded <= payment.amount == invoice.total
            taken[customer] += payment.amount
            given[customer] += back


@pytest.mark.parametrize("share", range(SHARES))
def test_whatever_the_dice_do_the_books_balance(database: Engine, share: int) -> None:
    """Lost requests and answers, throttling, conflicts, ends of the process, a bank that knows no keys."""
    for seed in list(seeds(share))[: MOST_SEEDS // SHARES]:
        run = Run(seed, database)
        run.go()
        try:
            run.check()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error


def test_these_runs_see_a_till_that_charges_without_asking(database: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the provider not asked before a charge is repeated, it would be done twice."""
    monkeypatch.setattr("tests.faults.till.Bank.find_charge", lambda _bank, _payment: None)
    twice = 0
    for seed in range(1, 9):
        run = Run(seed, database)
        run.go()
        twice += any(len(done) > 1 for done in run.seller.bank.charged.values())
    assert twice

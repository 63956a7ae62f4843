"""Moving money as operations: written down before it begins, tried again by its strategy, a person's in the end."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import count

import pytest

from tests.faults.chaos import Killed
from tests.faults.test_payments_faults import Nth, books, lost_answer, topped
from tests.faults.till import DECLINED, LACKING, Seller
from tests.unit.fakes_recovery import MemoryRecovery, Retries
from tollgate.billing.cashier import Cashier
from tollgate.billing.collecting import invoice_payments, void
from tollgate.billing.invoices import Invoice
from tollgate.billing.ledger import enter, set_top_up
from tollgate.billing.payments import Decline, DeclineKind, Payment, PaymentStatus
from tollgate.billing.wallet import EntryType
from tollgate.kernel.errors import Conflict, NotFound, PaymentFailed, Unavailable
from tollgate.recovery.ledger import Filter, Recovery
from tollgate.recovery.model import UNRESOLVED, ErrorRecord, ErrorType, Outcome
from tollgate.recovery.model import Status as Record
from tollgate.recovery.processor import Processor
from tollgate.recovery.service import retry
from tollgate.recovery.store import DynamoRecovery
from tools.engine import Engine

D = Decimal
TRANSIENT = Decline(DeclineKind.TRANSIENT, "processing_error", "Try again.")
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


class Office:
    """A seller with an error ledger and the processor of it."""

    def __init__(self, errors: Recovery | None = None) -> None:
        self.seller = Seller()
        self.memory = MemoryRecovery()
        self.errors = errors or self.memory
        self.queue = Retries()

    @property
    def cashier(self) -> Cashier:
        """As a process that knows nothing yet."""
        return Cashier(self.seller.till, self.errors, self.seller.clock, lambda: timedelta(seconds=20), self.queue)

    def sweep(self, *, wait: timedelta = DAY) -> None:
        """Let time pass, and try what is due."""
        self.seller.now += wait
        operations = {one.name: one for one in self.cashier.operations()}
        left = lambda: timedelta(minutes=4)  # noqa: E731  a clock that stands
        run = Processor(self.errors, operations, self.seller.clock, left, self.queue, randbelow=lambda _: 0).sweep()
        assert run.faults == []

    def bill(self, name: str, total: str = "20.00", customer: str = "ada") -> None:
        """An invoice that is collected for the first time, as the billing run does it."""
        self.cashier.collect(self.seller.invoice(name, total, customer))

    def records(self) -> list[ErrorRecord]:
        """All there are."""
        return list(self.memory.records.values())

    @property
    def record(self) -> ErrorRecord:
        """The only one."""
        [found] = self.records()
        return found


@pytest.fixture
def office(database: Engine) -> Office:
    """An empty database, and an office."""
    del database  # it is there
    return Office()


def test_what_succeeds_leaves_no_record(office: Office) -> None:
    """Nothing failed."""
    office.seller.deposit("d-1", "20.00")
    office.bill("inv-1")
    assert (office.seller.status("inv-1"), office.records()) == ("paid", [])


@pytest.mark.parametrize(
    ("decline", "error_type", "status"),
    [
        (DECLINED, ErrorType.PAYMENT_FAILED, Record.MANUAL),
        (LACKING, ErrorType.INSUFFICIENT_FUNDS, Record.PENDING),
        (TRANSIENT, ErrorType.PAYMENT_FAILED, Record.PENDING),
    ],
)
def test_a_decline_is_written_down_by_its_kind(
    office: Office, decline: Decline, error_type: ErrorType, status: Record
) -> None:
    """A hard one is a person's at once, and the invoice past due; the others have their strategies."""
    office.seller.pay_by_bank()
    office.seller.bank.answer = decline
    office.bill("inv-1")
    record = office.record
    assert (record.type, record.status, record.operation) == (error_type, status, "collect_invoice")
    assert (record.customer, record.subscription, record.arguments["invoice"]) == ("ada", "sub-ada", "inv-1")
    assert decline.message in record.error
    assert office.seller.status("inv-1") == ("past_due" if decline is DECLINED else "open")


def test_an_invoice_is_collected_again_until_there_are_funds(office: Office) -> None:
    """Once a day, a payment each time."""
    office.bill("inv-1")
    assert office.record.type is ErrorType.INSUFFICIENT_FUNDS
    for _ in range(2):
        office.sweep()
    office.seller.deposit("d-1", "20.00")
    office.sweep()
    assert (office.seller.status("inv-1"), office.record.status) == ("paid", Record.RESOLVED)
    invoice = office.seller.till.invoices.get("inv-1")
    assert invoice is not None
    told = [payment.status.value for payment in invoice_payments(office.seller.till, invoice)]
    assert told == ["failed", "failed", "failed", "succeeded"]


def test_money_that_is_paid_in_pays_what_was_declined_for_lack_of_it(office: Office) -> None:
    """As far as it goes; at once, through the queue; what waits for a person too."""
    for name in ("inv-1", "inv-2", "inv-3"):
        office.bill(name)
        office.seller.now += timedelta(seconds=1)
    for _ in range(10):
        office.sweep()
    assert {record.status for record in office.records()} == {Record.MANUAL}
    office.seller.deposit("d-1", "50.00")
    office.cashier.deposited("ada", actor="key")
    assert len(office.queue.announced) == 3
    office.sweep(wait=timedelta(0))
    assert sorted(office.seller.status(name) for name in ("inv-1", "inv-2", "inv-3")) == ["paid", "paid", "past_due"]
    assert office.seller.balance() == D(10)
    office.cashier.deposited("bob", actor="key")
    assert len(office.queue.announced) == 3


def test_after_the_last_try_the_invoice_is_past_due_and_the_record_a_persons(office: Office) -> None:
    """The grace of the subscription begins."""
    office.bill("inv-1")
    for _ in range(10):
        office.sweep()
    assert (office.seller.status("inv-1"), office.record.status) == ("past_due", Record.MANUAL)
    assert office.record.attempts == office.record.policy.max_attempts
    office.seller.deposit("d-1", "20.00")
    assert office.cashier.pay("inv-1", actor="key").status.value == "paid"
    assert (office.record.status, office.seller.settled) == (Record.RESOLVED, ["inv-1"])


def test_a_failure_of_another_kind_changes_the_records_type(office: Office) -> None:
    """The policy is that of the last one."""
    office.seller.pay_by_bank()
    office.seller.bank.answer = TRANSIENT
    office.bill("inv-1")
    office.seller.bank.answer = LACKING
    office.sweep()
    assert office.record.type is ErrorType.INSUFFICIENT_FUNDS
    office.seller.bank.answer = DECLINED
    office.sweep()
    assert (office.record.type, office.record.status) == (ErrorType.PAYMENT_FAILED, Record.MANUAL)


def test_a_charge_whose_answer_was_lost_is_asked_for_and_not_repeated(office: Office) -> None:
    """By the sweep."""
    office.seller.pay_by_bank()
    office.seller.bank.after = lost_answer
    office.bill("inv-1")
    assert office.record.outcome is Outcome.UNKNOWN
    office.sweep()
    assert office.record.status in UNRESOLVED
    office.seller.bank.after = lambda: None
    office.sweep()
    assert (office.record.status, office.seller.status("inv-1")) == (Record.RESOLVED, "paid")
    assert (office.seller.bank.calls["charge"], office.seller.bank.total) == (1, D(20))


def test_whoever_must_know_of_a_payment_is_told_again_until_that_has_worked(office: Office) -> None:
    """As a subscription that others are changing just then; the customer is charged once."""
    told: list[str] = []

    def tell(invoice: Invoice) -> None:
        told.append(invoice.id)
        if len(told) == 1:
            raise Conflict("others are changing the subscription")

    office.seller.till = replace(office.seller.till, on_settled=tell)
    office.seller.deposit("d-1", "50.00")
    office.bill("inv-1")
    assert (office.seller.status("inv-1"), office.record.status) == ("paid", Record.PENDING)
    office.sweep()
    assert (told, office.record.status, office.seller.balance()) == (["inv-1"] * 2, Record.RESOLVED, D(30))


def test_an_invoice_that_was_withdrawn_meanwhile_needs_nothing_more(office: Office) -> None:
    """The record is resolved."""
    office.bill("inv-1")
    void(office.seller.till, "inv-1", actor="key", reason="by mistake")
    office.sweep()
    assert office.record.status is Record.RESOLVED


def test_a_bank_debit_is_asked_for_until_the_bank_is_done(office: Office) -> None:
    """It is not past due meanwhile, even when the tries have ended; the provider's news settle it."""
    office.seller.pay_by_bank()
    office.seller.bank.is_slow = True
    office.bill("inv-1")
    for _ in range(10):
        office.sweep()
    assert (office.seller.status("inv-1"), office.record.status) == ("open", Record.MANUAL)
    invoice = office.seller.till.invoices.get("inv-1")
    assert invoice is not None
    assert invoice.payment is not None
    payment = office.seller.till.payments.payment(invoice.payment)
    assert payment is not None
    office.seller.bank.charged[payment.key] = [D(20)]
    assert office.cashier.settle(payment.id).status is PaymentStatus.SUCCEEDED
    assert (office.seller.status("inv-1"), office.record.status) == ("paid", Record.RESOLVED)
    assert office.seller.bank.calls["charge"] == 1


def under_way(office: Office, name: str = "inv-1") -> Payment:
    """The payment of an invoice that is under way."""
    invoice = office.seller.till.invoices.get(name)
    assert invoice is not None
    assert invoice.payment is not None
    payment = office.seller.till.payments.payment(invoice.payment)
    assert payment is not None
    return payment


@pytest.mark.parametrize("by_hand", [False, True], ids=["told by the bank", "asked for by hand"])
def test_a_bank_debit_that_fails_after_the_tries_have_ended_is_past_due(office: Office, *, by_hand: bool) -> None:
    """Nobody would try it again, and the grace of the subscription would never begin."""
    office.seller.pay_by_bank()
    office.seller.bank.is_slow = True
    office.bill("inv-1")
    for _ in range(10):
        office.sweep()
    assert (office.seller.status("inv-1"), office.record.status) == ("open", Record.MANUAL)
    payment = under_way(office)
    office.seller.bank.working.clear()
    office.seller.bank.declined[payment.key] = DECLINED
    if by_hand:
        with pytest.raises(PaymentFailed):
            office.cashier.pay("inv-1", actor="key")
    else:
        assert office.cashier.settle(payment.id).status is PaymentStatus.FAILED
    assert (office.seller.status("inv-1"), office.seller.late) == ("past_due", ["inv-1"])
    assert office.record.status is Record.MANUAL


def test_a_bank_debit_that_fails_while_tries_are_left_is_tried_again(office: Office) -> None:
    """As its strategy says."""
    office.seller.pay_by_bank()
    office.seller.bank.is_slow = True
    office.bill("inv-1")
    payment = under_way(office)
    office.seller.bank.working.clear()
    office.seller.bank.declined[payment.key] = LACKING
    office.cashier.settle(payment.id)
    assert (office.seller.status("inv-1"), office.seller.late) == ("open", [])
    office.seller.bank.is_slow = False
    office.sweep()
    assert (office.seller.status("inv-1"), office.record.status) == ("paid", Record.RESOLVED)


def test_whoever_must_know_of_a_payment_is_told_of_one_that_is_found(office: Office) -> None:
    """As a subscription that is past due, and would stay so although it is paid."""
    office.seller.pay_by_bank()
    office.seller.bank.after = lost_answer
    office.bill("inv-1")
    for _ in range(10):
        office.sweep()
    assert (office.seller.status("inv-1"), office.record.status) == ("past_due", Record.MANUAL)
    office.seller.bank.after = lambda: None
    retry(office.errors, office.record.id, actor="key", note="", clock=office.seller.clock, retries=None)
    office.sweep()
    assert (office.seller.status("inv-1"), office.record.status) == ("paid", Record.RESOLVED)
    assert (office.seller.settled, office.seller.bank.total) == (["inv-1"], D(20))


def test_what_is_withdrawn_is_nobodys_to_collect(office: Office) -> None:
    """The record that waits for a person is resolved with it."""
    office.seller.pay_by_bank()
    office.seller.bank.answer = DECLINED
    office.bill("inv-1")
    assert [one.status for one in office.records()] == [Record.MANUAL]
    for _ in range(2):
        assert office.cashier.void("inv-1", actor="key", reason="by mistake").status.value == "void"
    assert office.record.status is Record.RESOLVED


def test_an_invoice_that_the_seller_owes_is_never_past_due(office: Office) -> None:
    """Even where its credit finds no wallet: the customer owes nothing."""
    enter_dollars(office)
    office.bill("inv-1", "-7.50")
    assert (office.record.type, office.record.status) == (ErrorType.VALIDATION_ERROR, Record.MANUAL)
    assert (office.seller.status("inv-1"), office.seller.late) == ("open", [])


def enter_dollars(office: Office) -> None:
    """Have the wallet in a currency that nothing is billed in."""
    enter(
        office.seller.till.wallets,
        customer="ada",
        entry_id="d-1",
        entry_type=EntryType.DEPOSIT,
        amount=D(5),
        currency="USD",
        description="",
        overdraft=D(0),
        clock=office.seller.clock,
    )


# By hand


def test_paying_by_hand_says_why_it_failed_and_leaves_one_record(office: Office) -> None:
    """However often."""
    office.seller.invoice("inv-1", "20.00")
    for _ in range(3):
        with pytest.raises(PaymentFailed, match="err_"):
            office.cashier.pay("inv-1", actor="key")
    assert len(office.records()) == 1
    office.seller.deposit("d-1", "20.00")
    for _ in range(2):
        assert office.cashier.pay("inv-1", actor="key").status.value == "paid"
    assert office.record.status is Record.RESOLVED


def test_paying_by_hand_when_the_outcome_is_unknown_says_so(office: Office) -> None:
    """And asks, the next time."""
    office.seller.pay_by_bank()
    office.seller.invoice("inv-1", "20.00")
    office.seller.bank.after = lost_answer
    for _ in range(2):
        with pytest.raises(Unavailable, match="not known yet"):
            office.cashier.pay("inv-1", actor="key")
    office.seller.bank.after = lambda: None
    assert office.cashier.pay("inv-1", actor="key").status.value == "paid"
    assert office.seller.bank.total == D(20)


def test_an_invoice_that_another_collects_now_is_not_collected_by_hand(office: Office) -> None:
    """Nor is it said to be declined."""
    invoice = office.seller.invoice("inv-1", "20.00")
    seen: list[Exception] = []

    def meanwhile() -> None:
        try:
            office.cashier.pay("inv-1", actor="key")
        except (Conflict, Unavailable) as error:
            seen.append(error)

    office.seller.pay_by_bank()
    office.seller.bank.before = meanwhile
    office.cashier.collect(invoice)
    assert len(seen) == 1
    assert (office.seller.status("inv-1"), office.seller.bank.total) == ("paid", D(20))


def test_an_invoice_that_is_withdrawn_while_it_is_paid_by_hand_is_not_paid(office: Office) -> None:
    """Whoever was first has won."""
    office.seller.invoice("inv-1", "20.00")
    keep = office.memory.put

    def withdraw(record: ErrorRecord) -> bool:
        void(office.seller.till, "inv-1", actor="key", reason="race")
        return keep(record)

    office.memory.put = withdraw  # type: ignore[method-assign]  # what comes between
    with pytest.raises(Conflict, match="void"):
        office.cashier.pay("inv-1", actor="key")


def test_paying_by_hand_what_was_given_up_is_tried_once(office: Office) -> None:
    """It stays given up, and is tried no more by itself."""
    office.seller.invoice("inv-1", "20.00")
    office.cashier.write_off("inv-1", actor="key", reason="they are gone")
    with pytest.raises(PaymentFailed):
        office.cashier.pay("inv-1", actor="key")
    office.seller.deposit("d-1", "20.00")
    office.cashier.deposited("ada", actor="key")
    office.sweep()
    assert (office.seller.status("inv-1"), office.record.status) == ("uncollectible", Record.RESOLVED)
    assert office.cashier.pay("inv-1", actor="key").status.value == "paid"


def test_what_cannot_be_paid_is_refused_and_leaves_no_record(office: Office) -> None:
    """Neither is what is not there."""
    office.seller.invoice("inv-1", "20.00")
    void(office.seller.till, "inv-1", actor="key", reason="by mistake")
    with pytest.raises(Conflict):
        office.cashier.pay("inv-1", actor="key")
    with pytest.raises(NotFound):
        office.cashier.pay("inv-2", actor="key")
    assert office.records() == []


def test_a_bank_debit_paid_by_hand_is_under_way(office: Office) -> None:
    """The invoice is answered as it stands."""
    office.seller.pay_by_bank()
    office.seller.bank.is_slow = True
    office.seller.invoice("inv-1", "20.00")
    for _ in range(2):
        assert office.cashier.pay("inv-1", actor="key").payment is not None
    assert office.seller.bank.calls["charge"] == 1


# Refunds


def refund(office: Office, name: str = "r-1") -> str:
    """Ask for 5.00 of inv-1 back."""
    invoice = office.seller.till.invoices.get("inv-1")
    assert invoice is not None
    [*_, paid] = invoice_payments(office.seller.till, invoice)
    made = office.cashier.refund(paid.id, refund_id=name, amount=D(5), reason="a fault", actor="key")
    return made.status.value


def test_a_refund_that_succeeds_leaves_no_record(office: Office) -> None:
    """Asked for twice, it is given once."""
    office.seller.pay_by_bank()
    office.bill("inv-1")
    assert [refund(office), refund(office)] == ["succeeded", "succeeded"]
    assert (office.records(), office.seller.bank.total) == ([], D(15))


def test_a_refund_that_fails_is_tried_again_at_once(office: Office) -> None:
    """Somebody waits for their money; asking again meanwhile makes no second record."""
    office.seller.pay_by_bank()
    office.bill("inv-1")
    office.seller.bank.answer = TRANSIENT
    assert [refund(office), refund(office)] == ["pending", "pending"]
    assert (office.record.type, office.record.operation) == (ErrorType.REFUND_ERROR, "refund_payment")
    assert office.queue.announced
    office.seller.bank.answer = None
    office.sweep(wait=timedelta(seconds=0))
    assert (office.record.status, refund(office)) == (Record.RESOLVED, "succeeded")
    assert office.seller.bank.total == D(15)


def test_a_refund_that_cannot_be_given_is_a_persons(office: Office) -> None:
    """And leaves its amount to others."""
    office.seller.pay_by_bank()
    office.bill("inv-1")
    office.seller.bank.answer = DECLINED
    assert refund(office) == "failed"
    assert office.record.status is Record.MANUAL
    office.seller.bank.answer = None
    assert refund(office, "r-2") == "succeeded"


def test_a_refund_whose_answer_was_lost_is_asked_for_and_not_repeated(office: Office) -> None:
    """By the sweep."""
    office.seller.pay_by_bank()
    office.bill("inv-1")
    office.seller.bank.after = lost_answer
    assert refund(office) == "pending"
    office.seller.bank.after = lambda: None
    office.sweep()
    assert (office.record.status, office.seller.bank.total) == (Record.RESOLVED, D(15))
    assert refund(office) == "succeeded"


# Topping up


def test_a_payment_that_leaves_little_tops_the_wallet_up(office: Office) -> None:
    """As does any other change of the balance, when it is told."""
    topped(office.seller, "10.00", "50.00")
    office.seller.deposit("d-1", "25.00")
    office.bill("inv-1")
    assert (office.seller.balance(), office.seller.bank.total) == (D(55), D(50))
    office.seller.deposit("a-1", "-50.00")
    office.cashier.balance_changed("ada", actor="key")
    assert (office.seller.balance(), office.records()) == (D(55), [])


def test_a_top_up_that_keeps_failing_is_tried_by_its_strategy_and_then_no_more(office: Office) -> None:
    """The rule is taken away; whoever sets it again begins anew."""
    topped(office.seller)
    office.seller.bank.answer = LACKING
    office.cashier.balance_changed("ada", actor="key")
    office.cashier.balance_changed("ada", actor="key")
    assert (office.record.type, office.record.operation) == (ErrorType.INSUFFICIENT_FUNDS, "top_up_wallet")
    for _ in range(10):
        office.sweep()
    wallet = office.seller.till.wallets.wallet("ada")
    assert wallet is not None
    assert (wallet.top_up, office.record.status) == (None, Record.MANUAL)


def test_a_top_up_whose_answer_was_lost_is_asked_for_and_not_repeated(office: Office) -> None:
    """By the sweep."""
    topped(office.seller)
    office.seller.bank.after = lost_answer
    office.cashier.balance_changed("ada", actor="key")
    office.seller.bank.after = lambda: None
    office.sweep()
    assert (office.seller.balance(), office.seller.bank.total) == (D(50), D(50))
    assert office.record.status is Record.RESOLVED


def test_a_top_up_for_an_invoice_whose_answer_was_lost_is_written_down(office: Office) -> None:
    """It is asked for even where invoice and rule have no need of it any more: the money is the wallet's."""
    topped(office.seller)
    office.seller.bank.after = lost_answer
    office.bill("inv-1")
    assert sorted(record.operation for record in office.records()) == ["collect_invoice", "top_up_wallet"]
    set_top_up(office.seller.till.wallets, "ada", None, None)
    office.seller.deposit("d-1", "20.00")
    assert office.cashier.pay("inv-1", actor="key").status.value == "paid"
    office.seller.bank.after = lambda: None
    office.sweep()
    assert (office.seller.balance(), office.seller.bank.total) == (D(50), D(50))
    assert {record.status for record in office.records()} == {Record.RESOLVED}


def test_a_top_up_that_the_bank_was_long_at_work_on_pays_what_waits_for_it(office: Office) -> None:
    """When the bank says that it is done: its record is resolved, and the invoice collected."""
    topped(office.seller)
    office.seller.bank.is_slow = True
    office.bill("inv-1")
    for _ in range(10):
        office.sweep()
    assert {record.status for record in office.records()} == {Record.MANUAL}
    wallet = office.seller.till.wallets.wallet("ada")
    assert wallet is not None
    assert wallet.payment is not None
    payment = office.seller.till.payments.payment(wallet.payment)
    assert payment is not None
    office.seller.bank.charged[payment.key] = [D(50)]
    office.cashier.settle(payment.id)
    office.sweep(wait=timedelta(0))
    assert {record.status for record in office.records()} == {Record.RESOLVED}
    assert (office.seller.status("inv-1"), office.seller.balance()) == ("paid", D(30))


def test_a_top_up_that_was_too_little_is_not_made_again_because_it_is_told_of(office: Office) -> None:
    """Else the card would be charged again and again within a minute."""
    topped(office.seller)
    office.bill("inv-1", "999.00")
    [entry], _ = office.seller.till.wallets.entries("ada", 0, 10)
    for _ in range(2):
        assert office.cashier.settle(entry.id).status is PaymentStatus.SUCCEEDED
        office.sweep(wait=timedelta(0))
    assert (office.seller.balance(), office.seller.bank.total) == (D(50), D(50))


# Ends at any call, of the ledger of errors too


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_refund_that_nobody_asks_for_again_is_given_or_was_never_begun(database: Engine, *, after: bool) -> None:
    """Whatever call is the last: none is left pending, taking from what others may have back."""
    for k in count(1):
        database.clear()
        office = Office(DynamoRecovery())
        office.seller.pay_by_bank()
        office.bill("inv-1")
        fault = Nth(k, after=after)
        office.seller.bank.before, office.seller.bank.after = fault.before, fault.after
        is_done = False
        try:
            with database.hooked(fault.before, fault.after):
                refund(office)
            is_done = True
        except Killed:
            pass
        office.seller.bank.before = office.seller.bank.after = lambda: None
        for _ in range(3):
            office.sweep()
        made = office.seller.till.payments.refund("r-1")
        assert made is None or made.status is PaymentStatus.SUCCEEDED, k
        assert office.seller.bank.total == (D(15) if made else D(20)), k
        found, _ = office.errors.find(Filter(), after=None, limit=10)
        assert all(record.status is Record.RESOLVED for record in found), k
        if is_done:
            assert k > 10
            assert made is not None
            return


def test_a_refund_that_is_refused_leaves_no_record(office: Office) -> None:
    """More than was paid, though others were faster by a moment, or of nothing."""
    office.seller.pay_by_bank()
    office.bill("inv-1")
    invoice = office.seller.till.invoices.get("inv-1")
    assert invoice is not None
    [paid] = invoice_payments(office.seller.till, invoice)

    def ask(name: str, amount: str, payment: str = paid.id) -> None:
        office.cashier.refund(payment, refund_id=name, amount=D(amount), reason="", actor="key")

    with pytest.raises(Conflict, match="are left"):
        ask("r-1", "20.01")
    with pytest.raises(NotFound):
        ask("r-1", "5", "pay-x")
    keep = office.memory.put

    def meanwhile(record: ErrorRecord) -> bool:
        office.memory.put = keep  # type: ignore[method-assign]  # the other's goes through
        ask("r-2", "12")
        return keep(record)

    office.memory.put = meanwhile  # type: ignore[method-assign]  # what comes between
    with pytest.raises(Conflict, match="are left"):
        ask("r-1", "12")
    assert (office.records(), office.seller.bank.total) == ([], D(8))


def charge(office: Office) -> None:
    """Collect an invoice of bob's, who pays by card."""
    office.cashier.collect(office.seller.invoice("inv-1", "20.00", "bob"))


def give_back(office: Office) -> None:
    """Refund 5.00 of what ada paid by card."""
    refund(office)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("work", [charge, give_back])
def test_what_a_process_left_behind_is_brought_to_its_end_once(
    database: Engine, work: Callable[[Office], None], *, after: bool
) -> None:
    """The k-th call to AWS or the bank is the last, for every k: by the sweep, or by whoever asks again."""
    for k in count(1):
        database.clear()
        office = Office(DynamoRecovery())
        for customer in ("ada", "bob"):
            office.seller.pay_by_bank(customer)
        office.bill("inv-0")
        if work is give_back:
            office.bill("inv-1")
        fault = Nth(k, after=after)
        office.seller.bank.before, office.seller.bank.after = fault.before, fault.after
        is_done = False
        try:
            with database.hooked(fault.before, fault.after):
                work(office)
            is_done = True
        except Killed:
            pass
        office.seller.bank.before = office.seller.bank.after = lambda: None
        for _ in range(3):
            office.sweep()
        work(office)  # the billing run, or whoever has had no answer, asks again
        office.sweep()
        charges, refunds = books(office.seller)
        assert charges == [D("20.00")] * 2, k
        assert refunds == ([D("5.00")] if work is give_back else []), k
        assert office.seller.status("inv-1") == "paid"
        found, _ = office.errors.find(Filter(), after=None, limit=10)
        assert all(record.status is Record.RESOLVED for record in found), k
        if is_done:
            assert k > 10
            return

"""Payments and refunds under races and faults: charged once, given back once, found and not repeated."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from functools import partial
from itertools import chain, count

import pytest

from tests.faults.chaos import Killed
from tests.faults.till import DECLINED, LACKING, Seller
from tollgate.billing.collecting import ask, collect, give_up, invoice_payments, stop_top_up, top_up, void
from tollgate.billing.invoices import InvoiceStatus, move
from tollgate.billing.ledger import set_top_up
from tollgate.billing.payments import Payer, PaymentStatus
from tollgate.billing.refunding import abandon, ask_refund, begin_refund, give
from tollgate.billing.wallet import InsufficientFunds, TopUp
from tollgate.kernel.errors import Conflict, InvalidInput, NotFound
from tools.engine import Call, Engine

D = Decimal


class Nth:
    """Ends the process before or after its k-th call, to AWS or to the bank, and at every one that it still tries."""

    def __init__(self, number: int, *, after: bool) -> None:
        self.made = 0
        self._number = number
        self._after = after

    def before(self, _: Call | None = None) -> None:
        """Strike before anything is done."""
        self.made += 1
        if self.made > self._number or (self.made == self._number and not self._after):
            raise Killed

    def after(self, _: Call | None = None) -> None:
        """Strike when it is done."""
        if self.made == self._number and self._after:
            raise Killed


@pytest.fixture
def seller(database: Engine) -> Seller:
    """An empty database, and a seller."""
    del database  # it is there
    return Seller()


# What collecting does


def test_the_wallet_pays_an_invoice_in_one_step(seller: Seller) -> None:
    """Balance, payment and invoice change together."""
    seller.deposit("d-1", "50.00")
    seller.invoice("inv-1", "20.00")
    payment = seller.collect("inv-1")
    assert (payment.status, payment.provider, payment.amount) == (PaymentStatus.SUCCEEDED, "wallet", D("20.00"))
    assert (seller.balance(), seller.status("inv-1")) == (D("30.00"), "paid")
    assert seller.settled == ["inv-1"]
    [_, charge], _ = seller.till.wallets.entries("ada", 0, 10)
    assert (charge.id, charge.amount, charge.balance_after) == (payment.id, D("-20.00"), D("30.00"))


def test_a_wallet_that_lacks_funds_declines_and_pays_when_there_are(seller: Seller) -> None:
    """Each try is a payment of its own, and all are told."""
    seller.invoice("inv-1", "20.00")
    first = seller.collect("inv-1")
    seller.deposit("d-1", "19.99")
    second = seller.collect("inv-1")
    seller.deposit("d-2", "0.01")
    seller.collect("inv-1")
    assert (first.status, second.status) == (PaymentStatus.FAILED, PaymentStatus.FAILED)
    assert first.decline is not None
    assert (first.decline.kind.value, first.decline.code) == ("funds", "insufficient_funds")
    invoice, _ = collect(seller.till, "inv-1")
    told = [payment.status.value for payment in invoice_payments(seller.till, invoice)]
    assert told == ["failed", "failed", "succeeded"]
    assert (seller.balance(), invoice.status) == (D(0), InvoiceStatus.PAID)


def test_an_overdraft_of_the_deployment_pays_too(database: Engine) -> None:
    """Down to its end."""
    del database
    seller = Seller(overdraft="25")
    seller.invoice("inv-1", "20.00")
    seller.invoice("inv-2", "20.00")
    for name in ("inv-1", "inv-2"):
        seller.collect(name)
    assert [seller.status(name) for name in ("inv-1", "inv-2")] == ["paid", "open"]
    assert seller.balance() == D("-20.00")


def test_a_wallet_of_another_currency_is_for_a_person(seller: Seller) -> None:
    """No try will help."""
    seller.deposit("d-1", "50.00")
    seller.invoice("inv-1", "20.00", currency="USD")
    payment = seller.collect("inv-1")
    assert payment.decline is not None
    assert payment.decline.kind.value == "hard"


def test_a_paid_invoice_is_not_paid_again(seller: Seller) -> None:
    """However often one asks."""
    seller.pay_by_bank()
    seller.invoice("inv-1", "20.00")
    for _ in range(3):
        invoice, _ = collect(seller.till, "inv-1")
        assert invoice.status is InvoiceStatus.PAID
    assert seller.bank.calls["charge"] == 1


def test_an_invoice_of_nothing_is_paid_without_a_payment_and_one_below_zero_is_credited(seller: Seller) -> None:
    """To the wallet, once."""
    for name, total in (("inv-1", "0.00"), ("inv-2", "-7.50")):
        seller.invoice(name, total)
        for _ in range(2):
            assert collect(seller.till, name)[1] is None
        assert seller.status(name) == "paid"
    assert seller.balance() == D("7.50")


def test_a_card_that_declines_and_is_replaced_pays_in_the_end(seller: Seller) -> None:
    """The provider hears a new key for each try."""
    seller.pay_by_bank()
    seller.invoice("inv-1", "20.00")
    seller.bank.answer = LACKING
    failed = seller.collect("inv-1")
    assert (failed.status, failed.decline) == (PaymentStatus.FAILED, LACKING)
    seller.bank.answer = None
    paid = seller.collect("inv-1")
    assert (paid.status, seller.bank.charged) == (PaymentStatus.SUCCEEDED, {paid.key: [D("20.00")]})
    assert paid.key != failed.key


def test_what_is_not_there_cannot_be_paid(seller: Seller) -> None:
    """Nor what was withdrawn."""
    with pytest.raises(NotFound):
        seller.collect("inv-1")
    seller.invoice("inv-1", "20.00")
    void(seller.till, "inv-1", actor="key", reason="by mistake")
    assert seller.status("inv-1") == "void"
    assert void(seller.till, "inv-1", actor="key", reason="again").history[-1].reason == "by mistake"
    with pytest.raises(Conflict, match="is void"):
        seller.collect("inv-1")


def test_a_paid_invoice_cannot_be_void(seller: Seller) -> None:
    """It can be refunded."""
    seller.deposit("d-1", "50.00")
    seller.invoice("inv-1", "20.00")
    seller.collect("inv-1")
    with pytest.raises(Conflict, match="is paid"):
        void(seller.till, "inv-1", actor="key", reason="too late")


def test_a_provider_that_is_not_configured_any_more_declines(seller: Seller) -> None:
    """And what it was doing is not known."""
    seller.pay_by_bank()
    seller.invoice("inv-1", "20.00")
    seller.bank.after = lost_answer
    with pytest.raises(TimeoutError):
        seller.collect("inv-1")
    seller.till = replace(seller.till, providers={"wallet": seller.till.providers["wallet"]})
    with pytest.raises(TimeoutError, match="not configured"):
        seller.collect("inv-1")
    seller.invoice("inv-2", "20.00")
    payment = seller.collect("inv-2")
    assert payment.decline is not None
    assert payment.decline.code == "no_provider"


# Past due


def test_an_invoice_whose_last_try_failed_is_past_due_until_it_is_paid(seller: Seller) -> None:
    """Whoever must know is told, again too."""
    seller.invoice("inv-1", "20.00")
    seller.collect("inv-1")
    for _ in range(2):
        give_up(seller.till, "inv-1")
    assert (seller.status("inv-1"), seller.late) == ("past_due", ["inv-1", "inv-1"])
    seller.deposit("d-1", "20.00")
    seller.collect("inv-1")
    assert (seller.status("inv-1"), seller.settled) == ("paid", ["inv-1"])
    give_up(seller.till, "inv-1")
    assert seller.status("inv-1") == "paid"


def test_an_invoice_that_the_bank_is_at_work_on_is_not_past_due(seller: Seller) -> None:
    """A bank debit takes days; in the end it is asked."""
    seller.pay_by_bank()
    seller.invoice("inv-1", "20.00")
    seller.bank.is_slow = True
    payment = seller.collect("inv-1")
    assert (payment.status, payment.reference is not None) == (PaymentStatus.PENDING, True)
    give_up(seller.till, "inv-1")
    assert seller.status("inv-1") == "open"
    with pytest.raises(Conflict, match="under way"):
        void(seller.till, "inv-1", actor="key", reason="")
    assert ask(seller.till, payment.id).status is PaymentStatus.PENDING
    seller.bank.charged[payment.key] = [D("20.00")]
    assert ask(seller.till, payment.id).status is PaymentStatus.SUCCEEDED
    assert (seller.status("inv-1"), seller.bank.calls["charge"]) == ("paid", 1)


# Unknown outcomes


def lost_answer() -> None:
    """The provider has done it, and nobody hears of it."""
    raise TimeoutError


def test_a_charge_whose_answer_was_lost_is_found_and_not_repeated(seller: Seller) -> None:
    """The provider is asked before anything else."""
    seller.pay_by_bank()
    seller.invoice("inv-1", "20.00")
    seller.bank.after = lost_answer
    with pytest.raises(TimeoutError):
        seller.collect("inv-1")
    assert seller.status("inv-1") == "open"
    with pytest.raises(TimeoutError):  # nor can it be asked
        seller.collect("inv-1")
    seller.bank.after = lambda: None
    payment = seller.collect("inv-1")
    assert (payment.status, seller.status("inv-1")) == (PaymentStatus.SUCCEEDED, "paid")
    assert seller.bank.charged == {payment.key: [D("20.00")]}


def test_a_charge_that_never_reached_the_provider_is_made_with_the_key_it_had(seller: Seller) -> None:
    """Nothing is known of it, so it is the first."""
    seller.pay_by_bank()
    seller.invoice("inv-1", "20.00")
    seller.bank.before = lost_answer
    with pytest.raises(TimeoutError):
        seller.collect("inv-1")
    pending = seller.till.invoices.get("inv-1")
    assert pending is not None
    assert pending.payment is not None
    asked = seller.till.payments.payment(pending.payment)
    seller.bank.before = lambda: None
    assert ask(seller.till, pending.payment).status is PaymentStatus.PENDING, "asking charges nothing"
    payment = seller.collect("inv-1")
    assert asked is not None
    assert seller.bank.charged == {asked.key: [D("20.00")]}
    assert payment.id == asked.id


def test_a_decline_whose_answer_was_lost_is_found_and_leaves_room_for_the_next(seller: Seller) -> None:
    """The invoice is not paid, and can be."""
    seller.pay_by_bank()
    seller.invoice("inv-1", "20.00")
    seller.bank.answer, seller.bank.after = DECLINED, lost_answer
    with pytest.raises(TimeoutError):
        seller.collect("inv-1")
    seller.bank.answer, seller.bank.after = None, lambda: None
    found = seller.collect("inv-1")
    assert found.status is PaymentStatus.FAILED
    seller.collect("inv-1")
    assert seller.status("inv-1") == "paid"


# Refunds


def a_payment(seller: Seller, total: str = "20.00") -> str:
    """One that succeeded."""
    seller.invoice("inv-1", total)
    payment = seller.collect("inv-1")
    assert payment.status is PaymentStatus.SUCCEEDED
    return payment.id


def test_a_payment_is_given_back_in_parts_and_never_more_than_was_paid(seller: Seller) -> None:
    """The rest, where no amount is said."""
    seller.deposit("d-1", "20.00")
    paid = a_payment(seller)
    assert seller.refund(paid, "r-1", "5.00").status is PaymentStatus.SUCCEEDED
    with pytest.raises(Conflict, match=r"15\.00 EUR are left"):
        seller.refund(paid, "r-2", "15.01")
    assert seller.refund(paid, "r-3").amount == D("15.00")
    with pytest.raises(Conflict, match=r"0\.00 EUR are left"):
        seller.refund(paid, "r-4")
    assert seller.balance() == D("20.00")
    assert [refund.id for refund in seller.till.payments.refunds(paid)] == ["r-1", "r-3"]


def test_the_same_refund_again_is_the_one_it_made_and_another_body_is_refused(seller: Seller) -> None:
    """An id names one refund for ever."""
    seller.pay_by_bank()
    paid = a_payment(seller)
    first = seller.refund(paid, "r-1", "5.00", "a fault")
    assert seller.refund(paid, "r-1", "5.00", "a fault") == first
    for amount, reason in (("5.01", "a fault"), (None, "a fault"), ("5.00", "other")):
        with pytest.raises(Conflict, match="another request"):
            seller.refund(paid, "r-1", amount, reason)
    rest = seller.refund(paid, "r-2", None, "a fault")
    assert seller.refund(paid, "r-2", None, "a fault") == rest
    with pytest.raises(Conflict, match="another request"):
        seller.refund(paid, "r-2", "15.00", "a fault")
    assert seller.bank.refunded == {first.key: [D("5.00")], rest.key: [D("15.00")]}


@pytest.mark.parametrize("amount", ["-1", "0.001", "0"])
def test_an_amount_that_cannot_be_given_is_refused(seller: Seller, amount: str) -> None:
    """With a pointer."""
    seller.deposit("d-1", "20.00")
    paid = a_payment(seller)
    with pytest.raises(InvalidInput, match="/amount"):
        begin_refund(seller.till, paid, refund_id="r-1", amount=D(amount), reason="")


def test_only_what_was_paid_can_be_refunded(seller: Seller) -> None:
    """Neither a try that failed nor none."""
    seller.invoice("inv-1", "20.00")
    failed = seller.collect("inv-1")
    with pytest.raises(Conflict, match="is failed"):
        seller.refund(failed.id, "r-1")
    with pytest.raises(NotFound):
        seller.refund("pay-x", "r-1")
    with pytest.raises(NotFound):
        give(seller.till, "r-1")


def test_a_refund_whose_answer_was_lost_is_found_and_not_repeated(seller: Seller) -> None:
    """Nor can it be given up before that."""
    seller.pay_by_bank()
    paid = a_payment(seller)
    seller.bank.after = lost_answer
    with pytest.raises(TimeoutError):
        seller.refund(paid, "r-1", "5.00")
    with pytest.raises(TimeoutError):
        abandon(seller.till, "r-1")
    seller.bank.after = lambda: None
    found = give(seller.till, "r-1")
    assert (found.status, seller.bank.refunded) == (PaymentStatus.SUCCEEDED, {found.key: [D("5.00")]})
    assert abandon(seller.till, "r-1") == found


def test_a_refund_that_cannot_be_given_leaves_its_amount_to_others(seller: Seller) -> None:
    """At once where the refusal is final, and when it is given up where it is not."""
    seller.pay_by_bank()
    paid = a_payment(seller)
    seller.bank.answer = DECLINED
    assert seller.refund(paid, "r-1", "20.00").status is PaymentStatus.FAILED
    seller.bank.answer = LACKING
    waiting = seller.refund(paid, "r-2", "20.00")
    assert (waiting.status, waiting.decline) == (PaymentStatus.PENDING, LACKING)
    with pytest.raises(Conflict, match="are left"):
        seller.refund(paid, "r-3", "0.01")
    assert abandon(seller.till, "r-2").status is PaymentStatus.FAILED
    seller.bank.answer = None
    assert seller.refund(paid, "r-3", "20.00").status is PaymentStatus.SUCCEEDED
    assert seller.bank.total == 0


def test_a_refund_that_was_refused_for_now_is_given_later(seller: Seller) -> None:
    """With a key that the provider has not refused."""
    seller.pay_by_bank()
    paid = a_payment(seller)
    seller.bank.answer = LACKING
    refused = seller.refund(paid, "r-1", "5.00")
    seller.bank.answer = None
    given = give(seller.till, "r-1")
    assert (given.status, seller.bank.refunded) == (PaymentStatus.SUCCEEDED, {given.key: [D("5.00")]})
    assert seller.bank.declined.keys() != {given.key}
    assert (refused.decline, given.decline) == (LACKING, None)


def test_a_refund_that_the_bank_is_at_work_on_is_pending(seller: Seller) -> None:
    """It is not given up, and asked for in the end."""
    seller.pay_by_bank()
    paid = a_payment(seller)
    seller.bank.is_slow = True
    slow = seller.refund(paid, "r-1", "5.00")
    assert (slow.status, slow.reference is not None) == (PaymentStatus.PENDING, True)
    assert abandon(seller.till, "r-1").status is PaymentStatus.PENDING
    seller.bank.refunded[slow.key] = [D("5.00")]
    assert ask_refund(seller.till, "r-1").status is PaymentStatus.SUCCEEDED


# Topping up


def topped(seller: Seller, threshold: str = "10.00", amount: str = "50.00") -> None:
    """A rule, and a card that follows it."""
    seller.till.payments.save_payer(Payer("ada", "wallet", "account-1"))
    set_top_up(seller.till.wallets, "ada", TopUp(D(threshold), D(amount)), "EUR")


def test_a_wallet_below_its_threshold_is_topped_up_once(seller: Seller) -> None:
    """By the card, as a deposit."""
    seller.deposit("d-1", "9.99")
    topped(seller)
    payment = top_up(seller.till, "ada")
    assert payment is not None
    assert (payment.status, payment.invoice, payment.provider) == (PaymentStatus.SUCCEEDED, None, "bank")
    assert top_up(seller.till, "ada") is None
    assert (seller.balance(), seller.bank.total) == (D("59.99"), D(50))


def test_an_invoice_that_the_wallet_cannot_pay_tops_it_up_first(seller: Seller) -> None:
    """And is paid."""
    topped(seller)
    seller.invoice("inv-1", "20.00")
    payment = seller.collect("inv-1")
    assert (payment.status, payment.provider, seller.balance()) == (PaymentStatus.SUCCEEDED, "wallet", D("30.00"))
    assert seller.bank.total == D(50)


def test_a_wallet_above_its_threshold_is_topped_up_for_an_invoice_that_it_cannot_pay(seller: Seller) -> None:
    """Once: a second invoice that is larger than all of it is declined."""
    topped(seller)
    seller.deposit("d-1", "15.00")
    seller.invoice("inv-1", "20.00")
    seller.collect("inv-1")
    assert (seller.status("inv-1"), seller.balance(), seller.bank.total) == ("paid", D(45), D(50))
    seller.invoice("inv-2", "99.00")
    assert seller.collect("inv-2").status is PaymentStatus.FAILED
    assert (seller.balance(), seller.bank.total) == (D(95), D(100))


def test_a_card_that_declines_leaves_the_wallet_as_it_is(seller: Seller) -> None:
    """The invoice is declined for lack of funds, and the next try tops up anew."""
    topped(seller)
    seller.invoice("inv-1", "20.00")
    seller.bank.answer = DECLINED
    payment = seller.collect("inv-1")
    assert payment.decline is not None
    assert payment.decline.kind.value == "funds"
    seller.bank.answer = None
    seller.collect("inv-1")
    assert (seller.status("inv-1"), seller.balance()) == ("paid", D("30.00"))


def test_a_rule_that_keeps_failing_is_taken_away_but_not_while_the_outcome_is_unknown(seller: Seller) -> None:
    """Whoever sets it again has it back."""
    topped(seller)
    seller.bank.after = lost_answer
    with pytest.raises(TimeoutError):
        top_up(seller.till, "ada")
    stop_top_up(seller.till, "ada")
    wallet = seller.till.wallets.wallet("ada")
    assert wallet is not None
    assert wallet.top_up is not None
    seller.bank.after = lambda: None
    found = top_up(seller.till, "ada")
    assert found is not None
    assert (found.status, seller.balance(), seller.bank.total) == (PaymentStatus.SUCCEEDED, D(50), D(50))
    stop_top_up(seller.till, "ada")
    wallet = seller.till.wallets.wallet("ada")
    assert wallet is not None
    assert wallet.top_up is None


def test_the_refund_of_a_top_up_leaves_the_wallet_first(seller: Seller) -> None:
    """What is spent cannot be given back; what is refused is put back."""
    topped(seller)
    paid = top_up(seller.till, "ada")
    assert paid is not None
    seller.deposit("a-1", "-30.00")
    with pytest.raises(InsufficientFunds):
        seller.refund(paid.id, "r-1", "20.01")
    seller.bank.answer = DECLINED
    assert seller.refund(paid.id, "r-2", "20.00").status is PaymentStatus.FAILED
    assert seller.balance() == D(20)
    seller.bank.answer = None
    assert seller.refund(paid.id, "r-3", "20.00").status is PaymentStatus.SUCCEEDED
    assert (seller.balance(), seller.bank.total) == (D(0), D(30))


# Races


def outcomes(*works: Callable[[], object]) -> list[object]:
    """What works that begin at one moment end in."""

    def run(work: Callable[[], object]) -> object:
        try:
            return work()
        except (Conflict, TimeoutError) as error:
            return error

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(run, works))


@pytest.mark.parametrize("provider", ["wallet", "bank"])
def test_of_many_who_collect_one_invoice_one_charges(seller: Seller, provider: str) -> None:
    """The others are told that another is at work, or that it is paid."""
    seller.deposit("d-1", "100.00")
    if provider == "bank":
        seller.pay_by_bank()
    for turn in range(5):
        name = f"inv-{turn}"
        seller.invoice(name, "20.00")
        outcomes(*[partial(seller.collect, name)] * 8)
        assert seller.status(name) == "paid"
    charged = list(seller.bank.charged.values())
    assert charged == ([[D("20.00")]] * 5 if provider == "bank" else [])
    assert seller.balance() == (D(100) if provider == "bank" else D(0))


@pytest.mark.parametrize("provider", ["wallet", "bank"])
def test_of_pay_and_void_at_once_one_wins(seller: Seller, provider: str) -> None:
    """What is void was not charged, what was charged is paid."""
    seller.deposit("d-1", "1000.00")
    if provider == "bank":
        seller.pay_by_bank()
    won = set()
    for turn in range(12):
        name = f"inv-{turn}"
        seller.invoice(name, "20.00")
        works = [partial(seller.collect, name), partial(void, seller.till, name, actor="key", reason="race")]
        outcomes(*(works if turn % 2 else reversed(works)))
        won.add(seller.status(name))
    paid = sum(seller.status(f"inv-{turn}") == "paid" for turn in range(12))
    assert won <= {"paid", "void"}
    assert D(1000) - seller.balance() + seller.bank.total == 20 * paid


class AtCall:
    """Does something before the n-th call."""

    def __init__(self, number: int, calls: Iterator[int], work: Callable[[], object]) -> None:
        self._number = number
        self._calls = calls
        self._work = work

    def __call__(self, _: Call) -> None:
        """Do it, if this is the call."""
        if next(self._calls) == self._number:
            self._work()


@pytest.mark.parametrize("first", ["pay", "void"])
def test_whoever_comes_between_pay_and_void_is_refused(database: Engine, seller: Seller, first: str) -> None:
    """At every point at which the other may come."""
    seller.deposit("d-1", "1000.00")
    ways: dict[str, Callable[[str], object]] = {
        "pay": seller.collect,
        "void": lambda name: void(seller.till, name, actor="key", reason="race"),
    }
    ours, other = (ways["pay"], ways["void"]) if first == "pay" else (ways["void"], ways["pay"])
    for point in count(1):
        name, calls, before = f"inv-{point}", count(1), seller.balance()
        seller.invoice(name, "20.00")
        with database.hooked(AtCall(point, calls, partial(outcomes, partial(other, name)))):
            outcomes(partial(ours, name))
        taken = before - seller.balance()
        assert (seller.status(name), taken) in {("paid", D(20)), ("void", D(0))}
        if next(calls) < point:
            return


@pytest.mark.parametrize("provider", ["wallet", "bank"])
def test_refunds_at_once_never_exceed_what_was_paid(seller: Seller, provider: str) -> None:
    """Eight of 3.00 of a payment of 20.00: six are given."""
    seller.deposit("d-1", "20.00")
    if provider == "bank":
        seller.pay_by_bank()
    paid = a_payment(seller)
    made = outcomes(*[partial(seller.refund, paid, f"r-{n}", "3.00") for n in range(8)])
    assert sum(not isinstance(one, Exception) for one in made) == 6
    assert (seller.balance(), seller.bank.total) == ((D(20), D(2)) if provider == "bank" else (D(18), D(0)))


def test_one_refund_asked_for_by_many_is_given_once(seller: Seller) -> None:
    """The others are told that another is at work on it."""
    seller.pay_by_bank()
    paid = a_payment(seller)
    outcomes(*[partial(seller.refund, paid, "r-1", "5.00")] * 8)
    assert list(seller.bank.refunded.values()) == [[D("5.00")]]
    assert seller.bank.total == D(15)


def test_an_invoice_that_is_moved_while_it_is_paid_is_paid_all_the_same(seller: Seller) -> None:
    """It becomes past due between the charge and the news of it."""
    seller.pay_by_bank()
    seller.invoice("inv-1", "20.00")

    def move_it() -> None:
        invoice = seller.till.invoices.get("inv-1")
        assert invoice is not None
        if invoice.status is InvoiceStatus.OPEN:
            late = move(invoice, InvoiceStatus.PAST_DUE, at=seller.now, actor="test", reason="")
            assert seller.till.payments.write(late)

    seller.bank.after = move_it
    seller.collect("inv-1")
    assert (seller.status("inv-1"), seller.bank.total) == ("paid", D(20))


def test_a_wallet_that_is_moved_while_it_pays_pays_from_what_it_then_holds(database: Engine, seller: Seller) -> None:
    """Or declines, if that is too little."""
    seller.deposit("d-1", "20.00")
    seller.invoice("inv-1", "20.00")
    moves = ["5.00", "-25.00"]  # the second time too little is left

    def come_between(call: Call) -> None:
        if "{'S': 'charge'}" in str(call.request) and moves:
            amount = moves.pop(0)
            seller.deposit(f"between{amount}", amount)

    with database.hooked(come_between):
        payment = seller.collect("inv-1")
    assert payment.status is PaymentStatus.FAILED
    assert seller.balance() == 0


# Ends at any call


def steps(seller: Seller) -> None:
    """A life: deposit, an invoice by the wallet, one by the card, one that tops up, and refunds of all three."""
    seller.deposit("d-1", "30.00")
    for customer, name in (("ada", "inv-w"), ("bob", "inv-b")):
        if customer == "bob":
            seller.pay_by_bank(customer)
        seller.invoice(name, "20.00", customer)
        invoice, _ = collect(seller.till, name)
        [*_, paid] = invoice_payments(seller.till, invoice)
        assert seller.refund(paid.id, f"r-{name}", "5.00").status is PaymentStatus.SUCCEEDED
    topped(seller, "20.00")
    done = [one for one in seller.till.wallets.entries("ada", 0, 100)[0] if one.description == "automatic top-up"]
    paid_in = top_up(seller.till, "ada") if not done else seller.till.payments.payment(done[0].id)
    assert paid_in is not None
    assert seller.refund(paid_in.id, "r-t", "10.00").status is PaymentStatus.SUCCEEDED


def books(seller: Seller) -> tuple[list[Decimal], list[Decimal]]:
    """All that the bank charged and gave back."""
    return sorted(chain(*seller.bank.charged.values())), sorted(chain(*seller.bank.refunded.values()))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_end_at_any_call_run_again_charges_and_refunds_once(database: Engine, *, after: bool) -> None:
    """The k-th call to AWS or the bank is the last, for every k; then all is done once more by another process."""
    for k in count(1):
        database.clear()
        seller = Seller()
        fault = Nth(k, after=after)
        seller.bank.before, seller.bank.after = fault.before, fault.after
        is_done = False
        try:
            with database.hooked(fault.before, fault.after):
                steps(seller)
            is_done = True
        except Killed:
            pass
        seller.bank.before = seller.bank.after = lambda: None
        seller.wait()
        steps(seller)
        assert books(seller) == ([D("20.00"), D("50.00")], [D("5.00"), D("10.00")]), k
        assert (seller.balance("ada"), seller.balance("bob")) == (D("55.00"), D(0)), k
        assert {seller.status(name) for name in ("inv-w", "inv-b")} == {"paid"}
        if is_done:
            assert k > 30
            return


@pytest.mark.parametrize("k", range(1, 9))
def test_an_answer_of_the_bank_that_is_lost_at_any_call_is_asked_for(database: Engine, k: int) -> None:
    """Then all is done once more, at once: nobody waits for a claim."""
    del database
    seller = Seller()
    calls = count(1)

    def lose() -> None:
        if next(calls) == k:
            raise TimeoutError

    seller.bank.after = lose
    for _ in range(3):
        try:
            steps(seller)
        except TimeoutError:
            continue
    assert books(seller) == ([D("20.00"), D("50.00")], [D("5.00"), D("10.00")])
    assert (seller.balance("ada"), seller.balance("bob")) == (D("55.00"), D(0))

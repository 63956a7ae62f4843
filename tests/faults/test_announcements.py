"""What is told of money: each change that was written, once, as the table's stream has it."""

from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from tests.faults.test_payments_faults import steps, topped
from tests.faults.till import DECLINED, Seller
from tollgate.billing.announcements import Announcement
from tollgate.billing.collecting import collect, give_up, void
from tollgate.billing.stream_store import announcement_of
from tollgate.catalog.life import Entry
from tollgate.catalog.webhooks import EVENT_TYPES
from tools.engine import Call, Engine


class Stream:
    """The stream of the billing table: the items before and after each write, as Lambda gives them."""

    def __init__(self, seller: Seller) -> None:
        self.records: list[dict[str, Any]] = []
        self._seller = seller
        self._items: dict[tuple[str, str], dict[str, Any]] = {}

    def __call__(self, call: Call) -> None:
        """Note what a call has written."""
        if call.failed:
            return
        puts = [action["Put"] for action in call.request.get("TransactItems", ())]
        for put in [*puts, *([call.request] if call.operation == "PutItem" else [])]:
            item = put["Item"]
            keys = {"pk": item["pk"], "sk": item["sk"]}
            place = (item["pk"]["S"], item["sk"]["S"])
            before = {"OldImage": self._items[place]} if place in self._items else {}
            self._items[place] = item
            self.records.append({"Keys": keys, "NewImage": item, **before})

    def told(self) -> list[Announcement]:
        """What the outbox tells of it."""
        found = (announcement_of(record, self, self._seller.till.payments) for record in self.records)
        return [one for one in found if one is not None]

    def history_entry(self, subscription_id: str, number: int) -> tuple[str, Entry] | None:
        """Nothing: this is about money."""
        raise AssertionError(f"{subscription_id} {number}")


@pytest.fixture
def seller(database: Engine) -> Seller:
    """An empty database, and a seller."""
    del database  # it is there
    return Seller()


def kinds(told: list[Announcement]) -> list[str]:
    """The types of events, in their order."""
    return [one.event["type"] for one in told]


def test_a_payment_is_told_with_all_that_it_moved(database: Engine, seller: Seller) -> None:
    """The deposit, the invoice when it opens, and payment, invoice and wallet in one step."""
    stream = Stream(seller)
    with database.hooked(after=stream):
        seller.deposit("d-1", "50.00")
        seller.invoice("inv-1", "20.00")
        seller.collect("inv-1")
    told = stream.told()
    assert Counter(kinds(told)) == {
        "wallet.transaction": 2,
        "invoice.opened": 1,
        "payment.succeeded": 1,
        "invoice.paid": 1,
    }
    [paid] = [one for one in told if one.event["type"] == "invoice.paid"]
    assert (paid.customer, paid.subscription) == ("ada", "sub-ada")
    data = paid.event["data"]
    assert (data["id"], data["status"], data["total"], data["amount_due"]) == ("inv-1", "paid", "20.00", "0.00")
    assert "lines" not in data
    [charge] = [one for one in told if one.event["data"].get("type") == "charge"]
    assert (charge.event["data"]["amount"], charge.event["data"]["balance_after"]) == ("-20.00", "30.00")


def test_what_fails_and_is_withdrawn_is_told(database: Engine, seller: Seller) -> None:
    """A decline, an invoice past due and void; what is only begun is no news."""
    stream = Stream(seller)
    seller.pay_by_bank()
    seller.bank.answer = DECLINED
    with database.hooked(after=stream):
        seller.invoice("inv-1", "20.00")
        seller.collect("inv-1")
        give_up(seller.till, "inv-1")
        void(seller.till, "inv-1", actor="key", reason="a favour")
    told = stream.told()
    assert kinds(told) == ["invoice.opened", "payment.failed", "invoice.past_due", "invoice.voided"]
    assert told[1].event["data"]["failure"]["code"] == DECLINED.code


def test_refunds_are_told_when_they_have_come_to_their_end(database: Engine, seller: Seller) -> None:
    """Given, and refused."""
    seller.pay_by_bank()
    stream = Stream(seller)
    with database.hooked(after=stream):
        seller.invoice("inv-1", "20.00")
        payment = seller.collect("inv-1")
        stream.records.clear()
        seller.refund(payment.id, "r-1", "5.00")
        seller.bank.answer = DECLINED
        seller.refund(payment.id, "r-2", "5.00")
    told = stream.told()
    assert kinds(told) == ["refund.succeeded", "refund.failed"]
    assert [one.event["data"]["customer"] for one in told] == ["ada", "ada"]
    assert told[0].event["data"]["invoice"] == "inv-1"


def test_every_event_has_an_id_of_its_own_and_a_type_that_webhooks_know(database: Engine, seller: Seller) -> None:
    """And the wallet's events are the ledger; told again, all are the same."""
    stream = Stream(seller)
    with database.hooked(after=stream):
        steps(seller)
    told = stream.told()
    assert told == stream.told()
    assert len({one.id for one in told}) == len(told) > 10
    assert set(kinds(told)) <= set(EVENT_TYPES)
    for customer in ("ada", "bob"):
        amounts = [one.event["data"] for one in told if one.event["type"] == "wallet.transaction"]
        moved = sum((Decimal(one["amount"]) for one in amounts if one["customer"] == customer), Decimal(0))
        assert moved == seller.balance(customer)


def test_a_change_that_is_no_news_is_not_told(database: Engine, seller: Seller) -> None:
    """A claim, a rule, a way to pay."""
    seller.bank.is_slow = True
    stream = Stream(seller)
    with database.hooked(after=stream):
        seller.invoice("inv-1", "20.00")
        stream.records.clear()
        topped(seller)
        seller.pay_by_bank()
        collect(seller.till, "inv-1")
    assert stream.records
    assert stream.told() == []

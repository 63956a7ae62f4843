"""Billing subscriptions on a real engine: periods closed one by one, invoiced and collected."""

import zlib
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from tests.faults.books import START, Books, plan
from tollgate.billing.invoice_store import InvoiceItem
from tollgate.billing.invoices import Invoice, InvoiceStatus, paid
from tollgate.billing.run import bill, fall_due, recovered
from tollgate.billing.run_store import DynamoRuns
from tollgate.billing.runs import Message, Run, carry_out
from tollgate.catalog.life import When
from tollgate.catalog.model import AfterGrace, Customer, Feature, FeatureType, PlanFeature, SubscriptionStatus
from tollgate.catalog.periods import Interval, Period
from tollgate.catalog.service import subscribe_many
from tollgate.catalog.store import DUE_SHARDS
from tollgate.kernel.dynamodb import BillingTable
from tollgate.kernel.errors import NotFound
from tollgate.pricing.model import Flat
from tools.engine import Call, Engine

pytestmark = pytest.mark.usefixtures("database")

D = Decimal
DAY = timedelta(days=1)
FEBRUARY, MARCH, APRIL = (datetime(2026, month, 1, tzinfo=UTC) for month in (2, 3, 4))


@pytest.fixture
def books(database: Engine) -> Books:
    """With ada on the basic plan since 1 January, and money in her wallet."""
    assert database
    made = Books()
    made.open()
    made.subscribe("ada")
    made.deposit("ada", "1000")
    return made


def shown(invoice: Invoice) -> list[tuple[str, str]]:
    """Kind and amount of the lines."""
    return [(line.kind.value, f"{line.amount:f}") for line in invoice.lines]


def test_the_base_price_is_collected_when_the_subscription_begins(books: Books) -> None:
    """And then with each period, together with what was used."""
    assert books.run() == 1
    [opening] = books.all_invoices()
    assert (opening.status, opening.number, opening.period) == (InvoiceStatus.PAID, "INV-000001", Period(START, START))
    assert shown(opening) == [("base", "20.00")]
    assert books.run() == 0
    books.pass_by(days=10)
    assert books.use("ada", 250) == "accepted"
    books.now = FEBRUARY
    assert books.run() == 1
    closing = books.all_invoices()[1]
    assert (closing.period, shown(closing)) == (Period(START, FEBRUARY), [("base", "20.00"), ("usage", "22.00")])
    assert books.balance("ada") == D("938.00")
    books.check()


def test_periods_that_were_missed_are_closed_one_by_one(books: Books) -> None:
    """Each with its own usage, whenever the run comes."""
    for month in (1, 2, 3):
        books.now = datetime(2026, month, 20, tzinfo=UTC)
        books.use("ada", 100 * month)
    books.now = datetime(2026, 4, 5, tzinfo=UTC)
    assert len(books.bill("ada").invoices) == 4
    assert [shown(one)[1:] for one in books.all_invoices()] == [
        [],
        [("usage", "10.00")],
        [("usage", "18.00")],
        [("usage", "26.00")],
    ]
    assert [one.period.end for one in books.all_invoices()] == [START, FEBRUARY, MARCH, APRIL]
    assert books.bill("ada").invoices == []
    books.check()


def test_a_bill_that_runs_out_of_time_says_so(books: Books) -> None:
    """The rest is due as before."""
    books.now = APRIL

    def left() -> float:
        return 60.0 if len(books.all_invoices()) < 2 else 1.0

    done = bill(books.desk.billing, "sub-ada", books.now, left)
    assert (done.is_done, len(done.invoices)) == (False, 2)
    assert [name for name, _ in books.catalog.due(books.now)] == ["sub-ada"]


def test_more_periods_are_caught_up_with_than_there_are_tries(books: Books) -> None:
    """As many as there is time for."""
    books.catalog.add_plan_version(plan("daily", "0", Interval.DAY))
    books.subscribe("bob", "daily")
    books.pass_by(days=60)
    assert len(books.bill("bob").invoices) == 60


def test_usage_that_comes_late_is_on_the_next_invoice(books: Books) -> None:
    """Once; what comes later still is on the one after it."""
    books.run()
    books.pass_by(days=10)
    books.use("ada", 90)
    books.now = FEBRUARY
    books.run()
    assert books.use("ada", 20, at=FEBRUARY - DAY) == "accepted"
    books.use("ada", 10, at=FEBRUARY - 2 * DAY)
    books.now = MARCH
    books.run()
    assert shown(books.all_invoices()[-1]) == [("base", "20.00"), ("adjustment", "2.60")]
    assert books.use("ada", 5, at=FEBRUARY - DAY) == "accepted"
    books.now = APRIL
    books.run()
    assert shown(books.all_invoices()[-1]) == [("base", "20.00"), ("adjustment", "0.40")]
    books.now = datetime(2026, 5, 1, tzinfo=UTC)
    books.run()
    assert shown(books.all_invoices()[-1]) == [("base", "20.00")]
    books.check()


def test_usage_of_a_feature_that_the_plan_has_no_more_counts_if_it_was_before_the_change(books: Books) -> None:
    """By the plan of its time; usage after the change is refused."""
    books.catalog.add_plan_version(plan("bare", "20.00", features=()))
    books.run()
    books.pass_by(days=10)
    books.change("ada", "bare")
    changed = books.now
    books.pass_by(days=1)
    assert books.use("ada", 7) == "rejected"
    assert books.use("ada", 7, at=changed - timedelta(seconds=1)) == "accepted"
    books.now = FEBRUARY
    books.run()
    assert shown(books.all_invoices()[-1]) == [("base", "20.00"), ("usage", "0.70")]
    assert books.use("ada", 3, at=changed - timedelta(seconds=1)) == "accepted"
    books.now = MARCH
    books.run()
    assert shown(books.all_invoices()[-1]) == [("base", "20.00"), ("adjustment", "0.30")]
    books.check()


def test_usage_that_comes_after_the_end_is_invoiced_when_no_more_can_come(books: Books) -> None:
    """An event of a time after the end belongs to no subscription."""
    books.run()
    books.pass_by(days=10)
    books.use("ada", 10)
    books.cancel("ada")
    end = books.now
    assert books.run() == 1
    assert shown(books.all_invoices()[-1]) == [("usage", "1.00"), ("proration", "-13.55")]
    books.pass_by(days=1)
    assert books.use("ada", 7) == "rejected"
    assert books.use("ada", 7, at=end - DAY) == "accepted"
    assert books.run() == 0
    books.now = end + timedelta(days=35, hours=1)
    assert books.run() == 1
    last = books.all_invoices()[-1]
    assert (shown(last), last.period.start) == ([("adjustment", "0.70")], end)
    books.pass_by(days=400)
    assert books.run() == 0
    with pytest.raises(NotFound):
        books.upcoming("ada")
    books.check()


def test_a_minimum_is_asked_for_by_each_period_and_not_after_the_last(books: Books) -> None:
    """The look for late usage, when no more can come, is no period."""
    price = Flat(D("0.10"), minimum_amount=D(5))
    granted = (PlanFeature(Feature("calls", "API calls", FeatureType.USAGE), price=price),)
    books.catalog.add_plan_version(plan("minimal", "0", features=granted))
    books.subscribe("bob", "minimal")
    books.deposit("bob", "100")
    books.run()
    books.now = FEBRUARY
    books.run()
    books.pass_by(days=1)
    books.cancel("bob")
    books.run()
    books.pass_by(days=40)
    books.run()
    assert [shown(one) for one in books.all_invoices("bob")] == [[("usage", "5.00")]] * 2
    assert books.balance("bob") == D("90.00")
    books.check()


def test_what_is_owed_to_the_customer_goes_to_the_wallet(books: Books) -> None:
    """The invoice is settled by it."""
    books.run()
    before = books.balance("ada")
    books.pass_by(days=10)
    books.cancel("ada")
    books.run()
    assert books.balance("ada") - before == D("13.55")
    assert books.all_invoices()[-1].status is InvoiceStatus.PAID
    books.check()


def test_an_invoice_that_asks_for_nothing_is_paid_when_it_opens(books: Books) -> None:
    """Each period has one; a trial and a pause have none."""
    books.subscribe("bob", "free")
    books.subscribe("eve", "free", trial_days=40)
    books.subscribe("dan")
    books.deposit("dan", "100")
    books.run()
    books.pause("dan")
    books.now = MARCH + DAY
    books.run()
    assert [(one.total, one.status) for one in books.all_invoices("bob")] == [(D(0), InvoiceStatus.PAID)] * 2
    assert [one.period.end for one in books.all_invoices("eve")] == []
    assert [shown(one) for one in books.all_invoices("dan")] == [[("base", "20.00")], [("proration", "-20.00")]]
    assert books.balance("dan") == D(100)
    books.check()


def test_a_trial_is_billed_from_its_end_on(books: Books) -> None:
    """Its usage is shown and free."""
    books.subscribe("eve", trial_days=14)
    books.pass_by(days=3)
    books.use("eve", 500)
    books.now = START + 14 * DAY
    books.run()
    [invoice] = books.all_invoices("eve")
    assert shown(invoice) == [("base", "20.00"), ("usage", "0.00")]
    assert books.status("eve") is SubscriptionStatus.ACTIVE
    assert [entry.action.value for entry in books.life("eve").history] == ["created", "trial_ended"]


def test_the_upcoming_invoice_is_the_one_that_comes(books: Books) -> None:
    """With what is planned, with late usage, and with nothing written."""
    books.run()
    books.now = FEBRUARY
    books.run()
    books.pass_by(days=10)
    books.use("ada", 120)
    books.use("ada", 5, at=FEBRUARY - DAY)
    books.change("ada", "pro")
    books.pass_by(days=3)
    books.use("ada", 30)
    books.use("ada", 4, "seats")
    books.change("ada", "weekly", When.PERIOD_END)
    foreseen = books.upcoming("ada")
    assert foreseen.number is None
    assert len(books.all_invoices()) == 2
    books.now = MARCH
    books.run()
    came = books.all_invoices()[-1]
    assert came.lines == foreseen.lines
    assert (came.total, came.period) == (foreseen.total, foreseen.period)
    books.check()


def test_the_upcoming_invoice_of_who_does_not_pay_ends_with_the_grace(books: Books) -> None:
    """And is the one that comes, if nothing is paid."""
    books.subscribe("bob")
    books.run()
    books.pass_by(days=1)
    fall_due(books.desk.billing, books.all_invoices("bob")[0].id, reason="no try is left")
    books.use("bob", 10)
    foreseen = books.upcoming("bob")
    assert foreseen.period == Period(START, START + 8 * DAY)
    books.now = FEBRUARY
    books.run()
    came = books.all_invoices("bob")[-1]
    assert (came.period, came.lines) == (foreseen.period, foreseen.lines)


@pytest.mark.parametrize("after_grace", AfterGrace)
def test_who_does_not_pay_is_past_due_and_then_what_the_plan_says(after_grace: AfterGrace, books: Books) -> None:
    """With no credit; who pays within the grace goes on."""
    books.catalog.add_plan_version(plan("strict", "30.00", after_grace=after_grace))
    for name in ("bob", "eve"):
        books.subscribe(name, "strict")
    books.run()
    books.pass_by(days=1)
    for one in [*books.all_invoices("bob"), *books.all_invoices("eve")]:
        assert one.status is InvoiceStatus.OPEN
        fall_due(books.desk.billing, one.id, reason="no try is left")
        fall_due(books.desk.billing, one.id, reason="no try is left")
    assert books.status("bob") is SubscriptionStatus.PAST_DUE
    books.deposit("eve", "100")
    [owed] = books.all_invoices("eve")
    assert books.pay(owed).status is InvoiceStatus.PAID
    assert books.status("eve") is SubscriptionStatus.ACTIVE
    books.pass_by(days=7)
    books.run()
    ended = after_grace is AfterGrace.CANCEL
    assert books.status("bob") is (SubscriptionStatus.CANCELLED if ended else SubscriptionStatus.PAUSED)
    assert books.status("eve") is SubscriptionStatus.ACTIVE
    assert books.all_invoices("bob")[0].status is InvoiceStatus.PAST_DUE
    assert all(not one.lines for one in books.all_invoices("bob")[1:])
    books.check()


def test_thousands_of_subscriptions_are_found_by_the_index_and_sent_to_the_queue(database: Engine) -> None:
    """With a query per shard of it, and no scan; what is not due is not read."""
    books = Books()
    books.open()
    customers = [Customer(f"c{number:04d}") for number in range(2_000)]
    made = subscribe_many(books.catalog, customers, plan="basic", starts_at=START, clock=books.clock)
    books.catalog.add_customers([*made[:1_500]])
    later = subscribe_many(books.catalog, customers[1_500:], plan="basic", starts_at=START + DAY, clock=books.clock)
    books.catalog.add_customers(later)
    sent: list[Message] = []
    run = Run("run_1", books.now, books.now, "schedule")
    before = dict(database.units)
    database.units.clear()
    assert before
    carry_out(
        run,
        runs=DynamoRuns(),
        due=(name for name, _ in books.catalog.due(books.now)),
        bill=lambda _: None,
        send=sent.extend,
        has_time=lambda: False,
    )
    assert len({message.subscription for message in sent}) == len(sent) == 1_500
    assert set(database.units) == {"Query", "TransactWriteItems", "PutItem"}
    assert database.units["Query"].calls == DUE_SHARDS + 1  # and what has come of the run so far
    assert len(spread := Counter(zlib.crc32(message.subscription.encode()) % DUE_SHARDS for message in sent)) == 8
    assert max(spread.values()) < 2 * min(spread.values())


def test_an_invoice_that_is_given_up_is_tried_no_more_and_keeps_its_subscription_past_due(books: Books) -> None:
    """It can still be paid by hand, and then all is well."""
    books.subscribe("bob")
    books.run()
    books.pass_by(days=1)
    [owed] = books.all_invoices("bob")
    fall_due(books.desk.billing, owed.id, reason="no try is left")
    given_up = books.desk.cashier.write_off(owed.id, actor="key", reason="they are gone")
    assert books.desk.cashier.write_off(owed.id, actor="key", reason="again") == given_up
    assert books.status("bob") is SubscriptionStatus.PAST_DUE
    books.deposit("bob", "100")
    books.pass_by(days=2)
    books.sweep()
    assert books.all_invoices("bob")[0].status is InvoiceStatus.UNCOLLECTIBLE
    assert books.pay(given_up).status is InvoiceStatus.PAID
    assert books.status("bob") is SubscriptionStatus.ACTIVE


def test_whoever_pays_the_newest_of_two_invoices_is_past_due_still(books: Books) -> None:
    """Although the index says for a moment that the one just paid is not."""
    books.subscribe("bob", "weekly")
    books.run()
    books.pass_by(days=7)
    books.run()
    newest, oldest = sorted(books.all_invoices("bob"), key=lambda one: one.created_at, reverse=True)
    for one in (newest, oldest):
        fall_due(books.desk.billing, one.id, reason="no try is left")
    found = books.invoices.get(newest.id)
    assert found is not None
    assert books.invoices.write(paid(found, at=books.now, actor="system", reason="paid"))
    index_lags(newest)
    recovered(books.desk.billing, "sub-bob")
    assert books.status("bob") is SubscriptionStatus.PAST_DUE
    books.deposit("bob", "100")
    assert books.pay(oldest).status is InvoiceStatus.PAID
    assert books.status("bob") is SubscriptionStatus.ACTIVE


def index_lags(invoice: Invoice) -> None:
    """Have the index say of an invoice what it was a moment ago: past due."""
    item = InvoiceItem.get(f"INVOICE#{invoice.id}", "INVOICE")
    item.invoice_status = InvoiceStatus.PAST_DUE.value
    item.save()


def test_a_payment_that_nobody_told_of_keeps_the_subscription(books: Books) -> None:
    """Whoever paid within the grace is not ended, though the process died that was to say so."""
    books.subscribe("bob")
    books.run()
    books.pass_by(days=1)
    [owed] = books.all_invoices("bob")
    fall_due(books.desk.billing, owed.id, reason="no try is left")
    found = books.invoices.get(owed.id)
    assert found is not None
    assert books.invoices.write(paid(found, at=books.now, actor="system", reason="paid"))
    books.pass_by(days=8)
    books.run()
    assert books.status("bob") is SubscriptionStatus.ACTIVE


def test_a_payment_that_nobody_told_of_does_not_keep_what_was_to_end(books: Books) -> None:
    """Who paid within the grace is not ended for it, but as was asked for; the history is in order."""
    books.subscribe("bob")
    books.run()
    books.pass_by(days=28)
    [owed] = books.all_invoices("bob")
    fall_due(books.desk.billing, owed.id, reason="no try is left")
    books.pass_by(days=4)
    books.run()
    books.cancel("bob", When.PERIOD_END)
    found = books.invoices.get(owed.id)
    assert found is not None
    assert books.invoices.write(paid(found, at=books.now, actor="system", reason="paid"))
    books.now = APRIL
    books.run()
    assert books.status("bob") is SubscriptionStatus.CANCELLED
    history = books.life("bob").history
    assert [entry.action.value for entry in history[-2:]] == ["recovered", "cancelled"]
    assert history[-1].at == MARCH
    assert [entry.at for entry in history] == sorted(entry.at for entry in history)
    assert history[-2].recorded_at == APRIL
    books.check()


def index_as_it_was(database: Engine, subscription: str) -> Callable[[Call], None]:
    """A hook after which the index of a subscription's invoices shows what it shows now, whatever is written."""
    found, failed = database.ask(
        "Query",
        {
            "TableName": BillingTable.Meta.table_name,
            "IndexName": "invoice_subscription",
            "KeyConditionExpression": "invoice_subscription = :it",
            "ExpressionAttributeValues": {":it": {"S": subscription}},
            "ScanIndexForward": False,
        },
    )
    assert not failed

    def lag(call: Call) -> None:
        if call.request.get("IndexName") != "invoice_subscription":
            return
        texts = call.request["ExpressionAttributeValues"]
        is_left_out = "<>" in call.request["FilterExpression"]
        named = {text["S"] for name, text in texts.items() if name != ":partition"}
        call.answer["Items"] = [
            item for item in found["Items"] if (item["invoice_status"]["S"] in named) is not is_left_out
        ]

    return lag


@pytest.mark.parametrize("fell_due_before", [True, False])
def test_who_owes_another_invoice_stays_past_due_though_the_index_lags(
    database: Engine, books: Books, fell_due_before: bool
) -> None:
    """It shows for a while the invoice that was paid as past due, and the one that has fallen due as open."""
    books.subscribe("bob")
    books.run()
    books.now = FEBRUARY
    books.run()
    books.deposit("bob", "100")
    older, newer = books.all_invoices("bob")
    fell_due, settled = (older, newer) if fell_due_before else (newer, older)
    fall_due(books.desk.billing, settled.id, reason="no try is left")
    if fell_due_before:
        fall_due(books.desk.billing, fell_due.id, reason="no try is left")
    with database.hooked(after=index_as_it_was(database, "sub-bob")):
        fall_due(books.desk.billing, fell_due.id, reason="no try is left")
        assert books.pay(settled).status is InvoiceStatus.PAID
        assert books.status("bob") is SubscriptionStatus.PAST_DUE
    assert books.pay(fell_due).status is InvoiceStatus.PAID
    assert books.status("bob") is SubscriptionStatus.ACTIVE


def test_an_invoice_that_falls_due_while_another_is_paid_keeps_its_subscription_past_due(
    database: Engine, books: Books
) -> None:
    """Though it was not past due yet when that was asked."""
    books.subscribe("bob")
    books.run()
    books.now = FEBRUARY
    books.run()
    books.deposit("bob", "100")
    older, newer = books.all_invoices("bob")
    fall_due(books.desk.billing, older.id, reason="no try is left")
    steps: list[str] = []

    def meanwhile(call: Call) -> None:
        """Once it has been read that the newer one is open."""
        if call.request.get("IndexName") == "invoice_subscription":
            steps.append("listed")
        elif call.operation == "BatchGetItem" and steps == ["listed"]:
            steps.append("read")
            fall_due(books.process().billing, newer.id, reason="no try is left")

    with database.hooked(after=meanwhile):
        assert books.pay(older).status is InvoiceStatus.PAID
    assert steps[1] == "read"
    assert books.status("bob") is SubscriptionStatus.PAST_DUE
    assert books.pay(newer).status is InvoiceStatus.PAID
    assert books.status("bob") is SubscriptionStatus.ACTIVE

"""Stripe's provider against localstripe, a server that behaves as Stripe does: charges, refunds, lost answers, news."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count

import pytest
import stripe

from tests.faults.chaos import Killed
from tests.faults.stripe_server import SECRET, LocalStripe, running
from tests.faults.test_cashier import Office
from tests.faults.till import Seller
from tollgate.billing.collecting import ask, collect, give_up, invoice_payments
from tollgate.billing.payments import DeclineKind, Payer, Payment, PaymentStatus
from tollgate.billing.providers import Outcome
from tollgate.billing.stripe_provider import StripeProvider, minor_units, read_news
from tollgate.kernel.errors import BadRequest, Forbidden
from tollgate.recovery.model import Status as Record
from tools.engine import Engine

D = Decimal
GOOD = "4242424242424242"
DECLINED = "4000000000000341"  # attaches, and declines when it is charged
ASKS = "4000002760003184"  # asks for the customer's authentication
SIGNED_WITH = "whsec_test"
_POLLS = 200


@pytest.fixture(scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStripe]:
    with running(tmp_path_factory.mktemp("localstripe")) as it:
        yield it


@pytest.fixture
def server(_server: LocalStripe) -> LocalStripe:
    """localstripe, empty."""
    _server.clear()
    return _server


def with_stripe(seller: Seller, server: LocalStripe) -> None:
    """Have a seller charge through localstripe."""
    provider = StripeProvider(SECRET, api=server.url, http_client=lambda: server.transport)
    wallet = seller.till.providers["wallet"]
    seller.now = datetime.now(UTC)  # Stripe's clock is its own
    seller.till = replace(seller.till, providers={"wallet": wallet, "stripe": provider})


@pytest.fixture
def seller(database: Engine, server: LocalStripe) -> Seller:
    """A seller whose customer ada pays by a card that is good."""
    del database  # it is there
    it = Seller()
    with_stripe(it, server)
    pay_by(it, server, GOOD)
    return it


def pay_by(seller: Seller, server: LocalStripe, card: str | None) -> str:
    """Have ada pay by a card; the customer at Stripe."""
    account = server.customer(card)
    seller.till.payments.save_payer(Payer("ada", "stripe", account))
    return account


def test_a_card_is_charged_off_session_and_the_invoice_paid(seller: Seller, server: LocalStripe) -> None:
    """The payment says what Stripe calls it; Stripe, which payment it is for."""
    seller.invoice("inv-1", "20.05")
    payment = seller.collect("inv-1")
    assert (payment.status, seller.status("inv-1"), server.charged()) == (PaymentStatus.SUCCEEDED, "paid", [2005])
    assert payment.reference is not None
    intent = server.client.v1.payment_intents.retrieve(payment.reference)
    assert intent.metadata.to_dict() == {"tollgate_key": payment.key, "tollgate_payment": payment.id}
    assert intent.currency == "eur"


def test_each_payment_has_one_idempotency_key_and_the_library_tries_nothing_again(
    seller: Seller, server: LocalStripe
) -> None:
    """It is the key that was stored before the call."""
    seller.invoice("inv-1", "20.00")
    payment = seller.collect("inv-1")
    seller.refund(payment.id, "r-1", "5.00")
    keys = [(path, headers["Idempotency-Key"]) for method, path, headers in server.transport.calls if method == "post"]
    [refund] = seller.till.payments.refunds(payment.id)
    assert keys == [("/v1/payment_intents", payment.key), ("/v1/refunds", refund.key)]


def test_a_card_that_declines_is_replaced_and_the_invoice_ends_paid(database: Engine, server: LocalStripe) -> None:
    """The ledger of errors shows the tries, the invoice its payments."""
    del database
    office = Office()
    with_stripe(office.seller, server)
    account = pay_by(office.seller, server, DECLINED)
    office.bill("inv-1")
    office.sweep()
    office.sweep()
    assert (office.record.status, office.seller.status("inv-1"), server.charged()) == (Record.PENDING, "open", [])
    server.replace_card(account, GOOD)
    office.sweep()
    assert (office.record.status, office.seller.status("inv-1"), server.charged()) == (Record.RESOLVED, "paid", [2000])
    assert [one.outcome.value for one in office.record.tries] == ["failed", "failed", "succeeded"]
    invoice = office.seller.till.invoices.get("inv-1")
    assert invoice is not None
    told = [
        (one.status.value, one.decline and one.decline.code) for one in invoice_payments(office.seller.till, invoice)
    ]
    assert told == [("failed", "card_declined")] * 3 + [("succeeded", None)]


def test_a_card_that_asks_for_authentication_is_for_a_person_and_can_not_be_charged_later(
    seller: Seller, server: LocalStripe
) -> None:
    """Nobody is there to answer; the payment intent is cancelled."""
    pay_by(seller, server, ASKS)
    seller.invoice("inv-1", "20.00")
    payment = seller.collect("inv-1")
    assert payment.decline is not None
    assert (payment.decline.kind, payment.decline.code) == (DeclineKind.HARD, "authentication_required")
    [intent] = server.client.v1.payment_intents.list().data
    assert intent.status == "canceled"


def test_an_intent_that_cannot_be_cancelled_is_not_taken_for_declined(seller: Seller, server: LocalStripe) -> None:
    """It may have been paid in that moment: it is asked for again."""
    pay_by(seller, server, ASKS)
    seller.invoice("inv-1", "20.00")

    def refuse(_: str, path: str) -> None:
        if path.endswith("/cancel"):
            raise stripe.InvalidRequestError("not in this state", None, http_status=400)  # type: ignore[no-untyped-call]  # Stripe has no types here

    server.transport.before = refuse
    with pytest.raises(TimeoutError):
        seller.collect("inv-1")
    server.transport.before = lambda *_: None
    payment = seller.collect("inv-1")
    assert payment.decline is not None
    assert payment.decline.code in {"authentication_required", "declined"}
    assert server.charged() == []


def test_an_amount_that_stripe_cannot_charge_is_for_a_person(seller: Seller, server: LocalStripe) -> None:
    """It says so, and not that there is no card."""
    pay_by(seller, server, GOOD)
    seller.invoice("inv-1", "500.20", currency="MGA")
    payment = seller.collect("inv-1")
    assert payment.decline is not None
    assert (payment.decline.kind, payment.decline.code) == (DeclineKind.HARD, "invalid_amount")
    assert server.charged() == []


def test_an_intent_that_is_found_cancelled_is_for_a_person(seller: Seller, server: LocalStripe) -> None:
    """The answer to its cancelling was lost: another try would ask for authentication again."""
    pay_by(seller, server, ASKS)
    seller.invoice("inv-1", "20.00")

    def lose(_: str, path: str) -> None:
        if path.endswith("/cancel"):
            raise stripe.APIConnectionError("lost")  # type: ignore[no-untyped-call]  # Stripe has no types here

    server.transport.after = lose
    with pytest.raises(TimeoutError):
        seller.collect("inv-1")
    server.transport.after = lambda *_: None
    payment = seller.collect("inv-1")
    assert payment.decline is not None
    assert (payment.decline.kind, payment.decline.code) == (DeclineKind.HARD, "canceled")


@pytest.mark.parametrize("account", [None, "cus_unknown", "without a card"])
def test_a_customer_with_nothing_to_charge_is_for_a_person(
    seller: Seller, server: LocalStripe, account: str | None
) -> None:
    """Nothing is asked of Stripe that could charge anybody."""
    if account == "without a card":
        account = server.customer(None)
    seller.till.payments.save_payer(Payer("ada", "stripe", account))
    seller.invoice("inv-1", "20.00")
    payment = seller.collect("inv-1")
    assert payment.decline is not None
    assert payment.decline.kind is DeclineKind.HARD
    assert server.charged() == []


def test_a_payment_method_that_is_named_is_charged_in_place_of_the_default(seller: Seller, server: LocalStripe) -> None:
    """Here the default would decline."""
    account = server.customer(GOOD)
    good = server.replace_card(account, GOOD)
    server.replace_card(account, DECLINED)
    seller.till.payments.save_payer(Payer("ada", "stripe", account, good))
    seller.invoice("inv-1", "20.00")
    assert seller.collect("inv-1").status is PaymentStatus.SUCCEEDED


def test_a_bank_debit_is_processing_until_stripe_knows_better(seller: Seller, server: LocalStripe) -> None:
    """It is neither tried again nor past due meanwhile; here it is declined half a second later."""
    account = server.customer(None)
    debit = server.client.v1.payment_methods.create(
        params={"type": "sepa_debit", "sepa_debit": {"iban": "DE62370400440532013001"}}
    )
    server.client.v1.payment_methods.attach(debit.id, params={"customer": account})
    seller.till.payments.save_payer(Payer("ada", "stripe", account, debit.id))
    seller.invoice("inv-1", "20.00")
    payment = seller.collect("inv-1")
    assert (payment.status, payment.reference is not None) == (PaymentStatus.PENDING, True)
    give_up(seller.till, "inv-1")
    assert (seller.status("inv-1"), seller.late) == ("open", [])
    for _ in range(_POLLS):
        settled = ask(seller.till, payment.id)
        if settled.status is not PaymentStatus.PENDING:
            break
        time.sleep(0.05)
    assert (settled.status, server.charged()) == (PaymentStatus.FAILED, [])
    pay_by(seller, server, GOOD)
    assert seller.collect("inv-1").status is PaymentStatus.SUCCEEDED


# Refunds


def test_a_payment_is_refunded_in_parts(seller: Seller, server: LocalStripe) -> None:
    """Down to nothing."""
    seller.invoice("inv-1", "20.00")
    payment = seller.collect("inv-1")
    made = [seller.refund(payment.id, "r-1", "5.00"), seller.refund(payment.id, "r-2")]
    assert [one.status for one in made] == [PaymentStatus.SUCCEEDED] * 2
    assert [one.reference is not None for one in made] == [True, True]
    assert server.refunded() == [500, 1500]


def test_a_refund_that_stripe_refuses_is_final(seller: Seller, server: LocalStripe) -> None:
    """As of a payment intent that was never paid, which one of ours cannot be."""
    seller.invoice("inv-1", "20.00")
    payment = seller.collect("inv-1")
    pay_by(seller, server, DECLINED)
    seller.invoice("inv-2", "20.00")
    seller.collect("inv-2")
    [unpaid] = [one.id for one in server.client.v1.payment_intents.list().data if one.status != "succeeded"]
    seller.till.payments.write(replace(payment, reference=unpaid, revision=payment.revision + 1))
    made = seller.refund(payment.id, "r-1", "5.00")
    assert (made.status, made.decline and made.decline.kind) == (PaymentStatus.FAILED, DeclineKind.HARD)
    assert server.refunded() == []


def test_a_payment_intent_that_stripe_does_not_know_leaves_the_refund_open(seller: Seller) -> None:
    """Nothing can be said of it."""
    seller.invoice("inv-1", "20.00")
    payment = seller.collect("inv-1")
    seller.till.payments.write(replace(payment, reference="pi_unknown", revision=payment.revision + 1))
    with pytest.raises(TimeoutError):
        seller.refund(payment.id, "r-1", "5.00")


# Lost answers


class Lost:
    """Loses the k-th call that does something at Stripe, or its answer."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._made = count(1)

    def __call__(self, method: str, _: str) -> None:
        """Lose it, if this is the one."""
        if method == "post" and next(self._made) == self._k:
            raise stripe.APIConnectionError("lost by the test", should_retry=True)  # type: ignore[no-untyped-call]  # Stripe has no types here


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("k", [1, 2])
def test_what_is_lost_is_asked_for_and_done_once(seller: Seller, server: LocalStripe, k: int, when: str) -> None:
    """Localstripe knows no keys: what were sent again would be done again."""
    setattr(server.transport, when, Lost(k))
    seller.invoice("inv-1", "20.00")
    for _ in range(3):
        try:
            invoice, _payment = collect(seller.till, "inv-1")
            [*_, paid] = invoice_payments(seller.till, invoice)
            refund = seller.refund(paid.id, "r-1", "5.00")
        except TimeoutError:
            continue
    assert (seller.status("inv-1"), refund.status) == ("paid", PaymentStatus.SUCCEEDED)
    assert (server.charged(), server.refunded()) == ([2000], [500])


def test_a_decline_whose_answer_was_lost_is_found(seller: Seller, server: LocalStripe) -> None:
    """Among the customer's payment intents."""
    pay_by(seller, server, DECLINED)
    seller.invoice("inv-1", "20.00")
    server.transport.after = Lost(1)
    with pytest.raises(TimeoutError):
        seller.collect("inv-1")
    payment = seller.collect("inv-1")
    assert (payment.status, payment.decline and payment.decline.code) == (PaymentStatus.FAILED, "card_declined")


def test_a_process_that_ends_between_the_charge_and_the_news_of_it_leaves_it_to_be_found(
    seller: Seller, server: LocalStripe
) -> None:
    """By whoever comes when the claim is over."""

    def die(method: str, _: str) -> None:
        if method == "post":
            raise Killed

    seller.invoice("inv-1", "20.00")
    server.transport.after = die
    with pytest.raises(Killed):
        seller.collect("inv-1")
    server.transport.after = lambda *_: None
    seller.wait()
    assert seller.collect("inv-1").status is PaymentStatus.SUCCEEDED
    assert server.charged() == [2000]


def test_a_key_that_stripe_refuses_charges_nobody_and_is_no_decline(database: Engine, server: LocalStripe) -> None:
    """The seller has to put it right, the customer has done nothing."""
    del database
    seller = Seller()
    with_stripe(seller, server)
    pay_by(seller, server, GOOD)
    wrong = StripeProvider("not-a-key", api=server.url, http_client=lambda: server.transport)
    seller.till = replace(seller.till, providers={**seller.till.providers, "stripe": wrong})
    seller.invoice("inv-1", "20.00")
    with pytest.raises(ConnectionError, match="refuses the secret key"):
        seller.collect("inv-1")
    with_stripe(seller, server)
    assert seller.collect("inv-1").status is PaymentStatus.SUCCEEDED


def test_a_server_that_is_not_there_leaves_the_outcome_open(seller: Seller, server: LocalStripe) -> None:
    """As does one that fails; a call too many has certainly charged nobody."""
    payment = a_pending_payment(seller)
    gone = StripeProvider(SECRET, api="http://127.0.0.1:9")
    for question in (gone.charge, gone.find_charge):
        with pytest.raises(TimeoutError):
            question(payment)
    for error, expected in (
        (stripe.APIError("500", http_status=500), TimeoutError),
        (stripe.IdempotencyError("other parameters", http_status=400), TimeoutError),
    ):
        server.transport.before = failing(error)
        with pytest.raises(expected):
            provider_of(seller)(payment)
    server.transport.before = failing(stripe.RateLimitError("too many", http_status=429))
    assert getattr(provider_of(seller)(payment), "kind", None) is DeclineKind.TRANSIENT


def failing(error: Exception) -> Callable[[str, str], None]:
    """Fail each call that does something."""

    def fail(method: str, _: str) -> None:
        if method == "post":
            raise error

    return fail


def provider_of(seller: Seller) -> Callable[[Payment], Outcome]:
    """How the seller charges through Stripe."""
    return seller.till.providers["stripe"].charge


def a_pending_payment(seller: Seller) -> Payment:
    """One that is ours to charge."""
    payer = seller.till.payer("ada")
    return Payment("pay-x", "ada", None, None, D("20.00"), "EUR", "stripe", payer.account, None, "key-x", seller.now)


@pytest.mark.parametrize(
    ("amount", "currency", "units"),
    [
        ("20.05", "EUR", 2005),
        ("500", "JPY", 500),
        ("1.234", "BHD", 1234),
        ("500", "ISK", 50_000),
        ("500", "UGX", 50_000),
        ("500", "MGA", 500),
        ("500.20", "MGA", None),
        ("0.001", "EUR", None),
    ],
)
def test_amounts_are_counted_in_stripes_units(amount: str, currency: str, units: int | None) -> None:
    """Which are not ISO 4217's for three currencies."""
    assert minor_units(D(amount), currency) == units


# News


def news(event: dict[str, object], *, secret: str = SIGNED_WITH, age: timedelta = timedelta(0)) -> tuple[str, str]:
    """The body of an event and its signature."""
    body = json.dumps(event)
    at = int((datetime.now(UTC) - age).timestamp())
    return body, stripe.WebhookSignature.generate_signature_header(body, secret, at)


EVENT: dict[str, object] = {
    "id": "evt_1",
    "object": "event",
    "type": "payment_intent.succeeded",
    "data": {"object": {"id": "pi_1", "object": "payment_intent", "metadata": {"tollgate_payment": "pay-1"}}},
}


def test_news_that_stripe_has_signed_name_what_they_are_of() -> None:
    """A payment, a refund, or nothing of ours."""
    told = read_news(*news(EVENT), SIGNED_WITH)
    assert (told.id, told.type, told.payment, told.refund) == ("evt_1", "payment_intent.succeeded", "pay-1", None)
    other = EVENT | {"data": {"object": {"id": "re_1", "object": "refund", "metadata": {"tollgate_refund": "r-1"}}}}
    assert read_news(*news(other), SIGNED_WITH).refund == "r-1"
    foreign = EVENT | {"data": {"object": {"id": "re_1", "object": "refund", "metadata": {}}}}
    assert read_news(*news(foreign), SIGNED_WITH).payment is None


@pytest.mark.parametrize(
    ("body", "signature"),
    [
        (news(EVENT)[0], None),
        (news(EVENT)[0], "t=1,v1=00"),
        (news(EVENT)[0], "nonsense"),
        (news(EVENT)[0], "t=1,v1=\u00e9"),
        (news(EVENT)[0] + " ", news(EVENT)[1]),
        news(EVENT, secret="whsec_other"),
        news(EVENT, age=timedelta(minutes=6)),
    ],
    ids=["unsigned", "forged", "nonsense", "not ASCII", "changed", "of another", "old"],
)
def test_news_that_are_not_stripes_or_are_old_are_refused(body: str, signature: str | None) -> None:
    """Whoever replays what was sent once comes too late."""
    with pytest.raises(Forbidden):
        read_news(body, signature, SIGNED_WITH)


@pytest.mark.parametrize("body", ["{}", "[]", '{"object": "event"}', '{"object": "event", "id": "e", "data": 5}'])
def test_news_that_are_signed_and_no_event_are_refused(body: str) -> None:
    """A body that means nothing to us is a fault of the sender's."""
    at = int(datetime.now(UTC).timestamp())
    with pytest.raises(BadRequest):
        read_news(body, stripe.WebhookSignature.generate_signature_header(body, "whsec_test", at), SIGNED_WITH)

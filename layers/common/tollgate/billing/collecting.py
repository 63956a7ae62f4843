"""Collecting: an invoice is paid, a wallet is topped up.

    begin       the payment is stored with its key, and named in the invoice or wallet it is for: no other can begin
    charge      the provider is called
    settle      the payment, the invoice or wallet, and what the wallet paid, in one transaction

Each step may be the last of a process. Whoever comes next finds the payment pending, claims it, asks the provider what
became of it, and goes on from there. A payment that was declined leaves room for the next one.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final, TypeVar

from tollgate.billing.invoices import COLLECTIBLE, Invoice, InvoiceStatus, move, paid, payment_id
from tollgate.billing.ledger import TRIES
from tollgate.billing.payments import (
    CLAIM,
    Decline,
    DeclineKind,
    Payment,
    PaymentStatus,
    claim,
    released,
    settle_failed,
    settle_succeeded,
)
from tollgate.billing.providers import WALLET, Outcome, Processing, Succeeded
from tollgate.billing.till import Change, Till, existing_invoice, existing_payment
from tollgate.billing.wallet import EntryType, Posting, Wallet, post, top_up_due, with_top_up
from tollgate.kernel.errors import Conflict, NotFound, Unavailable
from tollgate.kernel.ids import derived_id

__all__ = ["ask", "collect", "give_up", "invoice_payments", "stop_top_up", "top_up", "void", "write_off"]

COLLECTOR: Final = "collecting"
"""The actor of what collecting does to an invoice."""

_Answer = TypeVar("_Answer")


def collect(till: Till, invoice_id: str) -> tuple[Invoice, Payment | None]:
    """Have an invoice paid by its customer's provider; the invoice, and the payment if one was tried or is under way.

    One that is paid is left as it is; one below zero is credited to the wallet. The payment is pending while the
    provider is still at work on it.

    Raises:
        NotFound: there is no such invoice.
        Conflict: it cannot be paid, or another is at work on its payment now.
        TimeoutError: it is not known whether the customer was charged.
        ConnectionError: the provider cannot be reached, and nothing was charged.
    """
    for _ in range(TRIES):
        invoice = existing_invoice(till, invoice_id)
        if invoice.status is InvoiceStatus.PAID:
            till.on_settled(invoice)
            return invoice, None
        if invoice.status not in COLLECTIBLE:
            raise Conflict(f"The invoice {invoice.id} is {invoice.status} and cannot be paid.")
        if invoice.payment is not None:
            return _outcome(till, invoice, _resume(till, existing_payment(till, invoice.payment)))
        if invoice.amount_due <= 0:
            if _credit(till, invoice):
                continue  # it is paid now
        else:
            payment = _payment_of(till, invoice)
            taken = replace(invoice, payment=payment.id, attempts=invoice.attempts + 1, revision=invoice.revision + 1)
            if till.payments.write(payment, taken):
                return _outcome(till, taken, _charge(till, payment))
    raise _busy(f"invoice {invoice_id}")


def _outcome(till: Till, invoice: Invoice, payment: Payment) -> tuple[Invoice, Payment]:
    found = existing_invoice(till, invoice.id)
    if found.status is InvoiceStatus.PAID:
        till.on_settled(found)
    return found, payment


def _payment_of(till: Till, invoice: Invoice) -> Payment:
    now, payer = till.clock(), till.payer(invoice.customer)
    return Payment(
        id=payment_id(invoice.id, invoice.attempts + 1),
        customer=invoice.customer,
        subscription=invoice.subscription,
        invoice=invoice.id,
        amount=invoice.amount_due,
        currency=invoice.currency,
        provider=payer.provider,
        account=payer.account,
        method=payer.method,
        key=till.new_key(),
        created_at=now,
        claimed_until=now + CLAIM,
    )


def _credit(till: Till, invoice: Invoice) -> bool:
    """Settle an invoice that asks for nothing, or that the seller owes: that goes into the wallet."""
    now = till.clock()
    if not invoice.amount_due:
        return till.payments.write(paid(invoice, at=now, actor=COLLECTOR, reason="nothing is due"))
    posting = post(
        till.wallets.wallet(invoice.customer),
        customer=invoice.customer,
        entry_id=invoice.id,
        entry_type=EntryType.ADJUSTMENT,
        amount=-invoice.amount_due,
        currency=invoice.currency,
        description=f"credit of invoice {invoice.number}",
        overdraft=till.overdraft,
        at=now,
    )
    return till.payments.write(paid(invoice, at=now, actor=COLLECTOR, reason="credited to the wallet"), posting)


def top_up(till: Till, customer: str, *, is_short: bool = False) -> Payment | None:
    """Bring money into a wallet that is below its threshold; None where none is needed, else the payment.

    `is_short` says that a charge was declined for lack of funds: then money is needed whatever the threshold.

    Raises:
        Conflict: another is at work on it now.
        TimeoutError: it is not known whether the customer was charged.
        ConnectionError: the provider cannot be reached, and nothing was charged.
    """
    for _ in range(TRIES):
        wallet = till.wallets.wallet(customer)
        if wallet is None or not (top_up_due(wallet) or (is_short and wallet.top_up is not None)):
            return None
        if wallet.payment is not None:
            return _resume(till, existing_payment(till, wallet.payment))
        payment = _top_up_payment(till, wallet)
        if till.payments.write(payment, replace(wallet, payment=payment.id, revision=wallet.revision + 1)):
            return _charge(till, payment)
    raise _busy(f"wallet of {customer}")


def _top_up_payment(till: Till, wallet: Wallet) -> Payment:
    if wallet.top_up is None:
        raise ValueError(f"the wallet of {wallet.customer} has no rule for topping up")
    now, payer = till.clock(), till.payer(wallet.customer)
    outside = [name for name in till.providers if name != WALLET]
    return Payment(
        # A wallet that is in the same revision twice has never been charged for it.
        id=derived_id("pay", f"top_up#{wallet.customer}#{wallet.revision}"),
        customer=wallet.customer,
        subscription=None,
        invoice=None,
        amount=wallet.top_up.amount,
        currency=wallet.currency,
        provider=payer.provider if payer.provider != WALLET else next(iter(outside), "none"),
        account=payer.account,
        method=payer.method,
        key=till.new_key(),
        created_at=now,
        claimed_until=now + CLAIM,
    )


def ask(till: Till, payment_id: str) -> Payment:
    """Ask the provider what became of a pending payment, and settle it if that is certain; charges nothing.

    One that is still pending has a reference if the provider is at work on it, and none if it knows nothing of it.

    Raises:
        NotFound: there is no such payment.
        Conflict: another is at work on it now.
        TimeoutError, ConnectionError: it cannot be told.
    """
    payment = existing_payment(till, payment_id)
    if payment.status is not PaymentStatus.PENDING:
        return payment
    claimed = _claimed(till, payment)
    outcome = _asked(till, claimed, till.provider(claimed).find_charge)
    return _release(till, claimed) if outcome is None else _settle(till, claimed, outcome)


def _resume(till: Till, payment: Payment) -> Payment:
    """Go on with a payment that another began: ask what became of it, and charge it if nothing did."""
    if payment.status is not PaymentStatus.PENDING:
        return payment
    claimed = _claimed(till, payment)
    outcome = _asked(till, claimed, till.provider(claimed).find_charge)
    return _charge(till, claimed) if outcome is None else _settle(till, claimed, outcome)


def _charge(till: Till, payment: Payment) -> Payment:
    """Charge a payment that is ours, and settle it."""
    outcome = _asked(till, payment, till.provider(payment).charge)
    lacks_funds = isinstance(outcome, Decline) and outcome.kind is DeclineKind.FUNDS
    if lacks_funds and payment.provider == WALLET and _is_topped_up(till, payment.customer):
        outcome = _asked(till, payment, till.provider(payment).charge)
    return _settle(till, payment, outcome)


def _is_topped_up(till: Till, customer: str) -> bool:
    try:
        payment = top_up(till, customer, is_short=True)
    except (Conflict, TimeoutError, ConnectionError):  # what became of it is asked before the next one
        return False
    return payment is not None and payment.status is PaymentStatus.SUCCEEDED


def _asked(till: Till, payment: Payment, question: Callable[[Payment], _Answer]) -> _Answer:
    try:
        return question(payment)
    except (TimeoutError, ConnectionError):
        with suppress(Unavailable):  # then the claim ends by itself
            _release(till, payment)
        raise


def _claimed(till: Till, payment: Payment) -> Payment:
    claimed = claim(payment, till.clock())
    if not till.payments.write(claimed):
        raise _busy(f"payment {payment.id}")
    return claimed


def _release(till: Till, payment: Payment) -> Payment:
    free = released(payment)
    return free if till.payments.write(free) else existing_payment(till, payment.id)


def _settle(till: Till, payment: Payment, outcome: Outcome) -> Payment:
    """Write what became of a payment that is ours, with all that follows from it."""
    for _ in range(TRIES):
        changes = _changes(till, payment, outcome)
        if till.payments.write(*changes):
            return next(change for change in changes if isinstance(change, Payment))
        found = existing_payment(till, payment.id)
        if found.revision != payment.revision:  # our claim had ended, and another has taken it over
            return found
        if isinstance(outcome, Succeeded) and outcome.posting is not None:  # the wallet has changed meanwhile
            outcome = till.provider(payment).charge(payment)
    raise _busy(f"payment {payment.id}")


def _changes(till: Till, payment: Payment, outcome: Outcome) -> list[Change]:
    now = till.clock()
    match outcome:
        case Processing(reference):
            return [replace(released(payment), reference=reference)]
        case Decline():
            return [settle_failed(payment, outcome, now), _without_payment(till, payment)]
        case Succeeded(reference, posting):
            settled = settle_succeeded(payment, reference, now)
            if payment.invoice is None:
                return [settled, _deposit(till, payment)]
            invoice = existing_invoice(till, payment.invoice)
            reason = f"paid by {payment.provider}, payment {payment.id}"
            done = paid(invoice, at=now, actor=COLLECTOR, reason=reason)
            return [settled, done, *([posting] if posting else [])]


def _without_payment(till: Till, payment: Payment) -> Invoice | Wallet:
    """The invoice or wallet that a payment was for, free for the next one."""
    if payment.invoice is not None:
        invoice = existing_invoice(till, payment.invoice)
        return replace(invoice, payment=None, revision=invoice.revision + 1)
    wallet = _wallet(till, payment)
    return replace(wallet, payment=None, revision=wallet.revision + 1)


def _deposit(till: Till, payment: Payment) -> Posting:
    posting = post(
        _wallet(till, payment),
        customer=payment.customer,
        entry_id=payment.id,
        entry_type=EntryType.DEPOSIT,
        amount=payment.amount,
        currency=payment.currency,
        description="automatic top-up",
        overdraft=till.overdraft,
        at=till.clock(),
    )
    return replace(posting, after=replace(posting.after, payment=None))


def _wallet(till: Till, payment: Payment) -> Wallet:
    found = till.wallets.wallet(payment.customer)
    if found is None:
        raise NotFound(f"There is no wallet of {payment.customer}.")
    return found


def stop_top_up(till: Till, customer: str) -> None:
    """Top a wallet up no more, because that keeps failing; not while it is unknown whether the last one happened."""
    for _ in range(TRIES):
        wallet = till.wallets.wallet(customer)
        if wallet is None or wallet.top_up is None or wallet.payment is not None:
            return
        if till.payments.write(with_top_up(wallet, None)):
            return
    raise _busy(f"wallet of {customer}")


def void(till: Till, invoice_id: str, *, actor: str, reason: str) -> Invoice:
    """Withdraw an invoice: nothing is owed any more. One that is void already is left as it is.

    Raises:
        NotFound: there is no such invoice.
        Conflict: it is paid, or being paid.
    """
    invoice = _moved(till, invoice_id, InvoiceStatus.VOID, actor, reason)
    till.on_settled(invoice)
    return invoice


def write_off(till: Till, invoice_id: str, *, actor: str, reason: str) -> Invoice:
    """Give an invoice up: it is owed, and may be paid, but is tried no more. One that is so already is left as it is.

    Raises:
        NotFound: there is no such invoice.
        Conflict: it is paid, void, or being paid.
    """
    return _moved(till, invoice_id, InvoiceStatus.UNCOLLECTIBLE, actor, reason)


def _moved(till: Till, invoice_id: str, status: InvoiceStatus, actor: str, reason: str) -> Invoice:
    for _ in range(TRIES):
        invoice = existing_invoice(till, invoice_id)
        if invoice.status is status:
            return invoice
        after = move(invoice, status, at=till.clock(), actor=actor, reason=reason)
        if till.payments.write(after):
            return after
    raise _busy(f"invoice {invoice_id}")


def give_up(till: Till, invoice_id: str) -> None:
    """Have an invoice be past due, for its last try has failed.

    Not while the provider is still at work on it, nor one that asks for nothing.
    """
    invoice = existing_invoice(till, invoice_id)
    payment = till.payments.payment(invoice.payment) if invoice.payment else None
    is_owed = invoice.status in COLLECTIBLE and invoice.amount_due > 0
    if is_owed and (payment is None or payment.reference is None):
        till.on_past_due(invoice)


def invoice_payments(till: Till, invoice: Invoice) -> list[Payment]:
    """All payments of an invoice, in the order they were tried."""
    return till.payments.payments([payment_id(invoice.id, number) for number in range(1, invoice.attempts + 1)])


def _busy(what: str) -> Conflict:
    return Conflict(f"Others are changing the {what} now; send the request again.")

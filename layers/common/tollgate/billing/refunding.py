"""Refunds: some of a payment goes back the way it came, never more than was paid in sum, and never twice.

    begin     the refund is stored with its key, and counted in its payment: what is left is what others may have
    give      the provider is called; a wallet's payment goes back into the wallet
    settle    the refund, and what the wallet got, in one transaction; one that failed is counted no more

Each step may be the last of a process, as in collecting. The refund of a top-up takes the money out of the wallet
before it asks the provider, and puts it back if that fails.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from typing import TypeVar

from tollgate.billing.ledger import TRIES
from tollgate.billing.payments import (
    Decline,
    DeclineKind,
    Payment,
    PaymentStatus,
    Refund,
    claim_refund,
    refund_failed,
    refund_of,
    refund_succeeded,
)
from tollgate.billing.providers import Outcome, Processing, Succeeded
from tollgate.billing.till import Change, Till, existing_payment
from tollgate.billing.wallet import EntryType, Posting, post
from tollgate.kernel.errors import Conflict, NotFound, Unavailable

__all__ = ["abandon", "ask_refund", "begin_refund", "give"]

_Answer = TypeVar("_Answer")


def begin_refund(till: Till, payment_id: str, *, refund_id: str, amount: Decimal | None, reason: str) -> Refund:
    """Store a refund of a payment, of all that is left of it unless an amount is given.

    The same request again gives the refund it made.

    Raises:
        NotFound: there is no such payment.
        InvalidInput: the amount is no amount of money.
        Conflict: less is left, the payment has not succeeded, or the id belongs to another request.
        InsufficientFunds: it is of a top-up, and the wallet holds less by now.
    """
    for _ in range(TRIES):
        known = till.payments.refund(refund_id)
        if known is not None:
            asked_for = None if known.is_rest else known.amount
            if (known.payment, known.reason, asked_for) != (payment_id, reason, amount):
                raise Conflict(f"The refund {refund_id} was made by another request.")
            return known
        payment = existing_payment(till, payment_id)
        counted, refund = refund_of(
            payment, refund_id=refund_id, amount=amount, reason=reason, key=till.new_key(), at=till.clock()
        )
        taken = [] if payment.invoice else [_move(till, payment, refund, -refund.amount, "refund of a top-up")]
        if till.payments.write(refund, counted, *taken):
            return refund
    raise _busy(f"payment {payment_id}")


def give(till: Till, refund_id: str) -> Refund:
    """Have the provider give a refund, if it has not yet, which it is asked first.

    It is pending while the provider is still at work on it, or while it was declined and may be tried again.

    Raises:
        NotFound: there is no such refund.
        Conflict: another is at work on it now.
        TimeoutError: it is not known whether the money was given back.
        ConnectionError: the provider cannot be reached, and nothing was given back.
    """
    refund = _existing(till, refund_id)
    if refund.status is not PaymentStatus.PENDING:
        return refund
    payment = existing_payment(till, refund.payment)
    provider = till.provider(payment)
    ours = _claimed(till, refund)
    outcome = _asked(till, ours, lambda: provider.find_refund(payment, ours))
    if outcome is None:
        outcome = _asked(till, ours, lambda: provider.refund(payment, ours))
    return _settle(till, payment, ours, outcome)


def ask_refund(till: Till, refund_id: str) -> Refund:
    """Ask the provider what became of a pending refund, and settle it if that is certain; gives nothing.

    Raises:
        NotFound: there is no such refund.
        Conflict: another is at work on it now.
        TimeoutError, ConnectionError: it cannot be told.
    """
    refund = _existing(till, refund_id)
    if refund.status is not PaymentStatus.PENDING:
        return refund
    payment = existing_payment(till, refund.payment)
    ours = _claimed(till, refund)
    outcome = _asked(till, ours, lambda: till.provider(payment).find_refund(payment, ours))
    return _release(till, ours) if outcome is None else _settle(till, payment, ours, outcome)


def abandon(till: Till, refund_id: str) -> Refund:
    """Give up a pending refund that is known not to have happened: so much of the payment is left again.

    Raises:
        Conflict: another is at work on it now.
        TimeoutError, ConnectionError: it cannot be told whether it happened.
    """
    refund = ask_refund(till, refund_id)
    if refund.status is not PaymentStatus.PENDING or refund.reference is not None:
        return refund
    decline = refund.decline or Decline(DeclineKind.HARD, "abandoned", "It was given up after the last try.")
    return _failed(till, existing_payment(till, refund.payment), _claimed(till, refund), decline)


def _settle(till: Till, payment: Payment, refund: Refund, outcome: Outcome) -> Refund:
    """Write what became of a refund that is ours, with all that follows from it."""
    if isinstance(outcome, Decline):
        if outcome.kind is DeclineKind.HARD:
            return _failed(till, payment, refund, outcome)
        # It certainly did not happen; a provider answers the key of a refusal with the refusal.
        return _written(till, replace(_released(refund), decline=outcome, key=till.new_key()))
    if isinstance(outcome, Processing):
        return _written(till, replace(_released(refund), reference=outcome.reference))
    for _ in range(TRIES):
        assert isinstance(outcome, Succeeded)
        done = refund_succeeded(refund, outcome.reference, till.clock())
        if till.payments.write(done, *([outcome.posting] if outcome.posting else [])):
            return done
        found = _existing(till, refund.id)
        if found.revision != refund.revision or outcome.posting is None:
            return found  # our claim had ended, and another has taken it over
        outcome = till.provider(payment).refund(payment, refund)  # the wallet has changed meanwhile
    raise _busy(f"refund {refund.id}")


def _failed(till: Till, payment: Payment, refund: Refund, decline: Decline) -> Refund:
    for _ in range(TRIES):
        counted, failed = refund_failed(payment, refund, decline, till.clock())
        back: list[Change] = []
        if not payment.invoice:
            back.append(_move(till, payment, refund, refund.amount, "refund of a top-up, which failed"))
        if till.payments.write(failed, counted, *back):
            return failed
        found = _existing(till, refund.id)
        if found.revision != refund.revision:
            return found
        payment = existing_payment(till, payment.id)
    raise _busy(f"refund {refund.id}")


def _move(till: Till, payment: Payment, refund: Refund, amount: Decimal, description: str) -> Posting:
    return post(
        till.wallets.wallet(payment.customer),
        customer=payment.customer,
        entry_id=refund.id,
        entry_type=EntryType.ADJUSTMENT,
        amount=amount,
        currency=payment.currency,
        description=description,
        overdraft=till.overdraft,
        at=till.clock(),
    )


def _asked(till: Till, refund: Refund, question: Callable[[], _Answer]) -> _Answer:
    try:
        return question()
    except (TimeoutError, ConnectionError):
        with suppress(Unavailable):  # then the claim ends by itself
            _release(till, refund)
        raise


def _claimed(till: Till, refund: Refund) -> Refund:
    claimed = claim_refund(refund, till.clock())
    if not till.payments.write(claimed):
        raise _busy(f"refund {refund.id}")
    return claimed


def _released(refund: Refund) -> Refund:
    return replace(refund, claimed_until=None, revision=refund.revision + 1)


def _release(till: Till, refund: Refund) -> Refund:
    return _written(till, _released(refund))


def _written(till: Till, refund: Refund) -> Refund:
    return refund if till.payments.write(refund) else _existing(till, refund.id)


def _existing(till: Till, refund_id: str) -> Refund:
    found = till.payments.refund(refund_id)
    if found is None:
        raise NotFound(f"There is no refund {refund_id}.")
    return found


def _busy(what: str) -> Conflict:
    return Conflict(f"Others are changing the {what} now; send the request again.")

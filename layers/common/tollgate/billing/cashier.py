"""Moving money as operations of the error ledger: each is written down before it begins, and tried again if it fails.

    collect_invoice   {"invoice", "provider"}    pays an invoice
    refund_payment    {"refund", "provider"}     gives a refund
    top_up_wallet     {"customer", "provider"}   brings money into a wallet

What is declined for lack of funds is tried when there may be some, what was declined for now soon, and what no try will
help is a person's at once. Whatever is run again first asks the provider what became of it.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from functools import partial
from itertools import count
from typing import Any, Final

from tollgate.billing.collecting import ask, collect, give_up, stop_top_up, top_up, void, write_off
from tollgate.billing.invoices import COLLECTIBLE, Invoice, InvoiceStatus
from tollgate.billing.payments import Decline, DeclineKind, Payment, PaymentStatus, Refund, refund_of
from tollgate.billing.refunding import ask_refund, begin_refund, give
from tollgate.billing.till import Till, existing_invoice, existing_payment
from tollgate.billing.wallet import Wallet, top_up_due
from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import Conflict, InvalidInput, NotFound, PaymentFailed, TollgateError, Unavailable
from tollgate.kernel.ids import derived_id
from tollgate.kernel.money import format_amount
from tollgate.kernel.time import Clock
from tollgate.recovery.ledger import Filter, Recovery, Retries
from tollgate.recovery.model import UNRESOLVED, ErrorRecord, ErrorType, Outcome, Status
from tollgate.recovery.operations import Operation, OperationFailed
from tollgate.recovery.service import perform, resolve, retry

__all__ = ["COLLECT", "REFUND", "TOP_UP", "Cashier", "StillProcessing"]

COLLECT: Final = "collect_invoice"
REFUND: Final = "refund_payment"
TOP_UP: Final = "top_up_wallet"

_AT_ONCE: Final = 25
"""So many invoices that lack funds are collected when money is paid in; the others as their strategy says."""

_TYPES: Final = {
    DeclineKind.FUNDS: ErrorType.INSUFFICIENT_FUNDS,
    DeclineKind.HARD: ErrorType.PAYMENT_FAILED,
    DeclineKind.TRANSIENT: ErrorType.PAYMENT_FAILED,
}


class StillProcessing(Exception):
    """The provider has it and is not done, as with a bank debit, which takes days; it is asked again."""


@dataclass(frozen=True, slots=True)
class Cashier:
    """Moves money and leaves nothing half done.

    `time_left` says how long the present function may still run.
    """

    till: Till
    errors: Recovery
    clock: Clock
    time_left: Callable[[], timedelta]
    retries: Retries | None = None

    # What is asked for

    def collect(self, invoice: Invoice, *, actor: str = "system") -> None:
        """Have an open invoice paid for the first time; what fails is written down, and tried again."""
        self._collect(invoice, actor)

    def pay(self, invoice_id: str, *, actor: str) -> Invoice:
        """Have an invoice paid now, because somebody says so; the invoice as it is then.

        It is paid, or the provider is still at work on it.

        Raises:
            NotFound: there is no such invoice.
            Conflict: it cannot be paid, or another is at work on it now.
            PaymentFailed: it was declined.
            Unavailable: it is not known whether the customer was charged; that is asked before anything else is tried.
        """
        invoice = existing_invoice(self.till, invoice_id)
        if invoice.status is not InvoiceStatus.PAID and invoice.status not in COLLECTIBLE:
            raise Conflict(f"The invoice {invoice.id} is {invoice.status} and cannot be paid.")
        if invoice.status is InvoiceStatus.PAID:
            return invoice
        open_record = self._unresolved(COLLECT, invoice.id)
        if open_record is None:
            failed = self._collect(invoice, actor)
            try:
                return self._after(invoice_id, failed)
            except PaymentFailed:
                if invoice.status is InvoiceStatus.UNCOLLECTIBLE:
                    self._resolve(COLLECT, invoice_id, "the invoice stays given up", actor=actor)
                raise
        try:
            found, payment = collect(self.till, invoice_id)
        except (TimeoutError, ConnectionError):
            raise _unknown() from None
        if found.status is InvoiceStatus.PAID:
            self._resolve(COLLECT, invoice_id, "paid by hand", actor=actor)
        self._top_up_after(found, actor)
        if found.status is not InvoiceStatus.PAID and payment is not None and payment.decline is not None:
            if open_record.status is Status.MANUAL:  # no automatic try follows
                give_up(self.till, invoice_id)
            raise PaymentFailed(f"{payment.decline.message} The error record is {open_record.id}.")
        return found

    def void(self, invoice_id: str, *, actor: str, reason: str) -> Invoice:
        """Withdraw an invoice: nothing is owed any more, and nothing is left to collect.

        Raises:
            NotFound: there is no such invoice.
            Conflict: it is paid, or being paid.
        """
        invoice = void(self.till, invoice_id, actor=actor, reason=reason)
        self._resolve(COLLECT, invoice_id, "the invoice was withdrawn", actor=actor)
        return invoice

    def write_off(self, invoice_id: str, *, actor: str, reason: str) -> Invoice:
        """Give an invoice up: it is tried no more by itself, and can still be paid by hand.

        Raises:
            NotFound: there is no such invoice.
            Conflict: it is paid, void, or being paid.
        """
        invoice = write_off(self.till, invoice_id, actor=actor, reason=reason)
        record = self._unresolved(COLLECT, invoice_id)
        if record is not None:
            resolve(self.errors, record.id, actor=actor, note="the invoice was given up", clock=self.clock)
        return invoice

    def refund(self, payment_id: str, *, refund_id: str, amount: Decimal | None, reason: str, actor: str) -> Refund:
        """Give some of a payment back, or all that is left; the refund, which is pending while it is tried again.

        Raises:
            NotFound: there is no such payment.
            InvalidInput: the amount is no amount of money.
            Conflict: less is left, the payment has not succeeded, or the id belongs to another request.
            Unavailable: it is not known whether the refund was begun; the same request may be made again.
        """
        payment = existing_payment(self.till, payment_id)
        begin = partial(begin_refund, self.till, payment_id, refund_id=refund_id, amount=amount, reason=reason)
        if self.till.payments.refund(refund_id) is None:  # what is refused is not written down
            wanted = refund_of(payment, refund_id=refund_id, amount=amount, reason=reason, key="", at=self.clock())[1]
        else:
            wanted = begin()
            if wanted.status is not PaymentStatus.PENDING:
                return wanted
        refused: list[TollgateError] = []

        def begin_and_give(arguments: Mapping[str, Any], key: str) -> None:
            try:
                begin()
            except (NotFound, InvalidInput, Conflict) as error:  # others were first: nothing is begun
                refused.append(error)
            else:
                self._run_refund(arguments, key)

        self._perform(
            REFUND,
            {"refund": refund_id, "provider": payment.provider},
            refund_id,
            ErrorType.REFUND_ERROR,
            customer=payment.customer,
            subscription=payment.subscription,
            context={
                "payment": payment.id,
                "amount": format_amount(wanted.amount, wanted.currency),
                "currency": wanted.currency,
            },
            actor=actor,
            run=begin_and_give,
        )
        if refused:
            raise refused[0]
        made = self.till.payments.refund(refund_id)
        if made is None:
            raise Unavailable(f"It is not known yet whether the refund {refund_id} was begun; send the request again.")
        return made

    def balance_changed(self, customer: str, *, actor: str) -> None:
        """Top a wallet up if its balance is below the threshold; what fails is written down, and tried again."""
        wallet = self.till.wallets.wallet(customer)
        if wallet is not None:
            self._top_up_if_due(wallet, actor)

    def deposited(self, customer: str, *, actor: str) -> None:
        """Have the invoices collected now that were declined for lack of funds; there may be some."""
        for status in (Status.PENDING, Status.MANUAL):
            wanted = Filter(status=status, type=ErrorType.INSUFFICIENT_FUNDS, customer=customer)
            found, _ = self.errors.find(wanted, after=None, limit=_AT_ONCE)
            for record in reversed(found):
                if record.operation == COLLECT:
                    with suppress(Conflict):  # a run is trying it now
                        retry(
                            self.errors,
                            record.id,
                            actor=actor,
                            note="money was paid in",
                            clock=self.clock,
                            retries=self.retries,
                        )

    def settle(self, payment_id: str) -> Payment:
        """Ask the provider what became of a payment, because it said that there is news; what follows from it.

        Raises:
            NotFound: there is no such payment.
            Conflict: another is at work on it now.
            TimeoutError, ConnectionError: it cannot be told.
        """
        payment = ask(self.till, payment_id)
        is_paid = payment.status is PaymentStatus.SUCCEEDED
        if is_paid and payment.invoice is not None:
            self.till.on_settled(existing_invoice(self.till, payment.invoice))
            self._resolve(COLLECT, payment.invoice, "the provider says it is paid")
        elif is_paid and self._unresolved(TOP_UP, payment.customer) is not None:  # it was long under way
            self.deposited(payment.customer, actor="system")
            self._resolve(TOP_UP, payment.customer, "the provider says it is paid")
        elif payment.status is PaymentStatus.FAILED and payment.invoice is not None:
            record = self._unresolved(COLLECT, payment.invoice)
            if record is not None and record.status is Status.MANUAL:  # the tries ended while it was under way
                give_up(self.till, payment.invoice)
        return payment

    def settle_refund(self, refund_id: str) -> Refund:
        """The same of a refund.

        Raises:
            NotFound: there is no such refund.
            Conflict: another is at work on it now.
            TimeoutError, ConnectionError: it cannot be told.
        """
        refund = ask_refund(self.till, refund_id)
        if refund.status is PaymentStatus.SUCCEEDED:
            self._resolve(REFUND, refund_id, "the provider says it is given")
        return refund

    # Operations

    def operations(self) -> list[Operation]:
        """What recovery may try again."""
        return [
            Operation(
                COLLECT,
                self._run_collect,
                lambda arguments: str(arguments["invoice"]),
                self._is_collected,
                provider=_provider,
                exhausted=lambda arguments, _: give_up(self.till, arguments["invoice"]),
            ),
            Operation(
                REFUND,
                self._run_refund,
                lambda arguments: str(arguments["refund"]),
                self._is_refunded,
                provider=_provider,
            ),
            Operation(
                TOP_UP,
                self._run_top_up,
                lambda arguments: str(arguments["customer"]),
                self._is_topped_up,
                provider=_provider,
                exhausted=lambda arguments, _: stop_top_up(self.till, arguments["customer"]),
            ),
        ]

    def _run_collect(self, arguments: Mapping[str, Any], _: str) -> None:
        if existing_invoice(self.till, arguments["invoice"]).status is InvoiceStatus.VOID:
            return  # nothing is owed any more
        invoice, payment = collect(self.till, arguments["invoice"])
        self._top_up_after(invoice, "system")
        if invoice.status is not InvoiceStatus.PAID and payment is not None:
            _raise(payment.decline, payment.id)

    def _is_collected(self, arguments: Mapping[str, Any], _: str) -> bool | None:
        invoice = existing_invoice(self.till, arguments["invoice"])
        if invoice.payment is not None:
            payment = ask(self.till, invoice.payment)
            if payment.status is not PaymentStatus.SUCCEEDED:
                return _is_done(payment)
            invoice = existing_invoice(self.till, invoice.id)
        if invoice.status not in {InvoiceStatus.PAID, InvoiceStatus.VOID}:
            return False
        self.till.on_settled(invoice)  # whoever settled it may have ended before they told
        self._top_up_after(invoice, "system")
        return True

    def _run_refund(self, arguments: Mapping[str, Any], _: str) -> None:
        try:
            refund = give(self.till, arguments["refund"])
        except NotFound:
            return  # it was never begun, and whoever asked for it has had no answer
        if refund.status is PaymentStatus.SUCCEEDED:
            return
        if refund.status is PaymentStatus.PENDING and refund.reference is not None:
            raise StillProcessing(f"the provider is still at work on refund {refund.id}")
        message = refund.decline.message if refund.decline else "it was not given"
        raise OperationFailed(message, type=ErrorType.REFUND_ERROR, final=refund.status is PaymentStatus.FAILED)

    def _is_refunded(self, arguments: Mapping[str, Any], _: str) -> bool | None:
        try:
            return _is_done(ask_refund(self.till, arguments["refund"]))
        except NotFound:
            return False

    def _run_top_up(self, arguments: Mapping[str, Any], _: str) -> None:
        payment = top_up(self.till, arguments["customer"])
        if payment is not None and payment.status is not PaymentStatus.SUCCEEDED:
            _raise(payment.decline, payment.id)

    def _is_topped_up(self, arguments: Mapping[str, Any], _: str) -> bool | None:
        wallet = self.till.wallets.wallet(arguments["customer"])
        if wallet is None or wallet.payment is None:
            return wallet is None or not top_up_due(wallet)
        return _is_done(ask(self.till, wallet.payment))

    # How each is performed

    def _collect(self, invoice: Invoice, actor: str) -> ErrorRecord | None:
        return self._perform(
            COLLECT,
            {"invoice": invoice.id, "provider": self.till.payer(invoice.customer).provider},
            invoice.id,
            ErrorType.PAYMENT_FAILED,
            customer=invoice.customer,
            subscription=invoice.subscription,
            context={
                "invoice": invoice.id,
                "number": invoice.number,
                "amount": format_amount(invoice.amount_due, invoice.currency),
                "currency": invoice.currency,
            },
            actor=actor,
        )

    def _top_up_after(self, invoice: Invoice, actor: str) -> None:
        """Top up what an invoice has left too little in; of one that is not paid, only end what was begun for it."""
        wallet = self.till.wallets.wallet(invoice.customer)
        if wallet is not None and (invoice.status is InvoiceStatus.PAID or wallet.payment is not None):
            self._top_up_if_due(wallet, actor)

    def _top_up_if_due(self, wallet: Wallet, actor: str) -> None:
        if not top_up_due(wallet):
            return
        outside = next((name for name in self.till.providers if name != "wallet"), "none")
        self._perform(
            TOP_UP,
            {"customer": wallet.customer, "provider": outside},
            wallet.customer,
            ErrorType.PAYMENT_FAILED,
            customer=wallet.customer,
            subscription=None,
            context={"balance": format_amount(wallet.balance, wallet.currency), "currency": wallet.currency},
            actor=actor,
        )

    def _perform(
        self,
        name: str,
        arguments: Mapping[str, Any],
        subject: str,
        error_type: ErrorType,
        *,
        customer: str,
        subscription: str | None,
        context: Mapping[str, Any],
        actor: str,
        run: Callable[[Mapping[str, Any], str], object] | None = None,
    ) -> ErrorRecord | None:
        [operation] = [one for one in self.operations() if one.name == name]
        return perform(
            self.errors,
            replace(operation, run=run or operation.run),
            arguments,
            id=self._record_id(name, subject),
            error_type=error_type,
            customer=customer,
            subscription=subscription,
            context=context,
            clock=self.clock,
            time_left=self.time_left,
            actor=actor,
            retries=self.retries,
        )

    def _record_id(self, name: str, subject: str) -> str:
        """The id of the record that an operation on a subject has, or would have: one that is done is left alone."""
        for number in count(1):
            record_id = derived_id("err", f"{name}#{subject}#{number}")
            record = self.errors.get(record_id)
            if record is None or record.status in UNRESOLVED:
                return record_id
        raise AssertionError("numbers do not end")

    def _unresolved(self, name: str, subject: str) -> ErrorRecord | None:
        return self.errors.get(self._record_id(name, subject))

    def _resolve(self, name: str, subject: str, note: str, *, actor: str = "system") -> None:
        """Say of what failed that it is done after all; one that a run is trying now is found so by the run."""
        record = self._unresolved(name, subject)
        if record is not None:
            with suppress(Conflict):
                resolve(self.errors, record.id, actor=actor, note=note, clock=self.clock)

    def _after(self, invoice_id: str, failed: ErrorRecord | None) -> Invoice:
        """The invoice after a collection by hand, which says what went wrong."""
        invoice = existing_invoice(self.till, invoice_id)
        if invoice.status is InvoiceStatus.PAID:
            return invoice
        if invoice.status not in COLLECTIBLE:
            raise Conflict(f"The invoice {invoice.id} has become {invoice.status} meanwhile.")
        payment = self.till.payments.payment(invoice.payment) if invoice.payment else None
        if failed is None or (payment is not None and payment.reference is not None):
            return invoice  # the provider is at work on it
        if failed.outcome is None:
            raise Conflict(f"Another is collecting the invoice {invoice.id} now; send the request again in a minute.")
        if failed.outcome is Outcome.UNKNOWN or payment is not None:
            raise _unknown()
        raise PaymentFailed(f"{failed.error} The error record is {failed.id}.")


def _provider(arguments: Mapping[str, Any]) -> str:
    return str(arguments["provider"])


def _is_done(what: Payment | Refund) -> bool | None:
    if what.status is PaymentStatus.PENDING:
        return None if what.reference is not None else False
    return what.status is PaymentStatus.SUCCEEDED


def _raise(decline: Decline | None, payment_id: str) -> None:
    if decline is None:
        raise StillProcessing(f"the provider is still at work on payment {payment_id}")
    raise OperationFailed(decline.message, type=_TYPES[decline.kind], final=decline.kind is DeclineKind.HARD)


def _unknown() -> Unavailable:
    return Unavailable("It is not known yet whether the customer was charged; that is asked before another try.")

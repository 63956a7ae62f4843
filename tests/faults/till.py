"""A seller with a wallet for each customer, a bank that charges cards, and invoices to be paid."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import chain, count
from typing import Final, TypeVar

from tollgate.billing.collecting import collect, invoice_payments
from tollgate.billing.invoice_store import DynamoInvoices
from tollgate.billing.invoices import Invoice, InvoiceStatus, invoice_number, move
from tollgate.billing.ledger import enter
from tollgate.billing.payment_store import DynamoPayments
from tollgate.billing.payments import CLAIM, Decline, DeclineKind, Payer, Payment, Refund
from tollgate.billing.providers import Outcome, Processing, Succeeded, WalletProvider
from tollgate.billing.refunding import begin_refund, give
from tollgate.billing.till import Till
from tollgate.billing.wallet import EntryType
from tollgate.billing.wallet_store import DynamoWallets
from tollgate.catalog.periods import Period

__all__ = ["DECLINED", "LACKING", "START", "Bank", "Seller"]

D = Decimal
START: Final = datetime(2026, 3, 15, 12, tzinfo=UTC)
_MARCH: Final = Period(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))
DECLINED: Final = Decline(DeclineKind.HARD, "stolen_card", "The card was declined.")
LACKING: Final = Decline(DeclineKind.FUNDS, "insufficient_funds", "The card has no funds.")

Hook = Callable[[], None]
_Answer = TypeVar("_Answer")


def _nothing() -> None:
    return None


@dataclass
class Bank:
    """A provider that knows no keys: whatever it is told twice, it does twice.

    `before` and `after` are called around each call and may end the process or lose the answer. `answer` is what the
    next calls end in; None is success.
    """

    answer: Decline | None = None
    is_slow: bool = False
    before: Hook = _nothing
    after: Hook = _nothing
    charged: dict[str, list[Decimal]] = field(default_factory=dict)
    refunded: dict[str, list[Decimal]] = field(default_factory=dict)
    working: set[str] = field(default_factory=set)
    declined: dict[str, Decline] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)

    def charge(self, payment: Payment) -> Outcome:
        """Charge a card."""
        return self._call("charge", lambda: self._do(self.charged, payment.key, payment.amount))

    def find_charge(self, payment: Payment) -> Outcome | None:
        """What is known of a charge."""
        return self._call("find_charge", lambda: self._found(self.charged, payment.key))

    def refund(self, payment: Payment, refund: Refund) -> Outcome:
        """Give back."""
        assert payment.reference is not None
        return self._call("refund", lambda: self._do(self.refunded, refund.key, refund.amount))

    def find_refund(self, payment: Payment, refund: Refund) -> Outcome | None:
        """What is known of a refund."""
        assert payment.reference is not None
        return self._call("find_refund", lambda: self._found(self.refunded, refund.key))

    def _call(self, name: str, work: Callable[[], _Answer]) -> _Answer:
        self.calls[name] += 1
        self.before()
        answer = work()
        self.after()
        return answer

    def _do(self, done: dict[str, list[Decimal]], key: str, amount: Decimal) -> Outcome:
        if self.answer is not None:
            self.declined[key] = self.answer
            return self.answer
        if self.is_slow:
            self.working.add(key)
            return Processing(f"bank-{key}")
        done.setdefault(key, []).append(amount)
        return Succeeded(f"bank-{key}")

    def _found(self, done: dict[str, list[Decimal]], key: str) -> Outcome | None:
        if key in done:
            return Succeeded(f"bank-{key}")
        if key in self.working:
            return Processing(f"bank-{key}")
        return self.declined.get(key)

    @property
    def total(self) -> Decimal:
        """All that was charged, less what was given back."""
        return sum(chain(*self.charged.values()), D(0)) - sum(chain(*self.refunded.values()), D(0))


class Seller:
    """The stores of the deployment and what its functions do; time passes when it is told to."""

    def __init__(self, overdraft: str = "0") -> None:
        self.now = START
        self.bank = Bank()
        self.settled: list[str] = []
        self.late: list[str] = []
        self._keys = count(1)
        wallets = DynamoWallets()
        self.till = Till(
            invoices=DynamoInvoices(),
            payments=DynamoPayments(),
            wallets=wallets,
            providers={
                "wallet": WalletProvider(wallets, overdraft=D(overdraft), clock=self.clock),
                "bank": self.bank,
            },
            clock=self.clock,
            overdraft=D(overdraft),
            new_key=lambda: f"key-{next(self._keys)}",
            on_settled=lambda invoice: self.settled.append(invoice.id),
            on_past_due=self._fall_due,
        )

    def clock(self) -> datetime:
        """The present."""
        return self.now

    def _fall_due(self, invoice: Invoice) -> None:
        self.late.append(invoice.id)
        if invoice.status is InvoiceStatus.OPEN:
            self.till.payments.write(move(invoice, InvoiceStatus.PAST_DUE, at=self.now, actor="test", reason="failed"))

    def wait(self, time: timedelta = CLAIM) -> None:
        """Let time pass, so that the claim of whoever died is over."""
        self.now += time

    def invoice(self, name: str, total: str, customer: str = "ada", currency: str = "EUR") -> Invoice:
        """An open invoice, written if it is not there."""
        known = self.till.invoices.get(name)
        if known is not None:
            return known
        made = Invoice(
            id=name,
            customer=customer,
            subscription=f"sub-{customer}",
            plan="plan",
            plan_version=1,
            period=_MARCH,
            currency=currency,
            lines=(),
            total=D(total),
            created_at=self.now,
            status=InvoiceStatus.OPEN,
            number=invoice_number(1),
            opened_at=self.now,
        )
        self.till.payments.write(made)
        return made

    def deposit(self, name: str, amount: str, customer: str = "ada") -> None:
        """Put money into a wallet."""
        enter(
            self.till.wallets,
            customer=customer,
            entry_id=name,
            entry_type=EntryType.DEPOSIT if D(amount) > 0 else EntryType.ADJUSTMENT,
            amount=D(amount),
            currency="EUR",
            description="",
            overdraft=self.till.overdraft,
            clock=self.clock,
        )

    def pay_by_bank(self, customer: str = "ada") -> None:
        """Have a customer pay by card."""
        self.till.payments.save_payer(Payer(customer, "bank", "account-1"))

    def collect(self, invoice_id: str) -> Payment:
        """Have an invoice paid; its last payment."""
        invoice, _ = collect(self.till, invoice_id)
        return invoice_payments(self.till, invoice)[-1]

    def refund(self, payment_id: str, name: str, amount: str | None = None, reason: str = "") -> Refund:
        """Give some of a payment back."""
        refund = begin_refund(
            self.till, payment_id, refund_id=name, amount=D(amount) if amount else None, reason=reason
        )
        return give(self.till, refund.id)

    def balance(self, customer: str = "ada") -> Decimal:
        """What a wallet holds, which is the sum of its ledger."""
        wallet = self.till.wallets.wallet(customer)
        entries, _ = self.till.wallets.entries(customer, 0, 10_000)
        total = sum((entry.amount for entry in entries), D(0))
        assert (wallet.balance if wallet else 0) == total
        assert [entry.number for entry in entries] == list(range(1, len(entries) + 1))
        return total

    def status(self, invoice_id: str) -> str:
        """Where an invoice stands."""
        found = self.till.invoices.get(invoice_id)
        assert found is not None
        return found.status.value

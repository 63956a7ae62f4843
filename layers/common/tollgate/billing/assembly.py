"""Billing put together, as the function that bills and the one that tries again need it: the same parts in both."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from tollgate.billing.cashier import Cashier
from tollgate.billing.invoice_store import DynamoInvoices
from tollgate.billing.invoices import Invoice
from tollgate.billing.payment_store import DynamoPayments
from tollgate.billing.providers import WALLET, PaymentProvider, WalletProvider
from tollgate.billing.run import Billing, fall_due, recovered
from tollgate.billing.stripe_provider import STRIPE, StripeProvider
from tollgate.billing.till import Till
from tollgate.billing.wallet_store import DynamoWallets
from tollgate.catalog.store import DynamoCatalog, standing_write
from tollgate.kernel.dynamodb import write_all
from tollgate.kernel.money import ZERO, parse_decimal
from tollgate.kernel.time import Clock, system_clock
from tollgate.metering.store import DynamoCounters
from tollgate.recovery.ledger import Recovery, Retries

__all__ = ["Desk", "assemble", "deployed_overdraft", "deployed_providers"]


@dataclass(frozen=True, slots=True)
class Desk:
    """What bills, and what moves the money."""

    billing: Billing
    cashier: Cashier
    till: Till
    invoices: DynamoInvoices


def assemble(
    *,
    catalog: DynamoCatalog,
    counters: DynamoCounters,
    errors: Recovery,
    time_left: Callable[[], timedelta],
    retries: Retries | None = None,
    providers: dict[str, PaymentProvider] | None = None,
    overdraft: Decimal = ZERO,
    clock: Clock = system_clock,
) -> Desk:
    """All parts of billing over the tables of the deployment.

    Args:
        catalog: the subscriptions.
        counters: their usage, and the gates that see what becomes of them.
        errors: where what fails is written down.
        time_left: how long the present function may still run.
        retries: where immediate tries wait.
        providers: who charges besides the wallet, by name.
        overdraft: how far below 0 a wallet may go.
        clock: the present.
    """
    invoices, wallets = DynamoInvoices(), DynamoWallets()
    wallet = WalletProvider(wallets, overdraft=overdraft, clock=clock)

    def settled(invoice: Invoice) -> None:
        recovered(billing, invoice.subscription)

    def past_due(invoice: Invoice) -> None:
        fall_due(billing, invoice.id, reason="it could not be collected")

    till = Till(
        invoices=invoices,
        payments=DynamoPayments(),
        wallets=wallets,
        providers={WALLET: wallet, **(providers or {})},
        clock=clock,
        overdraft=overdraft,
        on_settled=settled,
        on_past_due=past_due,
    )
    cashier = Cashier(till, errors, clock, time_left, retries)
    billing = Billing(
        lives=catalog,
        invoices=invoices,
        counters=counters,
        gates=counters,
        standing_write=standing_write,
        write_all=write_all,
        collect=cashier.collect,
        clock=clock,
    )
    return Desk(billing, cashier, till, invoices)


def deployed_providers() -> dict[str, PaymentProvider]:
    """Who charges besides the wallet, as the template's parameters say: Stripe, where its key is given."""
    key = os.environ.get("STRIPE_SECRET_KEY")
    return {STRIPE: StripeProvider(key)} if key else {}


def deployed_overdraft() -> Decimal:
    """How far below 0 a wallet may go, as the template's parameter says.

    Raises:
        RuntimeError: that is no amount.
    """
    text = os.environ.get("WALLET_OVERDRAFT") or "0"
    try:
        overdraft = parse_decimal(text)
    except ValueError as error:
        raise RuntimeError(f"the parameter WalletOverdraft cannot be used: it {error}") from None
    if overdraft < 0:
        raise RuntimeError("the parameter WalletOverdraft cannot be used: it must not be negative")
    return overdraft

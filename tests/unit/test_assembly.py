"""What the template's parameters say of money."""

from decimal import Decimal

import pytest

from tollgate.billing.assembly import deployed_overdraft, deployed_providers
from tollgate.billing.stripe_provider import StripeProvider


@pytest.mark.parametrize(("text", "overdraft"), [("", "0"), ("0", "0"), ("25", "25"), ("0.50", "0.50")])
def test_the_overdraft_is_what_the_parameter_says(monkeypatch: pytest.MonkeyPatch, text: str, overdraft: str) -> None:
    """None, where it says nothing."""
    monkeypatch.setenv("WALLET_OVERDRAFT", text)
    assert deployed_overdraft() == Decimal(overdraft)


@pytest.mark.parametrize("text", ["-1", "1e3", "much", "NaN"])
def test_an_overdraft_that_is_no_amount_stops_the_function(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """At its start, and not when somebody pays."""
    monkeypatch.setenv("WALLET_OVERDRAFT", text)
    with pytest.raises(RuntimeError, match="WalletOverdraft"):
        deployed_overdraft()


def test_stripe_charges_where_its_key_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is not there otherwise."""
    monkeypatch.setenv("STRIPE_SECRET_KEY", "")
    assert deployed_providers() == {}
    monkeypatch.setenv("STRIPE_SECRET_KEY", "sk_test_1")
    [(name, provider)] = deployed_providers().items()
    assert name == "stripe"
    assert isinstance(provider, StripeProvider)

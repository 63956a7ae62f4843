"""Wallets: what may be entered, and that the balance is the sum of the ledger. On memory, and the same on moto."""

from collections.abc import Iterator
from decimal import Decimal

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from tests.conftest import create_tables
from tests.unit.fakes_billing import NOW, MemoryWallets
from tollgate.billing.ledger import Wallets, enter, set_top_up
from tollgate.billing.wallet import Entry, EntryType, InsufficientFunds, TopUp, Wallet, top_up_due
from tollgate.billing.wallet_store import DynamoWallets
from tollgate.kernel.errors import Conflict, InvalidInput

D = Decimal


@pytest.fixture(params=["memory", "moto"])
def wallets(request: pytest.FixtureRequest) -> Iterator[Wallets]:
    """An empty store."""
    if request.param == "memory":
        yield MemoryWallets()
        return
    with mock_aws():
        create_tables(boto3.client("dynamodb"))
        yield DynamoWallets()


def put_in(
    wallets: Wallets,
    name: str,
    amount: str,
    kind: EntryType = EntryType.DEPOSIT,
    *,
    currency: str = "EUR",
    overdraft: str = "0",
    description: str = "",
) -> Entry:
    """An entry in ada's wallet."""
    return enter(
        wallets,
        customer="ada",
        entry_id=name,
        entry_type=kind,
        amount=D(amount),
        currency=currency,
        description=description,
        overdraft=D(overdraft),
        clock=lambda: NOW,
    )


def test_a_deposit_opens_a_wallet_and_says_the_balance_after_it(wallets: Wallets) -> None:
    """In the currency of the first."""
    assert wallets.wallet("ada") is None
    assert put_in(wallets, "d-1", "10.00").balance_after == D("10.00")
    assert put_in(wallets, "d-2", "2.50").balance_after == D("12.50")
    found = wallets.wallet("ada")
    assert found is not None
    assert (found.balance, found.currency, found.entries) == (D("12.50"), "EUR", 2)


def test_the_same_request_again_is_the_entry_it_made(wallets: Wallets) -> None:
    """However often, and whatever came between."""
    first = put_in(wallets, "d-1", "10.00", description="by bank")
    put_in(wallets, "d-2", "1.00")
    assert put_in(wallets, "d-1", "10.00", description="by bank") == first
    assert [entry.id for entry in wallets.entries("ada", 0, 10)[0]] == ["d-1", "d-2"]


@pytest.mark.parametrize(
    ("amount", "kind", "description"),
    [
        ("10.01", EntryType.DEPOSIT, ""),
        ("10.00", EntryType.ADJUSTMENT, ""),
        ("10.00", EntryType.DEPOSIT, "other words"),
    ],
)
def test_an_id_with_another_body_is_refused_and_changes_nothing(
    wallets: Wallets, amount: str, kind: EntryType, description: str
) -> None:
    """An id names one request for ever."""
    put_in(wallets, "d-1", "10.00")
    with pytest.raises(Conflict, match="another request"):
        put_in(wallets, "d-1", amount, kind, description=description)
    assert wallets.wallet("ada") == Wallet("ada", "EUR", D("10.00"), 1, revision=1)


def test_an_adjustment_may_not_take_more_than_there_is(wallets: Wallets) -> None:
    """To the last cent, and no further."""
    put_in(wallets, "d-1", "10.00")
    with pytest.raises(InsufficientFunds, match=r"holds 10.00 EUR"):
        put_in(wallets, "a-1", "-10.01", EntryType.ADJUSTMENT)
    assert put_in(wallets, "a-2", "-10.00", EntryType.ADJUSTMENT).balance_after == 0


def test_an_overdraft_that_the_deployment_allows_may_be_used_up(wallets: Wallets) -> None:
    """By a wallet that never held anything, too."""
    assert put_in(wallets, "a-1", "-5.00", EntryType.ADJUSTMENT, overdraft="5").balance_after == D(-5)
    with pytest.raises(InsufficientFunds):
        put_in(wallets, "a-2", "-0.01", EntryType.ADJUSTMENT, overdraft="5")


def test_money_may_be_put_in_while_the_balance_is_below_what_is_allowed_now(wallets: Wallets) -> None:
    """An overdraft that was lowered locks nobody out."""
    put_in(wallets, "a-1", "-5.00", EntryType.ADJUSTMENT, overdraft="5")
    assert put_in(wallets, "d-1", "2.00").balance_after == D(-3)


@pytest.mark.parametrize(
    ("amount", "kind", "currency", "fault"),
    [
        ("0", EntryType.DEPOSIT, "EUR", "must not be 0"),
        ("-1", EntryType.DEPOSIT, "EUR", "greater than 0"),
        ("0", EntryType.ADJUSTMENT, "EUR", "must not be 0"),
        ("1.001", EntryType.DEPOSIT, "EUR", "more digits"),
        ("1.5", EntryType.DEPOSIT, "JPY", "more digits"),
        ("1000000000000000", EntryType.DEPOSIT, "EUR", "at most 15 digits"),
    ],
)
def test_an_amount_that_cannot_be_money_is_refused(
    wallets: Wallets, amount: str, kind: EntryType, currency: str, fault: str
) -> None:
    """With a pointer to it."""
    with pytest.raises(InvalidInput, match=fault) as refused:
        put_in(wallets, "d-1", amount, kind, currency=currency)
    assert {error.pointer for error in refused.value.errors} == {"/amount"}
    assert wallets.wallet("ada") is None


def test_a_wallet_has_one_currency(wallets: Wallets) -> None:
    """That of its first entry."""
    put_in(wallets, "d-1", "10.00")
    with pytest.raises(InvalidInput, match="is in EUR"):
        put_in(wallets, "d-2", "10.00", currency="USD")


def test_the_ledger_is_read_page_by_page_in_its_order(wallets: Wallets) -> None:
    """Each page goes on after the last entry of the one before."""
    for number in range(1, 8):
        put_in(wallets, f"d-{number}", f"{number}.00")
    seen: list[int] = []
    after: int | None = 0
    while after is not None:
        page, after = wallets.entries("ada", after, 3)
        seen += [entry.number for entry in page]
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    assert wallets.entries("bob", 0, 3) == ([], None)


def test_a_top_up_is_due_while_the_balance_is_below_its_threshold(wallets: Wallets) -> None:
    """And no more when the rule is taken away."""
    put_in(wallets, "d-1", "10.00")
    rule = TopUp(D("10.00"), D("50.00"))
    wallet = set_top_up(wallets, "ada", rule, "EUR")
    assert wallet is not None
    assert wallet.top_up == rule
    assert not top_up_due(wallet)
    put_in(wallets, "a-1", "-0.01", EntryType.ADJUSTMENT)
    low = wallets.wallet("ada")
    assert low is not None
    assert top_up_due(low)
    without = set_top_up(wallets, "ada", None, None)
    assert without is not None
    assert not top_up_due(without)
    assert set_top_up(wallets, "bob", None, None) is None


@pytest.mark.parametrize(
    ("threshold", "amount", "currency", "pointer"),
    [
        ("10", "0", "EUR", "/amount"),
        ("10", "-5", "EUR", "/amount"),
        ("-1", "5", "EUR", "/threshold"),
        ("0.001", "5", "EUR", "/threshold"),
        ("10", "5", None, "/currency"),
        ("10", "5", "USD", "/currency"),
    ],
)
def test_a_rule_that_cannot_be_followed_is_refused(
    wallets: Wallets, threshold: str, amount: str, currency: str | None, pointer: str
) -> None:
    """With a pointer to what is wrong."""
    put_in(wallets, "d-1", "10.00")
    with pytest.raises(InvalidInput) as refused:
        set_top_up(wallets, "ada", TopUp(D(threshold), D(amount)), currency)
    assert {error.pointer for error in refused.value.errors} == {pointer}


@given(
    st.lists(st.tuples(st.integers(1, 12), st.decimals("-60", "60", places=2)), max_size=40),
    st.sampled_from(["0", "25"]),
)
def test_the_balance_is_the_sum_of_the_ledger_and_never_below_the_overdraft(
    requests: list[tuple[int, Decimal]], overdraft: str
) -> None:
    """Whatever is asked for, repeated ids and refused requests included."""
    wallets, total = MemoryWallets(), D(0)
    for name, amount in requests:
        kind = EntryType.DEPOSIT if amount > 0 else EntryType.ADJUSTMENT
        try:
            entry = put_in(wallets, f"e-{name}", str(amount), kind, overdraft=overdraft)
        except (Conflict, InvalidInput):
            entry = None
        entries, _ = wallets.entries("ada", 0, 100)
        balance = wallets.kept["ada"].balance if entries else D(0)
        total = sum((one.amount for one in entries), D(0))
        assert balance == total >= -D(overdraft)
        assert entry is None or entry in entries
        if entries:
            assert entries[-1].balance_after == balance

"""What an event is known by, and what tells it from another one with the same id."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tollgate.metering.model import Event, Scope, identify, microseconds

NOON = datetime(2026, 1, 20, 12, tzinfo=UTC)
EVENT = Event("e1", "/gateway", "ada", "calls", Decimal("1.5"), NOON, {"region": "eu", "n": 1})
MOST = Decimal("99999999999999999999.999999999999999999")


@pytest.mark.parametrize(
    "change",
    [
        {"quantity": Decimal("1.500000000000000001")},
        {"quantity": Decimal("1.4")},
        {"properties": {"region": "eu", "n": 1.0}},
        {"properties": {"region": "eu", "n": True}},
        {"properties": {"region": "eu"}},
        {"properties": {"region": "eu", "n": 10**40}},
        {"properties": {}},
        {"properties": None},
    ],
)
def test_another_body_is_told_by_its_digest_and_has_the_same_hash(change: dict[str, Any]) -> None:
    """To the last digit, and by the types of what it holds."""
    (known, digest), (again, other) = (identify(each, Scope.TIME, NOON) for each in (EVENT, replace(EVENT, **change)))
    assert known == again
    assert digest != other


@pytest.mark.parametrize("change", [{"id": "e2"}, {"source": ""}, {"customer": "bob"}, {"feature": "files"}])
def test_another_event_has_another_hash_and_another_digest(change: dict[str, Any]) -> None:
    """Though its body is the same."""
    one, other = identify(EVENT, Scope.TIME, NOON), identify(replace(EVENT, **change), Scope.TIME, NOON)
    assert one[0] != other[0]
    assert one[1] != other[1]


@pytest.mark.parametrize(
    "change",
    [{"quantity": Decimal("1.50")}, {"quantity": Decimal("0.15E+1")}, {"properties": {"n": 1, "region": "eu"}}],
)
def test_the_same_body_written_otherwise_is_the_same(change: dict[str, Any]) -> None:
    """Zeros at the end and the order of keys say nothing."""
    assert identify(EVENT, Scope.TIME, NOON) == identify(replace(EVENT, **change), Scope.TIME, NOON)


@given(*[st.decimals(0, MOST, places=18) | st.integers(0, 10**20 - 1).map(Decimal)] * 2)
def test_two_quantities_have_the_same_digest_only_if_they_are_equal(one: Decimal, other: Decimal) -> None:
    """Of up to 38 digits."""
    digests = {identify(replace(EVENT, quantity=each), Scope.TIME, NOON)[1] for each in (one, other)}
    assert (len(digests) == 1) is (one == other)


@pytest.mark.parametrize("scope", Scope)
def test_the_time_is_part_of_the_body_where_the_event_is_known_by_it(scope: Scope) -> None:
    """To the microsecond."""
    one, other = (identify(EVENT, scope, NOON + timedelta(microseconds=n)) for n in range(2))
    assert one[0] == other[0]
    assert (one[1] == other[1]) is (scope is not Scope.TIME)


@pytest.mark.parametrize("number", range(16))
def test_the_last_bit_of_a_hash_says_whether_it_is_of_a_receipt(number: int) -> None:
    """So that a set of them can be parted again."""
    event = replace(EVENT, id=f"e{number}")
    hashes = {scope: identify(event, scope, None)[0] for scope in Scope}
    assert {scope: known[-1] & 1 for scope, known in hashes.items()} == {Scope.TIME: 0, Scope.RECEIPT: 1, Scope.ID: 0}
    assert len({known[:-1] for known in hashes.values()}) == 1
    assert {len(known) for known in hashes.values()} == {12}


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)))  # noqa: DTZ001  it gets its zone
def test_an_instant_in_microseconds_is_exact(at: datetime) -> None:
    """Over all of the calendar."""
    assert datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds(at)) == at

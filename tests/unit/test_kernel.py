"""What every context stands on: exact decimals, instants, ids, strict JSON and the one error tree."""

import inspect
import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal, Inexact
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollgate.kernel import errors
from tollgate.kernel.errors import BadRequest, FieldError, InvalidInput, MethodNotAllowed, TollgateError, Unavailable
from tollgate.kernel.ids import derived_id, is_id, new_id
from tollgate.kernel.json import MAX_DEPTH, canonical_json, read_json, write_json
from tollgate.kernel.money import EXACT, exponent, format_amount, format_decimal, parse_decimal, round_amount
from tollgate.kernel.time import format_time, from_epoch_ms, parse_time, system_clock

D = Decimal

wire_decimals = st.decimals(min_value=-(10**20) + 1, max_value=10**20 - 1, places=18)
instants = st.datetimes(timezones=st.just(UTC))


# Decimals


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", D(0)),
        ("0.05", D("0.05")),
        ("-1.50", D("-1.5")),
        ("9" * 20 + "." + "9" * 18, D("9" * 20 + "." + "9" * 18)),
        (7, D(7)),
        (-7, D(-7)),
    ],
)
def test_a_decimal_is_read_exactly_from_a_string_or_a_json_integer(text: object, value: Decimal) -> None:
    """Up to 20 digits before the point and 18 after it."""
    assert parse_decimal(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *("", " 1", "1 ", "1\n", "+1", "01", "-01", "00", ".5", "1.", "1,5", "1_000", "0x1", "1.0.0", "--1", "-"),
        *("1e2", "1e400", "NaN", "sNaN", "Infinity", "-Infinity", "1" * 21, "1" * 40, "0." + "1" * 19),
        *("\N{ARABIC-INDIC DIGIT ONE}", "\N{FULLWIDTH DIGIT ONE}"),
    ],
)
def test_a_decimal_is_refused_in_any_other_spelling(text: str) -> None:
    """Two readers must never disagree on what an amount is."""
    with pytest.raises(ValueError, match="must be a decimal string"):
        parse_decimal(text)


@pytest.mark.parametrize("number", [10**20, -(10**20), 10**39])
def test_an_integer_of_too_many_digits_is_refused(number: int) -> None:
    """A JSON integer keeps to the digits of a string."""
    with pytest.raises(ValueError, match="at most 20 before"):
        parse_decimal(number)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (0.05, "number with a fraction or exponent"),
        (1.0, "number with a fraction or exponent"),
        (float("nan"), "number"),
        (True, "boolean"),
        (False, "boolean"),
        (None, "null"),
        ([], "array"),
        ({}, "object"),
    ],
)
def test_a_decimal_of_another_json_type_is_refused_by_the_name_of_its_type(value: object, name: str) -> None:
    """A float above all: it has lost its digits already."""
    with pytest.raises(ValueError, match=f"not a JSON {name}"):
        parse_decimal(value)


@pytest.mark.parametrize("text", ["-0", "-0.00"])
def test_zero_has_no_sign(text: str) -> None:
    """Minus zero is not negative, so nothing else would catch it, and no plan costs "-0"."""
    assert not parse_decimal(text).is_signed()


@given(wire_decimals)
def test_a_decimal_survives_being_written_and_read(value: Decimal) -> None:
    """No digit is lost, and what is written is in the one spelling that is read."""
    assert parse_decimal(format_decimal(value)) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("100", "100"),
        ("1E+2", "100"),
        ("2.50", "2.5"),
        ("2.00", "2"),
        ("-0.0", "0"),
        ("0E-9", "0"),
        ("1E-18", "0." + "0" * 17 + "1"),
    ],
)
def test_a_decimal_is_written_plainly(value: str, text: str) -> None:
    """No exponent, no trailing zeros after the point, no minus zero."""
    assert format_decimal(D(value)) == text


@given(wire_decimals, wire_decimals)
def test_exact_arithmetic_holds_every_product_of_two_decimals(one: Decimal, other: Decimal) -> None:
    """It would raise rather than round."""
    assert EXACT.multiply(one, other).as_tuple().exponent == -36


def test_exact_arithmetic_raises_where_it_would_lose_a_digit() -> None:
    """A third has no end."""
    with pytest.raises(Inexact):
        EXACT.divide(D(1), D(3))


# Amounts


@pytest.mark.parametrize(
    ("amount", "currency", "rounded"),
    [
        ("1.005", "EUR", "1.01"),
        ("1.0049999999999999999999999999999999", "EUR", "1.00"),
        ("1.015", "EUR", "1.02"),
        ("-1.005", "EUR", "-1.01"),
        ("-1.004", "EUR", "-1.00"),
        ("0.5", "JPY", "1"),
        ("1.5", "JPY", "2"),
        ("2.5", "JPY", "3"),
        ("-2.5", "JPY", "-3"),
        ("0.0005", "BHD", "0.001"),
        ("0.0004", "BHD", "0.000"),
        ("12345678901234567890123456789012345678.125", "USD", "12345678901234567890123456789012345678.13"),
    ],
)
def test_an_amount_is_rounded_half_up_at_the_currencys_exponent(amount: str, currency: str, rounded: str) -> None:
    """A tie goes away from zero, on either side of it; the decimals are those of the currency, no more, no less."""
    assert str(round_amount(D(amount), currency)) == rounded


@pytest.mark.parametrize(
    ("amount", "currency", "shown"),
    [
        ("15", "EUR", "15.00"),
        ("15.50", "EUR", "15.50"),
        ("1E+3", "JPY", "1000"),
        ("0", "BHD", "0.000"),
        ("-2", "EUR", "-2.00"),
    ],
)
def test_an_amount_is_written_with_all_digits_of_its_currency(amount: str, currency: str, shown: str) -> None:
    """However the database keeps it."""
    assert format_amount(D(amount), currency) == shown


@pytest.mark.parametrize(("currency", "digits"), [("EUR", 2), ("JPY", 0), ("BHD", 3), ("CLF", 4)])
def test_the_exponent_is_that_of_iso_4217(currency: str, digits: int) -> None:
    """Not every currency has cents."""
    assert exponent(currency) == digits


@pytest.mark.parametrize("currency", ["", "EURO", "eur", "ZZZ", "978", "XAU", "XTS", "XXX"])
def test_a_currency_one_cannot_charge_in_is_refused(currency: str) -> None:
    """Unknown codes, and those with no minor unit: gold, tests, none."""
    with pytest.raises(ValueError, match=r"unknown currency|no minor unit"):
        round_amount(D(1), currency)


# Instants


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2026-01-31T09:30:00Z", "2026-01-31T09:30:00Z"),
        ("2026-01-31t09:30:00z", "2026-01-31T09:30:00Z"),
        ("2026-01-31 09:30:00Z", "2026-01-31T09:30:00Z"),
        ("2026-01-31T09:30:00+05:30", "2026-01-31T04:00:00Z"),
        ("2026-01-31T23:30:00-01:00", "2026-02-01T00:30:00Z"),
        ("2026-01-31T09:30:00-00:00", "2026-01-31T09:30:00Z"),
        ("2026-01-31T09:30:00.5Z", "2026-01-31T09:30:00.500000Z"),
        ("2026-01-31T09:30:00.123456789Z", "2026-01-31T09:30:00.123456Z"),
        ("2024-02-29T00:00:00Z", "2024-02-29T00:00:00Z"),
    ],
)
def test_a_time_comes_in_as_rfc_3339_and_goes_out_in_utc(text: str, shown: str) -> None:
    """With Z, and a fraction only where there is one."""
    assert format_time(parse_time(text)) == shown


@pytest.mark.parametrize(
    "value",
    [
        *("", "now", "2026-01-31", "2026-01-31T09:30:00", "2026-01-31T09:30Z", "20260131T093000Z"),
        *("2026-W05-6T09:30:00Z", "2026-01-31T09:30:00+0100", "2026-01-31T09:30:00 Z", "2026-01-31T09:30:00Z\n"),
        *("2026-01-31T09:30:00.Z", "2026-01-31T09:30:00.1234567890Z", "\N{ARABIC-INDIC DIGIT TWO}026-01-31T09:30:00Z"),
        *("2026-02-30T00:00:00Z", "2025-02-29T00:00:00Z", "2026-13-01T00:00:00Z", "2026-01-31T24:00:00Z"),
        *("2026-01-31T09:30:60Z", "2026-01-31T09:30:00+24:00", "0000-01-01T00:00:00Z"),
        *("0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"),
        *(1769851800, 1769851800.0, None, True, ["2026-01-31T09:30:00Z"]),
    ],
)
def test_what_is_not_a_time_with_an_offset_is_refused(value: object) -> None:
    """An hour with no offset is many instants, and a number may be seconds or milliseconds."""
    with pytest.raises(ValueError, match=r"must be an RFC 3339 time|not a time of the calendar"):
        parse_time(value)


@given(instants, st.integers(-23 * 60, 23 * 60))
def test_an_instant_survives_being_written_and_read_whatever_its_offset(instant: datetime, minutes: int) -> None:
    """Down to the microsecond."""
    assert parse_time(format_time(instant)) == instant
    try:
        elsewhere = instant.astimezone(timezone(timedelta(minutes=minutes)))
    except OverflowError:  # the first or the last day of the calendar
        return
    assert format_time(elsewhere) == format_time(instant)


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_every_millisecond_of_the_calendar_is_exact(milliseconds: int) -> None:
    """No float comes between, so the year 9999 is as exact as today."""
    assert (from_epoch_ms(milliseconds) - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1) == milliseconds


def test_the_system_clock_tells_the_offset() -> None:
    """A naive datetime could not be compared with any other of ours."""
    assert system_clock().utcoffset() == timedelta(0)


# Ids


@pytest.mark.parametrize("value", ["a", "7", "A.b-c_d:e", "x" * 128])
def test_an_id_is_up_to_128_letters_digits_and_a_few_marks(value: str) -> None:
    """The first is a letter or a digit."""
    assert is_id(value)


@pytest.mark.parametrize("value", ["", "x" * 129, "-a", ".a", "a b", "a/b", "a#b", "a\n", "é", 7, None, ["a"]])
def test_anything_else_is_no_id(value: object) -> None:
    """Ids are parts of keys and of paths: a separator in one would forge another."""
    assert not is_id(value)


def test_a_new_id_is_an_id_and_never_comes_twice() -> None:
    """It says what it names, and nothing else."""
    made = {new_id("sub") for _ in range(100)}
    assert len(made) == 100
    assert all(is_id(one) and one.startswith("sub_") for one in made)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_derived_id_is_always_the_same_for_its_key(key: str) -> None:
    """So that a repeated request finds its first answer; whatever the key is, the id is one."""
    assert derived_id("sub", key) == derived_id("sub", key)
    assert derived_id("sub", key) != derived_id("sub", key + "x")
    assert is_id(derived_id("sub", key))


# JSON


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda child: st.lists(child, max_size=3) | st.dictionaries(st.text(max_size=3), child, max_size=3),
    max_leaves=8,
)


@given(JSON_VALUES)
def test_json_that_every_parser_reads_alike_is_read(value: Any) -> None:
    """Strictness costs no sound document anything, escaped or not."""
    assert read_json(json.dumps(value)) == value
    assert read_json(json.dumps(value, ensure_ascii=False)) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1, column 1"),
        ('{"a": 1,\n "b": }', "line 2, column 7"),
        ("{'a': 1}", "line 1"),
        ('{"a": 1} x', "Extra data"),
        ('{"quantity": "1", "quantity": "2"}', "'quantity' stands twice"),
        ('[{"a": {"b": 1, "c": 2, "b": 1}}]', "'b' stands twice"),
        ('{"a": NaN}', "NaN"),
        ("[Infinity]", "Infinity"),
        ("-Infinity", "-Infinity"),
        ("[1e400]", "1e400 is out of range"),
        ("-1e400", "out of range"),
        ("1" * 4301, "4,300 digits"),
        ('"\\ud800"', "surrogate"),
        ('{"\\uDC00": 1}', "surrogate"),
        ('["\\ude00\\ud83d"]', "surrogate"),
        ("[" * 1_000_000, "nested more than 32"),
    ],
)
def test_json_that_two_parsers_could_read_differently_is_refused_and_says_why(text: str, said: str) -> None:
    """The refusal names the place or the key, and nothing of how we read it."""
    with pytest.raises(BadRequest) as refusal:
        read_json(text)
    assert said in refusal.value.detail
    assert "sys." not in refusal.value.detail


def test_a_whole_surrogate_pair_is_a_character() -> None:
    """Many clients escape all that is not ASCII."""
    assert read_json('"\\ud83d\\ude00"') == "\N{GRINNING FACE}"


@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ('{"a":', "}")])
def test_json_may_be_nested_to_the_limit_and_no_deeper(opens: str, closes: str) -> None:
    """The limit counts arrays and objects alike."""

    def nested(depth: int) -> str:
        return opens * depth + "1" + closes * depth

    read_json(nested(MAX_DEPTH))
    with pytest.raises(BadRequest, match="nested more than 32 deep"):
        read_json(nested(MAX_DEPTH + 1))


@given(JSON_VALUES)
def test_json_is_written_to_be_read_again_exactly(value: Any) -> None:
    """With the types of its numbers and all their digits."""
    assert repr(json.loads(write_json(value))) == repr(value)


@given(JSON_VALUES, JSON_VALUES)
def test_two_values_have_the_same_canonical_json_only_if_they_say_the_same(one: Any, other: Any) -> None:
    """The order of keys says nothing; 1, 1.0 and true are three values."""

    def said(value: Any) -> str:
        return json.dumps(value, sort_keys=True)

    assert (canonical_json(one) == canonical_json(other)) is (said(one) == said(other))
    assert canonical_json({"a": one, "b": other}) == canonical_json({"b": other, "a": one})


@pytest.mark.parametrize("number", [10**18, 2**63, 2**64, 10**40, 10**4_299, -(10**40), 0.1, 1e22, 5e-324, -0.0])
def test_no_number_is_too_large_to_be_written_exactly(number: float) -> None:
    """As large as one may be read."""
    assert repr(json.loads(write_json({"n": number}))) == repr({"n": number})
    assert canonical_json(number) != canonical_json(number * 2 + 1)


def test_half_a_surrogate_pair_is_written_as_an_escape() -> None:
    """Headers may bring one, which no body does."""
    assert write_json({"id": "\ud800"}) == b'{"id":"\\ud800"}'
    assert canonical_json({"b": "\ud800", "a": 1}) == b'{"a":1,"b":"\\ud800"}'


def test_the_key_in_a_refusal_is_cut_short() -> None:
    """A caller does not choose how long our answers are."""
    with pytest.raises(BadRequest) as refusal:
        read_json(f'{{"{"k" * 10_000}": 1, "{"k" * 10_000}": 2}}')
    assert len(refusal.value.detail) < 200


# Errors


def tree() -> list[type[TollgateError]]:
    """Every error class a caller may meet."""
    classes = [one for _, one in inspect.getmembers(errors, inspect.isclass)]
    return [one for one in classes if issubclass(one, TollgateError)]


def test_every_error_has_a_status_a_slug_and_a_title_of_its_own() -> None:
    """A client tells them apart by any of the three."""
    for name in ("status", "slug", "title"):
        assert len({getattr(one, name) for one in tree()}) == len(tree()) > 10
    assert all(400 <= one.status <= 599 for one in tree())


def test_invalid_input_says_its_first_faults_and_keeps_them_all() -> None:
    """The detail stays short however many faults there are; the whole body is written as a slash."""
    faults = [FieldError("", "is empty"), *(FieldError(f"/tiers/{index}", "is bad") for index in range(100))]
    error = InvalidInput(faults)
    assert error.detail == "body: is empty; /tiers/0: is bad; /tiers/1: is bad"
    assert error.errors == tuple(faults)


def test_an_error_carries_the_headers_its_status_asks_for() -> None:
    """RFC 9110 wants Allow with 405 and WWW-Authenticate with 401; Retry-After tells when to send again."""
    assert MethodNotAllowed("no", allow=["PUT", "GET"]).headers == {"Allow": "GET, PUT"}
    assert errors.Unauthenticated("no").headers == {"WWW-Authenticate": "Bearer"}
    assert Unavailable("later", retry_after=7).headers == {"Retry-After": "7"}

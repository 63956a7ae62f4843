"""What the price models promise, one rule at a time, and what a price must keep to be written."""

from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from tollgate.kernel.errors import InvalidInput
from tollgate.kernel.schema import Code, CurrencyCode, DecimalString, Timestamp
from tollgate.pricing.model import (
    Flat,
    Package,
    PartialPackage,
    Price,
    Tier,
    Tiered,
    Volume,
    ZeroUsage,
    faults,
    price_from_dict,
    price_to_dict,
)
from tollgate.pricing.quotes import LineKind, quote, quote_to_dict
from tollgate.pricing.schema import QuoteRequest, QuoteResponse, to_price

D = Decimal

TIERS = (Tier(D(100), D(10)), Tier(None, D(8)))
FEES = (Tier(D(10), D(1), D(5)), Tier(D(20), D("0.5"), D(3)), Tier(None, D(0), D(2)))


def amount(price: Price, quantity: str, previous: str | None = None) -> Decimal:
    """The exact amount in euros."""
    return quote(price, D(quantity), "EUR", None if previous is None else D(previous)).exact_amount


def explained(price: Price, quantity: str, previous: str | None = None) -> list[tuple[str, ...]]:
    """The lines as (kind, from, quantity, unit price, flat fee, amount)."""
    answer = quote_to_dict(quote(price, D(quantity), "EUR", None if previous is None else D(previous)))
    names = ("kind", "from", "quantity", "unit_price", "flat_fee", "amount")
    return [tuple(line[name] for name in names) for line in answer["lines"]]


def pointers(price: Price) -> list[str]:
    """Where the price is at fault."""
    return [fault.pointer for fault in faults(price)]


# Models


def test_a_flat_price_charges_only_what_is_above_the_included_units() -> None:
    """(quantity - included) x unit_price, and 0 up to the included units."""
    price = Flat(D("0.05"), included=D(1000))
    assert [amount(price, quantity) for quantity in ("0", "999", "1000", "1000.5")] == [0, 0, 0, D("0.025")]


def test_a_fraction_above_a_bound_lies_in_the_next_tier() -> None:
    """Bounds are inclusive and continuous: of 100.5 units half a one costs the second price."""
    assert amount(Tiered(TIERS), "100") == 1000
    assert amount(Tiered(TIERS), "100.5") == 1004
    assert amount(Volume(TIERS), "100.5") == 804


def test_a_tiered_price_charges_the_flat_fee_of_every_tier_entered() -> None:
    """A tier is entered by the first fraction above the bound below it."""
    assert [amount(Tiered(FEES), q) for q in ("10", "10.1", "20", "20.1")] == [15, D("18.05"), 23, 25]


def test_a_volume_price_charges_the_flat_fee_of_the_tier_reached_alone() -> None:
    """All units cost the price of one tier, so that more can cost less."""
    assert [amount(Volume(FEES), q) for q in ("10", "10.1", "20", "20.1")] == [15, D("8.05"), 13, 2]


@pytest.mark.parametrize("model", [Tiered, Volume])
def test_zero_usage_decides_whether_no_usage_costs_the_first_flat_fee(model: type[Tiered | Volume]) -> None:
    """By default quantity 0 is free."""
    assert amount(model(FEES), "0") == 0
    assert amount(model(FEES, zero_usage=ZeroUsage.FLAT), "0") == 5


def test_a_begun_package_is_charged_whole_or_not_at_all() -> None:
    """Included units come off before packages are counted."""
    up = Package(D(10), D(100), included=D(10))
    down = Package(D(10), D(100), included=D(10), partial_package=PartialPackage.ROUND_DOWN)
    assert [amount(up, q) for q in ("10", "10.1", "20", "20.1")] == [0, 100, 100, 200]
    assert [amount(down, q) for q in ("10", "10.1", "20", "20.1")] == [0, 0, 100, 100]


def test_packages_are_counted_exactly_whatever_their_size() -> None:
    """A size that divides nothing evenly loses no unit: 3 times a third is not yet 1, so 1 takes a fourth."""
    third = Package(D("0.333333333333333333"), D(1))
    assert [amount(third, q) for q in ("0.999999999999999999", "1")] == [3, 4]


def test_the_minimum_holds_with_no_usage_too() -> None:
    """A minimum is what a period costs at least, used or not."""
    assert amount(Flat(D(10), minimum_amount=D(100)), "0") == 100


def test_the_maximum_holds_above_it_only() -> None:
    """A maximum equal to the amount changes nothing."""
    price = Flat(D(10), maximum_amount=D(100))
    assert [amount(price, quantity) for quantity in ("9", "10", "11")] == [90, 100, 100]
    assert [line.kind for line in quote(price, D(10), "EUR").lines] == [LineKind.USAGE]


# Amounts


@pytest.mark.parametrize(
    ("currency", "unit_price", "expected"),
    [
        ("EUR", "2.005", "2.01"),
        ("EUR", "2.0049999", "2.00"),
        ("EUR", "2300", "2300.00"),
        ("JPY", "2300", "2300"),
        ("JPY", "0.5", "1"),
        ("BHD", "0.0005", "0.001"),
        ("EUR", "0", "0.00"),
    ],
)
def test_an_amount_is_rounded_half_up_at_the_exponent(currency: str, unit_price: str, expected: str) -> None:
    """It is printed with exactly the decimals of the currency."""
    assert quote_to_dict(quote(Flat(D(unit_price)), D(1), currency))["amount"] == expected


def test_an_amount_is_rounded_once_and_not_per_line() -> None:
    """Two halves of a cent in two tiers are one cent."""
    price = Tiered((Tier(D(1), D("0.005")), Tier(None, D("0.005"))))
    answer = quote_to_dict(quote(price, D(2), "EUR"))
    assert (answer["amount"], answer["exact_amount"]) == ("0.01", "0.01")


def test_a_negative_amount_that_rounds_to_zero_has_no_sign() -> None:
    """Nobody is billed minus zero."""
    price = Volume((Tier(D(10), D("0.001")), Tier(None, D("0.0009"))))
    assert quote_to_dict(quote(price, D(1), "EUR", D(10)))["amount"] == "0.00"
    assert quote_to_dict(quote(price, D(1), "EUR", D(10)))["exact_amount"] == "-0.0001"


def test_a_quote_has_the_form_of_the_contract() -> None:
    """250 units of the documented graduated price, and the 150 of them that follow the first 100."""
    assert quote_to_dict(quote(Tiered(TIERS), D(250), "EUR")) == {
        "amount": "2200.00",
        "currency": "EUR",
        "exact_amount": "2200",
        "lines": [
            {
                "kind": "usage",
                "from": "0",
                "to": "100",
                "quantity": "100",
                "unit_price": "10",
                "flat_fee": "0",
                "amount": "1000",
            },
            {
                "kind": "usage",
                "from": "100",
                "to": None,
                "quantity": "150",
                "unit_price": "8",
                "flat_fee": "0",
                "amount": "1200",
            },
        ],
    }
    assert explained(Tiered(TIERS), "150", "100") == [("usage", "100", "150", "8", "0", "1200")]


# Lines


def test_included_units_are_shown_as_free() -> None:
    """A reader sees where the units went that cost nothing."""
    assert explained(Flat(D(2), included=D(10)), "15") == [
        ("included", "0", "10", "0", "0", "0"),
        ("usage", "10", "5", "2", "0", "10"),
    ]


def test_a_package_line_counts_packages() -> None:
    """121 units are 13 packages of 10."""
    assert explained(Package(D(10), D(100)), "121") == [("package", "0", "13", "100", "0", "1300")]


def test_a_minimum_is_a_line_of_what_is_missing() -> None:
    """The usage stays visible beside it."""
    assert explained(Flat(D(10), minimum_amount=D(100)), "3") == [
        ("usage", "0", "3", "10", "0", "30"),
        ("minimum", "0", "0", "0", "70", "70"),
    ]


def test_a_maximum_is_a_line_that_takes_away_the_excess() -> None:
    """The usage stays visible beside it."""
    assert explained(Flat(D(10), maximum_amount=D(100)), "13") == [
        ("usage", "0", "13", "10", "0", "130"),
        ("maximum", "0", "0", "0", "-30", "-30"),
    ]


def test_no_usage_has_no_lines() -> None:
    """There is nothing to explain."""
    assert explained(Tiered(FEES), "0") == []


def test_a_tiered_delta_shows_the_slices_that_the_new_units_fill() -> None:
    """8 more units after 8: 2 finish the first tier, 6 enter the second and its fee."""
    assert explained(Tiered(FEES), "8", "8") == [
        ("usage", "0", "2", "1", "0", "2"),
        ("usage", "10", "6", "0.5", "3", "6"),
    ]


def test_a_volume_delta_into_another_tier_takes_the_old_line_back() -> None:
    """All units move to the new tier, so the old one is returned with its fee."""
    assert explained(Volume(FEES), "8", "8") == [
        ("usage", "0", "-8", "1", "-5", "-13"),
        ("usage", "10", "16", "0.5", "3", "11"),
    ]


def test_a_package_delta_inside_a_package_has_no_lines() -> None:
    """The package is paid for."""
    assert explained(Package(D(10), D(15)), "8", "1") == []


def test_a_delta_below_the_minimum_is_covered_by_it() -> None:
    """New units first use up what the minimum already charged."""
    assert explained(Flat(D(10), minimum_amount=D(100)), "3", "5") == [
        ("usage", "0", "3", "10", "0", "30"),
        ("minimum", "0", "0", "0", "-30", "-30"),
    ]


# What cannot be priced


def test_every_fault_of_a_question_is_named_at_once() -> None:
    """A quantity that is no number, a negative previous one and an unknown currency each have their pointer."""
    with pytest.raises(InvalidInput) as refusal:
        quote(Flat(D(1)), D("NaN"), "XXQ", D("-0.1"))
    where = [error.pointer for error in refusal.value.errors]
    assert where == ["/quantity", "/previous_quantity", "/currency"]


@pytest.mark.parametrize(
    "price",
    [
        Flat(D(3), minimum_amount=D(2)),
        Tiered((Tier(None, D(3), D(7)),), zero_usage=ZeroUsage.FLAT),
        Volume((Tier(None, D(3), D(7)),)),
        Package(D(5), D(3)),
    ],
)
def test_a_total_below_zero_costs_what_zero_costs(price: Price) -> None:
    """Corrections may exceed what was used; a customer is never paid for it, beyond what the usage cost."""
    nothing = quote(price, D(0), "EUR")
    assert quote(price, D(-5), "EUR") == nothing
    back = quote(price, D(-12), "EUR", D(10))
    assert back.exact_amount == nothing.exact_amount - quote(price, D(10), "EUR").exact_amount


@pytest.mark.parametrize(
    ("price", "quantity"),
    [
        (Flat(D("99999999999999999999")), "99999999999999999999"),
        (Flat(D("99999999999999999999.995")), "1"),
        (Flat(D(10) ** 90), "99999999999999999999"),
        (Flat(D("1E+999999")), "1E+999999"),
        (Package(D("1E-90"), D(1)), "1E+50"),
        (Flat(D(1)), "NaN"),
        (Flat(D(1)), "Infinity"),
    ],
)
def test_an_amount_out_of_range_is_refused(price: Price, quantity: str) -> None:
    """It is an error of the input, not of ours, and no digit is ever dropped instead."""
    with pytest.raises(InvalidInput, match="/quantity"):
        quote(price, D(quantity), "EUR")


def test_the_greatest_amount_keeps_every_digit() -> None:
    """20 digits before the point and 36 after it."""
    price = Flat(D("99999999999999999999.999999999999999999"))
    answer = quote_to_dict(quote(price, D("0.999999999999999999"), "EUR"))
    assert answer["exact_amount"] == "99999999999999999899.999999999999999999000000000000000001"


# Rules at write time


@pytest.mark.parametrize("model", [Tiered, Volume])
@pytest.mark.parametrize(
    ("bounds", "where"),
    [
        ([], ["/tiers"]),
        (["1"], ["/tiers/0/up_to"]),
        (["1", "2"], ["/tiers/1/up_to"]),
        ([None, None], ["/tiers/0/up_to"]),
        ([None, "5"], ["/tiers/0/up_to", "/tiers/1/up_to"]),
        (["5", None, "9", None], ["/tiers/1/up_to"]),
        (["5", "5", None], ["/tiers/1/up_to"]),
        (["5", "4", None], ["/tiers/1/up_to"]),
        (["0", None], ["/tiers/0/up_to"]),
        (["-1", None], ["/tiers/0/up_to"]),
        ([None], []),
        (["0.1", "0.2", None], []),
    ],
)
def test_tiers_ascend_and_the_last_alone_is_open(
    model: type[Tiered | Volume], bounds: list[str | None], where: list[str]
) -> None:
    """Each offending bound is pointed at."""
    tiers = tuple(Tier(None if bound is None else D(bound), D(1)) for bound in bounds)
    assert pointers(model(tiers)) == where


@pytest.mark.parametrize(("count", "where"), [(100, []), (101, ["/tiers"])])
def test_a_price_has_at_most_a_hundred_tiers(count: int, where: list[str]) -> None:
    """The last of them open."""
    tiers = (*(Tier(D(bound), D(1)) for bound in range(1, count)), Tier(None, D(1)))
    assert pointers(Tiered(tiers)) == where


@pytest.mark.parametrize(
    ("price", "where"),
    [
        (Flat(D(-1)), ["/unit_price"]),
        (Flat(D(1), D(-1)), ["/included"]),
        (Flat(D(1), minimum_amount=D(-1)), ["/minimum_amount"]),
        (Flat(D(1), maximum_amount=D(-1)), ["/maximum_amount"]),
        (Flat(D(1), minimum_amount=D(2), maximum_amount=D(1)), ["/minimum_amount"]),
        (Flat(D(1), minimum_amount=D(1), maximum_amount=D(1)), []),
        (Package(D(0), D(1)), ["/package_size"]),
        (Package(D(-1), D(-1), D(-1)), ["/package_size", "/package_price", "/included"]),
        (Tiered((Tier(D(1), D(1)), Tier(None, D(-1), D(-2)))), ["/tiers/1/unit_price", "/tiers/1/flat_fee"]),
    ],
)
def test_nothing_in_a_price_is_negative_and_a_package_has_a_size(price: Price, where: list[str]) -> None:
    """The minimum is not above the maximum either."""
    assert pointers(price) == where


def test_faults_are_pointed_at_from_the_body_that_holds_the_price() -> None:
    """A plan names the price by its place."""
    price = Tiered((Tier(D(1), D(1)),))
    assert [fault.pointer for fault in faults(price, "/features/2/price")] == ["/features/2/price/tiers/0/up_to"]


# Stored form and boundary


@pytest.mark.parametrize(
    "price",
    [
        Flat(D("0.05"), D(10), maximum_amount=D(7)),
        Tiered(FEES, minimum_amount=D("1.5"), zero_usage=ZeroUsage.FLAT),
        Volume(TIERS),
        Package(D(500), D(20), partial_package=PartialPackage.ROUND_DOWN),
    ],
)
def test_a_price_survives_being_stored_and_sent_back(price: Price) -> None:
    """What is stored reads as the same price, and so does the same JSON as a request."""
    stored = price_to_dict(price)
    assert price_from_dict(stored) == price
    body = QuoteRequest.model_validate({"currency": "EUR", "quantity": "1", "price": stored})
    assert to_price(body.price) == price


def test_equal_prices_have_one_stored_form() -> None:
    """However a decimal was spelt, the same price makes no new plan version."""
    assert price_to_dict(Flat(D("10.00"), D("1E+2"))) == {
        "model": "flat",
        "unit_price": "10",
        "included": "100",
        "zero_usage": "none",
    }


def test_only_the_four_models_are_stored() -> None:
    """An unknown model is named."""
    with pytest.raises(ValueError, match="percentage"):
        price_from_dict({"model": "percentage"})


@pytest.mark.parametrize(
    "change",
    [
        {"unit_price": 0.05},
        {"unit_price": "NaN"},
        {"unit_price": "1e3"},
        {"unit_price": True},
        {"unit_price": None},
        {"unit_price": "123456789012345678901"},
        {"minimum_amount": 1.5},
        {"zero_usage": "always"},
        {"tiers": []},
        {"model": "percentage"},
    ],
)
def test_a_body_of_the_wrong_shape_is_refused(change: dict[str, Any]) -> None:
    """Floats, names of numbers, unknown keys and unknown words are no price."""
    price = {"model": "flat", "unit_price": "0.05"} | change
    with pytest.raises(ValidationError):
        QuoteRequest.model_validate({"currency": "EUR", "quantity": "1", "price": price})


def test_an_integer_is_a_decimal_too() -> None:
    """JSON integers are exact, so they are accepted."""
    price = {"model": "tiered", "tiers": [{"up_to": None, "unit_price": 3}]}
    body = QuoteRequest.model_validate({"currency": "EUR", "quantity": 2, "price": price})
    assert amount(to_price(body.price), str(body.quantity)) == 6


@pytest.mark.parametrize("currency", ["eur", "XXQ", "XAU", "EURO", "", None, 978])
def test_an_unknown_currency_is_refused(currency: Any) -> None:
    """Only ISO 4217 codes with a minor unit can be charged in."""
    price = {"model": "flat", "unit_price": "1"}
    with pytest.raises(ValidationError) as refusal:
        QuoteRequest.model_validate({"currency": currency, "quantity": "1", "price": price})
    assert [error["loc"] for error in refusal.value.errors()] == [("currency",)]


def test_every_quote_has_the_shape_of_its_response_model() -> None:
    """The documented model reads what `quote_to_dict` writes, and writes it again unchanged."""
    answer = quote_to_dict(quote(Volume(FEES, minimum_amount=D(9)), D(30), "BHD", D("0.5")))
    assert QuoteResponse.model_validate(answer).model_dump(by_alias=True) == answer


class Boundary(BaseModel):
    """One field of every shared type."""

    amount: DecimalString
    currency: CurrencyCode
    code: Code
    at: Timestamp


def test_shared_types_read_and_write_their_wire_form() -> None:
    """Decimals lose trailing zeros, times go out in UTC."""
    body = {"amount": "1.50", "currency": "EUR", "code": "plan:pro", "at": "2026-01-31T09:30:00+01:00"}
    written = Boundary.model_validate(body).model_dump()
    assert written == body | {"amount": "1.5", "at": "2026-01-31T08:30:00Z"}


@pytest.mark.parametrize(
    "change",
    [{"code": "-x"}, {"code": "x\n"}, {"code": 1}, {"at": "2026-01-31"}, {"at": 1767225600}, {"amount": 0.5}],
)
def test_shared_types_refuse_all_else(change: dict[str, Any]) -> None:
    """No coercion at the boundary."""
    body = {"amount": "1", "currency": "EUR", "code": "x", "at": "2026-01-31T09:30:00Z"} | change
    with pytest.raises(ValidationError):
        Boundary.model_validate(body)


def test_a_decimal_is_documented_as_a_string_with_a_pattern() -> None:
    """Clients that are generated from the schema send strings."""
    schema = QuoteRequest.model_json_schema()
    assert schema["properties"]["quantity"]["anyOf"][0]["type"] == "string"
    assert schema["properties"]["quantity"]["anyOf"][0]["pattern"].startswith("^-?(0|")
    assert schema["$defs"]["FlatPriceBody"]["properties"]["included"]["default"] == "0"

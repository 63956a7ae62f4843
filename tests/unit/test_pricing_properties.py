"""What holds for every price and every quantity."""

import itertools
from dataclasses import replace
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from tollgate.kernel.money import EXACT, ZERO, exponent, parse_decimal
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
from tollgate.pricing.quotes import quote, quote_to_dict
from tollgate.pricing.schema import QuoteResponse

CURRENCIES = st.sampled_from(["EUR", "JPY", "BHD", "CLF"])


def decimals(low: str = "0", high: str = "100000", places: int = 4) -> st.SearchStrategy[Decimal]:
    """Exact decimals of mixed precision, whole ones often."""
    whole = st.integers(int(Decimal(low)) + 1, int(Decimal(high))).map(Decimal)
    return st.one_of(whole, st.decimals(low, high, places=places, allow_nan=False), st.just(Decimal(high)))


AMOUNTS = st.one_of(st.just(ZERO), decimals(high="1000"))
QUANTITIES = st.one_of(st.just(ZERO), decimals(high="5000"))
BOUNDS = st.lists(decimals("0.0001", "3000"), max_size=5, unique=True).map(sorted)


@st.composite
def tiers(draw: st.DrawFn) -> tuple[Tier, ...]:
    """Ascending tiers, the last one open."""
    bounds: list[Decimal | None] = [*draw(BOUNDS), None]
    figures = draw(st.lists(AMOUNTS, min_size=2 * len(bounds), max_size=2 * len(bounds)))
    return tuple(
        Tier(bound, unit_price, flat_fee)
        for bound, unit_price, flat_fee in zip(bounds, figures[::2], figures[1::2], strict=True)
    )


ZERO_USAGE = st.sampled_from(ZeroUsage)
FLAT = st.builds(Flat, AMOUNTS, QUANTITIES)
TIERED = st.builds(Tiered, tiers(), zero_usage=ZERO_USAGE)
VOLUME = st.builds(Volume, tiers(), zero_usage=ZERO_USAGE)
PACKAGE = st.builds(Package, decimals("0.0001", "700"), AMOUNTS, QUANTITIES, st.sampled_from(PartialPackage))
UNLIMITED = st.one_of(FLAT, TIERED, VOLUME, PACKAGE)
LIMITS = st.lists(decimals(high="20000"), min_size=2, max_size=2).map(sorted)


@st.composite
def limited(draw: st.DrawFn) -> Price:
    """A price with a minimum, a maximum, both or none."""
    minimum, maximum = draw(LIMITS)
    least = draw(st.sampled_from([None, minimum]))
    most = draw(st.sampled_from([None, maximum]))
    return replace(draw(UNLIMITED), minimum_amount=least, maximum_amount=most)


PRICES = limited()


def exact(price: Price, quantity: Decimal, previous: Decimal | None = None) -> Decimal:
    """The exact amount."""
    return quote(price, quantity, "EUR", previous).exact_amount


def plus(*values: Decimal) -> Decimal:
    """An exact sum."""
    with localcontext(EXACT):
        return sum(values, ZERO)


@given(PRICES)
def test_a_price_that_is_made_soundly_has_no_faults_and_survives_storing(price: Price) -> None:
    """The strategies of this file make sound prices only."""
    assert faults(price) == []
    assert price_from_dict(price_to_dict(price)) == price


@given(PRICES, QUANTITIES, st.none() | QUANTITIES, CURRENCIES)
def test_lines_add_up_to_the_exact_amount(
    price: Price, quantity: Decimal, previous: Decimal | None, currency: str
) -> None:
    """Every line is quantity x unit price + flat fee, and the lines leave nothing unexplained."""
    answer = quote(price, quantity, currency, previous)
    assert plus(*(line.amount for line in answer.lines)) == answer.exact_amount
    for line in answer.lines:
        assert line.amount == EXACT.add(EXACT.multiply(line.quantity, line.unit_price), line.flat_fee)


@given(PRICES, QUANTITIES, st.none() | QUANTITIES, CURRENCIES)
def test_printed_lines_add_up_to_the_printed_amount(
    price: Price, quantity: Decimal, previous: Decimal | None, currency: str
) -> None:
    """The same holds of the JSON, which is what a customer sees, and it has the documented shape."""
    answer = quote_to_dict(quote(price, quantity, currency, previous))
    lines = plus(*(Decimal(line["amount"]) for line in answer["lines"]))
    assert lines == Decimal(answer["exact_amount"])
    QuoteResponse.model_validate(answer)


@given(PRICES, QUANTITIES, st.none() | QUANTITIES, CURRENCIES)
def test_an_amount_is_the_exact_amount_rounded_once_half_up(
    price: Price, quantity: Decimal, previous: Decimal | None, currency: str
) -> None:
    """A tie goes away from zero, and the decimals are those of the currency."""
    answer = quote(price, quantity, currency, previous)
    unit = Decimal(1).scaleb(-exponent(currency))
    rounded = answer.exact_amount.quantize(unit, context=Context(prec=99, rounding=ROUND_HALF_UP))
    assert answer.amount == rounded
    printed = quote_to_dict(answer)["amount"]
    assert len(printed.partition(".")[2]) == exponent(currency)
    assert parse_decimal(printed) == rounded


@given(PRICES, QUANTITIES, QUANTITIES)
def test_a_delta_is_the_difference_of_two_totals(price: Price, before: Decimal, more: Decimal) -> None:
    """price(previous + quantity) - price(previous), whatever the limits do."""
    assert exact(price, more, before) == exact(price, plus(before, more)) - exact(price, before)


@given(PRICES, st.lists(QUANTITIES, max_size=6))
def test_deltas_telescope(price: Price, steps: list[Decimal]) -> None:
    """Billed in parts, a period costs what it costs at once."""
    totals = [ZERO, *itertools.accumulate(steps, plus)]
    parts = [exact(price, step, before) for step, before in zip(steps, totals, strict=False)]
    assert plus(exact(price, ZERO), *parts) == exact(price, totals[-1])


@given(PRICES, QUANTITIES)
def test_nothing_more_costs_nothing(price: Price, before: Decimal) -> None:
    """A delta of 0 has no lines."""
    answer = quote(price, ZERO, "EUR", before)
    assert (answer.exact_amount, answer.lines) == (ZERO, ())


@given(TIERED, QUANTITIES, QUANTITIES)
def test_a_tiered_price_never_falls(price: Tiered, quantity: Decimal, more: Decimal) -> None:
    """More units cost at least as much."""
    assert exact(price, plus(quantity, more)) >= exact(price, quantity)


@given(TIERED, QUANTITIES, QUANTITIES)
def test_a_tiered_delta_shows_the_new_units_only(price: Tiered, before: Decimal, more: Decimal) -> None:
    """The quantities of its lines are the new units, none of them negative."""
    quantities = [line.quantity for line in quote(price, more, "EUR", before).lines]
    assert plus(*quantities) == more
    assert all(quantity >= 0 for quantity in quantities)


@given(TIERED, QUANTITIES)
def test_a_tiered_price_equals_its_definition(price: Tiered, quantity: Decimal) -> None:
    """Summed unit by unit of each tier with fractions, which round nothing either."""
    total, lower = Fraction(0), Fraction(0)
    for index, tier in enumerate(price.tiers):
        entered = quantity > lower or (index == 0 and price.zero_usage is ZeroUsage.FLAT)
        upper = Fraction(quantity if tier.up_to is None else min(tier.up_to, quantity))
        total += max(upper - lower, Fraction(0)) * Fraction(tier.unit_price) + entered * Fraction(tier.flat_fee)
        lower = Fraction(tier.up_to or quantity)
    assert Fraction(exact(price, quantity)) == total


@given(VOLUME, st.data())
def test_a_volume_price_picks_the_tier_by_its_inclusive_bound(price: Volume, data: st.DataObject) -> None:
    """At a bound and just below it the tier is the bound's own, just above it the next."""
    index = data.draw(st.integers(0, len(price.tiers) - 1))
    tier, bound = price.tiers[index], price.tiers[index].up_to
    lower = price.tiers[index - 1].up_to if index else ZERO
    assert lower is not None
    step = Decimal("0.000001")
    within = [lower + step, lower + 1 if bound is None else bound - step, bound or lower + 2]
    for quantity in within:
        assert exact(price, quantity) == quantity * tier.unit_price + tier.flat_fee


@given(FLAT, QUANTITIES)
def test_a_flat_price_equals_its_definition(price: Flat, quantity: Decimal) -> None:
    """max(quantity - included, 0) x unit_price."""
    assert exact(price, quantity) == max(quantity - price.included, ZERO) * price.unit_price


@given(PACKAGE, QUANTITIES)
def test_a_package_price_equals_its_definition(price: Package, quantity: Decimal) -> None:
    """The ceiling or the floor of (quantity - included) / size, in exact fractions."""
    billable = max(Fraction(quantity) - Fraction(price.included), Fraction(0))
    packages = billable / Fraction(price.package_size)
    count = -(-packages // 1) if price.partial_package is PartialPackage.ROUND_UP else packages // 1
    assert Fraction(exact(price, quantity)) == count * Fraction(price.package_price)


@given(UNLIMITED, LIMITS, QUANTITIES)
def test_limits_clamp_the_amount(price: Price, limits: list[Decimal], quantity: Decimal) -> None:
    """Between minimum and maximum the amount is the price's own."""
    minimum, maximum = limits
    bounded = replace(price, minimum_amount=minimum, maximum_amount=maximum)
    assert exact(bounded, quantity) == min(max(exact(price, quantity), minimum), maximum)

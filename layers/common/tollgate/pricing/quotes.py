"""What a quantity costs, and why: an exact amount and the lines that add up to it.

Each line satisfies amount = quantity x unit_price + flat_fee, and the lines add up to the exact amount,
for deltas and limits too; so an invoice can be checked with pencil and paper. `start` and `end` are the
bounds of the price's own range that a line belongs to (exclusive and inclusive, end None is open), not
those of the usage.
"""

from decimal import Decimal, DecimalException, localcontext
from enum import StrEnum
from typing import Any, Final

from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import FieldError, InvalidInput
from tollgate.kernel.money import EXACT, ZERO, exponent, format_decimal, round_amount
from tollgate.pricing.model import Flat, Package, PartialPackage, Price, Tier, Tiered, Volume, ZeroUsage

__all__ = ["LineKind", "Quote", "QuoteLine", "quote", "quote_to_dict"]

_OUT_OF_RANGE: Final = Decimal(10) ** 20
"""The first amount with more digits before the point than a decimal of the wire may have."""


class LineKind(StrEnum):
    """What a line is for, in the order in which lines stand."""

    INCLUDED = "included"
    """Units that are free because the price includes them."""
    USAGE = "usage"
    """Units of one range, and the flat fee of its tier."""
    PACKAGE = "package"
    """Whole packages: here `quantity` counts packages and `unit_price` is the price of one."""
    MINIMUM = "minimum"
    """What is missing from the lines above to the minimum amount, as a flat fee."""
    MAXIMUM = "maximum"
    """What the lines above exceed the maximum amount by, as a negative flat fee."""


_RANK: Final = {kind: rank for rank, kind in enumerate(LineKind)}


@dataclass(frozen=True, slots=True)
class QuoteLine:
    """One line of a quote; in a delta all figures but the bounds are what changed, and may be negative."""

    start: Decimal
    end: Decimal | None
    quantity: Decimal
    unit_price: Decimal
    flat_fee: Decimal
    amount: Decimal
    kind: LineKind = LineKind.USAGE


@dataclass(frozen=True, slots=True)
class Quote:
    """A price for a quantity: `exact_amount` is the lines' sum, `amount` that sum rounded once."""

    amount: Decimal
    exact_amount: Decimal
    currency: str
    lines: tuple[QuoteLine, ...]


def quote(price: Price, quantity: Decimal, currency: str, previous_quantity: Decimal | None = None) -> Quote:
    """Price a quantity, or what a quantity adds to a previous one.

    With `previous_quantity` the amount is price(previous + quantity) - price(previous), negative where a
    volume price falls, and the lines are the differences between the lines of the two: what the new
    units add, what they take away, nothing that stays. Minimum and maximum hold for the total, also at
    quantity 0: a period with no usage costs its minimum, and a delta of nothing costs nothing.

    Args:
        price: a price that `pricing.model.faults` has nothing against.
        quantity: units; negative ones are corrections, and a total below 0 costs what 0 costs.
        currency: an ISO 4217 code; its exponent is where `amount` is rounded, half up.
        previous_quantity: units already priced in the same period, not negative.

    Raises:
        InvalidInput: a negative previous quantity, an unknown currency, or an amount of more than 20 digits
            before the point.
    """
    _check(quantity, currency, previous_quantity)
    try:
        with localcontext(EXACT):
            if previous_quantity is None:
                lines = _lines(price, max(quantity, ZERO))
            else:
                before = _lines(price, previous_quantity)
                lines = _difference(_lines(price, max(previous_quantity + quantity, ZERO)), before)
            exact = sum((line.amount for line in lines), ZERO)
            rounded = round_amount(exact, currency)
    except DecimalException:
        raise _out_of_range() from None
    amounts = [rounded, *(line.amount for line in lines)]
    if any(amount.copy_abs() >= _OUT_OF_RANGE for amount in amounts):
        raise _out_of_range()
    return Quote(rounded or rounded.copy_abs(), exact, currency, lines)  # no minus zero


def _check(quantity: Decimal, currency: str, previous_quantity: Decimal | None) -> None:
    errors = []
    for name, value in (("quantity", quantity), ("previous_quantity", previous_quantity)):
        if value is not None and not value.is_finite():
            errors.append(FieldError(f"/{name}", "must be a finite number"))
    if previous_quantity is not None and previous_quantity < 0:
        errors.append(FieldError("/previous_quantity", "must not be negative"))
    try:
        exponent(currency)
    except ValueError as error:
        errors.append(FieldError("/currency", str(error)))
    if errors:
        raise InvalidInput(errors)


def _out_of_range() -> InvalidInput:
    return InvalidInput([FieldError("/quantity", "the amount would have more than 20 digits before the point")])


def _lines(price: Price, quantity: Decimal) -> tuple[QuoteLine, ...]:
    match price:
        case Flat():
            lines = _flat_lines(price, quantity)
        case Tiered():
            lines = _tiered_lines(price, quantity)
        case Volume():
            lines = _volume_lines(price, quantity)
        case Package():
            lines = _package_lines(price, quantity)
    return lines + _limit_lines(price, lines)


def _flat_lines(price: Flat, quantity: Decimal) -> tuple[QuoteLine, ...]:
    lines = _included_lines(price.included, quantity)
    if quantity <= price.included:
        return lines
    return (*lines, _line(price.included, None, quantity - price.included, price.unit_price))


def _package_lines(price: Package, quantity: Decimal) -> tuple[QuoteLine, ...]:
    lines = _included_lines(price.included, quantity)
    if quantity <= price.included:
        return lines
    packages, begun = divmod(quantity - price.included, price.package_size)
    if begun and price.partial_package is PartialPackage.ROUND_UP:
        packages += 1
    return (*lines, _line(price.included, None, packages, price.package_price, kind=LineKind.PACKAGE))


def _included_lines(included: Decimal, quantity: Decimal) -> tuple[QuoteLine, ...]:
    if not included or not quantity:
        return ()
    return (_line(ZERO, included, min(quantity, included), ZERO, kind=LineKind.INCLUDED),)


def _tiered_lines(price: Tiered, quantity: Decimal) -> tuple[QuoteLine, ...]:
    if not quantity and price.zero_usage is ZeroUsage.NONE:
        return ()
    lines: list[QuoteLine] = []
    lower = ZERO
    for tier in price.tiers:
        if tier.up_to is None or quantity <= tier.up_to:
            return (*lines, _tier_line(tier, lower, quantity - lower))
        lines.append(_tier_line(tier, lower, tier.up_to - lower))
        lower = tier.up_to
    raise ValueError("the price has no open tier, which pricing.model.faults forbids")


def _volume_lines(price: Volume, quantity: Decimal) -> tuple[QuoteLine, ...]:
    if not quantity and price.zero_usage is ZeroUsage.NONE:
        return ()
    lower = ZERO
    for tier in price.tiers:
        if tier.up_to is None or quantity <= tier.up_to:
            return (_tier_line(tier, lower, quantity),)
        lower = tier.up_to
    raise ValueError("the price has no open tier, which pricing.model.faults forbids")


def _tier_line(tier: Tier, lower: Decimal, quantity: Decimal) -> QuoteLine:
    return _line(lower, tier.up_to, quantity, tier.unit_price, tier.flat_fee)


def _limit_lines(price: Price, lines: tuple[QuoteLine, ...]) -> tuple[QuoteLine, ...]:
    amount = sum((line.amount for line in lines), ZERO)
    if price.minimum_amount is not None and amount < price.minimum_amount:
        return (_line(ZERO, None, ZERO, ZERO, price.minimum_amount - amount, kind=LineKind.MINIMUM),)
    if price.maximum_amount is not None and amount > price.maximum_amount:
        return (_line(ZERO, None, ZERO, ZERO, price.maximum_amount - amount, kind=LineKind.MAXIMUM),)
    return ()


def _line(
    start: Decimal,
    end: Decimal | None,
    quantity: Decimal,
    unit_price: Decimal,
    flat_fee: Decimal = ZERO,
    *,
    kind: LineKind = LineKind.USAGE,
) -> QuoteLine:
    return QuoteLine(start, end, quantity, unit_price, flat_fee, quantity * unit_price + flat_fee, kind)


def _difference(after: tuple[QuoteLine, ...], before: tuple[QuoteLine, ...]) -> tuple[QuoteLine, ...]:
    """The lines that lead from one total to another of the same price; equal lines cancel out.

    Both come from one price, so kind and start name the same range with the same unit price.
    """
    new = {(_RANK[line.kind], line.start): line for line in after}
    old = {(_RANK[line.kind], line.start): line for line in before}
    changes = []
    for place in sorted(new.keys() | old.keys()):
        line = new.get(place) or old[place]
        quantity = _quantity(new.get(place)) - _quantity(old.get(place))
        flat_fee = _flat_fee(new.get(place)) - _flat_fee(old.get(place))
        if quantity or flat_fee:
            changes.append(_line(line.start, line.end, quantity, line.unit_price, flat_fee, kind=line.kind))
    return tuple(changes)


def _quantity(line: QuoteLine | None) -> Decimal:
    return line.quantity if line else ZERO


def _flat_fee(line: QuoteLine | None) -> Decimal:
    return line.flat_fee if line else ZERO


def quote_to_dict(quote: Quote) -> dict[str, Any]:
    """The JSON form of a quote: `amount` with the currency's decimals, "2300.00", all else plain, "2300"."""
    return {
        "amount": f"{quote.amount:f}",
        "currency": quote.currency,
        "exact_amount": format_decimal(quote.exact_amount),
        "lines": [_line_to_dict(line) for line in quote.lines],
    }


def _line_to_dict(line: QuoteLine) -> dict[str, Any]:
    return {
        "kind": line.kind.value,
        "from": format_decimal(line.start),
        "to": None if line.end is None else format_decimal(line.end),
        "quantity": format_decimal(line.quantity),
        "unit_price": format_decimal(line.unit_price),
        "flat_fee": format_decimal(line.flat_fee),
        "amount": format_decimal(line.amount),
    }

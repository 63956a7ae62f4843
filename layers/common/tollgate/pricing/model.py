"""The four price models, their stored form, and the rules a price must keep when it is written.

Prices, fees and amounts are exact decimals in the currency's major unit (0.05 is five cents of a
euro) and may be finer than its minor unit; quantities are in the feature's unit and may be fractions.
"""

from collections.abc import Iterator
from decimal import Decimal
from enum import StrEnum
from itertools import pairwise
from typing import Any, Final

from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import FieldError
from tollgate.kernel.money import ZERO, format_decimal

__all__ = [
    "MAX_TIERS",
    "Flat",
    "Package",
    "PartialPackage",
    "Price",
    "Tier",
    "Tiered",
    "Volume",
    "ZeroUsage",
    "faults",
    "price_from_dict",
    "price_to_dict",
]

MAX_TIERS: Final = 100


class ZeroUsage(StrEnum):
    """Whether quantity 0 is charged the first tier's flat fee; prices without tiers ignore it."""

    NONE = "none"
    FLAT = "flat"


class PartialPackage(StrEnum):
    """Whether a package that is begun is charged whole or not at all."""

    ROUND_UP = "round_up"
    ROUND_DOWN = "round_down"


@dataclass(frozen=True, slots=True)
class Tier:
    """The units above the previous tier's bound, up to and including `up_to`; None is open."""

    up_to: Decimal | None
    unit_price: Decimal
    flat_fee: Decimal = ZERO


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limits:
    """What every model has: the least and the most that one period costs."""

    minimum_amount: Decimal | None = None
    maximum_amount: Decimal | None = None
    zero_usage: ZeroUsage = ZeroUsage.NONE


@dataclass(frozen=True, slots=True)
class Flat(_Limits):
    """Every unit above the included ones at one price."""

    unit_price: Decimal
    included: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class Tiered(_Limits):
    """Graduated: each tier's units at that tier's price, and the flat fee of every tier entered."""

    tiers: tuple[Tier, ...]


@dataclass(frozen=True, slots=True)
class Volume(_Limits):
    """All units at the price of the tier that the total reaches, and that tier's flat fee."""

    tiers: tuple[Tier, ...]


@dataclass(frozen=True, slots=True)
class Package(_Limits):
    """Units above the included ones sold in whole packages of `package_size`."""

    package_size: Decimal
    package_price: Decimal
    included: Decimal = ZERO
    partial_package: PartialPackage = PartialPackage.ROUND_UP


Price = Flat | Tiered | Volume | Package


def price_to_dict(price: Price) -> dict[str, Any]:
    """The JSON form of a price: decimal strings in one canonical spelling, so equal prices are equal dicts.

    An absent `minimum_amount` or `maximum_amount` is left out.
    """
    fields: dict[str, Any]
    match price:
        case Flat():
            fields = {
                "model": "flat",
                "unit_price": format_decimal(price.unit_price),
                "included": format_decimal(price.included),
            }
        case Tiered():
            fields = {"model": "tiered", "tiers": [_tier_to_dict(tier) for tier in price.tiers]}
        case Volume():
            fields = {"model": "volume", "tiers": [_tier_to_dict(tier) for tier in price.tiers]}
        case Package():
            fields = {
                "model": "package",
                "package_size": format_decimal(price.package_size),
                "package_price": format_decimal(price.package_price),
                "included": format_decimal(price.included),
                "partial_package": price.partial_package.value,
            }
    return fields | _limits_to_dict(price)


def _tier_to_dict(tier: Tier) -> dict[str, Any]:
    return {
        "up_to": None if tier.up_to is None else format_decimal(tier.up_to),
        "unit_price": format_decimal(tier.unit_price),
        "flat_fee": format_decimal(tier.flat_fee),
    }


def _limits_to_dict(price: Price) -> dict[str, Any]:
    limits: dict[str, Any] = {"zero_usage": price.zero_usage.value}
    if price.minimum_amount is not None:
        limits["minimum_amount"] = format_decimal(price.minimum_amount)
    if price.maximum_amount is not None:
        limits["maximum_amount"] = format_decimal(price.maximum_amount)
    return limits


def price_from_dict(data: dict[str, Any]) -> Price:
    """Read what `price_to_dict` wrote; trusts it, so a request goes through schema.py and `faults`.

    Raises:
        ValueError: `model` is none of the four.
    """
    limits = _limits_from_dict(data)
    match data["model"]:
        case "flat":
            return Flat(Decimal(data["unit_price"]), Decimal(data.get("included", 0)), **limits)
        case "tiered":
            return Tiered(_tiers_from_list(data["tiers"]), **limits)
        case "volume":
            return Volume(_tiers_from_list(data["tiers"]), **limits)
        case "package":
            return Package(
                Decimal(data["package_size"]),
                Decimal(data["package_price"]),
                Decimal(data.get("included", 0)),
                PartialPackage(data.get("partial_package", PartialPackage.ROUND_UP)),
                **limits,
            )
    raise ValueError(f"unknown price model {data['model']!r}")


def _tiers_from_list(tiers: list[dict[str, Any]]) -> tuple[Tier, ...]:
    return tuple(
        Tier(_optional(tier["up_to"]), Decimal(tier["unit_price"]), Decimal(tier.get("flat_fee", 0))) for tier in tiers
    )


def _limits_from_dict(data: dict[str, Any]) -> dict[str, Any]:
    return {
        "minimum_amount": _optional(data.get("minimum_amount")),
        "maximum_amount": _optional(data.get("maximum_amount")),
        "zero_usage": ZeroUsage(data.get("zero_usage", ZeroUsage.NONE)),
    }


def _optional(value: str | None) -> Decimal | None:
    return None if value is None else Decimal(value)


def faults(price: Price, pointer: str = "") -> list[FieldError]:
    """Everything that forbids a price to be written, all at once; an empty list is a sound price.

    Args:
        price: the price to check.
        pointer: where the price stands in the body, such as "/features/0/price".
    """
    match price:
        case Flat():
            own = _negatives(pointer, unit_price=price.unit_price, included=price.included)
        case Package():
            own = _package_faults(price, pointer)
        case Tiered() | Volume():
            own = _tier_faults(price.tiers, f"{pointer}/tiers")
    return [*own, *_limit_faults(price, pointer)]


def _package_faults(price: Package, pointer: str) -> Iterator[FieldError]:
    if price.package_size <= 0:
        yield FieldError(f"{pointer}/package_size", "must be greater than 0")
    yield from _negatives(pointer, package_price=price.package_price, included=price.included)


def _tier_faults(tiers: tuple[Tier, ...], pointer: str) -> Iterator[FieldError]:
    if not tiers:
        yield FieldError(pointer, "must have at least one tier")
        return
    if len(tiers) > MAX_TIERS:
        yield FieldError(pointer, f"must have at most {MAX_TIERS} tiers")
        return
    yield from _bound_faults([tier.up_to for tier in tiers], pointer)
    for index, tier in enumerate(tiers):
        yield from _negatives(f"{pointer}/{index}", unit_price=tier.unit_price, flat_fee=tier.flat_fee)


def _bound_faults(bounds: list[Decimal | None], pointer: str) -> Iterator[FieldError]:
    *inner, last = bounds
    for index, bound in enumerate(inner):
        if bound is None:
            yield FieldError(f"{pointer}/{index}/up_to", "must not be null: only the last tier is open")
    if last is not None:
        yield FieldError(f"{pointer}/{len(inner)}/up_to", "must be null: the last tier is open")
    closed = [(index, bound) for index, bound in enumerate(bounds) if bound is not None]
    for index, bound in closed:
        if bound <= 0:
            yield FieldError(f"{pointer}/{index}/up_to", "must be greater than 0")
    for (before, lower), (index, upper) in pairwise(closed):
        if upper <= lower:
            detail = f"must be greater than the bound of tier {before}, {format_decimal(lower)}"
            yield FieldError(f"{pointer}/{index}/up_to", detail)


def _limit_faults(price: Price, pointer: str) -> Iterator[FieldError]:
    lowest, highest = price.minimum_amount, price.maximum_amount
    yield from _negatives(pointer, minimum_amount=lowest, maximum_amount=highest)
    if lowest is not None and highest is not None and lowest > highest:
        yield FieldError(f"{pointer}/minimum_amount", "must not be greater than maximum_amount")


def _negatives(pointer: str, **fields: Decimal | None) -> Iterator[FieldError]:
    for name, value in fields.items():
        if value is not None and value < 0:
            yield FieldError(f"{pointer}/{name}", "must not be negative")

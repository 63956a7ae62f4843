"""Prices and quotes as they come in and go out: types and shapes; the rules are in model.faults."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from tollgate.kernel.money import ZERO
from tollgate.kernel.schema import CurrencyCode, DecimalString, UnsignedDecimal
from tollgate.pricing.model import (
    MAX_TIERS,
    Flat,
    Package,
    PartialPackage,
    Price,
    Tier,
    Tiered,
    Volume,
    ZeroUsage,
)

__all__ = [
    "FlatPriceBody",
    "PackagePriceBody",
    "PriceBody",
    "QuoteLineBody",
    "QuoteRequest",
    "QuoteResponse",
    "TierBody",
    "TieredPriceBody",
    "VolumePriceBody",
    "to_price",
]

_TIERS: Final[dict[str, Any]] = {"minItems": 1, "maxItems": MAX_TIERS}
_GRADUATED: Final[dict[str, Any]] = {
    "model": "tiered",
    "tiers": [
        {"up_to": "100", "unit_price": "10", "flat_fee": "0"},
        {"up_to": None, "unit_price": "8", "flat_fee": "0"},
    ],
}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TierBody(_Body):
    """Units up to and including a bound, and what they cost."""

    up_to: UnsignedDecimal | None = Field(description="Inclusive upper bound; null in the last tier.")
    unit_price: UnsignedDecimal = Field(description="Price of one unit.", examples=["10"])
    flat_fee: UnsignedDecimal = Field(default=ZERO, description="Charged once when the tier is entered.")


class _LimitsBody(_Body):
    minimum_amount: UnsignedDecimal | None = Field(
        default=None, description="The least a period costs, also with no usage."
    )
    maximum_amount: UnsignedDecimal | None = Field(default=None, description="The most a period costs.")
    zero_usage: Literal["none", "flat"] = Field(
        default="none", description="Whether quantity 0 is charged the first tier's flat fee."
    )


class FlatPriceBody(_LimitsBody):
    """(quantity - included) x unit_price, never below 0."""

    model: Literal["flat"]
    unit_price: UnsignedDecimal = Field(description="Price of one unit.", examples=["0.05"])
    included: UnsignedDecimal = Field(default=ZERO, description="Units that are free in each period.")


class TieredPriceBody(_LimitsBody):
    """Graduated: each tier's units at that tier's price."""

    model: Literal["tiered"]
    tiers: list[TierBody] = Field(description="In ascending order.", json_schema_extra=_TIERS)


class VolumePriceBody(_LimitsBody):
    """All units at the price of the tier that the total reaches."""

    model: Literal["volume"]
    tiers: list[TierBody] = Field(description="In ascending order.", json_schema_extra=_TIERS)


class PackagePriceBody(_LimitsBody):
    """Whole packages of units above the included ones."""

    model: Literal["package"]
    package_size: UnsignedDecimal = Field(description="Units in one package.", examples=["500"])
    package_price: UnsignedDecimal = Field(description="Price of one package.", examples=["20"])
    included: UnsignedDecimal = Field(default=ZERO, description="Units that are free in each period.")
    partial_package: Literal["round_up", "round_down"] = Field(
        default="round_up", description="Whether a package that is begun is charged whole or not at all."
    )


PriceBody = Annotated[
    FlatPriceBody | TieredPriceBody | VolumePriceBody | PackagePriceBody, Field(discriminator="model")
]
"""A price of any model, told apart by `model`."""


class QuoteRequest(_Body):
    """A price to try out on a quantity."""

    currency: CurrencyCode = Field(description="ISO 4217 code.", examples=["EUR"])
    price: PriceBody = Field(examples=[_GRADUATED])
    quantity: DecimalString = Field(description="Units to price.", examples=["250"])
    previous_quantity: UnsignedDecimal | None = Field(
        default=None, description="Units already priced in the same period.", examples=["100"]
    )


_PlainDecimal = Annotated[str, StringConstraints(pattern=r"^-?[0-9]+(\.[0-9]+)?$")]
"""A decimal string with every digit of an exact product: up to 36 after the point."""


class QuoteLineBody(_Body):
    """One line: amount = quantity x unit_price + flat_fee. In a delta the figures are what changed."""

    kind: Literal["included", "usage", "package", "minimum", "maximum"] = Field(
        description="In a package line, quantity counts packages and unit_price is the price of one."
    )
    start: _PlainDecimal = Field(alias="from", description="Exclusive lower bound.", examples=["100"])
    end: _PlainDecimal | None = Field(alias="to", description="Inclusive upper bound; null is open.")
    quantity: _PlainDecimal = Field(examples=["150"])
    unit_price: _PlainDecimal = Field(examples=["8"])
    flat_fee: _PlainDecimal = Field(examples=["0"])
    amount: _PlainDecimal = Field(description="Exact.", examples=["1200"])


class QuoteResponse(_Body):
    """What the quantity costs, and why."""

    amount: _PlainDecimal = Field(
        description="Rounded once, half up, to the currency's decimals.", examples=["2200.00"]
    )
    currency: CurrencyCode = Field(examples=["EUR"])
    exact_amount: _PlainDecimal = Field(description="The sum of the lines.", examples=["2200"])
    lines: list[QuoteLineBody]


def to_price(body: FlatPriceBody | TieredPriceBody | VolumePriceBody | PackagePriceBody) -> Price:
    """The price that a body describes; `model.faults` then says whether it may be written."""
    limits: dict[str, Any] = {
        "minimum_amount": body.minimum_amount,
        "maximum_amount": body.maximum_amount,
        "zero_usage": ZeroUsage(body.zero_usage),
    }
    match body:
        case FlatPriceBody():
            return Flat(body.unit_price, body.included, **limits)
        case TieredPriceBody():
            return Tiered(_tiers(body.tiers), **limits)
        case VolumePriceBody():
            return Volume(_tiers(body.tiers), **limits)
        case PackagePriceBody():
            partial = PartialPackage(body.partial_package)
            return Package(body.package_size, body.package_price, body.included, partial, **limits)


def _tiers(bodies: list[TierBody]) -> tuple[Tier, ...]:
    return tuple(Tier(body.up_to, body.unit_price, body.flat_fee) for body in bodies)

"""Prices agree with the figures that other billing systems assert; where they cannot, the test says why."""

import json
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest

from tollgate.kernel.money import EXACT, ZERO
from tollgate.pricing.model import Price, faults, price_from_dict
from tollgate.pricing.quotes import Quote, quote

GOLDEN: Final = Path(__file__).parents[1] / "data" / "golden" / "pricing.json"
CASES: Final[list[dict[str, Any]]] = json.loads(GOLDEN.read_text(encoding="utf-8"))

OURS: Final = {
    "flat": "flat",
    "flat_overage": "flat",
    "tiered": "tiered",
    "volume": "volume",
    "package": "package",
    "flat_delta": "flat",
    "tiered_delta": "tiered",
    "volume_delta": "volume",
    "package_delta": "package",
}

BEYOND_THE_FOUR_MODELS: Final = {
    "percentage": 12,
    "volume_billing_units": 11,
    "tiered_percentage": 6,
    "tiered_billing_units": 5,
    "unit_conversion": 5,
    "volume_packages": 5,
    "dynamic": 3,
    "flat_buckets": 3,
    "tiered_packages": 3,
    "tiered_buckets": 2,
    "credited_units": 1,
    "invoice_order": 1,
    "package_buckets": 1,
    "proration": 1,
    "rounded_balance": 1,
    "rounding": 1,
    "volume_buckets": 1,
}

NO_OPEN_TIER: Final = {
    "tiered-238": "5 of 15 units lie above the last bound and are billed 0 there; opened, they are billed",
    "tiered-271": "the last tier ends at 10005",
    "volume-287": "the last tier ends at 1000",
    "tiered-300": "the last tier ends at 300",
    "tiered-301": "the last tier ends at 300",
    "tiered-310": "the last tier ends at 100000",
}
"""Their last tier is bounded, which is refused at write time."""

OPENED_TO: Final = {"tiered-238": Decimal(7500)}
"""What opening the last tier changes: nothing, except where units lie above its bound."""

MINIMUM_IN_BOTH_TOTALS: Final = {
    "tiered_delta-076": "0 more units after 0 are billed 900, the minimum 1000 less the 100 billed before; "
    "here both totals hold the minimum, so that the delta is 0"
}
"""They top up to a minimum that the bill before had not applied, which a delta of two prices cannot know."""

CONTRADICTED: Final = NO_OPEN_TIER.keys() | MINIMUM_IN_BOTH_TOTALS.keys()

PRICED: Final = [case for case in CASES if case["model"] in OURS]


def cases(*, contradicted: bool = False, deltas: bool | None = None) -> list[Any]:
    """The priced cases of one sort as pytest parameters, named by their ids."""
    return [
        pytest.param(case, id=case["id"])
        for case in PRICED
        if (case["id"] in CONTRADICTED) is contradicted and deltas in {None, "pre_quantity" in case["params"]}
    ]


def price_of(case: dict[str, Any]) -> Price:
    """The price of a case, in our terms."""
    params = case["params"]
    included = params.get("included", params.get("free_units", "0"))
    return price_from_dict(params | {"model": OURS[case["model"]], "included": included})


def opened(case: dict[str, Any]) -> Price:
    """The price of a case with its last tier open."""
    *tiers, last = case["params"]["tiers"]
    params = case["params"] | {"tiers": [*tiers, last | {"up_to": None}]}
    return price_from_dict(params | {"model": OURS[case["model"]]})


def figure(case: dict[str, Any], answer: Quote) -> Decimal:
    """The number to compare: exact, or rounded where the case rounds to whole minor units."""
    return answer.amount if "round_minor_half_up" in case["params"] else answer.exact_amount


def currency(case: dict[str, Any]) -> str:
    """Minor units are priced in a currency that has no smaller ones, so that they round as such."""
    return {"major": "EUR", "minor": "JPY"}[case["money_unit"]]


def case_named(name: str) -> dict[str, Any]:
    """The case of that id."""
    return next(case for case in CASES if case["id"] == name)


def test_every_case_is_priced_or_named_as_beyond_the_four_models() -> None:
    """No case is left out in silence."""
    others = Counter(case["model"] for case in CASES if case["model"] not in OURS)
    assert others == BEYOND_THE_FOUR_MODELS
    assert len(PRICED) == 125
    assert {case["id"] for case in PRICED} >= CONTRADICTED
    assert len({case["id"] for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", cases())
def test_a_golden_price_is_sound(case: dict[str, Any]) -> None:
    """What others sell can be written here."""
    assert faults(price_of(case)) == []


@pytest.mark.parametrize("case", cases(deltas=False))
def test_a_golden_quantity_costs_what_others_bill(case: dict[str, Any]) -> None:
    """The amount of a period is the amount that the source asserts."""
    answer = quote(price_of(case), Decimal(case["quantity"]), currency(case))
    assert figure(case, answer) == Decimal(case["expected"])


@pytest.mark.parametrize("case", cases(deltas=True))
def test_golden_units_add_to_a_period_what_others_bill(case: dict[str, Any]) -> None:
    """The amount with a previous quantity is the amount that the source bills on top."""
    previous = Decimal(case["params"]["pre_quantity"])
    answer = quote(price_of(case), Decimal(case["quantity"]), currency(case), previous)
    assert figure(case, answer) == Decimal(case["expected"])


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case["id"]) for case in PRICED if "previously_billed" in case["params"]],
)
def test_a_golden_total_less_what_was_billed_is_what_others_bill(case: dict[str, Any]) -> None:
    """Where the source names what was billed before, the new total less that is its amount."""
    params = case["params"]
    total = EXACT.add(Decimal(params["pre_quantity"]), Decimal(case["quantity"]))
    answer = quote(price_of(case), total, currency(case))
    assert answer.exact_amount - Decimal(params["previously_billed"]) == Decimal(case["expected"])


@pytest.mark.parametrize("name", NO_OPEN_TIER)
def test_a_price_with_no_open_tier_is_refused_and_once_opened_agrees(name: str) -> None:
    """The only fault is the bound of the last tier; with it open, the amount is theirs or the one named."""
    case = case_named(name)
    last = len(case["params"]["tiers"]) - 1
    assert [fault.pointer for fault in faults(price_of(case))] == [f"/tiers/{last}/up_to"]
    answer = quote(opened(case), Decimal(case["quantity"]), currency(case))
    assert answer.exact_amount == OPENED_TO.get(name, Decimal(case["expected"]))


@pytest.mark.parametrize("name", MINIMUM_IN_BOTH_TOTALS)
def test_a_delta_of_nothing_costs_nothing_where_others_top_up_to_a_minimum(name: str) -> None:
    """The source bills the top-up now; here price(0 + 0) - price(0) is 0 and the total held it already."""
    case = case_named(name)
    answer = quote(price_of(case), Decimal(case["quantity"]), currency(case), ZERO)
    assert Decimal(case["expected"]) == 900
    assert (answer.exact_amount, answer.lines) == (ZERO, ())

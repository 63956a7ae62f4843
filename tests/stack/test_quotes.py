"""Golden prices over the API's quote route: every tenth case of the four models and of their deltas."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

GOLDEN: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "data/golden/pricing.json").read_text())
MODELS = {"flat": "flat", "flat_overage": "flat", "tiered": "tiered", "volume": "volume", "package": "package"}
MODELS |= {f"{model}_delta": model for model in ("flat", "tiered", "volume", "package")}
PRICED = [case for case in GOLDEN if case["model"] in MODELS]
KEYS = ("unit_price", "included", "tiers", "package_size", "package_price", "partial_package", "minimum_amount",
        "maximum_amount", "zero_usage")  # fmt: skip


def request_of(case: dict[str, Any]) -> dict[str, Any]:
    """The body that asks for a case's price."""
    params = case["params"]
    price = {key: params[key] for key in KEYS if key in params} | {"model": MODELS[case["model"]]}
    if "free_units" in params:
        price["included"] = params["free_units"]
    body = {
        "currency": {"major": "EUR", "minor": "JPY"}[case["money_unit"]],
        "price": price,
        "quantity": case["quantity"],
    }
    return body | ({"previous_quantity": params["pre_quantity"]} if "pre_quantity" in params else {})


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case["id"]) for case in PRICED[::10] + [c for c in PRICED if c["id"] == "flat-247"]]
)
def test_a_golden_case_is_quoted_as_others_bill_it(api: httpx.Client, case: dict[str, Any]) -> None:
    """The exact amount is the expected one, the lines add up to it, and the amount is it, rounded once."""
    answer = api.post("/v1/prices/quote", json=request_of(case))
    body = answer.raise_for_status().json()
    figure = body["amount"] if "round_minor_half_up" in case["params"] else body["exact_amount"]
    assert Decimal(figure) == Decimal(case["expected"])
    assert sum(Decimal(line["amount"]) for line in body["lines"]) == Decimal(body["exact_amount"])


def test_a_volume_delta_may_be_negative(api: httpx.Client) -> None:
    """All units become cheaper where the total reaches the next tier."""
    price = {"model": "volume", "tiers": [{"up_to": "10", "unit_price": "5"}, {"up_to": None, "unit_price": "1"}]}
    body = {"currency": "EUR", "price": price, "quantity": "1", "previous_quantity": "10"}
    answer = api.post("/v1/prices/quote", json=body).json()
    assert (answer["amount"], answer["exact_amount"], answer["currency"]) == ("-39.00", "-39", "EUR")


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"currency": "ZZZ"}, "/currency"),
        ({"quantity": 1.5}, "/quantity"),
        ({"quantity": "NaN"}, "/quantity"),
        ({"quantity": "1e400"}, "/quantity"),
        ({"previous_quantity": "-1"}, "/previous_quantity"),
        ({"price": {"model": "flat"}}, "/price/unit_price"),
        ({"price": {"model": "flat", "unit_price": "-1"}}, "/price/unit_price"),
        ({"price": {"model": "tiered", "tiers": []}}, "/price/tiers"),
        ({"price": {"unit_price": "1"}}, "/price/model"),
    ],
)
def test_a_bad_question_is_refused_with_a_pointer(api: httpx.Client, change: dict[str, Any], pointer: str) -> None:
    """422, and where."""
    body = {"currency": "EUR", "price": {"model": "flat", "unit_price": "1"}, "quantity": "1"} | change
    answer = api.post("/v1/prices/quote", json=body)
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]

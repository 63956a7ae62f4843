"""Golden periods as real subscriptions: read over the API, and closed by the billing run."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.faults.functions import Api
from tests.unit.test_periods_golden import CASES, UNITS, instant
from tollgate.kernel.time import format_time
from tools.engine import Engine

SEEN = [case for case in CASES if case["conforms_to_rule"] and case["id"] != "period-27"]
"""All but one, whose period lies before its anchor: that is asked when the subscription has not begun."""


def test_only_one_golden_period_lies_before_its_anchor_and_no_subscription_begins_so_late(database: Engine) -> None:
    """Only the calendar itself can be asked for it (tests/unit/test_periods_golden.py)."""
    assert database
    early = [case for case in CASES if case["conforms_to_rule"] and local(case, "at") < local(case, "anchor_local")]
    assert [case["id"] for case in early] == ["period-27"]
    api = Api(local(early[0], "at"))
    api("PUT", "/v1/plans/plan", {"name": "Plan", "currency": "EUR", "billing_period": {"interval": "month"}})
    api("PUT", "/v1/customers/ada", {"timezone": early[0]["timezone"]})
    start = format_time(local(early[0], "anchor_local"))
    problem = api.refused("POST", "/v1/subscriptions", {"customer": "ada", "plan": "plan", "starts_at": start})
    assert problem["errors"] == [{"pointer": "/starts_at", "detail": "must not lie in the future"}]


def local(case: dict[str, Any], name: str) -> datetime:
    """An instant of a case, by its clock."""
    return instant(case[name], ZoneInfo(case["timezone"]))


@pytest.mark.parametrize("case", [pytest.param(case, id=case["id"]) for case in SEEN])
def test_a_golden_period_is_that_of_a_subscription_and_is_invoiced_once(database: Engine, case: dict[str, Any]) -> None:
    """Month ends, leap years, days 29 to 31 and clocks that change, in the customer's time zone."""
    assert database
    zone = ZoneInfo(case["timezone"])
    interval, count = UNITS[case["interval"]]
    start, end = instant(case["expected_start"], zone), instant(case["expected_end"], zone)
    expected = {"start": format_time(start), "end": format_time(end)}
    api = Api(instant(case["at"], zone))
    unit = {"interval": interval.value, "count": count * case["interval_count"]}
    api("PUT", "/v1/plans/plan", {"name": "Plan", "currency": "EUR", "billing_period": unit})
    api("PUT", "/v1/customers/ada", {"timezone": case["timezone"]})
    anchor = format_time(instant(case["anchor_local"], zone))
    made = api("POST", "/v1/subscriptions", {"id": "sub", "customer": "ada", "plan": "plan", "starts_at": anchor})
    assert made["current_period"] == expected
    assert api("GET", "/v1/subscriptions/sub/invoices/upcoming")["period"] == expected

    api.now = end
    run = api("POST", "/v1/billing/run", {})
    invoices = api("GET", "/v1/invoices", subscription="sub", limit="100")["items"]
    assert run["invoices"] == len(invoices)
    assert invoices[0]["period"] == expected
    starts = [invoice["period"]["start"] for invoice in invoices]
    ends = [invoice["period"]["end"] for invoice in invoices]
    assert starts[-1] == anchor
    assert ends[1:] == starts[:-1]
    assert api("POST", "/v1/billing/run", {})["subscriptions"] == 0
    assert api("GET", "/v1/subscriptions/sub")["current_period"]["start"] == expected["end"]

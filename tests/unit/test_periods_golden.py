"""Billing periods agree with the dates that other billing systems assert."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest

from tollgate.catalog.periods import Interval, Period, period_at

GOLDEN: Final = Path(__file__).parents[1] / "data" / "golden" / "periods.json"
CASES: Final[list[dict[str, Any]]] = json.loads(GOLDEN.read_text(encoding="utf-8"))

UNITS: Final = {
    "day": (Interval.DAY, 1),
    "week": (Interval.WEEK, 1),
    "month": (Interval.MONTH, 1),
    "half_year": (Interval.MONTH, 6),
    "year": (Interval.YEAR, 1),
}

DEPARTURES: Final = {
    "period-18": Period(datetime(2023, 2, 28, tzinfo=UTC), datetime(2024, 2, 29, tzinfo=UTC)),
    "period-29": Period(datetime(2023, 6, 15, 12, tzinfo=UTC), datetime(2024, 6, 15, 12, tzinfo=UTC)),
}
"""A start before the anchor in the anchor's year makes a first year of 13 and 17 months in the source;
the rule ends that year at the anchor."""


def instant(text: str, zone: ZoneInfo) -> datetime:
    """A time of a case: local, unless it has an offset."""
    value = datetime.fromisoformat(text)
    return (value if value.tzinfo else value.replace(tzinfo=zone)).astimezone(UTC)


def period_of(case: dict[str, Any]) -> Period:
    """Our period for a case."""
    zone = ZoneInfo(case["timezone"])
    interval, count = UNITS[case["interval"]]
    anchor, at = instant(case["anchor_local"], zone), instant(case["at"], zone)
    return period_at(anchor, case["timezone"], interval, count * case["interval_count"], at)


@pytest.mark.parametrize("case", [pytest.param(case, id=case["id"]) for case in CASES if case["conforms_to_rule"]])
def test_a_golden_instant_lies_in_the_period_that_others_bill(case: dict[str, Any]) -> None:
    """Start and end are those of the source, in its zone and in UTC."""
    zone = ZoneInfo(case["timezone"])
    period = period_of(case)
    assert period.start == instant(case["expected_start"], zone)
    assert period.end == instant(case["expected_end"], zone)
    assert period.end == datetime.fromisoformat(case["expected_end_utc"])


@pytest.mark.parametrize("case", [pytest.param(case, id=case["id"]) for case in CASES if not case["conforms_to_rule"]])
def test_a_source_that_departs_from_the_rule_ends_its_period_a_year_later(case: dict[str, Any]) -> None:
    """Each departure is the one named above, and no other."""
    period = period_of(case)
    assert period == DEPARTURES[case["id"]]
    assert period.end < datetime.fromisoformat(case["expected_end_utc"])


def test_every_departure_is_a_case() -> None:
    """The list of departures is the list of cases that are marked so."""
    assert {case["id"] for case in CASES if not case["conforms_to_rule"]} == DEPARTURES.keys()

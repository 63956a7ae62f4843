"""Usage alerts: which thresholds a counter has reached, and how that is told. Pure.

What counts is that the usage is at or above a threshold, not that it has just crossed it: whoever sends an event
again, after a crash between its count and its alert, finds the threshold reached and tells it then. That each is told
once per period is for those who tell it.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Protocol

from tollgate.catalog.model import Threshold, threshold_to_dict
from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import FieldError, InvalidInput
from tollgate.kernel.ids import derived_id
from tollgate.kernel.json import read_json
from tollgate.kernel.money import EXACT, format_decimal
from tollgate.kernel.time import format_time, parse_time
from tollgate.metering.model import CounterId

__all__ = ["THRESHOLD_REACHED", "Announcer", "Reached", "reached", "reached_from_json", "reached_to_dict"]

THRESHOLD_REACHED: Final = "usage.threshold_reached"

_DECIMAL: Final = re.compile(r"\d{1,40}(\.\d{1,40})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reached:
    """A threshold that the usage of a counter, `used`, had reached at `at`.

    `period_end` is that of the counter's period, not in it; `limit` is the quota, if there is one.
    """

    counter: CounterId
    period_end: datetime
    threshold: Threshold
    limit: Decimal | None
    used: Decimal
    at: datetime

    @property
    def counter_key(self) -> str:
        """A name for the counter, the same each time; none of its parts has a # in it."""
        one = self.counter
        return "#".join([one.customer, one.feature, one.subscription, format_time(one.period_start)])

    @property
    def threshold_key(self) -> str:
        """A name for the threshold among those of its counter, the same each time."""
        [(kind, value)] = threshold_to_dict(self.threshold).items()
        return f"{kind}#{value}"

    @property
    def id(self) -> str:
        """One for each threshold and counter, and so for each period."""
        return derived_id("alert", f"{self.counter_key}#{self.threshold_key}")


class Announcer(Protocol):
    """Sees to it that thresholds that were reached are told."""

    def announce(self, reached: Sequence[Reached]) -> None:
        """Take them over; those it knows it has taken over before are nothing to it.

        Raises:
            Unavailable: not all could be taken over; the same events sent again lead here again.
        """


def reached(
    counter: CounterId,
    period_end: datetime,
    thresholds: Iterable[Threshold],
    *,
    limit: Decimal | None,
    used: Decimal,
    at: datetime,
) -> list[Reached]:
    """The thresholds that the usage of a counter has reached; a percentage of no quota, and no usage, reach none."""
    return [
        Reached(counter, period_end, threshold, limit, used, at)
        for threshold in thresholds
        if (quantity := _quantity(threshold, limit)) is not None and used > 0 and used >= quantity
    ]


def _quantity(threshold: Threshold, limit: Decimal | None) -> Decimal | None:
    if threshold.percent is None:
        return threshold.quantity
    return None if limit is None else EXACT.scaleb(EXACT.multiply(threshold.percent, limit), -2)


def reached_to_dict(one: Reached) -> dict[str, Any]:
    """The event that tells of it."""
    return {
        "type": THRESHOLD_REACHED,
        "timestamp": format_time(one.at),
        "data": {
            "customer": one.counter.customer,
            "feature": one.counter.feature,
            "subscription": one.counter.subscription,
            "period": {"start": format_time(one.counter.period_start), "end": format_time(one.period_end)},
            "threshold": threshold_to_dict(one.threshold),
            "limit": None if one.limit is None else format_decimal(one.limit),
            "used": format_decimal(one.used),
        },
    }


def reached_from_json(text: str) -> Reached:
    """Read back what `reached_to_dict` wrote.

    Raises:
        BadRequest, InvalidInput: it is not such a text.
    """
    body = read_json(text)
    try:
        data = body["data"]
        start, end = parse_time(data["period"]["start"]), parse_time(data["period"]["end"])
        counter = CounterId(data["customer"], data["feature"], data["subscription"], start)
        [(kind, value)] = data["threshold"].items()
        threshold = Threshold(**{kind: _decimal(value)})
        limit = None if data["limit"] is None else _decimal(data["limit"])
        one = Reached(counter, end, threshold, limit, _decimal(data["used"]), parse_time(body["timestamp"]))
        told_again = reached_to_dict(one)
    except (LookupError, TypeError, ValueError, AttributeError):
        told_again = {}
    if told_again != body:
        raise InvalidInput([FieldError("", f"must be an event {THRESHOLD_REACHED}")])
    return one


def _decimal(text: str) -> Decimal:
    # Usage may have more digits than a decimal of the wire, but never an exponent.
    if not _DECIMAL.fullmatch(text):
        raise ValueError("not a decimal")
    return Decimal(text)

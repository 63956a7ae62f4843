"""Questions about usage and events, as they stand in a query string."""

import re
from collections.abc import Mapping
from datetime import datetime

from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import FieldError, InvalidInput, NotFound
from tollgate.kernel.ids import ID_PATTERN, is_id
from tollgate.kernel.time import parse_time
from tollgate.metering.model import MAX_EVENTS
from tollgate.metering.schema import MAX_SOURCE
from tollgate.metering.usage import Granularity

__all__ = [
    "EventQuestion",
    "ListingQuestion",
    "UsageQuestion",
    "event_question",
    "listing_question",
    "usage_question",
]


@dataclass(frozen=True, slots=True)
class UsageQuestion:
    """What a customer has used of a feature in [start, end), and how finely."""

    feature: str
    start: datetime | None
    end: datetime | None
    granularity: Granularity


@dataclass(frozen=True, slots=True)
class EventQuestion:
    """Which event is meant; of what feature, and when, where that is told."""

    id: str
    source: str
    customer: str
    feature: str | None
    time: datetime | None


@dataclass(frozen=True, slots=True)
class ListingQuestion:
    """Which events of a feature, of [start, end), are listed; `name` tells this list from others, for its cursors."""

    feature: str
    start: datetime | None
    end: datetime | None
    limit: int
    name: str


def usage_question(customer: str, query: Mapping[str, str]) -> UsageQuestion:
    """Read a question about usage.

    Raises:
        InvalidInput: with a pointer to the parameter.
        NotFound: there is no such customer.
    """
    feature, granularity = _feature(customer, query), query.get("granularity", "period")
    if granularity not in set(Granularity):
        raise InvalidInput([FieldError("/granularity", "must be period, day or hour")])
    return UsageQuestion(feature, _instant(query, "from"), _instant(query, "to"), Granularity(granularity))


def event_question(query: Mapping[str, str]) -> EventQuestion:
    """Read a question about an event.

    Raises:
        InvalidInput: with a pointer to each parameter.
    """
    wrong = [name for name in ("customer", "id") if not is_id(query.get(name))]
    wrong += ["feature"] if "feature" in query and not is_id(query["feature"]) else []
    if wrong:
        raise InvalidInput([FieldError(f"/{name}", f"must match {ID_PATTERN}") for name in wrong])
    source = query.get("source", "")
    if len(source) > MAX_SOURCE:
        raise InvalidInput([FieldError("/source", f"must be of at most {MAX_SOURCE} characters")])
    return EventQuestion(query["id"], source, query["customer"], query.get("feature"), _instant(query, "time"))


def listing_question(customer: str, query: Mapping[str, str]) -> ListingQuestion:
    """Read a question which events were counted.

    Raises:
        InvalidInput: with a pointer to the parameter.
        NotFound: there is no such customer.
    """
    feature, limit = _feature(customer, query), query.get("limit", "100")
    if not re.fullmatch("[0-9]{1,3}", limit) or not 1 <= int(limit) <= MAX_EVENTS:
        raise InvalidInput([FieldError("/limit", f"must be from 1 to {MAX_EVENTS}")])
    name = "#".join(["events", customer, feature, query.get("from", ""), query.get("to", "")])
    return ListingQuestion(feature, _instant(query, "from"), _instant(query, "to"), int(limit), name)


def _feature(customer: str, query: Mapping[str, str]) -> str:
    feature = query.get("feature")
    if not is_id(feature):
        raise InvalidInput([FieldError("/feature", "name the feature: ?feature=")])
    if not is_id(customer):
        raise NotFound("There is no such customer.")
    return feature


def _instant(query: Mapping[str, str], name: str) -> datetime | None:
    try:
        return parse_time(query[name]) if name in query else None
    except ValueError as error:
        raise InvalidInput([FieldError(f"/{name}", str(error))]) from None

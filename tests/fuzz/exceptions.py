"""Where a good request may be refused all the same, or a bad one answered: by operation, each with its reason.

A schema says what a body looks like; it cannot say that a customer exists, that a start lies before an end, or
that a cursor is one that was given. What is listed here is refused with exactly these pointers and details, or the
fuzz fails.
"""

from collections.abc import Mapping
from typing import Final

__all__ = ["ANSWERED", "DECLINED", "REFUSED"]

Reasons = tuple[tuple[str, str], ...]
"""Pairs of regular expressions: the whole pointer, and the beginning of the detail."""

CURSOR: Final = (("/cursor", "is not a cursor of this list"),)  # signed, and each of one list
CURRENCY: Final = (("/currency", "unknown currency|[A-Z]{3} has no minor unit"),)  # ISO 4217 adds and drops some
FLOAT: Final = (  # to a schema 1.0 is an integer; a float is refused, whatever it says
    (".*", "must be a decimal string such as .+ not a JSON number with a fraction|Input should be a valid integer"),
    ("/expires_in_seconds", "must be a whole number"),
)
CALENDAR: Final = r".+ is not a time of the calendar"  # RFC 3339 has leap seconds, and years that we have not
ONE_NAME: Final = (("/id", "give an id or an Idempotency-Key, not both"),)  # one of the two, in body and header
RANGE: Final = (
    ("/from", "must lie before `to`|must lie in 1970 or later|must lie between the years|at most "),
    ("/to", "must lie before the year 9990|must lie between the years"),
    ("/(from|to)", CALENDAR),
)
PRICE: Final = (
    (".*/tiers(/[0-9]+/up_to)?", "must "),
    (".*/(package_size|up_to)", "must be greater than "),
    (".*/minimum_amount", "must not be greater than maximum_amount"),
)
EVENT_TIME: Final = (("/time", f"the time, or that of the id, |{CALENDAR}"),)  # no older than 35 days
AMOUNT: Final = (
    *FLOAT,
    ("/(amount|threshold)", "must not be 0|must be greater than 0|must have at most 15 digits|has more digits after"),
    ("/currency", "the wallet of .+ is in "),
    *CURRENCY,
)
HELD: Final = (
    *FLOAT,
    ("/quantity", "the usage would have more than 20 digits"),
    ("/feature", ".+ counts in .+ shards|reservations are of usage and quota features"),
    ("/items/[0-9]+/feature", ".+ stands twice"),
)

REFUSED: Final[Mapping[str, Reasons]] = {
    "GET /v1/features": CURSOR,
    "GET /v1/plans": CURSOR,
    "GET /v1/customers": CURSOR,
    "GET /v1/subscriptions": CURSOR,
    "GET /v1/api-keys": CURSOR,
    "POST /v1/api-keys": (*FLOAT, ("/expires_at", f"must be in the future|{CALENDAR}")),
    "POST /v1/api-keys/{key}/rotate": FLOAT,
    "GET /v1/errors": CURSOR,
    "GET /v1/invoices": CURSOR,
    "GET /v1/customers/{customer}/wallet/transactions": CURSOR,
    "GET /v1/customers/{customer}/events": (*CURSOR, *RANGE),
    "GET /v1/customers/{customer}/usage": RANGE,
    "GET /v1/events": (("/time", f"must lie between the years|name the event's time|{CALENDAR}"),),
    "POST /v1/errors/retry": (
        *CURSOR,
        *FLOAT,
        ("/filter", "must name a status"),
    ),  # of all that may be left out, not all
    "POST /v1/errors/discard": (*CURSOR, *FLOAT, ("/filter", "must name a status")),
    "POST /v1/errors/{error}/retry": (("/arguments.*", "cannot be changed|must be of at most"),),  # by the operation
    "PUT /v1/plans/{code}": (
        *FLOAT,
        *CURRENCY,
        *PRICE,
        ("/features/[0-9]+/feature", "there is no feature|.+ stands twice"),
        ("/features/[0-9]+/(quota|rate|price)", "an? .+ feature (needs|has no)"),  # by the feature's type
        ("/features/[0-9]+/rate/limit", "must be greater than 0"),
    ),
    "PUT /v1/customers/{customer}": (("/timezone", "unknown time zone"),),
    "POST /v1/subscriptions": (
        *FLOAT,
        *ONE_NAME,
        ("/(customer|plan)", "there is no |has 100 subscriptions"),
        ("/starts_at", "must not lie in the future|must lie at most 10,000 billing periods back|lies too near the end"),
        ("/ends_at", "must lie after the start"),
        ("/(starts_at|ends_at)", CALENDAR),
    ),
    "POST /v1/subscriptions/{subscription}/change": (
        ("/plan", "there is no plan |.+ is in [A-Z]{3}, the subscription in "),
    ),
    "PUT /v1/customers/{customer}/counters/{feature}": (*FLOAT, ("/shards", ".+ needs one counter")),
    "PUT /v1/customers/{customer}/alerts/{feature}": (
        *FLOAT,
        (
            "/thresholds(/[0-9]+)?",
            "an? .+ feature has no|must have a percent or a quantity|stands twice|a customer has",
        ),
        ("/thresholds/[0-9]+/(percent|quantity)", "must be greater than 0|an? .+ feature has no quota"),
    ),
    "PUT /v1/customers/{customer}/overrides/{feature}": (
        *FLOAT,
        ("", "says nothing|a customer has overrides"),
        ("/(quota|rate)", "an? .+ feature has no "),
        ("/rate/limit", "must be greater than 0"),
        ("/expires_at", f"must lie in the future|{CALENDAR}"),
    ),
    "PUT /v1/webhooks/{webhook}": (
        ("/url", "must (be at most|begin with|name a host|have no)|its host is not (known|on)"),  # it is looked up
        ("/url", "Port |Invalid IPv6 URL|netloc |.+ does not appear to be an IPv"),  # urllib's words
    ),
    "POST /v1/prices/quote": (
        *FLOAT,
        *CURRENCY,
        *PRICE,
        ("/quantity", "the amount would have"),
        ("/previous_quantity", "must"),
    ),
    "POST /v1/customers/{customer}/entitlements/consume": (*EVENT_TIME, *HELD),
    "POST /v1/customers/{customer}/entitlements/{feature}/consume": (*EVENT_TIME, *HELD),
    "POST /v1/reservations": HELD,
    "POST /v1/reservations/{reservation}/commit": HELD,
    "POST /v1/customers/{customer}/wallet/transactions": (*AMOUNT, *ONE_NAME),
    "PUT /v1/customers/{customer}/wallet/top-up": (*AMOUNT, ("", "put the payment method of .+ first")),
    "PUT /v1/customers/{customer}/payment-method": (
        ("/account", "is needed|this deployment has no key of Stripe's"),  # by the provider, and the deployment
    ),
    "POST /v1/payments/{payment}/refunds": (*FLOAT, *ONE_NAME, ("/amount", "must be an amount of")),
    "POST /v1/billing/run": (("/as_of", CALENDAR),),
}
"""A request that fits its schema, refused with 422."""

DECLINED: Final[Mapping[str, list[str]]] = {
    "POST /v1/customers/{customer}/wallet/transactions": ["402"],  # an adjustment of more than there is
    "POST /v1/invoices/{invoice}/pay": ["402"],  # there is no money
}
"""A request that fits its schema, refused with another status than is usual."""

ANSWERED: Final = {
    "POST /v1/events": "one bad event never fails its neighbours: it is `rejected` in an answer with 200",
}
"""A request that does not fit its schema, answered with 200."""

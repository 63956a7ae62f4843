"""The sample events, and what they speak of."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from tests.conftest import ROOT, template
from tollgate.catalog import service
from tollgate.catalog.key_store import DynamoKeys
from tollgate.catalog.keys import ApiKey, KeyLimit
from tollgate.catalog.model import BillingPeriod, Customer, Feature, FeatureType, Overage, Plan, PlanFeature, Quota
from tollgate.catalog.periods import Interval
from tollgate.catalog.store import DynamoCatalog
from tollgate.kernel.time import system_clock
from tollgate.metering.store import DynamoCounters
from tollgate.recovery.model import ErrorType
from tollgate.recovery.service import record_error
from tollgate.recovery.store import DynamoRecovery

SAMPLES = sorted(path.stem for path in (ROOT / "events").glob("*.json"))
SINCE = datetime(2026, 1, 1, tzinfo=UTC)


def sample(name: str) -> dict[str, Any]:
    """A sample event."""
    event: dict[str, Any] = json.loads((ROOT / "events" / f"{name}.json").read_text())
    return event


def folder(function: str) -> str:
    """The folder's name of a function of the template."""
    uri: str = template()["Resources"][function]["Properties"]["CodeUri"]
    return uri.removeprefix("functions/").strip("/")


def seed() -> None:
    """What the samples speak of, in tables that are there: a customer on a plan, a key, an error that is due."""
    catalog = DynamoCatalog()
    requests = service.put_feature(catalog, Feature("requests", "Requests", FeatureType.QUOTA, "request"))
    export = service.put_feature(catalog, Feature("export", "Export", FeatureType.BOOLEAN))
    terms = (PlanFeature(requests, quota=Quota(Decimal(500), Overage.BLOCK)), PlanFeature(export))
    month = BillingPeriod(Interval.MONTH, 1)
    service.put_plan(catalog, Plan("web", 0, "Web", "EUR", month, Decimal(0), 0, 0, terms))
    service.put_customer(catalog, Customer("acme"))
    service.subscribe(
        catalog,
        customer="acme",
        plan="web",
        gates=DynamoCounters(),
        clock=system_clock,
        starts_at=SINCE,
        subscription_id="sub-acme",
    )
    secret = sample("authorizer-api")["headers"]["authorization"].rpartition("_")[2]
    hashed = hashlib.sha256(secret.encode()).hexdigest()
    scopes, limit = ("usage:read", "entitlements:read"), KeyLimit(100, 60)
    DynamoKeys().add_key(ApiKey("0123456789abcdef", "sample", scopes, hashed, SINCE, rate_limit=limit))
    record_error(
        DynamoRecovery(), error_type=ErrorType.STATE_TRANSITION_ERROR, operation="collect", arguments={},
        customer="acme", subscription=None, context={}, error="failed", clock=lambda: SINCE, id="err_1",
    )  # fmt: skip


def body(answer: dict[str, Any]) -> dict[str, Any]:
    """The JSON body of an answer of the API, which is a good one."""
    assert answer["statusCode"] == 200, answer
    parsed: dict[str, Any] = json.loads(answer["body"])
    return parsed


def used() -> Decimal:
    """What acme has used of requests, in all periods."""
    hours = DynamoCounters().hours("acme", "requests", SINCE, system_clock() + timedelta(days=1))
    return sum((tally.quantity for _, _, tally in hours), Decimal(0))

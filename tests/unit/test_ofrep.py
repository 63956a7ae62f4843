"""Features as OpenFeature flags: what a provider is told."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import jsonschema
import pytest

from tests.unit.fakes_catalog import MemoryCatalog
from tests.unit.fakes_metering import FakeCounters
from tests.unit.test_entitlements import catalog, subscription
from tollgate.catalog.model import FeatureType, Snapshot, SubscriptionStatus
from tollgate.entitlements import ofrep
from tollgate.entitlements.model import decision_to_dict
from tollgate.entitlements.service import check

__all__ = ["catalog"]

NOW = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
COUNTERS = FakeCounters()


def evaluated(catalog: MemoryCatalog, key: str, context: Any) -> tuple[int, dict[str, Any]]:
    """A flag for a customer."""
    text = json.dumps({"context": context})
    return ofrep.evaluate(key, text, directory=catalog, counters=COUNTERS, now=NOW)


def subscribe(catalog: MemoryCatalog, **change: Any) -> None:
    """Have acme be on the plan pro."""
    catalog.update_snapshot("acme", lambda _: Snapshot((subscription(**change),)))


@pytest.mark.parametrize("kind", list(FeatureType))
def test_a_feature_is_a_flag_of_its_type(catalog: MemoryCatalog, kind: FeatureType) -> None:
    """A boolean feature is on; of any other the value is the check's answer. Other attributes change nothing."""
    subscribe(catalog)
    status, flag = evaluated(catalog, kind.value, {"targetingKey": "acme", "region": "eu"})
    jsonschema.validate(flag, ofrep.FLAG_SCHEMA)
    answer = decision_to_dict(check("acme", kind.value, Decimal(1), directory=catalog, counters=COUNTERS, now=NOW))
    is_boolean = kind is FeatureType.BOOLEAN
    assert (status, flag) == (
        200,
        {
            "key": kind.value,
            "value": True if is_boolean else answer,
            "variant": "on" if is_boolean else "allowed",
            "reason": "TARGETING_MATCH",
            "metadata": {"reason": "allowed", "type": kind.value, "plan": "pro"},
        },
    )


@pytest.mark.parametrize("kind", list(FeatureType))
@pytest.mark.parametrize("customer", ["nobody", "acme", "no id"])
def test_for_who_has_not_subscribed_a_flag_has_its_default(
    catalog: MemoryCatalog, customer: str, kind: FeatureType
) -> None:
    """Off, in the flag's own type: an application must not take another one's default for a yes."""
    status, flag = evaluated(catalog, kind.value, {"targetingKey": customer})
    jsonschema.validate(flag, ofrep.FLAG_SCHEMA)
    reason = "no_subscription" if customer == "acme" else "customer_not_found"
    assert (status, flag["reason"], flag["metadata"]) == (200, "DEFAULT", {"reason": reason, "type": kind.value})
    assert flag["value"] is False if kind is FeatureType.BOOLEAN else flag["value"]["allowed"] is False


def test_a_subscription_that_is_paused_refuses(catalog: MemoryCatalog) -> None:
    """That is meant for this customer."""
    subscribe(catalog, state=SubscriptionStatus.PAUSED)
    _, flag = evaluated(catalog, "boolean", {"targetingKey": "acme"})
    assert (flag["value"], flag["variant"], flag["reason"]) == (False, "off", "TARGETING_MATCH")


@pytest.mark.parametrize("key", ["unknown", "a#b", "", "x" * 4_000])
@pytest.mark.parametrize("customer", ["acme", "nobody"])
def test_a_feature_that_does_not_exist_is_no_flag(catalog: MemoryCatalog, key: str, customer: str) -> None:
    """404, which has a provider take the code's default."""
    subscribe(catalog)
    status, body = evaluated(catalog, key, {"targetingKey": customer})
    assert (status, body["key"], body["errorCode"]) == (404, key, "FLAG_NOT_FOUND")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "PARSE_ERROR"),
        ("{", "PARSE_ERROR"),
        ('{"context": {}, "context": {}}', "PARSE_ERROR"),
        ("[]", "INVALID_CONTEXT"),
        ('{"context": null}', "INVALID_CONTEXT"),
        ('{"context": {"targetingKey": 7}}', "INVALID_CONTEXT"),
        ("{}", "TARGETING_KEY_MISSING"),
        ('{"context": {}}', "TARGETING_KEY_MISSING"),
        ('{"context": {"targetingKey": ""}}', "TARGETING_KEY_MISSING"),
    ],
)
def test_a_request_that_names_no_customer_is_refused_as_the_protocol_says(
    catalog: MemoryCatalog, text: str, code: str
) -> None:
    """Of one flag with its key, of all without."""
    status, body = ofrep.evaluate("boolean", text, directory=catalog, counters=COUNTERS, now=NOW)
    assert (status, body["key"], body["errorCode"]) == (400, "boolean", code)
    assert body["errorDetails"]
    found = ofrep.evaluate_all(text, directory=catalog, counters=COUNTERS, now=NOW)
    assert found == (400, {name: value for name, value in body.items() if name != "key"})


def test_all_flags_are_those_of_the_customers_plans(catalog: MemoryCatalog) -> None:
    """Each as it would be alone; a customer whom nobody knows has none."""
    subscribe(catalog)
    text = json.dumps({"context": {"targetingKey": "acme"}})
    status, body = ofrep.evaluate_all(text, directory=catalog, counters=COUNTERS, now=NOW)
    jsonschema.validate(body, ofrep.FLAGS_SCHEMA)
    alone = [evaluated(catalog, kind, {"targetingKey": "acme"})[1] for kind in sorted(FeatureType)]
    assert (status, body["flags"]) == (200, alone)
    nobody = json.dumps({"context": {"targetingKey": "nobody"}})
    assert ofrep.evaluate_all(nobody, directory=catalog, counters=COUNTERS, now=NOW) == (200, {"flags": []})

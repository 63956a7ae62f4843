"""OpenFeature's stock Python provider evaluates features of the whole stack as flags."""

from collections.abc import Iterator

import httpx
import pytest
from openfeature import api as openfeature
from openfeature.client import OpenFeatureClient
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import FlagEvaluationDetails, Reason

from tests.stack.conftest import NewCustomer, consume
from tools.local import Stack

pytestmark = pytest.mark.stack


@pytest.fixture
def flags(stack: Stack) -> Iterator[OpenFeatureClient]:
    """What an application has of OpenFeature."""
    key = {"authorization": f"Bearer {stack.api_key}"}
    openfeature.set_provider_and_wait(OFREPProvider(stack.api_url, headers_factory=lambda: key))
    yield openfeature.get_client()
    openfeature.shutdown()
    openfeature.clear_providers()


def told(details: FlagEvaluationDetails[bool]) -> tuple[bool, Reason | str | None, object]:
    """The value, OpenFeature's reason and ours."""
    return details.value, details.reason, details.flag_metadata.get("reason")


def test_a_boolean_feature_is_a_boolean_flag(
    api: httpx.Client, flags: OpenFeatureClient, customer: NewCustomer
) -> None:
    """On by the plan, off by an override; off for who has not subscribed."""
    ada = EvaluationContext(customer(), {"email": "ada@example.com"})
    assert told(flags.get_boolean_details("gate-export", False, ada)) == (True, Reason.TARGETING_MATCH, "allowed")
    api.put(f"/v1/customers/{ada.targeting_key}/overrides/gate-export", json={"enabled": False}).raise_for_status()
    disabled = (False, Reason.DISABLED, "feature_disabled")
    assert told(flags.get_boolean_details("gate-export", True, ada)) == disabled
    nobody = EvaluationContext("nobody")
    unknown = (False, Reason.DEFAULT, "customer_not_found")
    assert told(flags.get_boolean_details("gate-export", True, nobody)) == unknown


def test_a_quota_is_an_object_flag(api: httpx.Client, flags: OpenFeatureClient, customer: NewCustomer) -> None:
    """Its value is what a check answers."""
    name = customer()
    consume(api, name, "gate-tokens", quantity="100").raise_for_status()
    found = flags.get_object_details("gate-tokens", {}, EvaluationContext(name))
    assert found.value == api.get(f"/v1/customers/{name}/entitlements/gate-tokens").json()
    assert (found.variant, found.reason) == ("quota_exceeded", Reason.TARGETING_MATCH)
    assert isinstance(found.value, dict)
    assert (found.value["allowed"], found.value["used"], found.value["limit"]) == (False, "100", "100")


def test_what_cannot_be_evaluated_is_the_code_s_default(flags: OpenFeatureClient, customer: NewCustomer) -> None:
    """No such flag, no customer, another type: with OpenFeature's own error."""
    ada = EvaluationContext(customer())
    assert flags.get_boolean_details("gate-nothing", True, ada).error_code is ErrorCode.FLAG_NOT_FOUND
    missing = flags.get_boolean_details("gate-export", True, EvaluationContext())
    assert (missing.value, missing.error_code) == (True, ErrorCode.TARGETING_KEY_MISSING)
    assert flags.get_boolean_details("gate-tokens", True, ada).error_code is ErrorCode.TYPE_MISMATCH


def test_all_flags_come_at_once_and_again_only_if_something_changed(api: httpx.Client, customer: NewCustomer) -> None:
    """As providers of web pages ask, which keep them."""
    body = {"context": {"targetingKey": customer()}}
    first = api.post("/ofrep/v1/evaluate/flags", json=body)
    assert {flag["key"]: flag["variant"] for flag in first.json()["flags"]} == {
        "gate-bursts": "allowed",
        "gate-calls": "allowed",
        "gate-export": "on",
        "gate-tokens": "allowed",
    }
    known = {"if-none-match": first.headers["etag"]}
    again = api.post("/ofrep/v1/evaluate/flags", json=body, headers=known)
    assert (again.status_code, again.content) == (304, b"")
    consume(api, body["context"]["targetingKey"], "gate-tokens").raise_for_status()
    assert api.post("/ofrep/v1/evaluate/flags", json=body, headers=known).status_code == 200

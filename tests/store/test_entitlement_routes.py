"""Entitlements as they are deployed: functions/entitlements on moto, at an instant of its own."""

import importlib.util
import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest

from tests.conftest import ROOT
from tests.unit.test_entitlements import subscription
from tollgate.catalog.model import (
    BillingPeriod,
    Customer,
    Feature,
    FeatureType,
    Overage,
    Override,
    Plan,
    PlanFeature,
    Quota,
    Rate,
    Snapshot,
    SubscriptionStatus,
)
from tollgate.catalog.periods import Interval
from tollgate.catalog.snapshots import publish, set_override, set_shards
from tollgate.catalog.store import DynamoCatalog
from tollgate.entitlements.model import Reason
from tollgate.entitlements.ofrep import FLAG_SCHEMA, FLAGS_SCHEMA
from tollgate.entitlements.schema import (
    CONSUMED_SCHEMA,
    DECISION_SCHEMA,
    DECISIONS_SCHEMA,
    RESERVATION_SCHEMA,
    SEVERAL_CONSUMED_SCHEMA,
)
from tollgate.metering.store import DynamoCounters

NOW = datetime(2026, 1, 31, 9, 30, 20, 500_000, tzinfo=UTC)
PERIOD_END = datetime(2026, 2, 1, tzinfo=UTC)
UNTIL_PERIOD_END = int((PERIOD_END - NOW).total_seconds()) + 1
CONTEXT = SimpleNamespace(get_remaining_time_in_millis=lambda: 29_000)
TEN = Decimal(10)
FEATURES = {
    "calls": FeatureType.USAGE,
    "tokens": FeatureType.QUOTA,
    "rows": FeatureType.QUOTA,
    "bursts": FeatureType.RATE,
    "export": FeatureType.BOOLEAN,
    "import": FeatureType.BOOLEAN,
}
REASONS = [
    ("ada", "calls", "1000000", Reason.ALLOWED),
    ("ada", "tokens", "10", Reason.ALLOWED),
    ("ada", "bursts", "10", Reason.ALLOWED),
    ("ada", "export", "1", Reason.ALLOWED),
    ("ada", "rows", "10.5", Reason.OVERAGE_ALLOWED),
    ("ada", "tokens", "10.5", Reason.QUOTA_EXCEEDED),
    ("ada", "bursts", "10.5", Reason.RATE_LIMITED),
    ("ada", "import", "1", Reason.FEATURE_DISABLED),
    ("ada", "unsold", "1", Reason.FEATURE_NOT_IN_PLAN),
    ("ada", "unheard-of", "1", Reason.FEATURE_NOT_FOUND),
    ("nobody", "calls", "1", Reason.CUSTOMER_NOT_FOUND),
    ("ben", "calls", "1", Reason.NO_SUBSCRIPTION),
    ("eve", "calls", "1", Reason.SUBSCRIPTION_INACTIVE),
]
"""Customer, feature, quantity, and what is answered."""
DENIALS_FIRST = sorted(REASONS, key=lambda one: one[-1].endswith("allowed"))


class Api:
    """The function, newly loaded as Lambda loads it."""

    def __init__(self, scopes: str = "admin") -> None:
        spec = importlib.util.spec_from_file_location("entitlements", ROOT / "functions/entitlements/app.py")
        assert spec is not None
        assert spec.loader is not None
        module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.desk = replace(module.desk, clock=lambda: NOW)
        self._handler = module.handler
        self.scopes = scopes
        self.headers: dict[str, str] = {}

    def __call__(self, method: str, path: str, body: Any = None, **query: str) -> tuple[int, Any]:
        """The status and the body of the answer to a request; its headers are kept."""
        answer = self._handler(
            {
                "version": "2.0",
                "rawPath": path,
                "rawQueryString": "",
                "queryStringParameters": query,
                "headers": {"content-type": "application/json"} | self.headers,
                "requestContext": {
                    "http": {"method": method, "path": path},
                    "requestId": "request-1",
                    "stage": "$default",
                    "authorizer": {"lambda": {"key_id": "key", "scopes": self.scopes}},
                },
                "body": body if body is None or isinstance(body, str) else json.dumps(body),
                "isBase64Encoded": False,
            },
            CONTEXT,
        )
        self.headers = {}
        self.told = {name.lower(): value for name, value in answer["headers"].items()}
        return answer["statusCode"], json.loads(answer["body"]) if answer["body"] else None

    def limits(self) -> dict[str, str]:
        """What the last answer says of limits."""
        return {name: value for name, value in self.told.items() if "ratelimit" in name or name == "retry-after"}


@pytest.fixture
def api(tables: None, monkeypatch: pytest.MonkeyPatch) -> Api:
    """With a customer on a plan, one on none, and one whose subscription is paused."""
    assert tables is None
    monkeypatch.setattr("tollgate.catalog.snapshots._WORKERS", 1)  # moto is not thread-safe
    catalog, gates = DynamoCatalog(), DynamoCounters()
    features = {code: Feature(code, code, kind) for code, kind in FEATURES.items()}
    for feature in [*features.values(), Feature("unsold", "Unsold", FeatureType.USAGE)]:
        catalog.save_feature(feature)
    granted = (
        PlanFeature(features["calls"]),
        PlanFeature(features["tokens"], quota=Quota(TEN, Overage.BLOCK)),
        PlanFeature(features["rows"], quota=Quota(TEN, Overage.ALLOW)),
        PlanFeature(features["bursts"], rate=Rate(TEN, 60)),
        PlanFeature(features["export"]),
        PlanFeature(features["import"], enabled=False),
    )
    catalog.add_plan_version(Plan("pro", 1, "Pro", "EUR", BillingPeriod(Interval.MONTH), Decimal(0), 0, 0, granted))
    for name in ("ada", "ben", "eve"):
        catalog.save_customer(Customer(name))
    for name, state in (("ada", SubscriptionStatus.PAST_DUE), ("eve", SubscriptionStatus.PAUSED)):
        made = subscription(f"sub-{name}", customer=name, state=state)
        assert catalog.update_snapshot(name, lambda _, made=made: Snapshot((made,)))  # type: ignore[misc]  # mypy infers no default
        publish(name, snapshots=catalog, gates=gates, clock=lambda: NOW)
    return Api()


# Reasons


def test_every_reason_is_among_those_that_are_tested() -> None:
    """Of those that API.md names."""
    assert {reason for *_, reason in REASONS} == set(Reason)


def test_a_check_is_answered_with_its_reason(api: Api) -> None:
    """And with 200, whatever it is; asked twice, for it changes nothing."""
    for customer, feature, quantity, reason in REASONS * 2:
        status, answer = api("GET", f"/v1/customers/{customer}/entitlements/{feature}", quantity=quantity)
        jsonschema.validate(answer, DECISION_SCHEMA)
        assert (status, answer["customer"], answer["feature"]) == (200, customer, feature)
        assert (answer["reason"], answer["allowed"]) == (reason, reason.endswith("allowed"))


def test_a_consumption_is_answered_with_its_reason(api: Api) -> None:
    """Alone, and with another feature, of which a denial counts nothing."""
    for place, (customer, feature, quantity, reason) in enumerate(DENIALS_FIRST):
        path, granted = f"/v1/customers/{customer}/entitlements", reason.endswith("allowed")
        status, answer = api("POST", f"{path}/{feature}/consume", {"id": f"one-{place}", "quantity": quantity})
        jsonschema.validate(answer, CONSUMED_SCHEMA)
        assert (status, answer["reason"], answer["allowed"]) == (200, reason, granted)
        assert answer["status"] == ("consumed" if granted else "denied")
        if not granted:
            items = [{"feature": "rows", "quantity": "3"}, {"feature": feature, "quantity": quantity}]
            status, answer = api("POST", f"{path}/consume", {"id": f"two-{place}", "items": items})
            jsonschema.validate(answer, SEVERAL_CONSUMED_SCHEMA)
            assert (status, answer["status"], answer["allowed"]) == (200, "denied", False)
            assert answer["items"][1]["reason"] == reason
            assert api("GET", f"{path}/rows")[1]["used"] in {"0", None}


def test_a_reservation_is_answered_with_its_reason(api: Api) -> None:
    """What is denied holds nothing."""
    for place, (customer, feature, quantity, reason) in enumerate(DENIALS_FIRST):
        if FEATURES.get(feature) in {"rate", "boolean"}:
            continue  # nothing can be held of them
        name, granted = f"r-{place}", reason.endswith("allowed")
        asked = {"id": name, "customer": customer, "feature": feature, "quantity": quantity, "expires_in_seconds": 60}
        status, answer = api("POST", "/v1/reservations", asked)
        jsonschema.validate(answer, RESERVATION_SCHEMA)
        assert (status, answer["reason"], answer["allowed"]) == (200, reason, granted)
        assert answer["status"] == ("reserved" if granted else "denied")
        if not granted:
            assert api("POST", f"/v1/reservations/{name}/release")[0] == 404
            assert api("GET", "/v1/customers/ada/entitlements/tokens")[1]["reserved"] == "0"


def test_all_features_are_answered_at_once(api: Api) -> None:
    """By code, with one unit asked of each; a customer who is not there is 404."""
    status, answer = api("GET", "/v1/customers/ada/entitlements")
    jsonschema.validate(answer, DECISIONS_SCHEMA)
    assert (status, [item["feature"] for item in answer["items"]]) == (200, sorted(FEATURES))
    assert [item["feature"] for item in answer["items"] if not item["allowed"]] == ["import"]
    assert api("GET", "/v1/customers/ben/entitlements") == (200, {"items": [], "next_cursor": None})
    paused = api("GET", "/v1/customers/eve/entitlements")[1]["items"]
    assert {item["reason"] for item in paused} == {"subscription_inactive"}
    assert api("GET", "/v1/customers/nobody/entitlements")[0] == 404


def test_a_name_that_can_be_nobodys_is_answered_too(api: Api) -> None:
    """A question is well formed whatever it is about."""
    for name in ("no id", "-", "käse", "x" * 4_000):
        status, answer = api("GET", f"/v1/customers/{name}/entitlements/calls")
        assert (status, answer["reason"]) == (200, "customer_not_found")
        status, answer = api("GET", f"/v1/customers/ada/entitlements/{name}")
        assert (status, answer["reason"]) == (200, "feature_not_found")
        status, answer = api("POST", f"/v1/customers/ada/entitlements/{name}/consume", {"id": "one"})
        assert (status, answer["status"], answer["reason"]) == (200, "denied", "feature_not_found")


# Headers


def test_limits_are_told_in_headers_to_the_second(api: Api) -> None:
    """Half a second after a full one: what is left of a window or a period is rounded up."""
    path = "/v1/customers/ada/entitlements"
    policy = {"bursts": '"bursts";q=10;w=60', "tokens": '"tokens";q=10'}
    for feature, seconds in (("bursts", 40), ("tokens", UNTIL_PERIOD_END)):
        for name, left in (("one", 3), ("two", 3)):
            _, answer = api("POST", f"{path}/{feature}/consume", {"id": name, "quantity": "7"})
            told = {"ratelimit-policy": policy[feature], "ratelimit": f'"{feature}";r={left};t={seconds}'}
            late = {"retry-after": str(seconds)} if answer["status"] == "denied" else {}
            assert api.limits() == told | late
        api("GET", f"{path}/{feature}", quantity="4")
        assert api.limits() == told | {"retry-after": str(seconds)}
        api("GET", f"{path}/{feature}", quantity="11")  # never fits
        assert api.limits() == told
    for feature in ("calls", "rows", "export", "unheard-of"):
        api("GET", f"{path}/{feature}", quantity="11")
        assert api.limits() == {}


def test_the_limits_of_several_features_are_told_together(api: Api) -> None:
    """As a list; when to come back is told if all that was denied fits then."""
    window, period = '"bursts";r={};t=40', f'"tokens";r={{}};t={UNTIL_PERIOD_END}'
    both, late = ("bursts", "tokens"), {"retry-after": "40"}
    asked = [
        (both, "4", (6, 6), {}),
        (("bursts", "calls", "export"), "5", (1,), {}),
        (("bursts", "calls", "export"), "2", (1,), late),
        (both, "2", (1, 6), late),
        (both, "7", (1, 6), {"retry-after": str(UNTIL_PERIOD_END)}),
        (both, "11", (1, 6), {}),
        (("bursts", "import"), "2", (1,), {}),
    ]
    for place, (features, quantity, left, again) in enumerate(asked):
        items = [{"feature": feature, "quantity": quantity} for feature in features]
        api("POST", SEVERAL, {"id": f"all-{place}", "items": items})
        policies = ['"bursts";q=10;w=60', '"tokens";q=10'][: len(left)]
        limits = [one.format(rest) for one, rest in zip((window, period), left, strict=False)]
        told = {"ratelimit-policy": ", ".join(policies), "ratelimit": ", ".join(limits)}
        assert api.limits() == told | again, place


def test_a_limit_beyond_what_headers_can_say_is_told_as_the_greatest(api: Api) -> None:
    """An integer of a structured field has 15 digits (RFC 9651)."""
    catalog, gates = DynamoCatalog(), DynamoCounters()
    much = Override(quota=Quota(Decimal(10) ** 18, Overage.BLOCK))
    set_override(catalog, "ada", "tokens", much, gates=gates, clock=lambda: NOW)
    assert api("GET", "/v1/customers/ada/entitlements/tokens")[1]["limit"] == "1" + 18 * "0"
    assert api.told["ratelimit-policy"] == f'"tokens";q={"9" * 15}'
    assert api.told["ratelimit"].startswith(f'"tokens";r={"9" * 15};t=')


# Shards


def test_a_feature_in_shards_is_checked_and_not_consumed(api: Api) -> None:
    """The error says why, and what to do instead."""
    set_shards(DynamoCatalog(), "ada", "calls", 8, gates=DynamoCounters(), clock=lambda: NOW)
    assert api("GET", "/v1/customers/ada/entitlements/calls")[1]["allowed"]
    detail = "calls counts in 8 shards: send events instead"
    asked = {"id": "r", "customer": "ada", "feature": "calls", "quantity": "1", "expires_in_seconds": 60}
    for path, body in (
        ("/v1/customers/ada/entitlements/calls/consume", {"id": "one"}),
        (
            "/v1/customers/ada/entitlements/consume",
            {"id": "one", "items": [{"feature": "tokens"}, {"feature": "calls"}]},
        ),
        ("/v1/reservations", asked),
    ):
        status, problem = api("POST", path, body)
        assert (status, problem["errors"]) == (422, [{"pointer": "/feature", "detail": detail}])
        assert api.told["content-type"] == "application/problem+json"
    assert api("GET", "/v1/customers/ada/entitlements/tokens")[1]["used"] == "0"


# What cannot be read

CONSUME = "/v1/customers/ada/entitlements/tokens/consume"
SEVERAL = "/v1/customers/ada/entitlements/consume"
RESERVATION = {"id": "r", "customer": "ada", "feature": "tokens", "quantity": "1", "expires_in_seconds": 60}


REFUSED: list[tuple[str, Any, int, list[str]]] = [
    (CONSUME, "{", 400, []),
    (CONSUME, '{"id": "x", "quantity": 0.5}', 422, ["/quantity"]),
    (CONSUME, [], 422, ["", "/id"]),
    (CONSUME, {}, 422, ["/id"]),
    (CONSUME, {"id": "a b", "quantity": "-1", "extra": 1}, 422, ["/extra", "/id", "/quantity"]),
    (CONSUME, {"id": "x", "quantity": "NaN"}, 422, ["/quantity"]),
    (CONSUME, {"id": "x", "time": "now"}, 422, ["/time"]),
    (CONSUME, {"id": "x", "time": "2025-12-01T00:00:00Z"}, 422, ["/time"]),
    (CONSUME, {"id": "x", "time": "2026-01-31T09:35:21Z"}, 422, ["/time"]),
    (CONSUME, {"id": "x", "quantity": "99999999999999999999.9999999999999999999"}, 422, ["/quantity"]),
    (SEVERAL, {"id": "x"}, 422, ["/items"]),
    (
        SEVERAL,
        {"id": "x", "items": [{"feature": "tokens", "quantity": "x"}, 7]},
        422,
        ["/items/0/quantity", "/items/1", "/items/1/feature"],
    ),
    (SEVERAL, {"id": "x", "items": [{"feature": f"f{n}"} for n in range(21)]}, 422, ["/items"]),
    ("/v1/reservations", {}, 422, ["/id", "/customer", "/feature", "/quantity", "/expires_in_seconds"]),
    ("/v1/reservations", RESERVATION | {"expires_in_seconds": 86_401}, 422, ["/expires_in_seconds"]),
    ("/v1/reservations", RESERVATION | {"expires_in_seconds": True}, 422, ["/expires_in_seconds"]),
    ("/v1/reservations", RESERVATION | {"feature": "export"}, 422, ["/feature"]),
    ("/v1/reservations", RESERVATION | {"feature": "bursts"}, 422, ["/feature"]),
    ("/v1/reservations/none/commit", {"quantity": "1"}, 404, []),
    ("/v1/reservations/none/commit", {}, 422, ["/quantity"]),
    ("/v1/reservations/none/release", None, 404, []),
]


def test_what_cannot_be_done_is_refused_with_a_pointer(api: Api) -> None:
    """To each fault; nothing is counted."""
    for path, body, status, pointers in REFUSED:
        answered, problem = api("POST", path, body)
        assert (answered, [error["pointer"] for error in problem.get("errors", [])]) == (status, pointers), (path, body)
    shown = api("GET", "/v1/customers/ada/entitlements/tokens")[1]
    assert (shown["used"], shown["reserved"]) == ("0", "0")


def test_a_question_for_what_is_no_quantity_is_refused(api: Api) -> None:
    """It is not well formed."""
    for quantity in ("", "-1", "x", "1e3", "Infinity"):
        status, problem = api("GET", "/v1/customers/ada/entitlements/tokens", quantity=quantity)
        assert (status, [error["pointer"] for error in problem["errors"]]) == (422, ["/quantity"])


@pytest.mark.usefixtures("tables")
def test_asking_and_taking_have_scopes_of_their_own() -> None:
    """A key that only asks takes nothing; one that only takes is not told."""
    read, write = Api("entitlements:read"), Api("entitlements:write")
    assert read("GET", "/v1/customers/ada/entitlements/tokens")[0] == 200
    assert write("GET", "/v1/customers/ada/entitlements/tokens")[0] == 403
    for path, body in ((CONSUME, {"id": "x"}), (SEVERAL, {"id": "x", "items": [{"feature": "tokens"}]})):
        assert (read("POST", path, body)[0], write("POST", path, body)[0]) == (403, 200)
    assert read("POST", "/v1/reservations", RESERVATION)[0] == 403
    assert write("POST", "/ofrep/v1/evaluate/flags", {})[0] == 403


# Flags


def test_a_flag_is_evaluated_or_refused_with_the_protocols_code(api: Api) -> None:
    """As JSON, not as a problem document, for its reader is a provider."""
    flags: list[tuple[str, Any, int, str | None]] = [
        ("export", {"context": {"targetingKey": "ada"}}, 200, None),
        ("unheard-of", {"context": {"targetingKey": "ada"}}, 404, "FLAG_NOT_FOUND"),
        ("export", {"context": {"region": "eu"}}, 400, "TARGETING_KEY_MISSING"),
        ("export", {"context": {"targetingKey": 7}}, 400, "INVALID_CONTEXT"),
        ("export", "{", 400, "PARSE_ERROR"),
    ]
    for key, body, status, code in flags:
        answered, flag = api("POST", f"/ofrep/v1/evaluate/flags/{key}", body)
        assert (answered, flag["key"], flag.get("errorCode")) == (status, key, code)
        assert api.told["content-type"] == "application/json"
        if code is None:
            jsonschema.validate(flag, FLAG_SCHEMA)
            assert flag["value"] is True


def test_flags_that_are_known_are_not_sent_again(api: Api) -> None:
    """Until one of them has changed."""
    path, body = "/ofrep/v1/evaluate/flags", {"context": {"targetingKey": "ada"}}
    status, flags = api("POST", path, body)
    jsonschema.validate(flags, FLAGS_SCHEMA)
    assert (status, [flag["key"] for flag in flags["flags"]]) == (200, sorted(FEATURES))
    tag = api.told["etag"]
    api.headers = {"if-none-match": tag}
    assert api("POST", path, body) == (304, None)
    assert api.told["etag"] == tag
    api("POST", CONSUME, {"id": "one"})
    api.headers = {"if-none-match": tag}
    assert api("POST", path, body)[0] == 200
    assert api.told["etag"] != tag
    assert api("POST", path, "{")[1]["errorCode"] == "PARSE_ERROR"

"""GET /v1/events and GET /v1/customers/{id}/events as they are deployed: functions/usage on moto."""

import importlib.util
import json
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.unit.test_audit import REQUESTS, plan, subscription
from tollgate.catalog.model import Customer
from tollgate.catalog.store import DynamoCatalog
from tollgate.kernel.time import format_time, system_clock

CONTEXT = SimpleNamespace(get_remaining_time_in_millis=lambda: 29_000)
MISSING = {"/customer": "must match", "/id": "must match"}


class Api:
    """The function, newly loaded as Lambda loads it."""

    def __init__(self, scopes: str = "admin") -> None:
        spec = importlib.util.spec_from_file_location("usage", ROOT / "functions/usage/app.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self._handler = module.handler
        self.scopes = scopes

    def __call__(self, method: str, path: str, body: Any = None, **query: str) -> tuple[int, Any]:
        """The status and the body of the answer to a request."""
        answer = self._handler(
            {
                "version": "2.0",
                "rawPath": path,
                "rawQueryString": "",
                "queryStringParameters": query,
                "headers": {"content-type": "application/json"},
                "requestContext": {
                    "http": {"method": method, "path": path},
                    "requestId": "request-1",
                    "stage": "$default",
                    "authorizer": {"lambda": {"key_id": "key", "scopes": self.scopes}},
                },
                "body": json.dumps(body) if body else None,
                "isBase64Encoded": False,
            },
            CONTEXT,
        )
        return answer["statusCode"], json.loads(answer["body"])


@pytest.fixture
def api(tables: None) -> Api:
    """With a customer who has sent five events, a minute apart."""
    assert tables is None
    catalog = DynamoCatalog()
    catalog.save_feature(REQUESTS)
    catalog.add_plan_version(plan(1, "0.10"))
    catalog.save_customer(Customer("ada"))
    catalog.add_subscription(subscription("sub", system_clock() - timedelta(days=2)))
    made = Api()
    start = system_clock() - timedelta(hours=1)
    events = [
        {"id": f"e{n}", "customer": "ada", "feature": "requests", "quantity": f"{n}.50"}
        | {"time": format_time(start + timedelta(minutes=n)), "properties": {"n": n}}
        for n in range(5)
    ]
    assert made("POST", "/v1/events", events)[1]["accepted"] == 5
    return made


def test_an_event_is_explained(api: Api) -> None:
    """One that was counted and one that was not."""
    status, shown = api("GET", "/v1/events", customer="ada", source="", id="e3")
    assert (status, shown["outcome"], shown["quantity"], shown["properties"]) == (200, "counted", "3.5", {"n": 3})
    assert shown["period"].keys() == {"start", "end"}
    status, again = api("GET", "/v1/events", customer="ada", id="e3", feature="requests", time=shown["time"])
    assert (status, again) == (200, shown)
    status, shown = api("GET", "/v1/events", customer="ada", source="/other", id="e3")
    assert (status, shown["outcome"], shown["feature"], shown["time"]) == (200, "unknown", None, None)
    status, shown = api("GET", "/v1/events", customer="eve", id="e3")
    assert (status, shown["outcome"], shown["reason"]) == (200, "unknown", "customer_not_found")


def test_counted_events_are_listed_page_by_page(api: Api) -> None:
    """The cursor belongs to this list."""
    path = "/v1/customers/ada/events"
    ids, cursor = [], ""
    while cursor is not None:
        status, page = api("GET", path, feature="requests", limit="2", cursor=cursor)
        assert status == 200
        ids.append([one["id"] for one in page["items"]])
        last, cursor = cursor, page["next_cursor"]
    assert ids == [["e0", "e1"], ["e2", "e3"], ["e4"]]
    status, problem = api("GET", path, feature="requests", limit="2", cursor=last, to=format_time(system_clock()))
    assert (status, problem["errors"][0]["pointer"]) == (422, "/cursor")


@pytest.mark.parametrize(
    ("path", "query", "status", "pointers"),
    [
        ("/v1/events", {}, 422, ["/customer", "/id"]),
        ("/v1/events", {"customer": "a b", "id": "x"}, 422, ["/customer"]),
        ("/v1/events", {"customer": "ada", "id": "x", "feature": "?"}, 422, ["/feature"]),
        ("/v1/events", {"customer": "ada", "id": "x", "time": "now"}, 422, ["/time"]),
        ("/v1/events", {"customer": "ada", "id": "x", "source": "s" * 513}, 422, ["/source"]),
        ("/v1/customers/ada/events", {}, 422, ["/feature"]),
        ("/v1/customers/eve/events", {"feature": "requests"}, 404, []),
        ("/v1/customers/ada/events", {"feature": "unheard-of"}, 404, []),
        ("/v1/customers/ada/events", {"feature": "requests", "limit": "501"}, 422, ["/limit"]),
        ("/v1/customers/ada/events", {"feature": "requests", "limit": "0"}, 422, ["/limit"]),
        ("/v1/customers/ada/events", {"feature": "requests", "limit": "ten"}, 422, ["/limit"]),
        ("/v1/customers/ada/events", {"feature": "requests", "from": "2026"}, 422, ["/from"]),
        ("/v1/customers/ada/events", {"feature": "requests", "from": "0001-01-01T00:00:00Z"}, 422, ["/from"]),
        ("/v1/customers/ada/events", {"feature": "requests", "to": "9999-12-31T23:59:59Z"}, 422, ["/to"]),
        ("/v1/customers/ada/events", {"feature": "requests", "cursor": "abc"}, 422, ["/cursor"]),
        ("/v1/events", {"customer": "ada", "id": "x", "time": "0001-01-01T00:00:00Z"}, 422, ["/time"]),
        ("/v1/events", {"customer": "ada", "id": "x", "time": "9999-12-31T23:59:59Z"}, 422, ["/time"]),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused(
    api: Api, path: str, query: dict[str, str], status: int, pointers: list[str]
) -> None:
    """With a pointer to each parameter."""
    answered, problem = api("GET", path, **query)
    assert answered == status
    assert [error["pointer"] for error in problem.get("errors", [])] == pointers


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("path", ["/v1/events", "/v1/customers/ada/events"])
def test_reading_events_takes_the_scope_to_read_usage(path: str) -> None:
    """A key that only writes events does not read them."""
    assert Api("events:write")("GET", path)[0] == 403

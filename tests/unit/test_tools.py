"""The tools without the stack: routes, the bootstrap's advice, and the demonstration's data."""

import ast
import csv
import os
import socket
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import ROOT
from tollgate.catalog.model import FeatureType
from tools import ToolError, bootstrap, local, permissions
from tools.demo import DATA, FEATURES, PLAN, cloud_events, read_requests
from tools.routes import Route, routes_of

# tools/routes.py


def api_body(**more: Any) -> dict[str, Any]:
    """An API's OpenAPI body as SAM writes it: a route with a key, one without, and the default one."""
    uri = "arn:${AWS::Partition}:apigateway:${AWS::Region}:lambda:path/2015-03-31/functions/${%s.Arn}/invocations"

    def operation(function: str, security: str) -> dict[str, Any]:
        integration = {"uri": {"Fn::Sub": uri % function}, "payloadFormatVersion": "2.0"}
        return {"x-amazon-apigateway-integration": integration, "security": [{security: []}]}

    paths = {
        "/v1/events": {"x-amazon-apigateway-any-method": operation("UsageFunction", "ApiKey")},
        "/docs": {"get": operation("CatalogFunction", "NONE"), "options": {"responses": {}}},
        "$default": {"x-amazon-apigateway-any-method": operation("CatalogFunction", "NONE")},
    }
    schemes = {"ApiKey": {"type": "apiKey", "x-amazon-apigateway-authorizer": {"type": "request"}}}
    return {"paths": paths | more, "components": {"securitySchemes": schemes}}


def test_routes_are_read_from_the_body_that_sam_writes() -> None:
    """What has no integration is no route, and NONE is no authorizer."""
    assert routes_of(api_body(), ["UsageFunction", "CatalogFunction"]) == [
        Route("ANY /v1/events", "UsageFunction", "ApiKey"),
        Route("GET /docs", "CatalogFunction", None),
        Route("$default", "CatalogFunction", None),
    ]


def test_a_function_is_known_by_its_whole_name() -> None:
    """Usage is not UsageFunction."""
    assert routes_of(api_body(), ["Usage", "UsageFunction", "CatalogFunction"])[0].function == "UsageFunction"


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ({"Fn::GetAtt": ["UsageFunction", "Arn"]}, "UsageFunction"),
        ({"Fn::Join": ["", ["arn:", {"Ref": "AWS::Partition"}, {"Fn::GetAtt": "UsageFunction.Arn"}]]}, "UsageFunction"),
    ],
)
def test_a_function_is_found_however_cloudformation_names_it(uri: Any, found: str) -> None:
    """The processed template may name it in any of its ways."""
    body = {"paths": {"/a": {"get": {"x-amazon-apigateway-integration": {"uri": uri}}}}}
    assert routes_of(body, ["UsageFunction"]) == [Route("GET /a", found, None)]


def test_a_route_of_no_known_function_is_an_error() -> None:
    """Rather than a route that answers 500."""
    with pytest.raises(ToolError, match="names none"):
        routes_of(api_body(), ["UsageFunction"])


# tools/bootstrap.py


@pytest.mark.parametrize(
    ("installed", "advice"),
    [
        ({"python3.11", "python3.12"}, "PYTHON=python3.12"),
        ({"python3.14"}, "PYTHON=python3.14"),
        (set(), "PYTHON=python3.12"),
    ],
)
def test_an_old_python_is_told_which_one_would_do(
    monkeypatch: pytest.MonkeyPatch, installed: set[str], advice: str
) -> None:
    """One of this machine, if it has one."""
    monkeypatch.setattr(bootstrap, "sys", SimpleNamespace(version_info=(3, 9, 18, "final", 0)))
    monkeypatch.setattr(bootstrap, "_runs", installed.__contains__)
    expected = f"Tollgate needs Python 3.11 or newer; this is 3.9.18: make run {advice}"
    assert bootstrap.explain_version() == expected


def test_python_3_6_can_read_the_bootstrap() -> None:
    """So that it can say which Python is needed."""
    ast.parse((ROOT / "tools/bootstrap.py").read_text(), feature_version=(3, 6))


def test_an_unknown_environment_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """With the names of those there are."""
    assert bootstrap.main(["production"]) == 2
    assert capsys.readouterr().out == "usage: python3 tools/bootstrap.py [dev|ministack|sam|checkov|audit]...\n"


# tools/demo.py


def test_the_plan_has_a_feature_of_each_type_and_each_price_model() -> None:
    """The demonstration shows all there is."""
    granted = {terms["feature"]: terms for terms in PLAN["features"]}
    assert granted.keys() == FEATURES.keys()
    assert {FEATURES[code]["type"] for code in granted} == {kind.value for kind in FeatureType}
    prices = [terms["price"]["model"] for terms in granted.values() if terms.get("price")]
    assert set(prices) == {"flat", "tiered", "volume", "package"}


def rows() -> list[dict[str, str]]:
    """The lines of the data."""
    with DATA.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_the_data_are_those_that_its_readme_describes() -> None:
    """10,000 requests of 1,753 customers, 2,747,282,740 bytes."""
    data = rows()
    assert len(data) == len({row["id"] for row in data}) == 10_000
    assert len({row["customer"] for row in data}) == 1_753
    assert sum(int(row["bytes"]) for row in data) == 2_747_282_740
    readme = (DATA.parent / "README.md").read_text()
    assert all(number in readme for number in ("10,000", "1,753", "2,747,282,740"))


def test_the_events_of_all_requests_sum_to_the_data() -> None:
    """Requests, gigabytes to the byte, answers from the cache and failures."""
    sums: Counter[str] = Counter()
    transfer = Decimal(0)
    for event in cloud_events(read_requests(), timedelta()):
        quantity = Decimal(event["data"]["quantity"])
        if event["type"] == "transfer":
            transfer += quantity
        else:
            sums[event["type"]] += int(quantity)
    data = rows()
    assert transfer == Decimal("2.747282740")
    assert sums == {
        "requests": 10_000,
        "cached": sum(row["status"] == "304" for row in data),
        "failures": sum(int(row["status"]) >= 400 for row in data),
    }


def test_an_event_keeps_its_id_customer_and_shifted_time() -> None:
    """The same request is the same event however often it is sent."""
    first = next(cloud_events(read_requests()[:1], timedelta(days=1)))
    assert (first["id"], first["source"], first["subject"]) == ("req-00001", "/web/log", "cust-0001")
    assert first["time"] == "2015-05-18T10:05:03+00:00"


def test_a_busy_port_is_one_line_that_says_how_to_choose_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing is started; the stack that has the port can be found as before."""
    (tmp_path / "stack.json").write_text("{}")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert local.main(["stack", "--port", str(port), "--state", str(tmp_path)]) == 1
    assert (tmp_path / "stack.json").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tollgate: port {port} cannot be had")
    assert "TOLLGATE_PORT=" in line


def test_a_port_that_is_none_and_a_replay_into_nothing_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line each."""
    monkeypatch.setenv("TOLLGATE_PORT", "web")
    assert local.main(["stack", "--state", str(tmp_path)]) == 1
    with pytest.raises(ToolError, match="make run"):
        local.running_stack(tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "tollgate: TOLLGATE_PORT is 'web'; it must be a port, such as 4566"


# tools/permissions.py


@pytest.mark.parametrize(
    ("request_", "reached"),
    [
        ({"TableName": "t", "Key": {"pk": {"S": "a"}, "sk": {"S": "b"}}}, [("", "t", "a")]),
        ({"TableName": "t", "Item": {"pk": {"S": "a"}, "n": {"N": "1"}}}, [("", "t", "a")]),
        (
            {
                "TableName": "t",
                "KeyConditionExpression": "#0 = :1 AND #1 = :0",
                "ExpressionAttributeNames": {"#0": "pk", "#1": "sk"},
                "ExpressionAttributeValues": {":0": {"S": "b"}, ":1": {"S": "a"}},
            },
            [("", "t", "a")],
        ),
        (
            {"TableName": "t", "KeyConditionExpression": "due = :d", "ExpressionAttributeValues": {":d": {"S": "a"}}},
            [],
        ),
        (
            {"RequestItems": {"t": {"Keys": [{"pk": {"S": "a"}}, {"pk": {"S": "b"}}]}}},
            [("", "t", "a"), ("", "t", "b")],
        ),
        (
            {
                "RequestItems": {
                    "t": [{"PutRequest": {"Item": {"pk": {"S": "a"}}}}, {"DeleteRequest": {"Key": {"pk": {"S": "b"}}}}]
                }
            },
            [("", "t", "a"), ("", "t", "b")],
        ),
        (
            {
                "TransactItems": [
                    {"Put": {"TableName": "t", "Item": {"pk": {"S": "a"}}}},
                    {"ConditionCheck": {"TableName": "u", "Key": {"pk": {"S": "b"}}}},
                ]
            },
            [("dynamodb:PutItem", "t", "a"), ("dynamodb:ConditionCheckItem", "u", "b")],
        ),
    ],
)
def test_the_partitions_of_a_request_are_those_that_iam_would_be_told(
    request_: dict[str, Any], reached: list[tuple[str, str, str]]
) -> None:
    """Of one item, many items, a query of a table; a query of an index has none of the table's."""
    assert list(permissions.partitions(request_)) == reached


# Commands


def test_every_command_starts_in_a_bare_shell() -> None:
    """The environment of a function, which tests have, is none of an operator's."""
    modules = [f"tools.{path.stem}" for path in sorted((ROOT / "tools").glob("*.py"))]
    wanted = "; ".join(f"import {module}" for module in modules if module not in {"tools.engine", "tools.__init__"})
    bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", wanted], cwd=ROOT, env=bare, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

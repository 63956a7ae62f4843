"""What is deployed: permissions, encryption, queues, schedules, the alarm and the routes."""

import ast
import importlib.util
import json
import re
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import ROOT, TABLES
from tollgate.api.auth import IAM_SCOPES
from tollgate.catalog.store import DynamoOnce
from tollgate.recovery.model import ErrorType
from tollgate.recovery.report import Report
from tools.routes import Route, routes_of

Resources = dict[str, dict[str, Any]]

CHARGING = {"Billing", "RetryProcessor"}
"""The functions that charge through Stripe."""

NAMES = [path.parent.name.title().replace("_", "") for path in sorted(ROOT.glob("functions/*/app.py"))]
OPEN = {"GET /docs", "GET /healthz", "GET /v1/openapi.json", "POST /v1/webhooks/stripe", "$default"}
QUEUES = (
    "EventsQueue",
    "EventsDeadLetterQueue",
    "AlertsQueue",
    "AlertsDeadLetterQueue",
    "RetriesQueue",
    "RetriesDeadLetterQueue",
    "BillingQueue",
    "BillingDeadLetterQueue",
    "InvocationsDeadLetterQueue",
)
CONSUMERS = [("Events", "Usage"), ("Alerts", "Alerts"), ("Billing", "Billing"), ("Retries", "RetryProcessor")]


def arn(name: str) -> dict[str, Any]:
    """What `!GetAtt name.Arn` is."""
    return {"Fn::GetAtt": [name, "Arn"]}


def of_type(resources: Resources, kind: str) -> dict[str, dict[str, Any]]:
    """The properties of all resources of a type, by logical id."""
    return {name: one.get("Properties", {}) for name, one in resources.items() if one["Type"] == kind}


def listed(value: Any) -> list[Any]:
    """A list, where IAM also takes a single value."""
    return value if isinstance(value, list) else [value]


# Functions


def test_the_functions_are_those_of_the_folder_functions(resources: Resources) -> None:
    """Each with one role, one log group and one line in the table above."""
    folders = {path.parent.name for path in ROOT.glob("functions/*/app.py")}
    functions = of_type(resources, "AWS::Lambda::Function")
    assert {one["Environment"]["Variables"]["POWERTOOLS_SERVICE_NAME"] for one in functions.values()} == folders
    assert set(functions) == {f"{name}Function" for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_function_writes_json_logs_to_a_group_of_its_own_that_does_not_grow_for_ever(
    resources: Resources, name: str
) -> None:
    """Lambda's own groups keep everything."""
    logging = resources[f"{name}Function"]["Properties"]["LoggingConfig"]
    assert logging == {"LogFormat": "JSON", "LogGroup": {"Ref": f"{name}Logs"}}
    assert resources[f"{name}Logs"]["Properties"]["RetentionInDays"] == {"Ref": "LogRetentionDays"}


@pytest.mark.parametrize("name", NAMES)
def test_a_function_has_the_common_layer_and_runs_as_the_parameters_say(resources: Resources, name: str) -> None:
    """The layers are built for one Python and one CPU, which all functions share.

    Who charges has Stripe's besides, and the authorizer, where there is an issuer, what verifies its tokens.
    """
    function = resources[f"{name}Function"]["Properties"]
    common, oidc, stripe = sorted(of_type(resources, "AWS::Lambda::LayerVersion"))
    more: list[Any] = [{"Ref": stripe}] if name in CHARGING else []
    if name == "Authorizer":
        more = [{"Fn::If": ["HasOidcIssuer", {"Ref": oidc}, {"Ref": "AWS::NoValue"}]}]
    assert function["Layers"] == [{"Ref": common}, *more]
    assert [layer for layer in (common, oidc, stripe) if "Condition" in resources[layer]] == [oidc]
    assert resources[oidc]["Condition"] == "HasOidcIssuer"
    assert function["Runtime"] == {"Ref": "PythonRuntime"}
    assert function["Architectures"] == [{"Ref": "Architecture"}]
    assert function["Handler"] == "app.handler"


def test_the_layer_says_for_which_python_and_cpu_it_is(resources: Resources) -> None:
    """So that Lambda refuses a function that it would break."""
    for layer in of_type(resources, "AWS::Lambda::LayerVersion").values():
        assert layer["CompatibleRuntimes"] == [{"Ref": "PythonRuntime"}]
        assert layer["CompatibleArchitectures"] == [{"Ref": "Architecture"}]


# Tables


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_encrypted_can_be_restored_and_costs_nothing_when_idle(resources: Resources, table: str) -> None:
    """To any second of the last 35 days."""
    properties = resources[f"{table.capitalize()}Table"]["Properties"]
    assert properties["SSESpecification"] == {"SSEEnabled": True}
    assert properties["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert properties["BillingMode"] == "PAY_PER_REQUEST"


@pytest.mark.parametrize("table", TABLES)
def test_a_table_outlives_its_stack_outside_development(
    translated: dict[str, Any], resources: Resources, table: str
) -> None:
    """Neither deleting the stack nor replacing the table deletes data."""
    assert translated["Conditions"]["IsDevelopment"] == {"Fn::Equals": [{"Ref": "Stage"}, "dev"]}
    resource = resources[f"{table.capitalize()}Table"]
    assert resource["DeletionPolicy"] == {"Fn::If": ["IsDevelopment", "Delete", "Retain"]}
    assert resource["UpdateReplacePolicy"] == {"Fn::If": ["IsDevelopment", "Delete", "Retain"]}
    assert resource["Properties"]["DeletionProtectionEnabled"] == {"Fn::If": ["IsDevelopment", False, True]}


def test_only_usage_data_passes_away(resources: Resources) -> None:
    """Money and its errors are kept for ever."""
    tables = of_type(resources, "AWS::DynamoDB::Table")
    assert [name for name, table in tables.items() if "TimeToLiveSpecification" in table] == ["UsageTable"]


# Queues and topics


@pytest.mark.parametrize("queue", QUEUES)
def test_a_queue_is_encrypted_and_keeps_messages_as_long_as_sqs_can(resources: Resources, queue: str) -> None:
    """14 days."""
    assert set(of_type(resources, "AWS::SQS::Queue")) == set(QUEUES)
    properties = resources[queue]["Properties"]
    assert (properties["SqsManagedSseEnabled"], properties["MessageRetentionPeriod"]) == (True, 14 * 24 * 60 * 60)


@pytest.mark.parametrize(("queue", "_consumer"), CONSUMERS)
def test_what_cannot_be_dealt_with_goes_to_a_dead_letter_queue(
    resources: Resources, queue: str, _consumer: str
) -> None:
    """After five attempts, which outlast a throttled minute."""
    redrive = resources[f"{queue}Queue"]["Properties"]["RedrivePolicy"]
    assert redrive == {"deadLetterTargetArn": arn(f"{queue}DeadLetterQueue"), "maxReceiveCount": 5}


@pytest.mark.parametrize(("queue", "function"), [("Events", "Usage"), ("Billing", "Billing")])
def test_the_consumer_knows_which_receive_of_a_message_is_the_last(
    resources: Resources, queue: str, function: str
) -> None:
    """It writes a record before that one, which a killed function could not."""
    environment = resources[f"{function}Function"]["Properties"]["Environment"]["Variables"]
    redrive = resources[f"{queue}Queue"]["Properties"]["RedrivePolicy"]
    assert environment[f"{queue.upper()}_MAX_RECEIVES"] == str(redrive["maxReceiveCount"])


def test_all_that_is_put_on_the_usage_bus_goes_to_the_events_queue(resources: Resources) -> None:
    """Whatever its source and detail-type, which every event has as a string; what cannot be delivered is kept."""
    [rule] = [
        one for one in of_type(resources, "AWS::Events::Rule").values() if one["EventBusName"] == {"Ref": "UsageBus"}
    ]
    assert rule["EventPattern"] == {"source": [{"prefix": ""}]}
    [target] = rule["Targets"]
    assert (target["Arn"], target["DeadLetterConfig"]) == (arn("EventsQueue"), {"Arn": arn("EventsDeadLetterQueue")})
    assert target["RetryPolicy"] == {"MaximumRetryAttempts": 185, "MaximumEventAgeInSeconds": 24 * 60 * 60}
    assert {"InputPath", "InputTransformer", "Input"} & set(target) == set(), "the consumer reads the envelope"


@pytest.mark.parametrize(("queue", "consumer"), CONSUMERS)
def test_a_message_stays_hidden_for_six_times_the_timeout_of_its_consumer(
    resources: Resources, queue: str, consumer: str
) -> None:
    """What AWS asks for, so that a message is not handled twice while the function is throttled."""
    timeout = resources[f"{consumer}Function"]["Properties"]["Timeout"]
    assert resources[f"{queue}Queue"]["Properties"]["VisibilityTimeout"] >= 6 * timeout


def test_a_queue_is_read_with_partial_failures(resources: Resources) -> None:
    """One bad message does not bring its neighbours back."""
    mappings = of_type(resources, "AWS::Lambda::EventSourceMapping").values()
    read = [(mapping["EventSourceArn"], mapping["FunctionName"]) for mapping in mappings if not is_of_stream(mapping)]
    assert read == [(arn(f"{queue}Queue"), {"Ref": f"{consumer}Function"}) for queue, consumer in CONSUMERS]
    assert all(mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"] for mapping in mappings)


def is_of_stream(mapping: dict[str, Any]) -> bool:
    """Whether a function reads a stream, and not a queue."""
    return "StartingPosition" in mapping


def test_the_outbox_reads_what_is_news_from_the_streams_and_keeps_what_it_cannot_tell(resources: Resources) -> None:
    """Of the usage table the keys alone are in the stream: counters are written all the time."""
    mappings = of_type(resources, "AWS::Lambda::EventSourceMapping").values()
    streams = {mapping["EventSourceArn"]["Fn::GetAtt"][0]: mapping for mapping in mappings if is_of_stream(mapping)}
    views = {table: resources[table]["Properties"]["StreamSpecification"]["StreamViewType"] for table in streams}
    assert views == {"BillingTable": "NEW_AND_OLD_IMAGES", "UsageTable": "KEYS_ONLY"}
    for mapping in streams.values():
        assert mapping["FunctionName"] == {"Ref": "OutboxFunction"}
        assert mapping["StartingPosition"] == "TRIM_HORIZON"
        assert mapping["DestinationConfig"] == {"OnFailure": {"Destination": arn("InvocationsDeadLetterQueue")}}
        [wanted] = mapping["FilterCriteria"]["Filters"]
        assert json.loads(wanted["Pattern"])


def test_a_lease_of_an_alert_lasts_until_the_function_that_holds_it_has_ended(resources: Resources) -> None:
    """So that two never tell one alert at once, and a message comes again when its lease is over."""
    lease = DynamoOnce.LEASE.total_seconds()
    assert resources["AlertsFunction"]["Properties"]["Timeout"] <= lease
    assert lease < resources["AlertsQueue"]["Properties"]["VisibilityTimeout"]


def test_webhooks_may_not_lead_into_private_networks_unless_that_is_asked_for(translated: dict[str, Any]) -> None:
    """The local stack asks for it: its receivers are on this machine."""
    assert translated["Parameters"]["AllowPrivateWebhooks"]["Default"] == "false"


def test_the_operations_topic_is_encrypted(resources: Resources) -> None:
    """With AWS's own key for SNS, which any publisher of this account may use."""
    assert resources["OperationsTopic"]["Properties"]["KmsMasterKeyId"] == "alias/aws/sns"


# Schedules


@pytest.mark.parametrize(
    ("name", "expression"),
    [
        ("RetryProcessor", "rate(5 minutes)"),
        ("Billing", "rate(15 minutes)"),
        ("ErrorReport", "cron(0 7 * * ? *)"),
    ],
)
def test_eventbridge_scheduler_invokes_and_keeps_what_it_could_not(
    resources: Resources, name: str, expression: str
) -> None:
    """The retry processor every 5 minutes, billing every 15, the report once a day."""
    [schedule] = [
        one for one in of_type(resources, "AWS::Scheduler::Schedule").values()
        if one["Target"]["Arn"] == arn(f"{name}Function")
    ]  # fmt: skip
    assert schedule["ScheduleExpression"] == expression
    assert schedule["FlexibleTimeWindow"] == {"Mode": "OFF"}
    assert schedule["Target"]["RoleArn"] == arn("SchedulerRole")
    assert schedule["Target"]["DeadLetterConfig"] == {"Arn": arn("InvocationsDeadLetterQueue")}
    assert schedule["Target"]["RetryPolicy"]["MaximumRetryAttempts"] == 2


def test_a_run_of_the_processor_ends_before_the_next_begins(resources: Resources) -> None:
    """Two at once would do no harm, but no good either."""
    assert resources["RetryProcessorFunction"]["Properties"]["Timeout"] < 5 * 60


def test_nothing_has_a_fixed_name_so_that_two_environments_fit_in_one_account(resources: Resources) -> None:
    """All but the layer, whose versions may share a name; a bus, which must have one, has the stack's in it."""
    fixed = [
        f"{name}.{key}"
        for name, resource in resources.items()
        for key, value in resource.get("Properties", {}).items()
        if key in {"Name", "TableName", "QueueName", "TopicName", "RoleName", "AlarmName", "LogGroupName"}
        or (key == "FunctionName" and resource["Type"] == "AWS::Lambda::Function")
        if "${AWS::StackName}" not in str(value)
    ]
    assert not fixed


# The alarm and what follows from it


def test_the_alarm_watches_what_the_retry_processor_publishes(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Name, namespace and dimensions: CloudWatch takes another spelling for another metric, silently."""
    alarm = resources["UnresolvedErrorsAlarm"]["Properties"]
    published = metrics(monkeypatch)
    environment = resources["RetryProcessorFunction"]["Properties"]["Environment"]["Variables"]
    assert alarm["Namespace"] == environment["METRICS_NAMESPACE"] == published["Namespace"]
    [dimension] = alarm["Dimensions"]
    assert dimension["Value"] == environment["STAGE"] == {"Ref": "Stage"}
    watched = (alarm["MetricName"], [{"Name": dimension["Name"], "Value": "test"}])
    assert watched in [(one["MetricName"], one["Dimensions"]) for one in published["MetricData"]]


def metrics(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the retry processor sends to CloudWatch in the environment `test`, when nothing is unresolved."""
    spec = importlib.util.spec_from_file_location("retry_processor", ROOT / "functions/retry_processor/app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sent: dict[str, Any] = {}
    monkeypatch.setattr(module, "cloudwatch", SimpleNamespace(put_metric_data=sent.update))
    module.publish(Report(datetime.now(UTC), 0, ()))
    return sent


def test_the_alarm_rises_at_the_threshold_and_waits_for_a_value_to_clear(resources: Resources) -> None:
    """A processor that does not run says nothing about errors."""
    alarm = resources["UnresolvedErrorsAlarm"]["Properties"]
    assert alarm["ComparisonOperator"] == "GreaterThanOrEqualToThreshold"
    assert alarm["Threshold"] == {"Ref": "UnresolvedErrorsThreshold"}
    assert (alarm["Statistic"], alarm["TreatMissingData"]) == ("Maximum", "ignore")


def test_the_alarm_tells_its_topic_when_it_rises_and_when_it_clears(resources: Resources) -> None:
    """The end of an incident is news too."""
    alarm = resources["UnresolvedErrorsAlarm"]["Properties"]
    assert alarm["AlarmActions"] == alarm["OKActions"] == [{"Ref": "AlarmTopic"}]


def test_the_alarm_topic_invokes_the_error_report(resources: Resources) -> None:
    """A subscription, and the permission for it; people are told by another topic."""
    subscriptions = of_type(resources, "AWS::SNS::Subscription")
    [told] = [one for one in subscriptions.values() if one["TopicArn"] == {"Ref": "AlarmTopic"}]
    assert (told["Protocol"], told["Endpoint"]) == ("lambda", arn("ErrorReportFunction"))
    assert {
        "Action": "lambda:InvokeFunction",
        "FunctionName": {"Ref": "ErrorReportFunction"},
        "Principal": "sns.amazonaws.com",
        "SourceArn": {"Ref": "AlarmTopic"},
    } in of_type(resources, "AWS::Lambda::Permission").values()


def test_a_sweep_or_report_that_fails_for_good_is_kept(resources: Resources) -> None:
    """After two retries the invocation goes to the dead-letter queue."""
    configs = of_type(resources, "AWS::Lambda::EventInvokeConfig").values()
    functions = [config["FunctionName"]["Ref"] for config in configs]
    assert sorted(functions) == ["BillingFunction", "ErrorReportFunction", "RetryProcessorFunction"]
    for config in configs:
        assert config["DestinationConfig"] == {"OnFailure": {"Destination": arn("InvocationsDeadLetterQueue")}}
        assert config["MaximumRetryAttempts"] == 2


def test_what_waits_in_a_dead_letter_queue_or_fails_in_a_sweep_is_told(resources: Resources) -> None:
    """By the alarm topic, like unresolved errors."""
    alarms = of_type(resources, "AWS::CloudWatch::Alarm")
    watched = {
        alarm["MetricName"]: [
            one["Dimensions"][0]["Value"] for one in alarms.values() if one["MetricName"] == alarm["MetricName"]
        ]
        for alarm in alarms.values()
    }
    assert watched["ApproximateNumberOfMessagesVisible"] == [
        {"Fn::GetAtt": ["EventsDeadLetterQueue", "QueueName"]},
        {"Fn::GetAtt": ["AlertsDeadLetterQueue", "QueueName"]},
        {"Fn::GetAtt": ["RetriesDeadLetterQueue", "QueueName"]},
        {"Fn::GetAtt": ["BillingDeadLetterQueue", "QueueName"]},
        {"Fn::GetAtt": ["InvocationsDeadLetterQueue", "QueueName"]},
    ]
    assert watched["Errors"] == [{"Ref": "RetryProcessorFunction"}]
    assert all(alarm["AlarmActions"] == alarm["OKActions"] == [{"Ref": "AlarmTopic"}] for alarm in alarms.values())


# Dashboard


def shown_metrics(resources: Resources) -> list[list[Any]]:
    """Every metric of the dashboard, without its label."""
    body = resources["Dashboard"]["Properties"]["DashboardBody"]["Fn::ToJsonString"]
    return [one[:-1] for widget in body["widgets"] for one in widget["properties"]["metrics"]]


def test_the_dashboard_shows_every_function_queue_and_type_of_error(resources: Resources) -> None:
    """One that is added is not forgotten there."""
    shown_there = shown_metrics(resources)
    for metric in ("Errors", "Duration"):
        functions = [one[-1]["Ref"] for one in shown_there if one[1] == metric]
        assert set(functions) == set(of_type(resources, "AWS::Lambda::Function"))
    queues = {one[-1]["Fn::GetAtt"][0] for one in shown_there if one[0] == "AWS/SQS" and "Oldest" in one[1]} | {
        one[-1]["Fn::GetAtt"][0] for one in shown_there if one[0] == "AWS/SQS" and "Visible" in one[1]
    }
    assert queues == set(of_type(resources, "AWS::SQS::Queue"))
    assert {one[-1] for one in shown_there if "Type" in one} == set(ErrorType)


def test_the_dashboard_shows_what_is_published_and_nothing_else(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt metric would be an empty graph."""
    counted = set()
    for path in (*ROOT.glob("functions/*/app.py"), *ROOT.glob("layers/common/tollgate/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "count":
                counted |= {keyword.arg for keyword in node.keywords}
    put = {one["MetricName"] for one in metrics(monkeypatch)["MetricData"]}
    ours = [one for one in shown_metrics(resources) if one[0] == "Tollgate"]
    assert {one[1] for one in ours} == counted | put
    assert all(one[2:4] == ["Stage", {"Ref": "Stage"}] for one in ours)


def test_operations_get_mail_only_where_an_address_is_given(translated: dict[str, Any], resources: Resources) -> None:
    """SNS refuses an empty one."""
    subscription = resources["OperationsEmailSubscription"]
    assert subscription["Condition"] == "HasOperationsEmail"
    assert subscription["Properties"]["TopicArn"] == {"Ref": "OperationsTopic"}
    empty = {"Fn::Equals": [{"Ref": "OperationsEmail"}, ""]}
    assert translated["Conditions"]["HasOperationsEmail"] == {"Fn::Not": [empty]}


# The API


def routes(resources: Resources) -> list[Route]:
    """The routes of the HTTP API."""
    return routes_of(resources["HttpApi"]["Properties"]["Body"], list(resources))


def test_every_route_passes_the_authorizer_but_the_open_ones(resources: Resources) -> None:
    """Documents, health, and what no route matches."""
    without = {route.key for route in routes(resources) if route.authorizer is None}
    assert without == OPEN
    assert {route.authorizer for route in routes(resources) if route.key not in OPEN} == {"ApiKey"}


def test_the_authorizer_sees_every_request(resources: Resources) -> None:
    """With no identity source a request without a key reaches it too, and nothing it said is remembered."""
    [scheme] = resources["HttpApi"]["Properties"]["Body"]["components"]["securitySchemes"].values()
    authorizer = scheme["x-amazon-apigateway-authorizer"]
    assert (authorizer["type"], authorizer["authorizerPayloadFormatVersion"]) == ("request", "2.0")
    assert authorizer["enableSimpleResponses"] is True
    assert authorizer["authorizerResultTtlInSeconds"] == 0
    assert authorizer.get("identitySource", []) == []
    assert "AuthorizerFunction" in json.dumps(authorizer["authorizerUri"])


def test_api_gateway_may_invoke_the_authorizer_and_every_function_with_a_route(resources: Resources) -> None:
    """Without the permission a route answers 500."""
    invoked = {
        json.dumps(permission["FunctionName"])
        for permission in of_type(resources, "AWS::Lambda::Permission").values()
        if permission["Principal"] == "apigateway.amazonaws.com"
    }
    expected = {json.dumps({"Ref": route.function}) for route in routes(resources)}
    assert invoked == expected | {json.dumps(arn("AuthorizerFunction"))}


IAM_ROUTES = {
    "UsageFunction": {"/v1/events", "/v1/customers/{customer}/usage", "/v1/customers/{customer}/events"},
    "EntitlementsFunction": {
        "/v1/customers/{customer}/entitlements",
        "/v1/customers/{customer}/entitlements/{feature}",
        "/v1/customers/{customer}/entitlements/{feature}/consume",
        "/v1/customers/{customer}/entitlements/consume",
        "/v1/reservations",
        "/v1/reservations/{reservation}/commit",
        "/v1/reservations/{reservation}/release",
    },
}
"""What callers inside AWS reach, by IAM."""


def test_iam_holds_every_route_of_the_second_api(resources: Resources) -> None:
    """Each goes to the function that answers it on the first one too."""
    found: dict[str, set[str]] = {}
    for route in of_type(resources, "AWS::ApiGatewayV2::Route").values():
        assert route["AuthorizationType"] == "AWS_IAM"
        assert route["ApiId"] == {"Ref": "IamApi"}
        [integration] = re.findall(r"\{(\w+)\}", route["Target"]["Fn::Sub"])
        [function, _] = resources[integration]["Properties"]["IntegrationUri"]["Fn::GetAtt"]
        method, path = route["RouteKey"].split(" ")
        found.setdefault(function, set()).add(path)
        assert method == "ANY"
        assert reached(routes(resources), "POST", re.sub(r"\{\w+\}", "a", path)) == function
    assert found == IAM_ROUTES


def test_who_comes_by_iam_has_the_scopes_of_all_that_the_second_api_has() -> None:
    """Of every method of its paths; none of them is open to all."""
    paths = json.loads((ROOT / "functions/catalog/openapi.json").read_text())["paths"]
    wanted = {
        scope
        for path in set().union(*IAM_ROUTES.values())
        for operation in paths[path].values()
        for scope in operation["security"][0]["ApiKey"]
    }
    assert wanted == IAM_SCOPES


def test_the_second_api_is_there_where_it_is_wanted_and_apart_from_the_first(
    translated: dict[str, Any], resources: Resources
) -> None:
    """All that it consists of; and API Gateway may invoke its functions for it alone."""
    assert translated["Parameters"]["IamCallers"]["Default"] == "false"
    assert translated["Conditions"]["TakesIamCallers"] == {"Fn::Equals": [{"Ref": "IamCallers"}, "true"]}
    parts = {name: one for name, one in resources.items() if name.startswith("Iam")}
    assert all(one["Condition"] == "TakesIamCallers" for one in parts.values())
    assert translated["Outputs"]["IamApiUrl"]["Condition"] == "TakesIamCallers"
    assert {one["Type"].rpartition("::")[2] for one in parts.values()} == {
        "Api",
        "Stage",
        "Integration",
        "Route",
        "Permission",
    }
    for one in parts.values():
        if one["Type"] == "AWS::Lambda::Permission":
            assert one["Properties"]["SourceArn"]["Fn::Sub"].endswith(":${IamApi}/*")
    assert "IamApi" not in json.dumps(resources["HttpApi"])


def declared() -> list[tuple[str, str, str]]:
    """Function, method and path of all routes that the functions declare with `@app.endpoint(method, path)`."""
    return [
        (f"{source.parent.name.title().replace('_', '')}Function", method, re.sub(r"<(\w+)>", r"{\1}", path))
        for source in sorted(ROOT.glob("functions/*/app.py"))
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "app.endpoint"
        for method, path in [[ast.literal_eval(argument) for argument in node.args]]
    ]


def test_openapi_json_has_the_routes_that_the_functions_declare() -> None:
    """So the next test sees all of them."""
    document = json.loads((ROOT / "functions/catalog/openapi.json").read_text())
    documented = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    assert documented == {(method, path) for _, method, path in declared()}


@pytest.mark.parametrize(("function", "method", "path"), declared())
def test_a_request_reaches_the_function_that_implements_it(
    resources: Resources, function: str, method: str, path: str
) -> None:
    """By API Gateway's rules of precedence, with any id in the place of a variable."""
    assert reached(routes(resources), method, re.sub(r"\{\w+\}", "a:1.b", path)) == function


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("POST", "/docs"), ("GET", "/v1/customers/a/unknown")])
def test_whatever_no_route_matches_is_answered_with_a_problem_document(
    resources: Resources, method: str, path: str
) -> None:
    """By catalog; API Gateway's own answer is none."""
    assert reached(routes(resources), method, path) == "CatalogFunction"


def reached(candidates: list[Route], method: str, path: str) -> str:
    """The function that API Gateway gives a request to: the route that says most of it.

    https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-routes.html
    """
    matching = [route for route in candidates if matches(route.key, method, path)]
    return min(matching, key=lambda route: vagueness(route.key)).function


def matches(key: str, method: str, path: str) -> bool:
    """Whether a request fits a route."""
    if key == "$default":
        return True
    wanted, _, template = key.partition(" ")
    pattern = re.sub(r"\{\w+\}", "[^/]+", re.sub(r"\{\w+\+\}", ".+", template))
    return wanted in {"ANY", method} and re.fullmatch(pattern, path) is not None


def vagueness(key: str) -> tuple[int, list[int], bool]:
    """Full matches before greedy ones before $default; fixed parts before variables; a method before ANY."""
    method, _, path = key.partition(" ")
    kind = 2 if key == "$default" else int("+}" in path)
    return kind, [int("{" in part) for part in path.split("/")], method == "ANY"


# Parameters and the two environments


@pytest.mark.parametrize(
    ("parameter", "default"),
    [
        ("Stage", "dev"),
        ("PythonRuntime", "python3.13"),
        ("Architecture", "arm64"),
        ("OperationsEmail", ""),
        ("UnresolvedErrorsThreshold", 1),
        ("LogRetentionDays", 30),
        ("ArchiveDays", 400),
        ("Seller", ""),
        ("OidcIssuer", ""),
        ("OidcAudience", ""),
    ],
)
def test_a_deployment_needs_no_parameters(translated: dict[str, Any], parameter: str, default: object) -> None:
    """arm64 costs less for the same work."""
    assert translated["Parameters"][parameter]["Default"] == default


@pytest.mark.parametrize(
    ("url", "is_taken"),
    [
        ("", True),
        ("https://login.example/realms/a", True),
        ("http://127.0.0.1:8080/realms/a", True),
        ("http://localhost", True),
        ("http://login.example", False),
        ("http://localhost.example", False),
        ("ftp://login.example", False),
        ("login.example", False),
    ],
)
def test_an_issuer_is_named_by_an_https_url(translated: dict[str, Any], url: str, is_taken: bool) -> None:
    """But for loopback; and never without the audience that its tokens are for."""
    assert (re.fullmatch(translated["Parameters"]["OidcIssuer"]["AllowedPattern"], url) is not None) == is_taken
    [assertion] = translated["Rules"]["OidcIssuerNeedsAudience"]["Assertions"]
    assert assertion["Assert"] == {"Fn::Not": [{"Fn::Equals": [{"Ref": "OidcAudience"}, ""]}]}


def test_every_parameter_has_a_default(translated: dict[str, Any]) -> None:
    """Also one that is added later."""
    assert all("Default" in parameter for parameter in translated["Parameters"].values())


def overrides(configuration: Mapping[str, Any], environment: str) -> dict[str, str]:
    """The parameters with which samconfig.toml deploys an environment."""
    text = configuration[environment]["deploy"]["parameters"]["parameter_overrides"]
    return dict(one.split("=") for one in text.split())


def test_samconfig_deploys_development_by_default_and_production_by_name(translated: dict[str, Any]) -> None:
    """Two stacks; production asks before it changes anything, and its tables are kept."""
    configuration = tomllib.loads((ROOT / "samconfig.toml").read_text())
    names = [configuration[one]["global"]["parameters"]["stack_name"] for one in ("default", "prod")]
    assert names == ["tollgate-dev", "tollgate-prod"]
    assert overrides(configuration, "default")["Stage"] == "dev"
    assert overrides(configuration, "prod")["Stage"] == "prod"
    assert configuration["prod"]["deploy"]["parameters"]["confirm_changeset"] is True
    for environment in ("default", "prod"):
        assert set(overrides(configuration, environment)) <= set(translated["Parameters"])
        assert "CAPABILITY_IAM" in configuration[environment]["deploy"]["parameters"]["capabilities"].split()

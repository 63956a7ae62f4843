"""What docs/security.md promises, held against the translated template in both directions."""

import json
import re
from typing import Any, NamedTuple

import pytest

from tests.conftest import ROOT

Resources = dict[str, dict[str, Any]]

PAGE = (ROOT / "docs/security.md").read_text()
FUNCTIONS = [path.parent.name for path in sorted(ROOT.glob("functions/*/app.py"))]
ACCOUNT = {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}
KEY = {"Ref": "KmsKeyArn"}


class Permission(NamedTuple):
    """An action that a role may take on a resource; `only` are the partitions, or the namespace, that it is held to."""

    role: str
    resource: str
    action: str
    only: frozenset[str] = frozenset()


def table(heading: str, number: int = 0) -> list[list[str]]:
    """The rows of a table of the page, the one with this number under a heading."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    tables = re.findall(r"((?:^\|.*\n)+)", section, re.MULTILINE)
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in tables[number].splitlines()[2:]]


def of_type(resources: Resources, kind: str) -> dict[str, dict[str, Any]]:
    """The properties of all resources of a type, by logical id."""
    return {name: one.get("Properties", {}) for name, one in resources.items() if one["Type"] == kind}


def listed(value: Any) -> list[Any]:
    """A list, where IAM also takes a single value."""
    return value if isinstance(value, list) else [value]


def role_of(function: str) -> str:
    """The logical id of a function's role."""
    return f"{function.title().replace('_', '')}Role"


def statements(resources: Resources, role: str) -> list[dict[str, Any]]:
    """The statements of a role."""
    policies = resources[role]["Properties"]["Policies"]
    return [statement for policy in policies for statement in policy["PolicyDocument"]["Statement"]]


def shown(resource: Any) -> str:
    """A resource of a policy as the page names it: `X` for X.Arn, `X/index/i` and `X/stream` for what lies in it."""
    match resource:
        case {"Fn::GetAtt": [str(name), "Arn"]} | {"Ref": str(name)}:
            return name
        case {"Fn::GetAtt": [str(name), "StreamArn"]}:
            return f"{name}/stream"
        case {"Fn::Sub": str(text)}:
            return re.sub(r"\$\{(\w+)\.Arn\}", r"\1", text)
    return str(resource)


# Least privilege


def promised() -> list[Permission]:
    """What the page allows."""
    return [
        Permission(role_of(name), resource, f"{service}:{action}", frozenset(re.findall("`(.+?)`", only)))
        for who, resources, actions, only in table("Least privilege")
        for name in (FUNCTIONS if who == "every function" else [who])
        for resource in named(resources, name)
        for service, _, verbs in [actions.partition(": ")]
        for action in verbs.split(", ")
    ]


def named(cell: str, function: str) -> list[str]:
    """The resources of a cell: `X, Y/index/{a, b}`, or the log group of a function."""
    if cell == "its own log group":
        return [role_of(function).removesuffix("Role") + "Logs"]
    found = []
    for one in re.split(r", (?![^{]*})", cell.replace("\\", "")):
        start, _, names = one.partition("{")
        found += [start + name for name in names.removesuffix("}").split(", ")]
    return found


def allowed(resources: Resources) -> list[Permission]:
    """What the roles of the template allow, the key apart."""
    return [
        Permission(role, shown(resource), action, only(statement))
        for role in of_type(resources, "AWS::IAM::Role")
        for statement in statements(resources, role)
        if statement["Resource"] != KEY
        for resource in listed(statement["Resource"])
        for action in listed(statement["Action"])
    ]


def only(statement: dict[str, Any]) -> frozenset[str]:
    """What a statement is held to; a condition that this page does not speak of is an error."""
    match statement.get("Condition"):
        case None:
            return frozenset()
        case {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": list(keys), **more}, **others} if not more | others:
            return frozenset(keys)
        case {
            "ForAllValues:StringLike": {"dynamodb:LeadingKeys": list(keys)},
            "ForAllValues:StringEquals": {"dynamodb:Attributes": list(attributes)},
            "StringEqualsIfExists": {"dynamodb:ReturnValues": "NONE"},
            **others,
        } if not others:
            return frozenset(keys + attributes)
        case {"StringEquals": {"cloudwatch:namespace": str(namespace), **more}, **others} if not more | others:
            return frozenset({namespace})
    raise AssertionError(statement)


def test_the_roles_allow_what_the_page_says_and_nothing_else(resources: Resources) -> None:
    """Each action by its name, on each resource by its name, in the partitions that it says."""
    page, template = promised(), allowed(resources)
    assert sorted(set(template) - set(page)) == [], "the template allows more than docs/security.md says"
    assert sorted(set(page) - set(template)) == [], "docs/security.md says more than the template allows"
    assert len(page) == len(set(page)), "the page says something twice"


def test_the_authorizer_can_change_no_secret_and_no_scope(resources: Resources) -> None:
    """Of a key it writes when it was used and how often, and its writes show it nothing.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/specifying-conditions.html
    """
    [written] = [one for one in statements(resources, "AuthorizerRole") if one["Action"] == ["dynamodb:UpdateItem"]]
    attributes = ["pk", "sk", "last_used_at", "rate_window", "rate_used"]
    assert written["Condition"]["ForAllValues:StringEquals"] == {"dynamodb:Attributes": attributes}
    assert written["Condition"]["StringEqualsIfExists"] == {"dynamodb:ReturnValues": "NONE"}


def test_a_key_of_the_customer_changes_nothing_else_that_roles_may_do(
    resources: Resources, encrypted: Resources
) -> None:
    """Only the statements on the key come to it."""
    assert set(allowed(resources)) == set(allowed(encrypted))


def test_a_function_has_a_role_of_its_own_and_there_are_no_roles_but_those_and_the_schedulers(
    resources: Resources,
) -> None:
    """What one function may do, no other may. SAM makes no roles, and a policy of AWS's, which may grow, is none."""
    functions = of_type(resources, "AWS::Lambda::Function")
    roles = of_type(resources, "AWS::IAM::Role")
    assert [one["Role"] for one in functions.values()] == [
        {"Fn::GetAtt": [name.removesuffix("Function") + "Role", "Arn"]} for name in functions
    ]
    assert set(roles) == {role_of(name) for name in [*FUNCTIONS, "scheduler"]}
    for role in roles.values():
        assert {"ManagedPolicyArns", "PermissionsBoundary", "RoleName"}.isdisjoint(role)
    others = {"AWS::IAM::Policy", "AWS::IAM::ManagedPolicy", "AWS::IAM::RolePolicy", "AWS::IAM::User"}
    assert others.isdisjoint(one["Type"] for one in resources.values())


def test_lambda_alone_may_assume_the_role_of_a_function_and_the_scheduler_of_this_account_its_own(
    resources: Resources,
) -> None:
    """The condition keeps the schedules of other accounts from using it (the confused deputy)."""
    for name, role in of_type(resources, "AWS::IAM::Role").items():
        service = "scheduler" if name == "SchedulerRole" else "lambda"
        principal = {
            "Effect": "Allow",
            "Principal": {"Service": f"{service}.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
        expected = principal | ({"Condition": ACCOUNT} if service == "scheduler" else {})
        assert role["AssumeRolePolicyDocument"]["Statement"] == [expected], name


def policies(resources: Resources) -> list[tuple[str, dict[str, Any]]]:
    """Every statement of the template, whatever it belongs to, with the logical id of that."""
    found: list[tuple[str, dict[str, Any]]] = []

    def search(name: str, value: Any) -> None:
        if isinstance(value, dict):
            if "Effect" in value:
                found.append((name, value))
            for part in value.values():
                search(name, part)
        elif isinstance(value, list):
            for part in value:
                search(name, part)

    for name, resource in resources.items():
        search(name, resource)
    return found


@pytest.mark.parametrize("deployment", ["resources", "encrypted"])
def test_no_statement_has_a_wildcard_that_could_be_narrowed(deployment: str, request: pytest.FixtureRequest) -> None:
    """In roles and in the policies of queues and topics: actions, resources and principals."""
    found = policies(request.getfixturevalue(deployment))
    assert len(found) > 80
    for name, statement in found:
        assert statement["Effect"] == "Allow", name
        assert {"NotAction", "NotResource", "NotPrincipal"}.isdisjoint(statement), name
        actions = listed(statement["Action"])
        assert not [action for action in actions if "*" in action], name
        stars = [shown(one) for one in listed(statement.get("Resource", [])) if "*" in shown(one)]
        if actions == ["cloudwatch:PutMetricData"]:  # knows no resources: the condition holds it
            assert (stars, only(statement)) == (["*"], frozenset({"Tollgate"}))
        elif actions == ["dynamodb:ListStreams"]:  # names a table's streams of all times
            assert stars == ["BillingTable/stream/*", "UsageTable/stream/*"]
        else:
            assert not stars, name
        assert list(statement.get("Principal", {"Service": ""})) == ["Service"], name


# Who may call in


def callers(resources: Resources) -> set[tuple[str, str, str, str]]:
    """Which service may do what with a resource, and on behalf of what: policies of resources, and permissions."""
    found = set()
    for kind in ("AWS::SQS::QueuePolicy", "AWS::SNS::TopicPolicy"):
        for policy in of_type(resources, kind).values():
            for statement in policy["PolicyDocument"]["Statement"]:
                [on] = policy["Queues" if "Queues" in policy else "Topics"]
                assert shown(statement["Resource"]) == shown(on)
                found.add((shown(on), statement["Principal"]["Service"], statement["Action"], behalf(statement)))
    for permission in of_type(resources, "AWS::Lambda::Permission").values():
        source = re.findall(r"\b(HttpApi|IamApi|\w+Topic)\b", json.dumps(permission["SourceArn"]))
        [behalf_of] = set(source)
        found.add((shown(permission["FunctionName"]), permission["Principal"], permission["Action"], behalf_of))
    return found


def behalf(statement: dict[str, Any]) -> str:
    """On behalf of what a service acts, by the statement's condition."""
    match statement["Condition"]:
        case {"ArnEquals": {"aws:SourceArn": source, **more}, **others} if not more | others:
            return shown(source)
        case condition if condition == ACCOUNT:
            return "this account"
    raise AssertionError(statement)


def test_the_services_that_may_call_in_are_those_of_the_page(resources: Resources, encrypted: Resources) -> None:
    """With the source that each acts on behalf of, so that nobody uses it from another account."""
    page = {
        (resource, f"{service}.amazonaws.com", action, source)
        for resource, service, action, source in table("Least privilege", 1)
    }
    with_key = {(*one[:3], one[3].removesuffix(" (with a key)")) for one in page}
    assert callers(resources) == {one for one in page if not one[3].endswith(" (with a key)")}
    assert callers(encrypted) == with_key


def test_nothing_but_the_api_can_be_called_from_outside(resources: Resources) -> None:
    """No function URL, no bucket, no other API; a new kind of resource has to be looked at here."""
    assert {one["Type"] for one in resources.values()} == {
        "AWS::ApiGatewayV2::Api",
        "AWS::ApiGatewayV2::Integration",
        "AWS::ApiGatewayV2::Route",
        "AWS::ApiGatewayV2::Stage",
        "AWS::CloudWatch::Alarm",
        "AWS::CloudWatch::Dashboard",
        "AWS::DynamoDB::Table",
        "AWS::Events::EventBus",  # without a policy: this account's alone
        "AWS::Events::Rule",
        "AWS::IAM::Role",
        "AWS::Lambda::EventInvokeConfig",
        "AWS::Lambda::EventSourceMapping",
        "AWS::Lambda::Function",
        "AWS::Lambda::LayerVersion",
        "AWS::Lambda::Permission",
        "AWS::Logs::LogGroup",
        "AWS::SNS::Subscription",
        "AWS::SNS::Topic",
        "AWS::SNS::TopicPolicy",
        "AWS::SQS::Queue",
        "AWS::SQS::QueuePolicy",
        "AWS::Scheduler::Schedule",
    }
    assert set(of_type(resources, "AWS::ApiGatewayV2::Api")) == {"HttpApi", "IamApi"}
    assert not [name for name, one in of_type(resources, "AWS::DynamoDB::Table").items() if "ResourcePolicy" in one]


# Encryption


def test_without_a_key_nothing_speaks_of_one(translated: dict[str, Any], resources: Resources) -> None:
    """AWS's keys encrypt, as the other tests say."""
    assert translated["Parameters"]["KmsKeyArn"]["Default"] == ""
    assert translated["Conditions"]["HasKmsKey"] == {"Fn::Not": [{"Fn::Equals": [KEY, ""]}]}
    assert "KmsKeyArn" not in json.dumps(resources)
    assert "kms:" not in json.dumps(resources)
    for queue in of_type(resources, "AWS::SQS::Queue").values():
        assert (queue["SqsManagedSseEnabled"], "KmsMasterKeyId" in queue) == (True, False)
    for one in of_type(resources, "AWS::DynamoDB::Table").values():
        assert one["SSESpecification"] == {"SSEEnabled": True}
    keys = {name: topic.get("KmsMasterKeyId") for name, topic in of_type(resources, "AWS::SNS::Topic").items()}
    assert keys == {"OperationsTopic": "alias/aws/sns", "AlarmTopic": None}, "alarms cannot use AWS's own key"


def test_with_a_key_it_encrypts_all_that_is_stored(encrypted: Resources) -> None:
    """Tables, queues, topics, logs, the functions' environment and the buses."""
    for one in of_type(encrypted, "AWS::DynamoDB::Table").values():
        assert one["SSESpecification"] == {"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": KEY}
    for kind, where in (
        ("AWS::SQS::Queue", "KmsMasterKeyId"),
        ("AWS::SNS::Topic", "KmsMasterKeyId"),
        ("AWS::Logs::LogGroup", "KmsKeyId"),
        ("AWS::Lambda::Function", "KmsKeyArn"),
        ("AWS::Events::EventBus", "KmsKeyIdentifier"),
    ):
        found = of_type(encrypted, kind)
        assert found
        assert {name: one.get(where) for name, one in found.items()} == dict.fromkeys(found, KEY)
    assert not [name for name, one in of_type(encrypted, "AWS::SQS::Queue").items() if "SqsManagedSseEnabled" in one]


def test_a_schedule_has_no_payload_that_would_have_to_be_encrypted(resources: Resources) -> None:
    """EventBridge Scheduler has a key of its own for that."""
    assert not [one for one in of_type(resources, "AWS::Scheduler::Schedule").values() if "Input" in one["Target"]]


def test_what_a_bus_cannot_encrypt_or_decrypt_is_kept(encrypted: Resources) -> None:
    """In a queue that the bus may send to, by the table above."""
    buses = of_type(encrypted, "AWS::Events::EventBus")
    queues = {name: shown(bus["DeadLetterConfig"]["Arn"]) for name, bus in buses.items()}
    assert queues == {"UsageBus": "EventsDeadLetterQueue", "EventsBus": "InvocationsDeadLetterQueue"}
    assert {(queue, "events.amazonaws.com", "sqs:SendMessage", bus) for bus, queue in queues.items()} <= callers(
        encrypted
    )


def test_a_role_may_use_the_key_as_far_as_it_reaches_what_the_key_encrypts(encrypted: Resources) -> None:
    """By the page's table: each role has what follows from its other permissions, and nothing else."""
    rules = {who: (actions, service) for who, actions, service in table("Encryption")}
    assert list(rules) == [
        "every function",
        "who reaches a table",
        "who sends to a queue or reads one",
        "who publishes to a topic",
    ]
    others = allowed(encrypted)
    for role in of_type(encrypted, "AWS::IAM::Role"):
        services = {one.action.partition(":")[0] for one in others if one.role == role}
        reaches = [role != "SchedulerRole", "dynamodb" in services, "sqs" in services, "sns" in services]
        expected = {
            (f"kms:{action}", service)
            for (actions, service), applies in zip(rules.values(), reaches, strict=True)
            if applies
            for action in actions.removeprefix("kms: ").split(", ")
        }
        assert key_uses(encrypted, role) == expected, role


def key_uses(resources: Resources, role: str) -> set[tuple[str, str]]:
    """The actions on the key that a role may take, each with the service that it goes through."""
    found = set()
    for statement in statements(resources, role):
        if statement["Resource"] == KEY:
            assert list(statement["Condition"]) == ["StringEquals"]
            [(condition, services)] = statement["Condition"]["StringEquals"].items()
            assert condition == "kms:ViaService"
            for service in services:
                name = service["Fn::Sub"].removesuffix(".${AWS::Region}.${AWS::URLSuffix}")
                found |= {(action, name) for action in statement["Action"]}
    return found


def test_the_key_policy_of_the_page_serves_the_services_that_act_in_no_role() -> None:
    """Each under a condition; all else is left to the policies of the account."""
    section = PAGE.partition("\n## Encryption\n")[2].partition("\n## ")[0]
    [text] = re.findall(r"```json\n(.*?)```", section, re.DOTALL)
    account, *services = json.loads(text)["Statement"]
    assert account["Principal"] == {"AWS": "arn:aws:iam::111122223333:root"}
    principals = {one["Principal"]["Service"]: one for one in services}
    assert set(principals) == {"logs.eu-central-1.amazonaws.com", "cloudwatch.amazonaws.com", "events.amazonaws.com"}
    for one in services:
        assert {"kms:Decrypt", "kms:GenerateDataKey"} <= set(one["Action"])
        assert not [action for action in one["Action"] if "*" in action]
        assert "111122223333" in json.dumps(one["Condition"])


# What is kept


def test_every_log_group_forgets(resources: Resources) -> None:
    """Those of the functions, and the API's."""
    groups = of_type(resources, "AWS::Logs::LogGroup")
    assert set(groups) == {role_of(name).removesuffix("Role") + "Logs" for name in [*FUNCTIONS, "api"]}
    assert {json.dumps(one["RetentionInDays"]) for one in groups.values()} == {'{"Ref": "LogRetentionDays"}'}


# The API


def test_the_api_is_held_to_a_rate_and_logs_who_called(translated: dict[str, Any], resources: Resources) -> None:
    """The numbers are the page's; a line of the log has neither addresses nor keys."""
    for parameter in ("ApiRateLimit", "ApiBurstLimit"):
        default = translated["Parameters"][parameter]["Default"]
        assert re.search(rf"`{parameter}` [a-z ]+\({default:,}\)", PAGE)
    for stage in of_type(resources, "AWS::ApiGatewayV2::Stage").values():
        assert stage["DefaultRouteSettings"] == {
            "ThrottlingRateLimit": {"Ref": "ApiRateLimit"},
            "ThrottlingBurstLimit": {"Ref": "ApiBurstLimit"},
        }
        assert shown(stage["AccessLogSettings"]["DestinationArn"]) == "ApiLogs"
        logged = json.loads(stage["AccessLogSettings"]["Format"])
        assert set(logged) == {"requestId", "routeKey", "status", "key", "latency", "error"}


def test_no_page_of_another_site_can_use_the_api(resources: Resources) -> None:
    """CORS is off."""
    assert "cors" not in json.dumps(of_type(resources, "AWS::ApiGatewayV2::Api")).lower()


# Secrets of Stripe


def test_secrets_are_not_shown_and_reach_only_the_functions_that_charge(
    translated: dict[str, Any], resources: Resources
) -> None:
    """As parameters, or better from Secrets Manager, where CloudFormation reads them itself."""
    for parameter in ("StripeSecretKey", "StripeWebhookSecret"):
        assert translated["Parameters"][parameter]["NoEcho"] is True
    assert translated["Conditions"]["HasStripeSecret"] == {"Fn::Not": [{"Fn::Equals": [{"Ref": "StripeSecret"}, ""]}]}

    def either(key: str, parameter: str) -> dict[str, Any]:
        reference = "{{resolve:secretsmanager:${StripeSecret}:SecretString:" + key + "}}"
        return {"Fn::If": ["HasStripeSecret", {"Fn::Sub": reference}, {"Ref": parameter}]}

    found = {
        name: {key: value for key, value in function["Environment"]["Variables"].items() if "STRIPE" in key}
        for name, function in of_type(resources, "AWS::Lambda::Function").items()
    }
    secret_key = {"STRIPE_SECRET_KEY": either("secret_key", "StripeSecretKey")}
    webhook = {"STRIPE_WEBHOOK_SECRET": either("webhook_secret", "StripeWebhookSecret")}
    assert {name: one for name, one in found.items() if one} == {
        "BillingFunction": secret_key | webhook,
        "RetryProcessorFunction": secret_key,
    }
    assert json.dumps(translated).count('"Ref": "StripeSecretKey"') == 2, "and nothing shows it, no output above all"

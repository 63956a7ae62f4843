"""Functions in containers by `sam local`, on data in a MiniStack that containers reach and others do not."""

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import httpx
import pytest

from tests.conftest import create_tables, template
from tests.samples import folder, sample, seed
from tools import LOCAL
from tools.ministack import ministack
from tools.samlocal import SamLocal

Invoke = Callable[..., Any]

_QUEUES = ("EVENTS_QUEUE_URL", "ALERTS_QUEUE_URL", "BILLING_QUEUE_URL", "RETRIES_QUEUE_URL")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Every test of this folder needs Docker."""
    if "/samlocal/" in item.nodeid:
        item.add_marker(pytest.mark.samlocal)


@pytest.fixture(scope="session")
def sam() -> SamLocal:
    """What `make test-samlocal` has prepared."""
    return SamLocal.prepared()


@pytest.fixture(scope="session")
def aws(sam: SamLocal) -> Iterator[str]:
    """The URL of the local AWS, which this process's clients reach too."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    log = LOCAL / "samlocal" / f"ministack-{worker}.log"
    with pytest.MonkeyPatch.context() as patch, ministack(0, log, sam.gateway) as url:
        patch.setenv("AWS_ENDPOINT_URL", url)
        patch.setenv("NO_PROXY", sam.gateway)
        patch.setenv("no_proxy", sam.gateway)
        yield url


@pytest.fixture
def variables(aws: str) -> dict[str, str]:
    """A function's environment on a local AWS that is new: the tables, queues, a bus and a topic are there."""
    httpx.post(f"{aws}/_ministack/reset", trust_env=False, timeout=30).raise_for_status()
    create_tables(boto3.client("dynamodb"))
    sqs = boto3.client("sqs")
    names = {name for name in os.environ if name.endswith("_TABLE")} | {"EVENTS_BUS_NAME", "STAGE"}
    made = {name: os.environ[name] for name in names}
    made |= {name: sqs.create_queue(QueueName=name)["QueueUrl"] for name in (*_QUEUES, "TOLD")}
    arn = sqs.get_queue_attributes(QueueUrl=made["TOLD"], AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events = boto3.client("events")
    events.create_event_bus(Name=made["EVENTS_BUS_NAME"])
    pattern = json.dumps({"source": ["tollgate"]})
    events.put_rule(Name="told", EventBusName=made["EVENTS_BUS_NAME"], EventPattern=pattern)
    events.put_targets(Rule="told", EventBusName=made["EVENTS_BUS_NAME"], Targets=[{"Id": "told", "Arn": arn}])
    made["OPERATIONS_TOPIC_ARN"] = boto3.client("sns").create_topic(Name="operations")["TopicArn"]
    boto3.client("sns").subscribe(TopicArn=made["OPERATIONS_TOPIC_ARN"], Protocol="sqs", Endpoint=arn)
    return made | {"AWS_ENDPOINT_URL": aws}


@pytest.fixture
def invoke(sam: SamLocal, variables: dict[str, str]) -> Invoke:
    """Gives a sample (with some of it changed) to its function, which finds what the samples speak of."""
    seed()
    functions = [name for name, one in template()["Resources"].items() if one["Type"] == "AWS::Serverless::Function"]
    logical = {folder(name): name for name in functions}

    def call(name: str, **changed: Any) -> Any:
        return sam.invoke(logical[name.partition("-")[0]], sample(name) | changed, variables)

    return call


@pytest.fixture
def queued(variables: dict[str, str]) -> Callable[[str], list[Any]]:
    """Takes the messages of a queue, by the variable that has its URL, or "TOLD" of the bus and the topic."""

    def take(queue: str) -> list[Any]:
        found = boto3.client("sqs").receive_message(QueueUrl=variables[queue], MaxNumberOfMessages=10)
        return [json.loads(message["Body"]) for message in found.get("Messages", [])]

    return take

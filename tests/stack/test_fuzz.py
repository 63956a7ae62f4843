"""Every route over HTTP, by openapi.json and by hand, on a stack of its own: its logs are searched too.

tests/fuzz does the same in one process, with many more requests.
"""

import http.client
import os
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urlsplit

import boto3
import httpx
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.leaks import in_log
from tests.fuzz.raw import Answer, Request, faults_of, requests
from tests.fuzz.run import PHASES, fuzz
from tests.fuzz.world import settle
from tools.demo import client
from tools.local import Stack, local_stack

EXAMPLES = int(os.environ.get("EXAMPLES") or 5)
"""Of each operation, or so; with EXAMPLES in the environment the bounds of all schemas too."""
RAW = int(os.environ.get("RAW") or 150)


@pytest.fixture(scope="module")
def own_stack() -> Iterator[Stack]:
    """A stack that nothing else has logged on."""
    with local_stack() as running:
        yield running


@pytest.fixture(scope="module")
def world(own_stack: Stack) -> Mapping[str, Sequence[str]]:
    """What there is on it."""
    with client(own_stack) as api:
        return settle(api)


def secrets_of(stack: Stack) -> list[str]:
    """What no answer and no log may show."""
    return [stack.api_key, stack.api_key.rpartition("_")[2]]


def logged(stack: Stack) -> str:
    """All that the functions have logged."""
    logs = boto3.client("logs", **stack.aws)
    lines = []
    for page in logs.get_paginator("describe_log_groups").paginate():
        for group in page["logGroups"]:
            events = logs.get_paginator("filter_log_events").paginate(logGroupName=group["logGroupName"])
            lines += [event["message"] for part in events for event in part["events"]]
    return "\n".join(lines)


def send(stack: Stack, request: Request, key: str) -> Answer:
    """The answer to a request, of which no library has made a better one."""
    url = urlsplit(stack.api_url)
    connection = http.client.HTTPConnection(str(url.hostname), url.port, timeout=60)
    connection.putrequest(request.method, url.path + request.target, skip_accept_encoding=True)
    for name, value in (*request.headers, ("authorization", f"Bearer {key}")):
        connection.putheader(name, value)
    connection.putheader("Content-Length", str(len(request.body)))
    connection.endheaders(request.body)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, body)


def test_every_route_does_as_the_document_says(own_stack: Stack, world: Mapping[str, Sequence[str]]) -> None:
    """All checks of schemathesis and ours: good requests, bad ones, and what follows from an answer."""
    phases = PHASES if "EXAMPLES" in os.environ else ("examples", "fuzzing", "stateful")
    found = fuzz(own_stack.api_url, own_stack.api_key, world=world, examples=EXAMPLES, seed=1, phases=phases)
    assert not found.failure, found.failure
    assert found.cases > 300


def test_whatever_is_sent_the_answer_is_one_of_the_documents(
    own_stack: Stack, world: Mapping[str, Sequence[str]]
) -> None:
    """Broken bodies, odd paths, queries and headers."""
    asked = requests(world)

    @seed(1)
    @settings(max_examples=RAW, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def sent(data: st.DataObject) -> None:
        request = data.draw(asked)
        key = data.draw(st.sampled_from([own_stack.api_key] * 9 + ["tg_x_y"]))
        assert faults_of(request, send(own_stack, request, key), secrets_of(own_stack)) == []

    sent()


def test_nothing_of_it_is_in_the_logs(own_stack: Stack) -> None:
    """No secret, no stack trace, nothing that was sent; though something was logged."""
    with httpx.Client(base_url=own_stack.api_url) as api:  # what was logged last is collected with the next request
        for _ in range(3):
            api.get("/v1/features", headers={"Authorization": f"Bearer {own_stack.api_key}"}).raise_for_status()
    text = logged(own_stack)
    assert "EventsAccepted" in text
    assert list(in_log(text, secrets_of(own_stack))) == []

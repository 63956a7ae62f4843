"""Whatever is sent: no 5xx, no answer that is not what openapi.json says, no secret or stack trace shown or logged."""

import os
from collections.abc import Iterator, Mapping, Sequence

import httpx
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.gateway import Deployment, deployed
from tests.fuzz.leaks import in_log
from tests.fuzz.raw import Answer, Request, faults_of, requests
from tests.fuzz.world import settle

RAW = int(os.environ.get("RAW") or 300)


@pytest.fixture(scope="module")
def api() -> Iterator[Deployment]:
    """The functions in this process."""
    with deployed() as running:
        yield running


@pytest.fixture(scope="module")
def world(api: Deployment) -> Mapping[str, Sequence[str]]:
    """What there is."""
    with httpx.Client(base_url=api.api_url, headers={"Authorization": f"Bearer {api.api_key}"}) as client:
        return settle(client)


GOOD = '{"code":"tokens","name":"Tokens","type":"usage","unit":null,"aggregation":"sum","dedupe":"time"}'


@pytest.mark.parametrize(
    ("verb", "status", "media_type", "body", "fault"),
    [
        ("GET", 200, "application/json", GOOD, ""),
        ("GET", 200, "application/json", GOOD.replace('"unit":null,', ""), "'unit' is a required property"),
        ("GET", 200, "text/plain", GOOD, "200 as text/plain"),
        ("GET", 206, "application/json", GOOD, "206 is not declared"),
        ("GET", 500, "application/problem+json", "{}", "500: {}"),
        ("GET", 418, "application/problem+json", '{"status":418}', "418 is not declared"),
        ("GET", 404, "text/html", "gone", "404 as text/html"),
        ("GET", 200, "application/json", GOOD.replace("Tokens", "Traceback"), "shows "),
        ("PATCH", 405, "application/problem+json", '{"status":405}', "'type' is a required property"),
    ],
)
def test_what_is_wrong_with_an_answer_is_seen(verb: str, status: int, media_type: str, body: str, fault: str) -> None:
    """Else the fuzz would find nothing, and say so."""
    request = Request(f"{verb} /v1/features/{{code}}", verb, "/v1/features/tokens", (), b"")
    found = faults_of(request, Answer(status, {"content-type": media_type}, body.encode()), [])
    assert found[0].startswith(fault) if fault else found == []


def test_whatever_is_sent_the_answer_is_one_of_the_documents(
    api: Deployment, world: Mapping[str, Sequence[str]]
) -> None:
    """RAW requests, those of SEED; the log is searched at the end."""
    asked = requests(world)
    secrets = [api.api_key, api.api_key.rpartition("_")[2]]

    @seed(int(os.environ.get("SEED") or 1))
    @settings(max_examples=RAW, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def send(data: st.DataObject) -> None:
        request = data.draw(asked)
        key = data.draw(st.sampled_from([api.api_key] * 9 + ["", "tg_x_y", api.api_key[:-1]]))
        headers = dict(request.headers) | ({"authorization": f"Bearer {key}"} if key else {})
        status, answered, body = api.answer(request.method, request.target, headers, request.body)
        lower = {name.lower(): str(value) for name, value in answered.items()}
        assert faults_of(request, Answer(status, lower, body), secrets) == []

    send()
    assert list(in_log(api.log.getvalue(), secrets)) == []

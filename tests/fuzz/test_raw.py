"""Whatever is sent: no 5xx, no answer that is not what openapi.json says, no secret or stack trace shown or logged."""

import os
from collections.abc import Iterator, Mapping, Sequence

import httpx
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.gateway import Deployment, deployed
from tests.fuzz.leaks import in_log
from tests.fuzz.raw import Answer, faults_of, requests
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

"""schemathesis over every route in this process: at each bound of each schema, inside and out."""

from collections.abc import Iterator

import httpx
import pytest

from tests.fuzz.gateway import Deployment, deployed
from tests.fuzz.leaks import in_log
from tests.fuzz.run import fuzz
from tests.fuzz.world import settle


@pytest.fixture(scope="module")
def api() -> Iterator[Deployment]:
    """The functions in this process."""
    with deployed() as running:
        yield running


def test_every_route_does_as_the_document_says(api: Deployment) -> None:
    """All checks of schemathesis and ours; nothing is found, and nothing of it is logged."""
    with httpx.Client(base_url=api.api_url, headers={"Authorization": f"Bearer {api.api_key}"}) as client:
        world = settle(client)
    phases = ("examples", "coverage")
    found = fuzz(api.api_url, api.api_key, world=world, examples=1, seed=1, phases=phases)
    assert not found.failure, found.failure
    assert found.cases > 2_000
    assert list(in_log(api.log.getvalue(), [api.api_key, api.api_key.rpartition("_")[2]])) == []

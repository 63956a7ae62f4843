"""Both clients, for tests that hold for both."""

from collections.abc import Iterator

import pytest

from tests.client.fakes_api import Connect


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes clients: of either kind, in turn."""
    connecting = Connect(request.param)
    yield connecting
    connecting.close()

"""The decorator: who is asked about, and what comes of a no."""

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.client.fakes_api import URL, Api, Connect, decision, denied
from tollgate_client import AsyncTollgate, Denied, Tollgate, current_customer


@pytest.fixture
def ada() -> Iterator[None]:
    """Whom the present job is for."""
    token = current_customer.set("ada")
    yield
    current_customer.reset(token)


def test_a_function_runs_only_if_the_customer_may(connect: Connect) -> None:
    """The customer is the argument that is named, wherever it stands."""
    api = Api(decision(), decision(), denied())
    ran = []

    def export(rows: int, customer: str = "eve") -> int:
        """Export."""
        ran.append(customer)
        return rows

    async def export_async(rows: int, customer: str = "eve") -> int:
        """Export."""
        return export(rows, customer)

    function: Any = export if connect.kind == "sync" else export_async
    guarded = connect(api).requires("export", customer="customer")(function)

    def call(*args: object, **kwargs: object) -> Any:
        called = guarded(*args, **kwargs)
        return asyncio.run(called) if connect.kind == "async" else called

    assert call(7, "ada") == 7
    assert call(rows=8) == 8
    with pytest.raises(Denied) as caught:
        call(9, customer="ben")
    assert caught.value.decision.reason == "quota_exceeded"
    assert ran == ["ada", "eve"]
    assert [path.split("/")[3] for path in api.paths] == ["ada", "eve", "ben"]
    assert (guarded.__name__, guarded.__doc__) == (function.__name__, "Export.")
    assert list(inspect.signature(guarded).parameters) == ["rows", "customer"]


def test_a_function_of_the_arguments_may_say_who_it_is() -> None:
    """Such as of the request of a web framework."""
    api = Api(decision())
    with Tollgate(URL, "key", transport=httpx.MockTransport(api)) as tollgate:

        @tollgate.requires("export", customer=lambda request: request["user"])
        def export(request: dict[str, str]) -> str:
            return f"for {request['user']}"

        assert export(request={"user": "ada"}) == "for ada"
    assert api.paths == ["GET /v1/customers/ada/entitlements/export?quantity=1"]


@pytest.mark.usefixtures("ada")
def test_with_consume_it_is_counted() -> None:
    """As much as is said."""
    api = Api(decision(status="consumed"))
    with Tollgate(URL, "key", transport=httpx.MockTransport(api)) as tollgate:
        tollgate.requires("tokens", quantity=5, consume=True)(lambda: None)()
    assert api.paths == ["POST /v1/customers/ada/entitlements/tokens/consume"]
    assert api.bodies[0]["quantity"] == "5"


@pytest.mark.usefixtures("ada")
def test_a_coroutine_function_may_be_asked_about_by_either_client() -> None:
    """`Tollgate` asks in a thread, and knows the current customer there."""
    api = Api(decision())

    async def export() -> str:
        return "done"

    with Tollgate(URL, "key", transport=httpx.MockTransport(api)) as tollgate:
        assert asyncio.run(tollgate.requires("export")(export)()) == "done"
    tollgate_async = AsyncTollgate(URL, "key", transport=httpx.MockTransport(api))
    assert asyncio.run(tollgate_async.requires("export")(export)()) == "done"
    assert api.paths == ["GET /v1/customers/ada/entitlements/export?quantity=1"] * 2


def test_what_can_never_work_is_refused_where_it_is_written() -> None:
    """A parameter that is not there; a question that must be awaited by a function that cannot."""
    transport = httpx.MockTransport(Api(decision()))
    with Tollgate(URL, "key", transport=transport) as tollgate, pytest.raises(TypeError, match="no parameter 'user'"):
        tollgate.requires("export", customer="user")(lambda customer: customer)
    with pytest.raises(TypeError, match="no coroutine function"):
        AsyncTollgate(URL, "key", transport=transport).requires("export")(lambda: None)


def test_nobody_is_not_somebody() -> None:
    """Without a customer nothing is asked, and nothing runs."""
    api = Api(decision())
    with Tollgate(URL, "key", transport=httpx.MockTransport(api)) as tollgate:
        guarded: Any = tollgate.requires("export")(lambda: pytest.fail("ran"))
        with pytest.raises(LookupError, match="no current customer"):
            guarded()
    assert not api.requests

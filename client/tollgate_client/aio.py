"""The asynchronous client."""

import asyncio
import atexit
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Self, TypeVar

import httpx

from tollgate_client.client import Client, Held
from tollgate_client.flows import Flows, Hold, awaited
from tollgate_client.model import Quantity, Stats
from tollgate_client.sync import walk
from tollgate_client.wire import Flow, Request

__all__ = ["AsyncReservation", "AsyncTollgate"]

Result = TypeVar("Result")


class AsyncTollgate(Client[httpx.AsyncBaseTransport, Callable[[float], Awaitable[None]]]):
    """The client for asyncio, in one event loop: what `Tollgate` does, awaited. Its arguments are those of `Client`."""

    check = awaited(Flows.check)
    check_all = awaited(Flows.check_all)
    consume = awaited(Flows.consume)
    consume_many = awaited(Flows.consume_many)
    record = awaited(Flows.record)
    flush = awaited(Flows.flush)

    def reserve(self, customer: str, feature: str, quantity: Quantity, *, expires_in: int = 600) -> "AsyncReservation":
        """As `Tollgate.reserve`, in an `async with` statement."""
        return AsyncReservation(self._run, self._hold(customer, feature, quantity, expires_in))

    async def close(self, timeout: float = 10.0) -> Stats:  # noqa: ASYNC109  it ends with figures, not with an error
        """As `Tollgate.close`."""
        stats = await self._run(self._flows.close(timeout))
        self._awake.set()
        await self._http.aclose()
        atexit.unregister(self._end)
        return stats

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _open(
        self,
        headers: Mapping[str, str],
        transport: httpx.AsyncBaseTransport | None,
        sleep: Callable[[float], Awaitable[None]] | None,
    ) -> None:
        self._http = httpx.AsyncClient(headers=headers, transport=transport)
        self._has_network = transport is None
        self._sleep = sleep or asyncio.sleep
        self._awake = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    async def _run(self, flow: Flow[Result]) -> Result:
        try:
            step = next(flow)
            while True:
                if not isinstance(step, Request):
                    await self._sleep(step)
                    step = next(flow)
                    continue
                try:
                    response = await self._http.request(**self._arguments(step))
                except httpx.RequestError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(response)
        except StopIteration as done:
            result: Result = done.value
            return result
        finally:
            flow.close()

    def _wake(self) -> None:
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work(), name="tollgate-events")
            atexit.register(self._end)
        self._awake.set()

    async def _work(self) -> None:
        while not self._outbox.closed:
            pause = self._outbox.due_in(self._clock())
            if pause == 0:
                await self._run(self._flows.send())
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._awake.wait()
                self._awake.clear()

    def _end(self) -> None:
        """Close a client that the program did not; its event loop is gone, and a transport of its own with it."""
        flow = self._flows.close(10.0 if self._has_network else 0.0)
        with httpx.Client(headers=self._http.headers) as http:
            walk(flow, lambda request: http.request(**self._arguments(request)), time.sleep)


class AsyncReservation(Held):
    """What is held within an `async with` statement; see `Reservation`."""

    commit = awaited(Hold.commit)
    release = awaited(Hold.release)

    async def __aenter__(self) -> Self:
        await self._run(self._flows.open())
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        await self._run(self._flows.leave(failed=error is not None))

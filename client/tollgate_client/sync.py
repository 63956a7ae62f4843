"""The synchronous client."""

import atexit
import threading
import time
from collections.abc import Callable, Mapping
from typing import Self, TypeVar

import httpx

from tollgate_client.client import Client, Held
from tollgate_client.flows import Flows, Hold, blocking
from tollgate_client.model import Quantity, Stats
from tollgate_client.wire import Flow, Request

__all__ = ["Reservation", "Tollgate", "walk"]

Result = TypeVar("Result")


def walk(flow: Flow[Result], send: Callable[[Request], httpx.Response], sleep: Callable[[float], None]) -> Result:
    """Do what a flow says, and give what it leads to."""
    try:
        step = next(flow)
        while True:
            if not isinstance(step, Request):
                sleep(step)
                step = next(flow)
                continue
            try:
                response = send(step)
            except httpx.RequestError as error:
                step = flow.throw(error)
            else:
                step = flow.send(response)
    except StopIteration as done:
        result: Result = done.value
        return result
    finally:
        flow.close()


class Tollgate(Client[httpx.BaseTransport, Callable[[float], None]]):
    """The client; threads may share it. Its arguments are those of `Client`."""

    check = blocking(Flows.check)
    check_all = blocking(Flows.check_all)
    consume = blocking(Flows.consume)
    consume_many = blocking(Flows.consume_many)
    record = blocking(Flows.record)
    flush = blocking(Flows.flush)

    def reserve(self, customer: str, feature: str, quantity: Quantity, *, expires_in: int = 600) -> "Reservation":
        """Hold some of a usage or quota feature, in a `with` statement, for work whose size is known at its end.

        Args:
            customer: who.
            feature: what.
            quantity: as much as the work may take.
            expires_in: whole seconds, up to a day, after which what is held is free again.
        """
        return Reservation(self._run, self._hold(customer, feature, quantity, expires_in))

    def close(self, timeout: float = 10.0) -> Stats:
        """Send what waits, and end; what cannot be sent within so many seconds is rejected as `not_sent`."""
        stats = self._run(self._flows.close(timeout))
        self._awake.set()
        self._http.close()
        atexit.unregister(self.close)
        return stats

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(
        self,
        headers: Mapping[str, str],
        transport: httpx.BaseTransport | None,
        sleep: Callable[[float], None] | None,
    ) -> None:
        self._http = httpx.Client(headers=headers, transport=transport)
        self._sleep = sleep or time.sleep
        self._starting = threading.Lock()
        self._awake = threading.Event()
        self._worker: threading.Thread | None = None

    def _run(self, flow: Flow[Result]) -> Result:
        return walk(flow, lambda request: self._http.request(**self._arguments(request)), self._sleep)

    def _wake(self) -> None:
        with self._starting:
            if self._worker is None or not self._worker.is_alive():  # a thread does not outlive a fork
                self._worker = threading.Thread(target=self._work, name="tollgate-events", daemon=True)
                self._worker.start()
                atexit.register(self.close)
        self._awake.set()

    def _work(self) -> None:
        while not self._outbox.closed:
            pause = self._outbox.due_in(self._clock())
            if pause == 0:
                self._run(self._flows.send())
            else:
                self._awake.wait(pause)
                self._awake.clear()


class Reservation(Held):
    """What is held within a `with` statement; leaving it releases what was not committed.

    Raises:
        Denied: on entering, when there is no room.
        ApiError: the key is not accepted, or nothing can be reserved of this feature.
    """

    commit = blocking(Hold.commit)
    release = blocking(Hold.release)

    def __enter__(self) -> Self:
        self._run(self._flows.open())
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._run(self._flows.leave(failed=error is not None))

"""What both clients are made of."""

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from tollgate_client.flows import Flows, Hold, OnError, WhenFull
from tollgate_client.guard import CustomerOf, guard
from tollgate_client.ids import new_id
from tollgate_client.model import Decision, Event, Quantity, Rejected, Stats, quantity_text
from tollgate_client.outbox import Outbox
from tollgate_client.version import __version__
from tollgate_client.wire import Flow, Request

__all__ = ["Client", "Held"]

Transport = TypeVar("Transport")
Sleep = TypeVar("Sleep")
Function = TypeVar("Function", bound=Callable[..., Any])


class _Asks(Protocol):
    @property
    def check(self) -> Callable[..., Any]: ...
    @property
    def consume(self) -> Callable[..., Any]: ...


class Client(ABC, Generic[Transport, Sleep]):
    """Speaks to one Tollgate. Make one for the life of a process, after it forks; close it, or use `with`.

    Args:
        url: of the API: what stands before /v1.
        key: an API key with the scopes entitlements:read, entitlements:write and events:write, as far as used.
        timeout: seconds for each step of a try: to connect, to send, to receive.
        deadline: seconds for all tries of a call together, and the pauses between them.
        on_error: what check, consume and reserve say when Tollgate gives no answer within the deadline: "allow",
            "deny", or either for each feature; one that is not named is denied.
        buffer_size: events that may wait to be sent.
        flush_interval: seconds that an event waits for others to share its request.
        when_full: whether `record` raises BufferFull when that many wait, or blocks until there is room.
        on_rejected: is called with each event that will never count, by whoever sends: what is behind the buffer, or
            the caller of `flush`, `close` or a `record` that blocks.
        transport: of httpx, in place of the network.
        clock: seconds that only grow.
        sleep: in place of time.sleep or asyncio.sleep between tries.
        chance: numbers in [0, 1) that spread the tries.

    Raises:
        ValueError: a url that is none, or an `on_error` or `when_full` that says something else.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout: float = 3.0,
        deadline: float = 6.0,
        on_error: OnError | Mapping[str, OnError] = "deny",
        buffer_size: int = 10_000,
        flush_interval: float = 1.0,
        when_full: WhenFull = "raise",
        on_rejected: Callable[[Rejected], None] | None = None,
        transport: Transport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"a url begins with https:// or http://, unlike {url!r}")
        self._url = url.rstrip("/")
        self._clock = clock
        self._outbox = Outbox(buffer_size, flush_interval, on_rejected, chance)
        self._flows = Flows(self._outbox, self._wake, clock, chance, timeout, deadline, on_error, when_full)
        headers = {
            "Authorization": f"Bearer {key}",
            "Content-Type": "application/json",
            "User-Agent": f"tollgate-client-python/{__version__}",
        }
        self._open(headers, transport, sleep)

    @abstractmethod
    def _open(self, headers: Mapping[str, str], transport: Transport | None, sleep: Sleep | None) -> None:
        """Make what does the I/O."""

    @abstractmethod
    def _wake(self) -> None:
        """Have the buffer looked after, now that something was put into it."""

    def _arguments(self, request: Request) -> dict[str, Any]:
        """Of the request method of httpx."""
        url = self._url + request.path
        return {"method": request.method, "url": url, "content": request.content, "timeout": request.timeout}

    def _hold(self, customer: str, feature: str, quantity: Quantity, expires_in: int) -> Hold:
        """A reservation that is not made yet."""
        return Hold(self._flows, Event(customer, feature, quantity_text(quantity), new_id()), expires_in)

    @property
    def stats(self) -> Stats:
        """The figures now."""
        return self._outbox.stats()

    def requires(
        self: _Asks, feature: str, *, customer: CustomerOf = None, quantity: Quantity = 1, consume: bool = False
    ) -> Callable[[Function], Function]:
        """Have a function called only after a check, or with `consume` a consumption, has said yes.

        `Tollgate` asks before functions and coroutine functions, those in a thread so that nothing is held up;
        `AsyncTollgate` before coroutine functions.

        Args:
            feature: what.
            customer: the parameter that is the customer, or a function of the same arguments that gives it; None for
                `current_customer`, which the middleware sets.
            quantity: how much.
            consume: whether to count it.

        Raises:
            Denied: by the function, when the answer is no.
            LookupError: by the function, when there is no current customer.
            TypeError: the function has no such parameter, or cannot be waited for.
        """
        ask = partial(self.consume if consume else self.check, feature=feature, quantity=quantity)
        return partial(guard, customer, ask)


class Held:
    """What both reservations are made of.

    Attributes:
        id: the reservation's.
    """

    def __init__(self, run: Callable[[Flow[Any]], Any], flows: Hold) -> None:
        self._run = run
        self._flows = flows
        self.id = flows.asked.id

    @property
    def decision(self) -> Decision | None:
        """What was said on entering; None before."""
        return self._flows.decision

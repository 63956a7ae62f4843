"""What the clients do, step by step and with no I/O. `Tollgate` and `AsyncTollgate` walk these flows."""

import inspect
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from functools import wraps
from itertools import count
from typing import Any, Concatenate, Final, Literal, ParamSpec, TypeVar, get_args
from urllib.parse import urlencode

import httpx

from tollgate_client.errors import ApiError, BufferFull, Denied, Unreachable, error_of
from tollgate_client.ids import new_id
from tollgate_client.model import UNREACHABLE, Decision, Decisions, Event, Quantity, Stats, limits_of, quantity_text
from tollgate_client.outbox import Entry, Outbox, request_of
from tollgate_client.wire import Flow, Request, backoff, is_retryable, path_of, post, retry_after

__all__ = ["Flows", "Hold", "OnError", "WhenFull", "awaited", "blocking"]

OnError = Literal["allow", "deny"]
WhenFull = Literal["raise", "block"]

_BASE: Final = 0.1
_LONGEST: Final = 2.0
_SHORTEST: Final = 0.05  # of a last try, for a pause may last longer than asked
_BATCH_TIMEOUT: Final = 30.0  # as long as API Gateway waits, for nobody waits for a batch
_POLL: Final = 0.02

P = ParamSpec("P")
Result = TypeVar("Result")
Method = TypeVar("Method", bound=Callable[..., Any])
Read = Callable[[Any, Mapping[str, str]], Result]

logger = logging.getLogger("tollgate_client")


def _stands_for(flow: Callable[..., Flow[Any]]) -> Callable[[Method], Method]:
    """As functools.wraps; `help` shows what the flow leads to."""

    def told(method: Method) -> Method:
        signature = inspect.signature(flow)
        result = get_args(signature.return_annotation)[-1]
        vars(wraps(flow)(method))["__signature__"] = signature.replace(return_annotation=result)
        return method

    return told


def blocking(flow: Callable[Concatenate[Any, P], Flow[Result]]) -> Callable[Concatenate[Any, P], Result]:
    """The method that walks a flow."""

    @_stands_for(flow)
    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> Result:
        result: Result = self._run(flow(self._flows, *args, **kwargs))
        return result

    return method


def awaited(
    flow: Callable[Concatenate[Any, P], Flow[Result]],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, Result]]:
    """The coroutine method that walks a flow."""

    @_stands_for(flow)
    async def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> Result:
        result: Result = await self._run(flow(self._flows, *args, **kwargs))
        return result

    return method


@dataclass(frozen=True, slots=True)
class Flows:
    """The flows of one client, which describes the arguments; `wake` has its buffer looked after.

    Raises:
        ValueError: `on_error` or `when_full` says something else.
    """

    outbox: Outbox
    wake: Callable[[], None]
    clock: Callable[[], float]
    chance: Callable[[], float]
    timeout: float
    deadline: float
    on_error: OnError | Mapping[str, OnError]
    when_full: WhenFull

    def __post_init__(self) -> None:
        answers = set(self.on_error.values()) if isinstance(self.on_error, Mapping) else {self.on_error}
        if not answers <= {"allow", "deny"}:
            raise ValueError(f"on_error is allow or deny, and not {self.on_error!r}")
        if self.when_full not in {"raise", "block"}:
            raise ValueError(f"when_full is raise or block, and not {self.when_full!r}")

    def check(self, customer: str, feature: str, quantity: Quantity = 1) -> Flow[Decision]:
        """May the customer use so much more of the feature now? Changes nothing.

        Raises:
            ApiError: the key or the question is not accepted.
        """
        query = urlencode({"quantity": quantity_text(quantity)})
        request = Request("GET", f"{path_of('customers', customer, 'entitlements', feature)}?{query}")
        try:
            return (yield from self.call(request, Decision.of))
        except Unreachable as error:
            return self.decide(customer, feature, error, allowed=self.allows(feature))

    def check_all(self, customer: str) -> Flow[tuple[Decision, ...]]:
        """A check of one unit of every feature of the customer's plans, by code.

        Raises:
            NotFound: no such customer.
            ApiError: the key is not accepted.
            Unreachable: no answer within the deadline.
        """
        request = Request("GET", path_of("customers", customer, "entitlements"))
        return (yield from self.call(request, lambda data, _: _decisions(data)))

    def consume(
        self,
        customer: str,
        feature: str,
        quantity: Quantity = 1,
        *,
        id: str | None = None,
        time: datetime | None = None,
    ) -> Flow[Decision]:
        """Check and count in one step; the same id again is a duplicate, which stays granted and counts nothing.

        Args:
            customer: who.
            feature: what; a boolean one must be on.
            quantity: how much; not negative.
            id: your own, if you may have to ask again after this call.
            time: when it happened, if not now; aware, at most 35 days back.

        Raises:
            Conflict: the id was counted with another quantity.
            ApiError: the key or the question is not accepted.
        """
        event = Event(customer, feature, quantity_text(quantity), id or new_id(), time)
        path = path_of("customers", customer, "entitlements", feature, "consume")
        request = post(path, id=event.id, quantity=event.quantity, time=time)
        try:
            decision = yield from self.call(request, Decision.of)
        except Unreachable as error:
            # If it was counted and only the answer was lost, the event with its id is a duplicate.
            allowed = self.allows(feature) and self.put([Entry(event)])
            decision = self.decide(customer, feature, error, allowed=allowed)
        return replace(decision, id=event.id)

    def consume_many(
        self, customer: str, quantities: Mapping[str, Quantity], *, id: str | None = None, time: datetime | None = None
    ) -> Flow[Decisions]:
        """Consume from 1 to 20 features, all or nothing: how much of each, by its code; else as `consume`."""
        name = id or new_id()
        events = [Event(customer, feature, quantity_text(each), name, time) for feature, each in quantities.items()]
        items = [{"feature": event.feature, "quantity": event.quantity} for event in events]
        request = post(path_of("customers", customer, "entitlements", "consume"), id=name, items=items, time=time)

        def read(data: Any, headers: Mapping[str, str]) -> Decisions:
            return Decisions(name, data["status"], data["allowed"] is True, _decisions(data), limits_of(headers))

        try:
            return (yield from self.call(request, read))
        except Unreachable as error:
            allowed = all(map(self.allows, quantities)) and self.put([Entry(event) for event in events])
            decisions = (self.decide(customer, feature, error, allowed=allowed) for feature in quantities)
            return Decisions(name, None, allowed, tuple(decisions))

    def record(
        self,
        customer: str,
        feature: str,
        quantity: Quantity = 1,
        *,
        id: str | None = None,
        time: datetime | None = None,
        source: str = "",
        properties: Mapping[str, Any] | None = None,
    ) -> Flow[str]:
        """Have something counted that has happened, soon and exactly once; gives the event's id.

        It is put into the buffer, which is sent in the background. With an id of your own give the time too: only an
        id that is made here carries one.

        Raises:
            BufferFull: too many events wait, and `when_full` is raise.
            TypeError, ValueError: a quantity or properties that JSON does not have, or too many of them.
            RuntimeError: the client has been closed.
        """
        entry = Entry(Event(customer, feature, quantity_text(quantity), id or new_id(), time, source, properties))
        while not self.put([entry]):
            if self.when_full == "raise":
                raise BufferFull(f"{self.outbox.stats().pending} events wait to be sent already")
            if pause := self.outbox.retry_in(self.clock()):
                yield pause
            if not (yield from self.send()):
                yield _POLL  # all are on their way
        return entry.event.id

    def flush(self, timeout: float = 10.0) -> Flow[Stats]:
        """Send what waits, now; gives the figures, whose `pending` is 0 if all was sent within so many seconds."""
        give_up, last = self.clock() + timeout, self.outbox.last
        while self.outbox.holds(last) and (left := give_up - self.clock()) > 0:
            has_sent = yield from self.send(min(left, _BATCH_TIMEOUT))
            pause = self.outbox.retry_in(self.clock()) if has_sent else _POLL
            if self.clock() + pause >= give_up:
                break
            if pause:
                yield pause
        return self.outbox.stats()

    def close(self, timeout: float = 10.0) -> Flow[Stats]:
        """Send what waits, and end; what cannot be sent within so many seconds is rejected as `not_sent`."""
        self.outbox.closed = True
        yield from self.flush(timeout)
        self.outbox.abandon()
        return self.outbox.stats()

    # Steps

    def call(self, request: Request, read: Read[Result]) -> Flow[Result]:
        """Send until there is an answer, and read it.

        Raises:
            Unreachable: there is none within the deadline.
            ApiError: it is no.
        """
        give_up = self.clock() + self.deadline
        for tries in count(1):
            response, left = None, max(give_up - self.clock(), _SHORTEST)
            try:
                response = yield replace(request, timeout=min(self.timeout, left))
            except (httpx.UnsupportedProtocol, httpx.LocalProtocolError):
                raise  # ours, and the same each time
            except httpx.RequestError as error:
                why = f"{type(error).__name__} {error}"
            else:
                if not is_retryable(response):
                    return _read(response, read)
                why = str(error_of(response))
            pause = backoff(tries, retry_after(response), self.chance(), base=_BASE, most=_LONGEST)
            if self.clock() + pause >= give_up:
                raise Unreachable(f"no answer in {tries} tries within {self.deadline:g} s: {why}")
            yield pause
        raise AssertionError("unreachable: the count has no end")

    def send(self, timeout: float = _BATCH_TIMEOUT) -> Flow[bool]:
        """Send one batch, once; False if there was none."""
        batch = self.outbox.take()
        if not batch:
            return False
        response = None
        try:
            response = yield replace(request_of(batch), timeout=timeout)
        except httpx.RequestError as error:
            logger.info("events were not sent: %s %s", type(error).__name__, error)
        finally:  # a flow that is not walked to its end leaves nothing on the way
            self.outbox.settle(batch, response, self.clock())
        return True

    def put(self, entries: Sequence[Entry], *, force: bool = False) -> bool:
        """Put entries into the buffer, all or none; whether there was room."""
        fits = self.outbox.add(entries, self.clock(), force=force)
        if fits:
            self.wake()
        return fits

    def allows(self, feature: str) -> bool:
        """What `on_error` says of a feature."""
        on_error = self.on_error
        return (on_error.get(feature, "deny") if isinstance(on_error, Mapping) else on_error) == "allow"

    def decide(self, customer: str, feature: str, error: Unreachable, *, allowed: bool) -> Decision:
        """Say in Tollgate's place; counted and logged."""
        self.outbox.note_error(feature, allowed=allowed)
        logger.warning("%s for %s is %s: %s", feature, customer, "allowed" if allowed else "denied", error)
        return Decision(customer, feature, allowed=allowed, reason=UNREACHABLE)


@dataclass(slots=True)
class Hold:
    """The flows of a reservation, from its beginning to its end."""

    flows: Flows
    asked: Event
    expires_in: int
    decision: Decision | None = None
    is_held: bool = False
    is_settled: bool = False

    def open(self) -> Flow[None]:
        """Reserve, or raise Denied."""
        asked, flows = self.asked, self.flows
        request = post(path_of("reservations"), **asked.to_dict(), expires_in_seconds=self.expires_in)
        try:
            decision = yield from flows.call(request, Decision.of)
            self.is_held = True
        except Unreachable as error:
            decision = flows.decide(asked.customer, asked.feature, error, allowed=flows.allows(asked.feature))
        self.decision = replace(decision, id=asked.id)
        if not decision:
            raise Denied(self.decision)

    def commit(self, quantity: Quantity) -> Flow[Decision]:
        """Count what the work took, and give the rest back; up to what was reserved it always fits.

        The work is done: if Tollgate cannot be reached, it is counted later.

        Raises:
            Denied: it took more than there is room for. Nothing was counted: commit less, or leave.
            Conflict: another quantity was committed before.
            ApiError: the key or the quantity is not accepted.
        """
        asked, flows, decision = self.asked, self.flows, self.decision
        if decision is None:
            raise RuntimeError("use a reservation in a with statement")
        event = replace(asked, quantity=quantity_text(quantity))
        if self.is_held:
            request = post(path_of("reservations", asked.id, "commit"), quantity=event.quantity)
            try:
                decision = yield from flows.call(request, Decision.of)
            except Unreachable as error:
                flows.put([Entry(event, commits=asked.id)], force=True)
                decision = flows.decide(asked.customer, asked.feature, error, allowed=True)
        else:  # it may have been reserved, and only the answer was lost
            flows.put([Entry(event, commits=asked.id)], force=True)
        if not decision:
            raise Denied(replace(decision, id=asked.id))
        self.is_settled = True
        return replace(decision, id=asked.id)

    def release(self) -> Flow[None]:
        """Give all of it back.

        Raises:
            Conflict: it was committed.
            Unreachable: no answer within the deadline; it expires.
        """
        if self.is_held:
            yield from self.flows.call(post(path_of("reservations", self.asked.id, "release")), Decision.of)
        self.is_settled = True

    def leave(self, *, failed: bool) -> Flow[None]:
        """Release what is not settled; that it fails hides no error that led here, for what is held expires."""
        if self.is_settled:
            return
        try:
            yield from self.release()
        except (ApiError, Unreachable) as error:
            if isinstance(error, ApiError) and not failed:
                raise
            logger.warning("reservation %s was not released, and will expire: %s", self.asked.id, error)


def _decisions(data: Any) -> tuple[Decision, ...]:
    return tuple(Decision.of(item, {}) for item in data["items"])


def _read(response: httpx.Response, read: Read[Result]) -> Result:
    if not response.is_success:
        raise error_of(response)
    try:
        return read(response.json(parse_float=Decimal), response.headers)
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError):
        raise ApiError(response.status_code, {"detail": "this is not Tollgate's; is the url right?"}) from None

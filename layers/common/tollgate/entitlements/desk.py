"""Requests as they were sent, read and put to the use cases; and what the API answers to them."""

from collections.abc import Callable, Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any

from tollgate.entitlements import ofrep, schema, service
from tollgate.entitlements.model import decision_headers, decision_to_dict, headers_of_several
from tollgate.entitlements.rules import Item
from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import NotFound
from tollgate.kernel.metrics import count
from tollgate.kernel.time import Clock
from tollgate.metering.alerts import Announcer
from tollgate.metering.service import Counters, Directory

__all__ = ["Desk", "Reply"]

Reply = tuple[dict[str, Any], int, dict[str, str]]
"""The body, the status and the headers of an answer."""
TimeLeft = Callable[[], float]
"""The seconds in which to answer."""


@dataclass(frozen=True, slots=True)
class Desk:
    """Where requests are put; an error of the caller's is raised as the kernel's (kernel/errors.py)."""

    directory: Directory
    counters: Counters
    refusals: service.Refusals
    announcer: Announcer
    clock: Clock

    def check(self, customer: str, feature: str, query: Mapping[str, str]) -> Reply:
        """A check of one feature."""
        quantity, now = schema.read_quantity(query), self.clock()
        decision = service.check(customer, feature, quantity, directory=self.directory, counters=self.counters, now=now)
        return decision_to_dict(decision), HTTPStatus.OK, decision_headers(decision, now)

    def check_all(self, customer: str) -> Reply:
        """A check of every feature of the customer's plans."""
        decisions = service.check_all(customer, directory=self.directory, counters=self.counters, now=self.clock())
        if decisions is None:
            raise NotFound(f"There is no customer {customer}.")
        items = [decision_to_dict(decision) for decision in decisions]
        return {"items": items, "next_cursor": None}, HTTPStatus.OK, {}

    def consume(self, customer: str, feature: str, body: str, time_left: TimeLeft) -> Reply:
        """A consumption of one feature."""
        fields = schema.Fields.of_body(body, {"id", "quantity", "time"})
        name, quantity, told = fields.id("id"), fields.quantity(), fields.time("time")
        fields.check()
        now = self.clock()
        answer = service.consume(
            customer,
            name,
            [Item(feature, quantity)],
            told=told,
            directory=self.directory,
            counters=self.counters,
            now=now,
            time_left=time_left,
            refusals=self.refusals,
            announcer=self.announcer,
        )
        return _reply(answer, now)

    def consume_several(self, customer: str, body: str, time_left: TimeLeft) -> Reply:
        """A consumption of several features."""
        fields = schema.Fields.of_body(body, {"id", "items", "time"})
        name, items, told = fields.id("id"), schema.read_items(fields), fields.time("time")
        fields.check()
        now = self.clock()
        answer = service.consume(
            customer,
            name,
            items,
            told=told,
            directory=self.directory,
            counters=self.counters,
            now=now,
            time_left=time_left,
            announcer=self.announcer,
        )
        return service.answers_to_dict(name, _counted(answer)), HTTPStatus.OK, headers_of_several(answer.decisions, now)

    def reserve(self, body: str, time_left: TimeLeft) -> Reply:
        """A reservation."""
        names = {"id", "customer", "feature", "quantity", "expires_in_seconds"}
        fields = schema.Fields.of_body(body, names)
        name, customer = fields.id("id"), fields.id("customer")
        item = Item(fields.id("feature"), fields.quantity(default=None))
        seconds = fields.seconds("expires_in_seconds", service.MAX_RESERVED_SECONDS)
        fields.check()
        now = self.clock()
        answer = service.reserve(
            name,
            customer,
            item,
            seconds,
            directory=self.directory,
            counters=self.counters,
            now=now,
            time_left=time_left,
        )
        return _reply(answer, now)

    def commit(self, reservation: str, body: str, time_left: TimeLeft) -> Reply:
        """The end of a reservation by what the work took."""
        fields = schema.Fields.of_body(body, {"quantity"})
        quantity = fields.quantity(default=None)
        fields.check()
        now = self.clock()
        answer = service.commit(
            reservation,
            quantity,
            directory=self.directory,
            counters=self.counters,
            now=now,
            time_left=time_left,
            announcer=self.announcer,
        )
        return _reply(answer, now)

    def release(self, reservation: str, time_left: TimeLeft) -> Reply:
        """The end of a reservation by giving it back."""
        now = self.clock()
        answer = service.release(
            reservation, directory=self.directory, counters=self.counters, now=now, time_left=time_left
        )
        return _reply(answer, now)

    def flag(self, key: str, body: str) -> Reply:
        """An evaluation of one flag."""
        status, flag = ofrep.evaluate(key, body, directory=self.directory, counters=self.counters, now=self.clock())
        return flag, status, {}

    def flags(self, body: str) -> Reply:
        """An evaluation of all flags."""
        status, flags = ofrep.evaluate_all(body, directory=self.directory, counters=self.counters, now=self.clock())
        return flags, status, {}


def _counted(answer: service.Answer) -> service.Answer:
    used = answer.status in {service.Status.CONSUMED, service.Status.COMMITTED}
    count(Consumed=int(used), Denied=int(answer.status is service.Status.DENIED))
    return answer


def _reply(answer: service.Answer, now: datetime) -> Reply:
    _counted(answer)
    return service.answer_to_dict(answer), HTTPStatus.OK, decision_headers(answer.decisions[0], now)

"""Whatever is lost on the way: what was granted is counted, and once."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.client.fakes_api import URL, Clock, decision, problem
from tollgate_client import Denied, Tollgate

HOLD_LIMIT = 100


class Counting:
    """An API that counts by id; what each request meets on its way is told by `faults`, and nothing after them."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        self.counted: dict[tuple[str, str], Decimal] = {}
        self.reservations: dict[str, str] = {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Lose the request, lose its answer, be unavailable, or answer."""
        fault = self.faults.pop(0) if self.faults else "none"
        if fault == "lost":
            raise httpx.ConnectError("lost")
        if fault == "unavailable":
            return httpx.Response(503)
        answer = self._answer(request.url.path.split("/")[3:], json.loads(request.content))
        if fault == "answer lost":
            raise httpx.ReadTimeout("answer lost")
        return httpx.Response(200, json=answer) if answer else problem(404)

    def _answer(self, path: list[str], body: Any) -> dict[str, Any] | None:
        match path:
            case ["events"]:
                told = [{"id": one["id"], "status": self._count("", one["id"], one["quantity"])} for one in body]
                return {"results": told}
            case ["customers", *_]:
                status = self._count("", body["id"], body["quantity"])
                return decision(status="duplicate" if status == "duplicate" else "consumed")
            case ["reservations"]:
                self.reservations.setdefault(body["id"], "open")
                return decision(status="reserved")
            case ["reservations", name, _] if name not in self.reservations:
                return None
            case ["reservations", name, "commit"]:
                self.reservations[name] = "committed"
                status = self._count("reservation", name, body["quantity"])
                return decision(status="duplicate" if status == "duplicate" else "committed")
            case ["reservations", name, "release"]:
                assert self.reservations[name] != "committed"
                self.reservations[name] = "released"
                return decision(status="released")
        raise AssertionError(path)

    def _count(self, source: str, name: str, quantity: str) -> str:
        is_known = (source, name) in self.counted
        assert self.counted.setdefault((source, name), Decimal(quantity)) == Decimal(quantity)
        return "duplicate" if is_known else "accepted"


QUANTITIES = st.integers(1, 9)
FAULTS = st.lists(st.sampled_from(["none", "lost", "answer lost", "unavailable"]), max_size=40)


@settings(max_examples=200)
@given(FAULTS, st.lists(st.tuples(st.sampled_from(["consume", "record", "reserve"]), QUANTITIES), max_size=8))
def test_what_was_granted_is_counted_once(faults: list[str], calls: list[tuple[str, int]]) -> None:
    """Consumed, recorded or committed, in an outage or not."""
    api, clock, granted = Counting(faults), Clock(), Decimal(0)
    tollgate = Tollgate(
        URL,
        "key",
        deadline=0.5,
        on_error="allow",
        flush_interval=3_600.0,
        transport=httpx.MockTransport(api),
        clock=clock,
        sleep=clock.sleep,
    )
    actions: dict[str, Callable[[int], object]] = {
        "consume": lambda quantity: tollgate.consume("ada", "tokens", quantity),
        "record": lambda quantity: tollgate.record("ada", "tokens", quantity),
        "reserve": lambda quantity: _work(tollgate, quantity),
    }
    for name, quantity in calls:
        assert actions[name](quantity)
        granted += quantity
    stats = tollgate.close(timeout=3_600)
    assert (stats.pending, stats.rejected) == (0, 0)
    assert sum(api.counted.values()) == granted
    assert set(api.reservations.values()) <= {"committed"}  # nothing is held


@settings(max_examples=200)
@given(FAULTS, st.lists(QUANTITIES, max_size=8))
def test_what_was_denied_without_tollgate_is_counted_only_if_its_answer_was_lost(
    faults: list[str], quantities: list[int]
) -> None:
    """Which the same id, asked again, finds out."""
    api, clock = Counting(faults), Clock()
    tollgate = Tollgate(URL, "key", deadline=0.5, transport=httpx.MockTransport(api), clock=clock, sleep=clock.sleep)
    answers = [(tollgate.consume("ada", "tokens", quantity), quantity) for quantity in quantities]
    faults.clear()
    again = [tollgate.consume("ada", "tokens", quantity, id=answer.id) for answer, quantity in answers]
    tollgate.close()
    assert all(again)
    assert sum(api.counted.values()) == sum(quantities)


def _work(tollgate: Tollgate, quantity: int) -> bool:
    try:
        with tollgate.reserve("ada", "tokens", HOLD_LIMIT) as held:
            return bool(held.commit(quantity))
    except Denied:
        return False

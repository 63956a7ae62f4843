"""Traffic that has gone on for a while, in empty tables of its own, and what it consumes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from bench.payload import Sender
from bench.rounds import rounds_of
from bench.world import Consumed, Function, consumption, populate
from tests.conftest import create_tables
from tools.engine import Engine, engine

__all__ = ["START", "Traffic", "consumed_by", "consumed_by_design", "rounds_taken_by"]

START: Final = datetime(2026, 3, 10, 9, 30, tzinfo=UTC)
_SUBSCRIBED: Final = datetime(2026, 3, 1, tzinfo=UTC)
_WARM_UPS: Final = 3
_WARM_UP_EVENTS: Final = 300
_WARM_UP_REQUESTS: Final = 3


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests of so many events, over these customers in turn, so many events a second together."""

    customers: Sequence[str]
    size: int
    a_second: float


@contextmanager
def _running(traffic: Traffic, *, archive: bool) -> Iterator[tuple[Engine, Callable[[int], None]]]:
    """The engine, and what counts some requests more, after some hours: what follows the rate has followed it."""
    sender = Sender(START)
    with engine(create_tables) as database:
        populate(traffic.customers, _SUBSCRIBED)
        function = Function(archive=archive)

        def count(requests: int) -> None:
            for _ in range(requests):
                function.count(*sender.request(traffic.customers, traffic.size, traffic.a_second))

        for _ in range(_WARM_UPS):
            count(max(_WARM_UP_REQUESTS, -(-_WARM_UP_EVENTS // traffic.size)))
            sender.clock += timedelta(hours=1)
        yield database, count


def consumed_by(traffic: Traffic, requests: int, *, archive: bool) -> Consumed:
    """What so many requests consume."""
    with _running(traffic, archive=archive) as (database, count), consumption(database) as consumed:
        count(requests)
    return consumed


def rounds_taken_by(traffic: Traffic, requests: int, *, archive: bool) -> list[int]:
    """The sequential rounds of calls that each request takes."""
    with _running(traffic, archive=archive) as (database, count):
        return [rounds_of(database, lambda: count(1)) for _ in range(requests)]


def consumed_by_design(design: Callable[[str], None], traffic: Traffic, requests: int) -> Consumed:
    """What another design consumes for so many requests."""
    sender = Sender(START)
    with engine(create_tables) as database, consumption(database) as consumed:
        for _ in range(requests):
            design(sender.request(traffic.customers, traffic.size, traffic.a_second)[0])
    return consumed

"""Does an event cost the same when there are more customers, a longer history, an older period?"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from bench.payload import Sender
from bench.world import Consumed, Function, consumption, populate
from tests.conftest import create_tables
from tollgate.catalog.periods import Interval
from tools.engine import Engine, engine

__all__ = ["DIMENSIONS", "EVENTS_MEASURED", "GROWTH"]

GROWTH: Final = (1, 10, 100)
_NOON: Final = datetime(2026, 5, 12, 12, tzinfo=UTC)
_YEAR: Final = datetime(2026, 1, 1, tzinfo=UTC)
_SIZE: Final = 100
_BATCHES: Final = 20
EVENTS_MEASURED: Final = _SIZE * _BATCHES
_FUNCTIONS: Final = 4
_A_SECOND: Final = 10.0


def customers(times: int) -> Consumed:
    """10, 100, 1,000 customers that have used the feature; then requests of 100 events over 10 of them."""
    names = [f"customer-{number}" for number in range(10 * times)]
    with engine(create_tables) as database:
        populate(names, _NOON - timedelta(days=60))
        function, sender = Function(archive=True), Sender(_NOON - timedelta(hours=6))
        for place in range(0, len(names), 10):
            function.count(*sender.request(names[place : place + 10], _SIZE, _A_SECOND))
        return _steady(database, function, Sender(_NOON, seed=2), names[:10])


def history(times: int) -> Consumed:
    """1, 10, 100 months of use before the present one, two batches a month."""
    with engine(create_tables) as database:
        populate(["customer"], _NOON - timedelta(days=31 * 101))
        function = Function(archive=True)
        for months in range(times, 0, -1):
            for day in (0, 10):
                sender = Sender(_NOON - timedelta(days=31 * months - day), seed=1000 + 10 * months + day)
                function.count(*sender.request(["customer"], _SIZE, _A_SECOND))
        return _steady(database, function, Sender(_NOON, seed=2), ["customer"])


def age(times: int) -> Consumed:
    """3, 30, 300 days into a period of a year, with 20 events every 6 hours."""
    with engine(create_tables) as database:
        populate(["customer"], _YEAR, Interval.YEAR)
        function = Function(archive=True)
        quarters = 12 * times
        for quarter in range(quarters):
            sender = Sender(_YEAR + timedelta(hours=6 * quarter, minutes=1), seed=1000 + quarter)
            function.count(*sender.request(["customer"], 20, _A_SECOND))
        return _steady(database, function, Sender(_YEAR + timedelta(hours=6 * quarters), seed=2), ["customer"])


DIMENSIONS: Final[Mapping[str, Callable[[int], Consumed]]] = {
    "customers (10, 100, 1,000)": customers,
    "months of history (1, 10, 100)": history,
    "days into the period (3, 30, 300)": age,
}
"""What grows; each measures the same steady traffic after it."""


def _steady(database: Engine, function: Function, sender: Sender, names: list[str]) -> Consumed:
    """What requests consume after some hours of them; four functions take turns, each of which begins cold."""
    for _ in range(3):
        for _ in range(5):
            function.count(*sender.request(names, _SIZE, _A_SECOND))
        sender.clock += timedelta(hours=1)
    with consumption(database) as consumed:
        for _ in range(_FUNCTIONS):
            cold = Function(archive=True)
            for _ in range(_BATCHES // _FUNCTIONS):
                cold.count(*sender.request(names, _SIZE, _A_SECOND))
    return consumed

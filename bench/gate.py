"""A customer on a plan with so many features, and the entitlements function that answers for it."""

import contextlib
import itertools
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

from bench.handlers import Function
from bench.world import Consumed, consumption
from tests.conftest import create_tables
from tests.faults.shop import identity
from tollgate.catalog.model import (
    BillingPeriod,
    Customer,
    Feature,
    FeatureType,
    Overage,
    Plan,
    PlanFeature,
    Quota,
    Rate,
    RateAlgorithm,
)
from tollgate.catalog.periods import Interval
from tollgate.catalog.service import subscribe
from tollgate.catalog.store import DynamoCatalog
from tollgate.kernel.time import system_clock
from tollgate.metering.store import DynamoCounters
from tools.engine import Call, Engine, engine

__all__ = ["DEAR", "FEATURES", "Gatekeeper", "counted", "last_call", "shop"]

DEAR: Final = 10
FEATURES: Final = (DEAR, 100)
_PLENTY: Final = Decimal(10) ** 9


@dataclass
class Gatekeeper:
    """The function, warm once it has answered, and the database behind it."""

    database: Engine
    archive: bool

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1)
        self.restart()

    def restart(self) -> None:
        """Put a function in its place that has seen nothing."""
        self.function = Function()
        if not self.archive:
            self.function.module.desk = replace(self.function.module.desk, counters=DynamoCounters())

    def check(self, feature: str) -> Any:
        """Ask for one feature."""
        return self.function.ask("GET", f"/v1/customers/ada/entitlements/{feature}")

    def check_all(self) -> Any:
        """Ask for all."""
        return self.function.ask("GET", "/v1/customers/ada/entitlements")

    def consume(self, *features: str, told: bool = True) -> None:
        """Consume one of each feature.

        Raises:
            RuntimeError: it was not granted.
        """
        name = identity(next(self._numbers), system_clock()) if told else f"job-{uuid.uuid4().hex}"
        path = "/v1/customers/ada/entitlements"
        if len(features) == 1:
            answer = self.function.ask("POST", f"{path}/{features[0]}/consume", {"id": name})
        else:
            items = [{"feature": feature} for feature in features]
            answer = self.function.ask("POST", f"{path}/consume", {"id": name, "items": items})
        _expect("consumed", answer)

    def consume_many(self, feature: str, times: int, *, told: bool = True) -> None:
        """Consume one at a time."""
        for _ in range(times):
            self.consume(feature, told=told)

    def reserve(self) -> str:
        """Hold a token for ten minutes; the reservation's id."""
        name = f"r-{next(self._numbers)}"
        body = {"id": name, "customer": "ada", "feature": "tokens", "quantity": "1", "expires_in_seconds": 600}
        _expect("reserved", self.function.ask("POST", "/v1/reservations", body))
        return name

    def commit(self, name: str) -> None:
        """Count what was reserved."""
        _expect("committed", self.function.ask("POST", f"/v1/reservations/{name}/commit", {"quantity": "1"}))

    def release(self, name: str) -> None:
        """Give it back."""
        _expect("released", self.function.ask("POST", f"/v1/reservations/{name}/release"))


def _expect(status: str, answer: Any) -> None:
    if answer["status"] != status:
        raise RuntimeError(answer)


@contextlib.contextmanager
def shop(features: int, *, archive: bool) -> Iterator[Gatekeeper]:
    """An empty database with ada on a plan of so many features, and a function."""
    with engine(create_tables) as database:
        catalog, gates = DynamoCatalog(), DynamoCounters()
        kinds = {"tokens": FeatureType.QUOTA, "bursts": FeatureType.RATE, "calls": FeatureType.USAGE}
        kinds |= {f"export-{number}": FeatureType.BOOLEAN for number in range(features - len(kinds))}
        made = [Feature(code, code, kind) for code, kind in kinds.items()]
        for feature in made:
            catalog.save_feature(feature)
        granted = tuple(_granted(feature) for feature in made)
        month = BillingPeriod(Interval.MONTH)
        catalog.add_plan_version(Plan("bench", 1, "Bench", "EUR", month, Decimal(0), 0, 0, granted))
        catalog.save_customer(Customer("ada"))
        starts_at = system_clock() - timedelta(days=9)
        subscribe(catalog, customer="ada", plan="bench", gates=gates, clock=system_clock, starts_at=starts_at)
        yield Gatekeeper(database, archive)


def _granted(feature: Feature) -> PlanFeature:
    match feature.type:
        case FeatureType.QUOTA:
            return PlanFeature(feature, quota=Quota(_PLENTY, Overage.BLOCK))
        case FeatureType.RATE:
            return PlanFeature(feature, rate=Rate(_PLENTY, 86_400, RateAlgorithm.FIXED))
    return PlanFeature(feature)


def counted(here: Gatekeeper, act: Callable[[Gatekeeper], object]) -> Consumed:
    """What something costs."""
    with consumption(here.database) as consumed:
        act(here)
    return consumed


def last_call(here: Gatekeeper, act: Callable[[Gatekeeper], object]) -> Call:
    """The last call to the database that something makes."""
    calls: list[Call] = []
    with here.database.hooked(after=calls.append):
        act(here)
    return calls[-1]

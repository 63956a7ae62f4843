"""A customer with a quota, a rate, a usage and a boolean feature, whom several processes serve."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from tests.faults.chaos import Clock
from tollgate.catalog.model import (
    Aggregation,
    BillingPeriod,
    Customer,
    Feature,
    FeatureType,
    Overage,
    Override,
    Plan,
    PlanFeature,
    Quota,
    Rate,
    RateAlgorithm,
)
from tollgate.catalog.periods import Interval, Period
from tollgate.catalog.service import subscribe
from tollgate.catalog.snapshots import set_override
from tollgate.catalog.store import DynamoCatalog
from tollgate.entitlements import service
from tollgate.entitlements.model import Decision
from tollgate.entitlements.rules import Item
from tollgate.entitlements.service import Answer, Refusals
from tollgate.metering.archive_store import DynamoArchive
from tollgate.metering.audit import Target, recount
from tollgate.metering.model import CounterId, Tally
from tollgate.metering.store import DynamoCounters

__all__ = ["NOW", "PERIOD", "Shop", "identity"]

NOW: Final = datetime(2026, 3, 15, 12, 0, 30, tzinfo=UTC)
PERIOD: Final = Period(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))
_SECONDS: Final = 60.0
_FEATURES: Final = {
    "tokens": FeatureType.QUOTA,
    "bursts": FeatureType.RATE,
    "calls": FeatureType.USAGE,
    "export": FeatureType.BOOLEAN,
}


def identity(number: int, at: datetime = NOW) -> str:
    """The UUIDv7 of that number, made at an instant."""
    milliseconds = int(at.timestamp() * 1_000)
    text = f"{milliseconds:012x}7{number >> 64 & 0xFFF:03x}{(number & (1 << 62) - 1) | 1 << 63:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class Shop:
    """The stores of the deployment, seen by so many processes, each with a memory of its own."""

    def __init__(
        self,
        *,
        limit: str = "1000",
        rate: Rate | None = None,
        processes: int = 3,
        archive: bool = True,
        pause: Callable[[float], None] | None = None,
    ) -> None:
        self.clock = Clock()
        self.now = NOW
        self.catalog = DynamoCatalog()
        self.archive = DynamoArchive(clock=lambda: NOW, pause=self.clock.pass_by)
        self._pause = pause or self.clock.pass_by
        self._archives = archive
        self.processes = [self.start() for _ in range(processes)]
        self.refusals = [Refusals() for _ in range(processes)]
        self._open(Decimal(limit), rate or Rate(Decimal(60), 60, RateAlgorithm.FIXED))

    def _open(self, limit: Decimal, rate: Rate) -> None:
        features = {code: Feature(code, code, kind) for code, kind in _FEATURES.items()}
        for feature in features.values():
            assert self.catalog.save_feature(feature)
        granted = (
            PlanFeature(features["tokens"], quota=Quota(limit, Overage.BLOCK)),
            PlanFeature(features["bursts"], rate=rate),
            PlanFeature(features["calls"]),
            PlanFeature(features["export"]),
        )
        month = BillingPeriod(Interval.MONTH)
        assert self.catalog.add_plan_version(Plan("plan", 1, "Plan", "EUR", month, Decimal(0), 0, 0, granted))
        self.catalog.save_customer(Customer("ada"))
        gates = self.start()
        subscribe(
            self.catalog,
            customer="ada",
            plan="plan",
            gates=gates,
            clock=lambda: self.now,
            subscription_id="sub",
            starts_at=PERIOD.start,
        )

    def start(self) -> DynamoCounters:
        """A process that has seen nothing yet."""
        return DynamoCounters(self.archive if self._archives else None, pause=self._pause)

    def restart(self, process: int = 0) -> None:
        """Put a new process in the place of one that has ended."""
        self.processes[process] = self.start()

    def override(self, limit: str | None = None, *, enabled: bool | None = None) -> None:
        """Give ada other terms for tokens."""
        quota = Quota(Decimal(limit), Overage.BLOCK) if limit is not None else None
        made = Override(enabled, quota)
        set_override(self.catalog, "ada", "tokens", made, gates=self.start(), clock=lambda: self.now)

    # What a function does

    def consume(self, name: str, *items: tuple[str, int | str], process: int = 0, local: bool = False) -> Answer:
        """Consume some of each feature."""
        return service.consume(
            "ada",
            name,
            [Item(feature, Decimal(quantity)) for feature, quantity in items],
            told=None,
            directory=self.catalog,
            counters=self.processes[process],
            now=self.now,
            time_left=self.clock.time_left(_SECONDS),
            refusals=self.refusals[process] if local else None,
        )

    def reserve(self, name: str, quantity: int, seconds: int = 60, *, process: int = 0) -> Answer:
        """Hold some tokens."""
        return service.reserve(
            name,
            "ada",
            Item("tokens", Decimal(quantity)),
            seconds,
            directory=self.catalog,
            counters=self.processes[process],
            now=self.now,
            time_left=self.clock.time_left(_SECONDS),
        )

    def commit(self, name: str, quantity: int, *, process: int = 0) -> Answer:
        """Count what the work took."""
        return service.commit(
            name,
            Decimal(quantity),
            directory=self.catalog,
            counters=self.processes[process],
            now=self.now,
            time_left=self.clock.time_left(_SECONDS),
        )

    def release(self, name: str, *, process: int = 0) -> Answer:
        """Give all back."""
        return service.release(
            name,
            directory=self.catalog,
            counters=self.processes[process],
            now=self.now,
            time_left=self.clock.time_left(_SECONDS),
        )

    # What is true

    def check(self, feature: str = "tokens", quantity: int | str = 1) -> Decision:
        """The answer to a check."""
        return service.check(
            "ada", feature, Decimal(quantity), directory=self.catalog, counters=self.start(), now=self.now
        )

    def used(self, feature: str = "tokens", period: Period = PERIOD) -> Decimal:
        """What the counter of a period holds."""
        counter = CounterId("ada", feature, "sub", period.start)
        return self.start().tallies([counter]).get(counter, Tally()).quantity

    def recount(self, features: Sequence[str] = ("tokens", "bursts", "calls"), period: Period = PERIOD) -> None:
        """Prove the counters from the archive."""
        plan = self.catalog.plan("plan", 1)
        assert plan is not None
        for feature in features:
            target = Target(CounterId("ada", feature, "sub", period.start), period, plan, Aggregation.SUM, 1)
            found = recount(target, counters=self.start(), archive=self.archive)
            assert found.agrees, found

    def pass_by(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)

"""A seller with customers on a plan, a warm function that counts their events, and a ledger of what that consumes."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from bench.payload import FEATURE, HEADERS
from tollgate.catalog.model import BillingPeriod, Customer, Feature, FeatureType, Plan, PlanFeature
from tollgate.catalog.periods import Interval
from tollgate.catalog.service import subscribe_many
from tollgate.catalog.store import DynamoCatalog
from tollgate.metering.archive_store import DynamoArchive
from tollgate.metering.schema import read_events
from tollgate.metering.service import Memory, ingest, results_to_json
from tollgate.metering.store import DynamoCounters
from tools.engine import Call, Engine

__all__ = ["Consumed", "Function", "consumption", "populate"]

_SECONDS_LEFT = 25.0


@dataclass(slots=True)
class Consumed:
    """Calls and capacity units; `kinds` has both by what was called on which kinds of items."""

    calls: int = 0
    write_units: float = 0.0
    read_units: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    kind_units: Counter[str] = field(default_factory=Counter)

    def note(self, call: Call) -> None:
        """Add a call that is done."""
        self.calls += 1
        self.write_units += call.write_units
        self.read_units += call.read_units
        kind = _kind(call)
        self.kinds[kind] += 1
        self.kind_units[kind] += int(call.write_units)

    def cells(self) -> list[str]:
        """Requests, read units and write units, for a table."""
        return [f"{self.calls}", f"{self.read_units:g}", f"{self.write_units:g}"]

    def by_partition(self) -> dict[str, float]:
        """The write units by what they are written to; the head is within a KB, which in a transaction is 2."""
        units = {"head": 0.0, "pages and sums": 0.0, "archive": 0.0}
        for kind, written in self.kind_units.items():
            if "ARCHIVE" in kind:
                units["archive"] += written
            elif kind.startswith("TransactWriteItems"):
                units["head"] += 2 * self.kinds[kind]
                units["pages and sums"] += written - 2 * self.kinds[kind]
            else:
                units["head"] += written
        return units


def _kind(call: Call) -> str:
    request = call.request
    if "TransactItems" in request:
        actions = [action for entry in request["TransactItems"] for action in entry.values()]
        items = [action.get("Key") or action["Item"] for action in actions]
    elif "RequestItems" in request:
        tables = request["RequestItems"].values()
        items = [key for table in tables if isinstance(table, dict) for key in table["Keys"]]
        items += [put["PutRequest"]["Item"] for table in tables if isinstance(table, list) for put in table]
    else:
        items = [request[name] for name in ("Key", "Item") if name in request]
    kinds = sorted({_kind_of_item(item["pk"]["S"], item["sk"]["S"]) for item in items})
    failed = " (failed)" if call.failed else ""
    return f"{call.operation} {' + '.join(kinds)}{failed}"


def _kind_of_item(pk: str, sk: str) -> str:
    prefix, second = pk.partition("#")[0], sk.partition("#")[0]
    return f"{prefix}/{second}" if second.isalpha() else prefix


@contextmanager
def consumption(engine: Engine) -> Iterator[Consumed]:
    """What is consumed while the context lasts."""
    consumed = Consumed()
    with engine.hooked(after=consumed.note):
        yield consumed


def populate(customers: Iterable[str], starts_at: datetime, interval: Interval = Interval.MONTH) -> None:
    """A feature, a plan that has it, and the customers on that plan."""
    catalog = DynamoCatalog()
    feature = Feature(FEATURE, "API calls", FeatureType.USAGE)
    catalog.save_feature(feature)
    granted = (PlanFeature(feature),)
    catalog.add_plan_version(Plan("bench", 1, "Bench", "EUR", BillingPeriod(interval), Decimal(0), 0, 0, granted))
    chosen = [Customer(name) for name in customers]
    newcomers = subscribe_many(catalog, chosen, plan="bench", starts_at=starts_at, clock=lambda: starts_at)
    catalog.add_customers(newcomers)


class Function:
    """A warm function: what functions/usage/app.py does with the body of a request, but for API Gateway's envelope."""

    def __init__(self, *, archive: bool) -> None:
        self._directory = DynamoCatalog()
        self._counters = DynamoCounters(archive=DynamoArchive() if archive else None)
        self._memory = Memory()

    def handle(self, body: str, now: datetime) -> str:
        """Count the events of a request; the body of the answer."""
        results = ingest(
            read_events(body, HEADERS),
            directory=self._directory,
            counters=self._counters,
            now=now,
            time_left=lambda: _SECONDS_LEFT,
            memory=self._memory,
        )
        return results_to_json(results)

    def count(self, body: str, now: datetime) -> None:
        """The same, where all events are new.

        Raises:
            AssertionError: one was not accepted.
        """
        answer = json.loads(self.handle(body, now))
        if answer["accepted"] != len(answer["results"]):
            raise AssertionError([result for result in answer["results"] if result["status"] != "accepted"][:3])

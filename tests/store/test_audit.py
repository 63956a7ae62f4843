"""Counters, archive and catalog together: events in over ingest, explained, listed, recounted and priced again."""

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.unit.test_audit import REQUESTS, plan, subscription
from tollgate.catalog.model import Aggregation, Customer, Dedupe, Feature, PlanFeature
from tollgate.catalog.periods import Period
from tollgate.catalog.snapshots import publish
from tollgate.catalog.store import DynamoCatalog
from tollgate.kernel.dynamodb import UsageTable
from tollgate.kernel.time import system_clock
from tollgate.metering.archive_store import DynamoArchive
from tollgate.metering.audit import Target, recount, target_at
from tollgate.metering.history import explain, explanation_to_dict, list_events
from tollgate.metering.model import CounterId, Event, Tally
from tollgate.metering.service import Memory, Result, ingest
from tollgate.metering.store import DynamoCounters
from tools import ToolError
from tools import recount as recount_command
from tools import rerate as rerate_command
from tools.stores import Stores, open_stores

NOW = datetime(2026, 1, 20, 12, tzinfo=UTC)
START = datetime(2026, 1, 1, tzinfo=UTC)
BY_ID = replace(REQUESTS, code="jobs", dedupe=Dedupe.ID)
PEAK = replace(REQUESTS, code="peak", aggregation=Aggregation.MAX)


class World:
    """The stores of the deployment, with a customer."""

    def __init__(self) -> None:
        self.catalog = DynamoCatalog()
        self.archive = DynamoArchive()
        self.counters = DynamoCounters(self.archive)
        for feature in (REQUESTS, BY_ID, PEAK):
            self.catalog.save_feature(feature)
        self.add_plan("0.10")
        self.add_plan("0.08")
        self.catalog.save_customer(Customer("ada"))
        self.catalog.add_subscription(subscription("sub", START))
        self.now = NOW

    def add_plan(self, unit_price: str) -> None:
        """A version more."""
        latest = self.catalog.plan("web")
        made = plan(latest.version + 1 if latest else 1, unit_price)
        granted = tuple(PlanFeature(feature, price=made.features[0].price) for feature in (REQUESTS, BY_ID, PEAK))
        assert self.catalog.add_plan_version(replace(made, features=granted))

    def ingest(self, *events: Event) -> list[str]:
        """Count events; the status of each."""
        results: list[Result] = ingest(
            events, directory=self.catalog, counters=self.counters, now=self.now, time_left=lambda: 25.0
        )
        return [result.status for result in results]

    def explain(self, event_id: str, **fields: Any) -> dict[str, Any]:
        """The answer about an event."""
        known: dict[str, Any] = {"archive": self.archive, "now": self.now} | fields
        return explanation_to_dict(
            explain(
                event_id,
                "/app",
                "ada",
                directory=self.catalog,
                counters=self.counters,
                time_left=lambda: 29.0,
                **known,
            )
        )

    def agrees(self, feature: Feature = REQUESTS) -> Decimal:
        """Recount a counter, which must agree; gives its quantity."""
        target = target_at("ada", feature.code, self.now, self.catalog)
        found = recount(target, counters=self.counters, archive=self.archive)
        assert found.agrees, found
        return found.recounted.quantity


@pytest.fixture
def world(tables: None) -> World:
    """Nothing was counted yet."""
    assert tables is None
    return World()


def event(number: int, quantity: str = "1", *, feature: Feature = REQUESTS, **fields: Any) -> Event:
    """The event of that number, each some minutes later than the one before, in the days before now."""
    known: dict[str, Any] = {"time": NOW - timedelta(days=3) + number * timedelta(minutes=7)} | fields
    return Event(f"e{number}", "/app", "ada", feature.code, Decimal(quantity), properties={"n": number}, **known)


def test_what_was_counted_is_explained_listed_and_recounted(world: World) -> None:
    """Over many buckets, sent again in other shapes, late and with conflicts."""
    sent = [event(number, str(number % 7)) for number in range(400)]
    for start in range(0, 400, 50):
        assert set(world.ingest(*sent[start : start + 50])) == {"accepted"}
    assert set(world.ingest(*sent[30:170])) == {"duplicate"}
    assert world.ingest(event(3, "99"), event(-600, "5")) == ["conflict", "accepted"]
    assert world.agrees() == sum(number % 7 for number in range(400)) + 5
    shown = world.explain("e77")
    assert (shown["outcome"], shown["quantity"], shown["properties"]) == ("counted", "0", {"n": 77})
    assert world.explain("e3")["quantity"] == "3"
    assert world.explain("e-600")["outcome"] == "counted"
    assert world.explain("e400")["outcome"] == "unknown"
    listed, after = list_events(
        "ada",
        "requests",
        directory=world.catalog,
        counters=world.counters,
        archive=world.archive,
        now=NOW,
        time_left=lambda: 29.0,
        limit=500,
    )
    assert after is None
    assert [one["id"] for one in listed] == ["e-600", *(f"e{number}" for number in range(400))]


def test_events_with_no_time_are_recounted_at_the_receipt_that_counted(world: World) -> None:
    """Sent again hours and a day later, they are archived at another time and counted at the first."""
    sent = [event(number, "2", time=None) for number in range(30)]
    for hours in (0, 3, 20):
        world.now = NOW + timedelta(hours=hours)
        assert set(world.ingest(*sent)) == {"accepted" if hours == 0 else "duplicate"}
    assert world.agrees() == 60
    assert world.explain("e5")["time"] == "2026-01-20T12:00:00Z"


def test_an_event_that_was_archived_by_a_try_that_failed_is_recounted_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the receipt of the try that counted it, in each scope."""
    events = [event(1, time=None), event(2), event(3, feature=BY_ID, time=None), event(4, "8", feature=PEAK)]

    class Killed(BaseException):
        """The function is ended."""

    def kill(*_: Any) -> Any:
        raise Killed

    for one in events:
        with monkeypatch.context() as broken:
            broken.setattr(DynamoCounters, "_write", kill)
            with pytest.raises(Killed):
                world.ingest(one)
    assert {world.explain(one.id)["outcome"] for one in events} == {"unknown"}
    world.now = NOW + timedelta(minutes=50)
    assert world.ingest(*events) == ["accepted"] * 4
    assert [world.agrees(feature) for feature in (REQUESTS, BY_ID, PEAK)] == [2, 1, 8]
    times = [world.explain(one.id)["time"] for one in events]
    assert [times[0], times[2]] == ["2026-01-20T12:50:00Z"] * 2


def test_a_feature_deduplicated_by_id_is_recounted(world: World) -> None:
    """The same id with another time is one event."""
    assert world.ingest(event(1, feature=BY_ID), event(2, feature=BY_ID)) == ["accepted", "accepted"]
    other = event(1, feature=BY_ID, time=NOW)
    assert world.ingest(other) == ["duplicate"]
    assert world.agrees(BY_ID) == 2
    assert world.explain("e1", feature="jobs")["time"] == "2026-01-17T12:07:00Z"


@pytest.fixture
def today(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The world of the commands: 300 requests were counted a minute ago, by the machine's clock."""
    world.now = system_clock()
    world.ingest(*(event(number, time=world.now - timedelta(minutes=1)) for number in range(300)))
    stores = Stores(world.catalog, world.counters, world.archive)

    def opened(stack: str | None, state: Path) -> Stores:
        assert (stack, state.name) == (None, ".local")
        return stores

    for command in (recount_command, rerate_command):
        monkeypatch.setattr(command, "open_stores", opened)
    return world


NAMED = ["--customer", "ada", "--feature", "requests"]


@pytest.mark.usefixtures("today")
def test_the_command_says_that_counter_and_archive_agree(capsys: pytest.CaptureFixture[str]) -> None:
    """And ends with 0."""
    assert recount_command.main(NAMED) == 0
    said = capsys.readouterr().out
    assert "they agree" in said
    assert said.count("300") == 5


def test_the_command_names_the_first_hour_that_differs(today: World, capsys: pytest.CaptureFixture[str]) -> None:
    """And ends with 1."""
    table = boto3.resource("dynamodb").Table(UsageTable.Meta.table_name)
    [kept] = [item for item in table.scan()["Items"] if item["pk"].startswith("ARCHIVE#")]
    table.delete_item(Key={"pk": kept["pk"], "sk": kept["sk"]})
    assert recount_command.main(NAMED) == 1
    said = capsys.readouterr().out
    hour = (today.now - timedelta(minutes=1)).replace(minute=0)
    assert "do NOT agree" in said
    assert f"the first is {hour:%Y-%m-%d %H:%M}Z: the counter has 300 in 300 events, the archive 0 in 0" in said


@pytest.mark.usefixtures("today")
def test_usage_is_priced_again_by_another_version(capsys: pytest.CaptureFixture[str]) -> None:
    """Of the same plan, by default the latest."""
    assert rerate_command.main([*NAMED, "--plan", "web"]) == 0
    said = capsys.readouterr().out
    for text in ("30.00", "300 x 0.1 = 30", "24.00", "300 x 0.08 = 24", "-6.00"):
        assert text in said
    assert rerate_command.main([*NAMED, "--plan", "web", "--version", "1"]) == 0
    assert "+0.00" in capsys.readouterr().out


@pytest.mark.usefixtures("today")
@pytest.mark.parametrize(
    ("command", "more", "why"),
    [
        ("recount", ["--period", "yesterday"], "must be an RFC 3339 time"),
        ("recount", ["--period", "2020-01-01T00:00:00Z"], "ada has no subscription with requests"),
        ("rerate", ["--plan", "gold"], "there is no plan gold"),
        ("rerate", ["--plan", "web", "--version", "7"], "there is no plan web of version 7"),
    ],
)
def test_a_command_that_cannot_do_it_says_why(
    capsys: pytest.CaptureFixture[str], command: str, more: list[str], why: str
) -> None:
    """On one line, with exit code 1."""
    main = {"recount": recount_command.main, "rerate": rerate_command.main}[command]
    assert main([*NAMED, *more]) == 1
    assert why in capsys.readouterr().err


@pytest.mark.usefixtures("tables")
def test_the_tables_of_a_deployment_are_found_by_its_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its outputs name them; a stack that is not there, or is none of ours, is told."""
    names = {name: os.environ[name] for name in ("CATALOG_TABLE", "USAGE_TABLE", "RECOVERY_TABLE")}
    outputs = {f"{name.partition('_')[0].capitalize()}TableName": {"Value": names[name]} for name in names}
    for stack, told in (("ours", outputs), ("other", {})):
        body = {"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}, "Outputs": told}
        boto3.client("cloudformation").create_stack(StackName=stack, TemplateBody=json.dumps(body))
    for name in names:
        monkeypatch.setenv(name, "unknown")
    stores = open_stores("ours", Path("nowhere"))
    assert {name: os.environ[name] for name in names} == names
    assert stores.catalog.plan("web") is None
    with pytest.raises(ToolError, match="stack other has no output 'CatalogTableName'"):
        open_stores("other", Path("nowhere"))
    with pytest.raises(ToolError, match="stack unheard-of cannot be read"):
        open_stores("unheard-of", Path("nowhere"))


@pytest.mark.parametrize("published", [True, False])
def test_what_a_function_that_missed_a_new_subscription_kept_is_not_added_up_twice(
    world: World, *, published: bool
) -> None:
    """It kept the events for the old counter, was refused, and placed them anew; whoever publishes the gate."""
    late = Memory()

    def count(memory: Memory, *events: Event) -> list[str]:
        results = ingest(
            events,
            directory=world.catalog,
            counters=world.counters,
            now=world.now,
            time_left=lambda: 25.0,
            memory=memory,
        )
        return [one.status for one in results]

    assert count(late, event(0, "5")) == ["accepted"]
    world.catalog.add_subscription(subscription("newer", NOW - timedelta(days=5)))
    if published:
        publish("ada", snapshots=world.catalog, gates=world.counters, clock=lambda: world.now)
    else:
        assert count(Memory(), event(9, "20")) == ["accepted"]
    assert count(late, event(1, "7"), event(2, "8"), event(0, "5")) == ["accepted", "accepted", "duplicate"]
    both = {
        name: CounterId("ada", "requests", name, start)
        for name, start in (("sub", START), ("newer", NOW - timedelta(days=5)))
    }
    held = world.counters.tallies(both.values())
    assert held[both["sub"]] == Tally(Decimal(5), 1)
    assert held[both["newer"]] == Tally(Decimal(15 if published else 35), 2 if published else 3)
    for name, counter in both.items():
        period = Period(counter.period_start, NOW + timedelta(days=40))
        target = Target(counter, period, plan(1, "0.10"), Aggregation.SUM, 1)
        found = recount(target, counters=world.counters, archive=world.archive)
        assert found.agrees, (name, found)

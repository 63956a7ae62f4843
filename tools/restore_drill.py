"""Shows that the tables can be restored: `python -m tools.restore_drill [--stack NAME]`, the same on AWS and here.

A customer is made for it, uses, pays and is billed; the second is noted; more is used, and then most of what is stored
of that customer is deleted or falsified. The four tables are restored to that second, and what belongs to the customer
is copied back; other customers are not touched. Then the API must answer as it did: usage, wallet and its ledger,
invoices, error records; the balance must be the sum of the ledger, a recount must agree, events that were counted
before must be duplicates when they are sent again, and those that the restore has lost must count.

Without a name the stack is the one that `make run` has started. MiniStack keeps no history: its
RestoreTableToPointInTime copies a table as it is. So there the drill restores backups that are made at the second
(CreateBackup, RestoreTableFromBackup); `--by backup` does so on AWS too.

On AWS it takes the credentials and region of the environment and an admin key in TOLLGATE_API_KEY, reads all four
tables, and leaves the customer behind, with a subscription that is cancelled, an invoice of 1.00 that is paid, and a
discarded error record. A restore takes some 20 minutes, and five pass before a second can be restored.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import boto3
import httpx
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from tools import LOCAL, ROOT, ToolError
from tools.local import running_stack
from tools.recount import audited
from tools.restore import TABLES, Item, Site, back_up, copy_back, restore, restore_backups, scan, site_of
from tools.stores import Stores, open_stores

sys.path.insert(0, str(ROOT / "layers/common"))

from tollgate.billing.runs import Message, message_text

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_sqs import SQSClient

__all__ = ["drill"]

FEATURE, PLAN = "restore-drill", "restore-drill"
EVENTS = 60
"""More than a head holds, so that there is a page too."""

ASKS = 600
"""So often a thing is looked for that comes by itself."""


@dataclass(frozen=True)
class Drilled:
    """What a drill did: items spoilt, put back and deleted, and seconds until the tables were restored."""

    spoilt: int
    put: int
    deleted: int
    seconds: float


class Customer:
    """A customer of the drill, over the API."""

    def __init__(self, api: httpx.Client, name: str) -> None:
        """Put it on a plan of its own, with money in its wallet."""
        self._api, self.name, self.subscription, self.error = api, name, f"sub-{name}", ""
        self._start = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=3)
        self._put(f"/v1/features/{FEATURE}", {"name": "Restore drill", "type": "quota"})
        price = {"model": "flat", "unit_price": "0.01"}
        granted = {"feature": FEATURE, "quota": {"limit": "1000", "overage": "block"}, "price": price}
        plan = {
            "name": "Restore drill",
            "currency": "EUR",
            "base_price": "1.00",
            "billing_period": {"interval": "month"},
        }
        self._put(f"/v1/plans/{PLAN}", plan | {"features": [granted]})
        self._put(f"/v1/customers/{name}", {"name": "Restore drill"})
        self.deposit("drill-1", "10.00")
        subscription = {"id": self.subscription, "customer": name, "plan": PLAN, "starts_at": self._start.isoformat()}
        self._post("/v1/subscriptions", subscription)

    def _put(self, path: str, body: dict[str, Any]) -> None:
        self._api.put(path, json=body).raise_for_status()

    def _post(self, path: str, body: Any = None, **headers: str) -> Any:
        return self._api.post(path, json=body, headers=headers).raise_for_status().json()

    def _get(self, path: str, **params: str) -> Any:
        return self._api.get(path, params=params).raise_for_status().json()

    def events(self, name: str) -> list[dict[str, str]]:
        """Events with times of their own, a minute apart."""
        return [
            {
                "id": f"{name}-{number}",
                "customer": self.name,
                "feature": FEATURE,
                "quantity": "1.5",
                "time": (self._start + timedelta(minutes=1 + number)).isoformat(),
            }
            for number in range(EVENTS)
        ]

    def send(self, events: Sequence[dict[str, str]]) -> dict[str, int]:
        """Send events, ten at a time; how many became what."""
        answers = [self._post("/v1/events", list(events[at : at + 10])) for at in range(0, len(events), 10)]
        return {name: sum(answer[name] for answer in answers) for name in ("accepted", "duplicate")}

    def deposit(self, name: str, amount: str) -> None:
        """Pay money in."""
        body = {"id": name, "type": "deposit", "amount": amount, "currency": "EUR"}
        self._post(f"/v1/customers/{self.name}/wallet/transactions", body)

    def bill(self, sqs: "SQSClient", queue: str) -> None:
        """Have the first base price invoiced and paid: by a message, since a run would bill all that is due."""
        message = Message(self.subscription, datetime.now(UTC), f"run_{self.name}")
        sqs.send_message(QueueUrl=queue, MessageBody=message_text(message))
        for _ in range(ASKS):
            if [one["status"] for one in self.facts()["invoices"]["items"]] == ["paid"]:
                return
            time.sleep(0.1)
        raise ToolError("the invoice of the drill was not paid")

    def fail(self) -> None:
        """Have an event written down as an error: its feature is not there."""
        lost = {"id": "lost", "customer": self.name, "feature": "restore-drill-unknown"}
        self._post("/v1/events", lost, prefer="respond-async")
        for _ in range(ASKS):
            listed = self._get("/v1/errors", status="manual", type="validation_error")["items"]
            if ours := [one["id"] for one in listed if self.name in json.dumps(one["arguments"])]:
                [self.error] = ours
                return
            time.sleep(0.1)
        raise ToolError("the error of the drill was not written down")

    def owns(self) -> Callable[[Item], bool]:
        """Which items are the customer's: those that name it or its error, in their keys or in what they hold."""
        names = [name for name in (self.name, self.error) if name]
        return lambda item: any(name in json.dumps(item, default=str) for name in names)

    def facts(self) -> dict[str, Any]:
        """All that must be as it was."""
        return {
            "customer": self._get(f"/v1/customers/{self.name}"),
            "subscription": self._get(f"/v1/subscriptions/{self.subscription}"),
            "history": self._get(f"/v1/subscriptions/{self.subscription}/history"),
            "usage": self._get(f"/v1/customers/{self.name}/usage", feature=FEATURE, granularity="hour"),
            "check": self._get(f"/v1/customers/{self.name}/entitlements/{FEATURE}"),
            "events": self._get(f"/v1/customers/{self.name}/events", feature=FEATURE),
            "wallet": self._get(f"/v1/customers/{self.name}/wallet"),
            "ledger": self._get(f"/v1/customers/{self.name}/wallet/transactions"),
            "invoices": self._get("/v1/invoices", customer=self.name),
            "error": self._get(f"/v1/errors/{self.error}") if self.error else None,
        }

    def leave(self) -> None:
        """End what would go on."""
        self._post(f"/v1/subscriptions/{self.subscription}/cancel", {"when": "now", "reason": "a drill"})
        self._post(f"/v1/errors/{self.error}/discard", {"note": "a drill"})


def drill(site: Site, stores: Stores, api: httpx.Client, console: Console, *, by: str) -> Drilled:
    """Do it; what is restored is deleted in the end, but stays where the drill breaks off.

    Raises:
        ToolError: what was restored is not what it was.
    """
    dynamodb = boto3.client("dynamodb", **site.aws)
    customer = Customer(api, f"drill-{uuid4().hex[:12]}")
    before, after = customer.events("before"), customer.events("after")
    customer.send(before)
    customer.bill(boto3.client("sqs", **site.aws), site.resources["BillingQueue"])
    customer.fail()
    was = customer.facts()
    console.print(f"[green]written[/] as {customer.name}: usage {was['usage']['quantity']}, balance {_balance(was)}")

    # A restore is to a whole second: what was written lies before it, and what comes is written after it.
    apart = 1 if by == "pitr" else 0
    time.sleep(apart)
    at, started = datetime.now(UTC).replace(microsecond=0), time.monotonic()
    time.sleep(2 * apart)
    mark = f"{at:%Y%m%dT%H%M%S}"
    backups = back_up(dynamodb, site.tables, f"restore-drill-{mark}") if by == "backup" else {}
    try:
        customer.send(after)
        customer.deposit("drill-2", "5.00")
        lost = customer.facts()
        spoilt = sum(_spoil(dynamodb, site.tables[name], customer) for name in TABLES)
        console.print(f"[green]spoilt[/] {spoilt} items; the second is {at:%Y-%m-%d %H:%M:%S}Z")
        restored = restore_backups(dynamodb, backups, f"drill-{mark}") if backups else {}
        restored = restored or restore(dynamodb, site.tables, at)
        seconds = time.monotonic() - started
        console.print(f"[green]restored[/] by {by} after {seconds:,.0f} s")
        copied = [copy_back(dynamodb, restored[live], live, customer.owns()) for live in site.tables.values()]
        put, deleted = sum(one.put for one in copied), sum(one.deleted for one in copied)
        console.print(f"[green]copied back[/]: {put} items put, {deleted} deleted")
        _verify(customer, was, lost, before, after)
        _must("a recount agrees", audited(stores, customer.name, FEATURE, None)[1].agrees, True)
    except BaseException:
        console.print(f"[red]broken off[/]: {customer.name} is left as it is, and tables that end in {mark}")
        raise
    finally:
        for arn in backups.values():
            dynamodb.delete_backup(BackupArn=arn)
    customer.leave()
    for table in restored.values():
        dynamodb.delete_table(TableName=table)
    console.print("[green]verified[/]: usage, wallet, ledger, invoices and errors are what they were, a recount agrees")
    return Drilled(spoilt, put, deleted, seconds)


def _spoil(dynamodb: "DynamoDBClient", table: str, customer: Customer) -> int:
    """Delete every other item of a customer, falsify the numbers of the rest; how many items.

    Entries of a ledger are only deleted: outbox would tell receivers what they have become.
    """
    belongs = customer.owns()
    items = sorted(
        (item for item in scan(dynamodb, table) if belongs(item)), key=lambda item: json.dumps(item, default=str)
    )
    for number, item in enumerate(items):
        if number % 2 and item.get("kind") != {"S": "entry"}:
            spoilt: Item = {name: {"N": "4711"} if "N" in value else value for name, value in item.items()}
            dynamodb.put_item(TableName=table, Item=spoilt)
        else:
            dynamodb.delete_item(TableName=table, Key={"pk": item["pk"], "sk": item["sk"]})
    return len(items)


def _verify(
    customer: Customer,
    was: dict[str, Any],
    lost: dict[str, Any],
    before: Sequence[dict[str, str]],
    after: Sequence[dict[str, str]],
) -> None:
    """Hold the API's answers against those of before.

    Raises:
        ToolError: they differ.
    """
    now = customer.facts()
    for what, known in was.items():
        _must(what, now[what], known)
    _must("the sum of the ledger", sum(Decimal(one["amount"]) for one in now["ledger"]["items"]), _balance(now))
    _must("events sent again", customer.send(before), {"accepted": 0, "duplicate": EVENTS})
    _must("what has not changed by that", customer.facts()["usage"], was["usage"])
    _must("events that were lost, sent again", customer.send(after), {"accepted": EVENTS, "duplicate": 0})
    customer.deposit("drill-2", "5.00")
    again = customer.facts()
    _must("usage with them", again["usage"], lost["usage"])
    _must("the balance with a deposit that was lost", _balance(again), _balance(lost))


def _balance(facts: dict[str, Any]) -> Decimal:
    return Decimal(facts["wallet"]["balance"])


def _must(what: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        raise ToolError(f"{what}: it is {found}, and was {wanted}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Drill from the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.restore_drill", description="Spoil what a customer of its own has, and restore it."
    )
    parser.add_argument("--stack", help="a CloudFormation stack's name (default: the stack that `make run` started)")
    parser.add_argument("--by", choices=["pitr", "backup"], help="default: pitr; on the local stack backup")
    parser.add_argument("--state", type=Path, default=LOCAL, help="folder of the local stack's stack.json (.local)")
    options = parser.parse_args(arguments)
    console = Console(soft_wrap=not sys.stdout.isatty())
    by = options.by or ("pitr" if options.stack else "backup")
    if not options.stack:
        console.print("MiniStack keeps no history: backups are made at the second and restored, in place of PITR")
    try:
        stores = open_stores(options.stack, options.state)  # first: it sets the environment
        site = site_of(options.stack, options.state)
        key = os.environ.get("TOLLGATE_API_KEY", "") if options.stack else running_stack(options.state).api_key
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=site.api_url, headers=headers, timeout=60) as api:
            drill(site, stores, api, console, by=by)
    except (ToolError, BotoCoreError, ClientError, httpx.HTTPError) as error:
        print(f"tollgate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

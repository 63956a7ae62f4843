"""Restores the tables of a deployment as they were: `python -m tools.restore --stack NAME --at TIME [--copy-back]`.

The four tables are restored to the same second, as new tables beside the old ones (RestoreTableToPointInTime). With
--copy-back what differs is then written into the tables that the stack uses: items that have changed or are gone since
are put, items that have come since are deleted. Nobody may write meanwhile; docs/operations.md says how to stop the
deployment and what to do after it. AWS credentials and region are those of the environment.

tools/restore_drill.py does the same for a customer of its own, to see that it works.
"""

import argparse
import contextlib
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError, WaiterError

from tools import LOCAL, ROOT, ToolError
from tools.local import running_stack

sys.path.insert(0, str(ROOT / "layers/common"))

from tollgate.kernel.time import format_time, parse_time

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

__all__ = ["TABLES", "Copied", "Site", "back_up", "copy_back", "restore", "restore_backups", "scan", "site_of"]

TABLES = ("CatalogTable", "UsageTable", "BillingTable", "RecoveryTable")
"""The tables, by their names in the template."""

PATIENCE = timedelta(hours=12)
"""A restore takes some 20 minutes, and longer where a table is large and its keys uneven."""

SEGMENTS = 4
"""Parts of a table that are read side by side."""

_READS, _WRITES = 100, 25
"""So many items BatchGetItem and BatchWriteItem take."""

_LOOK_SECONDS = 1.0, 20.0
"""How long is waited before a look at what AWS has got so far: at first, and at most."""

Item = dict[str, Any]


@dataclass(frozen=True)
class Site:
    """A deployment: the arguments of `boto3.client`, physical ids by logical id, and the API."""

    aws: Mapping[str, Any]
    resources: Mapping[str, str]
    api_url: str

    @property
    def tables(self) -> dict[str, str]:
        """The tables that the functions use, by their names in the template."""
        return {name: self.resources[name] for name in TABLES}


@dataclass(frozen=True)
class Copied:
    """How many items were put and deleted."""

    put: int = 0
    deleted: int = 0


def site_of(stack: str | None, state: Path = LOCAL) -> Site:
    """Find a CloudFormation stack with the credentials of the environment, or without a name the local stack.

    Raises:
        ToolError: there is none.
    """
    if stack is None:
        local = running_stack(state)
        return Site(local.aws, local.resources, local.api_url)
    client = boto3.client("cloudformation")
    try:
        [found] = client.describe_stacks(StackName=stack)["Stacks"]
        pages = list(client.get_paginator("list_stack_resources").paginate(StackName=stack))
    except (BotoCoreError, ClientError) as error:
        raise ToolError(f"the stack {stack} cannot be read: {error}") from None
    outputs = {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])}
    known = {
        one["LogicalResourceId"]: one["PhysicalResourceId"] for page in pages for one in page["StackResourceSummaries"]
    }
    return Site({}, known, outputs["ApiUrl"])


def restore(dynamodb: "DynamoDBClient", tables: Mapping[str, str], at: datetime) -> dict[str, str]:
    """Restore tables to a second, as new ones; their names by the names of the old ones.

    Tables that were restored to that second before are taken as they are.

    A restored table has the items, the keys and the indexes; it has no stream, no time to live, no alarms, no tags and
    no point-in-time recovery of its own.

    Raises:
        ToolError: the time cannot be restored.
    """
    if at > datetime.now(UTC):
        raise ToolError(f"{format_time(at)} lies ahead")
    for table in tables.values():
        _until(f"{table} can be restored to {format_time(at)}", lambda table=table: _latest(dynamodb, table) >= at)  # type: ignore[misc]
    made = {}
    for table in tables.values():
        made[table] = f"{table}-{at:%Y%m%dT%H%M%S}"
        with contextlib.suppress(dynamodb.exceptions.TableAlreadyExistsException):  # it was restored before
            dynamodb.restore_table_to_point_in_time(
                SourceTableName=table, TargetTableName=made[table], RestoreDateTime=at
            )
    _wait_for(dynamodb, made.values())
    return made


def back_up(dynamodb: "DynamoDBClient", tables: Mapping[str, str], name: str) -> dict[str, str]:
    """Make a backup of each table, one after the other; their ARNs by the names of the tables."""
    made = {}
    for table in tables.values():
        answer = dynamodb.create_backup(TableName=table, BackupName=name)
        made[table] = answer["BackupDetails"]["BackupArn"]
    for arn in made.values():
        _until(f"{arn} is made", lambda arn=arn: _is_available(dynamodb, arn))  # type: ignore[misc]
    return made


def restore_backups(dynamodb: "DynamoDBClient", backups: Mapping[str, str], suffix: str) -> dict[str, str]:
    """Restore backups as new tables; their names by the names of the old ones."""
    made = {table: f"{table}-{suffix}" for table in backups}
    for table, arn in backups.items():
        dynamodb.restore_table_from_backup(TargetTableName=made[table], BackupArn=arn)
    _wait_for(dynamodb, made.values())
    return made


def copy_back(
    dynamodb: "DynamoDBClient", restored: str, live: str, belongs: Callable[[Item], bool] = lambda _: True
) -> Copied:
    """Make a table hold what a restored one holds; only what differs is written.

    Args:
        dynamodb: the client.
        restored: the table that is read.
        live: the table that is written; nobody else may write to it meanwhile.
        belongs: which items are meant; others stay as they are.

    Broken off, by an error or by whoever waits, it stops within a page; called again it goes on.
    """
    stopped = threading.Event()

    def pages(table: str, number: int) -> Iterator[list[Item]]:
        return itertools.takewhile(lambda _: not stopped.is_set(), _pages(dynamodb, table, number))

    def segment(number: int) -> Copied:
        put = deleted = 0
        for page in pages(restored, number):
            wanted = [item for item in page if belongs(item)]
            present = _present(dynamodb, live, wanted)
            put += _write(
                dynamodb, live, [{"PutRequest": {"Item": item}} for item in wanted if present.get(_key(item)) != item]
            )
        for page in pages(live, number):
            there = [item for item in page if belongs(item)]
            wanted_keys = _present(dynamodb, restored, there)
            gone = [item for item in there if _key(item) not in wanted_keys]
            deleted += _write(dynamodb, live, [{"DeleteRequest": {"Key": _key_of(item)}} for item in gone])
        return Copied(put, deleted)

    with futures.ThreadPoolExecutor(SEGMENTS) as pool:
        parts = [pool.submit(segment, number) for number in range(SEGMENTS)]
        try:
            futures.wait(parts, return_when=futures.FIRST_EXCEPTION)
        finally:
            stopped.set()
    done = [part.result() for part in parts]
    return Copied(sum(one.put for one in done), sum(one.deleted for one in done))


def scan(dynamodb: "DynamoDBClient", table: str) -> Iterator[Item]:
    """All items of a table, as DynamoDB has them."""
    for number in range(SEGMENTS):
        for page in _pages(dynamodb, table, number):
            yield from page


def _pages(dynamodb: "DynamoDBClient", table: str, segment: int) -> Iterator[list[Item]]:
    pages = dynamodb.get_paginator("scan").paginate(
        TableName=table, ConsistentRead=True, Segment=segment, TotalSegments=SEGMENTS
    )
    return (page["Items"] for page in pages)


def _present(dynamodb: "DynamoDBClient", table: str, items: Sequence[Item]) -> dict[str, Item]:
    """The items of a table with the keys of others."""
    found: dict[str, Item] = {}
    for some in _batched(items, _READS):
        asked: Any = {table: {"Keys": [_key_of(item) for item in some], "ConsistentRead": True}}
        while asked:
            answer = dynamodb.batch_get_item(RequestItems=asked)
            found |= {_key(item): item for item in answer["Responses"].get(table, [])}
            asked = answer.get("UnprocessedKeys")
    return found


def _write(dynamodb: "DynamoDBClient", table: str, requests: Sequence[Any]) -> int:
    """Write items, and how many; what DynamoDB leaves is sent again, later each time."""
    for some in _batched(requests, _WRITES):
        asked: Any = {table: some}
        for wait in itertools.count():
            asked = dynamodb.batch_write_item(RequestItems=asked).get("UnprocessedItems")
            if not asked:
                break
            time.sleep(min(2**wait * 0.05, 5))
    return len(requests)


def _batched(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    return (list(items[start : start + size]) for start in range(0, len(items), size))


def _key_of(item: Item) -> Item:
    return {name: item[name] for name in ("pk", "sk")}


def _key(item: Item) -> str:
    return json.dumps(_key_of(item))


def _latest(dynamodb: "DynamoDBClient", table: str) -> datetime:
    """The latest second to which a table can be restored: on AWS some five minutes ago."""
    described = dynamodb.describe_continuous_backups(TableName=table)["ContinuousBackupsDescription"]
    recovery = described.get("PointInTimeRecoveryDescription", {})
    if recovery.get("PointInTimeRecoveryStatus") != "ENABLED":
        raise ToolError(f"{table} has no point-in-time recovery")
    return recovery["LatestRestorableDateTime"]


def _is_available(dynamodb: "DynamoDBClient", arn: str) -> bool:
    details = dynamodb.describe_backup(BackupArn=arn)["BackupDescription"]["BackupDetails"]
    return details["BackupStatus"] == "AVAILABLE"


def _until(what: str, is_so: Callable[[], bool]) -> None:
    """Look again and again.

    Raises:
        ToolError: it does not come true.
    """
    first, most = _LOOK_SECONDS
    deadline = time.monotonic() + PATIENCE.total_seconds()
    for wait in itertools.count():
        if is_so():
            return
        if time.monotonic() > deadline:
            raise ToolError(f"it was waited for in vain that {what}")
        time.sleep(min(first * 2**wait, most))


def _wait_for(dynamodb: "DynamoDBClient", tables: Iterable[str]) -> None:
    """Wait until tables can be used.

    Raises:
        ToolError: one is not made.
    """
    delay = int(_LOOK_SECONDS[1])
    settings: Any = {"Delay": delay, "MaxAttempts": int(PATIENCE.total_seconds()) // delay}
    for table in tables:
        try:
            dynamodb.get_waiter("table_exists").wait(TableName=table, WaiterConfig=settings)
        except WaiterError as error:
            raise ToolError(f"{table} was not restored: {error}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Restore from the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.restore", description="Restore the four tables to one second, as new tables."
    )
    parser.add_argument("--stack", required=True, help="a CloudFormation stack's name")
    parser.add_argument("--at", required=True, help="the second, such as 2026-11-01T12:00:00Z")
    parser.add_argument("--copy-back", action="store_true", help="then write what differs into the stack's own tables")
    parser.add_argument("--yes", action="store_true", help="do not ask whether the deployment stands still")
    options = parser.parse_args(arguments)
    try:
        at, site = parse_time(options.at).replace(microsecond=0), site_of(options.stack)
        dynamodb = boto3.client("dynamodb")
        restored = restore(dynamodb, site.tables, at)
        for live, table in restored.items():
            print(f"{live} as it was is {table}")
        if not options.copy_back:
            return 0
        if not options.yes and _answer("Nobody may write now. The stack's name, to go on: ") != options.stack:
            print("nothing was copied back")
            return 1
        for live, table in restored.items():
            done = copy_back(dynamodb, table, live)
            print(f"{live}: {done.put:,} items put back, {done.deleted:,} deleted")
    except (ValueError, ToolError, BotoCoreError, ClientError) as error:
        print(f"tollgate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ntollgate: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _answer(question: str) -> str:
    """What is typed; nothing, where nobody is there."""
    with contextlib.suppress(EOFError):
        return input(question)
    return ""


if __name__ == "__main__":
    sys.exit(main())

"""The commands of docs/operations.md as they are printed, against the running stack."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import httpx
import pytest

from tests.conftest import ROOT
from tests.unit.fakes_webhooks import Receiver, receiver
from tools.local import Stack


@pytest.fixture
def state(stack: Stack, tmp_path: Path) -> Path:
    """A folder with a stack.json, as `make run` has one."""
    known = {"api_url": stack.api_url, "api_key": stack.api_key, "aws_endpoint_url": stack.endpoint_url}
    known |= {"region": stack.region, "stack_name": stack.stack_name}
    (tmp_path / "stack.json").write_text(json.dumps(known))
    return tmp_path


def command(name: str, state: Path) -> str:
    """What a command prints in a shell in which nothing is set; it must succeed."""
    line = [sys.executable, "-m", f"tools.{name}", "--state", str(state)]
    bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(line, cwd=ROOT, env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_is_spoilt_is_restored_and_reads_as_it_did(stack: Stack, api: httpx.Client, state: Path) -> None:
    """Deleted, falsified and added to; then all as it was, and nothing is left of what was restored.

    What receivers are told of it meanwhile is true, though told again.
    """
    with receiver() as there:
        hook = {"url": f"{there.url}/drilled", "events": ["wallet.transaction"]}
        api.put("/v1/webhooks/drilled", json=hook).raise_for_status()
        printed = command("restore_drill", state)
        amounts: list[str] = []
        while amounts.count("5.00") < 2:  # the deposit that the restore lost, and the same again
            data = json.loads(there.received.get(timeout=60).body)["data"]
            amounts += [data["amount"]] if data["customer"] in printed else []
        api.delete("/v1/webhooks/drilled").raise_for_status()
    assert set(amounts) == {"10.00", "-1.00", "5.00"}
    assert "MiniStack keeps no history" in printed
    assert "usage 90, balance 9.00" in printed
    counts = re.findall(r"spoilt (\d+) items|(\d+) items put, (\d+) deleted", printed)
    spoilt, put, deleted = (int(number) for found in counts for number in found if number)
    assert spoilt > put > 20
    assert deleted > 0
    assert "verified: usage, wallet, ledger, invoices and errors are what they were" in printed
    dynamodb = boto3.client("dynamodb", **stack.aws)
    assert not [name for name in dynamodb.list_tables()["TableNames"] if "drill" in name]
    assert dynamodb.list_backups()["BackupSummaries"] == []


def place_of_deposit(stack: Stack, customer: str) -> dict[str, str]:
    """Where in the stream of the billing table the deposit of a customer is, as Lambda would say it."""
    table = boto3.client("dynamodb", **stack.aws).describe_table(TableName=stack.resources["BillingTable"])["Table"]
    stream, streams = table["LatestStreamArn"], boto3.client("dynamodbstreams", **stack.aws)
    for shard in streams.describe_stream(StreamArn=stream)["StreamDescription"]["Shards"]:
        place = {"streamArn": stream, "shardId": shard["ShardId"]}
        begin: Any = {"StreamArn": stream, "ShardId": shard["ShardId"], "ShardIteratorType": "TRIM_HORIZON"}
        iterator = streams.get_shard_iterator(**begin)["ShardIterator"]
        while (answer := streams.get_records(ShardIterator=iterator))["Records"]:
            iterator = answer["NextShardIterator"]
            for record in answer["Records"]:
                image, number = record["dynamodb"].get("NewImage", {}), record["dynamodb"]["SequenceNumber"]
                if image.get("kind") == {"S": "entry"} and image["pk"] == {"S": f"WALLET#{customer}"}:
                    return place | {"startSequenceNumber": number, "endSequenceNumber": number}
    raise AssertionError("the stream does not have it")


def told(there: Receiver, customer: str) -> str:
    """The id of the next event about a customer, which is waited for for a minute."""
    while True:
        heard = there.received.get(timeout=60)
        if json.loads(heard.body)["data"]["customer"] == customer:
            return heard.headers["webhook-id"]


def test_a_change_that_outbox_failed_on_is_told_from_the_stream(stack: Stack, api: httpx.Client, state: Path) -> None:
    """By its place, which Lambda leaves in the dead-letter queue; the receiver knows it by its id."""
    customer = f"retold-{uuid4().hex[:8]}"
    api.put(f"/v1/customers/{customer}", json={}).raise_for_status()
    with receiver() as there:
        hook = {"url": f"{there.url}/retold", "events": ["wallet.transaction"]}
        api.put("/v1/webhooks/retold", json=hook).raise_for_status()
        deposit = {"id": "d-1", "type": "deposit", "amount": "5.00", "currency": "EUR"}
        api.post(f"/v1/customers/{customer}/wallet/transactions", json=deposit).raise_for_status()
        first = told(there, customer)
        body = json.dumps({"DDBStreamBatchInfo": place_of_deposit(stack, customer)})
        queue = stack.resources["InvocationsDeadLetterQueue"]
        boto3.client("sqs", **stack.aws).send_message(QueueUrl=queue, MessageBody=body)
        assert "1 changes of 1 messages were told" in command("retell", state)
        assert told(there, customer) == first
        api.delete("/v1/webhooks/retold").raise_for_status()


def test_the_ledger_is_exported(api: httpx.Client, state: Path) -> None:
    """Every error record there is, a line each."""
    event = {"id": uuid4().hex, "customer": "exported", "feature": "none"}
    api.post("/v1/events", json=event, headers={"Prefer": "respond-async"}).raise_for_status()
    lines = ""
    for _ in range(60):  # the queue takes its time, and so does the command
        if event["id"] in (lines := command("export_errors", state)):
            break
    assert event["id"] in lines
    assert all(json.loads(line)["id"].startswith("err_") for line in lines.splitlines())

"""Which DynamoDB the store tests run on, by the environment.

TOLLGATE_DYNAMODB_ENDPOINT is

    (nothing)      moto, in the process
    ministack      a MiniStack, started for the tests
    aws            AWS, with the credentials and the region of the environment
    http(s)://...  any other: of AWS's own, DynamoDB Local, dynalite, a MiniStack that runs

and TOLLGATE_DYNAMODB_ENGINE names what answers at an address, if it is not exact (`ministack`, `dynalite`): what
differs there is then expected (docs/engines.md). The tables have names of their own and are made once; each test finds
them empty. Other services than DynamoDB are moto's on every engine.
"""

import contextlib
import os
import re
import time
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import boto3
from botocore.client import BaseClient
from moto import mock_aws

from tests.conftest import BEFORE, TABLES, create_tables

ENDPOINT = os.environ.get("TOLLGATE_DYNAMODB_ENDPOINT", "")
ON_MOTO = ENDPOINT in {"", "moto"}
ON_AWS = ENDPOINT == "aws" or bool(re.search(r"//dynamodb\.[a-z0-9-]+\.amazonaws\.com", ENDPOINT))
ENGINE = os.environ.get("TOLLGATE_DYNAMODB_ENGINE") or (
    "moto" if ON_MOTO else "aws" if ON_AWS else "ministack" if ENDPOINT == "ministack" else "dynamodb"
)
_INDEX_SECONDS = 1.0
"""What an index may lag on AWS; elsewhere it does not."""


def name_tables() -> None:
    """Give the tables names of this run, before anything reads them."""
    if not ON_MOTO:
        run = uuid.uuid4().hex[:12]
        os.environ.update({f"{table.upper()}_TABLE": f"tollgate-test-{run}-{table}" for table in TABLES})
    if ON_AWS:
        os.environ.update(_credentials())


def _credentials() -> dict[str, str]:
    """Those of the environment that pytest was started in, and its region."""
    with mock.patch.dict(os.environ, BEFORE, clear=True):
        session = boto3.Session()
        found = session.get_credentials()
        region = BEFORE.get("AWS_REGION") or session.region_name
    if found is None:
        raise RuntimeError("there are no AWS credentials in the environment")
    if named := re.search(r"//dynamodb\.([a-z0-9-]+)\.amazonaws", ENDPOINT):
        region = named[1]
    if region is None:
        raise RuntimeError("no AWS region is set: AWS_REGION")
    frozen = found.get_frozen_credentials()
    secrets = {"AWS_ACCESS_KEY_ID": frozen.access_key, "AWS_SECRET_ACCESS_KEY": frozen.secret_key}
    token = {"AWS_SESSION_TOKEN": frozen.token} if frozen.token else {}
    return {**secrets, **token, "AWS_REGION": region, "AWS_DEFAULT_REGION": region}


@contextlib.contextmanager
def tables_for_all(log: Path) -> Iterator[None]:
    """The tables exist while the context lasts, and are removed whatever happens; moto's are made for each test."""
    if ON_MOTO:
        yield
        return
    with contextlib.ExitStack() as stack:
        if not ON_AWS:
            endpoint = ENDPOINT
            if ENDPOINT == "ministack":
                from tools.ministack import ministack

                endpoint = stack.enter_context(ministack(0, log))
            stack.enter_context(mock.patch.dict(os.environ, {"AWS_ENDPOINT_URL_DYNAMODB": endpoint}))
        else:
            stack.enter_context(_indexes_catch_up())
        stack.callback(remove_tables)
        create_tables(_client())
        for table in table_names():
            _client().get_waiter("table_exists").wait(TableName=table, WaiterConfig={"Delay": 1, "MaxAttempts": 120})
        yield


@contextlib.contextmanager
def tables_for_one() -> Iterator[None]:
    """The tables are empty when the context begins."""
    if ON_MOTO:
        with mock_aws():
            create_tables(_client())
            yield
        return
    # What is none of moto's goes where it is sent; for AWS's own DynamoDB moto must let it pass, as the caller.
    passing: Any = {"passthrough": {"services": ["dynamodb"]}, "mock_credentials": False} if ON_AWS else {}
    with mock_aws(config={"core": passing}):
        _empty()
        yield


def table_names() -> list[str]:
    """The tables of this run."""
    return [os.environ[f"{table.upper()}_TABLE"] for table in TABLES]


@cache
def _client() -> Any:
    """The first that is made; each takes a tenth of a second."""
    return boto3.client("dynamodb")


def remove_tables() -> None:
    """Remove them, those too that are being made when a run is interrupted."""
    client = _client()
    for table in table_names():
        with contextlib.suppress(client.exceptions.ResourceNotFoundException):
            if client.describe_table(TableName=table)["Table"]["TableStatus"] != "ACTIVE":
                client.get_waiter("table_exists").wait(TableName=table)  # DynamoDB deletes none that it still makes
            client.delete_table(TableName=table)


def _empty() -> None:
    client = _client()
    for table in table_names():
        pages = client.get_paginator("scan").paginate(
            TableName=table, ConsistentRead=True, ProjectionExpression="pk, sk"
        )
        keys = [item for page in pages for item in page["Items"]]
        for first in range(0, len(keys), 25):
            wanted = {table: [{"DeleteRequest": {"Key": key}} for key in keys[first : first + 25]]}
            while wanted:
                wanted = client.batch_write_item(RequestItems=wanted)["UnprocessedItems"]


@contextlib.contextmanager
def _indexes_catch_up() -> Iterator[None]:
    """Wait before an index is read: what a test has just written is in it then."""
    original = BaseClient._make_api_call  # type: ignore[attr-defined]  # noqa: SLF001 - all calls pass here

    def call(client: Any, operation: str, request: dict[str, Any]) -> Any:
        if "IndexName" in request:
            time.sleep(_INDEX_SECONDS)
        return original(client, operation, request)

    with mock.patch.object(BaseClient, "_make_api_call", call):
        yield

"""The stores of a deployment, for commands: its tables are found by its stack, and whoever may read them may ask."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from tools import ROOT, ToolError
from tools.local import running_stack
from tools.ministack import aws_environment

sys.path.insert(0, str(ROOT / "layers/common"))

if TYPE_CHECKING:
    from tollgate.catalog.store import DynamoCatalog
    from tollgate.metering.archive_store import DynamoArchive
    from tollgate.metering.store import DynamoCounters
    from tollgate.recovery.store import DynamoRecovery

__all__ = ["Stores", "open_ledger", "open_stores"]

_TABLES = ("catalog", "usage", "recovery")


class Stores(NamedTuple):
    """The catalog, the counters and the archive."""

    catalog: "DynamoCatalog"
    counters: "DynamoCounters"
    archive: "DynamoArchive"


def open_stores(stack: str | None, state: Path) -> Stores:
    """Reach the tables of a CloudFormation stack, or those of the local stack.

    Args:
        stack: its name, with the AWS credentials and region of the environment; None is the local stack.
        state: where the local stack's stack.json is.

    Raises:
        ToolError: there is no such stack.
    """
    _set(stack, state)
    from tollgate.catalog.store import DynamoCatalog  # after the environment is set
    from tollgate.metering.archive_store import DynamoArchive
    from tollgate.metering.store import DynamoCounters

    return Stores(DynamoCatalog(), DynamoCounters(), DynamoArchive())


def open_ledger(stack: str | None, state: Path) -> "DynamoRecovery":
    """Reach the recovery table in the same way.

    Raises:
        ToolError: there is no such stack.
    """
    _set(stack, state)
    from tollgate.recovery.store import DynamoRecovery  # after the environment is set

    return DynamoRecovery()


def _set(stack: str | None, state: Path) -> None:
    """Set the environment that functions have, as far as commands need it."""
    os.environ |= _local(state) if stack is None else _deployed(stack)
    os.environ.setdefault("BILLING_TABLE", "unused")


def _local(state: Path) -> dict[str, str]:
    stack = running_stack(state)
    aws = {name: value for name, value in aws_environment(stack.endpoint_url).items() if name.startswith("AWS_")}
    return aws | {f"{name.upper()}_TABLE": stack.resources[f"{name.capitalize()}Table"] for name in _TABLES}


def _deployed(stack: str) -> dict[str, str]:
    try:
        [found] = boto3.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
    except (BotoCoreError, ClientError) as error:
        raise ToolError(f"the stack {stack} cannot be read: {error}") from None
    outputs = {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])}
    try:
        return {f"{name.upper()}_TABLE": outputs[f"{name.capitalize()}TableName"] for name in _TABLES}
    except KeyError as missing:
        raise ToolError(f"the stack {stack} has no output {missing}: deploy it anew") from None

"""`make admin-key`: the first key of a deployment, in the table that its stack names; on moto."""

import os
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.conftest import TABLES
from tollgate.catalog.key_store import DynamoKeys
from tollgate.catalog.keyring import KeyRing
from tollgate.kernel.time import system_clock
from tools.keys import main


@pytest.fixture(autouse=True)
def stacks(tables: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001 - they are made before
    """CloudFormation knows one stack, whose tables are those of the tests."""

    def describe_stacks(*, StackName: str) -> dict[str, Any]:  # noqa: N803 - boto3's
        if StackName != "tollgate-prod":
            error = {"Code": "ValidationError", "Message": f"Stack with id {StackName} does not exist"}
            raise ClientError({"Error": error}, "DescribeStacks")  # type: ignore[typeddict-item]
        names = {f"{one.capitalize()}TableName": os.environ[f"{one.upper()}_TABLE"] for one in TABLES}
        return {"Stacks": [{"Outputs": [{"OutputKey": key, "OutputValue": name} for key, name in names.items()]}]}

    made = {"cloudformation": SimpleNamespace(describe_stacks=describe_stacks)}
    monkeypatch.setattr("tools.stores.boto3.client", made.__getitem__)


def test_an_admin_key_is_made_in_the_table_of_a_stack(capsys: pytest.CaptureFixture[str]) -> None:
    """The secret alone is on standard output, and works."""
    assert main(["--stack", "tollgate-prod"]) == 0
    written = capsys.readouterr()
    found = KeyRing(DynamoKeys(), system_clock).find(f"Bearer {written.out.strip()}")
    assert found is not None
    assert (found.name, found.scopes) == ("admin", ("admin",))
    assert found.id in written.err
    assert written.out.strip() not in written.err


def test_a_key_of_other_scopes_is_made_in_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """By the table's name."""
    wanted = ["--name", "ci", "--scope", "usage:read", "--scope", "catalog:read"]
    assert main(["--table", os.environ["CATALOG_TABLE"], *wanted]) == 0
    found = KeyRing(DynamoKeys(), system_clock).find(f"Bearer {capsys.readouterr().out.strip()}")
    assert found is not None
    assert (found.name, found.scopes) == ("ci", ("usage:read", "catalog:read"))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--stack", "unknown"], "the stack unknown cannot be read"),
        (["--state", "/nonexistent"], "no stack is running"),
        (["--table", "T", "--scope", "all"], "unknown scope; the scopes are events:write"),
    ],
)
def test_what_cannot_be_done_is_told(arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With a code that is not 0, and nothing on standard output."""
    arguments = [os.environ["CATALOG_TABLE"] if one == "T" else one for one in arguments]
    assert main(arguments) == 1
    written = capsys.readouterr()
    assert written.out == ""
    assert "no key was made: " in written.err
    assert why in written.err
    assert DynamoKeys().list_keys(None, 10) == ([], None)

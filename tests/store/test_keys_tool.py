"""`make admin-key`: the first key of a deployment, in the table that its stack names; on moto."""

import json
import os

import boto3
import pytest

from tollgate.catalog.key_store import DynamoKeys
from tollgate.catalog.keyring import KeyRing
from tollgate.kernel.time import system_clock
from tools.keys import main

pytestmark = pytest.mark.usefixtures("tables")


def deploy(name: str) -> None:
    """A stack with the outputs that the tables of the tests have."""
    outputs = {
        f"{one.capitalize()}TableName": os.environ[f"{one.upper()}_TABLE"] for one in ("catalog", "usage", "recovery")
    }
    template = {
        "Resources": {"Topic": {"Type": "AWS::SNS::Topic"}},
        "Outputs": {key: {"Value": value} for key, value in outputs.items()},
    }
    boto3.client("cloudformation").create_stack(StackName=name, TemplateBody=json.dumps(template))


def test_an_admin_key_is_made_in_the_table_of_a_stack(capsys: pytest.CaptureFixture[str]) -> None:
    """The secret alone is on standard output, and works."""
    deploy("tollgate-prod")
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

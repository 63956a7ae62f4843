"""The tables of a test run on a real DynamoDB are removed, whenever it ends."""

from typing import Any

import pytest

from tests.store import engines


class DynamoDB:
    """Three tables, of which one is being made still, and one that was never begun."""

    class exceptions:  # noqa: N801 - as boto3 names it
        """Its errors."""

        class ResourceNotFoundException(Exception):
            """There is no such table."""

    def __init__(self, tables: dict[str, str]) -> None:
        self.tables = tables

    def describe_table(self, *, TableName: str) -> dict[str, Any]:  # noqa: N803 - as boto3 names it
        """Its status."""
        if TableName not in self.tables:
            raise self.exceptions.ResourceNotFoundException
        return {"Table": {"TableStatus": self.tables[TableName]}}

    def get_waiter(self, name: str) -> "DynamoDB":
        """One that waits for a table."""
        assert name == "table_exists"
        return self

    def wait(self, *, TableName: str, **_: Any) -> None:  # noqa: N803 - as boto3 names it
        """Until it is there."""
        assert TableName in self.tables
        self.tables[TableName] = "ACTIVE"

    def delete_table(self, *, TableName: str) -> None:  # noqa: N803 - as boto3 names it
        """As DynamoDB does: not while it is made."""
        if TableName not in self.tables:
            raise self.exceptions.ResourceNotFoundException
        if self.tables[TableName] != "ACTIVE":
            raise RuntimeError("ResourceInUseException")
        del self.tables[TableName]


def test_tables_that_are_being_made_are_removed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a run is interrupted at its beginning."""
    names = engines.table_names()
    dynamodb = DynamoDB({names[0]: "ACTIVE", names[1]: "CREATING", names[2]: "ACTIVE"})
    monkeypatch.setattr(engines, "_client", lambda: dynamodb)
    engines.remove_tables()
    assert dynamodb.tables == {}

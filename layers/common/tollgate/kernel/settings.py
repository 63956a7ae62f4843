"""The environment of a function, read once and typed."""

import os

__all__ = ["required", "table_name"]


def table_name(table: str) -> str:
    """The name of the catalog, usage, billing or recovery table, from CATALOG_TABLE and so on.

    Raises:
        RuntimeError: the function was deployed without it.
    """
    return required(f"{table.upper()}_TABLE")


def required(variable: str) -> str:
    """An environment variable the function cannot work without."""
    value = os.environ.get(variable)
    if not value:
        raise RuntimeError(f"the environment variable {variable} is not set: see template.yaml")
    return value

"""API keys by command: `make admin-key ARGS="--stack tollgate-prod"` makes the first admin key of a deployment.

The template makes none, so that no secret stands in it. Whoever may write to the stack's catalog table may make keys:
with `--stack` in that of a CloudFormation stack, with `--table` in the table of that name, both with the AWS
credentials and region of the environment; else in that of the stack that `make run` has started. The secret is all
that is written to standard output.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError
from pynamodb.exceptions import PynamoDBException

from tools import LOCAL, ROOT, ToolError

sys.path.insert(0, str(ROOT / "layers/common"))

from tollgate.kernel.errors import TollgateError

if TYPE_CHECKING:
    from tollgate.catalog.keys import KeyStore

__all__ = ["main"]


def open_keys(*, stack: str | None, table: str | None, state: Path) -> "KeyStore":
    """Reach the keys of a stack, of a table, or of the local stack.

    Raises:
        ToolError: there is no such stack.
    """
    if table is None:
        from tools.stores import open_stores  # the local stack, which begins with a key, does not need it

        return open_stores(stack, state).catalog
    os.environ |= {"CATALOG_TABLE": table}
    for other in ("USAGE", "BILLING", "RECOVERY"):
        os.environ.setdefault(f"{other}_TABLE", "unused")
    from tollgate.catalog.key_store import DynamoKeys  # after the environment is set

    return DynamoKeys()


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a key from the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.keys", description="Make an API key.")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--stack", help="a CloudFormation stack's name (default: the stack that `make run` started)")
    place.add_argument("--table", help="a stack's output CatalogTableName")
    parser.add_argument("--state", type=Path, default=LOCAL, help="folder of the local stack's stack.json (.local)")
    parser.add_argument("--name", default="admin", help="what the key is for")
    parser.add_argument("--scope", action="append", help="may be given several times (default: admin)")
    options = parser.parse_args(arguments)
    try:
        store = open_keys(stack=options.stack, table=options.table, state=options.state)
        from tollgate.catalog.keys import create_key  # after the environment is set
        from tollgate.kernel.time import system_clock

        scopes = tuple(options.scope or ["admin"])
        key, secret = create_key(store, name=options.name, scopes=scopes, clock=system_clock)
    except (ToolError, BotoCoreError, ClientError, PynamoDBException) as error:
        print(f"tollgate: no key was made: {error}", file=sys.stderr)
        return 1
    except TollgateError as error:
        print(f"tollgate: no key was made: {error.detail}", file=sys.stderr)
        return 1
    print(secret)
    print(f"The key {key.id} ({', '.join(key.scopes)}) is shown this once: keep it in a safe place.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""API keys by command: `python -m tools.keys --table NAME` makes the first admin key of a deployment.

The template makes none, so that no secret stands in it. The table's name is the stack's output
CatalogTableName; whoever may write to that table may make keys.
"""

import argparse
import os
import sys
from pathlib import Path

__all__ = ["mint_key"]

_LAYER = Path(__file__).parents[1] / "layers/common"


def mint_key(table: str, *, name: str = "admin", scopes: tuple[str, ...] = ("admin",)) -> str:
    """Make a key in a catalog table, with the AWS credentials, region and endpoint of the environment."""
    os.environ |= {"CATALOG_TABLE": table}
    os.environ.setdefault("USAGE_TABLE", "unused")
    os.environ.setdefault("BILLING_TABLE", "unused")
    os.environ.setdefault("RECOVERY_TABLE", "unused")
    if str(_LAYER) not in sys.path:
        sys.path.insert(0, str(_LAYER))
    from tollgate.catalog.keys import create_key  # after the environment is set
    from tollgate.catalog.store import DynamoCatalog
    from tollgate.kernel.time import system_clock

    _, secret = create_key(DynamoCatalog(), name=name, scopes=scopes, clock=system_clock)
    if secret is None:
        raise RuntimeError("the key exists already")  # unreachable with no idempotency key
    return secret


def main() -> int:
    """Make a key and print its secret, alone on standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", required=True, help="the stack's output CatalogTableName")
    parser.add_argument("--name", default="admin", help="what the key is for")
    parser.add_argument("--scope", action="append", help="may be given several times; default: admin")
    arguments = parser.parse_args()
    print(mint_key(arguments.table, name=arguments.name, scopes=tuple(arguments.scope or ["admin"])))
    print("This is shown once: keep it in a safe place.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

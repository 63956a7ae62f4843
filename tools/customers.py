"""Many customers at once: `python -m tools.customers --plan web --starts-at 2026-01-01T00:00:00Z < ids.txt`.

Reads a customer id a line, and puts those that have no subscription yet on the plan, as subscription
`sub-<id>`: 25 items a request, where the API takes two requests a customer. The tables are those of the
environment variables CATALOG_TABLE and USAGE_TABLE (the stack's outputs), with its AWS credentials.
"""

import argparse
import os
import sys
from pathlib import Path

_LAYER = Path(__file__).parents[1] / "layers/common"


def main() -> int:
    """Read the ids, write the customers, say how many."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", required=True, help="the code of the plan")
    parser.add_argument("--starts-at", required=True, help="when the subscriptions begin (RFC 3339)")
    arguments = parser.parse_args()
    os.environ.setdefault("BILLING_TABLE", "unused")
    os.environ.setdefault("RECOVERY_TABLE", "unused")
    sys.path.insert(0, str(_LAYER))
    from tollgate.catalog.model import Customer  # after the environment is set
    from tollgate.catalog.service import subscribe_many
    from tollgate.catalog.store import DynamoCatalog
    from tollgate.kernel.ids import is_id
    from tollgate.kernel.time import parse_time, system_clock

    ids = [line.strip() for line in sys.stdin if line.strip()]
    if wrong := [one for one in ids if not is_id(one)]:
        print(f"tollgate: not a customer id: {wrong[0]!r}; nothing was written", file=sys.stderr)
        return 1
    catalog = DynamoCatalog()
    customers = [Customer(one) for one in dict.fromkeys(ids)]
    starts_at = parse_time(arguments.starts_at)
    newcomers = subscribe_many(catalog, customers, plan=arguments.plan, starts_at=starts_at, clock=system_clock)
    written = catalog.add_customers(newcomers)
    print(f"{written} customers written, {len(customers) - written} had a subscription already")
    return 0


if __name__ == "__main__":
    sys.exit(main())

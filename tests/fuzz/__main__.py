"""`make fuzz`: CASES requests or more to the functions in this process, round after round from SEED on."""

import os
import sys
from collections import Counter

import httpx

import tests.conftest  # noqa: F401  the environment of the functions
from tests.fuzz.gateway import deployed
from tests.fuzz.leaks import in_log
from tests.fuzz.run import fuzz
from tests.fuzz.world import settle


def main() -> int:
    """Fuzz until so many requests have been sent, or something is found."""
    wanted, seed = int(os.environ.get("CASES") or 20_000), int(os.environ.get("SEED") or 1)
    operations = os.environ.get("OPERATIONS", "")
    shown = sys.stdout  # as long as the API is up, what is printed goes into its log
    sent, statuses = 0, Counter[str]()
    with deployed() as api:
        known = [api.api_key, api.api_key.rpartition("_")[2]]
        with httpx.Client(base_url=api.api_url, headers={"Authorization": f"Bearer {api.api_key}"}) as client:
            world = settle(client)
        while sent < wanted:
            found = fuzz(api.api_url, api.api_key, world=world, examples=60, seed=seed, operations=operations)
            sent += found.cases
            statuses += found.statuses
            logged = list(in_log(api.log.getvalue(), known))
            print(
                f"seed {seed}: {found.cases} cases, {sent} in all; {dict(sorted(statuses.items()))}",
                file=shown,
                flush=True,
            )
            if found.failure or logged:
                print(found.failure, *logged, sep="\n", file=shown)
                return 1
            api.log.seek(0)  # or what is logged next would stand after as much nothing
            api.log.truncate()
            seed += 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

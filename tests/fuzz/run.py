"""Runs schemathesis over every route of an API, with a world of known things in it, and all checks."""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.conftest import ROOT
from tests.fuzz.exceptions import ANSWERED, DECLINED, REFUSED
from tests.fuzz.leaks import CANARY

__all__ = ["PHASES", "Found", "fuzz"]

PHASES: Final = ("examples", "coverage", "fuzzing", "stateful")
_ACCEPTED: Final = ["2xx", "3xx", "401", "403", "404", "409", "429", "5xx"]  # the tool's own; 5xx fail by another check
_REJECTED: Final = ["400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "428", "429", "5xx"]
ALSO_ANOTHER: Final = {
    "/v1/customers/{customer}/entitlements/consume": "is /v1/customers/{customer}/entitlements/{feature} too",
    "/v1/errors/retry": "is /v1/errors/{error} too",
    "/v1/errors/discard": "is /v1/errors/{error} too",
    "/v1/webhooks/stripe": "is /v1/webhooks/{webhook} too, for all but POST",
}
"""Paths that a path with a parameter takes too: `Allow` names the methods of both, and is right."""

DENIED_IS_NOT_MADE: Final = ("/v1/reservations/{reservation}/commit", "/v1/reservations/{reservation}/release")
"""A reservation for which there is no room is answered with 200 and `denied`: there is none to commit then."""


@dataclass(slots=True)
class Found:
    """What came of a run: `cases` by status, and the tool's own words where it is not clean."""

    cases: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    failure: str = ""


def fuzz(
    api_url: str,
    api_key: str,
    *,
    world: Mapping[str, Sequence[str]],
    examples: int,
    seed: int,
    phases: Sequence[str] = PHASES,
    openapi: Path = ROOT / "functions/catalog/openapi.json",
    workers: int = 1,
    operations: str = "",
) -> Found:
    """Send requests that openapi.json allows, and some that it does not, to every route.

    Args:
        api_url: of the API.
        api_key: with the scope admin.
        world: things that exist, by the name of the path parameter.
        examples: of each operation in the random phases; what the coverage phase sends is given by the schema.
        seed: the same again sends the same again.
        phases: of schemathesis.
        openapi: the document.
        workers: threads that send.
        operations: a regular expression of their names; all, if it is empty.
    """
    with tempfile.TemporaryDirectory() as folder:
        config, count = Path(folder, "schemathesis.toml"), Path(folder, "count")
        config.write_text(_config(world))
        count.touch()
        command = [
            str(Path(sys.executable).with_name("schemathesis")),
            *("--no-color", "--config-file", str(config), "run", str(openapi), "--url", api_url),
            *("--header", f"Authorization: Bearer {api_key}", "--phases", ",".join(phases)),
            *("--max-examples", str(examples), "--seed", str(seed), "--continue-on-failure", "--no-shrink"),
            *("--generation-database", "none", "--workers", str(workers)),
            *(("--include-name-regex", operations) if operations else ()),
        ]
        environment = os.environ | {
            "PYTHONPATH": f"{ROOT}:{ROOT / 'layers/common'}",
            "FUZZ_SECRETS": ",".join({api_key, api_key.rpartition("_")[2]}),
            "FUZZ_COUNT": str(count),
        }
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        statuses = Counter(line.partition(" ")[0] for line in count.read_text().splitlines())
        failure = "" if done.returncode == 0 else done.stdout + done.stderr
        return Found(sum(statuses.values()), statuses, failure)


def _config(world: Mapping[str, Sequence[str]]) -> str:
    """The tool's settings: all checks, and what exceptions.py says, operation by operation."""
    words = [CANARY, "EUR", "JPY", "Europe/Berlin", *sorted({value for values in world.values() for value in values})]
    lines = [
        'hooks = "tests.fuzz.checks"',
        'suppress-health-check = ["all"]',  # it would rather have small bodies; a list of 500 events is one of ours
        'generation.dictionaries.string = { dictionary = "words", probability = 0.15 }',
        "warnings.enabled = false",
        "cache.enabled = false",
        f"dictionaries.words.values = {json.dumps(words)}",
    ]
    for name, values in world.items():
        lines.append(f"dictionaries.{name}.values = {json.dumps(list(values))}")
        lines.append(f'parameters."path.{name}" = {{ dictionary = "{name}", probability = 0.8 }}')
    expected = "checks.{}.expected-statuses = {}"
    for label in sorted({*REFUSED, *DECLINED}):
        statuses = [*_ACCEPTED, *(["422"] if label in REFUSED else []), *DECLINED.get(label, [])]
        lines += _operation("name", label, expected.format("positive_data_acceptance", json.dumps(statuses)))
    for label in ANSWERED:
        statuses = [*_REJECTED, "200"]
        lines += _operation("name", label, expected.format("negative_data_rejection", json.dumps(statuses)))
    for path in DENIED_IS_NOT_MADE:
        lines += _operation("path", path, "checks.ensure_resource_availability.enabled = false")
    for path in ALSO_ANOTHER:
        lines += _operation("path", path, "checks.allow_header_conformance.enabled = false")
    # An error record has a member `error`, its text, which the tool takes for the id in these paths.
    lines += _operation("path-regex", r"^/v1/errors/\{error", "phases.stateful.enabled = false")
    return "\n".join(lines) + "\n"


def _operation(by: str, value: str, setting: str) -> list[str]:
    return ["[[operations]]", f"include-{by} = {json.dumps(value)}", setting]

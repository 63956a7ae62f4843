"""Known vulnerabilities of all that is pinned: `python -m tools.audit`, with pip-audit in an environment of its own.

Exit codes: 0 none is known; 1 some are; 3 no service answers, so not all was audited (0 with --allow-unanswered,
which still says so).
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tools import LOCAL, ROOT, ToolError

__all__ = ["Findings", "audit", "main", "requirements"]

PIP_AUDIT = LOCAL / "venv" / "audit" / "bin" / "pip-audit"
UNANSWERED = 3
SIGNS_OF_NO_SERVICE = (
    "connection",
    "timed out",
    "timeout",
    "name resolution",
    "proxyerror",
    "sslerror",
    "serviceerror",
)


@dataclass
class Findings:
    """What pip-audit says of a requirements file.

    Attributes:
        audited: how many packages the service knows.
        unknown: the packages that it does not know.
        vulnerable: a line for each vulnerability.
    """

    audited: int = 0
    unknown: list[str] = field(default_factory=list)
    vulnerable: list[str] = field(default_factory=list)


def requirements() -> list[Path]:
    """Every file of pinned requirements, those that ship first: all that are compiled from an .in file."""
    sources = [*sorted(ROOT.glob("layers/common/*.in")), *sorted(ROOT.glob("tools/requirements/*.in"))]
    return [source.with_suffix(".txt") for source in sources]


def audit(file: Path) -> Findings:
    """Ask for the vulnerabilities of a requirements file, with nothing installed; none is audited where none answers.

    Raises:
        ToolError: pip-audit is missing, or fails for another reason than the network.
    """
    if not PIP_AUDIT.exists():
        raise ToolError("pip-audit is not installed: python3 tools/bootstrap.py dev audit")
    options = ["--require-hashes", "--disable-pip", "--progress-spinner", "off", "--format", "json", "-r", str(file)]
    done = subprocess.run([str(PIP_AUDIT), *options], capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except ValueError:
        if any(sign in done.stderr.lower() for sign in SIGNS_OF_NO_SERVICE):
            return Findings()
        raise ToolError(f"pip-audit failed:\n{done.stderr.strip()}") from None
    findings = Findings(unknown=[one["name"] for one in found if "skip_reason" in one])
    for one in found:
        if "skip_reason" not in one:
            findings.audited += 1
            for flaw in one["vulns"]:
                fixed = ", ".join(flaw["fix_versions"]) or "no version yet"
                findings.vulnerable.append(f"{one['name']} {one['version']}: {flaw['id']}, fixed in {fixed}")
    return findings


def main(arguments: Sequence[str] | None = None, ask: Callable[[Path], Findings] = audit) -> int:
    """Audit all files, of which `ask` tells; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.audit", description="Ask for known vulnerabilities.")
    parser.add_argument("--allow-unanswered", action="store_true", help="exit with 0 where no service answers")
    options = parser.parse_args(arguments)
    failed = False
    for file in requirements():
        name = file.relative_to(ROOT)
        try:
            findings = ask(file)
        except ToolError as error:
            print(f"tollgate: {error}", file=sys.stderr)
            return 1
        if findings.audited == 0:
            print("tollgate: NOT AUDITED: no service that knows vulnerabilities answers here", file=sys.stderr)
            return int(failed) or (0 if options.allow_unanswered else UNANSWERED)
        print(f"{name}: {findings.audited} packages, {len(findings.vulnerable)} known vulnerabilities")
        for line in findings.vulnerable:
            print(f"  {line}")
        if findings.unknown:
            print(f"  unknown to the service: {', '.join(findings.unknown)}")
        failed = failed or bool(findings.vulnerable or findings.unknown)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

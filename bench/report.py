"""Tables on the terminal, and whether limits are held."""

import argparse
import contextlib
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tools import ROOT

__all__ = ["Report", "run"]

PAGE: Final = ROOT / "docs" / "benchmarks.md"
WIDTH: Final = 130
_NOTHING: Final[Sequence[str]] = ()


@dataclass(slots=True)
class Report:
    """Where tables go, and the limits that were looked at: by name the worst that was measured, and the limit."""

    console: Console
    limits: dict[str, tuple[float, float]] = field(default_factory=dict)

    def table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = _NOTHING
    ) -> None:
        """Print a table: its first column is text, the others are numbers; a row of nothing leaves a gap."""
        table = Table(box=SIMPLE_HEAD)
        for place, name in enumerate(columns):
            table.add_column(name, justify="right" if place else "left", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        self._print(title, table)
        for note in notes:
            self.console.print(f"  {note}")

    def hold(self, what: str, value: float, limit: float) -> str:
        """Note a limit, and give the value as it is shown."""
        worst, _ = self.limits.get(what, (value, limit))
        self.limits[what] = max(worst, value), limit
        return f"{value:.3f}" if value <= limit else f"[red]{value:.3f}[/]"

    def verdict(self) -> bool:
        """Print which limits are held, and whether all are."""
        table = Table(box=SIMPLE_HEAD)
        for place, name in enumerate(("", "measured", "at most", "")):
            table.add_column(name, justify="right" if place in {1, 2} else "left", no_wrap=True)
        for what, (value, limit) in self.limits.items():
            table.add_row(what, f"{value:.3f}", f"{limit:g}", "held" if value <= limit else "[red]NOT held[/]")
        self._print("Limits", table)
        held = sum(value <= limit for value, limit in self.limits.values())
        self.console.print(f"{held} of {len(self.limits)} limits held")
        return held == len(self.limits)

    def _print(self, title: str, table: Table) -> None:
        self.console.print(f"\n[bold]{title}[/]")
        self.console.print(table)


def run(
    module: str,
    what: str,
    sections: Mapping[str, Callable[[Report], None]],
    profile: Callable[[], None] | None = None,
) -> int:
    """The command line of a benchmark; 1 where a limit is not held."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=what)
    parser.add_argument("sections", nargs="*", metavar="section", help=f"some of: {', '.join(sections)} (all)")
    parser.add_argument("--write", action="store_true", help=f"also put what is printed into {PAGE.relative_to(ROOT)}")
    if profile is not None:
        parser.add_argument("--profile", action="store_true", help="print where the CPU goes, and nothing else")
    arguments = parser.parse_args()
    if unknown := set(arguments.sections) - sections.keys():
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    if profile is not None and arguments.profile:
        profile()
        return 0
    report = Report(Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False, record=True))
    report.console.print(_machine())
    for name in arguments.sections or sections:
        sections[name](report)
    held = report.verdict()
    if arguments.write:
        _write(module, "\n".join(line.rstrip() for line in report.console.export_text().splitlines()))
    return 0 if held else 1


def _write(module: str, printed: str) -> None:
    """Put what was printed in the place of what the same benchmark printed last."""
    before, mark, after = PAGE.read_text(encoding="utf-8").partition(f"<!-- {module} -->\n```text\n")
    _, end, after = after.partition("\n```\n")
    PAGE.write_text(f"{before}{mark}{printed}{end}{after}", encoding="utf-8")


def _machine() -> str:
    model = platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), model)
    python, stack = platform.python_version(), version("ministack")
    return f"{datetime.now(UTC):%Y-%m-%d}, {model}, {os.cpu_count()} cores, Python {python}, MiniStack {stack}"

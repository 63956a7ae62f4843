"""Tables on the terminal, and whether limits are held."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

__all__ = ["Report"]

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

"""Exports the ledger of failed operations: `python -m tools.export_errors [--status manual] [--output FILE]`.

A line of JSON per record, the newest first, as `GET /v1/errors/{id}` shows it: with its whole history and all tries.
Nothing in the ledger is ever rewritten, so two exports agree in all that the first one has.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError

from tools import LOCAL, ROOT, ToolError
from tools.stores import open_ledger

sys.path.insert(0, str(ROOT / "layers/common"))

from tollgate.kernel.time import parse_time
from tollgate.recovery.ledger import Filter, Recovery
from tollgate.recovery.model import ErrorType, Status
from tollgate.recovery.schema import error_view

if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["exported", "main"]

PAGE = 100


def exported(
    ledger: Recovery, wanted: Filter, since: datetime | None = None, until: datetime | None = None
) -> Iterator[dict[str, Any]]:
    """The records that a filter takes, made in [since, until), the newest first."""
    after: str | None = None
    while True:
        page, after = ledger.find(wanted, after=after, limit=PAGE)
        for record in page:
            if since is not None and record.created_at < since:
                return
            if until is None or record.created_at < until:
                yield error_view(record)
        if after is None:
            return


def main(arguments: Sequence[str] | None = None) -> int:
    """Export from the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.export_errors", description="Export the ledger of failed operations as JSON Lines."
    )
    parser.add_argument("--status", type=Status, choices=list(Status), help="only records in this status")
    parser.add_argument("--type", type=ErrorType, choices=list(ErrorType), help="only errors of this type")
    parser.add_argument("--customer", help="only those of this customer")
    parser.add_argument("--since", type=_time, help="only those made from this time on, such as 2026-11-01T00:00:00Z")
    parser.add_argument("--until", type=_time, help="only those made before this time")
    parser.add_argument("--output", type=Path, help="the file to write (default: standard output)")
    parser.add_argument("--stack", help="a CloudFormation stack's name (default: the stack that `make run` started)")
    parser.add_argument("--state", type=Path, default=LOCAL, help="folder of the local stack's stack.json (.local)")
    options = parser.parse_args(arguments)
    wanted = Filter(status=options.status, type=options.type, customer=options.customer)
    try:
        ledger = open_ledger(options.stack, options.state)
        with ExitStack() as files:
            out: TextIO = files.enter_context(options.output.open("w")) if options.output else sys.stdout
            count = 0
            for record in exported(ledger, wanted, options.since, options.until):
                out.write(json.dumps(record, separators=(",", ":")) + "\n")
                count += 1
    except (ToolError, BotoCoreError, OSError) as error:
        print(f"tollgate: {error}", file=sys.stderr)
        return 1
    print(f"{count:,} records exported{f' to {options.output}' if options.output else ''}", file=sys.stderr)
    return 0


def _time(text: str) -> datetime:
    try:
        return parse_time(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())

"""What is unresolved: counted by type, for an API's answer, a metric and a person."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.time import Clock, format_time
from tollgate.recovery.ledger import Recovery, Unresolved
from tollgate.recovery.model import UNRESOLVED, ErrorType, Status

__all__ = ["Group", "Report", "report", "report_text", "report_to_dict"]


@dataclass(frozen=True, slots=True)
class Group:
    """The unresolved records of a type."""

    type: ErrorType
    count: int
    oldest: datetime
    average_attempts: float
    by_status: Mapping[Status, int]


@dataclass(frozen=True, slots=True)
class Report:
    """What is unresolved, the largest group first; a type with nothing unresolved has no group."""

    generated_at: datetime
    total: int
    groups: tuple[Group, ...]


def report(store: Recovery, clock: Clock) -> Report:
    """Count what is unresolved."""
    found: dict[ErrorType, list[Unresolved]] = defaultdict(list)
    for record in store.unresolved():
        found[record.type].append(record)
    groups = sorted((_group(*each) for each in found.items()), key=lambda group: (-group.count, group.type))
    return Report(clock(), sum(group.count for group in groups), tuple(groups))


def _group(error_type: ErrorType, records: list[Unresolved]) -> Group:
    by_status = Counter(record.status for record in records)
    count = len(records)
    return Group(
        type=error_type,
        count=count,
        oldest=min(record.created_at for record in records),
        average_attempts=round(sum(record.attempts for record in records) / count, 2),
        by_status={status: by_status[status] for status in Status if status in UNRESOLVED},
    )


def report_to_dict(report: Report) -> dict[str, Any]:
    """The report as the API shows it."""
    return {
        "generated_at": format_time(report.generated_at),
        "total": report.total,
        "groups": [
            {
                "type": group.type.value,
                "count": group.count,
                "oldest": format_time(group.oldest),
                "average_attempts": group.average_attempts,
                "by_status": {status.value: count for status, count in group.by_status.items()},
            }
            for group in report.groups
        ],
    }


def report_text(report: Report) -> str:
    """The report for a person: the total, a line per type, and what to do next."""
    if not report.total:
        return "No failed billing operation is unresolved. There is nothing to do."
    manual = sum(group.by_status[Status.MANUAL] for group in report.groups)
    lines = [f"Failed billing operations that are unresolved: {report.total}", ""]
    lines += [_line(group, report.generated_at) for group in report.groups]
    lines += ["", "What to do next"]
    if manual:
        lines += [
            f"- Waiting for a person: {manual}. GET /v1/errors?status=manual lists them: what failed, with what, and",
            "  what was tried. POST /v1/errors/{id}/retry, /resolve or /discard says what becomes of each.",
        ]
    if manual < report.total:
        lines += [f"- Tried again automatically: {report.total - manual}. Nothing to do."]
    return "\n".join(lines)


def _line(group: Group, now: datetime) -> str:
    statuses = ", ".join(f"{count} {status}" for status, count in group.by_status.items() if count)
    age, tries = _age(now - group.oldest), f"{group.average_attempts:g} tries each"
    return f"  {group.type:<22} {group.count:>5}   {statuses}; oldest {age}, {tries}"


def _age(age: timedelta) -> str:
    minutes = int(age.total_seconds() // 60)
    for unit, size in (("days", 60 * 24), ("hours", 60)):
        if minutes >= 2 * size:
            return f"{minutes // size} {unit}"
    return f"{max(minutes, 0)} minutes"

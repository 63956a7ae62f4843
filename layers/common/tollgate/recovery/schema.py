"""The recovery ledger's bodies on the wire, in and out."""

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from tollgate.kernel.ids import MAX_CURSOR
from tollgate.kernel.schema import Code, Timestamp
from tollgate.kernel.time import format_time
from tollgate.recovery.ledger import Filter
from tollgate.recovery.model import ErrorRecord, ErrorType, Outcome, Status
from tollgate.recovery.service import Selected
from tollgate.recovery.strategies import Strategy

__all__ = [
    "ErrorList",
    "ErrorView",
    "ErrorsBody",
    "ErrorsChanged",
    "NoteBody",
    "ReportView",
    "RetryBody",
    "error_view",
    "selected_view",
]

MAX_BULK: Final = 1_000
MAX_NOTE: Final = 1_000
MAX_PERSON: Final = 128
MAX_ARGUMENT_NAMES: Final = 20

_SAYS_SOMETHING = Field(json_schema_extra={"pattern": r"\S"})  # blanks at its ends are taken off first
Note = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_NOTE), _SAYS_SOMETHING]
Person = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_PERSON), _SAYS_SOMETHING]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class NoteBody(_Body):
    """What a person has to say of a change."""

    note: Note
    """Why; it is kept in the record's history."""
    actor: Person | None = None
    """Who; the key that the request carries is noted in any case."""


class RetryBody(_Body):
    """How a failed operation is to be tried again."""

    note: Note | None = None
    """Why; it is kept in the record's history."""
    actor: Person | None = None
    """Who; the key that the request carries is noted in any case."""
    arguments: Annotated[dict[str, Any], Field(max_length=MAX_ARGUMENT_NAMES)] | None = None
    """Arguments in place of those of the same names, where the operation allows it."""


class ErrorFilter(_Body):
    """Which records are meant: those for which all that is given holds. Something must be."""

    status: Status | None = None
    type: ErrorType | None = None
    customer: Code | None = None
    subscription: Code | None = None
    strategy: Strategy | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "ErrorFilter":
        if not self.model_dump(exclude_none=True):
            raise ValueError("must name a status, type, customer, subscription or strategy")
        return self


class ErrorsBody(_Body):
    """Many records to be changed alike."""

    filter: ErrorFilter
    note: Note
    """Why; it is kept in the history of each record."""
    actor: Person | None = None
    """Who; the key that the request carries is noted in any case."""
    dry_run: Annotated[bool, Field(strict=True)] = False
    """Only count what would be changed."""
    limit: Annotated[int, Field(strict=True, ge=1, le=MAX_BULK)] = MAX_BULK
    """Records to change at most; the answer says where to go on."""
    cursor: Annotated[str, StringConstraints(max_length=MAX_CURSOR)] | None = None
    """`next_cursor` of the answer before."""

    def to_filter(self) -> Filter:
        """The filter as the ledger takes it."""
        return Filter(**self.filter.model_dump())


class ErrorHistoryView(BaseModel):
    """A change of a record's status."""

    model_config = ConfigDict(populate_by_name=True)

    at: Timestamp
    before: Status | None = Field(alias="from")
    to: Status
    actor: str
    note: str


class ErrorTryView(BaseModel):
    """A try of the operation."""

    number: int
    at: Timestamp
    outcome: Outcome
    error: str | None
    duration_ms: int


class ErrorView(BaseModel):
    """A failed operation: what failed, what has been tried, what happens next."""

    id: str
    type: ErrorType
    operation: str
    arguments: dict[str, Any]
    status: Status
    strategy: Strategy
    outcome: Outcome
    error: str
    customer: str | None
    subscription: str | None
    attempts: int
    max_attempts: int
    next_retry_at: Timestamp | None
    created_at: Timestamp
    context: dict[str, Any]
    history: list[ErrorHistoryView]
    tries: list[ErrorTryView]


class ErrorList(BaseModel):
    """A page of errors."""

    items: list[ErrorView]
    next_cursor: str | None


class ErrorsChanged(BaseModel):
    """What a bulk change did."""

    dry_run: bool
    matched: int
    changed: int
    skipped: list[dict[str, str]]
    next_cursor: str | None


class ReportGroupView(BaseModel):
    """The unresolved errors of a type."""

    type: ErrorType
    count: int
    oldest: Timestamp
    average_attempts: float
    by_status: dict[str, int]


class ReportView(BaseModel):
    """What is unresolved."""

    generated_at: Timestamp
    total: int
    groups: list[ReportGroupView]


def error_view(record: ErrorRecord) -> dict[str, Any]:
    """A record as the API and the export show it."""
    return {
        "id": record.id,
        "type": record.type.value,
        "operation": record.operation,
        "arguments": dict(record.arguments),
        "status": record.status.value,
        "strategy": record.policy.strategy.value,
        "outcome": record.outcome.value if record.outcome else None,
        "error": record.error,
        "customer": record.customer,
        "subscription": record.subscription,
        "attempts": record.attempts,
        "max_attempts": record.policy.max_attempts,
        "next_retry_at": format_time(record.next_retry_at) if record.next_retry_at else None,
        "created_at": format_time(record.created_at),
        "context": dict(record.context),
        "history": [
            {
                "at": format_time(entry.at),
                "from": entry.from_status.value if entry.from_status else None,
                "to": entry.to_status.value,
                "actor": entry.actor,
                "note": entry.note,
            }
            for entry in record.history
        ],
        "tries": [
            {
                "number": attempt.number,
                "at": format_time(attempt.at),
                "outcome": attempt.outcome.value,
                "error": attempt.error,
                "duration_ms": attempt.duration_ms,
            }
            for attempt in record.tries
        ],
    }


def selected_view(selected: Selected, *, dry_run: bool, next_cursor: str | None) -> dict[str, Any]:
    """What a bulk change did, as the API shows it."""
    return {
        "dry_run": dry_run,
        "matched": selected.matched,
        "changed": selected.changed,
        "skipped": [{"id": record_id, "detail": detail} for record_id, detail in selected.skipped.items()],
        "next_cursor": next_cursor,
    }

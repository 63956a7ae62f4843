"""An operation that is written down before it is tried."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest

from tests.unit.fakes_recovery import NOW, Clock, MemoryRecovery, Retries
from tollgate.kernel.errors import NotFound
from tollgate.recovery.ledger import Filter
from tollgate.recovery.model import ErrorRecord, ErrorType, Outcome, Status
from tollgate.recovery.operations import Operation, OperationFailed
from tollgate.recovery.processor import Processor
from tollgate.recovery.report import report
from tollgate.recovery.service import intervene, perform

LEFT = timedelta(seconds=20)


class Killed(BaseException):
    """The process ends."""


@pytest.fixture
def store() -> MemoryRecovery:
    """An empty ledger."""
    return MemoryRecovery()


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def refund(store: MemoryRecovery, clock: Clock) -> Callable[..., ErrorRecord | None]:
    """Perform a refund."""

    def refund(run: Callable[[Mapping[str, Any], str], object], **over: Any) -> ErrorRecord | None:
        operation = Operation("refund", run, happened=lambda _arguments, _key: False, **over)
        return perform(
            store,
            operation,
            {"payment": "pay_1"},
            id="refund_1",
            error_type=ErrorType.REFUND_ERROR,
            customer="acme",
            subscription=None,
            context={"request_id": "r1"},
            clock=clock,
            time_left=lambda: LEFT,
            retries=Retries(),
            randbelow=lambda _: 0,
        )

    return refund


def raises(error: BaseException) -> Callable[[Mapping[str, Any], str], object]:
    """An operation that fails."""

    def run(_arguments: Mapping[str, Any], _key: str) -> None:
        raise error

    return run


def test_it_is_written_down_before_it_is_tried_and_forgotten_when_it_succeeds(
    store: MemoryRecovery, refund: Callable[..., ErrorRecord | None]
) -> None:
    """While it is tried it is no error: no list, no report and nobody's hands see it."""
    seen: list[ErrorRecord] = []

    def run(_arguments: Mapping[str, Any], key: str) -> None:
        seen.append(store.records[key])
        assert store.find(Filter(), after=None, limit=10) == ([], None)
        assert report(store, lambda: NOW).total == 0
        with pytest.raises(NotFound):
            intervene(store, key, Status.RESOLVED, actor="ann", note="so", clock=lambda: NOW)

    assert refund(run) is None
    [begun] = seen
    assert (begun.status, begun.outcome, begun.due_at) == (
        Status.RETRYING,
        None,
        NOW + LEFT + timedelta(minutes=1),
    )
    assert store.records == {}


def test_a_failure_becomes_an_error_that_says_what_happened(
    store: MemoryRecovery, refund: Callable[..., ErrorRecord | None]
) -> None:
    """With the class and message of the exception beside the context; all its tries are still to come."""
    record = refund(raises(OperationFailed("the provider says no")))
    assert record == store.get("refund_1")
    assert record is not None
    assert (record.status, record.type, record.attempts) == (Status.PENDING, ErrorType.REFUND_ERROR, 0)
    assert record.context["request_id"] == "r1"
    assert record.context["exception"] == {
        "class": "tollgate.recovery.operations.OperationFailed",
        "message": "the provider says no",
    }
    assert [(entry.from_status, entry.to_status, entry.note) for entry in record.history] == [
        (None, Status.RETRYING, "begun"),
        (Status.RETRYING, Status.PENDING, "failed"),
    ]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OperationFailed("stolen card", final=True), ErrorType.REFUND_ERROR),
        (OperationFailed("wrong", type=ErrorType.VALIDATION_ERROR), ErrorType.VALIDATION_ERROR),
    ],
)
def test_a_failure_that_no_try_will_change_is_a_persons(
    refund: Callable[..., ErrorRecord | None], error: Exception, kind: ErrorType
) -> None:
    """And whoever depends on it is told."""
    told: list[str] = []
    record = refund(raises(error), exhausted=lambda _arguments, key: told.append(key))
    assert record is not None
    assert (record.status, record.type, told) == (Status.MANUAL, kind, ["refund_1"])


def test_a_time_out_is_an_unknown_outcome(refund: Callable[..., ErrorRecord | None]) -> None:
    """It is asked for before it is tried again."""
    record = refund(raises(TimeoutError()))
    assert record is not None
    assert record.outcome is Outcome.UNKNOWN


def test_who_is_killed_while_it_runs_leaves_a_record_that_the_processor_takes_over(
    store: MemoryRecovery, clock: Clock, refund: Callable[..., ErrorRecord | None]
) -> None:
    """When the lease has ended; the operation is asked first."""
    with pytest.raises(Killed):
        refund(raises(Killed()))
    ran: list[str] = []
    asked: list[str] = []

    def happened(_arguments: Mapping[str, Any], key: str) -> bool:
        asked.append(key)
        return False

    operation = Operation("refund", lambda _arguments, key: ran.append(key), happened=happened)
    worker = Processor(store, {"refund": operation}, clock, lambda: LEFT, Retries(), reserve=LEFT)
    assert worker.sweep().claimed == 0
    clock.forward(LEFT + timedelta(minutes=1))
    assert worker.sweep().resolved == 1
    assert (asked, ran) == (["refund_1"], ["refund_1"])
    record = store.records["refund_1"]
    assert [one.outcome for one in record.tries] == [Outcome.UNKNOWN, Outcome.SUCCEEDED]


def test_what_is_being_performed_or_has_failed_is_not_run_again(
    store: MemoryRecovery, refund: Callable[..., ErrorRecord | None]
) -> None:
    """The ledger has it; whoever asks again gets its record."""

    def run(_arguments: Mapping[str, Any], _key: str) -> None:
        inner = refund(raises(AssertionError("twice")))
        assert inner == store.records["refund_1"]
        raise OperationFailed("no")

    failed = refund(run)
    assert refund(raises(AssertionError("twice"))) == failed


def test_arguments_too_large_to_keep_are_refused_before_anything_is_done(store: MemoryRecovery, clock: Clock) -> None:
    """What cannot be written down must not be begun."""
    with pytest.raises(ValueError, match="100000 characters"):
        perform(
            store,
            Operation("refund", raises(AssertionError())),
            {"body": "x" * 100_000},
            id="refund_1",
            error_type=ErrorType.REFUND_ERROR,
            customer=None,
            subscription=None,
            context={},
            clock=clock,
            time_left=lambda: LEFT,
        )
    assert store.records == {}

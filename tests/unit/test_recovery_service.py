"""Writing failures down, trying them again, reporting what is unresolved; over a ledger in memory."""

import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest

from tests.unit.fakes_recovery import NOW, Clock, MemoryRecovery, Retries
from tollgate.kernel.errors import Conflict, InvalidInput
from tollgate.recovery.model import ErrorRecord, ErrorType, Lease, Outcome, Status, claim
from tollgate.recovery.operations import Operation, OperationFailed, OutcomeUnknown
from tollgate.recovery.policies import DEFAULTS
from tollgate.recovery.processor import Processor, Run
from tollgate.recovery.report import report, report_text, report_to_dict
from tollgate.recovery.service import record_error, resolve

DAY = timedelta(days=1)
Call = Callable[[Mapping[str, Any], str], object]


@pytest.fixture
def store() -> MemoryRecovery:
    """An empty ledger."""
    return MemoryRecovery()


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


def write(store: MemoryRecovery, clock: Clock, record_id: str | None = "err_1", **over: Any) -> ErrorRecord:
    """Record a failed payment."""
    given: dict[str, Any] = {
        "error_type": ErrorType.PAYMENT_FAILED,
        "operation": "collect",
        "arguments": {"invoice": "inv_1"},
        "customer": "acme",
        "subscription": "sub_1",
        "context": {"provider": "wallet"},
        "error": ValueError("declined"),
    }
    return record_error(store, clock=clock, id=record_id, randbelow=half, **(given | over))


def half(below: int) -> int:
    """Chance in the middle."""
    return below // 2


def processor(store: MemoryRecovery, clock: Clock, *operations: Operation, **over: Any) -> Processor:
    """A processor with time enough."""
    given: dict[str, Any] = {"time_left": lambda: timedelta(minutes=4), "retries": Retries(), "randbelow": half}
    return Processor(store, {operation.name: operation for operation in operations}, clock, **(given | over))


def run_sweep(store: MemoryRecovery, clock: Clock, *operations: Operation) -> Run:
    """Sweep a day later."""
    clock.forward(DAY)
    return processor(store, clock, *operations).sweep()


def succeeds(arguments: Mapping[str, Any], key: str) -> None:
    """An operation that works this time."""


def fails(error: Exception) -> Call:
    """An operation that fails."""

    def run(arguments: Mapping[str, Any], key: str) -> None:  # noqa: ARG001  an operation takes both
        raise error

    return run


def must_not_run(arguments: Mapping[str, Any], key: str) -> None:
    """An operation that nobody may call."""
    raise AssertionError((arguments, key))


def test_a_failure_is_written_down_with_its_next_try(store: MemoryRecovery, clock: Clock) -> None:
    """The record says what failed, for whom, and when it is tried again."""
    record = write(store, clock)
    assert record == store.get("err_1")
    assert (record.status, record.outcome, record.error) == (
        Status.PENDING,
        Outcome.FAILED,
        "ValueError: declined",
    )
    assert record.next_retry_at == NOW + timedelta(seconds=450)
    assert [(entry.from_status, entry.to_status) for entry in record.history] == [(None, Status.PENDING)]


def test_a_failure_that_a_retry_cannot_mend_waits_for_a_person(store: MemoryRecovery, clock: Clock) -> None:
    """Bad input fails again in the same way."""
    record = write(store, clock, error_type=ErrorType.VALIDATION_ERROR)
    assert (record.status, record.next_retry_at) == (Status.MANUAL, None)


def test_the_same_id_again_changes_nothing(store: MemoryRecovery, clock: Clock) -> None:
    """A caller may be retried itself."""
    first = write(store, clock)
    clock.forward(DAY)
    assert write(store, clock, error="another") == first


def test_without_an_id_each_failure_is_its_own_record(store: MemoryRecovery, clock: Clock) -> None:
    """Nothing is folded together."""
    first, second = (write(store, clock, record_id=None) for _ in range(2))
    assert first.id != second.id


def test_a_secret_in_the_context_is_not_kept(store: MemoryRecovery, clock: Clock) -> None:
    """The ledger is read by people."""
    record = write(store, clock, context={"api_key": "hunter2"}, error="token=hunter2")
    assert "hunter2" not in str(record)


def test_arguments_too_large_to_keep_end_with_a_person(store: MemoryRecovery, clock: Clock) -> None:
    """The failure is written down all the same, and the note says why it is not tried again."""
    record = write(store, clock, arguments={"body": "x" * 200_000})
    assert (record.status, record.arguments) == (Status.MANUAL, {})
    assert "too large" in record.history[0].note


def test_a_try_that_succeeds_resolves_the_record(store: MemoryRecovery, clock: Clock) -> None:
    """The operation gets its arguments, and its try tells how long it took."""
    write(store, clock)
    calls: list[tuple[Mapping[str, Any], str]] = []

    def collect(arguments: Mapping[str, Any], key: str) -> None:
        calls.append((arguments, key))
        clock.forward(timedelta(milliseconds=40))

    operation = Operation("collect", collect, idempotency_key=lambda arguments: f"pay-{arguments['invoice']}")
    result = run_sweep(store, clock, operation)
    record = store.records["err_1"]
    assert calls == [({"invoice": "inv_1"}, "pay-inv_1")]
    assert (record.status, record.attempts, result.resolved) == (Status.RESOLVED, 1, 1)
    assert [(each.outcome, each.duration_ms) for each in record.tries] == [(Outcome.SUCCEEDED, 40)]
    assert [entry.to_status for entry in record.history] == [
        Status.PENDING,
        Status.RETRYING,
        Status.RESOLVED,
    ]


def test_a_try_that_fails_is_rescheduled_by_the_policy(store: MemoryRecovery, clock: Clock) -> None:
    """After the first try the ceiling of the backoff has doubled once."""
    write(store, clock)
    result = run_sweep(store, clock, Operation("collect", fails(ValueError("declined again"))))
    record = store.records["err_1"]
    assert (record.status, record.attempts, record.error) == (
        Status.PENDING,
        1,
        "ValueError: declined again",
    )
    assert record.next_retry_at == clock() + timedelta(seconds=900)
    assert result.rescheduled == 1


def test_after_the_last_try_a_person_decides(store: MemoryRecovery, clock: Clock) -> None:
    """Every try is kept, and none follows."""
    record = write(store, clock)
    operation = Operation("collect", fails(ValueError("declined")))
    results = [run_sweep(store, clock, operation) for _ in range(record.policy.max_attempts + 1)]
    record = store.records["err_1"]
    assert (record.status, record.attempts, len(record.tries)) == (Status.MANUAL, 6, 6)
    assert [result.claimed for result in results] == [1] * 6 + [0]
    assert results[5].escalated == 1


def test_a_record_that_is_not_due_is_left_alone(store: MemoryRecovery, clock: Clock) -> None:
    """Its time has not come."""
    write(store, clock)
    result = processor(store, clock).sweep()
    assert (result.claimed, store.records["err_1"].revision) == (0, 1)


def test_an_operation_nobody_registered_goes_to_a_person_with_no_try_spent(store: MemoryRecovery, clock: Clock) -> None:
    """Neither dropped nor burnt: the note says what is missing."""
    write(store, clock)
    result = run_sweep(store, clock)
    record = store.records["err_1"]
    assert (record.status, record.attempts, result.escalated) == (Status.MANUAL, 0, 1)
    assert "collect is not registered" in record.history[-1].note


@pytest.mark.parametrize("error", [OutcomeUnknown("read timed out"), TimeoutError()])
def test_an_unknown_outcome_is_asked_about_before_anything_is_tried(
    store: MemoryRecovery, clock: Clock, error: Exception
) -> None:
    """A charge that went through after all is not made again."""
    write(store, clock, error=error)
    run_sweep(store, clock, Operation("collect", must_not_run, happened=lambda _arguments, _key: True))
    record = store.records["err_1"]
    assert (record.status, record.attempts) == (Status.RESOLVED, 0)
    assert "turned out to have happened" in record.history[-1].note


def test_what_did_not_happen_is_tried_again(store: MemoryRecovery, clock: Clock) -> None:
    """The provider knows nothing of it, so it is safe."""
    write(store, clock, error=TimeoutError())
    run_sweep(store, clock, Operation("collect", succeeds, happened=lambda _arguments, _key: False))
    assert store.records["err_1"].tries[0].outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize("answer", [None, ConnectionError("provider is down")])
def test_while_it_cannot_be_known_nothing_is_tried(
    store: MemoryRecovery, clock: Clock, answer: Exception | None
) -> None:
    """The outcome stays unknown, and is asked about again later."""

    def happened(_arguments: Mapping[str, Any], _key: str) -> None:
        if answer:
            raise answer

    write(store, clock, error=TimeoutError())
    for _ in range(2):
        run_sweep(store, clock, Operation("collect", must_not_run, happened=happened))
    record = store.records["err_1"]
    assert (record.status, record.outcome, record.attempts) == (Status.PENDING, Outcome.UNKNOWN, 2)


def test_an_unknown_outcome_that_cannot_be_asked_about_is_not_repeated(store: MemoryRecovery, clock: Clock) -> None:
    """A second call could charge twice: a person decides."""
    write(store, clock, error=TimeoutError())
    run_sweep(store, clock, Operation("collect", must_not_run))
    assert store.records["err_1"].status is Status.MANUAL


def test_an_unknown_outcome_is_repeated_where_the_receiver_knows_it_again(store: MemoryRecovery, clock: Clock) -> None:
    """As a webhook's does, by the event's id."""
    write(store, clock, error=TimeoutError())
    run_sweep(store, clock, Operation("collect", succeeds, repeatable=True))
    assert store.records["err_1"].status is Status.RESOLVED


def test_a_run_that_died_is_taken_over(store: MemoryRecovery, clock: Clock) -> None:
    """Its try counts, with an unknown outcome."""
    crash(store, clock)
    run_sweep(store, clock, Operation("collect", succeeds, happened=lambda _arguments, _key: False))
    record = store.records["err_1"]
    assert [each.outcome for each in record.tries] == [Outcome.UNKNOWN, Outcome.SUCCEEDED]
    assert record.status is Status.RESOLVED


def test_a_record_that_kills_every_run_ends_with_a_person(store: MemoryRecovery, clock: Clock) -> None:
    """After its last try nobody touches it again."""
    record = crash(store, clock)
    for _ in range(record.policy.max_attempts - 1):
        take_over(store, clock)
    run_sweep(store, clock, Operation("collect", must_not_run, happened=lambda _arguments, _key: False))
    record = store.records["err_1"]
    assert (record.status, record.attempts) == (Status.MANUAL, record.policy.max_attempts)


def crash(store: MemoryRecovery, clock: Clock) -> ErrorRecord:
    """A record whose run died after it was claimed."""
    record = write(store, clock)
    take_over(store, clock)
    return record


def take_over(store: MemoryRecovery, clock: Clock) -> None:
    """A run claims the record, and dies."""
    clock.forward(DAY)
    before = store.records["err_1"]
    after = claim(before, lease=Lease("run_dead", clock(), clock() + timedelta(minutes=5)))
    assert after is not None
    store.change(before, after)


def test_a_failure_on_one_record_never_stops_the_others(store: MemoryRecovery, clock: Clock) -> None:
    """A record that cannot be read is reported as a fault, and stays due."""

    class OneUnreadable(MemoryRecovery):
        def get(self, record_id: str) -> ErrorRecord | None:
            if record_id == "err_1":
                raise KeyError("status")
            return super().get(record_id)

    broken = OneUnreadable()
    for record_id in ("err_1", "err_2", "err_3"):
        broken.put(write(store, clock, record_id))
    result = run_sweep(broken, clock, Operation("collect", succeeds))
    assert (result.resolved, len(result.faults)) == (2, 1)
    assert result.faults[0].startswith("err_1: KeyError")
    assert result.counts()["faults"] == 1


def test_a_record_that_another_run_claims_first_is_left_to_it(store: MemoryRecovery, clock: Clock) -> None:
    """Losing the race is no fault."""

    class AnotherIsFirst(MemoryRecovery):
        def get(self, record_id: str) -> ErrorRecord | None:
            seen = super().get(record_id)
            take_over(self, clock)
            return seen

    raced = AnotherIsFirst()
    raced.put(write(store, clock))
    result = run_sweep(raced, clock, Operation("collect", must_not_run))
    assert (result.claimed, result.lost, result.faults) == (0, 1, [])


def test_a_record_is_tried_once_in_a_run_whatever_the_index_shows(store: MemoryRecovery, clock: Clock) -> None:
    """An immediate retry that fails waits for the next run."""

    class Repeating(MemoryRecovery):
        def due(self, now: Any) -> Any:
            yield from super().due(now)
            yield from super().due(now)

    repeating = Repeating()
    repeating.put(write(store, clock, error_type=ErrorType.STATE_TRANSITION_ERROR))
    run_sweep(repeating, clock, Operation("collect", fails(ValueError())))
    assert repeating.records["err_1"].attempts == 1


def test_a_sweep_stops_before_its_time_runs_out(store: MemoryRecovery, clock: Clock) -> None:
    """It begins nothing that it might not finish; the rest is for the next run."""
    for number in range(3):
        write(store, clock, f"err_{number}")
    clock.forward(DAY)
    end = clock() + timedelta(seconds=90)

    def collect(_arguments: Mapping[str, Any], _key: str) -> None:
        clock.forward(timedelta(seconds=20))

    retries = Retries()
    worker = processor(store, clock, Operation("collect", collect), time_left=lambda: end - clock(), retries=retries)
    result = worker.sweep()
    assert (result.resolved, result.stopped_early, retries.handed_on) == (2, True, 1)
    assert store.records["err_2"].revision == 1


def test_a_lease_outlives_its_run(store: MemoryRecovery, clock: Clock) -> None:
    """Nobody takes a record over from a run that may still be alive."""
    write(store, clock)
    leases: list[Lease | None] = []

    def collect(_arguments: Mapping[str, Any], _key: str) -> None:
        leases.append(store.records["err_1"].lease)

    run_sweep(store, clock, Operation("collect", collect))
    assert [lease.until for lease in leases if lease] == [clock() + timedelta(minutes=5)]


def test_the_report_counts_what_is_unresolved(store: MemoryRecovery, clock: Clock) -> None:
    """Count, oldest, average attempts and statuses for each type, the largest group first."""
    write(store, clock, "err_1", error_type=ErrorType.VALIDATION_ERROR)
    write(store, clock, "err_2", operation="refund")
    write(store, clock, "err_3")
    write(store, clock, "err_4", operation="settled")
    settled = Operation("settled", succeeds)
    run_sweep(
        store, clock, Operation("collect", fails(ValueError())), Operation("refund", fails(ValueError())), settled
    )
    clock.forward(timedelta(hours=1))
    write(store, clock, "err_5")
    assert report_to_dict(report(store, clock)) == {
        "generated_at": "2026-02-01T10:30:00Z",
        "total": 4,
        "groups": [
            {
                "type": "payment_failed",
                "count": 3,
                "oldest": "2026-01-31T09:30:00Z",
                "average_attempts": 0.67,
                "by_status": {"pending": 3, "retrying": 0, "manual": 0},
            },
            {
                "type": "validation_error",
                "count": 1,
                "oldest": "2026-01-31T09:30:00Z",
                "average_attempts": 0.0,
                "by_status": {"pending": 0, "retrying": 0, "manual": 1},
            },
        ],
    }


def test_the_text_of_the_report_is_read_at_a_glance(store: MemoryRecovery, clock: Clock) -> None:
    """The total, a line for each type, and what to do next."""
    write(store, clock, "err_1", error_type=ErrorType.VALIDATION_ERROR)
    write(store, clock, "err_2")
    clock.forward(timedelta(hours=3))
    assert report_text(report(store, clock)) == (
        "Failed billing operations that are unresolved: 2\n"
        "\n"
        "  payment_failed             1   1 pending; oldest 3 hours, 0 tries each\n"
        "  validation_error           1   1 manual; oldest 3 hours, 0 tries each\n"
        "\n"
        "What to do next\n"
        "- Waiting for a person: 1. GET /v1/errors?status=manual lists them: what failed, with what, and\n"
        "  what was tried. POST /v1/errors/{id}/retry, /resolve or /discard says what becomes of each.\n"
        "- Tried again automatically: 1. Nothing to do."
    )


def test_a_report_of_nothing_says_so(store: MemoryRecovery, clock: Clock) -> None:
    """The usual case."""
    nothing = report(store, clock)
    assert json.loads(json.dumps(report_to_dict(nothing))) == {
        "generated_at": "2026-01-31T09:30:00Z",
        "total": 0,
        "groups": [],
    }
    assert "nothing to do" in report_text(nothing)


def test_what_was_put_right_in_another_way_is_resolved_once(store: MemoryRecovery, clock: Clock) -> None:
    """With a note that says how; what is not there, or is final, stays as it is."""
    write(store, clock)
    assert resolve(store, "err_1", actor="system", note="the message was counted", clock=clock)
    record = store.records["err_1"]
    assert (record.status, record.history[-1].note) == (Status.RESOLVED, "the message was counted")
    assert not resolve(store, "err_1", actor="system", note="again", clock=clock)
    assert not resolve(store, "err_2", actor="system", note="never was", clock=clock)
    assert store.records == {"err_1": record}


def test_what_a_run_is_trying_is_not_resolved_behind_its_back(store: MemoryRecovery, clock: Clock) -> None:
    """Whoever resolves may come again."""
    record = write(store, clock)
    clock.forward(DAY)
    claimed = claim(record, lease=Lease("run_1", clock(), clock() + timedelta(minutes=5)))
    assert claimed is not None
    store.change(record, claimed)
    with pytest.raises(Conflict):
        resolve(store, "err_1", actor="system", note="the message was counted", clock=clock)


def test_a_record_may_have_another_policy_than_its_type(store: MemoryRecovery, clock: Clock) -> None:
    """A system error that only a person can help with is not tried again."""
    record = write(store, clock, error_type=ErrorType.SYSTEM_ERROR, policy=DEFAULTS[ErrorType.VALIDATION_ERROR])
    assert (record.type, record.status, record.next_retry_at) == (ErrorType.SYSTEM_ERROR, Status.MANUAL, None)


# What an operation says of its failure


def test_a_failure_of_another_kind_changes_the_type_and_its_policy(store: MemoryRecovery, clock: Clock) -> None:
    """A provider that was down, and then declines for funds: from now on it is tried daily."""
    write(store, clock)
    error = OperationFailed("no money", type=ErrorType.INSUFFICIENT_FUNDS)
    run_sweep(store, clock, Operation("collect", fails(error)))
    record = store.records["err_1"]
    assert (record.type, record.policy) == (
        ErrorType.INSUFFICIENT_FUNDS,
        DEFAULTS[ErrorType.INSUFFICIENT_FUNDS],
    )
    assert (record.attempts, record.next_retry_at) == (1, clock() + DAY)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OperationFailed("stolen card", final=True), ErrorType.PAYMENT_FAILED),
        (InvalidInput([]), ErrorType.VALIDATION_ERROR),
    ],
)
def test_what_no_try_will_change_is_a_persons_at_once(
    store: MemoryRecovery, clock: Clock, error: Exception, kind: ErrorType
) -> None:
    """A hard decline, and input that is wrong; whoever depends on it is told."""
    write(store, clock)
    told: list[str] = []
    operation = Operation("collect", fails(error), exhausted=lambda arguments, _key: told.append(arguments["invoice"]))
    run_sweep(store, clock, operation)
    record = store.records["err_1"]
    assert (record.status, record.type, record.attempts, told) == (Status.MANUAL, kind, 1, ["inv_1"])


def test_who_depends_on_it_is_told_before_the_record_is_a_persons(store: MemoryRecovery, clock: Clock) -> None:
    """A run that dies between the two is taken over, and tells again; it is never forgotten."""
    write(store, clock, error_type=ErrorType.STATE_TRANSITION_ERROR)
    statuses: list[Status] = []

    def exhausted(_arguments: Mapping[str, Any], _key: str) -> None:
        statuses.append(store.records["err_1"].status)
        if len(statuses) == 1:
            raise ConnectionError("the subscription cannot be reached")

    operation = Operation("collect", fails(ValueError()), repeatable=True, exhausted=exhausted)
    results = [run_sweep(store, clock, operation) for _ in range(7)]
    assert statuses == [Status.RETRYING] * 2
    assert [len(result.faults) for result in results] == [0, 0, 0, 0, 1, 0, 0]
    assert store.records["err_1"].status is Status.MANUAL


# At once


def test_an_immediate_failure_is_queued_when_it_is_written_down(store: MemoryRecovery, clock: Clock) -> None:
    """What waits for longer than a sweep is left to one, and so is every other strategy."""
    retries = Retries()
    write(store, clock, "err_1", error_type=ErrorType.REFUND_ERROR, retries=retries)
    write(store, clock, "err_2", error_type=ErrorType.PAYMENT_FAILED, retries=retries)
    write(store, clock, "err_1", error_type=ErrorType.REFUND_ERROR, retries=retries)
    assert retries.announced == [("err_1", timedelta(0))]


def test_an_immediate_failure_that_fails_again_is_queued_for_its_time(store: MemoryRecovery, clock: Clock) -> None:
    """15 seconds in the middle of 30; once it is more than 5 minutes, the schedule is soon enough."""
    write(store, clock, error_type=ErrorType.REFUND_ERROR)
    retries = Retries()
    worker = processor(store, clock, Operation("collect", fails(ValueError())), retries=retries)
    delays = []
    for _ in range(7):
        worker.take(["err_1"])
        due = store.records["err_1"].next_retry_at
        assert due is not None
        delays.append((due - clock()).total_seconds())
        clock.now = due
    assert delays == [15, 30, 60, 120, 240, 480, 960]
    assert [delay.total_seconds() for _, delay in retries.announced] == [15, 30, 60, 120, 240]


def test_a_message_that_comes_twice_or_too_early_tries_nothing(store: MemoryRecovery, clock: Clock) -> None:
    """The record says when it is due."""
    write(store, clock)
    worker = processor(store, clock, Operation("collect", must_not_run))
    result = worker.take(["err_1", "err_1", "err_2"])
    assert (result.claimed, result.lost) == (0, 2)

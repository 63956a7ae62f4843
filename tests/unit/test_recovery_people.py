"""What people do about failed operations: retry, resolve, discard, escalate, one by one or many."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.unit.fakes_recovery import Clock, MemoryRecovery, Retries
from tollgate.kernel.errors import Conflict, InvalidInput, NotFound, TollgateError, Unavailable
from tollgate.recovery.ledger import Filter
from tollgate.recovery.model import ErrorRecord, ErrorType, Lease, Outcome, Status, claim
from tollgate.recovery.operations import Operation
from tollgate.recovery.processor import Processor
from tollgate.recovery.service import change_all, intervene, record_error, retry
from tollgate.recovery.strategies import Strategy

MINUTES = timedelta(minutes=5)


@pytest.fixture
def store() -> MemoryRecovery:
    """An empty ledger."""
    return MemoryRecovery()


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def write(store: MemoryRecovery, clock: Clock) -> Callable[..., ErrorRecord]:
    """Records a failed payment, each a second later than the one before."""

    def write(record_id: str = "err_1", **over: Any) -> ErrorRecord:
        clock.forward(timedelta(seconds=1))
        given: dict[str, Any] = {
            "error_type": ErrorType.PAYMENT_FAILED,
            "operation": "collect",
            "arguments": {"invoice": "inv_1", "card": "c1"},
            "customer": "acme",
            "subscription": "sub_1",
            "context": {},
            "error": ValueError("declined"),
        }
        return record_error(store, clock=clock, id=record_id, **(given | over))

    return write


def lease(store: MemoryRecovery, clock: Clock, record_id: str = "err_1") -> None:
    """Have a run work on a record."""
    record = store.records[record_id]
    clock.now = max(clock.now, record.due_at or clock.now)
    leased = claim(record, lease=Lease("run_1", clock(), clock() + MINUTES))
    assert leased is not None
    store.change(record, leased)


def again(store: MemoryRecovery, clock: Clock, **over: Any) -> ErrorRecord:
    """Retry a record by hand."""
    given: dict[str, Any] = {"actor": "ann (key_1)", "note": "paid by now", "retries": None}
    return retry(store, "err_1", clock=clock, **(given | over))


@pytest.mark.parametrize("to", [Status.RESOLVED, Status.DISCARDED, Status.MANUAL])
def test_a_person_decides_and_the_history_says_who_and_why(
    store: MemoryRecovery, clock: Clock, write: Callable[..., ErrorRecord], to: Status
) -> None:
    """A record that waits may be resolved, discarded or taken into somebody's hands."""
    write()
    record = intervene(store, "err_1", to, actor="ann (key_1)", note="paid in cash", clock=clock)
    assert record == store.get("err_1")
    entry = record.history[-1]
    assert (entry.from_status, entry.to_status, entry.actor) == (Status.PENDING, to, "ann (key_1)")
    assert (entry.at, entry.note) == (clock(), "paid in cash")
    assert record.due_at is None


@pytest.mark.parametrize(
    ("status", "to", "possible"),
    [
        (Status.RESOLVED, Status.DISCARDED, "none, it is final"),
        (Status.DISCARDED, Status.RESOLVED, "none, it is final"),
        (Status.MANUAL, Status.MANUAL, "discarded, pending, resolved"),
    ],
)
def test_an_impossible_change_says_which_are_possible(
    store: MemoryRecovery,
    clock: Clock,
    write: Callable[..., ErrorRecord],
    status: Status,
    to: Status,
    possible: str,
) -> None:
    """And changes nothing."""
    write()
    before = intervene(store, "err_1", status, actor="ann", note="so", clock=clock)
    with pytest.raises(Conflict, match=f"possible: {possible}"):
        intervene(store, "err_1", to, actor="ben", note="no", clock=clock)
    assert store.get("err_1") == before


def test_nobody_takes_a_record_from_a_run_that_tries_it(
    store: MemoryRecovery, clock: Clock, write: Callable[..., ErrorRecord]
) -> None:
    """What the run does may succeed."""
    write()
    lease(store, clock)
    with pytest.raises(Conflict, match="a run is trying"):
        intervene(store, "err_1", Status.MANUAL, actor="ann", note="mine", clock=clock)
    with pytest.raises(Conflict, match="a run is trying"):
        again(store, clock)
    assert store.records["err_1"].lease is not None


def test_what_is_not_there_is_not_found(store: MemoryRecovery, clock: Clock) -> None:
    """Neither to retry nor to resolve."""
    with pytest.raises(NotFound):
        again(store, clock)
    with pytest.raises(NotFound):
        intervene(store, "err_1", Status.RESOLVED, actor="ann", note="so", clock=clock)


def test_a_retry_by_hand_is_due_now_and_queued(
    store: MemoryRecovery, clock: Clock, write: Callable[..., ErrorRecord]
) -> None:
    """Whatever the strategy; one that still waits keeps its number of tries."""
    retries = Retries()
    before = write(error_type=ErrorType.INSUFFICIENT_FUNDS)
    record = again(store, clock, retries=retries)
    assert (record.status, record.next_retry_at, record.policy) == (Status.PENDING, clock(), before.policy)
    assert retries.announced == [("err_1", timedelta(0))]
    assert record.history[-1].note == "paid by now"


def test_a_retry_by_hand_of_what_is_exhausted_is_one_try_and_then_a_persons_again(
    store: MemoryRecovery, clock: Clock, write: Callable[..., ErrorRecord]
) -> None:
    """As often as a person says so."""
    write(error_type=ErrorType.VALIDATION_ERROR)
    calls: list[str] = []

    def collect(_arguments: Any, key: str) -> None:
        calls.append(key)
        raise ValueError("still wrong")

    worker = Processor(store, {"collect": Operation("collect", collect)}, clock, lambda: MINUTES, Retries())
    for attempts in (1, 2):
        again(store, clock)
        worker.sweep()
        worker.sweep()
        record = store.records["err_1"]
        assert (record.status, record.attempts, record.policy.max_attempts) == (Status.MANUAL, attempts, attempts)
    assert calls == ["err_1", "err_1"]


def test_arguments_change_where_the_operation_allows_it_and_the_history_keeps_the_old_ones(
    store: MemoryRecovery, clock: Clock, write: Callable[..., ErrorRecord]
) -> None:
    """A card that was replaced."""
    write()
    record = again(store, clock, arguments={"card": "c2"}, changeable={"card"})
    assert record.arguments == {"invoice": "inv_1", "card": "c2"}
    assert record.history[-1].note == 'paid by now; arguments changed: card (was "c1")'


def test_arguments_that_must_not_change_are_refused_by_name(
    store: MemoryRecovery, clock: Clock, write: Callable[..., ErrorRecord]
) -> None:
    """With what may change, and nothing is changed."""
    before = write()
    with pytest.raises(InvalidInput) as refused:
        again(store, clock, arguments={"invoice": "inv_2", "card": "c2"}, changeable={"card"})
    [fault] = refused.value.errors
    assert (fault.pointer, fault.detail) == ("/arguments/invoice", "cannot be changed; can: card")
    with pytest.raises(InvalidInput, match="100000 characters"):
        again(store, clock, arguments={"card": "x" * 100_000}, changeable={"card"})
    assert store.get("err_1") == before


def test_arguments_do_not_change_while_it_may_have_happened(
    store: MemoryRecovery, clock: Clock, write: Callable[..., ErrorRecord]
) -> None:
    """Or both cards would be charged."""
    assert write(error=TimeoutError()).outcome is Outcome.UNKNOWN
    with pytest.raises(Conflict, match="may have happened"):
        again(store, clock, arguments={"card": "c2"}, changeable={"card"})
    assert again(store, clock).status is Status.PENDING


# Many at once


@pytest.fixture
def many(store: MemoryRecovery, clock: Clock, write: Callable[..., ErrorRecord]) -> MemoryRecovery:
    """Four payments and two wrong inputs; of the payments one is resolved and one is being tried."""
    for number in range(4):
        write(f"pay_{number}", customer="ada" if number % 2 else "ben")
    for number in range(2):
        write(f"bad_{number}", error_type=ErrorType.VALIDATION_ERROR)
    intervene(store, "pay_0", Status.RESOLVED, actor="ann", note="so", clock=clock)
    lease(store, clock, "pay_1")
    return store


def discard_all(store: MemoryRecovery, clock: Clock, wanted: Filter, **over: Any) -> Any:
    """Discard what a filter takes."""
    given: dict[str, Any] = {"dry_run": False, "after": None, "limit": 1_000, "time_left": lambda: True}

    def discard(record: ErrorRecord) -> None:
        intervene(store, record.id, Status.DISCARDED, actor="ann", note="so", clock=clock)

    return change_all(store, wanted, discard, Status.DISCARDED, **(given | over))


def test_a_bulk_change_takes_what_the_filter_says_and_can_be_changed(many: MemoryRecovery, clock: Clock) -> None:
    """What is final is not meant, and what a run is trying is skipped and named."""
    done = discard_all(many, clock, Filter(type=ErrorType.PAYMENT_FAILED))
    assert (done.matched, done.changed, list(done.skipped), done.next_cursor) == (2, 2, [], None)
    assert {name: record.status.value for name, record in many.records.items()} == {
        "pay_0": "resolved",
        "pay_1": "retrying",
        "pay_2": "discarded",
        "pay_3": "discarded",
        "bad_0": "manual",
        "bad_1": "manual",
    }


def test_a_dry_run_only_counts(many: MemoryRecovery, clock: Clock) -> None:
    """It says what would be."""
    before = dict(many.records)
    done = discard_all(many, clock, Filter(strategy=Strategy.MANUAL), dry_run=True)
    assert (done.matched, done.changed) == (2, 0)
    assert many.records == before


def test_a_bulk_change_goes_on_where_it_ended(many: MemoryRecovery, clock: Clock) -> None:
    """At its limit, or when its time is over; nothing is left out between two parts."""
    first = discard_all(many, clock, Filter(), limit=1)
    second = discard_all(many, clock, Filter(), after=first.next_cursor, limit=2)
    rest = discard_all(many, clock, Filter(), after=second.next_cursor, time_left=lambda: False)
    assert (first.changed, second.changed, rest.changed, rest.next_cursor) == (1, 2, 1, None)
    assert sum(record.status is Status.DISCARDED for record in many.records.values()) == 4


@pytest.mark.parametrize("kind", [Conflict, Unavailable])
def test_a_record_that_others_are_at_is_skipped_and_named(
    many: MemoryRecovery, clock: Clock, kind: type[TollgateError]
) -> None:
    """And the others are changed."""

    def change(record: ErrorRecord) -> None:
        if record.id == "bad_0":
            raise kind("another writer is at it")
        intervene(many, record.id, Status.DISCARDED, actor="ann", note="so", clock=clock)

    done = change_all(
        many,
        Filter(type=ErrorType.VALIDATION_ERROR),
        change,
        Status.DISCARDED,
        dry_run=False,
        after=None,
        limit=10,
        time_left=lambda: True,
    )
    assert (done.matched, done.changed, done.skipped) == (2, 1, {"bad_0": "another writer is at it"})


@pytest.mark.parametrize("way", ["retry", "discard"])
def test_a_bulk_change_leaves_what_has_changed_since_it_was_found(many: MemoryRecovery, clock: Clock, way: str) -> None:
    """It may not be meant any more: somebody else has just had it tried again."""

    def change(record: ErrorRecord) -> object:
        if record.id == "bad_0":
            retry(many, record.id, actor="ben", note="", clock=clock, retries=None)
        if way == "retry":
            return retry(many, record.id, actor="ann", note="", clock=clock, retries=None, revision=record.revision)
        return intervene(
            many, record.id, Status.DISCARDED, actor="ann", note="so", clock=clock, revision=record.revision
        )

    to = Status.PENDING if way == "retry" else Status.DISCARDED
    done = change_all(
        many, Filter(status=Status.MANUAL), change, to, dry_run=False, after=None, limit=10, time_left=lambda: True
    )
    assert (done.matched, done.changed, list(done.skipped)) == (2, 1, ["bad_0"])
    assert many.records["bad_0"].history[-1].actor == "ben"

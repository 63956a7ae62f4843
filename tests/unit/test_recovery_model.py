"""The state machine of error records, their leases and their delays."""

from dataclasses import replace
from datetime import timedelta
from itertools import product

import pytest

from tests.unit.fakes_recovery import NOW
from tollgate.kernel.errors import Conflict
from tollgate.recovery.model import (
    TRANSITIONS,
    UNRESOLVED,
    ErrorRecord,
    ErrorType,
    HistoryEntry,
    Lease,
    Outcome,
    Status,
    Try,
    claim,
    move,
    require_transition,
)
from tollgate.recovery.strategies import Policy, Strategy

BACKOFF = Policy(Strategy.EXPONENTIAL_BACKOFF, 5, base=60, cap=300)
SECOND = timedelta(seconds=1)
LEASE = Lease("run_1", NOW, NOW + 300 * SECOND)


def pending() -> ErrorRecord:
    """A record that is due now."""
    return ErrorRecord(
        id="err_1",
        type=ErrorType.PAYMENT_FAILED,
        operation="collect",
        arguments={"invoice": "inv_1"},
        customer="acme",
        subscription=None,
        context={},
        policy=BACKOFF,
        status=Status.PENDING,
        outcome=Outcome.FAILED,
        error="declined",
        created_at=NOW,
        next_retry_at=NOW,
        history=(HistoryEntry(NOW, None, Status.PENDING, "system", "failed"),),
    )


def claimed(lease: Lease = LEASE) -> ErrorRecord:
    """That record, leased by run_1."""
    record = claim(pending(), lease=lease)
    assert record is not None
    return record


@pytest.mark.parametrize(
    ("current", "to"),
    [(current, to) for current, to in product(Status, Status) if to not in TRANSITIONS[current]],
)
def test_a_transition_that_the_machine_does_not_have_is_refused(current: Status, to: Status) -> None:
    """What is not in the table is a conflict that names every possible status."""
    with pytest.raises(Conflict) as refused:
        require_transition(current, to)
    possible = refused.value.detail.partition("possible: ")[2]
    assert possible == (", ".join(sorted(TRANSITIONS[current])) or "none, it is final")


def test_every_unresolved_status_leads_to_resolved() -> None:
    """Nothing that is unresolved is a dead end, and nothing final can be left."""
    assert all(Status.RESOLVED in TRANSITIONS[status] for status in UNRESOLVED)
    assert {status for status in Status if not TRANSITIONS[status]} == set(Status) - UNRESOLVED


def test_only_a_due_record_can_be_claimed_by_a_run() -> None:
    """Retrying is entered from pending, and from a lease that has ended."""
    entered = [status for status in Status if Status.RETRYING in TRANSITIONS[status]]
    assert entered == [Status.PENDING, Status.RETRYING]


def test_what_has_no_outcome_is_being_tried() -> None:
    """An error without one would be shown nowhere."""
    assert replace(claimed(), outcome=None).status is Status.RETRYING
    with pytest.raises(ValueError, match="has no outcome"):
        replace(pending(), outcome=None)


def test_a_pending_record_that_is_never_due_cannot_exist() -> None:
    """Nothing is forgotten: pending without a next try, and retrying without a lease, are refused."""
    with pytest.raises(ValueError, match="forgotten"):
        replace(pending(), next_retry_at=None)
    with pytest.raises(ValueError, match="forgotten"):
        replace(claimed(), lease=None)


def test_a_claim_leases_the_record_and_is_written_in_its_history() -> None:
    """The record is the run's until the lease ends, and is due again then."""
    record = claimed()
    assert (record.status, record.lease, record.due_at) == (Status.RETRYING, LEASE, LEASE.until)
    assert record.history[-1] == HistoryEntry(NOW, Status.PENDING, Status.RETRYING, "run_1", "claimed")
    assert record.revision == len(record.history) == 2


def test_a_record_that_is_not_due_or_is_leased_or_is_manual_cannot_be_claimed() -> None:
    """A claim needs the time to have come."""
    later = replace(pending(), next_retry_at=NOW + SECOND)
    manual = move(pending(), Status.MANUAL, at=NOW, actor="ann", note="look at it")
    assert [claim(record, lease=LEASE) for record in (later, claimed(), manual)] == [None] * 3


def test_an_ended_lease_is_taken_over_and_its_try_counts_as_unknown() -> None:
    """The dead run's try spends an attempt, so that a record that kills its run is not tried for ever."""
    lease = Lease("run_2", LEASE.until, LEASE.until + SECOND)
    record = claim(claimed(), lease=lease)
    assert record is not None
    assert (record.lease, record.attempts, record.outcome) == (lease, 1, Outcome.UNKNOWN)
    assert record.tries == (Try(1, NOW, Outcome.UNKNOWN, "the run ended early", 300_000),)
    assert record.history[-1].note == "taken over from run_1, which never reported"


def test_a_lease_is_held_until_its_last_moment() -> None:
    """A microsecond before its end nobody takes it over."""
    now = LEASE.until - timedelta(microseconds=1)
    assert claim(claimed(), lease=Lease("run_2", now, now + SECOND)) is None


def test_a_move_gives_the_lease_back_and_keeps_the_try() -> None:
    """A settled record is nobody's, and its try and its history tell what happened."""
    attempt = Try(1, NOW, Outcome.FAILED, "declined again", 12)
    record = move(claimed(), Status.PENDING, at=NOW, actor="run_1", note="failed", attempt=attempt)
    assert (record.lease, record.next_retry_at, record.attempts) == (None, NOW, 1)
    assert (record.error, record.tries) == ("declined again", (attempt,))


def test_a_resolved_record_is_never_due() -> None:
    """What is final asks for nothing."""
    assert move(claimed(), Status.RESOLVED, at=NOW, actor="run_1", note="succeeded").due_at is None

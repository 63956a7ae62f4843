"""What the sweep and the report rely on, of the ledger in DynamoDB and of its fake alike."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import boto3
import pytest

from tests.unit.fakes_recovery import NOW, MemoryRecovery, Retries
from tollgate.kernel.dynamodb import RecoveryTable
from tollgate.kernel.errors import Conflict
from tollgate.recovery.circuits import Circuit, after_answer, after_outage
from tollgate.recovery.ledger import Filter, Recovery, Unresolved
from tollgate.recovery.model import (
    ErrorRecord,
    ErrorType,
    HistoryEntry,
    Lease,
    Outcome,
    Status,
    Try,
    claim,
    move,
)
from tollgate.recovery.operations import Operation
from tollgate.recovery.policies import DEFAULTS
from tollgate.recovery.processor import Processor
from tollgate.recovery.store import DynamoRecovery
from tollgate.recovery.strategies import Policy, Strategy

MINUTE = timedelta(minutes=1)


@pytest.fixture(params=["memory", "dynamodb"])
def store(request: pytest.FixtureRequest) -> Recovery:
    """An empty ledger, of either kind."""
    if request.param == "memory":
        return MemoryRecovery()
    request.getfixturevalue("tables")
    return DynamoRecovery()


def new(record_id: str = "err_1", status: Status = Status.PENDING, **over: Any) -> ErrorRecord:
    """A record that is due now, or that waits for a person."""
    record = ErrorRecord(
        id=record_id,
        type=ErrorType.PAYMENT_FAILED,
        operation="collect",
        arguments={"invoice": "inv_1", "lines": [1, None, True], "amount": "1.10"},
        customer="acme",
        subscription=None,
        context={},
        policy=DEFAULTS[ErrorType.PAYMENT_FAILED],
        status=status,
        outcome=Outcome.FAILED,
        error="declined",
        created_at=NOW,
        next_retry_at=NOW if status is Status.PENDING else None,
        history=(HistoryEntry(NOW, None, status, "system", "failed"),),
    )
    return replace(record, **over)


def lease(owner: str, minute: int = 0) -> Lease:
    """Five minutes from some minute on."""
    return Lease(owner, NOW + minute * MINUTE, NOW + (minute + 5) * MINUTE)


def claimed(store: Recovery, record_id: str = "err_1", by: str = "run_1", minute: int = 0) -> ErrorRecord:
    """The record after that run has claimed it in the store."""
    before = store.get(record_id)
    assert before is not None
    after = claim(before, lease=lease(by, minute))
    assert after is not None
    store.change(before, after)
    return after


def failed(record: ErrorRecord, to: Status = Status.PENDING) -> ErrorRecord:
    """The claimed record after its first try failed."""
    attempt = Try(record.attempts + 1, NOW, Outcome.FAILED, "declined again", 12)
    return move(
        record, to, at=NOW + MINUTE, actor="run_1", note="failed", attempt=attempt,
        next_retry_at=NOW + timedelta(hours=1),
    )  # fmt: skip


@pytest.mark.parametrize(
    "record",
    [
        new(),
        new(status=Status.MANUAL, customer=None, subscription="sub_1", context={"a": [{"b": "c"}]}),
        new(created_at=NOW + timedelta(microseconds=7), error=""),
    ],
)
def test_what_is_put_is_what_is_read(store: Recovery, record: ErrorRecord) -> None:
    """Every field survives, to the microsecond."""
    assert store.put(record)
    assert store.get("err_1") == record


def test_an_unknown_record_is_none(store: Recovery) -> None:
    """Nothing is invented."""
    assert store.get("err_1") is None


def test_putting_the_same_id_twice_changes_nothing(store: Recovery) -> None:
    """Neither the record nor its history, even after it has moved on."""
    store.put(new())
    moved = claimed(store)
    assert not store.put(new(operation="another", status=Status.MANUAL))
    assert store.get("err_1") == moved


def test_a_change_is_written_with_its_history_and_its_try(store: Recovery) -> None:
    """Reading it again gives the same as computing it."""
    store.put(new())
    record = claimed(store)
    after = failed(record)
    store.change(record, after)
    assert store.get("err_1") == after
    assert len(after.history) == 3
    assert len(after.tries) == 1


def test_a_claim_by_two_runs_has_one_winner(store: Recovery) -> None:
    """Both saw it due; the second to write loses, and leaves no trace."""
    store.put(new())
    seen = store.get("err_1")
    assert seen is not None
    winner = claimed(store, by="run_1")
    loser = claim(seen, lease=lease("run_2"))
    assert loser is not None
    with pytest.raises(Conflict):
        store.change(seen, loser)
    assert store.get("err_1") == winner


def test_an_ended_lease_is_taken_over_and_its_owner_may_not_settle_it_any_more(store: Recovery) -> None:
    """The run that came too late is refused as a whole: no try, no history, no status."""
    store.put(new())
    late = claimed(store, by="run_1")
    taken = claimed(store, by="run_2", minute=5)
    with pytest.raises(Conflict):
        store.change(late, failed(late))
    assert store.get("err_1") == taken
    assert [each.outcome for each in taken.tries] == [Outcome.UNKNOWN]


def test_a_try_by_a_wrong_owner_is_refused_as_a_whole(store: Recovery) -> None:
    """The status and the revision are right, only the lease is another's."""
    store.put(new())
    mine = claimed(store)
    theirs = replace(mine, lease=lease("run_2"))
    with pytest.raises(Conflict):
        store.change(theirs, failed(theirs))
    assert store.get("err_1") == mine


def test_a_claim_of_what_was_seen_before_another_run_had_its_try_is_refused(store: Recovery) -> None:
    """The record is pending and free once more, but it is not the one that was seen."""
    store.put(new())
    seen = store.get("err_1")
    assert seen is not None
    record = claimed(store)
    store.change(record, failed(record))
    late = claim(seen, lease=lease("run_2"))
    assert late is not None
    with pytest.raises(Conflict):
        store.change(seen, late)
    assert store.get("err_1") == failed(record)


def test_a_change_of_a_record_that_does_not_exist_is_refused(store: Recovery) -> None:
    """A change never creates."""
    with pytest.raises(Conflict):
        store.change(new(), move(new(), Status.MANUAL, at=NOW, actor="ann", note="look"))
    assert store.get("err_1") is None


def test_due_are_the_records_whose_time_has_come_the_longest_first(store: Recovery) -> None:
    """Over all shards, the present instant included."""
    for number in range(12):
        store.put(new(f"err_{number:02}", next_retry_at=NOW - number * MINUTE))
    store.put(new("err_now", next_retry_at=NOW + MINUTE))
    store.put(new("err_later", next_retry_at=NOW + MINUTE + timedelta(microseconds=1)))
    expected = [f"err_{number:02}" for number in reversed(range(12))]
    assert list(store.due(NOW)) == expected
    assert list(store.due(NOW + MINUTE)) == [*expected, "err_now"]


def test_a_claimed_record_is_due_again_when_its_lease_ends(store: Recovery) -> None:
    """A run that died is found by the next."""
    store.put(new())
    record = claimed(store)
    assert record.lease is not None
    assert list(store.due(record.lease.until - timedelta(microseconds=1))) == []
    assert list(store.due(record.lease.until)) == ["err_1"]


@pytest.mark.parametrize("status", [Status.MANUAL, Status.RESOLVED])
def test_what_waits_for_a_person_or_is_final_is_never_due(store: Recovery, status: Status) -> None:
    """However late it is."""
    store.put(new())
    record = claimed(store)
    store.change(record, failed(record, to=status))
    assert list(store.due(NOW + timedelta(days=1_000))) == []


def test_unresolved_are_the_records_that_are_not_settled(store: Recovery) -> None:
    """With what the report needs of each; resolved ones are gone."""
    store.put(new("err_1"))
    store.put(new("err_2", status=Status.MANUAL, created_at=NOW - MINUTE))
    store.put(new("err_3"))
    store.put(new("err_4", type=ErrorType.SYSTEM_ERROR))
    record = claimed(store, "err_1")
    store.change(record, failed(record))
    record = claimed(store, "err_3")
    store.change(record, failed(record, to=Status.RESOLVED))
    claimed(store, "err_4")
    assert sorted(store.unresolved(), key=lambda one: one.status) == [
        Unresolved(ErrorType.PAYMENT_FAILED, Status.MANUAL, 0, NOW - MINUTE),
        Unresolved(ErrorType.PAYMENT_FAILED, Status.PENDING, 1, NOW),
        Unresolved(ErrorType.SYSTEM_ERROR, Status.RETRYING, 0, NOW),
    ]


# What is tried for the first time


def begun(record_id: str = "err_1") -> ErrorRecord:
    """An operation that is written down before its first try."""
    history = (HistoryEntry(NOW, None, Status.RETRYING, "system", "begun"),)
    first: dict[str, Any] = {"outcome": None, "error": "", "next_retry_at": None, "lease": lease("system")}
    return replace(new(record_id), status=Status.RETRYING, history=history, **first)


def test_what_is_tried_for_the_first_time_is_due_when_its_lease_ends_and_shown_nowhere(store: Recovery) -> None:
    """It is no error."""
    record = begun()
    assert store.put(record)
    assert store.get("err_1") == record
    assert (list(store.unresolved()), store.find(Filter(), after=None, limit=10)) == ([], ([], None))
    assert list(store.due(NOW + 5 * MINUTE)) == ["err_1"]


def test_what_succeeded_at_once_leaves_nothing(store: Recovery) -> None:
    """Its id is free again."""
    store.put(begun())
    store.forget(begun())
    assert store.get("err_1") is None
    assert list(store.due(NOW + 5 * MINUTE)) == []
    assert store.put(begun())


def test_an_error_is_never_forgotten(store: Recovery) -> None:
    """Neither one that was one from the start nor one whose first run died."""
    store.put(new("err_1"))
    store.put(begun("err_2"))
    taken = claimed(store, "err_2", minute=5)
    for record in (new("err_1"), begun("err_2"), taken):
        with pytest.raises(Conflict):
            store.forget(record)
    assert (store.get("err_1"), store.get("err_2")) == (new("err_1"), taken)


def test_a_first_try_that_failed_is_an_error_like_others(store: Recovery) -> None:
    """With the type, the policy and the context that the failure gave it."""
    store.put(begun())
    policy = Policy(Strategy.FIXED_INTERVAL, 3, base=7)
    known: dict[str, Any] = {"type": ErrorType.INSUFFICIENT_FUNDS, "policy": policy, "context": {"a": 1}}
    after = move(
        replace(begun(), outcome=Outcome.FAILED, error="no money", **known),
        Status.PENDING,
        at=NOW,
        actor="system",
        note="failed",
    )
    store.change(begun(), after)
    assert store.get("err_1") == after
    assert store.find(Filter(type=ErrorType.INSUFFICIENT_FUNDS), after=None, limit=10) == ([after], None)


# Lists


@pytest.fixture
def listed(store: Recovery) -> dict[str, ErrorRecord]:
    """Twelve records, each a minute younger than the one before, in several ways."""
    manual = Policy(Strategy.MANUAL, 0)
    for number in range(12):
        kind = {"type": ErrorType.VALIDATION_ERROR, "policy": manual} if number % 3 == 0 else {}
        status = Status.MANUAL if number % 3 == 0 else Status.PENDING
        owner = {"customer": "ada" if number % 2 else "ben", "subscription": f"sub_{number % 4}"}
        store.put(new(f"err_{number:02}", status, created_at=NOW + number * MINUTE, **kind, **owner))
    record = claimed(store, "err_01")
    store.change(record, failed(record, to=Status.RESOLVED))
    found = {name: store.get(name) for name in (f"err_{number:02}" for number in range(12))}
    return {name: record for name, record in found.items() if record}


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(),
        Filter(status=Status.PENDING),
        Filter(status=Status.RESOLVED),
        Filter(status=Status.DISCARDED),
        Filter(type=ErrorType.VALIDATION_ERROR),
        Filter(type=ErrorType.PAYMENT_FAILED, status=Status.RESOLVED),
        Filter(type=ErrorType.PAYMENT_FAILED, status=Status.PENDING),
        Filter(customer="ada"),
        Filter(customer="ada", type=ErrorType.VALIDATION_ERROR),
        Filter(subscription="sub_1"),
        Filter(subscription="sub_1", customer="ben"),
        Filter(strategy=Strategy.MANUAL),
        Filter(strategy=Strategy.MANUAL, customer="ben", status=Status.MANUAL),
        Filter(customer="nobody"),
    ],
    ids=repr,
)
def test_a_list_is_what_the_filter_takes_the_newest_first_in_pages(
    store: Recovery, listed: dict[str, ErrorRecord], wanted: Filter
) -> None:
    """Whatever the size of a page, none is left out and none comes twice; the last page says that it is."""
    expected = [record for record in reversed(listed.values()) if wanted.takes(record)]
    for size in (1, 2, 5, 100):
        found: list[ErrorRecord] = []
        after: str | None = None
        for _ in range(50):
            page, after = store.find(wanted, after=after, limit=size)
            assert len(page) <= size
            found += page
            if after is None:
                break
        assert found == expected


# Circuits


def test_a_circuit_is_kept_for_all_runs(store: Recovery) -> None:
    """One that nobody wrote is closed."""
    first = store.circuit("stripe")
    assert first == Circuit("stripe")
    circuit = first
    for _ in range(6):
        changed = after_outage(circuit, NOW)
        assert store.change_circuit(circuit, changed)
        circuit = store.circuit("stripe")
        assert circuit == changed
    assert store.change_circuit(circuit, after_answer(circuit))
    assert store.circuit("stripe").open_until is None
    assert store.circuit("wallet") == Circuit("wallet")


def test_of_two_changes_of_a_circuit_one_is_written(store: Recovery) -> None:
    """The other saw it as it was."""
    seen = store.circuit("stripe")
    assert store.change_circuit(seen, after_outage(seen, NOW))
    assert not store.change_circuit(seen, after_outage(seen, NOW))
    once = store.circuit("stripe")
    assert store.change_circuit(once, after_outage(once, NOW))
    assert not store.change_circuit(once, after_answer(once))
    assert store.circuit("stripe").failures == 2


def test_a_sweep_over_the_store_resolves_what_is_due(store: Recovery) -> None:
    """The whole way: found by the index, claimed, tried, settled."""
    for number in range(5):
        store.put(new(f"err_{number}"))
    operation = Operation("collect", lambda _arguments, _key: None)
    result = Processor(store, {"collect": operation}, lambda: NOW, lambda: 5 * MINUTE, Retries()).sweep()
    assert {name: count for name, count in result.counts().items() if count} == {"claimed": 5, "resolved": 5}
    assert list(store.unresolved()) == []


@pytest.mark.usefixtures("tables")
def test_the_indexes_hold_records_and_nothing_else() -> None:
    """History, tries, circuits and what is tried for the first time are in none but the last, which is due one day."""
    store = DynamoRecovery()
    store.put(new("err_pending", subscription="sub_1"))
    store.put(new("err_manual", status=Status.MANUAL, customer=None))
    store.put(new("err_resolved"))
    record = claimed(store, "err_resolved")
    store.change(record, failed(record, to=Status.RESOLVED))
    store.put(begun("err_begun"))
    circuit = store.circuit("stripe")
    store.change_circuit(circuit, after_outage(circuit, NOW))
    assert indexed("due") == ["err_begun", "err_pending"]
    assert indexed("status") == indexed("type") == ["err_manual", "err_pending", "err_resolved"]
    assert indexed("customer") == ["err_pending", "err_resolved"]
    assert indexed("subscription") == ["err_pending"]


def indexed(name: str) -> list[str]:
    """All that an index holds."""
    table: Any = RecoveryTable.Meta.table_name
    items = boto3.client("dynamodb").scan(TableName=table, IndexName=name)["Items"]
    return sorted(item["pk"]["S"] for item in items)


@pytest.mark.usefixtures("tables")
def test_the_indexes_are_read_to_their_last_page() -> None:
    """More than a page of entries is found in full."""
    store = DynamoRecovery()
    client = boto3.client("dynamodb")
    for number in range(1_100):
        keys = {"pk": f"err_{number}", "sk": "R", "listed_status": "manual#0", "type": "system_error"}
        keys |= {"listed_at": f"2026-01-31T09:30:00.000000Z#err_{number}", "strategy": "manual"}
        item: dict[str, Any] = {name: {"S": value} for name, value in keys.items()}
        client.put_item(TableName=RecoveryTable.Meta.table_name, Item=item | {"attempts": {"N": "1"}})
    assert sum(1 for _ in store.unresolved()) == 1_100

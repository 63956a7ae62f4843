"""Any sequence of failures, sweeps, deaths, outages, people and time, against a model of a few lines.

The model is written from the issue and the documents: what a record's life is, and not how the ledger keeps it.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.faults.chaos import Killed
from tests.faults.office import KINDS, LEGAL, NOW, POLICIES, check_record
from tests.unit.fakes_recovery import Retries
from tollgate.kernel.dynamodb import RecoveryTable
from tollgate.kernel.errors import Conflict, InvalidInput, NotFound
from tollgate.recovery.ledger import Filter
from tollgate.recovery.model import ErrorType, Outcome, Status
from tollgate.recovery.operations import Operation, OperationFailed
from tollgate.recovery.processor import Processor
from tollgate.recovery.report import report
from tollgate.recovery.service import change_all, intervene, perform, record_error, retry
from tollgate.recovery.store import DynamoRecovery
from tools.engine import Engine

LIFE = timedelta(minutes=4)
LEASE = timedelta(minutes=5)
MINUTE = timedelta(minutes=1)
MOODS = ("ok", "ok", "declined", "final", "refused", "refused", "lost", "late", "killed before", "killed after")
DONE = {"ok", "late", "killed after"}
ERRORS: Mapping[str, BaseException] = {
    "declined": ValueError("declined"),
    "final": OperationFailed("stolen", final=True),
    "refused": ConnectionRefusedError("nobody there"),
    "lost": TimeoutError("it was not done"),
    "late": TimeoutError("it was done"),
    "killed before": Killed(),
    "killed after": Killed(),
}
TYPES = (ErrorType.PAYMENT_FAILED, ErrorType.REFUND_ERROR, ErrorType.VALIDATION_ERROR)


@dataclass
class Row:
    """What is true of a record."""

    kind: str
    type: ErrorType
    status: str
    most: int
    unknown: bool = False
    attempts: int = 0
    due: datetime | None = None
    is_error: bool = True
    card: str = "c1"
    told: int = 0


@dataclass
class Circuit:
    """What is true of a provider."""

    outages: int = 0
    until: datetime | None = None


def wait_of(kind: ErrorType, attempts: int) -> timedelta | None:
    """The longest wait after so many tries; chance always takes it. What is left to people waits for them."""
    if kind is ErrorType.PAYMENT_FAILED:
        return timedelta(seconds=min(150, 60 * 2**attempts))
    if kind is ErrorType.REFUND_ERROR:
        return timedelta(seconds=min(400, 2 ** (attempts - 1)) if attempts else 0)
    return None


MOST = {ErrorType.PAYMENT_FAILED: 3, ErrorType.REFUND_ERROR: 4, ErrorType.VALIDATION_ERROR: 0}


@dataclass
class Model:
    """The life of records, with no database and nobody else."""

    now: datetime = NOW
    rows: dict[str, Row] = field(default_factory=dict)
    effects: Counter[str] = field(default_factory=Counter)
    circuits: dict[str, Circuit] = field(default_factory=lambda: {kind: Circuit() for kind in KINDS})

    def do(self, name: str, kind: str, mood: str) -> None:
        """What a call of the provider does."""
        if mood in DONE and not (kind == "charge" and self.effects[name]):
            self.effects[name] += 1

    def later(self, row: Row) -> None:
        """It is tried again, or a person's."""
        wait = wait_of(row.type, row.attempts) if row.attempts < row.most else None
        if wait is None:
            self.end(row)
        else:
            row.status, row.due = "pending", self.now + wait

    @staticmethod
    def end(row: Row) -> None:
        """No try follows, and whoever depends on it is told."""
        row.status, row.due, row.told = "manual", None, row.told + 1

    def heard(self, kind: str, *, outage: bool, looked: bool) -> None:
        """What a call says of its provider: five outages in a row, and it is left alone, longer each time."""
        circuit = self.circuits[kind]
        if not outage:
            self.circuits[kind] = Circuit()
        elif looked or circuit.until is None or circuit.until <= self.now:
            circuit.outages += 1
            if circuit.outages >= 5:
                circuit.until = self.now + min(60, 5 * 2 ** (circuit.outages - 5)) * MINUTE

    def perform(self, name: str, kind: str, error_type: ErrorType, mood: str) -> None:
        """Write it down, do it, and forget it if it was done."""
        self.do(name, kind, mood)
        if mood == "ok":
            return
        row = self.rows[name] = Row(kind, error_type, "retrying", MOST[error_type])
        if mood.startswith("killed"):
            row.is_error, row.due = False, self.now + LEASE
            return
        row.unknown = mood in {"lost", "late"}
        if mood == "final":
            self.end(row)
        else:
            self.later(row)

    def try_again(self, name: str, mood: str, answer: str) -> bool:
        """A run takes a record; whether the run lives on."""
        row = self.rows[name]
        if row.due is None or row.due > self.now:
            return True
        was_leased = row.status == "retrying"
        if was_leased:  # its run died, which counts
            row.attempts, row.unknown, row.is_error = row.attempts + 1, True, True
        circuit, asks = self.circuits[row.kind], row.unknown and row.kind != "charge"
        calls = row.kind == "wire" if asks else row.attempts < row.most
        if calls and circuit.until is not None and circuit.until > self.now:
            row.status, row.due = "pending", circuit.until
            return True
        looked = calls and circuit.until is not None
        if looked:
            circuit.until = self.now + LEASE
        row.due = None
        if asks and row.kind == "wire":
            return self.ask(name, row, mood, answer, looked=looked)
        if asks or row.attempts >= row.most:
            self.end(row)
            return True
        return self.run(name, row, mood, looked=looked)

    def ask(self, name: str, row: Row, mood: str, answer: str, *, looked: bool) -> bool:
        """Only a certain no is tried again."""
        if answer == "truth" and not self.effects[name] and row.attempts < row.most:
            row.unknown = False
            return self.run(name, row, mood, looked=looked)
        self.heard(row.kind, outage=answer == "error", looked=looked)
        if answer == "truth" and self.effects[name]:
            row.status = "resolved"
        elif row.attempts >= row.most:
            self.end(row)
        else:
            row.attempts += 1
            self.later(row)
        return True

    def run(self, name: str, row: Row, mood: str, *, looked: bool) -> bool:
        """It is done once more, or not."""
        self.do(name, row.kind, mood)
        if mood.startswith("killed"):
            row.status, row.due = "retrying", self.now + LEASE
            return False
        row.attempts += 1
        self.heard(row.kind, outage=mood in {"refused", "lost", "late"}, looked=looked)
        if mood == "ok":
            row.status, row.unknown = "resolved", False
            return True
        row.unknown = mood in {"lost", "late"} or (row.unknown and mood != "final")
        if mood == "final":
            self.end(row)
        else:
            self.later(row)
        return True


def raw(database: Engine) -> dict[str, Any]:
    """The records as the table holds them, by id."""
    answer, _ = database.ask("Scan", {"TableName": RecoveryTable.Meta.table_name})
    assert "LastEvaluatedKey" not in answer
    return {item["pk"]["S"]: item for item in answer["Items"] if item["sk"]["S"] == "R"}


class Life(RuleBasedStateMachine):
    """Each record stands where the model says, in the ledger, its lists, its index of what is due and the report."""

    database: Engine

    def __init__(self) -> None:
        super().__init__()
        self.database.clear()
        self.store = DynamoRecovery()
        self.model = Model()
        self.effects: Counter[str] = Counter()
        self.told: Counter[str] = Counter()
        self.mood, self.answer, self.names = "ok", "truth", 0
        self.seen: dict[str, tuple[Row, Any]] = {}
        self.operations = {
            kind: Operation(
                kind,
                partial(self.call, kind),
                happened=self.happened if kind == "wire" else None,
                repeatable=kind == "charge",
                provider=lambda arguments: str(arguments["via"]),
                exhausted=lambda _arguments, key: self.told.update([key]),
            )
            for kind in KINDS
        }

    # The provider

    def call(self, kind: str, _arguments: Mapping[str, Any], key: str) -> None:
        """Do it, or not."""
        if self.mood in DONE and not (kind == "charge" and self.effects[key]):
            self.effects[key] += 1
        if self.mood in ERRORS:
            raise ERRORS[self.mood]

    def happened(self, _arguments: Mapping[str, Any], key: str) -> bool | None:
        """Say whether it was done, or not say."""
        if self.answer == "error":
            raise TimeoutError
        return None if self.answer == "none" else self.effects[key] > 0

    # What happens

    def _clock(self) -> datetime:
        return self.model.now

    def _name(self) -> str:
        self.names += 1
        return f"op_{self.names}"

    @rule(kind=st.sampled_from(KINDS), error_type=st.sampled_from(TYPES), unknown=st.booleans())
    def fail(self, kind: str, error_type: ErrorType, *, unknown: bool) -> None:
        """An operation failed; the same failure again changes nothing."""
        name = self._name()
        write = partial(
            record_error, self.store, id=name, error_type=error_type, operation=kind, customer="ada",
            subscription=None, context={}, arguments={"via": kind, "card": "c1"}, clock=self._clock,
            randbelow=lambda below: below - 1,
        )  # fmt: skip
        first = write(error=TimeoutError() if unknown else "declined")
        assert write(error="another") == first
        row = self.model.rows[name] = Row(kind, error_type, "", MOST[error_type], unknown)
        self.model.later(row)
        row.told = 0

    @rule(kind=st.sampled_from(KINDS), error_type=st.sampled_from(TYPES), mood=st.sampled_from(MOODS))
    def perform(self, kind: str, error_type: ErrorType, mood: str) -> None:
        """An operation is written down, and tried."""
        name, self.mood = self._name(), mood
        try:
            found = perform(
                self.store, self.operations[kind], {"via": kind, "card": "c1"}, id=name, error_type=error_type,
                customer=None, subscription="sub", context={}, clock=self._clock, time_left=lambda: LIFE,
                randbelow=lambda below: below - 1,
            )  # fmt: skip
        except Killed:
            assert mood.startswith("killed")
        else:
            assert (found is None) == (mood == "ok")
        self.model.perform(name, kind, error_type, mood)

    @rule(mood=st.sampled_from(MOODS), answer=st.sampled_from(["truth", "truth", "none", "error"]), wait=st.booleans())
    def sweep(self, mood: str, answer: str, *, wait: bool) -> None:
        """A run tries all that is due, perhaps when something is, the longest due first; it may die over one."""
        dues = [row.due for row in self.model.rows.values() if row.due]
        if wait and dues:
            self.model.now = max(self.model.now, min(dues))
        order = list(self.store.due(self.model.now))
        due = {name: row.due for name, row in self.model.rows.items() if row.due and row.due <= self.model.now}
        assert set(order) == due.keys()
        assert [due[name] for name in order] == sorted(each for each in due.values() if each)
        self.mood, self.answer = mood, answer
        expected = all(self.model.try_again(name, mood, answer) for name in order)
        self._run(expected, None)

    @rule(kind=st.sampled_from(KINDS))
    def outage(self, kind: str) -> None:
        """Many are refused in a row, which is once enough to leave the provider alone."""
        for _ in range(3):
            self.fail(kind, ErrorType.REFUND_ERROR, unknown=False)
        for _ in range(2):
            self.sweep("refused", "error", wait=True)

    @precondition(lambda self: self.model.rows)
    @rule(data=st.data(), mood=st.sampled_from(MOODS), answer=st.sampled_from(["truth", "none", "error"]))
    def take(self, data: Any, mood: str, answer: str) -> None:
        """A message names a record, due or not, and comes twice."""
        name = data.draw(st.sampled_from(sorted(self.model.rows)))
        self.mood, self.answer = mood, answer
        for _ in range(2):
            self._run(self.model.try_again(name, mood, answer), name)

    def _run(self, survives: bool, name: str | None) -> None:
        left, lowest = (lambda: LIFE), (lambda below: below - 1)
        worker = Processor(self.store, self.operations, self._clock, left, Retries(), randbelow=lowest)
        try:
            run = worker.sweep() if name is None else worker.take([name])
        except Killed:
            assert not survives
        else:
            assert (survives, run.faults) == (True, [])

    def _draw(self, data: Any) -> tuple[str, Row]:
        name = data.draw(st.sampled_from(sorted(self.model.rows)))
        return name, self.model.rows[name]

    @precondition(lambda self: self.model.rows)
    @rule(data=st.data(), to=st.sampled_from([Status.RESOLVED, Status.DISCARDED, Status.MANUAL]))
    def decide(self, data: Any, to: Status) -> None:
        """A person says what becomes of a record."""
        name, row = self._draw(data)
        say = partial(intervene, self.store, name, to, actor="ann", note="so", clock=self._clock)
        if not row.is_error:
            with pytest.raises(NotFound):
                say()
        elif to not in LEGAL[row.status] or row.status == "retrying":
            with pytest.raises(Conflict):
                say()
        else:
            say()
            row.status, row.due = to.value, None

    @precondition(lambda self: self.model.rows)
    @rule(data=st.data(), card=st.sampled_from([None, None, "c1", "c2"]), name=st.sampled_from(["card", "via"]))
    def retry(self, data: Any, card: str | None, name: str) -> None:
        """A person wants a record tried now, perhaps with another card; never with one where it may have happened."""
        record_id, row = self._draw(data)
        arguments = {name: card} if card else None
        say = partial(
            retry, self.store, record_id, actor="ann", note="", clock=self._clock, retries=None,
            arguments=arguments, changeable={"card"},
        )  # fmt: skip
        refused: type[Exception] | None = None
        if not row.is_error:
            refused = NotFound
        elif row.status not in {"pending", "manual"}:
            refused = Conflict
        elif card and name != "card":
            refused = InvalidInput
        elif card and row.unknown:
            refused = Conflict
        if refused:
            with pytest.raises(refused):
                say()
            return
        say()
        if row.status == "manual" or row.attempts >= row.most:
            row.most = row.attempts + 1
        row.status, row.due, row.card = "pending", self.model.now, card or row.card

    @rule(status=st.sampled_from([Status.PENDING, Status.MANUAL, Status.RETRYING]), dry=st.booleans())
    def discard_all(self, status: Status, *, dry: bool) -> None:
        """A person discards many; what a run is trying is not meant."""
        done = change_all(
            self.store, Filter(status=status, type=ErrorType.VALIDATION_ERROR),
            lambda record: intervene(
                self.store, record.id, Status.DISCARDED, actor="ann", note="so", clock=self._clock
            ),
            Status.DISCARDED, dry_run=dry, after=None, limit=1_000, time_left=lambda: True,
        )  # fmt: skip
        meant = [
            row
            for row in self.model.rows.values()
            if row.type is ErrorType.VALIDATION_ERROR and row.status == status and status is not Status.RETRYING
        ]
        assert (done.matched, done.changed, done.skipped) == (len(meant), 0 if dry else len(meant), {})
        for row in meant * (not dry):
            row.status, row.due = "discarded", None

    @rule(seconds=st.sampled_from([1, 59, 60, 150, 299, 300, 301, 3_600]))
    def pass_by(self, seconds: int) -> None:
        """Time passes."""
        self.model.now += timedelta(seconds=seconds)

    # What must be so

    @invariant()
    def each_record_stands_where_the_model_says(self) -> None:
        """Its status, tries, outcome, time, arguments, and its history as a legal path; each effect at most once."""
        assert self.effects == self.model.effects
        assert max(self.effects.values(), default=0) <= 1
        items = raw(self.database)
        for name, row in self.model.rows.items():
            if self.seen.get(name) == (row, items[name]):
                continue
            self.seen[name] = replace(row), items[name]
            found = self.store.get(name)
            assert found is not None
            check_record(found)
            stands = (found.status, found.attempts, found.policy.max_attempts, found.due_at, found.arguments["card"])
            assert stands == (row.status, row.attempts, row.most, row.due, row.card), name
            assert (found.outcome is not None) == row.is_error
            if row.status in {"pending", "manual"}:
                assert (found.outcome is Outcome.UNKNOWN) == row.unknown
            assert self.told[name] == row.told

    @rule()
    def look(self) -> None:
        """Read the lists."""
        self.lists_and_the_report_show_the_errors_and_nothing_else()

    def teardown(self) -> None:
        """Read them at the end as well."""
        self.lists_and_the_report_show_the_errors_and_nothing_else()

    def lists_and_the_report_show_the_errors_and_nothing_else(self) -> None:
        """By status, and in all."""
        rows = {name: row for name, row in self.model.rows.items() if row.is_error}
        listed, last = self.store.find(Filter(), after=None, limit=1_000)
        assert (sorted(record.id for record in listed), last) == (sorted(rows), None)
        statuses = Counter(row.status for row in rows.values() if row.status in {"pending", "retrying", "manual"})
        found = Counter[str]()
        for group in report(self.store, self._clock).groups:
            found.update({status.value: count for status, count in group.by_status.items()})
        assert +found == statuses


def test_any_life_of_records_is_as_the_model_says(database: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fails, dies, decides or passes."""
    monkeypatch.setenv("RETRY_POLICIES", POLICIES)
    monkeypatch.setattr("tollgate.recovery.store._READERS", 1)
    Life.database = database
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )

"""Operations that fail, those who see to them, and the proof that each has one effect and a true record.

    charge   a provider that knows a call again by its key: it may be called twice, and does it once
    wire     a provider that does what it is told each time: it must be asked whether it was told
    letter   one that cannot even be asked

What is legal is written down here once more, from docs and the issue, and not taken from the product.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError
from pynamodb.exceptions import PynamoDBException

from tests.faults.chaos import Killed
from tollgate.kernel.errors import TollgateError
from tollgate.recovery.model import ErrorRecord, ErrorType
from tollgate.recovery.operations import Operation, OperationFailed, OutcomeUnknown
from tollgate.recovery.processor import Processor, Run
from tollgate.recovery.queue import RetriesQueue, record_of
from tollgate.recovery.service import perform, record_error
from tollgate.recovery.store import DynamoRecovery
from tools.engine import Call, Engine

__all__ = ["AWS_ERRORS", "KINDS", "LEGAL", "NOW", "POLICIES", "Bank", "Office"]

NOW: Final = datetime(2026, 3, 15, 9, 30, tzinfo=UTC)
SECOND: Final = timedelta(seconds=1)
LIFE: Final = timedelta(seconds=240)
"""How long Lambda lets a function run."""
KINDS: Final = ("charge", "wire", "letter")
POLICIES: Final = json.dumps(
    {
        "payment_failed": {
            "strategy": "exponential_backoff",
            "max_attempts": 3,
            "base_seconds": 60,
            "cap_seconds": 150,
        },
        "refund_error": {"strategy": "immediate", "max_attempts": 4, "base_seconds": 1, "cap_seconds": 400},
        "insufficient_funds": {"strategy": "fixed_interval", "max_attempts": 2, "base_seconds": 3600},
    }
)
"""Short lives, for the tests."""
LEGAL: Final[Mapping[str | None, set[str]]] = {
    None: {"pending", "manual", "retrying"},
    "pending": {"pending", "retrying", "manual", "resolved", "discarded"},
    "retrying": {"retrying", "pending", "manual", "resolved"},
    "manual": {"pending", "resolved", "discarded"},
    "resolved": set(),
    "discarded": set(),
}
AWS_ERRORS: Final = (TollgateError, PynamoDBException, BotoCoreError, ClientError)
"""What ends an invocation, but not the process."""
_CALL: Final = timedelta(milliseconds=10)
_DEEPEST: Final = 3
"""Processes at work at once."""
_IN_WORDS: Final = {
    "declined": OperationFailed("declined"),
    "final": OperationFailed("stolen card", final=True),
    "funds": OperationFailed("no money", type=ErrorType.INSUFFICIENT_FUNDS),
    "bug": ValueError("a bug"),
    "refused": ConnectionRefusedError("nobody there"),
    "lost": TimeoutError("no answer; it was not done"),
    "late": TimeoutError("no answer; it was done"),
    "broken": ConnectionResetError("the connection broke; it was done"),
    "unknown": OutcomeUnknown("the provider does not say; it was done"),
}
_DONE: Final = {"ok", "late", "broken", "unknown", "killed after"}


@dataclass
class Bank:
    """A provider: what each call of a key does, and the effects it had.

    `script` has what is to become of the next calls of a key: a word of `_IN_WORDS`, ok, killed before or after it
    was done, or slow: a minute and a half, in which others sweep. `silence` has what it says to the next questions
    about a key instead of the truth: none, or error.
    """

    remembers: bool
    office: "Office"
    script: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    silence: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    effects: Counter[str] = field(default_factory=Counter)
    seen: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)

    def run(self, arguments: Mapping[str, Any], key: str) -> None:
        """Do it, or not."""
        self.office.step()
        self.calls[key] += 1
        does = self.script[key].pop(0) if self.script[key] else "ok"
        if does == "slow":
            self.office.wait(90 * SECOND)
            does = "ok"
        if does == "killed before":
            self.office.kill()
        if does in _DONE:
            known = self.seen.setdefault(key, dict(arguments))
            if not (self.remembers and self.effects[key]):
                self.effects[key] += 1
            if self.remembers and known != arguments:
                raise OperationFailed("the key was used with other arguments", final=True)
        if does == "killed after":
            self.office.kill()
        if does in _IN_WORDS:
            raise _IN_WORDS[does]

    def happened(self, _arguments: Mapping[str, Any], key: str) -> bool | None:
        """Say whether it was done, or not say."""
        self.office.step()
        says = self.silence[key].pop(0) if self.silence[key] else "truth"
        if says == "none":
            return None
        if says == "error":
            raise TimeoutError("no answer")
        return self.effects[key] > 0


@dataclass
class _Process:
    until: datetime
    skew: timedelta
    dead: bool = False


class Office:
    """The ledger, the providers, the queue, and processes that come and go; time passes with calls only."""

    def __init__(self, database: Engine, dice: Random | None = None) -> None:
        self.database = database
        self.dice = dice or Random(0)  # noqa: S311  it must repeat
        self.now = NOW
        self.store = DynamoRecovery()
        self.messages: list[tuple[datetime, str]] = []
        self.told: Counter[str] = Counter()
        self.untold = 0
        self.charge, self.wire, self.letter = (Bank(kind == "charge", self) for kind in KINDS)
        self.operations = {operation.name: operation for operation in self._operations()}
        self.count = 0
        self.stop: Callable[[int, bool], bool] = lambda _number, _after: False
        self.meanwhile: Callable[[], None] | None = None
        self.processes: list[_Process] = []
        self.rows: dict[tuple[str, str], Any] = {}
        self.known: dict[str, ErrorRecord] = {}
        self.runs: list[Run] = []

    def _operations(self) -> Iterator[Operation]:
        def of(name: str) -> Callable[[Mapping[str, Any]], str]:
            return lambda _: name

        told = self._exhausted
        yield Operation("charge", self.charge.run, repeatable=True, provider=of("stripe"), exhausted=told)
        yield Operation("wire", self.wire.run, happened=self.wire.happened, provider=of("bank"), exhausted=told)
        yield Operation("letter", self.letter.run, provider=of("post"), exhausted=told)

    def _exhausted(self, _arguments: Mapping[str, Any], key: str) -> None:
        self.step()
        if self.untold:
            self.untold -= 1
            raise ValueError("the subscription is busy")
        self.told[key] += 1

    def bank(self, kind: str) -> Bank:
        """The provider of a kind."""
        return {"charge": self.charge, "wire": self.wire, "letter": self.letter}[kind]

    # Processes

    def step(self) -> None:
        """Let a moment pass; Lambda ends a process whose time is over."""
        self.now += _CALL
        if self.processes and (self.processes[-1].dead or self.now >= self.processes[-1].until):
            self.kill()

    def wait(self, time: timedelta) -> None:
        """Let much time pass, in which another process looks for what is due."""
        self.now += time
        if len(self.processes) < _DEEPEST:
            self.work(self.sweep)
        self.step()

    def kill(self) -> None:
        """End the process that is at work."""
        self.processes[-1].dead = True
        raise Killed

    def _call(self, call: Callable[[], Any]) -> Any:
        """Make a call to AWS: the k-th is where the process may be stopped, before or after it."""
        self.before(None)
        answer = call()
        self.after(None)
        return answer

    def before(self, _: Call | None) -> None:
        """Count a call, perhaps let another process go first, perhaps stop this one."""
        if not self.processes:
            return
        if self.meanwhile:
            self.meanwhile()
        self.step()
        self.count += 1
        if self.stop(self.count, False):
            self.kill()

    def after(self, _: Call | None) -> None:
        """Perhaps stop the process when the call is done."""
        if self.processes and self.stop(self.count, True):
            self.kill()

    def work(self, act: Callable[[], Any], skew: timedelta = timedelta(0), life: timedelta = LIFE) -> Any:
        """Have a process do something; None if it was stopped or AWS gave it an error."""
        self.processes.append(_Process(self.now + life, skew))
        try:
            return act()
        except (Killed, *AWS_ERRORS):
            return None
        finally:
            self.processes.pop()

    def clock(self) -> datetime:
        """The present, as the process at work knows it."""
        return self.now + (self.processes[-1].skew if self.processes else timedelta(0))

    def time_left(self) -> timedelta:
        """What Lambda leaves the process at work."""
        return self.processes[-1].until - self.now

    # What they do

    @property
    def queue(self) -> RetriesQueue:
        """The retries queue of the deployment, whose client is this office."""
        return RetriesQueue(lambda: self, "https://sqs.test/retries")

    def send_message(self, *, QueueUrl: str, MessageBody: str, DelaySeconds: int) -> None:  # noqa: N803  SQS's names
        """What SQS does."""
        assert QueueUrl.endswith("retries")
        assert 0 <= DelaySeconds <= 900
        self._call(lambda: self.messages.append((self.now + DelaySeconds * SECOND, MessageBody)))

    def processor(self) -> Processor:
        """What the function makes of an invocation."""
        return Processor(
            self.store, self.operations, self.clock, self.time_left, self.queue, randbelow=self.dice.randrange
        )

    def fail(self, name: str, kind: str, **over: Any) -> ErrorRecord:
        """Write down that an operation failed."""
        given: dict[str, Any] = {"error_type": ErrorType.PAYMENT_FAILED, "error": "failed", "retries": self.queue}
        return record_error(
            self.store, id=name, operation=kind, arguments={"n": name}, customer="acme", subscription="sub",
            context={}, clock=self.clock, randbelow=self.dice.randrange, **(given | over),
        )  # fmt: skip

    def perform(self, name: str, kind: str, error_type: ErrorType = ErrorType.PAYMENT_FAILED) -> ErrorRecord | None:
        """Perform an operation that is written down first."""
        return perform(
            self.store, self.operations[kind], {"n": name}, id=name, error_type=error_type, customer="acme",
            subscription=None, context={}, clock=self.clock, time_left=self.time_left, retries=self.queue,
            randbelow=self.dice.randrange,
        )  # fmt: skip

    def sweep(self) -> Run:
        """What the schedule does."""
        run = self.processor().sweep()
        self.runs.append(run)
        return run

    def take(self, names: Iterable[str]) -> Run:
        """Try these."""
        return self.processor().take(names)

    def deliver(self, message: tuple[datetime, str]) -> None:
        """What the function does with a message of the queue that has been taken from it; it may go back."""
        name = record_of(message[1])
        run = self.work(self.sweep if name is None else lambda: self.take([name]))
        if run is None or run.faults or (name and run.stopped_early):
            self.messages.append((self.now + timedelta(minutes=24), message[1]))

    def deliver_due(self) -> int:
        """Deliver the messages whose time has come; how many."""
        due = [one for one in self.messages if one[0] <= self.now]
        self.messages = [one for one in self.messages if one[0] > self.now]
        for message in due:
            self.deliver(message)
        return len(due)

    def settle(self, rounds: int = 60) -> None:
        """Let it all come to an end, undisturbed: time, the schedule and the queue."""
        for _ in range(rounds):
            self.observe()
            if not self.messages and not any(self.store.due(self.now + timedelta(days=3650))):
                break
            self.now += timedelta(minutes=30)
            self.work(self.sweep)
            self.deliver_due()
        else:
            raise AssertionError("it does not end")

    # Proof

    def scan(self) -> dict[tuple[str, str], Any]:
        """All that the table holds, past hooks."""
        answer, failed = self.database.ask("Scan", {"TableName": "tollgate-test-recovery"})
        assert not failed
        assert "LastEvaluatedKey" not in answer
        return {(item["pk"]["S"], item["sk"]["S"]): item for item in answer["Items"]}

    def observe(self) -> None:
        """Prove that nothing was rewritten or lost since the last look, and that each record is sound."""
        found = self.scan()
        heads = {name: item for (name, place), item in found.items() if place == "R"}
        for (name, place), item in self.rows.items():
            begun = self.rows.get((name, "R"), {})
            if name == "CIRCUIT" or ("outcome" not in begun and name not in heads):
                continue  # what succeeded at once is forgotten, and it was no error
            assert name in heads, f"{name} is gone"
            if place != "R":
                assert found.get((name, place)) == item, f"{name} {place} was rewritten or removed"
        changed = {name: item for name, item in heads.items() if self.rows.get((name, "R")) != item}
        self.rows = found
        for name, item in changed.items():
            self._check_indexes(name, item)
            record = self._get(name)
            check_record(record)
            before = self.known.get(name)
            if before is not None and before.outcome is not None:
                assert record.history[: len(before.history)] == before.history
                assert record.tries[: len(before.tries)] == before.tries
            self.known[name] = record

    def _get(self, name: str) -> ErrorRecord:
        before, after, self.database.before, self.database.after = self.database.before, self.database.after, [], []
        try:
            record = self.store.get(name)
        finally:
            self.database.before, self.database.after = before, after
        assert record is not None
        return record

    @staticmethod
    def _check_indexes(name: str, item: Mapping[str, Any]) -> None:
        """Each index has the record if and only if it should, and at its place."""
        status, listed = item["status"]["S"], "outcome" in item
        due = {"pending": "next_retry_at", "retrying": "lease_until"}.get(status)
        assert item.get("due_at") == (item[due] if due else None), name
        assert ("due_shard" in item) == bool(due), name
        assert item["listed_at"]["S"] == f"{item['created_at']['S']}#{name}"
        for index in ("status", "type"):
            entry = item.get(f"listed_{index}", {}).get("S")
            assert (entry is not None) == listed, name
            assert entry is None or entry.partition("#")[0] == item[index]["S"], name
        for index in ("customer", "subscription"):
            assert item.get(f"listed_{index}") == (item.get(index) if listed else None), name

    def check_effects(self) -> None:
        """Whatever is resolved has had its effect, and nothing has had two; who gave up has told."""
        for kind in KINDS:
            assert not [key for key, times in self.bank(kind).effects.items() if times > 1], f"{kind}: two effects"
        for name, record in self.known.items():
            last = record.history[-1]
            by_run = last.actor.startswith("run_") or last.actor == "system"
            if record.status == "resolved" and by_run:
                assert self.bank(record.operation).effects[name] == 1, name
            if record.status == "manual" and by_run and last.from_status == "retrying":
                assert self.told[name] or "could not be told" in last.note, name


def check_record(record: ErrorRecord) -> None:
    """Prove that the history is a legal path to where the record stands, and its tries those of the path."""
    before: str | None = None
    for entry in record.history:
        assert entry.from_status == before, record
        assert entry.to_status in LEGAL[before], record
        before = entry.to_status
    assert before == record.status
    assert len(record.history) == record.revision
    assert [one.number for one in record.tries] == list(range(1, record.attempts + 1))
    leased = sum(entry.to_status == "retrying" for entry in record.history)
    assert record.attempts <= leased
    succeeded = [one.number for one in record.tries if one.outcome == "succeeded"]
    assert succeeded in ([], [record.attempts])
    assert not succeeded or record.status == "resolved"
    if record.history[0].to_status == "retrying" and record.tries:
        assert record.tries[0].at >= record.created_at

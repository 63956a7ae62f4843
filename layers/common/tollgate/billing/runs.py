"""The billing run: all subscriptions that are due, each billed by itself; and what came of it.

A run finds what is due through an index, bills as much as it has time for, and sends the rest to a queue, a message
per subscription. Who is due stays due until it is billed: what is lost on the way is found by the next run.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Protocol

from tollgate.kernel.errors import Conflict, FieldError, InvalidInput
from tollgate.kernel.ids import is_id
from tollgate.kernel.json import read_json
from tollgate.kernel.time import format_time, parse_time

__all__ = [
    "BILL_SUBSCRIPTION",
    "Message",
    "Progress",
    "Result",
    "Run",
    "Runs",
    "carry_out",
    "message_text",
    "message_to_dict",
    "progress",
    "progress_to_dict",
    "read_message",
    "requeue",
]

BILL_SUBSCRIPTION: Final = "bill_subscription"
"""The operation that bills a subscription again, by a message; it may be repeated."""

_SHOWN: Final = 100
"""Failures that a summary names."""

_SENT_TOGETHER: Final = 100
"""Messages that are sent before more is looked for: what was sent is billed whatever becomes of the run."""


@dataclass(frozen=True, slots=True)
class Run:
    """A billing run; `found` is how many subscriptions were due, None while they are still looked for.

    `asked_for` is the instant that the request named, if it named one: `as_of` is no later than the start.
    """

    id: str
    as_of: datetime
    started_at: datetime
    actor: str
    found: int | None = None
    asked_for: datetime | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a subscription in a run: its new invoices, or why it could not be billed.

    `is_done` is False while periods of it are left, which are in the queue.
    """

    subscription: str
    invoices: tuple[str, ...] = ()
    error: str | None = None
    is_done: bool = True


@dataclass(frozen=True, slots=True)
class Progress:
    """A run so far."""

    run: Run
    billed: int
    invoices: int
    failures: tuple[Result, ...]

    @property
    def is_done(self) -> bool:
        """Whether nothing of it is left in the queue."""
        return self.run.found is not None and self.billed + len(self.failures) >= self.run.found


@dataclass(frozen=True, slots=True)
class Message:
    """A subscription to be billed up to an instant, for a run."""

    subscription: str
    as_of: datetime
    run: str


class Runs(Protocol):
    """Where runs are kept."""

    def run(self, run_id: str) -> Run | None:
        """The run, if there is one."""

    def begin(self, run: Run) -> bool:
        """Write a new run; False when its id is taken."""

    def found(self, run: Run) -> None:
        """Write how many subscriptions a run has found."""

    def record(self, run_id: str, result: Result) -> None:
        """Write what came of a subscription: its invoices are added to those known, else the last word counts."""

    def results(self, run_id: str) -> Iterator[Result]:
        """What came of the subscriptions so far."""


def carry_out(
    run: Run,
    *,
    runs: Runs,
    due: Iterable[str],
    bill: Callable[[str], Result | None],
    send: Callable[[Sequence[Message]], None],
    has_time: Callable[[], bool],
) -> Progress:
    """Bill what is due; the same run again is only looked at, unless it broke off: then it goes on.

    Args:
        run: one that is new, or was asked for before.
        runs: where it is kept.
        due: the subscriptions that are due.
        bill: bills one: what came of it, or None where that is left to the queue.
        send: has messages wait in the queue.
        has_time: whether another subscription can be billed now.

    Raises:
        Conflict: another run has this id.
        Unavailable: not all could be queued; they are due still.
    """
    found: set[str] = set()
    if not runs.begin(run):
        known = runs.run(run.id)
        if known is None or known.asked_for != run.asked_for:
            raise Conflict(f"The run {run.id} was begun by another request.")
        if known.found is not None:
            return progress(known, runs)
        run, found = known, {result.subscription for result in runs.results(run.id)}
    waiting: list[Message] = []
    for name in due:
        found.add(name)
        result = bill(name) if has_time() else None
        if result is not None:
            runs.record(run.id, result)
        if result is None or not result.is_done:
            waiting.append(Message(name, run.as_of, run.id))
        if len(waiting) == _SENT_TOGETHER:
            send(waiting)
            waiting = []
    send(waiting)
    done = replace(run, found=len(found))
    runs.found(done)
    return progress(done, runs)


def progress(run: Run, runs: Runs) -> Progress:
    """What has come of a run so far."""
    billed = invoices = 0
    failures: list[Result] = []
    for result in runs.results(run.id):
        invoices += len(result.invoices)
        if result.error is not None:
            failures.append(result)
        elif result.is_done:
            billed += 1
    return Progress(run, billed, invoices, tuple(failures))


def progress_to_dict(so_far: Progress) -> dict[str, Any]:
    """A run as the API shows it."""
    run = so_far.run
    return {
        "id": run.id,
        "status": "done" if so_far.is_done else "running",
        "as_of": format_time(run.as_of),
        "started_at": format_time(run.started_at),
        "actor": run.actor,
        "subscriptions": run.found,
        "billed": so_far.billed,
        "invoices": so_far.invoices,
        "failed": len(so_far.failures),
        "failures": [{"subscription": one.subscription, "error": one.error} for one in so_far.failures[:_SHOWN]],
    }


def message_to_dict(message: Message) -> dict[str, Any]:
    """A message as JSON values."""
    return {"subscription": message.subscription, "as_of": format_time(message.as_of), "run": message.run}


def message_text(message: Message) -> str:
    """A message of the billing queue."""
    return json.dumps(message_to_dict(message))


def read_message(text: str) -> Message:
    """Read back what `message_text` wrote.

    Raises:
        BadRequest, InvalidInput: it is no such message.
    """
    body = read_json(text)
    try:
        message = Message(body["subscription"], parse_time(body["as_of"]), body["run"])
    except (LookupError, TypeError, ValueError):
        raise InvalidInput([FieldError("", "must be a subscription to be billed")]) from None
    if not is_id(message.subscription) or not is_id(message.run):
        raise InvalidInput([FieldError("", "must name a subscription and a run")])
    return message


def requeue(arguments: Mapping[str, Any], send: Callable[[str], object]) -> None:
    """The operation bill_subscription: the message once more."""
    send(message_text(read_message(json.dumps(dict(arguments)))))

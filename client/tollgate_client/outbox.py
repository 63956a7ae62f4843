"""The buffer: events that wait to be sent, at least once each. Does no I/O.

An event leaves it when the API has counted it, knows it already, or says that it never will; else it is sent again,
with the same id, so that it counts once. A commit that did not reach the API waits here too.
"""

import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import httpx

from tollgate_client.errors import error_of
from tollgate_client.model import Event, Rejected, Stats
from tollgate_client.wire import Request, backoff, path_of, post, retry_after

__all__ = ["MAX_BYTES", "MAX_EVENTS", "Batch", "Entry", "Outbox", "request_of"]

MAX_EVENTS: Final = 500
MAX_BYTES: Final = 1_000_000
"""What one request may hold."""

_BASE: Final = 0.5
_LONGEST: Final = 30.0
_REFUSED: Final = frozenset({400, 413, 422})  # whoever sends it, while a key that lacks its scope may get it

logger = logging.getLogger("tollgate_client")


class Entry:
    """An event that waits; or, if it names a reservation, the commit that is to count it.

    Raises:
        TypeError, ValueError: properties that are not JSON, or too many of them.
    """

    __slots__ = ("commits", "content", "event")

    def __init__(self, event: Event, commits: str | None = None) -> None:
        self.event = event
        self.commits = commits
        self.content = json.dumps(event.to_dict(), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        if len(self.content) + 2 > MAX_BYTES:
            raise ValueError(f"the event has {len(self.content)} bytes; at most {MAX_BYTES} are sent")


Batch = Mapping[int, Entry]
"""What goes into one request, by its number in the buffer."""

_Outcome = tuple[str, str, str]
"""What became of an entry (accepted, duplicate, rejected, refused, again, uncommitted), a code and a sentence."""
_AGAIN: Final = ("again", "", "")


class Outbox:
    """Entries that wait or are on their way, and what became of the others. Safe for threads.

    Args:
        size: entries it holds.
        interval: seconds after which an entry is sent even if a request is not full.
        on_rejected: is told of each event that will never count.
        chance: gives numbers in [0, 1).
    """

    def __init__(
        self, size: int, interval: float, on_rejected: Callable[[Rejected], None] | None, chance: Callable[[], float]
    ) -> None:
        self.closed = False
        self.last = 0
        self._size = size
        self._interval = interval
        self._on_rejected = on_rejected
        self._chance = chance
        self._lock = threading.Lock()
        self._waiting: dict[int, Entry] = {}
        self._sending: dict[int, Entry] = {}
        self._bytes = self._failures = 0
        self._most = MAX_EVENTS
        self._since = self._retry_at = 0.0
        self._counts: Counter[str] = Counter()
        self._in_error: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}

    def stats(self) -> Stats:
        """The figures now."""
        with self._lock:
            accepted, duplicate, rejected = (self._counts[name] for name in ("accepted", "duplicate", "rejected"))
            allowed, denied = (dict(self._in_error[allowed]) for allowed in (True, False))
            pending = len(self._waiting) + len(self._sending)
            return Stats(pending, accepted, duplicate, rejected, allowed, denied)

    def note_error(self, feature: str, *, allowed: bool) -> None:
        """Count an answer that was given without the API."""
        with self._lock:
            self._in_error[allowed][feature] += 1

    def add(self, entries: Sequence[Entry], now: float, *, force: bool = False) -> bool:
        """Take entries, all or none; whether there was room, which `force` does not ask for.

        Raises:
            RuntimeError: it is closed.
        """
        with self._lock:
            if self.closed:
                raise RuntimeError("the client has been closed")
            if not force and len(self._waiting) + len(self._sending) + len(entries) > self._size:
                return False
            if not self._waiting:
                self._since = now
            for entry in entries:
                self.last += 1
                self._waiting[self.last] = entry
                self._bytes += len(entry.content)
        return True

    def due_in(self, now: float) -> float | None:
        """Seconds until something should be sent; None if nothing waits."""
        with self._lock:
            if not self._waiting:
                return None
            is_full = len(self._waiting) >= MAX_EVENTS or self._bytes >= MAX_BYTES
            due = now if is_full or self._failures else self._since + self._interval
            return max(due - now, self._retry_at - now, 0.0)

    def retry_in(self, now: float) -> float:
        """Seconds until what failed should be sent again; 0 if nothing has failed."""
        return max(self._retry_at - now, 0.0)

    def holds(self, number: int) -> bool:
        """Whether there is an entry that was added up to this number."""
        with self._lock:
            return any(other <= number for entries in (self._waiting, self._sending) for other in entries)

    def take(self) -> Batch:
        """What to send next: a commit, or as many events as a request may hold; to be settled in any case."""
        with self._lock:
            batch: dict[int, Entry] = {}
            length = 1
            for number, entry in islice(self._waiting.items(), self._most):
                length += len(entry.content) + 1
                if batch and (entry.commits or length > MAX_BYTES):
                    break
                batch[number] = entry
                if entry.commits:
                    break
            for number, entry in batch.items():
                self._sending[number] = self._waiting.pop(number)
                self._bytes -= len(entry.content)
            return batch

    def settle(self, batch: Batch, response: httpx.Response | None, now: float) -> None:
        """Take what was answered to a batch; None: nothing was."""
        outcomes = _outcomes(list(batch.values()), response)
        # An event that no parser reads spoils a whole request: it is looked for in halves.
        is_spoilt = len(batch) > 1 and outcomes[0][0] == "refused"
        rejected: list[Rejected] = []
        with self._lock:
            for (number, entry), (status, reason, detail) in zip(batch.items(), outcomes, strict=True):
                if self._sending.pop(number, None) is None:
                    continue  # given up meanwhile
                if is_spoilt or status in {"again", "uncommitted"}:
                    entry.commits = None if status == "uncommitted" else entry.commits
                    self._waiting[number] = entry
                    self._bytes += len(entry.content)
                elif status in {"accepted", "duplicate"}:
                    self._counts[status] += 1
                else:
                    self._counts["rejected"] += 1
                    rejected.append(Rejected(entry.event, reason, detail))
            self._most = len(batch) // 2 if is_spoilt else MAX_EVENTS
            has_failed = _AGAIN in outcomes
            self._failures = self._failures + 1 if has_failed else 0
            wait = backoff(self._failures, retry_after(response), self._chance(), base=_BASE, most=_LONGEST)
            self._retry_at = now + wait if has_failed else 0.0
        if has_failed:
            said = "nothing" if response is None else str(error_of(response))
            logger.warning("events are to be sent again in %.1f s: the answer was %s", wait, said)
        self._report(rejected)

    def abandon(self) -> None:
        """Give up and report what there is."""
        with self._lock:
            entries = [*self._sending.values(), *self._waiting.values()]
            self._sending, self._waiting = {}, {}
            self._counts["rejected"] += len(entries)
        self._report([Rejected(entry.event, "not_sent", "the client was closed") for entry in entries])

    def _report(self, rejected: Sequence[Rejected]) -> None:
        for one in rejected:
            event, why = one.event, (one.reason, one.detail)
            logger.error("event %s of %s for %s was not counted: %s, %s", event.id, event.feature, event.customer, *why)
            if self._on_rejected is not None:
                try:
                    self._on_rejected(one)
                except Exception:
                    logger.exception("on_rejected failed")


def request_of(batch: Batch) -> Request:
    """The request that sends a batch."""
    first, *_ = entries = list(batch.values())
    if first.commits:
        return post(path_of("reservations", first.commits, "commit"), quantity=first.event.quantity)
    return Request("POST", path_of("events"), b"[" + b",".join(entry.content for entry in entries) + b"]")


def _outcomes(entries: Sequence[Entry], response: httpx.Response | None) -> list[_Outcome]:
    """What an answer says of each entry; again, if it says nothing of it."""
    again = [_AGAIN] * len(entries)
    if response is None:
        return again
    commits = bool(entries and entries[0].commits)
    if commits and response.status_code == httpx.codes.NOT_FOUND:
        return [("uncommitted", "", "")]
    if response.status_code in _REFUSED or (commits and response.status_code == httpx.codes.CONFLICT):
        error = error_of(response)
        return [("refused", error.title, error.detail)] * len(entries)
    try:
        body = response.json() if response.is_success else {}
        results = [body] if commits else body["results"]
        return [_outcome(result) for result, _ in zip(results, entries, strict=True)]
    except (ValueError, KeyError, TypeError):
        return again


def _outcome(result: Mapping[str, Any]) -> _Outcome:
    """What a result says of an event, or the answer to a commit of it.

    Of a commit that comes too late to find room the work is done: it counts as an event.
    """
    match result["status"]:
        case "committed":
            return "accepted", "", ""
        case "denied":
            return "uncommitted", "", ""
        case "accepted" | "duplicate" as status:
            return str(status), "", ""
        case "rejected" if result.get("retryable"):
            return _AGAIN
        case status:
            return "rejected", str(result.get("reason", status)), str(result.get("detail", ""))

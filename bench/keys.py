"""Does the time of the authorizer's answer tell which key ids there are? `make bench-keys`.

Guesses at a known and at an unknown id take turns in one run, each with a secret of its own. The database's answers are
recorded first and then played back: what is measured is all between a header and the verdict that is ours, botocore
included, and no network hides anything. Besides the medians a rank test: the probability that a guess at a
known id takes longer than one at an unknown id (Mann and Whitney), which is a half where the times tell nothing. The
same is asked of the obvious way, which remembers keys by their ids, to show that the test can tell. The exit code is 1
where a limit is not held.
"""

import gc
import json
import random
import sys
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
from types import SimpleNamespace
from typing import Any, Final

from botocore.awsrequest import AWSResponse, HTTPHeaders

from bench.report import Report, run
from tests.conftest import create_tables
from tollgate.catalog.key_store import DynamoKeys
from tollgate.catalog.keyring import KeyRing
from tollgate.catalog.keys import ApiKey, create_key, hash_of, read_token
from tollgate.kernel.dynamodb import CatalogTable, connect
from tollgate.kernel.time import system_clock
from tools.engine import Call, Engine, engine

__all__ = ["main"]

GUESSES: Final = 6_000
WARM: Final = 300
UNKNOWN: Final = "fedcba9876543210"
COLUMNS: Final = ("", "known id, us", "unknown id, us", "ratio of medians", "P(known slower)")

Find = Callable[[str], object]


class _ById:
    """The obvious way: what was read is remembered by id, and an unknown id is answered at once."""

    def __init__(self, store: DynamoKeys) -> None:
        self._store = store
        self._known: dict[str, ApiKey | None] = {}

    def find(self, authorization: str) -> ApiKey | None:
        """The key of a header."""
        token = read_token(authorization.partition(" ")[2])
        if token is None:
            return None
        if token.key_id not in self._known:
            self._known[token.key_id] = self._store.key(token.key_id)
        key = self._known[token.key_id]
        if key is None:
            del self._known[token.key_id]  # what is unknown is not remembered
            return None
        return key if hash_of(token.secret) == key.secret_hash else None


def show_guesses(report: Report) -> None:
    """Times of guesses, while the key rests and while it is in use."""
    store = DynamoKeys()
    with engine(create_tables) as database:
        key, secret = create_key(store, name="victim", scopes=("admin",), clock=system_clock)
        KeyRing(store, system_clock).find(f"Bearer {secret}")  # it is marked as used, for an hour
        answers = _answers(database, store, [key.id, UNKNOWN])
    rows = []
    with _played_back(answers):
        ways: dict[str, tuple[Find, bool]] = {
            "the key rests": (KeyRing(store, system_clock).find, False),
            "the key is in use": (KeyRing(store, system_clock).find, True),
            "the obvious way, in use": (_ById(store).find, True),
        }
        for name, (find, used) in ways.items():
            known, unknown = _times(find, key.id, f"Bearer {secret}" if used else "")
            ratio, slower = median(known) / median(unknown), _slower(known, unknown)
            if not name.startswith("the obvious"):
                report.hold(f"medians apart, {name}", max(ratio, 1 / ratio), 1.1)
            shown = f"{ratio:.3f}", f"{slower:.3f}"
            rows.append([name, f"{median(known) / 1e3:.1f}", f"{median(unknown) / 1e3:.1f}", *shown])
    report.table("Guesses at a key", COLUMNS, rows, [f"{GUESSES:,} guesses of each kind by turns, none of them twice"])


def _answers(database: Engine, store: DynamoKeys, ids: Sequence[str]) -> dict[bytes, bytes]:
    """What a read of each id is answered, as on the wire."""
    answers: dict[bytes, bytes] = {}

    def record(call: Call) -> None:
        answers[call.request["Key"]["sk"]["S"].encode()] = json.dumps(call.answer, separators=(",", ":")).encode()

    with database.hooked(after=record):
        for key_id in ids:
            store.key(key_id)
    return answers


@contextmanager
def _played_back(answers: Mapping[bytes, bytes]) -> Iterator[None]:
    """Have the database's client answer so, with no database."""

    def answer(request: Any, **_: object) -> Any:
        body = next(body for key_id, body in answers.items() if key_id in request.body)
        return AWSResponse(request.url, 200, HTTPHeaders(), SimpleNamespace(stream=lambda **_: [body]))

    events = connect(CatalogTable).client.meta.events
    events.register_first("before-send.dynamodb", answer)
    try:
        yield
    finally:
        events.unregister("before-send.dynamodb", answer)


def _times(find: Find, known: str, own: str) -> tuple[list[int], list[int]]:
    """Nanoseconds of guesses at the known id and at an unknown one, in an order that is drawn by lot."""
    times: dict[str, list[int]] = {known: [], UNKNOWN: []}
    turns = [known, UNKNOWN] * GUESSES
    random.Random(1).shuffle(turns)  # noqa: S311  an order, and no secret
    gc.disable()
    for number, key_id in enumerate(turns):
        find(own)
        header = f"Bearer tg_{key_id}_{number:064x}"
        began = time.perf_counter_ns()
        found = find(header)
        times[key_id].append(time.perf_counter_ns() - began)
        if found is not None:
            raise RuntimeError("a guess was right")
    gc.enable()
    return times[known][WARM:], times[UNKNOWN][WARM:]


def _slower(these: Sequence[int], those: Sequence[int]) -> float:
    """The probability that one of these is larger than one of those; of equals, half."""
    ranked = sorted(those)
    below = sum(bisect_left(ranked, one) + bisect_right(ranked, one) for one in these)
    return below / 2 / len(these) / len(those)


def main() -> int:
    """Run the benchmark."""
    return run("bench.keys", "Does the authorizer's time tell which key ids there are?", {"guesses": show_guesses})


if __name__ == "__main__":
    sys.exit(main())

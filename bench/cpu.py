"""Client-side CPU of a request, the database taken out: its answers are recorded first and then played back.

What is measured is everything between the body of a request and that of its answer: parsing, placing, counting,
PynamoDB, botocore with signing and parsing. A socket and TLS are not in it.
"""

import contextlib
import cProfile
import gc
import json
import pstats
import re
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import fmean
from typing import Any, Final
from unittest import mock

from botocore.awsrequest import AWSPreparedRequest, AWSResponse, HTTPHeaders

from bench.payload import Sender
from bench.world import Function, populate
from tests.conftest import create_tables
from tollgate.kernel.dynamodb import CatalogTable, UsageTable, connect
from tools.engine import Call, engine

__all__ = ["Cpu", "measure", "profile", "requests_of"]

_ROUNDS: Final = 15
_WARM: Final = 3
_MEASURED: Final = {1: 60, 10: 40, 100: 20, 500: 10}
_LINES: Final = 45
_PARTITION: Final = re.compile(r'"pk": ?\{"S": ?"([^"]*)"')
_PHASES: Final = r"tollgate|read_json|_make_api_call|zlib|json.*(loads|dumps)"

Request = tuple[str, datetime]


@dataclass(frozen=True, slots=True)
class Cpu:
    """Seconds of CPU per event, the best of several runs, and of `json.loads` of the same text."""

    path: float
    loads: float

    @property
    def ratio(self) -> float:
        """How many times `json.loads` the path takes."""
        return self.path / self.loads


_Kind = tuple[str, str]
"""An operation and the partition key that its request names first: what tells calls apart that come side by side."""


class _Recording:
    """Answers in the order in which they were given, by kind of call."""

    def __init__(self) -> None:
        self._answers: dict[_Kind, list[bytes]] = defaultdict(list)

    def note(self, call: Call) -> None:
        """Keep an answer, as DynamoDB would give it where nobody asks what it consumed."""
        if call.failed:
            raise AssertionError(f"{call.operation} failed while it was recorded: {call.answer}")
        answer = {name: value for name, value in call.answer.items() if name != "ConsumedCapacity"}
        kind = _kind(call.operation, json.dumps(call.request))
        self._answers[kind].append(json.dumps(answer).encode())

    @contextlib.contextmanager
    def played(self) -> Iterator[None]:
        """Answer the stores from the start of the recording while the context lasts; no engine may answer them."""
        left = {kind: deque(answers) for kind, answers in self._answers.items()}

        def send(request: AWSPreparedRequest, **_: Any) -> AWSResponse:
            target = request.headers["X-Amz-Target"]
            operation = (target.decode() if isinstance(target, bytes) else target).partition(".")[2]
            body = request.body if isinstance(request.body, bytes) else b""
            answer = left[_kind(operation, body.decode())].popleft()
            headers = HTTPHeaders()
            headers["Content-Type"] = "application/x-amz-json-1.0"
            return AWSResponse(request.url, 200, headers, _Body(answer))

        clients: list[Any] = [connect(table).client for table in (CatalogTable, UsageTable)]
        for client in clients:
            client.meta.events.register_first("before-send.dynamodb", send)
        try:
            yield
        finally:
            for client in clients:
                client.meta.events.unregister("before-send.dynamodb", send)


def _kind(operation: str, request: str) -> _Kind:
    found = _PARTITION.search(request)
    return operation, found[1] if found else ""


class _Body:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self._content


def _record(requests: Sequence[Request], customers: Sequence[str], *, archive: bool) -> _Recording:
    recording = _Recording()
    with engine(create_tables) as database:
        populate(customers, requests[0][1] - timedelta(days=9))
        function = Function(archive=archive)
        with database.hooked(after=recording.note):
            for body, now in requests:
                function.count(body, now)
    return recording


def requests_of(customers: Sequence[str], size: int, a_second: float, start: datetime) -> list[Request]:
    """Requests one after another: the first few warm the function, the others are measured."""
    sender = Sender(start)
    return [sender.request(customers, size, a_second) for _ in range(_WARM + _MEASURED[size])]


def measure(requests: Sequence[Request], customers: Sequence[str], *, archive: bool) -> Cpu:
    """CPU per event of requests of the same size, one after another in a warm function."""
    recording = _record(requests, customers, archive=archive)
    events = len(json.loads(requests[0][0]))
    path = [float("inf")] * len(requests)
    loads = list(path)
    for _ in range(_ROUNDS):
        function = Function(archive=archive)
        gc.collect()
        with recording.played():
            for place, (body, now) in enumerate(requests):
                started = time.process_time()
                function.handle(body, now)
                path[place] = min(path[place], time.process_time() - started)
                started = time.process_time()
                json.loads(body)
                loads[place] = min(loads[place], time.process_time() - started)
    return Cpu(fmean(path[_WARM:]) / events, fmean(loads[_WARM:]) / events)


def profile(requests: Sequence[Request], customers: Sequence[str], *, archive: bool) -> None:
    """Print where the time goes, by function; work that goes to threads is done at once, so as to be seen."""
    recording = _record(requests, customers, archive=archive)
    profiler = cProfile.Profile()
    with mock.patch.object(ThreadPoolExecutor, "submit", _at_once):
        for _ in range(_ROUNDS):
            function = Function(archive=archive)
            with recording.played():
                for body, now in requests[:_WARM]:
                    function.handle(body, now)
                profiler.enable()
                for body, now in requests[_WARM:]:
                    function.handle(body, now)
                profiler.disable()
    statistics = pstats.Stats(profiler)
    statistics.sort_stats("tottime").print_stats(_LINES)
    statistics.sort_stats("cumtime").print_stats(_PHASES, _LINES)


def _at_once(_: ThreadPoolExecutor, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(function(*args, **kwargs))
    return future

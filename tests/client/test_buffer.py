"""Recorded events: sent together, sent again, and never lost without a word."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest

from tests.client.fakes_api import URL, Answer, Api, Connect, accepted, problem
from tollgate_client import AsyncTollgate, BufferFull, Event, Rejected, Tollgate
from tollgate_client.outbox import Entry, Outbox

OUTAGE = httpx.ConnectError("refused")


def test_an_event_is_sent_as_it_was_recorded(connect: Connect) -> None:
    """Nothing is asked before it is flushed; then it is one request, and the figures say so."""
    api = Api(accepted)
    tollgate = connect(api)
    made = tollgate.record("ada", "tokens", Decimal("1.50"), source="gpu", properties={"model": "small", "käse": [1]})
    own = tollgate.record("ben", "calls", id="call-1")
    assert not api.requests
    assert tollgate.stats.pending == 2
    stats = tollgate.flush()
    assert api.paths == ["POST /v1/events"]
    first = {"id": made, "customer": "ada", "feature": "tokens", "quantity": "1.50"}
    properties = {"model": "small", "käse": [1]}
    second = {"id": own, "customer": "ben", "feature": "calls", "quantity": "1"}
    assert api.bodies == [[first | {"source": "gpu", "properties": properties}, second]]
    assert (stats.pending, stats.accepted) == (0, 2)


def test_a_request_holds_at_most_500_events_and_a_megabyte(connect: Connect) -> None:
    """The limits of the API."""
    api = Api(OUTAGE)
    tollgate = connect(api)
    for _ in range(1_200):
        tollgate.record("ada", "tokens")
    for _ in range(3):
        tollgate.record("ada", "tokens", properties={"text": "x" * 400_000})
    api.answers = [accepted]
    api.requests.clear()
    while tollgate.flush().pending:  # the client's own thread may have a batch on its way, and the clock stands still
        pass
    assert tollgate.stats.accepted == 1_203
    assert all(len(request.content) <= 1_000_000 for request in api.requests)
    sizes = [len(body) for body in api.bodies]  # in which order they are depends on what was tried in the outage
    assert max(sizes) == 500
    assert sum(sizes) == 1_203


@pytest.mark.parametrize(
    "failure",
    [
        OUTAGE,
        httpx.ReadTimeout("lost"),
        problem(429),
        problem(503),
        problem(401),
        problem(403),
        httpx.Response(200, content="<html>"),
        httpx.Response(200, json={"results": []}),
        httpx.Response(302),
    ],
    ids=repr,
)
def test_what_was_not_answered_is_sent_again_with_its_id(connect: Connect, failure: Answer) -> None:
    """Also where the key is not accepted: it may be, once its scope is given."""
    api = Api(failure, failure, accepted)
    tollgate = connect(api)
    name = tollgate.record("ada", "tokens")
    stats = tollgate.flush()
    assert [[event["id"] for event in body] for body in api.bodies] == [[name]] * 3
    assert (stats.pending, stats.accepted) == (0, 1)
    assert connect.clock.pauses == [0.25, 0.5]


def test_only_what_can_be_sent_again_is(connect: Connect) -> None:
    """An event that was not counted in time is; what was counted, known, or refused is not."""
    told: list[Rejected] = []
    rejected = {"status": "rejected", "reason": "feature_not_in_plan", "detail": "no plan has it"}
    first = partial(
        accepted,
        late={"status": "rejected", "reason": "unavailable", "detail": "again", "retryable": True},
        known={"status": "duplicate"},
        other={"status": "conflict"},
        wrong=rejected,
    )
    api = Api(first, accepted)
    tollgate = connect(api, on_rejected=told.append)
    for name in ("late", "new", "known", "other", "wrong"):
        tollgate.record("ada", "tokens", id=name)
    stats = tollgate.flush()
    assert [[event["id"] for event in body] for body in api.bodies[1:]] == [["late"]]
    assert (stats.accepted, stats.duplicate, stats.rejected, stats.pending) == (2, 1, 2, 0)
    assert [(one.event.id, one.reason, one.detail) for one in told] == [
        ("other", "conflict", ""),
        ("wrong", "feature_not_in_plan", "no plan has it"),
    ]


def test_a_rejection_is_logged_and_a_callback_that_fails_stops_nothing(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is dropped without a word."""

    def fail(_: Rejected) -> None:
        raise ZeroDivisionError

    tollgate = connect(Api(partial(accepted, one={"status": "rejected", "reason": "too_old"})), on_rejected=fail)
    tollgate.record("ada", "tokens", id="one")
    tollgate.record("ada", "tokens", id="two")
    assert tollgate.flush().accepted == 1
    assert [record.message for record in caplog.records] == [
        "event one of tokens for ada was not counted: too_old, ",
        "on_rejected failed",
    ]


def test_an_event_that_spoils_its_request_is_found(connect: Connect) -> None:
    """A request that cannot be read at all is sent in halves until the culprit stands alone."""
    told: list[Rejected] = []

    def answer(request: httpx.Request) -> httpx.Response:
        ids = [event["id"] for event in json.loads(request.content)]
        return problem(400) if "bad" in ids else accepted(request)

    tollgate = connect(answer, on_rejected=told.append)
    for name in [*map(str, range(100)), "bad", *map(str, range(100, 150))]:
        tollgate.record("ada", "tokens", id=name)
    stats = tollgate.flush()
    assert (stats.accepted, stats.rejected, stats.pending) == (150, 1, 0)
    assert [one.event.id for one in told] == ["bad"]


def test_a_flush_ends_in_time_and_says_what_waits(connect: Connect) -> None:
    """In an outage, after some tries."""
    api = Api(OUTAGE)
    tollgate = connect(api)
    tollgate.record("ada", "tokens")
    stats = tollgate.flush(timeout=5)
    assert stats.pending == 1
    assert connect.clock.now <= 1_005
    assert len(api.requests) > 3


def test_a_full_buffer_raises(connect: Connect) -> None:
    """By default; what was taken stays."""
    tollgate = connect(Api(OUTAGE), buffer_size=2)
    tollgate.record("ada", "tokens")
    tollgate.record("ada", "tokens")
    with pytest.raises(BufferFull, match="2 events wait"):
        tollgate.record("ada", "tokens")
    assert tollgate.stats.pending == 2


def test_a_full_buffer_may_be_waited_for(connect: Connect) -> None:
    """Whoever records sends what waits, as often as it takes."""
    api = Api(OUTAGE, OUTAGE, accepted)
    tollgate = connect(api, buffer_size=2, when_full="block")
    for _ in range(3):
        tollgate.record("ada", "tokens")
    assert (tollgate.stats.accepted, tollgate.stats.pending) == (2, 1)
    assert connect.clock.pauses == [0.25, 0.5]


def test_what_json_does_not_have_is_refused_where_it_is_recorded(connect: Connect) -> None:
    """Not later, in the background."""
    tollgate = connect(Api(accepted))
    for properties in ({"x": float("nan")}, {"x": object()}, {"x": "y" * 1_000_000}, {"x": "\ud800"}):
        with pytest.raises((TypeError, ValueError)):
            tollgate.record("ada", "tokens", properties=properties)
    assert tollgate.stats.pending == 0


def test_closing_sends_what_waits(connect: Connect) -> None:
    """And takes nothing more."""
    api = Api(accepted)
    tollgate = connect(api)
    tollgate.record("ada", "tokens")
    assert tollgate.close().accepted == 1
    with pytest.raises(RuntimeError, match="closed"):
        tollgate.record("ada", "tokens")


def test_closing_reports_what_it_gives_up(connect: Connect) -> None:
    """So that it can be kept elsewhere, and sent with its id."""
    told: list[Rejected] = []
    tollgate = connect(Api(OUTAGE), on_rejected=told.append)
    name = tollgate.record("ada", "tokens")
    stats = tollgate.close(timeout=5)
    assert (stats.pending, stats.rejected) == (0, 1)
    assert [(one.event.id, one.reason) for one in told] == [(name, "not_sent")]


def test_an_event_is_due_an_interval_after_it_was_recorded_whatever_was_sent_meanwhile() -> None:
    """Also one that comes while a request is on its way; what a spoilt request held is due at once."""
    outbox = Outbox(10, 1.0, None, lambda: 0.5)
    first, second, third = (Entry(Event("ada", "tokens", "1", name)) for name in "abc")
    outbox.add([first], 100.0)
    assert outbox.due_in(100.25) == 0.75
    batch = outbox.take()
    outbox.add([second], 101.5)
    outbox.settle(batch, httpx.Response(200, json={"results": [{"status": "accepted"}]}), 102.0)
    assert outbox.due_in(102.0) == 0.5
    outbox.add([third], 102.25)
    assert outbox.due_in(102.25) == 0.25
    batch = outbox.take()
    outbox.settle(batch, problem(400), 103.0)
    assert outbox.due_in(103.0) == 0.0
    outbox.settle(outbox.take(), None, 103.0)
    assert outbox.due_in(103.0) == 0.25  # nothing was answered


BACKGROUND = pytest.mark.parametrize(
    ("interval", "events"), [(0.01, 1), (3_600.0, 500)], ids=["in time", "when a request is full"]
)


@BACKGROUND
def test_a_thread_sends_what_is_recorded(interval: float, events: int) -> None:
    """With nobody flushing."""
    sent = threading.Event()

    def answer(request: httpx.Request) -> httpx.Response:
        sent.set()
        return accepted(request)

    with Tollgate(URL, "key", transport=httpx.MockTransport(answer), flush_interval=interval) as tollgate:
        for _ in range(events):
            tollgate.record("ada", "tokens")
        assert sent.wait(10)


@BACKGROUND
def test_a_task_sends_what_is_recorded(interval: float, events: int) -> None:
    """With nobody flushing."""

    async def record() -> None:
        sent = asyncio.Event()

        def answer(request: httpx.Request) -> httpx.Response:
            sent.set()
            return accepted(request)

        transport = httpx.MockTransport(answer)
        async with AsyncTollgate(URL, "key", transport=transport, flush_interval=interval) as tollgate:
            for _ in range(events):
                await tollgate.record("ada", "tokens")
            async with asyncio.timeout(10):
                await sent.wait()

    asyncio.run(record())


def test_threads_that_record_at_once_lose_nothing() -> None:
    """Each event is sent, while others flush."""
    seen: set[str] = set()

    def answer(request: httpx.Request) -> httpx.Response:
        seen.update(event["id"] for event in json.loads(request.content))
        return accepted(request)

    with Tollgate(URL, "key", transport=httpx.MockTransport(answer), when_full="block", buffer_size=100) as tollgate:

        def record() -> None:
            for _ in range(500):
                tollgate.record("ada", "tokens")
            tollgate.flush()

        threads = [threading.Thread(target=record) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert tollgate.stats.accepted == len(seen) == 2_000


def test_a_flow_that_is_broken_off_leaves_its_events_to_be_sent_again() -> None:
    """A flush that was interrupted has lost nothing."""
    api = Api(accepted)

    def interrupt(request: httpx.Request) -> httpx.Response:
        raise KeyboardInterrupt if not api.requests else AssertionError(api(request))

    transport = httpx.MockTransport(interrupt)
    tollgate = Tollgate(URL, "key", transport=transport, flush_interval=3_600.0)
    name = tollgate.record("ada", "tokens")
    with pytest.raises(KeyboardInterrupt):
        tollgate.flush()
    assert tollgate.stats.pending == 1
    transport.handler = api
    assert tollgate.close().accepted == 1
    assert [[event["id"] for event in body] for body in api.bodies] == [[name]]


@pytest.fixture
def counted() -> Iterator[tuple[str, list[str]]]:
    """A server on loopback, for programs of their own, and the ids of the events that it was sent."""
    ids: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Accept all."""
            events = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            ids.extend(event["id"] for event in events)
            body = json.dumps({"results": [{"id": event["id"], "status": "accepted"} for event in events]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", ids
        server.shutdown()
        thread.join()


SYNC = """
from tollgate_client import Tollgate
Tollgate({url!r}, "key", flush_interval=60.0).record("ada", "tokens", id="last")
"""
ASYNC = """
import asyncio
from tollgate_client import AsyncTollgate
async def main():
    await AsyncTollgate({url!r}, "key", flush_interval=60.0).record("ada", "tokens", id="last")
asyncio.run(main())
"""


@pytest.mark.parametrize("program", [SYNC, ASYNC], ids=["sync", "async"])
def test_a_program_that_ends_without_closing_sends_what_waits(program: str, counted: tuple[str, list[str]]) -> None:
    """And ends."""
    url, ids = counted
    client = Path(__file__).parents[2] / "client"
    command = [sys.executable, "-W", "error", "-c", program.format(url=url)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=client)
    assert (done.returncode, done.stderr) == (0, "")
    assert ids == ["last"]

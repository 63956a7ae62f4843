"""What is sent again, when, and what is said when that is of no use."""

import logging

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client.fakes_api import Answer, Api, Connect, decision, problem
from tollgate_client import UNREACHABLE, Unreachable
from tollgate_client.wire import backoff

CONSUMED = decision(status="consumed")
FAILURES: list[Answer] = [
    httpx.ConnectError("refused"),
    httpx.ReadTimeout("slow"),
    httpx.RemoteProtocolError("cut off"),
    problem(429),
    problem(500),
    httpx.Response(502, content="<html>"),
    problem(503),
]


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_the_same_request_is_sent_again(connect: Connect, failure: Answer) -> None:
    """With the same id, so that what was counted before its answer was lost is a duplicate."""
    api = Api(failure, failure, decision(status="duplicate"))
    answer = connect(api).consume("ada", "tokens")
    assert answer.status == "duplicate"
    assert answer.allowed
    assert [body["id"] for body in api.bodies] == [answer.id] * 3


def test_pauses_grow_and_heed_what_the_answer_asks_for(connect: Connect) -> None:
    """Half of 0.1, 0.2, 0.4: the jitter is at one half; then a second more, as asked."""
    asks = problem(503, headers={"Retry-After": "1"})
    connect(Api(problem(503), problem(503), asks, decision())).check("ada", "tokens")
    assert connect.clock.pauses == [0.05, 0.1, 1.2]


@given(st.integers(1, 10_000), st.integers(0, 60), st.floats(0, 1, exclude_max=True))
def test_a_pause_lies_between_what_is_asked_and_the_most_beyond_it(tries: int, asked: int, chance: float) -> None:
    """However many tries there were."""
    assert asked <= backoff(tries, asked, chance, base=0.1, most=2.0) <= asked + 2.0


def test_the_deadline_holds_for_all_tries_together(connect: Connect) -> None:
    """No pause is begun that would end after it; no try waits longer than what is left."""
    timeouts = []

    def slow(request: httpx.Request) -> httpx.Response:
        timeouts.append(request.extensions["timeout"]["read"])
        connect.clock.now += 2
        raise httpx.ReadTimeout("slow")

    connect(slow, timeout=3.0, deadline=6.0).check("ada", "tokens")
    assert timeouts == pytest.approx([3.0, 3.0, 1.85])
    assert connect.clock.now <= 1_006.0 + 2


def test_a_pause_that_lasts_too_long_leaves_time_for_a_last_try(connect: Connect) -> None:
    """Sleeping is never exact."""
    timeouts = []

    def answer(request: httpx.Request) -> httpx.Response:
        timeouts.append(request.extensions["timeout"]["read"])
        connect.clock.now += 10
        return problem(503)

    connect(Api(problem(503), answer), deadline=0.06).check("ada", "tokens")
    connect(answer, deadline=0).check("ada", "tokens")
    assert all(timeout > 0 for timeout in timeouts)


def test_an_answer_that_asks_to_wait_beyond_the_deadline_is_not_waited_for(connect: Connect) -> None:
    """The caller is not held up for nothing."""
    api = Api(problem(503, headers={"Retry-After": "60"}))
    assert connect(api).check("ada", "tokens").reason == UNREACHABLE
    assert (len(api.requests), connect.clock.pauses) == (1, [])


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_without_an_answer_the_settings_say_for_each_feature(connect: Connect, failure: Answer) -> None:
    """One that is not named is denied."""
    tollgate = connect(Api(failure), on_error={"search": "allow", "export": "deny"})
    answers = [tollgate.check("ada", feature) for feature in ("search", "export", "other")]
    assert [answer.allowed for answer in answers] == [True, False, False]
    assert {answer.reason for answer in answers} == {UNREACHABLE}
    assert tollgate.stats.allowed_in_error == {"search": 1}
    assert tollgate.stats.denied_in_error == {"export": 1, "other": 1}


def test_an_answer_without_tollgate_is_logged(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    """With what was in the way, and never the key."""
    connect(Api(httpx.ConnectError("refused"))).check("ada", "tokens")
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("tollgate_client", logging.WARNING)
    assert "tokens for ada is denied: no answer in" in record.message
    assert "ConnectError refused" in record.message
    assert "Bearer" not in record.message


def test_what_no_setting_can_answer_raises(connect: Connect) -> None:
    """Nobody here knows the customer's features."""
    with pytest.raises(Unreachable, match="503 A problem"):
        connect(Api(problem(503)), on_error="allow").check_all("ada")


def test_a_consumption_allowed_without_tollgate_is_counted_later_with_its_id(connect: Connect) -> None:
    """If it had been counted and only the answer was lost, it is a duplicate then."""
    api = Api(httpx.ReadTimeout("lost"))
    tollgate = connect(api, on_error="allow")
    answer = tollgate.consume("ada", "tokens", "2.5")
    assert (answer.allowed, answer.reason, answer.status) == (True, UNREACHABLE, None)
    api.answers = [{"results": [{"id": answer.id, "status": "duplicate"}]}]
    stats = tollgate.flush()
    assert api.paths[-1] == "POST /v1/events"
    assert api.bodies[-1] == [{"id": answer.id, "customer": "ada", "feature": "tokens", "quantity": "2.5"}]
    assert (stats.pending, stats.duplicate) == (0, 1)


def test_a_consumption_denied_without_tollgate_is_not_counted_later(connect: Connect) -> None:
    """The caller was told no."""
    tollgate = connect(Api(httpx.ReadTimeout("lost")))
    assert not tollgate.consume("ada", "tokens")
    assert tollgate.stats.pending == 0


def test_what_cannot_be_written_down_is_not_allowed(connect: Connect) -> None:
    """A full buffer denies: nothing is granted that would never be counted."""
    tollgate = connect(Api(httpx.ConnectError("refused")), on_error="allow", buffer_size=2)
    assert [tollgate.consume("ada", "tokens").allowed for _ in range(3)] == [True, True, False]
    assert not tollgate.consume_many("ada", {"tokens": 1, "bursts": 1})
    assert tollgate.stats.pending == 2


def test_several_features_are_allowed_without_tollgate_only_together(connect: Connect) -> None:
    """All of them must be allowed in error; each is counted later, with the id they share."""
    api = Api(httpx.ConnectError("refused"))
    tollgate = connect(api, on_error={"tokens": "allow", "bursts": "allow"})
    assert not tollgate.consume_many("ada", {"tokens": 1, "export": 1})
    granted = tollgate.consume_many("ada", {"tokens": 10, "bursts": 1})
    assert granted
    assert granted["bursts"].reason == UNREACHABLE
    api.answers = [{"results": [{"id": granted.id, "status": "accepted"}] * 2}]
    assert tollgate.flush().accepted == 2
    assert [(body["id"], body["feature"]) for body in api.bodies[-1]] == [
        (granted.id, "tokens"),
        (granted.id, "bursts"),
    ]

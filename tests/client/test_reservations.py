"""Reservations: committed, released, or left to expire."""

import asyncio
from decimal import Decimal

import httpx
import pytest

from tests.client.fakes_api import URL, Api, Connect, accepted, decision, denied, problem
from tollgate_client import UNREACHABLE, AsyncTollgate, Conflict, Denied, InvalidInput, Rejected, Tollgate

RESERVED = decision(status="reserved", reserved="40")
COMMITTED = decision(status="committed", used="72")
RELEASED = decision(status="released")
OUTAGE = httpx.ConnectError("refused")


def test_what_was_reserved_is_committed_by_what_the_work_took(connect: Connect) -> None:
    """One reservation, one commit, and nothing is left to release."""
    api = Api(RESERVED, COMMITTED)
    with connect(api).reserve("ada", "tokens", 40, expires_in=60) as held:
        assert held.decision.reserved == Decimal(40)
        done = held.commit("12.5")
    assert (done.status, done.used, done.id) == ("committed", Decimal(72), held.id)
    assert api.paths == ["POST /v1/reservations", f"POST /v1/reservations/{held.id}/commit"]
    asked = {"id": held.id, "customer": "ada", "feature": "tokens", "quantity": "40", "expires_in_seconds": 60}
    assert api.bodies == [asked, {"quantity": "12.5"}]


def test_leaving_without_a_commit_releases(connect: Connect) -> None:
    """The work took nothing."""
    api = Api(RESERVED, RELEASED)
    with connect(api).reserve("ada", "tokens", 40) as held:
        pass
    assert api.paths[1:] == [f"POST /v1/reservations/{held.id}/release"]


def test_an_error_releases_and_goes_on(connect: Connect) -> None:
    """The work was not done."""
    api = Api(RESERVED, RELEASED)
    with pytest.raises(ZeroDivisionError), connect(api).reserve("ada", "tokens", 40) as held:
        _ = 1 / 0
    assert api.paths[1:] == [f"POST /v1/reservations/{held.id}/release"]


def test_what_was_released_by_hand_is_not_released_again(connect: Connect) -> None:
    """Leaving has nothing to do."""
    api = Api(RESERVED, RELEASED)
    with connect(api).reserve("ada", "tokens", 40) as held:
        held.release()
    assert len(api.requests) == 2


def test_what_does_not_fit_is_denied_on_entering(connect: Connect) -> None:
    """The work is not begun, and there is nothing to release."""
    api = Api(denied())
    with (
        pytest.raises(Denied, match="ada may not use tokens: quota_exceeded") as caught,
        connect(api).reserve("ada", "tokens", 40),
    ):
        pytest.fail("entered")
    assert caught.value.decision.reason == "quota_exceeded"
    assert len(api.requests) == 1


def test_more_than_there_is_room_for_may_be_committed_with_less(connect: Connect) -> None:
    """A denied commit counts nothing, and what is held stays."""
    api = Api(RESERVED, denied(), COMMITTED)
    with connect(api).reserve("ada", "tokens", 40) as held:
        with pytest.raises(Denied):
            held.commit(101)
        held.commit(100)
    assert api.bodies[1:] == [{"quantity": "101"}, {"quantity": "100"}]


def test_a_denied_commit_that_is_not_caught_releases(connect: Connect) -> None:
    """Nothing was counted, and nothing stays held."""
    api = Api(RESERVED, denied(), RELEASED)
    with pytest.raises(Denied), connect(api).reserve("ada", "tokens", 40) as held:
        held.commit(101)
    assert api.paths[-1] == f"POST /v1/reservations/{held.id}/release"


def test_a_release_that_fails_hides_no_error(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    """What is held expires."""
    for failure in (OUTAGE, problem(403)):
        with pytest.raises(ZeroDivisionError), connect(Api(RESERVED, failure)).reserve("ada", "tokens", 40):
            _ = 1 / 0
        assert "was not released, and will expire" in caplog.records[-1].message


def test_a_release_that_is_refused_is_told(connect: Connect) -> None:
    """Where there is no other error."""
    with pytest.raises(Conflict), connect(Api(RESERVED, problem(409))).reserve("ada", "tokens", 40):
        pass


def test_in_an_outage_nothing_is_reserved_unless_it_is_allowed(connect: Connect) -> None:
    """A reservation is denied in error as a check is."""
    tollgate = connect(Api(OUTAGE))
    with pytest.raises(Denied) as caught, tollgate.reserve("ada", "tokens", 40):
        pytest.fail("entered")
    assert caught.value.decision.reason == UNREACHABLE
    assert tollgate.stats.denied_in_error == {"tokens": 1}


def test_what_is_allowed_in_an_outage_is_counted_as_an_event(connect: Connect) -> None:
    """Nothing is held, and nothing is to be released; committed twice it counts once."""
    api = Api(OUTAGE)
    tollgate = connect(api, on_error="allow")
    with tollgate.reserve("ada", "tokens", 40) as held:
        assert held.decision.reason == UNREACHABLE
        assert held.commit(12).reason == UNREACHABLE
    with tollgate.reserve("ada", "tokens", 40):
        pass
    assert tollgate.stats.pending == 1
    api.answers = [problem(404), accepted]
    assert tollgate.flush().accepted == 1
    assert api.bodies[-1] == [{"id": held.id, "customer": "ada", "feature": "tokens", "quantity": "12"}]


def test_what_was_reserved_and_only_the_answer_was_lost_is_committed(connect: Connect) -> None:
    """So that what it holds is free again, and not only when it expires."""
    api = Api(httpx.ReadTimeout("lost"))
    tollgate = connect(api, on_error="allow")
    with tollgate.reserve("ada", "tokens", 40) as held:
        assert held.commit(12).reason == UNREACHABLE
    api.answers = [COMMITTED]
    assert (tollgate.flush().accepted, tollgate.stats.pending) == (1, 0)
    assert api.paths[-1] == f"POST /v1/reservations/{held.id}/commit"
    assert api.bodies[-1] == {"quantity": "12"}


def test_a_commit_in_an_outage_is_committed_later(connect: Connect) -> None:
    """The work is done, whatever `on_error` says; what the reservation holds makes room for it."""
    api = Api(RESERVED, OUTAGE)
    tollgate = connect(api, on_error="deny", buffer_size=0)
    with tollgate.reserve("ada", "tokens", 40) as held:
        done = held.commit(12)
    assert (done.allowed, done.reason) == (True, UNREACHABLE)
    assert tollgate.stats.allowed_in_error == {"tokens": 1}
    api.answers = [decision(status="duplicate")]
    stats = tollgate.flush()
    assert (stats.pending, stats.duplicate) == (0, 1)
    assert api.paths[-1] == f"POST /v1/reservations/{held.id}/commit"
    assert api.bodies[-1] == {"quantity": "12"}


@pytest.mark.parametrize("answer", [denied(), problem(404)], ids=["no room", "forgotten"])
def test_a_late_commit_that_finds_no_room_counts_as_an_event(connect: Connect, answer: dict[str, str]) -> None:
    """The reservation had expired, and the work is done."""
    api = Api(RESERVED, OUTAGE)
    tollgate = connect(api)
    with tollgate.reserve("ada", "tokens", 40) as held:
        held.commit(12)
    api.answers = [answer, accepted]
    assert tollgate.flush().accepted == 1
    assert api.bodies[-1] == [{"id": held.id, "customer": "ada", "feature": "tokens", "quantity": "12"}]


def test_a_late_commit_that_contradicts_another_is_reported(connect: Connect) -> None:
    """It can never be made."""
    told: list[Rejected] = []
    api = Api(RESERVED, OUTAGE)
    tollgate = connect(api, on_rejected=told.append)
    with tollgate.reserve("ada", "tokens", 40) as held:
        held.commit(12)
    api.answers = [problem(409)]
    assert tollgate.flush().rejected == 1
    assert [(one.event.id, one.event.quantity, one.reason) for one in told] == [(held.id, "12", "A problem")]


def test_a_reservation_is_of_no_use_outside_with() -> None:
    """Which says so."""
    api = Api(RESERVED)
    transport = httpx.MockTransport(api)
    with Tollgate(URL, "key", transport=transport) as tollgate, pytest.raises(RuntimeError, match="with statement"):
        tollgate.reserve("ada", "tokens", 40).commit(1)
    assert not api.requests


def test_what_cannot_be_reserved_is_refused(connect: Connect) -> None:
    """By the API, with where and why."""
    with pytest.raises(InvalidInput), connect(Api(problem(422))).reserve("ada", "bursts", 1):
        pytest.fail("entered")


def test_a_task_that_is_cancelled_releases() -> None:
    """As any other way out does."""
    api = Api(RESERVED, RELEASED)

    async def cancel() -> None:
        entered = asyncio.Event()

        async def work(tollgate: AsyncTollgate) -> None:
            async with tollgate.reserve("ada", "tokens", 40):
                entered.set()
                await asyncio.Event().wait()

        async with AsyncTollgate(URL, "key", transport=httpx.MockTransport(api)) as tollgate:
            task = asyncio.create_task(work(tollgate))
            await entered.wait()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()

    asyncio.run(cancel())
    assert [path.rpartition("/")[2] for path in api.paths] == ["reservations", "release"]

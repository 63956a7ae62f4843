"""Usage alerts: what a counter has reached, that it is queued, and that it goes out to all who want it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast

import pytest
from botocore.exceptions import EndpointConnectionError
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fakes_catalog import MemoryCatalog
from tests.unit.fakes_recovery import NOW, Clock
from tollgate.catalog import deliveries
from tollgate.catalog.deliveries import DELIVER, PUBLISH, Deliveries, EventBus
from tollgate.catalog.model import Threshold
from tollgate.catalog.webhooks import Webhook
from tollgate.kernel.errors import BadRequest, InvalidInput, Unavailable
from tollgate.kernel.webhooks import DeliveryFailed, Gone
from tollgate.metering.alerts import Reached, reached, reached_from_json, reached_to_dict
from tollgate.metering.announcing import QueueAnnouncer
from tollgate.metering.model import CounterId

D = Decimal
COUNTER = CounterId("acme", "api-calls", "sub-1", datetime(2026, 1, 1, tzinfo=UTC))
END = datetime(2026, 2, 1, tzinfo=UTC)
EIGHTY, HUNDRED, MANY = Threshold(percent=D(80)), Threshold(percent=D(100)), Threshold(quantity=D(1000))


def at(used: str, limit: str | None = "500", counter: CounterId = COUNTER) -> list[Threshold]:
    """Which of the three thresholds a counter has reached."""
    bound = None if limit is None else D(limit)
    found = reached(counter, END, (EIGHTY, HUNDRED, MANY), limit=bound, used=D(used), at=NOW)
    assert all(
        (one.counter, one.period_end, one.limit, one.used, one.at) == (counter, END, bound, D(used), NOW)
        for one in found
    )
    return [one.threshold for one in found]


def one(threshold: Threshold = EIGHTY, counter: CounterId = COUNTER, used: str = "400.5") -> Reached:
    """A threshold that was reached."""
    return Reached(counter, END, threshold, D(500), D(used), NOW)


# What is reached


def test_a_threshold_is_reached_at_it_and_above_it() -> None:
    """Exactly: not a hair before."""
    assert at("399.999999999999999999") == []
    assert at("400") == at("499.9") == [EIGHTY]
    assert at("500") == [EIGHTY, HUNDRED]
    assert at("1000") == at("99999999999999999999") == [EIGHTY, HUNDRED, MANY]


def test_a_percentage_is_of_the_quota_there_is_now() -> None:
    """Of none there is no percentage; no usage reaches nothing, whatever the quota."""
    assert at("2000", None) == [MANY]
    assert at("5", "5") == [EIGHTY, HUNDRED]
    assert at("0", "0") == []
    assert at("0.1", "0") == [EIGHTY, HUNDRED]


@given(st.decimals(0, 10**20, places=18), st.decimals("0.01", 10**6, places=18), st.decimals(0, 10**20, places=18))
def test_a_percentage_is_exact(limit: Decimal, percent: Decimal, used: Decimal) -> None:
    """Compared as fractions, which lose nothing."""
    found = reached(COUNTER, END, (Threshold(percent=percent),), limit=limit, used=used, at=NOW)
    expected = used > 0 and used.as_integer_ratio()[0] * percent.as_integer_ratio()[1] * limit.as_integer_ratio()[
        1
    ] * 100 >= (percent.as_integer_ratio()[0] * limit.as_integer_ratio()[0] * used.as_integer_ratio()[1])
    assert bool(found) == expected


# What it is known by


def test_an_alert_is_the_same_however_often_it_is_found() -> None:
    """Whatever was used by then, and whenever; a threshold written otherwise is the same."""
    same = [one(), one(used="499"), replace(one(), at=END, limit=D(1)), one(Threshold(percent=D("80.00")))]
    assert len({each.id for each in same}) == 1


def test_an_alert_is_another_for_another_counter_period_or_threshold() -> None:
    """80 percent is not 80."""
    others = [
        one(),
        one(HUNDRED),
        one(Threshold(quantity=D(80))),
        one(counter=replace(COUNTER, customer="other")),
        one(counter=replace(COUNTER, feature="other")),
        one(counter=replace(COUNTER, subscription="other")),
        one(counter=replace(COUNTER, period_start=END)),
    ]
    assert len({each.id for each in others}) == len(others)
    assert len({(each.counter_key, each.threshold_key) for each in others}) == len(others)


def test_the_event_says_all_there_is_to_say() -> None:
    """The payload that receivers rely on."""
    assert reached_to_dict(one()) == {
        "type": "usage.threshold_reached",
        "timestamp": "2026-01-31T09:30:00Z",
        "data": {
            "customer": "acme",
            "feature": "api-calls",
            "subscription": "sub-1",
            "period": {"start": "2026-01-01T00:00:00Z", "end": "2026-02-01T00:00:00Z"},
            "threshold": {"percent": "80"},
            "limit": "500",
            "used": "400.5",
        },
    }
    assert reached_to_dict(replace(one(MANY), limit=None))["data"]["threshold"] == {"quantity": "1000"}
    assert reached_to_dict(replace(one(MANY), limit=None))["data"]["limit"] is None


@given(
    st.sampled_from([EIGHTY, HUNDRED, MANY, Threshold(quantity=D("0.000000000000000001"))]),
    st.none() | st.decimals(0, 10**20, places=18),
    st.decimals(0, 10**36, places=2),
    st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001  hypothesis adds the zone
)
def test_an_event_is_read_back_as_it_was_written(
    threshold: Threshold, limit: Decimal | None, used: Decimal, moment: datetime
) -> None:
    """What was queued is what is told."""
    made = Reached(replace(COUNTER, period_start=moment), END, threshold, limit, used, moment)
    assert reached_from_json(json.dumps(reached_to_dict(made))) == made


@pytest.mark.parametrize(
    "change",
    [
        {"type": "invoice.paid"}, {"timestamp": "yesterday"}, {"data": None}, {"data": []}, {"more": 1},
        {"data": {"used": "1e999999999"}}, {"data": {"used": 400.5}}, {"data": {"limit": "NaN"}},
        {"data": {"threshold": {}}}, {"data": {"threshold": {"percent": "80", "quantity": "80"}}},
        {"data": {"threshold": {"ratio": "0.8"}}}, {"data": {"threshold": None}}, {"data": {"period": {}}},
    ],
)  # fmt: skip
def test_a_message_that_is_no_such_event_is_refused(change: dict[str, Any]) -> None:
    """Whatever is wrong with it."""
    body = reached_to_dict(one())
    if isinstance(change.get("data"), dict):
        change = {"data": body["data"] | change["data"]}
    with pytest.raises(InvalidInput):
        reached_from_json(json.dumps(body | change))
    for text in ("[]", '"text"', "1"):
        with pytest.raises(InvalidInput):
            reached_from_json(text)
    with pytest.raises(BadRequest):
        reached_from_json("{")


# The queue


class Queue:
    """The one method of SQS that is called; takes the messages it is told to fail for as failed."""

    def __init__(self) -> None:
        self.requests: list[list[Any]] = []
        self.failing: set[int] = set()
        self.is_down = False

    def send_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, str]]) -> dict[str, Any]:  # noqa: N803
        """Keep the messages of a request, at most 10."""
        assert QueueUrl == "queue"
        if self.is_down:
            raise EndpointConnectionError(endpoint_url="queue")
        assert len({entry["Id"] for entry in Entries}) == len(Entries) <= 10
        self.requests.append([reached_from_json(entry["MessageBody"]) for entry in Entries])
        return {"Failed": [{"Id": Entries[place]["Id"]} for place in self.failing]} if self.failing else {}

    @property
    def sent(self) -> list[Any]:
        """All that was sent."""
        return [each for request in self.requests for each in request]


def announcer(queue: Queue) -> QueueAnnouncer:
    """A warm instance's announcer."""
    return QueueAnnouncer(lambda: cast(Any, queue), "queue")


def test_what_was_reached_is_queued_once_by_a_warm_instance() -> None:
    """Another instance queues it again: only who tells it knows whether it has been told."""
    queue = Queue()
    warm = announcer(queue)
    warm.announce([one(), one(), one(HUNDRED)])
    warm.announce([one(used="450"), one(MANY)])
    assert queue.sent == [one(), one(HUNDRED), one(MANY)]
    announcer(queue).announce([one()])
    assert queue.sent[3:] == [one()]


def test_nothing_reached_is_no_request() -> None:
    """Most events reach nothing."""
    queue = Queue()
    announcer(queue).announce([])
    assert queue.requests == []


def test_many_are_queued_ten_a_request() -> None:
    """All that SQS takes."""
    queue = Queue()
    many = [one(Threshold(quantity=D(number))) for number in range(1, 24)]
    announcer(queue).announce(many)
    assert [len(request) for request in queue.requests] == [10, 10, 3]
    assert queue.sent == many


def test_what_could_not_be_queued_is_queued_when_it_is_announced_again() -> None:
    """And only that."""
    queue = Queue()
    warm = announcer(queue)
    queue.failing = {1}
    with pytest.raises(Unavailable):
        warm.announce([one(), one(HUNDRED), one(MANY)])
    queue.failing, queue.is_down = set(), True
    with pytest.raises(Unavailable):
        warm.announce([one(), one(HUNDRED)])
    queue.is_down = False
    warm.announce([one(), one(HUNDRED), one(MANY)])
    assert queue.sent[3:] == [one(HUNDRED)]


# Deliveries

EVENT = reached_to_dict(one())


class MemoryBus:
    """A bus that keeps what is put on it, or fails."""

    def __init__(self) -> None:
        self.put_events: list[tuple[str, Mapping[str, Any]]] = []
        self.is_down = False

    def put(self, event_id: str, event: Mapping[str, Any]) -> None:
        """Keep an event."""
        if self.is_down:
            raise DeliveryFailed("down")
        self.put_events.append((event_id, event))


class Receivers:
    """All receivers: what each answers (an error or None), and what each was sent."""

    def __init__(self) -> None:
        self.answers: dict[str, Exception | None] = {}
        self.sent: list[tuple[str, str, bytes]] = []

    def send(
        self,
        url: str,
        *,
        secret: str,
        retired: Sequence[str],
        message_id: str,
        at: datetime,
        body: bytes,
        allow_private: bool,
    ) -> None:
        """Stand in for `kernel.webhooks.send`."""
        assert (secret, retired, at, allow_private) == (f"secret of {url}", [], NOW, False)
        self.sent.append((url, message_id, body))
        if error := self.answers.get(url):
            raise error


@pytest.fixture
def receivers(monkeypatch: pytest.MonkeyPatch) -> Receivers:
    """The receivers behind the webhooks."""
    made = Receivers()
    monkeypatch.setattr(deliveries, "send", made.send)
    return made


@pytest.fixture
def catalog() -> MemoryCatalog:
    """Three webhooks, of which c wants other events."""
    catalog = MemoryCatalog()
    events = {"a": ("usage.threshold_reached",), "b": ("usage.threshold_reached",), "c": ("other",)}
    made = tuple(Webhook(name, name, wanted, f"secret of {name}", NOW) for name, wanted in events.items())
    catalog.update_webhooks(lambda _: made)
    return catalog


@pytest.fixture
def bus() -> MemoryBus:
    """The event bus."""
    return MemoryBus()


@pytest.fixture
def sender(catalog: MemoryCatalog, bus: MemoryBus) -> Deliveries:
    """Sends events out."""
    return Deliveries(catalog, bus, Clock(), allow_private=False)


def test_an_event_goes_to_the_bus_and_to_each_webhook_that_wants_it(
    sender: Deliveries, bus: MemoryBus, receivers: Receivers
) -> None:
    """With its id, by which a receiver knows it again."""
    assert sender.send("alert_1", EVENT) == []
    assert bus.put_events == [("alert_1", EVENT)]
    assert sorted(url for url, _, _ in receivers.sent) == ["a", "b"]
    assert all((message_id, json.loads(body)) == ("alert_1", EVENT) for _, message_id, body in receivers.sent)


def test_what_fails_keeps_nobody_else_from_being_told(sender: Deliveries, bus: MemoryBus, receivers: Receivers) -> None:
    """Each failure is one to try again, with all that takes and no secret."""
    bus.is_down = True
    receivers.answers = {"a": TimeoutError("slow")}
    failures = sender.send("alert_1", EVENT)
    assert [(failure.operation, dict(failure.arguments)) for failure in failures] == [
        (PUBLISH, {"id": "alert_1", "event": EVENT}),
        (DELIVER, {"id": "alert_1", "event": EVENT, "webhook": "a"}),
    ]
    assert sorted(url for url, _, _ in receivers.sent) == ["a", "b"]
    assert "secret" not in json.dumps([dict(failure.arguments) for failure in failures])
    bus.is_down, receivers.answers, receivers.sent = False, {}, []
    sender.publish(failures[0].arguments, "alert_1")
    sender.deliver(failures[1].arguments, "alert_1")
    assert bus.put_events == [("alert_1", EVENT)]
    assert [(url, message_id) for url, message_id, _ in receivers.sent] == [("a", "alert_1")]


def test_what_fails_again_is_told_again(sender: Deliveries, bus: MemoryBus, receivers: Receivers) -> None:
    """So that recovery tries it once more."""
    bus.is_down = True
    receivers.answers = {"a": DeliveryFailed("no")}
    with pytest.raises(DeliveryFailed):
        sender.publish({"id": "alert_1", "event": EVENT}, "alert_1")
    with pytest.raises(DeliveryFailed):
        sender.deliver({"id": "alert_1", "event": EVENT, "webhook": "a"}, "alert_1")


def test_a_receiver_that_is_gone_is_disabled_and_not_a_failure(
    sender: Deliveries, catalog: MemoryCatalog, receivers: Receivers
) -> None:
    """It hears nothing more, the first time and when it is tried again."""
    receivers.answers = {"a": Gone("410")}
    assert sender.send("alert_1", EVENT) == []
    assert [(one.id, one.disabled_at) for one in catalog.webhooks()] == [("a", NOW), ("b", None), ("c", None)]
    receivers.sent, receivers.answers = [], {"b": Gone("410")}
    sender.deliver({"id": "alert_1", "event": EVENT, "webhook": "b"}, "alert_1")
    assert sender.send("alert_2", EVENT) == []
    assert [url for url, _, _ in receivers.sent] == ["b"]


@pytest.mark.parametrize("webhook", ["removed", "c"])
def test_a_webhook_that_is_no_longer_to_be_told_needs_nothing_more(
    sender: Deliveries, receivers: Receivers, webhook: str
) -> None:
    """It was removed, or wants other events now."""
    sender.deliver({"id": "alert_1", "event": EVENT, "webhook": webhook}, "alert_1")
    assert receivers.sent == []


class Client:
    """The one method of EventBridge that is called."""

    def __init__(self, answer: dict[str, Any] | Exception) -> None:
        self.answer = answer
        self.entries: list[dict[str, str]] = []

    def put_events(self, *, Entries: list[dict[str, str]]) -> dict[str, Any]:  # noqa: N803
        """Answer as told."""
        self.entries = Entries
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_an_event_on_the_bus_has_its_type_and_its_id() -> None:
    """A rule matches the type; who reads it twice knows it by its id."""
    client = Client({"FailedEntryCount": 0, "Entries": [{"EventId": "1"}]})
    EventBus(client, "bus").put("alert_1", EVENT)
    [entry] = client.entries
    assert json.loads(entry.pop("Detail")) == {"id": "alert_1", **EVENT}
    assert entry == {"EventBusName": "bus", "Source": "tollgate", "DetailType": "usage.threshold_reached"}


@pytest.mark.parametrize(
    "answer",
    [
        {"FailedEntryCount": 1, "Entries": [{"ErrorCode": "ThrottlingException", "ErrorMessage": "slow down"}]},
        EndpointConnectionError(endpoint_url="events"),
    ],
)
def test_an_event_that_is_not_on_the_bus_is_a_failure(answer: dict[str, Any] | Exception) -> None:
    """EventBridge answers 200 for one it refused."""
    with pytest.raises(DeliveryFailed):
        EventBus(Client(answer), "bus").put("alert_1", EVENT)

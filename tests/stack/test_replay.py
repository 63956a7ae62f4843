"""The real requests over the API: totals equal those of the log, however they are sent."""

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from tools.demo import FEATURES, Request, add_customers, cloud_events, create_catalog, read_requests, send
from tools.local import Stack

START = datetime.now(UTC).replace(microsecond=0) - timedelta(days=4)


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    """The requests of the log."""
    return read_requests()


@pytest.fixture(scope="module")
def events(requests: list[Request]) -> list[dict[str, Any]]:
    """What they count as, the first at the start of the subscriptions."""
    return list(cloud_events(requests, START - min(request.time for request in requests)))


@pytest.fixture(scope="module")
def replayed(stack: Stack, api: httpx.Client, events: list[dict[str, Any]]) -> Counter[str]:
    """All events sent once, in the order of the log; how many were accepted."""
    create_catalog(api)
    add_customers(stack, sorted({event["subject"] for event in events}), START)
    outcome: Counter[str] = Counter()
    for batch in batches(events, 500):
        outcome += send(api, batch)
    return outcome


def batches(events: Sequence[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    """The events in batches."""
    rest = iter(events)
    return iter(lambda: list(itertools.islice(rest, size)), [])


def totals(events: Sequence[dict[str, Any]]) -> dict[tuple[str, str], tuple[Decimal, int]]:
    """Quantity and events per customer and feature, straight from the log."""
    sums: dict[tuple[str, str], tuple[Decimal, int]] = defaultdict(lambda: (Decimal(0), 0))
    for event in events:
        key = event["subject"], event["type"]
        quantity, number = sums[key]
        sums[key] = quantity + Decimal(event["data"]["quantity"]), number + 1
    return dict(sums)


def usage(api: httpx.Client, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[Decimal, int]]:
    """The same figures as the API tells them."""

    def one(key: tuple[str, str]) -> tuple[Decimal, int]:
        answer = api.get(f"/v1/customers/{key[0]}/usage", params={"feature": key[1]}).raise_for_status().json()
        return Decimal(answer["quantity"]), answer["events"]

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(keys, pool.map(one, keys), strict=True))


def used(api: httpx.Client, customers: Sequence[str]) -> dict[tuple[str, str], Decimal]:
    """What the API says customers have used of the features that are always allowed, a request a customer."""

    def one(customer: str) -> list[tuple[str, dict[str, Any]]]:
        answers = api.get(f"/v1/customers/{customer}/entitlements").raise_for_status().json()["items"]
        return [(customer, answer) for answer in answers if answer["type"] == "usage"]

    with ThreadPoolExecutor(2) as pool:
        rows = itertools.chain.from_iterable(pool.map(one, customers))
        return {(customer, answer["feature"]): Decimal(answer["used"]) for customer, answer in rows}


def test_every_request_is_accepted_and_each_clients_totals_are_those_of_the_log(
    api: httpx.Client, replayed: Counter[str], events: list[dict[str, Any]]
) -> None:
    """Requests and gigabytes of all 1,753 clients, to the last byte."""
    assert replayed == Counter(accepted=len(events))
    expected = {key: total for key, total in totals(events).items() if key[1] in {"requests", "transfer"}}
    assert len(expected) == 2 * 1_753
    found = used(api, sorted({customer for customer, _ in expected}))
    assert found == {key: quantity for key, (quantity, _) in expected.items()}
    gigabytes = sum(quantity for (_, feature), quantity in found.items() if feature == "transfer")
    assert gigabytes == Decimal("2.747282740")


@pytest.mark.usefixtures("replayed")
def test_replaying_all_of_it_shuffled_with_duplicates_and_in_other_batches_changes_nothing(
    api: httpx.Client, events: list[dict[str, Any]]
) -> None:
    """Everything is a duplicate, and the totals of all clients stand."""
    shuffled = events + events[::10]
    random.Random(7).shuffle(shuffled)  # noqa: S311  shuffles a test
    outcome: Counter[str] = Counter()
    for batch in batches(shuffled, 497):
        outcome += send(api, batch)
    assert outcome == Counter(duplicate=len(shuffled))
    everything = totals(events)
    expected = {key: quantity for key, (quantity, _) in everything.items() if key[1] in {"requests", "transfer"}}
    assert used(api, sorted({customer for customer, _ in expected})) == expected
    busiest = dict(Counter(event["subject"] for event in events).most_common(20))
    some = {key: total for key, total in everything.items() if key[0] in busiest}
    assert {feature for _, feature in some} == set(FEATURES) - {"support"}
    assert usage(api, list(some)) == some


def test_eight_senders_of_overlapping_batches_count_every_event_once(stack: Stack, api: httpx.Client) -> None:
    """Each event is sent by two or three of them at the same time, and accepted from exactly one."""
    create_catalog(api)
    customers = [f"parallel-{number}" for number in range(3)]
    add_customers(stack, customers, START)
    sent = [
        {
            "specversion": "1.0",
            "id": f"event-{number}",
            "source": "/parallel",
            "type": "requests",
            "subject": customers[number % 3],
            "time": (START + timedelta(minutes=number % 60)).isoformat(),
            "data": {"quantity": f"0.{number + 1:06d}"},
        }
        for number in range(600)
    ]
    overlapping = [batch for size in (50, 75, 120) for batch in batches(sent, size)]
    random.Random(11).shuffle(overlapping)  # noqa: S311  shuffles a test
    with ThreadPoolExecutor(8) as pool:
        outcome = sum(pool.map(lambda batch: send(api, batch), overlapping), Counter[str]())
    assert outcome["conflict"] == 0
    if outcome["rejected"]:  # a hot counter may answer "send it again": so we do
        outcome += sum((send(api, batch) for batch in batches(sent, 100)), Counter[str]())
    assert outcome["accepted"] == len(sent)
    expected = totals(sent)
    assert usage(api, list(expected)) == expected

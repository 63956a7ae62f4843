"""The archive in DynamoDB: what is put is read back in order, once, page by page."""

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import boto3
import pytest
from botocore.client import BaseClient
from botocore.exceptions import ReadTimeoutError
from pynamodb.exceptions import PynamoDBException

from tests.unit.fakes_archive import COUNTER, FakeArchive, archived_count
from tollgate.catalog.model import Aggregation
from tollgate.kernel.dynamodb import UsageTable
from tollgate.kernel.errors import Unavailable
from tollgate.metering.archive import PAGE_BYTES, Archived, position
from tollgate.metering.archive_store import DynamoArchive
from tollgate.metering.history import Reader
from tollgate.metering.model import Batch, Count, Scope, Series

NOON = datetime(2026, 1, 20, 12, tzinfo=UTC)
DAY = timedelta(days=1)
SERIES = Series("ada", "requests")


def now() -> datetime:
    """The clock of these tests."""
    return NOON


@pytest.fixture(params=["fake", "dynamodb"])
def archive(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Both archives, empty."""
    if request.param == "fake":
        yield FakeArchive()
    else:
        request.getfixturevalue("tables")
        yield DynamoArchive(clock=now, pause=lambda _: None)


def batch(*counts: Count, shard: int = 0) -> Batch:
    """The counts as a batch."""
    return Batch(replace(SERIES, shard=shard), Aggregation.SUM, counts)


def read(archive: Reader, *, limit: int = 1_000, **fields: Any) -> list[Archived]:
    """All events of two days around noon, in pages of `limit`."""
    known: dict[str, Any] = {"start": NOON - DAY, "end": NOON + DAY} | fields
    page, after = archive.read("ada", "requests", limit=limit, **known)
    found = page
    while after is not None:
        page, after = archive.read("ada", "requests", after=after, limit=limit, **known)
        assert 1 <= len(page) <= limit
        found = found + page
    return found


def items() -> list[dict[str, Any]]:
    """All items of the usage table, in the order of their keys."""
    table = boto3.resource("dynamodb").Table(UsageTable.Meta.table_name)
    return sorted(table.scan()["Items"], key=lambda item: (item["pk"], item["sk"]))


def failing(monkeypatch: pytest.MonkeyPatch, operation: str, *answers: Any) -> list[dict[str, Any]]:
    """Have the next calls of an operation fail or answer so; gives the requests that were made of it."""
    call = getattr(BaseClient, "_make_api_call")  # noqa: B009  boto3's own stubs do not name it
    left = iter(answers)
    made: list[dict[str, Any]] = []

    def calling(self: BaseClient, name: str, arguments: dict[str, Any]) -> Any:
        if name != operation:
            return call(self, name, arguments)
        made.append(arguments)
        answer = next(left, None)
        if isinstance(answer, Exception):
            raise answer
        return answer(self, arguments) if answer else call(self, name, arguments)

    monkeypatch.setattr(BaseClient, "_make_api_call", calling)
    return made


def test_what_is_put_is_read_back_by_time(archive: Any) -> None:
    """Whatever batch and order it came in, told its time or not, of whatever scope."""
    sent = [
        archived_count("e1", "2.5", at=NOON + timedelta(minutes=50), properties={"region": "eu", "deep": {"a": [1]}}),
        archived_count("e2", at=NOON, told=False, scope=Scope.RECEIPT),
        archived_count("e3", at=NOON + timedelta(minutes=40), scope=Scope.ID),
        archived_count("e4", "99999999999999999999.999999999999999999", at=NOON + timedelta(minutes=20)),
    ]
    archive.put(batch(*sent[:2]))
    archive.put(batch(*sent[2:]))
    assert [one.count for one in read(archive)] == [sent[1], sent[3], sent[2], sent[0]]


def test_a_batch_put_again_is_read_once(archive: Any) -> None:
    """In the same shape or another; another body of the same event is another event."""
    sent = [archived_count(f"e{n}", at=NOON + timedelta(seconds=10 * n)) for n in range(20)]
    other = archived_count("e3", "7", at=NOON + timedelta(seconds=30))
    for part in (sent, sent, sent[5:], sent[:12], sent[4:7], [other]):
        archive.put(batch(*part))
    found = [one.count for one in read(archive)]
    assert len(found) == 21
    assert all(count in found for count in [*sent, other])


def test_a_page_ends_where_its_events_hold_much(archive: Any) -> None:
    """Packed they may be small: 500 of a megabyte each would be more than a function's memory."""
    large = {"text": "x" * (PAGE_BYTES // 2)}
    for number in range(5):
        count = archived_count(f"e{number}", at=NOON + timedelta(seconds=number), properties=large)
        archive.put(batch(count))
    pages: list[int] = []
    after = None
    while not pages or after is not None:
        page, after = archive.read("ada", "requests", NOON - DAY, NOON + DAY, after=after, limit=1_000)
        pages.append(len(page))
    assert pages == [2, 2, 1]


@pytest.mark.parametrize("limit", [1, 7, 1_000])
def test_pages_follow_each_other_with_no_event_left_out_or_twice(archive: Any, limit: int) -> None:
    """Over batches that overlap in time and over shards."""
    chance = random.Random(limit)  # noqa: S311  makes an example, guards nothing
    spread = [90, 180 * 60]  # seconds
    times = [NOON + timedelta(seconds=chance.randrange(spread[n // 10 % 2])) for n in range(30)]
    sent = [archived_count(f"e{n}", at=at) for n, at in enumerate(times)]
    for start in range(0, 30, 5):
        archive.put(batch(*sent[start : start + 5], shard=start // 5 % 3))
    found = read(archive, limit=limit, shards=3)
    assert sorted(found, key=position) == found
    assert [one.count.event.id for one in found] == [
        count.event.id for count in sorted(sent, key=lambda count: (count.at, count.hash))
    ]


def test_an_event_archived_in_two_shards_is_given_for_each(archive: Any) -> None:
    """It was counted in one of them: who reads must ask both."""
    event = archived_count("e", at=NOON)
    archive.put(batch(event))
    archive.put(batch(event, shard=1))
    assert [one.series.shard for one in read(archive, shards=2, limit=1)] == [0, 1]
    assert [one.series.shard for one in read(archive)] == [0]


def test_a_range_is_half_open_to_the_microsecond(archive: Any) -> None:
    """Also where it begins amid a batch."""
    step = timedelta(microseconds=1)
    times = [NOON - timedelta(minutes=59), NOON - step, NOON, NOON + 59 * step, NOON + 60 * step]
    archive.put(batch(*(archived_count(f"e{n}", at=at) for n, at in enumerate(times))))
    found = read(archive, start=NOON, end=NOON + 60 * step)
    assert [one.count.event.id for one in found] == ["e2", "e3"]


def test_customers_and_features_are_kept_apart(archive: Any) -> None:
    """Also those whose names begin alike."""
    for customer, feature in (("ada", "requests"), ("ada", "requests2"), ("ada2", "requests")):
        counter = replace(COUNTER, customer=customer, feature=feature)
        counted = archived_count(f"{customer}-{feature}", at=NOON, counter=counter)
        archive.put(Batch(Series(customer, feature), Aggregation.SUM, (counted,)))
    assert [one.count.event.id for one in read(archive)] == ["ada-requests"]


@pytest.mark.usefixtures("tables")
def test_a_batch_is_one_item_of_less_than_a_kilobyte_for_ten_events() -> None:
    """Kept for 400 days from its receipt, whatever time its events tell."""
    archive = DynamoArchive(clock=now)
    properties = {"region": "eu-central-1", "path": "/v1/chat"}
    for _ in range(2):
        archive.put(
            batch(
                *(
                    archived_count(
                        f"0197a3c0-1a2b-7{n:03x}-8000-{n * 7_654_321_987:012x}",
                        at=NOON - DAY + timedelta(milliseconds=137 * n),
                        source="https://example.com/services/api",
                        properties=properties,
                    )
                    for n in range(10)
                )
            )
        )
    [item] = items()
    assert item["counter"] == "sub#2026-01-01T00:00:00Z"
    assert timedelta(0) <= datetime.fromtimestamp(int(item["ttl"]), UTC) - (NOON + timedelta(days=400)) < DAY
    size = sum(len(name) + len(str(value) if name != "blob" else bytes(value)) for name, value in item.items())
    assert size < 700


@pytest.mark.usefixtures("tables")
def test_how_long_events_are_kept_is_set_by_the_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    """ARCHIVE_DAYS."""
    monkeypatch.setenv("ARCHIVE_DAYS", "30")
    DynamoArchive(clock=now).put(batch(archived_count("e", at=NOON)))
    kept = datetime.fromtimestamp(int(items()[0]["ttl"]), UTC) - NOON
    assert timedelta(days=30) <= kept < timedelta(days=31)


@pytest.mark.usefixtures("tables")
def test_what_is_too_large_for_an_item_is_cut_over_several() -> None:
    """A single event of almost a megabyte that hardly compresses; a part that is missing hides it, and no other."""
    noise = random.Random(1).randbytes(480_000).hex()  # noqa: S311  makes an example, guards nothing
    large = archived_count("large", at=NOON, properties={"noise": noise})
    small = [archived_count(f"e{n}", at=NOON + timedelta(minutes=n - 1)) for n in range(3)]
    archive = DynamoArchive(clock=now)
    for one in (large, *small):
        archive.put(batch(one))
    kept = items()
    assert max(len(bytes(item["blob"])) for item in kept) <= 300_000
    assert [one.count for one in read(archive)] == sorted([large, *small], key=lambda count: (count.at, count.hash))
    part = next(item for item in kept if item["sk"].endswith("#0001"))
    boto3.resource("dynamodb").Table(UsageTable.Meta.table_name).delete_item(Key={"pk": part["pk"], "sk": part["sk"]})
    assert [one.count for one in read(archive)] == small


@pytest.mark.usefixtures("tables")
def test_a_batch_over_many_hours_is_written_in_requests_of_25(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the database leaves unprocessed is written again after a pause."""
    pauses: list[float] = []
    table = UsageTable.Meta.table_name

    def leaving_the_last(_: BaseClient, arguments: dict[str, Any]) -> Any:
        [*first, last] = arguments["RequestItems"][table]
        for put in first:
            boto3.client("dynamodb").put_item(TableName=table, Item=put["PutRequest"]["Item"])
        return {"UnprocessedItems": {table: [last]}}

    made = failing(monkeypatch, "BatchWriteItem", leaving_the_last, leaving_the_last)
    archive = DynamoArchive(clock=now, pause=pauses.append)
    sent = [archived_count(f"e{n}", Decimal(n), at=NOON - timedelta(hours=n)) for n in range(60)]
    archive.put(batch(*sent))
    assert [len(request["RequestItems"][table]) for request in made] == [25, 1, 1, 25, 10]
    assert len(pauses) == 2
    assert 0 <= pauses[0] <= 0.02
    assert [one.count for one in read(archive, start=NOON - 3 * DAY)] == sent[::-1]


@pytest.mark.usefixtures("tables")
def test_a_page_of_a_fast_series_reads_no_more_than_a_minute_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the hour before it, which may hold millions of events."""
    archive = DynamoArchive(clock=now)
    for second in range(0, 1_800, 20):
        archive.put(batch(*(archived_count(f"e{second}-{n}", at=NOON + timedelta(seconds=second + n)) for n in (0, 9))))
    page, after = archive.read("ada", "requests", NOON, NOON + DAY, limit=120)
    read_items: list[int] = []
    call = getattr(BaseClient, "_make_api_call")  # noqa: B009  boto3's own stubs do not name it

    def calling(self: BaseClient, name: str, arguments: dict[str, Any]) -> Any:
        answer = call(self, name, arguments)
        read_items.append(answer["Count"])
        return answer

    monkeypatch.setattr(BaseClient, "_make_api_call", calling)
    page, after = archive.read("ada", "requests", NOON, NOON + DAY, after=after, limit=10)
    assert [one.count.event.id for one in page[:2]] == ["e1200-0", "e1200-9"]
    assert after is not None
    assert sum(read_items) <= 20


@pytest.mark.usefixtures("tables")
def test_a_batch_that_cannot_be_kept_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it is not counted."""
    table = UsageTable.Meta.table_name
    nothing = [lambda _, arguments: {"UnprocessedItems": {table: arguments["RequestItems"][table]}}] * 100
    failing(monkeypatch, "BatchWriteItem", *nothing)
    archive = DynamoArchive(clock=now, pause=lambda _: None)
    with pytest.raises(PynamoDBException, match="2 archive items were not written"):
        archive.put(batch(archived_count("e1", at=NOON), archived_count("e2", at=NOON + DAY)))
    failing(monkeypatch, "PutItem", ReadTimeoutError(endpoint_url="http://nowhere"))
    with pytest.raises(ReadTimeoutError):
        archive.put(batch(archived_count("e1", at=NOON)))


@pytest.mark.usefixtures("tables")
def test_an_archive_that_cannot_be_read_now_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller may ask again."""
    failing(monkeypatch, "Query", ReadTimeoutError(endpoint_url="http://nowhere"))
    with pytest.raises(Unavailable):
        read(DynamoArchive(clock=now))

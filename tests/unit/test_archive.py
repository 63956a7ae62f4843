"""The archive's packing: what comes out is what went in, in few bytes."""

import random
import string
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.unit.fakes_archive import PERIOD, archived_count
from tollgate.catalog.model import Aggregation
from tollgate.metering.archive import Archived, chunks, counter_from_name, counter_name, position, unpack
from tollgate.metering.model import Batch, Count, CounterId, Scope, Series

SERIES = Series("ada", "requests")
NOON = datetime(2026, 1, 20, 12, tzinfo=UTC)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
QUANTITIES = st.decimals(
    min_value=0, max_value=Decimal("99999999999999999999.999999999999999999"), allow_nan=False, places=18
) | st.integers(0, 10**20 - 1).map(Decimal)
IDS = st.uuids().map(str) | st.text(string.ascii_letters + string.digits + "._:-", min_size=1, max_size=128)


def batch(*counts: Count) -> Batch:
    """The counts as a batch."""
    return Batch(SERIES, Aggregation.SUM, counts)


def by_time(counts: Any) -> list[Count]:
    """The order in which events come out."""

    def place(count: Count) -> tuple[Any, ...]:
        event = count.event
        spelling = str(event.quantity), repr(event.time), repr(event.properties)
        return count.at, count.hash, count.digest, *spelling

    return sorted(counts, key=place)


@st.composite
def counts(draw: st.DrawFn) -> Count:
    """Any event, within two hours of noon."""
    at = NOON + timedelta(microseconds=draw(st.integers(0, 7_200_000_000)))
    counter = CounterId("ada", "requests", draw(st.sampled_from(["sub", "sub:2"])), PERIOD)
    return archived_count(
        draw(IDS),
        draw(QUANTITIES),
        at=at,
        told=draw(st.booleans()),
        source=draw(st.text(max_size=20)),
        scope=draw(st.sampled_from(Scope)),
        properties=draw(st.none() | st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=3)),
        counter=counter,
    )


@given(st.lists(counts(), min_size=1, max_size=30))
def test_any_batch_comes_out_as_it_went_in(sent: list[Count]) -> None:
    """To the last digit, key and microsecond, each chunk of one counter and of less than an hour."""
    made = list(chunks(batch(*sent)))
    read = [(chunk, unpack(chunk.blob, chunk.counter)) for chunk in made]
    assert by_time(count for _, packed in read for count in packed) == by_time(sent)
    for chunk, packed in read:
        assert packed == by_time(packed)
        assert packed[-1].at - packed[0].at < timedelta(hours=1)
        assert {count.counter for count in packed} == {chunk.counter}
        assert (chunk.last, chunk.events) == (packed[-1].at, len(packed))


@given(st.lists(counts(), min_size=1, max_size=10), st.randoms(use_true_random=False))
def test_the_same_batch_in_any_order_makes_the_same_chunks(sent: list[Count], chance: random.Random) -> None:
    """So that a retry writes what is there already."""
    shuffled = chance.sample(sent, len(sent))
    assert sorted(chunks(batch(*shuffled)), key=repr) == sorted(chunks(batch(*sent)), key=repr)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"told": True}, {"told": False}),
        ({"properties": {"a": 1, "b": 2}}, {"properties": {"b": 2, "a": 1}}),
        ({"properties": None}, {"properties": {}}),
        ({"quantity": Decimal(1)}, {"quantity": Decimal("1.0")}),
    ],
    ids=repr,
)
def test_an_event_that_is_spelt_in_two_ways_makes_the_same_chunks_too(one: Any, other: Any) -> None:
    """Sent twice in one batch, in whichever order."""
    first, second = (archived_count("e1", at=NOON, **each) for each in (one, other))
    assert (first.hash, first.digest) == (second.hash, second.digest)
    assert list(chunks(batch(first, second))) == list(chunks(batch(second, first)))


def test_types_that_python_takes_for_equal_stay_apart() -> None:
    """1, 1.0 and true are three properties."""
    sent = [archived_count(f"e{n}", properties={"value": value}) for n, value in enumerate((1, 1.0, True))]
    [chunk] = chunks(batch(*sent))
    values = {count.event.id: (count.event.properties or {})["value"] for count in unpack(chunk.blob, chunk.counter)}
    assert [repr(values[f"e{n}"]) for n in range(3)] == ["1", "1.0", "True"]


@pytest.mark.parametrize(
    "change",
    [
        {"quantity": Decimal(2)},
        {"properties": {"region": "us"}},
        {"at": NOON + timedelta(microseconds=1)},
        {"told": False},
        {"counter": CounterId("ada", "requests", "other", PERIOD)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_differs_has_another_key(change: dict[str, Any]) -> None:
    """Or the one would overwrite the other: a retry with another receipt time, say."""
    fields: dict[str, Any] = {"at": NOON, "properties": {"region": "eu"}}
    [one] = chunks(batch(archived_count("e", **fields)))
    [other] = chunks(batch(archived_count("e", **(fields | change))))
    assert one.key != other.key


@pytest.mark.parametrize(("seconds", "kind"), [(0, "M#"), (59, "M#"), (60, "H#"), (3_599, "H#")])
def test_keys_of_one_span_sort_by_the_first_event(seconds: int, kind: str) -> None:
    """A minute or an hour, by how far its events lie apart."""
    starts = [NOON + timedelta(days=n, microseconds=n) for n in range(30)]
    pairs = [(start, start + timedelta(seconds=seconds)) for start in starts]
    keys = [chunk.key for pair in pairs for chunk in chunks(batch(*(archived_count(f"e{at}", at=at) for at in pair)))]
    assert keys == sorted(keys)
    assert {key[:2] for key in keys} == {kind}


def test_events_that_are_exactly_an_hour_apart_share_no_chunk() -> None:
    """A reading that begins an hour before its start misses nothing."""
    sent = [archived_count(f"e{n}", at=NOON + timedelta(minutes=30) * n) for n in range(5)]
    assert [chunk.events for chunk in chunks(batch(*sent))] == [2, 2, 1]


def test_a_blob_of_a_later_version_or_a_damaged_one_is_refused() -> None:
    """Not read as something else."""
    for sent in ([archived_count("e")], [archived_count(str(uuid.UUID(int=n))) for n in range(3)]):
        [chunk] = chunks(batch(*sent))
        damaged = (chunk.blob[:-4], chunk.blob[:20], chunk.blob + b"more", chunk.blob[:1] + chunk.blob[5:])
        for blob, why in (
            (b"\x02" + chunk.blob[1:], "version 02"),
            (b"", "version"),
            *((one, "damaged") for one in damaged),
        ):
            with pytest.raises(ValueError, match=why):
                unpack(blob, chunk.counter)


@pytest.mark.parametrize(
    "other",
    [
        "0192D3A4-5B6C-7D8E-9F00-112233445566",
        "0192d3a45b6c-7d8e-9f00-1122-33445566",
        "0192d3a4-5b6c-7d8e-9f00-11223344556g",
        "0192d3a4-5b6c-7d8e-9f00-1122 3344556",
        "----------------0192d3a4-5b6c7d8e9f0",
        "0192d3a4.5b6c.7d8e.9f00.112233445566",
    ],
)
def test_ids_that_only_resemble_uuids_come_out_as_they_went_in(other: str) -> None:
    """In capitals, with other hyphens, or with no hexadecimal digit somewhere."""
    sent = [archived_count("0192d3a4-5b6c-7d8e-9f00-112233445566"), archived_count(other)]
    [chunk] = chunks(batch(*sent))
    assert {count.event.id for count in unpack(chunk.blob, chunk.counter)} == {count.event.id for count in sent}


def test_a_counter_is_read_back_from_its_name() -> None:
    """Its customer and feature stand in the key."""
    counter = CounterId("ada", "requests", "sub:1", PERIOD)
    assert counter_from_name("ada", "requests", counter_name(counter)) == counter


def test_positions_sort_by_time_then_hash_then_shard() -> None:
    """One event kept in two shards has two places."""
    count = archived_count("e", at=NOON)
    order = [
        Archived(Series("ada", "requests", 1), replace(count, at=NOON - timedelta(microseconds=1))),
        Archived(SERIES, replace(count, hash=bytes(12))),
        Archived(SERIES, replace(count, hash=b"\xff" * 12)),
        Archived(Series("ada", "requests", 10), replace(count, hash=b"\xff" * 12)),
    ]
    assert sorted(order, key=position) == order


@pytest.mark.parametrize(("events", "most"), [(1, 850), (10, 85), (100, 40), (500, 35)])
def test_a_typical_event_takes_few_bytes(events: int, most: int) -> None:
    """CloudEvents with UUIDv7 ids, milliseconds, a quantity and two properties, a tenth of a second apart."""
    chance = random.Random(7)  # noqa: S311  makes an example, guards nothing
    sent = []
    for number in range(events):
        at = NOON + timedelta(milliseconds=100 * number + chance.randrange(100))
        bits = (int(at.timestamp() * 1000) << 80) | (7 << 76) | (2 << 62) | chance.getrandbits(62)
        properties = {
            "region": chance.choice(["eu-central-1", "us-east-1"]),
            "path": chance.choice(["/chat", "/files"]),
        }
        quantity = Decimal(chance.choice([1, 1, 2, 17]))
        source = "https://example.com/services/api"
        sent.append(archived_count(str(uuid.UUID(int=bits)), quantity, at=at, source=source, properties=properties))
    [chunk] = chunks(batch(*sent))
    assert len(chunk.blob) <= events * most

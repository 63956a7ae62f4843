"""Counters in the usage table.

    pk                              sk                                     what
    HEAD#customer                   feature                                the head of a series
    COUNTER#customer#feature#shard  PAGE#bucket#structure                  ids that left the head
    COUNTER#customer#feature#shard  PERIOD#subscription#period start       a counter that is not in the head
    COUNTER#customer#feature#shard  DAY#date#subscription#period start     sums of hours that left the head
    EVENT#hash                      MARKER                                 an event known by its id alone was seen
    ADJUST#subscription             feature#shard#period start             its closed period has had events since

The usual write is one conditional update of the head. All others are one transaction, in which the head is
written on condition of its structure, so that it guards whatever else is in it (see series.py). A condition
that fails gives back the head as it is, which is what the next attempt starts from.

The head is written through the table's own client: PynamoDB cannot ask for the old item of a failed condition,
and its expressions cost twice the time. Whether the ids of the head are known to be where a caller looks for
them is decided by the condition alone; nothing read before needs to be true.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from botocore.exceptions import ClientError
from pynamodb.attributes import BinaryAttribute, JSONAttribute, NumberAttribute, UnicodeAttribute, UTCDateTimeAttribute
from pynamodb.expressions.condition import Condition

from tollgate.catalog.model import Aggregation
from tollgate.catalog.periods import Period
from tollgate.kernel.dynamodb import DecimalAttribute, UsageTable, connect
from tollgate.kernel.errors import Unavailable
from tollgate.kernel.time import format_time, parse_time, system_clock
from tollgate.metering.counters import LostRace, SeriesCounters
from tollgate.metering.model import EPOCH, MAX_QUANTITY, Adjustment, Count, CounterId, Series, Tally
from tollgate.metering.rates import RateState
from tollgate.metering.series import (
    Change,
    DayId,
    Head,
    Known,
    Marker,
    Missing,
    Page,
    PastCounter,
    floor_of,
    is_known,
    missing_for,
    time_bucket,
)

__all__ = ["DynamoCounters"]

_HASH_BYTES: Final = 12
_DIGEST_BYTES: Final = 4
_KEEP: Final = timedelta(days=400)
_QUARTER: Final = timedelta(minutes=15)  # hours begin at one, in every time zone
_BATCH_GET: Final = 100
_GLANCE: Final = 8
"""Pages read to find a closed bucket: most have fewer."""
_SMALL_PAGE: Final = 48
_TRIES: Final = 20
_HOUR: Final = 3_600
_DAY: Final = 86_400


class PageItem(UsageTable, discriminator="page"):
    """Ids of a bucket, 12 bytes each, and digests, 4 bytes each; which is whose is not kept."""

    ids = BinaryAttribute(legacy_encoding=False, attr_name="i")
    digests = BinaryAttribute(legacy_encoding=False, attr_name="j")
    ttl = NumberAttribute()


class PeriodItem(UsageTable, discriminator="period"):
    """A counter that is not in the head; `closed` is what it was when its billing period was closed."""

    quantity = DecimalAttribute()
    events = NumberAttribute()
    latest = UnicodeAttribute()
    closed = JSONAttribute(null=True)


class DayItem(UsageTable, discriminator="day"):
    """The hours of a UTC day of one counter: when each begins, and its sum."""

    hours = JSONAttribute()
    ttl = NumberAttribute()


class MarkerItem(UsageTable, discriminator="marker"):
    """An event was seen, counted at these times."""

    digest = BinaryAttribute(legacy_encoding=False)
    until = UTCDateTimeAttribute()
    at = JSONAttribute()
    ttl = NumberAttribute()


class AdjustmentItem(UsageTable, discriminator="adjustment"):
    """A closed counter has changed: billing is to look at it."""


class DynamoCounters(SeriesCounters):
    """The `Counters` of the deployment."""

    # Writing

    def _read_heads(self, wanted: Sequence[Series]) -> dict[Series, Head]:
        if len(wanted) == 1:
            answer = _client().get_item(TableName=_table(), Key=_head_key(wanted[0]), ConsistentRead=True)
            items = [answer["Item"]] if "Item" in answer else []
        else:
            items = _batch_get([_head_key(series) for series in wanted])
        heads = {_key_of(item): item for item in items}
        keys = {series: _key_of(_head_key(series)) for series in wanted}
        return {series: _head(heads[key], series) for series, key in keys.items() if key in heads}

    def _load(self, series: Series, known: Known, missing: Missing) -> None:
        structure = known.head.structure if known.head else 0
        for at in sorted(missing.floors, reverse=True):
            if floor_of(at, known) is None:
                _load_floor(series, at, known, structure)
        for key in missing.pages:
            _load_pages(series, key, known, structure)
        pk = _pk(series)
        keys: dict[tuple[str, str], Any] = {
            **{(pk, _period_sk(counter)): counter for counter in missing.periods},
            **{(pk, _day_sk(day)): day for day in missing.days},
            **{_key_of(_marker_key(event)): event for event in missing.markers},
        }
        found = _batch_get([{"pk": {"S": pk}, "sk": {"S": sk}} for pk, sk in keys])
        known.periods |= dict.fromkeys(missing.periods)
        known.days |= {day: {} for day in missing.days}
        known.markers |= dict.fromkeys(missing.markers)
        for raw in found:
            name = keys[_key_of(raw)]
            match UsageTable.from_raw_data(raw):
                case PeriodItem() as item:
                    known.periods[name] = _past(item)
                case DayItem() as item:
                    known.days[name] = _day_hours(item)
                case MarkerItem() as item:
                    times = tuple(parse_time(text) for text in item.at)
                    known.markers[name] = Marker(item.digest, item.until.astimezone(UTC), times)

    def _write(self, series: Series, change: Change, known: Known) -> Head:
        old = known.head
        others = list(_other_writes(series, change, known))
        if change.adds and old is not None:
            write = {"Update": _head_update(series, change, old)}
        else:
            write = {"Put": _head_put(series, change.head, old)}
        try:
            if others:
                _client().transact_write_items(TransactItems=[write, *others])
                return change.head
            if "Put" in write:
                _client().put_item(**write["Put"])
                return change.head
            answer = _client().update_item(**write["Update"], ReturnValues="ALL_NEW")
        except ClientError as error:
            _raise_if_lost(error, series)
            raise
        return _head(answer["Attributes"], series)

    # Reading

    def tallies(self, counters: Iterable[CounterId], shards: Mapping[str, int] | None = None) -> dict[CounterId, Tally]:
        """What counters hold now; those that hold nothing are left out. `shards` says how many a feature has."""
        wanted = [
            (Series(counter.customer, counter.feature, number), counter)
            for counter in set(counters)
            for number in range((shards or {}).get(counter.feature, 1))
        ]
        keys = [key for series, counter in wanted for key in (_head_key(series), _period_key(series, counter))]
        if not keys:
            return {}
        items = {_key_of(raw): raw for raw in _batch_get(keys)}
        found: dict[CounterId, list[Tally]] = {}
        for series, counter in wanted:
            head = items.get(_key_of(_head_key(series)))
            past = items.get(_key_of(_period_key(series, counter)))
            if head and head.get("c", {}).get("S") == _counter_text(counter):
                found.setdefault(counter, []).append(_head(head, series).tally)
            elif past:
                found.setdefault(counter, []).append(_past(PeriodItem.from_raw_data(past)).tally)
        return {counter: total for counter, each in found.items() if (total := _sum(each)).events}

    def hours(
        self, customer: str, feature: str, start: datetime, end: datetime, shards: int = 1
    ) -> list[tuple[datetime, CounterId, Tally]]:
        """What the hours that begin in [start, end) hold, in the order of time; an hour may come in several parts."""
        connect(UsageTable)
        first, last = f"DAY#{start.date()}", f"DAY#{end.date()}#~"
        rows: list[tuple[datetime, CounterId, Tally]] = []
        for series in _all(customer, feature, shards):
            head = self._read_heads([series]).get(series)
            if head is not None and head.counter is not None:
                rows += [(hour, head.counter, tally) for hour, tally in head.hours.items()]
            for item in DayItem.query(_pk(series), DayItem.sk.between(first, last), consistent_read=True):
                counter = _counter(series, item.sk.split("#", 2)[2])
                rows += [(hour, counter, tally) for hour, tally in _day_hours(item).items()]
        return sorted((row for row in rows if start <= row[0] < end), key=lambda row: row[0])

    def rate(self, customer: str, feature: str) -> RateState:
        """Where a customer stands in a rate limit."""
        series = Series(customer, feature)
        head = self._read_heads([series]).get(series)
        return head.rate if head else RateState()

    def counted(self, series: Series, counts: Sequence[Count]) -> list[bool]:
        """Whether each event is among those that were counted, in that very form: id, body and time."""
        known = Known(self._read_heads([series]).get(series))
        while missing := missing_for(counts, known):
            self._load(series, known, missing)
        return [bool(is_known(count, known, exactly=True)) for count in counts]

    def find(self, series: Series, hashes: Collection[bytes], start: datetime, end: datetime) -> Period | None:
        """The newest stretch of time that touches [start, end] and that one of these events was counted in."""
        wanted = set(hashes)
        head = self._read_heads([series]).get(series)
        if head is None:
            return None
        for raw in _batch_get([_marker_key(event) for event in wanted]):
            times = [parse_time(text) for text in MarkerItem.from_raw_data(raw).at]
            inside = [at for at in times if start <= at <= end]
            if inside:
                return Period(max(inside), max(inside) + timedelta(microseconds=1))
        found = [one for one in _stretches(series, head, wanted, start, end) if one.start <= end and start < one.end]
        return max(found, key=lambda stretch: stretch.end, default=None)

    def adjustments(self, subscription: str) -> list[Adjustment]:
        """The closed counters of a subscription that have had events since they were billed."""
        connect(UsageTable)
        closed: dict[tuple[str, str], tuple[Series, CounterId]] = {}
        for pointer in AdjustmentItem.query(f"ADJUST#{subscription}", consistent_read=True):
            customer, feature, shard, start = pointer.sk.split("#")
            counter = CounterId(customer, feature, subscription, parse_time(start))
            series = Series(customer, feature, int(shard))
            closed[_key_of(_period_key(series, counter))] = (series, counter)
        found = {_key_of(raw): raw for raw in _batch_get([_period_key(*one) for one in closed.values()])}
        pasts = {key: _past(PeriodItem.from_raw_data(found[key])) for key in closed if key in found}
        return [Adjustment(*closed[key], past.closed or Tally(), past.tally) for key, past in pasts.items()]


# Writes


def _head_update(series: Series, change: Change, old: Head) -> dict[str, Any]:
    """Add to the head, on condition of its structure, and that it holds none of the new ids and has room for them."""
    head = change.head
    names: dict[str, str] = {}
    values: dict[str, Any] = {
        ":structure": _n(old.structure),
        ":quantity": _n(change.added.quantity),
        ":events": _n(change.added.events),
        ":ceiling": _n(MAX_QUANTITY - change.added.quantity),
    }
    adds, sets = ["u :quantity", "n :events"], []
    conditions = ["s = :structure", "u < :ceiling"]
    if change.ids:
        adds += ["i :ids", "j :digests"]
        values |= {
            ":ids": {"BS": sorted(change.ids)},
            ":digests": {"BS": sorted(change.digests)},
            ":room": _n(change.room - len(change.ids)),
        }
        conditions.append("(attribute_not_exists(i) OR size(i) <= :room)")
        for place, each in enumerate(change.ids):
            values[f":i{place}"] = {"B": each}
            conditions.append(f"NOT contains(i, :i{place})")
    if change.hours:
        values[":zero"] = _n(0)
    for place, (hour, tally) in enumerate(change.hours.items()):
        quarter = _quarter(hour)
        names |= {f"#q{place}": quarter, f"#n{place}": f"{quarter}n"}
        values |= {f":q{place}": _n(tally.quantity), f":n{place}": _n(tally.events)}
        sets += [
            f"h.#q{place} = if_not_exists(h.#q{place}, :zero) + :q{place}",
            f"h.#n{place} = if_not_exists(h.#n{place}, :zero) + :n{place}",
        ]
    if head.structure != old.structure:
        sets.append("s = :next")
        values[":next"] = _n(head.structure)
    if head.end != old.end:
        sets.append("e = :end")
        values[":end"] = _n(head.end)
    request = {
        "TableName": _table(),
        "Key": _head_key(series),
        "UpdateExpression": f"ADD {', '.join(adds)}" + (f" SET {', '.join(sets)}" if sets else ""),
        "ConditionExpression": " AND ".join(conditions),
        "ExpressionAttributeValues": values,
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    return request | ({"ExpressionAttributeNames": names} if names else {})


def _head_put(series: Series, head: Head, old: Head | None) -> dict[str, Any]:
    """Replace the head, on condition that it is as it was known: each write changes its structure or its events."""
    request: dict[str, Any] = {
        "TableName": _table(),
        "Item": _head_item(series, head),
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    if old is None:
        return request | {"ConditionExpression": "attribute_not_exists(pk)"}
    return request | {
        "ConditionExpression": "s = :structure AND n = :events",
        "ExpressionAttributeValues": {":structure": _n(old.structure), ":events": _n(old.tally.events)},
    }


def _other_writes(series: Series, change: Change, known: Known) -> Iterator[dict[str, Any]]:
    """What is written together with the head, and guarded by it; only markers have a condition of their own."""
    pk = _pk(series)
    now = system_clock()
    ttl = _ttl(now)
    for page in change.pages:
        structure = change.head.structure if page.replaces is None else page.replaces
        ids, digests = b"".join(sorted(page.ids)), b"".join(sorted(page.digests))
        yield _put(PageItem(pk, _page_sk(page.key, structure), ids=ids, digests=digests, ttl=ttl))
    for counter, past in change.periods.items():
        tally = past.tally
        item = PeriodItem(pk, _period_sk(counter), closed=_tally_json(past.closed) if past.closed else None)
        item.quantity, item.events, item.latest = tally.quantity, tally.events, tally.latest
        yield _put(item)
    for day, hours in change.days.items():
        body = {_quarter(hour): _tally_json(tally) for hour, tally in hours.items()}
        yield _put(DayItem(pk, _day_sk(day), hours=body, ttl=ttl))
    for event, marker in change.markers.items():
        seen = MarkerItem(*_key_of(_marker_key(event)), digest=marker.digest, until=marker.until)
        seen.at, seen.ttl = [format_time(at) for at in marker.at], _ttl(max(marker.until, now))
        before = known.markers.get(event)
        yield _put(seen, MarkerItem.until == before.until if before else MarkerItem.pk.does_not_exist())
    for counter in change.adjusted:
        yield _put(AdjustmentItem(f"ADJUST#{counter.subscription}", _adjustment_sk(series, counter)))
    for counter in change.settled:
        key = {"pk": {"S": f"ADJUST#{counter.subscription}"}, "sk": {"S": _adjustment_sk(series, counter)}}
        yield {"Delete": {"TableName": _table(), "Key": key}}


def _put(item: UsageTable, condition: Condition | None = None) -> dict[str, Any]:
    if condition is None:
        return {"Put": {"TableName": _table(), "Item": item.serialize()}}
    return {"Put": item.get_save_kwargs_from_instance(condition=condition)}


def _raise_if_lost(error: ClientError, series: Series) -> None:
    """Raise LostRace for a condition that failed, with the head as it is where the answer has it."""
    answer: dict[str, Any] = dict(error.response)
    if answer["Error"]["Code"] == "ConditionalCheckFailedException":
        raise LostRace(_head(answer["Item"], series) if answer.get("Item") else None) from error
    reasons = answer.get("CancellationReasons", [])
    if reasons and reasons[0]["Code"] == "ConditionalCheckFailed":
        raise LostRace(_head(reasons[0]["Item"], series) if reasons[0].get("Item") else None) from error
    if any(reason["Code"] == "ConditionalCheckFailed" for reason in reasons):
        raise LostRace from error  # a marker: what is known of them is not so


# Reads


def _load_floor(series: Series, at: int, known: Known, structure: int) -> None:
    """Find the closed bucket that a time lies in: the one that began last before it; and read its pages."""
    pk = _pk(series)
    condition = PageItem.sk.between("PAGE#T#", f"PAGE#T#{at:010d}#~")
    items = list(PageItem.query(pk, condition, consistent_read=True, scan_index_forward=False, limit=_GLANCE))
    if not items:
        raise LostRace  # the head that named the origin is not the one there is
    bucket, _ = _page_place(items[0].sk)
    start = time_bucket(bucket)
    if start is None:
        raise LostRace
    known.floors[start] = max(at, known.floors.get(start, start))
    mine = [item for item in items if item.sk.startswith(f"PAGE#{bucket}#")]
    if len(mine) == len(items) == _GLANCE:
        _load_pages(series, bucket, known, structure)
    else:
        known.pages[bucket] = _page(mine, structure)


def _load_pages(series: Series, key: str, known: Known, structure: int) -> None:
    """Read the pages of a bucket; of one that only grows, those that are newer than what is known of it."""
    page = known.pages.get(key)
    grows = key.startswith("L") or (known.head is not None and time_bucket(key) == known.head.start)
    first = _page_sk(key, page.as_of + 1) if page is not None and grows else f"PAGE#{key}#"
    items = list(PageItem.query(_pk(series), PageItem.sk.between(first, f"PAGE#{key}#~"), consistent_read=True))
    read = _page(items, structure)
    if page is not None and grows:
        read.ids |= page.ids
        read.digests |= page.digests
    known.pages[key] = read


def _page(items: Sequence[PageItem], structure: int) -> Page:
    """What pages of one bucket hold together."""
    page = Page(structure)
    for item in items:
        ids, digests = _parts(item.ids, _HASH_BYTES), _parts(item.digests, _DIGEST_BYTES)
        page.ids.update(ids)
        page.digests.update(digests)
    if items:
        newest = max(items, key=lambda item: item.sk)
        bucket, made = _page_place(newest.sk)
        if not bucket.startswith("L") and len(newest.ids) < _SMALL_PAGE * _HASH_BYTES:
            ids, digests = _parts(newest.ids, _HASH_BYTES), _parts(newest.digests, _DIGEST_BYTES)
            page.tail = (made, frozenset(ids), frozenset(digests))
    return page


def _parts(blob: bytes, size: int) -> list[bytes]:
    return [blob[start : start + size] for start in range(0, len(blob), size)]


def _stretches(series: Series, head: Head, wanted: set[bytes], start: datetime, end: datetime) -> Iterator[Period]:
    """The buckets in [start, end] that hold one of the ids, each as the stretch of time it covers."""
    first, last = int(start.timestamp()), int(end.timestamp())
    receipts = {each for each in wanted if each[-1] & 1}
    if head.day is not None and not head.ids.isdisjoint(receipts):
        yield _stretch(head.day * _DAY, (head.day + 1) * _DAY)
    if head.origin is not None and not head.ids.isdisjoint(wanted - receipts):
        yield _stretch(head.start, head.end)
    yield from _stretches_of_time(series, head, wanted, first, last)
    fixed = [
        ("E", f"{first - first % _HOUR:010d}", f"{last:010d}", _HOUR, 1),
        ("L", f"{first // _DAY:06d}", f"{last // _DAY:06d}", _DAY, _DAY),
    ]
    for kind, low, high, length, unit in fixed:
        for item in _pages_between(series, f"PAGE#{kind}#{low}", f"PAGE#{kind}#{high}#~"):
            if not wanted.isdisjoint(_parts(item.ids, _HASH_BYTES)):
                begin = int(item.sk.split("#")[2]) * unit
                yield _stretch(begin, begin + length)


def _stretches_of_time(series: Series, head: Head, wanted: set[bytes], first: int, last: int) -> Iterator[Period]:
    # A bucket ends where the next one begins; that of `first` may have begun before.
    end, start = head.end, head.start
    for item in _pages_between(series, "PAGE#T#", f"PAGE#T#{last:010d}#~"):
        begin = time_bucket(_page_place(item.sk)[0]) or 0
        if begin != start:
            if start <= first:
                return
            end, start = start, begin
        if not wanted.isdisjoint(_parts(item.ids, _HASH_BYTES)):
            yield _stretch(begin, end)


def _pages_between(series: Series, first: str, last: str) -> Iterator[PageItem]:
    """Pages, the newest bucket first."""
    return PageItem.query(_pk(series), PageItem.sk.between(first, last), consistent_read=True, scan_index_forward=False)


def _stretch(start: int, end: int) -> Period:
    return Period(EPOCH + timedelta(seconds=start), EPOCH + timedelta(seconds=end))


def _batch_get(keys: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Items as they are stored, a request per hundred."""
    found: list[dict[str, Any]] = []
    waiting = list({_key_of(key): dict(key) for key in keys}.values())
    for _ in range(_TRIES):
        if not waiting:
            return found
        part, waiting = waiting[:_BATCH_GET], waiting[_BATCH_GET:]
        answer = _client().batch_get_item(RequestItems={_table(): {"Keys": part, "ConsistentRead": True}})
        found += answer["Responses"].get(_table(), [])
        waiting += answer.get("UnprocessedKeys", {}).get(_table(), {}).get("Keys", [])
    raise Unavailable("The database cannot be read now; send the request again.")


# Items and keys


def _head(item: Mapping[str, Any], series: Series) -> Head:
    events = int(item["n"]["N"])
    lanes = item.get("l", {}).get("S", "")
    hours: dict[datetime, Tally] = {}
    stored = item.get("h", {}).get("M", {})
    for quarter, value in stored.items():
        if quarter.isdecimal():
            latest = stored.get(f"{quarter}m", {}).get("S", "")
            hours[_from_quarter(quarter)] = Tally(Decimal(value["N"]), int(stored[f"{quarter}n"]["N"]), latest)
    return Head(
        structure=int(item["s"]["N"]),
        counter=_counter(series, item["c"]["S"]) if "c" in item else None,
        tally=Tally(Decimal(item["u"]["N"]), events, item.get("m", {}).get("S", "")),
        origin=_int(item, "o"),
        start=_int(item, "a") or 0,
        end=_int(item, "e") or 0,
        spilled=_int(item, "x") or 0,
        day=_int(item, "y"),
        received=_int(item, "z") or 0,
        lanes=tuple((int(day), int(number)) for day, number in (each.split(":") for each in lanes.split(",") if each)),
        ids=frozenset(item.get("i", {}).get("BS", ())),
        digests=frozenset(item.get("j", {}).get("BS", ())),
        hours=hours,
        rate=_rate(item["w"]["M"]) if "w" in item else RateState(),
    )


def _head_item(series: Series, head: Head) -> dict[str, Any]:
    hours: dict[str, Any] = {}
    for hour, tally in head.hours.items():
        quarter = _quarter(hour)
        hours |= {quarter: _n(tally.quantity), f"{quarter}n": _n(tally.events)}
        hours |= {f"{quarter}m": {"S": tally.latest}} if tally.latest else {}
    item: dict[str, Any] = _head_key(series) | {
        "s": _n(head.structure),
        "u": _n(head.tally.quantity),
        "n": _n(head.tally.events),
        "h": {"M": hours},
    }
    if head.counter is not None:
        item["c"] = {"S": _counter_text(head.counter)}
    if head.tally.latest:
        item["m"] = {"S": head.tally.latest}
    if head.origin is not None:
        item |= {"o": _n(head.origin), "a": _n(head.start), "e": _n(head.end), "x": _n(head.spilled)}
    if head.day is not None:
        item |= {"y": _n(head.day), "z": _n(head.received)}
    if head.lanes:
        item["l"] = {"S": ",".join(f"{day}:{number}" for day, number in head.lanes)}
    if head.ids:
        item |= {"i": {"BS": sorted(head.ids)}, "j": {"BS": sorted(head.digests)}}
    if head.rate.window_seconds:
        rate = head.rate
        item["w"] = {
            "M": {
                "s": _n(rate.window_seconds),
                "w": _n(rate.window),
                "c": _n(rate.count),
                "p": _n(rate.previous),
                "t": _n(rate.tat),
            }
        }
    return item


def _rate(item: Mapping[str, Any]) -> RateState:
    seconds, window = int(item["s"]["N"]), int(item["w"]["N"])
    return RateState(seconds, window, *(Decimal(item[name]["N"]) for name in "cpt"))


def _past(item: PeriodItem) -> PastCounter:
    closed = _tally_from(item.closed) if item.closed else None
    return PastCounter(Tally(item.quantity, int(item.events), item.latest), closed)


def _day_hours(item: DayItem) -> dict[datetime, Tally]:
    return {_from_quarter(quarter): _tally_from(tally) for quarter, tally in item.hours.items()}


def _tally_json(tally: Tally) -> list[Any]:
    return [f"{tally.quantity:f}", tally.events, tally.latest]


def _tally_from(stored: Sequence[Any]) -> Tally:
    return Tally(Decimal(stored[0]), int(stored[1]), stored[2])


def _sum(tallies: Iterable[Tally]) -> Tally:
    """The shards of a counter together; only sums and counts have any."""
    total = Tally()
    for tally in tallies:
        total = total.merge(tally, Aggregation.SUM)
    return total


def _all(customer: str, feature: str, shards: int) -> list[Series]:
    return [Series(customer, feature, number) for number in range(shards)]


def _pk(series: Series) -> str:
    return f"COUNTER#{series.customer}#{series.feature}#{series.shard}"


def _head_key(series: Series) -> dict[str, Any]:
    shard = f"#{series.shard}" if series.shard else ""
    return {"pk": {"S": f"HEAD#{series.customer}"}, "sk": {"S": f"{series.feature}{shard}"}}


def _period_key(series: Series, counter: CounterId) -> dict[str, Any]:
    return {"pk": {"S": _pk(series)}, "sk": {"S": _period_sk(counter)}}


def _marker_key(event: bytes) -> dict[str, Any]:
    return {"pk": {"S": f"EVENT#{event.hex()}"}, "sk": {"S": "MARKER"}}


def _key_of(key: Mapping[str, Any]) -> tuple[str, str]:
    return key["pk"]["S"], key["sk"]["S"]


def _counter_text(counter: CounterId) -> str:
    return f"{counter.subscription}#{format_time(counter.period_start)}"


def _counter(series: Series, text: str) -> CounterId:
    subscription, start = text.split("#")
    return CounterId(series.customer, series.feature, subscription, parse_time(start))


def _period_sk(counter: CounterId) -> str:
    return f"PERIOD#{_counter_text(counter)}"


def _day_sk(day: DayId) -> str:
    counter, date = day
    return f"DAY#{date}#{_counter_text(counter)}"


def _page_sk(bucket: str, structure: int) -> str:
    return f"PAGE#{bucket}#{structure:010d}"


def _page_place(sk: str) -> tuple[str, int]:
    """The bucket of a page, and the structure of the head it was written with."""
    bucket, _, structure = sk.removeprefix("PAGE#").rpartition("#")
    return bucket, int(structure)


def _adjustment_sk(series: Series, counter: CounterId) -> str:
    return f"{series.customer}#{series.feature}#{series.shard}#{format_time(counter.period_start)}"


def _quarter(hour: datetime) -> str:
    return str((hour - EPOCH) // _QUARTER)


def _from_quarter(quarter: str) -> datetime:
    return EPOCH + int(quarter) * _QUARTER


def _int(item: Mapping[str, Any], name: str) -> int | None:
    return int(item[name]["N"]) if name in item else None


def _n(value: Decimal | int) -> dict[str, str]:
    return {"N": f"{value:f}" if isinstance(value, Decimal) else str(value)}


def _ttl(at: datetime) -> int:
    return int((at + _KEEP).timestamp())


def _table() -> str:
    return str(UsageTable.Meta.table_name)


def _client() -> Any:
    return connect(UsageTable).client

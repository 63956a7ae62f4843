"""Counters in the usage table.

    pk                              sk                                     what
    HEAD#customer                   feature                                the head of a series, with its gate
    HEAD#customer                   #                                      the features that have gates
    COUNTER#customer#feature#shard  PAGE#bucket#structure                  ids that left the head
    COUNTER#customer#feature#shard  PERIOD#subscription#period start       a counter that is not in the head
    COUNTER#customer#feature#shard  DAY#date#subscription#period start     sums of hours that left the head
    EVENT#hash                      MARKER                                 an event known by its id alone was seen
    ADJUST#subscription             feature#shard#period start             its closed period has had events since
    RESERVATION#id                  STATE                                  a reservation, open or settled

The usual write is one conditional update of the head. All others are one transaction, in which the head is
written on condition of its structure, so that it guards whatever else is in it (see series.py). A condition
that fails gives back the head as it is, which is what the next attempt starts from.

The head is written through the table's own client: PynamoDB cannot ask for the old item of a failed condition,
and its expressions cost twice the time. Whether the ids of the head are known to be where a caller looks for
them is decided by the condition alone; nothing read before needs to be true.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from botocore.exceptions import ClientError
from pynamodb.attributes import BinaryAttribute, JSONAttribute, NumberAttribute, UnicodeAttribute, UTCDateTimeAttribute
from pynamodb.expressions.condition import Condition

from tollgate.catalog.model import Aggregation, RateAlgorithm
from tollgate.catalog.periods import Period
from tollgate.catalog.snapshots import Published
from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.dynamodb import DecimalAttribute, UsageTable, connect
from tollgate.kernel.errors import Unavailable
from tollgate.kernel.money import EXACT
from tollgate.kernel.time import format_time, parse_time, system_clock
from tollgate.metering.counters import LostRace, ReservationChanged, SeriesCounters
from tollgate.metering.model import (
    EPOCH,
    MAX_QUANTITY,
    Adjustment,
    Count,
    CounterId,
    Reservation,
    ReservationState,
    Series,
    Tally,
)
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
    RateChange,
    floor_of,
    is_known,
    is_receipt,
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
_FEATURES: Final = "#"


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
            items = self._batch_get([_head_key(series) for series in wanted])
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
        found = self._batch_get([{"pk": {"S": pk}, "sk": {"S": sk}} for pk, sk in keys])
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

    def _write(self, series: Series, change: Change, known: Known) -> Head | None:
        return self._write_together({series: change}, {}, {series: known}).get(series)

    def _write_together(
        self, changes: Mapping[Series, Change], guards: Mapping[Series, int], known: Mapping[Series, Known]
    ) -> dict[Series, Head]:
        writes = [_head_write(series, change, known[series].head) for series, change in changes.items()]
        writes += [_guard(series, revision) for series, revision in guards.items()]
        others = [write for series, change in changes.items() for write in _other_writes(series, change, known[series])]
        order = [*changes, *guards]
        try:
            if others or len(order) > 1:
                _client().transact_write_items(TransactItems=[*writes, *others])
                # It does not say what its updates, that may have added to what others did, have left.
                told = len(order) > 1 or "Put" in writes[0]
                return {series: change.head for series, change in changes.items()} if told else {}
            ((series, change),) = changes.items()
            if "Put" in writes[0]:
                _client().put_item(**writes[0]["Put"])
                return {series: change.head}
            answer = _client().update_item(**writes[0]["Update"], ReturnValues="ALL_NEW")
        except ClientError as error:
            reserves = any(change.reservation is not None for change in changes.values())
            _raise_if_lost(error, order, reservation_at=len(writes) + len(others) - 1 if reserves else None)
            raise
        return {series: _head(answer["Attributes"], series)}

    def _publish(self, series: Series, gate: str, revision: int) -> Head:
        try:
            answer = _client().update_item(**_gate_update(series, gate, revision), ReturnValues="ALL_NEW")
        except ClientError as error:
            _raise_if_lost(error, [series])
            raise
        return _head(answer["Attributes"], series)

    def published(self, customer: str) -> Published:
        """All gates of a customer."""
        gates: dict[tuple[str, int], int] = {}
        features: frozenset[str] = frozenset()
        for item in _partition(customer):
            if item["sk"]["S"] == _FEATURES:
                features = frozenset(item["f"].get("SS", ())) if "f" in item else frozenset()
            elif item.get("g"):
                series = _series(customer, item)
                gates[series.feature, series.shard] = int(item["r"]["N"])
        return Published(gates, features)

    def publish_gate(self, customer: str, feature: str, shard: int, text: str, revision: int) -> None:
        """Set a gate, unless one of that revision or a higher one is there."""
        self.publish(Series(customer, feature, shard), text, revision)

    def publish_features(self, customer: str, features: frozenset[str], revision: int) -> None:
        """Say which features have gates, unless that was said at that revision or a higher one."""
        item: dict[str, Any] = {"pk": {"S": f"HEAD#{customer}"}, "sk": {"S": _FEATURES}, "r": _n(revision)}
        if features:
            item["f"] = {"SS": sorted(features)}
        with contextlib.suppress(_client().exceptions.ConditionalCheckFailedException):
            _client().put_item(
                TableName=_table(),
                Item=item,
                ConditionExpression="attribute_not_exists(r) OR r < :revision",
                ExpressionAttributeValues={":revision": _n(revision)},
            )

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
        items = {_key_of(raw): raw for raw in self._batch_get(keys)}
        # A counter that left its head between the reading of the two is there by now.
        left = [
            _period_key(series, counter)
            for series, counter in wanted
            if _key_of(_period_key(series, counter)) not in items
            and _is_other(items.get(_key_of(_head_key(series))), counter)
        ]
        items |= {_key_of(raw): raw for raw in self._batch_get(left)} if left else {}
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
            head, days = self._hours_of(series, DayItem.sk.between(first, last))
            if head is not None and head.counter is not None:
                rows += [(hour, head.counter, tally) for hour, tally in head.hours.items()]
            for item in days:
                counter = _counter(series, item.sk.split("#", 2)[2])
                rows += [(hour, counter, tally) for hour, tally in _day_hours(item).items()]
        return sorted((row for row in rows if start <= row[0] < end), key=lambda row: row[0])

    def _hours_of(self, series: Series, days: Condition) -> tuple[Head | None, list[DayItem]]:
        """The head and the day items of a series as they are at one time: hours move from the one to the others."""
        after = self._read_heads([series]).get(series)
        for _ in range(_TRIES):
            before = after
            items = list(DayItem.query(_pk(series), days, consistent_read=True))
            after = self._read_heads([series]).get(series)
            if (before and before.structure) == (after and after.structure):
                return after, items
        raise Unavailable("Others keep writing to this counter; send the request again.")

    def heads_of(self, customer: str) -> tuple[frozenset[str], dict[Series, Head]]:
        """All heads of a customer, and which features have gates; one read."""
        features: frozenset[str] = frozenset()
        heads: dict[Series, Head] = {}
        for item in _partition(customer):
            if item["sk"]["S"] == _FEATURES:
                features = frozenset(item["f"]["SS"]) if "f" in item else frozenset()
            else:
                series = _series(customer, item)
                heads[series] = _head(item, series)
        return features, heads

    def reservation(self, reservation_id: str) -> Reservation | None:
        """The reservation, if there is one."""
        answer = _client().get_item(TableName=_table(), Key=_reservation_key(reservation_id), ConsistentRead=True)
        return _reservation(answer["Item"]) if "Item" in answer else None

    def counted(self, series: Series, counts: Sequence[Count]) -> list[bool]:
        """Whether each event is among those that were counted, in that very form: id, body and time."""
        known = Known(self._read_heads([series]).get(series))
        if missing := missing_for(counts, known):
            self._load(series, known, missing)
        return [bool(is_known(count, known, exactly=True)) for count in counts]

    def find(
        self,
        series: Series,
        hashes: Collection[bytes],
        start: datetime,
        end: datetime,
        spend: Callable[[int], None] = lambda _: None,
    ) -> Period | None:
        """The newest stretch of time that touches [start, end] and that one of these events was counted in.

        `spend` is told of each page how many ids it has; it raises when that is enough.
        """
        wanted = set(hashes)
        head = self._read_heads([series]).get(series)
        if head is None:
            return None
        for raw in self._batch_get([_marker_key(event) for event in wanted]):
            times = [parse_time(text) for text in MarkerItem.from_raw_data(raw).at]
            inside = [at for at in times if start <= at <= end]
            if inside:
                return Period(max(inside), max(inside) + timedelta(microseconds=1))
        kinds = _stretches(series, head, wanted, Period(start, end), spend)
        newest = [next((one for one in kind if one.start <= end and start < one.end), None) for kind in kinds]
        return max((one for one in newest if one), key=lambda one: one.end, default=None)

    def _batch_get(self, keys: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Items as they are stored, a request per hundred; what the database leaves out is asked for again."""
        found: list[dict[str, Any]] = []
        waiting = list({_key_of(key): dict(key) for key in keys}.values())
        attempt = 0
        while waiting:
            part, waiting = waiting[:_BATCH_GET], waiting[_BATCH_GET:]
            answer = _client().batch_get_item(RequestItems={_table(): {"Keys": part, "ConsistentRead": True}})
            found += answer["Responses"].get(_table(), [])
            if left := answer.get("UnprocessedKeys", {}).get(_table(), {}).get("Keys", []):
                waiting += left
                if (attempt := attempt + 1) == _TRIES:
                    raise Unavailable("The database cannot be read now; send the request again.")
                self._wait(attempt, 1.0)
        return found

    def adjustments(self, subscription: str) -> list[Adjustment]:
        """The closed counters of a subscription that have had events since they were billed."""
        connect(UsageTable)
        closed: dict[tuple[str, str], tuple[Series, CounterId]] = {}
        for pointer in AdjustmentItem.query(f"ADJUST#{subscription}", consistent_read=True):
            customer, feature, shard, start = pointer.sk.split("#")
            counter = CounterId(customer, feature, subscription, parse_time(start))
            series = Series(customer, feature, int(shard))
            closed[_key_of(_period_key(series, counter))] = (series, counter)
        found = {_key_of(raw): raw for raw in self._batch_get([_period_key(*one) for one in closed.values()])}
        pasts = {key: _past(PeriodItem.from_raw_data(found[key])) for key in closed if key in found}
        return [Adjustment(*closed[key], past.closed or Tally(), past.tally) for key, past in pasts.items()]


# Writes


def _head_write(series: Series, change: Change, old: Head | None) -> dict[str, Any]:
    if change.adds and old is not None:
        return {"Update": _head_update(series, change, old)}
    return {"Put": _head_put(series, change.head, old)}


def _guard(series: Series, revision: int) -> dict[str, Any]:
    """That a gate is the one it was decided by."""
    request: dict[str, Any] = {
        "TableName": _table(),
        "Key": _head_key(series),
        "ConditionExpression": "r = :revision",
        "ExpressionAttributeValues": {":revision": _n(revision)},
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    return {"ConditionCheck": request}


class _Update:
    """An update expression with its condition in the making."""

    def __init__(self) -> None:
        self.adds: list[str] = []
        self.sets: list[str] = []
        self.removes: list[str] = []
        self.conditions: list[str] = []
        self.names: dict[str, str] = {}
        self.values: dict[str, Any] = {}

    def request(self, series: Series) -> dict[str, Any]:
        """The arguments of UpdateItem."""
        parts = {"ADD": self.adds, "SET": self.sets, "REMOVE": self.removes}
        request = {
            "TableName": _table(),
            "Key": _head_key(series),
            "UpdateExpression": " ".join(f"{verb} {', '.join(each)}" for verb, each in parts.items() if each),
            "ConditionExpression": " AND ".join(self.conditions),
            "ExpressionAttributeValues": self.values,
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
        return request | ({"ExpressionAttributeNames": self.names} if self.names else {})


def _head_update(series: Series, change: Change, old: Head) -> dict[str, Any]:
    """Add to the head, on condition of its structure, and that it holds none of the new ids and has room for them."""
    head, update = change.head, _Update()
    update.values = {":structure": _n(old.structure), ":revision": _n(old.revision)}
    update.conditions = ["s = :structure", "r <= :revision"]
    if change.added.events:
        update.adds = ["u :quantity", "n :events"]
        update.values |= {
            ":quantity": _n(change.added.quantity),
            ":events": _n(change.added.events),
        }
    if change.ids:
        _add_ids(update, change)
    _add_hours(update, change)
    _add_holds(update, change)
    if change.rate is not None:
        _add_rate(update, change.rate)
    if head.structure != old.structure:
        update.sets.append("s = :next")
        update.values[":next"] = _n(head.structure)
    if head.end != old.end:
        update.sets.append("e = :end")
        update.values[":end"] = _n(head.end)
    return update.request(series)


def _add_ids(update: _Update, change: Change) -> None:
    update.adds += ["i :ids", "j :digests"]
    update.values |= {
        ":ids": {"BS": sorted(change.ids)},
        ":digests": {"BS": sorted(change.digests)},
        ":room": _n(change.room - len(change.ids)),
    }
    update.conditions.append("(attribute_not_exists(i) OR size(i) <= :room)")
    for place, each in enumerate(change.ids):
        update.values[f":i{place}"] = {"B": each}
        update.conditions.append(f"NOT contains(i, :i{place})")


def _add_hours(update: _Update, change: Change) -> None:
    if change.hours:
        update.values[":zero"] = _n(0)
    for place, (hour, tally) in enumerate(change.hours.items()):
        quarter = _quarter(hour)
        update.names |= {f"#q{place}": quarter, f"#n{place}": f"{quarter}n"}
        update.values |= {f":q{place}": _n(tally.quantity), f":n{place}": _n(tally.events)}
        update.sets += [
            f"h.#q{place} = if_not_exists(h.#q{place}, :zero) + :q{place}",
            f"h.#n{place} = if_not_exists(h.#n{place}, :zero) + :n{place}",
        ]


def _add_holds(update: _Update, change: Change) -> None:
    """What is used and held changes together, under the limit; holds that expired leave as they are known."""
    taken = change.added.quantity
    for place, (expires, quantity) in enumerate(change.held.items()):
        taken = EXACT.add(taken, quantity)
        update.names[f"#h{place}"] = str(expires)
        update.values |= {":zero": _n(0), f":h{place}": _n(quantity)}
        update.sets.append(f"v.#h{place} = if_not_exists(v.#h{place}, :zero) + :h{place}")
        if quantity < 0:
            update.conditions.append(f"v.#h{place} >= :least{place}")
            update.values[f":least{place}"] = _n(-quantity)
    for place, (expires, quantity) in enumerate(change.freed.items()):
        taken = EXACT.subtract(taken, quantity)
        update.names[f"#f{place}"] = str(expires)
        update.values[f":f{place}"] = _n(quantity)
        update.removes.append(f"v.#f{place}")
        update.conditions.append(f"v.#f{place} = :f{place}")
    for place, (expires, quantity) in enumerate(change.unheld.items()):
        update.names[f"#u{place}"] = str(expires)
        update.values[f":u{place}"] = _n(quantity)
        update.conditions.append(f"(attribute_not_exists(v.#u{place}) OR v.#u{place} < :u{place})")
    update.adds.append("t :taken")
    update.values[":taken"] = _n(taken)
    if change.most is not None:
        update.conditions.append("t <= :most")
        update.values[":most"] = _n(change.most)
    elif taken > 0:
        update.conditions.append("t < :ceiling")
        update.values[":ceiling"] = _n(EXACT.subtract(MAX_QUANTITY, taken))


def _add_rate(update: _Update, change: RateChange) -> None:
    """Add to the figure that grows where others may do so at once; else put what is exactly known in place of it."""
    old, new = change.old, change.new
    is_same = old.window_seconds == new.window_seconds and old.algorithm is new.algorithm
    if new.algorithm is RateAlgorithm.TOKEN_BUCKET:
        if is_same and change.most is not None and old.tat > change.now:
            update.sets.append("w.t = w.t + :took")
            update.conditions += ["w.s = :window_seconds", "w.a = :algorithm", "w.t > :now", "w.t < :tat"]
            update.values |= {
                ":took": _n(EXACT.subtract(new.tat, old.tat)),
                ":now": _n(change.now),
                ":tat": _n(change.most),
                ":window_seconds": _n(new.window_seconds),
                ":algorithm": {"S": new.algorithm.value},
            }
            return
    elif is_same and old.window == new.window and old.previous == new.previous:
        update.sets.append("w.c = w.c + :used")
        update.conditions += ["w.s = :window_seconds", "w.a = :algorithm", "w.w = :window", "w.p = :previous"]
        update.values |= {
            ":used": _n(EXACT.subtract(new.count, old.count)),
            ":window": _n(new.window),
            ":previous": _n(new.previous),
            ":window_seconds": _n(new.window_seconds),
            ":algorithm": {"S": new.algorithm.value},
        }
        if change.most is not None:
            update.conditions.append("w.c <= :count")
            update.values[":count"] = _n(change.most)
        return
    update.sets.append("w = :rate")
    update.values[":rate"] = _rate_item(new)
    if old.window_seconds:
        update.conditions.append("w = :known")
        update.values[":known"] = _rate_item(old)
    else:
        update.conditions.append("attribute_not_exists(w)")


def _head_put(series: Series, head: Head, old: Head | None) -> dict[str, Any]:
    """Replace the head, on condition that it is as it was known: each write changes one of these."""
    request: dict[str, Any] = {
        "TableName": _table(),
        "Item": _head_item(series, head),
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    if old is None:
        return request | {"ConditionExpression": "attribute_not_exists(pk)"}
    return request | {
        "ConditionExpression": "s = :structure AND n = :events AND r = :revision AND v = :holds",
        "ExpressionAttributeValues": {
            ":structure": _n(old.structure),
            ":events": _n(old.tally.events),
            ":revision": _n(old.revision),
            ":holds": _holds_item(old),
        },
    }


def _gate_update(series: Series, gate: str, revision: int) -> dict[str, Any]:
    """Set the gate of a head; one that is not there yet is made, and has counted nothing."""
    update = _Update()
    update.sets = ["g = :gate", "r = :revision"]
    update.sets += [f"{name} = if_not_exists({name}, :zero)" for name in ("s", "u", "n", "t")]
    update.sets += [f"{name} = if_not_exists({name}, :none)" for name in ("h", "v")]
    update.conditions = ["(attribute_not_exists(r) OR r < :revision)"]
    update.values = {":gate": {"S": gate}, ":revision": _n(revision), ":zero": _n(0), ":none": {"M": {}}}
    return update.request(series)


def _other_writes(series: Series, change: Change, known: Known) -> Iterator[dict[str, Any]]:
    """What is written together with the head, and guarded by it; only markers have a condition of their own."""
    pk = _pk(series)
    now = system_clock()
    ttl = _ttl(now)
    for page in change.pages:
        structure = change.head.structure if page.replaces is None else page.replaces
        # As a `PageItem` is stored: PynamoDB would take ten times as long to make it.
        item: dict[str, Any] = {
            "pk": {"S": pk},
            "sk": {"S": _page_sk(page.key, structure)},
            "kind": {"S": "page"},
            "i": {"B": b"".join(sorted(page.ids))},
            "j": {"B": b"".join(sorted(page.digests))},
            "ttl": _n(ttl),
        }
        yield {"Put": {"TableName": _table(), "Item": item}}
    for counter, past in change.periods.items():
        tally = past.tally
        period = PeriodItem(pk, _period_sk(counter), closed=_tally_json(past.closed) if past.closed else None)
        period.quantity, period.events, period.latest = tally.quantity, tally.events, tally.latest
        yield _put(period)
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
    if change.reservation is not None:
        yield _reservation_write(change.reservation, change.reserved, now)


def _reservation_write(reservation: Reservation, before: Reservation | None, now: datetime) -> dict[str, Any]:
    request: dict[str, Any] = {"TableName": _table(), "Item": _reservation_item(reservation, now)}
    if before is None:
        return {"Put": request | {"ConditionExpression": "attribute_not_exists(pk)"}}
    request["ConditionExpression"] = "#state = :state"
    request["ExpressionAttributeNames"] = {"#state": "state"}
    request["ExpressionAttributeValues"] = {":state": {"S": before.state.value}}
    return {"Put": request}


def _put(item: UsageTable, condition: Condition | None = None) -> dict[str, Any]:
    if condition is None:
        return {"Put": {"TableName": _table(), "Item": item.serialize()}}
    return {"Put": item.get_save_kwargs_from_instance(condition=condition)}


def _raise_if_lost(error: ClientError, order: Sequence[Series], *, reservation_at: int | None = None) -> None:
    """Raise LostRace for a condition that failed, with the heads as they are where the answer has them.

    `order` is that of the heads among the actions of a transaction, which come first; `reservation_at` is the place
    of a reservation.
    """
    answer: dict[str, Any] = dict(error.response)
    if answer["Error"]["Code"] == "ConditionalCheckFailedException":
        raise LostRace({order[0]: _head(answer["Item"], order[0])} if answer.get("Item") else None) from error
    reasons = answer.get("CancellationReasons", [])
    failed = [place for place, reason in enumerate(reasons) if reason["Code"] == "ConditionalCheckFailed"]
    if reservation_at in failed:
        raise ReservationChanged from error
    if failed:
        items = {order[place]: reasons[place].get("Item") for place in failed if place < len(order)}
        heads = {series: _head(item, series) for series, item in items.items() if item}
        # Where a head is not told, or a marker was not as it was known, all is to be read again.
        raise LostRace(heads if len(heads) == len(items) else None) from error


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


def _stretches(
    series: Series, head: Head, wanted: set[bytes], asked: Period, spend: Callable[[int], None]
) -> Iterator[Iterator[Period]]:
    """The buckets that hold one of the ids, each as the stretch of time it covers; of each kind the newest first."""
    first, last = int(asked.start.timestamp()), int(asked.end.timestamp())
    receipts = {each for each in wanted if is_receipt(each)}
    if head.day is not None and not head.ids.isdisjoint(receipts):
        yield iter([_stretch(head.day * _DAY, (head.day + 1) * _DAY)])
    if head.origin is not None and not head.ids.isdisjoint(wanted - receipts):
        yield iter([_stretch(head.start, head.end)])
    pages = _Pages(series, wanted, spend)
    yield pages.of_time(head, first, last)
    yield pages.of("E", f"{first - first % _HOUR:010d}", f"{last:010d}", length=_HOUR)
    yield pages.of("L", f"{first // _DAY:06d}", f"{last // _DAY:06d}", length=_DAY, unit=_DAY)


@dataclass(frozen=True, slots=True)
class _Pages:
    """The pages of a series that hold one of some ids, the newest bucket first."""

    series: Series
    wanted: set[bytes]
    spend: Callable[[int], None]

    def of(self, kind: str, low: str, high: str, *, length: int, unit: int = 1) -> Iterator[Period]:
        """Those of buckets that all are as long, and whose keys say when they begin."""
        for item, has in self._between(f"PAGE#{kind}#{low}", f"PAGE#{kind}#{high}#~"):
            if has:
                begin = int(item.sk.split("#")[2]) * unit
                yield _stretch(begin, begin + length)

    def of_time(self, head: Head, first: int, last: int) -> Iterator[Period]:
        """Those of buckets that end where the next one begins; that of `first` may have begun before."""
        end, start = head.end, head.start
        for item, has in self._between("PAGE#T#", f"PAGE#T#{last:010d}#~"):
            begin = time_bucket(_page_place(item.sk)[0]) or 0
            if begin != start:
                if start <= first:
                    return
                end, start = start, begin
            if has:
                yield _stretch(begin, end)

    def _between(self, first: str, last: str) -> Iterator[tuple[PageItem, bool]]:
        condition = PageItem.sk.between(first, last)
        for item in PageItem.query(_pk(self.series), condition, consistent_read=True, scan_index_forward=False):
            ids = _parts(item.ids, _HASH_BYTES)
            self.spend(len(ids))
            yield item, not self.wanted.isdisjoint(ids)


def _stretch(start: int, end: int) -> Period:
    return Period(EPOCH + timedelta(seconds=start), EPOCH + timedelta(seconds=end))


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
        holds={int(expires): Decimal(value["N"]) for expires, value in item["v"]["M"].items()},
        gate=item["g"]["S"] if "g" in item else "",
        revision=int(item["r"]["N"]),
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
        "t": _n(_taken(head)),
        "h": {"M": hours},
        "v": _holds_item(head),
        "r": _n(head.revision),
    }
    if head.gate:
        item["g"] = {"S": head.gate}
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
        item["w"] = _rate_item(head.rate)
    return item


def _taken(head: Head) -> Decimal:
    """What is used and held: a condition can name a sum only where it is kept."""
    total = head.tally.quantity
    for quantity in head.holds.values():
        total = EXACT.add(total, quantity)
    return total


def _holds_item(head: Head) -> dict[str, Any]:
    return {"M": {str(expires): _n(quantity) for expires, quantity in head.holds.items()}}


def _rate_item(rate: RateState) -> dict[str, Any]:
    figures = {"s": _n(rate.window_seconds), "a": {"S": rate.algorithm.value}}
    if rate.algorithm is RateAlgorithm.TOKEN_BUCKET:
        return {"M": figures | {"t": _n(rate.tat)}}
    return {"M": figures | {"w": _n(rate.window), "c": _n(rate.count), "p": _n(rate.previous)}}


def _rate(item: Mapping[str, Any]) -> RateState:
    seconds, algorithm = int(item["s"]["N"]), RateAlgorithm(item["a"]["S"])
    if algorithm is RateAlgorithm.TOKEN_BUCKET:
        return RateState(seconds, algorithm, tat=Decimal(item["t"]["N"]))
    return RateState(seconds, algorithm, int(item["w"]["N"]), *(Decimal(item[name]["N"]) for name in "cp"))


def _reservation_item(reservation: Reservation, now: datetime) -> dict[str, Any]:
    item = _reservation_key(reservation.id) | {
        "customer": {"S": reservation.customer},
        "feature": {"S": reservation.feature},
        "quantity": _n(reservation.quantity),
        "seconds": _n(reservation.seconds),
        "expires": _n(reservation.expires),
        "state": {"S": reservation.state.value},
        "ttl": _n(_ttl(now)),
    }
    return item if reservation.committed is None else item | {"committed": _n(reservation.committed)}


def _reservation(item: Mapping[str, Any]) -> Reservation:
    return Reservation(
        id=item["pk"]["S"].removeprefix("RESERVATION#"),
        customer=item["customer"]["S"],
        feature=item["feature"]["S"],
        quantity=Decimal(item["quantity"]["N"]),
        seconds=int(item["seconds"]["N"]),
        expires=int(item["expires"]["N"]),
        state=ReservationState(item["state"]["S"]),
        committed=Decimal(item["committed"]["N"]) if "committed" in item else None,
    )


def _reservation_key(reservation_id: str) -> dict[str, Any]:
    return {"pk": {"S": f"RESERVATION#{reservation_id}"}, "sk": {"S": "STATE"}}


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


def _partition(customer: str) -> Iterator[dict[str, Any]]:
    """All items of the heads of a customer."""
    request: dict[str, Any] = {
        "TableName": _table(),
        "KeyConditionExpression": "pk = :pk",
        "ExpressionAttributeValues": {":pk": {"S": f"HEAD#{customer}"}},
        "ConsistentRead": True,
    }
    start: dict[str, Any] | None = {}
    while start is not None:
        answer = _client().query(**request, **start)
        yield from answer["Items"]
        start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]} if "LastEvaluatedKey" in answer else None


def _series(customer: str, item: Mapping[str, Any]) -> Series:
    feature, _, shard = item["sk"]["S"].partition("#")
    return Series(customer, feature, int(shard or 0))


def _all(customer: str, feature: str, shards: int) -> list[Series]:
    return [Series(customer, feature, number) for number in range(shards)]


def _pk(series: Series) -> str:
    return f"COUNTER#{series.customer}#{series.feature}#{series.shard}"


def _is_other(head: Mapping[str, Any] | None, counter: CounterId) -> bool:
    """Whether a head that has counted holds another counter, or none any more."""
    return head is not None and int(head["s"]["N"]) > 0 and head.get("c", {}).get("S") != _counter_text(counter)


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

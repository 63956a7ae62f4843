"""The counting rule: what a batch changes in a series, or that it changes nothing. Pure.

An id is looked for in its bucket, in pages and head, and added in the very write that counts its event (series.py
says what there is). Usually that write adds to the head, which tells by a condition of its own whether it holds one
of the ids; other ones replace the head, which must be exactly the one known, and move what it has no room for.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Final

from tollgate.catalog.model import Aggregation
from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import Unavailable
from tollgate.kernel.money import EXACT, ZERO
from tollgate.metering.model import (
    MAX_QUANTITY,
    Adjustment,
    Count,
    CounterId,
    Limit,
    Outcome,
    Scope,
    Series,
    Tally,
    fold,
    receipt_tag,
)
from tollgate.metering.rates import RateState, admit, ceiling, record, seconds_of
from tollgate.metering.series import (
    DAY_SECONDS,
    LANES,
    Change,
    Head,
    Known,
    Marker,
    Missing,
    NewPage,
    Page,
    PastCounter,
    RateChange,
    floor_of,
    held,
    is_fresh,
    is_of_head,
    is_receipt,
    lane_key,
    lane_keys,
    look_for,
    page_keys,
    room_of,
    time_key,
)

__all__ = [
    "Step",
    "change_hold",
    "close_counter",
    "count_events",
    "free_holds",
    "most_before",
    "open_counter",
    "settle_adjustment",
    "spills_for",
]

MAX_GUARDS: Final = 30
"""Ids that one condition may name."""
MAX_ITEMS: Final = 90
"""Items that one step of a batch may touch, of the actions of a transaction."""
MAX_ACTIONS: Final = 100
"""Of a transaction."""
MAX_FREED: Final = 20
"""Expired holds that one update takes out: a condition and a removal each, of the 300 that an expression may have."""
MAX_HOURS: Final = 12
"""Hours whose sums stay in the head."""
FULL_BUCKET: Final = 8_000
"""Ids in a bucket: who must look through its pages reads 128 KB at most, in the usual case."""
FULL_LANE: Final = 4_096
"""Ids of a receipt day in a lane, before there are more lanes."""
FULL_TAIL: Final = 48
"""Ids in a page of a closed bucket, before a late event makes a new one."""
MARGIN: Final = 60
"""Seconds that the open bucket reaches beyond the newest event."""
SPAN: Final = 300
"""Seconds that a bucket is open at least, unless it is full: events that come late by less are not late."""


@dataclass(slots=True)
class Step:
    """The outcomes of the first events of a batch, and what is to be written before they are true."""

    outcomes: list[Outcome]
    change: Change | None


# Counting


def count_events(
    series: Series,
    aggregation: Aggregation,
    counts: Sequence[Count],
    known: Known,
    now: datetime,
    *,
    limit: Limit | None = None,
) -> Step | Missing:
    """Count the first of the events, as many as one write takes; or say what must be read before.

    Args:
        series: what they count in.
        aggregation: how they add up.
        counts: the events.
        known: what is known of the series.
        now: the time of the function's clock.
        limit: what each must fit in; what does not is denied.
    """
    head = known.head or Head()
    frame = _frame(series, head, counts)
    if plain := _are_plain(counts, head, frame):
        taken, missing, looked = counts, *_look_once(counts, known, head)
        seen = _widened(known, frame)
    else:
        taken = _affordable(counts, known, head)
        frame = frame if taken is counts else _frame(series, head, taken)
        # Where nothing was ever written but a gate, there are no other periods.
        others = {count.counter for count in taken if count.counter != head.counter} if head.structure else set()
        missing = Missing(periods=others - known.periods.keys())
        seen = _widened(known, frame)
        looked = [look_for(count, seen, missing) for count in taken]
    if missing:
        return missing
    if plain and limit is None and _are_new(aggregation, taken, looked[0], known, head):
        outcomes, accepted, rate = [Outcome.ACCEPTED] * len(taken), taken, head.rate
    else:
        outcomes, accepted, rate = _judge(
            aggregation, taken, looked, seen, seen.head or head, None if plain else frame, now, limit
        )
    if not accepted:
        return Step(outcomes, None)
    change = _Writer(series, aggregation, known, frame, plain=plain).write(accepted, rate, limit, now)
    return change if isinstance(change, Missing) else Step(outcomes, change)


def _are_plain(counts: Sequence[Count], head: Head, frame: "_Frame") -> bool:
    """Whether all events belong to the head's counter and to its open bucket, as is usual: one look serves all."""
    counter, time, start = counts[0].counter, Scope.TIME, head.start
    return (
        counter == head.counter
        and head.origin is not None
        and not frame.closes
        and all(count.counter is counter and count.scope is time and count.second >= start for count in counts)
    )


def _look_once(counts: Sequence[Count], known: Known, head: Head) -> tuple[Missing, list[list[Page]]]:
    if not head.spilled:
        return Missing(), [[]] * len(counts)
    key = time_key(head.start)
    if not is_fresh(key, known):
        return Missing(pages={key}), []
    return Missing(), [[known.pages[key]]] * len(counts)


def _are_new(
    aggregation: Aggregation, counts: Sequence[Count], pages: Sequence[Page], known: Known, head: Head
) -> bool:
    """Whether all events of the open bucket are surely accepted, as is usual: asked of all at once, not of each."""
    ids = {count.hash for count in counts}
    if len(ids) < len(counts) or not ids.isdisjoint(head.ids) or not all(ids.isdisjoint(page.ids) for page in pages):
        return False
    if any(count.rate is not None or count.quantity < 0 for count in counts):
        return False
    if aggregation is not Aggregation.SUM:
        return True
    after = EXACT.add(_stored(counts[0].counter, known).quantity, fold(counts, aggregation).quantity)
    return EXACT.add(after, held(head, 0)) < MAX_QUANTITY


def _affordable(counts: Sequence[Count], known: Known, head: Head) -> Sequence[Count]:
    """The first events, as many as surely touch no more items than a transaction takes."""
    touched: set[object] = set()
    # What a spill may touch of the head's own: a page per lane, and the days of its hours.
    spare = 8 + (sum(is_receipt(each) for each in head.ids) if head.lanes else 0)
    for place, count in enumerate(counts):
        at = count.second
        if count.scope is Scope.ID:
            touched.add(count.hash)
        elif count.scope is Scope.RECEIPT:
            touched.update(lane_keys(count, head) or [at // DAY_SECONDS])
        elif head.origin is not None and at < head.start:
            touched.add(floor_of(at, known) or at)
        touched.add((count.counter, count.hour.date()))
        if count.counter != head.counter:
            touched.update([count.counter, (count.counter, "adjusted")])
        if place and len(touched) + spare > MAX_ITEMS:
            return counts[:place]
    return counts


@dataclass(frozen=True, slots=True)
class _Frame:
    """The open bucket as it will be; where the present one `closes`, the next begins where it ended."""

    origin: int | None
    start: int
    end: int
    closes: bool = False


def _frame(series: Series, head: Head, taken: Sequence[Count]) -> _Frame:
    time = Scope.TIME
    times = [count.second for count in taken if count.scope is time]
    latest = max(times, default=0)
    if not times or (head.origin is not None and latest < head.end):
        return _Frame(head.origin, head.start, head.end)
    room = room_of(head, series)
    # A large batch goes to its page at once: the next one is to find a new bucket, not the end of this one.
    end = latest + (MARGIN if len(times) <= room else 1)
    if head.origin is None:
        return _Frame(min(times), min(times), end)
    held = head.spilled + sum(not is_receipt(each) for each in head.ids)
    # What has pages is closed as well: DynamoDB may have deleted them before the next event comes.
    is_full = head.spilled or held >= max(room, 1)
    if held >= FULL_BUCKET or (is_full and latest - head.start >= SPAN):
        return _Frame(head.origin, head.end, end, closes=True)
    return _Frame(head.origin, head.start, end)


def _widened(known: Known, frame: _Frame) -> Known:
    """What is known, the open bucket being as large as the events will make it: they are looked for in all of it."""
    head = known.head
    if head is None or frame.closes or frame.end == head.end:
        return known
    return replace(known, head=replace(head, end=frame.end))


def _judge(
    aggregation: Aggregation,
    taken: Sequence[Count],
    looked: Sequence[list[Page]],
    known: Known,
    head: Head,
    frame: _Frame | None,
    now: datetime,
    limit: Limit | None,
) -> tuple[list[Outcome], list[Count], RateState]:
    """Whether each event is new: an outcome per event, those that are accepted, and the rate after them.

    With no frame, all are of the open bucket.
    """
    rate = head.rate
    outcomes: list[Outcome] = []
    accepted: list[Count] = []
    batch: dict[object, bytes] = {}
    totals: dict[CounterId, Decimal] = {}
    counter: CounterId | None = None
    total = ZERO
    # What is held is kept in one number with what is used; expired holds only leave with what has a limit.
    others = held(head, 0 if limit is None else now.timestamp())
    for count, pages in zip(taken, looked, strict=True):
        key: object = (count.hash, _bucket_in_batch(count, known, head, frame)) if frame else count.hash
        first = batch.get(key)
        seen = _seen(count, pages, known, head, now) if first is None else first == count.digest
        if seen is not None:
            outcomes.append(Outcome.DUPLICATE if seen else Outcome.CONFLICT)
            continue
        if aggregation is Aggregation.SUM:
            if count.counter is not counter:
                counter = count.counter
                total = totals[counter] if counter in totals else _stored(counter, known).quantity
            more = EXACT.add(total, count.quantity)
            if EXACT.add(more, others) >= MAX_QUANTITY:
                outcomes.append(Outcome.OUT_OF_RANGE)
                continue
        if limit is not None and not _fits(count, aggregation, known, limit, now):
            outcomes.append(Outcome.DENIED)
            continue
        if count.rate is not None:
            after = _rate_after(rate, count, aggregation, now, limited=limit is not None)
            if isinstance(after, Outcome):
                outcomes.append(after)
                continue
            rate = after
        if counter is not None:
            total = totals[counter] = more
        batch[key] = count.digest
        outcomes.append(Outcome.ACCEPTED)
        accepted.append(count)
    return outcomes, accepted, rate


def _rate_after(
    rate: RateState, count: Count, aggregation: Aggregation, now: datetime, *, limited: bool
) -> RateState | Outcome:
    """The rate with an event more; or why there is none. What must fit in counts now, the rest when it happened."""
    assert count.rate is not None
    used = Decimal(1) if aggregation is Aggregation.COUNT else count.quantity
    try:
        if limited:
            return admit(rate, count.rate, now, used) or Outcome.DENIED
        return record(rate, count.rate, min(count.at, now), used)
    except OverflowError:
        return Outcome.OUT_OF_RANGE


def _fits(count: Count, aggregation: Aggregation, known: Known, limit: Limit, now: datetime) -> bool:
    """Whether an event leaves its counter, with what is held by others, within the limit."""
    if limit.quantity is None:
        return True
    # A gauge is asked for what it is to show, though a later event may show otherwise already.
    latest = aggregation is Aggregation.LATEST
    after = count.quantity if latest else _stored(count.counter, known).add(count, aggregation).quantity
    others = held(known.head, now.timestamp()) if known.head else ZERO
    if limit.settles is not None:
        others = EXACT.subtract(others, limit.settles[1])
    return EXACT.add(after, others) <= limit.quantity


def _bucket_in_batch(count: Count, known: Known, head: Head, frame: _Frame) -> object:
    """What two events of a batch must share besides their hash to be one."""
    if count.scope is not Scope.TIME or head.origin is None:
        return None
    at = count.second
    if at >= head.start:
        return frame.closes and at >= frame.start
    keys = page_keys(count, known)
    return keys[0] if keys else None


def _seen(count: Count, pages: Iterable[Page], known: Known, head: Head, now: datetime) -> bool | None:
    """Whether an event was counted with the same body, or with another one; None where it was not."""
    if count.scope is Scope.ID:
        marker = known.markers[count.hash]
        # DynamoDB deletes late: a marker whose time is over does not count.
        return marker.digest == count.digest if marker is not None and marker.until > now else None
    event = count.hash
    if event in head.ids and is_of_head(count, head):
        return count.digest in head.digests
    for page in pages:
        if event in page.ids:
            return count.digest in page.digests
    return None


def _stored(counter: CounterId, known: Known) -> Tally:
    if known.head is not None and counter == known.head.counter:
        return known.head.tally
    past = known.periods.get(counter)
    return past.tally if past else Tally()


class _Writer:
    """Puts accepted events where they belong, and so makes a `Change`."""

    def __init__(self, series: Series, aggregation: Aggregation, known: Known, frame: _Frame, *, plain: bool) -> None:
        self._series = series
        self._aggregation = aggregation
        self._known = known
        self._frame = frame
        self._plain = plain
        self._missing = Missing()
        self._old = known.head or Head()
        self._structural = known.head is None or (frame.start, frame.end) != (self._old.start, self._old.end)
        self._pages: dict[str, tuple[set[bytes], set[bytes]]] = {}
        adds = (
            known.head is not None
            and aggregation in {Aggregation.SUM, Aggregation.COUNT}
            and not frame.closes
            and frame.origin == self._old.origin
        )
        self._change = Change(replace(self._old, hours=dict(self._old.hours), holds=dict(self._old.holds)), adds=adds)

    def write(self, accepted: Sequence[Count], rate: RateState, limit: Limit | None, now: datetime) -> Change | Missing:
        """The change that counts the events, or what must be read before."""
        self._change.head.rate = rate
        if rate != self._old.rate:
            self._change.rate = self._rate_change(accepted, rate, limit, now)
        if limit is not None:
            self._place_holds(limit, now)
        self._place_tallies(accepted)
        if limit is not None and limit.quantity is not None and self._change.added.events:
            self._change.most = most_before(self._change, limit.quantity)
        self._place_ids(accepted)
        self._place_hours()
        if self._missing:
            return self._missing
        change = self._change
        change.pages = [self._page(key, ids, digests) for key, (ids, digests) in self._pages.items()]
        if self._structural or change.pages or change.periods or change.days:
            change.head.structure += 1
        return change

    def _rate_change(
        self, accepted: Sequence[Count], rate: RateState, limit: Limit | None, now: datetime
    ) -> RateChange:
        old, one = self._old.rate, accepted[0]
        most = None
        if limit is not None and one.rate is not None:
            used = Decimal(1) if self._aggregation is Aggregation.COUNT else one.quantity
            most = ceiling(old, one.rate, now, used)
        return RateChange(old, rate, seconds_of(now), most)

    def _place_holds(self, limit: Limit, now: datetime) -> None:
        """Free the holds that have expired, and the one that the event takes the place of."""
        free_holds(self._change, now)
        if limit.settles is not None:
            change_hold(self._change, limit.settles[0], -limit.settles[1])

    def _replace_head(self) -> None:
        """Have the head written as a whole, and its structure grow."""
        self._change.adds, self._structural = False, True

    # Sums

    def _place_tallies(self, accepted: Sequence[Count]) -> None:
        groups: dict[CounterId, Sequence[Count]] = (
            {accepted[0].counter: accepted} if self._plain else _by_counter(accepted)
        )
        top = self._newest(groups)
        if top != self._old.counter:
            self._turn_to(top)
        for counter, counts in groups.items():
            tally = fold(counts, self._aggregation)
            hours = self._by_hour(counts, tally)
            if counter == top:
                self._add_to_head(tally, hours)
            else:
                self._add_to_past(counter, tally, hours)

    def _newest(self, groups: Iterable[CounterId]) -> CounterId | None:
        """The counter that the head should hold: the newest that is not closed."""
        old = self._old.counter
        candidates = [counter for counter in groups if counter != old and not self._is_closed(counter)]
        if old is not None:
            candidates.append(old)
        return max(candidates, key=lambda counter: (counter.period_start, counter.subscription), default=None)

    def _is_closed(self, counter: CounterId) -> bool:
        past = self._known.periods.get(counter)
        return past is not None and past.closed is not None

    def open(self, counter: CounterId) -> Change | Missing:
        """The change that has the head hold a counter."""
        self._turn_to(counter)
        self._change.head.structure += 1
        return self._missing or self._change

    def spill(self) -> Change:
        """The change that moves all ids of the head to their pages."""
        change = self._change
        self._spill()
        change.pages = [self._page(key, ids, digests) for key, (ids, digests) in self._pages.items()]
        here = self._pages.get(time_key(self._frame.start))
        change.head.spilled += len(here[0]) if here else 0
        change.head.structure += 1
        return change

    def _turn_to(self, top: CounterId | None) -> None:
        """Move the head on to another counter."""
        self._replace_head()
        old, head = self._old, self._change.head
        if old.counter is not None:
            self._change.periods[old.counter] = PastCounter(old.tally)
            self._move_hours(old.counter, old.hours)
        head.counter, head.hours = top, {}
        head.tally = _stored(top, self._known) if top else Tally()

    def _by_hour(self, counts: Sequence[Count], tally: Tally) -> dict[datetime, Tally]:
        first = counts[0].hour
        if all(count.hour is first for count in counts):
            return {first: tally}
        hours: dict[datetime, list[Count]] = {}
        for count in counts:
            hours.setdefault(count.hour, []).append(count)
        return {hour: fold(each, self._aggregation) for hour, each in hours.items()}

    def _add_to_head(self, tally: Tally, hours: dict[datetime, Tally]) -> None:
        head = self._change.head
        self._change.added, self._change.hours = tally, hours
        head.tally = head.tally.merge(tally, self._aggregation)
        for hour, more in hours.items():
            head.hours[hour] = head.hours.get(hour, Tally()).merge(more, self._aggregation)

    def _add_to_past(self, counter: CounterId, tally: Tally, hours: dict[datetime, Tally]) -> None:
        past = self._change.periods.get(counter) or self._known.periods.get(counter) or PastCounter(Tally())
        self._change.periods[counter] = replace(past, tally=past.tally.merge(tally, self._aggregation))
        if past.closed is not None:
            self._change.adjusted.append(counter)
        self._move_hours(counter, hours)

    def _move_hours(self, counter: CounterId, hours: dict[datetime, Tally]) -> None:
        """Add hours to their day items."""
        for hour, tally in hours.items():
            day = (counter, hour.date())
            if day not in self._change.days:
                if day not in self._known.days:
                    self._missing.days.add(day)
                self._change.days[day] = dict(self._known.days.get(day, {}))
            sums = self._change.days[day]
            sums[hour] = sums.get(hour, Tally()).merge(tally, self._aggregation)

    def _place_hours(self) -> None:
        """Move the head's hours out, but for the newest, when the head is replaced anyway or they are too many."""
        head = self._change.head
        if head.counter is None or len(head.hours) <= 1:
            return
        if (self._structural and not self._change.adds) or len(head.hours) > MAX_HOURS:
            self._replace_head()
            newest = max(head.hours)
            self._move_hours(head.counter, {hour: tally for hour, tally in head.hours.items() if hour != newest})
            head.hours = {newest: head.hours[newest]}

    # Ids

    def _place_ids(self, accepted: Sequence[Count]) -> None:
        frame, head, change = self._frame, self._change.head, self._change
        head.origin, head.start, head.end = frame.origin, frame.start, frame.end
        days = (
            [] if self._plain else [count.second // DAY_SECONDS for count in accepted if count.scope is Scope.RECEIPT]
        )
        opens = bool(days) and (self._old.day is None or max(days) > self._old.day)
        if frame.closes or (opens and self._old.day is not None):
            self._spill()
        if opens:
            self._open_day(max(days))
        stay = accepted if self._plain else [count for count in accepted if self._stays(count)]
        ids = frozenset(count.hash for count in stay)
        room = room_of(head, self._series)
        if len(head.ids) + len(ids) > room:
            self._spill()
            room = room_of(head, self._series)
        if len(ids) > room:
            self._replace_head()
            received = [] if self._plain else [count for count in stay if count.scope is Scope.RECEIPT]
            for count in received:
                self._put(self._lane(head.day or 0, count.hash), count)
            timed = [count for count in stay if count.scope is not Scope.RECEIPT] if received else stay
            if timed:
                page, digests = self._pages.setdefault(time_key(head.start), (set(), set()))
                page.update([count.hash for count in timed])
                digests.update([count.digest for count in timed])
            self._widen(len(received))
        elif ids:
            change.ids, change.room = ids, room
            change.digests = frozenset(digest for count in stay for digest in _digests(count))
            head.ids, head.digests = head.ids | change.ids, head.digests | change.digests
            change.adds = change.adds and len(ids) <= MAX_GUARDS
        here = self._pages.get(time_key(frame.start))
        head.spilled = (0 if frame.closes else head.spilled) + (len(here[0]) if here else 0)

    def _stays(self, count: Count) -> bool:
        """Whether an id belongs to the open bucket or the newest receipt day; if not, it is put in its place."""
        old, at = self._old, count.second
        if count.scope is Scope.ID:
            before = self._known.markers[count.hash]
            times = (*(before.at if before else ()), count.at)
            self._change.markers[count.hash] = Marker(count.digest, count.until or count.at, times)
        elif count.scope is Scope.RECEIPT:
            if at // DAY_SECONDS == self._change.head.day:
                return True
            self._replace_head()  # about midnight, another clock may just have put the same event into the head
            self._put(self._lane(at // DAY_SECONDS, count.hash), count)
        elif old.origin is None or at >= self._frame.start:
            return True
        else:
            key = time_key(old.start) if at >= old.start else (page_keys(count, self._known) or [""])[0]
            self._put(key, count)
        return False

    def _open_day(self, day: int) -> None:
        """Open a receipt day, with as many lanes as the day before had in the end."""
        self._replace_head()
        head = self._change.head
        yesterday = [lanes for each, lanes in head.lanes if each == day - 1]
        kept = tuple(entry for entry in head.lanes if entry[0] >= day - 1)
        head.lanes = (*kept, (day, yesterday[-1])) if yesterday else kept
        head.day, head.received = day, 0

    def _lane(self, day: int, event_hash: bytes) -> str:
        """The key of the page for an id of a receipt day; a day's first page opens its first lane."""
        head = self._change.head
        if head.day is None or day < head.day - 1:
            return lane_key(day, 1, event_hash)  # of such a day, all lanes are looked through
        lanes = [each for of, each in head.lanes if of == day]
        if not lanes:
            self._replace_head()
            head.lanes = (*head.lanes, (day, 1))
        return lane_key(day, lanes[-1] if lanes else 1, event_hash)

    def _put(self, key: str, count: Count) -> None:
        ids, digests = self._pages.setdefault(key, (set(), set()))
        ids.add(count.hash)
        digests.update(_digests(count))

    def _spill(self) -> None:
        """Move all ids of the head to their pages."""
        self._replace_head()
        head = self._change.head
        received = 0
        for each in head.ids:
            if is_receipt(each):
                received += 1
                key = self._lane(head.day or 0, each)
            else:
                key = time_key(self._old.start)
            ids, digests = self._pages.setdefault(key, (set(), set()))
            ids.add(each)
            digests.update(head.digests)  # which of them is whose is not kept
        head.ids, head.digests = frozenset(), frozenset()
        self._widen(received)

    def _widen(self, received: int) -> None:
        """Have more lanes for the ids of a receipt day that are still to come, when it has had many."""
        head = self._change.head
        head.received += received
        day, lanes = head.lanes[-1] if head.lanes else (0, 0)
        if received and day == head.day and head.received > lanes * FULL_LANE and lanes < LANES[-1]:
            head.lanes = (*head.lanes, (day, lanes * 4))

    def _page(self, key: str, ids: set[bytes], digests: set[bytes]) -> NewPage:
        """A page of its own, or the bucket's newest one again with more in it, as long as that is small."""
        known = self._known.pages.get(key)
        tail = known.tail if known is not None else None
        if tail is None or key == time_key(self._frame.start) or len(tail[1]) + len(ids) > FULL_TAIL:
            return NewPage(key, frozenset(ids), frozenset(digests))
        return NewPage(key, tail[1] | ids, tail[2] | digests, replaces=tail[0])


# Holds


def free_holds(change: Change, now: datetime) -> None:
    """Have the holds leave the head that have expired; of many the head is replaced, for an update has its limits."""
    for expires in [each for each in change.head.holds if each <= now.timestamp()]:
        change.freed[expires] = change.head.holds.pop(expires)
    change.adds = change.adds and len(change.freed) <= MAX_FREED


def change_hold(change: Change, expires: int, quantity: Decimal) -> None:
    """Hold more, or less, until a second; where nothing is held until then any more, the hold leaves the head."""
    known = change.head.holds.get(expires, ZERO)
    after = EXACT.add(known, quantity)
    if quantity < 0 and not after:
        change.freed[expires] = change.head.holds.pop(expires)
    else:
        change.held[expires], change.head.holds[expires] = quantity, after


def most_before(change: Change, limit: Decimal) -> Decimal:
    """What may be used and held before a change for it to be within a limit afterwards."""
    most = EXACT.subtract(limit, change.added.quantity)
    for quantity in change.held.values():
        most = EXACT.subtract(most, quantity)
    for quantity in change.freed.values():
        most = EXACT.add(most, quantity)
    return most


def open_counter(series: Series, aggregation: Aggregation, counter: CounterId, known: Known) -> Change | Missing:
    """Have the head hold the counter of a period before anything is counted in it.

    Raises:
        Unavailable: the period was closed, though by this clock it is not over.
    """
    head = known.head or Head()
    past = known.periods.get(counter)
    if past is not None and past.closed is not None:
        raise Unavailable("The billing period has just been closed; send the request again.")
    if head.structure and counter not in known.periods:
        return Missing(periods={counter})
    frame = _Frame(head.origin, head.start, head.end)
    return _Writer(series, aggregation, known, frame, plain=False).open(counter)


def spills_for(
    changes: Mapping[Series, Change], known: Mapping[Series, Known], guards: int = 0
) -> dict[Series, Change]:
    """What is to be written before, where changes and guards are too many items for one transaction.

    The ids of the largest go to their pages, as many as one transaction takes; of none where all fit.
    """
    sizes = {series: items_of(change) for series, change in changes.items()}
    if sum(sizes.values()) + guards <= MAX_ACTIONS:
        return {}
    spills: dict[Series, Change] = {}
    items = 0
    for series in sorted(sizes, key=lambda each: -sizes[each]):
        head = known[series].head or Head()
        if not head.ids:
            continue
        frame = _Frame(head.origin, head.start, head.end)
        spill = _Writer(series, Aggregation.SUM, known[series], frame, plain=False).spill()
        items += items_of(spill)
        if spills and items > MAX_ACTIONS:
            break
        spills[series] = spill
    return spills


def items_of(change: Change) -> int:
    """How many items a change writes."""
    others = (change.pages, change.periods, change.days, change.markers, change.adjusted, change.settled)
    return 1 + sum(map(len, others)) + (change.reservation is not None)


def _by_counter(counts: Sequence[Count]) -> dict[CounterId, Sequence[Count]]:
    groups: dict[CounterId, list[Count]] = {}
    for count in counts:
        groups.setdefault(count.counter, []).append(count)
    return dict(groups)


def _digests(count: Count) -> tuple[bytes, ...]:
    if count.scope is Scope.RECEIPT:
        return count.digest, receipt_tag(count.hash, count.at)
    return (count.digest,)


# Closing a period


def close_counter(counter: CounterId, aggregation: Aggregation, known: Known) -> Change | Missing | None:
    """Close the counter of a billing period at what it holds; None where it is closed."""
    head = known.head or Head()
    if counter not in known.periods and counter != head.counter:
        return Missing(periods={counter})
    past = known.periods.get(counter) if counter != head.counter else None
    if past is not None and past.closed is not None:
        return None
    after = replace(head, structure=head.structure + 1)
    if counter != head.counter:
        tally = past.tally if past else Tally()
        return Change(after, adds=False, periods={counter: PastCounter(tally, tally)})
    days = {(counter, hour.date()) for hour in head.hours}
    if unknown := days - known.days.keys():
        return Missing(days=unknown)
    moved = {day: dict(known.days[day]) for day in days}
    for hour, tally in head.hours.items():
        sums = moved[counter, hour.date()]
        sums[hour] = sums.get(hour, Tally()).merge(tally, aggregation)
    after.counter, after.tally, after.hours = None, Tally(), {}
    return Change(after, adds=False, periods={counter: PastCounter(head.tally, head.tally)}, days=moved)


def settle_adjustment(adjustment: Adjustment, known: Known) -> Change | Missing | None:
    """Move what a closed counter was billed at up to an adjustment's; None where that has been done."""
    counter, head = adjustment.counter, known.head
    if counter not in known.periods:
        return Missing(periods={counter})
    past = known.periods[counter]
    if head is None or past is None or past.closed is None or past.closed.events >= adjustment.now.events:
        return None
    change = Change(replace(head, structure=head.structure + 1), adds=False)
    change.periods[counter] = replace(past, closed=adjustment.now)
    if past.tally == adjustment.now:
        change.settled.append(counter)
    return change

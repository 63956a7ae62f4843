"""Counting over a store: read what the rule asks for, write what it says, try again when another was first."""

import random
import threading
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import field, replace
from datetime import datetime
from typing import Final

from aws_lambda_powertools.logging import Logger

from tollgate.catalog.model import Aggregation
from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.dynamodb import LONGEST_CALL_SECONDS, Failure, failure_of
from tollgate.kernel.errors import Unavailable
from tollgate.metering.counting import Step, close_counter, count_events, settle_adjustment
from tollgate.metering.model import Adjustment, Batch, Count, CounterId, Outcome, Series, Tally
from tollgate.metering.series import (
    Answer,
    Change,
    Head,
    Known,
    Missing,
    Rule,
    Verdict,
    essence,
    learn,
    refreshed,
)
from tollgate.metering.service import Archive

__all__ = ["LostRace", "ReservationChanged", "SeriesCounters"]

_WORKERS: Final = 50
_PAUSE_SECONDS: Final = 0.02
_LONGEST_PAUSE_SECONDS: Final = 1.0
_ROUNDS: Final = 6
"""Reads that the rule may ask for, one after the other, before what is known is taken for outdated."""
_WARM_IDS: Final = 200_000
"""Ids that a warm function remembers, of all series together: some 40 MB."""
_HEAD_WEIGHT: Final = 100
"""What a series weighs with no ids in pages, in ids."""
_APPLY_TRIES: Final = 30

logger = Logger(child=True)


class LostRace(Exception):
    """A write changed nothing, for another was first; `heads` are what that one left, where the database said so."""

    def __init__(self, heads: Mapping[Series, Head] | None = None) -> None:
        super().__init__("another writer was first")
        self.heads = heads or {}


class ReservationChanged(Exception):
    """A write changed nothing, for the reservation is not as it was known."""


@dataclass(slots=True)
class _Deciding:
    """What is known of some series while a verdict on them is sought.

    Of the `fresh` ones it is from after that began, and of the `sure` ones from after a verdict was unsure of them.
    """

    wanted: Sequence[Series]
    known: dict[Series, Known]
    fresh: set[Series] = field(default_factory=set)
    sure: set[Series] = field(default_factory=set)
    kept: set[CounterId] = field(default_factory=set)

    def lose(self, heads: Mapping[Series, Head]) -> None:
        """Go on from the heads that another writer left; with none, from nothing."""
        renewed = {series: refreshed(self.known.get(series), heads.get(series)) for series in heads or self.wanted}
        self.known = {series: known for series, known in (self.known | renewed).items() if known is not None}
        self.fresh = (self.fresh | set(heads)) & self.known.keys()

    def outdated(self, verdict: Verdict[Answer]) -> AbstractSet[Series]:
        """What is to be read again before a verdict that writes nothing is believed."""
        if verdict.is_lasting:
            return frozenset()
        return (verdict.unsure - self.sure) or set(self.wanted) - self.fresh


class _TooLate(Exception):
    """There is no time for another call."""


def _be_in_time(time_left: Callable[[], float]) -> None:
    if time_left() <= LONGEST_CALL_SECONDS + 1:
        raise _TooLate


@dataclass(slots=True)
class _Way:
    """How far a batch has come: what is known of its series, the events that wait, and the outcomes of the others.

    `kept` are those in the archive, by identity.
    """

    known: Known | None
    waiting: list[Count]
    outcomes: list[Outcome] = field(default_factory=list)
    kept: set[int] = field(default_factory=set)

    def pass_by(self, outcomes: Sequence[Outcome]) -> None:
        """The first events that wait have these outcomes."""
        self.outcomes += outcomes
        del self.waiting[: len(outcomes)]


def _accepted(counts: Sequence[Count], step: Step) -> tuple[Count, ...]:
    """The events that a step counts: of others the archive is to keep nothing by this revision."""
    accepted = Outcome.ACCEPTED
    return tuple([count for count, outcome in zip(counts, step.outcomes, strict=False) if outcome is accepted])


class SeriesCounters(ABC):
    """Counts batches, each of one series; what it learns of a series it remembers as long as it is warm."""

    def __init__(self, archive: Archive | None = None, *, pause: Callable[[float], None] = time.sleep) -> None:
        self._archive = archive
        self._pause = pause
        self._warm: OrderedDict[Series, tuple[Known, int]] = OrderedDict()
        self._weight = 0
        self._lock = threading.Lock()

    @abstractmethod
    def _read_heads(self, wanted: Sequence[Series]) -> dict[Series, Head]:
        """Those of the heads that exist."""

    @abstractmethod
    def _load(self, series: Series, known: Known, missing: Missing) -> None:
        """Add what is missing to what is known."""

    @abstractmethod
    def _write(self, series: Series, change: Change, known: Known) -> Head | None:
        """Write a change, all of it or nothing of it; gives the head as it is then, or None where that is not told.

        Raises:
            LostRace: what was known is no longer so.
        """

    def publish(self, series: Series, gate: str, revision: int) -> None:
        """Set the gate of a series, unless one of that revision or a higher one is there.

        Raises:
            Unavailable: the database did not answer.
        """
        for attempt in range(_APPLY_TRIES):
            try:
                self._publish(series, gate, revision)
            except LostRace:
                return
            except Exception as error:
                if failure_of(error) is Failure.FINAL:
                    raise
                self._wait(attempt, _LONGEST_PAUSE_SECONDS)
            else:
                return
        raise Unavailable("The database cannot be written now; send the request again.")

    @abstractmethod
    def _write_together(
        self, changes: Mapping[Series, Change], guards: Mapping[Series, int], known: Mapping[Series, Known]
    ) -> dict[Series, Head]:
        """Write changes of several series, all or nothing; gives the heads, of those told, as they are then.

        Raises:
            LostRace: what was known is no longer so.
        """

    @abstractmethod
    def _publish(self, series: Series, gate: str, revision: int) -> Head:
        """Set the gate of a head, and make the head if there is none; gives it as it is then.

        Raises:
            LostRace: its gate is of that revision or a higher one.
        """

    def heads(self, wanted: Sequence[Series]) -> dict[Series, Head]:
        """Those of the heads that exist, as they are now."""
        return self._read_heads(wanted)

    def decide(
        self, wanted: Sequence[Series], rule: Rule[Answer], time_left: Callable[[], float]
    ) -> tuple[Answer, dict[Series, Head]]:
        """The verdict of a rule on some series, written as it says; and their heads as they are then.

        What a warm function remembers may be outdated: then the write fails on a condition, and the rule is asked
        again. A verdict with nothing to write is asked for again with what is read now, unless it is lasting.

        Raises:
            Unavailable: others kept writing, or the database did not answer, within the time left.
            ReservationChanged: a reservation is not as it was known.
        """
        found = {series: known for series in wanted if (known := self._take(series))}
        deciding = _Deciding(wanted, found)
        attempt = 0
        while time_left() > LONGEST_CALL_SECONDS + 1:
            try:
                verdict = self._decide(deciding, rule, time_left)
            except LostRace as lost:
                deciding.lose(lost.heads)
                if (attempt := attempt + 1) > 1:
                    self._wait(attempt, time_left())
            except Exception as error:
                failure = failure_of(error)
                if failure is Failure.FINAL:
                    raise
                if failure is Failure.UNKNOWN:
                    deciding.lose({})
                self._wait(attempt := attempt + 1, time_left())
            else:
                if verdict is not None:
                    for series in wanted:
                        self._remember(series, deciding.known[series])
                    return verdict.answer, {series: deciding.known[series].head or Head() for series in wanted}
        raise Unavailable("This could not be decided in time; send the request again.")

    def _decide(
        self, deciding: "_Deciding", rule: Rule[Answer], time_left: Callable[[], float]
    ) -> Verdict[Answer] | None:
        """A verdict that is true now; None where what is known was outdated, and is forgotten."""
        if unknown := [series for series in deciding.wanted if series not in deciding.known]:
            heads = self._read_heads(unknown)
            deciding.known |= {series: Known(heads.get(series)) for series in unknown}
            deciding.fresh.update(unknown)
        verdict = self._ask(rule, deciding.known)
        if verdict.changes:
            for batch in verdict.batches:
                if batch.counts[0].counter not in deciding.kept:
                    self._keep(batch, time_left)
                    deciding.kept.add(batch.counts[0].counter)
            written = self._write_together(verdict.changes, verdict.guards, deciding.known)
            if untold := [series for series in verdict.changes if series not in written]:
                written = written | self._read_heads(untold)
            for series, head in written.items():
                learn(deciding.known[series], verdict.changes[series], head)
        elif outdated := deciding.outdated(verdict):
            deciding.known = {series: known for series, known in deciding.known.items() if series not in outdated}
            deciding.sure |= verdict.unsure
            return None
        return verdict

    def _ask(self, rule: Rule[Answer], known: Mapping[Series, Known]) -> Verdict[Answer]:
        for _ in range(_ROUNDS):
            said = rule(known)
            if isinstance(said, Verdict):
                return said
            for series, missing in said.items():
                self._load(series, known[series], missing)
        raise LostRace

    def count(self, batches: Sequence[Batch], now: datetime, time_left: Callable[[], float]) -> list[list[Outcome]]:
        """Count batches side by side, each as often as it takes within the time left."""
        known = self._recall([batch.series for batch in batches])

        def one(batch: Batch) -> list[Outcome]:
            return self._count(batch, known.get(batch.series), now, time_left)

        if len(batches) == 1:
            return [one(batches[0])]
        with ThreadPoolExecutor(_WORKERS) as pool:
            return list(pool.map(one, batches))

    def _recall(self, wanted: Sequence[Series]) -> dict[Series, Known]:
        """What is known of several series; the heads of those that are not are read together."""
        known = {series: found for series in wanted if (found := self._take(series))}
        cold = [series for series in wanted if series not in known]
        if len(cold) > 1:
            try:
                heads = self._read_heads(cold)
            except Exception as error:
                if failure_of(error) is Failure.FINAL:
                    raise
                return known  # each is read by itself then, as often as it takes
            known |= {series: Known(heads.get(series)) for series in cold}
        return known

    def _take(self, series: Series) -> Known | None:
        """What is remembered of a series, which nobody else then has."""
        with self._lock:
            known, weight = self._warm.pop(series, (None, 0))
            self._weight -= weight
        return known

    def _remember(self, series: Series, known: Known) -> None:
        known = essence(known)
        weight = _HEAD_WEIGHT + sum(len(page.ids) for page in known.pages.values())
        with self._lock:
            self._weight += weight - self._warm.pop(series, (None, 0))[1]
            self._warm[series] = (known, weight)
            while self._weight > _WARM_IDS:
                self._weight -= self._warm.popitem(last=False)[1][1]

    def _count(self, batch: Batch, known: Known | None, now: datetime, time_left: Callable[[], float]) -> list[Outcome]:
        way = _Way(known, list(batch.counts))
        attempt = 0
        while way.waiting:
            try:
                self._advance(way, batch, now, time_left)
            except _TooLate:
                break
            except LostRace as lost:
                way.known = refreshed(way.known, lost.heads.get(batch.series))
                self._wait(attempt := attempt + 1, time_left())
            except Exception as error:
                failure = failure_of(error)
                if failure is Failure.FINAL:
                    logger.exception("a batch could not be counted")
                    break
                way.known = None if failure is Failure.UNKNOWN else way.known
                self._wait(attempt := attempt + 1, time_left())
        if way.known is not None and not way.waiting:
            self._remember(batch.series, way.known)
        return way.outcomes + [Outcome.UNAVAILABLE] * len(way.waiting)

    def _advance(self, way: "_Way", batch: Batch, now: datetime, time_left: Callable[[], float]) -> None:
        """Count the next events of a batch, as many as one write takes, if there is time for each call that takes."""
        _be_in_time(time_left)
        known = way.known = way.known or Known(self._read_heads([batch.series]).get(batch.series))
        revision = known.head.revision if known.head else -1
        if revision > batch.revision:
            way.pass_by([Outcome.OUTDATED] * len(way.waiting))
            return
        if revision < batch.revision and batch.gate is not None:
            # Before anything is archived: from now on nothing can be counted as an older snapshot has it.
            _be_in_time(time_left)
            made = self._publish(batch.series, batch.gate(), batch.revision)
            way.known = refreshed(known, made) or Known(made)
            return
        step = self._plan(batch, way.waiting, known, now, time_left)
        if step.change is None:
            way.pass_by(step.outcomes)
            return
        accepted = _accepted(way.waiting, step)
        if not way.kept.issuperset(map(id, accepted)):
            _be_in_time(time_left)
            self._keep(replace(batch, counts=accepted), time_left)
            way.kept.update(map(id, accepted))
        _be_in_time(time_left)
        head = self._write(batch.series, step.change, known)
        way.pass_by(step.outcomes)
        way.known = None
        if head is None:
            _be_in_time(time_left)
            head = self._read_heads([batch.series])[batch.series]
        learn(known, step.change, head)
        way.known = known

    def _keep(self, batch: Batch, time_left: Callable[[], float]) -> None:
        if self._archive is not None:
            self._archive.put(batch, time_left)

    def _plan(
        self, batch: Batch, counts: Sequence[Count], known: Known, now: datetime, time_left: Callable[[], float]
    ) -> Step:
        for _ in range(_ROUNDS):
            step = count_events(batch.series, batch.aggregation, counts, known, now)
            if isinstance(step, Step):
                return step
            for part in step.parts():
                _be_in_time(time_left)
                self._load(batch.series, known, part)
        raise LostRace

    def close(self, counter: CounterId, aggregation: Aggregation, shards: int = 1) -> Tally:
        """Close the counter of a billing period that is over; what it holds now is what is billed.

        Events that come later still count, and become adjustments. Closed again, it gives the same.

        Raises:
            Unavailable: others kept writing, or the database did not answer.
        """
        total = Tally()
        for number in range(shards):
            series = Series(counter.customer, counter.feature, number)
            known = self._apply(series, lambda known: close_counter(counter, aggregation, known))
            past = known.periods.get(counter)
            total = total.merge(past.closed or Tally() if past else Tally(), aggregation)
        return total

    def settle(self, adjustment: Adjustment) -> None:
        """Say that an adjustment was billed; events that came since it was read stay to be billed.

        Raises:
            Unavailable: others kept writing, or the database did not answer.
        """
        self._apply(adjustment.series, lambda known: settle_adjustment(adjustment, known))

    def _apply(self, series: Series, rule: Callable[[Known], Change | Missing | None]) -> Known:
        """Write what a rule says, once it holds; gives what is known then."""
        known: Known | None = None
        for attempt in range(_APPLY_TRIES):
            try:
                known = known or Known(self._read_heads([series]).get(series))
                said = rule(known)
                if said is None:
                    return known
                if isinstance(said, Missing):
                    self._load(series, known, said)
                else:
                    self._write(series, said, known)
                    known = None  # it is read again, and the rule says None of it
            except Exception as error:
                if not isinstance(error, LostRace) and failure_of(error) is Failure.FINAL:
                    raise
                known = None
                self._wait(attempt, _LONGEST_PAUSE_SECONDS)
        raise Unavailable(f"Others are counting {series.feature} of {series.customer} now; try again.")

    def _wait(self, attempt: int, at_most: float) -> None:
        # Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
        longest = min(_PAUSE_SECONDS * 2 ** min(attempt, 10), _LONGEST_PAUSE_SECONDS, max(at_most, 0))
        self._pause(random.uniform(0, longest))  # noqa: S311  spreads writers, guards nothing

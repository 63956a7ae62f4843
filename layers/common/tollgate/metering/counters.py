"""Counting over a store: read what the rule asks for, write what it says, try again when another was first."""

import random
import threading
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Final

from aws_lambda_powertools.logging import Logger

from tollgate.catalog.model import Aggregation
from tollgate.kernel.dynamodb import LONGEST_CALL_SECONDS, Failure, failure_of
from tollgate.kernel.errors import Unavailable
from tollgate.metering.counting import Step, close_counter, count_events, settle_adjustment
from tollgate.metering.model import Adjustment, Batch, Count, CounterId, Outcome, Series, Tally
from tollgate.metering.series import (
    Change,
    Head,
    Known,
    Missing,
    essence,
    learn,
    refreshed,
)
from tollgate.metering.service import Archive

__all__ = ["LostRace", "SeriesCounters"]

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
    """A write changed nothing, for another was first; `head` is what that one left, where the database said so."""

    def __init__(self, head: Head | None = None) -> None:
        super().__init__("another writer was first")
        self.head = head


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
    def _write(self, series: Series, change: Change, known: Known) -> Head:
        """Write a change, all of it or nothing of it; gives the head as it is then.

        Raises:
            LostRace: what was known is no longer so.
        """

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
        outcomes: list[Outcome] = []
        waiting = list(batch.counts)
        archived = self._archive is None
        attempt = 0
        while waiting and time_left() > LONGEST_CALL_SECONDS + 1:
            try:
                known = known or Known(self._read_heads([batch.series]).get(batch.series))
                step = self._plan(batch, waiting, known, now)
                if step.change is not None:
                    archived = archived or self._keep(batch)
                    learn(known, step.change, self._write(batch.series, step.change, known))
                outcomes += step.outcomes
                del waiting[: len(step.outcomes)]
            except LostRace as lost:
                known = refreshed(known, lost.head)
                self._wait(attempt := attempt + 1, time_left())
            except Exception as error:
                failure = failure_of(error)
                if failure is Failure.FINAL:
                    logger.exception("a batch could not be counted")
                    break
                known = None if failure is Failure.UNKNOWN else known
                self._wait(attempt := attempt + 1, time_left())
        if known is not None and not waiting:
            self._remember(batch.series, known)
        return outcomes + [Outcome.UNAVAILABLE] * len(waiting)

    def _keep(self, batch: Batch) -> bool:
        if self._archive is not None:
            self._archive.put(batch)
        return True

    def _plan(self, batch: Batch, counts: Sequence[Count], known: Known, now: datetime) -> Step:
        for _ in range(_ROUNDS):
            step = count_events(batch.series, batch.aggregation, counts, known, now)
            if isinstance(step, Step):
                return step
            self._load(batch.series, known, step)
        raise LostRace

    def close(self, counter: CounterId, aggregation: Aggregation, shards: int = 1) -> Tally:
        """Close the counter of a billing period that is over; what it holds now is what is billed.

        Events that come later still count, and become adjustments. Closed again, it gives the same.

        Raises:
            Unavailable: others kept writing.
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
            Unavailable: others kept writing.
        """
        self._apply(adjustment.series, lambda known: settle_adjustment(adjustment, known))

    def _apply(self, series: Series, rule: Callable[[Known], Change | Missing | None]) -> Known:
        """Write what a rule says, once it holds; gives what is known then."""
        known: Known | None = None
        for attempt in range(_APPLY_TRIES):
            known = known or Known(self._read_heads([series]).get(series))
            said = rule(known)
            if said is None:
                return known
            try:
                if isinstance(said, Missing):
                    self._load(series, known, said)
                else:
                    learn(known, said, self._write(series, said, known))
            except LostRace:
                known = None
                self._wait(attempt, _LONGEST_PAUSE_SECONDS)
        raise Unavailable(f"Others are counting {series.feature} of {series.customer} now; try again.")

    def _wait(self, attempt: int, at_most: float) -> None:
        # Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
        longest = min(_PAUSE_SECONDS * 2 ** min(attempt, 10), _LONGEST_PAUSE_SECONDS, max(at_most, 0))
        self._pause(random.uniform(0, longest))  # noqa: S311  spreads writers, guards nothing

"""Random runs: whatever the dice do to the calls, each event counts once."""

import random
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import timedelta
from decimal import Decimal
from random import Random

import pytest

from tests.faults.chaos import Chaos, Clock, Killed, Weather
from tests.faults.conftest import SHARES, seeds
from tests.faults.scenario import NOW, PROCESSES, RATE, Ledger, Sent
from tollgate.catalog.model import Aggregation
from tollgate.metering.archive_store import DynamoArchive
from tools.engine import Call, Engine

LIGHT = Weather(lost_requests=0.01, lost_answers=0.03, throttles=0.02, conflicts=0.05, parts=0.05, kills=0.01)
WEATHERS = (
    LIGHT,
    LIGHT,
    Weather(lost_answers=0.03, throttles=0.02, conflicts=0.5),
    Weather(lost_answers=0.03, conflicts=1.0),
    Weather(throttles=0.9, lost_answers=0.03),
    Weather(lost_answers=0.5, lost_requests=0.2),
)
INTERLOPERS = 0.08
AFTER_A_TRANSACTION = 0.3
"""The share of calls before which another process delivers something; of those that follow a transaction, more."""
DEEPEST = 2
ARCHIVED = 0.35
LARGE = 10**35
"""Quantities of 35 digits, 18 of them after the point: a run's sum has less than 38."""


class Run:
    """One seed's run: messages in any order and number, some while another is under way."""

    def __init__(self, seed: int, database: Engine) -> None:
        self.dice = Random(seed)  # noqa: S311  it must repeat
        random.seed(seed)  # botocore's and the product's jitter
        self.clock = Clock()
        self.database = database
        aggregation = self.dice.choice(list(Aggregation))
        summed = aggregation in {Aggregation.SUM, Aggregation.COUNT}
        shards = self.dice.choice([1, 1, 4]) if summed else 1
        rate = RATE if summed and shards == 1 and self.dice.random() < 0.3 else None
        archive = DynamoArchive(clock=lambda: NOW, pause=self.clock.pass_by) if self.dice.random() < ARCHIVED else None
        self.ledger = Ledger(self.clock, aggregation, shards, NOW - timedelta(hours=1), rate, archive)
        self.chaos = Chaos(self.dice, self.clock, WEATHERS)
        self.queue = deque(self._messages(list(self._events())))
        self.under_way: list[Sequence[Sent]] = []
        self.dead: list[bool] = []  # whether the process has ended that delivers it
        self.transacted = False  # whether the last call was a transaction

    def _events(self) -> Iterator[Sent]:
        customers = ["ada", "bob"][: self.dice.choice([1, 1, 2])]
        for number in range(self.dice.choice([8, 30, 60, 150])):
            quantity = Decimal(self.dice.choice(["1", "3E-18", f"{self.dice.randrange(LARGE)}E-18"]))
            minutes = self.dice.choice([0, 0, 1, self.dice.uniform(0, 240)])
            way = self.dice.random()
            if self.ledger.aggregation is Aggregation.LATEST:
                way *= 0.85  # when a receipt counts depends on what came through
            event = Sent(
                f"event-{number}",
                quantity,
                None if way > 0.85 else NOW - timedelta(minutes=minutes),
                self.dice.choice(customers),
                by_id=0.6 < way <= 0.85,
            )
            yield event
            if self.dice.random() < 0.05:
                yield Sent(event.id, event.quantity * 2, event.time, event.customer, event.by_id)

    def _messages(self, events: list[Sent]) -> Iterator[Sequence[Sent]]:
        messages: list[list[Sent]] = []
        for _ in range(self.dice.choice([1, 2, 3])):
            self.dice.shuffle(events)
            rest = list(events)
            while rest:
                size = self.dice.choice([1, 2, 10, 30])
                messages.append(rest[:size])
                rest = rest[size:]
        self.dice.shuffle(messages)
        return iter(messages)

    def deliver(self, message: Sequence[Sent]) -> None:
        """Deliver a message to one of the processes; it may end over it."""
        self.under_way.append(message)
        self.dead.append(False)
        process = self.dice.randrange(PROCESSES)
        now = NOW + timedelta(seconds=self.dice.uniform(-120, 120))
        try:
            self.ledger.deliver(message, now, process=process)
        except Killed:
            self.ledger.restart(process)
        finally:
            self.under_way.pop()
            self.dead.pop()

    def before(self, call: Call) -> None:
        """Strike a call before it is made; perhaps another process comes first, perhaps with the same message."""
        if self.dead[-1]:
            raise Killed
        share = AFTER_A_TRANSACTION if self.transacted else INTERLOPERS
        if len(self.dead) <= DEEPEST and self.dice.random() < share:
            same = not self.queue or self.dice.random() < 0.5
            self.deliver(self.under_way[-1] if same else self.queue.popleft())
        try:
            self.chaos.before(call)
        except Killed:
            self.dead[-1] = True
            raise

    def after(self, call: Call) -> None:
        """Strike a call after it is made."""
        self.transacted = call.operation == "TransactWriteItems"
        try:
            self.chaos.after(call)
        except Killed:
            self.dead[-1] = True
            raise

    def play(self) -> None:
        """Deliver everything under faults, then prove the totals."""
        self.database.clear()
        self.database.wait = self.clock.pass_by
        with self.database.hooked(self.before, self.after):
            while self.queue:
                self.deliver(self.queue.popleft())
        events = list(self.ledger.sent)
        self.dice.shuffle(events)
        self.ledger.settle([events[:7], events[7:]])


@pytest.mark.parametrize("share", range(SHARES))
def test_whatever_happens_each_event_counts_once(database: Engine, share: int) -> None:
    """Lost answers, throttling, conflicts, ends of processes, duplicates, races: tolerance 0."""
    for seed in seeds(share):
        try:
            Run(seed, database).play()
        except BaseException as error:
            error.add_note(f"to see it again: SEED={seed} make faults")
            raise

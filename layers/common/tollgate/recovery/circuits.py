"""The circuit of a provider: after some outages in a row nothing is sent to it for a while, and no attempt is spent.

    closed     every operation may call it
    open       none may, until `open_until`; records wait for that, with all their attempts
    half open  `open_until` is past: one operation may call it, which shows whether it is back

An answer of any kind, a decline included, closes the circuit. An outage while it is half open opens it for twice as
long as before, up to an hour. The pattern is Michael Nygard's ("Release It!", 2007).
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from tollgate.kernel.dataclasses import dataclass

__all__ = [
    "COOLDOWN",
    "LONGEST",
    "THRESHOLD",
    "Circuit",
    "after_answer",
    "after_outage",
    "is_half_open",
    "is_open",
    "probing",
]

THRESHOLD: Final = 5
"""Outages in a row that open the circuit."""

COOLDOWN: Final = timedelta(minutes=5)
LONGEST: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Circuit:
    """What is known of a provider: outages in a row, and until when (exclusive) it is left alone.

    `revision` counts the changes; 0 is a circuit that was never written.
    """

    provider: str
    failures: int = 0
    open_until: datetime | None = None
    revision: int = 0


def is_open(circuit: Circuit, now: datetime) -> bool:
    """Whether nobody may call the provider."""
    return circuit.open_until is not None and now < circuit.open_until


def is_half_open(circuit: Circuit, now: datetime) -> bool:
    """Whether one operation may call it, to see."""
    return circuit.open_until is not None and now >= circuit.open_until


def probing(circuit: Circuit, until: datetime) -> Circuit:
    """The circuit while one operation tries the provider: open to all others until its lease ends."""
    return replace(circuit, open_until=until, revision=circuit.revision + 1)


def after_outage(circuit: Circuit, now: datetime) -> Circuit:
    """The circuit after one more call that met no provider."""
    failures, revision = circuit.failures + 1, circuit.revision + 1
    if failures < THRESHOLD:
        return replace(circuit, failures=failures, revision=revision)
    cooldown = min(LONGEST, COOLDOWN * 2 ** min(failures - THRESHOLD, 20))
    return replace(circuit, failures=failures, open_until=now + cooldown, revision=revision)


def after_answer(circuit: Circuit) -> Circuit:
    """The circuit after the provider has answered; the same where there was nothing to forget."""
    if not circuit.failures and circuit.open_until is None:
        return circuit
    return replace(circuit, failures=0, open_until=None, revision=circuit.revision + 1)

"""What a context registers so that recovery can try it again, and how an operation says what became of it.

returns             it happened
OperationFailed     it did not, for the reason it names; `final` says that no try will change that
OutcomeUnknown      it may have happened: it is asked for before anything else is tried; a TimeoutError says the same,
                    and so does a connection that broke, for what was sent may have arrived
anything else       it did not happen
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from tollgate.kernel.dataclasses import dataclass
from tollgate.recovery.model import ErrorType

__all__ = ["Operation", "OperationFailed", "OutcomeUnknown", "may_have_happened"]


class OutcomeUnknown(Exception):
    """It cannot be told whether the operation happened."""


class OperationFailed(Exception):
    """The operation did not happen.

    `type` is what kind of failure this was, if it is another than the record has: it chooses the policy from now on.
    `final` sends the record to a person at once, as after a hard decline or for input that is wrong.
    """

    def __init__(self, message: str, *, type: ErrorType | None = None, final: bool = False) -> None:  # noqa: A002 - the API's name for it
        super().__init__(message)
        self.type = type
        self.final = final


_UNCERTAIN: Final = (OutcomeUnknown, TimeoutError, ConnectionResetError, ConnectionAbortedError, BrokenPipeError)


def may_have_happened(error: BaseException | str) -> bool:
    """Whether an error leaves it open what became of the operation."""
    return isinstance(error, _UNCERTAIN)


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation that can be tried again.

    Attributes:
        name: what records call it.
        run: gets the arguments and a key that is the same at each try.
        idempotency_key: gives that key from the arguments, as the first call had it; without one it is the record's id.
        happened: is asked after an unknown outcome, before anything is tried; None when it cannot tell.
        repeatable: an unknown outcome need not be asked about, since whoever receives it twice knows it by its key.
        provider: whom a call depends on, given the arguments; its outages open a circuit.
        outages: the errors that mean that the provider was not there, besides those of an unknown outcome.
        exhausted: is told when no automatic try follows, before the record is a person's; may be told more than once.
            What it raises has it told again when the lease has ended, five times or so; the history then says that it
            was not told. Whoever calls `record_error` for what is a person's at once tells it themselves.
    """

    name: str
    run: Callable[[Mapping[str, Any], str], object]
    idempotency_key: Callable[[Mapping[str, Any]], str] | None = None
    happened: Callable[[Mapping[str, Any], str], bool | None] | None = None
    repeatable: bool = False
    provider: Callable[[Mapping[str, Any]], str] | None = None
    outages: tuple[type[Exception], ...] = (ConnectionError,)
    exhausted: Callable[[Mapping[str, Any], str], object] | None = None

    def key(self, arguments: Mapping[str, Any], record_id: str) -> str:
        """The idempotency key of a call."""
        return self.idempotency_key(arguments) if self.idempotency_key else record_id

    def is_outage(self, error: Exception) -> bool:
        """Whether an error says that the provider was not there."""
        return isinstance(error, (*_UNCERTAIN, *self.outages))

"""Functions that may be called only by customers who may."""

import asyncio
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial, wraps
from typing import Any, Final, TypeVar

from tollgate_client.errors import Denied
from tollgate_client.model import Decision

__all__ = ["CustomerOf", "current_customer", "guard"]

current_customer: Final[ContextVar[str | None]] = ContextVar("tollgate_customer", default=None)
"""Whom the present request or job is for. The middleware sets it; elsewhere set it yourself."""

CustomerOf = str | Callable[..., str] | None
"""Where a function's customer is: a parameter, what a function of the same arguments gives, or `current_customer`."""

Function = TypeVar("Function", bound=Callable[..., Any])


def guard(customer: CustomerOf, ask: Callable[..., Any], function: Function) -> Function:
    """The function behind a question that is asked with the customer.

    Raises:
        TypeError: the question must be awaited and the function cannot be, or it lacks the customer's parameter.
    """
    find = _finder(customer, function)
    must_await = inspect.iscoroutinefunction(ask)
    if inspect.iscoroutinefunction(function):
        asked = ask if must_await else partial(asyncio.to_thread, ask)

        @wraps(function)
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            _admit(await asked(find(*args, **kwargs)))
            return await function(*args, **kwargs)

        return guarded  # type: ignore[return-value]  # of the same signature
    if must_await:
        raise TypeError(f"{function!r} is no coroutine function: use Tollgate for it, not AsyncTollgate")

    @wraps(function)
    def guarded_here(*args: Any, **kwargs: Any) -> Any:
        _admit(ask(find(*args, **kwargs)))
        return function(*args, **kwargs)

    return guarded_here  # type: ignore[return-value]  # of the same signature


def _admit(decision: Decision) -> None:
    if not decision:
        raise Denied(decision)


def _finder(customer: CustomerOf, function: Callable[..., Any]) -> Callable[..., str]:
    if customer is None:
        return _current
    if callable(customer):
        return customer
    signature = inspect.signature(function)
    if customer not in signature.parameters:
        raise TypeError(f"{function!r} has no parameter {customer!r} that could be the customer")

    def parameter(*args: Any, **kwargs: Any) -> str:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return str(bound.arguments[customer])

    return parameter


def _current(*_: Any, **__: Any) -> str:
    customer = current_customer.get()
    if customer is None:
        raise LookupError("there is no current customer: add TollgateMiddleware, or say customer=")
    return customer

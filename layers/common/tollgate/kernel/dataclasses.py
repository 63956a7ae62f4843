"""The standard library's `dataclass` with slots, but a class writes its methods when they are first called.

The original writes and compiles the methods of a class when it is imported, some 0.6 ms a class with Python 3.11. A
cold start imports 70 classes; the request that it is for makes instances of a third of them, and compares or hashes
those of a few. What a class can do is the same, which tests/unit/test_dataclasses.py holds against the original, and
its fields are the standard library's own, so that `field`, `replace`, `fields` and `asdict` go on working. Type
checkers see the original.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, FrozenInstanceError, fields
from typing import TYPE_CHECKING, Any, Final, NoReturn

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(*, slots: bool, frozen: bool = False, kw_only: bool = False) -> Callable[[type], type]:
        """Make a class with slots; with `__init__`, `__eq__`, `__repr__`, and `__hash__` where it is frozen."""
        if not slots:
            raise TypeError("a class with no slots is one for dataclasses.dataclass")
        return lambda cls: _made(cls, frozen=frozen, kw_only=kw_only)


_FACTORY: Final = object()
"""The default of a parameter whose field has a `default_factory`."""


class _Late:
    """An attribute of a class that is made when it is first asked for, and stands in this one's place from then on.

    Two threads that ask at once make two that do the same.
    """

    def __init__(self, make: Callable[[type], Any]) -> None:
        self._make = make

    def __set_name__(self, owner: type, name: str) -> None:
        self._owner = owner
        self._name = name

    def __get__(self, instance: object, owner: type) -> Any:
        made = self._make(self._owner)
        setattr(self._owner, self._name, made)
        return made.__get__(instance, owner) if callable(made) else made


def _made(cls: type, *, frozen: bool, kw_only: bool) -> type:
    annotations = cls.__annotations__
    body = {name: value for name, value in vars(cls).items() if name not in {"__dict__", "__weakref__"}}
    defaults = {name: body.pop(name) for name in annotations if name in body}
    declared = {"__annotations__": annotations, "__module__": cls.__module__, "__doc__": cls.__doc__, **defaults}
    added: dict[str, Any] = {
        "__slots__": tuple(annotations),
        "__dataclass_fields__": _Late(lambda made: _fields(made, declared, kw_only=kw_only)),
        "__match_args__": _Late(_match_args),
        "__init__": _Late(lambda made: _init(made, frozen=frozen)),
        "__eq__": _Late(_eq),
        "__repr__": _repr,
    }
    if frozen:
        added |= {
            "__hash__": _Late(_hash),
            "__setattr__": _refuse_to_set,
            "__delattr__": _refuse_to_delete,
            "__getstate__": _getstate,
            "__setstate__": _setstate,
        }
    made = type(cls)(cls.__name__, cls.__bases__, added | body)
    made.__qualname__ = cls.__qualname__
    return made


def _fields(cls: type, declared: dict[str, Any], *, kw_only: bool) -> dict[str, Field[Any]]:
    """The fields of the base classes and those declared, as the standard library makes them."""
    make = dataclasses.dataclass(init=False, repr=False, eq=False, match_args=False, kw_only=kw_only)
    own = fields(make(type(cls.__name__, (), declared)))
    found: dict[str, Field[Any]] = {}
    for base in reversed(cls.__mro__[1:]):
        found |= getattr(base, "__dataclass_fields__", {})
    return found | {each.name: each for each in own}


def _match_args(cls: type) -> tuple[str, ...]:
    return tuple(each.name for each in fields(cls) if each.init and not each.kw_only)


def _init(cls: type, *, frozen: bool) -> Callable[..., None]:
    known: dict[str, Any] = {"_FACTORY": _FACTORY}
    parameters: dict[bool, list[str]] = {False: ["self"], True: []}
    lines = []
    for each in fields(cls):
        name = value = parameter = each.name
        if each.default is not MISSING:
            known[f"_default_{name}"] = each.default
            parameter = f"{name}=_default_{name}"
            value = name if each.init else f"_default_{name}"
        elif each.default_factory is not MISSING:
            known[f"_make_{name}"] = each.default_factory
            parameter = f"{name}=_FACTORY"
            value = f"_make_{name}() if {name} is _FACTORY else {name}" if each.init else f"_make_{name}()"
        elif not each.init:
            continue  # __post_init__ sets it
        if each.init:
            parameters[bool(each.kw_only)].append(parameter)
        known[f"_set_{name}"] = getattr(cls, name).__set__
        lines.append(f"_set_{name}(self, {value})" if frozen else f"self.{name} = {value}")
    if hasattr(cls, "__post_init__"):
        lines.append("self.__post_init__()")
    named = ["*", *parameters[True]] if parameters[True] else []
    return _function(cls, "__init__", [*parameters[False], *named], lines or ["pass"], known)


def _eq(cls: type) -> Callable[..., Any]:
    ours, theirs = (_values(cls, name) for name in ("self", "other"))
    return _function(
        cls,
        "__eq__",
        ["self", "other"],
        [f"return {ours} == {theirs} if other.__class__ is self.__class__ else NotImplemented"],
    )


def _hash(cls: type) -> Callable[..., Any]:
    return _function(cls, "__hash__", ["self"], [f"return hash({_values(cls, 'self')})"])


def _values(cls: type, instance: str) -> str:
    return "(" + "".join(f"{instance}.{each.name}, " for each in fields(cls) if each.compare) + ")"


def _function(
    cls: type, name: str, parameters: Sequence[str], lines: Sequence[str], known: dict[str, Any] | None = None
) -> Callable[..., Any]:
    written = known or {}
    exec(f"def {name}({', '.join(parameters)}):\n " + "\n ".join(lines), written)  # noqa: S102  of names in our classes
    function: Callable[..., Any] = written[name]
    function.__qualname__ = f"{cls.__qualname__}.{name}"
    return function


def _repr(self: Any) -> str:
    shown = ", ".join(f"{each.name}={getattr(self, each.name)!r}" for each in fields(self) if each.repr)
    return f"{self.__class__.__qualname__}({shown})"


def _refuse_to_set(_: object, name: str, _value: object) -> NoReturn:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(_: object, name: str) -> NoReturn:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _getstate(self: Any) -> list[Any]:
    return [getattr(self, each.name) for each in fields(self)]


def _setstate(self: Any, state: Sequence[Any]) -> None:
    for each, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, each.name, value)

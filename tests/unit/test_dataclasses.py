"""Classes whose methods are written when they are first called, beside the standard library's."""

import copy
import dataclasses
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, asdict, field, fields, replace
from decimal import Decimal
from threading import Barrier
from types import SimpleNamespace
from typing import Any, Generic, TypeVar

import pytest

from tests.conftest import ROOT
from tollgate.kernel import dataclasses as late

Value = TypeVar("Value")
Make = Callable[..., Callable[[type], type]]


def classes(dataclass: Make) -> SimpleNamespace:
    """One class of each kind that Tollgate has, made by one of both."""

    @dataclass(frozen=True, slots=True)
    class Item:
        """Frozen, with defaults of all kinds."""

        name: str
        quantity: Decimal = Decimal(1)
        tags: dict[str, str] = field(default_factory=dict, compare=False)
        note: str = field(default="", repr=False)

        @property
        def label(self) -> str:
            """Of its fields."""
            return f"{self.quantity} {self.name}"

    @dataclass(slots=True)
    class Count:
        """To be changed, and with a field that it works out itself."""

        seconds: int
        names: list[str] = field(default_factory=list)
        minutes: int = field(init=False)
        kind: str = field(default="count", init=False)

        def __post_init__(self) -> None:
            self.minutes = self.seconds // 60

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Limits:
        """Fields that are given by name, to inherit."""

        least: int | None = None
        most: int | None = None

    @dataclass(frozen=True, slots=True)
    class Flat(Limits):
        """Adds one by place."""

        price: int

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Flat) and self.price == other.price

        def __hash__(self) -> int:
            return hash(self.price)

    @dataclass(frozen=True, slots=True)
    class Answer(Generic[Value]):
        """Generic."""

        value: Value

    @dataclass(frozen=True, slots=True)
    class Nothing:
        """No fields."""

    return SimpleNamespace(Item=Item, Count=Count, Limits=Limits, Flat=Flat, Answer=Answer, Nothing=Nothing)


OURS = classes(vars(late)["dataclass"])
THEIRS = classes(dataclasses.dataclass)


def outcome(act: Callable[[Any], Any], of: Any) -> Any:
    """What comes of it, errors included."""
    try:
        return act(of)
    except (TypeError, AttributeError) as error:
        return type(error), str(error)


def changed(instance: Any, **values: Any) -> Any:
    """The same instance."""
    for name, value in values.items():
        setattr(instance, name, value)
    return instance


ACTS: dict[str, Callable[[Any], Any]] = {
    "made by place": lambda of: repr(of.Item("a", Decimal(2), {"b": "c"}, "d")),
    "made by name": lambda of: repr(of.Item(quantity=Decimal(2), name="a")),
    "made from defaults": lambda of: repr(of.Item("a")),
    "a default of its own for each": lambda of: of.Count(1).names is of.Count(1).names,
    "one too few": lambda of: of.Item(),
    "one too many": lambda of: of.Item("a", Decimal(1), {}, "", 5),
    "an unknown one": lambda of: of.Item("a", color="red"),
    "no fields": lambda of: (repr(of.Nothing()), of.Nothing() == of.Nothing(), hash(of.Nothing())),
    "worked out after": lambda of: (of.Count(150).minutes, of.Count(150).kind),
    "not to be given": lambda of: of.Count(150, [], 2),
    "inherited": lambda of: (repr(of.Flat(5)), repr(of.Flat(5, most=3))),
    "inherited by place": lambda of: of.Flat(5, 3),
    "generic": lambda of: (repr(of.Answer(1)), of.Answer(1) == of.Answer(1), of.Answer.__parameters__),
    "equal": lambda of: of.Item("a") == of.Item("a", Decimal("1.0")),
    "equal but for what is not compared": lambda of: of.Item("a", tags={"b": "c"}) == of.Item("a"),
    "unequal": lambda of: (of.Item("a") == of.Item("b"), of.Item("a") != of.Item("b")),
    "unequal to others": lambda of: (of.Item("a") == "a", of.Limits() == of.Flat(1), of.Item("a").__eq__(1)),
    "methods of the class itself": lambda of: (of.Flat(1, most=2) == of.Flat(1), hash(of.Flat(1)), of.Item("a").label),
    "hashed": lambda of: hash(of.Item("a", Decimal(2), {}, "d")),
    "hashed as a key": lambda of: {of.Answer(1): "found"}[of.Answer(1)],
    "not hashed": lambda of: hash(of.Count(1)),
    "changed": lambda of: repr(changed(of.Count(1), seconds=3)),
    "changed though frozen": lambda of: setattr(of.Item("a"), "name", "b"),
    "deleted though frozen": lambda of: delattr(of.Item("a"), "name"),
    "given what is no field": lambda of: setattr(of.Count(1), "color", "red"),
    "with another value": lambda of: repr(replace(of.Item("a"), quantity=Decimal(3))),
    "with another value to work out from": lambda of: repr(replace(of.Count(60), seconds=120)),
    "as a dict": lambda of: asdict(of.Item("a", tags={"b": "c"})),
    "copied": lambda of: [repr(copied(of.Item("a", tags={"b": "c"}))) for copied in (copy.copy, copy.deepcopy)],
    "copied unfrozen": lambda of: repr(copy.deepcopy(of.Count(60, ["a"]))),
    "its fields": lambda of: [(each.name, each.default, each.init, each.kw_only) for each in fields(of.Flat)],
    "a dataclass": lambda of: [dataclasses.is_dataclass(each) for each in vars(of).values()],
    "its slots": lambda of: (of.Item.__slots__, of.Flat.__slots__, hasattr(of.Item("a"), "__dict__")),
    "its name": lambda of: (of.Item.__qualname__, of.Item.__module__, of.Item.__doc__, of.Item.__init__.__qualname__),
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_a_class_does_what_the_standard_library_has_it_do(act: Callable[[Any], Any]) -> None:
    """Values, errors and their words."""
    expected = outcome(act, THEIRS)
    assert str(outcome(act, OURS)) == str(expected)


def test_patterns_match_by_place() -> None:
    """In the order of the fields that are given by place."""
    for of in (OURS, THEIRS):
        assert of.Item.__match_args__ == ("name", "quantity", "tags", "note")
        assert of.Flat.__match_args__ == ("price",)


@late.dataclass(frozen=True, slots=True)
class Kept:
    """Where pickle finds it."""

    name: str
    number: int = 0


def test_a_frozen_instance_can_be_pickled() -> None:
    """Though nothing can be set."""
    assert pickle.loads(pickle.dumps(Kept("a", 2))) == Kept("a", 2)  # noqa: S301  our own
    with pytest.raises(FrozenInstanceError):
        Kept("a").number = 1  # type: ignore[misc]  # what is tried


def test_threads_may_meet_at_the_first_instance() -> None:
    """Each gets a whole one, which compares and hashes."""
    for _ in range(50):
        made = classes(vars(late)["dataclass"]).Item
        barrier = Barrier(4)

        def one(_: int, made: Any = made, barrier: Barrier = barrier) -> Any:
            barrier.wait()
            item = made("a")
            return item, hash(item), item == made("a")

        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(one, range(4)))
        assert len(set(results)) == 1
        assert results[0][2]


def test_a_class_without_slots_is_refused() -> None:
    """It would gain nothing here."""
    with pytest.raises(TypeError, match="no slots"):
        vars(late)["dataclass"](slots=False)


def test_importing_the_rules_writes_no_methods() -> None:
    """No class has been asked for its fields after it, which is the first thing that its methods need."""
    code = (
        "import sys, tollgate.entitlements.service\n"
        "classes = [each for name, module in sys.modules.items() if name.startswith('tollgate')"
        " for each in vars(module).values() if isinstance(each, type) and each.__module__ == name]\n"
        "late = [each for each in classes if '__dataclass_fields__' in vars(each)]\n"
        "print(len(late), [each for each in late if isinstance(vars(each)['__dataclass_fields__'], dict)])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "layers/common")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    count, written = done.stdout.split(maxsplit=1)
    assert int(count) > 40
    assert written.strip() == "[]"

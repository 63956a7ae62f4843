"""MiniStack's DynamoDB inside this process: `with engine(create_tables) as it: ...`.

Requests of botocore clients are answered before they reach a socket: some 1,500 calls a second, each as one
indivisible step. Hooks see every call before and after it, and may change it, refuse it, lose it or end the
process. What calls consume is counted exactly, reads included, of which MiniStack itself only says 0.5 or 1.
Limits of DynamoDB that MiniStack does not hold are held here.

The package ministack is needed only here; its pin of botocore is lifted by tools/requirements/overrides.txt, so
that what is tested is the botocore that the layer ships.
"""

import contextlib
import decimal
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final
from unittest import mock

from botocore import UNSIGNED
from botocore.awsrequest import AWSPreparedRequest, AWSResponse, HTTPHeaders
from ministack.services import dynamodb

from tollgate.kernel.dynamodb import BillingTable, CatalogTable, RecoveryTable, UsageTable, connect

__all__ = ["Call", "Engine", "Hook", "Refused", "Units", "engine"]

_DIGITS: Final = 38
"""DynamoDB's; MiniStack would count with the caller's 28."""
_WRITE_BYTES: Final = 1024
_READ_BYTES: Final = 4096
_NARROWING: Final = frozenset({"ProjectionExpression", "AttributesToGet", "FilterExpression", "Select"})
_LONGEST_EXPRESSION: Final = 4_096
_MOST_OPERATORS: Final = 300
_MOST_ACTIONS: Final = 100
_LONGEST_KEYS: Final = {"pk": 2_048, "sk": 1_024}
_OPERATOR: Final = re.compile(r"<>|[<>]=?|[=+-]|\b(?:AND|OR|NOT|BETWEEN|IN)\b|\w+(?=\s*\()")
_PLACEHOLDER: Final = re.compile(r"[#:]\w+")
_ONE_AT_A_TIME: Final = threading.Lock()


@dataclass(slots=True)
class Call:
    """One request; a hook before it may change `request`, a hook after it `answer`, and both are JSON as on the wire.

    `number` counts from 1 in the order in which calls begin. The units are 0 until the call is done.
    """

    number: int
    operation: str
    request: dict[str, Any]
    answer: dict[str, Any] = field(default_factory=dict)
    failed: bool = False
    write_units: float = 0.0
    read_units: float = 0.0


Hook = Callable[[Call], None]
"""May raise: an error of botocore's (the network), `Refused` (DynamoDB), or a BaseException (the process ends)."""


class Refused(Exception):
    """DynamoDB answers with an error and does nothing; with reasons, a transaction is cancelled for them."""

    def __init__(self, code: str, reasons: Sequence[str] = (), status: int = 400) -> None:
        super().__init__(code)
        self.status = status
        self.answer: dict[str, Any] = {"__type": code, "message": "refused by the test"}
        if reasons:
            self.answer["CancellationReasons"] = [{"Code": reason} for reason in reasons]


@dataclass(slots=True)
class Units:
    """Calls and what they consumed."""

    calls: int = 0
    write_units: float = 0.0
    read_units: float = 0.0


class Engine:
    """The database and its hooks. Safe to use from many threads.

    `units` is what was consumed, by operation. `wait` takes the place of sleeping where botocore pauses
    before it tries again: its retries cost no time.
    """

    def __init__(self, create_tables: Callable[[Any], None], *, bare: bool = False) -> None:
        self.before: list[Hook] = []
        self.after: list[Hook] = []
        self.units: dict[str, Units] = {}
        self.wait: Callable[[float], None] = lambda _: None
        self._create_tables = create_tables
        self._bare = bare
        self._lock = threading.Lock()
        self._calls = 0

    def clear(self) -> None:
        """Empty all tables; forget the calls and what they consumed. Hooks stay."""
        dynamodb.reset()
        before, after, self.before, self.after = self.before, self.after, [], []
        self._create_tables(connect(UsageTable).client)
        self.before, self.after = before, after
        self.units.clear()
        self._calls = 0

    @contextlib.contextmanager
    def hooked(self, before: Hook | None = None, after: Hook | None = None) -> Iterator[None]:
        """Have the hooks called while the context lasts, after those that were there already."""
        hooks = [(self.before, before), (self.after, after)]
        for place, hook in hooks:
            if hook is not None:
                place.append(hook)
        try:
            yield
        finally:
            for place, hook in hooks:
                if hook is not None:
                    place.remove(hook)

    @contextlib.contextmanager
    def attached(self, client: Any) -> Iterator[None]:
        """Answer a botocore client of DynamoDB while the context lasts."""
        handlers: list[tuple[str, Callable[..., Any]]] = [
            ("before-parameter-build.dynamodb", _ask_for_capacity),
            ("before-send.dynamodb", self._send),
        ]
        if self._bare:
            handlers = [handlers[1], ("choose-signer.dynamodb", _unsigned)]
        for event, handler in handlers:
            client.meta.events.register_first(event, handler)
        try:
            yield
        finally:
            for event, handler in handlers:
                client.meta.events.unregister(event, handler)

    def pass_by(self, seconds: float) -> None:
        """Be what botocore takes for sleeping."""
        self.wait(seconds)

    def total(self) -> Units:
        """What all calls consumed together."""
        parts = list(self.units.values())
        return Units(
            sum(one.calls for one in parts),
            sum(one.write_units for one in parts),
            sum(one.read_units for one in parts),
        )

    def ask(self, operation: str, request: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        """Have the database do something past hooks and meter: its answer, and whether that is an error."""
        with self._lock:
            return _ask(operation, request)

    def expire(self, table: str, at: float) -> int:
        """Delete what the time to live lets DynamoDB delete at an instant (seconds since 1970); say how many."""
        with self._lock:
            answer, _ = _ask(
                "Scan",
                {
                    "TableName": table,
                    "FilterExpression": "#ttl <= :at",
                    "ExpressionAttributeNames": {"#ttl": "ttl"},
                    "ExpressionAttributeValues": {":at": {"N": f"{at:.0f}"}},
                },
            )
            if "LastEvaluatedKey" in answer:
                raise NotImplementedError("tables of one page only")
            for item in answer["Items"]:
                _ask("DeleteItem", {"TableName": table, "Key": {"pk": item["pk"], "sk": item["sk"]}})
        return len(answer["Items"])

    def _send(self, request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        """Answer one request in place of the network."""
        operation = request.headers["X-Amz-Target"]
        if isinstance(operation, bytes):
            operation = operation.decode()
        assert isinstance(request.body, (bytes, str))
        with self._lock:
            self._calls += 1
            call = Call(self._calls, operation.partition(".")[2], json.loads(request.body))
        status = 0
        try:
            for hook in self.before:
                hook(call)
            _refuse_beyond_limits(call.request)
            with self._lock:
                call.answer, call.failed = _ask(call.operation, call.request)
                if not self._bare:
                    call.write_units, call.read_units = _consumed(call)
                units = self.units.setdefault(call.operation, Units())
                units.calls += 1
                units.write_units += call.write_units
                units.read_units += call.read_units
            for hook in self.after:
                hook(call)
        except Refused as refusal:
            call.answer, call.failed, status = refusal.answer, True, refusal.status
        headers = HTTPHeaders()
        headers["Content-Type"] = "application/x-amz-json-1.0"
        body = _Body(json.dumps(call.answer).encode())
        return AWSResponse(request.url, status or (400 if call.failed else 200), headers, body)


class _Body:
    """The body of an answer, as urllib3 would give it."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self._content


@contextlib.contextmanager
def engine(create_tables: Callable[[Any], None], *clients: Any, bare: bool = False) -> Iterator[Engine]:
    """Answer the stores and further clients in this process, from empty tables; one engine at a time.

    `create_tables` makes them through a client. A `bare` engine is faster: requests are not signed, and
    calls are counted, but not their units.
    """
    if not _ONE_AT_A_TIME.acquire(blocking=False):
        raise RuntimeError("the engine's state is that of the process: one at a time")
    try:
        it = Engine(create_tables, bare=bare)
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch("botocore.endpoint.time", SimpleNamespace(sleep=it.pass_by)))
            # Botocore's quota of retries lasts for the life of a client: a run would depend on those before it.
            stack.enter_context(mock.patch("botocore.retries.quota.RetryQuota.acquire", _granted))
            stores = [connect(table).client for table in (CatalogTable, UsageTable, BillingTable, RecoveryTable)]
            for client in (*stores, *clients):
                stack.enter_context(it.attached(client))
            it.clear()
            yield it
    finally:
        dynamodb.reset()
        _ONE_AT_A_TIME.release()


def _refuse_beyond_limits(request: Mapping[str, Any]) -> None:
    actions = [action for entry in request.get("TransactItems", ()) for action in entry.values()]
    if len(actions) > _MOST_ACTIONS:
        raise Refused("ValidationException")
    for action in (request, *actions):
        place = action.get("Key") or action.get("Item") or {}
        if any(len(place.get(name, {}).get("S", "").encode()) > most for name, most in _LONGEST_KEYS.items()):
            raise Refused("ValidationException")
        for text in (text for name, text in action.items() if name.endswith("Expression")):
            if len(text) > _LONGEST_EXPRESSION or len(_OPERATOR.findall(text)) > _MOST_OPERATORS:
                raise Refused("ValidationException")


def _granted(*_: Any) -> bool:
    return True


def _unsigned(**_: Any) -> Any:
    return UNSIGNED


def _ask_for_capacity(params: dict[str, Any], model: Any, **_: Any) -> None:
    if "ReturnConsumedCapacity" in model.input_shape.members:
        params["ReturnConsumedCapacity"] = "TOTAL"


def _ask(operation: str, request: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """MiniStack's answer and whether it is an error. Not safe among threads: it changes tables in several steps."""
    headers = {"x-amz-target": f"DynamoDB_20120810.{operation}"}
    coroutine = dynamodb.handle_request("POST", "/", headers, json.dumps(request).encode(), {})
    with decimal.localcontext(prec=_DIGITS):
        try:
            coroutine.send(None)  # it never waits for anything
        except StopIteration as done:
            status, _, body = done.value
    return json.loads(body), status != 200  # noqa: PLR2004  HTTP's


def _consumed(call: Call) -> tuple[float, float]:
    """Write and read units of a call that is done.

    A failed condition costs what the write would have: the size of the item that is there, and twice
    that for each item of a transaction.
    """
    if call.operation in _READS:
        return 0.0, 0.0 if call.failed else _READS[call.operation](call)
    if call.failed:
        error = call.answer.get("__type", "").rpartition("#")[2]
        if error == "ConditionalCheckFailedException":
            return _stored_units(call.request), 0.0
        if error == "TransactionCanceledException":
            actions = (action for entry in call.request["TransactItems"] for action in entry.values())
            return 2 * sum(map(_stored_units, actions)), 0.0
        return 0.0, 0.0
    said = call.answer.get("ConsumedCapacity", [])
    entries = said if isinstance(said, list) else [said]
    units: Counter[str] = Counter()
    for entry in entries:  # a transaction that is repeated with its token only reads
        units["read" if "ReadCapacityUnits" in entry else "write"] += entry["CapacityUnits"]
    return units["write"], units["read"]


def _stored_units(action: Mapping[str, Any]) -> float:
    """What writing the item that an action is about costs, as it is stored."""
    place = action.get("Key") or {name: action["Item"][name] for name in ("pk", "sk")}
    answer, _ = _ask("GetItem", {"TableName": action["TableName"], "Key": place})
    return _rounded(_size(answer.get("Item", {})), _WRITE_BYTES)


def _get_units(call: Call) -> float:
    return _item_units(call.request, call.answer) * _share(call.request)


def _batch_get_units(call: Call) -> float:
    units = 0.0
    for table, asked in call.request["RequestItems"].items():
        whole = _widened(asked)
        answer = _ask("BatchGetItem", {"RequestItems": {table: whole}})[0] if whole else call.answer
        found = answer["Responses"][table]
        missing = len(asked["Keys"]) - len(found)
        units += (missing + sum(_rounded(_size(item), _READ_BYTES) for item in found)) * _share(asked)
    return units


def _query_units(call: Call) -> float:
    whole = _widened(call.request)
    answer = _ask(call.operation, whole)[0] if whole else call.answer
    return _rounded(sum(map(_size, answer["Items"])), _READ_BYTES) * _share(call.request)


def _transact_get_units(call: Call) -> float:
    asked = (entry["Get"] for entry in call.request["TransactItems"])
    return 2 * sum(_item_units(one, found) for one, found in zip(asked, call.answer["Responses"], strict=True))


_READS: Final[dict[str, Callable[[Call], float]]] = {
    "GetItem": _get_units,
    "BatchGetItem": _batch_get_units,
    "Query": _query_units,
    "Scan": _query_units,
    "TransactGetItems": _transact_get_units,
}


def _item_units(request: Mapping[str, Any], answer: Mapping[str, Any]) -> float:
    """What one strongly consistent read of one item costs."""
    whole = _widened(request)
    found = _ask("GetItem", whole)[0] if whole else answer
    return _rounded(_size(found.get("Item", {})), _READ_BYTES)


def _widened(request: Mapping[str, Any]) -> dict[str, Any] | None:
    """The request with nothing filtered or left out, as it is billed; None if it is so already."""
    if not request.keys() & _NARROWING:
        return None
    whole = {name: value for name, value in request.items() if name not in _NARROWING}
    used = set(_PLACEHOLDER.findall(whole.get("KeyConditionExpression", "")))
    for placeholders in ("ExpressionAttributeNames", "ExpressionAttributeValues"):
        kept = {name: value for name, value in whole.pop(placeholders, {}).items() if name in used}
        if kept:
            whole[placeholders] = kept
    return whole


def _share(request: Mapping[str, Any]) -> float:
    return 1.0 if request.get("ConsistentRead") else 0.5


def _rounded(size: int, unit: int) -> float:
    return max(1.0, float(-(-size // unit)))


def _size(item: Mapping[str, Any]) -> int:
    return int(dynamodb._item_size_bytes(item))  # noqa: SLF001  the rule that its write units follow

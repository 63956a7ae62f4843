"""Reduce packages to what a function needs, when the layer is built: `python slim.py <site-packages> <service>...`.

Descriptions of other services, of each operation's documentation, and of other services' endpoints are read and parsed
by every client that is made, and are 29 of botocore's 30 MB; its handlers of other services are registered with every
session. Imports are put off by defer.py.
"""

import ast
import gzip
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from defer import DEFERRED, defer

_ENDPOINT_OF = {"cloudwatch": "monitoring"}  # where a service's endpoints have another name
_OPERATIONS = {
    "dynamodb": {
        *("BatchGetItem", "BatchWriteItem", "DeleteItem", "GetItem", "PutItem", "Query", "Scan", "UpdateItem"),
        *("TransactGetItems", "TransactWriteItems", "DescribeEndpoints", "DescribeTable"),
    }
}
"""What is kept of a service that every cold start makes a client of: no role may more."""


def main(site: Path, services: set[str]) -> None:
    """Trim a folder of packages."""
    trim_data(site, services)
    trim_code(site)


def trim_data(site: Path, services: set[str]) -> None:
    """What boto3 and botocore know of services."""
    for folder in (*(site / "botocore/data").iterdir(), *(site / "boto3/data").iterdir()):
        if folder.is_dir() and folder.name not in services:
            shutil.rmtree(folder)
    for model in (site / "botocore/data").glob("*/*/service-2.json.gz"):
        body = _without_documentation(json.loads(gzip.decompress(model.read_bytes())))
        if kept := _OPERATIONS.get(model.parts[-3]):
            body = _with_operations(body, kept)
            waiters = model.with_name("waiters-2.json")
            _write(waiters, _json(_with_waiters(json.loads(waiters.read_text(encoding="utf-8")), kept)))
        _write(model.with_suffix(""), _json(body))
        model.unlink()
    for examples in (site / "botocore/data").glob("*/*/examples-1.json*"):
        examples.unlink()
    endpoints = site / "botocore/data/endpoints.json"
    body = json.loads(endpoints.read_text(encoding="utf-8"))
    kept = {_ENDPOINT_OF.get(service, service) for service in services}
    for partition in body["partitions"]:
        partition["services"] = {name: one for name, one in partition["services"].items() if name in kept}
    _write(endpoints, _json(body))


def trim_code(site: Path) -> None:
    """What modules do when they are imported, and botocore's handlers of services that it has no data of."""
    handlers = site / "botocore/handlers.py"
    names = {name for model in (site / "botocore/data").glob("*/*/service-2.json") for name in _event_names(model)}
    _write(handlers, without_handlers_of_others(handlers.read_text(encoding="utf-8"), names))
    for module, unwanted in DEFERRED.items():
        _write(site / module, defer((site / module).read_text(encoding="utf-8"), module, unwanted))


def _write(file: Path, text: str) -> None:
    """Put a new file in the place of one that may be a hard link into the installer's cache, which others share."""
    file.unlink(missing_ok=True)
    file.write_text(text, encoding="utf-8")


def _json(body: Any) -> str:
    return json.dumps(body, separators=(",", ":"))


def _without_documentation(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_documentation(one) for one in value]
    if not isinstance(value, dict):
        return value
    # A member may have that name too; its description is an object.
    return {
        name: _without_documentation(one)
        for name, one in value.items()
        if not (name in {"documentation", "documentationUrl"} and isinstance(one, str))
    }


def _with_operations(model: dict[str, Any], kept: set[str]) -> dict[str, Any]:
    """A description of a service with some of its operations, and the shapes that these need."""
    operations = {name: one for name, one in model["operations"].items() if name in kept}
    shapes: dict[str, Any] = {}
    waiting = list(_shapes_in(operations))
    while waiting:
        name = waiting.pop()
        if name not in shapes:
            shapes[name] = model["shapes"][name]
            waiting += _shapes_in(shapes[name])
    return model | {"operations": operations, "shapes": shapes}


def _shapes_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("shape"), str):
            yield value["shape"]
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _shapes_in(one)


def _with_waiters(body: dict[str, Any], kept: set[str]) -> dict[str, Any]:
    return body | {"waiters": {name: one for name, one in body["waiters"].items() if one["operation"] in kept}}


def _event_names(model: Path) -> set[str]:
    """What botocore calls a service in the names of its events."""
    metadata = json.loads(model.read_text(encoding="utf-8"))["metadata"]
    return {metadata["endpointPrefix"], metadata["serviceId"].lower().replace(" ", "-")}


def without_handlers_of_others(source: str, services: set[str]) -> str:
    """botocore/handlers.py without the handlers of events of other services, and without those of documentation."""
    tree = ast.parse(source)
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "BUILTIN_HANDLERS":
            listed = node.value
            break
    else:
        raise ValueError("botocore/handlers.py has no list of handlers")
    assert isinstance(listed, ast.List)
    listed.elts = [each for each in listed.elts if _is_of(ast.unparse(each), services)]
    return ast.unparse(tree)


def _is_of(entry: str, services: set[str]) -> bool:
    # ('before-call.s3.PutObject', ...): the event, then the service if it is one service's.
    event, service, *_ = [*entry.split("'")[1].split("."), "*"]
    return event != "docs" and service in services | {"*"}


if __name__ == "__main__":
    main(Path(sys.argv[1]), set(sys.argv[2:]))

"""Lambda handlers called as API Gateway calls them, with no server: the entitlements function, and the barest one."""

import contextlib
import gc
import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Final

import boto3
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver
from botocore.awsrequest import AWSPreparedRequest, AWSResponse, HTTPHeaders

from tollgate.kernel.dynamodb import UsageTable, connect
from tools import ROOT
from tools.engine import Call

__all__ = ["Function", "bare_handler", "cpu_of", "event", "played"]

CONTEXT: Final = SimpleNamespace(get_remaining_time_in_millis=lambda: 25_000, aws_request_id="request")
_ROUNDS: Final = 7
_CALLS: Final = 300

Handler = Callable[[dict[str, Any], Any], dict[str, Any]]


def event(method: str, path: str, body: Any = None, **query: str) -> dict[str, Any]:
    """What API Gateway hands to a function (payload 2.0), with the authorizer's word for the scope admin."""
    return {
        "version": "2.0",
        "rawPath": path,
        "rawQueryString": "",
        "queryStringParameters": query,
        "headers": {"content-type": "application/json"},
        "requestContext": {
            "http": {"method": method, "path": path},
            "requestId": "request",
            "stage": "$default",
            "authorizer": {"lambda": {"key_id": "key", "scopes": "admin"}},
        },
        "body": None if body is None else json.dumps(body),
        "isBase64Encoded": False,
    }


class Function:
    """functions/entitlements, loaded anew as after a cold start."""

    def __init__(self) -> None:
        spec = importlib.util.spec_from_file_location("entitlements_app", ROOT / "functions/entitlements/app.py")
        if spec is None or spec.loader is None:
            raise RuntimeError("functions/entitlements/app.py cannot be loaded")
        self.module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        self.handler: Handler = self.module.handler

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The body of an answer.

        Raises:
            RuntimeError: the answer is not 200.
        """
        answer = self.handler(event(method, path, body), CONTEXT)
        if answer["statusCode"] != 200:  # noqa: PLR2004  HTTP's
            raise RuntimeError(answer["body"])
        return json.loads(answer["body"])


def bare_handler(key: dict[str, Any], client: Any) -> Handler:
    """The least that a function with a Powertools resolver can do: get one item, and answer with it."""
    app = APIGatewayHttpResolver()
    table = os.environ["USAGE_TABLE"]

    @app.get("/v1/customers/<customer>/entitlements/<feature>")
    def get(customer: str, feature: str) -> dict[str, Any]:
        answer = client.get_item(TableName=table, Key=key, ConsistentRead=True)
        return {"customer": customer, "feature": feature, "used": answer["Item"]["u"]["N"]}

    return app.resolve


@contextlib.contextmanager
def played(call: Call, *clients: Any) -> Iterator[None]:
    """Answer clients with what the database answered to a call."""
    content = json.dumps({name: value for name, value in call.answer.items() if name != "ConsumedCapacity"}).encode()

    def send(request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        headers = HTTPHeaders()
        headers["Content-Type"] = "application/x-amz-json-1.0"
        return AWSResponse(request.url, 200, headers, _Body(content))

    for client in clients:
        client.meta.events.register_first("before-send.dynamodb", send)
    try:
        yield
    finally:
        for client in clients:
            client.meta.events.unregister("before-send.dynamodb", send)


class _Body:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self._content


def cpu_of(call: Call, handlers: dict[str, Callable[[Any], Handler]], asked: dict[str, Any]) -> dict[str, float]:
    """Seconds of CPU of a request by each handler, in turns, the best of several rounds."""
    client = boto3.client("dynamodb")
    made = {name: make(client) for name, make in handlers.items()}
    best = dict.fromkeys(made, float("inf"))
    with played(call, client, connect(UsageTable).client):
        for _ in range(_ROUNDS):
            for name, handler in made.items():
                handler(asked, CONTEXT)
                gc.collect()
                started = time.process_time()
                for _ in range(_CALLS):
                    handler(asked, CONTEXT)
                best[name] = min(best[name], (time.process_time() - started) / _CALLS)
    return best

"""The API in this process: an HTTP server in front of the functions, which stand on MiniStack's DynamoDB.

It is to the functions what API Gateway is: it finds the function of a path, makes the event of payload format 2.0,
asks the authorizer, and writes the answer. So what is fuzzed is the code that a deployment runs, at some hundred
requests a second; tests/stack fuzzes the deployment.
"""

import base64
import contextlib
import importlib.util
import io
import json
import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType, SimpleNamespace
from typing import Any, Final
from unittest import mock
from urllib.parse import parse_qsl, unquote

import boto3
from botocore.awsrequest import AWSPreparedRequest, AWSResponse, HTTPHeaders

from tests.conftest import ROOT, create_tables, template
from tollgate.catalog.keys import create_key
from tollgate.catalog.store import DynamoCatalog
from tollgate.kernel.time import system_clock
from tools.engine import engine

__all__ = ["Deployment", "deployed"]

_FUNCTIONS: Final = ("catalog", "usage", "pricing", "entitlements", "billing", "recovery")
_TIMEOUT_SECONDS: Final = 29
_BILLING_SECONDS: Final = 7
"""In place of 20: a billing run of thousands of periods, as made-up starts make them, hands over to the queue soon."""


def _context() -> SimpleNamespace:
    """What Lambda gives to a function that begins now."""
    end = time.monotonic() + _TIMEOUT_SECONDS
    return SimpleNamespace(
        function_name="function",
        memory_limit_in_mb=512,
        invoked_function_arn="arn:aws:lambda:eu-central-1:123456789012:function:function",
        aws_request_id="request-1",
        get_remaining_time_in_millis=lambda: max(0, int((end - time.monotonic()) * 1000)),
    )


class Deployment:
    """The functions, newly loaded, and what they have logged."""

    def __init__(self) -> None:
        self.api_url = ""
        self.api_key = ""
        self.log = io.StringIO()
        self.requests = 0
        self._lock = threading.Lock()  # a function's process has one request at a time
        self._authorizer = _load("authorizer")
        self._functions = {name: _load(name) for name in _FUNCTIONS}
        self._functions["billing"].__dict__["INLINE_SECONDS"] = _BILLING_SECONDS
        self._routes = _routes()

    def answer(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        """What the API answers to a request; `target` is the path and query as they were sent."""
        path, _, query = target.partition("?")
        path = unquote(path)
        try:
            text, is_base64 = body.decode(), False
        except UnicodeDecodeError:
            text, is_base64 = base64.b64encode(body).decode(), True
        values: dict[str, str] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            values[name] = f"{values[name]},{value}" if name in values else value
        function, needs_key = self._function_of(method, path)
        event: dict[str, Any] = {
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": path,
            "rawQueryString": query,
            "headers": dict(headers),
            "requestContext": {
                "http": {"method": method, "path": path},
                "requestId": "request-1",
                "stage": "$default",
            },
            "isBase64Encoded": is_base64,
        }
        event |= {"queryStringParameters": values} if values else {}
        with self._lock:
            if needs_key:
                granted = self._authorizer.handler({"headers": dict(headers)}, _context())
                event["requestContext"]["authorizer"] = {"lambda": granted["context"]}
            event |= {"body": text} if text else {}
            self.requests += 1
            answer = self._functions[function].handler(event, _context())
        content = str(answer.get("body") or "")
        given = base64.b64decode(content) if answer.get("isBase64Encoded") else content.encode()
        return int(answer["statusCode"]), dict(answer.get("headers") or {}), given

    def _function_of(self, method: str, path: str) -> tuple[str, bool]:
        for pattern, methods, function, needs_key in self._routes:
            if pattern.fullmatch(path) and methods & {method, "ANY"}:
                return function, needs_key
        return "catalog", True


def _routes() -> list[tuple[re.Pattern[str], set[str], str, bool]]:
    """The routes of template.yaml, the most specific first, as API Gateway takes them."""
    found = []
    for resource in template()["Resources"].values():
        events = resource.get("Properties", {}).get("Events", {}) if resource["Type"].endswith("Function") else {}
        function = str(resource.get("Properties", {}).get("CodeUri", "")).strip("/").rpartition("/")[2]
        for event in events.values():
            if (
                event["Type"] == "HttpApi"
                and event["Properties"].get("ApiId") == {"Ref": "HttpApi"}
                and "Path" in event["Properties"]
            ):
                route = event["Properties"]
                pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.sub(r"\\\{\w+\\\+\\\}", ".+", re.escape(route["Path"])))
                specific = (route["Method"] == "ANY", "+}" in route["Path"], route["Path"].count("{"))
                needs_key = route.get("Auth", {}).get("Authorizer") != "NONE"
                found.append((specific, (re.compile(pattern, re.DOTALL), {route["Method"]}, function, needs_key)))
    return [route for _, route in sorted(found, key=lambda each: each[0])]


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"fuzzed_{name}", ROOT / "functions" / name / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # the whole answer in one packet, or each waits 40 ms for an acknowledgement
    deployment: Deployment

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers: dict[str, str] = {}
        for name, value in self.headers.items():
            headers[name.lower()] = f"{headers[name.lower()]},{value}" if name.lower() in headers else value
        status, answered, content = self.deployment.answer(self.command, self.path, headers, body)
        self.send_response_only(status)
        for name, value in answered.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS = do_TRACE = do_QUERY = _serve  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def _take_message(request: AWSPreparedRequest, **_: Any) -> AWSResponse:
    """Answer in place of SQS: what is sent is taken."""
    headers = HTTPHeaders()
    headers["Content-Type"] = "application/x-amz-json-1.0"
    return AWSResponse(request.url, 200, headers, _Content(json.dumps({"MessageId": "m", "MD5OfMessageBody": ""})))


class _Content:
    def __init__(self, text: str) -> None:
        self._text = text

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self._text.encode()


@contextlib.contextmanager
def deployed() -> Iterator[Deployment]:
    """Serve the API from empty tables on a free port of this machine."""
    session = boto3.Session(region_name="eu-central-1")
    session.events.register_first("before-send.sqs", _take_message)  # type: ignore[arg-type]  # its stubs know no answer
    with (
        mock.patch("boto3.DEFAULT_SESSION", session),
        mock.patch.dict(os.environ, ALLOW_PRIVATE_WEBHOOKS="true"),  # as on the local stack
        engine(create_tables, bare=True),
    ):
        deployment = Deployment()
        _, secret = create_key(DynamoCatalog(), name="fuzz", scopes=("admin",), clock=system_clock)
        deployment.api_key = str(secret)
        handler = type("Handler", (_Handler,), {"deployment": deployment})
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, _logged(deployment.log):
            deployment.api_url = f"http://127.0.0.1:{server.server_address[1]}"
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            try:
                yield deployment
            finally:
                server.shutdown()
                thread.join()


@contextlib.contextmanager
def _logged(log: io.StringIO) -> Iterator[None]:
    """Have all that the functions log, and print, written into a text; from the level that a deployment has."""
    loggers = [one for one in logging.Logger.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    changed = [
        (one, handler) for one in loggers for handler in one.handlers if isinstance(handler, logging.StreamHandler)
    ]
    before = [(one, one.level, handler, handler.setStream(log)) for one, handler in changed]
    for one, _ in changed:
        one.setLevel(logging.INFO)
    try:
        with contextlib.redirect_stdout(log):
            yield
    finally:
        for one, level, handler, stream in before:
            one.setLevel(level)
            if stream is not None:
                handler.setStream(stream)

"""The functions of the API in this process, with a clock that is owned by the test."""

import importlib.util
import json
from datetime import datetime
from types import ModuleType, SimpleNamespace
from typing import Any, Final

from tests.conftest import ROOT

__all__ = ["Api"]

_CONTEXT: Final = SimpleNamespace(
    function_name="function",
    memory_limit_in_mb=512,
    invoked_function_arn="arn:aws:lambda:eu-central-1:123456789012:function:function",
    aws_request_id="request-1",
    get_remaining_time_in_millis=lambda: 60_000,
)
_BILLING: Final = ("/v1/invoices", "/v1/billing")


class Api:
    """Catalog and billing, newly loaded as Lambda loads them; `now` is what their clocks say."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self._functions = {name: self._load(name) for name in ("catalog", "billing")}

    def _load(self, name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, ROOT / "functions" / name / "app.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.system_clock = lambda: self.now  # type: ignore[attr-defined]  # the name that the module imports
        return module

    def __call__(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        """The answer to a request, which is a good one: JSON, or the text of a page."""
        answer = self._ask(method, path, body, query)
        assert answer["statusCode"] < 300, answer
        return answer["body"] if path.endswith(".html") else json.loads(answer["body"])

    def refused(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        """The problem document of a request that is a bad one."""
        answer = self._ask(method, path, body, query)
        problem = json.loads(answer["body"])
        assert answer["statusCode"] == problem["status"] >= 400, answer
        return problem

    def _ask(self, method: str, path: str, body: Any, query: dict[str, str]) -> Any:
        is_billing = path.startswith(_BILLING) or path.endswith("/upcoming")
        return self._functions["billing" if is_billing else "catalog"].handler(
            {
                "version": "2.0",
                "rawPath": path,
                "rawQueryString": "",
                "queryStringParameters": query,
                "headers": {"content-type": "application/json"},
                "requestContext": {
                    "http": {"method": method, "path": path},
                    "requestId": "request-1",
                    "stage": "$default",
                    "authorizer": {"lambda": {"key_id": "key", "scopes": "admin"}},
                },
                "body": json.dumps(body) if body is not None else None,
                "isBase64Encoded": False,
            },
            _CONTEXT,
        )

"""The README's examples run as they stand."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.client.fakes_api import accepted, decision
from tollgate_client import Tollgate

README = Path(__file__).parents[2] / "client/README.md"


def answer(request: httpx.Request) -> httpx.Response:
    """What an API says that allows everything."""
    if request.url.path.endswith("/events"):
        return accepted(request)
    status = {"GET": None}.get(request.method, "consumed")
    return httpx.Response(200, json=decision(status=status))


def test_every_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One after the other, as a reader would type them."""
    sent: list[httpx.Request] = []

    def handle(_: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return answer(request)

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", handle)
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    for block in blocks:
        exec(block, names)  # noqa: S102  our own words
    for name in ("tollgate", "careful"):
        client = names[name]
        assert isinstance(client, Tollgate)
        assert client.close().pending == 0
    assert "a report for ada" in capsys.readouterr().out
    (events,) = [json.loads(request.content) for request in sent if request.url.path.endswith("/events")]
    assert [event["feature"] for event in events] == ["requests", "transfer"]

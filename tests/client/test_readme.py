"""The README's examples run as they stand."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.client.fakes_api import accepted, decision
from tollgate_client import Tollgate

CLIENT = Path(__file__).parents[2] / "client"
README = CLIENT / "README.md"


def examples() -> list[str]:
    """What stands in the README."""
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


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
    for block in examples():
        exec(block, names)  # noqa: S102  our own words
    for name in ("tollgate", "careful"):
        client = names[name]
        assert isinstance(client, Tollgate)
        assert client.close().pending == 0
    assert "a report for ada" in capsys.readouterr().out
    (events,) = [json.loads(request.content) for request in sent if request.url.path.endswith("/events")]
    assert [event["feature"] for event in events] == ["requests", "transfer"]


def test_every_example_is_typed(tmp_path: Path) -> None:
    """For the strictest reader: decorators keep their functions' types, and the package says that it has types."""
    program = tmp_path / "examples.py"
    program.write_text("\n".join(examples()))
    options = ["--strict", "--config-file=", "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(program)],
        env=os.environ | {"MYPYPATH": str(CLIENT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert (CLIENT / "tollgate_client/py.typed").exists()

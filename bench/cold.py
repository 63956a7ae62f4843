"""Import and client of the entitlements function from the built layer, each in a process of its own.

What is measured must also work: the function answers a check afterwards, in the same process.
"""

import compileall
import importlib.util
import io
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import boto3

from bench.gate import DEAR, last_call, shop
from bench.handlers import event
from tools import LOCAL, ROOT
from tools.deploy import build

__all__ = ["Layer", "cold_starts", "layer_of"]

_TIMES: Final = 15
_CLIENT: Final = "from tollgate.kernel.dynamodb import UsageTable, connect; connect(UsageTable).client"
_LIBRARIES: Final = (
    "from aws_lambda_powertools.event_handler import APIGatewayHttpResolver;"
    "from aws_lambda_powertools.logging import Logger; import pynamodb.models, botocore.session;"
    "botocore.session.get_session().create_client('dynamodb')"
)
_MEASURED: Final = "import time; began = time.process_time(); {}; print(time.process_time() - began)"
_BOTO3: Final = ("boto3", "botocore", "s3transfer", "jmespath", "urllib3", "dateutil")

_CHECK: Final = """
import json, sys
from types import SimpleNamespace
from botocore.awsrequest import AWSResponse, HTTPHeaders
given = json.load(sys.stdin)
asked = []

def send(request, **_):
    asked.append(request)
    body = SimpleNamespace(stream=lambda **_: [json.dumps(given["answer"]).encode()])
    return AWSResponse(request.url, 200, HTTPHeaders(), body)

connect(UsageTable).client.meta.events.register_first("before-send.dynamodb", send)
context = SimpleNamespace(get_remaining_time_in_millis=lambda: 25_000, aws_request_id="request")
print(json.dumps(app.handler(given["event"], context)))
assert len(asked) == 1
"""


@dataclass(frozen=True, slots=True)
class Layer:
    """The common layer as it is built for this machine's Python."""

    folder: Path

    @property
    def zipped(self) -> int:
        """Its size as a zip file, in bytes."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(self.folder.rglob("*")):
                archive.write(path, path.relative_to(self.folder))
        return len(buffer.getvalue())

    @property
    def uncompiled(self) -> list[Path]:
        """Modules with no .pyc for this Python: each is compiled at every cold start."""
        modules = (self.folder / "python").rglob("*.py")
        return [module for module in modules if not Path(importlib.util.cache_from_source(str(module))).exists()]


def layer_of(folder: Path = LOCAL / "build" / "bench") -> Layer:
    """Build the layer, if its source has changed."""
    return Layer(build(folder).parent / "CommonLayer")


def cold_starts(layer: Layer, times: int = _TIMES) -> dict[str, float]:
    """Seconds of CPU by what is imported and made, in turns, the best of several.

    Each finds the function's folder first, as on Lambda, then the layer, or boto3 as it is installed and compiled.

    Raises:
        RuntimeError: what was measured does not answer a check.
    """
    function, site = ROOT / "functions/entitlements", Path(boto3.__file__).parents[1]
    for package in _BOTO3:
        compileall.compile_dir(site / package, quiet=1)
    ours, theirs = f"{function}:{layer.folder / 'python'}", f"{function}:{site}"
    measured = {
        "import boto3; boto3.client": ("import boto3; boto3.client('dynamodb')", theirs),
        "the same from the layer": ("import boto3; boto3.client('dynamodb')", ours),
        "Powertools, PynamoDB and a client from the layer": (_LIBRARIES, ours),
        "the entitlements function": (f"import app; {_CLIENT}", ours),
    }
    best = dict.fromkeys(measured, float("inf"))
    check = _first_check()
    for _ in range(times):
        for name, (code, path) in measured.items():
            seconds, *answer = _run(code, path, check if "app" in code else None)
            best[name] = min(best[name], float(seconds))
            if answer and not _is_allowed(answer[0]):
                raise RuntimeError(answer[0])
    return best


def _first_check() -> dict[str, Any]:
    """A request for a check, and what the database answers to it."""
    with shop(DEAR, archive=False) as here:
        call = last_call(here, lambda here: here.check("tokens"))
    answer = {name: value for name, value in call.answer.items() if name != "ConsumedCapacity"}
    return {"event": event("GET", "/v1/customers/ada/entitlements/tokens"), "answer": answer}


def _is_allowed(answer: str) -> bool:
    return bool(json.loads(json.loads(answer)["body"]).get("allowed"))


def _run(code: str, path: str, check: dict[str, Any] | None) -> list[str]:
    # -S: with no site-packages but those of the path.
    done = subprocess.run(  # noqa: S603  the code is ours
        [sys.executable, "-S", "-c", _MEASURED.format(code) + (_CHECK if check else "")],
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        input=json.dumps(check),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.splitlines()

"""Import and client of the entitlements function from the built layer, each in a process of its own."""

import importlib.util
import io
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import boto3

from tools import LOCAL, ROOT
from tools.deploy import build

__all__ = ["Layer", "cold_starts", "layer_of"]

_TIMES: Final = 15
_CLIENT: Final = "from tollgate.kernel.dynamodb import UsageTable, connect; connect(UsageTable).client"
_LIBRARIES: Final = (
    "import aws_lambda_powertools.event_handler, aws_lambda_powertools.logging, pynamodb.models, botocore.session;"
    "botocore.session.get_session().create_client('dynamodb')"
)
_MEASURED: Final = "import time; began = time.process_time(); {}; print(time.process_time() - began)"


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
    """Seconds of CPU by what is imported and made, in turns, the median of several."""
    packages = Path(boto3.__file__).parents[1]
    ours = f"{layer.folder / 'python'}:{ROOT / 'functions/entitlements'}"
    measured = {
        "import boto3; boto3.client": ("import boto3; boto3.client('dynamodb')", str(packages)),
        "the same from the layer": ("import boto3; boto3.client('dynamodb')", ours),
        "Powertools, PynamoDB and a client from the layer": (_LIBRARIES, ours),
        "the entitlements function": (f"import app; {_CLIENT}", ours),
    }
    seconds: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(times):
        for name, (code, path) in measured.items():
            seconds[name].append(_run(code, path))
    return {name: median(each) for name, each in seconds.items()}


def _run(code: str, path: str) -> float:
    # -S: with no site-packages but those of the path.
    done = subprocess.run(  # noqa: S603  the code is ours
        [sys.executable, "-S", "-c", _MEASURED.format(code)],
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)

"""Builds the template with sam and deploys it to the local AWS; `python -m tools.deploy` builds it for AWS."""

import argparse
import contextlib
import io
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from tools import LOCAL, ROOT, ToolError
from tools.ministack import REGION, aws_environment, undisturbed
from tools.routes import import_routes

__all__ = [
    "STACK_NAME",
    "Deployment",
    "architecture",
    "aws_arguments",
    "build",
    "build_for_aws",
    "deploy",
    "resources_of",
]

HOST_VERSION = "{}.{}".format(*sys.version_info)
STACK_NAME = "tollgate-dev"
TEMPLATE = ROOT / "template.yaml"
BUCKET = "tollgate-artifacts"
LAYERS = ("CommonLayer", "StripeLayer")
LAYER_LIMIT = 12 << 20  # bytes, zipped: more makes cold starts slower
SHOWN_LINES = 30


@dataclass(frozen=True)
class Deployment:
    """What a deployment made.

    Attributes:
        api_url: the API, with no slash at its end.
        resources: physical ids by logical id: table names, queue URLs, topic ARNs.
    """

    api_url: str
    resources: Mapping[str, str]


def aws_arguments(endpoint_url: str) -> dict[str, Any]:
    """Return the arguments with which `boto3.client` reaches the local AWS."""
    return {
        "endpoint_url": endpoint_url,
        "region_name": REGION,
        "aws_access_key_id": "test",
        "aws_secret_access_key": "test",
    }


def build(folder: Path, python_version: str = HOST_VERSION) -> Path:
    """Build the template into the folder for this machine's CPU and Python, or another; return the built template.

    The layer is built again only if its source has changed. Two processes must not share a folder.

    Raises:
        ToolError: sam is missing or the build fails.
    """
    folder = folder.resolve() / f"python{python_version}-{architecture()}"  # sam's cache knows of neither
    folder.mkdir(parents=True, exist_ok=True)
    arguments = ["--cached", "--build-dir", str(folder / "build"), "--cache-dir", str(folder / "cache")]
    _sam(
        ["build", "--template-file", str(TEMPLATE), *arguments, *_parameters(python_version)],
        _build_environment(python_version, "host"),
        folder,
    )
    return folder / "build" / "template.yaml"


def build_for_aws(python_version: str, cpu: str) -> list[Path]:
    """Build the template into .aws-sam, where `sam deploy` looks for it; return the layers' folders.

    Raises:
        ToolError: sam is missing or the build fails.
    """
    parameters = [f"PythonRuntime=python{python_version}", f"Architecture={cpu}"]
    shutil.rmtree(ROOT / ".aws-sam", ignore_errors=True)  # its cache does not know what Python the layer is for
    environment = _build_environment(python_version, cpu)
    LOCAL.mkdir(exist_ok=True)
    arguments = ["--build-dir", str(ROOT / ".aws-sam" / "build"), "--no-cached", "--parameter-overrides"]
    _sam(["build", "--template-file", str(TEMPLATE), *arguments, *parameters], environment, LOCAL)
    return [ROOT / ".aws-sam" / "build" / name for name in LAYERS]


def deploy(endpoint_url: str, template: Path) -> Deployment:
    """Deploy a built template to the local AWS; a second time changes what has changed.

    Raises:
        ToolError: the deployment fails.
    """
    _make_bucket(endpoint_url)
    arguments = [
        *("--template-file", str(template), "--stack-name", STACK_NAME, "--s3-bucket", BUCKET),
        *("--no-confirm-changeset", "--no-fail-on-empty-changeset", "--no-progressbar"),
        *("--capabilities", "CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"),
    ]
    environment = aws_environment(endpoint_url) | {"SAM_CLI_POLL_DELAY": "0.1"}
    _sam(["deploy", *arguments, *_parameters()], environment, template.parent.parent)
    return _open_api(endpoint_url)


def _open_api(endpoint_url: str) -> Deployment:
    """Read what the stack consists of, and make the routes of its API."""
    client = boto3.client("cloudformation", **aws_arguments(endpoint_url))
    resources = resources_of(endpoint_url)
    text: Any = client.get_template(StackName=STACK_NAME, TemplateStage="Processed")["TemplateBody"]
    template = json.loads(text) if isinstance(text, str) else text
    import_routes(boto3.client("apigatewayv2", **aws_arguments(endpoint_url)), template, resources)
    port = endpoint_url.rpartition(":")[2]
    return Deployment(
        # No stage in it: MiniStack takes what is not the name of a stage as a path in the stage $default.
        api_url=f"http://localhost:{port}/_aws/execute-api/{resources['HttpApi']}",
        resources=resources,
    )


def resources_of(endpoint_url: str) -> dict[str, str]:
    """Read the physical ids of the stack's resources, by their logical ids."""
    client = boto3.client("cloudformation", **aws_arguments(endpoint_url))
    pages = client.get_paginator("list_stack_resources").paginate(StackName=STACK_NAME)
    found = [each for page in pages for each in page["StackResourceSummaries"]]
    return {each["LogicalResourceId"]: each["PhysicalResourceId"] for each in found}


def _make_bucket(endpoint_url: str) -> None:
    """Make the bucket for artifacts; `--resolve-s3` makes one too, by a stack of its own, in 3 seconds."""
    client = boto3.client("s3", **aws_arguments(endpoint_url))
    with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})


def architecture() -> str:
    """Name this machine's CPU as Lambda does."""
    return "arm64" if platform.machine().lower() in {"arm64", "aarch64"} else "x86_64"


def _parameters(python_version: str = HOST_VERSION) -> list[str]:
    machine = [f"PythonRuntime=python{python_version}", f"Architecture={architecture()}"]
    return ["--parameter-overrides", *machine, "Stage=dev", "AllowPrivateWebhooks=true"]


def _build_environment(python_version: str, cpu: str) -> dict[str, str]:
    """Add what layers/common/Makefile reads."""
    return (
        {"UV_SYSTEM_CERTS": "1"}
        | aws_environment()
        | {
            "TOLLGATE_UV": str(ROOT / ".venv" / "bin" / "uv"),
            "TOLLGATE_PYTHON": sys.executable,
            "TOLLGATE_PYTHON_VERSION": python_version,
            "TOLLGATE_ARCHITECTURE": cpu,
        }
    )


def _sam(arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
    """Run sam in the folder, its output in a log there; samconfig.toml, which is for AWS, is left out.

    sam runs in a session of its own, so that all it has started ends with it when we are interrupted.
    """
    sam = ROOT / ".local" / "venv" / "sam" / "bin" / "sam"
    if not sam.exists():
        raise ToolError("sam is not installed: python3 tools/bootstrap.py dev ministack sam")
    log = folder / f"sam-{arguments[0]}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(sam), *arguments, "--config-env", "none"],
            cwd=folder,
            env={**environment, "SAM_CLI_TELEMETRY": "0"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait()
        finally:
            _end_session(process)
    if code != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        shown = "\n".join(f"  {line}" for line in lines[-SHOWN_LINES:])
        raise ToolError(f"sam {arguments[0]} failed (all it said is in {_shown(log)}):\n{shown}")


def _end_session(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it has started."""
    if process.returncode is not None:
        return
    with undisturbed(), contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _shown(path: Path) -> str:
    """Write a path as short as can be."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _zipped_size(folder: Path) -> int:
    """Measure the folder as a zip file, in bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return len(buffer.getvalue())


def main(arguments: Sequence[str] | None = None) -> int:
    """Build for AWS from the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.deploy", description="Build the template for AWS.")
    parser.add_argument("--python-version", default="3.13", help="the runtime's Python (default: 3.13)")
    parser.add_argument("--architecture", default="arm64", choices=["arm64", "x86_64"], help="default: arm64")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        layers = build_for_aws(options.python_version, options.architecture)
    except ToolError as error:
        print(f"tollgate: {error}", file=sys.stderr)
        return 1
    print(f"built for python{options.python_version} on {options.architecture}, {time.monotonic() - started:.1f} s")
    for layer in layers:
        size = _zipped_size(layer)
        print(f"{layer.name} is {size / (1 << 20):.1f} MB zipped")
        if size > LAYER_LIMIT:
            limit = f"{LAYER_LIMIT >> 20} MB"
            print(f"tollgate: that is more than {limit}: see what layers/common/Makefile removes", file=sys.stderr)
            return 1
    parameters = f"PythonRuntime=python{options.python_version} Architecture={options.architecture}"
    print(f"next: .local/venv/sam/bin/sam deploy --guided --parameter-overrides Stage=dev {parameters}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

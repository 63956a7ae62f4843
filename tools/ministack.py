"""Starts and stops MiniStack, the local AWS: `with ministack() as url: ...`.

MiniStack runs in an environment of its own and leads a session of its own, with its Lambda workers in it:
Ctrl-C in the terminal reaches only us, and we end the whole session. Should we be killed outright, the server
notices that its standard input has closed, and ends the session itself.
"""

import contextlib
import decimal
import hashlib
import importlib
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tools import LOCAL, ROOT, ToolError, permissions

__all__ = [
    "DEFAULT_PORT",
    "REGION",
    "USED",
    "aws_environment",
    "ministack",
    "port_from_environment",
    "serve",
    "undisturbed",
]

DEFAULT_PORT = 4566
REGION = "eu-central-1"
HOST = "127.0.0.1"
START_SECONDS = 60.0
STOP_SECONDS = 3.0
DYNAMODB_DIGITS = 38
SERVER = f"import sys; sys.path.append({str(ROOT)!r}); from tools.ministack import serve; serve(%r)"
USED = "permissions.jsonl"


def port_from_environment() -> int:
    """Read the port from TOLLGATE_PORT.

    Raises:
        ToolError: it is not a port.
    """
    text = os.environ.get("TOLLGATE_PORT", "") or str(DEFAULT_PORT)
    if not text.isdecimal() or int(text) >= 1 << 16:
        raise ToolError(f"TOLLGATE_PORT is {text!r}; it must be a port, such as {DEFAULT_PORT}")
    return int(text)


def aws_environment(endpoint_url: str | None = None) -> dict[str, str]:
    """Return this process's environment with the local AWS as the only one that can be reached from it.

    Without an endpoint no AWS can be reached at all.
    """
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SAM_"))}
    ours |= {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": f"localhost,{HOST}",
        "no_proxy": f"localhost,{HOST}",
    }
    if endpoint_url is not None:
        ours["AWS_ENDPOINT_URL"] = endpoint_url
    return ours


@contextlib.contextmanager
def ministack(
    port: int = DEFAULT_PORT,
    log: Path = LOCAL / "ministack.log",
    host: str = HOST,
    *,
    holds_roles: bool = False,
) -> Iterator[str]:
    """Run MiniStack on the port (0 takes a free one), and give its URL once it answers.

    What it prints goes to the log, whose folder exists. The host is an address of this machine's; the usual one
    is reached only from here. Where it holds functions to their roles, what these have used is in `permissions.jsonl`
    beside the log.

    Raises:
        ToolError: the environment is missing, the port is busy, or it does not start.
    """
    python = LOCAL / "venv" / "ministack" / "bin" / "python"
    if not python.exists():
        raise ToolError("MiniStack is not installed: python3 tools/bootstrap.py dev ministack sam")
    port = _claim(port, host)
    LOCAL.mkdir(exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="ministack-", dir=LOCAL))
    server: subprocess.Popen[bytes] | None = None
    try:
        with log.open("wb") as output:
            server = subprocess.Popen(
                [python, "-P", "-c", SERVER % (str(log.with_name(USED).resolve()) if holds_roles else None)],
                cwd=scratch,
                env={**_server_environment(port, scratch, host), "AUTH": str(holds_roles).lower()},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        url = f"http://{host}:{port}"
        _wait_until_ready(server, url, log)
        yield url
    finally:
        with undisturbed():
            if server is not None:
                _stop(server)
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Keep signals away while something is stopped, so that a second Ctrl-C leaves nothing behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ignored = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _server_environment(port: int, scratch: Path, host: str) -> Mapping[str, str]:
    """Build the server's environment: the Lambda workers inherit it, so nothing of ours is in it."""
    kept = ("HOME", "LANG", "LC_ALL", "PATH", "SSL_CERT_FILE")
    return {name: os.environ[name] for name in kept if name in os.environ} | {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "BIND_HOST": host,
        "DOCKER_HOST": f"unix://{scratch}/no-docker",  # it looks for one at start and at each stop
        "GATEWAY_PORT": str(port),
        "LAMBDA_EXECUTOR": "local",
        "LOG_LEVEL": "WARNING",
        "MINISTACK_HOST": "localhost" if host == HOST else host,
        "MINISTACK_REGION": REGION,
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(scratch),
    }


def _claim(port: int, host: str) -> int:
    """Check that the port is free on this machine; 0 finds one that is."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            advice = f"choose another: TOLLGATE_PORT={port + 1 if port < (1 << 16) - 1 else DEFAULT_PORT}"
            raise ToolError(f"port {port} cannot be had: {error.strerror}; {advice}") from None
        return int(probe.getsockname()[1])


def _wait_until_ready(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Ask until the server answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ToolError(f"MiniStack ended while it started:\n{_tail(log)}")
        with contextlib.suppress(OSError), opener.open(f"{url}/_ministack/ready", timeout=1):
            return
        time.sleep(0.02)
    raise ToolError(f"MiniStack did not answer within {START_SECONDS:.0f} s:\n{_tail(log)}")


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
    return "\n".join(f"  {line}" for line in lines)


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and all its workers: politely, then not."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(server.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    if server.stdin is not None:
        server.stdin.close()


def serve(used: str | None) -> None:
    """Be the server: MiniStack's own Python calls this. What roles use goes to the file `used`, if they are held."""
    sys.path.remove(str(ROOT))
    # DynamoDB counts with 38 digits, MiniStack with the 28 of Python's default; new threads copy the default.
    decimal.DefaultContext.prec = DYNAMODB_DIGITS
    decimal.getcontext().prec = DYNAMODB_DIGITS
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _collect_logs_later()
    _unpack_layers_once()
    if used:
        permissions.complete(Path(used))
    runpy.run_module("ministack", run_name="__main__")


def _collect_logs_later() -> None:
    """Have each invocation answered at once.

    MiniStack waits up to 50 ms for a function's first line of log before it answers; lines that come after
    the 2 ms we leave it are collected with the next invocation.
    """
    worker = importlib.import_module("ministack.core.lambda_runtime").Worker  # only the server's environment has it
    worker._drain_stderr_bounded.__defaults__ = (0.002, 0.001, 0.25)  # noqa: SLF001 - there is no setting for it


def _unpack_layers_once() -> None:
    """Have the workers of all functions share a layer's files.

    MiniStack unpacks the 44 MB of a layer for each worker it starts, and removes them with it.
    """
    unpack, guard = zipfile.ZipFile.extractall, threading.Lock()

    def extractall(archive: zipfile.ZipFile, path: str, *arguments: Any) -> None:
        if not Path(path).name.startswith("layer_"):
            unpack(archive, path, *arguments)
            return
        digest = hashlib.sha256(Path(str(archive.filename)).read_bytes()).hexdigest()
        shared = Path.cwd() / "layers" / digest
        with guard:
            if not shared.exists():
                unpack(archive, shared)
        for each in shared.iterdir():
            (Path(path) / each.name).symlink_to(each)

    zipfile.ZipFile.extractall = extractall  # type: ignore[assignment,method-assign]


def _end_with_parent() -> None:
    """End the session when our standard input closes, which says that whoever started us is gone."""
    while os.read(0, 1):
        pass
    shutil.rmtree(Path.cwd(), ignore_errors=True)
    os.killpg(0, signal.SIGKILL)

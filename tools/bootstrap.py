"""Makes the Python environments that the other tools run in: `python3 tools/bootstrap.py dev ministack sam`.

Standard library only. Old Pythons must be able to parse it, so that they can say which version is needed:
no syntax in it is newer than Python 3.6, and newer annotations are quoted.

Each environment is filled from a requirements file with hashes. pip installs uv, and uv everything else.
A stamp in the environment says what it was made from; while that holds, a call costs nothing.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

NEEDED = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
LOCAL = ROOT / ".local"
LOG = LOCAL / "bootstrap.log"
REQUIREMENTS = ROOT / "tools" / "requirements"
DEV = ROOT / ".venv"
ENVIRONMENTS = {"dev": DEV, **{name: LOCAL / "venv" / name for name in ("ministack", "sam", "checkov", "audit")}}
STAMP = "tollgate-stamp"
SIGNS_OF_NO_NETWORK = (
    "dns error",
    "failed to lookup address",
    "name resolution",
    "network is unreachable",
    "connection refused",
    "error sending request",
    "tcp connect error",
    "no matching distribution found for uv",
    "newconnectionerror",
    "timed out",
)


class BootstrapError(Exception):
    """An environment cannot be made; the message says what to do."""


def main(names: "list[str]") -> int:
    """Make the named environments; return the exit code."""
    unknown = [name for name in names if name not in ENVIRONMENTS]
    if unknown or not names:
        print("usage: python3 tools/bootstrap.py [{}]...".format("|".join(ENVIRONMENTS)))
        return 2
    try:
        if not all(_is_current(name) for name in names):
            with _only_one_at_a_time():
                for name in names:
                    _make(name)
    except BootstrapError as error:
        print(f"tollgate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ntollgate: interrupted; the next call goes on from here", file=sys.stderr)
        return 130
    return 0


def explain_version() -> str:
    """Say which Python is needed, and which command would do, if there is one on this machine."""
    candidates = [f"python3.{minor}" for minor in (13, 12, 11, 14)]
    found = [name for name in candidates if _runs(name)]
    return "Tollgate needs Python {}.{} or newer; this is {}: make run PYTHON={}".format(
        NEEDED[0],
        NEEDED[1],
        ".".join(str(part) for part in sys.version_info[:3]),
        (found or ["python3.12"])[0],
    )


def _runs(python: str) -> bool:
    """Tell whether the command exists and is a Python (a pyenv shim may be neither)."""
    if shutil.which(python) is None:
        return False
    quiet = subprocess.DEVNULL
    return subprocess.call([python, "-c", ""], stdout=quiet, stderr=quiet) == 0


def _make(name: str) -> None:
    """Make one environment, or bring it up to date."""
    if _is_current(name):
        return
    _check_machine(name)
    environment = ENVIRONMENTS[name]
    started = time.monotonic()
    print(f"environment {name} ...", end=" ", flush=True)
    try:
        _install_uv()
        if name != "dev" and not _has_this_python(environment):
            _run([_uv(), "venv", "--clear", "--python", sys.executable, str(environment)])
        files = _requirements(name)
        sync = [_uv(), "pip", "sync", "--require-hashes", "--python", str(environment / "bin" / "python")]
        _run(sync + [str(file) for file in files])
    except BaseException:
        print("failed", flush=True)
        raise
    (environment / STAMP).write_text(_stamp(name), encoding="ascii")
    print(f"{time.monotonic() - started:.1f} s", flush=True)


def _install_uv() -> None:
    """Make .venv with uv in it, unless it is there already."""
    if _has_this_python(DEV) and (DEV / "bin" / "uv").exists():
        return
    (DEV / STAMP).unlink(missing_ok=True)
    _run([sys.executable, "-m", "venv", "--clear", str(DEV)])
    pip = [str(DEV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    _run([*pip, "install", "--require-hashes", "-r", str(REQUIREMENTS / "uv.txt")])


def _uv() -> str:
    return str(DEV / "bin" / "uv")


def _requirements(name: str) -> "list[Path]":
    """List the files an environment holds; the first environment holds uv as well."""
    return [REQUIREMENTS / f"{each}.txt" for each in ([name, "uv"] if name == "dev" else [name])]


def _stamp(name: str) -> str:
    """Digest all that an environment depends on: its requirements, the Python and its own place."""
    digest = hashlib.sha256()
    for file in _requirements(name):
        digest.update(file.read_bytes())
    digest.update(f"{sys.version} {sys.base_prefix} {ROOT}".encode())
    return digest.hexdigest()


def _is_current(name: str) -> bool:
    """Tell whether the environment is what its requirements say."""
    environment = ENVIRONMENTS[name]
    try:
        stamp = (environment / STAMP).read_text(encoding="ascii")
    except OSError:
        return False
    return stamp == _stamp(name) and (environment / "bin" / "python").exists()


def _has_this_python(environment: Path) -> bool:
    """Tell whether the environment runs on the Python that runs this."""
    try:
        lines = (environment / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    settings = dict(line.partition(" = ")[::2] for line in lines)
    version = settings.get("version_info") or settings.get("version") or ""
    home = Path(settings.get("home", ""))
    return (
        (environment / "bin" / "python").exists()
        and version.startswith("{}.{}.{}".format(*sys.version_info))
        and home.resolve().is_relative_to(Path(sys.base_prefix).resolve())
    )


def _check_machine(name: str) -> None:
    """Say what the machine lacks, before anything fails half-way."""
    if importlib.util.find_spec("ensurepip") is None and not (DEV / "bin" / "uv").exists():
        package = "python{}.{}-venv".format(*sys.version_info)
        raise BootstrapError(f"this Python cannot make environments; on Debian or Ubuntu: apt-get install {package}")
    if name == "sam" and shutil.which("make") is None:
        raise BootstrapError("sam builds the layer with make, which is not on PATH: apt-get install make")


def _run(command: "list[str]") -> None:
    """Run a command; its output goes to the log, and is shown if it fails."""
    environment = dict(os.environ, UV_PYTHON_DOWNLOADS="never", UV_NO_PROGRESS="1")
    environment.setdefault("UV_HTTP_TIMEOUT", "120")
    environment.setdefault("UV_SYSTEM_CERTS", "1")  # as pip: those that the machine trusts
    environment.pop("VIRTUAL_ENV", None)
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    with LOG.open("a", encoding="utf-8") as log:
        log.write("$ {}\n{}\n".format(" ".join(command), done.stdout))
    if done.returncode != 0:
        raise BootstrapError(_explain(command, done.stdout))


def _explain(command: "list[str]", output: str) -> str:
    """Turn a failed command into a message: one line when the cause is known."""
    if any(sign in output.lower() for sign in SIGNS_OF_NO_NETWORK):
        return (
            "the Python package index cannot be reached: check the network and try again; behind a mirror set"
            f" PIP_INDEX_URL and UV_DEFAULT_INDEX (the whole output is in {LOG.relative_to(ROOT)})"
        )
    lines = output.strip().splitlines()
    shown = "\n".join(f"  {line}" for line in lines[-25:])
    return "this failed: {}\n{}".format(" ".join(command), shown)


@contextlib.contextmanager
def _only_one_at_a_time() -> "Iterator[None]":
    """Wait for another bootstrap of the same tree to end."""
    LOCAL.mkdir(exist_ok=True)
    with (LOCAL / "bootstrap.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("waiting for another bootstrap of this tree ...", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        LOG.write_text("", encoding="utf-8")
        yield


if __name__ == "__main__":
    if sys.version_info < NEEDED:
        sys.exit(explain_version())
    sys.exit(main(sys.argv[1:]))

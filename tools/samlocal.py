"""Functions in containers of Lambda's runtime, by `sam local`: `python -m tools.samlocal <command> ...`.

That prepares what sam needs (a Docker daemon, the image it looks for, the build) and runs the command, in which
`SamLocal.prepared()` invokes functions and serves the API.

The image is AWS's, where its registry answers. Where none does, a stand-in with its name is made of a Python of this
machine, AWS's runtime client and what sam needs to build upon it: enough to find out that the layer and the functions
load and run where nothing else is; not Amazon Linux.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from tools import LOCAL, ROOT, ToolError
from tools.deploy import LAYERS as BUILT_LAYERS
from tools.deploy import architecture, build
from tools.docker import Docker, docker, ends_with_us
from tools.ministack import REGION, aws_environment, undisturbed

__all__ = ["SamLocal"]

PREPARED = "TOLLGATE_SAMLOCAL"
FOLDER = LOCAL / "samlocal"
LAYERS = FOLDER / "layers"
PYTHON_VERSION = "3.13"  # the template's default
REGISTRY = "public.ecr.aws"
REGISTRY_SECONDS = 5.0
START_SECONDS = 60.0
STOP_SECONDS = 15.0
SHOWN_LINES = 30

# What of Python's standard library functions have no use for.
LEFT_OUT = frozenset(
    {"test", "tests", "idlelib", "site-packages", "dist-packages", "tkinter", "turtledemo", "ensurepip", "pydoc_data"}
)
LEFT_OUT_PREFIXES = ("config-", "_tkinter", "_test")
# What sam's Dockerfile runs.
COMMANDS = ("/bin/sh", "/bin/mv", "/bin/chmod", "/bin/cp", "/bin/rm")
# What wheels may count on wherever there is a C library (PEP 600).
LIBRARIES = ("librt.so.1", "libdl.so.2", "libpthread.so.0", "libutil.so.1", "libresolv.so.2")
BOOTSTRAP = """\
#!/bin/sh
export LD_LIBRARY_PATH={libraries}
export PYTHONPATH=/var/task:/opt/python:/var/runtime
exec {python} -m awslambdaric "$_HANDLER"
"""


@dataclasses.dataclass(frozen=True)
class SamLocal:
    """What is prepared.

    Attributes:
        docker_host: the daemon's address.
        gateway: this machine's address, seen from containers.
        template: the built template.
        parameters: of the template: the runtime and the CPU.
    """

    docker_host: str
    gateway: str
    template: str
    parameters: Sequence[str]

    @classmethod
    def prepared(cls) -> "SamLocal":
        """Find what this process was started with.

        Raises:
            ToolError: it was not started by `python -m tools.samlocal`.
        """
        if PREPARED not in os.environ:
            raise ToolError("sam local is not prepared: run `make test-samlocal`")
        return cls(**json.loads(os.environ[PREPARED]))

    def invoke(self, function: str, event: Mapping[str, Any], variables: Mapping[str, str]) -> Any:
        """Have a function (by its logical id) answer an event, in a container of its own.

        Of the variables of its environment (the template's, and AWS_ENDPOINT_URL) those given take others' places.

        Raises:
            ToolError: there is no answer. An error of the function's is one, with `errorMessage`.
        """
        with self._files(variables) as arguments:
            done = subprocess.run(
                [*self._command("invoke"), function, "--event", "-", *arguments],
                input=json.dumps(event),
                env=self._environment(),
                cwd=FOLDER,
                capture_output=True,
                text=True,
                check=False,
            )
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise ToolError(f"{function} gave no answer:\n{_tail(done.stdout + done.stderr)}") from None

    @contextlib.contextmanager
    def api(self, variables: Mapping[str, str]) -> Iterator[str]:
        """Serve the API while the context lasts; give its URL.

        Raises:
            ToolError: it does not start.
        """
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        url, log = f"http://127.0.0.1:{port}", FOLDER / f"start-api-{port}.log"
        with self._files(variables) as arguments, log.open("wb") as output:
            # EAGER would lose containers that are made at once.
            serving = ["--host", "127.0.0.1", "--port", port, "--warm-containers", "LAZY"]
            process = subprocess.Popen(
                [*ends_with_us(), *self._command("start-api"), *serving, *arguments],
                env=self._environment(),
                cwd=FOLDER,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                _wait_for(process, int(port), log)
                yield url
            finally:
                with undisturbed():
                    process.send_signal(signal.SIGTERM)  # upon which sam removes its containers
                    try:
                        process.wait(STOP_SECONDS)
                    except subprocess.TimeoutExpired:
                        process.kill()
                        process.wait()

    def _command(self, what: str) -> list[str]:
        sam = str(LOCAL / "venv" / "sam" / "bin" / "sam")
        # --skip-pull-image: the image is there, and may be ours.
        fixed = ["--skip-pull-image", "--region", REGION, "--layer-cache-basedir", str(LAYERS)]
        built = ["--template", self.template, "--parameter-overrides", *self.parameters, "--config-env", "none"]
        return [sam, "local", what, *fixed, *built]

    @contextlib.contextmanager
    def _files(self, variables: Mapping[str, str]) -> Iterator[list[str]]:
        with tempfile.NamedTemporaryFile("w", suffix=".json", dir=FOLDER) as file:
            json.dump({"Parameters": dict(variables)}, file)
            file.flush()
            yield ["--env-vars", file.name]

    def _environment(self) -> dict[str, str]:
        """No keys: with any, be they made up, sam asks AWS whose they are, for seconds."""
        keys = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
        # Nor is sam to compile itself anew each time, which takes as long as all else that it does.
        ours = {k: v for k, v in aws_environment().items() if k not in keys | {"PYTHONDONTWRITEBYTECODE"}}
        return ours | {"DOCKER_HOST": self.docker_host, "SAM_CLI_TELEMETRY": "0"}


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise ToolError(f"sam local start-api does not start:\n{_tail(log.read_text(encoding='utf-8', errors='replace'))}")


@contextlib.contextmanager
def _prepare() -> Iterator[SamLocal]:
    """Have all that sam needs, and leave the daemon as it was."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with docker(FOLDER, _say) as daemon:
        version = PYTHON_VERSION
        python: Path | None = None
        if not _has_image(daemon, _image(version)):
            python = _find_python(version) or Path(sys.executable)
            version = _ask_python(python, "'{}.{}'.format(*__import__('sys').version_info)")
        before = daemon.images()
        try:
            if python is not None:
                _make_image(daemon, python, _image(version))
            template = _adapt(build(FOLDER / "build", python_version=version))
            _say(f"built for Python {version}")
            yield SamLocal(
                docker_host=f"unix://{daemon.socket}",
                gateway=daemon.gateway(),
                template=str(template),
                parameters=[f"PythonRuntime=python{version}", f"Architecture={architecture()}"],
            )
        finally:
            with undisturbed():
                for image in daemon.images() - before:
                    daemon.remove_containers(image)
                    daemon.remove_image(image)


def _image(version: str) -> str:
    """Name the image as sam does."""
    return f"{REGISTRY}/lambda/python:{version}-{architecture()}"


def _has_image(daemon: Docker, image: str) -> bool:
    """Whether the daemon has AWS's image, fetched now if need be."""
    if image in daemon.images():
        _say(f"base image: {image}, which the Docker daemon had")
        return True
    try:
        answers = httpx.get(f"https://{REGISTRY}/v2/", timeout=REGISTRY_SECONDS).status_code in {200, 401}
    except httpx.HTTPError:
        answers = False
    if answers and daemon.pull(image):
        _say(f"base image: {image}, from its registry")
        return True
    return False


def _find_python(version: str) -> Path | None:
    """Find an interpreter as layers/common/Makefile does, which compiles the layer with it."""
    latest = subprocess.run(["sh", "-c", f"pyenv latest {version}"], capture_output=True, text=True, check=False)
    found = subprocess.run(
        [ROOT / ".venv/bin/uv", "python", "find", "--no-python-downloads", version],
        env=os.environ | {"PYENV_VERSION": latest.stdout.strip()},
        capture_output=True,
        text=True,
        check=False,
    )
    return Path(found.stdout.strip()) if found.returncode == 0 else None


def _make_image(daemon: Docker, python: Path, image: str) -> None:
    """Make the stand-in."""
    with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
        runtime, tree = Path(scratch) / "runtime", Path(scratch) / "tree.tar"
        requirements = ROOT / "tools" / "requirements" / "runtime.txt"
        install = [str(ROOT / ".venv/bin/uv"), "pip", "install", "--quiet", "--compile-bytecode", "--require-hashes"]
        options = ["--only-binary", ":all:", "--python", str(python), "--target", str(runtime), "-r", str(requirements)]
        done = subprocess.run([*install, *options], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ToolError(f"the runtime client cannot be installed:\n{_tail(done.stderr)}")
        with tarfile.open(tree, "w") as tar:
            _write_tree(tar, python, runtime)
        daemon.load(tree, image)
    version = _ask_python(python, "__import__('platform').python_version()")
    _say(f"base image: a stand-in of this machine's Python {version}, as {REGISTRY} does not answer")


def _write_tree(tar: tarfile.TarFile, python: Path, runtime: Path) -> None:
    """Write Python with all it is linked with to where it is here, sam's commands, and /var/runtime."""
    program = Path(_ask_python(python, "__import__('os').path.realpath(__import__('sys').executable)"))
    library = Path(_ask_python(python, "__import__('sysconfig').get_path('stdlib')"))
    extensions = [one for one in library.glob("lib-dynload/*.so") if not one.name.startswith(LEFT_OUT_PREFIXES)]
    programs = [program, *map(Path, COMMANDS)]
    linked = _linked([*programs, *extensions, *runtime.rglob("*.so")])
    for file in sorted({*programs, *linked}):
        with file.open("rb") as content:
            info = _as_root(tar.gettarinfo(arcname=str(file).lstrip("/"), fileobj=content))
            tar.addfile(info, content)
    tar.add(library, str(library).lstrip("/"), filter=_kept)
    tar.add(runtime, "var/runtime", filter=_as_root)
    folders = ":".join(sorted({str(file.parent) for file in linked}))
    bootstrap = BOOTSTRAP.format(python=program, libraries=folders).encode()
    info = tarfile.TarInfo("var/runtime/bootstrap")
    info.size, info.mode = len(bootstrap), 0o755
    tar.addfile(info, io.BytesIO(bootstrap))
    for name, mode in (("tmp", 0o1777), ("opt", 0o755), ("var/task", 0o755)):
        info = tarfile.TarInfo(name)
        info.type, info.mode = tarfile.DIRTYPE, mode
        tar.addfile(info)


def _linked(files: Sequence[Path]) -> set[Path]:
    """The shared libraries that programs and libraries need."""
    said = subprocess.run(["ldd", *files], capture_output=True, text=True, check=False).stdout
    found = {Path(path) for path in re.findall(r"(/\S+) \(0x", said)}
    places = {path.parent for path in found if path.name.startswith("libc.so")}
    return found | {place / name for place in places for name in LIBRARIES if (place / name).exists()}


def _kept(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    name = info.name.rpartition("/")[2]
    return None if name in LEFT_OUT or name.startswith(LEFT_OUT_PREFIXES) else _as_root(info)


def _as_root(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    return info


def _ask_python(python: Path, expression: str) -> str:
    """The value of an expression in an interpreter."""
    command = [str(python), "-I", "-c", f"print({expression})"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _adapt(template: Path) -> Path:
    """Write the built template as sam can use it here, in JSON, which it reads in a tenth of the time.

    AWS_ENDPOINT_URL is declared, since sam sets only variables that are. And the layers are named as if they were
    published and fetched: those of the template itself it would put into an image anew for each invocation.
    """
    from samtranslator.yaml_helper import yaml_parse

    body: dict[str, Any] = yaml_parse(template.read_text(encoding="utf-8"))
    body["Globals"]["Function"]["Environment"]["Variables"]["AWS_ENDPOINT_URL"] = ""
    shutil.rmtree(LAYERS, ignore_errors=True)
    LAYERS.mkdir()
    version = int(time.time())  # that of now, whatever a daemon remembers
    published = {name: f"arn:aws:lambda:{REGION}:123456789012:layer:{name}:{version}" for name in BUILT_LAYERS}
    for name, arn in published.items():
        folder = f"{name}-{version}-{hashlib.sha256(arn.encode()).hexdigest()[:10]}"  # sam's name for a fetched layer
        (LAYERS / folder).symlink_to(template.parent / name)
    # What is there only if a parameter asks for it is left out: sam would have it all the same.
    body["Resources"] = {name: one for name, one in body["Resources"].items() if "Condition" not in one}
    del body["Outputs"]
    functions = [one["Properties"] for one in body["Resources"].values() if one["Type"] == "AWS::Serverless::Function"]
    for properties in (body["Globals"]["Function"], *functions):
        if "Layers" in properties:
            properties["Layers"] = [published[layer["Ref"]] for layer in properties["Layers"] if "Ref" in layer]
    adapted = template.with_name("samlocal.json")
    adapted.write_text(json.dumps(body), encoding="utf-8")
    return adapted


def _tail(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip().splitlines()[-SHOWN_LINES:])


def _say(what: str) -> None:
    print(what, flush=True)


def _run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command to its end; when we are interrupted so is it, once, and may clean up."""
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            with undisturbed():
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
            raise


def main(command: Sequence[str]) -> int:
    """Prepare, and run the command; return its exit code."""
    if not command:
        print("usage: python -m tools.samlocal <command> ...", file=sys.stderr)
        return 2
    try:
        with _prepare() as prepared:
            environment = os.environ | {PREPARED: json.dumps(dataclasses.asdict(prepared))}
            return _run(command, environment)
    except ToolError as error:
        print(f"tollgate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))

"""A Docker daemon: the one that runs, or one of our own while it is needed. `with docker(folder, say) as it: ...`.

Ours is started as root, from Debian's packages where there are none yet, and keeps to itself: its socket, its images
and its bridge are gone when it has ended, and it neither writes firewall rules nor makes the machine a router.
It is spoken to over its socket, so no command `docker` is needed, and none can be too new for it.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from tools import ToolError
from tools.ministack import undisturbed

__all__ = ["Docker", "docker", "ends_with_us"]

SOCKET = Path("/var/run/docker.sock")
BRIDGE = "docker0"
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
START_SECONDS = 30.0
STOP_SECONDS = 20.0
CALL_SECONDS = 300.0
PACKAGES = ("docker.io",)
SHOWN_LINES = 12
_GET_ADDRESS, _SET_FLAGS, _DELETE_BRIDGE = 0x8915, 0x8914, 0x89A1
"""SIOCGIFADDR, SIOCSIFFLAGS and SIOCBRDELBR of linux/sockios.h; a bare Debian has no command `ip`."""


class Docker:
    """A daemon, by its socket.

    Attributes:
        socket: where it listens; `DOCKER_HOST` is `unix://` and this.
    """

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://docker", timeout=CALL_SECONDS
        )

    def answers(self) -> bool:
        """Whether it is there."""
        try:
            return self.socket.exists() and self._http.get("/_ping", timeout=5).is_success
        except httpx.TransportError:
            return False

    def gateway(self) -> str:
        """The address at which containers reach this machine.

        Raises:
            ToolError: it has no bridge here, as if it ran elsewhere.
        """
        options = self._ask("GET", "/networks/bridge").get("Options", {})
        name = options.get("com.docker.network.bridge.name", BRIDGE)
        try:
            with socket.socket() as any_socket:
                answer = fcntl.ioctl(any_socket, _GET_ADDRESS, struct.pack("16s16x", name.encode()))
        except OSError:
            raise ToolError(f"the Docker daemon at {self.socket} has no bridge on this machine") from None
        return socket.inet_ntoa(answer[20:24])

    def images(self) -> set[str]:
        """The names of all images."""
        return {name for image in self._ask("GET", "/images/json") for name in image["RepoTags"] or ()}

    def pull(self, image: str) -> bool:
        """Fetch an image from its registry; False if that fails half-way."""
        name, _, tag = image.rpartition(":")
        answer = self._http.post("/images/create", params={"fromImage": name, "tag": tag})
        return answer.is_success and image in self.images()

    def has_label(self, image: str, label: str) -> bool:
        """Whether an image that is there has a label."""
        return label in (self._ask("GET", f"/images/{image}/json")["Config"].get("Labels") or ())

    def load(self, tree: Path, image: str, label: str) -> None:
        """Make an image of a tar file, with a label.

        Raises:
            ToolError: the daemon does not want it.
        """
        name, _, tag = image.rpartition(":")
        with tree.open("rb") as content:
            query = {"fromSrc": "-", "repo": name, "tag": tag, "changes": f"LABEL {label}=1"}
            answer = self._http.post("/images/create", params=query, content=iter(lambda: content.read(1 << 20), b""))
        if not answer.is_success or image not in self.images():
            raise ToolError(f"the Docker daemon does not take the image {image}: {answer.text.strip()}")

    def remove_containers(self, image: str) -> None:
        """End and remove all containers of an image."""
        query = {"all": "1", "filters": json.dumps({"ancestor": [image]})}
        for container in self._ask("GET", "/containers/json", **query):
            self._http.delete(f"/containers/{container['Id']}", params={"force": "1", "v": "1"})

    def remove_image(self, image: str) -> None:
        """Remove an image, or the name it has; what others stand on stays."""
        self._http.delete(f"/images/{image}")

    def close(self) -> None:
        """Hang up."""
        self._http.close()

    def _ask(self, method: str, path: str, **query: str) -> Any:
        answer = self._http.request(method, path, params=query)
        if not answer.is_success:
            raise ToolError(f"the Docker daemon at {self.socket} answers {answer.text.strip()}")
        return answer.json()


@contextlib.contextmanager
def docker(folder: Path, say: Callable[[str], None]) -> Iterator[Docker]:
    """Give the daemon that runs, at DOCKER_HOST or at its usual socket; or start one, and stop it in the end.

    Args:
        folder: where a daemon of ours has its images and its log.
        say: hears in a line what is done, as it is done.

    Raises:
        ToolError: none runs, and none can be started.
    """
    with contextlib.ExitStack() as running:
        found = _running()
        if found is None:
            program = _program(say)
            found = _running()  # Debian's package may have started it, where there is an init
            if found is None:
                found = running.enter_context(_started(program, folder))
                say("started a Docker daemon")
        running.callback(found.close)
        yield found


def _running() -> Docker | None:
    host = os.environ.get("DOCKER_HOST") or f"unix://{SOCKET}"
    if not host.startswith("unix://"):
        raise ToolError(f"DOCKER_HOST is {host}; a daemon of this machine is needed, at unix://...")
    found = Docker(Path(host.removeprefix("unix://")))
    if found.answers():
        return found
    found.close()
    return None


def _program(say: Callable[[str], None]) -> str:
    """Where dockerd is, installed if need be."""
    lacking = "no Docker daemon answers, and one can be started only by root"
    if sys.platform != "linux" or os.geteuid() != 0:
        raise ToolError(f"{lacking} of a Linux machine: start one, or set DOCKER_HOST")
    path = f"{os.environ.get('PATH', '')}:{SBIN}"
    program = shutil.which("dockerd", path=path)
    if program is None:
        if shutil.which("apt-get") is None:
            raise ToolError("no Docker daemon answers, and there is no dockerd to start: install one")
        say(f"installing {' '.join(PACKAGES)} ...")
        _install()
        program = shutil.which("dockerd", path=path)
    if program is None:
        raise ToolError(f"there is no dockerd, not even with {' '.join(PACKAGES)} installed")
    return program


def _install() -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES]
    for command in (["apt-get", "update", "-qq"], install):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ToolError(f"this failed: {' '.join(command)}\n{_tail(done.stdout + done.stderr)}")


@contextlib.contextmanager
def _started(program: str, folder: Path) -> Iterator[Docker]:
    """A daemon of our own; all that is left of it in the end is its log."""
    had_bridge = _has_bridge()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "dockerd.log"
    # Sockets have short paths, images need room: /tmp may be in memory.
    sockets = Path(tempfile.mkdtemp(prefix="tollgate-docker-"))
    images = Path(tempfile.mkdtemp(prefix="docker-", dir=folder.resolve()))
    process: subprocess.Popen[bytes] | None = None
    try:
        command = [
            *ends_with_us(),
            *(program, "--host", f"unix://{sockets}/docker.sock", "--pidfile", str(sockets / "pid")),
            *("--data-root", str(images), "--exec-root", str(sockets / "exec")),
            # Containers need this machine and nothing beyond it, and their ports are served by a proxy.
            *("--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"),
        ]
        environment = os.environ | {"PATH": f"{os.environ.get('PATH', '')}:{SBIN}"}
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches only us
            )
        ours = Docker(sockets / "docker.sock")
        deadline = time.monotonic() + START_SECONDS
        while not ours.answers():
            if process.poll() is not None or time.monotonic() > deadline:
                said = _tail(log.read_text(encoding="utf-8", errors="replace"))
                raise ToolError(f"the Docker daemon does not start on this machine (all it said is in {log}):\n{said}")
            time.sleep(0.05)
        yield ours
    finally:
        with undisturbed():
            if process is not None:
                _stop(process)
            for place in (sockets, images):
                shutil.rmtree(place, ignore_errors=True)
            if not had_bridge and _has_bridge():
                _remove_bridge()


def ends_with_us() -> list[str]:
    """What has a command end even if we are killed outright, where util-linux is there."""
    return ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _has_bridge() -> bool:
    return BRIDGE in {name for _, name in socket.if_nameindex()}


def _remove_bridge() -> None:
    """As `ip link delete` would."""
    with socket.socket() as any_socket, contextlib.suppress(OSError):
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh14x", BRIDGE.encode(), 0))  # down
        fcntl.ioctl(any_socket, _DELETE_BRIDGE, struct.pack("16s", BRIDGE.encode()))


def _tail(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip().splitlines()[-SHOWN_LINES:])

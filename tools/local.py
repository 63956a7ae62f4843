"""The whole of Tollgate on this machine: `python -m tools.local run|demo|stack`.

    run      MiniStack with the real template deployed to it and the demonstration loaded, until Ctrl-C
    demo     the same, but it ends when the demonstration has been shown
    stack    the same as run, with nothing loaded

While the stack is up, .local/stack.json says how to reach it. Tests take `local_stack()`.
"""

import argparse
import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from rich.console import Console

from tools import LOCAL, ROOT, ToolError
from tools.deploy import STACK_NAME, aws_arguments, build, deploy, resources_of
from tools.ministack import DEFAULT_PORT, REGION, aws_environment, ministack, port_from_environment

__all__ = ["Stack", "local_stack", "running_stack"]

STACK_FILE = "stack.json"

Step = Callable[[str], AbstractContextManager[Any]]


@dataclasses.dataclass(frozen=True)
class Stack:
    """A running stack.

    Attributes:
        api_url: `api_url + "/v1/..."` is a resource of the API.
        api_key: has the scope admin.
        endpoint_url: the local AWS.
        region: where the stack is on it.
        stack_name: the CloudFormation stack.
        resources: physical ids by logical id: table names, queue URLs, topic ARNs.
    """

    api_url: str
    api_key: str
    endpoint_url: str
    region: str
    stack_name: str
    resources: Mapping[str, str]

    @property
    def aws(self) -> dict[str, Any]:
        """The arguments with which `boto3.client` reaches the stack."""
        return aws_arguments(self.endpoint_url)


def _silently(_: str) -> AbstractContextManager[Any]:
    return contextlib.nullcontext()


@contextlib.contextmanager
def local_stack(
    port: int = 0,
    build_dir: Path = LOCAL / "build" / "test",
    log: Path | None = None,
    step: Step = _silently,
    source: Path = ROOT,
    *,
    holds_roles: bool = False,
) -> Iterator[Stack]:
    """Run the stack: MiniStack, the template built and deployed, an admin key.

    Args:
        port: of MiniStack; 0 takes a free one.
        build_dir: where sam builds and what it caches; not for two processes at once.
        log: what MiniStack prints (`ministack.log` in the build directory).
        step: is entered around each step, with its name.
        source: the repository, or the sources of another release of it: template.yaml, functions, layers and tools.
        holds_roles: whether a function may do what its role says and nothing else, as on AWS; it takes 0.3 ms a call.

    Raises:
        ToolError: a step fails; the message says which and what to do.
    """
    build_dir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as running:
        with step("start MiniStack"):
            server = ministack(port, log or build_dir / "ministack.log", holds_roles=holds_roles)
            endpoint_url = running.enter_context(server)
        with step("build"):
            template = build(build_dir, source / "template.yaml")
        with step("deploy"):
            deployment = deploy(endpoint_url, template)
        with step("make an admin key"):
            api_key = _mint_key(endpoint_url, deployment.resources["CatalogTable"], source)
        yield Stack(
            api_url=deployment.api_url,
            api_key=api_key,
            endpoint_url=endpoint_url,
            region=REGION,
            stack_name=STACK_NAME,
            resources=deployment.resources,
        )


def running_stack(state: Path = LOCAL) -> Stack:
    """Find the stack that `make run` has started, by its stack.json.

    Raises:
        ToolError: there is none.
    """
    file = state / STACK_FILE
    if not file.exists():
        raise ToolError("no stack is running: start one with `make run`, in another terminal")
    known = json.loads(file.read_text(encoding="utf-8"))
    return Stack(
        api_url=known["api_url"],
        api_key=known["api_key"],
        endpoint_url=known["aws_endpoint_url"],
        region=known["region"],
        stack_name=known["stack_name"],
        resources=resources_of(known["aws_endpoint_url"]),
    )


def _mint_key(endpoint_url: str, table: str, source: Path) -> str:
    """Make the first admin key as one does on AWS: in a process of its own, since it reads the environment."""
    command = [sys.executable, "-m", "tools.keys", "--table", table]
    environment = aws_environment(endpoint_url)
    made = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise ToolError(f"no admin key could be made:\n{made.stderr.strip()}")
    return made.stdout.strip()


class _Progress:
    """Shows each step with its seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        with self._console.status(f"{name} ..."):
            yield
        self._console.print(f"[green]✓[/] {name:<20} [dim]{time.monotonic() - started:5.1f} s[/]", highlight=False)


@contextlib.contextmanager
def _stack_file(stack: Stack, file: Path) -> Iterator[None]:
    """Say in stack.json how to reach the stack, as long as it is up."""
    content = {
        "api_url": stack.api_url,
        "api_key": stack.api_key,
        "aws_endpoint_url": stack.endpoint_url,
        "region": stack.region,
        "stack_name": stack.stack_name,
    }
    draft = file.with_suffix(".new")
    draft.touch(mode=0o600)
    draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    draft.replace(file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _run(mode: str, port: int, state: Path, console: Console) -> None:
    """Do what the command says, and leave nothing running."""
    progress = _Progress(console)
    state.mkdir(parents=True, exist_ok=True)
    stack_up = local_stack(port, state / "build" / "run", state / "ministack.log", progress)
    with stack_up as stack, _stack_file(stack, state / STACK_FILE):
        if mode != "stack":
            from tools.demo import load

            load(stack)
        if mode != "demo":
            _print_how_to_reach(stack, console)
            threading.Event().wait()


def _print_how_to_reach(stack: Stack, console: Console) -> None:
    """Say what can be done with the stack, in commands that work as they are printed."""
    key, url = f"-H 'Authorization: Bearer {stack.api_key}'", stack.api_url
    event = '{"id": "hello-1", "customer": "cust-0004", "feature": "requests", "quantity": "3"}'
    commands = [
        f"curl {key} '{url}/v1/customers/cust-0004/usage?feature=requests'",
        f"curl {key} -H 'Content-Type: application/json' -d '{event}' {url}/v1/events",
        f"curl {key} {url}/v1/customers/cust-0097/entitlements/cached",
    ]
    console.print(f"\n[bold]Tollgate is up[/] at {url}, its documents at {url}/docs")
    console.print("The key and all else is in .local/stack.json. Go on with:\n")
    for command in commands:
        console.print(f"  {command}\n", soft_wrap=True, highlight=False, markup=False)
    console.print("[bold]Ctrl-C ends it[/]; `make replay`, in another terminal, sends all events once more.")


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.local", description="Run Tollgate on this machine.")
    parser.add_argument("mode", choices=["run", "demo", "stack"], help="what to do once the stack is up")
    parser.add_argument("--port", type=int, help=f"of the local AWS (TOLLGATE_PORT, else {DEFAULT_PORT}; 0: any)")
    parser.add_argument("--state", type=Path, default=LOCAL, help="folder of stack.json, builds and logs (.local)")
    options = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    console = Console(soft_wrap=not sys.stdout.isatty())
    try:
        _run(options.mode, port_from_environment() if options.port is None else options.port, options.state, console)
    except ToolError as error:
        print(f"tollgate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        console.print("\nended; nothing is left running")
        return 0 if options.mode != "demo" else 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""DESIGN: dependencies point one way, and what is heavy or impure is imported where it is needed, and nowhere else."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

LAYER = ROOT / "layers/common"
CHAIN = ("kernel", "pricing", "catalog", "metering", "entitlements", "billing")
MAY_IMPORT = {
    **{context: {*CHAIN[: place + 1]} for place, context in enumerate(CHAIN)},
    "recovery": {"recovery", "kernel"},
    "billing": {*CHAIN, "recovery"},
    "api": {"api", "kernel"},
}
"""What of ours each part of the layer may import: itself, and what stands before it; billing's operations recover."""

IMPURE = {
    "boto3",
    "botocore",
    "pynamodb",
    "pydantic",
    "aws_lambda_powertools",
    "random",
    "secrets",
    "uuid",
    "time",
    "os",
}
CLOCKS = {"now", "utcnow", "today", "system_clock", "monotonic", "perf_counter"}
SOURCES = sorted((LAYER / "tollgate").rglob("*.py"))
PURE_BILLING = {"announcements.py", "invoices.py", "lines.py", "wallet.py", "payments.py"}
MODELS = [path for path in SOURCES if path.name == "model.py" or path.name in PURE_BILLING]
FUNCTIONS = sorted(ROOT.glob("functions/*/app.py"))


def shown(path: Path) -> str:
    """A source file's name in the layer or the repository."""
    return str(path.relative_to(LAYER / "tollgate" if path.is_relative_to(LAYER) else ROOT))


def imports(path: Path, *, late: bool = True) -> Iterator[str]:
    """The modules that a source file imports by their full names; without `late`, at import time only."""
    nodes = ast.walk(ast.parse(path.read_text())) if late else at_import_time(ast.parse(path.read_text()))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def at_import_time(node: ast.AST) -> Iterator[ast.AST]:
    """A module's nodes outside functions and `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from at_import_time(child)


def importers(package: str, *, late: bool = True) -> set[str]:
    """The source files of the layer and the functions that import a package or something in it."""
    return {
        shown(path)
        for path in [*SOURCES, *FUNCTIONS]
        if any(f"{module}.".startswith(f"{package}.") for module in imports(path, late=late))
    }


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_dependencies_point_one_way(path: Path) -> None:
    """From billing down to the kernel; recovery and api know only the kernel."""
    ours = {module.split(".")[1] for module in imports(path) if module.startswith("tollgate.")}
    assert ours <= MAY_IMPORT.get(path.relative_to(LAYER / "tollgate").parts[0], set())


def test_the_layer_imports_nothing_of_ours_but_itself() -> None:
    """Functions wire; the layer is deployed without functions, tools and tests."""
    assert importers("functions") | importers("tools") | importers("tests") == set()


def test_pydantic_stays_at_the_boundary() -> None:
    """In the schemas; the api has it through Powertools, and late."""
    assert {Path(name).name for name in importers("pydantic") if not name.startswith("api/")} <= {"schema.py"}
    assert {name for name in importers("pydantic", late=False) if name.startswith("api/")} == set()


def test_the_api_imports_late_what_brings_pydantic_with_it() -> None:
    """Functions that read their few inputs themselves never pay for it."""
    heavy = "aws_lambda_powertools.event_handler.middlewares.openapi_validation"
    assert importers(heavy) == {"api/app.py"}
    assert importers(heavy, late=False) == set()


def test_pynamodb_stays_in_the_stores() -> None:
    """Its last release is old: what leans on it is easily found."""
    names = importers("pynamodb")
    assert {Path(name).name for name in names if not name.endswith("store.py")} == {"dynamodb.py"}
    assert {name for name in names if name.endswith("dynamodb.py")} == {"kernel/dynamodb.py"}


def test_only_the_api_and_the_functions_know_of_http_events() -> None:
    """What can be used from a queue or a schedule does not raise HTTP errors."""
    names = importers("aws_lambda_powertools.event_handler")
    assert {name.split("/")[0] for name in names} == {"api", "functions"}


def test_services_work_over_protocols() -> None:
    """A use case runs on any store that has the methods."""
    services = [path for path in SOURCES if path.name == "service.py"]
    assert services
    assert not [shown(path) for path in services if any(".store." in f"{module}." for module in imports(path))]


@pytest.mark.parametrize("path", MODELS, ids=shown)
def test_a_model_is_pure(path: Path) -> None:
    """No AWS, no validation library, no chance and no clock: the same in, the same out."""
    assert {module.split(".")[0] for module in imports(path)} & IMPURE == set()
    names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    assert (names | {module.rpartition(".")[2] for module in imports(path)}) & CLOCKS == set()


@pytest.mark.parametrize(
    "function", ["usage", "alerts", "outbox", "entitlements", "authorizer", "retry_processor", "error_report"]
)
def test_a_cold_start_of_a_hot_function_does_not_import_pydantic(function: str) -> None:
    """In a Python of its own, as Lambda starts one."""
    code = "import app, sys; print(sorted({'pydantic', 'pydantic_core'} & set(sys.modules)))"
    path = os.pathsep.join([str(LAYER), str(ROOT / "functions" / function)])
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_verifies_tokens_is_imported_late() -> None:
    """It lies in a layer that the authorizer alone has, and only where the deployment has an issuer."""
    assert importers("jwt") == {"catalog/tokens.py"}
    assert importers("tollgate.catalog.tokens") == {"functions/authorizer/app.py"}
    assert importers("tollgate.catalog.tokens", late=False) == set()


def test_stripes_library_is_imported_by_its_provider_alone_and_late() -> None:
    """It lies in a layer that most functions lack, and takes a third of a second."""
    assert importers("stripe") == {"billing/stripe_provider.py"}
    assert importers("stripe", late=False) == set()

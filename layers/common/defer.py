"""What other people's modules do when they are imported, put off until it is needed, when the layer is built.

A module named below gives up some of its imports, or values that it computes: a function that uses one gets it first,
and who asks the module for it gets it by its `__getattr__` (PEP 562). What a module offers and does stays the same;
what it loads for it does not. Python 3.15 has this for imports as `lazy import` (PEP 810).
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["DEFERRED", "defer"]

OWN: Final = ("*",)
"""All that a package only offers from its own modules."""

DEFERRED: Final[Mapping[str, tuple[str, ...]]] = {
    # Packages that offer the names of many modules, of which a function needs a few.
    "aws_lambda_powertools/__init__.py": OWN,
    "aws_lambda_powertools/event_handler/__init__.py": OWN,
    "aws_lambda_powertools/event_handler/openapi/__init__.py": OWN,
    "aws_lambda_powertools/utilities/data_classes/__init__.py": OWN,
    # What writes documentation, of which the layer's botocore has none (slim.py).
    "botocore/docs/__init__.py": ("botocore.docs.service",),
    "botocore/docs/docstring.py": (
        "botocore.docs.bcdoc.restdoc",
        "botocore.docs.method",
        "botocore.docs.paginator",
        "botocore.docs.waiter",
    ),
    # What only some configurations, answers or failures need.
    "aws_lambda_powertools/logging/logger.py": ("aws_lambda_powertools.utilities.jmespath_utils",),
    "aws_lambda_powertools/middleware_factory/factory.py": ("aws_lambda_powertools.tracing",),
    "botocore/client.py": ("botocore.paginate", "botocore.retries.adaptive", "botocore.waiter"),
    "botocore/compat.py": ("IPV6_ADDRZ_RE", "botocore.vendored.six", "dateutil.tz", "shlex"),
    "botocore/configloader.py": ("configparser", "shlex"),
    "botocore/credentials.py": ("dateutil.parser", "dateutil.tz"),
    "botocore/httpsession.py": ("botocore.compat.IPV6_ADDRZ_RE",),
    "botocore/regions.py": ("jmespath",),
    "botocore/session.py": ("botocore.monitoring", "botocore.paginate", "botocore.waiter"),
    "botocore/tokens.py": ("dateutil.parser", "dateutil.tz"),
    "botocore/utils.py": (
        *("botocore.compat.IPV6_ADDRZ_RE", "dateutil.parser", "dateutil.tz", "email.message", "tempfile"),
    ),
    "urllib3/http2/__init__.py": ("importlib.metadata",),
    "urllib3/util/url.py": ("_IPV6_RE",),
}
"""What modules, by their paths, do not import or compute at once any more."""

_Function = ast.FunctionDef | ast.AsyncFunctionDef

_GETATTR: Final = """
def __getattr__(name):
    if name not in _DEFERRED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = _DEFERRED[name]()
    return value
"""


@dataclass(frozen=True)
class _Late:
    """A name that a module gets later: by an import, or for a value that it computes.

    Attributes:
        origins: what it is given up by: the modules that it may be or comes from, or its own name.
        statement: makes it a variable of a function.
        expression: is its value.
    """

    name: str
    origins: tuple[str, ...]
    statement: str
    expression: str


def defer(source: str, module: str, unwanted: Iterable[str]) -> str:
    """The source of a module that does not import some modules, or compute some values, at once.

    Raises:
        ValueError: it has not one of them, or needs it when it is imported itself.
    """
    tree = ast.parse(source)
    at_once = {node.id for node in _at_once(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    known = [
        *_imports(tree, ".".join(Path(module).parts[:-1])),
        *_values(tree, ".".join(Path(module).with_suffix("").parts)),
    ]
    if unwanted == OWN:
        top = Path(module).parts[0]
        found = {one.name: one for one in known if one.name not in at_once and _is_offered(one, top)}
    else:
        found = {one.name: one for one in known if set(unwanted) & set(one.origins)}
        missing = set(unwanted).difference(*(one.origins for one in found.values()))
        if faults := missing | (found.keys() & at_once):
            raise ValueError(f"{module} has not, or needs at once: {', '.join(sorted(faults))}")
    for function in [node for node in _at_once(tree) if isinstance(node, _Function)]:
        stored = {
            node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        if faults := found.keys() & (stored | {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}):
            raise ValueError(f"{module} has a variable of the name {', '.join(sorted(faults))}")
        function.body = _prepared(function.body, found)
    tree.body = [kept for node in tree.body if (kept := _without(node, found)) is not None]
    table = "".join(f"    {one.name!r}: lambda: {one.expression},\n" for one in found.values())
    return f"{ast.unparse(tree)}\n\n_DEFERRED = {{\n{table}}}\n{_GETATTR}"


def _is_offered(one: _Late, top: str) -> bool:
    # A name like that of its module would be the module once that is loaded.
    return one.origins[0].partition(".")[0] == top and one.origins[0].rpartition(".")[2] != one.name


def _imports(tree: ast.Module, package: str) -> Iterator[_Late]:
    for node in tree.body:
        if isinstance(node, ast.Import):
            for name in [each.name for each in node.names if not each.asname]:
                yield _Late(name.partition(".")[0], (name,), f"import {name}", f"__import__({name!r})")
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            for each in node.names:
                name, attribute = each.asname or each.name, each.name
                statement = f"from {module} import {attribute} as {name}"
                found = f"__import__({module!r}, fromlist=[{attribute!r}]).{attribute}"
                yield _Late(name, (module, f"{module}.{attribute}"), statement, found)


def _values(tree: ast.Module, module: str) -> Iterator[_Late]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            yield _Late(name, (name,), f"from {module} import {name}", ast.unparse(node.value))


def _at_once(node: ast.AST) -> Iterator[ast.AST]:
    """What is run when a module is imported: all but the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        yield child
        if isinstance(child, _Function):
            for part in (*child.decorator_list, child.args, *([child.returns] if child.returns else [])):
                yield part
                yield from _at_once(part)
        else:
            yield from _at_once(child)


def _prepared(statements: list[ast.stmt], found: Mapping[str, _Late]) -> list[ast.stmt]:
    """Statements, each that uses a name after the one that gets it."""
    made: list[ast.stmt] = []
    for statement in statements:
        for block in _blocks(statement):
            block[:] = _prepared(block, found)
        used = sorted(found.keys() & set(_own_names(statement)))
        made += [*ast.parse("\n".join(found[name].statement for name in used)).body, statement]
    return made


def _own_names(node: ast.AST) -> Iterator[str]:
    """The names in a statement but for those in the statements that stand in it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Name):
            yield child.id
        if not isinstance(child, ast.stmt):
            yield from _own_names(child)


def _blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """The statements that stand in another, by block."""
    for part in (node, *getattr(node, "handlers", ()), *getattr(node, "cases", ())):
        for name in ("body", "orelse", "finalbody"):
            if isinstance(block := getattr(part, name, None), list):
                yield block


def _without(node: ast.stmt, found: Mapping[str, _Late]) -> ast.stmt | None:
    """A statement of a module without the names that it gets later."""
    if isinstance(node, ast.Import):
        modules = {one.origins[0] for one in found.values()}
        node.names = [each for each in node.names if each.name not in modules]
    elif isinstance(node, ast.ImportFrom):
        node.names = [each for each in node.names if (each.asname or each.name) not in found]
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return None if node.targets[0].id in found else node
    else:
        return node
    return node if node.names else None

"""The house: a room imports only from lower floors, and only kernels know numba and cupy. Read from the sources."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import cgopt

PACKAGE = Path(cgopt.__file__).parent
FLOOR = {"kernels": 1, "arrays": 1, "arguments": 1, "status": 1}
FLOOR |= {"operators": 2, "nn": 2, "preconditioners": 3, "linear": 3, "optimize": 4}
# These stand beside the floors: nothing imports them.
BESIDE = {"gallery", "testing", "cli", "demo", "configuration", "__main__", "__init__"}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def imported_modules(path):
    """Absolute names of the modules that a file imports, wherever in it."""
    here = ["cgopt", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            module = ".".join(base + ([node.module] if node.module else []))
            yield module, node.lineno
            if module == "cgopt":  # from . import room
                yield from ((f"cgopt.{alias.name}", node.lineno) for alias in node.names)


def room(path):
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_import_from_lower_floors_only(path):
    here = room(path)
    assert here in FLOOR or here in BESIDE, f"the room {here} has no floor in this test"
    for module, line in imported_modules(path):
        top, _, rest = module.partition(".")
        if top in ("numba", "llvmlite", "cupy", "cupyx"):
            assert here == "kernels", f"line {line} imports {top} outside kernels/"
        if top == "cgopt" and rest and here in FLOOR:
            other = rest.partition(".")[0]
            if other in FLOOR or other in BESIDE:
                assert other in FLOOR, f"line {line}: {here} imports {other}, which stands beside the floors"
                assert FLOOR[other] <= FLOOR[here], f"line {line}: {here} imports {other}, a floor above"


def test_preconditioners_do_not_import_solvers():
    for path in (PACKAGE / "preconditioners").glob("*.py"):
        assert not [m for m, _ in imported_modules(path) if m.startswith("cgopt.linear")]


def test_test_reads_what_it_claims_to():
    names = {name for name, _ in imported_modules(PACKAGE / "linear" / "cg.py")}
    assert {"cgopt.operators", "cgopt.preconditioners", "numpy", "cgopt.linear.one"} <= names
    assert any(name == "numba" for name, _ in imported_modules(PACKAGE / "kernels" / "cpu" / "compile.py"))


def test_the_front_end_imports_numba_in_its_kernels_only():
    front = PACKAGE.parent / "cgopt_rl"
    for path in sorted(front.rglob("*.py")):
        inside = path.relative_to(front).parts[0] == "kernels"
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in names:
                top = name.partition(".")[0]
                assert inside or top not in ("numba", "llvmlite", "cupy"), f"{path} imports {top} outside kernels/"


def test_nothing_below_imports_the_front_end():
    for path in SOURCES:
        assert not [m for m, _ in imported_modules(path) if m.partition(".")[0] == "cgopt_rl"], path

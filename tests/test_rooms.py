"""The rooms of the house: who imports whom, and how long the method is."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("inference", "evaluation", "training")
"""Each may import those before it."""
FLOORS = {
    "inference.geometry": 0,
    "inference.version": 0,
    "inference.formats": 1,
    "inference.networks": 1,
    "inference.method": 2,
    "inference.runner": 3,
    "inference": 4,
    "evaluation": 5,
    "evaluation.harness": 6,
    "training.synthesis": 6,
    "training": 7,
}
"""A room may import itself and those on lower floors: so there is no arrow up, and no circle."""
HEAVY = ("torch", "lightning", "openvino", "training")
METHOD_LINES = 700


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imports(path: Path) -> Iterator[str]:
    """Absolute names of all modules that a file imports, at its top or within a function."""
    package = ".".join(path.relative_to(ROOT).parent.parts).split(".")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                yield submodule if _exists(submodule) else base


def _exists(module: str) -> bool:
    path = ROOT / module.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def _room(module: str) -> str:
    return max((room for room in FLOORS if f"{module}.".startswith(f"{room}.")), key=len)


def _files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


FILES = [path for package in PACKAGES for path in _files(package)]


@pytest.mark.parametrize("path", FILES, ids=_module)
def test_imports_lead_down_or_stay_in_their_room(path: Path) -> None:
    room = _room(_module(path))
    for name in _imports(path):
        if name.partition(".")[0] in PACKAGES:
            other = _room(name)
            assert other == room or FLOORS[other] < FLOORS[room], f"{room} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=_module)
def test_the_product_imports_neither_tests_nor_benchmarks(path: Path) -> None:
    assert not {name.partition(".")[0] for name in _imports(path)} & {"tests", "benchmarks", "test_data"}


@pytest.mark.parametrize("path", _files("inference"), ids=_module)
def test_inference_names_itself_nowhere(path: Path) -> None:
    """Its folder may be called otherwise: relative imports only."""
    assert not [
        node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "inference"
            and not node.level)
        or (isinstance(node, ast.Import) and any(a.name.partition(".")[0] == "inference" for a in node.names))
    ]  # fmt: skip


def test_evaluation_loads_neither_training_nor_an_engine() -> None:
    modules = [_module(path) for path in _files("evaluation")]
    code = f"import sys, {', '.join(modules)}; print(*({set(HEAVY)!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True,
    )  # fmt: skip
    assert done.stdout.split() == []


def test_the_method_is_short_enough_to_be_read_in_one_sitting() -> None:
    files = [
        ROOT / "inference" / "geometry.py",
        *_files("inference/method"),
        ROOT / "inference" / "networks" / "vnet.py",
    ]
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files) < METHOD_LINES

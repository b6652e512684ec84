"""`pip install .`: the wheel is whole, and the command it installs works from any folder; one version."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

from inference.version import __version__

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("inference", "evaluation", "weights", "pyproject.toml", "setup.py", "README.md", "LICENSE")
SAMPLE = ROOT / "test_data" / "input" / "thick_slices.nii.gz"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, without a network."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(target),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the programs of an environment that holds this wheel and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    return folder / "bin"


def _run(folder: Path, *command: object) -> subprocess.CompletedProcess[str]:
    """Run from `folder`; the packages that ours needs are those of the tests."""
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def test_the_wheel_holds_every_module_the_weights_and_both_licences(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, package in (("inference", "nested_vnet"), ("evaluation", "nested_vnet/evaluation")):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert f"{package}/{path.relative_to(ROOT / folder).as_posix()}" in names
    assert {"nested_vnet/runner/page.html", "nested_vnet/py.typed", "nested_vnet/weights/SHA256SUMS"} <= names
    assert {f"nested_vnet/weights/{stage}.safetensors" for stage in ("kidney", "tumor")} <= names
    assert sum("/licenses/" in name for name in names) == 2
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"nested_vnet"}


def test_the_installed_command_segments_as_the_repository_does(installed: Path, tmp_path: Path) -> None:
    done = _run(tmp_path, installed / "nested-vnet", "segment", "--input", SAMPLE, "--output", "out")
    assert done.returncode == 0, done.stderr
    ours = [sys.executable, "-m", "inference", "--input", str(SAMPLE), "--output", str(tmp_path / "ours")]
    subprocess.run(ours, cwd=ROOT, check=True)
    assert (tmp_path / "out" / SAMPLE.name).read_bytes() == (tmp_path / "ours" / SAMPLE.name).read_bytes()


def test_the_installed_command_evaluates(installed: Path, tmp_path: Path) -> None:
    reference = ROOT / "test_data" / "reference"
    done = _run(tmp_path, installed / "nested-vnet", "evaluate", reference, reference)
    assert done.returncode == 0, done.stderr
    assert "1.000" in done.stdout


@pytest.mark.parametrize("command", ["segment", "serve", "report", "evaluate", "rank"])
def test_each_command_has_help(installed: Path, tmp_path: Path, command: str) -> None:
    done = _run(tmp_path, installed / "nested-vnet", command, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: nested-vnet {command} ")


def test_usage_and_version(installed: Path, tmp_path: Path) -> None:
    done = _run(tmp_path, installed / "nested-vnet", "--version")
    assert done.stdout == f"nested-vnet {__version__}\n"
    wrong = _run(tmp_path, installed / "nested-vnet", "segmnet")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "no command 'segmnet'" in wrong.stderr
    script = "import importlib.metadata as m; print(m.version('nested-vnet-kits19'))"
    assert _run(tmp_path, installed / "python", "-c", script).stdout.strip() == __version__


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("Dockerfile", r"^ARG VERSION=(.+)$"),
        ("CITATION.cff", r'^version: "?([^"\n]+)"?$'),
        ("CHANGELOG.md", r"^## (\d[^ \n]*)"),
    ],
)
def test_files_that_cannot_import_the_version_repeat_it(file: str, pattern: str) -> None:
    found = re.search(pattern, (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    assert found[1] == __version__


def test_every_licence_is_named_where_licences_are_looked_for() -> None:
    expression = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["license"]
    assert expression == "Apache-2.0 AND CC-BY-NC-SA-4.0"
    assert f'org.opencontainers.image.licenses="{expression}"' in (ROOT / "Dockerfile").read_text()
    assert "CC-BY-NC-SA-4.0" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")

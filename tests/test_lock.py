"""requirements.lock holds what pyproject.toml asks for, with hashes."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import lock

ROOT = Path(__file__).resolve().parent.parent
ENGINES = {"torch", "openvino"}


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "lock.py"), *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False)


def _names(*extras: str) -> set[str]:
    return {pin.name for pin in lock.select(lock.read_lock(), extras)}


def _normal(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def test_the_lock_holds_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {_normal(r) for r in project["dependencies"]} <= _names()
    for extra, requirements in project["optional-dependencies"].items():
        assert {_normal(r) for r in requirements} <= _names(extra), extra


def test_all_packages_but_torch_have_hashes() -> None:
    assert [pin.name for pin in lock.read_lock() if not pin.hashes] == ["torch"]


def test_requirements_txt_is_the_locks_part_of_inference() -> None:
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert text == lock.requirements()
    assert {"torch", "openvino", "numpy", "highdicom"} <= {_normal(line) for line in text.splitlines()[1:]}
    assert "lightning" not in text


def test_an_engine_or_training_comes_only_where_asked_for() -> None:
    assert not _names("evaluate", "dicom") & (ENGINES | {"lightning"})
    assert _names("openvino") & ENGINES == {"openvino"}
    assert not _names("openvino", "torch") & {"lightning", "aiohttp", "pytest", "highdicom"}


def test_a_package_of_the_base_can_be_asked_for_by_name() -> None:
    pins = lock.select(lock.read_lock(), ["dicom"], with_base=False, names=["pydicom"])
    assert {pin.name for pin in pins} >= {"highdicom", "pydicom"}
    assert "numpy" not in {pin.name for pin in pins}
    assert "no such package in the lock: nonesuch" in _run("--with", "nonesuch").stderr


def test_the_parts_make_up_the_whole() -> None:
    hashed, rest, plain = (
        _run(*mode, "torch", "openvino").stdout for mode in ([], ["--unhashed"], ["--plain"])
    )
    assert rest.startswith("torch==")
    pins = [line.removesuffix(" \\") for line in (hashed + rest).splitlines() if not line.startswith(" ")]
    assert sorted(pins) == sorted(plain.splitlines())


def test_an_unknown_extra_ends_with_2() -> None:
    done = _run("dicon")
    assert done.returncode == 2
    assert "dicon" in done.stderr
    assert "openvino" in done.stderr

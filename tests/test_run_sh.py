"""The one door says what it can do, and says no clearly."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "run.sh"), *arguments],
        capture_output=True,
        encoding="utf-8",
        check=False,
        env={**os.environ, **environment},
    )


def test_help_lists_the_commands() -> None:
    done = _run("--help")
    assert done.returncode == 0
    commands = ("segment", "docker", "build", "save", "test", "evaluate", "rank", "benchmark", "train")
    for command in commands:
        assert f"./run.sh {command}" in done.stdout


@pytest.mark.parametrize("verb", ["demo", "test", "docker", "build", "save"])
def test_each_verb_has_help_that_does_nothing(verb: str, tmp_path: Path) -> None:
    done = _run(verb, "--help", DOCKER="no-such-engine", VENV=str(tmp_path / "venv"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"./run.sh {verb}" if verb != "demo" else "./run.sh [demo]")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["segment", "evaluate", "rank", "train", "benchmark"])
def test_verbs_in_python_have_its_help(verb: str, tmp_path: Path) -> None:
    done = _run(verb, "--help", VENV=str(fake_environment(tmp_path)))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: python -m ")


def fake_environment(folder: Path) -> Path:
    """A VENV that run.sh finds complete: its Python is the tests' own."""
    python, installed = folder / "venv" / "bin" / "python", folder / "venv" / "installed"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    installed.mkdir()
    for extra in ("openvino", "torch", "dicom", "evaluate", "train", "dev"):
        (installed / extra).write_bytes((ROOT / "requirements.lock").read_bytes())
    return folder / "venv"


def test_an_unknown_command_ends_with_2() -> None:
    done = _run("segmnet")
    assert done.returncode == 2
    assert "./run.sh segment" in done.stderr + done.stdout


def test_docker_without_an_input_folder_ends_with_2(tmp_path: Path) -> None:
    done = _run("docker", str(tmp_path / "absent"), str(tmp_path / "out"))
    assert done.returncode == 2
    assert "absent" in done.stderr


def _fake_engine(folder: Path) -> tuple[Path, Path]:
    """A stand-in for Docker that writes down what it is asked for."""
    calls, engine = folder / "calls", folder / "engine"
    engine.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    engine.chmod(0o755)
    return engine, calls


def test_docker_builds_what_is_here_then_runs_it_without_network_or_rights(tmp_path: Path) -> None:
    engine, calls = _fake_engine(tmp_path)
    environment = {key: value for key, value in os.environ.items() if key != "IMAGE"}
    done = subprocess.run(
        [str(ROOT / "run.sh"), "docker", str(tmp_path), str(tmp_path / "out"), "--paper"],
        capture_output=True, encoding="utf-8", check=False, env={**environment, "DOCKER": str(engine)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    build, run = calls.read_text().splitlines()
    assert build.startswith("build ")
    assert run.startswith("run ")
    assert run.endswith("nested-vnet-kits19 --paper")
    for flag in (
        "--network none",
        "--read-only",
        "--cap-drop ALL",
        "no-new-privileges",
        f"--user {os.getuid()}:",
    ):
        assert flag in run
    assert f"-v {tmp_path}:/input:ro" in run


def test_build_shows_what_the_engine_said_only_where_it_failed(tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    for code in (0, 1):
        engine.write_text(f"#!/bin/sh\necho a thousand lines\nexit {code}\n")
        engine.chmod(0o755)
        done = _run("build", DOCKER=str(engine))
        assert done.returncode == 2 * code
        assert ("a thousand lines" in done.stderr) == bool(code)
        assert done.stdout == ""


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user may look into."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("setpriv"), reason="needs root, to become another user"
)
def test_an_output_folder_of_another_user_is_refused_with_its_owner(public_folder: Path) -> None:
    if not all(folder.stat().st_mode & 0o001 for folder in ROOT.parents):
        pytest.skip(f"{ROOT}: another user may not look into it")
    command = [
        "setpriv",
        "--reuid=4711",
        "--clear-groups",
        str(ROOT / "run.sh"),
        "docker",
        str(public_folder),
    ]
    done = subprocess.run(
        [*command, str(public_folder)], capture_output=True, encoding="utf-8", check=False,
        env={**os.environ, "DOCKER": "true", "IMAGE": "any"},
    )  # fmt: skip
    assert done.returncode == 2
    assert f"{public_folder}: belongs to user 0, and you are user 4711" in done.stderr


def test_docker_runs_a_named_image_as_it_is(tmp_path: Path) -> None:
    engine, calls = _fake_engine(tmp_path)
    done = _run("docker", str(tmp_path), str(tmp_path / "out"), DOCKER=str(engine), IMAGE="theirs")
    assert done.returncode == 0, done.stderr
    (run,) = calls.read_text().splitlines()
    assert run.endswith(" theirs")


def test_a_machine_without_python_is_told_so(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "env", "dirname", "cat", "cksum", "grep", "sha256sum", "cut", "mkdir"):
        found = next((Path(p, tool) for p in ("/usr/bin", "/bin") if Path(p, tool).exists()), None)
        if found is not None:
            (tools / tool).symlink_to(found)
    done = _run("segment", str(tmp_path), str(tmp_path), PATH=str(tools), VENV=str(tmp_path / "venv"))
    assert done.returncode != 0
    assert "Python" in done.stderr


def test_save_into_a_folder_that_is_not_there_ends_with_2(tmp_path: Path) -> None:
    done = _run("save", str(tmp_path / "absent" / "image.tar.gz"))
    assert done.returncode == 2
    assert "absent: no such folder" in done.stderr


def test_save_without_an_engine_ends_with_2_and_writes_nothing(tmp_path: Path) -> None:
    done = _run("save", str(tmp_path / "image.tar.gz"), DOCKER="no-such-engine")
    assert done.returncode == 2
    assert "no-such-engine not found" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_save_leaves_no_half_written_file(tmp_path: Path) -> None:
    engine = tmp_path / "engine"  # builds, then fails while it saves
    engine.write_text('#!/bin/sh\nif [ "$1" = save ]; then echo half of it; exit 1; fi\n')
    engine.chmod(0o755)
    done = _run("save", str(tmp_path / "image.tar.gz"), DOCKER=str(engine))
    assert done.returncode == 2
    assert "image.tar.gz: not written" in done.stderr
    assert list(tmp_path.iterdir()) == [engine]

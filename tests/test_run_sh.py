"""The one door says what it can do, and says no clearly."""

import os
import subprocess
from pathlib import Path

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
    commands = ("segment", "docker", "build", "save", "harness", "test", "evaluate", "benchmark", "train")
    for command in commands:
        assert f"./run.sh {command}" in done.stdout


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


def test_audit_asks_about_the_images_packages_and_passes_its_answer_on(tmp_path: Path) -> None:
    engine, auditor = tmp_path / "engine", tmp_path / "venv-audit" / "bin" / "pip-audit"
    engine.write_text("#!/bin/sh\necho click==8.5.1; echo torch==2.13.0+cpu\n")
    auditor.parent.mkdir(parents=True)
    auditor.write_text('#!/bin/sh\necho "$@"; cat; exit 1\n')
    for file in (engine, auditor):
        file.chmod(0o755)
    known = tmp_path / "venv-audit" / "installed" / "tests" / "audit-requirements.txt"
    known.parent.mkdir(parents=True)
    known.write_bytes((ROOT / "tests" / "audit-requirements.txt").read_bytes())  # nothing to install
    done = _run("audit", DOCKER=str(engine), VENV=str(tmp_path / "venv"))
    assert done.returncode == 1, done.stderr
    options, *packages = done.stdout.splitlines()
    assert "--strict" in options.split()
    assert packages == ["click==8.5.1", "torch==2.13.0"]


def test_save_leaves_no_half_written_file(tmp_path: Path) -> None:
    engine = tmp_path / "engine"  # builds, then fails while it saves
    engine.write_text('#!/bin/sh\nif [ "$1" = save ]; then echo half of it; exit 1; fi\n')
    engine.chmod(0o755)
    done = _run("save", str(tmp_path / "image.tar.gz"), DOCKER=str(engine))
    assert done.returncode == 2
    assert "image.tar.gz: not written" in done.stderr
    assert list(tmp_path.iterdir()) == [engine]

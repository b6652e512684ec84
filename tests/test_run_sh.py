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
    for command in ("segment", "docker", "build", "test", "benchmark", "train"):
        assert f"./run.sh {command}" in done.stdout


def test_an_unknown_command_ends_with_2() -> None:
    done = _run("segmnet")
    assert done.returncode == 2
    assert "./run.sh segment" in done.stderr + done.stdout


def test_docker_without_an_input_folder_ends_with_2(tmp_path: Path) -> None:
    done = _run("docker", str(tmp_path / "absent"), str(tmp_path / "out"))
    assert done.returncode == 2
    assert "absent" in done.stderr


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

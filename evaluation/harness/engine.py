"""One container run under an organiser's rules: no network, no rights, limited time, memory and processes."""

import contextlib
import os
import shlex
import shutil
import subprocess
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from inference.runner.cases import UsageError

DOCKER = os.environ.get("DOCKER", "docker")
NOBODY = 12345
"""A user that no image knows."""
REMOVAL_SECONDS = 30.0
"""An engine that has not removed a container by then is not waited for."""
LOG_TAIL_BYTES = 4096
FLAGS = tuple(
    word
    for line in Path(__file__).with_name("hardening.flags").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
    for word in line.split()
)
"""The engine's flags that hold for every container."""
EXIT_ENGINE_FAILED = 125
"""Docker's own failure, none of the container's."""


@dataclass(frozen=True)
class Limits:
    """What a container may use.

    Attributes:
        seconds: wall time a case; a batch of N cases gets N times as much.
        memory: as the engine writes it; there is no swap beside it.
        pids: processes and threads.
        user: who it runs as; None leaves that to the image.
    """

    seconds: float = 600.0
    memory: str = "4g"
    pids: int = 128
    user: str | None = f"{os.getuid() or NOBODY}:{os.getgid() or NOBODY}"


@dataclass(frozen=True)
class Contestant:
    """An image, and what its run needs beside the rules: engine flags (--gpus all), its own arguments."""

    image: str
    flags: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """How a run ended.

    Attributes:
        exit_code: None where it was stopped at the time limit.
        seconds: wall time.
        out_of_memory: whether the kernel ended it at the memory limit.
        log: the end of what it wrote to stderr.
    """

    exit_code: int | None
    seconds: float
    out_of_memory: bool
    log: str


def is_available() -> bool:
    """Whether there is an engine that answers."""
    return shutil.which(DOCKER) is not None and _engine("info").returncode == 0


def find_or_build(name: str) -> str:
    """The image of this name, or the one built from this folder's Dockerfile (BUILD_ARGS: further flags).

    Raises:
        UsageError: neither is there, or the build failed.
    """
    folder = Path(name)
    if (folder / "Dockerfile").is_file():
        image = f"harness-{folder.resolve().name.lower()}"
        flags = shlex.split(os.environ.get("BUILD_ARGS", ""))
        if _engine("build", *flags, "-t", image, str(folder), show=True).returncode != 0:
            raise UsageError(f"{folder}: the image cannot be built; see above")
        return image
    if _engine("image", "inspect", name).returncode != 0:
        raise UsageError(
            f"{name}: no such image, and no folder with a Dockerfile. Load, pull or build it first"
        )
    return name


def digest_of(image: str) -> str:
    """The digest that an image was pulled by, else its own ID; "" where the engine does not say."""
    form = "{{if .RepoDigests}}{{index .RepoDigests 0}}{{else}}{{.Id}}{{end}}"
    done = _engine("image", "inspect", "--format", form, image)
    return done.stdout.strip() if done.returncode == 0 else ""


def hardening(limits: Limits) -> list[str]:
    """The engine's flags for these rules."""
    return [
        *FLAGS,
        *["--pids-limit", str(limits.pids)],  # the last one holds
        *["--memory", limits.memory, "--memory-swap", limits.memory],
        *(["--user", limits.user] if limits.user else []),
    ]


def run_container(
    contestant: Contestant, source: Path, output: Path, limits: Limits, *, seconds: float
) -> Run:
    """Run a container on `source` (read-only) until it ends or its seconds are over.

    Raises:
        UsageError: the engine could not start it at all.
    """
    name = f"harness-{uuid.uuid4().hex[:12]}"
    mounts = ["-v", f"{source.resolve()}:/input:ro", "-v", f"{output.resolve()}:/output"]
    command = [DOCKER, "run", "--name", name, "--log-driver", "none", "--pull", "never", *hardening(limits)]
    command += [*mounts, *contestant.flags, contestant.image, *contestant.arguments]
    start = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        try:
            exit_code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            exit_code = None
        finally:
            elapsed = time.monotonic() - start
            out_of_memory = (
                _engine("inspect", "--format", "{{.State.OOMKilled}}", name).stdout.strip() == "true"
            )
            _remove(name, process)
        log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
        text = log.read().decode(errors="replace")
    if exit_code == EXIT_ENGINE_FAILED:
        raise UsageError(f"{contestant.image}: the engine cannot run it ({last_line(text)})")
    return Run(exit_code, elapsed, out_of_memory, text)


def _remove(name: str, process: "subprocess.Popen[bytes]") -> None:
    """End and remove a container, also one that the engine is still creating, and wait until it is gone."""
    while process.poll() is None:
        _engine("kill", name)  # removed below, once it has ended
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
    until = time.monotonic() + REMOVAL_SECONDS
    listing = ("ps", "--all", "--quiet", "--filter", f"name={name}")  # the last to know
    while time.monotonic() < until:
        listed = _engine(*listing)
        if listed.returncode == 0 and not listed.stdout.strip():
            return  # a list that fails, as beside other removals, says nothing
        _engine("rm", "--force", name)
        time.sleep(0.2)


def last_line(text: str) -> str:
    """The last line of a log that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "nothing")


def _engine(*arguments: str, show: bool = False) -> subprocess.CompletedProcess[str]:
    return subprocess.run([DOCKER, *arguments], capture_output=not show, encoding="utf-8", check=False)

"""Which build this is, and what it runs on: for reports."""

import os
import platform
import subprocess
from pathlib import Path

from ..version import NAME, __version__

COMMIT_VARIABLE = "SOURCE_COMMIT"
"""Environment variable: the commit that an image was built from."""
GIT_SECONDS = 5
CPU_INFO = Path("/proc/cpuinfo")


def product() -> dict[str, str | None]:
    """Name, version and commit; without the commit if it is unknown."""
    return {"name": NAME, "version": __version__, "commit": os.environ.get(COMMIT_VARIABLE) or _git_commit()}


def processor() -> str:
    """The CPU's name, as the system tells it."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _git_commit() -> str | None:
    """The commit of the repository that holds this code; None without git or repository."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True, encoding="utf-8", timeout=GIT_SECONDS, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None

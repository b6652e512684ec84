"""What all tables share: how they are published, and how a command is run and measured."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from matplotlib import pyplot as plt

from benchmarks.table import Rows, plain_table
from evaluation.harness.engine import DOCKER, FLAGS
from inference.runner.product import processor

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
WORK = Path(os.environ.get("BENCHMARK_WORK", ROOT / "cache" / "benchmarks"))
STAGES = (
    "start-up", "read", "locate", "roi", "kidney", "components", "tumor", "restore", "measure", "write"
)  # fmt: skip
NETWORK_STAGES = ("locate", "kidney", "tumor")
"""Where a scan is longer than the ROI, locating is passes of the kidney network."""
LIMITS = ("--rm", *FLAGS, "--memory", "4g", "--cpus", "2")
POWERCAP = Path("/sys/class/powercap")
"""Where Linux tells the energy of each processor package (RAPL); virtual machines mostly lack it."""
POLL_S = 0.2


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {"cpu": processor(), "cores": os.cpu_count(), "load": os.getloadavg()}


# --------------------------------------------------------------------------------------------- tables


def publish(table: str, rows: Rows, draw: Callable[[Any, Rows], None], note: str = "") -> None:
    """Print rows as a table; write them as JSON and, drawn by `draw(axes, rows)`, as PNG."""
    click.echo(plain_table(rows, ".2f"))
    if note:
        click.echo(note)
    RESULTS.mkdir(parents=True, exist_ok=True)
    content = {"table": table, "note": note, "machine": machine(), "rows": rows}
    (RESULTS / f"{table}.json").write_text(json.dumps(content, indent=1) + "\n")
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    draw(axes, rows)
    axes.set_title(note or table, fontsize=9, wrap=True)
    figure.savefig(RESULTS / f"{table}.png", dpi=120)
    plt.close(figure)
    click.echo(f"{RESULTS / table}.json, .png")


def bars(
    label: Callable[[dict], str], *keys: str, unit: str = "seconds", scale: str = "linear"
) -> Callable[[Any, Rows], None]:
    """Stacked horizontal bars, one a row."""

    def draw(axes: Any, rows: Rows) -> None:
        left = np.zeros(len(rows))
        names = [label(row) for row in rows]
        for key in keys:
            widths = np.array([row.get(key) or 0.0 for row in rows])
            axes.barh(names, widths, left=left, label=key)
            left += widths
        axes.invert_yaxis()
        axes.set_xlabel(unit)
        axes.set_xscale(scale)
        if len(keys) > 1:
            axes.legend(fontsize=7)

    return draw


# ------------------------------------------------------------------------------------------ processes


@dataclass(frozen=True)
class Cost:
    """What a command took.

    Attributes:
        wall_s: seconds from start to end.
        cpu_s: seconds of all its processes on all cores.
        peak_mib: the most memory of all its processes together (sampled: `ru_maxrss` is that of one process,
            or of its parent before it started).
        energy_j: of the whole processor while it ran; None where that cannot be read.
        output: what it printed.
    """

    wall_s: float
    cpu_s: float
    peak_mib: float
    energy_j: float | None
    output: str


def measure(command: Sequence[str | Path]) -> Cost:
    """Run a command.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    energy_j, start = energy_uj(), time.perf_counter()
    process = subprocess.Popen(
        [*map(str, command)], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    peak = [0.0]
    ended = threading.Event()
    watcher = threading.Thread(target=_watch_memory, args=(process.pid, peak, ended))
    watcher.start()
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall_s, after_uj = time.perf_counter() - start, energy_uj()
    process.returncode = os.waitstatus_to_exitcode(status)
    ended.set()
    watcher.join()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args, output)
    used = None if energy_j is None or after_uj is None else (after_uj - energy_j) / 1e6
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, peak[0], used, output)


def energy_uj() -> int | None:
    """Microjoules that all processor packages have used so far; None where they do not tell."""
    counters = [path for path in POWERCAP.glob("intel-rapl:*/energy_uj") if path.parent.name.count(":") == 1]
    try:
        return sum(int(path.read_text()) for path in counters) if counters else None
    except OSError:
        return None


def _watch_memory(session: int, peak: list[float], ended: threading.Event) -> None:
    """Keep the most MiB that the processes of a session had together in `peak[0]`.

    Pages that several processes share count once (PSS). To add that up takes long, so it is done only where
    the plain sum could be a new peak.
    """
    while not ended.wait(POLL_S):
        members = _members(session)
        if sum(_mib(pid, "status", "VmRSS") for pid in members) > peak[0]:
            peak[0] = max(peak[0], sum(_mib(pid, "smaps_rollup", "Pss") for pid in members))


def _members(session: int) -> list[int]:
    """Processes of a session, by /proc/PID/stat's sixth field (the second, in brackets, may hold spaces)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            found.append(int(path.parent.name))
    return found


def _mib(pid: int, file: str, key: str) -> float:
    """A figure in /proc/PID; 0 if the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:")), 0.0)


def segment_command(source: Path, *options: str, image: str | None = None) -> tuple[list[str], Path]:
    """The command that segments the CTs under `source`, here or in a container, and its report."""
    output = WORK / "out"
    output.mkdir(parents=True, exist_ok=True)
    report = output / "report.json"
    if image is None:
        command = [sys.executable, "-m", "inference", "--input", source, "--output", output]
        command += ["--report", report]
    else:
        output.chmod(0o777)
        mounts = ["-v", f"{source.resolve()}:/input:ro", "-v", f"{output.resolve()}:/output"]
        command = [DOCKER, "run", *LIMITS, "--user", "12345:12345", *mounts]
        command += [image, "--report", "/output/report.json"]
    return [*map(str, command), "--quiet", *options], report


def segment(source: Path, *options: str, image: str | None = None) -> tuple[float, dict[str, Any]]:
    """Run the command, here or in a container; returns its wall time in seconds and its report."""
    command, report = segment_command(source, *options, image=image)
    start = time.perf_counter()
    subprocess.run(command, check=True, cwd=ROOT)
    return time.perf_counter() - start, json.loads(report.read_text())

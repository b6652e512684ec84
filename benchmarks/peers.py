"""`./run.sh benchmark peers`: the same CT with nnU-Net v2, TotalSegmentator, and plain scipy and nibabel."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks import common
from benchmarks.common import ROOT, Cost, Rows, bars, measure, publish, segment_command
from benchmarks.gpu import make_case

PYTHON = ROOT / ".venv-benchmarks" / "bin" / "python"
MIRRORED_PASSES = 8
"""Of one tile: nnU-Net flips it along each set of the three axes."""
SPACINGS_MM = (2.0, 0.78125)
"""The paper's grid, and what nnU-Net plans for KiTS19 (MIC-DKFZ/nnUNet, issue 230)."""


@click.command()
@click.option("--slices", default=219, show_default=True)
@click.option("--pixels", default=512, show_default=True)
@click.option("--precision", multiple=True, default=("float32", "bfloat16"), show_default=True)
@click.option(
    "--tiles", default=0, show_default=True, help="nnU-Net: run so many tiles, and multiply; 0: all."
)
@click.option("--spacing", multiple=True, type=float, default=SPACINGS_MM, show_default=True)
@click.option(
    "--mirroring", is_flag=True, help="nnU-Net: run mirrored tiles too, instead of multiplying by 8."
)
@click.option("--repeats", default=3, show_default=True, help="Of ours; the medians count.")
@click.option("--no-peers", is_flag=True, help="Only scipy and nibabel.")
def peers(
    slices: int,
    pixels: int,
    precision: Sequence[str],
    tiles: int,
    spacing: Sequence[float],
    mirroring: bool,
    repeats: int,
    no_peers: bool,
) -> None:
    """The same CT, an enlarged sample case, with ours and with others, each as a process of its own.

    nnU-Net v2 and TotalSegmentator v2 run their own code and network shapes with random weights, in float32
    as they do on a CPU. Ours are the shipped weights.
    """
    ct = common.WORK / f"peers-{pixels}x{slices}" / "case_00000" / "imaging.nii.gz"
    make_case(ct, (slices, pixels, pixels))
    rows = [_ours(ct, name, repeats) for name in precision]
    if not no_peers:
        if not PYTHON.exists():
            raise click.ClickException(
                "no .venv-benchmarks. Make it: python3 -m venv .venv-benchmarks && "
                ".venv-benchmarks/bin/pip install -r benchmarks/requirements.txt"
            )
        rows.append(_totalsegmentator(ct))
        for spacing_mm in spacing:
            rows += _nnunet(ct, spacing_mm, tiles, mirroring)
    for row in rows:
        row["times ours"] = row["seconds"] / rows[0]["seconds"]
        row["memory, times ours"] = row["peak MiB"] / rows[0]["peak MiB"]
    cores = os.cpu_count()
    note = f"{pixels}×{pixels}×{slices} float64, start-up included, {cores} cores; ours: medians of {repeats}"
    publish("peers", rows, draw, note)
    steps = _steps(ct, _last_report())
    publish("steps", steps, bars(lambda row: f"{row['what']}: {row['who']}", "seconds", scale="log"), note)


def _ours(ct: Path, precision: str, repeats: int) -> dict[str, Any]:
    command, _ = segment_command(ct.parent.parent, "--precision", precision)
    costs = [measure(command) for _ in range(repeats)]
    return _row(f"ours, {precision}", sorted(costs, key=lambda cost: cost.wall_s)[repeats // 2])


def _row(who: str, cost: Cost) -> dict[str, Any]:
    return {
        "who": who,
        "seconds": cost.wall_s,
        "CPU s": cost.cpu_s,
        "peak MiB": cost.peak_mib,
        "energy J": cost.energy_j,
    }


def _totalsegmentator(ct: Path) -> dict[str, Any]:
    labels = common.WORK / "out" / "prediction_00000.nii.gz"
    cost = measure([PYTHON, ROOT / "benchmarks" / "totalsegmentator_peer.py", ct, labels])
    return _row("TotalSegmentator v2, kidneys", cost)


def _nnunet(ct: Path, spacing_mm: float, tiles: int, is_mirroring: bool) -> Rows:
    """Without and with mirroring."""
    script = ROOT / "benchmarks" / "nnunet_peer.py"
    command = [PYTHON, script, ct, "--spacing", str(spacing_mm), "--tiles", str(tiles)]
    plain = measure(command)
    rows = [extrapolated(f"nnU-Net v2, {spacing_mm:.2g} mm", plain, 1)]
    name = f"nnU-Net v2, {spacing_mm:.2g} mm, mirrored"
    if is_mirroring:
        return [*rows, extrapolated(name, measure([*command, "--mirroring"]), 1)]
    return [*rows, extrapolated(name, plain, MIRRORED_PASSES)]


def extrapolated(who: str, cost: Cost, passes: int) -> dict[str, Any]:
    """The row of a run that went through some of its tiles once, for all tiles and `passes` times each.

    CPU seconds and energy grow as the seconds of the network do; the memory is the run's own.
    """
    told = json.loads(cost.output.splitlines()[-1])
    times = passes * told["tiles"] / told["tiles_run"]
    row = _row(who, cost)
    share = told["network_s"] / cost.wall_s  # of the run
    for key in ("seconds", "CPU s", "energy J"):
        if row[key] is not None:
            row[key] *= 1 + share * (times - 1)
    row["tiles"] = told["tiles"]
    row["measured"] = "all" if times == 1 else f"{told['tiles_run']} tiles, EXTRAPOLATED ×{times:.3g}"
    return row


def _last_report() -> dict[str, Any]:
    (case,) = json.loads((common.WORK / "out" / "report.json").read_text())["cases"]
    return case


def _steps(ct: Path, ours: dict[str, Any]) -> Rows:
    """What is not the network, with scipy and nibabel's usual ways."""
    code = "import sys; from benchmarks.plain_peer import main; main(sys.argv[1])"
    plain = json.loads(measure([sys.executable, "-c", code, ct]).output.splitlines()[-1])
    rows: Rows = []
    for what, stages in (
        ("read, resample", ("read", "roi")),
        ("components, restore", ("components", "restore")),
        ("write", ("write",)),
    ):
        own = sum(ours["seconds"][stage] for stage in stages)
        rows.append({"what": what, "who": "ours", "seconds": own, "times ours": 1.0})
        rows.append(
            {"what": what, "who": "scipy, nibabel", "seconds": plain[what], "times ours": plain[what] / own}
        )
    return rows


def draw(axes: Any, rows: Rows) -> None:
    """Seconds as bars on a logarithmic axis; times ours and memory are written beside them."""
    bars(lambda row: row["who"], "seconds", scale="log")(axes, rows)
    for i, row in enumerate(rows):
        text = f" {row['seconds']:.3g} s, {row['times ours']:.3g}×, {row['peak MiB'] / 1024:.2g} GiB"
        is_extrapolated = "EXTRAPOLATED" in row.get("measured", "")
        axes.text(row["seconds"], i, text + " (extrapolated)" * is_extrapolated, va="center", fontsize=7)
    axes.set_xlim(right=axes.get_xlim()[1] * 12)

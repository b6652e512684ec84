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
        rows += _nnunet(ct, spacing, tiles, mirroring)
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


def _nnunet(ct: Path, spacings_mm: Sequence[float], tiles: int, is_mirroring: bool) -> Rows:
    """Each spacing without and with mirroring.

    Where not all is run, the fastest tile of all runs counts for each: they are of one size.
    """
    script = ROOT / "benchmarks" / "nnunet_peer.py"
    runs: list[tuple[str, Cost, int]] = []
    for spacing_mm in spacings_mm:
        command = [PYTHON, script, ct, "--spacing", str(spacing_mm), "--tiles", str(tiles)]
        plain, name = measure(command), f"nnU-Net v2, {spacing_mm:.2g} mm"
        runs.append((name, plain, 1))
        if is_mirroring:
            runs.append((f"{name}, mirrored", measure([*command, "--mirroring"]), 1))
        else:
            runs.append((f"{name}, mirrored", plain, MIRRORED_PASSES))
    told = [json.loads(cost.output.splitlines()[-1]) for name, cost, _ in runs if "mirrored" not in name]
    tile_s = min(run["network_s"] / run["tiles_run"] for run in told)
    return [extrapolated(name, cost, passes, tile_s if tiles else None) for name, cost, passes in runs]


def extrapolated(who: str, cost: Cost, passes: int, tile_s: float | None = None) -> dict[str, Any]:
    """The row of a run that went through some of its tiles once, for all tiles and `passes` times each.

    CPU seconds and energy grow as the seconds do; the memory is the run's own. `tile_s` are seconds of a tile
    where they are better known than from this run.
    """
    told = json.loads(cost.output.splitlines()[-1])
    n_passes = passes * told["tiles"]
    row = _row(who, cost) | {"tiles": told["tiles"], "measured": "all"}
    if n_passes == told["tiles_run"]:
        return row
    tile_s = told["network_s"] / told["tiles_run"] if tile_s is None else tile_s
    seconds = cost.wall_s - told["network_s"] + tile_s * n_passes
    for key in ("CPU s", "energy J"):
        if row[key] is not None:
            row[key] *= seconds / cost.wall_s
    measured = f"{told['tiles_run']} tiles, EXTRAPOLATED to {n_passes} passes of {tile_s:.2f} s"
    return row | {"seconds": seconds, "measured": measured}


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
        seconds, times = (f"{v:,.{0 if v >= 10 else 1}f}" for v in (row["seconds"], row["times ours"]))
        note = " *" * ("EXTRAPOLATED" in row.get("measured", ""))
        text = f" {seconds} s, {times}×, {row['peak MiB'] / 1024:.1f} GiB{note}"
        axes.text(row["seconds"], i, text, va="center", fontsize=7)
    axes.set_xlim(left=1, right=max(row["seconds"] for row in rows) * 50)
    axes.set_xlabel("seconds   (* extrapolated from some tiles)")

"""`./run.sh benchmark TABLE`: times and memory, as a table on the terminal, JSON and a PNG plot.

All figures of one table come from one run; where two things are compared, their ratio is what counts.
Whole runs are processes of the command as users start it, so start-up and imports are in them.
"""

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import common
from benchmarks.common import (
    NETWORK_STAGES,
    ROOT,
    STAGES,
    Rows,
    bars,
    measure,
    publish,
    segment,
    segment_command,
)
from benchmarks.floors import NOTE as FLOORS_NOTE
from benchmarks.floors import count_flop, floors, matmul_flops
from benchmarks.gpu import make_case
from benchmarks.peers import peers
from benchmarks.precision import main as precision_table
from inference.networks.backends import usable_cores

# ------------------------------------------------------------------------------------------- whole runs


def stages_of_case(source: Path, repeats: int, *options: str, image: str | None = None) -> dict[str, Any]:
    """Medians by stage of a folder with one CT, the share of the networks, and peak memory."""
    runs = [segment(source, *options, image=image) for _ in range(repeats)]
    seconds: dict[str, list[float]] = {stage: [] for stage in (*STAGES, "all")}
    for wall, report in runs:
        (case,) = report["cases"]
        for stage in STAGES[1:]:
            seconds[stage].append(case["seconds"].get(stage, 0.0))
        seconds["start-up"].append(wall - report["run"]["seconds"])
        seconds["all"].append(wall)
    row: dict[str, Any] = {stage: statistics.median(values) for stage, values in seconds.items()}
    row["not network"] = 1 - sum(row[stage] for stage in NETWORK_STAGES) / row["all"]
    row["peak MiB"] = max(max(r["cases"][0]["peak_rss_mib"].values()) for _, r in runs)
    row["peak MiB by stage"] = runs[-1][1]["cases"][0]["peak_rss_mib"]
    return row


def _weights(side_vox: int) -> str:
    from benchmarks.inputs import make_weights

    return str(
        make_weights(common.WORK / f"weights-{side_vox}", side_vox=side_vox, spacing_mm=336 / side_vox)
    )


ENLARGED = (
    ("512×512×219 float64", (219, 512, 512), {}),
    ("512×512×219 int16, 525 mm", (219, 512, 512), {"dtype": "<i2", "slice_mm": 2.4}),
    ("512×512×1059 float64", (1059, 512, 512), {}),
)
"""What `case --shipped` is measured on: the sample case, in which the shipped networks find a tumor."""


def _ct(n_slices: int, pixels: int = 512, seed: int = 3) -> Path:
    from benchmarks.inputs import make_ct

    folder = common.WORK / f"ct-{pixels}x{n_slices}-{seed}"
    return make_ct(folder / "case_00000" / "imaging.nii.gz", n_slices=n_slices, pixels=pixels, seed=seed)


@click.group()
def main() -> None:
    """Times and memory. Each table is printed, and written to benchmarks/results/ as JSON and PNG."""


@main.command()
@click.option("--slices", multiple=True, type=int, default=(200, 219, 1059), show_default=True)
@click.option("--pixels", default=512, show_default=True)
@click.option("--side", default=168, show_default=True, help="Voxels along each side of the networks' grid.")
@click.option("--precision", default="auto", show_default=True)
@click.option("--repeats", default=5, show_default=True)
@click.option("--image", default=None, help="Run this container image instead (its own weights).")
@click.option("--shipped", is_flag=True, help="The shipped weights, and enlarged sample cases.")
def case(
    slices: Sequence[int],
    pixels: int,
    side: int,
    precision: str,
    repeats: int,
    image: str | None,
    shipped: bool,
) -> None:
    """One case, end to end, by stage: a bundled one, then CTs of 512×512×SLICES float64; and the floors."""
    options = ("--precision", precision)
    folder = None if image or shipped else Path(_weights(side))
    weights = () if folder is None else ("--weights", str(folder))
    sample = ROOT / "test_data" / "input" / "case_90000"
    row = stages_of_case(sample, repeats, *options, image=image)
    rows: Rows = [{"case": "bundled, shipped weights", **row}]
    lowest: Rows = []
    if not image:
        network = stages_of_case(sample, 1, *options, *weights)["peak MiB"]
    for name, ct, n_voxels in _enlarged() if shipped else _drawn(slices, pixels):
        few = n_voxels > 500 * 512 * 512
        row = stages_of_case(ct.parent.parent, 1 if few else repeats, *options, *weights, image=image)
        voxels_mib = n_voxels * 2 / 2**20
        row |= {"int16 MiB": round(voxels_mib)}
        if not image:  # what is left of the peak when the networks of a small case are taken away
            row |= {"network MiB": network, "over int16": (row["peak MiB"] - network) / voxels_mib}
            found = floors(ct, common.WORK / "out" / "prediction_00000.nii.gz", folder, precision)
            lowest += against_floors(name, row, found)
        rows.append({"case": name, **row})
    printed = [{k: v for k, v in row.items() if k != "peak MiB by stage"} for row in rows]
    networks = image or ("shipped weights" if shipped else f"networks of {side}³")
    note = f"seconds, medians of {repeats}; {networks}, --precision {precision}"
    publish("case", printed, bars(lambda row: row["case"], *STAGES), note)
    if lowest:
        publish(
            "floors", lowest, bars(lambda row: f"{row['case']} {row['stage']}", "times floor"), FLOORS_NOTE
        )
    memory = [{"case": row["case"], **row["peak MiB by stage"]} for row in rows]
    publish("memory", memory, _draw_memory, "peak RSS in MiB up to the end of each stage")


def _enlarged() -> Iterator[tuple[str, Path, int]]:
    """Name, file and voxels of each of `ENLARGED`."""
    for number, (name, shape, options) in enumerate(ENLARGED):
        path = common.WORK / f"enlarged-{number}" / "case_00000" / "imaging.nii.gz"
        make_case(path, shape, **options)
        yield name, path, math.prod(shape)


def _drawn(slices: Sequence[int], pixels: int) -> Iterator[tuple[str, Path, int]]:
    """Name, file and voxels of CTs in which `make_weights` finds kidneys and a tumor."""
    for n in slices:
        yield f"{pixels}×{pixels}×{n}", _ct(n, pixels), n * pixels * pixels


def against_floors(name: str, row: dict[str, Any], found: dict[str, float]) -> Rows:
    """A row a stage that took time, and one of all: seconds, floor, and the one over the other."""
    stages = [stage for stage in STAGES if stage in found and row[stage]]
    seconds = {stage: row[stage] for stage in stages} | {"all": row["all"]}
    lowest = {stage: found[stage] for stage in stages} | {"all": sum(found[stage] for stage in stages)}
    return [
        {"case": name, "stage": stage, "seconds": seconds[stage], "floor": lowest[stage]}
        | {"times floor": seconds[stage] / lowest[stage], "seconds above": seconds[stage] - lowest[stage]}
        for stage in seconds
    ]


def _draw_memory(axes: Any, rows: Rows) -> None:
    for row in rows:
        stages = [stage for stage in STAGES if stage in row]
        axes.plot(stages, [row[stage] for stage in stages], "o-", label=row["case"])
    axes.set_ylabel("MiB")
    axes.legend(fontsize=7)


LANES = {"read": ("read",), "compute": STAGES[2:-2], "write": ("measure", "write")}
"""What a run does at the same time for different cases."""


@main.command()
@click.option("--cases", default=8, show_default=True)
@click.option("--slices", default=219, show_default=True)
@click.option("--pixels", default=512, show_default=True)
@click.option("--side", default=168, show_default=True)
@click.option("--precision", default="auto", show_default=True)
@click.option("--shipped", is_flag=True, help="The shipped weights, and the first enlarged sample case.")
def batch(cases: int, slices: int, pixels: int, side: int, precision: str, shipped: bool) -> None:
    """Several cases: wall time against the sum of all stages, and against the longest of the three lanes."""
    cts = [next(_enlarged())[1]] if shipped else [_ct(slices, pixels, seed=seed) for seed in (3, 4)]
    source = _batch_folder(cases, cts)
    weights = () if shipped else ("--weights", _weights(side))
    command, path = segment_command(source, *weights, "--precision", precision)
    cost = measure(command)
    report = json.loads(path.read_text())
    row = lanes_of(report) | {"CPU s / cores": cost.cpu_s / usable_cores()}
    title = f"{cases} CTs" if shipped else f"{cases} CTs of {pixels}×{pixels}×{slices}"
    networks = "shipped weights" if shipped else f"networks of {side}³"
    note = (
        f"{title}: seconds; {networks}, --precision {precision}; bound: longest lane, first read, last write"
    )
    publish("batch", [row], bars(lambda row: f"{row['cases']} cases", "read", "compute", "write"), note)


def lanes_of(report: dict[str, Any]) -> dict[str, Any]:
    """What a batch's report says about its lanes."""
    each = [case["seconds"] for case in report["cases"]]
    row: dict[str, Any] = {"cases": len(each)}
    for lane, stages in LANES.items():
        row[lane] = sum(seconds.get(stage, 0.0) for seconds in each for stage in stages)
    longest = max(row[lane] for lane in LANES)
    ends = each[0]["read"] + sum(each[-1].get(stage, 0.0) for stage in LANES["write"])
    wall = report["run"]["seconds"]
    return row | {
        "sum": sum(row[lane] for lane in LANES),
        "wall": wall,
        "longest lane / wall": longest / wall,
        "bound / wall": (longest + ends) / wall,  # nothing runs beside the first read and the last write
    }


def _batch_folder(cases: int, cts: Sequence[Path]) -> Path:
    """CTs of several patients under one folder: links to those made already, in turn."""
    folder = common.WORK / f"batch-{cases}-{'-'.join(ct.parent.parent.name for ct in cts)}"
    for i in range(cases):
        link = folder / f"case_{i:05d}"
        link.mkdir(parents=True, exist_ok=True)
        if not (link / "imaging.nii.gz").exists():
            (link / "imaging.nii.gz").symlink_to(cts[i % len(cts)])
    return folder


@main.command()
@click.option("--slices", multiple=True, type=int, default=(100, 250, 500, 1000), show_default=True)
@click.option("--cases", multiple=True, type=int, default=(1, 2, 4, 8), show_default=True)
@click.option("--case-slices", default=100, show_default=True, help="Of each CT where cases are counted.")
@click.option("--pixels", default=512, show_default=True)
@click.option("--side", default=168, show_default=True)
@click.option("--precision", default="auto", show_default=True)
def scaling(
    slices: Sequence[int], cases: Sequence[int], case_slices: int, pixels: int, side: int, precision: str
) -> None:
    """Time and memory against the number of slices, and against the number of cases."""
    options = ("--weights", _weights(side), "--precision", precision)
    rows: Rows = []
    inputs = [("slices", n, _ct(n, pixels).parent.parent) for n in slices]
    cts = [_ct(case_slices, pixels, seed=seed) for seed in (3, 4)]
    inputs += [("cases", n, _batch_folder(n, cts)) for n in cases]
    for against, n, source in inputs:
        wall, report = segment(source, *options)
        peak = max(max(c["peak_rss_mib"].values()) for c in report["cases"])
        rows.append({"against": against, "n": n, "seconds": wall, "seconds each": wall / n, "peak MiB": peak})

    def draw(axes: Any, rows: Rows) -> None:
        for against, marker in (("slices", "o-"), ("cases", "s--")):
            own = [row for row in rows if row["against"] == against]
            share = [row["n"] / own[-1]["n"] for row in own]
            axes.plot(
                share,
                [row["seconds"] for row in own],
                marker,
                label=f"seconds, up to {own[-1]['n']} {against}",
            )
            axes.plot(share, [row["peak MiB"] / 100 for row in own], marker, alpha=0.4, label="peak, 100 MiB")
        axes.set_xlabel("share of the largest")
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=7)

    publish("scaling", rows, draw, f"{pixels}×{pixels} CTs, networks of {side}³, --precision {precision}")


# ---------------------------------------------------------------------------------- networks and training


@main.command()
@click.option("--side", default=168, show_default=True)
@click.option("--threads", multiple=True, type=int, default=(1, 2), show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--matmul", default=4096, show_default=True, help="Side of the matrices that give the bound.")
def network(side: int, threads: Sequence[int], repeats: int, matmul: int) -> None:
    """Seconds a pass of one network, by backend, precision, memory layout and threads, against the bound."""
    import torch

    from inference.networks.backends import Backend, openvino_network, torch_network
    from inference.networks.weights import load_weights

    weights = load_weights(Path(_weights(side)) / "kidney.safetensors", "kidney")
    roi = np.random.default_rng(0).random((side,) * 3, dtype=np.float32)
    flop, rows = count_flop(side), []
    for n in threads:
        torch.set_num_threads(n)
        for precision in ("float32", "bfloat16"):
            bound = flop / matmul_flops(precision, size=matmul)
            for name, layout in (
                ("torch", "contiguous"),
                ("torch", "channels-last"),
                ("openvino", "its own"),
                ("openvino", "memory anew"),  # as where the networks take turns
            ):
                backend = Backend(name, "cpu", n, precision)
                if name == "openvino":
                    run = openvino_network(weights, backend)
                else:
                    run = torch_network(weights, backend, channels_last=layout == "channels-last")
                run(roi)  # compiled now, and with memory of its own
                times = []
                for _ in range(repeats):
                    if layout == "memory anew":
                        backend.memory.release()
                    start = time.perf_counter()
                    run(roi)
                    times.append(time.perf_counter() - start)
                seconds = statistics.median(times)
                rows.append(
                    {"threads": n, "precision": precision, "backend": name, "layout": layout}
                    | {"seconds": seconds, "bound": bound, "times bound": seconds / bound}
                )

    def label(row: dict) -> str:
        return f"{row['backend']} {row['precision']} {row['layout']}, {row['threads']} thr."

    note = f"one {side}³ pass, {flop / 1e9:.0f} GFLOP, medians of {repeats}; bound: {matmul}³ matrix product"
    publish("network", rows, bars(label, "seconds"), note)


@main.command()
@click.option("--side", default=168, show_default=True)
@click.option("--steps", default=2, show_default=True, help="Measured, after one that is not.")
def training(side: int, steps: int) -> None:
    """Seconds and memory of a training step by precision, checkpointing and whether freed memory is kept.

    And the time to make its data. Training keeps freed memory.
    """
    rows = []
    ways = [(precision, on, True) for precision in ("float32", "bfloat16") for on in (False, True)]
    for precision, checkpointing, is_kept in (*ways, ("bfloat16", False, False)):
        code = "import sys; from benchmarks.training_step import main; main(*map(int, sys.argv[1:]))"
        arguments = [str(int(v)) for v in (side, steps, precision == "bfloat16", checkpointing, is_kept)]
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=ROOT, check=True, capture_output=True, text=True
        )
        row = {"precision": precision, "checkpointing": checkpointing, "memory kept": is_kept}
        told = {key: "yes" if value is True else value or "no" for key, value in row.items()}
        rows.append({**told, **json.loads(done.stdout.splitlines()[-1])})

    def label(row: dict) -> str:
        kept = "" if row["memory kept"] == "yes" else ", memory not kept"
        return f"{row['precision']}, checkpointing: {row['checkpointing']}{kept}"

    note = f"one step, one synthetic patient of {side}³"
    publish("training", rows, bars(label, "step s", "data s"), note)


main.add_command(peers)
main.add_command(precision_table, "precision")

if __name__ == "__main__":
    main()

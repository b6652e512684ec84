"""`./run.sh benchmark TABLE`: times and memory, as a table on the terminal, JSON and a PNG plot.

All figures of one table come from one run; where two things are compared, their ratio is what counts.
Whole runs are processes of the command as users start it, so start-up and imports are in them.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from matplotlib import pyplot as plt

from benchmarks.precision import main as precision_table
from evaluation.harness.engine import FLAGS

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
WORK = Path(os.environ.get("BENCHMARK_WORK", ROOT / "cache" / "benchmarks"))
STAGES = ("start-up", "read", "locate", "roi", "kidney", "components", "tumor", "restore", "write")
NETWORK_STAGES = ("locate", "kidney", "tumor")
"""Where a scan is longer than the ROI, locating is passes of the kidney network."""
PEERS = ROOT / ".venv-benchmarks" / "bin" / "python"
LIMITS = ("--rm", *FLAGS, "--memory", "4g", "--cpus", "2")
Rows = list[dict[str, Any]]


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
    }


def publish(table: str, rows: Rows, draw: Callable[[Any, Rows], None], note: str = "") -> None:
    """Print rows as a table; write them as JSON and, drawn by `draw(axes, rows)`, as PNG."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for line in (columns, *cells):
        click.echo("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
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


def _cell(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


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


# ------------------------------------------------------------------------------------------- whole runs


def segment(source: Path, *options: str, image: str | None = None) -> tuple[float, dict[str, Any]]:
    """Run the command, here or in a container; returns its wall time in seconds and its report."""
    output = WORK / "out"
    output.mkdir(parents=True, exist_ok=True)
    report = output / "report.json"
    if image is None:
        command = [
            sys.executable,
            "-m",
            "inference",
            "--input",
            source,
            "--output",
            output,
            "--report",
            report,
        ]
    else:
        output.chmod(0o777)
        mounts = ["-v", f"{source.resolve()}:/input:ro", "-v", f"{output.resolve()}:/output"]
        command = [os.environ.get("DOCKER", "docker"), "run", *LIMITS, "--user", "12345:12345", *mounts]
        command += [image, "--report", "/output/report.json"]
    start = time.perf_counter()
    subprocess.run([*map(str, command), "--quiet", *options], check=True, cwd=ROOT)
    return time.perf_counter() - start, json.loads(report.read_text())


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

    return str(make_weights(WORK / f"weights-{side_vox}", side_vox=side_vox, spacing_mm=336 / side_vox))


def _roi_side(shipped: bool, side: int) -> int:
    """Voxels along each side of the kidney network's grid."""
    from inference.networks.weights import load_weights

    if not shipped:
        return side
    return load_weights(ROOT / "weights" / "kidney.safetensors", "kidney").metadata.roi.shape_vox[0]


def _ct(n_slices: int, pixels: int = 512, seed: int = 3) -> Path:
    from benchmarks.inputs import make_ct

    folder = WORK / f"ct-{pixels}x{n_slices}-{seed}"
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
@click.option("--shipped", is_flag=True, help="The shipped weights instead of random ones.")
def case(
    slices: Sequence[int],
    pixels: int,
    side: int,
    precision: str,
    repeats: int,
    image: str | None,
    shipped: bool,
) -> None:
    """One case, end to end, by stage: a bundled one, then CTs of 512×512×SLICES float64."""
    options = ("--precision", precision)
    weights = () if image or shipped else ("--weights", _weights(side))
    sample = ROOT / "test_data" / "input" / "case_90000"
    row = stages_of_case(sample, repeats, *options, image=image)
    rows: Rows = [{"case": "bundled, shipped weights", **row}]
    lowest: Rows = []
    if not image:
        network = stages_of_case(sample, 1, *options, *weights)["peak MiB"]
    for n in slices:
        source = _ct(n, pixels).parent.parent
        row = stages_of_case(source, 1 if n > 500 else repeats, *options, *weights, image=image)
        voxels_mib = n * pixels * pixels * 2 / 2**20
        row |= {"int16 MiB": round(voxels_mib)}
        if not image:  # what is left of the peak when the networks of a small case are taken away
            row |= {"network MiB": network, "over int16": (row["peak MiB"] - network) / voxels_mib}
        rows.append({"case": f"{pixels}×{pixels}×{n}", **row})
        if not image:
            grid = _roi_side(shipped, side)
            found = floors(_ct(n, pixels), WORK / "out" / "prediction_00000.nii.gz", grid)
            lowest += [
                {"case": rows[-1]["case"], "stage": stage, "seconds": row[stage], "floor": floor}
                | {"times floor": row[stage] / floor}
                for stage, floor in found.items()
            ]
    printed = [{k: v for k, v in row.items() if k != "peak MiB by stage"} for row in rows]
    networks = image or ("shipped weights" if shipped else f"networks of {side}³")
    note = f"seconds, medians of {repeats}; {networks}, --precision {precision}"
    publish("case", printed, bars(lambda row: row["case"], *STAGES), note)
    if lowest:
        note = (
            "floors: imports alone; (de)compression alone; operations at the rate of a float32 matrix product"
        )
        publish("floors", lowest, bars(lambda row: f"{row['case']} {row['stage']}", "times floor"), note)
    memory = [{"case": row["case"], **row["peak MiB by stage"]} for row in rows]
    publish("memory", memory, _draw_memory, "peak RSS in MiB up to the end of each stage")


def floors(ct: Path, labels: Path, side: int) -> dict[str, float]:
    """Seconds below which a stage cannot be: what it reads or writes at the (de)compressor's own speed, the
    kidney network's operations at the rate of a matrix product, and the imports alone.
    """
    from isal import igzip

    def once(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    def unpack(path: Path) -> bytes:
        with igzip.open(path) as file:
            buffer = bytearray(1 << 20)
            while file.readinto(buffer):
                pass
        return bytes(buffer)

    imports = [sys.executable, "-c", "import click, nibabel, numpy, safetensors, scipy.ndimage, tqdm, isal"]
    with igzip.open(labels) as file:
        voxels = file.read()
    rate = matmul_flops(_float32(), size=4096)
    return {
        "start-up": min(once(lambda: subprocess.run(imports, check=True)) for _ in range(3)),
        "read": min(once(lambda: unpack(ct)) for _ in range(3)),
        "kidney": count_flop(side) / rate,
        "write": min(once(lambda: igzip.compress(voxels, 1)) for _ in range(3)),
    }


def _float32() -> Any:
    import torch

    return torch.float32


def _draw_memory(axes: Any, rows: Rows) -> None:
    for row in rows:
        stages = [stage for stage in STAGES if stage in row]
        axes.plot(stages, [row[stage] for stage in stages], "o-", label=row["case"])
    axes.set_ylabel("MiB")
    axes.legend(fontsize=7)


@main.command()
@click.option("--cases", default=4, show_default=True)
@click.option("--slices", default=219, show_default=True)
@click.option("--pixels", default=512, show_default=True)
@click.option("--side", default=168, show_default=True)
@click.option("--precision", default="auto", show_default=True)
def batch(cases: int, slices: int, pixels: int, side: int, precision: str) -> None:
    """Several cases: wall time against the sum of all stages, and against the longest of the three lanes."""
    source = _batch_folder(cases, slices, pixels)
    _, report = segment(source, "--weights", _weights(side), "--precision", precision)
    lanes = {"read": ("read",), "compute": STAGES[2:-1], "write": ("write",)}
    row: dict[str, Any] = {"cases": cases}
    for lane, stages in lanes.items():
        row[lane] = sum(c["seconds"].get(stage, 0.0) for c in report["cases"] for stage in stages)
    first_read = report["cases"][0]["seconds"]["read"]
    last_write = report["cases"][-1]["seconds"]["write"]
    row["sum"] = sum(row[lane] for lane in lanes)
    row["bound"] = max(row[lane] for lane in lanes) + first_read + last_write  # nothing runs beside these two
    row["wall"] = report["run"]["seconds"]
    row["bound / wall"] = row["bound"] / row["wall"]
    row["wall / sum"] = row["wall"] / row["sum"]
    note = (
        f"{cases} CTs of {pixels}×{pixels}×{slices}: seconds; bound = longest lane + first read + last write"
    )
    publish("batch", [row], bars(lambda row: f"{row['cases']} cases", "read", "compute", "write"), note)


def _batch_folder(cases: int, slices: int, pixels: int) -> Path:
    """CTs of several patients under one folder: links to those made already."""
    folder = WORK / f"batch-{cases}-{pixels}x{slices}"
    for i in range(cases):
        link = folder / f"case_{i:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.mkdir()
            (link / "imaging.nii.gz").symlink_to(_ct(slices, pixels, seed=3 + i % 2))
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
    inputs += [("cases", n, _batch_folder(n, case_slices, pixels)) for n in cases]
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


def count_flop(side: int) -> float:
    """Operations of one pass (a multiplication and an addition are two), counted while it runs."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from inference.networks.vnet import VNet

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        VNet()(torch.empty(1, 1, side, side, side))
    return float(counter.get_total_flops())


def matmul_flops(dtype: Any, *, size: int, repeats: int = 3) -> float:
    """Operations per second of this machine's best case: a large matrix multiplication."""
    import torch

    a, b = (torch.rand(size, size).to(dtype) for _ in range(2))
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


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
            bound = flop / matmul_flops(getattr(torch, precision), size=matmul)
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
                        backend.memory.acquire(None)
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


# ------------------------------------------------------------------------------------------------- peers


@main.command()
@click.option("--slices", default=219, show_default=True)
@click.option("--pixels", default=512, show_default=True)
@click.option("--side", default=168, show_default=True)
@click.option("--precision", default="auto", show_default=True)
@click.option("--one-tile", is_flag=True, help="nnU-Net: time one tile, and multiply (told as extrapolated).")
@click.option("--no-nnunet", is_flag=True, help="Only scipy and nibabel.")
def peers(slices: int, pixels: int, side: int, precision: str, one_tile: bool, no_nnunet: bool) -> None:
    """The same CT with nnU-Net v2 (2 mm, random weights, no mirroring), and with plain scipy and nibabel."""
    ct = _ct(slices, pixels)
    wall, report = segment(ct.parent.parent, "--weights", _weights(side), "--precision", precision)
    ours = report["cases"][0]["seconds"]
    peak = max(report["cases"][0]["peak_rss_mib"].values())
    rows: Rows = [{"what": "whole case", "who": "ours", "seconds": wall, "peak MiB": peak, "times ours": 1.0}]
    if not no_nnunet:
        if not PEERS.exists():
            raise click.ClickException(
                "no .venv-benchmarks. Make it: python3 -m venv .venv-benchmarks && "
                ".venv-benchmarks/bin/pip install -r benchmarks/requirements.txt"
            )
        command = [
            str(PEERS),
            str(ROOT / "benchmarks" / "nnunet_peer.py"),
            str(ct),
            *["--one-tile"] * one_tile,
        ]
        start = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        told = json.loads(done.stdout.splitlines()[-1])
        seconds = told["extrapolated_s"] if one_tile else time.perf_counter() - start
        who = f"nnU-Net v2, {told['tiles']} tiles" + (", EXTRAPOLATED from one tile" if one_tile else "")
        rows.append({"what": "whole case", "who": who, "seconds": seconds, "peak MiB": told["peak_mib"]})
    code = "import sys; from benchmarks.plain_peer import main; main(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(ct)], cwd=ROOT, check=True, capture_output=True, text=True
    )
    plain = json.loads(done.stdout.splitlines()[-1])
    for what, own in (
        ("read, resample", ours["read"] + ours["roi"]),
        ("components, restore", ours["components"] + ours["restore"]),
        ("write", ours["write"]),
    ):
        rows.append({"what": what, "who": "ours", "seconds": own, "peak MiB": peak, "times ours": 1.0})
        rows.append(
            {"what": what, "who": "scipy, nibabel", "seconds": plain[what], "peak MiB": plain["peak_mib"]}
        )
    own = 1.0
    for row in rows:
        own = row["seconds"] if row["who"] == "ours" else own
        row["times ours"] = row["seconds"] / max(own, 1e-9)
    note = f"{pixels}×{pixels}×{slices} float64, --precision {precision}, {os.cpu_count()} cores"
    publish("peers", rows, bars(lambda row: f"{row['what']}: {row['who']}", "seconds", scale="log"), note)


main.add_command(precision_table, "precision")

if __name__ == "__main__":
    main()

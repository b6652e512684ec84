"""`benchmarks/gpu.sh`: what a GPU makes of the product, in the order of what is most worth knowing.

Whole runs are processes of the command as users start it. Each part writes its figures as soon as it has
them, and none's failure costs another's: what a time budget cuts off is the end of the list.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.table import Rows, plain_table
from evaluation.metrics import dice
from inference.runner.product import processor

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "test_data" / "input"
SAMPLE = SAMPLES / "case_90000" / "imaging.nii.gz"
"""KiTS19's axes, float64: what `make_case` enlarges."""
NOISE_HU = 12.0
BATCH = 8
GRACE_S = 10.0
"""So long a run that is told to stop may go on."""
PROMISED_MIB = 8 * 1024
"""What a GPU has that one training step of the paper's 168³ is to fit on."""


@dataclass
class Run:
    """What all parts share: where to, on what, how long; and the tables so far."""

    out: Path
    device: str
    until: float
    tiny: bool
    tables: dict[str, Any] = field(default_factory=dict)

    @property
    def left_s(self) -> float:
        """Seconds of the budget."""
        return self.until - time.monotonic()

    def publish(self, table: str, rows: Rows, note: str = "") -> None:
        """Print rows as a table, and write all tables so far as JSON and text."""
        text = "\n".join([f"\n== {table} ==", plain_table(rows, ".4g"), *([note] if note else [])])
        click.echo(text)
        sys.stdout.flush()
        self.tables[table] = {"note": note, "rows": rows}
        (self.out / "gpu.json").write_text(json.dumps(self.tables, indent=1, default=str) + "\n")
        with (self.out / "gpu.txt").open("a") as file:
            file.write(text + "\n")


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for gpu.json and gpu.txt."
)
@click.option("--seconds", default=300.0, show_default=True, help="Time budget for everything.")
@click.option("--device", default="cuda", show_default=True, help="cpu: a rehearsal.")
@click.option("--tiny", is_flag=True, help="Small sizes, for a rehearsal.")
@click.option("--only", multiple=True, help="Only these parts (a, b …), in their order.")
@click.option("--reference", type=click.Path(exists=True, path_type=Path), default=None,
              help="The samples' label maps from a CPU in float32; else made here.")  # fmt: skip
def main(
    out: Path, seconds: float, device: str, tiny: bool, only: tuple[str, ...], reference: Path | None
) -> None:
    """Label maps against the CPU's, seconds by stage, memory, tests, training's data."""
    out.mkdir(parents=True, exist_ok=True)
    out = out.resolve()
    (out / "gpu.txt").unlink(missing_ok=True)
    run = Run(out, device, time.monotonic() + seconds, tiny)
    # a part, and the least number of seconds that is worth to begin it with
    parts: dict[str, tuple[Callable[[], None], float]] = {
        "a": (lambda: samples(run, reference), 20),
        "b": (lambda: whole_cases(run), 15),
        "c": (lambda: memory(run), 12),
        "d": (lambda: tests(run), 10),
        "e": (lambda: loaders(run), 10),
    }
    start = time.monotonic()
    for name, (part, least_s) in parts.items():
        if only and name not in only:
            continue
        if run.left_s < least_s:
            click.echo(f"\n== part {name}: left out, {run.left_s:.0f} s left ==")
            continue
        began = time.monotonic()
        with suppress_and_tell(name):
            part()
        click.echo(f"(part {name}: {time.monotonic() - began:.1f} s)")
    run.publish("budget", [{"seconds": seconds, "taken": time.monotonic() - start}])


@contextmanager
def suppress_and_tell(name: str) -> Iterator[None]:
    """A part that fails says so, and the next one begins."""
    try:
        yield
    except subprocess.TimeoutExpired as error:
        click.echo(f"part {name}: time is up ({error.timeout:.0f} s)")
    except Exception as error:
        click.echo(f"part {name} FAILED: {type(error).__name__}: {error}")


# ------------------------------------------------------------------------------------------- whole runs


def start(
    run: Run, source: Path, label: str, *options: str, threads: int | None = None
) -> "subprocess.Popen[str]":
    """Start the command; its label maps and report go to a folder of the label's name."""
    output = run.out / "work" / label
    command = [sys.executable, "-m", "inference", "--input", source, "--output", output, "--quiet"]
    command += ["--report", output / "report.json", *options]
    if threads:
        command += ["--threads", threads]
    log = (run.out / f"{label}.log").open("w")
    return subprocess.Popen(list(map(str, command)), cwd=ROOT, stderr=log, text=True)


def finish(run: Run, process: "subprocess.Popen[str]", label: str) -> dict[str, Any]:
    """Wait for it; its report."""
    with ended(process):
        status = process.wait(timeout=max(1.0, run.left_s))
    told = (run.out / f"{label}.log").read_text()
    if status:
        click.echo(f"{label}: exit status {status}\n{told[-600:]}")
    report: dict[str, Any] = json.loads((run.out / "work" / label / "report.json").read_text())
    return report


@contextmanager
def ended(process: "subprocess.Popen[str] | None") -> Iterator[None]:
    """Afterwards it has ended, whatever happened."""
    try:
        yield
    finally:
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def samples(run: Run, reference: Path | None) -> None:
    """(a) The sample cases' label maps against the CPU's in float32."""
    folder = run.out / "work" / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    for path in SAMPLES.iterdir():
        if path.suffix != ".mha" or find_spec("SimpleITK"):
            with suppress(FileExistsError):
                (folder / path.name).symlink_to(path)
    cpu = None
    if reference is None:  # beside the GPU, whose times are not taken here
        options = ("--device", "cpu", "--backend", "torch", "--precision", "float32")
        cpu = start(run, folder, "cpu", *options, threads=max(1, (os.cpu_count() or 2) // 2))
    rows: Rows = []
    with ended(cpu):
        make_case(case_path(run), case_shape(run))
        for precision in ("float32", "bfloat16"):
            began = time.monotonic()
            own = ("--device", run.device, "--precision", precision)
            report = finish(run, start(run, folder, precision, *own), precision)
            if cpu is not None:
                finish(run, cpu, "cpu")
            for case in report["cases"]:
                truth = (reference or run.out / "work" / "cpu") / case["output"]
                found = run.out / "work" / precision / case["output"]
                row = {"case": case["name"], "precision": precision, "device": report["run"]["device"]}
                if not (truth.is_file() and found.is_file()):
                    rows.append({**row, "failed": case["error"] or "no label map"})
                    continue
                a, b = labels_of(found), labels_of(truth)
                row |= {"kidney DSC": dice(a > 0, b > 0), "tumor DSC": dice(a == 2, b == 2)}
                row |= {
                    "voxels that differ": int(np.count_nonzero(a != b)),
                    "kidney ∪ tumor": int((b > 0).sum()),
                }
                rows.append(row | {"compute s": compute_s(case)})
            click.echo(f"({precision}: {time.monotonic() - began:.1f} s with start-up)")
    run.publish("a: label maps against the CPU's (float32)", rows)


def labels_of(path: Path) -> NDArray[np.uint8]:
    """A label map as it is stored."""
    if path.name.endswith(".mha"):
        import SimpleITK as sitk

        return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
    import nibabel as nib

    image: Any = nib.load(path)
    return np.asarray(image.dataobj).astype(np.uint8)


def compute_s(case: dict[str, Any]) -> float:
    """All stages but reading and writing."""
    return float(sum(s for stage, s in case["seconds"].items() if stage not in ("read", "write")))


def case_path(run: Run) -> Path:
    """The enlarged sample."""
    return run.out / "work" / "case" / "case_00000" / "imaging.nii.gz"


def case_shape(run: Run) -> tuple[int, int, int]:
    """Of the enlarged sample, as it is stored."""
    return (40, 96, 96) if run.tiny else (219, 512, 512)


def make_case(
    path: Path, shape: tuple[int, int, int], *, dtype: str = "<f8", slice_mm: float | None = None
) -> None:
    """Enlarge a sample case to (slices, 512, 512) with noise, as KiTS19's CTs are stored.

    Args:
        path: to write, unless it is there.
        shape: (slices, rows, columns).
        dtype: of the voxels; KiTS19's are float64.
        slice_mm: distance of the slices; by default the whole stays as long as the sample is.
    """
    import nibabel as nib
    from isal import igzip
    from scipy import ndimage

    if path.exists():
        return
    image: Any = nib.load(SAMPLE)
    hu = np.asarray(image.dataobj, dtype=np.float32)
    affine = image.affine @ np.diag([*(n / m for n, m in zip(hu.shape, shape, strict=True)), 1.0])
    if slice_mm is not None:
        affine[:3, 0] *= slice_mm / np.linalg.norm(affine[:3, 0])
    header = nib.Nifti1Header()
    header.set_data_dtype(np.dtype(dtype))
    header.set_data_shape(shape)
    header.set_sform(affine, 1)
    header.set_xyzt_units("mm")
    header["magic"], header["vox_offset"] = b"n+1", 352
    header.set_slope_inter(1, 0)
    random = np.random.default_rng(0)
    zoom = [n / m for n, m in zip(shape[:2], hu.shape[:2], strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with igzip.open(path, "wb", compresslevel=1) as file:
        file.write(header.binaryblock + bytes(4))
        for k in range(shape[2]):  # the last axis varies slowest
            plane = hu[:, :, min(hu.shape[2] - 1, k * hu.shape[2] // shape[2])]
            fine = ndimage.zoom(plane, zoom, order=1, grid_mode=True, mode="nearest")
            fine = np.rint(fine + random.normal(0, NOISE_HU, fine.shape))
            file.write(fine.astype(dtype).tobytes(order="F"))


def whole_cases(run: Run) -> None:
    """(b) 512×512×219 end to end by stage, in a process of its own and again; then a batch of eight."""
    make_case(case_path(run), case_shape(run))
    folder = case_path(run).parent.parent
    batch = run.out / "work" / "batch-in"
    for i in range(BATCH if not run.tiny else 3):
        (batch / f"case_{i:05d}").mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            (batch / f"case_{i:05d}" / "imaging.nii.gz").symlink_to(case_path(run))
    own = ("--device", run.device)
    rows: Rows = []
    for label in ("one case, a process", "the same again"):
        began = time.perf_counter()
        report = finish(run, start(run, folder, "one", *own), "one")
        wall = time.perf_counter() - began
        (case,) = report["cases"]
        start_up = wall - report["run"]["seconds"]
        rows.append({"what": label, "start-up": start_up, **case["seconds"], "all": wall})
        if run.left_s < 45:
            break
    report = finish(run, start(run, batch, "batch", *own), "batch")
    first, *others = report["cases"]
    rows.append({"what": "batch, its first case", **first["seconds"]})
    stages = list(dict.fromkeys(stage for case in others for stage in case["seconds"]))
    warm = {stage: float(np.median([case["seconds"].get(stage, 0.0) for case in others])) for stage in stages}
    rows.append({"what": "batch, median of the others", **warm})
    run.publish("b: 512×512×219 float64, seconds by stage", rows, f"run: {report['run']}")
    lanes = {"read": 0.0, "compute": 0.0, "write": 0.0}
    for case in report["cases"]:
        for stage, seconds in case["seconds"].items():
            lanes[stage if stage in ("read", "write") else "compute"] += seconds
    bound = max(lanes.values()) + first["seconds"]["read"] + report["cases"][-1]["seconds"]["write"]
    wall, n = report["run"]["seconds"], len(report["cases"])
    row = {"cases": n, **lanes, "sum": sum(lanes.values()), "bound": bound, "wall": wall}
    row |= {"bound / wall": bound / wall, "wall a case": wall / n}
    row |= {"compute a case, warm": float(np.median([compute_s(case) for case in others]))}
    run.publish("b: a batch; bound = longest lane + first read + last write", [row])


# ------------------------------------------------------------------------------- memory, steps, one pass


def memory(run: Run) -> None:
    """(c) One pass and one training step at 168³ by precision and layout: seconds and peak memory."""
    import torch

    device = torch.device(run.device)
    side, repeats = (32, 1) if run.tiny else (168, 3)
    torch.backends.cudnn.allow_tf32 = False
    is_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if is_gpu else processor()
    context = 0.0
    if is_gpu:
        free, total = torch.cuda.mem_get_info(device)
        context = (total - free) / 2**20
    note = f"{name}, torch {torch.__version__}, {side}³, batch 1; the context takes {context:.0f} MiB more"

    rows: Rows = []
    precisions = ("float32", "bfloat16", "float16")[: 3 if is_gpu else 2]  # CPUs emulate float16
    for precision in precisions:
        for layout in ("channels-last", "contiguous"):
            rows.append(_measured(run, repeats, precision=precision, layout=layout, side=side))
    run.publish("c: one pass of one network at inference", rows, note)

    rows = []
    checkpointing = (False, True)
    for precision in precisions:
        for on in checkpointing:
            if run.left_s < 5:
                break
            row = _measured(
                run,
                repeats,
                precision=precision,
                layout="channels-last",
                side=side,
                is_training=True,
                saves=on,
            )
            if "reserved MiB" in row:
                row["of 8 GiB"] = (row["reserved MiB"] + context) / PROMISED_MIB
            rows.append(row)
    run.publish("c: one training step", rows, note)


def _measured(
    run: Run,
    repeats: int,
    *,
    precision: str,
    layout: str,
    side: int,
    is_training: bool = False,
    saves: bool = False,
) -> dict[str, Any]:
    """Seconds and peak memory of a pass or a step; why not, where it fails."""
    import torch

    row: dict[str, Any] = {"precision": precision, "layout": layout}
    if is_training:
        row["checkpointing"] = "yes" if saves else "no"
    is_gpu = run.device != "cpu"
    try:
        what = (run.device, precision, layout, side)
        call = _training_step(*what, saves) if is_training else _pass(*what)
        call()
        if is_gpu:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            call()
            if is_gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        row["seconds"] = min(times)
        if is_gpu:
            row["allocated MiB"] = torch.cuda.max_memory_allocated() / 2**20
            row["reserved MiB"] = torch.cuda.max_memory_reserved() / 2**20
    except Exception as error:
        row["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
    if is_gpu:
        torch.cuda.empty_cache()
    return row


def _pass(device: str, precision: str, layout: str, side: int) -> Callable[[], object]:
    import torch

    from inference.networks.vnet import VNet

    memory_format = torch.channels_last_3d if layout == "channels-last" else torch.contiguous_format
    model = VNet().eval().to(device).to(memory_format=memory_format)  # type: ignore[call-overload]
    image = torch.rand(1, 1, side, side, side, device=device).contiguous(memory_format=memory_format)

    def call() -> object:
        dtype = getattr(torch, precision)
        with (
            torch.inference_mode(),
            torch.autocast(torch.device(device).type, dtype, enabled=precision != "float32"),
        ):
            return torch.sigmoid(model.logits(image).float())

    return call


def _training_step(device: str, precision: str, layout: str, side: int, saves: bool) -> Callable[[], object]:
    import torch

    from inference.networks.vnet import VNet

    memory_format = torch.channels_last_3d if layout == "channels-last" else torch.contiguous_format
    model = VNet().train().to(device).to(memory_format=memory_format)  # type: ignore[call-overload]
    if saves:
        from training.module import checkpoint_activations

        checkpoint_activations(model)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    image = torch.rand(1, 1, side, side, side, device=device).contiguous(memory_format=memory_format)
    target = (image > 0.9).float()
    type_ = torch.device(device).type
    scaler = torch.amp.GradScaler(type_, enabled=precision == "float16" and type_ == "cuda")

    def call() -> object:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(type_, getattr(torch, precision), enabled=precision != "float32"):
            logits = model.logits(image)
        p = torch.sigmoid(logits.float())
        loss = -2 * (p * target).sum() / (p.sum() + target.sum() + 1e-6)  # paper, section 2.4
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        return loss

    return call


# ----------------------------------------------------------------------------------------- tests, loaders


def tests(run: Run) -> None:
    """(d) The tests that need a GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--noconftest"]
    command += ["--durations=5", "-rA" if run.device == "cpu" else "-ra", "tests/test_gpu.py"]
    limit = max(5.0, run.left_s - (20 if run.left_s > 40 else 0))  # the loaders are to have a turn
    log = run.out / "tests.log"
    try:
        with log.open("w") as file:
            environment = {**os.environ, "TEST_DEVICE": run.device}
            done = subprocess.run(
                command, cwd=ROOT, env=environment, timeout=limit, stdout=file, stderr=subprocess.STDOUT
            )
        status = str(done.returncode)
    except subprocess.TimeoutExpired:
        status = f"time was up after {limit:.0f} s"
    told = log.read_text()
    click.echo(told[-4000:])
    summary = [
        line for line in told.splitlines() if " in " in line and ("passed" in line or "failed" in line)
    ]
    run.publish("d: tests", [{"status": status, "summary": (summary or ["none"])[-1]}])


LOADER = """
import sys, time
from training.chain import PRESETS
from training.data import Patients
preset, workers, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
patients = Patients(PRESETS[preset], None, workers=workers)
start = time.perf_counter()
loader = patients.train_dataloader()

def forever():
    while True:
        yield from loader

batches = forever()
first = next(batches)
began, n = time.perf_counter(), 0
image = first[0] if isinstance(first, (tuple, list)) else next(iter(first.values()))
while time.perf_counter() - began < seconds:
    next(batches)
    n += len(image)
took = time.perf_counter() - began
print("RESULT", began - start, n / took, tuple(image.shape), flush=True)
import os
os._exit(0)  # workers are daemons; nothing here is worth waiting for
"""


def loaders(run: Run) -> None:
    """(e) Samples a second from one and sixteen loader processes, on patients that are drawn."""
    from training.chain import PRESETS

    wanted = ("tiny-kidney",) if run.tiny else ("kidney-scans", "paper-kidney")
    preset = next((name for name in wanted if name in PRESETS), next(iter(PRESETS)))
    rows: Rows = []
    for workers in (1, min(16, 2 if run.tiny else os.cpu_count() or 1)):
        seconds = max(2.0, min(8.0, run.left_s / 2 - 8))
        command = [sys.executable, "-c", LOADER, preset, str(workers), str(seconds)]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=max(5.0, run.left_s),
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
                 "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        told = [line.split(maxsplit=3) for line in done.stdout.splitlines() if line.startswith("RESULT")]
        row: dict[str, Any] = {"preset": preset, "loader processes": workers}
        if told:
            _, first_s, rate, shape = told[-1]
            row |= {"first batch s": float(first_s), "samples/s": float(rate), "batch": shape}
        else:
            row["failed"] = " ".join(done.stderr.split())[-100:]
        rows.append(row)
        run.publish("e: training samples", rows)


if __name__ == "__main__":
    main()

"""Whole runs of the command on large CTs: seconds and peak memory by stage, and what overlap saves.

    python -m benchmarks.pipeline WORK largest [--image IMAGE]   512×512×1059 float64, KiTS19's largest
    python -m benchmarks.pipeline WORK batch [--cases 4]         CTs of 512×512×219, one after another

WORK is a folder for the CTs (made once, about 1 GB) and the label maps. With `--image` the command runs in
that container, without network or rights, in 4 GiB on two cores. `batch` compares the wall time with the sum
of all stages of all cases: reading and writing run beside the networks.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import nibabel as nib
import numpy as np
import torch
from scipy import ndimage

from training.synthesis import draw_labels, synthesise_ct

DRAWN_SPACING_MM = 4.0
PIXELS, PIXEL_MM, SLICE_MM = 512, 0.8, 1.0
NOISE_HU = 12.0  # real CTs compress by a third of what smooth ones do
LIMITS = (
    *("--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges", "--pids-limit", "128", "--memory", "4g", "--cpus", "2"),
)


def make_ct(path: Path, *, n_slices: int, dtype: type, seed: int) -> None:
    """Write a drawn CT in KiTS19's orientation (first axis from head to feet) unless it is there."""
    if path.exists():
        return
    mm = (n_slices * SLICE_MM, PIXELS * PIXEL_MM, PIXELS * PIXEL_MM)
    z, y, x = (8 * round(side / DRAWN_SPACING_MM / 8) for side in mm)
    labels = draw_labels(shape_vox=(z, y, x), spacing_mm=DRAWN_SPACING_MM, seed=seed)
    inside = torch.ones_like(labels, dtype=torch.bool)
    drawn = synthesise_ct(labels, inside, spacing_mm=DRAWN_SPACING_MM, seed=seed).numpy()
    random = np.random.default_rng(seed)
    voxels = np.empty((n_slices, PIXELS, PIXELS), dtype=np.int16)
    zoom = [n / m for n, m in zip(voxels.shape[1:], drawn.shape[1:], strict=True)]
    for i in range(n_slices):
        plane = drawn[min(z - 1, i * z // n_slices)]
        fine = ndimage.zoom(plane, zoom, order=1, grid_mode=True, mode="nearest")
        voxels[n_slices - 1 - i] = fine + random.normal(0, NOISE_HU, fine.shape)
    affine = np.array([[0, 0, -PIXEL_MM, 0], [0, -PIXEL_MM, 0, 0], [-SLICE_MM, 0, 0, 0], [0, 0, 0, 1.0]])
    image = nib.Nifti1Image(voxels, affine)
    image.set_data_dtype(dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"partial-{path.name}")
    nib.save(image, partial)
    partial.replace(path)


def segment(source: Path, output: Path, *, image: str | None) -> dict:
    """Run the command, here or in a container; returns its report."""
    output.mkdir(parents=True, exist_ok=True)
    if image is None:
        command = [sys.executable, "-m", "inference", "--input", str(source), "--output", str(output)]
        command += ["--report", str(output / "report.json")]
    else:
        output.chmod(0o777)
        mounts = ["-v", f"{source.resolve()}:/input:ro", "-v", f"{output.resolve()}:/output"]
        command = [os.environ.get("DOCKER", "docker"), "run", *LIMITS, "--user", "12345:12345", *mounts]
        command += [image, "--report", "/output/report.json"]
    subprocess.run(command, check=True)
    return json.loads((output / "report.json").read_text())


@click.group()
@click.argument("work", type=click.Path(path_type=Path))
@click.pass_context
def main(context: click.Context, work: Path) -> None:
    """Time whole runs on large CTs."""
    context.obj = work


@main.command()
@click.option("--slices", default=1059, show_default=True)
@click.option("--image", default=None, help="Container image to run instead of this Python.")
@click.pass_obj
def largest(work: Path, slices: int, image: str | None) -> None:
    """One case of 512×512×1059 float64: seconds and peak memory by stage."""
    make_ct(work / "largest" / "case_00000" / "imaging.nii.gz", n_slices=slices, dtype=np.float64, seed=3)
    report = segment(work / "largest", work / "out-largest", image=image)
    (case,) = report["cases"]
    voxels_mib = slices * PIXELS * PIXELS * 2 / 2**20
    click.echo(f"512×512×{slices} float64, {voxels_mib:.0f} MiB as int16; kidney {case['kidney_ml']} ml")
    click.echo(f"{'stage':<12}{'seconds':>9}{'peak RSS MiB':>14}")
    for stage, seconds in case["seconds"].items():
        click.echo(f"{stage:<12}{seconds:>9.2f}{case['peak_rss_mib'][stage]:>14}")
    click.echo(f"{'all':<12}{report['run']['seconds']:>9.2f}{max(case['peak_rss_mib'].values()):>14}")


@main.command()
@click.option("--cases", default=4, show_default=True)
@click.option("--slices", default=219, show_default=True)
@click.pass_obj
def batch(work: Path, cases: int, slices: int) -> None:
    """Several cases: wall time against the sum of their stages."""
    for i in range(cases):
        path = work / f"batch-{cases}" / f"case_{i:05d}" / "imaging.nii.gz"
        make_ct(path, n_slices=slices, dtype=np.float64, seed=i)
    report = segment(work / f"batch-{cases}", work / "out-batch", image=None)
    stages = sum(sum(case["seconds"].values()) for case in report["cases"])
    wall = report["run"]["seconds"]
    click.echo(f"{cases} cases of 512×512×{slices} float64: wall {wall:.1f} s, sum of stages {stages:.1f} s")
    click.echo(f"wall / sum {wall / stages:.2f}")


if __name__ == "__main__":
    main()

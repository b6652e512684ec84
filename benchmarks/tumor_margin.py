"""How much around the kidneys the tumor network has to see: label maps and times against the whole ROI.

    python -m benchmarks.tumor_margin FOLDER [--weights weights]

FOLDER is any input folder of `python -m inference`. Every CT is segmented with the tumor network run on the
whole ROI, then on the kidneys' box with margins of several voxels.
"""

import time
from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from evaluation.metrics import dice
from inference.formats.ct import read_ct
from inference.geometry import TUMOR, resample
from inference.method.cascade import locate_kidneys, look_coarsely, segment_tumor
from inference.method.evidence import segment_kidneys
from inference.method.method import DEFAULT
from inference.method.postprocess import restore
from inference.method.roi import normalise
from inference.networks.cascade import load_cascade
from inference.runner.cases import find_cases

MARGINS_VOX = (0, 8, 16, 24, 32)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--weights", type=click.Path(path_type=Path), default=Path("weights"), show_default=True)
def main(folder: Path, weights: Path) -> None:
    """Print the table."""
    cascade = load_cascade(weights, device="cpu")
    scores: dict[int, list[float]] = {margin: [] for margin in MARGINS_VOX}
    shares: dict[int, list[float]] = {margin: [] for margin in MARGINS_VOX}
    for case in find_cases(folder):
        ct = read_ct(case.source)
        roi = locate_kidneys(ct.hu, ct.spacing_mm, cascade)
        hu = resample(ct.hu, roi)
        image = normalise(hu, roi.spec)
        probability = cascade.kidney(image)
        coarse = look_coarsely(ct.hu, ct.spacing_mm, roi, cascade)
        structures = segment_kidneys(probability, hu, cascade.kidney_metadata, coarse=coarse)
        seconds, maps = {}, {}
        for margin in (None, *MARGINS_VOX):
            for _ in range(2):  # the first pass of a shape prepares for it
                start = time.perf_counter()
                found = segment_tumor(image, structures, cascade, replace(DEFAULT, tumor_margin_vox=margin))
                seconds[margin] = time.perf_counter() - start
            labels, _ = restore(probability, found, structures, roi, ct.hu.shape, cascade.thresholds)
            maps[margin] = labels == TUMOR
        for margin in MARGINS_VOX:
            scores[margin].append(dice(maps[margin], maps[None]))
            shares[margin].append(seconds[margin] / seconds[None])
        told = "  ".join(f"{margin}: {scores[margin][-1]:.4f}" for margin in MARGINS_VOX)
        click.echo(f"{case.name:24}{np.count_nonzero(maps[None]):9d} tumor voxels  {told}")
    click.echo(
        f"\n{'margin, voxels':16}{'tumor DSC, mean':>16}{'worst':>8}{'time':>8}   against the whole ROI"
    )
    for margin in MARGINS_VOX:
        mean, worst, share = np.mean(scores[margin]), min(scores[margin]), np.mean(shares[margin])
        click.echo(f"{margin:<16}{mean:16.4f}{worst:8.4f}{share:8.2f}")


if __name__ == "__main__":
    main()

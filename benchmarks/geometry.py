"""What the pipeline's own geometry costs: the score of a perfect network.

    python -m benchmarks.geometry LABELS [--every 7] [--spacing-mm 2.0]

LABELS is a folder in KiTS19's layout (`case_00000/segmentation.nii.gz` …). The reference label map takes the
place of both networks' probabilities on the ROI grid, once "soft" (the share of kidney or tumor that linear
interpolation gives an ROI voxel, what a perfectly calibrated network would say) and once "hard" (0 or 1).
All that is lost between that and the label map on the CT's grid is lost by crop, resampling, components and
restore. Scans longer than the ROI are counted apart, with the paper's centre crop and with ours.
"""

from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from evaluation.metrics import dice
from inference.formats.ct import read_ct
from inference.geometry import RoiSpec, resample
from inference.method.cascade import locate_kidneys
from inference.method.method import DEFAULT, PAPER, Method
from inference.method.postprocess import keep_kidneys, keep_tumors, restore
from inference.networks.cascade import Cascade
from inference.networks.vnet import DOWNSAMPLING
from inference.networks.weights import WeightsMetadata


def perfect_cascade(spacing_mm: float = 2.0) -> Cascade:
    """Networks that hand on what they see, on a grid of this spacing, as long and wide as the paper's."""
    side = DOWNSAMPLING * round(RoiSpec().extent_mm[0] / spacing_mm / DOWNSAMPLING)
    roi = RoiSpec((side, side, side), spacing_mm, window_hu=(0.0, 1.0))  # masks stand in for HU
    kidney, tumor = WeightsMetadata(stage="kidney", roi=roi), WeightsMetadata(stage="tumor", roi=roi)
    return Cascade(lambda roi: roi, lambda roi: roi, kidney, tumor)


def score(path: Path, cascade: Cascade, method: Method, *, hard: bool) -> tuple[float, float, bool]:
    """Kidney and tumor Dice of a perfect network on one label map, and whether it is longer than the ROI."""
    spec, metadata = cascade.kidney_metadata.roi, cascade.kidney_metadata
    reference = read_ct(path)
    labels, spacing_mm = reference.hu, reference.spacing_mm
    in_kidney, in_tumor = (labels > 0).astype(np.int16), (labels == 2).astype(np.int16)
    by_size = replace(PAPER, roi_follows_kidneys=method.roi_follows_kidneys)  # a mask has no fat
    roi = locate_kidneys(in_kidney, spacing_mm, cascade, by_size)
    kidney, tumor = (np.nan_to_num(resample(mask, roi)) for mask in (in_kidney, in_tumor))
    if hard:
        kidney, tumor = ((p > 0.5).astype(np.float32) for p in (kidney, tumor))
    structures = keep_kidneys(kidney > metadata.threshold, spec.spacing_mm**3)
    no_hu = np.zeros(kidney.shape, np.float32)
    by_size = replace(method, max_cyst_hu=-10.0, min_mean_tumor_probability=0.0)
    restored, _ = restore(
        kidney,
        keep_tumors(tumor, structures, no_hu, cascade.tumor_metadata, by_size),
        structures,
        roi,
        labels.shape,
        cascade.thresholds,
        nearest=not method.interpolate,
    )
    is_long = labels.shape[0] * spacing_mm[0] > spec.extent_mm[0]
    return dice(restored > 0, labels > 0), dice(restored == 2, labels == 2), is_long


@click.command()
@click.argument("labels", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--every", default=7, show_default=True, help="Use case numbers divisible by this.")
@click.option("--spacing-mm", default=2.0, show_default=True, help="Of the networks' grid.")
def main(labels: Path, every: int, spacing_mm: float) -> None:
    """Print kidney and tumor Dice (mean, worst) of a perfect network for every way of restoring."""
    paths = [
        p for p in sorted(labels.glob("case_*/segmentation.nii.gz")) if int(p.parent.name[5:]) % every == 0
    ]
    if not paths:
        raise click.ClickException(
            f"{labels}: no case_*/segmentation.nii.gz of a number divisible by {every}"
        )
    cascade = perfect_cascade(spacing_mm)
    click.echo(f"{len(paths)} label maps, ROI {cascade.kidney_metadata.roi.shape_vox} at {spacing_mm} mm")
    click.echo(f"{'way':<28}{'kidney mean':>12}{'worst':>8}{'tumor mean':>12}{'worst':>8}{'long scans':>24}")
    for method, name in ((DEFAULT, "default (interpolated)"), (PAPER, "--paper (nearest)")):
        for hard in (False, True):
            scores = np.array([score(path, cascade, method, hard=hard) for path in paths])
            (kidney, tumor), long = scores[:, :2].T, scores[:, 2] > 0
            means = f"{kidney.mean():>12.4f}{kidney.min():>8.3f}{tumor.mean():>12.4f}{tumor.min():>8.3f}"
            of_long = (
                f"{long.sum()}: {kidney[long].mean():.3f} / {tumor[long].mean():.3f}"
                if long.any()
                else "none"
            )
            click.echo(f"{name + (', hard' if hard else ', soft'):<28}{means}{of_long:>24}")


if __name__ == "__main__":
    main()

"""Where the ROI should lie in a scan longer than itself: the ways to find the kidneys, compared.

    python -m benchmarks.long_scans CACHE [--cases 12] [--weights weights]

CACHE is what `python -m training prepare` wrote. Synthetic scans of 0.6 to 1 m are drawn around the label
maps that fold 0 holds out, the kidneys anywhere along them. The ways: the paper's crop around the image
centre; overlapping tiles along z (the default); one coarse look at the whole length, at twice the network's
spacing; one look at the whole length at its own spacing.
"""

import time
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.metrics import dice
from inference.geometry import Roi, RoiSpec, Shape, Vector, resample
from inference.method.cascade import locate_kidneys
from inference.method.evidence import segment_kidneys
from inference.method.postprocess import Structures, restore
from inference.method.roi import normalise, place_roi
from inference.networks.backends import Backend, usable_cores
from inference.networks.cascade import Cascade
from inference.networks.vnet import DOWNSAMPLING
from inference.networks.weights import load_weights
from training.cache import LabelMap, cached_names, load_label_maps
from training.config import AS_THEY_ARE
from training.data import split_cases
from training.synthesis.draw import synthesise_ct
from training.synthetic import patient_landmarks, place_patient, sample_inside, sample_labels

SCAN_SPACING_MM = 3.0
LONG = replace(
    AS_THEY_ARE, scan_length_share=1.0, scan_length_mm=(600.0, 1000.0), scan_shift_mm=(-350.0, 350.0)
)
COARSE = 2.0
"""The coarse look's spacing, in the network's."""


def draw_scan(source: LabelMap, seed: int) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """A long synthetic CT (HU) and its labels, both (z, y, x) at `SCAN_SPACING_MM`."""
    rng, cpu = np.random.default_rng(seed), torch.device("cpu")
    patient = place_patient(source, LONG, rng)
    z, y, x = ((patient.scan_high_mm - patient.scan_low_mm) / SCAN_SPACING_MM).astype(int).tolist()
    oz, oy, ox = (patient.scan_low_mm + SCAN_SPACING_MM / 2).tolist()
    grid = {"shape_vox": (z, y, x), "spacing_mm": SCAN_SPACING_MM, "origin_mm": (oz, oy, ox), "device": cpu}
    labels, inside = sample_labels(patient, **grid), sample_inside(patient, **grid)
    hu = synthesise_ct(
        labels,
        inside,
        spacing_mm=SCAN_SPACING_MM,
        seed=seed,
        landmarks=patient_landmarks(patient, device=cpu),
        origin_mm=(oz, oy, ox),
    )
    return np.rint(hu.numpy()).astype(np.int16), labels.numpy()


def look_at_all(hu: NDArray[np.int16], spacing_mm: Vector, cascade: Cascade, *, coarseness: float) -> Roi:
    """The ROI around what one pass over the whole length finds."""
    spec = cascade.kidney_metadata.roi
    look_mm = spec.spacing_mm * coarseness

    def side(extent_mm: float) -> int:
        return DOWNSAMPLING * int(np.ceil(extent_mm / look_mm / DOWNSAMPLING))

    shape: Shape = (side(hu.shape[0] * spacing_mm[0]), side(spec.extent_mm[1]), side(spec.extent_mm[2]))
    look = place_roi(hu.shape, spacing_mm, RoiSpec(shape, look_mm, spec.normalisation, spec.window_hu))
    metadata = replace(cascade.kidney_metadata, roi=look.spec)
    structures = _kidneys(hu, look, replace(cascade, kidney_metadata=metadata))[1]
    if not structures.boxes:
        return place_roi(hu.shape, spacing_mm, spec)
    ends = [look.to_ct_index((box[0].start - 0.5, 0, 0))[0] for box in structures.boxes[:2]]
    ends += [look.to_ct_index((box[0].stop - 0.5, 0, 0))[0] for box in structures.boxes[:2]]
    return place_roi(hu.shape, spacing_mm, spec, centre_z_vox=(min(ends) + max(ends)) / 2)


def _kidneys(hu: NDArray[np.int16], roi: Roi, cascade: Cascade) -> tuple[NDArray[np.float32], Structures]:
    roi_hu = resample(hu, roi)
    probability = cascade.kidney(normalise(roi_hu, roi.spec))
    return probability, segment_kidneys(probability, roi_hu, cascade.kidney_metadata)


def score(
    hu: NDArray[np.int16], labels: NDArray[np.uint8], roi: Roi, cascade: Cascade
) -> tuple[float, float]:
    """Kidney DSC of the whole chain with this ROI, and the share of kidney that lies in it along z."""
    kidney, structures = _kidneys(hu, roi, cascade)
    restored, _ = restore(
        kidney,
        np.zeros_like(kidney),
        structures,
        roi,
        labels.shape,
        cascade.thresholds,
    )
    low, high = roi.to_ct_index((-0.5, 0, 0))[0], roi.to_ct_index((roi.spec.shape_vox[0] - 0.5, 0, 0))[0]
    slices = np.count_nonzero(labels, axis=(1, 2))
    covered = slices[max(0, round(low)) : max(0, round(high))].sum() / slices.sum()
    return dice(restored > 0, labels > 0), float(covered)


@click.command()
@click.argument("cache", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--cases", default=12, show_default=True)
@click.option("--weights", default=Path("weights"), show_default=True, type=click.Path(path_type=Path))
def main(cache: Path, cases: int, weights: Path) -> None:
    """Print, for every way: kidney DSC, how much kidney the ROI holds, and seconds to find it."""
    loaded = load_weights(weights / "kidney.safetensors", "kidney")
    network = Backend("torch", "cpu", usable_cores()).network(loaded)  # which takes ROIs of any shape
    cascade = Cascade(network, network, loaded.metadata, replace(loaded.metadata, stage="tumor"))
    spec, spacing_mm = loaded.metadata.roi, (SCAN_SPACING_MM,) * 3
    ways = {
        "centre crop (paper)": lambda hu: place_roi(hu.shape, spacing_mm, spec),
        "tiles (default)": lambda hu: locate_kidneys(hu, spacing_mm, cascade),
        "one look, twice as coarse": lambda hu: look_at_all(hu, spacing_mm, cascade, coarseness=COARSE),
        "one look, own spacing": lambda hu: look_at_all(hu, spacing_mm, cascade, coarseness=1.0),
    }
    names = split_cases(cached_names(cache), fold=0, seed=0)[1]
    maps = list(load_label_maps(cache, names))
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for i in range(cases):
        hu, labels = draw_scan(maps[i % len(maps)], seed=i)
        for name, find in ways.items():
            start = time.perf_counter()
            roi = find(hu)
            seconds = time.perf_counter() - start
            rows[name].append((*score(hu, labels, roi, cascade), seconds))
    shortest, longest = LONG.scan_length_mm
    click.echo(f"{cases} scans of {shortest:.0f} to {longest:.0f} mm, ROI {spec.extent_mm[0]:.0f} mm")
    click.echo(f"{'way':<28}{'kidney DSC':>11}{'worst':>8}{'in the ROI':>12}{'worst':>8}{'seconds':>9}")
    for name, values in rows.items():
        (mean, held, seconds), (worst, least, _) = np.mean(values, 0), np.min(values, 0)
        click.echo(f"{name:<28}{mean:>11.3f}{worst:>8.3f}{held:>12.3f}{least:>8.3f}{seconds:>9.2f}")


if __name__ == "__main__":
    main()

"""KiTS19's label maps on a 2 mm grid, small enough to hold all of them in memory."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.ct import CaseError, read_ct
from inference.preprocess import Roi, RoiSpec, Vector, resample

CACHE_SPACING_MM = 2.0
MARGIN_VOX = 2


@dataclass(frozen=True)
class LabelMap:
    """One patient's label map, cut to the bounding box of the kidneys.

    `labels` is uint8 (z, y, x) at 2 mm, canonical LPS; `start_mm` the position of its voxel (0, 0, 0) in the
    scan, whose corner is the origin; `scan_mm` the scan's extent.
    """

    name: str
    labels: NDArray[np.uint8]
    start_mm: Vector
    scan_mm: Vector


def prepare(data: Path, cache: Path, *, processes: int = 1) -> list[str]:
    """Write `cache/case_XXXXX.npz` for each `data/case_XXXXX/segmentation.nii.gz`; returns failures."""
    cache.mkdir(parents=True, exist_ok=True)
    jobs = [(p, cache / f"{p.parent.name}.npz") for p in sorted(data.glob("case_*/segmentation.nii.gz"))]
    with ProcessPoolExecutor(processes) as pool:
        return [failure for failure in pool.map(_prepare_case, jobs) if failure]


def load_label_maps(cache: Path) -> Iterator[LabelMap]:
    """All label maps of a cache, by name."""
    for path in sorted(cache.glob("case_*.npz")):
        with np.load(path) as file:
            start, scan = tuple(file["start_mm"].tolist()), tuple(file["scan_mm"].tolist())
            yield LabelMap(path.stem, file["labels"], start, scan)


def _prepare_case(job: tuple[Path, Path]) -> str | None:
    source, target = job
    try:
        reference = read_ct(source)
    except CaseError as error:
        return str(error)
    spacing, shape = reference.spacing_mm, reference.hu.shape
    scan_mm = tuple(n * s for n, s in zip(shape, spacing, strict=True))
    z, y, x = (max(1, round(side / CACHE_SPACING_MM)) for side in scan_mm)
    step = [CACHE_SPACING_MM / s for s in spacing]
    start = [(s - 1) / 2 for s in step]  # the first cache voxel begins where the first scan voxel begins
    spec = RoiSpec(shape_vox=(z, y, x), spacing_mm=CACHE_SPACING_MM)
    roi = Roi(spec, (start[0], start[1], start[2]), (step[0], step[1], step[2]))
    organ, tumor = (resample((reference.hu >= label).astype(np.uint8), roi) > 0.5 for label in (1, 2))
    if not organ.any():
        return f"{source}: holds no kidney. Check the label map"
    labels = organ.astype(np.uint8) + (organ & tumor)
    box = []
    for axis in range(3):
        occupied = np.flatnonzero(organ.any(tuple(a for a in range(3) if a != axis)))
        box.append(slice(max(0, occupied[0] - MARGIN_VOX), occupied[-1] + 1 + MARGIN_VOX))
    start_mm = [(side.start + 0.5) * CACHE_SPACING_MM for side in box]
    np.savez_compressed(target, labels=labels[tuple(box)], start_mm=start_mm, scan_mm=scan_mm)
    return None

"""Score one network on whole real scans: DSC of labelled structures, and the volume of false ones."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, log, nan

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from inference.geometry import TUMOR, RoiSpec
from inference.method.cascade import tile_centres
from inference.method.method import DEFAULT
from inference.method.postprocess import keep_kidneys
from inference.method.roi import normalise
from inference.networks.vnet_tensors import DOWNSAMPLING
from training.cache import HU_STEP, IGNORE, LOWEST_HU, Scan

FALSE_LIMIT_ML = 100.0
"""This much false volume costs as much in the loss as a kidney that is missed."""
AROUND_KIDNEYS_VOX = DEFAULT.tumor_margin_vox or 0
"""What the tumor network sees around the kidneys, as at inference."""

Logits = Callable[[Tensor], Tensor]
"""(1, 1, D, H, W) in [0, 1] → logits of the same shape."""


@dataclass(frozen=True)
class ScanScore:
    """Score of one network on one scan.

    Attributes:
        name: of the scan.
        dsc: of the structure; NaN where it is not there, or not labelled.
        false_ml: predicted volume outside of the structure and of ignored voxels.
    """

    name: str
    dsc: float
    false_ml: float


@dataclass(frozen=True)
class Summary:
    """Means over scans.

    Attributes:
        dsc: mean over the scans that show the structure.
        false_ml: mean over all scans.
        loss: −`dsc` plus the mean of false volumes, each as a share of `FALSE_LIMIT_ML` and at most 1.
    """

    dsc: float
    false_ml: float
    loss: float


def summarise(scores: Sequence[ScanScore]) -> Summary:
    """One figure for a set of scans: the best checkpoint has the lowest loss."""
    dsc = [score.dsc for score in scores if not np.isnan(score.dsc)]
    false = np.asarray([score.false_ml for score in scores])
    mean_dsc = float(np.mean(dsc)) if dsc else 0.0
    loss = float(np.mean(np.minimum(false / FALSE_LIMIT_ML, 1.0))) - mean_dsc
    return Summary(mean_dsc, float(false.mean()), loss)


@torch.no_grad()
def score_kidneys(
    logits: Logits,
    scans: Sequence[Scan],
    roi: RoiSpec,
    device: torch.device,
    *,
    threshold: float = 0.5,
) -> list[ScanScore]:
    """The kidney network on overlapping tiles along z, without components of 10 cm³ or less.

    Args:
        logits: the network.
        scans: on the network's own spacing.
        roi: its grid.
        device: where it runs.
        threshold: probability above which a voxel counts.
    """
    least = log(threshold / (1 - threshold))
    scores = []
    for scan in scans:
        found = np.zeros(scan.grey.shape, dtype=bool)
        for start in _tiles(scan.grey.shape, roi):
            image, box, inner = _cut(scan, start, roi.shape_vox, roi)
            tile = (logits(image.to(device)[None, None])[0, 0] > least).cpu().numpy()
            found[box] |= tile[inner]
        found = keep_kidneys(found, scan.spacing_mm**3).ids > 0
        scores.append(_score(scan, found, scan.labels, scan.has_kidney))
    return scores


@torch.no_grad()
def score_tumors(
    logits: Logits,
    scans: Sequence[Scan],
    roi: RoiSpec,
    device: torch.device,
    *,
    margin_vox: int,
    threshold: float = 0.5,
) -> list[ScanScore]:
    """The tumor network around the true kidneys, counted in them and `margin_vox` beside them.

    Args:
        logits: the network.
        scans: on the network's own spacing; those without labelled kidneys are skipped.
        roi: its grid.
        device: where it runs.
        margin_vox: see `LossConfig`.
        threshold: probability above which a voxel counts.
    """
    least = log(threshold / (1 - threshold))
    scores = []
    for scan in scans:
        if not scan.has_kidney:
            continue
        kidneys = (scan.labels > 0) & (scan.labels != IGNORE)
        near = ndimage.find_objects(kidneys.view(np.uint8))[0]
        start = [max(0, side.start - AROUND_KIDNEYS_VOX) for side in near]
        stop = [min(n, side.stop + AROUND_KIDNEYS_VOX) for side, n in zip(near, kidneys.shape, strict=True)]
        size = [-(-(b - a) // DOWNSAMPLING) * DOWNSAMPLING for a, b in zip(start, stop, strict=True)]
        image, box, inner = _cut(scan, start, (size[0], size[1], size[2]), roi)
        found = np.zeros(scan.grey.shape, dtype=bool)
        found[box] = (logits(image.to(device)[None, None])[0, 0] > least).cpu().numpy()[inner]
        distance = ndimage.distance_transform_cdt(~kidneys, "chessboard")
        found &= distance <= margin_vox
        truth = np.where(scan.labels == IGNORE, IGNORE, scan.labels == TUMOR)
        scores.append(_score(scan, found, truth, bool((scan.labels == TUMOR).any())))
    return scores


def _score(scan: Scan, found: NDArray[np.bool_], labels: NDArray, has_structure: bool) -> ScanScore:
    truth, counted = (labels > 0) & (labels != IGNORE), labels != IGNORE
    found = found & counted
    total = int(found.sum()) + int(truth.sum())
    dsc = 2 * int((found & truth).sum()) / total if has_structure and total else nan
    return ScanScore(scan.name, dsc, int((found & ~truth).sum()) * scan.spacing_mm**3 / 1000)


def _tiles(shape: Sequence[int], roi: RoiSpec) -> Iterator[list[int]]:
    """First voxels (may be negative) of tiles that are centred in the plane and cover the scan along z."""
    depth, height, width = roi.shape_vox
    y, x = (shape[1] - height) // 2, (shape[2] - width) // 2
    for centre in tile_centres(shape[0], (roi.spacing_mm,) * 3, roi):
        yield [ceil(centre - depth / 2), y, x]


def _cut(
    scan: Scan, start: Sequence[int], size: tuple[int, int, int], roi: RoiSpec
) -> tuple[Tensor, tuple[slice, ...], tuple[slice, ...]]:
    """A normalised box of a scan, 0 outside; where it lies in the scan, and the scan in it."""
    box = tuple(slice(max(0, a), min(n, a + m)) for a, m, n in zip(start, size, scan.grey.shape, strict=True))
    inner = tuple(slice(side.start - a, side.stop - a) for side, a in zip(box, start, strict=True))
    part = torch.from_numpy(normalise(scan.grey[box].astype(np.float32) * HU_STEP + LOWEST_HU, roi))
    pads = [(s.start, m - s.stop) for s, m in zip(inner, size, strict=True)]
    return functional.pad(part, [n for pair in reversed(pads) for n in pair]), box, inner

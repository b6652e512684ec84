"""Distances on the voxel grid: to the kidneys, and within them."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from training.synthesis.canvas import Box
from training.synthesis.ranges import Point

CLEARANCE_CAP_MM = 28.0
"""Distances from the kidneys are exact up to here; no organ needs more."""
CLEARANCE_GRID_MM = 4.0
"""Those distances are computed on this coarse grid, which is exact enough for the gaps between organs."""


def bounding_box(mask: Tensor, *, margin_vox: int = 0) -> Box | None:
    """The box of the true voxels, grown by a margin within the array; None where there are none."""
    box = []
    for span in (mask.flatten(1).any(1), mask.any(0).any(1), mask.any(0).any(0)):
        index = span.nonzero()
        if len(index) == 0:
            return None
        start, stop = int(index[0]) - margin_vox, int(index[-1]) + 1 + margin_vox
        box.append(slice(max(0, start), min(len(span), stop)))
    return box[0], box[1], box[2]


def distance_mm(mask: Tensor, *, spacing_mm: float, cap_mm: float) -> Tensor:
    """Euclidean distance (mm) of every voxel to the nearest true one, exact below the cap.

    Separable: along each axis in turn, the least of the neighbours' squared distances plus the squared
    distance to them.
    """
    squared = (~mask).float().mul_(cap_mm**2)
    for axis, length in enumerate(mask.shape):
        best = squared.clone()
        for k in range(1, min(length, int(np.ceil(cap_mm / spacing_mm)))):
            step = (k * spacing_mm) ** 2
            upper, lower = best.narrow(axis, k, length - k), best.narrow(axis, 0, length - k)
            torch.minimum(upper, squared.narrow(axis, 0, length - k) + step, out=upper)
            torch.minimum(lower, squared.narrow(axis, k, length - k) + step, out=lower)
        squared = best
    return squared.sqrt_()


def kidney_clearance(kidneys: Tensor, *, spacing_mm: float, origin_mm: Point) -> Tensor:
    """Distance (mm) from the kidneys' surface, capped, 0 inside them."""
    result = torch.full(kidneys.shape, CLEARANCE_CAP_MM, device=kidneys.device)
    box = bounding_box(kidneys, margin_vox=int(np.ceil(CLEARANCE_CAP_MM / spacing_mm)))
    if box is None:
        return result
    near, pool = kidneys[box], max(1, round(CLEARANCE_GRID_MM / spacing_mm))
    if pool > 1:
        # coarse cells begin at multiples of their size in the patient frame, so that crops agree
        ahead = [
            (round(start / spacing_mm) + part.start) % pool
            for start, part in zip(origin_mm, box, strict=True)
        ]
        padded = functional.pad(near.float(), (ahead[2], 0, ahead[1], 0, ahead[0], 0))
        coarse = functional.max_pool3d(padded[None, None], pool, ceil_mode=True)[0, 0] > 0
        distance = distance_mm(coarse, spacing_mm=spacing_mm * pool, cap_mm=CLEARANCE_CAP_MM)
        for axis, length in enumerate(near.shape):  # linear, one axis at a time
            at = (torch.arange(length, device=near.device) + (ahead[axis] + 0.5)) / pool - 0.5
            first = at.floor().clamp_(0, max(0, distance.shape[axis] - 2))
            weight = (at - first).clamp_(0, 1).view([-1 if a == axis else 1 for a in range(3)])
            lower = distance.index_select(axis, first.long())
            upper = distance.index_select(axis, (first.long() + 1).clamp_(max=distance.shape[axis] - 1))
            distance = lower.lerp_(upper, weight)
    else:
        distance = distance_mm(near, spacing_mm=spacing_mm, cap_mm=CLEARANCE_CAP_MM)
    # from voxel centres to the surface between them
    result[box] = distance.sub_(pool * spacing_mm / 2).clamp_(min=spacing_mm / 2).mul_(~near)
    return result

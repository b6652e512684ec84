"""Training samples: a label map, warped at random, and a CT drawn around it on the fly.

Every sample is made from (seed, index) alone, so that a run repeats exactly and a stopped run goes on where
it was: the index of its next sample is all it needs to know.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from inference.preprocess import RoiSpec
from training.prepare import CACHE_SPACING_MM, LabelMap
from training.synthesis import draw_labels, synthesise_ct

Split = Literal["training", "validation"]


@dataclass(frozen=True)
class WarpRanges:
    """How far a patient is changed before a CT is drawn."""

    rotation_degrees: float = 10.0  # about each axis: patients lie askew, kidneys are tilted
    log_scale: float = 0.18  # small women, large men, children's kidneys
    shift_mm: float = 30.0  # the image centre is not the kidneys' centre
    mirror_share: float = 0.5  # liver and spleen are drawn anew, so left and right may change places
    no_tumor_share: float = 0.15  # tumor taken as kidney
    own_kidneys_share: float = 0.1  # drawn, not taken from a label map
    short_scan_share: float = 0.3  # scans that end within the ROI, or cut a kidney
    short_scan_mm: tuple[float, float] = (150.0, 300.0)


RANGES = WarpRanges()


def split_cases(label_maps: Sequence[LabelMap], *, seed: int, validation_share: float) -> dict[str, Split]:
    """Each case's part in training; 90 % / 10 % at random in the paper (section 2.2)."""
    order = np.random.default_rng(seed).permutation(len(label_maps))
    n_validation = max(1, round(len(label_maps) * validation_share)) if label_maps else 0
    validation = set(order[:n_validation].tolist())
    return {m.name: "validation" if i in validation else "training" for i, m in enumerate(label_maps)}


class SyntheticCases(Dataset):
    """Endless synthetic patients; item `i` is the same at every call.

    An item is `(image, target, mask)`, float32 (1, D, H, W) each: the normalised CT, the stage's target, and
    the voxels where the stage's loss looks (tumor: the true kidney ∪ tumor; kidney: everywhere).

    Args:
        label_maps: patients to draw from; without any, all kidneys are drawn.
        stage: "kidney" or "tumor".
        roi: the grid; only the window normalisation is supported.
        seed: of all samples. Training and validation must differ in it.
        first, length: the items are number `first` to `first + length − 1` of the endless sequence.
    """

    def __init__(
        self,
        label_maps: Sequence[LabelMap],
        *,
        stage: str,
        roi: RoiSpec,
        seed: int,
        first: int = 0,
        length: int,
    ) -> None:
        self.label_maps, self.stage, self.roi, self.seed = list(label_maps), stage, roi, seed
        self.first, self.length = first, length

    def __len__(self) -> int:
        """Number of items."""
        return self.length

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        if not 0 <= item < self.length:
            raise IndexError(item)
        random = np.random.default_rng((self.seed, self.first + item))
        labels, inside = self._draw_patient(random)
        hu = synthesise_ct(
            labels, inside, spacing_mm=self.roi.spacing_mm, seed=int(random.integers(2**31))
        )
        low, high = self.roi.window_hu
        image = ((hu - low) / (high - low)).clamp(0, 1)
        organ = (labels > 0).float()
        if self.stage == "tumor":
            return image[None], (labels == 2).float()[None], organ[None]
        return image[None], organ[None], torch.ones_like(organ)[None]

    def _draw_patient(self, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        if not self.label_maps or random.random() < RANGES.own_kidneys_share:
            labels = draw_labels(
                shape_vox=self.roi.shape_vox,
                spacing_mm=self.roi.spacing_mm,
                seed=int(random.integers(2**31)),
            )
            inside = torch.ones_like(labels, dtype=torch.bool)
        else:
            labels, inside = warp(self.label_maps[random.integers(len(self.label_maps))], self.roi, random)
        if random.random() < RANGES.short_scan_share:
            inside &= _short_scan(self.roi, random)
            labels = labels * inside
        if random.random() < RANGES.no_tumor_share:
            labels = labels.clamp(max=1)
        return labels, inside


def warp(case: LabelMap, roi: RoiSpec, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A random rotation, scale, shift and mirror of one patient on the ROI grid.

    Args:
        case: the patient.
        roi: the grid. Its centre is the kidneys' centre, moved by the random shift.
        random: where the numbers come from.

    Returns:
        Labels uint8 (D, H, W) and the voxels inside the scan, bool (D, H, W).
    """
    angles = np.radians(random.uniform(-RANGES.rotation_degrees, RANGES.rotation_degrees, 3))
    matrix = np.eye(3) * np.exp(random.uniform(-RANGES.log_scale, RANGES.log_scale))
    for axis, angle in enumerate(angles):
        i, j = (a for a in range(3) if a != axis)
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    if random.random() < RANGES.mirror_share:
        matrix = matrix @ np.diag([1.0, 1.0, -1.0])
    shift_mm = random.uniform(-RANGES.shift_mm, RANGES.shift_mm, 3)

    size_mm = np.array(case.labels.shape) * CACHE_SPACING_MM
    axes = [(torch.arange(n) - (n - 1) / 2) * roi.spacing_mm for n in roi.shape_vox]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) + torch.from_numpy(shift_mm).float()
    source_mm = grid @ torch.from_numpy(matrix.T).float()  # (D, H, W, 3), zyx from the kidneys' centre
    unit = source_mm / torch.from_numpy(size_mm / 2).float()  # −1 … 1 over the label map, for grid_sample
    labels = torch.from_numpy(case.labels)
    masks = torch.stack([labels > 0, labels == 2]).float()[None]
    organ, tumor = functional.grid_sample(masks, unit.flip(-1)[None], align_corners=False)[0] > 0.5
    centre_mm = np.array(case.start_mm) + (size_mm - CACHE_SPACING_MM) / 2
    scan_mm = source_mm + torch.from_numpy(centre_mm).float()
    inside = ((scan_mm >= 0) & (scan_mm <= torch.tensor(case.scan_mm))).all(-1)
    return (organ.to(torch.uint8) + (organ & tumor)) * inside, inside


def _short_scan(roi: RoiSpec, random: np.random.Generator) -> Tensor:
    """Voxels (D, 1, 1) of a scan that covers a part of the ROI along z, around its centre or a little off."""
    length_mm = random.uniform(*RANGES.short_scan_mm)
    centre_mm = random.uniform(-RANGES.shift_mm, RANGES.shift_mm)
    z_mm = (torch.arange(roi.shape_vox[0]) - (roi.shape_vox[0] - 1) / 2) * roi.spacing_mm
    return ((z_mm - centre_mm).abs() <= length_mm / 2)[:, None, None]

"""A single slice gets depth: its kidneys and tumors become round along z, too.

Repeated along z, a slice shows cylinders. Here every kidney and every tumor is taken for a cut through an
ellipsoid: away from the slice its cross-section shrinks, or grows where the slice is not at its middle, and
what lies around it moves along. Texture and borders within the slice stay a real scanner's.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from inference.geometry import KIDNEY, TUMOR
from training.synthesis.ranges import Range

KIDNEY_HALF_MM: Range = (42.0, 65.0)
"""Half the length of a kidney along z: some 11 cm in all."""
TUMOR_ROUNDNESS: Range = (0.7, 1.3)
"""A tumor's extent along z against that in the slice."""
OFF_MIDDLE: Range = (-0.6, 0.6)
"""Where the slice cuts an ellipsoid, in half-lengths from its middle."""
REACH = 1.5
"""Tissue moves up to so many radii from the centre."""
LEAST_SIZE = 0.05
"""Of a cross-section, against the slice's; smaller ones are gone."""
NUDGE = 1e-3
"""Voxels: the centre itself would lie in no direction."""


@dataclass(frozen=True)
class Cut:
    """One structure's cross-section in the slice, and the ellipsoid that it is taken for.

    Attributes:
        centre_vox: (y, x).
        radius_vox: of the circle about the centre that holds the cross-section.
        half_vox: half the ellipsoid's length along z.
        off_middle: of the slice, in half-lengths.
    """

    centre_vox: tuple[float, float]
    radius_vox: float
    half_vox: float
    off_middle: float

    def size(self, from_slice_vox: Tensor) -> Tensor:
        """Of the cross-section at distances (voxels along z) from the slice, against the slice's."""
        place = self.off_middle + from_slice_vox / self.half_vox
        return (1 - place.square()).clamp(min=0).sqrt() / (1 - self.off_middle**2) ** 0.5

    def where_in_slice(self, points: Tensor, from_slice_vox: Tensor) -> Tensor:
        """Which place of the slice is seen at points (…, yx) that lie `from_slice_vox` (…) above it."""
        centre = torch.tensor(self.centre_vox)
        offset = points - centre + NUDGE
        distance = offset.square().sum(-1).sqrt()
        size = self.size(from_slice_vox)
        inner, outer = size * self.radius_vox, REACH * self.radius_vox * size.clamp(min=1.0)
        within = distance / size.clamp(min=LEAST_SIZE)
        beyond = self.radius_vox + (distance - inner) * (outer - self.radius_vox) / (outer - inner)
        there = torch.where((distance < inner) & (size > LEAST_SIZE), within, beyond)
        moved = torch.where(distance < outer, there, distance)
        return centre + offset * (moved / distance)[..., None]


def draw_cuts(labels: NDArray[np.uint8], spacing_mm: float, rng: Generator) -> list[Cut]:
    """The kidneys of a slice, then its tumors, with random extents along z.

    Args:
        labels: uint8 (y, x).
        spacing_mm: side of a voxel.
        rng: all that is random comes from it.
    """
    cuts = []
    for values in ((KIDNEY, TUMOR), (TUMOR,)):
        parts, n = ndimage.label(np.isin(labels, values))
        for part in range(1, n + 1):
            voxels = np.argwhere(parts == part)
            y, x = voxels.mean(0).tolist()
            radius = float(np.linalg.norm(voxels - (y, x), axis=1).max()) + 1
            half = radius * float(rng.uniform(*TUMOR_ROUNDNESS))
            if KIDNEY in values:  # with a large tumor it is longer than others
                half = max(half, float(rng.uniform(*KIDNEY_HALF_MM)) / spacing_mm)
            cuts.append(Cut((y, x), radius, half, float(rng.uniform(*OFF_MIDDLE))))
    return cuts


def give_depth(voxels: Tensor, cuts: list[Cut], slice_z: float) -> Tensor:
    """Places of the slab that are seen at scan voxels.

    Args:
        voxels: (D, H, W, zyx) in a slice repeated along z.
        cuts: from `draw_cuts`.
        slice_z: where the slice itself lies.

    Returns:
        The same shape; z is unchanged.
    """
    from_slice, points = voxels[..., 0] - slice_z, voxels[..., 1:]
    for cut in cuts:
        points = cut.where_in_slice(points, from_slice)
    return torch.cat([voxels[..., :1], points], dim=-1)

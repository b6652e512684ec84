"""One plane of a CT with its labels, cut out for a picture: which one, how large, and where it lies."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..formats.ct import Ct
from ..geometry import Shape
from .findings import plane_position_mm, stored_index

WINDOW_HU = (-160.0, 240.0)
FIELD_MM = 400.0
"""Longest side of a picture of a whole CT: a whole-body scan is shown around its kidneys only."""
PLANES = ("axial", "coronal", "sagittal")
"""By the canonical axis that they cut: z, y, x."""
AXIS_LETTERS = ("z", "y", "x")


@dataclass(frozen=True)
class Slice:
    """A piece of a plane as it is shown: superior or anterior at the top, the patient's right on the left.

    Sagittal planes are seen from the patient's left, anterior on the left.

    Attributes:
        plane: one of `PLANES`.
        index: of the plane in the file, from 0, along the axis that it cuts.
        n_slices: along that axis.
        position_mm: of the plane, along the world's axis (LPS).
        hu, labels: (rows, columns).
        voxel_mm: (row, column).
    """

    plane: str
    index: int
    n_slices: int
    position_mm: float
    hu: NDArray[np.int16]
    labels: NDArray[np.uint8]
    voxel_mm: tuple[float, float]

    @property
    def caption(self) -> str:
        """Plane, index and position, for people."""
        letter = AXIS_LETTERS[PLANES.index(self.plane)]
        place_mm = f"{letter} {self.position_mm:.1f} mm"
        return f"{self.plane}, slice {self.index} of 0 to {self.n_slices - 1}, {place_mm}"

    @property
    def edges(self) -> tuple[str, str]:
        """What lies on the left and on the right: R and L, or A and P."""
        return ("A", "P") if self.plane == "sagittal" else ("R", "L")


def cut(ct: Ct, labels: NDArray[np.uint8], axis: int, centre: Shape, field_mm: float) -> Slice:
    """The plane through `centre` across an axis, at most `field_mm` wide and high and within the CT.

    Args:
        ct: the CT.
        labels: (z, y, x), same voxels.
        axis: 0 axial, 1 coronal, 2 sagittal.
        centre: (z, y, x) voxel; the piece is cut out around it.
        field_mm: longest side.
    """
    rows, columns = (a for a in range(3) if a != axis)
    plane = tuple(
        centre[a] if a == axis else _field(labels.shape[a], ct.spacing_mm[a], centre[a], field_mm)
        for a in range(3)
    )
    hu, shown = ct.hu[plane], labels[plane]
    if rows == 0:
        hu, shown = hu[::-1], shown[::-1]  # superior at the top
    return Slice(
        PLANES[axis],
        stored_index(ct.native, axis, centre[axis]),
        labels.shape[axis],
        plane_position_mm(ct.native, axis, centre[axis]),
        hu,
        shown,
        (ct.spacing_mm[rows], ct.spacing_mm[columns]),
    )


def grey(piece: Slice, pixel_mm: float) -> NDArray[np.uint8]:
    """The CT in `WINDOW_HU` with square pixels."""
    low, high = WINDOW_HU
    zoom = [mm / pixel_mm for mm in piece.voxel_mm]
    clipped = np.clip(np.asarray(piece.hu, dtype=np.float32), low, high)
    zoomed = ndimage.zoom(clipped, zoom, order=1, mode="nearest", grid_mode=True)
    return ((zoomed - low) * (255 / (high - low))).astype(np.uint8)


def fullest(mask: NDArray[np.bool_], axis: int) -> int:
    """The index along an axis at which a mask has most voxels."""
    return int(mask.sum(tuple(a for a in range(3) if a != axis)).argmax())


def _field(n_voxels: int, spacing_mm: float, centre: int, field_mm: float) -> slice:
    length = min(n_voxels, max(1, round(field_mm / spacing_mm)))
    start = min(max(0, centre - length // 2), n_voxels - length)
    return slice(start, start + length)

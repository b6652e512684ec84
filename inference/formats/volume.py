"""A CT in memory: Hounsfield units in canonical orientation, and the grid that it came on.

What all file formats share. Canonical is (z, y, x) with z to superior, y to posterior and x to the
patient's left (LPS); oblique axes go to the nearest of these.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray

from ..geometry import Shape, Vector

AIR_HU = -1024
MIN_HU, MAX_HU = -32768, 32767
"""Of int16, in which voxels are kept."""
NO_AIR_HU = -10
"""Images whose lowest value is above this hold no air: they are scaled or shifted, or no CT."""
LIGHT_HU, TISSUE_HU = (-1100, -70), (-200, 300)
"""Air, lungs and fat; fat and soft tissue."""
SHIFTED_TISSUE = (850, 1300)
"""Soft tissue with an offset of 1000 or 1024; in HU, a few percent of bone and contrast medium."""
LOWEST_FAT_HU = -200
"""A lowest value below this is padding or air at the end of the scale: it tells nothing."""
MIN_SHIFTED_SHARE, MIN_LIGHT_SHARE, MIN_TISSUE_SHARE = 0.05, 0.005, 0.02
"""Sixty real CTs have at most 1.2 % shifted, and at least 40 % light and 8.9 % tissue."""
MIN_PADDING_SHARE = 0.001
"""Of the lowest value, where that is a little below 0."""
MAX_COUNTED = 1 << 22
"""Voxels that are enough to tell shares."""
LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
"""World axes (x, y, z) of DICOM and ITK to those of affines here and in NIfTI; its own inverse."""
CANONICAL = axcodes2ornt(("S", "P", "L"))
MIN_SPACING_MM, MAX_SPACING_MM = 0.05, 20.0
MAX_SHEAR_COSINE = 0.02
"""Axes further than this from right angles (1.1°) are sheared: resampling along them would bend anatomy."""


class CaseError(ValueError):
    """This case cannot be processed. The text is one line: file, cause, remedy."""


@dataclass(frozen=True)
class NativeGrid:
    """What is needed to write a label map back on the grid a CT came on.

    Attributes:
        shape: array shape in stored axis order (i, j, k).
        affine: 4×4, (i, j, k) index → millimetres in RAS, as nibabel has it.
        nifti_header: the NIfTI header, where the CT was one.
        dicom_files: the files of its series, where it was one, from the first slice to the last.
    """

    shape: Shape
    affine: NDArray[np.float64]
    nifti_header: Any = None
    dicom_files: tuple[Path, ...] = ()

    @property
    def to_canonical(self) -> NDArray[np.float64]:
        """nibabel's orientation transform from stored axes (i, j, k) to canonical (z, y, x)."""
        return ornt_transform(io_orientation(self.affine), CANONICAL)

    @property
    def from_canonical(self) -> NDArray[np.float64]:
        """The inverse of `to_canonical`."""
        return ornt_transform(CANONICAL, io_orientation(self.affine))

    @property
    def canonical_shape(self) -> Shape:
        """(z, y, x) voxels."""
        z, y, x = (self.shape[int(axis)] for axis in self.from_canonical[:, 0])
        return (z, y, x)

    @property
    def spacing_mm(self) -> Vector:
        """(z, y, x)."""
        spacing = np.linalg.norm(self.affine[:3, :3], axis=0)
        z, y, x = (float(spacing[int(axis)]) for axis in self.from_canonical[:, 0])
        return (z, y, x)


@dataclass(frozen=True)
class Ct:
    """A CT in canonical orientation.

    Attributes:
        hu: int16 Hounsfield units, (z, y, x), C-contiguous.
        native: the grid it came on.
        warnings: what looked odd, each a line for log and report.
    """

    hu: NDArray[np.int16]
    native: NativeGrid
    warnings: tuple[str, ...] = ()

    @property
    def spacing_mm(self) -> Vector:
        """(z, y, x)."""
        return self.native.spacing_mm


def allocate(native: NativeGrid) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """An empty canonical array, and the view of it in stored axis order that a reader fills."""
    canonical = np.empty(native.canonical_shape, dtype=np.int16)
    return canonical, apply_orientation(canonical, native.from_canonical)


def convert_to_int16(values: NDArray, out: NDArray[np.int16]) -> int:
    """Round HU into `out`; numbers that are not finite become air. Returns how many those were."""
    if values.dtype == np.int16:
        out[...] = values
        return 0
    not_finite = 0
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        not_finite = values.size - int(np.count_nonzero(finite))
        if not_finite:
            values = np.where(finite, values, AIR_HU)
        values = np.rint(values)
    out[...] = np.clip(values, MIN_HU, MAX_HU)
    return not_finite


def checked_shape(path: Path, shape: tuple[int, ...]) -> Shape:
    """The shape (i, j, k); a `CaseError` where it is no volume of two voxels each way."""
    if len(shape) != 3 or min(shape) < 2:
        raise CaseError(
            f"{path}: is {' × '.join(map(str, shape))} voxels, not a 3D image. Extract one volume"
        )
    return (int(shape[0]), int(shape[1]), int(shape[2]))


def checked_affine(path: Path, affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The affine; a `CaseError` where its spacing or its angles cannot be right."""
    columns = np.asarray(affine, dtype=np.float64)[:3, :3]
    spacing = np.linalg.norm(columns, axis=0)
    if np.isfinite(columns).all() and not np.isfinite(affine).all():
        raise CaseError(f"{path}: its origin is not finite. Correct the header")
    if not np.isfinite(columns).all() or spacing.min() < MIN_SPACING_MM or spacing.max() > MAX_SPACING_MM:
        raise CaseError(f"{path}: voxel spacing {spacing.tolist()} mm is not usable. Correct the header")
    cosines = np.abs((columns / spacing).T @ (columns / spacing) - np.eye(3)).max()
    if cosines > MAX_SHEAR_COSINE:
        raise CaseError(f"{path}: its axes are not at right angles. Resample it on a straight grid first")
    return np.asarray(affine, dtype=np.float64)


def check_hounsfield(path: str | Path, hu: NDArray[np.int16]) -> None:
    """Refuse an image that can be no CT in HU.

    Every CT of a trunk holds air or fat and soft tissue. Padding around the scan says nothing: it is one
    value, the lowest of all. With an offset of about 1000 air lies at 0 and the body at 1000; with the
    offset taken off twice the body lies at -1000.

    Raises:
        CaseError: an empty label map, no value below 0 but padding's, or shares of values that no CT has.
    """
    low, high = int(hu.min()), int(hu.max())
    if low == high == 0:
        raise CaseError(f"{path}: all voxels are 0: an empty label map, or no CT. Remove it from the input")
    if low == high:
        return  # an empty scan, which gets a warning
    counts = _histogram(hu)
    is_much = counts[low] >= MIN_PADDING_SHARE * sum(counts.values())
    if low < LOWEST_FAT_HU or (low >= LIGHT_HU[1] and is_much):
        counts[low] = 0  # air at the end of the scale, or padding
    if not any(counts.values()):
        return  # nothing but padding among the voxels that were counted: as an empty scan
    lowest = min(value for value, n in counts.items() if n)
    if low >= 0 or (lowest >= 0 and not counts[low]):
        span = f"{low} to {high}" if low >= 0 else f"{lowest} to {high}, but for padding of {low}"
        raise CaseError(f"{path}: values run from {span}: no Hounsfield units. Convert it to HU")
    total = sum(counts.values())
    light, tissue, shifted = (
        sum(n for value, n in counts.items() if start <= value < stop) / total
        for start, stop in (LIGHT_HU, TISSUE_HU, SHIFTED_TISSUE)
    )
    if shifted > max(light, MIN_SHIFTED_SHARE):
        raise CaseError(
            f"{path}: {shifted:.0%} of its values lie where soft tissue does with an offset of 1000, and "
            f"{light:.0%} where air and fat do: no Hounsfield units. Convert it to HU"
        )
    for share, least, what in (
        (light, MIN_LIGHT_SHARE, "air and fat do"),
        (tissue, MIN_TISSUE_SHARE, "soft tissue does"),
    ):
        if share < least:
            raise CaseError(
                f"{path}: {share:.1%} of its values lie where {what}: no Hounsfield units. Convert it to HU"
            )


def _histogram(hu: NDArray[np.int16]) -> dict[int, int]:
    """Counts by value, of a part of a large volume."""
    stride = max(1, math.ceil((hu.size / MAX_COUNTED) ** (1 / 3)))
    counted = hu[::stride, ::stride, ::stride].astype(np.int64).ravel()
    counts = np.bincount(counted - MIN_HU)
    found = {int(value) + MIN_HU: int(counts[value]) for value in np.flatnonzero(counts)}
    return {int(hu.min()): 0} | found


def voxel_warnings(hu: NDArray[np.int16], not_finite: int) -> tuple[str, ...]:
    """What looks odd about the voxels, each a line for log and report."""
    warnings = []
    if not_finite:
        warnings.append(f"{not_finite} voxels are NaN or infinite; taken as air")
    low, high = int(hu.min()), int(hu.max())
    if low == high:
        warnings.append(f"all voxels are {low}: the scan is empty")
    elif low >= NO_AIR_HU:
        warnings.append(f"values run from {low} to {high}: no air, so perhaps no Hounsfield units")
    if high == MAX_HU:
        warnings.append(f"values reach {MAX_HU}, the highest that is kept: perhaps no Hounsfield units")
    return tuple(warnings)

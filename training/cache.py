"""What `prepare` wrote, read back: label maps to synthesise CTs around, and real scans.

Nothing here reads a medical format, so that training runs where only PyTorch and NumPy are installed.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from inference.geometry import KIDNEY, TUMOR, Vector

IGNORE = 255
"""Label of voxels that count in no loss and in no score; the others are those of `inference.geometry`."""
LOWEST_HU, HU_STEP = -280.0, 2.4
"""Scans are kept as 8-bit grey values, −280 to 332 HU: the steps are finer than any CT's noise."""
SCANS = "scans"
"""Subfolder of a cache."""
MARGIN_MM = 10.0
"""Background kept around the kidneys of a label map: interpolation and peeling need some, nothing more."""
SLAB_VOX = 32
"""A single slice is repeated so often: thick enough for a 3D network."""

Role = Literal["train", "set_aside"]


@dataclass(frozen=True)
class LabelMap:
    """The kidneys of one patient, and where the scan lies around them.

    Attributes:
        name: of the case.
        labels: uint8 (z, y, x) in canonical LPS, isotropic, cropped to the kidneys with a margin.
        spacing_mm: side of a voxel.
        first_mm: (z, y, x) of the centre of voxel (0, 0, 0), against the centre of the scan.
        scan_mm: (z, y, x) side lengths of the scan.
    """

    name: str
    labels: NDArray[np.uint8]
    spacing_mm: float
    first_mm: Vector
    scan_mm: Vector


@dataclass(frozen=True)
class Scan:
    """One real CT on an isotropic grid.

    Attributes:
        name: of the scan in the cache.
        case: of the patient; scans, slices and label maps of one case are held out together.
        role: "train", or "set_aside" for validation alone.
        grey: uint8 (z, y, x) in canonical LPS; HU = `LOWEST_HU` + `HU_STEP` · grey.
        labels: uint8, same shape: 0 background, 1 kidney, 2 tumor, 255 ignore.
        spacing_mm: side of a voxel.
        has_kidney: kidneys are labelled; if not, the scan shows no kidney, except in ignored voxels.
        has_tumor: tumors are labelled too.
        is_slice: a single axial slice, repeated along z.
    """

    name: str
    case: str
    role: Role
    grey: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    spacing_mm: float
    has_kidney: bool
    has_tumor: bool
    is_slice: bool

    def on_grid(self, spacing_mm: float) -> "Scan":
        """The scan on a grid whose spacing is a multiple of its own, as training interpolates it there."""
        n = round(spacing_mm / self.spacing_mm)
        if n < 2 or not math.isclose(n * self.spacing_mm, spacing_mm):
            return self
        thin = (slice(n // 2, None, n),) * 3
        return replace(self, grey=self.grey[thin], labels=self.labels[thin], spacing_mm=spacing_mm)

    @cached_property
    def kidney_voxels(self) -> NDArray[np.intp]:
        """Flat indices of the kidneys and their tumors."""
        return np.flatnonzero((self.labels == KIDNEY) | (self.labels == TUMOR))

    @cached_property
    def has_ignored(self) -> bool:
        """Whether any voxel is to be ignored."""
        return bool((self.labels == IGNORE).any())

    @cached_property
    def tumor_voxels(self) -> NDArray[np.intp]:
        """Flat indices of the tumors."""
        return np.flatnonzero(self.labels == TUMOR)


def to_grey(hu: NDArray) -> NDArray[np.uint8]:
    """HU → the cache's grey values."""
    return np.clip(np.round((hu - LOWEST_HU) / HU_STEP), 0, 255).astype(np.uint8)


def cached_names(cache: Path) -> list[str]:
    """Names of the cached label maps, sorted.

    Raises:
        ValueError: the cache holds neither label maps nor scans.
    """
    names = sorted(path.stem for path in cache.glob("*.npz"))
    if not names and not any((cache / SCANS).glob("*.npz")):
        raise ValueError(f"{cache}: no prepared cases. Run `python -m training prepare DATA {cache}` first")
    return names


def load_label_maps(cache: Path, names: Sequence[str]) -> Iterator[LabelMap]:
    """The label maps of these cases."""
    for name in names:
        with np.load(cache / f"{name}.npz") as arrays:
            yield LabelMap(
                name,
                arrays["labels"],
                float(arrays["spacing_mm"]),
                triple(arrays["first_mm"].tolist()),
                triple(arrays["scan_mm"].tolist()),
            )


def save_scan(path: Path, scan: Scan) -> None:
    """Write one scan; a slice is written once, not as often as it is repeated."""
    arrays = {
        "grey": scan.grey,
        "labels": scan.labels,
        "spacing_mm": np.asarray(scan.spacing_mm),
        "case": np.asarray(scan.case),
        "role": np.asarray(scan.role),
        "flags": np.asarray([scan.has_kidney, scan.has_tumor, scan.is_slice]),
    }
    write_arrays(path, arrays)


def write_arrays(path: Path, arrays: Mapping[str, NDArray]) -> None:
    """Write one entry of a cache; under its name, and under any that ends in .npz, it is whole."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:  # given a name, NumPy would add .npz to it
        np.savez_compressed(file, allow_pickle=False, **arrays)
    partial.replace(path)


def load_scans(cache: Path) -> list[Scan]:
    """All scans of a cache, sorted by name; single slices come as slabs of `SLAB_VOX` voxels."""
    return [_load_scan(path) for path in sorted((cache / SCANS).glob("*.npz"))]


def _load_scan(path: Path) -> Scan:
    with np.load(path) as arrays:
        has_kidney, has_tumor, is_slice = (bool(flag) for flag in arrays["flags"])
        repeats = SLAB_VOX if is_slice else 1
        return Scan(
            name=path.stem,
            case=str(arrays["case"]),
            role="set_aside" if str(arrays["role"]) == "set_aside" else "train",
            grey=np.repeat(arrays["grey"], repeats, axis=0),
            labels=np.repeat(arrays["labels"], repeats, axis=0),
            spacing_mm=float(arrays["spacing_mm"]),
            has_kidney=has_kidney,
            has_tumor=has_tumor,
            is_slice=is_slice,
        )


T = TypeVar("T")


def triple(values: Sequence[T]) -> tuple[T, T, T]:
    """A list of three as a tuple."""
    z, y, x = values
    return (z, y, x)

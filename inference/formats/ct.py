"""Read a CT into canonical HU and write a label map on its native grid, whatever the format.

The door to the rooms that know orientation: from `read_ct` to `write_label_map` every array is (z, y, x)
with z to superior, y to posterior and x to the patient's left (LPS).
"""

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
from isal.igzip_lib import IsalError
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import apply_orientation, inv_ornt_aff
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from ..geometry import Roi
from . import dicom, itk, nifti
from .preflight import check_place
from .staging import staged
from .volume import CaseError, Ct, NativeGrid

__all__ = [
    "SUFFIXES",
    "CaseError",
    "Ct",
    "NativeGrid",
    "read_ct",
    "read_native_grid",
    "write_label_map",
    "write_roi_volume",
]

SUFFIXES = nifti.SUFFIXES + itk.SUFFIXES
"""Of files that are read, in upper case or lower, and written."""
BAD_FILE_ERRORS: tuple[type[Exception], ...] = (
    IsalError,  # type: ignore[assignment]  # its stub takes the class for an instance
    *(ImageFileError, HeaderDataError, OSError, EOFError, zlib.error),
    *(ValueError, OverflowError, RuntimeError),
)
"""What nibabel, isal, zlib and SimpleITK (a RuntimeError, always) raise for a file that they cannot read."""


def read_ct(path: str | Path, *, series: str | None = None) -> Ct:
    """Read a NIfTI, MetaImage or NRRD file, or a CT series of a folder with DICOM files.

    Whatever the values: label maps are read too. `volume.check_hounsfield` tells whether they can be a CT's.

    Args:
        path: the file or the folder.
        series: the series instance UID; needed only where a folder has several CT series.

    Raises:
        CaseError: the file is damaged, no 3D scalar image, or its geometry is unusable.
    """
    path = Path(path)
    with reading(path):
        if path.is_dir():
            return dicom.read(path, series)
        if is_nifti(path):
            return nifti.read(path)
        return itk.read(path)


def read_native_grid(path: Path) -> NativeGrid:
    """The grid of a CT from its header alone, for files whose voxels cannot be read.

    Raises:
        CaseError: as `read_ct`, and for a DICOM folder, which has no header of its own.
    """
    with reading(path):
        if is_nifti(path):
            return nifti.read_grid(path)
        return itk.read_grid(path)


def is_nifti(path: Path) -> bool:
    """Whether a file is called as NIfTI is, in upper case or lower."""
    return path.name.lower().endswith(nifti.SUFFIXES)


def write_label_map(path: str | Path, labels: NDArray[np.uint8], native: NativeGrid) -> None:
    """Write labels on the grid a CT came on; the file appears under its name only when whole.

    Args:
        path: the format follows its suffix, one of `SUFFIXES`. Missing folders are made.
        labels: (z, y, x) canonical LPS, same voxels as the CT's `hu`.
        native: the CT's `native`.

    Raises:
        ValueError: another suffix, or labels of another shape than the CT's.
        OSError: the output cannot be written (no right, no space).
    """
    path = Path(path)
    if not path.name.lower().endswith(SUFFIXES):
        raise ValueError(f"{path}: no format has this suffix. Use one of {', '.join(SUFFIXES)}")
    stored = apply_orientation(labels, native.from_canonical)
    if stored.shape != native.shape:
        raise ValueError(
            f"labels of shape {labels.shape}: not the CT's. Give them as (z, y, x), like `ct.hu`"
        )
    with staged(path) as partial:
        if is_nifti(path):
            nifti.write(partial, stored, native)
        else:
            itk.write(partial, stored, native)


def write_roi_volume(path: Path, values: NDArray[np.float32], roi: Roi, native: NativeGrid) -> None:
    """Write an array on the ROI grid as float32 NIfTI that overlays the CT in any viewer.

    Args:
        path: ends in .nii or .nii.gz.
        values: (z, y, x) on the ROI grid.
        roi: where that grid lies in the CT.
        native: the CT's `native`.

    Raises:
        OSError: the output cannot be written.
    """
    roi_to_ct = np.diag([*roi.step_vox, 1.0])
    roi_to_ct[:3, 3] = roi.start_vox
    affine = native.affine @ inv_ornt_aff(native.to_canonical, native.shape) @ roi_to_ct
    with staged(path) as partial:
        nib.save(nib.Nifti1Image(values, affine), partial)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what readers raise for a bad file into one clear line, a `CaseError`."""
    try:
        check_place(path)
        with np.errstate(all="ignore"):  # what overflows becomes infinite, and is told as such
            yield
    except CaseError:
        raise
    except PermissionError as error:
        raise CaseError(f"{path}: may not be read by user {os.geteuid()}. Change its rights") from error
    except BAD_FILE_ERRORS as error:
        raise CaseError(
            f"{path}: cannot be read ({_one_line(error)}). Check or copy the file again"
        ) from error
    except MemoryError as error:
        raise CaseError(f"{path}: does not fit in memory. Give the process more, or crop the CT") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[-300:] or type(error).__name__

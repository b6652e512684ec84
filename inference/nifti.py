"""NIfTI files: read piece by piece, and label maps written under the CT's own header."""

import gzip
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from inference.volume import (
    CaseError,
    Ct,
    NativeGrid,
    allocate,
    checked_affine,
    checked_shape,
    convert_to_int16,
    voxel_warnings,
)

SUFFIXES = (".nii", ".nii.gz")
READ_AHEAD_BYTES = 64 << 20
"""A body is converted in pieces of about this size, so that float64 files never lie in memory whole."""
MAX_DEFLATE_RATIO = 1032
"""No deflate stream expands further (zlib technical details): a header that claims more is wrong."""


def read(path: Path) -> Ct:
    """A file in one of `SUFFIXES`; `ct.read_ct` tells what it raises."""
    is_gzip = path.name.endswith(".gz")
    nifti: Any = type(nib.load(path))  # NIfTI-1 or NIfTI-2
    with gzip.open(path) if is_gzip else path.open("rb") as file:
        ct = _read_stream(path, nifti.from_stream(file))
        while is_gzip and file.read(READ_AHEAD_BYTES):
            pass  # gzip compares its checksum only once the end of the stream has been read
    return ct


def read_grid(path: Path) -> NativeGrid:
    """The grid alone, from the header."""
    return _grid(path, nib.load(path))


def write(path: Path, stored: NDArray[np.uint8], native: NativeGrid) -> None:
    """Write labels under the CT's own header; `stored` has its axis order (i, j, k)."""
    header = nib.Nifti1Header() if native.nifti_header is None else native.nifti_header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header["cal_min"], header["cal_max"] = 0, 0
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    nib.save(kind(np.asarray(stored), native.affine, header), path)


def _read_stream(path: Path, image: Any) -> Ct:
    native = _grid(path, image)
    voxel_type = image.header.get_data_dtype()
    if voxel_type.kind not in "iuf":
        raise CaseError(f"{path}: voxels are {voxel_type}, not single numbers. Convert it to int16 HU")
    stored_bytes = path.stat().st_size * (MAX_DEFLATE_RATIO if path.name.endswith(".gz") else 1)
    claimed_bytes = math.prod(native.shape) * voxel_type.itemsize
    if claimed_bytes > stored_bytes:
        raise CaseError(
            f"{path}: the header claims {claimed_bytes} bytes, more than the file can hold. Copy it again"
        )

    canonical, stored = allocate(native)
    slice_bytes = claimed_bytes // native.shape[2]
    thickness = max(1, READ_AHEAD_BYTES // max(1, slice_bytes))
    not_finite = 0
    for start in range(0, native.shape[2], thickness):
        piece = np.asanyarray(image.dataobj[:, :, start : start + thickness])
        piece = piece.reshape(stored[:, :, start : start + thickness].shape)
        not_finite += convert_to_int16(piece, stored[:, :, start : start + thickness])
    return Ct(canonical, native, voxel_warnings(canonical, not_finite))


def _grid(path: Path, image: Any) -> NativeGrid:
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return NativeGrid(checked_shape(path, shape), checked_affine(path, image.affine), image.header.copy())

"""MetaImage and NRRD files, by SimpleITK."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .preflight import (
    MAX_DEFLATE_RATIO,
    Body,
    check_body,
    check_claim,
    find_metaimage_body,
    find_nrrd_body,
    geometry_warnings,
)
from .volume import (
    LPS_TO_RAS,
    CaseError,
    Ct,
    NativeGrid,
    allocate,
    checked_affine,
    checked_shape,
    convert_to_int16,
    voxel_warnings,
)

if TYPE_CHECKING:
    import SimpleITK as sitk
else:
    from . import simpleitk as sitk

NRRD_SUFFIXES = (".nrrd", ".nhdr")
SUFFIXES = (".mha", ".mhd", *NRRD_SUFFIXES)
TO_RAS = np.diag(LPS_TO_RAS)


def read(path: Path) -> Ct:
    """A file in one of `SUFFIXES`; `ct.read_ct` tells what it raises."""
    body = find_body(path)
    warnings = geometry_warnings(path, is_nrrd=is_nrrd(path))
    reader = open_header(path)
    _check_scalar(path, reader.GetDimension(), reader.GetNumberOfComponents())
    native = _grid(path, reader)  # before ITK reads the voxels: there it may never end with axes of 1e308
    voxel_bytes = sitk.Image([1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()
    check_body(path, body, reader.GetSize(), voxel_bytes)
    image = reader.Execute()
    voxels = sitk.GetArrayViewFromImage(image).reshape(native.shape[::-1])
    canonical, stored = allocate(native)
    not_finite = convert_to_int16(voxels.transpose(2, 1, 0), stored)
    return Ct(canonical, native, (*warnings, *voxel_warnings(canonical, not_finite)))


def read_grid(path: Path) -> NativeGrid:
    """The grid alone, from the header."""
    body = find_body(path)
    reader = open_header(path)
    grid = _grid(path, reader)
    check_claim(path, grid.shape, 1, body.file.stat().st_size * MAX_DEFLATE_RATIO)
    return grid


def itk_name(path: Path) -> str:
    """A path as ITK can take it; on a name that is no UTF-8 it would end the process."""
    try:
        path.as_posix().encode()
    except UnicodeEncodeError as error:
        raise CaseError(f"{path}: its name is not UTF-8. Rename it") from error
    return str(path)


def write(
    path: Path,
    stored: NDArray[np.uint8],
    native: NativeGrid,
    fields: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write labels, compressed; `stored` has the CT's own axis order (i, j, k), `fields` go into the header.

    Raises:
        OSError: the file cannot be written, or not whole.
    """
    image = _to_image(stored, native)
    for key, value in fields.items():
        image.SetMetaData(key, value)
    try:
        sitk.WriteImage(image, itk_name(path), useCompression=True)
        # ITK does not notice a disk that is full only when the last bytes leave its buffer
        check_body(path, find_body(path), stored.shape, 1)
    except (RuntimeError, ValueError, zlib.error, FileNotFoundError) as error:
        raise OSError(f"{path.name}: not written whole, as on a full disk") from error


def is_nrrd(path: Path) -> bool:
    """Whether a file is called as NRRD is; else it is MetaImage."""
    return path.suffix.lower() in NRRD_SUFFIXES


def _to_image(stored: NDArray[np.uint8], native: NativeGrid) -> sitk.Image:
    """Labels in the CT's own axis order (i, j, k) as an ITK image on its grid."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(stored.transpose(2, 1, 0)))
    spacing = np.linalg.norm(native.affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((TO_RAS @ (native.affine[:3, :3] / spacing)).ravel().tolist())
    image.SetOrigin((TO_RAS @ native.affine[:3, 3]).tolist())
    return image


def find_body(path: Path) -> Body:
    """Where a file's voxels lie, by its header.

    Raises:
        ValueError: no header of its format, or voxels in several files or out of its folder.
    """
    return find_nrrd_body(path) if is_nrrd(path) else find_metaimage_body(path)


def open_header(path: Path) -> sitk.ImageFileReader:
    """A reader that has read the header, with the decoder that the name promises and no other."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO" if is_nrrd(path) else "MetaImageIO")
    reader.SetFileName(itk_name(path))
    reader.ReadImageInformation()
    return reader


def _check_scalar(path: Path, dimension: int, components: int) -> None:
    if components != 1 or dimension not in (3, 4):
        raise CaseError(f"{path}: {dimension}D with {components} components per voxel. Give one 3D CT volume")


def _grid(path: Path, image: Any) -> NativeGrid:
    """The grid of an image, or of a reader that has read its information."""
    dimension, size = image.GetDimension(), image.GetSize()
    if dimension == 4 and size[3] != 1:
        raise CaseError(f"{path}: holds {size[3]} volumes, not one. Extract the one to segment")
    shape = checked_shape(path, size[:3])
    direction = np.reshape(image.GetDirection(), (dimension, dimension))[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = TO_RAS @ direction @ np.diag(image.GetSpacing()[:3])
    affine[:3, 3] = TO_RAS @ image.GetOrigin()[:3]
    return NativeGrid(shape, checked_affine(path, affine))

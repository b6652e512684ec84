"""MetaImage and NRRD files, by SimpleITK."""

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
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

SUFFIXES = (".mha", ".mhd", ".nrrd")
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
"""ITK's world axes to nibabel's; its own inverse."""


def read(path: Path) -> Ct:
    """A file in one of `SUFFIXES`; `ct.read_ct` tells what it raises."""
    return ct_of_image(path, sitk.ReadImage(str(path)))


def read_grid(path: Path) -> NativeGrid:
    """The grid alone, from the header."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return _grid(path, reader)


def ct_of_image(path: Path, image: sitk.Image, warnings: tuple[str, ...] = ()) -> Ct:
    """An ITK image (x, y, z) as a CT; `path` is for error texts."""
    components = image.GetNumberOfComponentsPerPixel()
    if components != 1 or image.GetDimension() not in (3, 4):
        raise CaseError(
            f"{path}: {image.GetDimension()}D with {components} components per voxel. Give one 3D CT volume"
        )
    if image.GetDimension() == 4:
        if image.GetSize()[3] != 1:
            raise CaseError(
                f"{path}: holds {image.GetSize()[3]} volumes, not one. Extract the one to segment"
            )
        image = image[:, :, :, 0]
    native = _grid(path, image)
    canonical, stored = allocate(native)
    not_finite = convert_to_int16(sitk.GetArrayViewFromImage(image).transpose(2, 1, 0), stored)
    return Ct(canonical, native, (*warnings, *voxel_warnings(canonical, not_finite)))


def write(path: Path, stored: NDArray[np.uint8], native: NativeGrid) -> None:
    """Write labels, compressed; `stored` has the CT's own axis order (i, j, k)."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(stored.transpose(2, 1, 0)))
    spacing = np.linalg.norm(native.affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((LPS_TO_RAS @ (native.affine[:3, :3] / spacing)).ravel().tolist())
    image.SetOrigin((LPS_TO_RAS @ native.affine[:3, 3]).tolist())
    sitk.WriteImage(image, str(path), useCompression=True)


def _grid(path: Path, image: Any) -> NativeGrid:
    """The grid of an image, or of a reader that has read its information."""
    size = checked_shape(path, image.GetSize())
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
    affine[:3, 3] = LPS_TO_RAS @ image.GetOrigin()
    return NativeGrid(size, checked_affine(path, affine))

"""MetaImage and NRRD files, by SimpleITK."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .volume import (
    MAX_DEFLATE_RATIO,
    CaseError,
    Ct,
    NativeGrid,
    allocate,
    check_claim,
    checked_affine,
    checked_shape,
    convert_to_int16,
    voxel_warnings,
)

if TYPE_CHECKING:
    import SimpleITK as sitk
else:
    from . import simpleitk as sitk

SUFFIXES = (".mha", ".mhd", ".nrrd")
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
"""ITK's world axes to nibabel's; its own inverse."""
LOCAL = "LOCAL"
"""What a MetaImage calls its own file."""
MAX_HEADER_BYTES = 1 << 20
PIECE_BYTES = 1 << 20
ZLIB_OR_GZIP = 47
"""zlib's window bits with which it takes either header."""


@dataclass(frozen=True)
class _Body:
    """Where a header's voxels lie: a file, the offset in it, and what is said of their compression."""

    file: Path
    offset: int
    is_deflated: bool
    n_claimed: int | None = None


def read(path: Path) -> Ct:
    """A file in one of `SUFFIXES`; `ct.read_ct` tells what it raises."""
    body = _find_body(path)
    reader = _open(path)
    n_bytes = _checked_bytes(path, reader, body)
    _grid(path, reader)  # before ITK reads the voxels: there it may never end with axes of 1e308
    if body.is_deflated:
        _check_deflated(path, body, n_bytes)
    return ct_of_image(path, reader.Execute())


def read_grid(path: Path) -> NativeGrid:
    """The grid alone, from the header."""
    body = _find_body(path)
    reader = _open(path)
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


def ct_of_image(path: Path, image: sitk.Image, warnings: tuple[str, ...] = ()) -> Ct:
    """An ITK image (x, y, z) as a CT; `path` is for error texts."""
    _check_scalar(path, image.GetDimension(), image.GetNumberOfComponentsPerPixel())
    native = _grid(path, image)
    voxels = sitk.GetArrayViewFromImage(image).reshape(native.shape[::-1])
    canonical, stored = allocate(native)
    not_finite = convert_to_int16(voxels.transpose(2, 1, 0), stored)
    return Ct(canonical, native, (*warnings, *voxel_warnings(canonical, not_finite)))


def write(path: Path, stored: NDArray[np.uint8], native: NativeGrid) -> None:
    """Write labels, compressed; `stored` has the CT's own axis order (i, j, k)."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(stored.transpose(2, 1, 0)))
    spacing = np.linalg.norm(native.affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((LPS_TO_RAS @ (native.affine[:3, :3] / spacing)).ravel().tolist())
    image.SetOrigin((LPS_TO_RAS @ native.affine[:3, 3]).tolist())
    try:
        sitk.WriteImage(image, itk_name(path), useCompression=True)
        # ITK does not notice a disk that is full only when the last bytes leave its buffer
        _check_deflated(path, _find_body(path), stored.size)
    except (RuntimeError, ValueError, zlib.error) as error:
        raise OSError(f"{path.name}: not written whole, as on a full disk") from error


def _open(path: Path) -> sitk.ImageFileReader:
    """A reader that has read the header, with the decoder that the name promises and no other."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO" if path.name.endswith(".nrrd") else "MetaImageIO")
    reader.SetFileName(itk_name(path))
    reader.ReadImageInformation()
    return reader


def _check_scalar(path: Path, dimension: int, components: int) -> None:
    if components != 1 or dimension not in (3, 4):
        raise CaseError(f"{path}: {dimension}D with {components} components per voxel. Give one 3D CT volume")


def _checked_bytes(path: Path, reader: sitk.ImageFileReader, body: _Body) -> int:
    """The size of the voxels by the header, if the file can hold that much."""
    _check_scalar(path, reader.GetDimension(), reader.GetNumberOfComponents())
    voxel_bytes = sitk.Image([1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()
    stored_bytes = body.file.stat().st_size - body.offset
    if body.is_deflated:
        stored_bytes *= MAX_DEFLATE_RATIO
    check_claim(path, reader.GetSize(), voxel_bytes, stored_bytes)
    return math.prod(reader.GetSize()) * voxel_bytes


def _check_deflated(path: Path, body: _Body, n_bytes: int) -> None:
    """ITK takes a MetaImage whose compressed voxels are damaged or short for whole: inflate them first."""
    inflate = zlib.decompressobj(ZLIB_OR_GZIP)
    n_read = n_inflated = 0
    with body.file.open("rb") as file:
        file.seek(body.offset)
        while not inflate.eof and n_inflated <= n_bytes:
            if not (piece := inflate.unconsumed_tail):
                piece = file.read(PIECE_BYTES)
                n_read += len(piece)
            inflated = inflate.decompress(piece, PIECE_BYTES)
            n_inflated += len(inflated)
            if not piece and not inflated:
                break
    n_used = n_read - len(inflate.unused_data)
    if not inflate.eof or n_inflated != n_bytes or body.n_claimed not in (None, n_used):
        raise CaseError(f"{path}: its compressed voxels are not the {n_bytes} bytes it claims. Copy it again")


def _find_body(path: Path) -> _Body:
    fields: dict[str, str] = {}
    is_nrrd = path.name.endswith(".nrrd")
    with path.open("rb") as file:
        while (line := file.readline(MAX_HEADER_BYTES)) and file.tell() <= MAX_HEADER_BYTES:
            key, _, value = line.decode(errors="replace").partition(":" if is_nrrd else "=")
            fields.setdefault(key.strip().lower(), value.strip())
            if (is_nrrd and not line.strip()) or "elementdatafile" in fields:
                break
        offset = file.tell()
    if is_nrrd:
        name = fields.get("data file") or fields.get("datafile") or LOCAL
        is_deflated = fields.get("encoding", "").lower() in ("gz", "gzip")
    else:
        if "elementdatafile" not in fields:
            raise ValueError("no MetaImage header")
        if fields.get("ndims") not in ("2", "3", "4"):  # ITK makes room for any number, and crashes
            raise CaseError(f"{path}: has {fields.get('ndims', 'no')} dimensions. Give one 3D CT volume")
        name = fields["elementdatafile"]
        is_deflated = fields.get("compresseddata", "").lower() == "true"
    if name.upper() == LOCAL:
        claimed = fields.get("compresseddatasize", "")
        return _Body(path, offset, is_deflated, int(claimed) if claimed.isdecimal() else None)
    if is_nrrd or not name or Path(name).name != name or "%" in name or name.upper().startswith("LIST"):
        raise CaseError(
            f"{path}: its voxels are in {name!r}. Give one file, or a .mhd with one file beside it"
        )
    return _Body(path.with_name(name), 0, is_deflated)


def _grid(path: Path, image: Any) -> NativeGrid:
    """The grid of an image, or of a reader that has read its information."""
    dimension, size = image.GetDimension(), image.GetSize()
    if dimension == 4 and size[3] != 1:
        raise CaseError(f"{path}: holds {size[3]} volumes, not one. Extract the one to segment")
    shape = checked_shape(path, size[:3])
    direction = np.reshape(image.GetDirection(), (dimension, dimension))[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ direction @ np.diag(image.GetSpacing()[:3])
    affine[:3, 3] = LPS_TO_RAS @ image.GetOrigin()[:3]
    return NativeGrid(shape, checked_affine(path, affine))

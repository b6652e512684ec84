"""Read a CT into canonical HU and write a label map on its native grid.

The only module that knows orientation: from `read_ct` to `write_label_map` every array is (z, y, x) with
z to superior, y to posterior and x to the patient's left (LPS). Oblique axes go to the nearest of these.
"""

import gzip
import math
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from inference.preprocess import Roi, Shape, Vector

NIFTI_SUFFIXES = (".nii", ".nii.gz")
SITK_SUFFIXES = (".mha", ".mhd", ".nrrd")
SUFFIXES = NIFTI_SUFFIXES + SITK_SUFFIXES

AIR_HU = -1024
CANONICAL = axcodes2ornt(("S", "P", "L"))
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
"""ITK's world axes to nibabel's; its own inverse."""
READ_AHEAD_BYTES = 64 << 20
"""A NIfTI body is converted in pieces of about this size, so that float64 files never lie in memory whole."""
MAX_DEFLATE_RATIO = 1032
"""No deflate stream expands further (zlib technical details): a header that claims more is wrong."""
MIN_SPACING_MM, MAX_SPACING_MM = 0.05, 20.0
MAX_SHEAR_COSINE = 0.02
"""Axes further than this from right angles (1.1°) are sheared: resampling along them would bend anatomy."""
MAX_UNEVEN_STEP = 0.1
"""Distances between DICOM slices that differ by more than this part of a slice are worth a warning."""
DICOM_POSITION = "0020|0032"
BAD_FILE_ERRORS = (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error, ValueError, RuntimeError)
"""What nibabel, zlib and SimpleITK (a RuntimeError, always) raise for a file that they cannot read."""


class CaseError(ValueError):
    """This case cannot be processed. The text is one line: file, cause, remedy."""


@dataclass(frozen=True)
class NativeGrid:
    """What is needed to write a label map back on the grid a CT came on.

    Attributes:
        shape: array shape in stored axis order (i, j, k).
        affine: 4×4, (i, j, k) index → millimetres in RAS, as nibabel has it.
        nifti_header: the NIfTI header, where the CT was one.
    """

    shape: Shape
    affine: NDArray[np.float64]
    nifti_header: Any = None

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


def read_ct(path: Path) -> Ct:
    """Read a NIfTI, MetaImage or NRRD file, or a folder with one DICOM series.

    Raises:
        CaseError: the file is damaged, no 3D scalar image, or its geometry is unusable.
    """
    with _reading(path):
        if path.is_dir():
            image, warnings = _load_dicom_series(path)
            return _read_sitk(path, image, warnings)
        if path.name.endswith(NIFTI_SUFFIXES):
            return _read_nifti(path)
        return _read_sitk(path, sitk.ReadImage(str(path)))


def read_native_grid(path: Path) -> NativeGrid:
    """The grid of a CT from its header alone, for files whose voxels cannot be read.

    Raises:
        CaseError: as `read_ct`, and for a DICOM folder, which has no header of its own.
    """
    with _reading(path):
        if path.name.endswith(NIFTI_SUFFIXES):
            return _nifti_grid(path, nib.load(path))
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        return _sitk_grid(path, reader)


def write_label_map(path: Path, labels: NDArray[np.uint8], native: NativeGrid) -> None:
    """Write labels on the grid a CT came on; the file appears under its name only when whole.

    Args:
        path: the format follows its suffix, one of `SUFFIXES`. Missing folders are made.
        labels: (z, y, x) canonical LPS, same voxels as the CT's `hu`.
        native: the CT's `native`.

    Raises:
        OSError: the output cannot be written (no right, no space).
    """
    stored = apply_orientation(labels, native.from_canonical)
    with staged(path) as partial:
        if path.name.endswith(NIFTI_SUFFIXES):
            _save_nifti(partial, stored, native)
        else:
            _save_sitk(partial, stored, native)


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
def _reading(path: Path) -> Iterator[None]:
    """Turn what readers raise for a bad file into one clear line."""
    try:
        yield
    except CaseError:
        raise
    except BAD_FILE_ERRORS as error:
        raise CaseError(
            f"{path}: cannot be read ({_one_line(error)}). Check or copy the file again"
        ) from error
    except MemoryError as error:
        raise CaseError(f"{path}: does not fit in memory. Give the process more, or crop the CT") from error


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A path to write to; what lies there at the end is moved to its final name, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".partial-", dir=path.parent))
    try:
        yield staging / path.name
        for file in sorted(staging.iterdir(), key=lambda file: file.name == path.name):
            file.replace(path.parent / file.name)  # a .mhd comes after the voxels that it points to
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _read_nifti(path: Path) -> Ct:
    is_gzip = path.name.endswith(".gz")
    nifti: Any = type(nib.load(path))  # NIfTI-1 or NIfTI-2
    with gzip.open(path) if is_gzip else path.open("rb") as file:
        ct = _read_nifti_stream(path, nifti.from_stream(file))
        while is_gzip and file.read(READ_AHEAD_BYTES):
            pass  # gzip compares its checksum only once the end of the stream has been read
    return ct


def _read_nifti_stream(path: Path, image: Any) -> Ct:
    native = _nifti_grid(path, image)
    voxel_type = image.header.get_data_dtype()
    if voxel_type.kind not in "iuf":
        raise CaseError(f"{path}: voxels are {voxel_type}, not single numbers. Convert it to int16 HU")
    stored_bytes = path.stat().st_size * (MAX_DEFLATE_RATIO if path.name.endswith(".gz") else 1)
    claimed_bytes = math.prod(native.shape) * voxel_type.itemsize
    if claimed_bytes > stored_bytes:
        raise CaseError(
            f"{path}: the header claims {claimed_bytes} bytes, more than the file can hold. Copy it again"
        )

    canonical, stored = _allocate(native)
    slice_bytes = claimed_bytes // native.shape[2]
    thickness = max(1, READ_AHEAD_BYTES // max(1, slice_bytes))
    not_finite = 0
    for start in range(0, native.shape[2], thickness):
        piece = np.asanyarray(image.dataobj[:, :, start : start + thickness])
        piece = piece.reshape(stored[:, :, start : start + thickness].shape)
        not_finite += _convert_to_int16(piece, stored[:, :, start : start + thickness])
    return Ct(canonical, native, _warnings(canonical, not_finite))


def _nifti_grid(path: Path, image: Any) -> NativeGrid:
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return NativeGrid(_checked_shape(path, shape), _checked_affine(path, image.affine), image.header.copy())


def _load_dicom_series(folder: Path) -> tuple[sitk.Image, tuple[str, ...]]:
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        raise CaseError(f"{folder}: holds {len(series)} DICOM series, not one. Put one CT series in a folder")
    reader = sitk.ImageSeriesReader()
    files = reader.GetGDCMSeriesFileNames(str(folder), series[0])
    reader.SetFileNames(files)
    reader.MetaDataDictionaryArrayUpdateOn()
    image = reader.Execute()
    return image, _gap_warnings(reader, len(files))


def _gap_warnings(reader: sitk.ImageSeriesReader, n_files: int) -> tuple[str, ...]:
    """ITK takes the slices of a series as evenly spaced, whatever their positions say."""
    positions = [
        [float(number) for number in reader.GetMetaData(k, DICOM_POSITION).split("\\")]
        for k in range(n_files)
        if reader.HasMetaDataKey(k, DICOM_POSITION)
    ]
    steps_mm = np.linalg.norm(np.diff(positions, axis=0), axis=1) if len(positions) > 1 else np.ones(1)
    if np.ptp(steps_mm) <= MAX_UNEVEN_STEP * np.median(steps_mm):
        return ()
    return (
        f"slices lie {steps_mm.min():g} to {steps_mm.max():g} mm apart: some may be missing, "
        "and positions and volumes are wrong there",
    )


def _read_sitk(path: Path, image: sitk.Image, warnings: tuple[str, ...] = ()) -> Ct:
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
    native = _sitk_grid(path, image)
    canonical, stored = _allocate(native)
    not_finite = _convert_to_int16(sitk.GetArrayViewFromImage(image).transpose(2, 1, 0), stored)
    return Ct(canonical, native, (*warnings, *_warnings(canonical, not_finite)))


def _sitk_grid(path: Path, image: Any) -> NativeGrid:
    """The grid of an image, or of a reader that has read its information."""
    size = _checked_shape(path, image.GetSize())
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
    affine[:3, 3] = LPS_TO_RAS @ image.GetOrigin()
    return NativeGrid(size, _checked_affine(path, affine))


def _allocate(native: NativeGrid) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """An empty canonical array, and the view of it in stored axis order that a reader fills."""
    canonical = np.empty(native.canonical_shape, dtype=np.int16)
    return canonical, apply_orientation(canonical, native.from_canonical)


def _convert_to_int16(values: NDArray, out: NDArray[np.int16]) -> int:
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
    out[...] = np.clip(values, -32768, 32767)
    return not_finite


def _checked_shape(path: Path, shape: tuple[int, ...]) -> Shape:
    if len(shape) != 3 or min(shape) < 2:
        raise CaseError(
            f"{path}: is {' × '.join(map(str, shape))} voxels, not a 3D image. Extract one volume"
        )
    return (int(shape[0]), int(shape[1]), int(shape[2]))


def _checked_affine(path: Path, affine: NDArray[np.float64]) -> NDArray[np.float64]:
    columns = np.asarray(affine, dtype=np.float64)[:3, :3]
    spacing = np.linalg.norm(columns, axis=0)
    if not np.isfinite(affine).all() or spacing.min() < MIN_SPACING_MM or spacing.max() > MAX_SPACING_MM:
        raise CaseError(f"{path}: voxel spacing {spacing.tolist()} mm is not usable. Correct the header")
    cosines = np.abs((columns / spacing).T @ (columns / spacing) - np.eye(3)).max()
    if cosines > MAX_SHEAR_COSINE:
        raise CaseError(f"{path}: its axes are not at right angles. Resample it on a straight grid first")
    return np.asarray(affine, dtype=np.float64)


def _warnings(hu: NDArray[np.int16], not_finite: int) -> tuple[str, ...]:
    warnings = []
    if not_finite:
        warnings.append(f"{not_finite} voxels are NaN or infinite; taken as air")
    low, high = int(hu.min()), int(hu.max())
    if low >= -10:
        warnings.append(f"values run from {low} to {high}: no air, so perhaps no Hounsfield units")
    return tuple(warnings)


def _save_nifti(path: Path, stored: NDArray[np.uint8], native: NativeGrid) -> None:
    header = nib.Nifti1Header() if native.nifti_header is None else native.nifti_header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header["cal_min"], header["cal_max"] = 0, 0
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    nib.save(kind(np.asarray(stored), native.affine, header), path)


def _save_sitk(path: Path, stored: NDArray[np.uint8], native: NativeGrid) -> None:
    image = sitk.GetImageFromArray(np.ascontiguousarray(stored.transpose(2, 1, 0)))
    spacing = np.linalg.norm(native.affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((LPS_TO_RAS @ (native.affine[:3, :3] / spacing)).ravel().tolist())
    image.SetOrigin((LPS_TO_RAS @ native.affine[:3, 3]).tolist())
    sitk.WriteImage(image, str(path), useCompression=True)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[-300:] or type(error).__name__

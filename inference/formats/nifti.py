"""NIfTI files: read piece by piece, and label maps written under the CT's own header."""

import glob
import math
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from isal import igzip
from nibabel.fileholders import FileHolder
from numpy.typing import NDArray

from .preflight import MAX_DEFLATE_RATIO, Bounded, check_claim, check_nifti, check_pointer
from .volume import (
    CaseError,
    Ct,
    NativeGrid,
    allocate,
    checked_affine,
    checked_shape,
    convert_to_int16,
    voxel_warnings,
)

PAIR_SUFFIX, PAIR_VOXELS = ".hdr", (".img", ".img.gz")
SUFFIXES = (".nii", ".nii.gz", PAIR_SUFFIX)
READ_AHEAD_BYTES = 64 << 20
"""A body is converted in pieces of about this size, so that float64 files never lie in memory whole."""
QUATERNION = ("quatern_b", "quatern_c", "quatern_d")
MAX_QUATERNION = 1.001
"""Length up to which three quarters of a unit quaternion can be off by rounding."""
LARGEST_SHIFT_MM = 1.0
"""A corner that qform and sform put further apart than this is worth a warning."""
OTHER_UNITS = ("meter", "micron")


class _RoundedQuaternion:
    """nibabel refuses a quaternion that rounding has made a little longer than 1."""

    def get_qform_quaternion(self) -> NDArray[np.float64]:
        bcd = np.array([self[name] for name in QUATERNION], dtype=np.float64)  # type: ignore[index]
        length = float(np.linalg.norm(bcd))
        if 1 < length <= MAX_QUATERNION:
            return np.array([0.0, *(bcd / length)])
        return super().get_qform_quaternion()  # type: ignore[misc]


class _Header1(_RoundedQuaternion, nib.Nifti1Header):
    pass


class _Header2(_RoundedQuaternion, nib.Nifti2Header):
    pass


class _PairHeader1(_RoundedQuaternion, nib.nifti1.Nifti1PairHeader):
    pass


class _PairHeader2(_RoundedQuaternion, nib.nifti2.Nifti2PairHeader):
    pass


class _Image1(nib.Nifti1Image):
    header_class = _Header1


class _Image2(nib.Nifti2Image):
    header_class = _Header2


class _Pair1(nib.Nifti1Pair):
    header_class = _PairHeader1


class _Pair2(nib.Nifti2Pair):
    header_class = _PairHeader2


def read(path: Path) -> Ct:
    """A file in one of `SUFFIXES`; `ct.read_ct` tells what it raises."""
    voxels = _voxel_file(path)
    with ExitStack() as opened:
        file = opened.enter_context(_open(path))
        body = file if voxels == path else opened.enter_context(_open(voxels))
        ct = _read_stream(path, _load(path, file, body), _inflated_bytes(voxels))
        # gzip compares its checksum only once the end of the stream has been read
        if _is_packed(voxels) and body.read(READ_AHEAD_BYTES) and body.read(1):
            raise CaseError(f"{path}: holds far more than its header claims. Copy it again")
    return ct


def read_grid(path: Path) -> NativeGrid:
    """The grid alone, from the header."""
    with _open(path) as file:
        grid = _grid(path, _load(path, file, file))
    check_claim(path, grid.shape, 1, _voxel_file(path).stat().st_size * MAX_DEFLATE_RATIO)
    return grid


def write(path: Path, stored: NDArray[np.uint8], native: NativeGrid) -> None:
    """Write labels under the CT's own header; `stored` has its axis order (i, j, k)."""
    header = nib.Nifti1Header() if native.nifti_header is None else native.nifti_header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header["cal_min"], header["cal_max"] = 0, 0
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    nib.save(kind(np.asarray(stored), native.affine, header), path)


def _is_packed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _open(path: Path) -> BinaryIO:
    return igzip.open(path) if _is_packed(path) else path.open("rb")  # type: ignore[return-value]


def _inflated_bytes(path: Path) -> int:
    """The most that a file can hold."""
    return path.stat().st_size * (MAX_DEFLATE_RATIO if _is_packed(path) else 1)


def _voxel_file(path: Path) -> Path:
    """Where the voxels of a file are: in itself, or in the other one of a pair."""
    if path.suffix.lower() != PAIR_SUFFIX:
        return path
    found = [other for other in sorted(path.parent.glob(f"{glob.escape(path.stem)}.*"))
             if other.name[len(path.stem) :].lower() in PAIR_VOXELS]  # fmt: skip
    if len(found) != 1:
        raise CaseError(f"{path}: {len(found)} files with its voxels (.img) lie beside it. Copy it there")
    check_pointer(found[0])
    return found[0]


def _load(path: Path, file: BinaryIO, body: BinaryIO) -> Any:
    """nibabel's image, NIfTI-1 or NIfTI-2; no voxel is read yet."""
    head = file.read(nib.Nifti2Header.sizeof_hdr)
    is_pair = path.suffix.lower() == PAIR_SUFFIX
    for kind in (_Pair1, _Pair2) if is_pair else (_Image1, _Image2):
        if kind.header_class.may_contain_header(head):
            check_nifti(kind.header_class, head)
            file.seek(0)
            header: Any = Bounded(file)
            voxels: Any = header if body is file else Bounded(body)
            return kind.from_file_map(
                {"header": FileHolder(fileobj=header), "image": FileHolder(fileobj=voxels)}
                if is_pair
                else {"image": FileHolder(fileobj=header)}
            )
    if is_pair:
        raise CaseError(f"{path}: is no NIfTI pair; Analyze does not say where left is. Convert it to NIfTI")
    raise ValueError("no NIfTI header")


def _read_stream(path: Path, image: Any, most_bytes: int) -> Ct:
    native = _grid(path, image)
    voxel_type = image.header.get_data_dtype()
    if voxel_type.kind not in "iuf":
        raise CaseError(f"{path}: voxels are {voxel_type}, not single numbers. Convert it to int16 HU")
    check_claim(path, native.shape, voxel_type.itemsize, most_bytes)
    canonical, stored = allocate(native)
    slice_bytes = math.prod(native.shape[:2]) * voxel_type.itemsize
    thickness = max(1, READ_AHEAD_BYTES // max(1, slice_bytes))
    not_finite = 0
    for start in range(0, native.shape[2], thickness):
        piece = np.asanyarray(image.dataobj[:, :, start : start + thickness])
        piece = piece.reshape(stored[:, :, start : start + thickness].shape)
        not_finite += convert_to_int16(piece, stored[:, :, start : start + thickness])
    return Ct(canonical, native, (*_header_warnings(image), *voxel_warnings(canonical, not_finite)))


def _plain_header(image: Any) -> Any:
    """nibabel's own header of a single file, which a label map is written under."""
    old = image.header
    kind = nib.Nifti2Header if isinstance(old, nib.Nifti2Header) else nib.Nifti1Header
    header = kind(old.binaryblock, old.endianness, check=False, extensions=old.extensions)
    length = float(np.linalg.norm([float(header[name]) for name in QUATERNION]))
    if 1 < length <= MAX_QUATERNION:
        for name in QUATERNION:
            header[name] = header[name] / length
    return header


def _grid(path: Path, image: Any) -> NativeGrid:
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    checked = checked_shape(path, shape)
    try:
        return NativeGrid(checked, checked_affine(path, image.affine), _plain_header(image))
    except CaseError as error:
        if (unit := _unit(image)) in OTHER_UNITS:
            raise CaseError(f"{path}: its header is in {unit}s. Convert spacing and origin to mm") from error
        raise


def _unit(image: Any) -> str:
    try:
        return image.header.get_xyzt_units()[0]
    except KeyError:  # no code of the standard
        return "unknown"


def _header_warnings(image: Any) -> list[str]:
    """Where the header leaves open or contradicts where the patient's left is, or how large a voxel."""
    warnings = []
    sform = image.get_sform(coded=True)[0]
    try:
        qform = image.get_qform(coded=True)[0]
    except ValueError:
        qform = None
        warnings.append("the qform is no rotation; sform is taken")
    if qform is None and sform is None:
        warnings.append("neither qform nor sform: left and right are a guess")
    elif qform is not None and sform is not None:
        corners = np.array([[*corner, 1.0] for corner in product(*((0, n - 1) for n in image.shape[:3]))])
        shift_mm = np.abs(corners @ (qform - sform).T).max()
        if not shift_mm <= LARGEST_SHIFT_MM:
            warnings.append(f"qform and sform lie up to {shift_mm:.0f} mm apart; sform is taken")
    if (unit := _unit(image)) in OTHER_UNITS:
        warnings.append(f"the header's unit is {unit}, but its spacing can only be mm; taken as mm")
    return warnings

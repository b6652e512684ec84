"""NIfTI files: read piece by piece, and label maps written under the CT's own header."""

from itertools import product
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from isal import igzip
from numpy.typing import NDArray

from .nifti_stream import in_disk_order, read_body
from .preflight import MAX_DEFLATE_RATIO, Bounded, check_claim, check_nifti
from .volume import (
    CaseError,
    Ct,
    NativeGrid,
    allocate,
    checked_affine,
    checked_shape,
    voxel_warnings,
)

SUFFIXES = (".nii", ".nii.gz")
MAX_REST_BYTES = 64 << 20
"""A file that goes on for longer after its body is no NIfTI file."""
PIECE_BYTES = 1 << 16
GZIP_LEVEL = 1
"""Of isal: smaller than zlib's for label maps, in a fiftieth of the time."""
QUATERNION = ("quatern_b", "quatern_c", "quatern_d")
MIN_TOO_LONG, MAX_TOO_LONG = 1 + 1.7e-7, 1.001
"""Three quarters of a unit quaternion that are longer than the first are refused by nibabel, and up to the
second a matter of rounding."""
LARGEST_SHIFT_MM = 1.0
"""A corner that qform and sform put further apart than this is worth a warning."""
OTHER_UNITS = ("meter", "micron")


class _RoundedQuaternion:
    """nibabel refuses a quaternion that rounding has made a little longer than 1."""

    def get_qform_quaternion(self) -> NDArray[np.float64]:
        bcd = np.array([self[name] for name in QUATERNION], dtype=np.float64)  # type: ignore[index]
        length = float(np.linalg.norm(bcd))
        if MIN_TOO_LONG < length <= MAX_TOO_LONG:
            return np.array([0.0, *(bcd / length)])
        return super().get_qform_quaternion()  # type: ignore[misc]


class _Header1(_RoundedQuaternion, nib.Nifti1Header):
    pass


class _Header2(_RoundedQuaternion, nib.Nifti2Header):
    pass


class _Image1(nib.Nifti1Image):
    header_class = _Header1


class _Image2(nib.Nifti2Image):
    header_class = _Header2


def read(path: Path) -> Ct:
    """A file in one of `SUFFIXES`; `ct.read_ct` tells what it raises."""
    with _open(path) as file:
        ct = _read_stream(path, file, _load(file))
        # gzip compares its checksum only once the end of the stream has been read
        if _is_packed(path) and not _ends_within(file, MAX_REST_BYTES):
            raise CaseError(f"{path}: holds far more than its header claims. Copy it again")
    return ct


def _ends_within(file: BinaryIO, n_bytes: int) -> bool:
    while n_bytes > 0 and (piece := file.read(PIECE_BYTES)):
        n_bytes -= len(piece)
    return not file.read(1)


def read_grid(path: Path) -> NativeGrid:
    """The grid alone, from the header."""
    with _open(path) as file:
        grid = _grid(path, _load(file))
    check_claim(path, grid.shape, 1, path.stat().st_size * MAX_DEFLATE_RATIO)
    return grid


def write(path: Path, stored: NDArray[np.uint8], native: NativeGrid) -> None:
    """Write labels under the CT's own header; `stored` has its axis order (i, j, k)."""
    header = nib.Nifti1Header() if native.nifti_header is None else native.nifti_header.copy()
    header.set_data_dtype(np.uint8)
    header["cal_min"], header["cal_max"] = 0, 0
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    image = kind(stored, native.affine, header)
    image.update_header()
    image.header.set_slope_inter(1, 0)  # an image forgets them
    with path.open("wb") as raw:
        if _is_packed(path):  # no name and no time in it: the same labels are the same file
            with igzip.IGzipFile("", "wb", GZIP_LEVEL, raw, mtime=0) as file:
                _write_stream(file, image.header, stored)
        else:
            _write_stream(raw, image.header, stored)


def _write_stream(file: Any, header: Any, stored: NDArray[np.uint8]) -> None:
    header.write_to(file)  # with its extensions; voxels begin behind them, since an image forgets the offset
    for slab in in_disk_order(stored):
        file.write(slab)


def _is_packed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _open(path: Path) -> BinaryIO:
    return igzip.open(path) if _is_packed(path) else path.open("rb")  # type: ignore[return-value]


def _load(file: BinaryIO) -> Any:
    """nibabel's image, NIfTI-1 or NIfTI-2; no voxel is read yet."""
    head = file.read(nib.Nifti2Header.sizeof_hdr)
    for kind in (_Image1, _Image2):
        if kind.header_class.may_contain_header(head):
            check_nifti(kind.header_class, head)
            file.seek(0)
            stream: Any = Bounded(file)
            return kind.from_stream(stream)
    raise ValueError("no NIfTI header")


def _read_stream(path: Path, file: BinaryIO, image: Any) -> Ct:
    native = _grid(path, image)
    voxel_type = image.header.get_data_dtype()
    if voxel_type.kind not in "iuf":
        raise CaseError(f"{path}: voxels are {voxel_type}, not single numbers. Convert it to int16 HU")
    stored_bytes = path.stat().st_size * (MAX_DEFLATE_RATIO if _is_packed(path) else 1)
    check_claim(path, native.shape, voxel_type.itemsize, stored_bytes)
    canonical, stored = allocate(native)
    body = image.dataobj
    file.seek(body.offset)
    not_finite = read_body(file, voxel_type, stored, slope=float(body.slope), inter=float(body.inter))
    return Ct(canonical, native, (*_header_warnings(image), *voxel_warnings(canonical, not_finite)))


def _plain_header(image: Any) -> Any:
    """nibabel's own header of a single file, which a label map is written under."""
    old = image.header
    kind = nib.Nifti2Header if isinstance(old, nib.Nifti2Header) else nib.Nifti1Header
    header = kind(old.binaryblock, old.endianness, check=False, extensions=old.extensions)
    length = float(np.linalg.norm([float(header[name]) for name in QUATERNION]))
    if MIN_TOO_LONG < length <= MAX_TOO_LONG:
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

"""What is distrusted about a file before a library sees it: one function a format.

Libraries take memory for whatever a header claims, loop over sizes that no file has, follow names out of the
folder, and some take damaged voxels for whole. Nothing here reads a voxel; it all ends as a `CaseError`, or
as the error of a damaged file, before any memory is taken for a claim.
"""

import io
import math
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.tag import Tag

from ..geometry import Shape
from .volume import CaseError

MAX_VOXELS = 1 << 31
"""More than any CT has (2048 slices of 1024²): what claims more would only fill the memory."""
MAX_DEFLATE_RATIO = 1032
"""No deflate stream expands further (zlib technical details): a header that claims more is wrong."""
MAX_READ_BYTES = 1 << 28
"""More than any slice, header field or extension has."""
SMALL_READ_BYTES = 1 << 16
"""A library may ask for so much without knowing whether it is there."""

POINTERS = {
    b"version https://git-lfs.github.com/spec/": "a git-LFS pointer, not the file itself. Run git lfs pull",
    b"/annex/objects/": "a git-annex pointer, not the file itself. Run git annex get",
}
"""How files begin that stand for others, and what to say of them."""

LOCAL = "LOCAL"
"""What a MetaImage calls its own file."""
MAX_HEADER_BYTES = 1 << 20
PIECE_BYTES = 1 << 20
ZLIB_OR_GZIP = 47
"""zlib's window bits with which it takes either header."""
BYTES_BY_ENCODING = {"raw": 1.0, "hex": 2.0}
"""Bytes in a NRRD file for one of its voxels' bytes; gzip has `MAX_DEFLATE_RATIO`."""
GZIP_ENCODINGS = ("gz", "gzip")
TEXT_ENCODINGS = ("ascii", "text", "txt")
TEXT_VOXEL_BYTES = 2
"""Least length of a voxel written as a number: a digit and a blank."""

PATIENT_SPACES = ("ras", "las", "lps", "right-anterior", "left-anterior", "left-posterior")
"""How NRRD's `space` begins where it is the patient's (teem, nrrd/format.html)."""
METAIMAGE_AXES = ("transformmatrix", "rotation", "orientation")
"""Three names of one field."""
OTHER_UNITS = ("m", "cm", "um", "\N{MICRO SIGN}m", "nm", "in", "meter", "meters", "centimeter", "centimeters",
               "micron", "microns", "micrometer", "micrometers", "inch", "inches")  # fmt: skip
"""Of length, that are not mm."""

DICOM_MAGIC_OFFSET, DICOM_MAGIC = 128, b"DICM"
DICOM_FIRST_GROUPS = (0x0002, 0x0008)
"""A DICOM file without its preamble begins with the file's meta information or the data set's first group."""
DICOM_FIRST_VRS = b"AE AS CS DA DT IS LO LT OB PN SH SQ ST TM UI UL UN US UT".split()
DICOM_LARGEST_FIRST_FIELD = 1024
DICOM_MAX_INFLATED_BYTES = 1 << 28
DICOM_PIXELS = (Tag("FloatPixelData"), Tag("DoubleFloatPixelData"), Tag("PixelData"))


@dataclass(frozen=True)
class Body:
    """Where a header's voxels lie and how they are written.

    Attributes:
        file, offset: the file, and where in it they begin.
        encoding: "raw", "gzip" (zlib's header too), "hex" or "text".
        n_claimed: bytes that the compressed voxels take, where the header says so.
    """

    file: Path
    offset: int
    encoding: str
    n_claimed: int | None = None


class OverclaimError(ValueError):
    """A field claims more than its file holds."""

    def __init__(self) -> None:
        super().__init__("a field claims more than the file holds")


class Bounded:
    """A stream that gives no more than it has: libraries ask for as much as a field says it is long.

    Args:
        file: a seekable binary stream.
        n_bytes: how long it is; None where that is not known (a compressed one).
    """

    def __init__(self, file: Any, n_bytes: int | None = None) -> None:
        self._file, self._n_bytes = file, n_bytes

    def read(self, size: int = -1) -> bytes:
        """As a file's; an `OverclaimError` or another ValueError where so much cannot be there."""
        if not 0 <= size <= MAX_READ_BYTES:
            raise ValueError(f"an extension or a slice of {size} bytes")
        if self._n_bytes is not None and SMALL_READ_BYTES < size > self._n_bytes - self._file.tell():
            raise OverclaimError
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As a file's, but not behind its end."""
        if self._n_bytes is not None and whence == os.SEEK_SET and offset > self._n_bytes:
            raise OverclaimError
        return self._file.seek(offset, whence)

    def write(self, data: bytes) -> int:
        """Not possible, but nibabel takes only streams whose class has it (from Python 3.12 on)."""
        raise io.UnsupportedOperation("write")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def check_place(path: Path) -> None:
    """Refuse what is no CT by the look of its place: links to nothing, pipes, pointers to other files."""
    if path.is_symlink() and not os.path.exists(path):
        raise CaseError(f"{path}: a link to {path.readlink()}, which is not there. Mount or copy that too")
    if os.path.exists(path) and not (path.is_file() or path.is_dir()):
        raise CaseError(f"{path}: no regular file. Copy the CT itself there")
    if path.is_file():
        check_pointer(path)


def check_pointer(path: Path) -> None:
    """Refuse a file that only stands for another one (git-LFS, git-annex)."""
    if remedy := pointer_remedy(path):
        raise CaseError(f"{path}: is {remedy}")


def pointer_remedy(path: Path) -> str | None:
    """What a file that only stands for another one is, and what to do; None for all other files."""
    with path.open("rb") as file:
        head = file.read(max(map(len, POINTERS)))
    return next((remedy for beginning, remedy in POINTERS.items() if head.startswith(beginning)), None)


def check_claim(path: Path, shape: Shape, voxel_bytes: float, stored_bytes: float) -> None:
    """Refuse a header that claims more than its file can hold, before any memory is taken for it.

    Args:
        path: for the error's text.
        shape: (i, j, k) voxels, as claimed.
        voxel_bytes: of one voxel as it is stored.
        stored_bytes: of the file; the most it can inflate to, where it is compressed.

    Raises:
        CaseError: it claims too much.
    """
    claimed_bytes = math.prod(shape) * voxel_bytes
    if claimed_bytes > stored_bytes:
        raise CaseError(
            f"{path}: the header claims {claimed_bytes:.0f} bytes, more than the file can hold. Copy it again"
        )
    if math.prod(shape) > MAX_VOXELS:
        raise CaseError(f"{path}: has {math.prod(shape)} voxels, more than any CT. Crop or resample it")


# ------------------------------------------------------------------------------------------------------ NIfTI


def check_nifti(kind: Any, head: bytes) -> None:
    """Without an sform the spacing is pixdim's, where nibabel would take 1 mm for 0.

    Voxels are read from wherever the header says, in the header itself too: all of them would be shifted.

    Raises:
        ValueError: a spacing of 0, or voxels that begin in the header.
    """
    header = kind(head[: kind.sizeof_hdr], check=False)
    if not header["vox_offset"] >= kind.sizeof_hdr:
        raise ValueError(f"its header says that voxels begin at byte {header['vox_offset']}, in the header")
    if header["sform_code"] <= 0 and 0 in header["pixdim"][1:4]:
        raise ValueError("its header gives a voxel spacing of 0")


# --------------------------------------------------------------------------------------- MetaImage and NRRD


def find_metaimage_body(path: Path) -> Body:
    """Where a MetaImage's voxels lie.

    Raises:
        CaseError: in several files or out of its folder, or a number of dimensions that ITK crashes on.
    """
    fields, offset = _text_header(path, "=", lambda key, line: key == "elementdatafile")
    if "elementdatafile" not in fields:
        raise ValueError("no MetaImage header")
    if fields.get("ndims") not in ("2", "3", "4"):  # ITK makes room for any number, and crashes
        raise CaseError(f"{path}: has {fields.get('ndims', 'no')} dimensions. Give one 3D CT volume")
    encoding = "gzip" if fields.get("compresseddata", "").lower() == "true" else "raw"
    if fields.get("binarydata", "true").lower() == "false":
        encoding = "text"
    claimed = fields.get("compresseddatasize", "")
    n_claimed = int(claimed) if claimed.isdecimal() else None
    return _body(path, fields["elementdatafile"], offset, encoding, n_claimed)


def find_nrrd_body(path: Path) -> Body:
    """Where a NRRD's voxels lie.

    Raises:
        CaseError: in several files or out of its folder, or written in a way that is not known.
    """
    fields, offset = _text_header(path, ":", lambda key, line: not line.strip())
    if "encoding" not in fields:
        raise ValueError("no NRRD header")
    encoding = fields["encoding"].lower()
    if encoding in GZIP_ENCODINGS:
        encoding = "gzip"
    elif encoding in TEXT_ENCODINGS:
        encoding = "text"
    elif encoding not in BYTES_BY_ENCODING:
        raise CaseError(f"{path}: its encoding is {encoding!r}. Write it as raw or gzip")
    skips = {fields.get(name, "0") for name in ("lineskip", "line skip", "byteskip", "byte skip")}
    name = fields.get("data file") or fields.get("datafile") or LOCAL
    if skips != {"0"}:
        raise CaseError(f"{path}: its voxels begin behind lines or bytes to skip. Write them without")
    if path.suffix.lower() == ".nrrd" and name.upper() != LOCAL:
        raise CaseError(
            f"{path}: its voxels are in {name!r}. Give one file, or a .nhdr with one file beside it"
        )
    return _body(path, name.removeprefix("./"), offset, encoding, None)


def geometry_warnings(path: Path, *, is_nrrd: bool) -> list[str]:
    """Where the header leaves open what ITK takes as 1 mm, or as DICOM's axes, without a word.

    Raises:
        CaseError: lengths in another unit than mm, which ITK does not look at.
    """
    if is_nrrd:
        fields, _ = _text_header(path, ":", lambda key, line: not line.strip())
        has_axes = fields.get("space", "").lower().startswith(PATIENT_SPACES)
        spacing = fields.get("space directions") or fields.get("spacings", "")
        units = re.findall(r'"([^"]*)"', fields.get("space units", "") + fields.get("units", ""))
    else:
        fields, _ = _text_header(path, "=", lambda key, line: key == "elementdatafile")
        has_axes = not fields.keys().isdisjoint(METAIMAGE_AXES)
        spacing = fields.get("elementspacing") or fields.get("elementsize", "")
        units = [fields.get("distanceunits", "")]
    if other := [unit for unit in units if unit.strip().lower() in OTHER_UNITS]:
        raise CaseError(f"{path}: its header is in {other[0]}. Convert spacing and origin to mm")
    warnings = []
    if not re.search(r"\d", spacing):
        warnings.append("the header gives no voxel spacing: taken as 1 mm, so all sizes are a guess")
    if not has_axes:
        name = "space" if is_nrrd else "TransformMatrix"
        warnings.append(f"the header does not say how the patient lies ({name}): left and right are a guess")
    return warnings


def check_body(path: Path, body: Body, shape: tuple[int, ...], voxel_bytes: int) -> None:
    """Refuse voxels that are not as many as the header claims.

    ITK makes room for whatever is claimed, and takes a MetaImage whose compressed voxels are damaged, or text
    that ends too early, for whole: they are gone through first.
    """
    if remedy := pointer_remedy(body.file):
        raise CaseError(f"{path}: {body.file.name}, which holds its voxels, is {remedy}")
    stored_bytes = body.file.stat().st_size - body.offset
    n_voxels, n_bytes = math.prod(shape), math.prod(shape) * voxel_bytes
    claim: Shape = (n_voxels, 1, 1)
    if body.encoding == "gzip":
        check_claim(path, claim, voxel_bytes, stored_bytes * MAX_DEFLATE_RATIO)
        _check_deflated(path, body, n_bytes)
    elif body.encoding == "text":
        check_claim(path, claim, TEXT_VOXEL_BYTES, stored_bytes + 1)  # nothing has to follow the last
        _check_text(path, body, n_voxels)
    else:
        check_claim(path, claim, voxel_bytes * BYTES_BY_ENCODING[body.encoding], stored_bytes)


def _text_header(
    path: Path, separator: str, is_last: Callable[[str, bytes], bool]
) -> tuple[dict[str, str], int]:
    """Fields by lower-case name, and where the header ends."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        while (line := file.readline(MAX_HEADER_BYTES)) and file.tell() <= MAX_HEADER_BYTES:
            key, _, value = line.decode(errors="replace").partition(separator)
            key = key.strip().lower()
            fields.setdefault(key, value.strip())
            if is_last(key, line):
                break
        return fields, file.tell()


def _body(path: Path, name: str, offset: int, encoding: str, n_claimed: int | None) -> Body:
    if name.upper() == LOCAL:
        return Body(path, offset, encoding, n_claimed)
    if not name or Path(name).name != name or "%" in name or name.upper().startswith("LIST"):
        raise CaseError(
            f"{path}: its voxels are in {name!r}. Give one file, or a .mhd with one file beside it"
        )
    return Body(path.with_name(name), 0, encoding)


def _check_deflated(path: Path, body: Body, n_bytes: int) -> None:
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


def _check_text(path: Path, body: Body, n_voxels: int) -> None:
    n_found, rest = 0, b""
    with body.file.open("rb") as file:
        file.seek(body.offset)
        while piece := file.read(PIECE_BYTES):
            words = (rest + piece).split()
            rest = words.pop() if words and not piece[-1:].isspace() else b""
            n_found += len(words)
            if len(rest) > PIECE_BYTES:
                break
    n_found += bool(rest)
    if n_found != n_voxels:
        raise CaseError(f"{path}: holds {n_found} numbers for {n_voxels} voxels. Copy it again")


# ------------------------------------------------------------------------------------------------------ DICOM


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do, with their preamble or without."""
    head = _head(path)
    return head[DICOM_MAGIC_OFFSET:] == DICOM_MAGIC or _begins_with_a_field(head)


def has_magic(path: Path) -> bool:
    """Whether a file has DICOM's preamble, and so is meant to be DICOM beyond doubt."""
    return _head(path)[DICOM_MAGIC_OFFSET:] == DICOM_MAGIC


def _head(path: Path) -> bytes:
    if not os.path.isfile(path):
        return b""  # a pipe, say, which would wait for ever
    try:
        with path.open("rb") as file:
            return file.read(DICOM_MAGIC_OFFSET + len(DICOM_MAGIC))
    except OSError:
        return b""


def _begins_with_a_field(head: bytes) -> bool:
    if len(head) < 8:
        return False
    for order in "<>":
        group, _, vr = struct.unpack(f"{order}HH2s", head[:6])
        (length,) = struct.unpack(f"{order}I", head[4:8])
        if group in DICOM_FIRST_GROUPS and (
            vr in DICOM_FIRST_VRS or (order == "<" and length <= DICOM_LARGEST_FIRST_FIELD)
        ):
            return True
    return False


@contextmanager
def open_dicom(path: Path, keywords: tuple[str, ...] = ()) -> Iterator[tuple[pydicom.Dataset, Any]]:
    """A file's header, and the stream at the pixels: what lies behind those is never looked at.

    Args:
        path: the file, with or without its preamble.
        keywords: of the fields to keep; all, where there are none.

    Raises:
        ValueError: a field claims more than the file holds.
        Exception: whatever pydicom raises for a damaged header.
    """
    tags = [Tag(keyword) for keyword in keywords]
    with path.open("rb") as file:
        stream: Bounded = _Undeflated(file, path.stat().st_size)
        try:
            header = _read_header(stream, tags)
        except _DeflatedError:  # pydicom would inflate all there is, however much that is
            inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), DICOM_MAX_INFLATED_BYTES)
            stream = Bounded(io.BytesIO(inflated), len(inflated))
            header = _read_header(stream, tags)
        yield header, stream


class _DeflatedError(Exception):
    """The data set is compressed as a whole (PS3.5, A.5)."""


class _Undeflated(Bounded):
    def read(self, size: int = -1) -> bytes:
        if size < 0:  # pydicom asks for all there is for this alone
            raise _DeflatedError
        return super().read(size)


def _read_header(stream: Any, tags: list[Any]) -> pydicom.Dataset:
    return pydicom.filereader.read_partial(
        stream, lambda tag, vr, length: tag in DICOM_PIXELS, specific_tags=tags or None, force=True
    )


def finite(values: Any, count: int) -> tuple[float, ...] | None:
    """So many finite numbers, or None."""
    try:
        numbers = np.atleast_1d(np.asarray([] if values is None else values, dtype=np.float64)).ravel()
    except ValueError:  # text: "0,75" with a comma, say
        return None
    return tuple(numbers.tolist()) if numbers.size == count and np.isfinite(numbers).all() else None

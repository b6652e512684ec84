"""One DICOM file: what its header says of its slices, and their pixels in Hounsfield units.

Headers by pydicom, behind `preflight.open_dicom`; compressed pixels by GDCM (in SimpleITK), which is given
nothing but one frame in a file of our own.
"""

import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import UID, CTImageStorage, MediaStorageDirectoryStorage

from . import simpleitk as sitk
from .preflight import DICOM_PIXELS, OverclaimError, check_pointer, finite, has_magic, open_dicom
from .volume import CaseError

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""Screenshots and dose pages, one frame or several (PS3.6, A)."""
LOCALISER = "LOCALIZER"
GREY = ("MONOCHROME1", "MONOCHROME2", "")
"""MONOCHROME1 is about how a picture is shown; Hounsfield units are the stored value's rescale alone."""
MAX_MATRIX = 4096
"""Rows or columns; CTs have up to 2048."""
UNDEFINED_LENGTH, ITEM, LAST_ITEM = 0xFFFFFFFF, (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
LONG_VRS = (b"OB", b"OW", b"OF", b"OD", b"UN")

PHASES = (
    *("StudyInstanceUID", "FrameOfReferenceUID", "AcquisitionNumber", "AcquisitionUID", "AcquisitionDate"),
    *("AcquisitionTime", "AcquisitionDateTime", "TemporalPositionIdentifier", "TemporalPositionIndex"),
    *("StackID", "TriggerTime", "NominalPercentageOfCardiacPhase", "ContrastBolusAgent", "ImageType"),
    *("ConvolutionKernel", "KVP", "SliceThickness", "SeriesDescription", "ProtocolName"),
)
"""Fields in which two volumes that share a series differ: time, contrast, reconstruction."""
OF_FILE = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "InstanceNumber", "Modality"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices"),
    *("RescaleSlope", "RescaleIntercept", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames"),
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
OF_FRAME = {"FrameAcquisitionNumber": "AcquisitionNumber", "FrameType": "ImageType"}
"""What a frame's header calls otherwise than a file with one slice."""


class Kind(Enum):
    """What a DICOM file is good for."""

    CT = "slices of a CT"
    OTHER_IMAGE = "an image of another modality, MR say"
    NO_CT = "a localiser, a dose page, a report: nothing that anybody meant to be segmented"
    UNREADABLE = "nothing that can be read"
    DIRECTORY = "a medium's table of contents"


@dataclass(frozen=True)
class Pixels:
    """How a file's frames are stored (PS3.3, C.7.6.3)."""

    rows: int
    columns: int
    n_frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    is_big_endian: bool
    is_compressed: bool
    syntax: str


@dataclass(frozen=True)
class Slice:
    """One slice: a file, or a frame of one.

    Attributes:
        file, frame: where it is; frames from 0.
        instance: SOP instance UID.
        number: instance number; None where there is none, and for frames.
        position_mm: of its first pixel (x, y, z) in LPS; None where the header does not say.
        orientation: directions of its rows and columns, six cosines.
        spacing_mm: between rows, and between columns.
        slope, intercept: of the stored values, to Hounsfield units.
        phase: its values of `PHASES`.
        pixels: how they are stored.
    """

    file: Path
    frame: int
    instance: str
    number: int | None
    position_mm: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing_mm: tuple[float, ...] | None
    slope: float
    intercept: float
    phase: tuple[str, ...]
    pixels: Pixels


@dataclass(frozen=True)
class DicomFile:
    """A file, what it is, and its slices.

    Attributes:
        path, kind: the file, and what it is good for.
        series, series_number: of its header; "" and 0 where it does not say.
        slices: of a CT.
        error: why it is damaged, a whole line.
    """

    path: Path
    kind: Kind
    series: str = ""
    series_number: int = 0
    slices: tuple[Slice, ...] = ()
    error: str | None = None


def look(path: Path) -> DicomFile:
    """What a file is, by its header; whatever lies in it, nothing is raised."""
    series, number = "", 0
    try:
        check_pointer(path)
        with open_dicom(path, (*OF_FILE, *PHASES)) as (header, stream):
            series, number = _text(header, "SeriesInstanceUID"), _whole(header.get("SeriesNumber")) or 0
            kind = _kind(header)
            slices = _slices(path, header, stream) if kind is Kind.CT else ()
        if kind is not Kind.UNREADABLE or not has_magic(path):
            return DicomFile(path, kind, series, number, slices)
        error = f"{path}: says neither what it is nor what it shows. Copy it again"
    except OverclaimError as overclaim:
        error = f"{path}: {overclaim}. Copy it again"
    except CaseError as damage:
        error = str(damage)
    except Exception as damage:  # pydicom raises whatever comes of a damaged header
        error = f"{path}: its header is damaged ({type(damage).__name__}). Copy it again"
    return DicomFile(path, Kind.CT, series, number, error=error)


def read_frames(path: Path, pixels: Pixels) -> Iterator[NDArray]:
    """The stored values of a file's frames, in file order, (row, column)."""
    with open_dicom(path, ("Rows",)) as (header, stream):
        _pixel_length(header, stream)
        if pixels.is_compressed:
            for data in generate_frames(stream, number_of_frames=pixels.n_frames):
                yield _decompress(data, pixels)
            return
        n_bytes = pixels.bits_allocated // 8
        for _ in range(pixels.n_frames):
            data = stream.read(pixels.rows * pixels.columns * n_bytes)
            stored = np.frombuffer(data, f"{'>' if pixels.is_big_endian else '<'}u{n_bytes}")
            yield _used_bits(stored, pixels).reshape(pixels.rows, pixels.columns)


def to_hu(stored: NDArray, one: Slice) -> NDArray:
    """Hounsfield units: rescale alone, whole numbers where it allows."""
    if one.slope.is_integer() and one.intercept.is_integer():
        return stored.astype(np.int64) * int(one.slope) + int(one.intercept)
    return stored * one.slope + one.intercept


def _text(header: pydicom.Dataset, keyword: str) -> str:
    value = header.get(keyword)
    return "" if value is None else str(value).strip()


def _whole(value: Any) -> int | None:
    """A number that only orders; anonymisers put text there."""
    try:
        return int(value)
    except (ValueError, TypeError, OverflowError):
        return None


def _kind(header: pydicom.Dataset) -> Kind:
    sop_class, modality = _text(header, "SOPClassUID"), _text(header, "Modality")
    if MediaStorageDirectoryStorage in (sop_class, header.file_meta.get("MediaStorageSOPClassUID")):
        return Kind.DIRECTORY
    is_picture = sop_class.startswith(SECONDARY_CAPTURE) and "ImagePositionPatient" not in header
    is_colour = int(header.get("SamplesPerPixel") or 1) != 1
    is_colour = is_colour or _text(header, "PhotometricInterpretation") not in GREY
    types = _text(header, "ImageType").upper() + str(_frame_type(header)).upper()
    if is_picture or is_colour or LOCALISER in types:
        return Kind.NO_CT
    if modality in ("CT", ""):
        return Kind.CT if modality or "Rows" in header else Kind.UNREADABLE
    has_image = "Rows" in header and not sop_class.startswith(SECONDARY_CAPTURE) and modality != "SEG"
    return Kind.OTHER_IMAGE if has_image else Kind.NO_CT


def _frame_type(header: pydicom.Dataset) -> Any:
    groups = [*(header.get("SharedFunctionalGroupsSequence") or [])]
    groups += [*(header.get("PerFrameFunctionalGroupsSequence") or [])][:1]
    return [g.CTImageFrameTypeSequence[0].get("FrameType") for g in groups if "CTImageFrameTypeSequence" in g]


def _slices(path: Path, header: pydicom.Dataset, stream: Any) -> tuple[Slice, ...]:
    """The slices of a CT's file, once its pixels are known to be there."""
    pixels = _pixels(path, header, stream)
    frames = [*(header.get("PerFrameFunctionalGroupsSequence") or [])]
    if len(frames) not in (0, pixels.n_frames):
        raise CaseError(f"{path}: describes {len(frames)} frames, holds {pixels.n_frames}. Export it again")
    shared = [*(header.get("SharedFunctionalGroupsSequence") or [])][:1]
    levels = [[header, *shared, *frames[k : k + 1]] for k in range(pixels.n_frames)]
    slices = tuple(_slice(path, k, level, pixels) for k, level in enumerate(levels))
    if frames or len(slices) == 1:
        return slices
    return _evenly_spaced(slices, finite(header.get("SpacingBetweenSlices"), 1))


def _evenly_spaced(slices: tuple[Slice, ...], step_mm: tuple[float, ...] | None) -> tuple[Slice, ...]:
    """Frames without positions of their own lie one behind the other, as far apart as the header says."""
    first = slices[0]
    if step_mm is None or first.position_mm is None or first.orientation is None:
        return tuple(replace(one, position_mm=None) for one in slices)
    step = np.cross(first.orientation[:3], first.orientation[3:]) * step_mm[0]
    return tuple(
        replace(one, position_mm=tuple((np.array(first.position_mm) + one.frame * step).tolist()))
        for one in slices
    )


def _slice(path: Path, frame: int, levels: list[pydicom.Dataset], pixels: Pixels) -> Slice:
    """A slice by its file's header and, if it is a frame, by what all frames share and by its own groups."""
    found: dict[str, Any] = {}
    for level in levels:
        groups = [level]
        for element in level if level is not levels[0] else ():
            if element.VR == "SQ" and element.value:
                groups.append(element.value[0])
        for group in groups:
            for keyword in (*OF_FILE, *PHASES):
                if (value := group.get(keyword)) not in (None, ""):
                    found[keyword] = value
            found.update({new: group[old].value for old, new in OF_FRAME.items() if old in group})
    slope, intercept = finite(found.get("RescaleSlope", 1), 1), finite(found.get("RescaleIntercept", 0), 1)
    if slope is None or intercept is None or slope[0] == 0:
        raise CaseError(f"{path}: its rescale slope or intercept is no number. Export it again")
    return Slice(
        path,
        frame,
        str(found.get("SOPInstanceUID", path)),
        _whole(found.get("InstanceNumber")) if pixels.n_frames == 1 else None,
        finite(found.get("ImagePositionPatient"), 3),
        finite(found.get("ImageOrientationPatient"), 6),
        finite(found.get("PixelSpacing"), 2),
        slope[0],
        intercept[0],
        tuple(str(found.get(keyword, "")) for keyword in PHASES),
        pixels,
    )


def _pixels(path: Path, header: pydicom.Dataset, stream: Any) -> Pixels:
    """How the pixels are stored, once they are known to be all there.

    Raises:
        CaseError: they are not, or they are stored in no way that a CT is.
        OverclaimError: the file is cut.
    """
    length = _pixel_length(header, stream)
    if length is None:
        raise CaseError(f"{path}: holds no pixels. Copy it again")
    is_implicit, is_little_endian = header.original_encoding
    bits = int(header.BitsAllocated)
    pixels = Pixels(
        rows=int(header.Rows),
        columns=int(header.Columns),
        n_frames=int(header.get("NumberOfFrames") or 1),
        bits_allocated=bits,
        bits_stored=int(header.get("BitsStored") or bits),
        high_bit=int(header.get("HighBit") or int(header.get("BitsStored") or bits) - 1),
        is_signed=bool(header.get("PixelRepresentation")),
        is_big_endian=not is_little_endian,
        is_compressed=length == UNDEFINED_LENGTH and not is_implicit,
        syntax=str(header.file_meta.get("TransferSyntaxUID", "")),
    )
    fits = 0 < pixels.bits_stored <= pixels.high_bit + 1 <= bits
    if bits not in (8, 16, 32) or not fits or not 0 < pixels.rows <= MAX_MATRIX >= pixels.columns > 0:
        raise CaseError(
            f"{path}: {pixels.rows} × {pixels.columns} pixels of {pixels.bits_stored} bits in {bits}: "
            "no CT's. Export it again"
        )
    here, needed = stream.tell(), pixels.n_frames * pixels.rows * pixels.columns * bits // 8
    if pixels.is_compressed:
        if sum(1 for _ in _items(stream)) < pixels.n_frames or pixels.n_frames < 1:
            raise CaseError(f"{path}: holds fewer frames than it claims. Copy it again")
    elif not 0 < needed <= length or length == UNDEFINED_LENGTH:
        raise CaseError(f"{path}: holds fewer pixels than it claims. Copy it again")
    stream.seek(here)
    return pixels


def _pixel_length(header: pydicom.Dataset, stream: Any) -> int | None:
    """What the pixels' field says of its length, the stream behind that; None where there is no such field.

    Raises:
        OverclaimError: it claims more than the file holds.
    """
    is_implicit, is_little_endian = header.original_encoding
    order = "<" if is_little_endian else ">"
    head = stream.read(8)
    if len(head) < 8:
        return None
    group, element, vr, short = struct.unpack(f"{order}HH2sH", head)
    if group << 16 | element not in DICOM_PIXELS:
        return None
    if is_implicit:
        (length,) = struct.unpack(f"{order}I", head[4:])
    elif vr in LONG_VRS:
        (length,) = struct.unpack(f"{order}I", stream.read(4))
    else:
        length = short
    if length != UNDEFINED_LENGTH:
        stream.seek(stream.tell() + length)
        stream.seek(stream.tell() - length)
    return int(length)


def _items(stream: Any) -> Iterator[int]:
    """Lengths of a compressed frame's fragments (PS3.5, A.4), the offset table left out."""
    is_table = True
    while True:
        head = stream.read(8)
        if len(head) < 8:
            raise OverclaimError
        *tag, length = struct.unpack("<HHI", head)
        if tuple(tag) == LAST_ITEM:
            return
        if tuple(tag) != ITEM:
            raise OverclaimError
        stream.seek(stream.tell() + length)
        if not is_table:
            yield length
        is_table = False


def _used_bits(stored: NDArray, pixels: Pixels) -> NDArray:
    """Without the bits beside the value's own, in which old files keep overlays."""
    above = pixels.bits_allocated - pixels.high_bit - 1
    shifted = np.left_shift(stored.astype(stored.dtype.newbyteorder("=")), above)
    if pixels.is_signed:
        shifted = shifted.view(f"i{stored.dtype.itemsize}")
    return np.right_shift(shifted, pixels.bits_allocated - pixels.bits_stored)


def _decompress(data: bytes, pixels: Pixels) -> NDArray:
    """A frame by GDCM, from a file of our own that holds it and nothing else."""
    one = pydicom.Dataset()
    one.file_meta = pydicom.dataset.FileMetaDataset()
    one.file_meta.TransferSyntaxUID = UID(pixels.syntax)
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = CTImageStorage
    one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    one.Rows, one.Columns, one.SamplesPerPixel = pixels.rows, pixels.columns, 1
    one.BitsAllocated, one.BitsStored, one.HighBit = (
        pixels.bits_allocated,
        pixels.bits_stored,
        pixels.high_bit,
    )
    one.PixelRepresentation, one.PhotometricInterpretation = int(pixels.is_signed), "MONOCHROME2"
    one.PixelData = encapsulate([data])
    one["PixelData"].VR = "OB"
    with tempfile.TemporaryDirectory(prefix="frame-") as folder:
        path = Path(folder) / "frame.dcm"
        one.save_as(path, enforce_file_format=True)
        decoded = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="GDCMImageIO"))
    return decoded.reshape(pixels.rows, pixels.columns)

"""One DICOM series in a folder, by SimpleITK (GDCM)."""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .itk import ct_of_image, itk_name
from .volume import MAX_SHEAR_COSINE, CaseError, Ct

if TYPE_CHECKING:
    import SimpleITK as sitk
else:
    from . import simpleitk as sitk

MAX_UNEVEN_STEP = 0.1
"""Distances between slices that differ by more than this part of a slice are worth a warning."""
SAME_MM = 0.01
"""Slices closer than this lie at one place."""
IMAGE_IO = "GDCMImageIO"
SUFFIX = ".dcm"
DIRECTORY = "DICOMDIR"
"""A medium's table of contents: DICOM itself, but no image."""
MAGIC_OFFSET, MAGIC = 128, b"DICM"
IMAGE_TYPE, SOP_INSTANCE, MODALITY = "0008|0008", "0008|0018", "0008|0060"
SERIES, POSITION, ORIENTATION = "0020|000e", "0020|0032", "0020|0037"
LOCALISER = "LOCALIZER"

# how fields lie in a file (DICOM PS3.5, sections 7.1 and 7.5, and PS3.6 for tags and transfer syntaxes)
META_GROUP, TRANSFER_SYNTAX, PIXELS = b"\x02\x00", (0x0002, 0x0010), (0x7FE0, 0x0010)
ITEM_GROUP, ITEM, UNDEFINED = 0xFFFE, b"\xfe\xff\x00\xe0", 0xFFFFFFFF
SHORT_VRS = b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()
LONG_VRS = b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split()
IMPLICIT, BIG_ENDIAN = b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.2"
DEFLATED = b"1.2.840.10008.1.2.1.99"
MAX_UID_BYTES = 64


@dataclass(frozen=True)
class _Slice:
    """One file of a series, by its header.

    Attributes:
        file: its path.
        series: series instance UID.
        instance: SOP instance UID; copies of a slice share it.
        modality: CT, MR …
        is_localiser: an overview picture, no slice.
        position_mm: of its first pixel (x, y, z) in LPS; None where the header does not say.
        orientation: directions of its rows and columns, six cosines.
    """

    file: str
    series: str
    instance: str
    modality: str
    is_localiser: bool
    position_mm: tuple[float, ...] | None
    orientation: tuple[float, ...] | None


def read(folder: Path) -> Ct:
    """The folder's one CT series; `ct.read_ct` tells what it raises.

    Localisers, copies of a slice and series other than CT are passed over with a warning.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == SUFFIX or is_dicom(path))
    found = [_slice(path) for path in files if path.name != DIRECTORY]
    slices = [s for s in found if s is not None]
    warnings = []
    if unreadable := len(found) - len(slices):
        warnings.append(f"{unreadable} DICOM files are no images that can be read; passed over")
    kept = [s for s in slices if s.modality in ("CT", "") and not s.is_localiser]
    if len(kept) < len(slices):
        warnings.append(f"{len(slices) - len(kept)} DICOM files are localisers or no CT; passed over")
    n_series = len({s.series for s in kept})
    if n_series != 1:
        detail = f"; {unreadable} files cannot be read" if unreadable else ""
        raise CaseError(
            f"{folder}: holds {n_series} DICOM series of a CT, not one{detail}. Put one CT series in a folder"
        )
    unique = list({s.instance: s for s in kept}.values())
    if len(unique) < len(kept):
        warnings.append(f"{len(kept) - len(unique)} slices are there twice; taken once")
    ordered = _in_order(folder, unique)
    warnings.extend(_gap_warnings(ordered))
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO(IMAGE_IO)
    reader.SetFileNames([s.file for s in ordered])
    return ct_of_image(folder, reader.Execute(), tuple(warnings))


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do."""
    if not os.path.isfile(path):
        return False  # a pipe, say, which would wait for ever
    try:
        with path.open("rb") as file:
            return file.read(MAGIC_OFFSET + len(MAGIC))[MAGIC_OFFSET:] == MAGIC
    except OSError:
        return False


def _slice(path: Path) -> _Slice | None:
    """A file's header; None where it is no image that GDCM can read.

    Raises:
        CaseError: the file is damaged.
    """
    if not is_dicom(path):
        return None
    if not _is_whole(path):
        raise CaseError(f"{path}: a field claims more than the file holds. Copy it again")
    reader = sitk.ImageFileReader()
    reader.SetImageIO(IMAGE_IO)
    reader.SetFileName(itk_name(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None

    def text(tag: str) -> str:
        return reader.GetMetaData(tag).strip() if reader.HasMetaDataKey(tag) else ""

    def numbers(tag: str, count: int) -> tuple[float, ...] | None:
        values = tuple(float(value) for value in text(tag).split("\\") if value.strip())
        return values if len(values) == count and np.isfinite(values).all() else None

    return _Slice(
        str(path),
        text(SERIES),
        text(SOP_INSTANCE) or str(path),
        text(MODALITY),
        LOCALISER in text(IMAGE_TYPE).upper(),
        numbers(POSITION, 3),
        numbers(ORIENTATION, 6),
    )


def _is_whole(path: Path) -> bool:
    """Whether all fields fit into the file (DICOM PS3.5, 7.1): GDCM takes memory for whatever they claim."""
    n_bytes = path.stat().st_size
    order, syntax = "<", b""
    is_explicit, is_body, is_encapsulated = True, False, False
    with path.open("rb") as file:
        file.seek(MAGIC_OFFSET + len(MAGIC))
        while head := file.read(8):
            if len(head) < 8:
                return False
            if not is_body and head[:2] != META_GROUP:
                is_body, is_explicit = True, syntax != IMPLICIT
                order = ">" if syntax == BIG_ENDIAN else "<"
                if syntax == DEFLATED:
                    return True
            tag = struct.unpack(f"{order}HH", head[:4])
            if tag[0] == ITEM_GROUP or not is_explicit:
                (length,) = struct.unpack(f"{order}I", head[4:])
            elif head[4:6] in LONG_VRS:
                long = file.read(4)
                length = struct.unpack(f"{order}I", long)[0] if len(long) == 4 else n_bytes
            elif head[4:6] in SHORT_VRS:
                (length,) = struct.unpack(f"{order}H", head[6:])
            else:
                return False
            here = file.tell()
            if tag == PIXELS and length == UNDEFINED:
                is_encapsulated = True
            elif length == UNDEFINED or (tag[0] == ITEM_GROUP and not is_encapsulated):
                continue  # what lies inside is looked at field by field
            elif length > n_bytes - here:
                return False
            else:
                value = file.read(min(length, MAX_UID_BYTES))
                if tag == TRANSFER_SYNTAX:
                    syntax = value.rstrip(b"\0 ")
                is_sequence = value.startswith(ITEM) and tag != PIXELS and not is_encapsulated
                file.seek(here if is_sequence else here + length)
    return True


def _in_order(folder: Path, slices: list[_Slice]) -> list[_Slice]:
    """The slices from one end of a straight volume to the other."""
    if len(slices) == 1:
        return slices  # one file may hold all slices
    if any(s.position_mm is None or s.orientation is None for s in slices):
        raise CaseError(f"{folder}: slices without position or orientation. Export the series again")
    orientations = np.array([s.orientation for s in slices])
    if np.abs(orientations - orientations[0]).max() > MAX_SHEAR_COSINE:
        raise CaseError(f"{folder}: its slices lie in several orientations. Put one CT series in a folder")
    normal = np.cross(orientations[0, :3], orientations[0, 3:])
    positions = np.array([s.position_mm for s in slices], dtype=np.float64)
    order = np.argsort(positions @ normal, kind="stable")
    steps = np.diff(positions[order], axis=0)
    steps_mm = np.linalg.norm(steps, axis=1)
    if steps_mm.min() < SAME_MM:
        raise CaseError(
            f"{folder}: several slices lie at one place (two phases, perhaps). Put one CT series in a folder"
        )
    if np.linalg.norm(np.cross(steps / steps_mm[:, None], normal), axis=1).max() > MAX_SHEAR_COSINE:
        raise CaseError(f"{folder}: its slices are tilted (gantry). Resample it on a straight grid first")
    return [slices[i] for i in order]


def _gap_warnings(ordered: list[_Slice]) -> list[str]:
    """ITK takes the slices of a series as evenly spaced, whatever their positions say."""
    if len(ordered) < 3:
        return []
    steps_mm = np.linalg.norm(np.diff([s.position_mm for s in ordered], axis=0), axis=1)
    if np.ptp(steps_mm) <= MAX_UNEVEN_STEP * np.median(steps_mm):
        return []
    return [
        f"slices lie {steps_mm.min():g} to {steps_mm.max():g} mm apart: some may be missing, "
        "and positions and volumes are wrong there"
    ]

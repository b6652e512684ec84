"""The series that DICOM outputs refer to, and what they all say of themselves. Needs pydicom."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import generate_uid
from pydicom.valuerep import DA, TM

from .volume import LPS_TO_RAS, MAX_SHEAR_COSINE, CaseError, NativeGrid

LONG_STRING_CHARS = 64
"""Most that DICOM allows in a version (PS3.5, VR LO)."""
NO_SERIAL_NUMBER = "none"
SERIES_DESCRIPTION = "Kidneys and kidney tumors, research use only"

REQUIRED = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
)
"""What outputs say of their source images (type 1 attributes of a CT image)."""
MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
)
"""Type 2 attributes: they must be there, and tools that anonymise sometimes drop them."""


TYPES: dict[str, Callable[[str], object]] = {"PatientBirthDate": DA, "StudyDate": DA, "StudyTime": TM}
SEXES = (None, "", "M", "F", "O")
TEXTS = (*MAY_BE_EMPTY, "ReferringPhysicianName", "PositionReferenceIndicator")
"""What outputs copy."""
UTF_8 = "ISO_IR 192"


def cut_version(version: str) -> str:
    """A version as long as DICOM can hold."""
    return version[:LONG_STRING_CHARS]


def tracking_uid(series_uid: str, version: str, name: str) -> str:
    """A structure's tracking UID: the same in all objects that one version makes of one series."""
    return generate_uid(entropy_srcs=[series_uid, version, name])


def source_images(series: Path, native: NativeGrid) -> list[pydicom.Dataset]:
    """The images that lie under the CT's slices, in their order, without their pixels.

    What else is in the folder (localisers, other modalities, copies, notes) does not lie on its grid.

    Raises:
        CaseError: the series lacks what an output must refer to, or has not one image a slice.
    """
    images: dict[str, pydicom.Dataset] = {}
    # the reader knows which files are this series' own, where the folder holds several
    for file in native.dicom_files or sorted(series.iterdir()):
        image = _read_header(file)
        if image is not None and _is_slice_of(native, image):
            _check_attributes(file, image)
            if native.dicom_files and image.SOPInstanceUID in images:
                raise CaseError(
                    f"{file}: has another slice's SOP instance UID, so that nothing can refer to it. "
                    "Export the series again, or leave out --output-format"
                )
            images[image.SOPInstanceUID] = image
    if len(images) != native.shape[2]:
        raise CaseError(
            f"{series}: {len(images)} images for {native.shape[2]} slices. "
            "Only a series with one image a file can be the source of a DICOM segmentation"
        )
    towards_next_slice = native.affine[:3, 2] * LPS_TO_RAS
    return sorted(images.values(), key=lambda image: float(towards_next_slice @ image.ImagePositionPatient))


def _read_header(file: Path) -> pydicom.Dataset | None:
    try:
        return pydicom.dcmread(file, stop_before_pixels=True, force=True) if file.is_file() else None
    except Exception:  # whatever pydicom raises for a file that anybody put there; the CT was read without it
        return None


def _is_slice_of(native: NativeGrid, image: pydicom.Dataset) -> bool:
    if image.get("Modality", "") not in ("CT", "") or "LOCALIZER" in image.get("ImageType", ""):
        return False
    if (image.get("Columns"), image.get("Rows")) != native.shape[:2]:
        return False
    directions = native.affine[:3, :2] / np.linalg.norm(native.affine[:3, :2], axis=0)
    rows_and_columns = (directions.T * LPS_TO_RAS).ravel()
    orientation = image.get("ImageOrientationPatient")
    return orientation is not None and np.allclose(rows_and_columns, orientation, atol=MAX_SHEAR_COSINE)


def _check_attributes(file: Path, image: pydicom.Dataset) -> None:
    for keyword in REQUIRED:
        if image.get(keyword) in (None, ""):
            raise CaseError(
                f"{file}: lacks {keyword}, which a DICOM segmentation must refer to. "
                "Export the series again, or leave out --output-format"
            )
    for keyword in MAY_BE_EMPTY:
        image.setdefault(keyword, None)
    _make_valid(image)


def _make_valid(image: pydicom.Dataset) -> None:
    """Leave empty what is no date, time or sex (anonymised, say), and write names in UTF-8.

    They are no part of the result, and highdicom fails on what it does not know: an empty first character set
    too, which is the usual one in Japan and Korea (PS3.5, 6.1.2.3).
    """
    for keyword, kind in TYPES.items():
        try:
            kind(image[keyword].value or "")
        except (ValueError, OverflowError):
            image[keyword].value = None
    if image.PatientSex not in SEXES:
        image.PatientSex = None
    for keyword in TEXTS:
        image.get(keyword)  # from here on a text, in the old character set
    image.SpecificCharacterSet = UTF_8

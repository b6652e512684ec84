"""Label maps as DICOM segmentation objects that refer to the series they were made from.

Needs highdicom (the extra dicom), which inference does without otherwise: import this module only
where such output is asked for.
"""

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from nibabel.orientations import apply_orientation
from numpy.typing import NDArray
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from ..geometry import KIDNEY, TUMOR
from .ct import CaseError, NativeGrid
from .staging import staged

NAME = "nested-vnet-kits19"
SERIES_NUMBER = 1900
"""Any will do; this one is unlikely to be another series' number in its study."""
MAX_SHEAR_COSINE = 0.02
"""Images turned by more than this (1.1°) are no slices of the same volume."""
RAS_TO_LPS = (-1.0, -1.0, 1.0)
"""The affine's world axes to DICOM's."""
LONG_STRING_CHARS = 64
"""Most that DICOM allows in a version (PS3.5, VR LO)."""
NO_SERIAL_NUMBER = "none"

KIDNEY_CODE = Code("64033007", "SCT", "Kidney")
KIDNEY_TUMOR_CODE = Code("126880001", "SCT", "Neoplasm of kidney")
ANATOMY_CODE = Code("91723000", "SCT", "Anatomical Structure")
ABNORMALITY_CODE = Code("49755003", "SCT", "Morphologically Abnormal Structure")
ARTIFICIAL_INTELLIGENCE_CODE = Code("123110", "DCM", "Artificial Intelligence")
"""Segmented property types, their categories (PS3.16, CID 7150) and the kind of algorithm (CID 7162)."""

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
"""What a segmentation says of its source images (type 1 attributes of a CT image)."""
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


def write_dicom_seg(
    path: Path, labels: NDArray[np.uint8], native: NativeGrid, series: Path, *, version: str
) -> None:
    """Write labels as a BINARY segmentation with the segments 1 (kidney) and 2 (kidney tumor).

    Slices without a label are left out. A segment without voxels is described and has no frame; where
    both have none, all slices are written, empty, since the object must have frames.

    Args:
        path: the file to write; it appears under its name only when whole. Missing folders are made.
        labels: (z, y, x) canonical LPS, same voxels as the CT's `hu`.
        native: the CT's `native`.
        series: the folder of the CT's series.
        version: of the weights; cut to what DICOM can hold.

    Raises:
        CaseError: the series lacks what a segmentation must refer to.
        OSError: the output cannot be written (no right, no space).
    """
    version = version[:LONG_STRING_CHARS]
    frames = apply_orientation(labels, native.from_canonical).transpose(2, 1, 0)  # (slice, row, column)
    segmentation = hd.seg.Segmentation(
        source_images=_source_images(series, native),
        pixel_array=np.ascontiguousarray(frames),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=_segments(version),
        series_instance_uid=generate_uid(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=NAME,
        manufacturer_model_name=NAME,
        software_versions=version,
        device_serial_number=NO_SERIAL_NUMBER,
        series_description="Kidney and kidney tumor, research use only",
        content_label="KIDNEY_TUMOR",
        content_description="Kidneys and kidney tumors",
        omit_empty_frames=bool(labels.any()),
    )
    with staged(path) as partial:
        segmentation.save_as(partial)


def _segments(version: str) -> list[hd.seg.SegmentDescription]:
    algorithm = hd.AlgorithmIdentificationSequence(
        name=NAME, family=ARTIFICIAL_INTELLIGENCE_CODE, version=version
    )
    return [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=category,
            segmented_property_type=kind,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            anatomic_regions=regions,
        )
        for number, label, category, kind, regions in (
            (KIDNEY, "Kidney", ANATOMY_CODE, KIDNEY_CODE, None),
            (TUMOR, "Kidney tumor", ABNORMALITY_CODE, KIDNEY_TUMOR_CODE, [KIDNEY_CODE]),
        )
    ]


def _source_images(series: Path, native: NativeGrid) -> list[pydicom.Dataset]:
    """The images that lie under the CT's slices, in their order, without their pixels.

    What else is in the folder (localisers, other modalities, copies, notes) does not lie on its grid.
    """
    images: dict[str, pydicom.Dataset] = {}
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
    towards_next_slice = native.affine[:3, 2] * RAS_TO_LPS
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
    rows_and_columns = (directions.T * RAS_TO_LPS).ravel()
    orientation = image.get("ImageOrientationPatient")
    return orientation is not None and np.allclose(rows_and_columns, orientation, atol=MAX_SHEAR_COSINE)


def _check_attributes(file: Path, image: pydicom.Dataset) -> None:
    for keyword in REQUIRED:
        if keyword not in image:
            raise CaseError(
                f"{file}: lacks {keyword}, which a DICOM segmentation must refer to. "
                "Export the series again, or leave out --output-format"
            )
    for keyword in MAY_BE_EMPTY:
        image.setdefault(keyword, None)

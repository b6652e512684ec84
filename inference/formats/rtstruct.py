"""Label maps as DICOM RT structure sets: outlines in each slice of the series. Needs pydicom.

Outlines run along the voxels' edges, so that whoever fills them gets the label map back, voxel for voxel.
Where a part has a hole it is cut in two there: outlines then never lie inside each other, which readers take
differently.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from ..version import NAME
from .dicom_source import (
    MAY_BE_EMPTY,
    NO_SERIAL_NUMBER,
    SERIES_DESCRIPTION,
    cut_version,
    source_images,
    tracking_uid,
)
from .outline import outlines, without_holes
from .segments import COLOURS, SIDE_CODES, TYPE_CODES, Code, Segment, Segments
from .staging import staged
from .volume import NativeGrid

RT_STRUCTURE_SET = UID("1.2.840.10008.5.1.4.1.1.481.3")
STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"
"""Detached study management: what RT Referenced Study Sequence asks for."""
SERIES_NUMBER = 1901
DECIMAL_CHARS = 16
"""Most of a number in DICOM (PS3.5, VR DS)."""


def write_rtstruct(path: Path, segments: Segments, native: NativeGrid, series: Path, *, version: str) -> None:
    """Write a structure set with one region for each kidney (without its tumors) and each tumor.

    Segments without voxels are left out.

    Args:
        path: the file to write; it appears under its name only when whole. Missing folders are made.
        segments: (z, y, x) canonical LPS, same voxels as the CT's `hu`.
        native: the CT's `native`.
        series: the folder of the CT's series.
        version: of the weights; cut to what DICOM can hold.

    Raises:
        CaseError: the series lacks what a structure set must refer to.
        OSError: the output cannot be written (no right, no space).
    """
    images = source_images(series, native)
    frames = apply_orientation(segments.numbers, native.from_canonical).transpose(2, 1, 0)
    structure_set = _general(images[0], cut_version(version))
    structure_set.ReferencedFrameOfReferenceSequence = [_frame_of_reference(images)]
    structure_set.StructureSetROISequence = []
    structure_set.ROIContourSequence = []
    structure_set.RTROIObservationsSequence = []
    for number, segment in enumerate(segments.described, start=1):
        if not (frames == number).any():
            continue
        uid = tracking_uid(images[0].SeriesInstanceUID, cut_version(version), segment.name)
        structure_set.StructureSetROISequence.append(_region(number, segment, images[0]))
        structure_set.ROIContourSequence.append(_contours(number, segment, frames == number, images))
        structure_set.RTROIObservationsSequence.append(_observation(number, segment, uid))
    with staged(path) as partial:
        structure_set.save_as(partial, enforce_file_format=True)


def _general(image: Dataset, version: str) -> Dataset:
    now = datetime.now(UTC)
    result = Dataset()
    result.file_meta = FileMetaDataset()
    result.file_meta.MediaStorageSOPClassUID = RT_STRUCTURE_SET
    result.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    result.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    result.SOPClassUID = RT_STRUCTURE_SET
    result.SOPInstanceUID = result.file_meta.MediaStorageSOPInstanceUID
    if "SpecificCharacterSet" in image:
        result.SpecificCharacterSet = image.SpecificCharacterSet
    for keyword in MAY_BE_EMPTY:
        setattr(result, keyword, image[keyword].value)
    result.ReferringPhysicianName = image.get("ReferringPhysicianName", "")
    result.StudyInstanceUID = image.StudyInstanceUID
    result.FrameOfReferenceUID = image.FrameOfReferenceUID
    result.PositionReferenceIndicator = image.get("PositionReferenceIndicator", "")
    result.SeriesInstanceUID = generate_uid()
    result.SeriesNumber = SERIES_NUMBER
    result.SeriesDescription = SERIES_DESCRIPTION
    result.Modality = "RTSTRUCT"
    result.OperatorsName = ""
    result.Manufacturer = result.ManufacturerModelName = NAME
    result.DeviceSerialNumber = NO_SERIAL_NUMBER
    result.SoftwareVersions = version
    result.InstanceNumber = 1
    result.InstanceCreationDate = result.StructureSetDate = now.strftime("%Y%m%d")
    result.InstanceCreationTime = result.StructureSetTime = now.strftime("%H%M%S")
    result.StructureSetLabel = "KIDNEY_TUMOR"
    result.ApprovalStatus = "UNAPPROVED"
    return result


def _frame_of_reference(images: list[Dataset]) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = images[0].SeriesInstanceUID
    series.ContourImageSequence = [_reference(image) for image in images]
    study = Dataset()
    study.ReferencedSOPClassUID = STUDY_MANAGEMENT
    study.ReferencedSOPInstanceUID = images[0].StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = images[0].FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _reference(image: Dataset) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = image.SOPClassUID
    reference.ReferencedSOPInstanceUID = image.SOPInstanceUID
    return reference


def _region(number: int, segment: Segment, image: Dataset) -> Dataset:
    region = Dataset()
    region.ROINumber = number
    region.ReferencedFrameOfReferenceUID = image.FrameOfReferenceUID
    region.ROIName = segment.name
    region.ROIGenerationAlgorithm = "AUTOMATIC"
    if "ml" in segment.measures:
        region.ROIVolume = str(segment.measures["ml"])  # in cm³
    return region


def _contours(number: int, segment: Segment, mask: NDArray[np.bool_], images: list[Dataset]) -> Dataset:
    contours = Dataset()
    contours.ReferencedROINumber = number
    contours.ROIDisplayColor = list(COLOURS[segment.kind])
    contours.ContourSequence = []
    for plane, image in zip(mask, images, strict=True):
        for part in without_holes(plane) if plane.any() else ():
            (corners,) = outlines(part)
            contour = Dataset()
            contour.ContourImageSequence = [_reference(image)]
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(corners)
            contour.ContourData = [_decimal(v) for v in _to_lps_mm(corners, image).ravel()]
            contours.ContourSequence.append(contour)
    return contours


def _to_lps_mm(corners: NDArray[np.int64], image: Dataset) -> NDArray[np.float64]:
    """Corners (row, column) of voxels, which reach half a voxel around their centres (PS3.3, C.7.6.2.1.1)."""
    orientation = np.array(image.ImageOrientationPatient, dtype=np.float64)
    row_mm, column_mm = (float(mm) for mm in image.PixelSpacing)
    along_columns = (corners[:, 1:] - 0.5) * column_mm * orientation[:3]
    along_rows = (corners[:, :1] - 0.5) * row_mm * orientation[3:]
    return np.array(image.ImagePositionPatient, dtype=np.float64) + along_columns + along_rows


def _decimal(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")[:DECIMAL_CHARS]


def _observation(number: int, segment: Segment, uid: str) -> Dataset:
    observation = Dataset()
    observation.ObservationNumber = number
    observation.ReferencedROINumber = number
    observation.RTROIInterpretedType = "ORGAN" if segment.kind == "kidney" else ""
    observation.ROIInterpreter = ""
    code = _coded(TYPE_CODES[segment.kind])
    if segment.side is not None:
        code.SegmentedPropertyTypeModifierCodeSequence = [_coded(SIDE_CODES[segment.side])]
    observation.RTROIIdentificationCodeSequence = [code]
    observation.TrackingID, observation.TrackingUID = segment.name, uid
    return observation


def _coded(concept: Code) -> Any:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = concept.value, concept.scheme
    code.CodeMeaning = concept.meaning
    return code

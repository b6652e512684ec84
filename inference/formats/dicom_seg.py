"""Label maps as DICOM segmentation objects that refer to the series they were made from.

Needs highdicom (the extra dicom), which inference does without otherwise: import this module only
where such output is asked for.
"""

from pathlib import Path

import highdicom as hd
import numpy as np
from nibabel.orientations import apply_orientation
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from ..version import NAME
from .dicom_source import (
    NO_SERIAL_NUMBER,
    SERIES_DESCRIPTION,
    cut_version,
    source_images,
    tracking_uid,
)
from .segments import COLOURS, KIDNEY_CODE, SIDE_CODES, TYPE_CODES, Kind, Segment, Segments
from .segments import Code as Concept
from .staging import staged
from .volume import NativeGrid

SERIES_NUMBER = 1900
"""Any will do; this one is unlikely to be another series' number in its study."""

ANATOMY_CODE = Code("91723000", "SCT", "Anatomical Structure")
ABNORMALITY_CODE = Code("49755003", "SCT", "Morphologically Abnormal Structure")
ARTIFICIAL_INTELLIGENCE_CODE = Code("123110", "DCM", "Artificial Intelligence")
"""Categories of segmented properties (PS3.16, CID 7150) and the kind of algorithm (CID 7162)."""
CATEGORIES: dict[Kind, Code] = {"kidney": ANATOMY_CODE, "tumor": ABNORMALITY_CODE}


def coded(concept: Concept) -> Code:
    """A concept as pydicom and highdicom take it."""
    return Code(concept.value, concept.scheme, concept.meaning)


def write_dicom_seg(
    path: Path, segments: Segments, native: NativeGrid, series: Path, *, version: str
) -> None:
    """Write a BINARY segmentation with one segment for each kidney and each tumor.

    Slices without a label are left out. A segment without voxels is described and has no frame; where
    all have none, all slices are written, empty, since the object must have frames.

    Args:
        path: the file to write; it appears under its name only when whole. Missing folders are made.
        segments: (z, y, x) canonical LPS, same voxels as the CT's `hu`.
        native: the CT's `native`.
        series: the folder of the CT's series.
        version: of the weights; cut to what DICOM can hold.

    Raises:
        CaseError: the series lacks what a segmentation must refer to.
        OSError: the output cannot be written (no right, no space).
    """
    version = cut_version(version)
    images = source_images(series, native)
    frames = apply_orientation(segments.numbers, native.from_canonical).transpose(2, 1, 0)
    segmentation = hd.seg.Segmentation(
        source_images=images,
        pixel_array=np.ascontiguousarray(frames),  # (slice, row, column)
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=_descriptions(segments, images[0].SeriesInstanceUID, version),
        series_instance_uid=generate_uid(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=NAME,
        manufacturer_model_name=NAME,
        software_versions=version,
        device_serial_number=NO_SERIAL_NUMBER,
        series_description=SERIES_DESCRIPTION,
        content_label="KIDNEY_TUMOR",
        content_description="Kidneys and kidney tumors",
        omit_empty_frames=bool(segments.numbers.any()),
    )
    with staged(path) as partial:
        segmentation.save_as(partial)


def _descriptions(segments: Segments, series_uid: str, version: str) -> list[hd.seg.SegmentDescription]:
    algorithm = hd.AlgorithmIdentificationSequence(
        name=NAME, family=ARTIFICIAL_INTELLIGENCE_CODE, version=version
    )
    described = []
    for number, segment in enumerate(segments.described, start=1):
        description = hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=segment.name,
            segmented_property_category=CATEGORIES[segment.kind],
            segmented_property_type=coded(TYPE_CODES[segment.kind]),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            anatomic_regions=[coded(KIDNEY_CODE)] if segment.kind == "tumor" else None,
            tracking_id=segment.name,
            tracking_uid=tracking_uid(series_uid, version, segment.name),
            display_color=hd.color.CIELabColor.from_rgb(*COLOURS[segment.kind]),
        )
        if segment.side is not None:
            _add_side(description, segment)
        described.append(description)
    return described


def _add_side(description: Dataset, segment: Segment) -> None:
    """Left or right: of a kidney as its type's modifier, of a tumor as its region's (PS3.3, 10.5, 10.7)."""
    side = hd.sr.CodedConcept.from_code(coded(SIDE_CODES[str(segment.side)]))
    if segment.kind == "kidney":
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [side]
    else:
        description.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [side]

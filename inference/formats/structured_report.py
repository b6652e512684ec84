"""Findings as a DICOM structured report (TID 1500) on the segmentation beside it. Needs highdicom."""

from pathlib import Path

import highdicom as hd
import pydicom
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from ..version import NAME
from .dicom_seg import coded
from .dicom_source import MAY_BE_EMPTY, SERIES_DESCRIPTION, cut_version, tracking_uid
from .segments import KIDNEY_CODE, SIDE_CODES, TYPE_CODES, Segment, Segments
from .staging import staged

SERIES_NUMBER = 1902
MILLILITRE = Code("ml", "UCUM", "milliliter")
MILLIMETRE = Code("mm", "UCUM", "millimeter")
HOUNSFIELD = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
VOLUME = Code("118565006", "SCT", "Volume")
ATTENUATION = Code("112031", "DCM", "Attenuation Coefficient")
MEAN = Code("373098007", "SCT", "Mean")
STANDARD_DEVIATION = Code("386136009", "SCT", "Standard Deviation")
LONG_AXIS = Code("103339001", "SCT", "Long Axis")
LARGEST_EXTENT = Code("L0JK", "IBSI", "Maximum 3D Diameter of a Mesh")
MEASUREMENTS = (
    ("ml", VOLUME, MILLILITRE, None),
    ("axial_diameter_mm", LONG_AXIS, MILLIMETRE, None),
    ("largest_extent_mm", LARGEST_EXTENT, MILLIMETRE, None),
    ("hu_mean", ATTENUATION, HOUNSFIELD, MEAN),
    ("hu_sd", ATTENUATION, HOUNSFIELD, STANDARD_DEVIATION),
)
"""Key of a segment's measures, concept, unit, derivation (PS3.16, TID 1411 and 1419)."""


def write_structured_report(path: Path, segmentation: Path, segments: Segments, *, version: str) -> None:
    """Write a Comprehensive 3D SR: volumes, diameters and attenuation of each segment that was measured.

    Args:
        path: the file to write; it appears under its name only when whole.
        segmentation: the DICOM segmentation of the same segments.
        segments: at least one has measures.
        version: of the weights; cut to what DICOM can hold.

    Raises:
        OSError: the output cannot be written (no right, no space).
    """
    version = cut_version(version)
    evidence = pydicom.dcmread(segmentation, stop_before_pixels=True)
    for keyword in MAY_BE_EMPTY:
        evidence.setdefault(keyword, None)
    source_series = evidence.ReferencedSeriesSequence[0].SeriesInstanceUID
    groups = [
        _group(number, segment, evidence, source_series, version)
        for number, segment in enumerate(segments.described, start=1)
        if segment.measures
    ]
    report = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(
            observer_device_context=hd.sr.ObserverContext(
                observer_type=codes.DCM.Device,
                observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
                    uid=generate_uid(entropy_srcs=[NAME, version]),
                    name=NAME,
                    manufacturer_name=NAME,
                    model_name=NAME,
                ),
            )
        ),
        procedure_reported=Code("77477000", "SCT", "Computed Tomography"),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    document = hd.sr.Comprehensive3DSR(
        evidence=[evidence],
        content=report,
        series_instance_uid=generate_uid(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=NAME,
        series_description=SERIES_DESCRIPTION,
    )
    with staged(path) as partial:
        document.save_as(partial)


def _group(
    number: int, segment: Segment, evidence: pydicom.Dataset, source_series: str, version: str
) -> hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    algorithm = hd.sr.AlgorithmIdentification(name=NAME, version=version)
    side = coded(SIDE_CODES[segment.side]) if segment.side is not None else None
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=tracking_uid(source_series, version, segment.name), identifier=segment.name
        ),
        referenced_segment=hd.sr.ReferencedSegment(
            sop_class_uid=evidence.SOPClassUID,
            sop_instance_uid=evidence.SOPInstanceUID,
            segment_number=number,
            source_series=hd.sr.SourceSeriesForSegmentation(source_series),
        ),
        finding_type=coded(TYPE_CODES[segment.kind]),
        finding_sites=[hd.sr.FindingSite(coded(KIDNEY_CODE), laterality=side)],
        algorithm_id=algorithm,
        measurements=[
            hd.sr.Measurement(name=concept, value=segment.measures[key], unit=unit, derivation=derivation)
            for key, concept, unit, derivation in MEASUREMENTS
            if key in segment.measures
        ],
    )

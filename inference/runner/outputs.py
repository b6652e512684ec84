"""`--output-format`: names of the outputs, and their writers."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..formats.ct import NativeGrid
from ..formats.segments import Segment, Segments, plain_segments
from ..formats.staging import staged
from ..geometry import KIDNEY, TUMOR
from .cases import Case, UsageError, refuse_shared_outputs, stem
from .findings import Findings, Kidney, Tumor
from .run import LabelWriter, write_as_label_map

MAX_SEGMENTS = 255
"""Most that fit in a byte."""
REPORT_SUFFIX = ".sr.dcm"
"""Of the structured report beside a DICOM segmentation."""
MEASURES = ("ml", "hu_mean", "hu_sd", "axial_diameter_mm", "largest_extent_mm")


@dataclass(frozen=True)
class OutputFormat:
    """An output format other than the label map.

    Attributes:
        suffix: of its files.
        needs_series: whether it must refer to a DICOM series.
    """

    suffix: str
    needs_series: bool


FORMATS = {
    "dicom-seg": OutputFormat(".dcm", needs_series=True),
    "rtstruct": OutputFormat(".rtstruct.dcm", needs_series=True),
    "seg-nrrd": OutputFormat(".seg.nrrd", needs_series=False),
}
LABEL_MAP = "label-map"
NAMES = (LABEL_MAP, *FORMATS)


def as_format(cases: Iterable[Case], name: str) -> list[Case]:
    """The same cases, with outputs named for the format.

    Raises:
        UsageError: the format must refer to a DICOM series, and a case is none; or two cases that differ in
            their suffix alone would write one output.
    """
    cases = list(cases)
    if name == LABEL_MAP:
        return cases
    chosen = FORMATS[name]
    for case in cases:
        if chosen.needs_series and not case.source.is_dir():
            raise UsageError(
                f"{case.source}: is no DICOM series, and --output-format {name} must refer to one. "
                "Leave the option out for this input"
            )
    cases = [
        replace(case, output=case.output.with_name(stem(case.output.name) + chosen.suffix)) for case in cases
    ]
    refuse_shared_outputs((case.source, case.output) for case in cases)
    return cases


def label_writer(name: str, *, version: str, with_report: bool = False) -> LabelWriter:
    """The writer of a format.

    Args:
        name: one of `NAMES`.
        version: of the weights, for formats that tell it.
        with_report: a structured report beside each DICOM segmentation too.

    Raises:
        UsageError: what the format needs is not installed, or reports were asked for without segmentations.
    """
    if with_report and name != "dicom-seg":
        raise UsageError("--structured-report refers to segmentations. Add --output-format dicom-seg")
    try:
        match name:
            case "dicom-seg":
                from ..formats.dicom_seg import write_dicom_seg

                write_report: Any = None
                if with_report:
                    from ..formats.structured_report import write_structured_report

                    write_report = write_structured_report
                return partial(_write_series_object, write_dicom_seg, write_report, version)
            case "rtstruct":
                from ..formats.rtstruct import write_rtstruct

                return partial(_write_series_object, write_rtstruct, None, version)
            case "seg-nrrd":
                from ..formats.segmentation_nrrd import write_segmentation_nrrd

                return partial(_write_nrrd, write_segmentation_nrrd)
            case _:
                return write_as_label_map
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--output-format {name}: {error.name} is not installed. Install the extra 'dicom': "
            "pip install '.[dicom]' in the clone, or an image built with EXTRAS=dicom ./run.sh build"
        ) from error


def segments_of(labels: NDArray[np.uint8], findings: Findings) -> Segments:
    """A segment for each kidney without its tumors, then one for each tumor.

    Where there is no kidney, or no tumor, a segment without voxels says so.

    Args:
        labels: (z, y, x) on the CT's grid.
        findings: of these labels.
    """
    parts = findings.parts
    if len(findings.kidneys) + len(findings.tumors) > MAX_SEGMENTS:
        return plain_segments(labels)  # too many small structures to number
    nothing = {"ml": 0.0}
    described = [_kidney_segment(kidney) for kidney in findings.kidneys]
    described = described or [Segment("Kidney", "kidney", measures=nothing)]
    first_tumor = len(described) + 1
    tumors = [_tumor_segment(tumor) for tumor in findings.tumors]
    described += tumors or [Segment("Kidney tumor", "tumor", measures=nothing)]
    numbers = np.zeros(labels.shape, np.uint8)
    if parts.kidneys.size:
        inside = numbers[parts.box]  # a view
        is_kidney, is_tumor = labels[parts.box] == KIDNEY, labels[parts.box] == TUMOR
        inside[is_kidney] = parts.kidneys[is_kidney]
        inside[is_tumor] = parts.tumors[is_tumor] + first_tumor - 1
    return Segments(numbers, tuple(described))


def _kidney_segment(kidney: Kidney) -> Segment:
    return Segment(kidney.name.capitalize(), "kidney", kidney.side, _measures(kidney))


def _tumor_segment(tumor: Tumor) -> Segment:
    return Segment(f"{tumor.name.capitalize()} ({tumor.kidney})", "tumor", tumor.side, _measures(tumor))


def _measures(part: Kidney | Tumor) -> dict[str, float]:
    values = {name: getattr(part, name, None) for name in MEASURES}
    return {name: value for name, value in values.items() if value is not None}


def _write_series_object(
    write: Any,
    write_report: Any,
    version: str,
    path: Path,
    labels: NDArray[np.uint8],
    native: NativeGrid,
    source: Path,
    findings: Findings,
) -> None:
    segments = segments_of(labels, findings)
    with staged(path) as partial:  # both files, or none
        write(partial, segments, native, source, version=version)
        if write_report is not None:
            write_report(partial.with_suffix(REPORT_SUFFIX), partial, segments, version=version)


def _write_nrrd(
    write: Any, path: Path, labels: NDArray[np.uint8], native: NativeGrid, source: Path, findings: Findings
) -> None:
    write(path, segments_of(labels, findings), native)

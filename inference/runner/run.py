"""One case from file to file, and many cases: read ahead, compute, write behind.

While case N computes, a thread reads case N+1 and another writes case N−1. A case that fails keeps its
failure to itself.
"""

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..formats.ct import (
    CaseError,
    Ct,
    NativeGrid,
    read_ct,
    read_native_grid,
    write_label_map,
    write_roi_volume,
)
from ..formats.dicom_identity import read_uids
from ..formats.staging import sweep
from ..formats.volume import check_hounsfield
from ..method.cascade import Cascade
from ..method.segment import Segmentation, segment_ct
from ..networks.backends import DeviceMemoryError
from .cases import Case
from .findings import Findings, Probabilities, measure, take_apart
from .flags import Facts, find_flags
from .page import Page
from .preview import write_preview
from .progress import CaseCounter, Progress, telling
from .report import CaseReport
from .stop import IN_HAND

log = logging.getLogger("inference")

LabelWriter = Callable[[Path, NDArray[np.uint8], NativeGrid, Path, Findings], None]
"""(file to write, labels (z, y, x), the CT's grid, its own file or folder, findings) → the file, whole."""


def write_as_label_map(
    path: Path, labels: NDArray[np.uint8], native: NativeGrid, source: Path, findings: Findings
) -> None:
    """The usual `LabelWriter`, which needs no more than the grid of the source."""
    write_label_map(path, labels, native)


@dataclass(frozen=True)
class Options:
    """What a run may choose.

    Attributes:
        output: the output folder.
        paper: centre crop and nearest-neighbour restore, the literal method.
        skip_existing: pass over cases whose output is there.
        background_on_error: write an all-background label map for a case that failed.
        previews: folder for preview pictures.
        probabilities: folder for the probability maps on the ROI grid.
        page: takes pictures of each result.
        write_labels: how outputs are written.
    """

    output: Path
    paper: bool = False
    skip_existing: bool = False
    background_on_error: bool = False
    previews: Path | None = None
    probabilities: Path | None = None
    page: Page | None = None
    write_labels: LabelWriter = write_as_label_map


def run_cases(
    cases: Sequence[Case],
    cascade: Cascade,
    options: Options,
    *,
    done: Callable[[list[CaseReport]], None] = lambda reports: None,
    fallback: Callable[[], Cascade] | None = None,
    progress: Callable[[str, float], None] = lambda what, n_done: None,
) -> list[CaseReport]:
    """Segment all cases; none's failure costs another's result.

    Args:
        cases: what to segment.
        cascade: the networks.
        options: of the run.
        done: called with all finished records whenever a case is finished.
        fallback: gives networks on the CPU, for a case that the GPU has no memory for.
        progress: called whenever a stage of a case begins, with the case and its stage, and with how many
            cases are done, a fraction for the one that is computed.
    """
    finished: list[CaseReport] = []

    def finish(report: CaseReport) -> None:
        finished.append(report)
        _log_outcome(report, len(finished), len(cases))
        done(finished)

    _sweep(cases, options)
    waiting = []
    for case in cases:
        report = CaseReport(case.name, str(case.source), case.output.as_posix())
        if options.skip_existing and _is_written(options.output / case.output):
            report.status = "skipped"
            finish(report)
        else:
            waiting.append((case, report))

    with ThreadPoolExecutor(1, "reader") as reader, ThreadPoolExecutor(1, "writer") as writer:

        def read_ahead(index: int) -> Future[Ct] | None:
            return reader.submit(_read, *waiting[index]) if index < len(waiting) else None

        counter, n_skipped = CaseCounter(progress), len(finished)
        reading = read_ahead(0)
        writing: Future[None] | None = None
        for index, (case, report) in enumerate(waiting):
            assert reading is not None
            current, reading = reading, read_ahead(index + 1)  # starts as soon as the current one is read
            ct, segmentation = None, None
            told = counter.begin(case.name, n_skipped + index)
            told("read", 0.0)
            try:
                ct = current.result()
                segmentation = _segment(ct, cascade, report, options, fallback, told)
            except Exception as error:
                _note_failure(report, error)
            told("write", 0.0)
            if writing is not None:
                writing.result()  # one case behind, not more: results must not pile up in memory
            writing = writer.submit(_write, case, report, ct, segmentation, cascade, options, finish)
        if writing is not None:
            writing.result()
    return finished


def _sweep(cases: Sequence[Case], options: Options) -> None:
    """Remove what an earlier run that was killed has left half-written."""
    folders = {(options.output / case.output).parent for case in cases}
    for extra in (options.previews, options.probabilities):
        if extra is not None:
            folders.update((extra / case.name).parent for case in cases)
    for folder in folders:
        sweep(folder)


def _is_written(path: Path) -> bool:
    return os.path.isfile(path) and os.path.getsize(path) > 0  # noqa: PTH202


def _segment(
    ct: Ct,
    cascade: Cascade,
    report: CaseReport,
    options: Options,
    fallback: Callable[[], Cascade] | None,
    progress: Progress,
) -> Segmentation:
    """On the GPU; where its memory does not suffice, once more on the CPU."""
    timed = telling(report.timed, progress)
    try:
        return segment_ct(ct.hu, ct.spacing_mm, cascade, paper=options.paper, timed=timed)
    except DeviceMemoryError:
        if fallback is None:
            raise
    report.warnings.append("the GPU ran out of memory: segmented on the CPU")
    return segment_ct(ct.hu, ct.spacing_mm, fallback(), paper=options.paper, timed=timed)


def _read(case: Case, report: CaseReport) -> Ct:
    with report.timed("read"):
        ct = read_ct(case.source)
        check_hounsfield(case.source, ct.hu)
    report.warnings.extend(ct.warnings)
    return ct


def _write(
    case: Case,
    report: CaseReport,
    ct: Ct | None,
    segmentation: Segmentation | None,
    cascade: Cascade,
    options: Options,
    finish: Callable[[CaseReport], None],
) -> None:
    with IN_HAND:
        _write_in_hand(case, report, ct, segmentation, cascade, options)
        finish(report)


def _write_in_hand(
    case: Case,
    report: CaseReport,
    ct: Ct | None,
    segmentation: Segmentation | None,
    cascade: Cascade,
    options: Options,
) -> None:
    try:
        if ct is not None and segmentation is not None:
            with report.timed("measure"):
                findings = _describe(report, ct, segmentation, cascade)
            _write_extras(case, report, ct, segmentation, findings, options)
            with report.timed("write"):
                labels = segmentation.restored.labels
                options.write_labels(options.output / case.output, labels, ct.native, case.source, findings)
            report.status = "written"
    except Exception as error:
        _note_failure(report, error)
    if report.status == "failed" and options.background_on_error:
        _write_background(case, report, ct, options)


def _write_extras(
    case: Case,
    report: CaseReport,
    ct: Ct,
    segmentation: Segmentation,
    findings: Findings,
    options: Options,
) -> None:
    """Pictures and probabilities; where they cannot be written, the label map still counts."""
    labels = segmentation.restored.labels
    try:
        if options.probabilities is not None:
            _write_probabilities(options.probabilities / case.name, ct, segmentation)
        if options.previews is not None:
            with report.timed("preview"):
                write_preview(options.previews / f"{case.name}.png", case.name, ct, labels, findings)
        if options.page is not None:
            with report.timed("page"):
                options.page.add(case.name, ct, labels, findings)
    except Exception as error:
        report.warnings.append(f"preview or probabilities not written ({type(error).__name__}: {error})")
        log.debug("traceback of %s", report.name, exc_info=error)


def _write_background(case: Case, report: CaseReport, ct: Ct | None, options: Options) -> None:
    """Keep a challenge submission complete although a case failed."""
    try:
        native = read_native_grid(case.source) if ct is None else ct.native
        background = np.zeros(native.canonical_shape, dtype=np.uint8)
        findings = Findings(take_apart(background, native.spacing_mm))
        options.write_labels(options.output / case.output, background, native, case.source, findings)
        report.status = "background"
    except Exception as error:
        log.error("%s: no background map either: %s", case.name, error)


def _write_probabilities(folder: Path, ct: Ct, segmentation: Segmentation) -> None:
    for stage, values in (("kidney", segmentation.kidney), ("tumor", segmentation.tumor)):
        write_roi_volume(
            folder.with_name(f"{folder.name}_{stage}.nii.gz"), values, segmentation.roi, ct.native
        )


def _describe(report: CaseReport, ct: Ct, segmentation: Segmentation, cascade: Cascade) -> Findings:
    """Measure the label map that will be written; the record takes all of it."""
    labels, structures = segmentation.restored.labels, segmentation.structures
    networks = Probabilities(
        segmentation.roi,
        segmentation.kidney,
        segmentation.tumor,
        structures.ids > 0,
        cascade.kidney_metadata.threshold,
        cascade.tumor_metadata.threshold,
    )
    parts = take_apart(labels, ct.spacing_mm, structures.ids, segmentation.roi)
    findings = measure(ct, labels, parts, networks)
    voxel_ml = float(np.prod(ct.spacing_mm)) / 1000
    kidneys, tumors = (sum(counts[i] for counts in segmentation.restored.voxels) for i in (0, 1))
    report.voxels = {"kidney": kidneys, "tumor": tumors}
    report.kidney_ml, report.tumor_ml = round(kidneys * voxel_ml, 2), round(tumors * voxel_ml, 2)
    report.input = {
        "spacing_mm": [round(s, 6) for s in ct.spacing_mm],
        "shape_vox": list(ct.hu.shape),
        "dicom": read_uids(Path(report.source), getattr(ct.native, "dicom_files", ())),
    }
    report.kidneys = [asdict(kidney) for kidney in findings.kidneys]
    report.tumors = [asdict(tumor) for tumor in findings.tumors]
    report.structures = [
        {"side": kidney.side, "kidney_ml": kidney.ml, "tumor_ml": kidney.tumor_ml}
        for kidney in findings.kidneys
    ]
    flags = find_flags(Facts(findings, ct.spacing_mm, int(ct.hu.min())))
    report.flags = [asdict(flag) for flag in flags]
    return findings


def _note_failure(report: CaseReport, error: Exception) -> None:
    if isinstance(error, CaseError):
        report.error = str(error)
    elif isinstance(error, MemoryError):
        report.error = f"{report.source}: does not fit in memory. Give the process more, or crop the CT"
    elif isinstance(error, OSError):
        report.error = (
            f"{error.filename or report.output}: {error.strerror or error}. Check the output folder"
        )
    else:
        text = " ".join(str(error).split())  # PyTorch's errors run over many lines
        report.error = (
            f"{report.source}: {type(error).__name__}: {text}. This is a bug: run with -v and report it"
        )
        log.debug("traceback of %s", report.name, exc_info=error)


def _log_outcome(report: CaseReport, number: int, total: int) -> None:
    for warning in report.warnings:
        log.warning("%s: %s", report.name, warning)
    for flag in report.flags:
        log.warning("%s: look at it (%s): %s", report.name, flag["rule"], flag["text"])
    progress = f"[{number}/{total}] {report.name}"
    if report.status == "skipped":
        log.info("%s skipped: %s exists", progress, report.output)
    elif report.status == "written":
        volumes = f"kidney {report.kidney_ml} ml, tumor {report.tumor_ml} ml"
        log.info("%s written: %s, %.1f s", progress, volumes, sum(report.seconds.values()))
    else:
        written = " (all-background map written)" if report.status == "background" else ""
        log.error("%s FAILED%s: %s", progress, written, report.error)

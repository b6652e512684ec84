"""One case from file to file, and many cases: read ahead, compute, write behind.

While case N computes, a thread reads case N+1 and another writes case N−1. A case that fails
does not stop the others.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

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
from ..method.method import DEFAULT, Method
from ..method.segment import Progress, SegmentedCt, segment
from ..networks.backends import DeviceMemoryError
from ..networks.cascade import Cascade
from .cases import Case
from .findings import Findings, Probabilities, measure, take_apart
from .flags import Facts, find_flags
from .page import Page
from .preview import write_preview
from .progress import CaseCounter, both
from .report import CaseReport
from .stop import no_exit

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
    """Options of a run.

    Attributes:
        output: the output folder.
        method: the default, or the paper's.
        skip_existing: skip cases whose output is there, unless it was made by another recipe.
        earlier: what an earlier run reported, by output.
        recipe: see `CaseReport`.
        background_on_error: write an all-background label map for a case that failed.
        previews: folder for preview pictures.
        probabilities: folder for the probability maps on the ROI grid.
        page: takes pictures of each result.
        write_labels: how outputs are written.
        beside: ending of a file that it writes beside each output.
    """

    output: Path
    method: Method = DEFAULT
    skip_existing: bool = False
    earlier: Mapping[str, CaseReport] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    background_on_error: bool = False
    previews: Path | None = None
    probabilities: Path | None = None
    page: Page | None = None
    write_labels: LabelWriter = write_as_label_map
    beside: str | None = None


def run_cases(
    cases: Sequence[Case],
    cascade: Cascade,
    options: Options,
    *,
    done: Callable[[list[CaseReport]], None] = lambda reports: None,
    fallback: Callable[[], Cascade] | None = None,
    progress: Callable[[str, float], None] = lambda what, n_done: None,
) -> list[CaseReport]:
    """Segment all cases; a failed one does not affect the others.

    Args:
        cases: what to segment.
        cascade: the networks.
        options: of the run.
        done: called with all finished records whenever a case is finished; no signal ends the process within.
        fallback: gives networks on the CPU, for a case that the GPU has no memory for.
        progress: called whenever a stage of a case begins, with the case and its stage, and with how many
            cases are done, a fraction for the one that is computed.
    """
    finished: list[CaseReport] = []
    outdated: dict[str, CaseReport] = {}  # to be done again; until then the report says how they were made

    def finish(report: CaseReport) -> None:
        finished.append(report)
        outdated.pop(report.output, None)
        _log_outcome(report, len(finished), len(cases))
        done([*finished, *outdated.values()])

    _sweep(cases, options)
    waiting, skipped = [], []
    for case in cases:
        report = CaseReport(
            case.name,
            str(case.source),
            case.output.as_posix(),
            warnings=list(case.warnings),
            recipe=dict(options.recipe),
        )
        earlier = options.earlier.get(report.output)
        if not (options.skip_existing and _is_written(options.output / case.output, options.beside)):
            waiting.append((case, report))
        elif earlier is None or not earlier.recipe:
            skipped.append(replace(report, status="skipped", warnings=[], recipe={}))
        elif earlier.is_measured and earlier.recipe == report.recipe:
            skipped.append(replace(earlier, name=report.name, source=report.source, status="skipped"))
        else:
            outdated[report.output] = earlier
            waiting.append((case, report))
    for number, report in enumerate(skipped, start=1):
        finished.append(report)
        _log_outcome(report, number, len(cases))
    if skipped:
        with no_exit():
            done([*finished, *outdated.values()])

    with ThreadPoolExecutor(1, "reader") as reader, ThreadPoolExecutor(1, "writer") as writer:

        def read_ahead(index: int) -> Future[Ct] | None:
            return reader.submit(_read, *waiting[index]) if index < len(waiting) else None

        counter, n_skipped = CaseCounter(progress), len(finished)
        reading = read_ahead(0)
        writing: Future[None] | None = None
        for index, (case, report) in enumerate(waiting):
            assert reading is not None
            current, reading = reading, read_ahead(index + 1)  # starts as soon as the current one is read
            ct, segmented = None, None
            told = counter.begin(case.name, n_skipped + index)
            told("read", 0.0)
            try:
                ct = current.result()
                segmented = _segment(ct, cascade, report, options, fallback, told)
            except Exception as error:
                _note_failure(report, error)
            told("write", 0.0)
            if writing is not None:
                writing.result()  # one case behind, not more: results must not pile up in memory
            writing = writer.submit(_write, case, report, ct, segmented, cascade, options, finish)
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


def _is_written(path: Path, beside: str | None) -> bool:
    files = [path] if beside is None else [path, path.with_suffix(beside)]
    return all(os.path.isfile(file) and os.path.getsize(file) > 0 for file in files)  # noqa: PTH202


def _segment(
    ct: Ct,
    cascade: Cascade,
    report: CaseReport,
    options: Options,
    fallback: Callable[[], Cascade] | None,
    progress: Progress,
) -> SegmentedCt:
    """On the GPU; where its memory does not suffice, once more on the CPU."""
    try:
        return segment(ct.hu, ct.spacing_mm, cascade, options.method, both(report.timer(), progress))
    except DeviceMemoryError:
        if fallback is None:
            raise
    report.warnings.append("the GPU ran out of memory: segmented on the CPU")
    return segment(ct.hu, ct.spacing_mm, fallback(), options.method, both(report.timer(), progress))


def _read(case: Case, report: CaseReport) -> Ct:
    with report.timed("read"):
        ct = read_ct(case.source, series=case.series)
        check_hounsfield(case.source, ct.hu)
    report.warnings.extend(ct.warnings)
    return ct


def _write(
    case: Case,
    report: CaseReport,
    ct: Ct | None,
    segmented: SegmentedCt | None,
    cascade: Cascade,
    options: Options,
    finish: Callable[[CaseReport], None],
) -> None:
    with no_exit():
        _write_locked(case, report, ct, segmented, cascade, options)
        finish(report)


def _write_locked(
    case: Case,
    report: CaseReport,
    ct: Ct | None,
    segmented: SegmentedCt | None,
    cascade: Cascade,
    options: Options,
) -> None:
    try:
        if ct is not None and segmented is not None:
            with report.timed("measure"):
                findings = _describe(report, ct, segmented, cascade)
            _write_extras(case, report, ct, segmented, findings, options)
            with report.timed("write"):
                labels = segmented.labels
                options.write_labels(options.output / case.output, labels, ct.native, case.source, findings)
            report.status = "written"
    except Exception as error:
        _note_failure(report, error)
    if report.status == "failed" and options.background_on_error:
        _write_background(case, report, ct, options)


def _write_extras(
    case: Case, report: CaseReport, ct: Ct, segmented: SegmentedCt, findings: Findings, options: Options
) -> None:
    """Write pictures and probabilities. If one fails, the others and the label map stay valid."""
    labels = segmented.labels
    if options.probabilities is not None:
        with _spared(report, "probabilities"):
            _write_probabilities(options.probabilities / case.name, ct, segmented)
    if options.previews is not None:
        with _spared(report, "preview"), report.timed("preview"):
            write_preview(options.previews / f"{case.name}.png", case.name, ct, labels, findings)
    if options.page is not None:
        with _spared(report, "the page's pictures"), report.timed("page"):
            options.page.add(case.name, ct, labels, findings)


@contextmanager
def _spared(report: CaseReport, what: str) -> Iterator[None]:
    """A failure becomes a warning."""
    try:
        yield
    except Exception as error:
        report.warnings.append(f"{what} not written ({type(error).__name__}: {error})")
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


def _write_probabilities(folder: Path, ct: Ct, segmented: SegmentedCt) -> None:
    for stage, values in (("kidney", segmented.kidney_on_roi), ("tumor", segmented.tumor_on_roi)):
        write_roi_volume(folder.with_name(f"{folder.name}_{stage}.nii.gz"), values, segmented.roi, ct.native)


def _describe(report: CaseReport, ct: Ct, segmented: SegmentedCt, cascade: Cascade) -> Findings:
    """Measure the label map that will be written; the record takes all of it."""
    labels, structures = segmented.labels, segmented.structures
    networks = Probabilities(
        segmented.roi,
        segmented.kidney_on_roi,
        segmented.tumor_on_roi,
        structures.ids > 0,
        cascade.kidney_metadata.threshold,
    )
    parts = take_apart(labels, ct.spacing_mm, structures.ids, segmented.roi)
    findings = measure(ct, labels, parts, networks)
    voxel_ml = float(np.prod(ct.spacing_mm)) / 1000
    kidneys, tumors = (sum(counts[i] for counts in segmented.voxels) for i in (0, 1))
    report.voxels = {"kidney": kidneys, "tumor": tumors}
    report.kidney_ml, report.tumor_ml = round(kidneys * voxel_ml, 2), round(tumors * voxel_ml, 2)
    report.input = {
        "spacing_mm": [round(s, 6) for s in ct.spacing_mm],
        "shape_vox": list(ct.hu.shape),
        "dicom": read_uids(ct.native.dicom_files),
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
    for warning in report.warnings if report.status != "skipped" else ():
        log.warning("%s: %s", report.name, warning)
    for flag in report.flags if report.status != "skipped" else ():
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

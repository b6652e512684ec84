"""What a run tells about itself: one record a case, and the JSON report."""

import json
import platform
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from ..formats.staging import staged
from .product import processor, product

SCHEMA_VERSION = 1
"""Of the report (docs/report.schema.json); raised when a field goes or changes its meaning."""
PACKAGES = ("torch", "openvino", "SimpleITK", "numpy", "scipy", "nibabel")

Status = Literal["written", "skipped", "failed", "background"]


@dataclass
class CaseReport:
    """One case's record; filled in while the case passes through the pipeline.

    Attributes:
        name, source, output: of the case; `output` is relative to the output folder.
        status: "written"; "skipped" (its output was there already); "failed" (no output, see `error`);
            "background" (failed, and an all-background map written for it on request).
        seconds: wall time by stage.
        peak_rss_mib: the process's highest resident memory up to the end of each stage (reading ahead and
            writing behind included).
        voxels: of the written label map: "kidney" (label 1) and "tumor" (label 2).
        kidney_ml, tumor_ml: their volumes.
        structures: kidney and tumor ml of each structure (a kidney with its tumors), largest first, and the
            side of the body's middle it lies on ("left" is the patient's left).
        input: `spacing_mm` and `shape_vox` (z, y, x) of the CT, and `dicom`: its UIDs, where it has any.
        kidneys, tumors: what was measured of each (`runner.findings`).
        flags: reasons to look at the result (`runner.flags`), each with `rule` and `text`.
        warnings: what looked odd about the input but did not stop the case.
        error: why it failed: file, cause, remedy in one line.
    """

    name: str
    source: str
    output: str
    status: Status = "failed"
    seconds: dict[str, float] = field(default_factory=dict)
    peak_rss_mib: dict[str, int] = field(default_factory=dict)
    voxels: dict[str, int] = field(default_factory=dict)
    kidney_ml: float | None = None
    tumor_ml: float | None = None
    structures: list[dict[str, Any]] = field(default_factory=list)
    input: dict[str, Any] | None = None
    kidneys: list[dict[str, Any]] = field(default_factory=list)
    tumors: list[dict[str, Any]] = field(default_factory=list)
    flags: list[dict[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: str | None = None

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the wall time of a block to `seconds[stage]`, and note the peak memory after it."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - start, 4)
            self.peak_rss_mib[stage] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # KiB


def write_report(path: Path, cases: Sequence[CaseReport], run: dict[str, Any]) -> None:
    """Write the report as JSON, whole or not at all.

    Args:
        path: the JSON file.
        cases: all records so far.
        run: what holds for the whole run (device, weights, options, wall time so far).
    """
    versions = {package: _version(package) for package in PACKAGES}
    content = {
        "schema_version": SCHEMA_VERSION,
        "product": product(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor(),
        "run": run,
        "versions": {"python": platform.python_version(), **versions},
        "cases": [asdict(case) for case in cases],
    }
    with staged(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")


def _version(package: str) -> str | None:
    """None where it is not installed: torch and openvino can each do without the other."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None

"""The JSON report of a run: one record per case."""

import json
import platform
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from ..formats.staging import staged
from ..networks.backends import Backend
from ..networks.cascade import CascadeWeights
from ..networks.weights import Weights
from .product import processor, product

SCHEMA_VERSION = 1
"""Of the report (docs/report.schema.json); raised when a field goes or changes its meaning."""
PACKAGES = ("torch", "openvino", "SimpleITK", "pydicom", "numpy", "scipy", "nibabel")

Status = Literal["written", "skipped", "failed", "background"]


@dataclass
class CaseReport:
    """One case's record; filled in while the case passes through the pipeline.

    Attributes:
        name, source, output: of the case; `output` is relative to the output folder.
        status: "written"; "skipped" (its output was there already; all else is what the run that wrote it
            reported, where that is known); "failed" (no output, see `error`);
            "background" (failed, and an all-background map written for it on request).
        seconds: wall time by stage.
        peak_rss_mib: the process's highest resident memory up to the end of each stage (reading ahead and
            writing behind included).
        voxels: of the written label map: "kidney" (label 1) and "tumor" (label 2).
        kidney_ml, tumor_ml: their volumes.
        structures: kidney and tumor ml of each structure (a kidney with its tumors), and the
            side of the body's middle it lies on ("left" is the patient's left).
        input: `spacing_mm` and `shape_vox` (z, y, x) of the CT, and `dicom`: its UIDs, where it has any.
        kidneys, tumors: what was measured of each (`runner.findings`).
        flags: reasons to look at the result (`runner.flags`), each with `rule` and `text`.
        warnings: oddities of the input that did not stop the case.
        error: why it failed: file, cause, remedy in one line.
        recipe: what its label map depends on besides the CT: the weights' digests, and options.
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
    recipe: dict[str, Any] = field(default_factory=dict)

    @property
    def is_measured(self) -> bool:
        """Whether a label map was written, by this run or an earlier one, and is described here."""
        return self.status in ("written", "skipped") and self.kidney_ml is not None

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the wall time of a block to `seconds[stage]`, and note the peak memory after it."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._note(stage, time.perf_counter() - start)

    def timer(self) -> Callable[[str, float], None]:
        """A `progress` for `segment` from which seconds and peak memory of its stages are derived."""
        running, since = "", 0.0

        def progress(stage: str, share: float) -> None:
            nonlocal running, since
            now = time.perf_counter()
            if running:
                self._note(running, now - since)
            running, since = stage, now

        return progress

    def _note(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + seconds, 4)
        self.peak_rss_mib[stage] = peak_rss_mib()


def peak_rss_mib() -> int:
    """The most memory that this process has had so far.

    Linux's `ru_maxrss` counts what started the process, too: the page of the kernel's status does not.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) // 1024
    except (OSError, StopIteration):  # no Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def describe_networks(weights: CascadeWeights, backend: Backend) -> dict[str, Any]:
    """The networks of a run, for its report."""
    folders = [
        {"folder": str(folder), "kidney": _identity(kidney), "tumor": _identity(tumor)}
        | ({} if coarse is None else {"coarse": _identity(coarse)})
        for folder, kidney, tumor, coarse in zip(
            weights.folders, weights.kidney, weights.tumor, weights.coarse, strict=True
        )
    ]
    return {
        "device": backend.device,
        "backend": backend.name,
        "bf16": all(backend.is_bf16(network) for network in weights.kidney + weights.tumor),
        "threads": backend.threads,
        "weights": folders[0],
        "ensemble": folders[1:],
    }


def _identity(weights: Weights) -> dict[str, str]:
    return {"version": weights.metadata.version, "sha256": weights.sha256}


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


def read_report(path: Path) -> tuple[list[CaseReport], dict[str, Any]]:
    """The cases and the run of a report that `write_report` wrote.

    Raises:
        ValueError: it cannot be read, or is no such report.
    """
    known = {field.name for field in fields(CaseReport)}
    try:
        content = json.loads(path.read_bytes())
        cases = [
            CaseReport(**{key: value for key, value in case.items() if key in known})
            for case in content["cases"]
        ]
        return cases, dict(content["run"])
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}). Name a report") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: is no report of a run ({error!r}). Name one that --report wrote"
        ) from error


def merge_reports(paths: Sequence[Path]) -> tuple[list[CaseReport], dict[str, Any]]:
    """Merge several reports into one, for example those of the shards of a run.

    If several hold a case, the record with measurements is taken; of two such, the later in `paths`.

    Raises:
        ValueError: a file is no report, or two were made with other weights or options.
    """
    cases: dict[str, CaseReport] = {}
    recipes: dict[str, Path] = {}
    runs = []
    for path in paths:
        found, run = read_report(path)
        runs.append(run)
        for case in found:
            if case.is_measured:
                recipes.setdefault(json.dumps(case.recipe, sort_keys=True), path)
            if case.output not in cases or _rank(case) >= _rank(cases[case.output]):
                cases[case.output] = case
    if len(recipes) > 1:
        first, second = list(recipes.values())[:2]
        raise ValueError(
            f"{first} and {second}: made with different weights or options. Run the cases of one again"
        )
    shards = [run.get("options", {}).get("shard") for run in runs]
    merged = {**runs[0], "seconds": round(sum(run.get("seconds", 0) for run in runs), 3)} if runs else {}
    return [cases[output] for output in sorted(cases)], {**merged, "merged_shards": shards}


def _rank(case: CaseReport) -> int:
    """Rank of a record: nothing, a failure, an empty map in a failure's place, a measured map."""
    if case.is_measured:
        return 3
    return {"background": 2, "failed": 1}.get(case.status, 0)


def _version(package: str) -> str | None:
    """None where it is not installed: torch and openvino can each do without the other."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None

"""The command: arguments to calls, and exit codes. No numerics."""

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import Any

import click
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from .exit_codes import EXIT_SOME_FAILED, EXIT_USAGE
from .formats.staging import sweep
from .method.method import DEFAULT, PAPER
from .networks.backends import BACKENDS, PRECISIONS, Backend, DeviceMemoryError, choose_backend
from .networks.cascade import Cascade, CascadeWeights, find_weights, load_cascade_weights
from .networks.weights import WeightsError
from .runner.cases import GRAND_CHALLENGE_SLUG, NAMINGS, Case, Naming, UsageError, find_cases
from .runner.findings_csv import write_findings
from .runner.outputs import LABEL_MAP, NAMES, REPORT_SUFFIX, as_format, label_writer
from .runner.page import Page
from .runner.report import CaseReport, describe_networks, merge_reports, read_report, write_report
from .runner.run import Options, run_cases
from .runner.stop import no_exit, stoppable
from .version import __version__

BAR_FORMAT = "{percentage:3.0f}%|{bar}| {n:.1f} of {total_fmt} cases [{elapsed}<{remaining}]{postfix}"
PAGE_SECONDS = 30.0
"""Least time between two writings of a page that is not finished."""

log = logging.getLogger("inference")


def _parse_shard(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int]:
    if value is None:
        return (0, 1)
    index, slash, count = value.partition("/")
    if not slash or not index.isdecimal() or not count.isdecimal() or not int(index) < int(count):
        raise click.BadParameter(f"{value!r} is not I/N with I from 0 to N-1")
    return (int(index), int(count))


class _OneLine(logging.Formatter):
    """A file's name may hold anything, line breaks too; a message is one line all the same."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in super().formatMessage(record))


def _parse_slug(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if value in ("", ".", "..") or PurePath(value).name != value:
        raise click.BadParameter(f"{value!r} is no slug (one folder name)")
    return value


def _folder(*, exists: bool = False) -> click.Path:
    return click.Path(exists=exists, path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--input", "input_path", type=_folder(), default=Path("/input"), show_default=True,
              help="Folder with CTs (KiTS, nnU-Net, Grand Challenge, flat, DICOM), or one CT.")  # fmt: skip
@click.option("--output", "output_path", type=_folder(), default=Path("/output"), show_default=True,
              help="Folder for the label maps.")  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--backend", type=click.Choice(BACKENDS), default="auto", show_default=True,
              help="What runs the networks; auto: OpenVINO on CPUs, where installed.")  # fmt: skip
@click.option("--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True,
              help="auto: bfloat16 where the processor has it and these weights allow it.")  # fmt: skip
@click.option("--weights", "weights_path", type=_folder(), default=None,
              help="Folder with {kidney,tumor,coarse}.safetensors; coarse may be missing.")  # fmt: skip
@click.option("--ensemble", type=_folder(), multiple=True, metavar="DIR",
              help="A further folder with weights, once or more: probabilities are averaged.")  # fmt: skip
@click.option("--paper", is_flag=True,
              help="The paper's steps: centre crop, labels restored by nearest neighbour.")  # fmt: skip
@click.option("--output-naming", type=click.Choice(NAMINGS), default="auto", show_default=True,
              help="How label maps are called; auto follows the input's layout.")  # fmt: skip
@click.option("--output-slug", callback=_parse_slug, default=GRAND_CHALLENGE_SLUG, show_default=True,
              envvar="OUTPUT_SLUG", show_envvar=True,
              help="The output socket on Grand Challenge: images/SLUG/.")  # fmt: skip
@click.option("--output-format", type=click.Choice(NAMES), default=LABEL_MAP, show_default=True,
              help="dicom-seg (needs the extra 'dicom'), rtstruct: DICOM objects, for DICOM series; "
              "seg-nrrd: named segments for 3D Slicer.")  # fmt: skip
@click.option("--structured-report", is_flag=True,
              help="With dicom-seg: the findings as DICOM SR (TID 1500) beside it, *.sr.dcm.")  # fmt: skip
@click.option("--skip-existing", is_flag=True,
              help="Pass over cases whose label map is there already, unless --report's earlier file says "
              "that other weights or options made it.")  # fmt: skip
@click.option("--shard", callback=_parse_shard, metavar="I/N", default=None,
              help="Only every N-th case, from the I-th on (I from 0).")  # fmt: skip
@click.option("--report", "report_path", type=_folder(), default=None, metavar="FILE",
              help="Write a JSON report: findings, flags, times, versions.")  # fmt: skip
@click.option("--findings", "findings_path", type=_folder(), default=None, metavar="FILE",
              help="Write a CSV file: a row for each kidney and tumor.")  # fmt: skip
@click.option("--html", "page_path", type=_folder(), default=None, metavar="FILE",
              help="Write a page to look at in a browser: findings, flags, pictures.")  # fmt: skip
@click.option("--previews", type=_folder(), default=None, metavar="DIR",
              help="Write a PNG of each result in three planes.")  # fmt: skip
@click.option("--save-probabilities", type=_folder(), default=None, metavar="DIR",
              help="Write both networks' probabilities as NIfTI (tumor: near the kidneys).")  # fmt: skip
@click.option("--on-error", type=click.Choice(["skip", "background"]), default="skip", show_default=True,
              help="What is written for a case that fails: nothing, or an all-background map.")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), default=None,
              help="CPU threads of the networks.  [default: all cores]")  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="Only warnings and errors.")
@click.option("-v", "--verbose", is_flag=True, help="Tell more, and show tracebacks of bugs.")
@click.version_option(__version__, message="nested-vnet %(version)s")
@stoppable()
def main(
    input_path: Path,
    output_path: Path,
    device: str,
    backend: str,
    precision: str,
    weights_path: Path | None,
    ensemble: tuple[Path, ...],
    paper: bool,
    output_naming: Naming,
    output_slug: str,
    output_format: str,
    structured_report: bool,
    skip_existing: bool,
    shard: tuple[int, int],
    report_path: Path | None,
    findings_path: Path | None,
    page_path: Path | None,
    previews: Path | None,
    save_probabilities: Path | None,
    on_error: str,
    threads: int | None,
    quiet: bool,
    verbose: bool,
) -> None:
    """Segment kidneys and kidney tumors in CTs.

    Writes label maps (0 background, 1 kidney, 2 tumor) on each CT's own grid. Research use only, no medical
    device. Exit code 0: every case written. 1: some case failed, all others are written. 2: wrong usage,
    nothing found, or output not writable, said before any work.
    """
    _set_up_logging(quiet=quiet, verbose=verbose)
    try:
        written = [folder for folder in (output_path, previews, save_probabilities) if folder is not None]
        cases = find_cases(input_path, naming=output_naming, outputs=written, output_slug=output_slug)
        cases = as_format(cases, output_format)
        _check_inputs_stay(input_path, cases, output_path)
        total = len(cases)
        cases = cases[shard[0] :: shard[1]]
        files = _named_files(report=report_path, findings=findings_path, html=page_path)
        _check_writable(*written, *(path.parent for path in files))
        try:
            chosen = choose_backend(backend, device=device, threads=threads, precision=precision)
        except ValueError as error:
            raise UsageError(str(error)) from error
        weights = load_cascade_weights([find_weights(weights_path), *ensemble])
        cascade, chosen, fallback = _start_networks(weights, chosen)
        versions = dict.fromkeys((cascade.kidney_metadata.version, cascade.tumor_metadata.version))
        write_labels = label_writer(
            output_format, version=" + ".join(versions), with_report=structured_report
        )
    except (UsageError, WeightsError) as error:
        log.error("%s", error)
        sys.exit(EXIT_USAGE)
    except PermissionError as error:  # of a folder that a path leads through
        log.error("%s: %s for user %d. Change its rights", error.filename, error.strerror, os.getuid())
        sys.exit(EXIT_USAGE)
    run = describe_networks(weights, chosen)
    log.info(
        "%d of %d cases, device %s (%s), weights %s",
        len(cases), total, run["device"], run["backend"], run["weights"]["folder"],
    )  # fmt: skip

    for path in files:
        sweep(path.parent)
    page = Page(page_path) if page_path is not None else None
    method = PAPER if paper else DEFAULT
    recipe: dict[str, Any] = {
        network: [
            weights[network]["sha256"] for weights in (run["weights"], *run["ensemble"]) if network in weights
        ]
        for network in ("kidney", "tumor", "coarse")
    }
    recipe |= {
        "method": asdict(method),
        "output_format": output_format,
        "structured_report": structured_report,
    }
    options = Options(
        output=output_path,
        method=method,
        skip_existing=skip_existing,
        earlier=_earlier(report_path) if skip_existing and report_path is not None else {},
        recipe=recipe,
        background_on_error=on_error == "background",
        previews=previews,
        probabilities=save_probabilities,
        page=page,
        write_labels=write_labels,
        beside=REPORT_SUFFIX if structured_report else None,
    )
    run["options"] = {"method": asdict(method), "on_error": on_error, "shard": f"{shard[0]}/{shard[1]}"}
    records = Records(report_path, findings_path, page)
    reports = _run_with_progress(cases, cascade, fallback, options, records, run)
    failed = sum(report.status in ("failed", "background") for report in reports)
    with no_exit():
        is_reported = records.write(reports, run)
    if page_path is not None and is_reported:
        log.info("page: %s", page_path)
    if failed:
        log.error("%d of %d cases failed; see above", failed, len(reports))
    if failed or not is_reported:
        sys.exit(EXIT_SOME_FAILED)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def report() -> None:
    """Work with the reports that --report wrote."""


@report.command()
@click.argument("output", type=_folder())
@click.argument("reports", type=_folder(exists=True), nargs=-1, required=True)
def merge(output: Path, reports: tuple[Path, ...]) -> None:
    """Write one report to OUTPUT from several REPORTS: those of a run's shards, for example."""
    _set_up_logging(quiet=False, verbose=False)
    try:
        cases, run = merge_reports(reports)
        write_report(output, cases, run)
    except ValueError as error:
        log.error("%s", error)
        sys.exit(EXIT_USAGE)
    except OSError as error:
        log.error("%s: not written (%s). Check its folder", output, error.strerror)
        sys.exit(EXIT_USAGE)
    log.info("%s: %d cases of %d reports", output, len(cases), len(reports))


def _run_with_progress(
    cases: list[Case],
    cascade: Cascade,
    fallback: Callable[[], Cascade] | None,
    options: Options,
    records: "Records",
    run: dict,
) -> list[CaseReport]:
    start = time.perf_counter()
    with (
        logging_redirect_tqdm([log]),
        tqdm(total=len(cases), disable=None, leave=False, bar_format=BAR_FORMAT) as bar,  # terminals only
    ):

        def progress(what: str, n_done: float) -> None:
            bar.n = max(bar.n, n_done)
            bar.set_postfix_str(what)  # draws it

        def done(reports: list[CaseReport]) -> None:
            bar.refresh()
            run["seconds"] = round(time.perf_counter() - start, 3)
            records.write(reports, run, is_last=False)

        return run_cases(cases, cascade, options, done=done, fallback=fallback, progress=progress)


def _earlier(report_path: Path) -> dict[str, CaseReport]:
    """What an earlier run left in the report, by output."""
    if not report_path.exists():
        return {}
    try:
        cases, _ = read_report(report_path)
    except ValueError as error:
        log.warning("%s. What it reported is lost", error)
        return {}
    return {case.output: case for case in cases}


@dataclass
class Records:
    """What a run writes about itself beside its label maps, again after every case."""

    report: Path | None
    findings: Path | None
    page: Page | None
    page_due: float = 0.0

    def write(self, reports: list[CaseReport], run: dict, *, is_last: bool = True) -> bool:
        """Whether all could be written: if not, that is no reason to stop. A large page may wait.

        Call it within `no_exit`.
        """
        is_written = True
        if self.report is not None:
            is_written &= _is_written(self.report, lambda path: write_report(path, reports, run))
        if self.findings is not None:
            is_written &= _is_written(self.findings, lambda path: write_findings(path, reports))
        if self.page is not None and (is_last or time.monotonic() >= self.page_due):
            page = self.page
            is_written &= _is_written(page.path, lambda path: page.write(reports, run))
            self.page_due = time.monotonic() + PAGE_SECONDS
        return is_written


def _is_written(path: Path, write: Callable[[Path], None]) -> bool:
    try:
        write(path)
    except OSError as error:
        log.error("%s: not written (%s). Check its folder", path, error.strerror)
        return False
    except Exception as error:  # the label maps are worth more
        log.error("%s: not written (%s: %s). This is a bug: report it", path, type(error).__name__, error)
        return False
    return True


def _named_files(**files: Path | None) -> list[Path]:
    """The files that options name; none is a folder, and no two are one."""
    named = {option: path for option, path in files.items() if path is not None}
    for option, path in named.items():
        if path.is_dir():
            raise UsageError(f"{path}: is a folder. Name a file for --{option}")
        if path.exists() and not path.is_file():  # as root, /dev/null would be replaced
            raise UsageError(f"{path}: is no regular file. Name one for --{option}")
    if len({os.path.realpath(path) for path in named.values()}) < len(named):
        raise UsageError(f"--{' and --'.join(named)} name one file. Give each its own")
    return list(named.values())


def _start_networks(
    weights: CascadeWeights, backend: Backend
) -> tuple[Cascade, Backend, Callable[[], Cascade] | None]:
    """The networks, what runs them, and (if that is a GPU) what gives the same networks on the CPU."""
    cpu = choose_backend(device="cpu", threads=backend.threads, precision=backend.precision)
    try:
        cascade = weights.on(backend)
    except DeviceMemoryError as error:
        log.warning("%s: everything runs on the CPU", error)
        backend, cascade = cpu, weights.on(cpu)
    return cascade, backend, cache(lambda: weights.on(cpu)) if backend.device != "cpu" else None


def _check_inputs_stay(input_path: Path, cases: list[Case], output: Path) -> None:
    """A label map written into the input folder would replace its CT, or pass for one in the next run."""
    sources = {os.path.realpath(case.source) for case in cases}
    for case in cases:
        if os.path.realpath(output / case.output) in sources:
            raise UsageError(f"{output / case.output}: would replace an input. Choose another --output")
    if input_path.is_dir() and os.path.realpath(input_path) == os.path.realpath(output):
        raise UsageError(
            f"{output}: is the input folder: label maps would be inputs. Choose another --output"
        )


def _check_writable(*folders: Path) -> None:
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{folder}: cannot be made ({error.strerror}). Choose another folder") from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UsageError(_not_writable(folder))


def _not_writable(folder: Path) -> str:
    owner, user = folder.stat().st_uid, os.getuid()
    if owner == user:
        return f"{folder}: not writable for user {user}. Change its rights"
    as_owner = f"Run as its owner (docker run --user {owner}), or give" if owner else "Give"
    return (
        f"{folder}: belongs to user {owner} and is not writable for user {user}. "
        f"{as_owner} the folder to user {user} (chown)"
    )


def _set_up_logging(*, quiet: bool, verbose: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(levelname)-7s %(message)s"))
    if not verbose:  # libraries have lines of their own for what our log says once
        for name in ("nibabel.global", "pydicom"):
            logging.getLogger(name).handlers[:] = [logging.NullHandler()]
        warnings.filterwarnings("ignore")
    log.handlers[:] = [handler]
    log.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)

"""The command: arguments to calls, and exit codes."""

import logging
import sys
from pathlib import Path
from typing import get_args

import click

from evaluation.evaluate import evaluate
from evaluation.lesions import EXTRAS
from evaluation.metrics import Metric
from evaluation.scoreboard import check_report_path, check_writable, say, show, write_reports
from evaluation.submission import check_submission, write_zip
from inference.exit_codes import EXIT_SOME_FAILED, EXIT_USAGE
from inference.geometry import RoiSpec

log = logging.getLogger("evaluation")


def _path() -> click.Path:
    return click.Path(path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("predictions", type=_path())
@click.argument("truth", type=_path())
@click.option("--metric", type=click.Choice(get_args(Metric)), default="kits19", show_default=True,
              help="Whose scores.")  # fmt: skip
@click.option("--split", "splits", type=_path(), multiple=True, metavar="PATH",
              help="split.json of a run, or the run's folder: rows for training and validation. "
              "Several, or a folder of runs: a row for each fold's held-out cases.")  # fmt: skip
@click.option("--roi", is_flag=True, help="Score on the paper's grid (168³ at 2 mm) too.")
@click.option("--out", type=_path(), default=None, metavar="FILE.json",
              help="Write JSON, and CSV, Markdown and a plot beside it.")  # fmt: skip
@click.option("--sensitivity", "with_sensitivity", is_flag=True,
              help="Also sensitivity and precision, where they are defined.")  # fmt: skip
@click.option("--lesions", is_flag=True, help="Also tumors found, missed and false, by overlap.")
@click.option("--volumes", is_flag=True, help="Also the error of volumes, in ml and percent.")
@click.option("--hd95", is_flag=True, help="Also the 95 % Hausdorff distance, in mm.")
@click.option("--bootstrap", "resamples", type=click.IntRange(min=0), default=0, metavar="N",
              help="95 % confidence intervals of the means, from N resamples (2000, say).")  # fmt: skip
@click.option("--check-only", is_flag=True, help="Check names, shapes, affines and values; score nothing.")
@click.option("--zip", "zip_path", type=_path(), default=None, metavar="FILE.zip",
              help="Check, and where that finds no error write KiTS19's flat zip.")  # fmt: skip
def main(
    predictions: Path,
    truth: Path,
    metric: Metric,
    splits: tuple[Path, ...],
    roi: bool,
    with_sensitivity: bool,
    out: Path | None,
    lesions: bool,
    volumes: bool,
    hd95: bool,
    resamples: int,
    check_only: bool,
    zip_path: Path | None,
) -> None:
    """Score label maps in PREDICTIONS against those in TRUTH: the paper's Table 1, KiTS's metrics.

    With several splits, PREDICTIONS may hold one folder fold_K for each fold K: its held-out cases count.
    With --check-only or --zip, TRUTH may hold the CTs instead. Exit code 1: some case could not be scored, or
    the check found errors. 2: wrong usage.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        if check_only or zip_path:
            _check_submission(predictions, truth, metric, zip_path)
            return
        if out:
            check_report_path(out)
        evaluation = evaluate(
            predictions,
            truth,
            metric=metric,
            splits=splits,
            roi=RoiSpec() if roi else None,
            with_sensitivity=with_sensitivity,
            extras=[
                name for name, is_wanted in zip(EXTRAS, (lesions, volumes, hd95), strict=True) if is_wanted
            ],
            resamples=resamples,
        )
        for case in evaluation.cases:
            for line in case.warnings:
                log.warning("%s", line)
        for case in evaluation.failed:
            log.error("%s", case.error)
        if evaluation.cases:
            try:
                say(show(evaluation))
            finally:
                for path in write_reports(out, evaluation) if out else ():
                    log.info("%s", path)
    except (ValueError, OSError) as error:
        log.error("%s", error)
        sys.exit(EXIT_USAGE)
    if evaluation.failed:
        total = len(evaluation.failed) + len(evaluation.cases)
        log.error("%d of %d cases could not be scored; see above", len(evaluation.failed), total)
        sys.exit(EXIT_SOME_FAILED)


def _check_submission(predictions: Path, references: Path, metric: Metric, zip_path: Path | None) -> None:
    if zip_path and metric != "kits19":
        raise ValueError(f"--zip writes KiTS19's submission, not one for {metric}. Leave out --metric")
    if zip_path:
        check_writable(zip_path, option="--zip")
    errors, warnings = check_submission(predictions, references, metric=metric)
    for line in warnings:
        log.warning("%s", line)
    for line in errors:
        log.error("%s", line)
    if errors:
        log.error("not ready to submit: %d error%s", len(errors), "s" * (len(errors) > 1))
        sys.exit(EXIT_SOME_FAILED)
    log.info("ready to submit")
    if zip_path:
        log.info("%s: %d label maps", zip_path, write_zip(predictions, zip_path))

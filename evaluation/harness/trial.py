"""One container on one data set: case by case or in batch, to a row of the leaderboard."""

import csv
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from evaluation.harness.checks import Finding, check_outputs, check_run, files_of, read_reference
from evaluation.harness.engine import Contestant, Limits, digest_of, run_container
from inference.formats.ct import CaseError
from inference.formats.preflight import check_place
from inference.formats.staging import staged
from inference.runner.cases import GRAND_CHALLENGE_INPUTS, Case, UsageError, find_cases

Mode = Literal["cases", "batch"]
"""A fresh container for each case, or one container for all."""


@dataclass(frozen=True)
class DataSet:
    """What containers are tried on.

    Attributes:
        root: the input folder, in any layout that `find_cases` knows.
        truth: reference label maps, called as the label maps are to be called.
        cases: those under `root`.
    """

    root: Path
    truth: Path
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Result:
    """What came of a trial: findings (none: passed), Dice by case, and wall time of the containers.

    `digest` is the image's identity, by which the same image is known again.
    """

    contestant: Contestant
    mode: Mode
    findings: tuple[Finding, ...]
    scores: dict[str, tuple[float, float]]
    seconds: float
    digest: str = ""


@dataclass(frozen=True)
class Row:
    """A line of the leaderboard; Dice are means over all cases, 0 for those without a usable label map.

    `scores` holds them for each case: in a board that is JSON as an object, in CSV as JSON text.
    """

    date: str
    image: str
    mode: str
    passed: bool
    cases: int
    kidney: float
    tumor: float
    mean: float
    seconds: float
    reasons: str
    digest: str = ""
    scores: dict[str, dict[str, float]] = field(default_factory=dict)


def open_data_set(root: Path, truth: Path) -> DataSet:
    """The cases under a folder, each with its reference.

    Raises:
        UsageError: no cases, one that is only a link to nothing, or one without a readable reference.
    """
    if root.is_file():
        raise UsageError(f"{root}: is a file. Give the folder with the CTs")
    cases = tuple(find_cases(root))
    for case in cases:
        try:
            check_place(case.source)
        except CaseError as error:
            raise UsageError(str(error)) from error
        if not (truth / case.output).is_file():
            raise UsageError(f"{truth / case.output}: no such reference for {case.source}. Put it there")
        read_reference(truth / case.output)
    return DataSet(root, truth, cases)


def try_container(
    contestant: Contestant,
    mode: Mode,
    data: DataSet,
    limits: Limits,
    *,
    progress: Callable[[int], None] = lambda n_cases: None,
) -> Result:
    """Run a container on a data set; check and score what it wrote.

    Args:
        contestant: the image.
        mode: a container for each case, or one for all.
        data: what it runs on.
        limits: what it may use.
        progress: called with the number of cases whenever some are done.
    """
    batches = [list(data.cases)] if mode == "batch" else [[case] for case in data.cases]
    findings: list[Finding] = []
    scores: dict[str, tuple[float, float]] = {}
    seconds = 0.0
    for batch in batches:
        limit_seconds = limits.seconds * len(batch)
        with tempfile.TemporaryDirectory(prefix="harness-", ignore_cleanup_errors=True) as folder:
            source, output = Path(folder, "input"), Path(folder, "output")
            for case in batch:
                _stage(case, data.root, source)
            output.mkdir()
            output.chmod(0o777)  # the container's user is nobody's here
            run = run_container(contestant, source, output, limits, seconds=limit_seconds)
            faults = check_run(run, limit_seconds)
            more, batch_scores = check_outputs(batch, output, data.truth, is_run_whole=not faults)
        findings += [*faults, *more]
        scores |= batch_scores
        seconds += run.seconds
        progress(len(batch))
    return Result(contestant, mode, tuple(findings), scores, seconds, digest_of(contestant.image))


def as_row(result: Result) -> Row:
    """What the leaderboard tells of a result."""
    kidney, tumor = (sum(s[i] for s in result.scores.values()) / len(result.scores) for i in (0, 1))
    return Row(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        image=result.contestant.image,
        mode=result.mode,
        passed=not result.findings,
        cases=len(result.scores),
        kidney=round(kidney, 4),
        tumor=round(tumor, 4),
        mean=round((kidney + tumor) / 2, 4),
        seconds=round(result.seconds, 1),
        reasons=" ".join(dict.fromkeys(finding.reason for finding in result.findings)),
        digest=result.digest,
        scores={
            case: {"kidney": round(kidney, 4), "tumor": round(tumor, 4)}
            for case, (kidney, tumor) in result.scores.items()
        },
    )


def append_rows(board: Path, rows: Sequence[Row]) -> None:
    """Add rows to a leaderboard, which stays sorted: those that passed first, by their mean.

    JSON where its name says so, else CSV; made where it is not there yet. Boards of earlier versions, without
    digests and scores of cases, are taken.

    Raises:
        UsageError: it cannot be written, or what is there is no leaderboard.
    """
    try:
        board.parent.mkdir(parents=True, exist_ok=True)
        merged = sorted([*_read_board(board), *rows], key=board_order)
        with staged(board) as partial:
            _write_board(partial, merged, is_json=board.suffix == ".json")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"{board}: no leaderboard that can be written ({error}). Name another file"
        ) from error


def board_order(row: Row) -> tuple[bool, float]:
    """By which a board is sorted."""
    return (not row.passed, -row.mean)


def _read_board(board: Path) -> list[Row]:
    if not board.exists():
        return []
    if board.suffix == ".json":
        return [Row(**row) for row in json.loads(board.read_text(encoding="utf-8"))]
    with board.open(newline="", encoding="utf-8") as file:
        return [_typed(row) for row in csv.DictReader(file)]


def _typed(row: dict[str, str]) -> Row:
    return Row(
        date=row["date"],
        image=row["image"],
        mode=row["mode"],
        passed=row["passed"] == str(True),
        cases=int(row["cases"]),
        kidney=float(row["kidney"]),
        tumor=float(row["tumor"]),
        mean=float(row["mean"]),
        seconds=float(row["seconds"]),
        reasons=row["reasons"],
        digest=row.get("digest") or "",
        scores=json.loads(row.get("scores") or "{}"),
    )


def _write_board(path: Path, rows: Sequence[Row], *, is_json: bool) -> None:
    records = [asdict(row) for row in rows]
    if is_json:
        path.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows({**record, "scores": json.dumps(record["scores"])} for record in records)


def _stage(case: Case, root: Path, target: Path) -> None:
    """One case alone in an input folder, at its place in the layout."""
    sources = [path for path in files_of(case.source) if path.exists()]
    if (root / GRAND_CHALLENGE_INPUTS).is_file():
        sources.append(root / GRAND_CHALLENGE_INPUTS)
    for source in sources:
        place = target / source.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, place, copy_function=_link, ignore_dangling_symlinks=True)
        elif not place.exists():
            _link(source, place)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(os.path.realpath(source), target)  # a link out of the data set leads nowhere in a container
    except OSError:  # another file system
        shutil.copyfile(source, target)

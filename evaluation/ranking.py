"""Several submissions on one data set, ranked as KiTS21 and KiTS23 rank: `python -m evaluation.ranking`.

1. Dice and surface Dice of each case and each of the three nested regions (hierarchical evaluation classes).
2. Their means over the cases: three of Dice, three of surface Dice, to 8 decimals.
3. A place by the mean of the three Dice, a place by the mean of the three surface Dice; equals share the
   better place.
4. The mean of both places decides, and where it is the same the Dice of the tumor. Who is still equal shares
   the place.

Source: `kits23/evaluation/ranking.py` and `metrics.py` of github.com/neheller/kits23, and "Ranking code" in
its README; `kits21/evaluation/ranking.py` of github.com/neheller/kits21 has the same rule (the text beside it
still describes an earlier one, with a place for each of the six means). KiTS takes no submission that lacks a
case (`kits23/check_submission_folder.py`) and so has no rule for it; here such a case scores 0.
"""

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean

import click
from tqdm import tqdm

from evaluation.evaluate import Scores, check_scorable, find_label_maps, score_case
from evaluation.metrics import REGIONS, Metric
from evaluation.scoreboard import check_writable, markdown_table, say
from inference.exit_codes import EXIT_OK, EXIT_SOME_FAILED, EXIT_USAGE
from inference.formats.staging import staged

DICE, SURFACE = tuple(REGIONS), tuple(f"{region}_surface" for region in REGIONS)
METRIC: Metric = "kits23"
DECIMALS = 8
"""Of a mean over cases, as KiTS23's `evaluation.csv` and `summary.csv` hold it."""


@dataclass(frozen=True)
class Place:
    """A line of the ranking.

    Attributes:
        place: 1 for the best; the same for submissions that nothing tells apart.
        submission: its name.
        dice, surface: means over the three regions' means over all cases.
        tumor: mean Dice of the tumor.
        dice_place, surface_place: the places by these means; equal means share the better place.
        cases, missing: all cases, and those without a usable label map.
    """

    place: int
    submission: str
    dice: float
    surface: float
    tumor: float
    dice_place: int
    surface_place: int
    cases: int
    missing: int


def rank(scores: Mapping[str, Mapping[str, Scores | None]]) -> list[Place]:
    """Rank submissions, the best first.

    Args:
        scores: by submission and case, what `score_regions` gives; None for a case without a usable label
            map. All have the same cases.

    Raises:
        ValueError: a submission has other cases than the first one.
    """
    cases = set(next(iter(scores.values()), {}))
    if any(set(own) != cases for own in scores.values()):
        raise ValueError("the submissions are scored on different cases. Score all on the same ones")
    dice = {name: _mean(own, DICE) for name, own in scores.items()}
    surface = {name: _mean(own, SURFACE) for name, own in scores.items()}
    tumor = {name: _mean(own, ("tumor",)) for name, own in scores.items()}
    key = {name: ((_place(dice, name) + _place(surface, name)) / 2, -tumor[name]) for name in scores}
    return [
        Place(
            1 + sum(other < key[name] for other in key.values()),
            name,
            dice[name],
            surface[name],
            tumor[name],
            _place(dice, name),
            _place(surface, name),
            len(cases),
            sum(own is None for own in scores[name].values()),
        )
        for name in sorted(scores, key=lambda name: key[name])
    ]


def score_submission(
    folder: Path, maps: Mapping[str, Path], truth: Mapping[str, Path]
) -> tuple[dict[str, Scores | None], list[str]]:
    """KiTS23's six scores of each case of the reference, and what was wrong.

    Args:
        folder: the submission.
        maps: its label maps by case.
        truth: reference label maps by case.
    """
    scores: dict[str, Scores | None] = {}
    errors = []
    for case, reference in tqdm(truth.items(), folder.name, unit="case", disable=None, leave=False):
        scores[case] = None
        if case not in maps:
            errors.append(f"{folder}: no label map of case {case}: it scores 0")
            continue
        found = score_case(case, maps[case], reference, metric=METRIC)
        if found.error is None:
            scores[case] = found.grids["native"]
        else:
            errors.append(f"{found.error}: it scores 0")
    return scores, errors


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("truth", type=click.Path(path_type=Path))
@click.argument("submissions", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=None, metavar="FILE",
              help="Write the ranking as .csv, or as .json with the scores of each case.")  # fmt: skip
def main(truth: Path, submissions: tuple[Path, ...], out: Path | None) -> None:
    """Rank the folders of label maps in SUBMISSIONS against the references in TRUTH, as KiTS23 does.

    A submission is called after its folder. Exit code 0: all label maps were there and usable. 1: some were
    not (they score 0). 2: wrong usage.
    """
    try:
        check_scorable(METRIC)
        if len({folder.resolve().name for folder in submissions}) < len(submissions):
            raise ValueError("two submissions have one name. Rename a folder")
        references = find_label_maps(truth)
        maps = {folder: find_label_maps(folder) for folder in submissions}  # all, before the first is scored
        if out is not None:
            check_writable(out)
        scores, errors = {}, []
        for folder, own_maps in maps.items():
            scores[folder.resolve().name], own = score_submission(folder, own_maps, references)
            errors += own
        places = rank(scores)
        for line in errors:
            click.echo(line, err=True)
        try:
            say(markdown_table(*_rows(places)))
        finally:
            if out is not None:
                with staged(out) as partial:
                    _write(partial, places, scores)
    except (ValueError, OSError) as error:
        click.echo(str(error), err=True)
        sys.exit(EXIT_USAGE)
    sys.exit(EXIT_SOME_FAILED if errors else EXIT_OK)


def _mean(scores: Mapping[str, Scores | None], names: Sequence[str]) -> float:
    """Over the regions in `names`, of the means over the cases."""
    if not scores:
        return 0.0
    means = [fmean(0.0 if own is None else own[name] for own in scores.values()) for name in names]
    return fmean(round(mean, DECIMALS) for mean in means)


def _place(means: Mapping[str, float], name: str) -> int:
    return 1 + sum(mean > means[name] for mean in means.values())


def _rows(places: Sequence[Place]) -> tuple[list[str], list[list[str]]]:
    header = ["submission", "place", "Dice", "surface Dice", "tumor Dice", "by Dice", "by surface", "missing"]
    rows = [
        [p.submission, str(p.place), f"{p.dice:.4f}", f"{p.surface:.4f}", f"{p.tumor:.4f}",
         str(p.dice_place), str(p.surface_place), f"{p.missing} of {p.cases}"]
        for p in places
    ]  # fmt: skip
    return header, rows


def _write(out: Path, places: Sequence[Place], scores: Mapping[str, Mapping[str, Scores | None]]) -> None:
    if out.suffix == ".json":
        content = {"ranking": [asdict(place) for place in places], "scores": scores}
        out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Place)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(place) for place in places)


if __name__ == "__main__":
    main(prog_name="python -m evaluation.ranking")

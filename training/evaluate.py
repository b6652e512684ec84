"""Predictions against reference label maps: the paper's Table 1 and the challenges' tables.

Cases are matched by name: `prediction_00210.nii.gz`, `case_00210.nii.gz`, `case_00210_0000.mha` and
`case_00210/segmentation.nii.gz` are all case 00210.
"""

import csv
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from nibabel.orientations import apply_orientation
from numpy.typing import NDArray
from tqdm import tqdm

from inference.ct import SUFFIXES, CaseError, Ct, read_ct
from inference.preprocess import RoiSpec, Vector
from training.metrics import Labels, Metric, score_kits19, score_kits19_official, score_regions
from training.prepare import SEGMENTATION, place_around_kidneys, resample_labels

log = logging.getLogger("training")
PREFIXES = ("prediction_", "case_")
NNUNET_CHANNEL = "_0000"
OVERALL = "overall"
GRID_TITLES = {
    "native": "Original resolution",
    "roi": "ROI resolution",
    "official": "As KiTS19's own script has it (NaN where both are empty; label 3 counts as tumor)",
}
WORST_NAMED = 3
"""So many worst cases of a group are named in the plot."""


@dataclass(frozen=True)
class CaseScore:
    """One case's numbers.

    Attributes:
        case: its name without prefix and suffix.
        native: score by name, on the label maps' own grid.
        roi: the same on the ROI grid; empty where it was not asked for.
        official: what KiTS19's own script gives (NaN for an empty pair); empty for the other metrics.
        error: why it could not be scored: file, cause, remedy.
    """

    case: str
    native: Mapping[str, float]
    roi: Mapping[str, float]
    official: Mapping[str, float]
    error: str | None = None


@dataclass(frozen=True)
class Row:
    """Mean and standard deviation (of the sample) of one group of cases."""

    group: str
    cases: int
    mean: Mapping[str, float]
    sd: Mapping[str, float]


def evaluate(
    predictions: Path,
    truth: Path,
    *,
    metric: Metric,
    splits: Sequence[Path] = (),
    roi: RoiSpec | None = None,
    out: Path | None = None,
) -> tuple[dict[str, str], int]:
    """Score all cases that both folders have.

    Args:
        predictions, truth: folders of label maps.
        metric: whose scores.
        splits: `split.json` of one run (rows for training and validation), or of the runs of a
            cross-validation (a row for each one's validation cases).
        roi: score on this grid too.
        out: where to write JSON, CSV, Markdown and a plot.

    Returns:
        The tables as Markdown by grid, and how many cases failed.

    Raises:
        ValueError: nothing to score, or a split file that is none.
    """
    ours, theirs = find_label_maps(predictions), find_label_maps(truth)
    groups = read_splits(splits)
    cases = sorted(ours.keys() & theirs.keys())
    if not cases:
        raise ValueError(f"{predictions} and {truth} have no case in common. Cases are matched by name")
    for name in sorted(ours.keys() - theirs.keys()):
        log.warning("%s: no reference of this case", ours[name])
    if absent := len(theirs.keys() - ours.keys()):
        log.warning("%d of %d references have no prediction", absent, len(theirs))
    scores = [
        score_case(name, ours[name], theirs[name], metric=metric, roi=roi)
        for name in tqdm(cases, "evaluate", unit="case", disable=None)
    ]
    failed = [score for score in scores if score.error is not None]
    for score in failed:
        log.error("%s", score.error)
    grids = ["native", *(["roi"] if roi else []), *(["official"] if metric == "kits19" else [])]
    tables = {grid: summarise(scores, groups, grid=grid) for grid in grids}
    if out is not None and len(failed) < len(scores):
        for path in write_reports(out, scores, tables, groups):
            log.info("%s", path)
    return {grid: markdown_table(rows) for grid, rows in tables.items()}, len(failed)


def read_splits(paths: Sequence[Path]) -> dict[str, list[str]]:
    """Groups of cases: training and validation of one split, or the validation cases of each fold.

    Raises:
        ValueError: a file is no split.
    """
    groups: dict[str, list[str]] = {}
    for path in paths:
        try:
            split = json.loads(path.read_text())
            parts = {name: list(split[name]) for name in ("training", "validation")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: no split.json of a training run ({error!r})") from error
        if len(paths) == 1:
            return parts
        groups[f"fold {split['fold']}"] = parts["validation"]
    return groups


def case_name(path: Path) -> str:
    """The name under which predictions and references meet."""
    name = path.parent.name if path.name == SEGMENTATION else path.name
    suffix = next((s for s in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(s)), "")
    name = name.removesuffix(suffix).removesuffix(NNUNET_CHANNEL)
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def find_label_maps(folder: Path) -> dict[str, Path]:
    """All label maps under a folder by case name; in a KiTS19 case folder only its segmentation.

    Raises:
        ValueError: none is there, or two files are of one case.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or not path.is_file() or not path.name.endswith(SUFFIXES):
            continue
        if path.name != SEGMENTATION and (path.parent / SEGMENTATION).exists():
            continue  # the image beside it
        name = case_name(path)
        if name in found:
            raise ValueError(f"{found[name]} and {path} are both case {name}. Keep one")
        found[name] = path
    if not found:
        raise ValueError(f"{folder}: no label maps ({', '.join(SUFFIXES)})")
    return found


def score_case(
    case: str, predicted: Path, truth: Path, *, metric: Metric, roi: RoiSpec | None = None
) -> CaseScore:
    """Score one pair of files in stored axis order, as the official scripts do.

    Args:
        case: its name.
        predicted, truth: the files.
        metric: whose numbers.
        roi: score on this grid too; it lies around the reference's kidneys along z, where the scan is
            longer, and around the image centre otherwise.
    """
    try:
        ours, theirs = read_ct(predicted), read_ct(truth)
        if ours.native.shape != theirs.native.shape:
            raise CaseError(
                f"{predicted}: shape {ours.native.shape}, the reference has {theirs.native.shape}. "
                "Write label maps on the CT's own grid"
            )
    except CaseError as error:
        return CaseScore(case, {}, {}, {}, str(error))
    a, b = _stored(ours), _stored(theirs)
    i, j, k = np.linalg.norm(ours.native.affine[:3, :3], axis=0).tolist()
    spacing = (i, j, k)  # the prediction's, as officially
    on_roi: dict[str, float] = {}
    if roi is not None:
        placed = place_around_kidneys(theirs, roi)
        grids = [resample_labels(ct.hu, placed) for ct in (ours, theirs)]
        on_roi = _score(grids[0], grids[1], (roi.spacing_mm,) * 3, metric)
    official = score_kits19_official(a, b) if metric == "kits19" else {}
    return CaseScore(case, _score(a, b, spacing, metric), on_roi, official)


def _score(predicted: Labels, truth: Labels, spacing_mm: Vector, metric: Metric) -> dict[str, float]:
    if metric == "kits19":
        return score_kits19(predicted, truth)
    return score_regions(predicted, truth, spacing_mm)


def _stored(ct: Ct) -> NDArray[np.int16]:
    return apply_orientation(ct.hu, ct.native.from_canonical)


def summarise(
    scores: Sequence[CaseScore], groups: Mapping[str, Sequence[str]], *, grid: str = "native"
) -> list[Row]:
    """Mean ± sd of every group, then of all cases. The paper's average is that of kidney and tumor."""
    rows = []
    for group, names in (*groups.items(), (OVERALL, None)):
        wanted = None if names is None else {case_name(Path(name)) for name in names}
        values = [
            getattr(s, grid) for s in scores if s.error is None and (wanted is None or s.case in wanted)
        ]
        if not values:
            continue
        table = {key: np.array([v[key] for v in values]) for key in values[0]}
        if set(table) == {"kidney", "tumor"}:
            table["average"] = (table["kidney"] + table["tumor"]) / 2
        sd = {key: float(v.std(ddof=1)) if len(v) > 1 else 0.0 for key, v in table.items()}
        rows.append(Row(group, len(values), {key: float(v.mean()) for key, v in table.items()}, sd))
    return rows


def markdown_table(rows: Sequence[Row]) -> str:
    """Table 1's form: a line a group, mean ± sd."""
    if not rows:
        return ""
    keys = list(rows[0].mean)
    lines = [f"| set | cases | {' | '.join(keys)} |", "|---|---|" + "---|" * len(keys)]
    for row in rows:
        cells = [f"{row.mean[key]:.3f} ± {row.sd[key]:.3f}" for key in keys]
        lines.append(f"| {row.group} | {row.cases} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_reports(
    out: Path,
    scores: Sequence[CaseScore],
    tables: Mapping[str, Sequence[Row]],
    groups: Mapping[str, Sequence[str]],
) -> list[Path]:
    """The JSON report, and beside it the cases as CSV, the tables as Markdown and a plot as PNG.

    Args:
        out: the JSON file; the others have its name with another suffix.
        scores: all cases.
        tables: by grid ("native", "roi").
        groups: for the plot.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "tables": {grid: [asdict(row) for row in rows] for grid, rows in tables.items()},
        "cases": [asdict(score) for score in scores],
    }
    out.write_text(json.dumps(_finite(content), indent=1) + "\n")
    whole = [score for score in scores if score.error is None]
    with out.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        columns = [(grid, key) for grid in ("native", "roi", "official") for key in (getattr(whole[0], grid))]
        writer.writerow(["case", *(f"{grid}_{key}" for grid, key in columns)])
        for score in whole:
            writer.writerow([score.case, *(getattr(score, grid)[key] for grid, key in columns)])
    texts = [f"## {GRID_TITLES[grid]}\n\n{markdown_table(rows)}\n" for grid, rows in tables.items()]
    out.with_suffix(".md").write_text("\n".join(texts), encoding="utf-8")
    _plot(out.with_suffix(".png"), whole, groups)
    return [out, *(out.with_suffix(suffix) for suffix in (".csv", ".md", ".png"))]


def _finite(value: object) -> object:
    """NaN is no JSON: null takes its place."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _plot(path: Path, scores: Sequence[CaseScore], groups: Mapping[str, Sequence[str]]) -> None:
    """Boxes of every score, one panel a group, each case a dot, the worst ones named."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    members = {name: {case_name(Path(n)) for n in names} for name, names in groups.items()}
    panels = {name: [s for s in scores if s.case in wanted] for name, wanted in members.items()}
    panels = {name: found for name, found in (*panels.items(), (OVERALL, list(scores))) if found}
    keys = list(scores[0].native)
    figure, axes = plt.subplots(
        1, len(panels), figsize=((1.1 * len(keys) + 1.6) * len(panels), 4.5), sharey=True, squeeze=False
    )
    for axis, (name, found) in zip(axes[0], panels.items(), strict=True):
        for i, key in enumerate(keys):
            values = np.array([s.native[key] for s in found])
            axis.boxplot(values, positions=[i], widths=0.5, showfliers=False)
            spread = np.linspace(-0.15, 0.15, len(values)) if len(values) > 1 else np.zeros(1)
            axis.plot(i + spread, values, ".", alpha=0.5, markersize=4)
            for worst in np.argsort(values, kind="stable")[: min(WORST_NAMED, len(values) // 2)]:
                axis.annotate(found[worst].case, (i + spread[worst], values[worst]), fontsize=6)
        axis.set_xticks(range(len(keys)), [key.replace("_", "\n") for key in keys], fontsize=7)
        axis.set_title(f"{name} ({len(found)} cases)", fontsize=9)
        axis.set_ylim(-0.02, 1.02)
        axis.grid(axis="y", alpha=0.3)
    axes[0][0].set_ylabel("score on the native grid")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)

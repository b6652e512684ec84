"""Predictions against reference label maps: cases matched, scored, and summed up by group.

Cases are matched by name: `prediction_00210.nii.gz`, `case_00210.nii.gz`, `case_00210_0000.mha` and
`case_00210/segmentation.nii.gz` are all case 00210. `evaluation.scoreboard` shows what is found here.
"""

import glob
import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation
from numpy.typing import NDArray
from tqdm import tqdm

from evaluation.bootstrap import mean_interval
from evaluation.installed import check_installed
from evaluation.label_grid import place_around_kidneys, resample_labels
from evaluation.lesions import Extra, score_extras
from evaluation.metrics import (
    HIGHEST_LABEL,
    Labels,
    Metric,
    score_kits19,
    score_kits19_official,
    score_regions,
    score_sensitivity,
)
from inference.formats import itk
from inference.formats import simpleitk as sitk
from inference.formats.ct import SUFFIXES, CaseError, Ct, NativeGrid, is_nifti, read_ct
from inference.geometry import RoiSpec, Vector
from inference.runner.cases import (
    KITS19_IMAGE,
    KITS19_SEGMENTATION,
    NNUNET_CHANNEL,
    TOTALSEGMENTATOR_IMAGE,
    is_image,
    stem,
)

log = logging.getLogger("evaluation")
KITS21_REFERENCE = "aggregated_MAJ_seg.nii.gz"
REFERENCES = (KITS19_SEGMENTATION, KITS21_REFERENCE)
"""Reference label maps in a KiTS case folder: KiTS19's and KiTS23's, and the one KiTS21 scores against."""
PREFIXES = ("prediction_", "case_")
SPLIT = "split.json"
"""As `training.train` writes it."""
OVERALL = "overall"
EXAMPLES = 3
"""Most cases that an error names."""
AFFINE_TOLERANCE = 1e-3
"""Σ|ΔA| that KiTS23's checker lets pass."""
LABEL_TOLERANCE = 0.01
"""What a stored value may miss its label by, where a slope in the header makes it one."""
COUNTED = "lesions_"
"""Scores that are counts, by how their names begin."""
AVERAGED = ("kidney", "tumor")
"""Scores whose mean is the paper's third column, and KiTS19's rank."""

Scores = Mapping[str, float]


@dataclass(frozen=True)
class Split:
    """Which cases one training run saw, by `case_name`."""

    fold: int
    training: tuple[str, ...]
    validation: tuple[str, ...]


@dataclass(frozen=True)
class CaseScore:
    """One case's numbers.

    Attributes:
        case: its name without prefix and suffix.
        grids: scores by name, on each grid: "native", the label maps' own; "roi" where it was asked for;
            "official", what KiTS19's own script gives on the native grid, with its metric; "extras", what
            else was asked for, on the native grid.
        warnings: what looked odd, each a line.
        error: why it could not be scored: file, cause, remedy.
    """

    case: str
    grids: Mapping[str, Scores] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Row:
    """Mean and standard deviation (of the sample; NaN for a single case) of one group of cases.

    Scores that some cases lack (sensitivity, a distance to nothing) are over the cases that have them.
    `interval`: the mean's 95 % confidence interval, where asked for. `total`: sums of what is counted.
    """

    group: str
    cases: int
    mean: Scores
    sd: Scores
    interval: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    total: Scores = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """All that one call finds.

    Attributes:
        metric: whose scores.
        cases: those that could be scored, sorted by name.
        failed: those that could not.
        groups: case names by group, in the table's order; the last one is all cases.
        tables: by grid, a row for each group that has cases.
    """

    metric: Metric
    cases: list[CaseScore]
    failed: list[CaseScore]
    groups: dict[str, list[str]]
    tables: dict[str, list[Row]]


def evaluate(
    predictions: Path,
    truth: Path,
    *,
    metric: Metric,
    splits: Sequence[Path] = (),
    roi: RoiSpec | None = None,
    with_sensitivity: bool = False,
    extras: Sequence[Extra] = (),
    resamples: int = 0,
) -> Evaluation:
    """Score all cases that both folders have.

    Args:
        predictions: folder of label maps. With several splits it may hold a folder `fold_K` for each, of
            which only the cases that fold K held out count.
        truth: folder of reference label maps.
        metric: whose scores.
        splits: of one run (rows for training and validation), or of the runs of a cross-validation (a row
            for each one's held-out cases). See `read_splits`.
        roi: score on this grid too.
        with_sensitivity: sensitivity and precision too.
        extras: lesions, volumes, distances too.
        resamples: of the bootstrap for confidence intervals; 0 for none.

    Raises:
        ValueError: nothing to score, splits that do not make sense, or a package that the scores need is not
            installed.
    """
    check_scorable(metric, extras)
    parts = read_splits(splits)
    ours, theirs = _find_predictions(predictions, parts), find_label_maps(truth)
    names = sorted(ours.keys() & theirs.keys())
    if not names:
        raise ValueError(
            f"{predictions} ({_examples(ours)}) and {truth} ({_examples(theirs)}) have no case in common. "
            "Give each label map and its reference the same name"
        )
    for name in sorted(ours.keys() - theirs.keys()):
        log.warning("%s: no reference of this case in %s", ours[name], truth)
    if absent := len(theirs.keys() - ours.keys()):
        log.warning("%d of %d references have no prediction: not scored", absent, len(theirs))
    scored = [
        score_case(
            name,
            ours[name],
            theirs[name],
            metric=metric,
            roi=roi,
            with_sensitivity=with_sensitivity,
            extras=extras,
        )
        for name in tqdm(names, "evaluate", unit="case", disable=None)
    ]
    cases = [score for score in scored if score.error is None]
    groups = _groups(parts, [score.case for score in cases])
    grids = list(cases[0].grids) if cases else []
    return Evaluation(
        metric,
        cases,
        [score for score in scored if score.error is not None],
        groups,
        {grid: summarise(cases, groups, grid=grid, resamples=resamples) for grid in grids},
    )


def check_scorable(metric: Metric, extras: Sequence[Extra] = ()) -> None:
    """Say before the work that scores need a package that is not installed.

    Raises:
        ValueError: it is not.
    """
    if metric != "kits19":
        check_installed("surface_distance", f"the surface Dice of {metric}")
    if "hd95" in extras:
        check_installed("surface_distance", "the 95 % Hausdorff distance")


def read_splits(paths: Iterable[Path]) -> list[Split]:
    """Splits that training runs wrote, sorted by fold.

    Args:
        paths: `split.json` files, run folders that hold one, or folders of run folders. The same split
            twice (a kidney and a tumor run of one fold) counts once.

    Raises:
        ValueError: a file is no split, a fold comes with two splits, or two folds held out one case.
    """
    splits: list[Split] = []
    for path in paths:
        for file in _split_files(path):
            split = _read_split(file)
            if split not in splits:
                splits.append(split)
    splits.sort(key=lambda split: split.fold)
    if len(splits) > 1:
        held_out: dict[str, int] = {}
        for split in splits:
            for name in split.validation:
                if name in held_out:
                    raise ValueError(
                        f"fold {held_out[name]} and fold {split.fold} both held out case {name}. "
                        "Give the splits of one cross-validation: one seed, each fold once"
                    )
                held_out[name] = split.fold
    return splits


def _split_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = [path / SPLIT] if (path / SPLIT).is_file() else sorted(path.glob(f"*/{SPLIT}"))
    if not found:
        raise ValueError(f"{path}: no {SPLIT} in it or one folder below. Name a training run's folder")
    return found


def _read_split(path: Path) -> Split:
    try:
        content = json.loads(path.read_text())
        training, validation = (
            tuple(case_name(Path(name)) for name in content[part]) for part in ("training", "validation")
        )
        return Split(int(content["fold"]), training, validation)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: no split of a training run ({error!r}). It wants fold, training and validation"
        ) from error


def _groups(splits: Sequence[Split], scored: Sequence[str]) -> dict[str, list[str]]:
    """The scored cases by group; what a split names and nobody predicted is told."""
    if len(splits) == 1:
        wanted = {"training": splits[0].training, "validation": splits[0].validation}
    else:
        wanted = {f"fold {split.fold}": split.validation for split in splits}
    groups = {}
    for group, names in wanted.items():
        groups[group] = [name for name in scored if name in set(names)]
        if missing := len(set(names)) - len(groups[group]):
            log.warning("%s: %d of its %d cases are not scored", group, missing, len(set(names)))
    outside = set(scored).difference(*wanted.values())
    if splits and outside:
        log.warning("%d cases are in no split: they count in '%s' alone", len(outside), OVERALL)
    return {**groups, OVERALL: list(scored)}


def case_name(path: Path) -> str:
    """The name under which predictions and references meet."""
    name = path.parent.name if path.name in (*REFERENCES, KITS19_IMAGE) else path.name
    name = stem(name).removesuffix(NNUNET_CHANNEL)
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _examples(cases: Iterable[str]) -> str:
    names = sorted(cases)
    return ", ".join(names[:EXAMPLES]) + " …" * (len(names) > EXAMPLES) or "none"


def find_label_maps(folder: Path, *, images: bool = False) -> dict[str, Path]:
    """All label maps under a folder by case name.

    Args:
        folder: KiTS's case folders (19, 21 or 23), or files in any of the layouts that inference writes:
            TotalSegmentator's are all called `ct.nii.gz`, and go by their folders. Cases of one name in
            several folders, as inference mirrors them, go by folder and name: `ward1/scan`.
        images: KiTS19's `imaging.nii.gz` stands for its case; otherwise it is passed over.

    Raises:
        ValueError: no such folder, nothing in it, or two files of one case.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder. Name a folder with label maps")
    paths = list_images(folder)
    names = (KITS19_IMAGE,) if images else REFERENCES
    case_folders: dict[Path, str] = {}  # and which of its files stands for each
    for path in paths:
        if path.name in names:
            case_folders[path.parent] = next(n for n in names if (path.parent / n).is_file())
    by_name: dict[str, list[tuple[Path, Path]]] = defaultdict(list)  # files, and where their cases lie
    for path in paths:
        is_wanted = case_folders.get(path.parent) == path.name
        if path.name in (KITS19_IMAGE, *REFERENCES) and not is_wanted:
            continue
        if not is_wanted and not case_folders.keys().isdisjoint(path.parents):
            continue  # what KiTS21 and KiTS23 lay beside it
        is_mirrored = path.name.lower() == TOTALSEGMENTATOR_IMAGE and path.parent != folder
        case = path.parent if is_wanted or is_mirrored else path
        by_name[case_name(case)].append((path, case.parent))
    found: dict[str, Path] = {}
    for name, files in by_name.items():
        for path, place in files:
            whole = Path(os.path.relpath(place, folder), name).as_posix() if len(files) > 1 else name
            if whole in found:
                raise ValueError(f"{found[whole]} and {path} are both case {whole}. Keep one")
            found[whole] = path
    if not found:
        raise ValueError(f"{folder}: no label maps ({', '.join(SUFFIXES)}). Name the folder that holds them")
    return found


def list_images(folder: Path) -> list[Path]:
    """All image files under a folder, sorted. Links are followed, hidden names passed over."""
    names = glob.glob("**", root_dir=folder, recursive=True)  # noqa: PTH207  rglob follows no links
    paths = (folder / name for name in names)
    return sorted(path for path in paths if is_image(path) and path.is_file())


def _find_predictions(folder: Path, splits: Sequence[Split]) -> dict[str, Path]:
    by_fold = [(split, folder / f"fold_{split.fold}") for split in splits]
    if len(splits) < 2 or not any(subfolder.is_dir() for _, subfolder in by_fold):
        return find_label_maps(folder)
    found: dict[str, Path] = {}
    for split, subfolder in by_fold:
        maps = find_label_maps(subfolder)
        found |= {name: maps[name] for name in split.validation if name in maps}
    return found


def score_case(
    case: str,
    predicted: Path,
    truth: Path,
    *,
    metric: Metric,
    roi: RoiSpec | None = None,
    with_sensitivity: bool = False,
    extras: Sequence[Extra] = (),
) -> CaseScore:
    """Score one pair of files in stored axis order, as the official scripts do.

    Args:
        case: its name.
        predicted, truth: the files.
        metric: whose numbers.
        roi: score on this grid too, where `prepare` places it: around the image centre (the paper's way),
            or around the reference's kidneys along z where the scan is longer. Both label maps are brought
            there alike: a voxel has the highest label that more than half of it has.
        with_sensitivity: sensitivity and precision too.
        extras: lesions, volumes, distances too.
    """
    try:
        ours, theirs = read_label_map(predicted), read_label_map(truth)
        if ours.native.shape != theirs.native.shape:
            raise CaseError(
                f"{predicted}: shape {ours.native.shape}, the reference has {theirs.native.shape}. "
                "Write label maps on the CT's own grid"
            )
    except CaseError as error:
        return CaseScore(case, error=str(error))
    warnings = []
    difference = affine_difference(ours.native, theirs.native)
    if difference > AFFINE_TOLERANCE:
        warnings.append(
            f"{predicted}: its affine differs from the reference's by {difference:.3g} in all. Voxels are "
            "compared as stored, which is what KiTS's scripts do"
        )
    i, j, k = np.linalg.norm(ours.native.affine[:3, :3], axis=0).tolist()  # the prediction's, as in KiTS23
    a, b = _crop(_stored(ours), _stored(theirs))
    grids = {"native": _score(a, b, (i, j, k), metric, with_sensitivity)}
    if roi is not None:
        placed = place_around_kidneys(theirs, roi)
        a_roi, b_roi = (
            resample_labels(apply_orientation(_stored(ct), theirs.native.to_canonical), placed)
            for ct in (ours, theirs)
        )
        grids["roi"] = _score(a_roi, b_roi, (roi.spacing_mm,) * 3, metric, with_sensitivity)
    if metric == "kits19":
        grids["official"] = _with_average(score_kits19_official(a, b))
    if extras:
        grids["extras"] = score_extras(a, b, (i, j, k), tuple(extras))
    return CaseScore(case, grids, tuple(warnings))


def read_label_map(path: Path, *, highest: int = HIGHEST_LABEL) -> Ct:
    """A label map, its voxels rounded to whole numbers: a scaling in the header may miss them a little.

    Raises:
        CaseError: cannot be read, or holds values other than 0 … `highest`, or none at all (NaN).
    """
    labels = read_ct(path)
    odd = _between_labels(path)
    if odd is not None:
        raise CaseError(
            f"{path}: holds {odd:.3g}, between labels: probabilities, or interpolated. Write 0 for "
            "background, 1 for kidney, 2 for tumor"
        )
    low, high = int(labels.hu.min()), int(labels.hu.max())
    if low < 0 or high > highest:
        raise CaseError(
            f"{path}: values from {low} to {high}, allowed are 0 to {highest}. Write 0 for background, 1 for "
            "kidney, 2 for tumor"
        )
    return labels


def _between_labels(path: Path) -> float | None:
    """A value that is no label, NaN too; None where there is none, as in a file of whole numbers."""
    if is_nifti(path):
        image: Any = nib.load(path)
        is_scaled = (image.dataobj.slope, image.dataobj.inter) != (1, 0)
        if image.get_data_dtype().kind != "f" and not is_scaled:
            return None
        values = np.asanyarray(image.dataobj)
    else:
        reader = itk.open_header(path)
        if reader.GetPixelID() not in (sitk.sitkFloat32, sitk.sitkFloat64):
            return None
        values = sitk.GetArrayFromImage(reader.Execute())
    odd = values[~(np.abs(values - np.rint(values)) <= LABEL_TOLERANCE)]
    return float(odd[0]) if odd.size else None


def affine_difference(a: NativeGrid, b: NativeGrid) -> float:
    """Σ|ΔA| of KiTS23's checker."""
    return float(np.abs(a.affine - b.affine).sum())


def _stored(ct: Ct) -> NDArray[np.int16]:
    return apply_orientation(ct.hu, ct.native.from_canonical)


def _crop(a: Labels, b: Labels) -> tuple[Labels, Labels]:
    """Both without the background around them, which no score counts."""
    labelled = (a > 0) | (b > 0)
    box = []
    for axis in range(3):
        found = np.flatnonzero(labelled.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(found[0], found[-1] + 1) if found.size else slice(0, 1))
    return a[tuple(box)], b[tuple(box)]


def _score(
    predicted: Labels, truth: Labels, spacing_mm: Vector, metric: Metric, with_sensitivity: bool
) -> dict[str, float]:
    if metric == "kits19":
        scores = _with_average(score_kits19(predicted, truth))
    else:
        scores = score_regions(predicted, truth, spacing_mm)
    return scores | (score_sensitivity(predicted, truth, metric) if with_sensitivity else {})


def _with_average(scores: Scores) -> dict[str, float]:
    """KiTS19's two scores and their mean."""
    return {**scores, "average": sum(scores[name] for name in AVERAGED) / len(AVERAGED)}


def summarise(
    cases: Sequence[CaseScore],
    groups: Mapping[str, Sequence[str]],
    *,
    grid: str = "native",
    resamples: int = 0,
) -> list[Row]:
    """Mean and standard deviation of each group that has cases, and intervals where `resamples` is not 0."""
    rows = []
    for group, names in groups.items():
        values = [score.grids[grid] for score in cases if score.case in set(names)]
        if not values:
            continue
        table = {key: np.array([value[key] for value in values]) for key in values[0]}
        if grid != "official":  # whose NaN is a score
            table = {key: v[~np.isnan(v)] for key, v in table.items()}
        rows.append(
            Row(
                group,
                len(values),
                mean={key: float(v.mean()) if v.size else float("nan") for key, v in table.items()},
                sd={key: float(v.std(ddof=1)) if len(v) > 1 else float("nan") for key, v in table.items()},
                interval={key: mean_interval(v, resamples) for key, v in table.items()} if resamples else {},
                total={key: float(v.sum()) for key, v in table.items() if key.startswith(COUNTED)},
            )
        )
    return rows

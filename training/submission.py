"""A folder of label maps, checked as organisers check it, and zipped as KiTS19 wants it.

KiTS23's `check_submission_folder.py`: a file of the image's own name, its shape, Σ|ΔA| ≤ 1e-3 between the
affines, whole numbers in range. KiTS19: `prediction_00210.nii.gz` …, flat in one zip.
"""

import re
import zipfile
from pathlib import Path

import numpy as np
from nibabel.orientations import apply_orientation

from inference.ct import CaseError, read_ct, read_native_grid
from training.evaluate import find_label_maps
from training.metrics import Metric

AFFINE_TOLERANCE = 1e-3
KITS19_NAME = re.compile(r"prediction_\d{5}\.nii\.gz")
KITS19_TEST_CASES = range(210, 300)
HIGHEST_LABEL = {"kits19": 2, "kits21": 3, "kits23": 3}


def check_submission(predictions: Path, references: Path, *, metric: Metric) -> tuple[list[str], list[str]]:
    """What an organiser would send back.

    Args:
        predictions: the folder to submit.
        references: CTs or label maps of the same cases, in KiTS19's folders or flat.
        metric: whose rules; KiTS19's ask for its names.

    Returns:
        Errors and warnings, a line each.

    Raises:
        ValueError: one of the folders holds nothing.
    """
    ours, theirs = find_label_maps(predictions), find_references(references)
    errors = [f"case {name}: no label map. Segment {theirs[name]}" for name in sorted(theirs.keys() - ours)]
    warnings = [f"{ours[name]}: no such case in {references}" for name in sorted(ours.keys() - theirs)]
    for name, path in ours.items():
        if metric == "kits19" and not KITS19_NAME.fullmatch(path.name):
            errors.append(f"{path}: KiTS19 wants prediction_XXXXX.nii.gz. Use --output-naming kits19")
        if metric != "kits19" and name in theirs and theirs[name].parent == references:
            wanted = theirs[name].name
            if path.name != wanted:
                errors.append(f"{path}: KiTS23 wants the image's name, {wanted}. Use --output-naming same")
        if name in theirs:
            errors += _check_file(path, theirs[name], HIGHEST_LABEL[metric])
    missing = [n for n in KITS19_TEST_CASES if f"{n:05d}" not in ours] if metric == "kits19" else []
    if missing:
        warnings.append(
            f"{len(missing)} of KiTS19's 90 test cases (00210 to 00299) are not here, the first is "
            f"{missing[0]:05d}"
        )
    return errors, warnings


def find_references(folder: Path) -> dict[str, Path]:
    """CTs or label maps by case name; `imaging.nii.gz` counts where a case has no label map.

    Raises:
        ValueError: none is there.
    """
    found = {path.parent.name.removeprefix("case_"): path for path in folder.glob("*/imaging.nii.gz")}
    if found:
        return found
    return find_label_maps(folder)


def _check_file(path: Path, reference: Path, highest: int) -> list[str]:
    try:
        grid = read_native_grid(reference)
        labels = read_ct(path)
    except CaseError as error:
        return [str(error)]
    if labels.native.shape != grid.shape:
        return [f"{path}: shape {labels.native.shape}, {reference} has {grid.shape}"]
    difference = float(np.abs(labels.native.affine - grid.affine).sum())
    if difference > AFFINE_TOLERANCE:
        return [f"{path}: its affine differs by {difference:.3g} in all, {AFFINE_TOLERANCE} is allowed"]
    stored = apply_orientation(labels.hu, labels.native.from_canonical)
    if stored.min() < 0 or stored.max() > highest:
        return [f"{path}: values from {stored.min()} to {stored.max()}, allowed are 0 to {highest}"]
    return []


def write_zip(predictions: Path, out: Path) -> int:
    """All label maps of a folder, flat in one zip, whole or not at all; returns how many.

    Raises:
        ValueError: a folder without label maps.
    """
    paths = sorted(find_label_maps(predictions).values(), key=lambda path: path.name)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:  # they are compressed already
        for path in paths:
            archive.write(path, path.name)
    partial.replace(out)
    return len(paths)

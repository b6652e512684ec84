"""A folder of label maps, checked as organisers check it, and zipped as KiTS19 wants it.

KiTS23's `check_submission_folder.py`: a file of the image's own name, its shape, Σ|ΔA| ≤ 1e-3 between the
affines, values in range. KiTS19's rules: `prediction_00210.nii.gz` …, flat in one zip.
"""

import re
import zipfile
from pathlib import Path

from evaluation.evaluate import (
    AFFINE_TOLERANCE,
    REFERENCES,
    affine_difference,
    find_label_maps,
    list_images,
    read_label_map,
)
from evaluation.metrics import HIGHEST_LABEL, Metric
from inference.formats.ct import CaseError, read_native_grid
from inference.formats.staging import staged
from inference.geometry import TUMOR
from inference.runner.cases import KITS19_IMAGE

KITS19_NAME = re.compile(r"prediction_\d{5}\.nii\.gz")
KITS19_TEST_CASES = range(210, 300)


def check_submission(predictions: Path, references: Path, *, metric: Metric) -> tuple[list[str], list[str]]:
    """What an organiser would send back.

    Args:
        predictions: the folder to submit.
        references: CTs or label maps of the same cases, in KiTS19's folders or flat.
        metric: whose rules: KiTS19 asks for its own names, the others for the images'.

    Returns:
        Errors and warnings, a line each.

    Raises:
        ValueError: one of the folders holds nothing.
    """
    ours, theirs = find_label_maps(predictions), find_references(references)
    errors = [
        f"case {name}: no label map in {predictions}. Segment {theirs[name]}"
        for name in sorted(theirs.keys() - ours.keys())
    ]
    warnings = [f"{ours[name]}: no such case in {references}" for name in sorted(ours.keys() - theirs.keys())]
    for name, path in ours.items():
        if path.parent != predictions:
            errors.append(
                f"{path}: lies in a folder of its own. Put all label maps into {predictions} itself"
            )
        if metric == "kits19" and not KITS19_NAME.fullmatch(path.name):
            errors.append(f"{path}: KiTS19 wants prediction_XXXXX.nii.gz. Use --output-naming kits19")
        if name in theirs:
            wanted = _image_name(theirs[name])
            if metric != "kits19" and path.name != wanted:
                errors.append(
                    f"{path}: {metric.replace('kits', 'KiTS')} wants the image's name, {wanted}. Rename it"
                )
            errors += _check_file(path, theirs[name], TUMOR if metric == "kits19" else HIGHEST_LABEL)
    missing = [n for n in KITS19_TEST_CASES if f"{n:05d}" not in ours] if metric == "kits19" else []
    if missing:
        warnings.append(
            f"{len(missing)} of KiTS19's {len(KITS19_TEST_CASES)} test cases are not here, the first is "
            f"{missing[0]:05d}. Segment them all before you submit"
        )
    return errors, warnings


def find_references(folder: Path) -> dict[str, Path]:
    """CTs by case name, or label maps where there are no CTs.

    Raises:
        ValueError: no such folder, or nothing in it.
    """
    return find_label_maps(folder, images=any(path.name == KITS19_IMAGE for path in list_images(folder)))


def _image_name(reference: Path) -> str:
    if reference.name in (KITS19_IMAGE, *REFERENCES):
        return f"{reference.parent.name}.nii.gz"
    return reference.name


def _check_file(path: Path, reference: Path, highest: int) -> list[str]:
    try:
        wanted, labels = read_native_grid(reference), read_label_map(path, highest=highest)
    except CaseError as error:
        return [str(error)]
    if labels.native.shape != wanted.shape:
        return [f"{path}: shape {labels.native.shape}, {reference} has {wanted.shape}. Write it on that grid"]
    difference = affine_difference(labels.native, wanted)
    if difference > AFFINE_TOLERANCE:
        return [
            f"{path}: its affine differs by {difference:.3g} in all from {reference}'s, more than "
            f"{AFFINE_TOLERANCE}. Write it on that grid"
        ]
    return []


def write_zip(predictions: Path, out: Path) -> int:
    """All label maps of a folder, flat in one zip, whole or not at all.

    Returns:
        How many.

    Raises:
        ValueError: a folder without label maps.
        OSError: the zip cannot be written.
    """
    paths = sorted(find_label_maps(predictions).values(), key=lambda path: path.name)
    with staged(out) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for path in paths:  # they are compressed already
            archive.write(path, path.name)
    return len(paths)

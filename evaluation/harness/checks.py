"""What is wrong with a run and with the label maps it left: one finding a fault, each with its reason."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from evaluation.evaluate import AFFINE_TOLERANCE
from evaluation.harness.engine import Run, last_line
from evaluation.metrics import dice, score_kits19
from inference.formats.ct import is_nifti
from inference.formats.itk import SUFFIXES, find_body
from inference.runner.cases import Case, UsageError

Reason = Literal[
    "time", "memory", "network", "crash",  # the run
    "missing", "leftover", "root", "unreadable", "shape", "affine", "labels", "flipped",  # its output
]  # fmt: skip

LABELS = {0, 1, 2}
VOXEL_SUFFIXES = (".raw", ".zraw", ".raw.gz")
"""What usually lies beside a .mhd or .nhdr, which is only a header."""
FLIP_GAIN = 0.3
"""A label map whose kidney Dice is this much better when mirrored lies the wrong way round."""
NETWORK_ERRORS = (
    "network is unreachable",
    "name resolution",
    "name or service not known",
    "could not resolve host",
    "getaddrinfo",
    "failed to establish a new connection",
)
"""What the usual libraries write when they find no network."""
FAILED_SCORE = (0.0, 0.0)
"""Of a case without a usable label map, as challenges count it."""
ROOT_UID = 0


@dataclass(frozen=True)
class Finding:
    """One fault: its reason, and a line for people."""

    reason: Reason
    text: str


def check_run(run: Run, limit_seconds: float) -> list[Finding]:
    """Whether the container ended well: at most one finding, the cause before its consequences."""
    if run.exit_code == 0:
        return []
    if run.exit_code is None:
        return [Finding("time", f"stopped after {limit_seconds:g} s")]
    if run.out_of_memory:
        return [Finding("memory", f"exit code {run.exit_code}: killed at the memory limit")]
    reason: Reason = "network" if any(e in run.log.lower() for e in NETWORK_ERRORS) else "crash"
    return [Finding(reason, f"exit code {run.exit_code}; it last said: {last_line(run.log)}")]


def voxel_file(path: Path) -> Path:
    """The file that holds an image's voxels: the one that a header names, or the image itself.

    Raises:
        ValueError: no header of its format, or voxels in several files or out of its folder.
        OSError: it cannot be read.
    """
    if not path.name.lower().endswith(SUFFIXES):
        return path
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError(f"{path}: no regular file")
    return find_body(path).file


def files_of(path: Path) -> list[Path]:
    """An image and what lies beside it: its voxels, or where no header names them what they usually are."""
    try:
        return list({path, voxel_file(path)})
    except (ValueError, OSError):
        return [path, *map(path.with_suffix, VOXEL_SUFFIXES)]


def read_reference(path: Path) -> tuple[NDArray, NDArray[np.float64]]:
    """Voxels in stored order and affine of a reference label map.

    Raises:
        UsageError: it cannot be read, which is no container's fault.
    """
    try:
        return _read(path)
    except Exception as error:  # whatever a reader throws
        told = " ".join(str(error).split())[-200:]
        raise UsageError(f"{path}: this reference cannot be read ({told}). Copy it again") from error


def check_outputs(
    cases: Sequence[Case], output: Path, truth: Path, *, is_run_whole: bool
) -> tuple[list[Finding], dict[str, tuple[float, float]]]:
    """Check and score the label maps of some cases.

    Args:
        cases: what was to be segmented; their `output` names the label maps.
        output: what the container wrote.
        truth: the reference label maps, under the same names.
        is_run_whole: False where the run is known to have failed: then what it did not come to write is no
            fault of its own.

    Returns:
        The findings, and (kidney, tumor) Dice by case, as `evaluate --metric kits19` has them; 0 for a case
        without a usable label map. One with label 3, which KiTS19's own script counts as tumor, is none.

    Raises:
        UsageError: a reference cannot be read.
    """
    findings: list[Finding] = []
    scores = dict.fromkeys((case.name for case in cases), FAILED_SCORE)
    expected = {path for case in cases for path in (case.output, *case.output.parents)}
    expected |= {path.relative_to(output) for case in cases for path in files_of(output / case.output)}
    for path in sorted(output.rglob("*")):
        relative = path.relative_to(output)
        if path.lstat().st_uid == ROOT_UID:
            findings.append(Finding("root", f"{relative}: belongs to root"))
        if relative not in expected:
            findings.append(Finding("leftover", f"{relative}: is no label map that was asked for"))
    for case in cases:
        path = output / case.output
        if not path.is_file():
            if is_run_whole:
                findings.append(Finding("missing", f"{case.output}: not written"))
            continue
        faults, case_score = _check_label_map(case.output, path, output, truth / case.output)
        findings += faults
        scores[case.name] = case_score
    return findings, scores


def _check_label_map(
    name: Path, path: Path, output: Path, truth: Path
) -> tuple[list[Finding], tuple[float, float]]:
    true, true_affine = read_reference(truth)
    try:
        for part in (path, voxel_file(path)):
            if not part.resolve().is_relative_to(output.resolve()):
                raise ValueError("is a link out of the output folder")
            if not part.is_file():
                raise ValueError(f"its voxels are in {part.name}, which is no file")
        predicted, affine = _read(path)
    except Exception as error:  # whatever a reader throws at a file that anybody wrote
        return [Finding("unreadable", f"{name}: {' '.join(str(error).split())[-200:]}")], FAILED_SCORE
    if predicted.shape != true.shape:
        return [Finding("shape", f"{name}: {predicted.shape} voxels, not {true.shape}")], FAILED_SCORE
    findings = []
    values = set(np.unique(predicted).tolist())
    if not values <= LABELS:
        findings.append(Finding("labels", f"{name}: holds {sorted(values - LABELS)[:5]}"))
    difference = float(np.abs(affine - true_affine).sum())
    if not difference <= AFFINE_TOLERANCE:
        findings.append(Finding("affine", f"{name}: its affine differs by {difference:.3g}"))
    if findings:
        return findings, FAILED_SCORE
    kidney, tumor = score_kits19(predicted, true).values()
    axes, gain = _best_flip(predicted, true, kidney)
    if gain >= FLIP_GAIN:
        text = f"{name}: kidney Dice {kidney:.3f}, mirrored along axes {axes} {kidney + gain:.3f}"
        findings.append(Finding("flipped", text))
    return findings, (kidney, tumor)


def _best_flip(predicted: NDArray, true: NDArray, kidney: float) -> tuple[tuple[int, ...], float]:
    flips = [axes for n in (1, 2, 3) for axes in itertools.combinations(range(3), n)]
    gains = {axes: dice(np.flip(predicted > 0, axes), true > 0) - kidney for axes in flips}
    best = max(gains, key=gains.__getitem__)
    return best, gains[best]


def _read(path: Path) -> tuple[NDArray, NDArray[np.float64]]:
    """Voxels in stored order and the affine that the file gives, by readers that are not the container's."""
    if is_nifti(path):
        nifti: Any = nib.load(path)
        return np.asanyarray(nifti.dataobj), np.asarray(nifti.affine)
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T, affine

"""KiTS19's folders → what training reads: kidneys on a 2 mm grid, and ROI images if there are any."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from tqdm import tqdm

from evaluation.label_grid import place_around_kidneys, resample_labels
from inference.formats.ct import CaseError, Ct, read_ct
from inference.geometry import Roi, RoiSpec, Vector
from inference.method.roi import extract_roi

IMAGE, SEGMENTATION = "imaging.nii.gz", "segmentation.nii.gz"
CASES = "case_*"
KIDNEY, TUMOR = 1, 2
LABEL_SPACING_MM = 2.0
MARGIN_MM = 10.0
"""Background kept around the kidneys: interpolation and peeling need some, nothing more."""
SAME_AFFINE = 1e-3
"""Largest difference (mm) between the affines of a CT and its label map."""


@dataclass(frozen=True)
class LabelMap:
    """The kidneys of one patient, and where the scan lies around them.

    Attributes:
        name: of the case.
        labels: uint8 (z, y, x) in canonical LPS, isotropic, cropped to the kidneys with a margin.
        spacing_mm: side of a voxel.
        first_mm: (z, y, x) of the centre of voxel (0, 0, 0), against the centre of the scan.
        scan_mm: (z, y, x) side lengths of the scan.
    """

    name: str
    labels: NDArray[np.uint8]
    spacing_mm: float
    first_mm: Vector
    scan_mm: Vector


@dataclass(frozen=True)
class RoiImage:
    """One CT as the network sees it.

    Attributes:
        image: float16 of the ROI's shape, in [0, 1] (`extract_roi`; half precision is finer than 0.2 HU).
        labels: uint8, same shape.
    """

    image: NDArray[np.float16]
    labels: NDArray[np.uint8]


def find_case_folders(data: Path) -> list[Path]:
    """`case_XXXXX` folders with a label map, sorted.

    Raises:
        ValueError: there are none.
    """
    folders = sorted(path.parent for path in data.glob(f"{CASES}/{SEGMENTATION}"))
    if not folders:
        raise ValueError(f"{data}: no {CASES}/{SEGMENTATION}. Name the folder that holds KiTS19's cases")
    return folders


def prepare(data: Path, cache: Path, *, roi: RoiSpec, processes: int = 1) -> dict[str, str]:
    """Prepare all cases that the cache does not hold yet.

    Args:
        data: folder with `case_XXXXX/segmentation.nii.gz` and, where there are images, `imaging.nii.gz`.
        cache: one `.npz` a case is written here.
        roi: the grid and intensities of the ROI images.
        processes: how many cases at once; each takes up to 3 GiB where there are images.

    Returns:
        The cases that could not be prepared, and why.
    """
    cache.mkdir(parents=True, exist_ok=True)
    folders = [folder for folder in find_case_folders(data) if not _is_done(folder, cache, roi)]
    failed = {}
    with ProcessPoolExecutor(processes) as pool:
        jobs = pool.map(_try_case, folders, [cache] * len(folders), [roi] * len(folders))
        for folder, error in tqdm(zip(folders, jobs, strict=True), "prepare", len(folders), unit="case"):
            if error:
                failed[folder.name] = error
    return failed


def _is_done(folder: Path, cache: Path, roi: RoiSpec) -> bool:
    entry = cache / f"{folder.name}.npz"
    if not entry.is_file():
        return False
    with np.load(entry) as arrays:
        return not (folder / IMAGE).exists() or str(arrays.get("roi")) == _as_text(roi)


def _try_case(folder: Path, cache: Path, roi: RoiSpec) -> str | None:
    try:
        arrays = _prepare_case(folder, roi)
    except CaseError as error:
        return str(error)
    partial = cache / f".{folder.name}.partial.npz"
    np.savez_compressed(partial, allow_pickle=False, **arrays)
    partial.replace(cache / f"{folder.name}.npz")
    return None


def _prepare_case(folder: Path, roi: RoiSpec) -> Mapping[str, NDArray]:
    truth = read_ct(folder / SEGMENTATION)
    if truth.hu.min() < 0 or truth.hu.max() > TUMOR:
        raise CaseError(
            f"{folder / SEGMENTATION}: values {truth.hu.min()} to {truth.hu.max()}, not 0 background, "
            "1 kidney, 2 tumor. Get the file again"
        )
    if not truth.hu.any():
        raise CaseError(f"{folder / SEGMENTATION}: nothing is labelled. Get the file again")
    arrays = _label_arrays(truth)
    if (folder / IMAGE).exists():
        ct = read_ct(folder / IMAGE)
        if (
            ct.hu.shape != truth.hu.shape
            or np.abs(ct.native.affine - truth.native.affine).max() > SAME_AFFINE
        ):
            raise CaseError(f"{folder}: {IMAGE} and {SEGMENTATION} lie on different grids. Get both again")
        placed = place_around_kidneys(truth, roi)
        arrays |= {
            "image": extract_roi(ct.hu, placed).astype(np.float16),
            "image_labels": resample_labels(truth.hu, placed),
            "roi": np.asarray(_as_text(roi)),
        }
    return arrays


def _as_text(roi: RoiSpec) -> str:
    return json.dumps(asdict(roi), sort_keys=True)


def _label_arrays(truth: Ct) -> dict[str, NDArray]:
    """The fields of a `LabelMap`: the scan's 2 mm grid, as far as the kidneys reach."""
    shape, spacing = np.asarray(truth.hu.shape), np.asarray(truth.spacing_mm)
    step = LABEL_SPACING_MM / spacing
    box = ndimage.find_objects((truth.hu > 0).astype(np.uint8))[0]
    low = (np.asarray([side.start for side in box]) - 0.5) - MARGIN_MM / spacing
    high = (np.asarray([side.stop for side in box]) - 0.5) + MARGIN_MM / spacing
    size = np.ceil((high - low) / step).astype(int)
    start = (low + high) / 2 - (size - 1) / 2 * step
    spec = RoiSpec(shape_vox=_triple(size.tolist()), spacing_mm=LABEL_SPACING_MM)
    roi = Roi(spec, _triple(start.tolist()), _triple(step.tolist()))
    return {
        "labels": resample_labels(truth.hu, roi),
        "spacing_mm": np.asarray(LABEL_SPACING_MM),
        "first_mm": (start - (shape - 1) / 2) * spacing,
        "scan_mm": shape * spacing,
    }


T = TypeVar("T")


def _triple(values: list[T]) -> tuple[T, T, T]:
    z, y, x = values
    return (z, y, x)


def cached_names(cache: Path) -> list[str]:
    """Names of the cached cases, sorted.

    Raises:
        ValueError: there are none.
    """
    names = sorted(path.stem for path in cache.glob(f"{CASES}.npz"))
    if not names:
        raise ValueError(f"{cache}: no prepared cases. Run `python -m training prepare DATA {cache}` first")
    return names


def load_label_maps(cache: Path, names: list[str]) -> Iterator[LabelMap]:
    """The label maps of these cases."""
    for name in names:
        with np.load(cache / f"{name}.npz") as arrays:
            yield LabelMap(
                name,
                arrays["labels"],
                float(arrays["spacing_mm"]),
                _triple(arrays["first_mm"].tolist()),
                _triple(arrays["scan_mm"].tolist()),
            )


def load_roi_image(cache: Path, name: str, roi: RoiSpec) -> RoiImage:
    """The ROI image of one case.

    Raises:
        ValueError: the case was prepared without an image, or for another ROI.
    """
    with np.load(cache / f"{name}.npz") as arrays:
        if "image" not in arrays:
            raise ValueError(f"{cache / name}.npz: has no image. Train a synthetic preset, or get {IMAGE}")
        if str(arrays["roi"]) != _as_text(roi):
            raise ValueError(f"{cache / name}.npz: was prepared for another ROI. Prepare another cache")
        return RoiImage(arrays["image"], arrays["image_labels"])

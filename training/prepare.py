"""Data sets in their own layouts → one cache that training reads.

Three layouts are known:

- KiTS19: `case_XXXXX/segmentation.nii.gz` gives a label map to synthesise CTs around; with an
  `imaging.nii.gz` beside it a real scan, too.
- TotalSegmentator: `<case>/ct.nii.gz` and `<case>/segmentations/kidney_left.nii.gz` … give a real scan; a
  background where no kidney is labelled.
- An `index.json`: `<name>/imaging.nii.gz` and, where there is one, `<name>/segmentation.nii.gz`.

`index.json` maps each name to `{"labels": …, "role": …, "case": …, "slice": …}`. `labels` holds "1 kidney"
where kidneys are labelled and "2 tumor" where tumors are too; otherwise the scan shows no kidney, except in
voxels labelled 255, which are ignored. `role` is `train` (the default), `set_aside` (validation alone) or
anything else (left out). `slice` marks a single axial slice with complete labels.
"""

import json
import logging
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from tqdm import tqdm

from evaluation.label_grid import resample_labels, widening
from inference.formats.ct import CaseError, Ct, read_ct, reading
from inference.geometry import KIDNEY, TUMOR, Roi, RoiSpec, resample
from inference.runner.cases import (
    KITS19_IMAGE,
    KITS19_SEGMENTATION,
    TOTALSEGMENTATOR_IMAGE,
    TOTALSEGMENTATOR_LABELS,
)
from training.cache import IGNORE, MARGIN_MM, SCANS, Scan, save_scan, to_grey, triple, write_arrays

log = logging.getLogger("training")
INDEX = "index.json"
TOTALSEGMENTATOR_KIDNEYS = ("kidney_left", "kidney_right", "kidney_cyst_left", "kidney_cyst_right")
LABEL_SPACING_MM = 2.0
"""Of the label maps that CTs are synthesised around."""
SAME_AFFINE = 1e-3
"""Largest difference (mm) between the affines of a CT and its label map."""

Layout = Literal["kits", "totalsegmentator", "index"]


@dataclass(frozen=True)
class Source:
    """One case of a data set, before its images are read.

    Attributes:
        name: in the cache.
        folder: its files.
        layout: of the folder.
        entry: its line of `index.json`.
    """

    name: str
    folder: Path
    layout: Layout
    entry: Mapping[str, Any]


def find_sources(data: Path) -> list[Source]:
    """The cases of a data set, sorted by name.

    Raises:
        ValueError: an unknown layout.
    """
    if (data / INDEX).is_file():
        index = json.loads((data / INDEX).read_text())
        return [
            Source(name, data / name, "index", entry)
            for name, entry in sorted(index.items())
            if entry.get("role", "train") in ("train", "set_aside")
        ]
    kits = sorted(path.parent for path in data.glob(f"case_*/{KITS19_SEGMENTATION}"))
    if kits:
        return [Source(folder.name, folder, "kits", {}) for folder in kits]
    others = sorted(path.parent for path in data.glob(f"*/{TOTALSEGMENTATOR_IMAGE}"))
    if others:
        return [Source(folder.name, folder, "totalsegmentator", {}) for folder in others]
    raise ValueError(
        f"{data}: neither {INDEX}, nor case_*/{KITS19_SEGMENTATION}, nor */{TOTALSEGMENTATOR_IMAGE}. "
        "Name the folder that holds the cases"
    )


def prepare(data: Path, cache: Path, *, spacing_mm: float = 3.0, processes: int = 1) -> dict[str, str]:
    """Prepare all cases that the cache does not hold yet.

    Args:
        data: a folder in one of the layouts above; several calls fill one cache.
        cache: a label map becomes `<name>.npz`, a scan `scans/<name>.npz`.
        spacing_mm: of the scans' isotropic grid: the networks' own.
        processes: how many cases at once; each takes up to 3 GiB where there are images.

    Returns:
        The cases that could not be prepared, and why.
    """
    (cache / SCANS).mkdir(parents=True, exist_ok=True)
    sources = [source for source in find_sources(data) if not _is_done(source, cache, spacing_mm)]
    failed = {}
    with ProcessPoolExecutor(processes) as pool:
        jobs = pool.map(_try_case, sources, [cache] * len(sources), [spacing_mm] * len(sources))
        progress = tqdm(zip(sources, jobs, strict=True), "prepare", len(sources), unit="case", disable=None)
        for source, error in progress:
            if error:
                failed[source.name] = error
    return failed


def _is_done(source: Source, cache: Path, spacing_mm: float) -> bool:
    scan, has_image = cache / SCANS / f"{source.name}.npz", _image(source) is not None
    if source.layout == "kits" and not (cache / f"{source.name}.npz").is_file():
        return False
    if not has_image:
        return True
    if not scan.is_file():
        return False
    with np.load(scan) as arrays:
        return float(arrays["spacing_mm"]) == spacing_mm


def _image(source: Source) -> Path | None:
    path = source.folder / (TOTALSEGMENTATOR_IMAGE if source.layout == "totalsegmentator" else KITS19_IMAGE)
    return path if path.exists() or source.layout != "kits" else None


def _try_case(source: Source, cache: Path, spacing_mm: float) -> str | None:
    try:
        _prepare_case(source, cache, spacing_mm)
    except CaseError as error:
        return str(error)
    except MemoryError:
        return f"{source.folder}: does not fit in memory. Prepare fewer cases at once, or crop the CT"
    except OSError as error:
        return f"{error.filename or cache}: {error.strerror or error}. Check the cache's folder"
    except Exception as error:  # no case ends the others
        log.debug("traceback of %s", source.name, exc_info=error)
        text = " ".join(str(error).split())
        return f"{source.folder}: {type(error).__name__}: {text}. This is a bug: report it"
    return None


def _prepare_case(source: Source, cache: Path, spacing_mm: float) -> None:
    if "slice" in source.entry:
        save_scan(cache / SCANS / f"{source.name}.npz", _slice_scan(source, spacing_mm))
        return
    image = _image(source)
    ct = read_ct(image) if image else None
    labels, native = _read_labels(source, ct)
    if source.layout == "kits":
        if not labels.any():
            raise CaseError(f"{source.folder / KITS19_SEGMENTATION}: nothing is labelled. Get the file again")
        write_arrays(cache / f"{source.name}.npz", _label_arrays(labels, native.spacing_mm))
    if ct is not None:
        save_scan(cache / SCANS / f"{source.name}.npz", _scan(source, ct, labels, spacing_mm))


def _read_labels(source: Source, ct: Ct | None) -> tuple[NDArray[np.uint8], Ct]:
    """Labels of the cache on the grid of the CT, or of the label map where there is no CT."""
    paths = [source.folder / KITS19_SEGMENTATION]
    if source.layout == "totalsegmentator":
        masks = [
            source.folder / TOTALSEGMENTATOR_LABELS / f"{name}.nii.gz" for name in TOTALSEGMENTATOR_KIDNEYS
        ]
        paths = [path for path in masks if path.exists()]
    elif source.layout == "index" and not paths[0].exists():
        paths = []
    result: NDArray[np.uint8] | None = None
    for path in paths:
        truth = read_ct(path)
        if ct is not None:
            _check_grid(ct, truth, path)
        _check_values(truth.hu, path, (0, 1, 2, IGNORE) if source.layout == "index" else (0, 1, 2))
        new = truth.hu.astype(np.uint8)
        result = new if result is None else np.maximum(result, new)
        native = truth
    if result is None:
        assert ct is not None
        return np.zeros(ct.hu.shape, np.uint8), ct
    return result, ct or native


def _check_grid(ct: Ct, truth: Ct, path: Path) -> None:
    apart = np.abs(ct.native.affine - truth.native.affine).max() > SAME_AFFINE
    if ct.hu.shape != truth.hu.shape or apart:
        raise CaseError(f"{path}: lies on another grid than its CT. Get both again")


def _check_values(labels: NDArray, path: Path, allowed: tuple[int, ...]) -> None:
    values = np.unique(labels)
    if not np.isin(values, allowed).all():
        raise CaseError(
            f"{path}: values {values.min()} to {values.max()}; expected 0 background, 1 kidney, 2 tumor. "
            "Merge cysts (3) into the kidney, or name KiTS19's own label maps"
        )


def _scan(source: Source, ct: Ct, labels: NDArray[np.uint8], spacing_mm: float) -> Scan:
    """A CT and its labels on an isotropic grid."""
    roi = _whole_scan(ct.hu.shape, ct.spacing_mm, spacing_mm)
    hu = ndimage.gaussian_filter(ct.hu.astype(np.float32), widening(np.asarray(roi.step_vox)))
    knows_tumors = source.layout == "kits" or "2 tumor" in str(source.entry.get("labels", ""))
    grey, kept = to_grey(resample(hu, roi)), _resample_all(labels, roi)
    return _as_scan(source, grey, kept, spacing_mm, has_tumor=knows_tumors)


def _slice_scan(source: Source, spacing_mm: float) -> Scan:
    """One slice, whose labels are complete; along z it has one voxel, whatever its thickness."""
    path = source.folder / KITS19_SEGMENTATION
    hu, pixel_mm = _read_slice(source.folder / KITS19_IMAGE)
    labels, _ = _read_slice(path)
    _check_values(labels, path, (0, 1, 2))
    if hu.shape != labels.shape:
        raise CaseError(f"{path}: has {labels.shape} pixels, its CT {hu.shape}. Get both again")
    step = spacing_mm / np.asarray(pixel_mm)
    soft = ndimage.gaussian_filter(hu.astype(np.float32), widening(step))
    grey = to_grey(ndimage.zoom(soft, 1 / step, order=1, grid_mode=True, mode="nearest"))
    shares = [
        ndimage.zoom(
            ndimage.gaussian_filter((labels >= v).astype(np.float32), widening(step)), 1 / step, order=1,
            grid_mode=True, mode="nearest",
        )
        for v in (KIDNEY, TUMOR)
    ]  # fmt: skip
    kept = np.add(*[(share > 0.5).astype(np.uint8) for share in shares])
    return _as_scan(source, grey[None], kept[None], spacing_mm, has_tumor=True)


def _read_slice(path: Path) -> tuple[NDArray, tuple[float, float]]:
    """(row, column) of a file of one slice, which `read_ct` refuses as no volume, and the size of a pixel."""
    with reading(path):
        image: Any = nib.load(path)
        stored = np.asanyarray(image.dataobj)  # (slice, row, column), as KiTS stores them
    if stored.ndim != 3 or len(stored) != 1:
        raise CaseError(f"{path}: is {stored.shape}, not one slice (1, row, column). Extract the slice")
    return stored[0], image.header.get_zooms()[1:3]


def _as_scan(
    source: Source, grey: NDArray[np.uint8], labels: NDArray[np.uint8], spacing_mm: float, *, has_tumor: bool
) -> Scan:
    case = source.entry.get("case", source.name)
    return Scan(
        name=source.name,
        case=f"case_{case:05d}" if isinstance(case, int) else str(case),
        role="set_aside" if source.entry.get("role") == "set_aside" else "train",
        grey=grey,
        labels=labels,
        spacing_mm=spacing_mm,
        has_kidney=bool(np.isin(labels, (KIDNEY, TUMOR)).any()),
        has_tumor=has_tumor,
        is_slice="slice" in source.entry,
    )


def _resample_all(labels: NDArray[np.uint8], roi: Roi) -> NDArray[np.uint8]:
    result = resample_labels(np.where(labels == IGNORE, 0, labels).astype(np.int16), roi)
    if (labels == IGNORE).any():
        ignored = resample_labels((labels == IGNORE).astype(np.int16), roi)
        result[(ignored > 0) & (result == 0)] = IGNORE
    return result


def _whole_scan(shape: tuple[int, int, int], spacing: tuple[float, float, float], to_mm: float) -> Roi:
    """An isotropic grid over a whole CT, with the same centre."""
    step = to_mm / np.asarray(spacing)
    size = np.maximum(1, np.round(np.asarray(shape) / step)).astype(int)
    start = (np.asarray(shape) - 1) / 2 - (size - 1) / 2 * step
    return Roi(
        RoiSpec(shape_vox=triple(size.tolist()), spacing_mm=to_mm),
        triple(start.tolist()),
        triple(step.tolist()),
    )


def _label_arrays(labels: NDArray[np.uint8], spacing_mm: tuple[float, float, float]) -> dict[str, NDArray]:
    """The fields of a `LabelMap`: a 2 mm grid around the kidneys."""
    shape, spacing = np.asarray(labels.shape), np.asarray(spacing_mm)
    step = LABEL_SPACING_MM / spacing
    box = ndimage.find_objects((labels > 0).astype(np.uint8))[0]
    low = (np.asarray([side.start for side in box]) - 0.5) - MARGIN_MM / spacing
    high = (np.asarray([side.stop for side in box]) - 0.5) + MARGIN_MM / spacing
    size = np.ceil((high - low) / step).astype(int)
    start = (low + high) / 2 - (size - 1) / 2 * step
    spec = RoiSpec(shape_vox=triple(size.tolist()), spacing_mm=LABEL_SPACING_MM)
    roi = Roi(spec, triple(start.tolist()), triple(step.tolist()))
    return {
        "labels": resample_labels(labels.astype(np.int16), roi),
        "spacing_mm": np.asarray(LABEL_SPACING_MM),
        "first_mm": (start - (shape - 1) / 2) * spacing,
        "scan_mm": shape * spacing,
    }

"""The CT series in a folder of DICOM files, each as one volume."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .dicom_file import PHASES, DicomFile, Kind, Slice, look, read_frames, to_hu
from .preflight import check_claim, check_pointer, is_dicom
from .volume import (
    LPS_TO_RAS,
    MAX_SHEAR_COSINE,
    CaseError,
    Ct,
    NativeGrid,
    allocate,
    checked_affine,
    checked_shape,
    convert_to_int16,
    voxel_warnings,
)

MAX_UNEVEN_STEP = 0.1
"""Distances between slices that differ by more than this part of a slice are worth a warning."""
SAME_MM = 0.01
"""Slices closer than this lie at one place."""
MAX_PASSES, MIN_PASS_SLICES = 8, 3
"""Slices in the order of their numbers that run over the same places so often, and as many each time, are as
many volumes. More often and shorter, and the numbers mean nothing."""
SUFFIX = ".dcm"
DIRECTORY = "DICOMDIR"
"""A medium's table of contents: DICOM itself, but no image."""


@dataclass(frozen=True)
class Study:
    """What a folder's DICOM files are.

    Attributes:
        folder: where they lie.
        series: the slices of each CT series by its UID, in the order of series numbers.
        damaged: by series, why a file of it cannot be used; "" is a file that does not say whose it is.
        has_other_images: images of another modality (MR, say) are among them.
        n_no_ct, n_unreadable: files that are no CT, and files that cannot be read at all.
    """

    folder: Path
    series: dict[str, tuple[Slice, ...]]
    damaged: dict[str, str]
    has_other_images: bool
    n_no_ct: int
    n_unreadable: int

    @property
    def volumes(self) -> list[str]:
        """Series with slices at several places: neither single pictures nor one place watched over time."""
        return [uid for uid in self.series if len(self.places(uid)) > 1]

    def places(self, series: str) -> frozenset[tuple[float, ...]]:
        """Where the slices of a series lie, mm."""
        slices = self.series.get(series, ())
        return frozenset(one.position_mm for one in slices if one.position_mm is not None)

    @property
    def cases(self) -> list[str]:
        """Series to segment; those that are damaged too, since somebody must be told of them."""
        if "" in self.damaged and not self.volumes:
            return [""]
        return [*self.volumes, *(uid for uid in self.damaged if uid and uid not in self.volumes)]

    @property
    def warnings(self) -> list[str]:
        """What is passed over, each a line."""
        lines = []
        if self.n_unreadable:
            lines.append(f"{self.n_unreadable} DICOM files are no images that can be read; passed over")
        if self.n_no_ct:
            lines.append(f"{self.n_no_ct} DICOM files are localisers or no CT; passed over")
        return lines

    @property
    def holds_a_ct(self) -> bool:
        """Whether somebody could have meant this folder to be segmented."""
        return bool(self.series or self.damaged or self.has_other_images or not self.n_no_ct)


def is_slice(path: Path) -> bool:
    """Whether a file may hold slices, by its ending or its first bytes; a table of contents holds none."""
    return path.name.upper() != DIRECTORY and (path.suffix.lower() == SUFFIX or is_dicom(path))


def study(folder: Path) -> Study:
    """What lies in a folder, by the headers of its files. Hidden ones are passed over: half a copy, say."""
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    paths = sorted(path for path in visible if is_slice(path))
    return _study(folder, tuple((path, _stamp(path)) for path in paths))


def _stamp(path: Path) -> tuple[int, ...]:
    """Another one where the file is another."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@lru_cache(maxsize=1)  # a folder's series are read one after the other: their headers once for all
def _study(folder: Path, stamped: tuple[tuple[Path, tuple[int, ...]], ...]) -> Study:
    files = [_look(path) for path, _ in stamped]
    by_series: dict[str, list[DicomFile]] = defaultdict(list)
    damaged: dict[str, str] = {}
    for file in files:
        if file.error is not None:
            damaged.setdefault(file.series, file.error)
        elif file.kind is Kind.CT:
            by_series[file.series].append(file)
    order = sorted(by_series, key=lambda uid: (by_series[uid][0].series_number, uid))
    return Study(
        folder,
        {uid: tuple(one for file in by_series[uid] for one in file.slices) for uid in order},
        damaged,
        any(file.kind is Kind.OTHER_IMAGE for file in files),
        sum(file.kind in (Kind.OTHER_IMAGE, Kind.NO_CT) for file in files),
        sum(file.kind is Kind.UNREADABLE for file in files),
    )


def read(folder: Path, series: str | None = None) -> Ct:
    """One CT series of a folder; `ct.read_ct` tells what it raises.

    Localisers, copies of a slice and what is no CT are passed over with a warning.

    Args:
        folder: where its files lie.
        series: its UID; needed only where there are several.
    """
    found = study(folder)
    slices = found.series[_chosen(found, series)]
    slices, warnings = _without_copies(slices)
    ordered = _in_order(folder, slices)
    _check_one_volume(folder, ordered)
    warnings = (*found.warnings, *warnings, *_gap_warnings(ordered))
    return _read_volume(folder, ordered, warnings)


def _look(path: Path) -> DicomFile:
    if is_dicom(path):
        return look(path)
    try:
        check_pointer(path)
    except CaseError as error:
        return DicomFile(path, Kind.UNREADABLE, error=str(error))
    except OSError:
        pass
    return DicomFile(path, Kind.UNREADABLE)


def _chosen(found: Study, series: str | None) -> str:
    for uid in (series or "", ""):
        if uid in found.damaged or (series is None and found.damaged):
            raise CaseError(found.damaged.get(uid) or next(iter(found.damaged.values())))
    candidates = found.volumes or list(found.series)
    if series is None and len(candidates) == 1:
        return candidates[0]
    if series is not None and series in found.series:
        return series
    detail = f"; {found.n_unreadable} files cannot be read" if found.n_unreadable else ""
    raise CaseError(
        f"{found.folder}: holds {len(candidates)} DICOM series of a CT, not one{detail}. "
        "Put one CT series in a folder"
    )


def _without_copies(slices: Sequence[Slice]) -> tuple[tuple[Slice, ...], tuple[str, ...]]:
    """The slices without those that are there twice: one UID, one place, and the same pixels.

    A UID alone does not make copies, since some exporters give all slices of a series one.
    """
    by_place: dict[object, list[Slice]] = defaultdict(list)
    for one in slices:
        place = (one.file, one.frame) if one.position_mm is None else np.round(one.position_mm, 3).tolist()
        by_place[str((place, one.orientation))].append(one)
    kept: list[Slice] = []
    for together in by_place.values():
        if len(together) > 1:
            together = list({_identity(one): one for one in reversed(together)}.values())
        kept.extend(together)
    warnings = []
    if len(kept) < len(slices):
        warnings.append(f"{len(slices) - len(kept)} slices are there twice; taken once")
    n_shared = len(kept) - len({(one.instance, one.frame) for one in kept})
    if n_shared:
        warnings.append(f"{n_shared} slices have another's SOP instance UID; told apart by their places")
    return tuple(kept), tuple(warnings)


def _identity(one: Slice) -> tuple[object, ...]:
    """What a slice shares with its copies alone; two frames of one file are never copies."""
    frames = read_frames(one.file, one.pixels)
    stored = next(values for frame, values in enumerate(frames) if frame == one.frame)
    return one.instance, one.frame, one.phase, hashlib.sha256(to_hu(stored, one).tobytes()).digest()


def _in_order(folder: Path, slices: Sequence[Slice]) -> list[Slice]:
    """The slices from one end of a straight volume to the other."""
    if len(slices) == 1:
        return list(slices)
    if any(s.position_mm is None or s.orientation is None for s in slices):
        raise CaseError(f"{folder}: slices without position or orientation. Export the series again")
    orientations = np.array([s.orientation for s in slices])
    if np.abs(orientations - orientations[0]).max() > MAX_SHEAR_COSINE:
        raise CaseError(f"{folder}: its slices lie in several orientations. Put one CT series in a folder")
    if len({_size(one) for one in slices}) > 1:
        raise CaseError(f"{folder}: its slices are of several sizes. Put one CT series in a folder")
    normal = _normal(slices[0])
    positions = np.array([s.position_mm for s in slices], dtype=np.float64)
    order = np.argsort(positions @ normal, kind="stable")
    steps = np.diff(positions[order], axis=0)
    steps_mm = np.linalg.norm(steps, axis=1)
    if steps_mm.min() < SAME_MM:
        raise CaseError(
            f"{folder}: several slices lie at one place (two phases, perhaps). Put one CT series in a folder"
        )
    if np.linalg.norm(np.cross(steps / steps_mm[:, None], normal), axis=1).max() > MAX_SHEAR_COSINE:
        raise CaseError(f"{folder}: its slices are tilted (gantry). Resample it on a straight grid first")
    return [slices[i] for i in order]


def _size(one: Slice) -> tuple[object, ...]:
    spacing_mm = [round(mm, 4) for mm in one.spacing_mm or ()]
    return (one.pixels.rows, one.pixels.columns, *spacing_mm)


def _normal(one: Slice) -> NDArray[np.float64]:
    assert one.orientation is not None
    return np.cross(one.orientation[:3], one.orientation[3:])


def _check_one_volume(folder: Path, ordered: Sequence[Slice]) -> None:
    """Refuse two volumes that lie in each other: slice by slice they would look like one with thin slices."""
    differing = [
        name
        for i, name in enumerate(PHASES)
        if _overlap([one.phase[i] for one in ordered])
        or (name == "StackID" and len({one.phase[i] for one in ordered}) > 1 and _gap_warnings(ordered))
    ]
    if _runs_overlap(ordered):
        differing.append("InstanceNumber")
    if differing:
        raise CaseError(
            f"{folder}: slices of several volumes lie in each other (two phases, perhaps; they differ in "
            f"{differing[0]}). Put one CT series in a folder"
        )


def _overlap(values: Sequence[str]) -> bool:
    """Whether slices in order belong to two groups of several slices each, which overlap."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, value in enumerate(values):
        places[value].append(place)
    ends = sorted((found[0], found[-1]) for found in places.values() if len(found) > 1)
    return any(after[0] < before[1] for before, after in pairwise(ends))


def _runs_overlap(ordered: Sequence[Slice]) -> bool:
    """Whether instance numbers count through the same places several times."""
    numbers = [one.number for one in ordered if one.number is not None]
    if len(set(numbers)) < len(ordered):
        return False
    runs: list[list[int]] = []
    for place in np.argsort(numbers).tolist():
        run = runs[-1] if runs else []
        if not run or (len(run) > 1 and (place > run[-1]) != (run[1] > run[0])):
            runs.append([place])
        else:
            run.append(place)
    if not 1 < len(runs) <= MAX_PASSES or min(map(len, runs)) < MIN_PASS_SLICES:
        return False
    ends = sorted((min(run), max(run)) for run in runs)
    return any(after[0] < before[1] for before, after in pairwise(ends))


def _gap_warnings(ordered: Sequence[Slice]) -> list[str]:
    """The slices are taken as evenly spaced, whatever their positions say."""
    if len(ordered) < 3:
        return []
    steps_mm = np.linalg.norm(np.diff([s.position_mm for s in ordered], axis=0), axis=1)
    if np.ptp(steps_mm) <= MAX_UNEVEN_STEP * np.median(steps_mm):
        return []
    return [
        f"slices lie {steps_mm.min():g} to {steps_mm.max():g} mm apart: some may be missing, "
        "and positions and volumes are wrong there"
    ]


def _read_volume(folder: Path, ordered: Sequence[Slice], warnings: tuple[str, ...]) -> Ct:
    native = _grid(folder, ordered)
    check_claim(folder, native.shape, 0, 0)
    canonical, stored = allocate(native)
    by_file: dict[Path, dict[int, int]] = defaultdict(dict)  # frame → place in the volume
    for place, one in enumerate(ordered):
        by_file[one.file][one.frame] = place
    for file, places in by_file.items():
        pixels = ordered[next(iter(places.values()))].pixels
        for frame, values in enumerate(read_frames(file, pixels)):
            if (wanted := places.get(frame)) is not None:
                convert_to_int16(to_hu(values, ordered[wanted]).T, stored[:, :, wanted])
    return Ct(canonical, native, (*warnings, *voxel_warnings(canonical, 0)))


def _grid(folder: Path, ordered: Sequence[Slice]) -> NativeGrid:
    """Stored axes (column, row, slice), as ITK has them."""
    first = ordered[0]
    shape = checked_shape(folder, (first.pixels.columns, first.pixels.rows, len(ordered)))
    if first.orientation is None or first.spacing_mm is None:
        raise CaseError(f"{folder}: slices without orientation or pixel spacing. Export the series again")
    first_mm, last_mm = np.array(first.position_mm), np.array(ordered[-1].position_mm)
    affine = np.eye(4)
    affine[:3, 0] = LPS_TO_RAS * first.orientation[:3] * first.spacing_mm[1]
    affine[:3, 1] = LPS_TO_RAS * first.orientation[3:] * first.spacing_mm[0]
    step_mm = np.linalg.norm(last_mm - first_mm) / (len(ordered) - 1)
    affine[:3, 2] = LPS_TO_RAS * _normal(first) * step_mm
    affine[:3, 3] = LPS_TO_RAS * first_mm
    return NativeGrid(
        shape, checked_affine(folder, affine), dicom_files=tuple(dict.fromkeys(s.file for s in ordered))
    )

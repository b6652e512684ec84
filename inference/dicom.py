"""One DICOM series in a folder, by SimpleITK (GDCM)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from inference.itk import ct_of_image
from inference.volume import MAX_SHEAR_COSINE, CaseError, Ct

MAX_UNEVEN_STEP = 0.1
"""Distances between slices that differ by more than this part of a slice are worth a warning."""
SAME_MM = 0.01
"""Slices closer than this lie at one place."""
IMAGE_TYPE, SOP_INSTANCE, MODALITY = "0008|0008", "0008|0018", "0008|0060"
POSITION, ORIENTATION = "0020|0032", "0020|0037"
LOCALISER = "LOCALIZER"


@dataclass(frozen=True)
class _Slice:
    """One file of a series, by its header.

    Attributes:
        file: its path.
        instance: SOP instance UID; copies of a slice share it.
        modality: CT, MR …
        is_localiser: an overview picture, no slice.
        position_mm: of its first pixel (x, y, z) in LPS; None where the header does not say.
        orientation: directions of its rows and columns, six cosines.
    """

    file: str
    instance: str
    modality: str
    is_localiser: bool
    position_mm: tuple[float, ...] | None
    orientation: tuple[float, ...] | None


def read(folder: Path) -> Ct:
    """The folder's one CT series; `ct.read_ct` tells what it raises.

    Localisers, copies of a slice and series other than CT are passed over with a warning.
    """
    n_dicom_names = sum(path.suffix.lower() == ".dcm" for path in folder.iterdir())
    candidates, warnings, n_files = [], [], 0
    for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)):
        files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid)
        n_files += len(files)
        slices = [_slice(file) for file in files]
        kept = [s for s in slices if s.modality in ("CT", "") and not s.is_localiser]
        if len(kept) < len(slices):
            warnings.append(f"{len(slices) - len(kept)} DICOM files are localisers or no CT; passed over")
        if kept:
            candidates.append(kept)
    if len(candidates) != 1:
        raise CaseError(
            f"{folder}: holds {len(candidates)} DICOM series of a CT, not one. Put one CT series in a folder"
        )
    if n_files < n_dicom_names:
        warnings.append(f"{n_dicom_names - n_files} .dcm files are no readable DICOM images; passed over")
    slices = list({s.instance: s for s in candidates[0]}.values())
    if len(slices) < len(candidates[0]):
        warnings.append(f"{len(candidates[0]) - len(slices)} slices are there twice; taken once")
    warnings.extend(_checked_geometry(folder, slices))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([s.file for s in slices])
    return ct_of_image(folder, reader.Execute(), tuple(warnings))


def _slice(file: str) -> _Slice:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(file)
    reader.ReadImageInformation()

    def text(tag: str) -> str:
        return reader.GetMetaData(tag).strip() if reader.HasMetaDataKey(tag) else ""

    def numbers(tag: str, count: int) -> tuple[float, ...] | None:
        values = tuple(float(value) for value in text(tag).split("\\") if value.strip())
        return values if len(values) == count and np.isfinite(values).all() else None

    return _Slice(
        file,
        text(SOP_INSTANCE) or file,
        text(MODALITY),
        LOCALISER in text(IMAGE_TYPE).upper(),
        numbers(POSITION, 3),
        numbers(ORIENTATION, 6),
    )


def _checked_geometry(folder: Path, slices: Sequence[_Slice]) -> list[str]:
    """Whether the slices make up one straight volume, and warnings.

    ITK takes the slices of a series as evenly spaced along their normal, whatever their headers say.
    """
    if len(slices) == 1:
        return []  # one file may hold all slices
    orientations = [s.orientation for s in slices if s.orientation is not None]
    positions = np.array([s.position_mm for s in slices if s.position_mm is not None])
    if len(positions) < len(slices) or len(orientations) < len(slices):
        raise CaseError(f"{folder}: slices without position or orientation. Export the series again")
    if np.abs(np.subtract(orientations, orientations[0])).max() > MAX_SHEAR_COSINE:
        raise CaseError(f"{folder}: its slices lie in several orientations. Put one CT series in a folder")
    steps: NDArray[np.float64] = np.diff(positions, axis=0)
    steps_mm = np.linalg.norm(steps, axis=1)
    if steps_mm.min() < SAME_MM:
        raise CaseError(
            f"{folder}: several slices lie at one place (two phases, perhaps). Put one CT series in a folder"
        )
    row, column = np.reshape(orientations[0], (2, 3))
    sines = np.linalg.norm(np.cross(steps / steps_mm[:, None], np.cross(row, column)), axis=1)
    if sines.max() > MAX_SHEAR_COSINE:
        raise CaseError(f"{folder}: its slices are tilted (gantry). Resample it on a straight grid first")
    if np.ptp(steps_mm) > MAX_UNEVEN_STEP * np.median(steps_mm):
        return [
            f"slices lie {steps_mm.min():g} to {steps_mm.max():g} mm apart: some may be missing, "
            "and positions and volumes are wrong there"
        ]
    return []

"""One DICOM series in a folder, by SimpleITK (GDCM)."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from inference.itk import ct_of_image
from inference.volume import CaseError, Ct

MAX_UNEVEN_STEP = 0.1
"""Distances between slices that differ by more than this part of a slice are worth a warning."""
POSITION = "0020|0032"


def read(folder: Path) -> Ct:
    """The folder's one series; `ct.read_ct` tells what it raises."""
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        raise CaseError(f"{folder}: holds {len(series)} DICOM series, not one. Put one CT series in a folder")
    reader = sitk.ImageSeriesReader()
    files = reader.GetGDCMSeriesFileNames(str(folder), series[0])
    reader.SetFileNames(files)
    reader.MetaDataDictionaryArrayUpdateOn()
    image = reader.Execute()
    return ct_of_image(folder, image, _gap_warnings(reader, len(files)))


def _gap_warnings(reader: sitk.ImageSeriesReader, n_files: int) -> tuple[str, ...]:
    """ITK takes the slices of a series as evenly spaced, whatever their positions say."""
    positions = [
        [float(number) for number in reader.GetMetaData(k, POSITION).split("\\")]
        for k in range(n_files)
        if reader.HasMetaDataKey(k, POSITION)
    ]
    steps_mm = np.linalg.norm(np.diff(positions, axis=0), axis=1) if len(positions) > 1 else np.ones(1)
    if np.ptp(steps_mm) <= MAX_UNEVEN_STEP * np.median(steps_mm):
        return ()
    return (
        f"slices lie {steps_mm.min():g} to {steps_mm.max():g} mm apart: some may be missing, "
        "and positions and volumes are wrong there",
    )

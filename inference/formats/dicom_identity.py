"""Which study and series a DICOM input is, for reports. No voxel is read."""

from pathlib import Path

import SimpleITK as sitk

from .dicom import DIRECTORY, IMAGE_IO, MODALITY, is_dicom
from .itk import itk_name

UID_TAGS = {
    "study_instance_uid": "0020|000d",
    "series_instance_uid": "0020|000e",
    "frame_of_reference_uid": "0020|0052",
}


def read_uids(source: Path) -> dict[str, str] | None:
    """The UIDs of a folder's first CT image; None for what is no DICOM series."""
    if not source.is_dir():
        return None
    for path in sorted(source.iterdir()):
        if path.name == DIRECTORY or not is_dicom(path):
            continue
        reader = sitk.ImageFileReader()
        reader.SetImageIO(IMAGE_IO)
        reader.SetFileName(itk_name(path))
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            continue
        keys = set(reader.GetMetaDataKeys())
        if MODALITY in keys and reader.GetMetaData(MODALITY).strip() not in ("CT", ""):
            continue
        return {name: reader.GetMetaData(tag).strip("\0 ") for name, tag in UID_TAGS.items() if tag in keys}
    return None

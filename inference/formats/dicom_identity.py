"""Which study and series a DICOM input is, for reports. No voxel is read."""

from collections.abc import Sequence
from pathlib import Path

from .dicom import DIRECTORY, IMAGE_IO, MODALITY, is_dicom

UID_TAGS = {
    "study_instance_uid": "0020|000d",
    "series_instance_uid": "0020|000e",
    "frame_of_reference_uid": "0020|0052",
}


def read_uids(source: Path, files: Sequence[Path] = ()) -> dict[str, str] | None:
    """The UIDs of a series; None for what is no DICOM series.

    Args:
        source: the series' folder.
        files: its own files, where that is known; else the folder's first CT image is taken.
    """
    if not source.is_dir():
        return None
    import SimpleITK as sitk  # only where there is DICOM

    for path in files or sorted(source.iterdir()):
        if path.name == DIRECTORY or not is_dicom(path):
            continue
        reader = sitk.ImageFileReader()
        reader.SetImageIO(IMAGE_IO)
        reader.SetFileName(str(path))
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            continue
        keys = set(reader.GetMetaDataKeys())
        if MODALITY in keys and reader.GetMetaData(MODALITY).strip() not in ("CT", ""):
            continue
        return {name: reader.GetMetaData(tag).strip("\0 ") for name, tag in UID_TAGS.items() if tag in keys}
    return None

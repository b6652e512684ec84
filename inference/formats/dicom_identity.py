"""Which study and series a DICOM input is, for reports. No voxel is read."""

from collections.abc import Sequence
from pathlib import Path

from .preflight import open_dicom

UIDS = {
    "study_instance_uid": "StudyInstanceUID",
    "series_instance_uid": "SeriesInstanceUID",
    "frame_of_reference_uid": "FrameOfReferenceUID",
}


def read_uids(files: Sequence[Path]) -> dict[str, str] | None:
    """The UIDs of a series; None where there is none.

    Args:
        files: the series' own, as `NativeGrid.dicom_files` has them.
    """
    if not files:
        return None
    try:
        with open_dicom(files[0], tuple(UIDS.values())) as (header, _):
            return {name: str(header.get(keyword)) for name, keyword in UIDS.items() if header.get(keyword)}
    except Exception:  # whatever pydicom raises; the file was read before, so it has gone or changed
        return None

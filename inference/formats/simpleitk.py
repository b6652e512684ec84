"""SimpleITK, imported when a file first needs it: NIfTI does without, and starts sooner.

Used as `from . import simpleitk as sitk`: names of this module are SimpleITK's.
"""

from typing import Any

from .volume import CaseError


def __getattr__(name: str) -> Any:
    if name.startswith("__"):  # Python's own questions about a module
        raise AttributeError(name)
    try:
        import SimpleITK as sitk
    except ModuleNotFoundError as error:
        raise CaseError(
            "MetaImage, NRRD and DICOM need SimpleITK, which is not installed. Install it, or give NIfTI"
        ) from error
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # lines of C++ among those of our log
    return getattr(sitk, name)

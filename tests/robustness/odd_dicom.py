"""DICOM as scanners, archives and anonymisers write it: what is odd about it and what it should give.

Each function writes files into a folder; `ODD` lists them with their right answers (`corpus` explains those).
All but those that fail hold the usual abdomen.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import (
    BasicTextSRStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from inference.geometry import Vector
from tests.helpers import ABDOMEN_SPACING_MM, abdomen, save_dicom_series

Make = Callable[[Path], object]
ODD: list[tuple[str, str, str, Make]] = []
"""Name, right answer, a part of what is said, and what writes it."""
SERIES, OTHER_SERIES = "1.2.826.0.1.3680043.2.1125.1", "1.2.826.0.1.3680043.2.1125.2"
PIXELS = b"\xe0\x7f\x10\x00"


def odd(name: str, expected: str, says: str = "") -> Callable[[Make], Make]:
    """Register a writer."""

    def register(make: Make) -> Make:
        ODD.append((name, expected, says, make))
        return make

    return register


def save_series(folder: Path, **changes: Any) -> Path:
    """The usual abdomen, a file a slice."""
    return save_dicom_series(folder, abdomen(), spacing_mm=ABDOMEN_SPACING_MM, **changes)


def change(folder: Path, edit: Callable[[int, Dataset], object], stem: str = "IM") -> None:
    """Edit each file's data set; slices come from the lowest one on."""
    found = [(path, pydicom.dcmread(path)) for path in folder.glob(f"{stem}*.dcm")]
    found.sort(key=lambda item: float(item[1].ImagePositionPatient[2]))
    for k, (path, dataset) in enumerate(found):
        edit(k, dataset)
        dataset.save_as(path)


def rewrite(folder: Path, edit: Callable[[bytes], bytes], *, only_every: int = 1) -> None:
    """Edit each file's bytes."""
    for path in sorted(folder.iterdir())[::only_every]:
        path.write_bytes(edit(path.read_bytes()))


def save_picture(folder: Path, name: str, sop_class: str = SecondaryCaptureImageStorage, **tags: Any) -> None:
    """A page that has a series of its own and no place in the patient: a screenshot, say."""
    page = Dataset()
    page.file_meta = FileMetaDataset()
    page.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    page.SOPClassUID = page.file_meta.MediaStorageSOPClassUID = sop_class
    page.SOPInstanceUID = page.file_meta.MediaStorageSOPInstanceUID = f"1.2.840.{abs(hash(name)) % 10**9}"
    page.SeriesInstanceUID, page.Modality, page.SeriesNumber = "1.2.840.77", "CT", 999
    if sop_class != BasicTextSRStorage:
        page.Rows, page.Columns, page.SamplesPerPixel = 40, 48, 1
        page.BitsAllocated, page.BitsStored, page.HighBit, page.PixelRepresentation = 8, 8, 7, 0
        page.PhotometricInterpretation, page.PixelData = "MONOCHROME2", bytes(40 * 48)
    for keyword, value in tags.items():
        setattr(page, keyword, value)
    folder.mkdir(parents=True, exist_ok=True)
    page.save_as(folder / name, enforce_file_format=True)


# ------------------------------------------------------------------------------------------- several frames


def save_enhanced(
    path: Path,
    order: list[int],
    *,
    hu: NDArray[np.int16] | None = None,
    frame_tags: Callable[[int, Dataset], object] = lambda frame, group: None,
    spacing_mm: Vector = ABDOMEN_SPACING_MM,
    syntax: str = ExplicitVRLittleEndian,
    shift_mm: float = 0.0,
    is_copied_on_top: bool = False,
) -> Path:
    """An enhanced CT with these slices, in this order, whose spacing and place are in its groups alone."""
    values = abdomen() if hu is None else hu
    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f"{SERIES}.{order[0] + 1}"
    one.SeriesInstanceUID, one.StudyInstanceUID, one.Modality = SERIES, f"{SERIES}.9", "CT"
    one.Rows, one.Columns, one.SamplesPerPixel = *values.shape[1:], 1
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
    one.PhotometricInterpretation, one.NumberOfFrames = "MONOCHROME2", len(order)
    if is_copied_on_top:
        one.ImagePositionPatient, one.PixelSpacing, one.SliceThickness = [0, 0, 0], [1, 1], 1
    shared = Dataset()
    shared.PixelMeasuresSequence = Sequence([_group(PixelSpacing=list(spacing_mm[1:]))])
    shared.PlaneOrientationSequence = Sequence([_group(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])])
    shared.PixelValueTransformationSequence = Sequence([_group(RescaleSlope=1, RescaleIntercept=-1024)])
    one.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for frame, k in enumerate(order):
        group = Dataset()
        place = [-11.0, -22.0, 33.0 + k * spacing_mm[0] + shift_mm]
        group.PlanePositionSequence = Sequence([_group(ImagePositionPatient=place)])
        group.FrameContentSequence = Sequence([Dataset()])
        frame_tags(frame, group)
        groups.append(group)
    one.PerFrameFunctionalGroupsSequence = Sequence(groups)
    one.PixelData = (values[order] + 1024).astype("<u2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    if syntax != ExplicitVRLittleEndian:
        one.compress(syntax, encoding_plugin="")
    one.save_as(path, enforce_file_format=True)
    return path


def _group(**values: Any) -> Dataset:
    group = Dataset()
    for keyword, value in values.items():
        setattr(group, keyword, value)
    return group


N = abdomen().shape[0]
SHUFFLED = np.random.default_rng(3).permutation(N).tolist()

odd("enhanced, frames from the top down", "map")(lambda f: save_enhanced(f / "IM1", [*range(N)][::-1]))
odd("enhanced, frames shuffled", "map")(lambda f: save_enhanced(f / "IM1", SHUFFLED))
odd("enhanced, frames shuffled, RLE", "map")(lambda f: save_enhanced(f / "IM1", SHUFFLED, syntax=RLELossless))
odd("enhanced, another place and spacing at the file's top", "map")(
    lambda f: save_enhanced(f / "IM1", SHUFFLED, is_copied_on_top=True)
)


@odd("enhanced, a series in two files", "map")
def _concatenated(folder: Path) -> None:
    save_enhanced(folder / "IM1", [*range(10, N)])
    save_enhanced(folder / "IM2", [*range(10)])


@odd("enhanced, two time points at the same places", "fails", "two phases")
def _time_points(folder: Path) -> None:
    def tag(frame: int, group: Dataset) -> None:
        group.FrameContentSequence[0].TemporalPositionIndex = 1 + frame // N

    save_enhanced(folder / "IM1", [*range(N)] * 2, frame_tags=tag)


@odd("enhanced, two stacks in each other", "fails", "two phases")
def _stacks(folder: Path) -> None:
    def tag(frame: int, group: Dataset) -> None:
        group.FrameContentSequence[0].StackID = str(1 + frame // N)
        if frame >= N:
            group.PlanePositionSequence[0].ImagePositionPatient[2] += 2

    save_enhanced(folder / "IM1", [*range(N)] * 2, frame_tags=tag)


@odd("enhanced, two files with a phase each", "fails", "two phases")
def _enhanced_phases(folder: Path) -> None:
    def tag(frame: int, group: Dataset) -> None:
        group.FrameContentSequence[0].FrameAcquisitionNumber = 2

    save_enhanced(folder / "IM1", [*range(N)])
    save_enhanced(folder / "IM2", [*range(N)], frame_tags=tag, shift_mm=1.5)


@odd("enhanced, frames fewer than it says", "fails", "Copy it again")
def _short_enhanced(folder: Path) -> None:
    path = save_enhanced(folder / "IM1.dcm", [*range(N)])
    dataset = pydicom.dcmread(path)
    dataset.PixelData = dataset.PixelData[:-2000]
    dataset.save_as(path)


# ---------------------------------------------------------------------------------------------- pixel values


def _monochrome1(folder: Path, *, is_signed: bool, syntax: str | None = None) -> None:
    def edit(k: int, one: Dataset) -> None:
        one.PhotometricInterpretation = "MONOCHROME1"
        stored = np.frombuffer(one.PixelData, "<u2" if not one.PixelRepresentation else "<i2").astype(int)
        hu = stored * float(one.RescaleSlope) + float(one.RescaleIntercept)
        one.PixelRepresentation, one.RescaleIntercept = int(is_signed), 0 if is_signed else -1024
        one.PixelData = (hu if is_signed else hu + 1024).astype("<i2" if is_signed else "<u2").tobytes()
        if syntax is not None:
            one.compress(syntax, encoding_plugin="")

    change(save_series(folder), edit)


odd("MONOCHROME1, signed", "map")(lambda f: _monochrome1(f, is_signed=True))
odd("MONOCHROME1, unsigned", "map")(lambda f: _monochrome1(f, is_signed=False))
odd("MONOCHROME1, RLE", "map")(lambda f: _monochrome1(f, is_signed=True, syntax=RLELossless))


@odd("twelve bits, an overlay in the rest", "map")
def _overlay(folder: Path) -> None:
    def edit(k: int, one: Dataset) -> None:
        stored = np.frombuffer(one.PixelData, "<u2" if not one.PixelRepresentation else "<i2").astype(int)
        hu = stored * float(one.RescaleSlope) + float(one.RescaleIntercept)
        one.BitsStored, one.HighBit, one.PixelRepresentation, one.RescaleIntercept = 12, 11, 0, -1024
        one.PixelData = ((hu + 1024).astype("<u2") | 0x8000).tobytes()

    change(save_series(folder), edit)


@odd("another slope and intercept in each slice", "map")
def _own_slopes(folder: Path) -> None:
    def edit(k: int, one: Dataset) -> None:
        stored = np.frombuffer(one.PixelData, "<u2" if not one.PixelRepresentation else "<i2").astype(int)
        hu = stored * float(one.RescaleSlope) + float(one.RescaleIntercept)
        one.PixelRepresentation, one.RescaleSlope, one.RescaleIntercept = 1, 0.5, -k
        one.PixelData = np.rint((hu + k) / 0.5).astype("<i2").tobytes()

    change(save_series(folder), edit)


# --------------------------------------------------------------------------------------------------- encoding


def _without_preamble(data: bytes) -> bytes:
    return data[128 + 4 :]


def _transcode(folder: Path, syntax: str) -> None:
    for path in save_series(folder).iterdir():
        one = pydicom.dcmread(path)
        if syntax == ExplicitVRBigEndian:
            one.PixelData = np.frombuffer(one.PixelData, "<u2").astype(">u2").tobytes()
        one.file_meta.TransferSyntaxUID = syntax
        implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
        pydicom.dcmwrite(path, one, implicit_vr=implicit, little_endian=little, force_encoding=True)


odd("implicit VR", "map")(lambda f: _transcode(f, ImplicitVRLittleEndian))
odd("big-endian", "map")(lambda f: _transcode(f, ExplicitVRBigEndian))
odd("deflated", "map")(lambda f: _transcode(f, DeflatedExplicitVRLittleEndian))
odd("no preamble", "map")(lambda f: rewrite(save_series(f), _without_preamble))
odd("every third file without preamble", "map")(
    lambda f: rewrite(save_series(f), _without_preamble, only_every=3)
)


@odd("neither preamble nor file meta information", "map")
def _bare(folder: Path) -> None:
    _transcode(folder, ImplicitVRLittleEndian)
    rewrite(folder, lambda data: data[data.index(b"\x08\x00\x16\x00\x1a") :])


def _unknown(folder: Path, *, is_undefined: bool) -> None:
    """A private sequence whose type an archive has forgotten; inside it is implicit VR (PS3.5, 6.2.2)."""
    item = b"\x11\x00\x10\x10\x04\x00\x00\x00abcd"
    value = b"\xfe\xff\x00\xe0" + len(item).to_bytes(4, "little") + item

    def edit(k: int, one: Dataset) -> None:
        one.add_new(0x00110010, "LO", "SOMEBODY")
        one.add_new(0x00111001, "UN", value)
        one[0x00111001].is_undefined_length = is_undefined

    change(save_series(folder), edit)


odd("private sequence as UN", "map")(lambda f: _unknown(f, is_undefined=False))
odd("private sequence as UN of undefined length", "map")(lambda f: _unknown(f, is_undefined=True))
odd("zeros behind the data set", "map")(lambda f: rewrite(save_series(f), lambda data: data + bytes(512)))
odd("a line break behind the data set", "map")(lambda f: rewrite(save_series(f), lambda data: data + b"\r\n"))
odd("rubbish behind the data set", "map")(lambda f: rewrite(save_series(f), lambda data: data + b"\xff" * 99))


# --------------------------------------------------------------------------------------------------- identity


def _set(**values: Any) -> Callable[[int, Dataset], None]:
    def edit(k: int, one: Dataset) -> None:
        for keyword, value in values.items():
            setattr(one, keyword, value(k) if callable(value) else value)

    return edit


odd("one SOP instance UID for all", "warned", "told apart by their places")(
    lambda f: change(save_series(f), _set(SOPInstanceUID="1.2.3"))
)
odd("one SOP instance UID for each two slices", "warned", "told apart by their places")(
    lambda f: change(save_series(f), _set(SOPInstanceUID=lambda k: f"1.2.3.{k // 2}"))
)
odd("one instance number for all", "map")(lambda f: change(save_series(f), _set(InstanceNumber=1)))
odd("instance numbers shuffled", "map")(
    lambda f: change(save_series(f), _set(InstanceNumber=lambda k: SHUFFLED[k] + 1))
)
odd("a time of its own in each slice", "map")(
    lambda f: change(save_series(f), _set(AcquisitionTime=lambda k: f"1200{k:02d}.5"))
)


@odd("one SOP instance UID, two phases at the same places", "fails", "two phases")
def _same_uid_phases(folder: Path) -> None:
    save_series(folder)
    hu = abdomen()
    hu[hu > 0] += 60
    save_dicom_series(folder, hu, spacing_mm=ABDOMEN_SPACING_MM, stem="late")


def _text_for(keyword: str, vr: str, text: bytes) -> Make:
    """A number that is none: pydicom writes no such thing of its own."""

    def edit(k: int, one: Dataset) -> None:
        one[keyword] = RawDataElement(Tag(keyword), vr, len(text), text, 0, False, True)

    return lambda folder: change(save_series(folder), edit)


odd("text for instance number", "map")(_text_for("InstanceNumber", "IS", b"ANON"))
odd("text for series number", "map")(_text_for("SeriesNumber", "IS", b"ANON"))
odd("pixel spacing with decimal commas", "fails", "without orientation or pixel spacing")(
    _text_for("PixelSpacing", "DS", b"0,75\\0,75 ")
)


def _interleaved(folder: Path, first: dict[str, Any], second: dict[str, Any], shift_mm: float = 1.5) -> None:
    """The same patient twice in one series, the second time a little higher."""
    save_series(folder)
    save_series(folder, stem="late", origin_mm=(-11.0, -22.0, 33.0 + shift_mm))
    change(folder, _set(SOPInstanceUID=lambda k: f"1.2.4.{k}", **second), stem="late")
    change(folder, _set(**first))


for what, first, second in (
    ("acquisition numbers", {"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}),
    ("temporal positions", {"TemporalPositionIdentifier": 1}, {"TemporalPositionIdentifier": 2}),
    ("acquisition times", {"AcquisitionTime": "120000"}, {"AcquisitionTime": "120130"}),
    ("kernels", {"ConvolutionKernel": "B30f"}, {"ConvolutionKernel": "B70f"}),
    ("instance numbers alone", {}, {"InstanceNumber": lambda k: N + k + 1}),
):
    odd(f"two volumes in each other, by {what}", "fails", "two phases")(
        lambda f, first=first, second=second: _interleaved(f, first, second)
    )
odd("two volumes half a slice apart, by acquisition numbers", "fails", "two phases")(
    lambda f: _interleaved(f, {"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}, ABDOMEN_SPACING_MM[0] / 2)
)
odd("two acquisitions one above the other", "map")(
    lambda f: change(save_series(f), _set(AcquisitionNumber=lambda k: 1 + k // 12))
)


# ------------------------------------------------------------------------------------------- what lies beside


def _beside(folder: Path, name: str, sop_class: str = SecondaryCaptureImageStorage, **tags: Any) -> None:
    save_series(folder)
    save_picture(folder, name, sop_class, **tags)


odd("a dose page beside", "warned", "localisers or no CT; passed over")(lambda f: _beside(f, "dose.dcm"))
odd("a dose page in the CT's own series", "warned", "localisers or no CT; passed over")(
    lambda f: _beside(f, "dose.dcm", SeriesInstanceUID=SERIES)
)
odd("a coloured page beside", "warned", "localisers or no CT; passed over")(
    lambda f: _beside(
        f, "page", SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0,
        PixelData=bytes(3 * 40 * 48),
    )
)  # fmt: skip
odd("a report beside", "warned", "localisers or no CT; passed over")(
    lambda f: _beside(f, "sr", BasicTextSRStorage, Modality="SR")
)
odd("a page that calls itself a CT beside", "map")(lambda f: _beside(f, "page", CTImageStorage))


@odd("hidden files of a copy under way", "map")
def _hidden(folder: Path) -> None:
    slices = sorted(save_series(folder).iterdir())
    (folder / f".{slices[3].name}.aB3x9Z").write_bytes(slices[3].read_bytes()[:1500])  # rsync's
    for path in slices:
        (folder / f"._{path.name}").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        ")


@odd("a contents table called dicomdir", "map")
def _lower_case_directory(folder: Path) -> None:
    save_series(folder)
    save_picture(folder, "dicomdir", "1.2.840.10008.1.3.10")


@odd("a contents table under another name", "map")
def _renamed_directory(folder: Path) -> None:
    save_series(folder)
    save_picture(folder, "index.dcm", "1.2.840.10008.1.3.10")


@odd("one place watched over time beside", "map")
def _monitoring(folder: Path) -> None:
    save_series(folder)
    hu = np.repeat(abdomen()[12:13], 5, axis=0)
    save_dicom_series(folder, hu, stem="bolus", series_uid=OTHER_SERIES, z_mm=[90.0] * 5)

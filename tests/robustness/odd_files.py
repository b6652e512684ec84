"""Layouts of data sets, endings and encodings of files, values that are no HU: each with its right answer.

Each function fills an input folder and tells which label map it should give, and which further ones; `ODD`
lists them. All label maps but an empty one are of the usual abdomen.
"""

import bz2
import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from tests.helpers import (
    ABDOMEN_SPACING_MM,
    KIDNEY_HU,
    abdomen,
    canonical_affine,
    rotation,
    save_dicom_series,
    save_nifti,
)

Maps = tuple[str | None, set[str]]
"""The odd input's label map, and further ones."""
Make = Callable[[Path], Maps]
ODD: list[tuple[str, str, str, str, Make]] = []
"""Area, name, right answer, a part of what is said, and what writes it."""
AFFINE = canonical_affine(ABDOMEN_SPACING_MM, (12.0, -34.0, 56.0))
QUATERNION_B = 256
"""Where a NIfTI-1 header has quatern_b, c and d."""


def odd(area: str, name: str, expected: str, says: str = "") -> Callable[[Make], Make]:
    """Register a writer."""

    def register(make: Make) -> Make:
        ODD.append((area, name, expected, says, make))
        return make

    return register


def save(path: Path, hu: NDArray | None = None) -> Path:
    """The usual abdomen as NIfTI."""
    return save_nifti(path, abdomen() if hu is None else hu, AFFINE)


def labels() -> NDArray[np.uint8]:
    """A label map of it."""
    return (abdomen() >= KIDNEY_HU).astype(np.uint8)


def image() -> sitk.Image:
    """The abdomen by SimpleITK."""
    made = sitk.GetImageFromArray(abdomen())
    made.SetSpacing(ABDOMEN_SPACING_MM[::-1])
    return made


# ---------------------------------------------------------------------------------------------------- layouts


def _numbered(names: dict[str, str]) -> Make:
    def make(inputs: Path) -> Maps:
        for name in names:
            save(inputs / name)
        first, *others = names.values()
        return first, set(others)

    return make


def _same(*names: str) -> Make:
    return _numbered({name: name for name in names})


odd("layouts", "case numbers 0000 to 0002", "map")(
    _same("patient_0000.nii.gz", "patient_0001.nii.gz", "patient_0002.nii.gz")
)
odd("layouts", "case numbers 0000 and 0007 in a nested folder", "map")(
    _same("ward/a/ct_0000.nii", "ward/a/ct_0007.nii")
)
odd("layouts", "case numbers of several patients, one of them alone", "map")(
    _same("ann_0000.nii", "ann_0001.nii", "bob_0000.nii")
)
odd("layouts", "nnU-Net's imagesTs", "map")(
    _numbered({"imagesTs/a_0000.nii.gz": "a.nii.gz", "imagesTs/b_0000.nii.gz": "b.nii.gz"})
)
odd("layouts", "nnU-Net's names in another folder", "map")(
    _numbered({"site/a_0000.nii.gz": "site/a.nii.gz", "other/a_0000.nii.gz": "other/a.nii.gz"})
)


def _case(image_name: str, output: str, *label_names: str) -> Make:
    def make(inputs: Path) -> Maps:
        save(inputs / image_name)
        for name in label_names:
            save(inputs / name, labels())
        return output, set()

    return make


for name, one in {
    "KiTS23's case folder": _case(
        *("case_00007/imaging.nii.gz", "prediction_00007.nii.gz", "case_00007/segmentation.nii.gz"),
        "case_00007/instances/kidney_instance-1_annotation-1.nii.gz",
        "case_00007/instances/tumor_instance-1_annotation-1.nii.gz",
    ),
    "KiTS21's case folder": _case(
        *("case_00007/imaging.nii.gz", "prediction_00007.nii.gz"),
        *(f"case_00007/aggregated_{how}_seg.nii.gz" for how in ("AND", "OR", "MAJ")),
        "case_00007/segmentations/kidney_instance-1_annotation-2.nii.gz",
    ),
    "KiTS23's case folder, label maps two folders down": _case(
        *("d/case_00008/imaging.nii.gz", "prediction_00008.nii.gz", "d/case_00008/instances/a/b.nii.gz")
    ),
    "TotalSegmentator's case folder": _case(
        *("s0001/ct.nii.gz", "s0001/ct.nii.gz", "s0001/segmentations/liver.nii.gz"),
        "s0001/segmentations/kidney_left.nii.gz",
    ),
    "TotalSegmentator's folder of cases": _case(
        *("set/s0001/ct.nii.gz", "set/s0001/ct.nii.gz", "set/s0001/segmentations/spleen.nii.gz")
    ),
    "a decathlon's imagesTr beside labelsTr": _case(
        "imagesTr/kits_1.nii.gz", "imagesTr/kits_1.nii.gz", "labelsTr/kits_1.nii.gz"
    ),
}.items():
    odd("layouts", name, "map")(one)


@odd("layouts", "a KiTS case folder within another", "map")
def _nested_case(inputs: Path) -> Maps:
    save(inputs / "case_1" / "imaging.nii.gz")
    save(inputs / "case_1" / "case_2" / "imaging.nii.gz")
    return "prediction_1.nii.gz", {"prediction_2.nii.gz"}


def _earlier_map(name: str, dtype: str) -> Make:
    def make(inputs: Path) -> Maps:
        empty = np.zeros(abdomen().shape, dtype)
        if name.endswith(".mha"):
            (inputs / name).parent.mkdir(parents=True)
            sitk.WriteImage(sitk.GetImageFromArray(empty), str(inputs / name), useCompression=True)
        else:
            save(inputs / name, empty)
        return name, set()

    return make


for name, dtype in (
    ("earlier/ct_1.nii.gz", "uint8"),
    ("a/b/c.mha", "uint8"),
    ("sub/i.nii", "int16"),
    ("f.nii", "f8"),
):
    odd("layouts", f"an empty label map of an earlier run ({name}, {dtype})", "fails", "an empty label map")(
        _earlier_map(name, dtype)
    )


@odd("layouts", "slices beside an image file", "map")
def _slices_beside(inputs: Path) -> Maps:
    save_dicom_series(inputs / "both", abdomen(), spacing_mm=ABDOMEN_SPACING_MM)
    save(inputs / "both" / "converted.nii.gz")
    return "both/converted.nii.gz", set()


# ----------------------------------------------------------------------------------------- endings, encodings


def _renamed(name: str, output: str) -> Make:
    def make(inputs: Path) -> Maps:
        (inputs / output).parent.mkdir(parents=True, exist_ok=True)
        if output.endswith((".mha", ".nrrd")):
            sitk.WriteImage(image(), str(inputs / output))
        else:
            save(inputs / output)
        (inputs / output).rename(inputs / name)
        return output, set()

    return make


for name, output in (
    ("A.NII.GZ", "A.nii.gz"),
    ("b.Nii", "b.nii"),
    ("c.MHA", "c.mha"),
    ("d.Nrrd", "d.nrrd"),
):
    odd("endings", f"called {name}", "map")(_renamed(name, output))


def _detached(*, is_packed: bool) -> Make:
    def make(inputs: Path) -> Maps:
        sitk.WriteImage(image(), str(inputs / "odd.nhdr"), useCompression=is_packed)
        return "odd.nhdr", set()

    return make


odd("endings", ".nhdr with .raw", "map")(_detached(is_packed=False))
odd("endings", ".nhdr with .raw.gz", "map")(_detached(is_packed=True))


@odd("endings", ".nhdr that points out of its folder", "fails", "its voxels are in")
def _far_nhdr(inputs: Path) -> Maps:
    sitk.WriteImage(image(), str(inputs / "odd.nhdr"))
    text = (inputs / "odd.nhdr").read_bytes()
    (inputs / "odd.nhdr").write_bytes(text.replace(b"odd.raw", b"../odd.raw"))
    return "odd.nhdr", set()


def _not_read(*names: str) -> Make:
    def make(inputs: Path) -> Maps:
        content = gzip.decompress(save(inputs / "packed.nii.gz").read_bytes())
        (inputs / "packed.nii.gz").unlink()
        for name in names:
            if name.endswith(".bz2"):
                (inputs / name).write_bytes(bz2.compress(content))
            elif name.endswith(".zip"):
                with zipfile.ZipFile(inputs / name, "w") as archive:
                    archive.writestr("ct.nii", content)
            else:
                (inputs / name).write_bytes(content)
        return None, set()

    return make


for names in (("a.nii.bz2",), ("a.zip", "b.nii.zip"), ("a.hdr", "a.img"), ("a.mgz",), ("a.tar.gz",)):
    odd("endings", f"{' and '.join(names)}", "passed over", names[0])(_not_read(*names))


def _as_text(name: str) -> Make:
    """Numbers written out, as some tools of MRI labs do."""

    def make(inputs: Path) -> Maps:
        path = inputs / name
        sitk.WriteImage(image(), str(path), useCompression=False)
        old = path.read_bytes()
        end = old.index(b"\n\n") + 2 if name.endswith(".nrrd") else old.index(b"LOCAL\n") + 6
        head = old[:end].replace(b"encoding: raw", b"encoding: ascii")
        head = head.replace(b"BinaryData = True", b"BinaryData = False")
        rows = (b" ".join(b"%d" % v for v in row) for row in abdomen().reshape(-1, 48))
        path.write_bytes(head + b"\n".join(rows) + b"\n")
        return name, set()

    return make


odd("endings", "ASCII NRRD", "map")(_as_text("odd.nrrd"))
odd("endings", "ASCII MetaImage", "map")(_as_text("odd.mha"))


@odd("endings", "ASCII NRRD cut short", "fails", "numbers for")
def _cut_text(inputs: Path) -> Maps:
    made = _as_text("odd.nrrd")(inputs)
    path = inputs / "odd.nrrd"
    path.write_bytes(path.read_bytes()[:-10])  # two numbers and a half
    return made


@odd("endings", "a git-LFS pointer in place of a .raw", "fails", "a git-LFS pointer")
def _raw_pointer(inputs: Path) -> Maps:
    sitk.WriteImage(image(), str(inputs / "odd.mhd"))
    (inputs / "odd.raw").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    return "odd.mhd", set()


def _header_only(name: str, head: str) -> Make:
    def make(inputs: Path) -> Maps:
        (inputs / name).write_bytes(head.encode() + abdomen().tobytes())
        return name, set()

    return make


NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 48 40 24\nendian: little\nencoding: raw\n{}\n\n"
MHA = "NDims = 3\nDimSize = 48 40 24\n{}\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
AXES = "space directions: (2.5,0,0) (0,3,0) (0,0,5)\nspace origin: (0,0,0)"
LEFT_AND_RIGHT = "left and right are a guess"

odd("headers", "a NRRD without a space", "warned", LEFT_AND_RIGHT)(
    _header_only("odd.nrrd", NRRD.format("spacings: 2.5 3 5"))
)
odd("headers", "a NRRD in the scanner's space", "warned", LEFT_AND_RIGHT)(
    _header_only("odd.nrrd", NRRD.format(f"space: scanner-xyz\n{AXES}"))
)
odd("headers", "a NRRD in centimetres", "fails", "its header is in cm")(
    _header_only("odd.nrrd", NRRD.format(f'space: LPS\nspace units: "cm" "cm" "cm"\n{AXES}'))
)
odd("headers", "a NRRD in millimetres", "map")(
    _header_only("odd.nrrd", NRRD.format(f'space: LPS\nspace units: "mm" "mm" "mm"\n{AXES}'))
)
odd("headers", "a MetaImage without axes", "warned", LEFT_AND_RIGHT)(
    _header_only("odd.mha", MHA.format("ElementSpacing = 2.5 3 5"))
)


# ------------------------------------------------------------------------------------------------ quaternions


def _quaternion(excess: float, *, has_sform: bool, degrees: tuple[float, float, float]) -> Make:
    def make(inputs: Path) -> Maps:
        affine = rotation(*degrees) @ AFFINE
        made = nib.Nifti1Image(abdomen(), affine)
        made.set_qform(affine, 1)
        made.set_sform(affine if has_sform else None, 1 if has_sform else 0)
        path = inputs / "odd.nii"
        nib.save(made, path)
        data = bytearray(path.read_bytes())
        bcd = np.frombuffer(bytes(data[QUATERNION_B : QUATERNION_B + 12]), "<f4").astype(float)
        bcd *= (1 + excess) / np.linalg.norm(bcd)
        data[QUATERNION_B : QUATERNION_B + 12] = bcd.astype("<f4").tobytes()
        path.write_bytes(data)
        return "odd.nii", set()

    return make


HALF_TURN = (0.0, 0.0, 0.0)
"""The canonical axes are half a turn from RAS: their quaternion has a first quarter of 0."""
odd("headers", "a quaternion 1e-6 too long, alone", "map")(
    _quaternion(1e-6, has_sform=False, degrees=HALF_TURN)
)
odd("headers", "a quaternion 1e-4 too long, alone", "map")(
    _quaternion(1e-4, has_sform=False, degrees=HALF_TURN)
)
odd("headers", "a quaternion 1e-6 too long beside a good sform", "map")(
    _quaternion(1e-6, has_sform=True, degrees=HALF_TURN)
)
odd("headers", "a quaternion half too long beside a good sform", "warned", "the qform is no rotation")(
    _quaternion(0.5, has_sform=True, degrees=HALF_TURN)
)
odd("headers", "a quaternion half too long, alone", "fails", "cannot be read")(
    _quaternion(0.5, has_sform=False, degrees=HALF_TURN)
)


# ----------------------------------------------------------------------------------------------------- values


def _values(hu: NDArray) -> Make:
    def make(inputs: Path) -> Maps:
        save(inputs / "odd.nii", hu)
        return "odd.nii", set()

    return make


def _patient() -> NDArray[np.int16]:
    """The abdomen in a round field of view: a patient in air, with noise."""
    rng = np.random.default_rng(1)
    hu = abdomen().astype(float)
    y, x = np.indices(hu.shape[1:])
    hu[:, ((y - 20) / 18) ** 2 + ((x - 24) / 22) ** 2 > 1] = -1000
    return np.rint(hu + rng.normal(0, 8, hu.shape)).astype(np.int16)


def _outside() -> NDArray[np.bool_]:
    """Corners that the scanner fills in."""
    y, x = np.indices(abdomen().shape[1:])
    return np.broadcast_to(((y - 20) / 20) ** 2 + ((x - 24) / 24) ** 2 > 1.1, abdomen().shape)


def _with_padding(hu: NDArray, value: int) -> NDArray:
    return np.where(_outside(), value, hu).astype(hu.dtype)


for offset, padding in ((1024, -2000), (1000, -1024), (1024, -1), (1000, -3024), (1024, -32768)):
    odd("voxels", f"an offset of {offset} with padding of {padding}", "fails", "no Hounsfield units")(
        _values(_with_padding(_patient() + np.int16(offset), padding))
    )
odd("voxels", "the offset of 1024 taken off twice", "fails", "no Hounsfield units")(
    _values(_with_padding(_patient() - np.int16(1024), -3024))
)
odd("voxels", "0 to 255 with padding of -1", "fails", "no Hounsfield units")(
    _values(_with_padding(((_patient() + 1100) / 8).astype(np.int16), -1))
)
odd("voxels", "scaled to -1 to 1", "fails", "no Hounsfield units")(
    _values((_patient() / 1000).astype(np.float32))
)
odd("voxels", "a patient in air with padding of -3024", "map")(_values(_with_padding(_patient(), -3024)))
odd("voxels", "clipped to the window", "map")(_values(np.clip(_patient(), -160, 240)))

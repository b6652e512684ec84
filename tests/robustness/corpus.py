"""Bad and odd inputs, each with its right answer: `python -m tests.robustness.corpus` prints them.

Every kind lies in an input folder beside one good CT and goes through the real command. It ends as

- "map": exit code 0, a correct label map, no warning;
- "warned": the same, with a warning in log and report;
- "fails": exit code 1, one line that names the file, and no output for it (with `--on-error background` an
  all-background map, where the file's grid can be read);
- "passed over": no case at all;
- "refused": exit code 2 before any work.

In each the good CT gets its label map (but for "refused"), nothing lies half-written in the output folder,
nothing outside it has changed, there is no traceback, and an all-background map comes with a warning.
"""

import argparse
import ctypes
import gzip
import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from json import loads
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import pydicom
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from evaluation.harness.checks import VOXEL_SUFFIXES
from evaluation.metrics import dice
from inference import cli
from inference.geometry import RoiSpec
from inference.networks.vnet import VNet
from inference.networks.weights import save_weights
from tests.helpers import (
    ABDOMEN_SPACING_MM,
    AIR_HU,
    FAT_HU,
    KIDNEY_HU,
    TUMOR_HU,
    abdomen,
    ball,
    canonical_affine,
    invoke,
    metadata,
    rotation,
    save_dicom_series,
    save_nifti,
    save_sitk,
    write_weights,
)
from tests.robustness import odd_dicom, odd_files
from tests.robustness.odd_dicom import save_picture

Expected = Literal["map", "warned", "fails", "passed over", "refused"]
REPOSITORY = Path(__file__).resolve().parents[2]
AFFINE = canonical_affine(ABDOMEN_SPACING_MM, (12.0, -34.0, 56.0))
LONG_ROI = RoiSpec((48, 48, 48), 4.0)
FILE_LIMIT_BYTES = 20_000
"""Of a process whose disk is full: the good CT's label map fits."""
INPUT_FLAGS = ("nothing-found", "kidney-cut")
LEAST_DSC = 0.9
"""Of a label map that counts as correct, against what was drawn: 4 mm voxels, no noise."""
MAX_SECONDS = 10.0
MAX_GROWTH_MIB = 400
"""What one kind may add to the process's peak memory: the odd CTs themselves are below 100 MiB."""
GOOD = "zz_good.nii.gz"
DETACHED = (".mhd", ".nhdr")
"""Headers whose voxels lie in another file."""


@dataclass
class Scene:
    """What a kind sets up, and what is expected of it beyond its answer.

    Attributes:
        root: a folder of its own; `root / "in"` is the input folder.
        arguments: further arguments of the command; --input and --output may be among them.
        output: the odd input's label map, relative to the output folder, where there is one.
        truth: what should be labelled (in stored axis order), where the label map is not all background.
        source: whose grid the label map must have; None where it is no single file.
        weights: kidney and tumor weights.
        environment: for a process of its own: arguments of `subprocess.run`, and TMPDIR.
        tumor_ml, structures: what the report must say.
        others: further label maps that are right to be there.
    """

    root: Path
    weights: Path
    arguments: list[str] = field(default_factory=list)
    output: str | None = None
    truth: NDArray[np.bool_] | None = None
    source: Path | None = None
    environment: dict[str, Any] | None = None
    tumor_ml: float | None = None
    structures: int | None = None
    others: set[str] = field(default_factory=set)

    @property
    def inputs(self) -> Path:
        """The input folder."""
        return self.root / "in"


@dataclass(frozen=True)
class Kind:
    """One kind of input: how to make it, its right answer, and a part of what is said of it."""

    area: str
    name: str
    make: Callable[[Scene], None]
    expected: Expected
    says: str


@dataclass(frozen=True)
class Got:
    """What a kind ended as, what was said, and what was wrong with it (nothing, if all is well)."""

    outcome: str
    said: str
    wrong: tuple[str, ...]


KINDS: list[Kind] = []
RESULTS: list[tuple[Kind, Got]] = []
"""What the tests have run: the test report ends with it as one table."""


def kind(area: str, name: str, expected: Expected, says: str = "") -> Callable[[Callable], Callable]:
    """Register a maker."""

    def register(make: Callable[[Scene], None]) -> Callable[[Scene], None]:
        KINDS.append(Kind(area, name, make, expected, says))
        return make

    return register


# --------------------------------------------------------------------------------------------- what is put in


def put(
    scene: Scene,
    name: str = "odd.nii",
    hu: NDArray | None = None,
    affine: NDArray = AFFINE,
    *,
    wanted: bool = True,
) -> Path:
    """A NIfTI with the usual abdomen or other voxels, and what its label map should be."""
    values = abdomen() if hu is None else hu
    path = save_nifti(scene.inputs / name, values, affine)
    scene.output, scene.source = name, path
    scene.truth = (values >= KIDNEY_HU) if wanted else None
    return path


def put_itk(scene: Scene, name: str, *, compressed: bool = False, hu: NDArray | None = None) -> Path:
    """The usual abdomen by SimpleITK."""
    values = abdomen() if hu is None else hu
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(ABDOMEN_SPACING_MM[::-1])
    path = scene.inputs / name
    sitk.WriteImage(image, str(path), useCompression=compressed)
    scene.output, scene.source, scene.truth = name, path, values.transpose(2, 1, 0) >= KIDNEY_HU
    return path


def put_bytes(scene: Scene, name: str, content: bytes) -> Path:
    """A file that is no CT."""
    path = scene.inputs / name
    path.write_bytes(content)
    scene.output = name
    return path


def put_series(scene: Scene, **changes: Any) -> Path:
    """The usual abdomen as a DICOM series."""
    folder = save_dicom_series(scene.inputs / "odd", abdomen(), spacing_mm=ABDOMEN_SPACING_MM, **changes)
    scene.output, scene.truth = "odd.nii.gz", abdomen().transpose(2, 1, 0) >= KIDNEY_HU
    return folder


def patch(path: Path, offset: int, values: Any, dtype: str) -> Path:
    """Overwrite numbers of a file."""
    data, new = bytearray(path.read_bytes()), np.array(values, dtype).tobytes()
    data[offset : offset + len(new)] = new
    path.write_bytes(data)
    return path


def edit(path: Path, old: bytes, new: bytes) -> Path:
    """Replace a text in a file."""
    data = path.read_bytes()
    assert old in data, old
    path.write_bytes(data.replace(old, new, 1))
    return path


def pack(path: Path) -> Path:
    """A file gzipped under its name with .gz."""
    packed = path.with_name(f"{path.name}.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return packed


DIM, DATATYPE, PIXDIM, VOX_OFFSET, SLOPE, UNITS, FORM_CODES, SROW_X = 40, 70, 76, 108, 112, 123, 252, 280
"""Where a NIfTI-1 header has its fields (nifti1.h)."""
HTML = b"<!DOCTYPE html><html><head><title>404 Not Found</title></head><body>" + b"x" * 2000
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 12345678\n"


# ------------------------------------------------------------------------------------------------------ files


for suffix in (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd"):
    kind("files", f"empty {suffix}", "fails", "cannot be read")(
        lambda scene, suffix=suffix: put_bytes(scene, f"odd{suffix}", b"")
    )


def _cut_gz(scene: Scene, keep: float) -> None:
    noisy = abdomen() + np.random.default_rng(0).integers(-9, 9, abdomen().shape, dtype=np.int16)
    path = put(scene, "odd.nii.gz", noisy)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size) if keep < 1 else -1])


for where, part in (
    ("in its header", 0.001),
    ("a third in", 0.3),
    ("two thirds in", 0.7),
    ("by one byte", 1.0),
):
    kind("files", f"gz cut {where}", "fails", "cannot be read")(lambda scene, part=part: _cut_gz(scene, part))


@kind("files", "gz of nothing", "fails", "cannot be read")
def _gz_of_nothing(scene: Scene) -> None:
    put_bytes(scene, "odd.nii.gz", gzip.compress(b""))


@kind("files", "gz with one bit flipped", "fails", "cannot be read")
def _gz_bit(scene: Scene) -> None:
    path = put(scene, "odd.nii.gz")
    patch(path, path.stat().st_size // 2, path.read_bytes()[path.stat().st_size // 2] ^ 4, "u1")


@kind("files", "gz with rubbish behind", "fails", "cannot be read")
def _gz_rubbish(scene: Scene) -> None:
    path = put(scene, "odd.nii.gz")
    path.write_bytes(path.read_bytes() + b"rubbish")


@kind("files", "gz that goes on for 200 MB", "fails", "holds far more than its header claims")
def _gz_bomb(scene: Scene) -> None:
    path = put(scene, "odd.nii")
    path.with_name("odd.nii.gz").write_bytes(gzip.compress(path.read_bytes() + bytes(200 << 20), 1))
    path.unlink()
    scene.output = "odd.nii.gz"


@kind("files", "wrong magic", "fails", "cannot be read")
def _magic(scene: Scene) -> None:
    patch(put(scene), 344, list(b"xyz"), "u1")


for name in ("odd.nii", "odd.nii.gz", "odd.mha", "odd.nrrd"):
    kind("files", f"HTML called {name[3:]}", "fails", "cannot be read")(
        lambda scene, name=name: put_bytes(scene, name, HTML)
    )
    kind("files", f"git-LFS pointer called {name[3:]}", "fails", "a git-LFS pointer, not the file itself")(
        lambda scene, name=name: put_bytes(scene, name, LFS)
    )


@kind("files", "plain NIfTI called .nii.gz", "fails", "cannot be read")
def _plain_as_gz(scene: Scene) -> None:
    put(scene).rename(scene.inputs / "odd.nii.gz")
    scene.output = "odd.nii.gz"


@kind("files", "gzipped NIfTI called .nii", "fails", "cannot be read")
def _gz_as_plain(scene: Scene) -> None:
    put(scene, "odd.nii.gz").rename(scene.inputs / "odd.nii")
    scene.output = "odd.nii"


@kind("files", "NRRD called .mha", "fails", "cannot be read")
def _nrrd_as_mha(scene: Scene) -> None:
    put_itk(scene, "odd.nrrd").rename(scene.inputs / "odd.mha")
    scene.output = "odd.mha"


@kind("files", "PNG called .nrrd", "fails", "cannot be read")
def _png_as_nrrd(scene: Scene) -> None:
    sitk.WriteImage(sitk.Image([8, 8], sitk.sitkUInt8), str(scene.root / "p.png"))
    (scene.root / "p.png").rename(scene.inputs / "odd.nrrd")
    scene.output = "odd.nrrd"


@kind("files", "text and pictures beside", "passed over")
def _other_files(scene: Scene) -> None:
    (scene.inputs / "readme.txt").write_text("hello")
    sitk.WriteImage(sitk.Image([8, 8], sitk.sitkUInt8), str(scene.inputs / "p.png"))


@kind("files", "empty folder called odd.nii.gz", "fails", "holds 0 DICOM series")
def _folder_as_file(scene: Scene) -> None:
    (scene.inputs / "odd.nii.gz").mkdir()
    scene.output = "odd.nii.gz.nii.gz"


@kind("files", "CT in a folder called odd.nii.gz", "map")
def _file_in_folder_as_file(scene: Scene) -> None:
    put(scene, "odd.nii.gz/odd.nii")


@kind("files", "dangling link", "fails", "a link to /nowhere/ct.nii, which is not there")
def _dangling(scene: Scene) -> None:
    (scene.inputs / "odd.nii").symlink_to("/nowhere/ct.nii")
    scene.output = "odd.nii"


@kind("files", "dangling link to a folder", "fails", "a link to /nowhere/case_1, which is not there")
def _dangling_folder(scene: Scene) -> None:
    (scene.inputs / "case_1").symlink_to("/nowhere/case_1")
    scene.output = "case_1"


@kind("files", "link to itself", "fails", "which is not there")
def _link_loop(scene: Scene) -> None:
    (scene.inputs / "odd.nii").symlink_to("odd.nii")
    scene.output = "odd.nii"


@kind("files", "folder link that leads back up", "passed over")
def _folder_loop(scene: Scene) -> None:
    (scene.inputs / "sub").mkdir()
    (scene.inputs / "sub" / "up").symlink_to("../..", target_is_directory=True)


@kind("files", "link to a CT outside the input", "map")
def _link_out(scene: Scene) -> None:
    path = put(scene)
    path.rename(scene.root / "outside.nii")
    path.symlink_to(scene.root / "outside.nii")


@kind("files", "linked KiTS19 case folder", "map")
def _linked_case(scene: Scene) -> None:
    path = put(scene, "case_00007/imaging.nii.gz")
    path.parent.rename(scene.root / "elsewhere")
    path.parent.symlink_to(scene.root / "elsewhere", target_is_directory=True)
    scene.output = "prediction_00007.nii.gz"


@kind("files", "linked DICOM folder keeps its name", "map")
def _linked_series(scene: Scene) -> None:
    folder = put_series(scene)
    folder.rename(scene.root / "1.2.840.113")
    folder.symlink_to(scene.root / "1.2.840.113", target_is_directory=True)


def _without_rights(scene: Scene) -> None:
    """Rights mean nothing to root: a process that has given up root's power over files."""
    scene.environment = {"preexec_fn": _give_up_power}


def _give_up_power() -> None:
    if os.getuid() == 0:
        drop, libc = 24, ctypes.CDLL(None, use_errno=True)  # PR_CAPBSET_DROP
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            if libc.prctl(drop, capability, 0, 0, 0):
                raise OSError(ctypes.get_errno(), "prctl")


def _limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT_BYTES, FILE_LIMIT_BYTES))


@kind("files", "no right to read the file", "fails", "may not be read by user")
def _unreadable(scene: Scene) -> None:
    put(scene).chmod(0)
    _without_rights(scene)


@kind("files", "no right to list a folder", "fails", "may not be read by user")
def _unlistable(scene: Scene) -> None:
    put(scene, "sub/odd.nii").parent.chmod(0)
    scene.output = "sub.nii.gz"
    _without_rights(scene)


@kind("files", "pipe", "fails", "no regular file")
def _pipe(scene: Scene) -> None:
    os.mkfifo(scene.inputs / "odd.nii")
    os.mkfifo(scene.inputs / "pipe")
    scene.output = "odd.nii"


for text, name in (
    ("blanks", "a ct  of two.nii"),
    ("a line break", "a\nct.nii"),
    ("an escape sequence", "a\x1b[31mct.nii"),
    ("unicode", "ñiño 腎臓 🩻.nii"),
    ("a leading dash", "-rf.nii"),
    ("quotes and a dollar", "'a'\"$HOME\".nii"),
    ("255 bytes", "n" * 251 + ".nii"),
    ("bytes that are no UTF-8", "caf\udce9.nii"),
    ("blanks and unicode (.nrrd)", "ñ 腎.nrrd"),
):
    kind("names", f"name with {text}", "map")(
        lambda scene, name=name: put(scene, name) if name.endswith(".nii") else put_itk(scene, name)
    )


@kind("names", "name with bytes that are no UTF-8 (.mha)", "fails", "its name is not UTF-8")
def _no_utf8_mha(scene: Scene) -> None:
    put_itk(scene, "odd.mha").rename(scene.inputs / "caf\udce9.mha")
    scene.output = "caf\udce9.mha"


@kind("names", "output name above 255 bytes", "fails", "File name too long")
def _long_output(scene: Scene) -> None:
    put(scene, "n" * 248 + ".nii")
    scene.output = None
    scene.arguments = ["--output-naming", "kits19", "--skip-existing"]


@kind("names", "two inputs for one output", "refused", "would both write")
def _two_for_one(scene: Scene) -> None:
    put(scene, "case_1.nii.gz")
    put(scene, "case_1_0000.nii.gz")


@kind("names", "nnU-Net name in .mha", "map")
def _nnunet_mha(scene: Scene) -> None:
    put_itk(scene, "case_1_0000.mha")
    scene.output = "case_1.mha"


@kind("folders", "no input folder", "refused", "no such input")
def _no_input(scene: Scene) -> None:
    scene.arguments = ["--input", str(scene.root / "absent")]


@kind("folders", "no CT in the input folder", "refused", "no CT found")
def _no_ct(scene: Scene) -> None:
    (scene.root / "none").mkdir()
    scene.arguments = ["--input", str(scene.root / "none")]


@kind("folders", "the output folder is the input folder", "refused", "is the input folder")
def _same_folder(scene: Scene) -> None:
    (scene.inputs / GOOD).unlink()
    put(scene, "case_00007/imaging.nii.gz")
    scene.arguments = ["--output", str(scene.inputs)]


@kind("folders", "an earlier run's outputs inside the input folder", "passed over")
def _output_inside(scene: Scene) -> None:
    for sub in ("labels", "probabilities"):
        save_nifti(scene.inputs / sub / "earlier.nii.gz", abdomen(), AFFINE)
    scene.arguments = ["--output", str(scene.inputs / "labels")]
    scene.arguments += ["--save-probabilities", str(scene.inputs / "probabilities")]


@kind("folders", "output folder not writable", "refused", "not writable for user")
def _output_not_writable(scene: Scene) -> None:
    (scene.root / "out").mkdir(mode=0o555)
    _without_rights(scene)


# ---------------------------------------------------------------------------------------------------- headers


def _dims(scene: Scene, dims: list[int]) -> None:
    patch(put(scene), DIM, dims, "<i2")


kind("headers", "a dimension of 0", "fails", "not a 3D image")(lambda s: _dims(s, [3, 24, 0, 48, 1]))
kind("headers", "a negative dimension", "fails", "")(lambda s: _dims(s, [3, 24, -40, 48, 1]))
kind("headers", "0 dimensions", "fails", "")(lambda s: _dims(s, [0, 24, 40, 48, 1]))
kind("headers", "9 dimensions", "fails", "")(lambda s: _dims(s, [9, 24, 40, 48, 1]))
kind("headers", "KiTS19's largest by its header, 92 kB by its body", "fails", "more than the file can hold")(
    lambda s: _dims(s, [3, 1059, 512, 512, 1])
)


def _huge(scene: Scene, name: str) -> None:
    """About 500 GB claimed by 2 kB."""
    small = np.zeros((8, 8, 8), dtype=np.int16)
    if name.endswith((".nii", ".nii.gz")):
        path = patch(
            save_nifti(scene.inputs / "odd.nii", small, AFFINE), DIM, [3, 6300, 6300, 6300, 1], "<i2"
        )
        pack(path) if name.endswith(".gz") else None
    else:
        edit(save_sitk(scene.inputs / name, small), b"8 8 8", b"6300 6300 6300")
    scene.output = name


for suffix in (".nii", ".nii.gz", ".mha", ".nrrd", ".mhd"):
    kind("headers", f"2 kB that claim 500 GB ({suffix})", "fails", "more than the file can hold")(
        lambda scene, suffix=suffix: _huge(scene, f"odd{suffix}")
    )


@kind("headers", "2³¹ dimensions (.mha)", "fails", "2147483647 dimensions")
def _many_dimensions(scene: Scene) -> None:
    edit(put_itk(scene, "odd.mha"), b"NDims = 3", b"NDims = 2147483647")


@kind("headers", "an extension of 2 GB", "fails", "cannot be read")
def _long_extension(scene: Scene) -> None:
    path = patch(put(scene), 348, [1, 0, 0, 0], "u1")
    patch(path, VOX_OFFSET, 3e9, "<f4")
    path.write_bytes(path.read_bytes()[:352] + np.array([2**31 - 8, 0], "<i4").tobytes() + bytes(2000))


@kind("headers", "voxels said to begin behind the end", "fails", "cannot be read")
def _far_offset(scene: Scene) -> None:
    patch(put(scene), VOX_OFFSET, 1e9, "<f4")


kind("headers", "voxels said to begin in the header", "fails", "at byte 0.0, in the header")(
    lambda s: patch(put(s), VOX_OFFSET, 0, "<f4")
)
kind("headers", "voxels said to begin at infinity", "fails", "cannot be read")(
    lambda s: patch(put(s), VOX_OFFSET, np.inf, "<f4")
)


def _srow(scene: Scene, row: list[float]) -> None:
    patch(put(scene), SROW_X, row, "<f4")


kind("headers", "NaN in the sform", "fails", "is not usable")(lambda s: _srow(s, [np.nan, 0, -2.5, 0]))
kind("headers", "infinity in the sform", "fails", "is not usable")(lambda s: _srow(s, [0, 0, -np.inf, 0]))
kind("headers", "infinite origin", "fails", "origin is not finite")(lambda s: _srow(s, [0, 0, -2.5, np.inf]))
kind("headers", "singular affine (a column of zeros)", "fails", "is not usable")(
    lambda s: _srow(s, [0, 0, 0, 0])
)
kind("headers", "sheared affine (gantry tilt)", "fails", "not at right angles")(
    lambda s: _srow(s, [1, 0, -2.5, 0])
)
kind("headers", "500 mm voxels", "fails", "is not usable")(lambda s: _srow(s, [0, 0, -500, 0]))


@kind("headers", "two axes along each other", "fails", "not at right angles")
def _parallel(scene: Scene) -> None:
    affine = AFFINE.copy()
    affine[:3, 1] = affine[:3, 2]
    patch(put(scene), SROW_X, affine[:3], "<f4")


def _pixdim(scene: Scene, spacing_mm: float) -> None:
    """The qform alone, which takes its spacing from pixdim."""
    _forms(scene, AFFINE, None)
    patch(scene.inputs / "odd.nii", PIXDIM + 4, [spacing_mm], "<f4")


kind("headers", "zero spacing (.nii)", "fails", "a voxel spacing of 0")(lambda s: _pixdim(s, 0))
kind("headers", "NaN spacing (.nii)", "fails", "is not usable")(lambda s: _pixdim(s, np.nan))
kind("headers", "infinite spacing (.nii)", "fails", "is not usable")(lambda s: _pixdim(s, np.inf))
kind("headers", "negative spacing (.nii)", "map")(lambda s: _pixdim(s, -ABDOMEN_SPACING_MM[0]))


@kind("headers", "zero spacing (.mha)", "fails")
def _zero_spacing_mha(scene: Scene) -> None:
    edit(put_itk(scene, "odd.mha"), b"ElementSpacing = 2.5 3 5", b"ElementSpacing = 2.5 0 5")


@kind("headers", "NaN spacing (.nrrd)", "fails")
def _nan_spacing_nrrd(scene: Scene) -> None:
    edit(put_itk(scene, "odd.nrrd"), b"(2.5,0,0)", b"(nan,0,0)")


@kind("headers", "axes of 1e308 (.mha)", "fails", "is not usable")
def _huge_axes(scene: Scene) -> None:
    edit(put_itk(scene, "odd.mha"), b"TransformMatrix = 1 0 0 0", b"TransformMatrix = 1 0 0 1e308")


def _forms(scene: Scene, qform: NDArray | None, sform: NDArray | None) -> None:
    image = nib.Nifti1Image(abdomen(), AFFINE)
    image.set_qform(qform, 0 if qform is None else 1)
    image.set_sform(sform, 0 if sform is None else 1)
    nib.save(image, put(scene))


kind("headers", "sform only", "map")(lambda s: _forms(s, None, AFFINE))
kind("headers", "qform only", "map")(lambda s: _forms(s, AFFINE, None))


@kind("headers", "neither qform nor sform", "warned", "left and right are a guess")
def _no_form(scene: Scene) -> None:
    values = abdomen().transpose(2, 1, 0)  # as nibabel and SPM take it then: x, y, z
    image = nib.Nifti1Image(values, None)
    image.header.set_zooms(ABDOMEN_SPACING_MM[::-1])
    put(scene, hu=np.ascontiguousarray(values))
    nib.save(image, scene.inputs / "odd.nii")


@kind("headers", "qform against sform", "warned", "mm apart; sform is taken")
def _forms_differ(scene: Scene) -> None:
    _forms(scene, rotation(0, 0, 30) @ AFFINE, AFFINE)


def _in_units(scene: Scene, code: int, factor: float) -> None:
    path = put(scene, affine=np.diag([factor, factor, factor, 1]) @ AFFINE)
    patch(path, UNITS, code, "u1")


kind("headers", "metres", "fails", "its header is in meters")(lambda s: _in_units(s, 1, 0.001))
kind("headers", "microns", "fails", "its header is in microns")(lambda s: _in_units(s, 3, 1000))
kind("headers", "mm that are called metres", "warned", "taken as mm")(lambda s: _in_units(s, 1, 1))
kind("headers", "unknown units", "map")(lambda s: _in_units(s, 0, 1))
kind("headers", "scl_slope 0", "map")(lambda s: patch(put(s), SLOPE, [0, -1024], "<f4"))
kind("headers", "scl_slope NaN", "map")(lambda s: patch(put(s), SLOPE, [np.nan, np.nan], "<f4"))
kind("headers", "scl_inter NaN", "fails", "cannot be read")(
    lambda s: patch(put(s), SLOPE, [1, np.nan], "<f4")
)
kind("headers", "scl_slope 1e38", "fails", "no Hounsfield units")(
    lambda s: patch(put(s, hu=abdomen().astype(np.float32), wanted=False), SLOPE, [1e38, 0], "<f4")
)


@kind("headers", "big-endian", "map")
def _big_endian(scene: Scene) -> None:
    path = put(scene)
    nib.save(nib.Nifti1Image(abdomen().astype(">i2"), AFFINE, nib.Nifti1Header(endianness=">")), path)


@kind("headers", "NIfTI-2", "map")
def _nifti2(scene: Scene) -> None:
    nib.save(nib.Nifti2Image(abdomen(), AFFINE), put(scene, "odd.nii.gz"))


@kind("headers", "complex", "fails", "not single numbers")
def _complex(scene: Scene) -> None:
    put(scene, hu=abdomen().astype(np.complex64), wanted=False)


@kind("headers", "RGB (.nii)", "fails", "not single numbers")
def _rgb(scene: Scene) -> None:
    put(scene, hu=np.zeros((8, 8, 8), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]), wanted=False)


@kind("headers", "RGB (.mha)", "fails", "3D with 3 components")
def _rgb_mha(scene: Scene) -> None:
    sitk.WriteImage(sitk.Image([8, 8, 8], sitk.sitkVectorUInt8, 3), str(scene.inputs / "odd.mha"))
    scene.output = "odd.mha"


@kind("headers", "unknown type code", "fails", "cannot be read")
def _type_code(scene: Scene) -> None:
    patch(put(scene), DATATYPE, 999, "<i2")


kind("headers", "2D", "fails", "not a 3D image")(lambda s: put(s, hu=abdomen()[12]))
kind("headers", "one slice", "fails", "not a 3D image")(lambda s: put(s, hu=abdomen()[12:13]))
kind("headers", "two slices", "warned", "no kidney found")(lambda s: put(s, hu=abdomen()[:2], wanted=False))
kind("headers", "4D with three volumes", "fails", "not a 3D image")(
    lambda s: put(s, hu=np.stack([abdomen()] * 3, axis=-1), wanted=False)
)


@kind("headers", "4D with one volume", "map")
def _one_volume(scene: Scene) -> None:
    put(scene, hu=abdomen()[..., None])
    scene.truth = abdomen() >= KIDNEY_HU


@kind("headers", "4D with one volume (.nrrd)", "warned", "left and right are a guess")
def _one_volume_nrrd(scene: Scene) -> None:
    put_itk(scene, "odd.nrrd")
    image = sitk.JoinSeries([sitk.ReadImage(str(scene.inputs / "odd.nrrd"))])
    sitk.WriteImage(image, str(scene.inputs / "odd.nrrd"))


@kind("headers", ".mha cut short", "fails", "more than the file can hold")
def _cut_mha(scene: Scene) -> None:
    path = put_itk(scene, "odd.mha")
    path.write_bytes(path.read_bytes()[:-100])


@kind("headers", "compressed .mha, damaged", "fails", "cannot be read")
def _damaged_mha(scene: Scene) -> None:
    path = put_itk(scene, "odd.mha", compressed=True)
    patch(path, path.stat().st_size - 300, [0] * 40, "u1")


@kind("headers", "compressed .mha whose voxels are too few", "fails", "are not the")
def _short_mha(scene: Scene) -> None:
    path = put_itk(scene, "odd.mha", compressed=True)
    head, local, body = path.read_bytes().partition(b"LOCAL\n")
    path.write_bytes(head + local + zlib.compress(zlib.decompress(body)[:-1000]))
    old = next(line for line in head.split(b"\n") if line.startswith(b"CompressedDataSize"))
    edit(path, old + b"\n", b"")


@kind("headers", "compressed .mhd, its .zraw with one bit flipped", "fails", "cannot be read")
def _damaged_zraw(scene: Scene) -> None:
    put_itk(scene, "odd.mhd", compressed=True)
    path = scene.inputs / "odd.zraw"
    patch(path, path.stat().st_size // 2, path.read_bytes()[path.stat().st_size // 2] ^ 4, "u1")


@kind("headers", "compressed .nrrd, damaged", "fails", "cannot be read")
def _damaged_nrrd(scene: Scene) -> None:
    path = put_itk(scene, "odd.nrrd", compressed=True)
    patch(path, path.stat().st_size - 300, [0] * 40, "u1")


@kind("headers", ".mhd without its .raw", "fails", "cannot be read")
def _mhd_alone(scene: Scene) -> None:
    put_itk(scene, "odd.mhd")
    (scene.inputs / "odd.raw").unlink()


@kind("headers", ".mhd that points out of its folder", "fails", "its voxels are in '/etc/passwd'")
def _mhd_out(scene: Scene) -> None:
    edit(put_itk(scene, "odd.mhd"), b"odd.raw", b"/etc/passwd")


@kind("headers", ".mhd with a list of files", "fails", "its voxels are in 'LIST'")
def _mhd_list(scene: Scene) -> None:
    edit(put_itk(scene, "odd.mhd"), b"odd.raw", b"LIST\nodd.raw\nodd.raw")


@kind("headers", ".mhd with .raw", "map")
def _mhd(scene: Scene) -> None:
    put_itk(scene, "odd.mhd")


# ----------------------------------------------------------------------------------------------------- voxels


def _scaled(hu: NDArray) -> NDArray[np.float32]:
    return ((hu + 1000) / 1200).astype(np.float32)


def _where(hu: NDArray, value: float) -> NDArray[np.float32]:
    values = hu.astype(np.float32)
    values[0, :4] = value
    return values


def _padded(value: int) -> NDArray[np.int16]:
    hu = abdomen()
    hu[:, :2], hu[:, -2:] = value, value
    return hu


def _metal() -> NDArray[np.int16]:
    hu = abdomen()
    hu[2:4, 30:33, 22:25] = 30_000
    return hu


kind("voxels", "all NaN", "warned", "NaN or infinite")(
    lambda s: put(s, hu=np.full(abdomen().shape, np.nan, dtype=np.float32), wanted=False)
)
kind("voxels", "some NaN", "warned", "are NaN or infinite; taken as air")(
    lambda s: put(s, hu=_where(abdomen(), np.nan))
)
kind("voxels", "some infinite", "warned", "are NaN or infinite; taken as air")(
    lambda s: put(s, hu=_where(abdomen(), -np.inf))
)
kind("voxels", "constant", "warned", "the scan is empty")(
    lambda s: put(s, hu=np.full(abdomen().shape, -7, dtype=np.int16), wanted=False)
)
kind("voxels", "0 to 1", "fails", "no Hounsfield units")(
    lambda s: put(s, hu=_scaled(abdomen()), wanted=False)
)
kind("voxels", "0 to 255", "fails", "no Hounsfield units")(
    lambda s: put(s, hu=(_scaled(abdomen()) * 255).astype(np.uint8), wanted=False)
)
kind("voxels", "unsigned with +1024", "fails", "no Hounsfield units")(
    lambda s: put(s, hu=(abdomen() + 1024).astype(np.uint16), wanted=False)
)
kind("voxels", "MR", "fails", "no Hounsfield units")(
    lambda s: put(
        s, hu=np.random.default_rng(0).integers(0, 1500, abdomen().shape, dtype=np.int16), wanted=False
    )
)
kind("voxels", "a label map among the CTs", "fails", "no Hounsfield units")(
    lambda s: put(s, hu=(abdomen() >= KIDNEY_HU).astype(np.uint8), wanted=False)
)
kind("voxels", "padding of -3024", "map")(lambda s: put(s, hu=_padded(-3024)))
kind("voxels", "padding of -2048", "map")(lambda s: put(s, hu=_padded(-2048)))


@kind("voxels", "metal of 30,000", "map")
def _metal_kind(scene: Scene) -> None:
    put(scene, hu=_metal())
    scene.truth = abdomen() >= KIDNEY_HU  # too small for a kidney


kind("voxels", "float64", "map")(lambda s: put(s, hu=abdomen().astype(np.float64)))
kind("voxels", "int8", "map")(lambda s: put(s, hu=np.clip(abdomen(), -128, 127).astype(np.int8)))
kind("voxels", "int32 (.mha)", "map")(lambda s: put_itk(s, "odd.mha", hu=abdomen().astype(np.int32)))


@kind("voxels", "uint16 with intercept -1024", "map")
def _uint16(scene: Scene) -> None:
    path = put(scene, hu=(abdomen() + 1024).astype(np.uint16))
    patch(path, SLOPE, [1, -1024], "<f4")
    scene.truth = abdomen() >= KIDNEY_HU


kind("patients", "mirrored (left-handed axes)", "map")(
    lambda s: put(s, hu=abdomen()[:, :, ::-1].copy(), affine=AFFINE @ np.diag([1, 1, -1, 1]))
)
kind("patients", "organs on the other side (the same axes)", "map")(
    lambda s: put(s, hu=abdomen()[:, :, ::-1].copy())
)
kind("patients", "feet first", "map")(
    lambda s: put(s, hu=abdomen()[::-1].copy(), affine=AFFINE @ np.diag([-1, 1, 1, 1]))
)
kind("patients", "oblique", "map")(lambda s: put(s, affine=rotation(12, -8, 20) @ AFFINE))
kind("patients", "1 m of whole body", "map")(lambda s: put(s, hu=abdomen((200, 40, 48), centre_z_mm=810.0)))


@kind("patients", "a child: 120 mm field of view", "map")
def _child(scene: Scene) -> None:
    spacing_mm = (3.0, 1.25, 1.25)
    hu = np.full((40, 96, 96), FAT_HU, dtype=np.int16)
    for x in (30.0, 90.0):
        hu[ball(hu.shape, (60.0, 60.0, x), 16.0, spacing_mm)] = KIDNEY_HU
    hu[:, :2] = AIR_HU
    put(scene, hu=hu, affine=canonical_affine(spacing_mm))


@kind("patients", "0.3 mm voxels", "map")
def _fine(scene: Scene) -> None:
    spacing_mm = (0.3, 0.3, 0.3)
    hu = np.full((150, 150, 150), FAT_HU, dtype=np.int16)
    hu[ball(hu.shape, (22.5, 22.5, 22.5), 16.0, spacing_mm)] = KIDNEY_HU
    hu[:, :2] = AIR_HU
    put(scene, hu=hu, affine=canonical_affine(spacing_mm))


@kind("patients", "10 mm slices", "map")
def _thick(scene: Scene) -> None:
    spacing_mm = (10.0, 3.0, 2.5)
    put(scene, hu=abdomen((12, 40, 48), spacing_mm), affine=canonical_affine(spacing_mm))


def _patient(
    scene: Scene, masses: list[tuple[tuple[float, float, float], float]], tumor_mm: float = 0
) -> None:
    """Kidneys as balls (z, y, x and radius in mm) in fat; a tumor in the middle of the first."""
    hu = np.full((36, 60, 72), FAT_HU, dtype=np.int16)
    for centre_mm, radius_mm in masses:
        hu[ball(hu.shape, centre_mm, radius_mm, ABDOMEN_SPACING_MM)] = KIDNEY_HU
    if tumor_mm:
        hu[ball(hu.shape, masses[0][0], tumor_mm, ABDOMEN_SPACING_MM)] = TUMOR_HU
    hu[:, :2] = AIR_HU
    put(scene, hu=hu)
    scene.structures = len(masses)
    scene.tumor_ml = np.count_nonzero(hu == TUMOR_HU) * float(np.prod(ABDOMEN_SPACING_MM)) / 1000
    scene.weights = write_weights(scene.root / "weights", LONG_ROI)


LEFT, RIGHT, PELVIS = (90.0, 90.0, 130.0), (85.0, 90.0, 50.0), (25.0, 60.0, 80.0)
kind("patients", "one kidney", "map")(lambda s: _patient(s, [(LEFT, 20)]))
kind("patients", "two kidneys", "map")(lambda s: _patient(s, [(LEFT, 20), (RIGHT, 18)]))
kind("patients", "three (a transplant in the pelvis)", "map")(
    lambda s: _patient(s, [(LEFT, 20), (RIGHT, 18), (PELVIS, 17)])
)
kind("patients", "a horseshoe kidney (one structure)", "map")(
    lambda s: _patient(s, [((90.0, 90.0, 90.0), 35)])
)
kind("patients", "a tumor of 1.4 l", "map")(lambda s: _patient(s, [((90.0, 90.0, 90.0), 74)], tumor_mm=69.4))
kind("patients", "kidney cut by the scan's end", "warned", "reaches the scan's inferior end")(
    lambda s: _patient(s, [((2.0, 90.0, 130.0), 24), (RIGHT, 18)])
)


@kind("patients", "no kidney", "warned", "no kidney found")
def _no_kidney(scene: Scene) -> None:
    hu = abdomen()
    put(scene, hu=np.minimum(hu, FAT_HU), wanted=False)


# ------------------------------------------------------------------------------------------------------ DICOM


kind("DICOM", "one series", "map")(lambda s: put_series(s))
kind("DICOM", "JPEG 2000", "map")(lambda s: put_series(s, compressor="JPEG2000"))
kind("DICOM", "lossless JPEG", "map")(lambda s: put_series(s, compressor="JPEG"))


for transfer_syntax in ("RLELossless", "JPEGLSLossless"):

    @kind("DICOM", transfer_syntax, "map")
    def _transcoded(scene: Scene, transfer_syntax: str = transfer_syntax) -> None:
        for file in put_series(scene).iterdir():
            dataset = pydicom.dcmread(file)
            dataset.compress(getattr(pydicom.uid, transfer_syntax), encoding_plugin="")
            dataset.save_as(file)


@kind("DICOM", "transfer syntax that nobody knows", "fails", "cannot be read")
def _transfer_syntax(scene: Scene) -> None:
    for file in put_series(scene, compressor="JPEG2000").iterdir():
        edit(file, b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.4.99")


@kind("DICOM", "two series in one folder", "map")
def _two_series(scene: Scene) -> None:
    put_series(scene)
    put_series(scene, stem="second", series_uid="1.2.826.0.1.3680043.2.1125.2")
    scene.output, scene.others = "odd_1.nii.gz", {"odd_2.nii.gz"}


@kind("DICOM", "a localiser in its own series", "warned", "localisers or no CT; passed over")
def _localiser(scene: Scene) -> None:
    folder = put_series(scene)
    tags = {"0008|0008": "ORIGINAL\\PRIMARY\\LOCALIZER", "0020|0037": "1\\0\\0\\0\\0\\-1"}
    save_dicom_series(folder, abdomen()[:1], stem="scout", series_uid="1.2.3.4", tags=tags)


@kind("DICOM", "a localiser in the same series", "warned", "localisers or no CT; passed over")
def _localiser_within(scene: Scene) -> None:
    folder = put_series(scene)
    tags = {
        "0008|0008": "ORIGINAL\\PRIMARY\\LOCALIZER",
        "0020|0037": "1\\0\\0\\0\\0\\-1",
        "0008|0018": "1.2.3.5",
    }
    save_dicom_series(folder, abdomen()[:1], stem="scout", tags=tags)


@kind("DICOM", "a series of another modality beside", "warned", "localisers or no CT; passed over")
def _other_modality(scene: Scene) -> None:
    folder = put_series(scene)
    save_dicom_series(folder, abdomen()[:2], stem="pt", series_uid="1.2.3.4", tags={"0008|0060": "PT"})


@kind("DICOM", "MR series", "fails", "holds 0 DICOM series of a CT")
def _mr(scene: Scene) -> None:
    put_series(scene, tags={"0008|0060": "MR"})


@kind("DICOM", "missing slices", "warned", "some may be missing")
def _missing_slices(scene: Scene) -> None:
    put_series(scene, z_mm=[5.0 * k + (10.0 if k > 20 else 0.0) for k in range(24)])


@kind("DICOM", "copies of slices", "warned", "are there twice; taken once")
def _copies(scene: Scene) -> None:
    folder = put_series(scene)
    for file in sorted(folder.iterdir())[:3]:
        shutil.copy(file, folder / f"{file.stem} (1).dcm")


@kind("DICOM", "two phases at the same places", "fails", "lie at one place")
def _two_phases(scene: Scene) -> None:
    folder = put_series(scene)
    save_dicom_series(
        folder, abdomen()[:24], spacing_mm=ABDOMEN_SPACING_MM, stem="late", tags={"0008|0018": "1.2.3.6"}
    )
    for file in sorted(folder.glob("late*"))[1:]:
        file.unlink()


@kind("DICOM", "mixed orientation", "fails", "several orientations")
def _mixed(scene: Scene) -> None:
    folder = put_series(scene)
    save_dicom_series(
        folder, abdomen()[:1], stem="cor", tags={"0008|0018": "1.2.3.7", "0020|0037": "1\\0\\0\\0\\0\\-1"}
    )


@kind("DICOM", "tilted gantry", "fails", "tilted")
def _tilted(scene: Scene) -> None:
    put_series(scene, tags={"0020|0037": "1\\0\\0\\0\\0.95\\-0.312"})


@kind("DICOM", "secondary capture", "passed over")
def _secondary_capture(scene: Scene) -> None:
    save_picture(scene.inputs / "odd", "page.dcm", Modality="OT")


@kind("DICOM", "no pixel data", "fails")
def _no_pixels(scene: Scene) -> None:
    for file in put_series(scene).iterdir():
        data = file.read_bytes()
        file.write_bytes(data[: data.rindex(b"\xe0\x7f\x10\x00")])


@kind("DICOM", "one slice cut short", "fails", "claims more than the file holds")
def _cut_slice(scene: Scene) -> None:
    file = sorted(put_series(scene).iterdir())[5]
    file.write_bytes(file.read_bytes()[:-1000])


@kind("DICOM", "an empty .dcm among the slices", "warned", "no images that can be read")
def _empty_slice(scene: Scene) -> None:
    (put_series(scene) / "IM9999.dcm").touch()


@kind("DICOM", "one slice only", "fails", "not a 3D image")
def _one_dicom_slice(scene: Scene) -> None:
    folder = put_series(scene)
    for file in sorted(folder.iterdir())[1:]:
        file.unlink()


def _put_odd(scene: Scene, make: Callable[[Path], object]) -> None:
    make(scene.inputs / "odd")
    scene.output, scene.truth = "odd.nii.gz", abdomen().transpose(2, 1, 0) >= KIDNEY_HU


for name, expected, says, make in odd_dicom.ODD:
    kind("DICOM", name, expected, says)(  # type: ignore[arg-type]
        lambda scene, make=make: _put_odd(scene, make)
    )


def _fill(scene: Scene, make: odd_files.Make) -> None:
    scene.output, scene.others = make(scene.inputs)
    if scene.output is not None:
        stored_as_x_y_z = not scene.output.endswith((".nii", ".nii.gz"))
        scene.truth = abdomen().transpose(2, 1, 0) if stored_as_x_y_z else abdomen()
        scene.truth = scene.truth >= KIDNEY_HU


for area, name, expected, says, files in odd_files.ODD:
    kind(area, name, expected, says)(  # type: ignore[arg-type]
        lambda scene, files=files: _fill(scene, files)
    )


@kind("DICOM", "a report and a dose page in folders of their own", "passed over")
def _medium(scene: Scene) -> None:
    save_picture(scene.inputs / "SE1", "IM1")
    save_picture(scene.inputs / "SE2", "IM1", "1.2.840.10008.5.1.4.1.1.88.11", Modality="SR")


@kind("DICOM", "a localiser in a folder of its own", "passed over")
def _scout_folder(scene: Scene) -> None:
    tags = {"0008|0008": "ORIGINAL\\PRIMARY\\LOCALIZER"}
    save_dicom_series(scene.inputs / "SE1", abdomen()[:2], tags=tags)


@kind("DICOM", "git-LFS pointers in place of slices", "fails", "a git-LFS pointer")
def _pointers(scene: Scene) -> None:
    for file in put_series(scene).iterdir():
        file.write_bytes(LFS)


# ---------------------------------------------------------------------------------------- weights and machine


@kind("weights", "missing", "refused", "no such weights file")
def _no_weights(scene: Scene) -> None:
    scene.weights = scene.root / "none"
    scene.weights.mkdir()


def _weights(scene: Scene) -> Path:
    scene.weights = write_weights(scene.root / "weights")
    return scene.weights / "kidney.safetensors"


@kind("weights", "truncated", "refused", "not a whole safetensors file")
def _cut_weights(scene: Scene) -> None:
    path = _weights(scene)
    path.write_bytes(path.read_bytes()[:-1000])


@kind("weights", "one bit flipped", "refused", "SHA-256 is")
def _flipped_weights(scene: Scene) -> None:
    path = _weights(scene)
    lines = subprocess.run(["sha256sum", "kidney.safetensors", "tumor.safetensors"], cwd=path.parent,
                           capture_output=True, check=True).stdout  # fmt: skip
    (path.parent / "SHA256SUMS").write_bytes(lines)
    patch(path, path.stat().st_size - 9, path.read_bytes()[-9] ^ 1, "u1")


@kind("weights", "of the other stage", "refused", "holds the tumor network")
def _other_stage(scene: Scene) -> None:
    path = _weights(scene)
    shutil.copy(path.with_name("tumor.safetensors"), path)


@kind("weights", "of another architecture", "refused", "does not fit this network")
def _other_architecture(scene: Scene) -> None:
    save_weights(_weights(scene), VNet(base_channels=2), metadata("kidney"))


@kind("weights", "a pickle", "refused", "not a whole safetensors file")
def _pickle(scene: Scene) -> None:
    torch.save({"weight": torch.zeros(3)}, _weights(scene))


@kind("weights", "NaN among the numbers", "refused", "not finite")
def _nan_weights(scene: Scene) -> None:
    path = _weights(scene)
    patch(path, path.stat().st_size - 4, np.nan, "<f4")


@kind("machine", "disk full in mid-write", "fails", "File too large")
def _disk_full(scene: Scene) -> None:
    hu = np.tile(abdomen(), (4, 2, 2))
    put(scene, hu=hu)  # 700 kB of labels, uncompressed; the good CT's fit
    scene.environment = {"preexec_fn": _limit_files}


@kind("machine", "no HOME, no folder for temporary files", "map")
def _no_home(scene: Scene) -> None:
    put(scene)
    scene.environment = {"TMPDIR": "/nowhere"}


# ---------------------------------------------------------------------------------------------------- running


def run_kind(one: Kind, weights: Path, *, on_error: str = "skip") -> Got:
    """Set a kind up in a folder of its own, run the command on it, and look at all that came of it."""
    with tempfile.TemporaryDirectory(prefix="corpus-") as name:
        root = Path(name)
        root.chmod(0o755)
        try:
            return _run(one, Scene(root, weights), on_error)
        finally:
            for path in root.rglob("*"):  # what the kind shut, so that it can be removed
                if path.is_dir() and not path.is_symlink():
                    path.chmod(0o755)


def _run(one: Kind, scene: Scene, on_error: str) -> Got:
    save_nifti(scene.inputs / GOOD, abdomen(), AFFINE)
    one.make(scene)
    output = Path(_argument(scene, "--output", scene.root / "out"))
    report_path = scene.root / "report" / "report.json"
    report_path.parent.mkdir(mode=0o777)
    report_path.parent.chmod(0o777)
    arguments = ["--input", str(scene.inputs), "--output", str(output), "--weights", str(scene.weights)]
    arguments += ["--report", str(report_path), "--device", "cpu", "--threads", "1", "--on-error", on_error]
    arguments += scene.arguments  # of two equal options the last one counts
    written = [output, report_path.parent, Path(_argument(scene, "--save-probabilities", output))]
    earlier = {path for path in output.rglob("*") if path.is_file()} if output.exists() else set()
    before = _snapshot(scene.root, written)

    peak_kib, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    code, stdout, stderr = _command(arguments, scene.environment)
    seconds = time.perf_counter() - start
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_kib) / 1024

    wrong = []
    if not all(line.startswith(("INFO ", "WARNING ", "ERROR ")) for line in stderr.splitlines()):
        wrong.append("lines that are not the log's")
    if stdout:
        wrong.append("stdout is not clean")
    if _snapshot(scene.root, written) != before:
        wrong.append("something outside the output folder has changed")
    if seconds > MAX_SECONDS and scene.environment is None:
        wrong.append(f"took {seconds:.0f} s")
    if grown_mib > MAX_GROWTH_MIB:
        wrong.append(f"took {grown_mib:.0f} MiB")
    files = {path for path in output.rglob("*") if path.is_file()} if output.exists() else set()
    if any(".partial" in path.name for path in output.rglob("*") if path.exists()):
        wrong.append("something half-written lies in the output folder")

    new = {path.relative_to(output).as_posix() for path in files - earlier}
    if code == cli.EXIT_USAGE:
        if new:
            wrong.append(f"refused, and yet wrote {new}")
        return Got("refused", stderr.strip().splitlines()[-1], tuple(wrong))
    cases = {case["output"]: case for case in loads(report_path.read_text())["cases"]}
    if scene.output is None and one.expected != "passed over":
        scene.output = next(name for name in cases if name != GOOD and "zz_good" not in name)
    good = next(name for name in cases if "zz_good" in name)
    if cases[good]["status"] != "written" or good not in new:
        wrong.append("the good CT has no label map")
    odd = cases.get(os.fsdecode(os.fsencode(scene.output))) if scene.output else None
    if odd is None:
        outcome = "passed over"
        said = "; ".join(line for line in stderr.splitlines() if outcome in line)
    elif odd["status"] in ("failed", "background"):
        outcome, said = "fails", odd["error"]
        wrong += _check_failure(scene, odd, new, output, code, stderr, on_error)
    else:
        told = _told(odd)
        outcome, said = "warned" if told else "map", "; ".join(told)
        wrong += _check_map(scene, odd, output)
        missing = [line for line in told if line not in stderr]
        wrong += [f"not in the log: {w}" for w in missing]
    if (code == cli.EXIT_SOME_FAILED) != (outcome == "fails"):
        wrong.append(f"exit code {code}")
    expected_files = (
        {good} | scene.others | ({odd["output"]} if odd is not None and odd["status"] != "failed" else set())
    )
    if {name for name in new if not name.endswith(VOXEL_SUFFIXES)} != expected_files:
        wrong.append(f"wrote {new}")
    return Got(outcome, said, tuple(wrong))


def _argument(scene: Scene, option: str, default: Path) -> str:
    return scene.arguments[scene.arguments.index(option) + 1] if option in scene.arguments else str(default)


def _command(arguments: list[str], environment: dict[str, Any] | None) -> tuple[int, str, str]:
    """The real command: in this process, or in one of its own for what only that can show."""
    if environment is None:
        result = invoke(cli.main, *arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr
    options = dict(environment)
    variables = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    if "TMPDIR" in options:
        variables["TMPDIR"] = options.pop("TMPDIR")
    done = subprocess.run(
        [sys.executable, "-m", "inference", *arguments],
        cwd=REPOSITORY,
        env=variables,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
        **options,
    )
    return done.returncode, done.stdout, done.stderr


def _snapshot(root: Path, written: list[Path]) -> dict[str, tuple[int, bytes]]:
    """All that lies under a folder but for the output folders."""
    found = {}
    for path in sorted(root.rglob("*")):
        if any(path == folder or folder in path.parents for folder in written):
            continue
        mode = path.lstat().st_mode
        found[str(path)] = (mode, path.read_bytes() if stat.S_ISREG(mode) else b"")
    return found


def _check_failure(
    scene: Scene, odd: dict, new: set[str], output: Path, code: int, stderr: str, on_error: str
) -> Iterator[str]:
    lines = [line for line in stderr.splitlines() if "FAILED" in line]
    if len(lines) != 1:
        yield f"{len(lines)} lines tell of it"
    if "bug" in odd["error"].replace(str(scene.root), "") or "\n" in odd["error"]:
        yield "it is called a bug, or in more than a line"
    if Path(odd["source"]).name not in odd["error"] and odd["output"].rsplit("/")[-1] not in odd["error"]:
        yield "the line names no file"
    if on_error == "skip" and odd["status"] != "failed":
        yield "a map was written unasked"
    if odd["status"] == "background":
        if np.asarray(_stored(output / odd["output"])[0]).any():
            yield "its map is not all background"
        if "all-background map written" not in lines[0]:
            yield "nothing says that the map is all background"
    elif on_error == "background" and "no background map either" not in stderr:
        yield "nothing says that there is no map"


def _told(odd: dict) -> list[str]:
    """Warnings, and the flags that do not depend on how large the scene's kidneys are."""
    return odd["warnings"] + [flag["text"] for flag in odd["flags"] if flag["rule"] in INPUT_FLAGS]


def _check_map(scene: Scene, odd: dict, output: Path) -> Iterator[str]:
    labels, affine = _stored(output / odd["output"])
    if not set(np.unique(labels)) <= {0, 1, 2}:
        yield f"labels {np.unique(labels)}"
    if not labels.any() and not _told(odd):
        yield "all background without a warning"
    if scene.source is not None:
        voxels, expected = _stored(scene.source)
        if labels.shape != voxels.shape[:3] or np.abs(affine - expected).sum() > 1e-3:
            yield "another grid than its CT's"
    if scene.truth is not None and labels.shape == scene.truth.shape:
        dsc = dice(labels > 0, scene.truth)
        if dsc < LEAST_DSC:
            yield f"DSC {dsc:.2f}"
    elif scene.truth is not None:
        yield f"shape {labels.shape}, not {scene.truth.shape}"
    if scene.structures is not None and len(odd["structures"]) != scene.structures:
        yield f"{len(odd['structures'])} structures"
    if scene.tumor_ml is not None and abs(odd["tumor_ml"] - scene.tumor_ml) > 0.1 * scene.tumor_ml:
        yield f"tumor {odd['tumor_ml']} ml"


def _stored(path: Path) -> tuple[NDArray, NDArray[np.float64]]:
    """Voxels (i, j, k) and RAS affine by nibabel or ITK, and nothing of ours."""
    if path.name.endswith((".nii", ".nii.gz")):
        image: Any = nib.load(path)
        return np.asarray(image.dataobj), image.affine
    with _plain_name(path) as plain:
        image = sitk.ReadImage(str(plain))
    if image.GetDimension() == 4:
        image = image[:, :, :, 0]
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), np.diag([-1, -1, 1, 1]) @ affine


@contextmanager
def _plain_name(path: Path) -> Iterator[Path]:
    """The file under a name that ITK can take, the voxels of a detached header beside it."""
    with tempfile.TemporaryDirectory() as folder:
        for other in path.parent.glob("*"):
            if other.is_file() and other.name.startswith(f"{path.stem}."):
                name = other.name if path.suffix in DETACHED else f"plain{other.suffix}"
                shutil.copy(other, Path(folder) / name)
        yield Path(folder) / (path.name if path.suffix in DETACHED else f"plain{path.suffix}")


# ------------------------------------------------------------------------------------------------------ table


def table(results: list[tuple[Kind, Got]]) -> str:
    """All kinds as Markdown."""
    lines = ["| | kind | expected | got | said |", "|---|---|---|---|---|"]
    for one, got in results:
        problem = f" **{'; '.join(got.wrong)}**" if got.wrong else ""
        said = got.said.replace("|", "\\|").encode("unicode_escape").decode()
        cause = said.split("/")[-1] if got.outcome == "fails" else said
        lines.append(
            f"| {one.area} | {one.name} | {one.expected} | {got.outcome}{problem} | {cause[-160:]} |"
        )
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.robustness.corpus", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        weights = write_weights(Path(folder) / "weights")
        results = [(one, run_kind(one, weights)) for one in KINDS]
    print(table(results))
    bad = [
        one for one, got in results if got.wrong or got.outcome != one.expected or one.says not in got.said
    ]
    print(f"\n{len(results)} kinds, {len(bad)} not as expected", *(one.name for one in bad), sep="\n")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()

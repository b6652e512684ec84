"""Reading CTs into canonical HU, and writing label maps on the grid that a CT came on."""

import contextlib
import errno
import gzip
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference.formats import itk, nifti, nifti_stream
from inference.formats.ct import (
    CaseError,
    NativeGrid,
    read_ct,
    read_native_grid,
    write_label_map,
    write_roi_volume,
)
from inference.geometry import Roi, RoiSpec
from tests.helpers import (
    canonical_affine,
    files_under,
    load_nifti,
    orientations,
    reorient,
    rotation,
    save_dicom_series,
    save_nifti,
    save_sitk,
    world_affine,
)

ROOT = Path(__file__).resolve().parent.parent
SHAPE = (4, 5, 6)
SPACING_MM = (3.0, 0.75, 0.5)
AFFINE = canonical_affine(SPACING_MM, (10.0, -20.0, 30.5))
NIFTI_FIELDS_WRITTEN = {"datatype", "bitpix", "scl_slope", "scl_inter", "cal_min", "cal_max"}
"""What a label map's header may have other than its CT's."""


def some_hu(dtype: Any = np.int16) -> NDArray:
    """(z, y, x), no two voxels alike, with air; 0 … 119 for types without room for it."""
    values = np.arange(120).reshape(SHAPE)
    return (values if np.dtype(dtype).kind == "u" else values - 60).astype(dtype)


def raw_header(path: Path) -> NDArray:
    """All header fields as they lie on disk (nibabel's image headers forget the scaling)."""
    with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
        kind = nib.Nifti2Header if path.name.startswith("nifti2") else nib.Nifti1Header
        return kind.from_fileobj(file).structarr


def patched(path: Path, offset: int, replacement: bytes) -> Path:
    """Overwrite bytes of a file."""
    content = bytearray(path.read_bytes())
    content[offset : offset + len(replacement)] = replacement
    path.write_bytes(content)
    return path


# -------------------------------------------------------------------------------------------- reading: values


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", ">i2", "uint16", "int32", "float32", "float64", ">f8"]
)
def test_nifti_of_any_type_gives_its_values(tmp_path: Path, dtype: str, suffix: str) -> None:
    hu = some_hu(dtype)
    header = nib.Nifti1Header(endianness=">" if dtype.startswith(">") else "<")
    header.set_data_dtype(np.dtype(dtype))
    path = tmp_path / f"ct{suffix}"
    nib.save(nib.Nifti1Image(hu, AFFINE, header), path)
    assert load_nifti(path).header.get_data_dtype() == np.dtype(dtype), "the test's file is not as intended"
    ct = read_ct(path)
    assert ct.hu.dtype == np.int16
    assert ct.hu.flags.c_contiguous
    np.testing.assert_array_equal(ct.hu, hu.astype(int))
    assert ct.spacing_mm == pytest.approx(SPACING_MM)


def test_scale_and_intercept_are_applied(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "ct.nii", np.full(SHAPE, 500, dtype=np.int16), AFFINE)
    patched(path, 112, np.array([2.0, -1024.0], dtype="<f4").tobytes())  # scl_slope, scl_inter
    assert np.unique(read_ct(path).hu).tolist() == [2 * 500 - 1024]


def test_float_hu_are_rounded_and_clipped(tmp_path: Path) -> None:
    hu = np.zeros(SHAPE)
    hu[0, 0, :6] = [10.4, 10.6, -10.6, 1e6, -1e6, -1000]
    ct = read_ct(save_nifti(tmp_path / "ct.nii", hu, AFFINE))
    assert ct.hu[0, 0].tolist() == [10, 11, -11, 32767, -32768, -1000]


def test_uint16_above_int16_is_clipped_and_does_not_wrap(tmp_path: Path) -> None:
    hu = np.full(SHAPE, 40000, dtype=np.uint16)
    hu[0] = 0
    ct = read_ct(save_nifti(tmp_path / "ct.nii", hu, AFFINE))
    assert ct.hu.max() == 32767
    assert "values reach 32767, the highest that is kept: perhaps no Hounsfield units" in ct.warnings


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nan_and_infinity_become_air_with_a_warning(tmp_path: Path, suffix: str) -> None:
    hu = np.full(SHAPE, -500.0)
    hu[0, 0, :3] = [np.nan, np.inf, -np.inf]
    ct = read_ct(save_nifti(tmp_path / f"ct{suffix}", hu, AFFINE))
    assert ct.hu[0, 0].tolist() == [-1024, -1024, -1024, -500, -500, -500]
    assert ct.warnings == ("3 voxels are NaN or infinite; taken as air",)


def test_values_without_air_are_warned_of(tmp_path: Path) -> None:
    without = read_ct(save_nifti(tmp_path / "a.nii", some_hu() + 67, AFFINE))
    assert len(without.warnings) == 1
    assert "values run from 7 to 126" in without.warnings[0]
    constant = read_ct(save_nifti(tmp_path / "c.nii", np.full(SHAPE, -7, dtype=np.int16), AFFINE))
    assert constant.warnings == ("all voxels are -7: the scan is empty",)
    assert read_ct(save_nifti(tmp_path / "b.nii", some_hu(), AFFINE)).warnings == ()


def test_one_volume_in_4d_and_5d_is_taken(tmp_path: Path) -> None:
    four = save_nifti(tmp_path / "4d.nii.gz", some_hu()[..., None], AFFINE)
    five = save_nifti(tmp_path / "5d.nii", some_hu()[..., None, None], AFFINE)
    for path in (four, five):
        ct = read_ct(path)
        np.testing.assert_array_equal(ct.hu, some_hu())
        write_label_map(tmp_path / "out.nii.gz", np.zeros(SHAPE, dtype=np.uint8), ct.native)
        assert load_nifti(tmp_path / "out.nii.gz").shape == SHAPE
    image = sitk.JoinSeries([sitk.GetImageFromArray(some_hu())])
    sitk.WriteImage(image, str(tmp_path / "4d.nrrd"))
    np.testing.assert_array_equal(read_ct(tmp_path / "4d.nrrd").hu, some_hu())


def test_reading_in_pieces_gives_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hu = some_hu(np.float64)
    kits = save_nifti(tmp_path / "ct.nii.gz", *reorient(hu, AFFINE, ((2, 0, 1), (True, False, True))))
    for n_bytes, n_slices in (
        (1, 1),
        (8 * 20, 2),
        (8 * 50, 3),
        (1 << 20, 64),
    ):  # with a rest, and all at once
        monkeypatch.setattr(nifti_stream, "PIECE_BYTES", n_bytes)
        monkeypatch.setattr(nifti_stream, "SLAB_SLICES", n_slices)
        np.testing.assert_array_equal(read_ct(kits).hu, hu)


def test_float64_never_lies_in_memory_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (100, 100, 100)
    path = save_nifti(tmp_path / "ct.nii.gz", np.full(shape, -1000.0), AFFINE)
    monkeypatch.setattr(nifti_stream, "PIECE_BYTES", 100_000)
    monkeypatch.setattr(nifti_stream, "SLAB_SLICES", 16)
    tracemalloc.start()
    try:
        ct = read_ct(path)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert ct.hu.nbytes == 2_000_000
    assert peak_bytes < 4_500_000  # int16 whole, and a few copies of a piece; float64 alone has 8 MB


# ------------------------------------------------------------------------------------------ reading: geometry


def test_axes_of_common_layouts_by_hand(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6), dtype=np.int16)
    ipl = np.array(
        [[0, 0, -0.5, 0], [0, -0.75, 0, 0], [-3.0, 0, 0, 0], [0, 0, 0, 1]]
    )  # KiTS: feet, back, left
    ct = read_ct(save_nifti(tmp_path / "ipl.nii", stored, ipl))
    np.testing.assert_array_equal(ct.hu, stored[::-1])
    assert ct.spacing_mm == (3.0, 0.75, 0.5)

    ras = np.diag([0.5, 0.75, 3.0, 1.0])
    ct = read_ct(save_nifti(tmp_path / "ras.nii", stored, ras))
    np.testing.assert_array_equal(ct.hu, stored.transpose(2, 1, 0)[:, ::-1, ::-1])
    assert ct.spacing_mm == (3.0, 0.75, 0.5)

    lps = np.diag([-0.5, -0.75, 3.0, 1.0])
    ct = read_ct(save_nifti(tmp_path / "lps.nii", stored, lps))
    np.testing.assert_array_equal(ct.hu, stored.transpose(2, 1, 0))


@pytest.mark.parametrize("suffix", [".nii", ".mha", ".nrrd"])
@pytest.mark.parametrize("tilt", [np.eye(4), rotation(12, -8, 20)], ids=["straight", "oblique"])
def test_every_orientation_reads_the_same_and_writes_back_where_it_was(
    tmp_path: Path, suffix: str, tilt: NDArray[np.float64]
) -> None:
    """One labelled voxel in all 48 orientations: same canonical index, same place in the world."""
    hu = some_hu()
    affine = tilt @ AFFINE
    marker = (1, 3, 4)
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[marker] = 2
    where_mm = (affine @ [*marker, 1])[:3]
    path, out = tmp_path / f"ct{suffix}", tmp_path / f"out{suffix}"
    for orientation in orientations():
        stored, stored_affine = reorient(hu, affine, orientation)
        native = NativeGrid(tuple(stored.shape), stored_affine)  # type: ignore[arg-type]
        write_ct(path, stored, native)
        ct = read_ct(path)
        np.testing.assert_array_equal(ct.hu, hu)
        assert ct.spacing_mm == pytest.approx(SPACING_MM, abs=1e-5)
        assert ct.native.canonical_shape == SHAPE
        write_label_map(out, labels, ct.native)
        written, written_affine = stored_with_world(out)
        assert np.abs(written_affine - stored_affine).sum() < 1e-3
        (index,) = np.argwhere(written == 2)
        np.testing.assert_allclose((written_affine @ [*index, 1])[:3], where_mm, atol=1e-3)
        assert np.count_nonzero(written) == 1


def write_ct(path: Path, stored: NDArray, native: NativeGrid) -> None:
    """Write (i, j, k) voxels in any format, by nibabel or ITK directly."""
    if path.suffix == ".nii":
        save_nifti(path, stored, native.affine)
        return
    image = sitk.GetImageFromArray(np.ascontiguousarray(stored.transpose(2, 1, 0)))
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ native.affine
    spacing = np.sqrt((lps[:3, :3] ** 2).sum(axis=0))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path))


def stored_with_world(path: Path) -> tuple[NDArray, NDArray[np.float64]]:
    """(i, j, k) voxels and their affine in RAS."""
    if path.suffix == ".nii":
        image = load_nifti(path)
        return np.asarray(image.dataobj), image.affine
    itk = sitk.ReadImage(str(path))
    return sitk.GetArrayFromImage(itk).transpose(2, 1, 0), world_affine(itk)


def test_mhd_with_its_raw_is_read(tmp_path: Path) -> None:
    path = save_sitk(tmp_path / "ct.mhd", some_hu(), SPACING_MM)
    assert files_under(tmp_path) == ["ct.mhd", "ct.raw"]
    ct = read_ct(path)
    np.testing.assert_array_equal(ct.hu, some_hu())  # ITK's own axes are x, y, z in LPS
    assert ct.spacing_mm == pytest.approx(SPACING_MM)


# ------------------------------------------------------------------------------------------------------ DICOM


def test_dicom_folder_has_the_right_hu_and_place(tmp_path: Path) -> None:
    folder = save_dicom_series(
        tmp_path / "series", some_hu(), spacing_mm=(3.0, 0.8, 0.7), origin_mm=(-11.0, -22.0, 33.0)
    )
    ct = read_ct(folder)
    np.testing.assert_array_equal(ct.hu, some_hu())
    assert ct.spacing_mm == pytest.approx((3.0, 0.8, 0.7))
    assert ct.warnings == ()
    # DICOM says LPS; nibabel and NIfTI say RAS
    expected = np.array([[-0.7, 0, 0, 11], [0, -0.8, 0, 22], [0, 0, 3, 33], [0, 0, 0, 1]])
    np.testing.assert_allclose(ct.native.affine, expected, atol=1e-6)
    write_label_map(tmp_path / "out.nii.gz", np.ones(SHAPE, dtype=np.uint8), ct.native)
    written = load_nifti(tmp_path / "out.nii.gz")
    np.testing.assert_allclose(written.affine, expected, atol=1e-5)
    assert written.shape == (6, 5, 4)


def test_dicom_with_a_missing_slice_is_warned_of(tmp_path: Path) -> None:
    folder = save_dicom_series(tmp_path / "gap", some_hu(), spacing_mm=SPACING_MM, z_mm=[0, 3, 6, 12])
    (warning,) = read_ct(folder).warnings
    assert "slices lie 3 to 6 mm apart" in warning


def test_two_dicom_series_in_one_folder_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "two"
    save_dicom_series(folder, some_hu(), series_uid="1.2.3.1")
    for file in list(folder.iterdir()):
        file.rename(file.with_name("first_" + file.name))
    save_dicom_series(folder, some_hu(), series_uid="1.2.3.2")
    with pytest.raises(CaseError, match="two: holds 2 DICOM series of a CT, not one"):
        read_ct(folder)


# ----------------------------------------------------------------------------------------------------- errors


def _truncated_gz(folder: Path) -> Path:
    noise = np.random.default_rng(0).integers(-1000, 1000, (20, 20, 20), dtype=np.int16)
    path = save_nifti(folder / "ct.nii.gz", noise, AFFINE)
    path.write_bytes(path.read_bytes()[:-3000])
    return path


def _truncated_nii(folder: Path) -> Path:
    path = save_nifti(folder / "ct.nii", some_hu(), AFFINE)
    path.write_bytes(path.read_bytes()[:-1])
    return path


def _damaged_gz(folder: Path) -> Path:
    noise = np.random.default_rng(0).integers(-1000, 1000, (20, 20, 20), dtype=np.int16)
    path = save_nifti(folder / "ct.nii.gz", noise, AFFINE)
    return patched(path, path.stat().st_size // 2, b"\0" * 200)


def _truncated_itk(folder: Path, name: str) -> Path:
    path = save_sitk(folder / name, some_hu())
    path.write_bytes(path.read_bytes()[:-50])
    return path


def _empty(folder: Path, name: str) -> Path:
    (folder / name).touch()
    return folder / name


def _empty_inside_gz(folder: Path) -> Path:
    with gzip.open(folder / "ct.nii.gz", "wb"):
        pass
    return folder / "ct.nii.gz"


def _mhd_without_raw(folder: Path) -> Path:
    path = save_sitk(folder / "ct.mhd", some_hu())
    (folder / "ct.raw").unlink()
    return path


def _complex(folder: Path) -> Path:
    return save_nifti(folder / "ct.nii", np.zeros(SHAPE, dtype=np.complex64), AFFINE)


def _rgb_nifti(folder: Path) -> Path:
    rgb = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    return save_nifti(folder / "ct.nii", rgb, AFFINE)


def _rgb_itk(folder: Path) -> Path:
    sitk.WriteImage(sitk.Image([6, 5, 4], sitk.sitkVectorUInt8, 3), str(folder / "ct.mha"))
    return folder / "ct.mha"


def _four_volumes_itk(folder: Path) -> Path:
    volume = sitk.GetImageFromArray(some_hu())
    sitk.WriteImage(sitk.JoinSeries([volume, volume]), str(folder / "ct.nrrd"))
    return folder / "ct.nrrd"


def _flat_itk(folder: Path) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(some_hu()[0]), str(folder / "ct.mha"))
    return folder / "ct.mha"


def _with_sform(folder: Path, row_x: list[float]) -> Path:
    path = save_nifti(folder / "ct.nii", some_hu(), AFFINE)
    return patched(path, 280, np.array(row_x, dtype="<f4").tobytes())


def _claims_much(folder: Path, suffix: str) -> Path:
    """KiTS19's largest case by its header, a few hundred bytes by its body."""
    path = save_nifti(folder / "ct.nii", some_hu(np.float64), AFFINE)
    patched(path, 42, np.array([1059, 512, 512], dtype="<i2").tobytes())
    if suffix == ".nii":
        return path
    with gzip.open(folder / "ct.nii.gz", "wb") as file:
        file.write(path.read_bytes())
    return folder / "ct.nii.gz"


BAD_FILES = {
    "truncated gz": (_truncated_gz, "cannot be read"),
    "truncated nii": (_truncated_nii, "cannot be read"),
    "damaged gz": (_damaged_gz, "cannot be read"),
    "truncated mha": (lambda f: _truncated_itk(f, "ct.mha"), "more than the file can hold"),
    "truncated nrrd": (lambda f: _truncated_itk(f, "ct.nrrd"), "more than the file can hold"),
    "empty nii": (lambda f: _empty(f, "ct.nii"), "cannot be read"),
    "empty nii.gz": (lambda f: _empty(f, "ct.nii.gz"), "cannot be read"),
    "empty inside gz": (_empty_inside_gz, "cannot be read"),
    "empty mha": (lambda f: _empty(f, "ct.mha"), "cannot be read"),
    "empty nrrd": (lambda f: _empty(f, "ct.nrrd"), "cannot be read"),
    "no such file": (lambda f: f / "ct.nii.gz", "cannot be read"),
    "not gzip": (
        lambda f: save_nifti(f / "a.nii", some_hu(), AFFINE).rename(f / "ct.nii.gz"),
        "cannot be read",
    ),
    "wrong magic": (
        lambda f: patched(save_nifti(f / "ct.nii", some_hu(), AFFINE), 344, b"xyz"),
        "cannot be read",
    ),
    "unknown type code": (
        lambda f: patched(save_nifti(f / "ct.nii", some_hu(), AFFINE), 70, b"\xe7\x03"),
        "data code 999",
    ),
    "mhd without raw": (_mhd_without_raw, "cannot be read"),
    "empty DICOM folder": (lambda f: f, "holds 0 DICOM series"),
    "2D": (lambda f: save_nifti(f / "ct.nii", some_hu()[0], AFFINE), "5 × 6 voxels, not a 3D image"),
    "one slice": (
        lambda f: save_nifti(f / "ct.nii", some_hu()[:1], AFFINE),
        "1 × 5 × 6 voxels, not a 3D image",
    ),
    "2D mha": (_flat_itk, "2D with 1 components"),
    "4D": (lambda f: save_nifti(f / "ct.nii", np.stack([some_hu()] * 3, -1), AFFINE), "4 × 5 × 6 × 3 voxels"),
    "4D nrrd": (_four_volumes_itk, "holds 2 volumes"),
    "complex": (_complex, "voxels are complex64"),
    "RGB nii": (_rgb_nifti, "not single numbers"),
    "RGB mha": (_rgb_itk, "3D with 3 components"),
    "NaN affine": (lambda f: _with_sform(f, [np.nan, 0, -0.5]), "spacing .* is not usable"),
    "no spacing": (lambda f: _with_sform(f, [0, 0, 0]), "spacing .* is not usable"),
    "absurd spacing": (lambda f: _with_sform(f, [0, 0, -500]), "spacing .* is not usable"),
    "sheared": (lambda f: _with_sform(f, [3.0 * 0.03, 0, -0.5]), "not at right angles"),
    "claims much": (lambda f: _claims_much(f, ".nii"), "claims 2220883968 bytes"),
    "claims much, gz": (lambda f: _claims_much(f, ".nii.gz"), "claims 2220883968 bytes"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_file_is_one_clear_line_that_names_it(tmp_path: Path, kind: str) -> None:
    make, expected = BAD_FILES[kind]
    path = make(tmp_path)
    with pytest.raises(CaseError, match=expected) as caught:
        read_ct(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "does not fit in memory. Give the process more, or crop the CT"),
        (PermissionError(13, "Permission denied"), r"may not be read by user \d+. Change its rights"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_the_files_fault_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fail(path: Path) -> None:
        raise error

    path = save_nifti(tmp_path / "ct.nii", some_hu(), AFFINE)
    monkeypatch.setattr(nifti, "read", fail)
    with pytest.raises(CaseError, match=rf"ct\.nii: {said}"):
        read_ct(path)


@given(offset=st.integers(0, 347), replacement=st.binary(min_size=1, max_size=8))
def test_a_damaged_header_never_gives_anything_but_a_case_error(
    tmp_path_factory: pytest.TempPathFactory, offset: int, replacement: bytes
) -> None:
    path = save_nifti(tmp_path_factory.mktemp("fuzz") / "ct.nii", some_hu(), AFFINE)
    patched(path, offset, replacement)
    with contextlib.suppress(CaseError):
        assert read_ct(path).hu.shape == read_native_grid(path).canonical_shape


def test_a_spacing_of_0_does_not_matter_beside_an_sform(tmp_path: Path) -> None:
    path = patched(save_nifti(tmp_path / "ct.nii", some_hu(), AFFINE), 80, bytes(12))  # pixdim
    assert read_ct(path).spacing_mm == pytest.approx(SPACING_MM)


def test_little_shear_as_gantry_rounding_leaves_is_accepted(tmp_path: Path) -> None:
    cosine = 0.01
    path = _with_sform(tmp_path, [3.0 * cosine, 0, -0.5])
    assert read_ct(path).hu.shape == SHAPE


def test_grid_of_a_file_with_unreadable_voxels(tmp_path: Path) -> None:
    path = _truncated_gz(tmp_path)
    native = read_native_grid(path)
    assert native.shape == (20, 20, 20)
    np.testing.assert_allclose(native.affine, AFFINE, atol=1e-6)
    path = _truncated_itk(tmp_path, "ct.mha")
    assert read_native_grid(path).canonical_shape == SHAPE
    with pytest.raises(CaseError, match=r"absent\.nii"):
        read_native_grid(tmp_path / "absent.nii")


# ---------------------------------------------------------------------------------------------------- writing


def _qform_only(image: Any) -> None:
    image.set_qform(image.affine, 1)
    image.set_sform(None, 0)


def _sform_only(image: Any) -> None:
    image.set_qform(None, 0)
    image.set_sform(image.affine, 2)


def _both(image: Any) -> None:
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 4)


def _neither(image: Any) -> None:
    image.set_qform(None, 0)
    image.set_sform(None, 0)


def _both_and_different(image: Any) -> None:
    image.set_sform(image.affine, 2)
    image.set_qform(rotation(0, 0, 15) @ image.affine, 1)


FORMS = {
    "qform only": (_qform_only, (1, 0)),
    "sform only": (_sform_only, (0, 2)),
    "both": (_both, (1, 4)),
    "neither": (_neither, (0, 0)),
    "both, different": (_both_and_different, (1, 2)),
}


@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nii", "nifti2.nii.gz"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float64", ">i2"])
def test_nifti_header_survives_but_for_the_documented_fields(
    tmp_path: Path, form: str, name: str, dtype: str
) -> None:
    set_form, codes = FORMS[form]
    stored, affine = reorient(some_hu(dtype), rotation(5, 0, 9) @ AFFINE, ((2, 0, 1), (True, False, False)))
    image_class, header_class = (
        (nib.Nifti2Image, nib.Nifti2Header)
        if name.startswith("nifti2")
        else (nib.Nifti1Image, nib.Nifti1Header)
    )
    header = header_class(endianness=dtype[0] if dtype[0] in "<>" else "<")
    header.set_data_dtype(np.dtype(dtype))
    header.set_xyzt_units("mm", "sec")
    header["descrip"] = b"odd but legal"
    header["aux_file"] = b"none"
    header["toffset"] = 3.5
    header["cal_max"], header["cal_min"] = 240, -160
    header.set_slope_inter(1, 0)
    header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"kept"))
    image = image_class(stored, affine, header)
    set_form(image)
    source, target = tmp_path / name, tmp_path / "out" / name
    nib.save(image, source)

    ct = read_ct(source)
    write_label_map(target, np.full(ct.hu.shape, 2, dtype=np.uint8), ct.native)

    before, after = raw_header(source), raw_header(target)
    for field in before.dtype.names or ():
        if field not in NIFTI_FIELDS_WRITTEN:
            np.testing.assert_array_equal(after[field], before[field], err_msg=field)
    assert (int(after["qform_code"]), int(after["sform_code"])) == codes
    assert (int(after["datatype"]), int(after["bitpix"])) == (2, 8)  # uint8
    assert (float(after["scl_slope"]), float(after["scl_inter"])) == (1.0, 0.0)
    assert (float(after["cal_min"]), float(after["cal_max"])) == (0.0, 0.0)  # no window of the CT's
    written = load_nifti(target)
    np.testing.assert_array_equal(written.affine, load_nifti(source).affine)
    assert written.header.extensions[0].get_content() == b"kept"
    assert written.get_data_dtype() == np.uint8
    assert np.unique(np.asarray(written.dataobj)).tolist() == [2]


def test_kits_layout_survives(tmp_path: Path) -> None:
    """float64, I,P,L, sform only: as KiTS19 has it; labels come out in stored order."""
    affine = np.array([[0, 0, -0.78, 0], [0, -0.78, 0, 0], [-0.5, 0, 0, 0], [0, 0, 0, 1]])
    stored = np.full((7, 6, 5), -1000.0)
    image = nib.Nifti1Image(stored, affine)
    image.set_qform(None, 0)
    image.set_sform(affine, 2)
    nib.save(image, tmp_path / "imaging.nii.gz")
    ct = read_ct(tmp_path / "imaging.nii.gz")
    labels = np.zeros((7, 6, 5), dtype=np.uint8)
    labels[0, 1, 2] = 1  # the lowest slice in canonical axes is the last one stored
    write_label_map(tmp_path / "prediction.nii.gz", labels, ct.native)
    written = load_nifti(tmp_path / "prediction.nii.gz")
    assert np.argwhere(np.asarray(written.dataobj)).tolist() == [[6, 1, 2]]
    assert written.affine.tolist() == load_nifti(tmp_path / "imaging.nii.gz").affine.tolist()


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha", "a.nrrd"])
def test_nothing_but_the_final_file_is_left(tmp_path: Path, name: str) -> None:
    ct = read_ct(save_nifti(tmp_path / "in" / "ct.nii", some_hu(), AFFINE))
    out = tmp_path / "new" / "folders"
    for _ in range(2):  # and writing again replaces it
        write_label_map(out / name, np.ones(SHAPE, dtype=np.uint8), ct.native)
        assert files_under(out) == [name]


def test_labels_of_another_shape_or_without_a_format_are_refused(tmp_path: Path) -> None:
    hu = np.full((4, 5, 6), -100, np.int16)
    ct = read_ct(save_nifti(tmp_path / "ct.nii.gz", hu, np.diag([1.0, 2.0, 3.0, 1.0])))
    labels = np.zeros(ct.hu.shape, np.uint8)
    for wrong in (labels[1:], labels.transpose(2, 1, 0)):
        with pytest.raises(ValueError, match=r"shape \(\d, \d, \d\): not the CT's"):
            write_label_map(tmp_path / "out.nii.gz", wrong, ct.native)
    with pytest.raises(ValueError, match=r"out\.png: no format has this suffix\. Use one of \.nii"):
        write_label_map(tmp_path / "out.png", labels, ct.native)
    assert [path.name for path in tmp_path.iterdir()] == ["ct.nii.gz"]


def test_labels_begin_where_the_header_of_their_ct_says(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "ct.nii", some_hu(), AFFINE)
    content = path.read_bytes()
    gap = content[:108] + np.float32(400).tobytes() + content[112:352] + bytes(48) + content[352:]
    path.write_bytes(gap)  # as some writers align voxels
    ct, labels = read_ct(path), np.arange(120, dtype=np.uint8).reshape(SHAPE)
    np.testing.assert_array_equal(ct.hu, some_hu())
    write_label_map(tmp_path / "labels.nii", labels, ct.native)
    np.testing.assert_array_equal(load_nifti(tmp_path / "labels.nii").dataobj, labels)


def test_the_same_labels_are_the_same_file_whatever_its_name_and_the_time(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        write_label_map(tmp_path / name, np.ones(SHAPE, np.uint8), NativeGrid(SHAPE, AFFINE))
    content = (tmp_path / "a.nii.gz").read_bytes()
    assert content == (tmp_path / "b.nii.gz").read_bytes()
    assert content[4:8] == bytes(4)  # gzip's time


def test_mhd_writes_its_voxels_beside_it(tmp_path: Path) -> None:
    labels = (some_hu() % 3).astype(np.uint8)
    ct = read_ct(save_sitk(tmp_path / "in" / "ct.mhd", some_hu(), SPACING_MM))
    write_label_map(tmp_path / "out" / "ct.mhd", labels, ct.native)
    assert files_under(tmp_path / "out") == ["ct.mhd", "ct.zraw"]
    image = sitk.ReadImage(str(tmp_path / "out" / "ct.mhd"))
    assert image.GetPixelID() == sitk.sitkUInt8
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), labels)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mha"])
def test_compressed_formats_are_compressed(tmp_path: Path, name: str) -> None:
    native = NativeGrid((40, 50, 60), np.diag([-1.0, -1.0, 1.0, 1.0]))
    write_label_map(tmp_path / name, np.zeros(native.canonical_shape, dtype=np.uint8), native)
    assert (tmp_path / name).stat().st_size < 40 * 50 * 60 / 50


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mha"])
@pytest.mark.parametrize("earlier", [None, b"an earlier run's label map"])
def test_a_failure_midway_leaves_no_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, earlier: bytes | None
) -> None:
    if earlier is not None:
        (tmp_path / name).write_bytes(earlier)

    def fail_midway(*arguments: Any, **keywords: Any) -> None:
        target = next(Path(a) for a in arguments if isinstance(a, str | Path))
        target.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    def fail_in_stream(stream: Any, *rest: Any) -> None:
        stream.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(nifti, "_write_stream", fail_in_stream)
    monkeypatch.setattr(itk.sitk, "WriteImage", fail_midway)
    native = NativeGrid(SHAPE, AFFINE)
    with pytest.raises(OSError, match="No space left"):
        write_label_map(tmp_path / name, np.zeros(SHAPE, dtype=np.uint8), native)
    assert files_under(tmp_path) == ([] if earlier is None else [name])
    if earlier is not None:
        assert (tmp_path / name).read_bytes() == earlier


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha", "a.nrrd", "a.mhd"])
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    """A limit of 100 bytes a file, in a process of its own, stands for the disk."""
    code = (
        "import resource, sys, numpy as np; from pathlib import Path\n"
        "from inference.formats.ct import NativeGrid, write_label_map\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "labels = np.random.default_rng(0).integers(0, 3, (9, 9, 9), dtype=np.uint8)\n"
        "native = NativeGrid((9, 9, 9), np.diag([-1, -1, 1, 1]))\n"
        "try:\n    write_label_map(Path(sys.argv[1]), labels, native)\n"
        "except OSError as error:\n    sys.exit(7)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / name)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 7, done.stderr
    assert files_under(tmp_path) == []


def test_roi_volume_lies_where_the_roi_does(tmp_path: Path) -> None:
    """A marker on the ROI grid, in a CT whose stored axes are turned and tilted."""
    stored, affine = reorient(some_hu(), rotation(10, 5, -7) @ AFFINE, ((1, 2, 0), (True, True, False)))
    ct = read_ct(save_nifti(tmp_path / "ct.nii", stored, affine))
    # ROI index (2, 1, 3) is CT index (z, y, x) = start + step · index = (2.0, 1.5, 4.0), all by hand
    roi = Roi(RoiSpec((8, 8, 8), 2.0), start_vox=(1.0, 1.0, 1.0), step_vox=(0.5, 0.5, 1.0))
    marker = np.zeros((8, 8, 8), dtype=np.float32)
    marker[2, 1, 3] = 0.75
    write_roi_volume(tmp_path / "p" / "roi.nii.gz", marker, roi, ct.native)
    written = load_nifti(tmp_path / "p" / "roi.nii.gz")
    values = np.asarray(written.dataobj)
    assert values.dtype == np.float32
    (index,) = np.argwhere(values)
    expected_mm = rotation(10, 5, -7) @ AFFINE @ [2.0, 1.5, 4.0, 1.0]
    np.testing.assert_allclose(written.affine @ [*index, 1.0], expected_mm, atol=1e-4)
    assert files_under(tmp_path / "p") == ["roi.nii.gz"]

"""KiTS19 folders to cache entries: geometry by hand, the odd headers, broken cases."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

from inference.geometry import RoiSpec
from inference.method.roi import place_roi
from tests.helpers import truncate
from training.cli import main
from training.config import AS_THEY_ARE
from training.data import place_patient, sample_inside, sample_labels
from training.prepare import (
    LABEL_SPACING_MM,
    cached_names,
    load_label_maps,
    load_roi_image,
    prepare,
    resample_labels,
)

SPACING_MM = (4.0, 2.0, 2.0)
SHAPE = (30, 60, 80)
ROI = RoiSpec(shape_vox=(64, 64, 80))


def kits_affine() -> NDArray[np.float64]:
    """I,P,L: the first axis runs head to feet."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = (-s for s in SPACING_MM)
    affine[3, 3] = 1
    return affine


def truth() -> NDArray[np.uint8]:
    """(z, y, x), z to superior: two boxes of kidney, a tumor in the upper part of the left one."""
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[8:20, 30:46, 10:26] = 1
    labels[10:22, 30:46, 50:66] = 1
    labels[18:22, 30:40, 52:62] = 2
    return labels


def save_case(folder: Path, *, image: bool = True, qform_only: bool = False) -> Path:
    folder.mkdir(parents=True)
    labels = truth()[::-1]
    names = {"segmentation.nii.gz": labels.astype(np.uint16 if qform_only else np.uint8)}
    if image:
        names["imaging.nii.gz"] = np.where(labels > 0, 100.0, -100.0).astype(np.float64)
    for name, array in names.items():
        nifti = nib.Nifti1Image(np.ascontiguousarray(array), kits_affine())
        nifti.set_sform(kits_affine(), 0 if qform_only else 1)
        nifti.set_qform(kits_affine(), 1 if qform_only else 0)
        nib.save(nifti, folder / name)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kits19")
    save_case(folder / "case_00000")
    save_case(folder / "case_00015", qform_only=True)
    save_case(folder / "case_00020", image=False)
    truncate(save_case(folder / "case_00030") / "imaging.nii.gz")
    return folder


@pytest.fixture(scope="module")
def cache(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    failed = prepare(data, folder, roi=ROI)
    assert list(failed) == ["case_00030"]
    assert "imaging.nii.gz" in failed["case_00030"]
    return folder


def test_whole_cases_are_there_and_the_broken_one_is_not(cache: Path) -> None:
    assert cached_names(cache) == ["case_00000", "case_00015", "case_00020"]


def test_a_label_map_is_where_the_file_has_it(cache: Path) -> None:
    for found in load_label_maps(cache, cached_names(cache)):
        assert found.spacing_mm == LABEL_SPACING_MM
        np.testing.assert_allclose(found.scan_mm, np.multiply(SHAPE, SPACING_MM))
        voxels = np.argwhere(found.labels == 2) * found.spacing_mm + found.first_mm
        # tumor voxels 18..21, 30..39, 52..61 about the scan's centre, outer faces in mm
        np.testing.assert_allclose(voxels.min(0) - 1, [(18 - 15) * 4, 0, (52 - 40) * 2], atol=1)
        np.testing.assert_allclose(voxels.max(0) + 1, [(22 - 15) * 4, 20, (62 - 40) * 2], atol=1)


def test_volumes_are_kept(cache: Path) -> None:
    for found in load_label_maps(cache, cached_names(cache)):
        for label in (1, 2):
            expected = (truth() >= label).sum() * np.prod(SPACING_MM)
            assert (found.labels >= label).sum() * 8 == pytest.approx(expected, rel=0.05)


def test_odd_headers_give_the_same_entry(cache: Path) -> None:
    plain, odd, _ = load_label_maps(cache, cached_names(cache))
    np.testing.assert_array_equal(plain.labels, odd.labels)
    assert plain.first_mm == odd.first_mm


def test_the_image_lies_on_its_labels(cache: Path) -> None:
    roi = load_roi_image(cache, "case_00000", ROI)
    assert roi.image.shape == roi.labels.shape == ROI.shape_vox
    kidney, fat = (100 + 160) / 400, (-100 + 160) / 400
    inside = roi.labels > 0
    assert np.median(roi.image[inside]) == pytest.approx(kidney, abs=1e-3)
    assert np.median(roi.image[~inside]) == pytest.approx(fat, abs=1e-3)
    agree = (roi.image > (kidney + fat) / 2) == inside
    assert agree.mean() > 0.999


def test_entries_say_what_they_do_not_hold(cache: Path) -> None:
    with pytest.raises(ValueError, match=r"case_00020.*no image"):
        load_roi_image(cache, "case_00020", ROI)
    with pytest.raises(ValueError, match="another ROI"):
        load_roi_image(cache, "case_00000", RoiSpec())
    with pytest.raises(ValueError, match="no prepared cases"):
        cached_names(cache / "nowhere")


def test_a_second_call_only_does_what_is_missing(data: Path, cache: Path) -> None:
    entry = cache / "case_00000.npz"
    before = entry.stat().st_mtime_ns
    assert list(prepare(data, cache, roi=ROI)) == ["case_00030"]
    assert entry.stat().st_mtime_ns == before
    assert not list(cache.glob(".*"))


def test_the_command_counts_failures(data: Path, cache: Path) -> None:
    assert CliRunner().invoke(main, ["prepare", str(data), str(cache / "nothing"), "--help"]).exit_code == 0
    assert CliRunner().invoke(main, ["prepare", str(cache), str(cache)]).exit_code == 2


def test_labels_on_an_equal_grid_stay_as_they_are() -> None:
    labels = truth().astype(np.int16)
    roi = place_roi(labels.shape, (2.0, 2.0, 2.0), RoiSpec(shape_vox=SHAPE))
    np.testing.assert_array_equal(resample_labels(labels, roi), labels)


def test_thin_structures_survive_as_their_share_of_a_voxel() -> None:
    labels = np.zeros((8, 40, 40), dtype=np.int16)
    labels[:, :, 8:32] = 1
    labels[:, :, 20] = 0  # a gap of one voxel of 0.5 mm closes at 2 mm
    roi = place_roi(labels.shape, (2.0, 0.5, 0.5), RoiSpec(shape_vox=(8, 8, 8)))
    found = resample_labels(labels, roi)
    assert found[4, 4].tolist() == [0, 1, 1, 1, 1, 1, 1, 0]


def test_an_unvaried_patient_is_its_label_map(cache: Path) -> None:
    (source,) = load_label_maps(cache, ["case_00000"])
    patient = place_patient(source, AS_THEY_ARE, np.random.default_rng(0))
    sampled = sample_labels(
        patient,
        shape_vox=source.labels.shape,  # type: ignore[arg-type]
        spacing_mm=source.spacing_mm,
        origin_mm=source.first_mm,
        device=torch.device("cpu"),
    )
    np.testing.assert_array_equal(sampled.numpy(), source.labels)
    inside = sample_inside(
        patient,
        shape_vox=(61, 3, 3),
        spacing_mm=2.0,
        origin_mm=(-60.5, 0.0, 0.0),
        device=torch.device("cpu"),
    )
    assert inside[:, 1, 1].tolist() == [False] + [True] * 60  # the scan is 120 mm long

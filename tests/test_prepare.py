"""KiTS19 folders to cache entries: geometry by hand, the odd headers, broken cases."""

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from evaluation.label_grid import resample_labels, widening
from inference.geometry import RoiSpec
from inference.method.roi import place_roi
from tests.helpers import invoke, truncate
from training.cache import (
    HU_STEP,
    IGNORE,
    LOWEST_HU,
    MARGIN_MM,
    SCANS,
    SLAB_VOX,
    Scan,
    cached_names,
    load_label_maps,
    load_scans,
    save_scan,
)
from training.cli import main
from training.config import AS_THEY_ARE
from training.prepare import LABEL_SPACING_MM, Source, _prepare_case, _try_case, prepare
from training.synthetic import place_patient, sample_inside, sample_labels

SPACING_MM = (4.0, 2.0, 2.0)
SHAPE = (30, 60, 80)


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
    failed = prepare(data, folder, spacing_mm=2.0)
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
        labelled = np.argwhere(found.labels)
        around = np.stack([labelled.min(0), np.subtract(found.labels.shape, 1) - labelled.max(0)])
        assert (around * found.spacing_mm >= MARGIN_MM - 1).all()


def test_volumes_are_kept(cache: Path) -> None:
    for found in load_label_maps(cache, cached_names(cache)):
        for label in (1, 2):
            expected = (truth() >= label).sum() * np.prod(SPACING_MM)
            assert (found.labels >= label).sum() * 8 == pytest.approx(expected, rel=0.05)


def test_odd_headers_give_the_same_entry(cache: Path) -> None:
    plain, odd, _ = load_label_maps(cache, cached_names(cache))
    np.testing.assert_array_equal(plain.labels, odd.labels)
    assert plain.first_mm == odd.first_mm


def test_the_scan_lies_on_its_labels(cache: Path) -> None:
    one, odd = load_scans(cache)  # a case without an image has no scan
    assert (one.name, one.case, one.role) == ("case_00000", "case_00000", "train")
    assert one.has_kidney
    assert one.has_tumor
    assert one.grey.shape == one.labels.shape == (60, 60, 80)  # 4 mm slices on a grid of 2 mm
    np.testing.assert_array_equal(one.grey, odd.grey)
    hu, inside = one.grey * HU_STEP + LOWEST_HU, one.labels > 0
    assert np.median(hu[inside]) == pytest.approx(100, abs=HU_STEP)
    assert np.median(hu[~inside]) == pytest.approx(-100, abs=HU_STEP)
    assert ((hu > 0) == inside).mean() > 0.999
    assert (one.labels == 2).sum() * 8 == pytest.approx((truth() == 2).sum() * np.prod(SPACING_MM), rel=0.05)


def test_an_empty_cache_is_said(cache: Path) -> None:
    with pytest.raises(ValueError, match="no prepared cases"):
        cached_names(cache / "nowhere")


def save_nifti(path: Path, array: NDArray) -> None:
    """Stored as KiTS19 does: (z head to feet, y, x)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.ascontiguousarray(array[::-1]), kits_affine()), path)


def test_an_index_says_what_scans_are(tmp_path: Path) -> None:
    image = np.where(truth() > 0, 100, -100).astype(np.int16)
    ignored = np.where(truth() > 0, 255, 0).astype(np.uint8)
    index = {
        "full": {"labels": "official: 1 kidney, 2 tumor", "case": 7},
        "boxes": {"labels": "none; 255 ignore"},
        "empty": {"labels": "no kidney in view", "role": "set_aside"},
        "other": {"labels": "none", "role": "try"},
    }
    for name in index:
        save_nifti(tmp_path / name / "imaging.nii.gz", image)
    save_nifti(tmp_path / "full" / "segmentation.nii.gz", truth())
    save_nifti(tmp_path / "boxes" / "segmentation.nii.gz", ignored)
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert not prepare(tmp_path, tmp_path / "cache")
    boxes, empty, full = load_scans(tmp_path / "cache")
    assert (full.case, full.has_kidney, full.has_tumor, full.role) == ("case_00007", True, True, "train")
    assert set(np.unique(full.labels)) == {0, 1, 2}
    assert full.grey.shape == (40, 40, 53)  # 120 × 120 × 160 mm at 3 mm
    assert not boxes.has_kidney
    assert set(np.unique(boxes.labels)) == {0, IGNORE}
    assert (boxes.labels == IGNORE).sum() * 27 == pytest.approx((truth() > 0).sum() * 16, rel=0.05)
    assert (empty.role, empty.has_kidney, bool(empty.labels.any())) == ("set_aside", False, False)


def test_a_slice_becomes_a_slab_with_its_labels(tmp_path: Path) -> None:
    save_nifti(tmp_path / "one" / "imaging.nii.gz", np.where(truth() > 0, 100, -100).astype(np.int16)[19:20])
    save_nifti(tmp_path / "one" / "segmentation.nii.gz", truth()[19:20])
    (tmp_path / "index.json").write_text(json.dumps({"one": {"case": 3, "slice": 0}}))
    assert not prepare(tmp_path, tmp_path / "cache", spacing_mm=4.0)
    (one,) = load_scans(tmp_path / "cache")
    assert one.is_slice
    assert one.case == "case_00003"
    assert one.grey.shape == one.labels.shape == (SLAB_VOX, 30, 40)
    assert (one.labels == one.labels[0]).all()
    for label in (1, 2):
        assert (one.labels[0] == label).sum() * 16 == pytest.approx(
            (truth()[19] == label).sum() * 4, rel=0.15
        )


def test_a_slice_that_cannot_be_read_is_one_line_and_ends_no_other(tmp_path: Path) -> None:
    image, labels = np.zeros((1, 60, 80), np.int16), truth()[19:20]
    faults = {
        "a_no_image": "imaging.nii.gz: cannot be read",
        "b_cut_off": "imaging.nii.gz: cannot be read",
        "c_volume": r"imaging.nii.gz: is \(30, 60, 80\), not one slice",
        "d_ignored": "segmentation.nii.gz: values 0 to 255",
        "e_other_size": r"segmentation.nii.gz: has \(60, 40\) pixels, its CT \(60, 80\)",
    }
    for name in (*faults, "whole"):
        save_nifti(tmp_path / name / "imaging.nii.gz", image)
        save_nifti(tmp_path / name / "segmentation.nii.gz", labels)
    (tmp_path / "a_no_image" / "imaging.nii.gz").unlink()
    truncate(tmp_path / "b_cut_off" / "imaging.nii.gz")
    save_nifti(tmp_path / "c_volume" / "imaging.nii.gz", np.zeros(SHAPE, np.int16))
    save_nifti(tmp_path / "d_ignored" / "segmentation.nii.gz", np.where(labels > 1, IGNORE, labels))
    save_nifti(tmp_path / "e_other_size" / "segmentation.nii.gz", labels[:, :, :40])
    (tmp_path / "index.json").write_text(json.dumps({name: {"slice": 19} for name in (*faults, "whole")}))
    failed = prepare(tmp_path, tmp_path / "cache")
    assert list(failed) == list(faults)
    for name, reason in failed.items():
        assert re.search(faults[name], reason), reason
        assert "\n" not in reason
    assert [scan.name for scan in load_scans(tmp_path / "cache")] == ["whole"]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyError("x"), "case_00000: KeyError: 'x'. This is a bug: report it"),
        (MemoryError(), "case_00000: does not fit in memory. Prepare fewer cases at once, or crop the CT"),
        (OSError(28, "No space left on device"), "cache: No space left on device. Check the cache's folder"),
    ],
)
def test_what_nobody_expects_of_a_case_ends_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("training.prepare._prepare_case", fail)
    source = Source("case_00000", tmp_path / "case_00000", "kits", {})
    assert _try_case(source, tmp_path / "cache", 3.0) == f"{tmp_path}/{line}"


def test_totalsegmentators_layout(tmp_path: Path) -> None:
    left, right = (truth() > 0) & (np.arange(80) >= 40), (truth() > 0) & (np.arange(80) < 40)
    for case, masks in (("s0001", {"kidney_left": left, "kidney_right": right}), ("s0002", {"liver": left})):
        save_nifti(tmp_path / case / "ct.nii.gz", np.where(truth() > 0, 100, -100).astype(np.int16))
        for name, mask in masks.items():
            save_nifti(tmp_path / case / "segmentations" / f"{name}.nii.gz", mask.astype(np.uint8))
    assert not prepare(tmp_path, tmp_path / "cache")
    with_kidneys, without = load_scans(tmp_path / "cache")
    assert (with_kidneys.has_kidney, with_kidneys.has_tumor) == (True, False)
    assert (with_kidneys.labels == 1).sum() * 27 == pytest.approx((truth() > 0).sum() * 16, rel=0.05)
    assert not without.has_kidney
    assert not without.labels.any()


@pytest.mark.parametrize("value", [3, IGNORE])  # a cyst, as KiTS21 has them; what an index alone may hold
def test_a_label_that_is_no_kidney_is_one_line_with_its_remedy(tmp_path: Path, value: int) -> None:
    folder = save_case(tmp_path / "data" / "case_00001", image=False)
    labels = truth().copy()
    labels[9, 31, 11] = value
    save_nifti(folder / "segmentation.nii.gz", labels)
    (reason,) = prepare(tmp_path / "data", tmp_path / "cache").values()
    assert f"values 0 to {value}" in reason
    assert "Merge cysts" in reason


@pytest.mark.parametrize(
    ("labels", "affine", "said"),
    [
        (
            truth(),
            kits_affine() + np.outer([1, 0, 0, 0], [0, 0, 0, 1]),
            "lies on another grid than its CT. Get both again",
        ),
        (truth()[:, 1:], kits_affine(), "lies on another grid than its CT. Get both again"),
        (0 * truth(), kits_affine(), "nothing is labelled. Get the file again"),
    ],
    ids=["1 mm off", "shorter", "empty"],
)
def test_a_label_map_that_cannot_be_its_cts_is_told(
    tmp_path: Path, labels: NDArray[np.uint8], affine: NDArray[np.float64], said: str
) -> None:
    folder = save_case(tmp_path / "data" / "case_00001")
    nib.save(nib.Nifti1Image(labels, affine), folder / "segmentation.nii.gz")
    assert prepare(tmp_path / "data", tmp_path / "cache") == {
        "case_00001": f"{folder / 'segmentation.nii.gz'}: {said}"
    }


def test_a_second_call_only_does_what_is_missing(data: Path, cache: Path) -> None:
    entry = cache / "case_00000.npz"
    before = entry.stat().st_mtime_ns
    assert list(prepare(data, cache, spacing_mm=2.0)) == ["case_00030"]
    assert entry.stat().st_mtime_ns == before
    assert not list(cache.glob(".*"))


def test_another_spacing_makes_scans_anew(tmp_path: Path) -> None:
    save_case(tmp_path / "data" / "case_00001")
    for spacing_mm in (4.0, 2.0):
        assert not prepare(tmp_path / "data", tmp_path / "cache", spacing_mm=spacing_mm)
        assert [scan.spacing_mm for scan in load_scans(tmp_path / "cache")] == [spacing_mm]


def test_what_a_killed_call_leaves_is_no_entry(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    (tmp_path / SCANS).mkdir()
    one = Scan("one", "one", "train", *(np.zeros((2, 2, 2), np.uint8),) * 2, 2.0, False, False, False)
    label_map = Source("case_00020", data / "case_00020", "kits", {})
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", kill)
        with pytest.raises(KeyboardInterrupt):
            _prepare_case(label_map, tmp_path, 2.0)
        with pytest.raises(KeyboardInterrupt):
            save_scan(tmp_path / SCANS / "one.npz", one)
    assert len(list(tmp_path.rglob(".*"))) == 2
    assert not load_scans(tmp_path)
    with pytest.raises(ValueError, match="no prepared cases"):
        cached_names(tmp_path)
    _prepare_case(label_map, tmp_path, 2.0)
    save_scan(tmp_path / SCANS / "one.npz", one)
    assert cached_names(tmp_path) == ["case_00020"]
    assert [scan.name for scan in load_scans(tmp_path)] == ["one"]
    assert not list(tmp_path.rglob(".*"))


def test_the_command_counts_failures(data: Path, cache: Path) -> None:
    assert invoke(main, "prepare", data, cache / "nothing", "--help").exit_code == 0
    assert invoke(main, "prepare", cache, cache).exit_code == 2


def test_a_grid_voxel_is_wider_than_smaller_ones_alone() -> None:
    """A box of n voxels has the variance (n² − 1) / 12 more than one of them; a finer grid adds none."""
    np.testing.assert_allclose(widening(np.array([0.5, 1.0, 2.0, 5.0])), [0, 0, 0.5, 2**0.5])


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

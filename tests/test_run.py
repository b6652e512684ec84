"""One case from file to file, many cases beside each other, and the property that holds it all together."""

import errno
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from evaluation.metrics import dice
from inference.formats.ct import Ct, NativeGrid
from inference.geometry import RoiSpec
from inference.method.method import DEFAULT, PAPER, Method
from inference.method.segment import segment
from inference.networks.backends import DeviceMemoryError, Network
from inference.networks.cascade import Cascade
from inference.runner import run as run_module
from inference.runner import stop
from inference.runner.cases import find_cases
from inference.runner.report import CaseReport
from inference.runner.run import Options, run_cases
from tests.helpers import (
    ABDOMEN_SPACING_MM,
    AIR_HU,
    FAT_HU,
    KIDNEY_HU,
    SMALL_ROI,
    TUMOR_HU,
    abdomen,
    canonical_affine,
    files_under,
    load_nifti,
    metadata,
    orientations,
    reorient,
    rotation,
    save_abdomens,
    save_dicom_series,
    save_nifti,
    threshold_cascade,
    threshold_network,
    truncate,
    undo,
)

WAIT_S = 20.0
"""How long a thread waits for another before the test is taken as failed."""


def ct_of(hu: NDArray[np.int16], spacing_mm: tuple[float, float, float] = ABDOMEN_SPACING_MM) -> Ct:
    return Ct(hu, NativeGrid(hu.shape, canonical_affine(spacing_mm)))  # type: ignore[arg-type]


def run(folder: Path, out: Path, cascade: Cascade | None = None, **options: Any) -> list[CaseReport]:
    return run_cases(find_cases(folder), cascade or threshold_cascade(), Options(out, **options))


def by_name(reports: list[CaseReport]) -> dict[str, CaseReport]:
    return {report.name: report for report in reports}


# --------------------------------------------------------------------- the same in whatever axes it is stored


def lopsided_cascade() -> Cascade:
    """Networks that answer otherwise for any other orientation of the same ROI.

    With networks that treat all directions alike, a pipeline that forgets to turn an axis would pass.
    """
    bright, brighter = threshold_network(0.4), threshold_network(0.55)

    def kidney(roi: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.roll(bright(ndimage.gaussian_filter(roi, (0.3, 0.6, 0.9))), (1, 2, 3), (0, 1, 2))

    def tumor(roi: NDArray[np.float32]) -> NDArray[np.float32]:
        z, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in roi.shape), indexing="ij")
        slope = 0.5 * z + 0.3 * y + 0.2 * x
        return brighter((ndimage.gaussian_filter(roi, 0.5) + slope - 0.5).astype(np.float32))

    spec = RoiSpec((16, 32, 32), 4.0)  # shorter than the CT in z: the tiles take part too
    return Cascade(kidney, tumor, metadata("kidney", spec), metadata("tumor", spec))


@pytest.mark.parametrize("method", [DEFAULT, PAPER], ids=["default", "paper"])
@pytest.mark.parametrize("tilt", [np.eye(4), rotation(7, -12, 15)], ids=["straight", "oblique"])
def test_same_label_map_in_world_space_for_all_48_orientations(
    tmp_path: Path, tilt: NDArray[np.float64], method: Method
) -> None:
    spacing_mm = (4.0, 2.5, 2.0)
    shape = (30, 40, 50)
    hu = abdomen(shape, spacing_mm)
    hu += np.random.default_rng(0).integers(-20, 20, shape, dtype=np.int16)
    affine = tilt @ canonical_affine(spacing_mm, (12.0, -34.0, 56.0))
    everything = list(orientations())
    assert len(everything) == 48
    affines = []
    for number, orientation in enumerate(everything):
        stored, stored_affine = reorient(hu, affine, orientation)
        save_nifti(tmp_path / "in" / f"{number:02}.nii", stored, stored_affine)
        affines.append(stored_affine)

    reports = run(tmp_path / "in", tmp_path / "out", lopsided_cascade(), method=method)

    assert {report.status for report in reports} == {"written"}
    reference = np.asarray(load_nifti(tmp_path / "out" / "00.nii").dataobj)
    assert np.unique(reference).tolist() == [0, 1, 2]
    for axis in range(3):  # no symmetry by which a wrong flip would pass
        assert not np.array_equal(reference, np.flip(reference, axis))
    for number, orientation in enumerate(everything):
        written = load_nifti(tmp_path / "out" / f"{number:02}.nii")
        np.testing.assert_array_equal(undo(np.asarray(written.dataobj), orientation), reference)
        np.testing.assert_allclose(written.affine, affines[number], atol=1e-5)
    first, *others = reports
    for report in others:
        assert report.structures == first.structures
        assert report.voxels == first.voxels
        assert (report.warnings, report.flags) == (first.warnings, first.flags)


# ---------------------------------------------------------------------------------------------- a single case


def test_kidneys_and_tumor_are_found_where_they_are(tmp_path: Path) -> None:
    save_abdomens(tmp_path / "in", 1)
    (report,) = run(tmp_path / "in", tmp_path / "out")
    labels = np.asarray(load_nifti(tmp_path / "out" / "ct_0.nii.gz").dataobj)
    hu = abdomen()
    assert dice(labels > 0, hu >= KIDNEY_HU) > 0.95
    assert dice(labels == 2, hu == TUMOR_HU) > 0.85

    voxel_ml = 5.0 * 3.0 * 2.5 / 1000
    n_kidney, n_tumor = np.count_nonzero(labels == 1), np.count_nonzero(labels == 2)
    assert report.status == "written"
    assert report.error is None
    assert report.voxels == {"kidney": n_kidney, "tumor": n_tumor}
    assert report.kidney_ml == pytest.approx(n_kidney * voxel_ml, abs=0.01)
    assert report.tumor_ml == pytest.approx(n_tumor * voxel_ml, abs=0.01)
    left, right = report.structures  # the larger one first, and the tumor is in it
    assert (left["side"], right["side"]) == ("left", "right")
    assert left["tumor_ml"] == report.tumor_ml
    assert right["tumor_ml"] == 0
    n_right = np.count_nonzero(labels[:, :, : 48 // 2] == 1)  # x runs to the patient's left
    assert right["kidney_ml"] == pytest.approx(n_right * voxel_ml, abs=0.01)
    assert left["kidney_ml"] + right["kidney_ml"] == pytest.approx(report.kidney_ml, abs=0.02)
    assert set(report.seconds) == {
        "read", "locate", "roi", "kidney", "components", "tumor", "restore", "measure", "write"
    }  # fmt: skip
    assert all(seconds >= 0 for seconds in report.seconds.values())
    assert report.warnings == []
    # 17 and 26 cm³ in a body of 10 cm; the network that thresholds is never sure
    assert {flag["rule"] for flag in report.flags} == {"kidney-volume", "kidney-place", "low-confidence"}


def test_what_the_networks_say_of_a_tumor_is_measured_with_their_own_thresholds(tmp_path: Path) -> None:
    """A kidney network that never says more than 0.4, with a threshold of 0.3."""
    save_abdomens(tmp_path / "in", 1)
    good = threshold_cascade()
    careful = replace(
        good,
        kidney=lambda roi: np.float32(0.4) * good.kidney(roi),
        kidney_metadata=replace(good.kidney_metadata, threshold=0.3),
    )
    method = replace(DEFAULT, min_mean_probability=0.0)
    (report,) = run(tmp_path / "in", tmp_path / "out", careful, method=method)
    (tumor,) = report.tumors
    assert tumor["share_inside_kidney"] > 0.95
    assert tumor["mean_probability"] > 0.7
    assert all(0.35 < kidney["mean_probability"] <= 0.4 for kidney in report.kidneys)


def test_no_kidney_gives_background_and_a_warning(tmp_path: Path) -> None:
    tumor_calls: list[int] = []

    def tumor(roi: NDArray[np.float32]) -> NDArray[np.float32]:
        tumor_calls.append(1)
        return roi

    cascade = threshold_cascade()
    cascade = Cascade(cascade.kidney, tumor, cascade.kidney_metadata, cascade.tumor_metadata)
    hu = np.full((24, 40, 48), FAT_HU, dtype=np.int16)
    hu[:, :2] = AIR_HU
    save_nifti(tmp_path / "in" / "fat.nii.gz", hu, canonical_affine(ABDOMEN_SPACING_MM))
    (report,) = run(tmp_path / "in", tmp_path / "out", cascade)
    assert report.status == "written"
    text = "no kidney found: the label map is all background"
    assert (report.warnings, report.flags) == ([], [{"rule": "nothing-found", "text": text}])
    assert (report.kidney_ml, report.tumor_ml, report.structures) == (0, 0, [])
    assert not np.asarray(load_nifti(tmp_path / "out" / "fat.nii.gz").dataobj).any()
    assert tumor_calls == []


def test_no_evidence_for_a_kidney_gives_background_and_a_warning(tmp_path: Path) -> None:
    hu = abdomen(with_tumor=False)
    hu[hu == FAT_HU] = 0  # muscle all around: livers and bladders lie so, kidneys do not
    hu[:, 2:4] = FAT_HU  # in front, behind the air
    save_nifti(tmp_path / "in" / "ct.nii.gz", hu, canonical_affine(ABDOMEN_SPACING_MM))
    (report,) = run(tmp_path / "in", tmp_path / "out")
    assert [flag["rule"] for flag in report.flags] == ["nothing-found"]
    assert not np.asarray(load_nifti(tmp_path / "out" / "ct.nii.gz").dataobj).any()
    (report,) = run(tmp_path / "in", tmp_path / "paper", method=PAPER)
    assert len(report.structures) == 2


@pytest.mark.parametrize(("centre_z_mm", "is_cut"), [(60.0, False), (8.0, True), (112.0, True)])
def test_a_kidney_at_the_scans_end_is_warned_of(tmp_path: Path, centre_z_mm: float, is_cut: bool) -> None:
    save_abdomens(tmp_path / "in", 1, centre_z_mm=centre_z_mm)
    (report,) = run(tmp_path / "in", tmp_path / "out")
    assert any(flag["rule"] == "kidney-cut" for flag in report.flags) == is_cut


def test_warnings_of_reading_are_reported(tmp_path: Path) -> None:
    hu = abdomen().astype(np.float32)
    hu[0, 0, :2] = np.nan
    save_nifti(tmp_path / "in" / "ct.nii", hu, canonical_affine(ABDOMEN_SPACING_MM))
    (report,) = run(tmp_path / "in", tmp_path / "out")
    assert report.warnings == ["2 voxels are NaN or infinite; taken as air"]


def test_warnings_of_where_a_case_lies_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, z_mm in (("a", [0.0, 5.0]), ("b", [10.0, 15.0])):
        save_dicom_series(tmp_path / "in" / name, abdomen()[:2], z_mm=z_mm, spacing_mm=ABDOMEN_SPACING_MM)
    for report in run(tmp_path / "in", tmp_path / "out"):
        assert [line[:37] for line in report.warnings] == ["further slices of its DICOM series li"]
        assert f"{report.name}: {report.warnings[0]}" in caplog.text


def test_probabilities_and_previews_lie_under_their_cases_names(tmp_path: Path) -> None:
    save_abdomens(tmp_path / "in" / "ward", 1)
    options: dict[str, Any] = {"probabilities": tmp_path / "p", "previews": tmp_path / "png"}
    run(tmp_path / "in", tmp_path / "out", **options)
    assert files_under(tmp_path / "p") == ["ward", "ward/ct_0_kidney.nii.gz", "ward/ct_0_tumor.nii.gz"]
    assert files_under(tmp_path / "png") == ["ward", "ward/ct_0.png"]
    hu = abdomen()
    for stage, present in (("kidney", hu >= KIDNEY_HU), ("tumor", hu == TUMOR_HU)):
        image = load_nifti(tmp_path / "p" / "ward" / f"ct_0_{stage}.nii.gz")
        values = np.asarray(image.dataobj)
        assert values.shape == (32, 32, 32)
        # centres of mass in the world: of the probability, and of what it stands for
        found = image.affine @ [*ndimage.center_of_mass(values), 1]
        truth = canonical_affine(ABDOMEN_SPACING_MM) @ [*ndimage.center_of_mass(present), 1]
        np.testing.assert_allclose(found[:3], truth[:3], atol=1.5)


# ------------------------------------------------------------------------------------------------------ paper


def test_paper_restores_the_nearest_roi_voxel() -> None:
    ct = ct_of(abdomen())
    literal = segment(ct.hu, ct.spacing_mm, threshold_cascade(), PAPER)
    on_roi = np.where(literal.structures.ids > 0, np.where(literal.tumor_on_roi > 0.5, 2, 1), 0)
    # CT index → ROI index by hand: the centres coincide, 4 mm a voxel
    nearest = [
        np.floor((np.arange(n) - (n - 1) / 2) * s / 4.0 + 15.5 + 0.5).astype(int)
        for n, s in zip(ct.hu.shape, ABDOMEN_SPACING_MM, strict=True)
    ]
    assert all(i.min() >= 0 and i.max() < 32 for i in nearest)
    np.testing.assert_array_equal(literal.labels, on_roi[np.ix_(*nearest)])
    default = segment(ct.hu, ct.spacing_mm, threshold_cascade())
    assert (default.labels != literal.labels).any()
    truth = abdomen() >= KIDNEY_HU
    assert dice(default.labels > 0, truth) > dice(literal.labels > 0, truth)


def test_paper_crops_the_centre_also_of_a_long_scan() -> None:
    hu = abdomen((80, 40, 48), centre_z_mm=60.0)  # 400 mm, the ROI has 128
    ct = ct_of(hu)
    followed = segment(ct.hu, ct.spacing_mm, threshold_cascade())
    assert dice(followed.labels > 0, hu >= KIDNEY_HU) > 0.95
    literal = segment(ct.hu, ct.spacing_mm, threshold_cascade(), PAPER)
    assert literal.roi.start_vox[0] == pytest.approx(79 / 2 - 31 / 2 * 4 / 5)
    assert not literal.labels.any()


def test_paper_keeps_pieces_of_tumor_that_the_network_is_unsure_of() -> None:
    hu, cascade = abdomen(with_tumor=True), threshold_cascade()
    middle = hu.shape[2] // 2
    right = np.argwhere((hu == KIDNEY_HU) & (np.arange(hu.shape[2]) < middle)).mean(0).astype(int)
    other = tuple(slice(i - 1, i + 3) for i in right)  # in the kidney without a tumor
    hu[other] = TUMOR_HU

    def unsure_on_the_right(roi: NDArray[np.float32]) -> NDArray[np.float32]:
        probability = cascade.tumor(roi).copy()
        right = probability[:, :, : roi.shape[2] // 2]
        right[right > 0.5] = 0.6
        return probability

    for method, kept in ((PAPER, True), (replace(DEFAULT, mirror=False), False)):
        labels = segment(hu, ABDOMEN_SPACING_MM, replace(cascade, tumor=unsure_on_the_right), method).labels
        assert (labels[other] == 2).any() == kept
        assert np.count_nonzero(labels == 2) > 40  # the sure one


def test_a_tumors_least_volume_and_threshold_are_those_of_its_own_weights() -> None:
    hu, cascade = abdomen(), threshold_cascade()
    truth_mm3 = np.count_nonzero(hu == TUMOR_HU) * float(np.prod(ABDOMEN_SPACING_MM))
    for changes, is_found in (
        ({"min_tumor_mm3": 0.5 * truth_mm3}, True),
        ({"min_tumor_mm3": 2 * truth_mm3}, False),
        ({"threshold": 0.99}, False),  # the network that thresholds is never as sure
    ):
        own = replace(cascade, tumor_metadata=replace(cascade.tumor_metadata, **changes))
        labels = segment(hu, ABDOMEN_SPACING_MM, own).labels
        assert (labels == 1).any()
        assert (labels == 2).any() == is_found


def test_a_tumor_reaches_out_of_its_kidney_as_far_as_its_network_was_taught() -> None:
    hu = abdomen(with_tumor=True)
    ct, truth = ct_of(hu), hu == TUMOR_HU
    cascade = threshold_cascade()

    def leaves_out_half_of_the_tumor(roi: NDArray[np.float32]) -> NDArray[np.float32]:
        is_tumor = cascade.tumor(roi) > 0.5
        middle = int(np.argwhere(is_tumor)[:, 0].mean())
        is_tumor[:middle] = False
        return np.where(is_tumor, np.float32(0), cascade.kidney(roi))

    def found(kidney: Network, margin_vox: int, method: Method = DEFAULT) -> float:
        metadata = replace(cascade.tumor_metadata, margin_vox=margin_vox)
        careless = replace(cascade, kidney=kidney, tumor_metadata=metadata)
        labels = segment(ct.hu, ct.spacing_mm, careless, method).labels
        return float((labels[truth] == 2).mean())

    whole = found(cascade.kidney, 0)
    assert whole > 0.75
    assert found(leaves_out_half_of_the_tumor, 0) < 0.7 * whole
    assert found(leaves_out_half_of_the_tumor, 9) == pytest.approx(whole, abs=0.02)
    assert found(leaves_out_half_of_the_tumor, 9, PAPER) < 0.7 * whole


def test_the_mirror_image_counts_where_the_weights_ask_for_it_and_never_on_paper() -> None:
    asked = []
    cascade = threshold_cascade()

    def tumor(roi: NDArray[np.float32]) -> NDArray[np.float32]:
        asked.append(roi)
        return cascade.tumor(roi)

    for mirror, method, times in ((False, DEFAULT, 1), (True, DEFAULT, 2), (True, PAPER, 1)):
        metadata = replace(cascade.tumor_metadata, mirror=mirror)
        asked.clear()
        mirroring = replace(cascade, tumor=tumor, tumor_metadata=metadata)
        segment(abdomen(), ABDOMEN_SPACING_MM, mirroring, method)
        assert len(asked) == times


# ------------------------------------------------------------------------------------ failures stay their own


def test_one_bad_case_costs_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = save_abdomens(tmp_path / "in", 4)
    truncate(paths[1])
    paths[2].write_bytes(b"")
    with caplog.at_level(logging.INFO, "inference"):
        reports = by_name(run(tmp_path / "in", tmp_path / "out"))
    assert [reports[f"ct_{i}"].status for i in range(4)] == ["written", "failed", "failed", "written"]
    assert files_under(tmp_path / "out") == ["ct_0.nii.gz", "ct_3.nii.gz"]
    for i in (1, 2):
        failed = reports[f"ct_{i}"]
        assert failed.error is not None
        assert str(paths[i]) in failed.error
        assert "\n" not in failed.error
        assert failed.error in caplog.text
        assert failed.voxels == {}
    assert reports["ct_0"].voxels == reports["ct_3"].voxels
    assert "Traceback" not in caplog.text


def fails_at(call: int, error: Exception) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """A kidney network that raises at its n-th call."""
    calls = iter(range(1, 1000))
    good = threshold_cascade().kidney

    def network(roi: NDArray[np.float32]) -> NDArray[np.float32]:
        if next(calls) == call:
            raise error
        return good(roi)

    return network


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
def test_an_unexpected_exception_fails_its_case_and_shows_a_traceback_on_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, level: int
) -> None:
    save_abdomens(tmp_path / "in", 3)
    good = threshold_cascade()
    broken = fails_at(2, RuntimeError("first line\n  second line"))
    cascade = Cascade(broken, good.tumor, good.kidney_metadata, good.tumor_metadata)
    with caplog.at_level(level, "inference"):
        reports = by_name(run(tmp_path / "in", tmp_path / "out", cascade))
    assert [reports[f"ct_{i}"].status for i in range(3)] == ["written", "failed", "written"]
    error = reports["ct_1"].error
    assert error is not None
    assert "RuntimeError: first line second line. This is a bug" in error
    assert str(tmp_path / "in" / "ct_1.nii.gz") in error
    assert "\n" not in error
    assert ("Traceback" in caplog.text) == (level == logging.DEBUG)


@pytest.mark.parametrize("on_error", ["skip", "background"])
def test_background_for_failed_cases_on_request(tmp_path: Path, on_error: str) -> None:
    """Unreadable voxels, a network that fails, and a file without even a header."""
    paths = save_abdomens(tmp_path / "in", 4)
    truncate(paths[0])
    paths[3].write_bytes(b"no CT at all")
    good = threshold_cascade()
    broken = fails_at(2, RuntimeError("out of luck"))  # the first call is for ct_1, the second for ct_2
    cascade = Cascade(broken, good.tumor, good.kidney_metadata, good.tumor_metadata)
    reports = by_name(
        run(tmp_path / "in", tmp_path / "out", cascade, background_on_error=on_error == "background")
    )
    assert reports["ct_1"].status == "written"
    assert reports["ct_3"].status == "failed"
    assert not (tmp_path / "out" / "ct_3.nii.gz").exists()
    for name in ("ct_0", "ct_2"):
        output = tmp_path / "out" / f"{name}.nii.gz"
        assert reports[name].error is not None
        assert reports[name].status == ("background" if on_error == "background" else "failed")
        assert output.exists() == (on_error == "background")
        if on_error == "background":
            written, ct = load_nifti(output), load_nifti(paths[1])
            assert written.shape == ct.shape
            np.testing.assert_array_equal(written.affine, ct.affine)
            assert written.get_data_dtype() == np.uint8
            assert not np.asarray(written.dataobj).any()


def test_background_for_a_dicom_series_that_was_read(tmp_path: Path) -> None:
    """A series has no header to go back to: its grid is kept from reading."""
    save_dicom_series(tmp_path / "in" / "ann", abdomen(), spacing_mm=ABDOMEN_SPACING_MM)
    good = threshold_cascade()
    broken = fails_at(1, RuntimeError("out of luck"))
    cascade = Cascade(broken, good.tumor, good.kidney_metadata, good.tumor_metadata)
    (report,) = run(tmp_path / "in", tmp_path / "out", cascade, background_on_error=True)
    assert report.status == "background"
    assert load_nifti(tmp_path / "out" / "ann.nii.gz").shape == (48, 40, 24)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((errno.ENOSPC, "No space left on device", "/out/x"), "/out/x: No space left on device"),
        (("x: not written whole",), "ct_1.nii.gz: x: not written whole"),  # a writer's own
    ],
)
def test_a_failed_write_is_noted_and_the_next_case_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[Any, ...], said: str
) -> None:
    save_abdomens(tmp_path / "in", 3)
    write = run_module.write_label_map

    def full_once(path: Path, *rest: Any) -> None:
        if path.name == "ct_1.nii.gz":
            raise OSError(*arguments)
        write(path, *rest)

    monkeypatch.setattr(run_module, "write_label_map", full_once)
    reports = by_name(run(tmp_path / "in", tmp_path / "out"))
    assert [reports[f"ct_{i}"].status for i in range(3)] == ["written", "failed", "written"]
    assert reports["ct_1"].error == f"{said}. Check the output folder"
    assert files_under(tmp_path / "out") == ["ct_0.nii.gz", "ct_2.nii.gz"]


def test_previews_and_probabilities_that_cannot_be_written_cost_no_label_map(tmp_path: Path) -> None:
    save_abdomens(tmp_path / "in", 2)
    (tmp_path / "png" / "ct_0.png").mkdir(parents=True)  # a folder where the picture should be
    (tmp_path / "p" / "ct_1_tumor.nii.gz").mkdir(parents=True)
    reports = by_name(
        run(tmp_path / "in", tmp_path / "out", previews=tmp_path / "png", probabilities=tmp_path / "p")
    )
    for name in ("ct_0", "ct_1"):
        assert reports[name].status == "written"
        (warning,) = reports[name].warnings
        what = "preview" if name == "ct_0" else "probabilities"
        assert warning.startswith(f"{what} not written (IsADirectoryError")
        assert np.asarray(load_nifti(tmp_path / "out" / f"{name}.nii.gz").dataobj).any()


def test_gpu_out_of_memory_falls_back_to_the_cpu_once_and_says_so(tmp_path: Path) -> None:
    save_abdomens(tmp_path / "in", 3)
    good = threshold_cascade()
    # its kidney network is asked once a case: the second case fails on the "GPU"
    small = Cascade(
        fails_at(2, DeviceMemoryError("cuda has too little memory for the networks")),
        good.tumor,
        good.kidney_metadata,
        good.tumor_metadata,
    )
    made: list[int] = []

    def fallback() -> Cascade:
        made.append(1)
        return good

    cases, options = find_cases(tmp_path / "in"), Options(tmp_path / "out")
    reports = by_name(run_cases(cases, small, options, fallback=fallback))
    assert [reports[f"ct_{i}"].status for i in range(3)] == ["written"] * 3
    assert reports["ct_1"].warnings == ["the GPU ran out of memory: segmented on the CPU"]
    assert reports["ct_0"].warnings == reports["ct_2"].warnings == []
    assert len(made) == 1
    assert reports["ct_1"].voxels == reports["ct_0"].voxels


@pytest.mark.parametrize(
    "error",
    [
        DeviceMemoryError("cuda has too little memory for the networks"),
        MemoryError("Unable to allocate 20 GiB"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_memory_at_all_is_no_bug(tmp_path: Path, error: Exception) -> None:
    save_abdomens(tmp_path / "in", 2)
    good = threshold_cascade()
    cascade = Cascade(fails_at(1, error), good.tumor, good.kidney_metadata, good.tumor_metadata)
    reports = by_name(run(tmp_path / "in", tmp_path / "out", cascade))
    assert [reports[f"ct_{i}"].status for i in range(2)] == ["failed", "written"]
    assert reports["ct_0"].error is not None
    assert reports["ct_0"].error.endswith("does not fit in memory. Give the process more, or crop the CT")
    assert "bug" not in reports["ct_0"].error.replace(str(tmp_path), "")


def test_an_empty_file_or_a_folder_is_no_output_to_skip(tmp_path: Path) -> None:
    save_abdomens(tmp_path / "in", 2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ct_0.nii.gz").touch()
    reports = by_name(run(tmp_path / "in", tmp_path / "out", skip_existing=True))
    assert [reports[f"ct_{i}"].status for i in range(2)] == ["written", "written"]


def test_what_a_killed_run_left_half_written_is_removed(tmp_path: Path) -> None:
    save_abdomens(tmp_path / "in" / "ward", 1)
    for folder in ("out", "png", "p"):
        (tmp_path / folder / "ward" / ".partial-x").mkdir(parents=True)
    options: dict[str, Any] = {"previews": tmp_path / "png", "probabilities": tmp_path / "p"}
    run(tmp_path / "in", tmp_path / "out", **options)
    assert files_under(tmp_path / "out") == ["ward", "ward/ct_0.nii.gz"]
    assert files_under(tmp_path / "png") == ["ward", "ward/ct_0.png"]
    assert files_under(tmp_path / "p") == ["ward", "ward/ct_0_kidney.nii.gz", "ward/ct_0_tumor.nii.gz"]


def test_whole_body_scan_is_segmented_where_the_kidneys_are(tmp_path: Path) -> None:
    """1125 mm; the kidneys lie 440 mm from the image centre, the ROI is 128 mm long."""
    spacing_mm = (5.0, 3.0, 2.5)
    hu = abdomen((225, 40, 48), spacing_mm, centre_z_mm=1000.0)
    save_nifti(tmp_path / "in" / "long.nii.gz", hu, canonical_affine(spacing_mm))
    (report,) = run(tmp_path / "in", tmp_path / "out")
    labels = np.asarray(load_nifti(tmp_path / "out" / "long.nii.gz").dataobj)
    assert dice(labels > 0, hu >= KIDNEY_HU) > 0.95
    assert dice(labels == 2, hu == TUMOR_HU) > 0.85
    assert report.warnings == []


def test_existing_outputs_are_skipped_and_stay_as_they_are(tmp_path: Path) -> None:
    paths = save_abdomens(tmp_path / "in", 3)
    truncate(paths[1])  # not even read
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ct_1.nii.gz").write_bytes(b"done earlier")
    reports = by_name(run(tmp_path / "in", tmp_path / "out", skip_existing=True))
    assert [reports[f"ct_{i}"].status for i in range(3)] == ["written", "skipped", "written"]
    assert (tmp_path / "out" / "ct_1.nii.gz").read_bytes() == b"done earlier"
    again = run(tmp_path / "in", tmp_path / "out", skip_existing=True)
    assert [report.status for report in again] == ["skipped"] * 3


@pytest.mark.parametrize(
    ("earlier", "status"),
    [
        ({"status": "written", "kidney_ml": 9.0, "recipe": {"weights": 2}}, "skipped"),
        ({"status": "written", "kidney_ml": 9.0, "recipe": {"weights": 1}}, "written"),
        ({"status": "skipped", "kidney_ml": 9.0, "recipe": {"weights": 2}}, "skipped"),
        ({"status": "background", "recipe": {"weights": 2}}, "written"),  # it failed: once more
        ({"status": "written", "kidney_ml": 9.0}, "skipped"),  # nobody knows how it was made
    ],
)
def test_what_an_earlier_report_says_decides_what_is_skipped(
    tmp_path: Path, earlier: dict[str, Any], status: str
) -> None:
    save_abdomens(tmp_path / "in", 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ct_0.nii.gz").write_bytes(b"done earlier")
    known = {"ct_0.nii.gz": CaseReport("ct_0", "", "ct_0.nii.gz", **earlier)}
    options: dict[str, Any] = {"skip_existing": True, "earlier": known, "recipe": {"weights": 2}}
    (report,) = run(tmp_path / "in", tmp_path / "out", **options)
    assert report.status == status


def test_existing_outputs_are_replaced_otherwise(tmp_path: Path) -> None:
    save_abdomens(tmp_path / "in", 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ct_0.nii.gz").write_bytes(b"an earlier run")
    (report,) = run(tmp_path / "in", tmp_path / "out")
    assert report.status == "written"
    assert np.asarray(load_nifti(tmp_path / "out" / "ct_0.nii.gz").dataobj).any()


def test_progress_is_told_after_every_case(tmp_path: Path) -> None:
    truncate(save_abdomens(tmp_path / "in", 3)[1])
    seen: list[list[tuple[str, str]]] = []
    run_cases(
        find_cases(tmp_path / "in"),
        threshold_cascade(),
        Options(tmp_path / "out"),
        done=lambda reports: seen.append([(r.name, r.status) for r in reports]),
    )
    whole = [("ct_0", "written"), ("ct_1", "failed"), ("ct_2", "written")]
    assert seen == [whole[:1], whole[:2], whole]


def test_no_signal_ends_the_process_while_progress_is_told(tmp_path: Path) -> None:
    """Of cases that are skipped, and of those that are written: a report is written then."""
    save_abdomens(tmp_path / "in", 2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ct_0.nii.gz").write_bytes(b"done earlier")
    is_held: list[bool] = []
    run_cases(
        find_cases(tmp_path / "in"),
        threshold_cascade(),
        Options(tmp_path / "out", skip_existing=True),
        done=lambda reports: is_held.append(stop._write.locked()),
    )
    assert is_held == [True, True]


def test_no_case_is_no_work(tmp_path: Path) -> None:
    assert run_cases([], threshold_cascade(), Options(tmp_path / "out")) == []


# -------------------------------------------------------------------------------- read ahead and write behind


class Stage:
    """An event for the start of each case's pass through one stage."""

    def __init__(self) -> None:
        """For up to four cases."""
        self.started = {f"ct_{i}": threading.Event() for i in range(4)}

    def wait_for(self, name: str) -> bool:
        """Whether it started before the patience ended."""
        return self.started[name].wait(WAIT_S)


def test_next_case_is_read_and_last_one_written_while_one_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stage waits inside itself for the two others: only a pipeline that overlaps them gets through."""
    save_abdomens(tmp_path / "in", 3)
    reading, computing, writing = Stage(), Stage(), Stage()
    met: dict[str, bool] = {}
    read_original, segment_original, write_original = (
        run_module.read_ct,
        run_module.segment,
        run_module.write_label_map,
    )
    names = iter(["ct_0", "ct_1", "ct_2"])

    def read(path: Path, **series: Any) -> Ct:
        name = path.name.removesuffix(".nii.gz")
        reading.started[name].set()
        if name == "ct_2":
            met["ct_2 is read while ct_1 computes"] = computing.wait_for("ct_1")
        return read_original(path, **series)

    def segment(*arguments: Any, **keywords: Any) -> Any:
        name = next(names)
        computing.started[name].set()
        if name == "ct_1":
            met["ct_1 computes while ct_2 is read"] = reading.wait_for("ct_2")
            met["ct_1 computes while ct_0 is written"] = writing.wait_for("ct_0")
        return segment_original(*arguments, **keywords)

    def write(path: Path, *arguments: Any) -> None:
        name = path.name.removesuffix(".nii.gz")
        writing.started[name].set()
        if name == "ct_0":
            met["ct_0 is written while ct_1 computes"] = computing.wait_for("ct_1")
        write_original(path, *arguments)

    monkeypatch.setattr(run_module, "read_ct", read)
    monkeypatch.setattr(run_module, "segment", segment)
    monkeypatch.setattr(run_module, "write_label_map", write)
    reports = run(tmp_path / "in", tmp_path / "out")
    assert met == dict.fromkeys(met, True)
    assert len(met) == 4
    assert [report.status for report in reports] == ["written"] * 3


def test_no_more_than_one_case_is_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CTs must not pile up in memory: ct_2 is not read before ct_0 has been computed."""
    save_abdomens(tmp_path / "in", 4)
    events: list[str] = []
    second_is_read = threading.Event()
    read_original, segment_original = run_module.read_ct, run_module.segment

    def read(path: Path, **series: Any) -> Ct:
        events.append(f"read {path.name}")
        ct = read_original(path, **series)
        if path.name == "ct_1.nii.gz":
            second_is_read.set()
        return ct

    def segment(*arguments: Any, **keywords: Any) -> Any:
        assert second_is_read.wait(WAIT_S)  # the reader is idle now, if it is ever to be
        result = segment_original(*arguments, **keywords)
        events.append("computed")
        return result

    monkeypatch.setattr(run_module, "read_ct", read)
    monkeypatch.setattr(run_module, "segment", segment)
    run(tmp_path / "in", tmp_path / "out")
    assert events[:3] == ["read ct_0.nii.gz", "read ct_1.nii.gz", "computed"]


def test_no_more_than_one_result_waits_to_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor may results: while ct_0 is still being written, ct_1 is computed but ct_2 is not."""
    save_abdomens(tmp_path / "in", 3)
    computing = Stage()
    names = iter(["ct_0", "ct_1", "ct_2"])
    seen: list[bool] = []
    segment_original, write_original = run_module.segment, run_module.write_label_map

    def segment(*arguments: Any, **keywords: Any) -> Any:
        computing.started[next(names)].set()
        return segment_original(*arguments, **keywords)

    def write(path: Path, *arguments: Any) -> None:
        if path.name == "ct_0.nii.gz":
            seen.append(computing.wait_for("ct_1"))
            seen.append(computing.started["ct_2"].wait(0.3))
        write_original(path, *arguments)

    monkeypatch.setattr(run_module, "segment", segment)
    monkeypatch.setattr(run_module, "write_label_map", write)
    run(tmp_path / "in", tmp_path / "out")
    assert seen == [True, False]


def test_small_roi_holds_the_abdomen() -> None:
    """What the tests above rest on."""
    extent_mm = np.multiply(abdomen().shape, ABDOMEN_SPACING_MM)
    assert (extent_mm <= SMALL_ROI.extent_mm).all()

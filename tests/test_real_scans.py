"""Real scans in training: samples by hand, painted lesions, mixtures, validation on whole scans."""

from dataclasses import replace
from math import isnan, nan, pi
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.geometry import KIDNEY, TUMOR, RoiSpec
from inference.method.roi import normalise
from training.cache import HU_STEP, IGNORE, LOWEST_HU, SCANS, Scan, save_scan, to_grey
from training.chain import PRESETS
from training.config import CropCentres, SourceShares
from training.data import Mixture, Patients, RealScans
from training.real.augment import UNVARIED, ScanSampling, draw_scan_sample, smooth
from training.real.lesions import Kind, Lesion, LesionRanges, draw_lesions, draw_mass, paint, push_aside
from training.real.validation import ScanScore, score_kidneys, score_tumors, summarise
from training.synthetic import SyntheticPatients, normalise_hu

CPU = torch.device("cpu")
SHAPE = (20, 24, 28)
ROI = RoiSpec(shape_vox=(16, 24, 24), spacing_mm=3.0)
CONFIG = replace(PRESETS["kidney-scans"], roi=ROI, base_channels=1)
NO_KIDNEY: Any = {"labels": np.zeros(SHAPE, np.uint8), "has_kidney": False, "has_tumor": False}


def scan(**changes: Any) -> Scan:
    """A box of kidney (200 HU) with a tumor (20 HU) in it, fat (−100) around, a corner to be ignored."""
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[6:14, 8:16, 10:18] = KIDNEY
    labels[8:10, 10:12, 12:15] = TUMOR
    labels[:3, :3, :3] = IGNORE
    hu = np.select([labels == KIDNEY, labels == TUMOR], [200.0, 20.0], -100.0)
    made = Scan("one", "case_1", "train", to_grey(hu), labels, 3.0, True, True, False)
    return replace(made, **changes)


def draw(
    of: Scan, sampling: ScanSampling = UNVARIED, seed: int = 0, **options: object
) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    return draw_scan_sample(of, rng, sampling, **{"shape_vox": SHAPE, "spacing_mm": 3.0, **options})  # type: ignore[arg-type]


def test_grey_values_are_finer_than_noise() -> None:
    hu = np.array([-1000.0, LOWEST_HU, 0.0, 41.0, 332.0, 3000.0])
    back = to_grey(hu).astype(float) * HU_STEP + LOWEST_HU
    np.testing.assert_allclose(back, np.clip(hu, LOWEST_HU, 332.0), atol=HU_STEP / 2)


def test_an_unvaried_sample_is_the_scan() -> None:
    one = scan()
    hu, labels, inside = draw(one)
    np.testing.assert_allclose(hu.numpy(), one.grey * HU_STEP + LOWEST_HU, atol=1e-3)
    np.testing.assert_array_equal(labels.numpy(), one.labels)
    assert inside.all()


def test_mirroring_exchanges_left_and_right() -> None:
    hu, labels, _ = draw(scan(), replace(UNVARIED, mirror_share=1.0))
    plain_hu, plain_labels, _ = draw(scan())
    torch.testing.assert_close(hu, plain_hu.flip(2), atol=1e-3, rtol=0)
    assert torch.equal(labels, plain_labels.flip(2))


def test_outside_the_scan_nothing_is_known() -> None:
    _, labels, inside = draw(scan(), shape_vox=(24, 24, 28))
    assert inside[2:22].all()
    assert not inside[:2].any()
    assert not inside[22:].any()
    assert not labels[~inside].any()


def test_a_sample_repeats_by_its_seed() -> None:
    first, again, other = (draw(scan(), ScanSampling(), seed, painted=True) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_crops_lie_about_kidneys_and_tumors() -> None:
    for seed in range(20):
        _, labels, _ = draw(scan(), seed=seed, shape_vox=(8, 8, 8), centre="tumor")
        assert (labels == TUMOR).any()
        _, labels, _ = draw(scan(), seed=seed, shape_vox=(8, 8, 8), centre="kidney")
        assert ((labels == TUMOR) | (labels == KIDNEY)).any()


def test_a_crop_about_a_tumor_is_about_a_kidney_where_there_is_none() -> None:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[6:9, 8:11, 10:13] = KIDNEY  # so small that few crops anywhere would show it
    for seed in range(20):
        _, found, _ = draw(scan(labels=labels), seed=seed, shape_vox=(8, 8, 8), centre="tumor")
        assert (found == KIDNEY).any()


def test_crops_about_tumors_come_from_scans_that_show_one() -> None:
    without = scan(labels=np.where(scan().labels == TUMOR, KIDNEY, scan().labels).astype(np.uint8))
    centres = CropCentres(kidney=0.0, tumor=1.0, border=0.0, elsewhere=0.0)
    config = replace(
        CONFIG, crop_vox=(8, 8, 8), scans=UNVARIED, sampling=replace(CONFIG.sampling, centres=centres)
    )
    source = RealScans([without, scan(), without], config)
    assert all((source[i][1] == TUMOR).any() for i in range(20))
    assert not any((RealScans([without], config)[i][1] == TUMOR).any() for i in range(5))


def test_tumors_are_painted_into_scans_without_one_too() -> None:
    """Where one is painted anyway, all scans are drawn from alike."""
    dark = scan(grey=to_grey(np.full(SHAPE, -250.0)), labels=np.full(SHAPE, KIDNEY, np.uint8))
    centres = CropCentres(kidney=0.0, tumor=1.0, border=0.0, elsewhere=0.0)
    config = replace(
        CONFIG, crop_vox=(8, 8, 8), scans=UNVARIED, sampling=replace(CONFIG.sampling, centres=centres)
    )
    source = RealScans([dark, scan()], config, painted_share=1.0)
    is_dark = [float(source[i][0].median()) == 0 for i in range(20)]
    assert 4 <= sum(is_dark) <= 16


def test_enhancement_changes_the_kidneys_alone() -> None:
    more = replace(UNVARIED, enhancement_share=1.0, enhancement_hu=(30.0, 30.0))
    change = draw(scan(), more)[0] - draw(scan())[0]
    assert float(change[10, 12, 14]) == pytest.approx(30, abs=0.5)
    assert float(change[2, 2, 24]) == pytest.approx(0, abs=1e-3)


def test_smoothing_keeps_a_constant_and_the_sum() -> None:
    torch.testing.assert_close(smooth(torch.full(SHAPE, 7.0), 0.8), torch.full(SHAPE, 7.0))
    point = torch.zeros(SHAPE)
    point[10, 12, 14] = 1.0
    assert float(smooth(point, 0.8).sum()) == pytest.approx(1.0, abs=1e-5)


# --- lesions ------------------------------------------------------------------------------------------------


def lesion(**changes: object) -> Lesion:
    made = Lesion(
        kind="tumor",
        centre_mm=np.zeros(3),
        radius_mm=12.0,
        stretch=np.ones(3),
        lumps=0.0,
        edge_mm=0.5,
        push=0.5,
        seed=1,
    )
    return replace(made, **changes)


def axes() -> list[Tensor]:
    """41 voxels of 1 mm."""
    return [torch.arange(-20, 21, dtype=torch.float32)] * 3


@pytest.mark.parametrize(("kind", "label"), [("tumor", TUMOR), ("cyst", KIDNEY)])
def test_a_painted_ball_has_its_volume_and_label(kind: Kind, label: int) -> None:
    mm = axes()
    hu = torch.full((41,) * 3, -100.0)
    labels = torch.zeros((41,) * 3, dtype=torch.uint8)
    labels[:, :, :20] = KIDNEY  # half of the ball grows out of the kidney
    hu[labels == KIDNEY] = 180.0
    before = labels.clone()
    found, after = paint(hu, labels, mm, [lesion(kind=kind)], LesionRanges(), np.random.default_rng(0))
    ball = 4 / 3 * pi * 12**3
    inside = (
        sum(a.square().reshape(s) for a, s in zip(mm, ((-1, 1, 1), (1, -1, 1), (1, 1, -1)), strict=True))
        < 144
    )
    assert int(inside.sum()) == pytest.approx(ball, rel=0.02)
    assert torch.equal(after[inside], torch.full_like(after[inside], label))
    assert torch.equal(after[~inside], before[~inside])
    changed = (found - hu).abs() > 1
    assert int((changed & ~inside).sum()) < 0.25 * ball  # the soft edge alone


def test_a_mass_is_no_kidney_and_covers_no_ignored_voxel() -> None:
    mm = axes()
    hu, labels = torch.full((41,) * 3, 30.0), torch.zeros((41,) * 3, dtype=torch.uint8)
    labels[20, 20, 22:25] = IGNORE
    ranges = replace(
        LesionRanges(), mass_hu=(120.0, 120.0), texture_hu=(1.0, 1.0), necrosis_share=0, rim_share=0
    )
    found, after = paint(hu, labels, mm, [lesion(kind="mass")], ranges, np.random.default_rng(0))
    assert torch.equal(after, labels)
    assert float(found[16:25, 16:25, 16:25].mean()) == pytest.approx(120, abs=3)
    assert float(found[20, 20, 2]) == 30


def test_masses_lie_in_soft_tissue_away_from_the_kidneys() -> None:
    shape = (60, 60, 60)
    labels, hu = np.zeros(shape, dtype=np.uint8), np.full(shape, -100.0)
    labels[:20] = KIDNEY
    hu[:, :, :40] = 50.0
    one = scan(grey=to_grey(hu), labels=labels)
    ranges = replace(LesionRanges(), mass_radius_mm=(15.0, 20.0))
    found = [
        mass
        for seed in range(30)
        for mass in draw_mass(
            one, np.random.default_rng(seed), ranges, lambda at: at * 3.0 - 90, np.full(3, 180.0)
        )
    ]
    assert len(found) > 20
    assert {mass.kind for mass in found} == {"mass"}
    for mass in found:
        z, _, x = (mass.centre_mm + 90) / 3
        assert x < 40
        assert (z - 19) * 3 > mass.radius_mm * mass.stretch.max() + 15
    # no place: all of it is fat, or kidney
    for other in (
        scan(grey=to_grey(np.full(shape, -100.0)), labels=labels),
        scan(grey=one.grey, labels=labels * 0 + 1),
    ):
        assert not draw_mass(
            other, np.random.default_rng(0), ranges, lambda at: at * 3.0 - 90, np.full(3, 180.0)
        )


def test_scans_without_a_kidney_may_show_a_mass() -> None:
    one = scan(labels=np.zeros(SHAPE, dtype=np.uint8), grey=to_grey(np.full(SHAPE, 40.0)), has_kidney=False)
    plain, _, _ = draw(one)
    with_mass, labels, _ = draw(one, replace(UNVARIED, mass_share=1.0))
    assert ((with_mass - plain).abs() > 3).any()
    assert not labels.any()


def test_a_cyst_is_fluid_and_a_tumor_follows_its_kidney() -> None:
    mm, ranges = axes(), replace(LesionRanges(), dense_cyst_share=0.0)
    hu, labels = torch.full((41,) * 3, 180.0), torch.ones((41,) * 3, dtype=torch.uint8)
    core = (slice(16, 25),) * 3
    ratios = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        cyst, _ = paint(hu, labels, mm, [lesion(kind="cyst")], ranges, rng)
        assert ranges.cyst_hu[0] - 1 <= float(cyst[core].mean()) <= ranges.cyst_hu[1] + 1
        plain = replace(ranges, necrosis_share=0.0, texture_hu=(1.0, 1.001))
        tumor, _ = paint(hu, labels, mm, [lesion()], plain, rng)
        ratios.append(float(tumor[core].mean()) / 180)
    assert np.median(ratios) == pytest.approx(0.63, abs=0.15)  # as in real tumors
    assert min(ratios) > 0.05
    assert max(ratios) < 1.35


def test_painting_leaves_what_it_is_given() -> None:
    hu, labels = torch.full((41,) * 3, 180.0), torch.ones((41,) * 3, dtype=torch.uint8)
    painted_hu, painted = paint(hu, labels, axes(), [lesion()], LesionRanges(), np.random.default_rng(0))
    assert (painted == TUMOR).any()
    assert (painted_hu != hu).any()
    assert (hu == 180.0).all()
    assert (labels == KIDNEY).all()


def test_what_floats_beside_the_kidney_or_lies_on_bone_is_not_painted() -> None:
    mm = axes()
    hu, labels = torch.full((41,) * 3, 300.0), torch.zeros((41,) * 3, dtype=torch.uint8)
    same, unlabelled = paint(hu, labels, mm, [lesion()], LesionRanges(), np.random.default_rng(0))
    assert torch.equal(same, hu)
    assert not unlabelled.any()


def test_tissue_is_pushed_aside_within_two_radii() -> None:
    points = torch.tensor([[24.5, 0.0, 0.0], [12.0, 0.0, 0.0], [18.0, 0.0, 0.0]])
    moved = push_aside(points, [lesion()])
    assert torch.equal(moved[0], points[0])
    assert float(moved[1, 0]) == pytest.approx(12 * (1 - 0.5))  # at the surface: from half a radius
    assert float(moved[2, 0]) == pytest.approx(18 - 0.25 * 12)  # half way out: a quarter of a radius


def test_lesions_lie_in_kidneys() -> None:
    one = scan()
    for seed in range(10):
        lesions = draw_lesions(
            one, np.random.default_rng(seed), replace(LesionRanges(), off_centre=(0.0, 0.0)),
            lambda voxel: voxel, np.full(3, 1000.0),
        )  # fmt: skip
        assert lesions
        for made in lesions:
            z, y, x = made.centre_mm.astype(int)
            assert one.labels[z, y, x] in (KIDNEY, TUMOR)
    empty = scan(labels=np.zeros(SHAPE, np.uint8), has_kidney=False)
    assert not draw_lesions(empty, np.random.default_rng(0), LesionRanges(), lambda v: v, np.full(3, 9.0))


# --- sources ------------------------------------------------------------------------------------------------


def mixture() -> Mixture:
    synthetic = SyntheticPatients([], CONFIG, CONFIG.sampling)
    return Mixture([(1.0, synthetic), (3.0, RealScans([scan()], CONFIG))], seed=5)


def test_sources_come_in_their_shares() -> None:
    made = mixture()
    real = sum(isinstance(made.source(i), RealScans) for i in range(2000))
    assert real / 2000 == pytest.approx(0.75, abs=0.03)


def test_a_coarser_cache_is_refused() -> None:
    with pytest.raises(ValueError, match="--spacing-mm 2"):
        RealScans([scan()], replace(CONFIG, roi=RoiSpec()))
    with pytest.raises(ValueError, match=r"coarse: was prepared at 4\.0 mm"):
        RealScans([scan(), scan(name="coarse", spacing_mm=4.0)], CONFIG)


def save_scans(cache: Path, *scans: Scan) -> Path:
    (cache / SCANS).mkdir(parents=True)
    for one in scans:
        save_scan(cache / SCANS / f"{one.name}.npz", one)
    return cache


@pytest.mark.parametrize(("spacing_mm", "fault"), [(2.0, "finer"), (4.0, "coarser")])
def test_scans_are_validated_on_as_they_are_and_so_on_the_networks_grid(
    tmp_path: Path, spacing_mm: float, fault: str
) -> None:
    other = scan(name="other", case="case_2", role="set_aside", spacing_mm=spacing_mm)
    cache = save_scans(tmp_path / "cache", scan(), other)
    with pytest.raises(ValueError, match=f"other: was prepared at {spacing_mm} mm, {fault} .*--spacing-mm 3"):
        Patients(CONFIG, cache, fold=None)
    fine = scan(name="fine", case="case_3", spacing_mm=2.0)
    aside = scan(name="aside", case="case_2", role="set_aside")
    patients = Patients(CONFIG, save_scans(tmp_path / "finer", fine, aside), fold=None)
    assert [one.name for one in patients.scans] == ["fine"]  # training resamples


def test_scans_of_a_grid_some_times_finer_are_validated_on_voxel_by_voxel(tmp_path: Path) -> None:
    fine = scan(name="aside", case="case_2", role="set_aside", spacing_mm=1.5)
    (thin,) = Patients(CONFIG, save_scans(tmp_path, scan(), fine), fold=None).validation_scans
    assert thin.spacing_mm == 3.0
    np.testing.assert_array_equal(thin.grey, fine.grey[1::2, 1::2, 1::2])
    np.testing.assert_array_equal(thin.labels, fine.labels[1::2, 1::2, 1::2])
    assert thin.kidney_voxels.tolist() == np.flatnonzero(np.isin(thin.labels, (1, 2))).tolist()


def test_tumors_are_not_validated_on_scans_without_a_kidney(tmp_path: Path) -> None:
    empty = scan(name="empty", case="empty", role="set_aside", has_kidney=False, has_tumor=False)
    labelled = scan(name="a", case="a"), scan(name="b", case="b")
    cache, tumor = save_scans(tmp_path, empty, *labelled), replace(CONFIG, stage="tumor")
    with pytest.raises(ValueError, match="no scan to validate on shows a kidney"):
        Patients(tumor, cache, fold=None)
    assert Patients(tumor, cache, fold=(0, 2)).validation_names == ["a", "empty"]
    assert Patients(CONFIG, cache, fold=None).validation_names == ["empty"]
    Patients(tumor, None)  # on synthetic CTs


@pytest.mark.parametrize("fold", [None, (0, 2)])
def test_a_case_with_a_scan_set_aside_is_not_trained_on(tmp_path: Path, fold: tuple[int, int] | None) -> None:
    cache = save_scans(
        tmp_path,
        scan(name="abdomen", case="both", role="set_aside"),
        scan(name="chest", case="both", **NO_KIDNEY),
        scan(name="head", case="other", **NO_KIDNEY),
        scan(name="left_out", case="case_00002"),  # LEFT_OUT is about label maps and slices
        scan(name="labelled", case="case_1"),
    )
    patients = Patients(CONFIG, cache, fold=fold)
    trained = {one.case for one in patients.scans}
    assert not trained & {one.case for one in patients.validation_scans}
    assert "other" in trained
    if fold is None:
        assert patients.training_names == ["head", "labelled", "left_out"]


def some_slice(name: str, case: str) -> Scan:
    return scan(name=name, case=case, is_slice=True, grey=scan().grey[8:9], labels=scan().labels[8:9])


def test_folds_hold_out_whole_labelled_scans_and_no_slice_of_theirs_is_trained_on(tmp_path: Path) -> None:
    cache = save_scans(
        tmp_path,
        *(scan(name=name, case=name) for name in ("a", "b")),
        *(some_slice(f"slice_{name}", name) for name in ("a", "b", "0")),
        some_slice("slice_left_out", "case_00002"),
        scan(name="empty", case="d", **NO_KIDNEY),
    )
    seen = [Patients(CONFIG, cache, fold=(k, 2)) for k in range(2)]
    assert sorted(patients.validation_names for patients in seen) == [["a"], ["b"]]
    for patients in seen:
        (other,) = {"a", "b"}.difference(patients.validation_names)
        assert patients.training_names == sorted([other, "empty", f"slice_{other}", "slice_0"])
    everything = Patients(CONFIG, cache, fold=None).training_names
    assert everything == ["a", "b", "empty", "slice_0", "slice_a", "slice_b"]


def test_each_source_draws_from_its_own_scans(tmp_path: Path) -> None:
    cache = save_scans(
        tmp_path, scan(name="whole"), some_slice("slice", "c"), scan(name="empty", case="d", **NO_KIDNEY)
    )
    shares = SourceShares(labelled=0.4, painted=0.3, background=0.2, slices=0.1)
    mixture = Patients(replace(CONFIG, sources=shares), cache, fold=None)._mixture()
    sources = [source for source in mixture.sources if isinstance(source, RealScans)]
    assert mixture.shares == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert [([one.name for one in source.scans], source.painted_share) for source in sources] == [
        (["whole"], 0.0), (["whole"], 1.0), (["empty"], 0.0), (["slice"], 0.5)
    ]  # fmt: skip


def test_sources_are_named_and_sum_to_one_in_the_shipped_chain() -> None:
    for name in ("kidney-scans", "tumor-scans"):
        shares = PRESETS[name].sources
        total = shares.synthetic + shares.labelled + shares.painted + shares.background + shares.slices
        assert total == pytest.approx(1.0)
    assert PRESETS["paper-kidney"].sources == SourceShares(labelled=1.0)


# --- validation ---------------------------------------------------------------------------------------------


def brighter_than(hu: float, *, low: bool = False) -> object:
    """A network that calls all above (or, where low, all inside the scan below) a HU value its structure."""
    at = (hu - ROI.window_hu[0]) / (ROI.window_hu[1] - ROI.window_hu[0])
    return lambda image: (at - image) * (image > 0.01) if low else image - at


def test_kidney_scores_by_hand() -> None:
    one = scan()
    labels: NDArray[np.uint8] = one.labels
    (score,) = score_kidneys(brighter_than(100), [one], ROI, CPU)  # type: ignore[arg-type]
    n_kidney, n_tumor = (labels == KIDNEY).sum(), (labels == TUMOR).sum()  # the tumor is dark: missed
    assert score.dsc == pytest.approx(2 * n_kidney / (2 * n_kidney + n_tumor))
    assert score.false_ml == 0
    (score,) = score_kidneys(brighter_than(100), [one], ROI, CPU, threshold=0.9)  # type: ignore[arg-type]
    assert score.dsc == 0  # no logit is above 2.2
    background = scan(labels=np.where(labels == IGNORE, IGNORE, 0).astype(np.uint8), has_kidney=False)
    (score,) = score_kidneys(brighter_than(100), [background], ROI, CPU)  # type: ignore[arg-type]
    assert isnan(score.dsc)
    assert score.false_ml == pytest.approx(n_kidney * 0.027)


def test_pieces_below_ten_millilitres_are_no_kidneys() -> None:
    grey = to_grey(np.full(SHAPE, -100.0))
    grey[5:12, 5:12, 5:12] = to_grey(np.array(200.0))  # 9.3 ml
    small = scan(grey=grey, labels=np.zeros(SHAPE, np.uint8), has_kidney=False)
    assert score_kidneys(brighter_than(100), [small], ROI, CPU)[0].false_ml == 0  # type: ignore[arg-type]


def test_tumor_scores_by_hand() -> None:
    one = scan()
    (score,) = score_tumors(brighter_than(60, low=True), [one], ROI, CPU, margin_vox=0)  # type: ignore[arg-type]
    assert score.dsc == 1.0
    assert score.false_ml == 0
    (score,) = score_tumors(brighter_than(60), [one], ROI, CPU, margin_vox=0)  # type: ignore[arg-type]
    assert score.dsc == 0
    assert score.false_ml == pytest.approx((one.labels == KIDNEY).sum() * 0.027)
    (score,) = score_tumors(brighter_than(60), [one], ROI, CPU, margin_vox=0, threshold=0.1)  # type: ignore[arg-type]
    n_kidney, n_tumor = (one.labels == KIDNEY).sum(), (one.labels == TUMOR).sum()
    assert score.dsc == pytest.approx(2 * n_tumor / (n_kidney + 2 * n_tumor))  # no logit is below −2.2
    assert not score_tumors(brighter_than(60), [scan(has_kidney=False)], ROI, CPU, margin_vox=0)  # type: ignore[arg-type]


def test_ignored_voxels_are_neither_found_nor_false() -> None:
    """Half of the kidney is ignored, as bright as the rest."""
    labels = scan().labels.copy()
    labels[10:14][labels[10:14] == KIDNEY] = IGNORE
    one = scan(labels=labels)
    n_kidney, n_tumor = (labels == KIDNEY).sum(), (labels == TUMOR).sum()
    (score,) = score_kidneys(brighter_than(100), [one], ROI, CPU)  # type: ignore[arg-type]
    assert score.dsc == pytest.approx(2 * n_kidney / (2 * n_kidney + n_tumor))
    assert score.false_ml == 0
    (score,) = score_tumors(brighter_than(100), [one], ROI, CPU, margin_vox=2)  # type: ignore[arg-type]
    assert score.false_ml == pytest.approx(n_kidney * 0.027)


def test_networks_are_shown_their_grid_or_the_kidneys_and_a_margin() -> None:
    shown: list[tuple[int, ...]] = []

    def network(image: Tensor) -> Tensor:
        shown.append(tuple(image.shape[2:]))
        return brighter_than(100)(image)  # type: ignore[operator]

    wide = replace(ROI, shape_vox=(24, 32, 40))  # wider than the scan by 4, 8 and 12 voxels
    scores = [score_kidneys(network, [scan()], roi, CPU)[0] for roi in (wide, ROI)]
    assert scores[0] == scores[1]
    score_tumors(network, [scan()], ROI, CPU, margin_vox=0)  # all of the scan, in multiples of 8
    assert shown == [wide.shape_vox, *[ROI.shape_vox] * 2, (24, 24, 32)]


def test_the_summary_weighs_false_volume_against_dsc() -> None:
    summary = summarise([ScanScore("a", 0.9, 10.0), ScanScore("b", 0.7, 0.0), ScanScore("c", nan, 400.0)])
    assert summary.dsc == pytest.approx(0.8)
    assert summary.false_ml == pytest.approx(410 / 3)
    assert summary.loss == pytest.approx((0.1 + 0.0 + 1.0) / 3 - 0.8)


@pytest.mark.parametrize("normalisation", ["window", "minmax"])
def test_training_normalises_as_inference_does(normalisation: Literal["window", "minmax"]) -> None:
    rng = np.random.default_rng(0)
    hu = rng.uniform(-1000, 2000, (6, 7, 8)).astype(np.float32)
    inside, spec = rng.random(hu.shape) < 0.7, RoiSpec(normalisation=normalisation)
    expected = normalise(np.where(inside, hu, np.float32(np.nan)), spec)
    found = normalise_hu(torch.from_numpy(hu), torch.from_numpy(inside), spec)
    np.testing.assert_array_equal(found.numpy(), expected)

"""Synthetic CTs: repeatable, plausible, and the same patient in every crop."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from training.synthesis import draw, scanner
from training.synthesis import labels as own_kidneys
from training.synthesis.contrast import draw_tissue
from training.synthesis.distances import distance_mm
from training.synthesis.draw import Landmarks, find_landmarks, synthesise_ct
from training.synthesis.labels import draw_labels
from training.synthesis.ranges import PHASES

SPACING_MM = 4.0
SHAPE_VOX = (56, 64, 80)
WHOLE = torch.ones(SHAPE_VOX, dtype=torch.bool)
VOXEL_ML = SPACING_MM**3 / 1000


@pytest.fixture(scope="module")
def labels() -> Tensor:
    return draw_labels(shape_vox=SHAPE_VOX, spacing_mm=SPACING_MM, seed=5, tumor=True)


@pytest.fixture
def _still(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scanner without voxel noise and with the whole field of view: what is left is anatomy."""
    still = replace(scanner.RANGES, noise_hu=(1e-3, 1e-3), round_view_share=0.0)
    monkeypatch.setattr(scanner, "RANGES", still)


def kidney_volumes_ml(labels: Tensor) -> list[float]:
    numbered, _ = ndimage.label(labels.numpy() > 0)
    return [float(n) * VOXEL_ML for n in np.bincount(numbered.ravel())[1:]]


def test_the_same_seed_repeats_bit_for_bit(labels: Tensor) -> None:
    first = synthesise_ct(labels, WHOLE, spacing_mm=SPACING_MM, seed=3)
    torch.manual_seed(0)
    torch.randn(7)  # the global generators are nobody's business
    np.random.seed(0)
    again = synthesise_ct(labels, WHOLE, spacing_mm=SPACING_MM, seed=3)
    assert torch.equal(first, again)


def test_the_global_generators_are_left_alone(labels: Tensor) -> None:
    before = torch.get_rng_state()
    synthesise_ct(labels, WHOLE, spacing_mm=SPACING_MM, seed=3)
    draw_labels(shape_vox=SHAPE_VOX, spacing_mm=SPACING_MM, seed=3)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.usefixtures("_still")
def test_another_seed_is_another_patient(labels: Tensor) -> None:
    one, other = (synthesise_ct(labels, WHOLE, spacing_mm=SPACING_MM, seed=s) for s in (3, 4))
    assert (one - other).abs().mean() > 50


@pytest.mark.parametrize("seed", range(8))
def test_hu_are_finite_float32_within_the_scale_of_ct(labels: Tensor, seed: int) -> None:
    before = labels.clone()
    hu = synthesise_ct(labels, WHOLE, spacing_mm=SPACING_MM, seed=seed)
    assert hu.shape == labels.shape
    assert hu.dtype == torch.float32
    assert torch.isfinite(hu).all()
    assert hu.min() >= -1024
    assert hu.max() < 4000
    assert torch.equal(labels, before)


def test_outside_the_scan_is_minus_1024(labels: Tensor) -> None:
    inside = WHOLE.clone()
    inside[:8] = inside[:, :, 70:] = False
    hu = synthesise_ct(labels, inside, spacing_mm=SPACING_MM, seed=1)
    assert (hu[~inside] == -1024).all()
    assert (hu[labels == 1] > -1024).all()


@pytest.mark.parametrize(
    ("phase", "lowest", "highest"),
    [
        ("non_contrast", 10, 55),
        ("corticomedullary", 55, 240),
        ("nephrographic", 90, 250),
        ("excretory", 70, 210),
    ],
)
def test_kidneys_enhance_by_phase(labels: Tensor, phase: str, lowest: float, highest: float) -> None:
    for seed in range(6):
        hu = synthesise_ct(labels, WHOLE, spacing_mm=SPACING_MM, seed=seed, phase=phase)
        assert lowest < hu[labels == 1].median() < highest


def test_blood_and_kidney_follow_one_phase_in_most_patients() -> None:
    bright = [draw_tissue(seed, PHASES.index("corticomedullary")).aorta > 170 for seed in range(200)]
    dull = [draw_tissue(seed, PHASES.index("non_contrast")).aorta < 60 for seed in range(200)]
    assert 0.8 < np.mean(bright) < 1.0  # some are incoherent on purpose
    assert 0.8 < np.mean(dull) < 1.0


def test_every_phase_occurs() -> None:
    assert {draw_tissue(seed).phase for seed in range(60)} == set(range(len(PHASES)))


@pytest.mark.usefixtures("_still")
@pytest.mark.parametrize("seed", range(3))
def test_a_crop_shows_the_same_patient(labels: Tensor, seed: int) -> None:
    landmarks = find_landmarks(labels, WHOLE, spacing_mm=SPACING_MM)
    whole = synthesise_ct(labels, WHOLE, spacing_mm=SPACING_MM, seed=seed)
    start, size = (10, 12, 6), (40, 40, 44)
    box = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
    z, y, x = (a * SPACING_MM for a in start)
    crop = synthesise_ct(
        labels[box], WHOLE[box], spacing_mm=SPACING_MM, seed=seed, landmarks=landmarks, origin_mm=(z, y, x)
    )
    # at its margin a crop knows neither what blurs into it nor the distance to kidneys beyond
    inner = (slice(7, -7),) * 3
    difference = (crop - whole[box])[inner].abs()
    assert (difference < 3).float().mean() > 0.98
    assert difference.median() < 0.1


@pytest.mark.parametrize("name", ["none", "one kidney", "all kidney", "no scan"])
def test_odd_label_maps_are_drawn_too(labels: Tensor, name: str) -> None:
    odd, inside = labels.clone(), WHOLE.clone()
    if name == "none":
        odd.zero_()
    if name == "one kidney":
        odd[:, :, SHAPE_VOX[2] // 2 :] = 0
    if name == "all kidney":
        odd.fill_(1)
    if name == "no scan":
        inside.zero_()
    hu = synthesise_ct(odd, inside, spacing_mm=SPACING_MM, seed=2)
    assert torch.isfinite(hu).all()
    assert (hu[~inside] == -1024).all()


def test_mismatched_shapes_and_unknown_phases_are_refused(labels: Tensor) -> None:
    with pytest.raises(ValueError, match=r"\(56, 64, 80\).*\(55, 64, 80\)"):
        synthesise_ct(labels, WHOLE[1:], spacing_mm=SPACING_MM, seed=0)
    with pytest.raises(ValueError, match=r"'portal'.*nephrographic"):
        synthesise_ct(labels, WHOLE, spacing_mm=SPACING_MM, seed=0, phase="portal")


def test_landmarks_by_hand() -> None:
    labels = torch.zeros((20, 20, 40), dtype=torch.uint8)
    labels[5:14, 6:13, 3:10] = 1  # 9 × 7 × 7 voxels = 28.2 ml
    labels[4:15, 6:13, 25:34] = 2  # 11 × 7 × 9 voxels = 44.4 ml, the larger
    labels[0, 0, 0] = 1  # a speck: in the box, no kidney
    inside = torch.ones(labels.shape, dtype=torch.bool)
    inside[18:] = False
    assert find_landmarks(labels, inside, spacing_mm=4.0, origin_mm=(100.0, 0.0, -8.0)) == Landmarks(
        kidney_centres_mm=((136.0, 36.0, 108.0), (136.0, 36.0, 16.0)),
        kidney_low_mm=(100.0, 0.0, -8.0),
        kidney_high_mm=(156.0, 48.0, 124.0),
        scan_low_mm=(100.0, 0.0, -8.0),
        scan_high_mm=(168.0, 76.0, 148.0),
    )


def test_without_kidneys_their_box_is_the_scans_centre() -> None:
    labels = torch.zeros((8, 8, 8), dtype=torch.uint8)
    found = find_landmarks(labels, torch.ones((8, 8, 8), dtype=torch.bool), spacing_mm=2.0)
    assert found.kidney_centres_mm == ()
    assert found.kidney_low_mm == found.kidney_high_mm == (7.0, 7.0, 7.0)


def test_distances_agree_with_scipy_below_the_cap() -> None:
    mask = np.random.default_rng(0).random((9, 11, 13)) > 0.99
    expected = np.minimum(ndimage.distance_transform_edt(~mask) * 2.0, 9.0)
    found = distance_mm(torch.from_numpy(mask), spacing_mm=2.0, cap_mm=9.0).clamp(max=9.0)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("tumor", [False, True])
def test_own_labels_are_two_kidneys(tumor: bool) -> None:
    for seed in range(10):
        labels = draw_labels(shape_vox=SHAPE_VOX, spacing_mm=SPACING_MM, seed=seed, tumor=tumor)
        assert labels.dtype == torch.uint8
        assert bool((labels == 2).any()) is tumor
        volumes = kidney_volumes_ml(labels)
        assert len(volumes) == 2
        # a tumor may add up to as much again to its kidney
        healthy = min(volumes) if tumor else max(volumes)
        assert min(volumes) > 100
        assert healthy < 300
        assert max(volumes) < 600


def test_own_labels_repeat_by_seed_and_draw_tumors_by_chance() -> None:
    def make(seed: int) -> Tensor:
        return draw_labels(shape_vox=SHAPE_VOX, spacing_mm=SPACING_MM, seed=seed)

    assert torch.equal(make(1), make(1))
    assert not torch.equal(make(1), make(2))
    assert {bool((make(seed) == 2).any()) for seed in range(25)} == {True, False}


def test_the_sinus_is_no_kidney_and_cysts_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def volume_ml(**changes: object) -> float:
        with monkeypatch.context() as patch:
            patch.setattr(own_kidneys, "RANGES", replace(own_kidneys.RANGES, **changes))  # type: ignore[arg-type]
            drawn = draw_labels(shape_vox=SHAPE_VOX, spacing_mm=SPACING_MM, seed=7, tumor=False)
        assert set(drawn.unique().tolist()) == {0, 1}
        return float((drawn > 0).sum()) * VOXEL_ML

    no_sinus = ((1.0, 1.0),) * 3
    plain = volume_ml(cyst_share=0.0)
    assert volume_ml(cyst_share=0.0, sinus_radii_mm=no_sinus) > plain + 2 * 3  # 3 ml and more each
    assert (
        volume_ml(cyst_share=1.0, cyst_radius_mm=(16.0, 16.0)) > plain + 2 * 1
    )  # most of a cyst lies within


@pytest.mark.usefixtures("_still")
def test_the_sinus_is_filled_with_fat_vessels_or_urine_not_parenchyma() -> None:
    """The closed hollow of a kidney is mostly darker than its parenchyma with contrast."""
    labels = draw_labels(shape_vox=SHAPE_VOX, spacing_mm=SPACING_MM, seed=8, tumor=False)
    kidneys = labels.numpy() > 0
    hollow = torch.from_numpy(ndimage.binary_closing(kidneys, iterations=4) & ~kidneys)
    drops = []
    for seed in range(5):
        hu = synthesise_ct(labels, WHOLE, spacing_mm=SPACING_MM, seed=seed, phase="nephrographic")
        drops.append(float(hu[labels == 1].median() - hu[hollow].median()))
    assert np.median(drops) > 40


def test_urine_lies_beside_the_kidneys_too_and_never_in_them(
    labels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renal pelvis and ureter: dense urine in the excretory phase, below and beside the kidneys."""
    with_tract, without = [], []
    for seed in range(4):
        make = partial(synthesise_ct, labels, WHOLE, spacing_mm=SPACING_MM, seed=seed, phase="excretory")
        with_tract.append(make())
        with monkeypatch.context() as patch:
            patch.setattr(draw, "urinary_tract", lambda canvas, patient: None)
            without.append(make())
    changes = (torch.stack(with_tract) - torch.stack(without)).abs() > 50
    n_changed = changes.flatten(1).sum(1)
    assert (n_changed > 0).sum() >= 3  # six of ten pelves and seven of ten ureters are filled
    kidneys = torch.from_numpy(ndimage.binary_erosion(labels.numpy() > 0, iterations=2))
    assert not changes[:, kidneys].any()

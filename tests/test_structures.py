"""The benchmarks that measure what the networks find."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import structures, tumor_evidence
from benchmarks.altered import altered
from benchmarks.structures import View, _print_rules, measure
from inference.geometry import Roi, RoiSpec
from inference.method.method import DEFAULT
from tests.helpers import AIR_HU, FAT_HU, KIDNEY_HU, invoke, metadata, save_abdomens, threshold_cascade
from training.cache import IGNORE

ROOT = Path(__file__).resolve().parent.parent
SHAPE = (20, 40, 60)
METADATA = metadata("kidney", RoiSpec(SHAPE, 10.0))


def view() -> View:
    """A body of fat, y 10 to 29 and x 10 to 49, with a kidney on each side: 6 × 6 × 6 and 6 × 6 × 5 cm."""
    hu = np.full(SHAPE, AIR_HU, dtype=np.float32)
    hu[:, 10:30, 10:50] = FAT_HU
    probability = np.full(SHAPE, 0.1, dtype=np.float32)
    right, left = np.s_[4:10, 19:25, 14:20], np.s_[4:10, 19:25, 41:46]
    hu[right], hu[left] = KIDNEY_HU, KIDNEY_HU + 20
    probability[right], probability[left] = 0.98, 0.8
    truth = np.zeros(SHAPE, dtype=np.uint8)
    truth[4:7, 19:25, 14:20] = 1
    truth[left] = IGNORE
    roi = Roi(RoiSpec(SHAPE, 10.0), (0.0, 0.0, 0.0), (2.0, 2.0, 2.0))  # CT voxels of 5 mm
    return View("scan", "roi", roi, hu, probability, truth)


def test_structures_by_hand() -> None:
    right, left = measure(view(), METADATA)
    assert (right.ml, left.ml) == (216.0, 180.0)
    assert (right.mean, left.mean) == pytest.approx((0.98, 0.8))
    assert (right.air, right.bone) == (0, 0)
    assert (right.coarse, left.coarse) == (None, None)
    assert (right.hu, left.hu) == pytest.approx((KIDNEY_HU, KIDNEY_HU + 20))
    assert (right.true, right.ignored, left.true, left.ignored) == (0.5, 0, None, 1)


def test_the_rules_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    _print_rules(measure(view(), METADATA))
    lines = {line[:26].strip(): line.split()[-4:] for line in capsys.readouterr().out.splitlines()}
    assert lines["all structures"] == ["1", "216", "1", "180"]  # half of the first is no kidney
    assert lines["mean < 0.95"] == ["0", "0", "1", "180"]
    assert lines["all rules of the method"] == ["0", "0", "1", "180"]


def test_what_the_coarse_network_says_is_a_column_and_a_rule(capsys: pytest.CaptureFixture[str]) -> None:
    coarse = np.zeros(SHAPE, dtype=np.float32)
    coarse[:, :, 30:] = 0.25
    rows = measure(replace(view(), coarse=coarse), METADATA)
    assert [row.coarse for row in rows] == [0.0, 0.25]
    assert [row.kept for row in measure(view(), METADATA)] == [True, False]
    assert [row.kept for row in rows] == [False, False]
    _print_rules(rows)
    lines = {line[:26].strip(): line.split()[-4:] for line in capsys.readouterr().out.splitlines()}
    assert lines["coarse mean < 0.1"] == ["1", "216", "0", "0"]
    assert lines["coarse mean < 0.3"] == ["1", "216", "1", "180"]


def test_a_ct_is_altered_as_the_name_says() -> None:
    rng = np.random.default_rng(0)
    hu = np.full((120, 6, 12), 40, dtype=np.int16)
    hu[::2] = 60  # every second slice
    labels = np.zeros(hu.shape, dtype=np.uint8)
    labels[5] = 1
    cts = {what: rest for what, *rest in altered(hu, labels, (3.0, 1.0, 1.0), rng)}
    assert len(cts) == 15
    thick, seen, spacing_mm = cts["slices of 6 mm"]
    np.testing.assert_array_equal(thick, np.full((60, 6, 12), 50))
    assert spacing_mm == (6.0, 1.0, 1.0)
    assert np.flatnonzero(seen.any((1, 2))).tolist() == [2]
    assert cts["noise 40 HU"][0].std() == pytest.approx(np.hypot(40, 10), rel=0.05)
    assert (cts["brighter"][0].mean(), cts["darker"][0].mean()) == (75, 25)
    np.testing.assert_array_equal(cts["soft"][0], hu)  # its slices are flat
    assert cts["0.85 times as large"][2] == pytest.approx((2.55, 0.85, 0.85))
    assert cts["narrow"][0].shape == cts["narrow"][1].shape == (120, 4, 8)
    parts = [(what.split(), ct) for what, ct in cts.items() if " to " in what]
    for (_, start, _, stop), (part, seen, _) in parts:
        np.testing.assert_array_equal(part, hu[int(start) : int(stop)])
        np.testing.assert_array_equal(seen, labels[int(start) : int(stop)])


def test_altered_cts_are_lines_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("known", "other"):
        save_abdomens(tmp_path / name, 1)[0].rename(tmp_path / name / "imaging.nii.gz")
    monkeypatch.setattr(structures, "load_cascade", lambda weights, device: threshold_cascade())
    done = invoke(structures.main, tmp_path, "--altered", "--only", "known")
    assert done.exit_code == 0, done.output
    names = {line[:44].strip() for line in done.output.splitlines()[1:]}
    assert {"known: as it is", "known: noise 40 HU", "known: narrow"} <= names
    assert not any(name.startswith("other") for name in names)


def test_the_table_of_tumors_tells_true_pieces_from_false_ones(tmp_path: Path) -> None:
    """A sample case with its reference, and without one, where every piece counts as false."""
    case = ROOT / "test_data" / "input" / "case_90000" / "imaging.nii.gz"
    for name in ("known", "unknown"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "imaging.nii.gz").symlink_to(case)
    reference = ROOT / "test_data" / "reference" / "prediction_90000.nii.gz"
    (tmp_path / "known" / "segmentation.nii.gz").symlink_to(reference)
    done = invoke(tumor_evidence.main, tmp_path, "--weights", ROOT / "weights")
    assert done.exit_code == 0, done.output
    pieces = [line.split() for line in done.output.splitlines() if " ml  mean" in line]
    largest = [
        max((row for row in pieces if row[0] == name), key=lambda row: float(row[1]))
        for name in ("known", "unknown")
    ]
    assert [float(row[-1]) > 0.8 for row in largest] == [True, False]
    assert float(largest[0][4]) > DEFAULT.min_mean_tumor_probability
    false, false_ml, true, true_ml = done.output.splitlines()[-1].split()[2:]
    assert int(false) + int(true) == len(pieces)
    assert float(false_ml) >= float(true_ml) > 10

"""Random parts of scans that show no kidney."""

import json
from pathlib import Path

import numpy as np

from benchmarks.crops import crops, main
from tests.helpers import ABDOMEN_SPACING_MM, abdomen, canonical_affine, invoke, save_nifti


def test_parts_hold_no_label_and_have_their_length() -> None:
    labelled = np.zeros(100, bool)
    labelled[40:60] = True
    found = list(crops(labelled, 5.0, 200, np.random.default_rng(0)))
    assert len(found) > 100
    lengths = {stop - start for start, stop in found}
    assert min(lengths) == 8
    assert 30 < max(lengths) <= 40
    assert all(stop <= 40 or start >= 60 for start, stop in found)
    assert {stop <= 40 for _, stop in found} == {True, False}


def test_a_scan_that_is_all_kidney_gives_none_and_a_short_one_itself() -> None:
    rng = np.random.default_rng(0)
    assert list(crops(np.ones(50, bool), 5.0, 3, rng)) == []
    assert list(crops(np.zeros(3, bool), 5.0, 2, rng)) == [(0, 3), (0, 3)]


def test_what_is_found_is_printed_and_counted(weights_folder: Path, tmp_path: Path) -> None:
    """The made weights call the bright parts of this body kidneys."""
    hu = abdomen()
    affine = canonical_affine(ABDOMEN_SPACING_MM)
    save_nifti(tmp_path / "full" / "imaging.nii.gz", hu, affine)
    save_nifti(tmp_path / "air" / "imaging.nii.gz", np.full_like(hu, -900), affine)
    save_nifti(tmp_path / "known" / "imaging.nii.gz", hu, affine)
    save_nifti(tmp_path / "known" / "segmentation.nii.gz", np.ones(hu.shape, np.uint8), affine)
    index = {name: {"labels": "no kidney in view"} for name in ("full", "air")}
    index |= {"known": {"labels": "1 kidney"}, "unknown": {"labels": "none"}}
    (tmp_path / "index.json").write_text(json.dumps(index))
    words = (tmp_path, "--weights", weights_folder, "--crops", 2)
    result = invoke(main, *words, catch_exceptions=False)
    *lines, last = result.stdout.splitlines()
    assert lines
    assert all(line.startswith("full: slices ") for line in lines)
    total = sum(float(line.split(": ")[-1].split(" ml")[0]) for line in lines)
    assert last == f"{4 - len(lines)} of 4 parts empty, {total:.0f} ml in all"
    assert "0 of 0 parts" in invoke(main, *words, "--only", "known").stdout

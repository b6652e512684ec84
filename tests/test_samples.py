"""The sample cases: made again, small, in different layouts and geometries."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from inference.formats.ct import read_ct
from inference.runner.cases import find_cases
from test_data import make, table
from tests.helpers import save_nifti

FOLDER = Path(make.__file__).parent


def test_the_command_makes_the_same_samples_again(tmp_path: Path) -> None:
    """Bit for bit on one kind of processor; on another a sum may round otherwise: 1 HU in few voxels."""
    make.main(tmp_path)
    for part in ("input", "reference"):
        names = {p.relative_to(FOLDER) for p in (FOLDER / part).rglob("*") if p.is_file()}
        assert names == {p.relative_to(tmp_path) for p in (tmp_path / part).rglob("*") if p.is_file()}
        for name in names:
            shipped, made = read_ct(FOLDER / name), read_ct(tmp_path / name)
            np.testing.assert_array_equal(shipped.native.affine, made.native.affine)
            away = np.abs(shipped.hu.astype(int) - made.hu)
            assert away.max() <= (1 if part == "input" else 0)
            assert np.count_nonzero(away) < 1e-3 * away.size


@pytest.mark.parametrize("module", ["test_data.make", "tests.robustness.corpus"])
def test_asking_for_help_makes_nothing(tmp_path: Path, module: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parent)}
    command = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: python -m {module}")
    assert not list(tmp_path.iterdir())


def test_each_case_has_a_reference_on_its_own_grid() -> None:
    cases = find_cases(FOLDER / "input")
    assert len(cases) == len(make.SAMPLES)
    for case in cases:
        ct, reference = read_ct(case.source), read_ct(FOLDER / "reference" / case.output)
        assert reference.hu.shape == ct.hu.shape
        np.testing.assert_array_equal(reference.native.affine, ct.native.affine)
        assert set(np.unique(reference.hu)) <= {0, 1, 2}
        kidney_ml = np.count_nonzero(reference.hu) * np.prod(ct.spacing_mm) / 1000
        assert 150 < kidney_ml < 800


def test_the_geometries_are_those_that_bite() -> None:
    kits = nib.load(FOLDER / "input" / "case_90000" / "imaging.nii.gz")
    assert kits.get_data_dtype() == np.float64
    assert nib.aff2axcodes(kits.affine) == ("I", "P", "L")
    thick = nib.load(FOLDER / "input" / "thick_slices.nii.gz")
    assert max(thick.header.get_zooms()) == pytest.approx(5.0)
    assert (int(thick.header["qform_code"]), int(thick.header["sform_code"])) == (1, 0)
    oblique = read_ct(FOLDER / "input" / "oblique.mha").native.affine[:3, :3]
    assert np.count_nonzero(np.abs(oblique) > 1e-3) > 3


def test_the_table_scores_what_was_written_and_names_what_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, output = tmp_path / "reference", tmp_path / "output"
    labels = np.zeros((4, 4, 4), dtype=np.uint8)
    labels[0], labels[1] = 1, 2
    save_nifti(reference / "a.nii", labels, np.eye(4))
    save_nifti(output / "a.nii", np.minimum(labels, 1), np.eye(4))  # both kidney and tumor, called kidney
    cases = [
        {"name": "a", "output": "a.nii", "status": "ok", "seconds": {"read": 0.5, "kidney": 1.0},
         "kidney_ml": 1.25, "tumor_ml": 0.0},
        {"name": "b", "status": "failed", "error": "b.nii: cannot be read"},
    ]  # fmt: skip
    (tmp_path / "report.json").write_text(json.dumps({"cases": cases}))
    table.main(tmp_path / "report.json", output, reference)
    _, a, b = capsys.readouterr().out.splitlines()
    assert a.split() == ["a", "1.5", "1.2", "0.0", "1.000", "0.000"]
    assert b.split(maxsplit=1) == ["b", "failed: b.nii: cannot be read"]

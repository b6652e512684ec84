"""The library's front door: a handful of names, the same bits as the command, and a fast start."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import inference
from inference import DEFAULT, PAPER, Method, load_cascade, read_ct, segment, write_label_map
from inference.cli import main
from inference.geometry import RoiSpec
from inference.networks.weights import WeightsError
from tests.helpers import ABDOMEN_SPACING_MM, abdomen, invoke, save_abdomens, threshold_cascade, write_weights

ROOT = Path(__file__).resolve().parent.parent


def test_a_label_map_by_the_library_is_the_commands(tmp_path: Path) -> None:
    (path,) = save_abdomens(tmp_path / "in", 1)
    weights = write_weights(tmp_path / "weights")
    assert invoke(main, "--input", path, "--output", tmp_path / "out", "--weights", weights).exit_code == 0

    ct = read_ct(str(path))
    result = segment(ct.hu, ct.spacing_mm, load_cascade(str(weights)))
    write_label_map(str(tmp_path / "library.nii.gz"), result.labels, ct.native)
    assert np.unique(result.labels).tolist() == [0, 1, 2]
    assert (tmp_path / "library.nii.gz").read_bytes() == (tmp_path / "out" / "ct_0.nii.gz").read_bytes()
    assert result.kidney_on_roi.shape == result.tumor_on_roi.shape == result.roi.spec.shape_vox
    assert np.sum(result.voxels, axis=0).tolist() == [np.sum(result.labels == label) for label in (1, 2)]


def test_without_a_folder_the_shipped_weights_are_loaded() -> None:
    assert load_cascade().kidney_metadata == load_cascade(ROOT / "weights").kidney_metadata


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such weights file"):
        load_cascade(tmp_path)
    with pytest.raises(ValueError, match="no such device"):
        load_cascade(device="tpu")
    with pytest.raises(AttributeError, match="no attribute 'segment_everything'"):
        inference.segment_everything  # noqa: B018


def test_progress_runs_through_every_stage_in_order() -> None:
    told: list[tuple[str, float]] = []
    hu = abdomen((40, 40, 48))  # 200 mm, the ROI is 64 mm long: the kidneys are looked for
    cascade = threshold_cascade(RoiSpec((16, 32, 32), 4.0))
    segment(hu, ABDOMEN_SPACING_MM, cascade, progress=lambda stage, share: told.append((stage, share)))
    tiles = len(told) - 7
    assert tiles > 2
    assert told == [
        ("locate", 0.0),
        *(("locate", i / tiles) for i in range(tiles)),
        *((stage, 0.0) for stage in ("roi", "kidney", "components", "tumor", "restore")),
        ("restore", 1.0),
    ]


def test_the_paper_has_another_value_for_every_field_of_the_method() -> None:
    assert Method() == DEFAULT
    for field in dataclasses.fields(Method):
        assert getattr(DEFAULT, field.name) != getattr(PAPER, field.name), field.name
        assert f"        {field.name}: " in (Method.__doc__ or ""), field.name


def test_the_door_is_light_and_goes_by_another_name_too(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "inference", tmp_path / "nested_vnet")
    code = (
        "import sys, nested_vnet as n; heavy = {'numpy', 'scipy', 'nibabel', 'torch'} & set(sys.modules);"
        "print(sorted(heavy), n.__version__, [getattr(n, name).__class__.__name__ for name in dir(n)]);"
        "print('torch' in sys.modules, 'inference' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    kinds = ["Method", "type", "Method", "str", *["function"] * 5]
    assert done.stdout.splitlines() == [f"[] {inference.__version__} {kinds}", "False False"]


def test_there_is_one_version() -> None:
    assert 'attr = "inference.version.__version__"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")

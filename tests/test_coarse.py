"""The third network of the cascade: weights that have it, and weights that do not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from inference import cli
from inference.geometry import RoiSpec
from inference.networks.backends import choose_backend
from inference.networks.cascade import load_cascade, load_cascade_weights
from inference.networks.weights import CHECKSUMS, WeightsError, load_weights, save_weights
from tests.helpers import (
    SMALL_ROI,
    files_under,
    invoke,
    metadata,
    save_abdomens,
    threshold_vnet,
    write_weights,
)

WIDE = RoiSpec((32, 32, 32), 16.0, window_hu=SMALL_ROI.window_hu)


def add_coarse(folder: Path, *, threshold: float, roi: RoiSpec = WIDE) -> Path:
    """A coarse network that calls what is brighter than a threshold kidney."""
    save_weights(folder / "coarse.safetensors", threshold_vnet(threshold), metadata("kidney", roi))
    return folder


def test_weights_may_have_none(tmp_path: Path) -> None:
    cascade = load_cascade(write_weights(tmp_path))
    assert cascade.coarse is None
    assert cascade.coarse_metadata is None


def test_weights_that_have_one_give_it(tmp_path: Path) -> None:
    cascade = load_cascade(add_coarse(write_weights(tmp_path), threshold=0.1))
    assert cascade.coarse is not None
    assert cascade.coarse_metadata == metadata("kidney", WIDE)


def test_one_that_the_checksums_name_may_not_be_missing(tmp_path: Path) -> None:
    folder = add_coarse(write_weights(tmp_path), threshold=0.1)
    lines = []
    for name, stage in (("coarse", "kidney"), ("kidney", "kidney"), ("tumor", "tumor")):
        weights = load_weights(folder / f"{name}.safetensors", stage)  # type: ignore[arg-type]
        lines.append(f"{weights.sha256}  {name}.safetensors\n")
    (folder / CHECKSUMS).write_text("".join(lines))
    assert load_cascade(folder).coarse is not None
    (folder / "coarse.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"coarse\.safetensors: no such weights file"):
        load_cascade(folder)


def test_an_ensemble_takes_those_that_there_are_on_one_grid(tmp_path: Path) -> None:
    folders = [write_weights(tmp_path / name, version=name) for name in "abc"]
    for folder in folders[1:]:
        add_coarse(folder, threshold=0.1)
    cascade = load_cascade_weights(folders).on(choose_backend(device="cpu", threads=1))
    assert cascade.coarse is not None
    assert cascade.kidney_metadata.version == cascade.tumor_metadata.version == "a"  # the first decides
    add_coarse(folders[2], threshold=0.1, roi=replace(WIDE, spacing_mm=8.0))
    with pytest.raises(WeightsError, match="trained on different grids"):
        load_cascade_weights(folders)


def test_kidney_and_tumor_of_one_folder_lie_on_one_grid(tmp_path: Path) -> None:
    folder, finer = write_weights(tmp_path), replace(SMALL_ROI, spacing_mm=3.0)
    save_weights(folder / "tumor.safetensors", threshold_vnet(0.8), metadata("tumor", finer))
    with pytest.raises(WeightsError, match="trained on different grids"):
        load_cascade(folder)


@pytest.mark.parametrize(("threshold", "found"), [(0.1, True), (2.0, False)])
def test_the_command_asks_it_and_reports_it(tmp_path: Path, threshold: float, found: bool) -> None:
    save_abdomens(tmp_path / "in", 1)
    folder = add_coarse(write_weights(tmp_path / "w"), threshold=threshold)
    words = ["--weights", folder, "--input", tmp_path / "in", "--output", tmp_path / "out"]
    result = invoke(cli.main, *words, "--report", tmp_path / "r.json")
    assert result.exit_code == 0, result.stderr
    assert files_under(tmp_path / "out") == ["ct_0.nii.gz"]
    report = json.loads((tmp_path / "r.json").read_text())
    digest = load_weights(folder / "coarse.safetensors", "kidney").sha256
    assert report["run"]["weights"]["coarse"]["sha256"] == digest
    assert report["cases"][0]["recipe"]["coarse"] == [digest]
    assert bool(report["cases"][0]["kidneys"]) == found
    assert ("no kidney found" in result.stderr) == (not found)

"""What bfloat16 is judged by, and where the verdict goes."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import precision
from benchmarks.precision import MAX_CHANGE, Score, Verdict, judge, score, write_verdict
from inference.networks.backends import Backend, has_bf16
from inference.networks.vnet import VNet
from inference.networks.weights import CHECKSUMS, WeightsMetadata, load_weights, save_weights
from inference.runner.cases import KITS19_IMAGE, KITS19_SEGMENTATION
from tests.helpers import invoke, save_nifti, write_weights


def test_voxels_to_be_ignored_count_for_nothing() -> None:
    truth = np.uint8([0, 1, 1, 2, 255, 255, 0])
    labels = np.uint8([0, 1, 0, 2, 1, 2, 1])
    found = score(labels, truth, voxel_ml=0.5)
    assert found.dsc == {"kidney": pytest.approx(2 * 2 / (3 + 3)), "tumor": 1.0}
    assert found.false_ml == 0.5


def test_a_structure_that_the_reference_does_not_show_has_no_dsc() -> None:
    assert score(np.uint8([2, 1]), np.uint8([1, 1]), voxel_ml=1.0).dsc == {"kidney": 1.0}


def _pair(name: str, before: float, after: float) -> tuple[Score, Score]:
    return Score({name: before}, 0.0), Score({name: after}, 0.0)


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ((0.001, 0.001), True),
        ((-0.009, 0.009), True),  # the mean does not change
        ((0.0025, 0.0025), False),  # it does, upwards too
        ((-0.0025, -0.0025), False),
        ((0.011, -0.011), False),  # one case does
    ],
)
def test_the_bars_are_those_of_the_mean_and_of_the_worst_case(
    changes: tuple[float, ...], holds: bool
) -> None:
    verdict = judge({str(i): _pair("kidney", 0.9, 0.9 + change) for i, change in enumerate(changes)})
    assert verdict.holds == holds
    assert verdict.n == {"kidney": len(changes)}


def test_a_tumor_that_changes_too_much_is_enough() -> None:
    kidneys = {str(i): _pair("kidney", 0.9, 0.9) for i in range(9)}
    assert judge(kidneys).holds
    assert not judge({**kidneys, "t": _pair("tumor", 0.8, 0.8 + 2 * MAX_CHANGE)}).holds


def test_nothing_measured_proves_nothing() -> None:
    assert not judge({}).holds


def _write_checked_weights(folder: Path) -> list[str]:
    """Weights, their checksums, and the names of the files."""
    write_weights(folder)
    names = ["kidney.safetensors", "tumor.safetensors"]
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / CHECKSUMS).write_text("".join(lines))
    return names


@pytest.mark.parametrize("change", [0.0001, 0.02])
def test_the_verdict_is_where_auto_looks_for_it(change: float, tmp_path: Path) -> None:
    names = _write_checked_weights(tmp_path)
    before = load_weights(tmp_path / names[0], "kidney")

    verdict = Verdict({"kidney": 2}, {"kidney": change}, {"kidney": change})
    write_verdict(tmp_path, verdict)

    kidney, tumor = load_weights(tmp_path / names[0], "kidney"), load_weights(tmp_path / names[1], "tumor")
    for weights in (kidney, tumor):
        assert weights.metadata.bf16 == verdict.holds
        assert f"{change:+.5f}" in weights.metadata.provenance["bfloat16"]
        assert Backend("openvino", "cpu", 1).is_bf16(weights) == (verdict.holds and has_bf16("cpu"))
    for name, tensor in before.tensors.items():
        np.testing.assert_array_equal(kidney.tensors[name], tensor)
    assert kidney.metadata.roi == before.metadata.roi


def test_weights_without_checksums_get_none(tmp_path: Path) -> None:
    write_weights(tmp_path)
    write_verdict(tmp_path, Verdict({"kidney": 2}, {"kidney": 0.0}, {"kidney": 0.0}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kidney.safetensors", "tumor.safetensors"]
    assert load_weights(tmp_path / "kidney.safetensors", "kidney").metadata.bf16
    assert load_weights(tmp_path / "tumor.safetensors", "tumor").metadata.bf16


def test_a_coarse_network_gets_the_verdict_too(tmp_path: Path) -> None:
    _write_checked_weights(tmp_path)
    (tmp_path / "coarse.safetensors").write_bytes((tmp_path / "kidney.safetensors").read_bytes())
    digest = load_weights(tmp_path / "kidney.safetensors", "kidney").sha256
    with (tmp_path / CHECKSUMS).open("a") as sums:
        sums.write(f"{digest}  coarse.safetensors\n")
    write_verdict(tmp_path, Verdict({"kidney": 2}, {"kidney": 0.0}, {"kidney": 0.0}))
    assert load_weights(tmp_path / "coarse.safetensors", "kidney").metadata.bf16


@pytest.mark.parametrize("stage", ["kidney", "tumor"])
def test_what_stops_the_writing_leaves_the_weights_as_they_were(
    tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = _write_checked_weights(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in (*names, CHECKSUMS)}

    def save_half(path: Path, model: VNet, metadata: WeightsMetadata) -> None:
        save_weights(path, model, metadata)
        if metadata.stage == stage:
            path.write_bytes(path.read_bytes()[:100])
            raise KeyboardInterrupt

    monkeypatch.setattr(precision, "save_weights", save_half)
    with pytest.raises(KeyboardInterrupt):
        write_verdict(tmp_path, Verdict({"kidney": 2}, {"kidney": 0.0}, {"kidney": 0.0}))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_new_weights_are_never_there_without_a_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_checked_weights(tmp_path)
    move, seen = Path.replace, []

    def look(path: Path, target: Path) -> Path:
        seen.append((target.name, (tmp_path / CHECKSUMS).is_file()))
        return move(path, target)

    monkeypatch.setattr(Path, "replace", look)
    write_verdict(tmp_path, Verdict({"kidney": 2}, {"kidney": 0.0}, {"kidney": 0.0}))
    assert sorted(seen[:2]) == [("kidney.safetensors", True), ("tumor.safetensors", True)]
    assert seen[2:] == [(CHECKSUMS, True)]


def test_cases_of_one_name_in_several_folders_are_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one's label map is all kidney, the other's half."""
    for folder, n in (("a", 4), ("b", 2)):
        truth = np.zeros((4, 4, 4), np.uint8)
        truth[:n] = 1
        for name in (KITS19_IMAGE, KITS19_SEGMENTATION):
            save_nifti(tmp_path / folder / "case_00001" / name, truth, np.eye(4))

    def run(source: Path, output: Path, *_: str) -> list[dict[str, Any]]:
        cases = []
        for image in sorted(source.rglob(KITS19_IMAGE)):
            name = f"{image.parent.name}.nii.gz"
            save_nifti(output / name, np.ones((4, 4, 4), np.uint8), np.eye(4))
            cases.append({"source": str(image), "output": name, "seconds": {"read": 1.0}})
        return cases

    monkeypatch.setattr(precision, "run", run)
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    out = tmp_path / "precision.json"
    done = invoke(precision.main, tmp_path / "a", tmp_path / "b", "--weights", tmp_path, "--out", out)
    assert done.exit_code == 0, done.output
    content = json.loads(out.read_text())
    assert content["verdict"]["n"] == {"kidney": 2}
    assert {name: case["float32"]["dsc"] for name, case in content["cases"].items()} == {
        "a/case_00001": {"kidney": 1.0},
        "b/case_00001": {"kidney": pytest.approx(2 * 32 / (32 + 64))},
    }


def test_a_processor_without_bfloat16_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda device: False)
    done = invoke(precision.main, tmp_path)
    assert done.exit_code == 1
    assert "nothing would be proved" in done.output

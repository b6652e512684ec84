"""The benchmark's inputs have the answer they claim, and its figures are what they are called."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="NO MATPLOTLIB: THE BENCHMARK IS NOT TESTED")

from benchmarks import common, floors, inputs, peers, run, wheels
from benchmarks.tumor_hu import inner_hu
from inference.formats.ct import read_ct
from tests.helpers import invoke
from training.cache import Scan, to_grey

SIDE, PIXELS, SLICES = 40, 64, 120


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "WORK", tmp_path / "work")
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")


def test_a_ct_is_made_once_in_kits19_orientation(tmp_path: Path) -> None:
    path = inputs.make_ct(tmp_path / "ct.nii.gz", n_slices=SLICES, pixels=PIXELS)
    image: Any = nib.load(path)
    assert image.get_data_dtype() == np.float64
    assert image.shape == (SLICES, PIXELS, PIXELS)
    assert nib.aff2axcodes(image.affine) == ("I", "P", "L")
    before = path.stat().st_mtime_ns
    inputs.make_ct(path, n_slices=SLICES, pixels=PIXELS)
    assert path.stat().st_mtime_ns == before


def test_case_tells_stages_that_add_up_and_finds_the_kidneys() -> None:
    options = ["--slices", SLICES, "--pixels", PIXELS, "--side", SIDE, "--repeats", 1]
    done = invoke(run.main, "case", *options, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    table = json.loads((common.RESULTS / "case.json").read_text())
    bundled, ct = table["rows"]
    assert ct["case"] == f"{PIXELS}×{PIXELS}×{SLICES}"
    for row in (bundled, ct):
        parts = [row[stage] for stage in common.STAGES]
        assert min(parts) >= 0
        assert 0.9 * row["all"] < sum(parts) <= 1.01 * row["all"]  # between the stages: nearly nothing
        assert 0 < row["not network"] < 1
    assert (common.RESULTS / "case.png").read_bytes().startswith(b"\x89PNG")
    memory = json.loads((common.RESULTS / "memory.json").read_text())["rows"][1]
    assert max(v for k, v in memory.items() if k != "case") == ct["peak MiB"]

    source = common.WORK / f"ct-{PIXELS}x{SLICES}-3" / "case_00000" / "imaging.nii.gz"
    found = read_ct(common.WORK / "out" / "prediction_00000.nii.gz").hu
    hu = read_ct(source).hu
    assert np.count_nonzero(found) > 1000
    assert np.median(hu[found == 1]) == pytest.approx(inputs.KIDNEY_HU, abs=10)
    assert np.median(hu[found == 2]) == pytest.approx(inputs.TUMOR_HU, abs=15)


def test_operations_are_counted_by_hand() -> None:
    """Multiply-adds a voxel of the finest grid; each level below has an eighth of the voxels."""
    levels = [8 + 8 * 16, 16 * 16 + 16 * 32, 32 * 32 + 32 * 64]  # encoder
    levels = [
        level + decoder
        for level, decoder in zip(
            levels, [48 * 16 + 16 * 16, 96 * 32 + 32 * 32, 192 * 64 + 64 * 64], strict=True
        )
    ]
    per_voxel = sum(27 * n / 8**i for i, n in enumerate(levels)) + 27 * (64 * 128 + 128 * 128) / 8**3
    per_voxel += sum(8 * c * c / 8**i for i, c in ((1, 32), (2, 64), (3, 128)))  # transposed, by input voxel
    per_voxel += 16  # the head
    assert floors.count_flop(16) == pytest.approx(2 * per_voxel * 16**3)


def test_a_table_is_printed_written_and_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"what": "a", "seconds": 1.234}, {"what": "longer", "seconds": 12.0, "only here": 3}]
    common.publish("toy", rows, common.bars(lambda row: row["what"], "seconds"), "a note")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["what", "seconds", "only", "here"]
    assert lines[1].split() == ["a", "1.23"]
    assert lines[2].split() == ["longer", "12.00", "3"]
    assert len({len(line) for line in lines[:3]}) == 1
    assert lines[3] == "a note"
    assert json.loads((common.RESULTS / "toy.json").read_text())["rows"] == rows


def test_a_command_is_measured_with_all_its_processes() -> None:
    """Two processes of 100 MiB each; one computes for a while."""
    hold = "x = bytearray(b'1') * (100 << 20); import time; time.sleep(0.5)"
    code = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {hold!r}]); {hold}; p.wait()"
    cost = common.measure([common.sys.executable, "-c", code + "; print('told'); sum(range(10**7))"])
    assert cost.output == "told\n"
    assert 200 < cost.peak_mib < 300
    assert cost.wall_s > 0.5
    assert cost.cpu_s > 0.05


def test_a_failed_command_is_no_measurement() -> None:
    with pytest.raises(common.subprocess.CalledProcessError):
        common.measure([common.sys.executable, "-c", "raise SystemExit(3)"])


def test_energy_is_the_sum_of_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "POWERCAP", tmp_path)
    assert common.energy_uj() is None
    for name, value in (
        ("intel-rapl:0", 5),
        ("intel-rapl:1", 7),
        ("intel-rapl:0:0", 100),
    ):  # the last: a part
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{value}\n")
    assert common.energy_uj() == 12


def test_tiles_are_extrapolated_by_hand() -> None:
    """Ten seconds, six of them for two of nine tiles: 4 + 6 · 9 / 2; mirrored, eight passes a tile."""
    told = json.dumps({"seconds": 9.5, "network_s": 6.0, "tiles": 9, "tiles_run": 2})
    cost = common.Cost(10.0, 20.0, 3000.0, None, f"noise\n{told}\n")
    row = peers.extrapolated("nnU-Net", cost, 1)
    assert row["seconds"] == pytest.approx(4 + 27)
    assert row["CPU s"] == pytest.approx(2 * (4 + 27))
    assert row["peak MiB"] == 3000
    assert row["energy J"] is None
    assert row["measured"] == "2 tiles, EXTRAPOLATED to 9 passes of 3.00 s"
    assert peers.extrapolated("nnU-Net", cost, 1, 2.0)["seconds"] == pytest.approx(4 + 18)
    assert peers.extrapolated("nnU-Net", cost, 8)["seconds"] == pytest.approx(4 + 27 * 8)
    whole = common.Cost(10.0, 20.0, 3000.0, None, json.dumps({"network_s": 6.0, "tiles": 2, "tiles_run": 2}))
    assert peers.extrapolated("nnU-Net", whole, 1)["measured"] == "all"
    assert peers.extrapolated("nnU-Net", whole, 1)["seconds"] == pytest.approx(10)


def test_floors_are_compared_by_stage() -> None:
    row = dict.fromkeys(common.STAGES, 1.0) | {"locate": 0.0, "all": 10.0}
    rows = run.against_floors("a CT", row, {"read": 0.5, "kidney": 0.25, "locate": 0.1})
    assert [(r["stage"], r["times floor"]) for r in rows] == [
        ("read", 2.0),
        ("kidney", 4.0),
        ("all", 10 / 0.75),
    ]
    assert rows[0]["seconds above"] == 0.5


def test_libraries_that_others_need_are_loaded() -> None:
    libraries = {"a": ["b", "libc"], "b": ["c"], "c": ["a"], "d": ["a"]}
    assert wheels.needed(libraries, ["a", "not there"]) == {"a", "b", "c"}


def test_the_image_drops_what_the_table_says_and_nothing_that_is_loaded() -> None:
    dockerfile = (common.ROOT / "Dockerfile").read_text()
    for pattern in wheels.DROPPED_FILES:
        if pattern.startswith(("nvidia", "torch/lib")):
            assert pattern.removesuffix("/*") in dockerfile, pattern
    (uninstalled,) = (line for line in dockerfile.splitlines() if " triton;" in line)
    assert {name.lower() for name in uninstalled.strip(" ;\\").split()} == set(wheels.DROPPED_PACKAGES)
    assert wheels.is_dropped("nvidia_cusolver", "nvidia/cu13/lib/libcusolver.so.12")
    for file in ("nvidia/cu13/lib/libnvrtc.so.13", "nvidia/nvshmem/lib/libnvshmem_host.so.3"):
        assert not wheels.is_dropped("nvidia", file)


def test_a_batch_is_compared_with_its_longest_lane_by_hand() -> None:
    """Two cases: reading 1 + 1, computing 4 + 4, measuring and writing 0.5 + 0.5, in 10 seconds."""
    case = {"read": 1.0, "locate": 0.0, "kidney": 3.0, "tumor": 1.0, "measure": 0.25, "write": 0.25}
    row = run.lanes_of({"cases": [{"seconds": case}] * 2, "run": {"seconds": 10.0}})
    assert (row["read"], row["compute"], row["write"], row["sum"]) == (2, 8, 1, 11)
    assert row["longest lane / wall"] == pytest.approx(0.8)
    assert row["bound / wall"] == pytest.approx(0.95)


def test_the_border_of_a_tumor_does_not_count() -> None:
    """A cube of five voxels' side, 100 HU within its border; too few inner voxels in a slice."""
    grey, labels = np.zeros((7, 7, 7), np.uint8), np.zeros((7, 7, 7), np.uint8)
    labels[1:6, 1:6, 1:6] = 2
    grey[2:5, 2:5, 2:5] = to_grey(np.array(100.0))
    volume = Scan("a", "a", "train", grey, labels, 3.0, has_kidney=True, has_tumor=True, is_slice=False)
    assert inner_hu(volume) == [pytest.approx(100, abs=1.2)]
    small = replace(volume, labels=np.where(np.indices(labels.shape).max(0) < 4, labels, 0), is_slice=True)
    assert inner_hu(small) == []

"""Weights files describe themselves, and nothing wrong passes for one."""

import hashlib
import json
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from inference.geometry import RoiSpec
from inference.networks.vnet import VNet
from inference.networks.weights import FORMAT, WeightsError, WeightsMetadata, load_weights, save_weights
from tests.helpers import metadata

METADATA = WeightsMetadata(
    stage="kidney",
    roi=RoiSpec((32, 40, 48), 1.5, "minmax", (-100.0, 300.0)),
    base_channels=2,
    threshold=0.35,
    margin_vox=4,
    mirror=True,
    version="7.1",
    provenance={"data": "synthetic", "epochs": "12"},
)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "kidney.safetensors"
    save_weights(path, VNet(base_channels=2), METADATA)
    return path


def sums(path: Path, *lines: str) -> None:
    (path.parent / "SHA256SUMS").write_text("".join(f"{line}\n" for line in lines))


def sum_line(path: Path) -> str:
    return f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}"


def with_metadata(path: Path, text: str | None, *, format_name: str = FORMAT) -> Path:
    header = {"format": format_name} | ({} if text is None else {"metadata": text})
    save_file(VNet(base_channels=2).state_dict(), path, metadata=header)
    return path


def changed(**changes: Any) -> str:
    """The metadata's JSON with other values; `roi__x` reaches into the ROI."""
    raw = json.loads(json.dumps(asdict(METADATA)))
    for key, value in changes.items():
        outer, _, inner = key.partition("__")
        if inner:
            raw[outer][inner] = value
        else:
            raw[outer] = value
    return json.dumps(raw)


def test_round_trip(weights: Path) -> None:
    torch.manual_seed(0)
    original = VNet(base_channels=2)
    loaded = load_weights(weights, "kidney")
    assert loaded.metadata == METADATA
    assert isinstance(loaded.metadata.roi.shape_vox, tuple)
    assert loaded.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    state = loaded.model.state_dict()
    assert state.keys() == original.state_dict().keys()
    for name, tensor in original.state_dict().items():
        assert torch.equal(state[name], tensor), name
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())


def test_same_model_same_bytes(weights: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    reordered = WeightsMetadata(**{**METADATA.__dict__, "provenance": {"epochs": "12", "data": "synthetic"}})
    save_weights(tmp_path / "again.safetensors", VNet(base_channels=2), reordered)
    assert (tmp_path / "again.safetensors").read_bytes() == weights.read_bytes()


def test_checksum_that_fits_passes_also_among_others(weights: Path) -> None:
    sums(weights, "0" * 64 + "  tumor.safetensors", sum_line(weights))
    assert load_weights(weights, "kidney").metadata == METADATA
    checksums = weights.with_name("SHA256SUMS")
    checksums.write_bytes(b"\xfc\n" + checksums.read_bytes())
    assert load_weights(weights, "kidney").metadata == METADATA


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"kidney\.safetensors: no such weights file"):
        load_weights(tmp_path / "kidney.safetensors", "kidney")


@pytest.mark.parametrize("n_bytes", [0, 7, 500, -1])
def test_truncated_file(weights: Path, n_bytes: int) -> None:
    weights.write_bytes(weights.read_bytes()[:n_bytes])
    with pytest.raises(
        WeightsError, match=r"kidney\.safetensors: not a whole safetensors file .* Copy it again"
    ):
        load_weights(weights, "kidney")


def test_one_flipped_bit_is_found_by_the_checksum(weights: Path) -> None:
    sums(weights, sum_line(weights))
    content = bytearray(weights.read_bytes())
    for position in (0, 9, len(content) // 2, len(content) - 1):
        damaged = content.copy()
        damaged[position] ^= 0b100
        weights.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"SHA-256 is .*SHA256SUMS says .*damaged or replaced"):
            load_weights(weights, "kidney")


def test_flipped_bits_in_the_header_never_give_anything_but_a_weights_error(weights: Path) -> None:
    """Without checksums: each byte of the header, whatever it says then."""
    content = weights.read_bytes()
    header_length = 8 + int.from_bytes(content[:8], "little")
    metadata_at = content.index(b"__metadata__")
    wrong = 0
    for position in [*range(8), *range(metadata_at, content.index(b"bottleneck")), header_length - 2]:
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 7)
        weights.write_bytes(damaged)
        try:
            load_weights(weights, "kidney")
        except WeightsError as error:
            wrong += "\n" not in str(error)
    assert wrong > 200  # the rest are harmless: a digit of a version, a letter of a provenance


def test_a_bit_flipped_in_the_numbers_shows_in_the_digest(weights: Path) -> None:
    """Without checksums a file of one's own is taken as it is; its digest in the report tells it apart."""
    digest = load_weights(weights, "kidney").sha256
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert load_weights(weights, "kidney").sha256 != digest


def test_file_without_a_line_in_the_checksums(weights: Path) -> None:
    sums(weights, sum_line(weights).replace("kidney", "spleen"))
    with pytest.raises(WeightsError, match=r"SHA256SUMS: has no line for kidney\.safetensors"):
        load_weights(weights, "kidney")


def test_the_other_stage(weights: Path) -> None:
    with pytest.raises(WeightsError, match="holds the kidney network, not the tumor network"):
        load_weights(weights, "tumor")


def test_another_width(weights: Path) -> None:
    with_metadata(weights, changed(base_channels=3))
    with pytest.raises(WeightsError, match=r"kidney\.safetensors: does not fit this network"):
        load_weights(weights, "kidney")


def test_another_architecture(weights: Path) -> None:
    save_file({"w": torch.zeros(3)}, weights, metadata={"format": FORMAT, "metadata": changed()})
    with pytest.raises(WeightsError, match="does not fit this network") as caught:
        load_weights(weights, "kidney")
    assert "\n" not in str(caught.value)


def test_a_foreign_safetensors_file(weights: Path) -> None:
    save_file({"w": torch.zeros(3)}, weights)
    with pytest.raises(WeightsError, match=f"its format is None, not '{FORMAT}'"):
        load_weights(weights, "kidney")
    with_metadata(weights, changed(), format_name="nested-vnet-2")
    with pytest.raises(WeightsError, match="its format is 'nested-vnet-2'"):
        load_weights(weights, "kidney")


class Trap:
    """Unpickling this would leave a trace."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_a_pickle_is_refused_and_not_run(weights: Path, tmp_path: Path) -> None:
    weights.write_bytes(pickle.dumps(Trap(tmp_path / "executed")))
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        load_weights(weights, "kidney")
    torch.save({"trap": Trap(tmp_path / "executed")}, weights)
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        load_weights(weights, "kidney")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{",
        "{}",
        "3",
        "null",
        "[]",
        '"text"',
        '{"roi": null}',
        changed(roi__shape_vox=None),
        changed(roi__shape_vox=[32, 32]),
        changed(roi__shape_vox=[32, 32, "32"]),
        changed(roi__shape_vox=[32, 32, 36]),
        changed(roi__shape_vox=[32, 32, 0]),
        changed(roi__shape_vox=[32.0, 32, 32]),
        changed(roi__spacing_mm=0),
        changed(roi__spacing_mm="2 mm"),
        changed(roi__normalisation="z-score"),
        changed(roi__window_hu=[100.0]),
        changed(roi__window_hu=[240.0, -160.0]),
        changed(roi__unknown=1),
        changed(threshold=1.0),  # no voxel would be above it
        changed(margin_vox=-1),
        changed(mirror="no"),
        changed(bf16="no"),
        changed(roi__shape_vox=[1024, 512, 512]),
        pytest.param("[" * 200_000, id="brackets"),
        changed(margin_vox=2.5),
        changed(margin_vox=10**9),
        changed(threshold=float("nan")),
        changed(base_channels="2"),
        changed(base_channels=0),
        changed(surprise=1),
        changed(version=1),
        changed(provenance={"seed": 1}),
        changed(provenance=[1]),
    ],
)
def test_corrupt_metadata(weights: Path, text: str | None) -> None:
    with_metadata(weights, text)
    with pytest.raises(WeightsError, match=r"kidney\.safetensors: its metadata cannot be used") as caught:
        load_weights(weights, "kidney")
    assert "\n" not in str(caught.value)


def test_intact_metadata_by_the_same_way(weights: Path) -> None:
    """The changes above are what makes those fail."""
    with_metadata(weights, changed())
    assert load_weights(weights, "kidney").metadata == METADATA


def test_weights_from_before_margins_and_mirrors_have_none(weights: Path) -> None:
    raw = json.loads(changed())
    del raw["margin_vox"], raw["mirror"]
    with_metadata(weights, json.dumps(raw))
    loaded = load_weights(weights, "kidney").metadata
    assert (loaded.margin_vox, loaded.mirror) == (0, False)


def test_saved_weights_can_be_read_by_any_user(tmp_path: Path) -> None:
    path = tmp_path / "kidney.safetensors"
    save_weights(path, VNet(base_channels=1), WeightsMetadata(stage="kidney", base_channels=1))
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("method", "name"), [("read_bytes", r"kidney\.safetensors"), ("read_text", "SHA256SUMS")]
)
def test_weights_that_cannot_be_read_are_a_clear_error(
    weights: Path, monkeypatch: pytest.MonkeyPatch, method: str, name: str
) -> None:
    sums(weights, sum_line(weights))

    def denied(self: Path, **_: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, method, denied)
    with pytest.raises(WeightsError, match=rf"{name}: cannot be read \(Permission denied\). Change its"):
        load_weights(weights, "kidney")


def test_a_git_lfs_pointer_is_told_as_one(tmp_path: Path) -> None:
    path = tmp_path / "kidney.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 6000000\n")
    with pytest.raises(WeightsError, match="is a git-LFS pointer, not the file itself"):
        load_weights(path, "kidney")


def test_the_least_tumor_travels_with_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "tumor.safetensors"
    save_weights(path, VNet(base_channels=1), metadata("tumor", min_tumor_mm3=400.0))
    assert load_weights(path, "tumor").metadata.min_tumor_mm3 == 400.0
    for bad in (-1.0, float("inf"), "much"):
        save_weights(path, VNet(base_channels=1), metadata("tumor", min_tumor_mm3=bad))
        with pytest.raises(WeightsError, match="min_tumor_mm3"):
            load_weights(path, "tumor")

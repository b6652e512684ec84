"""Training as a whole: sampling, the network's make-up, resuming, DDP, the commands."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import lightning
import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from evaluation.cli import main as evaluate
from inference.cli import main as segment
from inference.geometry import RoiSpec
from inference.networks.cascade import WEIGHTS_FOLDERS
from inference.networks.vnet import VNet
from inference.networks.weights import WeightsMetadata, load_weights, save_weights
from tests.helpers import invoke, write_weights
from tests.test_weights import Trap
from training.cache import IGNORE, LabelMap, cached_names, load_label_maps
from training.chain import CHAIN, PRESETS, TINY_CHAIN
from training.checkpoints import METADATA, STATE, export_weights, load_tensors
from training.cli import main
from training.config import AS_THEY_ARE, LossConfig, SamplingConfig, SourceShares, TrainConfig
from training.data import CachedSamples, EpochSampler, Patients, split_cases
from training.module import Segmentation, checkpoint_activations
from training.prepare import prepare
from training.reproduce import averaged_rounds, reproduce, waves
from training.synthetic import SyntheticPatients, coarsen, draw_label_map, edit_labels, place_patient
from training.train import RunOptions, _callbacks, bearable_precision, train

TINY = replace(
    PRESETS["tiny-kidney"],
    base_channels=1,
    roi=RoiSpec(shape_vox=(16, 24, 24), spacing_mm=12.0),
    steps_per_epoch=2,
    validation_steps=1,
    max_epochs=3,
)
REACHED_DSC = 0.35
"""What the tiny kidney network must reach on held-out seeds: a sign of learning, no network worth having."""


@pytest.fixture(scope="module", autouse=True)
def _malloc_as_it_is() -> Iterator[None]:
    """`train` tells malloc to keep what is freed, as long as the process lives; other tests measure it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.train.keep_freed_memory", lambda: None)
        yield


def test_the_network_is_the_papers() -> None:
    net = VNet()
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv3d) and m.kernel_size == (3, 3, 3)]
    assert len(convolutions) == 14
    assert not [m for m in net.encoder.modules() if isinstance(m, nn.BatchNorm3d)]
    assert len([m for m in net.modules() if isinstance(m, nn.BatchNorm3d)]) == 2 + 6


def test_defaults_are_the_papers() -> None:
    for name, stage in (("paper-kidney", "kidney"), ("paper-tumor", "tumor")):
        config = PRESETS[name]
        assert (config.stage, config.optimiser.kind) == (stage, "sgd")
        assert config.sources == SourceShares(labelled=1.0)  # real scans as they are
        assert (config.roi.shape_vox, config.roi.spacing_mm, config.crop_vox) == ((168,) * 3, 2.0, None)
        assert (config.steps_per_epoch, config.validation_steps) == (100, 20)
        assert (config.max_epochs, config.patience) == (1000, 90)
        assert config.loss.cross_entropy == 0


# --- samples ------------------------------------------------------------------------------------------------


def test_a_sample_repeats_and_no_other_sample_shifts_it() -> None:
    first = SyntheticPatients([], TINY, TINY.sampling)
    one, two = first[3], first[4]
    again = SyntheticPatients([], TINY, TINY.sampling)[3]
    assert torch.equal(one[0], again[0])
    assert torch.equal(one[1], again[1])
    assert not torch.equal(one[0], two[0])


def test_samples_have_kidneys_in_range() -> None:
    patients = SyntheticPatients([], TINY, TINY.sampling)
    for i in range(8):
        image, labels = patients[i]
        assert image.shape == (1, 16, 24, 24)
        assert image.dtype == torch.float32
        assert 0 <= image.min() <= image.max() <= 1
        assert labels.dtype == torch.uint8
        assert int(labels.max()) <= 2


def test_phases_follow_their_shares_and_nothing_else_of_a_sample_does() -> None:
    def drawn(shares: tuple[float, ...] | None) -> list[tuple[Tensor, Tensor]]:
        patients = SyntheticPatients([], TINY, replace(TINY.sampling, phase_shares=shares))
        return [patients[i] for i in range(6)]

    plain, early = drawn((1.0, 0.0, 0.0, 0.0)), drawn((0.0, 1.0, 0.0, 0.0))
    low, high = TINY.roi.window_hu
    for (without, labels), (contrast, same) in zip(plain, early, strict=True):
        assert torch.equal(labels, same)
        kidney = labels == 1
        if kidney.any():  # above 60 HU only with contrast
            hu = [float(image[0][kidney].median()) * (high - low) + low for image in (without, contrast)]
            assert hu[0] < 60 < hu[1]


def undecided_loss(weights: LossConfig, labels: Tensor) -> float:
    """Of a kidney network whose probability is one half everywhere: a voxel's cross-entropy is log 2."""
    config = replace(TINY, loss=weights)
    module = Segmentation(config, WeightsMetadata(stage="kidney", roi=TINY.roi, base_channels=1))
    with torch.no_grad():
        module.net.head.weight.zero_()
        module.net.head.bias.zero_()
    return float(module._loss((torch.zeros(1, 1, 16, 16, 16), labels))[0].detach())


def test_false_volume_costs_by_the_litre() -> None:
    labels = torch.zeros(1, 16, 16, 16, dtype=torch.uint8)
    labels[:, :4] = 1  # half of the other 12 · 256 voxels of 12 mm is false
    without, with_it = (undecided_loss(LossConfig(false_volume=w), labels) for w in (0.0, 1.0))
    assert with_it - without == pytest.approx(0.5 * 12 * 256 * 12**3 / 1e6, rel=1e-5)


def test_the_kidney_loss_weighs_tumor_voxels() -> None:
    def loss(tumor_weight: float, labels: Tensor) -> float:
        return undecided_loss(LossConfig(cross_entropy=1.0, tumor_weight=tumor_weight), labels)

    labels = torch.zeros(1, 16, 16, 16, dtype=torch.uint8)
    labels[:, :8], labels[:, :4] = 1, 2  # a quarter kidney, a quarter tumor
    assert loss(5.0, labels) - loss(1.0, labels) == pytest.approx((5 - 1) / 4 * np.log(2), rel=1e-5)
    labels[labels == 2] = 1
    assert loss(5.0, labels) == pytest.approx(loss(1.0, labels))


def test_the_tumor_loss_sees_the_kidneys_and_a_margin() -> None:
    labels = torch.zeros(1, 12, 12, 12, dtype=torch.uint8)
    labels[0, 5, 5, 4], labels[0, 5, 5, 5] = 1, 2
    for margin_vox, seen in ((0, 2), (1, 3 * 3 * 4), (2, 5 * 5 * 6)):
        config = replace(TINY, stage="tumor", loss=LossConfig(margin_vox=margin_vox))
        module = Segmentation(config, WeightsMetadata(stage="tumor", roi=TINY.roi, base_channels=4))
        target, mask = module._target(labels)
        assert torch.equal(target[0, 0] > 0, labels[0] == 2)
        assert int(mask.sum()) == seen
        module.scores, module.log = [], lambda *_, **__: None  # type: ignore[method-assign]
        module.forward = torch.ones_like  # type: ignore[assignment]
        module.validation_step((torch.zeros(1, 1, 12, 12, 12), labels), 1)
        assert module.scores == pytest.approx([2 / (seen + 1)])  # all that is seen, and one voxel of tumor
        labels[0, 5, 5, 6] = IGNORE  # in the margin
        assert int(module._target(labels)[1].sum()) == seen - (margin_vox > 0)
        labels[0, 5, 5, 6] = 0


def test_ignored_voxels_are_in_no_loss() -> None:
    labels = torch.zeros(1, 16, 16, 16, dtype=torch.uint8)
    labels[:, :4], labels[:, 8:] = 1, IGNORE
    config = replace(TINY, loss=LossConfig(cross_entropy=1.0, false_volume=1.0))
    torch.manual_seed(0)
    module = Segmentation(config, WeightsMetadata(stage="kidney", roi=TINY.roi, base_channels=4))
    module.eval()
    target, mask = module._target(labels)
    assert int(mask.sum()) == 8 * 16 * 16
    assert int(target.sum()) == 4 * 16 * 16
    image = torch.rand(1, 1, 16, 16, 16)
    logits = module(image)
    logits.retain_grad()
    module.forward = lambda _: logits  # type: ignore[method-assign]
    module._loss((image, labels))[0].backward()
    assert logits.grad is not None
    assert not logits.grad[:, :, 8:].any()
    assert logits.grad[:, :, :8].any()


def test_edits_do_what_they_say() -> None:
    rng = np.random.default_rng(0)
    source = next(s for s in (draw_label_map(rng) for _ in range(9)) if (s.labels == 2).any())

    def edit(**changes: float) -> np.ndarray:
        return edit_labels(source, replace(AS_THEY_ARE, **changes), np.random.default_rng(1)).labels

    np.testing.assert_array_equal(edit(), source.labels)
    np.testing.assert_array_equal(edit(mirror_share=1), source.labels[:, :, ::-1])
    np.testing.assert_array_equal(edit(tumor_removed_share=1), np.minimum(source.labels, 1))
    n_tumor = (source.labels == 2).sum()
    shrunk, added = edit(tumor_shrunk_share=1), edit(tumor_added_share=1)
    assert 0 < (shrunk == 2).sum() < n_tumor
    np.testing.assert_array_equal(shrunk > 0, source.labels > 0)
    assert (added == 2).sum() > n_tumor
    assert 0 < (edit(kidney_removed_share=1) > 0).sum() < (source.labels > 0).sum()


def test_a_replaced_tumor_leaves_the_kidney_that_would_have_been() -> None:
    def replaced(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The kidney with its tumor cut out, and the tumor drawn in its stead."""
        source = LabelMap("case", labels, 2.0, (0.0, 0.0, 0.0), (300.0, 300.0, 300.0))
        changes = replace(AS_THEY_ARE, tumor_replaced_share=1, tumor_added_radius_mm=(5.0, 5.001))
        edited = edit_labels(source, changes, np.random.default_rng(1))
        whole, start = np.zeros_like(labels), np.asarray(edited.first_mm) / 2
        box = tuple(slice(int(a), int(a) + n) for a, n in zip(start, edited.labels.shape, strict=True))
        whole[box] = edited.labels
        return whole > 0, whole == 2

    kidney = np.zeros((60, 60, 60), dtype=np.uint8)
    kidney[10:50, 20:40, 20:40] = 1
    within = kidney.copy()
    within[25:31, 27:33, 27:33] = 2
    here, tumor = replaced(within)
    assert (here & (kidney == 0) & ~tumor).sum() == 0  # nothing but the new tumor lies outside the kidney
    assert here[kidney > 0].all()  # the hole is filled
    assert 0.3 < tumor.sum() * 8 / (4 / 3 * np.pi * 5**3) < 2

    outward = kidney.copy()
    outward[25:35, 25:35, 36:50] = 2  # 4 voxels deep in the kidney, 10 out of it
    here, tumor = replaced(outward)
    assert (here & (kidney == 0) & ~tumor).sum() == 0
    # a ball of 20 mm dips into a square of 20 mm by no more than its corner's 20 - sqrt(400 - 200) = 5.9 mm
    assert here[25:35, 25:35, 36].all()
    assert here[kidney > 0].mean() > 0.97

    alone = np.zeros_like(kidney)
    alone[5:12, 5:12, 5:12] = 2
    assert not replaced(alone)[0].any()


def test_an_added_tumor_is_not_cut_where_the_label_map_ends() -> None:
    labels = np.zeros((40, 30, 30), dtype=np.uint8)
    labels[5:35, 5:25, 5:25] = 1  # 10 mm of background around it, as `prepare` leaves
    source = LabelMap("case", labels, 2.0, (-39.0, -29.0, -29.0), (300.0, 300.0, 300.0))
    changes = replace(AS_THEY_ARE, tumor_added_share=1, tumor_added_radius_mm=(35.99, 36.0))
    for seed in range(5):
        edited = edit_labels(source, changes, np.random.default_rng(seed))
        volume_ml = (edited.labels == 2).sum() * 8 / 1000
        assert volume_ml > 0.6 * 4 / 3 * np.pi * 3.6**3  # lumps take some and give some
        for axis in range(3):  # background all around
            ends = np.take(edited.labels, (0, -1), axis)
            assert not ends.any()
        # the kidney's own corner has not moved against the scan
        kidney = np.argwhere(edited.labels == 1) * 2.0 + edited.first_mm
        assert {tuple(point) for point in kidney} <= {
            tuple(point) for point in np.argwhere(labels == 1) * 2.0 + source.first_mm
        }


def test_mirroring_keeps_kidneys_in_place() -> None:
    source = draw_label_map(np.random.default_rng(0))
    edited = edit_labels(source, replace(AS_THEY_ARE, mirror_share=1), np.random.default_rng(1))
    there, here = (
        np.argwhere(m.labels > 0)[:, 2].mean() * m.spacing_mm + m.first_mm[2] for m in (source, edited)
    )
    assert here == pytest.approx(-there)


def test_scans_hold_the_kidneys_unless_they_are_cut() -> None:
    always, never = (SamplingConfig(kidneys_cut_share=share) for share in (1.0, 0.0))
    for seed in range(10):
        source = draw_label_map(np.random.default_rng(seed))
        for config, is_cut in ((always, True), (never, False)):
            patient = place_patient(source, config, np.random.default_rng(seed))
            low, high = patient.kidney_box()
            assert bool((patient.scan_low_mm > low).any() or (patient.scan_high_mm < high).any()) is is_cut


def test_no_index_is_used_twice_in_a_run() -> None:
    seen: list[int] = []
    for rank in range(3):
        sampler = EpochSampler(4, rank=rank, world_size=3)
        for epoch in range(2):
            sampler.set_epoch(epoch)
            seen += sampler
    assert sorted(seen) == list(range(4 * 3 * 2))


def test_validation_repeats_its_indices() -> None:
    sampler = EpochSampler(4, repeats=True)
    sampler.set_epoch(5)
    assert list(sampler) == [0, 1, 2, 3]


def test_cached_samples_do_not_change() -> None:
    kept = CachedSamples(SyntheticPatients([], TINY, AS_THEY_ARE))
    first, again = kept[0], kept[0]
    assert torch.equal(first[0], again[0])
    assert first[0].dtype == torch.float32


def test_folds_hold_out_every_case_once() -> None:
    names = [f"case_{i:05d}" for i in range(25)]
    held_out = []
    for fold in range(10):
        training, validation = split_cases(names, fold=fold, seed=3)
        assert sorted(training + validation) == names
        assert len(validation) in (2, 3)
        held_out += validation
    assert sorted(held_out) == names


# --- runs ---------------------------------------------------------------------------------------------------


def run(out: Path, **options: object) -> dict[str, torch.Tensor]:
    """In a process of its own, as from the command: this one's threads are no part of any training."""
    process = multiprocessing.get_context("spawn").Process(target=_train, args=(out, options))
    process.start()
    process.join()
    assert process.exitcode == 0
    return state(out / "last.ckpt")


def _train(out: Path, options: dict[str, Any]) -> None:
    train(TINY, RunOptions(out, accelerator="cpu", **options), name="test")


def state(checkpoint: Path) -> dict[str, torch.Tensor]:
    content = torch.load(checkpoint, weights_only=True)
    assert METADATA in content
    return content["state_dict"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    run(out)
    return out


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    uninterrupted: Path, tmp_path: Path, workers: int
) -> None:
    run(tmp_path, max_minutes=1e-6, workers=workers)  # stops after its first epoch
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 1 + 1
    resumed = run(tmp_path, resume=True, workers=workers)
    expected = state(uninterrupted / "last.ckpt")
    assert resumed.keys() == expected.keys()
    assert all(torch.equal(resumed[key], expected[key]) for key in expected)
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 1 + 3


def test_a_run_leaves_what_it_promises(uninterrupted: Path) -> None:
    names = {path.name for path in uninterrupted.iterdir()}
    assert names >= {"best.ckpt", "last.ckpt", "config.json", "metrics.csv", "curves.png", "tensorboard"}
    weights = load_weights(uninterrupted / "kidney.safetensors", "kidney")
    assert weights.metadata.roi == TINY.roi
    assert weights.metadata.provenance["preset"] == "test"
    assert "validation_dsc" in weights.metadata.provenance


def test_the_mean_of_networks_by_hand(tmp_path: Path) -> None:
    def write(name: str, value: float, **changes: Any) -> Path:
        contract = WeightsMetadata("kidney", TINY.roi, 1, provenance={"preset": name}, **changes)
        net = VNet(base_channels=1)
        with torch.no_grad():
            for tensor in net.state_dict().values():
                tensor.fill_(value)
        save_weights(tmp_path / name, net, contract)
        return tmp_path / name

    one, three = write("one", 1.0, version="1"), write("three", 3.0, version="3")
    assert invoke(main, "average", tmp_path / "out", one, three).exit_code == 0
    mean = load_weights(tmp_path / "out", "kidney")
    assert {float(v) for t in mean.tensors.values() for v in t.ravel() if t.dtype == np.float32} == {2.0}
    assert mean.metadata.provenance["mean_of"] == "one + three"
    assert mean.metadata.version == "3"  # the last one's
    for other in (
        WeightsMetadata("tumor", TINY.roi, 1),
        WeightsMetadata("kidney", replace(TINY.roi, spacing_mm=3.0), 1),
        WeightsMetadata("kidney", TINY.roi, 2),
    ):
        save_weights(tmp_path / "other", VNet(base_channels=other.base_channels), other)
        refused = invoke(main, "average", tmp_path / "no", one, tmp_path / "other")
        assert refused.exit_code == 2
        assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("has_it", [True, False])
def test_a_cpu_without_bfloat16_trains_in_float32(monkeypatch: pytest.MonkeyPatch, has_it: bool) -> None:
    monkeypatch.setattr("training.train.has_bf16", lambda device: has_it)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for accelerator in ("cpu", "auto"):
        assert bearable_precision("bf16-mixed", accelerator) == ("bf16-mixed" if has_it else "32-true")
    assert bearable_precision("bf16-mixed", "gpu") == "bf16-mixed"
    assert bearable_precision("32-true", "cpu") == "32-true"


class _EverWorse(lightning.LightningModule):
    """Trains one number; its validation loss is the number of the epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        self.log("val_loss", float(self.current_epoch), on_step=False, on_epoch=True)
        return self.layer(batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_the_last_checkpoint_is_the_last_epochs_also_where_it_is_not_the_best(tmp_path: Path) -> None:
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        callbacks=_callbacks(TINY, RunOptions(tmp_path)),
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(_EverWorse(), torch.utils.data.DataLoader(torch.ones(2, 1)))
    steps = {path.name: torch.load(path, weights_only=True)["global_step"] for path in tmp_path.iterdir()}
    assert steps == {"best.ckpt": 2, "last.ckpt": 6}


def test_any_checkpoint_can_be_exported(uninterrupted: Path, tmp_path: Path) -> None:
    export_weights(uninterrupted / "last.ckpt", tmp_path / "kidney.safetensors", version="7")
    loaded = load_weights(tmp_path / "kidney.safetensors", "kidney")
    assert loaded.metadata.version == "7"
    expected = state(uninterrupted / "last.ckpt")
    assert all(torch.equal(loaded.model.state_dict()[k.removeprefix("net.")], expected[k]) for k in expected)
    with pytest.raises(ValueError, match="no such checkpoint"):
        export_weights(tmp_path / "none.ckpt", tmp_path / "kidney.safetensors")


@pytest.mark.parametrize(
    "content", [b"junk bytes", b"", b"PK\3\4 cut off", [1], {METADATA: "{}"}, torch.ones(2)]
)
def test_what_is_no_checkpoint_is_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: object
) -> None:
    junk = tmp_path / "junk.ckpt"
    if isinstance(content, bytes):
        junk.write_bytes(content)
    else:
        torch.save(content, junk)
    with pytest.raises(ValueError, match=f"{junk}: not a checkpoint of this project"):
        load_tensors(junk)
    result = invoke(main, "export", junk, tmp_path / "x.safetensors")
    assert result.exit_code == 2
    (line,) = caplog.messages
    assert line.startswith(f"{junk}: not a checkpoint of this project's training. ")
    assert "\n" not in line


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    torch.save({METADATA: "{}", STATE: Trap(tmp_path / "executed")}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="not a checkpoint of this project"):
        load_tensors(tmp_path / "x.ckpt")
    assert not (tmp_path / "executed").exists()


def test_activation_checkpointing_changes_nothing_but_memory() -> None:
    torch.manual_seed(0)
    plain, saving = (Segmentation(TINY, WeightsMetadata("kidney")) for _ in range(2))
    saving.load_state_dict(plain.state_dict())
    checkpoint_activations(saving.net)
    image = torch.rand(2, 1, 16, 24, 24)
    for module in (plain, saving):
        module(image).square().mean().backward()
    assert plain.state_dict().keys() == saving.state_dict().keys()
    for (name, ours), theirs in zip(plain.state_dict().items(), saving.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    for ours, theirs in zip(plain.parameters(), saving.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)  # type: ignore[arg-type]


def test_two_processes_train_together(tmp_path: Path) -> None:
    script = tmp_path / "go.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.test_training import TINY\n"
        "from training.train import RunOptions, train\n"
        "train(TINY, RunOptions(Path(sys.argv[1]), accelerator='cpu', devices=2), name='ddp')\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run(
        [*command, str(script), str(tmp_path / "run")],
        check=True,
        capture_output=True,
        timeout=110,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    assert (tmp_path / "run" / "kidney.safetensors").is_file()
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 1 + 3


# --- commands -----------------------------------------------------------------------------------------------


def test_from_a_fake_kits19_folder_to_the_papers_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(*arguments: object) -> None:
        result = invoke(main, *arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output

    labelled = SourceShares(labelled=1.0)
    small = replace(TINY, sources=labelled, roi=RoiSpec(), crop_vox=(24, 24, 24), batch_size=1, max_epochs=1)
    tumor = replace(small, stage="tumor", fresh_head=True)
    monkeypatch.setattr("training.cli.PRESETS", {**PRESETS, "paper-kidney": small, "paper-tumor": tumor})
    data, cache = tmp_path / "kits19", tmp_path / "cache"
    call("synthesize", data, "--cases", 2, "--spacing-mm", 6)
    call("prepare", data, cache, "--spacing-mm", 2)
    call("train", "paper-kidney", cache, "--out", tmp_path / "k", "--accelerator", "cpu")
    kidney = tmp_path / "k" / "kidney.safetensors"
    call("train", "paper-tumor", cache, "--out", tmp_path / "t", "--init", kidney, "--accelerator", "cpu")
    metadata = load_weights(tmp_path / "t" / "tumor.safetensors", "tumor").metadata
    assert metadata.roi == RoiSpec()

    weights, out, report = tmp_path / "weights", tmp_path / "out", tmp_path / "report.json"
    weights.mkdir()
    for run, stage in (("k", "kidney"), ("t", "tumor")):
        shutil.copy(tmp_path / run / f"{stage}.safetensors", weights)
    arguments = ["--input", data, "--output", out, "--weights", weights, "--device", "cpu"]
    done = invoke(segment, *arguments)
    assert done.exit_code == 0, done.output
    arguments = [out, data, "--roi", "--split", tmp_path / "k" / "split.json", "--out", report]
    done = invoke(evaluate, *arguments)
    assert done.exit_code == 0, done.output
    tables = json.loads(report.read_text())["tables"]
    assert [(row["group"], row["cases"]) for row in tables["native"]] == [
        ("training", 1), ("validation", 1), ("overall", 2),
    ]  # fmt: skip
    assert set(tables["roi"][0]["mean"]) == {"kidney", "tumor", "average"}


def test_ten_folds_from_training_to_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's loop, short of a tumor network a fold: trained without a case, which is then segmented."""

    def call(command: click.Command, *arguments: object) -> str:
        result = invoke(command, *arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    labelled = SourceShares(labelled=1.0)
    once = replace(TINY, sources=labelled, steps_per_epoch=1, max_epochs=1, batch_size=1)
    monkeypatch.setattr("training.cli.PRESETS", {**PRESETS, "paper-kidney": once})
    monkeypatch.setattr(
        "training.train.plot_curves", lambda *_: None
    )  # half of a run's time, and tested above
    weights = write_weights(tmp_path / "weights", TINY.roi)
    data, cache, runs, folds = (tmp_path / name for name in ("kits19", "cache", "runs", "folds"))
    call(main, "synthesize", data, "--cases", 10, "--spacing-mm", 8)
    assert not prepare(data, cache, spacing_mm=TINY.roi.spacing_mm)
    for k in range(10):
        run = runs / f"kidney-{k}"
        call(main, "train", "paper-kidney", cache, "--out", run, "--fold", f"{k}/10", "--accelerator", "cpu")
        shutil.copy(run / "kidney.safetensors", weights)
        (held_out,) = json.loads((run / "split.json").read_text())["validation"]
        arguments = ("--input", data / held_out / "imaging.nii.gz", "--output", folds / f"fold_{k}")
        call(segment, *arguments, "--weights", weights, "--device", "cpu", "--output-naming", "kits19")
    report = tmp_path / "report.json"
    text = call(evaluate, folds, data, "--split", runs, "--out", report)
    rows = json.loads(report.read_text())["tables"]["native"]
    assert [(row["group"], row["cases"]) for row in rows] == [
        *((f"fold {k}", 1) for k in range(10)), ("overall", 10),
    ]  # fmt: skip
    assert text.count("| fold 7 ") == 1 + 1  # of its case, of its mean
    assert Image.open(report.with_suffix(".png")).size[0] > 300


def test_held_out_label_maps_alone_get_cts_where_a_fold_is_named(tmp_path: Path) -> None:
    def call(*arguments: object) -> None:
        result = invoke(main, *arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output

    data, cache, out = tmp_path / "kits19", tmp_path / "cache", tmp_path / "held-out"
    call("synthesize", data, "--cases", 3, "--spacing-mm", 6)
    call("prepare", data, cache)
    call(
        *("synthesize", out, "--labels", cache, "--fold", "0/10", "--cases", 2, "--spacing-mm", 6),
        *("--phase", "non_contrast", "--phase", "corticomedullary"),
    )
    held_out = split_cases(cached_names(cache), fold=0, seed=0)[1]
    volumes = {
        found.name: (found.labels > 0).sum() * found.spacing_mm**3
        for found in load_label_maps(cache, cached_names(cache))
    }
    maps = [nib.load(path) for path in sorted(out.glob("*/segmentation.nii.gz"))]
    cts = [np.asarray(nib.load(path).dataobj) for path in sorted(out.glob("*/imaging.nii.gz"))]
    plain, early = (np.median(ct[np.asarray(m.dataobj) == 1]) for ct, m in zip(cts, maps, strict=True))
    assert plain < 60 < early  # the phases asked for, in turn
    assert len(maps) == 2
    assert len(held_out) == 1
    for image in maps:
        volume = (np.asarray(image.dataobj) > 0).sum() * 6.0**3
        nearest = min(volumes, key=lambda name: abs(volumes[name] - volume))
        assert nearest == held_out[0]
        assert volume == pytest.approx(volumes[nearest], rel=0.1)


def test_coarse_voxels_are_means_of_fine_ones_interpolated_back() -> None:
    fine = torch.zeros(12, 4, 4)
    fine[3:6] = torch.tensor([30.0, 60.0, 90.0])[:, None, None]
    inside = torch.ones_like(fine, dtype=torch.bool)

    class FirstVoxelAtTheStart(np.random.Generator):
        def random(self) -> float:  # type: ignore[override]
            return 0.0

    rng = FirstVoxelAtTheStart(np.random.PCG64(0))
    coarse = coarsen(fine, inside, (3.0, 1.0, 0.0), rng)
    # voxels of three: 2 to 4 have the mean 30, 5 to 7 the mean 30, their neighbours 0
    expected = [0, 10, 20, 30, 30, 30, 30, 20, 10, 0, 0, 0]
    torch.testing.assert_close(coarse[:, 0, 0], torch.tensor(expected).float())
    inside[5:] = False  # the scan's end: what lies beyond counts for nothing, and stays
    ends = coarsen(fine, inside, (3.0, 1.0, 0.0), rng)
    torch.testing.assert_close(ends[3, 0, 0], torch.tensor(30.0))
    assert torch.equal(ends[5:], fine[5:])


@pytest.mark.xdist_group("tiny chain")
def test_the_tiny_chain_learns(tmp_path: Path) -> None:
    results = {
        result.network: result for result in reproduce([], tmp_path, chain=TINY_CHAIN, accelerator="cpu")
    }
    assert results["kidney"].reached >= REACHED_DSC
    for stage in ("kidney", "tumor"):
        load_weights(tmp_path / f"{stage}.safetensors", stage)  # type: ignore[arg-type]  # checks SHA256SUMS
    assert "kidney.safetensors" in (tmp_path / "SHA256SUMS").read_text()


def test_a_round_in_parts_gives_the_mean_of_networks_that_held_out_one_part_each(tmp_path: Path) -> None:
    data = tmp_path / "kits19"
    done = invoke(main, "synthesize", data, "--cases", 4, "--spacing-mm", 8)
    assert done.exit_code == 0
    cache, out = tmp_path / "cache", tmp_path / "out"
    assert not prepare(data, cache, spacing_mm=TINY.roi.spacing_mm)
    config = replace(TINY, sources=SourceShares(labelled=1.0), max_epochs=1, base_channels=4)
    first = replace(TINY_CHAIN[0], config=config, parts=2)
    reproduce([], out, cache=cache, chain=(first,), accelerator="cpu", side_by_side=True)
    runs = out / "runs" / TINY_CHAIN[0].name
    splits = [json.loads((runs / f"part-{k}" / "split.json").read_text()) for k in range(2)]
    held_out = [set(split["validation"]) for split in splits]
    assert held_out[0] | held_out[1] == {f"case_{90000 + i:05d}" for i in range(4)}
    assert not held_out[0] & held_out[1]
    for split in splits:
        assert not set(split["training"]) & set(split["validation"])
    one, two = (load_weights(runs / f"part-{k}" / "kidney.safetensors", "kidney").tensors for k in range(2))
    mean = load_weights(out / "kidney.safetensors", "kidney").tensors["head.bias"]
    np.testing.assert_allclose(mean, (one["head.bias"] + two["head.bias"]) / 2, rtol=1e-6)
    rows = (runs / "part-0" / "validation.csv").read_text().splitlines()
    assert rows[0] == "scan,dsc,false_ml"
    assert {row.split(",")[0] for row in rows[1:]} == held_out[0]
    second = replace(first, name="second", parent=first.name, with_parent=True)
    reproduce([], out, cache=cache, chain=(first, second), accelerator="cpu")
    runs = out / "runs" / "second"
    others = [load_weights(runs / f"part-{k}" / "kidney.safetensors", "kidney").tensors for k in range(2)]
    mean = load_weights(out / "kidney.safetensors", "kidney").tensors["head.bias"]
    four = [tensors["head.bias"] for tensors in (one, two, *others)]
    np.testing.assert_allclose(mean, sum(four) / 4, rtol=1e-6)
    third = replace(second, name="third", parent="second")
    rounds = (first, second, third)
    assert averaged_rounds(third, rounds) == [first.name, "second", "third"]
    assert averaged_rounds(replace(third, with_parent=False), rounds) == ["third"]


def test_a_round_from_nothing_takes_no_weights_and_writes_its_networks_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: dict[str, Path | None] = {}

    def fake(config: TrainConfig, options: RunOptions, *, name: str) -> None:
        started[name] = options.init
        net = VNet(base_channels=1)
        weights = WeightsMetadata(config.stage, config.roi, 1)
        options.out.mkdir(parents=True)
        save_weights(options.out / f"{config.stage}.safetensors", net, weights)

    monkeypatch.setattr("training.reproduce.train", fake)
    first = replace(TINY_CHAIN[0], name="first")
    other = replace(first, name="other", from_nothing=True)
    last = replace(first, name="last", parent="other", network="coarse")
    reached = reproduce([], tmp_path, chain=(first, other, last), init=tmp_path / "init")
    assert started == {
        "first": tmp_path / "init" / "kidney.safetensors",
        "other": None,
        "last": tmp_path / "runs" / "other" / "kidney.safetensors",
    }
    assert [one.network for one in reached] == ["kidney", "coarse"]
    names = [line.split()[1] for line in (tmp_path / "SHA256SUMS").read_text().splitlines()]
    assert names == ["coarse.safetensors", "kidney.safetensors"]


def test_each_run_has_its_seed_steps_part_and_start_and_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[tuple[Any, ...]] = []

    def fake(config: TrainConfig, options: RunOptions, *, name: str) -> None:
        start = options.init.relative_to(tmp_path / "runs").parent.as_posix() if options.init else None
        runs.append((config.seed, config.max_epochs, options.fold, options.workers, start))
        weights = WeightsMetadata(config.stage, config.roi, 1, provenance={"validation_dsc": "0.5"})
        options.out.mkdir(parents=True)
        save_weights(options.out / f"{config.stage}.safetensors", VNet(base_channels=1), weights)

    monkeypatch.setattr("training.reproduce.train", fake)
    config = replace(TINY, seed=10)
    first = replace(TINY_CHAIN[0], name="first", config=config, parts=2)
    second = replace(first, name="second", parent="first")
    alone = replace(first, name="alone", parent="second", parts=1)
    shipped = write_weights(tmp_path / "shipped", provenance={"validation_dsc": "0.52"})
    steps = 2 * config.steps_per_epoch + 1
    chain = (first, second, alone)
    (reached,) = reproduce([], tmp_path, chain=chain, shipped=shipped, seed=3, workers=4, max_steps=steps)
    assert runs == [
        (13, 2, (0, 2), 4, None),
        (13, 2, (1, 2), 4, None),
        (13, 2, (0, 2), 4, "first/part-0"),
        (13, 2, (1, 2), 4, "first/part-1"),
        (13, 2, None, 4, "second/part-0"),
    ]
    assert (reached.reached, reached.shipped, reached.agrees) == (0.5, 0.52, False)
    for shipped_dsc, agrees in ((None, True), (0.505, True), (0.495, True), (0.485, False)):
        assert replace(reached, shipped=shipped_dsc).agrees == agrees


def test_cases_that_are_tested_on_are_neither_synthesised_nor_shown_in_slices(tmp_path: Path) -> None:
    data, cache = tmp_path / "kits19", tmp_path / "cache"
    invoke(main, "synthesize", data, "--cases", 4, "--spacing-mm", 8)
    (data / "case_90000").rename(data / "case_00002")  # one of those kept for testing, whatever the fold
    assert not prepare(data, cache, spacing_mm=TINY.roi.spacing_mm)
    for k in range(2):
        patients = Patients(TINY, cache, fold=(k, 2))
        held_out = {scan.case for scan in patients.validation_scans}
        assert len(held_out) == 2
        assert not held_out & {scan.case for scan in patients.scans}
        assert set(patients.map_names) == set(cached_names(cache)) - held_out - {"case_00002"}
    everything = Patients(TINY, cache, fold=None)
    assert len(everything.scans) == 4


def test_the_learning_rate_falls_in_the_time_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("training.module.time.monotonic", lambda: now[0])
    config = replace(TINY, max_epochs=1000)
    module = Segmentation(config, WeightsMetadata("kidney", TINY.roi, 1), max_seconds=100.0)
    rate = module.configure_optimizers()["lr_scheduler"]["scheduler"].lr_lambdas[0]  # type: ignore[index,call-overload]
    assert rate(0) == 1 / config.optimiser.warmup_steps
    step = config.optimiser.warmup_steps + 1
    assert rate(step) == pytest.approx(1.0, abs=1e-3)
    now[0] = 50.0
    assert rate(step) == pytest.approx(0.5, abs=1e-3)
    now[0] = 200.0
    assert rate(step) == 0.0


def test_the_shipped_networks_are_those_of_the_chain() -> None:
    assert {one.file for one in CHAIN} == {path.name for path in WEIGHTS_FOLDERS[-1].glob("*.safetensors")}
    for last in {one.file: one for one in CHAIN}.values():
        metadata = load_weights(WEIGHTS_FOLDERS[-1] / last.file, last.config.stage).metadata
        assert metadata.roi == last.config.roi
        assert metadata.provenance["preset"] == last.name
        mean = [name for name in averaged_rounds(last, CHAIN) for _ in range(last.parts)]
        assert metadata.provenance["mean_of"] == " + ".join(mean)
        assert (metadata.margin_vox, metadata.mirror) == (last.config.loss.margin_vox, last.config.mirror)
        assert metadata.min_tumor_mm3 == last.config.min_tumor_mm3
        assert metadata.threshold == last.config.threshold


def test_wrong_usage_is_said() -> None:
    assert invoke(main, "train", "paper-kidney", "--out", "nowhere", "--fold", "10/10").exit_code == 2
    assert invoke(main, "train", "nonsense", "--out", "nowhere").exit_code == 2
    with pytest.raises(ValueError, match="its parent lost is no round of the chain"):
        list(waves([TINY_CHAIN[0], replace(TINY_CHAIN[0], name="orphan", parent="lost")]))

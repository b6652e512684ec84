"""Train one network: from a preset and a cache to checkpoints, curves and weights."""

import ctypes
import json
import logging
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from inference.networks.backends import has_bf16
from inference.networks.weights import WeightsMetadata
from training.checkpoints import export_weights, load_tensors
from training.config import Precision, TrainConfig
from training.data import Patients
from training.module import Segmentation
from training.report import EpochTable, ScanValidation, plot_curves

log = logging.getLogger("training")
BEST, LAST = "best", "last"
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""glibc's numbers (malloc.h)."""
SPLIT = "split.json"


@dataclass(frozen=True)
class RunOptions:
    """Where a run takes place, on what data and devices, and how long; its recipe is a `TrainConfig`.

    Attributes:
        out: folder of the run: checkpoints, metrics.csv, curves.png, TensorBoard, weights.
        cache: from `prepare`; None synthesises the kidneys too.
        init: weights or checkpoint to start from.
        resume: go on from the run's last checkpoint, if it has one.
        fold: (k, n): the k-th of n parts of the cases is held out; None trains on all labelled scans.
        max_minutes: stop after this, at the end of an epoch; 0 is no limit.
        anneal_in_time: the learning rate falls within `max_minutes`, if the planned steps take longer; such a
            run is finished then, and not to be resumed.
        accelerator, devices, nodes: as Lightning has them; several devices train with DDP, a batch each.
        workers: processes that draw samples ahead; on a GPU they fill a pool, from which each step draws some
            and varies them (`SamplePool`).
    """

    out: Path
    cache: Path | None = None
    init: Path | None = None
    resume: bool = False
    fold: tuple[int, int] | None = (0, 10)
    max_minutes: float = 0.0
    anneal_in_time: bool = False
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    workers: int = 0


class StopAfter(Callback):
    """Stop at the end of the epoch in which the time is spent; its checkpoint resumes exactly."""

    def __init__(self, minutes: float) -> None:
        self.until = time.monotonic() + 60 * minutes

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Lightning asks."""
        if time.monotonic() > self.until:
            trainer.should_stop = True


def keep_freed_memory() -> None:
    """Have glibc's malloc keep what is freed; elsewhere nothing happens.

    Otherwise every large tensor of every step on a CPU is new memory, which the kernel clears page by page.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:  # no glibc
        return
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, -1)  # never


def bearable_precision(precision: Precision, accelerator: str) -> Precision:
    """float32 instead of bfloat16 on a CPU that only emulates it, many times slower."""
    is_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    if precision != "bf16-mixed" or not is_cpu or has_bf16("cpu"):
        return precision
    log.warning("this CPU does not compute in bfloat16: training in float32")
    return "32-true"


def train(config: TrainConfig, options: RunOptions, *, name: str) -> Path:
    """Train, and export the best weights.

    Args:
        config: what to compute.
        options: where.
        name: of the preset, for the weights' provenance.

    Returns:
        The weights file.
    """
    keep_freed_memory()
    config = replace(config, precision=bearable_precision(config.precision, options.accelerator))
    lightning.seed_everything(config.seed, verbose=False)
    torch.set_float32_matmul_precision("high")
    patients = Patients(config, options.cache, fold=options.fold, workers=options.workers)
    metadata = WeightsMetadata(
        stage=config.stage,
        roi=config.roi,
        base_channels=config.base_channels,
        margin_vox=config.loss.margin_vox,
        threshold=config.threshold,
        min_tumor_mm3=config.min_tumor_mm3,
        mirror=config.mirror,
        provenance={
            "preset": name,
            "sources": json.dumps(asdict(config.sources)),
            "cases": f"{len(patients.training_names)} training, {len(patients.validation_names)} validation",
            "fold": "/".join(map(str, options.fold)) if options.fold else "none",
            "seed": str(config.seed),
        },
    )
    module = Segmentation(
        config, metadata, max_seconds=60 * options.max_minutes if options.anneal_in_time else 0.0
    )
    if options.init:
        module.start_from(load_tensors(options.init))
    if config.fresh_head:
        module.reset_head()

    options.out.mkdir(parents=True, exist_ok=True)
    last = options.out / f"{LAST}.ckpt"
    is_resumed = options.resume and last.is_file()
    table = EpochTable(options.out / "metrics.csv", goes_on=is_resumed)
    validation: list[Callback] = [StopAfter(options.max_minutes)] if options.max_minutes else []
    if patients.validation_scans:
        validation.append(ScanValidation(patients.validation_scans, config, options.out / "validation.csv"))
    trainer = lightning.Trainer(
        accelerator=options.accelerator,
        devices=options.devices,
        num_nodes=options.nodes,
        strategy="ddp" if options.devices * options.nodes > 1 else "auto",
        precision=config.precision,
        max_epochs=config.max_epochs,
        limit_train_batches=config.steps_per_epoch,
        limit_val_batches=config.validation_steps,
        num_sanity_val_steps=0,
        gradient_clip_val=config.optimiser.gradient_norm or None,
        use_distributed_sampler=False,  # our sampler knows its rank
        logger=TensorBoardLogger(options.out, name="", version="tensorboard"),
        callbacks=[*validation, *_callbacks(config, options), table],
        enable_model_summary=False,
        benchmark=True,
        enable_progress_bar=table.is_terminal,
        log_every_n_steps=10,
    )
    if trainer.is_global_zero:
        split = {
            "fold": options.fold[0] if options.fold else 0,
            "training": patients.training_names,
            "validation": patients.validation_names,
        }
        (options.out / SPLIT).write_text(json.dumps(split, indent=1) + "\n")
    trainer.fit(module, datamodule=patients, ckpt_path=last if is_resumed else None, weights_only=True)

    weights = options.out / f"{config.stage}.safetensors"
    if trainer.is_global_zero:
        (options.out / "config.json").write_text(json.dumps(asdict(config), indent=2) + "\n")
        plot_curves(table.path, options.out / "curves.png")
        export_weights(options.out / f"{BEST}.ckpt", weights)
        log.info("weights: %s", weights)
    return weights


def _callbacks(config: TrainConfig, options: RunOptions) -> list[Callback]:
    def checkpoint(filename: str, monitor: str | None) -> ModelCheckpoint:
        return ModelCheckpoint(
            options.out,
            filename=filename,
            monitor=monitor,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    # Lightning's own `save_last` leaves out epochs that are no better than the best one
    callbacks: list[Callback] = [checkpoint(BEST, "val_loss"), checkpoint(LAST, None)]
    if config.patience:
        callbacks.append(EarlyStopping("val_loss", patience=config.patience))
    if EpochTable.is_terminal:
        callbacks.append(TQDMProgressBar(refresh_rate=1))
    return callbacks

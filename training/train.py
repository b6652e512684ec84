"""A training run from label maps to a weights file; reads top to bottom."""

from dataclasses import asdict
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from inference.weights import WeightsMetadata, save_weights
from training.config import TrainingConfig
from training.data import SyntheticCases, split_cases
from training.module import StageModule
from training.prepare import load_label_maps

VALIDATION_SEED = 1_000_003
"""Added to the run's seed: validation patients are drawn from another stream than training patients."""


class Samples(lightning.LightningDataModule):
    """Feeds each epoch the next samples of the endless sequence, also after a resume."""

    def __init__(self, config: TrainingConfig, cache: Path | None, *, workers: int) -> None:
        super().__init__()
        self.config, self.workers = config, workers
        label_maps = list(load_label_maps(cache)) if cache is not None else []
        parts = split_cases(label_maps, seed=config.seed, validation_share=config.validation_share)
        self.training = [case for case in label_maps if parts[case.name] == "training"]
        self.validation = [case for case in label_maps if parts[case.name] == "validation"]

    def _loader(self, dataset: SyntheticCases) -> DataLoader:
        # workers draw while the network computes; each with one thread
        return DataLoader(dataset, batch_size=self.config.batch_size, num_workers=self.workers)

    def train_dataloader(self) -> DataLoader:
        """The current epoch's samples."""
        config = self.config
        per_epoch = config.steps_per_epoch * config.batch_size
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        return self._loader(
            SyntheticCases(
                self.training,
                stage=config.stage,
                roi=config.roi,
                seed=config.seed,
                first=epoch * per_epoch,
                length=per_epoch,
            )
        )

    def val_dataloader(self) -> DataLoader:
        """The same patients at every validation."""
        config = self.config
        return self._loader(
            SyntheticCases(
                self.validation,
                stage=config.stage,
                roi=config.roi,
                seed=config.seed + VALIDATION_SEED,
                length=config.validation_steps * config.batch_size,
            )
        )


def train(
    config: TrainingConfig,
    cache: Path | None,
    out: Path,
    *,
    initial: Path | None = None,
    resume: bool = False,
    workers: int = 1,
    progress: bool = True,
    callbacks: tuple[Callback, ...] = (),
) -> Path:
    """Train one stage and write its weights file.

    Args:
        config: the run.
        cache: folder made by `prepare`; None draws all kidneys.
        out: folder of checkpoints, metrics.csv and the weights file.
        initial: weights file to start from.
        resume: go on from `out/last.ckpt`.
        workers: processes that draw samples.
        progress: show a progress bar.
        callbacks: further Lightning callbacks.

    Returns:
        The weights file, `out/<stage>.safetensors`, with the weights of the last step (cosine schedule) or
        of the epoch with the best validation loss.
    """
    lightning.seed_everything(config.seed)
    best = ModelCheckpoint(
        out, filename="best", monitor="validation_loss", save_last=True, enable_version_counter=False
    )
    trainer = lightning.Trainer(
        accelerator="auto",
        devices=1,
        precision="bf16-mixed" if config.bf16 else "32-true",
        max_epochs=config.max_epochs,
        callbacks=[EarlyStopping("validation_loss", patience=config.patience), best, *callbacks],
        logger=CSVLogger(out, name="", version=""),
        log_every_n_steps=5,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        enable_progress_bar=progress,
        enable_model_summary=False,
    )
    samples = Samples(config, cache, workers=workers)
    module = StageModule(config, initial=None if initial is None else load_file(initial))
    last = out / "last.ckpt"
    trainer.fit(module, samples, ckpt_path=last if resume and last.exists() else None, weights_only=False)
    return export(last if config.cosine else Path(best.best_model_path), config, samples, out)


def export(checkpoint: Path, config: TrainingConfig, samples: Samples, out: Path) -> Path:
    """Write a checkpoint's network as a self-describing weights file."""
    module = StageModule(config)
    state = torch.load(checkpoint, map_location="cpu", weights_only=False)
    module.load_state_dict(state["state_dict"])
    provenance = {
        "data": f"{len(samples.training)} label maps, synthetic CTs drawn around them",
        "recipe": repr({k: v for k, v in asdict(config).items() if k not in ("roi", "stage")}),
        "steps": str(state["global_step"]),
    }
    path = out / f"{config.stage}.safetensors"
    save_weights(
        path,
        module.network,
        WeightsMetadata(stage=config.stage, roi=config.roi, version="early-1", provenance=provenance),
    )
    return path

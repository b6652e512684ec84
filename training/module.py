"""One network in training: loss, validation, optimiser."""

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper
from torch.nn import functional

from inference.geometry import TUMOR
from inference.networks.vnet import VNet
from inference.networks.weights import WeightsMetadata, format_metadata
from training.cache import IGNORE
from training.checkpoints import METADATA, VALIDATION_DSC
from training.config import OptimiserConfig, TrainConfig
from training.losses import cross_entropy_loss, dice_loss, dice_score, false_volume
from training.synthetic import Sample


class Segmentation(lightning.LightningModule):
    """The kidney or the tumor network of one run.

    Args:
        config: of the run.
        metadata: of the exported weights.
        max_seconds: time limit; the learning rate follows the time if that is ahead of the planned steps.
            0: no limit.
    """

    def __init__(self, config: TrainConfig, metadata: WeightsMetadata, *, max_seconds: float = 0.0) -> None:
        super().__init__()
        self.config, self.metadata = config, metadata
        self.max_seconds, self.started = max_seconds, time.monotonic()
        self.net = VNet(base_channels=config.base_channels)
        if config.channels_last:
            self.net = self.net.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        for layer in self.net.modules():
            if isinstance(layer, nn.BatchNorm3d):
                layer.momentum = config.optimiser.batch_norm_momentum
        if config.activation_checkpointing:
            checkpoint_activations(self.net)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, D, H, W) in [0, 1] → float32 logits of the same shape."""
        if self.config.channels_last:
            image = image.contiguous(memory_format=torch.channels_last_3d)
        return self.net.logits(image).float()

    def training_step(self, batch: Sample, index: int) -> Tensor:
        """Loss of one batch."""
        loss, _ = self._loss(batch)
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Sample, index: int) -> None:
        """Loss, and DSC of the cases that show the structure."""
        loss, logits = self._loss(batch)
        target, mask = self._target(batch[1])
        predicted = (logits > 0) & (mask > 0)  # sigmoid(0) is one half
        scores = dice_score(predicted, target > 0)
        shown = scores[~scores.isnan()]
        self.log("val_loss", loss, on_epoch=True, prog_bar=True, sync_dist=True, batch_size=len(scores))
        self.scores += shown.tolist()
        if index == 0 and isinstance(self.logger, TensorBoardLogger):
            picture = overlay(batch[0][0, 0], target[0, 0] > 0, predicted[0, 0])
            self.logger.experiment.add_image("validation", picture, self.global_step)

    def on_validation_epoch_start(self) -> None:
        """Reset the scores."""
        self.scores: list[float] = []

    def on_validation_epoch_end(self) -> None:
        """Mean DSC over the cases that show the structure, of all ranks together."""
        sums = torch.tensor([sum(self.scores), float(len(self.scores))], device=self.device)
        total, count = self.all_gather(sums).reshape(-1, 2).sum(0)  # type: ignore[union-attr]
        self.log("val_dsc", total / count.clamp(min=1), prog_bar=True)

    def _target(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Target and mask of the loss, float (B, 1, D, H, W): kidney ∪ tumor, or tumor in its margin.

        Ignored voxels are in neither.
        """
        labels = labels[:, None]
        counted = (labels != IGNORE).float()
        kidneys = (labels > 0).float() * counted
        if self.config.stage == "kidney":
            return kidneys, counted
        margin, mask = self.config.loss.margin_vox, kidneys
        for axis in range(
            3 if margin else 0
        ):  # three 1D windows instead of one cube: a hundredth of the work
            reach = [margin if a == axis else 0 for a in range(3)]
            mask = functional.max_pool3d(mask, [2 * n + 1 for n in reach], stride=1, padding=reach)
        return (labels == TUMOR).float(), mask * counted

    def _loss(self, batch: Sample) -> tuple[Tensor, Tensor]:
        image, labels = batch
        logits = self(image)
        with torch.autocast(image.device.type, enabled=False):  # sums over millions of voxels
            target, mask = self._target(labels)
            probability, weights = torch.sigmoid(logits), self.config.loss
            loss = dice_loss(probability, target, mask=mask)
            if weights.cross_entropy:
                positive: float | Tensor = weights.positive_weight
                if weights.tumor_weight != 1 and self.config.stage == "kidney":
                    positive = torch.where(labels[:, None] == TUMOR, weights.tumor_weight, 1.0) * positive
                entropy = cross_entropy_loss(logits, target, mask=mask, positive_weight=positive)
                loss = loss + weights.cross_entropy * entropy
            if weights.false_volume:
                voxel_litres = self.config.roi.spacing_mm**3 / 1e6
                loss = loss + weights.false_volume * false_volume(probability, target, mask) * voxel_litres
        return loss, logits

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The configured optimiser, its rate following the plan step by step."""
        config = self.config.optimiser
        optimiser = _optimiser(self.net, config)
        plan = self.config.max_steps

        def rate(step: int) -> float:
            if step < config.warmup_steps:
                return (step + 1) / config.warmup_steps
            if not config.cosine:
                return 1.0
            share = (step - config.warmup_steps) / max(1, plan - config.warmup_steps)
            if self.max_seconds:
                share = max(share, (time.monotonic() - self.started) / self.max_seconds)
            share = min(1.0, share)
            return 0.5 * (1 + float(torch.cos(torch.tensor(share * torch.pi))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the weights' metadata in the checkpoint, so that it can be exported alone."""
        reached = {"step": str(self.global_step)}
        if "val_dsc" in self.trainer.callback_metrics:
            reached[VALIDATION_DSC] = f"{float(self.trainer.callback_metrics['val_dsc']):.4f}"
        metadata = replace(self.metadata, provenance={**self.metadata.provenance, **reached})
        checkpoint[METADATA] = format_metadata(metadata)

    def start_from(self, tensors: Mapping[str, Tensor]) -> None:
        """Load a network's weights.

        Raises:
            ValueError: they are of another architecture.
        """
        try:
            self.net.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(
                f"--init: another architecture ({str(error).splitlines()[-1].strip()})"
            ) from error

    def reset_head(self) -> None:
        """Reinitialise the last layer with a bias for rare foreground; the tumor loss collapses otherwise."""
        with torch.no_grad():
            self.net.head.reset_parameters()
            assert self.net.head.bias is not None
            self.net.head.bias.fill_(self.config.head_bias)


def checkpoint_activations(net: VNet) -> None:
    """Keep the blocks' inputs only, compute the rest again in the backward pass: less memory, more time."""

    def wrapped(block: nn.Module) -> nn.Module:
        return checkpoint_wrapper(
            block,
            checkpoint_impl=CheckpointImpl.NO_REENTRANT,
            context_fn=partial(_contexts, block),
            preserve_rng_state=False,  # nothing in the network is random
        )

    for blocks in (net.encoder, net.decoder):
        for i, block in enumerate(blocks):
            blocks[i] = wrapped(block)
    net.bottleneck = wrapped(net.bottleneck)  # type: ignore[assignment]


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _still_statistics(block)


@contextmanager
def _still_statistics(block: nn.Module) -> Iterator[None]:
    """Keep batch norm's running statistics unchanged while a batch is computed a second time."""
    layers = [layer for layer in block.modules() if isinstance(layer, nn.BatchNorm3d)]
    momentum = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, value in zip(layers, momentum, strict=True):
            layer.momentum = value
            if layer.num_batches_tracked is not None:
                layer.num_batches_tracked -= 1


def overlay(image: Tensor, truth: Tensor, predicted: Tensor) -> Tensor:
    """The axial slice with most truth: truth green, prediction red, both yellow.

    Args:
        image: (D, H, W) in [0, 1].
        truth, predicted: (D, H, W) bool.

    Returns:
        uint8 (3, H, W).
    """
    z = int(truth.sum((1, 2)).argmax())
    grey = image[z].float()
    colours = torch.stack((predicted[z], truth[z], torch.zeros_like(truth[z]))).float()
    is_marked = (predicted[z] | truth[z]).float() * 0.4
    return ((grey * (1 - is_marked) + colours * is_marked) * 255).to(torch.uint8).cpu()


def _optimiser(net: VNet, config: OptimiserConfig) -> torch.optim.Optimizer:
    if config.kind == "sgd":
        return torch.optim.SGD(net.parameters(), lr=config.learning_rate, momentum=config.momentum)
    return torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)

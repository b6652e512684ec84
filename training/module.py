"""One training run as a LightningModule: the network, the loss of its stage, the optimiser, the scores."""

import math
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from inference.vnet import VNet
from training.config import TrainingConfig
from training.losses import cross_entropy_loss, dice_loss

Batch = tuple[Tensor, Tensor, Tensor]


class StageModule(lightning.LightningModule):
    """Trains one stage's V-Net.

    Args:
        config: the run.
        initial: state dict of a `VNet` to start from (tumor stage: the kidney network's).
    """

    def __init__(self, config: TrainingConfig, *, initial: dict[str, Tensor] | None = None) -> None:
        super().__init__()
        self.config = config
        self.network = VNet()
        if initial is not None:
            self.network.load_state_dict(initial)
        if config.head_bias is not None:
            nn.init.normal_(self.network.head.weight, std=0.01)
            nn.init.constant_(self.network.head.bias, config.head_bias)
        self.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def _loss(self, logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        loss = dice_loss(torch.sigmoid(logits), target, mask)
        if self.config.cross_entropy:
            entropy = cross_entropy_loss(logits, target, mask, positive_weight=self.config.positive_weight)
            loss = loss + self.config.cross_entropy * entropy
        return loss

    def _logits(self, image: Tensor) -> Tensor:
        return self.network.logits(image.contiguous(memory_format=torch.channels_last_3d)).float()

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """One batch's loss."""
        image, target, mask = batch
        loss = self._loss(self._logits(image), target, mask)
        self.log("training_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        """Logs loss and hard DSC; cases without a target do not count in the DSC (0 / 0)."""
        image, target, mask = batch
        logits = self._logits(image)
        self.log("validation_loss", self._loss(logits, target, mask), prog_bar=True, batch_size=len(image))
        predicted = (logits > 0).float() * mask
        overlap, total = ((predicted * target).sum((1, 2, 3, 4)), (predicted + target).sum((1, 2, 3, 4)))
        with_target = target.sum((1, 2, 3, 4)) > 0
        if with_target.any():
            score = (2 * overlap / total)[with_target].mean()
            self.log("validation_dsc", score, prog_bar=True, batch_size=int(with_target.sum()))

    def configure_optimizers(self) -> Any:
        """SGD as in the paper, or AdamW; a warm-up and a cosine where the config asks for them."""
        config = self.config
        if config.optimiser == "sgd":
            optimiser: torch.optim.Optimizer = torch.optim.SGD(
                self.parameters(),
                lr=config.learning_rate,
                momentum=config.momentum,
                weight_decay=config.weight_decay,
            )
        else:
            optimiser = torch.optim.AdamW(
                self.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
            )
        total = config.steps_per_epoch * config.max_epochs

        def factor(step: int) -> float:
            warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
            return warm * (0.5 * (1 + math.cos(math.pi * min(1.0, step / total))) if config.cosine else 1.0)

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

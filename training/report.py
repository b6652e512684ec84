"""Records of a training run: a table of epochs, plain progress lines, curves."""

import csv
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from training.cache import Scan
from training.config import TrainConfig
from training.real.validation import ScanScore, score_kidneys, score_tumors, summarise

log = logging.getLogger("training")
COLUMNS = ("epoch", "step", "minutes", "learning_rate", "train_loss", "val_loss", "val_dsc", "val_false_ml")


class ScanValidation(Callback):
    """Validate the network on whole real scans that training does not use, after some epochs.

    Args:
        scans: which.
        config: of the run.
        path: the last epoch's scores, a line a scan, as CSV.
    """

    def __init__(self, scans: Sequence[Scan], config: TrainConfig, path: Path) -> None:
        self.scans, self.config, self.path = scans, config, path

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Log `val_loss`, `val_dsc` and `val_false_ml`; the main process alone computes them."""
        epoch, interval = trainer.current_epoch + 1, self.config.validation_interval
        if epoch % interval and epoch != self.config.max_epochs and not trainer.should_stop:
            return
        summary = torch.zeros(3, device=pl_module.device)
        if trainer.is_global_zero:
            pl_module.eval()
            with trainer.precision_plugin.forward_context():
                scores = self._scores(pl_module)
            pl_module.train()
            result = summarise(scores)
            summary = torch.tensor([result.loss, result.dsc, result.false_ml], device=pl_module.device)
            lines = [f"{score.name},{score.dsc:.4f},{score.false_ml:.2f}" for score in scores]
            self.path.write_text("\n".join(["scan,dsc,false_ml", *lines]) + "\n")
        summary = trainer.strategy.broadcast(summary)
        for name, value in zip(("val_loss", "val_dsc", "val_false_ml"), summary, strict=True):
            pl_module.log(name, value, prog_bar=True)

    def _scores(self, module: lightning.LightningModule) -> list[ScanScore]:
        roi, device, threshold = self.config.roi, module.device, self.config.threshold
        if self.config.stage == "kidney":
            return score_kidneys(module, self.scans, roi, device, threshold=threshold)
        margin_vox = self.config.loss.margin_vox
        return score_tumors(module, self.scans, roi, device, margin_vox=margin_vox, threshold=threshold)


class EpochTable(Callback):
    """Appends one line an epoch to metrics.csv, and logs it where no progress bar can be shown.

    Args:
        path: the CSV file.
        goes_on: append to the table of a stopped run.
    """

    is_terminal = sys.stderr.isatty()

    def __init__(self, path: Path, *, goes_on: bool) -> None:
        self.path, self.goes_on = path, goes_on
        self.started = self.epoch_started = time.monotonic()

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """A new run begins a new table."""
        if trainer.is_global_zero and not (self.goes_on and self.path.exists()):
            self.path.write_text(",".join(COLUMNS) + "\n")

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Note the time."""
        self.epoch_started = time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the row; validation is finished by now."""
        if not trainer.is_global_zero:
            return
        now = time.monotonic()
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "minutes": round((now - self.started) / 60, 2),
            "learning_rate": f"{trainer.optimizers[0].param_groups[0]['lr']:.3g}",
            "train_loss": f"{metrics.get('train_loss_epoch', float('nan')):.4f}",
            "val_loss": f"{metrics.get('val_loss', float('nan')):.4f}",
            "val_dsc": f"{metrics.get('val_dsc', float('nan')):.4f}",
            "val_false_ml": f"{metrics.get('val_false_ml', float('nan')):.1f}",
        }
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)
        if not self.is_terminal:
            text = "  ".join(f"{name} {value}" for name, value in row.items())
            log.info("%s  %.2f s/step", text, (now - self.epoch_started) / trainer.num_training_batches)


def plot_curves(table: Path, out: Path) -> None:
    """Losses and DSC over the steps, as one PNG."""
    import matplotlib.pyplot as plt

    with table.open() as file:
        rows = list(csv.DictReader(file))
    steps = [int(row["step"]) for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name in ("train_loss", "val_loss"):
        left.plot(steps, [float(row[name]) for row in rows], label=name.replace("_", " "))
    left.set(xlabel="step", ylabel="loss")
    left.legend()
    right.plot(steps, [float(row["val_dsc"]) for row in rows], color="tab:green")
    right.set(xlabel="step", ylabel="validation DSC", ylim=(0, 1))
    figure.savefig(out, dpi=120)
    plt.close(figure)

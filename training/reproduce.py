"""From label maps to both shipped weights: the chain of presets that made them, one after the other."""

import hashlib
import json
import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from inference.geometry import RoiSpec
from inference.networks.weights import CHECKSUMS, Stage, WeightsMetadata, load_weights
from training.config import PRESETS
from training.module import VALIDATION_DSC, average_weights
from training.prepare import prepare
from training.train import RunOptions, train

log = logging.getLogger("training")
SHIPPED_CHAIN = (
    *("kidney-4mm", "kidney-4mm-again", "tumor-4mm", "tumor-4mm-again", "kidney-4mm-longer"),
    *("kidney-3mm", "tumor-3mm", "kidney-3mm-again", "kidney-3mm-coarse"),
    *("tumor-3mm-close", "kidney-3mm-tumors", "tumor-3mm-longer", "kidney-3mm-urine", "tumor-3mm-again"),
    *("tumor-3mm-wide", "tumor-3mm-fine", "tumor-3mm-finer", "tumor-3mm-elsewhere"),
)
"""Each goes on from its stage's network before it; the first tumor network from the kidney network then."""
AVERAGED = ("kidney-3mm-coarse", "kidney-3mm-tumors", "kidney-3mm-urine")
"""The shipped kidney network is the mean of these rounds' networks."""
TINY_CHAIN = ("tiny-kidney", "tiny-tumor")
TOLERANCE = 0.01
"""Validation DSC may differ this much from the shipped weights': other hardware adds in another order."""


@dataclass(frozen=True)
class Comparison:
    """Validation DSC of one network, here and as shipped (None where nothing is shipped)."""

    stage: str
    reached: float
    shipped: float | None

    @property
    def agrees(self) -> bool:
        """Whether both are the same within `TOLERANCE`."""
        return self.shipped is None or abs(self.reached - self.shipped) <= TOLERANCE


def reproduce(
    labels: Path | None,
    out: Path,
    *,
    chain: tuple[str, ...] = SHIPPED_CHAIN,
    shipped: Path | None = None,
    seed: int = 0,
    workers: int = 0,
    accelerator: str = "auto",
    max_steps: int | None = None,
) -> list[Comparison]:
    """Train the chain; a stopped call goes on where it was.

    Args:
        labels: KiTS19's folder, of which only the label maps are used; None draws all patients.
        out: weights and checksums are written here, checkpoints and curves under `runs/` in it.
        chain: presets, each of which starts from its stage's network before it, or from the kidney's.
        shipped: folder of weights to compare the result with.
        seed: added to every preset's.
        workers, accelerator: see `RunOptions`.
        max_steps: of each run, instead of its preset's.
    """
    cache = None
    if labels:
        cache = out / "cache"
        for error in prepare(labels, cache, roi=RoiSpec(), processes=max(1, workers)).values():
            log.error("%s", error)
    weights: dict[Stage, Path] = {}
    for name in chain:
        config = PRESETS[name]
        config = replace(config, seed=config.seed + seed)
        if max_steps:
            config = replace(config, max_epochs=max(1, max_steps // config.steps_per_epoch))
        init = weights.get(config.stage) or weights.get("kidney")
        options = RunOptions(
            out / "runs" / name, cache, init=init, resume=True, workers=workers, accelerator=accelerator
        )
        weights[config.stage] = train(config, options, name=name)
    for stage, path in weights.items():
        shutil.copyfile(path, out / f"{stage}.safetensors")
    if set(AVERAGED) <= set(chain):
        average_weights(
            [out / "runs" / name / "kidney.safetensors" for name in AVERAGED], out / "kidney.safetensors"
        )
    _write_checksums(out, sorted(weights))
    return [_compare(stage, out, shipped) for stage in weights]


def _write_checksums(folder: Path, stages: list[str]) -> None:
    names = [f"{stage}.safetensors" for stage in stages]
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / CHECKSUMS).write_text("".join(lines))


def _compare(stage: str, folder: Path, shipped: Path | None) -> Comparison:
    def score(where: Path) -> float | None:
        file = where / f"{stage}.safetensors"
        if not file.is_file():
            return None
        metadata: WeightsMetadata = load_weights(file, stage).metadata  # type: ignore[arg-type]
        text = metadata.provenance.get(VALIDATION_DSC)
        return None if text is None else float(json.loads(text))

    return Comparison(stage, score(folder) or 0.0, score(shipped) if shipped else None)

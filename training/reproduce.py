"""From data to both shipped weights: the rounds that made them, one after the other."""

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from inference.networks.weights import CHECKSUMS, WeightsMetadata, load_weights
from training.chain import CHAIN, Round
from training.checkpoints import VALIDATION_DSC, average_weights
from training.train import RunOptions, train

log = logging.getLogger("training")
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
    data: Sequence[Path],
    out: Path,
    *,
    cache: Path | None = None,
    init: Path | None = None,
    chain: tuple[Round, ...] = CHAIN,
    shipped: Path | None = None,
    seed: int = 0,
    workers: int = 0,
    accelerator: str = "auto",
    max_steps: int | None = None,
) -> list[Comparison]:
    """Train the chain; a stopped call goes on where it was.

    Args:
        data: data sets as for `prepare`; without any, and without a cache, all patients are drawn.
        out: weights and checksums are written here, checkpoints and curves under `runs/` in it.
        cache: one that `prepare` filled; `out`/cache if not given.
        init: folder of weights that rounds without a parent start from; None starts them from nothing.
        chain: the rounds.
        shipped: folder of weights to compare the result with.
        seed: added to every round's.
        workers, accelerator: see `RunOptions`.
        max_steps: of each run, instead of its round's.
    """
    if data:
        from training.prepare import (
            prepare,
        )  # reads medical formats, which a machine that only trains may lack

        cache = cache or out / "cache"
        for folder in data:
            for error in prepare(folder, cache, processes=max(1, workers)).values():
                log.error("%s", error)
    networks: dict[str, list[Path]] = {}
    weights: dict[str, Path] = {}
    for one in chain:
        config = replace(one.config, seed=one.config.seed + seed)
        if max_steps:
            config = replace(config, max_epochs=max(1, max_steps // config.steps_per_epoch))
        runs = out / "runs" / one.name
        networks[one.name] = []
        for k in range(one.parts):
            start = init / f"{config.stage}.safetensors" if init is not None else None
            if one.parent is not None:
                start = networks[one.parent][k % len(networks[one.parent])]
            options = RunOptions(
                runs / f"part-{k}" if one.parts > 1 else runs,
                cache,
                init=start,
                resume=True,
                fold=(k, one.parts) if one.parts > 1 else None,
                workers=workers,
                accelerator=accelerator,
            )
            networks[one.name].append(train(config, options, name=one.name))
        weights[one.name] = networks[one.name][0]
        if one.parts > 1:
            weights[one.name] = runs / f"{config.stage}.safetensors"
            average_weights(networks[one.name], weights[one.name])
    last = {one.config.stage: weights[one.name] for one in chain}
    for stage, path in last.items():
        shutil.copyfile(path, out / f"{stage}.safetensors")
    _write_checksums(out, sorted(last))
    return [_compare(stage, out, shipped) for stage in last]


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

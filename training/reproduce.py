"""From data to both shipped weights: the rounds that made them, one after the other."""

import hashlib
import json
import logging
import multiprocessing
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from inference.formats.staging import staged
from inference.networks.weights import CHECKSUMS, Stage, WeightsMetadata, load_weights
from training.chain import CHAIN, Round
from training.checkpoints import VALIDATION_DSC, average_weights
from training.config import TrainConfig
from training.train import RunOptions, train

log = logging.getLogger("training")
TOLERANCE = 0.01
"""Validation DSC may differ this much from the shipped weights': other hardware adds in another order."""


@dataclass(frozen=True)
class Comparison:
    """Validation DSC of one network, here and as shipped (None where nothing is shipped)."""

    network: str
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
    side_by_side: bool = False,
) -> list[Comparison]:
    """Train the chain; a stopped call goes on where it was.

    Args:
        data: data sets as for `prepare`; without any, and without a cache, the kidneys are synthetic too.
        out: weights and checksums are written here, checkpoints and curves under `runs/` in it.
        cache: one that `prepare` filled; `out`/cache if not given.
        init: folder of weights that rounds without a parent start from, but those that start from nothing
            anyway; None starts all of them from nothing.
        chain: the rounds.
        shipped: folder of weights to compare the result with.
        seed: added to every round's.
        workers, accelerator: see `RunOptions`.
        max_steps: of each run, instead of its round's.
        side_by_side: rounds that do not need one another are trained at once, for a GPU that one run does not
            fill; they share the workers.
    """
    if data:
        # reads medical formats, which a machine that only trains may lack
        from training.prepare import prepare

        cache = cache or out / "cache"
        spacing_mm = min(one.config.roi.spacing_mm for one in chain)  # coarser grids take every n-th voxel
        for folder in data:
            failed = prepare(folder, cache, spacing_mm=spacing_mm, processes=max(1, workers))
            for error in failed.values():
                log.error("%s", error)
    networks: dict[str, list[Path]] = {}
    for wave in waves(chain):
        runs: list[tuple[TrainConfig, RunOptions, str]] = []
        n_beside = sum(one.parts for one in wave) if side_by_side else 1
        for one in wave:
            config = replace(one.config, seed=one.config.seed + seed)
            if max_steps:
                config = replace(config, max_epochs=max(1, max_steps // config.steps_per_epoch))
            folder = out / "runs" / one.name
            folders = [folder / f"part-{k}" for k in range(one.parts)] if one.parts > 1 else [folder]
            networks[one.name] = [run / f"{config.stage}.safetensors" for run in folders]
            for k, run in enumerate(folders):
                start = init / f"{config.stage}.safetensors" if init is not None else None
                start = None if one.from_nothing else start
                if one.parent is not None:
                    start = networks[one.parent][k % len(networks[one.parent])]
                options = RunOptions(
                    run,
                    cache,
                    init=start,
                    resume=True,
                    fold=(k, one.parts) if one.parts > 1 else None,
                    workers=workers // n_beside,
                    accelerator=accelerator,
                )
                runs.append((config, options, one.name))
        if side_by_side:
            _train_side_by_side(runs)
        else:
            for config, options, name in runs:
                train(config, options, name=name)
    weights = {name: paths[0] for name, paths in networks.items()}
    for one in chain:
        means = [networks[name] for name in averaged_rounds(one, chain)]
        averaged = [path for paths in means for path in paths]
        if len(averaged) > 1:
            weights[one.name] = out / "runs" / one.name / f"mean-{one.file}"
            average_weights(averaged, weights[one.name])
    last = {one.file: one for one in chain}
    _write_weights(out, {file: weights[one.name] for file, one in last.items()})
    return [_compare(file, one.config.stage, out, shipped) for file, one in last.items()]


def averaged_rounds(one: Round, chain: Sequence[Round]) -> list[str]:
    """The rounds whose networks a round's mean takes in, its own last."""
    before = next((other for other in chain if one.with_parent and other.name == one.parent), None)
    return [*(averaged_rounds(before, chain) if before else []), one.name]


def waves(chain: Sequence[Round]) -> Iterator[list[Round]]:
    """The rounds in groups that need nothing of one another: those whose parents are done."""
    done: set[str | None] = {None}
    left = list(chain)
    while left:
        ready = [one for one in left if one.parent in done]
        if not ready:
            raise ValueError(f"{left[0].name}: its parent {left[0].parent} is no round of the chain")
        yield ready
        done |= {one.name for one in ready}
        left = [one for one in left if one not in ready]


def _train_side_by_side(runs: Sequence[tuple[TrainConfig, RunOptions, str]]) -> None:
    """Each run in a process of its own, all forked from one that has imported what they need.

    Raises:
        ValueError: a run failed; its traceback is on stderr.
    """
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["training.train"])
    processes = [
        server.Process(target=_train_with_log, args=(config, options, name)) for config, options, name in runs
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    failed = [str(o.out) for (_, o, _), p in zip(runs, processes, strict=True) if p.exitcode]
    if failed:
        raise ValueError(
            f"training failed: {', '.join(failed)}. Call again to go on from the last checkpoints"
        )


def _train_with_log(config: TrainConfig, options: RunOptions, name: str) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    log_file = options.out / "train.log"
    logging.basicConfig(filename=log_file, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    train(config, options, name=name)


def _write_weights(folder: Path, last: Mapping[str, Path]) -> None:
    """The last rounds' weights, and after them their checksums: what is not whole fits no checksum."""
    with staged(folder / CHECKSUMS) as partial:
        lines = []
        for name, path in sorted(last.items()):
            shutil.copyfile(path, partial.with_name(name))
            lines.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}\n")
        partial.write_text("".join(lines))


def _compare(file: str, stage: Stage, folder: Path, shipped: Path | None) -> Comparison:
    def score(where: Path) -> float | None:
        if not (where / file).is_file():
            return None
        metadata: WeightsMetadata = load_weights(where / file, stage).metadata
        text = metadata.provenance.get(VALIDATION_DSC)
        return None if text is None else float(json.loads(text))

    return Comparison(Path(file).stem, score(folder) or 0.0, score(shipped) if shipped else None)

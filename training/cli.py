"""The command: arguments to calls. No numerics."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from inference.exit_codes import EXIT_SOME_FAILED, EXIT_USAGE
from training.chain import PRESETS
from training.config import Precision, TrainConfig
from training.synthesis.ranges import PHASES

log = logging.getLogger("training")


def _path() -> click.Path:
    return click.Path(path_type=Path)


def _parse_fold(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, int] | None:
    if value in (None, "none"):
        return None
    fold, slash, count = value.partition("/")
    if slash and fold.isdecimal() and count.isdecimal() and 0 <= int(fold) < int(count) <= 100:
        return int(fold), int(count)
    raise click.BadParameter(f"{value!r} is not K/N with K from 0 to N - 1")


@contextmanager
def _usage_errors() -> Iterator[None]:
    """What was wrong with the arguments ends the command in one line."""
    try:
        yield
    except ValueError as error:
        log.error("%s", error)
        sys.exit(EXIT_USAGE)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Train the kidney and the tumor network."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)


@main.command("prepare")
@click.argument("data", type=_path())
@click.argument("cache", type=_path())
@click.option("--processes", type=click.IntRange(min=1), default=1, show_default=True,
              help="Cases at once; each takes up to 3 GiB.")  # fmt: skip
@click.option("--spacing-mm", type=click.FloatRange(min=1.0, max=8.0), default=3.0, show_default=True,
              help="Of real scans: the networks' grid. 2 for the paper's presets.")  # fmt: skip
def prepare_command(data: Path, cache: Path, processes: int, spacing_mm: float) -> None:
    """DATA to a CACHE that training reads. Goes on where it stopped; several calls fill one cache.

    DATA is KiTS19's folder (case_XXXXX with a label map and perhaps an image), TotalSegmentator's, or one
    with an index.json that says what each scan is.
    """
    from training.prepare import prepare

    with _usage_errors():
        failed = prepare(data, cache, spacing_mm=spacing_mm, processes=processes)
    for reason in failed.values():
        log.error("%s", reason)
    log.info("%s prepared in %s, %d cases failed", data, cache, len(failed))
    if failed:
        sys.exit(EXIT_SOME_FAILED)


@main.command("train")
@click.argument("preset", type=click.Choice(list(PRESETS)))
@click.argument("cache", type=_path(), required=False)
@click.option("--out", type=_path(), required=True, help="Folder of the run.")
@click.option("--init", type=_path(), default=None, help="Weights or checkpoint to start from.")
@click.option("--resume", is_flag=True, help="Go on from the run's last checkpoint.")
@click.option("--fold", callback=_parse_fold, default="0/10", show_default=True, metavar="K/N|none",
              help="Hold out the K-th of N parts of the cases, K from 0.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), help="[default: the preset's]")
@click.option("--max-steps", type=click.IntRange(min=1), default=None,
              help="Planned steps, which the learning rate follows.  [default: the preset's]")  # fmt: skip
@click.option("--max-minutes", type=float, default=0.0,
              help="Stop at the end of the epoch in which this time is spent.")  # fmt: skip
@click.option("--anneal-in-time", is_flag=True,
              help="The learning rate falls within --max-minutes, if the steps take longer.")  # fmt: skip
@click.option("--accelerator", type=click.Choice(["auto", "cpu", "gpu"]), default="auto", show_default=True)
@click.option("--devices", type=click.IntRange(min=1), default=1, show_default=True,
              help="Several train with DDP.")  # fmt: skip
@click.option("--nodes", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--precision", type=click.Choice(["32-true", "bf16-mixed", "16-mixed"]), default=None,
              help="[default: the preset's]")  # fmt: skip
@click.option("--checkpoint-activations", is_flag=True, help="Less memory, more time.")
@click.option("--workers", type=click.IntRange(min=0), default=0, show_default=True,
              help="Processes that make samples ahead; 0 makes them on the training device.")  # fmt: skip
@click.option(
    "--threads", type=click.IntRange(min=1), default=None, help="CPU threads.  [default: all cores]"
)
def train_command(
    preset: str,
    cache: Path | None,
    seed: int | None,
    max_steps: int | None,
    precision: Precision | None,
    checkpoint_activations: bool,
    threads: int | None,
    **options: Any,
) -> None:
    """Train PRESET on a CACHE that `prepare` wrote; synthetic presets need none."""
    import torch

    from training.train import RunOptions, train

    if threads:
        torch.set_num_threads(threads)
    config = PRESETS[preset]
    if seed is not None:
        config = replace(config, seed=seed)
    if precision:
        config = replace(config, precision=precision)
    if checkpoint_activations:
        config = replace(config, activation_checkpointing=True)
    if max_steps:
        epochs = max(1, round(max_steps / config.steps_per_epoch))
        config = replace(config, max_epochs=epochs)
    with _usage_errors():
        train(config, RunOptions(cache=cache, **options), name=preset)


@main.command("export")
@click.argument("checkpoint", type=_path())
@click.argument("out", type=_path())
@click.option("--version", default=None, help="Of the weights, for the model card.")
def export_command(checkpoint: Path, out: Path, version: str | None) -> None:
    """Write the network of a CHECKPOINT to OUT.safetensors, for `python -m inference`."""
    from training.checkpoints import export_weights

    with _usage_errors():
        metadata = export_weights(checkpoint, out, version=version)
    log.info("%s: %s network, %s", out, metadata.stage, metadata.roi)


@main.command("average")
@click.argument("out", type=_path())
@click.argument("weights", type=_path(), nargs=-1, required=True)
@click.option("--version", default=None, help="Of the weights, for the model card.")
def average_command(out: Path, weights: tuple[Path, ...], version: str | None) -> None:
    """Write the mean of exported WEIGHTS, of rounds that went on from one another, to OUT.safetensors."""
    from training.checkpoints import average_weights

    with _usage_errors():
        metadata = average_weights(weights, out, version=version)
    log.info("%s: %s network, mean of %d", out, metadata.stage, len(weights))


@main.command("synthesize")
@click.argument("out", type=_path())
@click.option("--cases", type=click.IntRange(min=1), default=4, show_default=True, help="How many.")
@click.option("--labels", type=_path(), default=None, metavar="CACHE",
              help="Synthesise CTs around prepared label maps instead of synthetic kidneys.")  # fmt: skip
@click.option("--fold", callback=_parse_fold, default=None, metavar="K/N",
              help="Only around the label maps that this fold holds out of training.")  # fmt: skip
@click.option("--spacing-mm", type=click.FloatRange(min=0.5, max=8.0), default=2.0, show_default=True)
@click.option("--phase", "phases", type=click.Choice(PHASES), multiple=True,
              help="CTs in these contrast phases, in turn.  [default: a random one each]")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def synthesize_command(
    out: Path,
    cases: int,
    labels: Path | None,
    fold: tuple[int, int] | None,
    spacing_mm: float,
    phases: tuple[str, ...],
    seed: int,
) -> None:
    """Write synthetic cases to OUT in KiTS19's layout and on-disk format."""
    from training.cache import cached_names, load_label_maps
    from training.data import split_cases
    from training.synthetic_cases import synthesise_cases

    with _usage_errors():
        names = cached_names(labels) if labels else []
        if fold is not None:
            names = split_cases(names, fold=fold[0], folds=fold[1], seed=TrainConfig.split_seed)[1]
        maps = list(load_label_maps(labels, names)) if labels else []
    synthesise_cases(out, cases, spacing_mm=spacing_mm, seed=seed, maps=maps, phases=phases)


@main.command("montage")
@click.argument("out", type=_path())
@click.option("--cases", type=click.IntRange(min=1), default=12, show_default=True, help="Synthetic CTs.")
@click.option("--labels", type=_path(), default=None, metavar="CACHE",
              help="Synthesise CTs around prepared label maps instead of synthetic kidneys.")  # fmt: skip
@click.option(
    "--real", type=_path(), multiple=True, metavar="CT", help="A real CT to show first; repeatable."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def montage_command(out: Path, cases: int, labels: Path | None, real: tuple[Path, ...], seed: int) -> None:
    """Write a picture (OUT.png) of synthetic CTs beside real ones."""
    from training.cache import cached_names, load_label_maps
    from training.montage import draw_montage

    with _usage_errors():
        maps = list(load_label_maps(labels, cached_names(labels))) if labels else []
        draw_montage(out, synthetic=cases, real=real, maps=maps, seed=seed)


@main.command("chain")
@click.option("--write", is_flag=True, help="Into the documents that show it, instead of printing it.")
def chain_command(write: bool) -> None:
    """Print the rounds of training as a Markdown table."""
    from training import chain_table

    table = chain_table.chain_table()
    if not write:
        click.echo(table)
        return
    for document in chain_table.DOCUMENTS:
        chain_table.update(document, table)
        log.info("%s: written", document)


@main.command("reproduce")
@click.option("--data", type=_path(), multiple=True, metavar="DIR",
              help="A data set as for `prepare`; repeatable.  [default: synthetic kidneys]")  # fmt: skip
@click.option("--cache", type=_path(), default=None, help="One that `prepare` filled.  [default: OUT/cache]")
@click.option("--out", type=_path(), required=True, help="Folder for both weights.")
@click.option(
    "--init", type=_path(), default=None, help="Folder of weights that the first rounds start from."
)
@click.option("--shipped", type=_path(), default=None, help="Weights whose validation DSC must be met.")
@click.option("--tiny", is_flag=True, help="The same path in a minute, for tests.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--max-steps", type=click.IntRange(min=1), default=None, help="Of each run.")
@click.option("--workers", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--accelerator", type=click.Choice(["auto", "cpu", "gpu"]), default="auto", show_default=True)
@click.option("--side-by-side", is_flag=True, help="Train at once what can be: for a GPU.")
def reproduce_command(data: tuple[Path, ...], out: Path, tiny: bool, **options: Any) -> None:
    """Train the chain of rounds that made the shipped weights. Goes on where it stopped."""
    from training.chain import CHAIN, TINY_CHAIN
    from training.reproduce import TOLERANCE, reproduce

    with _usage_errors():
        results = reproduce(data, out, chain=TINY_CHAIN if tiny else CHAIN, **options)
    for result in results:
        shipped = "nothing to compare with" if result.shipped is None else f"shipped {result.shipped:.3f}"
        log.info("%s: validation DSC %.3f, %s", result.network, result.reached, shipped)
    if not all(result.agrees for result in results):
        log.error("the validation DSC is not within %.2f of the shipped weights'", TOLERANCE)
        sys.exit(EXIT_SOME_FAILED)

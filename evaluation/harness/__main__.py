"""`python -m evaluation.harness IMAGE...`: the leaderboard of some containers."""

import sys
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from evaluation.harness.engine import DOCKER, Contestant, Limits, find_or_build, is_available
from evaluation.harness.trial import (
    Mode,
    Result,
    Row,
    append_rows,
    as_row,
    board_order,
    open_data_set,
    try_container,
)
from inference.exit_codes import EXIT_OK, EXIT_SOME_FAILED, EXIT_USAGE
from inference.runner.cases import UsageError

SAMPLES = Path(__file__).resolve().parents[2] / "test_data"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--input", "root", type=click.Path(path_type=Path), default=SAMPLES / "input",
              help="Folder with CTs, in any layout.  [default: the sample cases]")  # fmt: skip
@click.option("--truth", type=click.Path(path_type=Path), default=SAMPLES / "reference",
              help="Reference label maps, called as the label maps are to be called.")  # fmt: skip
@click.option("--mode", type=click.Choice(["cases", "batch", "both"]), default="both", show_default=True,
              help="A container for each case, one for all, or the one and then the other.")  # fmt: skip
@click.option("--seconds", default=Limits.seconds, show_default=True, help="Time limit of a case.")
@click.option("--memory", default=Limits.memory, show_default=True, help="Memory limit.")
@click.option("--pids", default=Limits.pids, show_default=True, help="Limit on processes and threads.")
@click.option("--user", default=Limits.user, show_default=True,
              help="Who containers run as: UID:GID, or 'image' for whom the image says.")  # fmt: skip
@click.option("--gpus", default=None, help="GPUs for the containers, as the engine takes it (all).")
@click.option("--board", type=click.Path(path_type=Path), default=None, metavar="FILE",
              help="Add the rows to this leaderboard, .csv or .json.")  # fmt: skip
def main(
    images: tuple[str, ...],
    root: Path,
    truth: Path,
    mode: str,
    user: str,
    gpus: str | None,
    board: Path | None,
    **limits: Any,
) -> None:
    """Run containers as an organiser does: offline, read-only, without rights, under limits.

    IMAGE is an image's name or a folder with a Dockerfile. Checks that label maps are there, on the CT's
    grid, in {0, 1, 2} and nobody's in particular, scores them, and prints a row for each image and mode. The
    board keeps the image's digest and the scores of each case, and stays sorted.
    Exit code 0: all passed. 1: some did not. 2: wrong usage.
    """
    try:
        if not is_available():
            raise UsageError(f"{DOCKER}: no container engine answers. Start one, or name another in DOCKER")
        data = open_data_set(root, truth)
        if board is not None:
            append_rows(board, [])  # whether it can be written is better known before than after
        rules = Limits(user=None if user == "image" else user, **limits)
        flags = ("--gpus", gpus) if gpus else ()
        contestants = [Contestant(find_or_build(image), flags) for image in images]
        modes: tuple[Mode, ...] = ("cases", "batch") if mode == "both" else (mode,)  # type: ignore[assignment]
        rows = []
        for contestant in contestants:
            for each in modes:
                with _Progress(f"{contestant.image} ({each})", len(data.cases)) as progress:
                    result = try_container(contestant, each, data, rules, progress=progress.add)
                rows.append(_tell(result))
                if board is not None:
                    append_rows(board, rows[-1:])  # what is done is kept, whatever comes next
    except UsageError as error:
        click.echo(str(error), err=True)
        sys.exit(EXIT_USAGE)
    rows.sort(key=board_order)
    _print(rows)
    sys.exit(EXIT_OK if all(row.passed for row in rows) else EXIT_SOME_FAILED)


class _Progress:
    """A bar on a terminal, plain lines elsewhere."""

    def __init__(self, name: str, total: int) -> None:
        self._name, self._total, self._done = name, total, 0
        self._bar: Any = tqdm(total=total, desc=name, unit="case", disable=None, leave=False)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, n_cases: int) -> None:
        self._done += n_cases
        self._bar.update(n_cases)
        if self._bar.disable:
            click.echo(f"{self._name}: {self._done} of {self._total} cases done", err=True)


def _tell(result: Result) -> Row:
    for finding in result.findings:
        click.echo(f"{result.contestant.image} ({result.mode}) {finding.reason}: {finding.text}", err=True)
    return as_row(result)


def _print(rows: list[Row]) -> None:
    width = max(len(row.image) for row in rows) + 2
    click.echo(
        f"{'image':<{width}}{'mode':<7}{'passed':<8}{'kidney':>7}{'tumor':>7}{'mean':>7}{'seconds':>9}"
        "  reasons"
    )
    for row in rows:
        scores = f"{row.kidney:>7.3f}{row.tumor:>7.3f}{row.mean:>7.3f}{row.seconds:>9.1f}"
        click.echo(
            f"{row.image:<{width}}{row.mode:<7}{'yes' if row.passed else 'NO':<8}{scores}  {row.reasons}"
        )


if __name__ == "__main__":
    main(prog_name="python -m evaluation.harness")

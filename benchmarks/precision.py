"""`python -m benchmarks.precision FOLDER...`: do label maps in bfloat16 score as those in float32 do?

Precision is judged by what matters, the DSC against reference label maps: over all cases its mean may change
by less than 0.002, and no case's by more than 0.01. `--write` puts the verdict into the weights' metadata,
where `--precision auto` looks for it.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.names import short_names
from evaluation.metrics import dice
from inference.formats.ct import read_ct
from inference.formats.staging import staged
from inference.geometry import KIDNEY, TUMOR
from inference.networks.backends import has_bf16
from inference.networks.cascade import COARSE
from inference.networks.weights import CHECKSUMS, Stage, load_weights, save_weights
from inference.runner.cases import KITS19_IMAGE, KITS19_SEGMENTATION
from training.cache import IGNORE

ROOT = Path(__file__).resolve().parent.parent
MAX_MEAN_CHANGE, MAX_CHANGE = 0.002, 0.01
PRECISIONS = ("float32", "bfloat16")
STRUCTURES = ("kidney", "tumor")
PROOF = "bfloat16"
"""Key of the weights' provenance under which the figures of the verdict stand."""


@dataclass(frozen=True)
class Score:
    """Of one label map: DSC of the structures that the reference shows, and what is called one elsewhere."""

    dsc: dict[str, float]
    false_ml: float


@dataclass(frozen=True)
class Verdict:
    """The change from float32 to bfloat16, by structure: of the mean DSC, and the largest of a case."""

    n: dict[str, int]
    mean: dict[str, float]
    largest: dict[str, float]

    @property
    def holds(self) -> bool:
        """Whether these weights may be used in bfloat16."""
        mean, largest = (max(map(abs, values.values()), default=1.0) for values in (self.mean, self.largest))
        return mean < MAX_MEAN_CHANGE and largest <= MAX_CHANGE

    def __str__(self) -> str:
        parts = [
            f"{s} {self.mean[s]:+.5f} in the mean of {self.n[s]} cases, {self.largest[s]:+.5f} at most"
            for s in self.mean
        ]
        return f"DSC, float32 to bfloat16: {'; '.join(parts)}"


def score(labels: NDArray[np.uint8], truth: NDArray[np.uint8], voxel_ml: float) -> Score:
    """A label map against its reference, without the voxels that the reference ignores."""
    labels, truth = labels[truth != IGNORE], truth[truth != IGNORE]
    dsc = {}
    for name, least in (("kidney", KIDNEY), ("tumor", TUMOR)):
        a, b = labels >= least, truth >= least
        if b.any():
            dsc[name] = dice(a, b)
    return Score(dsc, float(((labels > 0) & (truth == 0)).sum()) * voxel_ml)


def judge(scores: dict[str, tuple[Score, Score]]) -> Verdict:
    """From the scores of each case in float32 and bfloat16."""
    n, mean, largest = {}, {}, {}
    for name in STRUCTURES:
        changes = [b.dsc[name] - a.dsc[name] for a, b in scores.values() if name in a.dsc]
        if changes:
            n[name], mean[name] = len(changes), float(np.mean(changes))
            largest[name] = max(changes, key=abs)
    return Verdict(n, mean, largest)


def labelled(folders: Sequence[Path]) -> Iterator[Path]:
    """Every case folder whose reference shows a kidney."""
    for folder in folders:
        for image in sorted(folder.rglob(KITS19_IMAGE)):
            reference = image.with_name(KITS19_SEGMENTATION)
            if reference.is_file() and np.isin(read_ct(reference).hu, (KIDNEY, TUMOR)).any():
                yield image.parent


def run(source: Path, output: Path, *options: str) -> list[dict[str, Any]]:
    """The command on all cases; its report."""
    command = [sys.executable, "-m", "inference", "--input", source, "--output", output]
    command += ["--report", output / "report.json", *options]
    subprocess.run(list(map(str, command)), check=True, cwd=ROOT)
    cases: list[dict[str, Any]] = json.loads((output / "report.json").read_text())["cases"]
    return cases


def write_verdict(weights: Path, verdict: Verdict) -> None:
    """Put it into the metadata of all networks, and their new checksums beside them.

    Stopped at any moment it leaves weights that are whole, and that load only if they are as checked.
    """
    stages: dict[str, Stage] = {
        COARSE: "kidney",
        "kidney.safetensors": "kidney",
        "tumor.safetensors": "tumor",
    }
    if not (weights / COARSE).is_file():
        del stages[COARSE]
    loaded = {name: load_weights(weights / name, stage) for name, stage in stages.items()}
    has_checksums = (weights / CHECKSUMS).is_file()
    text = (weights / CHECKSUMS).read_text() if has_checksums else ""
    with staged(weights / (CHECKSUMS if has_checksums else "tumor.safetensors")) as last:
        for name, old in loaded.items():
            told = {**old.metadata.provenance, PROOF: str(verdict)}
            metadata = replace(old.metadata, bf16=verdict.holds, provenance=told)
            new = last.with_name(name)
            save_weights(new, old.model, metadata)
            text = text.replace(old.sha256, load_weights(new, stages[name]).sha256)
        if has_checksums:
            last.write_text(text)


@click.command()
@click.argument(
    "folders", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--weights", type=click.Path(exists=True, path_type=Path), default=ROOT / "weights")
@click.option("--device", default="cpu", show_default=True)
@click.option("--write", is_flag=True, help="Put the verdict into the weights' metadata.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=ROOT / "benchmarks" / "results" / "precision.json"
)
def main(folders: tuple[Path, ...], weights: Path, device: str, write: bool, out: Path) -> None:
    """The DSC of each case in float32 and bfloat16, and whether AUTO may take bfloat16.

    FOLDERS hold cases with imaging.nii.gz and segmentation.nii.gz (0, 1 kidney, 2 tumor, 255 to be ignored).
    Exit status 1: bfloat16 changes the score.
    """
    if not has_bf16(device):
        raise click.ClickException(f"{device} does not compute in bfloat16: nothing would be proved")
    scores: dict[str, tuple[Score, Score]] = {}
    with tempfile.TemporaryDirectory(prefix="precision-") as work:
        source = Path(work) / "in"
        names = short_names(list(labelled(folders)))
        cases = {f"{number}-{case.name}": case for number, case in enumerate(names)}  # two may share a name
        for place, case in cases.items():
            (source / place).mkdir(parents=True)
            (source / place / KITS19_IMAGE).symlink_to((case / KITS19_IMAGE).resolve())
        if not cases:
            raise click.ClickException("no case whose reference shows a kidney")
        options = ("--weights", str(weights.resolve()), "--device", device)
        reports = {p: run(source, Path(work) / p, *options, "--precision", p) for p in PRECISIONS}
        for row in reports["float32"]:
            case = cases[Path(row["source"]).parent.name]
            truth = read_ct(case / KITS19_SEGMENTATION)
            voxel_ml = float(np.prod(truth.spacing_mm)) / 1000
            exact, rough = (
                score(
                    read_ct(Path(work) / precision / row["output"]).hu.astype(np.uint8),
                    truth.hu.astype(np.uint8),
                    voxel_ml,
                )
                for precision in PRECISIONS
            )
            scores[names[case]] = exact, rough
    width = max(map(len, scores))
    head = (
        f"{'':{width}}" + "".join(f"  {s:>8} bfloat16   change" for s in STRUCTURES) + "  false ml bfloat16"
    )
    click.echo(head)
    for name, (a, b) in scores.items():
        parts = [
            f"  {a.dsc[s]:8.4f} {b.dsc[s]:8.4f} {b.dsc[s] - a.dsc[s]:+8.4f}" if s in a.dsc else " " * 28
            for s in STRUCTURES
        ]
        click.echo(f"{name:{width}}{''.join(parts)}  {a.false_ml:8.2f} {b.false_ml:8.2f}")
    verdict = judge(scores)
    took = {p: sum(sum(row["seconds"].values()) for row in reports[p]) for p in PRECISIONS}
    click.echo(f"{verdict}; {took['float32']:.0f} s and {took['bfloat16']:.0f} s")
    click.echo(f"bfloat16 {'holds' if verdict.holds else 'DOES NOT HOLD'}: the mean may change by less than "
               f"{MAX_MEAN_CHANGE}, a case by {MAX_CHANGE} at most")  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = {name: {"float32": vars(a), "bfloat16": vars(b)} for name, (a, b) in scores.items()}
    content = {"verdict": vars(verdict), "holds": verdict.holds, "seconds": took, "cases": rows}
    out.write_text(json.dumps(content, indent=1) + "\n")
    if write:
        write_verdict(weights, verdict)
        click.echo(f"written to {weights}")
    sys.exit(0 if verdict.holds else 1)


if __name__ == "__main__":
    main()

"""What the method finds in parts of real CTs that show no kidney: an exam of another body part, say.

    python -m benchmarks.crops CTS [--weights weights] [--crops 3] [--seed 1] [--only NAME]

CTS is a folder with an `index.json` (`{"name": {"labels": "no kidney in view"}}`; other scans need a
reference label map, `segmentation.nii.gz`). Of each scan random parts along z are taken, 40 to 200 mm long,
none of whose slices has a label. Each that is not empty is a line; the last line counts them.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from inference import load_cascade
from inference.formats.ct import read_ct
from inference.geometry import TUMOR
from inference.method.segment import segment
from inference.runner.cases import KITS19_IMAGE, KITS19_SEGMENTATION

LENGTH_MM = (40.0, 200.0)
LEAST_SLICES = 4
TRIES = 20
"""At a part without a label; after so many the scan gives none."""


def crops(
    is_labelled: NDArray[np.bool_], slice_mm: float, count: int, rng: Generator
) -> Iterator[tuple[int, int]]:
    """First slice and end of up to `count` random parts without a labelled slice.

    Args:
        is_labelled: (z,).
        slice_mm: distance of slices.
        count: how many parts are wanted.
        rng: all that is random comes from it.
    """
    n = len(is_labelled)
    for _ in range(count):
        for _ in range(TRIES):
            length = min(n, max(LEAST_SLICES, round(rng.uniform(*LENGTH_MM) / slice_mm)))
            start = int(rng.integers(n - length + 1))
            if not is_labelled[start : start + length].any():
                yield start, start + length
                break


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="CTS")
@click.option("--weights", type=click.Path(path_type=Path), default=Path("weights"), show_default=True)
@click.option("--crops", "count", type=click.IntRange(min=1), default=3, show_default=True, help="Of a scan.")
@click.option("--seed", default=1, show_default=True)
@click.option("--only", multiple=True, help="Of this scan alone; repeatable.")
def main(folder: Path, weights: Path, count: int, seed: int, only: tuple[str, ...]) -> None:
    """Segment random parts of CTs that show no kidney, and print those that are not empty."""
    cascade = load_cascade(weights)
    index = json.loads((folder / "index.json").read_text())
    n_crops, wrong_ml = 0, []
    for number, (name, entry) in enumerate(sorted(index.items())):
        reference = folder / name / KITS19_SEGMENTATION
        is_empty = entry["labels"].startswith("no kidney")
        if (only and name not in only) or not (is_empty or reference.is_file()):
            continue
        ct = read_ct(folder / name / KITS19_IMAGE)
        voxel_ml = float(np.prod(ct.spacing_mm)) / 1000
        known = np.zeros(ct.hu.shape, np.uint8) if is_empty else read_ct(reference).hu
        is_labelled = np.any(known > 0, axis=(1, 2))
        for start, stop in crops(is_labelled, ct.spacing_mm[0], count, np.random.default_rng([seed, number])):
            labels = segment(ct.hu[start:stop], ct.spacing_mm, cascade).labels
            n_crops += 1
            if labels.any():
                wrong_ml.append(np.count_nonzero(labels) * voxel_ml)
                tumor_ml = np.count_nonzero(labels == TUMOR) * voxel_ml
                click.echo(
                    f"{name}: slices {start} to {stop}: {wrong_ml[-1]:.1f} ml, {tumor_ml:.1f} of tumor"
                )
    click.echo(f"{n_crops - len(wrong_ml)} of {n_crops} parts empty, {sum(wrong_ml):.0f} ml in all")


if __name__ == "__main__":
    main()

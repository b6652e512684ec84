"""How many tumors a patient has, and how large the second one is: what `Method.min_tumor_share` rests on.

    python -m benchmarks.tumor_pieces CACHE

CACHE is what `python -m training prepare` wrote: label maps at 2 mm.
"""

from pathlib import Path

import click
import numpy as np
from scipy import ndimage

from inference.geometry import TUMOR
from inference.method.postprocess import CONNECTIVITY_26
from training.cache import cached_names, load_label_maps

SHARES = (0.0, 0.1, 0.25, 0.5)
SPECK_ML = 0.05
"""Smaller pieces are slips of the pen."""


@click.command()
@click.argument("cache", type=click.Path(path_type=Path, exists=True))
def main(cache: Path) -> None:
    """Print the counts."""
    seconds = []
    for case in load_label_maps(cache, cached_names(cache)):
        pieces, _ = ndimage.label(case.labels == TUMOR, CONNECTIVITY_26)
        sizes = np.sort(np.bincount(pieces.ravel())[1:])[::-1]
        sizes = sizes[sizes * case.spacing_mm**3 / 1000 > SPECK_ML]
        seconds.append(sizes[1] / sizes[0] if len(sizes) > 1 else 0.0)
    click.echo(f"{len(seconds)} label maps")
    for share in SHARES:
        count = sum(0 < second >= share for second in seconds)
        click.echo(f"{count:4d} with a second tumor of at least {share:.2f} of the largest")


if __name__ == "__main__":
    main()

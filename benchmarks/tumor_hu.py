"""Hounsfield units inside real tumors: what `Method.max_cyst_hu` rests on.

    python -m benchmarks.tumor_hu CACHE

CACHE is what `python -m training prepare` wrote, of scans or single slices with labelled tumors.
"""

from pathlib import Path

import click
import numpy as np
from scipy import ndimage

from inference.geometry import TUMOR
from inference.method.method import DEFAULT
from inference.method.postprocess import MIN_CYST_HU
from training.cache import HU_STEP, LOWEST_HU, Scan, load_scans

INNER_VOX = 6
"""Tumors with fewer voxels that are no border are left out."""
PERCENTILES = (1, 5, 25, 50, 75, 95)
IN_PLANE = np.zeros((3, 3, 3), bool)
IN_PLANE[1] = ndimage.generate_binary_structure(2, 1)


def inner_hu(scan: Scan) -> list[float]:
    """Mean HU of each tumor without its border; the border of a single slice is that in its plane."""
    cut = slice(0, 1) if scan.is_slice else slice(None)
    hu = scan.grey[cut].astype(np.float32) * HU_STEP + LOWEST_HU
    pieces, count = ndimage.label(scan.labels[cut] == TUMOR)
    beside = IN_PLANE if scan.is_slice else None
    inner = [ndimage.binary_erosion(pieces == number, beside) for number in range(1, count + 1)]
    return [float(hu[mask].mean()) for mask in inner if np.count_nonzero(mask) >= INNER_VOX]


@click.command()
@click.argument("cache", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(cache: Path) -> None:
    """Print how the tumors in CACHE are distributed, and how many are as dense as fluid."""
    means = np.array([mean for scan in load_scans(cache) if scan.has_tumor for mean in inner_hu(scan)])
    if not means.size:
        raise click.ClickException(f"{cache}: no labelled tumors. Prepare scans or slices that have some")
    low, high = MIN_CYST_HU, DEFAULT.max_cyst_hu
    for share, value in zip(PERCENTILES, np.percentile(means, PERCENTILES), strict=True):
        click.echo(f"{share:3d} % of the tumors have a mean below {value:6.1f} HU")
    click.echo(
        f"{np.count_nonzero((means > low) & (means < high))} of {means.size} between {low} and {high} HU"
    )


if __name__ == "__main__":
    main()

"""A real CT as other scanners and other orders might have made it: thicker, noisier, shorter, narrower …

Not one of these is in any data set with kidney labels at hand; they show what the method does at its edges.
"""

from collections.abc import Iterator

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.crops import LEAST_SLICES, crops
from inference.geometry import Vector

THICK_MM = (6.0, 10.0)
NOISE_HU = (40.0, 80.0)
OFFSET_HU = 25
SOFT_MM = 1.8
SCALE = (0.85, 1.18)
PARTS = 4
NARROW = 1 / 6
"""Of the width and the depth of each slice, cut off on either side."""

Altered = tuple[str, NDArray[np.int16], NDArray, Vector]
"""What was done, HU and labels (z, y, x), and the spacing in mm."""


def altered(hu: NDArray[np.int16], labels: NDArray, spacing_mm: Vector, rng: Generator) -> Iterator[Altered]:
    """The CT as it is, and in every other way.

    Args:
        hu, labels: (z, y, x).
        spacing_mm: (z, y, x).
        rng: the noise, and where the parts lie.
    """
    yield "as it is", hu, labels, spacing_mm
    for mm in THICK_MM:
        n = round(mm / spacing_mm[0])  # slices that become one
        count = len(hu) // n if n else 0
        if n > 1 and count >= LEAST_SLICES:
            mean = hu[: count * n].reshape(count, n, *hu.shape[1:]).mean(axis=1).astype(np.int16)
            thick = (spacing_mm[0] * n, *spacing_mm[1:])
            yield f"slices of {mm:.0f} mm", mean, labels[n // 2 : count * n : n], thick
    for sd in NOISE_HU:
        noisy = np.clip(hu + rng.normal(0, sd, hu.shape), -1024, 3071).astype(np.int16)
        yield f"noise {sd:.0f} HU", noisy, labels, spacing_mm
    yield "brighter", hu + np.int16(OFFSET_HU), labels, spacing_mm
    yield "darker", hu - np.int16(OFFSET_HU), labels, spacing_mm
    sd_vox = (0, SOFT_MM / spacing_mm[1], SOFT_MM / spacing_mm[2])
    yield "soft", ndimage.gaussian_filter(hu, sd_vox), labels, spacing_mm
    for scale in SCALE:
        z, y, x = spacing_mm
        yield f"{scale} times as large", hu, labels, (z * scale, y * scale, x * scale)
    y, x = (round(n * NARROW) for n in hu.shape[1:])
    narrow = (slice(None), slice(y, -y or None), slice(x, -x or None))
    yield "narrow", np.ascontiguousarray(hu[narrow]), labels[narrow], spacing_mm
    for start, stop in crops(np.zeros(len(hu), np.bool_), spacing_mm[0], PARTS, rng):  # labelled slices, too
        yield f"slices {start} to {stop}", hu[start:stop], labels[start:stop], spacing_mm

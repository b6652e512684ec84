"""Outlines of masks in one plane, along the voxels' edges: exactly the mask, no more and no less."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Corner = tuple[int, int]
Mask = NDArray[np.bool_]


def outlines(mask: Mask) -> list[NDArray[np.int64]]:
    """Closed outlines of a mask's 4-connected parts and of their holes.

    Args:
        mask: (rows, columns).

    Returns:
        For each outline its corners (n, 2) as (row, column), where voxel (r, c) reaches from r to r + 1 and
        from c to c + 1; the first corner is not repeated. The mask lies to the right of the way, that is
        clockwise as drawn with rows downwards; around a hole counter-clockwise.
    """
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    ways: dict[Corner, list[Corner]] = {}
    for neighbour, first, last in (
        (padded[:-2, 1:-1], (0, 0), (0, 1)),  # above: to the right
        (padded[1:-1, 2:], (0, 1), (1, 1)),  # right: down
        (padded[2:, 1:-1], (1, 1), (1, 0)),  # below: to the left
        (padded[1:-1, :-2], (1, 0), (0, 0)),  # left: up
    ):
        for row, column in np.argwhere(inside & ~neighbour).tolist():
            start = (row + first[0], column + first[1])
            ways.setdefault(start, []).append((row + last[0], column + last[1]))
    found = []
    while ways:
        found.append(np.array(_walk(ways), dtype=np.int64))
    return found


def without_holes(mask: Mask) -> Iterator[Mask]:
    """Parts of a mask, disjoint and together the whole of it, each 4-connected and without a hole."""
    parts, count = ndimage.label(mask)
    for number in range(1, count + 1):
        part = parts == number
        holes = ndimage.binary_fill_holes(part) & ~part
        if not holes.any():
            yield part
            continue
        cut = int(np.flatnonzero(holes.any(axis=1))[0]) + 1  # below the first row that has a hole
        upper = part.copy()
        upper[cut:] = False
        yield from without_holes(upper)
        yield from without_holes(part & ~upper)


def _walk(ways: dict[Corner, list[Corner]]) -> list[Corner]:
    """One closed outline, taken out of `ways`; only corners where it turns."""
    start = min(ways)
    here, step, corners = start, (0, 0), []
    while True:
        row, column = step
        right = (here[0] + column, here[1] - row)  # a turn to the right keeps to the same voxel
        ends = ways[here]
        there = right if right in ends else ends[0]
        ends.remove(there)
        if not ends:
            del ways[here]
        new_step = (there[0] - here[0], there[1] - here[1])
        if new_step != step:
            corners.append(here)
        here, step = there, new_step
        if here == start:
            return corners

"""A NIfTI body from a stream into canonical int16, and labels back; a thread unpacks one piece ahead.

Files that claim float64 (KiTS19's do) hold whole numbers nearly always: a piece is cast, and cast back to see
that nothing was lost; only where something was, it is rounded and clipped. Pieces stay in a core's own cache,
and what the canonical order turns round is turned in slabs.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from .volume import convert_to_int16

PIECE_BYTES = 1 << 20
"""Unpacked at a time."""
BLOCK_VOXELS = 1 << 15
"""Converted at a time: with what it is compared to, less than a core's second cache."""
SLAB_SLICES, SLAB_BYTES = 64, 32 << 20
"""Turned at a time: many voxels of each cache line that is written, in a slab of bounded size."""
PIECES = 4
"""In memory: the one that is converted, and those that are unpacked ahead of it."""


def read_body(
    file: BinaryIO, dtype: np.dtype, stored: NDArray[np.int16], *, slope: float = 1.0, inter: float = 0.0
) -> int:
    """Fill an array from a stream that stands at the first voxel.

    Args:
        file: gives the body, unpacked.
        dtype: of a voxel on disk: integer or float, either byte order.
        stored: to fill, (i, j, k) as on disk, where i is the fastest; any view of a canonical array.
        slope, inter: HU are slope · voxel + inter.

    Returns:
        How many voxels are not finite; they become air.

    Raises:
        EOFError: the stream ends before the last voxel.
    """
    n_slice = stored.shape[0] * stored.shape[1]
    slabs = _slabs(stored)
    slab = np.empty(slabs[0][1] * n_slice, dtype=np.int16)
    n_piece = max(1, PIECE_BYTES // dtype.itemsize)
    counts = [
        min(n_piece, (last - first) * n_slice - start)
        for first, last in slabs
        for start in range(0, (last - first) * n_slice, n_piece)
    ]
    pieces = _unpacked(file, dtype, counts)
    not_finite = 0
    with np.errstate(all="ignore"):  # casting tells of what does not fit; the comparison does too
        for first, last in slabs:
            filled, wanted = 0, (last - first) * n_slice
            while filled < wanted:
                piece = next(pieces)
                not_finite += _convert(piece, slab[filled : filled + piece.size], slope, inter)
                filled += piece.size
            _turn(slab[:wanted].reshape(last - first, *stored.shape[1::-1]), stored[:, :, first:last])
    return not_finite


def _unpacked(file: BinaryIO, dtype: np.dtype, counts: list[int]) -> Iterator[NDArray]:
    """Pieces of so many voxels each, read ahead by a thread; one is valid until the next is asked for."""

    def fill(buffer: bytearray, n_voxels: int) -> NDArray:
        view = memoryview(buffer)[: n_voxels * dtype.itemsize]
        n_read = 0
        while n_read < len(view):
            n = file.readinto(view[n_read:])  # type: ignore[attr-defined]
            if not n:
                raise EOFError(f"{n_read} bytes where {len(view)} should follow")
            n_read += n
        return np.frombuffer(view, dtype)

    buffers = [bytearray(max(counts) * dtype.itemsize) for _ in range(min(PIECES, len(counts)))]
    with ThreadPoolExecutor(1, "unpacker") as unpacker:
        waiting = deque(unpacker.submit(fill, *each) for each in zip(buffers, counts, strict=False))
        try:
            for i in range(len(counts)):
                yield waiting.popleft().result()
                if i + PIECES < len(counts):
                    waiting.append(unpacker.submit(fill, buffers[i % PIECES], counts[i + PIECES]))
        finally:
            unpacker.shutdown(cancel_futures=True)


def _convert(piece: NDArray, out: NDArray[np.int16], slope: float, inter: float) -> int:
    is_scaled = (slope, inter) != (1.0, 0.0)
    if np.can_cast(piece.dtype, np.int16) and not is_scaled:
        out[:] = piece
        return 0
    not_finite = 0
    for start in range(0, piece.size, BLOCK_VOXELS):
        values = piece[start : start + BLOCK_VOXELS]
        into = out[start : start + BLOCK_VOXELS]
        if is_scaled:
            values = _scaled(values, slope, inter)
        if not _is_cast(values, into):
            not_finite += convert_to_int16(values, into)
    return not_finite


def _is_cast(values: NDArray, into: NDArray[np.int16]) -> bool:
    """Cast, if nothing is lost by it; what is too large or not finite never comes back as it was."""
    if values.dtype.kind != "f":
        return False  # integers that are too large wrap, and wrap back
    np.copyto(into, values, casting="unsafe")
    return bool((into.astype(values.dtype) == values).all())


def _scaled(values: NDArray, slope: float, inter: float) -> NDArray:
    """As nibabel scales, to the bit."""
    from nibabel.volumeutils import apply_read_scaling

    return np.asarray(apply_read_scaling(values, np.float64(slope), np.float64(inter)))


def _turn(slab: NDArray[np.int16], stored: NDArray[np.int16]) -> None:
    """Copy (k, j, i) to (i, j, k), row by row: planes in which both orders are short jumps."""
    if abs(stored.strides[0]) == stored.itemsize:
        stored[...] = slab.transpose(2, 1, 0)
        return
    for j in range(stored.shape[1]):
        stored[:, j, :] = slab[:, j, :].T


def in_disk_order(stored: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """An array (i, j, k) as it lies on disk, slab by slab (k, j, i); one is valid until the next is asked.

    A label map is empty but for the kidneys' box: only that is turned.
    """
    box = _box(stored)
    slabs = _slabs(stored)
    slab = np.empty((slabs[0][1], *stored.shape[1::-1]), dtype=stored.dtype)
    for first, last in slabs:
        part = slab[: last - first]
        part[:] = 0
        if box is not None:
            i, j, k = box
            low, high = max(first, k.start), min(last, k.stop)
            for row in range(j.start, j.stop if low < high else j.start):
                part[low - first : high - first, row, i] = stored[i, row, low:high].T
        yield part


def _slabs(stored: NDArray) -> list[tuple[int, int]]:
    """First and last slice (k) of each, the last one not in it."""
    thickness = max(1, min(SLAB_SLICES, SLAB_BYTES // (2 * stored.shape[0] * stored.shape[1])))
    return [(k, min(k + thickness, stored.shape[2])) for k in range(0, stored.shape[2], thickness)]


def _box(stored: NDArray[np.uint8]) -> tuple[slice, slice, slice] | None:
    """Where it is not zero; None where nowhere. The slowest axis comes first: the others look at less."""
    box = [slice(None)] * 3
    for axis in sorted(range(3), key=lambda axis: -abs(stored.strides[axis])):
        others = tuple(other for other in range(3) if other != axis)
        used = np.flatnonzero(stored[tuple(box)].max(axis=others))
        if not used.size:
            return None
        box[axis] = slice(int(used[0]), int(used[-1]) + 1)
    return box[0], box[1], box[2]

"""Reproducible randomness: smooth fields fixed in the patient frame, and one random stream per organ."""

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from training.synthesis.ranges import Point, Range, Ranges3

LATTICE = 24
"""Nodes of a smooth field along each axis; it repeats after this many cells (about 100 mm at the finest)."""
SEED_BITS = 0x7FFF_FFFF_FFFF_FFFF
"""Seeds are taken modulo this: random generators accept no negative ones."""
SEED_LIMIT = 2**62
"""Random seeds lie below this."""


class SmoothField:
    """Random field of unit variance, fixed in the patient frame: cubic B-splines on a random lattice."""

    def __init__(self, rng: np.random.Generator, cell_mm: float) -> None:
        self.cell_mm = cell_mm
        self._lattice = torch.from_numpy(rng.standard_normal((LATTICE,) * 3, dtype=np.float32))

    def at(self, axes: Sequence[Tensor]) -> Tensor:
        """Values (D, H, W) at the grid spanned by three axes (mm, patient frame)."""
        z, y, x = (self._weights(axis) for axis in axes)
        values = (z @ self._lattice.to(z.device).flatten(1)).unflatten(1, (LATTICE, LATTICE))  # (D, 24, 24)
        return (y @ values) @ x.T  # (D, H, 24) @ (24, W)

    def _weights(self, axis: Tensor) -> Tensor:
        """(len(axis), LATTICE) weights of the nodes, of unit length so that the variance is even."""
        t = axis / self.cell_mm
        cell = t.floor()
        f = t - cell
        near = torch.stack(((1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3), 1)
        near = near / near.square().sum(1, keepdim=True).sqrt()
        nodes = (cell.long()[:, None] + torch.arange(-1, 3, device=axis.device)) % LATTICE
        return torch.zeros(len(axis), LATTICE, device=axis.device).scatter_(1, nodes, near)


class Draw:
    """Random stream of one organ of one patient."""

    def __init__(self, seed: int, name: str) -> None:
        self._rng = np.random.default_rng([seed & SEED_BITS, zlib.crc32(name.encode())])

    def __call__(self, span: Range) -> float:
        """Uniform random number."""
        return float(self._rng.uniform(*span))

    def triple(self, spans: Ranges3) -> Point:
        """Three uniform random numbers."""
        return self(spans[0]), self(spans[1]), self(spans[2])

    def chance(self, share: float) -> bool:
        """True in this share of cases."""
        return bool(self._rng.random() < share)

    def integer(self, span: tuple[int, int]) -> int:
        """Whole number, both ends included."""
        return int(self._rng.integers(span[0], span[1] + 1))

    def choice(self, shares: Sequence[float]) -> int:
        """Random index with the given shares."""
        return int(self._rng.choice(len(shares), p=np.asarray(shares) / np.sum(shares)))

    def log(self, span: Range) -> float:
        """Log-uniform random number."""
        return float(np.exp(self._rng.uniform(*np.log(span))))

    def normal(self) -> float:
        """Standard normal random number."""
        return float(self._rng.standard_normal())

    def poisson(self, mean: float) -> int:
        """Poisson random number."""
        return int(self._rng.poisson(mean))

    def field(self, cell_mm: float) -> SmoothField:
        """Smooth field of this cell size."""
        return SmoothField(self._rng, cell_mm)

"""Samples on a GPU: worker processes fill a pool without pause, and batches are drawn from it.

A core needs 0.03 s for a sample of 64³ voxels and 0.25 s for a whole ROI; a data-centre GPU trains on it in
0.002 and 0.01 s. So each sample is used a few times, each time turned, scaled, shifted and with other HU.
"""

import math
import threading
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from inference.geometry import Shape
from training.real.augment import rotation
from training.synthetic import Sample

ROTATION_DEG, SCALE, SHIFT = 10.0, 0.1, 0.06
"""Standard deviations: about each axis, of each axis, and as a share of the sample's side."""
GAIN, OFFSET, NOISE = 0.04, 0.015, 0.015
"""Standard deviations; offset and noise as shares of the window."""
FIRST_BATCHES = 4
"""So many different batches are in the pool before the first step."""


class SamplePool:
    """The newest samples of an endless stream.

    Args:
        groups: of samples: images (n, 1, D, H, W) in [0, 1] and labels (n, D, H, W), uint8.
        shape_vox: (D, H, W).
        capacity: how many are kept; a newer one replaces the oldest.
        device: where they are kept.
        mirror: left and right are exchanged in every second sample.
        seed: of the batches. Which samples a batch finds depends on how fast they come.
    """

    def __init__(
        self,
        groups: Iterable[Sample],
        shape_vox: Shape,
        *,
        capacity: int,
        device: torch.device,
        mirror: bool,
        seed: int,
    ) -> None:
        self.images = torch.zeros((capacity, 1, *shape_vox), dtype=torch.float16, device=device)
        self.labels = torch.zeros((capacity, *shape_vox), dtype=torch.uint8, device=device)
        self.mirror, self.device = mirror, device
        self.rng = np.random.default_rng(seed)
        self.noise = torch.Generator(device).manual_seed(seed)
        self._came = 0
        self._error: BaseException | None = None
        self._changed, self._is_closed = threading.Condition(), threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(iter(groups),), daemon=True)
        self._thread.start()

    def batch(self, n: int) -> Sample:
        """Draw n samples: images, float32 (n, 1, D, H, W), and labels, uint8 (n, D, H, W).

        Raises:
            RuntimeError: the stream broke off.
        """
        # a GPU reads later than it is told to: the oldest samples may be replaced by then
        usable = len(self.images) - len(self.images) // 4
        with self._changed:
            self._changed.wait_for(lambda: self._came >= min(FIRST_BATCHES * n, usable) or self._error)
            if self._error is not None:
                raise RuntimeError("no more samples") from self._error
            ages = self.rng.integers(min(self._came, usable), size=n)
            picks = (self._came - 1 - ages) % len(self.images)
        chosen = torch.from_numpy(picks).to(self.device)
        images, labels = self.images[chosen].float(), self.labels[chosen]
        return vary(images, labels, self.rng, self.noise, mirror=self.mirror)

    def close(self) -> None:
        """Take no more samples."""
        self._is_closed.set()
        self._thread.join(timeout=10)

    def _fill(self, groups: Iterator[Sample]) -> None:
        stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        try:
            for images, labels in groups:
                if self._is_closed.is_set():
                    return
                with torch.cuda.stream(stream):  # does nothing without a GPU
                    slots = (torch.arange(len(images), device=self.device) + self._came) % len(self.images)
                    self.images[slots] = images.to(self.device, self.images.dtype)
                    self.labels[slots] = labels.to(self.device)
                if stream is not None:
                    stream.synchronize()
                self._admit(len(images))
            self._admit(0, ValueError("the stream of samples has ended"))
        except Exception as error:
            self._admit(0, error)

    def _admit(self, n: int, error: Exception | None = None) -> None:
        with self._changed:
            self._came += n
            self._error = error
            self._changed.notify_all()


class PoolLoader:
    """An epoch of batches from a pool.

    Args:
        pool: where from.
        steps: batches of an epoch.
        batch_size: samples of a batch.
    """

    def __init__(self, pool: SamplePool, steps: int, batch_size: int) -> None:
        self.pool, self.steps, self.batch_size = pool, steps, batch_size

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Sample]:
        return (self.pool.batch(self.batch_size) for _ in range(self.steps))


def vary(
    images: Tensor, labels: Tensor, rng: np.random.Generator, noise: torch.Generator, *, mirror: bool
) -> Sample:
    """Turn, scale and shift each sample of a batch, and change its HU a little.

    What comes in from outside a sample counts as outside the scan: image 0, label 0.

    Args:
        images: float32 (n, 1, D, H, W) in [0, 1], 0 outside the scan.
        labels: uint8 (n, D, H, W).
        rng, noise: all that is random comes from them.
        mirror: left and right are exchanged in every second sample.
    """
    n = len(images)
    places = torch.from_numpy(_placements(n, rng, mirror=mirror)).to(images.device)
    grid = functional.affine_grid(places, list(images.shape), align_corners=False)
    images = functional.grid_sample(images, grid, align_corners=False)
    turned = functional.grid_sample(labels[:, None].float(), grid, mode="nearest", align_corners=False)
    changes = rng.standard_normal((3, n, 1, 1, 1, 1), dtype=np.float32)
    gain, offset, sd = torch.from_numpy(changes).to(images.device)
    grain = torch.randn(images.shape, generator=noise, device=images.device)
    changed = images * (1 + GAIN * gain) + OFFSET * offset + NOISE * sd.abs() * grain
    return torch.where(images > 0, changed, images).clamp_(0, 1), turned[:, 0].to(torch.uint8)


def _placements(n: int, rng: np.random.Generator, *, mirror: bool) -> np.ndarray:
    """n random 3×4 matrices as `affine_grid` takes them (xyz), float32."""
    result = np.empty((n, 3, 4), np.float32)
    for one in result:
        scale = np.exp(rng.normal(0, SCALE) + rng.normal(0, SCALE / 4, 3))
        if mirror and rng.random() < 0.5:
            scale[0] = -scale[0]
        one[:, :3] = rotation(rng.normal(0, math.radians(ROTATION_DEG), 3)) @ np.diag(scale)
        one[:, 3] = rng.normal(0, 2 * SHIFT, 3)
    return result

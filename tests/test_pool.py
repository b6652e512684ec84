"""A GPU's pool of samples, here on the CPU."""

import itertools
import threading
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
import torch

from training.pool import PoolLoader, SamplePool, vary
from training.real.augment import CPU
from training.synthetic import Sample

SHAPE = (8, 8, 8)


def numbered(last: int | None = None) -> Iterator[Sample]:
    """Samples whose image is a multiple of 1/64, whose labels are their number."""
    for i in itertools.count() if last is None else range(last):
        yield torch.full((1, *SHAPE), (i % 64 + 1) / 100), torch.full(SHAPE, i % 192, dtype=torch.uint8)


def pool(samples: Iterator[Sample], capacity: int = 16) -> SamplePool:
    return SamplePool(samples, SHAPE, capacity=capacity, device=CPU, mirror=True, seed=0)


def test_an_epoch_has_its_batches() -> None:
    made = pool(numbered())
    loader = PoolLoader(made, 5, 3)
    batches = list(loader)
    made.close()
    assert len(loader) == len(batches) == 5
    for image, labels in batches:
        assert (image.shape, image.dtype) == ((3, 1, *SHAPE), torch.float32)
        assert (labels.shape, labels.dtype) == ((3, *SHAPE), torch.uint8)


def test_image_and_labels_stay_together() -> None:
    with closing(pool(numbered())) as made:
        for image, labels in (made.batch(2) for _ in range(20)):
            for one, its in zip(image, labels, strict=True):
                number = int(its[4, 4, 4])
                assert float(one[0, 4, 4, 4]) == pytest.approx((number % 64 + 1) / 100, abs=0.15)


def test_newer_samples_replace_older_ones() -> None:
    made_40, go_on = threading.Event(), threading.Event()

    def slowly() -> Iterator[Sample]:
        yield from numbered(40)
        made_40.set()
        go_on.wait(10)
        yield from numbered(1)

    made = pool(slowly())
    made_40.wait(10)
    seen = {int(labels[4, 4, 4]) for _ in range(50) for labels in made.batch(2)[1]}
    go_on.set()
    made.close()
    assert seen == set(range(28, 40))  # three quarters of the capacity: the rest may be written now


def test_a_broken_stream_is_said() -> None:
    def broken() -> Iterator[Sample]:
        yield from numbered(3)
        raise OSError("disk")

    with pytest.raises(RuntimeError) as error:
        pool(broken()).batch(2)
    assert isinstance(error.value.__cause__, OSError)


def test_what_comes_from_outside_is_outside_the_scan() -> None:
    images, labels = torch.full((64, 1, *SHAPE), 0.5), torch.full((64, *SHAPE), 2, dtype=torch.uint8)
    rng, noise = np.random.default_rng(1), torch.Generator().manual_seed(1)
    image, label = vary(images, labels, rng, noise, mirror=False)
    assert set(label.unique().tolist()) == {0, 2}
    assert (image[:, 0][label == 0] < 0.4).all()
    inner = image[label[:, None] == 2]
    assert float(inner.mean()) == pytest.approx(0.5, abs=0.05)
    assert float(inner.std()) > 0.005


def test_only_a_mirrored_pool_exchanges_left_and_right() -> None:
    labels = torch.zeros((64, 16, 16, 16), dtype=torch.uint8)
    labels[..., :8] = 1
    images = labels[:, None].float() * 0.5
    for mirror in (False, True):
        rng, noise = np.random.default_rng(2), torch.Generator().manual_seed(2)
        found = vary(images, labels, rng, noise, mirror=mirror)[1]
        lefts = (found[..., :8].sum((1, 2, 3)) > found[..., 8:].sum((1, 2, 3))).float().mean()
        assert float(lefts) == (pytest.approx(0.5, abs=0.2) if mirror else 1.0)

"""A GPU's pool of samples, here on the CPU."""

import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from training.data import WORKER_NICENESS, groups
from training.pool import PoolLoader, SamplePool, vary
from training.synthetic import Sample

SHAPE = (8, 8, 8)


def numbered(last: int) -> Iterator[Sample]:
    """Groups of up to 3 samples whose image is a multiple of 1/100, whose labels are their number."""
    for i in range(0, last, 3):
        numbers = torch.arange(i, min(i + 3, last))[:, None, None, None].expand(-1, *SHAPE)
        yield (numbers[:, None] % 64 + 1) / 100, numbers.to(torch.uint8)


@contextmanager
def filled_pool(n: int) -> Iterator[SamplePool]:
    """A pool of 16 samples through which n have come, and no more come."""
    all_came, go_on = threading.Event(), threading.Event()

    def stream() -> Iterator[Sample]:
        yield from numbered(n)
        all_came.set()
        go_on.wait(10)

    pool = SamplePool(stream(), SHAPE, capacity=16, device=torch.device("cpu"), mirror=True, seed=0)
    assert all_came.wait(10)
    try:
        yield pool
    finally:
        go_on.set()
        pool.close()


def test_an_epoch_has_its_batches() -> None:
    with filled_pool(16) as pool:
        loader = PoolLoader(pool, 5, 3)
        batches = list(loader)
    assert len(loader) == len(batches) == 5
    for image, labels in batches:
        assert (image.shape, image.dtype) == ((3, 1, *SHAPE), torch.float32)
        assert (labels.shape, labels.dtype) == ((3, *SHAPE), torch.uint8)


def test_image_and_labels_stay_together() -> None:
    with filled_pool(100) as pool:
        for image, labels in (pool.batch(2) for _ in range(20)):
            for one, its in zip(image, labels, strict=True):
                number = int(its[4, 4, 4])
                assert float(one[0, 4, 4, 4]) == pytest.approx((number % 64 + 1) / 100, abs=0.15)


def test_newer_samples_replace_older_ones() -> None:
    with filled_pool(40) as pool:
        seen = {int(labels[4, 4, 4]) for _ in range(50) for labels in pool.batch(2)[1]}
    assert seen == set(range(28, 40))  # three quarters of the capacity: the rest may be written now


def test_a_broken_stream_is_said() -> None:
    def broken() -> Iterator[Sample]:
        yield from numbered(3)
        raise OSError("disk")

    with pytest.raises(RuntimeError) as error:
        SamplePool(broken(), SHAPE, capacity=16, device=torch.device("cpu"), mirror=True, seed=0).batch(2)
    assert isinstance(error.value.__cause__, OSError)


class Nice(Dataset[Sample]):
    """Samples whose image is their number, whose labels are the niceness of the process that drew them."""

    def __getitem__(self, index: int) -> Sample:
        return torch.full((1, *SHAPE), float(index)), torch.full(SHAPE, os.nice(0), dtype=torch.uint8)


def test_workers_draw_groups_in_half_precision_and_yield_to_the_training_process() -> None:
    stream = iter(groups(Nice(), itertools.count(5, 2), size=3, workers=2))
    (first, niceness), (second, _) = next(stream), next(stream)
    assert (first.shape, first.dtype) == ((3, 1, *SHAPE), torch.float16)
    assert first[:, 0, 0, 0, 0].tolist() == [5, 7, 9]
    assert second[:, 0, 0, 0, 0].tolist() == [11, 13, 15]
    assert niceness.shape == (3, *SHAPE)
    assert niceness.unique().tolist() == [min(os.nice(0) + WORKER_NICENESS, 19)]


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

"""Confidence intervals of means, by resampling cases."""

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
SEED = 19
"""The same intervals every time."""


def mean_interval(values: NDArray[np.float64], resamples: int) -> tuple[float, float]:
    """The percentile bootstrap's interval of a mean (Efron and Tibshirani 1993, chapter 13).

    Args:
        values: (cases,).
        resamples: how often as many cases are drawn, with replacement.

    Returns:
        Lower and upper end of the 95 % interval; NaN for fewer than two values.
    """
    if values.size < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(SEED)
    means = np.array([values[rng.integers(values.size, size=values.size)].mean() for _ in range(resamples)])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)

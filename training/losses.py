"""The paper's losses (section 2.2, equation 1), and the term that helps the tumor stage to start."""

import torch
from torch import Tensor
from torch.nn import functional

EPSILON = 1.0
"""Voxels added to the denominator: an empty truth with an empty prediction has no gradient to divide by."""


def dice_loss(probability: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """−DSC = −2 Σpt / (Σp + Σt + ε), for each case, then the mean over the batch (equation 1).

    Args:
        probability: (batch, 1, D, H, W) in [0, 1].
        target: the same shape, 0 or 1.
        mask: the same shape, 0 or 1; only voxels with 1 count (tumor stage: the true kidney ∪ tumor).

    Returns:
        A scalar in [−1, 0].
    """
    if mask is not None:
        probability, target = probability * mask, target * mask
    axes = tuple(range(1, probability.ndim))
    overlap = (probability * target).sum(axes)
    total = probability.sum(axes) + target.sum(axes)
    return -(2 * overlap / (total + EPSILON)).mean()


def cross_entropy_loss(
    logits: Tensor, target: Tensor, mask: Tensor | None = None, *, positive_weight: float = 1.0
) -> Tensor:
    """Binary cross-entropy, averaged over the voxels of the mask (all voxels without one)."""
    voxelwise = functional.binary_cross_entropy_with_logits(
        logits, target, pos_weight=torch.tensor(positive_weight, device=logits.device), reduction="none"
    )
    if mask is None:
        return voxelwise.mean()
    return (voxelwise * mask).sum() / mask.sum().clamp(min=1)

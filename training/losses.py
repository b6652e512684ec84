"""The paper's loss and what may be added to it. All of them: per case, then the mean over the batch."""

import torch
from torch import Tensor
from torch.nn import functional

EPSILON = 1e-6
"""Keeps an empty case finite; negligible beside a single voxel."""


def _per_case(values: Tensor) -> Tensor:
    """(B, …) → (B,), summed."""
    return values.flatten(1).sum(1)


def dice_loss(probability: Tensor, target: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """−DSC = −2Σpt / (Σp + Σt + ε) (paper, equation 1), from 0 (nothing right) to −1.

    A case without a target voxel gives 0 and no gradient, whatever is predicted.

    Args:
        probability: (B, 1, D, H, W) in [0, 1].
        target: same shape, 0 or 1.
        mask: same shape, 0 or 1; only voxels where it is 1 count (the tumor loss: inside the kidneys).

    Returns:
        Scalar.
    """
    if mask is not None:
        probability, target = probability * mask, target * mask
    overlap = 2 * _per_case(probability * target)
    return -(overlap / (_per_case(probability) + _per_case(target) + EPSILON)).mean()


def cross_entropy_loss(
    logits: Tensor, target: Tensor, *, mask: Tensor | None = None, positive_weight: float | Tensor = 1.0
) -> Tensor:
    """Binary cross-entropy, averaged over each case's voxels (in the mask).

    Args:
        logits: (B, 1, D, H, W), unbounded.
        target: same shape, 0 or 1.
        mask: same shape, 0 or 1. A case with an empty mask gives 0.
        positive_weight: of the voxels where the target is 1; a number, or one for each voxel.

    Returns:
        Scalar.
    """
    weight = torch.as_tensor(positive_weight, dtype=logits.dtype, device=logits.device)
    losses = functional.binary_cross_entropy_with_logits(logits, target, pos_weight=weight, reduction="none")
    if mask is None:
        return losses.mean()
    return (_per_case(losses * mask) / _per_case(mask).clamp(min=1)).mean()


def false_volume(probability: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Σp(1 − t) in voxels, averaged over the cases. Dice has no gradient where the target is empty.

    Args:
        probability: (B, 1, D, H, W) in [0, 1].
        target, mask: same shape, 0 or 1; only voxels where the mask is 1 count.

    Returns:
        Scalar.
    """
    return _per_case(probability * (1 - target) * mask).mean()


def dice_score(predicted: Tensor, target: Tensor) -> Tensor:
    """DSC of each case, of thresholded masks.

    Args:
        predicted, target: (B, 1, D, H, W) bool.

    Returns:
        (B,) in [0, 1]; NaN where the target is empty.
    """
    overlap = 2 * _per_case(predicted & target)
    truth = _per_case(target)
    return torch.where(truth > 0, overlap / (_per_case(predicted) + truth), torch.nan)

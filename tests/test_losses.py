"""Losses against values computed by hand."""

import math

import pytest
import torch
from torch import Tensor

from training.losses import cross_entropy_loss, dice_loss, dice_score, false_volume


def case(*values: float) -> Tensor:
    """One case, (1, 1, 1, 1, W)."""
    return torch.tensor(values, dtype=torch.float64)[None, None, None, None]


def test_dice_by_hand() -> None:
    # 2 (0.5 + 1) / ((0.5 + 1 + 0.25 + 0.25) + 2) = 3 / 4
    loss = dice_loss(case(0.5, 1, 0.25, 0.25), case(1, 1, 0, 0))
    assert loss.item() == pytest.approx(-0.75, abs=1e-6)


def test_dice_is_minus_one_when_all_is_right_and_zero_when_nothing_is() -> None:
    truth = case(1, 0, 1, 0)
    assert dice_loss(truth, truth).item() == pytest.approx(-1, abs=1e-6)
    assert dice_loss(1 - truth, truth).item() == 0


def test_dice_is_averaged_over_cases_not_voxels() -> None:
    probability = torch.cat((case(1, 1, 1, 1), case(1, 0, 0, 0)))
    truth = torch.cat((case(1, 1, 0, 0), case(1, 0, 0, 0)))
    assert dice_loss(probability, truth).item() == pytest.approx(-(4 / 6 + 1) / 2, abs=1e-6)


def test_masked_dice_by_hand() -> None:
    # the last two voxels do not count: 2 · 0.5 / (0.5 + 0.5 + 1) = 1 / 2
    loss = dice_loss(case(0.5, 0.5, 1, 1), case(1, 0, 1, 0), mask=case(1, 1, 0, 0))
    assert loss.item() == pytest.approx(-0.5, abs=1e-6)


def test_no_gradient_from_outside_the_mask() -> None:
    probability = case(0.5, 0.5, 0.9).requires_grad_()
    dice_loss(probability, case(1, 0, 1), mask=case(1, 1, 0)).backward()
    assert probability.grad is not None
    assert probability.grad.flatten()[2] == 0
    assert probability.grad.flatten()[0] < 0 < probability.grad.flatten()[1]


def test_a_case_without_a_structure_gives_zero_and_no_gradient() -> None:
    for probability in (case(0, 0), case(0.9, 0.2)):
        probability.requires_grad_()
        loss = dice_loss(probability, case(0, 0))
        loss.backward()
        assert loss.item() == 0
        assert torch.equal(probability.grad, torch.zeros_like(probability))


def test_cross_entropy_by_hand() -> None:
    zero = case(0, 0)  # probability one half
    assert cross_entropy_loss(zero, case(1, 0)).item() == pytest.approx(math.log(2))
    weighted = cross_entropy_loss(zero, case(1, 0), positive_weight=3.0)
    assert weighted.item() == pytest.approx((3 + 1) / 2 * math.log(2))
    each = cross_entropy_loss(zero, case(1, 1), positive_weight=case(4.0, 1.0))
    assert each.item() == pytest.approx((4 + 1) / 2 * math.log(2))


def test_masked_cross_entropy_by_hand() -> None:
    logits, truth = torch.cat((case(0, 50, 0), case(50, 0, 0))), torch.cat((case(1, 0, 0), case(0, 0, 0)))
    mask = torch.cat((case(1, 0, 1), case(0, 0, 0)))
    loss = cross_entropy_loss(logits, truth, mask=mask, positive_weight=3.0)
    assert loss.item() == pytest.approx(((3 + 1) / 2 * math.log(2) + 0) / 2)  # the second case is all masked


@pytest.mark.parametrize("masked", [False, True])
def test_gradients(masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 2, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    truth = (torch.rand(logits.shape, generator=generator) > 0.7).double()
    mask = (torch.rand(logits.shape, generator=generator) > 0.4).double() if masked else None

    def both(values: Tensor) -> Tensor:
        dice = dice_loss(torch.sigmoid(values), truth, mask=mask)
        return dice + cross_entropy_loss(values, truth, mask=mask, positive_weight=3.0)

    assert torch.autograd.gradcheck(both, (logits,))


def test_score_by_hand() -> None:
    predicted = torch.cat((case(1, 1, 0), case(1, 0, 0), case(0, 0, 0))) > 0
    truth = torch.cat((case(1, 0, 0), case(0, 0, 0), case(1, 0, 0))) > 0
    scores = dice_score(predicted, truth)
    assert scores[0].item() == pytest.approx(2 / 3)
    assert scores[1].isnan()
    assert scores[2] == 0


def test_false_volume_by_hand() -> None:
    probability = torch.tensor([[0.5, 0.25, 1.0, 0.75], [0.0, 0.5, 0.0, 0.0]]).reshape(2, 1, 1, 1, 4)
    target = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]).reshape(2, 1, 1, 1, 4)
    mask = torch.tensor([[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]]).reshape(2, 1, 1, 1, 4)
    assert float(false_volume(probability, target, mask)) == pytest.approx((1.25 + 0.5) / 2)

"""The network is the paper's: fourteen 3×3×3 convolutions, batch norm in the decoding phase alone."""

import pytest
import torch
from torch import nn

from inference.networks.vnet import DOWNSAMPLING, VNet
from inference.networks.vnet_tensors import tensor_shapes


def convolutions(module: nn.Module) -> list[nn.Conv3d]:
    return [m for m in module.modules() if isinstance(m, nn.Conv3d)]


def test_fourteen_convolutions_then_one_by_one_by_one() -> None:
    *fourteen, head = convolutions(VNet())
    assert [m.kernel_size for m in fourteen] == [(3, 3, 3)] * 14
    assert head.kernel_size == (1, 1, 1)
    assert [m.out_channels for m in fourteen] == [8, 16, 16, 32, 32, 64, 128, 128, 64, 64, 32, 32, 16, 16]
    assert (fourteen[0].in_channels, head.in_channels, head.out_channels) == (1, 16, 1)


def test_about_1_53_million_parameters() -> None:
    # 27 · in · out for each convolution, by hand; 8 · c² + c for the upsamplings, 2 · c for batch norms
    encoder = 27 * (1 * 8 + 8 * 16 + 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64) + (8 + 16 + 16 + 32 + 32 + 64)
    bottleneck = 27 * (64 * 128 + 128 * 128) + 2 * (128 + 128)
    upsampling = 8 * (128**2 + 64**2 + 32**2) + (128 + 64 + 32)
    decoder = 27 * (192 * 64 + 64 * 64 + 96 * 32 + 32 * 32 + 48 * 16 + 16 * 16) + 4 * (64 + 32 + 16)
    by_hand = encoder + bottleneck + upsampling + decoder + 16 + 1
    assert sum(p.numel() for p in VNet().parameters()) == by_hand
    assert by_hand / 1e6 == pytest.approx(1.53, abs=0.01)


def test_encoder_halves_three_times_by_maxima_and_decoder_doubles_back() -> None:
    model = VNet()
    assert isinstance(model.pool, nn.MaxPool3d)
    assert model.pool.kernel_size == 2
    assert [(m.kernel_size, m.stride) for m in model.upsample.children()] == [((2, 2, 2), (2, 2, 2))] * 3
    assert len(model.encoder) == len(model.decoder) == 3


def test_batch_norm_in_bottleneck_and_decoder_only() -> None:
    model = VNet()
    assert not any(isinstance(m, nn.BatchNorm3d) for m in model.encoder.modules())
    for part, n in ((model.bottleneck, 2), (model.decoder, 6)):
        assert sum(isinstance(m, nn.BatchNorm3d) for m in part.modules()) == n
        assert len(convolutions(part)) == n
        assert all(m.bias is None for m in convolutions(part))  # batch norm shifts
    assert all(m.bias is not None for m in convolutions(model.encoder))
    assert sum(isinstance(m, nn.ReLU) for m in model.modules()) == 14


@pytest.mark.parametrize("size", [(16, 16, 16), (8, 24, 16)])
def test_output_has_the_inputs_shape_and_lies_between_0_and_1(size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    model = VNet(base_channels=2).eval()
    image = torch.rand(2, 1, *size)
    with torch.no_grad():
        probability, logits = model(image), model.logits(image)
    assert probability.shape == image.shape
    assert 0 < probability.min() < probability.max() < 1
    torch.testing.assert_close(probability, 1 / (1 + torch.exp(-logits)))


def test_every_part_takes_part() -> None:
    """A gradient reaches every parameter: no branch hangs loose."""
    torch.manual_seed(0)
    model = VNet(base_channels=2)
    model(torch.rand(2, 1, 16, 16, 16)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_side_that_is_no_multiple_of_8_does_not_pass() -> None:
    assert DOWNSAMPLING == 8
    with pytest.raises(RuntimeError), torch.no_grad():
        VNet(base_channels=1)(torch.zeros(1, 1, 16, 20, 16))


@pytest.mark.parametrize("base_channels", [1, 3, 8])
def test_tensors_are_known_without_pytorch(base_channels: int) -> None:
    state = VNet(base_channels=base_channels).state_dict()
    assert tensor_shapes(base_channels) == {name: tuple(tensor.shape) for name, tensor in state.items()}

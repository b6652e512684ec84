"""The 3D V-Net of both stages, whole, in one file (Zavala-Romero et al., section 2.2)."""

import torch
from torch import Tensor, nn

from .vnet_tensors import DOWNSAMPLING as DOWNSAMPLING
from .vnet_tensors import channel_plan


def _conv(in_channels: int, out_channels: int, *, batch_norm: bool) -> nn.Sequential:
    """One 3×3×3 convolution with ReLU, and with batch norm before the ReLU where asked for."""
    # batch norm has its own shift: a convolution bias before it would do nothing
    convolution = nn.Conv3d(in_channels, out_channels, kernel_size=3, padding=1, bias=not batch_norm)
    norm = [nn.BatchNorm3d(out_channels)] if batch_norm else []
    return nn.Sequential(convolution, *norm, nn.ReLU(inplace=True))


class VNet(nn.Module):
    """Fourteen 3×3×3 convolutions (encoder, bottleneck, decoder), then 1×1×1 and a sigmoid.

    The paper fixes the number and size of the convolutions, ReLU, batch norm in the decoding phase only
    and the final sigmoid. The channel numbers, the max-pooling and the transposed convolutions are ours.

    Args:
        base_channels: channels of the first convolution; all others are multiples of it (`channel_plan`).
            8 gives 1.5 M parameters.
    """

    def __init__(self, *, base_channels: int = 8) -> None:
        super().__init__()
        plan = channel_plan(base_channels)
        self.encoder = nn.ModuleList(
            nn.Sequential(_conv(inputs, middle, batch_norm=False), _conv(middle, outputs, batch_norm=False))
            for inputs, middle, outputs in plan.encoder
        )
        self.pool = nn.MaxPool3d(2)
        inputs, middle, outputs = plan.bottleneck
        self.bottleneck = nn.Sequential(
            _conv(inputs, middle, batch_norm=True), _conv(middle, outputs, batch_norm=True)
        )
        self.upsample = nn.ModuleList(
            nn.ConvTranspose3d(below, below, kernel_size=2, stride=2) for below, _ in plan.decoder
        )
        self.decoder = nn.ModuleList(
            nn.Sequential(_conv(below + here, here, batch_norm=True), _conv(here, here, batch_norm=True))
            for below, here in plan.decoder
        )
        self.head = nn.Conv3d(plan.decoder[-1][1], 1, kernel_size=1)

    def logits(self, image: Tensor) -> Tensor:
        """The network without its sigmoid, which losses want for their numerical stability.

        Args:
            image: (batch, 1, D, H, W), normalised to [0, 1]; D, H, W multiples of `DOWNSAMPLING`.

        Returns:
            (batch, 1, D, H, W), unbounded.
        """
        x, skips = image, []
        for encode in self.encoder:
            x = encode(x)  # (B, 2c | 4c | 8c, D, H, W at 1, 1/2, 1/4 of the input)
            skips.append(x)
            x = self.pool(x)
        x = self.bottleneck(x)  # (B, 16c, D/8, H/8, W/8)
        for upsample, decode in zip(self.upsample, self.decoder, strict=True):
            x = decode(torch.cat([upsample(x), skips.pop()], dim=1))  # (B, 8c | 4c | 2c, …)
        return self.head(x)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 1, D, H, W) in [0, 1] → probabilities of the same shape, in [0, 1]."""
        return torch.sigmoid(self.logits(image))

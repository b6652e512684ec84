"""The V-Net's tensors by name and shape, for whoever reads or runs weights without PyTorch."""

from dataclasses import dataclass

DOWNSAMPLING = 8
"""Three 2× poolings: every side of the input must be a multiple of this (voxels)."""


@dataclass(frozen=True)
class ChannelPlan:
    """Channels of every block of the V-Net: the one place that says so.

    Attributes:
        encoder: (inputs, after the first convolution, outputs) of each block, from the finest grid on.
        bottleneck: the same of the block on the coarsest grid.
        decoder: (channels from the coarser grid, channels of the skip connection and of the outputs) of each
            block, from the coarsest grid on.
    """

    encoder: tuple[tuple[int, int, int], ...]
    bottleneck: tuple[int, int, int]
    decoder: tuple[tuple[int, int], ...]


def channel_plan(base_channels: int) -> ChannelPlan:
    """8 gives the design's 8,16 · 16,32 · 32,64 · 128,128 · 64,64 · 32,32 · 16,16."""
    c = base_channels
    return ChannelPlan(
        encoder=((1, c, 2 * c), (2 * c, 2 * c, 4 * c), (4 * c, 4 * c, 8 * c)),
        bottleneck=(8 * c, 16 * c, 16 * c),
        decoder=((16 * c, 8 * c), (8 * c, 4 * c), (4 * c, 2 * c)),
    )


def tensor_shapes(base_channels: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in `VNet(base_channels=…).state_dict()`."""
    plan = channel_plan(base_channels)
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, inputs: int, outputs: int, *, batch_norm: bool) -> None:
        shapes[f"{name}.0.weight"] = (outputs, inputs, 3, 3, 3)
        if not batch_norm:
            shapes[f"{name}.0.bias"] = (outputs,)
            return
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.1.{part}"] = (outputs,)
        shapes[f"{name}.1.num_batches_tracked"] = ()

    for i, (inputs, middle, outputs) in enumerate(plan.encoder):
        convolution(f"encoder.{i}.0", inputs, middle, batch_norm=False)
        convolution(f"encoder.{i}.1", middle, outputs, batch_norm=False)
    inputs, middle, outputs = plan.bottleneck
    convolution("bottleneck.0", inputs, middle, batch_norm=True)
    convolution("bottleneck.1", middle, outputs, batch_norm=True)
    for i, (below, here) in enumerate(plan.decoder):
        shapes[f"upsample.{i}.weight"] = (below, below, 2, 2, 2)
        shapes[f"upsample.{i}.bias"] = (below,)
        convolution(f"decoder.{i}.0", below + here, here, batch_norm=True)
        convolution(f"decoder.{i}.1", here, here, batch_norm=True)
    return shapes | {"head.weight": (1, plan.decoder[-1][1], 1, 1, 1), "head.bias": (1,)}

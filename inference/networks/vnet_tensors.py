"""The V-Net's tensors by name and shape, for whoever reads or runs weights without PyTorch."""

DOWNSAMPLING = 8
"""Three 2× poolings: every side of the input must be a multiple of this (voxels)."""


def tensor_shapes(base_channels: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in `VNet(base_channels=…).state_dict()`."""
    c = base_channels
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, inputs: int, outputs: int, *, batch_norm: bool) -> None:
        shapes[f"{name}.0.weight"] = (outputs, inputs, 3, 3, 3)
        if not batch_norm:
            shapes[f"{name}.0.bias"] = (outputs,)
            return
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.1.{part}"] = (outputs,)
        shapes[f"{name}.1.num_batches_tracked"] = ()

    for i, (inputs, middle, outputs) in enumerate(
        ((1, c, 2 * c), (2 * c, 2 * c, 4 * c), (4 * c, 4 * c, 8 * c))
    ):
        convolution(f"encoder.{i}.0", inputs, middle, batch_norm=False)
        convolution(f"encoder.{i}.1", middle, outputs, batch_norm=False)
    convolution("bottleneck.0", 8 * c, 16 * c, batch_norm=True)
    convolution("bottleneck.1", 16 * c, 16 * c, batch_norm=True)
    for i, (below, here) in enumerate(((16 * c, 8 * c), (8 * c, 4 * c), (4 * c, 2 * c))):
        shapes[f"upsample.{i}.weight"] = (below, below, 2, 2, 2)
        shapes[f"upsample.{i}.bias"] = (below,)
        convolution(f"decoder.{i}.0", below + here, here, batch_norm=True)
        convolution(f"decoder.{i}.1", here, here, batch_norm=True)
    return shapes | {"head.weight": (1, 2 * c, 1, 1, 1), "head.bias": (1,)}

"""The V-Net of `vnet.py` as an OpenVINO model, built from the tensors alone, without PyTorch."""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..geometry import Shape

Tensors = Mapping[str, NDArray]
TELEMETRY = "openvino_telemetry"
BATCH_NORM_EPSILON = 1e-5
"""PyTorch's default, with which the networks are trained."""


def import_openvino() -> Any:
    """OpenVINO without its telemetry, which would leave a client's number in HOME and look up a host.

    OpenVINO does without where importing it fails, so this holds however it was installed.
    """
    sys.modules.setdefault(TELEMETRY, None)  # type: ignore[arg-type]  # so that importing it fails
    import openvino

    return openvino


def build_model(tensors: Tensors, shape_vox: Shape | None) -> Any:
    """An `openvino.Model` from (1, 1, z, y, x) in [0, 1] to logits of the same shape.

    Args:
        tensors: as `vnet_tensors.tensor_shapes` lists them. Batch norm is folded into its convolution.
        shape_vox: (z, y, x) that it takes; None is any whose sides are multiples of `DOWNSAMPLING`.
    """
    ov = import_openvino()
    ops = ov.opset13

    def convolution(x: Any, kernel: NDArray, bias: NDArray) -> Any:
        """A convolution that keeps the grid: zero padding of half the kernel."""
        one, pad = [1, 1, 1], [kernel.shape[-1] // 2] * 3
        return plus(ops.convolution(x, np.float32(kernel), one, pad, pad, one), bias)

    def plus(x: Any, bias: NDArray) -> Any:
        return ops.add(x, np.float32(bias).reshape(1, -1, 1, 1, 1))

    def block(x: Any, name: str) -> Any:
        """Two 3×3×3 convolutions with ReLU."""
        for i in range(2):
            x = ops.relu(convolution(x, *_folded(tensors, f"{name}.{i}")))
        return x

    image = x = ops.parameter([1, 1, *(shape_vox or [-1] * 3)], np.float32, name="image")
    skips = []
    two, none = [2, 2, 2], [0, 0, 0]
    for i in range(3):
        skips.append(block(x, f"encoder.{i}"))
        x = ops.max_pool(skips[-1], two, [1, 1, 1], none, none, two).output(0)
    x = block(x, "bottleneck")
    for i in range(3):
        x = ops.convolution_backprop_data(x, np.float32(tensors[f"upsample.{i}.weight"]), two)
        x = plus(x, tensors[f"upsample.{i}.bias"])
        x = block(ops.concat([x, skips.pop()], axis=1), f"decoder.{i}")
    return ov.Model([convolution(x, tensors["head.weight"], tensors["head.bias"])], [image], "vnet")


def _folded(tensors: Tensors, name: str) -> tuple[NDArray, NDArray]:
    """Kernel and bias of a convolution, together with the batch norm after it where there is one."""
    kernel = tensors[f"{name}.0.weight"]
    if f"{name}.0.bias" in tensors:
        return kernel, tensors[f"{name}.0.bias"]
    scale, shift, mean, variance = (
        np.float64(tensors[f"{name}.1.{part}"]) for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = scale / np.sqrt(variance + BATCH_NORM_EPSILON)
    return kernel * scale.reshape(-1, 1, 1, 1, 1), shift - mean * scale

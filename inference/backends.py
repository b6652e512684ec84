"""Weights and a device → a function from an ROI array to a probability array."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from inference.weights import Weights

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""(z, y, x) in [0, 1] → probabilities of the same shape."""


def choose_device(name: str) -> torch.device:
    """ "auto" | "cpu" | "cuda" | "cuda:N" → a device that is really there.

    Raises:
        ValueError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name}: no such device. Use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device {name}: only cpu and cuda are supported")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"--device {name}: this process sees {torch.cuda.device_count()} CUDA devices. "
            "Use --device auto, or run the container with --gpus all"
        )
    return device


def torch_network(weights: Weights, device: torch.device) -> Network:
    """The reference backend: bf16 on CPUs and GPUs that compute in it, else float32."""
    model = weights.model.to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    dtype = _fast_dtype(device)

    def run(roi: NDArray[np.float32]) -> NDArray[np.float32]:
        image = torch.from_numpy(roi)[None, None].to(device)  # (1, 1, z, y, x)
        image = image.contiguous(memory_format=torch.channels_last_3d)
        with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = model.logits(image)
        return torch.sigmoid(logits.float())[0, 0].cpu().numpy()

    return run


def _fast_dtype(device: torch.device) -> torch.dtype:
    """bf16 only where the processor has it: elsewhere it is emulated, and slower than float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32

"""One training step in a process of its own, so that its peak memory is its own."""

import json
import time

import torch

from inference.geometry import RoiSpec
from inference.method.roi import normalise
from inference.networks.vnet import VNet
from inference.runner.report import peak_rss_mib
from training.losses import dice_loss
from training.module import checkpoint_activations
from training.synthesis.draw import synthesise_ct
from training.synthesis.labels import draw_labels
from training.train import keep_freed_memory

SPACING_MM = 2.0


def main(side: int, steps: int, is_bf16: int, is_checkpointed: int, is_memory_kept: int) -> None:
    """Print the seconds of a step and of making its data, and the peak memory, as a line of JSON."""
    if is_memory_kept:
        keep_freed_memory()
    start = time.perf_counter()
    labels = draw_labels(shape_vox=(side,) * 3, spacing_mm=SPACING_MM * 168 / side, seed=0)
    inside = torch.ones_like(labels, dtype=torch.bool)
    hu = synthesise_ct(labels, inside, spacing_mm=SPACING_MM * 168 / side, seed=0).numpy()
    image = torch.from_numpy(normalise(hu, RoiSpec()))[None, None]
    data_s = time.perf_counter() - start
    model = VNet().train().to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    if is_checkpointed:
        checkpoint_activations(model)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    image = image.contiguous(memory_format=torch.channels_last_3d)
    times = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(is_bf16)):
            logits = model.logits(image)
        dice_loss(torch.sigmoid(logits.float()), labels[None, None] > 0).backward()
        optimiser.step()
        times.append(time.perf_counter() - start)
    step_s = min(times[1:])
    told = {"step s": step_s, "steps/s": 1 / step_s, "data s": data_s, "data / step": data_s / step_s}
    print(json.dumps(told | {"peak MiB": peak_rss_mib()}))

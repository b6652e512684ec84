"""What only a GPU can show. Stands alone, without conftest.py: benchmarks/gpu.sh runs it on bare machines."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from evaluation.metrics import dice
from inference.networks.backends import DeviceMemoryError, choose_backend
from inference.networks.vnet import VNet
from inference.networks.weights import load_weights

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "test_data" / "input" / "thick_slices.nii.gz"
DEVICE = os.environ.get("TEST_DEVICE", "cuda")
"""cpu: a rehearsal of what does not need the GPU itself."""
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="NO CUDA DEVICE: NOT TESTED")
HALVES = ["bfloat16", "float16"][: 1 if DEVICE == "cpu" else 2]
"""CPUs emulate float16, for minutes."""
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE != "cpu" and not torch.cuda.is_available(), reason="NO CUDA DEVICE: THE GPU PATH IS NOT TESTED"
    ),
]


def _labels(folder: Path, *options: str) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """The command's label map of the sample, and its report."""
    command = [sys.executable, "-m", "inference", "--input", SAMPLE, "--output", folder]
    command += ["--report", folder / "report.json", *options]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    image: Any = nib.load(folder / SAMPLE.name)
    return np.asarray(image.dataobj), json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.uint8]:
    options = ("--device", "cpu", "--backend", "torch", "--precision", "float32")
    return _labels(tmp_path_factory.mktemp("cpu"), *options)[0]


@needs_cuda
def test_auto_takes_the_gpu_and_pytorch() -> None:
    backend = choose_backend()
    assert (backend.name, backend.device) == ("torch", "cuda")


@needs_cuda
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="CUDA devices"):
        choose_backend(device=f"cuda:{torch.cuda.device_count()}")
    choose_backend(device=f"cuda:{torch.cuda.device_count() - 1}")


@pytest.mark.parametrize(("precision", "least"), [("float32", 0.999), ("bfloat16", 0.98)])
def test_label_maps_are_those_of_the_cpu(
    precision: str, least: float, on_cpu: NDArray[np.uint8], tmp_path: Path
) -> None:
    found, report = _labels(tmp_path, "--device", DEVICE, "--precision", precision)
    assert report["run"]["device"] == DEVICE
    assert report["run"]["bf16"] == (precision == "bfloat16")
    assert dice(found > 0, on_cpu > 0) >= least
    assert (on_cpu == 2).any()
    assert dice(found == 2, on_cpu == 2) >= (least if precision == "float32" else 0.8)


@needs_cuda
def test_too_little_memory_ends_on_the_cpu_with_the_same_label_map(
    on_cpu: NDArray[np.uint8], tmp_path: Path
) -> None:
    """The networks fit, a pass does not: the case goes to the CPU, says so, and is written."""
    code = """
import sys, torch
torch.cuda.set_per_process_memory_fraction(float(sys.argv.pop(1)))
from inference.cli import main
main()
"""
    total = torch.cuda.get_device_properties(0).total_memory
    folder = tmp_path / "small"
    command = [sys.executable, "-c", code, str(100 * 2**20 / total), "--device", "cuda", "--input", SAMPLE]
    command += ["--output", folder, "--report", folder / "report.json", "--backend", "torch"]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (case,) = json.loads((folder / "report.json").read_text())["cases"]
    assert any("ran out of memory" in warning for warning in case["warnings"]), case
    image: Any = nib.load(folder / SAMPLE.name)
    found = np.asarray(image.dataobj)
    assert dice(found > 0, on_cpu > 0) >= 0.999


@needs_cuda
def test_a_gpu_without_memory_is_its_own_error_and_recovers() -> None:
    weights = load_weights(ROOT / "weights" / "kidney.safetensors", "kidney")
    network = choose_backend("torch", device="cuda", precision="float32").network(weights)
    small = np.random.default_rng(0).random((16, 16, 16), dtype=np.float32)
    before = network(small)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**25) / total)
    try:
        with pytest.raises(DeviceMemoryError, match="too little memory"):
            network(np.zeros((168, 168, 168), dtype=np.float32))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert np.allclose(network(small), before, atol=1e-5)


@pytest.mark.parametrize("precision", HALVES)
def test_probabilities_in_half_precision_are_close(precision: str) -> None:
    weights = load_weights(ROOT / "weights" / "kidney.safetensors", "kidney")
    model = weights.model.to(DEVICE)
    image = torch.rand(1, 1, 48, 48, 48, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    with torch.inference_mode():
        exact = model(image)
        with torch.autocast(DEVICE, getattr(torch, precision)):
            rough = model(image)
    assert torch.isfinite(rough).all()
    assert (exact - rough.float()).abs().mean() < 0.01


@pytest.mark.parametrize("precision", ["float32", *HALVES])
def test_a_training_step_lowers_the_loss_and_stays_finite(precision: str) -> None:
    torch.manual_seed(0)
    model = VNet(base_channels=4).train().to(DEVICE)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    image = torch.rand(1, 1, 32, 32, 32, device=DEVICE)
    target = (image > 0.7).float()
    scaler = torch.amp.GradScaler(DEVICE, enabled=precision == "float16" and DEVICE != "cpu")
    losses = []
    for _ in range(12):
        optimiser.zero_grad()
        with torch.autocast(DEVICE, getattr(torch, precision), enabled=precision != "float32"):
            logits = model.logits(image)
        p = torch.sigmoid(logits.float())
        loss = -2 * (p * target).sum() / (p.sum() + target.sum() + 1e-6)
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())

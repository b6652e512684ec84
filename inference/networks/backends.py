"""Weights and a device → a function from an ROI array to a probability array.

PyTorch is the reference, and runs on GPUs. OpenVINO, where it is installed, does the same on CPUs in less
than half the time, and starts without PyTorch.
"""

import ctypes
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from .vnet_openvino import build_model, import_openvino
from .weights import Weights

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""(z, y, x) in [0, 1] → probabilities of the same shape. The kidney network takes the ROI, the tumor network
any part of it whose sides are multiples of `DOWNSAMPLING`."""

BACKENDS = ("auto", "torch", "openvino")
PRECISIONS = ("auto", "float32", "bfloat16")
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
"""As Linux calls them in /proc/cpuinfo."""
CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")
CPU_OUT_OF_MEMORY = ("DefaultCPUAllocator", "Failed to allocate", "bad_alloc")
"""What PyTorch (the first) and OpenVINO say in a RuntimeError for too little memory, and for nothing else."""


class DeviceMemoryError(MemoryError):
    """A GPU has too little memory for the network."""


@dataclass
class NetworkMemory:
    """The working memory of networks, held by one of them at a time: a network of 168³ needs nearly 2 GB.

    A network that runs again keeps its memory, because the kernel clears newly allocated memory page by page:
    a sixth of a pass.
    """

    holder: Any = None

    def acquire(self, compiled: Any) -> None:
        """Make `compiled` the holder; the holder before it releases its memory."""
        if self.holder is not compiled:
            self.release()
        self.holder = compiled

    def release(self) -> None:
        """No network holds memory. The next one to run would have made another release it anyway."""
        if self.holder is not None:
            self.holder.release_memory()
        self.holder = None


@dataclass(frozen=True)
class Backend:
    """What runs the networks, and how.

    Attributes:
        name: "torch" or "openvino".
        device: "cpu", "cuda" or "cuda:N".
        threads: CPU threads of a network.
        precision: "float32", "bfloat16", or "auto": bfloat16 where the processor has it (elsewhere it is
            emulated, and slower) and the weights are known to score the same in it.
        memory: working memory of its networks.
    """

    name: str
    device: str
    threads: int
    precision: str = "auto"
    memory: NetworkMemory = field(default_factory=NetworkMemory, compare=False)

    def network(self, weights: Weights) -> Network:
        """These weights as a network that is ready to run."""
        make = openvino_network if self.name == "openvino" else torch_network
        return make(weights, self)

    def is_bf16(self, weights: Weights) -> bool:
        """Whether that network computes in bfloat16."""
        if self.precision == "auto":
            return weights.metadata.bf16 and has_bf16(self.device)
        return self.precision == "bfloat16"


def choose_backend(
    name: str = "auto", *, device: str = "auto", threads: int | None = None, precision: str = "auto"
) -> Backend:
    """The fastest backend for a device that exists here.

    Args:
        name: one of `BACKENDS`; "auto" is OpenVINO on a CPU where it is installed, else PyTorch.
        device: "auto" | "cpu" | "cuda" | "cuda:N".
        threads: CPU threads; by default all cores that this process may use.
        precision: one of `PRECISIONS`.

    Raises:
        ValueError: no such device, backend or precision on this machine, or one that does not fit another.
    """
    installed = [backend for backend in BACKENDS[1:] if find_spec(backend) is not None]
    if precision not in PRECISIONS:
        raise ValueError(f"--precision {precision}: is none of {', '.join(PRECISIONS)}")
    if installed and name != "auto" and name not in installed:
        raise ValueError(f"--backend {name}: not installed here. Use --backend {installed[0]}, or install it")
    if not installed:
        raise ValueError(
            "neither OpenVINO nor PyTorch is installed. Install one: "
            "pip install '.[openvino]' in the clone, or [torch] for GPUs"
        )
    if name == "openvino" and device == "auto":
        device = "cpu"
    device = choose_device(device)
    if device != "cpu" and name == "openvino":
        raise ValueError(f"--backend openvino: runs on the CPU, not on {device}. Use --backend torch")
    if name == "auto":
        name = "openvino" if device == "cpu" and "openvino" in installed else "torch"
    return Backend(name, device, threads or usable_cores(), precision)


def choose_device(name: str) -> str:
    """ "auto" | "cpu" | "cuda" | "cuda:N" → a device that exists here.

    Raises:
        ValueError: no such device on this machine.
    """
    if name == "auto":
        return "cuda" if _count_gpus() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", name):
        raise ValueError(f"--device {name}: no such device. Use auto, cpu, cuda or cuda:N")
    if name != "cpu" and int(name.partition(":")[2] or 0) >= _count_gpus():
        remedy = "run the container with --gpus all" if find_spec("torch") else "use an image with PyTorch"
        raise ValueError(
            f"--device {name}: this process sees {_count_gpus()} CUDA devices. Use --device auto, or {remedy}"
        )
    return name


def _count_gpus() -> int:
    """Number of CUDA devices. PyTorch, which takes seconds to import, is asked only if there is a driver."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    if find_spec("torch") is None:
        return 0
    import torch

    return torch.cuda.device_count()


def has_bf16(device: str) -> bool:
    """Whether a device computes in bfloat16; False for a CPU that does not say (not Linux)."""
    if device != "cpu":
        import torch

        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return False
    return flags is not None and not BF16_FLAGS.isdisjoint(flags[1].split())


def usable_cores() -> int:
    """Cores that this process may use: those it is bound to, at most its container's quota (cgroup 2).

    With more threads than that, `docker run --cpus` would stop and resume them all the time.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CGROUP_QUOTA.read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup 2, or its quota is "max"
        return cores


def torch_network(weights: Weights, backend: Backend, *, channels_last: bool = True) -> Network:
    """The reference backend. Its fast convolutions need the memory layout `channels_last`."""
    import torch

    device = torch.device(backend.device)
    torch.set_num_threads(backend.threads)
    torch.backends.cudnn.allow_tf32 = False  # TF32 would round as coarsely as bfloat16
    is_bf16 = backend.is_bf16(weights)
    layout = torch.channels_last_3d if channels_last else torch.contiguous_format
    with _cpu_memory_errors(), _gpu_memory_errors(backend.device):
        model = weights.model.to(device).to(memory_format=layout)  # type: ignore[call-overload]

    def run(roi: NDArray[np.float32]) -> NDArray[np.float32]:
        with (
            _cpu_memory_errors(),
            _gpu_memory_errors(backend.device),
            torch.inference_mode(),
            torch.autocast(device.type, torch.bfloat16, enabled=is_bf16),
        ):
            image = torch.from_numpy(roi)[None, None].to(device)  # (1, 1, z, y, x)
            logits = model.logits(image.contiguous(memory_format=layout))
            return torch.sigmoid(logits.float())[0, 0].cpu().numpy()

    return run


@contextmanager
def _gpu_memory_errors(device: str) -> Iterator[None]:
    """Turn PyTorch's error for too little memory into a `DeviceMemoryError`."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise DeviceMemoryError(f"{device} has too little memory for the networks") from error


@contextmanager
def _cpu_memory_errors() -> Iterator[None]:
    """Turn errors for too little memory, under `ulimit -v` for example, into `MemoryError`s."""
    try:
        yield
    except RuntimeError as error:
        if any(words in str(error) for words in CPU_OUT_OF_MEMORY):
            raise MemoryError(str(error)) from error
        raise


def openvino_network(weights: Weights, backend: Backend) -> Network:
    """The fast backend on CPUs. It compiles in a thread, while the first CT is read."""

    def compile_model() -> Any:
        openvino = import_openvino()
        # a network of one shape needs a tenth less memory than one that takes any
        shape = weights.metadata.roi.shape_vox if weights.metadata.stage == "kidney" else None
        return openvino.Core().compile_model(
            build_model(weights.tensors, shape),
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": backend.threads,
                "INFERENCE_PRECISION_HINT": "bf16" if backend.is_bf16(weights) else "f32",
                "ENABLE_CPU_PINNING": False,  # reading and writing need the cores too
            },
        )

    compiler = ThreadPoolExecutor(1, "compiler")
    compiling = compiler.submit(compile_model)
    compiler.shutdown(wait=False)

    def run(roi: NDArray[np.float32]) -> NDArray[np.float32]:
        with _cpu_memory_errors():
            compiled = compiling.result()
            backend.memory.acquire(compiled)
            logits = compiled(roi[None, None])[0]  # (1, 1, z, y, x)
        return expit(logits[0, 0])

    return run


def mean_of(networks: Sequence[Network]) -> Network:
    """An ensemble: the mean of several networks' probabilities."""

    def run(roi: NDArray[np.float32]) -> NDArray[np.float32]:
        total = networks[0](roi)
        for network in networks[1:]:
            total = total + network(roi)
        return total / np.float32(len(networks))

    return run if len(networks) > 1 else networks[0]

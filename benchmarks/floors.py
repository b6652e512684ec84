"""Floors: seconds below which a stage of one case cannot be on this machine.

Each is measured, not assumed. A network's operations are counted and divided by the rate of a large
matrix product in the same precision. A file is (de)compressed at the (de)compressor's own speed. All else has
to touch its voxels once: the floor is a copy of as many bytes.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import ROOT

NOTE = (
    "floors: imports alone; (de)compression alone; networks' operations at the rate of a matrix product of "
    "the same precision; elsewhere a copy of the voxels that the stage has to touch"
)
IMPORTS = "import click, nibabel, numpy, safetensors, scipy.ndimage, tqdm, isal"
MATRIX = 4096


def count_flop(*shape_vox: int) -> float:
    """Operations of one pass (a multiplication and an addition are two); one number is the side of a cube."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from inference.networks.vnet import VNet

    shape = shape_vox * 3 if len(shape_vox) == 1 else shape_vox
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        VNet()(torch.empty(1, 1, *shape))
    return float(counter.get_total_flops())


def matmul_flops(precision: str, *, size: int) -> float:
    """Operations per second of this machine's best case: a large matrix product, by PyTorch or by OpenVINO.

    PyTorch's float32 product is MKL's, which leaves half of some processors' vector units unused.
    """
    import torch

    a, b = (torch.rand(size, size).to(getattr(torch, precision)) for _ in range(2))
    fastest = min(_fastest(lambda: a @ b, 4), _fastest(_openvino_product(precision, size), 4))
    return 2 * size**3 / fastest


def _openvino_product(precision: str, size: int) -> Callable[[], object]:
    import openvino as ov
    import torch
    from openvino import opset8 as op

    random = np.random.default_rng(0).random((size, size), dtype=np.float32)
    left = op.parameter([size, size], np.float32)
    model = ov.Model([op.matmul(left, op.constant(random), False, False)], [left])
    hints = {"INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision]}
    hints["INFERENCE_NUM_THREADS"] = str(torch.get_num_threads())
    request = ov.Core().compile_model(model, "CPU", hints).create_infer_request()
    request.set_input_tensor(ov.Tensor(random))
    return request.infer


def floors(ct: Path, labels: Path, weights: Path | None, precision: str) -> dict[str, float]:
    """Seconds by stage, measured in a process of its own.

    Linux counts the memory of the process that starts a command as the command's: this one has to stay small.

    Args:
        ct: the CT, .nii.gz.
        labels: its label map as the command wrote it.
        weights: folder with both networks; None: the shipped ones.
        precision: of the networks, as `--precision` knows it.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as child:
        return child.submit(_floors, ct, labels, weights, precision).result()


def _floors(ct: Path, labels: Path, weights: Path | None, precision: str) -> dict[str, float]:
    from isal import igzip

    passes, uses_bfloat16, hu_shape = _passes(ct, weights, precision)
    rate = matmul_flops("bfloat16" if uses_bfloat16 else "float32", size=MATRIX)
    with igzip.open(labels) as file:
        written = file.read()
    roi_vox, ct_vox = int(np.prod(passes["kidney"][0])), int(np.prod(hu_shape))
    found = {
        "start-up": _fastest(lambda: subprocess.run([sys.executable, "-c", IMPORTS], check=True)),
        "read": _fastest(lambda: _unpack(ct)),
        "roi": _copy_s(roi_vox * 4),
        "components": _copy_s(roi_vox * 4),
        "restore": _copy_s(ct_vox),  # the label map, a byte a voxel
        "measure": _copy_s(ct_vox),
        "write": _fastest(lambda: igzip.compress(written, 1)),
    }
    for stage, shapes in passes.items():
        found[stage] = sum(count_flop(*shape) for shape in shapes) / rate
    return {stage: seconds for stage, seconds in found.items() if seconds}


def _passes(
    ct: Path, weights: Path | None, precision: str
) -> tuple[dict[str, list[Sequence[int]]], bool, Sequence[int]]:
    """What the networks are given for a CT, by stage; whether in bfloat16; and the CT's shape."""
    from inference import load_cascade, read_ct
    from inference.method.segment import segment
    from inference.networks.backends import choose_backend
    from inference.networks.weights import load_weights

    cascade = load_cascade(weights, precision=precision)
    seen: dict[str, list[Sequence[int]]] = {"locate": [], "kidney": [], "tumor": []}
    stage = ["locate"]

    def recorded(network: Callable[[NDArray], NDArray]) -> Callable[[NDArray], NDArray]:
        def run(image: NDArray) -> NDArray:
            seen[stage[0]].append(image.shape)
            return network(image)

        return run

    def progress(name: str, share: float) -> None:
        stage[0] = name

    recording = replace(cascade, kidney=recorded(cascade.kidney), tumor=recorded(cascade.tumor))
    if cascade.coarse is not None:
        recording = replace(recording, coarse=recorded(cascade.coarse))
    image = read_ct(ct)
    segment(image.hu, image.spacing_mm, recording, progress=progress)
    folder = weights or ROOT / "weights"
    kidney = load_weights(folder / "kidney.safetensors", "kidney")
    return seen, choose_backend(precision=precision).is_bf16(kidney), image.hu.shape


def _unpack(path: Path) -> None:
    from isal import igzip

    with igzip.open(path) as file:
        buffer = bytearray(1 << 20)
        while file.readinto(buffer):
            pass


def _copy_s(n_bytes: int) -> float:
    source, target = np.ones(n_bytes, np.uint8), np.empty(n_bytes, np.uint8)
    return _fastest(lambda: np.copyto(target, source))


def _fastest(call: Callable[[], object], repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)

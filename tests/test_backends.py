"""Weights and a device become a function from an ROI array to a probability array."""

import functools
import os
import resource
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.precision import MAX_CHANGE
from evaluation.metrics import dice
from inference.formats.ct import read_ct
from inference.method.segment import segment
from inference.networks import backends
from inference.networks.backends import (
    Backend,
    DeviceMemoryError,
    choose_backend,
    choose_device,
    has_bf16,
    mean_of,
    usable_cores,
)
from inference.networks.cascade import Cascade
from inference.networks.vnet import VNet
from inference.networks.weights import load_weights
from inference.runner.cases import Case, find_cases
from tests.helpers import as_weights, threshold_vnet

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = find_cases(ROOT / "test_data" / "input")
REFERENCE = Backend("torch", "cpu", threads=2, precision="float32")
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.02}
SAME_MAP_DSC = 0.999

pytestmark = pytest.mark.usefixtures("_untouched_process")


@pytest.fixture(params=["torch", "openvino"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_network_answers_as_the_model_does(name: str, precision: str) -> None:
    torch.manual_seed(3)
    model = VNet(base_channels=2)
    roi = np.random.default_rng(3).random((16, 24, 8), dtype=np.float32)
    with torch.no_grad():
        for _ in range(99):
            model(torch.from_numpy(roi)[None, None])  # lets batch norm learn the size of these values
        model.eval()
        expected = model(torch.from_numpy(roi)[None, None])[0, 0].numpy()
    weights = as_weights(model, roi.shape, base_channels=2)
    answer = Backend(name, "cpu", 1, precision).network(weights)(roi)
    assert answer.dtype == np.float32
    assert answer.shape == roi.shape
    assert expected.std() > 0.02  # else anything would agree
    np.testing.assert_allclose(answer, expected, atol=TOLERANCE[precision])
    assert np.corrcoef(answer.ravel(), expected.ravel())[0, 1] > 0.99


def test_a_tumor_network_takes_any_part_of_the_roi(name: str) -> None:
    torch.manual_seed(1)
    model = VNet(base_channels=1).eval()
    network = Backend(name, "cpu", 1, "float32").network(as_weights(model, (32, 32, 32), stage="tumor"))
    for shape in ((32, 32, 32), (16, 24, 8), (8, 16, 32), (16, 24, 8)):
        part = np.random.default_rng(0).random(shape, dtype=np.float32)
        with torch.no_grad():
            expected = model(torch.from_numpy(part)[None, None])[0, 0].numpy()
        np.testing.assert_allclose(network(part), expected, atol=1e-4)


def test_axes_stay_where_they_are(name: str) -> None:
    roi = np.zeros((8, 16, 24), dtype=np.float32)
    roi[1, 5, 20] = 1
    answer = Backend(name, "cpu", 1).network(as_weights(threshold_vnet(0.5), roi.shape))(roi)
    assert np.argwhere(answer > 0.5).tolist() == [[1, 5, 20]]


def test_same_input_same_output_and_the_input_stays_as_it_is(name: str) -> None:
    torch.manual_seed(1)
    roi = np.random.default_rng(0).random((16, 16, 16), dtype=np.float32)
    network = Backend(name, "cpu", 1).network(as_weights(VNet(base_channels=1).eval(), roi.shape))
    before = roi.copy()
    first = network(roi)
    kept = first.copy()
    np.testing.assert_array_equal(network(roi), kept)
    network(1 - roi)
    np.testing.assert_array_equal(first, kept)  # no buffer is handed out twice
    np.testing.assert_array_equal(roi, before)


def test_openvino_networks_do_not_pile_up_in_memory() -> None:
    """Each needs nearly 2 GB for 168³, and the largest case with both has to do with 4."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("only Linux tells the memory of a process there")
    shape = (64, 64, 64)
    roi = np.zeros(shape, dtype=np.float32)
    weights = as_weights(VNet(base_channels=4).eval(), shape, base_channels=4)
    backend = Backend("openvino", "cpu", 1, "float32")
    networks = [backend.network(weights) for _ in range(4)]
    networks[0](roi)  # what is set up once
    before = _resident_mib(statm)
    for network in networks[1:]:
        network(roi)
    assert _resident_mib(statm) - before < 50  # each took about 50 while it ran
    backend.memory.release()
    assert before - _resident_mib(statm) > 25
    np.testing.assert_array_equal(networks[3](roi), networks[0](roi))  # and runs again


def _resident_mib(statm: Path) -> int:
    return int(statm.read_text().split()[1]) * resource.getpagesize() // 2**20


# --------------------------------------------------------------------------------- label maps stay the same


@functools.cache
def _shipped(backend: Backend) -> Cascade:
    kidney, tumor = (load_weights(ROOT / "weights" / f"{s}.safetensors", s) for s in ("kidney", "tumor"))
    return Cascade(backend.network(kidney), backend.network(tumor), kidney.metadata, tumor.metadata)


@functools.cache
def _label_map(case: Case, backend: Backend) -> NDArray[np.uint8]:
    ct = read_ct(case.source)
    return segment(ct.hu, ct.spacing_mm, _shipped(backend)).labels


@pytest.mark.parametrize("case", SAMPLES, ids=lambda case: case.name)
def test_label_maps_stay_the_same(case: Case) -> None:
    """Between backends. Between precisions it is the score that counts: `test_bfloat16_keeps_the_score`."""
    reference, labels = (
        _label_map(case, REFERENCE),
        _label_map(case, Backend("openvino", "cpu", 2, "float32")),
    )
    assert reference.any()
    assert dice(labels > 0, reference > 0) >= SAME_MAP_DSC
    assert dice(labels == 2, reference == 2) >= SAME_MAP_DSC  # 1 only if both are empty


@pytest.mark.skipif(not has_bf16("cpu"), reason="NO BFLOAT16 HERE: NOT TESTED")
@pytest.mark.parametrize("case", SAMPLES, ids=lambda case: case.name)
def test_bfloat16_keeps_the_score(case: Case) -> None:
    """The sample cases' part of what `benchmarks.precision` proves for weights that say so."""
    if not all(m.bf16 for m in (_shipped(REFERENCE).kidney_metadata, _shipped(REFERENCE).tumor_metadata)):
        pytest.skip("these weights do not say that they bear bfloat16")
    truth = read_ct(ROOT / "test_data" / "reference" / case.output).hu
    exact, rough = (_label_map(case, Backend("openvino", "cpu", 2, p)) for p in ("float32", "bfloat16"))
    assert dice(rough > 0, truth > 0) == pytest.approx(dice(exact > 0, truth > 0), abs=MAX_CHANGE)
    if (truth == 2).any():
        assert dice(rough == 2, truth == 2) == pytest.approx(dice(exact == 2, truth == 2), abs=MAX_CHANGE)


@pytest.mark.parametrize("is_known", [False, True])
def test_bf16_needs_a_processor_and_weights_that_have_it(
    name: str, is_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = as_weights(VNet(base_channels=1), (8, 8, 8), bf16=is_known)
    assert Backend(name, "cpu", 1).is_bf16(weights) == (is_known and has_bf16("cpu"))
    assert Backend(name, "cpu", 1, "bfloat16").is_bf16(weights)
    assert not Backend(name, "cpu", 1, "float32").is_bf16(weights)
    monkeypatch.setattr(backends, "BF16_FLAGS", {"no such flag"})
    assert not Backend(name, "cpu", 1).is_bf16(weights)


# ---------------------------------------------------------------------------------------- what is chosen


def _only(*installed: str) -> Callable[[str], ModuleSpec | None]:
    return lambda module: ModuleSpec(module, None) if module in installed else None


@pytest.mark.parametrize(
    ("installed", "asked", "chosen"),
    [
        (("torch", "openvino"), "auto", "openvino"),
        (("torch",), "auto", "torch"),
        (("openvino",), "auto", "openvino"),
        (("torch", "openvino"), "torch", "torch"),
        (("torch", "openvino"), "openvino", "openvino"),
    ],
)
def test_on_a_cpu_openvino_where_it_is_installed(
    installed: tuple[str, ...], asked: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "find_spec", _only(*installed))
    backend = choose_backend(asked, device="cpu", threads=3)
    assert (backend.name, backend.device, backend.threads) == (chosen, "cpu", 3)


@pytest.mark.parametrize(("missing", "other"), [("torch", "openvino"), ("openvino", "torch")])
def test_what_is_not_installed_is_a_clear_error(
    missing: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "find_spec", _only(other))
    with pytest.raises(ValueError, match=f"--backend {missing}: not installed here. Use --backend {other}"):
        choose_backend(missing)


@pytest.mark.parametrize("asked", ["auto", "torch", "openvino"])
def test_without_any_engine_both_are_named(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find_spec", _only("none"))
    with pytest.raises(ValueError, match="neither OpenVINO nor PyTorch is installed"):
        choose_backend(asked)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="--precision fp16: is none of auto, float32, bfloat16"):
        choose_backend(precision="fp16")


def test_openvino_is_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_count_gpus", lambda: 2)
    assert choose_backend("auto").device == "cuda"
    assert choose_backend("auto").name == "torch"
    assert choose_backend("openvino").device == "cpu"
    with pytest.raises(ValueError, match="--backend openvino: runs on the CPU, not on cuda:1"):
        choose_backend("openvino", device="cuda:1")


def test_threads_are_the_cores_that_a_container_may_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(48)), raising=False)
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(backends, "CGROUP_QUOTA", quota)
    assert usable_cores() == 48
    for text, cores in (
        ("max 100000", 48),
        ("200000 100000", 2),
        ("50000 100000", 1),
        ("9900000 100000", 48),
    ):
        quota.write_text(text + "\n")
        assert usable_cores() == cores


def test_auto_is_a_gpu_where_there_is_one() -> None:
    assert choose_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == "cpu"


@pytest.mark.parametrize("name", ["cuda:99", "tpu", "", "cuda:x", "meta", "cpu cuda"])
def test_what_is_not_there_is_a_clear_error(name: str) -> None:
    with pytest.raises(ValueError, match=f"--device {name}: ") as caught:
        choose_device(name)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_says_how_to_go_on() -> None:
    with pytest.raises(ValueError, match=r"sees 0 CUDA devices. Use --device auto, or .* --gpus all"):
        choose_device("cuda")


def test_an_ensemble_is_the_mean_and_changes_no_answer_of_its_parts() -> None:
    answers = [np.full((2, 2, 2), p, dtype=np.float32) for p in (0.25, 0.5, 0.9)]
    networks = [lambda roi, answer=answer: answer for answer in answers]
    mean = mean_of(networks)(np.zeros((2, 2, 2), dtype=np.float32))
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, 0.55, rtol=1e-6)
    assert [float(answer[0, 0, 0]) for answer in answers] == pytest.approx([0.25, 0.5, 0.9])
    assert mean_of(networks[:1]) is networks[0]


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), DeviceMemoryError),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: no memory"), MemoryError),
        (RuntimeError("anything else"), RuntimeError),
    ],
)
def test_too_little_memory_is_told_from_other_errors(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: type[Exception]
) -> None:
    def fail(model: VNet, image: torch.Tensor) -> None:
        raise raised

    network = REFERENCE.network(as_weights(threshold_vnet(0.5), (8, 8, 8)))
    monkeypatch.setattr(VNet, "logits", fail)
    with pytest.raises(expected) as caught:
        network(np.zeros((8, 8, 8), dtype=np.float32))
    assert type(caught.value) is expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            "Check 'ptr' failed at cpu_memory.cpp:257: Failed to allocate 269746176 bytes of memory",
            MemoryError,
        ),
        ("std::bad_alloc", MemoryError),
        ("anything else", RuntimeError),
    ],
)
def test_openvinos_too_little_memory_is_told_from_other_errors(
    monkeypatch: pytest.MonkeyPatch, said: str, expected: type[Exception]
) -> None:
    def fail(tensors: object, shape: object) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr("inference.networks.backends.build_model", fail)
    network = Backend("openvino", "cpu", 1, "float32").network(as_weights(threshold_vnet(0.5), (8, 8, 8)))
    with pytest.raises(expected) as caught:
        network(np.zeros((8, 8, 8), dtype=np.float32))
    assert type(caught.value) is expected

"""Weights and a device become a function from an ROI array to a probability array."""

import numpy as np
import pytest
import torch

from inference.backends import choose_device, torch_network
from inference.vnet import VNet
from inference.weights import Weights
from tests.helpers import metadata, threshold_vnet

CPU = torch.device("cpu")


def test_network_answers_as_the_model_does() -> None:
    torch.manual_seed(3)
    model = VNet(base_channels=2)
    roi = np.random.default_rng(3).random((16, 24, 8), dtype=np.float32)
    with torch.no_grad():
        for _ in range(99):
            model(torch.from_numpy(roi)[None, None])  # lets batch norm learn the size of these values
        model.eval()
        expected = model(torch.from_numpy(roi)[None, None])[0, 0].numpy()
    answer = torch_network(Weights(model, metadata("kidney"), ""), CPU)(roi)
    assert answer.dtype == np.float32
    assert answer.shape == roi.shape
    assert expected.std() > 0.02  # else anything would agree
    np.testing.assert_allclose(answer, expected, atol=0.02)  # bf16, where the processor has it
    assert np.corrcoef(answer.ravel(), expected.ravel())[0, 1] > 0.99


def test_axes_stay_where_they_are() -> None:
    roi = np.zeros((8, 16, 24), dtype=np.float32)
    roi[1, 5, 20] = 1
    answer = torch_network(Weights(threshold_vnet(0.5), metadata("kidney"), ""), CPU)(roi)
    assert np.argwhere(answer > 0.5).tolist() == [[1, 5, 20]]


def test_same_input_same_output_and_the_input_stays_as_it_is() -> None:
    torch.manual_seed(1)
    network = torch_network(Weights(VNet(base_channels=1).eval(), metadata("kidney"), ""), CPU)
    roi = np.random.default_rng(0).random((16, 16, 16), dtype=np.float32)
    before = roi.copy()
    np.testing.assert_array_equal(network(roi), network(roi))
    np.testing.assert_array_equal(roi, before)


def test_auto_is_a_gpu_where_there_is_one() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize("name", ["cuda:99", "tpu", "", "cuda:x", "meta", "cpu cuda"])
def test_what_is_not_there_is_a_clear_error(name: str) -> None:
    with pytest.raises(ValueError, match=f"--device {name}: ") as caught:
        choose_device(name)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_says_how_to_go_on() -> None:
    with pytest.raises(ValueError, match=r"sees 0 CUDA devices. Use --device auto, or .* --gpus all"):
        choose_device("cuda")

"""The ROI follows the kidneys where a CT is longer than the ROI."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference.geometry import RoiSpec, resample
from inference.method.cascade import (
    TILE_OVERLAP,
    _box_around,
    locate_kidneys,
    look_coarsely,
    segment_tumor,
    tile_centres,
)
from inference.method.method import DEFAULT, PAPER, Method
from inference.method.postprocess import Box, Structures
from inference.method.roi import normalise, place_roi
from inference.method.segment import segment
from inference.networks.backends import Network
from inference.networks.cascade import Cascade
from inference.networks.vnet import VNet
from tests.helpers import metadata

SPEC = RoiSpec((16, 16, 16), 4.0, window_hu=(0.0, 1.0))
SPACING_MM = (4.0, 4.0, 4.0)
"""The ROI's own spacing: one ROI voxel is one CT voxel, and tiles start at whole slices."""

SIZE_ALONE = replace(PAPER, roi_follows_kidneys=True)
"""The blocks lie in water: there is no fat around them."""


class Recorder:
    """A network that takes the ROI itself for its answer, and remembers what it was shown."""

    def __init__(self) -> None:
        """Nothing shown yet."""
        self.shown: list[NDArray[np.float32]] = []

    def __call__(self, roi: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probability = intensity."""
        self.shown.append(roi)
        return roi


def cascade_of(network: Network) -> Cascade:
    return Cascade(network, network, metadata("kidney", SPEC), metadata("tumor", SPEC))


def scan(n_slices: int, *kidneys: tuple[int, int, int]) -> NDArray[np.int16]:
    """(z, y, x) zeros with blocks of ones, each (first slice, last slice + 1, width in voxels)."""
    hu = np.zeros((n_slices, 16, 16), dtype=np.int16)
    for first, end, width in kidneys:
        hu[first:end, 2 : 2 + width, 3 : 3 + width] = 1
    return hu


@given(
    n_slices=st.integers(2, 1100),
    spacing_mm=st.floats(0.5, 5.0),
    side=st.sampled_from([32, 96, 168]),
)
def test_tiles_cover_every_slice_with_enough_overlap(n_slices: int, spacing_mm: float, side: int) -> None:
    spec = RoiSpec((side, 168, 168), 2.0)
    centres = np.array(tile_centres(n_slices, (spacing_mm, 1.0, 1.0), spec))
    length = side * 2.0 / spacing_mm
    first_edge, last_edge = centres[0] - length / 2, centres[-1] + length / 2
    assert first_edge <= -0.5 + 1e-6
    assert last_edge >= n_slices - 0.5 - 1e-6
    if n_slices > length:
        assert (first_edge, last_edge) == pytest.approx(
            (-0.5, n_slices - 0.5)
        )  # no slice of theirs is padding
        most = 0.75 * length  # from one tile's centre to the next
        assert (np.diff(centres) <= most + 1e-6).all()
        assert (
            (n_slices - length) / (len(centres) - 2) > most if len(centres) > 2 else True
        )  # and no tile more
    else:
        assert centres.tolist() == [(n_slices - 1) / 2]
    assert TILE_OVERLAP == 0.25


@pytest.mark.parametrize("n_slices", [7, 16])
def test_short_ct_is_the_centre_crop_and_costs_no_network(n_slices: int) -> None:
    network = Recorder()
    hu = scan(n_slices, (0, 3, 10))
    assert locate_kidneys(hu, SPACING_MM, cascade_of(network), SIZE_ALONE) == place_roi(
        hu.shape, SPACING_MM, SPEC
    )
    assert network.shown == []


def test_networks_hold_no_memory_while_labels_are_restored() -> None:
    told: list[str] = []
    released_at: list[str] = []

    class Compiled:
        def release_memory(self) -> None:
            released_at.append(told[-1])

    cascade = cascade_of(Recorder())
    cascade.memory.acquire(Compiled())
    segment(scan(16, (3, 9, 10)), SPACING_MM, cascade, SIZE_ALONE, lambda stage, share: told.append(stage))
    assert released_at == ["tumor"]
    assert cascade.memory.holder is None


@pytest.mark.parametrize(("first", "end"), [(3, 9), (27, 35), (40, 48), (51, 59)])
def test_kidneys_anywhere_in_a_long_ct_are_centred_on(first: int, end: int) -> None:
    hu = scan(60, (first, end, 6))  # 288 voxels of 64 mm³: 18 cm³
    network = Recorder()
    shares: list[float] = []
    roi = locate_kidneys(hu, SPACING_MM, cascade_of(network), SIZE_ALONE, shares.append)
    centre = roi.start_vox[0] + roi.step_vox[0] * (16 - 1) / 2
    assert centre == pytest.approx((first + end - 1) / 2)
    assert len(network.shown) == 5  # 60 slices, 16 a tile, at most 12 from one to the next
    assert shares == [0.0, 0.2, 0.4, 0.6, 0.8]
    assert roi.start_vox[1:] == place_roi(hu.shape, SPACING_MM, SPEC).start_vox[1:]


def test_both_kidneys_at_unlike_heights_are_taken_in() -> None:
    hu = scan(60, (40, 46, 6))
    hu[45:53, 9:15, 10:16] = 1
    roi = locate_kidneys(hu, SPACING_MM, cascade_of(Recorder()), SIZE_ALONE)
    assert roi.start_vox[0] + 7.5 == pytest.approx((40 + 52) / 2)


@pytest.mark.parametrize(("first", "last_taken"), [(50, 11), (15, 11), (14, 19)])
def test_what_does_not_fit_beside_the_largest_is_left_out(first: int, last_taken: int) -> None:
    """From slice 4 on the ROI's 16 slices end with slice 19."""
    hu = scan(60, (4, 12, 7), (first, first + 6, 6))
    roi = locate_kidneys(hu, SPACING_MM, cascade_of(Recorder()), SIZE_ALONE)
    assert roi.start_vox[0] + 7.5 == pytest.approx((4 + last_taken) / 2)


def test_nothing_found_is_the_centre_crop() -> None:
    hu = scan(60, (40, 42, 6))  # 72 voxels of 64 mm³: 4.6 cm³, too small for a kidney
    roi = locate_kidneys(hu, SPACING_MM, cascade_of(Recorder()), SIZE_ALONE)
    assert roi == place_roi(hu.shape, SPACING_MM, SPEC)


# --- the tumor network's view ------------------------------------------------------------------------------


def structures_at(shape: tuple[int, int, int], *boxes: Box) -> Structures:
    ids = np.zeros(shape, dtype=np.uint8)
    for rank, box in enumerate(boxes, start=1):
        ids[box] = rank
    return Structures(ids, boxes, (1.0,) * len(boxes))


def test_the_tumor_network_sees_the_kidneys_and_a_margin() -> None:
    image = np.random.default_rng(0).random((96, 112, 120), dtype=np.float32)
    kidneys = structures_at(image.shape, np.s_[40:50, 44:60, 53:61], np.s_[45:51, 50:56, 64:66])
    network = Recorder()
    probability = segment_tumor(image, kidneys, cascade_of(network))
    # 32 voxels more on each side, then outwards to multiples of 8
    seen = np.s_[8:88, 8:96, 16:104]
    np.testing.assert_array_equal(network.shown[0], image[seen])
    np.testing.assert_array_equal(probability[seen], image[seen])
    probability[seen] = 0
    assert not probability.any()


def test_the_papers_tumor_network_sees_the_whole_roi() -> None:
    image = np.random.default_rng(0).random((64, 64, 64), dtype=np.float32)
    network = Recorder()
    probability = segment_tumor(
        image, structures_at(image.shape, np.s_[20:30, 24:40, 33:41]), cascade_of(network), PAPER
    )
    np.testing.assert_array_equal(network.shown[0], image)
    np.testing.assert_array_equal(probability, image)


def test_a_mirrored_tumor_network_is_the_mean_over_left_and_right() -> None:
    image = np.random.default_rng(0).random((16, 16, 24), dtype=np.float32)
    ramp = np.linspace(0, 1, 24, dtype=np.float32)  # more to the left, whatever is shown
    shown = []

    def network(part: NDArray[np.float32]) -> NDArray[np.float32]:
        shown.append(part)
        return part * ramp

    kidneys = structures_at(image.shape, np.s_[2:9, 3:9, 1:20])
    mirroring = replace(cascade_of(network), tumor_metadata=metadata("tumor", SPEC, mirror=True))
    probability = segment_tumor(image, kidneys, mirroring)
    assert len(shown) == 2
    np.testing.assert_array_equal(shown[1], image[:, :, ::-1])
    np.testing.assert_allclose(probability, image / 2, atol=1e-6)  # ramp and mirrored ramp: one half
    assert (segment_tumor(image, kidneys, cascade_of(network)) == image * ramp).all()


def test_without_kidneys_the_tumor_network_is_not_asked() -> None:
    network = Recorder()
    image = np.ones((16, 16, 16), dtype=np.float32)
    assert not segment_tumor(image, structures_at(image.shape), cascade_of(network)).any()
    assert network.shown == []


@given(start=st.integers(0, 150), size=st.integers(1, 60), side=st.sampled_from([40, 112, 168]))
def test_the_box_holds_the_kidneys_on_the_poolings_grid(start: int, size: int, side: int) -> None:
    start = min(start, side - 1)
    kidney = slice(start, min(side, start + size))
    for box in _box_around([(kidney,) * 3], (side,) * 3, 32):
        assert box.start % 8 == box.stop % 8 == 0
        assert 0 <= box.start <= max(0, kidney.start - 32)
        assert min(side, kidney.stop + 32) <= box.stop <= side


def test_with_a_margin_as_wide_as_its_view_nothing_changes() -> None:
    """The box begins where poolings do, so that the network answers as it would for the whole ROI."""
    torch.manual_seed(0)
    net = VNet(base_channels=1).eval()

    def network(part: NDArray[np.float32]) -> NDArray[np.float32]:
        shown.append(part.shape)
        with torch.inference_mode():
            return net(torch.from_numpy(part)[None, None])[0, 0].numpy()

    shown: list[tuple[int, ...]] = []
    image = np.random.default_rng(1).random((144, 16, 16), dtype=np.float32)
    kidney = np.s_[61:67, 2:14, 3:12]
    probability = segment_tumor(
        image, structures_at(image.shape, kidney), cascade_of(network), Method(tumor_margin_vox=44)
    )
    whole = network(image)
    assert shown == [(96, 16, 16), (144, 16, 16)]
    assert whole[kidney].std() > 1e-4
    np.testing.assert_allclose(probability[kidney], whole[kidney], atol=1e-6)


def ramp(ct_shape: tuple[int, int, int]) -> NDArray[np.int16]:
    """HU that rise along each axis by another step."""
    z, y, x = np.indices(ct_shape)
    return (100 + 4 * z + 3 * y + 2 * x).astype(np.int16)


@pytest.mark.parametrize("centre_z", [None, 8.0, 20.0, 33.0])
def test_the_coarse_network_sees_more_and_answers_on_the_rois_grid(centre_z: float | None) -> None:
    """A coarse network that answers with its input, and so with what lies at each place of the ROI."""
    hu, spacing_mm = ramp((60, 40, 40)), (3.0, 2.0, 2.0)
    fine = RoiSpec((16, 16, 16), 2.0, window_hu=(0.0, 1000.0))
    wide = RoiSpec((24, 16, 16), 4.0, window_hu=(0.0, 1000.0))
    shown = Recorder()
    cascade = Cascade(
        shown, shown, metadata("kidney", fine), metadata("tumor", fine),
        coarse=shown, coarse_metadata=metadata("kidney", wide),
    )  # fmt: skip
    roi = place_roi(hu.shape, spacing_mm, fine, centre_z_vox=centre_z)
    found = look_coarsely(hu, spacing_mm, roi, cascade)
    assert found is not None
    assert [image.shape for image in shown.shown] == [wide.shape_vox]
    expected = normalise(resample(hu, roi), fine)
    assert 0.1 < expected.min() < expected.max() < 0.5
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert look_coarsely(hu, spacing_mm, roi, cascade, PAPER) is None
    assert look_coarsely(hu, spacing_mm, roi, replace(cascade, coarse=None)) is None


def test_beyond_the_coarse_grid_there_is_no_kidney() -> None:
    fine, narrow = RoiSpec((16, 16, 16), 4.0), RoiSpec((8, 8, 8), 4.0)
    everywhere: Network = np.ones_like
    cascade = replace(cascade_of(everywhere), coarse=everywhere, coarse_metadata=metadata("kidney", narrow))
    hu = ramp((16, 16, 16))
    found = look_coarsely(hu, SPACING_MM, place_roi(hu.shape, SPACING_MM, fine), cascade)
    expected = np.zeros(fine.shape_vox)
    expected[4:12, 4:12, 4:12] = 1
    np.testing.assert_array_equal(found, expected)


def test_the_coarse_network_decides_in_the_whole_method() -> None:
    hu = np.full((16, 24, 24), 0, dtype=np.int16)
    hu[4:12, 2:9, 4:20], hu[4:12, 15:22, 4:20] = 1, 1  # 57 ml each
    wide = RoiSpec((8, 16, 16), 8.0, window_hu=(0.0, 1.0))

    def front_alone(image: NDArray[np.float32]) -> NDArray[np.float32]:
        assert image.shape == wide.shape_vox
        answer = np.zeros_like(image)
        answer[:, :8] = 0.3
        return answer

    kidney = Recorder()
    spec = RoiSpec((16, 24, 24), 4.0, window_hu=(0.0, 1.0))
    cascade = Cascade(
        kidney, lambda image: image * 0, metadata("kidney", spec), metadata("tumor", spec),
        coarse=front_alone, coarse_metadata=metadata("kidney", wide),
    )  # fmt: skip
    labels = segment(hu, SPACING_MM, cascade, DEFAULT).labels
    assert labels[:, :12].any()
    assert not labels[:, 12:].any()
    assert segment(hu, SPACING_MM, cascade, PAPER).labels[:, 12:].any()


def test_what_the_coarse_network_fills_in_is_in_the_label_map() -> None:
    hu = np.zeros((16, 24, 24), dtype=np.int16)
    spec, wide = RoiSpec(hu.shape, 4.0), RoiSpec((8, 16, 16), 8.0)
    whole, found = np.s_[4:12, 2:9, 4:20], np.s_[4:12, 2:9, 4:12]

    def doubtful(image: NDArray[np.float32]) -> NDArray[np.float32]:
        answer = np.zeros_like(image)
        answer[whole], answer[found] = 0.1, 0.99
        return answer

    cascade = Cascade(
        doubtful, lambda image: image * 0, metadata("kidney", spec), metadata("tumor", spec),
        coarse=lambda image: image * 0 + np.float32(0.95), coarse_metadata=metadata("kidney", wide),
    )  # fmt: skip
    for method, box in ((DEFAULT, whole), (replace(DEFAULT, sure_coarse_probability=1.0), found)):
        expected = np.zeros(hu.shape)
        expected[box] = 1
        np.testing.assert_array_equal(segment(hu, SPACING_MM, cascade, method).labels, expected)

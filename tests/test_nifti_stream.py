"""What is unpacked and converted in pieces is what nibabel and `convert_to_int16` make of the whole."""

import io
from itertools import permutations

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.arrayproxy import ArrayProxy

from inference.formats import nifti_stream
from inference.formats.nifti_stream import in_disk_order, read_body
from inference.formats.volume import convert_to_int16

SHAPE = (5, 4, 7)
ODD = (0.0, -0.0, 0.5, 1.5, -2.5, 40000.0, -40000.0, 65541.0, 1e300, np.nan, np.inf, -np.inf)
TYPES = ("<f8", ">f8", "<f4", ">f4", "<f2", "<i2", ">i2", "<u2", "|u1", "|i1", "<i4", ">u4", "<i8", "<u8")


def _body(dtype: str, seed: int, *, is_odd: bool) -> np.ndarray:
    random = np.random.default_rng(seed)
    low, high = (0, 200) if dtype.endswith("u1") else (-100, 100) if dtype.endswith("i1") else (-1024, 3000)
    values = random.integers(max(low, 0) if "u" in dtype else low, high, SHAPE).astype(np.float64)
    if is_odd and "f" in dtype:
        places = random.random(SHAPE) < 0.1
        values[places] = random.choice(ODD, places.sum())
    if is_odd and dtype[1:] in ("u2", "i4", "u4", "i8", "u8"):
        values[random.random(SHAPE) < 0.1] = 65541 if dtype != "<u2" else 60000
    with np.errstate(all="ignore"):
        return np.asfortranarray(values.astype(dtype))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("scaling", [(1.0, 0.0), (2.5, -1024.0)])
@given(
    seed=st.integers(0, 1000),
    is_odd=st.booleans(),
    flips=st.tuples(*[st.booleans()] * 3),
    order=st.sampled_from(list(permutations(range(3)))),
    slices=st.integers(1, 8),
    voxels=st.integers(1, 60),
)
def test_pieces_give_what_the_whole_gives(
    dtype: str, scaling: tuple[float, float], seed: int, is_odd: bool, flips: tuple[bool, ...],
    order: tuple[int, ...], slices: int, voxels: int,
) -> None:  # fmt: skip
    body = _body(dtype, seed, is_odd=is_odd)
    content = body.tobytes(order="F")
    expected = np.empty(SHAPE, dtype=np.int16)
    with np.errstate(all="ignore"):
        whole = np.asanyarray(ArrayProxy(io.BytesIO(content), (SHAPE, np.dtype(dtype), 0, *scaling)))
        n_expected = convert_to_int16(whole, expected)
    turned = np.empty([SHAPE[axis] for axis in order], dtype=np.int16)  # as canonical arrays lie
    stored = turned.transpose(np.argsort(order))[tuple(slice(None, None, -1 if f else 1) for f in flips)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nifti_stream, "SLAB_SLICES", slices)
        patch.setattr(nifti_stream, "PIECE_BYTES", voxels * np.dtype(dtype).itemsize)
        patch.setattr(nifti_stream, "BLOCK_VOXELS", 7)
        n = read_body(io.BytesIO(content), np.dtype(dtype), stored, slope=scaling[0], inter=scaling[1])
    np.testing.assert_array_equal(stored, expected)
    assert n == n_expected


def test_a_stream_may_give_a_few_bytes_at_a_time() -> None:
    class Trickle(io.BytesIO):
        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            return super().readinto(buffer[:7])

    body, stored = _body("<i2", 0, is_odd=False), np.empty(SHAPE, dtype=np.int16)
    assert read_body(Trickle(body.tobytes(order="F")), body.dtype, stored) == 0
    np.testing.assert_array_equal(stored, body)


def test_a_stream_that_ends_early_is_told() -> None:
    content = bytes(2 * 5 * 4 * 7 - 1)
    with pytest.raises(EOFError, match="should follow"):
        read_body(io.BytesIO(content), np.dtype("<i2"), np.empty(SHAPE, dtype=np.int16))


def test_nibabel_still_calls_its_scaling_so() -> None:
    image = nib.Nifti1Image(np.zeros(SHAPE, dtype=np.int16), np.eye(4))
    again = nib.Nifti1Image.from_bytes(image.to_bytes())
    assert (again.dataobj.slope, again.dataobj.inter, again.dataobj.offset) == (1.0, 0.0, 352)


@given(
    order=st.sampled_from(list(permutations(range(3)))),
    flips=st.tuples(*[st.booleans()] * 3),
    box=st.tuples(*[st.tuples(st.integers(0, 4), st.integers(0, 4)) for _ in range(3)]),
)
def test_disk_order_is_the_same_array(
    order: tuple[int, ...], flips: tuple[bool, ...], box: tuple[tuple[int, int], ...]
) -> None:
    labels = np.zeros((9, 8, 7), dtype=np.uint8)
    labels[tuple(slice(a, a + n) for a, n in box)] = 2  # empty where a side is 0
    stored = labels.transpose(order)[tuple(slice(None, None, -1 if f else 1) for f in flips)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nifti_stream, "SLAB_SLICES", 3)
        content = b"".join(slab.tobytes() for slab in in_disk_order(stored))
    assert content == stored.tobytes(order="F")

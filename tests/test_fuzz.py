"""The readers under damaged files: a share of the fuzz, and all that it once found."""

import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import check, run

SEEDS = sorted(path for path in (Path(__file__).parent / "seeds").glob("*/*") if path.suffix != ".raw")


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_once_failed(path: Path) -> None:
    """Crashes of ITK, loops without end, gigabytes: each is refused in one line now."""
    assert check(path) == "refused"


def test_a_share_of_the_fuzz() -> None:
    """`python -m tests.fuzz` runs 20,000; these are the first."""
    counts, failures = run(inputs=400)
    assert not failures
    assert sum(counts.values()) == 400
    for outcome in ("read", "refused"):  # mutations that leave nothing readable would test little
        assert sum(n for name, n in counts.items() if name.endswith(f": {outcome}")) > 40


INT16 = st.sampled_from([2, 3, 4, 1, 0]) | st.integers(-(2**15), 2**15 - 1)
FLOAT32 = st.sampled_from([1.0, 0.0, -3.0]) | st.floats(width=32)
HEADER = st.fixed_dictionaries(
    {
        "dim": st.tuples(st.just(3) | INT16, *[INT16] * 7),
        "pixdim": st.tuples(*[FLOAT32] * 8),
        "datatype": st.sampled_from([4, 2, 16, 64, 512]) | INT16,
        "vox_offset": st.just(352.0) | FLOAT32,
        "scl_slope": FLOAT32,
        "scl_inter": FLOAT32,
        "xyzt_units": st.integers(0, 255),
        "qform_code": st.sampled_from([0, 1]) | INT16,
        "sform_code": st.sampled_from([0, 1]) | INT16,
        "quatern_b": FLOAT32,
        "quatern_c": FLOAT32,
        "quatern_d": FLOAT32,
        "srow_x": st.just((0, 0, -2.5, 0)) | st.tuples(*[FLOAT32] * 4),
        "srow_y": st.just((0, -3, 0, 0)) | st.tuples(*[FLOAT32] * 4),
        "srow_z": st.just((5, 0, 0, 0)) | st.tuples(*[FLOAT32] * 4),
    }
)


@settings(max_examples=400)
@given(fields=HEADER, body=st.binary(max_size=200), is_big_endian=st.booleans())
def test_any_nifti_header_is_read_or_refused(
    fields: dict[str, Any], body: bytes, is_big_endian: bool
) -> None:
    """A property: whatever a header's fields say, the answer is a CT or one line that names the file."""
    header = nib.Nifti1Header(endianness=">" if is_big_endian else "<", check=False)
    header["magic"] = b"n+1"
    with np.errstate(all="ignore"):
        for name, value in fields.items():
            header[name] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ct.nii"
        path.write_bytes(header.binaryblock + bytes(4) + body)
        check(path)

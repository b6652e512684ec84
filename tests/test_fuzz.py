"""The readers under damaged files: a share of the fuzz, and all that it once found."""

import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.robustness.fuzz import check, run

SEEDS = sorted(
    path for path in (Path(__file__).parent / "robustness" / "seeds").glob("*/*") if path.suffix != ".raw"
)


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_once_failed(path: Path) -> None:
    """Crashes of ITK, loops without end, gigabytes: each is refused in one line now."""
    assert check(path) == "refused"


def test_a_share_of_the_fuzz() -> None:
    """`python -m tests.robustness.fuzz` runs 20,000; these are the first."""
    counts, failures = run(inputs=400)
    assert not failures
    assert sum(counts.values()) == 400
    for outcome in ("read", "refused"):  # mutations that leave nothing readable would test little
        assert sum(n for name, n in counts.items() if name.endswith(f": {outcome}")) > 40


INT16 = st.sampled_from([-1, 0, 1, 2, 3, 4, 512]) | st.integers(-(2**15), 2**15 - 1)
FLOAT32 = st.sampled_from([0.0, -3.0, 352.0]) | st.floats(width=32)
CHANGES = st.one_of(
    *(st.tuples(st.just(name), INT16) for name in ("datatype", "qform_code", "sform_code", "xyzt_units")),
    *(st.tuples(st.just(name), FLOAT32) for name in ("vox_offset", "scl_slope", "scl_inter", "quatern_b")),
    *(st.tuples(st.just(name), st.tuples(*[FLOAT32] * 4)) for name in ("srow_x", "srow_y", "srow_z")),
    st.tuples(st.just("pixdim"), st.tuples(*[FLOAT32] * 8)),
    st.tuples(st.just("dim"), st.tuples(*[INT16] * 8)),
)


@settings(max_examples=400)
@given(changes=st.lists(CHANGES, max_size=3), is_big_endian=st.booleans())
def test_any_nifti_header_is_read_or_refused(changes: list[tuple[str, Any]], is_big_endian: bool) -> None:
    """A property: whatever a header's fields say, the answer is a CT or one line that names the file."""
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    header = nib.Nifti1Image(values, np.diag([2.5, 3.0, 5.0, 1.0])).header
    header["magic"], header["vox_offset"] = b"n+1", 352
    with np.errstate(all="ignore"):
        for name, value in changes:
            header[name] = np.asarray(value).astype(header[name].dtype)
    header = header.as_byteswapped(">" if is_big_endian else "<")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ct.nii"
        path.write_bytes(header.binaryblock + bytes(4) + values.tobytes())
        check(path)

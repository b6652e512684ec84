from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import invoke, save_abdomens
from training.cli import main

SIDE_PX = 168
GAP_PX = 4


def test_the_montage_shows_real_cts_first_and_synthetic_ones_after_them(tmp_path: Path) -> None:
    (real,) = save_abdomens(tmp_path / "real", 1)
    out = tmp_path / "montage.png"
    done = invoke(main, "montage", out, "--cases", 1, "--real", real)
    assert done.exit_code == 0, done.output
    picture = np.asarray(Image.open(out))
    assert picture.shape == (2 * SIDE_PX, 6 * (SIDE_PX + GAP_PX) - GAP_PX)
    first, second = (picture[:, i * (SIDE_PX + GAP_PX) :][:, :SIDE_PX] for i in range(2))
    assert first[:16, :16].max() > 200  # its mark
    assert len(np.unique(second)) > 50  # tissue, not a mask


def test_a_real_ct_that_cannot_be_read_is_one_line_and_exit_code_2(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    missing = tmp_path / "none.nii.gz"
    done = invoke(main, "montage", tmp_path / "m.png", "--cases", 1, "--real", missing)
    assert done.exit_code == 2
    assert "none.nii.gz" in caplog.text
    assert not (tmp_path / "m.png").exists()

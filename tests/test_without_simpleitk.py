"""NIfTI needs no SimpleITK; other formats say that they do."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HIDDEN = "import sys; sys.modules['SimpleITK'] = None; from pathlib import Path; "


def _run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN + code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_the_command_reads_and_writes_nifti_without_it(tmp_path: Path) -> None:
    code = f"""
import inference.cli
from inference.formats.ct import read_ct, write_label_map
ct = read_ct(Path('test_data/input/thick_slices.nii.gz'))
write_label_map(Path({str(tmp_path)!r}) / 'labels.nii.gz', (ct.hu > 0).astype('uint8'), ct.native)
"""
    _run(code)
    assert (tmp_path / "labels.nii.gz").is_file()


def test_another_format_names_what_is_missing() -> None:
    code = """
from inference.formats.ct import CaseError, read_ct
try:
    read_ct(Path('test_data/input/oblique.mha'))
except CaseError as error:
    print(error)
"""
    assert "SimpleITK, which is not installed" in _run(code)


def test_it_is_not_loaded_before_a_file_needs_it() -> None:
    code = "import sys, inference.cli; print('SimpleITK' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

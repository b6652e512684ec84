"""What the Dockerfile removes from packages is never loaded: DICOM is read and pages written without it."""

import re
import subprocess
import sys
from pathlib import Path

import pydicom

from tests.helpers import ABDOMEN_SPACING_MM, abdomen, files_under, save_dicom_series, write_weights

ROOT = Path(__file__).resolve().parent.parent
REMOVED = re.findall(r"\b(?:pydicom|PIL)/\w[\w/]*", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
"""`pydicom/sr`, `PIL/_avif` …"""


def test_what_is_removed_is_there_to_be_removed() -> None:
    packages = Path(pydicom.__file__).parent.parent
    assert len(REMOVED) == 4
    assert all((packages / path).is_dir() or list(packages.glob(f"{path}.*")) for path in REMOVED)


def test_a_dicom_series_is_segmented_without_it(tmp_path: Path) -> None:
    save_dicom_series(tmp_path / "in" / "scan", abdomen(), spacing_mm=ABDOMEN_SPACING_MM)
    hidden = dict.fromkeys(path.replace("/", ".") for path in REMOVED)
    code = f"import sys; sys.modules.update({hidden}); from inference.cli import main; main()"
    for more in (["--html", tmp_path / "page.html"], ["--output-format", "rtstruct"]):
        arguments = ["--input", tmp_path / "in", "--output", tmp_path / "out", "--device", "cpu", *more]
        arguments += ["--weights", write_weights(tmp_path / "weights")]
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
        assert done.returncode == 0, done.stderr
    assert files_under(tmp_path / "out") == ["scan.nii.gz", "scan.rtstruct.dcm"]
    assert "data:image/webp" in (tmp_path / "page.html").read_text(encoding="utf-8")

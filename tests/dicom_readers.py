"""Programs that are not ours, which read and check DICOM objects for tests."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def iod_errors(path: Path, iod: str) -> list[str]:
    """What dicom3tools' dciodvfy finds wrong with an object of its class.

    Args:
        path: the object.
        iod: what dciodvfy is to take it for.
    """
    program = _find("dciodvfy")
    if program is None:
        pytest.skip("NO DCIODVFY: THE OBJECT'S VALIDITY IS NOT CHECKED")
    done = subprocess.run([program, path], capture_output=True, encoding="utf-8", check=False)
    lines = (done.stdout + done.stderr).splitlines()
    assert iod in lines, lines
    return [line for line in lines if line.startswith("Error")]


def plastimatch_masks(structure_set: Path, series: Path, folder: Path) -> dict[str, Path]:
    """What plastimatch makes of a structure set on its CT's grid: an NRRD file a region, by its name."""
    program = _find("plastimatch")
    if program is None:
        pytest.skip("NO PLASTIMATCH (apt-get install plastimatch): STRUCTURE SETS ARE NOT READ BACK BY IT")
    command = [program, "convert", "--input", structure_set, "--referenced-ct", series]
    command += ["--output-prefix", folder, "--prefix-format", "nrrd"]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    return {path.stem: path for path in folder.glob("*.nrrd")}


def _find(program: str) -> str | None:
    return shutil.which(program, path=Path(sys.executable).parent) or shutil.which(program)

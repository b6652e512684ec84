"""Toy containers, one honest and the others each with one fault: `python /toys.py NAME`.

They need no image of their own: this file is mounted into any image that has Python, numpy and nibabel, as
its entrypoint. The CTs are `tests.helpers.abdomen`'s, which thresholds segment without error.
"""

import os
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

INPUT, OUTPUT = Path("/input"), Path("/output")
KIDNEY_HU, TUMOR_HU = 0, 150


def segment(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels in stored order, and the affine."""
    image: Any = nib.load(path)
    hu = np.asarray(image.dataobj)
    return (hu > KIDNEY_HU).astype(np.uint8) + (hu > TUMOR_HU), image.affine


def save(path: Path, labels: np.ndarray, affine: np.ndarray) -> None:
    """Write a label map under its CT's name."""
    nib.save(nib.Nifti1Image(labels.astype(np.uint8), affine), OUTPUT / path.name)


def honest(path: Path) -> None:
    """Has no fault."""
    save(path, *segment(path))


def writes_nothing(path: Path) -> None:
    """Ends well, and that is all."""


def forgets_a_slice(path: Path) -> None:
    """The array has another shape."""
    labels, affine = segment(path)
    save(path, labels[:-1], affine)


def moves_the_origin(path: Path) -> None:
    """The affine is another one."""
    labels, affine = segment(path)
    save(path, labels, affine + np.eye(4, k=3))


def stands_on_its_head(path: Path) -> None:
    """The array is mirrored, under an affine that is not."""
    labels, affine = segment(path)
    save(path, labels[::-1], affine)


def invents_a_label(path: Path) -> None:
    """Cysts as label 3."""
    labels, affine = segment(path)
    save(path, np.where(labels == 2, 3, labels), affine)


def writes_rubbish(path: Path) -> None:
    """The name is right."""
    (OUTPUT / path.name).write_bytes(b"no image")


def crashes_midway(path: Path) -> None:
    """After its first label map."""
    if any(OUTPUT.iterdir()):
        os.abort()
    honest(path)


def runs_too_long(path: Path) -> None:
    """Never comes back."""
    honest(path)
    time.sleep(3600)


def eats_memory(path: Path) -> None:
    """Until none is left."""
    held = []
    while True:
        held.append(np.ones(1 << 22))


def writes_into_its_image(path: Path) -> None:
    """A cache, say."""
    (Path(__file__).parent / "cache.npy").write_bytes(b"")
    honest(path)


def needs_the_network(path: Path) -> None:
    """To fetch its weights; the name exists nowhere (RFC 2606)."""
    urllib.request.urlopen("http://weights.invalid/")
    honest(path)


def leaves_a_file(path: Path) -> None:
    """Beside its label map."""
    honest(path)
    (OUTPUT / f"{path.name}.partial").write_bytes(b"")


def links_out(path: Path) -> None:
    """A link that the host would follow."""
    (OUTPUT / path.name).symlink_to("/etc/passwd")


TOYS: dict[str, Callable[[Path], None]] = {
    toy.__name__: toy
    for toy in (
        honest, writes_nothing, forgets_a_slice, moves_the_origin, stands_on_its_head, invents_a_label,
        writes_rubbish, links_out, leaves_a_file, crashes_midway, runs_too_long, eats_memory,
        needs_the_network, writes_into_its_image,
    )
}  # fmt: skip

if __name__ == "__main__":
    for ct in sorted(INPUT.glob("*.nii.gz")):
        TOYS[sys.argv[1]](ct)

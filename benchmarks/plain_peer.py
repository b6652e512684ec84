"""The usual way with nibabel and scipy: the whole volume as floats, resampled whole, restored whole."""

import json
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from inference.runner.report import peak_rss_mib

SPACING_MM = 2.0
KIDNEY_HU = 100.0


def main(path: str) -> None:
    """Print seconds by step and the peak memory as a line of JSON."""
    seconds = {}
    start = time.perf_counter()
    image = nib.load(path)
    hu = image.get_fdata(dtype=np.float32)
    zoom = np.linalg.norm(image.affine[:3, :3], axis=0) / SPACING_MM
    small = ndimage.zoom(hu, zoom, order=1, grid_mode=True, mode="nearest")
    seconds["read, resample"] = time.perf_counter() - start

    start = time.perf_counter()
    components, n = ndimage.label(small > KIDNEY_HU, np.ones((3, 3, 3)))
    sizes = np.bincount(components.ravel())[1:]
    kept = np.isin(components, 1 + np.argsort(-sizes)[:3])
    back = np.array(hu.shape) / kept.shape
    probability = ndimage.zoom(kept.astype(np.float32), back, order=1, grid_mode=True, mode="nearest")
    labels = (probability > 0.5).astype(np.uint8)
    seconds["components, restore"] = time.perf_counter() - start

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        nib.save(nib.Nifti1Image(labels, image.affine), Path(folder) / "labels.nii.gz")
    seconds["write"] = time.perf_counter() - start
    peak_mib = peak_rss_mib()
    print(json.dumps(seconds | {"peak_mib": peak_mib, "components": int(n)}))

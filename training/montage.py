"""Synthetic CTs beside real ones, as a picture: to see how they differ."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from inference.formats.ct import read_ct
from inference.geometry import RoiSpec, resample
from inference.method.roi import normalise, place_roi
from training.cache import LabelMap
from training.chain import PRESETS
from training.synthetic import SyntheticPatients

log = logging.getLogger("training")
COLUMNS = 6
GAP_PX = 4
PRESET = "paper-kidney"
"""Synthetic patients are sampled as in this preset, on its whole ROI."""


def draw_montage(
    out: Path, *, synthetic: int, real: Sequence[Path] = (), maps: Sequence[LabelMap] = (), seed: int = 0
) -> None:
    """Write a PNG with an axial slice above a coronal slice of every CT, the real ones first, marked R.

    Args:
        out: the PNG.
        synthetic: how many synthetic CTs.
        real: CT files; their ROI is cropped around the image centre, as in the paper.
        maps: label maps to synthesise CTs around, at random; without any, kidneys are synthetic too.
        seed: of the synthetic patients.

    Raises:
        CaseError: a real CT cannot be read.
    """
    config = replace(PRESETS[PRESET], crop_vox=None, seed=seed)
    panels = []
    for path in real:
        ct = read_ct(path)
        image = normalise(resample(ct.hu, place_roi(ct.hu.shape, ct.spacing_mm, config.roi)), config.roi)
        panels.append(_panel(image, [n // 2 for n in image.shape], "R"))
    patients = SyntheticPatients(maps, config, config.sampling)
    for i in range(synthetic):
        voxels, labels = patients[i]
        kidneys = np.argwhere(labels.numpy() > 0)
        centre = kidneys.mean(0).astype(int) if len(kidneys) else np.asarray(labels.shape) // 2
        panels.append(_panel(voxels[0].numpy(), centre.tolist(), ""))
    _write_grid(out, panels, config.roi)


def _panel(image: NDArray[np.float32], centre: Sequence[int], mark: str) -> Image.Image:
    """(z, y, x) in [0, 1] → axial slice above coronal slice, patient's right on the picture's left."""
    axial, coronal = image[centre[0]], image[::-1, centre[1]]
    picture = Image.fromarray((np.concatenate((axial, coronal)) * 255).astype(np.uint8))
    ImageDraw.Draw(picture).text((3, 3), mark, fill=255)
    return picture


def _write_grid(out: Path, panels: Sequence[Image.Image], roi: RoiSpec) -> None:
    depth, height, width = roi.shape_vox
    rows = -(-len(panels) // COLUMNS)
    step_x, step_y = width + GAP_PX, depth + height + GAP_PX
    grid = Image.new("L", (COLUMNS * step_x - GAP_PX, rows * step_y - GAP_PX), 64)
    for i, panel in enumerate(panels):
        grid.paste(panel, (i % COLUMNS * step_x, i // COLUMNS * step_y))
    out.parent.mkdir(parents=True, exist_ok=True)
    grid.save(out)
    log.info("%s: %d CTs", out, len(panels))

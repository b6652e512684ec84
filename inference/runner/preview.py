"""A picture of one result like the paper's Figure 2: axial, coronal and sagittal, structures outlined."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from ..formats.ct import Ct
from ..formats.staging import staged
from ..geometry import KIDNEY, TUMOR

WINDOW_HU = (-160.0, 240.0)
PIXEL_MM = 0.8
FIELD_MM = 400.0
"""Longest side of a panel: a whole-body scan is shown around its kidneys only."""
COLOURS = {KIDNEY: (80, 220, 120), TUMOR: (255, 70, 70)}
TEXT_COLOUR = (235, 235, 235)
MARGIN_PX = 8
FONT_PX = 15


def write_preview(path: Path, ct: Ct, labels: NDArray[np.uint8]) -> None:
    """Write three planes through the largest tumor, or else through the kidneys, as one PNG.

    Radiological orientation: the patient's right is on the viewer's left, sagittal planes look from the
    patient's left with anterior on the left. Pixels are square in millimetres.

    Args:
        path: the PNG file. Missing folders are made.
        ct: the CT.
        labels: (z, y, x), same voxels as the CT's.

    Raises:
        OSError: the picture cannot be written.
    """
    focus = _focus(labels)
    panels = [
        _panel(ct, labels, focus, axis, title)
        for axis, title in ((0, "axial"), (1, "coronal"), (2, "sagittal"))
    ]
    width = sum(panel.width for panel in panels) + MARGIN_PX * (len(panels) + 1)
    height = max(panel.height for panel in panels) + 2 * MARGIN_PX
    picture = Image.new("RGB", (width, height))
    left = MARGIN_PX
    for panel in panels:
        picture.paste(panel, (left, (height - panel.height) // 2))
        left += panel.width + MARGIN_PX
    with staged(path) as partial:
        picture.save(partial, format="PNG")


def _focus(labels: NDArray[np.uint8]) -> tuple[int, int, int]:
    """The voxel (z, y, x) all planes pass through: where most of the wanted label lies on each axis."""
    wanted = next((label for label in (TUMOR, KIDNEY) if np.any(labels == label)), None)
    if wanted is None:
        z, y, x = (n // 2 for n in labels.shape)
        return (z, y, x)
    box = ndimage.find_objects((labels == wanted).astype(np.uint8))[0]
    components, _ = ndimage.label(labels[box] == wanted)
    largest = components == 1 + int(np.argmax(np.bincount(components.ravel())[1:]))
    z = int(largest.sum((1, 2)).argmax())
    x = int(largest.sum((0, 1)).argmax())
    y = int(largest[z].sum(1).argmax())
    return (box[0].start + z, box[1].start + y, box[2].start + x)


def _panel(
    ct: Ct, labels: NDArray[np.uint8], focus: tuple[int, int, int], axis: int, title: str
) -> Image.Image:
    rows, columns = (a for a in range(3) if a != axis)
    plane = tuple(
        focus[a] if a == axis else _field(labels.shape[a], ct.spacing_mm[a], focus[a]) for a in range(3)
    )
    hu = np.asarray(ct.hu[plane], dtype=np.float32)
    zoom = [ct.spacing_mm[a] / PIXEL_MM for a in (rows, columns)]
    grey = ndimage.zoom(np.clip(hu, *WINDOW_HU), zoom, order=1, mode="nearest", grid_mode=True)
    grey = (grey - WINDOW_HU[0]) * (255 / (WINDOW_HU[1] - WINDOW_HU[0]))
    pixels = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    for label, colour in COLOURS.items():
        # the kidney's outline runs around its tumor too, as in KiTS: kidney and masses together
        mask = labels[plane] >= label
        mask = ndimage.zoom(mask.astype(np.uint8), zoom, order=0, mode="nearest", grid_mode=True) > 0
        pixels[mask & ~ndimage.binary_erosion(mask, iterations=1)] = colour
    if rows == 0:
        pixels = pixels[::-1]  # superior at the top
    panel = Image.fromarray(np.ascontiguousarray(pixels))
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(FONT_PX)
    draw.text((4, 2), title, TEXT_COLOUR, font)
    if axis != 2:
        draw.text((4, panel.height // 2), "R", TEXT_COLOUR, font)
        draw.text((panel.width - FONT_PX, panel.height // 2), "L", TEXT_COLOUR, font)
    else:
        draw.text((4, panel.height // 2), "A", TEXT_COLOUR, font)
        draw.text((panel.width - FONT_PX, panel.height // 2), "P", TEXT_COLOUR, font)
    return panel


def _field(n_voxels: int, spacing_mm: float, centre: int) -> slice:
    """At most `FIELD_MM` of an axis, around the centre and as far as it reaches inside the CT."""
    length = min(n_voxels, max(1, round(FIELD_MM / spacing_mm)))
    start = min(max(0, centre - length // 2), n_voxels - length)
    return slice(start, start + length)

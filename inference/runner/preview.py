"""A picture of one result like the paper's Figure 2: axial, coronal and sagittal, structures outlined."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from ..formats import segments
from ..formats.ct import Ct
from ..formats.staging import staged
from ..geometry import KIDNEY, TUMOR, Shape
from .findings import Findings
from .slices import FIELD_MM, WINDOW_HU, Slice, cut, fullest, grey

PIXEL_MM = 0.8
COLOURS = {KIDNEY: segments.COLOURS["kidney"], TUMOR: segments.COLOURS["tumor"]}
TEXT_COLOUR = (235, 235, 235)
MARGIN_PX = 8
FONT_PX = 15
LINE_PX = 22
"""Height of a line of text, of which there are two above the panels."""


def write_preview(path: Path, name: str, ct: Ct, labels: NDArray[np.uint8], findings: Findings) -> None:
    """Write three planes through the largest tumor, or else through the largest kidney, as one PNG.

    Each plane is the one with most of that structure. Above them stand the case, its volumes and the window,
    in each its index in the file and its position (LPS). Radiological orientation: the patient's right is on
    the viewer's left, sagittal planes look from the patient's left with anterior on the left. Pixels are
    square in millimetres.

    Args:
        path: the PNG file. Missing folders are made.
        name: the case's.
        ct: the CT.
        labels: (z, y, x), same voxels as the CT's.
        findings: of these labels.

    Raises:
        OSError: the picture cannot be written.
    """
    centre = _centre(findings, labels.shape)
    panels = [_panel(cut(ct, labels, axis, centre, FIELD_MM)) for axis in range(3)]
    font = ImageFont.load_default(FONT_PX)
    lines = [_title(name, findings), f"window {WINDOW_HU[0]:.0f} to {WINDOW_HU[1]:.0f} HU; research use only"]
    width = sum(panel.width for panel in panels) + MARGIN_PX * (len(panels) + 1)
    width = max(width, *(round(font.getlength(line)) + 2 * MARGIN_PX for line in lines))
    top = MARGIN_PX + len(lines) * LINE_PX
    height = max(panel.height for panel in panels) + top + MARGIN_PX
    picture = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(picture)
    for i, line in enumerate(lines):
        draw.text((MARGIN_PX, MARGIN_PX // 2 + i * LINE_PX), line, TEXT_COLOUR, font)
    left = MARGIN_PX
    for panel in panels:
        picture.paste(panel, (left, top + (height - top - MARGIN_PX - panel.height) // 2))
        left += panel.width + MARGIN_PX
    with staged(path) as partial:
        picture.save(partial, format="PNG")


def _title(name: str, findings: Findings) -> str:
    kidneys = ", ".join(f"{kidney.name}: {kidney.ml} ml" for kidney in findings.kidneys)
    tumors = ", ".join(f"{tumor.name}: {tumor.ml} ml" for tumor in findings.tumors)
    return f"{name}    {kidneys or 'no kidney found'}; {tumors or 'no tumor'}"


def _centre(findings: Findings, shape: tuple[int, ...]) -> Shape:
    """The voxel (z, y, x) that the planes go through, where the largest structure has most on each axis."""
    parts = findings.parts
    wanted = parts.tumors == 1 if findings.tumors else parts.kidneys == 1
    if not wanted.size:
        z, y, x = (n // 2 for n in shape)
    else:
        z, y, x = (parts.box[axis].start + fullest(wanted, axis) for axis in range(3))
    return (z, y, x)


def _panel(piece: Slice) -> Image.Image:
    pixels = np.repeat(grey(piece, PIXEL_MM)[..., None], 3, axis=2)
    zoom = [mm / PIXEL_MM for mm in piece.voxel_mm]
    for label, colour in COLOURS.items():
        # the kidney's outline runs around its tumor too, as in KiTS: kidney and masses together
        mask = (piece.labels >= label).astype(np.uint8)
        mask = ndimage.zoom(mask, zoom, order=0, mode="nearest", grid_mode=True) > 0
        pixels[mask & ~ndimage.binary_erosion(mask, iterations=1)] = colour
    panel = Image.fromarray(np.ascontiguousarray(pixels))
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(FONT_PX)
    plane, place_mm = piece.caption.split(", ", 1)
    texts = [((4, 2), plane), ((4, panel.height - LINE_PX), place_mm)]
    texts += [
        ((x, panel.height // 2), e) for x, e in zip((4, panel.width - FONT_PX), piece.edges, strict=True)
    ]
    for place, text in texts:
        draw.text(place, text, TEXT_COLOUR, font, stroke_width=1, stroke_fill=(0, 0, 0))
    return panel

"""Lungs and heart."""

from dataclasses import dataclass

import numpy as np
import torch

from training.synthesis.canvas import Canvas
from training.synthesis.patient import Patient
from training.synthesis.ranges import Range, Ranges3


@dataclass(frozen=True)
class LungRanges:
    """Diaphragm: its floor rises from the sulcus at the wall to the dome, as height · d / (d + half)."""

    sulcus_z: Range = (15.0, 120.0)
    height_mm: Range = (70.0, 150.0)
    half_mm: Range = (12.0, 40.0)  # depth under the wall at which half the height is reached
    hu: Range = (-950.0, -700.0)
    clearance_mm: float = 6.0  # diaphragm and fat between lung and kidney
    heart_z: Range = (-20.0, 40.0)  # against the dome
    heart_y: Range = (-35.0, -15.0)  # against the trunk's centre
    heart_x: Range = (-5.0, 40.0)
    heart_radii: Ranges3 = ((35, 60), (35, 55), (45, 65))


RANGES = LungRanges()


def lungs(canvas: Canvas, patient: Patient) -> None:
    """Lungs and heart above the diaphragm; below it is the abdomen."""
    ranges, draw = RANGES, patient.draw("lungs")
    sulcus, height, half, hu = (
        draw(s) for s in (ranges.sulcus_z, ranges.height_mm, ranges.half_mm, ranges.hu)
    )
    shift = draw.triple((ranges.heart_z, ranges.heart_y, ranges.heart_x))
    heart_radii = draw.triple(ranges.heart_radii)
    heart_hu = 0.5 * (patient.tissue.aorta + patient.tissue.vena_cava)
    part = canvas.region(z=(sulcus, np.inf))
    deep = part.cavity.clamp(min=0)
    above = part.z - sulcus - height * deep / (deep + half)
    share = part.soft(torch.minimum(above, part.clearance - ranges.clearance_mm)).mul_(part.abdomen)
    part.paint(share, hu)
    part.abdomen.sub_(share)
    heart = (sulcus + height + shift[0], patient.body_y + shift[1], shift[2])
    part = canvas.around(heart, heart_radii)
    above_only = part.soft(part.cavity).sub_(part.abdomen).clamp_(min=0)
    part.paint(part.soft(part.ellipsoid(heart, heart_radii)).mul_(above_only), heart_hu)

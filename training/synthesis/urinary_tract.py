"""Renal pelves as far as they lie outside the kidneys, and ureters: neither is kidney in KiTS19."""

from dataclasses import dataclass

import numpy as np
import torch

from training.synthesis.canvas import Canvas
from training.synthesis.patient import Patient
from training.synthesis.ranges import Range, Ranges3


@dataclass(frozen=True)
class UrinaryTractRanges:
    """Renal pelves relative to their kidney's centre; ureters from there downwards."""

    pelvis_share: float = 0.6  # renal pelves that reach out of the kidney
    pelvis_medial: Range = (12, 30)  # of the kidney's centre
    pelvis_front: Range = (-4, 14)
    pelvis_z: Range = (-18, 8)
    pelvis_radii: Ranges3 = ((5, 18), (4, 12), (6, 18))
    ureter_share: float = 0.7  # filled ones
    ureter_radius: Range = (1.5, 4.0)
    ureter_x: Range = (26, 45)  # where it ends, in front of the psoas ...
    ureter_y: Range = (-30, -5)  # ... against the vertebral body's centre ...
    ureter_fall_mm: float = 120.0  # ... so far below the kidney


RANGES = UrinaryTractRanges()


def urinary_tract(canvas: Canvas, patient: Patient) -> None:
    """Renal pelves as far as they lie outside the kidneys, and ureters: neither is kidney in KiTS19."""
    ranges, draw, urine = RANGES, patient.draw("urinary tract"), patient.tissue.urine
    for kidney_z, kidney_y, kidney_x in patient.kidney_centres:
        side = 1 if kidney_x > 0 else -1
        z, y = kidney_z + draw(ranges.pelvis_z), kidney_y - draw(ranges.pelvis_front)
        x, radii = kidney_x - side * draw(ranges.pelvis_medial), draw.triple(ranges.pelvis_radii)
        radius = draw(ranges.ureter_radius)
        end_y, end_x = patient.spine_y + draw(ranges.ureter_y), patient.spine_x + side * draw(ranges.ureter_x)
        has_pelvis, has_ureter = draw.chance(ranges.pelvis_share), draw.chance(ranges.ureter_share)
        if has_pelvis:
            part = canvas.around((z, y, x), radii)
            part.paint(part.soft(part.ellipsoid((z, y, x), radii)).mul_(part.free(0.0)), urine)
        if has_ureter:
            spans = ((min(a, b) - radius, max(a, b) + radius) for a, b in ((y, end_y), (x, end_x)))
            part = canvas.region((-np.inf, z), *spans)
            way = (z - part.z).div_(ranges.ureter_fall_mm).clamp_(max=1)
            away = (part.y - y).sub_(way, alpha=end_y - y).square_()
            away.add_((part.x - x).sub_(way, alpha=end_x - x).square_()).sqrt_()
            depth = torch.minimum(radius - away, z - part.z)
            part.paint(part.soft(depth).mul_(part.free(0.0)), urine)

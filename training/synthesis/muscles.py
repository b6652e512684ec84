"""Muscles of the back: psoas, quadratus lumborum, erector spinae."""

from dataclasses import dataclass

import numpy as np
import torch

from training.synthesis.canvas import EVERYWHERE, Canvas
from training.synthesis.patient import Patient
from training.synthesis.ranges import Range


@dataclass(frozen=True)
class MuscleRanges:
    """Positions are relative to the vertebral body's centre."""

    clearance_mm: Range = (0.0, 4.0)
    # psoas grows downwards from this level: per mm of descent it gains depth and width and moves outwards
    psoas_top_z: Range = (20, 60)
    psoas_growth: tuple[float, float, float] = (0.14, 0.12, 0.14)
    psoas_y: Range = (0, 8)
    psoas_x: Range = (4, 9)  # beyond the vertebral body
    psoas_depth: Range = (8, 14)
    psoas_width: Range = (7, 12)
    psoas_longest_mm: float = 160.0
    psoas_thinnest_mm: float = 4.0
    quadratus_y: Range = (26, 40)
    quadratus_x: Range = (45, 62)
    quadratus_depth: Range = (7, 13)
    quadratus_width: Range = (14, 24)
    erector_y: Range = (40, 54)
    erector_x: Range = (25, 36)
    erector_depth: Range = (17, 30)
    erector_width: Range = (20, 37)
    texture_hu: Range = (0.0, 14.0)  # streaks of fat
    texture_cell_mm: float = 9.0


RANGES = MuscleRanges()


def muscles(canvas: Canvas, patient: Patient) -> None:
    """Psoas (wider downwards), quadratus lumborum, erector spinae."""
    ranges, draw, sy, sx = RANGES, patient.draw("muscles"), patient.spine_y, patient.spine_x
    clearance = draw(ranges.clearance_mm)
    for side in (-1, 1):
        top, y0 = draw(ranges.psoas_top_z), sy + draw(ranges.psoas_y)
        depth, width, outwards = draw(ranges.psoas_depth), draw(ranges.psoas_width), draw(ranges.psoas_x)
        texture = draw.field(ranges.texture_cell_mm), draw(ranges.texture_hu)
        more_depth, more_width, drift = ranges.psoas_growth
        longest = ranges.psoas_longest_mm
        far = sx + side * (patient.spine_half_width + outwards + width + longest * (drift + more_width))
        deepest, tip = depth + more_depth * longest, top + depth / more_depth
        part = canvas.region((-np.inf, tip), (y0 - deepest, y0 + deepest), (min(sx, far), max(sx, far)))
        down = (top - part.z).clamp_(max=longest)
        rx = (down * more_width).add_(width).clamp_(min=ranges.psoas_thinnest_mm)
        ry = (down * more_depth).add_(depth).clamp_(min=ranges.psoas_thinnest_mm)
        x0 = (down * drift).add_(patient.spine_half_width + outwards)
        away = ((part.y - y0) / ry).square_().add_(((part.x - sx) * side - x0).div_(rx).square_())
        psoas = torch.minimum(away.neg_().add_(1).mul_(rx).mul_(0.5), tip - part.z)
        part.paint(part.soft(psoas).mul_(part.free(clearance)), part.noise(*texture, patient.tissue.muscle))
        for spans in (
            (ranges.quadratus_y, ranges.quadratus_x, ranges.quadratus_depth, ranges.quadratus_width),
            (ranges.erector_y, ranges.erector_x, ranges.erector_depth, ranges.erector_width),
        ):
            y, x, depth, width = (draw(s) for s in spans)
            y, x = sy + y, sx + side * x
            part = canvas.region(EVERYWHERE, (y - depth, y + depth), (x - width, x + width))
            within = part.soft(torch.minimum(part.tube(y, x, depth, width), part.core))
            part.paint(within.mul_(part.free(clearance)), part.noise(*texture, patient.tissue.muscle))

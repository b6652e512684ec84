"""Iliac wings, sacrum, hips, bladder, and metal in some."""

from dataclasses import dataclass

import numpy as np
import torch

from training.synthesis.canvas import Canvas
from training.synthesis.patient import Patient
from training.synthesis.ranges import Point, Range, Ranges3


@dataclass(frozen=True)
class PelvisRanges:
    """Iliac wings as a funnel, sacrum, hips, bladder, and a prosthesis in some."""

    crest_z: Range = (-170, -80)
    centre_y: Range = (-20, 10)
    top_half_width: Range = (105, 140)
    top_half_depth: Range = (60, 85)
    narrowing: Range = (0.2, 0.4)  # mm per mm of descent
    half_thick_mm: Range = (2.5, 6.0)
    cortical_mm: float = 2.5
    marrow_hu: Range = (20, 200)
    bone_hu: Range = (250, 700)
    depth_mm: float = 150.0  # no narrower below this
    front_mm: Range = (-30, 20)  # the wings end here, against the centre
    front_slope: float = 0.3  # and farther forwards lower down
    sacral_gap_mm: float = 18.0  # from the midline
    crest_arch: float = 0.4  # the crest falls in front and behind (mm per mm)
    gluteal_mm: Range = (15, 45)
    sacrum_radii: Ranges3 = ((45, 65), (18, 28), (40, 58))
    sacrum_below_crest: Range = (40, 70)
    sacrum_y: Range = (35, 60)
    hip_below_crest: Range = (125, 165)
    hip_x: Range = (80, 100)
    hip_y: Range = (-15, 15)
    hip_radius: Range = (21, 28)
    bladder_below_crest: Range = (120, 170)
    bladder_y: Range = (-60, -20)
    bladder_radii: Ranges3 = ((15, 45), (20, 45), (25, 55))
    metal_share: float = 0.08  # prosthesis in one hip
    screw_share: float = 0.03  # a pair of pedicle screws
    screw_z: Range = (-150, 40)
    screw_x: float = 14.0
    screw_radii: Point = (4, 24, 4)
    metal_hu: Range = (1800, 3071)


RANGES = PelvisRanges()


def pelvis(canvas: Canvas, patient: Patient) -> None:
    """Iliac wings with the muscles on them, sacrum, hips, bladder; metal in some hips and spines."""
    ranges, draw, tissue = RANGES, patient.draw("pelvis"), patient.tissue
    crest, y0, narrowing = draw(ranges.crest_z), draw(ranges.centre_y), draw(ranges.narrowing)
    width, depth, thick = draw(ranges.top_half_width), draw(ranges.top_half_depth), draw(ranges.half_thick_mm)
    width = min(width, patient.half_width - patient.skin_fat - 2 * thick)
    front, gluteal = y0 + draw(ranges.front_mm), draw(ranges.gluteal_mm)
    marrow, bone_hu = draw(ranges.marrow_hu), draw(ranges.bone_hu)

    part = canvas.region(z=(-np.inf, crest))
    free, down = part.free(0.0), (crest - part.z).clamp_(max=ranges.depth_mm)
    half_width, half_depth = (down * -narrowing).add_(width), (down * (-narrowing / 2)).add_(depth)
    away = ((part.y - y0) / half_depth).square_().add_((part.x / half_width).square_()).sqrt_()
    outwards = away.sub_(1).mul_(half_depth)  # distance outside the funnel
    wing = torch.minimum(part.y - front + ranges.front_slope * down, part.x.abs() - ranges.sacral_gap_mm)
    crest_arch = (part.y - y0).abs_().mul_(ranges.crest_arch)  # highest at the flank
    wing = torch.minimum(torch.minimum(wing, down - crest_arch), part.core)
    part.paint(part.soft(torch.minimum(gluteal - (outwards - gluteal).abs(), wing)).mul_(free), tissue.muscle)
    wing = torch.minimum(thick - outwards.abs_(), wing)
    part.paint(part.soft(wing).mul_(free), bone_hu)
    part.paint(part.soft(wing - ranges.cortical_mm).mul_(free), marrow)

    sacrum = crest - draw(ranges.sacrum_below_crest), draw(ranges.sacrum_y), 0.0
    balls = [(sacrum, draw.triple(ranges.sacrum_radii))]
    for side in (-1, 1):
        hip = crest - draw(ranges.hip_below_crest), draw(ranges.hip_y), side * draw(ranges.hip_x)
        balls.append((hip, (draw(ranges.hip_radius),) * 3))
    metal_hip, metal_hu = draw.chance(ranges.metal_share), draw(ranges.metal_hu)
    for number, (centre, radii) in enumerate(balls):
        part = canvas.around(centre, radii)
        ball, free = part.ellipsoid(centre, radii), part.free(0.0)
        part.paint(part.soft(ball).mul_(free), bone_hu)
        inner, hu = ball - ranges.cortical_mm, marrow
        if number == 1 and metal_hip:
            inner, hu = ball, metal_hu
            canvas.metal.append(centre)
        part.paint(part.soft(inner).mul_(free), hu)
    centre = crest - draw(ranges.bladder_below_crest), draw(ranges.bladder_y), 0.0
    radii = draw.triple(ranges.bladder_radii)
    part = canvas.around(centre, radii)
    part.paint(part.soft(part.ellipsoid(centre, radii)).mul_(part.room(0.0)), tissue.urine)
    screw_z, screws = draw(ranges.screw_z), draw.chance(ranges.screw_share)
    for side in (-1, 1):
        x = patient.spine_x + side * ranges.screw_x
        centre = screw_z, patient.spine_y + patient.spine_half_depth, x
        if screws:
            part = canvas.around(centre, ranges.screw_radii)
            share = part.soft(part.ellipsoid(centre, ranges.screw_radii))
            part.paint(share.mul_(part.free(0.0)), metal_hu)
            canvas.metal.append(centre)

"""Spine and ribs."""

from dataclasses import dataclass

import numpy as np
import torch

from training.synthesis.canvas import EVERYWHERE, Canvas
from training.synthesis.patient import Patient
from training.synthesis.ranges import Range


@dataclass(frozen=True)
class SkeletonRanges:
    """Vertebrae with their arches and processes, discs, ribs."""

    period_z: Range = (27, 38)  # vertebra and disc
    disc_mm: Range = (5, 11)
    trabecular_hu: Range = (80, 280)
    cortical_more_hu: Range = (100, 500)
    cortical_mm: Range = (1.5, 4.0)
    disc_hu: Range = (50, 120)
    canal_hu: Range = (10, 60)
    canal_gap: float = 9.0  # vertebral body's back to the canal's centre
    canal_radius: Range = (6, 10)
    arch_radius: Range = (12, 16)
    arch_from_level: float = 0.35  # the lower part of the period is free of bone
    process_half_width: Range = (2.5, 5)
    process_length: Range = (30, 48)
    process_from: float = 15.0
    transverse_length: Range = (30, 44)
    transverse_half: Range = (2.5, 4.5)
    transverse_from: float = 12.0
    transverse_from_level: float = 0.75
    rib_share: float = 0.92
    rib_period_mm: Range = (22, 34)
    rib_tilt: Range = (0.3, 0.7)  # ribs descend forwards (mm per mm)
    rib_fall: Range = (0.2, 0.7)  # and outwards
    costal_slope: float = 0.7  # the costal margin rises forwards
    rib_half_mm: Range = (3.5, 6.0)
    rib_lowest_z: Range = (-80, 30)
    bone_hu: Range = (200, 600)


RANGES = SkeletonRanges()


def bones(canvas: Canvas, patient: Patient) -> None:
    """Spine and ribs."""
    ranges, draw = RANGES, patient.draw("bones")
    sy, sx, ry, rx = patient.spine_y, patient.spine_x, patient.spine_half_depth, patient.spine_half_width
    period = draw(ranges.period_z)
    offset, trabecular = draw((0, period)), draw(ranges.trabecular_hu)
    cortical = trabecular + draw(ranges.cortical_more_hu)
    shell, disc, disc_hu = draw(ranges.cortical_mm), draw(ranges.disc_mm), draw(ranges.disc_hu)
    part = canvas.region(EVERYWHERE, (sy - ry, sy + ry), (sx - rx, sx + rx))
    level, free = torch.remainder(part.z + offset, period), part.free(0.0)
    vertebra = torch.minimum(
        part.tube(sy, sx, ry, rx), (level - disc / 2 - period / 2).abs_().neg_().add_((period - disc) / 2)
    )
    part.paint(part.soft(part.tube(sy, sx, ry, rx)).mul_(free), disc_hu)
    part.paint(part.soft(vertebra).mul_(free), cortical)
    part.paint(part.soft(vertebra - shell).mul_(free), trabecular)

    canal_y, canal = sy + ry + ranges.canal_gap, (draw(ranges.canal_radius), draw(ranges.canal_radius))
    arch, half = draw(ranges.arch_radius), draw(ranges.process_half_width)
    length, sideways, thick = (
        draw(ranges.process_length),
        draw(ranges.transverse_length),
        draw(ranges.transverse_half),
    )
    part = canvas.region(EVERYWHERE, (sy + ry - thick, sy + ry + length), (sx - sideways, sx + sideways))
    x, level, free = (part.x - sx).abs_(), torch.remainder(part.z + offset, period), part.free(0.0)
    back = part.y - (sy + ry)
    bony = level - period * ranges.arch_from_level
    process = torch.minimum(half - x, torch.minimum(back - ranges.process_from, length - back))
    depth = torch.maximum(part.tube(canal_y, sx, arch, arch), process)
    across = torch.minimum(sideways - x, x - ranges.transverse_from)
    across = torch.minimum(across, (back - thick).abs_().neg_().add_(thick))
    across = torch.minimum(across, level - period * ranges.transverse_from_level)
    depth = torch.maximum(torch.minimum(depth, bony), across)
    depth = torch.minimum(depth, part.core)
    part.paint(part.soft(depth).mul_(free), cortical)
    part.paint(part.soft(depth - shell).mul_(free), trabecular)
    part.paint(part.soft(part.tube(canal_y, sx, *canal)).mul_(free), draw(ranges.canal_hu))

    rib_period, tilt, fall = draw(ranges.rib_period_mm), draw(ranges.rib_tilt), draw(ranges.rib_fall)
    lowest = draw(ranges.rib_lowest_z)
    rib_offset, thick, hu = draw((0, rib_period)), draw(ranges.rib_half_mm), draw(ranges.bone_hu)
    if draw.chance(ranges.rib_share):
        part = canvas.region(z=(lowest, np.inf))
        ring = (part.cavity + thick).abs_().neg_().add_(thick)
        level = (part.z - tilt * part.y).add_(part.x.abs(), alpha=fall).add_(rib_offset)
        level = torch.remainder(level, rib_period).sub_(rib_period / 2).abs_()
        margin = part.z - lowest - (patient.body_y - part.y).clamp_(min=0).mul_(ranges.costal_slope)
        depth = torch.minimum(torch.minimum(ring, thick - level), margin)
        part.paint(part.soft(torch.minimum(depth, part.core)).mul_(part.free(2.0)), hu)

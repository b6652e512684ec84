"""Outline of the trunk with its wall muscles; the table and the arms beside it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from training.synthesis import muscles
from training.synthesis.canvas import AIR_HU, Canvas, raised
from training.synthesis.patient import Patient
from training.synthesis.ranges import Range


@dataclass(frozen=True)
class BodyRanges:
    """Skin, muscles of the wall, fluid, table and arms."""

    skin_mm: float = 2.0
    skin_hu: Range = (-40.0, 30.0)
    shift_mm: Range = (-4.0, 8.0)  # the muscle ring and the cavity lie off the outline's centre
    wall_fat_share: float = 0.5  # a layer of fat between the wall's muscles
    wall_fat_mm: Range = (0.5, 2.5)  # half its thickness
    wall_fat_place: Range = (0.3, 0.7)  # from the cavity outwards, as a share of the wall
    fluid_share: float = 0.04  # ascites in place of the cavity's fat
    fluid_hu: Range = (0.0, 25.0)
    table_share: float = 0.6
    table_gap_mm: Range = (3.0, 25.0)
    table_curve_mm: Range = (600.0, 4000.0)
    table_thick_mm: Range = (1.5, 4.0)  # half of it
    table_hu: Range = (-700.0, 150.0)  # carbon shell to metal rail
    arms_share: float = 0.12  # arms down
    arm_gap_mm: Range = (0.0, 20.0)
    arm_radius_mm: Range = (28.0, 48.0)
    arm_y_mm: Range = (-40.0, 40.0)  # against the body's centre
    arm_bone_mm: Range = (8.0, 13.0)
    arm_muscle_share: float = 0.8  # of the radius
    arm_bone_hu: float = 600.0


RANGES = BodyRanges()


def body(canvas: Canvas, patient: Patient) -> None:
    """Skin, fat, wall muscles and the fat-filled cavity; stores their depths in the canvas."""
    ranges, draw, tissue, whole = RANGES, patient.draw("body"), patient.tissue, canvas.region()
    power, depth, width = patient.power, patient.half_depth, patient.half_width

    def inside(y_shift: float, depth: float, width: float) -> Tensor:
        y = raised((canvas.warped[1] - (patient.body_y + y_shift)).div_(depth), power)
        x = raised(canvas.warped[2] / width, power)
        return y.add_(x).neg_().add_(1.0).mul_((depth + width) / 2 / power)

    outline = inside(0.0, depth, width)
    core_depth, core_width = depth - patient.front_fat, width - patient.skin_fat
    canvas.core = inside(draw(ranges.shift_mm), core_depth, core_width)
    canvas.core = torch.minimum(canvas.core, outline - ranges.skin_mm)
    canvas.cavity = inside(draw(ranges.shift_mm), core_depth - patient.wall, core_width - patient.wall)
    canvas.cavity = torch.minimum(canvas.cavity, canvas.core - ranges.skin_mm)
    whole.paint(whole.soft(outline), draw(ranges.skin_hu))
    whole.paint(whole.soft(outline - ranges.skin_mm), tissue.fat)
    texture = draw.field(muscles.RANGES.texture_cell_mm)
    muscle = whole.noise(texture, draw(muscles.RANGES.texture_hu), tissue.muscle)
    whole.paint(whole.soft(canvas.core), muscle)
    layer, layer_half = draw(ranges.wall_fat_place) * patient.wall, draw(ranges.wall_fat_mm)
    if draw.chance(ranges.wall_fat_share):
        whole.paint(whole.soft((canvas.cavity + layer).abs_().neg_().add_(layer_half)), tissue.fat)
    canvas.abdomen = whole.soft(canvas.cavity)
    ascites, fluid = draw.chance(ranges.fluid_share), draw(ranges.fluid_hu)
    whole.paint(canvas.abdomen, fluid if ascites else tissue.fat)


def table_and_arms(canvas: Canvas, patient: Patient) -> None:
    """Table and arms, outside the trunk."""
    ranges, draw, tissue = RANGES, patient.draw("table"), patient.tissue
    top, curve = patient.body_back + draw(ranges.table_gap_mm), draw(ranges.table_curve_mm)
    thick, hu = draw(ranges.table_thick_mm), draw(ranges.table_hu)
    if draw.chance(ranges.table_share):
        bend = float((canvas.axes[2] ** 2).max()) / curve
        part = canvas.region(y=(top - bend - thick, top + thick))
        height = part.axes[1][:, None] - top + part.axes[2].square() / curve
        outside = part.hu < AIR_HU / 2
        part.paint(part.soft(thick - height.abs()) * outside, hu)
    present = draw.chance(ranges.arms_share)
    for side in (-1, 1):
        radius, bone = draw(ranges.arm_radius_mm), draw(ranges.arm_bone_mm)
        x, y = patient.half_width + draw(ranges.arm_gap_mm) + radius, patient.body_y + draw(ranges.arm_y_mm)
        if present:
            part = canvas.region(y=(y - radius, y + radius), x=(side * x - radius, side * x + radius))
            for r, hu in (
                (radius, tissue.fat),
                (ranges.arm_muscle_share * radius, tissue.muscle),
                (bone, ranges.arm_bone_hu),
            ):
                part.paint(part.soft(part.tube(y, side * x, r, r)), hu)

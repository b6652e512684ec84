"""Mesentery, small bowel, colon, stomach and duodenum."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.synthesis import contrast
from training.synthesis.canvas import Canvas, Region
from training.synthesis.fields import Draw
from training.synthesis.patient import Patient
from training.synthesis.ranges import Range, Ranges3


@dataclass(frozen=True)
class BowelRanges:
    """Mesentery; small bowel as thresholded noise, colon as tubes, stomach and duodenum as ellipsoids."""

    strands_sd: Range = (0.0, 0.3)  # radius of mesenteric vessels in standard deviations
    strands_cell_mm: Range = (12.0, 24.0)
    strands_hu: Range = (-40.0, 120.0)
    layers: tuple[int, int] = (4, 8)
    behind_mm: Range = (-20.0, 30.0)  # how far back against the kidney's centre it may lie
    top_z: Range = (0.0, 110.0)
    cell_mm: Range = (10.0, 30.0)  # a third of a loop's diameter
    threshold_sd: Range = (0.6, 1.8)
    wall_mm: Range = (1.5, 5.0)
    # content of a loop: soft tissue, kidney-like, fluid, stool, gas over fluid, gas, oral contrast
    content_shares: tuple[float, ...] = (0.28, 0.14, 0.16, 0.14, 0.1, 0.08, 0.1)
    fluid_level_y: Range = (-105.0, 15.0)  # gas in front of it
    soft_hu: Range = (10.0, 90.0)
    fluid_hu: Range = (-5.0, 30.0)
    gas_hu: Range = (-980.0, -500.0)
    oral_hu: Range = (120.0, 450.0)
    stool_hu: Range = (10.0, 70.0)
    stool_cell_mm: Range = (4.0, 7.0)
    stool_gas_sd: Range = (0.6, 1.6)
    stool_gas_hu: Range = (-600.0, -120.0)
    colon_share: float = 0.85  # each of ascending, descending, transverse
    colon_radius: Range = (9.0, 27.0)
    colon_wall_gap_mm: Range = (0.0, 25.0)  # to the flank's muscle
    colon_y: Range = (-60.0, 12.0)
    colon_top_z: tuple[Range, Range] = ((-70.0, 40.0), (-40.0, 100.0))  # hepatic and splenic flexure
    colon_wander_mm: Range = (0.0, 14.0)
    colon_wander_cell_mm: float = 38.0
    colon_wander_reach_sd: float = 3.0
    haustra: Range = (0.0, 0.25)
    haustra_cell_mm: float = 14.0
    transverse_z: Range = (-80.0, 50.0)
    transverse_y: Range = (-110.0, -50.0)
    stomach_centre: Ranges3 = ((20, 90), (-100, -35), (15, 90))
    stomach_radii: Ranges3 = ((20, 60), (20, 45), (25, 60))
    duodenum_centre: Ranges3 = ((-30, 30), (-45, -10), (-50, -20))
    duodenum_radii: Ranges3 = ((12, 40), (9, 17), (9, 19))


RANGES = BowelRanges()


def _fill_bowel(part: Region, wall: Tensor, lumen: Tensor, patient: Patient, draw: Draw) -> None:
    """Paint one loop: wall, then content. Uses the same number of random values for every content."""
    ranges, tissue = RANGES, patient.tissue
    kind, level = draw.choice(ranges.content_shares), draw(ranges.fluid_level_y)
    soft, fluid, gas, oral = (
        draw(span) for span in (ranges.soft_hu, ranges.fluid_hu, ranges.gas_hu, ranges.oral_hu)
    )
    like = tissue.kidney + draw(contrast.RANGES.equal_to_kidney_hu)
    stool, specks = draw(ranges.stool_hu), draw.field(draw(ranges.stool_cell_mm))
    speck_sd, speck_hu = draw(ranges.stool_gas_sd), draw(ranges.stool_gas_hu)
    part.paint(wall, like if kind == 1 else soft if kind == 0 else tissue.bowel_wall)
    if kind in (2, 4):
        part.paint(lumen, fluid)
    if kind == 3:
        part.paint(lumen, stool)
        part.paint(part.soft(part.threshold(specks, speck_sd)).mul_(lumen), speck_hu)
    if kind == 4:
        part.paint(part.soft(level - part.y).mul_(lumen), gas)
    if kind in (5, 6):
        part.paint(lumen, gas if kind == 5 else oral)


def bowel(canvas: Canvas, patient: Patient) -> None:
    """Mesenteric vessels and small bowel loops in the anterior cavity."""
    ranges, draw = RANGES, patient.draw("bowel")
    behind, top, gap = draw(ranges.behind_mm), draw(ranges.top_z), patient.gap(draw)
    part = canvas.region(z=(-np.inf, top), y=(-np.inf, behind))
    space = part.room(gap).mul_(part.soft(torch.minimum(behind - part.y, top - part.z)))
    cell = draw(ranges.strands_cell_mm)
    strands = part.curves(draw.field(cell), draw.field(cell), draw(ranges.strands_sd))
    part.paint(part.soft(strands).mul_(space), draw(ranges.strands_hu))
    for _ in range(draw.integer(ranges.layers)):
        loops = part.threshold(draw.field(draw(ranges.cell_mm)), draw(ranges.threshold_sd))
        wall = draw(ranges.wall_mm)
        _fill_bowel(part, part.soft(loops).mul_(space), part.soft(loops - wall).mul_(space), patient, draw)


def colon(canvas: Canvas, patient: Patient) -> None:
    """Ascending and descending colon beside the kidneys up to the flexures, and the transverse part."""
    ranges, draw = RANGES, patient.draw("colon")
    flank = patient.half_width - patient.skin_fat - patient.wall
    for side, tops in zip((-1, 1), ranges.colon_top_z, strict=True):
        radius, y, top = draw(ranges.colon_radius), draw(ranges.colon_y), draw(tops)
        x = side * (flank - draw(ranges.colon_wall_gap_mm) - radius)
        sway = draw.field(ranges.colon_wander_cell_mm), draw(ranges.colon_wander_mm)
        haustra = draw.field(ranges.haustra_cell_mm), draw(ranges.haustra) * radius
        gap, wall, present = patient.gap(draw), draw(ranges.wall_mm), draw.chance(ranges.colon_share)
        reach = (
            radius * (1 + ranges.colon_wander_reach_sd * ranges.haustra[1])
            + ranges.colon_wander_reach_sd * sway[1]
        )
        part = canvas.region((-np.inf, top), (y - reach, y + reach), (x - reach, x + reach))
        # one bend for the whole cross-section: the field along the colon's axis, (D, 1, 1)
        bend = (
            sway[0].at([part.axes[0], part.axes[1].new_full((1,), y), part.axes[2].new_full((1,), x)])
            * sway[1]
        )
        away = (part.x - x - bend).square_().add_((part.y - y + bend).square_()).sqrt_()
        depth = part.noise(*haustra, mean=radius).sub_(away)
        depth = torch.minimum(depth, top - part.z)
        space = part.room(gap) if present else part.abdomen * 0
        _fill_bowel(part, part.soft(depth).mul_(space), part.soft(depth - wall).mul_(space), patient, draw)
    z, y, radius = draw(ranges.transverse_z), draw(ranges.transverse_y), draw(ranges.colon_radius)
    wall, present, centre, radii = (
        draw(ranges.wall_mm),
        draw.chance(ranges.colon_share),
        (z, y, 0.0),
        (radius, radius, flank),
    )
    part = canvas.around(centre, radii)
    depth = part.ellipsoid(centre, radii, 2.0)
    space = part.room(patient.fat_gap) if present else part.abdomen * 0
    _fill_bowel(part, part.soft(depth).mul_(space), part.soft(depth - wall).mul_(space), patient, draw)


def stomach(canvas: Canvas, patient: Patient) -> None:
    """Stomach and duodenum."""
    ranges, draw = RANGES, patient.draw("stomach")
    for centres, radius_ranges in (
        (ranges.stomach_centre, ranges.stomach_radii),
        (ranges.duodenum_centre, ranges.duodenum_radii),
    ):
        centre, radii, wall, gap = (
            draw.triple(centres),
            draw.triple(radius_ranges),
            draw(ranges.wall_mm),
            patient.gap(draw),
        )
        part = canvas.around(centre, radii)
        depth, space = part.ellipsoid(centre, radii), part.room(gap)
        _fill_bowel(part, part.soft(depth).mul_(space), part.soft(depth - wall).mul_(space), patient, draw)

"""Gallbladder, pancreas, and decoys of a kidney's size."""

from dataclasses import dataclass

from training.synthesis import contrast
from training.synthesis.canvas import Canvas
from training.synthesis.patient import Patient
from training.synthesis.ranges import Range, Ranges3


@dataclass(frozen=True)
class SmallOrganRanges:
    """Gallbladder, pancreas, and decoys: smooth structures as large as a kidney."""

    gallbladder_share: float = 0.7
    gallbladder_centre: Ranges3 = ((-20, 50), (-85, -30), (-85, -20))
    gallbladder_radii: Ranges3 = ((8, 30), (8, 20), (8, 20))
    gallbladder_hu: Range = (-5, 30)
    pancreas_centre: Ranges3 = ((0, 40), (-55, -25), (-20, 30))
    pancreas_radii: Ranges3 = ((8, 18), (8, 16), (40, 90))
    decoys: tuple[int, int] = (0, 3)
    decoy_z: Range = (-120, 120)
    decoy_y: Range = (-60, 30)
    decoy_x: Range = (35, 125)  # on either side
    decoy_radii: Ranges3 = ((14, 50), (12, 32), (12, 32))
    decoy_power: Range = (2.0, 3.0)
    # like kidney, liver, spleen, muscle, bowel wall
    decoy_hu_shares: tuple[float, ...] = (0.25, 0.2, 0.2, 0.15, 0.2)
    decoy_texture_hu: Range = (0.0, 8.0)
    decoy_texture_cell_mm: Range = (5.0, 14.0)


RANGES = SmallOrganRanges()


def small_organs(canvas: Canvas, patient: Patient) -> None:
    """Gallbladder, pancreas, and decoys of a kidney's size in a kidney's neighbourhood."""
    ranges, draw, tissue = RANGES, patient.draw("small"), patient.tissue
    bile, present = draw(ranges.gallbladder_hu), draw.chance(ranges.gallbladder_share)
    centre, radii = draw.triple(ranges.gallbladder_centre), draw.triple(ranges.gallbladder_radii)
    if present:
        part = canvas.around(centre, radii)
        part.paint(part.soft(part.ellipsoid(centre, radii)).mul_(part.room(patient.fat_gap)), bile)
    centre, radii = draw.triple(ranges.pancreas_centre), draw.triple(ranges.pancreas_radii)
    part = canvas.around(centre, radii)
    part.paint(part.soft(part.ellipsoid(centre, radii)).mul_(part.room(patient.fat_gap)), tissue.pancreas)
    for _ in range(draw.integer(ranges.decoys)):
        side = draw.integer((0, 1)) * 2 - 1
        centre = draw(ranges.decoy_z), draw(ranges.decoy_y), side * draw(ranges.decoy_x)
        radii, power, gap = draw.triple(ranges.decoy_radii), draw(ranges.decoy_power), patient.gap(draw)
        kind = draw.choice(ranges.decoy_hu_shares)
        hu = (tissue.kidney, tissue.liver, tissue.spleen, tissue.muscle, tissue.bowel_wall)[kind]
        texture, uneven = draw.field(draw(ranges.decoy_texture_cell_mm)), draw(ranges.decoy_texture_hu)
        part = canvas.around(centre, radii)
        share = part.soft(part.ellipsoid(centre, radii, power)).mul_(part.room(gap))
        part.paint(share, part.noise(texture, uneven, hu + draw(contrast.RANGES.equal_to_kidney_hu)))

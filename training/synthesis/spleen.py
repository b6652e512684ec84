"""Spleen."""

from dataclasses import dataclass

from training.synthesis.canvas import Canvas
from training.synthesis.patient import Patient
from training.synthesis.ranges import Range, Ranges3


@dataclass(frozen=True)
class SpleenRanges:
    """Under the left diaphragm, above and lateral of the left kidney."""

    centre: Ranges3 = ((10, 100), (-30, 30), (70, 130))
    radii: Ranges3 = ((30, 75), (22, 60), (18, 48))
    power: Range = (2.0, 3.0)
    hollow_share: float = 0.7  # concave towards the stomach
    hollow_centre: Ranges3 = ((10, 100), (-55, -10), (40, 90))
    hollow_radii: Ranges3 = ((30, 60), (25, 50), (20, 50))
    texture_hu: Range = (0.0, 6.0)
    texture_cell_mm: Range = (5.0, 14.0)
    # arterial phase: red and white pulp fill unevenly
    mottle_hu: Range = (0.0, 30.0)


RANGES = SpleenRanges()


def spleen(canvas: Canvas, patient: Patient) -> None:
    """Spleen, mostly hollow towards the stomach, mottled in the early phase."""
    ranges, draw, tissue = RANGES, patient.draw("spleen"), patient.tissue
    centre, radii, power = draw.triple(ranges.centre), draw.triple(ranges.radii), draw(ranges.power)
    gap, hollow = patient.gap(draw), (draw.triple(ranges.hollow_centre), draw.triple(ranges.hollow_radii))
    part = canvas.around(centre, radii)
    share = part.soft(part.ellipsoid(centre, radii, power)).mul_(part.room(gap))
    if draw.chance(ranges.hollow_share):
        share.mul_(1 - part.soft(part.ellipsoid(*hollow)))
    texture, uneven, mottle = (
        draw.field(draw(ranges.texture_cell_mm)),
        draw(ranges.texture_hu),
        draw(ranges.mottle_hu),
    )
    part.paint(
        share, part.noise(texture, max(uneven, mottle) if tissue.phase == 1 else uneven, tissue.spleen)
    )

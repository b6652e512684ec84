"""One synthetic patient: the parameters that several organs share."""

from dataclasses import dataclass

from training.synthesis.contrast import Tissue, draw_tissue
from training.synthesis.fields import Draw
from training.synthesis.ranges import Point, Range


@dataclass(frozen=True)
class PatientRanges:
    """Size of the trunk, its layers, the spine's place, and the fat around the kidneys."""

    behind_kidneys_mm: Range = (22.0, 65.0)  # kidney's posterior margin to the skin of the back
    beside_kidneys_mm: Range = (25.0, 75.0)  # kidney's lateral margin to the skin of the flank
    corner_share: float = 0.8  # kidneys are no boxes: their posterior corner lies at this share of `side`
    depth_mm: Range = (190.0, 310.0)
    half_width_mm: Range = (130.0, 195.0)
    power: Range = (2.0, 3.0)  # super-ellipse: 2 is an ellipse, 3 is nearly a rounded box
    skin_fat_mm: Range = (4.0, 45.0)
    front_fat_share: Range = (0.5, 1.0)  # fat in front and behind against fat at the flanks
    wall_mm: Range = (7.0, 22.0)
    spine_y: Range = (-12, 22)  # vertebral body's centre against the kidneys' centre
    spine_x: Range = (-8, 8)
    spine_half_width: Range = (18, 26)
    spine_half_depth: Range = (14, 20)
    # fat between the kidney and its neighbours; none in thin patients
    fat_thick_mm: Range = (2.0, 14.0)
    fat_thin_share: float = 0.45
    fat_thin_mm: Range = (0.0, 2.0)
    fat_touch_share: float = 0.4  # an organ (nearly) touches the kidney whatever the patient's fat
    fat_touch_mm: Range = (0.0, 1.5)
    edge_vox: Range = (0.25, 1.0)  # width of organ edges: sharp in fine scans, soft where voxels are means


RANGES = PatientRanges()


@dataclass(frozen=True)
class Patient:
    """Parameters that several organs share (mm), chosen before any voxel is computed."""

    seed: int
    tissue: Tissue
    kidney_centres: tuple[Point, ...]  # relative to their midpoint, as everything here
    fat_gap: float  # usual distance of an organ from the kidney
    body_y: float  # the trunk's centre
    body_back: float  # skin of the back
    half_depth: float
    half_width: float
    power: float  # of the trunk's super-ellipse
    skin_fat: float
    front_fat: float  # the same in front and behind
    wall: float
    spine_y: float
    spine_x: float
    spine_half_width: float
    spine_half_depth: float
    edge_vox: float  # width of the organs' edges, in voxels of the grid in use

    def draw(self, name: str) -> Draw:
        """The organ's own random stream."""
        return Draw(self.seed, name)

    def gap(self, draw: Draw) -> float:
        """Fat between one organ and the kidney (mm)."""
        touching = draw(RANGES.fat_touch_mm)
        return min(touching, self.fat_gap) if draw.chance(RANGES.fat_touch_share) else self.fat_gap


def draw_patient(
    seed: int, *, kidney_low: Point, kidney_high: Point, centres: tuple[Point, ...], phase: int | None = None
) -> Patient:
    """Choose the shared parameters at random.

    Args:
        seed: of the patient.
        kidney_low, kidney_high: box of the kidneys, relative to their midpoint (mm, zyx).
        centres: of the kidneys, in the same frame.
        phase: index into `ContrastRanges.phases`; random if not given.
    """
    ranges, draw = RANGES, Draw(seed, "patient")
    fat_gap = draw(ranges.fat_thin_mm if draw.chance(ranges.fat_thin_share) else ranges.fat_thick_mm)
    skin_fat, wall, power = draw(ranges.skin_fat_mm), draw(ranges.wall_mm), draw(ranges.power)
    front_fat = skin_fat * draw(ranges.front_fat_share)
    side, half_depth = max(abs(kidney_low[2]), abs(kidney_high[2])), draw(ranges.depth_mm) / 2
    half_width = max(
        side + draw(ranges.beside_kidneys_mm), draw(ranges.half_width_mm), side + skin_fat + wall
    )
    # far enough back for the cavity to hold the kidneys' posterior corners
    corner = min(1.0, ranges.corner_share * side / (half_width - skin_fat - wall)) ** power
    corner_y = (half_depth - front_fat - wall) * (1.0 - corner) ** (1 / power)
    body_y = max(kidney_high[1] + draw(ranges.behind_kidneys_mm) - half_depth, kidney_high[1] - corner_y)
    return Patient(
        seed=seed,
        tissue=draw_tissue(seed, phase),
        kidney_centres=centres,
        fat_gap=fat_gap,
        body_y=body_y,
        body_back=body_y + half_depth,
        half_depth=half_depth,
        half_width=half_width,
        power=power,
        skin_fat=skin_fat,
        front_fat=front_fat,
        wall=wall,
        spine_y=draw(ranges.spine_y),
        spine_x=draw(ranges.spine_x),
        spine_half_width=draw(ranges.spine_half_width),
        spine_half_depth=draw(ranges.spine_half_depth),
        edge_vox=Draw(seed, "edges")(ranges.edge_vox),
    )

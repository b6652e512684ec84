"""One synthetic patient: the HU of the tissues, and what the organs need to know of each other."""

from dataclasses import dataclass

from training.synthesis.fields import Draw
from training.synthesis.ranges import RANGES, Point, Range


@dataclass(frozen=True)
class Tissue:
    """HU of one patient's tissues, and the phase (index into `ContrastRanges.phases`)."""

    phase: int
    fat: float
    cortex: float
    medulla: float
    urine: float
    aorta: float
    vena_cava: float
    liver: float
    spleen: float
    pancreas: float
    muscle: float
    bowel_wall: float

    @property
    def kidney(self) -> float:
        """Mean of cortex and medulla."""
        return 0.5 * (self.cortex + self.medulla)


def draw_tissue(seed: int, phase: int | None = None) -> Tissue:
    """Draw the contrast phase once (unless given), and the HU of every organ from it."""
    ranges, draw = RANGES.contrast, Draw(seed, "contrast")
    drawn, strength = draw.choice(ranges.phase_shares), draw((0.0, 1.0))
    phase = drawn if phase is None else phase
    incoherent = draw.chance(ranges.incoherent_share)

    def between(span: Range, own: float) -> float:
        share = ranges.coherence * strength + (1 - ranges.coherence) * own
        return span[0] + share * (span[1] - span[0])

    def organ_hu(name: str) -> float:
        own_phase, own = draw.choice(ranges.phase_shares), draw((0.0, 1.0))
        span: Range = getattr(ranges.phases[own_phase if incoherent else phase], name)
        return span[0] + own * (span[1] - span[0]) if incoherent else between(span, own)

    cortex = between(ranges.phases[phase].cortex, draw((0.0, 1.0)))
    medulla = cortex + draw(ranges.phases[phase].medulla_minus_cortex)
    liver, spleen = organ_hu("liver"), organ_hu("spleen")
    if draw.chance(ranges.fatty_liver_share):
        liver += draw(ranges.fatty_liver_hu)
    kidney = 0.5 * (cortex + medulla)
    if draw.chance(ranges.equal_to_kidney_share):
        liver = kidney + draw(ranges.equal_to_kidney_hu)
    if draw.chance(ranges.equal_to_kidney_share):
        spleen = kidney + draw(ranges.equal_to_kidney_hu)
    return Tissue(
        phase=phase,
        fat=draw(ranges.fat),
        cortex=cortex,
        medulla=medulla,
        urine=draw(ranges.phases[phase].urine),
        aorta=organ_hu("aorta"),
        vena_cava=organ_hu("vena_cava"),
        liver=liver,
        spleen=spleen,
        pancreas=organ_hu("pancreas"),
        muscle=organ_hu("muscle"),
        bowel_wall=organ_hu("bowel_wall"),
    )


@dataclass(frozen=True)
class Patient:
    """What the organs need to know of each other, drawn before any voxel is touched (mm)."""

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
    edge_vox: float  # width of the organs' edges, in voxels of whatever grid

    def draw(self, name: str) -> Draw:
        """The organ's own random stream."""
        return Draw(self.seed, name)

    def gap(self, draw: Draw) -> float:
        """Fat between one organ and the kidney (mm)."""
        touching = draw(RANGES.fat.touch_mm)
        return min(touching, self.fat_gap) if draw.chance(RANGES.fat.touch_share) else self.fat_gap


def draw_patient(
    seed: int, *, kidney_low: Point, kidney_high: Point, centres: tuple[Point, ...], phase: int | None = None
) -> Patient:
    """Draw what several organs share.

    Args:
        seed: of the patient.
        kidney_low, kidney_high: box of the kidneys, relative to their midpoint (mm, zyx).
        centres: of the kidneys, in the same frame.
        phase: index into `ContrastRanges.phases`; drawn where not given.
    """
    draw, body, back, fat = Draw(seed, "patient"), RANGES.body, RANGES.back, RANGES.fat
    fat_gap = draw(fat.thin_mm if draw.chance(fat.thin_share) else fat.thick_mm)
    skin_fat, wall, power = draw(body.skin_fat_mm), draw(body.wall_mm), draw(body.power)
    front_fat = skin_fat * draw(body.front_fat_share)
    side, half_depth = max(abs(kidney_low[2]), abs(kidney_high[2])), draw(body.depth_mm) / 2
    half_width = max(side + draw(body.beside_kidneys_mm), draw(body.half_width_mm), side + skin_fat + wall)
    # far enough back for the cavity to hold the kidneys' posterior corners
    corner = min(1.0, body.corner_share * side / (half_width - skin_fat - wall)) ** power
    corner_y = (half_depth - front_fat - wall) * (1.0 - corner) ** (1 / power)
    body_y = max(kidney_high[1] + draw(body.behind_kidneys_mm) - half_depth, kidney_high[1] - corner_y)
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
        spine_y=draw(back.spine_y),
        spine_x=draw(back.spine_x),
        spine_half_width=draw(back.half_width),
        spine_half_depth=draw(back.half_depth),
        edge_vox=Draw(seed, "edges")(RANGES.scanner.edge_vox),
    )

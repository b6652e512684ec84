"""What the synthetic CT shows around the kidneys: ranges, drawing tools, one function per organ group.

Positions are (z, y, x) in mm of the patient frame (z to superior, y to posterior, x to the patient's left),
relative to the point midway between the kidneys. Every organ draws its parameters from a random stream of
its own (patient seed + organ name), whether or not it lies in view: a crop shows the same patient.

Shapes are signed depths in mm, positive inside; `soft` turns them into the share of the voxel that they
fill. That is the partial volume effect, and on a CPU it is ten times faster than painting through masks.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

Range = tuple[float, float]
"""Lower and upper end of a uniform distribution."""
Ranges3 = tuple[Range, Range, Range]
"""One range for each of z, y, x."""
Point = tuple[float, float, float]
"""(z, y, x) in mm."""
Box = tuple[slice, slice, slice]
EVERYWHERE: Range = (-np.inf, np.inf)
AIR_HU = -1000.0
PHASES = ("non_contrast", "corticomedullary", "nephrographic", "excretory")
"""Contrast phases, in the order of `ContrastRanges.phases`."""


@dataclass(frozen=True)
class PhaseHu:
    """HU of the enhancing tissues in one contrast phase."""

    cortex: Range
    medulla_minus_cortex: Range
    aorta: Range
    vena_cava: Range
    liver: Range
    spleen: Range
    pancreas: Range
    muscle: Range
    bowel_wall: Range
    urine: Range


@dataclass(frozen=True)
class ContrastRanges:
    """One draw of the phase and of the enhancement's strength sets the HU of every organ."""

    # shares of the four phases; non-contrast is over-represented: only shape and place tell organs apart
    phase_shares: tuple[float, ...] = (0.32, 0.28, 0.27, 0.13)
    # an organ follows the patient's enhancement this far, the rest is its own
    coherence: float = 0.7
    # patients whose organs draw their phases one by one: the network must not lean on coherence
    incoherent_share: float = 0.12
    # patients in whom liver, spleen or a bowel loop equals the kidney: only shape and place remain
    equal_to_kidney_share: float = 0.25
    equal_to_kidney_hu: Range = (-8.0, 8.0)
    fatty_liver_share: float = 0.12
    fatty_liver_hu: Range = (-60.0, -15.0)  # change against a healthy liver
    fat: Range = (-118.0, -85.0)
    phases: tuple[PhaseHu, ...] = (
        PhaseHu(  # without contrast: blood 35-50, parenchyma by its density
            cortex=(22, 42), medulla_minus_cortex=(-3, 3), aorta=(30, 50), vena_cava=(30, 50),
            liver=(44, 70), spleen=(40, 58), pancreas=(25, 50), muscle=(40, 65), bowel_wall=(15, 50),
            urine=(-5, 20),
        ),
        PhaseHu(  # 25-45 s: bright cortex, dark medulla, liver hardly enhanced
            cortex=(115, 230), medulla_minus_cortex=(-120, -40), aorta=(180, 380), vena_cava=(60, 170),
            liver=(58, 105), spleen=(85, 160), pancreas=(70, 130), muscle=(45, 72), bowel_wall=(40, 120),
            urine=(-5, 20),
        ),
        PhaseHu(  # 70-120 s: even kidney, portal liver
            cortex=(120, 220), medulla_minus_cortex=(-40, 10), aorta=(110, 190), vena_cava=(100, 180),
            liver=(85, 140), spleen=(95, 150), pancreas=(70, 120), muscle=(48, 78), bowel_wall=(40, 110),
            urine=(-5, 40),
        ),
        PhaseHu(  # minutes: dense urine, everything else fading
            cortex=(85, 160), medulla_minus_cortex=(-10, 30), aorta=(70, 130), vena_cava=(70, 125),
            liver=(70, 115), spleen=(75, 115), pancreas=(55, 90), muscle=(48, 75), bowel_wall=(30, 80),
            urine=(200, 1200),
        ),
    )  # fmt: skip


@dataclass(frozen=True)
class BodyRanges:
    """Outline of the trunk, wall muscles, warp of the whole anatomy, table and arms."""

    warp_mm: Range = (1.0, 5.5)  # standard deviation of the displacement: no two patients alike
    warp_cell_mm: Range = (40.0, 90.0)  # longer than an organ's margin, shorter than the organ
    behind_kidneys_mm: Range = (22.0, 65.0)  # kidney's posterior margin to the skin of the back
    beside_kidneys_mm: Range = (25.0, 75.0)  # kidney's lateral margin to the skin of the flank
    corner_share: float = 0.8  # kidneys are no boxes: their posterior corner lies this far out
    depth_mm: Range = (190.0, 310.0)
    half_width_mm: Range = (130.0, 195.0)
    power: Range = (2.0, 3.0)  # super-ellipse: 2 is an ellipse, 3 is nearly a rounded box
    skin_mm: float = 2.0
    skin_hu: Range = (-40.0, 30.0)
    skin_fat_mm: Range = (4.0, 45.0)
    front_fat_share: Range = (0.5, 1.0)  # fat in front and behind against fat at the flanks
    shift_mm: Range = (-4.0, 8.0)  # the muscle ring and the cavity lie off the outline's centre
    wall_mm: Range = (7.0, 22.0)
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


@dataclass(frozen=True)
class FatRanges:
    """Fat between the kidney and its neighbours; none in thin patients."""

    thick_mm: Range = (2.0, 14.0)
    thin_share: float = 0.45
    thin_mm: Range = (0.0, 2.0)
    uneven: float = 0.7  # relative standard deviation along the kidney's surface: it touches in places
    uneven_cell_mm: float = 35.0
    least_unevenness: float = 0.1  # keeps the clearance finite where the fat thins out
    touch_share: float = 0.4  # an organ (nearly) touches the kidney whatever the patient's fat
    touch_mm: Range = (0.0, 1.5)


@dataclass(frozen=True)
class LungRanges:
    """Diaphragm: its floor rises from the sulcus at the wall to the dome, as height · d / (d + half)."""

    sulcus_z: Range = (15.0, 120.0)
    height_mm: Range = (70.0, 150.0)
    half_mm: Range = (12.0, 40.0)  # depth under the wall at which half the height is reached
    hu: Range = (-950.0, -700.0)
    clearance_mm: float = 6.0  # diaphragm and fat between lung and kidney
    heart_z: Range = (-20.0, 40.0)  # against the dome
    heart_y: Range = (-35.0, -15.0)  # against the trunk's centre
    heart_x: Range = (-5.0, 40.0)
    heart_radii: Ranges3 = ((35, 60), (35, 55), (45, 65))


@dataclass(frozen=True)
class LiverRanges:
    """A wedge under the right diaphragm with an oblique lower surface, or an ellipsoid."""

    wedge_share: float = 0.7
    tip_z: Range = (-75.0, 50.0)  # lower lateral margin: often lower than the kidney's middle
    slope_x: Range = (0.35, 1.4)  # the lower surface rises to the left (mm per mm)
    slope_y: Range = (-0.2, 0.7)  # and to the back
    surface_sd_mm: Range = (2.0, 9.0)
    surface_cell_mm: float = 28.0
    surface_reach_sd: float = 4.0  # no bulge goes beyond
    left_end_mm: Range = (-10.0, 90.0)
    left_slope: Range = (-0.2, 0.6)  # the left lobe ends farther left higher up
    back_mm: Range = (-20.0, 35.0)  # how far back beside the kidney it reaches ...
    back_slope: float = 0.8  # ... and how much farther at the flank (mm per mm)
    back_from_x: float = -60.0
    centre: Ranges3 = ((10, 90), (-60, -10), (-95, -55))
    radii: Ranges3 = ((70, 130), (60, 100), (65, 110))
    power: Range = (2.0, 3.0)
    texture_hu: Range = (0.0, 6.0)
    texture_cell_mm: Range = (5.0, 14.0)
    vessel_cell_mm: Range = (16.0, 26.0)
    vessel_sd: Range = (0.0, 0.28)  # radius of the vessels in standard deviations of their fields
    lesions: tuple[int, int] = (0, 3)
    lesion_radius: Range = (4, 22)
    lesion_spread: Range = (-0.7, 0.7)  # in radii
    lesion_hu: Range = (-70, 30)  # change against the liver


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
    wall_sd: Range = (0.1, 0.5)  # thickness of the wall around gas and contrast
    wall_mm: Range = (1.5, 5.0)
    # what a loop holds: soft tissue, kidney-like, fluid, stool, gas over fluid, gas, oral contrast
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


@dataclass(frozen=True)
class SmallOrganRanges:
    """Gallbladder, pancreas, and decoys: smooth organs as large as a kidney that are none."""

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


@dataclass(frozen=True)
class BackRanges:
    """Muscles, great vessels, spine and ribs behind and between the kidneys."""

    spine_y: Range = (-12, 22)  # vertebral body's centre against the kidneys' centre
    spine_x: Range = (-8, 8)
    half_width: Range = (18, 26)
    half_depth: Range = (14, 20)
    muscle_clearance_mm: Range = (0.0, 4.0)
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
    muscle_texture_hu: Range = (0.0, 14.0)  # streaks of fat
    muscle_texture_cell_mm: float = 9.0
    aorta_gap: Range = (9, 14)
    aorta_x: Range = (2, 14)
    aorta_radius: Range = (7, 13)
    cava_gap: Range = (6, 14)
    cava_x: Range = (-24, -12)
    cava_radius: Range = (6, 13)
    calcified_share: float = 0.3
    calcified_mm: float = 1.5  # half the thickness of the plaques
    calcified_sd: float = 1.2
    calcified_cell_mm: float = 8.0
    calcified_hu: Range = (250, 800)
    renal_radii: tuple[Range, Range] = ((3.5, 6.5), (2, 3.5))  # vein, artery
    renal_shortest_mm: float = 10.0
    renal_z: Range = (-8, 8)  # at the kidney
    renal_rise: Range = (-5, 15)  # from there to the great vessels
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


@dataclass(frozen=True)
class AnatomyRanges:
    """All ranges of the surroundings in one place (mm, HU, shares)."""

    contrast: ContrastRanges = field(default_factory=ContrastRanges)
    body: BodyRanges = field(default_factory=BodyRanges)
    fat: FatRanges = field(default_factory=FatRanges)
    lungs: LungRanges = field(default_factory=LungRanges)
    liver: LiverRanges = field(default_factory=LiverRanges)
    spleen: SpleenRanges = field(default_factory=SpleenRanges)
    bowel: BowelRanges = field(default_factory=BowelRanges)
    small: SmallOrganRanges = field(default_factory=SmallOrganRanges)
    back: BackRanges = field(default_factory=BackRanges)
    pelvis: PelvisRanges = field(default_factory=PelvisRanges)


RANGES = AnatomyRanges()
LATTICE = 24
"""Nodes of a smooth field along each axis; it repeats after this many cells (about 100 mm at the finest)."""
SEED_BITS = 0x7FFF_FFFF_FFFF_FFFF
"""Seeds are taken modulo this: random generators want them non-negative."""


class SmoothField:
    """Random field of unit variance, fixed in the patient frame: cubic B-splines on a random lattice."""

    def __init__(self, rng: np.random.Generator, cell_mm: float) -> None:
        self.cell_mm = cell_mm
        self._lattice = torch.from_numpy(rng.standard_normal((LATTICE,) * 3, dtype=np.float32))

    def at(self, axes: Sequence[Tensor]) -> Tensor:
        """Values (D, H, W) at the grid spanned by three axes (mm, patient frame)."""
        z, y, x = (self._weights(axis) for axis in axes)
        values = (z @ self._lattice.to(z.device).flatten(1)).unflatten(1, (LATTICE, LATTICE))  # (D, 24, 24)
        return (y @ values) @ x.T  # (D, H, 24) @ (24, W)

    def _weights(self, axis: Tensor) -> Tensor:
        """(len(axis), LATTICE) weights of the nodes, of unit length so that the variance is even."""
        t = axis / self.cell_mm
        cell = t.floor()
        f = t - cell
        near = torch.stack(((1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3), 1)
        near = near / near.square().sum(1, keepdim=True).sqrt()
        nodes = (cell.long()[:, None] + torch.arange(-1, 3, device=axis.device)) % LATTICE
        return torch.zeros(len(axis), LATTICE, device=axis.device).scatter_(1, nodes, near)


class Draw:
    """Random stream of one organ of one patient."""

    def __init__(self, seed: int, name: str) -> None:
        self._rng = np.random.default_rng([seed & SEED_BITS, zlib.crc32(name.encode())])

    def __call__(self, span: Range) -> float:
        """Uniform draw."""
        return float(self._rng.uniform(*span))

    def triple(self, spans: Ranges3) -> Point:
        """Three uniform draws."""
        return self(spans[0]), self(spans[1]), self(spans[2])

    def chance(self, share: float) -> bool:
        """True in this share of cases."""
        return bool(self._rng.random() < share)

    def integer(self, span: tuple[int, int]) -> int:
        """Whole number, both ends included."""
        return int(self._rng.integers(span[0], span[1] + 1))

    def choice(self, shares: Sequence[float]) -> int:
        """Index drawn with the given shares."""
        return int(self._rng.choice(len(shares), p=np.asarray(shares) / np.sum(shares)))

    def log(self, span: Range) -> float:
        """Log-uniform draw."""
        return float(np.exp(self._rng.uniform(*np.log(span))))

    def normal(self) -> float:
        """Standard normal draw."""
        return float(self._rng.standard_normal())

    def poisson(self, mean: float) -> int:
        """Poisson draw."""
        return int(self._rng.poisson(mean))

    def field(self, cell_mm: float) -> SmoothField:
        """Smooth field of this cell size."""
        return SmoothField(self._rng, cell_mm)


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
    )


def _power(u: Tensor, power: float) -> Tensor:
    """About |u| to a power between 2 and 3: their mixture, much faster than a real power. Uses u up."""
    square = u.square()
    return square if power == 2.0 else square.mul_(u.abs_().mul_(power - 2).add_(3 - power))


class Region:
    """A box of the canvas as views, possibly empty; painting writes through. Depths are in mm."""

    def __init__(self, canvas: "Canvas", box: Box) -> None:
        self.axes = [axis[part] for axis, part in zip(canvas.axes, box, strict=True)]
        self.spacing_mm = canvas.spacing_mm
        self.hu = canvas.hu[box]
        self.z, self.y, self.x = (w[box] for w in canvas.warped)
        self.clearance, self.uneven_clearance = canvas.clearance[box], canvas.uneven_clearance[box]
        self.core, self.cavity, self.abdomen = canvas.core[box], canvas.cavity[box], canvas.abdomen[box]

    def soft(self, depth_mm: Tensor) -> Tensor:
        """Share of each voxel that a shape fills: its depth over the voxel's side, 0.5 on its surface."""
        return (depth_mm / self.spacing_mm).add_(0.5).clamp_(0, 1)

    def free(self, clearance_mm: float) -> Tensor:
        """Share of each voxel that is farther from the kidney than this."""
        return self.soft(self.clearance - clearance_mm)

    def room(self, gap_mm: float) -> Tensor:
        """Share of each voxel inside the abdomen and farther from the kidney than the uneven gap."""
        return self.soft(self.uneven_clearance - gap_mm).mul_(self.abdomen)

    def paint(self, share: Tensor, hu: float | Tensor) -> None:
        """Blend the HU in by the share of each voxel."""
        self.hu.lerp_(hu if isinstance(hu, Tensor) else torch.full((), hu, device=self.hu.device), share)

    def noise(self, smooth: SmoothField, sd: float, mean: float = 0.0) -> Tensor:
        """The smooth field, scaled."""
        return smooth.at(self.axes).mul_(sd).add_(mean)

    def threshold(self, smooth: SmoothField, level_sd: float) -> Tensor:
        """Depth inside the blobs where the field exceeds the level."""
        return smooth.at(self.axes).sub_(level_sd).mul_(smooth.cell_mm)

    def curves(self, one: SmoothField, other: SmoothField, radius_sd: float) -> Tensor:
        """Depth inside vessel-like curves: where two fields are near zero at once."""
        away = one.at(self.axes).square_().add_(other.at(self.axes).square_()).sqrt_()
        return away.neg_().add_(radius_sd).mul_(one.cell_mm)

    def ellipsoid(self, centre: Point, radii: Point, power: float = 2.0) -> Tensor:
        """Depth inside a (super-)ellipsoid, true near its surface."""
        total: Tensor | None = None
        for w, c, r in zip((self.z, self.y, self.x), centre, radii, strict=True):
            part = _power((w - c).div_(r), power)
            total = part if total is None else total.add_(part)
        assert total is not None
        return total.neg_().add_(1.0).mul_(float(np.cbrt(np.prod(radii))) / power)

    def tube(self, y: float, x: float, radius_y: float, radius_x: float) -> Tensor:
        """Depth inside an elliptic tube along z."""
        total = ((self.y - y) / radius_y).square_().add_(((self.x - x) / radius_x).square_())
        return total.neg_().add_(1.0).mul_(float(np.sqrt(radius_y * radius_x)) / 2)


class Canvas:
    """The image being drawn, its coordinates warped by a smooth field, and the way to the kidneys.

    Args:
        axes: three 1-D tensors, mm relative to the kidneys' midpoint.
        clearance: (D, H, W), mm to the nearest kidney voxel, 0 in the kidneys, capped.
        patient: the patient.
        spacing_mm: side of a voxel.
    """

    def __init__(
        self, axes: Sequence[Tensor], clearance: Tensor, patient: Patient, *, spacing_mm: float
    ) -> None:
        draw, fat = patient.draw("warp"), RANGES.fat
        amplitude, cell = draw(RANGES.body.warp_mm), draw(RANGES.body.warp_cell_mm)
        self.axes, self.spacing_mm = list(axes), spacing_mm
        self.hu = torch.full_like(clearance, AIR_HU)
        self.warped: list[Tensor] = []
        self.reach: list[float] = []  # largest displacement along each axis (mm)
        for dim, axis in enumerate(axes):
            shift = draw.field(cell).at(axes).mul_(amplitude)
            self.reach.append(float(shift.abs().max()))
            self.warped.append(shift.add_(axis.view([-1 if d == dim else 1 for d in range(3)])))
        self.clearance = clearance
        uneven = patient.draw("fat").field(fat.uneven_cell_mm).at(axes).mul_(fat.uneven).add_(1.0)
        self.uneven_clearance = clearance / uneven.clamp_(min=fat.least_unevenness)
        # drawn by `body` and `lungs`: depths under the skin's fat and under the wall's muscles, and the
        # share of each voxel that lies in the cavity and below the diaphragm
        self.core = self.cavity = self.abdomen = clearance
        self.metal: list[Point] = []

    def region(self, z: Range = EVERYWHERE, y: Range = EVERYWHERE, x: Range = EVERYWHERE) -> Region:
        """The box that holds every voxel whose warped coordinates lie in these ranges (mm)."""
        box = []
        for axis, (low, high), reach in zip(self.axes, (z, y, x), self.reach, strict=True):
            first, margin = float(axis[0]), reach + self.spacing_mm
            start = max(0.0, np.floor((low - margin - first) / self.spacing_mm))
            stop = min(float(len(axis)), np.ceil((high + margin - first) / self.spacing_mm) + 1)
            start = min(start, float(len(axis)))
            box.append(slice(int(start), int(max(start, stop))))
        return Region(self, (box[0], box[1], box[2]))

    def around(self, centre: Point, radii: Point) -> Region:
        """The box around an ellipsoid."""
        z, y, x = ((c - r, c + r) for c, r in zip(centre, radii, strict=True))
        return self.region(z, y, x)


def body(canvas: Canvas, patient: Patient) -> None:
    """Skin, fat, wall muscles and the fat-filled cavity; leaves their depths on the canvas."""
    ranges, draw, tissue, whole = RANGES.body, patient.draw("body"), patient.tissue, canvas.region()
    power, depth, width = patient.power, patient.half_depth, patient.half_width

    def inside(y_shift: float, depth: float, width: float) -> Tensor:
        y = _power((canvas.warped[1] - (patient.body_y + y_shift)).div_(depth), power)
        x = _power(canvas.warped[2] / width, power)
        return y.add_(x).neg_().add_(1.0).mul_((depth + width) / 2 / power)

    outline = inside(0.0, depth, width)
    core_depth, core_width = depth - patient.front_fat, width - patient.skin_fat
    canvas.core = inside(draw(ranges.shift_mm), core_depth, core_width)
    canvas.core = torch.minimum(canvas.core, outline - ranges.skin_mm)
    canvas.cavity = inside(draw(ranges.shift_mm), core_depth - patient.wall, core_width - patient.wall)
    canvas.cavity = torch.minimum(canvas.cavity, canvas.core - ranges.skin_mm)
    whole.paint(whole.soft(outline), draw(ranges.skin_hu))
    whole.paint(whole.soft(outline - ranges.skin_mm), tissue.fat)
    texture = draw.field(RANGES.back.muscle_texture_cell_mm)
    muscle = whole.noise(texture, draw(RANGES.back.muscle_texture_hu), tissue.muscle)
    whole.paint(whole.soft(canvas.core), muscle)
    layer, layer_half = draw(ranges.wall_fat_place) * patient.wall, draw(ranges.wall_fat_mm)
    if draw.chance(ranges.wall_fat_share):
        whole.paint(whole.soft((canvas.cavity + layer).abs_().neg_().add_(layer_half)), tissue.fat)
    canvas.abdomen = whole.soft(canvas.cavity)
    ascites, fluid = draw.chance(ranges.fluid_share), draw(ranges.fluid_hu)
    whole.paint(canvas.abdomen, fluid if ascites else tissue.fat)


def table_and_arms(canvas: Canvas, patient: Patient) -> None:
    """What lies outside the body."""
    ranges, draw, tissue = RANGES.body, patient.draw("table"), patient.tissue
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


def lungs(canvas: Canvas, patient: Patient) -> None:
    """Lungs and heart above the diaphragm; below it is the abdomen."""
    ranges, draw = RANGES.lungs, patient.draw("lungs")
    sulcus, height, half, hu = (
        draw(s) for s in (ranges.sulcus_z, ranges.height_mm, ranges.half_mm, ranges.hu)
    )
    shift = draw.triple((ranges.heart_z, ranges.heart_y, ranges.heart_x))
    heart_radii = draw.triple(ranges.heart_radii)
    heart_hu = 0.5 * (patient.tissue.aorta + patient.tissue.vena_cava)
    part = canvas.region(z=(sulcus, np.inf))
    deep = part.cavity.clamp(min=0)
    above = part.z - sulcus - height * deep / (deep + half)
    share = part.soft(torch.minimum(above, part.clearance - ranges.clearance_mm)).mul_(part.abdomen)
    part.paint(share, hu)
    part.abdomen.sub_(share)
    heart = (sulcus + height + shift[0], patient.body_y + shift[1], shift[2])
    part = canvas.around(heart, heart_radii)
    above_only = part.soft(part.cavity).sub_(part.abdomen).clamp_(min=0)
    part.paint(part.soft(part.ellipsoid(heart, heart_radii)).mul_(above_only), heart_hu)


def liver(canvas: Canvas, patient: Patient) -> None:
    """Liver with vessels and lesions."""
    ranges, draw, tissue = RANGES.liver, patient.draw("liver"), patient.tissue
    gap, wedge = patient.gap(draw), draw.chance(ranges.wedge_share)
    centre, radii, power = draw.triple(ranges.centre), draw.triple(ranges.radii), draw(ranges.power)
    tip, slope_x, slope_y = draw(ranges.tip_z), draw(ranges.slope_x), draw(ranges.slope_y)
    left, left_slope, back = draw(ranges.left_end_mm), draw(ranges.left_slope), draw(ranges.back_mm)
    surface = draw.field(ranges.surface_cell_mm), draw(ranges.surface_sd_mm)
    if wedge:
        part = canvas.region(z=(tip - ranges.surface_reach_sd * surface[1] + min(0.0, slope_y) * 100, np.inf))
    else:
        part = canvas.around(centre, radii)
    if wedge:
        lower = part.z - (part.x + patient.half_width) * slope_x - (part.y * slope_y).add_(tip)
        depth = torch.minimum(
            lower.div_(float(np.hypot(1.0, slope_x))), (part.z * left_slope).sub_(part.x).add_(left)
        )
        behind = (ranges.back_from_x - part.x).mul_(ranges.back_slope).add_(back)
        depth = torch.minimum(depth, behind.sub_(part.y)).add_(part.noise(*surface))
    else:
        depth = part.ellipsoid(centre, radii, power)
    share = part.soft(depth).mul_(part.room(gap))
    texture = draw.field(draw(ranges.texture_cell_mm))
    part.paint(share, part.noise(texture, draw(ranges.texture_hu), tissue.liver))
    cell = draw(ranges.vessel_cell_mm)
    veins = part.curves(draw.field(cell), draw.field(cell), draw(ranges.vessel_sd))
    part.paint(part.soft(veins).mul_(share), tissue.vena_cava)
    for _ in range(draw.integer(ranges.lesions)):
        radius, where = (draw(ranges.lesion_radius),) * 3, draw.triple((ranges.lesion_spread,) * 3)
        spot = tuple(c + r * w for c, r, w in zip(centre, radii, where, strict=True))
        lesion = part.soft(part.ellipsoid((spot[0], spot[1], spot[2]), radius)).mul_(share)
        part.paint(lesion, tissue.liver + draw(ranges.lesion_hu))


def spleen(canvas: Canvas, patient: Patient) -> None:
    """Spleen, mostly hollow towards the stomach, mottled in the early phase."""
    ranges, draw, tissue = RANGES.spleen, patient.draw("spleen"), patient.tissue
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


def _fill_bowel(part: Region, wall: Tensor, lumen: Tensor, patient: Patient, draw: Draw) -> None:
    """Paint one loop: wall, then what it holds. Always takes the same draws."""
    ranges, tissue = RANGES.bowel, patient.tissue
    kind, level = draw.choice(ranges.content_shares), draw(ranges.fluid_level_y)
    soft, fluid, gas, oral = (
        draw(span) for span in (ranges.soft_hu, ranges.fluid_hu, ranges.gas_hu, ranges.oral_hu)
    )
    like = tissue.kidney + draw(RANGES.contrast.equal_to_kidney_hu)
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
    ranges, draw = RANGES.bowel, patient.draw("bowel")
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
    ranges, draw = RANGES.bowel, patient.draw("colon")
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
    ranges, draw = RANGES.bowel, patient.draw("stomach")
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


def small_organs(canvas: Canvas, patient: Patient) -> None:
    """Gallbladder, pancreas, and decoys of a kidney's size in a kidney's neighbourhood."""
    ranges, draw, tissue = RANGES.small, patient.draw("small"), patient.tissue
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
        part.paint(share, part.noise(texture, uneven, hu + draw(RANGES.contrast.equal_to_kidney_hu)))


def muscles(canvas: Canvas, patient: Patient) -> None:
    """Psoas (wider downwards), quadratus lumborum, erector spinae."""
    ranges, draw, sy, sx = RANGES.back, patient.draw("muscles"), patient.spine_y, patient.spine_x
    clearance = draw(ranges.muscle_clearance_mm)
    for side in (-1, 1):
        top, y0 = draw(ranges.psoas_top_z), sy + draw(ranges.psoas_y)
        depth, width, outwards = draw(ranges.psoas_depth), draw(ranges.psoas_width), draw(ranges.psoas_x)
        texture = draw.field(ranges.muscle_texture_cell_mm), draw(ranges.muscle_texture_hu)
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


def vessels(canvas: Canvas, patient: Patient) -> None:
    """Aorta with its calcifications, vena cava and the renal vessels."""
    ranges, draw, tissue = RANGES.back, patient.draw("vessels"), patient.tissue
    front = patient.spine_y - patient.spine_half_depth
    for gaps, places, radii, hu in (
        (ranges.cava_gap, ranges.cava_x, ranges.cava_radius, tissue.vena_cava),
        (ranges.aorta_gap, ranges.aorta_x, ranges.aorta_radius, tissue.aorta),
    ):
        y, x, radius = front - draw(gaps), patient.spine_x + draw(places), draw(radii)
        part = canvas.region(EVERYWHERE, (y - radius, y + radius), (x - radius, x + radius))
        depth = part.tube(y, x, radius, radius)
        part.paint(part.soft(depth).mul_(part.free(0.0)), hu)
    plaque, plaque_hu = draw.field(ranges.calcified_cell_mm), draw(ranges.calcified_hu)
    if draw.chance(ranges.calcified_share):
        rim = part.soft(depth.abs_().neg_().add_(ranges.calcified_mm)).mul_(part.free(0.0))
        part.paint(part.soft(part.threshold(plaque, ranges.calcified_sd)).mul_(rim), plaque_hu)
    for z, y, centre_x in patient.kidney_centres:
        # a horseshoe kidney's centre may lie on the midline
        x = centre_x if abs(centre_x) > ranges.renal_shortest_mm else ranges.renal_shortest_mm
        for hu, span in zip((tissue.vena_cava, tissue.aorta), ranges.renal_radii, strict=True):
            radius, z1, rise = draw(span), z + draw(ranges.renal_z), draw(ranges.renal_rise)
            y1, start, reach = front - radius, min(0.0, x), radius + abs(rise)
            low, high = min(y, y1) - radius, max(y, y1) + radius
            part = canvas.region((z1 - reach, z1 + reach), (low, high), (start, start + abs(x)))
            way = part.x / x  # 0 at the midline, 1 at the kidney
            away = (part.z - z1).add_(way - 1, alpha=rise).square_()
            away.add_((part.y - y1).sub_(way, alpha=y - y1).square_()).sqrt_()
            length = torch.minimum(way, 1 - way).mul_(abs(x))
            part.paint(part.soft(torch.minimum(radius - away, length)).mul_(part.free(0.0)), hu)


def bones(canvas: Canvas, patient: Patient) -> None:
    """Spine and ribs."""
    ranges, draw = RANGES.back, patient.draw("bones")
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


def pelvis(canvas: Canvas, patient: Patient) -> None:
    """Iliac wings with the muscles on them, sacrum, hips, bladder; metal in some hips and spines."""
    ranges, draw, tissue = RANGES.pelvis, patient.draw("pelvis"), patient.tissue
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


def draw_surroundings(canvas: Canvas, patient: Patient) -> None:
    """Everything but the kidneys, in the order in which later organs cover earlier ones."""
    for organ in (
        body, table_and_arms, lungs, bowel, small_organs, colon, liver, spleen, stomach,
        muscles, vessels, pelvis, bones,
    ):  # fmt: skip
        organ(canvas, patient)

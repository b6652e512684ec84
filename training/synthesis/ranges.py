"""Every range of the synthetic CTs in one table, with its reason where it is not plain anatomy.

Units stand in the names (mm, HU, vox) or are shares (probabilities); ranges without one are in mm.
They are wider than life: a network trained on them learns what kidneys and tumors have in common, and not
what one scanner shows. Positions are (z, y, x) in mm relative to the point midway between the kidneys.
"""

from dataclasses import dataclass, field

Range = tuple[float, float]
"""Lower and upper end of a uniform distribution."""
Ranges3 = tuple[Range, Range, Range]
"""One range for each of z, y, x."""
Point = tuple[float, float, float]
"""(z, y, x) in mm."""
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
    phase_shares: tuple[float, ...] = (0.38, 0.26, 0.24, 0.12)
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
            cortex=(14, 42), medulla_minus_cortex=(-3, 3), aorta=(30, 50), vena_cava=(30, 50),
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
    pelvis_share: float = 0.6  # renal pelves that reach out of the kidney
    pelvis_medial: Range = (12, 30)  # of the kidney's centre
    pelvis_front: Range = (-4, 14)
    pelvis_z: Range = (-18, 8)
    pelvis_radii: Ranges3 = ((5, 18), (4, 12), (6, 18))
    ureter_share: float = 0.7  # filled ones
    ureter_radius: Range = (1.5, 4.0)
    ureter_x: Range = (26, 45)  # where it ends, in front of the psoas ...
    ureter_y: Range = (-30, -5)  # ... against the vertebral body's centre ...
    ureter_fall_mm: float = 120.0  # ... so far below the kidney
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
class KidneyRanges:
    """Cortex, sinus, stones, cysts and tumors."""

    cortex_mm: Range = (4.0, 9.0)
    cortex_uneven: Range = (0.2, 0.6)  # relative standard deviation: columns between the pyramids
    cortex_cell_mm: Range = (6.0, 11.0)
    texture_hu: Range = (0.0, 8.0)
    texture_cell_mm: Range = (6.0, 16.0)
    sinus_close_mm: float = 12.0  # a hollow narrower than twice this is sinus, not surroundings
    sinus_fat_more_hu: Range = (0.0, 50.0)  # partial volume with small vessels
    sinus_filled_share: float = 0.75
    sinus_cell_mm: Range = (6.0, 12.0)
    sinus_threshold_sd: Range = (-0.6, 1.2)
    sinus_vessel_share: float = 0.5  # filled by vessels, else by urine
    stone_share: float = 0.15
    stone_radius_mm: Range = (1.5, 6.0)
    stone_hu: Range = (250.0, 1300.0)
    stone_spread_mm: float = 10.0
    cysts_mean: float = 0.5  # per kidney; cysts are kidney in KiTS19
    cyst_spread_mm: float = 18.0
    cyst_radius_mm: Range = (4.0, 15.0)
    cyst_hu: Range = (-5.0, 25.0)
    # clear cell (bright, uneven), papillary (dull, even), chromophobe or oncocytoma (between), anything
    tumor_shares: tuple[float, ...] = (0.5, 0.15, 0.2, 0.15)
    # its enhancement as a share of that of the renal parenchyma
    tumor_enhancement: tuple[Range, ...] = ((0.3, 0.9), (0.08, 0.35), (0.25, 0.65), (0.0, 1.1))
    tumor_texture_hu: tuple[Range, ...] = ((8, 30), (1, 6), (2, 10), (1, 25))
    plain_texture_share: float = 0.35  # unevenness left without contrast
    tumor_plain_hu: Range = (22.0, 48.0)  # without contrast
    tumor_cell_mm: Range = (5.0, 18.0)
    necrosis_shares: tuple[float, ...] = (0.55, 0.15, 0.15, 0.35)
    necrosis_hu: Range = (-5.0, 40.0)
    necrosis_cell_mm: Range = (9.0, 26.0)
    necrosis_threshold_sd: Range = (-0.6, 1.0)
    necrosis_rim_mm: Range = (1.0, 8.0)  # living tumor around the core
    calcified_share: float = 0.1
    calcified_sd: Range = (1.6, 2.4)
    calcified_hu: Range = (150.0, 600.0)


@dataclass(frozen=True)
class ScannerRanges:
    """Sampling, noise, artefacts, calibration, field of view."""

    edge_vox: Range = (0.25, 1.0)  # organs' edges: samples of a fine scan are sharp, means of voxels are not
    texture_hu: Range = (0.0, 5.0)  # stranding and unevenness of all soft tissue
    texture_cell_mm: Range = (5.0, 12.0)
    soft_from_hu: float = -300.0
    shading_hu: Range = (0.0, 6.0)  # beam hardening and scatter
    shading_cell_mm: Range = (30.0, 80.0)
    blur_xy_mm: Range = (0.4, 1.8)
    slice_mm: Range = (1.0, 5.5)  # thickness; a box of t mm blurs like a Gaussian of t / sqrt(12)
    noise_hu: Range = (1.0, 30.0)  # log-uniform
    noise_xy_vox: Range = (0.0, 0.8)
    noise_z_vox: Range = (0.0, 0.9)  # interpolated from thick slices
    streak_share: float = 0.25
    streak_hu: Range = (0.0, 20.0)
    streak_period_mm: Range = (38.0, 125.0)
    metal_hu: Range = (60.0, 500.0)  # streaks beside metal
    metal_rays: tuple[int, int] = (3, 9)
    metal_reach_mm: Range = (25.0, 70.0)
    metal_slab_mm: float = 30.0  # half height of the slab of streaks
    gain: Range = (0.93, 1.07)
    offset_hu: Range = (-12.0, 12.0)
    # scans with voxels of several millimetres, interpolated: soft everywhere, and less noisy. Without them a
    # network leans on edges as sharp as the kidneys' own voxels, and fails wherever those are missing
    resampled_share: float = 0.6
    resampled_blur_vox: Range = (0.2, 0.9)  # along z, and in the slice, of the grid's voxels
    round_view_share: float = 0.2  # round field of view that cuts the trunk
    round_view_beyond_mm: Range = (12.0, 70.0)  # its margin beyond the kidneys


@dataclass(frozen=True)
class LabelRanges:
    """Own kidneys, for whoever has no label maps: 100 to 300 ml each."""

    half_distance_mm: Range = (52.0, 72.0)  # of the kidneys' centres from the midline
    jitter_mm: Range = (-12.0, 12.0)
    half_length_mm: Range = (48.0, 60.0)
    half_depth_mm: Range = (24.0, 30.0)
    half_width_mm: Range = (25.0, 31.0)
    tilt: Range = (0.05, 0.35)  # lower poles lie farther from the midline (mm per mm)
    bend: Range = (0.1, 0.3)  # of the bean, in half widths
    bumps: Range = (0.02, 0.08)
    bumps_cell_mm: float = 16.0
    sinus_radii_mm: Ranges3 = ((14.0, 22.0), (6.0, 10.0), (13.0, 20.0))
    sinus_bumps: float = 2.0  # against those of the outer surface
    tumor_share: float = 0.85
    tumor_radius_mm: Range = (6.0, 38.0)
    tumor_place: Ranges3 = ((-0.8, 0.8), (-0.7, 0.7), (0.3, 1.0))  # in half lengths, depths, widths; lateral
    tumor_flatten: Range = (0.75, 1.25)
    tumor_bumps: Range = (0.03, 0.2)
    tumor_bumps_cell: float = 0.7  # in radii
    cyst_share: float = 0.4
    cyst_radius_mm: Range = (4.0, 16.0)
    cyst_place: Ranges3 = ((-0.7, 0.7), (-0.5, 0.5), (0.6, 0.9))


@dataclass(frozen=True)
class SynthesisRanges:
    """All of them."""

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
    kidney: KidneyRanges = field(default_factory=KidneyRanges)
    scanner: ScannerRanges = field(default_factory=ScannerRanges)
    labels: LabelRanges = field(default_factory=LabelRanges)


RANGES = SynthesisRanges()

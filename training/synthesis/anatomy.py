"""What the synthetic CT shows around the kidneys, one function per organ group.

Positions are (z, y, x) in mm of the patient frame (z to superior, y to posterior, x to the patient's left),
relative to the point midway between the kidneys. Every organ draws its parameters from a random stream of
its own (patient seed + organ name), whether or not it lies in view: a crop shows the same patient.
"""

import numpy as np
import torch
from torch import Tensor

from training.synthesis.canvas import AIR_HU, EVERYWHERE, Canvas, Region, raised
from training.synthesis.fields import Draw
from training.synthesis.patient import Patient
from training.synthesis.ranges import RANGES


def body(canvas: Canvas, patient: Patient) -> None:
    """Skin, fat, wall muscles and the fat-filled cavity; leaves their depths on the canvas."""
    ranges, draw, tissue, whole = RANGES.body, patient.draw("body"), patient.tissue, canvas.region()
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


def urinary_tract(canvas: Canvas, patient: Patient) -> None:
    """Renal pelves as far as they lie outside the kidneys, and ureters: neither is kidney in KiTS19."""
    ranges, draw, urine = RANGES.back, patient.draw("urinary tract"), patient.tissue.urine
    for kidney_z, kidney_y, kidney_x in patient.kidney_centres:
        side = 1 if kidney_x > 0 else -1
        z, y = kidney_z + draw(ranges.pelvis_z), kidney_y - draw(ranges.pelvis_front)
        x, radii = kidney_x - side * draw(ranges.pelvis_medial), draw.triple(ranges.pelvis_radii)
        radius = draw(ranges.ureter_radius)
        end_y, end_x = patient.spine_y + draw(ranges.ureter_y), patient.spine_x + side * draw(ranges.ureter_x)
        has_pelvis, has_ureter = draw.chance(ranges.pelvis_share), draw.chance(ranges.ureter_share)
        if has_pelvis:
            part = canvas.around((z, y, x), radii)
            part.paint(part.soft(part.ellipsoid((z, y, x), radii)).mul_(part.free(0.0)), urine)
        if has_ureter:
            spans = ((min(a, b) - radius, max(a, b) + radius) for a, b in ((y, end_y), (x, end_x)))
            part = canvas.region((-np.inf, z), *spans)
            way = (z - part.z).div_(ranges.ureter_fall_mm).clamp_(max=1)
            away = (part.y - y).sub_(way, alpha=end_y - y).square_()
            away.add_((part.x - x).sub_(way, alpha=end_x - x).square_()).sqrt_()
            depth = torch.minimum(radius - away, z - part.z)
            part.paint(part.soft(depth).mul_(part.free(0.0)), urine)


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
        muscles, vessels, urinary_tract, pelvis, bones,
    ):  # fmt: skip
        organ(canvas, patient)

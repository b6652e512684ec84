"""Label maps in, synthetic CT out: on the fly, on the label map's device, repeatable by seed.

The label maps are real, or drawn by `draw_labels`. The CT around and inside them is drawn anew for every
seed from the ranges of `ranges.py`. `anatomy.py` draws the surroundings; this file the kidneys, the scanner,
and the calls that others use.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from training.synthesis.anatomy import draw_surroundings
from training.synthesis.canvas import Box, Canvas, Region
from training.synthesis.fields import SEED_BITS, Draw
from training.synthesis.patient import Patient, draw_patient
from training.synthesis.ranges import PHASES, RANGES, Point

OUTSIDE_HU = -1024.0
KIDNEY, TUMOR = 1, 2
MIN_COMPONENT_ML = 20.0
"""Smaller pieces of a label map are no kidney to arrange a body around."""
CLEARANCE_CAP_MM = 28.0
"""Distances from the kidneys are exact up to here; nothing asks for more."""
CLEARANCE_GRID_MM = 4.0
"""Grid for those distances: organs keep away by whole millimetres, so a coarse one will do."""
KIDNEY_FROM_MIDLINE_MM = 60.0
"""Where one kidney is missing, the midline is this far from the other."""
OFF_CENTRE_MM = 45.0
"""No patient lies farther than this from the middle of the scan."""
BLUR_REACH_SIGMA = 4.0
"""Gaussians end here; beyond, their weights would be denormal numbers, which are slow."""


@dataclass(frozen=True)
class Landmarks:
    """Where the kidneys and the scan lie, in mm of a patient frame (z up/superior, y posterior, x left).

    All points are (z, y, x). Where there is no kidney, its box is the scan's centre.
    """

    kidney_centres_mm: tuple[Point, ...]  # components of at least 20 ml, largest first, at most 3
    kidney_low_mm: Point
    kidney_high_mm: Point
    scan_low_mm: Point
    scan_high_mm: Point


def find_landmarks(
    labels: Tensor, inside: Tensor, *, spacing_mm: float, origin_mm: Point = (0.0, 0.0, 0.0)
) -> Landmarks:
    """Find the kidneys and the scan in a whole label map.

    Args:
        labels: (D, H, W) in canonical LPS, 0 background, 1 kidney, 2 tumor.
        inside: (D, H, W) bool, voxels inside the scan.
        spacing_mm: side of a voxel.
        origin_mm: position of voxel (0, 0, 0), zyx.

    Returns:
        The landmarks, in the frame of `origin_mm`.
    """
    kidneys = labels > 0
    scan, box = _bounding_box(inside), _bounding_box(kidneys)
    scan = scan or (slice(0, labels.shape[0]), slice(0, labels.shape[1]), slice(0, labels.shape[2]))
    scan_low, scan_high = np.array([s.start for s in scan]), np.array([s.stop - 1 for s in scan])
    low = high = (scan_low + scan_high) / 2
    centres: list[np.ndarray] = []
    if box is not None:
        low, high = np.array([s.start for s in box]), np.array([s.stop - 1 for s in box])
        mask = kidneys[box].cpu().numpy()
        numbered, _ = ndimage.label(mask)
        sizes = np.bincount(numbered.ravel())[1:]
        enough = MIN_COMPONENT_ML * 1000 / spacing_mm**3
        largest = [int(i) + 1 for i in np.argsort(-sizes, kind="stable")[:3] if sizes[i] >= enough]
        centres = (
            [np.asarray(c) + low for c in ndimage.center_of_mass(mask, numbered, largest)] if largest else []
        )

    def place(index: np.ndarray) -> Point:
        z, y, x = np.asarray(origin_mm) + index * spacing_mm
        return float(z), float(y), float(x)

    return Landmarks(
        kidney_centres_mm=tuple(place(c) for c in centres),
        kidney_low_mm=place(low),
        kidney_high_mm=place(high),
        scan_low_mm=place(scan_low),
        scan_high_mm=place(scan_high),
    )


@torch.no_grad()
def synthesise_ct(
    labels: Tensor,
    inside: Tensor,
    *,
    spacing_mm: float,
    seed: int,
    landmarks: Landmarks | None = None,
    origin_mm: Point = (0.0, 0.0, 0.0),
    phase: str | None = None,
) -> Tensor:
    """Draw a CT around a label map.

    The same seed, labels and device give the same HU bit for bit. A crop of a patient, given with its origin
    and the whole patient's landmarks, shows the same anatomy as the whole; only voxel noise differs.

    Args:
        labels: uint8 (D, H, W) in canonical LPS (z to superior, y to posterior, x to the patient's left),
            isotropic; 0 background, 1 kidney (cysts included), 2 tumor.
        inside: bool (D, H, W), voxels inside the scan.
        spacing_mm: side of a voxel.
        seed: of patient and noise.
        landmarks: of the whole patient; found in `labels` where not given.
        origin_mm: position of voxel (0, 0, 0) in the frame of the landmarks, zyx.
        phase: one of `PHASES`; drawn where not given.

    Returns:
        float32 (D, H, W) HU, -1024 outside the scan.

    Raises:
        ValueError: if labels and scan are not of one three-dimensional shape, or the phase is unknown.
    """
    if labels.ndim != 3 or labels.shape != inside.shape:
        raise ValueError(
            f"labels {tuple(labels.shape)} and inside {tuple(inside.shape)}: give both as one (D, H, W)"
        )
    if phase is not None and phase not in PHASES:
        raise ValueError(f"phase {phase!r}: give one of {', '.join(PHASES)}")
    if landmarks is None:
        landmarks = find_landmarks(labels, inside, spacing_mm=spacing_mm, origin_mm=origin_mm)
    middle = _midpoint(landmarks)

    def relative(point: Point) -> Point:
        return point[0] - middle[0], point[1] - middle[1], point[2] - middle[2]

    patient = draw_patient(
        seed,
        kidney_low=relative(landmarks.kidney_low_mm),
        kidney_high=relative(landmarks.kidney_high_mm),
        centres=tuple(relative(c) for c in landmarks.kidney_centres_mm),
        phase=None if phase is None else PHASES.index(phase),
    )
    axes = [
        torch.arange(n, dtype=torch.float32, device=labels.device) * spacing_mm + start
        for n, start in zip(labels.shape, relative(origin_mm), strict=True)
    ]
    kidneys = labels > 0
    canvas = Canvas(
        axes, _clearance(kidneys, spacing_mm=spacing_mm, origin_mm=origin_mm), patient, spacing_mm=spacing_mm
    )
    draw_surroundings(canvas, patient)
    box = _bounding_box(kidneys, margin_vox=int(np.ceil(RANGES.kidney.sinus_close_mm / spacing_mm)))
    if box is not None:
        _kidneys(Region(canvas, box), labels[box], patient)
    return _scan(
        canvas, inside, patient, relative(landmarks.kidney_low_mm), relative(landmarks.kidney_high_mm)
    )


def _midpoint(landmarks: Landmarks) -> Point:
    """The point midway between the kidneys, on the spine's axis as far as one can tell."""
    low, high = landmarks.kidney_low_mm, landmarks.kidney_high_mm
    scan_x = (landmarks.scan_low_mm[2] + landmarks.scan_high_mm[2]) / 2
    centres = sorted(landmarks.kidney_centres_mm[:2], key=lambda c: c[2])
    if not centres:
        z, y, x = ((a + b) / 2 for a, b in zip(low, high, strict=True))
    elif len(centres) == 2:
        z, y, x = ((a + b) / 2 for a, b in zip(*centres, strict=True))
    else:
        z, y, x = centres[0]
        if high[2] - low[2] > 2 * KIDNEY_FROM_MIDLINE_MM:  # both kidneys in one piece
            x = (low[2] + high[2]) / 2
        else:
            x += KIDNEY_FROM_MIDLINE_MM if x < scan_x else -KIDNEY_FROM_MIDLINE_MM
    return z, y, float(np.clip(x, scan_x - OFF_CENTRE_MM, scan_x + OFF_CENTRE_MM))


def _bounding_box(mask: Tensor, *, margin_vox: int = 0) -> Box | None:
    """The box of the true voxels, grown by a margin within the array; None where there are none."""
    box = []
    for span in (mask.flatten(1).any(1), mask.any(0).any(1), mask.any(0).any(0)):
        index = span.nonzero()
        if len(index) == 0:
            return None
        start, stop = int(index[0]) - margin_vox, int(index[-1]) + 1 + margin_vox
        box.append(slice(max(0, start), min(len(span), stop)))
    return box[0], box[1], box[2]


def _distance(mask: Tensor, *, spacing_mm: float, cap_mm: float) -> Tensor:
    """Euclidean distance (mm) of every voxel to the nearest true one, exact below the cap.

    Separable: along each axis in turn, the least of the neighbours' squared distances plus the way to them.
    """
    squared = (~mask).float().mul_(cap_mm**2)
    for axis, length in enumerate(mask.shape):
        best = squared.clone()
        for k in range(1, min(length, int(np.ceil(cap_mm / spacing_mm)))):
            step = (k * spacing_mm) ** 2
            upper, lower = best.narrow(axis, k, length - k), best.narrow(axis, 0, length - k)
            torch.minimum(upper, squared.narrow(axis, 0, length - k) + step, out=upper)
            torch.minimum(lower, squared.narrow(axis, k, length - k) + step, out=lower)
        squared = best
    return squared.sqrt_()


def _clearance(kidneys: Tensor, *, spacing_mm: float, origin_mm: Point) -> Tensor:
    """Distance (mm) from the kidneys' surface, capped, 0 inside them."""
    result = torch.full(kidneys.shape, CLEARANCE_CAP_MM, device=kidneys.device)
    box = _bounding_box(kidneys, margin_vox=int(np.ceil(CLEARANCE_CAP_MM / spacing_mm)))
    if box is None:
        return result
    near, pool = kidneys[box], max(1, round(CLEARANCE_GRID_MM / spacing_mm))
    if pool > 1:
        # coarse cells begin at multiples of their size in the patient frame, so that crops agree
        ahead = [
            (round(start / spacing_mm) + part.start) % pool
            for start, part in zip(origin_mm, box, strict=True)
        ]
        padded = functional.pad(near.float(), (ahead[2], 0, ahead[1], 0, ahead[0], 0))
        coarse = functional.max_pool3d(padded[None, None], pool, ceil_mode=True)[0, 0] > 0
        distance = _distance(coarse, spacing_mm=spacing_mm * pool, cap_mm=CLEARANCE_CAP_MM)
        for axis, length in enumerate(near.shape):  # linear, one axis at a time
            at = (torch.arange(length, device=near.device) + (ahead[axis] + 0.5)) / pool - 0.5
            first = at.floor().clamp_(0, max(0, distance.shape[axis] - 2))
            weight = (at - first).clamp_(0, 1).view([-1 if a == axis else 1 for a in range(3)])
            lower = distance.index_select(axis, first.long())
            upper = distance.index_select(axis, (first.long() + 1).clamp_(max=distance.shape[axis] - 1))
            distance = lower.lerp_(upper, weight)
    else:
        distance = _distance(near, spacing_mm=spacing_mm, cap_mm=CLEARANCE_CAP_MM)
    # from voxel centres to the surface between them
    result[box] = distance.sub_(pool * spacing_mm / 2).clamp_(min=spacing_mm / 2).mul_(~near)
    return result


def _kidneys(part: Region, labels: Tensor, patient: Patient) -> None:
    """Sinus, parenchyma, stones, cysts and tumors."""
    ranges, draw, tissue, spacing = RANGES.kidney, patient.draw("kidney"), patient.tissue, part.spacing_mm
    organ, is_kidney = labels > 0, (labels == KIDNEY).float()
    # sinus: what closing the kidney would fill
    close = ranges.sinus_close_mm
    beyond = part.clearance + spacing / 2 >= close
    sinus = _distance(beyond, spacing_mm=spacing, cap_mm=1.5 * close).sub_(close + spacing / 2)
    sinus = part.soft(sinus).mul_(~organ)
    part.paint(sinus, tissue.fat + draw(ranges.sinus_fat_more_hu))
    wavy, threshold = draw.field(draw(ranges.sinus_cell_mm)), draw(ranges.sinus_threshold_sd)
    filling = tissue.vena_cava if draw.chance(ranges.sinus_vessel_share) else tissue.urine
    if draw.chance(ranges.sinus_filled_share):
        part.paint(part.soft(part.threshold(wavy, threshold)).mul_(sinus), filling)

    # parenchyma: a cortex of uneven thickness around the medulla
    thick, uneven = draw(ranges.cortex_mm), draw(ranges.cortex_uneven)
    cap = ranges.cortex_mm[1] * (1 + 2 * ranges.cortex_uneven[1])
    depth = _distance(~organ, spacing_mm=spacing, cap_mm=cap).sub_(spacing / 2)
    shell = part.noise(draw.field(draw(ranges.cortex_cell_mm)), thick * uneven, thick).clamp_(
        max=cap - spacing
    )
    cortex_share = part.soft(shell - depth)
    texture = part.noise(draw.field(draw(ranges.texture_cell_mm)), draw(ranges.texture_hu), tissue.medulla)
    part.paint(is_kidney, texture.add_(cortex_share, alpha=tissue.cortex - tissue.medulla))

    def around(centre: Point, spread: float) -> Point:
        z, y, x = (c + draw.normal() * spread for c in centre)
        return z, y, x

    for centre in patient.kidney_centres:
        spot, radius, hu = (
            around(centre, ranges.stone_spread_mm),
            draw(ranges.stone_radius_mm),
            draw(ranges.stone_hu),
        )
        if draw.chance(ranges.stone_share):
            stone = part.soft(part.ellipsoid(spot, (radius,) * 3))
            part.paint(stone.mul_(torch.maximum(sinus, is_kidney)), hu)
        for _ in range(draw.poisson(ranges.cysts_mean)):
            spot, radius, hu = (
                around(centre, ranges.cyst_spread_mm),
                draw(ranges.cyst_radius_mm),
                draw(ranges.cyst_hu),
            )
            part.paint(part.soft(part.ellipsoid(spot, (radius,) * 3)).mul_(is_kidney), hu)
    if bool((labels == TUMOR).any()):
        _tumor(part, labels == TUMOR, patient)


def _tumor(part: Region, mask: Tensor, patient: Patient) -> None:
    """Tumor of one kind, with a dead core or calcifications in some."""
    ranges, draw, tissue = RANGES.kidney, patient.draw("tumor"), patient.tissue
    kind, plain = draw.choice(ranges.tumor_shares), draw(ranges.tumor_plain_hu)
    parenchyma_gain = max(0.0, tissue.kidney - sum(ranges.tumor_plain_hu) / 2)
    level = plain + draw(ranges.tumor_enhancement[kind]) * parenchyma_gain
    # unevenness comes from uneven enhancement: there is little of it without contrast
    uneven = draw(ranges.tumor_texture_hu[kind]) * (1.0 if tissue.phase else ranges.plain_texture_share)
    hu = part.noise(draw.field(draw(ranges.tumor_cell_mm)), uneven, level)
    core, threshold = draw.field(draw(ranges.necrosis_cell_mm)), draw(ranges.necrosis_threshold_sd)
    rim, dead_hu = draw(ranges.necrosis_rim_mm), draw(ranges.necrosis_hu)
    if draw.chance(ranges.necrosis_shares[kind]):
        cap = ranges.necrosis_rim_mm[1] + 2 * part.spacing_mm
        depth = _distance(~mask, spacing_mm=part.spacing_mm, cap_mm=cap).sub_(rim)
        dead = part.soft(torch.minimum(part.threshold(core, threshold), depth))
        hu.lerp_(torch.full((), dead_hu, device=hu.device), dead)
    spots, spot_hu = part.threshold(core, draw(ranges.calcified_sd)), draw(ranges.calcified_hu)
    if draw.chance(ranges.calcified_share):
        hu.lerp_(torch.full((), spot_hu, device=hu.device), part.soft(spots))
    part.paint(mask.float(), hu)


def _blur(image: Tensor, sigma_vox: Point) -> Tensor:
    """Separable Gaussian as three matrix products; weights are renormalised at the edges."""
    weights = []
    for n, sigma in zip(image.shape, sigma_vox, strict=True):
        index = torch.arange(n, device=image.device, dtype=torch.float32)
        away = (index[:, None] - index[None]).abs_().div_(max(sigma, 0.05))
        w = torch.exp(-0.5 * away.square()).mul_(away < BLUR_REACH_SIGMA)
        weights.append(w / w.sum(1, keepdim=True))
    z, y, x = weights
    image = (z @ image.flatten(1)).unflatten(1, image.shape[1:])
    return (y @ image) @ x.T


def _metal_streaks(canvas: Canvas, hu: Tensor, draw: Draw) -> None:
    """Bright and dark rays in the slices around metal, fading with the distance."""
    ranges = RANGES.scanner
    for z0, y0, x0 in canvas.metal:
        amplitude, rays, reach = (
            draw(ranges.metal_hu),
            draw.integer(ranges.metal_rays),
            draw(ranges.metal_reach_mm),
        )
        turn = draw((0.0, 2 * float(np.pi)))
        y, x = canvas.axes[1][:, None] - y0, canvas.axes[2][None] - x0
        rays_hu = (
            torch.sin(torch.atan2(y, x) * rays + turn) * torch.exp(-torch.hypot(y, x) / reach) * amplitude
        )
        slab = (1 - (canvas.axes[0] - z0).abs() / ranges.metal_slab_mm).clamp_(min=0)
        hu.add_(slab[:, None, None] * rays_hu)


def _scan(canvas: Canvas, inside: Tensor, patient: Patient, kidney_low: Point, kidney_high: Point) -> Tensor:
    """What the scanner makes of it: unevenness, blur, noise, artefacts, calibration, field of view."""
    ranges, draw, hu, spacing = RANGES.scanner, patient.draw("scanner"), canvas.hu, canvas.spacing_mm
    texture = draw.field(draw(ranges.texture_cell_mm)).at(canvas.axes).mul_(draw(ranges.texture_hu))
    texture.add_(draw.field(draw(ranges.shading_cell_mm)).at(canvas.axes), alpha=draw(ranges.shading_hu))
    hu.add_(texture.mul_((hu - ranges.soft_from_hu).clamp_(0, 1)))
    blur_xy, slice_mm = draw(ranges.blur_xy_mm) / spacing, draw(ranges.slice_mm)
    hu = _blur(hu, (slice_mm / float(np.sqrt(12)) / spacing, blur_xy, blur_xy))
    generator = torch.Generator(device=hu.device).manual_seed(patient.seed & SEED_BITS)
    noise = torch.randn(hu.shape, generator=generator, device=hu.device)
    noise_xy, noise_z = draw(ranges.noise_xy_vox), draw(ranges.noise_z_vox)
    noise = _blur(noise, (noise_z, noise_xy, noise_xy))
    hu.add_(noise.mul_(draw.log(ranges.noise_hu) / noise.std()))
    angle, amplitude = draw((0.0, float(np.pi))), draw(ranges.streak_hu)
    period, shift = draw(ranges.streak_period_mm), draw((0.0, 2 * float(np.pi)))
    if draw.chance(ranges.streak_share):
        across = canvas.axes[1][:, None] * float(np.sin(angle)) + canvas.axes[2][None] * float(np.cos(angle))
        hu.add_(amplitude * torch.sin(across * (2 * float(np.pi) / period) + shift))
    _metal_streaks(canvas, hu, draw)
    if draw.chance(ranges.resampled_share):
        z, xy = draw(ranges.resampled_blur_vox), draw(ranges.resampled_blur_vox)
        hu = _blur(hu, (z, xy, xy))
    hu.mul_(draw(ranges.gain)).add_(draw(ranges.offset_hu)).clamp_(min=OUTSIDE_HU)
    outside, beyond = ~inside, draw(ranges.round_view_beyond_mm)
    if draw.chance(ranges.round_view_share):
        y0 = (kidney_low[1] + kidney_high[1]) / 2 - beyond  # kidneys lie in the back part of the view
        corners = [
            (y - y0, x) for y in (kidney_low[1], kidney_high[1]) for x in (kidney_low[2], kidney_high[2])
        ]
        radius = max(float(np.hypot(*corner)) for corner in corners) + beyond
        outside |= (canvas.axes[1][:, None] - y0).square() + canvas.axes[2][None].square() > radius**2
    return hu.masked_fill_(outside, OUTSIDE_HU)


def _ball(axes: list[Tensor], centre: Point, radii: Point) -> Tensor:
    """Below 1 inside an ellipsoid; axes broadcast against each other."""
    z, y, x = (((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radii, strict=True))
    return z + y + x


def _draw_kidney(axes: list[Tensor], draw: Draw, side: int) -> tuple[Tensor, Tensor]:
    """Masks of one kidney (side -1 right, 1 left) and of a tumor that would grow on it."""
    ranges = RANGES.labels
    z, y, x = axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None]
    z0, y0, x0 = draw(ranges.jitter_mm), draw(ranges.jitter_mm), side * draw(ranges.half_distance_mm)
    length, depth, width = draw(ranges.half_length_mm), draw(ranges.half_depth_mm), draw(ranges.half_width_mm)
    tilt, bend = draw(ranges.tilt), draw(ranges.bend)

    def on_surface(place: Point) -> Point:
        return z0 + place[0] * length, y0 + place[1] * depth, x0 + side * place[2] * width

    # how far towards the midline: the poles bend to it, the lower pole tilts away from it
    medial = side * (x0 - x) + bend * width * (1 - 2 * ((z - z0) / length) ** 2) + tilt * (z0 - z)
    bumps = draw.field(ranges.bumps_cell_mm).at(axes).mul_(draw(ranges.bumps))
    bean = _ball([z, y, medial], (z0, y0, 0.0), (length, depth, width)) + bumps < 1
    hollow = _ball([z, y, medial], (z0, y0, width), draw.triple(ranges.sinus_radii_mm))
    kidney = bean & (hollow + ranges.sinus_bumps * bumps > 1)
    centre, radius = on_surface(draw.triple(ranges.cyst_place)), draw(ranges.cyst_radius_mm)
    if draw.chance(ranges.cyst_share):
        kidney |= _ball([z, y, x], centre, (radius, radius, radius)) < 1
    centre, radius = on_surface(draw.triple(ranges.tumor_place)), draw(ranges.tumor_radius_mm)
    flat = draw.triple((ranges.tumor_flatten,) * 3)
    lumps = draw.field(radius * ranges.tumor_bumps_cell).at(axes).mul_(draw(ranges.tumor_bumps))
    tumor = _ball([z, y, x], centre, (radius * flat[0], radius * flat[1], radius * flat[2])) + lumps < 1
    return kidney, tumor


def draw_labels(
    *, shape_vox: tuple[int, int, int], spacing_mm: float, seed: int, tumor: bool | None = None
) -> Tensor:
    """Draw two kidneys, where no label maps are given: beans without their sinus, tumors, cysts.

    Args:
        shape_vox: (D, H, W); at least 200 × 120 × 240 mm to hold both kidneys.
        spacing_mm: side of a voxel.
        seed: of the patient.
        tumor: with, without, or by chance.

    Returns:
        uint8 (D, H, W) in canonical LPS: 0 background, 1 kidney (cysts included), 2 tumor.
    """
    draw = Draw(seed, "labels")
    axes = [(torch.arange(n, dtype=torch.float32) - (n - 1) / 2) * spacing_mm for n in shape_vox]
    labels = torch.zeros(shape_vox, dtype=torch.uint8)
    by_chance, tumor_side = draw.chance(RANGES.labels.tumor_share), draw.integer((0, 1)) * 2 - 1
    with_tumor = by_chance if tumor is None else tumor
    for side in (-1, 1):
        kidney_mask, tumor_mask = _draw_kidney(axes, draw, side)
        labels[kidney_mask] = KIDNEY
        if with_tumor and side == tumor_side:
            labels[tumor_mask] = TUMOR
    return labels

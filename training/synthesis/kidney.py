"""Inside the kidneys: sinus, parenchyma, stones, cysts and tumors."""

from dataclasses import dataclass

import torch
from torch import Tensor

from inference.geometry import KIDNEY, TUMOR
from training.synthesis.canvas import Region
from training.synthesis.distances import distance_mm
from training.synthesis.patient import Patient
from training.synthesis.ranges import Point, Range


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
    necrosis_rim_mm: Range = (1.0, 8.0)  # viable tumor around the core
    calcified_share: float = 0.1
    calcified_sd: Range = (1.6, 2.4)
    calcified_hu: Range = (150.0, 600.0)


RANGES = KidneyRanges()


def kidneys(part: Region, labels: Tensor, patient: Patient) -> None:
    """Sinus, parenchyma, stones, cysts and tumors."""
    ranges, draw, tissue, spacing = RANGES, patient.draw("kidney"), patient.tissue, part.spacing_mm
    organ, is_kidney = labels > 0, (labels == KIDNEY).float()
    # sinus: what a morphological closing of the kidney would fill
    close = ranges.sinus_close_mm
    beyond = part.clearance + spacing / 2 >= close
    sinus = distance_mm(beyond, spacing_mm=spacing, cap_mm=1.5 * close).sub_(close + spacing / 2)
    sinus = part.soft(sinus).mul_(~organ)
    part.paint(sinus, tissue.fat + draw(ranges.sinus_fat_more_hu))
    wavy, threshold = draw.field(draw(ranges.sinus_cell_mm)), draw(ranges.sinus_threshold_sd)
    filling = tissue.vena_cava if draw.chance(ranges.sinus_vessel_share) else tissue.urine
    if draw.chance(ranges.sinus_filled_share):
        part.paint(part.soft(part.threshold(wavy, threshold)).mul_(sinus), filling)

    # parenchyma: a cortex of uneven thickness around the medulla
    thick, uneven = draw(ranges.cortex_mm), draw(ranges.cortex_uneven)
    cap = ranges.cortex_mm[1] * (1 + 2 * ranges.cortex_uneven[1])
    depth = distance_mm(~organ, spacing_mm=spacing, cap_mm=cap).sub_(spacing / 2)
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
    """One tumor of a random kind; some have a necrotic core or calcifications."""
    ranges, draw, tissue = RANGES, patient.draw("tumor"), patient.tissue
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
        depth = distance_mm(~mask, spacing_mm=part.spacing_mm, cap_mm=cap).sub_(rim)
        dead = part.soft(torch.minimum(part.threshold(core, threshold), depth))
        hu.lerp_(torch.full((), dead_hu, device=hu.device), dead)
    spots, spot_hu = part.threshold(core, draw(ranges.calcified_sd)), draw(ranges.calcified_hu)
    if draw.chance(ranges.calcified_share):
        hu.lerp_(torch.full((), spot_hu, device=hu.device), part.soft(spots))
    part.paint(mask.float(), hu)

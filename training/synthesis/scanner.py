"""Simulation of the scanner: blur, noise, artefacts, calibration, field of view."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.synthesis.canvas import Canvas
from training.synthesis.fields import SEED_BITS, Draw
from training.synthesis.patient import Patient
from training.synthesis.ranges import Point, Range

OUTSIDE_HU = -1024.0
BLUR_REACH_SIGMA = 4.0
"""Gaussians end here; beyond, their weights would be denormal numbers, which are slow."""


@dataclass(frozen=True)
class ScannerRanges:
    """Sampling, noise, artefacts, calibration, field of view."""

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
    # network relies on edges as sharp as the kidneys' voxels, and fails wherever edges are softer
    resampled_share: float = 0.6
    resampled_blur_vox: Range = (0.2, 0.9)  # along z, and in the slice, of the grid's voxels
    round_view_share: float = 0.2  # round field of view that cuts the trunk
    round_view_beyond_mm: Range = (12.0, 70.0)  # its margin beyond the kidneys


RANGES = ScannerRanges()


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
    ranges = RANGES
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


def scan(canvas: Canvas, inside: Tensor, patient: Patient, kidney_low: Point, kidney_high: Point) -> Tensor:
    """Simulate the scanner: unevenness, blur, noise, artefacts, calibration, field of view."""
    ranges, draw, hu, spacing = RANGES, patient.draw("scanner"), canvas.hu, canvas.spacing_mm
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

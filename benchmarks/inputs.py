"""What the benchmarks run on: CTs of any length, drawn, and weights whose answer on them is known."""

from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage

from inference.formats.staging import staged
from inference.geometry import RoiSpec
from inference.networks.vnet import VNet
from inference.networks.weights import WeightsMetadata, save_weights
from training.synthesis.draw import synthesise_ct
from training.synthesis.labels import draw_labels

DRAWN_SPACING_MM = 4.0
PIXELS, PIXEL_MM, SLICE_MM = 512, 0.8, 1.0
NOISE_HU = 12.0  # real CTs compress by a third of what smooth ones do
FAT_HU, BRIGHTEST_HU, KIDNEY_HU, TUMOR_HU = -100.0, 60.0, 140.0, 220.0
"""Around kidneys, of all else at most, of kidneys and of tumors in the CTs made here, before noise."""


def make_ct(path: Path, *, n_slices: int, seed: int = 3, pixels: int = PIXELS) -> Path:
    """Write a drawn float64 CT in KiTS19's orientation (first axis from head to feet) unless it is there.

    Everything but the kidneys is darker than they are, so that `make_weights` finds them and nothing else:
    then components and restore have as much to do as on a patient.
    """
    if path.exists():
        return path
    pixel_mm = PIXEL_MM * PIXELS / pixels
    mm = (n_slices * SLICE_MM, pixels * pixel_mm, pixels * pixel_mm)
    z, y, x = (8 * max(1, round(side / DRAWN_SPACING_MM / 8)) for side in mm)
    labels = draw_labels(shape_vox=(max(z, 56), y, x), spacing_mm=DRAWN_SPACING_MM, seed=seed, tumor=True)
    inside = torch.ones_like(labels, dtype=torch.bool)
    drawn = synthesise_ct(labels, inside, spacing_mm=DRAWN_SPACING_MM, seed=seed).numpy()
    drawn = np.minimum(drawn, BRIGHTEST_HU)
    drawn[ndimage.binary_dilation(labels > 0, iterations=2)] = FAT_HU  # without it they are no kidneys
    drawn[labels == 1], drawn[labels == 2] = KIDNEY_HU, TUMOR_HU
    random = np.random.default_rng(seed)
    voxels = np.empty((n_slices, pixels, pixels), dtype=np.int16)
    zoom = [n / m for n, m in zip(voxels.shape[1:], drawn.shape[1:], strict=True)]
    for i in range(n_slices):
        plane = drawn[min(len(drawn) - 1, i * len(drawn) // n_slices)]
        fine = ndimage.zoom(plane, zoom, order=1, grid_mode=True, mode="nearest")
        voxels[n_slices - 1 - i] = fine + random.normal(0, NOISE_HU, fine.shape)
    affine = np.array([[0, 0, -pixel_mm, 0], [0, -pixel_mm, 0, 0], [-SLICE_MM, 0, 0, 0], [0, 0, 0, 1.0]])
    image = nib.Nifti1Image(voxels, affine)
    image.set_data_dtype(np.float64)
    with staged(path) as partial:
        nib.save(image, partial)
    return path


def make_weights(folder: Path, *, side_vox: int = 168, spacing_mm: float = 2.0) -> Path:
    """Weights of the full width that find `KIDNEY_HU` and `TUMOR_HU`: speed does not depend on the numbers.

    One channel passes the image on through the topmost skip connection; all others hold noise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    roi = RoiSpec((side_vox,) * 3, spacing_mm)
    low, high = roi.window_hu
    for stage, darker, brighter in (
        ("kidney", BRIGHTEST_HU, KIDNEY_HU),
        ("tumor", KIDNEY_HU, TUMOR_HU),
    ):
        threshold = ((darker + brighter) / 2 - low) / (high - low)
        save_weights(folder / f"{stage}.safetensors", _pass_on(threshold), WeightsMetadata(stage, roi))
    return folder


def _pass_on(threshold: float, *, sharpness: float = 80.0) -> VNet:
    torch.manual_seed(0)
    model = VNet()
    first, second = (block[0] for block in model.encoder[0])
    third, fourth = (block[0] for block in model.decoder[-1])
    below = third.in_channels - second.out_channels  # concatenation puts the upsampled ones first
    with torch.no_grad():
        for convolution, source in ((first, 0), (second, 0), (third, below), (fourth, 0)):
            convolution.weight[0] = 0
            convolution.weight[0, source, 1, 1, 1] = 1.0
            if convolution.bias is not None:
                convolution.bias[0] = 0
        model.head.weight.zero_()
        model.head.weight[0, 0], model.head.bias[0] = sharpness, -sharpness * threshold
    return model

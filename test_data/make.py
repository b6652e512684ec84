"""Makes the sample cases beside this file: `python -m test_data.make [FOLDER]`.

Bit for bit on the kind of processor that made them; on another, 1 HU in few voxels may differ.

Four patients drawn by the project's own generator (kidneys, tumors and the CT around them: no person's
data), each in another layout and geometry. `input/` holds the CTs, `reference/` the label maps that they
were drawn from, called as the command calls its outputs.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch
from nibabel.orientations import apply_orientation
from numpy.typing import NDArray
from scipy import ndimage

from inference.formats.ct import NativeGrid, write_label_map
from training.synthesis.draw import synthesise_ct
from training.synthesis.labels import draw_labels

DRAWN_SPACING_MM = 2.5
DRAWN_SHAPE = (112, 136, 136)
MIN_HU = -1024


@dataclass(frozen=True)
class Sample:
    """One sample case: `axes` are the stored axes in nibabel's letters, (z, y, x) sizes and spacings."""

    source: str
    reference: str
    seed: int
    tumor: bool
    phase: str
    axes: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    tilt_degrees: float = 0.0


SAMPLES = (
    Sample(
        "case_90000/imaging.nii.gz", "prediction_90000.nii.gz", 11, True, "nephrographic", "IPL",
        (56, 104, 104), (4.0, 3.2, 3.2),
    ),
    Sample(
        "thick_slices.nii.gz", "thick_slices.nii.gz", 23, True, "corticomedullary", "LAS",
        (50, 104, 104), (5.0, 3.2, 3.2),
    ),
    Sample(
        "oblique.mha", "oblique.mha", 37, True, "nephrographic", "LPS", (70, 96, 96), (3.5, 3.4, 3.4), 12.0
    ),
    Sample(
        "case_90003_0000.nii.gz", "case_90003.nii.gz", 41, False, "excretory", "RPS",
        (60, 96, 96), (4.0, 3.4, 3.4),
    ),
)  # fmt: skip


def main(folder: Path) -> None:
    """Write `input/` and `reference/` under a folder."""
    torch.set_num_threads(1)  # sums in another order would change the last bit
    for sample in SAMPLES:
        labels = draw_labels(
            shape_vox=DRAWN_SHAPE, spacing_mm=DRAWN_SPACING_MM, seed=sample.seed, tumor=sample.tumor
        )
        inside = torch.ones_like(labels, dtype=torch.bool)
        hu = synthesise_ct(
            labels, inside, spacing_mm=DRAWN_SPACING_MM, seed=sample.seed, phase=sample.phase
        ).numpy()
        organ, tumor = (_scan((labels >= label).numpy().astype(np.float32), sample) > 0.5 for label in (1, 2))
        grid = _native_grid(sample)
        voxels = np.rint(np.clip(_scan(hu, sample), MIN_HU, 3071)).astype(np.int16)
        grid = _write_ct(folder / "input" / sample.source, voxels, grid)
        reference = organ.astype(np.uint8) + (organ & tumor)
        write_label_map(folder / "reference" / sample.reference, reference, grid)


def _scan(volume: NDArray[np.float32], sample: Sample) -> NDArray[np.float32]:
    """The drawn volume on the sample's grid, both centred alike."""
    step = np.array(sample.spacing_mm) / DRAWN_SPACING_MM
    start = (np.array(volume.shape) - 1) / 2 - step * (np.array(sample.shape) - 1) / 2
    return ndimage.affine_transform(
        volume, step, offset=start, output_shape=sample.shape, order=1, mode="nearest"
    )


def _native_grid(sample: Sample) -> NativeGrid:
    to_voxel = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt(("S", "P", "L")), nib.orientations.axcodes2ornt(tuple(sample.axes))
    )
    order = to_voxel[:, 0].argsort()
    i, j, k = (sample.shape[int(axis)] for axis in order)
    spacing = [sample.spacing_mm[int(axis)] for axis in order]
    directions = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(tuple(sample.axes)), (i, j, k))[
        :3, :3
    ]
    tilt = np.radians(sample.tilt_degrees)
    turn = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ directions @ np.diag(spacing)
    affine[:3, 3] = -affine[:3, :3] @ (np.array([i, j, k]) - 1) / 2
    return NativeGrid((i, j, k), affine)


def _write_ct(path: Path, voxels: NDArray[np.int16], grid: NativeGrid) -> NativeGrid:
    """Write canonical HU in stored order; returns the grid with the header that was written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = apply_orientation(voxels, grid.from_canonical)
    if path.suffix == ".mha":
        image = sitk.GetImageFromArray(np.ascontiguousarray(stored.transpose(2, 1, 0)))
        spacing = np.linalg.norm(grid.affine[:3, :3], axis=0)
        to_lps = np.diag([-1.0, -1.0, 1.0])
        image.SetSpacing(spacing.tolist())
        image.SetDirection((to_lps @ (grid.affine[:3, :3] / spacing)).ravel().tolist())
        image.SetOrigin((to_lps @ grid.affine[:3, 3]).tolist())
        sitk.WriteImage(image, str(path), useCompression=True)
        return grid
    is_kits = path.name == "imaging.nii.gz"  # float64 and sform only, as in KiTS19; the others qform only
    image = nib.Nifti1Image(stored.astype(np.float64 if is_kits else np.int16), grid.affine)
    image.set_sform(grid.affine, 1 if is_kits else 0)
    image.set_qform(grid.affine, 0 if is_kits else 1)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return NativeGrid(grid.shape, image.affine, image.header.copy())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m test_data.make", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("folder", metavar="FOLDER", nargs="?", type=Path, default=Path(__file__).parent)
    main(parser.parse_args().folder)

"""What tests build their inputs from: tiny CTs, affines by hand, and networks whose answer is known."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from inference.geometry import Roi, RoiSpec, Shape, Vector
from inference.networks.backends import Network
from inference.networks.cascade import Cascade
from inference.networks.vnet import VNet
from inference.networks.weights import Stage, Weights, WeightsMetadata, save_weights

AIR_HU, FAT_HU, KIDNEY_HU, TUMOR_HU = -1000, -100, 80, 200
KIDNEY_THRESHOLD, TUMOR_THRESHOLD = 0.4, 0.8
"""Of the normalised intensity, where fat is 0.15, kidney 0.6 and tumor 0.9 in the window −160 … 240 HU."""
SHARPNESS = 40.0
"""Of the networks that threshold the CT."""
ABDOMEN_SPACING_MM = (5.0, 3.0, 2.5)
SMALL_ROI = RoiSpec(shape_vox=(32, 32, 32), spacing_mm=4.0)


def canonical_affine(spacing_mm: Vector, origin_mm: Vector = (0.0, 0.0, 0.0)) -> NDArray[np.float64]:
    """RAS affine of an array whose axes are (z to superior, y to posterior, x to left)."""
    z, y, x = spacing_mm
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = z, -y, -x
    affine[:3, 3] = origin_mm
    affine[3, 3] = 1
    return affine


def rotation(z_deg: float, y_deg: float, x_deg: float) -> NDArray[np.float64]:
    """4×4 rotation about the patient's x, then y, then z axis."""
    result = np.eye(4)
    for (a, b), degrees in (((1, 2), x_deg), ((0, 2), y_deg), ((0, 1), z_deg)):
        turn = np.eye(4)
        cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        turn[a, a], turn[a, b], turn[b, a], turn[b, b] = cosine, -sine, sine, cosine
        result = turn @ result
    return result


Orientation = tuple[tuple[int, ...], tuple[bool, ...]]
"""Which old axis each new axis is, and which new axes run backwards."""


def orientations() -> Iterator[Orientation]:
    """All 48 axis permutations and flips of a 3D array, the identity first."""
    yield from itertools.product(itertools.permutations(range(3)), itertools.product((False, True), repeat=3))


def reorient(
    array: NDArray, affine: NDArray[np.float64], orientation: Orientation
) -> tuple[NDArray, NDArray[np.float64]]:
    """The same voxels at the same places, stored along other axes."""
    axes, flips = orientation
    new_to_old = np.zeros((4, 4))
    new_to_old[3, 3] = 1
    for new, (old, is_flipped) in enumerate(zip(axes, flips, strict=True)):
        new_to_old[old, new] = -1 if is_flipped else 1
        new_to_old[old, 3] = array.shape[old] - 1 if is_flipped else 0
    turned = np.flip(array.transpose(axes), tuple(axis for axis in range(3) if flips[axis]))
    return np.ascontiguousarray(turned), affine @ new_to_old


def undo(array: NDArray, orientation: Orientation) -> NDArray:
    """The inverse of `reorient` for the voxels."""
    axes, flips = orientation
    return np.flip(array, tuple(axis for axis in range(3) if flips[axis])).transpose(np.argsort(axes))


def world_affine(image: sitk.Image) -> NDArray[np.float64]:
    """(i, j, k) → RAS millimetres of an ITK image, from ITK's own transform and nothing of ours."""
    corners = [
        image.TransformContinuousIndexToPhysicalPoint(p) for p in np.vstack([np.zeros(3), np.eye(3)]).tolist()
    ]
    to_ras = np.array([-1.0, -1.0, 1.0])
    origin, *ends = (np.asarray(corner) * to_ras for corner in corners)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([end - origin for end in ends], axis=1)
    affine[:3, 3] = origin
    return affine


def save_nifti(path: Path, array: NDArray, affine: NDArray[np.float64]) -> Path:
    """A plain NIfTI-1 with the array's own data type."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def load_nifti(path: Path) -> Any:
    """nibabel's image, whose types it does not tell mypy."""
    return nib.load(path)


def save_sitk(path: Path, array: NDArray, spacing_mm: Vector = (1.0, 1.0, 1.0)) -> Path:
    """An (z, y, x) LPS array as whatever SimpleITK writes for the suffix; `spacing_mm` is (z, y, x)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing_mm[::-1])
    sitk.WriteImage(image, str(path))
    return path


def save_dicom_series(
    folder: Path,
    hu: NDArray[np.int16],
    *,
    spacing_mm: Vector = (3.0, 0.8, 0.7),
    origin_mm: Vector = (-11.0, -22.0, 33.0),
    series_uid: str = "1.2.826.0.1.3680043.2.1125.1",
    z_mm: list[float] | None = None,
    stem: str = "IM",
    tags: Mapping[str, str] | None = None,
    compressor: str | None = None,
    row_direction: Vector = (1.0, 0.0, 0.0),
    column_direction: Vector = (0.0, 1.0, 0.0),
) -> Path:
    """One CT series, (z, y, x) LPS, stored with the usual rescale intercept of −1024.

    `origin_mm` is (x, y, z) in LPS, as DICOM says it; `z_mm` places slices elsewhere than evenly. With
    other directions than the default `hu` is (slice, row, column), slices going along their cross product.
    `tags` change or add header fields, `compressor` is one of ITK's ("JPEG2000", say).
    """
    folder.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing(spacing_mm[::-1])
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    if compressor is not None:
        writer.SetUseCompression(True)
        writer.SetCompressor(compressor)
    for k in range(hu.shape[0]):
        from_first_mm = k * spacing_mm[0] if z_mm is None else z_mm[k] - origin_mm[2]
        position = origin_mm + from_first_mm * np.cross(row_direction, column_direction)
        slice_2d = image[:, :, k]
        header = {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"{series_uid}.{k + 1}",
            "0008|0060": "CT",
            "0018|0050": str(spacing_mm[0]),
            "0020|000d": "1.2.826.0.1.3680043.2.1125.9",
            "0020|000e": series_uid,
            "0020|0013": str(k + 1),
            "0020|0032": "\\".join(f"{x:.9g}" for x in position),
            "0020|0037": "\\".join(f"{x:.9g}" for x in (*row_direction, *column_direction)),
            "0020|0052": "1.2.826.0.1.3680043.2.1125.8",
            "0028|1052": "-1024",
            "0028|1053": "1",
            **(tags or {}),
        }
        for tag, value in header.items():
            slice_2d.SetMetaData(tag, value)
        # names that do not sort as the slices lie
        writer.SetFileName(str(folder / f"{stem}{(k * 7) % 1000:04d}.dcm"))
        writer.Execute(slice_2d)
    return folder


def ball(shape: Shape, centre_mm: Vector, radius_mm: float, spacing_mm: Vector) -> NDArray[np.bool_]:
    """Voxels whose centres lie in a ball; voxel (0, 0, 0) is at 0 mm."""
    grid = np.meshgrid(*(np.arange(n) * s for n, s in zip(shape, spacing_mm, strict=True)), indexing="ij")
    return sum((g - c) ** 2 for g, c in zip(grid, centre_mm, strict=True)) <= radius_mm**2


def abdomen(
    shape: Shape = (24, 40, 48),
    spacing_mm: Vector = ABDOMEN_SPACING_MM,
    *,
    centre_z_mm: float | None = None,
    with_tumor: bool = True,
) -> NDArray[np.int16]:
    """(z, y, x) HU: fat with two unlike kidneys (26 and 17 cm³), the left one with a tumor, without noise."""
    extent = [n * s for n, s in zip(shape, spacing_mm, strict=True)]
    z = extent[0] / 2 if centre_z_mm is None else centre_z_mm
    hu = np.full(shape, FAT_HU, dtype=np.int16)
    left = (z + 4, extent[1] * 0.55, extent[2] * 0.72)
    hu[ball(shape, left, 18.5, spacing_mm)] = KIDNEY_HU
    hu[ball(shape, (z - 3, extent[1] * 0.5, extent[2] * 0.25), 16.0, spacing_mm)] = KIDNEY_HU
    if with_tumor:
        hu[ball(shape, (left[0], left[1] - 3, left[2] + 5), 9.0, spacing_mm)] = TUMOR_HU
    hu[:, :2] = AIR_HU
    return hu


def threshold_vnet(threshold: float) -> VNet:
    """A V-Net that answers sigmoid(`SHARPNESS` · (intensity − threshold)), voxel by voxel.

    Its first convolutions and its last decoder pass one channel on through the topmost skip connection;
    all other weights are zero. So a run with real weights files has a result known beforehand.
    """
    model: Any = VNet(base_channels=1).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_batch_norm_scale = parameter.ndim == 1 and name.endswith("weight")
            parameter.fill_(1.0 if is_batch_norm_scale else 0.0)
        batch_norms: list[Any] = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm3d)]
        for batch_norm in batch_norms:
            batch_norm.running_var.fill_(1.0 - batch_norm.eps)
        first, second = (block[0] for block in model.encoder[0])
        third, fourth = (block[0] for block in model.decoder[-1])
        below = third.in_channels - second.out_channels  # concatenation puts the upsampled ones first
        for convolution, source in ((first, 0), (second, 0), (third, below), (fourth, 0)):
            convolution.weight[0, source, 1, 1, 1] = 1.0
        model.head.weight[0, 0] = SHARPNESS
        model.head.bias.fill_(-SHARPNESS * threshold)
    return model


def metadata(stage: str, roi: RoiSpec = SMALL_ROI, **changes: object) -> WeightsMetadata:
    """Metadata that fits `threshold_vnet`."""
    return WeightsMetadata(stage=stage, roi=roi, base_channels=1, **changes)  # type: ignore[arg-type]


def as_weights(
    model: VNet, shape: Shape, *, stage: Stage = "kidney", base_channels: int = 1, **changes: Any
) -> Weights:
    """A model as if it had been loaded from a file, for an ROI of this shape."""
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    contract = WeightsMetadata(stage, RoiSpec(shape, 4.0), base_channels, **changes)
    return Weights(tensors, contract, sha256="")


def write_weights(folder: Path, roi: RoiSpec = SMALL_ROI, **changes: object) -> Path:
    """kidney.safetensors and tumor.safetensors that find `KIDNEY_HU` and `TUMOR_HU`."""
    folder.mkdir(parents=True, exist_ok=True)
    for stage, threshold in (("kidney", KIDNEY_THRESHOLD), ("tumor", TUMOR_THRESHOLD)):
        save_weights(
            folder / f"{stage}.safetensors", threshold_vnet(threshold), metadata(stage, roi, **changes)
        )
    return folder


def identity_roi(shape: Shape) -> Roi:
    """An ROI grid that is the CT's own, of 1 mm."""
    return Roi(RoiSpec(shape, 1.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def invoke(command: click.Command, *words: object, **options: Any) -> Result:
    """A command in this process."""
    return CliRunner().invoke(command, [str(word) for word in words], **options)


def files_under(folder: Path) -> list[str]:
    """All names under a folder, hidden ones and folders too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def threshold_network(threshold: float) -> Network:
    """What `threshold_vnet` answers, without PyTorch."""
    return lambda roi: (1 / (1 + np.exp(-SHARPNESS * (roi - threshold)))).astype(np.float32)


def threshold_cascade(roi: RoiSpec = SMALL_ROI) -> Cascade:
    """A cascade that finds `KIDNEY_HU` and `TUMOR_HU`."""
    return Cascade(
        threshold_network(KIDNEY_THRESHOLD),
        threshold_network(TUMOR_THRESHOLD),
        metadata("kidney", roi),
        metadata("tumor", roi),
    )


def save_abdomens(folder: Path, n: int, **changes: Any) -> list[Path]:
    """ct_0.nii.gz … in canonical axes, all alike."""
    hu = abdomen(**changes)
    affine = canonical_affine(changes.get("spacing_mm", ABDOMEN_SPACING_MM))
    return [save_nifti(folder / f"ct_{i}.nii.gz", hu, affine) for i in range(n)]


def truncate(path: Path) -> Path:
    """Leave half of a file: its header can be read, its voxels cannot."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path

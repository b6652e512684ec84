"""Weights files that describe themselves: safetensors, with grid, intensities and thresholds as metadata."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ..geometry import RoiSpec
from .vnet_tensors import DOWNSAMPLING, tensor_shapes

if TYPE_CHECKING:  # inference on a CPU does without PyTorch
    from .vnet import VNet

Stage = Literal["kidney", "tumor"]
MAX_ROI_VOXELS = 512**3
"""Far more than any network here takes: a file that asks for more is damaged."""
FORMAT = "nested-vnet-1"
CHECKSUMS = "SHA256SUMS"
GIT_LFS = b"version https://git-lfs"


class WeightsError(ValueError):
    """A weights file is missing, damaged, or of another network."""


@dataclass(frozen=True)
class WeightsMetadata:
    """What inference needs to know of a network besides its tensors.

    Attributes:
        stage: which network of the cascade this is.
        roi: the grid and the intensities that it was trained on.
        base_channels: see `VNet`.
        threshold: probability above which a voxel belongs to the structure.
        margin_vox: distance (grid voxels) beyond the kidney mask that the tumor loss covered; predicted
            tumors may extend that far.
        min_tumor_mm3: least volume of a piece of tumor; smaller ones are dropped.
        mirror: whether a tumor network's probabilities are averaged over the CT and its mirror image.
        bf16: whether bfloat16 keeps the DSC on labelled CTs (`benchmarks/precision.py` measures it and writes
            this). If not, inference computes in float32 unless `--precision` says otherwise.
        version: of the weights, chosen by whoever trained them.
        provenance: what it was trained on and how, in short texts.
    """

    stage: Stage
    roi: RoiSpec = field(default_factory=RoiSpec)
    base_channels: int = 8
    threshold: float = 0.5
    margin_vox: int = 0
    min_tumor_mm3: float = 0.0
    mirror: bool = False
    bf16: bool = False
    version: str = "0"
    provenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def min_tumor_vox(self) -> float:
        """`min_tumor_mm3` in voxels of the grid."""
        return self.min_tumor_mm3 / self.roi.spacing_mm**3


@dataclass(frozen=True)
class Weights:
    """A network's tensors by name, its metadata, and the SHA-256 of its file."""

    tensors: Mapping[str, NDArray]
    metadata: WeightsMetadata
    sha256: str

    @property
    def model(self) -> "VNet":
        """A new PyTorch network with these weights, in evaluation mode."""
        import torch

        from .vnet import VNet

        model = VNet(base_channels=self.metadata.base_channels)
        model.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in self.tensors.items()})
        return model.eval().requires_grad_(requires_grad=False)


def save_weights(path: Path, model: "VNet", metadata: WeightsMetadata) -> None:
    """Write a weights file; the same model and metadata give the same bytes."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    texts = {"format": FORMAT, "metadata": format_metadata(metadata)}
    content = save(tensors, metadata=texts)
    # safetensors writes its metadata in random order: sort the header (it follows 8 bytes with its size)
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":"))
    path.write_bytes(content[:8] + header.encode().ljust(size) + content[8 + size :])
    path.chmod(0o644)  # regardless of the umask: a container's user has to read a mounted file


def load_weights(path: Path, stage: Stage) -> Weights:
    """Read and verify one weights file.

    The file's digest is compared with `SHA256SUMS` in its folder. A folder without that file (weights of
    your own) is accepted as it is.

    Raises:
        WeightsError: missing, truncated, altered, a foreign format (a pickle, say), another architecture,
            or the other stage's weights. The text says which, and what to do.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file. Give a folder that holds {stage}.safetensors")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}). Change its rights") from error
    if content.startswith(GIT_LFS):
        raise WeightsError(f"{path}: is a git-LFS pointer, not the file itself. Run git lfs pull")
    digest = hashlib.sha256(content).hexdigest()
    _check_digest(path, digest)
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError) as error:  # TypeError: a type that numpy does not have
        raise WeightsError(f"{path}: not a whole safetensors file ({error}). Copy it again") from error
    if header.get("format") != FORMAT:
        raise WeightsError(
            f"{path}: its format is {header.get('format')!r}, not {FORMAT!r}. "
            "Use weights written by this project's training"
        )
    metadata = parse_metadata(path, header.get("metadata", ""))
    if metadata.stage != stage:
        raise WeightsError(f"{path}: holds the {metadata.stage} network, not the {stage} network")
    shapes = tensor_shapes(metadata.base_channels)
    for name in sorted(shapes.keys() | tensors.keys()):
        found = tensors[name].shape if name in tensors else "missing"
        expected = shapes.get(name, "unknown")
        if found != expected:
            raise WeightsError(f"{path}: does not fit this network ({name}: {found}, not {expected})")
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise WeightsError(f"{path}: holds numbers that are not finite. Copy the file again")
    return Weights(tensors, metadata, digest)


def is_named(path: Path) -> bool:
    """Whether the checksums beside a file have a line for it: it should be there."""
    return path.name in (_read_checksums(path.parent) or {})


def _read_checksums(folder: Path) -> dict[str, str] | None:
    """Digest by file name; None where the folder has no checksums."""
    checksums = folder / CHECKSUMS
    if not checksums.is_file():
        return None
    try:
        lines = checksums.read_text(errors="replace").splitlines()
    except OSError as error:
        raise WeightsError(f"{checksums}: cannot be read ({error.strerror}). Change its rights") from error
    pairs = (line.partition("  ") for line in reversed(lines))  # of several lines the first counts
    return {name: digest for digest, _, name in pairs}


def _check_digest(path: Path, digest: str) -> None:
    listed = _read_checksums(path.parent)
    if listed is None:
        return
    if path.name not in listed:
        raise WeightsError(f"{path.parent / CHECKSUMS}: has no line for {path.name}")
    expected = listed[path.name]
    if digest != expected:
        raise WeightsError(
            f"{path}: SHA-256 is {digest[:12]}…, {CHECKSUMS} says {expected[:12]}…. "
            "The file is damaged or replaced: copy it again, or update the checksum"
        )


def format_metadata(metadata: WeightsMetadata) -> str:
    """Metadata as JSON; the same metadata give the same text."""
    return json.dumps(asdict(metadata), sort_keys=True)


def parse_metadata(path: Path, text: str) -> WeightsMetadata:
    """Metadata from JSON.

    Args:
        path: the file that holds it, for the error.
        text: as `format_metadata` writes it.

    Raises:
        WeightsError: no metadata, or one that makes no sense.
    """
    try:
        raw: dict[str, Any] = json.loads(text)
        roi = raw.pop("roi")
        roi["shape_vox"] = tuple(roi["shape_vox"])
        roi["window_hu"] = tuple(roi["window_hu"])
        metadata = WeightsMetadata(roi=RoiSpec(**roi), **raw)
        _check_metadata(metadata)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path}: its metadata cannot be used ({error!r}). Copy the file again") from error
    return metadata


def _check_metadata(metadata: WeightsMetadata) -> None:
    """Reject metadata that makes no sense: a foreign or damaged file may hold any JSON."""
    roi = metadata.roi
    depth, height, width = roi.shape_vox
    low_hu, high_hu = roi.window_hu
    if any(not isinstance(n, int) or n < 1 or n % DOWNSAMPLING for n in (depth, height, width)):
        raise ValueError(f"ROI {roi.shape_vox} is no multiple of {DOWNSAMPLING} voxels")
    if math.prod(roi.shape_vox) > MAX_ROI_VOXELS:
        raise ValueError(f"ROI {roi.shape_vox} is larger than {MAX_ROI_VOXELS} voxels")
    if roi.normalisation not in ("window", "minmax"):
        raise ValueError(f"normalisation is {roi.normalisation!r}")
    if not (roi.spacing_mm > 0 and low_hu < high_hu and 0 <= metadata.threshold < 1):
        raise ValueError(f"{roi.spacing_mm} mm, {roi.window_hu} HU, threshold {metadata.threshold}")
    if not isinstance(metadata.margin_vox, int) or not 0 <= metadata.margin_vox <= max(roi.shape_vox):
        raise ValueError(f"margin_vox is {metadata.margin_vox!r}")
    if not (isinstance(metadata.min_tumor_mm3, int | float) and 0 <= metadata.min_tumor_mm3 < math.inf):
        raise ValueError(f"min_tumor_mm3 is {metadata.min_tumor_mm3!r}")
    if not (isinstance(metadata.bf16, bool) and isinstance(metadata.mirror, bool)):
        raise ValueError(f"bf16 is {metadata.bf16!r}, mirror is {metadata.mirror!r}")
    texts = (metadata.version, *metadata.provenance, *metadata.provenance.values())
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"version is {metadata.version!r}, provenance is {metadata.provenance!r}")
    if not isinstance(metadata.base_channels, int) or metadata.base_channels < 1:
        raise ValueError(f"base_channels is {metadata.base_channels!r}")

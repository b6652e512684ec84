"""The networks of the cascade, from the weights of one folder or of several."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .backends import Backend, Network, NetworkMemory, choose_backend, mean_of
from .weights import Weights, WeightsError, WeightsMetadata, is_named, load_weights

_PACKAGE = Path(__file__).resolve().parent.parent
WEIGHTS_FOLDERS = (Path("/opt/ml/model"), _PACKAGE / "weights", _PACKAGE.parent / "weights")
"""Where weights are looked for: what an organiser mounts, in the package, beside the code."""
COARSE = "coarse.safetensors"


class Thresholds(NamedTuple):
    """A voxel belongs to a structure where the network's probability is above its threshold."""

    kidney: float = 0.5
    tumor: float = 0.5


@dataclass(frozen=True)
class Cascade:
    """The networks, ready to run, with the metadata of their weights and their working memory.

    `coarse` is a kidney network on a wider and coarser grid; not all weights have one.
    """

    kidney: Network
    tumor: Network
    kidney_metadata: WeightsMetadata
    tumor_metadata: WeightsMetadata
    memory: NetworkMemory = field(default_factory=NetworkMemory, compare=False)
    coarse: Network | None = None
    coarse_metadata: WeightsMetadata | None = None

    @property
    def thresholds(self) -> Thresholds:
        """Of both networks."""
        return Thresholds(self.kidney_metadata.threshold, self.tumor_metadata.threshold)


@dataclass(frozen=True)
class CascadeWeights:
    """The weights of the networks; of several folders (an ensemble) probabilities are averaged.

    Attributes:
        folders: where they come from; the first one's metadata is the cascade's.
        kidney, tumor: what each folder holds.
        coarse: what each folder holds, or None. The first one that there is decides the grid.
    """

    folders: tuple[Path, ...]
    kidney: tuple[Weights, ...]
    tumor: tuple[Weights, ...]
    coarse: tuple[Weights | None, ...]

    def on(self, backend: Backend) -> Cascade:
        """The networks on a backend.

        Raises:
            DeviceMemoryError: they do not fit on its GPU.
        """
        coarse = [weights for weights in self.coarse if weights is not None]
        return Cascade(
            mean_of([backend.network(weights) for weights in self.kidney]),
            mean_of([backend.network(weights) for weights in self.tumor]),
            self.kidney[0].metadata,
            self.tumor[0].metadata,
            backend.memory,
            mean_of([backend.network(weights) for weights in coarse]) if coarse else None,
            coarse[0].metadata if coarse else None,
        )


def load_cascade(
    folder: str | Path | None = None, *, device: str = "auto", backend: str = "auto", precision: str = "auto"
) -> Cascade:
    """The networks, ready for `segment`.

    Args:
        folder: holds kidney.safetensors, tumor.safetensors and perhaps coarse.safetensors; by default the
            shipped weights.
        device: "auto", "cpu", "cuda" or "cuda:N".
        backend: "auto" (OpenVINO on a CPU where it is installed), "torch" or "openvino".
        precision: "auto" (bfloat16 where processor and weights allow it), "float32" or "bfloat16".

    Raises:
        WeightsError: weights are missing, damaged, or not those of this network.
        ValueError: no such device or backend here.
        DeviceMemoryError: the networks do not fit on the GPU.
    """
    weights = load_cascade_weights([find_weights(None if folder is None else Path(folder))])
    return weights.on(choose_backend(backend, device=device, precision=precision))


def find_weights(folder: Path | None) -> Path:
    """The folder itself, or the first of `WEIGHTS_FOLDERS` that holds weights."""
    if folder is not None:
        return folder
    return next((f for f in WEIGHTS_FOLDERS if (f / "kidney.safetensors").is_file()), WEIGHTS_FOLDERS[-1])


def load_cascade_weights(folders: Sequence[Path]) -> CascadeWeights:
    """Read and verify kidney.safetensors and tumor.safetensors of each folder, and coarse.safetensors.

    A folder may lack the latter, unless its checksums name it.

    Raises:
        WeightsError: as `load_weights`; or they were not all trained on the same grid and intensities.
    """
    kidney = tuple(load_weights(folder / "kidney.safetensors", "kidney") for folder in folders)
    tumor = tuple(load_weights(folder / "tumor.safetensors", "tumor") for folder in folders)
    has_coarse = [(folder / COARSE).is_file() or is_named(folder / COARSE) for folder in folders]
    coarse = tuple(
        load_weights(folder / COARSE, "kidney") if has else None
        for folder, has in zip(folders, has_coarse, strict=True)
    )
    grids = [weights.metadata.roi for weights in coarse if weights is not None]
    for folder, wide, *pair in zip(folders, coarse, kidney, tumor, strict=True):
        is_other = any(weights.metadata.roi != kidney[0].metadata.roi for weights in pair)
        if is_other or (wide is not None and wide.metadata.roi != grids[0]):
            raise WeightsError(
                f"{folder}: trained on different grids or intensities than "
                f"{folders[0] / 'kidney.safetensors'}. Use weights of one training"
            )
    return CascadeWeights(tuple(folders), kidney, tumor, coarse)

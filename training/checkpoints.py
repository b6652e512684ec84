"""Checkpoints and weights files: read either, export a checkpoint, average networks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from inference.formats.staging import staged
from inference.networks.vnet import VNet
from inference.networks.weights import (
    Weights,
    WeightsError,
    WeightsMetadata,
    load_weights,
    parse_metadata,
    save_weights,
)

METADATA = "weights_metadata"
"""Key of a checkpoint: the metadata of its weights, as JSON."""
STATE = "state_dict"
"""Lightning's key of a checkpoint: its tensors."""
VALIDATION_DSC = "validation_dsc"
"""Key of the weights' provenance."""


def load_tensors(path: Path) -> Mapping[str, Tensor]:
    """A network's weights from an exported file of either stage, or from a checkpoint.

    Raises:
        ValueError: the file holds no such weights.
    """
    return _read_checkpoint(path)[0] if path.suffix == ".ckpt" else _load(path).model.state_dict()


def _load(path: Path) -> Weights:
    try:
        return load_weights(path, "kidney")
    except WeightsError:
        return load_weights(path, "tumor")


def export_weights(checkpoint: Path, out: Path, *, version: str | None = None) -> WeightsMetadata:
    """Write the network of a checkpoint as self-describing weights.

    Args:
        checkpoint: of a run of `train`.
        out: the `.safetensors` file.
        version: of the weights, for the model card.

    Raises:
        ValueError: not a checkpoint of this project.
    """
    tensors, metadata = _read_checkpoint(checkpoint)
    if version is not None:
        metadata = replace(metadata, version=version)
    _write(out, tensors, metadata)
    return metadata


def average_weights(paths: Sequence[Path], out: Path, *, version: str | None = None) -> WeightsMetadata:
    """Write the mean of networks that were trained on from one another: more robust than each of them.

    Args:
        paths: exported weights of one stage, grid and width. The metadata is the last one's, with its
            validation DSC.
        out: the `.safetensors` file.
        version: of the weights, for the model card.

    Raises:
        ValueError: different stages, grids or widths, or files that are no weights of this project.
    """
    networks = [_load(path) for path in paths]
    contracts = {(w.metadata.stage, w.metadata.roi, w.metadata.base_channels) for w in networks}
    if len(contracts) != 1:
        raise ValueError(f"{', '.join(map(str, paths))}: of several stages, grids or widths. Name like ones")
    states = [weights.model.state_dict() for weights in networks]
    mean = {
        name: sum(state[name] for state in states) / len(states) if tensor.is_floating_point() else tensor
        for name, tensor in states[-1].items()
    }
    last = networks[-1].metadata
    presets = " + ".join(w.metadata.provenance.get("preset", "?") for w in networks)
    metadata = replace(
        last, version=version or last.version, provenance={**last.provenance, "mean_of": presets}
    )
    _write(out, mean, metadata)
    return metadata


def _write(out: Path, tensors: Mapping[str, Tensor], metadata: WeightsMetadata) -> None:
    net = VNet(base_channels=metadata.base_channels)
    net.load_state_dict(tensors)
    with staged(out) as partial:
        save_weights(partial, net, metadata)


def _read_checkpoint(path: Path) -> tuple[dict[str, Tensor], WeightsMetadata]:
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint")
    foreign = f"{path}: not a checkpoint of this project's training. Name one that `train` wrote"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle of other bytes raises whatever these lead to
        raise ValueError(f"{foreign} ({type(error).__name__})") from error
    if not isinstance(content, dict) or not {METADATA, STATE} <= content.keys():
        raise ValueError(foreign)
    tensors = {
        key.removeprefix("net."): value for key, value in content[STATE].items() if key.startswith("net.")
    }
    return tensors, parse_metadata(path, content[METADATA])

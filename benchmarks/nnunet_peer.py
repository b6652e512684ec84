"""nnU-Net v2's own predictor on one CT: its standard KiTS architecture with random weights.

    .venv-benchmarks/bin/python benchmarks/nnunet_peer.py CT [--spacing MM] [--mirroring] [--tiles N]

Its speed does not depend on the weights. Reading, resampling and the export are nnU-Net's own too. With
`--tiles` only the first N tiles are run.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

PATCH_VOX = (128, 128, 128)
STAGES, MOST_FEATURES = 6, 320
RESAMPLE = "resample_data_or_seg_to_shape"
ORDER = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
DATASET = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "kidney": 1, "tumor": 2},
    "file_ending": ".nii.gz",
}


def architecture(n_stages: int = STAGES) -> dict[str, Any]:
    """What nnU-Net's planner writes: stages of two convolutions each, at most 320 features."""
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": n_stages,
            "features_per_stage": [min(32 * 2**i, MOST_FEATURES) for i in range(n_stages)],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * n_stages,
            "strides": [[1, 1, 1]] + [[2, 2, 2]] * (n_stages - 1),
            "n_conv_per_stage": [2] * n_stages,
            "n_conv_per_stage_decoder": [2] * (n_stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def plans(
    name: str, spacing_mm: float, patch_vox: tuple[int, int, int] = PATCH_VOX, n_stages: int = STAGES
) -> dict[str, Any]:
    """A plans.json with one configuration, 3d_fullres, of an isotropic spacing."""
    return {
        "dataset_name": name,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [spacing_mm] * 3,
        "original_median_shape_after_transp": [200] * 3,
        "image_reader_writer": "NibabelIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 100.0, "std": 76.0, "percentile_00_5": -58.0, "percentile_99_5": 302.0}
        },
        "configurations": {
            "3d_fullres": {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": list(patch_vox),
                "median_image_size_in_voxels": [200] * 3,
                "spacing": [spacing_mm] * 3,
                "normalization_schemes": ["CTNormalization"],
                "use_mask_for_norm": [False],
                "resampling_fn_data": RESAMPLE,
                "resampling_fn_data_kwargs": ORDER,
                "resampling_fn_seg": RESAMPLE,
                "resampling_fn_seg_kwargs": {**ORDER, "is_seg": True, "order": 1},
                "resampling_fn_probabilities": RESAMPLE,
                "resampling_fn_probabilities_kwargs": {**ORDER, "order": 1},
                "batch_dice": True,
                "architecture": architecture(n_stages),
            }
        },
    }


def network(manager: PlansManager, n_labels: int) -> torch.nn.Module:
    """The network that plans describe, with random weights."""
    configuration = manager.get_configuration("3d_fullres")
    return get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        input_channels=1,
        output_channels=n_labels,
        deep_supervision=False,
    ).eval()


class FirstTiles(nnUNetPredictor):
    """The predictor, which stops after some tiles; 0 runs them all.

    Attributes:
        most: tiles that are run.
        n_tiles: tiles that there are.
        n_run: tiles that were run.
        network_s: seconds of the sliding window.
    """

    most, n_tiles, n_run, network_s = 0, 0, 0, 0.0

    def _internal_get_sliding_window_slicers(self, image_size: Any) -> list:
        tiles = super()._internal_get_sliding_window_slicers(image_size)
        self.n_tiles = len(tiles)
        tiles = tiles[: self.most or None]
        self.n_run = len(tiles)
        return tiles

    def predict_logits_from_preprocessed_data(self, data: torch.Tensor) -> torch.Tensor:
        """As nnU-Net's; logits of tiles that were not run are 0."""
        start = time.perf_counter()
        logits = super().predict_logits_from_preprocessed_data(data)
        self.network_s = time.perf_counter() - start
        return torch.nan_to_num(logits)


def main(path: str, *, spacing_mm: float, is_mirroring: bool, most_tiles: int) -> dict[str, Any]:
    """Segment one CT; returns its seconds, those of the network, and tiles run and to be run."""
    manager = PlansManager(plans("KiTS", spacing_mm))
    configuration = manager.get_configuration("3d_fullres")
    labels = manager.get_label_manager(DATASET)
    random = network(manager, labels.num_segmentation_heads)
    predictor = FirstTiles(
        tile_step_size=0.5,
        use_mirroring=is_mirroring,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
    )
    predictor.most = most_tiles
    predictor.manual_initialization(
        random, manager, configuration, [random.state_dict()], DATASET, "nnUNetTrainer", (0, 1, 2)
    )
    start = time.perf_counter()
    io = NibabelIO()
    image, properties = io.read_images([path])
    preprocessor = configuration.preprocessor_class(verbose=False)
    data, _, properties = preprocessor.run_case_npy(image, None, properties, manager, configuration, DATASET)
    data = torch.from_numpy(data) if not torch.is_tensor(data) else data
    logits = predictor.predict_logits_from_preprocessed_data(data)
    segmentation = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, manager, configuration, labels, properties
    )
    with tempfile.TemporaryDirectory() as folder:
        io.write_seg(segmentation, str(Path(folder) / "labels.nii.gz"), properties)
    return {
        "seconds": time.perf_counter() - start,
        "network_s": predictor.network_s,
        "tiles": predictor.n_tiles,
        "tiles_run": predictor.n_run,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("ct")
    parser.add_argument("--spacing", type=float, default=2.0)
    parser.add_argument("--mirroring", action="store_true")
    parser.add_argument("--tiles", type=int, default=0)
    given = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):  # it prints what it does
        told = main(given.ct, spacing_mm=given.spacing, is_mirroring=given.mirroring, most_tiles=given.tiles)
    print(json.dumps(told))

"""nnU-Net v2's own predictor on one CT: its standard KiTS architecture, 2 mm, random weights, no mirroring.

    .venv-benchmarks/bin/python benchmarks/nnunet_peer.py CT [--one-tile]

Its speed does not depend on the weights. Reading, resampling and the export are nnU-Net's own too. With
`--one-tile` one of its tiles is run and its time multiplied by their number; all else is measured.
"""

import contextlib
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

SPACING_MM, PATCH = 2.0, 128
STAGES, MOST_FEATURES = 6, 320
RESAMPLE = "resample_data_or_seg_to_shape"
ORDER = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
# what its planner writes for KiTS: six stages of two convolutions each, patches of 128³
ARCHITECTURE = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": STAGES,
        "features_per_stage": [min(32 * 2**i, MOST_FEATURES) for i in range(STAGES)],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * STAGES,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (STAGES - 1),
        "n_conv_per_stage": [2] * STAGES,
        "n_conv_per_stage_decoder": [2] * (STAGES - 1),
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
PLANS = {
    "dataset_name": "KiTS",
    "plans_name": "nnUNetPlans",
    "original_median_spacing_after_transp": [SPACING_MM] * 3,
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
            "patch_size": [PATCH] * 3,
            "median_image_size_in_voxels": [200] * 3,
            "spacing": [SPACING_MM] * 3,
            "normalization_schemes": ["CTNormalization"],
            "use_mask_for_norm": [False],
            "resampling_fn_data": RESAMPLE,
            "resampling_fn_data_kwargs": ORDER,
            "resampling_fn_seg": RESAMPLE,
            "resampling_fn_seg_kwargs": {**ORDER, "is_seg": True, "order": 1},
            "resampling_fn_probabilities": RESAMPLE,
            "resampling_fn_probabilities_kwargs": {**ORDER, "order": 1},
            "batch_dice": True,
            "architecture": ARCHITECTURE,
        }
    },
}
DATASET = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "kidney": 1, "tumor": 2},
    "file_ending": ".nii.gz",
}


def main(path: str, *, one_tile: bool) -> dict:
    """Segment one CT; returns its times, its number of tiles and the peak memory."""
    plans = PlansManager(PLANS)
    configuration = plans.get_configuration("3d_fullres")
    labels = plans.get_label_manager(DATASET)
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        input_channels=1,
        output_channels=labels.num_segmentation_heads,
        deep_supervision=False,
    ).eval()
    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
    )
    predictor.manual_initialization(
        network, plans, configuration, [network.state_dict()], DATASET, "nnUNetTrainer", None
    )
    start = time.perf_counter()
    io = NibabelIO()
    image, properties = io.read_images([path])
    preprocessor = configuration.preprocessor_class(verbose=False)
    data, _, properties = preprocessor.run_case_npy(image, None, properties, plans, configuration, DATASET)
    data = torch.from_numpy(data) if not torch.is_tensor(data) else data
    padded = [max(n, PATCH) for n in data.shape[1:]]
    tiles = len(predictor._internal_get_sliding_window_slicers(padded))
    tile_s = 0.0
    if one_tile:
        with torch.inference_mode():
            tile_start = time.perf_counter()
            network(torch.zeros(1, 1, PATCH, PATCH, PATCH))
            tile_s = time.perf_counter() - tile_start
        logits = torch.zeros((labels.num_segmentation_heads, *data.shape[1:]))
    else:
        logits = predictor.predict_logits_from_preprocessed_data(data)
    segmentation = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, plans, configuration, labels, properties
    )
    with tempfile.TemporaryDirectory() as folder:
        io.write_seg(segmentation, str(Path(folder) / "labels.nii.gz"), properties)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "tiles": tiles,
        "tile_s": tile_s,
        "extrapolated_s": seconds + (tiles - 1) * tile_s,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):  # it prints what it does
        told = main(sys.argv[1], one_tile="--one-tile" in sys.argv)
    print(json.dumps(told))

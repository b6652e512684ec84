"""TotalSegmentator v2's own path to the kidneys on one CT, with random weights.

    .venv-benchmarks/bin/python benchmarks/totalsegmentator_peer.py CT LABELS

That is `roi_subset` with both kidneys: task 298 looks at the CT in 6 mm to crop it, task 291 segments the
crop in 1.5 mm. Nothing is downloaded: both weights folders are made here. Random weights find no kidneys, so
the crop is laid around those of LABELS, once task 298 has run. TotalSegmentator never mirrors.
"""

import contextlib
import functools
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nnunet_peer import DATASET, PATCH_VOX, network, plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from totalsegmentator import nnunet
from totalsegmentator.map_tasks_config import TASK_CONFIGS, TASK_ID_WEIGHTS_CONFIGS
from totalsegmentator.map_to_binary import class_map, class_map_5_parts
from totalsegmentator.python_api import totalsegmentator

CROP_TASK, ORGANS_TASK = 298, 291
CROP_MM, CROP_PATCH_VOX, CROP_STAGES = 6.0, (64, 64, 64), 5
"""The patch in 6 mm is assumed: the package does not tell it, and it hardly counts (see `seconds`)."""
KIDNEYS = ["kidney_right", "kidney_left"]


def make_weights(folder: Path, task: int, trainer: str, n_labels: int, plan: dict[str, Any]) -> None:
    """A trained model's folder as TotalSegmentator downloads it, with random weights."""
    model = folder / TASK_ID_WEIGHTS_CONFIGS[task]["foldername"] / f"{trainer}__nnUNetPlans__3d_fullres"
    (model / "fold_0").mkdir(parents=True)
    labels = {"background": 0} | {f"label_{i}": i for i in range(1, n_labels)}
    (model / "plans.json").write_text(json.dumps(plan))
    (model / "dataset.json").write_text(json.dumps({**DATASET, "labels": labels}))
    checkpoint = {
        "network_weights": network(PlansManager(plan), n_labels).state_dict(),
        "trainer_name": trainer,
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": None,
    }
    torch.save(checkpoint, model / "fold_0" / "checkpoint_final.pth")


def make_home(home: Path) -> None:
    """TotalSegmentator's folder: settings, without usage statistics, and weights of both tasks."""
    modes = TASK_CONFIGS["total"]["sub_modes"]
    settings = {"send_usage_stats": False, "statistics_disclaimer_shown": True, "prediction_counter": 0}
    (home / "config.json").write_text(json.dumps(settings))
    weights = home / "nnunet" / "results"
    for task in modes["default"]["task_id"]:  # those that are not run only have to be there
        (weights / TASK_ID_WEIGHTS_CONFIGS[task]["foldername"]).mkdir(parents=True)
    crop = plans("crop", CROP_MM, CROP_PATCH_VOX, CROP_STAGES)
    make_weights(weights, CROP_TASK, modes["fastest"]["trainer"], 1 + len(class_map["total"]), crop)
    organs = plans("organs", modes["default"]["resample"], PATCH_VOX)
    n_labels = 1 + len(class_map_5_parts["class_map_part_organs"])
    make_weights(weights, ORGANS_TASK, modes["default"]["trainer"], n_labels, organs)


def find_kidneys_of(labels: Path, seconds: dict[str, float]) -> None:
    """Let task 298 run, take `labels` for what it found, and note the seconds of each task."""
    predict = nnunet.nnUNet_predict_image

    @functools.wraps(predict)
    def replaced(source: Any, target: Any, task: Any, **options: Any) -> Any:
        start = time.perf_counter()
        found, *rest = predict(source, target, task, **options)
        seconds["crop" if task == CROP_TASK else "organs"] = time.perf_counter() - start
        if task == CROP_TASK:
            kidneys = (np.asanyarray(nib.load(labels).dataobj) > 0).astype(np.uint8)
            (number,) = (n for n, name in class_map["total"].items() if name == KIDNEYS[0])
            found = nib.Nifti1Image(kidneys * np.uint8(number), found.affine)
        return (found, *rest)

    nnunet.nnUNet_predict_image = replaced


def main(ct: Path, labels: Path) -> dict[str, float]:
    """Segment one CT; returns seconds, in all and of each task."""
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ["TOTALSEG_HOME_DIR"] = folder
        make_home(home)
        find_kidneys_of(labels, seconds)
        start = time.perf_counter()
        totalsegmentator(
            ct, home / "labels.nii.gz", ml=True, roi_subset=KIDNEYS, device="cpu", quiet=True, nr_thr_saving=1
        )
        seconds["seconds"] = time.perf_counter() - start
    return seconds


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        told = main(Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps(told))

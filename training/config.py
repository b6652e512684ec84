"""What a training run is made of, and the named presets."""

from dataclasses import dataclass, field, replace
from typing import Literal

from inference.preprocess import RoiSpec
from inference.weights import Stage


@dataclass(frozen=True)
class TrainingConfig:
    """One training run. The defaults are the paper's, where the paper says anything (section 2.2)."""

    stage: Stage
    roi: RoiSpec = field(default_factory=RoiSpec)
    batch_size: int = 1
    steps_per_epoch: int = 100
    validation_steps: int = 20
    max_epochs: int = 1000
    patience: int = 90
    optimiser: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0
    warmup_steps: int = 0
    cosine: bool = False
    cross_entropy: float = 0.0
    positive_weight: float = 1.0
    head_bias: float | None = None
    bf16: bool = False
    seed: int = 0
    validation_share: float = 0.1


COARSE = RoiSpec(shape_vox=(80, 80, 80), spacing_mm=4.0)
"""The paper's region at twice its spacing: an eighth of the work, for two processor cores."""

EARLY_KIDNEY = TrainingConfig(
    stage="kidney",
    roi=COARSE,
    batch_size=2,
    steps_per_epoch=50,
    validation_steps=8,
    max_epochs=14,
    optimiser="adamw",
    learning_rate=3e-3,
    warmup_steps=40,
    cosine=True,
    cross_entropy=1.0,
    bf16=True,
)

PRESETS = {
    "early-kidney": EARLY_KIDNEY,
    "early-tumor": replace(
        EARLY_KIDNEY, stage="tumor", max_epochs=3, learning_rate=1e-3, positive_weight=3.0, head_bias=-1.0
    ),
}

"""What a training run is made of: every deviation from the paper has a name."""

from dataclasses import dataclass, field
from typing import Literal

from inference.geometry import RoiSpec, Shape
from inference.networks.weights import Stage
from training.real.augment import UNVARIED, ScanSampling
from training.synthesis.ranges import Range

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


@dataclass(frozen=True)
class OptimiserConfig:
    """How weights are updated.

    Attributes:
        kind: "sgd" (the paper's) or "adamw".
        learning_rate: its highest value.
        momentum: of SGD.
        weight_decay: of AdamW.
        warmup_steps: the learning rate rises linearly over these.
        cosine: after the warm-up the learning rate falls to zero at the last planned step.
        gradient_norm: longer gradients are cut to this; 0 cuts none.
        batch_norm_momentum: share of the newest batch in the running statistics; small batches want less.
    """

    kind: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0
    warmup_steps: int = 0
    cosine: bool = False
    gradient_norm: float = 0.0
    batch_norm_momentum: float = 0.1


@dataclass(frozen=True)
class LossConfig:
    """−DSC (paper, equation 1) plus a weighted cross-entropy.

    Attributes:
        cross_entropy: its weight; the paper has none.
        positive_weight: of the structure's voxels in the cross-entropy.
        tumor_weight: of the tumor's voxels in the kidney network's cross-entropy, on top of that: what the
            kidney network leaves out, the tumor network never sees.
        margin_vox: the tumor's loss sees the kidneys grown by so many voxels; the paper's the kidneys alone.
        false_volume: weight of Σp(1 − t) in litres: a false structure costs what it measures, also where
            there is no kidney, and Dice has no gradient.
    """

    cross_entropy: float = 0.0
    positive_weight: float = 1.0
    tumor_weight: float = 1.0
    margin_vox: int = 0
    false_volume: float = 0.0


@dataclass(frozen=True)
class SourceShares:
    """How often a training sample comes from which source. What the cache lacks goes to the others.

    Attributes:
        synthetic: a CT synthesised around a label map, or around synthetic kidneys.
        labelled: a real scan with labelled kidneys, as it is.
        painted: the same with tumors or cysts painted into its kidneys.
        background: a real scan without a kidney in view (but in ignored voxels).
        slices: a single real slice with its labels, repeated to a slab; half of them painted.
    """

    synthetic: float = 0.0
    labelled: float = 0.0
    painted: float = 0.0
    background: float = 0.0
    slices: float = 0.0


@dataclass(frozen=True)
class CropCentres:
    """Where the centres of crops lie: shares of the four kinds."""

    kidney: float = 0.35
    tumor: float = 0.25
    border: float = 0.2
    elsewhere: float = 0.2


@dataclass(frozen=True)
class SamplingConfig:
    """How patients are varied before a CT is synthesised around them. Shares are probabilities per sample."""

    synthetic_kidneys_share: float = 0.08  # so that nothing hangs on one data set's shapes
    mirror_share: float = 0.5  # liver and spleen are synthesised on their own sides
    rotation_deg: float = 12.0
    scale: Range = (0.82, 1.2)
    stretch: Range = (0.94, 1.06)  # of each axis
    warp_mm: Range = (0.0, 3.5)  # standard deviation of an elastic displacement ...
    warp_cell_mm: Range = (30.0, 70.0)  # ... that changes over this length
    tumor_removed_share: float = 0.12
    tumor_shrunk_share: float = 0.15
    tumor_shrunk_mm: Range = (2.0, 12.0)  # peeled off all around, becomes kidney
    tumor_replaced_share: float = 0.0  # cut out of the kidney, and one synthesised elsewhere
    tumor_added_share: float = 0.25
    tumor_added_radius_mm: Range = (5.0, 28.0)
    kidney_removed_share: float = 0.06
    scan_length_share: float = 0.5  # scans of another length than the case's own
    scan_length_mm: Range = (200.0, 700.0)
    scan_shift_mm: Range = (-50.0, 50.0)  # along z, as far as the kidneys stay in the scan
    scan_width_scale: Range = (0.85, 1.2)
    kidneys_cut_share: float = 0.06  # scans that end within a kidney
    roi_shift_mm: tuple[float, float, float] = (24.0, 12.0, 12.0)  # (z, y, x), either way
    roi_anywhere_share: float = 0.25  # in scans longer than the ROI: what inference's tiles see
    phase_shares: tuple[float, ...] | None = None  # of `PHASES`; None: as often as the synthesis has them
    coarse_share: float = 0.0  # scans with larger voxels than the network's, interpolated to its grid ...
    coarse_slice_mm: Range = (2.0, 6.0)  # ... thick slices ...
    coarse_pixel_mm: Range = (1.0, 4.0)  # ... and, in every second one of them, large pixels
    centres: CropCentres = field(default_factory=CropCentres)


AS_THEY_ARE = SamplingConfig(
    synthetic_kidneys_share=0.0,
    mirror_share=0.0,
    rotation_deg=0.0,
    scale=(1.0, 1.0),
    stretch=(1.0, 1.0),
    warp_mm=(0.0, 0.0),
    tumor_removed_share=0.0,
    tumor_shrunk_share=0.0,
    tumor_replaced_share=0.0,
    tumor_added_share=0.0,
    kidney_removed_share=0.0,
    scan_length_share=0.0,
    scan_shift_mm=(0.0, 0.0),
    scan_width_scale=(1.0, 1.0),
    kidneys_cut_share=0.0,
    roi_shift_mm=(0.0, 0.0, 0.0),
    roi_anywhere_share=0.0,
    coarse_share=0.0,
)
"""Validation: the label maps as they are, CTs synthesised around them with fixed seeds."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        stage: "kidney", or "tumor", whose loss sees only the true kidneys (and `LossConfig.margin_vox`).
        sources: what samples are made of; the paper's are labelled scans as they are.
        sampling, scans: how label maps and real scans are varied.
        roi: grid and intensities that the network will see at inference.
        crop_vox: (z, y, x) voxels of a training sample on that grid; None is the whole ROI.
        base_channels: see `VNet`.
        steps_per_epoch, validation_steps, max_epochs, patience: the paper's numbers; patience 0 never
            stops early. `max_epochs` × `steps_per_epoch` is the plan that the learning rate follows.
        validation_interval: epochs from one validation on whole scans to the next.
        fresh_head: the last convolution starts from random weights, its bias at rare foreground.
        head_bias: that bias.
        threshold: see `WeightsMetadata`; for the loss it is always 0.5.
        min_tumor_mm3: see `WeightsMetadata`; KiTS19's smallest tumor has 800.
        mirror: see `WeightsMetadata`. In training it changes samples in a GPU's pool alone (`pool.vary`).
        split_seed: of the folds. `seed` may differ along a chain of runs; the cases held out may not.
    """

    stage: Stage = "kidney"
    sources: SourceShares = field(default_factory=lambda: SourceShares(labelled=1.0))
    roi: RoiSpec = field(default_factory=RoiSpec)
    crop_vox: Shape | None = None
    base_channels: int = 8
    batch_size: int = 1
    steps_per_epoch: int = 100
    validation_steps: int = 20
    max_epochs: int = 1000
    patience: int = 90
    validation_interval: int = 1
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    scans: ScanSampling = UNVARIED
    precision: Precision = "32-true"
    channels_last: bool = False
    activation_checkpointing: bool = False
    fresh_head: bool = False
    head_bias: float = -1.0
    threshold: float = 0.5
    min_tumor_mm3: float = 0.0
    mirror: bool = False
    seed: int = 0
    split_seed: int = 0

    @property
    def shape_vox(self) -> Shape:
        """(z, y, x) voxels of one training sample."""
        return self.crop_vox or self.roi.shape_vox

    @property
    def max_steps(self) -> int:
        """Planned optimiser steps."""
        return self.max_epochs * self.steps_per_epoch

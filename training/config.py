"""What a training run is made of, and the named presets: every deviation from the paper has a name."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from inference.geometry import RoiSpec, Shape
from inference.networks.weights import Stage
from training.synthesis.ranges import Range

Source = Literal["images", "synthetic"]
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
    """

    cross_entropy: float = 0.0
    positive_weight: float = 1.0
    tumor_weight: float = 1.0
    margin_vox: int = 0


@dataclass(frozen=True)
class CropCentres:
    """Where the centres of crops lie: shares of the four kinds."""

    kidney: float = 0.35
    tumor: float = 0.25
    border: float = 0.2
    elsewhere: float = 0.2


@dataclass(frozen=True)
class SamplingConfig:
    """How patients are varied before a CT is drawn around them. Shares are probabilities per sample."""

    drawn_share: float = 0.08  # own kidneys: nothing may hang on the shapes of one data set
    mirror_share: float = 0.5  # liver and spleen are drawn anew on their own sides
    rotation_deg: float = 12.0
    scale: Range = (0.82, 1.2)
    stretch: Range = (0.94, 1.06)  # of each axis
    warp_mm: Range = (0.0, 3.5)  # standard deviation of an elastic displacement ...
    warp_cell_mm: Range = (30.0, 70.0)  # ... that changes over this length
    tumor_removed_share: float = 0.12
    tumor_shrunk_share: float = 0.15
    tumor_shrunk_mm: Range = (2.0, 12.0)  # peeled off all around, becomes kidney
    tumor_replaced_share: float = 0.0  # cut out of the kidney, and one drawn elsewhere
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
    phase_shares: tuple[float, ...] | None = None  # of `PHASES`; None: as the synthesis draws them
    coarse_share: float = 0.0  # scans with larger voxels than the network's, interpolated to its grid ...
    coarse_slice_mm: Range = (2.0, 6.0)  # ... thick slices ...
    coarse_pixel_mm: Range = (1.0, 4.0)  # ... and, in every second one of them, large pixels
    centres: CropCentres = field(default_factory=CropCentres)


AS_THEY_ARE = SamplingConfig(
    drawn_share=0.0,
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
"""Validation: the label maps as they are, CTs drawn around them with fixed seeds."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        stage: "kidney", or "tumor", whose loss sees only the true kidneys (and `LossConfig.margin_vox`).
        source: real image ROIs, or CTs synthesised around label maps.
        roi: grid and intensities that the network will see at inference.
        crop_vox: (z, y, x) voxels of a training sample on that grid; None is the whole ROI.
        base_channels: see `VNet`.
        steps_per_epoch, validation_steps, max_epochs, patience: the paper's numbers; patience 0 never
            stops early. `max_epochs` × `steps_per_epoch` is the plan that the learning rate follows.
        fresh_head: the last convolution is drawn anew, with a bias that starts at rare foreground.
        head_bias: that bias.
        mirror: see `WeightsMetadata`; training itself is the same.
        split_seed: of the folds. `seed` may differ along a chain of runs; the cases held out may not.
    """

    stage: Stage = "kidney"
    source: Source = "images"
    roi: RoiSpec = field(default_factory=RoiSpec)
    crop_vox: Shape | None = None
    base_channels: int = 8
    batch_size: int = 1
    steps_per_epoch: int = 100
    validation_steps: int = 20
    max_epochs: int = 1000
    patience: int = 90
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    precision: Precision = "32-true"
    channels_last: bool = False
    activation_checkpointing: bool = False
    fresh_head: bool = False
    head_bias: float = -1.0
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


_PAPER_KIDNEY = TrainConfig()
_KIDNEY_4MM = TrainConfig(
    source="synthetic",
    roi=RoiSpec(shape_vox=(88, 88, 88), spacing_mm=4.0),
    crop_vox=(64, 64, 64),
    batch_size=4,
    max_epochs=24,
    patience=0,
    optimiser=OptimiserConfig(
        kind="adamw",
        learning_rate=2e-3,
        weight_decay=1e-4,
        warmup_steps=100,
        cosine=True,
        gradient_norm=1.0,
        batch_norm_momentum=0.05,
    ),
    loss=LossConfig(cross_entropy=1.0),
    precision="bf16-mixed",
    channels_last=True,
)
_KIDNEY_2MM = replace(
    _KIDNEY_4MM,
    roi=RoiSpec(),
    crop_vox=(96, 96, 96),
    batch_size=2,
    max_epochs=40,
    optimiser=replace(_KIDNEY_4MM.optimiser, learning_rate=1e-3),
)
_KIDNEY_4MM_AGAIN = replace(
    _KIDNEY_4MM, max_epochs=8, optimiser=replace(_KIDNEY_4MM.optimiser, learning_rate=1e-3, warmup_steps=50)
)
_KIDNEY_4MM_LONGER = replace(_KIDNEY_4MM_AGAIN, max_epochs=12, seed=1)  # other patients than the round before
_TUMOR_4MM = replace(
    _KIDNEY_4MM,
    stage="tumor",
    crop_vox=(48, 48, 48),  # one kidney and what surrounds it: the loss sees nothing else
    batch_size=8,
    max_epochs=12,
    optimiser=replace(_KIDNEY_4MM.optimiser, learning_rate=1e-3, warmup_steps=200),
    loss=LossConfig(cross_entropy=1.0, positive_weight=3.0),
    sampling=SamplingConfig(centres=CropCentres(kidney=0.4, tumor=0.6, border=0.0, elsewhere=0.0)),
    fresh_head=True,
)
_TUMOR_4MM_AGAIN = replace(_TUMOR_4MM, max_epochs=30, fresh_head=False)
_KIDNEY_3MM = replace(
    _KIDNEY_4MM_AGAIN, roi=RoiSpec(shape_vox=(112, 112, 112), spacing_mm=3.0), max_epochs=12
)
_KIDNEY_3MM_AGAIN = replace(
    _KIDNEY_3MM,
    # the round before took femoral heads and bowel for kidneys: more of pelvis, chest and what else there is
    sampling=SamplingConfig(
        scan_length_mm=(200.0, 900.0),
        roi_anywhere_share=0.5,
        centres=CropCentres(kidney=0.25, tumor=0.15, border=0.15, elsewhere=0.45),
    ),
    seed=2,
)
_KIDNEY_3MM_COARSE = replace(
    _KIDNEY_3MM,
    max_epochs=14,
    # both rounds before missed kidneys in slices of 5 mm
    sampling=replace(
        _KIDNEY_3MM_AGAIN.sampling,
        coarse_share=0.5,
        centres=CropCentres(kidney=0.35, tumor=0.2, border=0.15, elsewhere=0.3),
    ),
    seed=3,
)
_KIDNEY_3MM_TUMORS = replace(
    _KIDNEY_3MM,
    max_epochs=10,
    # the round before left tumors out of the kidneys
    loss=LossConfig(cross_entropy=1.0, tumor_weight=4.0),
    sampling=replace(
        _KIDNEY_3MM_COARSE.sampling,
        coarse_share=0.4,
        centres=CropCentres(kidney=0.25, tumor=0.35, border=0.1, elsewhere=0.3),
    ),
    seed=5,
)
_KIDNEY_3MM_URINE = replace(
    _KIDNEY_3MM_TUMORS,
    # drawn since: renal pelves and ureters outside the kidneys
    optimiser=replace(_KIDNEY_3MM.optimiser, learning_rate=8e-4),
    loss=LossConfig(cross_entropy=1.0, tumor_weight=2.0),
    sampling=replace(
        _KIDNEY_3MM_TUMORS.sampling,
        centres=CropCentres(kidney=0.35, tumor=0.25, border=0.15, elsewhere=0.25),
    ),
    seed=8,
)
_TUMOR_3MM = replace(_TUMOR_4MM_AGAIN, roi=_KIDNEY_3MM.roi, crop_vox=(56, 56, 56), batch_size=5)
_TUMOR_3MM_CLOSE = replace(
    _TUMOR_3MM,
    crop_vox=(48, 40, 40),  # little more than a kidney: twice the patients in the same time
    batch_size=12,
    validation_steps=10,
    max_epochs=24,
    optimiser=replace(_TUMOR_3MM.optimiser, learning_rate=1.5e-3, warmup_steps=100),
    sampling=replace(
        _TUMOR_3MM.sampling,
        phase_shares=(0.2, 0.38, 0.28, 0.14),  # KiTS19's CTs have contrast
        coarse_share=0.3,
        tumor_shrunk_share=0.25,  # small tumors are what it misses
    ),
    seed=4,
)
_TUMOR_3MM_LONGER = replace(
    _TUMOR_3MM_CLOSE,
    max_epochs=24,
    optimiser=replace(_TUMOR_3MM.optimiser, learning_rate=6e-4, warmup_steps=50),
    # the rounds before never saw what lies beside a kidney, which the kidney network may take for one
    loss=LossConfig(cross_entropy=1.0, positive_weight=2.0, margin_vox=5),
    sampling=replace(
        _TUMOR_3MM_CLOSE.sampling, phase_shares=(0.25, 0.35, 0.27, 0.13), tumor_removed_share=0.25
    ),
    mirror=True,
    seed=7,
)
_TUMOR_3MM_AGAIN = replace(
    _TUMOR_3MM_LONGER,
    max_epochs=8,
    optimiser=replace(_TUMOR_3MM.optimiser, learning_rate=4e-4, warmup_steps=20),
    seed=9,
)
_TUMOR_3MM_WIDE = replace(
    _TUMOR_3MM_AGAIN,
    max_epochs=24,
    optimiser=replace(_TUMOR_3MM.optimiser, learning_rate=6e-4, warmup_steps=50),
    # a tumor whose outer half the kidney network leaves out reaches farther than 15 mm
    loss=LossConfig(cross_entropy=1.0, positive_weight=2.0, margin_vox=10),
    seed=10,
)
_TUMOR_3MM_FINE = replace(_TUMOR_3MM_WIDE, max_epochs=12, optimiser=_TUMOR_3MM_AGAIN.optimiser, seed=12)
_TUMOR_3MM_FINER = replace(
    _TUMOR_3MM_WIDE,
    max_epochs=30,
    optimiser=replace(_TUMOR_3MM.optimiser, learning_rate=5e-4, warmup_steps=50),
    seed=13,
)
_TUMOR_3MM_ELSEWHERE = replace(
    _TUMOR_3MM_WIDE,
    max_epochs=40,
    optimiser=replace(_TUMOR_3MM.optimiser, learning_rate=8e-4, warmup_steps=50),
    # the rounds before knew by a kidney's shape where its tumor is, and missed those of unseen kidneys
    sampling=replace(
        _TUMOR_3MM_WIDE.sampling,
        drawn_share=0.15,
        rotation_deg=20.0,
        scale=(0.75, 1.25),
        stretch=(0.88, 1.14),
        warp_mm=(0.0, 6.0),
        warp_cell_mm=(25.0, 70.0),
        tumor_removed_share=0.05,
        tumor_shrunk_share=0.12,
        tumor_replaced_share=0.45,
        tumor_added_radius_mm=(5.0, 36.0),
    ),
    seed=15,
)
_TUMOR_2MM = replace(
    _TUMOR_4MM,
    roi=RoiSpec(),
    crop_vox=(80, 80, 80),
    batch_size=2,
    max_epochs=60,
    optimiser=replace(_TUMOR_4MM.optimiser, learning_rate=6e-4),
)
_TINY = replace(
    _KIDNEY_4MM,
    roi=RoiSpec(shape_vox=(32, 32, 32), spacing_mm=8.0),
    crop_vox=None,
    batch_size=2,
    base_channels=4,
    steps_per_epoch=20,
    validation_steps=4,
    max_epochs=6,
    optimiser=replace(_KIDNEY_4MM.optimiser, learning_rate=3e-3, warmup_steps=10, batch_norm_momentum=0.1),
    # kidneys are a hundredth of the ROI: evenly weighted, so short a run ends at "nothing anywhere"
    loss=LossConfig(cross_entropy=1.0, positive_weight=4.0),
    precision="32-true",
)
PRESETS: Mapping[str, TrainConfig] = MappingProxyType(
    {
        # the paper's recipe, on KiTS19's images
        "paper-kidney": _PAPER_KIDNEY,
        "paper-tumor": replace(_PAPER_KIDNEY, stage="tumor", fresh_head=True),
        # the chain of the shipped weights: coarse to fine, on synthetic CTs
        "kidney-4mm": _KIDNEY_4MM,
        "kidney-4mm-again": _KIDNEY_4MM_AGAIN,
        "kidney-4mm-longer": _KIDNEY_4MM_LONGER,
        "tumor-4mm": _TUMOR_4MM,
        "tumor-4mm-again": _TUMOR_4MM_AGAIN,
        "kidney-3mm": _KIDNEY_3MM,
        "kidney-3mm-again": _KIDNEY_3MM_AGAIN,
        "kidney-3mm-coarse": _KIDNEY_3MM_COARSE,
        "kidney-3mm-tumors": _KIDNEY_3MM_TUMORS,
        "kidney-3mm-urine": _KIDNEY_3MM_URINE,
        "tumor-3mm": _TUMOR_3MM,
        "tumor-3mm-close": _TUMOR_3MM_CLOSE,
        "tumor-3mm-longer": _TUMOR_3MM_LONGER,
        "tumor-3mm-again": _TUMOR_3MM_AGAIN,
        "tumor-3mm-wide": _TUMOR_3MM_WIDE,
        "tumor-3mm-fine": _TUMOR_3MM_FINE,
        "tumor-3mm-finer": _TUMOR_3MM_FINER,
        "tumor-3mm-elsewhere": _TUMOR_3MM_ELSEWHERE,
        "kidney-2mm": _KIDNEY_2MM,
        "tumor-2mm": _TUMOR_2MM,
        # seconds on a laptop: the same code path for tests
        "tiny-kidney": _TINY,
        "tiny-tumor": replace(
            _TINY,
            stage="tumor",
            max_epochs=3,
            loss=_TUMOR_4MM.loss,
            sampling=_TUMOR_4MM.sampling,
            fresh_head=True,
        ),
    }
)

"""The rounds that make the shipped weights, stated once; presets, README and model card follow from here.

"Whole ROI": the sample is all of the network's grid, as in the
paper, since place is what tells a liver from a tumor of its size.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from inference.geometry import RoiSpec
from training.config import (
    CropCentres,
    LossConfig,
    OptimiserConfig,
    SamplingConfig,
    SourceShares,
    TrainConfig,
)
from training.real.augment import ScanSampling
from training.real.lesions import LesionRanges

LEFT_OUT = (
    "case_00002",
    "case_00016",
    "case_00030",
    "case_00041",
    "case_00117",
    "case_00166",
    "case_00185",
    "case_00201",
)
"""Label maps that no CT is synthesised around: the real CTs of these cases are for testing."""


@dataclass(frozen=True)
class Round:
    """One training run of the chain.

    Attributes:
        name: of the preset.
        parent: the round whose network it starts from, each part from the same part of it; None: from
            nothing, or from weights given.
        config: what it computes.
        why: what the round is for, for the documents.
        parts: it is trained so often, each time without another part of the labelled scans, and the mean of
            these networks is kept: every labelled scan is unseen by one of them.
        from_nothing: it starts from random weights, whatever the others start from.
        network: of the cascade, that it is a round of, where that is not the stage.
        with_parent: the mean takes in what the parent's does, too: surer than either round.
    """

    name: str
    parent: str | None
    config: TrainConfig
    why: str
    parts: int = 1
    with_parent: bool = False
    from_nothing: bool = False
    network: str | None = None

    @property
    def file(self) -> str:
        """Name of the weights file that the last round of a network gives."""
        return f"{self.network or self.config.stage}.safetensors"


START = "weights synthetic-9 (in this repository's history, commit 05eef5e), trained on synthetic CTs alone"
"""Where the first round of each stage starts from."""

_GRID = RoiSpec(shape_vox=(112, 112, 112), spacing_mm=3.0)
_KIDNEY_SCANS = TrainConfig(
    roi=_GRID,
    sources=SourceShares(synthetic=0.2, labelled=0.3, painted=0.15, background=0.27, slices=0.08),
    batch_size=1,
    steps_per_epoch=25,
    max_epochs=36,
    validation_interval=1000,  # on two cores it takes a minute: once, at the end
    patience=0,
    optimiser=OptimiserConfig(
        kind="adamw",
        learning_rate=5e-4,
        weight_decay=1e-4,
        warmup_steps=20,
        cosine=True,
        gradient_norm=1.0,
        batch_norm_momentum=0.03,
    ),
    loss=LossConfig(cross_entropy=1.0, tumor_weight=2.0, false_volume=1.0),
    sampling=SamplingConfig(
        scan_length_mm=(200.0, 900.0),
        roi_anywhere_share=0.4,
        coarse_share=0.4,
        tumor_added_radius_mm=(5.0, 36.0),
    ),
    scans=ScanSampling(mirror_share=0.3),
    precision="bf16-mixed",
    channels_last=True,
    seed=11,
)
_KIDNEY_LONGER = replace(
    _KIDNEY_SCANS,
    sources=SourceShares(synthetic=0.2, labelled=0.27, painted=0.15, background=0.3, slices=0.08),
    max_epochs=48,
    optimiser=replace(_KIDNEY_SCANS.optimiser, learning_rate=4e-4),
    sampling=replace(_KIDNEY_SCANS.sampling, coarse_share=0.5),
    scans=ScanSampling(mirror_share=0.3, shortened_share=0.3, thick_share=0.35),
    seed=43,
)
_KIDNEY_MASSES = replace(
    _KIDNEY_LONGER,
    sources=SourceShares(synthetic=0.16, labelled=0.26, painted=0.14, background=0.32, slices=0.12),
    max_epochs=83,
    scans=replace(_KIDNEY_LONGER.scans, rounded_share=1.0, mass_share=0.35),
    seed=73,
)
_COARSE_CROPS = replace(
    _KIDNEY_MASSES,
    sources=SourceShares(synthetic=0.45, background=0.3, slices=0.25),
    crop_vox=(64, 64, 64),
    batch_size=16,
    steps_per_epoch=50,
    max_epochs=45,
    optimiser=replace(
        _KIDNEY_SCANS.optimiser, learning_rate=2e-3, warmup_steps=100, batch_norm_momentum=0.05
    ),
    loss=replace(_KIDNEY_SCANS.loss, false_volume=0.3),
    sampling=replace(
        _KIDNEY_MASSES.sampling,
        tumor_added_radius_mm=(5.0, 45.0),
        centres=CropCentres(kidney=0.35, tumor=0.25, border=0.15, elsewhere=0.25),
    ),
    seed=81,
)
_COARSE_ROI = replace(
    _COARSE_CROPS,
    sources=SourceShares(synthetic=0.4, background=0.38, slices=0.22),
    crop_vox=None,
    batch_size=2,
    max_epochs=76,
    optimiser=replace(_KIDNEY_SCANS.optimiser, learning_rate=1e-3, warmup_steps=50),
    loss=_KIDNEY_SCANS.loss,
    seed=82,
)
_COARSE_SCANS = replace(
    _COARSE_ROI,
    sources=_KIDNEY_MASSES.sources,
    max_epochs=60,
    optimiser=replace(_COARSE_ROI.optimiser, learning_rate=6e-4),
    seed=83,
)
_COARSE = replace(
    _COARSE_SCANS,
    roi=RoiSpec(shape_vox=(80, 64, 64), spacing_mm=6.0),
    sources=SourceShares(synthetic=0.22, labelled=0.24, painted=0.12, background=0.32, slices=0.1),
    max_epochs=39,
    optimiser=replace(_COARSE_ROI.optimiser, learning_rate=1e-3),
    scans=replace(_KIDNEY_MASSES.scans, thick_share=0.0),
    seed=101,
)
_TUMOR_SCANS = replace(
    _KIDNEY_SCANS,
    stage="tumor",
    sources=SourceShares(synthetic=0.25, labelled=0.25, painted=0.2, slices=0.3),
    crop_vox=(64, 64, 64),
    batch_size=4,
    max_epochs=26,
    loss=LossConfig(cross_entropy=1.0, positive_weight=2.0, margin_vox=10, false_volume=1.0),
    sampling=SamplingConfig(
        synthetic_kidneys_share=0.12,
        rotation_deg=20.0,
        scale=(0.75, 1.25),
        stretch=(0.88, 1.14),
        warp_mm=(0.0, 6.0),
        warp_cell_mm=(25.0, 70.0),
        tumor_removed_share=0.1,
        tumor_shrunk_share=0.15,
        tumor_replaced_share=0.35,
        tumor_added_radius_mm=(4.0, 36.0),
        phase_shares=(0.2, 0.38, 0.28, 0.14),
        coarse_share=0.3,
        centres=CropCentres(kidney=0.45, tumor=0.55, border=0.0, elsewhere=0.0),
    ),
    scans=ScanSampling(),
    mirror=True,
    threshold=0.34,
    min_tumor_mm3=400.0,
    seed=13,
)

_TUMOR_LARGE = replace(
    _TUMOR_SCANS,
    sources=SourceShares(synthetic=0.4, labelled=0.2, painted=0.2, slices=0.2),
    crop_vox=(80, 80, 80),
    batch_size=2,
    max_epochs=19,
    optimiser=replace(_TUMOR_SCANS.optimiser, learning_rate=3e-4),
    sampling=replace(_TUMOR_SCANS.sampling, tumor_added_radius_mm=(4.0, 60.0)),
    scans=ScanSampling(lesions=LesionRanges(tumor_radius_mm=(4.0, 65.0))),
    seed=17,
)
_TUMOR_LONGER = replace(
    _TUMOR_LARGE,
    sources=SourceShares(synthetic=0.35, labelled=0.15, painted=0.22, slices=0.28),
    max_epochs=64,
    optimiser=replace(_KIDNEY_SCANS.optimiser, learning_rate=4e-4),
    loss=replace(_TUMOR_SCANS.loss, positive_weight=2.5),
    scans=ScanSampling(lesions=LesionRanges(tumor_radius_mm=(4.0, 65.0), necrosis_share=0.5)),
    seed=61,
)

CHAIN = (
    Round(
        "kidney-scans",
        None,
        _KIDNEY_SCANS,
        "real scans, whole ROI: what is no kidney, and real kidneys as they are and with painted lesions",
        parts=2,
    ),
    Round(
        "kidney-longer",
        "kidney-scans",
        _KIDNEY_LONGER,
        "more of the same; more scans that end early, and more thick slices",
        parts=2,
    ),
    Round(
        "kidney-masses",
        "kidney-longer",
        _KIDNEY_MASSES,
        "masses painted away from the kidneys are background; kidneys in single slices end along z",
        parts=2,
        with_parent=True,
    ),
    Round(
        "tumor-scans",
        None,
        _TUMOR_SCANS,
        "real tumors and slices, lesions painted into real kidneys; crops of 192 mm about the kidneys",
        parts=2,
    ),
    Round(
        "tumor-large",
        "tumor-scans",
        _TUMOR_LARGE,
        "the round before missed half of a tumor of 1.4 l: larger tumors in larger crops (240 mm)",
        parts=2,
    ),
    Round(
        "tumor-longer",
        "tumor-large",
        _TUMOR_LONGER,
        "it was unsure in large tumors with dead parts: more of them; more real tumors, more slices",
        parts=2,
        with_parent=True,
    ),
    Round(
        "coarse-crops",
        None,
        _COARSE_CROPS,
        "from nothing, so that it errs elsewhere than the kidney network: crops of 192 mm",
        from_nothing=True,
        network="coarse",
    ),
    Round("coarse-roi", "coarse-crops", _COARSE_ROI, "the same on the whole ROI", network="coarse"),
    Round(
        "coarse-scans",
        "coarse-roi",
        _COARSE_SCANS,
        "real kidneys, too, as they are and with painted lesions",
        parts=2,
        network="coarse",
    ),
    Round(
        "coarse",
        "coarse-scans",
        _COARSE,
        "half a metre of the body in voxels of 6 mm: what it calls no kidney is none",
        parts=2,
        network="coarse",
    ),
)
"""In the order of training. The last round of each network is shipped."""

_TINY = replace(
    _KIDNEY_SCANS,
    sources=SourceShares(synthetic=1.0),
    roi=RoiSpec(shape_vox=(32, 32, 32), spacing_mm=8.0),
    crop_vox=None,
    batch_size=2,
    base_channels=4,
    steps_per_epoch=20,
    validation_steps=4,
    max_epochs=6,
    optimiser=replace(_KIDNEY_SCANS.optimiser, learning_rate=3e-3, warmup_steps=10, batch_norm_momentum=0.1),
    # kidneys are a hundredth of the ROI: evenly weighted, so short a run ends at "nothing anywhere"
    loss=LossConfig(cross_entropy=1.0, positive_weight=4.0),
    sampling=SamplingConfig(),
    precision="32-true",
)
TINY_CHAIN = (
    Round("tiny-kidney", None, _TINY, "seconds on a laptop: the same code path for tests"),
    Round(
        "tiny-tumor",
        "tiny-kidney",
        replace(
            _TINY,
            stage="tumor",
            max_epochs=3,
            loss=LossConfig(cross_entropy=1.0, positive_weight=3.0),
            sampling=SamplingConfig(centres=CropCentres(kidney=0.4, tumor=0.6, border=0.0, elsewhere=0.0)),
            fresh_head=True,
        ),
        "the same for the tumor",
    ),
)
_PAPER = TrainConfig()

PRESETS: Mapping[str, TrainConfig] = MappingProxyType(
    {
        # the paper's recipe, on KiTS19's images
        "paper-kidney": _PAPER,
        "paper-tumor": replace(_PAPER, stage="tumor", fresh_head=True),
        **{one.name: one.config for one in (*CHAIN, *TINY_CHAIN)},
    }
)

"""What may differ from the paper: a field each, with the reason and what it gave."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """How a CT is segmented. The defaults are ours (`DEFAULT`); `PAPER` is the paper to the letter.

    Grid, intensities and thresholds are no choice here: they belong to the weights (`WeightsMetadata`).

    Attributes:
        roi_follows_kidneys: where a scan is longer than the ROI, the kidney network first looks for kidneys
            along z. The paper crops around the image centre. In long scans kidney DSC 0.594 → 0.931.
        min_coarse_probability: a structure with a lower mean in the coarse network is dropped: stomachs.
        min_mean_probability: so is one with a lower mean in the kidney network, if the coarse one is unsure.
        sure_coarse_probability: from here on it is, and fills in what the kidney network is in doubt of.
        max_air_contact: so is one with a larger share of air around: masses in lungs (kidneys: up to 0.02).
        max_bone_share: so is one with a larger share above 350 HU: heads of femurs (kidneys: up to 0.01).
        min_mean_tumor_probability: a piece of tumor with a lower mean is dropped (`benchmarks/NOTES.md`).
        tumor_margin_vox: the tumor network sees the kidneys and so many voxels around them; None is the whole
            ROI, as in the paper. From 32 on label maps stay the same, in 0.6 to 0.9 of the time.
        mirror: the tumor network sees the CT and its mirror image, if the weights ask for it: 0.553 → 0.566.
        drop_small_tumors: a piece of tumor below the weights' least volume (0.4 ml) is dropped.
        max_cyst_hu: a piece of tumor with a mean below this within its border, but not of fat, is a cyst and
            stays kidney. Of 122 real tumors three are (`benchmarks.tumor_hu`). KiTS19 00002: 0.638 → 0.949.
        grow_by_tumors: a tumor that overlaps a kidney may reach out of it, as far as the weights were taught
            what lies there. The paper cuts it off at the predicted kidney. Tumor DSC 0.561 → 0.581.
        interpolate: restore interpolated probabilities, not labels by nearest neighbour (docs/accuracy.md).
    """

    roi_follows_kidneys: bool = True
    min_mean_probability: float = 0.96
    min_coarse_probability: float = 0.1
    sure_coarse_probability: float = 0.85
    max_air_contact: float = 0.1
    max_bone_share: float = 0.1
    tumor_margin_vox: int | None = 32
    mirror: bool = True
    drop_small_tumors: bool = True
    min_mean_tumor_probability: float = 0.62
    max_cyst_hu: float = 20.0
    grow_by_tumors: bool = True
    interpolate: bool = True


DEFAULT = Method()
PAPER = Method(
    roi_follows_kidneys=False,
    min_mean_probability=0.0,
    min_coarse_probability=0.0,
    sure_coarse_probability=1.0,
    max_air_contact=1.0,
    max_bone_share=1.0,
    tumor_margin_vox=None,
    mirror=False,
    drop_small_tumors=False,
    min_mean_tumor_probability=0.0,
    max_cyst_hu=-1e9,
    grow_by_tumors=False,
    interpolate=False,
)

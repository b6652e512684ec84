"""HU of the tissues: one contrast phase and one strength of enhancement per patient."""

from dataclasses import dataclass

from training.synthesis.fields import Draw
from training.synthesis.ranges import Range


@dataclass(frozen=True)
class PhaseHu:
    """HU of the enhancing tissues in one contrast phase."""

    cortex: Range
    medulla_minus_cortex: Range
    aorta: Range
    vena_cava: Range
    liver: Range
    spleen: Range
    pancreas: Range
    muscle: Range
    bowel_wall: Range
    urine: Range


@dataclass(frozen=True)
class ContrastRanges:
    """A random phase and strength of enhancement, common to the patient, set the HU of every organ."""

    # shares of the four phases; non-contrast is over-represented: only shape and place tell organs apart
    phase_shares: tuple[float, ...] = (0.38, 0.26, 0.24, 0.12)
    # share of an organ's enhancement that follows the patient's; the rest is random for each organ
    coherence: float = 0.7
    # patients in whom every organ has its own random phase: the network must not rely on a common one
    incoherent_share: float = 0.12
    # patients in whom liver or spleen has the kidney's HU: only shape and place tell them apart
    equal_to_kidney_share: float = 0.25
    equal_to_kidney_hu: Range = (-8.0, 8.0)
    fatty_liver_share: float = 0.12
    fatty_liver_hu: Range = (-60.0, -15.0)  # change against a healthy liver
    fat: Range = (-118.0, -85.0)
    phases: tuple[PhaseHu, ...] = (
        PhaseHu(  # without contrast: blood 35-50, parenchyma by its density
            cortex=(14, 42), medulla_minus_cortex=(-3, 3), aorta=(30, 50), vena_cava=(30, 50),
            liver=(44, 70), spleen=(40, 58), pancreas=(25, 50), muscle=(40, 65), bowel_wall=(15, 50),
            urine=(-5, 20),
        ),
        PhaseHu(  # 25-45 s: bright cortex, dark medulla, liver hardly enhanced
            cortex=(115, 230), medulla_minus_cortex=(-120, -40), aorta=(180, 380), vena_cava=(60, 170),
            liver=(58, 105), spleen=(85, 160), pancreas=(70, 130), muscle=(45, 72), bowel_wall=(40, 120),
            urine=(-5, 20),
        ),
        PhaseHu(  # 70-120 s: even kidney, portal liver
            cortex=(120, 220), medulla_minus_cortex=(-40, 10), aorta=(110, 190), vena_cava=(100, 180),
            liver=(85, 140), spleen=(95, 150), pancreas=(70, 120), muscle=(48, 78), bowel_wall=(40, 110),
            urine=(-5, 40),
        ),
        PhaseHu(  # minutes: dense urine, everything else fading
            cortex=(85, 160), medulla_minus_cortex=(-10, 30), aorta=(70, 130), vena_cava=(70, 125),
            liver=(70, 115), spleen=(75, 115), pancreas=(55, 90), muscle=(48, 75), bowel_wall=(30, 80),
            urine=(200, 1200),
        ),
    )  # fmt: skip


RANGES = ContrastRanges()


@dataclass(frozen=True)
class Tissue:
    """HU of one patient's tissues, and the phase (index into `ContrastRanges.phases`)."""

    phase: int
    fat: float
    cortex: float
    medulla: float
    urine: float
    aorta: float
    vena_cava: float
    liver: float
    spleen: float
    pancreas: float
    muscle: float
    bowel_wall: float

    @property
    def kidney(self) -> float:
        """Mean of cortex and medulla."""
        return 0.5 * (self.cortex + self.medulla)


def draw_tissue(seed: int, phase: int | None = None) -> Tissue:
    """Choose the contrast phase (random unless given), and the HU of every organ in it."""
    ranges, draw = RANGES, Draw(seed, "contrast")
    drawn, strength = draw.choice(ranges.phase_shares), draw((0.0, 1.0))
    phase = drawn if phase is None else phase
    incoherent = draw.chance(ranges.incoherent_share)

    def between(span: Range, own: float) -> float:
        share = ranges.coherence * strength + (1 - ranges.coherence) * own
        return span[0] + share * (span[1] - span[0])

    def organ_hu(name: str) -> float:
        own_phase, own = draw.choice(ranges.phase_shares), draw((0.0, 1.0))
        span: Range = getattr(ranges.phases[own_phase if incoherent else phase], name)
        return span[0] + own * (span[1] - span[0]) if incoherent else between(span, own)

    cortex = between(ranges.phases[phase].cortex, draw((0.0, 1.0)))
    medulla = cortex + draw(ranges.phases[phase].medulla_minus_cortex)
    liver, spleen = organ_hu("liver"), organ_hu("spleen")
    if draw.chance(ranges.fatty_liver_share):
        liver += draw(ranges.fatty_liver_hu)
    kidney = 0.5 * (cortex + medulla)
    if draw.chance(ranges.equal_to_kidney_share):
        liver = kidney + draw(ranges.equal_to_kidney_hu)
    if draw.chance(ranges.equal_to_kidney_share):
        spleen = kidney + draw(ranges.equal_to_kidney_hu)
    return Tissue(
        phase=phase,
        fat=draw(ranges.fat),
        cortex=cortex,
        medulla=medulla,
        urine=draw(ranges.phases[phase].urine),
        aorta=organ_hu("aorta"),
        vena_cava=organ_hu("vena_cava"),
        liver=liver,
        spleen=spleen,
        pancreas=organ_hu("pancreas"),
        muscle=organ_hu("muscle"),
        bowel_wall=organ_hu("bowel_wall"),
    )

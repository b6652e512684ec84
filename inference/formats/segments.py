"""A label map as named segments: what formats with names, colours and codes write."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..geometry import KIDNEY, TUMOR

Kind = Literal["kidney", "tumor"]
COLOURS: Mapping[Kind, tuple[int, int, int]] = {"kidney": (80, 220, 120), "tumor": (255, 70, 70)}
"""Red, green, blue; as on previews and pages."""


@dataclass(frozen=True)
class Code:
    """A coded concept (DICOM PS3.16): SNOMED CT where the scheme is SCT."""

    value: str
    meaning: str
    scheme: str = "SCT"


KIDNEY_CODE = Code("64033007", "Kidney")
TYPE_CODES: Mapping[Kind, Code] = {"kidney": KIDNEY_CODE, "tumor": Code("126880001", "Neoplasm of kidney")}
SIDE_CODES: Mapping[str, Code] = {"left": Code("7771000", "Left"), "right": Code("24028007", "Right")}


@dataclass(frozen=True)
class Segment:
    """One kidney without its tumors, or one tumor.

    Attributes:
        name: for people, unique in a label map ("Left kidney", "Tumor 1 (left kidney)").
        kind: what it is.
        side: the patient's; None where the segment holds both kidneys, or nothing.
        measures: of reports: `ml`, `hu_mean`, `hu_sd`, and of a tumor `axial_diameter_mm`,
            `largest_extent_mm`.
    """

    name: str
    kind: Kind
    side: Literal["left", "right"] | None = None
    measures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Segments:
    """A label map taken apart into segments that do not overlap.

    Attributes:
        numbers: uint8 (z, y, x) canonical LPS on the CT's grid: 1 for the first segment …, 0 elsewhere.
        described: the segments in this order. One may have no voxel.
    """

    numbers: NDArray[np.uint8]
    described: tuple[Segment, ...]


def plain_segments(labels: NDArray[np.uint8]) -> Segments:
    """Both labels as they are: segment 1 the kidneys, segment 2 the tumors, of no side."""
    assert (KIDNEY, TUMOR) == (1, 2)
    return Segments(labels, (Segment("Kidney", "kidney"), Segment("Kidney tumor", "tumor")))

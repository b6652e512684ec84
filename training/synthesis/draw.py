"""Label map in, synthetic CT out: on the fly, on the label map's device, reproducible by seed.

The label maps are real, or made by `labels.draw_labels`. Each seed gives another CT around and inside them.
Each organ group has a file of its own with its ranges at the top. Every organ takes its parameters from a
random stream of its own (patient seed + organ name), whether or not it lies in view: a crop shows the same
patient as the whole.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from training.synthesis import kidney
from training.synthesis.body import body, table_and_arms
from training.synthesis.bowel import bowel, colon, stomach
from training.synthesis.canvas import Canvas, Region
from training.synthesis.distances import bounding_box, kidney_clearance
from training.synthesis.liver import liver
from training.synthesis.lungs import lungs
from training.synthesis.muscles import muscles
from training.synthesis.patient import Patient, draw_patient
from training.synthesis.pelvis import pelvis
from training.synthesis.ranges import PHASES, Point
from training.synthesis.scanner import scan
from training.synthesis.skeleton import bones
from training.synthesis.small_organs import small_organs
from training.synthesis.spleen import spleen
from training.synthesis.urinary_tract import urinary_tract
from training.synthesis.vessels import vessels

MIN_COMPONENT_ML = 20.0
"""Smaller components of a label map are not used to place the body."""
KIDNEY_FROM_MIDLINE_MM = 60.0
"""Where one kidney is missing, the midline is this far from the other."""
OFF_CENTRE_MM = 45.0
"""No patient lies farther than this from the middle of the scan."""


@dataclass(frozen=True)
class Landmarks:
    """Where the kidneys and the scan lie, in mm of a patient frame (z up/superior, y posterior, x left).

    All points are (z, y, x). Where there is no kidney, its box is the scan's centre.
    """

    kidney_centres_mm: tuple[Point, ...]  # components of at least 20 ml, largest first, at most 3
    kidney_low_mm: Point
    kidney_high_mm: Point
    scan_low_mm: Point
    scan_high_mm: Point


def find_landmarks(
    labels: Tensor, inside: Tensor, *, spacing_mm: float, origin_mm: Point = (0.0, 0.0, 0.0)
) -> Landmarks:
    """Find the kidneys and the scan in a whole label map.

    Args:
        labels: (D, H, W) in canonical LPS, 0 background, 1 kidney, 2 tumor.
        inside: (D, H, W) bool, voxels inside the scan.
        spacing_mm: side of a voxel.
        origin_mm: position of voxel (0, 0, 0), zyx.

    Returns:
        The landmarks, in the frame of `origin_mm`.
    """
    kidneys = labels > 0
    scan, box = bounding_box(inside), bounding_box(kidneys)
    scan = scan or (slice(0, labels.shape[0]), slice(0, labels.shape[1]), slice(0, labels.shape[2]))
    scan_low, scan_high = np.array([s.start for s in scan]), np.array([s.stop - 1 for s in scan])
    low = high = (scan_low + scan_high) / 2
    centres: list[np.ndarray] = []
    if box is not None:
        low, high = np.array([s.start for s in box]), np.array([s.stop - 1 for s in box])
        mask = kidneys[box].cpu().numpy()
        numbered, _ = ndimage.label(mask)
        sizes = np.bincount(numbered.ravel())[1:]
        enough = MIN_COMPONENT_ML * 1000 / spacing_mm**3
        largest = [int(i) + 1 for i in np.argsort(-sizes, kind="stable")[:3] if sizes[i] >= enough]
        centres = (
            [np.asarray(c) + low for c in ndimage.center_of_mass(mask, numbered, largest)] if largest else []
        )

    def place(index: np.ndarray) -> Point:
        z, y, x = np.asarray(origin_mm) + index * spacing_mm
        return float(z), float(y), float(x)

    return Landmarks(
        kidney_centres_mm=tuple(place(c) for c in centres),
        kidney_low_mm=place(low),
        kidney_high_mm=place(high),
        scan_low_mm=place(scan_low),
        scan_high_mm=place(scan_high),
    )


@torch.no_grad()
def synthesise_ct(
    labels: Tensor,
    inside: Tensor,
    *,
    spacing_mm: float,
    seed: int,
    landmarks: Landmarks | None = None,
    origin_mm: Point = (0.0, 0.0, 0.0),
    phase: str | None = None,
) -> Tensor:
    """Synthesise a CT around a label map.

    The same seed, labels and device give the same HU bit for bit. A crop of a patient, given with its origin
    and the whole patient's landmarks, shows the same anatomy as the whole; only voxel noise differs.

    Args:
        labels: uint8 (D, H, W) in canonical LPS (z to superior, y to posterior, x to the patient's left),
            isotropic; 0 background, 1 kidney (cysts included), 2 tumor.
        inside: bool (D, H, W), voxels inside the scan.
        spacing_mm: side of a voxel.
        seed: of patient and noise.
        landmarks: of the whole patient; found in `labels` where not given.
        origin_mm: position of voxel (0, 0, 0) in the frame of the landmarks, zyx.
        phase: one of `PHASES`; random if not given.

    Returns:
        float32 (D, H, W) HU, -1024 outside the scan.

    Raises:
        ValueError: if labels and scan are not of one three-dimensional shape, or the phase is unknown.
    """
    if labels.ndim != 3 or labels.shape != inside.shape:
        raise ValueError(
            f"labels {tuple(labels.shape)} and inside {tuple(inside.shape)}: give both as one (D, H, W)"
        )
    if phase is not None and phase not in PHASES:
        raise ValueError(f"phase {phase!r}: give one of {', '.join(PHASES)}")
    if landmarks is None:
        landmarks = find_landmarks(labels, inside, spacing_mm=spacing_mm, origin_mm=origin_mm)
    middle = _midpoint(landmarks)

    def relative(point: Point) -> Point:
        return point[0] - middle[0], point[1] - middle[1], point[2] - middle[2]

    patient = draw_patient(
        seed,
        kidney_low=relative(landmarks.kidney_low_mm),
        kidney_high=relative(landmarks.kidney_high_mm),
        centres=tuple(relative(c) for c in landmarks.kidney_centres_mm),
        phase=None if phase is None else PHASES.index(phase),
    )
    axes = [
        torch.arange(n, dtype=torch.float32, device=labels.device) * spacing_mm + start
        for n, start in zip(labels.shape, relative(origin_mm), strict=True)
    ]
    is_kidney = labels > 0
    canvas = Canvas(
        axes,
        kidney_clearance(is_kidney, spacing_mm=spacing_mm, origin_mm=origin_mm),
        patient,
        spacing_mm=spacing_mm,
    )
    draw_surroundings(canvas, patient)
    box = bounding_box(is_kidney, margin_vox=int(np.ceil(kidney.RANGES.sinus_close_mm / spacing_mm)))
    if box is not None:
        kidney.kidneys(Region(canvas, box), labels[box], patient)
    return scan(
        canvas, inside, patient, relative(landmarks.kidney_low_mm), relative(landmarks.kidney_high_mm)
    )


def _midpoint(landmarks: Landmarks) -> Point:
    """The point midway between the kidneys, an estimate of the spine's axis."""
    low, high = landmarks.kidney_low_mm, landmarks.kidney_high_mm
    scan_x = (landmarks.scan_low_mm[2] + landmarks.scan_high_mm[2]) / 2
    centres = sorted(landmarks.kidney_centres_mm[:2], key=lambda c: c[2])
    if not centres:
        z, y, x = ((a + b) / 2 for a, b in zip(low, high, strict=True))
    elif len(centres) == 2:
        z, y, x = ((a + b) / 2 for a, b in zip(*centres, strict=True))
    else:
        z, y, x = centres[0]
        if high[2] - low[2] > 2 * KIDNEY_FROM_MIDLINE_MM:  # both kidneys in one piece
            x = (low[2] + high[2]) / 2
        else:
            x += KIDNEY_FROM_MIDLINE_MM if x < scan_x else -KIDNEY_FROM_MIDLINE_MM
    return z, y, float(np.clip(x, scan_x - OFF_CENTRE_MM, scan_x + OFF_CENTRE_MM))


def draw_surroundings(canvas: Canvas, patient: Patient) -> None:
    """Paint everything but the kidneys; later organs cover earlier ones."""
    for organ in (
        body, table_and_arms, lungs, bowel, small_organs, colon, liver, spleen, stomach,
        muscles, vessels, urinary_tract, pelvis, bones,
    ):  # fmt: skip
        organ(canvas, patient)

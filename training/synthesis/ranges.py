"""Types of the ranges that synthetic CTs are sampled from. Each organ group's file has its ranges at its top.

Units stand in the names (mm, HU, vox) or are shares (probabilities); ranges without one are in mm.
Ranges are wider than in reality, so that a network learns what kidneys and tumors have in common, and not
the look of one scanner. Positions are (z, y, x) in mm relative to the point midway between the kidneys.
"""

Range = tuple[float, float]
"""Lower and upper end of a uniform distribution."""
Ranges3 = tuple[Range, Range, Range]
"""One range for each of z, y, x."""
Point = tuple[float, float, float]
"""(z, y, x) in mm."""
PHASES = ("non_contrast", "corticomedullary", "nephrographic", "excretory")
"""Contrast phases, in the order of `contrast.ContrastRanges.phases`."""

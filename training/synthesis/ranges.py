"""What all ranges of the synthetic CTs are made of. Each organ group's file has its own ranges at its top.

Units stand in the names (mm, HU, vox) or are shares (probabilities); ranges without one are in mm.
They are wider than life: a network trained on them learns what kidneys and tumors have in common, and not
what one scanner shows. Positions are (z, y, x) in mm relative to the point midway between the kidneys.
"""

Range = tuple[float, float]
"""Lower and upper end of a uniform distribution."""
Ranges3 = tuple[Range, Range, Range]
"""One range for each of z, y, x."""
Point = tuple[float, float, float]
"""(z, y, x) in mm."""
PHASES = ("non_contrast", "corticomedullary", "nephrographic", "excretory")
"""Contrast phases, in the order of `contrast.ContrastRanges.phases`."""
